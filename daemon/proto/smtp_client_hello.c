/*
 * From the greeting to READY. What must hold: where TLS is demanded nothing but EHLO and STARTTLS
 * is said without it; what the server announced before TLS is forgotten (RFC 3207 4.2); HELO, which
 * can offer neither TLS nor a login, is tried only where neither is demanded.
 */
#include "daemon/base/num.h"
#include "daemon/base/text.h"
#include "daemon/proto/smtp_client_parts.h"

/* A login that takes more lines than this is none. */
#define CHALLENGES_MAX 16
/* RFC 4954 4: an initial response that makes the AUTH line longer waits for a 334. */
#define AUTH_LINE_BYTES_MAX 512
#define INITIAL_BYTES_MAX   8192
#define MECHANISM_BYTES_MAX 20 /* RFC 4422 3.1 */
/* What is masked: of the base64 text this much, for servers cut what they repeat; but no word of a
 * reply for being the password. */
#define MASKED_BYTES_MIN 8
#define MASKED_WORD_MIN  6

_Static_assert(INITIAL_BYTES_MAX <= SMTP_AUTH_LINE_BYTES_MAX, "it can be held back");

/* Whose turn it is in a login. */
enum login {
    LOGIN_IDLE,  /* the owner chooses a mechanism, or gives up; also outside of a login */
    LOGIN_ASKED, /* a line was sent, and auth holds what was secret in it: the server answers */
    LOGIN_HELD,  /* AUTH was sent; auth holds the initial response until a 334 asks for it */
    LOGIN_CHALLENGED, /* the owner answers a challenge, which auth holds */
    LOGIN_CANCELLED,  /* "*" was sent: the server refuses */
};

bool smtp_client_login_is_idle(const struct smtp_client *c)
{
    return c->login == LOGIN_IDLE;
}

static void put_hello(struct smtp_client *c, enum smtp_client_command command)
{
    c->state = SMTP_CLIENT_EHLO;
    c->extensions = 0;
    c->size_max = 0;
    c->mechanisms[0] = '\0';
    buf_put_str(&c->output, command == SMTP_CLIENT_COMMAND_EHLO ? "EHLO " : "HELO ");
    buf_put_str(&c->output, c->config->hello_name);
    smtp_client_put_command(c, command, "\r\n");
}

/* The deepest mode that is allowed here and announced there. */
static enum smtp_client_pipelining choose_mode(const struct smtp_client *c)
{
    if ((c->extensions & SMTP_CLIENT_EXT_PIPELINING) == 0) {
        return SMTP_CLIENT_PIPELINING_OFF;
    }
    bool stream = c->config->pipelining == SMTP_CLIENT_PIPELINING_STREAM &&
                  (c->extensions & SMTP_CLIENT_EXT_CHUNKING) != 0;
    bool safe = c->config->pipelining != SMTP_CLIENT_PIPELINING_OFF;
    return stream ? SMTP_CLIENT_PIPELINING_STREAM
           : safe ? SMTP_CLIENT_PIPELINING_SAFE
                  : SMTP_CLIENT_PIPELINING_OFF;
}

static void become_ready(struct smtp_client *c)
{
    c->state = SMTP_CLIENT_READY;
    c->mode = choose_mode(c);
    smtp_client_push(c, (struct smtp_client_event){.type = SMTP_CLIENT_EVENT_READY,
                                                   .stage = SMTP_CLIENT_STAGE_IDLE});
}

/* ---- what EHLO announces ---- */

static const struct {
    struct slice keyword;
    uint32_t extension;
} extensions[] = {
    {{(const uint8_t *)"PIPELINING", 10}, SMTP_CLIENT_EXT_PIPELINING},
    {{(const uint8_t *)"8BITMIME", 8}, SMTP_CLIENT_EXT_8BITMIME},
    {{(const uint8_t *)"SIZE", 4}, SMTP_CLIENT_EXT_SIZE},
    {{(const uint8_t *)"STARTTLS", 8}, SMTP_CLIENT_EXT_STARTTLS},
    {{(const uint8_t *)"AUTH", 4}, SMTP_CLIENT_EXT_AUTH},
    {{(const uint8_t *)"SMTPUTF8", 8}, SMTP_CLIENT_EXT_SMTPUTF8},
    {{(const uint8_t *)"CHUNKING", 8}, SMTP_CLIENT_EXT_CHUNKING},
    {{(const uint8_t *)"DSN", 3}, SMTP_CLIENT_EXT_DSN},
    {{(const uint8_t *)"ENHANCEDSTATUSCODES", 19}, SMTP_CLIENT_EXT_ENHANCED},
};

