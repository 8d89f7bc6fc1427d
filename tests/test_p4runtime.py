"""Tables in P4Runtime's formats: the same tables come back, and Google's protobuf classes read them."""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import ANY_PROGRAMS, actions, cells
from test_cli import kdtool

from kdtool.errors import ProgramError
from kdtool.rmt import (
    Action,
    Entry,
    MatchField,
    Table,
    Tree,
    migrate_program,
    program_to_tables,
    read_program,
    stride_program,
    write_program,
)
from kdtool.rmt.p4runtime import counters_from_p4, p4info, tables_from_p4, updates
from kdtool.rmt.program import MATCH_TYPES, VALUE_MAX, VALUE_MIN

protobuf = pytest.mark.skipif(importlib.util.find_spec("p4") is None, reason="p4runtime is not installed")

# The published classes are older than today's protobuf takes, but for its Python implementation.
READER = """
import json, sys
from google.protobuf import json_format
from p4.config.v1 import p4info_pb2
from p4.v1 import p4runtime_pb2
info, write = json.load(sys.stdin)
read = json_format.ParseDict(info, p4info_pb2.P4Info())
request = json_format.ParseDict(write, p4runtime_pb2.WriteRequest())
print(json.dumps([json_format.MessageToDict(read), json_format.MessageToDict(request)]))
"""
TABLES = program_to_tables(stride_program())


def with_tables(*tables):
    return replace(TABLES, tables=tables)


def alike(table):
    """Return the table as it comes back: a range of everything has one form."""
    whole = VALUE_MIN, VALUE_MAX

    def cell(field, pair):
        everything = field.match_type == "RANGE" and pair[0] <= VALUE_MIN and pair[1] == VALUE_MAX
        return whole if everything else pair

    return replace(
        table,
        entries=tuple(
            replace(entry, match=tuple(map(cell, table.match_fields, entry.match))) for entry in table.entries
        ),
    )


@st.composite
def tables(draw, name):
    kinds = draw(st.lists(st.sampled_from(MATCH_TYPES), max_size=3))
    fields = tuple(MatchField(f"d{at}", kind) for at, kind in enumerate(kinds, 1))
    entry = st.builds(Entry, st.tuples(*map(cells, kinds)), st.integers(1, 3), actions(["d1", "s2"], ()))
    return Table(name, fields, tuple(draw(st.lists(entry, max_size=5))), draw(actions(["d1"], ())))


@settings(max_examples=300, deadline=None)
@given(first=tables("first"), second=tables("second"))
def test_the_same_tables_come_back(first, second):
    program = with_tables(first, second)
    info, write = (json.loads(json.dumps(made)) for made in (p4info(program), updates(program)))
    assert tables_from_p4(info, write) == (alike(first), alike(second))


@settings(max_examples=60, deadline=None)
@given(program=ANY_PROGRAMS)
def test_every_program_of_tables_comes_back(program):
    assume(all(isinstance(model, Tree) for model in program.models))
    tables = program_to_tables(
        replace(
            program,
            tables=tuple(
                replace(table, entries=tuple(e for e in table.entries if e.action.name != "infer"))
                for table in program.tables
            ),
        )
    )
    info, write = (json.loads(json.dumps(made)) for made in (p4info(tables), updates(tables)))
    assert tables_from_p4(info, write) == tuple(map(alike, tables.tables))
    assert counters_from_p4(info) == tables.counters


def test_numbers_by_hand():
    fields = (MatchField("d1", "RANGE"), MatchField("s2", "TERNARY"), MatchField("d2", "LPM"))
    entry = Entry(((-1, 255), (-(2**31), -(2**31)), (256, 24)), 7, Action("predict", delta=-3))
    table = Table("t", fields, (entry,), Action("stop"))
    info, write = p4info(with_tables(table)), updates(with_tables(table))

    (said,) = info["tables"]
    assert [field["matchType"] for field in said["matchFields"]] == ["RANGE", "TERNARY", "TERNARY"]
    insert, default = (update["entity"]["tableEntry"] for update in write["updates"])
    ranged, signed, prefix = insert["match"]
    assert ranged["range"] == {"low": "f////w==", "high": "gAAA/w=="}  # 7f ff ff ff, 80 00 00 ff
    assert signed["ternary"] == {"value": "AA==", "mask": "gAAAAA=="}  # the sign bit is set: 0 with 2**31 on
    assert prefix["ternary"] == {"value": "gAABAA==", "mask": "////AA=="}
    assert (insert["priority"], default["isDefaultAction"]) == (7, True)
    assert insert["action"]["action"]["params"] == [{"paramId": 1, "value": "f////Q=="}]


