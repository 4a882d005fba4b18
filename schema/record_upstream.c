/* Encoding and decoding of what is remembered of an upstream. */
#include "schema/record_upstream.h"

#include "daemon/base/num.h"
#include "schema/record_parts.h"

#define KIND_UPSTREAM 'U'
#define FIXED_BYTES   27 /* head included */
#define BUCKET_BYTES  25
#define PIPELINE_MAX  3
#define BUCKET_KINDS  2

/* Added to a kind on disk. Below it a bucket says what was left of a limit that is not known any
 * more: nothing can be made of that. */
#define BUCKET_KIND_USED 2

void record_upstream_put(struct buf *to, const struct record_upstream *upstream)
{
    const struct record_upstream *u = upstream;
    CHECK(u->pipeline_max <= PIPELINE_MAX && u->bucket_count <= RECORD_BUCKETS_MAX);
    struct slice reason = slice_head(u->pipeline_reason, RECORD_PIPELINE_REASON_BYTES_MAX);
    size_t bytes = FIXED_BYTES + RECORD_LENGTH_BYTES + reason.len + 1 +
                   (size_t)u->bucket_count * BUCKET_BYTES + RECORD_CHECKSUM_BYTES;
    if (!record_has_room(to, bytes)) {
        return;
    }
    size_t start = to->len;
    uint8_t fixed[FIXED_BYTES] = {RECORD_VERSION, KIND_UPSTREAM};
    be64_put(fixed + 2, u->outage_ms);
    be64_put(fixed + 10, u->null_refused_q);
    fixed[18] = u->pipeline_max;
    be64_put(fixed + 19, u->pipeline_q);
    buf_put(to, slice_of(fixed, sizeof fixed));
    record_text_put(to, reason);
    uint8_t count = (uint8_t)u->bucket_count;
    buf_put(to, slice_of(&count, 1));
    for (uint32_t index = 0; index < u->bucket_count; index++) {
        const struct record_bucket *b = &u->buckets[index];
        CHECK(b->kind < BUCKET_KINDS);
        uint8_t bucket[BUCKET_BYTES] = {(uint8_t)(BUCKET_KIND_USED + b->kind)};
        be64_put(bucket + 1, b->span_ms);
        be64_put(bucket + 9, b->used);
        be64_put(bucket + 17, b->at_q);
        buf_put(to, slice_of(bucket, sizeof bucket));
    }
    record_checksum_put(to, start);
}

enum err record_upstream_get(struct slice bytes, struct record_upstream *out)
{
    struct slice content;
    enum err err = record_content_get(bytes, RECORD_VERSION, KIND_UPSTREAM, FIXED_BYTES, &content);
    if (err != ERR_OK) {
        return err;
    }
    struct record_upstream u = {
        .outage_ms = be64_get(content.data + 2),
        .null_refused_q = be64_get(content.data + 10),
        .pipeline_max = content.data[18],
        .pipeline_q = be64_get(content.data + 19),
    };
    struct slice rest = slice_tail(content, FIXED_BYTES);
    if (u.pipeline_max > PIPELINE_MAX ||
        !record_text_take(&rest, 0, RECORD_PIPELINE_REASON_BYTES_MAX, &u.pipeline_reason) ||
        rest.len < 1 || rest.data[0] > RECORD_BUCKETS_MAX ||
        rest.len != 1 + (size_t)rest.data[0] * BUCKET_BYTES) {
        return ERR_DAMAGED;
    }
    for (size_t index = 0; index < rest.data[0]; index++) {
        const uint8_t *bucket = rest.data + 1 + index * BUCKET_BYTES;
        if (bucket[0] >= BUCKET_KIND_USED + BUCKET_KINDS) {
            return ERR_DAMAGED;
        }
        if (bucket[0] >= BUCKET_KIND_USED) {
            u.buckets[u.bucket_count++] = (struct record_bucket){
                .kind = (uint8_t)(bucket[0] - BUCKET_KIND_USED),
                .span_ms = be64_get(bucket + 1),
                .used = be64_get(bucket + 9),
                .at_q = be64_get(bucket + 17),
            };
        }
    }
    *out = u;
    return ERR_OK;
}
