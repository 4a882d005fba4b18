/*
 * Most of any content stands on the wire as it is. Both directions look for the longest such run,
 * many bytes at a time, and treat what stops it (a lone CR or LF, a dot that begins a line) one
 * step at a time. The decoder hands the run out as a slice of its input, the encoder copies it.
 *
 * Only the pair CRLF begins a line. A lone CR or LF is turned into CRLF, but the dot behind it is
 * text: otherwise content could end here and go on elsewhere (SMTP smuggling).
 */
#include "daemon/proto/smtp_data.h"

#include <endian.h>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "daemon/base/num.h"

#define CRLF SLICE("\r\n")

#define EACH_BYTE(value) (UINT64_C(0x0101010101010101) * (value))
#define HIGH_BITS        EACH_BYTE(UINT64_C(0x80))
#define WORD_BYTES       sizeof(uint64_t)

/* The byte at the lowest address is the lowest byte of the word. */
static inline uint64_t word_load(const uint8_t *from)
{
    uint64_t word;
    memcpy(&word, from, sizeof word);
    return le64toh(word);
}

/* Has the high bit set in each byte of word that is zero; bytes above the first such may be wrong,
 * the first never is. */
static inline uint64_t word_zero_bytes(uint64_t word)
{
    return (word - EACH_BYTE(1)) & ~word & HIGH_BITS;
}

#if defined(__SSE2__)
#define VECTOR_BYTES 16u

/* A bit for each of the 16 bytes that is CR or LF. */
static inline unsigned vector_breaks(const uint8_t *from)
{
    __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)from);
    __m128i hits = _mm_or_si128(_mm_cmpeq_epi8(bytes, _mm_set1_epi8('\r')),
                                _mm_cmpeq_epi8(bytes, _mm_set1_epi8('\n')));
    return (unsigned)_mm_movemask_epi8(hits);
}
#endif

/*
 * Index of the first CR or LF at or behind at, or in.len. One pass for both: two calls of memchr
 * would take quadratic time where one of the two is missing.
 */
static inline size_t find_break(struct slice in, size_t at)
{
#if defined(__SSE2__)
    while (in.len - at >= VECTOR_BYTES) {
        unsigned hits = vector_breaks(in.data + at);
        if (hits != 0) {
            return at + (size_t)__builtin_ctz(hits);
        }
        at += VECTOR_BYTES;
    }
#endif
    while (in.len - at >= WORD_BYTES) {
        uint64_t word = word_load(in.data + at);
        uint64_t hits =
            word_zero_bytes(word ^ EACH_BYTE('\r')) | word_zero_bytes(word ^ EACH_BYTE('\n'));
        if (hits != 0) {
            return at + (size_t)__builtin_ctzll(hits) / 8;
        }
        at += WORD_BYTES;
    }
    while (at < in.len && in.data[at] != '\r' && in.data[at] != '\n') {
        at++;
    }
    return at;
}

static bool has_8bit(struct slice in)
{
    size_t at = 0;
    uint64_t bits = 0;
    for (; in.len - at >= 4 * WORD_BYTES; at += 4 * WORD_BYTES) {
        const uint8_t *from = in.data + at;
        bits |= word_load(from) | word_load(from + 8) | word_load(from + 16) | word_load(from + 24);
    }
    for (; at < in.len; at++) {
        bits |= in.data[at];
    }
    return (bits & HIGH_BITS) != 0;
}

/* The head of some bytes that means itself. */
struct run {
    size_t len;
    size_t line_bytes; /* behind the last CRLF of the run, or all of it */
    bool has_line_end;
};

/*
 * The longest head of in without a lone CR or LF, without a dot behind CRLF (where dots), and
 * without a CR as the very last byte, whose partner may be yet to come. The first byte is text,
 * CR or LF: the caller has treated a dot that begins a line.
 */
static struct run run_find(struct slice in, bool dots)
{
    struct run run = {0};
    size_t line = 0;
    size_t at = 0;
    for (;;) {
        at = find_break(in, at);
        if (at == in.len || in.data[at] == '\n' || at + 1 == in.len || in.data[at + 1] != '\n') {
            break;
        }
        at += 2;
        line = at;
        run.has_line_end = true;
        if (dots && at < in.len && in.data[at] == '.') {
            break;
        }
    }
    run.len = at;
    run.line_bytes = at - line;
    return run;
}

void smtp_data_decoder_init(struct smtp_data_decoder *d)
{
    *d = (struct smtp_data_decoder){.state = SMTP_DATA_LINE_START};
}

void smtp_data_decoder_init_chunked(struct smtp_data_decoder *d)
{
    *d = (struct smtp_data_decoder){.state = SMTP_DATA_LINE_START, .chunked = true};
}

static struct slice give_break(struct smtp_data_decoder *d, enum smtp_data_state next)
{
    d->bytes += CRLF.len;
    d->line_bytes = 0;
    d->state = next;
    return CRLF;
}

static struct slice give_lone_break(struct smtp_data_decoder *d)
{
    d->bare_breaks++;
    return give_break(d, SMTP_DATA_TEXT);
}

static struct slice give_run(struct smtp_data_decoder *d, struct slice in, size_t *out_used)
{
    struct run run = run_find(in, !d->chunked);
    struct slice piece = slice_head(in, run.len);
    uint64_t line_bytes = run.line_bytes + (run.has_line_end ? 0 : (uint64_t)d->line_bytes);
    d->line_bytes = (uint32_t)u64_min(line_bytes, UINT32_MAX);
    d->bytes += run.len;
    d->seen_8bit = d->seen_8bit || has_8bit(piece);
    d->state = run.has_line_end && run.line_bytes == 0 ? SMTP_DATA_LINE_START : SMTP_DATA_TEXT;
    *out_used = run.len;
    return piece;
}

