/*
 * The SMTP client against servers of every kind.
 *
 * dialogues[]     who says what, line by line, played exactly, with every server line cut at every
 *                 byte
 * transactions[]  a server as a list of answers, and what the owner hears; played in each
 *                 pipelining mode with several cuts, and always with the same result
 */
#include "daemon/proto/smtp_client.h"

#include "daemon/base/text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define RECIPIENTS_MAX 100
#define EVERY_BYTE     SIZE_MAX

static const char *const recipients_text[] = {"a@x.example", "b@x.example", "c@x.example",
                                              "d@x.example", "e@x.example", "f@x.example"};

/* ---- what both players share ---- */

struct player {
    struct smtp_client_config config;
    struct smtp_client client;
    uint8_t output[SMTP_CLIENT_OUTPUT_BYTES];
    struct smtp_client_recipient recipients[RECIPIENTS_MAX];
    uint64_t now_ms;
    struct buf pending; /* what the server said and the client did not use yet */
    uint8_t pending_memory[SMTP_REPLY_BYTES_MAX * 2];
    const char *name;
    size_t cut;
};

static bool has_option(const char *options, const char *name)
{
    return strstr(options, name) != NULL;
}

static void player_init(struct player *p, const char *name, const char *options, size_t cut)
{
    memset(p, 0, sizeof *p);
    p->name = name;
    p->cut = cut;
    p->config = (struct smtp_client_config){
        .hello_name = "me.example",
        .tls = has_option(options, "starttls")  ? SMTP_CLIENT_TLS_STARTTLS
               : has_option(options, "already") ? SMTP_CLIENT_TLS_ALREADY
                                                : SMTP_CLIENT_TLS_NONE,
        .pipelining = has_option(options, "stream") ? SMTP_CLIENT_PIPELINING_STREAM
                      : has_option(options, "safe") ? SMTP_CLIENT_PIPELINING_SAFE
                                                    : SMTP_CLIENT_PIPELINING_OFF,
        .window_max = 4,
        .window_bytes_max = 100000,
        .auth = has_option(options, "auth"),
        .greeting_ms_max = 1000,
        .command_ms_max = 2000,
        .data_ms_max = 3000,
        .block_ms_max = 4000,
        .end_ms_max = 5000,
        .quit_ms_max = 6000,
    };
    p->now_ms = 100000;
    buf_init(&p->pending, p->pending_memory, sizeof p->pending_memory);
    for (size_t index = 0; index < RECIPIENTS_MAX; index++) {
        p->recipients[index].path = slice_from_str(
            recipients_text[index % (sizeof recipients_text / sizeof recipients_text[0])]);
    }
    smtp_client_init(&p->client, &p->config, p->output, p->now_ms);
}

/* Gives what is pending, in pieces as cut says, until an event waits. */
static void player_feed(struct player *p)
{
    size_t piece = p->cut == 0 ? SIZE_MAX : p->cut == EVERY_BYTE ? 1 : p->cut;
    while (p->pending.len > 0) {
        struct slice in = slice_head(buf_slice(&p->pending), piece);
        size_t used = smtp_client_feed(&p->client, in, p->now_ms);
        assert_true(used <= in.len);
        buf_consume(&p->pending, used);
        if (used == 0) {
            return;
        }
        piece = p->cut == EVERY_BYTE ? 1 : SIZE_MAX;
    }
}

static const char *const failure_words[] = {"reply",    "no-starttls", "no-auth",
                                            "protocol", "timeout",     "closed"};

/* A message that has a tag is named by it. */
static void event_describe(const struct smtp_client_event *event, struct buf *to)
{
    if (event->tag > 0) {
        buf_printf(to, "#%u ", event->tag);
    }
    switch (event->type) {
    case SMTP_CLIENT_EVENT_STARTTLS:
        buf_put_str(to, "starttls");
        break;
    case SMTP_CLIENT_EVENT_AUTH:
        buf_put_str(to, "auth ");
        buf_put(to, event->mechanisms);
        break;
    case SMTP_CLIENT_EVENT_AUTH_CHALLENGE:
        buf_put_str(to, "challenge ");
        buf_put(to, event->challenge);
        break;
    case SMTP_CLIENT_EVENT_AUTH_RESULT:
        buf_printf(to, "auth-result %u", event->reply.code);
        break;
    case SMTP_CLIENT_EVENT_READY:
        buf_put_str(to, "ready");
        break;
    case SMTP_CLIENT_EVENT_RECIPIENT:
        buf_printf(to, "refused %u at %s by %u", event->index, smtp_client_stage_word(event->stage),
                   event->reply.code);
        break;
    case SMTP_CLIENT_EVENT_CONTENT:
        buf_put_str(to, "content");
        break;
    case SMTP_CLIENT_EVENT_DONE:
        buf_printf(to, "done %u by %u", event->accepted_count, event->reply.code);
        break;
    case SMTP_CLIENT_EVENT_LOST:
        buf_printf(to, "lost %s at %s by %u%s", failure_words[event->failure],
                   smtp_client_stage_word(event->stage), event->reply.code,
                   event->behind ? " behind" : "");
        assert_true(event->detail != NULL);
        break;
    case SMTP_CLIENT_EVENT_FAILED:
        buf_printf(to, "failed %s at %s by %u", failure_words[event->failure],
                   smtp_client_stage_word(event->stage), event->reply.code);
        assert_true(event->detail != NULL && strlen(event->detail) > 0);
        break;
    case SMTP_CLIENT_EVENT_CLOSE:
        buf_put_str(to, "close");
        break;
    }
}

/* Closed is final: no output, no deadline, no input, no event. */
static void check_closed(struct player *p)
{
    struct smtp_client_event event;
    assert_int_equal(p->client.state, SMTP_CLIENT_CLOSED);
    assert_int_equal(smtp_client_output(&p->client).len, 0);
    assert_true(smtp_client_deadline_ms(&p->client) == UINT64_MAX);
    assert_int_equal(smtp_client_feed(&p->client, SLICE("220 x\r\n"), p->now_ms), 0);
    smtp_client_stream_ended(&p->client);
    smtp_client_expire(&p->client, UINT64_MAX);
    smtp_client_quit(&p->client, p->now_ms);
    assert_int_equal(smtp_client_content(&p->client, SLICE("x"), p->now_ms), 1);
    assert_true(smtp_client_content_end(&p->client, p->now_ms));
    smtp_client_output_done(&p->client, 1, p->now_ms);
    assert_false(smtp_client_next(&p->client, &event));
}

/* ---- dialogues ---- */

/*
 *   S text     the server sends the line
 *   S+ text    the same, in one piece with the next S line
 *   C text     the client's next line; it is sent then
 *   E text     the next event
 *   > move     the owner's
 */
struct dialogue {
    const char *name;
    const char *options;
    const char *text;
};

#define HELLO                                                                                      \
    "S 220 mx\n"                                                                                   \
    "C EHLO me.example\n"

