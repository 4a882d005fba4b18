/* From replies and failures to outcomes: what is said in the field, and what always holds. */
#include "daemon/outcome/classify.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define STAGE_COUNT (SMTP_CLIENT_STAGE_QUIT + 1)

/* The reply as the parser would have it. */
static void reply_of(const char *line, struct smtp_reply *out_reply)
{
    static struct smtp_reply_parser parser;
    smtp_reply_init(&parser);
    size_t used = smtp_reply_feed(&parser, slice_from_str(line));
    used += smtp_reply_feed(&parser, SLICE("\r\n"));
    assert_int_equal(used, strlen(line) + 2);
    assert_true(smtp_reply_take(&parser, out_reply));
}

struct reply_case {
    enum smtp_client_stage stage;
    const char *line;
    uint32_t accepted_count;
    enum outcome expected;
};

#define GREETING SMTP_CLIENT_STAGE_GREETING
#define EHLO     SMTP_CLIENT_STAGE_EHLO
#define STARTTLS SMTP_CLIENT_STAGE_STARTTLS
#define AUTH     SMTP_CLIENT_STAGE_AUTH
#define IDLE     SMTP_CLIENT_STAGE_IDLE
#define MAIL     SMTP_CLIENT_STAGE_MAIL
#define RCPT     SMTP_CLIENT_STAGE_RCPT
#define DATA     SMTP_CLIENT_STAGE_DATA
#define CONTENT  SMTP_CLIENT_STAGE_CONTENT
#define END      SMTP_CLIENT_STAGE_END

