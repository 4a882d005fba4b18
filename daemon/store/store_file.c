/*
 * The directory and the file of a queue, before and below LMDB: who owns it, that it is whole, that
 * it is made in one step, and that there are blocks for what will be written.
 */
#include "daemon/store/store_internal.h"
#include "daemon/store/store_pages.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

/* Blocks that are asked for ahead of what is used. */
#define ALLOCATE_BYTES (4u << 20)
/* What the disk must have left while somebody keeps freed pages from the writer, who commits on
 * until that reader has looked again; of a small disk its share, but no less than what has new mail
 * refused (a step of the file) and one transaction of mail. */
#define DISK_SPARE_MAX   (4 * ALLOCATE_BYTES)
#define DISK_SPARE_MIN   (2 * ALLOCATE_BYTES)
#define DISK_SPARE_SHARE 8u
/* The map while a queue is made: it holds the names of the databases and two records. */
#define CREATE_MAP_BYTES (1u << 20)
#define SUSPECT_NAME     "suspect"

/* From statfs(2). */
#define FS_NFS   0x6969u
#define FS_SMB   0x517bu
#define FS_CIFS  0xff534d42u
#define FS_SMB2  0xfe534d42u
#define FS_AFS   0x5346414fu
#define FS_CEPH  0x00c36400u
#define FS_9P    0x01021997u
#define FS_TMPFS 0x01021994u

/* Where a run that died in the map, or stopped at a page, leaves word for the next one. Its owner
 * writes it, and reads it in a signal handler: "" until there is an owner. */
static char suspect_path[STORE_PATH_BYTES_MAX];

static const struct {
    uint32_t magic;
    const char *name;
} network_file_systems[] = {
    {FS_NFS, "NFS"}, {FS_SMB, "SMB"},   {FS_CIFS, "CIFS"}, {FS_SMB2, "SMB"},
    {FS_AFS, "AFS"}, {FS_CEPH, "Ceph"}, {FS_9P, "9P"},
};

void store_problem(struct store_report *report, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(report->problem, sizeof report->problem, format, args);
    va_end(args);
}

/* The last failed call, in words. */
static enum err failed(struct store_report *report, const char *what, const char *path)
{
    int number = errno;
    store_problem(report, "%s %s: %s", what, path, strerrordesc_np(number));
    return err_from_errno(number);
}

static bool path_join(char to[STORE_PATH_BYTES_MAX], const char *directory, const char *name)
{
    int len = snprintf(to, STORE_PATH_BYTES_MAX, "%s/%s", directory, name);
    return len > 0 && len < STORE_PATH_BYTES_MAX;
}

static enum err sync_path(const char *path, struct store_report *report)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return failed(report, "cannot open", path);
    }
    enum err err = fsync(fd) == 0 ? ERR_OK : failed(report, "cannot sync", path);
    close(fd);
    return err;
}

/*
 * ---- the directory ----
 */

static enum err file_system_check(const char *directory, struct store_report *report)
{
    struct statfs fs;
    if (statfs(directory, &fs) != 0) {
        return failed(report, "cannot use", directory);
    }
    uint32_t magic = (uint32_t)fs.f_type;
    for (size_t index = 0; index < sizeof network_file_systems / sizeof network_file_systems[0];
         index++) {
        if (magic == network_file_systems[index].magic) {
            store_problem(report,
                          "%s is on a network file system (%s), where the queue cannot be kept "
                          "safe: set state to a directory on a local disk",
                          directory, network_file_systems[index].name);
            return ERR_UNSUPPORTED;
        }
    }
    if (magic == FS_TMPFS) {
        store_problem(report, "%s is in memory (tmpfs): queued mail is lost when the machine stops",
                      directory);
    }
    return ERR_OK;
}

/* A new directory is only there for good when the one above it has been synced. */
static enum err parent_sync(const char *directory, struct store_report *report)
{
    char parent[STORE_PATH_BYTES_MAX];
    return path_join(parent, directory, "..") ? sync_path(parent, report) : ERR_LIMIT;
}

