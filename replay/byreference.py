"""A tuple of arrays that compiled functions hand on as one pointer.

Numba passes each word of each array by value: a hundred words for what a replay knows, at each call.
`reference(t, n_bytes)` keeps the tuple on the caller's stack; what it returns is indexed as the tuple, by
constants. Its arrays without a layout are fields of records of `n_bytes`, a constant: an element is found by
a shift, where Numba loads the size and multiplies.
"""

from typing import Any

from numba import extending as untyped_extending
from numba import types
from numba.core import cgutils as untyped_cgutils
from numba.core.typing import templates as untyped_templates
from numba.extending import models, register_model

__all__ = ["reference"]

cgutils: Any = untyped_cgutils
extending: Any = untyped_extending
templates: Any = untyped_templates


class Reference(types.Type):
    """The type of a pointer to a tuple of the type `target`, whose fields are of records of `n_bytes`."""

    def __init__(self, target: Any, n_bytes: int) -> None:
        self.target, self.n_bytes = target, n_bytes
        super().__init__(name=f"Reference({target}, {n_bytes})")


@register_model(Reference)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        pointer = manager.lookup(kind.target).get_value_type().as_pointer()
        super().__init__(manager, kind, pointer)  # type: ignore[no-untyped-call]


@templates.infer
class _GetItem(untyped_templates.AbstractTemplate):
    key = "static_getitem"

    def generic(self, args: Any, kws: Any) -> Any:
        kind, index = args
        known = isinstance(kind, Reference)
        return templates.signature(kind.target.types[index], *args) if known else None


@extending.lower_builtin("static_getitem", Reference, types.IntegerLiteral)
def _load(context: Any, builder: Any, kind: Any, arguments: Any) -> Any:
    pointer, index = arguments
    value, element = builder.load(cgutils.gep_inbounds(builder, pointer, 0, index)), kind.return_type
    if not isinstance(element, types.Array) or element.layout != "A":
        return value
    field = context.make_array(element)(context, builder, value)
    field.strides = cgutils.pack_array(builder, [context.get_constant(types.intp, kind.args[0].n_bytes)])
    return field._getvalue()


def _reference(typing: Any, target: Any, n_bytes: Any) -> Any:
    """Return a reference to a tuple, which lives as long as the function that asks for it runs."""

    def generate(context: Any, builder: Any, kind: Any, arguments: Any) -> Any:
        return cgutils.alloca_once_value(builder, arguments[0])

    return Reference(target, n_bytes.literal_value)(target, n_bytes), generate


reference: Any = extending.intrinsic(prefer_literal=True)(_reference)
