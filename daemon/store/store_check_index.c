/*
 * The check, part three: what is derived from the records (summary, due index, counts), and the
 * small databases beside them.
 */
#include "daemon/base/text.h"
#include "daemon/store/store_check_internal.h"
#include "schema/record_upstream.h"

#include <stdlib.h>

/* From schema/STORE.md, once more: a check that shared the writer's numbers would share its
 * mistakes. */
#define FORMAT_BYTES    22
#define SUMMARY_NUMBERS 14
#define SUMMARY_BYTES   (8 * SUMMARY_NUMBERS)
#define COUNT_BYTES     (8 * MESSAGE_STATE_COUNT)
#define COUNT_KEY_BYTES (1 + RECORD_DEVICE_BYTES_MAX)
#define DUE_BYTES       8
/* Rows of counts that are recounted in one pass over the states: 1.3 MiB. */
#define COUNT_ROWS_PER_PASS 16384u

static struct slice id_slice(const struct msg_id *id)
{
    return slice_of(id->bytes, MSG_ID_BYTES);
}

/* Names come from peers and from the disk: they are shown, never trusted. */
struct shown {
    char text[2 * CHECK_FINDING_BYTES];
};

static const char *show(struct shown *shown, struct slice name)
{
    struct buf text;
    buf_init(&text, shown->text, sizeof shown->text - 1);
    text_put_escaped(&text, slice_head(name, RECORD_DEVICE_BYTES_MAX));
    shown->text[text.len] = '\0';
    return shown->text;
}

/*
 * ---- meta ----
 */

bool check_format(struct check *c)
{
    struct slice bytes;
    MDB_val key = store_val(SLICE("upgrade"));
    MDB_val value;
    if (mdb_get(c->txn, c->store.dbs[STORE_DB_META], &key, &value) == MDB_SUCCESS) {
        store_problem(c->report, "an upgrade of the queue's format is not finished: start tasukid "
                                 "once, which finishes it, and check then");
        c->stopped = ERR_UNSUPPORTED;
        return false;
    }
    enum err err = store_get_sealed(&c->store, c->txn, STORE_DB_META, SLICE("format"), &bytes);
    if (err != ERR_OK || bytes.len != FORMAT_BYTES - STORE_SEAL_BYTES) {
        check_finding(c, NULL, "the format record is %s",
                      err == ERR_NOT_FOUND ? "not there" : "damaged");
        return false;
    }
    c->store.chunk_bytes = be32_get(bytes.data + 12);
    if (c->store.chunk_bytes < STORE_CHUNK_BYTES_MIN ||
        c->store.chunk_bytes > BODY_CHUNK_BYTES_MAX) {
        check_finding(c, NULL, "the format record says chunks of %lu bytes",
                      (unsigned long)c->store.chunk_bytes);
        return false;
    }
    c->store.piece_bytes = BODY_CHUNK_BYTES_MAX - BODY_CHUNK_BYTES_MAX % c->store.chunk_bytes;
    return true;
}

static void compare(struct check *c, const char *what, uint64_t said, uint64_t is)
{
    if (said != is) {
        check_finding(c, NULL, "the summary says %llu %s, and there are %llu",
                      (unsigned long long)said, what, (unsigned long long)is);
    }
}

/* A message whose state record is damaged counts as it did before, or, once that was noticed, as
 * failed: so for each state there may be that many more than can be seen. */
static void compare_states(struct check *c, const uint8_t *numbers)
{
    const struct check_totals *t = &c->totals;
    uint64_t said = 0;
    uint64_t is = t->states_damaged;
    for (size_t state = 0; state < MESSAGE_STATE_COUNT; state++) {
        uint64_t number = be64_get(numbers + 8 * state);
        said += number;
        is += t->count_by_state[state];
        if (number < t->count_by_state[state] ||
            number - t->count_by_state[state] > t->states_damaged) {
            check_finding(c, NULL, "the summary says %llu messages are %s, and there are %llu",
                          (unsigned long long)number, message_state_word((enum message_state)state),
                          (unsigned long long)t->count_by_state[state]);
        }
    }
    compare(c, "messages", said, is);
}

