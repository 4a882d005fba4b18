/*
 * One encoder for each place that text from outside can reach. All of them go through the bytes
 * once, keep nothing, and replace what they may not write rather than refuse it: a report about a
 * strange message must still come about.
 */
#include "daemon/base/num.h"
#include "daemon/base/text.h"
#include "daemon/base/when.h"
#include "daemon/proto/mail_dsn_parts.h"

#define FIELD_COLUMNS       76  /* RFC 5322 2.1.1 asks for 78, RFC 2047 2 for 76 */
#define LINE_COLUMNS_MAX    990 /* 998 less a fold and one shown character */
#define QUOTED_COLUMNS      75  /* RFC 2045 6.7: 76 with the "=" of a soft break */
#define ENCODED_BYTES       45  /* of UTF-8 in one encoded-word: 72 characters of the 75 allowed */
#define SUBJECT_SHOWN_BYTES (MAIL_TEXT_BYTES_MAX * MAIL_GROWTH)

_Static_assert(LINE_COLUMNS_MAX + MAIL_SHOWN_BYTES_MAX / 2 <= 998, "RFC 5322 2.1.1");
_Static_assert((ENCODED_BYTES + 2) / 3 * 4 + 12 <= 75, "RFC 2047 2");
_Static_assert(ENCODED_BYTES >= MAIL_SHOWN_BYTES_MAX, "a character fits into an encoded-word");

static bool is_blank(uint8_t byte)
{
    return byte == ' ' || byte == '\t' || byte == '\r' || byte == '\n';
}

static bool is_ascii(struct slice text)
{
    for (size_t index = 0; index < text.len; index++) {
        if (text.data[index] >= 0x80) {
            return false;
        }
    }
    return true;
}

/* Neither a control nor what hides or reorders text: the log's rule (text_put_escaped), for one
 * character beyond ASCII. */
static bool is_harmless(struct slice character)
{
    uint8_t memory[4 * MAIL_SHOWN_BYTES_MAX];
    struct buf escaped;
    buf_init(&escaped, memory, sizeof memory);
    text_put_escaped(&escaped, character);
    return slice_equal(buf_slice(&escaped), character);
}

void mail_put_shown(struct buf *to, struct slice *from, bool utf8)
{
    uint32_t code = 0;
    size_t len = text_utf8_len(*from, &code);
    struct slice character = slice_head(*from, len);
    if (len == 1 && is_blank((uint8_t)code) && code != '\r') {
        buf_put_byte(to, ' ');
    } else if (len == 0 || code < 0x20 || code == 0x7f) {
        buf_put_byte(to, '?');
    } else if (code < 0x80 || (utf8 && is_harmless(character))) {
        buf_put(to, character);
    } else {
        buf_printf(to, "\\x{%X}", (unsigned)code);
    }
    *from = slice_tail(*from, len == 0 ? 1 : len);
}

/* Without the first bytes of a UTF-8 sequence whose rest was cut off. */
static struct slice drop_cut_character(struct slice text)
{
    for (size_t back = 1; back <= 3 && back <= text.len; back++) {
        uint8_t byte = text.data[text.len - back];
        size_t needed = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc0 ? 2 : 1;
        if (needed > back) {
            return slice_head(text, text.len - back);
        }
        if (byte < 0x80 || byte >= 0xc0) {
            break;
        }
    }
    return text;
}

/* ---- header fields and status fields ---- */

void mail_field_begin(struct mail_field *field, struct buf *to, const char *name, bool utf8)
{
    *field = (struct mail_field){
        .to = to, .name_bytes = strlen(name), .column = strlen(name), .utf8 = utf8};
    buf_put_str(to, name);
}

static size_t shown_bytes(struct slice text, bool utf8)
{
    size_t bytes = 0;
    while (text.len > 0) {
        uint8_t memory[MAIL_SHOWN_BYTES_MAX];
        struct buf shown;
        buf_init(&shown, memory, sizeof memory);
        mail_put_shown(&shown, &text, utf8);
        bytes += shown.len;
    }
    return bytes;
}

static void field_fold(struct mail_field *field)
{
    buf_put(field->to, SLICE("\r\n "));
    field->column = 1;
}

/* The first word stands behind the name, however long it is: a line of the name alone confuses
 * readers. */