enum err store_directory_prepare(const struct store_config *config, struct store_report *report)
{
    const char *directory = config->directory;
    if (!config->read_only && mkdir(directory, 0700) == 0) {
        enum err err = parent_sync(directory, report);
        if (err != ERR_OK) {
            return err;
        }
    } else if (!config->read_only && errno != EEXIST) {
        return failed(report, "cannot make the directory", directory);
    }
    struct stat st;
    if (stat(directory, &st) != 0) {
        enum err err = failed(report, "cannot use", directory);
        return errno == ENOENT ? ERR_NOT_FOUND : err;
    }
    if (!S_ISDIR(st.st_mode)) {
        store_problem(report, "%s is not a directory", directory);
        return ERR_DAMAGED;
    }
    return file_system_check(directory, report);
}

#define OWNER_NAME       "owner.lock"
#define OWNER_BYTES_MAX  64
#define OWNER_MAP_PREFIX "map "

/* Over what stands there, which is cut off behind it only then: on a full disk there may be no
 * block for it otherwise. The lock holds all the same. */
static void owner_write(int fd, const char *text)
{
    size_t len = strlen(text);
    if (pwrite(fd, text, len, 0) != (ssize_t)len || ftruncate(fd, (off_t)len) != 0) {
        return;
    }
}

void store_owner_map_set(int fd, uint64_t map_bytes)
{
    char text[OWNER_BYTES_MAX];
    snprintf(text, sizeof text, "%ld\n" OWNER_MAP_PREFIX "%llu\n", (long)getpid(),
             (unsigned long long)map_bytes);
    owner_write(fd, text);
}

int store_owner_open(const char *directory)
{
    char path[STORE_PATH_BYTES_MAX];
    return path_join(path, directory, OWNER_NAME) ? open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW)
                                                  : -1;
}

uint64_t store_owner_map_get(int fd)
{
    uint8_t text[OWNER_BYTES_MAX];
    uint64_t bytes = 0;
    ssize_t len = fd < 0 ? -1 : pread(fd, text, sizeof text, 0);
    struct slice rest = slice_of(text, len < 0 ? 0 : (size_t)len);
    struct slice prefix = SLICE("\n" OWNER_MAP_PREFIX);
    rest = slice_tail(rest, slice_find(rest, '\n'));
    if (!slice_starts_with(rest, prefix)) {
        return 0;
    }
    rest = slice_tail(rest, prefix.len);
    return u64_parse(slice_head(rest, slice_find(rest, '\n')), &bytes) ? bytes : 0;
}

/* The lock goes with the process, however it ends. The number in the file is for people. */
enum err store_owner_lock(const char *directory, int *out_fd, struct store_report *report)
{
    char path[STORE_PATH_BYTES_MAX];
    if (!path_join(path, directory, OWNER_NAME)) {
        return ERR_LIMIT;
    }
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        return failed(report, "cannot open", path);
    }
    char text[32] = "";
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        bool held = errno == EWOULDBLOCK;
        enum err err = failed(report, "cannot lock", path);
        if (held) {
            ssize_t len = pread(fd, text, sizeof text - 1, 0);
            text[len > 0 ? strspn(text, "0123456789") : 0] = '\0';
            store_problem(report,
                          "the queue in %s is in use by process %s: stop that one first, or set "
                          "state to another directory",
                          directory, text[0] == '\0' ? "(unknown)" : text);
            err = ERR_BUSY;
        }
        close(fd);
        return err;
    }
    snprintf(text, sizeof text, "%ld\n", (long)getpid());
    owner_write(fd, text);
    if (!path_join(suspect_path, directory, SUSPECT_NAME)) {
        suspect_path[0] = '\0';
    }
    *out_fd = fd;
    return ERR_OK;
}

/*
 * ---- the file ----
 *
 * A queue is made under another name, whole and synced, and then renamed: LMDB's own first
 * transactions leave states on disk that never open again.
 */

