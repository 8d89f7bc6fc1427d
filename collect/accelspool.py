"""The spool files that the OpenCL layer writes, one pair a process, read while the processes live.

    folder/PID-N.cl     header | slots ...    (clspool.h)
    folder/PID-N.names  kind, id, bytes, text ...

A slot is taken when its command and all before it are settled; what is unsettled when the process has gone
was lost. `counted` of a process = rows + lost: every call that enqueued and was not refused.
The files are written by the recorded program: nothing in them is believed beyond the files' own sizes.
"""

import fcntl
import os
import time
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["HEADER", "NEVER_NS", "SLOT", "Batch", "ProcessSpool", "State"]

MAGIC = 0x316C63616674646B
HEADER_BYTES = 4096
SCAN_SLOTS = 1 << 18
"""Slots looked at in one go: 25 MB."""
HOLD_NS = 1_000_000_000
"""How long a thread may take from reading the clock to handing out its slot."""
NAMES_BYTES = 64 << 20
NEVER_NS = 2**63 - 1


def _struct(fields: str) -> "np.dtype[Any]":
    words = fields.split()
    return np.dtype(list(zip(words[::2], words[1::2], strict=True)), align=True)


SLOT = _struct(
    """state u4 name u4 queue u4 device u2 kind u1 spare u1 bytes u8 address u8 event u8
    before_ns i8 after_ns i8 done_ns i8 queued u8 submit u8 start u8 end u8"""
)
HEADER = _struct("magic u8 slot_bytes u4 pid i4 start_ns i8 slots u8 no_room u8 names_lost u8")
NAME = _struct("kind u4 id u4 bytes u4")


class State(IntEnum):
    """`state` of a slot, as in clspool.h."""

    EMPTY = 0
    ENTERED = 1
    REFUSED = 2
    PENDING = 3
    TAKEN = 4
    DONE = 5
    FAILED = 6
    UNTIMED = 7
    CLOCK = 8


OPEN = (State.EMPTY, State.ENTERED, State.PENDING, State.TAKEN)
LOST = {
    State.ENTERED: "unfinished",
    State.PENDING: "unfinished",
    State.TAKEN: "unfinished",
    State.FAILED: "failed",
    State.UNTIMED: "untimed",
}


@dataclass(frozen=True)
class Batch:
    """Settled slots of one process, and the time before which it will queue nothing that is not in them.

    lost : commands without times, by reason: unfinished, failed, untimed, no_room
    """

    slots: "np.ndarray[Any, Any]"
    before_ns: int
    lost: dict[str, int] = field(default_factory=dict)


class ProcessSpool:
    """The spool of one process; `path` is its `.cl` file.

    pid : 0 until the file is begun
    names : texts by (kind, id): 0 a command, 1 a device, 2 an extension's function that was looked up
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._names_path = path.with_suffix(".names")
        self._names_read = 0
        self._taken = 0
        self._last_ns = 0
        self.pid = 0
        self.ended = False
        self.names: dict[tuple[int, int], str] = {}

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def take(self, *, final: bool) -> Batch:
        """Return the slots settled since the last call; with `final`, or when the process has gone, all."""
        begun = self._header() is not None  # its process has taken the lock before that
        final = final or (begun and self._gone())
        header = self._header()  # with all that it wrote until it was gone
        if header is None:
            self.ended = final
            return Batch(np.empty(0, SLOT), NEVER_NS if final else 0)
        self.pid = int(header["pid"])
        now_ns = time.monotonic_ns()
        fit = (os.fstat(self._file.fileno()).st_size - HEADER_BYTES) // SLOT.itemsize
        slots, first_open = self._settled(min(int(header["slots"]), fit), final=final)
        self._read_names()
        kept = slots[np.isin(slots["state"], (State.DONE, State.CLOCK))]
        if final:
            self.ended = True
            return Batch(kept, NEVER_NS, _count_lost(slots, int(header["no_room"])))
        return Batch(kept, first_open or now_ns - HOLD_NS, _count_lost(slots, 0))

    def _gone(self) -> bool:
        """Return whether the process has ended: it holds a lock as long as it lives."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        fcntl.flock(self._file, fcntl.LOCK_UN)
        return True

    def _header(self) -> "np.void | None":
        data = os.pread(self._file.fileno(), HEADER.itemsize, 0)
        if len(data) < HEADER.itemsize:
            return None
        header: np.void = np.frombuffer(data, HEADER)[0]
        whole = int(header["magic"]) == MAGIC and int(header["slot_bytes"]) == SLOT.itemsize
        return header if whole else None

    def _settled(self, n: int, *, final: bool) -> "tuple[np.ndarray[Any, Any], int]":
        """Return the slots up to the first open one, and when that was entered (0: there is none)."""
        if n <= self._taken:
            return np.empty(0, SLOT), 0
        mapped = np.memmap(self._file, SLOT, "r", HEADER_BYTES, (n,))
        parts, first_open = [], 0
        while self._taken < n and not first_open:
            window = mapped[self._taken : self._taken + SCAN_SLOTS]
            states = np.array(window["state"])  # before the rest: a slot is whole once its state says so
            at = np.flatnonzero(np.isin(states, OPEN))
            end = len(window) if final or not len(at) else int(at[0])
            part = np.array(window[:end])
            part["state"] = states[:end]
            parts.append(part)
            self._taken += end
            if end:
                self._last_ns = max(self._last_ns, int(part["before_ns"][-1]))
            if end < len(window):
                entered = states[end] != State.EMPTY
                first_open = int(window["before_ns"][end]) if entered else max(self._last_ns, 1)
        return np.concatenate(parts), first_open

    def _read_names(self) -> None:
        """Read the names that were appended since the last time; half a record waits for its rest."""
        with self._names_path.open("rb") as file:
            file.seek(self._names_read)
            data = file.read(NAMES_BYTES)
        at = 0
        while at + NAME.itemsize <= len(data):
            record = np.frombuffer(data, NAME, 1, at)[0]
            end = at + NAME.itemsize + int(record["bytes"])
            if end > len(data):
                break
            text = data[at + NAME.itemsize : end].decode(errors="replace")
            self.names[int(record["kind"]), int(record["id"])] = text
            at = end
        self._names_read += at


def _count_lost(slots: "np.ndarray[Any, Any]", no_room: int) -> dict[str, int]:
    lost: dict[str, int] = {}
    for state, reason in LOST.items():
        n = int(np.count_nonzero(slots["state"] == state))
        if n:
            lost[reason] = lost.get(reason, 0) + n
    if no_room:
        lost["no_room"] = no_room
    return lost
