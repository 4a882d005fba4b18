/*
 * Opening, closing, and what is known about a queue as a whole.
 *
 * Opening is a row of steps; the first that fails ends it, and closing undoes whatever was done.
 */
#include "daemon/store/store_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/*
 * The map is address space, not disk: it is queue-max again for what has been promised (a leaf
 * page is at least about half full, so records take at most twice their size), twice history-max,
 * and this for the pages that a commit writes anew while the old ones are not free yet.
 */
#define RESERVE_BYTES (64u << 20)

_Static_assert(2 * QUEUE_BYTES_MAX + 2 * HISTORY_BYTES_MAX + RESERVE_BYTES <= STORE_FILE_BYTES_MAX,
               "what the settings allow can be opened again");

/* Pages of files (the map's and the programs') that may stay resident before some of the map's are
 * given back, how many have to go then, and after how much reading, by estimate, the kernel is
 * asked how many there are. */
#define RESIDENT_BYTES_MAX  (28u << 20)
#define RESIDENT_BYTES_BACK (4u << 20)
#define TOUCHED_BYTES_MAX   (8 * STORE_FAULT_BYTES)
/* The beginning of the file stays mapped if it can: see store_touched. */
#define RESIDENT_BYTES_KEPT (16u << 20)
/* Reader slots beside the daemon's own: its writer, and tasukictl. LMDB's default is the least. */
#define READERS_SPARE 16u
#define READERS_MIN   126u

static const char format_magic[8] = "tasukiQ";

#define HISTORY_BYTES_DEFAULT ((uint64_t)64 << 20)

const char *const store_db_names[STORE_DB_COUNT] = {
    [STORE_DB_META] = "meta",         [STORE_DB_ENVELOPE] = "envelope", [STORE_DB_STATE] = "state",
    [STORE_DB_TRAIL] = "trail",       [STORE_DB_CHUNK] = "chunk",       [STORE_DB_DUE] = "due",
    [STORE_DB_INTAKE] = "intake",     [STORE_DB_HISTORY] = "history",   [STORE_DB_TALLY] = "count",
    [STORE_DB_UPSTREAM] = "upstream",
};

struct opening {
    struct store *store;
    const struct store_config *config;
    struct store_report *report;
    uint64_t used_bytes; /* of the file: pages up to the last one used */
    uint32_t version;    /* of the format */
};

typedef enum err open_step_fn(struct opening *o);

/* LMDB's refusal in words. */
static enum err refused(struct opening *o, const char *what, int code)
{
    enum err err = store_err(code);
    store_problem(o->report, "%s %s: %s", what, o->config->directory, mdb_strerror(code));
    return err;
}

static enum err open_directory(struct opening *o)
{
    return store_directory_prepare(o->config, o->report);
}

static enum err open_owner(struct opening *o)
{
    return o->config->read_only
               ? ERR_OK
               : store_owner_lock(o->config->directory, &o->store->owner_fd, o->report);
}

static enum err open_file(struct opening *o)
{
    enum err err = ERR_OK;
    if (!o->config->read_only) {
        struct store_config config = *o->config;
        config.chunk_bytes = o->store->chunk_bytes;
        err = store_file_create(&config, o->report);
    }
    return err == ERR_OK ? store_file_check(o->config->directory, &o->used_bytes, o->report) : err;
}

/*
 * A reader that root started makes LMDB's lock file when there is none: it has to belong to the
 * queue's owner, or the daemon could not start any more.
 */
void store_lock_file_give(const char *directory, int data_fd)
{
    char path[STORE_PATH_BYTES_MAX];
    struct stat data;
    struct stat lock;
    int len = snprintf(path, sizeof path, "%s/lock.mdb", directory);
    if (geteuid() == 0 && len > 0 && (size_t)len < sizeof path && fstat(data_fd, &data) == 0 &&
        lstat(path, &lock) == 0 && lock.st_uid != data.st_uid &&
        lchown(path, data.st_uid, data.st_gid) != 0) {
        return; /* the daemon will say that it may not open it */
    }
}

