/*
 * From format version 1 to the present one, at the first opening by a program that knows it.
 *
 * The first transaction makes what version 1 did not have and sets the version, so that an older
 * program refuses from then on. Then records are rewritten in the order of ids, a batch a
 * transaction; each notes how far it came, so that a crash costs one batch. The last one makes anew
 * what follows from the records, and removes the note. A record that is damaged stays as it is, and
 * is found damaged by whoever reads it.
 */
#include "daemon/store/store_internal.h"
#include "schema/record_v1.h"

#include <stdlib.h>

/* Bounds on what one transaction writes. */
#define BATCH_MESSAGES 64
#define BATCH_BYTES    (4u << 20)

/* Version 1's summary: three counts, bytes of bodies, newest id, two that are of no use now. */
#define SUMMARY_V1_BYTES   56
#define SUMMARY_V1_LAST_ID 32

#define NOTE_KEY "upgrade"

struct upgrade {
    struct store *store;
    struct msg_id last; /* that was rewritten */
    uint8_t *memory;    /* owned; three parts of part_bytes each */
    size_t part_bytes;
    struct buf list, envelope, state;
    uint64_t bytes; /* written by this batch */
    uint64_t upgraded;
};

static enum err note_put(struct store *store, const struct msg_id *last)
{
    return store_put_sealed(store, STORE_DB_META, SLICE(NOTE_KEY),
                            slice_of(last->bytes, MSG_ID_BYTES), 0);
}

/* A note that is damaged says at least that there is something to do: from the beginning, where
 * records of the present version are left alone. */
static enum err note_get(struct store *store, MDB_txn *txn, struct msg_id *out_last)
{
    static const struct msg_id first_id = {{0}};
    struct slice bytes;
    enum err err = store_get_sealed(store, txn, STORE_DB_META, SLICE(NOTE_KEY), &bytes);
    if (err == ERR_OK && bytes.len == MSG_ID_BYTES) {
        memcpy(out_last->bytes, bytes.data, MSG_ID_BYTES);
    } else {
        *out_last = first_id;
    }
    return err == ERR_DAMAGED ? ERR_OK : err;
}

static enum err databases_make(struct store *store)
{
    static const struct msg_id first_id = {{0}};
    for (enum store_db db = 0; db < STORE_DB_COUNT; db++) {
        store_account(store, 0);
        enum err err = store_write_err(
            store, mdb_dbi_open(store->txn, store_db_names[db], MDB_CREATE, &store->dbs[db]));
        if (err != ERR_OK) {
            return err;
        }
    }
    uint8_t format[STORE_FORMAT_BYTES];
    store_format_encode(store->chunk_bytes, store->box, format);
    enum err err =
        store_put(store, STORE_DB_META, SLICE("format"), slice_of(format, sizeof format), 0);
    return err == ERR_OK ? note_put(store, &first_id) : err;
}

enum err store_upgrade_begin(struct store *store)
{
    enum err err = store_begin(store);
    if (err != ERR_OK) {
        return err;
    }
    err = databases_make(store);
    if (err != ERR_OK) {
        store_abort(store);
        return err;
    }
    return store_commit(store);
}

enum err store_upgrade_pending(struct store *store, bool *out_pending)
{
    enum err err = store_err(mdb_txn_renew(store->own));
    if (err != ERR_OK) {
        return err;
    }
    struct msg_id last;
    err = note_get(store, store->own, &last);
    mdb_txn_reset(store->own);
    *out_pending = err == ERR_OK;
    return err == ERR_NOT_FOUND ? ERR_OK : err;
}

/*
 * ---- one message ----
 */

