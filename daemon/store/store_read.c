/*
 * The reading half of the store: the due index for the queue thread, and readers for everybody.
 * Each call is one read transaction that ends before the call does.
 */
#include "daemon/store/store_internal.h"

#include <stdlib.h>
#include <unistd.h>

/*
 * ---- the due index ----
 */

/* Renews the queue thread's read transaction and its cursor. */
static enum err own_begin(struct store *store)
{
    CHECK(store->txn == NULL);
    enum err err = store_err(mdb_txn_renew(store->own));
    if (err != ERR_OK) {
        return err;
    }
    err = store_err(mdb_cursor_renew(store->own, store->due_cursor));
    if (err != ERR_OK) {
        mdb_txn_reset(store->own);
    }
    return err;
}

/* Moves to the first entry at or after key and takes it apart. ERR_NOT_FOUND at the end;
 * ERR_DAMAGED: the key there is not as it was written. */
static enum err due_get(struct store *store, MDB_val *key, MDB_cursor_op op, uint32_t *out_route,
                        struct store_due *out)
{
    MDB_val value;
    enum err err = store_err(mdb_cursor_get(store->due_cursor, key, &value, op));
    if (err != ERR_OK) {
        return err;
    }
    struct slice weight;
    if (key->mv_size != STORE_DUE_KEY_BYTES ||
        store_unseal(store_val_slice(*key), store_val_slice(value), &weight) != ERR_OK ||
        weight.len != STORE_DUE_BYTES) {
        return ERR_DAMAGED;
    }
    const uint8_t *bytes = key->mv_data;
    *out_route = be32_get(bytes);
    out->due_q = be64_get(bytes + 4);
    memcpy(out->id.bytes, bytes + 12, MSG_ID_BYTES);
    out->flow = be32_get(weight.data);
    out->size_kib = be32_get(weight.data + 4);
    return ERR_OK;
}

static enum err due_collect(struct store *store, uint32_t route, const struct store_due *after,
                            struct store_due *out, size_t max, size_t *out_count)
{
    static const struct msg_id first_id = {{0}};
    uint8_t start[STORE_DUE_KEY_BYTES];
    store_due_key(start, route, after == NULL ? 0 : after->due_q,
                  after == NULL ? &first_id : &after->id);
    enum err err = own_begin(store);
    if (err != ERR_OK) {
        return err;
    }
    size_t count = 0;
    MDB_val key = store_val(slice_of(start, sizeof start));
    MDB_cursor_op op = MDB_SET_RANGE;
    while (count < max) {
        struct store_due due;
        uint32_t due_route;
        err = due_get(store, &key, op, &due_route, &due);
        if (err != ERR_OK || due_route != route) {
            break;
        }
        bool is_start = op == MDB_SET_RANGE && after != NULL && due.due_q == after->due_q &&
                        msg_id_compare(&due.id, &after->id) == 0;
        if (!is_start) {
            out[count++] = due;
        }
        op = MDB_NEXT;
    }
    mdb_txn_reset(store->own);
    *out_count = count;
    return err == ERR_NOT_FOUND ? ERR_OK : err;
}

static enum err routes_collect(struct store *store, uint32_t *out_routes, size_t max,
                               size_t *out_count)
{
    static const struct msg_id first_id = {{0}};
    enum err err = own_begin(store);
    if (err != ERR_OK) {
        return err;
    }
    size_t count = 0;
    uint64_t from = 0;
    while (count < max && from <= UINT32_MAX) {
        uint8_t start[STORE_DUE_KEY_BYTES];
        store_due_key(start, (uint32_t)from, 0, &first_id);
        MDB_val key = store_val(slice_of(start, sizeof start));
        struct store_due due;
        uint32_t route;
        err = due_get(store, &key, MDB_SET_RANGE, &route, &due);
        if (err != ERR_OK) {
            break;
        }
        out_routes[count++] = route;
        from = (uint64_t)route + 1;
    }
    mdb_txn_reset(store->own);
    *out_count = count;
    return err == ERR_NOT_FOUND ? ERR_OK : err;
}

