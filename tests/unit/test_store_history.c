/*
 * What the store keeps beside the queue: the history and how it expires, trails, what is remembered
 * of upstreams and of the queue itself, the clock, rows of counts that are damaged.
 */
#include "tests/unit/store_fixture.h"

#include "schema/record_upstream.h"
#include "tests/unit/turns.h"

#define KIB 1024u

/* ---- the history ---- */

struct past {
    uint64_t numbers[64];
    size_t count, damaged, wrong, stop_after;
};

static bool past_take(void *ctx, const struct msg_id *id, struct slice history)
{
    struct past *past = ctx;
    struct record_history record;
    past->numbers[past->count++] = msg_id_time_and_sequence(id);
    if (history.len == 0) {
        past->damaged++;
    } else {
        past->wrong += record_history_get(history, &record) != ERR_OK;
    }
    return past->count != past->stop_after;
}

static enum err past_read(struct fixture *f, uint64_t number, struct buf *to)
{
    struct msg_id id = id_of(number);
    size_t needed;
    return store_read_history(f->reader, &id, to, &needed);
}

static bool past_has(struct fixture *f, uint64_t number)
{
    static uint8_t memory[3 * RECORD_BYTES];
    struct buf to;
    buf_init(&to, memory, sizeof memory);
    enum err err = past_read(f, number, &to);
    assert_true(err == ERR_OK || err == ERR_NOT_FOUND);
    return err == ERR_OK;
}

/* Messages first..last come and go; each left_q is its number. */
static void past_fill(struct fixture *f, uint64_t first, uint64_t last, size_t filler)
{
    for (uint64_t number = first; number <= last;) {
        assert_int_equal(store_begin(f->store), ERR_OK);
        for (size_t batch = 0; batch < 50 && number <= last; batch++, number++) {
            message_put(f, number, 10, &plain);
            message_leave(f, number, number, filler);
        }
        assert_int_equal(store_commit(f->store), ERR_OK);
    }
}

static uint64_t expire(struct fixture *f, uint64_t before_q, size_t rows_max, bool *out_more)
{
    uint64_t removed = UINT64_MAX;
    assert_int_equal(store_begin(f->store), ERR_OK);
    assert_int_equal(store_history_expire(f->store, before_q, rows_max, &removed, out_more),
                     ERR_OK);
    assert_int_equal(store_commit(f->store), ERR_OK);
    return removed;
}

static void test_a_message_moves_into_the_history_in_one_commit(void **state)
{
    struct fixture *f = *state;
    queue_open(f);
    message_commit(f, 1, 5000, &plain);
    message_commit(f, 2, 5000, &plain);
    assert_int_equal(store_begin(f->store), ERR_OK);
    message_leave(f, 1, 77, 100);
    assert_false(past_has(f, 1));
    store_abort(f->store);
    assert_false(past_has(f, 1));
    assert_int_equal(message_read(f->reader, 1), ERR_OK);
    assert_int_equal(summary_of(f).history_count, 0);
    assert_int_equal(store_begin(f->store), ERR_OK);
    message_leave(f, 1, 77, 100);
    assert_int_equal(store_commit(f->store), ERR_OK);
    assert_int_equal(message_read(f->reader, 1), ERR_NOT_FOUND);
    assert_int_equal(body_read(f->reader, 1, 5000, 100), ERR_NOT_FOUND);
    assert_int_equal(summary_of(f).body_bytes, 5000);
    queue_reopen(f);
    struct slice expected = history_make(&plain, 77, 100);
    uint8_t memory[4096] = "abc";
    struct buf to;
    size_t needed = 0;
    struct msg_id id = id_of(1);
    buf_init(&to, memory, sizeof memory);
    to.len = 3;
    assert_int_equal(store_read_history(f->reader, &id, &to, &needed), ERR_OK);
    assert_true(slice_equal(slice_tail(buf_slice(&to), 3), expected));
    assert_int_equal(summary_of(f).history_count, 1);
    assert_int_equal(summary_of(f).history_bytes, expected.len + 4);
    buf_init(&to, memory, expected.len - 1);
    assert_int_equal(store_read_history(f->reader, &id, &to, &needed), ERR_LIMIT);
    assert_int_equal(needed, expected.len);
    assert_int_equal(to.len, 0);
}

static void test_what_is_no_history_is_refused(void **state)
{
    struct fixture *f = *state;
    queue_open(f);
    message_commit(f, 1, 10, &plain);
    struct msg_id id = id_of(1);
    assert_int_equal(store_begin(f->store), ERR_OK);
    assert_int_equal(store_message_remove(f->store, &id, SLICE("no record")), ERR_DAMAGED);
    store_abort(f->store);
    assert_int_equal(message_read(f->reader, 1), ERR_OK);
    id = id_of(2);
    assert_int_equal(store_begin(f->store), ERR_OK);
    assert_int_equal(store_message_remove(f->store, &id, history_make(&plain, 1, 0)),
                     ERR_NOT_FOUND);
    assert_int_equal(store_commit(f->store), ERR_OK);
    assert_false(past_has(f, 2)); /* nothing left, so nothing has been there */
}

