/*
 * Which upstream a message goes by, and who carries it while that one is marked.
 *
 * The route stands in the message's state record and is decided once, when it comes in. A stand-in
 * changes nothing of it: it takes due entries of the marked upstream's window and sends them over
 * its own connections (dispatch.c), so that all that still waits goes by the preferred one again as
 * soon as that has answered its probe. daemon/decisions/0012.
 */
#include "daemon/queue/queue_internal.h"

_Static_assert(UPSTREAMS_MAX <= 32, "a set of upstreams is the bits of a number");

static uint32_t bit_of(const struct queue *q, const struct queue_upstream *u)
{
    return 1u << (u - q->upstreams);
}

static bool takes_rest(const struct queue_upstream *u)
{
    return u->config->use.role == CONFIG_USE_ALWAYS && u->config->use.count == 0;
}

/* ---- at the start ---- */

void queue_routes_init(struct queue *q)
{
    for (uint32_t at = 0; at < q->upstream_count; at++) {
        struct queue_upstream *u = &q->upstreams[at];
        const struct config_use *use = &u->config->use;
        for (uint32_t other = 0; other < q->upstream_count; other++) {
            struct queue_upstream *o = &q->upstreams[other];
            if (o != u && config_use_same_terms(use, &o->config->use)) {
                *(o->config->use.role == CONFIG_USE_ALWAYS ? &u->peers : &u->spares) |=
                    bit_of(q, o);
            }
        }
        for (uint32_t term = 0; term < use->count; term++) {
            q->by_recipient = q->by_recipient || (use->role == CONFIG_USE_ALWAYS &&
                                                  use->terms[term].side == CONFIG_USE_RECIPIENT);
        }
    }
}

/* ---- the choice ---- */

struct queue_upstream *queue_upstream_by_route(struct queue *q, uint32_t route)
{
    for (uint32_t index = 0; index < q->upstream_count; index++) {
        if (q->upstreams[index].route == route) {
            return &q->upstreams[index];
        }
    }
    return NULL;
}

/* What waits for it, and what it has. Where the rest of it is on disk only, the least. */
static uint64_t load_of(const struct queue_upstream *u)
{
    return sched_waiting(&u->sched) + u->leased + u->promised;
}

/* One that works before one that is marked, then the one with less to do, then the one that was
 * chosen longer ago. */
static bool is_better(const struct queue_upstream *a, const struct queue_upstream *b)
{
    bool a_marked = sched_is_marked(&a->sched), b_marked = sched_is_marked(&b->sched);
    if (a_marked != b_marked) {
        return b_marked;
    }
    uint64_t a_load = load_of(a), b_load = load_of(b);
    return a_load != b_load ? a_load < b_load : a->chosen < b->chosen;
}

bool queue_takes_reports(const struct queue *q, const struct queue_upstream *u)
{
    return u->config->null_sender && u->memory.null_refused_q <= q->now_ms;
}

/* Of those without terms; NULL where none will do. */
static struct queue_upstream *best_of_rest(struct queue *q, bool for_report)
{
    struct queue_upstream *best = NULL;
    for (uint32_t at = 0; at < q->upstream_count; at++) {
        struct queue_upstream *u = &q->upstreams[at];
        bool will_do = takes_rest(u) && (!for_report || queue_takes_reports(q, u));
        if (will_do && (best == NULL || is_better(u, best))) {
            best = u;
        }
    }
    if (best != NULL) {
        best->chosen = ++q->choices;
    }
    return best;
}

struct queue_upstream *queue_route_rest(struct queue *q)
{
    struct queue_upstream *best = best_of_rest(q, false);
    CHECK(best != NULL); /* the configuration was judged */
    return best;
}

struct queue_upstream *queue_route_for(struct queue *q, struct slice sender, struct slice recipient)
{
    for (uint32_t at = 0; at < q->upstream_count; at++) {
        const struct config_use *use = &q->upstreams[at].config->use;
        if (use->role == CONFIG_USE_ALWAYS && use->count > 0 &&
            config_use_matches(use, sender, recipient)) {
            return &q->upstreams[at];
        }
    }
    return NULL;
}

