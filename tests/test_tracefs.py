"""Tracefs: formats and sub-buffers made by hand, and an instance's raw pages against its own text."""

import os
import re
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import needs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdtool.errors import CapabilityError, TraceError
from kdtool.kernel import tracefs
from kdtool.kernel.event_format import parse_format
from kdtool.kernel.trace_ring import PageLayout, Records, RingReader, decode_pages, parse_layout
from kdtool.kernel.tracefs import CpuStats, Instance, find_tracefs, reap_stale

HEADER_PAGE = """\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;
\tfield: local_t commit;\toffset:8;\tsize:8;\tsigned:1;
\tfield: int overwrite;\toffset:8;\tsize:1;\tsigned:1;
\tfield: char data;\toffset:16;\tsize:4080;\tsigned:0;
"""
HEADER_EVENT = """# compressed entry header
\ttype_len    :    5 bits
\ttime_delta  :   27 bits
\tarray       :   32 bits

\tpadding     : type == 29
\ttime_extend : type == 30
\ttime_stamp : type == 31
\tdata max type_len  == 28
"""
FORMAT = """name: sched_example
ID: 372
format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:unsigned char common_flags;\toffset:2;\tsize:1;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;

\tfield:char prev_comm[16];\toffset:8;\tsize:16;\tsigned:0;
\tfield:long prev_state;\toffset:24;\tsize:8;\tsigned:1;
\tfield:__data_loc char[] comm;\toffset:32;\tsize:4;\tsigned:0;
\tfield:__rel_loc char[] what;\toffset:36;\tsize:4;\tsigned:0;
\tfield:short odd;\toffset:41;\tsize:2;\tsigned:1;

print fmt: "%d", REC->common_pid
"""
LAYOUT = PageLayout(size=4096, time=0, commit=8, data=16)