/* The text up to the separator, which is dropped from *text with it. */
static struct slice take_until(struct slice *text, uint8_t separator)
{
    size_t at = slice_find(*text, separator);
    struct slice head = slice_head(*text, at);
    *text = slice_tail(*text, at + 1);
    return head;
}

static uint8_t upper(uint8_t byte)
{
    return byte >= 'a' && byte <= 'z' ? (uint8_t)(byte - ('a' - 'A')) : byte;
}

/* RFC 4422 3.1: 1*20 of upper-case letters, digits, "-" and "_". */
static bool is_mechanism(struct slice name)
{
    for (size_t index = 0; index < name.len; index++) {
        uint8_t byte = upper(name.data[index]);
        bool well = (byte >= 'A' && byte <= 'Z') || (byte >= '0' && byte <= '9') || byte == '-' ||
                    byte == '_';
        if (!well) {
            return false;
        }
    }
    return name.len >= 1 && name.len <= MECHANISM_BYTES_MAX;
}

static bool is_listed(struct slice list, struct slice name)
{
    while (list.len > 0) {
        if (slice_equal_nocase(take_until(&list, ' '), name)) {
            return true;
        }
    }
    return false;
}

/* Adds the names that are well formed and new, in the server's order, as many as there is room
 * for. */
static void add_mechanisms(struct smtp_client *c, struct slice names)
{
    struct buf list;
    buf_init(&list, c->mechanisms, sizeof c->mechanisms - 1);
    list.len = strlen(c->mechanisms);
    while (names.len > 0) {
        struct slice name = take_until(&names, ' ');
        bool fits = name.len + 1 <= buf_room(&list);
        if (!is_mechanism(name) || !fits || is_listed(buf_slice(&list), name)) {
            continue;
        }
        if (list.len > 0) {
            buf_put_byte(&list, ' ');
        }
        for (size_t index = 0; index < name.len; index++) {
            buf_put_byte(&list, upper(name.data[index]));
        }
    }
    c->mechanisms[list.len] = '\0';
}

/* ehlo-line = ehlo-keyword *( SP ehlo-param ), RFC 5321 4.1.1.1. "AUTH=LOGIN" is an old spelling
 * of "AUTH LOGIN" that is still met. */
static void take_extension(struct smtp_client *c, struct slice line)
{
    struct slice rest = line;
    struct slice keyword = take_until(&rest, ' ');
    if (slice_starts_with_nocase(line, SLICE("AUTH="))) {
        rest = slice_tail(line, 5);
        keyword = slice_head(line, 4);
    }
    uint32_t extension = 0;
    for (size_t index = 0; index < sizeof extensions / sizeof extensions[0]; index++) {
        if (slice_equal_nocase(keyword, extensions[index].keyword)) {
            extension = extensions[index].extension;
        }
    }
    c->extensions |= extension;
    if (extension == SMTP_CLIENT_EXT_AUTH) {
        add_mechanisms(c, rest);
    } else if (extension == SMTP_CLIENT_EXT_SIZE && !u64_parse(slice_trim(rest), &c->size_max)) {
        c->size_max = 0; /* RFC 1870 4: no number, or 0: no fixed maximum */
    }
}

static void take_extensions(struct smtp_client *c, const struct smtp_reply *reply)
{
    struct slice lines = reply->text;
    (void)take_until(&lines, '\n'); /* the server's name and a greeting */
    while (lines.len > 0) {
        take_extension(c, take_until(&lines, '\n'));
    }
}

/* ---- greeting, EHLO, STARTTLS ---- */

