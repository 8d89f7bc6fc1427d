// Safely Allowed Drop: an exact, online reduction of one stream of page references, in shared memory.
//
// Kaplan, Smaragdakis, Wilson (SIGMETRICS '99, TOMACS '03): a reference to page p may be dropped when fewer
// than k distinct other pages are referenced between the retained one before it and the next one. Every LRU
// memory of at least k pages then has the same misses.
//
// All state lies in one MAP_SHARED file, so that every thread and every process of a tree feeds one stream in
// one order, and so that it outlives them: what is still pending when the last process has gone is read from
// the file by reftrace.py, which mirrors these structures. Zero bytes are a valid empty state.
//
//   zone  the `zone_cap` most recent pages, in no order: a hit there only stamps the node
//   list  the other pages of the k + 1 most recent ones, newest at `head`
//
// The time of the oldest of the k + 1 answers the question of the theorem: the retained reference at `first`
// is followed by at most k - 1 other pages iff first >= that time. An unmapped page keeps its place without
// its name (key 0), because it was a distinct page.
//
// A fork has pages shared until they are stored to (`forks` counts them): the first store to a page after one is
// retained where it happened, and a store before it is not told as of a later reference. So is the first store to a
// page that is full of zeros: it may be the kernel's one zero page until then.
//
// What a page holds changes only while it is in the window: as one leaves that was stored to there and is full of
// zeros, this is told of its last retained reference (without reduction, the window is one page).
//
// A process may be killed anywhere. Whatever changes more than one word of a node is bracketed by `undo`.
// Stores are not reordered by x86-64, and SAD_ORDER keeps the compiler from doing so.
#ifndef KDTOOL_SAD_H
#define KDTOOL_SAD_H
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define SAD_MAGIC 0x314453746466656bull
#define SAD_ZONE 16
#define SAD_VPN_BITS 36                        // of a user address: 47 bits less 12, and one to spare
#define SAD_MOVED_SHIFT 12
#define SAD_NAMES (1u << 20)                   // bytes of the side table of file names
#define SAD_ORDER() __asm__ volatile("" ::: "memory")

#define SAD_AT_ONCE UINT32_MAX                 // the next store is to be retained at once
#define SAD_WAKE_BITS 12                       // 4,096 places for what woke somebody last, by object

enum { KIND_LOAD, KIND_STORE, KIND_CODE, KIND_KERNEL, KIND_VMA = 256, KIND_FORK = 512, KIND_WAIT = 1024, KIND_ZEROS = 2048 };

// One reference; or, with KIND_VMA set in `kind`, one change of the address space: vpn = first page,
// ip = page after the last, insns = CLOCK_MONOTONIC in ns, tid = offset of the name, low bits of kind = flags,
// offset = where in its file a mapping starts, in pages; of pages that went away the one that they were moved to, its
// upper bits in `kind` from SAD_MOVED_SHIFT on, 0: nowhere. Or, with KIND_FORK, a fork: pid the child's, tid the parent's
// process, insns as above. Or, with KIND_WAIT, the end of a sleep: offset = tid of the waker (0: not known), vpn = seq
// before which it woke `tid`, ip = how long that had asked to sleep, in ns. Or, with KIND_ZEROS, behind the reference of
// the same seq: its page was stored to in the window, and full of zeros when it left that.
typedef struct {
    uint64_t seq, vpn, ip, insns;
    int32_t pid, tid;
    uint32_t kind, offset;
} sad_record;

typedef struct {
    uint64_t key;                              // pid << SAD_VPN_BITS | vpn; 0: unmapped since
    uint64_t first;                            // seq of the last reference that was retained
    sad_record pending;                        // the last one since, not retained so far; none when seq is 0
    uint32_t prev, next, chain, slot;          // list, hash chain, 1 + place in the zone (0: in the list)
    uint32_t forks;                            // so many when a store was last retained at once; or SAD_AT_ONCE
    uint32_t stored;                           // since the page came into the window
} sad_node;

typedef struct { uint64_t key, seq; int32_t tid; } sad_wake;     // whoever woke those that slept for an object last

