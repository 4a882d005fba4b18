/*
 * Reports to senders: one table of what each kind says, and the three parts of RFC 3464 1.1,
 * written one after the other.
 */
#include "daemon/proto/mail_dsn.h"

#include "daemon/base/num.h"
#include "daemon/base/text.h"
#include "daemon/base/when.h"
#include "daemon/proto/mail_dsn_parts.h"

#define BOUNDARY_START        "=_tasuki_" /* "=_" is in no quoted-printable text. RFC 2045 6.7 */
#define BOUNDARY_SUFFIX_BYTES 3           /* hexadecimal digits */
#define BOUNDARY_SUFFIXES     4096
#define BOUNDARY_STEM_BYTES   (sizeof BOUNDARY_START - 1 + MSG_ID_TEXT_BYTES + 1)
#define BOUNDARY_BYTES        (BOUNDARY_STEM_BYTES + BOUNDARY_SUFFIX_BYTES)
#define ORIGINAL_LINE_BYTES   990 /* of 998: a fold and the rest of a character fit */

/* Stems cannot overlap, so the original has fewer than there are suffixes, and one is free. */
_Static_assert(MAIL_DSN_ORIGINAL_BYTES_MAX / BOUNDARY_STEM_BYTES < BOUNDARY_SUFFIXES,
               "a boundary is found");

/* What our own words and fields take, without texts from outside: see the *_bytes_max below. */
#define FIXED_BYTES_MAX     4096
#define RECIPIENT_BYTES_MAX 512

static const struct kind {
    const char *subject;
    const char *action; /* RFC 3464 2.3.3 */
    uint16_t status;    /* its class. RFC 3463 3.1 */
    bool with_reason;   /* something is wrong that has to be told */
    const char *what;   /* happened; "this address:" or so follows */
    const char *next;   /* what follows from it; for DELAYED a time stands behind it */
} kinds[] = {
    [MAIL_DSN_FAILED] = {"Not delivered:", "failed", 5, true,
                         "Your message could not be delivered to",
                         "It will not be tried again. Once the cause is mended, please send the\n"
                         "message again.\n\n"},
    [MAIL_DSN_DELAYED] =
        {"Still waiting:", "delayed", 4, true, "Your message has not been delivered yet to",
         "You need not do anything, and need not send it again. It is tried again\n"
         "by itself until "},
    [MAIL_DSN_RELAYED] =
        {"Relayed:", "relayed", 2, false, "Your message was handed on to the next mail server, for",
         "That server does not report deliveries, so this is the last news of it,\n"
         "unless something goes wrong there.\n\n"},
    [MAIL_DSN_DELIVERED] = {"Delivered:", "delivered", 2, false, "Your message was delivered to",
                            ""},
};

_Static_assert(sizeof kinds / sizeof kinds[0] == MAIL_DSN_KIND_COUNT, "each kind has its words");

/* A report while it is written. */
struct report {
    const struct mail_dsn *dsn;
    const struct kind *kind;
    struct slice original; /* the lines that are returned */
    struct buf *to;
    struct buf boundary;
    uint8_t boundary_memory[BOUNDARY_BYTES];
};

/* ---- the boundary ---- */

static uint8_t hex_digit(unsigned value)
{
    return (uint8_t) "0123456789abcdef"[value & 15];
}

/* 0..4095, or BOUNDARY_SUFFIXES when these bytes are no suffix of ours. */
static unsigned suffix_value(struct slice text)
{
    unsigned value = 0;
    for (size_t index = 0; index < BOUNDARY_SUFFIX_BYTES; index++) {
        uint8_t c = index < text.len ? text.data[index] : 0;
        bool digit = c >= '0' && c <= '9';
        if (!digit && (c < 'a' || c > 'f')) {
            return BOUNDARY_SUFFIXES;
        }
        value = value << 4 | (unsigned)(digit ? c - '0' : c - 'a' + 10);
    }
    return value;
}

/*
 * From the report's id, and a suffix that the original's header does not have behind it. No other
 * part can hold the boundary: words for people are quoted-printable, and each line of a status
 * begins with a field's name or a blank.
 */