void check_summary(struct check *c)
{
    struct slice bytes;
    const struct check_totals *t = &c->totals;
    enum err err = store_get_sealed(&c->store, c->txn, STORE_DB_META, SLICE("summary"), &bytes);
    if (err != ERR_OK || bytes.len != SUMMARY_BYTES) {
        check_finding(c, NULL, "the summary is %s", err == ERR_NOT_FOUND ? "not there" : "damaged");
        return;
    }
    const uint8_t *after = bytes.data + COUNT_BYTES;
    compare_states(c, bytes.data);
    compare(c, "bytes in bodies", be64_get(after), t->body_bytes);
    if (be64_get(after + 8) < t->last_id) {
        check_finding(c, NULL, "an id is newer than the newest one that the summary knows of");
    }
    /* counted by another bound, they are counted anew at the next start */
    if (be64_get(after + 24) == record_state_bytes_max(1) && t->states_damaged == 0) {
        compare(c, "bytes promised to state records", be64_get(after + 16), t->promised_bytes);
    }
    compare(c, "messages in the history", be64_get(after + 32), t->history_count);
    compare(c, "bytes of history", be64_get(after + 40), t->history_bytes);
}

/* What the queue remembers of itself beside that. */
static void check_notes(struct check *c)
{
    MDB_cursor *cursor;
    MDB_val key;
    MDB_val value;
    struct slice bytes;
    struct shown name;
    if (store_cursor_open(&c->store, c->txn, STORE_DB_META, &cursor) != ERR_OK) {
        c->stopped = ERR_NO_MEMORY;
        return;
    }
    while (check_next(c, cursor, STORE_DB_META, &key, &value)) {
        struct slice word = store_val_slice(key);
        if (slice_equal(word, SLICE("format")) || slice_equal(word, SLICE("summary"))) {
            continue;
        }
        if (!slice_starts_with(word, SLICE("note:"))) {
            check_finding(c, NULL, "the database \"meta\" has an entry \"%s\", which is unknown",
                          show(&name, word));
        } else if (store_unseal(word, store_val_slice(value), &bytes) != ERR_OK) {
            check_finding(c, NULL, "what is kept as \"%s\" is damaged: the seal does not fit",
                          show(&name, word));
        }
    }
    mdb_cursor_close(cursor);
}

void check_upstreams(struct check *c)
{
    MDB_cursor *cursor;
    MDB_val key;
    MDB_val value;
    struct slice bytes;
    struct record_upstream upstream;
    struct shown name;
    check_notes(c);
    if (c->stopped != ERR_OK ||
        store_cursor_open(&c->store, c->txn, STORE_DB_UPSTREAM, &cursor) != ERR_OK) {
        c->stopped = c->stopped == ERR_OK ? ERR_NO_MEMORY : c->stopped;
        return;
    }
    while (check_next(c, cursor, STORE_DB_UPSTREAM, &key, &value)) {
        struct slice word = store_val_slice(key);
        if (store_unseal(word, store_val_slice(value), &bytes) != ERR_OK ||
            record_upstream_get(bytes, &upstream) != ERR_OK) {
            check_finding(c, NULL, "what is remembered of the upstream \"%s\" is damaged",
                          show(&name, word));
        }
    }
    mdb_cursor_close(cursor);
}

/*
 * ---- the due index ----
 *
 * That each message which wants an entry has one was found out with the messages; here, that each
 * entry is wanted. Together: exactly those.
 */

static void judge_due(struct check *c, struct slice key, struct slice value)
{
    struct msg_id id;
    struct slice bytes;
    struct slice state;
    struct store_standing standing;
    uint8_t wanted[STORE_DUE_KEY_BYTES];
    if (key.len != STORE_DUE_KEY_BYTES) {
        check_finding(c, NULL, "a key of %lu bytes in the due index is none",
                      (unsigned long)key.len);
        return;
    }
    memcpy(id.bytes, key.data + 12, MSG_ID_BYTES);
    enum err err = store_get_sealed(&c->store, c->txn, STORE_DB_STATE, id_slice(&id), &state);
    if (err == ERR_OK) {
        err = store_standing_of(state, &standing);
    }
    if (err == ERR_NOT_FOUND) {
        check_finding(c, &id, "the due index has an entry for it, but it is not in the queue");
        return;
    }
    if (err != ERR_OK) {
        return; /* a finding already; nobody knows what its entry should be */
    }
    store_due_key(wanted, standing.route, standing.due_q, &id);
    if (!standing.indexed || memcmp(key.data, wanted, sizeof wanted) != 0) {
        check_finding(c, &id, "the due index has an entry for it that its state (%s) does not want",
                      message_state_word(standing.state));
        return;
    }
    if (store_unseal(key, value, &bytes) != ERR_OK || bytes.len != DUE_BYTES) {
        check_finding(c, &id, "its entry in the due index is damaged");
    } else if (be32_get(bytes.data) != standing.flow ||
               be32_get(bytes.data + 4) != standing.size_kib) {
        check_finding(c, &id, "its entry in the due index has another flow or size than its state");
    }
}

