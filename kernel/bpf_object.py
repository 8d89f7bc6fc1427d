"""BPF programs as ELF objects, which libbpf and bpftool load: one program, its read-only and its zeroed data.

    null | PROGRAM (code) | .relPROGRAM | .rodata | .bss | license | .symtab | .strtab

libbpf makes a frozen map of `.rodata` and a map of `.bss`, and puts their descriptors where a relocation
names the section's symbol. Layouts are those of include/uapi/linux/elf.h (ELF64, little endian); the
relocation is R_BPF_64_64 of Documentation/bpf/llvm_reloc.rst. Not done here: BTF, map definitions, several
programs.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Place", "make_object"]

ET_REL, EM_BPF = 1, 247
PROGBITS, SYMTAB, STRTAB, NOBITS, REL = 1, 2, 3, 8, 9
WRITE, ALLOC, EXECINSTR, INFO_LINK = 1, 2, 4, 64
GLOBAL_FUNC, LOCAL_SECTION = 1 << 4 | 2, 3
R_BPF_64_64 = 1
HEADER_BYTES, SECTION_BYTES, SYMBOL_BYTES, REL_BYTES = 64, 64, 24, 16
CODE, RELOCATIONS, RODATA, BSS, LICENSE, SYMBOLS, STRINGS = range(1, 8)
RODATA_SYMBOL, BSS_SYMBOL, FUNCTION_SYMBOL = range(1, 4)


@dataclass(frozen=True)
class Place:
    """Where a named map of the program lies: in .rodata or .bss, from `offset` on."""

    read_only: bool
    offset: int


@dataclass(frozen=True)
class _Section:
    name: str
    kind: int
    data: bytes
    flags: int = 0
    link: int = 0
    info: int = 0
    align: int = 8
    entry_bytes: int = 0
    zeroed_bytes: int = 0


def make_object(
    kind: str,
    name: str,
    code: bytes,
    map_uses: Mapping[int, str],
    places: Mapping[str, Place],
    *,
    rodata: bytes,
    bss_bytes: int,
) -> bytes:
    """Return the object file.

    kind : what libbpf knows the type of the program by, such as xdp
    code, map_uses : as of an Assembler; every map used has its place in `places`
    """
    relocated = bytearray(code)
    relocations = b""
    for at, used in map_uses.items():
        place = places[used]
        (inside,) = struct.unpack_from("<i", code, 8 * at + 12)
        # libbpf takes the offset from the first half of the instruction.
        struct.pack_into("<i", relocated, 8 * at + 4, place.offset + inside)
        struct.pack_into("<i", relocated, 8 * at + 12, 0)
        symbol = RODATA_SYMBOL if place.read_only else BSS_SYMBOL
        relocations += struct.pack("<QQ", 8 * at, symbol << 32 | R_BPF_64_64)
    strings = b"\0" + name.encode() + b"\0"
    symbols = bytes(SYMBOL_BYTES)
    symbols += struct.pack("<IBBHQQ", 0, LOCAL_SECTION, 0, RODATA, 0, 0)
    symbols += struct.pack("<IBBHQQ", 0, LOCAL_SECTION, 0, BSS, 0, 0)
    symbols += struct.pack("<IBBHQQ", 1, GLOBAL_FUNC, 0, CODE, 0, len(code))
    sections = [
        _Section(kind, PROGBITS, bytes(relocated), ALLOC | EXECINSTR),
        _Section(f".rel{kind}", REL, relocations, INFO_LINK, SYMBOLS, CODE, entry_bytes=REL_BYTES),
        _Section(".rodata", PROGBITS, rodata, ALLOC),
        _Section(".bss", NOBITS, b"", ALLOC | WRITE, zeroed_bytes=bss_bytes),
        _Section("license", PROGBITS, b"GPL\0", ALLOC | WRITE, align=1),
        _Section(".symtab", SYMTAB, symbols, 0, STRINGS, FUNCTION_SYMBOL, entry_bytes=SYMBOL_BYTES),
    ]
    return _file(sections, strings)


def _file(sections: list[_Section], strings: bytes) -> bytes:
    """Lay out header, sections, the string table with the sections' names, and the section headers."""
    names = []
    for section in (*sections, _Section(".strtab", STRTAB, b"")):
        names.append(len(strings))
        strings += section.name.encode() + b"\0"
    body, headers = bytearray(HEADER_BYTES), bytearray(SECTION_BYTES)
    for name, section in zip(names, [*sections, _Section(".strtab", STRTAB, strings, align=1)], strict=True):
        body += bytes(-len(body) % 8)
        headers += struct.pack(
            "<IIQQQQIIQQ",
            *(name, section.kind, section.flags, 0, len(body), len(section.data) or section.zeroed_bytes),
            *(section.link, section.info, section.align, section.entry_bytes),
        )
        body += section.data
    body += bytes(-len(body) % 8)
    identity = b"\x7fELF\x02\x01\x01" + bytes(9)
    struct.pack_into(
        "<16sHHIQQQIHHHHHH",
        body,
        0,
        *(identity, ET_REL, EM_BPF, 1, 0, 0, len(body), 0),
        *(HEADER_BYTES, 0, 0, SECTION_BYTES, len(headers) // SECTION_BYTES, STRINGS),
    )
    return bytes(body + headers)