static const struct dialogue dialogues[] = {
    {"the plainest", "",
     HELLO "S 250 mx\nE ready\n> mail 1\nC MAIL FROM:<s@y.example>\nS 250 ok\n"
           "C RCPT TO:<a@x.example>\nS 250 ok\nC DATA\nS 354 go\nE content\n> content hi\n> end\n"
           "C hi\nC .\nS 250 taken\nE done 1 by 250\n> quit\nC QUIT\nS 221 bye\nE close\n"},
    {"an empty reverse path", "",
     HELLO "S 250 mx\nE ready\n> mail 1 null\nC MAIL FROM:<>\nS 250 ok\nC RCPT TO:<a@x.example>\n"
           "S 250 ok\n"},
    {"content whose lines begin with dots", "",
     HELLO "S 250 mx\nE ready\n> mail 1\nC MAIL FROM:<s@y.example>\nS 250 ok\n"
           "C RCPT TO:<a@x.example>\nS 250 ok\nC DATA\nS 354 go\nE content\n> content .\n"
           "> content ..a\n> end\nC ..\nC ...a\nC .\nS 250 taken\nE done 1 by 250\n"},
    {"empty content", "",
     HELLO "S 250 mx\nE ready\n> mail 1\nC MAIL FROM:<s@y.example>\nS 250 ok\n"
           "C RCPT TO:<a@x.example>\nS 250 ok\nC DATA\nS 354 go\nE content\n> end\nC .\n"
           "S 250 taken\nE done 1 by 250\n"},
    /* greeting */
    {"a greeting of many lines", "", "S+ 220-a\nS+ 220-b\nS 220 c\nC EHLO me.example\n"},
    {"greeting 554", "", "S 554 no service\nE failed reply at greeting by 554\n"},
    {"greeting 450", "", "S 450 later\nE failed reply at greeting by 450\n"},
    {"greeting 421", "", "S 421 closing\nE failed reply at greeting by 421\n"},
    {"greeting 250", "", "S 250 hi\nE failed protocol at greeting by 250\n"},
    {"greeting 354", "", "S 354 hi\nE failed protocol at greeting by 354\n"},
    {"another protocol", "", "S SSH-2.0-OpenSSH_9.2\nE failed protocol at greeting by 0\n"},
    {"talk behind the greeting", "", "S+ 220 mx\nS 250 mx\nE failed protocol at ehlo by 250\n"},
    {"no greeting at all", "", "> expire\nE failed timeout at greeting by 0\n"},
    {"the end instead of a greeting", "", "> ended\nE failed closed at greeting by 0\n"},
    {"quit before the greeting", "", "> quit\nE close\n"},
    /* EHLO */
    {"EHLO 502, HELO", "",
     HELLO "S 502 no\nC HELO me.example\nS 250 mx\nE ready\n> mail 1\n"
           "C MAIL FROM:<s@y.example>\n"},
    {"EHLO 550, HELO 550", "",
     HELLO "S 550 no\nC HELO me.example\nS 550 no\nE failed reply at ehlo by 550\n"},
    {"HELO 354", "",
     HELLO "S 500 no\nC HELO me.example\nS 354 x\nE failed protocol at ehlo by 354\n"},
    {"EHLO 451", "", HELLO "S 451 later\nE failed reply at ehlo by 451\n"},
    {"EHLO 421", "", HELLO "S 421 closing\nE failed reply at ehlo by 421\n"},
    {"EHLO 334", "", HELLO "S 334 x\nE failed protocol at ehlo by 334\n"},
    {"EHLO 502, login demanded", "auth", HELLO "S 502 no\nE failed reply at ehlo by 502\n"},
    {"EHLO 500, TLS demanded", "starttls", HELLO "S 500 no\nE failed reply at ehlo by 500\n"},
    {"EHLO 550, inside TLS", "already", HELLO "S 550 no\nE failed reply at ehlo by 550\n"},
    {"HELO forgets nothing it never heard", "safe",
     HELLO "S 500 no\nC HELO me.example\nS+ 250-mx\nS+ 250-PIPELINING\nS 250 SIZE 10\nE ready\n"
           "> mail 2 size=20\nC MAIL FROM:<s@y.example>\nN\n"},
    /* STARTTLS */
    {"TLS and a login", "starttls auth safe",
     HELLO "S+ 250-mx\nS+ 250-AUTH LOGIN\nS+ 250-SIZE 5\nS 250 STARTTLS\nC STARTTLS\nS 220 go\n"
           "E starttls\nN\n> tls\nC EHLO me.example\nS+ 250-mx\nS+ 250-STARTTLS\n"
           "S 250-auth plain\nS 250 PIPELINING\nE auth PLAIN\n> auth PLAIN secret\n"
           "C AUTH PLAIN c2VjcmV0\nS 235 welcome\nE auth-result 235\nE ready\n> mail 1 size=20\n"
           "C MAIL FROM:<s@y.example>\n"},
    {"the login is offered before TLS only", "starttls auth",
     HELLO "S+ 250-mx\nS+ 250-AUTH LOGIN\nS 250 STARTTLS\nC STARTTLS\nS 220 go\nE starttls\n"
           "> tls\nC EHLO me.example\nS 250 mx\nE failed no-auth at ehlo by 0\n"},
    {"PIPELINING is offered before TLS only", "starttls safe",
     HELLO "S+ 250-mx\nS+ 250-PIPELINING\nS 250 STARTTLS\nC STARTTLS\nS 220 go\nE starttls\n"
           "> tls\nC EHLO me.example\nS 250 mx\nE ready\n> mail 1\nC MAIL FROM:<s@y.example>\nN\n"
           "S 250 ok\nC RCPT TO:<a@x.example>\nN\n"},
    {"TLS is not offered", "starttls", HELLO "S 250 mx\nE failed no-starttls at ehlo by 0\n"},
    {"TLS is not offered, a login is", "starttls auth",
     HELLO "S+ 250-mx\nS 250 AUTH PLAIN\nE failed no-starttls at ehlo by 0\n"},
    {"STARTTLS 454", "starttls",
     HELLO
     "S+ 250-mx\nS 250 STARTTLS\nC STARTTLS\nS 454 later\nE failed reply at starttls by 454\n"},
    {"STARTTLS 502", "starttls",
     HELLO "S+ 250-mx\nS 250 STARTTLS\nC STARTTLS\nS 502 no\nE failed reply at starttls by 502\n"},
    {"STARTTLS 354", "starttls",
     HELLO
     "S+ 250-mx\nS 250 STARTTLS\nC STARTTLS\nS 354 x\nE failed protocol at starttls by 354\n"},
    {"STARTTLS 250", "starttls",
     HELLO
     "S+ 250-mx\nS 250 STARTTLS\nC STARTTLS\nS 250 x\nE failed protocol at starttls by 250\n"},
    {"STARTTLS 421", "starttls",
     HELLO "S+ 250-mx\nS 250 STARTTLS\nC STARTTLS\nS 421 x\nE failed reply at starttls by 421\n"},
    {"STARTTLS answered before it was sent", "starttls",
     HELLO "S+ 250-mx\nS+ 250 STARTTLS\nS 220 go\nE failed protocol at starttls by 220\n"},
    {"the handshake never comes", "starttls",
     HELLO "S+ 250-mx\nS 250 STARTTLS\nC STARTTLS\nS 220 go\nE starttls\n> ended\n"
           "E failed closed at tls by 0\n"},
    {"quit before the handshake", "starttls",
     HELLO "S+ 250-mx\nS 250 STARTTLS\nC STARTTLS\nS 220 go\nE starttls\n> quit\nE close\n"},
    {"STARTTLS is not asked for when TLS is off", "",
     HELLO "S+ 250-mx\nS 250 STARTTLS\nE ready\nN\n"},
    /* login */
    {"a login by challenges", "auth",
     HELLO "S+ 250-mx\nS+ 250-AUTH=LOGIN\nS 250 AUTH LOGIN CRAM-MD5 login bad/name\n"
           "E auth LOGIN CRAM-MD5\n> auth LOGIN\nC AUTH LOGIN\nS 334 VXNlcm5hbWU6\n"
           "E challenge Username:\n> response me\nC bWU=\nS 334 \nE challenge \n> response \n"
           "C \nS 235 ok\nE auth-result 235\nE ready\n"},
    {"an empty initial response", "auth",
     HELLO "S+ 250-mx\nS 250 AUTH EXTERNAL\nE auth EXTERNAL\n> auth EXTERNAL =\n"
           "C AUTH EXTERNAL =\nS 235 ok\nE auth-result 235\nE ready\n"},
    {"an initial response that is too long for the line", "auth",
     HELLO "S+ 250-mx\nS 250 AUTH XOAUTH2\nE auth XOAUTH2\n> auth-long XOAUTH2\nC AUTH XOAUTH2\n"
           "S 334\nL 1020\nS 235 ok\nE auth-result 235\nE ready\n"},
    {"a challenge for a held response", "auth",
     HELLO "S+ 250-mx\nS 250 AUTH XOAUTH2\nE auth XOAUTH2\n> auth-long XOAUTH2\nC AUTH XOAUTH2\n"
           "S 334 eA==\nE failed protocol at login by 334\n"},
    {"a held response that nobody asks for", "auth",
     HELLO "S+ 250-mx\nS 250 AUTH XOAUTH2\nE auth XOAUTH2\n> auth-long XOAUTH2\nC AUTH XOAUTH2\n"
           "S 235 ok\nE failed protocol at login by 235\n"},
    {"one refused, another taken", "auth",
     HELLO "S+ 250-mx\nS 250 AUTH PLAIN LOGIN\nE auth PLAIN LOGIN\n> auth PLAIN x\n"
           "C AUTH PLAIN eA==\nS 535 no\nE auth-result 535\n> auth LOGIN\nC AUTH LOGIN\nS 235 ok\n"
           "E auth-result 235\nE ready\n"},
    {"refused, given up", "auth",
     HELLO "S+ 250-mx\nS 250 AUTH PLAIN\nE auth PLAIN\n> auth PLAIN x\nC AUTH PLAIN eA==\n"
           "S 454 later\nE auth-result 454\n> give-up\nC QUIT\nS 221 bye\nE close\n"},
    {"no mechanism will do", "auth",
     HELLO "S+ 250-mx\nS 250 AUTH NTLM\nE auth NTLM\n> give-up\nC QUIT\n> ended\nE close\n"},
    {"given up within a challenge", "auth",
     HELLO "S+ 250-mx\nS 250 AUTH LOGIN\nE auth LOGIN\n> auth LOGIN\nC AUTH LOGIN\nS 334 eA==\n"
           "E challenge x\n> give-up\nE close\n"},
    {"cancelled", "auth",
     HELLO "S+ 250-mx\nS 250 AUTH LOGIN\nE auth LOGIN\n> auth LOGIN\nC AUTH LOGIN\nS 334 eA==\n"
           "E challenge x\n> cancel\nC *\nS 501 cancelled\nE auth-result 501\n> give-up\nC QUIT\n"},
    {"cancelled, and accepted", "auth",
     HELLO "S+ 250-mx\nS 250 AUTH LOGIN\nE auth LOGIN\n> auth LOGIN\nC AUTH LOGIN\nS 334 eA==\n"
           "E challenge x\n> cancel\nC *\nS 235 ok\nE failed protocol at login by 235\n"},
    {"cancelled, and asked again", "auth",
     HELLO "S+ 250-mx\nS 250 AUTH LOGIN\nE auth LOGIN\n> auth LOGIN\nC AUTH LOGIN\nS 334 eA==\n"
           "E challenge x\n> cancel\nC *\nS 334 eA==\nE failed protocol at login by 334\n"},
    {"a challenge that is no base64", "auth",
     HELLO "S+ 250-mx\nS 250 AUTH LOGIN\nE auth LOGIN\n> auth LOGIN\nC AUTH LOGIN\nS 334 ?!\n"
           "E failed protocol at login by 334\n"},
    {"a challenge of two lines", "auth",
     HELLO "S+ 250-mx\nS 250 AUTH LOGIN\nE auth LOGIN\n> auth LOGIN\nC AUTH LOGIN\n"
           "S+ 334-eA==\nS 334 eA==\nE failed protocol at login by 334\n"},
    {"login 250", "auth",
     HELLO "S+ 250-mx\nS 250 AUTH PLAIN\nE auth PLAIN\n> auth PLAIN x\nC AUTH PLAIN eA==\n"
           "S 250 ok\nE failed protocol at login by 250\n"},
    {"login 421", "auth",
     HELLO "S+ 250-mx\nS 250 AUTH PLAIN\nE auth PLAIN\n> auth PLAIN x\nC AUTH PLAIN eA==\n"
           "S 421 x\nE failed reply at login by 421\n"},
    {"a login accepted before it was asked for", "auth",
     HELLO "S+ 250-mx\nS 250 AUTH PLAIN\nE auth PLAIN\nS 235 ok\n"
           "E failed protocol at login by 235\n"},
    {"a reply while a challenge is being answered", "auth",
     HELLO "S+ 250-mx\nS 250 AUTH LOGIN\nE auth LOGIN\n> auth LOGIN\nC AUTH LOGIN\nS 334 eA==\n"
           "E challenge x\nS 235 ok\nE failed protocol at login by 235\n"},
    {"no login is offered", "auth", HELLO "S 250 mx\nE failed no-auth at ehlo by 0\n"},
    {"a login without mechanisms", "auth",
     HELLO "S+ 250-mx\nS 250 AUTH\nE failed no-auth at ehlo by 0\n"},
    {"a login is not used when none is configured", "",
     HELLO "S+ 250-mx\nS 250 AUTH PLAIN\nE ready\nN\n"},
    /* parameters of MAIL, only where they are announced */
    {"all parameters", "",
     HELLO "S+ 250-mx\nS+ 250-SIZE 1000\nS+ 250-8BITMIME\nS 250 SMTPUTF8\nE ready\n"
           "> mail 1 size=1000 8bit utf8\n"
           "C MAIL FROM:<s@y.example> SIZE=1000 BODY=8BITMIME SMTPUTF8\n"},
    {"what is not needed is not asked for", "",
     HELLO "S+ 250-mx\nS+ 250-size\nS+ 250-8bitmime\nS 250 smtputf8\nE ready\n> mail 1 size=7\n"
           "C MAIL FROM:<s@y.example> SIZE=7\n"},
    {"nothing announced", "",
     HELLO "S 250 mx\nE ready\n> mail 1 size=7 8bit\nC MAIL FROM:<s@y.example>\n"},
    {"SIZE 0 is no limit, nor is SIZE of nonsense", "",
     HELLO "S+ 250-mx\nS+ 250-SIZE 0\nS 250 SIZE 99999999999999999999999\nE ready\n"
           "> mail 1 size=7\nC MAIL FROM:<s@y.example> SIZE=7\n"},
    {"larger than its SIZE", "",
     HELLO "S+ 250-mx\nS 250 SIZE 1000\nE ready\n> mail-too-large 1 size=1001\nN\n"
           "> mail 1 size=1000\nC MAIL FROM:<s@y.example> SIZE=1000\n"},
    {"SMTPUTF8 is not offered", "", HELLO "S 250 mx\nE ready\n> mail-no-utf8 1 utf8\nN\n"},
    {"an address that is not ASCII asks for SMTPUTF8 by itself", "",
     HELLO "S+ 250-mx\nS 250 SMTPUTF8\nE ready\n> mail 1 idn\n"
           "C MAIL FROM:<s@y.example> SMTPUTF8\n"},
    {"an address that is not ASCII, not offered", "",
     HELLO "S 250 mx\nE ready\n> mail-no-utf8 1 idn\nN\n"},
    /* pipelining, flight by flight */
    {"one flight", "safe",
     HELLO "S+ 250-mx\nS 250 PIPELINING\nE ready\n> mail 2\nC MAIL FROM:<s@y.example>\n"
           "C RCPT TO:<a@x.example>\nC RCPT TO:<b@x.example>\nC DATA\nN\nS+ 250 1\nS+ 250 2\n"
           "S+ 250 3\nS 354 4\nE content\n> end\nC .\nS 250 5\nE done 2 by 250\nN\n"},
    {"off, though announced", "",
     HELLO "S+ 250-mx\nS 250 PIPELINING\nE ready\n> mail 2\nC MAIL FROM:<s@y.example>\nN\n"
           "S 250 1\nC RCPT TO:<a@x.example>\nN\nS 250 2\nC RCPT TO:<b@x.example>\nN\nS 250 3\n"
           "C DATA\nN\n"},
    {"safe, not announced", "safe",
     HELLO "S 250 mx\nE ready\n> mail 2\nC MAIL FROM:<s@y.example>\nN\n"},
    {"no RCPT after a refused MAIL", "",
     HELLO "S 250 mx\nE ready\n> mail 2\nC MAIL FROM:<s@y.example>\nS 550 no\n"
           "E refused 0 at mail by 550\nE refused 1 at mail by 550\nE done 0 by 0\nN\n"
           "> mail 1\nC MAIL FROM:<s@y.example>\n"},
    {"RSET after all recipients were refused", "",
     HELLO "S 250 mx\nE ready\n> mail 1\nC MAIL FROM:<s@y.example>\nS 250 ok\n"
           "C RCPT TO:<a@x.example>\nS 550 no\nE refused 0 at rcpt by 550\nC RSET\nS 250 ok\n"
           "E done 0 by 0\nN\n"},
    {"RSET after a refused DATA", "",
     HELLO "S 250 mx\nE ready\n> mail 1\nC MAIL FROM:<s@y.example>\nS 250 ok\n"
           "C RCPT TO:<a@x.example>\nS 250 ok\nC DATA\nS 451 no\nE refused 0 at data by 451\n"
           "C RSET\nS 250 ok\nE done 0 by 0\nN\n"},
    {"a refused RSET", "",
     HELLO "S 250 mx\nE ready\n> mail 1\nC MAIL FROM:<s@y.example>\nS 250 ok\n"
           "C RCPT TO:<a@x.example>\nS 550 no\nE refused 0 at rcpt by 550\nC RSET\nS 502 no\n"
           "E lost reply at idle by 502\nE failed reply at idle by 502\n"},
    {"a lone dot", "safe",
     HELLO "S+ 250-mx\nS 250 PIPELINING\nE ready\n> mail 1\nC MAIL FROM:<s@y.example>\n"
           "C RCPT TO:<a@x.example>\nC DATA\nS+ 250 1\nS+ 550 2\nS 354 3\n"
           "E refused 0 at rcpt by 550\nC .\nS 250 taken\nE done 0 by 0\nN\n"},
    {"a lone dot after a refused MAIL", "safe",
     HELLO "S+ 250-mx\nS 250 PIPELINING\nE ready\n> mail 1\nC MAIL FROM:<s@y.example>\n"
           "C RCPT TO:<a@x.example>\nC DATA\nS+ 550 1\nS+ 250 2\nS 354 3\n"
           "E refused 0 at mail by 550\nC .\nS 554 none\nE done 0 by 0\nN\n"},
    {"a lone dot and 421", "safe",
     HELLO "S+ 250-mx\nS 250 PIPELINING\nE ready\n> mail 1\nC MAIL FROM:<s@y.example>\n"
           "C RCPT TO:<a@x.example>\nC DATA\nS+ 250 1\nS+ 550 2\nS 354 3\n"
           "E refused 0 at rcpt by 550\nC .\nS 421 bye\nE lost reply at idle by 421\nE failed "
           "reply at idle by 421\n"},
    {"a lone dot and 354", "safe",
     HELLO "S+ 250-mx\nS 250 PIPELINING\nE ready\n> mail 1\nC MAIL FROM:<s@y.example>\n"
           "C RCPT TO:<a@x.example>\nC DATA\nS+ 250 1\nS+ 550 2\nS 354 3\n"
           "E refused 0 at rcpt by 550\nC .\nS 354 more\nE lost protocol at idle by 354\nE failed "
           "protocol at idle by 354\n"},
    /* what was not asked for */
    {"a reply in READY", "",
     HELLO "S 250 mx\nE ready\nS 250 what\nE failed protocol at idle by 250\n"},
    {"a refusal in READY", "",
     HELLO "S 250 mx\nE ready\nS 550 what\nE failed protocol at idle by 550\n"},
    {"421 in READY", "", HELLO "S 250 mx\nE ready\nS 421 idle\nE failed reply at idle by 421\n"},
    {"the end in READY", "", HELLO "S 250 mx\nE ready\n> ended\nE failed closed at idle by 0\n"},
    {"MAIL answered before it was sent", "",
     HELLO "S 250 mx\nE ready\n> mail 1\nS 250 ok\nE lost protocol at mail by 250\nE failed "
           "protocol at mail by 250\n"},
    {"RCPT answered before it was sent", "",
     HELLO "S 250 mx\nE ready\n> mail 1\nC MAIL FROM:<s@y.example>\nS+ 250 1\nS 250 2\n"
           "E lost protocol at rcpt by 250\nE failed protocol at rcpt by 250\n"},
    {"two replies to DATA", "",
     HELLO
     "S 250 mx\nE ready\n> mail 1\nC MAIL FROM:<s@y.example>\nS 250 ok\nC RCPT TO:<a@x.example>\nS "
     "250 ok\nC DATA\nS+ 354 go\nS 250 taken\nE content\nE lost protocol at content by 250\nE "
     "failed protocol at content by 250\n"},
    {"accepted before the dot was sent", "",
     HELLO "S 250 mx\nE ready\n> mail 1\nC MAIL FROM:<s@y.example>\nS 250 ok\n"
           "C RCPT TO:<a@x.example>\nS 250 ok\nC DATA\nS 354 go\nE content\n> content hi\n> end\n"
           "C hi\nS 250 taken\nE lost protocol at end by 250\nE failed protocol at end by 250\n"},
    {"refused before the dot was sent", "",
     HELLO "S 250 mx\nE ready\n> mail 1\nC MAIL FROM:<s@y.example>\nS 250 ok\n"
           "C RCPT TO:<a@x.example>\nS 250 ok\nC DATA\nS 354 go\nE content\n> content hi\n> end\n"
           "C hi\nS 552 large\nE lost reply at content by 552\nE failed reply at content by 552\n"},
    {"two replies to the dot", "",
     HELLO "S 250 mx\nE ready\n> mail 1\nC MAIL FROM:<s@y.example>\nS 250 ok\n"
           "C RCPT TO:<a@x.example>\nS 250 ok\nC DATA\nS 354 go\nE content\n> end\nC .\n"
           "S+ 250 taken\nS 250 again\nE done 1 by 250\nE failed protocol at idle by 250\n"},
    {"354 for the dot", "",
     HELLO "S 250 mx\nE ready\n> mail 1\nC MAIL FROM:<s@y.example>\nS 250 ok\n"
           "C RCPT TO:<a@x.example>\nS 250 ok\nC DATA\nS 354 go\nE content\n> end\nC .\n"
           "S 354 more\nE lost protocol at end by 354\nE failed protocol at end by 354\n"},
    {"a reply that is none, for the dot", "",
     HELLO "S 250 mx\nE ready\n> mail 1\nC MAIL FROM:<s@y.example>\nS 250 ok\n"
           "C RCPT TO:<a@x.example>\nS 250 ok\nC DATA\nS 354 go\nE content\n> end\nC .\n"
           "S taken\nE lost protocol at end by 0\nE failed protocol at end by 0\n"},
    {"the end after the dot", "",
     HELLO "S 250 mx\nE ready\n> mail 1\nC MAIL FROM:<s@y.example>\nS 250 ok\n"
           "C RCPT TO:<a@x.example>\nS 250 ok\nC DATA\nS 354 go\nE content\n> end\nC .\n"
           "> ended\nE lost closed at end by 0\nE failed closed at end by 0\n"},
    {"silence after the dot", "",
     HELLO "S 250 mx\nE ready\n> mail 1\nC MAIL FROM:<s@y.example>\nS 250 ok\n"
           "C RCPT TO:<a@x.example>\nS 250 ok\nC DATA\nS 354 go\nE content\n> end\nC .\n"
           "> expire\nE lost timeout at end by 0\nE failed timeout at end by 0\n"},
    /* QUIT */
    {"QUIT and any answer", "",
     HELLO "S 250 mx\nE ready\n> quit\nC QUIT\nS+ 500 what\nS 250 x\nE close\n"},
    {"QUIT and 421", "", HELLO "S 250 mx\nE ready\n> quit\nC QUIT\nS 421 x\nE close\n"},
    {"QUIT and the end", "", HELLO "S 250 mx\nE ready\n> quit\nC QUIT\n> ended\nE close\n"},
    {"QUIT and silence", "", HELLO "S 250 mx\nE ready\n> quit\nC QUIT\n> expire\nE close\n"},
    {"QUIT and nonsense", "", HELLO "S 250 mx\nE ready\n> quit\nC QUIT\nS bye\nE close\n"},
    /* addresses that a damaged store could bring */
    {"a sender that cannot be said", "",
     HELLO "S 250 mx\nE ready\n> mail 2 bad-sender\nE refused 0 at mail by 0\n"
           "E refused 1 at mail by 0\nE done 0 by 0\nN\n"},
    {"a recipient that cannot be said", "",
     HELLO "S 250 mx\nE ready\n> mail 3 bad-recipient\nE refused 1 at rcpt by 0\n"
           "C MAIL FROM:<s@y.example>\nS 250 ok\nC RCPT TO:<a@x.example>\nS 250 ok\n"
           "C RCPT TO:<c@x.example>\nS 250 ok\nC DATA\nS 354 go\nE content\n> end\nC .\n"
           "S 250 taken\nE done 2 by 250\n"},
    {"no recipient that can be said", "safe",
     HELLO "S+ 250-mx\nS 250 PIPELINING\nE ready\n> mail 2 long-recipients\n"
           "E refused 0 at rcpt by 0\nE refused 1 at rcpt by 0\nE done 0 by 0\nN\n"},
};

