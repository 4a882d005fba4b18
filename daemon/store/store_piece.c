/*
 * Pieces of a body that is still being received, read again within the open transaction: for a
 * message whose recipients go different ways, which becomes several with a body each.
 */
#include "daemon/store/store_internal.h"

enum err store_body_piece(struct store *store, const struct msg_id *id, uint32_t piece_index,
                          struct buf *to)
{
    CHECK(store->txn != NULL && buf_room(to) >= store->piece_bytes);
    uint32_t chunks = u32_from(store->piece_bytes / store->chunk_bytes);
    size_t before = to->len;
    for (uint32_t at = 0; at < chunks; at++) {
        /* With so much room the chunk is copied to its place: no scratch is needed. */
        enum err err = store_chunk_read(store, store->txn, NULL, id, piece_index * chunks + at,
                                        store->chunk_bytes, 0, to);
        if (err != ERR_OK) {
            to->len = before;
            return err;
        }
    }
    return ERR_OK;
}
