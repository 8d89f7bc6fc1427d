// A program at its memory limit, timed inside: what it costs to fill memory, and to go through it again.
//
//     limitprobe FILE PAGES FROM BLOCK STRIDE WORK PASSES
//
// stores to PAGES new pages, then goes through all of them PASSES times with a stride, WORK steps of arithmetic
// at each: two passes of loads, one of stores, and so on. So one pass of loads has the pages that are in memory
// written out, and the next one none. Writes to FILE, in ns:
//
//     work W                  the arithmetic alone, a load
//     cold C                  a store, for each BLOCK of pages from FROM on
//     pass P MAJORS WRITTEN   of a pass of loads: a load with its arithmetic, its major faults, and how many
//                             pages the machine wrote to swap meanwhile
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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

static int64_t written(void) {
    char name[64];
    int64_t value, found = 0;
    FILE *file = fopen("/proc/vmstat", "r");
    while (file && fscanf(file, "%63s %ld", name, &value) == 2)
        if (!strcmp(name, "pswpout")) found = value;
    if (file) fclose(file);
    return found;
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
        int stores = pass % 3 == 2;
        int64_t faults = majors(), writes = written();
        then = now_ns();
        for (int64_t first = 0; first < stride; first++)
            for (int64_t page = first; page < pages; page += stride) {
                if (stores) p[page * PAGE_BYTES] += 2;  // stays odd
                sum += p[page * PAGE_BYTES];
                work(steps);
            }
        int64_t took = (now_ns() - then) / pages;
        if (!stores) fprintf(out, "pass %ld %ld %ld\n", took, majors() - faults, written() - writes);
    }
    return fclose(out) != 0 || sum == 0;
}
