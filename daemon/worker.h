/*
 * A worker thread: one io loop, with the clients' and the upstreams' connections that were opened
 * on it.
 */
#ifndef TASUKI_WORKER_H
#define TASUKI_WORKER_H

#include "daemon/base/log.h"
#include "daemon/config/config.h"
#include "daemon/flow/flow.h"
#include "daemon/flow/trace.h"
#include "daemon/ingress/ingress.h"
#include "daemon/io/io.h"
#include "daemon/store/store.h"
#include "daemon/tls/tls.h"
#include "schema/metric.h"

#include <pthread.h>
#include <semaphore.h>

/* What all workers share, filled by main before worker_begin. */
struct worker_shared {
    const struct config *config;
    struct store *store;
    const struct log *log;
    struct flow_ids ids;
    struct ingress_shared ingress;
    struct mailbox *main, *queue, *resolver, *authenticator;
    struct tls_policy *policies[UPSTREAMS_MAX];
    int listen_fds[LISTENERS_MAX];
    uint32_t listen_count;
    enum io_backend backend;
    struct trace *trace; /* dialogues, for whoever watches */
};

struct worker {
    struct worker_shared *shared;
    pthread_t thread;
    sem_t done, go; /* posted by the worker after each step; by main for the next one */
    bool started, running;
    bool leaves;  /* main's word with `go`: there is no next step */
    enum err err; /* of the last step, once `done` was posted */
    struct io_about about;
    struct mailbox mailbox;
    struct metrics metrics;
    struct flow_msg stop, abort, end; /* main -> worker */
    struct flow_msg drained;          /* worker -> main */

    /* The thread's own. */
    struct io *io;
    struct io_op wake;
    struct store_reader *store_reader;
    struct flow_reader reader;
    struct ingress *ingress;
    struct delivery *delivery;
    bool stopping, told;
};

/* Starts the thread and waits until its loop and its mailbox exist. Errors: those of io_new;
 * ERR_LIMIT. */
MUST_CHECK enum err worker_prepare(struct worker *w, struct worker_shared *shared);

/* All of shared is filled in: makes what it works with. Errors: ERR_NO_MEMORY; those of
 * store_reader_new. */
MUST_CHECK enum err worker_begin(struct worker *w);

/* After worker_begin: it takes and hands on mail. Nothing can go wrong any more. */
void worker_go(struct worker *w);

/* Graceful: FLOW_DRAINED comes to main when nothing of it is left. */
void worker_stop(struct worker *w);
/* At once, after worker_stop. */
void worker_abort(struct worker *w);
/* After FLOW_DRAINED, or where worker_go was never called: ends the thread. */
void worker_join(struct worker *w);

/* Binds a store's reader to flow's functions. */
struct flow_reader worker_reader(struct store_reader *reader);

#endif
