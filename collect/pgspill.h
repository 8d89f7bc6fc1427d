// Writing records to the spool, in the traced program's own process: by its user, its limits, its descriptors.
//
// A program may close all descriptors, so that the path is needed; and it may become a user who cannot open the path,
// so that a descriptor is. One is kept, among the highest, and looked at before each use: its number may be another
// file's by now. A limit of file sizes is the program's affair: it is lifted for as long as we write, where it can be.
// Included by pgtrace.c.

#define SPOOL_FDS 1024                         // the spool's descriptor lies right below, or below a lower limit
#define SPOOL_SPARE_FDS 16

static int spool_fd = -1;
static dev_t spool_dev;
static ino_t spool_ino;

static bool spool_is_open(void) {
    struct stat file;
    return spool_fd >= 0 && !fstat(spool_fd, &file) && file.st_dev == spool_dev && file.st_ino == spool_ino;
}

// Return a descriptor of the spool, or -1 with errno.
static int spool_open(void) {
    if (spool_is_open()) return spool_fd;
    struct stat file;
    struct rlimit limit;
    int fd = open(spool_path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &file) || getrlimit(RLIMIT_NOFILE, &limit)) return -1;
    int below = limit.rlim_cur < SPOOL_FDS ? (int)limit.rlim_cur : SPOOL_FDS;
    spool_fd = fcntl(fd, F_DUPFD_CLOEXEC, below > SPOOL_SPARE_FDS ? below - SPOOL_SPARE_FDS : 0);
    if (spool_fd < 0) spool_fd = fd; else close(fd);
    spool_dev = file.st_dev;
    spool_ino = file.st_ino;
    return spool_fd;
}

// Lift the limit of file sizes, which lies below `end`, and return whether it does not any more.
static bool lift_limit(const struct rlimit *limit, uint64_t end) {
    struct rlimit none = {RLIM_INFINITY, RLIM_INFINITY}, most = {limit->rlim_max, limit->rlim_max};
    if (!setrlimit(RLIMIT_FSIZE, &none)) return true;
    return end <= limit->rlim_max && !setrlimit(RLIMIT_FSIZE, &most);
}

// Write the records [from, from + n), which lie in one piece; return 0 or the error.
static int spill_piece(sad_state *s, int fd, uint64_t from, uint64_t n) {
    const char *data = (const char *)&sad_ring(s)[from % s->ring_cap];
    size_t bytes = n * sizeof(sad_record), done = 0;
    while (done < bytes) {
        ssize_t put = pwrite(fd, data + done, bytes - done, (off_t)(from * sizeof(sad_record) + done));
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0) return put ? errno : ENOSPC;
        done += (size_t)put;
    }
    return 0;
}

static void sad_spill(sad_state *s) {
    struct rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};
    uint64_t end = s->emitted * sizeof(sad_record);
    int fd = spool_open(), error = fd < 0 ? errno : 0;
    getrlimit(RLIMIT_FSIZE, &limit);
    bool limited = end > limit.rlim_cur;
    if (!error && limited && !lift_limit(&limit, end)) error = EFBIG;            // the kernel would send SIGXFSZ
    while (!error && s->written < s->emitted) {
        uint64_t at = s->written % s->ring_cap, n = s->emitted - s->written;
        n = n < s->ring_cap - at ? n : s->ring_cap - at;
        error = spill_piece(s, fd, s->written, n);
        SAD_ORDER();
        if (!error) s->written += n;
    }
    if (limited) setrlimit(RLIMIT_FSIZE, &limit);
    if (error) {
        s->error = (uint32_t)error;
        s->stop = 1;
    }
}
