/*
 * The check of a whole queue: a sound one is sound, also beside a writer at work, and damage of
 * each class is named with the id of its message, and nothing else is. What is damaged is written
 * wrongly, on purpose, with LMDB itself: the store would not.
 */
#include "tests/unit/store_file_fixture.h"
#include "tests/unit/store_raw.h"

#include <errno.h>
#include <signal.h>
#include <sys/statvfs.h>

#define MESSAGES  turns(60, 30)
#define RECEIVING 95u /* a body of three pieces, of which two are there */
#define MANY      turns(17000, 60)
#define WORDS     6u /* of one damage */

/*
 * ---- writing wrongly ----
 */

static void raw_seal(struct raw *r, const char *db, struct slice key, struct slice bytes)
{
    static uint8_t memory[HISTORY_BYTES + 4];
    assert_true(bytes.len <= HISTORY_BYTES);
    if (bytes.len > 0) {
        memcpy(memory, bytes.data, bytes.len);
    }
    be32_put(memory + bytes.len, crc32c(crc32c(0, key), bytes));
    raw_put(r, db, key, slice_of(memory, bytes.len + 4));
}

/* A copy of a value, to be changed; the seal too. */
static struct buf raw_get(struct raw *r, const char *db, struct slice key)
{
    static uint8_t memory[HISTORY_BYTES + 4];
    struct buf copy;
    MDB_val k = raw_val(key);
    MDB_val v;
    assert_int_equal(mdb_get(r->txn, raw_dbi(r, db), &k, &v), 0);
    buf_init(&copy, memory, sizeof memory);
    buf_put(&copy, slice_of(v.mv_data, v.mv_size));
    assert_false(copy.overflow);
    return copy;
}

static void raw_flip(struct raw *r, const char *db, struct slice key, size_t at)
{
    struct buf value = raw_get(r, db, key);
    assert_true(at < value.len);
    value.data[at] ^= 0x10;
    raw_put(r, db, key, buf_slice(&value));
}

/* Adds to one number of a sealed value, and seals it again. */
static void raw_add(struct raw *r, const char *db, struct slice key, size_t at, uint64_t add)
{
    struct buf value = raw_get(r, db, key);
    be64_put(value.data + at, be64_get(value.data + at) + add);
    raw_seal(r, db, key, slice_of(value.data, value.len - 4));
}

static struct slice id_key(uint64_t n)
{
    static struct msg_id ids[2];
    static size_t turn;
    turn ^= 1; /* two may be at hand at a time */
    ids[turn] = id_of(n);
    return slice_of(ids[turn].bytes, MSG_ID_BYTES);
}

static struct slice chunk_key(uint64_t n, uint32_t index)
{
    static uint8_t keys[2][MSG_ID_BYTES + 4];
    static size_t turn;
    turn ^= 1;
    memcpy(keys[turn], id_key(n).data, MSG_ID_BYTES);
    be32_put(keys[turn] + MSG_ID_BYTES, index);
    return slice_of(keys[turn], sizeof keys[turn]);
}

static struct slice due_key(struct slice route, uint64_t due_q, uint64_t n)
{
    static uint8_t key[4 + 8 + MSG_ID_BYTES];
    be32_put(key, record_route(route));
    be64_put(key + 4, due_q);
    memcpy(key + 12, id_key(n).data, MSG_ID_BYTES);
    return slice_of(key, sizeof key);
}

static struct slice due_key_of(uint64_t n)
{
    struct want want = want_of(n);
    const char *route = want.state == MESSAGE_TRASHED  ? RECORD_ROUTE_NAME_TRASH
                        : want.state == MESSAGE_FAILED ? RECORD_ROUTE_NAME_DIGEST
                                                       : want.upstream;
    return due_key(slice_from_str(route), 5000 + mix(n) % 100000, n);
}

static struct slice garbage(void)
{
    return SLICE("\x02"
                 "Sno record at all");
}

/*
 * ---- classes of damage ----
 *
 * Messages of the queue, all there unless n is a multiple of three:
 *   5   failed, nobody waits for a digest; three chunks        7   trashed, no body
 *   10  queued at "main", device 192.0.2.7, four chunks        14  held
 *   16  failed, waits for the digest, has a trail              6   in the history
 */

static void envelope_seal(struct raw *r)
{
    raw_flip(r, "envelope", id_key(10), 40);
}

static void envelope_content(struct raw *r)
{
    raw_seal(r, "envelope", id_key(14), garbage());
}

static void envelope_gone(struct raw *r)
{
    raw_delete(r, "envelope", id_key(14));
}

static void envelope_of_another(struct raw *r)
{
    struct buf value = raw_get(r, "envelope", id_key(28));
    raw_put(r, "envelope", id_key(14), buf_slice(&value));
}

static void state_seal(struct raw *r)
{
    raw_flip(r, "state", id_key(10), 20);
}

static void state_content(struct raw *r)
{
    raw_seal(r, "state", id_key(14), garbage());
}

static void state_gone(struct raw *r)
{
    raw_delete(r, "state", id_key(14));
}

