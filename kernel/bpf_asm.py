"""An assembler for BPF: instructions by name, jumps to labels, map references; no compiler needed.

    instruction (8 bytes)  opcode u8 | dst:4 src:4 | offset i16 | imm i32       (load of 64 bits: two of them)

State: the instructions so far, where labels are, and jumps that wait for theirs. Counterpart: the kernel's
Documentation/bpf/standardization/instruction-set.rst. Not done here: register allocation, checking; the
kernel's verifier does that.
"""

import struct
from collections.abc import Mapping

from kdtool.errors import ProgramError

__all__ = ["R0", "R1", "R2", "R3", "R4", "R5", "R6", "R7", "R8", "R9", "R10", "Assembler"]

R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 = range(11)

ALU64, JMP, LD, LDX, ST, STX = 0x07, 0x05, 0x00, 0x01, 0x02, 0x03
BY_REGISTER = 0x08
MEM, MEM_SIGNED, IMM64, ATOMIC = 0x60, 0x80, 0x18, 0xC0
SIZES = {4: 0x00, 2: 0x08, 1: 0x10, 8: 0x18}
PSEUDO_MAP_FD, PSEUDO_MAP_VALUE = 1, 2
OPERATIONS = {
    "add": 0x00,
    "sub": 0x10,
    "mul": 0x20,
    "div": 0x30,
    "or": 0x40,
    "and": 0x50,
    "lsh": 0x60,
    "rsh": 0x70,
    "mod": 0x90,
    "xor": 0xA0,
    "mov": 0xB0,
    "arsh": 0xC0,
}
CONDITIONS = {
    "==": 0x10,
    ">": 0x20,
    ">=": 0x30,
    "&": 0x40,
    "!=": 0x50,
    "s>": 0x60,
    "s>=": 0x70,
    "<": 0xA0,
    "<=": 0xB0,
    "s<": 0xC0,
    "s<=": 0xD0,
}
CALL, EXIT, ALWAYS, MAY_GOTO = 0x80, 0x90, 0x00, 0xE0
ATOMIC_ADD, ATOMIC_CMPXCHG = 0x00, 0xF1


