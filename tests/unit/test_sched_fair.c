/*
 * Whose turn it is: between devices, between senders, small before large, and that everybody has a
 * turn; also where most of the queue is on disk.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/unit/sched_model.h"

#define FLOOD 0x00010001u /* a sender of the device 1 */
#define ALERT 0x00020001u /* one of the device 2 */
#define COUNT 10000
#define NEXT  4 /* who was silent is among the next so many */
#define LARGE SCHED_SMALL_KIB_MAX + 1

static void flood(struct model *m, uint32_t count)
{
    for (uint32_t at = 0; at < count; at++) {
        (void)accept_item(m, m->now_ms - count + at, FLOOD, 20);
        if (at % 100 == 0) {
            refill(m);
        }
    }
    refill_all(m);
}

/* How many are taken before this one, itself included; all leave. */
static uint32_t takes_until(struct model *m, const struct msg_id *id, uint32_t most)
{
    struct sched_item item;
    for (uint32_t taken = 1; taken <= most; taken++) {
        assert_true(deliver_next(m, &item));
        if (msg_id_compare(&item.id, id) == 0) {
            return taken;
        }
    }
    return UINT32_MAX;
}

static void deliver(struct model *m, uint32_t count)
{
    struct sched_item item;
    while (count-- > 0) {
        assert_true(deliver_next(m, &item));
    }
}

/* ---- one device's ten thousand, another's one ---- */

static void test_a_new_one_is_next(void **state)
{
    (void)state;
    struct model *m = model_new(1);
    refill(m);
    flood(m, COUNT);
    deliver(m, 1000);
    for (int round = 0; round < 20; round++) { /* also when the device had one just before */
        m->now_ms += 50;
        (void)sched_due_count(&m->sched, m->now_ms, 1); /* a round begins with the clock */
        struct sched_item alert = accept_item(m, m->now_ms, ALERT, 5);
        assert_in_range(takes_until(m, &alert.id, NEXT), 1, NEXT);
        deliver(m, (uint32_t)(rng() % 5));
    }
    check_window(m);
    free(m);
}

static void test_a_retry_is_next_when_its_time_comes(void **state)
{
    (void)state;
    struct model *m = model_new(2);
    refill(m);
    flood(m, COUNT);
    struct sched_item retry = accept_item(m, m->now_ms + 300000, ALERT, 5);
    deliver(m, 1500);
    assert_int_equal(node_of(&m->sched, &retry.id), 0); /* it waits on disk */
    assert_in_range(sched_wake_ms(&m->sched, m->now_ms), m->now_ms, UINT64_MAX);
    m->now_ms = retry.due_ms;
    assert_true(sched_wake_ms(&m->sched, m->now_ms) <= m->now_ms); /* there is something to read */
    refill_all(m);
    assert_in_range(takes_until(m, &retry.id, NEXT), 1, NEXT);
    check_window(m);
    free(m);
}

static void test_after_a_restart_too(void **state)
{
    (void)state;
    struct model *m = model_new(3);
    refill(m);
    flood(m, COUNT);
    struct sched_item alert = accept_item(m, m->now_ms, ALERT, 5);
    sched_init(&m->sched, &limits);
    sched_refilled(&m->sched, NULL, 0, NULL, false);
    m->rows_read = 0;
    refill_all(m);
    assert_true(m->rows_read < COUNT * 2 + 10); /* each row once to fill, once to look */
    assert_in_range(takes_until(m, &alert.id, NEXT), 1, NEXT);
    free(m);
}

/* A thousand senders of one device are one device. */
static void test_many_senders_of_one_device(void **state)
{
    (void)state;
    struct model *m = model_new(4);
    refill(m);
    for (uint32_t at = 0; at < COUNT; at++) {
        (void)accept_item(m, m->now_ms - COUNT + at, 0x00010000u + at % 5000, 20);
    }
    refill_all(m);
    deliver(m, 100);
    struct sched_item alert = accept_item(m, m->now_ms, ALERT, 5);
    assert_in_range(takes_until(m, &alert.id, NEXT), 1, NEXT);
    check_window(m);
    free(m);
}

/* Another sender of the same device, likewise. */
static void test_senders_of_one_device_go_round(void **state)
{
    (void)state;
    struct model *m = model_new(5);
    refill(m);
    flood(m, COUNT);
    deliver(m, 10);
    struct sched_item other = accept_item(m, m->now_ms, FLOOD + 1, 5);
    assert_in_range(takes_until(m, &other.id, NEXT), 1, NEXT);
    free(m);
}

