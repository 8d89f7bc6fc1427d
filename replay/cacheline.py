"""Asking the processor for a cache line before it is needed, which Numba has no word for.

A replay waits for memory more than for anything else: what it knows of a page lies where no hardware
prefetcher foresees it. LLVM's intrinsic llvm.prefetch becomes one instruction, which never faults.
"""

from typing import Any

from llvmlite import ir
from numba import extending as untyped_extending
from numba import types
from numba.core import cgutils as untyped_cgutils

__all__ = ["prefetch_line"]

cgutils: Any = untyped_cgutils
extending: Any = untyped_extending

READ, KEEP, DATA = 0, 3, 1


def _prefetch_line(typing_context: Any, array: Any, index: Any) -> Any:
    """Start loading the cache line that holds `array[index]`, or its first element if that is a row."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array_type = signature.args[0]
        view = context.make_array(array_type)(context, builder, arguments[0])
        indices = [arguments[1]] + [context.get_constant(types.int64, 0)] * (array_type.ndim - 1)
        strides = cgutils.unpack_tuple(builder, view.strides, array_type.ndim)
        shape = cgutils.unpack_tuple(builder, view.shape, array_type.ndim)
        place = cgutils.get_item_pointer2(
            context, builder, view.data, shape, strides, array_type.layout, indices
        )
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [builder.bitcast(place, byte), *map(word, (READ, KEEP, DATA))])
        return context.get_dummy_value()

    return types.void(array, types.int64), generate


class _Hint(extending._Intrinsic):  # type: ignore[misc]
    """What compiled code does for speed alone."""

    def __call__(self, *arguments: Any) -> None:
        """Do nothing: Python has no use for it."""


prefetch_line: Any = _Hint("prefetch_line", _prefetch_line)
prefetch_line._register()