static void state_changed(struct raw *r, uint64_t n, const struct want *want)
{
    raw_seal(r, "state", id_key(n), state_make(want));
}

static void recipients_differ(struct raw *r)
{
    struct want want = want_of(14);
    want.recipients++;
    state_changed(r, 14, &want);
}

static void size_differs(struct raw *r)
{
    struct want want = want_of(14);
    want.n = 25; /* has a body */
    want.state = MESSAGE_HELD;
    state_changed(r, 14, &want);
}

static void trail_seal(struct raw *r)
{
    raw_flip(r, "trail", id_key(16), 12);
}

static void trail_content(struct raw *r)
{
    raw_seal(r, "trail", id_key(16), garbage());
}

static void trail_alone(struct raw *r)
{
    raw_seal(r, "trail", id_key(9), trail_make(9));
}

static void chunk_gone(struct raw *r)
{
    raw_delete(r, "chunk", chunk_key(10, 1));
}

static void last_chunk_gone(struct raw *r)
{
    raw_delete(r, "chunk", chunk_key(10, 3));
}

static void chunk_flipped(struct raw *r)
{
    raw_flip(r, "chunk", chunk_key(10, 2), 8000);
}

static void chunk_short(struct raw *r)
{
    struct buf value = raw_get(r, "chunk", chunk_key(10, 3));
    raw_put(r, "chunk", chunk_key(10, 3), slice_of(value.data, value.len - 1));
}

static void chunk_put(struct raw *r, struct slice key, struct slice bytes)
{
    static uint8_t memory[BODY_CHUNK_BYTES_MAX + 8];
    uint8_t length[4];
    be32_put(length, (uint32_t)bytes.len);
    memcpy(memory, length, 4);
    be32_put(memory + 4, crc32c(crc32c(crc32c(0, key), slice_of(length, 4)), bytes));
    memcpy(memory + 8, bytes.data, bytes.len);
    raw_put(r, "chunk", key, slice_of(memory, 8 + bytes.len));
}

static void chunk_swapped_for_another(struct raw *r)
{
    struct buf value = raw_get(r, "chunk", chunk_key(10, 2));
    value.data[100] ^= 1;
    chunk_put(r, chunk_key(10, 2), slice_of(value.data + 8, value.len - 8));
}

static void chunk_not_full(struct raw *r)
{
    struct buf value = raw_get(r, "chunk", chunk_key(10, 1));
    chunk_put(r, chunk_key(10, 1), slice_of(value.data + 8, value.len - 9));
}

static void chunk_too_much(struct raw *r)
{
    chunk_put(r, chunk_key(10, 4), SLICE("more"));
}

static void chunk_of_nobody(struct raw *r)
{
    chunk_put(r, chunk_key(9, 0), SLICE("left behind"));
}

static void chunk_of_the_history(struct raw *r)
{
    chunk_put(r, chunk_key(6, 0), SLICE("left behind"));
}

static void pieces_differ(struct raw *r)
{
    struct want want = want_of(10);
    raw_seal(r, "envelope", id_key(10), envelope_make(&want, 20000)); /* as three pieces */
}

static void due_gone(struct raw *r)
{
    raw_delete(r, "due", due_key_of(10));
}

static void due_of_the_trash_gone(struct raw *r)
{
    raw_delete(r, "due", due_key_of(7));
}

static void due_of_the_digest_gone(struct raw *r)
{
    raw_delete(r, "due", due_key_of(16));
}

static struct slice due_value(uint64_t n)
{
    static uint8_t value[8];
    struct want want = want_of(n);
    be32_put(value, record_flow(slice_from_str(want.device), SLICE("sender@example.jp")));
    be32_put(value + 4, (uint32_t)((body_bytes_of(n) + 1023) / 1024));
    return slice_of(value, sizeof value);
}

static void due_twice(struct raw *r)
{
    raw_seal(r, "due", due_key(SLICE("second"), 5000, 10), due_value(10));
}

static void due_unwanted(struct raw *r)
{
    raw_seal(r, "due", due_key(SLICE("main"), 5000, 14), due_value(14));
}

static void due_of_the_failed_unwanted(struct raw *r)
{
    raw_seal(r, "due", due_key(SLICE(RECORD_ROUTE_NAME_DIGEST), 5000 + mix(5) % 100000, 5),
             due_value(5));
}

static void due_of_nobody(struct raw *r)
{
    raw_seal(r, "due", due_key(SLICE("main"), 5000, 9), due_value(9));
}

static void due_seal(struct raw *r)
{
    raw_flip(r, "due", due_key_of(10), 9);
}

static void due_size(struct raw *r)
{
    raw_seal(r, "due", due_key_of(10), due_value(25));
}

static void due_key_cut(struct raw *r)
{
    raw_seal(r, "due", SLICE("xx"), due_value(10));
}

static void count_wrong(struct raw *r)
{
    raw_add(r, "count", SLICE("umain"), 8, 1);
}

static void count_low(struct raw *r)
{
    raw_add(r, "count", SLICE("dnas"), 0, UINT64_MAX);
}

static void count_gone(struct raw *r)
{
    raw_delete(r, "count", SLICE("d192.0.2.7"));
}