struct queue_upstream *queue_route(struct queue *q, struct slice sender, struct slice recipient)
{
    struct queue_upstream *u = queue_route_for(q, sender, recipient);
    return u != NULL ? u : queue_route_rest(q);
}

struct queue_upstream *queue_route_report(struct queue *q, struct slice to)
{
    struct queue_upstream *u = queue_route_for(q, slice_of(NULL, 0), to);
    u = u != NULL ? u : best_of_rest(q, true);
    return u != NULL ? u : queue_route_rest(q);
}

struct queue_upstream *queue_home(struct queue *q, const struct record_state *state,
                                  const struct record_envelope *envelope)
{
    struct queue_upstream *u = queue_upstream_by_route(q, state->route);
    if (u != NULL || envelope == NULL) {
        return u != NULL ? u : queue_route_rest(q);
    }
    struct slice fates = state->recipients, rcpts = envelope->recipients;
    struct record_recipient fate;
    struct record_rcpt rcpt = {0};
    while (record_fate_next(&fates, &fate) && record_rcpt_next(&rcpts, &rcpt)) {
        if (recipient_is_open(fate.state)) {
            break; /* the first that is still to be delivered decides for all */
        }
    }
    return queue_route(q, envelope->sender, rcpt.path);
}

/* ---- stand-ins ---- */

static uint32_t unmarked_of(const struct queue *q, uint32_t set)
{
    for (uint32_t at = 0; at < q->upstream_count; at++) {
        if (sched_is_marked(&q->upstreams[at].sched)) {
            set &= ~(1u << at);
        }
    }
    return set;
}

/* Those that share its mail anyway, all of them that work; else the first of the others. */
static uint32_t carriers_of(const struct queue *q, const struct queue_upstream *u)
{
    if (!sched_is_marked(&u->sched)) {
        return 0;
    }
    uint32_t peers = unmarked_of(q, u->peers), spares = unmarked_of(q, u->spares);
    return peers != 0 ? peers : spares & (~spares + 1); /* the lowest bit: file order */
}

const struct queue_upstream *queue_first_of(const struct queue *q, uint32_t set)
{
    return set == 0 ? NULL : &q->upstreams[__builtin_ctz(set)];
}

static void log_stand_in(struct queue *q, const struct queue_upstream *u,
                         const struct queue_upstream *by)
{
    struct log_line line;
    event_begin(&line, q->with.log, EVENT_STAND_IN);
    log_put_word(&line, "upstream", u->config->name);
    log_put_word(&line, "by", by->config->name);
    log_end(&line);
}

static void log_stand_in_over(struct queue *q, const struct queue_upstream *u,
                              const struct queue_upstream *by)
{
    struct log_line line;
    event_begin(&line, q->with.log, EVENT_STAND_IN_OVER);
    log_put_word(&line, "upstream", u->config->name);
    log_put_word(&line, "by", by->config->name);
    log_put_u64(&line, "carried", u->carried);
    log_put_word(&line, "back", sched_is_marked(&u->sched) ? "no" : "yes");
    log_end(&line);
}

void queue_stand_ins(struct queue *q)
{
    for (uint32_t at = 0; at < q->upstream_count; at++) {
        struct queue_upstream *u = &q->upstreams[at];
        const struct queue_upstream *before = queue_first_of(q, u->carriers);
        u->carriers = carriers_of(q, u);
        sched_stand_in(&u->sched, u->carriers != 0, q->now_ms);
        const struct queue_upstream *now = queue_first_of(q, u->carriers);
        if (now == before) {
            continue;
        }
        if (before != NULL) {
            log_stand_in_over(q, u, before);
        }
        u->carried = 0;
        if (now != NULL) {
            log_stand_in(q, u, now);
        }
    }
}

bool queue_carries(const struct queue *q, const struct queue_upstream *by,
                   const struct queue_upstream *u)
{
    return by == u || (u->carriers & bit_of(q, by)) != 0;
}
