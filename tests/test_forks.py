"""What fork() shares, pages that are one for several processes until one writes, and what mremap() moves."""

import re
import subprocess
from collections import Counter

import numpy as np
import pytest
from builders import callable_part, ssd, workload
from hypothesis import given, settings
from hypothesis import strategies as st
from needs import compiled, gcc, qemu

from kdtool.collect import session
from kdtool.collect.base import Request
from kdtool.collect.refs import References
from kdtool.replay import hook, load_policy, load_workload, replay, run_shadow
from kdtool.replay.keys import VPN_BITS
from kdtool.traces import RefKind, VmaFlag

LOAD, STORE, FORK, UNMAP, SHARE, MOVE = "load", "store", "fork", "unmap", "share", "move"
READ_WRITE = VmaFlag.READ | VmaFlag.WRITE
ALL = 1 << 36
PIDS = range(1, 5)
FIRST, LAST = 0, 6


def loads(pid, *vpns):
    return [(LOAD, pid, vpn, 1) for vpn in vpns]


def stores(pid, *vpns):
    return [(STORE, pid, vpn, 1) for vpn in vpns]


def recorded(events, **options):
    """Return the workload of events as they are recorded: (what, pid, first vpn or the child, pages).

    Of moves the last is (pages, first vpn at the new place).
    """
    refs, vmas, forks = [], [], []
    shared = {}
    for what, pid, vpn, n in events:
        if what in (LOAD, STORE):
            refs.append((pid, vpn, RefKind.STORE if what == STORE else RefKind.LOAD))
        elif what == FORK:
            child = vpn
            shared[child] = set(shared.get(pid, ()))
            vmas += [
                (len(refs), child, page, page + 1, READ_WRITE | VmaFlag.SHARED, 0) for page in shared[child]
            ]
            forks.append((child, pid, len(refs), len(vmas)))
        elif what == MOVE:
            pages, to = n
            vmas += [
                (len(refs), pid, to, to + pages, VmaFlag.UNMAPPED, 0),
                (len(refs), pid, vpn, vpn + pages, VmaFlag.UNMAPPED, to),
                (len(refs), pid, to, to + pages, READ_WRITE, 0),
            ]
        else:
            vmas.append((len(refs), pid, vpn, vpn + n, VmaFlag.UNMAPPED, 0))
            if what == SHARE:
                vmas.append((len(refs), pid, vpn, vpn + n, READ_WRITE | VmaFlag.SHARED, 0))
            left = {page for page in shared.get(pid, ()) if not vpn <= page < vpn + n}
            shared[pid] = left | set(range(vpn, vpn + n)) if what == SHARE else left
    pids, vpns, kinds = zip(*refs, strict=True)
    return workload(
        vpns,
        pids=pids,
        tids=pids,
        kinds=kinds,
        maps=table(
            [(*change, 0) for change in vmas],
            row="i8",
            pid="i4",
            start_vpn="u8",
            end_vpn="u8",
            flags="u1",
            offset_pages="i8",
            name_id="u4",
        ),
        files="none",
        forks=table(forks, pid="i4", parent="i4", row="i8", vma_row="i8"),
        **options,
    )


def table(rows, **columns):
    return {
        name: np.array([row[i] for row in rows], dtype) for i, (name, dtype) in enumerate(columns.items())
    }


def exits(pid):
    return [(UNMAP, pid, 0, ALL)]


def fork(parent, child):
    return [(FORK, parent, child, 0)]


def move(pid, vpn, n, to):
    return [(MOVE, pid, vpn, (n, to))]


def counts(events, pages=1000):
    """Return (cold faults, major faults, accesses) in an LRU of so many pages."""
    w = recorded(events)
    result = replay(w, load_policy("none"), run_shadow(w, pages, ssd(), "lru"), ssd())
    return result.cold_faults, result.major_faults, result.accesses


SHARED = range(30)


