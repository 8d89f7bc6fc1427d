"""Learners find what is there, from the training part alone, and give the same program twice."""

import os
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from builders import ssd, strided_trace, workload, write_refs

from kdtool.errors import KdtoolError, ProgramError, TraceError
from kdtool.features import FEATURE_SETS
from kdtool.learners import LEARNERS, Candidate, find_learner, train, training_part
from kdtool.learners.degree import DEGREES_PAGES
from kdtool.learners.parts import part_dataset
from kdtool.learners.session import TrainingRequest, train_traces
from kdtool.learners.training import best_candidate
from kdtool.replay import Flush, LiveSetting, ProgramPolicy, load_policy, replay, run_shadow
from kdtool.rmt import LIMITS, check_program_target, from_document, read_program, to_document
from kdtool.rmt.agentrules import FRESH_NS
from kdtool.traces import VmaFlag
from kdtool.verify import verify_program


def rows_program(n_rows=1200, row_pages=Fraction(2441, 250), passes=4):
    """Pages of a matrix whose rows are 9.764 pages long, read down its columns."""
    fill = np.arange(int(n_rows * row_pages) + 1)
    columns = [[int(row * row_pages) + 2 * c for row in range(n_rows)] for c in range(passes)]
    return np.concatenate([fill, *columns])


LEAST_ACCURACY = {"mlp": 0.8, "conv1d": 0.8}
"""Reclaim within a window frees clean pages, such as those read ahead, while its writes wait in the plug."""


@pytest.fixture(scope="module")
def part():
    w = workload(rows_program(), step_insns=100_000)
    return w, training_part(w, "40%", ssd(), Fraction(1, 2), 16)


@pytest.mark.parametrize("learner", LEARNERS, ids=lambda learner: learner.name)
def test_a_learner_beats_the_kernel_and_leap_where_strides_are_fractions(learner, part):
    if learner.name == "boosted":
        pytest.importorskip("lightgbm", reason="pip install 'kdtool[boosted]'")
    w, training = part
    program, best = train([training], learner, ssd(), degree_pages=16, seed=0)
    shadow = run_shadow(w, training.shadow.memory_pages, ssd())
    start = training.workload.n_refs

    def score(policy):
        return replay(w, policy, shadow, ssd(), from_row=start)

    learned = score(ProgramPolicy(program))
    for name in ("none", "linux-vma", "linux-cluster", "leap-paper"):
        assert learned.runtime_ns < score(load_policy(name)).runtime_ns, name
    assert learned.coverage > 0.9
    assert learned.accuracy > LEAST_ACCURACY.get(learner.name, 0.9)
    assert best.runtime_ns > 0
    assert verify_program(program).verdict == "proved"
    if learner.name != "tree":
        samples, differ = (program.provenance[f"lowered_{what}"] for what in ("samples", "differently"))
        assert differ <= samples / 1000
    assert from_document(to_document(program)) == program


def test_the_same_seed_gives_the_same_program(part):
    _, training = part
    learner = find_learner("tree")
    first, _ = train([training], learner, ssd(), degree_pages=8, seed=3)
    second, _ = train([training], learner, ssd(), degree_pages=8, seed=3)
    assert to_document(first) == to_document(second)


@pytest.mark.parametrize(
    ("candidates", "chosen"),
    [
        ([(1000, 90), (1050, 20), (1051, 10)], (1050, 20)),  # 5 % of the 1000 that the first saves
        ([(1000, 90), (1005, 20), (1003, 20)], (1003, 20)),
        ([(2100, 50), (2050, 90)], (2050, 90)),  # nothing saves anything
    ],
)
def test_the_smallest_of_those_that_save_as_much_is_taken(candidates, chosen):
    best = best_candidate([Candidate(FEATURE_SETS[0], {}, *each) for each in candidates], none_ns=2000)
    assert (best.runtime_ns, best.size) == chosen


def test_for_an_agent_candidates_are_judged_with_what_is_around_it():
    w = workload(rows_program(), step_insns=100_000)
    device, tree, tried = ssd().by_agent(300_000), find_learner("tree"), []
    training = training_part(w, "40%", device, Fraction(1, 2), 16)
    train(
        [training],
        tree,
        device,
        degree_pages=16,
        seed=0,
        progress=lambda candidate, _: tried.append(candidate),
    )
    first = tried[0]
    samples = part_dataset([training], first.features, whole=False)
    program = tree.fit(samples, first.features, first.setting, degree_pages=16, seed=0)

    def judged(live, **changes):
        shadows = [replace(shadow, **changes) for shadow in training.judged]
        runs = [
            replay(
                training.workload, ProgramPolicy(program), s, device, from_row=training.choose_row, live=live
            )
            for s in shadows
        ]
        return sum(run.runtime_ns for run in runs)

    around = LiveSetting(load_policy("linux-vma"))
    assert first.runtime_ns == judged(around, flush=Flush(FRESH_NS, 0))
    assert first.runtime_ns != judged(LiveSetting())