static void test_history_is_walked_downwards_and_resumed(void **state)
{
    struct fixture *f = *state;
    struct past past = {0};
    struct msg_id next = id_of(1000);
    queue_open(f);
    assert_int_equal(store_read_history_rows(f->reader, &next, 10, past_take, &past, &next),
                     ERR_NOT_FOUND);
    assert_int_equal(past.count, 0);
    for (uint64_t number = 10; number <= 250; number += 10) {
        past_fill(f, number, number, 3000); /* some values take pages of their own */
    }
    enum err err = ERR_OK;
    for (size_t turn = 0; turn < 3; turn++) {
        assert_int_equal(err, ERR_OK);
        err = store_read_history_rows(f->reader, &next, 10, past_take, &past, &next);
    }
    assert_int_equal(err, ERR_NOT_FOUND);
    assert_int_equal(past.count, 25);
    assert_int_equal(past.wrong, 0);
    for (size_t index = 0; index < 25; index++) {
        assert_int_equal(past.numbers[index], 250 - index * 10);
    }
    past = (struct past){.stop_after = 3};
    struct msg_id from = id_of(99); /* between two */
    assert_int_equal(store_read_history_rows(f->reader, &from, 10, past_take, &past, &next),
                     ERR_OK);
    assert_int_equal(past.count, 3);
    assert_int_equal(past.numbers[0], 90);
    assert_int_equal(msg_id_time_and_sequence(&next), 60);
    past = (struct past){0};
    from = id_of(100); /* exactly one, and exactly max until the end */
    assert_int_equal(store_read_history_rows(f->reader, &from, 10, past_take, &past, &next),
                     ERR_NOT_FOUND);
    assert_int_equal(past.count, 10);
    from = id_of(5); /* below all of them */
    assert_int_equal(store_read_history_rows(f->reader, &from, 10, past_take, &past, &next),
                     ERR_NOT_FOUND);
    assert_int_equal(past.count, 10);
}

static void test_damaged_history_is_passed_empty(void **state)
{
    struct fixture *f = *state;
    struct want marked = plain;
    marked.subject = "history-marker";
    queue_open(f);
    past_fill(f, 1, 3, 10);
    message_commit(f, 4, 10, &plain);
    struct msg_id id = id_of(4);
    assert_int_equal(store_begin(f->store), ERR_OK);
    assert_int_equal(store_message_remove(f->store, &id, history_make(&marked, 4, 10)), ERR_OK);
    assert_int_equal(store_commit(f->store), ERR_OK);
    queue_close(f);
    assert_true(file_flip(f, SLICE("history-marker"), 5, 0x40) > 0);
    queue_open(f);
    struct past past = {0};
    struct msg_id next = id_of(100);
    assert_int_equal(store_read_history_rows(f->reader, &next, 10, past_take, &past, &next),
                     ERR_NOT_FOUND);
    assert_int_equal(past.count, 4);
    assert_int_equal(past.damaged, 1);
    assert_int_equal(past.wrong, 0);
    uint8_t memory[4096];
    struct buf to;
    buf_init(&to, memory, sizeof memory);
    assert_int_equal(past_read(f, 4, &to), ERR_DAMAGED);
    assert_int_equal(to.len, 0);
    bool more;
    assert_int_equal(expire(f, 5, 100, &more), 4); /* it goes with the others */
    assert_int_equal(summary_of(f).history_count, 0);
    assert_int_equal(summary_of(f).history_bytes, 0);
}

/* ---- expiring ---- */

static void test_history_expires_by_age(void **state)
{
    struct fixture *f = *state;
    bool more = true;
    const uint64_t old = turns(700, 40), young = turns(300, 6);
    queue_open(f);
    assert_int_equal(expire(f, old + young, 10, &more), 0);
    assert_false(more);
    past_fill(f, 1, old + young, turns(50, 4000));
    uint64_t bytes_each = summary_of(f).history_bytes / (old + young);
    assert_int_equal(expire(f, 1, 512, &more), 0); /* before, not at */
    assert_false(more);
    uint64_t removed = 0;
    for (more = true; more;) {
        uint64_t now = expire(f, old + 1, turns(64, 36), &more);
        assert_true(now <= turns(64, 36));
        removed += now;
    }
    assert_int_equal(removed, old);
    assert_false(past_has(f, old));
    assert_true(past_has(f, old + 1));
    assert_int_equal(summary_of(f).history_count, young);
    assert_int_equal(summary_of(f).history_bytes, young * bytes_each);
    queue_reopen(f);
    assert_int_equal(summary_of(f).history_count, young);
}

