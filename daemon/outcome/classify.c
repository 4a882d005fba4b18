/*
 * The table, and how a row is matched. A row asks for all that it names; what it leaves out may be
 * anything.
 *
 *   stages    where it happened, a set
 *   failure   what happened: a reply, or one of the other failures
 *   code      "421", "5yz": a letter stands for any digit; NULL: any
 *   enhanced  "x.7.x": a letter stands for any number; NULL: any, or none
 *   words     of the text, any case, any of several by "|"; whole words, or with "*" at the end
 *             words that begin so
 *   others    other recipients were accepted before
 *
 * Sources: RFC 5321 4.2, RFC 3463 and the registry behind it, RFC 4954 4 and 6, RFC 3207 4.
 */
#include "daemon/outcome/classify.h"

#include "schema/reply_pattern.h"

#include <errno.h>

#define AT(stage) (1u << SMTP_CLIENT_STAGE_##stage)

#define ANYWHERE    0xffffffffu
#define TRANSACTION (AT(MAIL) | AT(RCPT) | AT(DATA) | AT(CONTENT) | AT(END))
#define MESSAGE     (AT(DATA) | AT(CONTENT) | AT(END))

enum what {
    REPLY = 1u << SMTP_CLIENT_FAILURE_REPLY,
    NO_STARTTLS = 1u << SMTP_CLIENT_FAILURE_NO_STARTTLS,
    NO_AUTH = 1u << SMTP_CLIENT_FAILURE_NO_AUTH,
    PROTOCOL = 1u << SMTP_CLIENT_FAILURE_PROTOCOL,
    TIMEOUT = 1u << SMTP_CLIENT_FAILURE_TIMEOUT,
    CLOSED = 1u << SMTP_CLIENT_FAILURE_CLOSED,
    BROKEN = PROTOCOL | TIMEOUT | CLOSED,
};

/* What servers say when it is the sender that they will not have. */
#define SENDER_WORDS                                                                               \
    "sender address|sender rejected|sender denied|sender verify*|sender not|sender is|"            \
    "invalid sender|not owned|sendasdenied*|send as|send on behalf|from address"
#define UNKNOWN_WORDS                                                                              \
    "user unknown|unknown user|no such user|no such recipient|recipient unknown|"                  \
    "unknown recipient|no such mailbox|mailbox not found|user not found|recipient not found|"      \
    "does not exist|doesn't exist|no mailbox here"
#define SIZE_WORDS                                                                                 \
    "too large|too big|size exceed*|exceeds size|size limit|maximum size|maximum message size"
#define FULL_WORDS "mailbox full|mailbox is full|mailbox quota|over quota|quota exceeded|inbox full"
#define LOGIN_WORDS                                                                                \
    "authentication required|authentication is required|auth required|"                            \
    "not authenticated|must authenticate|authenticate first|login required"
#define BUSY_WORDS  "too many|throttl*|rate|rates|rate-limit*|ratelimit*|server busy|slow down"
#define DAILY_WORDS "sending limit|sending quota|submissionquota*|daily limit|hourly limit"
#define LATER_WORDS "greylist*|graylist*|grey-list*|gray-list*"

struct row {
    uint32_t stages;
    uint32_t what;
    const char *code, *enhanced, *words;
    bool others;
    enum outcome outcome;
};

