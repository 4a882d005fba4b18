/*
 * Connections and the circuit breaker of one upstream.
 *
 * What breaks it is a row of outcome.def with the action UPSTREAM. While it is marked the queue
 * waits, no message is blamed, and one connection at a time goes ahead, at growing intervals
 * (accounts lock when they are hammered). It is well again once the upstream has given an answer
 * about a message, or has let the probe in while nothing was waiting.
 */
#include "daemon/sched/sched.h"

bool sched_may_open(const struct sched_upstream *s, uint64_t now_ms, uint32_t waiting,
                    bool *out_probe)
{
    switch (s->breaker) {
    case SCHED_BREAKER_UNTRIED:
    case SCHED_BREAKER_WELL:
        *out_probe = false;
        return waiting > s->opening && s->connections < s->limits.connections_max &&
               now_ms >= s->open_after_ms;
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

static void mark(struct sched_upstream *s, enum outcome outcome, uint64_t now_ms, uint64_t entropy)
{
    if (!sched_is_marked(s)) {
        s->marked_ms = now_ms;
    }
    uint64_t wait_ms = s->limits.probe_min_ms;
    for (uint32_t doubling = 0; doubling < s->probe_failures && wait_ms < s->limits.probe_max_ms;
         doubling++) {
        wait_ms *= 2;
    }
    if (wait_ms > s->limits.probe_max_ms) {
        wait_ms = s->limits.probe_max_ms;
    }
    s->probe_failures++;
    s->breaker = SCHED_BREAKER_WAITING;
    s->reason = outcome;
    s->probe_ms = now_ms + wait_ms - wait_ms / 8 + sched_mix(entropy) % (wait_ms / 4 + 1);
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
    if (broken && !marked && !was_up && others_work) {
        /* One more was not let in: the upstream has its limit, and works. */
        s->open_after_ms = now_ms + s->limits.probe_min_ms;
    } else if (s->breaker == SCHED_BREAKER_WAITING) {
        return; /* one more of those that were under way when it was marked: no failed probe */
    } else if (broken && (marked || !had_worked)) {
        mark(s, outcome, now_ms, entropy);
    } else if (!was_up && !marked) {
        s->open_after_ms = now_ms + s->limits.probe_min_ms; /* it was not even tried */
    } else if (s->breaker == SCHED_BREAKER_PROBING) {
        s->breaker = SCHED_BREAKER_WAITING;
        s->probe_ms = now_ms + s->limits.probe_min_ms;
    }
    /* Else: lost after it had done its work. Servers close what is idle or old. */
}

bool sched_upstream_answered(struct sched_upstream *s)
{
    bool was_marked = sched_is_marked(s);
    s->breaker = SCHED_BREAKER_WELL;
    s->reason = OUTCOME_NONE;
    s->probe_failures = 0;
    return was_marked;
}

void sched_probe_now(struct sched_upstream *s, uint64_t now_ms)
{
    if (s->breaker == SCHED_BREAKER_WAITING) {
        s->probe_ms = now_ms;
    }
}

uint64_t sched_wake_ms(const struct sched_upstream *s, uint64_t now_ms)
{
    if (s->breaker == SCHED_BREAKER_WAITING) {
        return s->connections == 0 || s->connections > s->opening ? s->probe_ms : UINT64_MAX;
    }
    if (now_ms < s->open_after_ms) {
        return s->open_after_ms;
    }
    /* What is due already waits for a connection or a job to come back, not for the clock. */
    if (s->count == 0 || s->heap[0].due_ms <= now_ms) {
        return UINT64_MAX;
    }
    return s->heap[0].due_ms;
}

uint64_t sched_mix(uint64_t value)
{
    value += 0x9e3779b97f4a7c15u;
    value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9u;
    value = (value ^ value >> 27) * 0x94d049bb133111ebu;
    return value ^ value >> 31;
}

uint64_t sched_retry_ms(const struct sched_limits *limits, uint32_t attempts, uint64_t now_ms,
                        uint64_t entropy)
{
    CHECK(attempts >= 1);
    uint64_t wait_ms = limits->retry_min_ms;
    for (uint32_t doubling = 1; doubling < attempts && wait_ms < limits->retry_max_ms; doubling++) {
        wait_ms *= 2;
    }
    if (wait_ms > limits->retry_max_ms) {
        wait_ms = limits->retry_max_ms;
    }
    return now_ms + wait_ms - wait_ms / 8 + sched_mix(entropy ^ attempts) % (wait_ms / 4 + 1);
}