static const struct reply_case cases[] = {
    {END, "250 2.0.0 Ok: queued as 4A1", 0, OUTCOME_DELIVERED},
    {END, "250 5.1.1 what", 0, OUTCOME_DELIVERED},
    {END, "251 x", 0, OUTCOME_DELIVERED},
    {END, "299 x", 0, OUTCOME_DELIVERED},
    /* 421 */
    {GREETING, "421 4.7.0 Try again later", 0, OUTCOME_SERVICE_CLOSING},
    {AUTH, "421 4.7.0 Too many login attempts", 0, OUTCOME_SERVICE_CLOSING},
    {IDLE, "421 4.4.2 Timeout", 0, OUTCOME_SERVICE_CLOSING},
    {RCPT, "421 4.7.0 rate limit", 0, OUTCOME_SERVICE_CLOSING},
    {END, "421 4.3.0 x", 0, OUTCOME_SERVICE_CLOSING},
    /* before a message */
    {GREETING, "554 no service", 0, OUTCOME_GREETING_REFUSED},
    {GREETING, "554 5.7.1 blocked", 0, OUTCOME_GREETING_REFUSED},
    {GREETING, "450 busy", 0, OUTCOME_GREETING_REFUSED},
    {EHLO, "550 bad name", 0, OUTCOME_HELLO_REFUSED},
    {EHLO, "501 syntax", 0, OUTCOME_HELLO_REFUSED},
    {EHLO, "450 4.7.1 Helo command rejected", 0, OUTCOME_HELLO_REFUSED},
    {EHLO, "500 what", 0, OUTCOME_PROTOCOL_ERROR},
    {EHLO, "502 not implemented", 0, OUTCOME_PROTOCOL_ERROR},
    {STARTTLS, "454 4.7.0 TLS not available", 0, OUTCOME_TLS_NOT_OFFERED},
    {STARTTLS, "502 no", 0, OUTCOME_TLS_NOT_OFFERED},
    {AUTH, "535 5.7.8 Error: authentication failed", 0, OUTCOME_AUTH_REFUSED},
    {AUTH, "535 5.7.139 Authentication unsuccessful, basic authentication is disabled", 0,
     OUTCOME_AUTH_REFUSED},
    {AUTH, "550 5.7.30 Basic authentication is not supported", 0, OUTCOME_AUTH_REFUSED},
    {AUTH, "534 5.7.9 too weak", 0, OUTCOME_AUTH_REFUSED},
    {AUTH, "538 5.7.11 encryption needed", 0, OUTCOME_AUTH_REFUSED},
    {AUTH, "530 5.7.0 x", 0, OUTCOME_AUTH_REFUSED},
    {AUTH, "501 5.5.2 cannot decode", 0, OUTCOME_AUTH_REFUSED},
    {AUTH, "454 4.7.0 Temporary authentication failure", 0, OUTCOME_AUTH_DEFERRED},
    {AUTH, "454 4.7.0 Too many login attempts", 0, OUTCOME_AUTH_DEFERRED},
    {AUTH, "432 4.7.12 A password transition is needed", 0, OUTCOME_AUTH_REFUSED},
    {AUTH, "451 x", 0, OUTCOME_AUTH_DEFERRED},
    {AUTH, "504 5.5.4 Unrecognized authentication type", 0, OUTCOME_AUTH_NO_MECHANISM},
    {AUTH, "502 5.5.1 no", 0, OUTCOME_AUTH_NOT_OFFERED},
    {IDLE, "502 RSET?", 0, OUTCOME_PROTOCOL_ERROR},
    /* a login that is missing */
    {MAIL, "530 5.7.0 Authentication required", 0, OUTCOME_AUTH_REFUSED},
    {MAIL, "530 5.7.57 Client not authenticated to send mail", 0, OUTCOME_AUTH_REFUSED},
    {MAIL, "530 x", 0, OUTCOME_AUTH_REFUSED},
    {RCPT, "530 5.7.1 x", 0, OUTCOME_AUTH_REFUSED},
    {MAIL, "535 5.7.8 x", 0, OUTCOME_AUTH_REFUSED},
    {MAIL, "550 5.7.30 Basic authentication is not supported", 0, OUTCOME_AUTH_REFUSED},
    {MAIL, "550 5.7.1 Client was not authenticated", 0, OUTCOME_AUTH_REFUSED},
    {MAIL, "550 5.7.1 Authentication Required", 0, OUTCOME_AUTH_REFUSED},
    {MAIL, "553 SMTP authentication is required", 0, OUTCOME_AUTH_REFUSED},
    {RCPT, "554 5.7.1 <a@x>: Relay access denied", 0, OUTCOME_REFUSED},
    /* later */
    {RCPT, "450 4.2.1 x", 0, OUTCOME_DEFERRED},
    {RCPT, "451 4.3.0 x", 0, OUTCOME_DEFERRED},
    {RCPT, "450 4.1.1 unverified", 0, OUTCOME_DEFERRED},
    {RCPT, "450 x", 0, OUTCOME_DEFERRED},
    {RCPT, "450 5.1.1 contradicts", 0, OUTCOME_DEFERRED},
    {MAIL, "452 4.3.1 Insufficient system storage", 0, OUTCOME_DEFERRED},
    {DATA, "451 x", 0, OUTCOME_DEFERRED},
    {END, "451 4.3.0 x", 0, OUTCOME_DEFERRED},
    {CONTENT, "451 x", 0, OUTCOME_DEFERRED},
    {RCPT, "451 4.7.1 Greylisting in action", 0, OUTCOME_GREYLISTED},
    {RCPT, "450 4.2.0 <a@x>: Greylisted, see", 0, OUTCOME_GREYLISTED},
    {MAIL, "450 4.1.8 Sender address rejected: Domain not found", 0, OUTCOME_DEFERRED},
    /* too many recipients for one transaction */
    {RCPT, "452 4.5.3 Error: too many recipients", 3, OUTCOME_DEFERRED},
    {RCPT, "452 Too many recipients", 3, OUTCOME_DEFERRED},
    {RCPT, "552 Too many recipients", 3, OUTCOME_DEFERRED},
    {RCPT, "550 5.5.3 too many", 3, OUTCOME_DEFERRED},
    {RCPT, "452 x", 3, OUTCOME_DEFERRED},
    {RCPT, "552 x", 1, OUTCOME_DEFERRED},
    /* too much at once */
    {END, "432 4.3.2 Concurrent connections limit exceeded", 0, OUTCOME_THROTTLED},
    {MAIL, "454 Throttling failure: Maximum sending rate exceeded.", 0, OUTCOME_THROTTLED},
    {END, "454 4.7.0 x", 0, OUTCOME_THROTTLED},
    {MAIL, "450 4.7.0 x", 0, OUTCOME_THROTTLED},
    {RCPT, "450 4.2.1 The user you are trying to contact is receiving mail at a rate", 0,
     OUTCOME_THROTTLED},
    {MAIL, "452 4.5.3 Too many messages", 0, OUTCOME_THROTTLED},
    {MAIL, "451 Rate limit exceeded", 0, OUTCOME_THROTTLED},
    {MAIL, "451 4.7.500 Server busy", 0, OUTCOME_THROTTLED},
    {MAIL, "451 you are being throttled", 0, OUTCOME_THROTTLED},
    {MAIL, "451 cannot generate a corporate separate id", 0, OUTCOME_DEFERRED},
    {MAIL, "550 5.4.5 Daily user sending limit exceeded", 0, OUTCOME_THROTTLED},
    {END, "554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException", 0,
     OUTCOME_THROTTLED},
    /* full */
    {RCPT, "452 4.2.2 The email account is over quota", 0, OUTCOME_MAILBOX_FULL},
    {RCPT, "552 5.2.2 full", 0, OUTCOME_MAILBOX_FULL},
    {RCPT, "550 5.2.2 full", 2, OUTCOME_MAILBOX_FULL},
    {END, "552 5.2.2 full", 0, OUTCOME_MAILBOX_FULL},
    {RCPT, "452 Mailbox full", 0, OUTCOME_MAILBOX_FULL},
    {RCPT, "552 quota exceeded", 2, OUTCOME_MAILBOX_FULL},
    {RCPT, "552 exceeded storage allocation", 0, OUTCOME_MAILBOX_FULL},
    /* the recipient */
    {RCPT, "550 5.1.1 <a@x>: Recipient address rejected: User unknown", 0,
     OUTCOME_NO_SUCH_RECIPIENT},
    {RCPT, "550 5.1.10 null MX", 0, OUTCOME_NO_SUCH_RECIPIENT},
    {RCPT, "550 No such user here", 0, OUTCOME_NO_SUCH_RECIPIENT},
    {RCPT, "550 <a@x> does not exist", 0, OUTCOME_NO_SUCH_RECIPIENT},
    {RCPT, "551 not local", 0, OUTCOME_NO_SUCH_RECIPIENT},
    {RCPT, "501 5.1.3 Bad recipient address syntax", 0, OUTCOME_NO_SUCH_RECIPIENT},
    {END, "550 5.1.1 user unknown", 0, OUTCOME_NO_SUCH_RECIPIENT},
    {RCPT, "550 2.0.0 contradicts", 0, OUTCOME_REFUSED},
    {RCPT, "550 4.1.1 contradicts", 0, OUTCOME_REFUSED},
    {RCPT, "550 x", 0, OUTCOME_REFUSED},
    /* the sender */
    {MAIL, "553 5.7.1 Sender address rejected: not owned by user", 0, OUTCOME_SENDER_REFUSED},
    {RCPT, "553 5.7.1 <s@y>: Sender address rejected: not owned by user u", 0,
     OUTCOME_SENDER_REFUSED},
    {MAIL, "550 5.7.60 SMTP; Client does not have permissions to send as this sender", 0,
     OUTCOME_SENDER_REFUSED},
    {END, "554 5.2.252 SendAsDenied; u@y not allowed to send as s@y", 0, OUTCOME_SENDER_REFUSED},
    {MAIL, "553 x", 0, OUTCOME_SENDER_REFUSED},
    {MAIL, "550 5.1.7 Invalid address", 0, OUTCOME_SENDER_REFUSED},
    {MAIL, "501 5.1.8 Domain not found", 0, OUTCOME_SENDER_REFUSED},
    {MAIL, "550 5.7.1 x", 0, OUTCOME_REFUSED},
    /* the message */
    {MAIL, "552 5.3.4 Message size exceeds fixed limit", 0, OUTCOME_TOO_LARGE},
    {MAIL, "552 x", 0, OUTCOME_TOO_LARGE},
    {END, "552 x", 0, OUTCOME_TOO_LARGE},
    {CONTENT, "552 5.3.4 x", 0, OUTCOME_TOO_LARGE},
    {RCPT, "552 5.3.4 x", 2, OUTCOME_TOO_LARGE},
    {MAIL, "523 x", 0, OUTCOME_TOO_LARGE},
    {END, "554 5.2.3 x", 0, OUTCOME_TOO_LARGE},
    {END, "554 Message too large", 0, OUTCOME_TOO_LARGE},
    {END, "552 5.7.0 This message was blocked", 0, OUTCOME_REFUSED},
    {END, "554 5.7.1 Spam", 0, OUTCOME_REFUSED},
    {DATA, "554 no valid recipients", 0, OUTCOME_REFUSED},
    {MAIL, "555 x", 0, OUTCOME_REFUSED},
    {RCPT, "550 5.6.7 no SMTPUTF8", 0, OUTCOME_NEEDS_SMTPUTF8},
    {MAIL, "553 5.6.7 no SMTPUTF8", 0, OUTCOME_NEEDS_SMTPUTF8},
};

