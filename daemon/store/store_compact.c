/*
 * Compaction: the queue's file is written anew without its free pages and put in place of the old
 * one, while the daemon runs.
 *
 *   1  a copy is written beside it (new.mdb), synced, and its pages are verified
 *   2  nobody else may have the queue open (swap.lock, exclusive); readers of this process wait
 *   3  LMDB lets go of the old file; an empty lock.mdb that has its blocks takes the place of the
 *      old one; new.mdb is renamed; the directory is synced; LMDB opens the new one, for the
 *      readers too
 *
 * The writing thread does it, so nothing is committed between 1 and 3. A copy counts its
 * transactions from 1 again: with what another process, or an old lock.mdb, believes about
 * transactions, pages that somebody reads would be written over. Hence the lock, and the empty
 * lock.mdb.
 *
 * A crash leaves the old file or the new one under the name, with the same content, and the old
 * lock.mdb or an empty one: each of these opens. What fails before the rename leaves the old file
 * in use. After it there is only one way: on with the new file; when that cannot be opened, or may
 * not be there after a power loss, the store takes nothing more (ERR_IN_DOUBT), and a restart finds
 * what there is.
 */
#include "daemon/store/store_internal.h"
#include "daemon/store/store_pages.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* How long an opener waits for a file that is being put in place: that takes milliseconds. */
#define SWAP_TRIES    100
#define SWAP_PAUSE_MS 50

static bool path_join(char to[STORE_PATH_BYTES_MAX], const char *directory, const char *name)
{
    int len = snprintf(to, STORE_PATH_BYTES_MAX, "%s/%s", directory, name);
    return len > 0 && len < STORE_PATH_BYTES_MAX;
}

/*
 * ---- swap.lock ----
 */

/* A reader that root started makes the file when there is none: it has to belong to the queue's
 * owner. */
static void swap_file_give(const char *data, int fd)
{
    struct stat queue;
    struct stat lock;
    if (geteuid() == 0 && stat(data, &queue) == 0 && fstat(fd, &lock) == 0 &&
        lock.st_uid != queue.st_uid && fchown(fd, queue.st_uid, queue.st_gid) != 0) {
        return; /* the owner will say that it may not open it */
    }
}

static enum err swap_lock(int fd, const char *path, struct store_report *report)
{
    const struct timespec pause = {.tv_nsec = SWAP_PAUSE_MS * 1000000L};
    for (int tries = 0; tries < SWAP_TRIES; tries++) {
        if (flock(fd, LOCK_SH | LOCK_NB) == 0) {
            return ERR_OK;
        }
        if (errno != EWOULDBLOCK && errno != EINTR) {
            store_problem(report, "cannot lock %s: %s", path, strerrordesc_np(errno));
            return ERR_IO;
        }
        (void)nanosleep(&pause, NULL);
    }
    store_problem(report,
                  "the queue's file is being replaced for longer than it should take: see "
                  "who holds %s",
                  path);
    return ERR_BUSY;
}

enum err store_swap_enter(const char *directory, bool make, int *out_fd,
                          struct store_report *report)
{
    char path[STORE_PATH_BYTES_MAX];
    char data[STORE_PATH_BYTES_MAX];
    if (!path_join(path, directory, "swap.lock") || !path_join(data, directory, "data.mdb")) {
        return ERR_LIMIT;
    }
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 && errno == ENOENT) {
        if (!make && access(data, F_OK) != 0) {
            *out_fd = -1;
            return ERR_OK; /* nothing that could be replaced, and nothing to be left there */
        }
        fd = open(path, O_RDONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd >= 0) {
            swap_file_give(data, fd);
        }
    }
    if (fd < 0 && errno == EROFS) {
        *out_fd = -1;
        return ERR_OK; /* nobody can put another file there */
    }
    if (fd < 0) {
        enum err err = err_from_errno(errno);
        store_problem(report, "cannot open %s: %s", path, strerrordesc_np(errno));
        return err;
    }
    enum err err = swap_lock(fd, path, report);
    if (err != ERR_OK) {
        close(fd);
        return err;
    }
    *out_fd = fd;
    return ERR_OK;
}

/* A lock that cannot be made exclusive is lost by the try; nobody but the queue's owner makes it
 * so, so that it comes back at once. */
bool store_swap_claim(int fd)
{
    if (flock(fd, LOCK_EX | LOCK_NB) == 0) {
        return true;
    }
    store_swap_share(fd);
    return false;
}

void store_swap_share(int fd)
{
    while (flock(fd, LOCK_SH) != 0 && errno == EINTR) {
        continue;
    }
}

/*
 * ---- the new file ----
 */

struct compaction {
    struct store *store;
    char directory[STORE_PATH_BYTES_MAX];
    char data[STORE_PATH_BYTES_MAX];
    char lock[STORE_PATH_BYTES_MAX];
    char fresh[STORE_PATH_BYTES_MAX];
    char fresh_lock[STORE_PATH_BYTES_MAX];
    uint64_t before_bytes, after_bytes;
    bool replaced; /* data.mdb is the new file */
};

static enum err paths_make(struct compaction *k)
{
    const char *directory;
    struct stat st;
    enum err err = store_err(mdb_env_get_path(k->store->env, &directory));
    if (err == ERR_OK && fstat(k->store->data_fd, &st) != 0) {
        err = store_err(errno);
    }
    if (err != ERR_OK) {
        return err;
    }
    k->before_bytes = (uint64_t)st.st_size;
    int len = snprintf(k->directory, sizeof k->directory, "%s", directory); /* it goes with env */
    bool fits =
        len > 0 && (size_t)len < sizeof k->directory && path_join(k->data, directory, "data.mdb") &&
        path_join(k->lock, directory, "lock.mdb") && path_join(k->fresh, directory, "new.mdb") &&
        path_join(k->fresh_lock, directory, "new.mdb-lock");
    return fits ? ERR_OK : ERR_LIMIT;
}

