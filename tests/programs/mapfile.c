// Maps FILE and touches its pages in an order: mapfile FILE ORDER TOUCHES SEED ANON_PAGES
//   seq     one after another, from the start again behind the end
//   random  drawn evenly
//   hot     half of them in the first eighth, the others anywhere
//   N       every N-th page, from a later start after each pass
// Of ANON_PAGES more, written first, one is touched after each page of the file.
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE 4096

static uint64_t state;

static uint64_t draw(uint64_t n) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return (state >> 33) % n;
}

static uint64_t next(const char *order, uint64_t i, uint64_t n) {
    if (!strcmp(order, "seq")) return i % n;
    if (!strcmp(order, "random")) return draw(n);
    if (!strcmp(order, "hot")) return draw(2) ? draw(n / 8) : draw(n);
    uint64_t stride = strtoull(order, NULL, 10), in_pass = (n + stride - 1) / stride;
    uint64_t pass = i / in_pass, at = pass % stride + i % in_pass * stride;
    return at < n ? at : n - 1;
}

int main(int argc, char **argv) {
    if (argc != 6) return 2;
    uint64_t touches = strtoull(argv[3], NULL, 10), anon_pages = strtoull(argv[5], NULL, 10), sum = 0;
    state = strtoull(argv[4], NULL, 10);
    int fd = open(argv[1], O_RDONLY);
    struct stat about;
    if (fd < 0 || fstat(fd, &about)) return 1;
    uint64_t n = (uint64_t)about.st_size / PAGE;
    const volatile unsigned char *file = mmap(NULL, n * PAGE, PROT_READ, MAP_SHARED, fd, 0);
    unsigned char *anon = mmap(NULL, (anon_pages + 1) * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (file == MAP_FAILED || anon == MAP_FAILED) return 1;
    for (uint64_t i = 0; i < anon_pages; i++) anon[i * PAGE] = 1;
    for (uint64_t i = 0; i < touches; i++) {
        sum += file[next(argv[2], i, n) * PAGE];
        if (anon_pages) sum += ((volatile unsigned char *)anon)[i % anon_pages * PAGE];
    }
    return sum == 1;
}
