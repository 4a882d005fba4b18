/*
 * How fast an upstream is given work after it asked for less, and when what was deferred is tried
 * again.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/unit/sched_common.h"

#include <stdlib.h>

#define NOW_MS 7000000

static struct sched_upstream *upstream_new(uint32_t connections)
{
    struct sched_upstream *s = calloc(1, sizeof *s);
    assert_non_null(s);
    struct sched_limits with = limits;
    with.connections_max = connections;
    sched_init(s, &with);
    sched_refilled(s, NULL, 0, NULL, true);
    for (uint32_t at = 0; at < connections; at++) {
        sched_opening(s, false);
        sched_connection_up(s);
    }
    return s;
}

static struct msg_id id_of(uint64_t number)
{
    return msg_id_make(number << 16, 1);
}

static void succeed(struct sched_upstream *s, uint64_t now_ms)
{
    s->out++;
    sched_job_back(s, 1, true, now_ms);
}

/* ---- retries ---- */

static uint64_t wait_of(const struct sched_upstream *s, enum outcome outcome, uint32_t attempts,
                        uint64_t entropy)
{
    struct msg_id id = id_of(1);
    struct sched_retry retry = sched_retry(s, &id, outcome, attempts, NOW_MS, entropy);
    assert_true(retry.counts);
    assert_true(retry.due_ms >= NOW_MS);
    return retry.due_ms - NOW_MS;
}

static void test_retries_double_with_jitter(void **state)
{
    (void)state;
    static const struct {
        enum outcome outcome;
        uint32_t attempts; /* before this one */
        uint64_t wait_ms;
    } rows[] = {
        {OUTCOME_DEFERRED, 0, 60000},
        {OUTCOME_DEFERRED, 1, 120000},
        {OUTCOME_DEFERRED, 2, 240000},
        {OUTCOME_DEFERRED, 5, 1920000},
        {OUTCOME_DEFERRED, 6, 3600000},
        {OUTCOME_DEFERRED, 100, 3600000},
        {OUTCOME_DEFERRED, UINT32_MAX, 3600000},
        {OUTCOME_GREYLISTED, 0, 300000},
        {OUTCOME_GREYLISTED, 1, 600000},
        {OUTCOME_GREYLISTED, 9, 900000},
        {OUTCOME_MAILBOX_FULL, 0, 1800000},
        {OUTCOME_MAILBOX_FULL, 1, 3600000},
        {OUTCOME_MAILBOX_FULL, 9, 14400000},
        {OUTCOME_IN_DOUBT, 0, 300000},
        {OUTCOME_IN_DOUBT, 9, 3600000},
        {OUTCOME_LOCAL_TROUBLE, 0, 60000},
        {OUTCOME_LOCAL_TROUBLE, 9, 600000},
        {OUTCOME_CONNECTION_LOST, 0, 60000},
        {OUTCOME_CONNECTION_LOST, 9, 900000},
        {OUTCOME_TIMED_OUT, 9, 900000},
        {OUTCOME_PROTOCOL_ERROR, 9, 3600000},
    };
    struct sched_upstream *s = upstream_new(4);
    rng_state = 3;
    for (size_t at = 0; at < sizeof rows / sizeof rows[0]; at++) {
        uint64_t wait_ms = rows[at].wait_ms, least = UINT64_MAX, most = 0;
        for (int round = 0; round < 2000; round++) {
            uint64_t waits = wait_of(s, rows[at].outcome, rows[at].attempts, rng());
            assert_in_range(waits, wait_ms - wait_ms / 8, wait_ms + wait_ms / 8);
            least = waits < least ? waits : least;
            most = waits > most ? waits : most;
        }
        assert_true(most - least > wait_ms / 5); /* they really spread */
    }
    /* The same message has another place with every attempt, the same numbers the same place. */
    assert_int_equal(wait_of(s, OUTCOME_DEFERRED, 8, 5), wait_of(s, OUTCOME_DEFERRED, 8, 5));
    assert_int_not_equal(wait_of(s, OUTCOME_DEFERRED, 8, 5), wait_of(s, OUTCOME_DEFERRED, 9, 5));
    free(s);
}

