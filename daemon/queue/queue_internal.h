/* What the files of daemon/queue share; nobody else includes it. */
#ifndef TASUKI_QUEUE_QUEUE_INTERNAL_H
#define TASUKI_QUEUE_QUEUE_INTERNAL_H

#include "daemon/queue/queue.h"
#include "daemon/sched/sched.h"
#include "daemon/sched/sched_warm.h"
#include "schema/event.h"
#include "schema/record_history.h"
#include "schema/record_upstream.h"

/* Jobs that one connection may hold: the next ones are there before the first has ended. Twice as
 * many exist, since a job that came back is not free before its commit. */
#define QUEUE_WINDOW        16
#define QUEUE_JOBS_PER_LINK (2 * QUEUE_WINDOW)

/* An upstream is near when it answers for a message within so long. Small messages then share its
 * connections, a few each: what that costs in waiting is nothing, and what it saves in packets and
 * wake-ups is not. */
#define QUEUE_NEAR_MS      8
#define QUEUE_PACK_JOBS    4
#define QUEUE_PACK_KIB_MAX 64

#define QUEUE_BATCH_MAX 1024 /* messages in one transaction */
#define QUEUE_DUE_EACH  4    /* each may become due again, and three reports with it */
#define QUEUE_BATCH_BYTES_MAX                                                                      \
    (4u << 20) /* of bodies in one transaction: they are memory until it commits */

/* Pieces in the middle of messages wait so long, and so many bytes of them, for a commit that
 * somebody waits for. */
#define QUEUE_CARRY_MS_MAX    100
#define QUEUE_CARRY_BYTES_MAX (4u << 20)

/* While mail comes in (some did within the last so many ms), outcomes wait so long for its next
 * commit, and so many of them: nobody waits for theirs. */
#define QUEUE_RIDE_RECENT_MS 50
#define QUEUE_RIDE_MS_MAX    10
#define QUEUE_RIDE_JOBS_MAX  (3 * QUEUE_WINDOW)

/* What is made here: its device in the counts, and room for its records. */
#define QUEUE_OWN_DEVICE         "tasuki"
#define QUEUE_OWN_ENVELOPE_BYTES 1024
#define QUEUE_OWN_STATE_BYTES    512

/* How long an upstream that has refused the null sender is spared reports. */
#define QUEUE_NULL_REFUSED_MS (24u * 3600 * 1000)

/* Each value says what is true in it. */
enum queue_link_state {
    QUEUE_LINK_CLOSED,   /* the place is free */
    QUEUE_LINK_OPENING,  /* OPEN was sent; UP or DOWN comes */
    QUEUE_LINK_UP,       /* takes jobs */
    QUEUE_LINK_DRAINING, /* DOWN came, but jobs that crossed it are still to come back */
};

/* Each value says what is true in it. */
enum queue_farewell {
    QUEUE_FAREWELL_NONE, /* the connection may have work */
    QUEUE_FAREWELL_SAID, /* it is asked to end, and gets nothing more */
    QUEUE_FAREWELL_HEARD /* the worker has done so; the end is on its way */
};

enum queue_job_state {
    QUEUE_JOB_FREE,
    QUEUE_JOB_OUT,      /* a worker has it: its message is leased */
    QUEUE_JOB_SETTLING, /* back; its outcome is in the open transaction */
};

struct queue_job {
    struct flow_job job;
    enum queue_job_state state;
    struct queue_upstream *home; /* whose entry of the index it is; its link may be a stand-in's */
};

struct queue_link {
    struct flow_link link;
    enum queue_link_state state;
    uint32_t out;     /* jobs that are with the worker */
    uint32_t out_kib; /* and the size of their bodies */
    bool was_up;
    bool had_worked;         /* at least one job was answered on this connection */
    uint64_t rests_until_ms; /* a job came back untried: it is about to end, or out of memory */
    struct queue_job jobs[QUEUE_JOBS_PER_LINK];
    uint64_t idle_since_ms; /* UINT64_MAX: it is not idle; pool.c's, as the rest */
    enum queue_farewell parting;
    struct flow_job farewell; /* a job without a message: the connection is to end in peace */
};

