/*
 * The verbs: where each is legal, what it takes, what it does. Handlers run only when order and
 * form are right, so each begins with what is its own.
 */
#include "daemon/base/num.h"
#include "daemon/base/text.h"
#include "daemon/proto/smtp_server_parts.h"

/* A row's legal places, one bit for each value of transaction. */
#define IN(transaction) (1u << (SMTP_SERVER_##transaction))
#define IN_HELLO        IN(HELLO)
#define IN_MAIL         (IN(MAIL) | IN(RCPT))
#define OUTSIDE         (IN(NO_HELLO) | IN(HELLO))
#define ANYWHERE        (OUTSIDE | IN_MAIL | IN(CHUNKS))

enum argument {
    ARGUMENT_NONE,
    ARGUMENT_OPTIONAL,
    ARGUMENT_ASCII,
    ARGUMENT_UTF8, /* RFC 6531: paths may go beyond ASCII */
};

typedef void verb_fn(struct smtp_server *s, struct slice argument);

struct verb {
    const char *name;
    unsigned legal;
    enum argument argument;
    bool listed; /* in the reply to HELP */
    verb_fn *run;
};

static void tell_odd(struct smtp_server *s, const char *word)
{
    smtp_server_tell_word(s, SMTP_SERVER_EVENT_ODD, word);
}

/* ---- HELO, EHLO ---- */

/* RFC 5321 4.1.4: EHLO within a mail voids it. An empty name, or a strange one, is what many
 * devices send; nothing here depends on it. */
static void say_hello(struct smtp_server *s, struct slice name, bool esmtp)
{
    if (name.len > SMTP_DOMAIN_BYTES_MAX) {
        smtp_server_reply(s, SMTP_SERVER_REPLY_HELLO_NAME);
        return;
    }
    smtp_server_abandon_mail(s);
    if (name.len == 0) {
        tell_odd(s, "hello-empty");
    }
    s->transaction = SMTP_SERVER_HELLO;
    s->esmtp = esmtp;
    smtp_server_say_hello(s);
    struct smtp_server_event event = {
        .type = SMTP_SERVER_EVENT_HELLO, .text = name, .esmtp = esmtp};
    smtp_server_tell(s, &event);
}

static void run_helo(struct smtp_server *s, struct slice argument)
{
    say_hello(s, argument, false);
}

static void run_ehlo(struct smtp_server *s, struct slice argument)
{
    say_hello(s, argument, true);
}

/* ---- MAIL, RCPT ---- */

static bool cut_prefix(struct slice argument, struct slice prefix, struct slice *out_rest)
{
    if (!slice_starts_with_nocase(argument, prefix)) {
        return false;
    }
    *out_rest = slice_tail(argument, prefix.len);
    return true;
}

static enum smtp_server_reply param_reply(enum smtp_param_verdict verdict)
{
    switch (verdict) {
    case SMTP_PARAM_OK:
        break;
    case SMTP_PARAM_SYNTAX:
        return SMTP_SERVER_REPLY_PARAM_SYNTAX;
    case SMTP_PARAM_VALUE:
        return SMTP_SERVER_REPLY_PARAM_VALUE;
    case SMTP_PARAM_REPEATED:
        return SMTP_SERVER_REPLY_PARAM_REPEATED;
    case SMTP_PARAM_UNKNOWN:
        return SMTP_SERVER_REPLY_PARAM_UNKNOWN;
    }
    return SMTP_SERVER_REPLY_NONE;
}

