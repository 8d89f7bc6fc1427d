// Stores to pages by strides, zeros to every other one: zeropages PAGES STRIDE STORES. Prints nothing.
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/mman.h>

int main(int argc, char **argv) {
    if (argc != 4) return 7;
    size_t pages = (size_t)atol(argv[1]), stride = (size_t)atol(argv[2]), stores = (size_t)atol(argv[3]);
    volatile char *p = mmap(NULL, pages << 12, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return 1;
    for (size_t i = 0; i < pages; i++) p[i << 12] = (char)(i & 1);
    for (size_t start = 0, done = 0; start < stride; start++)
        for (size_t i = start; i < pages && done < stores; i += stride, done++) p[i << 12] = (char)(i & 1);
    return 0;
}
