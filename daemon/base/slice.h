/*
 * A borrowed run of bytes that a peer, a file or the disk gave us.
 *
 * A slice never owns and never ends in NUL. It is valid as long as the bytes it points at; whoever
 * hands one out says until when.
 */
#ifndef TASUKI_BASE_SLICE_H
#define TASUKI_BASE_SLICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct slice {
    const uint8_t *data; /* borrowed; may be NULL when len is 0 */
    size_t len;
};

/* A string literal as a slice, without its NUL. */
#define SLICE(literal) ((struct slice){(const uint8_t *)("" literal), sizeof(literal) - 1})

static inline struct slice slice_of(const void *data, size_t len)
{
    return (struct slice){(const uint8_t *)data, len};
}

static inline struct slice slice_from_str(const char *text)
{
    return slice_of(text, strlen(text));
}

/* The first count bytes, or all of them when there are fewer. */
static inline struct slice slice_head(struct slice s, size_t count)
{
    return slice_of(s.data, count < s.len ? count : s.len);
}

/* What is left after the first count bytes; empty when there are fewer. */
static inline struct slice slice_tail(struct slice s, size_t count)
{
    return count < s.len ? slice_of(s.data + count, s.len - count) : slice_of(NULL, 0);
}

static inline bool slice_equal(struct slice a, struct slice b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

/* Index of the first such byte, or s.len when there is none. */
static inline size_t slice_find(struct slice s, uint8_t byte)
{
    const uint8_t *at = s.len == 0 ? NULL : memchr(s.data, byte, s.len);
    return at == NULL ? s.len : (size_t)(at - s.data);
}

/* Index of the last such byte, or s.len when there is none. */
static inline size_t slice_find_last(struct slice s, uint8_t byte)
{
    for (size_t index = s.len; index > 0; index--) {
        if (s.data[index - 1] == byte) {
            return index - 1;
        }
    }
    return s.len;
}

static inline uint8_t ascii_lower(uint8_t byte)
{
    return byte >= 'A' && byte <= 'Z' ? (uint8_t)(byte + ('a' - 'A')) : byte;
}

/* ASCII case only: RFC 5321 2.4. */
static inline bool slice_equal_nocase(struct slice a, struct slice b)
{
    if (a.len != b.len) {
        return false;
    }
    for (size_t index = 0; index < a.len; index++) {
        if (ascii_lower(a.data[index]) != ascii_lower(b.data[index])) {
            return false;
        }
    }
    return true;
}

static inline bool slice_starts_with(struct slice s, struct slice prefix)
{
    return s.len >= prefix.len && slice_equal(slice_head(s, prefix.len), prefix);
}

static inline bool slice_starts_with_nocase(struct slice s, struct slice prefix)
{
    return s.len >= prefix.len && slice_equal_nocase(slice_head(s, prefix.len), prefix);
}

/* Without blanks and tabs (and CR, LF) at either end. */
static inline struct slice slice_trim(struct slice s)
{
    while (s.len > 0 &&
           (s.data[0] == ' ' || s.data[0] == '\t' || s.data[0] == '\r' || s.data[0] == '\n')) {
        s = slice_tail(s, 1);
    }
    while (s.len > 0 && (s.data[s.len - 1] == ' ' || s.data[s.len - 1] == '\t' ||
                         s.data[s.len - 1] == '\r' || s.data[s.len - 1] == '\n')) {
        s.len--;
    }
    return s;
}

#endif
