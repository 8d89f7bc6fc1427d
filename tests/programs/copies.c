// Copies a block by the C library, to another place, and fills a third: copies BYTES FILLED. Prints their first pages.
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static char *map(const char *name, size_t bytes) {
    char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) exit(1);
    printf("%s %lu\n", name, (unsigned long)((uintptr_t)p >> 12));
    return p;
}

int main(int argc, char **argv) {
    if (argc != 3) return 7;
    size_t bytes = (size_t)atol(argv[1]), filled = (size_t)atol(argv[2]), room = bytes + 8192;
    char *from = map("from", room), *to = map("to", room), *fill = map("fill", filled);
    memcpy(to + 2000, from + 4000, bytes);                     // of one offset, it would go backward
    memset(fill, 7, filled);
    return 0;
}