/* LMDB's part of opening, with the map and the readers as the store says. */
static int env_start(struct store *store, const char *directory)
{
    int code = mdb_env_create(&store->env);
    if (code == MDB_SUCCESS) {
        code = mdb_env_set_maxdbs(store->env, STORE_DB_COUNT);
    }
    if (code == MDB_SUCCESS) {
        code = mdb_env_set_maxreaders(store->env, store->readers_max);
    }
    if (code == MDB_SUCCESS && !store->read_only) {
        code = mdb_env_set_mapsize(store->env, store->map_bytes); /* a reader takes the owner's */
    }
    if (code == MDB_SUCCESS) {
        unsigned flags = STORE_ENV_FLAGS | (store->read_only ? (unsigned)MDB_RDONLY : 0u);
        code = mdb_env_open(store->env, directory, flags, 0600);
    }
    MDB_envinfo info;
    MDB_stat stat;
    if (code == MDB_SUCCESS) {
        code = mdb_env_get_fd(store->env, &store->data_fd);
    }
    if (code == MDB_SUCCESS) {
        code = mdb_env_info(store->env, &info);
    }
    if (code == MDB_SUCCESS) {
        code = mdb_env_stat(store->env, &stat);
    }
    struct stat st;
    if (code == MDB_SUCCESS && fstat(store->data_fd, &st) != 0) {
        code = errno;
    }
    if (code == MDB_SUCCESS) {
        store->map_bytes = info.me_mapsize;
        store->page_bytes = stat.ms_psize;
        store->file_bytes = (uint64_t)st.st_size;
    }
    return code;
}

static enum err open_swap(struct opening *o)
{
    return store_swap_enter(o->config->directory, !o->config->read_only, &o->store->swap_fd,
                            o->report);
}

static enum err reserve_lock_file(struct opening *o)
{
    char path[STORE_PATH_BYTES_MAX];
    int len = snprintf(path, sizeof path, "%s/lock.mdb", o->config->directory);
    if (len <= 0 || (size_t)len >= sizeof path) {
        return ERR_LIMIT;
    }
    return store_lock_file_reserve(path, o->report);
}

static enum err open_env(struct opening *o)
{
    struct store *store = o->store;
    enum err err = store->read_only ? ERR_OK : reserve_lock_file(o);
    if (err != ERR_OK) {
        return err;
    }
    uint32_t readers = o->config->readers_max + READERS_SPARE;
    uint64_t kept = store->queue_bytes_max + 2 * store->history_bytes_max;
    store->readers_max = readers < READERS_MIN ? READERS_MIN : readers;
    store->map_bytes = u64_max(kept, o->used_bytes) + store->queue_bytes_max + RESERVE_BYTES;
    store->map_bytes = u64_min(store->map_bytes, STORE_FILE_BYTES_MAX);
    store->map_bytes -= store->map_bytes % (uint64_t)sysconf(_SC_PAGESIZE);
    int code = env_start(store, o->config->directory);
    if (code != MDB_SUCCESS) {
        return refused(o, "cannot open the queue in", code);
    }
    store->allocated_bytes = o->used_bytes;
    if (store->read_only) {
        store_lock_file_give(o->config->directory, store->data_fd);
    } else {
        store_owner_map_set(store->owner_fd, store->map_bytes);
    }
    return ERR_OK;
}

static enum err open_readers(struct opening *o)
{
    o->report->readers_cleared = store_readers_check(o->store);
    return ERR_OK;
}

/*
 * ---- the format record ----
 */

void store_format_encode(uint32_t chunk_bytes, uint16_t box, uint8_t to[STORE_FORMAT_BYTES])
{
    memcpy(to, format_magic, sizeof format_magic);
    be32_put(to + 8, STORE_VERSION);
    be32_put(to + 12, chunk_bytes);
    be16_put(to + 16, box);
    be32_put(to + 18, store_seal(SLICE("format"), slice_of(to, 18)));
}

/* Where LMDB has put page 0. It does not tell; but a small value lies in a page that begins with
 * its own number. */
const uint8_t *store_map_find(const struct store *store, const void *value)
{
    uintptr_t at = (uintptr_t)value;
    const uint8_t *page = (const uint8_t *)value - at % store->page_bytes;
    uint64_t number;
    memcpy(&number, page, sizeof number);
    return page - number * store->page_bytes;
}

