/* What the files of daemon/queue share; nobody else includes it. */
#ifndef TASUKI_QUEUE_QUEUE_INTERNAL_H
#define TASUKI_QUEUE_QUEUE_INTERNAL_H

#include "daemon/queue/queue.h"
#include "daemon/sched/sched.h"
#include "schema/event.h"

/* Jobs that one connection may hold: the next ones are there before the first has ended. Twice as
 * many exist, since a job that came back is not free before its commit. */
#define QUEUE_WINDOW        4
#define QUEUE_JOBS_PER_LINK (2 * QUEUE_WINDOW)

#define QUEUE_BATCH_MAX 1024 /* messages in one transaction */
#define QUEUE_BATCH_BYTES_MAX                                                                      \
    (4u << 20) /* of bodies in one transaction: they are memory until it commits */

/* Each value says what is true in it. */
enum queue_link_state {
    QUEUE_LINK_CLOSED,   /* the place is free */
    QUEUE_LINK_OPENING,  /* OPEN was sent; UP or DOWN comes */
    QUEUE_LINK_UP,       /* takes jobs */
    QUEUE_LINK_DRAINING, /* DOWN came, but jobs that crossed it are still to come back */
};

enum queue_job_state {
    QUEUE_JOB_FREE,
    QUEUE_JOB_OUT,      /* a worker has it: its message is leased */
    QUEUE_JOB_SETTLING, /* back; its outcome is in the open transaction */
};

struct queue_job {
    struct flow_job job;
    enum queue_job_state state;
};

struct queue_link {
    struct flow_link link;
    enum queue_link_state state;
    uint32_t out; /* jobs that are with the worker */
    bool was_up;
    bool had_worked;         /* at least one job was answered on this connection */
    uint64_t rests_until_ms; /* a job came back untried: it is about to end, or out of memory */
    struct queue_job jobs[QUEUE_JOBS_PER_LINK];
};

struct queue_upstream {
    const struct config_upstream *config;
    uint32_t route;
    struct sched_upstream sched;
    struct queue_link *links; /* owned, config->connections of them */
    uint32_t link_count;
    uint32_t leased;                    /* jobs OUT or SETTLING */
    struct flow_upstream_status status; /* counters and words; the rest is filled in when asked */
};

/* What the sched learns once the transaction has committed. */
struct queue_due {
    struct queue_upstream *upstream;
    struct sched_item item;
};

struct queue {
    struct queue_config with;
    struct mailbox mailbox;
    int bell_fd;
    int64_t wall_offset_ms; /* wall clock minus CLOCK_BOOTTIME, as at the start: schedules do not
                               follow steps of the wall clock */
    uint64_t now_ms;        /* read once a round; wall clock by wall_offset_ms */
    uint64_t readers_checked_ms;
    uint64_t entropy; /* moves with every use, for jitter */
    bool stopping;
    bool store_failed;
    bool no_room; /* clients hear 452; logged once at each change */
    uint32_t next_worker;
    struct flow_msg failed_msg;
    uint32_t upstream_count;
    struct queue_upstream *upstreams; /* owned */

    struct flow_msg *batch[QUEUE_BATCH_MAX];
    uint32_t batch_count;
    struct flow_msg *unsettled; /* jobs whose outcome found no room on disk, linked by next; still
                                   leased, or they would be sent twice */
    uint64_t unsettled_ms;      /* when that is tried again */
    struct queue_due due[QUEUE_BATCH_MAX * 2];
    uint32_t due_count;

    struct buf old_state, new_state, fates; /* scratch, for one record each */
};

/* settle.c: what comes of jobs, intakes and edits, within the open transaction. Each returns what
 * the store said. */
MUST_CHECK enum err queue_apply_intake(struct queue *q, struct flow_intake *intake);
MUST_CHECK enum err queue_apply_job(struct queue *q, struct flow_job *job);
MUST_CHECK enum err queue_apply_edit(struct queue *q, struct flow_edit *edit);
/* At the start: messages of an upstream that is configured no more go by the first one, and what is
 * due later than any retry could be (this box has no clock of its own, and begins in the past) is
 * due now. */
MUST_CHECK enum err queue_adopt_strays(struct queue *q);

/* dispatch.c: connections and what goes over them. */
void queue_dispatch(struct queue *q);
void queue_link_up(struct queue *q, struct flow_link *link);
void queue_link_down(struct queue *q, struct flow_link *link);
/* A job is back from its worker; its outcome is not applied yet. */
void queue_job_back(struct queue *q, struct flow_job *job);
/* Its outcome is committed (or could not be): the place is free again. */
void queue_job_free(struct queue *q, struct flow_job *job);
bool queue_is_leased(const struct queue *q, const struct msg_id *id);
void queue_refill(struct queue *q);
uint64_t queue_wake_ms(const struct queue *q);
void queue_fill_status(const struct queue *q, struct flow_status *out);

struct queue_upstream *queue_upstream_of(struct queue *q, const struct flow_link *link);

/* Once the transaction has committed, the sched hears of item. */
void queue_due_later(struct queue *q, struct queue_upstream *upstream,
                     const struct sched_item *item);

#endif
