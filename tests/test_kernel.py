"""How we speak to Linux: cgroups, limits, perf records and host facts."""

import errno
import gzip
import itertools
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import needs
import numpy as np
import pytest

from kdtool.collect import living
from kdtool.errors import CapabilityError, ParameterError
from kdtool.kernel import blockdev, bpf, cgroup, host, swap
from kdtool.kernel.bpf_faults import BpfFaults
from kdtool.kernel.cgroup import Hierarchy, Layout, OwnCgroup, find_cgroup, find_layout, pids_in, reap_stale
from kdtool.kernel.fault_events import PerfFaults
from kdtool.kernel.host import PAGE_CLUSTER, host_facts, page_cluster
from kdtool.kernel.memcg import Charges, MemoryCgroup
from kdtool.kernel.perf_records import Comm, Exit, Fork, Mapping, split_records
from kdtool.kernel.swap import WriteQueue, swap_devices, write_queue

MIB = 1 << 20
ROOT = [pytest.mark.root, needs.root]
MAX_PID = int(Path("/proc/sys/kernel/pid_max").read_text())


# ------------------------------------------------------------------------------------ cgroup layout


def mountinfo(tmp_path: Path, *mounts: str) -> Path:
    """Write a mountinfo; a mount is `root type options`."""
    lines = []
    for n, mount in enumerate(mounts):
        root, kind, options = mount.split()
        lines.append(f"{n} 1 0:{n} / {tmp_path}/{root} rw shared:{n} - {kind} {kind} {options}")
    file = tmp_path / "mountinfo"
    file.write_text("\n".join(lines) + "\n")
    return file


def test_hybrid_limits_by_v1_and_selects_by_v2(tmp_path: Path) -> None:
    file = mountinfo(tmp_path, "memory cgroup rw,memory", "unified cgroup2 rw,nsdelegate")

    layout = find_layout(file)

    assert layout.memory == Hierarchy(tmp_path / "memory", 1)
    assert layout.events == Hierarchy(tmp_path / "unified", 2)


def test_pure_v2_does_both(tmp_path: Path) -> None:
    (tmp_path / "cg").mkdir()
    (tmp_path / "cg/cgroup.controllers").write_text("cpu io memory\n")

    layout = find_layout(mountinfo(tmp_path, "cg cgroup2 rw"))

    assert layout.memory == layout.events == Hierarchy(tmp_path / "cg", 2)


def test_v2_without_the_controller_has_no_limits(tmp_path: Path) -> None:
    (tmp_path / "cg").mkdir()
    (tmp_path / "cg/cgroup.controllers").write_text("cpu\n")

    assert find_layout(mountinfo(tmp_path, "cg cgroup2 rw")).memory is None


def test_a_mounted_v1_perf_event_hierarchy_selects(tmp_path: Path) -> None:
    file = mountinfo(tmp_path, "perf cgroup rw,perf_event", "unified cgroup2 rw", "memory cgroup rw,memory")

    assert find_layout(file).events == Hierarchy(tmp_path / "perf", 1)


def test_what_is_not_mounted_says_how_to_mount_it() -> None:
    nothing = Layout(None, None)

    with pytest.raises(CapabilityError, match="mount -t cgroup2"):
        OwnCgroup(nothing, with_memory=False)
    with pytest.raises(CapabilityError, match="mount -t cgroup -o memory"):
        OwnCgroup(nothing, with_memory=True, with_events=False)


def test_v2_limits_that_are_off_say_how_to_turn_them_on(tmp_path: Path) -> None:
    (tmp_path / "cgroup.subtree_control").write_text("cpu\n")
    v2 = Hierarchy(tmp_path, 2)

    with pytest.raises(CapabilityError, match=r"echo \+memory > .*/cgroup.subtree_control"):
        OwnCgroup(Layout(v2, v2), with_memory=True)


def test_pure_v2_makes_one_directory(tmp_path: Path) -> None:
    (tmp_path / "cgroup.subtree_control").write_text("memory\n")
    v2 = Hierarchy(tmp_path, 2)

    own = OwnCgroup(Layout(v2, v2), with_memory=True)

    assert own.memory == own.events and len(own.paths) == 1


