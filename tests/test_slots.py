"""Swap slots: against a model written apart from the kernels, by hand, and against the running kernel."""

import ctypes
import mmap
import os
import struct

import needs
import numpy as np
import pytest
from builders import callable_part
from hypothesis import given, settings
from hypothesis import strategies as st

from kdtool.kernel.swap import PROC_SWAPS, swap_devices
from kdtool.replay import slots
from kdtool.replay.slots import NO_PAGE, new_clusters, new_page_of_slot

take_slot, free_slot = map(callable_part, (slots.take_slot, slots.free_slot))

CLUSTER = 512


class PlainSlots:
    """The rules of mm/swapfile.c (v6.18) for one CPU, on lists of cluster numbers, oldest first."""

    def __init__(self, n_slots):
        self.n_slots = n_slots
        self.used = {0}
        n_clusters = -(-n_slots // CLUSTER)
        self.count = [0] * n_clusters
        self.count[0] = 1
        self.count[-1] += n_clusters * CLUSTER - n_slots
        self.lists = {"free": [], "nonfull": [], "frag": [], "full": []}
        self.list_of = [None] * n_clusters
        for cluster, count in enumerate(self.count):
            self.append("nonfull" if count else "free", cluster)
        self.next = 0

    def append(self, name, cluster):
        if self.list_of[cluster] is not None:
            self.lists[self.list_of[cluster]].remove(cluster)
        self.lists[name].append(cluster)
        self.list_of[cluster] = name

    def take(self):
        cluster = self.next // CLUSTER
        slot = 0
        if self.next and self.list_of[cluster] in ("nonfull", "frag"):
            slot = self.search(cluster, self.next)
        for name in ("nonfull", "free", "frag"):
            if not slot and self.lists[name]:
                cluster = self.lists[name].pop(0)
                self.list_of[cluster] = None
                slot = self.search(cluster, cluster * CLUSTER)
        return slot

    def search(self, cluster, start):
        end = min((cluster + 1) * CLUSTER, self.n_slots)
        found = next((slot for slot in range(start, end) if slot not in self.used), 0)
        if found:
            self.used.add(found)
            self.count[cluster] += 1
        full = self.count[cluster] == CLUSTER
        name = "full" if full else "frag"
        if self.list_of[cluster] != name:
            self.append(name, cluster)
        self.next = found + 1 if found and not full and found + 1 < end else 0
        return found

    def free(self, slot):
        self.used.remove(slot)
        cluster = slot // CLUSTER
        self.count[cluster] -= 1
        if not self.count[cluster]:
            self.append("free", cluster)
        elif self.list_of[cluster] != "nonfull":
            self.append("nonfull", cluster)


class KernelSlots:
    """The same by the Numba kernels; page s has slot s, so that a slot can be freed by its number."""

    def __init__(self, n_slots):
        self.page_of_slot = np.full(n_slots, NO_PAGE, np.int32)
        self.page_of_slot[0] = -2
        self.slot = np.full(n_slots, -1, np.int32)
        self.clusters = new_clusters(n_slots)
        self.next = 0

    def take(self):
        slot, self.next = (int(n) for n in take_slot(self.next, self.page_of_slot, self.clusters))
        if slot:
            self.page_of_slot[slot] = self.slot[slot] = slot
        return slot

    def free(self, slot):
        free_slot(slot, self.slot, self.page_of_slot, self.clusters)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.integers(1, 600)),
        st.tuples(st.just("free"), st.slices(2000)),
    ),
    min_size=10,
    max_size=25,
)


@settings(max_examples=100, deadline=None)
@given(n_slots=st.integers(2, 4 * CLUSTER), steps=STEPS)
def test_kernels_and_plain_model_hand_out_the_same_slots(n_slots, steps):
    plain, kernel, held = PlainSlots(n_slots), KernelSlots(n_slots), []
    for what, n in steps:
        if what == "take":
            taken = [plain.take() for _ in range(n)]
            assert [kernel.take() for _ in range(n)] == taken
            held += [slot for slot in taken if slot]
            continue
        chosen = held[n]
        for slot in chosen:
            plain.free(slot)
            kernel.free(slot)
        held = [slot for slot in held if slot not in set(chosen)]
    assert len(set(held)) == len(held)


def take(slots, n):
    return [slots.take() for _ in range(n)]


def freed(slots, numbers):
    for number in numbers:
        slots.free(number)


@pytest.mark.parametrize("kind", [PlainSlots, KernelSlots])
class TestByHand:
    """Areas of four clusters: slots 0-511, 512-1023, 1024-1535, 1536-2047."""

    def test_an_empty_area_is_filled_in_rising_order(self, kind):
        assert take(kind(2048), 2048) == [*range(1, 2048), 0]

    def test_a_last_cluster_cut_short_comes_second(self, kind):
        # It is partly used from the start, as the first is by the header: both begin on nonfull.
        assert take(kind(1030), 520) == [*range(1, 512), *range(1024, 1030), 512, 513, 514]

    def test_slots_freed_behind_the_search_wait_until_the_cluster_ends(self, kind):
        slots = kind(2048)
        take(slots, 100)
        freed(slots, [10, 20])
        assert take(slots, 412) == [*range(101, 512), 512]
        # The first cluster was searched after the slots were freed: it is on frag, behind every free one.
        assert take(slots, 1535) == range_list(513, 2048)
        assert take(slots, 3) == [10, 20, 0]

    def test_slots_freed_in_a_full_cluster_come_before_free_clusters(self, kind):
        slots = kind(2048)
        take(slots, 511)
        freed(slots, [10, 20])
        assert take(slots, 3) == [10, 20, 512]

    def test_the_cluster_that_had_a_slot_freed_first_comes_first(self, kind):
        slots = kind(2048)
        take(slots, 1023)
        freed(slots, [700, 3, 701])
        assert take(slots, 4) == [700, 701, 3, 1024]

    def test_a_cluster_that_became_empty_goes_behind_the_other_free_ones(self, kind):
        slots = kind(2048)
        take(slots, 520)
        freed(slots, range(512, 521))
        assert take(slots, 2) == [1024, 1025]
        assert take(slots, 1022) == range_list(1026, 2048)
        assert take(slots, 2) == [512, 513]


