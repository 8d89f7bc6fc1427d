"""Instructions of the processor that look at the bits of a word, for which Numba has no name."""

from typing import Any

from numba import extending as untyped_extending
from numba import types

__all__ = ["count_set", "first_set"]

extending: Any = untyped_extending


def _first_set(typing_context: Any, word: Any) -> Any:
    """Return the index of the lowest bit that is set in a word that has one."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], context.get_constant(types.boolean, True))

    return types.int64(types.uint64), generate


def _count_set(typing_context: Any, word: Any) -> Any:
    """Return how many bits of a word are set."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), generate


first_set: Any = extending.intrinsic(_first_set)
count_set: Any = extending.intrinsic(_count_set)