typedef struct {
    uint64_t magic;
    uint32_t k, hash_bits, ring_cap, zone_cap;
    uint64_t names_at, ring_at, nodes_at, hash_at, wakes_at, size;   // offsets in the file, set by its maker
    volatile uint32_t stop;                    // set by the maker: record no more
    volatile uint32_t broken;                  // locks taken over from a dead holder
    volatile uint64_t refs, insns, lost, untraced, processes;
    uint32_t names_used, names_lost;
    volatile uint32_t forks;                   // so far, of all processes
    volatile uint32_t unread;                  // pages that could not be looked at for zeros: no permission
    _Alignas(64) volatile int32_t lock;        // tid of the holder
    volatile uint64_t now;                     // seq of the newest reference or change
    volatile uint64_t emitted, written;        // records made; records of them in the spool file
    uint32_t n, head, tail, zone_n;            // nodes in use; list ends; node 0 is never used
    uint32_t zone[SAD_ZONE];                   // nodes
    uint64_t zone_last[SAD_ZONE];              // ... and their last seq
    volatile uint32_t undo_node;               // node to restore when the holder died; 0: none
    uint32_t undo_n;
    uint64_t undo_emitted;
    sad_node undo;
} sad_state;

static inline uint64_t sad_last(const sad_node *x) { return x->pending.seq ? x->pending.seq : x->first; }
static inline sad_record *sad_ring(sad_state *s) { return (sad_record *)((char *)s + s->ring_at); }
static inline sad_node *sad_nodes(sad_state *s) { return (sad_node *)((char *)s + s->nodes_at); }
static inline uint32_t *sad_hash(sad_state *s) { return (uint32_t *)((char *)s + s->hash_at); }
static inline sad_wake *sad_wake_of(sad_state *s, uint64_t key) {
    return &((sad_wake *)((char *)s + s->wakes_at))[key * 0x9E3779B97F4A7C15ull >> (64 - SAD_WAKE_BITS)];
}
static inline uint32_t *sad_bucket(sad_state *s, uint64_t key) {
    return &sad_hash(s)[key * 0x9E3779B97F4A7C15ull >> (64 - s->hash_bits)];
}

// Provided by the includer: write the records [written, emitted) to the spool and set written = emitted.
static void sad_spill(sad_state *s);

// Provided by the includer: whether a page is known to be full of zeros now.
static bool sad_holds_zeros(sad_state *s, uint64_t key);

static void sad_emit(sad_state *s, const sad_record *record) {
    sad_ring(s)[s->emitted % s->ring_cap] = *record;
    SAD_ORDER();
    s->emitted++;
}

// No single step emits more than three records: with room for them, `undo` never has to reach into the spool.
static inline void sad_make_room(sad_state *s) {
    if (__builtin_expect(s->emitted - s->written + 3 > s->ring_cap, 0)) sad_spill(s);
}

static void sad_begin(sad_state *s, uint32_t i) {
    s->undo = sad_nodes(s)[i];
    s->undo_emitted = s->emitted;
    s->undo_n = s->n;
    SAD_ORDER();
    s->undo_node = i;
    SAD_ORDER();
}

static void sad_commit(sad_state *s) {
    SAD_ORDER();
    s->undo_node = 0;
}

static void sad_unlink(sad_state *s, uint32_t i) {
    sad_node *nodes = sad_nodes(s), *x = &nodes[i];
    if (x->prev) nodes[x->prev].next = x->next; else s->head = x->next;
    if (x->next) nodes[x->next].prev = x->prev; else s->tail = x->prev;
}

static void sad_push(sad_state *s, uint32_t i) {
    sad_node *nodes = sad_nodes(s), *x = &nodes[i];
    x->slot = x->prev = 0;
    x->next = s->head;
    if (s->head) nodes[s->head].prev = i; else s->tail = i;
    s->head = i;
}

static void sad_forget_key(sad_state *s, uint32_t i) {
    sad_node *nodes = sad_nodes(s);
    uint32_t *link = sad_bucket(s, nodes[i].key);
    while (*link != i) link = &nodes[*link].chain;
    *link = nodes[i].chain;
}

// Put a node that is in no list into the zone; the oldest there moves to the head of the list.
static void sad_enter_zone(sad_state *s, uint32_t i, uint64_t last) {
    sad_node *nodes = sad_nodes(s);
    uint32_t slot = 0;
    if (s->zone_n < s->zone_cap) {
        slot = s->zone_n++;
    } else {
        for (uint32_t z = 1; z < s->zone_n; z++)
            if (s->zone_last[z] < s->zone_last[slot]) slot = z;
        sad_push(s, s->zone[slot]);
    }
    s->zone[slot] = i;
    s->zone_last[slot] = last;
    nodes[i].slot = slot + 1;
}

