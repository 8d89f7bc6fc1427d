// Feeds operations to the plugin's SAD core (collect/sad.h) without qemu.
#define _GNU_SOURCE
#include "sad.h"

static void sad_spill(sad_state *s) { (void)s; abort(); }    // the ring of the state is larger than any test

// The pages of which it was said last, by the `spare` of a reference, that they hold zeros now.
static bool zeros[2][32];
static bool *zeros_of(uint64_t pid, uint64_t vpn) { return &zeros[pid - 1][vpn]; }
static bool sad_holds_zeros(sad_state *s, uint64_t key) {
    (void)s;
    uint64_t pid = key >> SAD_VPN_BITS, vpn = key & ((1ull << SAD_VPN_BITS) - 1);
    return pid - 1 < 2 && vpn < 32 && *zeros_of(pid, vpn);
}

enum { REFER, UNMAP, TAKE_OVER, DIE_INSIDE, FORK, MOVE };

typedef struct { int32_t what, pid, kind, spare; uint64_t vpn, end; } operation;

static void die_inside(sad_state *s, uint64_t where) {       // a holder killed half-way through a step
    uint32_t i = 1 + (uint32_t)(where % s->n);
    sad_record garbage = {.seq = 7, .vpn = 7};
    sad_begin(s, i);
    sad_emit(s, &garbage);
    memset(&sad_nodes(s)[i], 0xff, sizeof(sad_node));
    s->n = s->n > 1 ? s->n - 1 : 1;
    s->head = s->tail = 0;
}

__attribute__((visibility("default"))) void drive(sad_state *s, const operation *op, uint64_t n) {
    for (const operation *end = op + n; op < end; op++) {
        uint32_t hint = 0;
        sad_record r = {.vpn = op->vpn, .ip = s->now, .pid = op->pid, .tid = op->pid, .kind = (uint32_t)op->kind};
        if (op->what == REFER && op->pid <= 2 && op->vpn < 32) *zeros_of((uint64_t)op->pid, op->vpn) = op->spare;
        if (op->what == REFER) sad_reference(s, &r, &hint);
        if (op->what == UNMAP) sad_unmap(s, op->pid, op->vpn, op->end);
        if (op->what == FORK) s->forks++;
        if (op->what == MOVE) {                              // `kind`: to where
            sad_unmap(s, op->pid, (uint64_t)op->kind, (uint64_t)op->kind + op->end - op->vpn);
            sad_move(s, op->pid, op->vpn, op->end, (uint64_t)op->kind);
        }
        if (op->what == DIE_INSIDE && s->n) die_inside(s, op->vpn);
        if (op->what == TAKE_OVER || op->what == DIE_INSIDE) sad_recover(s);
    }
}
