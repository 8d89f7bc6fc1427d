// Sleeps in every way that is recorded, and writes to a file who did and for whom: NAME, tid of the sleeper, of the waker.
#define _GNU_SOURCE
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t told = PTHREAD_COND_INITIALIZER;
static bool is_told;
static long waiter, first;

static void nap(long ms) { nanosleep(&(struct timespec){0, ms * 1000000}, NULL); }

static void *wait_to_be_told(void *unused) {
    pthread_mutex_lock(&lock);
    waiter = syscall(SYS_gettid);
    while (!is_told) pthread_cond_wait(&told, &lock);
    pthread_mutex_unlock(&lock);
    nap(31);                                           // so that who joins it sleeps
    return unused;
}

static void threads(void) {
    pthread_t thread;
    pthread_create(&thread, NULL, wait_to_be_told, NULL);
    nap(32);
    pthread_mutex_lock(&lock);
    is_told = true;
    pthread_cond_signal(&told);
    pthread_mutex_unlock(&lock);
    pthread_join(thread, NULL);
    printf("condition %ld %ld\njoin %ld %ld\n", waiter, first, first, waiter);
}

// A child writes to one end after a while; `how` sleeps at the other one, and the parent for the child's end.
static void child_writes(const char *name, int ends[2], void (*how)(int)) {
    int child = fork();
    if (!child) {
        nap(33);
        if (write(ends[1], "x", 1) != 1) _exit(1);
        nap(34);
        _exit(0);
    }
    how(ends[0]);
    waitpid(child, NULL, 0);
    printf("%s %ld %d\nchild %ld %d\n", name, first, child, first, child);
    close(ends[0]), close(ends[1]);
}

static void by_read(int end) {
    char byte;
    if (read(end, &byte, 1) != 1) _exit(1);
}

static void by_poll(int end) { poll(&(struct pollfd){end, POLLIN, 0}, 1, -1); }

int main(int argc, char **argv) {
    int ends[2];
    if (argc != 2 || !freopen(argv[1], "w", stdout)) return 2;
    first = syscall(SYS_gettid);
    threads();
    fflush(stdout);
    if (pipe(ends)) return 1;
    child_writes("pipe", ends, by_read);
    fflush(stdout);
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends)) return 1;
    child_writes("socket", ends, by_read);
    fflush(stdout);
    if (pipe(ends)) return 1;
    child_writes("poll", ends, by_poll);
    poll(NULL, 0, 35);
    struct timespec then;
    clock_gettime(CLOCK_MONOTONIC, &then);
    then.tv_sec += 1;
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &then, NULL);
    return 0;
}
