/*
 * The history: messages that have left the queue, kept for a while, the newest of them.
 *
 * Invariants
 *   - Its pages never take more than twice history-max, which is what the map has for them.
 * Expiring keeps it at history-max; what comes in faster than that pushes out the oldest at once.
 *   - Entries are counted, and so are the bytes of their values, exactly.
 *   - Keys are ids, so the order is that of arrival and not that of leaving. An entry's age is told
 *     by the record alone.
 */
#include "daemon/store/store_internal.h"
#include "schema/record_history.h"

/* Oldest entries that one message may push out; it is not kept when that was not enough. */
#define PUSHED_OUT_MAX 8
/* A page more for the tree, and one that is begun. */
#define PAGES_SPARE 2u

/*
 * ---- writing ----
 */

uint64_t store_history_pages_bytes(const struct store *store, MDB_txn *txn)
{
    MDB_stat stat;
    if (mdb_stat(txn, store->dbs[STORE_DB_HISTORY], &stat) != MDB_SUCCESS) {
        return 0;
    }
    return (stat.ms_branch_pages + stat.ms_leaf_pages + stat.ms_overflow_pages) * store->page_bytes;
}

static void count(struct store *store, uint64_t bytes)
{
    store->pending.history_count++;
    store->pending.history_bytes += bytes;
}

/* What is subtracted comes from the disk, so it is not trusted to have been added. */
static void uncount(struct store *store, uint64_t bytes)
{
    store->pending.history_count -= u64_min(store->pending.history_count, 1);
    store->pending.history_bytes -= u64_min(store->pending.history_bytes, bytes);
}

/* The entry at which the cursor is. */
static enum err entry_delete(struct store *store, MDB_cursor *cursor, MDB_val key, MDB_val value)
{
    store_account(store, 0);
    enum err err = store_run_check(store, STORE_DB_HISTORY, key, value);
    if (err == ERR_OK) {
        err = store_write_err(store, mdb_cursor_del(cursor, 0));
    }
    if (err == ERR_OK) {
        uncount(store, value.mv_size);
    }
    return err;
}

/* Pushes out the oldest until an entry of so many bytes fits below bytes_max, or enough of them. */
static enum err room_make(struct store *store, uint64_t bytes, uint64_t bytes_max)
{
    MDB_cursor *cursor;
    enum err err = store_cursor_open(store, store->txn, STORE_DB_HISTORY, &cursor);
    if (err != ERR_OK) {
        return err;
    }
    for (size_t count_left = PUSHED_OUT_MAX;
         count_left > 0 && store_history_pages_bytes(store, store->txn) + bytes > bytes_max;
         count_left--) {
        MDB_val key;
        MDB_val value;
        err = store_cursor_get(store, cursor, &key, &value, MDB_FIRST);
        if (err == ERR_OK) {
            err = entry_delete(store, cursor, key, value);
        }
        if (err != ERR_OK) {
            break;
        }
    }
    mdb_cursor_close(cursor);
    return err == ERR_NOT_FOUND ? ERR_OK : err;
}

/*
 * Most messages leave in the order in which they came: one that is put behind all others fills the
 * last page, where it would halve it otherwise. An entry that stands there already can only be
 * damage: it gives way.
 */
static enum err entry_put(struct store *store, struct slice key, struct slice history)
{
    enum err err = store_put_sealed(store, STORE_DB_HISTORY, key, history, MDB_APPEND);
    if (err == ERR_EXISTS) {
        err = store_put_sealed(store, STORE_DB_HISTORY, key, history, MDB_NOOVERWRITE);
    }
    if (err == ERR_EXISTS) {
        MDB_val mdb_key = store_val(key);
        MDB_val value;
        err = store_write_err(store,
                              mdb_get(store->txn, store->dbs[STORE_DB_HISTORY], &mdb_key, &value));
        if (err == ERR_OK) {
            uncount(store, value.mv_size);
            err = store_put_sealed(store, STORE_DB_HISTORY, key, history, 0);
        }
    }
    if (err == ERR_OK) {
        count(store, history.len + STORE_SEAL_BYTES);
    }
    return err;
}

