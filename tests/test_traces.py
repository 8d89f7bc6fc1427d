"""Traces: what is written is read back; what is altered, cut, newer or unbalanced is refused."""

import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import refs_columns, write_refs
from hypothesis import given, settings
from hypothesis import strategies as st

from kdtool.errors import TraceError
from kdtool.replay.columns import OneByOne
from kdtool.traces import Manifest, Trace, TraceWriter
from kdtool.traces.document import parse_document
from kdtool.traces.importers import import_trace
from kdtool.traces.info import describe
from kdtool.traces.manifest import canonical_json
from kdtool.traces.schema import TABLES
from kdtool.traces.spool import sha256_of


@pytest.fixture
def trace(tmp_path):
    return write_refs(tmp_path / "t.kdt", [*range(500), *range(500)])


def reseal(path, change):
    """Change the manifest and give it a hash that fits, as a careful forger would."""
    import hashlib

    document = json.loads((path / "manifest.json").read_bytes())
    document.pop("sha256")
    change(document)
    document["sha256"] = hashlib.sha256(canonical_json(document)).hexdigest()
    (path / "manifest.json").write_bytes(canonical_json(document))


@settings(max_examples=50, deadline=None)
@given(
    vpns=st.lists(st.integers(0, 2**52 - 1), min_size=1, max_size=50),
    data=st.data(),
)
def test_columns_come_back_as_they_went_in(tmp_path_factory, vpns, data):
    kinds = data.draw(st.lists(st.integers(0, 3), min_size=len(vpns), max_size=len(vpns)))
    columns = refs_columns(vpns, kinds=kinds)
    made = write_refs(tmp_path_factory.mktemp("t") / "t.kdt", vpns, kinds=kinds)
    for name, values in made.columns("refs").items():
        assert np.array_equal(values, columns[name]), name


def test_every_altered_byte_is_found(trace):
    files = sorted(path for path in trace.path.rglob("*") if path.is_file())
    assert len(files) == 2
    for file in files:
        whole = file.read_bytes()
        for at in np.linspace(0, len(whole) - 1, 120).astype(int):
            changed = bytearray(whole)
            changed[at] ^= 1
            file.write_bytes(changed)
            with pytest.raises(TraceError):
                Trace(trace.path)
        file.write_bytes(whole)
    assert Trace(trace.path).rows("refs") == 1000


def test_a_truncated_or_missing_file_is_found(trace):
    for file in [path for path in trace.path.rglob("*") if path.is_file()]:
        whole = file.read_bytes()
        for n_bytes in (0, 1, len(whole) // 2, len(whole) - 1):
            file.write_bytes(whole[:n_bytes])
            with pytest.raises(TraceError):
                Trace(trace.path)
        file.unlink()
        with pytest.raises(TraceError):
            Trace(trace.path)
        file.write_bytes(whole)


def test_a_trace_of_another_major_version_is_refused(trace):
    reseal(trace.path, lambda document: document.update(schema_version="2.0"))
    with pytest.raises(TraceError, match=r"schema version 2\.0.*reads 1\.x"):
        Trace(trace.path)


def test_a_trace_of_a_later_minor_version_is_read(trace):
    reseal(trace.path, lambda document: document.update(schema_version="1.7"))
    assert Trace(trace.path).rows("refs") == 1000


@pytest.mark.parametrize(("key", "value"), [("counted", 1001), ("rows", 999), ("lost", 1)])
def test_counts_that_do_not_balance_are_refused(trace, key, value):
    reseal(trace.path, lambda document: document["tables"]["refs"].update({key: value}))
    with pytest.raises(TraceError, match="balance"):
        Trace(trace.path)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("tables"),
        lambda d: d.update(tables=3),
        lambda d: d.update(state="nearly"),
        lambda d: d["tables"].update(strange=d["tables"]["refs"]),
        lambda d: d["tables"]["refs"].pop("segments"),
        lambda d: d["tables"]["refs"].update(segments=[{"file": "x"}]),
        lambda d: d.update(extra=1),
        lambda d: d.pop("reduction"),
        lambda d: d.update(reduction={"window": 3}),
        lambda d: d.update(reduction={"method": "sad", "k": None}),
        lambda d: d.update(reduction={"method": "sad", "k": -1}),
        lambda d: d["tables"]["refs"]["segments"][0].update(file=7),
        lambda d: d["tables"]["refs"]["segments"][0].update(file="\ud800"),
    ],
)
def test_a_malformed_manifest_is_a_trace_error(trace, change):
    reseal(trace.path, change)
    with pytest.raises(TraceError):
        Trace(trace.path)


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{", b"\xff\xfe", b"3", b"{}", b"[" * 10**5, b'{"schema_version": "1.0", "a": NaN}']
)
def test_a_manifest_that_is_not_one_is_a_trace_error(trace, text):
    (trace.path / "manifest.json").write_bytes(text)
    with pytest.raises(TraceError):
        Trace(trace.path)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(command=3),
        lambda d: d.update(command=[3]),
        lambda d: d.update(clock=None),
        lambda d: d.update(host=[]),
        lambda d: d.update(collector="x"),
        lambda d: d.update(workload=3),
        lambda d: d["tables"]["refs"].update(rows="1000"),
        lambda d: d["tables"]["refs"].update(lost=-5, rows=1005),
        lambda d: d["tables"]["refs"]["segments"][0].update(bytes=None),
    ],
)
def test_a_manifest_with_parts_of_other_kinds_is_a_trace_error(trace, change):
    reseal(trace.path, change)
    with pytest.raises(TraceError, match=r"manifest\.json"):
        Trace(trace.path)