/* Whatever a row asks for: not sooner than retry-min, and not much later than retry-max. */
static void test_the_settings_are_bounds(void **state)
{
    (void)state;
    static const uint64_t settings[][2] = {
        {1, 1},
        {40, 80},
        {30000, 600000},
        {1200000, 1200000},
        {86400000, 604800000},
        {1000, UINT64_MAX},
    };
    struct sched_upstream *s = upstream_new(4);
    rng_state = 4;
    for (size_t at = 0; at < sizeof settings / sizeof settings[0]; at++) {
        s->limits.retry_min_ms = settings[at][0];
        s->limits.retry_max_ms = settings[at][1];
        for (enum outcome outcome = 0; outcome < OUTCOME_COUNT; outcome++) {
            if (sched_is_throttle(outcome)) {
                continue;
            }
            for (uint32_t attempts = 0; attempts < 70; attempts++) {
                uint64_t waits = wait_of(s, outcome, attempts, rng());
                uint64_t most =
                    settings[at][1] > UINT64_MAX / 8 ? UINT64_MAX : settings[at][1] * 9 / 2 + 1;
                assert_in_range(waits, settings[at][0] - settings[at][0] / 8, most);
            }
        }
    }
    free(s);
}

/* A thousand that failed at once come back spread over a quarter of their wait, at every attempt.
 */
static void test_no_stampede(void **state)
{
    (void)state;
    enum { MESSAGES = 1000, SLOTS = 20 };
    struct sched_upstream *s = upstream_new(4);
    uint64_t entropy = 12345;
    for (uint32_t attempt = 0; attempt < 8; attempt++) {
        uint32_t slots[SLOTS] = {0};
        uint64_t wait_ms =
            (uint64_t)60000 << attempt < 3600000 ? (uint64_t)60000 << attempt : 3600000;
        for (uint64_t message = 0; message < MESSAGES; message++) {
            entropy = sched_mix(entropy);
            uint64_t past =
                wait_of(s, OUTCOME_DEFERRED, attempt, entropy) - (wait_ms - wait_ms / 8);
            slots[past * SLOTS / (wait_ms / 4 + 1)]++;
        }
        for (size_t slot = 0; slot < SLOTS; slot++) {
            assert_in_range(slots[slot], MESSAGES / SLOTS / 2, MESSAGES / SLOTS * 2);
        }
    }
    free(s);
}

static void test_the_soonest_of_several(void **state)
{
    (void)state;
    static const enum outcome order[] = {OUTCOME_THROTTLED, OUTCOME_DEFERRED, OUTCOME_GREYLISTED,
                                         OUTCOME_MAILBOX_FULL};
    for (size_t a = 0; a < 4; a++) {
        for (size_t b = 0; b < 4; b++) {
            assert_int_equal(sched_is_sooner(order[a], order[b]), a < b);
        }
    }
}

/* ---- throttles ---- */

static void test_pauses_grow_and_shrink(void **state)
{
    (void)state;
    struct sched_upstream *s = upstream_new(8);
    uint64_t now_ms = NOW_MS, wait_ms = SCHED_THROTTLE_MS_FIRST;
    rng_state = 5;
    for (uint64_t at = 0; at < 20; at++) {
        struct msg_id id = id_of(100 + at);
        assert_true(sched_throttled(s, &id, now_ms, rng()));
        assert_in_range(s->pause_until_ms - now_ms, wait_ms - wait_ms / 8, wait_ms + wait_ms / 8);
        assert_true(sched_is_paused(s, now_ms) && !sched_is_paused(s, s->pause_until_ms));
        struct sched_retry retry = sched_retry(s, &id, OUTCOME_THROTTLED, 3, now_ms, rng());
        assert_false(retry.counts);
        assert_int_equal(retry.due_ms, s->pause_until_ms); /* when the upstream is ready */
        assert_int_equal(sched_window(s, 4), 1);
        now_ms = s->pause_until_ms;
        wait_ms = wait_ms * 2 < SCHED_THROTTLE_MS_MAX ? wait_ms * 2 : SCHED_THROTTLE_MS_MAX;
    }
    assert_int_equal(s->concurrency, 1);
    /* One success at one, two at two, three at three ... */
    for (uint32_t concurrency = 1; concurrency < 8; concurrency++) {
        assert_int_equal(s->concurrency, concurrency);
        for (uint32_t at = 0; at < concurrency; at++) {
            succeed(s, now_ms);
        }
    }
    assert_int_equal(s->concurrency, 8);
    assert_int_equal(s->pause_level, 0);
    assert_int_equal(sched_window(s, 4), 4);
    for (uint32_t at = 0; at < 1000; at++) {
        succeed(s, now_ms);
    }
    assert_int_equal(s->concurrency, 8); /* and no more */
    free(s);
}

