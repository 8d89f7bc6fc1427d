// Where the guest's mappings go: as in Linux from the top down, into the highest gap that is large enough
// (mm/mmap.c, generic_get_unmapped_area_topdown()), and below the program, whose heap may grow above it.
//
// qemu 7.2 goes upwards from the program, never back into a gap, and begins 16 MiB behind it. There the heap ends, so
// that the C library's allocator goes on with mappings that it never gives back; and which mappings are neighbours,
// and so one to the kernel's readahead, is not as it would be.
//
// To find a place qemu calls mmap for a page range without access at its next one, and takes what it gets
// (linux-user/mmap.c, mmap_find_vma()). So place() stands in its table of imported functions for mmap.
//
// Included by pgtrace.c once. Not as in Linux: random offsets, and mappings of 2 MiB or more aligned to that.
#ifndef KDTOOL_PGLAYOUT_H
#define KDTOOL_PGLAYOUT_H

#define UNMAPPED_BASE 0x4000000000ull          // qemu's first place (TASK_UNMAPPED_BASE); below it none becomes its next
#define LOWEST_PLACE 0x1000000000ull           // a program with a fixed address has its heap below

static uint64_t next_place = UNMAPPED_BASE;    // as qemu has it: the end of what it last placed from UNMAPPED_BASE on

// Return where `size` bytes go, 0 where they find no room, or where the heap has come to next_place and goes on there:
// what qemu keeps free for it ends there, too, but only until the program begins.
static uint64_t highest_gap(uint64_t size) {
    char line[4352];
    uint64_t from = LOWEST_PLACE, best = 0;
    FILE *f = fopen("/proc/self/maps", "re");
    if (!f) die("cannot read /proc/self/maps: mount /proc");
    while (fgets(line, sizeof line, f)) {
        char *rest;
        uint64_t start = strtoull(line, &rest, 16), end = strtoull(rest + 1, NULL, 16);
        uint64_t until = start < UNMAPPED_BASE ? start : UNMAPPED_BASE;
        if (until >= from + size) best = until - size;
        if (end > from) from = end;
        if (end == next_place && image_known) best = 0;
        if (start >= UNMAPPED_BASE && end >= next_place) break;
    }
    fclose(f);
    return best;
}

static void *place(void *address, size_t size, int protection, int flags, int fd, off_t offset) {
    bool next = (uint64_t)address == next_place && protection == PROT_NONE && !(flags & MAP_FIXED);
    if (next && next_place != UNMAPPED_BASE) {                   // the program itself stays where qemu puts it
        uint64_t gap = highest_gap(size);
        void *placed = MAP_FAILED;
        if (gap) placed = mmap((void *)gap, size, protection, flags | MAP_FIXED_NOREPLACE, fd, offset);
        if (placed != MAP_FAILED) return placed;
    }
    void *placed = mmap(address, size, protection, flags, fd, offset);
    if (next && placed != MAP_FAILED && (uint64_t)placed >= UNMAPPED_BASE) next_place = (uint64_t)placed + size;
    return placed;
}

// Put place() where qemu, the first object of the process, finds mmap.
static void take_over_placement(void) {
    const ElfW(Rela) *imported = NULL;
    const ElfW(Sym) *symbols = NULL;
    const char *names = NULL;
    size_t size = 0, taken = 0;
    const struct link_map *qemu = _r_debug.r_map;
    for (const ElfW(Dyn) *d = qemu->l_ld; d->d_tag != DT_NULL; d++) {
        if (d->d_tag == DT_JMPREL) imported = (const void *)d->d_un.d_ptr;
        if (d->d_tag == DT_PLTRELSZ) size = d->d_un.d_val;
        if (d->d_tag == DT_SYMTAB) symbols = (const void *)d->d_un.d_ptr;
        if (d->d_tag == DT_STRTAB) names = (const void *)d->d_un.d_ptr;
    }
    for (size_t i = 0; imported && symbols && names && i < size / sizeof *imported; i++) {
        const char *name = names + symbols[ELF64_R_SYM(imported[i].r_info)].st_name;
        if (strcmp(name, "mmap64") && strcmp(name, "mmap")) continue;
        void *(**slot)(void *, size_t, int, int, int, off_t) = (void *)(qemu->l_addr + imported[i].r_offset);
        void *page = (void *)((uint64_t)slot & ~PAGE_MASK);
        if (mprotect(page, PAGE_MASK + 1, PROT_READ | PROT_WRITE)) die("cannot write qemu's table of functions");
        *slot = place;
        taken++;
        mprotect(page, PAGE_MASK + 1, PROT_READ);
    }
    if (!taken) die("qemu does not import mmap: use a qemu-user of Debian");
}

#endif