def test_a_cgroup_that_exists_already_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, events = tmp_path / "memory", tmp_path / "events"
    name = f"{cgroup.PREFIX}{os.getpid()}-"
    other = events / f"{name}5"
    for folder in (memory, other):
        folder.mkdir(parents=True)
    monkeypatch.setattr(cgroup, "_numbers", itertools.count(5))
    with subprocess.Popen(["sleep", "100"]) as sleeper:
        (other / "cgroup.procs").write_text(f"{sleeper.pid}")
        with OwnCgroup(Layout(Hierarchy(memory, 1), Hierarchy(events, 2)), with_memory=True) as own:
            assert own.paths == (memory / f"{name}6", events / f"{name}6")
            assert all(path.is_dir() for path in own.paths) and own.processes() == []
            assert not (memory / f"{name}5").exists()
        lives = sleeper.poll() is None
        sleeper.kill()

    assert lives and other.is_dir() and list(memory.iterdir()) == []


def test_where_every_name_is_taken_it_is_said_what_to_remove(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroup, "MAX_NAMES", 3)
    monkeypatch.setattr(cgroup, "_numbers", itertools.count(0))
    for number in range(3):
        (tmp_path / f"{cgroup.PREFIX}{os.getpid()}-{number}").mkdir()
    own = OwnCgroup(Layout(None, Hierarchy(tmp_path, 2)), with_memory=False)

    with pytest.raises(CapabilityError, match="are taken: rmdir what dead kdtools have left in"), own:
        pass
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(
    ("line", "files", "found"),
    [
        ("0::/own", ("memory.max",), "/own"),
        ("0::/own", ("cgroup.procs",), None),  # the controller is off there
        ("0::/../../own", ("memory.max",), None),  # outside of what is mounted
        ("0::/", ("memory.max",), None),
    ],
)
def test_a_memory_cgroup_is_one_that_counts_and_is_mounted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, files: tuple[str, ...], found: str | None
) -> None:
    root = tmp_path / "a/b/root"
    for folder in (root / "own", tmp_path / "a/own", tmp_path / "proc/7"):
        folder.mkdir(parents=True)
    for name in files:
        (root / "own" / name).write_text("max\n")
        (tmp_path / "a/own" / name).write_text("max\n")
    (tmp_path / "proc/7/cgroup").write_text(f"{line}\n")
    monkeypatch.setattr(living, "find_layout", lambda: Layout(Hierarchy(root, 2), None))

    of_7 = living.memory_cgroup([7], tmp_path / "proc")

    assert (of_7 and of_7[0]) == found


@pytest.mark.parametrize(
    "given", ["", ".", "..", "../..", "{}/queue", "/dev/..", "/no/such/..", "../mem/null"]
)
def test_what_is_no_name_of_a_disk_is_an_unknown_device(given: str) -> None:
    disk = blockdev.disk_names()[0]

    with pytest.raises(ParameterError, match="device "):
        blockdev.find_disks([given.format(disk)])


def test_a_program_that_the_kernel_refuses_without_a_word_is_no_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(command: int, attr: bytes, what: str) -> int:
        raise bpf._RefusedProgram(errno.EINVAL)

    monkeypatch.setattr(bpf, "_bpf", refuse)

    with pytest.raises(CapabilityError, match="BPF program: this kernel does not take it"):
        bpf.load_program(bpf.PERF_EVENT, bytes(8))


@pytest.mark.parametrize("name", ["", "/", ".", "..", "a/../b"])
def test_the_root_is_never_attached_to(tmp_path: Path, name: str) -> None:
    with pytest.raises(ParameterError, match="whole machine"):
        find_cgroup(name, Layout(None, Hierarchy(tmp_path, 2)))


def test_a_cgroup_is_found_by_name_or_the_nearest_is_named(tmp_path: Path) -> None:
    (tmp_path / "system.slice/web.service").mkdir(parents=True)
    layout = Layout(None, Hierarchy(tmp_path, 2))

    assert find_cgroup("/system.slice/web.service/", layout) == tmp_path / "system.slice/web.service"
    with pytest.raises(ParameterError, match=r"did you mean 'system.slice/web.service'"):
        find_cgroup("system.slice/web.servce", layout)


