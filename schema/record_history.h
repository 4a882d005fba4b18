/*
 * What has happened to a message: moves and dialogue (the trail, kept beside the state while it is
 * queued) and the whole of it when it has left (the history). Layout: schema/RECORD.md.
 *
 * A trail is bounded: RECORD_TRAIL_MOVES_MAX moves, of which the first ones and the latest stay and
 * those in between are counted; RECORD_DIALOGUE_BYTES_MAX bytes of dialogue, of which the latest
 * stay.
 */
#ifndef TASUKI_SCHEMA_RECORD_HISTORY_H
#define TASUKI_SCHEMA_RECORD_HISTORY_H

#include "schema/playbook.h"
#include "schema/record.h"

/* Why a copy moved. Order is the order on disk. */
enum record_cause {
    RECORD_CAUSE_ATTEMPT,  /* a try at an upstream ended so */
    RECORD_CAUSE_GIVE_UP,  /* give-up has passed */
    RECORD_CAUSE_OPERATOR, /* somebody's command; uid says whose */
    RECORD_CAUSE_REPORTED, /* the sender was told, or the digest told root-mail */
    RECORD_CAUSE_DAMAGE,   /* it could not be read */
    RECORD_CAUSE_AGE,      /* its time in the trash was over, or room was short */
    RECORD_CAUSE_COUNT
};

/* "attempt", "give-up", "operator", "reported", "damage", "age". */
const char *record_cause_word(enum record_cause cause);

#define RECORD_PEER_BYTES_MAX      64
#define RECORD_TLS_BYTES_MAX       64
#define RECORD_MOVE_TEXT_BYTES_MAX 256

struct record_move {
    uint64_t when_ms; /* wall clock */
    enum record_cause cause;
    enum lifecycle from, to;
    enum outcome outcome; /* NONE where there was no attempt */
    uint16_t code;        /* 0: none */
    uint16_t enhanced[3]; /* zeros: none */
    uint32_t first;       /* recipient, in the envelope's order */
    uint32_t count;      /* how many recipients moved alike in this; the first of them is `first` */
    uint64_t connection; /* number of the connection since the daemon began; 0: none */
    uint32_t duration_ms;  /* of the attempt */
    uint32_t uid;          /* OPERATOR */
    struct slice upstream; /* name, or empty */
    struct slice peer;     /* "192.0.2.1:587", or empty */
    struct slice tls;      /* "TLSv1.3 TLS_AES_256_GCM_SHA384", or empty */
    struct slice text;     /* the upstream's words, untrusted; or the operator's reason */
};

#define RECORD_MOVE_COUNT_OFFSET 24 /* of `count`, be32, in an encoded move */

/* Moves in a row. Texts that are too long are cut. */
void record_move_put(struct buf *list, const struct record_move *move);
MUST_CHECK bool record_move_next(struct slice *list, struct record_move *out);

#define RECORD_TRAIL_MOVES_MAX    24
#define RECORD_TRAIL_MOVES_FIRST  4
#define RECORD_DIALOGUE_BYTES_MAX 4096
#define RECORD_MOVE_BYTES_MAX                                                                      \
    (56 + UPSTREAM_NAME_BYTES_MAX + RECORD_PEER_BYTES_MAX + RECORD_TLS_BYTES_MAX +                 \
     RECORD_MOVE_TEXT_BYTES_MAX + 8)
#define RECORD_TRAIL_BYTES_MAX                                                                     \
    (16 + RECORD_TRAIL_MOVES_MAX * RECORD_MOVE_BYTES_MAX + 4 + RECORD_DIALOGUE_BYTES_MAX + 4)

struct record_trail {
    uint32_t move_count;     /* in moves */
    uint32_t moves_left_out; /* after the first RECORD_TRAIL_MOVES_FIRST of them */
    struct slice moves;      /* encoded: read with record_move_next */
    struct slice dialogue;   /* lines "C: ...\n", "S: ...\n", "-- ...\n"; secrets masked */
};

/*
 * Writes the trail that follows from `before` (NULL: there was none) by count more encoded moves
 * and more dialogue, within the bounds. The new dialogue is kept rather than the old.
 */
void record_trail_put(struct buf *to, const struct record_trail *before, struct slice moves,
                      uint32_t count, struct slice dialogue);
/* Errors: ERR_DAMAGED, ERR_VERSION. */
MUST_CHECK enum err record_trail_get(struct slice bytes, struct record_trail *out);

/* How a message left the queue. Order is the order on disk. */
enum record_end {
    RECORD_END_DELIVERED, /* every recipient has it */
    RECORD_END_REPORTED,  /* at least one failed; the sender, or root-mail, was told */
    RECORD_END_DELETED,   /* by an operator */
    RECORD_END_DISCARDED, /* failed, and it was not wanted that anybody be told (NOTIFY=NEVER) */
    RECORD_END_COUNT
};

/* "delivered", "reported", "deleted", "discarded". */
const char *record_end_word(enum record_end end);

struct record_history {
    uint64_t left_ms; /* wall clock */
    uint64_t left_q;  /* the queue's clock: keep-history counts from here */
    enum record_end end;
    struct slice envelope, state, trail; /* encoded records; trail may be empty */
};

void record_history_put(struct buf *to, const struct record_history *history);
/* Errors: ERR_DAMAGED, ERR_VERSION. The records inside are judged by their own get. */
MUST_CHECK enum err record_history_get(struct slice bytes, struct record_history *out);

/* When the message left, of a record that is judged no further: for a walk over many. False: it is
 * too short to say. */
MUST_CHECK bool record_history_left_q(struct slice bytes, uint64_t *out_left_q);

#define RECORD_HISTORY_HEAD_BYTES (2 + 8 + 8 + 1 + 3 * 4 + 4)

/* One message as whoever shows or filters it has it before them: in the queue or in the history. */
struct record_message {
    struct msg_id id;
    struct record_envelope envelope;
    struct record_state state;
    bool leased;                          /* it is with a connection right now */
    enum playbook_provider provider;      /* of state.upstream: whose words its replies are */
    bool upstream_stuck;                  /* it is marked, and no other carries its mail */
    const struct record_history *history; /* borrowed; NULL: it is in the queue */
    const struct record_trail *trail;     /* borrowed; NULL: it has none, or it was not read */
};

/* A history record and what is in it, decoded. Errors: ERR_DAMAGED, ERR_VERSION. */
MUST_CHECK enum err record_message_of_history(struct slice bytes, const struct msg_id *id,
                                              struct record_message *out,
                                              struct record_history *history,
                                              struct record_trail *trail);

#endif