/* They came early and left late, or came late and left early: only leaving counts. */
static void test_entries_out_of_order_expire_in_a_round(void **state)
{
    struct fixture *f = *state;
    queue_open(f);
    bool old[301];
    const uint64_t last = turns(300, 60);
    assert_int_equal(store_begin(f->store), ERR_OK);
    for (uint64_t number = 1; number <= last; number++) {
        old[number] =
            number > 1 && rng() % 3 == 0; /* the first one is young: it blocks the front */
        message_put(f, number, 10, &plain);
        message_leave(f, number, old[number] ? 10 : 1000, rng() % 3000);
    }
    assert_int_equal(store_commit(f->store), ERR_OK);
    bool more;
    for (size_t call = 0; call < last / 7 + 2; call++) {
        assert_true(expire(f, 500, 7, &more) <= 7);
    }
    uint64_t left = 0;
    for (uint64_t number = 1; number <= last; number++) {
        assert_int_equal(past_has(f, number), !old[number]);
        left += !old[number];
    }
    assert_int_equal(summary_of(f).history_count, left);
    assert_int_equal(expire(f, 500, 512, &more), 0);
    assert_false(more);
    queue_check(f, false);
}

static void test_more_is_said_while_there_is_more(void **state)
{
    struct fixture *f = *state;
    const uint64_t last = turns(200, 20);
    queue_open(f);
    past_fill(f, 1, 1, 10);
    past_fill(f, 1000, 1000, 10);
    assert_int_equal(store_begin(f->store), ERR_OK);
    for (uint64_t number = 2; number <= last; number++) { /* behind a young one */
        message_put(f, number, 10, &plain);
        message_leave(f, number, 5, 10);
    }
    struct msg_id id = id_of(1);
    message_put(f, 1, 10, &plain);
    assert_int_equal(store_message_remove(f->store, &id, history_make(&plain, 900, 0)), ERR_OK);
    assert_int_equal(store_commit(f->store), ERR_OK);
    bool more = true;
    uint64_t removed = 0;
    size_t calls = 0;
    while (more) {
        removed += expire(f, 100, turns(16, 4), &more);
        assert_true(++calls < 20);
    }
    assert_int_equal(removed, last - 1);
    assert_int_equal(summary_of(f).history_count, 2);
}

static void test_history_expires_by_size_oldest_first(void **state)
{
    struct fixture *f = *state;
    const uint64_t last = turns(600, 80), bytes_max = turns(512, 64) * KIB;
    f->config.history_bytes_max = bytes_max;
    queue_open(f);
    past_fill(f, 1, last, 800); /* about a KiB each */
    assert_true(summary_of(f).history_bytes > bytes_max);
    bool more = true;
    while (more) {
        expire(f, 0, turns(16, 2), &more);
    }
    struct store_summary summary = summary_of(f);
    assert_true(summary.history_bytes <= bytes_max);
    assert_true(summary.history_bytes > bytes_max - 12 * KIB); /* and no more than that went */
    uint64_t gone = last - summary.history_count;
    assert_false(past_has(f, gone));
    assert_true(past_has(f, gone + 1));
}

static void test_history_never_takes_more_than_its_share_of_the_map(void **state)
{
    struct fixture *f = *state;
    f->config.queue_bytes_max = 4 * MIB;
    f->config.history_bytes_max = turns(512, 24) * KIB;
    const uint64_t last = turns(4000, 60), bytes_max = 2 * f->config.history_bytes_max;
    queue_open(f);
    bool room = store_has_room(f->store, 3 * MIB);
    assert_true(room);
    uint64_t used = summary_of(f).pages_used_bytes;
    for (uint64_t number = 1; number <= last;) { /* no expiring in between */
        assert_int_equal(store_begin(f->store), ERR_OK);
        for (size_t batch = 0; batch < turns(40, 20); batch++, number++) {
            message_put(f, number, 10, &plain);
            message_leave(f, number, number, number % 50 == 0 ? 20000 : rng() % 3000);
        }
        assert_int_equal(store_commit(f->store), ERR_OK);
        assert_true(summary_of(f).history_bytes < bytes_max);
    }
    struct store_summary summary = summary_of(f);
    assert_true(summary.history_bytes < bytes_max);
    assert_true(summary.history_count > turns(100, 5));
    assert_true(past_has(f, last - 1) &&
                !past_has(f, turns(100, 10))); /* the oldest were pushed out */
    assert_true(summary.pages_used_bytes < used + 100000);
    assert_true(store_has_room(f->store, 3 * MIB));
    assert_true(summary.file_bytes <= 32 * MIB);
}