@pytest.mark.parametrize(
    ("accesses", "least", "most"),
    [
        pytest.param(loads(2, *SHARED), 0, 5, id="by another process"),
        pytest.param(loads(1, *SHARED), 25, 30, id="by the same one"),
        pytest.param(stores(2, *SHARED), 25, 30, id="by another one that copies it"),
        pytest.param([*loads(2, *SHARED), *stores(2, *SHARED)], 25, 30, id="that read it before"),
    ],
)
def test_a_page_that_two_processes_accessed_is_activated_at_once(accesses, least, most):
    # One process has stored to 30 pages; they are accessed again; new pages need more than there is. Each
    # process has an accessed bit of its own in its PTE: folio_referenced() counts two, and
    # folio_check_references() takes no second look.
    events = [*stores(1, *SHARED), *fork(1, 2), *loads(2, 50), *accesses, *stores(1, *range(100, 200))]
    missed = run_shadow(recorded([*events, *loads(1, *SHARED)]), 90, ssd()).missed[-len(SHARED) :]
    assert least <= np.count_nonzero(missed) <= most


TABLE = [*stores(1, 0, 1, 2)]


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        pytest.param([*TABLE, *fork(1, 2), *loads(2, 0, 1, 2)], (3, 0, 6), id="a child reads what is there"),
        pytest.param([*TABLE, *loads(2, 0, 1, 2)], (6, 0, 6), id="another process does not"),
        pytest.param(
            [*TABLE, *fork(1, 2), *stores(2, 1, 1), *loads(1, 1)],
            (4, 0, 7),
            id="a child copies what it writes",
        ),
        pytest.param(
            [*TABLE, *fork(1, 2), *stores(1, 1, 1), *loads(2, 1)], (4, 0, 7), id="a parent does, too"
        ),
        pytest.param(
            [*TABLE, *fork(1, 2), *stores(2, 1), *stores(1, 1)], (4, 0, 6), id="the last one writes in place"
        ),
        pytest.param(
            [*TABLE, *fork(1, 2), *loads(2, 1), *exits(2), *stores(1, 1)], (3, 0, 5), id="the child is gone"
        ),
        pytest.param(
            [*TABLE, *fork(1, 2), *exits(1), *stores(2, 0), *loads(2, 1)], (3, 0, 5), id="the parent is gone"
        ),
        pytest.param(
            [*TABLE, *fork(1, 2), *exits(2), *loads(2, 1), *loads(1, 1)], (4, 0, 5), id="the child execs"
        ),
        pytest.param(
            [*TABLE, *fork(1, 2), (UNMAP, 1, 1, 1), *loads(2, 1), *loads(1, 1)], (4, 0, 5), id="one unmaps"
        ),
        pytest.param(
            [*TABLE, *fork(1, 2), *loads(2, 7), *stores(1, 1)],
            (5, 0, 6),
            id="a child holds what it never touches",
        ),
        pytest.param(
            [*TABLE, *fork(1, 2), *loads(2, 7), *exits(2), *stores(1, 1)], (4, 0, 5), id="until it is gone"
        ),
        pytest.param(
            [
                *TABLE,
                *fork(1, 2),
                *fork(2, 3),
                *loads(2, 9),
                *exits(1),
                *exits(2),
                *loads(3, 0, 1),
                *stores(3, 1),
            ],
            (4, 0, 7),
            id="a grandchild has it from whoever holds it",
        ),
        pytest.param(
            [*TABLE, *fork(1, 2), *fork(1, 3), *stores(2, 0), *stores(3, 0), *stores(1, 0)],
            (5, 0, 8),
            id="of three sharers two copy",
        ),
        pytest.param(
            [*fork(1, 2), *stores(1, 5), *loads(2, 5)], (2, 0, 2), id="later pages are no one else's"
        ),
        pytest.param(
            [(SHARE, 1, 5, 3), *stores(1, 5), *fork(1, 2), *stores(2, 5, 6), *stores(1, 5, 6)],
            (2, 0, 5),
            id="shared mappings stay shared",
        ),
        pytest.param(
            [
                (SHARE, 1, 5, 3),
                *loads(1, 0),
                *fork(1, 2),
                *fork(1, 3),
                *stores(2, 6),
                *exits(2),
                *loads(3, 6),
            ],
            (2, 0, 3),
            id="also by what only children touch",
        ),
        pytest.param([*TABLE, *move(1, 0, 3, 10), *loads(1, 10, 12)], (3, 0, 5), id="moved pages stay"),
        pytest.param(
            [*TABLE, *move(1, 0, 3, 10), *stores(1, 0), *loads(1, 10)], (4, 0, 5), id="where they were is new"
        ),
        pytest.param(
            [*TABLE, *move(1, 0, 3, 10), *move(1, 10, 3, 20), *loads(1, 20)], (3, 0, 4), id="moved twice"
        ),
        pytest.param(
            [*TABLE, *move(1, 0, 3, 10), (UNMAP, 1, 10, 3), *loads(1, 10)],
            (4, 0, 4),
            id="moved, then unmapped",
        ),
        pytest.param(
            [*TABLE, *move(1, 0, 1, 2), *loads(1, 2)],
            (3, 0, 4),
            id="onto a page that was there",
        ),
        pytest.param(
            [*TABLE, *fork(1, 2), *move(2, 0, 3, 10), *loads(2, 10), *stores(2, 10), *loads(1, 0)],
            (4, 0, 7),
            id="a child moves what it shares",
        ),
    ],
)
def test_by_hand(events, expected):
    assert counts(events) == expected


