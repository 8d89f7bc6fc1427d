"""Pages of files in memory: windows worked by hand from mm/filemap.c, counts of a kernel, and the kernel."""

import os
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from builders import ssd, workload
from hypothesis import given, settings
from hypothesis import strategies as st
from needs import compiled, gcc, loop, loop_disk, qemu, root
from test_cli import kdtool

from kdtool.errors import ParameterError, TraceError
from kdtool.kernel.cgroup import OwnCgroup, find_layout
from kdtool.replay import (
    Flush,
    check_memory,
    least_memory,
    load_policy,
    load_workload,
    replay,
    run_shadow,
)
from kdtool.replay.filemaps import read_ahead_pages
from kdtool.replay.run import replay_none
from kdtool.traces import RefKind, Trace, VmaFlag

START = 0x1000
ANON = 0x100000
READ, EXEC, WRITE, SHARED = VmaFlag.READ, VmaFlag.EXEC, VmaFlag.WRITE, VmaFlag.SHARED
FILE, GONE = VmaFlag.FILE, VmaFlag.UNMAPPED


def mappings(*rows):
    """Return `vmas` of (row, pid, first vpn, pages, flags, name, offset)."""
    names = ("row", "pid", "start_vpn", "end_vpn", "flags", "name_id", "offset_pages")
    rows = [(row, pid, vpn, vpn + n, flags, name, at) for row, pid, vpn, n, flags, name, at in rows]
    dtypes = ("i8", "i4", "u8", "u8", "u1", "u4", "i8")
    return {
        name: np.array([row[i] for row in rows], dtype)
        for i, (name, dtype) in enumerate(zip(names, dtypes, strict=True))
    }


def one_file(n_pages, flags=READ | SHARED):
    return mappings((0, 1, START, n_pages, flags | FILE, 5, 0))


def counts(touches, n_pages=1000, capacity=500, flags=READ | SHARED, reclaim="linux", **columns):
    """Return (major, minor, pages read) of touching pages of a file of `n_pages`, 0.1 s apart."""
    maps, which = one_file(n_pages, flags), "all" if flags & EXEC else "data"
    columns = {"step_insns": 10**9} | columns
    w = workload(START + np.array(touches), maps=maps, files=which, **columns)
    _, result = replay_none(w, capacity, ssd(), reclaim)
    assert result.major_faults == result.file_major_faults
    assert result.hits == result.accesses - result.major_faults - result.minor_faults
    return result.major_faults, result.minor_faults, result.file_pages_read


@pytest.mark.parametrize(
    ("touches", "expected"),
    [
        # The window is 32 pages around the touch, of which none is before the file or behind it.
        ([500], (1, 0, 32)),
        ([0], (1, 0, 32)),
        ([999], (1, 0, 17)),
        # 500 reads 484 to 515: the marker is on 508; 496 to 511 but the marker are mapped beside it.
        ([500, 496, 507, 509, 511], (1, 0, 32)),
        ([500, 495], (1, 1, 32)),
        ([500, 484], (1, 1, 32)),
        ([500, 483], (2, 0, 32 + 17)),
        ([500, 516], (2, 0, 48)),
        # The marker asks for the 32 pages behind the window, whose own marker is on the first of them.
        ([500, 508], (1, 1, 64)),
        ([500, 508, 516], (1, 2, 96)),
        ([500, 508, 517], (1, 2, 64)),
        # From the start: 0 to 31, marker 24; mapped with 0: to 15, with 16: to 31 but 24.
        (range(24), (1, 1, 32)),
        (range(25), (1, 2, 64)),
    ],
    ids=str,
)
@pytest.mark.parametrize("reclaim", ["linux", "lru", "mglru"])
def test_what_is_read_around_and_mapped_beside(touches, expected, reclaim):
    assert counts(touches, reclaim=reclaim) == expected


def test_executable_code_is_read_from_the_fault_to_the_end_of_its_mapping():
    assert counts([500], flags=READ | EXEC) == (1, 0, 32)
    assert counts([990], flags=READ | EXEC) == (1, 0, 10)
    assert counts([500, 499], flags=READ | EXEC) == (2, 0, 32 + 1)


def test_advice_changes_what_is_read():
    assert counts([500, 501, 600], flags=READ | VmaFlag.RANDOM) == (3, 0, 3)
    # As a read of 32 pages at 500: alone, since nothing before it is in memory and it is not the start.
    assert counts([500], flags=READ | VmaFlag.SEQUENTIAL) == (1, 0, 32)
    # At the start it is a sequence: 32 pages, the marker on the 17th.
    assert counts([0, 16], flags=READ | VmaFlag.SEQUENTIAL) == (1, 1, 64)