/* A sender may be empty, a recipient may not. */
static enum smtp_server_reply path_reply(enum smtp_path_verdict verdict, bool is_sender)
{
    switch (verdict) {
    case SMTP_PATH_OK:
        break;
    case SMTP_PATH_NULL:
        return is_sender ? SMTP_SERVER_REPLY_NONE : SMTP_SERVER_REPLY_RECIPIENT_SYNTAX;
    case SMTP_PATH_SYNTAX:
        return is_sender ? SMTP_SERVER_REPLY_SENDER_SYNTAX : SMTP_SERVER_REPLY_RECIPIENT_SYNTAX;
    case SMTP_PATH_TOO_LONG:
        return is_sender ? SMTP_SERVER_REPLY_SENDER_TOO_LONG : SMTP_SERVER_REPLY_RECIPIENT_TOO_LONG;
    case SMTP_PATH_NOT_ASCII:
        return SMTP_SERVER_REPLY_NEED_SMTPUTF8;
    }
    return SMTP_SERVER_REPLY_NONE;
}

static void tell_odd_path(struct smtp_server *s, struct slice path_text)
{
    if (path_text.data[0] == ' ') {
        tell_odd(s, "blank-before-path");
    } else if (path_text.data[0] != '<') {
        tell_odd(s, "no-angle-brackets");
    }
}

/* SMTPUTF8 stands behind the path that needs it, so the parameters are read in between. */
static enum smtp_server_reply read_mail(struct smtp_server *s, struct slice path_text,
                                        struct smtp_server_event *event)
{
    struct slice rest;
    struct smtp_params params = {0};
    enum smtp_path_verdict path_verdict = smtp_path_parse(path_text, true, &event->path, &rest);
    enum smtp_server_reply reply = path_reply(path_verdict, true);
    if (reply != SMTP_SERVER_REPLY_NONE) {
        return reply;
    }
    unsigned context =
        SMTP_PARAM_FOR_MAIL | (s->limits->auth_mechanisms != NULL ? SMTP_PARAM_WITH_AUTH : 0);
    reply = param_reply(smtp_params_parse(rest, context, &params));
    if (reply == SMTP_SERVER_REPLY_NONE && !params.smtputf8) {
        reply = path_reply(smtp_path_parse(path_text, false, &event->path, &rest), true);
    }
    if (reply == SMTP_SERVER_REPLY_NONE && s->limits->size_max != 0 &&
        params.size > s->limits->size_max) {
        reply = SMTP_SERVER_REPLY_TOO_LARGE;
    }
    event->path_null = path_verdict == SMTP_PATH_NULL;
    event->size_declared = params.size;
    event->body_8bit = params.body_8bit;
    event->smtputf8 = params.smtputf8;
    event->ret = params.ret;
    event->envid = params.envid;
    return reply;
}

static void run_mail(struct smtp_server *s, struct slice argument)
{
    struct slice path_text;
    struct smtp_server_event event = {.type = SMTP_SERVER_EVENT_MAIL};
    enum smtp_server_reply reply =
        s->limits->mail_needs_auth && !s->authenticated     ? SMTP_SERVER_REPLY_NEED_AUTH
        : !cut_prefix(argument, SLICE("FROM:"), &path_text) ? SMTP_SERVER_REPLY_NEED_FROM
                                                            : read_mail(s, path_text, &event);
    if (reply != SMTP_SERVER_REPLY_NONE) {
        smtp_server_reply(s, reply);
        return;
    }
    tell_odd_path(s, path_text);
    uint64_t size_max = s->limits->size_max == 0 ? UINT64_MAX : s->limits->size_max;
    s->size_limit = event.size_declared == 0 ? size_max : u64_min(event.size_declared, size_max);
    s->smtputf8 = event.smtputf8;
    s->body_8bit = event.body_8bit;
    smtp_server_ask(s, &event);
}

/* RFC 5321 4.5.3.1.10: 452 for the surplus, so that the client sends the rest in another mail. One
 * that goes on as long again is no such client. */
static void refuse_surplus(struct smtp_server *s)
{
    s->recipients_over++;
    if (s->recipients_over > s->limits->recipients_max) {
        smtp_server_close(s, SMTP_SERVER_REPLY_WAY_TOO_MANY_RECIPIENTS, "too-many-recipients");
    } else {
        smtp_server_reply(s, SMTP_SERVER_REPLY_TOO_MANY_RECIPIENTS);
    }
}

