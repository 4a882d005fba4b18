/*
 * The sched against its header: the window on the due index beside a model of the index, the
 * breaker move by move, and the bounds of every wait.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "daemon/sched/sched.h"

#include <stdlib.h>

#define INDEX_MAX  20000 /* more than the window holds, several times */
#define LEASES_MAX 64
#define OPERATIONS 100000
#define SEEDS      3

static const struct sched_limits limits = {
    .connections_max = 4,
    .probe_min_ms = 10000,
    .probe_max_ms = 300000,
    .retry_min_ms = 60000,
    .retry_max_ms = 3600000,
};

static uint64_t rng_state;

static uint64_t rng(void)
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return rng_state;
}

/* ---- the window beside a model of the index ---- */

/* The index on disk, in order, and what is leased of it. A leased entry keeps its place until it is
 * settled, as in the store. */
struct model {
    struct sched_item index[INDEX_MAX];
    size_t count;
    struct sched_item leased[LEASES_MAX];
    size_t leased_count;
    uint64_t now_ms, next_id;
    struct sched_upstream sched;
};

static struct model *model_new(uint64_t seed)
{
    struct model *m = calloc(1, sizeof *m);
    assert_non_null(m);
    rng_state = seed;
    m->now_ms = 1000000;
    sched_init(&m->sched, &limits);
    return m;
}

