/*
 * The writing half of the store: one transaction at a time, by the queue thread.
 *
 * Every change goes through store_put and store_delete, which keep a bound on the pages that the
 * transaction may add to the file; the file is made that long before the commit. So a file that is
 * shorter than its newest meta page says was cut off by somebody else, and opening it says so.
 */
#include "daemon/store/store_internal.h"
#include "schema/record_history.h"

#include <errno.h>

/* A change rewrites the path from root to leaf; trees here are at most 5 high. The rest is for
 * pages that split. */
#define PAGES_PER_CHANGE 8u
/* Root, summary and free list of a transaction that changes nothing else. */
#define PAGES_PER_COMMIT 64u
/* Length by which a file grows, so that most commits need not ask. */
#define FILE_STEP_BYTES (4u << 20)
/* Sum of what a new message takes beside its body: envelope, state, index, half-full pages. */
#define MESSAGE_BYTES 4096u

enum err store_begin(struct store *store)
{
    CHECK(store->txn == NULL && !store->read_only);
    if (!store->writable) {
        return ERR_IN_DOUBT;
    }
    MDB_txn *txn;
    enum err err = store_err(mdb_txn_begin(store->env, NULL, 0, &txn));
    if (err != ERR_OK) {
        return err;
    }
    store->txn = txn;
    store->pending = store->committed;
    store->tally_count = 0;
    store->fresh_count = 0;
    store->txn_pages = 0;
    return ERR_OK;
}

void store_abort(struct store *store)
{
    CHECK(store->txn != NULL);
    mdb_txn_abort(store->txn);
    store->txn = NULL;
}

/*
 * ---- changes ----
 */

void store_account(struct store *store, uint64_t value_bytes)
{
    store->txn_pages += PAGES_PER_CHANGE + value_bytes / store->page_bytes;
}

enum err store_put(struct store *store, enum store_db db, struct slice key, struct slice value,
                   unsigned flags)
{
    store_account(store, value.len);
    MDB_val mdb_key = store_val(key);
    MDB_val mdb_value = store_val(value);
    return store_write_err(store, mdb_put(store->txn, store->dbs[db], &mdb_key, &mdb_value, flags));
}

/* Writes the value into the page that LMDB sets aside for it, with its seal behind. */
enum err store_put_sealed(struct store *store, enum store_db db, struct slice key,
                          struct slice bytes, unsigned flags)
{
    bool replaces = (flags & (unsigned)(MDB_NOOVERWRITE | MDB_APPEND)) == 0;
    enum err err = replaces ? store_run_guard(store, db, key) : ERR_OK;
    if (err != ERR_OK) {
        return err;
    }
    store_account(store, bytes.len);
    MDB_val mdb_key = store_val(key);
    MDB_val place = {.mv_size = bytes.len + STORE_SEAL_BYTES};
    err = store_write_err(store, mdb_put(store->txn, store->dbs[db], &mdb_key, &place,
                                         flags | (unsigned)MDB_RESERVE));
    if (err != ERR_OK) {
        return err;
    }
    uint8_t *to = place.mv_data;
    if (bytes.len > 0) {
        memcpy(to, bytes.data, bytes.len);
    }
    be32_put(to + bytes.len, store_seal(key, bytes));
    return ERR_OK;
}

enum err store_delete(struct store *store, enum store_db db, struct slice key)
{
    enum err err = store_run_guard(store, db, key);
    if (err != ERR_OK) {
        return err;
    }
    MDB_val mdb_key = store_val(key);
    err = store_write_err(store, mdb_del(store->txn, store->dbs[db], &mdb_key, NULL));
    if (err != ERR_NOT_FOUND) { /* which changes nothing */
        store_account(store, 0);
    }
    return err;
}

enum err store_due_put(struct store *store, const struct msg_id *id,
                       const struct store_standing *standing)
{
    uint8_t key[STORE_DUE_KEY_BYTES];
    store_due_key(key, standing->route, standing->due_q, id);
    uint8_t value[STORE_DUE_BYTES];
    be32_put(value, standing->flow);
    be32_put(value + 4, standing->size_kib);
    return store_put_sealed(store, STORE_DB_DUE, slice_of(key, sizeof key),
                            slice_of(value, sizeof value), 0);
}

/* Deletes whatever the index says of a message: a walk over the whole of it, for a case that takes
 * a damaged disk. */
