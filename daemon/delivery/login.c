/*
 * The login on one connection: which mechanisms, in which order, and what their failures mean. The
 * computing is the auth thread's.
 *
 * With `auth = auto` the mechanism that worked last time is tried first, then from the strongest
 * down. Every offered one is tried at most once on a connection: servers announce mechanisms that
 * cannot work for an account (CRAM-MD5 without a plain secret), so a refusal of one says little
 * until all were refused. But a server that fails to prove itself is tried no further.
 */
#include "daemon/delivery/delivery_internal.h"
#include "daemon/sasl/sasl_login.h"

#include <stdio.h>

/* Takes the first name off the list. False when it is empty. */
static bool next_candidate(struct session *s, char name[32])
{
    struct slice list = slice_trim(slice_from_str(s->candidates));
    if (list.len == 0) {
        return false;
    }
    struct slice first = slice_head(list, slice_find(list, ' '));
    snprintf(name, 32, "%.*s", (int)(first.len < 31 ? first.len : 31), (const char *)first.data);
    memmove(s->candidates, list.data + first.len, list.len - first.len);
    s->candidates[list.len - first.len] = '\0';
    return true;
}

/* Brings the mechanism that worked last to the front, if it is in the list. */
static void prefer_known(struct session *s)
{
    const char *known = s->d->good_mechanism[s->upstream];
    char rest[sizeof s->candidates] = "";
    char name[32];
    bool found = false;
    size_t len = 0;
    if (known[0] == '\0') {
        return;
    }
    while (next_candidate(s, name)) {
        if (strcmp(name, known) == 0) {
            found = true;
        } else {
            len += (size_t)snprintf(rest + len, sizeof rest - len, " %s", name);
        }
    }
    snprintf(s->candidates, sizeof s->candidates, "%.31s%.*s", found ? known : "",
             (int)(sizeof s->candidates - 33), rest);
}

static void send_auth(struct session *s, enum flow_auth_step step)
{
    s->auth.step = step;
    s->auth.msg.kind = FLOW_AUTH;
    s->auth.msg.reply_to = s->d->with.self;
    s->auth.upstream = s->upstream;
    s->auth_away = true;
    mailbox_send(s->d->with.authenticator, &s->auth.msg);
}

/* PLAIN and LOGIN say the same thing: what refused the one would refuse the other, and count it. */
static bool sends_password(const char *mechanism)
{
    return strcmp(mechanism, "PLAIN") == 0 || strcmp(mechanism, "LOGIN") == 0;
}

static void try_next(struct session *s, enum outcome outcome, uint16_t code, struct slice text)
{
    char name[32];
    do {
        if (!next_candidate(s, name)) {
            session_fail(s, outcome, code, text);
            return;
        }
    } while (s->password_refused && sends_password(name));
    struct flow_auth *auth = &s->auth;
    auth->over_tls = s->machine.tls;
    snprintf(auth->host, sizeof auth->host, "%s", connecting_host(s));
    snprintf(auth->mechanisms, sizeof auth->mechanisms, "%s", name);
    auth->data_len = 0;
    s->auth_challenge_wrong = false;
    send_auth(s, FLOW_AUTH_START);
}

void login_begin(struct session *s, struct slice offered)
{
    char names[512];
    snprintf(names, sizeof names, "%.*s",
             (int)(offered.len < sizeof names ? offered.len : sizeof names - 1),
             offered.len == 0 ? "" : (const char *)offered.data);
    sasl_login_choose(names, s->up->auth, s->machine.tls, s->candidates, sizeof s->candidates);
    prefer_known(s);
    char words[200];
    snprintf(words, sizeof words, "the upstream offers %.100s; auth = %.60s", names, s->up->auth);
    try_next(s, OUTCOME_AUTH_NO_MECHANISM, 0, slice_from_str(words));
}

void login_challenge(struct session *s, struct slice challenge)
{
    struct flow_auth *auth = &s->auth;
    if (challenge.len > sizeof auth->data) {
        s->auth_challenge_wrong = true;
        smtp_client_auth_cancel(&s->machine, io_now_ms(s->d->with.io));
        return;
    }
    if (challenge.len > 0) {
        memcpy(auth->data, challenge.data, challenge.len);
    }
    auth->data_len = challenge.len;
    send_auth(s, FLOW_AUTH_CONTINUE);
}

void login_back(struct session *s)
{
    struct flow_auth *auth = &s->auth;
    uint64_t now = io_now_ms(s->d->with.io);
    if (auth->result == ERR_PERMISSION) {
        session_fail(s, OUTCOME_SECRET_UNREADABLE, 0, slice_from_str(auth->text));
        return;
    }
    if (auth->result != ERR_OK &&
        auth->step == FLOW_AUTH_START) { /* not installed here, or it cannot begin */
        try_next(s, OUTCOME_AUTH_NO_MECHANISM, 0, slice_from_str(auth->text));
        return;
    }
    if (auth->result != ERR_OK && auth->unproven) { /* PLAIN would give it the password */
        session_fail(s, OUTCOME_AUTH_UNPROVEN, 0, slice_from_str(auth->text));
        return;
    }
    if (auth->result != ERR_OK) {
        s->auth_challenge_wrong = true;
        smtp_client_auth_cancel(&s->machine, now);
        return;
    }
    struct slice data = slice_of(auth->data, auth->data_len);
    if (auth->step == FLOW_AUTH_START) {
        snprintf(s->mechanism, sizeof s->mechanism, "%s", auth->mechanism);
        smtp_client_auth(&s->machine, s->mechanism, auth->has_data, data, now);
    } else if (auth->step == FLOW_AUTH_CONTINUE) {
        smtp_client_auth_response(&s->machine, data, now);
    }
    explicit_bzero(auth->data, sizeof auth->data);
}

void login_result(struct session *s, const struct smtp_reply *reply)
{
    if (reply->code == 235 && !s->auth.complete) {
        session_fail(s, OUTCOME_PROTOCOL_ERROR, 235,
                     SLICE("the upstream said yes before it had shown that it knows the password"));
        return;
    }
    if (reply->code == 235) {
        snprintf(s->d->good_mechanism[s->upstream], sizeof s->d->good_mechanism[0], "%s",
                 s->mechanism);
        return;
    }
    if (s->auth_challenge_wrong) {
        try_next(s, OUTCOME_PROTOCOL_ERROR, 0, slice_from_str(s->auth.text));
        return;
    }
    enum outcome outcome = classify_reply(SMTP_CLIENT_STAGE_AUTH, reply, 0, s->up->host.provider);
    if (reply->code == 535 && sends_password(s->mechanism)) {
        s->password_refused = true; /* whatever is tried in between */
    }
    if (reply->code < 500) { /* it cannot tell now: another mechanism will not help */
        session_fail(s, outcome, reply->code, smtp_reply_first_line(reply));
    } else {
        try_next(s, outcome, reply->code, smtp_reply_first_line(reply));
    }
}

bool login_end(struct session *s)
{
    if (!s->auth_away && s->auth.session != NULL) {
        send_auth(s, FLOW_AUTH_END);
    }
    return s->auth_away;
}