static const struct row rows[] = {
    /* The connection broke, or speaks something else. Once the whole content was given away nobody
     * knows whether it was taken. */
    {AT(END), BROKEN, .outcome = OUTCOME_IN_DOUBT},
    {ANYWHERE, NO_STARTTLS, .outcome = OUTCOME_TLS_NOT_OFFERED},
    {ANYWHERE, NO_AUTH, .outcome = OUTCOME_AUTH_NOT_OFFERED},
    {AT(TLS), BROKEN, .outcome = OUTCOME_TLS_FAILED},
    {AT(CONNECT), TIMEOUT, .outcome = OUTCOME_CONNECT_TIMEOUT},
    {ANYWHERE, PROTOCOL, .outcome = OUTCOME_PROTOCOL_ERROR},
    {ANYWHERE, TIMEOUT, .outcome = OUTCOME_TIMED_OUT},
    {ANYWHERE, CLOSED, .outcome = OUTCOME_CONNECTION_LOST},

    /* All below are replies. */
    {AT(END), REPLY, "2yz", .outcome = OUTCOME_DELIVERED},
    {ANYWHERE, REPLY, "2yz", .outcome = OUTCOME_PROTOCOL_ERROR},
    {ANYWHERE, REPLY, "3yz", .outcome = OUTCOME_PROTOCOL_ERROR},
    {ANYWHERE, REPLY, "421", .outcome = OUTCOME_SERVICE_CLOSING},

    /* Before any message. */
    {AT(GREETING) | AT(CONNECT), REPLY, .outcome = OUTCOME_GREETING_REFUSED},
    {AT(EHLO), REPLY, "500", .outcome = OUTCOME_PROTOCOL_ERROR}, /* it knows neither TLS nor AUTH */
    {AT(EHLO), REPLY, "502", .outcome = OUTCOME_PROTOCOL_ERROR},
    {AT(EHLO), REPLY, .outcome = OUTCOME_HELLO_REFUSED},
    {AT(STARTTLS) | AT(TLS), REPLY, .outcome = OUTCOME_TLS_NOT_OFFERED},
    {AT(AUTH), REPLY, NULL, "4.7.12", .outcome = OUTCOME_AUTH_REFUSED}, /* a password to be set */
    {AT(AUTH), REPLY, "4yz", .outcome = OUTCOME_AUTH_DEFERRED},
    {AT(AUTH), REPLY, "504", .outcome = OUTCOME_AUTH_NO_MECHANISM},
    {AT(AUTH), REPLY, "500", .outcome = OUTCOME_AUTH_NOT_OFFERED},
    {AT(AUTH), REPLY, "502", .outcome = OUTCOME_AUTH_NOT_OFFERED},
    {AT(AUTH), REPLY, "503", .outcome = OUTCOME_PROTOCOL_ERROR},
    {AT(AUTH), REPLY, .outcome = OUTCOME_AUTH_REFUSED},
    {AT(IDLE) | AT(QUIT), REPLY, .outcome = OUTCOME_PROTOCOL_ERROR},

    /* A login that is missing or not good enough is nothing that a message could help. */
    {TRANSACTION, REPLY, "530", .outcome = OUTCOME_AUTH_REFUSED},
    {TRANSACTION, REPLY, "534", .outcome = OUTCOME_AUTH_REFUSED},
    {TRANSACTION, REPLY, "535", .outcome = OUTCOME_AUTH_REFUSED},
    {TRANSACTION, REPLY, "538", .outcome = OUTCOME_AUTH_REFUSED},
    {AT(MAIL), REPLY, "5yz", "5.7.8", .outcome = OUTCOME_AUTH_REFUSED},
    {AT(MAIL), REPLY, "5yz", "5.7.9", .outcome = OUTCOME_AUTH_REFUSED},
    {AT(MAIL), REPLY, "5yz", "5.7.30", .outcome = OUTCOME_AUTH_REFUSED},
    {AT(MAIL), REPLY, "5yz", NULL, LOGIN_WORDS, .outcome = OUTCOME_AUTH_REFUSED},

    /* A full mailbox may be emptied, whichever class it was said with. */
    {AT(RCPT) | MESSAGE, REPLY, NULL, "x.2.2", .outcome = OUTCOME_MAILBOX_FULL},
    {AT(RCPT), REPLY, "452", NULL, FULL_WORDS, .outcome = OUTCOME_MAILBOX_FULL},
    {AT(RCPT), REPLY, "552", NULL, FULL_WORDS, .outcome = OUTCOME_MAILBOX_FULL},

    /* Too many recipients for one transaction: the rest in the next one. RFC 5321 4.5.3.1.10 */
    {AT(RCPT), REPLY, NULL, "x.5.3", .outcome = OUTCOME_DEFERRED},
    {AT(RCPT), REPLY, "452", NULL, "too many recipients", .outcome = OUTCOME_DEFERRED},
    {AT(RCPT), REPLY, "552", NULL, "too many recipients", .outcome = OUTCOME_DEFERRED},

    /* Later. */
    {TRANSACTION, REPLY, "4yz", NULL, LATER_WORDS, .outcome = OUTCOME_GREYLISTED},
    {TRANSACTION, REPLY, "432", .outcome = OUTCOME_THROTTLED},
    {TRANSACTION, REPLY, "454", .outcome = OUTCOME_THROTTLED},
    {TRANSACTION, REPLY, "4yz", "4.7.x", .outcome = OUTCOME_THROTTLED},
    {TRANSACTION, REPLY, "4yz", NULL, BUSY_WORDS, .outcome = OUTCOME_THROTTLED},
    {TRANSACTION, REPLY, "4yz", NULL, DAILY_WORDS, .outcome = OUTCOME_THROTTLED},
    {TRANSACTION, REPLY, "4yz", .outcome = OUTCOME_DEFERRED},

    /* A day's quota is said with 5yz by the large providers, and is over the next day. */
    {TRANSACTION, REPLY, "5yz", "5.4.5", DAILY_WORDS, .outcome = OUTCOME_THROTTLED},
    {TRANSACTION, REPLY, "5yz", "5.2.0", DAILY_WORDS, .outcome = OUTCOME_THROTTLED},
    {TRANSACTION, REPLY, "5yz", NULL, "submissionquota*", .outcome = OUTCOME_THROTTLED},

    /* Never, and why. */
    {TRANSACTION, REPLY, "5yz", "5.6.7", .outcome = OUTCOME_NEEDS_SMTPUTF8},
    {TRANSACTION, REPLY, "5yz", NULL, SENDER_WORDS, .outcome = OUTCOME_SENDER_REFUSED},
    {TRANSACTION, REPLY, "5yz", "5.1.7", .outcome = OUTCOME_SENDER_REFUSED},
    {TRANSACTION, REPLY, "5yz", "5.1.8", .outcome = OUTCOME_SENDER_REFUSED},
    {AT(MAIL), REPLY, "553", .outcome = OUTCOME_SENDER_REFUSED},
    {AT(MAIL), REPLY, "55z", NULL, "sender*", .outcome = OUTCOME_SENDER_REFUSED},
    {AT(MAIL), REPLY, "5yz", "5.1.x", .outcome = OUTCOME_SENDER_REFUSED},
    {TRANSACTION, REPLY, "523", .outcome = OUTCOME_TOO_LARGE},
    {TRANSACTION, REPLY, "5yz", "5.3.4", .outcome = OUTCOME_TOO_LARGE},
    {TRANSACTION, REPLY, "5yz", "5.2.3", .outcome = OUTCOME_TOO_LARGE},
    {TRANSACTION, REPLY, "552", "5.7.x", .outcome = OUTCOME_REFUSED},
    {TRANSACTION, REPLY, "5yz", NULL, SIZE_WORDS, .outcome = OUTCOME_TOO_LARGE},
    {AT(RCPT), REPLY, "552", .others = true, .outcome = OUTCOME_DEFERRED},
    {AT(RCPT), REPLY, "552", .outcome = OUTCOME_MAILBOX_FULL}, /* "exceeded storage allocation" */
    {TRANSACTION, REPLY, "552", .outcome = OUTCOME_TOO_LARGE},
    {AT(RCPT) | MESSAGE, REPLY, "5yz", "5.1.1", .outcome = OUTCOME_NO_SUCH_RECIPIENT},
    {AT(RCPT), REPLY, "5yz", "5.1.x", .outcome = OUTCOME_NO_SUCH_RECIPIENT},
    {AT(RCPT), REPLY, "551", .outcome = OUTCOME_NO_SUCH_RECIPIENT},
    {AT(RCPT), REPLY, "55z", NULL, UNKNOWN_WORDS, .outcome = OUTCOME_NO_SUCH_RECIPIENT},
    {TRANSACTION, REPLY, "5yz", .outcome = OUTCOME_REFUSED},
};

