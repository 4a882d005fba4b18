#include "daemon/proto/smtp_server_parts.h"

#include "daemon/base/text.h"

#define LINE_BYTES_MAX 512 /* RFC 5321 4.5.3.1.5, CRLF included */

static const struct row {
    uint16_t code;
    bool bad;
    const char *enhanced;
    const char *text;
} rows[] = {
#define X(name, code, enhanced, count, text) {code, SMTP_SERVER_##count, enhanced, text},
    SMTP_SERVER_REPLY_ROWS(X)
#undef X
};

_Static_assert(SMTP_SERVER_REPLY_COUNT <= UINT8_MAX, "a refusal is kept in one byte");

void smtp_server_say(struct smtp_server *s, uint16_t code, const char *enhanced, const char *text)
{
    size_t start = s->output.len;
    if (code >= 400) {
        s->refusals++;
        s->refusal_code = code;
        s->refusal_text = text;
    }
    buf_put_u64(&s->output, code);
    buf_put_byte(&s->output, ' ');
    if (enhanced != NULL && enhanced[0] != '\0') {
        buf_put_str(&s->output, enhanced);
        buf_put_byte(&s->output, ' ');
    }
    size_t room = LINE_BYTES_MAX - strlen("\r\n") - (s->output.len - start);
    buf_put(&s->output, slice_head(slice_from_str(text), room));
    buf_put(&s->output, SLICE("\r\n"));
    CHECK(!s->output.overflow);
}

bool smtp_server_count_error(struct smtp_server *s)
{
    s->errors++;
    return s->errors <= s->limits->errors_max;
}

void smtp_server_reply_text(struct smtp_server *s, enum smtp_server_reply id, const char *text)
{
    const struct row *row = &rows[id];
    CHECK(row->code != 0);
    if (row->bad && !smtp_server_count_error(s)) {
        smtp_server_close(s, SMTP_SERVER_REPLY_TOO_MANY_ERRORS, "too-many-errors");
        return;
    }
    smtp_server_say(s, row->code, row->enhanced, text != NULL ? text : row->text);
}

void smtp_server_reply(struct smtp_server *s, enum smtp_server_reply id)
{
    smtp_server_reply_text(s, id, NULL);
}

void smtp_server_close(struct smtp_server *s, enum smtp_server_reply id, const char *why)
{
    if (buf_room(&s->output) >= LINE_BYTES_MAX) {
        smtp_server_say(s, rows[id].code, rows[id].enhanced, rows[id].text);
    }
    s->state = SMTP_SERVER_CLOSING;
    smtp_server_tell_word(s, SMTP_SERVER_EVENT_CLOSE, why);
}

void smtp_server_say_greeting(struct smtp_server *s)
{
    buf_put_str(&s->output, "220 ");
    buf_put_str(&s->output, s->limits->hostname);
    buf_put_str(&s->output, " ESMTP ");
    buf_put_str(&s->output, s->limits->software);
    buf_put_str(&s->output, "\r\n");
    CHECK(!s->output.overflow);
}

/* ---- EHLO ---- */

typedef bool is_offered_fn(const struct smtp_server *s);
typedef void put_value_fn(const struct smtp_server *s, struct buf *to);

static bool offers_pipelining(const struct smtp_server *s)
{
    return s->limits->pipelining;
}

static bool offers_starttls(const struct smtp_server *s)
{
    return s->limits->starttls && !s->tls;
}

static bool offers_auth(const struct smtp_server *s)
{
    return s->limits->auth_mechanisms != NULL && (s->tls || !s->limits->auth_only_over_tls);
}

static bool offers_chunking(const struct smtp_server *s)
{
    return s->limits->chunking;
}

static void put_size(const struct smtp_server *s, struct buf *to)
{
    buf_put_u64(to, s->limits->size_max);
}

static void put_mechanisms(const struct smtp_server *s, struct buf *to)
{
    buf_put_str(to, s->limits->auth_mechanisms);
}

/* is_offered NULL: always. put_value NULL: none. */
static const struct extension {
    const char *keyword;
    is_offered_fn *is_offered;
    put_value_fn *put_value;
} extensions[] = {
    {"PIPELINING", offers_pipelining, NULL},
    {"SIZE", NULL, put_size},
    {"STARTTLS", offers_starttls, NULL},
    {"AUTH", offers_auth, put_mechanisms},
    {"CHUNKING", offers_chunking, NULL},
    {"ENHANCEDSTATUSCODES", NULL, NULL},
    {"8BITMIME", NULL, NULL},
    {"SMTPUTF8", NULL, NULL},
    {"DSN", NULL, NULL},
    {"HELP", NULL, NULL},
};

void smtp_server_say_hello(struct smtp_server *s)
{
    size_t line = s->output.len;
    buf_put_str(&s->output, "250-");
    buf_put_str(&s->output, s->limits->hostname);
    buf_put_str(&s->output, "\r\n");
    for (size_t index = 0; s->esmtp && index < sizeof extensions / sizeof extensions[0]; index++) {
        const struct extension *extension = &extensions[index];
        if (extension->is_offered != NULL && !extension->is_offered(s)) {
            continue;
        }
        line = s->output.len;
        buf_put_str(&s->output, "250-");
        buf_put_str(&s->output, extension->keyword);
        if (extension->put_value != NULL) {
            buf_put_byte(&s->output, ' ');
            extension->put_value(s, &s->output);
        }
        buf_put_str(&s->output, "\r\n");
    }
    CHECK(!s->output.overflow);
    s->output.data[line + 3] = ' '; /* the last line of a reply has no hyphen */
}

void smtp_server_say_challenge(struct smtp_server *s, struct slice challenge)
{
    buf_put_str(&s->output, "334 ");
    text_put_base64(&s->output, challenge);
    buf_put_str(&s->output, "\r\n");
    CHECK(!s->output.overflow);
}
