"""Arrays of words as pointers, in compiled code: one machine word to hand on, and no index is asked its sign.

An array is seven words of Numba's, and an index of one that may be negative counts from its end. Indexes of a
verified program lie in their arrays, and are never negative.
"""

from typing import Any

from numba import types
from numba.extending import intrinsic

__all__ = ["WORDS", "later", "words"]

WORDS: Any = types.CPointer(types.int64)  # type: ignore[no-untyped-call]
"""The type of a pointer to words."""


def _words(typing, array):  # type: ignore[no-untyped-def]
    """Return where the words of `array` begin."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return context.make_array(signature.args[0])(context, builder, arguments[0]).data

    return WORDS(array), generate


def _later(typing, pointer, n):  # type: ignore[no-untyped-def]
    """Return the pointer to what lies n words after that of `pointer`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.gep(arguments[0], [arguments[1]])

    return WORDS(WORDS, types.int64), generate


words: Any = intrinsic(_words)
later: Any = intrinsic(_later)