static enum err databases_make(MDB_env *env, const struct store_config *config)
{
    MDB_txn *txn;
    int code = mdb_txn_begin(env, NULL, 0, &txn);
    if (code != MDB_SUCCESS) {
        return store_err(code);
    }
    MDB_dbi meta = 0;
    for (enum store_db db = 0; db < STORE_DB_COUNT && code == MDB_SUCCESS; db++) {
        MDB_dbi dbi = 0;
        code = mdb_dbi_open(txn, store_db_names[db], MDB_CREATE, &dbi);
        meta = db == STORE_DB_META ? dbi : meta;
    }
    uint16_t box = 0;
    if (code == MDB_SUCCESS && getrandom(&box, sizeof box, 0) != (ssize_t)sizeof box) {
        code = EIO;
    }
    uint8_t format[STORE_FORMAT_BYTES];
    store_format_encode(config->chunk_bytes, box, format);
    static const struct store_totals nothing;
    uint8_t summary[STORE_TOTALS_BYTES + STORE_SEAL_BYTES];
    store_totals_encode(&nothing, summary);
    be32_put(summary + STORE_TOTALS_BYTES,
             store_seal(SLICE("summary"), slice_of(summary, STORE_TOTALS_BYTES)));
    MDB_val key = store_val(SLICE("format"));
    MDB_val value = store_val(slice_of(format, sizeof format));
    if (code == MDB_SUCCESS) {
        code = mdb_put(txn, meta, &key, &value, 0);
    }
    key = store_val(SLICE("summary"));
    value = store_val(slice_of(summary, sizeof summary));
    if (code == MDB_SUCCESS) {
        code = mdb_put(txn, meta, &key, &value, 0);
    }
    if (code != MDB_SUCCESS) {
        mdb_txn_abort(txn);
        return store_err(code);
    }
    return store_err(mdb_txn_commit(txn));
}

/* LMDB maps its table of readers and writes to it: without blocks on a full disk that is a SIGBUS.
 */
#define LOCK_FILE_BYTES 65536

enum err store_lock_file_reserve(const char *path, struct store_report *report)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        return failed(report, "cannot open", path);
    }
    enum err err = ERR_OK;
    if (fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, LOCK_FILE_BYTES) != 0 &&
        (errno == ENOSPC || errno == EDQUOT)) {
        err = failed(report, "the disk is full, make room and start again: cannot write", path);
    }
    close(fd);
    return err;
}

static enum err file_make(const char *path, const struct store_config *config,
                          struct store_report *report)
{
    MDB_env *env;
    enum err err = store_err(mdb_env_create(&env));
    if (err != ERR_OK) {
        return err;
    }
    err = store_err(mdb_env_set_maxdbs(env, STORE_DB_COUNT));
    if (err == ERR_OK) {
        err = store_err(mdb_env_set_mapsize(env, CREATE_MAP_BYTES));
    }
    if (err == ERR_OK) {
        err = store_err(mdb_env_open(env, path, STORE_ENV_FLAGS | MDB_NOSUBDIR, 0600));
    }
    if (err == ERR_OK) {
        err = databases_make(env, config);
    }
    mdb_env_close(env);
    if (err != ERR_OK) {
        store_problem(report, "cannot make the queue %s: %s", path, err_text(err));
        return err;
    }
    /* The new file may be shorter than its last page: see store_write.c. */
    if (truncate(path, CREATE_MAP_BYTES) != 0) {
        return failed(report, "cannot make the queue", path);
    }
    return sync_path(path, report);
}

/* Makes the queue when there is none. A lock file without a queue means that there was one. */
enum err store_file_create(const struct store_config *config, struct store_report *report)
{
    char path[STORE_PATH_BYTES_MAX];
    char aside[STORE_PATH_BYTES_MAX];
    char aside_lock[STORE_PATH_BYTES_MAX];
    char lock[STORE_PATH_BYTES_MAX];
    if (!path_join(path, config->directory, "data.mdb") ||
        !path_join(aside, config->directory, "new.mdb") ||
        !path_join(aside_lock, config->directory, "new.mdb-lock") ||
        !path_join(lock, config->directory, "lock.mdb")) {
        return ERR_LIMIT;
    }
    unlink(aside); /* of a creation that was cut off */
    unlink(aside_lock);
    struct stat st;
    if (lstat(path, &st) == 0) {
        return sync_path(config->directory, report); /* a run whose rename was cut off did not */
    }
    if (errno != ENOENT) {
        return failed(report, "cannot use", path);
    }
    enum err parent_err = parent_sync(config->directory, report);
    if (parent_err != ERR_OK) {
        return parent_err;
    }
    if (lstat(lock, &st) == 0) {
        store_problem(report,
                      "%s is gone, but %s shows that there was a queue: put the file back, or "
                      "remove the second one too to begin with an empty queue",
                      path, lock);
        return ERR_DAMAGED;
    }
    enum err err = store_lock_file_reserve(aside_lock, report);
    if (err == ERR_OK) {
        err = file_make(aside, config, report);
    }
    if (err == ERR_OK && rename(aside, path) != 0) {
        err = failed(report, "cannot rename to", path);
    }
    unlink(aside);
    unlink(aside_lock);
    return err == ERR_OK ? sync_path(config->directory, report) : err;
}

