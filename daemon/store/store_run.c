/*
 * Runs of overflow pages: where LMDB keeps a value that is too long for a page of a tree. It frees
 * as many pages as the first one of a run says, and asks nothing. One flipped bit there would have
 * it give away pages of other messages; so the first page is judged before a value is deleted or
 * replaced. LMDB reads that page next anyway.
 */
#include "daemon/store/store_internal.h"

/*
 * LMDB's pages, 64-bit, data version 1; store_pages_parts.h has all of them.
 *     0  own number, 64 bits      10  flags, 16 bits      12  pages of the run, 32 bits
 */
#define PAGE_HEAD_BYTES 16u
#define PAGE_OVERFLOW   0x04u
#define NODE_HEAD_BYTES 8u

struct head {
    uint64_t number;
    uint16_t flags;
    uint32_t pages;
};

/* In which databases a value may be so long. */
static bool may_be_long(enum store_db db)
{
    return db == STORE_DB_ENVELOPE || db == STORE_DB_STATE || db == STORE_DB_TRAIL ||
           db == STORE_DB_CHUNK || db == STORE_DB_HISTORY;
}

/* Does a value of that length fit into a page of the tree? There have to be two of them. */
static bool fits_in_tree(const struct store *store, size_t key_bytes, size_t value_bytes)
{
    size_t max = ((store->page_bytes - PAGE_HEAD_BYTES) / 2 & ~(size_t)1) - sizeof(uint16_t);
    return NODE_HEAD_BYTES + key_bytes + value_bytes <= max;
}

static struct head head_read(const uint8_t *value)
{
    struct head head;
    const uint8_t *page = value - PAGE_HEAD_BYTES;
    memcpy(&head.number, page, sizeof head.number);
    memcpy(&head.flags, page + 10, sizeof head.flags);
    memcpy(&head.pages, page + 12, sizeof head.pages);
    return head;
}

static uint64_t pages_least(const struct store *store, size_t value_bytes)
{
    return (PAGE_HEAD_BYTES - 1 + value_bytes) / store->page_bytes + 1;
}

/* In the file, at the beginning of a page: not in a page of the tree. */
static bool is_at_head(const struct store *store, const uint8_t *value)
{
    return store_in_file(store, value) &&
           (uint64_t)(value - store->map) % store->page_bytes == PAGE_HEAD_BYTES;
}

/*
 * Does a value lie where one of its length can? A page that the open transaction has written is in
 * memory of its own until the commit: it was not on the disk, but what leads to it may have been.
 */
static bool is_sound(const struct store *store, size_t key_bytes, MDB_val value)
{
    const uint8_t *bytes = value.mv_data;
    bool fits = fits_in_tree(store, key_bytes, value.mv_size);
    bool at_head = is_at_head(store, bytes);
    if (!at_head && (fits || store_in_file(store, bytes))) {
        return fits;
    }
    struct head head = head_read(bytes);
    if (head.pages < pages_least(store, value.mv_size)) {
        return false;
    }
    return at_head ? head.flags == PAGE_OVERFLOW &&
                         head.number == (uint64_t)(bytes - store->map) / store->page_bytes
                   : (head.flags & PAGE_OVERFLOW) != 0;
}

/* Have the runs of a database together as many pages as it says of itself, as of the last commit? A
 * walk, for a case that takes a damaged disk, or as good as that. */
static bool runs_add_up(struct store *store, enum store_db db)
{
    MDB_cursor *cursor;
    MDB_stat stat;
    uint64_t pages = 0;
    if (mdb_txn_renew(store->own) != MDB_SUCCESS) {
        return false;
    }
    enum err err = store_err(mdb_stat(store->own, store->dbs[db], &stat));
    if (err == ERR_OK) {
        err = store_cursor_open(store, store->own, db, &cursor);
    }
    if (err == ERR_OK) {
        MDB_val key;
        MDB_val value;
        while ((err = store_cursor_get(store, cursor, &key, &value, MDB_NEXT)) == ERR_OK) {
            pages += is_at_head(store, value.mv_data) ? head_read(value.mv_data).pages : 0;
            store_touched(store, STORE_FAULT_BYTES / 16);
        }
        mdb_cursor_close(cursor);
    }
    mdb_txn_reset(store->own);
    return err == ERR_NOT_FOUND && pages == stat.ms_overflow_pages;
}

/*
 * A run may be longer than its value: where one was replaced by a shorter one within its
 * transaction, or the length of the value is what is damaged. Else it would take pages of others.
 */
enum err store_run_check(struct store *store, enum store_db db, MDB_val key, MDB_val value)
{
    bool sound = is_sound(store, key.mv_size, value);
    if (sound && is_at_head(store, value.mv_data) &&
        head_read(value.mv_data).pages > pages_least(store, value.mv_size)) {
        sound = runs_add_up(store, db);
    }
    return sound ? ERR_OK : store_pages_doubt(store);
}

enum err store_run_guard(struct store *store, enum store_db db, struct slice key)
{
    if (!may_be_long(db)) {
        return ERR_OK;
    }
    MDB_val mdb_key = store_val(key);
    MDB_val value;
    enum err err = store_write_err(store, mdb_get(store->txn, store->dbs[db], &mdb_key, &value));
    if (err == ERR_OK) {
        err = store_run_check(store, db, mdb_key, value);
    }
    return err == ERR_NOT_FOUND ? ERR_OK : err;
}
