// A parent fills a table of 6,000 pages; three children read it at random, store to some of it, and fill and scan as many
// pages of their own three times. To be given as --command.
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGES = 6000, PAGE = 4096, CHILDREN = 3, TURNS = 3 };

static uint64_t state = 88172645463325252ull;

static uint64_t next(void) {  // xorshift64, Marsaglia 2003
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return state;
}

static char *new_pages(void) {
    char *pages = mmap(0, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    madvise(pages, PAGES * PAGE, MADV_NOHUGEPAGE);
    return pages;
}

static uint64_t work(char *table, uint64_t child) {
    uint64_t sum = 0;
    state += child * 7919;
    char *own = new_pages();
    for (int turn = 0; turn < TURNS; turn++)
        for (int i = 0; i < PAGES; i++) {
            own[i * PAGE] += table[next() % PAGES * PAGE] + i;
            for (int k = 0; k < PAGE; k += 128) own[i * PAGE + k] ^= k;
            if (i % 8 == 0) table[next() % PAGES * PAGE]++;
        }
    for (int i = 0; i < PAGES; i++) sum += own[i * PAGE];
    return sum;
}

int main(void) {
    uint64_t sum = 0;
    char *table = new_pages();
    for (int i = 0; i < PAGES; i++)
        for (int k = 0; k < PAGE; k += 64) table[i * PAGE + k] = i + k;
    for (uint64_t child = 0; child < CHILDREN; child++)
        if (!fork()) _exit(work(table, child) == 1);
    while (wait(0) > 0);
    for (int i = 0; i < PAGES; i++) sum += table[i * PAGE];
    printf("%lu\n", sum);
    return 0;
}
