/*
 * The sched's window on the due index beside a model of the index: the books balance, whatever
 * comes in whichever order, and everything leaves.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/unit/sched_model.h"

#define OPERATIONS 120000
#define SEEDS      3

/* Most are due at once, some later; at the head: before all that is known, as after a retry of
 * many. */
static uint64_t some_due(struct model *m, bool at_head)
{
    switch (at_head ? 4 : rng() % 4) {
    case 4:
        return m->now_ms - rng() % 1000000;
    case 0:
        return m->now_ms;
    case 1:
        return m->now_ms - rng() % 1000;
    case 2:
        return m->now_ms + rng() % 100; /* many at the same moment */
    default:
        return m->now_ms + rng() % 100000;
    }
}

/* Of ten messages so many are of a sender who sends no other; the rest of one that has most, and a
 * few that have some. */
static uint64_t strangers;

static uint32_t some_flow(void)
{
    if (rng() % 10 < strangers) {
        return (uint32_t)rng();
    }
    return rng() % 3 == 0 ? 0x00020000u + (uint32_t)(rng() % 5) : 0x00010001u;
}

static uint32_t some_size(void)
{
    return rng() % 4 == 0 ? (uint32_t)(rng() % 30000) : (uint32_t)(rng() % 100);
}

static void arrive(struct model *m, bool at_head)
{
    if (m->count < INDEX_MAX) {
        (void)accept_item(m, some_due(m, at_head), some_flow(), some_size());
    }
}

/* What is handed out is due, stands in the index, and is with nobody else: also when a stand-in
 * takes its share. */
static void lease(struct model *m)
{
    struct sched_item item;
    bool carried = rng() % 3 == 0;
    if (m->leased_count == LEASES_MAX ||
        !sched_take_for(&m->sched, carried ? &m->stand_in : &m->sched, m->now_ms, &item)) {
        return;
    }
    m->carried[m->leased_count] = carried;
    assert_true(item.due_ms <= m->now_ms);
    assert_true(in_index(m, &item));
    assert_false(is_leased(m, &item.id));
    m->leased[m->leased_count++] = item;
}

static void settle(struct model *m, bool growing)
{
    if (m->leased_count == 0) {
        return;
    }
    size_t at = rng() % m->leased_count;
    struct sched_item item = m->leased[at];
    bool carried = m->carried[at];
    m->leased[at] = m->leased[--m->leased_count];
    m->carried[at] = m->carried[m->leased_count];
    sched_job_back(carried ? &m->stand_in : &m->sched, 1, rng() % 2 == 0, m->now_ms);
    switch (rng() % (growing ? 3 : 12)) {
    default: /* delivered */
        index_remove(m, &item);
        return;
    case 0: /* untried: its entry never moved */
        sched_add(&m->sched, &item);
        return;
    case 1: /* deferred */
        index_remove(m, &item);
        item.due_ms = m->now_ms + rng() % 50000;
        index_add(m, &item);
        sched_add(&m->sched, &item);
    }
}

/* An operator deletes or retries any message that is not being sent. */
static void edit(struct model *m)
{
    if (m->count == 0) {
        return;
    }
    struct sched_item item = m->index[rng() % m->count];
    if (is_leased(m, &item.id)) {
        return;
    }
    bool known = node_of(&m->sched, &item.id) != 0;
    index_remove(m, &item);
    assert_int_equal(sched_remove(&m->sched, &item.id), known);
    assert_false(sched_remove(&m->sched, &item.id));
    if (rng() % 2 == 0) {
        item.due_ms = m->now_ms;
        index_add(m, &item);
        sched_add(&m->sched, &item);
    }
}

/* What a run has to have come by, or it showed nothing. */
struct reached {
    bool shed, grown, dry, late, late_full;
};

static void step(struct model *m, int at, struct reached *reached)
{
    bool growing = at % 24000 < 7400; /* it fills and drains, several times */
    uint64_t what = rng() % 100;
    uint32_t before = m->sched.count;
    if (what < (growing ? 85u : 1u)) {
        arrive(m, at / 24000 % 2 == 1);
        reached->shed = reached->shed || m->sched.count < before;
    } else if (what < (growing ? 90u : 50u)) {
        lease(m);
    } else if (what < 98) {
        settle(m, growing);
    } else {
        edit(m);
    }
    m->now_ms += growing ? rng() % 3 : rng() % 60;
    if (rng() % 8 == 0) {
        refill(m);
    }
    if (rng() % 30000 == 0) {
        sched_forget(&m->sched);
    }
    reached->grown = reached->grown || m->count > SCHED_WINDOW_MAX * 3 / 2;
    reached->dry = reached->dry || (reached->grown && !m->sched.beyond);
    reached->late = reached->late || m->sched.late_count > 0;
    reached->late_full = reached->late_full || m->sched.late_count == SCHED_LATE_MAX;
}

