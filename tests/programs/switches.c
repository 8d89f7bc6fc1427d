// Known numbers of scheduler events. Prints: tid t0_ns t1_ns voluntary involuntary other_tid, where the numbers
// are its own switches between the two times. It runs on CPU 0, or the one of SWITCHES_CPU.
//   switches sleep N         N sleeps on one CPU: each one switch away and one waking from a timer's interrupt
//   switches pipe N          N round trips of a byte between two threads on one CPU, first in first out
//   switches move N          N moves between CPU 0 and 1
//   switches fork N          N children that end at once
//   switches thread N        N threads that end at once
//   switches exec N          N children that end at once, after a second thread became the program anew
//   switches swap N          three threads that store N times each at random in 32 MiB; prints no more than tid
//   switches name N          N threads, each of which names itself
//   switches wait N IN OUT   N bytes read from the FIFO IN, each answered to the FIFO OUT
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long count;
static int there[2], back[2];
static long other;

static long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000L + t.tv_nsec;
}

static void pin(int number) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(number, &set);
    if (sched_setaffinity(0, sizeof set, &set)) perror("affinity"), exit(2);
}

static void *echo(void *unused) {
    char byte;
    other = syscall(SYS_gettid);
    for (long i = 0; i < count; i++)
        if (read(there[0], &byte, 1) != 1 || write(back[1], &byte, 1) != 1) exit(3);
    return unused;
}

static void *nothing(void *unused) { return unused; }

static void *named(void *number) {
    char name[16];
    snprintf(name, sizeof name, "kdt-%ld", (long)number);
    pthread_setname_np(pthread_self(), name);
    return NULL;
}

static void *again(void *argv) {
    char **arguments = argv;
    execl("/proc/self/exe", arguments[0], "fork", arguments[2], (char *)NULL);
    exit(4);
}

static unsigned *many;
static void *store(void *number) {
    unsigned random = (unsigned)(long)number * 2654435761u + 1;
    for (long i = 0; i < count; i++) {
        random = random * 1664525u + 1013904223u;
        many[random >> 9] += 1;
    }
    return NULL;
}

static int swap(void) {
    pthread_t threads[3];
    many = calloc(1 << 23, sizeof *many);
    for (long i = 0; i < 3; i++) pthread_create(&threads[i], NULL, store, (void *)(i + 1));
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    printf("%ld 0 0 0 0 0\n", syscall(SYS_gettid));
    return 0;
}

static void fifo(void) {
    struct sched_param first = {.sched_priority = 1};
    if (sched_setscheduler(0, SCHED_FIFO, &first)) perror("SCHED_FIFO"), exit(2);
}

static void work(const char *mode, char **more) {
    struct timespec a_while = {0, 20000};
    pthread_t thread;
    char byte = 0;
    int in = 0, out = 0;
    if (!strcmp(mode, "wait")) in = open(more[0], O_RDONLY), out = open(more[1], O_WRONLY);
    for (long i = 0; i < count; i++) {
        if (!strcmp(mode, "sleep")) nanosleep(&a_while, NULL);
        if (!strcmp(mode, "pipe") && (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1)) exit(3);
        if (!strcmp(mode, "move")) pin((int)(i + 1) & 1);
        if (!strcmp(mode, "wait") && (read(in, &byte, 1) != 1 || write(out, &byte, 1) != 1)) exit(3);
        if (!strcmp(mode, "fork")) {
            pid_t child = fork();
            if (!child) _exit(0);
            waitpid(child, NULL, 0);
        }
        if (!strcmp(mode, "thread") || !strcmp(mode, "name")) {
            pthread_create(&thread, NULL, *mode == 't' ? nothing : named, (void *)i);
            pthread_join(thread, NULL);
        }
    }
}

int main(int argc, char **argv) {
    struct rusage before, after;
    pthread_t thread;
    int pipes = argc > 2 && !strcmp(argv[1], "pipe");
    int cpu = getenv("SWITCHES_CPU") ? atoi(getenv("SWITCHES_CPU")) : 0;
    if (argc < 3) return 2;
    count = atol(argv[2]);
    if (!strcmp(argv[1], "swap")) return swap();
    if (!strcmp(argv[1], "exec")) {
        pthread_create(&thread, NULL, again, argv);
        pthread_join(thread, NULL);
    }
    if (strcmp(argv[1], "wait")) pin(cpu);
    if (pipes) {
        if (pipe(there) || pipe(back)) return 2;
        fifo();
        pthread_create(&thread, NULL, echo, NULL);
        usleep(20000);
    }
    getrusage(RUSAGE_THREAD, &before);
    long t0 = now();
    work(argv[1], argv + 3);
    long t1 = now();
    getrusage(RUSAGE_THREAD, &after);
    if (pipes) pthread_join(thread, NULL);
    printf("%ld %ld %ld %ld %ld %ld\n", syscall(SYS_gettid), t0, t1, after.ru_nvcsw - before.ru_nvcsw,
           after.ru_nivcsw - before.ru_nivcsw, other);
    return 0;
}