static void what_servers_say(void **state)
{
    (void)state;
    size_t wrong = 0;
    for (size_t index = 0; index < sizeof cases / sizeof cases[0]; index++) {
        const struct reply_case *c = &cases[index];
        struct smtp_reply reply;
        reply_of(c->line, &reply);
        enum outcome got = classify_reply(c->stage, &reply, c->accepted_count, PLAYBOOK_NONE);
        if (got != c->expected) {
            print_error("%s \"%s\": %s, expected %s\n", smtp_client_stage_word(c->stage), c->line,
                        outcome_row(got)->word, outcome_row(c->expected)->word);
            wrong++;
        }
    }
    assert_int_equal(wrong, 0);
}

/* ---- what always holds ---- */

static const char *const texts[] = {
    "",
    "too many recipients",
    "rate limit",
    "authentication required",
    "sender address rejected",
    "user unknown",
    "mailbox full",
    "message too large",
    "daily sending limit",
    "greylisted",
    "x",
};

static const uint16_t subjects[][2] = {{0, 0}, {1, 1}, {1, 7},  {2, 2},  {2, 3},
                                       {3, 4}, {4, 5}, {5, 3},  {6, 7},  {7, 0},
                                       {7, 1}, {7, 8}, {7, 12}, {7, 30}, {7, 708}};