/* With time and hands enough, everything leaves, once. */
static void drain(struct model *m)
{
    m->now_ms += 1000000;
    while (m->leased_count > 0) {
        struct sched_item item = m->leased[--m->leased_count];
        struct sched_upstream *by = m->carried[m->leased_count] ? &m->stand_in : &m->sched;
        sched_job_back(by, 0, false, m->now_ms);
        sched_add(&m->sched, &item);
    }
    struct sched_item taken;
    while (deliver_next(m, &taken)) { /* index_remove asserts that it stood there */
    }
    assert_int_equal(m->count, 0);
    assert_false(m->sched.beyond);
    assert_int_equal(m->sched.count + m->sched.late_count + m->sched.ready_count, 0);
    assert_int_equal(m->sched.out + m->stand_in.out, 0);
    assert_int_equal(m->stand_in.count + m->stand_in.late_count, 0);
}

static void test_the_books_balance(void **state)
{
    (void)state;
    struct reached reached = {0};
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct model *m = model_new(seed * 88172645463325252u);
        strangers = (seed - 1) * 4;
        /* The queue of a restart: nothing is known of it yet. */
        for (int before = 0; before < 1500; before++) {
            struct sched_item item = fresh_item(m, some_due(m, false), some_flow(), some_size());
            index_add(m, &item);
        }
        for (int at = 0; at < OPERATIONS; at++) {
            step(m, at, &reached);
            if (at % 997 == 0) {
                check_window(m);
            }
        }
        check_window(m);
        drain(m);
        free(m);
    }
    assert_true(reached.shed && reached.grown && reached.dry && reached.late);
    assert_true(reached.late_full);
}

static void test_shedding_keeps_the_earlier_half(void **state)
{
    (void)state;
    struct model *m = model_new(7);
    refill(m); /* an empty index: nothing is beyond */
    for (uint64_t at = 0; at < SCHED_WINDOW_MAX + 1; at++) {
        (void)accept_item(m, 1000000 - at, 1, 1); /* latest first: each one is the new head */
    }
    assert_int_equal(m->sched.count, SCHED_WINDOW_MAX / 2 + 1);
    assert_true(m->sched.beyond);
    check_window(m);
    /* One of the same sender, later than all that is known, waits on disk. */
    (void)accept_item(m, 2000000, 1, 1);
    assert_int_equal(m->sched.count, SCHED_WINDOW_MAX / 2 + 1);
    assert_int_equal(m->sched.late_count, 0);
    check_window(m);
    free(m);
}

static void test_the_same_due_time_a_whole_window_long(void **state)
{
    (void)state;
    struct model *m = model_new(9);
    refill(m);
    for (int at = 0; at < SCHED_WINDOW_MAX * 3; at++) {
        (void)accept_item(m, m->now_ms, 1, 1);
    }
    check_window(m);
    struct sched_item taken, last = {0};
    size_t count = 0;
    for (; deliver_next(m, &taken); count++) {
        assert_true(sched_item_compare(&last, &taken) < 0); /* of one sender, in order */
        last = taken;
    }
    assert_int_equal(count, SCHED_WINDOW_MAX * 3);
    free(m);
}

static void test_due_is_counted_up_to_a_bound(void **state)
{
    (void)state;
    struct model *m = model_new(11);
    refill(m);
    assert_int_equal(sched_due_count(&m->sched, 10, 10), 0);
    for (uint64_t at = 0; at < 1000; at++) {
        (void)accept_item(m, 1000 + (at * 7919) % 1000, some_flow(), 1);
    }
    assert_int_equal(sched_oldest_due_ms(&m->sched), 1000);
    for (uint64_t now_ms = 999; now_ms < 1040; now_ms++) {
        assert_int_equal(sched_due(&m->sched, now_ms), now_ms > 999);
        assert_int_equal(sched_due_count(&m->sched, now_ms, SCHED_DUE_COUNT_MAX), now_ms - 999);
        assert_int_equal(sched_due_count(&m->sched, now_ms, 5),
                         now_ms - 999 < 5 ? now_ms - 999 : 5);
    }
    assert_int_equal(sched_due_count(&m->sched, 5000, SCHED_DUE_COUNT_MAX), SCHED_DUE_COUNT_MAX);
    assert_int_equal(sched_due_count(&m->sched, 5000, 0), 0);
    free(m);
}