def test_counters_and_classes_by_hand():
    info, write = p4info(migrate_program()), updates(migrate_program())

    preamble = {"id": 0x12000001, "name": "hot", "alias": "hot"}
    assert info["counters"] == [{"preamble": preamble, "spec": {"unit": "PACKETS"}, "size": "1"}]
    names = [action["preamble"]["name"] for action in info["actions"]]
    assert names == ["classify_migrate", "count_hot", "no_action"]
    assert tables_from_p4(info, write) == migrate_program().tables
    with pytest.raises(ProgramError, match="not counters that kdtool wrote"):
        counters_from_p4({"counters": [7]})


def test_a_table_of_exact_keys_has_no_priorities_and_one_with_two_of_a_key_has():
    exact = (MatchField("d1", "EXACT"),)
    plain = Table("t", exact, tuple(Entry(((n, n),), 4, Action("stop")) for n in (1, 2)), Action("no_action"))
    twice = replace(plain, entries=(plain.entries[0], replace(plain.entries[0], priority=5)))
    for table, kind in ((plain, "EXACT"), (twice, "RANGE")):
        program = with_tables(table)
        assert p4info(program)["tables"][0]["matchFields"][0]["matchType"] == kind
        inserts = [u["entity"]["tableEntry"] for u in updates(program)["updates"] if u["type"] == "INSERT"]
        assert all(("priority" in insert) == (kind == "RANGE") for insert in inserts)
        assert tables_from_p4(p4info(program), updates(program)) == (table,)


@protobuf
def test_the_published_classes_read_what_is_written():
    table = Table(
        "lpm",
        (MatchField("d1", "LPM"), MatchField("d2", "RANGE")),
        (Entry(((256, 24), (VALUE_MIN, VALUE_MAX)), 2, Action("follow", feature="d1")),),
        Action("count", counter="others"),
    )
    program = replace(with_tables(*TABLES.tables, table), counters=("others", "none"))
    written = [p4info(program), updates(program)]
    environment = os.environ | {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"}
    done = subprocess.run(
        [sys.executable, "-c", READER],
        input=json.dumps(written),
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    info, write = json.loads(done.stdout)
    assert tables_from_p4(info, write) == program.tables
    assert counters_from_p4(info) == program.counters
    assert [info, write] == written


def test_a_model_is_refused_with_what_to_do():
    with pytest.raises(ProgramError, match=r"infers with 'next_delta'.*build --target tables first"):
        p4info(stride_program())


@pytest.mark.parametrize(
    "change",
    [
        lambda info, write: info.clear(),
        lambda info, write: write["updates"].append({"entity": {"tableEntry": {"tableId": 5}}}),
        lambda info, write: write["updates"].clear(),
        lambda info, write: write["updates"][0]["entity"]["tableEntry"]["action"]["action"].update(
            actionId=9
        ),
        lambda info, write: info["tables"].append(7),
    ],
)
def test_what_it_did_not_write_is_one_line(change):
    info, write = json.loads(json.dumps([p4info(TABLES), updates(TABLES)]))
    change(info, write)
    with pytest.raises(ProgramError, match="not tables that kdtool wrote"):
        tables_from_p4(info, write)


def test_build_writes_all_files(tmp_path):
    write_program(stride_program(), tmp_path / "p.rmt.json")

    done = kdtool("build", tmp_path / "p.rmt.json", "--target", "p4runtime", "-o", tmp_path / "out")

    files = [line.rsplit("/", 1)[-1] for line in done.stdout.split()]
    assert files == [f"stride-3-tables.{kind}" for kind in ("rmt.json", "txt", "p4info.json", "entries.json")]
    made = read_program(tmp_path / "out" / "stride-3-tables.rmt.json")
    info, write = (
        json.loads((tmp_path / "out" / f"stride-3-tables.{kind}.json").read_text())
        for kind in ("p4info", "entries")
    )
    assert tables_from_p4(info, write) == made.tables