def test_no_readahead_reads_alone():
    assert counts([500, 501, 500], ra_pages=0) == (2, 0, 2)


def test_a_file_that_misses_far_more_than_it_hits_is_no_longer_read_around():
    # A store maps nothing beside its page, so that no miss is forgiven: the 101st is the first to read alone.
    far = 32 + 64 * np.arange(150)
    kinds = np.ones(150)
    found = counts(far, n_pages=10_000, capacity=10_000, flags=READ | WRITE | SHARED, kinds=kinds)
    assert found == (150, 0, 100 * 32 + 50)


def test_pages_mapped_twice_are_one_page_and_stay_when_they_are_unmapped():
    maps = mappings(
        (0, 1, START, 100, READ | SHARED | FILE, 5, 0),
        (0, 2, ANON, 50, READ | SHARED | FILE, 5, 50),
        (2, 1, START, 100, GONE, 0, 0),
        (2, 2, ANON, 50, GONE, 0, 0),
        (2, 2, START, 100, READ | SHARED | FILE, 5, 0),
    )
    vpns, pids = [START + 60, ANON + 10, START + 60], [1, 2, 2]
    _, result = replay_none(workload(vpns, pids=pids, maps=maps), 100, ssd(), "linux")
    assert (result.file_major_faults, result.hits, result.minor_faults) == (1, 1, 1)


def test_a_private_page_is_its_own_from_its_first_store_on():
    maps = one_file(100, READ | WRITE)
    w = workload([START, START, START + 1], kinds=[0, 1, 1], maps=maps)
    _, result = replay_none(w, 100, ssd(), "linux")
    assert (result.file_major_faults, result.cold_faults) == (1, 2)


def test_which_files_are_in_memory_is_chosen():
    maps = mappings((0, 1, 0, 10, READ | FILE, 5, 0), (0, 1, 10, 10, READ | EXEC | FILE, 6, 0))
    found = {which: workload([30, 0, 11], maps=maps, files=which).n_refs for which in ("none", "data", "all")}
    assert found == {"none": 1, "data": 2, "all": 3}
    kinds = [0, 0, RefKind.CODE]
    maps["flags"][1] = READ | FILE  # as an emulator maps code
    assert workload([30, 0, 11], maps=maps, kinds=kinds).n_refs == 2
    with pytest.raises(ParameterError, match="did you mean 'data'"):
        workload([30, 0], maps=maps, files="date")


def test_a_mapping_whose_offset_is_unknown_is_left_out():
    maps = mappings((0, 1, 0, 10, READ | FILE, 5, -1))
    assert workload([30, 0], maps=maps, files="all").n_refs == 1
    del maps["offset_pages"]
    assert workload([30, 0], maps=maps, files="all").n_refs == 1


def test_files_that_are_left_out_need_no_memory():
    code = mappings((0, 1, START, 50, READ | EXEC | FILE, 6, 0))
    heap = mappings((0, 1, ANON, 50, READ | WRITE, 7, 0))
    stores = {"vpns": [ANON, ANON + 1, ANON + 2, ANON], "kinds": [1, 1, 1, 1]}
    for maps, files in ((code, "data"), (heap, "all"), (one_file(50), "none")):
        w = workload(**stores, maps=maps, files=files)
        assert w.files.ra_pages == 0
        assert run_shadow(w, 2, ssd()).missed.sum() == 1
    assert workload(**stores, maps=one_file(50)).files.ra_pages == 32


@pytest.mark.parametrize(
    ("k", "degree_pages", "file_pages", "memory_pages", "saying"),
    [
        (0, 0, 0, 1, "any replay needs 2 at least: give more memory"),
        (0, 16, 0, 17, "a policy that prefetches 16 needs 18 at least: give more memory or a policy that "
                       "prefetches fewer (train --degree)"),
        (16, 16, 0, 17, "a policy that prefetches 16 needs 18 at least: give more memory or a policy that "
                        "prefetches fewer (train --degree)"),
        (0, 16, 50, 33, "files with a readahead of 32 need 34 at least: give more memory or a smaller "
                        "--read-ahead"),
        (64, 16, 50, 64, "a trace reduced with k = 64 needs 65 at least: give more memory or record with a "
                         "smaller --k"),
    ],
)  # fmt: skip
def test_a_memory_that_is_too_small_says_for_what_and_what_else_would_help(
    k, degree_pages, file_pages, memory_pages, saying
):
    w = workload([ANON, START], maps=one_file(file_pages) if file_pages else None, k=k)
    assert least_memory(w, degree_pages) == memory_pages + 1
    check_memory(w, memory_pages + 1, degree_pages)
    with pytest.raises(ParameterError) as caught:
        check_memory(w, memory_pages, degree_pages)
    assert str(caught.value) == f"memory is {memory_pages} pages, but {saying}"