/* Forty devices that each have hundreds behind one that has ten thousand: all of them go round. */
static void test_more_than_the_late_places_hold(void **state)
{
    (void)state;
    enum { DEVICES = 40, EACH = 200, TAKES = 2000 };
    struct model *m = model_new(6);
    static uint32_t taken[DEVICES + 1];
    memset(taken, 0, sizeof taken);
    refill(m);
    flood(m, COUNT);
    for (uint32_t at = 0; at < DEVICES * EACH; at++) {
        (void)accept_item(m, m->now_ms, (2 + at % DEVICES) << 16, 20);
        refill(m);
    }
    refill_all(m);
    assert_int_equal(m->sched.late_count, SCHED_LATE_MAX);
    check_window(m);
    for (uint32_t at = 0; at < TAKES; at++) {
        struct sched_item item;
        assert_true(deliver_next(m, &item));
        taken[item.flow == FLOOD ? 0 : (item.flow >> 16) - 1]++;
    }
    for (uint32_t device = 0; device <= DEVICES; device++) {
        /* An equal share, more or less what the reading from disk is behind. */
        assert_in_range(taken[device], TAKES / (DEVICES + 1) / 2, TAKES / (DEVICES + 1) * 2);
    }
    check_window(m);
    free(m);
}

/* A sender with hundreds, of which most are on disk only at first, has its share all the time. */
static void test_what_is_left_on_disk_is_fetched(void **state)
{
    (void)state;
    struct model *m = model_new(12);
    uint32_t taken = 0;
    refill(m);
    flood(m, COUNT);
    for (int at = 0; at < 400; at++) {
        (void)accept_item(m, m->now_ms, ALERT, 20);
    }
    refill_all(m);
    for (int at = 0; at < 800; at++) {
        struct sched_item item;
        assert_true(deliver_next(m, &item));
        taken += item.flow == ALERT;
    }
    assert_in_range(taken, 370, 400);
    check_window(m);
    free(m);
}

/* More senders than are told apart: each message still once, and all of them. */
static void test_a_crowd(void **state)
{
    (void)state;
    struct model *m = model_new(7);
    refill(m);
    for (uint32_t at = 0; at < INDEX_MAX; at++) {
        (void)accept_item(m, m->now_ms, (uint32_t)(at * 2654435761u), at % 300);
    }
    check_window(m);
    deliver(m, INDEX_MAX);
    assert_int_equal(m->count, 0);
    assert_int_equal(m->sched.flows_fresh, SCHED_FLOWS_MAX);
    free(m);
}

/* ---- weights ---- */

/* Ten megabytes against ten kilobytes: bytes are shared, not messages. */
static void test_shares_are_of_bytes(void **state)
{
    (void)state;
    struct model *m = model_new(8);
    uint64_t heavy_kib = 0, light = 0;
    refill(m);
    for (int at = 0; at < 2000; at++) {
        (void)accept_item(m, m->now_ms, FLOOD, 4000);
        (void)accept_item(m, m->now_ms, ALERT, 4);
    }
    for (int at = 0; at < 1500; at++) {
        struct sched_item item;
        assert_true(deliver_next(m, &item));
        heavy_kib += item.flow == FLOOD ? item.size_kib : 0;
        light += item.flow == ALERT;
    }
    /* A light one weighs 20 KiB, its dialogue included. */
    assert_in_range(heavy_kib, light * 20 - 8200, light * 20 + 8200);
    free(m);
}

/* A sender who always has one message ready, just when the last one has gone, is no newcomer with
 * each: neither beside other senders of its device nor as a device. */
static void test_one_at_a_time_is_no_newcomer(void **state)
{
    (void)state;
    for (uint32_t single = FLOOD + 1; single <= ALERT; single += ALERT - FLOOD - 1) {
        struct model *m = model_new(13);
        uint64_t single_kib = 0, backlog_kib = 0;
        bool ready = false;
        refill(m);
        for (int at = 0; at < 4000; at++) {
            (void)accept_item(m, m->now_ms, FLOOD, 20);
        }
        for (int at = 0; at < 3000; at++) {
            struct sched_item item;
            if (!ready) {
                (void)accept_item(m, m->now_ms, single, 1000);
            }
            assert_true(deliver_next(m, &item));
            ready = item.flow != single;
            single_kib += ready ? 0 : item.size_kib + 16;
            backlog_kib += ready ? item.size_kib + 16 : 0;
        }
        assert_in_range(single_kib, backlog_kib - 2100, backlog_kib + 2100);
        free(m);
    }
}