struct queue_upstream {
    const struct config_upstream *config;
    uint32_t route;
    struct sched_upstream sched;
    struct queue_link *links; /* owned, config->connections of them */
    uint32_t link_count;
    uint32_t leased;        /* jobs OUT or SETTLING, on its links */
    uint32_t answer_ms16;   /* how long one message takes, smoothed, in 1/16 ms; 0: unknown */
    uint32_t promised;      /* messages that the open transaction routes to it */
    uint64_t chosen;        /* when it was last chosen among several: q->choices then */
    uint32_t peers, spares; /* sets, by index: who may stand in for it. Peers take mail of the same
                               kind by themselves, spares do not */
    uint32_t carriers;      /* set: who does now */
    uint64_t carried;       /* jobs that they got since it was marked */
    uint32_t turn;          /* whose entry its connections had last: index */
    struct record_upstream memory; /* what is remembered of it across restarts */
    char pipeline_reason[RECORD_PIPELINE_REASON_BYTES_MAX + 1]; /* memory's */
    struct sched_warm warm;
    bool memory_changed;                /* since it was last committed: soon */
    bool memory_used;                   /* a job was handed out since: now and then */
    struct flow_upstream_status status; /* counters and words; the rest is filled in when asked */
};

/* One of the messages that an intake becomes. */
struct queue_part {
    struct msg_id id;
    struct queue_upstream *upstream;
    uint32_t recipient_count;
};

/* An intake whose recipients go by different upstreams. Owned by its intake. */
struct queue_split {
    struct queue_split *next;   /* bodies still to be copied */
    struct flow_intake *intake; /* borrowed */
    uint32_t part_count;
    struct queue_part parts[UPSTREAMS_MAX]; /* the first has the intake's id */
    uint32_t pieces_copied;
    uint8_t part_of[SMTP_RECIPIENTS_MAX]; /* in the envelope's order */
};

/* What the sched learns once the transaction has committed. */
struct queue_due {
    struct queue_upstream *upstream;
    struct sched_item item;
};

/* Who is waiting for a commit, and who may yet come; company.c. */
struct queue_company {
    uint32_t waiting;   /* messages that have come in since the last commit */
    uint32_t before;    /* those of the last one, until it is seen who came during it */
    uint32_t clients16; /* clients at once, smoothed: the sum of about 16 commits */
    uint64_t since_us;  /* monotonic: when the first of waiting came */
    uint64_t commit_us; /* how long the last commit took */
    bool slept;         /* nobody was there after it: whoever comes may have been in it */
};

/* A process that keeps freed pages of the store from being used again; pin.c. */
struct queue_pin {
    uint64_t pid, transaction; /* as in struct store_pin; 0: nobody was there at the last look */
    uint64_t since_ms;         /* when it was first seen, and how long the file was then */
    uint64_t file_bytes;
    bool told;
};

/* What a transaction brings about beside the store: counted when it has committed, since it may be
 * done twice. So are the lines of q->said written then. */
struct queue_effects {
    uint64_t reports, unreported, gave_up, refusals;
    uint64_t upkeep_ms; /* something falls due then; 0: nothing does */
};

struct queue {
    struct queue_config with;
    struct store_reader *reader; /* owned: for a status, beside the open transaction */
    struct mailbox mailbox;
    int bell_fd;
    int64_t q_minus_boot; /* the queue's clock minus CLOCK_BOOTTIME: schedules do not follow steps
                             of the wall clock */
    uint64_t boot_id;
    int64_t wall_minus_q; /* for people: added to the queue's clock it makes wall clock */
    int64_t wall_noted;   /* as it was when a step was last logged */
    uint64_t now_ms;      /* of the queue's clock, read once a round */
    uint64_t upkeep_ms;   /* when upkeep is due next */
    bool strays;          /* some were not adopted yet */
    uint64_t entropy;     /* moves with every use, for jitter */
    bool stopping;
    bool store_failed;
    bool no_room; /* clients hear 452; logged once at each change */
    uint32_t next_worker;
    struct flow_msg failed_msg;
    uint32_t upstream_count;
    struct queue_upstream *upstreams; /* owned */
    bool by_recipient;                /* a message may be split: some upstream is for recipients */
    uint64_t choices;                 /* among several upstreams, so far */
    struct queue_split *splits;       /* linked: whose bodies are being copied, in order */

