/*
 * Connections to one upstream, move by move: the circuit breaker, how many there may be, and that
 * there is always a next time.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/unit/sched_common.h"

#include <stdlib.h>

enum move {
    OPEN,        /* may_open must say yes, without probe */
    OPEN_PROBE,  /* yes, as the probe */
    NO_OPEN,     /* no */
    UP,          /* sched_connection_up */
    LOST,        /* a connection that was up goes, had worked: CONNECTION_LOST */
    LOST_NEW,    /* one that was up goes before it had worked */
    REFUSED,     /* one that was opening is refused */
    PEACE,       /* one that was up ends by itself */
    PEACE_EARLY, /* one that was opening ends by itself */
    ANSWERED,    /* a job was answered; expects that it was well */
    CURED,       /* the same; expects that it was marked */
    LATER,       /* the clock goes on by half of probe-min */
    PROBE_TIME,  /* the clock goes to the time of the probe */
    PROBE_NOW,   /* an operator's wish */
    PROBE_OPEN,  /* sched_probe_open */
    THROTTLED,   /* a job was told to come later */
    PAUSE_OVER,  /* the clock goes to the end of the pause */
    SLOW,        /* a connection that has worked times out */
    DUE,         /* there is mail to be handed on */
    SENT_AWAY,   /* a connection that was up is told 421 before it had worked */
    WORKED,      /* a connection has finished its first job */
    END
};

struct breaker_case {
    const char *what;
    enum move moves[32];
    enum sched_breaker breaker;
    uint32_t connections, failures;
    uint32_t concurrency; /* 0: not looked at */
};

