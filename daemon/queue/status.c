/*
 * What the queue thread says of itself when it is asked.
 */
#include "daemon/base/num.h"
#include "daemon/queue/queue_internal.h"

#include <stdio.h>

#define UPSTREAM_ROWS_MAX 1000 /* names of those that are configured no more stand there, too */

_Static_assert(FLOW_RATE_KINDS == SCHED_RATE_KINDS && FLOW_RATE_SPANS == SCHED_RATE_SPANS,
               "kinds and spans are the same");

/* Messages that are queued for each upstream, on disk and in memory. */
struct waiting {
    const struct queue *q;
    uint64_t count[UPSTREAMS_MAX];
};

static bool take_waiting(void *ctx, struct slice name, const uint64_t counts[MESSAGE_STATE_COUNT])
{
    struct waiting *w = ctx;
    for (uint32_t at = 0; at < w->q->upstream_count; at++) {
        if (slice_equal(name, slice_from_str(w->q->upstreams[at].config->name))) {
            w->count[at] = counts[MESSAGE_QUEUED];
        }
    }
    return true;
}

/* As of the last commit. What cannot be read counts as nothing. */
static void read_waiting(const struct queue *q, struct waiting *out)
{
    *out = (struct waiting){.q = q};
    (void)!store_read_counts(q->reader, STORE_COUNT_UPSTREAM, slice_of(NULL, 0), UPSTREAM_ROWS_MAX,
                             take_waiting, out);
}

static void fill_rates(const struct queue *q, const struct sched_upstream *s,
                       struct flow_upstream_status *out)
{
    bool limited = false;
    for (enum sched_rate_kind kind = 0; kind < SCHED_RATE_KINDS; kind++) {
        for (enum sched_rate_span span = 0; span < SCHED_RATE_SPANS; span++) {
            limited = limited || s->limits.rate[kind][span] != 0;
            out->rate_used[kind][span] = sched_rate_used(s, kind, span, q->now_ms);
        }
    }
    out->rate_limited = limited;
    out->rate_room = limited ? sched_rate_room(s, q->now_ms) : 0;
    out->rate_next_ms = limited && out->rate_room == 0 ? sched_rate_next_ms(s, q->now_ms) : 0;
    out->rate_next_ms = out->rate_next_ms == UINT64_MAX ? 0 : out->rate_next_ms;
}

/* How it is given work. */
static void fill_pace(const struct queue *q, const struct queue_upstream *u, uint64_t backlog,
                      struct flow_upstream_status *out)
{
    const struct sched_upstream *s = &u->sched;
    out->pipeline_max = u->memory.pipeline_max;
    out->pipeline_until_ms =
        u->memory.pipeline_max == 0 ? 0 : u->memory.pipeline_q + FLOW_PIPELINE_LEARNT_MS;
    snprintf(out->pipeline_reason, sizeof out->pipeline_reason, "%s", u->pipeline_reason);
    if (out->lowered_until_ms <= q->now_ms) {
        out->lowered_max = 0;
        out->lowered_until_ms = 0;
    }
    out->concurrency = s->concurrency;
    out->throttled_until_ms = sched_is_paused(s, q->now_ms) ? s->pause_until_ms : 0;
    out->outage_ms = sched_outage_ms(s, q->now_ms);
    uint64_t forecast_ms = sched_forecast_ms(s, backlog, q->now_ms);
    out->forecast_ms = backlog == 0 || forecast_ms == UINT64_MAX ? 0 : forecast_ms;
}

static void fill_upstream(const struct queue *q, const struct queue_upstream *u,
                          struct flow_upstream_status *out)
{
    *out = u->status;
    out->state = u->sched.breaker == SCHED_BREAKER_UNTRIED ? FLOW_UPSTREAM_UNTRIED
                 : sched_is_marked(&u->sched)              ? FLOW_UPSTREAM_MARKED
                                                           : FLOW_UPSTREAM_WELL;
    out->outcome = u->sched.reason;
    out->marked_ms = u->sched.marked_ms;
    out->next_probe_ms = u->sched.probe_ms;
    const struct queue_upstream *by = queue_first_of(q, u->carriers);
    out->stand_in = by == NULL ? 0 : (uint16_t)(by - q->upstreams + 1);
    out->connections = u->sched.connections - u->sched.opening;
    for (uint32_t index = 0; index < u->link_count; index++) {
        out->busy += u->links[index].out > 0;
        for (size_t job = 0; job < QUEUE_JOBS_PER_LINK; job++) {
            const struct queue_job *j = &u->links[index].jobs[job];
            bool older = out->oldest_sent_ms == 0 || j->job.sent_ms < out->oldest_sent_ms;
            if (j->state == QUEUE_JOB_OUT && older) {
                out->oldest_sent_ms = j->job.sent_ms;
            }
        }
    }
}

static void list_sending(const struct queue_upstream *u, struct flow_status *out)
{
    for (uint32_t index = 0; u->leased > 0 && index < u->link_count; index++) {
        for (size_t job = 0; job < QUEUE_JOBS_PER_LINK; job++) {
            const struct queue_job *j = &u->links[index].jobs[job];
            if (j->state == QUEUE_JOB_OUT && out->sending_id_count < FLOW_SENDING_IDS_MAX) {
                out->sending_ids[out->sending_id_count++] = j->job.id;
            }
        }
    }
}

void queue_fill_status(const struct queue *q, struct flow_status *out)
{
    struct store_summary summary;
    uint64_t oldest_ms = UINT64_MAX;
    struct waiting waiting;
    store_summary(q->with.store, &summary);
    read_waiting(q, &waiting);
    memset(out, 0, sizeof *out);
    out->now_ms = q->now_ms;
    for (size_t state = 0; state < MESSAGE_STATE_COUNT; state++) {
        out->count_by_state[state] = summary.count_by_state[state];
    }
    out->body_bytes = summary.body_bytes;
    out->pages_used_bytes = summary.pages_used_bytes;
    out->bytes_max = summary.bytes_max;
    out->accepting = !q->no_room && !q->store_failed;
    out->store_failed = q->store_failed;
    out->upstream_count = q->upstream_count;
    for (uint32_t at = 0; at < q->upstream_count; at++) {
        const struct queue_upstream *u = &q->upstreams[at];
        out->sending += u->leased;
        list_sending(u, out);
        oldest_ms = u64_min(oldest_ms, sched_oldest_due_ms(&u->sched));
        fill_upstream(q, u, &out->upstreams[at]);
        fill_rates(q, &u->sched, &out->upstreams[at]);
        fill_pace(q, u, waiting.count[at], &out->upstreams[at]);
    }
    out->oldest_due_ms = oldest_ms == UINT64_MAX ? 0 : oldest_ms;
}