/*
 * LMDB's file, 64-bit, data version 1: two meta pages, the newer one by transaction id counts.
 *     0  page header      16  magic        20  data version    40  page size
 *   136  last page used   144  transaction id
 */
#define META_BYTES        152
#define META_MAGIC        0xbeefc0deu
#define META_DATA_VERSION 1u
#define META_PAGE_MIN     512u
#define META_PAGE_MAX     65536u

struct meta {
    uint32_t page_bytes;
    uint64_t last_page;
    uint64_t txn;
};

static bool meta_read(int fd, off_t at, struct meta *out)
{
    uint8_t bytes[META_BYTES];
    if (pread(fd, bytes, sizeof bytes, at) != (ssize_t)sizeof bytes) {
        return false;
    }
    uint32_t magic;
    uint32_t version;
    memcpy(&magic, bytes + 16, sizeof magic);
    memcpy(&version, bytes + 20, sizeof version);
    memcpy(&out->page_bytes, bytes + 40, sizeof out->page_bytes);
    memcpy(&out->last_page, bytes + 136, sizeof out->last_page);
    memcpy(&out->txn, bytes + 144, sizeof out->txn);
    return magic == META_MAGIC && version == META_DATA_VERSION &&
           out->page_bytes >= META_PAGE_MIN && out->page_bytes <= META_PAGE_MAX &&
           (out->page_bytes & (out->page_bytes - 1)) == 0;
}

static enum err length_check(int fd, const char *path, uint64_t *out_used_bytes,
                             struct store_report *report)
{
    struct meta metas[2];
    struct stat st;
    if (fstat(fd, &st) != 0) {
        return failed(report, "cannot use", path);
    }
    if (!S_ISREG(st.st_mode) || !meta_read(fd, 0, &metas[0]) ||
        !meta_read(fd, (off_t)metas[0].page_bytes, &metas[1]) ||
        metas[0].page_bytes != metas[1].page_bytes) {
        store_problem(report, "%s is not a queue, or its beginning is damaged", path);
        return ERR_DAMAGED;
    }
    const struct meta *newest = metas[1].txn > metas[0].txn ? &metas[1] : &metas[0];
    uint64_t length = (uint64_t)st.st_size;
    if (newest->last_page >= length / newest->page_bytes) {
        store_problem(report,
                      "%s is cut short: it has %llu bytes and %llu pages of %lu bytes are in use: "
                      "put back a copy of the file",
                      path, (unsigned long long)length, (unsigned long long)newest->last_page + 1,
                      (unsigned long)newest->page_bytes);
        return ERR_DAMAGED;
    }
    *out_used_bytes = (newest->last_page + 1) * newest->page_bytes;
    return ERR_OK;
}

/*
 * LMDB trusts its pages, so they are judged first: the tops of the trees each time, all of them
 * when the last run died in the map or stopped at a page. A mark that cannot be removed costs only
 * time. ERR_BUSY: a reader beside an owner that is at work, and that has opened the same file. Keys
 * that are not in order hide a message at most: the others are worth opening for.
 */
static enum err pages_check(int fd, const char *path, const char *directory,
                            struct store_report *report)
{
    char suspect[STORE_PATH_BYTES_MAX];
    if (!path_join(suspect, directory, SUSPECT_NAME)) {
        return ERR_LIMIT;
    }
    bool suspected = access(suspect, F_OK) == 0;
    struct store_pages_report pages;
    enum err err =
        store_pages_check(fd, suspected ? STORE_PAGES_FULL : STORE_PAGES_QUICK, NULL, NULL, &pages);
    if (err == ERR_DAMAGED && pages.order_only) {
        store_problem(report, "%s is damaged, %s: a message may be missing", path, pages.problem);
    } else if (err == ERR_DAMAGED || err == ERR_IO) {
        store_problem(report, "%s is damaged, %s: put back a copy of the file", path,
                      pages.problem);
        return err;
    } else if (err != ERR_OK && err != ERR_BUSY) {
        store_problem(report, "cannot check %s: %s", path, pages.problem);
        return err;
    }
    return suspected && err != ERR_BUSY && unlink(suspect) == 0 ? sync_path(directory, report)
                                                                : ERR_OK;
}

