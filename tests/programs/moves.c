// What mremap() moves: fills N pages, has them grow behind a neighbour, so that they move, and reads them again.
//
// Prints their first page before and after, and how often the process faulted as it read them.
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>

#define PAGE 4096

static char *pages(size_t n, char *at, int fixed) {
    char *p = mmap(at, n * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | fixed, -1, 0);
    madvise(p, n * PAGE, MADV_NOHUGEPAGE);
    return p;
}

static long faults(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return used.ru_minflt + used.ru_majflt;
}

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    size_t n = strtoul(argv[1], NULL, 10);
    char *all = pages(n + 1, NULL, 0), sum = 0;                  // the last one is in the way
    for (size_t i = 0; i < n; i++) all[i * PAGE] = 1;
    char *moved = mremap(all, n * PAGE, 2 * n * PAGE, MREMAP_MAYMOVE);
    if (moved == MAP_FAILED || moved == all) return 1;
    long before = faults();
    for (size_t i = 0; i < n; i++) sum += ((volatile char *)moved)[i * PAGE];
    long after = faults();
    pages(n, all, MAP_FIXED_NOREPLACE)[0] = sum;
    printf("%lx %lx %ld\n", (unsigned long)all / PAGE, (unsigned long)moved / PAGE, after - before);
    return 0;
}
