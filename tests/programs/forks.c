// What fork() shares: fills N pages private and N shared, forks children, tells how often each process faulted.
//
// Each of CHILDREN reads all pages of both, stores to every fourth private and every second shared one, and exits.
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096

static volatile char *pages(size_t n, int sharing) {
    char *p = mmap(NULL, n * PAGE, PROT_READ | PROT_WRITE, sharing | MAP_ANONYMOUS, -1, 0);
    madvise(p, n * PAGE, MADV_NOHUGEPAGE);
    return p;
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    size_t n = strtoul(argv[1], NULL, 10), children = strtoul(argv[2], NULL, 10);
    volatile char *own = pages(n, MAP_PRIVATE), *common = pages(n, MAP_SHARED);
    printf("%lx %lx\n", (unsigned long)own / PAGE, (unsigned long)common / PAGE);
    fflush(stdout);
    for (size_t i = 0; i < n; i++) own[i * PAGE] = 1;
    for (size_t i = 0; i < n / 2; i++) common[i * PAGE] = 1;     // the rest is first touched by a child
    for (size_t c = 0; c < children; c++) {
        if (fork() == 0) {
            char sum = 0;
            for (size_t i = 0; i < n; i++) sum += own[i * PAGE] + common[i * PAGE];
            for (size_t i = 0; i < n; i += 4) own[i * PAGE] = sum;
            for (size_t i = 0; i < n; i += 2) common[i * PAGE] = sum;
            _exit(0);
        }
        wait(NULL);
    }
    return 0;
}
