// One thread fills 300 blocks of 64 pages three times over and hands each to one of two others, which read it and store to it:
// a queue of 8 under a mutex, so that they wait for each other. To be given as --command.
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>

enum { PAGE = 4096, BLOCK = 64, BLOCKS = 300, ROUNDS = 3, QUEUE = 8, READERS = 2 };

static char *memory;
static int queue[QUEUE], n, first, done;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t some = PTHREAD_COND_INITIALIZER, room = PTHREAD_COND_INITIALIZER;
static uint64_t total;

static int take(void) {
    pthread_mutex_lock(&lock);
    while (!n && !done) pthread_cond_wait(&some, &lock);
    int block = -1;
    if (n) block = queue[first], first = (first + 1) % QUEUE, n--;
    pthread_cond_signal(&room);
    pthread_mutex_unlock(&lock);
    return block;
}

static void hand(int block) {
    pthread_mutex_lock(&lock);
    while (n == QUEUE) pthread_cond_wait(&room, &lock);
    queue[(first + n++) % QUEUE] = block;
    pthread_cond_signal(&some);
    pthread_mutex_unlock(&lock);
}

static void *work(void *unused) {
    uint64_t sum = 0;
    for (int block; (block = take()) >= 0;) {
        char *pages = memory + (long)block * BLOCK * PAGE;
        for (int p = 0; p < BLOCK; p++)
            for (int turn = 0; turn < 6; turn++)
                for (int k = 0; k < PAGE; k += 16) sum = sum * 31 + (uint64_t)pages[p * PAGE + k];
        for (int p = 0; p < BLOCK; p++) pages[p * PAGE] = (char)sum;
    }
    pthread_mutex_lock(&lock);
    total += sum;
    pthread_mutex_unlock(&lock);
    return unused;
}

int main(void) {
    const long bytes = (long)BLOCKS * BLOCK * PAGE;
    memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return 1;
    madvise(memory, bytes, MADV_NOHUGEPAGE);
    pthread_t readers[READERS];
    for (int i = 0; i < READERS; i++)
        if (pthread_create(&readers[i], NULL, work, NULL)) return 1;
    for (int turn = 0; turn < ROUNDS; turn++)
        for (int block = 0; block < BLOCKS; block++) {
            char *pages = memory + (long)block * BLOCK * PAGE;
            for (int k = 0; k < BLOCK * PAGE; k += 32) pages[k] = (char)(block + turn + k);
            hand(block);
        }
    pthread_mutex_lock(&lock);
    done = 1;
    pthread_cond_broadcast(&some);
    pthread_mutex_unlock(&lock);
    for (int i = 0; i < READERS; i++) pthread_join(readers[i], NULL);
    for (long i = 0; i < bytes; i += 7 * PAGE) total += (uint64_t)memory[i];
    printf("%d\n", total != 0);
    return 0;
}