/* Whether the outcome may come of the code at the stage, whatever else was said. */
static bool is_lawful(enum smtp_client_stage stage, uint16_t code, enum outcome outcome)
{
    enum outcome_action action = outcome_row(outcome)->action;
    bool delivered = stage == END && code < 300;
    if ((outcome == OUTCOME_DELIVERED) != delivered) {
        return false;
    }
    bool before_mail = stage < MAIL || stage == SMTP_CLIENT_STAGE_QUIT;
    bool no_fault_of_the_message = before_mail || code == 421 || code == 530 || code == 535;
    if (no_fault_of_the_message && !delivered && action != OUTCOME_ACTION_UPSTREAM) {
        return false;
    }
    if (code < 500 && action == OUTCOME_ACTION_REPORT) {
        return false;
    }
    return outcome != OUTCOME_NONE && outcome != OUTCOME_IN_DOUBT;
}

static void laws_hold_for_all_replies(void **state)
{
    (void)state;
    size_t count = 0;
    for (unsigned stage = 0; stage < STAGE_COUNT; stage++) {
        for (uint16_t code = 200; code < 600; code++) {
            for (size_t at = 0; at < sizeof subjects / sizeof subjects[0] * 6; at++) {
                const uint16_t *subject = subjects[at / 6];
                for (size_t text = 0; text < sizeof texts / sizeof texts[0]; text++) {
                    struct smtp_reply reply = {
                        .code = code,
                        .enhanced = {(uint16_t)(at % 6), subject[0], subject[1]},
                        .line_count = 1,
                        .text = slice_from_str(texts[text])};
                    enum outcome outcome = classify_reply((enum smtp_client_stage)stage, &reply,
                                                          text % 2, PLAYBOOK_NONE);
                    assert_true(is_lawful((enum smtp_client_stage)stage, code, outcome));
                    /* a contradicting class says nothing */
                    if (reply.enhanced[0] != code / 100) {
                        memset(reply.enhanced, 0, sizeof reply.enhanced);
                        assert_int_equal(outcome, classify_reply((enum smtp_client_stage)stage,
                                                                 &reply, text % 2, PLAYBOOK_NONE));
                    }
                    count++;
                }
            }
        }
    }
    assert_int_equal(count, STAGE_COUNT * 400 * 90 * 11);
}