def test_bounds_refuse_files_and_windows_have_a_limit():
    w = workload(START + np.arange(50), maps=one_file(50))
    shadow = run_shadow(w, 40, ssd())
    with pytest.raises(ParameterError, match="--files none"):
        replay(w, load_policy("belady"), shadow, ssd())
    with pytest.raises(ParameterError, match="readahead of 32 need 34"):
        run_shadow(w, 33, ssd())
    for text in ("5000", "128M"):
        with pytest.raises(ParameterError, match="whole pages"):
            read_ahead_pages(text)


@settings(max_examples=150, deadline=None)
@given(
    refs=st.lists(st.tuples(st.booleans(), st.integers(0, 150), st.booleans()), min_size=1, max_size=600),
    capacity=st.integers(40, 140),
    reclaim=st.sampled_from(["linux", "lru", "mglru"]),
    shared=st.booleans(),
)
def test_counts_balance_and_memory_is_never_exceeded(refs, capacity, reclaim, shared):
    vpns = [START + page if of_file else ANON + page for of_file, page, _ in refs]
    maps = one_file(151, READ | WRITE | (SHARED if shared else 0))
    w = workload(vpns, kinds=[store for *_, store in refs], maps=maps)
    shadow, none = replay_none(w, capacity, ssd(), reclaim)
    for result in (none, replay(w, load_policy("linux-vma"), shadow, ssd())):
        faults = result.minor_faults + result.major_faults + result.cold_faults
        assert result.accesses == result.hits + faults
        assert result.minor_faults == result.prefetch_used + result.cache_hits
        distinct = len(np.unique(w.page[w.page >= len(w.keys)]))
        # Nothing is read twice that did not leave, and what is touched was read.
        assert distinct <= result.file_pages_read <= result.file_refaults + 151
        assert result.file_major_faults <= result.file_pages_read
    assert none.file_major_faults == np.count_nonzero(shadow.missed == 2)


def draws(seed):
    """Yield what tests/programs/mapfile.c draws: 31 random bits."""
    state = seed
    while True:
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        yield state >> 33


