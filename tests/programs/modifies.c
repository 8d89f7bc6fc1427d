// Touches a page with each of many instructions. modifies touch: prints its first page; modifies faults: prints of
// each instruction whether the CPU asked to write to the page (X86_PF_WRITE of its first page fault).
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#define ALL(X) \
    X("addl %%eax,(%%rdi)") X("addb %%al,(%%rdi)") X("addw %%ax,(%%rdi)") X("addq %%rax,(%%rdi)") \
    X("orl %%eax,(%%rdi)") X("adcl %%eax,(%%rdi)") X("sbbl %%eax,(%%rdi)") X("andl %%eax,(%%rdi)") \
    X("subl %%eax,(%%rdi)") X("xorb %%al,(%%rdi)") X("addl $1,(%%rdi)") X("subq $1000,8(%%rdi)") \
    X("andb $1,(%%rdi)") X("xchgl %%eax,(%%rdi)") X("xchgb %%al,(%%rdi)") X("cmpxchgl %%edx,(%%rdi)") \
    X("cmpxchgb %%dl,(%%rdi)") X("lock cmpxchgq %%rdx,(%%rdi)") X("cmpxchg8b (%%rdi)") \
    X("lock cmpxchg16b (%%rdi)") X("xaddl %%eax,(%%rdi)") X("lock xaddb %%al,(%%rdi)") X("incl (%%rdi)") \
    X("decb (%%rdi)") X("lock incq (%%rdi)") X("notl (%%rdi)") X("negb (%%rdi)") X("shll (%%rdi)") \
    X("sarb %%cl,(%%rdi)") X("roll $3,(%%rdi)") X("rcrb $3,(%%rdi)") X("shldl $3,%%eax,(%%rdi)") \
    X("shldl %%cl,%%eax,(%%rdi)") X("shrdl $3,%%eax,(%%rdi)") X("shrdl %%cl,%%eax,(%%rdi)") \
    X("btsl %%eax,(%%rdi)") X("btrl %%eax,(%%rdi)") X("btcl %%eax,(%%rdi)") X("btsl $1,(%%rdi)") \
    X("btrl $1,(%%rdi)") X("lock btcl $1,(%%rdi)") \
    X("movl %%eax,(%%rdi)") X("sete (%%rdi)") X("movdqu %%xmm0,(%%rdi)") \
    X("movl (%%rdi),%%eax") X("addl (%%rdi),%%eax") X("orb (%%rdi),%%al") X("cmpl %%eax,(%%rdi)") \
    X("cmpb %%al,(%%rdi)") X("cmpl (%%rdi),%%eax") X("cmpl $1,(%%rdi)") X("cmpl $1000,(%%rdi)") \
    X("cmpb $1,(%%rdi)") X("testl %%eax,(%%rdi)") X("testl $1,(%%rdi)") X("testb $1,(%%rdi)") \
    X("mull (%%rdi)") X("imull (%%rdi),%%eax") X("btl %%eax,(%%rdi)") X("btl $1,(%%rdi)") \
    X("movzbl (%%rdi),%%eax") X("movdqu (%%rdi),%%xmm0") X("paddd (%%rdi),%%xmm0") X("cmoveq (%%rdi),%%rax")

#define NAME(text) text,
static const char *const names[] = {ALL(NAME)};
enum { N = sizeof names / sizeof *names, PAGE = 4096 };

static void run(int which, char *p) {
    long a = 0, b = 0, c = 1, d = 1;
    int i = 0;
#define RUN(text) \
    if (which == i++) \
        __asm__ volatile(text : "+a"(a), "+b"(b), "+c"(c), "+d"(d) : "D"(p) : "memory", "cc", "xmm0");
    ALL(RUN)
}

static char *page;
static long error;

static void on_fault(int number, siginfo_t *info, void *context) {
    (void)number, (void)info;
    error = ((ucontext_t *)context)->uc_mcontext.gregs[REG_ERR];
    mprotect(page, PAGE, PROT_READ | PROT_WRITE);
}

int main(int argc, char **argv) {
    char *p = mmap(NULL, N * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (argc != 2 || p == MAP_FAILED) return 7;
    if (!strcmp(argv[1], "touch")) {
        for (int i = 0; i < N; i++) run(i, p + i * PAGE);
        return printf("base %lu\n", (unsigned long)p / PAGE) < 0;
    }
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &action, NULL);
    for (int i = 0; i < N; i++) {
        page = p + i * PAGE;
        mprotect(page, PAGE, PROT_NONE);
        run(i, page);
        printf("%ld %s\n", error >> 1 & 1, names[i]);
    }
    return 0;
}
