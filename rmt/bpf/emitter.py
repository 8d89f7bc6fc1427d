"""What the back end asks of an assembler for BPF, and the machine's registers.

This room imports nothing of ours, and how instructions are encoded is the business of `kdtool.kernel`:
whoever holds both rooms hands `kernel.bpf_asm.Assembler` to the functions here. A map is named, not opened:
its name becomes a file descriptor when the program is loaded, or a relocation in an object file.
"""

from typing import Protocol

__all__ = ["R0", "R1", "R2", "R3", "R4", "R5", "R6", "R7", "R8", "R9", "R10", "Emitter"]

R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 = range(11)


class Emitter(Protocol):
    """An assembler; each method adds an instruction. Conditions are unsigned unless they begin with s."""

    def alu(self, operation: str, dst: int, value: int) -> None:
        """64-bit `dst = dst operation value`, a constant of 32 bits, signed."""

    def alu_register(self, operation: str, dst: int, src: int) -> None:
        """64-bit `dst = dst operation src`."""

    def load(self, dst: int, base: int, offset: int, size: int = 8) -> None:
        """`dst = *(base + offset)`, zero-extended."""

    def load_signed(self, dst: int, base: int, offset: int, size: int) -> None:
        """`dst = *(base + offset)`, sign-extended; size 1, 2 or 4."""

    def store(self, base: int, offset: int, src: int, size: int = 8) -> None:
        """`*(base + offset) = src`."""

    def store_constant(self, base: int, offset: int, value: int, size: int = 8) -> None:
        """`*(base + offset) = value`."""

    def atomic_add(self, base: int, offset: int, src: int) -> None:
        """`*(base + offset) += src`, atomically."""

    def compare_exchange(self, base: int, offset: int, src: int) -> None:
        """If `*(base + offset) == R0`, make it src; R0 is what it was."""

    def constant(self, dst: int, value: int) -> None:
        """`dst = value`, 64 bits."""

    def map(self, dst: int, name: str) -> None:
        """`dst =` a map."""

    def map_value(self, dst: int, name: str, offset: int) -> None:
        """`dst =` the address of byte `offset` of the only value of an array map."""

    def call(self, helper: int) -> None:
        """`R0 = helper(R1 .. R5)`; R1 to R5 are lost."""

    def jump(self, label: str) -> None:
        """Go to `label`."""

    def jump_if(self, dst: int, condition: str, value: int, label: str) -> None:
        """Go to `label` if `dst condition value`."""

    def jump_if_register(self, dst: int, condition: str, src: int, label: str) -> None:
        """Go to `label` if `dst condition src`."""

    def may_goto(self, label: str) -> None:
        """Go on, and to `label` if this has been run millions of times: what makes a loop provably end."""

    def label(self, name: str) -> None:
        """Name the next instruction."""

    def exit(self) -> None:
        """Return R0."""
