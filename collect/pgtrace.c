// qemu-user plugin: the page references of a whole process tree, in one order, reduced as they happen.
//
// Plugin API version 1 (qemu 7.2 and later); Debian ships no qemu-plugin.h, so what is used is declared here.
// Arguments: state=FILE (made by reftrace.py, mapped shared), spool=FILE (records, appended), self=FILE (this
// plugin), and after an exec image=1, insns=N and holder=TID (which took the lock for the exec).
//
// A reference is one access to one page: every load and store (both pages of a crossing one), the page of the
// code at each translation block, and what the kernel reads or writes in user buffers for a system call.
// An instruction that reads and writes one operand stores from the start, as on a CPU (pgmodify.h).
// A kernel write is a STORE with ip 0, since it dirties the page; a kernel read is KERNEL with ip 0.
//
// Order: every reference takes the lock of the shared state (sad.h) and the next seq. The one exception is a
// repeat: `state->now` still being this thread's own last seq proves that no thread of the tree has made a
// reference in between, so the repeat is consecutive in the one order and dropping it is exact for every k.
//
// Not seen: what the kernel reads of path names and small argument structs, signal frames, shmat, vsyscall pages.
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "sad.h"

typedef uint64_t qemu_plugin_id_t;
typedef uint32_t qemu_plugin_meminfo_t;
typedef struct qemu_info qemu_info_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef void (*mem_callback)(unsigned, qemu_plugin_meminfo_t, uint64_t, void *);
typedef void (*exec_callback)(unsigned, void *);
typedef void (*syscall_callback)(qemu_plugin_id_t, unsigned, int64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                                 uint64_t, uint64_t, uint64_t, uint64_t);
enum { NO_REGISTERS = 0, MEM_READ_WRITE = 3 };
extern void qemu_plugin_register_vcpu_init_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, unsigned));
extern void qemu_plugin_register_vcpu_exit_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, unsigned));
extern void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, struct qemu_plugin_tb *));
extern void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, exec_callback, int, void *);
extern void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *, exec_callback, int, void *);
extern void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *, mem_callback, int, int, void *);
extern void qemu_plugin_register_vcpu_syscall_cb(qemu_plugin_id_t, syscall_callback);
extern void qemu_plugin_register_vcpu_syscall_ret_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, unsigned, int64_t, int64_t));
extern void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, void *), void *);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
extern uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *);
extern size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *);
extern void *qemu_plugin_insn_haddr(const struct qemu_plugin_insn *);
extern bool qemu_plugin_mem_is_store(qemu_plugin_meminfo_t);
extern unsigned qemu_plugin_mem_size_shift(qemu_plugin_meminfo_t);
extern const char *qemu_plugin_path_to_binary(void);

#define PUBLIC __attribute__((visibility("default")))
PUBLIC int qemu_plugin_version = 1;

#define MAX_THREADS 65536                      // concurrent threads of one process; more end the recording
#define HINTS 1024                             // per thread: page -> node, so that the hash is rarely walked
#define PAGE_SHIFT 12
#define PAGE_MASK 4095ull
#define LARGEST_ACCESS 64                      // bytes of one access at most
#define ADDRESS_BITS 48                        // user data of a block: address, and its instructions above
#define GUEST_END 0x550000000000ull            // qemu is a PIE above this; it puts the guest's image below
#define ITERATIONS_AN_INSN 16                  // of a string instruction: what counts as one
#define PATIENCE 100000                        // turns of the lock's loop before asking whether its holder lives

enum { VMA_READ = 1, VMA_WRITE = 2, VMA_EXEC = 4, VMA_SHARED = 8, VMA_FILE = 16, VMA_UNMAPPED = 32,
       VMA_RANDOM = 64, VMA_SEQUENTIAL = 128,
       // What else has neighbours be one VMA or two (VmaAdvice), in the bits that tell of unmapped pages where they went.
       VMA_HUGE = 1 << SAD_MOVED_SHIFT, VMA_NOT_HUGE = 2 << SAD_MOVED_SHIFT, VMA_NORESERVE = 4 << SAD_MOVED_SHIFT };

typedef struct {
    uint64_t vpn, now;                         // of this thread's last reference
    bool dirty;                                // ... which was a store, or a repeat of one
    uint64_t refs, insns, iterations;          // of this thread so far
    uint64_t refs_told, insns_told;            // ... of which the shared totals know
    int32_t tid;
    uint64_t number, arg[6];                   // of the system call under way
    uint64_t waits_for, switches;              // what it may sleep for (0: nothing), and sleeps before it
    int64_t asked_ns;                          // how long it asked to sleep at most
    bool remaps;                               // the call under way may take pages away
    uint32_t hint[HINTS];
} thread_t;

