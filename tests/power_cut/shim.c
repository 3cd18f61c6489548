/*
 * Preloaded into kvd by the power-cut test: writes down, in one order, everything that changes
 * files or directories under $KVD_TRACE_ROOT, and every sync, into $KVD_TRACE_FILE.
 *
 * A change is made and written down under one lock, so that the order of the trace is the order
 * of the changes. The lock is also an flock of $KVD_TRACE_LOCK: the test takes it before it kills
 * the process, so no change is ever made but not written down. A sync is two records, its begin
 * and its end, and other threads go on between them; the disk itself is not asked to sync, which
 * would only be slow, but the call takes up to $KVD_TRACE_SYNC_MICROS.
 *
 * A file is known by its inode, found from the descriptor: so it does not matter how it was
 * opened or duplicated. Calls that go round libc (fallocate by rustix) are seen by the size that
 * the file has at the next record; the test also compares its model with the real files at the
 * end of every process, which finds anything else that goes by unseen.
 *
 * A record, all numbers little-endian:
 *
 *     length u32 | kind u32 | inode u64 | a u64 | b u64 | size u64 | path u32 | to u32
 *     path bytes | bytes of the second path | data
 *
 * `size` is the file's size before the change.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
    START = 1,
    CREATE,      /* path */
    TRUNCATE,    /* a: new size */
    WRITE,       /* a: offset, b: length, data */
    ZEROS,       /* a: offset, b: length */
    RENAME,      /* path, to */
    UNLINK,      /* path */
    MKDIR,       /* path */
    RMDIR,       /* path */
    LINK,        /* path, to */
    SYNC_BEGIN,  /* a: number of the sync */
    SYNC_END,    /* a: number of the sync */
    UNSUPPORTED, /* path: what */
};

struct record {
    uint32_t length, kind;
    uint64_t inode, a, b, size;
    uint32_t path, to;
};

#define REAL(name) ((__typeof__(&name))real(&real_##name, #name))
#define DECLARE(name) static void *real_##name
DECLARE(open64);
DECLARE(openat64);
DECLARE(write);
DECLARE(writev);
DECLARE(pwrite64);
DECLARE(pwritev64);
DECLARE(ftruncate64);
DECLARE(truncate64);
DECLARE(fallocate64);
DECLARE(posix_fallocate64);
DECLARE(renameat);
DECLARE(renameat2);
DECLARE(unlinkat);
DECLARE(mkdirat);
DECLARE(linkat);
DECLARE(symlinkat);
DECLARE(fsync);
DECLARE(fdatasync);
DECLARE(copy_file_range);
DECLARE(sendfile64);

extern ssize_t sendfile64(int, int, off64_t *, size_t);

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX];
static size_t root_length;
static int trace = -1, lock = -1;
static unsigned sync_micros;
static uint64_t syncs;

static void *real(void **slot, const char *name) {
    if (!*slot) *slot = dlsym(RTLD_NEXT, name);
    return *slot;
}

static void fail(const char *what) {
    fprintf(stderr, "power-cut shim: %s: %s\n", what, strerror(errno));
    _exit(97);
}

static void enter(void) {
    pthread_mutex_lock(&mutex);
    while (flock(lock, LOCK_EX) != 0)
        if (errno != EINTR) fail("lock");
}

static void leave(void) {
    int kept = errno;
    flock(lock, LOCK_UN);
    pthread_mutex_unlock(&mutex);
    errno = kept;
}

static void append(struct record record, const char *path, const char *to, const void *data,
                   size_t length) {
    int kept = errno;
    record.path = path ? strlen(path) : 0;
    record.to = to ? strlen(to) : 0;
    record.length = sizeof record + record.path + record.to + length;
    struct iovec parts[4] = {{&record, sizeof record},
                             {(void *)path, record.path},
                             {(void *)to, record.to},
                             {(void *)data, length}};
    struct iovec *part = parts;
    int left = 4;
    while (left > 0) {
        ssize_t done = REAL(writev)(trace, part, left);
        if (done < 0) fail("writing the trace");
        while (left > 0 && (size_t)done >= part->iov_len) {
            done -= part->iov_len;
            part++;
            left--;
        }
        if (left > 0) {
            part->iov_base = (char *)part->iov_base + done;
            part->iov_len -= done;
        }
    }
    errno = kept;
}