static void count_seal(struct raw *r)
{
    raw_flip(r, "count", SLICE("dprinter"), 3);
}

static void count_of_nothing(struct raw *r)
{
    static const uint8_t zeros[8 * MESSAGE_STATE_COUNT];
    raw_seal(r, "count", SLICE("dgone"), slice_of(zeros, sizeof zeros));
}

static void count_unknown(struct raw *r)
{
    uint8_t row[8 * MESSAGE_STATE_COUNT] = {[7] = 3};
    raw_seal(r, "count", SLICE("u\x1b[2Jghost"), slice_of(row, sizeof row));
}

static void history_seal(struct raw *r)
{
    raw_flip(r, "history", id_key(6), 30);
}

static void history_content(struct raw *r)
{
    struct buf value = raw_get(r, "history", id_key(6));
    value.data[19] ^= 0x10; /* the length of the envelope in it */
    raw_seal(r, "history", id_key(6), slice_of(value.data, value.len - 4));
}

static void history_put(struct raw *r, uint64_t n, const struct record_history *history)
{
    uint8_t memory[HISTORY_BYTES];
    struct buf bytes;
    buf_init(&bytes, memory, sizeof memory);
    record_history_put(&bytes, history);
    raw_seal(r, "history", id_key(n), buf_slice(&bytes));
}

static void history_parts(struct raw *r)
{
    struct buf before = raw_get(r, "history", id_key(6));
    struct record_history history;
    assert_int_equal(record_history_get(slice_head(buf_slice(&before), before.len - 4), &history),
                     ERR_OK);
    struct want want = want_of(6);
    want.recipients++;
    history.state = state_make(&want); /* of the same length: one recipient more, other device */
    history.trail = garbage();
    history_put(r, 6, &history);
}

static void history_and_queue(struct raw *r)
{
    struct want want = want_of(14);
    raw_seal(r, "history", id_key(14), history_make(&want, 65440));
}

static void upstream_seal(struct raw *r)
{
    raw_flip(r, "upstream", SLICE("main"), 5);
}

static void upstream_content(struct raw *r)
{
    raw_seal(r, "upstream", SLICE("other"), garbage());
}

static void intake_of_a_message(struct raw *r)
{
    uint8_t intake[12];
    be32_put(intake, 1);
    be64_put(intake + 4, body_bytes_of(10));
    raw_seal(r, "intake", id_key(10), slice_of(intake, sizeof intake));
}

static void intake_seal(struct raw *r)
{
    raw_flip(r, "intake", id_key(RECEIVING), 11);
}

static void intake_content(struct raw *r)
{
    raw_seal(r, "intake", id_key(RECEIVING), SLICE("short"));
}

static void intake_without_its_end(struct raw *r)
{
    raw_delete(r, "chunk", chunk_key(RECEIVING, 7));
}

static void intake_gone(struct raw *r)
{
    raw_delete(r, "intake", id_key(RECEIVING));
}

static void summary_seal(struct raw *r)
{
    raw_flip(r, "meta", SLICE("summary"), 3);
}

static void summary_gone(struct raw *r)
{
    raw_delete(r, "meta", SLICE("summary"));
}

static void summary_states(struct raw *r)
{
    raw_add(r, "meta", SLICE("summary"), 0, 1);
    raw_add(r, "meta", SLICE("summary"), 8, UINT64_MAX);
}

static void summary_bytes(struct raw *r)
{
    raw_add(r, "meta", SLICE("summary"), 32, 1);
}

static void summary_last_id(struct raw *r)
{
    raw_add(r, "meta", SLICE("summary"), 40, UINT64_MAX);
}

static void summary_promised(struct raw *r)
{
    raw_add(r, "meta", SLICE("summary"), 48, 7);
}

static void summary_history(struct raw *r)
{
    raw_add(r, "meta", SLICE("summary"), 64, 1);
    raw_add(r, "meta", SLICE("summary"), 72, 1);
}

static void note_seal(struct raw *r)
{
    raw_flip(r, "meta", SLICE("note:digest"), 2);
}

static void meta_unknown(struct raw *r)
{
    raw_seal(r, "meta", SLICE("something"), SLICE("else"));
}

static void format_seal(struct raw *r)
{
    raw_flip(r, "meta", SLICE("format"), 17);
}

static void format_chunk(struct raw *r)
{
    raw_add(r, "meta", SLICE("format"), 8, 100000);
}

static void key_cut(struct raw *r)
{
    raw_seal(r, "trail", SLICE("odd"), trail_make(1));
}

static void database_gone(struct raw *r)
{
    assert_int_equal(mdb_drop(r->txn, raw_dbi(r, "upstream"), 1), 0);
}

