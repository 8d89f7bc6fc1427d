"""Prefetches by an agent in user space: what it knows, and which decided pages wait for its next call.

    event ─decided─► unread ─AGENT_NS later, or after a call─► known? too late? ─► queue ─► ranges of a call

As `kdtool deploy` does it, by the same rules (rmt/predictions.py, rmt/agentrules.py): an event is a major
fault or the first fault on a predicted page, and a page that would come too late is left to its own fault.
What becomes of a call: agentloop.py. Pages that are mapped or were never there count as looked at a moment
ago: deploy's agent finds that out by pagemap, at the first of the decisions that name them.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kdtool.replay.claims import is_claimed
from kdtool.replay.memory import AGENT_NS, ISSUED, PREDICTED, PREFETCHED, PREFETCHED_NOW, SWAPPED, UNMAPPED
from kdtool.rmt.agentrules import (
    PACES,
    QUEUE_PAGES,
    RANGES,
    after_late,
    after_miss,
    comes_too_late,
    keep_pace,
)
from kdtool.rmt.bpf import ASKED_SLOTS
from kdtool.rmt.jit import inner

__all__ = [
    "BUSY_NS",
    "CALLED_NS",
    "CALL_END",
    "CALL_NEXT",
    "CALL_RANGES",
    "CALL_READS",
    "FREE_NS",
    "LEAD_NS",
    "LOOK_NS",
    "MAKES_ROOM",
    "MOST_WAITING",
    "NO_TURN",
    "Agent",
    "collect",
    "leave_to_agent",
    "new_agent",
    "next_turn",
    "note_issued",
    "read_decisions",
]

UNREAD_WORDS = 1 << 13
"""Room for decisions that the agent has not read yet: a power of two."""
HEAD_WORDS = 4
"""Of a decision, before its pages: the event's time, the thread's pace of hits and of misses, how many."""
MOST_WAITING = UNREAD_WORDS + QUEUE_PAGES
"""Pages that the agent may still ask for: those of decisions, and those that wait for a call."""
NO_TURN = 1 << 62

(FREE_NS, LOOK_NS, BUSY_NS, LEAD_NS, READ_AT, WRITTEN_AT, QUEUE_FIRST, QUEUE_COUNT, CALLED_NS, CALL_RANGES,
 CALL_NEXT, CALL_END, CALL_READS, MAKES_ROOM, N_WORDS) = range(15)  # fmt: skip
"""FREE_NS: when it has done what it has done so far · LOOK_NS: when it next looks whether there is room ·
BUSY_NS: of the last event · LEAD_NS: see agentrules.py · READ_AT, WRITTEN_AT: how many words of `unread` were
read and written · of a call that is not over CALLED_NS: when it began, CALL_RANGES: how many are left,
CALL_NEXT and CALL_END: which page of the last of these is next, and where it ends, CALL_READS: how many of
its reads wait to be sent together · MAKES_ROOM: whether it makes room."""


class Agent(NamedTuple):
    """What an agent keeps: its words, decisions that are unread, pages that wait for a call and when they are
    due, the pages of a call and where its ranges begin, the paces of threads, the tags of predictions, and
    the pages whose reads wait to be sent together."""

    words: npt.NDArray[np.int64]
    unread: npt.NDArray[np.int64]
    queue: npt.NDArray[np.int64]
    call: npt.NDArray[np.int64]
    paces: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    reads: npt.NDArray[np.int64]


def new_agent(*, works: bool) -> Agent:
    """Return an agent that has seen nothing; one that does not work has no room for anything."""
    return Agent(
        words=np.zeros(N_WORDS, np.int64),
        unread=np.zeros(UNREAD_WORDS * works, np.int64),
        queue=np.zeros((QUEUE_PAGES * works, 2), np.int64),
        call=np.zeros((QUEUE_PAGES * works, 2), np.int64),
        paces=np.zeros((PACES * works, 3), np.int64),
        predicted=np.zeros(ASKED_SLOTS * works, np.int64),
        reads=np.zeros(QUEUE_PAGES * works, np.int64),
    )


@inner
def note_issued(page, memory):  # type: ignore[no-untyped-def]
    """Count a page that comes into memory as one of the policy that is scored."""
    memory[8][page] |= PREDICTED
    memory[6][PREFETCHED_NOW] += 1
    memory[7][ISSUED] += 1


@inner
def leave_to_agent(n, tid, major, time_ns, out, words, unread, paces):  # type: ignore[no-untyped-def]
    """Leave a decision of the n pages in `out`, made at the event of a thread, unread; or drop it."""
    hit_ns, miss_ns = keep_pace(paces, tid, major, time_ns)
    words[BUSY_NS] = time_ns
    at = words[WRITTEN_AT]
    if n == 0 or at + HEAD_WORDS + n - words[READ_AT] > UNREAD_WORDS:
        return
    mask = UNREAD_WORDS - 1
    unread[at & mask], unread[at + 1 & mask] = time_ns, hit_ns
    unread[at + 2 & mask], unread[at + 3 & mask] = miss_ns, n
    for i in range(n):
        unread[at + HEAD_WORDS + i & mask] = out[i]
    words[WRITTEN_AT] = at + HEAD_WORDS + n


@inner
def next_turn(words, unread, device):  # type: ignore[no-untyped-def]
    """Return when the agent begins with what waits for it: at once after a call, else AGENT_NS late."""
    if words[QUEUE_COUNT]:
        return words[FREE_NS]
    if words[READ_AT] == words[WRITTEN_AT]:
        return np.int64(NO_TURN)
    event_ns = unread[words[READ_AT] & UNREAD_WORDS - 1]
    return words[FREE_NS] if event_ns <= words[FREE_NS] else event_ns + device[AGENT_NS]


@inner
def read_decisions(now_ns, memory, words, unread, queue):  # type: ignore[no-untyped-def]
    """Queue the pages of all decisions up to now that are not known, nor would come too late."""
    status, marks, mask = memory[0], memory[8], UNREAD_WORDS - 1
    while words[READ_AT] < words[WRITTEN_AT] and unread[words[READ_AT] & mask] <= now_ns:
        at = words[READ_AT]
        due_ns, hit_ns = unread[at & mask], unread[at + 1 & mask]
        miss_ns, n = unread[at + 2 & mask], unread[at + 3 & mask]
        words[READ_AT] = at + HEAD_WORDS + n
        for i in range(n):
            page = unread[at + HEAD_WORDS + i & mask]
            due_ns += hit_ns
            if page < 0 or marks[page] & PREDICTED or status[page] not in (SWAPPED, PREFETCHED, UNMAPPED):
                continue
            if comes_too_late(due_ns, now_ns, words[LEAD_NS]):
                words[LEAD_NS] = after_late(words[LEAD_NS])
                due_ns = after_miss(due_ns, hit_ns, miss_ns)
            elif words[QUEUE_COUNT] < QUEUE_PAGES:
                last = (words[QUEUE_FIRST] + words[QUEUE_COUNT]) % QUEUE_PAGES
                queue[last, 0], queue[last, 1] = page, due_ns
                words[QUEUE_COUNT] += 1
                if status[page] == SWAPPED:
                    marks[page] |= PREDICTED


@inner
def collect(now_ns, memory, words, queue, call):  # type: ignore[no-untyped-def]
    """Take pages from the queue's head for a call: into call[:, 0], where its ranges begin into call[:, 1].

    Returns how many pages and ranges. A page that is in the swap cache is asked for as well, and counts as
    the agent's: it cannot tell it from one on the device. Nor can it one whose fault has just begun.
    """
    status, marks = memory[0], memory[8]
    n, n_ranges = 0, 0
    while words[QUEUE_COUNT]:
        page, due_ns = queue[words[QUEUE_FIRST], 0], queue[words[QUEUE_FIRST], 1]
        joins = n > 0 and page == call[n - 1, 0] + 1
        if n_ranges == RANGES and not joins:
            break
        words[QUEUE_FIRST] = (words[QUEUE_FIRST] + 1) % QUEUE_PAGES
        words[QUEUE_COUNT] -= 1
        waits = status[page] == SWAPPED and marks[page] & PREDICTED != 0
        cached = status[page] in (PREFETCHED, UNMAPPED) and not marks[page] & PREDICTED
        if (waits or cached) and comes_too_late(due_ns, now_ns, words[LEAD_NS]):
            words[LEAD_NS] = after_late(words[LEAD_NS])
            if waits:
                marks[page] &= ~PREDICTED
        elif cached:
            note_issued(page, memory)
        elif waits or is_claimed(page, now_ns, memory):
            if not joins:
                call[n_ranges, 1] = n
                n_ranges += 1
            call[n, 0] = page
            n += 1
    return n, n_ranges