/* Whose turn it is does not depend on who carries; whether anything goes does: the stand-in's pause
 * and rate hold, and those of the one that it stands in for do not. */
static void test_a_stand_in_takes_in_the_same_order(void **state)
{
    (void)state;
    struct model *a = model_new(12), *b = model_new(12);
    for (size_t at = 0; at < 500; at++) {
        uint64_t due_ms = a->now_ms - rng() % 1000;
        uint32_t flow = some_flow(), size_kib = some_size();
        (void)accept_item(a, due_ms, flow, size_kib);
        (void)accept_item(b, due_ms, flow, size_kib);
    }
    refill_all(a);
    refill_all(b);
    struct sched_item own, carried;
    assert_true(sched_throttled(&b->sched, &(struct msg_id){{1}}, b->now_ms, 1));
    assert_false(sched_take(&b->sched, b->now_ms, &own));
    for (size_t at = 0; at < 500; at++) {
        assert_true(sched_due_for(&b->sched, &b->stand_in, b->now_ms));
        assert_true(sched_take(&a->sched, a->now_ms, &own));
        assert_true(sched_take_for(&b->sched, &b->stand_in, b->now_ms, &carried));
        assert_int_equal(sched_item_compare(&own, &carried), 0);
    }
    assert_int_equal(b->sched.out, 0);
    assert_int_equal(b->stand_in.out, 500);
    assert_false(sched_due_for(&b->sched, &b->stand_in, b->now_ms));
    free(a);
    free(b);
}

static void test_a_stand_ins_limits_hold(void **state)
{
    (void)state;
    struct model *m = model_new(14);
    struct sched_upstream *by = &m->stand_in;
    struct sched_item item;
    by->limits.rate[SCHED_RATE_MESSAGES][SCHED_RATE_HOUR] = 2;
    for (size_t at = 0; at < 5; at++) {
        (void)accept_item(m, m->now_ms, 1, 1);
    }
    refill(m);
    assert_int_equal(sched_due_count_for(&m->sched, by, m->now_ms, 100), 2);
    assert_true(sched_take_for(&m->sched, by, m->now_ms, &item));
    assert_true(sched_take_for(&m->sched, by, m->now_ms, &item));
    assert_false(sched_take_for(&m->sched, by, m->now_ms, &item));
    assert_int_equal(sched_due_count(&m->sched, m->now_ms, 100), 3); /* its own rate knows none */
    sched_job_back(by, 1, true, m->now_ms);
    sched_job_back(by, 1, true, m->now_ms);
    by->connections = 1;
    assert_int_equal(sched_wake_for_ms(&m->sched, by, m->now_ms),
                     sched_rate_next_ms(by, m->now_ms));
    assert_true(sched_rate_next_ms(by, m->now_ms) > m->now_ms);
    assert_true(sched_throttled(by, &item.id, m->now_ms, 1));
    assert_int_equal(sched_due_count_for(&m->sched, by, m->now_ms, 100), 0);
    free(m);
}

/* A marked one's next due time is the stand-in's affair. */
static void test_who_wakes_for_what_is_carried(void **state)
{
    (void)state;
    struct model *m = model_new(15);
    (void)accept_item(m, m->now_ms + 5000, 1, 1);
    refill(m);
    sched_opening(&m->sched, false);
    sched_connection_down(&m->sched, OUTCOME_CONNECTION_REFUSED, false, false, m->now_ms, 3);
    assert_int_equal(sched_wake_ms(&m->sched, m->now_ms), m->sched.probe_ms);
    assert_true(m->sched.probe_ms > m->now_ms + 5000);
    assert_int_equal(sched_wake_for_ms(&m->sched, &m->stand_in, m->now_ms), m->now_ms + 5000);
    assert_int_equal(sched_wake_ms(&m->stand_in, m->now_ms), UINT64_MAX);
    m->stand_in.open_after_ms = m->now_ms + 7000; /* and it has no connection */
    assert_int_equal(sched_wake_for_ms(&m->sched, &m->stand_in, m->now_ms), m->now_ms + 7000);
    free(m);
}