static const struct damage {
    const char *name;
    void (*make)(struct raw *r);
    uint64_t n;               /* of the message that is named; 0: none */
    const char *words[WORDS]; /* of all findings there are */
} damages[] = {
#define DAMAGE(fn, n, ...)                                                                         \
    {                                                                                              \
#fn, fn, n,                                                                                \
        {                                                                                          \
            __VA_ARGS__                                                                            \
        }                                                                                          \
    }
    DAMAGE(envelope_seal, 10, "\"envelope\" is damaged: the seal does not fit"),
    DAMAGE(envelope_content, 14, "its envelope cannot be decoded"),
    DAMAGE(envelope_gone, 14, "it has a state record, but no envelope"),
    DAMAGE(envelope_of_another, 14, "\"envelope\" is damaged: the seal does not fit"),
    DAMAGE(state_seal, 10, "\"state\" is damaged: the seal does not fit"),
    DAMAGE(state_content, 14, "its state record cannot be decoded"),
    DAMAGE(state_gone, 14, "it has an envelope, but no state record", "messages are held",
           "the summary says 40 messages, and there are 39", "bytes promised", "the count of the"),
    DAMAGE(recipients_differ, 14, "its envelope has 3 recipients, its state record 4",
           "bytes promised"),
    DAMAGE(size_differs, 14, "its state record says 64 KiB, its envelope 0 bytes"),
    DAMAGE(trail_seal, 16, "\"trail\" is damaged"),
    DAMAGE(trail_content, 16, "its trail cannot be decoded"),
    DAMAGE(trail_alone, 9, "it has a trail, but is not in the queue"),
    DAMAGE(chunk_gone, 10, "chunk 2 of its body does not follow the one before it"),
    DAMAGE(last_chunk_gone, 10, "its body has 49080 bytes, its envelope says 49970"),
    DAMAGE(chunk_flipped, 10, "chunk 2 of its body cannot be used"),
    DAMAGE(chunk_short, 10, "chunk 3 of its body cannot be used",
           "its body has 49969 bytes, its envelope says 49970"),
    DAMAGE(chunk_swapped_for_another, 10, "the checksum of its whole body does not fit"),
    DAMAGE(chunk_not_full, 10, "chunk 2 of its body does not follow the one before it"),
    DAMAGE(chunk_too_much, 10, "chunk 4 of its body does not follow", "its body has"),
    DAMAGE(chunk_of_nobody, 9, "1 chunks are there that belong to no message"),
    DAMAGE(chunk_of_the_history, 6, "1 chunks are there that belong to no message"),
    DAMAGE(pieces_differ, 10, "its envelope says 49970 bytes in 3 pieces"),
    DAMAGE(due_gone, 10, "it is queued, but the due index has no entry for that"),
    DAMAGE(due_of_the_trash_gone, 7, "it is trashed, but the due index has no entry for that"),
    DAMAGE(due_of_the_digest_gone, 16, "it is failed, but the due index has no entry for that"),
    DAMAGE(due_twice, 10,
           "the due index has an entry for it that its state (queued) does not want"),
    DAMAGE(due_unwanted, 14,
           "the due index has an entry for it that its state (held) does not want"),
    DAMAGE(due_of_the_failed_unwanted, 5,
           "the due index has an entry for it that its state (failed) does not want"),
    DAMAGE(due_of_nobody, 9, "the due index has an entry for it, but it is not in the queue"),
    DAMAGE(due_seal, 10, "its entry in the due index is damaged"),
    DAMAGE(due_size, 10, "its entry in the due index has another flow or size"),
    DAMAGE(due_key_cut, 0, "a key of 2 bytes in the due index is none"),
    DAMAGE(count_wrong, 0, "the count of the upstream \"main\" is"),
    DAMAGE(count_low, 0, "the count of the device \"nas\" is"),
    DAMAGE(count_gone, 2, "its device \"192.0.2.7\" has no count"),
    DAMAGE(count_seal, 0, "the count of the device \"printer\" is damaged"),
    DAMAGE(count_of_nothing, 0, "the count of the device \"gone\" is of no messages"),
    DAMAGE(count_unknown, 0, "the count of the upstream \"\\x1b[2Jghost\" is 3 queued"),
    DAMAGE(history_seal, 6, "\"history\" is damaged"),
    DAMAGE(history_content, 6, "its history record cannot be decoded"),
    DAMAGE(history_parts, 6, "its trail in the history cannot be decoded",
           "in the history its envelope has 1 recipients, its state record 2", "bytes of history"),
    DAMAGE(history_and_queue, 14, "it is in the queue and in the history too",
           "messages in the history", "bytes of history"),
    DAMAGE(upstream_seal, 0, "what is remembered of the upstream \"main\" is damaged"),
    DAMAGE(upstream_content, 0, "what is remembered of the upstream \"other\" is damaged"),
    DAMAGE(intake_of_a_message, 10, "it is listed as being received still, but has been taken"),
    DAMAGE(intake_seal, RECEIVING, "\"intake\" is damaged"),
    DAMAGE(intake_content, RECEIVING, "its entry as being received cannot be decoded"),
    DAMAGE(intake_without_its_end, RECEIVING, "of what is being received 114520 bytes are there"),
    DAMAGE(intake_gone, RECEIVING, "8 chunks are there that belong to no message"),
    DAMAGE(summary_seal, 0, "the summary is damaged"),
    DAMAGE(summary_gone, 0, "the summary is not there"),
    DAMAGE(summary_states, 0, "messages are queued", "messages are held"),
    DAMAGE(summary_bytes, 0, "bytes in bodies"),
    DAMAGE(summary_last_id, 0, "an id is newer than the newest one"),
    DAMAGE(summary_promised, 0, "bytes promised to state records"),
    DAMAGE(summary_history, 0, "messages in the history", "bytes of history"),
    DAMAGE(note_seal, 0, "what is kept as \"note:digest\" is damaged"),
    DAMAGE(meta_unknown, 0, "has an entry \"something\", which is unknown"),
    DAMAGE(format_seal, 0, "the format record is damaged"),
    DAMAGE(format_chunk, 0, "the format record says chunks of"),
    DAMAGE(key_cut, 0, "a key of 3 bytes in the database \"trail\" is no message's"),
    DAMAGE(database_gone, 0, "the database \"upstream\" is missing"),
#undef DAMAGE
};

