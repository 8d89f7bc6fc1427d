// What the reduction keeps in shared memory (sad.h), and the steps that its lists are changed by.
//
//   zone  the `zone_cap` most recent pages, in no order: a hit there only stamps the node
//   list  the other pages of the k + 1 most recent ones, newest at `head`
//
// The time of the oldest of the k + 1 answers the question of the theorem: the retained reference at `first`
// is followed by at most k - 1 other pages iff first >= that time. An unmapped page keeps its place without
// its name (key 0), because it was a distinct page.
//
// A process may be killed anywhere. Whatever changes more than one word of a node is bracketed by `undo`.
// Stores are not reordered by x86-64, and SAD_ORDER keeps the compiler from doing so.
#ifndef KDTOOL_SADSTATE_H
#define KDTOOL_SADSTATE_H
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

#define SAD_SPARE 1024                         // records that the ring still takes when one could not be spilled
#define SAD_AT_ONCE UINT32_MAX                 // the next store is to be retained at once
#define SAD_WAKE_BITS 12                       // 4,096 places for what woke somebody last, by object

enum { KIND_LOAD, KIND_STORE, KIND_CODE, KIND_KERNEL, KIND_VMA = 256, KIND_FORK = 512, KIND_WAIT = 1024, KIND_ZEROS = 2048 };

// One reference; or, with KIND_VMA set in `kind`, one change of the address space: vpn = first page,
// ip = page after the last, insns = CLOCK_MONOTONIC in ns, tid = offset of the name, low bits of kind = flags,
// offset = where in its file a mapping starts, in pages; of pages that went away the one that they were moved to, its
// upper bits in `kind` from SAD_MOVED_SHIFT on, 0: nowhere; of a mapping, its advice is there. Or, with KIND_FORK, a
// fork: pid the child's, tid the parent's process, insns as above. Or, with KIND_WAIT, the end of a sleep: offset = tid of the waker (0: not known), vpn = seq
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
    volatile uint32_t error;                   // errno of the write that ended the recording; 0: none
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

// Provided by the includer: write the records [written, emitted) to the spool and set written = emitted. Where that
// fails, set `error` and `stop`: what was not written stays in the ring, and whatever is under way finds room there.
static void sad_spill(sad_state *s);

// Provided by the includer: whether a page is known to be full of zeros now.
static bool sad_holds_zeros(sad_state *s, uint64_t key);

static void sad_emit(sad_state *s, const sad_record *record) {
    if (__builtin_expect(s->emitted - s->written == s->ring_cap, 0)) {
        s->lost++;
        return;
    }
    sad_ring(s)[s->emitted % s->ring_cap] = *record;
    SAD_ORDER();
    s->emitted++;
}

// No single step emits more than three records: with room for them, `undo` never has to reach into the spool.
static inline void sad_make_room(sad_state *s) {
    if (__builtin_expect(s->emitted - s->written + SAD_SPARE > s->ring_cap, 0)) sad_spill(s);
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
#endif