static enum err format_judge(struct opening *o, struct slice value)
{
    struct store *store = o->store;
    const char *directory = o->config->directory;
    if (value.len < 12 || memcmp(value.data, format_magic, sizeof format_magic) != 0) {
        store_problem(o->report, "%s/data.mdb is not a queue of this program", directory);
        return ERR_DAMAGED;
    }
    o->version = be32_get(value.data + 8);
    if (o->version > STORE_VERSION) {
        store_problem(o->report,
                      "the queue in %s was written by a newer version (format %lu; this one knows "
                      "%d): install that version again, or let it empty the queue first",
                      directory, (unsigned long)o->version, STORE_VERSION);
        return ERR_VERSION;
    }
    struct slice bytes;
    uint32_t chunk_bytes = 0;
    if (value.len == STORE_FORMAT_BYTES && store_unseal(SLICE("format"), value, &bytes) == ERR_OK) {
        chunk_bytes = be32_get(bytes.data + 12);
    }
    if (o->version == 0 || chunk_bytes < STORE_CHUNK_BYTES_MIN ||
        chunk_bytes > BODY_CHUNK_BYTES_MAX) {
        store_problem(o->report, "%s/data.mdb: the format record is damaged", directory);
        return ERR_DAMAGED;
    }
    store->chunk_bytes = chunk_bytes;
    store->piece_bytes = BODY_CHUNK_BYTES_MAX - BODY_CHUNK_BYTES_MAX % chunk_bytes;
    store->box = be16_get(bytes.data + 16);
    return ERR_OK;
}

static enum err format_read(struct opening *o, MDB_txn *txn)
{
    struct store *store = o->store;
    MDB_dbi *meta = &store->dbs[STORE_DB_META];
    if (mdb_dbi_open(txn, store_db_names[STORE_DB_META], 0, meta) != MDB_SUCCESS) {
        store_problem(o->report, "%s/data.mdb is not a queue of this program, or damaged",
                      o->config->directory);
        return ERR_DAMAGED;
    }
    MDB_val key = store_val(SLICE("format"));
    MDB_val value;
    if (mdb_get(txn, *meta, &key, &value) != MDB_SUCCESS) {
        store_problem(o->report, "%s/data.mdb has no format record", o->config->directory);
        return ERR_DAMAGED;
    }
    store->map = store_map_find(store, value.mv_data);
    return format_judge(o, store_val_slice(value));
}

/* What version the queue is of comes before everything else in it. */
static enum err open_format(struct opening *o)
{
    struct store *store = o->store;
    MDB_txn *txn;
    int code = mdb_txn_begin(store->env, NULL, MDB_RDONLY, &txn);
    if (code != MDB_SUCCESS) {
        return refused(o, "cannot read the queue in", code);
    }
    enum err err = format_read(o, txn);
    if (err != ERR_OK) {
        mdb_txn_abort(txn);
        return err;
    }
    code = mdb_txn_commit(txn); /* keeps the handle */
    if (code != MDB_SUCCESS) {
        return refused(o, "cannot read the queue in", code);
    }
    if (!store->read_only) {
        store_fault_range_set(store->map, store->map_bytes);
    }
    return ERR_OK;
}

/*
 * ---- databases ----
 */

static enum err upgrade_refused(struct opening *o)
{
    store_problem(
        o->report,
        "the queue in %s is of an older format, or its upgrade is not finished: start the "
        "daemon once so that it upgrades the queue",
        o->config->directory);
    return ERR_VERSION;
}

static enum err open_upgrade(struct opening *o)
{
    if (o->version == STORE_VERSION) {
        return ERR_OK;
    }
    if (o->store->read_only) {
        return upgrade_refused(o);
    }
    enum err err = store_upgrade_begin(o->store);
    if (err != ERR_OK) {
        store_problem(o->report, "cannot upgrade the queue in %s: %s", o->config->directory,
                      err_text(err));
    }
    return err;
}

/* The handles of all databases, within a transaction that has to be committed to keep them. */
static int databases_start(struct store *store, MDB_txn *txn)
{
    int code = MDB_SUCCESS;
    for (enum store_db db = 0; db < STORE_DB_COUNT && code == MDB_SUCCESS; db++) {
        code = mdb_dbi_open(txn, store_db_names[db], 0, &store->dbs[db]);
    }
    return code;
}

static enum err open_databases(struct opening *o)
{
    struct store *store = o->store;
    MDB_txn *txn;
    int code = mdb_txn_begin(store->env, NULL, MDB_RDONLY, &txn);
    if (code != MDB_SUCCESS) {
        return refused(o, "cannot read the queue in", code);
    }
    code = databases_start(store, txn);
    if (code != MDB_SUCCESS) {
        mdb_txn_abort(txn);
        store_problem(o->report, "%s/data.mdb is not a queue of this program, or damaged",
                      o->config->directory);
        return ERR_DAMAGED;
    }
    return store_err(mdb_txn_commit(txn)); /* keeps the handles */
}