// Tell of a page that leaves the window what it holds, behind its last retained reference.
static void sad_tell_zeros(sad_state *s, const sad_node *x, uint64_t last) {
    if (!x->key || !x->stored || !sad_holds_zeros(s, x->key)) return;
    sad_record zeros = {.seq = last, .kind = KIND_ZEROS};
    sad_emit(s, &zeros);
}

// Without reduction every reference is retained; node 1 is the page of the last one.
static void sad_retain(sad_state *s, uint64_t key, const sad_record *r) {
    sad_node *x = &sad_nodes(s)[1];
    sad_begin(s, 1);
    if (x->key != key) {
        sad_tell_zeros(s, x, x->first);
        x->stored = 0;
    }
    sad_emit(s, r);
    x->key = key;
    x->stored |= r->kind == KIND_STORE;
    x->first = r->seq;
    sad_commit(s);
}

// Note a further reference to the page of node i, not stored to since a fork, where either is a store.
static void sad_after_fork(sad_state *s, uint32_t i, const sad_record *r) {
    sad_node *x = &sad_nodes(s)[i];
    sad_begin(s, i);
    if (x->pending.seq) {
        sad_emit(s, &x->pending);
        x->first = x->pending.seq;
    }
    x->pending = *r;
    if (r->kind == KIND_STORE) {
        sad_emit(s, r);
        x->first = r->seq;
        x->pending.seq = 0;
        x->forks = s->forks;
    }
    sad_commit(s);
}

// Note a further reference to the page of node i, which is in the zone by now.
static inline void sad_again(sad_state *s, uint32_t i, const sad_record *r) {
    sad_node *x = &sad_nodes(s)[i];
    uint64_t oldest = s->n == s->k + 1 ? sad_last(&sad_nodes(s)[s->tail]) : 0;
    uint32_t kind = r->kind;
    s->zone_last[x->slot - 1] = r->seq;
    x->stored |= kind == KIND_STORE;
    if (__builtin_expect(x->forks != s->forks, 0) && (kind == KIND_STORE || x->pending.kind == KIND_STORE)) {
        sad_after_fork(s, i, r);
        return;
    }
    if (x->pending.seq && oldest > x->first) {               // it cannot be dropped: retain it
        sad_begin(s, i);
        sad_emit(s, &x->pending);
        x->first = x->pending.seq;
        x->pending = *r;
        sad_commit(s);
        return;
    }
    if (x->pending.seq && x->pending.kind == KIND_STORE) kind = KIND_STORE;   // a dropped store still dirties
    x->pending.ip = r->ip;                                   // torn by a kill, this is still a reference to
    x->pending.insns = r->insns;                             // this page; its vpn and pid stay what they are
    x->pending.tid = r->tid;
    x->pending.kind = kind;
    SAD_ORDER();
    x->pending.seq = r->seq;
}

// A page that is not among the k + 1 most recent ones: its reference is retained at once.
static uint32_t sad_new(sad_state *s, uint64_t key, const sad_record *r) {
    sad_node *nodes = sad_nodes(s);
    uint32_t i = s->n == s->k + 1 ? s->tail : s->n + 1;
    sad_node *x = &nodes[i];
    sad_begin(s, i);
    if (i == s->tail) {
        if (x->pending.seq) sad_emit(s, &x->pending);
        sad_tell_zeros(s, x, sad_last(x));
        sad_unlink(s, i);
        if (x->key) sad_forget_key(s, i);
    } else {
        s->n++;
    }
    x->key = key;
    x->first = r->seq;
    x->pending = *r;
    x->pending.seq = 0;
    x->stored = r->kind == KIND_STORE;
    x->forks = x->stored ? s->forks : sad_holds_zeros(s, key) ? SAD_AT_ONCE : 0;
    uint32_t *bucket = sad_bucket(s, key);
    x->chain = *bucket;
    *bucket = i;
    sad_enter_zone(s, i, r->seq);
    sad_emit(s, r);
    sad_commit(s);
    return i;
}

