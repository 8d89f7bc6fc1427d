"""Pages of our own whose content lies in swap, touched and read ahead under a clock: what paging costs here.

    Pages --swap_out--> all in swap, none in memory --touch / read_ahead--> times --swap_out--> ...

Unit of work: a page of an anonymous private mapping without huge pages. The timing is done in C
(pageprobe.c). Kernel counterpart: madvise_pageout_page_range() and shrink_folio_list() (mm/madvise.c and
mm/vmscan.c, v6.18), do_swap_page() (mm/memory.c). Nothing of other processes is read or evicted.
"""

import ctypes
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Self

import numpy as np
import numpy.typing as npt

from kdtool.collect.compiled import build
from kdtool.errors import CapabilityError

__all__ = ["PACKAGES", "Pages", "Spent", "Touches", "run_instructions"]

PACKAGES = "gcc libc6-dev"
PAGE_BYTES = 4096
MADV_WILLNEED, MADV_PAGEOUT = 3, 21
RUN_PAGES = 512
"""Paged out at once: longer runs gain nothing, and an interrupt waits for one at most."""
PATIENCE_S = 20.0
"""In which pages must leave memory, or arrive: seconds even where a disk seeks for each."""

ASK_AGAIN_S = 0.2

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Spent:
    """What some work took of the thread that did it; `sleeps`: voluntary context switches."""

    wall_ns: int
    cpu_ns: int
    major_faults: int
    sleeps: int


@dataclass(frozen=True)
class Touches:
    """When each touch began and ended (int64, CLOCK_MONOTONIC), and what all took together."""

    begin_ns: Ints
    end_ns: Ints
    spent: Spent


class _Spent(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_int64) for name in ("wall_ns", "cpu_ns", "major_faults", "sleeps"))

    def value(self) -> Spent:
        return Spent(self.wall_ns, self.cpu_ns, self.major_faults, self.sleeps)


