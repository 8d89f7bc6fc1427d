// Which pages are full of zeros as they leave the reduction's window: what reclaim would find in them.
//
// Included by pgtrace.c once. Linux does not write such a page (mm/page_io.c, v6.18: swap_writeout()).
//
// A page of this process is read in place, which takes no more than a cache miss, where no call under way can take it
// away meanwhile; else, and in other processes, by process_vm_readv(), which fails where a load would fault. Not
// looked at: pages of files, but those that a private mapping may have made the process's own.
#ifndef KDTOOL_PGZEROS_H
#define KDTOOL_PGZEROS_H

#define PAGE_WORDS 512
#define WORDS_AT_ONCE 8

static uint32_t remaps;                        // calls of this process that may take pages away; guarded by the lock

// munmap() is not among them: the pages are forgotten before it happens.
static bool takes_pages_away(const thread_t *t) {
    switch (t->number) {
    case SYS_mremap: case SYS_brk: case SYS_mprotect: return true;
    case SYS_mmap: return t->arg[3] & MAP_FIXED;
    }
    return false;
}

static void begin_remap(thread_t *t) {
    t->remaps = takes_pages_away(t);
    if (!t->remaps) return;
    lock(t->tid);
    remaps++;
    unlock();
}

static void end_remap(thread_t *t) {           // once the map has what the call changed
    if (!t->remaps) return;
    lock(t->tid);
    remaps--;
    unlock();
    t->remaps = false;
}

static const vma_t *vma_of(uint64_t vpn) {
    size_t low = 0, high = n_vmas;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (vmas[middle].end <= vpn) low = middle + 1; else high = middle;
    }
    return low < n_vmas && vmas[low].start <= vpn ? &vmas[low] : NULL;
}

static bool all_zeros(const uint64_t *word) {
    for (const uint64_t *end = word + PAGE_WORDS; word < end; word += WORDS_AT_ONCE) {
        uint64_t bits = 0;
        for (int i = 0; i < WORDS_AT_ONCE; i++) bits |= word[i];
        if (bits) return false;
    }
    return true;
}

static bool read_of(int32_t whose, uint64_t address, void *to, size_t bytes) {
    struct iovec local = {to, bytes}, remote = {(void *)address, bytes};
    if (process_vm_readv(whose, &local, 1, &remote, 1, 0) == (ssize_t)bytes) return true;
    S->unread += errno == EPERM;
    return false;
}

static bool sad_holds_zeros(sad_state *s, uint64_t key) {
    static uint64_t copy[PAGE_WORDS];
    (void)s;
    uint64_t vpn = key & ((1ull << SAD_VPN_BITS) - 1), address = vpn << PAGE_SHIFT;
    int32_t whose = (int32_t)(key >> SAD_VPN_BITS);
    if (whose == pid) {
        const vma_t *v = vma_of(vpn);
        if (!v || (v->flags & VMA_FILE && (v->flags & (VMA_SHARED | VMA_WRITE)) != VMA_WRITE)) return false;
        if (!remaps && (v->flags & (VMA_FILE | VMA_READ)) == VMA_READ) return all_zeros((const uint64_t *)address);
    }
    return read_of(whose, address, copy, sizeof *copy) && !*copy && read_of(whose, address, copy, sizeof copy) &&
           all_zeros(copy);
}
#endif