/* ---- matching ---- */

struct happening {
    enum smtp_client_stage stage;
    enum smtp_client_failure failure;
    struct smtp_reply reply;
    bool others;
    enum playbook_provider provider;
};

static bool row_matches(const struct row *row, const struct happening *h)
{
    if ((row->stages & (1u << h->stage)) == 0 || (row->what & (1u << h->failure)) == 0) {
        return false;
    }
    return (row->code == NULL || reply_code_matches(row->code, h->reply.code)) &&
           (row->enhanced == NULL || reply_enhanced_matches(row->enhanced, h->reply.enhanced)) &&
           (!row->others || h->others) &&
           (row->words == NULL || reply_words_match(row->words, h->reply.text));
}

static enum playbook_where where_of(enum smtp_client_stage stage)
{
    if ((AT(CONNECT) | AT(GREETING) | AT(EHLO)) & (1u << stage)) {
        return PLAYBOOK_HELLO;
    }
    return stage == SMTP_CLIENT_STAGE_AUTH ? PLAYBOOK_LOGIN : PLAYBOOK_MESSAGE;
}

static const struct playbook_reply *of_provider(const struct happening *h)
{
    bool said = h->failure == SMTP_CLIENT_FAILURE_REPLY && h->reply.code >= 400;
    bool somewhere = ((AT(STARTTLS) | AT(TLS) | AT(IDLE) | AT(QUIT)) & (1u << h->stage)) == 0;
    return said && somewhere ? playbook_reply(h->provider, where_of(h->stage), h->reply.code,
                                              h->reply.enhanced, h->reply.text)
                             : NULL;
}

