/*
 * Handing mail on: the connections to upstreams that live on one worker's loop.
 *
 * The queue thread says which connection to open and which message goes over which; this module
 * looks names up, connects, does TLS and the login, runs the sans-I/O machine (proto/smtp_client),
 * reads bodies from the store, and says what came of each recipient in rows of outcome.def. It
 * decides nothing about when to try again.
 */
#ifndef TASUKI_DELIVERY_DELIVERY_H
#define TASUKI_DELIVERY_DELIVERY_H

#include "daemon/base/log.h"
#include "daemon/config/config.h"
#include "daemon/flow/flow.h"
#include "daemon/flow/trace.h"
#include "daemon/io/io.h"
#include "daemon/tls/tls.h"
#include "schema/metric.h"

struct delivery;

struct delivery_config {
    const struct config *config; /* borrowed, as all below */
    struct io *io;
    struct mailbox *queue, *resolver, *authenticator;
    struct mailbox *self;               /* this worker's */
    struct tls_policy *const *policies; /* one an upstream, NULL where tls = off */
    const struct flow_reader *reader;   /* this worker's */
    const struct log *log;
    struct metrics *metrics;
    struct trace *trace; /* where dialogues are shown; may be NULL */
};

MUST_CHECK enum err delivery_new(struct delivery **out, const struct delivery_config *config);

/* What comes out of the worker's mailbox, by kind. */
void delivery_link_open(struct delivery *d, struct flow_link *link);
/* One without a message (its id is all zero) asks the connection to end in peace after what it has
 * in hand; it comes back untried, like any that comes too late. */
void delivery_job(struct delivery *d, struct flow_job *job);
void delivery_probe(struct delivery *d, struct flow_probe *probe);
void delivery_lookup_back(struct flow_lookup *lookup);
void delivery_auth_back(struct flow_auth *auth);

/* No new work; each connection ends after the message it has begun. */
void delivery_shutdown(struct delivery *d);
/* Ends all connections at once; messages under way come back untried, or in doubt. */
void delivery_abort(struct delivery *d);
bool delivery_is_empty(const struct delivery *d);
void delivery_free(struct delivery **d);

#endif