class Fleeting:
    """A cgroup whose children come and go: each is gone when it is looked into."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for name in ("a", "b", "c"):
            (path / name).mkdir()
        (path / "cgroup.procs").write_text("7\n3\n")
        (path / "c/cgroup.procs").write_text("9\n7\n")
        self._scandir = os.scandir

    def scandir(self, path: Path | str) -> "os._ScandirIterator[str]":
        if Path(path) == self.path / "a":
            (self.path / "a").rmdir()
        return self._scandir(str(path))


def test_processes_are_listed_while_cgroups_below_come_and_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "scandir", Fleeting(tmp_path).scandir)

    assert pids_in(tmp_path) == [3, 7, 9]
    assert not (tmp_path / "a").exists()
    assert pids_in(tmp_path / "gone") == []


def test_processes_of_a_threaded_cgroup_are_those_of_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "threaded").mkdir()
    (tmp_path / "cgroup.procs").write_text("7\n")
    (tmp_path / "threaded/cgroup.procs").write_text("7\n")
    read = Path.read_text

    def refuse(path: Path) -> str:
        if path.parent.name == "threaded":
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return read(path)

    monkeypatch.setattr(Path, "read_text", refuse)

    assert pids_in(tmp_path) == [7]


def test_what_lives_in_a_cgroup_of_a_dead_kdtool_stays_under_its_limit(tmp_path: Path) -> None:
    """As in a cgroup, a directory here is not removed while there is something in it."""
    dead = f"{cgroup.PREFIX}{MAX_PID + 1}"
    lived_in, empty = tmp_path / f"{dead}-0", tmp_path / f"{dead}-1"
    for path in (lived_in, empty, tmp_path / f"{cgroup.PREFIX}{os.getpid()}-0"):
        path.mkdir()
    procs = lived_in / "cgroup.procs"
    procs.write_text("7\n")

    assert reap_stale(Layout(Hierarchy(tmp_path, 1), None)) == [empty]
    assert procs.read_text() == "7\n" and not (tmp_path / "cgroup.procs").exists()

    procs.unlink()
    assert reap_stale(Layout(Hierarchy(tmp_path, 1), None)) == [lived_in]


# ------------------------------------------------------------------------------------ memory files


def test_v2_memory_files_are_read(tmp_path: Path) -> None:
    files = {"memory.max": "max\n", "memory.current": "5\n", "memory.peak": "7\n"}
    files |= {"memory.events": "low 0\nmax 3\noom 1\noom_kill 2\n", "memory.stat": "pgfault 9\npswpin 4\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    memory = MemoryCgroup(tmp_path, 2)

    assert memory.facts() == {
        "version": 2,
        "limit_bytes": None,
        "usage_bytes": 5,
        "peak_bytes": 7,
        "limit_hits": 3,
        "oom_kills": 2,
    }
    assert memory.stat() == {"pgfault": 9, "pswpin": 4}

    memory.set_limit(8 * MIB)

    assert memory.limit_bytes == 8 * MIB


def test_charges_are_told_apart_in_both_versions(tmp_path: Path) -> None:
    files = {"memory.usage_in_bytes": "90", "memory.kmem.usage_in_bytes": "7", "memory.current": "80"}
    v1 = "rss 1\ntotal_rss 50\ncache 2\ntotal_cache 20\n"
    for name, text in files.items():
        (tmp_path / name).write_text(text)

    (tmp_path / "memory.stat").write_text(v1)
    first = MemoryCgroup(tmp_path, 1).charges()
    (tmp_path / "memory.kmem.usage_in_bytes").unlink()
    uncharged = MemoryCgroup(tmp_path, 1).charges()
    (tmp_path / "memory.stat").write_text("anon 51\nfile 21\nkernel 8\nslab 3\n")
    second = MemoryCgroup(tmp_path, 2).charges()
    (tmp_path / "memory.stat").write_text("anon 51\nfile 21\nkernel_stack 1\npagetables 2\nslab 3\n")
    older = MemoryCgroup(tmp_path, 2).charges()

    assert first == Charges(usage_bytes=90, anonymous_bytes=50, file_bytes=20, kernel_bytes=7)
    assert uncharged == Charges(90, 50, 20, 0)
    assert second == Charges(80, 51, 21, 8)
    assert older == Charges(80, 51, 21, 6)


def test_a_refused_limit_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CapabilityError, match=r"4096 bytes refused: .*: run as root, or give more"):
        MemoryCgroup(tmp_path / "gone", 2).set_limit(4096)


class TestAsRoot:
    pytestmark = ROOT

    def test_a_cgroup_ends_what_lives_in_it_and_is_gone(self) -> None:
        layout = find_layout()
        with OwnCgroup(layout, with_memory=layout.memory is not None) as own:
            with subprocess.Popen(["sleep", "100"]) as sleeper:
                for path in own.paths:
                    (path / "cgroup.procs").write_text(str(sleeper.pid))
                (own.paths[-1] / "below").mkdir()
                assert own.processes() == [sleeper.pid]

                own.kill()

                assert sleeper.wait() == -9
            assert own.processes() == []

        assert not any(path.exists() for path in own.paths)

    def test_a_cgroup_is_removed_when_the_block_fails(self) -> None:
        with pytest.raises(RuntimeError), OwnCgroup(find_layout(), with_memory=False) as own:
            raise RuntimeError

        assert not any(path.exists() for path in own.paths)

    def test_limits_are_read_back(self) -> None:
        layout = find_layout()
        if layout.memory is None:
            pytest.skip("no memory cgroup is mounted")
        with OwnCgroup(layout, with_memory=True, with_events=False) as own:
            assert own.memory is not None
            memory = MemoryCgroup(own.memory, layout.memory.version)
            assert memory.limit_bytes is None

            memory.set_limit(8 * MIB + 1)

            assert memory.limit_bytes == 8 * MIB
            assert memory.oom_kills == memory.limit_hits == 0

    def test_only_empty_cgroups_of_dead_kdtools_are_reaped(self) -> None:
        layout = find_layout()
        assert layout.events is not None
        stale = layout.events.root / f"{cgroup.PREFIX}{MAX_PID + 1}-0"
        stale.mkdir()
        with OwnCgroup(layout, with_memory=False) as own:
            reaped = reap_stale(layout)

            assert stale in reaped and not stale.exists()
            assert own.events is not None and own.events.exists()

    def test_page_cluster_is_put_back(self) -> None:
        before = PAGE_CLUSTER.read_text()
        with pytest.raises(RuntimeError), page_cluster(0):
            assert PAGE_CLUSTER.read_text().strip() == "0"
            raise RuntimeError

        assert PAGE_CLUSTER.read_text() == before

    def test_rings_are_made_for_every_cpu_and_taken_down(self) -> None:
        before = len(os.listdir("/proc/self/fd"))
        with OwnCgroup(find_layout(), with_memory=False) as own:
            assert own.events is not None
            for way in (PerfFaults, BpfFaults):
                events = way(own.events, 100_000)
                assert events.drain() == [] and events.ring_bytes == 65_536
                assert events.faults().counted == events.faults().lost == 0
                events.close()

        assert len(os.listdir("/proc/self/fd")) == before

    def test_perf_says_which_directory_it_cannot_select_by(self, tmp_path: Path) -> None:
        said = "perf does not select by this cgroup hierarchy"
        for way in (PerfFaults, BpfFaults):
            with pytest.raises(CapabilityError, match=said):
                way(tmp_path)


@pytest.mark.parametrize("n", [-1, 6])
def test_page_cluster_has_bounds(n: int) -> None:
    with pytest.raises(ParameterError, match="allowed: 0"), page_cluster(n):
        pass


@pytest.fixture
def knob(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a file in place of vm.page-cluster, which is 3, for this process."""
    file = tmp_path / "page-cluster"
    file.write_text("3")
    monkeypatch.setattr(host, "PAGE_CLUSTER", file)
    monkeypatch.setattr(host, "CLAIM", tmp_path / "run/page-cluster")
    return file