/* ---- providers ---- */

struct provider_case {
    enum playbook_provider provider;
    enum smtp_client_stage stage;
    const char *line;
    enum outcome expected;
    bool known; /* a row of the playbook says it, with a sentence of its own */
};

static const struct provider_case provider_cases[] = {
    {PLAYBOOK_MICROSOFT365, AUTH, "535 5.7.139 Authentication unsuccessful, basic auth is disabled",
     OUTCOME_AUTH_REFUSED, true},
    {PLAYBOOK_MICROSOFT365, MAIL, "550 5.7.30 Basic authentication is not supported",
     OUTCOME_AUTH_REFUSED, true},
    {PLAYBOOK_MICROSOFT365, MAIL, "432 4.3.2 Concurrent connections limit exceeded",
     OUTCOME_THROTTLED, true},
    {PLAYBOOK_MICROSOFT365, END,
     "554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException; x",
     OUTCOME_THROTTLED, true},
    {PLAYBOOK_MICROSOFT365, END, "554 5.2.2 mailbox full; STOREDRV.Submission.Exception:Quota",
     OUTCOME_THROTTLED, true},
    {PLAYBOOK_MICROSOFT365, RCPT, "550 5.1.1 User unknown", OUTCOME_NO_SUCH_RECIPIENT, false},
    {PLAYBOOK_MICROSOFT365, END, "554 5.2.252 SendAsDenied; a@b not allowed to send as c@d",
     OUTCOME_SENDER_REFUSED, true},
    {PLAYBOOK_GMAIL, AUTH, "534 5.7.9 Application-specific password required.",
     OUTCOME_AUTH_REFUSED, true},
    {PLAYBOOK_GMAIL, MAIL, "550 5.4.5 Daily user sending limit exceeded.", OUTCOME_THROTTLED, true},
    {PLAYBOOK_GMAIL, MAIL, "421 4.7.0 Try again later", OUTCOME_SERVICE_CLOSING, false},
    {PLAYBOOK_GMAIL_RELAY, EHLO, "421 4.7.0 Try again later, closing connection. (EHLO)",
     OUTCOME_HELLO_REFUSED, true},
    {PLAYBOOK_GMAIL_RELAY, MAIL, "550 5.7.1 Invalid credentials for relay [192.0.2.1].",
     OUTCOME_AUTH_REFUSED, true},
    {PLAYBOOK_GMAIL_RELAY, RCPT, "550 5.7.1 Daily SMTP relay sending limit exceeded for user.",
     OUTCOME_THROTTLED, true},
    {PLAYBOOK_GMAIL_RELAY, RCPT, "450 4.2.1 Peak SMTP relay limit exceeded for customer.",
     OUTCOME_THROTTLED, true},
    {PLAYBOOK_SES, MAIL, "454 Throttling failure: Maximum sending rate exceeded.",
     OUTCOME_THROTTLED, true},
    {PLAYBOOK_SES, END, "554 Message rejected: Email address is not verified.",
     OUTCOME_SENDER_REFUSED, true},
    {PLAYBOOK_SES, AUTH, "535 Authentication Credentials Invalid", OUTCOME_AUTH_REFUSED, true},
    {PLAYBOOK_SENDGRID, AUTH, "451 Authentication failed: Maximum credits exceeded",
     OUTCOME_AUTH_REFUSED, true},
    {PLAYBOOK_SENDGRID, END,
     "550 The from address does not match a verified Sender Identity. Mail cannot be sent",
     OUTCOME_SENDER_REFUSED, true},
    /* What is one provider's is nobody else's. */
    {PLAYBOOK_NONE, END, "554 Message rejected: Email address is not verified.", OUTCOME_REFUSED,
     false},
    {PLAYBOOK_MAILGUN, MAIL, "550 5.7.1 Invalid credentials for relay", OUTCOME_REFUSED, false},
};

