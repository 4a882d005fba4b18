/*
 * See sched_warm.h.
 */
#include "daemon/sched/sched_warm.h"

void sched_warm_delivered(struct sched_warm *w, uint64_t now_ms)
{
    if (w->span_ms == 0) {
        return;
    }
    uint64_t span = now_ms / w->span_ms;
    if (w->in_row == 0 || span > w->span + 1) {
        w->in_row = 1;
    } else if (span == w->span + 1 && w->in_row < SCHED_WARM_SPANS) {
        w->in_row++;
    }
    w->span = span;
    w->used = false;
}

bool sched_warm_wanted(const struct sched_warm *w, uint64_t now_ms)
{
    return w->in_row == SCHED_WARM_SPANS && !w->used && now_ms / w->span_ms <= w->span + 1;
}

void sched_warm_opened(struct sched_warm *w)
{
    w->used = true;
}