static void test_small_pass_large_within_a_bound(void **state)
{
    (void)state;
    struct model *m = model_new(9);
    struct sched_item item;
    refill(m);
    struct sched_item large[3];
    for (size_t at = 0; at < 3; at++) {
        large[at] = accept_item(m, m->now_ms - 1000 + at, FLOOD, 3000);
    }
    for (int at = 0; at < 100; at++) {
        (void)accept_item(m, m->now_ms, FLOOD, SCHED_SMALL_KIB_MAX);
    }
    for (size_t at = 0; at < 2; at++) { /* so many, then the large one */
        assert_int_equal(takes_until(m, &large[at].id, 100), SCHED_PASSED_MAX + 1);
    }
    /* Or so long. */
    deliver(m, 2);
    m->now_ms += SCHED_PASSED_MS_MAX;
    assert_int_equal(takes_until(m, &large[2].id, 100), 1);
    /* With none of them left, in order. */
    struct sched_item last = {0};
    while (deliver_next(m, &item)) {
        assert_true(sched_item_compare(&last, &item) < 0);
        last = item;
    }
    assert_int_equal(m->count, 0);
    /* A large one that came later passes nobody, and is passed by nobody who came after it unasked.
     */
    struct sched_item small = accept_item(m, m->now_ms, FLOOD, 1);
    struct sched_item later = accept_item(m, m->now_ms + 1, FLOOD, LARGE);
    m->now_ms += 1;
    assert_int_equal(takes_until(m, &small.id, 1), 1);
    assert_int_equal(takes_until(m, &later.id, 1), 1);
    free(m);
}

/* ---- everybody has a turn ---- */

/* Newcomers without end, each silent before, each with one: who has sent much is not forgotten. */
static void test_newcomers_starve_nobody(void **state)
{
    (void)state;
    for (int devices = 0; devices < 2; devices++) {
        struct model *m = model_new(10);
        refill(m);
        for (int at = 0; at < 50; at++) {
            (void)accept_item(m, m->now_ms, FLOOD, 8000);
        }
        uint32_t since = 0, longest = 0, flow = 0x00050000u, floods = 0;
        for (int at = 0; at < 200000 && floods < 20; at++) {
            struct sched_item item;
            while (m->sched.count < 100) { /* more than there is time for */
                (void)accept_item(m, m->now_ms,
                                  devices == 0 ? 0x00010000u | (flow & 0xffffu) : flow, 1);
                flow += devices == 0 ? 1 : 0x00010000u;
            }
            assert_true(deliver_next(m, &item));
            since = item.flow == FLOOD && item.size_kib == 8000 ? 0 : since + 1;
            floods += since == 0;
            longest = since > longest ? since : longest;
            m->now_ms++;
        }
        assert_int_equal(floods, 20);
        /* It weighs 8016, everybody else 17, and a service moves the time on by at least one. */
        assert_in_range(longest, 1, 9000);
        free(m);
    }
}

/* No due message waits while so many others go, whatever is in the queue: a bound over random
 * queues. */
static void test_none_waits_for_ever(void **state)
{
    (void)state;
    enum { ROUNDS = 40000, MOST = 25000 };
    struct model *m = model_new(11);
    static uint32_t born[ROUNDS * 2 + 10];
    uint32_t longest = 0;
    refill(m);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        uint64_t come = rng() % 3; /* one a round, on average, and one goes */
        for (uint64_t at = 0; at < come && m->count < INDEX_MAX; at++) {
            struct sched_item item = accept_item(
                m, m->now_ms, rng() % 2 == 0 ? FLOOD : (uint32_t)(rng() % 100) << 16 | 7,
                rng() % 10 == 0 ? 9000 : 3);
            born[msg_id_time_and_sequence(&item.id) >> 16] = round;
        }
        struct sched_item item;
        if (deliver_next(m, &item)) {
            uint32_t waited = round - born[msg_id_time_and_sequence(&item.id) >> 16];
            longest = waited > longest ? waited : longest;
        }
        m->now_ms += 10;
    }
    struct sched_item item;
    while (deliver_next(m, &item)) {
    }
    assert_int_equal(m->count, 0);
    assert_in_range(longest, 1, MOST);
    free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_new_one_is_next),
        cmocka_unit_test(test_a_retry_is_next_when_its_time_comes),
        cmocka_unit_test(test_after_a_restart_too),
        cmocka_unit_test(test_many_senders_of_one_device),
        cmocka_unit_test(test_senders_of_one_device_go_round),
        cmocka_unit_test(test_more_than_the_late_places_hold),
        cmocka_unit_test(test_what_is_left_on_disk_is_fetched),
        cmocka_unit_test(test_a_crowd),
        cmocka_unit_test(test_shares_are_of_bytes),
        cmocka_unit_test(test_one_at_a_time_is_no_newcomer),
        cmocka_unit_test(test_small_pass_large_within_a_bound),
        cmocka_unit_test(test_newcomers_starve_nobody),
        cmocka_unit_test(test_none_waits_for_ever),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
