/*
 * When and where: pure decisions about the queue. Events and a clock value in, decisions out; no
 * I/O, no clock, no allocation, no store.
 *
 * One struct sched_upstream a route. It holds
 *   - a window: the earliest entries of the due index. Everything in the index up to `horizon` is
 *     in the window or leased; what lies beyond waits on disk. So a million queued messages cost no
 *     more memory than a thousand.
 *   - late arrivals: a bounded choice of entries beyond the horizon, so that one device's ten
 *     thousand messages, due before, do not hide another's single one.
 *   - the fair choice among what is due: between devices, between the senders of a device, small
 *     before large.
 *   - the circuit breaker: well, or marked with the next probe's time.
 *   - how many connections there are and may be, the pause after a throttle, the rates.
 *
 * The queue thread (daemon/queue) owns it, tells it what happened, and does what it says. All times
 * are milliseconds of the queue's clock, which never goes back. Nothing costs more than
 * O(log window), but sched_forget, the halving of a full window, and sched_oldest_due_ms.
 */
#ifndef TASUKI_SCHED_SCHED_H
#define TASUKI_SCHED_SCHED_H

#include "daemon/base/check.h"
#include "schema/msg_id.h"
#include "schema/outcome.h"
#include "schema/record_upstream.h"

#define SCHED_WINDOW_MAX    4096
#define SCHED_LATE_MAX      1024 /* beyond the horizon */
#define SCHED_REFILL_MAX    1024 /* read from the due index at once */
#define SCHED_DUE_COUNT_MAX 256

#define SCHED_NODES_MAX  (SCHED_WINDOW_MAX + SCHED_LATE_MAX)
#define SCHED_IDS_MAX    8192 /* places of the table of ids, a power of two */
#define SCHED_FLOWS_MAX  2048 /* told apart at once; what is beyond shares SCHED_CROWD_MAX */
#define SCHED_CROWD_MAX  64
#define SCHED_GROUPS_MAX 512 /* places for devices, by hash */
#define SCHED_MET_MAX    256 /* messages remembered to have met a throttle */

#define SCHED_SMALL_KIB_MAX     128   /* a message up to this may pass a larger one of its sender */
#define SCHED_PASSED_MAX        8     /* but not more often than this, */
#define SCHED_PASSED_MS_MAX     60000 /* and not for longer */
#define SCHED_BARREN_FREE       2     /* ends of connections without work that cost no wait */
#define SCHED_THROTTLE_MS_FIRST 5000
#define SCHED_THROTTLE_MS_MAX   600000

/* An entry of the due index. */
struct sched_item {
    uint64_t due_ms;
    struct msg_id id;
    uint32_t flow;     /* whose it is: record_flow. Upper half the device, all of it the sender */
    uint32_t size_kib; /* of the body, rounded up */
};

enum sched_rate_kind { SCHED_RATE_MESSAGES, SCHED_RATE_RECIPIENTS, SCHED_RATE_KINDS };
enum sched_rate_span { SCHED_RATE_MINUTE, SCHED_RATE_HOUR, SCHED_RATE_DAY, SCHED_RATE_SPANS };

struct sched_limits {
    uint32_t connections_max;
    uint64_t probe_min_ms, probe_max_ms;
    uint64_t retry_min_ms, retry_max_ms;
    uint32_t rate[SCHED_RATE_KINDS]
                 [SCHED_RATE_SPANS]; /* at most so many in any span; 0: no limit */
};

/* Each value says what is true in it. */
enum sched_breaker {
    SCHED_BREAKER_UNTRIED, /* nothing is known yet: treated as well */
    SCHED_BREAKER_WELL,    /* the last connection worked */
    SCHED_BREAKER_WAITING, /* marked: nothing is tried before probe_ms */
    SCHED_BREAKER_PROBING, /* marked: one connection goes ahead, with one job at a time */
};