def test_threads_that_are_the_process_are_not_tried_again(part):
    w, training = part
    tried = []
    train(
        [training], find_learner("tree"), ssd(), degree_pages=8, seed=0,
        progress=lambda candidate, total: tried.append((candidate.features.name, total)),
    )  # fmt: skip
    assert w.pids.tolist() == [1]
    names = [name for name, _ in tried]
    assert "process" in names
    assert "thread" not in names
    assert {total for _, total in tried} == {len(tried)}


def test_the_training_part_ends_with_its_last_swap_in(part):
    w, training = part
    missed = run_shadow(w, training.shadow.memory_pages, ssd()).missed
    stop = training.workload.n_refs
    assert missed[:stop].sum() == missed.sum() // 2
    assert missed[stop - 1] == 1
    assert training.shadow.missed.tolist() == missed[:stop].tolist()
    assert len(training.workload.page) == len(training.workload.insns) == stop


def test_a_stride_that_training_never_showed_is_followed(part):
    _, training = part
    program, _ = train([training], find_learner("tree"), ssd(), degree_pages=8, seed=0)
    w = workload([*range(6000), *[p for s in range(17) for p in range(s, 6000, 17)]], step_insns=100_000)
    result = replay(w, ProgramPolicy(program), run_shadow(w, 3000, ssd()), ssd())
    assert result.coverage > 0.9


def test_train_traces_writes_program_and_dataset(tmp_path):
    trace = strided_trace(tmp_path / "t.kdt")
    request = TrainingRequest(dataset=tmp_path / "d.parquet")
    lines = []
    summary = train_traces(
        [trace.path, trace.path],
        tmp_path / "p.rmt.json",
        request,
        lambda candidate, total: lines.append(candidate),
    )
    assert read_program(tmp_path / "p.rmt.json").provenance["traces"] == [trace.sha256] * 2
    assert summary["samples"] > 0
    assert (tmp_path / "d.parquet").exists()
    assert lines


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hook": "mm.swapi"}, "did you mean 'mm.swapin'"),
        ({"learner": "three"}, "did you mean 'tree'"),
        ({"memory": "0%"}, "less than one page"),
        ({"memory": "200%"}, "at most 100%"),
        ({"part": "0%"}, "between 0 and 100"),
        ({"part": "half"}, "percentage"),
        ({"part": f"{'9' * 5000}%"}, f"--train {'9' * 80}: give a percentage"),
        ({"part": f"{'9' * 40}%"}, "between 0 and 100"),
        ({"device": "sdd"}, "did you mean 'ssd'"),
        ({"seed": -1}, "--seed -1, allowed: 0 to 2147483647"),
        ({"seed": 2**31}, "--seed 2147483648, allowed"),
        ({"dataset": Path("d.csv")}, "its name must end in .parquet: give d.parquet"),
        ({"dataset": Path("/no/d.parquet")}, "there is no folder /no"),
    ],
)
def test_bad_requests_are_named_and_write_nothing(tmp_path, change, message):
    trace = strided_trace(tmp_path / "t.kdt", n_pages=400)
    with pytest.raises(KdtoolError, match=message):
        train_traces([trace.path], tmp_path / "p.rmt.json", TrainingRequest(**change), lambda *_: None)
    assert not (tmp_path / "p.rmt.json").exists()


@pytest.mark.parametrize(
    ("name", "saying"),
    [
        ("folder.rmt.json", "cannot be written: give another name or folder by -o"),
        ("pipe.rmt.json", "cannot be written: give another name or folder by -o"),
        ("file/p.rmt.json", "cannot be written: give another name or folder by -o"),
        ("file/missing/p.rmt.json", "cannot be written: give another name or folder by -o"),
        (f"missing/{'p' * 240}.rmt.json", "cannot be written: File name too long: give another by -o"),
        ("p.json", "p.json: a program's name ends in .rmt.json: give -o p.rmt.json"),
    ],
)
def test_a_program_that_could_not_be_written_is_not_learned(tmp_path, name, saying, monkeypatch):
    monkeypatch.setattr("kdtool.learners.session.load_workload", None)
    (tmp_path / "folder.rmt.json").mkdir()
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "pipe.rmt.json")
    before = sorted(tmp_path.iterdir())

    with pytest.raises(ProgramError, match=re.escape(saying)):
        train_traces([tmp_path / "t.kdt"], tmp_path / name, TrainingRequest(), lambda *_: None)

    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_that_is_not_there_yet_is_no_fault_and_none_is_made_by_the_check(tmp_path):
    check_program_target(tmp_path / "new" / "newer" / "p.rmt.json")
    assert not list(tmp_path.iterdir())


