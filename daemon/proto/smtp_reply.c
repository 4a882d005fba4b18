/*
 * Reads replies line by line. A line is collected whole before it is judged, but its first bytes
 * are looked at as they come, so that a peer that does not speak SMTP is found out at once and not
 * when a timeout runs out.
 *
 *   Reply-line = *( Reply-code "-" [ textstring ] CRLF ) Reply-code [ SP textstring ] CRLF
 *                                                                              RFC 5321 4.2
 *   status-code = class "." subject "." detail                                 RFC 3463 2
 *
 * What it does not do: judge the text. It may hold any byte but LF, and is escaped where it is
 * shown.
 */
#include "daemon/proto/smtp_reply.h"

#include "schema/reply_pattern.h"

#include "daemon/base/num.h"

#define CODE_BYTES 3

static const char words_no_code[] = "a line does not begin with a reply code";
static const char words_bare_lf[] = "a line ends in LF without CR";
static const char words_too_long[] = "a reply is too long";
static const char words_too_many[] = "a reply has too many lines";
static const char words_two_codes[] = "the lines of one reply have different codes";

static bool is_digit(uint8_t byte)
{
    return byte >= '0' && byte <= '9';
}

static void fail(struct smtp_reply_parser *p, const char *why)
{
    p->state = SMTP_REPLY_STATE_ERROR;
    p->error = why;
}

static void begin_reply(struct smtp_reply_parser *p)
{
    p->bytes = 0;
    p->reply = (struct smtp_reply){0};
    buf_reset(&p->line);
    buf_reset(&p->text);
}

void smtp_reply_init(struct smtp_reply_parser *p)
{
    p->state = SMTP_REPLY_STATE_LINE;
    p->error = "";
    buf_init(&p->line, p->line_memory, sizeof p->line_memory);
    buf_init(&p->text, p->text_memory, sizeof p->text_memory);
    begin_reply(p);
}

bool smtp_reply_partial(const struct smtp_reply_parser *p)
{
    return p->state == SMTP_REPLY_STATE_LINE && (p->line.len > 0 || p->reply.line_count > 0);
}

/* Whether what is there of a line, which may be less than its code, can be the head of one. */
static bool head_is_well(struct slice line)
{
    for (size_t index = 0; index < line.len && index < CODE_BYTES; index++) {
        if (!is_digit(line.data[index])) {
            return false;
        }
    }
    if (line.len > 0 && (line.data[0] < '2' || line.data[0] > '5')) {
        return false;
    }
    if (line.len <= CODE_BYTES) {
        return true;
    }
    if (line.data[CODE_BYTES] == '\r') {
        return line.len == CODE_BYTES + 1 || line.data[CODE_BYTES + 1] == '\n';
    }
    return line.data[CODE_BYTES] == ' ' || line.data[CODE_BYTES] == '-';
}

/* The first line is cut where it must be; a later one that does not fit is dropped, and all behind
 * it: half an EHLO line ("SIZE 35" of "SIZE 35882577") would be a wrong one. */
static void keep_text(struct smtp_reply_parser *p, struct slice text)
{
    if (p->reply.line_count == 1) {
        buf_put(&p->text, slice_head(text, buf_room(&p->text)));
        p->text.overflow = text.len > p->text.cap;
        return;
    }
    if (p->text.overflow || text.len + 1 > buf_room(&p->text)) {
        p->text.overflow = true;
        return;
    }
    buf_put_byte(&p->text, '\n');
    buf_put(&p->text, text);
}

static void finish_line(struct smtp_reply_parser *p)
{
    struct slice line = slice_head(buf_slice(&p->line), p->line.len - 2);
    const uint8_t *digits = line.data;
    uint16_t code =
        (uint16_t)((digits[0] - '0') * 100 + (digits[1] - '0') * 10 + (digits[2] - '0'));
    if (p->reply.line_count > 0 && p->reply.code != code) {
        fail(p, words_two_codes);
        return;
    }
    if (p->reply.line_count == SMTP_REPLY_LINES_MAX) {
        fail(p, words_too_many);
        return;
    }
    p->reply.code = code;
    p->reply.line_count++;
    keep_text(p, slice_tail(line, CODE_BYTES + 1));
    bool more = line.len > CODE_BYTES && line.data[CODE_BYTES] == '-';
    buf_reset(&p->line);
    if (!more) {
        p->reply.text = buf_slice(&p->text);
        (void)reply_enhanced_read(p->reply.text, code, p->reply.enhanced);
        p->state = SMTP_REPLY_STATE_READY;
    }
}

/* Takes bytes up to the end of the line, the end of in, or a bound, whichever is first. */
static size_t take_bytes(struct smtp_reply_parser *p, struct slice in)
{
    size_t line_end = slice_find(in, '\n');
    size_t wanted = line_end < in.len ? line_end + 1 : in.len;
    size_t taken = size_min(wanted, buf_room(&p->line));
    taken = size_min(taken, SMTP_REPLY_BYTES_MAX - p->bytes);
    buf_put(&p->line, slice_head(in, taken));
    p->bytes += (uint32_t)taken;
    if (!head_is_well(buf_slice(&p->line))) {
        fail(p, words_no_code);
    } else if (taken < wanted) {
        fail(p, words_too_long);
    } else if (line_end < in.len) {
        if (p->line.len < 2 || p->line.data[p->line.len - 2] != '\r') {
            fail(p, words_bare_lf);
        } else {
            finish_line(p);
        }
    }
    return taken;
}

size_t smtp_reply_feed(struct smtp_reply_parser *p, struct slice in)
{
    if (p->state == SMTP_REPLY_STATE_LINE && in.len > 0 && !smtp_reply_partial(p)) {
        begin_reply(p);
    }
    size_t used = 0;
    while (used < in.len && p->state == SMTP_REPLY_STATE_LINE) {
        used += take_bytes(p, slice_tail(in, used));
    }
    return used;
}

bool smtp_reply_take(struct smtp_reply_parser *p, struct smtp_reply *out_reply)
{
    if (p->state != SMTP_REPLY_STATE_READY) {
        return false;
    }
    *out_reply = p->reply;
    p->reply.line_count = 0;
    p->state = SMTP_REPLY_STATE_LINE;
    return true;
}

struct slice smtp_reply_first_line(const struct smtp_reply *reply)
{
    return slice_head(reply->text, slice_find(reply->text, '\n'));
}