static enum playbook_where where(enum smtp_client_stage stage)
{
    return stage == AUTH                        ? PLAYBOOK_LOGIN
           : stage == EHLO || stage == GREETING ? PLAYBOOK_HELLO
                                                : PLAYBOOK_MESSAGE;
}

static void what_providers_mean(void **state)
{
    (void)state;
    for (size_t at = 0; at < sizeof provider_cases / sizeof provider_cases[0]; at++) {
        const struct provider_case *c = &provider_cases[at];
        struct smtp_reply reply;
        reply_of(c->line, &reply);
        enum outcome got = classify_reply(c->stage, &reply, 0, c->provider);
        if (got != c->expected) {
            print_error("%s: %s\n", c->line, outcome_row(got)->word);
        }
        assert_int_equal(got, c->expected);
        const struct playbook_reply *row =
            playbook_reply(c->provider, where(c->stage), reply.code, reply.enhanced, reply.text);
        assert_int_equal(row != NULL, c->known);
    }
}

/* The laws, for each row of the playbook, at every stage that it is for. */
static void rows_of_providers_are_lawful(void **state)
{
    (void)state;
    size_t count = 0;
    const struct playbook_reply *row;
    for (; (row = playbook_reply_at(count)) != NULL; count++) {
        uint16_t code = 0;
        for (size_t digit = 0; digit < 3; digit++) {
            char c = row->code[digit];
            code = (uint16_t)(code * 10 + (c >= '0' && c <= '9' ? c - '0' : 0));
        }
        assert_true(code >= 400 && code < 600);
        for (unsigned stage = 0; stage < STAGE_COUNT; stage++) {
            bool skipped = stage == IDLE || stage == STARTTLS || stage == SMTP_CLIENT_STAGE_TLS ||
                           stage == SMTP_CLIENT_STAGE_CONNECT || stage == SMTP_CLIENT_STAGE_QUIT;
            if (!skipped && (row->where == PLAYBOOK_ANY ||
                             row->where == where((enum smtp_client_stage)stage))) {
                assert_true(is_lawful((enum smtp_client_stage)stage, code, row->outcome));
            }
        }
        assert_true(row->sentence[0] != '\0' && row->hint[0] != '\0');
    }
    assert_true(count >= 20);
}

/* ---- failures ---- */

static enum outcome of_failure(enum smtp_client_stage stage, enum smtp_client_failure failure)
{
    struct smtp_client_event event = {
        .type = SMTP_CLIENT_EVENT_FAILED, .stage = stage, .failure = failure, .detail = "x"};
    return classify_event(&event, PLAYBOOK_NONE);
}

