// Three threads look up and change records of one table at random under one lock; between, each works on pages of its own.
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
enum { PAGE = 4096, SHARED = 8192, OWN = 2048, THREADS = 3, TURNS = 20000 };
static char *table;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t total;
static void *work(void *which) {
    uint64_t x = 88172645463325252ull + (uint64_t)which * 7919, sum = 0;
    char *own = mmap(NULL, (long)OWN * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    madvise(own, (long)OWN * PAGE, MADV_NOHUGEPAGE);
    for (int turn = 0; turn < TURNS; turn++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        pthread_mutex_lock(&lock);
        char *record = table + (x % SHARED) * PAGE;
        for (int k = 0; k < PAGE; k += 64) sum += (uint64_t)record[k];
        record[turn % PAGE]++;
        pthread_mutex_unlock(&lock);
        char *mine = own + (long)(turn % OWN) * PAGE;
        for (int k = 0; k < PAGE; k += 32) mine[k] += (char)sum;
    }
    pthread_mutex_lock(&lock);
    total += sum;
    pthread_mutex_unlock(&lock);
    return NULL;
}
int main(void) {
    table = mmap(NULL, (long)SHARED * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (table == MAP_FAILED) return 1;
    madvise(table, (long)SHARED * PAGE, MADV_NOHUGEPAGE);
    for (long i = 0; i < SHARED; i++) table[i * PAGE] = (char)i;
    pthread_t threads[THREADS];
    for (long t = 0; t < THREADS; t++) pthread_create(&threads[t], NULL, work, (void *)t);
    for (int t = 0; t < THREADS; t++) pthread_join(threads[t], NULL);
    printf("%d\n", total != 1);
}
