/*
 * Bodies: taken in piece by piece, cut into chunks, read with their checksums, removed.
 *
 * Every body whose message has not been committed stands in the intake list from its first piece
 * on, so that opening finds what a crash left of it.
 */
#include "daemon/store/store_internal.h"

#include <stdlib.h>
#include <sys/uio.h>

#define INTAKE_BYTES 12

/*
 * ---- taking in ----
 */

static struct store_fresh *fresh_find(struct store *store, const struct msg_id *id)
{
    for (uint32_t at = 0; at < store->fresh_count; at++) {
        if (memcmp(store->fresh[at].id.bytes, id->bytes, MSG_ID_BYTES) == 0) {
            return &store->fresh[at];
        }
    }
    return NULL;
}

static void fresh_drop(struct store *store, struct store_fresh *fresh)
{
    *fresh = store->fresh[--store->fresh_count];
}

/* ERR_NOT_FOUND: nothing of this body has come. */
static enum err intake_get(struct store *store, const struct msg_id *id, struct store_intake *out)
{
    const struct store_fresh *fresh = fresh_find(store, id);
    if (fresh != NULL) {
        *out = fresh->intake;
        return ERR_OK;
    }
    struct slice bytes;
    enum err err = store_get_sealed(store, store->txn, STORE_DB_INTAKE,
                                    slice_of(id->bytes, MSG_ID_BYTES), &bytes);
    if (err == ERR_OK && bytes.len != INTAKE_BYTES) {
        err = ERR_DAMAGED;
    }
    if (err != ERR_OK) {
        return err;
    }
    *out = (struct store_intake){.pieces = be32_get(bytes.data), .bytes = be64_get(bytes.data + 4)};
    return ERR_OK;
}

static enum err list_put(struct store *store, const struct msg_id *id,
                         const struct store_intake *intake)
{
    uint8_t bytes[INTAKE_BYTES];
    be32_put(bytes, intake->pieces);
    be64_put(bytes + 4, intake->bytes);
    return store_put_sealed(store, STORE_DB_INTAKE, slice_of(id->bytes, MSG_ID_BYTES),
                            slice_of(bytes, sizeof bytes), 0);
}

static enum err intake_put(struct store *store, const struct msg_id *id,
                           const struct store_intake *intake)
{
    struct store_fresh *fresh = fresh_find(store, id);
    if (fresh == NULL && intake->pieces == 1 && store->fresh_count < STORE_FRESH_MAX) {
        fresh = &store->fresh[store->fresh_count++];
    }
    if (fresh == NULL) {
        return list_put(store, id, intake);
    }
    *fresh = (struct store_fresh){.id = *id, .intake = *intake};
    return ERR_OK;
}

/* ERR_NOT_FOUND: it is not there. */
static enum err intake_delete(struct store *store, const struct msg_id *id)
{
    struct store_fresh *fresh = fresh_find(store, id);
    if (fresh != NULL) {
        fresh_drop(store, fresh);
        return ERR_OK;
    }
    return store_delete(store, STORE_DB_INTAKE, slice_of(id->bytes, MSG_ID_BYTES));
}

enum err store_fresh_flush(struct store *store)
{
    enum err err = ERR_OK;
    for (uint32_t at = 0; at < store->fresh_count && err == ERR_OK; at++) {
        err = list_put(store, &store->fresh[at].id, &store->fresh[at].intake);
    }
    return err;
}