void check_due(struct check *c)
{
    MDB_cursor *cursor;
    MDB_val key;
    MDB_val value;
    if (store_cursor_open(&c->store, c->txn, STORE_DB_DUE, &cursor) != ERR_OK) {
        c->stopped = ERR_NO_MEMORY;
        return;
    }
    while (check_next(c, cursor, STORE_DB_DUE, &key, &value)) {
        judge_due(c, store_val_slice(key), store_val_slice(value));
    }
    mdb_cursor_close(cursor);
}

/*
 * ---- counts ----
 *
 * Each pass takes the next rows, as many as the table holds, and walks all states, counting those
 * whose name lies in the range from the pass before up to the last of these rows: so a name that
 * has no row is found out too. Keys are borrowed from the transaction, whose pages stay.
 */

struct count_row {
    struct slice key;
    uint64_t said[MESSAGE_STATE_COUNT];
    uint64_t is[MESSAGE_STATE_COUNT];
};

struct counting {
    struct count_row *rows; /* owned */
    size_t count;
    struct slice after; /* keys up to this one were judged in an earlier pass; empty: none */
    bool is_last;       /* no rows are left: the range has no upper end */
    uint8_t missing[COUNT_KEY_BYTES]; /* the last name without a row that was reported */
    size_t missing_bytes;
};

static int key_compare(struct slice a, struct slice b)
{
    size_t both = size_min(a.len, b.len);
    int order = both == 0 ? 0 : memcmp(a.data, b.data, both);
    return order != 0 ? order : (a.len > b.len) - (a.len < b.len);
}

static const char *kind_word(struct slice key)
{
    switch (key.len == 0 ? 0 : key.data[0]) {
    case 'u':
        return "upstream";
    case 'd':
        return "device";
    case 'r':
        return "reason";
    default:
        return "(unknown)";
    }
}

static struct count_row *row_find(const struct counting *n, struct slice key)
{
    size_t low = 0;
    size_t high = n->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = key_compare(n->rows[middle].key, key);
        if (order == 0) {
            return &n->rows[middle];
        }
        low = order < 0 ? middle + 1 : low;
        high = order < 0 ? high : middle;
    }
    return NULL;
}

/* Takes one row into the table; a damaged one says nothing, so that its numbers are not compared.
 */
static void row_take(struct check *c, struct counting *n, struct slice key, struct slice value)
{
    struct slice bytes;
    struct shown name;
    uint64_t sum = 0;
    struct count_row *row = &n->rows[n->count++];
    *row = (struct count_row){.key = key};
    bool sound = store_unseal(key, value, &bytes) == ERR_OK && bytes.len == COUNT_BYTES;
    for (size_t state = 0; state < MESSAGE_STATE_COUNT && sound; state++) {
        row->said[state] = be64_get(bytes.data + 8 * state);
        sum += row->said[state];
    }
    if (!sound) {
        row->said[0] = UINT64_MAX;
        check_finding(c, NULL, "the count of the %s \"%s\" is damaged", kind_word(key),
                      show(&name, slice_tail(key, 1)));
    } else if (sum == 0) {
        check_finding(c, NULL, "the count of the %s \"%s\" is of no messages, and still there",
                      kind_word(key), show(&name, slice_tail(key, 1)));
    }
}

static void count_one(struct check *c, struct counting *n, const struct msg_id *id,
                      enum message_state state, uint8_t kind, struct slice name)
{
    uint8_t memory[COUNT_KEY_BYTES];
    struct buf text;
    buf_init(&text, memory, sizeof memory);
    buf_put_byte(&text, kind);
    buf_put(&text, name);
    struct slice key = buf_slice(&text);
    if (n->after.len > 0 && key_compare(key, n->after) <= 0) {
        return;
    }
    if (!n->is_last && (n->count == 0 || key_compare(key, n->rows[n->count - 1].key) > 0)) {
        return;
    }
    struct count_row *row = row_find(n, key);
    if (row != NULL) {
        row->is[state]++;
        return;
    }
    if (!slice_equal(key, slice_of(n->missing, n->missing_bytes))) {
        struct shown shown;
        check_finding(c, id, "its %s \"%s\" has no count", kind_word(key), show(&shown, name));
        memcpy(n->missing, key.data, key.len);
        n->missing_bytes = key.len;
    }
}

