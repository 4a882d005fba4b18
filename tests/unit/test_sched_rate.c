/*
 * Rates: never more than so many in any span, and no fewer than can be; across a restart; and the
 * forecast.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/unit/sched_common.h"

#include <stdlib.h>

#define MINUTE_MS 60000ull
#define HOUR_MS   3600000ull
#define DAY_MS    86400000ull
#define SENT_MAX  20000

static struct sched_upstream *upstream_new(enum sched_rate_kind kind, enum sched_rate_span span,
                                           uint32_t most)
{
    struct sched_upstream *s = calloc(1, sizeof *s);
    assert_non_null(s);
    struct sched_limits with = limits;
    with.rate[kind][span] = most;
    sched_init(s, &with);
    sched_refilled(s, NULL, 0, NULL, true);
    return s;
}

static uint64_t number;

static void offer(struct sched_upstream *s, uint32_t count)
{
    while (count-- > 0) {
        sched_add(s, &(struct sched_item){.due_ms = 0, .id = msg_id_make(++number << 16, 1)});
    }
}

/* Takes all that may go and says that it went. */
static uint32_t send_all(struct sched_upstream *s, uint64_t now_ms, uint32_t recipients)
{
    struct sched_item item;
    uint32_t count = 0;
    while (sched_take(s, now_ms, &item)) {
        sched_job_back(s, recipients, true, now_ms);
        count++;
    }
    return count;
}

static const uint64_t spans_ms[] = {MINUTE_MS, HOUR_MS, DAY_MS};

/* At random moments, in bursts and in trickles: no span of that length, wherever it begins, has
 * more; and with enough to do, little less. */
static void test_never_more_in_any_span(void **state)
{
    (void)state;
    static uint64_t sent[SENT_MAX];
    rng_state = 21;
    for (enum sched_rate_span span = 0; span < SCHED_RATE_SPANS; span++) {
        for (uint32_t most = 1; most <= 300; most = most * 3 + 1) {
            struct sched_upstream *s = upstream_new(SCHED_RATE_MESSAGES, span, most);
            uint64_t now_ms = rng() % DAY_MS, began_ms = now_ms;
            size_t count = 0;
            while (now_ms < began_ms + 40 * spans_ms[span] && count + most < SENT_MAX) {
                offer(s, (uint32_t)(rng() % 3 == 0 ? rng() % (most * 2) : 1));
                for (uint32_t left = send_all(s, now_ms, 1); left > 0; left--) {
                    sent[count++] = now_ms;
                }
                now_ms += rng() % (spans_ms[span] / 20);
            }
            for (size_t first = 0; first < count; first++) {
                size_t last = first;
                while (last < count && sent[last] < sent[first] + spans_ms[span]) {
                    last++;
                }
                assert_true(last - first <= most);
            }
            free(s);
        }
    }
}

static void test_and_no_fewer_than_can_be(void **state)
{
    (void)state;
    struct sched_upstream *s = upstream_new(SCHED_RATE_MESSAGES, SCHED_RATE_MINUTE, 30);
    uint64_t now_ms = 1000000;
    uint32_t count = 0, wakes = 0;
    offer(s, 4000);
    assert_int_equal(sched_rate_room(s, now_ms), 30);
    assert_int_equal(send_all(s, now_ms, 1), 30); /* a burst goes at once */
    assert_false(sched_due(s, now_ms));
    assert_int_equal(sched_due_count(s, now_ms, 100), 0);
    for (; now_ms < 1000000 + 60 * MINUTE_MS; wakes++) {
        uint64_t wake_ms = sched_wake_ms(s, now_ms); /* the clock alone goes on */
        assert_in_range(wake_ms, now_ms + 1, now_ms + MINUTE_MS + MINUTE_MS / 12 + 1);
        assert_int_equal(wake_ms, sched_rate_next_ms(s, now_ms));
        assert_int_equal(sched_rate_room(s, wake_ms - 1), 0);
        now_ms = wake_ms;
        uint32_t sent = send_all(s, now_ms, 1);
        assert_true(sent > 0);
        count += sent;
    }
    assert_in_range(count, 60 * 30 * 12 / 13 - 30, 60 * 30);
    free(s);
}