static enum err chunk_put(struct store *store, const struct msg_id *id, uint32_t index,
                          struct slice bytes)
{
    uint8_t key[STORE_CHUNK_KEY_BYTES];
    store_chunk_key(key, id, index);
    store_account(store, bytes.len);
    MDB_val mdb_key = store_val(slice_of(key, sizeof key));
    MDB_val place = {.mv_size = STORE_CHUNK_HEAD_BYTES + bytes.len};
    enum err err = store_write_err(store, mdb_put(store->txn, store->dbs[STORE_DB_CHUNK], &mdb_key,
                                                  &place, MDB_RESERVE | MDB_NOOVERWRITE));
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
    struct store_intake intake = {0};
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

/* Takes the body off the list of those being received and checks that it is the envelope's. */
enum err store_intake_finish(struct store *store, const struct msg_id *id,
                             const struct record_envelope *envelope)
{
    struct store_intake intake = {0};
    enum err err = intake_get(store, id, &intake);
    if (err == ERR_OK) {
        err = intake_delete(store, id);
    } else if (err == ERR_NOT_FOUND) {
        err = ERR_OK; /* an empty body */
    }
    if (err == ERR_OK) {
        CHECK(envelope->chunk_count == intake.pieces);
        CHECK(envelope->body_bytes == intake.bytes);
    }
    return err;
}

/*
 * ---- removing ----
 */

/* Deletes all chunks of a body, whatever they hold. */
enum err store_chunks_delete(struct store *store, const struct msg_id *id)
{
    MDB_cursor *cursor;
    enum err err = store_cursor_open(store, store->txn, STORE_DB_CHUNK, &cursor);
    if (err != ERR_OK) {
        return err;
    }
    uint8_t first[STORE_CHUNK_KEY_BYTES];
    store_chunk_key(first, id, 0);
    MDB_val key = store_val(slice_of(first, sizeof first));
    MDB_val value;
    err = store_cursor_get(store, cursor, &key, &value, MDB_SET_RANGE);
    while (err == ERR_OK && key.mv_size == sizeof first &&
           memcmp(key.mv_data, id->bytes, MSG_ID_BYTES) == 0) {
        store_account(store, 0);
        err = store_run_check(store, STORE_DB_CHUNK, key, value);
        if (err == ERR_OK) {
            err = store_write_err(store, mdb_cursor_del(cursor, 0));
        }
        if (err == ERR_OK) {
            /* Freeing a run reads its first page, and the kernel maps its neighbours with it: those
             * of other bodies, where several came in at once. */
            store_touched(store, STORE_FAULT_BYTES);
            err = store_cursor_get(store, cursor, &key, &value, MDB_NEXT);
        }
    }
    mdb_cursor_close(cursor);
    return err == ERR_NOT_FOUND ? ERR_OK : err;
}

/* Is there a record of this message, sound or not? */
static enum err has_record(struct store *store, enum store_db db, const struct msg_id *id,
                           bool *out_has)
{
    MDB_val key = store_val(slice_of(id->bytes, MSG_ID_BYTES));
    MDB_val value;
    enum err err = store_write_err(store, mdb_get(store->txn, store->dbs[db], &key, &value));
    *out_has = *out_has || err == ERR_OK;
    return err == ERR_NOT_FOUND ? ERR_OK : err;
}

/* Every body without a message has an entry in the list. The body of a message has none: one that
 * names it is stale or damaged, and it alone goes. */
enum err store_intake_drop(struct store *store, const struct msg_id *id, bool *out_removed)
{
    bool has_message = false;
    enum err err = intake_delete(store, id);
    if (err == ERR_NOT_FOUND) {
        *out_removed = false;
        return ERR_OK;
    }
    if (err == ERR_OK) {
        err = has_record(store, STORE_DB_ENVELOPE, id, &has_message);
    }
    if (err == ERR_OK) {
        err = has_record(store, STORE_DB_STATE, id, &has_message);
    }
    if (err == ERR_OK && !has_message) {
        err = store_chunks_delete(store, id);
    }
    if (err == ERR_OK) {
        *out_removed = !has_message;
    }
    return err;
}

enum err store_body_discard(struct store *store, const struct msg_id *id)
{
    CHECK(store->txn != NULL);
    bool removed;
    return store_intake_drop(store, id, &removed);
}

/* Bytes in the chunks of a body whose envelope cannot be read: by the lengths that LMDB keeps,
 * which a damaged value does not change. */
uint64_t store_chunks_bytes(const struct store *store, MDB_txn *txn, const struct msg_id *id)
{
    uint64_t bytes = 0;
    for (uint32_t index = 0;; index++) {
        uint8_t key[STORE_CHUNK_KEY_BYTES];
        store_chunk_key(key, id, index);
        MDB_val mdb_key = store_val(slice_of(key, sizeof key));
        MDB_val value;
        if (mdb_get(txn, store->dbs[STORE_DB_CHUNK], &mdb_key, &value) != MDB_SUCCESS) {
            return bytes;
        }
        bytes += value.mv_size - size_min(value.mv_size, STORE_CHUNK_HEAD_BYTES);
    }
}

/*
 * ---- reading ----
 */

bool store_in_file(const struct store *store, const void *value)
{
    uintptr_t at = (uintptr_t)value;
    uintptr_t map = (uintptr_t)store->map;
    return at >= map && at - map < store->map_bytes;
}

/*
 * Copies a chunk's head and bytes from where the map has them, without touching the map: the
 * snapshot that txn holds does not change under it. A small value lies in a tree page, which LMDB
 * has just read: that is copied as it is, and so is what is not in the file yet.
 */
static enum err chunk_copy(const struct store *store, MDB_val value,
                           uint8_t head[STORE_CHUNK_HEAD_BYTES], uint8_t *to)
{
    const uint8_t *from = value.mv_data;
    size_t bytes = value.mv_size - STORE_CHUNK_HEAD_BYTES;
    if (value.mv_size < store->page_bytes / 4 || !store_in_file(store, from)) {
        memcpy(head, from, STORE_CHUNK_HEAD_BYTES);
        memcpy(to, from + STORE_CHUNK_HEAD_BYTES, bytes);
        return ERR_OK;
    }
    struct iovec parts[2] = {{head, STORE_CHUNK_HEAD_BYTES}, {to, bytes}};
    ssize_t got = preadv(store->data_fd, parts, 2, from - store->map);
    if (got < 0) {
        return ERR_IO;
    }
    return (size_t)got == value.mv_size ? ERR_OK : ERR_DAMAGED; /* the file was cut short */
}

enum err store_chunk_read(const struct store *store, MDB_txn *txn, uint8_t *scratch,
                          const struct msg_id *id, uint32_t index, size_t chunk_bytes, size_t skip,
                          struct buf *to)
{
    uint8_t key[STORE_CHUNK_KEY_BYTES];
    store_chunk_key(key, id, index);
    MDB_val mdb_key = store_val(slice_of(key, sizeof key));
    MDB_val value;
    enum err err = store_err(mdb_get(txn, store->dbs[STORE_DB_CHUNK], &mdb_key, &value));
    if (err != ERR_OK) {
        return err == ERR_NOT_FOUND ? ERR_DAMAGED : err;
    }
    if (value.mv_size != STORE_CHUNK_HEAD_BYTES + chunk_bytes) {
        return ERR_DAMAGED;
    }
    bool direct = skip == 0 && buf_room(to) >= chunk_bytes;
    uint8_t *place = direct ? to->data + to->len : scratch;
    uint8_t head[STORE_CHUNK_HEAD_BYTES];
    err = chunk_copy(store, value, head, place);
    if (err != ERR_OK) {
        return err;
    }
    struct slice bytes = slice_of(place, chunk_bytes);
    if (be32_get(head) != chunk_bytes ||
        be32_get(head + 4) != store_chunk_crc(slice_of(key, sizeof key), bytes)) {
        return ERR_DAMAGED;
    }
    if (direct) {
        to->len += chunk_bytes;
    } else {
        buf_put(to, slice_head(slice_tail(bytes, skip), buf_room(to)));
    }
    return ERR_OK;
}

enum err store_body_head(struct store *store, const struct msg_id *id, struct buf *to)
{
    struct slice record;
    struct record_envelope envelope;
    enum err err = store_envelope_get(store, id, &record);
    if (err == ERR_OK) {
        err = record_envelope_get(record, &envelope);
    }
    if (err != ERR_OK) {
        return err;
    }
    if (store->scratch == NULL) {
        store->scratch = malloc(store->chunk_bytes);
    }
    if (store->scratch == NULL) {
        return ERR_NO_MEMORY;
    }
    size_t before = to->len;
    uint64_t left = envelope.body_bytes;
    for (uint32_t index = 0; left > 0 && buf_room(to) > 0; index++) {
        size_t chunk_bytes = (size_t)u64_min(left, store->chunk_bytes);
        err = store_chunk_read(store, store->txn, store->scratch, id, index, chunk_bytes, 0, to);
        if (err != ERR_OK) {
            to->len = before;
            return err;
        }
        left -= chunk_bytes;
    }
    return ERR_OK;
}
