// Scan all pages again and again, and load from a random one of the first HOT pages after every GAP pages of the scan:
//     ./hot_scans PAGES HOT GAP SCANS
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

static unsigned long state = 0x9E3779B97F4A7C15UL;

static unsigned long below(unsigned long n) {  // xorshift64*, Vigna 2016
    state ^= state >> 12, state ^= state << 25, state ^= state >> 27;
    return ((state * 2685821657736338717UL) >> 32) % n;
}

int main(int argc, char **argv) {
    if (argc != 5) return 2;
    long pages = atol(argv[1]), hot = atol(argv[2]), gap = atol(argv[3]), scans = atol(argv[4]);
    volatile unsigned char *memory =
        mmap(0, pages * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return 1;
    for (long i = 0; i < pages; i++) memory[i * 4096] = (unsigned char)(i * 31 + 1);
    unsigned long sum = 0;
    for (long scan = 0; scan < scans; scan++)
        for (long i = 0; i < pages; i++) {
            sum += memory[i * 4096];
            if (i % gap == 0) sum += memory[below((unsigned long)hot) * 4096];
        }
    printf("checksum %lu\n", sum);
    return 0;
}
