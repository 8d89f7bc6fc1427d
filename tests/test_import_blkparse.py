"""The importer of blkparse's text, on text of the real blkparse, kept and made anew, and on damaged text.

`golden/blkparse-loop.txt` is what blkparse 1.2 printed of events of a loop device on Linux 6.18: direct reads
and writes, merges, a split, a partition, fsync, a discard, FUA, a read past the end. They were recorded by
tracepoints and packed in blktrace's format, since debugfs gave no file of blktrace's there.
"""

import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdtool.errors import KdtoolError, TraceError
from kdtool.traces import NO_TID, NO_TIME, BlockOp, Trace
from kdtool.traces.importers import blkparse, import_trace

GOLDEN = Path(__file__).parent / "golden" / "blkparse-loop.txt"
LOOP = 7 << 20 | 3
OPERATION = 15
EIO = -5
has_blkparse = pytest.mark.skipif(shutil.which("blkparse") is None, reason="blktrace is not installed")


def imported(tmp_path: Path, text: str | bytes, name: str = "t") -> Trace:
    file = tmp_path / f"{name}.txt"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return import_trace("blkparse", file, tmp_path / f"{name}.kdt")


def rows(trace: Trace) -> list[tuple[int, ...]]:
    columns = trace.columns("blockio")
    names = ("sector", "nr_sectors", "op", "tid", "queue_ns", "issue_ns", "complete_ns", "error")
    return list(zip(*(columns[name].tolist() for name in names), strict=True))


def line(number: int, t_ns: int, action: str, rest: str, task: int = 7, cpu: int = 0) -> str:
    seconds, part_ns = divmod(t_ns, 1_000_000_000)
    return f"  8,16  {cpu:2d} {number:8d} {seconds:5d}.{part_ns:09d} {task:5d} {action:>2s} {rest}\n"


PLAIN = (
    line(1, 0, "Q", " WS 64 + 8 [dd]")
    + line(2, 10, "G", " WS 64 + 8 [dd]")
    + line(3, 20, "D", " WS 64 + 8 [dd]")
    + line(4, 1_000_000_030, "C", " WS 64 + 8 [0]", task=0)
)
WS = BlockOp.WRITE | BlockOp.SYNC


# ------------------------------------------------------------------------------------- what is read


def test_the_requests_of_a_real_text_are_those_that_its_own_summary_counts(tmp_path: Path) -> None:
    trace = imported(tmp_path, GOLDEN.read_bytes())

    columns = trace.columns("blockio")
    read = columns["op"] & OPERATION == BlockOp.READ
    flush = columns["op"] & OPERATION == BlockOp.FLUSH
    assert (int(read.sum()), int((~read & ~flush).sum()), int(flush.sum())) == (10, 9, 2)
    # "Reads Completed: 564KiB", "Writes Completed: 1120KiB", the discard among them.
    assert int(columns["nr_sectors"][read].sum()) == 564 * 2
    assert int(columns["nr_sectors"][~read].sum()) == 1120 * 2
    assert set(columns["dev"]) == {LOOP} and (columns["queue_ns"] <= columns["issue_ns"]).all()
    assert (columns["issue_ns"] < columns["complete_ns"]).all()
    facts = trace.manifest.collector
    assert (facts["events"], facts["lines"], facts["stray_events"]) == (131, 161, 2)
    assert trace.manifest.clock == "blkparse" and trace.manifest.tables["blockio"].lost == 0


def test_the_lives_in_a_real_text(tmp_path: Path) -> None:
    found = rows(imported(tmp_path, GOLDEN.read_bytes()))

    assert found[0] == (0, 8, BlockOp.READ | BlockOp.SYNC, 32658, 0, 9217, 66044, 0)
    merged_by_request = (8, 24, WS, 32660, 24739067, 24761539, 26429788, 0)
    nine_bios = (0, 72, WS, 32661, 62054400, 62076732, 63902887, 0)
    flush = (0, 0, BlockOp.FLUSH | BlockOp.SYNC, 32661, 63931520, 63952790, 72388721, 0)
    assert {merged_by_request, nine_bios, flush} < set(found)
    parts = [row for row in found if row[3] == 32662]
    assert [row[4] for row in parts] == [76892889] * 4 and sum(row[1] for row in parts) == 1024
    written_through = next(row for row in found if row[2] & BlockOp.FUA)
    assert written_through == (0, 8, WS | BlockOp.FUA, 32665, 89054738, 89065778, 89487099, 0)
    past_the_end = next(row for row in found if row[7])
    assert past_the_end == (0, 64, BlockOp.READ | BlockOp.SYNC, 32666, 112157145, 112165862, 112263495, EIO)