enum smtp_client_verdict
smtp_client_greeting_answered(struct smtp_client *c, const struct smtp_reply *reply, uint32_t index)
{
    (void)index;
    if (reply->code != 220) {
        return smtp_client_reply_is_no(reply) ? SMTP_CLIENT_VERDICT_ENDS
                                              : SMTP_CLIENT_VERDICT_ABSURD;
    }
    put_hello(c, SMTP_CLIENT_COMMAND_EHLO);
    return SMTP_CLIENT_VERDICT_TAKEN;
}

/* What comes after EHLO: TLS first, then the login, then mail. */
static void go_on(struct smtp_client *c)
{
    if (c->config->tls == SMTP_CLIENT_TLS_STARTTLS && !c->tls) {
        if ((c->extensions & SMTP_CLIENT_EXT_STARTTLS) == 0) {
            smtp_client_fail(c, SMTP_CLIENT_FAILURE_NO_STARTTLS, SMTP_CLIENT_STAGE_EHLO, NULL,
                             "the server does not offer STARTTLS");
            return;
        }
        c->state = SMTP_CLIENT_STARTTLS;
        smtp_client_put_command(c, SMTP_CLIENT_COMMAND_STARTTLS, "STARTTLS\r\n");
    } else if (!c->config->auth) {
        become_ready(c);
    } else if (c->mechanisms[0] == '\0') {
        smtp_client_fail(c, SMTP_CLIENT_FAILURE_NO_AUTH, SMTP_CLIENT_STAGE_EHLO, NULL,
                         "the server does not offer AUTH");
    } else {
        c->state = SMTP_CLIENT_AUTH;
        c->login = LOGIN_IDLE;
        smtp_client_push(c,
                         (struct smtp_client_event){.type = SMTP_CLIENT_EVENT_AUTH,
                                                    .stage = SMTP_CLIENT_STAGE_AUTH,
                                                    .mechanisms = slice_from_str(c->mechanisms)});
    }
}

enum smtp_client_verdict smtp_client_ehlo_answered(struct smtp_client *c,
                                                   const struct smtp_reply *reply, uint32_t index)
{
    (void)index;
    if (smtp_client_reply_is_yes(reply)) {
        take_extensions(c, reply);
        go_on(c);
        return SMTP_CLIENT_VERDICT_TAKEN;
    }
    if (!smtp_client_reply_is_no(reply)) {
        return SMTP_CLIENT_VERDICT_ABSURD;
    }
    bool helo_would_do = c->config->tls == SMTP_CLIENT_TLS_NONE && !c->config->auth;
    if (reply->code < 500 || !helo_would_do) {
        return SMTP_CLIENT_VERDICT_ENDS;
    }
    put_hello(c, SMTP_CLIENT_COMMAND_HELO);
    return SMTP_CLIENT_VERDICT_TAKEN;
}

enum smtp_client_verdict smtp_client_helo_answered(struct smtp_client *c,
                                                   const struct smtp_reply *reply, uint32_t index)
{
    (void)index;
    if (!smtp_client_reply_is_yes(reply)) {
        return smtp_client_reply_is_no(reply) ? SMTP_CLIENT_VERDICT_ENDS
                                              : SMTP_CLIENT_VERDICT_ABSURD;
    }
    become_ready(c);
    return SMTP_CLIENT_VERDICT_TAKEN;
}

enum smtp_client_verdict
smtp_client_starttls_answered(struct smtp_client *c, const struct smtp_reply *reply, uint32_t index)
{
    (void)index;
    if (reply->code != 220) {
        return smtp_client_reply_is_no(reply) ? SMTP_CLIENT_VERDICT_ENDS
                                              : SMTP_CLIENT_VERDICT_ABSURD;
    }
    c->state = SMTP_CLIENT_TLS;
    smtp_client_push(c, (struct smtp_client_event){.type = SMTP_CLIENT_EVENT_STARTTLS,
                                                   .stage = SMTP_CLIENT_STAGE_TLS});
    return SMTP_CLIENT_VERDICT_TAKEN;
}

void smtp_client_tls_started(struct smtp_client *c, uint64_t now_ms)
{
    if (c->state == SMTP_CLIENT_CLOSED) {
        return;
    }
    CHECK(c->state == SMTP_CLIENT_TLS);
    c->now_ms = now_ms;
    c->tls = true;
    put_hello(c, SMTP_CLIENT_COMMAND_EHLO);
}