def test_a_shared_page_that_is_out_is_read_once_for_both():
    events = [*stores(1, 0), *fork(1, 2), *stores(1, *range(10, 20)), *loads(2, 0), *loads(1, 0)]
    assert counts(events, pages=4) == (11, 1, 13)


def test_a_store_to_a_shared_page_that_is_out_reads_it_and_copies_it():
    events = [*stores(1, 0), *fork(1, 2), *stores(1, *range(10, 20)), *stores(2, 0), *loads(1, 0)]
    assert counts(events, pages=4) == (12, 1, 14)


def test_a_moved_page_that_is_out_is_read():
    events = [*stores(1, 0), *stores(1, *range(10, 20)), *move(1, 0, 1, 30), *loads(1, 30)]
    assert counts(events, pages=4) == (11, 1, 12)


def test_what_is_moved_and_never_touched_there_takes_room():
    events = [*stores(1, 0, 1), *move(1, 0, 2, 30), *stores(1, 10, 11), *loads(1, 10, 11, 10)]
    assert counts(events, pages=4) == (4, 0, 7)
    assert counts([*events, *stores(1, 12), *loads(1, 10)], pages=4) == (5, 0, 9)
    assert counts([*events, *loads(1, 31, 30)], pages=4) == (4, 0, 9)


def test_a_policy_is_told_whose_fault_it_is_and_names_that_process_s_pages():
    """The child walks a table that its parent made: a stride in the child's own addresses."""
    n = 200
    filled = [*stores(1, *range(n)), *fork(1, 2), *stores(1, *range(1000, 1050))]
    events = [*filled, *stores(2, 0, 2, 4), *loads(2, *range(6, n, 2))]
    w = recorded(events)
    shadow = run_shadow(w, 30, ssd(), "lru")
    result = replay(w, load_policy("stride"), shadow, ssd())

    assert set(w.pids[w.keys_of(np.arange(w.n_refs)) >> VPN_BITS].tolist()) == {1, 2}
    assert result.prefetch_used > 80
    assert result.prefetch_used > 0.9 * result.prefetch_issued


