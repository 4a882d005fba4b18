/*
 * Taking mail in: the server side of SMTP on one worker's loop.
 *
 * Runs the sans-I/O machine (proto/smtp_server) over streams, judges who may send (policy.c), and
 * hands each message to the queue thread piece by piece. A client hears 250 only when the queue
 * thread has said that the message is committed.
 */
#ifndef TASUKI_INGRESS_INGRESS_H
#define TASUKI_INGRESS_INGRESS_H

#include "daemon/base/log.h"
#include "daemon/config/config.h"
#include "daemon/flow/flow.h"
#include "daemon/flow/ids.h"
#include "daemon/io/io.h"
#include "schema/metric.h"

struct ingress;

/* Connections are counted for the process, not for a worker: by client in a table of this many
 * places, in which different clients may share one (then they share the limit, which is on the safe
 * side). */
#define INGRESS_CLIENT_PLACES 4096

struct ingress_shared {
    _Atomic uint32_t connections;
    _Atomic uint32_t by_client[INGRESS_CLIENT_PLACES];
};

struct ingress_config {
    const struct config *config; /* borrowed, as all below */
    struct io *io;
    struct mailbox *queue;
    struct mailbox *self; /* this worker's: where intakes come back to */
    struct flow_ids *ids;
    struct ingress_shared *shared;
    const struct log *log;
    struct metrics *metrics;
    size_t piece_bytes; /* of a full piece: store_piece_bytes */
    const int *listen_fds;
    uint32_t listen_count;
};

/* Nothing is accepted yet. Errors: ERR_NO_MEMORY. */
MUST_CHECK enum err ingress_new(struct ingress **out, const struct ingress_config *config);

/* Once: accepts connections from here on. */
void ingress_listen(struct ingress *in);

/* An intake that was sent to the queue thread is back. */
void ingress_intake_back(struct flow_intake *intake);

/* No new connections; each session ends with 421 at the next moment when a reply may be given. */
void ingress_shutdown(struct ingress *in);
/* Ends all sessions without another word. */
void ingress_abort(struct ingress *in);
/* True when no connection and no intake is left, after ingress_shutdown. */
bool ingress_is_empty(const struct ingress *in);
/* Only when it is empty. */
void ingress_free(struct ingress **in);

#endif
