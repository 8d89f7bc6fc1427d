// Write pages once, then load from all of them with a stride, some arithmetic between the loads:
//     ./strided_loads PAGES STRIDE WORK
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    long pages = atol(argv[1]), stride = atol(argv[2]), work = atol(argv[3]);
    unsigned char *memory = mmap(0, pages * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return 1;
    for (long i = 0; i < pages; i++) memory[i * 4096] = (unsigned char)(i * 31 + 1);
    unsigned long sum = 0;
    for (long start = 0; start < stride; start++)
        for (long i = start; i < pages; i += stride) {
            sum += ((volatile unsigned char *)memory)[i * 4096];
            for (long step = 0; step < work; step++) sum = sum * 6364136223846793005UL + 1442695040888963407UL;
        }
    printf("checksum %lu\n", sum);
    return 0;
}
