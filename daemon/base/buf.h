/*
 * A bounded writer over memory that somebody else owns.
 *
 * A put that does not fit writes nothing and sets overflow, which stays set until the next reset;
 * while it is set no put writes. So what is there is always the beginning of what was put, and one
 * can write many things and ask once. buf never allocates and never grows.
 */
#ifndef TASUKI_BASE_BUF_H
#define TASUKI_BASE_BUF_H

#include "daemon/base/check.h"
#include "daemon/base/slice.h"

struct buf {
    uint8_t *data; /* borrowed, cap bytes */
    size_t len;
    size_t cap;
    bool overflow; /* a put did not fit since the last reset */
};

static inline void buf_init(struct buf *b, void *memory, size_t cap)
{
    *b = (struct buf){.data = memory, .cap = cap};
}

static inline void buf_reset(struct buf *b)
{
    b->len = 0;
    b->overflow = false;
}

static inline struct slice buf_slice(const struct buf *b)
{
    return slice_of(b->data, b->len);
}

static inline size_t buf_room(const struct buf *b)
{
    return b->cap - b->len;
}

static inline void buf_put(struct buf *b, struct slice s)
{
    if (b->overflow || s.len > buf_room(b)) {
        b->overflow = true;
        return;
    }
    if (s.len > 0) {
        memcpy(b->data + b->len, s.data, s.len);
        b->len += s.len;
    }
}

static inline void buf_put_byte(struct buf *b, uint8_t byte)
{
    buf_put(b, slice_of(&byte, 1));
}

static inline void buf_put_str(struct buf *b, const char *text)
{
    buf_put(b, slice_from_str(text));
}

/* Drops the first count bytes, count <= len, and moves the rest to the front. */
void buf_consume(struct buf *b, size_t count);

/* Decimal, without padding. */
void buf_put_u64(struct buf *b, uint64_t value);
void buf_put_i64(struct buf *b, int64_t value);

/* printf for our own literals; numbers and strings of ours only, never a peer's bytes. */
void buf_printf(struct buf *b, const char *format, ...) PRINTF_LIKE(2, 3);

#endif
