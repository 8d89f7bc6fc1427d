"""What compiled code without the GIL needs of the machine: words at addresses, and the C library's calls.

Numba has neither. The loads and stores are LLVM's own, with the ordering that a ring shared with the kernel
asks for (perf_event_open(2), data_head and data_tail); the calls are symbols of the C library.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic as _numba_intrinsic

from kdtool.deploy.layout import NANOSECONDS, SECONDS
from kdtool.rmt.jit import jit

__all__ = [
    "call_nap",
    "call_poll",
    "call_pread",
    "call_pwrite",
    "call_syscall",
    "load",
    "load_acquire",
    "now",
    "read_clock",
    "store_release",
]

CLOCK_MONOTONIC = 1
_WORD = ir.IntType(64)
intrinsic: Any = _numba_intrinsic  # its own type knows nothing of the typing context
_PAIR = tuple[Any, Callable[..., Any]]


@intrinsic
def load(typing_context: Any, address: Any) -> _PAIR:
    """Return the int64 at an address (int64, a multiple of 8)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(builder.inttoptr(arguments[0], _WORD.as_pointer()), align=8)

    return types.int64(types.int64), generate


@intrinsic
def load_acquire(typing_context: Any, address: Any) -> _PAIR:
    """Return the int64 at an address; what is read after it was written before it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load_atomic(builder.inttoptr(arguments[0], _WORD.as_pointer()), "acquire", 8)

    return types.int64(types.int64), generate


@intrinsic
def store_release(typing_context: Any, address: Any, value: Any) -> _PAIR:
    """Store an int64 at an address, after everything that was read before."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], _WORD.as_pointer())
        builder.store_atomic(arguments[1], pointer, "release", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


# Pointers are passed as int64, which is the same register on every 64-bit ABI.
call_syscall: Any = types.ExternalFunction("syscall", types.int64(*[types.int64] * 7))
call_pread: Any = types.ExternalFunction(
    "pread", types.int64(types.int32, types.int64, types.int64, types.int64)
)
call_pwrite: Any = types.ExternalFunction(
    "pwrite", types.int64(types.int32, types.int64, types.int64, types.int64)
)
call_nap: Any = types.ExternalFunction("nanosleep", types.int32(types.int64, types.int64))
call_poll: Any = types.ExternalFunction("poll", types.int32(types.int64, types.int64, types.int32))
read_clock: Any = types.ExternalFunction("clock_gettime", types.int32(types.int32, types.int64))


@jit(nogil=True)
def now(scratch):  # type: ignore[no-untyped-def]
    """Return CLOCK_MONOTONIC in ns, the clock of the events."""
    read_clock(CLOCK_MONOTONIC, scratch.ctypes.data + 8 * SECONDS)
    return scratch[SECONDS] * 1_000_000_000 + scratch[NANOSECONDS]