// Feed one reference; the caller holds the lock. `hint` is a place to remember the page's node in.
static inline void sad_reference(sad_state *s, sad_record *r, uint32_t *hint) {
    sad_make_room(s);
    r->seq = s->now + 1;
    sad_node *nodes = sad_nodes(s);
    uint64_t key = (uint64_t)(uint32_t)r->pid << SAD_VPN_BITS | r->vpn;
    if (!s->k) {
        sad_retain(s, key, r);
        s->now = r->seq;
        return;
    }
    uint32_t i = *hint;
    if (!i || nodes[i].key != key)
        for (i = *sad_bucket(s, key); i && nodes[i].key != key; i = nodes[i].chain) { }
    if (i) {
        if (!nodes[i].slot) {                                // links need no undo: sad_recover rebuilds them
            sad_unlink(s, i);
            sad_enter_zone(s, i, r->seq);
        }
        sad_again(s, i, r);
    } else {
        i = sad_new(s, key, r);
    }
    *hint = i;
    s->now = r->seq;
}

// Pages [start, end) of pid are gone: retain what is pending; the next touch of such a page is a new page.
static void sad_unmap(sad_state *s, int32_t pid, uint64_t start, uint64_t end) {
    sad_node *nodes = sad_nodes(s);
    uint64_t from = (uint64_t)(uint32_t)pid << SAD_VPN_BITS | start, to = from - start + end;
    if (!s->k && nodes[1].key >= from && nodes[1].key < to) nodes[1].key = 0;
    for (uint32_t i = 1; i <= s->n; i++) {
        if (nodes[i].key < from || nodes[i].key >= to) continue;
        sad_make_room(s);
        sad_begin(s, i);
        if (nodes[i].pending.seq) sad_emit(s, &nodes[i].pending);
        nodes[i].pending.seq = 0;
        sad_forget_key(s, i);
        nodes[i].key = 0;
        sad_commit(s);
    }
}

// Pages [start, end) of pid are now those from `to` on: retain what is pending, under the old numbers.
static void sad_move(sad_state *s, int32_t pid, uint64_t start, uint64_t end, uint64_t to) {
    sad_node *nodes = sad_nodes(s);
    uint64_t from = (uint64_t)(uint32_t)pid << SAD_VPN_BITS | start, after = from - start + end;
    if (!s->k && nodes[1].key >= from && nodes[1].key < after) nodes[1].key += to - start;
    for (uint32_t i = 1; i <= s->n; i++) {
        if (nodes[i].key < from || nodes[i].key >= after) continue;
        sad_make_room(s);
        sad_begin(s, i);
        if (nodes[i].pending.seq) {
            sad_emit(s, &nodes[i].pending);
            nodes[i].first = nodes[i].pending.seq;
            nodes[i].pending.seq = 0;
        }
        nodes[i].pending.vpn += to - start;
        sad_forget_key(s, i);
        nodes[i].key += to - start;
        uint32_t *bucket = sad_bucket(s, nodes[i].key);
        nodes[i].chain = *bucket;
        *bucket = i;
        sad_commit(s);
    }
}

static int sad_newer(const void *a, const void *b, void *nodes) {
    const sad_node *all = nodes;
    uint64_t x = sad_last(&all[*(const uint32_t *)a]), y = sad_last(&all[*(const uint32_t *)b]);
    return x < y ? 1 : -1;
}

// The holder of the lock died: undo its unfinished step and rebuild every link from the nodes' times.
static void sad_recover(sad_state *s) {
    sad_node *nodes = sad_nodes(s);
    if (s->undo_node) {
        nodes[s->undo_node] = s->undo;
        s->emitted = s->undo_emitted;
        s->n = s->undo_n;
        sad_commit(s);
    }
    uint32_t *order = malloc((s->n + 1) * sizeof *order);
    for (uint32_t i = 0; i < s->n; i++) order[i] = i + 1;
    qsort_r(order, s->n, sizeof *order, sad_newer, nodes);
    memset(sad_hash(s), 0, sizeof(uint32_t) << s->hash_bits);
    s->head = s->tail = s->zone_n = 0;
    for (uint32_t j = s->n; j-- > 0;) {                       // oldest first
        uint32_t i = order[j];
        sad_enter_zone(s, i, sad_last(&nodes[i]));
        if (!nodes[i].key) continue;
        uint32_t *bucket = sad_bucket(s, nodes[i].key);
        nodes[i].chain = *bucket;
        *bucket = i;
    }
    free(order);
}
#endif
