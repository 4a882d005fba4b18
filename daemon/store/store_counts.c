/*
 * Rows of counts: how many messages there are of each upstream, device and reason, by state.
 *
 * Invariants
 *   - What a transaction changes is gathered in store->tallies and written when it commits, or when
 *     the table has no room for one more message; row and table together are exact at any moment.
 *   - A row of zeros is not there.
 *   - A row that cannot be right (its seal does not fit, it would go below zero) makes all of them
 *     stale: at the commit they are made anew from the state records.
 */
#include "daemon/base/crc32c.h"
#include "daemon/store/store_internal.h"

#define KIND_COUNT 3

static const uint8_t kind_bytes[KIND_COUNT] = {
    [STORE_COUNT_UPSTREAM] = 'u',
    [STORE_COUNT_DEVICE] = 'd',
    [STORE_COUNT_REASON] = 'r',
};

_Static_assert(UPSTREAM_NAME_BYTES_MAX < STORE_TALLY_KEY_BYTES, "a key holds every name");
_Static_assert(STORE_TALLY_KEY_BYTES <= UINT8_MAX, "its length has one byte");
_Static_assert(STORE_TALLIES_MAX >= 2 * STORE_TALLY_ROWS, "one message, as it was and as it is");

/*
 * ---- gathering ----
 */

static struct slice tally_key(enum store_count_kind kind, struct slice name,
                              uint8_t key[STORE_TALLY_KEY_BYTES])
{
    CHECK(name.len < STORE_TALLY_KEY_BYTES);
    key[0] = kind_bytes[kind];
    if (name.len > 0) {
        memcpy(key + 1, name.data, name.len);
    }
    return slice_of(key, 1 + name.len);
}

static void row_add(struct store *store, enum store_count_kind kind, struct slice name,
                    enum message_state state, int64_t change)
{
    uint8_t bytes[STORE_TALLY_KEY_BYTES];
    struct slice key = tally_key(kind, name, bytes);
    uint32_t hash = crc32c(0, key);
    struct store_tally *row = store->tallies;
    struct store_tally *end = row + store->tally_count;
    while (row < end &&
           (row->hash != hash || !slice_equal(slice_of(row->key, row->key_bytes), key))) {
        row++;
    }
    if (row == end) {
        CHECK(store->tally_count < STORE_TALLIES_MAX);
        store->tally_count++;
        *row = (struct store_tally){.hash = hash, .key_bytes = (uint8_t)key.len};
        memcpy(row->key, key.data, key.len);
    }
    row->change[state] += change;
}

void store_tally_add(struct store *store, const struct store_standing *standing, int64_t change)
{
    enum message_state state = standing->state;
    row_add(store, STORE_COUNT_UPSTREAM, standing->upstream, state, change);
    if (standing->device.len > 0) {
        row_add(store, STORE_COUNT_DEVICE, standing->device, state, change);
    }
    struct slice reason = slice_from_str(outcome_row(standing->reason)->word);
    row_add(store, STORE_COUNT_REASON, reason, state, change);
}

/*
 * ---- writing ----
 */

static enum err row_get(struct store *store, struct slice key, uint64_t counts[MESSAGE_STATE_COUNT])
{
    struct slice bytes;
    enum err err = store_get_sealed(store, store->txn, STORE_DB_TALLY, key, &bytes);
    if (err == ERR_OK && bytes.len != STORE_TALLY_BYTES) {
        err = ERR_DAMAGED;
    }
    for (size_t state = 0; state < MESSAGE_STATE_COUNT; state++) {
        counts[state] = err == ERR_OK ? be64_get(bytes.data + 8 * state) : 0;
    }
    return err;
}

/* Adds one row's changes to what is on disk. ERR_DAMAGED: that cannot be right. */
static enum err row_flush(struct store *store, const struct store_tally *row)
{
    static const int64_t nothing[MESSAGE_STATE_COUNT];
    if (memcmp(row->change, nothing, sizeof nothing) == 0) {
        return ERR_OK;
    }
    struct slice key = slice_of(row->key, row->key_bytes);
    uint64_t counts[MESSAGE_STATE_COUNT];
    enum err before = row_get(store, key, counts);
    if (before != ERR_OK && before != ERR_NOT_FOUND) {
        return before;
    }
    uint8_t bytes[STORE_TALLY_BYTES];
    uint64_t any = 0;
    for (size_t state = 0; state < MESSAGE_STATE_COUNT; state++) {
        int64_t change = row->change[state];
        if (change < 0 && counts[state] < (uint64_t)-change) {
            return ERR_DAMAGED;
        }
        counts[state] += (uint64_t)change;
        any |= counts[state];
        be64_put(bytes + 8 * state, counts[state]);
    }
    if (any == 0) {
        return before == ERR_OK ? store_delete(store, STORE_DB_TALLY, key) : ERR_OK;
    }
    return store_put_sealed(store, STORE_DB_TALLY, key, slice_of(bytes, sizeof bytes), 0);
}

/* ERR_DAMAGED: some row cannot be right. */
static enum err rows_write(struct store *store)
{
    uint32_t count = store->tally_count;
    enum err err = ERR_OK;
    store->tally_count = 0;
    for (uint32_t index = 0; index < count && err == ERR_OK; index++) {
        err = row_flush(store, &store->tallies[index]);
    }
    return err;
}

/* Rows that are stale are not added to: they are made anew anyway. */
static enum err table_flush(struct store *store)
{
    if (store->tallies_stale) {
        store->tally_count = 0;
        return ERR_OK;
    }
    enum err err = rows_write(store);
    store->tallies_stale = err == ERR_DAMAGED;
    return err == ERR_DAMAGED ? ERR_OK : err;
}

