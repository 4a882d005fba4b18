/*
 * The writing half of the store: one transaction at a time, by the queue thread.
 *
 * Every change goes through store_put and store_delete, which keep a bound on the pages that the
 * transaction may add to the file; the file is made that long before the commit. So a file that is
 * shorter than its newest meta page says was cut off by somebody else, and opening it says so.
 */
#include "daemon/store/store_internal.h"

/* A change rewrites the path from root to leaf; trees here are at most 5 high. The rest is for
 * pages that split. */
#define PAGES_PER_CHANGE 8u
/* Root, summary and free list of a transaction that changes nothing else. */
#define PAGES_PER_COMMIT 64u
/* Length by which a file grows, so that most commits need not ask. */
#define FILE_STEP_BYTES (4u << 20)
/* Sum of what a new message takes beside its body: envelope, state, index, half-full pages. */
#define MESSAGE_BYTES 4096u

/* A body that is still being received, from the first piece on. */
struct intake {
    uint32_t pieces;
    uint64_t bytes;
};

#define INTAKE_BYTES 12

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

static void account(struct store *store, uint64_t value_bytes)
{
    store->txn_pages += PAGES_PER_CHANGE + value_bytes / store->page_bytes;
}

enum err store_put(struct store *store, enum store_db db, struct slice key, struct slice value,
                   unsigned flags)
{
    account(store, value.len);
    MDB_val mdb_key = store_val(key);
    MDB_val mdb_value = store_val(value);
    return store_err(mdb_put(store->txn, store->dbs[db], &mdb_key, &mdb_value, flags));
}

/* Writes the value into the page that LMDB sets aside for it, with its seal behind. */
enum err store_put_sealed(struct store *store, enum store_db db, struct slice key,
                          struct slice bytes, unsigned flags)
{
    account(store, bytes.len);
    MDB_val mdb_key = store_val(key);
    MDB_val place = {.mv_size = bytes.len + STORE_SEAL_BYTES};
    enum err err = store_err(
        mdb_put(store->txn, store->dbs[db], &mdb_key, &place, flags | (unsigned)MDB_RESERVE));
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
    account(store, 0);
    MDB_val mdb_key = store_val(key);
    return store_err(mdb_del(store->txn, store->dbs[db], &mdb_key, NULL));
}

static enum err due_put(struct store *store, const struct msg_id *id,
                        const struct store_standing *standing)
{
    uint8_t key[STORE_DUE_KEY_BYTES];
    store_due_key(key, standing->route, standing->due_ms, id);
    return store_put_sealed(store, STORE_DB_DUE, slice_of(key, sizeof key), slice_of(NULL, 0), 0);
}

static enum err due_delete(struct store *store, const struct msg_id *id,
                           const struct store_standing *standing)
{
    uint8_t key[STORE_DUE_KEY_BYTES];
    store_due_key(key, standing->route, standing->due_ms, id);
    enum err err = store_delete(store, STORE_DB_DUE, slice_of(key, sizeof key));
    return err == ERR_NOT_FOUND ? ERR_DAMAGED : err;
}

static void count(struct store *store, const struct store_standing *standing)
{
    store->pending.count_by_state[standing->state]++;
    store->pending.promised_bytes += standing->promised_bytes;
}

/* What is subtracted comes from the disk, so it is not trusted to have been added. */
static void uncount(struct store *store, const struct store_standing *standing)
{
    uint64_t *messages = &store->pending.count_by_state[standing->state];
    uint64_t *promised = &store->pending.promised_bytes;
    *messages -= u64_min(*messages, 1);
    *promised -= u64_min(*promised, standing->promised_bytes);
}

/*
 * ---- bodies ----
 */

static enum err intake_get(const struct store *store, const struct msg_id *id, struct intake *out)
{
    struct slice bytes;
    enum err err = store_get_sealed(store, store->txn, STORE_DB_INTAKE,
                                    slice_of(id->bytes, MSG_ID_BYTES), &bytes);
    if (err == ERR_OK && bytes.len != INTAKE_BYTES) {
        err = ERR_DAMAGED;
    }
    if (err != ERR_OK) {
        return err;
    }
    *out = (struct intake){.pieces = be32_get(bytes.data), .bytes = be64_get(bytes.data + 4)};
    return ERR_OK;
}

static enum err intake_put(struct store *store, const struct msg_id *id,
                           const struct intake *intake)
{
    uint8_t bytes[INTAKE_BYTES];
    be32_put(bytes, intake->pieces);
    be64_put(bytes + 4, intake->bytes);
    return store_put_sealed(store, STORE_DB_INTAKE, slice_of(id->bytes, MSG_ID_BYTES),
                            slice_of(bytes, sizeof bytes), 0);
}