__attribute__((constructor)) static void begin(void) {
    const char *folder = getenv("KVD_TRACE_ROOT"), *file = getenv("KVD_TRACE_FILE");
    const char *locked = getenv("KVD_TRACE_LOCK"), *micros = getenv("KVD_TRACE_SYNC_MICROS");
    if (!folder || !file || !locked || strlen(folder) >= sizeof root) return;
    trace = REAL(open64)(file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    lock = REAL(open64)(locked, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (trace < 0 || lock < 0) fail("opening the trace");
    sync_micros = micros ? atoi(micros) : 0;
    strcpy(root, folder);
    unsetenv("LD_PRELOAD"); /* Not for its children: sled runs `sync`, which counts for nothing. */
    enter();
    append((struct record){.kind = START}, NULL, NULL, NULL, 0);
    root_length = strlen(root);
    leave();
}

static int within(const char *path) {
    return root_length && strncmp(path, root, root_length) == 0 &&
           (path[root_length] == '/' || path[root_length] == 0);
}

/* Whether the descriptor is a file or directory under the root; its metadata are in `found`. */
static int traced(int fd, struct stat64 *found) {
    char link[64], path[PATH_MAX];
    if (!root_length || fstat64(fd, found) != 0) return 0;
    if (!S_ISREG(found->st_mode) && !S_ISDIR(found->st_mode)) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return within(path);
}

/* The whole path, when it is under the root. */
static int whole(int dir, const char *path, char *out) {
    if (!root_length || !path) return 0;
    if (path[0] == '/') {
        if (strlen(path) >= PATH_MAX) return 0;
        strcpy(out, path);
        return within(out);
    }
    char link[64], base[PATH_MAX];
    if (dir == AT_FDCWD) {
        if (!getcwd(base, sizeof base)) return 0;
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
        ssize_t length = readlink(link, base, sizeof base - 1);
        if (length < 0) return 0;
        base[length] = 0;
    }
    if (snprintf(out, PATH_MAX, "%s/%s", base, path) >= PATH_MAX) return 0;
    return within(out);
}

static void unsupported(const char *what) {
    append((struct record){.kind = UNSUPPORTED}, what, NULL, NULL, 0);
}

/* ---- opening ---- */

static int opened(int dir, const char *given, int flags, mode_t mode) {
    char path[PATH_MAX];
    struct stat64 before, after;
    int changes = flags & (O_CREAT | O_TRUNC);
    if ((flags & O_TMPFILE) == O_TMPFILE || !changes || !whole(dir, given, path))
        return REAL(openat64)(dir, given, flags, mode);
    enter();
    int existed = stat64(path, &before) == 0;
    int fd = REAL(openat64)(dir, given, flags, mode);
    if (fd >= 0 && fstat64(fd, &after) == 0) {
        if (!existed)
            append((struct record){.kind = CREATE, .inode = after.st_ino}, path, NULL, NULL, 0);
        else if ((flags & O_TRUNC) && before.st_size > 0)
            append((struct record){.kind = TRUNCATE, .inode = after.st_ino, .size = before.st_size},
                   NULL, NULL, NULL, 0);
    }
    leave();
    return fd;
}

#define MODE(flags, mode)                                                                          \
    mode_t mode = 0;                                                                               \
    if (flags & (O_CREAT | O_TMPFILE)) {                                                           \
        va_list rest;                                                                              \
        va_start(rest, flags);                                                                     \
        mode = va_arg(rest, mode_t);                                                               \
        va_end(rest);                                                                              \
    }

int open64(const char *path, int flags, ...) {
    MODE(flags, mode)
    return opened(AT_FDCWD, path, flags, mode);
}

int open(const char *path, int flags, ...) {
    MODE(flags, mode)
    return opened(AT_FDCWD, path, flags, mode);
}

int openat64(int dir, const char *path, int flags, ...) {
    MODE(flags, mode)
    return opened(dir, path, flags, mode);
}

int openat(int dir, const char *path, int flags, ...) {
    MODE(flags, mode)
    return opened(dir, path, flags, mode);
}

int creat64(const char *path, mode_t mode) {
    return opened(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

int creat(const char *path, mode_t mode) { return creat64(path, mode); }

/* ---- writing ---- */

static int is_zero(const char *bytes, size_t length) {
    return length > 0 && bytes[0] == 0 && memcmp(bytes, bytes + 1, length - 1) == 0;
}

static void wrote(const struct stat64 *file, off64_t at, const void *bytes, ssize_t length) {
    if (length <= 0) return;
    int zeros = is_zero(bytes, length);
    append((struct record){.kind = zeros ? ZEROS : WRITE,
                           .inode = file->st_ino,
                           .a = at,
                           .b = length,
                           .size = file->st_size},
           NULL, NULL, bytes, zeros ? 0 : length);
}

static off64_t position(int fd, const struct stat64 *file) {
    int flags = fcntl(fd, F_GETFL);
    return flags >= 0 && (flags & O_APPEND) ? file->st_size : lseek64(fd, 0, SEEK_CUR);
}

ssize_t write(int fd, const void *bytes, size_t length) {
    struct stat64 file;
    if (!traced(fd, &file)) return REAL(write)(fd, bytes, length);
    enter();
    fstat64(fd, &file);
    off64_t at = position(fd, &file);
    ssize_t done = REAL(write)(fd, bytes, length);
    wrote(&file, at, bytes, done);
    leave();
    return done;
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t at) {
    struct stat64 file;
    if (!traced(fd, &file)) return REAL(pwrite64)(fd, bytes, length, at);
    enter();
    fstat64(fd, &file);
    ssize_t done = REAL(pwrite64)(fd, bytes, length, at);
    wrote(&file, at, bytes, done);
    leave();
    return done;
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t at) {
    return pwrite64(fd, bytes, length, at);
}

static ssize_t vector(int fd, const struct iovec *parts, int count, off64_t at, int positioned) {
    struct stat64 file;
    if (!traced(fd, &file))
        return positioned ? REAL(pwritev64)(fd, parts, count, at) : REAL(writev)(fd, parts, count);
    enter();
    fstat64(fd, &file);
    if (!positioned) at = position(fd, &file);
    ssize_t done =
        positioned ? REAL(pwritev64)(fd, parts, count, at) : REAL(writev)(fd, parts, count);
    ssize_t left = done;
    for (int i = 0; i < count && left > 0; i++) {
        ssize_t length = (ssize_t)parts[i].iov_len < left ? (ssize_t)parts[i].iov_len : left;
        wrote(&file, at, parts[i].iov_base, length);
        if (at + length > file.st_size) file.st_size = at + length;
        at += length;
        left -= length;
    }
    leave();
    return done;
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    return vector(fd, parts, count, 0, 0);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t at) {
    return vector(fd, parts, count, at, 1);
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) {
    return vector(fd, parts, count, at, 1);
}

/* Callers fall back to reading and writing. */
ssize_t copy_file_range(int from, off64_t *from_at, int to, off64_t *to_at, size_t length,
                        unsigned flags) {
    struct stat64 file;
    if (traced(to, &file)) return errno = ENOSYS, -1;
    return REAL(copy_file_range)(from, from_at, to, to_at, length, flags);
}

ssize_t sendfile64(int to, int from, off64_t *at, size_t length) {
    struct stat64 file;
    if (traced(to, &file)) return errno = ENOSYS, -1;
    return REAL(sendfile64)(to, from, at, length);
}

/* ---- sizes ---- */

static void resized(const struct stat64 *file, uint64_t size) {
    append((struct record){
               .kind = TRUNCATE, .inode = file->st_ino, .a = size, .size = file->st_size},
           NULL, NULL, NULL, 0);
}

int ftruncate64(int fd, off64_t size) {
    struct stat64 file;
    if (!traced(fd, &file)) return REAL(ftruncate64)(fd, size);
    enter();
    fstat64(fd, &file);
    int result = REAL(ftruncate64)(fd, size);
    if (result == 0) resized(&file, size);
    leave();
    return result;
}

int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

int truncate64(const char *given, off64_t size) {
    char path[PATH_MAX];
    struct stat64 file;
    if (!whole(AT_FDCWD, given, path)) return REAL(truncate64)(given, size);
    enter();
    stat64(path, &file);
    int result = REAL(truncate64)(given, size);
    if (result == 0) resized(&file, size);
    leave();
    return result;
}

int truncate(const char *path, off_t size) { return truncate64(path, size); }

/* Only the kind that extends; any other is refused as the test cannot model it. */
int fallocate64(int fd, int mode, off64_t at, off64_t length) {
    struct stat64 file;
    if (!traced(fd, &file)) return REAL(fallocate64)(fd, mode, at, length);
    enter();
    fstat64(fd, &file);
    int result = REAL(fallocate64)(fd, mode, at, length);
    if (result == 0 && mode == 0 && at + length > file.st_size) resized(&file, at + length);
    if (result == 0 && mode != 0) unsupported("fallocate with a mode");
    leave();
    return result;
}

int fallocate(int fd, int mode, off_t at, off_t length) {
    return fallocate64(fd, mode, at, length);
}

int posix_fallocate64(int fd, off64_t at, off64_t length) {
    struct stat64 file;
    if (!traced(fd, &file)) return REAL(posix_fallocate64)(fd, at, length);
    return fallocate64(fd, 0, at, length) == 0 ? 0 : errno;
}

int posix_fallocate(int fd, off_t at, off_t length) { return posix_fallocate64(fd, at, length); }

/* ---- names ---- */

static int renamed(int from_dir, const char *from, int to_dir, const char *to, unsigned flags) {
    char path[PATH_MAX], target[PATH_MAX];
    int leaves = whole(from_dir, from, path), arrives = whole(to_dir, to, target);
    if (!leaves && !arrives)
        return flags ? REAL(renameat2)(from_dir, from, to_dir, to, flags)
                     : REAL(renameat)(from_dir, from, to_dir, to);
    enter();
    int result = flags ? REAL(renameat2)(from_dir, from, to_dir, to, flags)
                       : REAL(renameat)(from_dir, from, to_dir, to);
    if (result == 0) {
        if (!leaves || !arrives || (flags & ~RENAME_NOREPLACE))
            unsupported("a rename across the root, or with flags");
        else
            append((struct record){.kind = RENAME}, path, target, NULL, 0);
    }
    leave();
    return result;
}

int rename(const char *from, const char *to) { return renamed(AT_FDCWD, from, AT_FDCWD, to, 0); }

int renameat(int from_dir, const char *from, int to_dir, const char *to) {
    return renamed(from_dir, from, to_dir, to, 0);
}

int renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags) {
    return renamed(from_dir, from, to_dir, to, flags);
}

int unlinkat(int dir, const char *given, int flags) {
    char path[PATH_MAX];
    if (!whole(dir, given, path)) return REAL(unlinkat)(dir, given, flags);
    enter();
    int result = REAL(unlinkat)(dir, given, flags);
    if (result == 0)
        append((struct record){.kind = flags & AT_REMOVEDIR ? RMDIR : UNLINK}, path, NULL, NULL, 0);
    leave();
    return result;
}

int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }

int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int mkdirat(int dir, const char *given, mode_t mode) {
    char path[PATH_MAX];
    struct stat64 made;
    if (!whole(dir, given, path)) return REAL(mkdirat)(dir, given, mode);
    enter();
    int result = REAL(mkdirat)(dir, given, mode);
    if (result == 0 && stat64(path, &made) == 0)
        append((struct record){.kind = MKDIR, .inode = made.st_ino}, path, NULL, NULL, 0);
    leave();
    return result;
}

int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

int linkat(int from_dir, const char *from, int to_dir, const char *to, int flags) {
    char path[PATH_MAX], target[PATH_MAX];
    int leaves = whole(from_dir, from, path), arrives = whole(to_dir, to, target);
    if (!arrives) return REAL(linkat)(from_dir, from, to_dir, to, flags);
    enter();
    int result = REAL(linkat)(from_dir, from, to_dir, to, flags);
    if (result == 0 && leaves)
        append((struct record){.kind = LINK}, path, target, NULL, 0);
    else if (result == 0)
        unsupported("a link from outside of the root");
    leave();
    return result;
}

int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }

int symlinkat(const char *from, int to_dir, const char *to) {
    char target[PATH_MAX];
    int arrives = whole(to_dir, to, target);
    if (arrives) enter();
    int result = REAL(symlinkat)(from, to_dir, to);
    if (arrives) {
        if (result == 0) unsupported("a symbolic link");
        leave();
    }
    return result;
}

int symlink(const char *from, const char *to) { return symlinkat(from, AT_FDCWD, to); }

/* ---- syncs ----
 * sync_file_range and msync promise nothing after a power cut: they count for nothing. */

static int synced(int fd, int (*call)(int)) {
    struct stat64 file;
    if (!traced(fd, &file)) return call(fd);
    enter();
    fstat64(fd, &file);
    uint64_t number = ++syncs;
    unsigned long long chance = number * 2654435761u ^ (uint64_t)getpid() << 7;
    append((struct record){
               .kind = SYNC_BEGIN, .inode = file.st_ino, .a = number, .size = file.st_size},
           NULL, NULL, NULL, 0);
    leave();
    if (sync_micros) usleep(chance % sync_micros);
    enter();
    append((struct record){.kind = SYNC_END, .inode = file.st_ino, .a = number}, NULL, NULL, NULL,
           0);
    leave();
    return 0;
}

int fsync(int fd) { return synced(fd, REAL(fsync)); }

int fdatasync(int fd) { return synced(fd, REAL(fdatasync)); }
