/*
 * The control socket: one JSON object a line each way (schema/README.md), for tasukictl and
 * tasuki-web.
 *
 * Runs on the main thread's loop. What changes the queue goes to the queue thread as a message and
 * is answered after its commit; what only looks reads the store in short transactions. A connection
 * has one request under way; garbage closes that connection and nothing else.
 */
#ifndef TASUKI_CONTROL_CONTROL_H
#define TASUKI_CONTROL_CONTROL_H

#include "daemon/base/log.h"
#include "daemon/config/config.h"
#include "daemon/flow/flow.h"
#include "daemon/flow/trace.h"
#include "daemon/io/io.h"
#include "schema/metric.h"

struct control;

struct control_problem {
    char words[256]; /* for the admin; "": none */
};

struct control_config {
    const struct config *config; /* borrowed, as all below */
    struct io *io;
    struct mailbox *self, *queue;
    struct mailbox *worker; /* the one that `test` runs on */
    const struct flow_reader *reader;
    flow_rows_fn *rows;
    flow_history_rows_fn *history_rows;
    flow_counts_fn *counts;
    const struct log *log;
    const struct metrics *const *metrics;
    size_t metrics_count;
    const struct io_about *about;              /* of the workers' loops */
    uint64_t started_ms;                       /* wall clock */
    struct trace *trace;                       /* dialogues with upstreams */
    const struct control_problem *authorities; /* an upstream: with the file of its authorities */
};

/*
 * Listens on RUN/ctl.sock (mode 0660). A stale socket of a daemon that is gone is replaced;
 * anything else in its place is refused. problem: 256 bytes, words for the admin on failure.
 */
MUST_CHECK enum err control_new(struct control **out, const struct control_config *config,
                                char *problem);

/* An answer to one of our messages (edit, inspect, probe) is in the main thread's mailbox. */
void control_message_back(struct control *c, struct flow_msg *msg);

/* Closes everything; when control_is_empty, the rest may be freed. */
void control_shutdown(struct control *c);
bool control_is_empty(const struct control *c);
void control_free(struct control **c);

#endif
