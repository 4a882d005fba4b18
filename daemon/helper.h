/*
 * The two threads that may wait for the world, so that the loops need not: the resolver (names) and
 * the authenticator (logins).
 */
#ifndef TASUKI_HELPER_H
#define TASUKI_HELPER_H

#include "daemon/base/log.h"
#include "daemon/config/config.h"
#include "daemon/flow/flow.h"

#include <pthread.h>

struct helper {
    struct mailbox mailbox;
    int bell_fd;
    pthread_t thread;
    const struct config *config; /* borrowed, for the life of the thread */
    struct flow_msg stop;
    bool running;
};

/* Answers FLOW_LOOKUP. */
MUST_CHECK enum err resolver_start(struct helper *h, const struct config *config);

/* Answers FLOW_AUTH. */
MUST_CHECK enum err authenticator_start(struct helper *h, const struct config *config);

/* What both begin with: run is the thread's function, its argument is h. */
MUST_CHECK enum err helper_run(struct helper *h, const struct config *config, void *(*run)(void *));

/* Both: ends the thread, after what it is at, and waits for it. No effect on one that never ran. */
void helper_stop(struct helper *h);

#endif