static void mail_set_up(struct player *p, const char *options, struct smtp_client_mail *out_mail)
{
    static char long_address[SMTP_PATH_BYTES_MAX + 1];
    memset(long_address, 'x', sizeof long_address);
    *out_mail = (struct smtp_client_mail){
        .sender = has_option(options, "null")         ? SLICE("")
                  : has_option(options, "bad-sender") ? SLICE("s@y\r\nRSET")
                                                      : SLICE("s@y.example"),
        .recipients = p->recipients,
        .recipient_count = (uint32_t)strtoul(options, NULL, 10),
        .body_8bit = has_option(options, "8bit"),
        .smtputf8 = has_option(options, "utf8"),
    };
    const char *size = strstr(options, "size=");
    out_mail->size = size == NULL ? 0 : strtoull(size + 5, NULL, 10);
    if (has_option(options, "bad-recipient")) {
        p->recipients[1].path = SLICE("b@x\x7f");
    }
    if (has_option(options, "idn")) {
        p->recipients[0].path = SLICE("\xe6\x97\xa5@x.example");
    }
    if (has_option(options, "long-recipients")) {
        p->recipients[0].path = slice_of(long_address, sizeof long_address);
        p->recipients[1].path = SLICE("");
    }
}

/* The move's arguments when line begins with its name, else NULL. */
static const char *arguments(const char *line, const char *name)
{
    size_t len = strlen(name);
    if (strncmp(line, name, len) != 0 || (line[len] != '\0' && line[len] != ' ')) {
        return NULL;
    }
    return line[len] == ' ' ? line + len + 1 : line + len;
}