def test_commands_are_names_of_threads(tmp_path: Path) -> None:
    text = PLAIN + line(5, 2_000_000_000, "Q", "  R 0 + 8 [my [prog) x]", task=9)

    trace = imported(tmp_path, text)

    names, tasks = trace.names(), trace.columns("tasks")
    assert [names[each] for each in tasks["name_id"].tolist()] == ["dd", "my [prog) x"]
    assert tasks["tid"].tolist() == [7, 9] and set(tasks["pid"]) == {-1}
    assert tasks["ts_ns"].tolist() == [0, 2_000_000_000]


@pytest.mark.parametrize("block_bytes", [97, 500, 5000])
def test_blocks_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int) -> None:
    whole = imported(tmp_path, GOLDEN.read_bytes(), "whole")
    monkeypatch.setattr(blkparse, "BLOCK_BYTES", block_bytes)

    parts = imported(tmp_path, GOLDEN.read_bytes().replace(b"\n", b"\r\n"), "parts")

    assert sorted(rows(parts)) == sorted(rows(whole))
    assert parts.columns("tasks")["ts_ns"].tolist() == whole.columns("tasks")["ts_ns"].tolist()
    facts, other = dict(whole.manifest.collector), dict(parts.manifest.collector)
    assert facts.pop("file") != other.pop("file") and facts == other


def test_times_that_blkparse_adds_and_actions_of_no_request_are_passed_over(tmp_path: Path) -> None:
    text = (
        line(0, 0, "m", "  N cfq1S / alloced + 8 [x]")
        + line(1, 0, "Q", "  R 64 + 8 [a]")
        + line(2, 1, "P", "  N [a]")
        + line(3, 2, "S", "  R 64 + 8 [a]")
        + line(4, 3, "G", "  R 64 + 8 [a]")
        + line(5, 4, "I", "  R 64 + 8 (    2675) [a]")
        + line(6, 5, "U", "  N [a] 1")
        + line(7, 6, "UT", "  N [a] 1")
        + line(8, 7, "D", "  R 64 + 8 (    3807) [a]")
        + line(9, 8, "C", "  R 64 + 8 (   37070) [65531]")
    )

    trace = imported(tmp_path, text)

    assert rows(trace) == [(64, 8, BlockOp.READ, 7, 0, 7, 8, EIO)]
    assert trace.manifest.tables["blockio"].lost == 0


def test_commands_that_pass_through_have_no_sectors(tmp_path: Path) -> None:
    text = (
        line(1, 0, "I", "  R 36 (12 00 00 00 24 00 ..) [a]")
        + line(2, 1, "D", "  R 36 (12 00 00 00 24 00 ..) [a]")
        + line(3, 2, "C", "  R (12 00 00 00 24 00 ..) [0]")
        + line(4, 3, "D", "  R 36 [a]")
        + line(5, 4, "C", "  R [0]")
    )

    assert [(row[:3], row[5:7]) for row in rows(imported(tmp_path, text))] == [
        ((0, 0, BlockOp.OTHER), (1, 2)),
        ((0, 0, BlockOp.OTHER), (3, 4)),
    ]


def test_a_split_above_two_tebibytes_is_found_by_the_32_bits_that_are_printed(tmp_path: Path) -> None:
    begin = (1 << 32) - 8
    text = (
        line(1, 0, "Q", f"  R {begin} + 16 [a]")
        + line(2, 1, "X", f"  R {begin} / 0 [a]")
        + line(3, 2, "G", f"  R {begin} + 8 [a]")
        + line(4, 3, "G", f"  R {begin + 8} + 8 [a]")
    )

    found = rows(imported(tmp_path, text))

    assert [(row[0], row[4], row[6]) for row in found] == [(begin, 0, NO_TIME), (begin + 8, 0, NO_TIME)]


