// The spool file of one process that uses OpenCL: a header page and slots, one slot a call that enqueues.
//
//   PID-N.cl     header (4096 bytes) | slot 0 | slot 1 | ...    mapped MAP_SHARED, grown by CHUNK_SLOTS
//   PID-N.names  records of name_record + text, appended by write(2) before a slot refers to them
//
// A slot is handed out before the call and changes state as the command does, so that what is in the page
// cache when the process is killed says of every command whether it was refused, made or completed:
//
//   EMPTY -> ENTERED -> REFUSED                    the call failed: no command
//                    -> PENDING -> TAKEN -> DONE   completed, with the times of the device
//                                        -> FAILED, UNTIMED
//
// accelspool.py mirrors these structures and counts: slots from ENTERED on, less REFUSED and CLOCK, + no_room.
// The room on disk is allocated before it is mapped: a full disk is counted, not a SIGBUS in the program.
#ifndef KDTOOL_CLSPOOL_H
#define KDTOOL_CLSPOOL_H
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define SPOOL_VARIABLE "KDTOOL_ACCEL_SPOOL"
#define SPOOL_MAGIC 0x316c63616674646bull
#define HEADER_BYTES 4096
#define CHUNK_SLOTS 8192                       // 786,432 bytes
#define MAX_CHUNKS 16384                       // 134 M commands a process
#define NAME_BUCKETS 1024

enum { EMPTY, ENTERED, REFUSED, PENDING, TAKEN, DONE, FAILED, UNTIMED, CLOCK };
enum { NAME_COMMAND, NAME_DEVICE, NAME_EXTENSION };

typedef struct {
    _Atomic uint32_t state;
    uint32_t name, queue;                      // ids of this process
    uint16_t device;
    uint8_t kind, spare;                       // AccelKind of traces/schema.py
    uint64_t bytes, address;
    uint64_t event;                            // handle that the layer holds from PENDING to TAKEN
    int64_t before_ns, after_ns, done_ns;      // CLOCK_MONOTONIC around the call and when completion was seen
    uint64_t queued, submit, start, end;       // clock of the device; of a CLOCK slot queued = end
} slot;
_Static_assert(sizeof(slot) == 96, "accelspool.py reads 96 bytes");

typedef struct {
    uint64_t magic;
    uint32_t slot_bytes;
    int32_t pid;
    int64_t start_ns;
    _Atomic uint64_t slots;                    // handed out
    _Atomic uint64_t no_room;                  // commands without a slot: the disk was full
    _Atomic uint64_t names_lost;
} header;

typedef struct { uint32_t kind, id, bytes; } name_record;

typedef struct name {
    struct name *next;
    uint32_t kind, id;
    char text[];
} name;

static struct {
    pthread_mutex_t lock;
    _Atomic int ready;                         // 1: open; -1: cannot be; 0: not yet in this process
    _Atomic int full;
    int fd, names_fd;
    header *head;
    _Atomic(slot *) chunks[MAX_CHUNKS];
    _Atomic(name *) names[NAME_BUCKETS];
    uint32_t ids[NAME_EXTENSION + 1];          // of each kind, handed out
} spool = {.lock = PTHREAD_MUTEX_INITIALIZER, .fd = -1, .names_fd = -1};

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

// Say once why this process is not recorded: in silence its commands would be lost.
static int spool_refused(const char *folder) {
    fprintf(stderr, "kdtool: the OpenCL commands of process %d are not recorded: %s: %s\n", getpid(), folder,
            strerror(errno));
    return -1;
}

// Allocate room on disk, 0 when it is there. Beyond the program's own limit the kernel would end it by SIGXFSZ.
static int spool_room(off_t at, off_t bytes) {
    struct rlimit limit;
    if (!getrlimit(RLIMIT_FSIZE, &limit) && limit.rlim_cur != RLIM_INFINITY && (rlim_t)(at + bytes) > limit.rlim_cur)
        return EFBIG;
    return posix_fallocate(spool.fd, at, bytes);
}

static int spool_create(const char *folder) {
    char path[4096];
    for (int i = 0; i < 1000; i++) {           // a process that executes another program keeps its pid
        snprintf(path, sizeof path, "%s/%d-%d.names", folder, getpid(), i);
        spool.names_fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0600);
        if (spool.names_fd < 0 && errno == EEXIST) continue;
        if (spool.names_fd < 0) return spool_refused(folder);
        snprintf(path, sizeof path, "%s/%d-%d.cl", folder, getpid(), i);
        spool.fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        errno = spool.fd < 0 ? errno : spool_room(0, HEADER_BYTES);
        if (spool.fd < 0 || errno) return spool_refused(folder);
        while (flock(spool.fd, LOCK_EX) && errno == EINTR) { }    // as long as this process lives: the reader asks
        spool.head = mmap(NULL, HEADER_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, spool.fd, 0);
        if (spool.head == MAP_FAILED) return spool_refused(folder);
        spool.head->slot_bytes = sizeof(slot);
        spool.head->pid = getpid();
        spool.head->start_ns = now_ns();
        spool.head->magic = SPOOL_MAGIC;       // last: from now on the file is read
        return 1;
    }
    return spool_refused(folder);
}