static enum err due_purge(struct store *store, const struct msg_id *id)
{
    MDB_cursor *cursor;
    enum err err = store_cursor_open(store, store->txn, STORE_DB_DUE, &cursor);
    if (err != ERR_OK) {
        return err;
    }
    MDB_val key;
    MDB_val value;
    while (err == ERR_OK &&
           (err = store_cursor_get(store, cursor, &key, &value, MDB_NEXT)) == ERR_OK) {
        const uint8_t *bytes = key.mv_data;
        if (key.mv_size == STORE_DUE_KEY_BYTES &&
            memcmp(bytes + 12, id->bytes, MSG_ID_BYTES) == 0) {
            store_account(store, 0);
            err = store_write_err(store, mdb_cursor_del(cursor, 0));
        }
    }
    mdb_cursor_close(cursor);
    return err == ERR_NOT_FOUND ? ERR_OK : err;
}

/* The index follows from the states: where it does not say what they say it gives way, and is made
 * anew before it is read again. */
static enum err due_delete(struct store *store, const struct msg_id *id,
                           const struct store_standing *standing)
{
    uint8_t key[STORE_DUE_KEY_BYTES];
    store_due_key(key, standing->route, standing->due_q, id);
    enum err err = store_delete(store, STORE_DB_DUE, slice_of(key, sizeof key));
    if (err != ERR_NOT_FOUND) {
        return err;
    }
    store->due_stale = true;
    return due_purge(store, id);
}

static void count(struct store *store, const struct store_standing *standing)
{
    store->pending.count_by_state[standing->state]++;
    store->pending.promised_bytes += standing->promised_bytes;
    store_tally_add(store, standing, 1);
}

/* What is subtracted comes from the disk, so it is not trusted to have been added. */
static void uncount(struct store *store, const struct store_standing *standing)
{
    uint64_t *messages = &store->pending.count_by_state[standing->state];
    uint64_t *promised = &store->pending.promised_bytes;
    *messages -= u64_min(*messages, 1);
    *promised -= u64_min(*promised, standing->promised_bytes);
    store_tally_add(store, standing, -1);
}

/*
 * ---- messages ----
 */

enum err store_message_add(struct store *store, const struct msg_id *id, struct slice envelope,
                           struct slice state)
{
    CHECK(store->txn != NULL);
    struct record_envelope decoded;
    struct store_standing standing;
    if (record_envelope_get(envelope, &decoded) != ERR_OK ||
        store_standing_of(state, &standing) != ERR_OK) {
        return ERR_DAMAGED;
    }
    struct slice key = slice_of(id->bytes, MSG_ID_BYTES);
    enum err err = store_tally_room(store);
    if (err == ERR_OK) {
        err = store_intake_finish(store, id, &decoded);
    }
    if (err == ERR_OK) {
        err = store_put_sealed(store, STORE_DB_ENVELOPE, key, envelope, MDB_NOOVERWRITE);
    }
    if (err == ERR_OK) {
        err = store_put_sealed(store, STORE_DB_STATE, key, state, MDB_NOOVERWRITE);
    }
    if (err == ERR_OK && standing.indexed) {
        err = store_due_put(store, id, &standing);
    }
    if (err != ERR_OK) {
        return err;
    }
    count(store, &standing);
    store->pending.body_bytes += decoded.body_bytes;
    store->pending.last_id = u64_max(store->pending.last_id, msg_id_time_and_sequence(id));
    return ERR_OK;
}

/*
 * Takes the message off the due index and off the counts, as what its state record says.
 *   next   what it will stand as, or NULL; its own index entry is left alone when that one is the
 *          same
 */
static enum err unstand(struct store *store, const struct msg_id *id,
                        const struct store_standing *next)
{
    struct slice state;
    struct store_standing old;
    enum err err = store_tally_room(store);
    if (err != ERR_OK) {
        return err;
    }
    err = store_state_get(store, id, &state);
    if (err == ERR_OK) {
        err = store_standing_of(state, &old);
    }
    if (err == ERR_DAMAGED) {
        store->tallies_stale = true; /* it is counted there as what it was */
        err = due_purge(store, id);
        return err == ERR_OK ? store_recount(store, store->txn, id, &store->pending) : err;
    }
    if (err != ERR_OK) {
        return err;
    }
    uncount(store, &old);
    bool stays =
        next != NULL && next->indexed && next->route == old.route && next->due_q == old.due_q;
    return old.indexed && !stays ? due_delete(store, id, &old) : ERR_OK;
}