/* The same entry told twice, or with another due time, is one entry. */
static void test_an_id_is_known_once(void **state)
{
    (void)state;
    struct model *m = model_new(13);
    refill(m);
    struct sched_item item = accept_item(m, 500, 1, 1);
    sched_add(&m->sched, &item);
    assert_int_equal(m->sched.count, 1);
    index_remove(m, &item);
    item.due_ms = 2000000;
    index_add(m, &item);
    sched_add(&m->sched, &item);
    assert_int_equal(m->sched.count, 1);
    assert_int_equal(sched_oldest_due_ms(&m->sched), 2000000);
    check_window(m);
    free(m);
}

/* At both ends of time, and days later at once: nothing overflows, nothing is forgotten, and what
 * is due together does not go together. */
static void test_any_clock_will_do(void **state)
{
    (void)state;
    static const uint64_t clocks[] = {0, 1, UINT64_MAX - 1000000, UINT64_MAX - 1, UINT64_MAX};
    for (size_t at = 0; at < sizeof clocks / sizeof clocks[0]; at++) {
        struct model *m = model_new(17);
        m->now_ms = clocks[at];
        refill(m);
        for (int item = 0; item < 100; item++) {
            (void)accept_item(m, m->now_ms, some_flow(), some_size());
        }
        struct sched_item taken;
        bool probe = false;
        assert_true(sched_may_open(&m->sched, m->now_ms, 1, &probe));
        sched_opening(&m->sched, probe);
        sched_connection_down(&m->sched, OUTCOME_CONNECTION_REFUSED, false, false, m->now_ms, 3);
        assert_true(m->sched.probe_ms >= m->now_ms);
        assert_true(sched_wake_ms(&m->sched, m->now_ms) >= m->now_ms);
        (void)sched_upstream_answered(&m->sched, m->now_ms);
        assert_true(sched_take(&m->sched, m->now_ms, &taken));
        (void)sched_throttled(&m->sched, &taken.id, m->now_ms, 5);
        assert_true(m->sched.pause_until_ms >= m->now_ms);
        for (enum outcome outcome = 0; outcome < OUTCOME_COUNT; outcome++) {
            struct sched_retry retry = sched_retry(&m->sched, &taken.id, outcome, 99, m->now_ms, 9);
            assert_true(retry.due_ms >= m->now_ms);
        }
        sched_job_back(&m->sched, 1, false, m->now_ms);
        sched_add(&m->sched, &taken);
        check_window(m);
        m->now_ms = m->sched.pause_until_ms;
        if (m->now_ms < UINT64_MAX - 2000000) {
            drain(m);
        }
        free(m);
    }
}

static void test_after_a_suspend_all_is_due_and_little_goes(void **state)
{
    (void)state;
    struct model *m = model_new(19);
    refill(m);
    for (int at = 0; at < 12000; at++) {
        (void)accept_item(m, m->now_ms + 3600000 + rng() % 86400000, some_flow(), 1);
    }
    refill_all(m);
    assert_false(sched_due(&m->sched, m->now_ms));
    m->now_ms += (uint64_t)9 * 86400000; /* days at once */
    bool probe = false;
    uint32_t opened = 0;
    for (; sched_may_open(&m->sched, m->now_ms, 100, &probe); opened++) {
        sched_opening(&m->sched, probe);
    }
    assert_int_equal(opened, limits.connections_max);
    for (; opened > 0; opened--) { /* and the network is not back yet */
        sched_connection_down(&m->sched, OUTCOME_UNREACHABLE, false, false, m->now_ms, rng());
    }
    assert_false(sched_may_open(&m->sched, m->now_ms, 100, &probe));
    m->now_ms = m->sched.probe_ms;
    assert_true(sched_may_open(&m->sched, m->now_ms, 100, &probe) && probe);
    sched_opening(&m->sched, probe);
    assert_false(sched_may_open(&m->sched, m->now_ms, 100, &probe));
    sched_connection_up(&m->sched);
    assert_true(sched_upstream_answered(&m->sched, m->now_ms));
    assert_int_equal(m->sched.concurrency, 1); /* it begins small */
    drain(m);
    free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_books_balance),
        cmocka_unit_test(test_shedding_keeps_the_earlier_half),
        cmocka_unit_test(test_the_same_due_time_a_whole_window_long),
        cmocka_unit_test(test_due_is_counted_up_to_a_bound),
        cmocka_unit_test(test_a_stand_in_takes_in_the_same_order),
        cmocka_unit_test(test_a_stand_ins_limits_hold),
        cmocka_unit_test(test_who_wakes_for_what_is_carried),
        cmocka_unit_test(test_an_id_is_known_once),
        cmocka_unit_test(test_any_clock_will_do),
        cmocka_unit_test(test_after_a_suspend_all_is_due_and_little_goes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