/* What is under way keeps its place; untried it gives it back. */
static void test_what_is_under_way_counts(void **state)
{
    (void)state;
    struct sched_upstream *s = upstream_new(SCHED_RATE_MESSAGES, SCHED_RATE_HOUR, 3);
    struct sched_item item;
    offer(s, 10);
    for (int at = 0; at < 3; at++) {
        assert_true(sched_take(s, 1000, &item));
    }
    assert_false(sched_take(s, 1000, &item));
    assert_int_equal(sched_wake_ms(s, 1000), UINT64_MAX); /* no time brings more, but a job */
    sched_job_back(s, 0, false, 1000);
    assert_true(sched_take(s, 1000, &item));
    sched_job_back(s, 1, true, 1000);
    assert_false(sched_take(s, 1000, &item));
    free(s);
}

static void test_recipients_have_a_rate_of_their_own(void **state)
{
    (void)state;
    struct sched_upstream *s = upstream_new(SCHED_RATE_RECIPIENTS, SCHED_RATE_DAY, 100);
    offer(s, 50);
    assert_int_equal(send_all(s, 5000, 30), 4); /* the last one goes over it, once */
    assert_int_equal(sched_rate_room(s, 5000), 0);
    assert_int_equal(sched_rate_room(s, 5000 + DAY_MS + DAY_MS / 12), 100);
    free(s);
}

static void test_the_narrowest_of_several(void **state)
{
    (void)state;
    struct sched_upstream *s = upstream_new(SCHED_RATE_MESSAGES, SCHED_RATE_MINUTE, 10);
    s->limits.rate[SCHED_RATE_MESSAGES][SCHED_RATE_HOUR] = 25;
    uint64_t now_ms = 10 * HOUR_MS;
    offer(s, 100);
    assert_int_equal(send_all(s, now_ms, 1), 10);
    now_ms += 2 * MINUTE_MS;
    assert_int_equal(send_all(s, now_ms, 1), 10);
    now_ms += 2 * MINUTE_MS;
    assert_int_equal(send_all(s, now_ms, 1), 5);
    assert_true(sched_wake_ms(s, now_ms) > now_ms + 30 * MINUTE_MS);
    free(s);
}

/* ---- across a restart ---- */

static void test_a_restart_forgets_nothing(void **state)
{
    (void)state;
    struct sched_upstream *s = upstream_new(SCHED_RATE_MESSAGES, SCHED_RATE_DAY, 240);
    struct record_upstream saved = {0};
    uint64_t now_ms = 100 * DAY_MS;
    struct sched_item item;
    offer(s, 240);
    for (int at = 0; at < 200; at++) {
        assert_true(sched_take(s, now_ms, &item));
        if (at < 190) {
            sched_job_back(s, 1, true, now_ms);
        } /* ten are under way when it ends */
    }
    sched_save(s, now_ms, &saved);
    assert_int_equal(saved.bucket_count, SCHED_RATE_KINDS * SCHED_RATE_SPANS);
    assert_int_equal(saved.buckets[SCHED_RATE_DAY].used, 200);
    free(s);
    s = upstream_new(SCHED_RATE_MESSAGES, SCHED_RATE_DAY, 240);
    sched_restore(s, &saved, now_ms + 1000);
    assert_int_equal(sched_rate_room(s, now_ms + 1000), 40);
    /* It comes back evenly over the day. */
    uint32_t before = 40;
    for (uint64_t hour = 1; hour <= 26; hour++) {
        uint32_t room = sched_rate_room(s, now_ms + hour * HOUR_MS);
        assert_in_range(room, before, before + 18);
        before = room;
    }
    assert_int_equal(before, 240);
    free(s);
}

/* The limit may be another one after the restart, also where there was none: what was sent counts.
 */
static void test_a_rate_may_change_with_a_restart(void **state)
{
    (void)state;
    static const struct {
        uint32_t before, after, room;
    } rows[] = {
        {100, 10000, 9900}, {1000, 200, 100}, {100, 50, 0}, {0, 150, 50}, {100, 0, UINT32_MAX}};
    for (size_t at = 0; at < sizeof rows / sizeof rows[0]; at++) {
        struct sched_upstream *s =
            upstream_new(SCHED_RATE_MESSAGES, SCHED_RATE_DAY, rows[at].before);
        struct record_upstream saved = {0};
        offer(s, 100);
        assert_int_equal(send_all(s, DAY_MS, 1), 100);
        sched_save(s, DAY_MS, &saved);
        free(s);
        s = upstream_new(SCHED_RATE_MESSAGES, SCHED_RATE_DAY, rows[at].after);
        sched_restore(s, &saved, DAY_MS);
        assert_int_equal(sched_rate_room(s, DAY_MS), rows[at].room);
        free(s);
    }
}

