/*
 * How fast an upstream is given work, and when what was deferred is tried again.
 *
 * Concurrency goes up by one after as many successes as there are connections at work, and is
 * halved by a throttle or a timeout: additive increase, multiplicative decrease (as in TCP, RFC
 * 5681 3.1), which finds what the upstream takes without knowing it.
 */
#include "daemon/sched/sched_internal.h"

#define PAUSE_LEVEL_MAX 7 /* 5 s doubled so often is more than the longest pause */

_Static_assert((uint64_t)SCHED_THROTTLE_MS_FIRST << PAUSE_LEVEL_MAX >= SCHED_THROTTLE_MS_MAX,
               "levels reach the longest pause");

uint64_t sched_mix(uint64_t value)
{
    value += 0x9e3779b97f4a7c15u;
    value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9u;
    value = (value ^ value >> 27) * 0x94d049bb133111ebu;
    return value ^ value >> 31;
}

uint64_t sched_doubled(uint64_t base_ms, uint32_t doublings, uint64_t max_ms)
{
    while (doublings > 0 && base_ms > 0 && base_ms < max_ms) {
        base_ms = base_ms > UINT64_MAX / 2 ? UINT64_MAX : base_ms * 2;
        doublings--;
    }
    return u64_min(base_ms, max_ms);
}

/* ---- concurrency ---- */

void sched_concurrency_set(struct sched_upstream *s, uint32_t connections)
{
    uint32_t most = s->limits.connections_max;
    s->concurrency = connections < 1 ? 1 : connections > most ? most : connections;
    s->successes = 0;
}

void sched_concurrency_halve(struct sched_upstream *s)
{
    uint32_t at_work = s->connections < s->concurrency ? s->connections : s->concurrency;
    sched_concurrency_set(s, at_work / 2);
}

static void success(struct sched_upstream *s)
{
    s->answers++;
    s->barren = 0;
    s->successes++;
    if (s->successes < s->concurrency) {
        return;
    }
    sched_concurrency_set(s, s->concurrency + 1);
    s->pause_level -= s->pause_level > 0 ? 1 : 0;
}

void sched_job_back(struct sched_upstream *s, uint32_t spent, bool succeeded, uint64_t now_ms)
{
    sched_rate_back(s, spent, succeeded, now_ms);
    if (succeeded) {
        success(s);
    }
}

/* ---- throttles ---- */

bool sched_is_throttle(enum outcome outcome)
{
    return outcome == OUTCOME_THROTTLED || outcome == OUTCOME_SERVICE_CLOSING;
}

static uint32_t place_of(const struct msg_id *id)
{
    return (uint32_t)(sched_mix(msg_id_time_and_sequence(id)) % SCHED_MET_MAX);
}

static bool knows(const struct sched_met *met, const struct msg_id *id)
{
    return met->known && msg_id_compare(&met->id, id) == 0;
}

bool sched_throttled(struct sched_upstream *s, const struct msg_id *id, uint64_t now_ms,
                     uint64_t entropy)
{
    struct sched_met *met = &s->met[place_of(id)];
    bool own = knows(met, id) && s->answers > met->answers;
    *met = (struct sched_met){.known = true, .own = own, .id = *id, .answers = s->answers};
    if (own) {
        return false;
    }
    if (sched_is_paused(s, now_ms)) {
        return true;
    }
    uint64_t wait_ms =
        sched_doubled(SCHED_THROTTLE_MS_FIRST, s->pause_level, SCHED_THROTTLE_MS_MAX);
    s->pause_until_ms = sched_later(now_ms, sched_jitter(wait_ms, entropy));
    s->pause_level += s->pause_level < PAUSE_LEVEL_MAX ? 1 : 0;
    sched_concurrency_halve(s);
    return true;
}

/* ---- retries ---- */

bool sched_is_sooner(enum outcome a, enum outcome b)
{
    if (sched_is_throttle(a) != sched_is_throttle(b)) {
        return sched_is_throttle(a);
    }
    return outcome_row(a)->wait_ms_first < outcome_row(b)->wait_ms_first;
}

struct sched_retry sched_retry(const struct sched_upstream *s, const struct msg_id *id,
                               enum outcome outcome, uint32_t attempts, uint64_t now_ms,
                               uint64_t entropy)
{
    const struct sched_met *met = &s->met[place_of(id)];
    if (sched_is_throttle(outcome) && !(knows(met, id) && met->own)) {
        return (struct sched_retry){u64_max(now_ms, s->pause_until_ms), false};
    }
    const struct outcome_row *row = outcome_row(outcome);
    uint64_t stretch_ms = s->limits.retry_max_ms > UINT64_MAX / SCHED_RETRY_STRETCH
                              ? UINT64_MAX
                              : s->limits.retry_max_ms * SCHED_RETRY_STRETCH;
    uint64_t first_ms = u64_min(u64_max(row->wait_ms_first, s->limits.retry_min_ms), stretch_ms);
    uint64_t max_ms = row->wait_ms_max == 0 ? s->limits.retry_max_ms : row->wait_ms_max;
    max_ms = u64_max(u64_min(max_ms, stretch_ms), first_ms);
    uint64_t wait_ms = sched_doubled(first_ms, attempts, max_ms);
    return (struct sched_retry){
        sched_later(now_ms, sched_jitter(wait_ms, entropy ^ (attempts + 1))), true};
}
