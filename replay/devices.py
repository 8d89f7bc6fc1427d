"""What a swap device and a fault cost: integers with a unit and a source, one JSON file a device.

Profiles ship in `devices/`; a file of the same form may be given instead, such as `kdtool calibrate`
writes for the host. A profile that names a `base` takes from it the numbers that it does not have: the
kernel's work is the same whatever device it waits for.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdtool.errors import ParameterError, unknown_name
from kdtool.replay.memory import AGENT_NS, N_DEVICE
from kdtool.traces.document import read_document

__all__ = ["DEVICE_FIELDS", "Device", "device_names", "load_device", "write_device"]

DEVICE_FIELDS = (
    "latency_ns", "service_ns", "transfer_ns", "synchronous", "batched", "major_ns", "minor_ns", "cold_ns",
    "prefetch_ns", "range_ns", "call_ns", "reclaim_ns", "writeout_ns", "beside_ns", "beside_write_ns",
    "step_ps", "insn_ps", "n_cpus", "slice_ns", "tick_ns", "request_pages", "write_requests",
)  # fmt: skip
"""In the order of the engine's vector (replay/memory.py).

latency_ns: a 4 KiB random read on the idle device · service_ns: between the ends of two queued random
reads · transfer_ns: the same for a read merged with its neighbour · synchronous: 1 when the faulting
thread does the read itself · batched: 1 when reads that were submitted together
end together, with the last · major_ns, minor_ns, cold_ns: the kernel's own work at a fault on a swapped,
a prefetched and a new page · prefetch_ns: to allocate and submit one prefetch · range_ns, call_ns: what a
range of an agent's call takes beside its pages, and a call beside its ranges · reclaim_ns: to unmap and
free one page · writeout_ns: to write it out first, if it is dirty · beside_ns: what an agent on another CPU
that acts costs the workload for each page that comes from swap: events, interrupts of its reads and of its
reclaim, and its locks · beside_write_ns: what it costs the workload that the agent's reclaim writes a page
out: the flush of its TLB, which a dirty page has to itself (try_to_unmap_flush_dirty(), mm/rmap.c, v6.18),
and the interrupt when it is written; as long the agent's reclaim waits for that flush, and for the one that
clean pages of a list share (try_to_unmap_flush()) · step_ps: one step of a program, in picoseconds · insn_ps:
one instruction of the workload, in picoseconds · n_cpus: how many CPUs the workload's threads share, 0 for as
many as there are threads · slice_ns: how long a thread that has slept keeps its CPU from the worker that
notes there which writes have ended, 0 where the interrupt itself does, see writeends.py · tick_ns: how often
the scheduler looks who is next, whoever runs · request_pages: the most pages of one request, see plug.py ·
write_requests: how many write requests may be on their way at first, 0 for any number, see throttle.py.
"""

FLAGS = ("synchronous", "batched")
POSITIVE = {"tick_ns": 4_000_000, "request_pages": 128}
"""Numbers that are never 0, and an example."""
MAX_VALUE = 1 << 40
"""18 minutes in ns: sums of them stay far inside 64 bits."""
FOLDER = Path(__file__).parent / "devices"


@dataclass(frozen=True)
class Device:
    """A profile: its name, its vector of int64 in the order of DEVICE_FIELDS, the source of each number.

    The last word of the vector is `agent_ns`, which no file has: see by_agent().
    """

    name: str
    values: npt.NDArray[np.int64]
    sources: dict[str, str]

    @property
    def synchronous(self) -> bool:
        """Tell whether reads are the faulting thread's own work: Linux then reads nothing ahead."""
        return bool(self.number("synchronous"))

    @property
    def agent_ns(self) -> int:
        """Return how long after a fault an idle agent looks, see agent.py; 0: the kernel decides."""
        return int(self.values[AGENT_NS])

    def number(self, field: str) -> int:
        """Return one of DEVICE_FIELDS.

        >>> load_device("zram").number("synchronous")
        1
        """
        return int(self.values[DEVICE_FIELDS.index(field)])

    def having(self, numbers: Mapping[str, int]) -> "Device":
        """Return this device with other numbers, each one of DEVICE_FIELDS.

        >>> load_device("ssd").having({"latency_ns": 70_000}).number("latency_ns")
        70000
        """
        values = self.values.copy()
        for field, number in numbers.items():
            values[DEVICE_FIELDS.index(field)] = number
        return replace(self, values=values)

    def by_agent(self, agent_ns: int) -> "Device":
        """Return this device with an agent that asks so late; ParameterError for a time out of range."""
        if not 0 <= agent_ns < MAX_VALUE:
            raise ParameterError(f"an agent {agent_ns} ns late: give from 0 to {MAX_VALUE - 1}")
        values = self.values.copy()
        values[AGENT_NS] = agent_ns
        return replace(self, values=values)


