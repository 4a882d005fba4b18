/*
 * The check, part one: opening a queue beside whoever uses it, its pages, and what follows what.
 *
 * Order: pages first, with pread, since LMDB follows damaged ones anywhere; then the records, from
 * one read transaction, which is begun before the pages are verified: the pages that it sees are
 * not used again while it lasts, so a writer at work does no harm to either.
 *
 * The price is that the writer cannot use freed pages again meanwhile and its file grows. A check
 * gives way before that fills the map, or the disk.
 */
#include "daemon/store/store_check_internal.h"
#include "daemon/store/store_pages.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Findings that are told; the rest is counted. */
#define FINDINGS_MAX 1000u
/* Rows between two looks at progress, memory and the writer. */
#define TICK_ROWS 256u
/* Of the map: what the writer keeps for its own commits while pages are pinned. */
#define MAP_SPARE_SHARE 8u

void check_finding(struct check *c, const struct msg_id *id, const char *format, ...)
{
    uint8_t head_memory[MSG_ID_TEXT_BYTES + 16];
    char text[CHECK_FINDING_BYTES];
    struct buf head;
    buf_init(&head, head_memory, sizeof head_memory);
    if (id != NULL) {
        buf_put_str(&head, "message ");
        msg_id_put_text(&head, id);
        buf_put_str(&head, ": ");
        memcpy(text, head.data, head.len);
    }
    va_list args;
    va_start(args, format);
    vsnprintf(text + head.len, sizeof text - head.len, format, args);
    va_end(args);
    if (c->out->findings++ == 0) {
        memcpy(c->first, text, sizeof c->first);
    }
    if (c->out->findings <= FINDINGS_MAX) {
        c->fn(c->ctx, text);
    } else if (c->out->findings == FINDINGS_MAX + 1) {
        c->fn(c->ctx, "there is more of that, which is only counted from here on");
    }
}

/* Of the writer at work, which may have started while this reads. */
static uint64_t writer_map_bytes(const struct check *c)
{
    uint64_t bytes = store_owner_map_get(c->owner_fd);
    return bytes == 0 ? c->store.map_bytes : bytes;
}

bool check_is_in_the_way(struct check *c)
{
    MDB_envinfo info;
    if (c->is_copy || mdb_env_info(c->store.env, &info) != MDB_SUCCESS) {
        return false;
    }
    if (info.me_last_pgno == c->last_page) {
        return false;
    }
    uint64_t bytes = ((uint64_t)info.me_last_pgno + 1) * c->store.page_bytes;
    uint64_t map_bytes = writer_map_bytes(c);
    bool map_is_low = bytes > map_bytes - map_bytes / MAP_SPARE_SHARE;
    if (!map_is_low && !store_disk_is_low(&c->store)) {
        return false;
    }
    store_problem(c->report,
                  "stopped, so that the queue can go on taking mail: its file grows while it is "
                  "read, and %s",
                  map_is_low ? "is almost as large as it may get. Try again when less mail comes in"
                             : "its disk is almost full. Make room there and try again");
    c->stopped = ERR_LIMIT;
    return true;
}

/* The pages are the first half, the rows the second. */
bool check_tick(struct check *c)
{
    c->rows_done++;
    if (c->rows_done % TICK_ROWS != 0 || c->stopped != ERR_OK) {
        return c->stopped == ERR_OK;
    }
    store_touched(&c->store, TICK_ROWS * (STORE_FAULT_BYTES / 16));
    if (check_is_in_the_way(c)) {
        return false;
    }
    uint64_t pages = u64_max(c->out->pages, 1);
    uint64_t share = u64_min(c->rows_done, c->rows_total) * pages / u64_max(c->rows_total, 1);
    if (c->progress != NULL && !c->progress(c->progress_ctx, pages + share, 2 * pages)) {
        c->stopped = ERR_CANCELLED;
    }
    return c->stopped == ERR_OK;
}

bool check_next(struct check *c, MDB_cursor *cursor, enum store_db db, MDB_val *key, MDB_val *value)
{
    if (!check_tick(c)) {
        return false;
    }
    int code = mdb_cursor_get(cursor, key, value, MDB_NEXT);
    if (code != MDB_SUCCESS && code != MDB_NOTFOUND) {
        check_finding(c, NULL, "the database \"%s\" cannot be read on: %s", store_db_names[db],
                      mdb_strerror(code));
    }
    return code == MDB_SUCCESS;
}

/*
 * ---- opening ----
 */

static enum err cannot(struct check *c, const char *what, const char *path, enum err err)
{
    store_problem(c->report, "%s %s: %s", what, path, err_text(err));
    return err;
}

