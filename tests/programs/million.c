// Take N page faults, 16,384 pages over and over, and print the nanoseconds that one takes. usage: million N
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#define PAGES 16384L

int main(int argc, char **argv) {
    long n = argc > 1 ? atol(argv[1]) : 1000000, done = 0;
    volatile char *start = mmap(0, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED || madvise((void *)start, PAGES * 4096, MADV_NOHUGEPAGE)) return 9;
    struct timespec before, after;
    clock_gettime(CLOCK_MONOTONIC, &before);
    while (done < n) {
        for (long page = 0; page < PAGES && done < n; page++, done++) start[page * 4096] = 1;
        madvise((void *)start, PAGES * 4096, MADV_DONTNEED);
    }
    clock_gettime(CLOCK_MONOTONIC, &after);
    printf("%.1f\n", ((after.tv_sec - before.tv_sec) * 1e9 + after.tv_nsec - before.tv_nsec) / n);
}