static void failures(void **state)
{
    (void)state;
    static const struct {
        enum smtp_client_stage stage;
        enum smtp_client_failure failure;
        enum outcome expected;
    } rows[] = {
        {SMTP_CLIENT_STAGE_CONNECT, SMTP_CLIENT_FAILURE_TIMEOUT, OUTCOME_CONNECT_TIMEOUT},
        {GREETING, SMTP_CLIENT_FAILURE_TIMEOUT, OUTCOME_TIMED_OUT},
        {GREETING, SMTP_CLIENT_FAILURE_CLOSED, OUTCOME_CONNECTION_LOST},
        {GREETING, SMTP_CLIENT_FAILURE_PROTOCOL, OUTCOME_PROTOCOL_ERROR},
        {EHLO, SMTP_CLIENT_FAILURE_NO_STARTTLS, OUTCOME_TLS_NOT_OFFERED},
        {EHLO, SMTP_CLIENT_FAILURE_NO_AUTH, OUTCOME_AUTH_NOT_OFFERED},
        {STARTTLS, SMTP_CLIENT_FAILURE_PROTOCOL, OUTCOME_PROTOCOL_ERROR},
        {SMTP_CLIENT_STAGE_TLS, SMTP_CLIENT_FAILURE_CLOSED, OUTCOME_TLS_FAILED},
        {SMTP_CLIENT_STAGE_TLS, SMTP_CLIENT_FAILURE_TIMEOUT, OUTCOME_TLS_FAILED},
        {AUTH, SMTP_CLIENT_FAILURE_CLOSED, OUTCOME_CONNECTION_LOST},
        {MAIL, SMTP_CLIENT_FAILURE_CLOSED, OUTCOME_CONNECTION_LOST},
        {RCPT, SMTP_CLIENT_FAILURE_TIMEOUT, OUTCOME_TIMED_OUT},
        {CONTENT, SMTP_CLIENT_FAILURE_CLOSED, OUTCOME_CONNECTION_LOST},
        {CONTENT, SMTP_CLIENT_FAILURE_PROTOCOL, OUTCOME_PROTOCOL_ERROR},
        {END, SMTP_CLIENT_FAILURE_CLOSED, OUTCOME_IN_DOUBT},
        {END, SMTP_CLIENT_FAILURE_TIMEOUT, OUTCOME_IN_DOUBT},
        {END, SMTP_CLIENT_FAILURE_PROTOCOL, OUTCOME_IN_DOUBT},
    };
    for (size_t index = 0; index < sizeof rows / sizeof rows[0]; index++) {
        assert_int_equal(of_failure(rows[index].stage, rows[index].failure), rows[index].expected);
    }
    /* whatever breaks, no message fails for good, and none is delivered */
    for (unsigned stage = 0; stage < STAGE_COUNT; stage++) {
        for (unsigned failure = 1; failure <= SMTP_CLIENT_FAILURE_CLOSED; failure++) {
            enum outcome outcome =
                of_failure((enum smtp_client_stage)stage, (enum smtp_client_failure)failure);
            enum outcome_action action = outcome_row(outcome)->action;
            assert_true(action == OUTCOME_ACTION_UPSTREAM || outcome == OUTCOME_IN_DOUBT);
        }
    }
}

/* ---- events ---- */

static enum outcome of_event(enum smtp_client_event_type type, enum smtp_client_stage stage,
                             const char *line, uint32_t accepted_count)
{
    struct smtp_client_event event = {
        .type = type, .stage = stage, .accepted_count = accepted_count};
    if (line != NULL) {
        reply_of(line, &event.reply);
    }
    return classify_event(&event, PLAYBOOK_NONE);
}