/*
 * An index that is damaged, or of which one entry was not where its state says, would hide messages
 * or have them sent before their time: it is made anew from the states, once. What is damaged still
 * after that is the caller's to report.
 */
static enum err due_make_anew(struct store *store)
{
    store->due_stale = false;
    return store->read_only ? ERR_DAMAGED : store_rebuild(store);
}

/* Before it is read. One that could not be made anew for want of room is read as it is. */
static enum err due_freshen(struct store *store)
{
    enum err err = store->due_stale ? due_make_anew(store) : ERR_OK;
    return err == ERR_IN_DOUBT || err == ERR_IO ? err : ERR_OK;
}

size_t store_due_after(struct store *store, uint32_t route, const struct store_due *after,
                       struct store_due *out, size_t max, enum err *out_err)
{
    size_t count = 0;
    enum err err = due_freshen(store);
    if (err == ERR_OK) {
        err = due_collect(store, route, after, out, max, &count);
    }
    if (err == ERR_DAMAGED) {
        err = due_make_anew(store);
        err = err == ERR_OK ? due_collect(store, route, after, out, max, &count) : err;
    }
    *out_err = err;
    return err == ERR_OK ? count : 0;
}

size_t store_due_routes(struct store *store, uint32_t *out_routes, size_t max, enum err *out_err)
{
    size_t count = 0;
    enum err err = due_freshen(store);
    if (err == ERR_OK) {
        err = routes_collect(store, out_routes, max, &count);
    }
    if (err == ERR_DAMAGED) {
        err = due_make_anew(store);
        err = err == ERR_OK ? routes_collect(store, out_routes, max, &count) : err;
    }
    *out_err = err;
    return err == ERR_OK ? count : 0;
}

/*
 * ---- readers ----
 */

enum err store_reader_attach(struct store_reader *reader)
{
    struct store *store = reader->store;
    if (store->env == NULL) {
        return ERR_IN_DOUBT; /* the file was to be replaced, and could not be opened again */
    }
    enum err err = store_err(mdb_txn_begin(store->env, NULL, MDB_RDONLY, &reader->txn));
    if (err != ERR_OK) {
        return err;
    }
    err =
        store_err(mdb_cursor_open(reader->txn, store->dbs[STORE_DB_ENVELOPE], &reader->row_cursor));
    if (err == ERR_OK) {
        err = store_err(
            mdb_cursor_open(reader->txn, store->dbs[STORE_DB_HISTORY], &reader->past_cursor));
    }
    mdb_txn_reset(reader->txn);
    return err;
}

void store_reader_detach(struct store_reader *reader)
{
    if (reader->row_cursor != NULL) {
        mdb_cursor_close(reader->row_cursor);
    }
    if (reader->past_cursor != NULL) {
        mdb_cursor_close(reader->past_cursor);
    }
    if (reader->txn != NULL) {
        mdb_txn_abort(reader->txn);
    }
    reader->row_cursor = NULL;
    reader->past_cursor = NULL;
    reader->txn = NULL;
}

enum err store_reader_begin(struct store_reader *reader)
{
    pthread_rwlock_rdlock(&reader->store->swap_guard);
    enum err err = reader->txn == NULL ? ERR_IN_DOUBT : store_err(mdb_txn_renew(reader->txn));
    if (err != ERR_OK) {
        pthread_rwlock_unlock(&reader->store->swap_guard);
    }
    return err;
}

void store_reader_end(struct store_reader *reader)
{
    mdb_txn_reset(reader->txn);
    pthread_rwlock_unlock(&reader->store->swap_guard);
}

enum err store_reader_sealed(const struct store_reader *reader, enum store_db db, struct slice key,
                             struct slice *out_bytes)
{
    MDB_val mdb_key = store_val(key);
    MDB_val value;
    enum err err = store_err(mdb_get(reader->txn, reader->store->dbs[db], &mdb_key, &value));
    return err == ERR_OK ? store_unseal(key, store_val_slice(value), out_bytes) : err;
}