static const struct breaker_case breaker_cases[] = {
    {"a first connection", {OPEN, UP, END}, SCHED_BREAKER_WELL, 1, 0, 0},
    {"at most connections-max",
     {OPEN, OPEN, OPEN, OPEN, NO_OPEN, UP, UP, UP, UP, NO_OPEN, END},
     SCHED_BREAKER_WELL,
     4,
     0,
     0},
    {"refused at once: marked", {OPEN, REFUSED, NO_OPEN, END}, SCHED_BREAKER_WAITING, 0, 1, 0},
    {"four refused at once are one failure",
     {OPEN, OPEN, OPEN, OPEN, REFUSED, REFUSED, REFUSED, REFUSED, NO_OPEN, END},
     SCHED_BREAKER_WAITING,
     0,
     1,
     0},
    {"one probe, no second beside it",
     {OPEN, REFUSED, PROBE_TIME, OPEN_PROBE, NO_OPEN, END},
     SCHED_BREAKER_PROBING,
     1,
     1,
     0},
    {"a failed probe counts",
     {OPEN, REFUSED, PROBE_TIME, OPEN_PROBE, REFUSED, NO_OPEN, END},
     SCHED_BREAKER_WAITING,
     0,
     2,
     0},
    {"a probe that came in and lost its job counts",
     {OPEN, REFUSED, PROBE_TIME, OPEN_PROBE, UP, LOST_NEW, END},
     SCHED_BREAKER_WAITING,
     0,
     2,
     0},
    {"a probe that is answered cures",
     {OPEN, REFUSED, PROBE_TIME, OPEN_PROBE, UP, CURED, OPEN, END},
     SCHED_BREAKER_WELL,
     2,
     0,
     0},
    {"a probe that ends in peace waits for another",
     {OPEN, REFUSED, PROBE_TIME, OPEN_PROBE, UP, PEACE, NO_OPEN, PROBE_TIME, OPEN_PROBE, END},
     SCHED_BREAKER_PROBING,
     1,
     1,
     0},
    {"a probe that ended before it was in",
     {OPEN, REFUSED, PROBE_TIME, OPEN_PROBE, PEACE_EARLY, NO_OPEN, PROBE_TIME, OPEN_PROBE, END},
     SCHED_BREAKER_PROBING,
     1,
     1,
     0},
    {"one more than the upstream lets in is no fault",
     {OPEN, UP, OPEN, REFUSED, NO_OPEN, ANSWERED, LATER, NO_OPEN, LATER, OPEN, END},
     SCHED_BREAKER_WELL,
     2,
     0,
     0},
    {"lost after work is no fault",
     {OPEN, UP, ANSWERED, LOST, OPEN, END},
     SCHED_BREAKER_WELL,
     1,
     0,
     0},
    {"lost before work is", {OPEN, UP, LOST_NEW, NO_OPEN, END}, SCHED_BREAKER_WAITING, 0, 1, 0},
    {"idle ends are no fault", {OPEN, UP, PEACE, OPEN, END}, SCHED_BREAKER_WELL, 1, 0, 0},
    {"an operator's wish comes before the time",
     {OPEN, REFUSED, NO_OPEN, PROBE_NOW, OPEN_PROBE, END},
     SCHED_BREAKER_PROBING,
     1,
     1,
     0},
    {"a wish changes nothing while it is well",
     {OPEN, UP, PROBE_NOW, END},
     SCHED_BREAKER_WELL,
     1,
     0,
     0},
    {"marked with connections open: one of them goes ahead, not a new one",
     {OPEN, OPEN, UP, UP, LOST_NEW, PROBE_OPEN, NO_OPEN, PROBE_TIME, NO_OPEN, PROBE_OPEN, NO_OPEN,
      END},
     SCHED_BREAKER_PROBING,
     1,
     1,
     0},
    {"and cures it",
     {OPEN, OPEN, UP, UP, LOST_NEW, PROBE_TIME, PROBE_OPEN, CURED, OPEN, END},
     SCHED_BREAKER_WELL,
     2,
     0,
     0},
    {"or fails",
     {OPEN, OPEN, UP, UP, LOST_NEW, PROBE_TIME, PROBE_OPEN, LOST_NEW, NO_OPEN, PROBE_TIME,
      OPEN_PROBE, END},
     SCHED_BREAKER_PROBING,
     1,
     2,
     0},
    {"a throttle: nothing new during the pause, then half",
     {OPEN, OPEN, OPEN, UP, UP, UP, THROTTLED, NO_OPEN, PAUSE_OVER, NO_OPEN, END},
     SCHED_BREAKER_WELL,
     3,
     0,
     1},
    {"all that were under way when it began are one throttle",
     {OPEN, OPEN, OPEN, OPEN, UP, UP, UP, UP, THROTTLED, THROTTLED, THROTTLED, THROTTLED, END},
     SCHED_BREAKER_WELL,
     4,
     0,
     2},
    {"successes bring it back, one by one",
     {OPEN,     OPEN,      OPEN,       OPEN,     UP,       UP,       UP,
      UP,       THROTTLED, PAUSE_OVER, ANSWERED, ANSWERED, ANSWERED, ANSWERED,
      ANSWERED, ANSWERED,  ANSWERED,   ANSWERED, ANSWERED, END},
     SCHED_BREAKER_WELL,
     4,
     0,
     4},
    {"one that times out while others work: half",
     {OPEN, OPEN, OPEN, OPEN, UP, UP, UP, UP, ANSWERED, SLOW, NO_OPEN, END},
     SCHED_BREAKER_WELL,
     3,
     0,
     1},
    {"as many as it lets in, and now and then one more",
     {OPEN,     OPEN,    OPEN,  OPEN,  UP,   UP,      UP,    REFUSED, NO_OPEN, ANSWERED, ANSWERED,
      ANSWERED, NO_OPEN, LATER, LATER, OPEN, REFUSED, LATER, LATER,   NO_OPEN, END},
     SCHED_BREAKER_WELL,
     3,
     0,
     3},
    {"a cured upstream begins small",
     {OPEN, REFUSED, PROBE_TIME, OPEN_PROBE, UP, CURED, OPEN, NO_OPEN, END},
     SCHED_BREAKER_WELL,
     2,
     0,
     2},
    {"one that is still opening is no probe",
     {OPEN, OPEN, REFUSED, PROBE_TIME, PROBE_OPEN, NO_OPEN, UP, PROBE_OPEN, END},
     SCHED_BREAKER_PROBING,
     1,
     1,
     0},
    {"let in only to be sent away: marked",
     {OPEN, UP, SENT_AWAY, NO_OPEN, END},
     SCHED_BREAKER_WAITING,
     0,
     1,
     0},
    {"who is sent away again and again comes less often",
     {OPEN,   UP,        WORKED,   OPEN,  UP,        SENT_AWAY, ANSWERED, LATER, LATER, OPEN,
      UP,     SENT_AWAY, ANSWERED, LATER, LATER,     NO_OPEN,   LATER,    LATER, OPEN,  UP,
      WORKED, LOST,      OPEN,     UP,    SENT_AWAY, ANSWERED,  LATER,    LATER, OPEN,  END},
     SCHED_BREAKER_WELL,
     2,
     0,
     0},
    {"the same for one more than the upstream lets in is no fault",
     {OPEN, UP, OPEN, UP, SENT_AWAY, NO_OPEN, ANSWERED, LATER, NO_OPEN, LATER, OPEN, END},
     SCHED_BREAKER_WELL,
     2,
     0,
     2},
    {"ends in peace while mail waits, again and again: not for ever at once, but farther apart",
     {DUE,     OPEN,  UP,   PEACE, OPEN,  UP,    PEACE, OPEN,    UP,    PEACE, NO_OPEN, LATER,
      NO_OPEN, LATER, OPEN, UP,    PEACE, LATER, LATER, NO_OPEN, LATER, LATER, OPEN,    END},
     SCHED_BREAKER_WELL,
     1,
     0,
     0},
    {"an answer in between, and they count from the beginning",
     {DUE, OPEN, UP, PEACE, OPEN, UP, PEACE, OPEN, UP, ANSWERED, PEACE, OPEN, UP, PEACE, OPEN, END},
     SCHED_BREAKER_WELL,
     1,
     0,
     0},
    {"ends in peace with no mail to hand on are no fault, however many",
     {OPEN, UP, PEACE, OPEN, UP, PEACE, OPEN, UP, PEACE, OPEN, UP, PEACE, OPEN, UP, PEACE, OPEN,
      END},
     SCHED_BREAKER_WELL,
     1,
     0,
     0},
};