static enum smtp_server_reply read_rcpt(struct smtp_server *s, struct slice path_text,
                                        struct smtp_server_event *event)
{
    struct slice rest;
    struct smtp_params params = {0};
    unsigned context = SMTP_PARAM_FOR_RCPT | (s->smtputf8 ? SMTP_PARAM_WITH_UTF8 : 0);
    enum smtp_server_reply reply =
        path_reply(smtp_path_parse(path_text, s->smtputf8, &event->path, &rest), false);
    if (reply == SMTP_SERVER_REPLY_NONE) {
        reply = param_reply(smtp_params_parse(rest, context, &params));
    }
    event->notify = params.notify;
    event->orcpt = params.orcpt;
    return reply;
}

/* One more recipient would be too many, or one more of their ORCPTs. */
static bool is_surplus(const struct smtp_server *s, const struct smtp_server_event *event)
{
    return s->recipients >= s->limits->recipients_max ||
           event->orcpt.len > SMTP_SERVER_ORCPTS_BYTES_MAX - s->orcpt_bytes;
}

static void run_rcpt(struct smtp_server *s, struct slice argument)
{
    struct slice path_text;
    struct smtp_server_event event = {.type = SMTP_SERVER_EVENT_RCPT, .smtputf8 = s->smtputf8};
    enum smtp_server_reply reply = !cut_prefix(argument, SLICE("TO:"), &path_text)
                                       ? SMTP_SERVER_REPLY_NEED_TO
                                       : read_rcpt(s, path_text, &event);
    if (reply != SMTP_SERVER_REPLY_NONE) {
        smtp_server_reply(s, reply);
    } else if (is_surplus(s, &event)) {
        refuse_surplus(s);
    } else {
        tell_odd_path(s, path_text);
        s->recipient_asked = true;
        s->orcpt_asked = u32_from(event.orcpt.len);
        smtp_server_ask(s, &event);
    }
}

/* ---- DATA, BDAT ---- */

/* RFC 2920 3.1: a pipelining client sends DATA before it knows that every recipient was refused;
 * 554 is for that. */
static enum smtp_server_reply without_recipient(const struct smtp_server *s)
{
    return s->recipient_asked ? SMTP_SERVER_REPLY_NO_RECIPIENT : SMTP_SERVER_REPLY_NEED_RECIPIENT;
}

static void ask_for_room(struct smtp_server *s, bool chunked)
{
    smtp_server_prepare_content(s, chunked);
    struct smtp_server_event event = {.type = SMTP_SERVER_EVENT_CONTENT_BEGIN};
    smtp_server_ask(s, &event);
}

static void run_data(struct smtp_server *s, struct slice argument)
{
    (void)argument;
    if (s->transaction == SMTP_SERVER_MAIL) {
        smtp_server_reply(s, without_recipient(s));
        return;
    }
    ask_for_room(s, false);
}

/* bdat-cmd = "BDAT" SP chunk-size [ SP "LAST" ], RFC 3030 2. */
static bool read_chunk(struct slice argument, uint64_t *out_bytes, bool *out_last)
{
    size_t blank = slice_find(argument, ' ');
    struct slice last = slice_trim(slice_tail(argument, blank));
    *out_last = slice_equal_nocase(last, SLICE("LAST"));
    return u64_parse(slice_head(argument, blank), out_bytes) && (last.len == 0 || *out_last);
}

/*
 * Whatever is wrong with it, the chunk follows and has to be read. One whose size cannot be read
 * leaves no way to tell where the next command begins, so it is the last.
 */
