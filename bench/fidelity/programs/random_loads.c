// Write pages once, then load from random ones; every fourth access also stores. The chance of the i-th page, in an
// order that is itself random, is proportional to 1 / i^SKEW: 0 is uniform, 1 is Zipf's law.
//     ./random_loads PAGES ACCESSES SKEW SEED WORK
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

static unsigned long state;

static double uniform(void) {  // xorshift64*, Vigna 2016; the upper 53 bits
    state ^= state >> 12, state ^= state << 25, state ^= state >> 27;
    return (double)((state * 2685821657736338717UL) >> 11) * 0x1p-53;
}

static long rank_of(const double *cumulative, long pages, double u) {
    long low = 0, high = pages - 1;
    while (low < high) {
        long middle = (low + high) / 2;
        if (cumulative[middle] < u) low = middle + 1;
        else high = middle;
    }
    return low;
}

int main(int argc, char **argv) {
    if (argc != 6) return 2;
    long pages = atol(argv[1]), accesses = atol(argv[2]), work = atol(argv[5]);
    double skew = atof(argv[3]), total = 0;
    state = 0x9E3779B97F4A7C15UL + strtoul(argv[4], 0, 10);
    double *cumulative = malloc(pages * sizeof *cumulative);
    long *page_of_rank = malloc(pages * sizeof *page_of_rank);
    unsigned char *memory = mmap(0, pages * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!cumulative || !page_of_rank || memory == MAP_FAILED) return 1;
    for (long i = 0; i < pages; i++) {
        total += pow((double)(i + 1), -skew);
        cumulative[i] = total;
        long j = (long)(uniform() * (double)(i + 1));  // Fisher and Yates, inside out
        page_of_rank[i] = page_of_rank[j];
        page_of_rank[j] = i;
        memory[i * 4096] = (unsigned char)(i * 31 + 1);
    }
    unsigned long sum = 0;
    for (long n = 0; n < accesses; n++) {
        volatile unsigned char *byte = memory + page_of_rank[rank_of(cumulative, pages, uniform() * total)] * 4096;
        sum += *byte;
        if (n % 4 == 0) *byte = (unsigned char)n;
        for (long step = 0; step < work; step++) sum = sum * 6364136223846793005UL + 1442695040888963407UL;
    }
    printf("checksum %lu\n", sum);
    return 0;
}