static enum outcome look_up(struct happening h)
{
    if (h.reply.enhanced[0] != h.reply.code / 100) {
        memset(h.reply.enhanced, 0, sizeof h.reply.enhanced);
    }
    const struct playbook_reply *known = of_provider(&h);
    if (known != NULL) {
        return known->outcome;
    }
    for (size_t index = 0; index < sizeof rows / sizeof rows[0]; index++) {
        if (row_matches(&rows[index], &h)) {
            return rows[index].outcome;
        }
    }
    return OUTCOME_PROTOCOL_ERROR; /* a code that no row knows is none of SMTP's */
}

/* ---- what is asked ---- */

enum outcome classify_reply(enum smtp_client_stage stage, const struct smtp_reply *reply,
                            uint32_t accepted_count, enum playbook_provider provider)
{
    return look_up((struct happening){.stage = stage,
                                      .provider = provider,
                                      .failure = SMTP_CLIENT_FAILURE_REPLY,
                                      .reply = *reply,
                                      .others = accepted_count > 0});
}

enum outcome classify_event(const struct smtp_client_event *event, enum playbook_provider provider)
{
    switch (event->type) {
    case SMTP_CLIENT_EVENT_RECIPIENT:
        if (event->reply.code == 0) {
            return OUTCOME_DAMAGED; /* an address that was judged when it came, and is none now */
        }
        return classify_reply(event->stage, &event->reply, event->accepted_count, provider);
    case SMTP_CLIENT_EVENT_DONE:
        if (event->accepted_count == 0) {
            return OUTCOME_NONE;
        }
        return classify_reply(event->stage, &event->reply, event->accepted_count, provider);
    case SMTP_CLIENT_EVENT_AUTH_RESULT:
        if (event->reply.code == 235) {
            return OUTCOME_NONE;
        }
        return classify_reply(SMTP_CLIENT_STAGE_AUTH, &event->reply, 0, provider);
    case SMTP_CLIENT_EVENT_LOST:
    case SMTP_CLIENT_EVENT_FAILED:
        return look_up((struct happening){.stage = event->stage,
                                          .failure = event->failure,
                                          .reply = event->reply,
                                          .provider = provider,
                                          .others = event->accepted_count > 0});
    case SMTP_CLIENT_EVENT_STARTTLS:
    case SMTP_CLIENT_EVENT_AUTH:
    case SMTP_CLIENT_EVENT_AUTH_CHALLENGE:
    case SMTP_CLIENT_EVENT_READY:
    case SMTP_CLIENT_EVENT_CONTENT:
    case SMTP_CLIENT_EVENT_CLOSE:
        break;
    }
    return OUTCOME_NONE;
}

static const struct {
    int error;
    enum outcome outcome;
} connect_rows[] = {
    {ECONNREFUSED, OUTCOME_CONNECTION_REFUSED},
    {ETIMEDOUT, OUTCOME_CONNECT_TIMEOUT},
    {ENETUNREACH, OUTCOME_UNREACHABLE},
    {EHOSTUNREACH, OUTCOME_UNREACHABLE},
    {ENETDOWN, OUTCOME_UNREACHABLE},
    {EHOSTDOWN, OUTCOME_UNREACHABLE},
    {EADDRNOTAVAIL, OUTCOME_UNREACHABLE},
    {EACCES, OUTCOME_UNREACHABLE},
    {EPERM, OUTCOME_UNREACHABLE},
    {ECONNRESET, OUTCOME_CONNECTION_LOST},
    {EPIPE, OUTCOME_CONNECTION_LOST},
};

/* What is in no row (no descriptors, no memory) is this box's own trouble. */
enum outcome classify_connect(int error)
{
    for (size_t index = 0; index < sizeof connect_rows / sizeof connect_rows[0]; index++) {
        if (connect_rows[index].error == error) {
            return connect_rows[index].outcome;
        }
    }
    return OUTCOME_LOCAL_TROUBLE;
}

enum outcome classify_tls(enum classify_tls failure)
{
    switch (failure) {
    case CLASSIFY_TLS_UNTRUSTED:
        return OUTCOME_TLS_UNTRUSTED;
    case CLASSIFY_TLS_WRONG_NAME:
        return OUTCOME_TLS_WRONG_NAME;
    case CLASSIFY_TLS_EXPIRED:
        return OUTCOME_TLS_EXPIRED;
    case CLASSIFY_TLS_HANDSHAKE:
        break;
    }
    return OUTCOME_TLS_FAILED;
}

enum outcome classify_begin(enum smtp_client_begin begin)
{
    switch (begin) {
    case SMTP_CLIENT_TOO_LARGE:
        return OUTCOME_TOO_LARGE;
    case SMTP_CLIENT_NO_SMTPUTF8:
        return OUTCOME_NEEDS_SMTPUTF8;
    case SMTP_CLIENT_BEGUN:
        break;
    }
    return OUTCOME_NONE;
}