static void move_auth(struct player *p, const char *text)
{
    char mechanism[32];
    size_t len = strcspn(text, " ");
    assert_true(len < sizeof mechanism);
    memcpy(mechanism, text, len);
    mechanism[len] = '\0';
    bool has_initial = text[len] == ' ';
    const char *initial = has_initial ? text + len + 1 : "";
    initial = strcmp(initial, "=") == 0 ? "" : initial;
    smtp_client_auth(&p->client, mechanism, has_initial, slice_from_str(initial), p->now_ms);
    assert_int_equal(smtp_client_output_is_secret(&p->client), strlen(initial) > 0);
}

static void move_auth_long(struct player *p, const char *mechanism)
{
    char initial[765];
    memset(initial, 'k', sizeof initial);
    smtp_client_auth(&p->client, mechanism, true, slice_of(initial, sizeof initial), p->now_ms);
    assert_false(smtp_client_output_is_secret(&p->client));
}

static void move_content(struct player *p, const char *text)
{
    assert_int_equal(smtp_client_content(&p->client, slice_from_str(text), p->now_ms),
                     strlen(text));
    assert_int_equal(smtp_client_content(&p->client, SLICE("\r\n"), p->now_ms), 2);
}

static void move_mail(struct player *p, const char *options, enum smtp_client_begin expected)
{
    struct smtp_client_mail mail;
    mail_set_up(p, options, &mail);
    assert_int_equal(smtp_client_begin_mail(&p->client, &mail, p->now_ms), expected);
}

static void move_expire(struct player *p)
{
    uint64_t deadline_ms = smtp_client_deadline_ms(&p->client);
    assert_true(deadline_ms != UINT64_MAX);
    smtp_client_expire(&p->client, deadline_ms - 1);
    struct smtp_client_event event;
    assert_false(smtp_client_next(&p->client, &event));
    smtp_client_expire(&p->client, deadline_ms);
}

static void play_move(struct player *p, const char *move)
{
    struct smtp_client *c = &p->client;
    const char *text;
    if (strcmp(move, "tls") == 0) {
        smtp_client_tls_started(c, p->now_ms);
    } else if ((text = arguments(move, "auth")) != NULL) {
        move_auth(p, text);
    } else if ((text = arguments(move, "auth-long")) != NULL) {
        move_auth_long(p, text);
    } else if ((text = arguments(move, "response")) != NULL) {
        smtp_client_auth_response(c, slice_from_str(text), p->now_ms);
        assert_true(smtp_client_output_is_secret(c));
    } else if (strcmp(move, "cancel") == 0) {
        smtp_client_auth_cancel(c, p->now_ms);
    } else if (strcmp(move, "give-up") == 0) {
        smtp_client_auth_give_up(c, p->now_ms);
    } else if ((text = arguments(move, "mail")) != NULL) {
        move_mail(p, text, SMTP_CLIENT_BEGUN);
    } else if ((text = arguments(move, "mail-too-large")) != NULL) {
        move_mail(p, text, SMTP_CLIENT_TOO_LARGE);
    } else if ((text = arguments(move, "mail-no-utf8")) != NULL) {
        move_mail(p, text, SMTP_CLIENT_NO_SMTPUTF8);
    } else if ((text = arguments(move, "content")) != NULL) {
        move_content(p, text);
    } else if (strcmp(move, "end") == 0) {
        assert_true(smtp_client_content_end(c, p->now_ms));
    } else if (strcmp(move, "quit") == 0) {
        smtp_client_quit(c, p->now_ms);
    } else if (strcmp(move, "ended") == 0) {
        smtp_client_stream_ended(c);
    } else if (strcmp(move, "expire") == 0) {
        move_expire(p);
    } else {
        fail_msg("no such move: %s", move);
    }
}

/* The client's next line, which is sent then. */
static void take_line(struct player *p, struct slice *out_line, char memory[2048])
{
    struct slice output = smtp_client_output(&p->client);
    size_t end = slice_find(output, '\n');
    if (end == output.len || end == 0 || end > 2048) {
        fail_msg("%s: no line in the output", p->name);
        return;
    }
    assert_int_equal(output.data[end - 1], '\r');
    memcpy(memory, output.data, end - 1);
    *out_line = slice_of(memory, end - 1);
    smtp_client_output_done(&p->client, end + 1, p->now_ms);
}

static void expect_slice(const struct player *p, const char *what, struct slice got,
                         struct slice expected)
{
    if (!slice_equal(got, expected)) {
        fail_msg("%s (cut %zu): %s \"%.*s\", expected \"%.*s\"", p->name, p->cut, what,
                 (int)got.len, (const char *)got.data, (int)expected.len,
                 (const char *)expected.data);
    }
}

static void expect_no_event(struct player *p)
{
    struct smtp_client_event event;
    if (smtp_client_next(&p->client, &event)) {
        char memory[2048];
        struct buf got;
        buf_init(&got, memory, sizeof memory);
        event_describe(&event, &got);
        fail_msg("%s: event \"%.*s\", expected none", p->name, (int)got.len, memory);
    }
}

static void play_line(struct player *p, const char *line)
{
    char memory[2048];
    struct slice got;
    if (line[0] == 'S') {
        bool glued = line[1] == '+';
        buf_put_str(&p->pending, line + (glued ? 3 : 2));
        buf_put_str(&p->pending, "\r\n");
        if (!glued) {
            player_feed(p);
        }
    } else if (line[0] == 'E') {
        player_feed(p);
        struct smtp_client_event event;
        if (!smtp_client_next(&p->client, &event)) {
            fail_msg("%s (cut %zu): no event, expected \"%s\"", p->name, p->cut, line + 2);
        }
        struct buf text;
        buf_init(&text, memory, sizeof memory);
        event_describe(&event, &text);
        expect_slice(p, "event", buf_slice(&text), slice_from_str(line + 2));
    } else {
        player_feed(p);
        expect_no_event(p);
        if (line[0] == 'C') {
            take_line(p, &got, memory);
            expect_slice(p, "client says", got, slice_from_str(line + 2));
        } else if (line[0] == 'L') {
            take_line(p, &got, memory);
            assert_int_equal(got.len, strtoul(line + 2, NULL, 10));
        } else if (line[0] == 'N') {
            expect_slice(p, "client says", smtp_client_output(&p->client), SLICE(""));
        } else {
            play_move(p, line + 2);
        }
    }
}

static void play(const struct dialogue *dialogue, size_t cut)
{
    static struct player player;
    player_init(&player, dialogue->name, dialogue->options, cut);
    char line[256];
    const char *at = dialogue->text;
    while (*at != '\0') {
        size_t len = strcspn(at, "\n");
        assert_true(len < sizeof line);
        memcpy(line, at, len);
        line[len] = '\0';
        play_line(&player, line);
        at += len + 1;
    }
    player_feed(&player);
    expect_no_event(&player);
    if (player.client.state == SMTP_CLIENT_CLOSED) {
        check_closed(&player);
    }
}

static void plays_the_dialogues(void **state)
{
    (void)state;
    for (size_t index = 0; index < sizeof dialogues / sizeof dialogues[0]; index++) {
        play(&dialogues[index], 0);
    }
}

static void plays_them_cut_at_every_byte(void **state)
{
    (void)state;
    for (size_t index = 0; index < sizeof dialogues / sizeof dialogues[0]; index++) {
        play(&dialogues[index], EVERY_BYTE);
        for (size_t cut = 1; cut < 60; cut++) {
            play(&dialogues[index], cut);
        }
    }
}

/* In one piece it is refused at once, without a handshake; later, it is refused too. */
static void refuses_plaintext_behind_starttls(void **state)
{
    (void)state;
    static const struct dialogue cases[] = {
        {"in one piece", "starttls",
         HELLO "S+ 250-mx\nS 250 STARTTLS\nC STARTTLS\nS+ 220 go\nS 250 mx\n"
               "E failed protocol at starttls by 0\n"},
        {"a single byte", "starttls",
         HELLO "S+ 250-mx\nS 250 STARTTLS\nC STARTTLS\nS+ 220 go\nS x\n"
               "E failed protocol at starttls by 0\n"},
        {"afterwards", "starttls",
         HELLO "S+ 250-mx\nS 250 STARTTLS\nC STARTTLS\nS 220 go\nE starttls\nS 250 mx\n"
               "E failed protocol at starttls by 0\n"},
    };
    for (size_t index = 0; index < sizeof cases / sizeof cases[0]; index++) {
        play(&cases[index], 0);
    }
}