enum err store_message_update(struct store *store, const struct msg_id *id, struct slice state)
{
    CHECK(store->txn != NULL);
    struct store_standing standing;
    if (store_standing_of(state, &standing) != ERR_OK) {
        return ERR_DAMAGED;
    }
    enum err err = unstand(store, id, &standing);
    if (err == ERR_OK) {
        err = store_put_sealed(store, STORE_DB_STATE, slice_of(id->bytes, MSG_ID_BYTES), state, 0);
    }
    if (err == ERR_OK && standing.indexed) {
        err = store_due_put(store, id, &standing);
    }
    if (err == ERR_OK) {
        count(store, &standing);
    }
    return err;
}

/* What the message's body adds to the sum of all: what its envelope says, as when it came and as
 * store_recount has it, also where a chunk is lost. */
static enum err body_bytes_of(struct store *store, const struct msg_id *id, uint64_t *out_bytes)
{
    struct slice bytes;
    struct record_envelope envelope;
    enum err err = store_envelope_get(store, id, &bytes);
    if (err == ERR_OK && record_envelope_get(bytes, &envelope) == ERR_OK) {
        *out_bytes = envelope.body_bytes;
        return ERR_OK;
    }
    if (err != ERR_OK && err != ERR_DAMAGED && err != ERR_NOT_FOUND) {
        return err;
    }
    *out_bytes = store_chunks_bytes(store, store->txn, id);
    return ERR_OK;
}

/* An envelope without a state, or the other way round, is damage, and can be removed too. */
enum err store_message_remove(struct store *store, const struct msg_id *id, struct slice history)
{
    CHECK(store->txn != NULL);
    struct slice key = slice_of(id->bytes, MSG_ID_BYTES);
    enum err state_err = unstand(store, id, NULL);
    if (state_err == ERR_OK) {
        state_err = store_delete(store, STORE_DB_STATE, key);
    }
    if (state_err != ERR_OK && state_err != ERR_NOT_FOUND) {
        return state_err;
    }
    uint64_t bytes = 0;
    enum err err = body_bytes_of(store, id, &bytes);
    if (err == ERR_OK) {
        err = store_delete(store, STORE_DB_ENVELOPE, key);
    }
    if (err == ERR_NOT_FOUND && state_err == ERR_OK) {
        err = ERR_OK;
    }
    if (err == ERR_OK) {
        err = store_chunks_delete(store, id);
    }
    if (err == ERR_OK) {
        store->pending.body_bytes -= u64_min(bytes, store->pending.body_bytes);
        err = store_delete(store, STORE_DB_TRAIL, key);
        err = err == ERR_NOT_FOUND ? ERR_OK : err;
    }
    return err == ERR_OK && history.len > 0 ? store_history_put(store, id, history) : err;
}

/*
 * May a trail take so many bytes? The map has room for what has been promised at twice its size,
 * and trails are not promised: where one would take of that, it is not kept.
 */
static bool trail_has_room(const struct store *store, uint64_t bytes)
{
    uint64_t used = store_used_bytes(store, store->txn);
    uint64_t wanted = store->pending.promised_bytes + bytes + store->page_bytes;
    return used <= store->queue_bytes_max * 2 && wanted <= store->queue_bytes_max &&
           used + 2 * wanted <= store->queue_bytes_max * 2;
}

enum err store_trail_set(struct store *store, const struct msg_id *id, struct slice trail)
{
    CHECK(store->txn != NULL);
    struct record_trail decoded;
    if (record_trail_get(trail, &decoded) != ERR_OK) {
        return ERR_DAMAGED;
    }
    struct slice key = slice_of(id->bytes, MSG_ID_BYTES);
    MDB_val mdb_key = store_val(key);
    MDB_val value;
    enum err err =
        store_write_err(store, mdb_get(store->txn, store->dbs[STORE_DB_STATE], &mdb_key, &value));
    if (err != ERR_OK || !trail_has_room(store, trail.len)) {
        return err;
    }
    return store_put_sealed(store, STORE_DB_TRAIL, key, trail, 0);
}

enum err store_envelope_get(struct store *store, const struct msg_id *id, struct slice *out)
{
    CHECK(store->txn != NULL);
    return store_get_sealed(store, store->txn, STORE_DB_ENVELOPE, slice_of(id->bytes, MSG_ID_BYTES),
                            out);
}

enum err store_state_get(struct store *store, const struct msg_id *id, struct slice *out)
{
    CHECK(store->txn != NULL);
    return store_get_sealed(store, store->txn, STORE_DB_STATE, slice_of(id->bytes, MSG_ID_BYTES),
                            out);
}