/* The queue thread's read transaction. */
static int own_start(struct store *store)
{
    int code = mdb_txn_begin(store->env, NULL, MDB_RDONLY, &store->own);
    if (code == MDB_SUCCESS) {
        code = mdb_cursor_open(store->own, store->dbs[STORE_DB_DUE], &store->due_cursor);
        mdb_txn_reset(store->own);
    }
    return code;
}

static enum err open_own(struct opening *o)
{
    int code = own_start(o->store);
    return code == MDB_SUCCESS ? ERR_OK : refused(o, "cannot read the queue in", code);
}

/*
 * ---- recovery ----
 */

/* A queue keeps the chunk size that its bodies were written with; an empty one takes the wanted. */
static enum err chunk_size_adopt(struct store *store, uint32_t wanted)
{
    if (wanted == store->chunk_bytes) {
        return ERR_OK;
    }
    enum err err = store_begin(store);
    if (err != ERR_OK) {
        return err;
    }
    MDB_stat stat;
    err = store_write_err(store, mdb_stat(store->txn, store->dbs[STORE_DB_CHUNK], &stat));
    bool change = err == ERR_OK && stat.ms_entries == 0;
    if (change) {
        uint8_t format[STORE_FORMAT_BYTES];
        store_format_encode(wanted, store->box, format);
        err = store_put(store, STORE_DB_META, SLICE("format"), slice_of(format, sizeof format), 0);
    }
    if (err != ERR_OK || !change) {
        store_abort(store);
        return err;
    }
    err = store_commit(store);
    if (err == ERR_OK) {
        store->chunk_bytes = wanted;
        store->piece_bytes = BODY_CHUNK_BYTES_MAX - BODY_CHUNK_BYTES_MAX % wanted;
    }
    return err;
}

/* The rest of an upgrade, however far an earlier opening came with it. */
static enum err upgrade_finish(struct opening *o)
{
    bool pending = false;
    enum err err = store_upgrade_pending(o->store, &pending);
    if (err != ERR_OK || !pending) {
        return err;
    }
    return o->store->read_only ? upgrade_refused(o)
                               : store_upgrade_run(o->store, &o->report->upgraded);
}

static enum err recover(struct opening *o)
{
    struct store *store = o->store;
    bool sound = false;
    uint32_t wanted =
        o->config->chunk_bytes == 0 ? STORE_CHUNK_BYTES_DEFAULT : o->config->chunk_bytes;
    enum err err = upgrade_finish(o);
    if (err == ERR_OK) {
        err = store_totals_load(store, &sound);
    }
    if (err != ERR_OK || store->read_only) {
        return err;
    }
    if (!sound) {
        err = store_rebuild(store);
    }
    if (err == ERR_OK) {
        err = store_intake_clear(store, &o->report->discarded);
    }
    if (err == ERR_OK) {
        err = chunk_size_adopt(store, wanted);
    }
    store_file_allocate(store);
    return err;
}

static enum err open_recover(struct opening *o)
{
    enum err err = recover(o);
    if (err == ERR_IN_DOUBT && o->store->pages_damaged) {
        store_problem(o->report,
                      "cannot recover the queue in %s: a page of data.mdb is damaged; "
                      "start again and it is named",
                      o->config->directory);
        return ERR_DAMAGED;
    }
    if (err != ERR_OK && err != ERR_VERSION) {
        store_problem(o->report, "cannot recover the queue in %s: %s", o->config->directory,
                      err_text(err));
    }
    for (size_t state = 0; state < MESSAGE_STATE_COUNT && err == ERR_OK; state++) {
        o->report->messages += o->store->committed.count_by_state[state];
    }
    return err;
}

/* Readers that come one after another, without a gap, must not keep the writer waiting for ever. */
static void guard_init(pthread_rwlock_t *guard)
{
    pthread_rwlockattr_t attributes;
    pthread_rwlockattr_init(&attributes);
    pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    CHECK(pthread_rwlock_init(guard, &attributes) == 0);
    pthread_rwlockattr_destroy(&attributes);
}

static int statm_fd = -1;
static pthread_once_t statm_once = PTHREAD_ONCE_INIT;

