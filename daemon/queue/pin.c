/*
 * Looks out for a process that keeps freed pages of the store from being used again (store_pin.c),
 * before the file reaches its end. A backup or a check gives way by itself; one that was stopped
 * (Ctrl-Z, a frozen container) cannot, and only somebody who knows what it is for can end it.
 */
#include "daemon/queue/queue_internal.h"

#include <inttypes.h>
#include <stdio.h>

/* So long one commit may be read: longer than a backup takes as a rule. Where the file is near its
 * end nobody waits for that. */
#define PIN_MS_MAX     (10 * 60 * 1000u)
#define NEAR_END_SHARE 4u

bool queue_pin_step(struct queue_pin *p, const struct store_pin *pin, uint64_t now_ms)
{
    if (pin == NULL) {
        *p = (struct queue_pin){0};
        return false;
    }
    if (p->pid != pin->pid || p->transaction != pin->transaction) {
        *p = (struct queue_pin){.pid = pin->pid,
                                .transaction = pin->transaction,
                                .since_ms = now_ms,
                                .file_bytes = pin->file_bytes};
        return false;
    }
    bool near_end = pin->file_bytes > pin->file_bytes_max - pin->file_bytes_max / NEAR_END_SHARE;
    bool long_enough = near_end || now_ms - p->since_ms >= PIN_MS_MAX;
    if (p->told || !long_enough || pin->file_bytes <= p->file_bytes) {
        return false;
    }
    p->told = true;
    return true;
}

static void log_pinned(const struct queue *q, const struct store_pin *pin)
{
    char text[160];
    snprintf(text, sizeof text,
             "end process %" PRIu64 ", or let it go on if it was stopped, before the queue's file "
             "is full: no message could leave it then",
             pin->pid);
    struct log_line line;
    event_begin(&line, q->with.log, EVENT_STORE_PINNED);
    log_put_u64(&line, "pid", pin->pid);
    log_put_u64(&line, "commits", pin->commits);
    log_put_u64(&line, "grown", pin->file_bytes - q->pin.file_bytes);
    log_put_u64(&line, "file", pin->file_bytes);
    log_put_u64(&line, "max", pin->file_bytes_max);
    log_put_text(&line, "text", slice_from_str(text));
    log_end(&line);
}

void queue_pin_look(struct queue *q)
{
    struct store_pin pin;
    bool pinned = store_pin_oldest(q->with.store, &pin);
    if (queue_pin_step(&q->pin, pinned ? &pin : NULL, q->now_ms)) {
        log_pinned(q, &pin);
    }
}
