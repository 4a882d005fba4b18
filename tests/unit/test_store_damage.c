/*
 * A queue in which something is damaged: what is sound is not lost with it. The damage is written
 * with LMDB itself, or into the file while it is in use.
 */
#include "tests/unit/store_fixture.h"
#include "tests/unit/store_raw.h"

/* Message 1, as it is put here. */
#define BODY_BYTES 100000u

static struct slice id_key(uint64_t n)
{
    static struct msg_id id;
    id = id_of(n);
    return slice_of(id.bytes, MSG_ID_BYTES);
}

static struct slice chunk_key(uint64_t n, uint32_t index)
{
    static uint8_t key[MSG_ID_BYTES + 4];
    memcpy(key, id_key(n).data, MSG_ID_BYTES);
    be32_put(key + MSG_ID_BYTES, index);
    return slice_of(key, sizeof key);
}

/*
 * ---- the list of bodies being received ----
 */

static void intake_of_a_message(struct raw *r)
{
    raw_put(r, "intake", id_key(1), SLICE("no entry at all"));
}

static void test_a_stale_entry_in_the_list_does_not_take_the_body_of_its_message(void **state)
{
    struct fixture *f = *state;
    queue_open(f);
    message_commit(f, 1, BODY_BYTES, &plain);
    assert_int_equal(store_begin(f->store), ERR_OK);
    body_append(f, 2, BODY_BYTES, 0); /* and another one is really on the list */
    assert_int_equal(store_commit(f->store), ERR_OK);
    queue_close(f);
    raw_do(f->directory, intake_of_a_message);
    queue_open(f);
    assert_int_equal(f->report.discarded, 1);
    assert_int_equal(message_read(f->reader, 1), ERR_OK);
    assert_int_equal(body_read(f->reader, 1, BODY_BYTES, 65536), ERR_OK);
    queue_check(f, false);
}

/*
 * ---- the sum of bodies ----
 */

static void chunk_gone(struct raw *r)
{
    raw_delete(r, "chunk", chunk_key(1, 1));
}

static void test_a_lost_chunk_leaves_nothing_in_the_sum_of_bodies(void **state)
{
    struct fixture *f = *state;
    queue_open(f);
    message_commit(f, 1, BODY_BYTES, &plain);
    message_commit(f, 2, 500, &plain);
    queue_close(f);
    raw_do(f->directory, chunk_gone);
    queue_open(f);
    message_drop(f, 1);
    assert_int_equal(summary_of(f).body_bytes, 500);
    queue_check(f, false);
}

/* The sum of a program that let it drift. */
static void sum_drifted(struct raw *r)
{
    MDB_val key = raw_val(SLICE("summary"));
    MDB_val value;
    static uint8_t bytes[256];
    assert_int_equal(mdb_get(r->txn, raw_dbi(r, "meta"), &key, &value), 0);
    size_t len = value.mv_size - 4;
    assert_true(len <= sizeof bytes - 4);
    memcpy(bytes, value.mv_data, len);
    be64_put(bytes + 8 * MESSAGE_STATE_COUNT, BODY_BYTES);
    be32_put(bytes + len, crc32c(crc32c(0, SLICE("summary")), slice_of(bytes, len)));
    raw_put(r, "meta", SLICE("summary"), slice_of(bytes, len + 4));
}

static void test_an_empty_queue_has_no_bytes_in_bodies(void **state)
{
    struct fixture *f = *state;
    queue_open(f);
    queue_close(f);
    raw_do(f->directory, sum_drifted);
    queue_open(f);
    assert_int_equal(summary_of(f).body_bytes, 0);
    queue_check(f, false);
}

/*
 * ---- the due index ----
 */

/* The entries of messages 1 and 2 are a second early, with seals that fit. */
static void entries_early(struct raw *r)
{
    for (uint64_t n = 1; n <= 2; n++) {
        uint8_t key[12 + MSG_ID_BYTES];
        uint8_t value[12] = {0};
        be32_put(key, record_route(SLICE("main")));
        be64_put(key + 4, 2000 + n);
        memcpy(key + 12, id_key(n).data, MSG_ID_BYTES);
        raw_delete(r, "due", slice_of(key, sizeof key));
        be64_put(key + 4, 1000 + n);
        be32_put(value + 8, crc32c(crc32c(0, slice_of(key, sizeof key)), slice_of(value, 8)));
        raw_put(r, "due", slice_of(key, sizeof key), slice_of(value, sizeof value));
    }
}