    struct flow_msg *batch[QUEUE_BATCH_MAX];
    uint32_t batch_count;
    uint64_t batch_since_ms; /* when the first of it came */
    bool batch_urgent;       /* somebody waits for its commit */
    uint64_t intake_ms;      /* when somebody last did */
    struct queue_company company;
    uint32_t batch_due; /* entries of due that it may need, at most */
    size_t batch_bytes; /* of pieces in it */
    bool carrying;      /* a transaction is open that holds pieces alone, already answered */
    size_t carried_bytes;
    uint64_t carry_until_ms;
    uint32_t intake_epoch;      /* moves when such a transaction came to nothing */
    enum err intake_lost;       /* and why it last did */
    struct flow_msg *unsettled; /* jobs whose outcome found no room on disk, linked by next; still
                                   leased, or they would be sent twice */
    uint64_t unsettled_ms;      /* when that is tried again */
    struct queue_due due[QUEUE_BATCH_MAX * QUEUE_DUE_EACH];
    uint32_t due_count;
    struct queue_effects effects; /* of the open transaction */
    struct log said;              /* what is said of it: written when it has committed */
    struct buf said_lines;        /* each: level (1), bytes (2), text */
    uint64_t reports_made;        /* since the start */
    uint64_t report_tokens_milli; /* report-rate: a bucket of thousandths, as of report_tokens_ms */
    uint64_t report_tokens_ms;
    uint64_t digest_last_ms; /* when the last digest was committed; the queue's clock */
    uint64_t upstreams_saved_ms;
    struct queue_pin pin;

    struct buf old_state, new_state, fates; /* scratch, for one record each */
    struct buf envelope, trail, history, moves, header, piece;
    struct mail_dsn_recipient *dsn_recipients; /* owned, SMTP_RECIPIENTS_MAX: scratch of report.c */
};

/* clock.c: the queue's clock. */
void queue_clock_start(struct queue *q);
void queue_clock_read(struct queue *q);
/* Has the open transaction commit it. */
void queue_clock_put(struct queue *q);
/* Monotonic, for durations. */
uint64_t queue_clock_us(void);

/*
 * change.c: one message's way from one state record to the next, within the open transaction: load,
 * alter its fates, finish.
 */
struct queue_change {
    const struct msg_id *id;
    struct queue_upstream *upstream; /* the one it is routed to */
    struct queue_upstream *via;      /* over which the attempt was made; else as upstream */
    struct record_state old, next;   /* over q->old_state; next.recipients is set by finish */
    struct record_envelope envelope; /* over q->envelope; meaningless when it is damaged */
    bool envelope_sound;
    uint32_t index;            /* of the recipient that fate_next gave last */
    struct slice fates, rcpts; /* what fate_next has not given yet */
    uint32_t open, failed, delivered;
    uint32_t failed_now;     /* by this change */
    bool warn;               /* it is time to tell of a delay */
    enum record_cause cause; /* of the moves */
    uint64_t connection;     /* of the attempt, with its duration, peer, TLS and dialogue */
    uint32_t duration_ms;
    uint32_t uid;
    struct slice peer, tls, dialogue, words; /* words: of an operator */
    uint32_t move_count;
};

/* Errors: ERR_NOT_FOUND; ERR_DAMAGED, ERR_VERSION, ERR_LIMIT: its state cannot be read; others as
 * of the store. */
MUST_CHECK enum err queue_change_load(struct queue *q, struct queue_change *c,
                                      const struct msg_id *id);
/* The next recipient, as it was. False at the end. */
MUST_CHECK bool queue_change_next(struct queue_change *c, struct record_recipient *out_fate,
                                  struct record_rcpt *out_rcpt);
/* Its new fate, in the same order. A change of its lifecycle is noted as a move. */
void queue_change_put(struct queue *q, struct queue_change *c,
                      const struct record_recipient *before, const struct record_recipient *after);
/* Writes what follows: reports, the state and the trail, or the history. c->next says state, due
 * and attempts for the case that recipients are still open or the message is kept. */
MUST_CHECK enum err queue_change_finish(struct queue *q, struct queue_change *c);
/* It leaves the queue for the history. All recipients were put. */
MUST_CHECK enum err queue_change_leave(struct queue *q, struct queue_change *c,
                                       enum record_end end);