static void count_states(struct check *c, struct counting *n)
{
    MDB_cursor *cursor;
    MDB_val key;
    MDB_val value;
    if (store_cursor_open(&c->store, c->txn, STORE_DB_STATE, &cursor) != ERR_OK) {
        c->stopped = ERR_NO_MEMORY;
        return;
    }
    while (check_next(c, cursor, STORE_DB_STATE, &key, &value)) {
        struct slice bytes;
        struct store_standing standing;
        struct msg_id id;
        if (key.mv_size != MSG_ID_BYTES ||
            store_unseal(store_val_slice(key), store_val_slice(value), &bytes) != ERR_OK ||
            store_standing_of(bytes, &standing) != ERR_OK) {
            continue; /* a finding already */
        }
        memcpy(id.bytes, key.mv_data, MSG_ID_BYTES);
        count_one(c, n, &id, standing.state, 'u', standing.upstream);
        if (standing.device.len > 0) {
            count_one(c, n, &id, standing.state, 'd', standing.device);
        }
        count_one(c, n, &id, standing.state, 'r',
                  slice_from_str(outcome_row(standing.reason)->word));
    }
    mdb_cursor_close(cursor);
}

/* As with the summary: a message with a damaged state may still be counted as what it was. */
static void rows_judge(struct check *c, const struct counting *n)
{
    for (size_t index = 0; index < n->count; index++) {
        const struct count_row *row = &n->rows[index];
        bool fits = true;
        for (size_t state = 0; state < MESSAGE_STATE_COUNT; state++) {
            fits = fits && row->said[state] >= row->is[state] &&
                   row->said[state] - row->is[state] <= c->totals.states_damaged;
        }
        if (!fits && row->said[0] != UINT64_MAX) {
            struct shown name;
            check_finding(c, NULL,
                          "the count of the %s \"%s\" is %llu queued, %llu held, %llu failed, %llu "
                          "trashed, and there are %llu, %llu, %llu, %llu",
                          kind_word(row->key), show(&name, slice_tail(row->key, 1)),
                          (unsigned long long)row->said[MESSAGE_QUEUED],
                          (unsigned long long)row->said[MESSAGE_HELD],
                          (unsigned long long)row->said[MESSAGE_FAILED],
                          (unsigned long long)row->said[MESSAGE_TRASHED],
                          (unsigned long long)row->is[MESSAGE_QUEUED],
                          (unsigned long long)row->is[MESSAGE_HELD],
                          (unsigned long long)row->is[MESSAGE_FAILED],
                          (unsigned long long)row->is[MESSAGE_TRASHED]);
        }
    }
}

static void count_passes(struct check *c, struct counting *n, MDB_cursor *cursor)
{
    MDB_val key;
    MDB_val value;
    while (!n->is_last && c->stopped == ERR_OK) {
        n->count = 0;
        while (n->count < COUNT_ROWS_PER_PASS && !n->is_last) {
            if (check_next(c, cursor, STORE_DB_TALLY, &key, &value)) {
                row_take(c, n, store_val_slice(key), store_val_slice(value));
            } else {
                n->is_last = true;
            }
        }
        count_states(c, n);
        if (c->stopped == ERR_OK) {
            rows_judge(c, n);
        }
        if (n->count > 0) {
            n->after = n->rows[n->count - 1].key;
        }
    }
}

void check_counts(struct check *c)
{
    struct counting n = {.rows = calloc(COUNT_ROWS_PER_PASS, sizeof *n.rows)};
    MDB_cursor *cursor;
    if (n.rows == NULL || store_cursor_open(&c->store, c->txn, STORE_DB_TALLY, &cursor) != ERR_OK) {
        c->stopped = ERR_NO_MEMORY;
        free(n.rows);
        return;
    }
    count_passes(c, &n, cursor);
    mdb_cursor_close(cursor);
    free(n.rows);
}