@pytest.mark.parametrize(
    "change",
    [
        lambda found: b"\xef\xbb\xbf" + found,
        lambda found: found + b"\n",
        lambda found: found.replace(b":", b": ", 1),
        lambda found: b'{"state":"complete",' + found[1:],
        lambda found: found.replace(b"insns", b"\\u0069nsns", 1),
        lambda found: found.decode().encode("utf-16"),
    ],
)
def test_a_manifest_of_the_same_meaning_and_other_bytes_was_altered(trace, change):
    file = trace.path / "manifest.json"
    altered = change(file.read_bytes())
    assert json.loads(altered) == json.loads(file.read_bytes())
    file.write_bytes(altered)
    with pytest.raises(TraceError, match=r"other bytes than were written|appears twice"):
        Trace(trace.path)


def nested(depth):
    return b"[" * depth + b"]" * depth


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b'{"a": 1e999}', "1e999 is no finite number"),
        (b'{"a": -Infinity}', "-Infinity is no finite number"),
        (b'{"a": 18446744073709551616}', "is beyond 64 bits"),
        (b'{"a": -9223372036854775809}', "is beyond 64 bits"),
        (b'{"a": ' + b"9" * 5000 + b"}", "9{40} is beyond 64 bits"),
        (nested(101), "more than 100 deep"),
        (b'{"a":' * 101 + b"1" + b"}" * 101, "more than 100 deep"),
        (nested(100_000), "too deep"),
        (b'{"a": 1, "b": {"c": 1, "c": 1}}', "key 'c' appears twice"),
    ],
)
def test_a_document_that_would_surprise_its_reader_is_refused(text, said):
    with pytest.raises(ValueError, match=said):
        parse_document(text)


def test_a_document_may_hold_all_that_ours_hold():
    text = (
        b'{"a": [18446744073709551615, -9223372036854775808, 1.5, null, "x", {}], "b": ' + nested(99) + b"}"
    )
    assert parse_document(text) == json.loads(text)


@pytest.mark.timeout(10)
@pytest.mark.parametrize("name", ["manifest.json", "refs/000000.parquet"])
def test_a_file_that_would_never_end_is_refused(trace, name):
    (trace.path / name).unlink()
    (trace.path / name).symlink_to("/dev/zero")
    with pytest.raises(TraceError, match=r"regular file|no file of"):
        Trace(trace.path)


def test_a_segment_outside_the_trace_is_refused(trace):
    def point_outside(document):
        document["tables"]["refs"]["segments"][0]["file"] = "../../other/000000.parquet"

    shutil.copytree(trace.path / "refs", trace.path.parent / "other")
    reseal(trace.path, point_outside)
    with pytest.raises(TraceError, match="000000"):
        Trace(trace.path)


def reseal_segment(trace, table):
    """Give a changed segment the hash that fits, as a careful forger would."""
    file = trace.path / table / "000000.parquet"
    change = {"sha256": sha256_of(file), "bytes": file.stat().st_size}
    reseal(trace.path, lambda document: document["tables"][table]["segments"][0].update(change))