/* ---- transactions ---- */

/*
 * answers: "COMMAND=reply" by ";". COMMAND is the head of a line; "." is the final dot, "content"
 * the first byte of content. A reply may hold several by "|". What is not named is taken (250, 354
 * for DATA). "end" ends the stream, "silence" says nothing.
 */
struct transaction {
    const char *name;
    uint32_t recipient_count;
    size_t content_bytes;
    const char *answers;
    const char *expected;
};

#define LARGE (SMTP_CLIENT_OUTPUT_BYTES * 3u)

static const struct transaction transactions[] = {
    {"all taken", 3, 10, "", "content;done 3 by 250;"},
    {"large", 1, LARGE, "", "content;done 1 by 250;"},
    {"as many as may be", 100, 10, "", "content;done 100 by 250;"},
    /* MAIL */
    {"MAIL 451", 2, 10, "MAIL=451 x",
     "refused 0 at mail by 451;refused 1 at mail by 451;done 0 by 0;"},
    {"MAIL 550, RCPT 503, DATA 503", 1, 10, "MAIL=550 x;RCPT=503 x;DATA=503 x",
     "refused 0 at mail by 550;done 0 by 0;"},
    {"MAIL 421", 2, 10, "MAIL=421 x", "lost reply at mail by 421;failed reply at mail by 421;"},
    {"MAIL 354", 2, 10, "MAIL=354 x",
     "lost protocol at mail by 354;failed protocol at mail by 354;"},
    {"MAIL: nonsense", 2, 10, "MAIL=ok",
     "lost protocol at mail by 0;failed protocol at mail by 0;"},
    {"MAIL: the end", 2, 10, "MAIL=end", "lost closed at mail by 0;failed closed at mail by 0;"},
    {"MAIL: silence", 2, 10, "MAIL=silence",
     "lost timeout at mail by 0;failed timeout at mail by 0;"},
    {"MAIL 252", 1, 10, "MAIL=252 x", "content;done 1 by 250;"},
    /* RCPT */
    {"every kind of recipient", 6, 10,
     "RCPT TO:<a=250 x;RCPT TO:<b=251 x;RCPT TO:<c=450 x;RCPT TO:<d=452 x;RCPT TO:<e=550 x;"
     "RCPT TO:<f=552 x",
     "refused 2 at rcpt by 450;refused 3 at rcpt by 452;refused 4 at rcpt by 550;"
     "refused 5 at rcpt by 552;content;done 2 by 250;"},
    {"the first is refused", 2, 10, "RCPT TO:<a=550 x",
     "refused 0 at rcpt by 550;content;done 1 by 250;"},
    {"all are refused", 2, 10, "RCPT=550 x;DATA=554 none",
     "refused 0 at rcpt by 550;refused 1 at rcpt by 550;done 0 by 0;"},
    {"all are refused, DATA is not", 2, 10, "RCPT=550 x",
     "refused 0 at rcpt by 550;refused 1 at rcpt by 550;done 0 by 0;"},
    {"all are refused, the lone dot too", 2, 10, "RCPT=550 x;.=554 none",
     "refused 0 at rcpt by 550;refused 1 at rcpt by 550;done 0 by 0;"},
    {"RCPT 421 for the second", 3, 10, "RCPT TO:<b=421 x",
     "lost reply at rcpt by 421;failed reply at rcpt by 421;"},
    {"RCPT 550, then 421", 3, 10, "RCPT TO:<a=550 x;RCPT TO:<b=421 x",
     "refused 0 at rcpt by 550;lost reply at rcpt by 421;failed reply at rcpt by 421;"},
    {"RCPT 354", 2, 10, "RCPT=354 x",
     "lost protocol at rcpt by 354;failed protocol at rcpt by 354;"},
    {"RCPT: the end", 2, 10, "RCPT TO:<b=end",
     "lost closed at rcpt by 0;failed closed at rcpt by 0;"},
    {"RCPT: silence", 2, 10, "RCPT TO:<b=silence",
     "lost timeout at rcpt by 0;failed timeout at rcpt by 0;"},
    /* DATA */
    {"DATA 250", 2, 10, "DATA=250 x",
     "lost protocol at data by 250;failed protocol at data by 250;"},
    {"DATA 334", 2, 10, "DATA=334 x",
     "lost protocol at data by 334;failed protocol at data by 334;"},
    {"DATA 451", 2, 10, "RCPT TO:<a=550 x;DATA=451 x",
     "refused 0 at rcpt by 550;refused 1 at data by 451;done 0 by 0;"},
    {"DATA 554", 2, 10, "DATA=554 x",
     "refused 0 at data by 554;refused 1 at data by 554;done 0 by 0;"},
    {"DATA 421", 2, 10, "DATA=421 x", "lost reply at data by 421;failed reply at data by 421;"},
    {"DATA: the end", 2, 10, "DATA=end", "lost closed at data by 0;failed closed at data by 0;"},
    {"DATA: silence", 2, 10, "DATA=silence",
     "lost timeout at data by 0;failed timeout at data by 0;"},
    {"DATA 354 and at once 250", 2, LARGE, "DATA=354 go|250 taken",
     "content;lost protocol at content by 250;failed protocol at content by 250;"},
    {"DATA 354 and at once 550", 2, LARGE, "DATA=354 go|550 no",
     "content;lost reply at content by 550;failed reply at content by 550;"},
    /* content */
    {"content 552", 2, LARGE, "content=552 large",
     "content;lost reply at content by 552;failed reply at content by 552;"},
    {"content 451", 2, LARGE, "content=451 x",
     "content;lost reply at content by 451;failed reply at content by 451;"},
    {"content 421", 2, LARGE, "content=421 x",
     "content;lost reply at content by 421;failed reply at content by 421;"},
    {"content 250", 2, LARGE, "content=250 x",
     "content;lost protocol at content by 250;failed protocol at content by 250;"},
    {"content 354", 2, LARGE, "content=354 x",
     "content;lost protocol at content by 354;failed protocol at content by 354;"},
    {"content: nonsense", 2, LARGE, "content=x",
     "content;lost protocol at content by 0;failed protocol at content by 0;"},
    {"content: the end", 2, LARGE, "content=end",
     "content;lost closed at content by 0;failed closed at content by 0;"},
    /* the dot */
    {"dot 251", 2, 10, ".=251 x", "content;done 2 by 251;"},
    {"dot 252", 2, 10, ".=252 x", "content;done 2 by 252;"},
    {"dot 299", 2, 10, ".=299 x", "content;done 2 by 299;"},
    {"dot 451", 2, 10, ".=451 x", "content;done 2 by 451;"},
    {"dot 554", 2, LARGE, ".=554 x", "content;done 2 by 554;"},
    {"dot 421", 2, 10, ".=421 x", "content;lost reply at end by 421;failed reply at end by 421;"},
    {"dot 354", 2, 10, ".=354 x",
     "content;lost protocol at end by 354;failed protocol at end by 354;"},
    {"dot: nonsense", 2, 10, ".=25",
     "content;lost protocol at end by 0;failed protocol at end by 0;"},
    {"dot: the end", 2, 10, ".=end", "content;lost closed at end by 0;failed closed at end by 0;"},
    {"dot: silence", 2, 10, ".=silence",
     "content;lost timeout at end by 0;failed timeout at end by 0;"},
    {"dot: two answers", 2, 10, ".=250 x|250 y",
     "content;done 2 by 250;failed protocol at idle by 250;"},
    {"dot: 250 and 421", 2, 10, ".=250 x|421 y",
     "content;done 2 by 250;failed reply at idle by 421;"},
};

struct server {
    const char *answers;
    struct buf line; /* of the client's, so far */
    uint8_t line_memory[512];
    bool in_content, content_begun;
    uint32_t matched; /* of CRLF . CRLF */
    bool ended, silent;
};

/* What the server says to what; *out_answer is its text up to ";". */
static struct slice server_answer(const struct server *server, struct slice line,
                                  const char *otherwise)
{
    struct slice rest = slice_from_str(server->answers);
    while (rest.len > 0) {
        size_t end = slice_find(rest, ';');
        struct slice rule = slice_head(rest, end);
        size_t equals = slice_find(rule, '=');
        if (slice_starts_with(line, slice_head(rule, equals))) {
            return slice_tail(rule, equals + 1);
        }
        rest = slice_tail(rest, end + 1);
    }
    return slice_from_str(otherwise);
}

static void server_say(struct server *server, struct player *p, struct slice answer)
{
    if (server->ended || server->silent || answer.len == 0) {
        return;
    }
    server->ended = slice_equal(answer, SLICE("end"));
    server->silent = slice_equal(answer, SLICE("silence"));
    while (answer.len > 0 && !server->ended && !server->silent) {
        size_t end = slice_find(answer, '|');
        buf_put(&p->pending, slice_head(answer, end));
        buf_put_str(&p->pending, "\r\n");
        answer = slice_tail(answer, end + 1);
    }
}

static void server_take_line(struct server *server, struct player *p, struct slice line)
{
    bool is_data = slice_equal(line, SLICE("DATA"));
    struct slice answer = server_answer(server, line, is_data ? "354 go" : "250 ok");
    server_say(server, p, answer);
    server->in_content = is_data && slice_starts_with(answer, SLICE("354"));
    server->content_begun = false;
    server->matched = 2;
}

static void server_take_content(struct server *server, struct player *p, uint8_t byte)
{
    static const char end[] = "\r\n.\r\n";
    bool is_end = (char)byte == end[server->matched];
    server->matched = is_end ? server->matched + 1 : byte == '\r' ? 1 : 0;
    if (!server->content_begun && byte != '.') {
        server->content_begun = true;
        server_say(server, p, server_answer(server, SLICE("content"), ""));
    }
    if (server->matched == sizeof end - 1) {
        server->in_content = false;
        server_say(server, p, server_answer(server, SLICE("."), "250 taken"));
    }
}

static void server_take(struct server *server, struct player *p, struct slice in)
{
    for (size_t index = 0; index < in.len; index++) {
        if (server->in_content) {
            server_take_content(server, p, in.data[index]);
            continue;
        }
        buf_put_byte(&server->line, in.data[index]);
        assert_false(server->line.overflow);
        if (in.data[index] == '\n') {
            server_take_line(server, p, slice_head(buf_slice(&server->line), server->line.len - 2));
            buf_reset(&server->line);
        }
    }
}

