#include "daemon/base/buf.h"

#include <stdarg.h>
#include <stdio.h>

void buf_consume(struct buf *b, size_t count)
{
    CHECK(count <= b->len);
    b->len -= count;
    if (b->len > 0 && count > 0) {
        memmove(b->data, b->data + count, b->len);
    }
}

void buf_put_u64(struct buf *b, uint64_t value)
{
    uint8_t digits[20];
    size_t at = sizeof digits;
    do {
        digits[--at] = (uint8_t)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    buf_put(b, slice_of(digits + at, sizeof digits - at));
}

void buf_put_i64(struct buf *b, int64_t value)
{
    if (value < 0) {
        buf_put_byte(b, '-');
        buf_put_u64(b, (uint64_t)0 - (uint64_t)value);
    } else {
        buf_put_u64(b, (uint64_t)value);
    }
}

void buf_printf(struct buf *b, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    int len = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    CHECK(len >= 0);
    if ((size_t)len >= sizeof text) {
        b->overflow = true;
        return;
    }
    buf_put(b, slice_of(text, (size_t)len));
}