static void test_history_larger_than_all_its_room_is_not_kept(void **state)
{
    struct fixture *f = *state;
    f->config.history_bytes_max = 16 * KIB;
    queue_open(f);
    past_fill(f, 1, 5, 10);
    past_fill(f, 6, 6, 40000);
    assert_false(past_has(f, 6));
    assert_int_equal(message_read(f->reader, 6), ERR_NOT_FOUND);
    past_fill(f, 7, 7, 10);
    assert_true(past_has(f, 7));
}

/* ---- trails ---- */

static struct slice trail_make(struct buf *to, size_t dialogue_bytes)
{
    static uint8_t dialogue[RECORD_DIALOGUE_BYTES_MAX];
    uint8_t memory[RECORD_MOVE_BYTES_MAX];
    struct buf move;
    memset(dialogue, 'd', sizeof dialogue);
    buf_init(&move, memory, sizeof memory);
    record_move_put(&move, &(struct record_move){.when_ms = 7,
                                                 .from = LIFECYCLE_SENDING,
                                                 .to = LIFECYCLE_DEFERRED,
                                                 .outcome = OUTCOME_DEFERRED,
                                                 .count = 1});
    record_trail_put(to, NULL, buf_slice(&move), 1, slice_of(dialogue, dialogue_bytes));
    assert_false(to->overflow);
    return buf_slice(to);
}

static void test_trail_stays_with_its_message(void **state)
{
    struct fixture *f = *state;
    uint8_t memory[2][RECORD_TRAIL_BYTES_MAX];
    struct buf to;
    struct buf got;
    struct slice borrowed;
    buf_init(&to, memory[0], sizeof memory[0]);
    buf_init(&got, memory[1], sizeof memory[1]);
    struct slice trail = trail_make(&to, 300);
    struct msg_id id = id_of(1);
    queue_open(f);
    assert_int_equal(store_begin(f->store), ERR_OK);
    assert_int_equal(store_trail_set(f->store, &id, trail), ERR_NOT_FOUND);
    message_put(f, 1, 10, &plain);
    assert_int_equal(store_trail_get(f->store, &id, &borrowed), ERR_NOT_FOUND);
    assert_int_equal(store_trail_set(f->store, &id, trail), ERR_OK);
    assert_int_equal(store_trail_get(f->store, &id, &borrowed), ERR_OK);
    assert_true(slice_equal(borrowed, trail));
    assert_int_equal(store_read_trail(f->reader, &id, &got), ERR_NOT_FOUND);
    assert_int_equal(store_commit(f->store), ERR_OK);
    queue_reopen(f);
    assert_int_equal(store_read_trail(f->reader, &id, &got), ERR_OK);
    assert_true(slice_equal(buf_slice(&got), trail));
    buf_init(&got, memory[1], trail.len - 1);
    assert_int_equal(store_read_trail(f->reader, &id, &got), ERR_LIMIT);
    assert_int_equal(got.len, 0);
    assert_int_equal(store_begin(f->store), ERR_OK);
    assert_int_equal(store_trail_set(f->store, &id, SLICE("no record")), ERR_DAMAGED);
    store_abort(f->store);
    message_drop(f, 1);
    message_commit(f, 1, 10, &plain);
    buf_init(&got, memory[1], sizeof memory[1]);
    assert_int_equal(store_read_trail(f->reader, &id, &got), ERR_NOT_FOUND);
}

/* Outcomes have been promised room, trails have not. */
static void test_full_queue_keeps_outcomes_rather_than_trails(void **state)
{
    struct fixture *f = *state;
    f->config.queue_bytes_max = turns(4 * MIB, MIB / 4);
    queue_open(f);
    uint64_t number = 0;
    while (store_has_room(f->store, 100)) {
        assert_int_equal(store_begin(f->store), ERR_OK);
        for (size_t batch = 0; batch < turns(20, 5); batch++) {
            message_put(f, ++number, 100, &plain);
        }
        assert_int_equal(store_commit(f->store), ERR_OK);
    }
    uint8_t memory[RECORD_TRAIL_BYTES_MAX];
    struct buf to;
    buf_init(&to, memory, sizeof memory);
    struct slice trail = trail_make(&to, RECORD_DIALOGUE_BYTES_MAX);
    uint64_t kept = 0;
    for (uint64_t at = 1; at <= number;) {
        assert_int_equal(store_begin(f->store), ERR_OK);
        for (size_t batch = 0; batch < 10 && at <= number; batch++, at++) {
            struct msg_id id = id_of(at);
            struct slice got;
            assert_int_equal(store_trail_set(f->store, &id, trail), ERR_OK);
            kept += store_trail_get(f->store, &id, &got) == ERR_OK;
        }
        assert_int_equal(store_commit(f->store), ERR_OK);
    }
    assert_true(kept > 0 && kept < number);
    for (uint64_t at = 1; at <= number;) {
        struct want want = plain;
        want.text = RECORD_REPLY_TEXT_BYTES_MAX;
        assert_int_equal(store_begin(f->store), ERR_OK);
        for (size_t batch = 0; batch < 10 && at <= number; batch++, at++) {
            struct msg_id id = id_of(at);
            assert_int_equal(store_message_update(f->store, &id, state_make(&want)), ERR_OK);
        }
        assert_int_equal(store_commit(f->store), ERR_OK);
    }
}