static void field_put_word(struct mail_field *field, struct slice word)
{
    if (field->column > field->name_bytes &&
        field->column + 1 + shown_bytes(word, field->utf8) > FIELD_COLUMNS) {
        field_fold(field);
    } else {
        buf_put_byte(field->to, ' ');
        field->column++;
    }
    while (word.len > 0) {
        uint8_t memory[MAIL_SHOWN_BYTES_MAX];
        struct buf shown;
        buf_init(&shown, memory, sizeof memory);
        mail_put_shown(&shown, &word, field->utf8);
        if (field->column + shown.len > LINE_COLUMNS_MAX) {
            field_fold(field);
        }
        buf_put(field->to, buf_slice(&shown));
        field->column += shown.len;
    }
}

void mail_field_put(struct mail_field *field, struct slice text)
{
    while (text.len > 0) {
        size_t len = 0;
        while (len < text.len && !is_blank(text.data[len])) {
            len++;
        }
        if (len > 0) {
            field_put_word(field, slice_head(text, len));
        }
        text = slice_tail(text, len + 1);
    }
}

void mail_field_end(struct mail_field *field)
{
    buf_put(field->to, CRLF);
}

/* ---- subjects ---- */

/* Beyond ASCII, as encoded-words; the blanks between two of them are not part of the text. RFC 2047
 * 5, 6.2. */
static void put_encoded_words(struct mail_field *field, struct slice text)
{
    while (text.len > 0) {
        uint8_t memory[ENCODED_BYTES / 3 * 4 + 12];
        struct buf word;
        uint32_t code = 0;
        size_t len = 0;
        while (len < text.len) {
            size_t step = text_utf8_len(slice_tail(text, len), &code);
            if (len + step > ENCODED_BYTES) {
                break;
            }
            len += step;
        }
        buf_init(&word, memory, sizeof memory);
        buf_put_str(&word, "=?UTF-8?B?");
        text_put_base64(&word, slice_head(text, len));
        buf_put_str(&word, "?=");
        CHECK(!word.overflow && len > 0);
        mail_field_put(field, buf_slice(&word));
        text = slice_tail(text, len);
    }
}

/* A last word that begins an encoded-word and does not end it. */
static struct slice drop_cut_word(struct slice text)
{
    size_t blank = slice_find_last(text, ' ');
    size_t start = blank == text.len ? 0 : blank + 1;
    struct slice word = slice_tail(text, start);
    bool begins = slice_starts_with(word, SLICE("=?"));
    bool ends = word.len >= 2 && memcmp(word.data + word.len - 2, "?=", 2) == 0;
    size_t marks = 0;
    for (size_t index = 0; index < word.len; index++) {
        marks += word.data[index] == '?';
    }
    /* "=?utf-8?Q?=" ends in "?=", and has three of the four marks. */
    return begins && (!ends || marks < 4) ? slice_head(text, start) : text;
}

void mail_put_subject(struct buf *to, const char *ours, struct slice subject, bool utf8)
{
    uint8_t memory[SUBJECT_SHOWN_BYTES];
    struct buf shown;
    struct mail_field field;
    struct slice given = slice_trim(slice_head(subject, MAIL_TEXT_BYTES_MAX));
    struct slice kept = slice_trim(drop_cut_word(drop_cut_character(given)));
    buf_init(&shown, memory, sizeof memory);
    for (struct slice rest = kept; rest.len > 0;) {
        mail_put_shown(&shown, &rest, true);
    }
    mail_field_begin(&field, to, "Subject:", utf8);
    mail_field_put(&field, slice_from_str(ours));
    if (utf8 || is_ascii(buf_slice(&shown))) {
        mail_field_put(&field, buf_slice(&shown));
    } else {
        put_encoded_words(&field, buf_slice(&shown));
    }
    if (given.len == 0) {
        mail_field_put(&field, SLICE("(no subject)"));
    } else if (kept.len < given.len) {
        mail_field_put(&field, SLICE("..."));
    }
    mail_field_end(&field);
}

/* ---- names and addresses ---- */

void mail_put_host(struct buf *to, struct slice name)
{
    for (size_t index = 0; index < name.len; index++) {
        uint8_t c = name.data[index];
        bool good = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                    c == '.' || c == '-' || c == '_' || c == ':' || c == '[' || c == ']';
        buf_put_byte(to, good ? c : '?');
    }
}

