/*
 * Connections and the circuit breaker of one upstream.
 *
 * What breaks it is a row of outcome.def with the action UPSTREAM. While it is marked the queue
 * waits, no message is blamed, and one connection at a time goes ahead, at growing intervals
 * (accounts lock when they are hammered). It is well again once the upstream has given an answer
 * about a message, or has let the probe in while nothing was waiting. It then begins with one
 * connection, and gets more as it does well: a server that comes back is not met by all at once.
 */
#include "daemon/sched/sched_internal.h"

bool sched_may_open(const struct sched_upstream *s, uint64_t now_ms, uint32_t waiting,
                    bool *out_probe)
{
    switch (s->breaker) {
    case SCHED_BREAKER_UNTRIED:
    case SCHED_BREAKER_WELL:
        *out_probe = false;
        return waiting > s->opening && s->connections < s->concurrency &&
               now_ms >= s->open_after_ms && !sched_is_paused(s, now_ms);
    case SCHED_BREAKER_WAITING:
        *out_probe = true;
        return s->connections == 0 && now_ms >= s->probe_ms;
    case SCHED_BREAKER_PROBING:
    default:
        return false;
    }
}

void sched_opening(struct sched_upstream *s, bool probe)
{
    s->connections++;
    s->opening++;
    if (probe) {
        s->breaker = SCHED_BREAKER_PROBING;
    }
}

void sched_probe_open(struct sched_upstream *s, uint64_t now_ms)
{
    if (s->breaker == SCHED_BREAKER_WAITING && s->connections > s->opening &&
        now_ms >= s->probe_ms) {
        s->breaker = SCHED_BREAKER_PROBING;
    }
}

void sched_connection_up(struct sched_upstream *s)
{
    CHECK(s->opening > 0);
    s->opening--;
    if (s->breaker == SCHED_BREAKER_UNTRIED) {
        s->breaker = SCHED_BREAKER_WELL;
    }
}

void sched_connection_worked(struct sched_upstream *s)
{
    s->more_refusals = 0; /* some are let in only to be sent away */
}

static void mark(struct sched_upstream *s, enum outcome outcome, uint64_t now_ms, uint64_t entropy)
{
    if (!sched_is_marked(s)) {
        s->marked_ms = s->outage_from_ms = now_ms;
    }
    uint64_t wait_ms =
        sched_doubled(s->limits.probe_min_ms, s->probe_failures, s->limits.probe_max_ms);
    s->probe_failures++;
    s->breaker = SCHED_BREAKER_WAITING;
    s->reason = outcome;
    s->probe_ms = sched_later(now_ms, sched_jitter(wait_ms, entropy));
    sched_concurrency_set(s, 1);
}

/* One more was not let in: the upstream has its limit, and works. It is asked for one more again
 * now and then. */
static void refused_one_more(struct sched_upstream *s, uint64_t now_ms)
{
    s->open_after_ms = sched_later(
        now_ms, sched_doubled(s->limits.probe_min_ms, s->more_refusals, s->limits.probe_max_ms));
    s->more_refusals++;
    sched_concurrency_set(s, s->connections - s->opening);
}

/* Let in, and gone again in peace without work, though there was some. The first ones are followed
 * at once: pipelining that was too deep is found out so, from mode to mode. */
static void ended_barren(struct sched_upstream *s, uint64_t now_ms)
{
    if (s->barren >= SCHED_BARREN_FREE) {
        s->open_after_ms =
            sched_later(now_ms, sched_doubled(s->limits.probe_min_ms, s->barren - SCHED_BARREN_FREE,
                                              s->limits.probe_max_ms));
    }
    s->barren++;
}

void sched_connection_down(struct sched_upstream *s, enum outcome outcome, bool was_up,
                           bool had_worked, uint64_t now_ms, uint64_t entropy)
{
    CHECK(s->connections > 0);
    s->connections--;
    if (!was_up) {
        CHECK(s->opening > 0);
        s->opening--;
    }
    bool broken = outcome_row(outcome)->action == OUTCOME_ACTION_UPSTREAM;
    bool marked = sched_is_marked(s);
    bool others_work = s->connections > s->opening;
    /* Some upstreams let one more in only to tell it so. */
    bool turned_away = !was_up || (!had_worked && outcome == OUTCOME_SERVICE_CLOSING);
    s->barren = had_worked ? 0 : s->barren;
    if (broken && !marked && turned_away && others_work) {
        refused_one_more(s, now_ms);
    } else if (s->breaker == SCHED_BREAKER_WAITING) {
        return; /* one more of those that were under way when it was marked: no failed probe */
    } else if (broken && (marked || !had_worked)) {
        mark(s, outcome, now_ms, entropy);
    } else if (!was_up && !marked) {
        /* It was not even tried. */
        s->open_after_ms = sched_later(now_ms, s->limits.probe_min_ms);
    } else if (s->breaker == SCHED_BREAKER_PROBING) {
        s->breaker = SCHED_BREAKER_WAITING;
        s->probe_ms = sched_later(now_ms, s->limits.probe_min_ms);
    } else if (outcome == OUTCOME_TIMED_OUT && others_work) {
        sched_concurrency_halve(s); /* it cannot keep up with so many */
    } else if (!had_worked && sched_due(s, now_ms)) {
        ended_barren(s, now_ms);
    }
    /* Else: lost after it had done its work. Servers close what is idle or old. */
}

bool sched_upstream_answered(struct sched_upstream *s, uint64_t now_ms)
{
    bool was_marked = sched_is_marked(s);
    if (was_marked) {
        s->outage_ms_total = sched_outage_ms(s, now_ms);
    }
    s->breaker = SCHED_BREAKER_WELL;
    s->reason = OUTCOME_NONE;
    s->probe_failures = 0;
    return was_marked;
}

uint64_t sched_outage_ms(const struct sched_upstream *s, uint64_t now_ms)
{
    bool counts = sched_is_marked(s) && !s->stood_in && now_ms > s->outage_from_ms;
    return sched_later(s->outage_ms_total, counts ? now_ms - s->outage_from_ms : 0);
}

void sched_stand_in(struct sched_upstream *s, bool stood_in, uint64_t now_ms)
{
    if (stood_in == s->stood_in) {
        return;
    }
    s->outage_ms_total = sched_outage_ms(s, now_ms);
    s->outage_from_ms = now_ms;
    s->stood_in = stood_in;
}

void sched_probe_now(struct sched_upstream *s, uint64_t now_ms)
{
    if (s->breaker == SCHED_BREAKER_WAITING) {
        s->probe_ms = now_ms;
    }
}