static bool pages_progress(void *ctx, uint64_t done, uint64_t pages)
{
    struct check *c = ctx;
    return !check_is_in_the_way(c) &&
           (c->progress == NULL || c->progress(c->progress_ctx, done, 2 * pages));
}

/* Pages that are damaged are a finding, and the last one: nothing behind them can be trusted. Keys
 * that are only in a wrong order can be walked all the same. */
static enum err pages_judge(struct check *c, enum store_pages_level level, int fd)
{
    struct store_pages_report pages;
    bool whole = level == STORE_PAGES_FULL;
    enum err err = store_pages_check(fd, level, whole ? pages_progress : NULL, c, &pages);
    c->out->pages = pages.pages;
    c->used_bytes = pages.pages_used * pages.page_bytes;
    if (err == ERR_CANCELLED && c->stopped != ERR_OK) {
        return c->stopped;
    }
    if (err == ERR_DAMAGED || err == ERR_IO) {
        if (whole || !pages.order_only) {
            check_finding(c, NULL, "%s%s", pages.problem,
                          pages.order_only ? "" : ": no record was looked at");
        }
        return pages.order_only ? ERR_OK : err;
    }
    if (err == ERR_BUSY && !whole) {
        return ERR_OK; /* the second look is at pages that stay as they are */
    }
    if (err != ERR_OK && err != ERR_CANCELLED) {
        store_problem(c->report, "%s", pages.problem);
    } else if (err == ERR_OK && pages.note[0] != '\0') {
        store_problem(c->report, "%s", pages.note);
    }
    return err;
}

/* A first look at the file, before it is mapped. */
static enum err file_look(struct check *c, const char *path)
{
    char file[STORE_PATH_BYTES_MAX];
    int len = snprintf(file, sizeof file, "%s%s", path, c->is_copy ? "" : "/data.mdb");
    if (len < 0 || (size_t)len >= sizeof file) {
        return ERR_LIMIT;
    }
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return cannot(c, "cannot open the queue", file, err_from_errno(errno));
    }
    enum err err = pages_judge(c, STORE_PAGES_QUICK, fd);
    close(fd);
    return err;
}

static enum err env_open(struct check *c, const char *path)
{
    MDB_envinfo info;
    MDB_stat stat;
    /* A copy has no writer: no lock file is made beside it. */
    unsigned flags =
        STORE_ENV_FLAGS | MDB_RDONLY | (c->is_copy ? (unsigned)(MDB_NOSUBDIR | MDB_NOLOCK) : 0u);
    int code = mdb_env_create(&c->store.env);
    if (code == MDB_SUCCESS) {
        code = mdb_env_set_maxdbs(c->store.env, STORE_DB_COUNT);
    }
    if (code == MDB_SUCCESS) {
        code = mdb_env_open(c->store.env, path, flags, 0600);
    }
    if (code == MDB_SUCCESS) {
        code = mdb_env_get_fd(c->store.env, &c->store.data_fd);
    }
    if (code == MDB_SUCCESS) {
        code = mdb_env_info(c->store.env, &info);
    }
    if (code == MDB_SUCCESS) {
        code = mdb_env_stat(c->store.env, &stat);
    }
    if (code == MDB_SUCCESS) {
        code = mdb_txn_begin(c->store.env, NULL, MDB_RDONLY, &c->txn);
    }
    if (code != MDB_SUCCESS) {
        store_problem(c->report, "cannot open the queue in %s: %s", path, mdb_strerror(code));
        return store_err(code);
    }
    c->store.map_bytes = info.me_mapsize;
    c->store.page_bytes = stat.ms_psize;
    c->last_page = info.me_last_pgno;
    return ERR_OK;
}

enum err check_open(struct check *c, const char *path)
{
    enum err err = ERR_OK;
    c->swap_fd = -1;
    c->owner_fd = c->is_copy ? -1 : store_owner_open(path);
    if (!c->is_copy) {
        err = store_swap_enter(path, false, &c->swap_fd, c->report);
    }
    if (err == ERR_OK) {
        err = file_look(c, path);
    }
    if (err == ERR_OK) {
        err = env_open(c, path);
    }
    if (err == ERR_OK && !c->is_copy) {
        store_lock_file_give(path, c->store.data_fd);
    }
    return err;
}

void check_close(struct check *c)
{
    if (c->txn != NULL) {
        mdb_txn_abort(c->txn);
    }
    if (c->store.map != NULL) {
        store_fault_range_set(NULL, 0);
    }
    if (c->store.env != NULL) {
        mdb_env_close(c->store.env);
    }
    if (c->swap_fd >= 0) {
        close(c->swap_fd);
    }
    if (c->owner_fd >= 0) {
        close(c->owner_fd);
    }
    free(c->scratch);
    free(c->content);
}