enum err store_history_put(struct store *store, const struct msg_id *id, struct slice history)
{
    struct record_history decoded;
    if (record_history_get(history, &decoded) != ERR_OK) {
        return ERR_DAMAGED;
    }
    uint64_t pages_max = 2 * store->history_bytes_max;
    uint64_t bytes = history.len + PAGES_SPARE * store->page_bytes;
    enum err err = ERR_OK;
    if (store_history_pages_bytes(store, store->txn) + bytes > pages_max - pages_max / 8) {
        err = room_make(store, bytes, pages_max - pages_max / 8);
    }
    if (err != ERR_OK || store_history_pages_bytes(store, store->txn) + bytes > pages_max) {
        return err;
    }
    return entry_put(store, slice_of(id->bytes, MSG_ID_BYTES), history);
}

enum err store_history_recount(struct store *store, MDB_txn *txn, struct store_totals *totals)
{
    MDB_cursor *cursor;
    enum err err = store_cursor_open(store, txn, STORE_DB_HISTORY, &cursor);
    if (err != ERR_OK) {
        return err;
    }
    totals->history_count = 0;
    totals->history_bytes = 0;
    MDB_val key;
    MDB_val value;
    while ((err = store_cursor_get(store, cursor, &key, &value, MDB_NEXT)) == ERR_OK) {
        totals->history_count++;
        totals->history_bytes += value.mv_size;
        if (key.mv_size == MSG_ID_BYTES) {
            struct msg_id id;
            memcpy(id.bytes, key.mv_data, MSG_ID_BYTES);
            totals->last_id = u64_max(totals->last_id, msg_id_time_and_sequence(&id));
        }
    }
    mdb_cursor_close(cursor);
    return err == ERR_NOT_FOUND ? ERR_OK : err;
}

/*
 * ---- expiring ----
 */

struct expiry {
    struct store *store;
    MDB_cursor *cursor;
    uint64_t before_q;
    size_t rows_left; /* that may be looked at */
    uint64_t removed;
    bool more;
};

/* An entry too short to have an age is none. */
static bool is_too_old(const struct expiry *e, MDB_val value)
{
    uint64_t left_q;
    return !record_history_left_q(store_val_slice(value), &left_q) || left_q < e->before_q;
}

/*
 * Most entries leave in the order in which they came: so the oldest are removed as long as they are
 * too old, or the history is too large.
 */
static enum err expire_front(struct expiry *e)
{
    uint64_t max = e->store->history_bytes_max;
    MDB_val key;
    MDB_val value;
    enum err err = store_cursor_get(e->store, e->cursor, &key, &value, MDB_FIRST);
    while (err == ERR_OK && (e->store->pending.history_bytes > max || is_too_old(e, value))) {
        if (e->rows_left == 0) {
            e->more = true;
            return ERR_OK;
        }
        e->rows_left--;
        e->removed++;
        err = entry_delete(e->store, e->cursor, key, value);
        if (err == ERR_OK) {
            err = store_cursor_get(e->store, e->cursor, &key, &value, MDB_FIRST);
        }
    }
    return err == ERR_NOT_FOUND ? ERR_OK : err;
}

/*
 * The others stand behind younger ones, of messages that were held for long: a walk through the
 * whole history, a piece a call, finds them too. Where it found something there may be more; at the
 * end it begins again.
 */
static enum err expire_round(struct expiry *e)
{
    static const struct msg_id first_id = {{0}};
    struct store *store = e->store;
    struct msg_id at = store->history_at;
    MDB_val key = store_val(slice_of(at.bytes, MSG_ID_BYTES));
    MDB_val value;
    uint64_t before = e->removed;
    enum err err = store_cursor_get(store, e->cursor, &key, &value, MDB_SET_RANGE);
    for (; err == ERR_OK && e->rows_left > 0; e->rows_left--) {
        if (is_too_old(e, value)) {
            err = entry_delete(store, e->cursor, key, value);
            e->removed++;
        }
        if (err == ERR_OK) {
            err = store_cursor_get(store, e->cursor, &key, &value, MDB_NEXT);
        }
    }
    if (err == ERR_OK && key.mv_size == MSG_ID_BYTES) {
        memcpy(store->history_at.bytes, key.mv_data, MSG_ID_BYTES);
        e->more = e->more || e->removed > before;
    } else {
        store->history_at = first_id;
    }
    return err == ERR_NOT_FOUND ? ERR_OK : err;
}