/* Half of what was at work, not of what there might be. */
static void test_half_of_what_there_is(void **state)
{
    (void)state;
    struct sched_upstream *s = upstream_new(32);
    struct msg_id id = id_of(1);
    for (uint32_t at = 0; at < 22; at++) {
        sched_connection_down(s, OUTCOME_NONE, true, true, NOW_MS, 1);
    }
    assert_true(sched_throttled(s, &id, NOW_MS, 1));
    assert_int_equal(s->concurrency, 5);
    free(s);
}

/* The upstream says "later" to one message, whatever it says: the others go on. */
static void test_a_message_that_is_throttled_alone(void **state)
{
    (void)state;
    struct sched_upstream *s = upstream_new(4);
    struct msg_id own = id_of(1), other = id_of(2);
    uint64_t now_ms = NOW_MS;
    assert_true(sched_throttled(s, &own, now_ms, 1)); /* the first time nobody knows */
    now_ms = s->pause_until_ms;
    assert_true(sched_throttled(s, &own, now_ms, 2)); /* nothing has gone since */
    now_ms = s->pause_until_ms;
    succeed(s, now_ms);
    uint32_t concurrency = s->concurrency;
    assert_false(sched_throttled(s, &own, now_ms, 3));
    assert_false(sched_is_paused(s, now_ms));
    assert_int_equal(s->concurrency, concurrency);
    struct sched_retry retry = sched_retry(s, &own, OUTCOME_THROTTLED, 2, now_ms, 7);
    assert_true(retry.counts); /* it waits by itself now, longer each time */
    assert_in_range(retry.due_ms - now_ms, 210000, 270000);
    assert_true(sched_throttled(s, &other, now_ms, 4)); /* another one is another matter */
    assert_true(sched_is_paused(s, now_ms));
    free(s);
}

/* Three at once are let in, more hear 432: what is in use settles around three, and mail goes on.
 */
static void test_it_settles_at_what_the_upstream_takes(void **state)
{
    (void)state;
    enum { TAKES = 3, STEP_MS = 200 };
    struct sched_upstream *s = upstream_new(16);
    uint64_t now_ms = NOW_MS, number = 1;
    uint32_t delivered = 0, throttled = 0;
    rng_state = 6;
    for (int step = 0; step < 20000; step++, now_ms += STEP_MS) {
        if (sched_is_paused(s, now_ms)) {
            continue;
        }
        uint32_t at_once = s->concurrency;
        for (uint32_t job = 0; job < at_once; job++) {
            s->out++;
            bool taken = job < TAKES;
            sched_job_back(s, taken, taken, now_ms);
            delivered += taken;
            if (!taken) {
                struct msg_id id = id_of(number++);
                assert_true(sched_throttled(s, &id, now_ms, rng()));
                throttled++;
            }
        }
    }
    /* 4,000 seconds, at 15 a second at most. */
    assert_true(delivered > 4000);
    assert_true(throttled < delivered / 5);
    free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_retries_double_with_jitter),
        cmocka_unit_test(test_the_settings_are_bounds),
        cmocka_unit_test(test_no_stampede),
        cmocka_unit_test(test_the_soonest_of_several),
        cmocka_unit_test(test_pauses_grow_and_shrink),
        cmocka_unit_test(test_half_of_what_there_is),
        cmocka_unit_test(test_a_message_that_is_throttled_alone),
        cmocka_unit_test(test_it_settles_at_what_the_upstream_takes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