/* Outside of quotes an angle bracket would end the address: no path that was accepted has one. */
void mail_put_mailbox(struct buf *to, struct slice address, bool utf8)
{
    bool quoted = false;
    bool escaped = false;
    buf_put_byte(to, '<');
    while (address.len > 0) {
        uint32_t code = 0;
        size_t len = text_utf8_len(address, &code);
        struct slice character = slice_head(address, len);
        bool bracket = !quoted && (code == '<' || code == '>');
        bool good = len > 1 ? utf8 && is_harmless(character)
                            : len == 1 && code >= ' ' && code != 0x7f && !bracket;
        buf_put(to, good ? character : SLICE("?"));
        quoted = code == '"' && !escaped ? !quoted : quoted;
        escaped = quoted && !escaped && code == '\\';
        address = slice_tail(address, len == 0 ? 1 : len);
    }
    buf_put_byte(to, '>');
}

/* What may not stand as itself in utf-8-addr-xtext. RFC 6533 3. */
static bool is_special(uint8_t byte)
{
    return byte == ' ' || byte == '+' || byte == '=' || byte == '\\';
}

void mail_put_typed_address(struct buf *to, struct slice address, bool utf8)
{
    uint8_t memory[MAIL_STATUS_BYTES_MAX];
    struct buf shown;
    bool ascii = is_ascii(address);
    buf_init(&shown, memory, sizeof memory);
    buf_put_str(&shown, ascii ? "rfc822; " : "utf-8; ");
    for (struct slice rest = address; rest.len > 0;) {
        if (!ascii && !utf8 && is_special(rest.data[0])) {
            buf_printf(&shown, "\\x{%X}", (unsigned)rest.data[0]);
            rest = slice_tail(rest, 1);
        } else {
            mail_put_shown(&shown, &rest, utf8);
        }
    }
    if (!shown.overflow) {
        buf_put(to, buf_slice(&shown));
        return;
    }
    /* Longer than a line in that form. */
    buf_put_str(to, "rfc822; ");
    for (size_t index = 0; index < address.len; index++) {
        uint8_t byte = address.data[index];
        buf_put_byte(to, byte >= ' ' && byte < 0x7f ? byte : '?');
    }
}

/* ---- xtext: RFC 3461 4 ---- */

static uint8_t hex_value(uint8_t digit)
{
    return digit >= '0' && digit <= '9'   ? (uint8_t)(digit - '0')
           : digit >= 'A' && digit <= 'F' ? (uint8_t)(digit - 'A' + 10)
                                          : 16;
}

/* Takes one byte off the head of *from. False where "+" is not followed by two digits; then the "+"
 * itself is taken. */
static bool xtext_next(struct slice *from, uint8_t *out_byte)
{
    *out_byte = from->data[0];
    if (from->data[0] != '+') {
        *from = slice_tail(*from, 1);
        return true;
    }
    uint8_t high = from->len > 2 ? hex_value(from->data[1]) : 16;
    uint8_t low = from->len > 2 ? hex_value(from->data[2]) : 16;
    bool good = high < 16 && low < 16;
    *out_byte = (uint8_t)(good ? high << 4 | low : '+');
    *from = slice_tail(*from, good ? 3 : 1);
    return good;
}

/* Decoded bytes beyond ASCII are shown as "?": what was encoded had to be ASCII. */
static bool put_decoded(struct buf *to, struct slice xtext)
{
    bool good = true;
    while (xtext.len > 0) {
        uint8_t byte = 0;
        good = xtext_next(&xtext, &byte) && good;
        struct slice one = slice_of(&byte, 1);
        mail_put_shown(to, &one, false);
    }
    return good;
}

void mail_put_xtext(struct buf *to, struct slice xtext)
{
    (void)put_decoded(to, xtext);
}