/* Each value says what is true in it. */
enum sched_node_state {
    SCHED_NODE_FREE,
    SCHED_NODE_FUTURE, /* not due yet: in the pile `future` */
    SCHED_NODE_READY,  /* due: in a pile of its flow */
};

/* A place in a pile (pile.c). 0 is nobody: numbers begin at 1. */
struct sched_link {
    uint16_t child, next, prev;
};

/* An entry that is in memory. */
struct sched_node {
    struct sched_item item;
    uint16_t id_next; /* of the same place in the table of ids; FREE: the next free one */
    uint16_t flow;
    uint16_t late_at; /* beyond the horizon: its place in `late`, from 1; 0: in the window */
    uint8_t state;    /* enum sched_node_state */
};

/* One sender, while there is something of it in memory, and for a while after. */
struct sched_flow {
    uint64_t tag;   /* its next message's place in the virtual time of its group */
    uint64_t order; /* among equal tags: who came first */
    uint64_t passed_since_ms;
    uint32_t key;
    uint16_t passed;               /* how often small ones went before the first large one */
    uint16_t nodes;                /* in memory, due or not */
    uint16_t key_next;             /* of the same place in the table of flows */
    uint16_t idle_next, idle_prev; /* nodes == 0: among those that may be forgotten */
    uint16_t small, large;         /* piles of what is ready */
    bool skipped; /* entries of it beyond the horizon were left on disk, for there were enough */
};

/* One device. */
struct sched_group {
    uint64_t tag, order;
    uint64_t virtual_now; /* of the flows in it */
    uint32_t active;      /* how many have something ready */
    uint16_t flows;       /* pile of those */
};

/* So many in each of the last slots: enough to say how many in the last span, to a twelfth of it.
 */
#define SCHED_RATE_SLOTS 13
struct sched_rate {
    uint64_t slot;                   /* number of the newest, counted from time 0 */
    uint32_t used[SCHED_RATE_SLOTS]; /* of slot n at n % SCHED_RATE_SLOTS */
};

/* A message that met a throttle. */
struct sched_met {
    bool known;
    bool own; /* it met it again though others had gone: it is the message, not the upstream */
    struct msg_id id;
    uint64_t answers; /* how many others had gone then */
};

struct sched_upstream {
    struct sched_limits limits;
    uint64_t now_ms; /* the latest that was heard of */

    /* window.c */
    uint32_t count;            /* in the window */
    uint32_t late_count;       /* beyond the horizon */
    uint32_t ready_count;      /* of both, due */
    bool beyond;               /* the index may hold entries after horizon */
    struct sched_item horizon; /* meaningful when beyond */
    struct sched_item scout;   /* entries up to here were looked at for late arrivals */
    uint64_t scout_next_ms;    /* no more of them are due before this */
    bool scout_blocked;        /* there is no room for one that should come in */
    uint16_t future;
    uint16_t free_first, fresh; /* nodes above `fresh` were never used */

    /* fair.c */
    uint64_t virtual_now, order;
    uint32_t groups_active;
    uint16_t groups_pile;
    uint16_t idle_first, idle_last;
    uint16_t flows_fresh;

    /* breaker.c */
    enum sched_breaker breaker;
    enum outcome reason;      /* marked: why */
    uint64_t marked_ms;       /* since when */
    uint64_t probe_ms;        /* WAITING: when the next probe goes */
    uint32_t probe_failures;  /* in a row */
    uint64_t outage_ms_total; /* of the times that are over */
    bool stood_in;            /* another upstream carries its mail */
    uint64_t outage_from_ms;  /* marked, and not stood in: since when the present time counts */
    uint32_t connections;     /* opening or open */
    uint32_t opening;
    uint64_t open_after_ms; /* one was refused while others work, or too many were of no use: no
                               more before this */
    uint32_t more_refusals; /* in a row */
    uint32_t barren;        /* connections in a row that were let in and ended without work */