static void run_bdat(struct smtp_server *s, struct slice argument)
{
    if (!s->limits->chunking) {
        smtp_server_reply(s, SMTP_SERVER_REPLY_NOT_IMPLEMENTED);
        return;
    }
    if (!read_chunk(argument, &s->chunk_left, &s->chunk_last)) {
        smtp_server_close(s, SMTP_SERVER_REPLY_CHUNK_SYNTAX, "bad-chunk");
        return;
    }
    if (s->transaction == SMTP_SERVER_CHUNKS) {
        smtp_server_begin_chunk(s);
    } else if (s->transaction == SMTP_SERVER_RCPT) {
        ask_for_room(s, true);
    } else {
        enum smtp_server_reply refusal =
            s->transaction == SMTP_SERVER_MAIL ? without_recipient(s) : SMTP_SERVER_REPLY_NEED_MAIL;
        smtp_server_abandon_mail(s);
        smtp_server_prepare_content(s, true);
        smtp_server_discard_chunk(s, refusal);
    }
}

/* ---- STARTTLS, AUTH ---- */

static void run_starttls(struct smtp_server *s, struct slice argument)
{
    (void)argument;
    if (s->tls) {
        smtp_server_reply(s, SMTP_SERVER_REPLY_TLS_ALREADY);
    } else if (!s->limits->starttls) {
        smtp_server_reply(s, SMTP_SERVER_REPLY_TLS_NOT_HERE);
    } else {
        struct smtp_server_event event = {.type = SMTP_SERVER_EVENT_STARTTLS};
        smtp_server_ask(s, &event);
    }
}

static bool is_mechanism(const char *offered, struct slice name)
{
    struct slice list = slice_from_str(offered);
    while (list.len > 0) {
        size_t blank = slice_find(list, ' ');
        if (name.len > 0 && slice_equal_nocase(slice_head(list, blank), name)) {
            return true;
        }
        list = slice_tail(list, blank + 1);
    }
    return false;
}

/*
 * Into the line memory. A text that lies there is decoded onto itself: each four characters are
 * read before their three bytes are written at or before their place.
 */
static bool decode_response(struct smtp_server *s, struct slice text)
{
    uintptr_t at = (uintptr_t)text.data - (uintptr_t)s->line.data;
    size_t offset = text.len > 0 && at < s->line.cap ? (size_t)at : 0;
    buf_init(&s->auth, s->line.data + offset, s->line.cap - offset);
    return text_get_base64(&s->auth, text);
}

static enum smtp_server_reply judge_auth(const struct smtp_server *s, struct slice mechanism)
{
    if (s->limits->auth_mechanisms == NULL) {
        return SMTP_SERVER_REPLY_AUTH_NOT_HERE;
    }
    if (s->authenticated) {
        return SMTP_SERVER_REPLY_AUTH_ALREADY;
    }
    if (s->limits->auth_only_over_tls && !s->tls) {
        return SMTP_SERVER_REPLY_AUTH_NEEDS_TLS;
    }
    return is_mechanism(s->limits->auth_mechanisms, mechanism) ? SMTP_SERVER_REPLY_NONE
                                                               : SMTP_SERVER_REPLY_AUTH_MECHANISM;
}

/* RFC 4954 4: "=" is a response of no bytes; none at all is no response. */
static void run_auth(struct smtp_server *s, struct slice argument)
{
    size_t blank = slice_find(argument, ' ');
    struct slice text = slice_trim(slice_tail(argument, blank));
    struct smtp_server_event event = {.type = SMTP_SERVER_EVENT_AUTH,
                                      .text = slice_head(argument, blank),
                                      .has_response = text.len > 0};
    enum smtp_server_reply reply = judge_auth(s, event.text);
    if (reply == SMTP_SERVER_REPLY_NONE &&
        !decode_response(s, slice_equal(text, SLICE("=")) ? slice_head(text, 0) : text)) {
        reply = SMTP_SERVER_REPLY_AUTH_BASE64;
    }
    if (reply != SMTP_SERVER_REPLY_NONE) {
        smtp_server_reply(s, reply);
        return;
    }
    event.response = buf_slice(&s->auth);
    smtp_server_ask(s, &event);
}

/* ---- the rest ---- */