/* ---- upstreams, notes, the clock ---- */

static struct slice upstream_make(struct buf *to, uint64_t outage_ms)
{
    record_upstream_put(to, &(struct record_upstream){.outage_ms = outage_ms,
                                                      .pipeline_max = 2,
                                                      .pipeline_reason = SLICE("upstream-marker"),
                                                      .bucket_count = 1,
                                                      .buckets = {{.span_ms = 60000}}});
    assert_false(to->overflow);
    return buf_slice(to);
}

static void test_upstreams_are_remembered(void **state)
{
    struct fixture *f = *state;
    uint8_t memory[2][RECORD_UPSTREAM_BYTES_MAX];
    struct buf to[2];
    struct slice got;
    buf_init(&to[0], memory[0], sizeof memory[0]);
    buf_init(&to[1], memory[1], sizeof memory[1]);
    struct slice first = upstream_make(&to[0], 1);
    struct slice second = upstream_make(&to[1], 2);
    queue_open(f);
    assert_int_equal(store_begin(f->store), ERR_OK);
    assert_int_equal(store_upstream_get(f->store, SLICE("main"), &got), ERR_NOT_FOUND);
    assert_int_equal(store_upstream_set(f->store, SLICE("main"), first), ERR_OK);
    assert_int_equal(store_upstream_set(f->store, SLICE("second"), second), ERR_OK);
    assert_int_equal(store_upstream_set(f->store, SLICE("main"), second), ERR_OK);
    assert_int_equal(store_commit(f->store), ERR_OK);
    queue_reopen(f);
    assert_int_equal(store_begin(f->store), ERR_OK);
    assert_int_equal(store_upstream_get(f->store, SLICE("main"), &got), ERR_OK);
    assert_true(slice_equal(got, second));
    assert_int_equal(store_upstream_set(f->store, SLICE("main"), SLICE("no")), ERR_DAMAGED);
    store_abort(f->store);
    queue_close(f);
    assert_true(file_flip(f, SLICE("upstream-marker"), 0, 0x01) > 0);
    queue_open(f);
    assert_int_equal(store_begin(f->store), ERR_OK);
    assert_int_equal(store_upstream_get(f->store, SLICE("main"), &got), ERR_DAMAGED);
    assert_int_equal(store_upstream_set(f->store, SLICE("main"), second), ERR_OK);
    assert_int_equal(store_upstream_get(f->store, SLICE("main"), &got), ERR_OK);
    store_abort(f->store);
}

static void test_notes_are_kept(void **state)
{
    struct fixture *f = *state;
    uint8_t longest[64];
    struct slice got;
    memset(longest, 'n', sizeof longest);
    queue_open(f);
    assert_int_equal(store_begin(f->store), ERR_OK);
    assert_int_equal(store_note_get(f->store, SLICE("digest"), &got), ERR_NOT_FOUND);
    assert_int_equal(store_note_set(f->store, SLICE("digest"), SLICE("yesterday")), ERR_OK);
    assert_int_equal(store_note_set(f->store, slice_of(longest, 64), slice_of(longest, 64)),
                     ERR_OK);
    assert_int_equal(store_commit(f->store), ERR_OK);
    assert_int_equal(store_begin(f->store), ERR_OK);
    assert_int_equal(store_note_set(f->store, SLICE("digest"), SLICE("never")), ERR_OK);
    store_abort(f->store);
    queue_reopen(f);
    assert_int_equal(store_begin(f->store), ERR_OK);
    assert_int_equal(store_note_get(f->store, SLICE("digest"), &got), ERR_OK);
    assert_true(slice_equal(got, SLICE("yesterday")));
    assert_int_equal(store_note_get(f->store, slice_of(longest, 64), &got), ERR_OK);
    assert_int_equal(got.len, 64);
    assert_int_equal(store_note_set(f->store, SLICE("digest"), nothing), ERR_OK);
    assert_int_equal(store_note_get(f->store, SLICE("digest"), &got), ERR_OK);
    assert_int_equal(got.len, 0);
    assert_int_equal(store_commit(f->store), ERR_OK);
    /* words that the store uses itself are not in the way */
    assert_int_equal(store_begin(f->store), ERR_OK);
    assert_int_equal(store_note_set(f->store, SLICE("format"), SLICE("x")), ERR_OK);
    assert_int_equal(store_note_set(f->store, SLICE("upgrade"), SLICE("x")), ERR_OK);
    assert_int_equal(store_commit(f->store), ERR_OK);
    queue_reopen(f);
    assert_int_equal(f->report.upgraded, 0);
}