def test_a_segment_whose_values_are_missing_is_refused(tmp_path):
    made = write_refs(tmp_path / "t.kdt", [1, 2, 3])
    schema = pa.schema([field.with_nullable(True) for field in TABLES["refs"]])
    pq.write_table(
        pa.table({field.name: [None, 1, 2] for field in schema}, schema=schema),
        made.path / "refs/000000.parquet",
    )
    reseal_segment(made, "refs")

    with pytest.raises(TraceError, match="1 values are missing"):
        list(Trace(made.path).batches("refs"))


def test_a_table_whose_segment_holds_no_row_has_empty_columns(tmp_path):
    def say_so(document):
        document["tables"]["refs"].update(rows=0, counted=0)
        document["tables"]["refs"]["segments"][0].update(rows=0)

    made = write_refs(tmp_path / "t.kdt", [1, 2])
    dtypes = {name: values.dtype for name, values in made.columns("refs").items()}
    file = made.path / "refs" / "000000.parquet"
    pq.write_table(pq.read_table(file).slice(0, 0), file)
    reseal_segment(made, "refs")
    reseal(made.path, say_so)

    columns = Trace(made.path).columns("refs")
    assert {name: values.dtype for name, values in columns.items()} == dtypes
    assert not any(map(len, columns.values()))


def test_names_that_are_not_utf_8_are_refused(tmp_path):
    with TraceWriter(tmp_path / "t.kdt") as writer:
        writer.append("refs", refs_columns([1]))
        writer.name_id("name")
        made = writer.seal(Manifest("complete", "insns", ["test"], {"name": "test"}))
    file = made.path / "names" / "000000.parquet"
    ids = pq.read_table(file).column("name_id")
    names = pa.array([b"na\xffe"]).cast(pa.string(), safe=False)
    pq.write_table(pa.table([ids, names], schema=TABLES["names"]), file)
    reseal_segment(made, "names")

    with pytest.raises(TraceError, match="cannot be decoded"):
        Trace(made.path).names()


def test_half_a_character_in_a_name_is_replaced(tmp_path):
    with TraceWriter(tmp_path / "t.kdt") as writer:
        ids = [writer.name_id(name) for name in ("a\ud800b", "a\udcffb", "\udfff", "a\ud801b")]
        made = writer.seal(Manifest("complete", "insns", ["test"], {"name": "test"}))
    assert ids == [0, 0, 1, 0] and made.names() == {0: "a\ufffdb", 1: "\ufffd"}


def test_names_that_a_small_file_multiplies_are_held_once(tmp_path):
    with TraceWriter(tmp_path / "t.kdt") as writer:
        writer.name_id("a")
        writer.append("refs", refs_columns([1]))
        made = writer.seal(Manifest("complete", "insns", [], {"name": "test"}))
    n_rows, text = 200_000, "x" * 100_000  # written out: 20 GB
    ids = pa.array(np.arange(n_rows), pa.uint32())
    names = pa.DictionaryArray.from_arrays(pa.array(np.zeros(n_rows, np.int32)), pa.array([text]))
    writable = pa.table({"name_id": ids, "name": names})
    pq.write_table(writable, made.path / "names/000000.parquet", compression="zstd", store_schema=False)
    reseal(made.path, lambda d: d["tables"]["names"].update(rows=n_rows, counted=n_rows))
    reseal(made.path, lambda d: d["tables"]["names"]["segments"][0].update(rows=n_rows))
    reseal_segment(made, "names")

    found = Trace(made.path).names()

    assert len(found) == n_rows
    assert len({id(name) for name in found.values()}) == 1


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 40), cuts=st.lists(st.integers(1, 30), min_size=1, max_size=4))
def test_batches_are_the_columns_in_pieces(tmp_path_factory, rows, cuts):
    with TraceWriter(tmp_path_factory.mktemp("t") / "t.kdt") as writer:
        for i, cut in enumerate(cuts):
            writer.append("refs", refs_columns(range(i, i + cut)))
            writer._tables["refs"].seal()  # a segment each
        made = writer.seal(Manifest("complete", "insns", [], {"name": "test"}))

    batches = list(made.batches("refs", ["vpn", "kind"], rows))

    assert all(1 <= len(batch["vpn"]) <= rows for batch in batches)
    whole = made.columns("refs", ["vpn", "kind"])
    for name, values in whole.items():
        pieces = np.concatenate([batch[name] for batch in batches])
        assert pieces.dtype == values.dtype
        assert np.array_equal(pieces, values)
    read = OneByOne(made, "refs")["vpn"]  # segments side by side
    assert read.dtype == np.uint64 and np.array_equal(read, whole["vpn"]) and read.flags.writeable
    with OneByOne(made, "refs", ["tid", "kind", "insns", "vpn", "ip"]) as ahead:
        for name in ("tid", "ip", "vpn", "kind", "vpn"):  # in another order, one of them twice
            assert np.array_equal(ahead[name], made.columns("refs", [name])[name])
    for at, cut in enumerate(cuts):
        assert sum(len(batch["vpn"]) for batch in made.batches("refs", ["vpn"], segment=at)) == cut