def test_page_cluster_is_changed_by_one_process_at_a_time(knob: Path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\nfrom kdtool.kernel import host\n"
        "host.PAGE_CLUSTER, host.CLAIM = map(Path, sys.argv[1:])\n"
        "with host.page_cluster(5): pass\n"
    )
    other = [sys.executable, "-c", script, str(knob), str(host.CLAIM)]

    with page_cluster(0), page_cluster(2):  # one process as often as it likes
        refused = subprocess.run(other, capture_output=True, text=True, check=False)
        assert "CapabilityError: vm.page-cluster: another kdtool has changed it" in refused.stderr
        assert knob.read_text() == "2"
    assert knob.read_text() == "3"

    assert subprocess.run(other, check=False).returncode == 0
    assert knob.read_text() == "3"


def test_the_guard_of_a_killed_agent_holds_the_claim_until_it_has_put_page_cluster_back(knob: Path) -> None:
    script = (
        "import os, sys, signal\nfrom pathlib import Path\nfrom kdtool.kernel import host\n"
        "from kdtool.deploy import guard\n"
        "host.PAGE_CLUSTER, host.CLAIM = map(Path, sys.argv[1:])\n"
        "text = Path(guard.__file__).read_text().replace('/proc/sys/vm/page-cluster', sys.argv[1])\n"
        "guard.__file__ = sys.argv[1] + '.py'; Path(guard.__file__).write_text(text)\n"
        "with guard.guarded(0, ()): os.kill(os.getpid(), signal.SIGKILL)\n"
    )

    killed = subprocess.run([sys.executable, "-c", script, str(knob), str(host.CLAIM)], check=False)

    assert killed.returncode == -9
    deadline_s = time.monotonic() + 20
    while time.monotonic() < deadline_s:
        try:
            with host.page_cluster_claim():
                assert knob.read_text() == "3"
            break
        except CapabilityError:
            time.sleep(0.001)
    else:
        pytest.fail("the guard holds on to its claim")


