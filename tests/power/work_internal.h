/*
 * What the parts of the work share: work.c (transactions and versions), work_intake.c,
 * work_outcome.c and work_operator.c (operations), work_record.c (records), legacy.c (a queue of
 * version 1).
 */
#ifndef TASUKI_TESTS_POWER_WORK_INTERNAL_H
#define TASUKI_TESTS_POWER_WORK_INTERNAL_H

#include "tests/power/work.h"

#define WORK_OPEN_MAX 4
/* Above so many messages nothing is taken any more. */
#define WORK_MESSAGES_MAX 28

struct work_open {
    struct model_intake intake; /* what has been handed over */
    struct slice whole;
};

/* What a transaction may change, and what an abort brings back. */
struct work_draft {
    struct model_queue queue;
    struct work_open open[WORK_OPEN_MAX];
    size_t open_count;
};

struct work {
    struct store *store;
    struct model *model;
    const char *root;
    struct work_draft draft;
    uint64_t random;
    uint64_t now_ms; /* wall clock, and the queue's: they go alike here */
    uint64_t id_next;
    size_t messages_max;
    bool changed; /* the transaction at hand changes more than the clock */
};

typedef bool work_operation_fn(struct work *w);

#define WORK_OPERATIONS(X)                                                                         \
    X(accept, 12)                                                                                  \
    X(body_begin, 4)                                                                               \
    X(body_more, 4)                                                                                \
    X(body_finish, 3)                                                                              \
    X(body_discard, 1)                                                                             \
    X(deliver_some, 4)                                                                             \
    X(deliver_all, 5)                                                                              \
    X(defer, 6)                                                                                    \
    X(in_doubt, 1)                                                                                 \
    X(fail_report, 3)                                                                              \
    X(fail_digest, 2)                                                                              \
    X(fail_quiet, 1)                                                                               \
    X(warn, 1)                                                                                     \
    X(digest, 1)                                                                                   \
    X(hold, 2)                                                                                     \
    X(release, 2)                                                                                  \
    X(retry, 1)                                                                                    \
    X(trash, 2)                                                                                    \
    X(undelete, 1)                                                                                 \
    X(purge, 2)                                                                                    \
    X(expire, 1)                                                                                   \
    X(learn, 2)                                                                                    \
    X(note, 1)                                                                                     \
    X(tick, 3)

#define X(name, weight) bool work_##name(struct work *w);
WORK_OPERATIONS(X)
#undef X

uint64_t work_pick(struct work *w, uint64_t below);
void work_must(enum err err, const char *what);
struct slice work_text(const char *format, ...) PRINTF_LIKE(1, 2);
struct slice work_body(struct work *w, size_t bytes);
struct msg_id work_id(struct work *w);

/*
 * ---- messages ----
 */

/* A message as a client would give it; not in the queue yet. */
struct model_message *work_message_new(struct work *w, const struct msg_id *id, struct slice body,
                                       uint32_t pieces);
/* Encodes it, hands it to the store, puts it into the draft. */
void work_message_add(struct work *w, struct model_message *m);
/* Hands over a whole body in pieces; how many. */
uint32_t work_body_append(struct work *w, const struct msg_id *id, struct slice body);

/* A message in that state, from a random place on; the count when there is none. */
size_t work_find(struct work *w, enum message_state state);
/* To be changed, and then put back by one of the next two. */
struct model_message *work_copy(struct work *w, size_t index);
/* State, and trail when it has grown. */
void work_update(struct work *w, size_t index, struct model_message *m);
void work_remove(struct work *w, size_t index, struct model_message *m, enum record_end end);

/* One more move in its trail, with a line of dialogue when it is an attempt's. */
void work_move(struct work *w, struct model_message *m, enum record_cause cause,
               enum lifecycle from, enum lifecycle to, uint32_t recipient);
/* A message to a sender, in the transaction at hand. */
void work_report_add(struct work *w, const struct model_message *about, uint16_t flag);

/* A transaction ends here and another one begins, for the lies that need one. */
void work_split(struct work *w);

/*
 * ---- records ----
 */
void work_envelope_encode(struct model_message *m);
void work_state_encode(struct model_message *m);
void work_trail_encode(struct model_message *m, uint32_t moves_before, struct slice dialogue);
struct slice work_history_encode(const struct model_past *past);
struct slice work_upstream_encode(const struct record_upstream *upstream);

/*
 * ---- the whole queue ----
 */
bool work_accept_bytes(struct work *w, size_t bytes);
void work_transaction_begin(struct work *w);
void work_transaction_commit(struct work *w);
/* Mail until queue-max, then the longest outcomes for all of it, then all of it leaves. */
void work_fill(struct work *w);

/* Writes a queue of version 1 into ROOT/q, whole and synced; the draft says what is in it. */
void work_legacy_make(struct work *w);

#endif