static void events(void **state)
{
    (void)state;
    assert_int_equal(of_event(SMTP_CLIENT_EVENT_DONE, END, "250 ok", 2), OUTCOME_DELIVERED);
    assert_int_equal(of_event(SMTP_CLIENT_EVENT_DONE, END, "451 x", 2), OUTCOME_DEFERRED);
    assert_int_equal(of_event(SMTP_CLIENT_EVENT_DONE, END, "554 x", 2), OUTCOME_REFUSED);
    assert_int_equal(of_event(SMTP_CLIENT_EVENT_DONE, END, NULL, 0), OUTCOME_NONE);
    assert_int_equal(of_event(SMTP_CLIENT_EVENT_RECIPIENT, RCPT, "550 5.1.1 x", 0),
                     OUTCOME_NO_SUCH_RECIPIENT);
    assert_int_equal(of_event(SMTP_CLIENT_EVENT_RECIPIENT, RCPT, "552 x", 1), OUTCOME_DEFERRED);
    assert_int_equal(of_event(SMTP_CLIENT_EVENT_RECIPIENT, RCPT, NULL, 0), OUTCOME_DAMAGED);
    assert_int_equal(of_event(SMTP_CLIENT_EVENT_RECIPIENT, MAIL, NULL, 0), OUTCOME_DAMAGED);
    assert_int_equal(of_event(SMTP_CLIENT_EVENT_RECIPIENT, MAIL, "530 5.7.0 x", 0),
                     OUTCOME_AUTH_REFUSED);
    assert_int_equal(of_event(SMTP_CLIENT_EVENT_AUTH_RESULT, AUTH, "235 ok", 0), OUTCOME_NONE);
    assert_int_equal(of_event(SMTP_CLIENT_EVENT_AUTH_RESULT, AUTH, "535 no", 0),
                     OUTCOME_AUTH_REFUSED);
    assert_int_equal(of_event(SMTP_CLIENT_EVENT_FAILED, CONTENT, "552 5.3.4 x", 1),
                     OUTCOME_TOO_LARGE);
    assert_int_equal(of_event(SMTP_CLIENT_EVENT_FAILED, END, "421 x", 1), OUTCOME_SERVICE_CLOSING);
    assert_int_equal(of_event(SMTP_CLIENT_EVENT_READY, IDLE, NULL, 0), OUTCOME_NONE);
    assert_int_equal(of_event(SMTP_CLIENT_EVENT_CLOSE, IDLE, NULL, 0), OUTCOME_NONE);
}

static void text_of_several_lines(void **state)
{
    (void)state;
    struct smtp_reply reply = {.code = 450, .text = SLICE("4.2.1 first\n4.2.1 Rate")};
    assert_int_equal(classify_reply(RCPT, &reply, 0, PLAYBOOK_NONE), OUTCOME_THROTTLED);
    reply.text = SLICE("4.2.1 first\n4.2.1 Pirate rates2");
    assert_int_equal(classify_reply(RCPT, &reply, 0, PLAYBOOK_NONE), OUTCOME_DEFERRED);
}

static void connects_tls_and_begins(void **state)
{
    (void)state;
    assert_int_equal(classify_connect(ECONNREFUSED), OUTCOME_CONNECTION_REFUSED);
    assert_int_equal(classify_connect(ETIMEDOUT), OUTCOME_CONNECT_TIMEOUT);
    assert_int_equal(classify_connect(ENETUNREACH), OUTCOME_UNREACHABLE);
    assert_int_equal(classify_connect(EHOSTUNREACH), OUTCOME_UNREACHABLE);
    assert_int_equal(classify_connect(ECONNRESET), OUTCOME_CONNECTION_LOST);
    assert_int_equal(classify_connect(EMFILE), OUTCOME_LOCAL_TROUBLE);
    assert_int_equal(classify_tls(CLASSIFY_TLS_UNTRUSTED), OUTCOME_TLS_UNTRUSTED);
    assert_int_equal(classify_tls(CLASSIFY_TLS_WRONG_NAME), OUTCOME_TLS_WRONG_NAME);
    assert_int_equal(classify_tls(CLASSIFY_TLS_EXPIRED), OUTCOME_TLS_EXPIRED);
    assert_int_equal(classify_tls(CLASSIFY_TLS_HANDSHAKE), OUTCOME_TLS_FAILED);
    assert_int_equal(classify_begin(SMTP_CLIENT_TOO_LARGE), OUTCOME_TOO_LARGE);
    assert_int_equal(classify_begin(SMTP_CLIENT_NO_SMTPUTF8), OUTCOME_NEEDS_SMTPUTF8);
    assert_int_equal(classify_begin(SMTP_CLIENT_BEGUN), OUTCOME_NONE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_servers_say),
        cmocka_unit_test(laws_hold_for_all_replies),
        cmocka_unit_test(what_providers_mean),
        cmocka_unit_test(rows_of_providers_are_lawful),
        cmocka_unit_test(failures),
        cmocka_unit_test(events),
        cmocka_unit_test(text_of_several_lines),
        cmocka_unit_test(connects_tls_and_begins),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