class Pages:
    """A mapping of `n` pages. Made untouched; `close`, or the end of a `with` block, frees memory and swap.

    Raises CapabilityError when there is no gcc to compile the probe with, or no memory.
    """

    def __init__(self, n: int) -> None:
        self.n = n
        self._at: int | None = _library().probe_map(n)
        if self._at is None:
            raise CapabilityError(f"no memory for {n} pages: free some")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Unmap them."""
        if self._at is not None:
            _library().probe_unmap(self._at, self.n)
            self._at = None

    def first_touch(self) -> Spent:
        """Store one byte to each page, in order."""
        spent = _Spent()
        _library().probe_store(self._at, self.n, ctypes.byref(spent))
        return spent.value()

    def fill(self, seed: int) -> None:
        """Fill half of each page with random bytes: content that compresses and is not zero."""
        _library().probe_fill(self._at, self.n, seed)

    def touch(self, pages: Sequence[int] | Ints) -> Spent:
        """Load one byte of each of `pages`, in this order."""
        spent, order = _Spent(), np.ascontiguousarray(pages, np.int64)
        _library().probe_load(self._at, order.ctypes.data, len(order), None, None, ctypes.byref(spent))
        return spent.value()

    def time_touches(self, pages: Sequence[int] | Ints) -> Touches:
        """Load one byte of each of `pages`, in this order, reading the clock around each: 50 ns or so."""
        spent, order = _Spent(), np.ascontiguousarray(pages, np.int64)
        begin, end = np.zeros(len(order), np.int64), np.zeros(len(order), np.int64)
        _library().probe_load(
            self._at, order.ctypes.data, len(order), begin.ctypes.data, end.ctypes.data, ctypes.byref(spent)
        )
        return Touches(begin, end, spent.value())

    def read_ahead(self, firsts: Sequence[int] | Ints, run: int) -> Spent:
        """Have the kernel start reading `run` pages from each of `firsts` on: a call of madvise() each."""
        return self._advise(firsts, run, MADV_WILLNEED)

    def page_out(self, firsts: Sequence[int] | Ints, run: int) -> Spent:
        """Have the kernel reclaim `run` pages from each of `firsts` on; they may stay in the swap cache."""
        return self._advise(firsts, run, MADV_PAGEOUT)

    def page_out_all(self) -> Spent:
        """Have the kernel reclaim all pages, in order."""
        whole, rest = divmod(self.n, RUN_PAGES)
        spent = self._advise(np.arange(whole) * RUN_PAGES, RUN_PAGES, MADV_PAGEOUT)
        if rest:
            last = self._advise([whole * RUN_PAGES], rest, MADV_PAGEOUT)
            spent = Spent(*(a + b for a, b in zip(vars(spent).values(), vars(last).values(), strict=True)))
        return spent

    def resident(self, first: int = 0, n: int | None = None) -> npt.NDArray[np.bool_]:
        """Return which of the `n` pages from `first` on (all of them) are in memory.

        Those mapped and those read into the swap cache are, not those being read.
        """
        found = np.zeros(self.n - first if n is None else n, np.uint8)
        _check(_library().probe_resident(self._at, first, len(found), found.ctypes.data), "mincore")
        present: npt.NDArray[np.bool_] = found & 1 != 0
        return present

    def swap_out(self) -> None:
        """Bring all pages out of memory, the swap cache included, so that the next touch is a major fault.

        A page that was written out stays in the swap cache until it is reclaimed once more, which takes a
        mapping: it is touched and paged out again. A page may also be held in the list that some CPU has
        not yet emptied (mm/swap.c, folio batches): the CPUs take turns at reclaiming, which empties theirs.

        Raises CapabilityError when pages do not leave.
        """
        cpus, give_up = sorted(os.sched_getaffinity(0)), time.monotonic() + PATIENCE_S
        turn = 0
        try:
            while True:
                self.page_out_all()
                left = np.flatnonzero(self.resident())
                if not len(left):
                    return
                if time.monotonic() > give_up:
                    raise CapabilityError(
                        f"{len(left)} of {self.n} pages do not leave memory: end what else fills the swap, "
                        f"or look at memory.swap.max of this process's cgroup"
                    )
                if turn > len(cpus):
                    time.sleep(0.001)  # being written
                os.sched_setaffinity(0, {cpus[turn % len(cpus)]})
                self.touch(left)
                turn += 1
        finally:
            if turn:
                os.sched_setaffinity(0, cpus)

    def wait_for(self, first: int, n: int) -> None:
        """Return when the `n` pages from `first` on have been read; CapabilityError when they have not.

        What does not come is asked for again: Linux 6.18 once left a page out, of some 30,000 calls.
        """
        began = asked = time.monotonic()
        while len(missing := np.flatnonzero(~self.resident(first, n))):
            if time.monotonic() > asked + ASK_AGAIN_S:
                self.read_ahead(first + missing, 1)
                asked = time.monotonic()
            if asked > began + PATIENCE_S:
                raise CapabilityError(
                    f"{n} pages were asked for and did not all arrive in {PATIENCE_S:.0f} s: "
                    f"end what else uses the memory, and try again"
                )
            time.sleep(0.0002)

    def _advise(self, firsts: Sequence[int] | Ints, run: int, advice: int) -> Spent:
        spent, starts = _Spent(), np.ascontiguousarray(firsts, np.int64)
        failed = _library().probe_advise(
            self._at, starts.ctypes.data, len(starts), run, advice, ctypes.byref(spent)
        )
        _check(failed, "madvise")
        return spent.value()


def run_instructions(
    matrix: npt.NDArray[np.float64], to: npt.NDArray[np.float64], taps: int, times: int
) -> tuple[int, Spent]:
    """Filter as many columns of `matrix` (rows, columns) as `to` (rows, block) has; how many instructions.

    Each row of `to` gets the weighted sum of `taps` rows, `times` times. The block is an even number of
    columns. Returns the instructions executed, which are known exactly, and what they took.
    """
    spent = _Spent()
    rows, block = matrix.shape[0], to.shape[1]
    instructions = _library().probe_passes(
        matrix.ctypes.data,
        matrix.strides[0],
        rows,
        taps,
        to.ctypes.data,
        block * 8,
        times,
        ctypes.byref(spent),
    )
    return int(instructions), spent.value()


def _check(error: int, call: str) -> None:
    if error:
        raise CapabilityError(
            f"{call} on pages of ours: {os.strerror(error)}: use a kernel of 5.4 or later with CONFIG_SWAP"
        )


@cache
def _library() -> ctypes.CDLL:
    path, _ = build(("pageprobe.c",), PACKAGES)
    library = ctypes.CDLL(str(path))
    pointer, number, code = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    signatures: dict[str, tuple[object, Sequence[Callable[..., object]]]] = {
        "probe_map": (pointer, [number]),
        "probe_unmap": (code, [pointer, number]),
        "probe_resident": (code, [pointer, number, number, pointer]),
        "probe_fill": (None, [pointer, number, ctypes.c_uint64]),
        "probe_store": (None, [pointer, number, pointer]),
        "probe_load": (None, [pointer, pointer, number, pointer, pointer, pointer]),
        "probe_advise": (code, [pointer, pointer, number, number, code, pointer]),
        "probe_passes": (number, [pointer, number, number, number, pointer, number, number, pointer]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