def test_a_device_without_requests_has_bios(tmp_path: Path) -> None:
    text = (
        line(1, 5, "Q", "  W 64 + 8 [a]")
        + "  8,32   0        1     0.000000006     7  A   W 864 + 8 <- (8,16) 64\n"
        + "  8,32   0        2     0.000000007     7  Q   W 864 + 8 [a]\n"
        + "  8,32   0        3     0.000000009     7  C   W 864 + 8 [0]\n"
        + line(2, 10, "C", "  W 64 + 8 [0]")
    )

    found = rows(imported(tmp_path, text))

    assert found == [
        (864, 8, BlockOp.WRITE, 7, 7, NO_TIME, 9, 0),
        (64, 8, BlockOp.WRITE, 7, 5, NO_TIME, 10, 0),
    ]


def test_requests_from_before_the_recording_are_rows(tmp_path: Path) -> None:
    text = line(1, 0, "C", " WS 8 + 8 [0]", task=0) + line(2, 1, "D", " WS 16 + 8 [kworker/0:1H]")

    assert rows(imported(tmp_path, text)) == [
        (8, 8, WS, NO_TID, NO_TIME, NO_TIME, 0, 0),
        (16, 8, WS, NO_TID, NO_TIME, 1, NO_TIME, 0),
    ]


# ------------------------------------------------------------------------------------- losses


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        (PLAIN, 0),
        (PLAIN + "\nSkips: 0 forward (0 -   0.0%)\n", 0),
        (PLAIN + "\nSkips: 2 forward (1,234 -   3.2%)\nSkips: 1 forward (6 -   0.1%)\n", 1240),
        (PLAIN + line(15, 1_000_000_031, "Q", " WS 8 + 8 [dd]"), 10),
        (PLAIN + line(9, 1_000_000_031, "Q", " WS 8 + 8 [dd]", cpu=1), 0),
        (PLAIN + line(15, 1_000_000_031, "P", "  N [dd]") + "Skips: 1 forward (10 -   9.9%)\n", 10),
        (PLAIN + "You have 77 (  1.2%) dropped events\n", 77),
        (PLAIN + "=== sdb ===\n  CPU  0:       4 events,   1 KiB data\n"
         "  Total:                    81 events (dropped 77),        1 KiB data\n", 77),
    ],
)  # fmt: skip
def test_what_is_said_or_seen_to_be_missing_is_lost(tmp_path: Path, text: str, lost: int) -> None:
    info = imported(tmp_path, text).manifest.tables["blockio"]

    assert info.lost == lost and info.counted == info.rows + lost


# ------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("hello\n", "line 5 is not one of blkparse's"),
        (line(5, 2 << 30, "Q", " WS 64 + 8 [dd")[:-1] + "\n", "line 5 is"),
        (line(5, 2 << 30, "C", " WS 64 + 8 [x]"), "line 5 is"),
        (line(5, 2 << 30, "C", " WS 64 + 8"), "line 5 is"),
        (line(5, 2 << 30, "X", " WS 64 + 8 [dd]"), "line 5 is"),
        (line(5, 2 << 30, "A", " WS 64 + 8 [dd]"), "line 5 is"),
        (line(5, 2 << 30, "Z", " WS 64 + 8 [dd]"), "line 5 is"),
        (line(5, 2 << 30, "Q", " ws 64 + 8 [dd]"), "line 5 is"),
        (line(5, 2 << 30, "Q", f" WS {1 << 55} + 8 [dd]"), "line 5 has the number"),
        (line(5, 2 << 30, "Q", f" WS 8 + {1 << 32} [dd]"), "line 5 has the number 4294967296"),
        (line(5, 2 << 30, "Q", " WS 8 + 8 [dd]", task=1 << 31), "line 5 has the number"),
        (line(5, 2 << 30, "Q", " WS 8 + 8 [dd]").replace("8,16", "4096,16"), "line 5 has the number"),
        (line(5, 2 << 30, "Q", " WS 8 + " + "9" * 5000 + " [dd]"), "line 5 is"),
        (line(5, 2 << 30, "C", " WS 64 + 8 [65536]"), "line 5 is"),
        (line(5, 1_000_000_029, "Q", " WS 64 + 8 [dd]"), "line 5 is earlier than the one before"),
        ("  8,16   0        5     2.5     7  Q  WS 64 + 8 [dd]\n", "line 5 is"),
        ("x" * 100_000, "a line of more than"),
        ("\x00\xff\n", "line 5 is"),
    ],
)
def test_what_is_not_blkparses_is_refused_with_its_line(tmp_path: Path, bad: str, said: str) -> None:
    with pytest.raises(TraceError, match=said) as caught:
        imported(tmp_path, PLAIN + bad)

    assert "\n" not in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["t.txt"]


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=9) | st.just(b"\n") | st.just(b"9" * 25))
def test_no_damage_to_a_text_is_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, at: int, garbage: bytes
) -> None:
    text = bytearray(GOLDEN.read_bytes())
    text[at : at + len(garbage)] = garbage
    try:
        imported(tmp_path_factory.mktemp("blkparse"), bytes(text))
    except KdtoolError as error:
        assert "\n" not in str(error)