static bool table_fits(const struct store *store)
{
    return store->tally_count + 2 * STORE_TALLY_ROWS <= STORE_TALLIES_MAX;
}

/* For one message, as it was and as it will be. Whoever is about to borrow from a transaction calls
 * this before: the table may be written out. */
enum err store_tally_room(struct store *store)
{
    return table_fits(store) ? ERR_OK : table_flush(store);
}

/* All rows anew from the state records. One that cannot be read is in none. */
static enum err rows_make(struct store *store)
{
    store->txn_pages += 64;
    enum err err = store_write_err(store, mdb_drop(store->txn, store->dbs[STORE_DB_TALLY], 0));
    MDB_cursor *cursor = NULL;
    if (err == ERR_OK) {
        err = store_cursor_open(store, store->txn, STORE_DB_STATE, &cursor);
    }
    MDB_val key;
    MDB_val value;
    while (err == ERR_OK &&
           (err = store_cursor_get(store, cursor, &key, &value, MDB_NEXT)) == ERR_OK) {
        struct slice state;
        struct store_standing standing;
        if (key.mv_size == MSG_ID_BYTES &&
            store_unseal(store_val_slice(key), store_val_slice(value), &state) == ERR_OK &&
            store_standing_of(state, &standing) == ERR_OK) {
            store_tally_add(store, &standing, 1);
        }
        err = table_fits(store) ? ERR_OK : rows_write(store);
    }
    if (cursor != NULL) {
        mdb_cursor_close(cursor);
    }
    return err == ERR_NOT_FOUND ? rows_write(store) : err;
}

enum err store_tally_flush(struct store *store)
{
    enum err err = table_flush(store);
    return err == ERR_OK && store->tallies_stale ? rows_make(store) : err;
}

/*
 * ---- reading ----
 */

/*
 * Each message is in one row of upstreams and in one of reasons, and perhaps in one of devices;
 * only failed ones, whose record is damaged, may be in none. *out_sound: the rows are whole and
 * their sums say so.
 */
enum err store_tally_check(struct store *store, MDB_txn *txn, const struct store_totals *totals,
                           bool *out_sound)
{
    uint64_t sums[UINT8_MAX + 1][MESSAGE_STATE_COUNT] = {{0}};
    MDB_cursor *cursor;
    enum err err = store_cursor_open(store, txn, STORE_DB_TALLY, &cursor);
    if (err != ERR_OK) {
        return err;
    }
    bool sound = true;
    MDB_val key;
    MDB_val value;
    while ((err = store_err(mdb_cursor_get(cursor, &key, &value, MDB_NEXT))) == ERR_OK) {
        struct slice name = store_val_slice(key);
        struct slice bytes;
        bool whole = name.len > 1 && store_unseal(name, store_val_slice(value), &bytes) == ERR_OK &&
                     bytes.len == STORE_TALLY_BYTES;
        sound = sound && whole;
        for (size_t state = 0; state < MESSAGE_STATE_COUNT && whole; state++) {
            sums[name.data[0]][state] += be64_get(bytes.data + 8 * state);
        }
    }
    mdb_cursor_close(cursor);
    for (size_t state = 0; state < MESSAGE_STATE_COUNT; state++) {
        uint64_t all = totals->count_by_state[state];
        sound = sound && sums['u'][state] == sums['r'][state] && sums['d'][state] <= all &&
                (sums['u'][state] == all || (state == MESSAGE_FAILED && sums['u'][state] < all));
    }
    *out_sound = sound;
    return err == ERR_NOT_FOUND ? ERR_OK : err;
}

static enum err read_counts(struct store_reader *reader, MDB_cursor *cursor, struct slice start,
                            size_t max, store_count_fn *fn, void *ctx)
{
    MDB_val key = store_val(start);
    MDB_val value;
    MDB_cursor_op op = MDB_SET_RANGE;
    bool wanted = true;
    size_t count = 0;
    enum err err;
    while ((err = store_err(mdb_cursor_get(cursor, &key, &value, op))) == ERR_OK) {
        op = MDB_NEXT;
        struct slice name = store_val_slice(key);
        if (name.len < 1 || name.data[0] != start.data[0]) {
            return ERR_NOT_FOUND;
        }
        if (slice_equal(name, start)) {
            continue;
        }
        if (!wanted || count == max) {
            return ERR_OK;
        }
        uint64_t counts[MESSAGE_STATE_COUNT];
        struct slice bytes;
        if (store_unseal(name, store_val_slice(value), &bytes) != ERR_OK ||
            bytes.len != STORE_TALLY_BYTES) {
            return ERR_DAMAGED;
        }
        for (size_t state = 0; state < MESSAGE_STATE_COUNT; state++) {
            counts[state] = be64_get(bytes.data + 8 * state);
        }
        wanted = fn(ctx, slice_tail(name, 1), counts);
        count++;
    }
    store_touched(reader->store, STORE_FAULT_BYTES);
    return err;
}

enum err store_read_counts(struct store_reader *reader, enum store_count_kind kind,
                           struct slice after, size_t max, store_count_fn *fn, void *ctx)
{
    CHECK((unsigned)kind < KIND_COUNT);
    if (after.len >= STORE_TALLY_KEY_BYTES) {
        return ERR_LIMIT; /* whoever asks over a socket may say anything */
    }
    uint8_t start[STORE_TALLY_KEY_BYTES];
    MDB_cursor *cursor;
    enum err err = store_reader_begin(reader);
    if (err != ERR_OK) {
        return err;
    }
    err = store_err(mdb_cursor_open(reader->txn, reader->store->dbs[STORE_DB_TALLY], &cursor));
    if (err == ERR_OK) {
        err = read_counts(reader, cursor, tally_key(kind, after, start), max, fn, ctx);
        mdb_cursor_close(cursor);
    }
    store_reader_end(reader);
    return err;
}
