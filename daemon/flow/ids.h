/*
 * Message ids for all threads: strictly growing, also when the wall clock steps back or many fall
 * into one millisecond.
 */
#ifndef TASUKI_FLOW_IDS_H
#define TASUKI_FLOW_IDS_H

#include "schema/msg_id.h"

#include <stdatomic.h>

struct flow_ids {
    _Atomic uint64_t
        last; /* milliseconds << 16 | sequence; starts at the newest id that the store knows */
    uint16_t box;
};

/* wall_ms: the wall clock's milliseconds. */
static inline struct msg_id flow_ids_next(struct flow_ids *ids, uint64_t wall_ms)
{
    uint64_t last = atomic_load_explicit(&ids->last, memory_order_relaxed);
    uint64_t next;
    do {
        next = wall_ms << 16 > last ? wall_ms << 16 : last + 1;
    } while (!atomic_compare_exchange_weak_explicit(&ids->last, &last, next, memory_order_relaxed,
                                                    memory_order_relaxed));
    return msg_id_make(next, ids->box);
}

#endif
