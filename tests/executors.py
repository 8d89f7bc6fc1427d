"""The executors of a program, each a function from events to decisions, and events that try their edges."""

import numpy as np

from kdtool.rmt import LIMITS, Vm, find_hook, pack
from kdtool.rmt.numba_vm import decide
from kdtool.verify.kernelvm import KernelVm

JUMPS = np.array([0, 1, 1, 1, 2, 3, 3, -1, -2, 5, -7, 1000, 2**31 - 1, 2**31, -(2**31), 2**32, 2**51])
REPEATS = np.array([1, 1, 1, 2, 40])
IPS = np.array([0, 7, 2**63 - 1])


def reference(program, contexts):
    return reference_counted(program, contexts)[0]


def numba(program, contexts):
    return numba_counted(program, contexts)[0]


def kernel(program, contexts):
    return kernel_counted(program, contexts)[0]


def reference_counted(program, contexts):
    """Return the decisions, and what the counters have come to."""
    vm, names = Vm(program), find_hook(program.hook).field_names
    decided = [vm.decide(dict(zip(names, row, strict=True))) for row in contexts.tolist()]
    return decided, vm.counted


def numba_counted(program, contexts):
    packed = pack(program)
    state, out = packed.new_state(), np.zeros(LIMITS.degree_pages, np.int64)
    decided = [out[: decide(packed.params, state, row, out)].tolist() for row in contexts]
    return decided, packed.counted(state)


def kernel_counted(program, contexts):
    with KernelVm(program) as vm:
        return vm.decide(contexts).to_lists(), vm.counted


def random_contexts(seed, n_events, hook="mm.swapin"):
    """Return int64 (n_events, n_fields): positions at both ends, jumps that differences clamp, some
    of them repeated, few keys.

    Values are small ones and the ends of their range, by turns.
    """
    rng = np.random.default_rng(seed)
    columns = {}
    for field in find_hook(hook).context:
        low, high = field.bounds
        if field.use == "address":
            jumps = np.repeat(rng.choice(JUMPS, n_events), rng.choice(REPEATS, n_events))[:n_events]
            columns[field.name] = np.cumsum(jumps) % (high + 1)
        elif field.use == "key":
            columns[field.name] = rng.integers(1, 3 if field.name == "tid" else 4, n_events)
        else:
            columns[field.name] = rng.choice(_tried(low, high), n_events)
    if hook == "mm.swapin":
        columns["ip"], columns["region"] = rng.choice(IPS, n_events), columns["vpn"] >> 13
    return np.stack(list(columns.values()), axis=1).astype(np.int64)


def _tried(low, high):
    """Return values to choose from: around 0, and the ends."""
    return np.array([v for v in (low, low + 1, *range(-9, 15), high - 1, high) if low <= v <= high])


class NumbaVm:
    """The Numba VM, one event at a time."""

    def __init__(self, program):
        self._packed = pack(program)
        self._state, self._out = self._packed.new_state(), np.zeros(LIMITS.degree_pages, np.int64)

    @property
    def counted(self):
        return self._packed.counted(self._state)

    def start(self, counted):
        """Have the counters go on from other numbers than 0."""
        self._state[len(self._state) - len(counted) :].view(np.uint64)[:] = list(counted.values())

    def decide(self, context):
        row = np.array([value % 2**64 for value in context], np.uint64).astype(np.int64)
        return self._out[: decide(self._packed.params, self._state, row, self._out)].tolist()