/* Opened once: it is read often, and opening is two thirds of what that costs. */
static void statm_open(void)
{
    statm_fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
}

enum err store_open(struct store **out_store, const struct store_config *config,
                    struct store_report *report)
{
    pthread_once(&statm_once, statm_open);
    static open_step_fn *const steps[] = {
        open_directory, open_owner,   open_swap,      open_file, open_env,     open_readers,
        open_format,    open_upgrade, open_databases, open_own,  open_recover,
    };
    CHECK(config->chunk_bytes == 0 || (config->chunk_bytes >= STORE_CHUNK_BYTES_MIN &&
                                       config->chunk_bytes <= BODY_CHUNK_BYTES_MAX));
    *report = (struct store_report){0};
    struct store *store = calloc(1, sizeof *store);
    if (store == NULL) {
        return ERR_NO_MEMORY;
    }
    store->owner_fd = -1;
    store->swap_fd = -1;
    guard_init(&store->swap_guard);
    store->read_only = config->read_only;
    store->writable = true;
    store->queue_bytes_max = config->queue_bytes_max;
    store->history_bytes_max =
        config->history_bytes_max == 0 ? HISTORY_BYTES_DEFAULT : config->history_bytes_max;
    store->chunk_bytes = config->chunk_bytes == 0 ? STORE_CHUNK_BYTES_DEFAULT : config->chunk_bytes;
    struct opening o = {.store = store, .config = config, .report = report};
    enum err err = ERR_OK;
    for (size_t index = 0; index < sizeof steps / sizeof steps[0] && err == ERR_OK; index++) {
        err = steps[index](&o);
    }
    if (err == ERR_OK) {
        *out_store = store;
        return ERR_OK;
    }
    if (report->problem[0] == '\0') {
        store_problem(report, "cannot open the queue in %s: %s", config->directory, err_text(err));
    }
    store_close(&store);
    return err;
}

void store_close(struct store **store)
{
    struct store *s = *store;
    if (s == NULL) {
        return;
    }
    if (s->txn != NULL) {
        store_abort(s);
    }
    CHECK(s->readers == NULL);
    store_detach(s);
    if (s->swap_fd >= 0) {
        close(s->swap_fd);
    }
    if (s->owner_fd >= 0) {
        close(s->owner_fd);
    }
    pthread_rwlock_destroy(&s->swap_guard);
    free(s->scratch);
    free(s);
    *store = NULL;
}

/*
 * ---- another file in place of this one ----
 */

void store_detach(struct store *store)
{
    for (struct store_reader *reader = store->readers; reader != NULL; reader = reader->next) {
        store_reader_detach(reader);
    }
    if (store->due_cursor != NULL) {
        mdb_cursor_close(store->due_cursor);
        store->due_cursor = NULL;
    }
    if (store->own != NULL) {
        mdb_txn_abort(store->own);
        store->own = NULL;
    }
    if (store->map != NULL && !store->read_only) {
        store_fault_range_set(NULL, 0);
    }
    store->map = NULL;
    if (store->env != NULL) {
        mdb_env_close(store->env);
        store->env = NULL;
    }
    store->data_fd = -1;
}

/* What opening found out about the format holds: the file is a copy. */
static int databases_restart(struct store *store)
{
    MDB_txn *txn;
    int code = mdb_txn_begin(store->env, NULL, MDB_RDONLY, &txn);
    if (code != MDB_SUCCESS) {
        return code;
    }
    MDB_val key = store_val(SLICE("format"));
    MDB_val value;
    code = databases_start(store, txn);
    if (code == MDB_SUCCESS) {
        code = mdb_get(txn, store->dbs[STORE_DB_META], &key, &value);
    }
    if (code != MDB_SUCCESS) {
        mdb_txn_abort(txn);
        return code;
    }
    store->map = store_map_find(store, value.mv_data);
    store->used_bytes = store_used_bytes(store, txn);
    return mdb_txn_commit(txn);
}

enum err store_attach(struct store *store, const char *directory)
{
    int code = env_start(store, directory);
    if (code == MDB_SUCCESS) {
        code = databases_restart(store);
    }
    if (code == MDB_SUCCESS) {
        store->allocated_bytes = 0;
        store_file_allocate(store);
        store_fault_range_set(store->map, store->map_bytes);
        code = own_start(store);
    }
    enum err err = store_err(code);
    for (struct store_reader *reader = store->readers; reader != NULL && err == ERR_OK;
         reader = reader->next) {
        err = store_reader_attach(reader);
    }
    if (err != ERR_OK) {
        store_detach(store);
    }
    return err;
}