def range_list(start, stop):
    return list(range(start, stop))


def test_the_area_is_never_half_full():
    for n_pages in (1, 40_000, 100_000):
        assert len(new_page_of_slot(n_pages)) > 2 * n_pages
        assert len(new_page_of_slot(n_pages)) % CLUSTER == 0


PAGE = 4096
MADV_PAGEOUT = 21


class Pages:
    """Private anonymous pages of this process, and what the kernel says of them."""

    def __init__(self, n):
        self.map = mmap.mmap(-1, n * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        self.libc = ctypes.CDLL(None, use_errno=True)

    def advise(self, page, advice):
        start = ctypes.c_void_p(self.address + page * PAGE)
        assert self.libc.madvise(start, ctypes.c_size_t(PAGE), advice) == 0, os.strerror(ctypes.get_errno())

    def slot(self, page):
        """Return the page's slot, None while it is mapped (admin-guide/mm/pagemap.rst)."""
        with open("/proc/self/pagemap", "rb", buffering=0) as file:
            file.seek((self.address // PAGE + page) * 8)
            (word,) = struct.unpack("<Q", file.read(8))
        return (word >> 5) & ((1 << 50) - 1) if word >> 62 & 1 else None


class Area:
    """The one swap area that is on, and how many of its slots are used; skips when others use it too."""

    def __init__(self):
        (device,) = swap_devices()
        self.n_slots = device.size_bytes // PAGE + 1
        self.used = device.used_bytes // PAGE

    def used_now(self):
        lines = PROC_SWAPS.read_text().splitlines()[1:]
        if len(lines) != 1:
            pytest.skip("other swap is on: the kernel fills both by turns")
        return int(lines[0].split()[-2]) * 1024 // PAGE

    def change(self, allowed):
        """Return by how much the used slots changed since the last call."""
        before, self.used = self.used, self.used_now()
        if self.used - before not in allowed:
            pytest.skip(f"{self.used - before} slots changed: another process swaps as well")
        return self.used - before


OUT, LOAD, STORE, UNMAP = range(4)
MIXES = {
    "sequential": (1, 0, 0, 0),
    "loads": (4, 1, 0, 0),
    "stores": (4, 0, 1, 0),
    "unmapped": (4, 0, 0, 1),
    "mixed": (4, 1, 1, 1),
}


@pytest.mark.root
@needs.root
@pytest.mark.usefixtures("_one_cpu")
@pytest.mark.parametrize("rotational", [False, True], ids=["ssd", "rotational"])
def test_slots_are_those_of_the_running_kernel(rotational):
    """Pages are written out, loaded, stored to and unmapped one at a time; every slot is as predicted.

    That a slot is free again is read from /proc/swaps: a page that the kernel is still busy with keeps
    its slot when it is stored to, which happens to about one store in a hundred here.
    """
    with needs.swap_up(rotational=rotational):
        if len(swap_devices()) != 1:
            pytest.skip("other swap is on: the kernel fills both by turns")
        area = Area()
        model = PlainSlots(area.n_slots)
        rng = np.random.default_rng(1)
        runs = [swap_some(model, area, weights, rng) for weights in MIXES.values()]
    kept, stores = (sum(counts) for counts in zip(*runs, strict=True))
    assert stores > 300
    assert kept < 0.1 * stores


def swap_some(model, area, weights, rng, n_pages=3000, n_operations=4000):
    """Do random operations and compare slots; return (stores that left a slot to its page, all stores)."""
    pages = Pages(n_pages)
    for page in range(n_pages):
        pages.map[page * PAGE] = 1
    slot, swapped = {}, set()
    kept = stores = 0
    operations = rng.choice(len(weights), n_operations, p=np.array(weights) / sum(weights))
    for step, operation in enumerate(operations.tolist()):
        page = int(rng.integers(n_pages)) if rng.random() < 0.5 else step % n_pages
        if operation == OUT:
            pages.advise(page, MADV_PAGEOUT)
            if area.change({0, 1}):
                if page in slot:  # a page that the kernel was busy with, and keeps its slot
                    pytest.skip("1 slot changed that is not ours: another process swaps as well")
                slot[page] = model.take()
            if (found := pages.slot(page)) is not None:
                assert found == slot[page], f"step {step}"
                swapped.add(page)
            continue
        if operation == UNMAP:
            pages.advise(page, mmap.MADV_DONTNEED)
        if operation == LOAD:
            assert pages.map[page * PAGE] == 1
        else:
            pages.map[page * PAGE] = 1
        if area.change({0, -1}):
            model.free(slot.pop(page))
            assert operation == UNMAP or (operation == STORE and page in swapped), f"step {step}"
        elif operation == STORE and page in swapped:
            kept += 1
        stores += operation == STORE and page in swapped
        swapped.discard(page)
    unmap_all(pages, n_pages, area, slot, model)
    return kept, stores


def unmap_all(pages, n_pages, area, slot, model):
    for page in range(n_pages):
        pages.advise(page, mmap.MADV_DONTNEED)
        if area.change({0, -1}):
            model.free(slot.pop(page))


@pytest.fixture
def _one_cpu():
    """Keep this process on one CPU: the kernel has a cluster for each."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)
