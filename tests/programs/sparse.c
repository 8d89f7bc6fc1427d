// Loads pages by strides, of which every third one was stored to: sparse PAGES STRIDE LOADS. Prints nothing.
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/mman.h>

int main(int argc, char **argv) {
    if (argc != 4) return 7;
    size_t pages = (size_t)atol(argv[1]), stride = (size_t)atol(argv[2]), loads = (size_t)atol(argv[3]);
    volatile char *p = mmap(NULL, pages << 12, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return 1;
    for (size_t i = 0; i < pages; i++) (void)p[i << 12];
    for (size_t i = 0; i < pages; i += 3) p[i << 12] = 1;
    for (size_t done = 0; done < loads;)
        for (size_t start = 0; start < stride; start++)
            for (size_t i = start; i < pages && done < loads; i += stride, done++) (void)p[i << 12];
    return 0;
}