static void test_clock_is_committed(void **state)
{
    struct fixture *f = *state;
    static const struct store_clock first = {1, 2, 3, 4};
    static const struct store_clock second = {UINT64_MAX, 20, 30, UINT64_MAX - 1};
    queue_open(f);
    struct store_clock clock = summary_of(f).clock;
    assert_int_equal(clock.q_ms | clock.wall_ms | clock.boot_ms | clock.boot_id, 0);
    assert_int_equal(store_begin(f->store), ERR_OK);
    store_clock_set(f->store, &first);
    struct msg_id id = id_of(9);
    bool more;
    uint64_t removed;
    assert_int_equal(store_body_discard(f->store, &id), ERR_OK); /* there was nothing to do */
    assert_int_equal(store_history_expire(f->store, 5, 5, &removed, &more), ERR_OK);
    assert_int_equal(summary_of(f).clock.q_ms, 0);
    assert_int_equal(store_commit(f->store), ERR_OK);
    assert_int_equal(summary_of(f).clock.q_ms, 0); /* alone it is no reason to write */
    assert_int_equal(store_begin(f->store), ERR_OK);
    store_clock_set(f->store, &first);
    assert_int_equal(store_note_set(f->store, SLICE("x"), SLICE("y")), ERR_OK);
    assert_int_equal(store_commit(f->store), ERR_OK);
    clock = summary_of(f).clock;
    assert_memory_equal(&clock, &first, sizeof clock);
    assert_int_equal(store_begin(f->store), ERR_OK);
    store_clock_set(f->store, &second);
    store_abort(f->store);
    clock = summary_of(f).clock;
    assert_memory_equal(&clock, &first, sizeof clock);
    assert_int_equal(store_begin(f->store), ERR_OK);
    store_clock_set(f->store, &second);
    message_put(f, 1, 10, &plain);
    assert_int_equal(store_commit(f->store), ERR_OK);
    message_commit(f, 2, 10, &plain); /* it stays as it was set */
    queue_reopen(f);
    clock = summary_of(f).clock;
    assert_memory_equal(&clock, &second, sizeof clock);
}

/* ---- the head of a body ---- */

static void head_compare(struct fixture *f, uint64_t number, uint64_t body_bytes, size_t cap)
{
    static uint8_t memory[200000];
    static uint8_t expected[200000];
    struct msg_id id = id_of(number);
    struct buf to;
    buf_init(&to, memory, cap + 2);
    buf_put_str(&to, "ab");
    assert_int_equal(store_body_head(f->store, &id, &to), ERR_OK);
    size_t len = (size_t)u64_min(body_bytes, cap);
    assert_int_equal(to.len, 2 + len);
    body_fill(expected, len, number, 0);
    assert_memory_equal(memory + 2, expected, len);
    assert_memory_equal(memory, "ab", 2);
}

static void test_head_of_a_body(void **state)
{
    struct fixture *f = *state;
    static const uint64_t sizes[] = {0, 1, 500, 16360, 16361, 70000, 150000};
    static const size_t caps[] = {0, 1, 499, 16359, 16360, 16361, 40000, 199000};
    queue_open(f);
    for (int turn = 0; turn < 2; turn++) { /* in the same transaction, then out of the file */
        assert_int_equal(store_begin(f->store), ERR_OK);
        for (uint64_t size = 0; size < 7; size++) {
            if (turn == 0) {
                message_put(f, 1 + size, sizes[size], &plain);
            }
            for (size_t cap = 0; cap < sizeof caps / sizeof caps[0]; cap++) {
                head_compare(f, 1 + size, sizes[size], caps[cap]);
            }
        }
        assert_int_equal(store_commit(f->store), ERR_OK);
    }
    uint8_t memory[64];
    struct buf to;
    struct msg_id id = id_of(100);
    buf_init(&to, memory, sizeof memory);
    assert_int_equal(store_begin(f->store), ERR_OK);
    assert_int_equal(store_body_head(f->store, &id, &to), ERR_NOT_FOUND);
    store_abort(f->store);
    queue_close(f);
    uint8_t place[32];
    body_fill(place, sizeof place, 7, 20000); /* in its second chunk */
    assert_true(file_flip(f, slice_of(place, sizeof place), 9, 0x08) > 0);
    queue_open(f);
    static uint8_t large[200000];
    id = id_of(7);
    assert_int_equal(store_begin(f->store), ERR_OK);
    head_compare(f, 7, 150000, 16000);
    buf_init(&to, large, sizeof large);
    assert_int_equal(store_body_head(f->store, &id, &to), ERR_DAMAGED);
    assert_int_equal(to.len, 0);
    store_abort(f->store);
}