def event(delta: int, payload: bytes) -> bytes:
    words = payload.ljust(-(-len(payload) // 4) * 4, b"\0")
    if len(words) > 28 * 4:
        return struct.pack("<II", delta << 5, len(words) + 4) + words
    return struct.pack("<I", len(words) // 4 | delta << 5) + words


def extend(delta_ns: int) -> bytes:
    return struct.pack("<II", 30 | (delta_ns & 0x7FFFFFF) << 5, delta_ns >> 27)


def stamp(t_ns: int) -> bytes:
    low = t_ns & (1 << 59) - 1
    return struct.pack("<II", 31 | (low & 0x7FFFFFF) << 5, low >> 27)


def discarded(delta: int, n_bytes: int) -> bytes:
    return struct.pack("<II", 29 | delta << 5, n_bytes + 4) + bytes(n_bytes)


def page(t_ns: int, *events: bytes, missed: int | None = None, size: int = 4096) -> bytes:
    data = b"".join(events)
    commit = len(data)
    if missed is not None:
        commit |= 1 << 31 | (1 << 30 if missed else 0)
        data += struct.pack("<Q", missed) if missed else b""
    return (struct.pack("<QQ", t_ns, commit) + data).ljust(size, b"\0")


def decode(*pages: bytes, layout: PageLayout = LAYOUT) -> Records:
    return decode_pages(np.frombuffer(bytearray(b"".join(pages)), np.uint8), layout)


def payloads(records: Records) -> list[bytes]:
    ends = records.starts + records.sizes
    return [bytes(records.buffer[a:b]) for a, b in zip(records.starts, ends, strict=True)]


# ------------------------------------------------------------------------------------- pages by hand


def test_records_come_in_the_order_of_pages_with_summed_times() -> None:
    records = decode(
        page(1000, event(5, b"aaaa"), event(0, b"bbbb"), event(7, b"ccccdddd")), page(9, event(1, b"eeee"))
    )

    assert records.t_ns.tolist() == [1005, 1005, 1012, 10]
    assert payloads(records) == [b"aaaa", b"bbbb", b"ccccdddd", b"eeee"]
    assert records.pages.tolist() == [0, 0, 0, 1]
    assert (records.missed_pages, records.missed) == (0, 0)


def test_time_extends_and_absolute_times_move_the_clock() -> None:
    high = 3 << 59
    records = decode(
        page(
            high + 10,
            event(1, b"aaaa"),
            extend(1 << 40),
            event(2, b"bbbb"),
            stamp(1 << 45),
            event(3, b"cccc"),
        )
    )

    assert records.t_ns.tolist() == [high + 11, high + 13 + (1 << 40), high + (1 << 45) + 3]


def test_an_absolute_time_whose_59_bits_wrapped_is_carried() -> None:
    records = decode(page((1 << 59) - 4, event(0, b"aaaa"), stamp(1 << 59 | 6), event(0, b"bbbb")))

    assert records.t_ns.tolist() == [(1 << 59) - 4, (1 << 59) + 6]


def test_events_too_big_for_the_header_say_their_length_in_a_word() -> None:
    big = bytes(range(200))
    records = decode(page(0, event(1, b"aaaa"), event(2, big), event(3, b"bbbb")))

    assert payloads(records) == [b"aaaa", big, b"bbbb"]
    assert records.t_ns.tolist() == [1, 3, 6]


def test_discarded_events_are_skipped_and_their_time_is_not() -> None:
    records = decode(
        page(0, event(1, b"aaaa"), discarded(10, 12), event(2, b"bbbb"), discarded(1, 4), event(0, b"cccc"))
    )

    assert payloads(records) == [b"aaaa", b"bbbb", b"cccc"]
    assert records.t_ns.tolist() == [1, 13, 13]


def test_padding_to_the_end_of_a_page_ends_it() -> None:
    records = decode(page(0, event(1, b"aaaa"), struct.pack("<I", 29), event(1, b"bbbb")))

    assert payloads(records) == [b"aaaa"]


def test_missed_events_are_flagged_and_counted_where_the_count_is_stored() -> None:
    records = decode(page(0, event(1, b"aaaa"), missed=569952), page(0, missed=0), page(5, event(1, b"bbbb")))

    assert (records.missed_pages, records.missed) == (2, 569952)
    assert payloads(records) == [b"aaaa", b"bbbb"]


def test_bigger_sub_buffers_are_decoded_alike() -> None:
    layout = parse_layout(HEADER_PAGE, HEADER_EVENT, 65536)
    events = [event(1, struct.pack("<I", i)) for i in range(5003)]

    records = decode(page(0, *events, size=65536), page(9, size=65536), layout=layout)

    assert records.t_ns.tolist() == list(range(1, 5004))
    assert [int.from_bytes(each, "little") for each in payloads(records)] == list(range(5003))


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (page(0, event(1, b"aaaa"))[:-1], "no whole sub-buffers"),
        (struct.pack("<QQ", 0, 4084).ljust(4096, b"\0"), "says it holds"),
        (page(0, struct.pack("<I", 9)), "runs past the end"),
        (page(0, struct.pack("<II", 0, 1 << 30)), "runs past the end"),
        (page(0, struct.pack("<II", 0, 0)), "no length"),
        (page(0, struct.pack("<I", 30)), "runs past the end"),
        (struct.pack("<QQ", 0, 4080 | 1 << 30).ljust(4096, b"\0"), "no room for the"),
    ],
)
def test_malformed_pages_are_refused_in_one_line(bad: bytes, said: str) -> None:
    with pytest.raises(TraceError, match=said) as refused:
        decode(bad)

    assert "\n" not in str(refused.value)


@given(st.binary(min_size=16, max_size=400), st.integers(0, 1 << 32))
def test_any_bytes_are_decoded_or_refused(data: bytes, commit: int) -> None:
    raw = (data[:8] + struct.pack("<Q", commit) + data[8:]).ljust(4096, b"\xff")
    try:
        records = decode(raw, page(0, event(1, b"aaaa")))
    except TraceError:
        return

    assert (records.starts + records.sizes <= 2 * 4096).all()


def test_the_layout_is_read_and_what_is_not_understood_is_refused() -> None:
    assert parse_layout(HEADER_PAGE, HEADER_EVENT, 4096) == LAYOUT
    moved = HEADER_PAGE.replace("offset:16", "offset:24")
    assert parse_layout(moved, HEADER_EVENT, 4096).data == 24
    for page_text, event_text, size in (
        ("", HEADER_EVENT, 4096),
        (HEADER_PAGE, HEADER_EVENT.replace("27", "26"), 4096),
        (HEADER_PAGE, HEADER_EVENT, 0),
        (HEADER_PAGE.replace("offset:16", "offset:8"), HEADER_EVENT, 4096),
    ):
        with pytest.raises(CapabilityError, match="report it"):
            parse_layout(page_text, event_text, size)


# ------------------------------------------------------------------------------------- formats


def test_fields_are_read_where_the_format_says_they_are() -> None:
    fmt = parse_format(FORMAT)
    head = struct.pack(
        "<HBBi16sqIIxhx", 372, 9, 0, -1, b"swapper\0junk", -(1 << 40), 4 << 16 | 44, 3 << 16 | 8, -7
    )
    buffer = np.frombuffer(bytearray(bytes(8) + head + b"abc\0xyz\0"), np.uint8)
    at = np.array([8])

    assert (fmt.name, fmt.id, fmt.size) == ("sched_example", 372, 43)
    assert fmt.fields["prev_comm"].length == 16 and fmt.fields["comm"].tail == "__data_loc"
    numbers = {name: fmt.numbers(buffer, at, name).tolist() for name in ("common_pid", "prev_state", "odd")}
    assert numbers == {"common_pid": [-1], "prev_state": [-(1 << 40)], "odd": [-7]}
    assert fmt.numbers(buffer, at, "common_flags").tolist() == [9]
    texts = {name: fmt.texts(buffer, at, name).tolist() for name in ("prev_comm", "comm", "what")}
    assert texts == {"prev_comm": [b"swapper"], "comm": [b"abc"], "what": [b"xyz"]}
    assert fmt.texts(buffer, at[:0], "comm").tolist() == []


def test_a_tail_outside_of_the_buffer_is_refused() -> None:
    fmt = parse_format(FORMAT)
    buffer = np.zeros(64, np.uint8)
    buffer[32:36] = np.frombuffer(struct.pack("<I", 60000 << 16 | 44), np.uint8)

    with pytest.raises(TraceError, match="outside"):
        fmt.texts(buffer, np.array([0]), "comm")


def test_a_format_that_is_none_is_refused() -> None:
    for text in (
        "",
        "name: x\nID: 7\n",
        FORMAT.replace("ID: 372", ""),
        FORMAT.replace("size:16", "size:99999"),
    ):
        with pytest.raises(CapabilityError, match="report it"):
            parse_format(text)
    with pytest.raises(CapabilityError, match="no field next_pid"):
        parse_format(FORMAT).require("common_pid", "next_pid")


# ------------------------------------------------------------------------------------- where it is


def test_tracefs_is_found_in_mountinfo_and_its_absence_names_the_command(tmp_path: Path) -> None:
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text("31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n")
    with pytest.raises(CapabilityError, match="not mounted: mount -t tracefs nodev /sys/kernel/tracing"):
        find_tracefs(mountinfo)

    (tmp_path / "events").mkdir()
    mountinfo.write_text(f"67 48 0:13 / {tmp_path} rw,relatime - tracefs nodev rw\n")
    assert find_tracefs(mountinfo) == tmp_path

    (tmp_path / "events").rmdir()
    with pytest.raises(CapabilityError, match="CONFIG_EVENT_TRACING"):
        find_tracefs(mountinfo)


def test_permission_refused_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> list[str]:
        raise PermissionError(13, "Permission denied", str(path))

    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(f"67 48 0:13 / {tmp_path} rw,relatime - tracefs nodev rw\n")
    monkeypatch.setattr(tracefs.os, "listdir", refuse)
    monkeypatch.setattr(tracefs.os, "geteuid", lambda: 1000)
    with pytest.raises(CapabilityError, match="refused to this user: run as root"):
        find_tracefs(mountinfo)


# ------------------------------------------------------------------------------------- an instance


@pytest.fixture
def instance() -> Iterator[Instance]:
    with Instance(options={"event-fork": True}, buffer_bytes=4 << 20) as made:
        yield made

    assert not made.path.exists()


def run(instance: Instance, *command: str) -> None:
    """Run a command whose threads' events, and those of what it starts, are recorded."""
    instance.start()
    follow = lambda: instance.follow({os.getpid()})  # noqa: E731
    subprocess.run(command, preexec_fn=follow, check=True, stdout=subprocess.DEVNULL)
    instance.stop()


def drained(instance: Instance) -> list[Records]:
    """What each CPU holds; few enough for one read."""
    found = []
    with RingReader(instance) as reader:
        for number in range(len(instance.cpus)):
            records, more = reader.read(number, rest=True)
            assert not more
            buffer = records.buffer.copy()
            found.append(Records(buffer, *(getattr(records, name) for name in list(vars(records))[1:])))
    return found


EVENTS = ("sched:sched_switch", "sched:sched_waking", "sched:sched_migrate_task", "sched:sched_process_fork")
LINE = re.compile(
    r"\s*(?P<comm>.{1,16})-(?P<pid>\d+)\s+\[(?P<cpu>\d+)\] \S+\s+"
    r"(?P<time>[\d.]+): (?P<event>\w+): (?P<rest>.*)"
)
GETPPID = {"x86_64": 110}.get(os.uname().machine, 173)


@pytest.mark.root
@needs.tracefs
def test_raw_pages_say_what_the_text_says(instance: Instance) -> None:
    for name in EVENTS:
        instance.enable(name)
    run(instance, "sh", "-c", "for i in 1 2 3 4 5 6 7; do /bin/true | cat; done; sleep 0.2; /bin/true")

    lines = [
        found for line in (instance.path / "trace").read_text().splitlines() if (found := LINE.match(line))
    ]
    for cpu, records in zip(instance.cpus, drained(instance), strict=True):
        here = [line for line in lines if int(line["cpu"]) == cpu]
        assert len(records) == len(here)
        micros = [int(line["time"].replace(".", "")) for line in here]
        assert ((records.t_ns + 500) // 1000).tolist() == micros
        types = records.types()
        assert [instance.formats[number].name for number in types.tolist()] == [
            line["event"] for line in here
        ]
        for number, fmt in instance.formats.items():
            at = np.flatnonzero(types == number)
            said = [dict(re.findall(r"(\w+)=(\S+)", here[i]["rest"])) for i in at.tolist()]
            for name in set(fmt.fields) & {"pid", "next_pid", "prio", "orig_cpu", "target_cpu", "child_pid"}:
                values = fmt.numbers(records.buffer, records.starts[at], name).tolist()
                assert values == [int(each[name]) for each in said], name
            for name in set(fmt.fields) & {"comm", "next_comm", "child_comm"}:
                texts = fmt.texts(records.buffer, records.starts[at], name).tolist()
                assert [each.decode().split()[0] for each in texts] == [each[name] for each in said], name
    assert {line["event"] for line in lines} >= {"sched_switch", "sched_waking", "sched_process_fork"}


@pytest.mark.root
@needs.tracefs
def test_what_is_read_and_what_was_overwritten_adds_up() -> None:
    with Instance(options={"event-fork": True}, buffer_bytes=64 << 10) as instance:
        instance.enable("raw_syscalls:sys_enter")
        run(instance, "dd", "if=/dev/zero", "of=/dev/null", "bs=1", "count=20011")
        before = sum(instance.stats(), CpuStats())
        records = drained(instance)
        after = sum(instance.stats(), CpuStats())

    assert after.entries == 0 and after.overrun > 30000
    assert before.counted == after.counted == after.read + after.lost
    assert sum(len(each) for each in records) == after.read
    assert sum(each.missed_pages for each in records) > 0
    assert sum(each.missed for each in records) in (0, after.overrun), "stored where a sub-buffer has room"


@pytest.mark.root
@needs.tracefs
def test_sub_buffers_of_another_size_are_probed(instance: Instance) -> None:
    (instance.path / "buffer_subbuf_size_kb").write_text("16")
    instance.enable("raw_syscalls:sys_enter")
    run(instance, "dd", "if=/dev/zero", "of=/dev/null", "bs=1", "count=5003")

    assert sum(len(each) for each in drained(instance)) == sum(instance.stats(), CpuStats()).read > 10006


@pytest.mark.root
@needs.tracefs
def test_an_unknown_tracepoint_and_a_bad_option_are_named(instance: Instance) -> None:
    with pytest.raises(CapabilityError, match="tracepoint sched:sched_nothing: this kernel does not have it"):
        instance.enable("sched:sched_nothing")
    with pytest.raises(CapabilityError, match="options/no-such-thing"):
        Instance(options={"no-such-thing": True})
    assert [
        path for path in instance.path.parent.glob(f"kdtool-{os.getpid()}-*") if path != instance.path
    ] == []


@pytest.mark.root
@needs.tracefs
def test_a_filter_lets_through_what_it_says(instance: Instance) -> None:
    instance.enable("raw_syscalls:sys_enter", filter_by=f"id == {GETPPID}")
    with pytest.raises(CapabilityError, match="the kernel refused 'nonsense'"):
        instance.enable("raw_syscalls:sys_exit", filter_by="nonsense")
    run(
        instance,
        sys.executable,
        "-c",
        "import os; [os.getppid() for _ in range(7)]",
    )

    assert sum(len(each) for each in drained(instance)) == 7


@pytest.mark.root
@needs.tracefs
def test_an_instance_of_a_killed_process_is_reaped() -> None:
    script = (
        "import time; from kdtool.kernel.tracefs import Instance\n"
        "made = Instance(buffer_bytes=4096); print(made.path, flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    path = Path(child.stdout.readline().strip())
    root = path.parent.parent
    assert path.exists() and path not in reap_stale(root), "its process lives"

    child.kill()
    child.wait()
    child.stdout.close()

    deadline = time.monotonic() + 5
    while path.exists() and time.monotonic() < deadline:
        reap_stale(root)
    assert not path.exists()
