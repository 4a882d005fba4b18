/*
 * The calls that are caught. Each does what it says by the system call, and puts down what came of
 * it; outside the queue's directory, or when no tape runs, it does nothing else.
 *
 * fallocate only makes the file longer here: on a file system in memory it would cost more than all
 * the rest, and a full disk is not modelled.
 */
#undef _FORTIFY_SOURCE /* these are definitions, not calls */

#include "tests/power/tape_calls.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <lmdb.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/*
 * ---- names ----
 */

static int open_recorded(int at, const char *path, int flags, mode_t mode)
{
    int fd = (int)syscall(SYS_openat, at, path, flags, mode);
    struct tape_place place;
    if (fd >= 0 && tape_place_of(path, &place)) {
        tape_opened(fd, &place, flags);
    }
    return fd;
}

int open(const char *path, int flags, ...)
{
    mode_t mode = 0;
    if ((flags & O_CREAT) != 0) {
        va_list args;
        va_start(args, flags);
        mode = va_arg(args, mode_t);
        va_end(args);
    }
    return open_recorded(AT_FDCWD, path, flags, mode);
}

int openat(int at, const char *path, int flags, ...)
{
    mode_t mode = 0;
    if ((flags & O_CREAT) != 0) {
        va_list args;
        va_start(args, flags);
        mode = va_arg(args, mode_t);
        va_end(args);
    }
    return open_recorded(at, path, flags, mode);
}

int close(int fd)
{
    struct tape_descriptor *d = tape_descriptor(fd);
    if (d != NULL) {
        *d = (struct tape_descriptor){0};
    }
    return (int)syscall(SYS_close, fd);
}

int mkdir(const char *path, mode_t mode)
{
    int result = (int)syscall(SYS_mkdir, path, mode);
    struct tape_place place;
    if (result == 0 && tape_place_of(path, &place)) {
        tape_put(&(struct tape_event){.kind = TAPE_CREATE, .name = TAPE_NAME_QUEUE, .file = 1},
                 NULL);
    }
    return result;
}

int unlink(const char *path)
{
    int result = (int)syscall(SYS_unlink, path);
    struct tape_place place;
    if (result == 0 && tape_place_of(path, &place)) {
        tape_put(&(struct tape_event){.kind = TAPE_UNLINK, .name = place.name}, NULL);
    }
    return result;
}

int rename(const char *from, const char *to)
{
    int result = (int)syscall(SYS_rename, from, to);
    struct tape_place place_from;
    struct tape_place place_to;
    if (result == 0 && tape_place_of(from, &place_from) && tape_place_of(to, &place_to)) {
        tape_put(&(struct tape_event){.kind = TAPE_RENAME,
                                      .name = place_from.name,
                                      .name_to = place_to.name,
                                      .file = tape_file_of(place_from.name)},
                 NULL);
    }
    return result;
}

/*
 * ---- bytes ----
 */

static void wrote(int fd, const void *from, ssize_t result, off_t at)
{
    int number = errno;
    const struct tape_descriptor *d = tape_descriptor(fd);
    if (d != NULL && result > 0) {
        tape_put(&(struct tape_event){.kind = TAPE_WRITE,
                                      .file = d->file,
                                      .through = d->through,
                                      .offset = (uint64_t)at,
                                      .bytes = (uint64_t)result},
                 from);
    }
    errno = number;
}

ssize_t pwrite(int fd, const void *from, size_t count, off_t at)
{
    ssize_t result = syscall(SYS_pwrite64, fd, from, count, at);
    wrote(fd, from, result, at);
    return result;
}

static off_t position(int fd)
{
    return tape_descriptor(fd) == NULL ? 0 : (off_t)syscall(SYS_lseek, fd, 0, SEEK_CUR);
}

ssize_t write(int fd, const void *from, size_t count)
{
    off_t at = position(fd);
    ssize_t result = syscall(SYS_write, fd, from, count);
    wrote(fd, from, result, at);
    return result;
}

static ssize_t parts_wrote(int fd, const struct iovec *parts, int count, ssize_t result, off_t at)
{
    ssize_t left = result;
    if (tape_descriptor(fd) == NULL || result <= 0) {
        return result;
    }
    /* One call is one event: it is torn as one. */
    uint8_t *whole = malloc((size_t)result);
    CHECK(whole != NULL);
    for (int index = 0; index < count && left > 0; index++) {
        size_t len = size_min(parts[index].iov_len, (size_t)left);
        memcpy(whole + (result - left), parts[index].iov_base, len);
        left -= (ssize_t)len;
    }
    wrote(fd, whole, result, at);
    free(whole);
    return result;
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    off_t at = position(fd);
    return parts_wrote(fd, parts, count, syscall(SYS_writev, fd, parts, count), at);
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at)
{
    /* The offset's high half is the fifth argument, and 0 on 64 bits. */
    return parts_wrote(fd, parts, count, syscall(SYS_pwritev, fd, parts, count, at, 0), at);
}

/*
 * ---- lengths ----
 */

static void length_is(uint32_t file, off_t bytes)
{
    tape_put(&(struct tape_event){.kind = TAPE_LENGTH, .file = file, .bytes = (uint64_t)bytes},
             NULL);
}

