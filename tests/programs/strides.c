// Write `pages` pages once, then load from `loads` of them with a stride, and multiply so often at each:
//     ./strides PAGES STRIDE LOADS [MULTIPLICATIONS]
#include <stdlib.h>
#include <sys/mman.h>

int main(int argc, char **argv) {
    if (argc < 4 || argc > 5) return 2;
    long pages = atol(argv[1]), stride = atol(argv[2]), loads = atol(argv[3]), work = argc > 4 ? atol(argv[4]) : 0;
    unsigned long sum = 0;
    char *memory = mmap(0, pages * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || madvise(memory, pages * 4096, MADV_NOHUGEPAGE)) return 1;
    for (long i = 0; i < pages; i++) memory[i * 4096] = 1;
    for (long start = 0; start < stride; start++)
        for (long i = start; i < pages && loads > 0; i += stride, loads--) {
            sum += *(volatile char *)(memory + i * 4096);
            for (long step = 0; step < work; step++) sum = sum * 6364136223846793005UL + 1;
        }
    return sum == 0;
}
