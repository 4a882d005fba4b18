/*
 * Keys, seals and error codes of the store: schema/STORE.md in C. No transaction is begun here.
 */
#include "daemon/base/crc32c.h"
#include "daemon/store/store_internal.h"

#include <errno.h>

enum err store_err(int code)
{
    switch (code) {
    case MDB_SUCCESS:
        return ERR_OK;
    case MDB_NOTFOUND:
        return ERR_NOT_FOUND;
    case MDB_KEYEXIST:
        return ERR_EXISTS;
    case MDB_MAP_FULL:
    case MDB_TXN_FULL: /* more dirty pages than one transaction may have */
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return ERR_FULL;
    case MDB_PANIC:
        return ERR_IN_DOUBT;
    case MDB_READERS_FULL:
        return ERR_LIMIT;
    case MDB_VERSION_MISMATCH:
        return ERR_VERSION;
    case MDB_CORRUPTED:
    case MDB_PAGE_NOTFOUND:
    case MDB_INVALID:
    case MDB_BAD_TXN:
    case MDB_INCOMPATIBLE:
    case MDB_CURSOR_FULL:
    case MDB_PAGE_FULL:
    case MDB_BAD_VALSIZE:
    case MDB_MAP_RESIZED:
        return ERR_DAMAGED;
    default:
        return code > 0 ? err_from_errno(code) : ERR_IO;
    }
}

/* A page, or what leads to it, is not as LMDB wrote it. Not MDB_BAD_TXN: that follows a full disk,
 * too. */
static bool is_of_pages(int code)
{
    switch (code) {
    case MDB_CORRUPTED:
    case MDB_PAGE_NOTFOUND:
    case MDB_INCOMPATIBLE:
    case MDB_CURSOR_FULL:
    case MDB_PAGE_FULL:
        return true;
    default:
        return false;
    }
}

enum err store_write_err(struct store *store, int code)
{
    return is_of_pages(code) ? store_pages_doubt(store) : store_err(code);
}

enum err store_txn_err(struct store *store, const MDB_txn *txn, int code)
{
    return txn == store->txn ? store_write_err(store, code) : store_err(code);
}

enum err store_pages_doubt(struct store *store)
{
    store->writable = false;
    store->pages_damaged = true;
    store_suspect_mark();
    return ERR_IN_DOUBT;
}

void store_chunk_key(uint8_t key[STORE_CHUNK_KEY_BYTES], const struct msg_id *id, uint32_t index)
{
    memcpy(key, id->bytes, MSG_ID_BYTES);
    be32_put(key + MSG_ID_BYTES, index);
}

void store_due_key(uint8_t key[STORE_DUE_KEY_BYTES], uint32_t route, uint64_t due_q,
                   const struct msg_id *id)
{
    be32_put(key, route);
    be64_put(key + 4, due_q);
    memcpy(key + 12, id->bytes, MSG_ID_BYTES);
}

uint32_t store_seal(struct slice key, struct slice bytes)
{
    return crc32c(crc32c(0, key), bytes);
}

uint32_t store_chunk_crc(struct slice key, struct slice bytes)
{
    uint8_t length[4];
    be32_put(length, u32_from(bytes.len));
    return crc32c(crc32c(crc32c(0, key), slice_of(length, sizeof length)), bytes);
}

enum err store_unseal(struct slice key, struct slice value, struct slice *out_bytes)
{
    if (value.len < STORE_SEAL_BYTES) {
        return ERR_DAMAGED;
    }
    struct slice bytes = slice_head(value, value.len - STORE_SEAL_BYTES);
    if (be32_get(value.data + bytes.len) != store_seal(key, bytes)) {
        return ERR_DAMAGED;
    }
    *out_bytes = bytes;
    return ERR_OK;
}

enum err store_get_sealed(struct store *store, MDB_txn *txn, enum store_db db, struct slice key,
                          struct slice *out_bytes)
{
    MDB_val mdb_key = store_val(key);
    MDB_val value;
    enum err err = store_txn_err(store, txn, mdb_get(txn, store->dbs[db], &mdb_key, &value));
    return err == ERR_OK ? store_unseal(key, store_val_slice(value), out_bytes) : err;
}

enum err store_cursor_open(struct store *store, MDB_txn *txn, enum store_db db,
                           MDB_cursor **out_cursor)
{
    return store_txn_err(store, txn, mdb_cursor_open(txn, store->dbs[db], out_cursor));
}

enum err store_cursor_get(struct store *store, MDB_cursor *cursor, MDB_val *key, MDB_val *value,
                          MDB_cursor_op op)
{
    return store_txn_err(store, mdb_cursor_txn(cursor), mdb_cursor_get(cursor, key, value, op));
}

/* Which entry of the due index a message in that state has, if any: schema/STORE.md, due. */
static bool standing_route(const struct record_state *record, uint32_t *out_route)
{
    switch (record->state) {
    case MESSAGE_QUEUED:
        *out_route = record->route;
        return true;
    case MESSAGE_TRASHED:
        *out_route = record_route(SLICE(RECORD_ROUTE_NAME_TRASH));
        return true;
    case MESSAGE_FAILED:
        *out_route = record_route(SLICE(RECORD_ROUTE_NAME_DIGEST));
        return (record->flags & RECORD_STATE_AWAITS_DIGEST) != 0;
    case MESSAGE_HELD:
    case MESSAGE_STATE_COUNT:
        break;
    }
    *out_route = 0;
    return false;
}

enum err store_standing_of(struct slice state, struct store_standing *out)
{
    struct record_state record;
    if (record_state_get(state, &record) != ERR_OK) {
        return ERR_DAMAGED;
    }
    size_t bytes_max = record_state_bytes_max(record.recipient_count);
    *out = (struct store_standing){
        .state = record.state,
        .reason = record.reason,
        .due_q = record.due_q,
        .flow = record.flow,
        .size_kib = record.size_kib,
        .promised_bytes = bytes_max > state.len ? bytes_max - state.len : 0,
        .upstream = record.upstream,
        .device = record.device,
    };
    out->indexed = standing_route(&record, &out->route);
    return ERR_OK;
}
