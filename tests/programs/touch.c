// Touches pages in ways that the tests can count: touch MODE [PAGES]. Prints the addresses it used.
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static char *anonymous(size_t pages) {
    char *p = mmap(NULL, pages << 12, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) abort();
    return p;
}

static void say(const char *name, const void *address) {
    printf("%s %lu\n", name, (unsigned long)address >> 12);
    fflush(stdout);
}

static void store(volatile char *p, size_t pages) { for (size_t i = 0; i < pages; i++) p[i << 12] = 1; }
static void load(volatile char *p, size_t pages) { for (size_t i = 0; i < pages; i++) (void)p[i << 12]; }

static void *thread(void *argument) {
    size_t pages = (size_t)argument;
    char *p = anonymous(pages);
    for (int round = 0; round < 20; round++) store(p, pages);
    return p;
}

static void fill(char *p, size_t pages, int with) {          // the last byte of each page
    for (size_t i = 0; i < pages; i++) ((volatile char *)p)[(i << 12) + 4095] = (char)with;
}

static volatile int ended;

static void *take_away(void *unused) {                       // maps pages and takes them away, in every way
    for (int round = 0; round < 40; round++) {
        char *p = anonymous(64);
        fill(p, 64, 0);
        mprotect(p, 16 << 12, PROT_NONE);
        p = mremap(p + (16 << 12), 48 << 12, 24 << 12, 0);
        p = mremap(p, 24 << 12, 300 << 12, MREMAP_MAYMOVE);
        fill(p, 300, 0);
        mmap(p, 100 << 12, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        munmap(p, 300 << 12);
    }
    ended = 1;
    return unused;
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "";
    size_t pages = argc > 2 ? (size_t)atoi(argv[2]) : 1;
    if (!strcmp(mode, "halves")) {                           // loads all pages, stores to every other one
        char *p = anonymous(pages);
        load(p, pages);
        for (size_t i = 0; i < pages; i += 2) ((volatile char *)p)[(i << 12) + 64] = 1;
        say("base", p);
    } else if (!strcmp(mode, "cross")) {
        char *p = anonymous(2);
        *(volatile uint64_t *)(p + 4092) = 1;
        say("base", p);
    } else if (!strcmp(mode, "read")) {                      // the buffer is touched by the kernel only
        char *p = anonymous(pages);
        int from = open("/dev/zero", O_RDONLY), to = open("/dev/null", O_WRONLY);
        if (read(from, p, pages << 12) != (ssize_t)(pages << 12)) abort();
        if (write(to, p, pages << 12) != (ssize_t)(pages << 12)) abort();
        say("base", p);
    } else if (!strcmp(mode, "threads")) {
        size_t counts[] = {101, 211, 307};
        pthread_t id[3];
        for (int i = 0; i < 3; i++) pthread_create(&id[i], NULL, thread, (void *)counts[i]);
        for (int i = 0; i < 3; i++) {
            void *p;
            pthread_join(id[i], &p);
            say("base", p);
        }
    } else if (!strcmp(mode, "fork")) {                      // the child stores to what it shares, then execs
        char *p = anonymous(pages);
        say("base", p);
        if (fork() == 0) {
            store(p, pages);
            execl(argv[0], argv[0], "halves", "13", NULL);
            _exit(1);
        }
        wait(NULL);
    } else if (!strcmp(mode, "remap")) {                     // two lives of one address
        char *p = anonymous(pages);
        store(p, pages);
        munmap(p, pages << 12);
        char *q = mmap(p, pages << 12, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        load(q, pages);
        say("base", q);
    } else if (!strcmp(mode, "dontneed")) {
        char *p = anonymous(pages);
        store(p, pages);
        madvise(p, pages << 12, MADV_DONTNEED);
        load(p, pages);
        say("base", p);
    } else if (!strcmp(mode, "maps")) {                      // one mapping of each kind
        say("main", (void *)main);
        say("stack", &pages);
        say("heap", malloc(100));
        say("anonymous", anonymous(1));
        say("file", mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, open(argv[0], O_RDONLY), 0));
    } else if (!strcmp(mode, "layout")) {                    // three neighbours, a gap filled, and a large heap
        char *p[3];
        for (int i = 0; i < 3; i++) say("mapped", p[i] = anonymous(pages));
        munmap(p[1], pages << 12);
        say("gap", anonymous(pages));
        for (int i = 0; i < 3; i++) say("heap", sbrk(16 << 20));
    } else if (!strcmp(mode, "killed")) {                    // a child is killed while it stores
        char *p = anonymous(pages);
        say("base", p);
        pid_t child = fork();
        if (child == 0) for (;;) store(p, pages);
        usleep(300000);
        kill(child, 9);
        wait(NULL);
        store(p, pages);
    } else if (!strcmp(mode, "zeros")) {                     // stored: zeros, 1, nothing; then a half of each again
        char *p = anonymous(3 * pages), *other = anonymous(pages);
        say("base", p);
        fill(p, pages, 0);
        fill(p + (pages << 12), pages, 1);
        load(p + 2 * (pages << 12), pages);
        load(other, pages);
        fill(p + ((pages / 2) << 12), pages - pages / 2, 1);
        fill(p + ((pages + pages / 2) << 12), pages - pages / 2, 0);
        load(other, pages);
    } else if (!strcmp(mode, "zeros-forked")) {              // a child waits with zeros, and one page that is its own
        char *p = anonymous(pages), *other = anonymous(pages), byte = 0;
        int go[2], done[2];
        fill(p, pages, 0);
        say("base", p);
        if (pipe(go) || pipe(done)) abort();
        if (fork() == 0) {
            fill(p, pages, 0);
            p[0] = 1;
            if (write(done[1], &byte, 1) != 1 || read(go[0], &byte, 1) != 1) _exit(1);
            _exit(0);
        }
        if (read(done[0], &byte, 1) != 1) abort();
        load(other, pages);
        if (write(go[1], &byte, 1) != 1) abort();
        wait(NULL);
    } else if (!strcmp(mode, "taken-away")) {
        pthread_t id;
        char *p = anonymous(pages);
        say("base", p);
        pthread_create(&id, NULL, take_away, NULL);
        while (!ended) load(p, pages);
        pthread_join(id, NULL);
    } else if (!strcmp(mode, "forever")) {
        char *p = anonymous(pages);
        say("base", p);
        for (;;) store(p, pages);
    } else {
        return 7;
    }
    return 0;
}
