// A program at its memory limit, timed inside: what it costs to fill memory, and to go through it again.
//
//     limitprobe FILE PAGES FROM BLOCK STRIDE WORK PASSES
//
// stores to PAGES new pages, then PASSES times loads from all of them with a stride, WORK steps of arithmetic
// after each. Writes to FILE, in ns:
//
//     work W            the arithmetic alone, a load
//     cold C            a store, for each BLOCK of pages from FROM on
//     pass P MAJORS     a load with its arithmetic, and the pass's major faults
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>

#define PAGE_BYTES 4096

static uint64_t sum = 1;

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static int64_t majors(void) {
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    return use.ru_majflt;
}

static void work(int64_t steps) {
    for (int64_t step = 0; step < steps; step++) sum = sum * 6364136223846793005u + 1442695040888963407u;
}

int main(int argc, char **argv) {
    if (argc != 8) return 2;
    int64_t number[8];
    for (int i = 2; i < argc; i++) number[i] = atoll(argv[i]);
    int64_t pages = number[2], from = number[3], block = number[4], stride = number[5], steps = number[6];
    FILE *out = fopen(argv[1], "w");
    volatile char *p =
        mmap(NULL, pages * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!out || p == MAP_FAILED) return 1;
    madvise((void *)p, pages * PAGE_BYTES, MADV_NOHUGEPAGE);  // refused only by kernels without huge pages

    int64_t then = now_ns();
    for (int i = 0; i < 1000; i++) work(steps);
    fprintf(out, "work %ld\n", (now_ns() - then) / 1000);

    then = now_ns();
    for (int64_t page = 0; page < pages; page++) {
        p[page * PAGE_BYTES] = (char)(page * 31 | 1);  // a page of zeros would never be written
        if (page >= from && (page - from + 1) % block == 0) fprintf(out, "cold %ld\n", (now_ns() - then) / block);
        if (page + 1 >= from && (page + 1 - from) % block == 0) then = now_ns();
    }
    for (int64_t pass = 0; pass < number[7]; pass++) {
        int64_t faults = majors();
        then = now_ns();
        for (int64_t first = 0; first < stride; first++)
            for (int64_t page = first; page < pages; page += stride) {
                sum += p[page * PAGE_BYTES];
                work(steps);
            }
        int64_t took = (now_ns() - then) / pages;
        fprintf(out, "pass %ld %ld\n", took, majors() - faults);
    }
    return fclose(out) != 0 || sum == 0;
}