static void choose_boundary(struct report *r)
{
    uint8_t taken[BOUNDARY_SUFFIXES / 8] = {0};
    buf_init(&r->boundary, r->boundary_memory, sizeof r->boundary_memory);
    buf_put_str(&r->boundary, BOUNDARY_START);
    msg_id_put_text(&r->boundary, &r->dsn->id);
    buf_put_byte(&r->boundary, '_');
    struct slice stem = buf_slice(&r->boundary);
    struct slice rest = r->original;
    while (rest.len >= stem.len) {
        const uint8_t *at = memmem(rest.data, rest.len, stem.data, stem.len);
        if (at == NULL) {
            break;
        }
        rest = slice_tail(rest, (size_t)(at - rest.data) + stem.len);
        unsigned value = suffix_value(rest);
        if (value < BOUNDARY_SUFFIXES) {
            taken[value / 8] |= (uint8_t)(1u << value % 8);
        }
    }
    unsigned suffix = 0;
    while (suffix + 1 < BOUNDARY_SUFFIXES && (taken[suffix / 8] & 1u << suffix % 8) != 0) {
        suffix++;
    }
    uint8_t digits[BOUNDARY_SUFFIX_BYTES] = {hex_digit(suffix >> 8), hex_digit(suffix >> 4),
                                             hex_digit(suffix)};
    buf_put(&r->boundary, slice_of(digits, sizeof digits));
    CHECK(!r->boundary.overflow);
}

static void put_delimiter(struct report *r, bool last)
{
    buf_put_str(r->to, "--");
    buf_put(r->to, buf_slice(&r->boundary));
    buf_put_str(r->to, last ? "--\r\n" : "\r\n");
}

/* ---- header ---- */

static void put_header(struct report *r)
{
    const struct mail_dsn *dsn = r->dsn;
    mail_put_head(r->to, &(struct mail_head){.id = dsn->id,
                                             .hostname = dsn->hostname,
                                             .to = dsn->sender,
                                             .date_ms = dsn->date_ms,
                                             .submitted = "auto-replied",
                                             .utf8 = dsn->smtputf8});
    mail_put_subject(r->to, r->kind->subject, dsn->subject, dsn->smtputf8);
    buf_put_str(r->to, "Content-Type: multipart/report; report-type=");
    buf_put_str(r->to, dsn->smtputf8 ? "global-delivery-status" : "delivery-status");
    buf_put_str(r->to, ";\r\n\tboundary=\"");
    buf_put(r->to, buf_slice(&r->boundary));
    buf_put_str(r->to,
                dsn->smtputf8 ? "\"\r\nContent-Transfer-Encoding: 8bit\r\n\r\n" : "\"\r\n\r\n");
}

/* ---- words for people ---- */

static bool same_reason(const struct mail_dsn_recipient *a, const struct mail_dsn_recipient *b)
{
    return a->code == b->code && strcmp(a->sentence, b->sentence) == 0 &&
           strcmp(a->hint, b->hint) == 0 && slice_equal(a->text, b->text) &&
           slice_equal(a->remote, b->remote);
}

static void say_answer(struct mail_words *words, const struct mail_dsn_recipient *recipient)
{
    if (recipient->code == 0) {
        mail_words_say(words, "        Details: ");
    } else if (recipient->remote.len == 0) {
        mail_words_say(words, "        The mail server said: ");
    } else {
        mail_words_say(words, "        ");
        mail_words_quote(words, recipient->remote);
        mail_words_say(words, " said: ");
    }
    mail_words_quote_reply(words, recipient->code, recipient->text, MAIL_TEXT_BYTES_MAX);
    mail_words_say(words, "\n");
}

static void say_reason(struct mail_words *words, const struct mail_dsn_recipient *recipient)
{
    if (recipient->sentence[0] != '\0') {
        mail_words_say(words, "        Why: ");
        mail_words_quote(words, slice_from_str(recipient->sentence));
        mail_words_say(words, ".\n");
    }
    if (recipient->code != 0 || slice_trim(recipient->text).len > 0) {
        say_answer(words, recipient);
    }
    if (recipient->hint[0] != '\0') {
        mail_words_say(words, "        What to do: ");
        mail_words_quote(words, slice_from_str(recipient->hint));
        mail_words_say(words, "\n");
    }
}

