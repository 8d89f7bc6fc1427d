// Who waits for whom: system calls in which a thread slept until another one did something.
//
// Included by pgtrace.c once. Whatever may wake a sleeper notes itself before it happens, by its object (a futex, a
// pipe, a thread that ends). Who returns from a sleep finds the latest note there and tells both, as one record.
// Objects share 4,096 places: who finds another's there tells that it slept, and not for whom.
//
// Sockets are one object, since the ends of a pair cannot be told from outside; so is all that poll() and its like
// wait for. Not seen: waits for file locks, signals and System V IPC; a child that was killed.
#ifndef KDTOOL_PGWAITS_H
#define KDTOOL_PGWAITS_H

enum { FUTEX = 1, WRITTEN, DRAINED, ENDED, ANYTHING };           // kinds of objects
enum { TO_WAIT, TO_WAKE, TO_WAKE_BOTH, NEITHER };                // what a futex call does, by its operation

static uint64_t object(uint64_t kind, uint64_t a, uint64_t b) {
    return ((a * 0x9E3779B97F4A7C15ull ^ b * 0xC2B2AE3D27D4EB4Full) + kind * 0x165667B19E3779F9ull) | 1;
}

static uint64_t futex_object(uint64_t address, uint64_t operation) {
    return object(FUTEX, address, operation & 128 ? (uint64_t)pid : 0);   // FUTEX_PRIVATE_FLAG
}

static uint64_t descriptor_object(uint64_t kind, uint64_t fd) {  // 0: what nobody has to wait for
    struct stat file;
    if (fstat((int)fd, &file)) return 0;
    switch (file.st_mode & S_IFMT) {
    case S_IFREG: case S_IFDIR: case S_IFBLK: case S_IFCHR: return 0;
    case S_IFSOCK: return object(kind, 0, 0);
    }
    return object(kind, file.st_dev, file.st_ino);
}

static uint64_t switches(void) {                                 // how often this thread went to sleep
    struct rusage usage;
    return getrusage(RUSAGE_THREAD, &usage) ? 0 : (uint64_t)usage.ru_nvcsw;
}

static void note_wake(const thread_t *t, uint64_t what) {
    if (!what) return;
    lock(t->tid);
    *sad_wake_of(S, what) = (sad_wake){what, S->now, t->tid};
    unlock();
}

static int64_t span_ns(uint64_t at, int64_t unit_ns) {           // of a timespec or, by 1,000 ns, a timeval
    int64_t span[2];
    if (!at || !peek(span, at, sizeof span) || span[0] < 0 || span[0] > INT32_MAX) return 0;
    return span[0] * 1000000000 + span[1] * unit_ns;
}

static int64_t until_ns(uint64_t clock, uint64_t at) {
    struct timespec now;
    clock_gettime((clockid_t)clock, &now);
    int64_t left = span_ns(at, 1) - ((int64_t)now.tv_sec * 1000000000 + now.tv_nsec);
    return left > 0 ? left : 0;
}

static int64_t ms_ns(uint64_t ms) { return (int32_t)ms > 0 ? (int64_t)(int32_t)ms * 1000000 : 0; }

static void before_futex(thread_t *t) {
    static const uint8_t does[] = {TO_WAIT, TO_WAKE, NEITHER, TO_WAKE_BOTH, TO_WAKE_BOTH, TO_WAKE_BOTH, TO_WAIT,
                                   TO_WAKE, NEITHER, TO_WAIT, TO_WAKE, TO_WAIT, TO_WAKE_BOTH, TO_WAIT};
    uint64_t operation = t->arg[1] & 127, what = futex_object(t->arg[0], t->arg[1]);
    if (operation >= sizeof does || does[operation] == NEITHER) return;
    if (does[operation] == TO_WAIT) {
        t->waits_for = what;
        return;
    }
    note_wake(t, what);
    if (does[operation] == TO_WAKE_BOTH) note_wake(t, futex_object(t->arg[4], t->arg[1]));
}

