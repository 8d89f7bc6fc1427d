"""The corpus of bad programs: each is refused or refuted by words that name its fault; no byte crashes it."""

import copy
import json
import re
from pathlib import Path

import numpy as np
import pytest
from builders import rehash

from kdtool.errors import ProgramError
from kdtool.rmt import from_document, read_program, stride_program, to_document
from kdtool.verify.program import verify_program

CORPUS = Path(__file__).parent / "golden" / "bad-programs.txt"
STEP = re.compile(r"\w+|\[\d+\]")
FLOAT = re.compile(r"NaN|Infinity|\d+(\.\d+|e\d+)")
GOOD = to_document(stride_program())


def cases():
    """Yield (section, change, words) of each line."""
    section = ""
    for line in CORPUS.read_text().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            change, _, words = line.rpartition(" | ")
            yield section, change, words


def owner_of(document, path):
    """Return the container at the end of a path, and its last step."""
    steps = [int(step[1:-1]) if step[0] == "[" else step for step in STEP.findall(path)]
    for step in steps[:-1]:
        document = document[step]
    return document, steps[-1]


def changed(change):
    """Return the text of the good program with a change, and the hash that goes with it."""
    document = copy.deepcopy(GOOD)
    raw = "null"
    if change.startswith("- "):
        owner, last = owner_of(document, change[2:])
        del owner[last]
    elif times := re.fullmatch(r"(\S+) \* (\d+)", change):
        owner, last = owner_of(document, times[1])
        owner[last] = owner[last] * int(times[2])
    else:
        path, how, raw = re.fullmatch(r"(\S+) (\+?=) (.*)", change).groups()
        owner, last = owner_of(document, path)
        if how == "+=":
            owner[last].append("HERE")
        else:
            owner[last] = "HERE"
    if FLOAT.fullmatch(raw):  # refused before there is a hash to compare
        return hashed(document).replace('"HERE"', raw)
    return hashed(json.loads(json.dumps(document).replace('"HERE"', raw)))


def hashed(document):
    return json.dumps(rehash(document))


def test_the_corpus_is_large():
    assert len(list(cases())) > 120
    assert len({change for _, change, _ in cases()}) == len(list(cases()))


@pytest.mark.parametrize(("section", "change", "words"), list(cases()))
def test_a_bad_program_is_named(section, change, words, tmp_path):
    file = tmp_path / "p.rmt.json"
    file.write_text(changed(change))
    if section == "refused":
        with pytest.raises(ProgramError) as caught:
            read_program(file)
        said = str(caught.value)
    else:
        report = verify_program(read_program(file))
        assert report.verdict == "refuted"
        said = next(f"{f.check}: {f.message}" for f in report.findings if f.verdict == "refuted")
    assert words in said
    assert "\n" not in said


def test_the_unchanged_program_is_neither(tmp_path):
    file = tmp_path / "p.rmt.json"
    file.write_text(hashed(GOOD))
    assert verify_program(read_program(file)).verdict == "proved"


def test_a_byte_that_changes_crashes_nothing():
    """With a hash that fits, so that the reader sees all of it: refused, or verify has a word for it."""
    good = json.dumps({key: value for key, value in GOOD.items() if key != "sha256"}).encode()
    random = np.random.default_rng(1)
    refused, verdicts = 0, set()
    for _ in range(1500):
        text = bytearray(good)
        text[random.integers(len(text))] = random.integers(32, 127)
        try:
            document = json.loads(bytes(text))
        except ValueError:
            refused += 1
            continue
        try:
            program = from_document(json.loads(hashed(document)))
        except ProgramError:
            refused += 1
            continue
        verdicts.add(verify_program(program).verdict)
    assert refused > 500
    assert verdicts <= {"proved", "refuted", "unknown"} and "proved" in verdicts