/* In LINE_START or TEXT, in is not empty, and no dot begins a line. */
static struct slice decode_text(struct smtp_data_decoder *d, struct slice in, size_t *out_used)
{
    *out_used = 1;
    if (in.data[0] == '\n') {
        return give_lone_break(d);
    }
    if (in.data[0] != '\r' || (in.len > 1 && in.data[1] == '\n')) {
        return give_run(d, in, out_used);
    }
    if (in.len > 1) {
        return give_lone_break(d);
    }
    d->state = SMTP_DATA_CR;
    return slice_head(in, 0);
}

/* A dot begins a line. Where the byte behind it is there and is text, the dot goes at once. */
static struct slice decode_line_dot(struct smtp_data_decoder *d, struct slice in, size_t *out_used)
{
    if (in.len == 1 || in.data[1] == '\r') {
        *out_used = 1;
        d->state = SMTP_DATA_DOT;
        return slice_head(in, 0);
    }
    size_t text_used = 0;
    struct slice piece = decode_text(d, slice_tail(in, 1), &text_used);
    *out_used = 1 + text_used;
    return piece;
}

/* What a byte does to a dot, or a dot and a CR, held back at the start of a line. Uses nothing of
 * what turns out to be text behind the dot: the dot was the one that stuffing had added. */
static struct slice decode_dot(struct smtp_data_decoder *d, struct slice in, size_t *out_used)
{
    uint8_t byte = in.data[0];
    *out_used = 0;
    if (d->state == SMTP_DATA_DOT) {
        *out_used = byte == '\r' ? 1 : 0;
        d->state = byte == '\r' ? SMTP_DATA_DOT_CR : SMTP_DATA_TEXT;
    } else if (byte == '\n') {
        *out_used = 1;
        d->state = SMTP_DATA_END;
    } else {
        return give_lone_break(d);
    }
    return slice_head(in, 0);
}

struct slice smtp_data_decode(struct smtp_data_decoder *d, struct slice in, size_t *out_used)
{
    *out_used = 0;
    if (in.len == 0) {
        return in;
    }
    switch (d->state) {
    case SMTP_DATA_LINE_START:
        if (in.data[0] == '.' && !d->chunked) {
            return decode_line_dot(d, in, out_used);
        }
        return decode_text(d, in, out_used);
    case SMTP_DATA_TEXT:
        return decode_text(d, in, out_used);
    case SMTP_DATA_CR:
        if (in.data[0] != '\n') {
            return give_lone_break(d);
        }
        *out_used = 1;
        return give_break(d, SMTP_DATA_LINE_START);
    case SMTP_DATA_DOT:
    case SMTP_DATA_DOT_CR:
        return decode_dot(d, in, out_used);
    case SMTP_DATA_END:
        break;
    }
    return slice_head(in, 0);
}

struct slice smtp_data_decode_end(struct smtp_data_decoder *d)
{
    CHECK(d->chunked);
    struct slice held = d->state == SMTP_DATA_CR ? give_lone_break(d) : slice_of(NULL, 0);
    d->state = SMTP_DATA_END;
    return held;
}

void smtp_data_encoder_init(struct smtp_data_encoder *e)
{
    *e = (struct smtp_data_encoder){.line_start = true};
}

/* Two bytes for one or none; false, and nothing is written, when they do not fit. */
static bool put_pair(struct smtp_data_encoder *e, struct slice pair, struct buf *to)
{
    if (buf_room(to) < pair.len) {
        return false;
    }
    buf_put(to, pair);
    e->line_start = pair.data[1] == '\n';
    e->after_cr = false;
    return true;
}

/* One step; *out_used may be 0 although something was written. False: no room. */
static bool encode_step(struct smtp_data_encoder *e, struct slice in, struct buf *to,
                        size_t *out_used)
{
    *out_used = 1;
    if (e->after_cr) {
        *out_used = in.data[0] == '\n' ? 1 : 0;
        return put_pair(e, CRLF, to);
    }
    if (in.data[0] == '\n') {
        return put_pair(e, CRLF, to);
    }
    if (in.data[0] == '.' && e->line_start) {
        return put_pair(e, SLICE(".."), to);
    }
    struct run run = run_find(slice_head(in, buf_room(to)), true);
    if (run.len > 0) {
        buf_put(to, slice_head(in, run.len));
        e->line_start = run.has_line_end && run.line_bytes == 0;
        *out_used = run.len;
        return true;
    }
    e->after_cr = in.data[0] == '\r';
    return e->after_cr;
}

size_t smtp_data_encode(struct smtp_data_encoder *e, struct slice in, struct buf *to)
{
    size_t used = 0;
    size_t step = 0;
    while (used < in.len && encode_step(e, slice_tail(in, used), to, &step)) {
        used += step;
    }
    return used;
}

bool smtp_data_encode_end(struct smtp_data_encoder *e, struct buf *to)
{
    struct slice end = e->line_start && !e->after_cr ? SLICE(".\r\n") : SLICE("\r\n.\r\n");
    if (buf_room(to) < end.len) {
        return false;
    }
    buf_put(to, end);
    smtp_data_encoder_init(e);
    return true;
}