/* ---- rows of counts ---- */

struct counted {
    uint64_t rows, nameless, stop_after;
    uint64_t sums[MESSAGE_STATE_COUNT];
};

static bool counted_take(void *ctx, struct slice name, const uint64_t counts[MESSAGE_STATE_COUNT])
{
    struct counted *c = ctx;
    c->nameless += name.len == 0;
    for (size_t state = 0; state < MESSAGE_STATE_COUNT; state++) {
        c->sums[state] += counts[state];
    }
    return ++c->rows != c->stop_after;
}

static struct counted counted(struct fixture *f, enum store_count_kind kind)
{
    struct counted c = {0};
    assert_int_equal(store_read_counts(f->reader, kind, nothing, 1000, counted_take, &c),
                     ERR_NOT_FOUND);
    assert_int_equal(c.nameless, 0);
    return c;
}

static void test_counts_are_paged(void **state)
{
    struct fixture *f = *state;
    static const char *const devices[] = {"a", "b", "c", "d"};
    queue_open(f);
    for (uint64_t number = 0; number < 8; number++) {
        struct want want = plain;
        want.device = number < 4 ? devices[number] : NULL;
        message_commit(f, 1 + number, 10, &want);
    }
    struct counted c = {0};
    assert_int_equal(store_read_counts(f->reader, STORE_COUNT_DEVICE, nothing, 3, counted_take, &c),
                     ERR_OK);
    assert_int_equal(c.rows, 3);
    assert_int_equal(
        store_read_counts(f->reader, STORE_COUNT_DEVICE, SLICE("c"), 1, counted_take, &c),
        ERR_NOT_FOUND); /* exactly max, and the end */
    assert_int_equal(c.rows, 4);
    c = (struct counted){.stop_after = 2};
    assert_int_equal(store_read_counts(f->reader, STORE_COUNT_DEVICE, nothing, 9, counted_take, &c),
                     ERR_OK);
    assert_int_equal(c.rows, 2);
    assert_int_equal(
        store_read_counts(f->reader, STORE_COUNT_DEVICE, SLICE("zz"), 9, counted_take, &c),
        ERR_NOT_FOUND);
    uint8_t too_long[RECORD_DEVICE_BYTES_MAX + 1] = {0};
    assert_int_equal(store_read_counts(f->reader, STORE_COUNT_DEVICE,
                                       slice_of(too_long, sizeof too_long), 9, counted_take, &c),
                     ERR_LIMIT);
    assert_int_equal(c.rows, 2);
    assert_int_equal(counted(f, STORE_COUNT_UPSTREAM).sums[MESSAGE_QUEUED], 8);
    assert_int_equal(counted(f, STORE_COUNT_DEVICE).sums[MESSAGE_QUEUED], 4);
}

/* The row as it lies in the file: key, and value with the seal, behind each other. */
static size_t count_row_flip(struct fixture *f, const char *key, uint64_t queued)
{
    uint8_t place[64];
    size_t len = strlen(key);
    memcpy(place, key, len);
    be64_put(place + len, queued);
    return file_flip(f, slice_of(place, len + 8), len + 7, 0x20);
}

static void test_damaged_row_of_counts_is_made_anew_at_opening(void **state)
{
    struct fixture *f = *state;
    queue_open(f);
    for (uint64_t number = 1; number <= 5; number++) {
        message_commit(f, number, 10, &plain);
    }
    queue_close(f);
    assert_true(count_row_flip(f, "umain", 5) > 0);
    f->config.read_only = true; /* cannot repair it, and does not pretend */
    queue_open(f);
    struct counted c = {0};
    assert_int_equal(
        store_read_counts(f->reader, STORE_COUNT_UPSTREAM, nothing, 9, counted_take, &c),
        ERR_DAMAGED);
    queue_close(f);
    f->config.read_only = false;
    queue_open(f);
    assert_int_equal(counted(f, STORE_COUNT_UPSTREAM).sums[MESSAGE_QUEUED], 5);
    assert_int_equal(counted(f, STORE_COUNT_REASON).sums[MESSAGE_QUEUED], 5);
}

static void test_damaged_row_of_counts_is_made_anew_at_a_commit(void **state)
{
    struct fixture *f = *state;
    queue_open(f);
    for (uint64_t number = 1; number <= 5; number++) {
        message_commit(f, number, 10, &plain);
    }
    assert_true(count_row_flip(f, "umain", 5) > 0); /* while it is open */
    assert_int_equal(store_begin(f->store), ERR_OK);
    message_put(f, 6, 10, &plain);
    store_abort(f->store);
    message_commit(f, 6, 10, &plain);
    assert_int_equal(counted(f, STORE_COUNT_UPSTREAM).sums[MESSAGE_QUEUED], 6);
    message_drop(f, 6);
    assert_int_equal(counted(f, STORE_COUNT_UPSTREAM).sums[MESSAGE_QUEUED], 5);
}