class Assembler:
    """Instructions in the order in which they are added; `assemble` gives the bytes.

    >>> asm = Assembler()
    >>> asm.alu("mov", R0, 2)
    >>> asm.jump_if(R0, "==", 2, "end")
    >>> asm.alu("mov", R0, 0)
    >>> asm.label("end")
    >>> asm.exit()
    >>> asm.assemble().hex(" ", 8)
    'b700000002000000 1500010002000000 b700000000000000 9500000000000000'
    """

    def __init__(self) -> None:
        self._code: list[tuple[int, int, int, int, int]] = []
        self._labels: dict[str, int] = {}
        self._jumps: dict[int, str] = {}
        self._maps: dict[int, str] = {}

    @property
    def map_uses(self) -> Mapping[int, str]:
        """Return which instructions (their number) refer to which map, of those given by a name."""
        return self._maps

    def alu(self, operation: str, dst: int, value: int) -> None:
        """64-bit `dst = dst operation value`, a constant of 32 bits, signed."""
        self._add(ALU64 | OPERATIONS[operation], dst, imm=value)

    def alu_register(self, operation: str, dst: int, src: int) -> None:
        """64-bit `dst = dst operation src`."""
        self._add(ALU64 | BY_REGISTER | OPERATIONS[operation], dst, src)

    def load(self, dst: int, base: int, offset: int, size: int = 8) -> None:
        """`dst = *(base + offset)`, `size` bytes, zero-extended."""
        self._add(LDX | MEM | SIZES[size], dst, base, offset)

    def load_signed(self, dst: int, base: int, offset: int, size: int) -> None:
        """`dst = *(base + offset)`, `size` bytes, sign-extended (Linux 6.6)."""
        self._add(LDX | MEM_SIGNED | SIZES[size], dst, base, offset)

    def store(self, base: int, offset: int, src: int, size: int = 8) -> None:
        """`*(base + offset) = src`, `size` bytes."""
        self._add(STX | MEM | SIZES[size], base, src, offset)

    def store_constant(self, base: int, offset: int, value: int, size: int = 8) -> None:
        """`*(base + offset) = value`, a constant of 32 bits, signed."""
        self._add(ST | MEM | SIZES[size], base, offset=offset, imm=value)

    def atomic_add(self, base: int, offset: int, src: int) -> None:
        """`*(u64 *)(base + offset) += src`, atomically."""
        self._add(STX | ATOMIC | SIZES[8], base, src, offset, ATOMIC_ADD)

    def compare_exchange(self, base: int, offset: int, src: int) -> None:
        """If `*(u64 *)(base + offset) == R0`, make it src, atomically; R0 is what it was."""
        self._add(STX | ATOMIC | SIZES[8], base, src, offset, ATOMIC_CMPXCHG)

    def constant(self, dst: int, value: int) -> None:
        """`dst = value`, 64 bits."""
        self._wide(dst, 0, value & 0xFFFF_FFFF, value >> 32 & 0xFFFF_FFFF)

    def map(self, dst: int, fd: int | str) -> None:
        """`dst =` the map with file descriptor `fd`, or of that name, to be known when it is assembled."""
        self._refer(dst, PSEUDO_MAP_FD, fd, 0)

    def map_value(self, dst: int, fd: int | str, offset: int) -> None:
        """`dst =` the address of byte `offset` of the only value of an array map."""
        self._refer(dst, PSEUDO_MAP_VALUE, fd, offset)

    def call(self, helper: int) -> None:
        """`R0 = helper(R1 .. R5)`, by its number in enum bpf_func_id; R1 to R5 are lost."""
        self._add(JMP | CALL, imm=helper)

    def jump(self, label: str) -> None:
        """Go to `label`."""
        self._jumps[len(self._code)] = label
        self._add(JMP | ALWAYS)

    def jump_if(self, dst: int, condition: str, value: int, label: str) -> None:
        """Go to `label` if `dst condition value`, 64 bits, unsigned unless the condition begins with s."""
        self._jumps[len(self._code)] = label
        self._add(JMP | CONDITIONS[condition], dst, imm=value)

    def jump_if_register(self, dst: int, condition: str, src: int, label: str) -> None:
        """Go to `label` if `dst condition src`."""
        self._jumps[len(self._code)] = label
        self._add(JMP | BY_REGISTER | CONDITIONS[condition], dst, src)

    def may_goto(self, label: str) -> None:
        """Go on, and to `label` if this has been run millions of times (Linux 6.9): the end of a loop."""
        self._jumps[len(self._code)] = label
        self._add(JMP | MAY_GOTO)

    def label(self, name: str) -> None:
        """Name the next instruction; ValueError if the name is taken (a bug of the caller)."""
        if name in self._labels:
            raise ValueError(f"label {name} is there already")
        self._labels[name] = len(self._code)

    def exit(self) -> None:
        """Return R0."""
        self._add(JMP | EXIT)

    def assemble(self, maps: Mapping[str, int] | None = None) -> bytes:
        """Return the program; `maps` are the file descriptors of the maps that were given by names.

        KeyError for a jump to a label that is nowhere, or a map that is not there; ProgramError for a jump
        further than 32767 instructions.
        """
        code = list(self._code)
        for at, label in self._jumps.items():
            opcode, dst, src, _, imm = code[at]
            distance = self._labels[label] - at - 1
            if not -(1 << 15) <= distance < 1 << 15:
                raise ProgramError(
                    f"a jump over {abs(distance)} BPF instructions, allowed are {(1 << 15) - 1}: "
                    f"give fewer tables, match fields or classes"
                )
            code[at] = (opcode, dst, src, distance, imm)
        for at, name in self._maps.items():
            opcode, dst, src, off, _ = code[at]
            code[at] = (opcode, dst, src, off, maps[name] if maps is not None else 0)
        return b"".join(struct.pack("<BBhi", op, src << 4 | dst, off, imm) for op, dst, src, off, imm in code)

    def _add(self, opcode: int, dst: int = 0, src: int = 0, offset: int = 0, imm: int = 0) -> None:
        self._code.append((opcode, dst, src, offset, imm))

    def _refer(self, dst: int, kind: int, fd: int | str, offset: int) -> None:
        if isinstance(fd, str):
            self._maps[len(self._code)] = fd
        self._wide(dst, kind, fd if isinstance(fd, int) else 0, offset)

    def _wide(self, dst: int, src: int, low: int, high: int) -> None:
        self._add(IMM64, dst, src, imm=low - (low >> 31 << 32))
        self._add(0, imm=high - (high >> 31 << 32))