struct breaker_run {
    struct sched_upstream s;
    uint64_t now_ms;
    const struct breaker_case *row;
};

static void down(struct breaker_run *r, enum outcome outcome, bool was_up, bool had_worked)
{
    sched_connection_down(&r->s, outcome, was_up, had_worked, r->now_ms, rng());
}

static void expect_open(struct breaker_run *r, bool wanted, bool wanted_probe)
{
    bool probe = false;
    if (sched_may_open(&r->s, r->now_ms, 100, &probe) != wanted) {
        fail_msg("%s: may_open is not %d", r->row->what, wanted);
    }
    if (wanted) {
        assert_int_equal(probe, wanted_probe);
        sched_opening(&r->s, probe);
    }
}

static void play(struct breaker_run *r, enum move move)
{
    switch (move) {
    case OPEN:
    case OPEN_PROBE:
        expect_open(r, true, move == OPEN_PROBE);
        return;
    case NO_OPEN:
        expect_open(r, false, false);
        return;
    case UP:
        sched_connection_up(&r->s);
        return;
    case LOST:
    case LOST_NEW:
        down(r, OUTCOME_CONNECTION_LOST, true, move == LOST);
        return;
    case REFUSED:
        down(r, OUTCOME_CONNECTION_REFUSED, false, false);
        return;
    case PEACE:
    case PEACE_EARLY:
        down(r, OUTCOME_NONE, move == PEACE, false);
        return;
    case ANSWERED:
    case CURED:
        assert_int_equal(sched_upstream_answered(&r->s, r->now_ms), move == CURED);
        r->s.out++; /* the job */
        sched_job_back(&r->s, 1, true, r->now_ms);
        return;
    case THROTTLED: {
        struct msg_id id = msg_id_make(rng(), 1);
        assert_true(sched_throttled(&r->s, &id, r->now_ms, rng()));
        return;
    }
    case PAUSE_OVER:
        assert_true(r->s.pause_until_ms > r->now_ms);
        r->now_ms = r->s.pause_until_ms;
        return;
    case SLOW:
        down(r, OUTCOME_TIMED_OUT, true, true);
        return;
    case DUE:
        sched_refilled(&r->s, NULL, 0, NULL, true);
        sched_add(&r->s, &(struct sched_item){.due_ms = 1, .id = msg_id_make(1, 1)});
        return;
    case SENT_AWAY:
        down(r, OUTCOME_SERVICE_CLOSING, true, false);
        return;
    case WORKED:
        sched_connection_worked(&r->s);
        return;
    case LATER:
        r->now_ms += limits.probe_min_ms / 2;
        return;
    case PROBE_TIME:
        assert_true(r->s.probe_ms > r->now_ms);
        r->now_ms = r->s.probe_ms;
        return;
    case PROBE_NOW:
        sched_probe_now(&r->s, r->now_ms);
        return;
    case PROBE_OPEN:
        sched_probe_open(&r->s, r->now_ms);
        return;
    case END:
    default:
        return;
    }
}