/* One that does not is found by whoever moves its message; the others are set right with it. */
static void test_the_index_says_what_the_states_say(void **state)
{
    struct fixture *f = *state;
    struct store_due due[4];
    enum err err;
    uint32_t route = record_route(SLICE("main"));
    queue_open(f);
    for (uint64_t n = 1; n <= 3; n++) {
        struct want want = plain;
        want.due_q = 2000 + n;
        message_commit(f, n, 10, &want);
    }
    queue_close(f);
    raw_do(f->directory, entries_early);
    queue_open(f);
    assert_int_equal(store_due_after(f->store, route, NULL, due, 4, &err), 3);
    assert_int_equal(due[1].due_q, 1002);
    message_drop(f, 1);
    assert_int_equal(store_due_after(f->store, route, NULL, due, 4, &err), 2);
    assert_int_equal(due[0].due_q, 2002);
    assert_int_equal(due[1].due_q, 2003);
    queue_check(f, false);
}

/*
 * ---- pages ----
 */

/* More than opening looks through, when there is no reason to. */
#define HISTORY 6000u

static void assert_refused(struct fixture *f, const char *words)
{
    assert_int_equal(queue_try(f), ERR_DAMAGED);
    if (strstr(f->report.problem, words) == NULL) {
        fail_msg("not \"%s\": %s", words, f->report.problem);
    }
}

/* The queue opens, since the page is deep down. Whoever writes comes upon it: nothing happens then,
 * and the next opening finds it. */
static void test_a_damaged_page_stops_the_writer_and_the_next_opening(void **state)
{
    struct fixture *f = *state;
    struct msg_id id = id_of(HISTORY + 1);
    char words[64];
    queue_open(f);
    assert_int_equal(store_begin(f->store), ERR_OK);
    for (uint64_t n = 1; n <= HISTORY; n++) {
        message_put(f, n, 0, &plain);
        message_leave(f, n, n, 600);
    }
    assert_int_equal(store_commit(f->store), ERR_OK);
    message_commit(f, HISTORY + 1, 500, &plain);
    queue_close(f);
    uint64_t page = raw_last_page(f->directory, "history");
    raw_page_zero(f->directory, page);
    queue_open(f);
    assert_int_equal(store_begin(f->store), ERR_OK);
    assert_int_equal(store_message_remove(f->store, &id, history_make(&plain, 1, 10)),
                     ERR_IN_DOUBT);
    assert_int_equal(store_commit(f->store), ERR_IN_DOUBT);
    assert_int_equal(store_begin(f->store), ERR_IN_DOUBT);
    assert_non_null(strstr(store_doubt(f->store), "page"));
    assert_int_equal(message_read(f->reader, HISTORY + 1), ERR_OK);
    assert_int_equal(body_read(f->reader, HISTORY + 1, 500, 65536), ERR_OK);
    queue_close(f);
    snprintf(words, sizeof words, "page %llu", (unsigned long long)page);
    assert_refused(f, words);
    assert_refused(f, words);
}

/* To who only reads it is damage of what is read, and nothing else. */
static void test_a_damaged_page_is_damage_to_a_reader(void **state)
{
    struct fixture *f = *state;
    static uint8_t memory[RECORD_BYTES];
    struct buf to;
    struct msg_id id = id_of(1);
    size_t needed;
    queue_open(f);
    assert_int_equal(store_begin(f->store), ERR_OK);
    message_put(f, 1, 0, &plain);
    message_leave(f, 1, 1, 600);
    assert_int_equal(store_commit(f->store), ERR_OK);
    queue_close(f);
    uint64_t page = raw_last_page(f->directory, "history");
    queue_open(f);
    raw_page_zero(f->directory, page);
    buf_init(&to, memory, sizeof memory);
    assert_int_equal(store_read_history(f->reader, &id, &to, &needed), ERR_DAMAGED);
    message_commit(f, 2, 500, &plain);
    assert_int_equal(message_read(f->reader, 2), ERR_OK);
}

/* The index is made anew from the states; where its pages cannot even be freed, that is said. */
static void test_a_damaged_page_of_the_index_is_told(void **state)
{
    struct fixture *f = *state;
    struct store_due due[4];
    enum err err;
    queue_open(f);
    message_commit(f, 1, 10, &plain);
    queue_close(f);
    uint64_t page = raw_last_page(f->directory, "due");
    queue_open(f);
    raw_page_zero(f->directory, page);
    assert_int_equal(store_due_after(f->store, record_route(SLICE("main")), NULL, due, 4, &err), 0);
    assert_int_equal(err, ERR_IN_DOUBT);
    queue_close(f);
    assert_refused(f, "page");
}

/*
 * ---- runs of overflow pages ----
 *
 * LMDB frees what the first page of a run says. One bit of it flips while the queue is in use.
 */

#define RUN_FLAGS  10 /* where they are in the page */
#define RUN_PAGES  12
#define NEIGHBOURS 40u
#define RUN_BYTES  3500u

