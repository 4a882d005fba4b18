/*
 * A queue in which something is damaged, as its owner meets it: nothing is sent twice for it, and
 * no other message has to stay. The damage is written with LMDB itself, or into the file while it
 * is in use.
 */
#include "tests/unit/queue_use.h"
#include "tests/unit/store_raw.h"

#include "daemon/base/num.h"

#define ROUNDS 4

static struct fixture *f;
static struct msg_id victim; /* whose entry in the due index is damaged */

static int setup_damage(void **state)
{
    int result = setup_use(state);
    f = *state;
    return result;
}

/*
 * ---- the due index ----
 *
 * It follows from the states, so whatever it says cannot be a reason not to do what is to be done.
 */

#define DUE_KEY_BYTES   (4 + 8 + MSG_ID_BYTES)
#define DUE_VALUE_BYTES 12

struct due_entry {
    uint8_t key[DUE_KEY_BYTES];
    uint8_t value[DUE_VALUE_BYTES];
};

static struct due_entry due_take(struct raw *r)
{
    struct due_entry entry;
    MDB_cursor *cursor;
    MDB_val key, value;
    assert_int_equal(mdb_cursor_open(r->txn, raw_dbi(r, "due"), &cursor), 0);
    do {
        assert_int_equal(mdb_cursor_get(cursor, &key, &value, MDB_NEXT), 0);
    } while (memcmp((uint8_t *)key.mv_data + 12, victim.bytes, MSG_ID_BYTES) != 0);
    assert_int_equal(key.mv_size, sizeof entry.key);
    assert_int_equal(value.mv_size, sizeof entry.value);
    memcpy(entry.key, key.mv_data, sizeof entry.key);
    memcpy(entry.value, value.mv_data, sizeof entry.value);
    assert_int_equal(mdb_cursor_del(cursor, 0), 0);
    mdb_cursor_close(cursor);
    return entry;
}

static void due_give(struct raw *r, struct due_entry *entry)
{
    struct slice key = slice_of(entry->key, sizeof entry->key);
    be32_put(entry->value + DUE_VALUE_BYTES - 4,
             crc32c(crc32c(0, key), slice_of(entry->value, DUE_VALUE_BYTES - 4)));
    raw_put(r, "due", key, slice_of(entry->value, sizeof entry->value));
}

/* As in a page that the disk has not written: the seal fits, the number of entries is right, and
 * the time is one before that of the state. */
static void entry_old(struct raw *r)
{
    struct due_entry entry = due_take(r);
    be64_put(entry.key + 4, be64_get(entry.key + 4) - 60000);
    due_give(r, &entry);
}

/* One of long ago: what is in the trash is over its time. */
static void entry_ripe(struct raw *r)
{
    struct due_entry entry = due_take(r);
    be64_put(entry.key + 4, 1);
    due_give(r, &entry);
}

/* In the trash, where it has been for long, there is a message that there is not. */
static void entry_of_nobody(struct raw *r)
{
    struct due_entry entry = due_take(r);
    be32_put(entry.key, record_route(SLICE(RECORD_ROUTE_NAME_TRASH)));
    be64_put(entry.key + 4, 1);
    memset(entry.key + 12, 'n', MSG_ID_BYTES);
    due_give(r, &entry);
}

static void damage(void (*make)(struct raw *r), struct msg_id id)
{
    victim = id;
    raw_do(f->directory, make);
}

/* How often a message goes upstream, which takes it each time, over some starts. */
static uint32_t deliveries(struct msg_id id)
{
    uint32_t count = 0;
    struct on_disk m = {.err = ERR_OK};
    for (uint32_t round = 0; round < ROUNDS && m.err != ERR_NOT_FOUND; round++) {
        upstream_up(f, 4);
        struct flow_job *job = job_wait(f);
        assert_same_id(job->id, id);
        job_answer(f, job, OUTCOME_DELIVERED, 1);
        (void)settled(f);
        count++;
        read_message(f, id, &m);
        end(f);
        begin(f);
    }
    return count;
}

static void test_an_old_entry_sends_nothing_twice(void **state)
{
    (void)state;
    begin(f);
    struct msg_id id = accept_one(f, 1);
    end(f);
    damage(entry_old, id);
    begin(f);
    assert_int_equal(deliveries(id), 1);
}

