/*
 * When and where: pure decisions about the queue. Events and a clock value in, decisions out; no
 * I/O, no clock, no allocation, no store.
 *
 * One struct sched_upstream a route. It holds
 *   - a window: the earliest entries of the due index, in a heap. Everything in the index up to
 * `horizon` is in the window or leased; what lies beyond waits on disk. So a million queued
 * messages cost no more memory than a thousand.
 *   - the circuit breaker: well, or marked with the next probe's time.
 *   - how many connections there are and may be.
 *
 * The queue thread (daemon/queue.c) owns it, tells it what happened, and does what it says.
 */
#ifndef TASUKI_SCHED_SCHED_H
#define TASUKI_SCHED_SCHED_H

#include "daemon/base/check.h"
#include "schema/msg_id.h"
#include "schema/outcome.h"

#define SCHED_WINDOW_MAX    4096
#define SCHED_REFILL_MAX    1024 /* read from the due index at once */
#define SCHED_DUE_COUNT_MAX 256

struct sched_item {
    uint64_t due_ms;
    struct msg_id id;
};

struct sched_limits {
    uint32_t connections_max;
    uint64_t probe_min_ms, probe_max_ms;
    uint64_t retry_min_ms, retry_max_ms;
};

/* Each value says what is true in it. */
enum sched_breaker {
    SCHED_BREAKER_UNTRIED, /* nothing is known yet: treated as well */
    SCHED_BREAKER_WELL,    /* the last connection worked */
    SCHED_BREAKER_WAITING, /* marked: nothing is tried before probe_ms */
    SCHED_BREAKER_PROBING, /* marked: one connection goes ahead, with one job at a time */
};

struct sched_upstream {
    struct sched_limits limits;

    struct sched_item heap[SCHED_WINDOW_MAX];
    uint32_t count;
    bool beyond;               /* the index may hold entries after horizon */
    struct sched_item horizon; /* meaningful when beyond */

    enum sched_breaker breaker;
    enum outcome reason;     /* marked: why */
    uint64_t marked_ms;      /* since when */
    uint64_t probe_ms;       /* WAITING: when the next probe goes */
    uint32_t probe_failures; /* in a row */

    uint32_t connections; /* opening or open */
    uint32_t opening;
    uint64_t open_after_ms; /* another one was refused while some work: no more before this */
};

void sched_init(struct sched_upstream *s, const struct sched_limits *limits);

/* Order of the due index: due time, then id. */
int sched_item_compare(const struct sched_item *a, const struct sched_item *b);

/* ---- the window ---- */

/* A message became due at item->due_ms: new, deferred, or released. It stands in the due index
 * already. */
void sched_add(struct sched_upstream *s, const struct sched_item *item);

/* The earliest entry, if it is due at now_ms. It leaves the window; whoever took it holds it as
 * leased. */
MUST_CHECK bool sched_take(struct sched_upstream *s, uint64_t now_ms, struct sched_item *out_item);

/* Is there an entry due at now_ms? */
bool sched_due(const struct sched_upstream *s, uint64_t now_ms);

/* How many entries are due at now_ms, counted up to max (at most SCHED_DUE_COUNT_MAX). */
uint32_t sched_due_count(const struct sched_upstream *s, uint64_t now_ms, uint32_t max);

/* A message left the index by a command. False when it was not in the window. */
bool sched_remove(struct sched_upstream *s, const struct msg_id *id);

/*
 * Should more be read from the index? Then *out_after says after which entry (NULL: from the
 * start). After the reading: sched_refilled with what came, without the leased ones; last is the
 * last entry read, complete says that the index ended there.
 */
MUST_CHECK bool sched_wants_refill(const struct sched_upstream *s,
                                   const struct sched_item **out_after);
void sched_refilled(struct sched_upstream *s, const struct sched_item *items, size_t count,
                    const struct sched_item *last, bool complete);

/* At start: nothing is known of the index. */
void sched_forget(struct sched_upstream *s);

/* ---- connections and the breaker ---- */

/*
 * May one more connection be opened now, given that there are waiting entries due which no open
 * connection has room for? *out_probe: it is the one that goes ahead of a marked upstream. Tell
 * sched_opening when it was done.
 */
MUST_CHECK bool sched_may_open(const struct sched_upstream *s, uint64_t now_ms, uint32_t waiting,
                               bool *out_probe);
void sched_opening(struct sched_upstream *s, bool probe);

/* Marked, it is time for a probe, and connections of before are still open: one of them may go
 * ahead. */
void sched_probe_open(struct sched_upstream *s, uint64_t now_ms);

void sched_connection_up(struct sched_upstream *s);

/* A connection is gone. outcome NONE: it ended in peace. was_up: it had come up; had_worked: it had
 * finished at least one job. */
void sched_connection_down(struct sched_upstream *s, enum outcome outcome, bool was_up,
                           bool had_worked, uint64_t now_ms, uint64_t entropy);

/* A job came back with an answer of the upstream's about the message, good or bad: the upstream is
 * well. Returns true when it was marked before. */
bool sched_upstream_answered(struct sched_upstream *s);

/* Marked: its queue waits. A probe that came up while nothing is due has answered, too. */
static inline bool sched_is_marked(const struct sched_upstream *s)
{
    return s->breaker == SCHED_BREAKER_WAITING || s->breaker == SCHED_BREAKER_PROBING;
}

/* An operator wants it tried now. */
void sched_probe_now(struct sched_upstream *s, uint64_t now_ms);

/* When something will change by time alone: the next due entry or probe; UINT64_MAX: nothing. */
uint64_t sched_wake_ms(const struct sched_upstream *s, uint64_t now_ms);

/* ---- retries ---- */

/*
 * When a message that was deferred is tried again: retry_min doubled with every attempt, at most
 * retry_max, and then up to an eighth of it earlier or later, so that a thousand that failed
 * together do not come back together. attempts >= 1, counting the one just made.
 */
uint64_t sched_retry_ms(const struct sched_limits *limits, uint32_t attempts, uint64_t now_ms,
                        uint64_t entropy);

/* A well mixed number from one that is not: for jitter that needs no randomness. */
uint64_t sched_mix(uint64_t value);

#endif