struct owner {
    size_t content_left;
    bool content_told;
    struct buf heard;
    char heard_memory[16384];
};

static void owner_pull(struct owner *owner, struct player *p)
{
    struct smtp_client_event event;
    while (smtp_client_next(&p->client, &event)) {
        event_describe(&event, &owner->heard);
        buf_put_byte(&owner->heard, ';');
        owner->content_told = owner->content_told || event.type == SMTP_CLIENT_EVENT_CONTENT;
    }
}

static void owner_bring_content(struct owner *owner, struct player *p)
{
    static const char piece[] = "0123456789012345678901234567890123456789\r\n";
    uint32_t tag;
    while (smtp_client_wants_content(&p->client, &tag)) {
        assert_true(owner->content_told && tag == 0);
        if (owner->content_left == 0) {
            (void)!smtp_client_content_end(&p->client, p->now_ms);
            return;
        }
        /* pieces that end anywhere, the last one without a line end */
        size_t at = owner->content_left % (sizeof piece - 1);
        struct slice rest = slice_of(piece + at, sizeof piece - 1 - at);
        size_t used =
            smtp_client_content(&p->client, slice_head(rest, owner->content_left), p->now_ms);
        if (used == 0) {
            return;
        }
        owner->content_left -= used;
    }
}

/* One round: events, content, output to the server, its answers to the client. False when nothing
 * moved. */
static bool round_of_play(struct owner *owner, struct player *p, struct server *server)
{
    size_t heard = owner->heard.len;
    owner_pull(owner, p);
    owner_bring_content(owner, p);
    struct slice output = smtp_client_output(&p->client);
    size_t sent = p->cut > 0 && p->cut < output.len ? p->cut * 7 : output.len;
    sent = server->ended ? 0 : sent < output.len ? sent : output.len;
    if (sent > 0) {
        /* told first, as it came first */
        uint8_t copy[SMTP_CLIENT_OUTPUT_BYTES];
        memcpy(copy, output.data, sent);
        smtp_client_output_done(&p->client, sent, p->now_ms);
        server_take(server, p, slice_of(copy, sent));
    }
    size_t pending = p->pending.len;
    player_feed(p);
    return sent > 0 || pending != p->pending.len || heard != owner->heard.len;
}

static void play_transaction(const struct transaction *t, const char *options, size_t cut)
{
    static struct player player;
    static struct server server;
    static struct owner owner;
    player_init(&player, t->name, options, cut);
    memset(&server, 0, sizeof server);
    memset(&owner, 0, sizeof owner);
    buf_init(&server.line, server.line_memory, sizeof server.line_memory);
    buf_init(&owner.heard, owner.heard_memory, sizeof owner.heard_memory);
    server.answers = t->answers;
    play_line(&player, "S 220 mx");
    play_line(&player, "C EHLO me.example");
    play_line(&player, "S+ 250-mx");
    play_line(&player, "S 250 PIPELINING");
    play_line(&player, "E ready");

    struct smtp_client_mail mail;
    mail_set_up(&player, "1", &mail);
    mail.recipient_count = t->recipient_count;
    mail.size = t->content_bytes;
    owner.content_left = t->content_bytes;
    assert_int_equal(smtp_client_begin_mail(&player.client, &mail, player.now_ms),
                     SMTP_CLIENT_BEGUN);
    for (uint32_t step = 0; step < 200000 && round_of_play(&owner, &player, &server); step++) {
    }
    if (server.ended) {
        smtp_client_stream_ended(&player.client);
    }
    if (server.silent) {
        move_expire(&player);
    }
    owner_pull(&owner, &player);
    assert_false(owner.heard.overflow);
    expect_slice(&player, options, buf_slice(&owner.heard), slice_from_str(t->expected));
    if (player.client.state == SMTP_CLIENT_CLOSED) {
        check_closed(&player);
        return;
    }
    /* What was left behind is no burden to the next one. */
    assert_true(smtp_client_is_idle(&player.client));
    assert_true(smtp_client_deadline_ms(&player.client) == UINT64_MAX);
    server.answers = "";
    owner.content_left = 10;
    buf_reset(&owner.heard);
    mail.recipient_count = 1;
    assert_int_equal(smtp_client_begin_mail(&player.client, &mail, player.now_ms),
                     SMTP_CLIENT_BEGUN);
    for (uint32_t step = 0; step < 200000 && round_of_play(&owner, &player, &server); step++) {
    }
    expect_slice(&player, "afterwards", buf_slice(&owner.heard), SLICE("content;done 1 by 250;"));
}

static void plays_the_transactions(void **state)
{
    (void)state;
    static const size_t cuts[] = {0, 1, 2, 3, 5, 7, 11, EVERY_BYTE};
    for (size_t index = 0; index < sizeof transactions / sizeof transactions[0]; index++) {
        for (size_t cut = 0; cut < sizeof cuts / sizeof cuts[0]; cut++) {
            play_transaction(&transactions[index], "off", cuts[cut]);
            play_transaction(&transactions[index], "safe", cuts[cut]);
        }
    }
}

/* ---- bounds and time ---- */

static void to_ready(struct player *p, const char *options)
{
    player_init(p, "ready", options, 0);
    play_line(p, "S 220 mx");
    play_line(p, "C EHLO me.example");
    play_line(p, "S+ 250-mx");
    play_line(p, "S 250 PIPELINING");
    play_line(p, "E ready");
    bool piped = p->config.pipelining != SMTP_CLIENT_PIPELINING_OFF;
    assert_int_equal(p->client.mode,
                     piped ? SMTP_CLIENT_PIPELINING_SAFE : SMTP_CLIENT_PIPELINING_OFF);
}

/* The deadline, as milliseconds from now. */
static uint64_t wait_ms(const struct player *p)
{
    uint64_t deadline_ms = smtp_client_deadline_ms(&p->client);
    return deadline_ms == UINT64_MAX ? UINT64_MAX : deadline_ms - p->now_ms;
}

static void waits_as_long_as_it_should(void **state)
{
    (void)state;
    static struct player p;
    player_init(&p, "deadlines", "auth starttls", 0);
    assert_int_equal(wait_ms(&p), 1000);
    p.now_ms += 400;
    assert_int_equal(wait_ms(&p), 600);
    play_line(&p, "S 220 mx");
    assert_int_equal(wait_ms(&p), 2000);
    p.now_ms += 100;
    play_line(&p, "C EHLO me.example");
    assert_int_equal(wait_ms(&p), 2000); /* from when it was sent */
    p.now_ms += 100;
    play_line(&p, "S+ 250-mx");
    play_line(&p, "S 250 STARTTLS");
    assert_int_equal(wait_ms(&p), 2000);
    play_line(&p, "C STARTTLS");
    play_line(&p, "S 220 go");
    play_line(&p, "E starttls");
    assert_true(wait_ms(&p) == UINT64_MAX);
    play_line(&p, "> tls");
    play_line(&p, "C EHLO me.example");
    assert_int_equal(wait_ms(&p), 2000);
    play_line(&p, "S+ 250-mx");
    play_line(&p, "S 250 AUTH LOGIN");
    play_line(&p, "E auth LOGIN");
    assert_true(wait_ms(&p) == UINT64_MAX);
    play_line(&p, "> auth LOGIN");
    assert_int_equal(wait_ms(&p), 2000);
    play_line(&p, "C AUTH LOGIN");
    play_line(&p, "S 334 eA==");
    play_line(&p, "E challenge x");
    assert_true(wait_ms(&p) == UINT64_MAX);
    play_line(&p, "> response y");
    play_line(&p, "C eQ==");
    play_line(&p, "S 235 ok");
    play_line(&p, "E auth-result 235");
    play_line(&p, "E ready");
    assert_true(wait_ms(&p) == UINT64_MAX);
    play_line(&p, "> mail 1");
    assert_int_equal(wait_ms(&p), 2000);
    play_line(&p, "C MAIL FROM:<s@y.example>");
    play_line(&p, "S 250 ok");
    play_line(&p, "C RCPT TO:<a@x.example>");
    play_line(&p, "S 250 ok");
    play_line(&p, "C DATA");
    assert_int_equal(wait_ms(&p), 3000);
    play_line(&p, "S 354 go");
    play_line(&p, "E content");
    assert_true(wait_ms(&p) == UINT64_MAX); /* it is the owner's turn */
    play_line(&p, "> content hello");
    assert_int_equal(wait_ms(&p), 4000);
    p.now_ms += 1000;
    smtp_client_output_done(&p.client, 1, p.now_ms);
    assert_int_equal(wait_ms(&p), 3000); /* a drop is no progress */
    smtp_client_output_done(&p.client, 6, p.now_ms);
    assert_true(wait_ms(&p) == UINT64_MAX);
    play_line(&p, "> end");
    assert_int_equal(wait_ms(&p), 4000);
    p.now_ms += 1000;
    play_line(&p, "C .");
    assert_int_equal(wait_ms(&p), 5000);
    play_line(&p, "S 250 taken");
    play_line(&p, "E done 1 by 250");
    assert_true(wait_ms(&p) == UINT64_MAX);
    play_line(&p, "> quit");
    play_line(&p, "C QUIT");
    assert_int_equal(wait_ms(&p), 6000);
}

/* In a pipelined group each reply has its own time, from the reply before it. */
static void waits_for_each_reply_of_a_flight(void **state)
{
    (void)state;
    static struct player p;
    to_ready(&p, "safe");
    play_line(&p, "> mail 1");
    play_line(&p, "C MAIL FROM:<s@y.example>");
    play_line(&p, "C RCPT TO:<a@x.example>");
    play_line(&p, "C DATA");
    p.now_ms += 1500;
    play_line(&p, "S 250 ok");
    assert_int_equal(wait_ms(&p), 2000);
    p.now_ms += 1500;
    play_line(&p, "S 250 ok");
    assert_int_equal(wait_ms(&p), 3000);
}

static void a_server_that_stops_reading(void **state)
{
    (void)state;
    static struct player p;
    to_ready(&p, "safe");
    play_line(&p, "> mail 1");
    play_line(&p, "C MAIL FROM:<s@y.example>");
    play_line(&p, "C RCPT TO:<a@x.example>");
    play_line(&p, "C DATA");
    play_line(&p, "S+ 250 ok");
    play_line(&p, "S+ 250 ok");
    play_line(&p, "S 354 go");
    play_line(&p, "E content");
    uint8_t block[SMTP_CLIENT_OUTPUT_BYTES * 2] = {0};
    memset(block, 'x', sizeof block);
    size_t used = smtp_client_content(&p.client, slice_of(block, sizeof block), p.now_ms);
    assert_int_equal(used, SMTP_CLIENT_OUTPUT_BYTES);
    assert_int_equal(smtp_client_content(&p.client, slice_of(block, 1), p.now_ms), 0);
    assert_false(smtp_client_content_end(&p.client, p.now_ms));
    for (size_t round = 0; round < 3; round++) {
        p.now_ms += 1000;
        smtp_client_output_done(&p.client, 1, p.now_ms);
    }
    p.now_ms += 999;
    smtp_client_expire(&p.client, p.now_ms);
    expect_no_event(&p);
    p.now_ms += 1;
    smtp_client_expire(&p.client, p.now_ms);
    play_line(&p, "E lost timeout at content by 0");
    play_line(&p, "E failed timeout at content by 0");
    check_closed(&p);
}