/* One reason stands once, below all the addresses in a row that share it. */
static void say_recipients(struct report *r, struct mail_words *words)
{
    uint32_t count = r->dsn->recipient_count;
    uint32_t shown = count < MAIL_DSN_SHOWN_MAX ? count : MAIL_DSN_SHOWN_MAX;
    for (uint32_t index = 0; index < shown; index++) {
        const struct mail_dsn_recipient *recipient = &r->dsn->recipients[index];
        mail_words_say(words, "    ");
        mail_words_quote(words, recipient->address);
        mail_words_say(words, "\n");
        if (r->kind->with_reason &&
            (index + 1 == shown || !same_reason(recipient, recipient + 1))) {
            say_reason(words, recipient);
            mail_words_say(words, "\n");
        }
    }
    if (shown < count) {
        mail_words_say(words, "    and ");
        mail_words_say_u64(words, count - shown);
        mail_words_say(words, " more, which the attached report names.\n");
    }
    mail_words_say(words, shown < count || !r->kind->with_reason ? "\n" : "");
}

static void say_what(struct mail_words *words, const char *what, uint32_t count)
{
    mail_words_say(words, what);
    if (count == 1) {
        mail_words_say(words, " this address:\n\n");
        return;
    }
    mail_words_say(words, " these ");
    mail_words_say_u64(words, count);
    mail_words_say(words, " addresses:\n\n");
}

static void put_words(struct report *r)
{
    const struct mail_dsn *dsn = r->dsn;
    struct mail_words words;
    put_delimiter(r, false);
    buf_put_str(r->to, "Content-Description: Notification\r\n"
                       "Content-Type: text/plain; charset=utf-8\r\n"
                       "Content-Transfer-Encoding: quoted-printable\r\n\r\n");
    mail_words_begin(&words, r->to);
    say_what(&words, r->kind->what, dsn->recipient_count);
    say_recipients(r, &words);
    mail_words_say(&words, r->kind->next);
    if (dsn->kind == MAIL_DSN_DELAYED) {
        mail_words_say_when(&words, dsn->retry_until_ms);
        mail_words_say(&words, ".\nIf that does not help, you will be told.\n\n");
    }
    mail_words_say(&words, "You sent it on ");
    mail_words_say_when(&words, dsn->arrived_ms);
    mail_words_say(&words,
                   "; its subject stands above.\nThis report was written by the mail relay ");
    mail_words_quote(&words, dsn->hostname);
    mail_words_say(&words, ".\nWhoever looks after it finds out more by the number ");
    mail_words_say_id(&words, &dsn->original_id);
    mail_words_say(&words, ".\n\n");
}

/* ---- delivery status: RFC 3464 2 ---- */

static void put_date_field(struct buf *to, const char *name, uint64_t at_ms)
{
    buf_put_str(to, name);
    buf_put_byte(to, ' ');
    when_put_rfc5322(to, at_ms);
    buf_put(to, CRLF);
}

/* The code that the server gave, in the class of what became of it: a message that was given up
 * after 4.2.2 has failed for 5.2.2. RFC 3464 2.3.4. */
static void put_status(struct report *r, const struct mail_dsn_recipient *recipient)
{
    bool given = recipient->enhanced[0] != 0;
    uint16_t subject = given && recipient->enhanced[1] <= 999 ? recipient->enhanced[1] : 0;
    uint16_t detail = given && recipient->enhanced[2] <= 999 ? recipient->enhanced[2] : 0;
    buf_printf(r->to, "Status: %u.%u.%u\r\n", (unsigned)r->kind->status, (unsigned)subject,
               (unsigned)detail);
}

/* "smtp" is for what an SMTP server said; words of a library are of no registered type. RFC 3464
 * 2.3.6. */
static void put_diagnostic(struct report *r, const struct mail_dsn_recipient *recipient)
{
    struct slice text = slice_trim(slice_head(recipient->text, MAIL_TEXT_BYTES_MAX));
    struct mail_field field;
    uint8_t memory[8];
    struct buf code;
    if (recipient->code == 0 && text.len == 0) {
        return;
    }
    mail_field_begin(&field, r->to, "Diagnostic-Code:", r->dsn->smtputf8);
    mail_field_put(&field, recipient->code != 0 ? SLICE("smtp;") : SLICE("X-tasuki;"));
    if (recipient->code != 0) {
        buf_init(&code, memory, sizeof memory);
        buf_put_u64(&code, recipient->code);
        mail_field_put(&field, buf_slice(&code));
    }
    mail_field_put(&field, text);
    mail_field_end(&field);
}