/*
 * ---- the queue, and the damage in it ----
 */

static void queue_make(struct fixture *f)
{
    queue_open(f);
    queue_fill(f, MESSAGES);
    begin(f);
    body_append(f, RECEIVING, 2);
    commit(f);
    queue_close(f);
}

static enum err check(struct fixture *f, struct findings *found, struct store_check *out)
{
    *found = (struct findings){{0}, 0};
    enum err err = store_check(f->directory, finding_take, found, NULL, NULL, out, &f->report);
    assert_int_equal(found->count, out->findings);
    return err;
}

static void id_text(uint64_t n, char to[64])
{
    struct buf text;
    struct msg_id id = id_of(n);
    buf_init(&text, to, 63);
    msg_id_put_text(&text, &id);
    to[text.len] = '\0';
}

/* All findings that are listed, each in a line of its own, one of them with the id; and no other.
 */
static bool damage_is_named(const struct damage *d, const struct findings *found)
{
    uint64_t count = 0;
    char id[64];
    id_text(d->n, id);
    bool named =
        d->n == 0 ? strstr(found->text, "message 0") == NULL : strstr(found->text, id) != NULL;
    for (size_t index = 0; index < WORDS && d->words[index] != NULL; index++) {
        named = named && strstr(found->text, d->words[index]) != NULL;
        count++;
    }
    return named && found->count >= count;
}

/* How many findings there are that no word accounts for. */
static uint64_t unexpected(const struct damage *d, const struct findings *found)
{
    uint64_t count = 0;
    struct slice rest = slice_from_str(found->text);
    while (rest.len > 0) {
        struct slice line = slice_head(rest, slice_find(rest, '\n'));
        bool known = false;
        for (size_t index = 0; index < WORDS && d->words[index] != NULL; index++) {
            const char *words = d->words[index];
            known = known || memmem(line.data, line.len, words, strlen(words)) != NULL;
        }
        count += !known;
        rest = slice_tail(rest, line.len + 1);
    }
    return count;
}

static void test_each_class_of_damage_is_named(void **state)
{
    struct fixture *f = *state;
    static struct findings found;
    struct store_check out;
    char data[160];
    char whole[160];
    queue_make(f);
    file_path(f, "data.mdb", data);
    snprintf(whole, sizeof whole, "%s/whole.mdb", f->root);
    file_copy(data, whole);
    for (size_t index = 0; index < sizeof damages / sizeof damages[0]; index += turns(1, 21)) {
        const struct damage *d = &damages[index];
        file_copy(whole, data);
        raw_do(f->directory, d->make);
        enum err err = check(f, &found, &out);
        bool named = damage_is_named(d, &found);
        if (err != ERR_DAMAGED || !named) {
            print_error("%s: %s\n%s", d->name, err_text(err), found.text);
        }
        assert_int_equal(err, ERR_DAMAGED);
        assert_true(named);
        if (unexpected(d, &found) != 0) {
            print_error("%s:\n%s", d->name, found.text);
            fail();
        }
        assert_non_null(strstr(f->report.problem, "finding"));
    }
}

/* Several at once: the check goes on behind each. */
static void much_damage(struct raw *r)
{
    envelope_seal(r);
    state_content(r);
    trail_content(r);
    due_of_nobody(r);
    count_gone(r);
    upstream_content(r);
}

static void test_the_check_goes_on_after_findings(void **state)
{
    struct fixture *f = *state;
    static struct findings found;
    struct store_check out;
    queue_make(f);
    raw_do(f->directory, much_damage);
    assert_int_equal(check(f, &found, &out), ERR_DAMAGED);
    assert_int_equal(out.findings, 6);
    assert_non_null(strstr(f->report.problem, "6 findings, the first: message "));
    assert_int_equal(out.messages, MESSAGES * 2 / 3);
    assert_int_equal(out.history, MESSAGES / 6);
}

#define LOST turns(1500, 1010)

static void all_trails_lost(struct raw *r)
{
    for (uint64_t n = 5000; n < 5000 + LOST; n++) {
        raw_seal(r, "trail", id_key(n), trail_make(n));
    }
}