/* ---- the whole content's time ---- */

#define BLOCK_MS      300000
#define END_MS        600000
#define PIECE_BYTES   100000 /* of a chunk: more than the output holds */
#define LARGE_BYTES   (25u << 20)
#define HOUR_MS       3600000u
#define A_FULL_OUTPUT SMTP_CLIENT_OUTPUT_BYTES

static const char *const modes[] = {"off", "safe", "stream"};

/* A server that takes so many bytes each time, and answers at once or to no chunk at all. */
struct drain {
    uint64_t left, piece_left; /* of the content, and of what the owner brings at once */
    size_t bytes;
    uint64_t every_ms;
    bool answers;
    enum smtp_client_event_type heard; /* the latest */
};

/* READY, with the waits of a real connection. */
static void to_ready_in_mode(struct player *p, const char *mode)
{
    player_init(p, mode, mode, 0);
    p->config.block_ms_max = BLOCK_MS;
    p->config.end_ms_max = END_MS;
    play_line(p, "S 220 mx");
    play_line(p, "C EHLO me.example");
    play_line(p, "S+ 250-mx");
    play_line(p, "S+ 250-CHUNKING");
    play_line(p, "S 250 PIPELINING");
    play_line(p, "E ready");
    assert_string_equal(smtp_client_pipelining_word(p->client.mode), mode);
}

static void open_content(struct player *p, const char *mode, const char *move)
{
    bool off = strcmp(mode, "off") == 0;
    bool chunks = strcmp(mode, "stream") == 0;
    play_line(p, move);
    if (chunks) {
        play_line(p, "E content");
    }
    play_line(p, "C MAIL FROM:<s@y.example>");
    if (off) {
        play_line(p, "S 250 ok");
    }
    play_line(p, "C RCPT TO:<a@x.example>");
    play_line(p, off ? "S 250 ok" : "S+ 250 ok");
    if (chunks) {
        play_line(p, "S 250 ok");
        return;
    }
    play_line(p, "C DATA");
    if (!off) {
        play_line(p, "S+ 250 ok");
    }
    play_line(p, "S 354 go");
    play_line(p, "E content");
}

static void to_content(struct player *p, const char *mode, const char *move)
{
    to_ready_in_mode(p, mode);
    open_content(p, mode, move);
}

static void drain_bring(struct drain *d, struct player *p)
{
    static uint8_t piece[PIECE_BYTES];
    memset(piece, 'x', sizeof piece);
    uint32_t tag;
    while (smtp_client_wants_content(&p->client, &tag)) {
        if (d->left == 0) {
            if (!smtp_client_content_end(&p->client, p->now_ms)) {
                return;
            }
            continue;
        }
        if (d->piece_left == 0) {
            d->piece_left = d->left < sizeof piece ? d->left : sizeof piece;
        }
        size_t used =
            smtp_client_content(&p->client, slice_of(piece, (size_t)d->piece_left), p->now_ms);
        if (used == 0) {
            return;
        }
        d->piece_left -= used;
        d->left -= used;
    }
}

static bool is_owed_an_answer(const struct smtp_client *c)
{
    return c->expected_count > 0 && c->expected[c->expected_head].end <= c->output_passed;
}

/* Until the message or the connection is over. */
static void drain_run(struct drain *d, struct player *p)
{
    d->heard = SMTP_CLIENT_EVENT_READY;
    while (d->heard != SMTP_CLIENT_EVENT_DONE && d->heard != SMTP_CLIENT_EVENT_FAILED) {
        drain_bring(d, p);
        p->now_ms += d->every_ms;
        smtp_client_expire(&p->client, p->now_ms);
        size_t unsent = smtp_client_output(&p->client).len;
        smtp_client_output_done(&p->client, unsent < d->bytes ? unsent : d->bytes, p->now_ms);
        while (is_owed_an_answer(&p->client) && (d->answers || d->left == 0)) {
            struct slice ok = SLICE("250 ok\r\n");
            assert_int_equal(smtp_client_feed(&p->client, ok, p->now_ms), ok.len);
        }
        struct smtp_client_event event;
        while (smtp_client_next(&p->client, &event)) {
            d->heard = event.type;
            assert_true(event.type != SMTP_CLIENT_EVENT_FAILED ||
                        (event.failure == SMTP_CLIENT_FAILURE_TIMEOUT &&
                         event.stage == SMTP_CLIENT_STAGE_CONTENT));
        }
    }
}

/* Each output goes just within its time, be it at once or in drops: that would be 31 hours. */
static void a_server_that_reads_too_slowly(void **state)
{
    (void)state;
    static struct player p;
    static const struct drain slow[] = {
        {.bytes = A_FULL_OUTPUT, .every_ms = BLOCK_MS - 1, .answers = true},
        {.bytes = A_FULL_OUTPUT, .every_ms = BLOCK_MS - 1, .answers = false},
        {.bytes = 220, .every_ms = 1000, .answers = true},
        {.bytes = 220, .every_ms = 1000, .answers = false},
    };
    for (size_t at = 0; at < sizeof modes / sizeof modes[0] * 4; at++) {
        to_content(&p, modes[at / 4], "> mail 1 size=26214400");
        uint64_t begun_ms = p.now_ms;
        struct drain d = slow[at % 4];
        d.left = LARGE_BYTES;
        drain_run(&d, &p);
        assert_int_equal(d.heard, SMTP_CLIENT_EVENT_FAILED);
        assert_true(p.now_ms - begun_ms >= END_MS && p.now_ms - begun_ms < HOUR_MS);
        check_closed(&p);
    }
}

/* The time that one message did not need is none of the next one's. */
static void a_server_that_becomes_slow(void **state)
{
    (void)state;
    static struct player p;
    for (size_t at = 0; at < sizeof modes / sizeof modes[0]; at++) {
        to_content(&p, modes[at], "> mail 1 size=26214400");
        struct drain d = {.bytes = A_FULL_OUTPUT, .every_ms = 1, .answers = true};
        d.left = LARGE_BYTES;
        drain_run(&d, &p);
        assert_int_equal(d.heard, SMTP_CLIENT_EVENT_DONE);
        open_content(&p, modes[at], "> mail 1 size=26214400");
        uint64_t begun_ms = p.now_ms;
        d.left = LARGE_BYTES;
        d.every_ms = BLOCK_MS - 1;
        drain_run(&d, &p);
        assert_int_equal(d.heard, SMTP_CLIENT_EVENT_FAILED);
        assert_true(p.now_ms - begun_ms < HOUR_MS);
    }
}

static void a_server_that_reads_slowly_all_the_time(void **state)
{
    (void)state;
    static struct player p;
    for (size_t at = 0; at < sizeof modes / sizeof modes[0]; at++) {
        to_content(&p, modes[at], "> mail 1 size=26214400");
        struct drain d = {.left = LARGE_BYTES, .bytes = 1024, .every_ms = 1000, .answers = true};
        drain_run(&d, &p);
        assert_int_equal(d.heard, SMTP_CLIENT_EVENT_DONE);
        assert_int_equal(d.left, 0);
    }
}

/* One line as one piece. */
static void bring_hello(struct player *p)
{
    struct slice line = SLICE("hello\r\n");
    assert_int_equal(smtp_client_content(&p->client, line, p->now_ms), line.len);
}

/* What the owner takes for the next piece is not the server's time. */
static void an_owner_that_pauses(void **state)
{
    (void)state;
    static struct player p;
    for (size_t at = 0; at < sizeof modes / sizeof modes[0]; at++) {
        bool chunks = strcmp(modes[at], "stream") == 0;
        to_content(&p, modes[at], "> mail 1 size=100");
        for (size_t round = 0; round < 10; round++) {
            assert_true(wait_ms(&p) == UINT64_MAX);
            p.now_ms += HOUR_MS;
            bring_hello(&p);
            assert_int_equal(wait_ms(&p), BLOCK_MS);
            if (chunks) {
                play_line(&p, "C BDAT 7");
            }
            play_line(&p, "C hello");
            if (chunks) {
                play_line(&p, "S 250 ok");
            }
        }
    }
}

/* The time in which a message's content waits for the server's answer to an earlier one. */
static void a_server_that_judges_for_long(void **state)
{
    (void)state;
    static struct player p;
    to_content(&p, "stream", "> mail 1 size=7");
    bring_hello(&p);
    play_line(&p, "> end");
    play_line(&p, "C BDAT 7 LAST");
    play_line(&p, "C hello");
    play_line(&p, "> mail 1 size=7");
    play_line(&p, "E content");
    bring_hello(&p);
    play_line(&p, "> end");
    p.now_ms += END_MS - 1;
    smtp_client_expire(&p.client, p.now_ms);
    play_line(&p, "S 250 ok");
    play_line(&p, "E done 1 by 250");
    p.now_ms += BLOCK_MS - 1;
    smtp_client_expire(&p.client, p.now_ms);
    expect_no_event(&p);
    p.now_ms += 1;
    smtp_client_expire(&p.client, p.now_ms);
    play_line(&p, "E lost timeout at end by 0");
    play_line(&p, "E failed timeout at mail by 0");
    check_closed(&p);
}

/* What the owner has in flight stays where it is and as it is, whatever is put behind it. */
static void output_stays_in_place(void **state)
{
    (void)state;
    static struct player p;
    to_ready(&p, "off");
    play_line(&p, "> mail 1");
    play_line(&p, "C MAIL FROM:<s@y.example>");
    play_line(&p, "S 250 ok");
    play_line(&p, "C RCPT TO:<a@x.example>");
    play_line(&p, "S 250 ok");
    play_line(&p, "C DATA");
    play_line(&p, "S 354 go");
    play_line(&p, "E content");
    play_line(&p, "> content first");
    struct slice in_flight = smtp_client_output(&p.client);
    smtp_client_output_done(&p.client, 2, p.now_ms);
    struct slice rest = smtp_client_output(&p.client);
    assert_ptr_equal(rest.data, in_flight.data + 2);
    play_line(&p, "> content second");
    assert_ptr_equal(smtp_client_output(&p.client).data, rest.data);
    assert_true(slice_starts_with(smtp_client_output(&p.client), SLICE("rst\r\nsecond\r\n")));
    smtp_client_output_done(&p.client, 13, p.now_ms);
    play_line(&p, "> content third");
    assert_ptr_equal(smtp_client_output(&p.client).data, in_flight.data); /* and begins anew */
}

