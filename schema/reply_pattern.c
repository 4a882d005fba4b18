#include "schema/reply_pattern.h"

bool reply_code_matches(const char *pattern, uint16_t code)
{
    const uint8_t digits[] = {(uint8_t)('0' + code / 100), (uint8_t)('0' + code / 10 % 10),
                              (uint8_t)('0' + code % 10)};
    for (size_t index = 0; index < sizeof digits; index++) {
        bool wanted = pattern[index] >= '0' && pattern[index] <= '9';
        if (wanted && (uint8_t)pattern[index] != digits[index]) {
            return false;
        }
    }
    return true;
}

bool reply_enhanced_matches(const char *pattern, const uint16_t enhanced[3])
{
    const char *at = pattern;
    for (size_t field = 0; field < 3; field++) {
        bool any = *at == 'x';
        uint32_t number = 0;
        at += any ? 1 : 0;
        while (*at >= '0' && *at <= '9') {
            number = number * 10 + (uint32_t)(*at - '0');
            at++;
        }
        at += *at == '.' ? 1 : 0;
        if (!any && number != enhanced[field]) {
            return false;
        }
    }
    return enhanced[0] != 0;
}

/* One to three digits off the head of *text. */
static bool take_number(struct slice *text, uint16_t *out_value)
{
    uint16_t value = 0;
    size_t count = 0;
    while (count < 3 && count < text->len && text->data[count] >= '0' && text->data[count] <= '9') {
        value = (uint16_t)(value * 10 + (text->data[count] - '0'));
        count++;
    }
    if (count == 0) {
        return false;
    }
    *text = slice_tail(*text, count);
    *out_value = value;
    return true;
}

static bool take_dot(struct slice *text)
{
    if (text->len == 0 || text->data[0] != '.') {
        return false;
    }
    *text = slice_tail(*text, 1);
    return true;
}

bool reply_enhanced_read(struct slice text, uint16_t code, uint16_t out_enhanced[3])
{
    uint16_t class = 0;
    uint16_t subject = 0;
    uint16_t detail = 0;
    bool found = take_number(&text, &class) && take_dot(&text) && take_number(&text, &subject) &&
                 take_dot(&text) && take_number(&text, &detail) &&
                 (text.len == 0 || text.data[0] == ' ' || text.data[0] == '\n');
    if (!found || class != code / 100 || class == 3) {
        return false;
    }
    out_enhanced[0] = class;
    out_enhanced[1] = subject;
    out_enhanced[2] = detail;
    return true;
}

static bool is_word_byte(uint8_t byte)
{
    uint8_t lower = ascii_lower(byte);
    return (lower >= 'a' && lower <= 'z') || (byte >= '0' && byte <= '9') || byte >= 0x80;
}

/* Whether text holds the word, bounded by what is no letter and no digit. A "*" at the end leaves
 * that end open. */
static bool has_word(struct slice text, struct slice word)
{
    bool open_end = word.len > 0 && word.data[word.len - 1] == '*';
    word.len -= open_end ? 1 : 0;
    for (size_t at = 0; at + word.len <= text.len; at++) {
        bool begins = at == 0 || !is_word_byte(text.data[at - 1]);
        size_t end = at + word.len;
        if (begins && slice_equal_nocase(slice_of(text.data + at, word.len), word) &&
            (open_end || end == text.len || !is_word_byte(text.data[end]))) {
            return true;
        }
    }
    return false;
}

bool reply_words_match(const char *pattern, struct slice text)
{
    struct slice words = slice_from_str(pattern);
    while (words.len > 0) {
        size_t end = slice_find(words, '|');
        if (has_word(text, slice_head(words, end))) {
            return true;
        }
        words = slice_tail(words, end + 1);
    }
    return false;
}