typedef struct { uint64_t start, end; uint32_t flags, name, offset; } vma_t;   // pages; `offset` is that in the file

static sad_state *S;
static const char *spool_path, *state_path, *self_path;
static thread_t *threads[MAX_THREADS];
static int32_t pid;
static bool image_known, image_replaced, finished;
static uint64_t first_insns;
static vma_t *vmas;                            // this process's map, sorted, disjoint; guarded by the lock
static size_t n_vmas, max_vmas;
static uint64_t program_break;                 // page after the heap, 0 until the first brk
static uint64_t forked_at;                     // seq before what the child of the latest fork begins with
static bool borrowed;                          // a child of vfork: its memory, and so `pid`, is its parent's
static __thread bool vforks;                   // the system call under way is vfork, or clone as such

static void die(const char *why) {
    dprintf(2, "kdtool: pgtrace: %s\n", why);
    _exit(126);
}

// ---------------------------------------------------------------------------------------------- the stream

#include "pgspill.h"

static bool holder_lives(int32_t tid) {
    char path[64], text[512] = {0}, state = 'R';
    if (access("/proc/self/stat", F_OK)) return true;            // cannot tell
    snprintf(path, sizeof path, "/proc/%d/stat", tid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return errno != ENOENT;
    if (read(fd, text, sizeof text - 1) > 0) {
        char *name_end = strrchr(text, ')');
        if (name_end && name_end[1]) state = name_end[2];
    }
    close(fd);
    return state != 'Z' && state != 'X';
}

static void lock_slowly(int32_t tid) {
    for (uint64_t turn = 1;; turn++) {
        int32_t holder = S->lock;
        if (!holder && __sync_bool_compare_and_swap(&S->lock, 0, tid)) return;
        if (turn % 64 == 0) sched_yield(); else __builtin_ia32_pause();
        if (turn % PATIENCE || !holder || holder_lives(holder)) continue;
        if (!__sync_bool_compare_and_swap(&S->lock, holder, tid)) continue;
        S->broken++;
        sad_recover(S);
        return;
    }
}

static inline void lock(int32_t tid) {
    if (__builtin_expect(!__sync_bool_compare_and_swap(&S->lock, 0, tid), 0)) lock_slowly(tid);
}

static inline void unlock(void) { __atomic_store_n(&S->lock, 0, __ATOMIC_RELEASE); }

static inline bool off(void) { return __builtin_expect(S->stop | finished, 0); }

static void tell_totals(thread_t *t) {
    __sync_fetch_and_add(&S->refs, t->refs - t->refs_told);
    __sync_fetch_and_add(&S->insns, t->insns - t->insns_told);
    t->refs_told = t->refs;
    t->insns_told = t->insns;
}

// --------------------------------------------------------------------------------------- the address space

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static uint32_t name_offset(const char *name) {
    char *names = (char *)S + S->names_at;
    size_t length = strlen(name) + 1;
    if (length == 1) return 0;
    if (!S->names_used) S->names_used = 1;                       // offset 0 is the empty name
    for (uint32_t at = 1; at < S->names_used; at += (uint32_t)strlen(names + at) + 1)
        if (!strcmp(names + at, name)) return at;
    if (S->names_used + length > SAD_NAMES) { S->names_lost++; return 0; }
    uint32_t at = S->names_used;
    memcpy(names + at, name, length);
    S->names_used += (uint32_t)length;
    return at;
}

static void emit_vma_at(uint64_t seq, vma_t v) {
    sad_record r = {.seq = seq, .vpn = v.start, .ip = v.end, .insns = now_ns(), .pid = pid,
                    .tid = (int32_t)v.name, .kind = KIND_VMA | v.flags, .offset = v.offset};
    sad_make_room(S);
    sad_emit(S, &r);
}

static void emit_vma(vma_t v) {
    emit_vma_at(S->now + 1, v);
    S->now++;
}

static void vma_insert(size_t at, vma_t v) {
    if (n_vmas == max_vmas && !(vmas = realloc(vmas, (max_vmas = max_vmas ? 2 * max_vmas : 256) * sizeof *vmas)))
        die("out of memory");
    memmove(&vmas[at + 1], &vmas[at], (n_vmas - at) * sizeof *vmas);
    vmas[at] = v;
    n_vmas++;
}

// Split the mapping that spans `page`, if one does, and return the index of the first one at or after it.
static size_t vma_split(uint64_t page) {
    size_t i = 0;
    while (i < n_vmas && vmas[i].end <= page) i++;
    if (i == n_vmas || vmas[i].start >= page) return i;
    vma_t upper = vmas[i];
    if (upper.flags & VMA_FILE) upper.offset += (uint32_t)(page - upper.start);
    upper.start = vmas[i].end = page;
    vma_insert(i + 1, upper);
    return i + 1;
}

static void forget_address_space(int32_t whose) {
    sad_record r = {.seq = S->now + 1, .ip = 1ull << SAD_VPN_BITS, .insns = now_ns(), .pid = whose,
                    .kind = KIND_VMA | VMA_UNMAPPED};
    sad_unmap(S, whose, 0, r.ip);
    sad_make_room(S);
    sad_emit(S, &r);
    S->now = r.seq;
}

static void unmap(uint64_t start, uint64_t end) {
    size_t i = vma_split(start), j = vma_split(end);
    if (i == j) return;                                          // nothing was mapped there
    memmove(&vmas[i], &vmas[j], (n_vmas - j) * sizeof *vmas);
    n_vmas -= j - i;
    sad_unmap(S, pid, start, end);
    emit_vma((vma_t){start, end, VMA_UNMAPPED, 0, 0});
}

static void map(vma_t v) {
    unmap(v.start, v.end);
    vma_insert(vma_split(v.start), v);
    emit_vma(v);
}

// Have pages [old, end) at the start of a mapping: they keep what they hold, in memory or swapped, and their order.
static void move_pages(uint64_t old, uint64_t end, vma_t v) {
    unmap(v.start, v.end);
    size_t i = vma_split(old), j = vma_split(end);
    memmove(&vmas[i], &vmas[j], (n_vmas - j) * sizeof *vmas);
    n_vmas -= j - i;
    sad_move(S, pid, old, end, v.start);
    uint32_t above = (uint32_t)(v.start >> 32) << SAD_MOVED_SHIFT;
    emit_vma((vma_t){old, end, VMA_UNMAPPED | above, 0, (uint32_t)v.start});
    vma_insert(vma_split(v.start), v);
    emit_vma(v);
}

static uint32_t flags_of(const char *permissions, const char *path) {
    return (permissions[0] == 'r' ? VMA_READ : 0) | (permissions[1] == 'w' ? VMA_WRITE : 0) |
           (permissions[2] == 'x' ? VMA_EXEC : 0) | (permissions[3] == 's' ? VMA_SHARED : 0) |
           (path[0] == '/' ? VMA_FILE : 0);
}

// The image as the loader left it. qemu maps it one to one (guest base 0, checked), and as readable data: what
// /proc/self/maps has below qemu itself is the guest's, except that code lacks its x.
static void image_begin(void) {
    static char line[8192];
    FILE *f = fopen("/proc/self/maps", "re");
    if (!f) die("cannot read /proc/self/maps: mount /proc");
    if (image_replaced) forget_address_space(pid);
    while (fgets(line, sizeof line, f)) {
        unsigned long start, end, offset;
        char permissions[5], path[4097] = "";
        if (sscanf(line, "%lx-%lx %4s %lx %*s %*s %4096[^\n]", &start, &end, permissions, &offset, path) < 4) continue;
        if (start >= GUEST_END) continue;
        map((vma_t){start >> PAGE_SHIFT, end >> PAGE_SHIFT, flags_of(permissions, path),
                    name_offset(path[0] == '/' ? path : ""), path[0] == '/' ? (uint32_t)(offset >> PAGE_SHIFT) : 0});
    }
    fclose(f);
    image_known = true;
}

// -------------------------------------------------------------------------------------------- references

static void __attribute__((noinline)) refer(thread_t *t, uint64_t vpn, uint32_t kind, uint64_t ip) {
    if (off() || vpn >> SAD_VPN_BITS) return;
    if (__builtin_expect(!t->tid, 0)) t->tid = (int32_t)syscall(SYS_gettid);
    sad_record r = {.vpn = vpn, .ip = ip, .insns = t->insns, .pid = pid, .tid = t->tid, .kind = kind};
    lock(t->tid);
    if (__builtin_expect(!image_known, 0)) image_begin();
    sad_reference(S, &r, &t->hint[vpn % HINTS]);
    unlock();
    t->now = r.seq;
    t->vpn = vpn;
    t->dirty = kind == KIND_STORE;
}

static inline bool repeats(const thread_t *t, uint64_t vpn) { return vpn == t->vpn && S->now == t->now; }

static void __attribute__((noinline)) refer_data(thread_t *t, qemu_plugin_meminfo_t info, uint64_t address,
                                                 uint64_t ip, bool store) {
    uint32_t kind = store ? KIND_STORE : KIND_LOAD;
    uint64_t vpn = address >> PAGE_SHIFT;
    if (!repeats(t, vpn) || (store && !t->dirty)) refer(t, vpn, kind, ip);
    if ((address & PAGE_MASK) + LARGEST_ACCESS <= PAGE_MASK + 1) return;
    uint64_t last = (address + (1ull << qemu_plugin_mem_size_shift(info)) - 1) >> PAGE_SHIFT;
    if (last != vpn) refer(t, last, kind, ip);
}

static inline bool seen(thread_t *t, uint64_t address) {
    t->refs++;
    bool may_cross = (address & PAGE_MASK) + LARGEST_ACCESS > PAGE_MASK + 1;
    return t->dirty && repeats(t, address >> PAGE_SHIFT) && !may_cross;        // a load or a store, it is all the same
}

static void on_data(unsigned vcpu, qemu_plugin_meminfo_t info, uint64_t address, void *ip) {
    thread_t *t = threads[vcpu];
    if (!seen(t, address)) refer_data(t, info, address, (uint64_t)ip, qemu_plugin_mem_is_store(info));
}

// The load or the store of an instruction that does both to one operand, see pgmodify.h.
static void on_modified(unsigned vcpu, qemu_plugin_meminfo_t info, uint64_t address, void *ip) {
    thread_t *t = threads[vcpu];
    if (!seen(t, address)) refer_data(t, info, address, (uint64_t)ip, true);
}

static void on_code(unsigned vcpu, void *packed) {
    thread_t *t = threads[vcpu];
    uint64_t address = (uint64_t)packed & ((1ull << ADDRESS_BITS) - 1);
    t->refs++;
    if (!repeats(t, address >> PAGE_SHIFT)) refer(t, address >> PAGE_SHIFT, KIND_CODE, address);
    t->insns += (uint64_t)packed >> ADDRESS_BITS;
}

// An iteration of rep movs or rep stos but the first, which qemu runs as a block of its own. A CPU takes a vector at a
// time: they count as vector code would, one in ITERATIONS_AN_INSN.
static void on_iteration(unsigned vcpu, void *address) {
    thread_t *t = threads[vcpu];
    t->refs++;
    if (!repeats(t, (uint64_t)address >> PAGE_SHIFT)) refer(t, (uint64_t)address >> PAGE_SHIFT, KIND_CODE, (uint64_t)address);
    t->insns += ++t->iterations % ITERATIONS_AN_INSN == 0;
}

#include "pgmodify.h"

static bool moves_or_stores_strings(const uint8_t *code, size_t bytes) {
    bool repeated = false;
    for (size_t i = 0; i < bytes; i++) {
        if (code[i] == 0xf3 || code[i] == 0xf2) repeated = true;
        else if (code[i] != 0x66 && code[i] != 0x67 && (code[i] & 0xf0) != 0x40)      // prefixes, REX
            return repeated && ((code[i] & 0xfe) == 0xa4 || (code[i] & 0xfe) == 0xaa);
    }
    return false;
}

static void on_translate(qemu_plugin_id_t id, struct qemu_plugin_tb *tb) {
    (void)id;
    size_t n = qemu_plugin_tb_n_insns(tb);
    uint64_t page = 0;
    for (size_t i = 0; i < n; i++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
        uint64_t address = qemu_plugin_insn_vaddr(insn);
        if (address >> ADDRESS_BITS) return;                     // the vsyscall page
        uint64_t last = (address + qemu_plugin_insn_size(insn) - 1) >> PAGE_SHIFT;
        if (i == 0) {
            if ((uint64_t)qemu_plugin_insn_haddr(insn) != address) die("guest base is not 0: unset QEMU_GUEST_BASE");
            bool iterates = n == 1 && moves_or_stores_strings((const uint8_t *)address, qemu_plugin_insn_size(insn));
            uint64_t packed = iterates ? address : address | n << ADDRESS_BITS;
            qemu_plugin_register_vcpu_tb_exec_cb(tb, iterates ? on_iteration : on_code, NO_REGISTERS, (void *)packed);
            page = address >> PAGE_SHIFT;
        }
        if (last != page) {
            page = last;
            qemu_plugin_register_vcpu_insn_exec_cb(insn, on_code, NO_REGISTERS, (void *)(page << PAGE_SHIFT));
        }
        bool modifies = modifies_memory((const uint8_t *)address, qemu_plugin_insn_size(insn));
        mem_callback callback = modifies ? on_modified : on_data;
        qemu_plugin_register_vcpu_mem_cb(insn, callback, NO_REGISTERS, MEM_READ_WRITE, (void *)address);
    }
}

// ------------------------------------------------------------------------------------------ system calls

static bool peek(void *to, uint64_t from, size_t bytes) {        // guest memory that may not be there
    struct iovec local = {to, bytes}, remote = {(void *)from, bytes};
    return process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == (ssize_t)bytes;
}

#include "pgzeros.h"

static void kernel_touched(thread_t *t, uint64_t address, uint64_t bytes, uint32_t kind) {
    if (!address || !bytes) return;
    for (uint64_t vpn = address >> PAGE_SHIFT; vpn <= (address + bytes - 1) >> PAGE_SHIFT; vpn++, t->refs++)
        if (!repeats(t, vpn) || (kind == KIND_STORE && !t->dirty)) refer(t, vpn, kind, 0);
}

static void kernel_touched_vector(thread_t *t, uint64_t iov, uint64_t count, uint64_t bytes, uint32_t kind) {
    struct iovec one;
    for (uint64_t i = 0; i < count && bytes && peek(&one, iov + i * sizeof one, sizeof one); i++) {
        uint64_t part = one.iov_len < bytes ? one.iov_len : bytes;
        kernel_touched(t, (uint64_t)one.iov_base, part, kind);
        bytes -= part;
    }
}

enum { BUFFER, VECTOR, MESSAGE };
// What the kernel touched: argument `arg` (0 the first) is a buffer of `unit` bytes for each one returned,
// or of `fixed` bytes on success; or an iovec whose count is the next argument; or a msghdr.
static const struct { int number; uint8_t form, arg; uint32_t kind; uint16_t unit, fixed; } touches[] = {
    {SYS_read, BUFFER, 1, KIND_STORE, 1, 0},       {SYS_write, BUFFER, 1, KIND_KERNEL, 1, 0},
    {SYS_pread64, BUFFER, 1, KIND_STORE, 1, 0},    {SYS_pwrite64, BUFFER, 1, KIND_KERNEL, 1, 0},
    {SYS_readv, VECTOR, 1, KIND_STORE, 1, 0},      {SYS_writev, VECTOR, 1, KIND_KERNEL, 1, 0},
    {SYS_preadv, VECTOR, 1, KIND_STORE, 1, 0},     {SYS_pwritev, VECTOR, 1, KIND_KERNEL, 1, 0},
    {SYS_preadv2, VECTOR, 1, KIND_STORE, 1, 0},    {SYS_pwritev2, VECTOR, 1, KIND_KERNEL, 1, 0},
    {SYS_recvfrom, BUFFER, 1, KIND_STORE, 1, 0},   {SYS_sendto, BUFFER, 1, KIND_KERNEL, 1, 0},
    {SYS_recvmsg, MESSAGE, 1, KIND_STORE, 1, 0},   {SYS_sendmsg, MESSAGE, 1, KIND_KERNEL, 1, 0},
    {SYS_getrandom, BUFFER, 0, KIND_STORE, 1, 0},  {SYS_getdents, BUFFER, 1, KIND_STORE, 1, 0},
    {SYS_getdents64, BUFFER, 1, KIND_STORE, 1, 0}, {SYS_getcwd, BUFFER, 0, KIND_STORE, 1, 0},
    {SYS_readlink, BUFFER, 1, KIND_STORE, 1, 0},   {SYS_readlinkat, BUFFER, 2, KIND_STORE, 1, 0},
    {SYS_epoll_wait, BUFFER, 1, KIND_STORE, 12, 0}, {SYS_epoll_pwait, BUFFER, 1, KIND_STORE, 12, 0},
    {SYS_stat, BUFFER, 1, KIND_STORE, 0, 144},     {SYS_fstat, BUFFER, 1, KIND_STORE, 0, 144},
    {SYS_lstat, BUFFER, 1, KIND_STORE, 0, 144},    {SYS_newfstatat, BUFFER, 2, KIND_STORE, 0, 144},
    {SYS_statx, BUFFER, 4, KIND_STORE, 0, 256},    {SYS_uname, BUFFER, 0, KIND_STORE, 0, 390},
};

static void record_touches(thread_t *t, int64_t result) {
    for (size_t i = 0; i < sizeof touches / sizeof *touches; i++) {
        if (touches[i].number != (int)t->number) continue;
        uint64_t bytes = (uint64_t)result * touches[i].unit + touches[i].fixed, address = t->arg[touches[i].arg];
        uint64_t header[4];                                      // msghdr: name, its length, iov, its count
        if (touches[i].form == BUFFER) kernel_touched(t, address, bytes, touches[i].kind);
        else if (touches[i].form == VECTOR)
            kernel_touched_vector(t, address, t->arg[touches[i].arg + 1], bytes, touches[i].kind);
        else if (peek(header, address, sizeof header))
            kernel_touched_vector(t, header[2], header[3], bytes, touches[i].kind);
        return;
    }
}

static uint64_t pages(uint64_t bytes) { return (bytes + PAGE_MASK) >> PAGE_SHIFT; }

static bool huge_pages_known(void) {           // by this kernel: else madvise() refuses, and no flag is set
    static int known = -1;
    if (known < 0) known = !access("/sys/kernel/mm/transparent_hugepage", F_OK);
    return known;
}

static void mapped(thread_t *t, uint64_t address) {
    char link[64], path[4096] = "";
    uint64_t protection = t->arg[2], flags = t->arg[3], start = address >> PAGE_SHIFT;
    uint32_t vma = (uint32_t)(protection & 7) | ((flags & 3) != MAP_PRIVATE ? VMA_SHARED : 0);   // PROT_* are 1, 2, 4
    if (!(flags & MAP_ANONYMOUS)) {
        vma |= VMA_FILE;
        snprintf(link, sizeof link, "/proc/self/fd/%d", (int)t->arg[4]);
        ssize_t length = readlink(link, path, sizeof path - 1);
        path[length < 0 ? 0 : length] = 0;
    } else {
        vma |= flags & MAP_STACK && huge_pages_known() ? VMA_NOT_HUGE : 0;     // since v6.7: calc_vm_flag_bits()
        vma |= flags & MAP_NORESERVE ? VMA_NORESERVE : 0;
    }
    map((vma_t){start, start + pages(t->arg[1]), vma, name_offset(path),
                vma & VMA_FILE ? (uint32_t)(t->arg[5] >> PAGE_SHIFT) : 0});
}

static void protect(uint64_t start, uint64_t end, uint32_t protection) {
    size_t last = (vma_split(start), vma_split(end));
    for (size_t i = vma_split(start); i < last; i++) {
        vmas[i].flags = (vmas[i].flags & ~(uint32_t)7) | (protection & 7);
        emit_vma(vmas[i]);
    }
}

// Have the mappings of files, or those of none, `set` of these flags.
static void set_flags(uint64_t start, uint64_t end, uint32_t of_file, uint32_t flags, uint32_t set) {
    size_t last = (vma_split(start), vma_split(end));
    for (size_t i = vma_split(start); i < last; i++) {
        if ((vmas[i].flags & VMA_FILE) != of_file) continue;
        vmas[i].flags = (vmas[i].flags & ~flags) | set;
        emit_vma(vmas[i]);
    }
}

// How the pages of a file are to be read ahead; and whether others are to be huge, which makes them a VMA of their own.
static void advise(uint64_t start, uint64_t end, uint64_t advice) {
    if (advice == MADV_HUGEPAGE || advice == MADV_NOHUGEPAGE) {
        if (!huge_pages_known()) return;
        set_flags(start, end, 0, VMA_HUGE | VMA_NOT_HUGE, advice == MADV_HUGEPAGE ? VMA_HUGE : VMA_NOT_HUGE);
    } else if (advice <= MADV_SEQUENTIAL) {
        uint32_t set = advice == MADV_RANDOM ? VMA_RANDOM : advice == MADV_SEQUENTIAL ? VMA_SEQUENTIAL : 0;
        set_flags(start, end, VMA_FILE, VMA_RANDOM | VMA_SEQUENTIAL, set);
    }
}

// MADV_DONTNEED and MADV_FREE: private anonymous pages are given back, the mapping stays.
static void give_back(uint64_t start, uint64_t end) {
    for (size_t i = 0; i < n_vmas; i++) {
        uint64_t from = vmas[i].start > start ? vmas[i].start : start, to = vmas[i].end < end ? vmas[i].end : end;
        if (from >= to || vmas[i].flags & (VMA_FILE | VMA_SHARED)) continue;
        sad_unmap(S, pid, from, to);
        emit_vma((vma_t){from, to, VMA_UNMAPPED, 0, 0});
        emit_vma((vma_t){from, to, vmas[i].flags, vmas[i].name, 0});
    }
}

static void moved(thread_t *t, uint64_t address) {
    uint64_t old = t->arg[0] >> PAGE_SHIFT, start = address >> PAGE_SHIFT;
    uint64_t was = pages(t->arg[1]), is = pages(t->arg[2]), source = old;
    size_t i = vma_split(source);
    if (i == n_vmas || vmas[i].start > source) return;
    vma_t v = vmas[i];
    v.start = start;
    v.end = start + is;
    if (start != old && !was) {                                  // of what is shared, a second mapping
        map(v);
    } else if (start != old) {
        if (was > is) unmap(old + is, old + was);
        move_pages(old, old + (was < is ? was : is), v);
        if (t->arg[3] & MREMAP_DONTUNMAP) map((vma_t){old, old + was, v.flags, v.name, v.offset});
    } else if (is > was) {
        v.start += was;
        if (v.flags & VMA_FILE) v.offset += (uint32_t)was;
        map(v);
    } else if (is < was) {
        unmap(start + is, start + was);
    }
}

static void broke(uint64_t result) {
    uint64_t end = pages(result);
    if (!program_break) {
        program_break = end;
    } else if (end > program_break) {
        map((vma_t){program_break, end, VMA_READ | VMA_WRITE, 0, 0});
    } else if (end < program_break) {
        unmap(end, program_break);
    }
    program_break = end;
}

#include "pglayout.h"
#include "pgexec.h"
#include "pgwaits.h"

static void reaped(int64_t child, uint64_t status_at) {          // a killed child could not say that it ended
    int status;
    if (child > 0 && status_at && peek(&status, status_at, sizeof status) && WIFSIGNALED(status))
        forget_address_space((int32_t)child);
}

static void called(thread_t *t, int64_t number, int64_t result) {
    uint64_t start = t->arg[0] >> PAGE_SHIFT, end = start + pages(t->arg[1]);
    after_call(t, result);
    record_touches(t, result);
    lock(t->tid);
    switch (number) {
    case SYS_mmap: mapped(t, (uint64_t)result); break;
    case SYS_mprotect: protect(start, end, (uint32_t)t->arg[2]); break;
    case SYS_mremap: moved(t, (uint64_t)result); break;
    case SYS_brk: broke((uint64_t)result); break;
    case SYS_wait4: reaped(result, t->arg[1]); break;
    case SYS_madvise:
        if (t->arg[2] == MADV_DONTNEED || t->arg[2] == MADV_FREE) give_back(start, end);
        advise(start, end, t->arg[2]);
        break;
    }
    unlock();
}

static void on_syscall_return(qemu_plugin_id_t id, unsigned vcpu, int64_t number, int64_t result) {
    (void)id;
    thread_t *t = threads[vcpu];
    if (number == SYS_execve || number == SYS_execveat) __sync_fetch_and_sub(&S->untraced, 1);   // it failed
    if (off()) return;
    if (!t->tid) t->tid = (int32_t)syscall(SYS_gettid);
    if ((result >= 0 || result <= -4096) && number == (int64_t)t->number) called(t, number, result);
    end_remap(t);
}

static void on_syscall(qemu_plugin_id_t id, unsigned vcpu, int64_t number, uint64_t a1, uint64_t a2, uint64_t a3,
                       uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8) {
    (void)id, (void)a7, (void)a8;
    thread_t *t = threads[vcpu];
    t->number = (uint64_t)number;
    memcpy(t->arg, (uint64_t[]){a1, a2, a3, a4, a5, a6}, sizeof t->arg);
    tell_totals(t);
    vforks = number == SYS_vfork || (number == SYS_clone && a1 & CLONE_VFORK);
    if (off()) return;
    if (!t->tid) t->tid = (int32_t)syscall(SYS_gettid);
    before_call(t);
    begin_remap(t);
    // Recorded before it happens: once it has, another thread may be given the same addresses.
    if (number == SYS_munmap && !(a1 & PAGE_MASK) && a2) {
        lock(t->tid);
        unmap(a1 >> PAGE_SHIFT, (a1 >> PAGE_SHIFT) + pages(a2));
        unlock();
    }
    if (number == SYS_execve) follow_exec(t, a1, a2, a3);
    if (number == SYS_execve || number == SYS_execveat) __sync_fetch_and_add(&S->untraced, 1);
}

// ------------------------------------------------------------------------------------ threads and processes

static void on_thread_start(qemu_plugin_id_t id, unsigned vcpu) {
    (void)id;
    if (vcpu >= MAX_THREADS) die("more than 65536 threads");
    if (!threads[vcpu] && !(threads[vcpu] = malloc(sizeof(thread_t)))) die("out of memory");
    memset(threads[vcpu], 0, sizeof(thread_t));
    threads[vcpu]->insns = threads[vcpu]->insns_told = first_insns;
    first_insns = 0;
}

static void on_thread_end(qemu_plugin_id_t id, unsigned vcpu) {
    (void)id;
    tell_totals(threads[vcpu]);
}

static void on_process_end(qemu_plugin_id_t id, void *unused) {
    (void)id, (void)unused;
    for (size_t i = 0; i < MAX_THREADS; i++)
        if (threads[i]) tell_totals(threads[i]);
    if (off()) return;
    if (borrowed) return;
    thread_t last = {.tid = (int32_t)syscall(SYS_gettid)};
    note_wake(&last, object(ENDED, (uint64_t)pid, 0));
    note_wake(&last, object(ENDED, 0, 0));
    lock(last.tid);
    finished = true;
    forget_address_space(pid);
    unlock();
}

// The map must not be copied while another thread changes it. What the child begins with has its place in the order
// here, before the parent goes on, though it is the child that writes it.
static void before_fork(void) {
    lock((int32_t)syscall(SYS_gettid));
    forked_at = S->now;
    S->now += vforks ? 0 : n_vmas + 1;
    S->forks += !vforks;
}

static void after_fork(void) { unlock(); }

static void in_child(void) {
    int32_t child = (int32_t)getpid(), parent = pid;
    for (size_t i = 0; i < MAX_THREADS; i++)
        if (threads[i]) memset(threads[i], 0, sizeof(thread_t));
    __sync_fetch_and_add(&S->processes, 1);
    remaps = 0;
    borrowed = vforks;
    if (borrowed || off()) return;
    pid = child;
    lock(child);                                                 // held by the parent until after its fork
    for (size_t i = 0; i < n_vmas; i++) emit_vma_at(forked_at + 1 + i, vmas[i]);
    sad_record fork = {.seq = forked_at + 1 + n_vmas, .insns = now_ns(), .pid = child, .tid = parent, .kind = KIND_FORK};
    sad_make_room(S);
    sad_emit(S, &fork);
    unlock();
}

static const char *argument(int argc, char **argv, const char *name) {
    size_t length = strlen(name);
    for (int i = 0; i < argc; i++)
        if (!strncmp(argv[i], name, length) && argv[i][length] == '=') return strdup(argv[i] + length + 1);
    return NULL;
}

PUBLIC int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv) {
    (void)info;
    state_path = argument(argc, argv, "state");
    spool_path = argument(argc, argv, "spool");
    self_path = argument(argc, argv, "self");
    const char *insns = argument(argc, argv, "insns"), *holder = argument(argc, argv, "holder");
    image_replaced = argument(argc, argv, "image") != NULL;
    first_insns = insns ? strtoull(insns, NULL, 10) : 0;
    if (!state_path || !spool_path || !self_path) return 1;
    int fd = open(state_path, O_RDWR | O_CLOEXEC);
    struct stat file;
    if (fd < 0 || fstat(fd, &file)) return 1;
    S = mmap(NULL, (size_t)file.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (S == MAP_FAILED || S->magic != SAD_MAGIC || S->size != (uint64_t)file.st_size) return 1;
    spool_open();                                                // as the user that we are now
    pid = (int32_t)getpid();
    if (holder) __sync_bool_compare_and_swap(&S->lock, atoi(holder), 0);
    if (!image_replaced) __sync_fetch_and_add(&S->processes, 1);
    if (pthread_atfork(before_fork, after_fork, in_child)) return 1;
    take_over_placement();
    qemu_plugin_register_vcpu_init_cb(id, on_thread_start);
    qemu_plugin_register_vcpu_exit_cb(id, on_thread_end);
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translate);
    qemu_plugin_register_vcpu_syscall_cb(id, on_syscall);
    qemu_plugin_register_vcpu_syscall_ret_cb(id, on_syscall_return);
    qemu_plugin_register_atexit_cb(id, on_process_end, NULL);
    return 0;
}