static void test_breaker_moves(void **state)
{
    (void)state;
    for (size_t at = 0; at < sizeof breaker_cases / sizeof breaker_cases[0]; at++) {
        static struct breaker_run r;
        r = (struct breaker_run){.now_ms = 5000000, .row = &breaker_cases[at]};
        sched_init(&r.s, &limits);
        for (const enum move *move = r.row->moves; *move != END; move++) {
            play(&r, *move);
        }
        if (r.row->concurrency != 0 && r.s.concurrency != r.row->concurrency) {
            fail_msg("%s: concurrency %u", r.row->what, r.s.concurrency);
        }
        if (r.s.breaker != r.row->breaker || r.s.connections != r.row->connections ||
            r.s.probe_failures != r.row->failures) {
            fail_msg("%s: breaker %d connections %u failures %u", r.row->what, (int)r.s.breaker,
                     r.s.connections, r.s.probe_failures);
        }
    }
}

/* Whatever happens, in any order: an upstream is never left without a next time to try it. */
static void test_the_breaker_never_gets_stuck(void **state)
{
    (void)state;
    static const struct breaker_case no_row = {.what = "random"};
    rng_state = 4711;
    for (int round = 0; round < 20000; round++) {
        static struct breaker_run r;
        r = (struct breaker_run){.now_ms = 5000000, .row = &no_row};
        sched_init(&r.s, &limits);
        sched_refilled(&r.s, &(struct sched_item){.due_ms = 1}, 1, NULL, true);
        for (int step = 0; step < 30; step++) {
            bool probe = false;
            uint32_t up = r.s.connections - r.s.opening;
            switch (rng() % 8) {
            case 6: {
                struct msg_id id = msg_id_make(rng() % 3, 1);
                (void)sched_throttled(&r.s, &id, r.now_ms, rng());
                break;
            }
            case 7:
                r.s.out++;
                sched_job_back(&r.s, 1, rng() % 2 == 0, r.now_ms);
                break;
            case 0:
                if (r.s.opening > 0) {
                    sched_connection_up(&r.s);
                }
                break;
            case 1:
                if (r.s.opening > 0) {
                    down(&r, rng() % 2 == 0 ? OUTCOME_NONE : OUTCOME_AUTH_REFUSED, false, false);
                }
                break;
            case 2:
                if (up > 0) {
                    down(&r, rng() % 2 == 0 ? OUTCOME_NONE : OUTCOME_TIMED_OUT, true,
                         rng() % 2 == 0);
                }
                break;
            case 3:
                if (up > 0 && r.s.breaker != SCHED_BREAKER_WAITING) {
                    (void)sched_upstream_answered(&r.s, r.now_ms);
                }
                break;
            case 4:
                sched_probe_open(&r.s, r.now_ms);
                break;
            default:
                if (sched_may_open(&r.s, r.now_ms, 10, &probe)) {
                    sched_opening(&r.s, probe);
                }
            }
            r.now_ms += rng() % 20000;
            assert_true(r.s.connections <= limits.connections_max);
            assert_true(r.s.opening <= r.s.connections);
            assert_in_range(r.s.concurrency, 1, limits.connections_max);
            assert_false(r.s.breaker == SCHED_BREAKER_PROBING && r.s.connections == 0);
            /* Without any connection there is no event to wait for: it may be opened now, or the
             * clock says when. */
            if (r.s.connections == 0) {
                bool now = sched_may_open(&r.s, r.now_ms, 1, &probe);
                uint64_t wake_ms = sched_wake_ms(&r.s, r.now_ms);
                assert_true(now || (wake_ms > r.now_ms && wake_ms != UINT64_MAX));
                assert_true(now || sched_may_open(&r.s, wake_ms, 1, &probe));
            }
        }
    }
}

