"""The executors of a program, each a function from events to decisions, and events that try their edges."""

import numpy as np

from kdtool.rmt import LIMITS, Vm, pack
from kdtool.rmt.numba_vm import decide
from kdtool.rmt.program import CONTEXT_FIELDS
from kdtool.verify.kernelvm import KernelVm

JUMPS = np.array([0, 1, 1, 1, 2, 3, 3, -1, -2, 5, -7, 1000, 2**31 - 1, 2**31, -(2**31), 2**32, 2**51])


def reference(program, contexts):
    vm = Vm(program)
    return [vm.decide(dict(zip(CONTEXT_FIELDS, row, strict=True))) for row in contexts.tolist()]


def numba(program, contexts):
    packed = pack(program)
    state, out = packed.new_state(), np.zeros(LIMITS.degree_pages, np.int64)
    return [out[: decide(packed.params, state, row, out)].tolist() for row in contexts]


def kernel(program, contexts):
    with KernelVm(program) as vm:
        return vm.decide(contexts).to_lists()


def random_contexts(seed, n_events):
    """Return int64 (n_events, 6): pages at both ends of the address space, jumps that differences clamp."""
    rng = np.random.default_rng(seed)
    vpn = np.cumsum(rng.choice(JUMPS, n_events)) % 2**52
    columns = [
        vpn,
        rng.integers(1, 4, n_events),
        rng.integers(1, 3, n_events),
        rng.choice(np.array([0, 7, 2**63 - 1]), n_events),
        vpn >> 13,
        rng.integers(0, 2, n_events),
    ]
    return np.stack(columns, axis=1).astype(np.int64)


class NumbaVm:
    """The Numba VM, one event at a time."""

    def __init__(self, program):
        self._params, self._state = pack(program).params, pack(program).new_state()
        self._out = np.zeros(LIMITS.degree_pages, np.int64)

    def decide(self, context):
        row = np.array([value % 2**64 for value in context], np.uint64).astype(np.int64)
        return self._out[: decide(self._params, self._state, row, self._out)].tolist()
