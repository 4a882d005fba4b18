/*
 * One question to the daemon over its control socket: a connection of its own, one request, one
 * answer, within a time. Never blocks: the caller polls the descriptor.
 *
 * What arrives is judged. Silence, an early end, too much, and whatever is no answer to our request
 * become a trouble, which is what a person or a program is told.
 */
#ifndef TASUKI_WEB_ASK_H
#define TASUKI_WEB_ASK_H

#include "daemon/base/buf.h"
#include "schema/wire.h"

#include <jansson.h>

#define ASK_MS_MAX    2000u
#define ASK_BYTES_MAX (8u << 20) /* a page of 1,000 rows of ordinary mail has under 1 MiB */

/* A "no" in the API's words. */
struct trouble {
    uint16_t status; /* of HTTP */
    char code[32];
    char message[900];
    char hint[400];
};

enum ask_state {
    ASK_STATE_NONE,      /* no connection */
    ASK_STATE_SENDING,   /* connected; the request is not wholly sent */
    ASK_STATE_RECEIVING, /* the request is sent */
};

struct ask {
    enum ask_state state;
    int fd;
    uint64_t deadline_ms;
    char *out; /* owned: the request's line */
    size_t out_len, out_at;
    char *in; /* owned: what has arrived */
    size_t in_len, in_cap;
};

enum ask_step { ASK_STEP_WAIT, ASK_STEP_ANSWERED, ASK_STEP_FAILED };

void trouble_set(struct trouble *t, uint16_t status, const char *code, const char *message,
                 const char *hint);

/* Connects. args is borrowed. False: trouble says why, and a is as before. */
MUST_CHECK bool ask_begin(struct ask *a, const char *socket_path, enum command command,
                          json_t *args, uint64_t now_ms, struct trouble *trouble);

/* POLLIN or POLLOUT, whichever it waits for. */
short ask_events(const struct ask *a);

/*
 * Goes on as far as it can. ANSWERED: *out_result is a new reference to the result. Anything but
 * WAIT has closed the connection.
 */
MUST_CHECK enum ask_step ask_go(struct ask *a, uint64_t now_ms, json_t **out_result,
                                struct trouble *trouble);

/* Closes and frees; also when there is nothing. */
void ask_end(struct ask *a);

#endif
