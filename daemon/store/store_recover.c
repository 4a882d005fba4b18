/*
 * What opening sets right, and the counts that it relies on.
 *
 * After a crash LMDB shows the last commit, whole. What is left to do is small: bodies whose
 * message never came are removed. Counts and due index are compared by their sizes, which costs
 * nothing; only when they differ, or the summary is damaged, are they made anew from the states.
 */
#include "daemon/store/store_internal.h"

/* Bodies removed in one transaction: a bound on its dirty pages. */
#define DISCARD_BATCH 256

void store_totals_encode(const struct store_totals *totals, uint8_t to[STORE_TOTALS_BYTES])
{
    for (size_t state = 0; state < MESSAGE_STATE_COUNT; state++) {
        be64_put(to + 8 * state, totals->count_by_state[state]);
    }
    to += (size_t)8 * MESSAGE_STATE_COUNT;
    be64_put(to, totals->body_bytes);
    be64_put(to + 8, totals->last_id);
    be64_put(to + 16, totals->promised_bytes);
    be64_put(to + 24, record_state_bytes_max(1));
    be64_put(to + 32, totals->history_count);
    be64_put(to + 40, totals->history_bytes);
    be64_put(to + 48, totals->clock.q_ms);
    be64_put(to + 56, totals->clock.wall_ms);
    be64_put(to + 64, totals->clock.boot_ms);
    be64_put(to + 72, totals->clock.boot_id);
}

/* False: the promises were counted by a program whose records have another bound. */
static bool totals_decode(const uint8_t *from, struct store_totals *out)
{
    for (size_t state = 0; state < MESSAGE_STATE_COUNT; state++) {
        out->count_by_state[state] = be64_get(from + 8 * state);
    }
    from += (size_t)8 * MESSAGE_STATE_COUNT;
    out->body_bytes = be64_get(from);
    out->last_id = be64_get(from + 8);
    out->promised_bytes = be64_get(from + 16);
    out->history_count = be64_get(from + 32);
    out->history_bytes = be64_get(from + 40);
    out->clock = (struct store_clock){
        .q_ms = be64_get(from + 48),
        .wall_ms = be64_get(from + 56),
        .boot_ms = be64_get(from + 64),
        .boot_id = be64_get(from + 72),
    };
    return be64_get(from + 24) == record_state_bytes_max(1);
}

static uint64_t entries(const struct store *store, MDB_txn *txn, enum store_db db)
{
    MDB_stat stat;
    return mdb_stat(txn, store->dbs[db], &stat) == MDB_SUCCESS ? stat.ms_entries : 0;
}

static void recount_state(struct slice key, struct slice value, struct store_totals *totals)
{
    struct slice state;
    struct store_standing standing;
    if (store_unseal(key, value, &state) != ERR_OK ||
        store_standing_of(state, &standing) != ERR_OK) {
        totals->count_by_state[MESSAGE_FAILED]++; /* nobody can send it: it waits for an operator */
        return;
    }
    totals->count_by_state[standing.state]++;
    totals->promised_bytes += standing.promised_bytes;
}

static void recount_envelope(const struct store *store, MDB_txn *txn, struct slice key,
                             struct slice value, struct store_totals *totals)
{
    struct msg_id id;
    memcpy(id.bytes, key.data, MSG_ID_BYTES);
    struct slice envelope;
    struct record_envelope decoded;
    if (store_unseal(key, value, &envelope) == ERR_OK &&
        record_envelope_get(envelope, &decoded) == ERR_OK) {
        totals->body_bytes += decoded.body_bytes;
        totals->last_id = u64_max(totals->last_id, msg_id_time_and_sequence(&id));
    } else {
        totals->body_bytes += store_chunks_bytes(store, txn, &id);
    }
}

/*
 * Counts all messages anew, in *totals; last_id never goes back.
 *   without   a message whose state is left out (it is about to be counted by the caller), or NULL
 */
enum err store_recount(struct store *store, MDB_txn *txn, const struct msg_id *without,
                       struct store_totals *totals)
{
    static const enum store_db walked[] = {STORE_DB_STATE, STORE_DB_ENVELOPE};
    struct store_totals fresh = {.last_id = totals->last_id, .clock = totals->clock};
    enum err err = ERR_OK;
    for (size_t index = 0; index < 2 && err == ERR_OK; index++) {
        MDB_cursor *cursor;
        err = store_cursor_open(store, txn, walked[index], &cursor);
        if (err != ERR_OK) {
            return err;
        }
        MDB_val mdb_key;
        MDB_val value;
        while ((err = store_cursor_get(store, cursor, &mdb_key, &value, MDB_NEXT)) == ERR_OK) {
            struct slice key = store_val_slice(mdb_key);
            if (key.len != MSG_ID_BYTES) {
                continue;
            }
            if (walked[index] == STORE_DB_ENVELOPE) {
                recount_envelope(store, txn, key, store_val_slice(value), &fresh);
            } else if (without == NULL || memcmp(key.data, without->bytes, MSG_ID_BYTES) != 0) {
                recount_state(key, store_val_slice(value), &fresh);
            }
        }
        mdb_cursor_close(cursor);
        err = err == ERR_NOT_FOUND ? ERR_OK : err;
    }
    if (err == ERR_OK) {
        err = store_history_recount(store, txn, &fresh);
    }
    if (err == ERR_OK) {
        *totals = fresh;
    }
    return err;
}

/* Has every database as many entries as the totals say? Of the failed messages, any number may
 * stand in the due index. Where there is no message, there are no bytes in bodies. */