def touched(order, n_touches, n_pages=40_960):
    """Return the pages of the file that mapfile.c touches."""
    draw = draws(1)
    if order == "random":
        return np.array([next(draw) % n_pages for _ in range(n_touches)])
    if order == "hot":
        return np.array(
            [next(draw) % (n_pages // 8 if next(draw) % 2 else n_pages) for _ in range(n_touches)]
        )
    in_pass = -(-n_pages // order)
    i = np.arange(n_touches)
    return np.minimum(i // in_pass % order + i % in_pass * order, n_pages - 1)


LIMIT_PAGES, FILE_PAGES = 16_384, 40_960
KERNEL_PAGES, OTHER_PAGES = 190, 110
"""Charged to mapfile.c besides the file: memory.kmem.usage_in_bytes, and its stack, heap and so on."""


@pytest.mark.parametrize(
    ("order", "kernel", "kernel_read", "percent"),
    [
        (3, (9_993, 9_993), (180_000, 180_000), 0.1),
        (7, (19_994, 19_994), (419_970, 419_970), 0.1),
        (40, (60_000, 60_000), (1_919_808, 1_919_808), 0.1),
        ("random", (36_710, 36_711), (967_097, 971_875), 0.5),
        ("hot", (23_275, 23_606), (567_168, 573_184), 1),
    ],
)
def test_a_mapped_file_is_read_as_the_kernel_reads_it(order, kernel, kernel_read, percent):
    """60,000 touches of a file of 160 MiB in 64 MiB, read_ahead_kb 128, ext4, Linux 6.18."""
    w = workload(START + touched(order, 60_000), maps=one_file(FILE_PAGES), step_insns=50)
    _, result = replay_none(w, LIMIT_PAGES - KERNEL_PAGES - OTHER_PAGES, ssd(), "linux")
    near = percent / 100
    assert kernel[0] * (1 - near) <= result.file_major_faults <= kernel[1] * (1 + near)
    assert kernel_read[0] * (1 - near) <= result.file_pages_read <= kernel_read[1] * (1 + near)


@pytest.mark.parametrize(
    ("order", "kernel", "swap_ins"),
    [("random", (47_092, 48_924), 56_072), ("hot", (33_228, 35_400), 41_445)],
)
def test_files_and_anonymous_pages_share_memory_as_under_the_kernel(order, kernel, swap_ins):
    """The same beside a loop over 6,000 pages written first, swap by VMA readahead at page-cluster 3."""
    pages = START + touched(order, 60_000)
    loop_over = ANON + np.arange(60_000) % 6000
    vpns = np.concatenate([ANON + np.arange(6000), np.stack([pages, loop_over], axis=1).ravel()])
    w = workload(vpns, kinds=np.arange(len(vpns)) < 6000, maps=one_file(FILE_PAGES), step_insns=100)
    capacity = LIMIT_PAGES - KERNEL_PAGES - OTHER_PAGES
    shadow = run_shadow(w, capacity, ssd(), "linux", Flush(phase_ns=800_000_000))
    result = replay(w, load_policy("linux-vma"), shadow, ssd())
    assert kernel[0] * 0.98 <= result.major_faults <= kernel[1] * 1.02
    predicted = result.major_faults - result.file_major_faults + result.prefetch_issued
    assert abs(predicted - swap_ins) <= 0.25 * swap_ins


def under_the_kernel(program, file, order, n_touches):
    """Return (major faults, pages read) of mapfile.c in a cgroup of 64 MiB, the file not in memory."""
    with OwnCgroup(find_layout(), with_memory=True, with_events=False) as cgroup:
        (cgroup.memory / "memory.limit_in_bytes").write_text(str(LIMIT_PAGES * 4096))
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
        pid = os.fork()
        if pid == 0:
            (cgroup.memory / "cgroup.procs").write_text(str(os.getpid()))
            os.execv(program, [program, str(file), str(order), str(n_touches), "1", "0"])
        _, status, usage = os.wait4(pid, 0)
        assert status == 0
        return usage.ru_majflt, usage.ru_inblock // 8


@root
@gcc
@qemu
@loop
@pytest.mark.root
@pytest.mark.parametrize("order", ["3", "random"])
def test_a_recorded_program_reads_its_file_as_it_does_under_the_kernel(tmp_path, order):
    if find_layout().memory is None or find_layout().memory.version != 1:
        pytest.skip("no cgroup v1 memory hierarchy")
    program, n_touches = compiled(tmp_path, "mapfile"), 20_000
    with loop_disk(300 << 20) as (disk, _):
        subprocess.run(["mkfs.ext4", "-q", "-F", disk], check=True)
        Path("/sys/block", Path(disk).name, "queue/read_ahead_kb").write_text("128")
        folder = tmp_path / "mnt"
        folder.mkdir()
        subprocess.run(["mount", disk, folder], check=True)
        try:
            file = folder / "data"
            file.write_bytes(os.urandom(4096) * FILE_PAGES)
            os.sync()
            major, read = under_the_kernel(program, file, order, n_touches)
            trace = tmp_path / "t.kdt"
            kdtool("collect", "--events", "refs", "-o", trace, "--", program, file, order, n_touches, 1, 0)
        finally:
            for _ in range(20):
                if subprocess.run(["umount", folder], capture_output=True, check=False).returncode == 0:
                    break
                time.sleep(0.1)

    w = load_workload(Trace(trace))
    _, result = replay_none(w, LIMIT_PAGES - KERNEL_PAGES, ssd(), "linux")

    assert FILE_PAGES in (w.files.files[:, 2] - w.files.files[:, 1])
    # The kernel also reads parts of the program itself, and of its trace nothing is in memory but the file.
    assert abs(result.file_major_faults - major) <= 0.01 * major + 15
    assert abs(result.file_pages_read - read) <= 0.02 * read + 500


@pytest.mark.parametrize(
    "wrong",
    [
        {"start_vpn": 1 << 40},
        {"end_vpn": 1 << 52},
        {"start_vpn": (1 << 64) - 1},
        {"offset_pages": -2},
        {"offset_pages": 1 << 52},
    ],
)
def test_mappings_that_no_address_space_has_are_refused(wrong):
    maps = mappings((0, 1, 0, 10, READ | FILE, 5, 0), (2, 1, 30, 40, READ | FILE, 6, 0))
    for name, value in wrong.items():
        maps[name][1] = value
    with pytest.raises(TraceError, match="row 1 of vmas maps pages"):
        workload([0, 1, 30], maps=maps)


def test_files_that_no_memory_could_hold_are_refused():
    maps = mappings((0, 1, 0, 10, READ | FILE, 5, 0), (2, 1, 30, 40, READ | FILE, 5, 1 << 40))
    with pytest.raises(TraceError, match="give --files none"):
        workload([0, 1, 30], maps=maps, files="all")
    assert workload([0, 1, 30, 99], maps=maps, files="none").n_refs == 1