static const struct want long_state = {
    .state = MESSAGE_QUEUED, .upstream = "main", .due_q = 1000, .recipients = 20, .text = 300};

static void neighbours_put(struct fixture *f)
{
    queue_open(f);
    for (uint64_t n = 1; n <= NEIGHBOURS; n++) {
        message_commit(f, n, RUN_BYTES, &long_state);
    }
    queue_close(f);
}

/* Message 5 was not removed, and nobody else has lost anything. */
static void assert_all_there(struct fixture *f)
{
    for (uint64_t n = 1; n <= NEIGHBOURS; n++) {
        assert_int_equal(message_read(f->reader, n), ERR_OK);
        assert_int_equal(body_read(f->reader, n, RUN_BYTES, 65536), ERR_OK);
    }
}

static void run_flips(struct fixture *f, const char *db, struct slice key, size_t at, uint8_t mask)
{
    struct msg_id id = id_of(5);
    neighbours_put(f);
    uint64_t page = raw_run_page(f->directory, db, key);
    queue_open(f);
    raw_page_flip(f->directory, page, at, mask);
    assert_int_equal(store_begin(f->store), ERR_OK);
    assert_int_equal(store_message_remove(f->store, &id, nothing), ERR_IN_DOUBT);
    store_abort(f->store);
    assert_all_there(f);
    queue_close(f);
    assert_refused(f, "is damaged, page");
}

static void test_a_run_of_too_many_pages_takes_nobody_with_it(void **state)
{
    run_flips(*state, "chunk", chunk_key(5, 0), RUN_PAGES, 0x10);
}

static void test_a_run_that_is_none_is_not_freed(void **state)
{
    run_flips(*state, "chunk", chunk_key(5, 0), RUN_FLAGS, 0x04);
}

static void test_a_run_that_seems_not_written_yet_is_not_freed(void **state)
{
    run_flips(*state, "state", id_key(5), RUN_FLAGS, 0x10);
}

static void test_a_run_of_another_number_is_not_freed(void **state)
{
    run_flips(*state, "state", id_key(5), 0, 0x01);
}

static void test_a_run_is_judged_before_it_is_replaced(void **state)
{
    struct fixture *f = *state;
    struct msg_id id = id_of(5);
    neighbours_put(f);
    uint64_t page = raw_run_page(f->directory, "state", id_key(5));
    queue_open(f);
    raw_page_flip(f->directory, page, 0, 0x01);
    assert_int_equal(store_begin(f->store), ERR_OK);
    assert_int_equal(store_message_update(f->store, &id, state_make(&plain)), ERR_IN_DOUBT);
    store_abort(f->store);
    assert_all_there(f);
}

/* Where it is still in memory, because the open transaction has written it, it is sound; and it may
 * be longer than what stands in it by now. */
static void test_a_run_that_was_just_written_is_freed(void **state)
{
    struct fixture *f = *state;
    struct msg_id ids[2] = {id_of(101), id_of(102)};
    neighbours_put(f);
    queue_open(f);
    assert_int_equal(store_begin(f->store), ERR_OK);
    message_put(f, 101, RUN_BYTES, &long_state);
    message_put(f, 102, 60000, &long_state);
    assert_int_equal(store_message_update(f->store, &ids[0], state_make(&plain)), ERR_OK);
    assert_int_equal(store_message_remove(f->store, &ids[1], nothing), ERR_OK);
    assert_int_equal(store_commit(f->store), ERR_OK);
    queue_close(f);
    (void)raw_run_page(f->directory, "state", id_key(101)); /* it is in one, though short */
    queue_open(f);
    message_drop(f, 101);
    assert_all_there(f);
    queue_check(f, false);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_a_stale_entry_in_the_list_does_not_take_the_body_of_its_message),
        CASE(test_a_lost_chunk_leaves_nothing_in_the_sum_of_bodies),
        CASE(test_an_empty_queue_has_no_bytes_in_bodies),
        CASE(test_the_index_says_what_the_states_say),
        CASE(test_a_damaged_page_stops_the_writer_and_the_next_opening),
        CASE(test_a_damaged_page_is_damage_to_a_reader),
        CASE(test_a_damaged_page_of_the_index_is_told),
        CASE(test_a_run_of_too_many_pages_takes_nobody_with_it),
        CASE(test_a_run_that_is_none_is_not_freed),
        CASE(test_a_run_that_seems_not_written_yet_is_not_freed),
        CASE(test_a_run_of_another_number_is_not_freed),
        CASE(test_a_run_is_judged_before_it_is_replaced),
        CASE(test_a_run_that_was_just_written_is_freed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
