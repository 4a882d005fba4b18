#include "daemon/base/text.h"

#include "daemon/base/num.h"

static const uint8_t hex_digits[] = "0123456789abcdef";
static const uint8_t base32_digits[] = "0123456789abcdefghjkmnpqrstvwxyz";
static const uint8_t base64_digits[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

#define REPLACEMENT_UTF8 SLICE("\xef\xbf\xbd")

size_t text_utf8_len(struct slice s, uint32_t *out_code_point)
{
    static const uint32_t smallest[5] = {0, 0, 0x80, 0x800, 0x10000};
    if (s.len == 0) {
        return 0;
    }
    uint8_t lead = s.data[0];
    if (lead < 0x80) {
        *out_code_point = lead;
        return 1;
    }
    size_t len = lead >= 0xf0 && lead <= 0xf4  ? 4
                 : lead >= 0xe0 && lead < 0xf0 ? 3
                 : lead >= 0xc2 && lead < 0xe0 ? 2
                                               : 0;
    if (len == 0 || s.len < len) {
        return 0;
    }
    uint32_t code = (uint32_t)lead & (0x7fu >> len);
    for (size_t index = 1; index < len; index++) {
        if ((s.data[index] & 0xc0) != 0x80) {
            return 0;
        }
        code = code << 6 | (s.data[index] & 0x3f);
    }
    if (code < smallest[len] || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) {
        return 0;
    }
    *out_code_point = code;
    return len;
}

/* C0, C1, DEL, and what reorders or hides text around it (Unicode TR36, "bidirectional text
 * spoofing"). */
static bool code_point_is_control(uint32_t code)
{
    return code < 0x20 || (code >= 0x7f && code < 0xa0) || (code >= 0x200b && code <= 0x200f) ||
           (code >= 0x2028 && code <= 0x202e) || (code >= 0x2060 && code <= 0x206f) ||
           code == 0xfeff || code == 0x061c;
}

static void put_hex_escape(struct buf *to, struct slice bytes)
{
    for (size_t index = 0; index < bytes.len; index++) {
        uint8_t escape[4] = {'\\', 'x', hex_digits[bytes.data[index] >> 4],
                             hex_digits[bytes.data[index] & 15]};
        buf_put(to, slice_of(escape, sizeof escape));
    }
}

void text_put_escaped(struct buf *to, struct slice from)
{
    while (from.len > 0) {
        uint32_t code = 0;
        size_t len = text_utf8_len(from, &code);
        if (len == 0) {
            put_hex_escape(to, slice_head(from, 1));
            len = 1;
        } else if (code_point_is_control(code) || code == '"' || code == '\\') {
            put_hex_escape(to, slice_head(from, len));
        } else {
            buf_put(to, slice_head(from, len));
        }
        from = slice_tail(from, len);
    }
}

static void put_json_ascii(struct buf *to, uint8_t byte)
{
    switch (byte) {
    case '"':
        buf_put(to, SLICE("\\\""));
        break;
    case '\\':
        buf_put(to, SLICE("\\\\"));
        break;
    case '\n':
        buf_put(to, SLICE("\\n"));
        break;
    case '\r':
        buf_put(to, SLICE("\\r"));
        break;
    case '\t':
        buf_put(to, SLICE("\\t"));
        break;
    default:
        if (byte < 0x20 || byte == 0x7f) {
            uint8_t escape[6] = {'\\', 'u', '0', '0', hex_digits[byte >> 4], hex_digits[byte & 15]};
            buf_put(to, slice_of(escape, sizeof escape));
        } else {
            buf_put_byte(to, byte);
        }
    }
}

void text_put_json(struct buf *to, struct slice from)
{
    buf_put_byte(to, '"');
    while (from.len > 0) {
        uint32_t code = 0;
        size_t len = text_utf8_len(from, &code);
        if (len == 1) {
            put_json_ascii(to, from.data[0]);
        } else if (len == 0) {
            buf_put(to, REPLACEMENT_UTF8);
            len = 1;
        } else {
            buf_put(to, slice_head(from, len));
        }
        from = slice_tail(from, len);
    }
    buf_put_byte(to, '"');
}

void text_put_html(struct buf *to, struct slice from)
{
    while (from.len > 0) {
        uint32_t code = 0;
        size_t len = text_utf8_len(from, &code);
        if (len == 0 || (code_point_is_control(code) && code != '\n' && code != '\t')) {
            buf_put(to, REPLACEMENT_UTF8);
            len = len == 0 ? 1 : len;
        } else if (code == '<') {
            buf_put(to, SLICE("&lt;"));
        } else if (code == '>') {
            buf_put(to, SLICE("&gt;"));
        } else if (code == '&') {
            buf_put(to, SLICE("&amp;"));
        } else if (code == '"') {
            buf_put(to, SLICE("&quot;"));
        } else if (code == '\'') {
            buf_put(to, SLICE("&#39;"));
        } else {
            buf_put(to, slice_head(from, len));
        }
        from = slice_tail(from, len);
    }
}

void text_put_base32(struct buf *to, struct slice from)
{
    uint32_t bits = 0;
    unsigned bit_count = 0;
    for (size_t index = 0; index < from.len; index++) {
        bits = bits << 8 | from.data[index];
        bit_count += 8;
        while (bit_count >= 5) {
            bit_count -= 5;
            buf_put_byte(to, base32_digits[bits >> bit_count & 31]);
        }
        bits &= (1u << bit_count) - 1;
    }
    if (bit_count > 0) {
        buf_put_byte(to, base32_digits[bits << (5 - bit_count) & 31]);
    }
}

uint8_t text_base32_value(uint8_t character)
{
    const uint8_t *at = memchr(base32_digits, ascii_lower(character), sizeof base32_digits - 1);
    return at == NULL ? 32 : (uint8_t)(at - base32_digits);
}

void text_put_base64(struct buf *to, struct slice from)
{
    while (from.len > 0) {
        size_t len = size_min(from.len, 3);
        uint32_t group = (uint32_t)from.data[0] << 16 |
                         (len > 1 ? (uint32_t)from.data[1] << 8 : 0) |
                         (len > 2 ? (uint32_t)from.data[2] : 0);
        uint8_t out[4] = {base64_digits[group >> 18], base64_digits[group >> 12 & 63],
                          len > 1 ? base64_digits[group >> 6 & 63] : '=',
                          len > 2 ? base64_digits[group & 63] : '='};
        buf_put(to, slice_of(out, sizeof out));
        from = slice_tail(from, len);
    }
}

/* 0..63, or 64 when the character is not of the alphabet. */
static uint32_t base64_value(uint8_t character)
{
    const uint8_t *at = memchr(base64_digits, character, 64);
    return at == NULL ? 64 : (uint32_t)(at - base64_digits);
}

/* One group of four; pad of them are "=". */
static bool get_base64_group(struct buf *to, const uint8_t *from, size_t pad)
{
    uint32_t group = 0;
    for (size_t index = 0; index < 4; index++) {
        uint32_t value = index >= 4 - pad ? 0 : base64_value(from[index]);
        if (value == 64) {
            return false;
        }
        group = group << 6 | value;
    }
    /* Bits that the padding hides must be zero, or two texts would mean the same bytes. */
    if ((pad == 1 && (group & 0xff) != 0) || (pad == 2 && (group & 0xffff) != 0)) {
        return false;
    }
    uint8_t out[3] = {(uint8_t)(group >> 16), (uint8_t)(group >> 8), (uint8_t)group};
    buf_put(to, slice_of(out, 3 - pad));
    return !to->overflow;
}

bool text_get_base64(struct buf *to, struct slice from)
{
    size_t len_before = to->len;
    bool good = from.len % 4 == 0 && !to->overflow;
    while (good && from.len > 0) {
        bool last = from.len == 4;
        size_t pad = !last ? 0 : from.data[3] != '=' ? 0 : from.data[2] != '=' ? 1 : 2;
        good = get_base64_group(to, from.data, pad);
        from = slice_tail(from, 4);
    }
    if (!good) {
        to->len = len_before;
    }
    return good;
}

#define NEAREST_WORD_MAX 32

/* Edit distance with neighbour swaps (optimal string alignment); both at most NEAREST_WORD_MAX
 * long. */
static size_t edit_distance(struct slice a, struct slice b)
{
    size_t rows[3][NEAREST_WORD_MAX + 1];
    for (size_t j = 0; j <= b.len; j++) {
        rows[0][j] = j;
        rows[2][j] = 0;
    }
    for (size_t i = 1; i <= a.len; i++) {
        size_t *now = rows[i % 3];
        const size_t *one_up = rows[(i + 2) % 3];
        const size_t *two_up = rows[(i + 1) % 3];
        now[0] = i;
        for (size_t j = 1; j <= b.len; j++) {
            bool same = ascii_lower(a.data[i - 1]) == ascii_lower(b.data[j - 1]);
            size_t best =
                size_min(size_min(one_up[j] + 1, now[j - 1] + 1), one_up[j - 1] + (same ? 0 : 1));
            if (i > 1 && j > 1 && ascii_lower(a.data[i - 1]) == ascii_lower(b.data[j - 2]) &&
                ascii_lower(a.data[i - 2]) == ascii_lower(b.data[j - 1])) {
                best = size_min(best, two_up[j - 2] + 1);
            }
            now[j] = best;
        }
    }
    return rows[a.len % 3][b.len];
}

const char *text_nearest(struct slice word, const char *const *names, size_t count)
{
    const char *nearest = NULL;
    size_t nearest_distance = word.len < 6 ? 2 : word.len / 3 + 1; /* to be undercut */
    for (size_t index = 0; index < count; index++) {
        struct slice name = slice_from_str(names[index]);
        if (word.len > NEAREST_WORD_MAX || name.len > NEAREST_WORD_MAX) {
            continue;
        }
        size_t distance = edit_distance(word, name);
        /* A word of which nothing would be left is no near miss. */
        if (distance < nearest_distance && distance < word.len) {
            nearest = names[index];
            nearest_distance = distance;
        }
    }
    return nearest;
}
