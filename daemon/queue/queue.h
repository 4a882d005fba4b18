/*
 * The queue thread: the one that writes the store and asks sched what to do.
 *
 * It drains its mailbox into one transaction, commits once, and only then answers everything that
 * was in it: that is how one pair of flushes serves many messages, and why nobody hears 250 before
 * the commit. Then it hands out what is due.
 *
 * It alone owns the store's writing side, the sched, and the places for connections (flow_link)
 * with their jobs.
 */
#ifndef TASUKI_QUEUE_QUEUE_H
#define TASUKI_QUEUE_QUEUE_H

#include "daemon/base/log.h"
#include "daemon/config/config.h"
#include "daemon/flow/flow.h"
#include "daemon/flow/ids.h"
#include "daemon/store/store.h"
#include "schema/metric.h"

struct queue;

struct queue_config {
    const struct config *config; /* borrowed, as all below, for the life of the queue */
    struct store *store;
    const struct log *log;
    struct metrics *metrics; /* this thread's */
    struct flow_ids *ids;    /* names for what is made here */
    struct mailbox *const *workers;
    uint32_t worker_count;
    struct mailbox *main; /* told FLOW_DRAINED when the store has failed */
};

/* The mailbox exists from here on; nothing runs yet. Errors: ERR_NO_MEMORY, ERR_LIMIT. */
MUST_CHECK enum err queue_new(struct queue **out, const struct queue_config *config);
void queue_free(struct queue **queue);

struct mailbox *queue_mailbox(struct queue *queue);

/* The thread's function: runs until FLOW_STOP was taken from the mailbox, then answers what is left
 * and returns NULL. */
void *queue_run(void *queue);

/* After queue_run has ended: did the store fail? */
bool queue_store_failed(const struct queue *queue);

#endif