/* settle.c: for how long the message has been tried. The time while its upstream was out of order
 * does not count. */
uint64_t queue_age_ms(const struct queue *q, const struct queue_change *c);

/* report.c: reports to senders and the digest, within the open transaction. */
/* A report about the recipients of q->fates whose flags lack `told` and who are in the state that
 * it is about; sets the flag. *out_told: false when nobody could be told, and why was logged. */
MUST_CHECK enum err queue_report(struct queue *q, struct queue_change *c, uint8_t told,
                                 bool *out_told);
/* Makes the digest out of what waits for it, when it is due, in a transaction of its own. */
MUST_CHECK enum err queue_digest(struct queue *q);
/* When a message that failed now is told of in a digest. */
uint64_t queue_digest_due_ms(const struct queue *q);

/* settle.c: what comes of jobs and intakes; edit.c: of edits; within the open transaction. Each
 * returns what the store said. */
MUST_CHECK enum err queue_apply_intake(struct queue *q, struct flow_intake *intake);
MUST_CHECK enum err queue_apply_job(struct queue *q, struct flow_job *job);
MUST_CHECK enum err queue_apply_edit(struct queue *q, struct flow_edit *edit);
/* A message as it stands when it has just come in. Its body is appended. upstream NULL: it is to be
 * found. */
MUST_CHECK enum err queue_add_message(struct queue *q, const struct msg_id *id,
                                      struct slice envelope, struct queue_upstream *upstream);
/* A message made here, with its body in memory. upstream as above. */
MUST_CHECK enum err queue_add_own(struct queue *q, const struct msg_id *id, struct slice body,
                                  uint16_t flags, struct slice sender, struct slice recipient,
                                  struct slice subject, struct queue_upstream *upstream);

/* pin.c: now and then. Tells once of a process that has read one commit for long while the file
 * grew. Nothing else is done about it: it may be a backup that needs its time. */
void queue_pin_look(struct queue *q);
/* Is it to be told now? With pin as found (NULL: nobody), at now_ms. */
MUST_CHECK bool queue_pin_step(struct queue_pin *p, const struct store_pin *pin, uint64_t now_ms);

/* upkeep.c. At the start: messages of an upstream that is configured no more are routed anew, each
 * as a whole by the first recipient that it still has, and what is due later than any retry could
 * be is due now. What found no room is left to the upkeep: q->strays. */
MUST_CHECK enum err queue_adopt_strays(struct queue *q);
/* The message goes by u from now on. What it has waited for its old upstream counts as waited. */
void queue_reroute(struct queue *q, struct record_state *state, struct queue_upstream *u);
/* Each minute: the trash, the history, the digest, what is remembered of upstreams, readers. Its
 * own transactions. */
MUST_CHECK enum err queue_upkeep(struct queue *q);
/* At the end: what was learnt since the last upkeep. */
MUST_CHECK enum err queue_remember(struct queue *q);
/* At the start: what is remembered of upstreams. */
void queue_recall(struct queue *q);

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
/* Opens a connection in a free place. False: there is none. */
bool queue_open_link(struct queue *q, struct queue_upstream *u, bool probe);

/* pool.c: connections that have nothing to do. */
void queue_pool_tend(struct queue *q);
uint64_t queue_pool_wake_ms(const struct queue *q, const struct queue_upstream *u);
/* Takes the job when it is a farewell. */
bool queue_pool_farewell_back(struct flow_job *job);
void queue_fill_status(const struct queue *q, struct flow_status *out);

struct queue_upstream *queue_upstream_of(struct queue *q, const struct flow_link *link);
/* The upstream in whose index the job's entry stands. */
struct queue_upstream *queue_job_home(struct flow_job *job);

/* route.c: which way. At the start: */
void queue_routes_init(struct queue *q);
/* The upstream with that route, NULL when none has it. */
struct queue_upstream *queue_upstream_by_route(struct queue *q, uint32_t route);
/* The upstream whose terms fit, NULL when none do. */
struct queue_upstream *queue_route_for(struct queue *q, struct slice sender,
                                       struct slice recipient);