static void test_of_very_many_findings_the_first_are_told(void **state)
{
    struct fixture *f = *state;
    static struct findings found;
    struct store_check out;
    queue_make(f);
    raw_do(f->directory, all_trails_lost);
    found = (struct findings){{0}, 0};
    assert_int_equal(store_check(f->directory, finding_take, &found, NULL, NULL, &out, &f->report),
                     ERR_DAMAGED);
    assert_int_equal(out.findings, LOST);
    assert_int_equal(found.count, 1001);
}

/*
 * ---- sound queues ----
 */

static void test_sound_queue_is_sound(void **state)
{
    struct fixture *f = *state;
    static struct findings found;
    struct store_check out;
    queue_make(f);
    assert_int_equal(check(f, &found, &out), ERR_OK);
    assert_string_equal(f->report.problem, "");
    assert_int_equal(out.messages, MESSAGES * 2 / 3);
    assert_int_equal(out.history, MESSAGES / 6);
    assert_true(out.chunks > turns(40, 20) && out.pages > turns(50, 25));
    queue_open(f);
    queue_close(f);
    assert_int_equal(check(f, &found, &out), ERR_OK);
}

static void test_empty_queue_is_sound(void **state)
{
    struct fixture *f = *state;
    static struct findings found;
    struct store_check out;
    queue_open(f);
    queue_close(f);
    assert_int_equal(check(f, &found, &out), ERR_OK);
    assert_int_equal(out.messages + out.history + out.chunks, 0);
}

/* After all that the store does to a queue, by chance. */
static void test_queue_stays_sound_through_random_operations(void **state)
{
    struct fixture *f = *state;
    bool there[200] = {false};
    uint64_t turn = 0;
    for (int round = 0; round < (int)turns(4, 2); round++) {
        queue_open(f);
        for (int step = 0; step < (int)turns(150, 15); step++) {
            uint64_t random = mix(++turn);
            uint64_t n = 1 + random % turns(199, 7);
            struct want want = want_of(n);
            struct msg_id id = id_of(n);
            begin(f);
            if (!there[n]) {
                message_add(f, &want);
                there[n] = true;
            } else if (random >> 32 & 1) {
                want.state = (enum message_state)((random >> 33) % MESSAGE_STATE_COUNT);
                want.upstream = random >> 40 & 1 ? "third" : "main";
                assert_int_equal(store_message_update(f->store, &id, state_make(&want)), ERR_OK);
                assert_int_equal(store_trail_set(f->store, &id, trail_make(turn)), ERR_OK);
            } else {
                message_leave(f, n, false);
                there[n] = false;
            }
            if (random >> 41 & 1) {
                commit(f);
            } else {
                store_abort(f->store);
                begin(f); /* see what is there */
                struct slice envelope;
                there[n] = store_envelope_get(f->store, &id, &envelope) == ERR_OK;
                store_abort(f->store);
            }
        }
        queue_close(f);
        assert_sound(f, f->directory);
    }
}

static int child_checks(struct fixture *f, struct beside *b)
{
    static struct findings found;
    struct store_check out;
    for (int round = 0; round < (int)turns(5, 1); round++) {
        found = (struct findings){{0}, 0};
        if (!beside_progress(b, 0, 0) ||
            store_check(f->directory, finding_take, &found, beside_progress, b, &out, &f->report) !=
                ERR_OK) {
            print_error("%s\n%s", f->report.problem, found.text);
            return 1;
        }
    }
    return 0;
}

static void test_check_beside_a_writer_at_work(void **state)
{
    struct fixture *f = *state;
    struct beside b;
    queue_make(f);
    queue_open(f);
    beside_init(&b);
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        _exit(child_checks(f, &b));
    }
    assert_true(beside_write(f, &b, pid, 1000) >= turns(5, 1));
}

/* More rows of counts than are counted in one pass. */
static void test_counts_of_very_many_devices(void **state)
{
    struct fixture *f = *state;
    static struct findings found;
    struct store_check out;
    char device[16];
    queue_open(f);
    for (uint64_t n = 7; n <= 7 * MANY;) {
        begin(f);
        for (int batch = 0; batch < 1000 && n <= 7 * MANY; batch++, n += 7) { /* no bodies */
            struct want want = want_of(n);
            snprintf(device, sizeof device, "d%llu", (unsigned long long)n);
            want.device = device;
            message_add(f, &want);
        }
        commit(f);
    }
    queue_close(f);
    assert_int_equal(check(f, &found, &out), ERR_OK);
    assert_int_equal(out.messages, MANY);
    raw_do(f->directory, count_unknown);
    assert_int_equal(check(f, &found, &out), ERR_DAMAGED);
    assert_int_equal(out.findings, 1);
}

/*
 * ---- what cannot be checked ----
 */

static void format_newer(struct raw *r)
{
    struct buf value = raw_get(r, "meta", SLICE("format"));
    be32_put(value.data + 8, 3);
    raw_seal(r, "meta", SLICE("format"), slice_of(value.data, value.len - 4));
}

static void format_older(struct raw *r)
{
    struct buf value = raw_get(r, "meta", SLICE("format"));
    be32_put(value.data + 8, 1);
    raw_seal(r, "meta", SLICE("format"), slice_of(value.data, value.len - 4));
}