/* The first id behind last in a database. ERR_NOT_FOUND. */
static enum err id_after(struct store *store, enum store_db db, const struct msg_id *last,
                         struct msg_id *out)
{
    MDB_cursor *cursor;
    enum err err = store_cursor_open(store, store->txn, db, &cursor);
    if (err != ERR_OK) {
        return err;
    }
    MDB_val key = store_val(slice_of(last->bytes, MSG_ID_BYTES));
    MDB_val value;
    err = store_cursor_get(store, cursor, &key, &value, MDB_SET_RANGE);
    while (err == ERR_OK &&
           (key.mv_size != MSG_ID_BYTES || memcmp(key.mv_data, last->bytes, MSG_ID_BYTES) == 0)) {
        err = store_cursor_get(store, cursor, &key, &value, MDB_NEXT);
    }
    if (err == ERR_OK) {
        memcpy(out->bytes, key.mv_data, MSG_ID_BYTES);
    }
    mdb_cursor_close(cursor);
    return err;
}

/* The first message behind last, one of whose records may be missing. */
static enum err message_after(struct store *store, const struct msg_id *last, struct msg_id *out)
{
    struct msg_id of_state;
    enum err err = id_after(store, STORE_DB_ENVELOPE, last, out);
    if (err != ERR_OK && err != ERR_NOT_FOUND) {
        return err;
    }
    enum err state_err = id_after(store, STORE_DB_STATE, last, &of_state);
    if (state_err != ERR_OK) {
        return state_err == ERR_NOT_FOUND ? err : state_err;
    }
    if (err == ERR_NOT_FOUND || msg_id_compare(&of_state, out) < 0) {
        *out = of_state;
    }
    return ERR_OK;
}

/* Room for lists and records made of one of so many bytes: what a recipient needs more now is less
 * than what it took at least. */
static enum err memory_prepare(struct upgrade *u, size_t bytes)
{
    size_t part_bytes = 2 * bytes + 1024;
    if (part_bytes > u->part_bytes) {
        uint8_t *memory = realloc(u->memory, 3 * part_bytes);
        if (memory == NULL) {
            return ERR_NO_MEMORY;
        }
        u->memory = memory;
        u->part_bytes = part_bytes;
    }
    buf_init(&u->list, u->memory, u->part_bytes);
    buf_init(&u->envelope, u->memory + u->part_bytes, u->part_bytes);
    buf_init(&u->state, u->memory + 2 * u->part_bytes, u->part_bytes);
    return ERR_OK;
}

static void envelope_convert(struct upgrade *u, struct record_envelope envelope)
{
    struct slice rest = envelope.recipients;
    struct slice path;
    buf_reset(&u->list);
    while (record_v1_recipient_next(&rest, &path)) {
        record_recipient_put(&u->list, path);
    }
    envelope.recipients = buf_slice(&u->list);
    record_envelope_put(&u->envelope, &envelope);
    CHECK(!u->list.overflow && !u->envelope.overflow);
}

/* What a recipient that waits is now, which version 1 did not tell apart. */
static enum recipient_state waiting(const struct record_recipient *r, uint32_t attempts)
{
    if (attempts == 0) {
        return RECIPIENT_QUEUED;
    }
    return r->outcome == OUTCOME_IN_DOUBT ? RECIPIENT_IN_DOUBT : RECIPIENT_DEFERRED;
}

/* envelope: the message's, as far as it is known; body_bytes are. */
static void state_convert(struct upgrade *u, struct record_state state,
                          const struct record_envelope *envelope)
{
    struct slice rest = state.recipients;
    struct record_recipient r;
    buf_reset(&u->list);
    while (record_v1_fate_next(&rest, &r)) {
        r.state = r.state == RECIPIENT_QUEUED ? waiting(&r, state.attempts) : r.state;
        record_fate_put(&u->list, &r);
    }
    state.recipients = buf_slice(&u->list);
    state.reason = record_reason(state.recipients);
    state.accepted_q = envelope->arrived_ms;
    state.device = envelope->device.len > 0 ? envelope->device : envelope->client;
    state.flow = record_flow(state.device, envelope->sender);
    state.size_kib = u32_from(u64_min((envelope->body_bytes + 1023) / 1024, UINT32_MAX));
    record_state_put(&u->state, &state);
    CHECK(!u->list.overflow && !u->state.overflow);
}

