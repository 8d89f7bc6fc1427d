"""OpenCL commands of a program as it is: a layer between it and its drivers, and the rows of what it spooled.

    OPENCL_LAYERS=cllayer.so --> spool files (a process each) --take--> slots --clock, numbering--> rows

Kernel counterpart: none; the driver's user-space half is watched. `address` is the host's address where one
is given; a kernel has 0 bytes. What is a row and what is not is said at the head of cllayer.c.
Not seen: a program that was started before, one that links a driver without a loader, one that clears its
environment.
"""

import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdtool.collect.accelclock import DeviceClock, SystemClocks
from kdtool.collect.accelspool import NEVER_NS, ProcessSpool, State
from kdtool.collect.compiled import build
from kdtool.errors import CapabilityError
from kdtool.traces import TraceWriter

__all__ = ["Columns", "OpenCl", "build_layer", "probe"]

Columns = dict[str, "np.ndarray[Any, Any]"]

SOURCES = ("cllayer.c", "clspool.h")
PACKAGES = "gcc libc6-dev ocl-icd-opencl-dev"
LAYERS, SPOOL = "OPENCL_LAYERS", "KDTOOL_ACCEL_SPOOL"
COMMAND, DEVICE, EXTENSION = range(3)
TIMES = ("queued", "submit", "start", "end")


def build_layer() -> Path:
    """Compile the layer unless the cache has it; CapabilityError when that fails."""
    layer, _ = build(SOURCES, PACKAGES)
    if ":" in str(layer):
        raise CapabilityError(f"{layer}: {LAYERS} takes no path with a colon: set XDG_CACHE_HOME to another")
    return layer


# In a process of its own: a driver brings along threads and a compiler, and may crash.
PROBE = """
import ctypes as c
cl = c.CDLL("libOpenCL.so.1")
def each(get, *before):
    n = c.c_uint()
    get(*before, 0, None, c.byref(n))
    found = (c.c_void_p * n.value)()
    get(*before, n.value, found, None)
    return [c.c_void_p(handle) for handle in found]
for platform in each(cl.clGetPlatformIDs):
    for device in each(cl.clGetDeviceIDs, platform, c.c_ulong(0xFFFFFFFF)):
        name = c.create_string_buffer(1024)
        cl.clGetDeviceInfo(device, 0x102B, c.c_size_t(1024), name, None)
        print(name.value.decode(errors="replace"))
"""


def probe() -> list[str]:
    """Return what the devices are called that OpenCL programs find here, seen with the layer in between.

    Raises CapabilityError when the layer cannot be made, there is no loader, or it does not load layers.
    """
    layer = build_layer()
    with tempfile.TemporaryDirectory() as folder:
        environment = dict(os.environ) | {LAYERS: str(layer), SPOOL: folder}
        command = [sys.executable, "-c", PROBE]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        except OSError as error:
            raise CapabilityError(
                f"{sys.executable}: {error.strerror}: install Python where this user may run it"
            ) from None
        if "libOpenCL.so.1" in done.stderr:
            raise CapabilityError("no OpenCL loader (libOpenCL.so.1): apt-get install ocl-icd-libopencl1")
        if not list(Path(folder).glob("*.cl")):
            raise CapabilityError(
                f"the OpenCL loader does not heed {LAYERS}: install ocl-icd-libopencl1 2.3 or later"
            )
        return done.stdout.splitlines()