static void test_probes_go_farther_apart_up_to_a_bound(void **state)
{
    (void)state;
    rng_state = 99;
    for (int round = 0; round < 200; round++) {
        static struct breaker_run r;
        static const struct breaker_case no_row = {.what = "waits"};
        r = (struct breaker_run){.now_ms = 5000000, .row = &no_row};
        sched_init(&r.s, &limits);
        expect_open(&r, true, false);
        uint64_t wait_ms = limits.probe_min_ms;
        for (int failure = 0; failure < 40; failure++) {
            down(&r, OUTCOME_AUTH_REFUSED, false, false);
            uint64_t waits_ms = r.s.probe_ms - r.now_ms;
            assert_in_range(waits_ms, wait_ms - wait_ms / 8, wait_ms + wait_ms / 8);
            assert_int_equal(sched_wake_ms(&r.s, r.now_ms), r.s.probe_ms);
            r.now_ms = r.s.probe_ms;
            expect_open(&r, true, true);
            wait_ms = wait_ms * 2 < limits.probe_max_ms ? wait_ms * 2 : limits.probe_max_ms;
        }
        assert_int_equal(r.s.marked_ms, 5000000);
        assert_int_equal(r.s.reason, OUTCOME_AUTH_REFUSED);
    }
}

/* How long it was marked counts once, however often the probes failed. */
static void test_the_outage_is_counted(void **state)
{
    (void)state;
    static struct breaker_run r;
    static const struct breaker_case no_row = {.what = "outage"};
    r = (struct breaker_run){.now_ms = 5000000, .row = &no_row};
    sched_init(&r.s, &limits);
    uint64_t sum_ms = 0;
    for (int outage = 0; outage < 3; outage++) {
        r.now_ms += 777000; /* well: does not count */
        assert_int_equal(sched_outage_ms(&r.s, r.now_ms), sum_ms);
        expect_open(&r, true, false);
        uint64_t began_ms = r.now_ms;
        down(&r, OUTCOME_CONNECTION_REFUSED, false, false);
        for (int probe = 0; probe < 5; probe++) {
            r.now_ms = r.s.probe_ms;
            assert_int_equal(sched_outage_ms(&r.s, r.now_ms), sum_ms + r.now_ms - began_ms);
            expect_open(&r, true, true);
            down(&r, OUTCOME_CONNECT_TIMEOUT, false, false);
        }
        r.now_ms = r.s.probe_ms;
        expect_open(&r, true, true);
        sched_connection_up(&r.s);
        assert_true(sched_upstream_answered(&r.s, r.now_ms));
        assert_false(sched_upstream_answered(&r.s, r.now_ms + 1000)); /* once */
        sum_ms += r.now_ms - began_ms;
        assert_int_equal(sched_outage_ms(&r.s, r.now_ms + 9000), sum_ms);
        down(&r, OUTCOME_NONE, true, true);
    }
    /* Across a restart. */
    struct record_upstream saved = {0};
    sched_save(&r.s, r.now_ms, &saved);
    sched_init(&r.s, &limits);
    assert_int_equal(sched_outage_ms(&r.s, r.now_ms), 0);
    sched_restore(&r.s, &saved, r.now_ms);
    assert_int_equal(sched_outage_ms(&r.s, r.now_ms), sum_ms);
    /* A clock that stands before it. */
    r.s.breaker = SCHED_BREAKER_WAITING;
    r.s.marked_ms = r.s.outage_from_ms = r.now_ms + 5;
    assert_int_equal(sched_outage_ms(&r.s, r.now_ms), sum_ms);
}