    /* pace.c */
    uint32_t concurrency;    /* connections that may have work now, 1..connections_max */
    uint32_t successes;      /* since concurrency last changed */
    uint32_t pause_level;    /* doublings of the next pause */
    uint64_t pause_until_ms; /* no new job before this */
    uint64_t answers;        /* jobs that were answered well, ever */

    /* rate.c */
    uint32_t out; /* jobs handed out and not back */
    struct sched_rate rates[SCHED_RATE_KINDS][SCHED_RATE_SPANS];
    uint64_t busy_from_ms, busy_ms, busy_count; /* since the last measurement */
    uint64_t pace_micro;                        /* messages per second, in millionths; 0: unknown */

    struct sched_met met[SCHED_MET_MAX];
    uint16_t ids[SCHED_IDS_MAX];    /* first node of each place */
    uint16_t keys[SCHED_FLOWS_MAX]; /* first flow of each place */
    uint16_t late[SCHED_LATE_MAX];
    struct sched_group groups[SCHED_GROUPS_MAX + 1];
    struct sched_link group_links[SCHED_GROUPS_MAX + 1];

    /* Not cleared at the start: what lies above `fresh` was never looked at. */
    struct sched_flow flows[SCHED_FLOWS_MAX + 1];
    struct sched_link flow_links[SCHED_FLOWS_MAX + 1];
    struct sched_node nodes[SCHED_NODES_MAX + 1];
    struct sched_link node_links[SCHED_NODES_MAX + 1];
};

_Static_assert(sizeof(struct sched_upstream) <= 512 << 10, "an upstream's memory has a bound");

void sched_init(struct sched_upstream *s, const struct sched_limits *limits);

/* Order of the due index: due time, then id. */
int sched_item_compare(const struct sched_item *a, const struct sched_item *b);

/* ---- the window ---- */

/*
 * A message became due at item->due_ms: new, deferred, released, or given back untried. It stands
 * in the due index already, and is not leased. One that is known already, with whatever due time,
 * is this one. Beyond the horizon it is taken among the late arrivals when it is due (by the latest
 * clock heard of) and its sender has few in memory; or else it waits on disk.
 */
void sched_add(struct sched_upstream *s, const struct sched_item *item);

/*
 * The entry whose turn it is, of those due at now_ms; nothing during a pause, nor beyond a rate. It
 * leaves memory; whoever took it holds it as leased, and says sched_job_back when it is back.
 *
 * Whose turn: devices go round by what they have sent, senders within a device likewise
 * (start-time fair queueing, weighed in KiB with a minimum a message), so that one that was silent
 * comes next however long the others' backlog is. Of one sender the earliest due goes first, but a
 * small one before a large one, SCHED_PASSED_MAX times or SCHED_PASSED_MS_MAX long. Each service
 * moves the virtual time on, so whatever comes later, what waits has its turn.
 */
MUST_CHECK bool sched_take(struct sched_upstream *s, uint64_t now_ms, struct sched_item *out_item);

/*
 * The same for a stand-in: by takes an entry of s. Whose turn it is is s's affair, whether anything
 * may go now is by's: its pause, its rates. sched_job_back is then said to by. by == s is
 * sched_take.
 */
MUST_CHECK bool sched_take_for(struct sched_upstream *s, struct sched_upstream *by, uint64_t now_ms,
                               struct sched_item *out_item);

/* Would sched_take find one? */
bool sched_due(const struct sched_upstream *s, uint64_t now_ms);

/* Would sched_take_for? */
bool sched_due_for(const struct sched_upstream *s, const struct sched_upstream *by,
                   uint64_t now_ms);

/* How many could be taken now, counted up to max (at most SCHED_DUE_COUNT_MAX). */
uint32_t sched_due_count(struct sched_upstream *s, uint64_t now_ms, uint32_t max);

/* How many of s by could take; of several that by takes from each count is of it alone. */
uint32_t sched_due_count_for(struct sched_upstream *s, const struct sched_upstream *by,
                             uint64_t now_ms, uint32_t max);