/* For all else: of those without terms the one with the least to do. */
struct queue_upstream *queue_route_rest(struct queue *q);
/* One of the two. */
struct queue_upstream *queue_route(struct queue *q, struct slice sender, struct slice recipient);
/* The way of a report to that sender: the null sender's, and where several do for it, one that
 * takes it. */
struct queue_upstream *queue_route_report(struct queue *q, struct slice to);
bool queue_takes_reports(const struct queue *q, const struct queue_upstream *u);
/* The upstream of a message, chosen anew when its own is configured no more. envelope NULL: it
 * cannot be read. */
struct queue_upstream *queue_home(struct queue *q, const struct record_state *state,
                                  const struct record_envelope *envelope);
/* Who stands in for whom from now on; said in the log. Each round, before anything is handed out.
 */
void queue_stand_ins(struct queue *q);
/* The first in the file of a set of upstreams (carriers, peers, spares); NULL: it is empty. */
const struct queue_upstream *queue_first_of(const struct queue *q, uint32_t set);
/* Do by's connections take u's entries? Its own always. */
bool queue_carries(const struct queue *q, const struct queue_upstream *by,
                   const struct queue_upstream *u);

/* split.c: a message that becomes several. A new message, or a part of one, goes into the batch;
 * one that is to be split when its bodies are copied. */
void queue_take_intake(struct queue *q, struct flow_intake *intake);
/* Copies some more of the first in q->splits, each round; all of all of them at the end. */
void queue_split_copy(struct queue *q);
/* Adds the messages, within the open transaction; the first has its last piece already. */
MUST_CHECK enum err queue_split_add(struct queue *q, const struct flow_intake *intake);
/* All bodies of an intake, split or not, within the open transaction. */
MUST_CHECK enum err queue_split_discard(struct queue *q, const struct flow_intake *intake);
void queue_split_log(struct queue *q, const struct flow_intake *intake);
void queue_split_free(struct flow_intake *intake);

/* How long the upstream has been out of order, in all. */
uint64_t queue_outage_ms(const struct queue *q, const struct queue_upstream *u);

/* A well mixed number for jitter. */
uint64_t queue_entropy(struct queue *q);

/* A message as the sched knows it. */
struct sched_item queue_item(const struct msg_id *id, const struct record_state *state);

/* transact.c: the batch, which is committed as one and then answered. Added to, it may be committed
 * at once: it has a bound. */
void queue_batch_add(struct queue *q, struct flow_msg *msg);
void queue_batch_commit(struct queue *q);
/* Whether it may wait for company, and until when. */
bool queue_batch_rides(const struct queue *q);
uint64_t queue_batch_wake_ms(const struct queue *q);
/*
 * company.c: all but the last only count. Its result: how much longer what has come in may wait for
 * more, in us; 0: no longer. busy: deliveries are under way.
 */
void queue_company_came(struct queue_company *c, uint64_t now_us);
void queue_company_committed(struct queue_company *c);
void queue_company_slept(struct queue_company *c);
MUST_CHECK uint64_t queue_company_wait_us(struct queue_company *c, uint64_t now_us, bool busy);
/* Commits what is carried, if anything is: before any other transaction, or a look at the index. */
void queue_carry_end(struct queue *q);
/* It failed with err and is answered, or tried again later; what was appended for it goes. */
void queue_answer_failed(struct queue *q, struct flow_msg *msg, enum err err);
/* Adds the jobs that found no room before, when it is time. */
void queue_take_unsettled(struct queue *q);
/* The store can be written no more: everybody is told, main ends the process. Invariant 21. */
void queue_store_has_failed(struct queue *q, enum err err);
/* The same if that is what err says; no room, no memory and damage to a record can wait. */
void queue_note_failure(struct queue *q, enum err err);

/* A transaction of the queue thread's own, outside a batch. End: aborts when err is not ERR_OK;
 * else commits, and lets the effects and what became due count. Returns what came of it. */
MUST_CHECK enum err queue_transaction_begin(struct queue *q);
MUST_CHECK enum err queue_transaction_end(struct queue *q, enum err err);
/* The open transaction has committed. */
void queue_committed(struct queue *q);
/* At the start: q->said. */
void queue_said_init(struct queue *q);

/* Once the transaction has committed, the sched hears of item. */
void queue_due_later(struct queue *q, struct queue_upstream *upstream,
                     const struct sched_item *item);

#endif
