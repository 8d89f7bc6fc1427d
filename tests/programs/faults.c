// A program whose page faults are known. usage: faults MODE PAGES
//   touch    touch PAGES anonymous pages once; print the first page's number
//   again    touch them all, three times over
//   fork     touch them in a child, which is waited for
//   lock     lock them in memory (beyond its limit: the kernel kills it)
//   linger   touch them over and over until killed
//   orphan   leave a child behind that lingers, and end
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static char *map(long pages) {
    char *start = mmap(0, pages * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED || madvise(start, pages * 4096, MADV_NOHUGEPAGE)) { perror("mmap"); exit(9); }
    printf("%lu\n", (unsigned long)start >> 12);
    fflush(stdout);
    return start;
}

static void touch(volatile char *start, long pages) {
    for (long page = 0; page < pages; page++) start[page * 4096] = 1;  // not +=: a load first maps the zero page
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    const char *mode = argv[1];
    long pages = atol(argv[2]);
    char *start = map(pages);
    if (!strcmp(mode, "touch")) touch(start, pages);
    if (!strcmp(mode, "again")) for (int round = 0; round < 3; round++) touch(start, pages);
    if (!strcmp(mode, "fork")) { if (!fork()) { touch(start, pages); _exit(0); } wait(0); }
    if (!strcmp(mode, "lock")) return mlock(start, pages * 4096) ? 8 : 0;
    if (!strcmp(mode, "orphan") && fork()) return 0;
    if (!strcmp(mode, "orphan")) setsid();
    if (!strcmp(mode, "linger") || !strcmp(mode, "orphan"))
        for (;;) { touch(start, pages); madvise(start, pages * 4096, MADV_DONTNEED); usleep(1000); }
    return 0;
}
