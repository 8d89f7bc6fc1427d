// Run a command in a cgroup v2 leaf with a memory limit, wait for it, and print what the kernel counted, in one line:
//     ./limited LIMIT_BYTES|max NAME COMMAND [ARGUMENT...]
//     kdtool-run NAME exit=0 wall_ns=... major=... minor=... peak=... current=... KEY_OF_MEMORY_STAT=... ...
// The keys of memory.stat are those at the end of the run; with `max`, `kernel`, `file` and `anon` are those at the
// moment of its largest use, which is looked for at each look (that brings statistics up to date: not done under a
// limit). It looks every LOOK_US whether the command has ended: each time the CPU changes to this process and forgets
// its translations. An emulated CPU has room for as many as there are, and on one CPU reclaim drops but those of
// pages that go: without this, a page whose accessed bit was cleared would never be seen accessed again.
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LOOK_US 500
#define LEAF "/sys/fs/cgroup/kdtool-guest/"

static char most[65536], stat_now[65536];

static long read_file(const char *path, char *into, size_t size) {
    int fd = open(path, O_RDONLY);
    long n = fd < 0 ? -1 : read(fd, into, size - 1);
    if (fd >= 0) close(fd);
    into[n < 0 ? 0 : n] = 0;
    return n;
}

static void write_file(const char *path, const char *text) {
    int fd = open(path, O_WRONLY);
    if (fd < 0 || write(fd, text, strlen(text)) < 0) perror(path), exit(1);
    close(fd);
}

static long number_in(const char *path) {
    char text[64];
    return read_file(path, text, sizeof text) < 0 ? -1 : atol(text);
}

static long key_of(const char *text, const char *key) {
    size_t length = strlen(key);
    for (const char *line = text; line; line = strchr(line, '\n'), line = line ? line + 1 : 0)
        if (!strncmp(line, key, length) && line[length] == ' ') return atol(line + length + 1);
    return 0;
}

static void child(char **command) {
    write_file(LEAF "cgroup.procs", "0");
    if (prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)) perror("prctl"), _exit(127);
    int null = open("/dev/null", O_WRONLY);
    dup2(null, 1);
    execv(command[0], command);
    perror(command[0]);
    _exit(127);
}

static void wait_and_look(pid_t pid, int sample, int *status, struct rusage *used) {
    long largest = -1;
    while (!wait4(pid, status, WNOHANG, used)) {
        long current = sample ? number_in(LEAF "memory.current") : -1;
        if (current > largest && read_file(LEAF "memory.stat", most, sizeof most) > 0) largest = current;
        usleep(LOOK_US);
    }
}

int main(int argc, char **argv) {
    if (argc < 4) return 2;
    int status, unlimited = !strcmp(argv[1], "max");
    struct timespec begin, end;
    struct rusage used;
    if (mkdir(LEAF, 0755)) perror(LEAF), exit(1);
    write_file(LEAF "memory.max", argv[1]);
    clock_gettime(CLOCK_MONOTONIC, &begin);
    pid_t pid = fork();
    if (!pid) child(argv + 3);
    wait_and_look(pid, unlimited, &status, &used);
    clock_gettime(CLOCK_MONOTONIC, &end);
    read_file(LEAF "memory.stat", stat_now, sizeof stat_now);
    const char *held = unlimited ? most : stat_now;
    printf("kdtool-run %s exit=%d wall_ns=%ld major=%ld minor=%ld user_us=%ld peak=%ld", argv[2], status,
           (end.tv_sec - begin.tv_sec) * 1000000000 + end.tv_nsec - begin.tv_nsec, used.ru_majflt, used.ru_minflt,
           used.ru_utime.tv_sec * 1000000 + used.ru_utime.tv_usec, number_in(LEAF "memory.peak"));
    for (const char *const *key = (const char *const[]){"anon", "file", "kernel", 0}; *key; key++)
        printf(" %s=%ld", *key, key_of(held, *key));
    for (const char *const *key = (const char *const[]){"workingset_refault_anon", "workingset_activate_anon",
             "workingset_restore_anon", "pgscan", "pgsteal", "pswpin", "pswpout", 0}; *key; key++)
        printf(" %s=%ld", *key, key_of(stat_now, *key));
    printf("\n");
    for (int tries = 0; rmdir(LEAF) && tries < 100; tries++) usleep(10000);
    return 0;
}