class OpenCl:
    """The commands of all processes that find the layer in their environment.

    devices : numbers of devices by name, shared with the other parts of the recording
    lost : commands without a row so far, by reason
    """

    name = "opencl"

    def __init__(self, folder: Path, writer: TraceWriter, devices: dict[str, int]) -> None:
        self._layer = build_layer()
        self._folder, self._writer = folder.resolve(), writer
        self._folder.mkdir()
        self._spools: dict[Path, ProcessSpool] = {}
        self._system = SystemClocks()
        self._clocks: dict[tuple[Path, int], DeviceClock] = {}
        self._devices = devices
        self._queues: dict[tuple[Path, int], int] = {}
        self._name_ids: dict[str, int] = {}
        self._moved = 0
        self.lost: Counter[str] = Counter()

    @property
    def environment(self) -> Mapping[str, str]:
        """Return the loader's variable, with the layers that the user has, and where the layer writes."""
        layers = [*filter(None, [os.environ.get(LAYERS)]), str(self._layer)]
        return {LAYERS: ":".join(layers), SPOOL: str(self._folder)}

    def take(self, *, final: bool) -> tuple[list[Columns], int]:
        """Return the rows that are settled, and the time before which none will be queued any more.

        With `final`, all are; commands that had not completed are lost.
        """
        self._system.sample()
        before_ns = NEVER_NS
        rows: list[Columns] = []
        for path in sorted(self._folder.glob("*.cl")):
            spool = self._spools.get(path) or self._spools.setdefault(path, ProcessSpool(path))
            if spool.ended:
                continue
            batch = spool.take(final=final)
            before_ns = min(before_ns, batch.before_ns)
            self.lost.update(batch.lost)
            devices = batch.slots["device"]
            rows += [self._rows(path, spool, batch.slots[devices == each]) for each in np.unique(devices)]
        return [columns for columns in rows if len(columns["pid"])], before_ns

    def facts(self) -> dict[str, Any]:
        """Return the devices with their clocks, and what may have gone unseen."""
        looked_up = {
            text
            for spool in self._spools.values()
            for (kind, _), text in spool.names.items()
            if kind == EXTENSION
        }
        mine = {self._device_name(path, index) for path, index in self._clocks} & set(self._devices)
        facts: dict[str, Any] = {
            "layer": self._layer.name,
            "processes": sum(spool.pid > 0 for spool in self._spools.values()),
            "queues": len(self._queues),
            "devices": [self._device_facts(name) for name in sorted(mine, key=self._devices.__getitem__)],
            "lost": dict(self.lost),
            "times_moved": self._moved,
            "extension_commands_looked_up": sorted(looked_up),
        }
        if not facts["processes"]:
            facts["note"] = "no process of the command loaded OpenCL"
        return facts

    def close(self) -> None:
        """Close the spool files; they go with the trace's own spool."""
        for spool in self._spools.values():
            spool.close()

    def _device_facts(self, name: str) -> dict[str, Any]:
        clocks = [clock for (path, i), clock in self._clocks.items() if self._device_name(path, i) == name]
        return {
            "device": self._devices[name],
            "name": name,
            "clock": sorted({clock.method for clock in clocks if clock.method}),
            "uncertainty_ns": max((clock.uncertainty_ns for clock in clocks), default=0),
        }

    def _device_name(self, path: Path, index: int) -> str:
        return self._spools[path].names.get((DEVICE, index), f"unknown device {index}")

    def _rows(self, path: Path, spool: ProcessSpool, slots: "np.ndarray[Any, Any]") -> Columns:
        """Return the rows of slots of one device."""
        index = int(slots["device"][0])
        clock = self._clocks.setdefault((path, index), DeviceClock(self._system))
        offsets = clock.offsets(slots)
        done = slots["state"] == State.DONE
        slots, offsets = slots[done], offsets[done]
        name = self._device_name(path, index)
        device = self._devices.setdefault(name, len(self._devices)) if len(slots) else 0
        return {
            **self._times(slots, offsets),
            "pid": np.full(len(slots), spool.pid, np.int32),
            "device": np.full(len(slots), device, np.int16),
            "queue": self._numbered(
                slots["queue"], lambda i: self._queues.setdefault((path, i), len(self._queues))
            ),
            "kind": slots["kind"],
            "bytes": slots["bytes"],
            "address": slots["address"],
            "name_id": self._numbered(slots["name"], lambda i: self._name_id(spool, i)),
        }

    def _times(self, slots: "np.ndarray[Any, Any]", offsets: "np.ndarray[Any, Any]") -> Columns:
        """Return the four times in order, inside the bounds that the call and its completion give."""
        raw = np.stack([slots[each].astype(np.int64) + offsets for each in TIMES])
        times = raw.copy()
        times[0] = np.maximum(times[0], slots["before_ns"])
        times = np.minimum(np.maximum.accumulate(times), slots["done_ns"])
        self._moved += int(np.count_nonzero((times != raw).any(axis=0)))
        return {f"{name}_ns": values for name, values in zip(TIMES, times, strict=True)}

    def _name_id(self, spool: ProcessSpool, index: int) -> int:
        text = spool.names.get((COMMAND, index), "?")
        if text not in self._name_ids:
            self._name_ids[text] = self._writer.name_id(text)
        return self._name_ids[text]

    @staticmethod
    def _numbered(local: "np.ndarray[Any, Any]", number: Any) -> "np.ndarray[Any, Any]":
        """Return for each id of a process that of the trace."""
        ids, which = np.unique(local, return_inverse=True)
        return np.array([number(int(each)) for each in ids], np.uint32)[which]