enum err check_pages(struct check *c)
{
    return pages_judge(c, STORE_PAGES_FULL, c->store.data_fd);
}

enum err check_map(struct check *c, struct slice *out_format)
{
    MDB_val key = store_val(SLICE("format"));
    MDB_val value;
    int code = mdb_dbi_open(c->txn, store_db_names[STORE_DB_META], 0, &c->store.dbs[STORE_DB_META]);
    if (code == MDB_SUCCESS) {
        code = mdb_get(c->txn, c->store.dbs[STORE_DB_META], &key, &value);
    }
    if (code != MDB_SUCCESS) {
        check_finding(c, NULL, "the format record cannot be read: %s", mdb_strerror(code));
        return ERR_DAMAGED;
    }
    c->store.map = store_map_find(&c->store, value.mv_data);
    store_fault_range_set(c->store.map, c->store.map_bytes);
    *out_format = store_val_slice(value);
    return ERR_OK;
}

/* The version stands before anything that another version may have otherwise. */
static enum err version_judge(struct check *c, struct slice format)
{
    uint32_t version = format.len < 12 ? 0 : be32_get(format.data + 8);
    if (version == STORE_VERSION) {
        return ERR_OK;
    }
    bool newer = version > STORE_VERSION;
    store_problem(c->report, "the queue has format %lu, and this program checks format %d: %s",
                  (unsigned long)version, STORE_VERSION,
                  newer ? "use the newer version" : "start tasukid once, which upgrades it");
    return newer ? ERR_VERSION : ERR_UNSUPPORTED;
}

enum err check_databases(struct check *c)
{
    struct slice format;
    enum err err = check_map(c, &format);
    if (err == ERR_OK) {
        err = version_judge(c, format);
    }
    if (err != ERR_OK) {
        return err;
    }
    for (enum store_db db = 0; db < STORE_DB_COUNT; db++) {
        MDB_stat stat;
        int code = mdb_dbi_open(c->txn, store_db_names[db], 0, &c->store.dbs[db]);
        if (code == MDB_SUCCESS) {
            code = mdb_stat(c->txn, c->store.dbs[db], &stat);
        }
        if (code != MDB_SUCCESS) {
            check_finding(c, NULL, "the database \"%s\" is missing: %s", store_db_names[db],
                          mdb_strerror(code));
            return ERR_DAMAGED;
        }
        c->rows_total += stat.ms_entries * (db == STORE_DB_STATE ? 2 : 1);
    }
    return ERR_OK;
}

/*
 * ---- all of it ----
 */

static enum err check_rows(struct check *c)
{
    if (!check_format(c)) {
        return c->stopped;
    }
    c->scratch = malloc(c->store.chunk_bytes);
    c->content = malloc(c->store.chunk_bytes);
    if (c->scratch == NULL || c->content == NULL) {
        return ERR_NO_MEMORY;
    }
    static void (*const parts[])(struct check *) = {check_messages, check_summary, check_due,
                                                    check_counts, check_upstreams};
    for (size_t index = 0; index < sizeof parts / sizeof parts[0] && c->stopped == ERR_OK;
         index++) {
        parts[index](c);
    }
    return c->stopped;
}

enum err check_run(struct check *c, const char *path)
{
    enum err err = check_open(c, path);
    if (err == ERR_OK) {
        err = check_pages(c);
    }
    if (err == ERR_OK) {
        err = check_databases(c);
    }
    if (err == ERR_OK) {
        err = check_rows(c);
    }
    check_close(c);
    if (c->out->findings > 0 && (err == ERR_OK || err == ERR_DAMAGED || err == ERR_IO)) {
        store_problem(c->report, "%llu %s, the first: %s", (unsigned long long)c->out->findings,
                      c->out->findings == 1 ? "finding" : "findings", c->first);
        return err == ERR_OK ? ERR_DAMAGED : err;
    }
    if (err != ERR_OK && c->report->problem[0] == '\0') {
        (void)cannot(c, "cannot check the queue in", path, err);
    }
    return err;
}

enum err store_check(const char *directory, store_finding_fn *fn, void *ctx,
                     store_progress_fn *progress, void *progress_ctx, struct store_check *out,
                     struct store_report *report)
{
    struct check *c = calloc(1, sizeof *c);
    *report = (struct store_report){0};
    *out = (struct store_check){0};
    if (c == NULL) {
        return ERR_NO_MEMORY;
    }
    c->fn = fn;
    c->ctx = ctx;
    c->progress = progress;
    c->progress_ctx = progress_ctx;
    c->out = out;
    c->report = report;
    enum err err = check_run(c, directory);
    free(c);
    return err;
}