def test_a_program_that_is_too_large_to_write_leaves_no_dataset(tmp_path, monkeypatch):
    trace = strided_trace(tmp_path / "t.kdt", n_pages=600)
    monkeypatch.setattr("kdtool.rmt.codec.LIMITS", replace(LIMITS, file_bytes=10))
    request = TrainingRequest(dataset=tmp_path / "d.parquet")
    with pytest.raises(ProgramError, match="at most 10 can be read again"):
        train_traces([trace.path], tmp_path / "p.rmt.json", request, lambda *_: None)
    assert [path.name for path in tmp_path.iterdir()] == ["t.kdt"]


def test_a_trace_that_never_swaps_teaches_nothing(tmp_path):
    trace = write_refs(tmp_path / "t.kdt", range(500))
    with pytest.raises(TraceError, match="64 are needed"):
        train_traces([trace.path], tmp_path / "p.rmt.json", TrainingRequest(), lambda *_: None)


def test_memories_to_learn_at_have_room_for_what_files_read_ahead():
    heap, start = 0x100000, 0x1000
    maps = {
        "row": np.array([0], np.int64), "pid": np.array([1], np.int32),
        "start_vpn": np.array([start], np.uint64), "end_vpn": np.array([start + 50], np.uint64),
        "flags": np.array([VmaFlag.READ | VmaFlag.FILE], np.uint8), "name_id": np.array([5], np.uint32),
        "offset_pages": np.array([0], np.int64),
    }  # fmt: skip
    w = workload([start, *[heap + page for page in [*range(100)] * 6]], maps=maps)
    training = training_part(w, "160K", ssd(), Fraction(1, 2), 8)
    # Of 30, 50, 20 and 60 pages, a window of 32 and two more fit in 50 and 60.
    assert [shadow.memory_pages for shadow in training.shadows] == [40, 50, 60]


def test_a_set_of_streams_without_a_sample_is_not_tried():
    # Each page lies in a region of its own, so that no region ever has a second swap-in.
    w = workload([page << 13 for page in [*range(400)] * 2], step_insns=100_000)
    training = training_part(w, "50%", ssd(), Fraction(1, 2), 16)
    tried = []

    train(
        [training], find_learner("tree"), ssd(), seed=0,
        progress=lambda candidate, _: tried.append(candidate.features.name),
    )  # fmt: skip

    region = next(features for features in FEATURE_SETS if features.name == "region")
    assert len(part_dataset([training], region, whole=True).y) == 0
    assert set(tried) == {"process"}


def test_processes_of_one_swap_in_each_teach_nothing():
    pages = [*range(400)] * 2
    w = workload(pages, pids=[1 + page for page in pages])
    training = training_part(w, "50%", ssd(), Fraction(1, 2), 16)
    with pytest.raises(TraceError, match=r"^test: no swap-in to learn from .*: train on a longer trace"):
        train([training], find_learner("tree"), ssd(), seed=0)


def test_for_an_agent_the_degree_is_the_smallest_that_is_as_fast_as_any_however_late_it_is():
    w = workload(rows_program(), step_insns=100_000)
    device, tree = ssd().by_agent(300_000), find_learner("tree")
    training = training_part(w, "40%", device, Fraction(1, 2), 32)

    steps = []

    program, best = train([training], tree, device, seed=0, progress=lambda _, total: steps.append(total))

    assert set(steps) == {len(steps)}
    found = dict(map(int, text.split(": ")) for text in program.provenance["degree_ms"])
    assert tuple(found) == DEGREES_PAGES
    assert found[8] > found[64]  # 8 pages are over before an agent that is late has the next ones
    degree = program.guards.degree_pages
    assert found[degree] <= 1.041 * min(found.values())
    assert all(ms > 1.039 * min(found.values()) for pages, ms in found.items() if pages < degree)

    samples = part_dataset([training], best.features, whole=False)
    at_that = tree.fit(samples, best.features, best.setting, degree_pages=degree, seed=0)
    beside, by_hand_ns = LiveSetting(load_policy("linux-vma")), 0
    for later, phase_sixths in ((1, 1), (2, 3), (4, 5)):
        flush = Flush(FRESH_NS, FRESH_NS * phase_sixths // 6)
        for shadow in training.judged:
            run = replay(
                training.workload,
                ProgramPolicy(at_that),
                replace(shadow, flush=flush),
                device.by_agent(300_000 * later),
                live=beside,
            )
            by_hand_ns += run.runtime_ns
    assert found[degree] == by_hand_ns // 1_000_000


def test_a_degree_that_was_asked_for_is_kept(part):
    _, training = part
    agent = ssd().by_agent(300_000)
    for device, asked, is_now in ((agent, 24, 24), (ssd(), 24, 24), (ssd(), None, 16)):
        program, _ = train([training], find_learner("tree"), device, degree_pages=asked, seed=0)
        assert program.guards.degree_pages == is_now
        assert "degree_ms" not in program.provenance
