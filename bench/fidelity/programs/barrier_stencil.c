// Two threads smooth two halves of a 48 MiB grid in turn with its copy, and meet at a barrier after each of 4 sweeps.
#include <pthread.h>
#include <stdio.h>
#include <sys/mman.h>
enum { COLUMNS = 1024, ROWS = 3072, SWEEPS = 4, THREADS = 2 };
static double *from, *to;
static pthread_barrier_t barrier;
static void *work(void *which) {
    long me = (long)which;
    for (int sweep = 0; sweep < SWEEPS; sweep++) {
        double *a = sweep % 2 ? to : from, *b = sweep % 2 ? from : to;
        for (long r = me * ROWS / THREADS; r < (me + 1) * ROWS / THREADS; r++)
            for (long c = 1; c < COLUMNS - 1; c++)
                b[r * COLUMNS + c] = 0.25 * (a[r * COLUMNS + c - 1] + a[r * COLUMNS + c + 1] +
                    a[(r ? r - 1 : r) * COLUMNS + c] + a[(r < ROWS - 1 ? r + 1 : r) * COLUMNS + c]);
        pthread_barrier_wait(&barrier);
    }
    return NULL;
}
int main(void) {
    const long bytes = sizeof(double) * COLUMNS * ROWS;
    from = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    to = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (from == MAP_FAILED || to == MAP_FAILED) return 1;
    madvise(from, bytes, MADV_NOHUGEPAGE), madvise(to, bytes, MADV_NOHUGEPAGE);
    for (long i = 0; i < COLUMNS * ROWS; i++) from[i] = (double)(i % 97);
    pthread_barrier_init(&barrier, NULL, THREADS);
    pthread_t threads[THREADS];
    for (long t = 0; t < THREADS; t++) pthread_create(&threads[t], NULL, work, (void *)t);
    for (int t = 0; t < THREADS; t++) pthread_join(threads[t], NULL);
    printf("%f\n", from[COLUMNS + 1]);
}