int ftruncate(int fd, off_t bytes)
{
    int result = (int)syscall(SYS_ftruncate, fd, bytes);
    const struct tape_descriptor *d = tape_descriptor(fd);
    if (result == 0 && d != NULL) {
        length_is(d->file, bytes);
    }
    return result;
}

int truncate(const char *path, off_t bytes)
{
    int result = (int)syscall(SYS_truncate, path, bytes);
    struct tape_place place;
    if (result == 0 && tape_place_of(path, &place)) {
        length_is(tape_file_of(place.name), bytes);
    }
    return result;
}

int fallocate(int fd, int mode, off_t at, off_t bytes)
{
    if (tape_descriptor(fd) == NULL) {
        return (int)syscall(SYS_fallocate, fd, mode, at, bytes);
    }
    if (mode == FALLOC_FL_KEEP_SIZE) {
        return 0; /* blocks only: neither contents nor length */
    }
    struct stat st;
    if (mode != 0 || fstat(fd, &st) != 0) {
        power_broken("a fallocate that the tape does not know: mode %d", mode);
    }
    return at + bytes > st.st_size ? ftruncate(fd, at + bytes) : 0;
}

/*
 * ---- flushes ----
 */

static void flushed(int fd, int result)
{
    const struct tape_descriptor *d = tape_descriptor(fd);
    if (result != 0 || d == NULL) {
        return;
    }
    struct tape_event event = {.kind = TAPE_SYNC, .file = d->file};
    if (d->directory) {
        event = (struct tape_event){.kind = TAPE_SYNC_DIRECTORY, .directory = d->which};
    }
    tape_put(&event, NULL);
}

int fdatasync(int fd)
{
    int result = tape_descriptor(fd) == NULL ? (int)syscall(SYS_fdatasync, fd) : 0;
    flushed(fd, result);
    return result;
}

int fsync(int fd)
{
    int result = tape_descriptor(fd) == NULL ? (int)syscall(SYS_fsync, fd) : 0;
    flushed(fd, result);
    return result;
}

int msync(void *at, size_t bytes, int flags)
{
    if (tape_runs()) {
        power_violation("msync: something is written through a map");
    }
    return (int)syscall(SYS_msync, at, bytes, flags);
}

/*
 * ---- maps ----
 */

void *mmap(void *at, size_t bytes, int protection, int flags, int fd, off_t offset)
{
    const struct tape_descriptor *d = fd < 0 ? NULL : tape_descriptor(fd);
    if (d != NULL && (protection & PROT_WRITE) != 0 && (flags & MAP_SHARED) != 0) {
        if (!d->lock) {
            power_violation("file %u is mapped for writing", d->file);
        }
        tape_put(&(struct tape_event){.kind = TAPE_MAP, .file = d->file}, NULL);
    }
    union {
        long number;
        void *address;
    } result = {.number = syscall(SYS_mmap, at, bytes, protection, flags, fd, offset)};
    return result.address;
}

int mprotect(void *at, size_t bytes, int protection)
{
    if (tape_runs() && (protection & PROT_WRITE) != 0) {
        power_violation("memory is made writable: it might be the queue's map");
    }
    return (int)syscall(SYS_mprotect, at, bytes, protection);
}

/*
 * ---- what has to be the same each time ----
 */

ssize_t getrandom(void *to, size_t bytes, unsigned flags)
{
    if (!tape_runs()) {
        return syscall(SYS_getrandom, to, bytes, flags);
    }
    uint8_t *at = to;
    for (size_t index = 0; index < bytes; index++) {
        at[index] = (uint8_t)tape_random_next();
    }
    return (ssize_t)bytes;
}

/*
 * ---- LMDB: commits that somebody watches, and lies for the tests of the rig itself ----
 */

static void *lmdb_function(const char *name)
{
    void *found = dlsym(RTLD_NEXT, name);
    if (found == NULL) {
        power_broken("liblmdb has no %s", name);
    }
    return found;
}

int mdb_env_open(MDB_env *env, const char *path, unsigned flags, mdb_mode_t mode)
{
    union {
        void *address;
        int (*call)(MDB_env *, const char *, unsigned, mdb_mode_t);
    } real = {.address = lmdb_function("mdb_env_open")};
    return real.call(env, path, flags | tape_lies.env_flags, mode);
}

int mdb_txn_commit(MDB_txn *txn)
{
    union {
        void *address;
        int (*call)(MDB_txn *);
    } real = {.address = lmdb_function("mdb_txn_commit")};
    int fd = -1;
    bool watched =
        mdb_env_get_fd(mdb_txn_env(txn), &fd) == MDB_SUCCESS && tape_commit_is_watched(fd);
    if (watched) {
        tape_commit_before();
    }
    int code = real.call(txn);
    if (watched) {
        tape_commit_after(code == MDB_SUCCESS);
    }
    return code;
}

int mdb_env_set_mapsize(MDB_env *env, size_t bytes)
{
    union {
        void *address;
        int (*call)(MDB_env *, size_t);
    } real = {.address = lmdb_function("mdb_env_set_mapsize")};
    if (tape_lies.map_bytes_max != 0) {
        bytes = size_min(bytes, tape_lies.map_bytes_max);
    }
    return real.call(env, bytes);
}
