/*
 * Fixed-width big-endian fields, checked narrowing, and decimal numbers in text.
 */
#ifndef TASUKI_BASE_NUM_H
#define TASUKI_BASE_NUM_H

#include "daemon/base/check.h"
#include "daemon/base/slice.h"

static inline void be16_put(uint8_t *to, uint16_t value)
{
    to[0] = (uint8_t)(value >> 8);
    to[1] = (uint8_t)value;
}

static inline void be32_put(uint8_t *to, uint32_t value)
{
    be16_put(to, (uint16_t)(value >> 16));
    be16_put(to + 2, (uint16_t)value);
}

static inline void be64_put(uint8_t *to, uint64_t value)
{
    be32_put(to, (uint32_t)(value >> 32));
    be32_put(to + 4, (uint32_t)value);
}

static inline uint16_t be16_get(const uint8_t *from)
{
    return (uint16_t)((uint16_t)(from[0] << 8) | from[1]);
}

static inline uint32_t be32_get(const uint8_t *from)
{
    return (uint32_t)be16_get(from) << 16 | be16_get(from + 2);
}

static inline uint64_t be64_get(const uint8_t *from)
{
    return (uint64_t)be32_get(from) << 32 | be32_get(from + 4);
}

/* Narrowing of a value that the program has already bounded: a larger one is the programmer's
 * error. */
static inline uint32_t u32_from(uint64_t value)
{
    CHECK(value <= UINT32_MAX);
    return (uint32_t)value;
}

static inline uint16_t u16_from(uint64_t value)
{
    CHECK(value <= UINT16_MAX);
    return (uint16_t)value;
}

static inline uint64_t u64_min(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static inline uint64_t u64_max(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static inline size_t size_min(size_t a, size_t b)
{
    return a < b ? a : b;
}

/*
 * All of text as an unsigned decimal number, 1..20 digits, nothing else.
 * Returns false, and leaves *out_value alone, on anything else or on overflow.
 */
MUST_CHECK bool u64_parse(struct slice text, uint64_t *out_value);

#endif
