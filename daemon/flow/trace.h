/*
 * Dialogues with upstreams as they happen, for whoever watches: `tasukictl trace out`.
 *
 * A ring of lines in memory, written by workers, read by control. It is written only while somebody
 * has asked within the last TRACE_WATCH_MS; else all that it costs is trace_is_watched, one load. A
 * reader that is too slow loses the oldest lines and is told how many.
 *
 * What is put here is shown: whoever puts it has masked secrets and left content out.
 */
#ifndef TASUKI_FLOW_TRACE_H
#define TASUKI_FLOW_TRACE_H

#include "daemon/base/buf.h"
#include "daemon/base/err.h"
#include "schema/msg_id.h"

#include <pthread.h>
#include <stdatomic.h>

#define TRACE_WATCH_MS       5000
#define TRACE_LINES          1024u /* a power of two */
#define TRACE_LINE_BYTES_MAX 300

struct trace_line {
    uint64_t number;     /* 1, 2, 3 ... of all lines */
    uint64_t at_ms;      /* wall clock */
    uint64_t connection; /* unique in this process */
    uint16_t upstream;   /* index in struct config */
    bool about_message;  /* id is set */
    struct msg_id id;
    uint16_t len;
    uint8_t text[TRACE_LINE_BYTES_MAX]; /* "C: ...", "S: ...", "-- ..."; a peer's bytes */
};

struct trace {
    _Atomic uint64_t watched_until_ms; /* of the monotonic clock */
    pthread_mutex_t lock;              /* of what follows */
    uint64_t count;                    /* lines put, ever */
    struct trace_line *lines;          /* owned; NULL until somebody watches */
};

void trace_init(struct trace *t);
void trace_end(struct trace *t);

/* now_ms: monotonic. */
static inline bool trace_is_watched(const struct trace *t, uint64_t now_ms)
{
    return t != NULL && atomic_load_explicit(&t->watched_until_ms, memory_order_relaxed) > now_ms;
}

/* Somebody watches, for TRACE_WATCH_MS from now_ms on. *out_last: number of the newest line there
 * is. Errors: ERR_NO_MEMORY. */
MUST_CHECK enum err trace_watch(struct trace *t, uint64_t now_ms, uint64_t *out_last);

/* Adds a line, with line->len bytes of text; number is set here. */
void trace_put(struct trace *t, const struct trace_line *line);

/*
 * Copies the oldest line behind number after. *out_lost: how many there were between, which are
 * gone. False: there is none yet.
 */
MUST_CHECK bool trace_next(struct trace *t, uint64_t after, struct trace_line *out,
                           uint64_t *out_lost);

#endif