static enum err chunk_put(struct store *store, const struct msg_id *id, uint32_t index,
                          struct slice bytes)
{
    uint8_t key[STORE_CHUNK_KEY_BYTES];
    store_chunk_key(key, id, index);
    account(store, bytes.len);
    MDB_val mdb_key = store_val(slice_of(key, sizeof key));
    MDB_val place = {.mv_size = STORE_CHUNK_HEAD_BYTES + bytes.len};
    enum err err = store_err(mdb_put(store->txn, store->dbs[STORE_DB_CHUNK], &mdb_key, &place,
                                     MDB_RESERVE | MDB_NOOVERWRITE));
    if (err != ERR_OK) {
        return err;
    }
    uint8_t *to = place.mv_data;
    be32_put(to, u32_from(bytes.len));
    memcpy(to + STORE_CHUNK_HEAD_BYTES, bytes.data, bytes.len);
    be32_put(to + 4, store_chunk_crc(slice_of(key, sizeof key), bytes));
    return ERR_OK;
}

enum err store_body_append(struct store *store, const struct msg_id *id, uint32_t piece_index,
                           struct slice bytes)
{
    CHECK(store->txn != NULL && bytes.len <= store->piece_bytes);
    struct intake intake = {0};
    enum err err = intake_get(store, id, &intake);
    if (err != ERR_OK && err != ERR_NOT_FOUND) {
        return err;
    }
    CHECK(piece_index == intake.pieces);
    CHECK(intake.bytes == (uint64_t)intake.pieces * store->piece_bytes); /* the last was full */
    uint32_t chunk_index = u32_from(intake.bytes / store->chunk_bytes);
    intake.pieces++;
    intake.bytes += bytes.len;
    store->pending.last_id = u64_max(store->pending.last_id, msg_id_time_and_sequence(id));
    err = intake_put(store, id, &intake);
    while (err == ERR_OK && bytes.len > 0) {
        err = chunk_put(store, id, chunk_index++, slice_head(bytes, store->chunk_bytes));
        bytes = slice_tail(bytes, store->chunk_bytes);
    }
    return err;
}

/*
 * Deletes all chunks of a body; *out_bytes: how much of the body they held. By the lengths that
 * LMDB keeps, which a damaged value does not change.
 */
enum err store_chunks_delete(struct store *store, const struct msg_id *id, uint64_t *out_bytes)
{
    MDB_cursor *cursor;
    enum err err = store_err(mdb_cursor_open(store->txn, store->dbs[STORE_DB_CHUNK], &cursor));
    if (err != ERR_OK) {
        return err;
    }
    uint8_t first[STORE_CHUNK_KEY_BYTES];
    store_chunk_key(first, id, 0);
    MDB_val key = store_val(slice_of(first, sizeof first));
    MDB_val value;
    uint64_t bytes = 0;
    err = store_err(mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE));
    while (err == ERR_OK && key.mv_size == sizeof first &&
           memcmp(key.mv_data, id->bytes, MSG_ID_BYTES) == 0) {
        bytes += value.mv_size - size_min(value.mv_size, STORE_CHUNK_HEAD_BYTES);
        account(store, 0);
        err = store_err(mdb_cursor_del(cursor, 0));
        if (err == ERR_OK) {
            /* Freeing a run reads its first page, and the kernel maps its neighbours with it: those
             * of other bodies, where several came in at once. */
            store_touched(store, STORE_FAULT_BYTES);
            err = store_err(mdb_cursor_get(cursor, &key, &value, MDB_NEXT));
        }
    }
    mdb_cursor_close(cursor);
    if (err == ERR_OK || err == ERR_NOT_FOUND) {
        *out_bytes = bytes;
        return ERR_OK;
    }
    return err;
}

enum err store_body_discard(struct store *store, const struct msg_id *id)
{
    CHECK(store->txn != NULL);
    enum err err = store_delete(store, STORE_DB_INTAKE, slice_of(id->bytes, MSG_ID_BYTES));
    if (err == ERR_NOT_FOUND) {
        return ERR_OK; /* every body without a message has such an entry */
    }
    uint64_t bytes;
    return err == ERR_OK ? store_chunks_delete(store, id, &bytes) : err;
}

/*
 * ---- messages ----
 */

