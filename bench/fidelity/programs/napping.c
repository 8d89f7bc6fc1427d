// Goes over 16,000 pages in order, four times, with a sleep of 5 ms after each 1,000.
#include <stdio.h>
#include <sys/mman.h>
#include <time.h>
enum { PAGE = 4096, PAGES = 16000, TURNS = 4 };
int main(void) {
    char *memory = mmap(NULL, (long)PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    madvise(memory, (long)PAGES * PAGE, MADV_NOHUGEPAGE);
    long sum = 0;
    for (int turn = 0; turn < TURNS; turn++)
        for (long p = 0; p < PAGES; p++) {
            for (int k = 0; k < PAGE; k += 64) sum += memory[p * PAGE + k]++;
            if (p % 1000 == 999) nanosleep(&(struct timespec){0, 5000000}, NULL);
        }
    printf("%ld\n", sum);
}
