/*
 * What the queue thread says of itself when it is asked.
 */
#include "daemon/base/num.h"
#include "daemon/queue/queue_internal.h"

#include <stdio.h>

/* How it is given work. */
static void fill_pace(const struct queue *q, const struct queue_upstream *u, uint64_t queued,
                      struct flow_upstream_status *out)
{
    const struct sched_upstream *s = &u->sched;
    bool limited = false;
    for (size_t at = 0; at < SCHED_RATE_KINDS * SCHED_RATE_SPANS; at++) {
        limited = limited || s->limits.rate[at / SCHED_RATE_SPANS][at % SCHED_RATE_SPANS] != 0;
    }
    out->pipeline_max = u->memory.pipeline_max;
    out->pipeline_until_ms =
        u->memory.pipeline_max == 0 ? 0 : u->memory.pipeline_q + QUEUE_PIPELINE_LEARNT_MS;
    snprintf(out->pipeline_reason, sizeof out->pipeline_reason, "%s", u->pipeline_reason);
    out->concurrency = s->concurrency;
    out->throttled_until_ms = sched_is_paused(s, q->now_ms) ? s->pause_until_ms : 0;
    out->rate_limited = limited;
    out->rate_room = limited ? sched_rate_room(s, q->now_ms) : 0;
    out->rate_next_ms = limited && out->rate_room == 0 ? sched_rate_next_ms(s, q->now_ms) : 0;
    out->rate_next_ms = out->rate_next_ms == UINT64_MAX ? 0 : out->rate_next_ms;
    out->outage_ms = sched_outage_ms(s, q->now_ms);
    /* What waits on disk beyond the window is not told apart by upstream here. */
    uint64_t backlog = s->beyond ? queued : (uint64_t)s->count + u->leased;
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
    store_summary(q->with.store, &summary);
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
        fill_pace(q, u, summary.count_by_state[MESSAGE_QUEUED], &out->upstreams[at]);
    }
    out->oldest_due_ms = oldest_ms == UINT64_MAX ? 0 : oldest_ms;
}