# ------------------------------------------------------------------------------------ perf records

TRAILER = struct.pack("<IIQQQ", 10, 11, 777, 1, 5)


def sample(n: int, misc: int = 2) -> bytes:
    return struct.pack("<IHHQQIIQQQ", 9, misc, 56, 5, n, 10, 11, n, n << 12, 1)


def other(kind: int, body: bytes, misc: int = 0) -> bytes:
    return struct.pack("<IHH", kind, misc, 8 + len(body) + len(TRAILER)) + body + TRAILER


def words(*records: bytes) -> "np.ndarray[tuple[int], np.dtype[np.uint64]]":
    return np.frombuffer(b"".join(records), np.uint64)


@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 100])
def test_samples_are_found_between_other_records(n: int) -> None:
    lost = other(2, bytes(16))
    block = words(lost, *(sample(i, misc=i % 3) for i in range(n)), lost, lost, sample(7))

    samples, others = split_records(block)

    assert samples[:, 2].tolist() == [*range(n), 7]
    assert others == []


def test_side_records_are_decoded() -> None:
    mmap2 = struct.pack("<IIQQQIIQQII", 10, 11, 0x1000, 0x2000, 0, 0, 0, 0, 0, 5, 2)
    mmap2 += b"/lib/x.so".ljust(16, b"\0")
    fork, end = struct.pack("<IIIIQ", 20, 10, 20, 10, 0), struct.pack("<IIIIQ", 20, 10, 21, 10, 0)
    block = words(
        other(10, mmap2),
        other(3, struct.pack("<II8s", 10, 10, b"sh"), misc=1 << 13),
        other(3, struct.pack("<II8s", 10, 10, b"renamed")),
        other(7, fork),
        other(4, end),
    )

    _, others = split_records(block)

    assert others == [
        Mapping(777, 10, 0x1000, 0x3000, 5, False, "/lib/x.so"),
        Comm(777, 10, 10, "sh", True),
        Comm(777, 10, 10, "renamed", False),
        Fork(777, 20, 10, 20, 10),
        Exit(777, 20, False),
    ]


def test_a_torn_block_is_not_decoded() -> None:
    with pytest.raises(ValueError, match="perf record of"):
        split_records(words(other(2, bytes(16)))[:-1])


# ------------------------------------------------------------------------------------ the host


def test_host_facts_are_those_of_proc() -> None:
    facts = host_facts()

    assert facts["page_bytes"] == os.sysconf("SC_PAGESIZE")
    assert facts["page_cluster"] == int(PAGE_CLUSTER.read_text())
    assert facts["thp"] in (None, "always", "madvise", "never")
    assert [device["path"] for device in facts["swap"]] == [device.path for device in swap_devices()]


@pytest.mark.skipif(not Path("/proc/config.gz").exists(), reason="the kernel does not show its configuration")
def test_a_tick_is_that_of_the_kernels_configuration() -> None:
    config = gzip.decompress(Path("/proc/config.gz").read_bytes()).decode()
    (hz,) = (int(line.partition("=")[2]) for line in config.splitlines() if line.startswith("CONFIG_HZ="))

    assert host.tick_ns() == 10**9 // hz


def test_a_file_that_is_gone_has_writes_of_one_page(tmp_path: Path) -> None:
    file = tmp_path / "swaps"
    file.write_text("Filename Type Size Used Priority\n/no/such/file file 1024 4 -2\n")

    assert write_queue(swap_devices(file)[0]) == WriteQueue(False, 1, 0)


def test_what_sysfs_does_not_say_of_a_disk_is_not_there(tmp_path: Path) -> None:
    """wbt_lat_usec of a queue without blk-wbt is there, and reading it is EINVAL; so is reading a folder."""
    (tmp_path / "queue" / "wbt_lat_usec").mkdir(parents=True)

    assert swap._read(tmp_path, "queue/wbt_lat_usec") is None
    assert swap._read(tmp_path, "queue/max_segments") is None


def test_swap_lines_are_read(tmp_path: Path) -> None:
    file = tmp_path / "swaps"
    file.write_text("Filename Type Size Used Priority\n/no/such\\040file file 1024 4 -2\n")

    (device,) = swap_devices(file)

    assert (device.path, device.kind, device.rotational) == ("/no/such file", "file", None)
    assert (device.size_bytes, device.used_bytes, device.priority) == (MIB, 4096, -2)


def test_a_fact_that_the_kernel_lacks_is_none() -> None:
    assert host._text(Path("/sys/kernel/mm/no_such_thing")) is None
