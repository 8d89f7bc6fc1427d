// Three threads of one process, each with 8,000 pages of its own, four times over: in order, by stride 7, at random.
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>

enum { PAGES = 8000, PAGE = 4096, LINE = 64, ROUNDS = 4, THREADS = 3 };

static char *array[THREADS];

static void *work(void *which) {
    long me = (long)which;
    uint64_t state = 88172645463325252ull + (uint64_t)me, sum = 0;
    for (long i = 0; i < ROUNDS * PAGES; i++) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        long at[THREADS] = {i % PAGES, i % PAGES * 7 % PAGES, (long)(state % PAGES)};
        char *page = array[me] + at[me] * PAGE;
        for (int line = 0; line < PAGE; line += LINE) {
            sum += (uint64_t)page[line];
            if ((i + line) % 3 == 0) page[line] += (char)i;
        }
    }
    return (void *)sum;
}

int main(void) {
    for (int t = 0; t < THREADS; t++) {
        array[t] = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (array[t] == MAP_FAILED) return 1;
        madvise(array[t], PAGES * PAGE, MADV_NOHUGEPAGE);
        for (long i = 0; i < PAGES; i++) array[t][i * PAGE] = (char)i;
    }
    pthread_t threads[THREADS];
    uint64_t sum = 0;
    for (long t = 0; t < THREADS; t++)
        if (pthread_create(&threads[t], NULL, work, (void *)t)) return 1;
    for (int t = 0; t < THREADS; t++) {
        void *part;
        pthread_join(threads[t], &part);
        sum += (uint64_t)part;
    }
    printf("%lu\n", (unsigned long)sum);
    return 0;
}