static void spool_before_fork(void) { pthread_mutex_lock(&spool.lock); }
static void spool_parent(void) { pthread_mutex_unlock(&spool.lock); }

// A child has the parent's mappings and none of its threads: it begins a file of its own when it first needs one.
static void spool_child(void) {
    pthread_mutex_init(&spool.lock, NULL);
    if (spool.fd >= 0) close(spool.fd);
    if (spool.names_fd >= 0) close(spool.names_fd);
    spool.fd = spool.names_fd = -1;
    memset((void *)spool.chunks, 0, sizeof spool.chunks);
    memset((void *)spool.names, 0, sizeof spool.names);
    memset(spool.ids, 0, sizeof spool.ids);
    atomic_store(&spool.full, 0);
    atomic_store(&spool.ready, 0);
}

static int spool_open(void) {
    int ready = atomic_load_explicit(&spool.ready, memory_order_acquire);
    if (ready) return ready > 0;
    pthread_mutex_lock(&spool.lock);
    ready = atomic_load(&spool.ready);
    if (!ready) {
        const char *folder = getenv(SPOOL_VARIABLE);
        errno = ENOENT;
        ready = folder ? spool_create(folder) : spool_refused("no " SPOOL_VARIABLE);
        atomic_store_explicit(&spool.ready, ready, memory_order_release);
    }
    pthread_mutex_unlock(&spool.lock);
    return ready > 0;
}

static slot *spool_chunk(uint64_t which) {
    slot *chunk = NULL;
    pthread_mutex_lock(&spool.lock);
    chunk = atomic_load(&spool.chunks[which]);
    if (!chunk && !atomic_load(&spool.full)) {
        off_t bytes = CHUNK_SLOTS * sizeof(slot), at = HEADER_BYTES + which * bytes;
        if (!spool_room(at, bytes))
            chunk = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, spool.fd, at);
        if (!chunk || chunk == MAP_FAILED) {
            chunk = NULL;
            atomic_store(&spool.full, 1);
        }
        atomic_store_explicit(&spool.chunks[which], chunk, memory_order_release);
    }
    pthread_mutex_unlock(&spool.lock);
    return chunk;
}

// Hand out a slot in state EMPTY, or NULL when there is no room.
static slot *spool_slot(void) {
    if (!spool_open() || atomic_load_explicit(&spool.full, memory_order_relaxed)) return NULL;
    uint64_t i = atomic_fetch_add(&spool.head->slots, 1), which = i / CHUNK_SLOTS;
    if (which >= MAX_CHUNKS) return NULL;
    slot *chunk = atomic_load_explicit(&spool.chunks[which], memory_order_acquire);
    if (!chunk) chunk = spool_chunk(which);
    return chunk ? &chunk[i % CHUNK_SLOTS] : NULL;
}

static void set_state(slot *s, uint32_t state) { atomic_store_explicit(&s->state, state, memory_order_release); }

static int take(slot *s) {
    uint32_t pending = PENDING;
    return atomic_compare_exchange_strong(&s->state, &pending, TAKEN);
}

static name *find_name(name *at, uint32_t kind, const char *text) {
    while (at && (at->kind != kind || strcmp(at->text, text))) at = at->next;
    return at;
}

static name *new_name(uint32_t kind, const char *text) {
    size_t bytes = strlen(text);
    name *made = malloc(sizeof *made + bytes + 1);
    char *record = malloc(sizeof(name_record) + bytes);
    if (made && record) {
        made->kind = kind;
        made->id = spool.ids[kind]++;
        memcpy(made->text, text, bytes + 1);
        *(name_record *)record = (name_record){kind, made->id, bytes};
        memcpy(record + sizeof(name_record), text, bytes);
        size_t whole = sizeof(name_record) + bytes;
        if (write(spool.names_fd, record, whole) != (ssize_t)whole) atomic_fetch_add(&spool.head->names_lost, 1);
    }
    free(record);
    return made;
}

// Return the id of a text among those of its kind; written to the names file when it is new.
static uint32_t name_id(uint32_t kind, const char *text) {
    if (!spool_open()) return 0;
    uint32_t hash = 2166136261u;
    for (const char *c = text; *c; c++) hash = (hash ^ (unsigned char)*c) * 16777619u;
    _Atomic(name *) *bucket = &spool.names[hash % NAME_BUCKETS];
    name *found = find_name(atomic_load_explicit(bucket, memory_order_acquire), kind, text);
    if (found) return found->id;
    pthread_mutex_lock(&spool.lock);
    name *first = atomic_load(bucket);
    found = find_name(first, kind, text);
    if (!found && (found = new_name(kind, text))) {
        found->next = first;
        atomic_store_explicit(bucket, found, memory_order_release);
    }
    pthread_mutex_unlock(&spool.lock);
    return found ? found->id : UINT32_MAX;
}
#endif
