// Known numbers of block requests, by direct I/O but where said otherwise. Prints: tid t0_ns t1_ns failed, where
// failed are the transfers that did not give all their bytes between the two times.
//   blocks DEVICE read N BYTES       N reads of BYTES, one after another, with a gap of BYTES between them
//   blocks DEVICE write N BYTES      N writes likewise
//   blocks DEVICE batch N BYTES      N adjacent writes in one io_submit
//   blocks DEVICE holes N BYTES      the same, in the order 0 2 1, 3 5 4, ... : every third one joins two others
//   blocks DEVICE buffered N BYTES   N adjacent writes through the page cache, then fsync
//   blocks DEVICE child N BYTES      N reads by a child; its tid is printed
//   blocks DEVICE thread N BYTES     N reads by a thread; its tid is printed
//   blocks DEVICE depth N BYTES T    N reads by each of T threads at once
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int device;
static long count, size, device_bytes;
static _Atomic long failed, next_part;

static long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000L + t.tv_nsec;
}

static void *buffer(void) {
    void *memory = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED) perror("mmap"), exit(2);
    return memory;
}

static void each(int writes, long part) {
    void *memory = buffer();
    for (long i = 0; i < count; i++) {
        long offset = (part * count + i) * 2 * size % (device_bytes - size + 1) / size * size;
        long done = writes ? pwrite(device, memory, size, offset) : pread(device, memory, size, offset);
        failed += done != size;
    }
}

static void *reads(void *tid) {
    if (tid) *(long *)tid = syscall(SYS_gettid);
    each(0, next_part++);
    return 0;
}

static void batch(int holes) {
    static const long swapped[] = {0, 2, 1};
    aio_context_t context = 0;
    struct iocb *blocks = calloc(count, sizeof *blocks), **list = calloc(count, sizeof *list);
    struct io_event *events = calloc(count, sizeof *events);
    void *memory = buffer();
    if (syscall(SYS_io_setup, count, &context)) perror("io_setup"), exit(2);
    for (long i = 0; i < count; i++) {
        long place = holes && i - i % 3 + 2 < count ? i - i % 3 + swapped[i % 3] : i;
        blocks[i] = (struct iocb){.aio_fildes = device, .aio_lio_opcode = IOCB_CMD_PWRITE,
                                  .aio_buf = (long)memory, .aio_nbytes = size, .aio_offset = place * size};
        list[i] = &blocks[i];
    }
    if (syscall(SYS_io_submit, context, count, list) != count) perror("io_submit"), exit(2);
    if (syscall(SYS_io_getevents, context, count, count, events, 0) != count) perror("io_getevents"), exit(2);
    for (long i = 0; i < count; i++) failed += events[i].res != size;
    syscall(SYS_io_destroy, context);
}

static void buffered(const char *path) {
    int file = open(path, O_WRONLY);
    void *memory = buffer();
    for (long i = 0; i < count; i++) failed += pwrite(file, memory, size, i * size) != size;
    if (fsync(file)) perror("fsync"), exit(2);
}

static long child(void) {
    pid_t pid = fork();
    if (!pid) {
        each(0, 0);
        _exit(failed != 0);
    }
    int status;
    waitpid(pid, &status, 0);
    failed += WEXITSTATUS(status);
    return pid;
}

static void threads(long n, long *tid) {
    pthread_t made[n];
    for (long i = 0; i < n; i++)
        if (pthread_create(&made[i], 0, reads, i ? 0 : tid)) perror("pthread_create"), exit(2);
    for (long i = 0; i < n; i++) pthread_join(made[i], 0);
}

int main(int argc, char **argv) {
    if (argc < 5) return fprintf(stderr, "usage: blocks DEVICE MODE N BYTES [THREADS]\n"), 2;
    const char *mode = argv[2];
    count = atol(argv[3]), size = atol(argv[4]);
    device = open(argv[1], O_RDWR | O_DIRECT);
    if (device < 0) return perror(argv[1]), 2;
    device_bytes = lseek(device, 0, SEEK_END);
    long tid = getpid(), t0 = now();
    if (!strcmp(mode, "read")) each(0, 0);
    else if (!strcmp(mode, "write")) each(1, 0);
    else if (!strcmp(mode, "batch")) batch(0);
    else if (!strcmp(mode, "holes")) batch(1);
    else if (!strcmp(mode, "buffered")) buffered(argv[1]);
    else if (!strcmp(mode, "child")) tid = child();
    else if (!strcmp(mode, "thread")) threads(1, &tid);
    else if (!strcmp(mode, "depth") && argc > 5) threads(atol(argv[5]), 0);
    else return fprintf(stderr, "unknown mode %s\n", mode), 2;
    printf("%ld %ld %ld %ld\n", tid, t0, now(), failed);
    return 0;
}