static size_t index_place(const struct model *m, const struct sched_item *item)
{
    size_t low = 0, high = m->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (sched_item_compare(&m->index[middle], item) < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static void index_add(struct model *m, const struct sched_item *item)
{
    size_t at = index_place(m, item);
    assert_true(m->count < INDEX_MAX);
    memmove(m->index + at + 1, m->index + at, (m->count - at) * sizeof m->index[0]);
    m->index[at] = *item;
    m->count++;
}

static void index_remove(struct model *m, const struct sched_item *item)
{
    size_t at = index_place(m, item);
    assert_true(at < m->count && sched_item_compare(&m->index[at], item) == 0);
    m->count--;
    memmove(m->index + at, m->index + at + 1, (m->count - at) * sizeof m->index[0]);
}

static bool is_leased(const struct model *m, const struct msg_id *id)
{
    for (size_t at = 0; at < m->leased_count; at++) {
        if (msg_id_compare(&m->leased[at].id, id) == 0) {
            return true;
        }
    }
    return false;
}

/* As daemon/queue does it. */
static void refill(struct model *m)
{
    const struct sched_item *after = NULL;
    static struct sched_item kept[SCHED_REFILL_MAX];
    while (sched_wants_refill(&m->sched, &after)) {
        size_t at = 0;
        if (after != NULL) {
            at = index_place(m, after);
            at += at < m->count && sched_item_compare(&m->index[at], after) == 0;
        }
        size_t count = 0, read = 0;
        struct sched_item last = {0};
        for (; at < m->count && read < SCHED_REFILL_MAX; at++, read++) {
            last = m->index[at];
            if (!is_leased(m, &last.id)) {
                kept[count++] = last;
            }
        }
        sched_refilled(&m->sched, kept, count, read > 0 ? &last : NULL, read < SCHED_REFILL_MAX);
    }
}

static int compare(const void *a, const void *b)
{
    return sched_item_compare(a, b);
}

/* The invariant of window.c, word for word, and that nothing stands in the window twice. */
static void check_window(const struct model *m)
{
    static struct sched_item window[SCHED_WINDOW_MAX];
    const struct sched_upstream *s = &m->sched;
    memcpy(window, s->heap, s->count * sizeof window[0]);
    qsort(window, s->count, sizeof window[0], compare);
    size_t in_window = 0;
    for (size_t at = 0; at < m->count; at++) {
        bool before = !s->beyond || sched_item_compare(&m->index[at], &s->horizon) <= 0;
        if (before && !is_leased(m, &m->index[at].id)) {
            assert_true(in_window < s->count);
            assert_int_equal(sched_item_compare(&window[in_window], &m->index[at]), 0);
            in_window++;
        }
    }
    assert_int_equal(in_window, s->count);
}

static struct sched_item fresh(struct model *m, uint64_t due_ms)
{
    return (struct sched_item){.due_ms = due_ms, .id = msg_id_make(++m->next_id << 16, 1)};
}

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

static void arrive(struct model *m, bool at_head)
{
    if (m->count == INDEX_MAX) {
        return;
    }
    struct sched_item item = fresh(m, some_due(m, at_head));
    index_add(m, &item);
    sched_add(&m->sched, &item);
}

/* What is handed out is the earliest of all that is not leased, and due. */
static void lease(struct model *m)
{
    struct sched_item item;
    if (m->leased_count == LEASES_MAX || !sched_take(&m->sched, m->now_ms, &item)) {
        return;
    }
    assert_true(item.due_ms <= m->now_ms);
    assert_false(is_leased(m, &item.id));
    for (size_t at = 0; at < m->count; at++) {
        if (!is_leased(m, &m->index[at].id)) {
            assert_int_equal(sched_item_compare(&m->index[at], &item), 0);
            break;
        }
    }
    m->leased[m->leased_count++] = item;
}

static void settle(struct model *m, bool growing)
{
    if (m->leased_count == 0) {
        return;
    }
    size_t at = rng() % m->leased_count;
    struct sched_item item = m->leased[at];
    m->leased[at] = m->leased[--m->leased_count];
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
    bool known = !m->sched.beyond || sched_item_compare(&item, &m->sched.horizon) <= 0;
    index_remove(m, &item);
    assert_int_equal(sched_remove(&m->sched, &item.id), known);
    if (rng() % 2 == 0) {
        item.due_ms = m->now_ms;
        index_add(m, &item);
        sched_add(&m->sched, &item);
    }
}

static void test_the_window_is_the_head_of_the_index(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct model *m = model_new(seed * 88172645463325252u);
        bool shed = false, grown = false, dry = false;
        /* The queue of a restart: nothing is known of it yet. */
        for (int before = 0; before < 1500; before++) {
            struct sched_item item = fresh(m, some_due(m, false));
            index_add(m, &item);
        }
        for (int step = 0; step < OPERATIONS; step++) {
            bool growing = step % 24000 < 7400; /* it fills and drains, several times */
            uint64_t what = rng() % 100;
            uint32_t before = m->sched.count;
            if (what < (growing ? 85u : 1u)) {
                arrive(m, step / 24000 % 2 == 1);
                shed = shed || m->sched.count < before;
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
            grown = grown || m->count > SCHED_WINDOW_MAX * 3 / 2;
            dry = dry || (grown && !m->sched.beyond);
            if (step % 997 == 0) {
                check_window(m);
            }
        }
        assert_true(shed && grown && dry); /* the generator reached what it is for */
        check_window(m);

        /* Liveness: with time and hands enough, everything leaves. */
        m->now_ms += 1000000;
        while (m->leased_count > 0) {
            struct sched_item item = m->leased[--m->leased_count];
            sched_add(&m->sched, &item);
        }
        struct sched_item taken, last = {0};
        refill(m);
        while (sched_take(&m->sched, m->now_ms, &taken)) {
            assert_true(sched_item_compare(&last, &taken) < 0);
            last = taken;
            index_remove(m, &taken);
            refill(m);
        }
        assert_int_equal(m->count, 0);
        assert_false(m->sched.beyond);
        free(m);
    }
}

static void test_shedding_keeps_the_earlier_half(void **state)
{
    (void)state;
    struct model *m = model_new(7);
    refill(m); /* an empty index: nothing is beyond */
    for (uint64_t at = 0; at < SCHED_WINDOW_MAX + 1; at++) {
        /* Latest first: each one is the new head. */
        struct sched_item item = fresh(m, 1000000 - at);
        index_add(m, &item);
        sched_add(&m->sched, &item);
    }
    assert_int_equal(m->sched.count, SCHED_WINDOW_MAX / 2 + 1);
    assert_true(m->sched.beyond);
    check_window(m);
    /* One that is later than all that is known waits on disk. */
    struct sched_item late = fresh(m, 2000000);
    index_add(m, &late);
    sched_add(&m->sched, &late);
    assert_int_equal(m->sched.count, SCHED_WINDOW_MAX / 2 + 1);
    check_window(m);
    free(m);
}

static void test_the_same_due_time_a_whole_window_long(void **state)
{
    (void)state;
    struct model *m = model_new(9);
    refill(m);
    for (int at = 0; at < SCHED_WINDOW_MAX * 3; at++) {
        struct sched_item item = fresh(m, m->now_ms);
        index_add(m, &item);
        sched_add(&m->sched, &item);
    }
    check_window(m);
    struct sched_item taken;
    size_t count = 0;
    do {
        refill(m);
        while (sched_take(&m->sched, m->now_ms, &taken)) {
            index_remove(m, &taken);
            count++;
        }
        refill(m);
    } while (sched_due(&m->sched, m->now_ms));
    assert_int_equal(count, SCHED_WINDOW_MAX * 3);
    free(m);
}

static void test_due_is_counted_up_to_a_bound(void **state)
{
    (void)state;
    struct model *m = model_new(11);
    refill(m);
    assert_int_equal(sched_due_count(&m->sched, UINT64_MAX, 10), 0);
    for (uint64_t at = 0; at < 1000; at++) {
        struct sched_item item = fresh(m, 1000 + (at * 7919) % 1000);
        sched_add(&m->sched, &item);
    }
    for (uint64_t now_ms = 999; now_ms < 1040; now_ms++) {
        assert_int_equal(sched_due_count(&m->sched, now_ms, SCHED_DUE_COUNT_MAX), now_ms - 999);
        assert_int_equal(sched_due_count(&m->sched, now_ms, 5),
                         now_ms - 999 < 5 ? now_ms - 999 : 5);
    }
    assert_int_equal(sched_due_count(&m->sched, 5000, SCHED_DUE_COUNT_MAX), SCHED_DUE_COUNT_MAX);
    assert_int_equal(sched_due_count(&m->sched, 5000, 0), 0);
    free(m);
}

/* ---- the breaker ---- */

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
    END
};

struct breaker_case {
    const char *what;
    enum move moves[24];
    enum sched_breaker breaker;
    uint32_t connections, failures;
};

static const struct breaker_case breaker_cases[] = {
    {"a first connection", {OPEN, UP, END}, SCHED_BREAKER_WELL, 1, 0},
    {"at most connections-max",
     {OPEN, OPEN, OPEN, OPEN, NO_OPEN, UP, UP, UP, UP, NO_OPEN, END},
     SCHED_BREAKER_WELL,
     4,
     0},
    {"refused at once: marked", {OPEN, REFUSED, NO_OPEN, END}, SCHED_BREAKER_WAITING, 0, 1},
    {"four refused at once are one failure",
     {OPEN, OPEN, OPEN, OPEN, REFUSED, REFUSED, REFUSED, REFUSED, NO_OPEN, END},
     SCHED_BREAKER_WAITING,
     0,
     1},
    {"one probe, no second beside it",
     {OPEN, REFUSED, PROBE_TIME, OPEN_PROBE, NO_OPEN, END},
     SCHED_BREAKER_PROBING,
     1,
     1},
    {"a failed probe counts",
     {OPEN, REFUSED, PROBE_TIME, OPEN_PROBE, REFUSED, NO_OPEN, END},
     SCHED_BREAKER_WAITING,
     0,
     2},
    {"a probe that came in and lost its job counts",
     {OPEN, REFUSED, PROBE_TIME, OPEN_PROBE, UP, LOST_NEW, END},
     SCHED_BREAKER_WAITING,
     0,
     2},
    {"a probe that is answered cures",
     {OPEN, REFUSED, PROBE_TIME, OPEN_PROBE, UP, CURED, OPEN, END},
     SCHED_BREAKER_WELL,
     2,
     0},
    {"a probe that ends in peace waits for another",
     {OPEN, REFUSED, PROBE_TIME, OPEN_PROBE, UP, PEACE, NO_OPEN, PROBE_TIME, OPEN_PROBE, END},
     SCHED_BREAKER_PROBING,
     1,
     1},
    {"a probe that ended before it was in",
     {OPEN, REFUSED, PROBE_TIME, OPEN_PROBE, PEACE_EARLY, NO_OPEN, PROBE_TIME, OPEN_PROBE, END},
     SCHED_BREAKER_PROBING,
     1,
     1},
    {"one more than the upstream lets in is no fault",
     {OPEN, UP, OPEN, REFUSED, NO_OPEN, ANSWERED, LATER, NO_OPEN, LATER, OPEN, END},
     SCHED_BREAKER_WELL,
     2,
     0},
    {"lost after work is no fault",
     {OPEN, UP, ANSWERED, LOST, OPEN, END},
     SCHED_BREAKER_WELL,
     1,
     0},
    {"lost before work is", {OPEN, UP, LOST_NEW, NO_OPEN, END}, SCHED_BREAKER_WAITING, 0, 1},
    {"idle ends are no fault", {OPEN, UP, PEACE, OPEN, END}, SCHED_BREAKER_WELL, 1, 0},
    {"an operator's wish comes before the time",
     {OPEN, REFUSED, NO_OPEN, PROBE_NOW, OPEN_PROBE, END},
     SCHED_BREAKER_PROBING,
     1,
     1},
    {"a wish changes nothing while it is well",
     {OPEN, UP, PROBE_NOW, END},
     SCHED_BREAKER_WELL,
     1,
     0},
    {"marked with connections open: one of them goes ahead, not a new one",
     {OPEN, OPEN, UP, UP, LOST_NEW, PROBE_OPEN, NO_OPEN, PROBE_TIME, NO_OPEN, PROBE_OPEN, NO_OPEN,
      END},
     SCHED_BREAKER_PROBING,
     1,
     1},
    {"and cures it",
     {OPEN, OPEN, UP, UP, LOST_NEW, PROBE_TIME, PROBE_OPEN, CURED, OPEN, END},
     SCHED_BREAKER_WELL,
     2,
     0},
    {"or fails",
     {OPEN, OPEN, UP, UP, LOST_NEW, PROBE_TIME, PROBE_OPEN, LOST_NEW, NO_OPEN, PROBE_TIME,
      OPEN_PROBE, END},
     SCHED_BREAKER_PROBING,
     1,
     2},
    {"one that is still opening is no probe",
     {OPEN, OPEN, REFUSED, PROBE_TIME, PROBE_OPEN, NO_OPEN, UP, PROBE_OPEN, END},
     SCHED_BREAKER_PROBING,
     1,
     1},
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
        assert_int_equal(sched_upstream_answered(&r->s), move == CURED);
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
            switch (rng() % 6) {
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
                    (void)sched_upstream_answered(&r.s);
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

/* ---- retries ---- */

static void test_retries_double_with_jitter(void **state)
{
    (void)state;
    static const struct {
        uint32_t attempts;
        uint64_t wait_ms;
    } rows[] = {
        {1, 60000},   {2, 120000},  {3, 240000},    {4, 480000},           {5, 960000},
        {6, 1920000}, {7, 3600000}, {100, 3600000}, {UINT32_MAX, 3600000},
    };
    rng_state = 3;
    for (size_t at = 0; at < sizeof rows / sizeof rows[0]; at++) {
        uint64_t wait_ms = rows[at].wait_ms, least = UINT64_MAX, most = 0;
        for (int round = 0; round < 2000; round++) {
            uint64_t next_ms = sched_retry_ms(&limits, rows[at].attempts, 7000000, rng());
            assert_in_range(next_ms - 7000000, wait_ms - wait_ms / 8, wait_ms + wait_ms / 8);
            least = next_ms < least ? next_ms : least;
            most = next_ms > most ? next_ms : most;
        }
        assert_true(most - least > wait_ms / 5); /* they really spread */
    }
    /* The same message has another place with every attempt, the same numbers the same place. */
    assert_int_equal(sched_retry_ms(&limits, 8, 1, 5), sched_retry_ms(&limits, 8, 1, 5));
    assert_int_not_equal(sched_retry_ms(&limits, 8, 1, 5), sched_retry_ms(&limits, 9, 1, 5));
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
        cmocka_unit_test(test_the_window_is_the_head_of_the_index),
        cmocka_unit_test(test_shedding_keeps_the_earlier_half),
        cmocka_unit_test(test_the_same_due_time_a_whole_window_long),
        cmocka_unit_test(test_due_is_counted_up_to_a_bound),
        cmocka_unit_test(test_breaker_moves),
        cmocka_unit_test(test_the_breaker_never_gets_stuck),
        cmocka_unit_test(test_probes_go_farther_apart_up_to_a_bound),
        cmocka_unit_test(test_retries_double_with_jitter),
        cmocka_unit_test(test_it_wakes_for_what_the_clock_alone_changes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