static void run_rset(struct smtp_server *s, struct slice argument)
{
    (void)argument;
    smtp_server_abandon_mail(s);
    smtp_server_reply(s, SMTP_SERVER_REPLY_OK);
}

static void run_noop(struct smtp_server *s, struct slice argument)
{
    (void)argument;
    smtp_server_reply(s, SMTP_SERVER_REPLY_OK);
}

static void run_quit(struct smtp_server *s, struct slice argument)
{
    (void)argument;
    smtp_server_close(s, SMTP_SERVER_REPLY_BYE, "quit");
}

/* RFC 5321 3.5.3: 252, whoever it is. */
static void run_vrfy(struct smtp_server *s, struct slice argument)
{
    (void)argument;
    smtp_server_reply(s, SMTP_SERVER_REPLY_VERIFY);
}

static void run_not_implemented(struct smtp_server *s, struct slice argument)
{
    (void)argument;
    smtp_server_reply(s, SMTP_SERVER_REPLY_NOT_IMPLEMENTED);
}

/* A browser that was sent here; the lines that follow may be somebody's commands. */
static void run_other_protocol(struct smtp_server *s, struct slice argument)
{
    (void)argument;
    smtp_server_close(s, SMTP_SERVER_REPLY_OTHER_PROTOCOL, "other-protocol");
}

static verb_fn run_help;

static const struct verb verbs[] = {
    {"HELO", ANYWHERE, ARGUMENT_OPTIONAL, true, run_helo},
    {"EHLO", ANYWHERE, ARGUMENT_OPTIONAL, true, run_ehlo},
    {"MAIL", IN_HELLO, ARGUMENT_UTF8, true, run_mail},
    {"RCPT", IN_MAIL, ARGUMENT_UTF8, true, run_rcpt},
    {"DATA", IN_MAIL, ARGUMENT_NONE, true, run_data},
    {"BDAT", ANYWHERE, ARGUMENT_OPTIONAL, false, run_bdat},
    {"RSET", ANYWHERE, ARGUMENT_NONE, true, run_rset},
    {"NOOP", ANYWHERE, ARGUMENT_OPTIONAL, true, run_noop},
    {"QUIT", ANYWHERE, ARGUMENT_NONE, true, run_quit},
    {"VRFY", ANYWHERE, ARGUMENT_ASCII, true, run_vrfy},
    {"EXPN", ANYWHERE, ARGUMENT_ASCII, false, run_not_implemented},
    {"HELP", ANYWHERE, ARGUMENT_OPTIONAL, true, run_help},
    {"STARTTLS", OUTSIDE, ARGUMENT_NONE, true, run_starttls},
    {"AUTH", IN_HELLO, ARGUMENT_ASCII, true, run_auth},
    {"GET", ANYWHERE, ARGUMENT_OPTIONAL, false, run_other_protocol},
    {"POST", ANYWHERE, ARGUMENT_OPTIONAL, false, run_other_protocol},
    {"PUT", ANYWHERE, ARGUMENT_OPTIONAL, false, run_other_protocol},
    {"CONNECT", ANYWHERE, ARGUMENT_OPTIONAL, false, run_other_protocol},
};

#define VERB_COUNT (sizeof verbs / sizeof verbs[0])

static void run_help(struct smtp_server *s, struct slice argument)
{
    (void)argument;
    char text[256];
    struct buf to;
    buf_init(&to, text, sizeof text - 1);
    buf_put_str(&to, "this server knows");
    for (size_t index = 0; index < VERB_COUNT; index++) {
        if (verbs[index].listed) {
            buf_put_byte(&to, ' ');
            buf_put_str(&to, verbs[index].name);
        }
    }
    text[to.len] = '\0';
    smtp_server_say(s, 214, "2.0.0", text);
}

/* RFC 5321 2.4: ASCII case only. */
static const struct verb *find_verb(struct slice name)
{
    for (size_t index = 0; index < VERB_COUNT; index++) {
        if (slice_equal_nocase(name, slice_from_str(verbs[index].name))) {
            return &verbs[index];
        }
    }
    return NULL;
}