/* ---- the login ---- */

/* A line that carries something secret; the output holds nothing else then, since nothing of a
 * login is pipelined. */
static void expect_login(struct smtp_client *c, enum login login)
{
    buf_put_str(&c->output, "\r\n");
    c->login = (uint8_t)login;
    smtp_client_expect(c, SMTP_CLIENT_COMMAND_AUTH, 0);
}

/* What auth holds. It is kept until the answer, which may repeat it. */
static void put_response(struct smtp_client *c)
{
    CHECK(!c->auth.overflow);
    c->secret_output = true;
    text_put_base64(&c->output, buf_slice(&c->auth));
    expect_login(c, LOGIN_ASKED);
}

/* Forgets what auth holds, which may be secret. */
static void clear_auth(struct smtp_client *c)
{
    explicit_bzero(c->auth.data, c->auth.len);
    buf_reset(&c->auth);
}

void smtp_client_auth(struct smtp_client *c, const char *mechanism, bool has_initial,
                      struct slice initial, uint64_t now_ms)
{
    if (c->state == SMTP_CLIENT_CLOSED) {
        return;
    }
    CHECK(c->state == SMTP_CLIENT_AUTH && c->login == LOGIN_IDLE);
    CHECK(is_mechanism(slice_from_str(mechanism)) && initial.len <= INITIAL_BYTES_MAX);
    c->now_ms = now_ms;
    c->challenge_count = 0;
    clear_auth(c);
    buf_put_str(&c->output, "AUTH ");
    buf_put_str(&c->output, mechanism);
    size_t line_bytes = smtp_client_unsent(c) + 1 + (initial.len + 2) / 3 * 4 + 2;
    if (!has_initial) {
        c->secret_output = false;
        expect_login(c, LOGIN_ASKED);
    } else if (initial.len == 0) {
        buf_put_str(&c->output, " =");
        c->secret_output = false;
        expect_login(c, LOGIN_ASKED);
    } else if (line_bytes > AUTH_LINE_BYTES_MAX) {
        buf_put(&c->auth, initial);
        c->secret_output = false;
        expect_login(c, LOGIN_HELD);
    } else {
        buf_put_byte(&c->output, ' ');
        buf_put(&c->auth, initial);
        put_response(c);
    }
}

void smtp_client_auth_response(struct smtp_client *c, struct slice response, uint64_t now_ms)
{
    if (c->state == SMTP_CLIENT_CLOSED) {
        return;
    }
    CHECK(c->state == SMTP_CLIENT_AUTH && c->login == LOGIN_CHALLENGED);
    CHECK((response.len + 2) / 3 * 4 + 2 <= SMTP_AUTH_LINE_BYTES_MAX);
    c->now_ms = now_ms;
    clear_auth(c);
    buf_put(&c->auth, response);
    put_response(c);
}

void smtp_client_auth_cancel(struct smtp_client *c, uint64_t now_ms)
{
    if (c->state == SMTP_CLIENT_CLOSED) {
        return;
    }
    CHECK(c->state == SMTP_CLIENT_AUTH && c->login == LOGIN_CHALLENGED);
    c->now_ms = now_ms;
    clear_auth(c);
    c->secret_output = false;
    buf_put_byte(&c->output, '*');
    expect_login(c, LOGIN_CANCELLED);
}

/* ---- secrets in replies ---- */

static size_t common_bytes(struct slice a, struct slice b)
{
    size_t count = 0;
    while (count < a.len && count < b.len && a.data[count] == b.data[count]) {
        count++;
    }
    return count;
}

/* How many bytes at the front of text are the secret's, as it was sent or as it is. */
static size_t secret_bytes(struct slice text, struct slice sent, struct slice word)
{
    size_t count = common_bytes(text, sent);
    if (count >= size_min(sent.len, MASKED_BYTES_MIN)) {
        return count;
    }
    return word.len >= MASKED_WORD_MIN && slice_starts_with(text, word) ? word.len : 0;
}