enum err store_reader_new(struct store_reader **out_reader, struct store *store)
{
    struct store_reader *reader = calloc(1, sizeof *reader);
    if (reader == NULL) {
        return ERR_NO_MEMORY;
    }
    reader->store = store;
    reader->scratch = malloc(store->chunk_bytes);
    enum err err = reader->scratch == NULL ? ERR_NO_MEMORY : ERR_OK;
    pthread_rwlock_wrlock(&store->swap_guard);
    reader->next = store->readers;
    store->readers = reader;
    if (err == ERR_OK) {
        err = store_reader_attach(reader);
    }
    pthread_rwlock_unlock(&store->swap_guard);
    if (err != ERR_OK) {
        store_reader_free(&reader);
        return err;
    }
    *out_reader = reader;
    return ERR_OK;
}

void store_reader_free(struct store_reader **reader)
{
    struct store_reader *r = *reader;
    if (r == NULL) {
        return;
    }
    pthread_rwlock_wrlock(&r->store->swap_guard);
    struct store_reader **link = &r->store->readers;
    while (*link != r) {
        link = &(*link)->next;
    }
    *link = r->next;
    store_reader_detach(r);
    pthread_rwlock_unlock(&r->store->swap_guard);
    free(r->scratch);
    free(r);
    *reader = NULL;
}

static enum err read_message(struct store_reader *reader, const struct msg_id *id, struct buf *to,
                             struct slice *out_envelope, struct slice *out_state,
                             size_t *out_bytes_needed)
{
    struct slice key = slice_of(id->bytes, MSG_ID_BYTES);
    struct slice envelope;
    struct slice state;
    enum err err = store_reader_sealed(reader, STORE_DB_ENVELOPE, key, &envelope);
    if (err != ERR_OK) {
        return err;
    }
    err = store_reader_sealed(reader, STORE_DB_STATE, key, &state);
    if (err != ERR_OK) {
        return err == ERR_NOT_FOUND ? ERR_DAMAGED : err; /* one without the other */
    }
    if (envelope.len + state.len > buf_room(to)) {
        *out_bytes_needed = envelope.len + state.len;
        return ERR_LIMIT;
    }
    size_t at = to->len;
    buf_put(to, envelope);
    buf_put(to, state);
    *out_envelope = slice_of(to->data + at, envelope.len);
    *out_state = slice_of(to->data + at + envelope.len, state.len);
    return ERR_OK;
}

enum err store_read_message(struct store_reader *reader, const struct msg_id *id, struct buf *to,
                            struct slice *out_envelope, struct slice *out_state,
                            size_t *out_bytes_needed)
{
    enum err err = store_reader_begin(reader);
    if (err != ERR_OK) {
        return err;
    }
    err = read_message(reader, id, to, out_envelope, out_state, out_bytes_needed);
    store_touched(reader->store, 2 * STORE_FAULT_BYTES);
    store_reader_end(reader);
    return err;
}

enum err store_read_trail(struct store_reader *reader, const struct msg_id *id, struct buf *to)
{
    enum err err = store_reader_begin(reader);
    if (err != ERR_OK) {
        return err;
    }
    struct slice trail;
    err = store_reader_sealed(reader, STORE_DB_TRAIL, slice_of(id->bytes, MSG_ID_BYTES), &trail);
    if (err == ERR_OK && trail.len > buf_room(to)) {
        err = ERR_LIMIT;
    }
    if (err == ERR_OK) {
        buf_put(to, trail);
    }
    store_touched(reader->store, STORE_FAULT_BYTES);
    store_reader_end(reader);
    return err;
}

/* How long the body is. The envelope is decoded when the reader comes to it first. */
static enum err body_find(struct store_reader *reader, const struct msg_id *id)
{
    MDB_val key = store_val(slice_of(id->bytes, MSG_ID_BYTES));
    MDB_val value;
    enum err err =
        store_err(mdb_get(reader->txn, reader->store->dbs[STORE_DB_ENVELOPE], &key, &value));
    if (err != ERR_OK) {
        return err;
    }
    if (reader->body_known && msg_id_compare(id, &reader->body_id) == 0) {
        return ERR_OK;
    }
    struct slice bytes;
    struct record_envelope envelope;
    if (store_unseal(slice_of(id->bytes, MSG_ID_BYTES), store_val_slice(value), &bytes) != ERR_OK ||
        record_envelope_get(bytes, &envelope) != ERR_OK) {
        return ERR_DAMAGED;
    }
    reader->body_known = true;
    reader->body_id = *id;
    reader->body_bytes = envelope.body_bytes;
    return ERR_OK;
}

