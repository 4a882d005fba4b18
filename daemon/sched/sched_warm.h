/*
 * Whether a connection should stand ready before a message needs it: a pure decision, as the rest
 * of daemon/sched.
 *
 * Mail flows regularly when each of the last SCHED_WARM_SPANS spans had a delivery; the span is the
 * time for which an idle connection is kept. Then a connection that has ended is opened again
 * without waiting for a message; once for each time that mail has flowed, so that a server which
 * closes what is idle is not called over and over. Without a delivery for a span it is over.
 */
#ifndef TASUKI_SCHED_SCHED_WARM_H
#define TASUKI_SCHED_SCHED_WARM_H

#include <stdbool.h>
#include <stdint.h>

#define SCHED_WARM_SPANS 3

struct sched_warm {
    uint64_t span_ms; /* 0: never */
    uint64_t span;    /* number of the last one with a delivery, counted from time 0 */
    uint32_t in_row;  /* spans with a delivery, up to that one, without a gap */
    bool used;        /* one was opened since the last delivery */
};

/* A message was delivered. */
void sched_warm_delivered(struct sched_warm *w, uint64_t now_ms);

/* May one be opened now, given that none is open? Tell sched_warm_opened when it was. */
bool sched_warm_wanted(const struct sched_warm *w, uint64_t now_ms);
void sched_warm_opened(struct sched_warm *w);

#endif