_Static_assert(MASKED_BYTES_MIN >= 4 && MASKED_WORD_MIN >= 4, "the mask is no longer than that");

/* In place. Returns what is left of len. */
static size_t mask(uint8_t *text, size_t len, struct slice sent, struct slice word)
{
    size_t left = 0;
    for (size_t at = 0; at < len;) {
        size_t count = secret_bytes(slice_of(text + at, len - at), sent, word);
        if (count == 0) {
            text[left++] = text[at++];
        } else {
            memcpy(text + left, "****", 4);
            left += 4;
            at += count;
        }
    }
    return left;
}

/* RFC 4616 2: "authzid NUL user NUL password"; other responses have no NUL. */
static struct slice password_in(struct slice response)
{
    for (size_t nul = slice_find(response, '\0'); nul < response.len;
         nul = slice_find(response, '\0')) {
        response = slice_tail(response, nul + 1);
    }
    return response;
}

void smtp_client_mask_reply(struct smtp_client *c, struct smtp_reply *reply)
{
    if (c->state != SMTP_CLIENT_AUTH || c->login != LOGIN_ASKED || c->auth.len == 0 ||
        reply->code == 334) {
        return;
    }
    uint8_t memory[SMTP_AUTH_LINE_BYTES_MAX];
    struct buf sent;
    buf_init(&sent, memory, sizeof memory);
    text_put_base64(&sent, buf_slice(&c->auth));
    c->parser.text.len = mask(c->parser.text.data, c->parser.text.len, buf_slice(&sent),
                              password_in(buf_slice(&c->auth)));
    reply->text = c->parser.reply.text = buf_slice(&c->parser.text);
    explicit_bzero(memory, sent.len);
}

void smtp_client_auth_give_up(struct smtp_client *c, uint64_t now_ms)
{
    if (c->state == SMTP_CLIENT_CLOSED) {
        return;
    }
    CHECK(c->state == SMTP_CLIENT_AUTH);
    smtp_client_quit(c, now_ms);
}

/* "334 " base64. A challenge that the parser had to cut is no challenge. */
static enum smtp_client_verdict take_challenge(struct smtp_client *c,
                                               const struct smtp_reply *reply)
{
    c->challenge_count++;
    if (c->challenge_count > CHALLENGES_MAX || c->login == LOGIN_CANCELLED ||
        reply->line_count != 1 || c->parser.text.overflow) {
        return SMTP_CLIENT_VERDICT_ABSURD;
    }
    if (c->login == LOGIN_HELD) {
        if (reply->text.len > 0) {
            return SMTP_CLIENT_VERDICT_ABSURD;
        }
        put_response(c);
        return SMTP_CLIENT_VERDICT_TAKEN;
    }
    clear_auth(c);
    if (!text_get_base64(&c->auth, reply->text)) {
        return SMTP_CLIENT_VERDICT_ABSURD;
    }
    c->login = LOGIN_CHALLENGED;
    smtp_client_push(c, (struct smtp_client_event){.type = SMTP_CLIENT_EVENT_AUTH_CHALLENGE,
                                                   .stage = SMTP_CLIENT_STAGE_AUTH,
                                                   .challenge = buf_slice(&c->auth)});
    return SMTP_CLIENT_VERDICT_TAKEN;
}

enum smtp_client_verdict smtp_client_auth_answered(struct smtp_client *c,
                                                   const struct smtp_reply *reply, uint32_t index)
{
    (void)index;
    if (reply->code == 334) {
        return take_challenge(c, reply);
    }
    bool logged_in = reply->code == 235 && c->login == LOGIN_ASKED;
    if (!logged_in && !smtp_client_reply_is_no(reply)) {
        return SMTP_CLIENT_VERDICT_ABSURD;
    }
    c->login = LOGIN_IDLE;
    clear_auth(c);
    smtp_client_push(c, (struct smtp_client_event){.type = SMTP_CLIENT_EVENT_AUTH_RESULT,
                                                   .stage = SMTP_CLIENT_STAGE_AUTH,
                                                   .reply = *reply});
    if (logged_in) {
        become_ready(c);
    }
    return SMTP_CLIENT_VERDICT_TAKEN;
}