def test_the_number_of_an_alien_line_counts_all_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blkparse, "BLOCK_BYTES", 100)
    with pytest.raises(TraceError, match="line 9 is not"):
        imported(
            tmp_path, PLAIN + "\n\nThroughput (R/W): 0KiB/s / 0KiB/s\n\n" + line(5, 2 << 30, "C", " W 8 + 8")
        )


@pytest.mark.parametrize("text", [b"", b"\n\n", b"Skips: 0 forward (0 -   0.0%)\n"])
def test_text_without_events_is_no_trace(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(TraceError, match="has no events"):
        imported(tmp_path, text)


def test_blktraces_own_file_is_told_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"import what blkparse -i .* prints"):
        imported(tmp_path, b"\x07tae" + bytes(100))


# ------------------------------------------------------------------------------------- the real program

READ, WRITE, SYNC, QUEUE, ISSUE, COMPLETE, FS, PC, NOTIFY = (1 << bit for bit in (0, 1, 3, 4, 6, 7, 8, 9, 10))


def packed(
    number: int, t_ns: int, action: int, kinds: int, sector=64, n_bytes=4096, error=0, pdu=b""
) -> bytes:
    """Return a struct blk_io_trace (include/uapi/linux/blktrace_api.h) of thread 77 on CPU 0."""
    what, dev = action | kinds << 16, 8 << 20 | 16
    fields = (0x65617407, number, 10**12 + t_ns, sector, n_bytes, what, 77, dev, 0, error, len(pdu))
    return struct.pack("<IIQQIIIIIHH", *fields) + pdu


@has_blkparse
def test_what_blkparse_prints_of_a_recording_is_imported(tmp_path: Path) -> None:
    kinds = WRITE | SYNC
    events = [
        packed(0, 0, 0, NOTIFY, pdu=b"a (b) [c]".ljust(16, b"\0")),
        packed(1, 0, 1, kinds | QUEUE),
        packed(2, 10, 4, kinds | QUEUE),
        packed(3, 20, 7, kinds | ISSUE | FS),
        packed(4, 25, 2, NOTIFY, pdu=b"a message + 8 [0]"),
        packed(4, 30, 8, kinds | COMPLETE | FS, error=(1 << 16) + EIO),
        packed(5, 40, 7, READ | ISSUE | PC, sector=0, n_bytes=36, pdu=b"\x12\0\0\0\x24\0"),
        packed(6, 50, 8, READ | COMPLETE | PC, sector=0, n_bytes=36, pdu=b"\x12\0\0\0\x24\0"),
        packed(7, 60, 9, QUEUE, n_bytes=0),
        packed(8, 70, 10, QUEUE, n_bytes=0, pdu=struct.pack(">Q", 3)),
        packed(12, 80, 1, kinds | QUEUE, sector=128),
    ]
    (tmp_path / "real.blktrace.0").write_bytes(b"".join(events))
    for options in ([], ["-t"], ["-q"]):
        command = ["blkparse", *options, "-i", "real"]
        text = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True).stdout

        trace = imported(tmp_path, text, f"real{len(options)}{options}")

        assert rows(trace) == [
            (64, 8, WS, 77, 0, 20, 30, EIO),
            (0, 0, BlockOp.OTHER, NO_TID, NO_TIME, 40, 50, 0),
        ]
        assert list(trace.names().values()) == ["a (b) [c]"]
        assert trace.manifest.tables["blockio"].lost == 3, "numbers 9 to 11"


def test_the_command_imports(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kdtool", "import", "blkparse", GOLDEN, "-o", tmp_path / "t.kdt"]

    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert done.stdout == f"{tmp_path}/t.kdt: 21 blockio, 0 lost\n" and done.stderr == ""
    assert np.diff(Trace(tmp_path / "t.kdt").columns("blockio")["complete_ns"]).min() >= 0
