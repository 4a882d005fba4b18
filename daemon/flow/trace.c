#include "daemon/flow/trace.h"

#include <stdlib.h>

_Static_assert((TRACE_LINES & (TRACE_LINES - 1)) == 0, "a place is a number's low bits");

void trace_init(struct trace *t)
{
    *t = (struct trace){.count = 0};
    atomic_init(&t->watched_until_ms, 0);
    pthread_mutex_init(&t->lock, NULL);
}

void trace_end(struct trace *t)
{
    free(t->lines);
    t->lines = NULL;
    pthread_mutex_destroy(&t->lock);
}

enum err trace_watch(struct trace *t, uint64_t now_ms, uint64_t *out_last)
{
    pthread_mutex_lock(&t->lock);
    if (t->lines == NULL) {
        t->lines = calloc(TRACE_LINES, sizeof t->lines[0]);
    }
    enum err err = t->lines == NULL ? ERR_NO_MEMORY : ERR_OK;
    *out_last = t->count;
    pthread_mutex_unlock(&t->lock);
    if (err == ERR_OK) {
        atomic_store_explicit(&t->watched_until_ms, now_ms + TRACE_WATCH_MS, memory_order_relaxed);
    }
    return err;
}

void trace_put(struct trace *t, const struct trace_line *line)
{
    CHECK(line->len <= TRACE_LINE_BYTES_MAX);
    pthread_mutex_lock(&t->lock);
    if (t->lines != NULL) {
        struct trace_line *to = &t->lines[t->count % TRACE_LINES];
        *to = *line;
        to->number = ++t->count;
    }
    pthread_mutex_unlock(&t->lock);
}

bool trace_next(struct trace *t, uint64_t after, struct trace_line *out, uint64_t *out_lost)
{
    *out_lost = 0;
    pthread_mutex_lock(&t->lock);
    bool found = t->lines != NULL && after < t->count;
    if (found) {
        uint64_t oldest = t->count > TRACE_LINES ? t->count - TRACE_LINES + 1 : 1;
        uint64_t number = after + 1 < oldest ? oldest : after + 1;
        *out_lost = number - (after + 1);
        *out = t->lines[(number - 1) % TRACE_LINES];
    }
    pthread_mutex_unlock(&t->lock);
    return found;
}