// Note what the call under way may wake, and what it may wait for: `waits_for`, or `asked_ns` by the clock.
static void before_call(thread_t *t) {
    const uint64_t *arg = t->arg;
    t->waits_for = 0;
    t->asked_ns = 0;
    switch (t->number) {
    case SYS_futex: before_futex(t); break;
    case SYS_read: case SYS_readv: case SYS_recvfrom: case SYS_recvmsg: case SYS_accept: case SYS_accept4:
        t->waits_for = descriptor_object(WRITTEN, arg[0]);
        note_wake(t, descriptor_object(DRAINED, arg[0]));
        break;
    case SYS_write: case SYS_writev: case SYS_sendto: case SYS_sendmsg: case SYS_connect: case SYS_close:
        t->waits_for = descriptor_object(DRAINED, arg[0]);
        if (!t->waits_for) break;
        note_wake(t, descriptor_object(WRITTEN, arg[0]));
        note_wake(t, object(ANYTHING, 0, 0));
        break;
    case SYS_poll: t->asked_ns = ms_ns(arg[2]); break;
    case SYS_epoll_wait: case SYS_epoll_pwait: t->asked_ns = ms_ns(arg[3]); break;
    case SYS_ppoll: t->asked_ns = span_ns(arg[2], 1); break;
    case SYS_select: t->asked_ns = span_ns(arg[4], 1000); break;
    case SYS_pselect6: t->asked_ns = span_ns(arg[4], 1); break;
    case SYS_nanosleep: t->asked_ns = span_ns(arg[0], 1); break;
    case SYS_clock_nanosleep:
        t->asked_ns = arg[1] & TIMER_ABSTIME ? until_ns(arg[0], arg[2]) : span_ns(arg[2], 1);
        break;
    case SYS_exit: note_wake(t, object(ENDED, (uint64_t)t->tid, 0)); return;
    case SYS_wait4: case SYS_waitid: break;
    default: return;
    }
    t->switches = switches();
}

static void emit_wait(thread_t *t, uint64_t what, uint64_t or_what, int64_t asked_ns) {
    lock(t->tid);
    sad_wake by = {0}, found[] = {*sad_wake_of(S, what), *sad_wake_of(S, or_what)};
    for (int i = 0; i < 2; i++)
        if (found[i].key == (i ? or_what : what) && found[i].tid != t->tid && found[i].seq >= by.seq) by = found[i];
    sad_record r = {.seq = S->now + 1, .vpn = by.seq, .ip = (uint64_t)asked_ns, .insns = now_ns(), .pid = pid,
                    .tid = t->tid, .kind = KIND_WAIT, .offset = (uint32_t)by.tid};
    sad_make_room(S);
    sad_emit(S, &r);
    S->now = r.seq;
    unlock();
}

// Tell that the call, which did not fail, slept, if it did.
static void after_call(thread_t *t, int64_t result) {
    uint64_t what = t->waits_for, or_what = 1;                   // 1: no object has this key
    bool timed_out = false;
    switch (t->number) {
    case SYS_futex: or_what = object(ENDED, t->arg[2] & 0x3fffffff, 0); break;    // pthread_join(), FUTEX_TID_MASK
    case SYS_wait4: what = object(ENDED, (uint64_t)result, 0); break;
    case SYS_waitid: what = object(ENDED, 0, 0); break;
    case SYS_nanosleep: case SYS_clock_nanosleep: what = 1, timed_out = true; break;
    case SYS_poll: case SYS_ppoll: case SYS_select: case SYS_pselect6: case SYS_epoll_wait: case SYS_epoll_pwait:
        what = object(ANYTHING, 0, 0), timed_out = !result;
        break;
    }
    if (!what || (t->number != SYS_futex && switches() == t->switches)) return;
    emit_wait(t, timed_out ? 1 : what, or_what, timed_out ? t->asked_ns : 0);
}
#endif