class Plain:
    """What fork() shares, in so many words: a dict of frames a process, and sets of who has a frame."""

    def __init__(self):
        self.frame, self.owners, self.shared = {}, {}, {pid: set() for pid in PIDS}
        self.unwritten = {pid: set() for pid in PIDS}  # private, never stored to: the kernel's zero page
        self.rows, self.freed, self.states = [], [], []

    def give(self, pid, vpn, frame):
        self.frame[pid, vpn] = frame
        self.owners.setdefault(frame, set()).add((pid, vpn))

    def take(self, pid, vpn):
        frame = self.frame.pop((pid, vpn), None)
        if frame is not None:
            self.owners[frame].discard((pid, vpn))
            if not self.owners[frame]:
                self.freed.append((len(self.rows), frame))

    def row(self, pid, vpn, frame, store):
        self.rows.append((pid, vpn, frame, store))

    def do(self, what, pid, vpn, n):
        if what == FORK:
            child = vpn
            self.shared[child] = set(self.shared[pid])
            for page in self.shared[pid]:
                if (pid, page) not in self.frame:
                    self.give(pid, page, object())
            for (owner, page), frame in list(self.frame.items()):
                if owner == pid:
                    self.give(child, page, frame)
        elif what in (UNMAP, SHARE):
            for page in [page for owner, page in self.frame if owner == pid and vpn <= page < vpn + n]:
                self.take(pid, page)
            inside = {page for page in range(FIRST, LAST + 1) if vpn <= page < vpn + n}
            self.shared[pid] = self.shared[pid] | inside if what == SHARE else self.shared[pid] - inside
            self.unwritten[pid] -= inside
        elif what == MOVE:
            pages, to = n
            for page in range(to, to + pages):
                self.take(pid, page)
            self.unwritten[pid] -= set(range(vpn, vpn + pages))
            for page in range(pages):
                frame = self.frame.pop((pid, vpn + page), None)
                self.unwritten[pid] |= {to + page}
                if frame is not None:
                    self.owners[frame].discard((pid, vpn + page))
                    self.give(pid, to + page, frame)
        else:
            self.touch(pid, vpn, what == STORE)

    def touch(self, pid, vpn, store):
        frame = self.frame.get((pid, vpn))
        if frame is None and not store and vpn in self.unwritten[pid]:
            return
        if frame is not None and store and vpn not in self.shared[pid] and len(self.owners[frame]) > 1:
            self.states.append(dict(self.frame))
            self.row(pid, vpn, frame, 0)
            self.take(pid, vpn)
            frame = None
        if frame is None:
            frame = object()
            self.give(pid, vpn, frame)
        self.states.append(dict(self.frame))
        self.row(pid, vpn, frame, int(store))


@st.composite
def histories(draw):
    """Draw events of up to four processes; a child's pid is that of nobody who lives.

    Pages are moved where none are in shared mappings.
    """
    alive, events = {1}, []
    remaps = draw(st.sampled_from([SHARE, MOVE]))
    for _ in range(draw(st.integers(1, 60))):
        pid, vpn = draw(st.sampled_from(sorted(alive))), draw(st.integers(FIRST, LAST - 1))
        what = draw(st.sampled_from([LOAD] * 4 + [STORE] * 6 + [FORK] * 2 + [UNMAP, remaps, "exit"]))
        if what == "exit":
            events += exits(pid)
            alive -= {pid} if len(alive) > 1 else set()
        elif what == MOVE:
            pages = draw(st.integers(1, 3))
            places = [to for to in range(FIRST + 1, LAST) if abs(to - vpn) >= pages]
            events += move(pid, vpn, pages, draw(st.sampled_from(places))) if places else []
        elif what != FORK:
            events.append((what, pid, vpn, draw(st.integers(1, 3)) if what in (UNMAP, SHARE) else 1))
        elif free := [other for other in PIDS if other not in alive]:
            events += fork(pid, free[0])
            alive.add(free[0])
    # Replay knows processes by their references.
    return [*events, *(loads(pid, LAST)[0] for pid in PIDS)]


