"""What a swap device and a fault cost: integers with a unit and a source, one JSON file a device.

Profiles ship in `devices/`; a file of the same form may be given instead. `kdtool calibrate` (later)
measures one for the host.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kdtool.errors import ParameterError, unknown_name
from kdtool.replay.memory import N_DEVICE

__all__ = ["DEVICE_FIELDS", "Device", "device_names", "load_device"]

DEVICE_FIELDS = (
    "latency_ns", "service_ns", "transfer_ns", "synchronous", "major_ns", "minor_ns", "cold_ns",
    "prefetch_ns", "reclaim_ns", "step_ps", "insn_ps",
)  # fmt: skip
"""In the order of the engine's vector (replay/memory.py).

latency_ns: a 4 KiB random read on the idle device · service_ns: between the ends of two queued random
reads · transfer_ns: the same for a read merged with its neighbour · synchronous: 1 when the faulting
thread does the read itself · major_ns, minor_ns, cold_ns: the kernel's own work at a fault on a swapped,
a prefetched and a new page · prefetch_ns: to allocate and submit one prefetch · reclaim_ns: to unmap and
write out one page · step_ps: one step of a program, in picoseconds · insn_ps: one instruction of the
workload, in picoseconds.
"""

FOLDER = Path(__file__).parent / "devices"


@dataclass(frozen=True)
class Device:
    """A profile: its name, its vector of int64 in the order of DEVICE_FIELDS, the source of each number."""

    name: str
    values: npt.NDArray[np.int64]
    sources: dict[str, str]

    @property
    def synchronous(self) -> bool:
        """Tell whether reads are the faulting thread's own work: Linux then reads nothing ahead."""
        return bool(self.values[DEVICE_FIELDS.index("synchronous")])


def device_names() -> list[str]:
    """Return the profiles that ship with kdtool."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def load_device(name: str) -> Device:
    """Return the shipped profile `name`, or the one in the JSON file of that name.

    Raises ParameterError for an unknown name and for a missing, negative or fractional number.

    >>> load_device("zram").synchronous
    True
    """
    path = Path(name) if name.endswith(".json") else FOLDER / f"{name}.json"
    if not name.endswith(".json") and name not in device_names():
        raise unknown_name("device", name, device_names())
    try:
        document = json.loads(path.read_text())
        numbers = {field: document[field]["value"] for field in DEVICE_FIELDS}
        sources = {field: str(document[field]["source"]) for field in DEVICE_FIELDS}
    except (OSError, ValueError) as error:
        raise ParameterError(f"device {name}: cannot be read as JSON: {error}") from None
    except (KeyError, TypeError) as error:
        raise ParameterError(
            f"device {name}: {error} is missing: each of {', '.join(DEVICE_FIELDS)} has a value and a source"
        ) from None
    for field, value in numbers.items():
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**40:
            raise ParameterError(f"device {name}: {field} is {value!r}: give an integer in [0, 2**40)")
    vector = np.array([numbers[field] for field in DEVICE_FIELDS], np.int64)
    assert len(vector) == N_DEVICE
    return Device(path.stem, vector, sources)