static enum err read_body(struct store_reader *reader, const struct msg_id *id, uint64_t offset,
                          struct buf *to)
{
    enum err err = body_find(reader, id);
    size_t before = to->len;
    while (err == ERR_OK && offset < reader->body_bytes && buf_room(to) > 0) {
        uint64_t index = offset / reader->store->chunk_bytes;
        uint64_t start = index * reader->store->chunk_bytes;
        uint64_t chunk_bytes = u64_min(reader->store->chunk_bytes, reader->body_bytes - start);
        size_t len = to->len;
        if (index > UINT32_MAX) {
            return ERR_DAMAGED;
        }
        err = store_chunk_read(reader->store, reader->txn, reader->scratch, id, (uint32_t)index,
                               chunk_bytes, (size_t)(offset - start), to);
        offset += to->len - len;
    }
    return to->len > before ? ERR_OK
                            : err; /* what was read is good; the next call meets the error */
}

enum err store_read_body(struct store_reader *reader, const struct msg_id *id, uint64_t offset,
                         struct buf *to)
{
    CHECK(buf_room(to) > 0);
    enum err err = store_reader_begin(reader);
    if (err != ERR_OK) {
        return err;
    }
    err = read_body(reader, id, offset, to);
    store_touched(reader->store, STORE_FAULT_BYTES); /* tree pages; the body itself is not mapped */
    store_reader_end(reader);
    return err;
}

/* Hands one row on, damaged parts as empty slices. Returns what fn returned. */
static bool row_pass(struct store_reader *reader, MDB_val key, MDB_val value, store_row_fn *fn,
                     void *ctx)
{
    struct store_row row = {0};
    memcpy(row.id.bytes, key.mv_data, MSG_ID_BYTES);
    struct slice id = slice_of(row.id.bytes, MSG_ID_BYTES);
    struct slice envelope;
    struct slice state;
    if (store_unseal(id, store_val_slice(value), &envelope) == ERR_OK &&
        store_reader_sealed(reader, STORE_DB_STATE, id, &state) == ERR_OK) {
        row.envelope = envelope;
        row.state = state;
    }
    store_touched(reader->store, value.mv_size + row.state.len + STORE_FAULT_BYTES / 16);
    return fn(ctx, &row);
}

static enum err read_rows(struct store_reader *reader, const struct msg_id *from, size_t max,
                          store_row_fn *fn, void *ctx, struct msg_id *out_next)
{
    enum err err = store_err(mdb_cursor_renew(reader->txn, reader->row_cursor));
    if (err != ERR_OK) {
        return err;
    }
    MDB_val key = store_val(slice_of(from->bytes, MSG_ID_BYTES));
    MDB_val value;
    MDB_cursor_op op = MDB_SET_RANGE;
    bool wanted = true;
    size_t count = 0;
    while ((err = store_err(mdb_cursor_get(reader->row_cursor, &key, &value, op))) == ERR_OK) {
        op = MDB_NEXT;
        if (key.mv_size != MSG_ID_BYTES) {
            continue; /* no id: nothing that could be named */
        }
        if (!wanted || count == max) {
            memcpy(out_next->bytes, key.mv_data, MSG_ID_BYTES);
            return ERR_OK;
        }
        wanted = row_pass(reader, key, value, fn, ctx);
        count++;
    }
    return err;
}

enum err store_read_rows(struct store_reader *reader, const struct msg_id *from, size_t max,
                         store_row_fn *fn, void *ctx, struct msg_id *out_next)
{
    enum err err = store_reader_begin(reader);
    if (err != ERR_OK) {
        return err;
    }
    err = read_rows(reader, from, max, fn, ctx, out_next);
    store_reader_end(reader);
    return err;
}