/* Entries in memory, due or not. Where there are more on disk only (s->beyond) it is the least that
 * there can be. */
uint64_t sched_waiting(const struct sched_upstream *s);

/* A message left the index by a command. False when it was not in memory. */
bool sched_remove(struct sched_upstream *s, const struct msg_id *id);

/* The earliest due time in memory, UINT64_MAX when there is none. Looks at all: for a status. */
uint64_t sched_oldest_due_ms(const struct sched_upstream *s);

/*
 * Should more be read from the index? Then *out_after says after which entry (NULL: from the
 * start). After the reading: sched_refilled with what came, without the leased ones; last is the
 * last entry read, complete says that the index ended there. Late arrivals that the reading comes
 * to are known again, not taken in twice.
 */
MUST_CHECK bool sched_wants_refill(const struct sched_upstream *s,
                                   const struct sched_item **out_after);
void sched_refilled(struct sched_upstream *s, const struct sched_item *items, size_t count,
                    const struct sched_item *last, bool complete);

/*
 * Should the index be read beyond the horizon, for senders that have little or nothing in memory?
 * Each due entry is looked at once, in order: after a restart, and when entries become due that
 * wait on disk only. As above: *out_after, then sched_scouted. One reading a round is enough.
 */
MUST_CHECK bool sched_wants_scout(struct sched_upstream *s, uint64_t now_ms,
                                  const struct sched_item **out_after);
void sched_scouted(struct sched_upstream *s, const struct sched_item *items, size_t count,
                   const struct sched_item *last, bool complete);
/* The reading failed. */
void sched_scout_rests(struct sched_upstream *s, uint64_t until_ms);

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

/* A connection has finished its first job. */
void sched_connection_worked(struct sched_upstream *s);

/* A connection is gone. outcome NONE: it ended in peace. was_up: it had come up; had_worked: it had
 * finished at least one job, or taught us something that the next one does better. */
void sched_connection_down(struct sched_upstream *s, enum outcome outcome, bool was_up,
                           bool had_worked, uint64_t now_ms, uint64_t entropy);

/* A job came back with an answer of the upstream's about the message, good or bad: the upstream is
 * well. Returns true when it was marked before. */
bool sched_upstream_answered(struct sched_upstream *s, uint64_t now_ms);

/* Marked: its queue waits. A probe that came up while nothing is due has answered, too. */
static inline bool sched_is_marked(const struct sched_upstream *s)
{
    return s->breaker == SCHED_BREAKER_WAITING || s->breaker == SCHED_BREAKER_PROBING;
}

/* How long it has been marked with nobody to stand in for it, in all, the present time included.
 * What a message's age is measured against must not grow with it: this at now less this when the
 * message came. */
uint64_t sched_outage_ms(const struct sched_upstream *s, uint64_t now_ms);

/* Whether another upstream carries its mail from now on: then what it waits is no outage. */
void sched_stand_in(struct sched_upstream *s, bool stood_in, uint64_t now_ms);

/* An operator wants it tried now. */
void sched_probe_now(struct sched_upstream *s, uint64_t now_ms);

/* When something will change by time alone: the next due entry, probe, end of a pause, room in a
 * rate; UINT64_MAX: nothing. */
uint64_t sched_wake_ms(const struct sched_upstream *s, uint64_t now_ms);

/* The same for what by could take of s: its next due entry, the end of by's pause, room in by's
 * rates. */
uint64_t sched_wake_for_ms(const struct sched_upstream *s, const struct sched_upstream *by,
                           uint64_t now_ms);

/* ---- the pace ---- */

/* What an upstream says that wants less at once: the row THROTTLED, and a 421 within a
 * transaction. */
bool sched_is_throttle(enum outcome outcome);