def device_names() -> list[str]:
    """Return the profiles that ship with kdtool."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def load_device(name: str) -> Device:
    """Return the shipped profile `name`, or the one in the JSON file of that name.

    Raises ParameterError for an unknown name, a file that cannot be read, an unknown base, and an unknown,
    missing, negative, fractional or huge number.

    >>> load_device("zram").synchronous
    True
    """
    if name.endswith(".json"):
        return _device(Path(name).stem, name, _read(Path(name), name))
    if name not in device_names():
        raise unknown_name("device", name, device_names())
    return _device(name, name, _read(FOLDER / f"{name}.json", name))


def write_device(document: dict[str, Any], path: Path) -> Device:
    """Write a profile through a temporary name, so that it is whole or absent, and return it.

    document : each of DEVICE_FIELDS: {"value": integer, "source": text}, and any further keys

    Raises ParameterError when the name does not end in .json, `load_device` would refuse the document, or
    the file cannot be written.
    """
    if not path.name.endswith(".json"):
        raise ParameterError(f"{path}: a device's name ends in .json: give -o {path.name}.json")
    device = _device(path.stem, str(path), document)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(document, indent=1) + "\n")
        partial.replace(path)
    except OSError as error:
        raise ParameterError(f"{path}: cannot be written: {error.strerror}: give another -o") from None
    finally:
        with suppress(OSError):
            partial.unlink()
    return device


def _read(path: Path, name: str) -> dict[str, Any]:
    """Return the document in `path`, completed by its base."""
    try:
        document = read_document(path)
    except OSError as error:
        raise ParameterError(f"device {name}: {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ParameterError(f"device {name}: {path} is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise ParameterError(f"device {name}: {path} holds no object: see *Device* in docs/formats.md")
    base = document.get("base")
    if base is None:
        return document
    if base not in device_names():
        raise ParameterError(
            f"device {name}: base {base!r} is no shipped profile: give one of {', '.join(device_names())}"
        )
    return {**_read(FOLDER / f"{base}.json", base), **document}


def _device(stem: str, name: str, document: dict[str, Any]) -> Device:
    """Return the profile of a complete document."""
    numbers, sources = [], {}
    for key, entry in document.items():
        if isinstance(entry, dict) and {"value", "source"} <= set(entry) and key not in DEVICE_FIELDS:
            raise ParameterError(f"device {name}: {unknown_name('number', key, DEVICE_FIELDS)}")
    for field in DEVICE_FIELDS:
        entry = document.get(field)
        if not isinstance(entry, dict) or "value" not in entry or not str(entry.get("source", "")).strip():
            raise ParameterError(
                f"device {name}: {field} has no value and source: each of {', '.join(DEVICE_FIELDS)} has "
                f'both: calibrate again, or name a "base" to take it from'
            )
        value = entry["value"]
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < MAX_VALUE:
            raise ParameterError(f"device {name}: {field} is {value!r}: give an integer in [0, 2**40)")
        if field in FLAGS and value > 1:
            raise ParameterError(f"device {name}: {field} is {value}: give 1 for yes or 0 for no")
        if field in POSITIVE and not value:
            raise ParameterError(f"device {name}: {field} is 0: give 1 or more, such as {POSITIVE[field]}")
        numbers.append(value)
        sources[field] = str(entry["source"])
    assert len(numbers) == AGENT_NS == N_DEVICE - 1
    return Device(stem, np.array([*numbers, 0], np.int64), sources)