/*
 * ---- the queue as a whole ----
 */

void store_summary(const struct store *store, struct store_summary *out)
{
    *out = (struct store_summary){
        .body_bytes = store->committed.body_bytes,
        .last_id = store->committed.last_id,
        .pages_used_bytes = store->used_bytes,
        .bytes_max = store->queue_bytes_max,
        .history_count = store->committed.history_count,
        .history_bytes = store->committed.history_bytes,
        .file_bytes = store->file_bytes,
        .clock = store->committed.clock,
        .box = store->box,
    };
    memcpy(out->count_by_state, store->committed.count_by_state, sizeof out->count_by_state);
}

const char *store_doubt(const struct store *store)
{
    return store->pages_damaged ? "a page of the queue's file is damaged" : err_text(ERR_IN_DOUBT);
}

size_t store_piece_bytes(const struct store *store)
{
    return store->piece_bytes;
}

/*
 * Pages that hold something: the two meta pages and what each database says of itself, among them
 * the list of free pages (0) and the list of databases (1); but not the history's, which have a
 * bound of their own. Exact, also within a transaction, and no page is read for it.
 */
uint64_t store_used_bytes(const struct store *store, MDB_txn *txn)
{
    uint64_t pages = 2;
    for (MDB_dbi index = 0; index < STORE_DB_COUNT + 2; index++) {
        MDB_stat stat;
        MDB_dbi dbi = index < 2 ? index : store->dbs[index - 2];
        if (dbi == store->dbs[STORE_DB_HISTORY]) {
            continue;
        }
        if (mdb_stat(txn, dbi, &stat) == MDB_SUCCESS) {
            pages += stat.ms_branch_pages + stat.ms_leaf_pages + stat.ms_overflow_pages;
        }
    }
    return pages * store->page_bytes;
}

/* Bytes of files that are resident in this process; all there can be where nobody says. */
static uint64_t resident_file_bytes(const struct store *store)
{
    uint8_t text[128];
    uint64_t pages = 0;
    ssize_t len = statm_fd < 0 ? -1 : pread(statm_fd, text, sizeof text, 0);
    struct slice rest = slice_of(text, len < 0 ? 0 : (size_t)len);
    for (int field = 0; field < 2; field++) {
        rest = slice_tail(rest, size_min(slice_find(rest, ' ') + 1, rest.len));
    }
    bool known = u64_parse(slice_head(rest, slice_find(rest, ' ')), &pages);
    return known ? pages * store->page_bytes : UINT64_MAX;
}

/* Gives back the pages of the map from byte `from` on. */
static void give_back(const struct store *store, uint64_t from)
{
    if (from >= store->map_bytes) {
        return;
    }
    union {
        const uint8_t *borrowed;
        void *address; /* madvise takes the address of a map that it does not write */
    } map = {.borrowed = store->map + from};
    madvise(map.address, store->map_bytes - from, MADV_DONTNEED);
}

/*
 * Called with an estimate of what a call made resident. It is no more than that: for one byte that
 * is read the kernel maps 64 KiB, or a whole folio of its cache, up to 2 MiB (Linux 6.18). So every
 * now and then it is asked; once it is much, pages of the map are given back: they stay in the
 * page cache, and come again when they are touched.
 *
 * Coming again is what long churn pays for most. LMDB writes a page to the first gap in the file
 * that is long enough, so the pages of the trees, which are written again and again, gather at its
 * beginning, and bodies, which are read once, behind it. So the beginning goes only when the rest
 * was not enough.
 */
void store_touched(struct store *store, uint64_t bytes)
{
    if (atomic_fetch_add(&store->touched_bytes, bytes) + bytes < TOUCHED_BYTES_MAX) {
        return;
    }
    atomic_store(&store->touched_bytes, 0);
    if (resident_file_bytes(store) < RESIDENT_BYTES_MAX) {
        return;
    }
    give_back(store, RESIDENT_BYTES_KEPT);
    if (resident_file_bytes(store) > RESIDENT_BYTES_MAX - RESIDENT_BYTES_BACK) {
        give_back(store, 0);
    }
}