enum err store_trail_get(struct store *store, const struct msg_id *id, struct slice *out)
{
    CHECK(store->txn != NULL);
    return store_get_sealed(store, store->txn, STORE_DB_TRAIL, slice_of(id->bytes, MSG_ID_BYTES),
                            out);
}

/*
 * ---- commit ----
 */

static enum err totals_put(struct store *store)
{
    if (store->txn_pages == 0) {
        store->pending.clock = store->committed.clock; /* time alone is no reason to write */
    }
    if (!store->summary_stale &&
        memcmp(&store->pending, &store->committed, sizeof store->pending) == 0) {
        return ERR_OK;
    }
    uint8_t bytes[STORE_TOTALS_BYTES];
    store_totals_encode(&store->pending, bytes);
    return store_put_sealed(store, STORE_DB_META, SLICE("summary"), slice_of(bytes, sizeof bytes),
                            0);
}

/* Makes the file long enough for whatever this transaction may have LMDB write. */
static enum err length_prepare(struct store *store)
{
    MDB_envinfo info;
    if (mdb_env_info(store->env, &info) != MDB_SUCCESS) {
        return ERR_IO;
    }
    /* a free-list record holds 8 bytes for each page */
    uint64_t pages =
        info.me_last_pgno + 1 + PAGES_PER_COMMIT + store->txn_pages + store->txn_pages / 128;
    uint64_t bytes = u64_min(pages * store->page_bytes, store->map_bytes);
    return bytes <= store->file_bytes ? ERR_OK : store_file_extend(store, bytes + FILE_STEP_BYTES);
}

/* A write that was cut short is EIO to LMDB: what it could not finish tells a full disk from a
 * broken one. */
static bool was_cut_short(const struct store *store, int code)
{
    return code == EIO && !store_disk_has(store, store->txn_pages * store->page_bytes);
}

/* After a failed commit: did LMDB stop because it could not write the meta page? It says so to
 * whoever begins next, and to nobody else. */
static enum err commit_failed(struct store *store, int code)
{
    MDB_txn *txn;
    int probe = mdb_txn_begin(store->env, NULL, 0, &txn);
    if (probe == MDB_SUCCESS) {
        mdb_txn_abort(txn);
        return was_cut_short(store, code) ? ERR_FULL : store_write_err(store, code);
    }
    store->writable = false;
    return ERR_IN_DOUBT;
}

enum err store_commit(struct store *store)
{
    CHECK(store->txn != NULL);
    enum err err = store->writable ? ERR_OK : ERR_IN_DOUBT; /* some call has met bad pages */
    if (err == ERR_OK) {
        err = store_tally_flush(store);
    }
    if (err == ERR_OK) {
        err = store_fresh_flush(store);
    }
    if (err == ERR_OK) {
        err = totals_put(store);
    }
    if (err == ERR_OK) {
        err = length_prepare(store);
    }
    if (err != ERR_OK) {
        store_abort(store);
        return err;
    }
    int code = mdb_txn_commit(store->txn);
    store->txn = NULL;
    if (code != MDB_SUCCESS) {
        return commit_failed(store, code);
    }
    store->committed = store->pending;
    store->summary_stale = false;
    store->tallies_stale = false;
    if (mdb_txn_renew(store->own) == MDB_SUCCESS) {
        store->used_bytes = store_used_bytes(store, store->own);
        mdb_txn_reset(store->own);
    }
    store_file_allocate(store);
    store_touched(store, store->txn_pages * (STORE_FAULT_BYTES / 16) / PAGES_PER_CHANGE);
    return ERR_OK;
}

/*
 * The pages in use are LMDB's own count, exact at this moment; a body takes whole pages and an
 * entry in the tree, at most 1/32 of its length more. Promised bytes are taken for spent. What is
 * left out is the pages that commits write anew before old ones are free again: the reserve is for
 * those. The history's pages have their own share of the map.
 */
bool store_has_room(const struct store *store, uint64_t bytes)
{
    uint64_t used = store->txn == NULL ? store->used_bytes : store_used_bytes(store, store->txn);
    uint64_t promised =
        store->txn == NULL ? store->committed.promised_bytes : store->pending.promised_bytes;
    uint64_t max = store->queue_bytes_max;
    if (bytes > max || used > max || promised > max) {
        return false;
    }
    if (used + promised + bytes + bytes / 32 + MESSAGE_BYTES > max) {
        return false;
    }
    return !store->disk_short || store_disk_has(store, bytes + FILE_STEP_BYTES);
}
