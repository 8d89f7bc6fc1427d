// Maps parts of a region beside each other in different ways, and stores to each page: advised. Prints its first page
// and how /proc/self/maps has the parts, pages from there on.
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>

#define PARTS 8
#define PART_PAGES 10ul
#define PAGE 4096ul

int main(void) {
    int flags[PARTS] = {0, 0, 0, MAP_STACK, MAP_NORESERVE, 0, 0, 0};
    char *region = mmap(NULL, (PARTS + 2) * PART_PAGES * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), line[512];
    if (region == MAP_FAILED) return 1;
    uintptr_t first = (uintptr_t)region / PAGE, start, end;
    for (size_t i = 0; i < PARTS; i++) {
        char *part = region + (i + 1) * PART_PAGES * PAGE;
        int how = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | flags[i];
        if (mmap(part, PART_PAGES * PAGE, PROT_READ | PROT_WRITE, how, -1, 0) == MAP_FAILED) return 2;
        if (i == 2 && madvise(part + PAGE, (PART_PAGES - 1) * PAGE, MADV_HUGEPAGE)) return 3;
        if (i == 6 && madvise(part, PART_PAGES * PAGE, MADV_NOHUGEPAGE)) return 4;
        for (size_t page = 0; page < PART_PAGES; page++) part[page * PAGE] = 1;
    }
    printf("region %lu\n", first);
    FILE *maps = fopen("/proc/self/maps", "r");
    while (maps && fgets(line, sizeof line, maps))
        if (sscanf(line, "%lx-%lx rw", &start, &end) == 2 && start / PAGE > first && start / PAGE < first + (PARTS + 1) * PART_PAGES)
            printf("vma %lu\n", start / PAGE - first);
    return 0;
}
