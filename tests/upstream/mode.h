/*
 * How the demo upstream behaves: a row for each way to misbehave, changed while it runs.
 */
#ifndef TASUKI_UPSTREAM_MODE_H
#define TASUKI_UPSTREAM_MODE_H

#include "daemon/base/buf.h"

#include <stdatomic.h>

#define MODE_DELAY_MS_MAX 3600000u

/* Where in the dialogue a mode acts: bits. */
#define MODE_AT_GREETING 1u
#define MODE_AT_LOGIN    2u
#define MODE_AT_SENDER   4u
#define MODE_AT_RCPT     8u
#define MODE_AT_DATA     16u
#define MODE_AT_DOT      32u

enum mode_action {
    MODE_SERVE,  /* as a good upstream would */
    MODE_REFUSE, /* with code, enhanced and text */
    MODE_CUT,    /* the connection, without an answer */
    MODE_TAKE,   /* the message counts, but its answer is never given: the connection is cut */
    MODE_STALL,  /* nothing is read and nothing is answered */
    MODE_DELAY,  /* every answer comes delay_ms late */
};

struct mode_row {
    const char *words; /* as it is typed */
    enum mode_action action;
    unsigned at;
    uint16_t code;
    const char *enhanced;
    const char *text;
    bool hangs_up;     /* sessions that are open end with 421, since it acts at their beginning */
    const char *about; /* for --help */
};

/* The mode in force, read by every loop. */
struct mode_box {
    atomic_uint_fast64_t value; /* the row's index, and above it the delay */
};

const struct mode_row *mode_row(struct mode_box *box);
uint32_t mode_delay_ms(struct mode_box *box);

/* Returns false, and leaves the box alone, when words name no mode. */
MUST_CHECK bool mode_set(struct mode_box *box, struct slice words);

/* The mode that words may have meant, or NULL. */
const struct mode_row *mode_nearest(struct slice words);

/* As mode_set takes it. */
void mode_put(struct mode_box *box, struct buf *to);

/* Row by row; NULL behind the last. */
const struct mode_row *mode_at(size_t index);

/* Does the mode do this, here? */
static inline bool mode_does(const struct mode_row *row, enum mode_action action, unsigned at)
{
    return row->action == action && (row->at & at) != 0;
}

#endif