/* While somebody stands in for it the time does not count, whenever that begins and ends. */
static void test_an_outage_with_a_stand_in_is_none(void **state)
{
    (void)state;
    static struct sched_upstream s;
    sched_init(&s, &limits);
    sched_stand_in(&s, false, 500);
    sched_opening(&s, false);
    sched_connection_down(&s, OUTCOME_CONNECTION_REFUSED, false, false, 1000, 1);
    assert_int_equal(sched_outage_ms(&s, 1500), 500);
    sched_stand_in(&s, true, 1600);
    sched_stand_in(&s, true, 1700); /* said again */
    assert_int_equal(sched_outage_ms(&s, 5000), 600);
    sched_stand_in(&s, false, 6000);
    assert_int_equal(sched_outage_ms(&s, 6100), 700);
    sched_stand_in(&s, true, 6200);
    assert_true(sched_upstream_answered(&s, 9000));
    assert_int_equal(sched_outage_ms(&s, 9500), 800);
    sched_stand_in(&s, false, 9500); /* heard of a little later */
    assert_int_equal(sched_outage_ms(&s, 9900), 800);
    s.breaker = SCHED_BREAKER_WELL;
    sched_opening(&s, false);
    sched_connection_down(&s, OUTCOME_CONNECTION_REFUSED, false, false, 20000, 1);
    assert_int_equal(sched_outage_ms(&s, 20010), 810);
    assert_int_equal(s.marked_ms, 20000);
}

static void test_it_wakes_for_what_the_clock_alone_changes(void **state)
{
    (void)state;
    static struct sched_upstream s;
    bool probe = false;
    sched_init(&s, &limits);
    sched_refilled(&s, NULL, 0, NULL, true);
    assert_int_equal(sched_wake_ms(&s, 1000), UINT64_MAX);
    sched_add(&s, &(struct sched_item){.due_ms = 2000, .id = msg_id_make(1, 1)});
    assert_int_equal(sched_wake_ms(&s, 1000), 2000);
    assert_false(sched_due(&s, 1999));
    assert_true(sched_due(&s, 2000));
    assert_int_equal(sched_wake_ms(&s, 2000), UINT64_MAX); /* it waits for a connection */
    assert_true(sched_may_open(&s, 2000, 1, &probe));
    sched_opening(&s, probe);
    assert_false(sched_may_open(&s, 2000, 1, &probe)); /* the one that opens will do */
    sched_connection_down(&s, OUTCOME_NONE, false, false, 2000, 1);
    assert_int_equal(sched_wake_ms(&s, 2000), 2000 + limits.probe_min_ms);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_breaker_moves),
        cmocka_unit_test(test_the_breaker_never_gets_stuck),
        cmocka_unit_test(test_probes_go_farther_apart_up_to_a_bound),
        cmocka_unit_test(test_the_outage_is_counted),
        cmocka_unit_test(test_an_outage_with_a_stand_in_is_none),
        cmocka_unit_test(test_it_wakes_for_what_the_clock_alone_changes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