static void upgrade_open(struct raw *r)
{
    raw_seal(r, "meta", SLICE("upgrade"), id_key(5));
}

static void test_other_formats_are_refused_in_words(void **state)
{
    struct fixture *f = *state;
    static struct findings found;
    struct store_check out;
    queue_make(f);
    raw_do(f->directory, upgrade_open);
    assert_int_equal(check(f, &found, &out), ERR_UNSUPPORTED);
    assert_non_null(strstr(f->report.problem, "not finished"));
    raw_do(f->directory, format_newer);
    assert_int_equal(check(f, &found, &out), ERR_VERSION);
    assert_non_null(strstr(f->report.problem, "format 3"));
    raw_do(f->directory, format_older);
    assert_int_equal(check(f, &found, &out), ERR_UNSUPPORTED);
    assert_non_null(strstr(f->report.problem, "start tasukid once"));
    assert_int_equal(out.findings, 0);
}

static void test_damaged_pages_are_a_finding_and_nothing_is_read_of_them(void **state)
{
    struct fixture *f = *state;
    static struct findings found;
    struct store_check out;
    char data[160];
    queue_make(f);
    file_path(f, "data.mdb", data);
    int fd = open(data, O_RDWR | O_CLOEXEC);
    uint64_t damaged = 0;
    for (off_t page = 2; page < 40; page += (off_t)turns(1, 9)) {
        uint16_t lower; /* the lower bound of what it holds */
        uint16_t wrong = 0xfff0;
        assert_int_equal(pread(fd, &lower, sizeof lower, page * 4096 + 12), sizeof lower);
        assert_int_equal(pwrite(fd, &wrong, sizeof wrong, page * 4096 + 12), sizeof wrong);
        enum err err = check(f, &found, &out);
        assert_true(err == ERR_OK || err == ERR_DAMAGED);
        damaged += err == ERR_DAMAGED && out.findings == 1;
        assert_int_equal(pwrite(fd, &lower, sizeof lower, page * 4096 + 12), sizeof lower);
    }
    assert_true(damaged >= turns(5, 1));
    assert_int_equal(check(f, &found, &out), ERR_OK);
    assert_int_equal(ftruncate(fd, 8 * 4096), 0);
    close(fd);
    assert_int_equal(check(f, &found, &out), ERR_DAMAGED);
    assert_int_equal(out.findings, 1);
    unlink(data);
    assert_int_equal(check(f, &found, &out), ERR_NOT_FOUND);
    assert_non_null(strstr(f->report.problem, "data.mdb"));
}

struct watched {
    uint64_t calls, last, stop_at;
    bool went_back;
};

static bool watch(void *ctx, uint64_t done, uint64_t total)
{
    struct watched *w = ctx;
    w->calls++;
    w->went_back = w->went_back || done < w->last || done > total;
    w->last = done;
    return w->calls != w->stop_at;
}

static void test_check_tells_progress_and_can_be_stopped(void **state)
{
    struct fixture *f = *state;
    static struct findings found;
    struct store_check out;
    queue_open(f);
    queue_fill(f, turns(600, 120));
    queue_close(f);
    struct watched whole = {0};
    assert_int_equal(
        store_check(f->directory, finding_take, &found, watch, &whole, &out, &f->report), ERR_OK);
    assert_true(whole.calls >= turns(4, 1));
    assert_false(whole.went_back);
    for (uint64_t stop_at = 1; stop_at <= whole.calls; stop_at += turns(1, 8)) {
        struct watched w = {.stop_at = stop_at};
        assert_int_equal(
            store_check(f->directory, finding_take, &found, watch, &w, &out, &f->report),
            ERR_CANCELLED);
        assert_int_equal(w.calls, stop_at);
        assert_true(strlen(f->report.problem) > 0);
    }
}

/* The writer's file is almost as large as it may get, while a check keeps pages from it. */
static bool grow(void *ctx, uint64_t done, uint64_t total)
{
    const int *pipes = ctx;
    char byte = 'g';
    (void)total;
    if (done > 0) {
        (void)!write(pipes[1], &byte, 1); /* now the writer writes; then go on */
        (void)!read(pipes[2], &byte, 1);
    }
    return true;
}

/* A MiB of a body under way. */
static enum err large_commit(struct fixture *f, uint64_t number)
{
    static const uint8_t piece[BODY_CHUNK_BYTES_MAX];
    struct msg_id id = id_of(5000000 + number);
    size_t bytes = store_piece_bytes(f->store);
    enum err err = store_begin(f->store);
    for (uint32_t index = 0; err == ERR_OK && index * bytes < MIB; index++) {
        err = store_body_append(f->store, &id, index, slice_of(piece, bytes));
    }
    return err == ERR_OK ? store_commit(f->store) : err;
}

/* A queue whose map has room for 67 MiB. */
static void small_map(struct fixture *f)
{
    f->config.queue_bytes_max = 2 * MIB;
    f->config.history_bytes_max = 1 * MIB;
    f->config.chunk_bytes = (uint32_t)turns(0, 65536);
}

