"""`kdtool calibrate`: measures every number of replay's cost model on this host, and writes a device file.

Measured where it happens: collect/pageprobe.py pages, collect/blockreads.py watches the disk, rmt/steptime.py
decides. Putting them together needs collect, rmt and replay, which no room but the front door may.

How the device is told from the kernel: the block layer's tracepoints say when a read went to the device and
when it came back; the rest of a fault is the kernel's. CPU time would leave out the wake-up, for which the
program waits too; reading the device beside the kernel would read what others have in swap.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from kdtool import __version__
from kdtool.calibrate.limited import measure_limited
from kdtool.calibrate.model import numbers_of
from kdtool.calibrate.plan import Plan, choose_swap
from kdtool.calibrate.rounds import Bench, Round
from kdtool.collect.terminal import Stop, stop_on_signals
from kdtool.errors import CapabilityError
from kdtool.kernel.host import host_facts, page_cluster
from kdtool.kernel.swap import swap_devices, write_queue
from kdtool.replay import write_device

__all__ = ["calibrate"]

MIN_ROUNDS = 5
BUSY = 1.0
"""Load from which on the disk's interrupts and workers share their CPU with others."""

Say = Callable[[str], None]
Progress = Callable[[float], None]
"""Called with the seconds since measuring began."""


def calibrate(plan: Plan, say: Say, progress: Progress) -> dict[str, Any]:
    """Measure for as long as planned, at least MIN_ROUNDS times, write the file, and return its document.

    vm.page-cluster is 0 meanwhile; it is put back, and nothing is left, whatever happens. An existing file is
    replaced. Raises CapabilityError when something is missing, ParameterError when it cannot be written.
    """
    device, disk = plan.device, plan.disk
    facts, writes = host_facts(), write_queue(device)
    began = time.monotonic()
    load = os.getloadavg()[0]
    if load >= BUSY:
        say(f"the machine is busy (load {load:.1f}), which changes what faults wait for: repeat it when idle")
    say(f"{device.path} ({device.kind}) is measured, the swap that the kernel fills first")
    with stop_on_signals() as stop, _no_readahead(plan, say):
        rounds = _measure(plan, stop, progress)
        say("a small program at its limit is measured, alone and beside an agent")
        limited = measure_limited()
    if stop:
        raise KeyboardInterrupt
    if choose_swap(swap_devices()).path != device.path:
        raise CapabilityError(f"{device.path}: swap was changed while it was measured: try again")
    place = f"{device.path} ({device.kind}), {facts['cpu_model']}, Linux {facts['kernel_release']}"
    numbers = numbers_of(rounds, limited, place, disk.queued, writes)
    document = {
        **{field: number.to_entry() for field, number in numbers.items()},
        "host": facts,
        "swap_device": {**asdict(device), "disk": disk.name, "queued": disk.queued},
        "measured": {
            "kdtool": __version__,
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "rounds": len(rounds),
            "seconds": round(time.monotonic() - began, 1),
            "page_cluster": 0,
            "load": load,
        },
    }
    write_device(document, plan.output)
    return document


@contextmanager
def _no_readahead(plan: Plan, say: Say) -> Iterator[None]:
    """Have no swap readahead for the block, and put it back."""
    with page_cluster(0):
        say("vm.page-cluster is 0 for the measurement")
        try:
            yield
        finally:
            say(f"vm.page-cluster is set back to {plan.page_cluster}")


def _measure(plan: Plan, stop: Stop, progress: Progress) -> list[Round]:
    """Run rounds for as long as planned.

    As an ordinary thread: one of real-time priority would stay on its CPU where the scheduler moves others to
    the one that the disk interrupts, and be woken by that: 34 us a fault for 16, on a 2-CPU VM.
    """
    rounds: list[Round] = []
    with Bench(plan.disk) as bench:
        bench.prepare()
        began = time.monotonic()
        while not stop and (len(rounds) < MIN_ROUNDS or time.monotonic() - began < plan.duration_s):
            rounds.append(bench.run())
            progress(time.monotonic() - began)
    if stop:
        raise KeyboardInterrupt
    return rounds
