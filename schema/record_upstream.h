/*
 * What is remembered of an upstream across restarts: how long it has been out of order, which
 * pipelining works with it, what was used of its rates. One record an upstream name. Layout:
 * schema/RECORD.md.
 */
#ifndef TASUKI_SCHEMA_RECORD_UPSTREAM_H
#define TASUKI_SCHEMA_RECORD_UPSTREAM_H

#include "schema/record.h"

#define RECORD_BUCKETS_MAX               8
#define RECORD_PIPELINE_REASON_BYTES_MAX 128

/* What was sent within one span. Not what a limit left: it may be another one after a restart. */
struct record_bucket {
    uint8_t kind;     /* 0 messages, 1 recipients */
    uint64_t span_ms; /* a minute, an hour, a day */
    uint64_t used;    /* within the span that ended at at_q */
    uint64_t at_q;    /* the queue's clock */
};

struct record_upstream {
    uint64_t outage_ms;      /* in all, while it was marked and nobody stood in for it */
    uint64_t null_refused_q; /* until then it is taken to refuse the null sender; 0: it is not */
    uint8_t
        pipeline_max; /* 0: nothing learnt; else 1 off, 2 safe, 3 stream is the most that works */
    uint64_t pipeline_q;          /* when that was learnt */
    struct slice pipeline_reason; /* in words, at most RECORD_PIPELINE_REASON_BYTES_MAX */
    uint32_t bucket_count;
    struct record_bucket buckets[RECORD_BUCKETS_MAX];
};

void record_upstream_put(struct buf *to, const struct record_upstream *upstream);
/* Errors: ERR_DAMAGED, ERR_VERSION. On error *out is untouched. */
MUST_CHECK enum err record_upstream_get(struct slice bytes, struct record_upstream *out);

#define RECORD_UPSTREAM_BYTES_MAX                                                                  \
    (2 + 8 + 8 + 1 + 8 + 2 + RECORD_PIPELINE_REASON_BYTES_MAX + 1 + RECORD_BUCKETS_MAX * 25 + 4)

#endif
