// What pages cost, timed inside: touches, madvise and a counted loop of instructions. pageprobe.py calls it.
//
//   probe_load    touches one byte of each page, in the order given     major or minor faults
//   probe_store   the same by storing                                    first touches
//   probe_advise  madvise() of runs of pages                             MADV_WILLNEED, MADV_PAGEOUT
//   probe_passes  a vertical filter over a matrix of float64             a known number of instructions
//
// Times are CLOCK_MONOTONIC, the clock of the block tracepoints, and the thread's own CPU time, which a busy
// machine does not stretch.
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>

#define EXPORT __attribute__((visibility("default")))
#define PAGE_BYTES 4096

typedef struct { int64_t wall_ns, cpu_ns, major_faults, sleeps; } spent;

static int64_t now_ns(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static spent start(void) {
    struct rusage use;
    getrusage(RUSAGE_THREAD, &use);
    return (spent){now_ns(CLOCK_MONOTONIC), now_ns(CLOCK_THREAD_CPUTIME_ID), use.ru_majflt, use.ru_nvcsw};
}

static spent since(spent then) {
    int64_t cpu_ns = now_ns(CLOCK_THREAD_CPUTIME_ID), wall_ns = now_ns(CLOCK_MONOTONIC);
    struct rusage use;
    getrusage(RUSAGE_THREAD, &use);
    return (spent){wall_ns - then.wall_ns, cpu_ns - then.cpu_ns, use.ru_majflt - then.major_faults,
                   use.ru_nvcsw - then.sleeps};
}

EXPORT char *probe_map(int64_t pages) {
    char *p = mmap(NULL, pages * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return NULL;
    madvise(p, pages * PAGE_BYTES, MADV_NOHUGEPAGE);  // refused only by kernels without huge pages
    return p;
}

EXPORT int probe_unmap(char *p, int64_t pages) { return munmap(p, pages * PAGE_BYTES) ? errno : 0; }

EXPORT int probe_resident(char *p, int64_t first, int64_t pages, unsigned char *resident) {
    return mincore(p + first * PAGE_BYTES, pages * PAGE_BYTES, resident) ? errno : 0;
}

// Half of each page random: content that compresses, is not zero (zero pages are never written) and differs.
EXPORT void probe_fill(char *p, int64_t pages, uint64_t seed) {
    uint64_t x = seed | 1;
    for (int64_t page = 0; page < pages; page++) {
        uint64_t *words = (uint64_t *)(p + page * PAGE_BYTES);
        for (int i = 0; i < PAGE_BYTES / 16; i++) {
            x ^= x << 13, x ^= x >> 7, x ^= x << 17;
            words[i] = x;
        }
    }
}

EXPORT void probe_store(volatile char *p, int64_t pages, spent *took) {
    spent then = start();
    for (int64_t page = 0; page < pages; page++) p[page * PAGE_BYTES] = 1;
    *took = since(then);
}

// begin_ns and end_ns: of each touch, or NULL, since reading the clock adds to what takes a microsecond.
EXPORT void probe_load(volatile char *p, const int64_t *pages, int64_t n, int64_t *begin_ns, int64_t *end_ns,
                       spent *took) {
    spent then = start();
    for (int64_t i = 0; i < n; i++) {
        if (begin_ns) begin_ns[i] = now_ns(CLOCK_MONOTONIC);
        (void)p[pages[i] * PAGE_BYTES];
        if (end_ns) end_ns[i] = now_ns(CLOCK_MONOTONIC);
    }
    *took = since(then);
}

EXPORT int probe_advise(char *p, const int64_t *firsts, int64_t n, int64_t run, int advice, spent *took) {
    spent then = start();
    int failed = 0;
    for (int64_t i = 0; i < n && !failed; i++)
        if (madvise(p + firsts[i] * PAGE_BYTES, run * PAGE_BYTES, advice)) failed = errno;
    *took = since(then);
    return failed;
}

#ifndef __x86_64__
#error calibrate counts the instructions of x86-64 only
#endif

// One pass: to[r][c] += weight * from[r][c] for `rows` rows of 2 * `pairs` float64, rows lying so many bytes
// apart. In assembly, so that the instructions can be counted on paper (tests/test_calibrate.py has qemu count).
static int64_t one_pass(const char *from, int64_t from_bytes, char *to, int64_t to_bytes, int64_t rows,
                        int64_t pairs) {
    int64_t left = rows, n;
    const char *read;
    char *write;
    double weight = 0.0625;
    __asm__ volatile(
        "unpcklpd %[weight], %[weight]\n"
        "1: mov %[from], %[read]\n"
        "mov %[to], %[write]\n"
        "mov %[pairs], %[n]\n"
        "2: movupd (%[read]), %%xmm0\n"
        "mulpd %[weight], %%xmm0\n"
        "movupd (%[write]), %%xmm1\n"
        "addpd %%xmm1, %%xmm0\n"
        "movupd %%xmm0, (%[write])\n"
        "add $16, %[read]\n"
        "add $16, %[write]\n"
        "dec %[n]\n"
        "jnz 2b\n"
        "add %[from_bytes], %[from]\n"
        "add %[to_bytes], %[to]\n"
        "dec %[left]\n"
        "jnz 1b\n"
        : [from] "+r"(from), [to] "+r"(to), [left] "+r"(left), [weight] "+x"(weight), [read] "=&r"(read),
          [write] "=&r"(write), [n] "=&r"(n)
        : [from_bytes] "r"(from_bytes), [to_bytes] "r"(to_bytes), [pairs] "r"(pairs)
        : "xmm0", "xmm1", "memory", "cc");
    return 1 + rows * (7 + 9 * pairs);
}

// Filters one block of columns of a matrix of `rows` x `row_bytes` into `to`: `taps` neighbouring rows a row,
// all that `times` times. Returns the instructions of the passes.
EXPORT int64_t probe_passes(const char *matrix, int64_t row_bytes, int64_t rows, int64_t taps, char *to,
                            int64_t block_bytes, int64_t times, spent *took) {
    int64_t instructions = 0;
    spent then = start();
    for (int64_t time = 0; time < times; time++)
        for (int64_t tap = 0; tap < taps; tap++)
            instructions += one_pass(matrix + tap * row_bytes, row_bytes, to, block_bytes, rows - taps + 1,
                                     block_bytes / 16);
    *took = since(then);
    return instructions;
}
