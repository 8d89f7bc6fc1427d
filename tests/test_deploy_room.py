"""Room: the agent has the kernel reclaim before its calls, and a limit is what it was, whatever happens."""

import subprocess
import sys
import time

import pytest

from kdtool.deploy import guard
from kdtool.deploy.layout import ROOMS, new_arrays
from kdtool.deploy.room import make_room, room_in
from kdtool.kernel.memcg import MemoryCgroup
from kdtool.rmt import CONTEXT_FIELDS
from kdtool.rmt.agentrules import FREE_PAGES, LOW_PAGES


@pytest.fixture
def arrays():
    return new_arrays(len(CONTEXT_FIELDS))


class Limited:
    """The memory files of a cgroup of 8192 pages, as room_in() takes them."""

    def __init__(self, folder, version):
        self.memory = MemoryCgroup(folder, version)
        names = ("memory.usage_in_bytes", "memory.limit_in_bytes", "memory.current", "memory.max")
        self.files = {name: folder / name for name in (*names, "memory.reclaim")}
        for file in self.files.values():
            file.write_text(f"{8192 * 4096}\n")

    def use(self, free_pages):
        for name in ("memory.usage_in_bytes", "memory.current"):
            self.files[name].write_text(f"{(8192 - free_pages) * 4096}\n")

    def written(self, name):
        return self.files[name].read_text().splitlines()[0]


@pytest.mark.parametrize(
    ("version", "file", "text"),
    [(2, "memory.reclaim", str(FREE_PAGES * 4096)), (1, "memory.limit_in_bytes", str(8192 * 4096))],
)
def test_room_is_made_where_little_is_left_and_a_limit_stays_what_it_was(
    arrays, tmp_path, version, file, text
):
    limited = Limited(tmp_path, version)
    with room_in(limited.memory, arrays):
        limited.use(LOW_PAGES)
        assert not make_room(arrays.settings, arrays.counters, arrays.scratch)
        limited.files[file].write_text("as it was\n")
        limited.use(LOW_PAGES - 1)
        assert make_room(arrays.settings, arrays.counters, arrays.scratch)
    assert limited.written(file).startswith(text)
    assert arrays.counters[ROOMS] == 1
    limited.use(0)
    assert not make_room(arrays.settings, arrays.counters, arrays.scratch)


def test_v1_reclaims_by_a_limit_that_is_lower_for_a_moment(tmp_path):
    limited = Limited(tmp_path, 1)
    lowered, kept = limited.memory.reclaim_texts(4096)
    assert (int(lowered), int(kept)) == (8191 * 4096, 8192 * 4096)


def test_the_guard_of_a_killed_agent_writes_its_limit_again(tmp_path):
    limit = tmp_path / "kdtool-1-0" / "memory.limit_in_bytes"
    limit.parent.mkdir()
    limit.write_text("1000")
    command = [sys.executable, "-I", "-S", guard.__file__, "-", "-", "8000", str(tmp_path / "kdtool-1-*")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as standing_by:
        assert standing_by.stdout.readline() == guard.READY
        standing_by.stdin.close()  # as if the agent had been killed
        deadline = time.monotonic() + 10
        while limit.read_text() == "1000" and time.monotonic() < deadline:
            time.sleep(0.01)
        assert limit.read_text() == "8000"
        limit.unlink()  # it removes the cgroup as soon as that can be done, and ends
        assert standing_by.wait(10) == 0
    assert not limit.parent.exists()


def test_no_room_is_made_without_a_limit_nor_in_one_that_is_small(arrays, tmp_path):
    limited = Limited(tmp_path, 2)
    for limit in ("max", str(4096 * FREE_PAGES)):
        limited.files["memory.max"].write_text(limit)
        limited.use(0)
        with room_in(limited.memory, arrays):
            assert not make_room(arrays.settings, arrays.counters, arrays.scratch)


def test_a_limit_that_was_left_lower_is_put_back_at_the_end(arrays, tmp_path):
    limited = Limited(tmp_path, 1)
    with room_in(limited.memory, arrays):
        limited.files["memory.limit_in_bytes"].write_text("1000")
    assert limited.written("memory.limit_in_bytes").startswith(str(8192 * 4096))
