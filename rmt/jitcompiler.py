"""Numba's compiler, in less time: a function that only compiled ones call is compiled as a part of those.

    inner function ──lowered──► its LLVM code ──┐
    inner function ──lowered──► its LLVM code ──┴─linked into──► function ──optimised──► machine code

Numba itself would optimise each of them and make machine code of it, with all that it calls: the depths of a
replay a dozen times over, as they are called at many levels. Most of that code was never run, since the
functions on top take theirs in.

An index counts from the front: that of -1 is no element, and compiled code does not look whether it is one.
"""

import gc
import hashlib
from typing import Any

from numba import types
from numba.core import codegen as untyped_codegen
from numba.core import compiler as untyped_compiler
from numba.core import compiler_machinery as untyped_machinery
from numba.core import cpu as untyped_cpu
from numba.core import dispatcher as untyped_dispatcher
from numba.core import typed_passes as untyped_passes
from numba.np import arrayobj as untyped_arrayobj

__all__ = ["AsideCompiler", "Compiler", "Part", "PartCompiler"]

arrayobj: Any = untyped_arrayobj
codegen: Any = untyped_codegen
compiler: Any = untyped_compiler
dispatcher: Any = untyped_dispatcher
make_function: Any = untyped_cpu._dynfunc.make_function  # type: ignore[attr-defined]
passes: Any = untyped_passes
register_pass: Any = untyped_machinery.register_pass


def _index(context: Any, builder: Any, kind: Any, index: Any, size: Any) -> Any:
    """Take an index of our functions as it is; Numba adds `size` to a negative one, a tenth of a replay."""
    if not getattr(context, "counts_from_front", False):
        return numba_index(context, builder, kind, index, size)
    return context.cast(builder, index, kind, types.intp)


numba_index: Any = arrayobj.fix_integer_index
arrayobj.fix_integer_index = _index


class _Flags(compiler.Flags):  # type: ignore[misc]
    """Flags that are compared by what is set: Numba does so at each call that it types, at length."""

    _HASH = hash(compiler.Flags())  # a hash of their names, the same for all

    def __hash__(self) -> int:
        return self._HASH

    def __eq__(self, other: object) -> bool:
        same: bool = type(other) is _Flags and self._values == other._values
        return same or super().__eq__(other)


class _PartLibrary(codegen.JITCodeLibrary):  # type: ignore[misc]
    """The code of a part and of the parts that it calls."""

    def finalize(self) -> None:
        """Take in the code of what is called; to optimise it is left to whom it will be a part of."""
        self._raise_if_finalized()
        for library in dict.fromkeys(self._linking_libraries):
            self._final_module.link_in(library._get_module_for_linking(), preserve=True)
        self._finalized = True


class _WholeLibrary(codegen.JITCodeLibrary):  # type: ignore[misc]
    """The code of a function and of its parts, which nobody else calls."""

    def _optimize_final_module(self) -> None:
        """Let LLVM change how parts are called, and drop those that are taken in.

        They get names that no other library has: of two functions with one name that it has loaded, LLVM's
        linker takes either, also where both are local.
        """
        functions = [each for each in self._final_module.functions if not each.is_declaration]
        known = sorted(each.name for each in functions if each.linkage.name == "external")
        own = hashlib.sha256(" ".join(known).encode()).hexdigest()[:16]
        parts = [each for each in functions if each.linkage.name == "linkonce_odr"]
        for number, part in enumerate(parts):
            part.linkage = "internal"
            part.name = f"part.{own}.{number}"
        super()._optimize_final_module()


@register_pass(mutates_CFG=True, analysis_only=False)
class _WholeLowering(passes.NativeLowering):  # type: ignore[misc]
    """Make machine code of a function."""

    _name = "whole_lowering"

    def run_pass(self, state: Any) -> bool:
        """Do so."""
        state.library = _WholeLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        state.library.enable_object_caching()
        return bool(super().run_pass(state))


@register_pass(mutates_CFG=True, analysis_only=False)
class _PartLowering(passes.NativeLowering):  # type: ignore[misc]
    """Make LLVM code of a part."""

    _name = "part_lowering"

    def run_pass(self, state: Any) -> bool:
        """Do so, and let callers find it."""
        state.library = _PartLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = True
        super().run_pass(state)
        lowered = state["cr"]
        # It names the function to those that call it, and has no code of its own.
        module, title = lowered.fndesc.lookup_module(), lowered.fndesc.qualname
        name = make_function(module, title, "", 0, lowered.env, (state.library,))
        state.targetctx.insert_user_function(name, lowered.fndesc, [state.library])
        state["cr"] = lowered._replace(cfunc=name)
        return True


@register_pass(mutates_CFG=True, analysis_only=False)
class _AsideLowering(_PartLowering):
    """Make LLVM code of a part that is seldom called."""

    _name = "aside_lowering"

    def run_pass(self, state: Any) -> bool:
        """Do so, and have LLVM keep it out of those that call it, and its calls out of their way."""
        super().run_pass(state)
        part = state.library._final_module.get_function(state["cr"].fndesc.llvm_func_name)
        for attribute in ("noinline", "cold"):
            part.add_function_attribute(attribute)
        return True


class Compiler(compiler.CompilerBase):  # type: ignore[misc]
    """Numba's own way to compile, without looking for garbage meanwhile: nearly all that is made is kept."""

    LOWERING: Any = _WholeLowering

    def define_pipelines(self) -> list[Any]:
        """Return the passes."""
        steps = compiler.DefaultPassBuilder.define_nopython_pipeline(self.state)
        at = [step for step, _ in steps.passes].index(passes.NativeLowering)
        steps.passes[at] = (self.LOWERING, "lowering")
        steps.finalize()
        return [steps]

    def _compile_core(self) -> Any:
        self.state.flags = _Flags(self.state.flags)
        self.state.targetctx.counts_from_front = True
        collects = gc.isenabled()
        gc.disable()
        try:
            return super()._compile_core()
        finally:
            if collects:
                gc.enable()


class Part(dispatcher.Dispatcher):  # type: ignore[misc]
    """A function that is a part of others: it has no code of its own that Python could call."""

    def __call__(self, *arguments: Any) -> Any:
        """Run it as Python."""
        return self.py_func(*arguments)


class PartCompiler(Compiler):
    """Compile a function as a part of those that call it."""

    LOWERING = _PartLowering


class AsideCompiler(Compiler):
    """Compile a function as a part that is seldom called."""

    LOWERING = _AsideLowering