/* What cannot be is cut to what can. */
static void test_a_restart_trusts_nothing(void **state)
{
    (void)state;
    static const struct {
        struct record_bucket bucket;
        uint32_t room;
    } rows[] = {
        {{0, MINUTE_MS, UINT64_MAX, 5000000}, 0}, /* more than the rate allows */
        {{0, MINUTE_MS, 30, 5000000}, 0},
        {{0, MINUTE_MS, 30, UINT64_MAX}, 0}, /* a time to come: as if now */
        {{0, MINUTE_MS, 30, 0}, 30},         /* long ago */
        {{0, MINUTE_MS, 1, 5000000}, 29},
        {{0, HOUR_MS, 30, 5000000}, 30}, /* no such rate is set */
        {{1, MINUTE_MS, 30, 5000000}, 30},
        {{0, 12345, 30, 5000000}, 30},
    };
    for (size_t at = 0; at < sizeof rows / sizeof rows[0]; at++) {
        struct sched_upstream *s = upstream_new(SCHED_RATE_MESSAGES, SCHED_RATE_MINUTE, 30);
        struct record_upstream saved = {.bucket_count = 1, .buckets = {rows[at].bucket}};
        sched_restore(s, &saved, 5000000);
        assert_int_equal(sched_rate_room(s, 5000000), rows[at].room);
        assert_int_equal(sched_rate_room(s, 5000000 + 2 * MINUTE_MS), 30); /* and not for ever */
        free(s);
    }
}

static void test_clocks_at_both_ends(void **state)
{
    (void)state;
    static const uint64_t clocks[] = {0, 1, UINT64_MAX - 1, UINT64_MAX};
    for (size_t at = 0; at < sizeof clocks / sizeof clocks[0]; at++) {
        struct sched_upstream *s = upstream_new(SCHED_RATE_MESSAGES, SCHED_RATE_MINUTE, 5);
        offer(s, 20);
        assert_int_equal(send_all(s, clocks[at], 1), 5);
        assert_true(sched_wake_ms(s, clocks[at]) > clocks[at] || clocks[at] == UINT64_MAX);
        struct record_upstream saved = {0};
        sched_save(s, clocks[at], &saved);
        sched_restore(s, &saved, clocks[at]);
        assert_int_equal(sched_rate_room(s, clocks[at]), 0);
        /* A clock that stands before what was counted gives nothing away. */
        assert_int_equal(sched_rate_room(s, clocks[at] / 2), 0);
        free(s);
    }
}

/* What was counted and what is under way; what has left the span is used no more. */
static void test_what_is_used(void **state)
{
    (void)state;
    struct sched_upstream *s = upstream_new(SCHED_RATE_MESSAGES, SCHED_RATE_MINUTE, 30);
    uint64_t now_ms = 5000000;
    struct sched_item item;
    offer(s, 4);
    assert_int_equal(send_all(s, now_ms, 5), 4);
    offer(s, 1);
    assert_true(sched_take(s, now_ms, &item));
    static const struct {
        uint64_t after_ms;
        uint32_t minute, hour; /* recipients */
    } rows[] = {{0, 21, 21}, {30000, 21, 21}, {2 * MINUTE_MS, 1, 21}, {2 * HOUR_MS, 1, 1}};
    for (size_t at = 0; at < sizeof rows / sizeof rows[0]; at++) {
        uint64_t then_ms = now_ms + rows[at].after_ms;
        assert_int_equal(sched_rate_used(s, SCHED_RATE_RECIPIENTS, SCHED_RATE_MINUTE, then_ms),
                         rows[at].minute);
        assert_int_equal(sched_rate_used(s, SCHED_RATE_RECIPIENTS, SCHED_RATE_HOUR, then_ms),
                         rows[at].hour);
        uint32_t used = sched_rate_used(s, SCHED_RATE_MESSAGES, SCHED_RATE_MINUTE, then_ms);
        assert_int_equal(used + sched_rate_room(s, then_ms), 30);
    }
    free(s);
}