def test_a_column_that_cannot_be_read_is_refused_when_it_is_asked_for(trace):
    opened = Trace(trace.path)
    next((trace.path / "refs").iterdir()).unlink()
    with (
        OneByOne(opened, "refs", ["vpn", "ip"]) as refs,
        pytest.raises(TraceError, match="cannot be decoded"),
    ):
        refs["vpn"]


def test_a_segment_that_holds_fewer_rows_than_promised_is_refused(trace):
    opened = Trace(trace.path)
    (segment,) = opened.manifest.tables["refs"].segments
    opened.manifest.tables["refs"].segments[0] = replace(segment, rows=1001)

    with pytest.raises(TraceError, match="1000 rows, 1001 in the manifest"):
        list(opened.batches("refs"))


def test_batches_of_a_table_that_is_not_there_are_refused_before_they_are_read(tmp_path):
    made = write_refs(tmp_path / "t.kdt", [1])

    with pytest.raises(TraceError, match="has no table 'sched'"):
        made.batches("sched")


def test_events_lost_are_counted(tmp_path):
    with TraceWriter(tmp_path / "t.kdt") as writer:
        writer.append("refs", refs_columns([1, 2, 3]))
        writer.lose("refs", 4)
        made = writer.seal(Manifest("complete", "insns", ["test"], {"name": "test"}))
    info = made.manifest.tables["refs"]
    assert (info.rows, info.lost, info.counted) == (3, 4, 7)


def test_nothing_is_left_of_a_recording_that_fails(tmp_path):
    with pytest.raises(RuntimeError), TraceWriter(tmp_path / "t.kdt") as writer:
        writer.append("refs", refs_columns([1, 2, 3]))
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_trace_is_never_overwritten(trace):
    with pytest.raises(TraceError, match="exists already"):
        write_refs(trace.path, [1])
    with pytest.raises(TraceError, match=r"\.kdt"):
        TraceWriter(trace.path.with_suffix(".parquet"))


def test_info_describes_it(trace):
    description = describe(trace.path)
    assert description["state"] == "complete"
    assert description["footprint_pages"] == 500
    assert description["tables"]["refs"]["rows"] == description["tables"]["refs"]["counted"] == 1000


def write_csv(path, text):
    path.write_text(text)
    return path


def test_csv_import(tmp_path):
    file = write_csv(tmp_path / "a.csv", "vpn,tid,kind,insns\n5,7,store,10\n6,7,load,20\n5,8,code,5\n")
    refs = import_trace("csv", file, tmp_path / "t.kdt").columns("refs")
    assert refs["vpn"].tolist() == [5, 6, 5]
    assert refs["tid"].tolist() == [7, 7, 8]
    assert refs["kind"].tolist() == [1, 0, 2]
    assert refs["insns"].tolist() == [10, 20, 5]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "page\n1\n",
        "vpn\n-1\n",
        "vpn\n1.5\n",
        "vpn\nx\n",
        "vpn\n",
        "vpn,kind\n1,jump\n",
        "vpn,tid\n1\n",
        "vpn\n4503599627370496\n",
    ],
)
def test_a_bad_csv_is_a_trace_error_and_leaves_nothing(tmp_path, text):
    file = write_csv(tmp_path / "a.csv", text)
    with pytest.raises(TraceError):
        import_trace("csv", file, tmp_path / "t.kdt")
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_a_disk_that_is_full_from_the_start_is_told_and_nothing_is_left(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with (
        pytest.raises(TraceError, match=r"t\.kdt: cannot be created: no space left"),
        TraceWriter(tmp_path / "t.kdt"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []
