// Touches 4,096 pages 20 times, more than the recorder's ring holds, after it has made the recorder's life hard.
// Arguments: `closes` all files; `limits` the size of files to 1 MiB, but may lift that; `bounds` it for good;
// `leaves` root for nobody.
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        struct rlimit limit = {1 << 20, strcmp(argv[i], "bounds") ? RLIM_INFINITY : 1 << 20};
        if (!strcmp(argv[i], "closes"))
            for (int fd = 3; fd < 4096; fd++) close(fd);
        if ((!strcmp(argv[i], "limits") || !strcmp(argv[i], "bounds")) && setrlimit(RLIMIT_FSIZE, &limit)) return 1;
        if (!strcmp(argv[i], "leaves") && setuid(65534)) return 1;
    }
    volatile char *pages = mmap(NULL, 4096 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int round = 0; round < 20; round++)
        for (int page = 0; page < 4096; page++) pages[page * 4096] = (char)round;
    printf("base %lu\n", (unsigned long)pages >> 12);
    return 0;
}
