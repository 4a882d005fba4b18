/*
 * Counters, one set a thread: a thread adds to its own without a lock or a locked instruction,
 * anybody may read.
 */
#ifndef TASUKI_SCHEMA_METRIC_H
#define TASUKI_SCHEMA_METRIC_H

#include "daemon/base/buf.h"

#include <stdatomic.h>

enum metric {
#define X(name, text, type, help) METRIC_##name,
#include "schema/metric.def"
#undef X
    METRIC_COUNT
};

struct metrics {
    _Atomic uint64_t values[METRIC_COUNT];
};

/* By the owning thread only; for gauges by may be negative, as two's complement. */
static inline void metric_add(struct metrics *m, enum metric metric, uint64_t by)
{
    uint64_t now = atomic_load_explicit(&m->values[metric], memory_order_relaxed);
    atomic_store_explicit(&m->values[metric], now + by, memory_order_relaxed);
}

static inline uint64_t metric_get(const struct metrics *m, enum metric metric)
{
    return atomic_load_explicit(&m->values[metric], memory_order_relaxed);
}

/* All of them, summed over the sets given, in Prometheus' text format 0.0.4. */
void metrics_put(struct buf *to, const struct metrics *const *sets, size_t set_count);

#endif