static bool sizes_fit(const struct store *store, const struct store_totals *totals)
{
    uint64_t messages = 0;
    for (size_t state = 0; state < MESSAGE_STATE_COUNT; state++) {
        messages += totals->count_by_state[state];
    }
    uint64_t due = totals->count_by_state[MESSAGE_QUEUED] + totals->count_by_state[MESSAGE_TRASHED];
    uint64_t due_entries = entries(store, store->own, STORE_DB_DUE);
    return messages == entries(store, store->own, STORE_DB_STATE) &&
           (messages > 0 || totals->body_bytes == 0) &&
           messages == entries(store, store->own, STORE_DB_ENVELOPE) &&
           totals->history_count == entries(store, store->own, STORE_DB_HISTORY) &&
           due_entries >= due && due_entries - due <= totals->count_by_state[MESSAGE_FAILED];
}

/*
 * Reads the summary. *out_sound: it is whole, and the databases are as large as it says. When it
 * is not whole, it is counted anew, in memory.
 */
enum err store_totals_load(struct store *store, bool *out_sound)
{
    enum err err = store_err(mdb_txn_renew(store->own));
    if (err != ERR_OK) {
        return err;
    }
    struct slice bytes;
    struct store_totals totals = {0};
    err = store_get_sealed(store, store->own, STORE_DB_META, SLICE("summary"), &bytes);
    bool whole = err == ERR_OK && bytes.len == STORE_TOTALS_BYTES;
    if (whole) {
        whole = totals_decode(bytes.data, &totals);
    }
    if (!whole) {
        err = store_recount(store, store->own, NULL, &totals);
    }
    bool sound = whole && sizes_fit(store, &totals);
    if (err == ERR_OK && sound) {
        err = store_tally_check(store, store->own, &totals, &sound);
    }
    if (err == ERR_OK) {
        *out_sound = sound;
        store->committed = totals;
        store->used_bytes = store_used_bytes(store, store->own);
    }
    mdb_txn_reset(store->own);
    return err;
}

static enum err due_fill(struct store *store)
{
    MDB_cursor *cursor;
    enum err err = store_cursor_open(store, store->txn, STORE_DB_STATE, &cursor);
    if (err != ERR_OK) {
        return err;
    }
    MDB_val mdb_key;
    MDB_val value;
    while ((err = store_cursor_get(store, cursor, &mdb_key, &value, MDB_NEXT)) == ERR_OK) {
        struct slice key = store_val_slice(mdb_key);
        struct slice state;
        struct store_standing standing;
        if (key.len != MSG_ID_BYTES ||
            store_unseal(key, store_val_slice(value), &state) != ERR_OK ||
            store_standing_of(state, &standing) != ERR_OK || !standing.indexed) {
            continue;
        }
        struct msg_id id;
        memcpy(id.bytes, key.data, MSG_ID_BYTES);
        err = store_due_put(store, &id, &standing);
        if (err != ERR_OK) {
            break;
        }
    }
    mdb_cursor_close(cursor);
    return err == ERR_NOT_FOUND ? ERR_OK : err;
}

/* Makes summary, rows of counts and due index anew from the records, in the open transaction: the
 * rows at its commit. */
enum err store_derive(struct store *store)
{
    store->summary_stale = true;
    store->tallies_stale = true;
    store->txn_pages += 64 + entries(store, store->txn, STORE_DB_DUE) / 32;
    enum err err = store_write_err(store, mdb_drop(store->txn, store->dbs[STORE_DB_DUE], 0));
    if (err == ERR_OK) {
        err = due_fill(store);
    }
    return err == ERR_OK ? store_recount(store, store->txn, NULL, &store->pending) : err;
}

/* The same in a transaction of its own. */
enum err store_rebuild(struct store *store)
{
    enum err err = store_begin(store);
    if (err != ERR_OK) {
        return err;
    }
    err = store_derive(store);
    if (err != ERR_OK) {
        store_abort(store);
        return err;
    }
    return store_commit(store);
}

/* The first entries of the intake list, at most max. */
static enum err intake_list(struct store *store, struct msg_id *out, size_t max, size_t *out_count)
{
    MDB_cursor *cursor;
    enum err err = store_cursor_open(store, store->txn, STORE_DB_INTAKE, &cursor);
    if (err != ERR_OK) {
        return err;
    }
    size_t count = 0;
    MDB_val key;
    MDB_val value;
    while (count < max &&
           (err = store_cursor_get(store, cursor, &key, &value, MDB_NEXT)) == ERR_OK) {
        if (key.mv_size != MSG_ID_BYTES) {
            err = ERR_DAMAGED;
            break;
        }
        memcpy(out[count++].bytes, key.mv_data, MSG_ID_BYTES);
    }
    mdb_cursor_close(cursor);
    *out_count = count;
    return err == ERR_NOT_FOUND ? ERR_OK : err;
}

/* Removes every body that was being received when the last owner ended, and whatever else stands in
 * the list. A crash in between is harmless: the next opening goes on. */
enum err store_intake_clear(struct store *store, uint64_t *out_discarded)
{
    struct msg_id ids[DISCARD_BATCH];
    size_t count = DISCARD_BATCH;
    while (count == DISCARD_BATCH) {
        enum err err = store_begin(store);
        if (err != ERR_OK) {
            return err;
        }
        err = intake_list(store, ids, DISCARD_BATCH, &count);
        uint64_t discarded = 0;
        for (size_t index = 0; index < count && err == ERR_OK; index++) {
            bool removed = false;
            err = store_intake_drop(store, &ids[index], &removed);
            discarded += removed;
        }
        if (err != ERR_OK) {
            store_abort(store);
            return err;
        }
        err = store_commit(store);
        if (err != ERR_OK) {
            return err;
        }
        *out_discarded += discarded;
    }
    return ERR_OK;
}