static void put_recipient(struct report *r, const struct mail_dsn_recipient *recipient)
{
    struct buf *to = r->to;
    bool utf8 = r->dsn->smtputf8;
    uint8_t memory[MAIL_STATUS_BYTES_MAX];
    struct buf original;
    buf_init(&original, memory, sizeof memory);
    buf_put(to, CRLF);
    if (mail_put_orcpt(&original, recipient->orcpt, utf8)) {
        buf_put_str(to, "Original-Recipient: ");
        buf_put(to, buf_slice(&original));
        buf_put(to, CRLF);
    }
    buf_put_str(to, "Final-Recipient: ");
    mail_put_typed_address(to, recipient->address, utf8);
    buf_put_str(to, "\r\nAction: ");
    buf_put_str(to, r->kind->action);
    buf_put(to, CRLF);
    put_status(r, recipient);
    if (recipient->remote.len > 0) {
        buf_put_str(to, "Remote-MTA: dns; ");
        mail_put_host(to, recipient->remote);
        buf_put(to, CRLF);
    }
    put_diagnostic(r, recipient);
    if (recipient->attempted_ms != 0) {
        put_date_field(to, "Last-Attempt-Date:", recipient->attempted_ms);
    }
    if (r->dsn->kind == MAIL_DSN_DELAYED) {
        put_date_field(to, "Will-Retry-Until:", r->dsn->retry_until_ms);
    }
}

static void put_status_part(struct report *r)
{
    const struct mail_dsn *dsn = r->dsn;
    put_delimiter(r, false);
    buf_put_str(r->to, "Content-Description: Delivery report\r\n");
    buf_put_str(r->to, dsn->smtputf8 ? "Content-Type: message/global-delivery-status\r\n"
                                       "Content-Transfer-Encoding: 8bit\r\n\r\n"
                                     : "Content-Type: message/delivery-status\r\n\r\n");
    buf_put_str(r->to, "Reporting-MTA: dns; ");
    mail_put_host(r->to, dsn->hostname);
    buf_put(r->to, CRLF);
    if (dsn->envid.len > 0) {
        buf_put_str(r->to, "Original-Envelope-Id: ");
        mail_put_xtext(r->to, dsn->envid);
        buf_put(r->to, CRLF);
    }
    put_date_field(r->to, "Arrival-Date:", dsn->arrived_ms);
    for (uint32_t index = 0; index < dsn->recipient_count; index++) {
        put_recipient(r, &dsn->recipients[index]);
    }
    buf_put(r->to, CRLF);
}

/* ---- the original's header ---- */

static struct slice line_of(struct slice text, size_t *out_used)
{
    size_t end = slice_find(text, '\n');
    struct slice line = slice_head(text, end);
    *out_used = end < text.len ? end + 1 : end;
    return line.len > 0 && line.data[line.len - 1] == '\r' ? slice_head(line, line.len - 1) : line;
}

/* Up to the first empty line; where that is not among the first bytes, whole lines of them. */
static struct slice find_original(struct slice original)
{
    struct slice head = slice_head(original, MAIL_DSN_ORIGINAL_BYTES_MAX);
    size_t len = 0;
    while (len < head.len) {
        size_t used = 0;
        struct slice line = line_of(slice_tail(head, len), &used);
        bool ended = head.data[len + used - 1] == '\n';
        if (line.len == 0 || (!ended && head.len < original.len)) {
            break;
        }
        len += used;
    }
    return slice_head(head, len);
}

/*
 * One line, without its end. Only what a mail cannot hold is replaced: a lone CR, NUL, and bytes
 * beyond ASCII that are not allowed here; an ESC is how ISO-2022-JP is written. A line over 998
 * bytes is folded.
 */