@settings(max_examples=400, deadline=None)
@given(histories())
def test_every_row_is_the_page_of_a_plain_model(events):
    plain = Plain()
    for event in events:
        plain.do(*event)

    w = recorded(events)

    frees = list(zip(w.free_row.tolist(), w.free_page.tolist(), strict=True))
    assert w.store.tolist() == [store for *_, store in plain.rows]
    frame_of, rows_of_frees, lives, at = {}, Counter(), [], 0
    life = Counter()
    for row, (pid, vpn, frame, _) in enumerate(plain.rows):
        while at < len(frees) and frees[at][0] <= row:
            life[frees[at][1]] += 1
            at += 1
        lives.append(Counter(life))
        page = int(w.page[row])
        assert frame_of.setdefault((page, life[page]), frame) is frame  # one page is one frame, and so back
        assert w.pids[w.keys_of(np.array([row])) >> VPN_BITS] == [pid]
        assert w.keys_of(np.array([row])) & (1 << VPN_BITS) - 1 == [vpn]
    assert len(set(map(id, frame_of.values()))) == len(frame_of)
    touched = {id(frame) for *_, frame, _ in plain.rows}
    rows_of_frees = Counter(row for row, frame in plain.freed if id(frame) in touched)
    untouched = Counter(row for row, frame in plain.freed if id(frame) not in touched)
    assert not rows_of_frees - Counter(row for row, _ in frees)
    assert not Counter(row for row, _ in frees) - rows_of_frees - untouched
    check_named_pages(w, plain, frame_of, lives)


_PAGE_AT = callable_part(hook._page_at)


def check_named_pages(w, plain, frame_of, lives):
    """At every row, the page that a policy gets by naming a process's vpn is that process's page."""
    trace = (*[0] * 16, w.shared.note_of_key, w.shared.note_row, w.shared.note_page)
    for row, state in enumerate(plain.states):
        for key, number in enumerate(w.keys.tolist()):
            frame = state.get((int(w.pids[number >> VPN_BITS]), number & (1 << VPN_BITS) - 1))
            page = int(_PAGE_AT(key, row, trace))
            found = frame_of.get((page, lives[row][page])) if page >= 0 else None
            known = frame in frame_of.values()
            assert found is frame if known else found not in state.values()


def test_relabelled_processes_change_no_count():
    events = [*TABLE, *fork(1, 2), *stores(2, 1), *loads(2, 0, 2), *stores(1, 2), *loads(1, 0, 1)]
    renamed = [
        (what, 10 - pid, 10 - vpn if what == FORK else vpn, n) for what, pid, vpn, n in events
    ]  # the child is now before its parent in the order of keys
    for pages in (2, 3, 1000):
        assert counts(events, pages) == counts(renamed, pages)


@gcc
@qemu
@pytest.mark.qemu
def test_a_recorded_program_shares_what_it_forked(tmp_path, capfd):
    n, children = 101, 3
    program = compiled(tmp_path, "forks")
    request = Request((program, str(n), str(children)), tmp_path / "t.kdt", k=64)
    trace = session.record(request, [References()])
    own, common = (
        int(word, 16) for word in re.search(r"([0-9a-f]+) ([0-9a-f]+)\n", capfd.readouterr().out).groups()
    )

    w = load_workload(trace, files="none")

    vpn = w.keys_of(np.arange(w.n_refs)) & (1 << VPN_BITS) - 1
    private, shared = (np.unique(w.page[(vpn >= first) & (vpn < first + n)]) for first in (own, common))
    copies = -(-n // 4)  # of each child, whose pages are its keys again, or those of a child before
    assert len(w.pids) == 1 + children
    assert n + copies <= len(private) <= n + children * copies
    assert len(shared) == n
    assert trace.rows("forks") == children


@gcc
@qemu
@pytest.mark.qemu
def test_a_recorded_program_s_pages_are_moved_and_the_kernel_s_are(tmp_path, capfd):
    n = 101
    program = compiled(tmp_path, "moves")
    *_, faults = subprocess.run([program, str(n)], capture_output=True, text=True, check=True).stdout.split()
    assert int(faults) == 0  # Linux moves page table entries

    request = Request((program, str(n)), tmp_path / "t.kdt", k=64)
    w = load_workload(session.record(request, [References()]), files="none")

    first, moved, _ = (int(word, 16) for word in capfd.readouterr().out.split()[-3:])
    vpn = w.keys_of(np.arange(w.n_refs)) & (1 << VPN_BITS) - 1
    before = {int(page) for page in w.page[(vpn >= first) & (vpn < first + n)]}
    after = {int(page) for page in w.page[(vpn >= moved) & (vpn < moved + n)]}
    assert len(after) == n
    assert len(before) == n + 1  # the last store is to what is mapped there anew
    assert after < before