/*
 * A job met such an answer. The upstream gets no new job for a pause (SCHED_THROTTLE_MS_FIRST,
 * doubling to SCHED_THROTTLE_MS_MAX, an eighth more or less), and half the connections (of those
 * there are) may have work after it. Those that were under way when it began are the same throttle.
 * Successes bring both back: after as many as `concurrency` one connection more, one doubling less.
 *
 * False: the message met it before, and others have gone since. Then it is this message that the
 * upstream defers, whatever it says, and the others do not wait.
 */
bool sched_throttled(struct sched_upstream *s, const struct msg_id *id, uint64_t now_ms,
                     uint64_t entropy);

/* No new job now? */
static inline bool sched_is_paused(const struct sched_upstream *s, uint64_t now_ms)
{
    return now_ms < s->pause_until_ms;
}

/* Jobs that one connection may hold, of so many that it would take: after a throttle one, for what
 * is with a worker cannot be called back. */
static inline uint32_t sched_window(const struct sched_upstream *s, uint32_t wanted)
{
    return s->pause_level > 0 || s->breaker == SCHED_BREAKER_PROBING ? 1 : wanted;
}

/*
 * A job that was taken is back.
 *   spent       recipients that the upstream may have counted: taken, refused for good, in doubt
 *   succeeded   at least one was taken or refused for good
 */
void sched_job_back(struct sched_upstream *s, uint32_t spent, bool succeeded, uint64_t now_ms);

/* ---- rates ---- */

/* How many messages may be handed out now, UINT32_MAX without a limit. */
uint32_t sched_rate_room(const struct sched_upstream *s, uint64_t now_ms);

/* How many of that rate are used: counted within the span that ends now, and under way. */
uint32_t sched_rate_used(const struct sched_upstream *s, enum sched_rate_kind kind,
                         enum sched_rate_span span, uint64_t now_ms);

/* When there is room: now_ms, later, or UINT64_MAX when that needs jobs to come back. */
uint64_t sched_rate_next_ms(const struct sched_upstream *s, uint64_t now_ms);

/*
 * When backlog messages will have left, at the speed of the last minutes and within the rates;
 * UINT64_MAX: nobody knows (marked, nothing seen yet, more than a year).
 */
uint64_t sched_forecast_ms(const struct sched_upstream *s, uint64_t backlog, uint64_t now_ms);

/* ---- across a restart ---- */

/* Fills outage_ms and the buckets of *out, and nothing else. */
void sched_save(const struct sched_upstream *s, uint64_t now_ms, struct record_upstream *out);

/*
 * After sched_init. A time to come is taken for now. The limits may be others than before. Of what
 * was used within a span only the sum is kept: it is taken to have been used evenly.
 */
void sched_restore(struct sched_upstream *s, const struct record_upstream *saved, uint64_t now_ms);

/* ---- retries ---- */

struct sched_retry {
    uint64_t due_ms;
    bool counts; /* as an attempt: towards the waits to come, and in the state record */
};

/*
 * When a message with this outcome is tried again.
 *   attempts   that counted before this one
 *
 * The outcome's row says the first wait and the longest, else the settings retry-min and retry-max
 * do; it doubles with every attempt. Never sooner than retry-min; longer than retry-max only where
 * the row asks for it (a full mailbox), and then at most SCHED_RETRY_STRETCH times that. Then up to
 * an eighth of it earlier or later, so that a thousand that failed together do not come back
 * together.
 *
 * A throttle that is the upstream's: as soon as the pause is over, and it does not count.
 */
#define SCHED_RETRY_STRETCH 4
struct sched_retry sched_retry(const struct sched_upstream *s, const struct msg_id *id,
                               enum outcome outcome, uint32_t attempts, uint64_t now_ms,
                               uint64_t entropy);

/* A message's recipients are tried again together. Of two outcomes: is a the one that waits less?
 */
bool sched_is_sooner(enum outcome a, enum outcome b);

/* A well mixed number from one that is not: for jitter that needs no randomness. */
uint64_t sched_mix(uint64_t value);

#endif