static void bounds_a_login(void **state)
{
    (void)state;
    static struct player p;
    player_init(&p, "endless login", "auth", 0);
    play_line(&p, "S 220 mx");
    play_line(&p, "C EHLO me.example");
    play_line(&p, "S+ 250-mx");
    play_line(&p, "S 250 AUTH LOGIN");
    play_line(&p, "E auth LOGIN");
    play_line(&p, "> auth LOGIN");
    play_line(&p, "C AUTH LOGIN");
    for (size_t count = 0; count < 16; count++) {
        play_line(&p, "S 334 eA==");
        play_line(&p, "E challenge x");
        play_line(&p, "> response y");
        play_line(&p, "C eQ==");
    }
    play_line(&p, "S 334 eA==");
    play_line(&p, "E failed protocol at login by 334");
    check_closed(&p);
}

/* A challenge that the reply's text has no room for must not be taken for its head. */
static void refuses_a_cut_challenge(void **state)
{
    (void)state;
    static struct player p;
    for (size_t bytes = 1000; bytes <= 1200; bytes += 4) {
        player_init(&p, "long challenge", "auth", 0);
        play_line(&p, "S 220 mx");
        play_line(&p, "C EHLO me.example");
        play_line(&p, "S+ 250-mx");
        play_line(&p, "S 250 AUTH LOGIN");
        play_line(&p, "E auth LOGIN");
        play_line(&p, "> auth LOGIN");
        play_line(&p, "C AUTH LOGIN");
        buf_put_str(&p.pending, "334 ");
        for (size_t index = 0; index < bytes; index++) {
            buf_put_byte(&p.pending, 'A');
        }
        buf_put_str(&p.pending, "\r\n");
        player_feed(&p);
        struct smtp_client_event event;
        assert_true(smtp_client_next(&p.client, &event));
        bool fits = bytes <= SMTP_REPLY_TEXT_BYTES_MAX;
        assert_int_equal(event.type,
                         fits ? SMTP_CLIENT_EVENT_AUTH_CHALLENGE : SMTP_CLIENT_EVENT_FAILED);
        assert_true(!fits || event.challenge.len == bytes / 4 * 3);
    }
}

/* Sixty names, some of them again, some no names; what there is room for is offered. */
static void bounds_the_mechanisms(void **state)
{
    (void)state;
    static struct player p;
    player_init(&p, "many mechanisms", "auth", 0);
    play_line(&p, "S 220 mx");
    play_line(&p, "C EHLO me.example");
    buf_put_str(&p.pending, "250-mx\r\n250 AUTH PLAIN");
    for (unsigned index = 0; index < 58; index++) {
        buf_printf(&p.pending, " X-MECH-%u plain", index % 50);
    }
    buf_put_str(&p.pending, "\r\n");
    player_feed(&p);
    struct smtp_client_event event;
    assert_true(smtp_client_next(&p.client, &event));
    assert_int_equal(event.type, SMTP_CLIENT_EVENT_AUTH);
    assert_true(event.mechanisms.len < sizeof p.client.mechanisms);
    assert_true(slice_starts_with(event.mechanisms, SLICE("PLAIN X-MECH-0 X-MECH-1 ")));
    assert_null(strstr(p.client.mechanisms, "plain"));
}

/* "{8}" of a reply stands for the first 8 bytes of the base64 text that was sent, "{}" for all. */
static void put_reply(struct buf *to, const char *reply, struct slice sent)
{
    for (const char *at = reply; *at != '\0'; at++) {
        if (*at == '{') {
            size_t count = strtoul(at + 1, NULL, 10);
            buf_put(to, slice_head(sent, count == 0 ? sent.len : count));
            at = strchr(at, '}');
        } else {
            buf_put_byte(to, (uint8_t)*at);
        }
    }
    buf_put_str(to, "\r\n");
}

static void masks_what_a_reply_repeats_of_a_secret(void **state)
{
    (void)state;
    const struct slice long_one = SLICE("\0me\0open sesame"), short_one = SLICE("\0me\0ok");
    const struct {
        const struct slice *initial;
        const char *reply, *text;
    } cases[] = {
        {&long_one, "500 5.5.1 what is \"AUTH PLAIN {}\"", "5.5.1 what is \"AUTH PLAIN ****\""},
        {&long_one, "500 what is AUTH PLAIN {8}", "what is AUTH PLAIN ****"},
        {&long_one, "500 what is AUTH PLAIN {11}...", "what is AUTH PLAIN ****..."},
        {&long_one, "500 {}", "****"},
        {&long_one, "500 {}{}.", "********."},
        {&long_one, "535-5.7.8 {}\r\n535 5.7.8 {}", "5.7.8 ****\n5.7.8 ****"},
        {&long_one, "535 5.7.8 me: open sesame is wrong", "5.7.8 me: **** is wrong"},
        {&long_one, "421 4.7.0 {} and open sesame", "4.7.0 **** and ****"},
        {&long_one, "535 5.7.8 no, me", "5.7.8 no, me"},
        {&short_one, "535 5.7.8 that is not ok: {}", "5.7.8 that is not ok: ****"},
    };
    static struct player p;
    for (size_t at = 0; at < sizeof cases / sizeof cases[0]; at++) {
        uint8_t memory[64];
        struct buf sent;
        buf_init(&sent, memory, sizeof memory);
        text_put_base64(&sent, *cases[at].initial);
        player_init(&p, "secret", "auth", 0);
        play_line(&p, "S 220 mx");
        play_line(&p, "C EHLO me.example");
        play_line(&p, "S+ 250-mx");
        play_line(&p, "S 250 AUTH PLAIN");
        play_line(&p, "E auth PLAIN");
        smtp_client_auth(&p.client, "PLAIN", true, *cases[at].initial, p.now_ms);
        smtp_client_output_done(&p.client, smtp_client_output(&p.client).len, p.now_ms);
        put_reply(&p.pending, cases[at].reply, buf_slice(&sent));
        player_feed(&p);
        struct smtp_client_event event;
        struct smtp_reply last;
        assert_true(smtp_client_next(&p.client, &event));
        assert_true(smtp_client_last_reply(&p.client, &last));
        assert_int_equal(last.code, event.reply.code);
        assert_true(slice_equal(last.text, event.reply.text));
        if (!slice_equal(event.reply.text, slice_from_str(cases[at].text))) {
            fail_msg("%s: %.*s", cases[at].reply, (int)event.reply.text.len,
                     (const char *)event.reply.text.data);
        }
    }
}

static void ends_endless_replies(void **state)
{
    (void)state;
    static const char *const units[] = {"250-\r\n", "250-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n",
                                        "2",        "250 xxxxxxxxxxxxxxxxx",
                                        "\r\n",     "250-a\r\n251 b\r\n"};
    static struct player p;
    for (size_t index = 0; index < sizeof units / sizeof units[0]; index++) {
        to_ready(&p, "safe");
        play_line(&p, "> mail 1");
        play_line(&p, "C MAIL FROM:<s@y.example>");
        struct slice unit = slice_from_str(units[index]);
        size_t fed = 0;
        while (p.client.state != SMTP_CLIENT_CLOSED && fed <= SMTP_REPLY_BYTES_MAX) {
            fed += smtp_client_feed(&p.client, unit, p.now_ms);
        }
        play_line(&p, "E lost protocol at mail by 0");
        play_line(&p, "E failed protocol at mail by 0");
        check_closed(&p);
    }
}

/* Every command line, for every length an address may have, fits and holds no control byte. */
static void fits_the_longest_envelope(void **state)
{
    (void)state;
    static struct player p;
    static char address[SMTP_PATH_BYTES_MAX];
    memset(address, 'x', sizeof address);
    player_init(&p, "longest", "safe", 0);
    play_line(&p, "S 220 mx");
    play_line(&p, "C EHLO me.example");
    play_line(&p, "S+ 250-mx");
    play_line(&p, "S+ 250-SIZE");
    play_line(&p, "S+ 250-SMTPUTF8");
    play_line(&p, "S+ 250-8BITMIME");
    play_line(&p, "S 250 PIPELINING");
    play_line(&p, "E ready");
    for (size_t index = 0; index < RECIPIENTS_MAX; index++) {
        p.recipients[index].path = slice_of(address, sizeof address);
    }
    struct smtp_client_mail mail = {.sender = slice_of(address, sizeof address),
                                    .recipients = p.recipients,
                                    .recipient_count = RECIPIENTS_MAX,
                                    .size = UINT64_MAX,
                                    .body_8bit = true,
                                    .smtputf8 = true};
    assert_int_equal(smtp_client_begin_mail(&p.client, &mail, p.now_ms), SMTP_CLIENT_BEGUN);
    struct slice output = smtp_client_output(&p.client);
    assert_true(slice_equal(slice_tail(output, output.len - 8), SLICE("\r\nDATA\r\n")));
    assert_int_equal(p.client.expected_count, RECIPIENTS_MAX + 2);
}

static void names_the_stages(void **state)
{
    (void)state;
    assert_string_equal(smtp_client_stage_word(SMTP_CLIENT_STAGE_CONNECT), "connect");
    assert_string_equal(smtp_client_stage_word(SMTP_CLIENT_STAGE_QUIT), "quit");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plays_the_dialogues),
        cmocka_unit_test(plays_them_cut_at_every_byte),
        cmocka_unit_test(refuses_plaintext_behind_starttls),
        cmocka_unit_test(plays_the_transactions),
        cmocka_unit_test(waits_as_long_as_it_should),
        cmocka_unit_test(waits_for_each_reply_of_a_flight),
        cmocka_unit_test(a_server_that_stops_reading),
        cmocka_unit_test(a_server_that_reads_too_slowly),
        cmocka_unit_test(a_server_that_becomes_slow),
        cmocka_unit_test(a_server_that_reads_slowly_all_the_time),
        cmocka_unit_test(an_owner_that_pauses),
        cmocka_unit_test(a_server_that_judges_for_long),
        cmocka_unit_test(output_stays_in_place),
        cmocka_unit_test(bounds_a_login),
        cmocka_unit_test(refuses_a_cut_challenge),
        cmocka_unit_test(bounds_the_mechanisms),
        cmocka_unit_test(masks_what_a_reply_repeats_of_a_secret),
        cmocka_unit_test(ends_endless_replies),
        cmocka_unit_test(fits_the_longest_envelope),
        cmocka_unit_test(names_the_stages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