enum err store_history_expire(struct store *store, uint64_t before_q, size_t rows_max,
                              uint64_t *out_removed, bool *out_more)
{
    CHECK(store->txn != NULL);
    struct expiry e = {.store = store, .before_q = before_q, .rows_left = rows_max};
    enum err err = store_cursor_open(store, store->txn, STORE_DB_HISTORY, &e.cursor);
    if (err != ERR_OK) {
        return err;
    }
    err = expire_front(&e);
    if (err == ERR_OK) {
        err = expire_round(&e);
    }
    mdb_cursor_close(e.cursor);
    store_touched(store, (rows_max - e.rows_left) * (STORE_FAULT_BYTES / 16));
    if (err == ERR_OK) {
        *out_removed = e.removed;
        *out_more = e.more;
    }
    return err;
}

/*
 * ---- reading ----
 */

enum err store_read_history(struct store_reader *reader, const struct msg_id *id, struct buf *to,
                            size_t *out_bytes_needed)
{
    enum err err = store_reader_begin(reader);
    if (err != ERR_OK) {
        return err;
    }
    struct slice history;
    err =
        store_reader_sealed(reader, STORE_DB_HISTORY, slice_of(id->bytes, MSG_ID_BYTES), &history);
    if (err == ERR_OK && history.len > buf_room(to)) {
        *out_bytes_needed = history.len;
        err = ERR_LIMIT;
    }
    if (err == ERR_OK) {
        buf_put(to, history);
    }
    store_touched(reader->store, STORE_FAULT_BYTES);
    store_reader_end(reader);
    return err;
}

/* The last entry at or below from. */
static enum err past_seek(MDB_cursor *cursor, const struct msg_id *from, MDB_val *key,
                          MDB_val *value)
{
    *key = store_val(slice_of(from->bytes, MSG_ID_BYTES));
    enum err err = store_err(mdb_cursor_get(cursor, key, value, MDB_SET_RANGE));
    if (err == ERR_NOT_FOUND) {
        return store_err(mdb_cursor_get(cursor, key, value, MDB_LAST));
    }
    if (err != ERR_OK || slice_equal(store_val_slice(*key), slice_of(from->bytes, MSG_ID_BYTES))) {
        return err;
    }
    return store_err(mdb_cursor_get(cursor, key, value, MDB_PREV));
}

static enum err read_past(struct store_reader *reader, const struct msg_id *from, size_t max,
                          store_history_fn *fn, void *ctx, struct msg_id *out_next)
{
    enum err err = store_err(mdb_cursor_renew(reader->txn, reader->past_cursor));
    if (err != ERR_OK) {
        return err;
    }
    MDB_val key;
    MDB_val value;
    bool wanted = true;
    size_t count = 0;
    for (err = past_seek(reader->past_cursor, from, &key, &value); err == ERR_OK;
         err = store_err(mdb_cursor_get(reader->past_cursor, &key, &value, MDB_PREV))) {
        struct msg_id id;
        if (key.mv_size != MSG_ID_BYTES) {
            continue; /* no id: nothing that could be named */
        }
        memcpy(id.bytes, key.mv_data, MSG_ID_BYTES);
        if (!wanted || count == max) {
            *out_next = id;
            return ERR_OK;
        }
        struct slice history = slice_of(NULL, 0);
        if (store_unseal(slice_of(id.bytes, MSG_ID_BYTES), store_val_slice(value), &history) !=
            ERR_OK) {
            history = slice_of(NULL, 0);
        }
        store_touched(reader->store, value.mv_size + STORE_FAULT_BYTES / 16);
        wanted = fn(ctx, &id, history);
        count++;
    }
    return err;
}

enum err store_read_history_rows(struct store_reader *reader, const struct msg_id *from, size_t max,
                                 store_history_fn *fn, void *ctx, struct msg_id *out_next)
{
    enum err err = store_reader_begin(reader);
    if (err != ERR_OK) {
        return err;
    }
    err = read_past(reader, from, max, fn, ctx, out_next);
    store_reader_end(reader);
    return err;
}