/* Reads both records before either is written: what LMDB lends does not outlive a change. */
static enum err message_convert(struct upgrade *u, const struct msg_id *id)
{
    struct store *store = u->store;
    struct slice old_envelope = slice_of(NULL, 0);
    struct slice old_state = slice_of(NULL, 0);
    enum err err = store_envelope_get(store, id, &old_envelope);
    if (err != ERR_OK && err != ERR_NOT_FOUND && err != ERR_DAMAGED) {
        return err;
    }
    err = store_state_get(store, id, &old_state);
    if (err != ERR_OK && err != ERR_NOT_FOUND && err != ERR_DAMAGED) {
        return err;
    }
    err = memory_prepare(u, old_envelope.len + old_state.len);
    if (err != ERR_OK) {
        return err;
    }
    struct record_envelope envelope = {0};
    struct record_state state;
    if (record_v1_envelope_get(old_envelope, &envelope) == ERR_OK) {
        envelope_convert(u, envelope);
    } else {
        envelope.body_bytes = store_chunks_bytes(store, store->txn, id);
    }
    if (record_v1_state_get(old_state, &state) == ERR_OK) {
        envelope.arrived_ms = u->envelope.len > 0 ? envelope.arrived_ms : state.changed_q;
        state_convert(u, state, &envelope);
    }
    return ERR_OK;
}

static enum err message_upgrade(struct upgrade *u, const struct msg_id *id)
{
    struct slice key = slice_of(id->bytes, MSG_ID_BYTES);
    enum err err = message_convert(u, id);
    if (err == ERR_OK && u->envelope.len > 0) {
        err = store_put_sealed(u->store, STORE_DB_ENVELOPE, key, buf_slice(&u->envelope), 0);
    }
    if (err == ERR_OK && u->state.len > 0) {
        err = store_put_sealed(u->store, STORE_DB_STATE, key, buf_slice(&u->state), 0);
    }
    u->bytes += u->envelope.len + u->state.len;
    u->upgraded += u->envelope.len + u->state.len > 0;
    return err;
}

/*
 * ---- batches ----
 */

/* The last one: what follows from the records, and no note any more. */
static enum err finish(struct upgrade *u)
{
    struct store *store = u->store;
    struct slice bytes;
    if (store_get_sealed(store, store->txn, STORE_DB_META, SLICE("summary"), &bytes) == ERR_OK &&
        bytes.len == SUMMARY_V1_BYTES) {
        store->pending.last_id = be64_get(bytes.data + SUMMARY_V1_LAST_ID);
    }
    enum err err = store_derive(store);
    return err == ERR_OK ? store_delete(store, STORE_DB_META, SLICE(NOTE_KEY)) : err;
}

/* *out_done: there was nothing left. */
static enum err batch(struct upgrade *u, bool *out_done)
{
    struct store *store = u->store;
    enum err err = note_get(store, store->txn, &u->last);
    u->bytes = 0;
    for (size_t count = 0; count < BATCH_MESSAGES && u->bytes < BATCH_BYTES && err == ERR_OK;
         count++) {
        struct msg_id id;
        err = message_after(store, &u->last, &id);
        if (err == ERR_OK) {
            err = message_upgrade(u, &id);
            u->last = id;
        }
    }
    if (err == ERR_OK) {
        return note_put(store, &u->last);
    }
    *out_done = err == ERR_NOT_FOUND;
    return err == ERR_NOT_FOUND ? finish(u) : err;
}

enum err store_upgrade_run(struct store *store, uint64_t *out_upgraded)
{
    struct upgrade u = {.store = store};
    bool done = false;
    enum err err = ERR_OK;
    while (err == ERR_OK && !done) {
        err = store_begin(store);
        if (err != ERR_OK) {
            break;
        }
        err = batch(&u, &done);
        if (err == ERR_OK) {
            err = store_commit(store);
        } else {
            store_abort(store);
        }
    }
    free(u.memory);
    if (err == ERR_OK) {
        *out_upgraded = u.upgraded;
    }
    return err;
}
