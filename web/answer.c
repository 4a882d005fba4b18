/*
 * HTTP answers. See answer.h.
 */
#include "web/answer.h"

#include "daemon/base/json.h"
#include "web/http.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* A trouble with every byte escaped to six fits. */
#define TROUBLE_BYTES_MAX (6 * sizeof(struct trouble) + 256)

/*
 * default-src 'none' and only our own files; nothing may frame us, read us from another origin, or
 * learn from where somebody came.
 */
static const char security_fields[] =
    "Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'\r\n"
    "X-Content-Type-Options: nosniff\r\n"
    "X-Frame-Options: DENY\r\n"
    "Referrer-Policy: no-referrer\r\n"
    "Cross-Origin-Resource-Policy: same-origin\r\n"
    "Cross-Origin-Opener-Policy: same-origin\r\n";

void answer_static(struct answer *a, uint16_t status, const char *type, struct slice body)
{
    *a = (struct answer){.status = status, .type = type, .body = body};
}

void answer_copy(struct answer *a, uint16_t status, const char *type, struct slice body)
{
    char *owned = malloc(body.len + 1);
    CHECK(owned != NULL);
    memcpy(owned, body.data, body.len);
    *a = (struct answer){
        .status = status, .type = type, .body = slice_of(owned, body.len), .owned = owned};
}

void answer_json(struct answer *a, uint16_t status, const json_t *result)
{
    char *text = json_dumps(result, JSON_COMPACT);
    CHECK(text != NULL);
    size_t len = strlen(text);
    text[len] = '\n'; /* in the place of the NUL */
    *a = (struct answer){.status = status,
                         .type = "application/json",
                         .body = slice_of(text, len + 1),
                         .owned = text};
}

static void put_trouble_json(struct buf *to, const struct trouble *t)
{
    struct json j;
    json_init(&j, to);
    json_open_object(&j, NULL);
    json_put_u64(&j, "schema", WIRE_SCHEMA_VERSION);
    json_put_bool(&j, "ok", false);
    json_open_object(&j, "error");
    json_put_str(&j, "code", t->code);
    json_put_str(&j, "message", t->message);
    json_put_str(&j, "hint", t->hint);
    json_close_object(&j);
    json_close_object(&j);
    buf_put_byte(to, '\n');
}

void answer_trouble(struct answer *a, enum answer_form form, const struct trouble *t)
{
    uint8_t memory[TROUBLE_BYTES_MAX];
    struct buf body;
    buf_init(&body, memory, sizeof memory);
    if (form == ANSWER_FORM_JSON) {
        put_trouble_json(&body, t);
    } else {
        buf_put_str(&body, t->message);
        if (t->hint[0] != '\0') {
            buf_put_str(&body, "\nnext: ");
            buf_put_str(&body, t->hint);
        }
        buf_put_byte(&body, '\n');
    }
    CHECK(!body.overflow);
    answer_copy(a, t->status,
                form == ANSWER_FORM_JSON ? "application/json" : "text/plain; charset=utf-8",
                buf_slice(&body));
}

/* IMF-fixdate, RFC 9110 5.6.7; the process never leaves the C locale. */
static void put_date(struct buf *to, uint64_t now_s)
{
    time_t seconds = (time_t)now_s;
    struct tm parts;
    char text[64];
    if (gmtime_r(&seconds, &parts) != NULL &&
        strftime(text, sizeof text, "Date: %a, %d %b %Y %H:%M:%S GMT\r\n", &parts) > 0) {
        buf_put_str(to, text);
    }
}

void answer_head_put(struct buf *to, const struct answer *a, bool persistent, uint64_t now_s)
{
    buf_printf(to, "HTTP/1.1 %u %s\r\n", a->status, http_status_words(a->status));
    put_date(to, now_s);
    buf_printf(to, "Content-Type: %s\r\nContent-Length: %zu\r\nCache-Control: %s\r\n", a->type,
               a->body.len, a->kept ? "no-cache" : "no-store");
    if (a->status == 405 || a->status == 501) {
        buf_put_str(to, "Allow: GET, HEAD\r\n"); /* RFC 9110 15.5.6 */
    } else if (a->status == 503) {
        buf_put_str(to, "Retry-After: 2\r\n");
    }
    buf_put_str(to, security_fields);
    buf_printf(to, "Connection: %s\r\n\r\n", persistent ? "keep-alive" : "close");
    CHECK(!to->overflow);
}

void answer_deinit(struct answer *a)
{
    free(a->owned);
    *a = (struct answer){0};
}