static void test_damaged_state_is_in_no_row_of_counts(void **state)
{
    struct fixture *f = *state;
    struct want marked = plain;
    marked.upstream = "state-marker";
    marked.device = "device";
    queue_open(f);
    for (uint64_t number = 1; number <= 4; number++) {
        message_commit(f, number, 10, number == 2 ? &marked : &plain);
    }
    queue_close(f);
    /* the record, not the row of the same name */
    assert_true(file_flip(f, SLICE("state-marker\0\6device"), 2, 0x20) > 0);
    queue_open(f);
    struct msg_id id = id_of(2);
    struct want held = {.state = MESSAGE_HELD, .upstream = "main"};
    assert_int_equal(store_begin(f->store), ERR_OK);
    assert_int_equal(store_message_update(f->store, &id, state_make(&held)), ERR_OK);
    assert_int_equal(store_commit(f->store), ERR_OK);
    struct counted c = counted(f, STORE_COUNT_UPSTREAM);
    assert_int_equal(c.rows, 1);
    assert_int_equal(c.sums[MESSAGE_QUEUED], 3);
    assert_int_equal(c.sums[MESSAGE_HELD], 1);
    assert_int_equal(counted(f, STORE_COUNT_DEVICE).rows, 0);
}

/* What was counted, and what is derived, is the same when all of it is made anew. */
static void test_lost_summary_is_made_anew_and_stays(void **state)
{
    struct fixture *f = *state;
    queue_open(f);
    for (uint64_t number = 1; number <= turns(30, 16); number++) {
        struct want want = plain;
        want.state = (enum message_state)(number % MESSAGE_STATE_COUNT);
        want.awaits_digest = number % 8 == 2;
        message_commit(f, number, number * 100, &want);
    }
    past_fill(f, 31, 47, 100);
    assert_int_equal(store_begin(f->store), ERR_OK);
    store_clock_set(f->store, &(struct store_clock){0x1122334455667788, 1, 2, 3});
    assert_int_equal(store_note_set(f->store, SLICE("a"), SLICE("b")), ERR_OK);
    assert_int_equal(store_commit(f->store), ERR_OK);
    struct store_summary before = summary_of(f);
    queue_close(f);
    uint8_t place[8];
    be64_put(place, 0x1122334455667788);
    assert_true(file_flip(f, slice_of(place, 8), 3, 0xff) > 0);
    queue_open(f);
    struct store_summary after = summary_of(f);
    assert_memory_equal(after.count_by_state, before.count_by_state, sizeof after.count_by_state);
    assert_int_equal(after.body_bytes, before.body_bytes);
    assert_int_equal(after.history_count, before.history_count);
    assert_int_equal(after.history_bytes, before.history_bytes);
    assert_int_equal(after.last_id, before.last_id);
    assert_int_equal(after.clock.q_ms, 0);
    queue_close(f);
    f->config.read_only = true; /* it was written, not only counted */
    queue_open(f);
    size_t len;
    uint8_t *bytes = file_load(f, &len);
    be64_put(place, before.body_bytes);
    assert_non_null(memmem(bytes, len, place, 8));
    free(bytes);
    assert_int_equal(summary_of(f).history_count, 17);
    queue_check(f, false);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_a_message_moves_into_the_history_in_one_commit),
        CASE(test_what_is_no_history_is_refused),
        CASE(test_history_is_walked_downwards_and_resumed),
        CASE(test_damaged_history_is_passed_empty),
        CASE(test_history_expires_by_age),
        CASE(test_entries_out_of_order_expire_in_a_round),
        CASE(test_more_is_said_while_there_is_more),
        CASE(test_history_expires_by_size_oldest_first),
        CASE(test_history_never_takes_more_than_its_share_of_the_map),
        CASE(test_history_larger_than_all_its_room_is_not_kept),
        CASE(test_trail_stays_with_its_message),
        CASE(test_full_queue_keeps_outcomes_rather_than_trails),
        CASE(test_upstreams_are_remembered),
        CASE(test_notes_are_kept),
        CASE(test_clock_is_committed),
        CASE(test_head_of_a_body),
        CASE(test_counts_are_paged),
        CASE(test_damaged_row_of_counts_is_made_anew_at_opening),
        CASE(test_damaged_row_of_counts_is_made_anew_at_a_commit),
        CASE(test_damaged_state_is_in_no_row_of_counts),
        CASE(test_lost_summary_is_made_anew_and_stays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