static void test_an_old_entry_keeps_nobody_from_being_deleted(void **state)
{
    (void)state;
    enum err results[2];
    f->config->keep_deleted_ms = 0;
    begin(f);
    struct msg_id ids[2] = {accept_one(f, 1), accept_one(f, 1)};
    end(f);
    damage(entry_old, ids[0]);
    begin(f);
    assert_int_equal(edit_many(f, FLOW_EDIT_DELETE, ids, 2, results), ERR_OK);
    assert_gone(f, ids[0]);
    assert_gone(f, ids[1]);
}

/* It is looked at first thing. */
static void trash_empties(void)
{
    struct flow_status s = settled(f);
    assert_int_equal(s.count_by_state[MESSAGE_TRASHED], 0);
}

static void test_an_old_entry_does_not_keep_the_trash_full(void **state)
{
    (void)state;
    begin(f);
    struct msg_id ids[2] = {accept_one(f, 1), accept_one(f, 1)};
    assert_int_equal(edit(f, FLOW_EDIT_DELETE, ids[0]), ERR_OK);
    assert_int_equal(edit(f, FLOW_EDIT_DELETE, ids[1]), ERR_OK);
    end(f);
    damage(entry_ripe, ids[0]);
    damage(entry_ripe, ids[1]);
    begin(f);
    trash_empties();
}

static void test_an_entry_of_nobody_does_not_keep_the_trash_full(void **state)
{
    (void)state;
    begin(f);
    struct msg_id ids[2] = {accept_one(f, 1), accept_one(f, 1)};
    assert_int_equal(edit(f, FLOW_EDIT_DELETE, ids[0]), ERR_OK);
    end(f);
    damage(entry_ripe, ids[0]);
    damage(entry_of_nobody, ids[1]);
    begin(f);
    trash_empties();
}

/* Mail of an upstream that is configured no more goes by the one that is. */
static void test_an_old_entry_strands_nobody(void **state)
{
    (void)state;
    begin(f);
    struct msg_id ids[2] = {accept_one(f, 1), accept_one(f, 1)};
    upstream_config(&f->config->upstreams[0], "other");
    end(f);
    damage(entry_old, ids[0]);
    begin(f);
    (void)settled(f);
    assert_route(f, ids[0], "other");
    assert_route(f, ids[1], "other");
}

/*
 * ---- pages ----
 *
 * The disk has lost one while the queue is at work.
 */

static void assert_stopped(void)
{
    struct store_config config = {
        .directory = f->directory, .queue_bytes_max = f->queue_bytes_max, .readers_max = 8};
    struct store_report report;
    assert_int_equal(events(f, "event=store-failed"), 1);
    assert_true(queue_store_failed(f->queue));
    end(f);
    assert_int_equal(store_open(&f->store, &config, &report), ERR_DAMAGED);
    assert_non_null(strstr(report.problem, "put back a copy"));
}

/* A message that has been delivered, and cannot leave, is not sent again. */
static void test_a_damaged_history_sends_nothing_twice(void **state)
{
    (void)state;
    begin(f);
    assert_int_equal(deliveries(accept_one(f, 1)), 1);
    end(f);
    uint64_t page = raw_last_page(f->directory, "history");
    begin(f);
    struct msg_id id = accept_one(f, 1);
    upstream_up(f, 4);
    struct flow_job *job = job_wait(f);
    assert_same_id(job->id, id);
    raw_page_zero(f->directory, page);
    job_answer(f, job, OUTCOME_DELIVERED, 1);
    (void)box_wait(&f->main, FLOW_DRAINED);
    assert_stopped();
}

/* Not even mail that comes in can be counted: whoever sends it hears so, and so does the admin. */
static void test_damaged_counts_stop_it(void **state)
{
    (void)state;
    static struct client c;
    begin(f);
    (void)accept_one(f, 1);
    end(f);
    uint64_t page = raw_last_page(f->directory, "count");
    begin(f);
    (void)settled(f);
    raw_page_zero(f->directory, page);
    client_commit(f, &c, 1);
    (void)box_wait(&f->clients, FLOW_INTAKE);
    assert_int_equal(c.intake.result, ERR_IN_DOUBT);
    (void)box_wait(&f->main, FLOW_DRAINED);
    assert_stopped();
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup_damage, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_an_old_entry_sends_nothing_twice),
        CASE(test_an_old_entry_keeps_nobody_from_being_deleted),
        CASE(test_an_old_entry_does_not_keep_the_trash_full),
        CASE(test_an_entry_of_nobody_does_not_keep_the_trash_full),
        CASE(test_an_old_entry_strands_nobody),
        CASE(test_a_damaged_history_sends_nothing_twice),
        CASE(test_damaged_counts_stop_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