/* ---- the forecast ---- */

static void deliver_for(struct sched_upstream *s, uint64_t *now_ms, uint32_t count,
                        uint64_t each_ms)
{
    struct sched_item item;
    for (; count > 0; count--) {
        offer(s, 1);
        assert_true(sched_take(s, *now_ms, &item));
        *now_ms += each_ms;
        sched_job_back(s, 1, true, *now_ms);
    }
}

static void test_the_forecast(void **state)
{
    (void)state;
    struct sched_upstream *s = upstream_new(SCHED_RATE_MESSAGES, SCHED_RATE_DAY, 0);
    uint64_t now_ms = 1000000;
    assert_int_equal(sched_forecast_ms(s, 0, now_ms), now_ms); /* nothing is gone at once */
    assert_int_equal(sched_forecast_ms(s, 1, now_ms), UINT64_MAX);
    deliver_for(s, &now_ms, 20, 100); /* ten a second */
    assert_in_range(sched_forecast_ms(s, 600, now_ms) - now_ms, 59000, 61000);
    now_ms += 10 * HOUR_MS; /* idle time says nothing */
    assert_in_range(sched_forecast_ms(s, 600, now_ms) - now_ms, 59000, 61000);
    deliver_for(s, &now_ms, 600, 500); /* it is slower now: five minutes of two a second */
    assert_in_range(sched_forecast_ms(s, 600, now_ms) - now_ms, 280000, 305000);
    /* Within a rate. */
    s->limits.rate[SCHED_RATE_MESSAGES][SCHED_RATE_MINUTE] = 30;
    assert_in_range(sched_forecast_ms(s, 600, now_ms) - now_ms, 19 * MINUTE_MS, 20 * MINUTE_MS);
    s->limits.rate[SCHED_RATE_MESSAGES][SCHED_RATE_MINUTE] = 0;
    /* After a pause. */
    struct msg_id id = msg_id_make(1, 1);
    assert_true(sched_throttled(s, &id, now_ms, 1));
    assert_in_range(sched_forecast_ms(s, 600, now_ms) - s->pause_until_ms, 280000, 305000);
    /* More than anybody waits for. */
    assert_int_equal(sched_forecast_ms(s, 900000000, now_ms), UINT64_MAX);
    assert_int_equal(sched_forecast_ms(s, UINT64_MAX, now_ms), UINT64_MAX);
    /* Out of order: nobody knows. */
    sched_opening(s, false);
    sched_connection_down(s, OUTCOME_AUTH_REFUSED, false, false, now_ms, 1);
    assert_int_equal(sched_forecast_ms(s, 1, now_ms), UINT64_MAX);
    free(s);
}

/* A suspend in the middle of a job does not make the upstream a slow one for days. */
static void test_the_forecast_after_a_suspend(void **state)
{
    (void)state;
    struct sched_upstream *s = upstream_new(SCHED_RATE_MESSAGES, SCHED_RATE_DAY, 0);
    uint64_t now_ms = 1000000;
    deliver_for(s, &now_ms, 600, 100);
    deliver_for(s, &now_ms, 1, 3 * DAY_MS);
    deliver_for(s, &now_ms, 6000, 100);
    assert_in_range(sched_forecast_ms(s, 600, now_ms) - now_ms, 59000, 62000);
    free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_never_more_in_any_span),
        cmocka_unit_test(test_and_no_fewer_than_can_be),
        cmocka_unit_test(test_what_is_under_way_counts),
        cmocka_unit_test(test_recipients_have_a_rate_of_their_own),
        cmocka_unit_test(test_the_narrowest_of_several),
        cmocka_unit_test(test_a_restart_forgets_nothing),
        cmocka_unit_test(test_a_rate_may_change_with_a_restart),
        cmocka_unit_test(test_a_restart_trusts_nothing),
        cmocka_unit_test(test_clocks_at_both_ends),
        cmocka_unit_test(test_what_is_used),
        cmocka_unit_test(test_the_forecast),
        cmocka_unit_test(test_the_forecast_after_a_suspend),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
