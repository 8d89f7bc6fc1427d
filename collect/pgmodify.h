// Which instructions read and write one operand in memory: to the MMU they are stores from the start.
//
// Included by pgtrace.c once. The emulator loads first and stores then, and would tell a load. A CPU asks for the page
// to write to it: its one page fault is a write (X86_PF_WRITE), by which do_swap_page() gives up the page's place in
// swap (mm/memory.c, v6.18: should_try_to_free_swap()), and do_anonymous_page() takes a new page, not that of zeros.
#ifndef KDTOOL_PGMODIFY_H
#define KDTOOL_PGMODIFY_H

static bool is_prefix(uint8_t byte) {
    switch (byte) {
    case 0x26: case 0x2e: case 0x36: case 0x3e: case 0x64: case 0x65: case 0x66: case 0x67:
    case 0xf0: case 0xf2: case 0xf3: return true;
    }
    return (byte & 0xf0) == 0x40;                                                     // REX
}

// Opcodes behind 0f; `reg` is the middle field of the byte after.
static bool modifies_two_byte(uint8_t opcode, unsigned reg) {
    switch (opcode) {
    case 0xa4: case 0xa5: case 0xac: case 0xad:                                       // SHLD, SHRD
    case 0xab: case 0xb3: case 0xbb:                                                  // BTS, BTR, BTC
    case 0xb0: case 0xb1: case 0xc0: case 0xc1: return true;                          // CMPXCHG, XADD
    case 0xba: return reg >= 5;                                                       // BTS, BTR, BTC
    case 0xc7: return reg == 1;                                                       // CMPXCHG8B, CMPXCHG16B
    }
    return false;
}

static bool modifies_one_byte(uint8_t opcode, unsigned reg) {
    if (opcode < 0x38) return (opcode & 7) < 2;                    // ADD, OR, ADC, SBB, AND, SUB, XOR; 38: CMP
    switch (opcode) {
    case 0x80: case 0x81: case 0x83: return reg != 7;                                 // the same and CMP, immediate
    case 0x86: case 0x87:                                                             // XCHG
    case 0xc0: case 0xc1: case 0xd0: case 0xd1: case 0xd2: case 0xd3: return true;    // shifts and rotations
    case 0xf6: case 0xf7: return reg == 2 || reg == 3;                                // NOT, NEG
    case 0xfe: case 0xff: return reg < 2;                                             // INC, DEC
    }
    return false;
}

// Of an instruction that touches memory; those that begin with VEX or EVEX never do.
static bool modifies_memory(const uint8_t *code, size_t bytes) {
    size_t i = 0;
    while (i < bytes && is_prefix(code[i])) i++;
    bool two = i + 2 < bytes && code[i] == 0x0f;
    if (i + two + 1 >= bytes) return false;
    uint8_t opcode = code[i + two];
    unsigned reg = code[i + two + 1] >> 3 & 7;
    return two ? modifies_two_byte(opcode, reg) : modifies_one_byte(opcode, reg);
}
#endif
