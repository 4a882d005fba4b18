/*
 * How many connections an upstream has when there is nothing for them to do.
 *
 * Those that the upstream has shown not to want (concurrency was lowered) go as soon as they are
 * idle. The others go one by one: of n open ones the one that has been idle for longest, once that
 * is keep-open / n. The last one's end is the worker's business: keep-open itself. And when mail
 * flows regularly, one that has ended is opened again before it is needed.
 *
 * To end a connection in peace a farewell is sent: a job without a message, its id all zero. It
 * comes back untried, as every job that a worker cannot do; so it is known when the place may be
 * used again, whatever crosses on the way.
 */
#include "daemon/base/num.h"
#include "daemon/queue/queue_internal.h"

static bool stays(const struct queue_link *l)
{
    return l->state == QUEUE_LINK_UP && l->parting == QUEUE_FAREWELL_NONE;
}

static bool is_idle(const struct queue_link *l)
{
    return stays(l) && l->out == 0;
}

static uint32_t staying_count(const struct queue_upstream *u)
{
    uint32_t count = 0;
    for (uint32_t index = 0; index < u->link_count; index++) {
        count += stays(&u->links[index]);
    }
    return count;
}

/* The one that has had no job for longest; of those the last, since the first is used first. */
static struct queue_link *longest_idle(const struct queue_upstream *u)
{
    struct queue_link *longest = NULL;
    for (uint32_t index = 0; index < u->link_count; index++) {
        struct queue_link *l = &u->links[index];
        if (is_idle(l) && (longest == NULL || l->idle_since_ms <= longest->idle_since_ms)) {
            longest = l;
        }
    }
    return longest;
}

static void note_idle(struct queue_upstream *u, uint64_t now_ms)
{
    for (uint32_t index = 0; index < u->link_count; index++) {
        struct queue_link *l = &u->links[index];
        if (!is_idle(l)) {
            l->idle_since_ms = UINT64_MAX;
        } else if (l->idle_since_ms == UINT64_MAX) {
            l->idle_since_ms = now_ms;
        }
    }
}

/* When the one that has been idle for longest is too much; UINT64_MAX: never. */
static uint64_t surplus_ms(const struct queue_upstream *u, const struct queue_link *longest)
{
    uint32_t staying = staying_count(u);
    if (longest == NULL || staying < 2) {
        return UINT64_MAX;
    }
    return staying > u->sched.concurrency
               ? 0
               : longest->idle_since_ms + u->config->idle_ms_max / staying;
}

static void say_farewell(struct queue *q, struct queue_link *l)
{
    struct flow_job *job = &l->farewell;
    l->parting = QUEUE_FAREWELL_SAID;
    *job = (struct flow_job){.link = &l->link};
    job->msg.kind = FLOW_JOB;
    job->msg.reply_to = &q->mailbox;
    job->results = &job->inline_result;
    mailbox_send(q->with.workers[l->link.worker], &job->msg);
}

static void shrink(struct queue *q, struct queue_upstream *u)
{
    struct queue_link *l = longest_idle(u);
    while (surplus_ms(u, l) <= q->now_ms) {
        say_farewell(q, l);
        l = longest_idle(u);
    }
}

/* Not for an upstream that is marked, pauses, or has used up its rate; and never one beyond those
 * that it may have. */
static void keep_warm(struct queue *q, struct queue_upstream *u)
{
    bool probe = false;
    if (u->sched.breaker == SCHED_BREAKER_WELL && u->sched.connections == 0 &&
        sched_warm_wanted(&u->warm, q->now_ms) && sched_rate_room(&u->sched, q->now_ms) > 0 &&
        sched_may_open(&u->sched, q->now_ms, 1, &probe) && queue_open_link(q, u, probe)) {
        sched_warm_opened(&u->warm);
    }
}

void queue_pool_tend(struct queue *q)
{
    for (uint32_t at = 0; at < q->upstream_count && !q->stopping && !q->store_failed; at++) {
        struct queue_upstream *u = &q->upstreams[at];
        note_idle(u, q->now_ms);
        shrink(q, u);
        keep_warm(q, u);
    }
}

uint64_t queue_pool_wake_ms(const struct queue *q, const struct queue_upstream *u)
{
    return q->stopping ? UINT64_MAX : surplus_ms(u, longest_idle(u));
}

bool queue_pool_farewell_back(struct flow_job *job)
{
    struct queue_link *l =
        (struct queue_link *)(void *)((char *)job->link - offsetof(struct queue_link, link));
    if (job != &l->farewell) {
        return false;
    }
    CHECK(l->parting == QUEUE_FAREWELL_SAID);
    l->parting = QUEUE_FAREWELL_HEARD;
    if (l->state == QUEUE_LINK_DRAINING && l->out == 0) {
        l->state = QUEUE_LINK_CLOSED;
    }
    return true;
}