/* Takes the body off the list of those being received and checks that it is the envelope's. */
static enum err intake_finish(struct store *store, const struct msg_id *id,
                              const struct record_envelope *envelope)
{
    struct intake intake = {0};
    enum err err = intake_get(store, id, &intake);
    if (err == ERR_OK) {
        err = store_delete(store, STORE_DB_INTAKE, slice_of(id->bytes, MSG_ID_BYTES));
    } else if (err == ERR_NOT_FOUND) {
        err = ERR_OK; /* an empty body */
    }
    if (err == ERR_OK) {
        CHECK(envelope->chunk_count == intake.pieces);
        CHECK(envelope->body_bytes == intake.bytes);
    }
    return err;
}

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
    enum err err = intake_finish(store, id, &decoded);
    if (err == ERR_OK) {
        err = store_put_sealed(store, STORE_DB_ENVELOPE, key, envelope, MDB_NOOVERWRITE);
    }
    if (err == ERR_OK) {
        err = store_put_sealed(store, STORE_DB_STATE, key, state, MDB_NOOVERWRITE);
    }
    if (err == ERR_OK && standing.state == MESSAGE_QUEUED) {
        err = due_put(store, id, &standing);
    }
    if (err != ERR_OK) {
        return err;
    }
    count(store, &standing);
    store->pending.body_bytes += decoded.body_bytes;
    store->pending.last_id = u64_max(store->pending.last_id, msg_id_time_and_sequence(id));
    return ERR_OK;
}

/* Deletes whatever the index says of a message whose state record cannot be read: a walk over the
 * whole index, for a case that takes a damaged disk. */
static enum err due_purge(struct store *store, const struct msg_id *id)
{
    MDB_cursor *cursor;
    enum err err = store_err(mdb_cursor_open(store->txn, store->dbs[STORE_DB_DUE], &cursor));
    if (err != ERR_OK) {
        return err;
    }
    MDB_val key;
    MDB_val value;
    err = store_err(mdb_cursor_get(cursor, &key, &value, MDB_FIRST));
    while (err == ERR_OK) {
        const uint8_t *bytes = key.mv_data;
        if (key.mv_size == STORE_DUE_KEY_BYTES &&
            memcmp(bytes + 12, id->bytes, MSG_ID_BYTES) == 0) {
            account(store, 0);
            err = store_err(mdb_cursor_del(cursor, 0));
            break;
        }
        err = store_err(mdb_cursor_get(cursor, &key, &value, MDB_NEXT));
    }
    mdb_cursor_close(cursor);
    return err == ERR_NOT_FOUND ? ERR_OK : err;
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
    enum err err = store_get_sealed(store, store->txn, STORE_DB_STATE,
                                    slice_of(id->bytes, MSG_ID_BYTES), &state);
    if (err == ERR_OK) {
        err = store_standing_of(state, &old);
    }
    if (err == ERR_DAMAGED) {
        err = due_purge(store, id);
        return err == ERR_OK ? store_recount(store, store->txn, id, &store->pending) : err;
    }
    if (err != ERR_OK) {
        return err;
    }
    uncount(store, &old);
    bool stays = next != NULL && next->state == MESSAGE_QUEUED && next->route == old.route &&
                 next->due_ms == old.due_ms;
    return old.state == MESSAGE_QUEUED && !stays ? due_delete(store, id, &old) : ERR_OK;
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
    if (err == ERR_OK && standing.state == MESSAGE_QUEUED) {
        err = due_put(store, id, &standing);
    }
    if (err == ERR_OK) {
        count(store, &standing);
    }
    return err;
}

/* An envelope without a state, or the other way round, is damage, and can be removed too. */
enum err store_message_remove(struct store *store, const struct msg_id *id)
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
    enum err err = store_delete(store, STORE_DB_ENVELOPE, key);
    if (err == ERR_NOT_FOUND && state_err == ERR_OK) {
        err = ERR_OK;
    }
    uint64_t bytes = 0;
    if (err == ERR_OK) {
        err = store_chunks_delete(store, id, &bytes);
    }
    if (err == ERR_OK) {
        store->pending.body_bytes -= u64_min(bytes, store->pending.body_bytes);
    }
    return err;
}

enum err store_state_get(struct store *store, const struct msg_id *id, struct buf *to)
{
    CHECK(store->txn != NULL);
    struct slice state;
    enum err err = store_get_sealed(store, store->txn, STORE_DB_STATE,
                                    slice_of(id->bytes, MSG_ID_BYTES), &state);
    if (err != ERR_OK) {
        return err;
    }
    if (state.len > buf_room(to)) {
        return ERR_LIMIT;
    }
    buf_put(to, state);
    return ERR_OK;
}

/*
 * ---- commit ----
 */

static enum err totals_put(struct store *store)
{
    if (memcmp(&store->pending, &store->committed, sizeof store->pending) == 0) {
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

/* After a failed commit: did LMDB stop because it could not write the meta page? It says so to
 * whoever begins next, and to nobody else. */
static enum err commit_failed(struct store *store, int code)
{
    MDB_txn *txn;
    int probe = mdb_txn_begin(store->env, NULL, 0, &txn);
    if (probe == MDB_SUCCESS) {
        mdb_txn_abort(txn);
        return store_err(code);
    }
    store->writable = false;
    return ERR_IN_DOUBT;
}

enum err store_commit(struct store *store)
{
    CHECK(store->txn != NULL);
    enum err err = totals_put(store);
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
 * those.
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