/* Before anything is mapped: touching a page of the map behind the end of the file kills. */
enum err store_file_check(const char *directory, uint64_t *out_used_bytes,
                          struct store_report *report)
{
    char path[STORE_PATH_BYTES_MAX];
    if (!path_join(path, directory, "data.mdb")) {
        return ERR_LIMIT;
    }
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        enum err err = failed(report, "cannot open the queue", path);
        return errno == ENOENT ? ERR_NOT_FOUND : err;
    }
    enum err err = length_check(fd, path, out_used_bytes, report);
    if (err == ERR_OK) {
        err = pages_check(fd, path, directory, report);
    }
    close(fd);
    return err;
}

/*
 * ---- room on the disk ----
 */

enum err store_file_extend(struct store *store, uint64_t bytes)
{
    uint64_t length = u64_min(bytes, store->map_bytes);
    if (length <= store->file_bytes) {
        return ERR_OK;
    }
    if (ftruncate(store->data_fd, (off_t)length) != 0) {
        return store_err(errno);
    }
    store->file_bytes = length;
    return ERR_OK;
}

/*
 * Has blocks for the next ALLOCATE_BYTES ready, so that deletes and outcomes can be committed on a
 * disk that somebody else has filled. Where the file system cannot, nothing is lost but that.
 */
void store_file_allocate(struct store *store)
{
    MDB_envinfo info;
    if (mdb_env_info(store->env, &info) != MDB_SUCCESS) {
        return;
    }
    uint64_t wanted = (info.me_last_pgno + 1) * store->page_bytes + ALLOCATE_BYTES;
    wanted = u64_min(wanted, store->map_bytes);
    if (wanted <= store->allocated_bytes) {
        return;
    }
    uint64_t to = u64_min(wanted + ALLOCATE_BYTES, store->map_bytes);
    uint64_t from = store->allocated_bytes;
    int result = fallocate(store->data_fd, 0, (off_t)from, (off_t)(to - from));
    store->disk_short = result != 0 && (errno == ENOSPC || errno == EDQUOT);
    if (result == 0) {
        store->file_bytes = u64_max(store->file_bytes, to);
    }
    if (!store->disk_short) {
        store->allocated_bytes = to;
    }
}

bool store_disk_has(const struct store *store, uint64_t bytes)
{
    struct statvfs fs;
    return fstatvfs(store->data_fd, &fs) == 0 &&
           bytes / (fs.f_frsize == 0 ? 1 : fs.f_frsize) < fs.f_bavail;
}

bool store_disk_is_low(const struct store *store)
{
    struct statvfs fs;
    if (fstatvfs(store->data_fd, &fs) != 0) {
        return false;
    }
    uint64_t block_bytes = fs.f_frsize == 0 ? 1 : fs.f_frsize;
    uint64_t share = fs.f_blocks * block_bytes / DISK_SPARE_SHARE;
    uint64_t spare = u64_max(u64_min(share, DISK_SPARE_MAX), DISK_SPARE_MIN);
    return fs.f_bavail <= spare / block_bytes;
}

/*
 * ---- faults ----
 */

/* Read in a signal handler, so they are atomic; one process has one queue open. */
static _Atomic(uintptr_t) fault_first;
static _Atomic(uintptr_t) fault_last;

void store_fault_range_set(const uint8_t *map, uint64_t bytes)
{
    atomic_store(&fault_first, map == NULL ? 0 : (uintptr_t)map);
    atomic_store(&fault_last, map == NULL ? 0 : (uintptr_t)map + bytes - 1);
}

void store_suspect_mark(void)
{
    static const char words[] = "the last run could not use a page of data.mdb\n";
    int fd = suspect_path[0] == '\0'
                 ? -1
                 : open(suspect_path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd >= 0) {
        if (write(fd, words, sizeof words - 1) > 0) { /* an empty mark is one too */
            fsync(fd);
        }
        close(fd);
    }
}

bool store_fault_explain(const void *address, int fd)
{
    uintptr_t at = (uintptr_t)address;
    if (at == 0 || at < atomic_load(&fault_first) || at > atomic_load(&fault_last)) {
        return false;
    }
    store_suspect_mark();
    static const char words[] =
        "tasuki: the queue file could not be read: it was cut short or replaced while in use, or "
        "the disk failed. Nothing that was answered with 250 depends on this process: repair the "
        "disk or put the file back, then start again.\n";
    ssize_t written = write(fd, words, sizeof words - 1);
    return written >= 0 || errno != 0;
}