static bool is_address_type(struct slice type)
{
    for (size_t index = 0; index < type.len; index++) {
        uint8_t c = ascii_lower(type.data[index]);
        if ((c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-') {
            return false;
        }
    }
    return type.len > 0;
}

bool mail_put_orcpt(struct buf *to, struct slice orcpt, bool utf8)
{
    uint8_t memory[MAIL_STATUS_BYTES_MAX];
    struct buf shown;
    size_t semicolon = slice_find(orcpt, ';');
    struct slice type = slice_head(orcpt, semicolon);
    struct slice value = slice_tail(orcpt, semicolon + 1);
    bool good = is_address_type(type) && value.len > 0;
    buf_init(&shown, memory, sizeof memory);
    buf_put(&shown, type);
    buf_put_str(&shown, "; ");
    if (good && slice_equal_nocase(type, SLICE("utf-8"))) {
        while (value.len > 0) { /* its own encoding: RFC 6533 3 */
            mail_put_shown(&shown, &value, utf8);
        }
    } else if (good) {
        good = put_decoded(&shown, value);
    }
    if (good && !shown.overflow) {
        buf_put(to, buf_slice(&shown));
        return true;
    }
    return false;
}

/* ---- the head ---- */

void mail_put_head(struct buf *to, const struct mail_head *head)
{
    buf_put_str(to, "From: Mail relay <MAILER-DAEMON@");
    mail_put_host(to, head->hostname);
    buf_put_str(to, ">\r\nTo: ");
    mail_put_mailbox(to, head->to, head->utf8);
    buf_put_str(to, "\r\nDate: ");
    when_put_rfc5322(to, head->date_ms);
    buf_put_str(to, "\r\nMessage-ID: <");
    msg_id_put_text(to, &head->id);
    buf_put_byte(to, '@');
    mail_put_host(to, head->hostname);
    buf_put_str(to, ">\r\nAuto-Submitted: ");
    buf_put_str(to, head->submitted);
    buf_put_str(to, "\r\nMIME-Version: 1.0\r\n");
}

/* ---- words for people ---- */

void mail_words_begin(struct mail_words *words, struct buf *to)
{
    *words = (struct mail_words){.to = to};
}

/* RFC 2045 6.7: no line may end in a blank. One that stands there has nothing behind it to keep
 * apart. */
static void words_end_line(struct mail_words *words)
{
    struct buf *to = words->to;
    while (!to->overflow && words->column > 0 && to->data[to->len - 1] == ' ') {
        to->len--;
        words->column--;
    }
    buf_put(to, CRLF);
    words->column = 0;
}

static void words_put_byte(struct mail_words *words, uint8_t byte)
{
    static const uint8_t digits[] = "0123456789ABCDEF";
    uint8_t encoded[3] = {'=', digits[byte >> 4], digits[byte & 15]};
    bool plain = byte >= ' ' && byte < 0x7f && byte != '=';
    struct slice out = plain ? slice_of(&byte, 1) : slice_of(encoded, sizeof encoded);
    if (byte == '\n') {
        words_end_line(words);
        return;
    }
    if (words->column + out.len > QUOTED_COLUMNS) {
        buf_put_str(words->to, "=\r\n");
        words->column = 0;
    }
    buf_put(words->to, out);
    words->column += out.len;
}

static void words_put(struct mail_words *words, struct slice text)
{
    for (size_t index = 0; index < text.len; index++) {
        words_put_byte(words, text.data[index]);
    }
}

void mail_words_say(struct mail_words *words, const char *text)
{
    words_put(words, slice_from_str(text));
}

void mail_words_say_u64(struct mail_words *words, uint64_t value)
{
    uint8_t memory[20];
    struct buf text;
    buf_init(&text, memory, sizeof memory);
    buf_put_u64(&text, value);
    words_put(words, buf_slice(&text));
}

void mail_words_say_when(struct mail_words *words, uint64_t at_ms)
{
    uint8_t memory[64];
    struct buf text;
    buf_init(&text, memory, sizeof memory);
    when_put_rfc5322(&text, at_ms);
    words_put(words, buf_slice(&text));
}

void mail_words_say_id(struct mail_words *words, const struct msg_id *id)
{
    uint8_t memory[MSG_ID_TEXT_BYTES];
    struct buf text;
    buf_init(&text, memory, sizeof memory);
    msg_id_put_text(&text, id);
    words_put(words, buf_slice(&text));
}

void mail_words_quote(struct mail_words *words, struct slice text)
{
    text = slice_trim(text);
    while (text.len > 0) {
        uint8_t memory[MAIL_SHOWN_BYTES_MAX];
        struct buf shown;
        buf_init(&shown, memory, sizeof memory);
        mail_put_shown(&shown, &text, true);
        words_put(words, buf_slice(&shown));
    }
}

void mail_words_quote_reply(struct mail_words *words, uint16_t code, struct slice text,
                            size_t bytes_max)
{
    struct slice whole = slice_trim(text);
    struct slice head = slice_head(whole, bytes_max);
    if (code != 0) {
        mail_words_say_u64(words, code);
        mail_words_say(words, whole.len > 0 ? " " : "");
    }
    mail_words_quote(words, head.len < whole.len ? drop_cut_character(head) : head);
    mail_words_say(words, head.len < whole.len ? "..." : "");
}
