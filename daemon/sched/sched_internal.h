/* What the files of daemon/sched share; nobody else includes it. */
#ifndef TASUKI_SCHED_SCHED_INTERNAL_H
#define TASUKI_SCHED_SCHED_INTERNAL_H

#include "daemon/sched/sched.h"

#include "daemon/base/num.h"

#define NOBODY 0 /* no node, flow or group */

/* Clocks may stand anywhere, the end of time included. */
static inline uint64_t sched_later(uint64_t now_ms, uint64_t wait_ms)
{
    return wait_ms > UINT64_MAX - now_ms ? UINT64_MAX : now_ms + wait_ms;
}

/* From seven to nine eighths of wait_ms. */
static inline uint64_t sched_jitter(uint64_t wait_ms, uint64_t entropy)
{
    return wait_ms - wait_ms / 8 + sched_mix(entropy) % (wait_ms / 4 + 1);
}

/* base_ms doubled so often, at most max_ms. */
uint64_t sched_doubled(uint64_t base_ms, uint32_t doublings, uint64_t max_ms);

/* ---- pile.c: a heap of nodes, of flows or of groups, by links beside them ---- */

typedef bool sched_before_fn(const struct sched_upstream *s, uint16_t a, uint16_t b);

struct sched_pile {
    struct sched_upstream *s;
    struct sched_link *links;
    sched_before_fn *before;
};

/* Each returns the new first one; the old one is given. */
MUST_CHECK uint16_t sched_pile_add(const struct sched_pile *p, uint16_t first, uint16_t index);
MUST_CHECK uint16_t sched_pile_remove(const struct sched_pile *p, uint16_t first, uint16_t index);

/* Piles of nodes, by due time and id. */
struct sched_pile sched_node_pile(struct sched_upstream *s);

/* ---- fair.c ---- */

/* The record of the sender with that key, made when there is none. */
uint16_t sched_flow_of(struct sched_upstream *s, uint32_t key);
/* It has one more, or one fewer, in memory. */
void sched_flow_grows(struct sched_upstream *s, uint16_t flow);
void sched_flow_shrinks(struct sched_upstream *s, uint16_t flow);

void sched_fair_init(struct sched_upstream *s);
/* A node is ready, or is so no more. */
void sched_fair_add(struct sched_upstream *s, uint16_t node);
void sched_fair_remove(struct sched_upstream *s, uint16_t node);
/* The one whose turn it is, off its pile; ready_count > 0. */
uint16_t sched_fair_take(struct sched_upstream *s, uint64_t now_ms);

/* ---- pace.c, rate.c ---- */

void sched_concurrency_set(struct sched_upstream *s, uint32_t connections);
/* Half of the connections that there are. */
void sched_concurrency_halve(struct sched_upstream *s);

void sched_rate_taken(struct sched_upstream *s, uint64_t now_ms);
/* A job is back: what it spent, and whether it counts for the speed. */
void sched_rate_back(struct sched_upstream *s, uint32_t recipients, bool succeeded,
                     uint64_t now_ms);

#endif
