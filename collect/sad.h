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
// A fork has pages shared until they are stored to (`forks` counts them): the first store to a page after one is
// retained where it happened, and a store before it is not told as of a later reference. So is the first store to a
// page that is full of zeros: it may be the kernel's one zero page until then.
//
// What a page holds changes only while it is in the window: as one leaves that was stored to there and is full of
// zeros, this is told of its last retained reference (without reduction, the window is one page).
#ifndef KDTOOL_SAD_H
#define KDTOOL_SAD_H
#include "sadstate.h"

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
        if (nodes[i].pending.seq) {
            sad_emit(s, &nodes[i].pending);
            nodes[i].first = nodes[i].pending.seq;           // its place in the window is by its last reference
            nodes[i].pending.seq = 0;
        }
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