/* What the copy will take, at most: then a full disk is met before it is. */
static bool room_is_there(const struct store *store)
{
    MDB_stat history;
    uint64_t bytes = store->used_bytes;
    if (mdb_txn_renew(store->own) == MDB_SUCCESS) {
        if (mdb_stat(store->own, store->dbs[STORE_DB_HISTORY], &history) == MDB_SUCCESS) {
            bytes += (history.ms_branch_pages + history.ms_leaf_pages + history.ms_overflow_pages) *
                     store->page_bytes;
        }
        mdb_txn_reset(store->own);
    }
    return store_disk_has(store, bytes);
}

static enum err fresh_write(struct compaction *k, int fd)
{
    struct store_copy copy = {.env = k->store->env, .fd = fd, .touched = k->store};
    struct store_pages_report pages;
    struct stat st;
    enum err err = store_copy_write(&copy);
    if (err == ERR_OK) {
        err = store_pages_check(fd, STORE_PAGES_FULL, NULL, NULL, &pages);
    }
    if (err == ERR_OK && fstat(fd, &st) != 0) {
        err = store_err(errno);
    }
    if (err == ERR_OK) {
        k->after_bytes = (uint64_t)st.st_size;
    }
    return err;
}

static enum err fresh_make(struct compaction *k)
{
    if (!room_is_there(k->store)) {
        return ERR_FULL;
    }
    unlink(k->fresh); /* of a compaction that was cut off: it would be removed at the next start */
    int fd = open(k->fresh, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        return store_err(errno);
    }
    enum err err = fresh_write(k, fd);
    if (close(fd) != 0 && err == ERR_OK) {
        err = store_err(errno);
    }
    return err;
}

/*
 * ---- in place of the old one ----
 */

/*
 * Whoever opens the queue without swap.lock (LMDB's own tools do) holds LMDB's lock: byte 0 of
 * lock.mdb. Ours went with the environment.
 */
static bool lock_file_is_free(const char *path)
{
    struct flock range = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1};
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) {
        return errno == ENOENT;
    }
    bool is_free = fcntl(fd, F_SETLK, &range) == 0;
    close(fd);
    return is_free;
}

/* LMDB maps what it finds under the name, so there is never a lock.mdb without blocks. */
static enum err lock_file_replace(struct compaction *k)
{
    struct store_report unsaid; /* the result says enough: the disk is full, or fails */
    unlink(k->fresh_lock);      /* of a compaction that was cut off */
    enum err err = store_lock_file_reserve(k->fresh_lock, &unsaid);
    if (err == ERR_OK && rename(k->fresh_lock, k->lock) != 0) {
        err = store_err(errno);
    }
    if (err != ERR_OK) {
        unlink(k->fresh_lock);
    }
    return err;
}

static enum err file_replace(struct compaction *k)
{
    if (!lock_file_is_free(k->lock)) {
        return ERR_BUSY;
    }
    enum err lock_err = lock_file_replace(k);
    if (lock_err != ERR_OK) {
        return lock_err;
    }
    if (rename(k->fresh, k->data) != 0) {
        return store_err(errno);
    }
    k->replaced = true;
    int fd = open(k->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return store_err(errno);
    }
    enum err err = fsync(fd) == 0 ? ERR_OK : store_err(errno);
    close(fd);
    return err;
}

static enum err swap(struct compaction *k)
{
    struct store *store = k->store;
    if (!store_swap_claim(store->swap_fd)) {
        return ERR_BUSY;
    }
    /* Its blocks are given back when the last descriptor goes: not while readers wait. */
    int old_fd = fcntl(store->data_fd, F_DUPFD_CLOEXEC, 0);
    pthread_rwlock_wrlock(&store->swap_guard);
    store_detach(store);
    enum err err = file_replace(k);
    enum err attached = store_attach(store, k->directory);
    if (attached != ERR_OK || (k->replaced && err != ERR_OK)) {
        store->writable = false;
        err = ERR_IN_DOUBT;
    }
    pthread_rwlock_unlock(&store->swap_guard);
    store_swap_share(store->swap_fd);
    if (old_fd >= 0) {
        close(old_fd);
    }
    return err;
}

/* Is anybody else in it? Better known before the work than after. */
static bool is_alone(const struct store *store)
{
    bool alone = store_swap_claim(store->swap_fd);
    if (alone) {
        store_swap_share(store->swap_fd);
    }
    return alone;
}

enum err store_compact(struct store *store, uint64_t *out_before, uint64_t *out_after)
{
    CHECK(store->txn == NULL && !store->read_only);
    if (!store->writable) {
        return ERR_IN_DOUBT;
    }
    struct compaction k = {.store = store};
    enum err err = paths_make(&k);
    if (err != ERR_OK) {
        return err;
    }
    err = is_alone(store) ? fresh_make(&k) : ERR_BUSY;
    if (err == ERR_OK) {
        err = swap(&k);
    }
    if (!k.replaced) {
        unlink(k.fresh);
    }
    if (err == ERR_OK) {
        *out_before = k.before_bytes;
        *out_after = k.after_bytes;
    }
    return err;
}