/* No control character ever, and beyond ASCII only UTF-8 and only where it may stand. */
static bool is_clean(struct slice line, bool utf8_allowed)
{
    uint32_t code = 0;
    size_t at = 0;
    while (at < line.len) {
        uint8_t byte = line.data[at];
        size_t step = byte >= 0x80 ? text_utf8_len(slice_tail(line, at), &code) : 1;
        if (byte < 0x20 || byte == 0x7f || step == 0 || (byte >= 0x80 && !utf8_allowed)) {
            return false;
        }
        at += step;
    }
    return true;
}

/* What is missing, or too much, where the verb is not legal. */
static enum smtp_server_reply order_reply(const struct smtp_server *s, const struct verb *verb)
{
    switch (s->transaction) {
    case SMTP_SERVER_NO_HELLO:
        return SMTP_SERVER_REPLY_NEED_HELLO;
    case SMTP_SERVER_HELLO:
        return SMTP_SERVER_REPLY_NEED_MAIL;
    case SMTP_SERVER_MAIL:
    case SMTP_SERVER_RCPT:
        break;
    case SMTP_SERVER_CHUNKS:
        return (verb->legal & IN_MAIL) != 0 ? SMTP_SERVER_REPLY_IN_CHUNKS
                                            : SMTP_SERVER_REPLY_IN_MAIL;
    }
    return SMTP_SERVER_REPLY_IN_MAIL;
}

static enum smtp_server_reply judge_command(const struct smtp_server *s, const struct verb *verb,
                                            struct slice line, struct slice argument)
{
    if (line.len == 0) {
        return SMTP_SERVER_REPLY_EMPTY;
    }
    if (!is_clean(line, verb != NULL && verb->argument == ARGUMENT_UTF8)) {
        return SMTP_SERVER_REPLY_BAD_BYTES;
    }
    if (verb == NULL) {
        return SMTP_SERVER_REPLY_UNKNOWN;
    }
    if ((verb->legal & 1u << s->transaction) == 0) {
        return order_reply(s, verb);
    }
    switch (verb->argument) {
    case ARGUMENT_NONE:
        return argument.len == 0 ? SMTP_SERVER_REPLY_NONE : SMTP_SERVER_REPLY_NO_ARGUMENT;
    case ARGUMENT_ASCII:
    case ARGUMENT_UTF8:
        return argument.len > 0 ? SMTP_SERVER_REPLY_NONE : SMTP_SERVER_REPLY_ARGUMENT;
    case ARGUMENT_OPTIONAL:
        break;
    }
    return SMTP_SERVER_REPLY_NONE;
}

void smtp_server_run_command(struct smtp_server *s, struct slice line)
{
    size_t name_len = slice_find(line, ' ');
    const struct verb *verb = find_verb(slice_head(line, name_len));
    struct slice argument = slice_trim(slice_tail(line, name_len));
    enum smtp_server_reply reply = judge_command(s, verb, line, argument);
    if (reply != SMTP_SERVER_REPLY_NONE || verb == NULL) {
        smtp_server_reply(s, reply);
    } else {
        verb->run(s, argument);
    }
}

void smtp_server_run_auth_response(struct smtp_server *s, struct slice line)
{
    s->state = SMTP_SERVER_COMMAND;
    if (slice_equal(line, SLICE("*"))) {
        tell_odd(s, "auth-cancelled");
        smtp_server_reply(s, SMTP_SERVER_REPLY_AUTH_CANCELLED);
    } else if (!decode_response(s, line)) {
        tell_odd(s, "auth-not-base64");
        smtp_server_reply(s, SMTP_SERVER_REPLY_AUTH_BASE64);
    } else {
        struct smtp_server_event event = {.type = SMTP_SERVER_EVENT_AUTH_RESPONSE,
                                          .response = buf_slice(&s->auth),
                                          .has_response = true};
        smtp_server_ask(s, &event);
    }
}