static void put_original_line(struct report *r, struct slice line)
{
    size_t column = 0;
    while (line.len > 0) {
        uint32_t code = 0;
        size_t len = text_utf8_len(line, &code);
        bool good = len > 1 ? r->dsn->smtputf8 : len == 1 && code != '\r' && code != '\0';
        if (column >= ORIGINAL_LINE_BYTES) {
            buf_put_str(r->to, "\r\n ");
            column = 1;
        }
        buf_put(r->to, good ? slice_head(line, len) : SLICE("?"));
        column += good ? len : 1;
        line = slice_tail(line, len == 0 ? 1 : len);
    }
    buf_put(r->to, CRLF);
}

static void put_original(struct report *r)
{
    put_delimiter(r, false);
    buf_put_str(r->to, "Content-Description: Header of the message\r\n");
    buf_put_str(r->to, r->dsn->smtputf8 ? "Content-Type: message/global-headers\r\n"
                                          "Content-Transfer-Encoding: 8bit\r\n\r\n"
                                        : "Content-Type: text/rfc822-headers\r\n\r\n");
    for (struct slice rest = r->original; rest.len > 0;) {
        size_t used = 0;
        put_original_line(r, line_of(rest, &used));
        rest = slice_tail(rest, used);
    }
    buf_put(r->to, CRLF);
}

/* ---- the whole ---- */

static void check_dsn(const struct mail_dsn *dsn)
{
    CHECK((unsigned)dsn->kind < MAIL_DSN_KIND_COUNT);
    CHECK(dsn->hostname.len >= 1 && dsn->hostname.len <= SMTP_DOMAIN_BYTES_MAX);
    CHECK(dsn->sender.len >= 1 && dsn->sender.len <= SMTP_PATH_BYTES_MAX);
    CHECK(dsn->envid.len <= MAIL_DSN_XTEXT_BYTES_MAX);
    CHECK(dsn->recipient_count >= 1 && dsn->recipient_count <= MAIL_DSN_RECIPIENTS_MAX);
    for (uint32_t index = 0; index < dsn->recipient_count; index++) {
        const struct mail_dsn_recipient *recipient = &dsn->recipients[index];
        CHECK(recipient->address.len >= 1 && recipient->address.len <= SMTP_PATH_BYTES_MAX);
        CHECK(recipient->orcpt.len <= MAIL_DSN_XTEXT_BYTES_MAX);
        CHECK(recipient->remote.len <= SMTP_DOMAIN_BYTES_MAX);
    }
}

void mail_dsn_put(struct buf *to, const struct mail_dsn *dsn)
{
    check_dsn(dsn);
    size_t start = to->len;
    struct report r = {
        .dsn = dsn, .kind = &kinds[dsn->kind], .original = find_original(dsn->original), .to = to};
    choose_boundary(&r);
    put_header(&r);
    put_words(&r);
    put_status_part(&r);
    put_original(&r);
    put_delimiter(&r, true);
    if (to->overflow) {
        to->len = start;
    }
}

/* A status address takes 6 bytes for one at most, "\x{20}". */
static size_t recipient_bytes_max(const struct mail_dsn_recipient *recipient, bool shown)
{
    size_t text = size_min(recipient->text.len, MAIL_TEXT_BYTES_MAX);
    size_t status = 6 * (recipient->address.len + recipient->orcpt.len) + recipient->remote.len +
                    MAIL_GROWTH * text;
    size_t words = MAIL_GROWTH * (recipient->address.len + recipient->remote.len + text +
                                  strlen(recipient->sentence) + strlen(recipient->hint));
    return RECIPIENT_BYTES_MAX + status + (shown ? words : 0);
}

size_t mail_dsn_bytes_max(const struct mail_dsn *dsn)
{
    check_dsn(dsn);
    size_t bytes = FIXED_BYTES_MAX + MAIL_GROWTH * (2 * dsn->hostname.len + dsn->sender.len) +
                   dsn->envid.len +
                   2 * MAIL_GROWTH * size_min(dsn->subject.len, MAIL_TEXT_BYTES_MAX) +
                   2 * size_min(dsn->original.len, MAIL_DSN_ORIGINAL_BYTES_MAX);
    for (uint32_t index = 0; index < dsn->recipient_count; index++) {
        bytes += recipient_bytes_max(&dsn->recipients[index], index < MAIL_DSN_SHOWN_MAX);
    }
    return bytes;
}
