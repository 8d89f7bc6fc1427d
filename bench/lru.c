/* A plain LRU over dense page ids: what a loop in C takes, for bench/replay.py.

     lru FILE N_PAGES CAPACITY    FILE: int32 ids; prints misses and the nanoseconds of CPU time they took */

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    int fd = open(argv[1], O_RDONLY);
    struct stat info;
    if (fd < 0 || fstat(fd, &info)) return 1;
    const int32_t *page = mmap(NULL, info.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
    if (page == MAP_FAILED) return 1;
    int64_t n = info.st_size / sizeof *page;
    int32_t n_pages = atoi(argv[2]), capacity = atoi(argv[3]);

    /* A circular list through entry n_pages; an older link of -1: not in the cache. */
    int32_t *older = malloc((n_pages + 1) * sizeof *older), *newer = malloc((n_pages + 1) * sizeof *newer);
    if (!older || !newer) return 1;
    for (int32_t i = 0; i < n_pages; i++) older[i] = newer[i] = -1;
    older[n_pages] = newer[n_pages] = n_pages;

    struct timespec began, ended;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &began);
    int64_t misses = 0;
    int32_t count = 0;
    for (int64_t i = 0; i < n; i++) {
        int32_t p = page[i];
        if (older[p] >= 0) {
            newer[older[p]] = newer[p];
            older[newer[p]] = older[p];
        } else {
            misses++;
            if (count == capacity) {
                int32_t victim = newer[n_pages];
                newer[n_pages] = newer[victim];
                older[newer[victim]] = n_pages;
                older[victim] = -1;
            } else {
                count++;
            }
        }
        int32_t newest = older[n_pages];
        older[p] = newest;
        newer[p] = n_pages;
        newer[newest] = p;
        older[n_pages] = p;
    }
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ended);
    printf("%lld %lld\n", (long long)misses,
           (ended.tv_sec - began.tv_sec) * 1000000000LL + ended.tv_nsec - began.tv_nsec);
    return 0;
}