struct disk {
    uint64_t bytes, free_bytes;
};

#define DISK_LARGE                                                                                 \
    {                                                                                              \
        1024 * 1024 * MIB, 1024 * 1024 * MIB                                                       \
    }

static struct disk disk = DISK_LARGE; /* as the store sees it; see the end */

/* The writer commits 62 MiB while a check reads, which gives way, or comes to its end. */
static void check_beside_growth(struct fixture *f, struct disk seen, bool gives_way)
{
    int up[2];
    int down[2];
    queue_open(f);
    begin(f);
    for (uint64_t n = 7; n <= 7 * turns(300, 130); n += 7) { /* many rows, no bodies */
        struct want want = want_of(n);
        message_add(f, &want);
    }
    commit(f);
    assert_int_equal(pipe(up), 0);
    assert_int_equal(pipe(down), 0);
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        static struct findings found;
        struct store_check out;
        int pipes[3] = {-1, up[1], down[0]};
        close(up[0]);
        close(down[1]);
        disk = seen;
        enum err err =
            store_check(f->directory, finding_take, &found, grow, pipes, &out, &f->report);
        bool gave_way = err == ERR_LIMIT && strstr(f->report.problem, "taking mail") != NULL;
        bool right = gives_way ? gave_way : err == ERR_OK;
        if (!right) {
            print_error("%s: %s\n%s", err_text(err), f->report.problem, found.text);
        }
        _exit(right ? 0 : 1);
    }
    close(up[1]);
    close(down[0]);
    char byte;
    enum err err = ERR_OK;
    uint64_t bodies = 0;
    while (read(up[0], &byte, 1) == 1) {
        while (err == ERR_OK && bodies < 62) {
            err = large_commit(f, ++bodies);
        }
        assert_true(write(down[1], &byte, 1) == 1 || errno == EPIPE);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    assert_int_equal(err, ERR_OK);
    close(up[0]);
    close(down[1]);
}

static void test_check_gives_way_before_the_map_is_full(void **state)
{
    struct fixture *f = *state;
    small_map(f);
    check_beside_growth(f, (struct disk)DISK_LARGE, true);
}

/* LMDB remembers the longest map; the writer's is shorter. */
static void test_check_gives_way_after_queue_max_was_lowered(void **state)
{
    struct fixture *f = *state;
    f->config.queue_bytes_max = 512 * MIB;
    queue_open(f);
    begin(f);
    struct want want = want_of(1);
    message_add(f, &want);
    commit(f);
    queue_close(f);
    small_map(f);
    check_beside_growth(f, (struct disk)DISK_LARGE, true);
}

static void test_check_gives_way_before_the_disk_is_full(void **state)
{
    struct fixture *f = *state;
    check_beside_growth(f, (struct disk){1024 * MIB, 15 * MIB}, true);
}

static void test_check_goes_on_where_the_disk_has_room(void **state)
{
    struct fixture *f = *state;
    check_beside_growth(f, (struct disk){1024 * MIB, 17 * MIB}, false);
}

/* What a large disk must have left may be more than a small one ever had. */
static void test_check_goes_on_where_a_small_disk_has_room(void **state)
{
    struct fixture *f = *state;
    check_beside_growth(f, (struct disk){96 * MIB, 13 * MIB}, false);
}

static void test_check_gives_way_on_a_small_disk(void **state)
{
    struct fixture *f = *state;
    check_beside_growth(f, (struct disk){96 * MIB, 11 * MIB}, true);
}

/* Before new mail is refused for want of blocks. */
static void test_check_gives_way_on_a_tiny_disk(void **state)
{
    struct fixture *f = *state;
    check_beside_growth(f, (struct disk){24 * MIB, 7 * MIB}, true);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_sound_queue_is_sound),
        CASE(test_empty_queue_is_sound),
        CASE(test_queue_stays_sound_through_random_operations),
        CASE(test_check_beside_a_writer_at_work),
        CASE(test_counts_of_very_many_devices),
        CASE(test_each_class_of_damage_is_named),
        CASE(test_the_check_goes_on_after_findings),
        CASE(test_of_very_many_findings_the_first_are_told),
        CASE(test_other_formats_are_refused_in_words),
        CASE(test_damaged_pages_are_a_finding_and_nothing_is_read_of_them),
        CASE(test_check_tells_progress_and_can_be_stopped),
        CASE(test_check_gives_way_before_the_map_is_full),
        CASE(test_check_gives_way_after_queue_max_was_lowered),
        CASE(test_check_gives_way_before_the_disk_is_full),
        CASE(test_check_goes_on_where_the_disk_has_room),
        CASE(test_check_goes_on_where_a_small_disk_has_room),
        CASE(test_check_gives_way_on_a_small_disk),
        CASE(test_check_gives_way_on_a_tiny_disk),
    };
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Before libc's, for everything in this process. */
int fstatvfs(int fd, struct statvfs *fs)
{
    (void)fd;
    *fs = (struct statvfs){
        .f_frsize = 4096, .f_blocks = disk.bytes / 4096, .f_bavail = disk.free_bytes / 4096};
    return 0;
}
