/*
 * The auth thread: logins' steps out of its mailbox, through the SASL library, which may block,
 * back to whoever asked.
 *
 * The secret is read from its file for each login and wiped afterwards: a changed password works
 * with the next connection, and no long-lived copy exists.
 */
#include "daemon/helper.h"
#include "daemon/sasl/sasl_login.h"

#include <poll.h>
#include <stdio.h>
#include <unistd.h>

static void session_free(struct flow_auth *auth)
{
    struct sasl_login *login = auth->session;
    sasl_login_free(&login);
    auth->session = NULL;
}

static void read_response(struct flow_auth *auth, const struct buf *response)
{
    auth->data_len = response->len;
    auth->complete = sasl_login_is_complete(auth->session);
}

static void start(struct helper *h, struct flow_auth *auth)
{
    const struct config_upstream *up = &h->config->upstreams[auth->upstream];
    uint8_t secret_memory[SECRET_BYTES_MAX];
    char message[400] = "", fix[200] = "";
    struct buf secret, response;
    session_free(auth);
    buf_init(&secret, secret_memory, sizeof secret_memory);
    buf_init(&response, auth->data, sizeof auth->data);
    if (up->password_file[0] != '\0' &&
        config_secret_read(up->password_file, &secret, message, fix) != ERR_OK) {
        auth->result = ERR_PERMISSION;
        snprintf(auth->text, sizeof auth->text, "%.150s%s%.90s", message,
                 fix[0] != '\0' ? "; to mend it: " : "", fix);
    } else {
        struct sasl_credentials credentials = {
            .host = auth->host,
            .user = up->user,
            .authzid = up->authzid,
            .realm = up->realm,
            .secret = buf_slice(&secret),
            .mechanisms = auth->mechanisms,
        };
        struct sasl_login *login = NULL;
        auth->result = sasl_login_start(&login, &credentials, auth->mechanism, &response,
                                        &auth->has_data, auth->text);
        if (auth->result == ERR_OK) {
            auth->session = login;
            read_response(auth, &response);
        }
    }
    explicit_bzero(secret_memory, sizeof secret_memory);
}

static void go_on(struct flow_auth *auth)
{
    uint8_t challenge[FLOW_AUTH_BYTES];
    struct buf response;
    size_t len = auth->data_len;
    if (auth->session == NULL) {
        auth->result = ERR_SYNTAX;
        return;
    }
    if (len > 0) {
        memcpy(challenge, auth->data, len);
    }
    buf_init(&response, auth->data, sizeof auth->data);
    auth->result = sasl_login_step(auth->session, slice_of(challenge, len), &response, auth->text);
    auth->unproven = sasl_login_is_unproven(auth->session);
    if (auth->result == ERR_OK) {
        auth->has_data = true;
        read_response(auth, &response);
    }
}

static void step(struct helper *h, struct flow_auth *auth)
{
    switch (auth->step) {
    case FLOW_AUTH_START:
        start(h, auth);
        break;
    case FLOW_AUTH_CONTINUE:
        go_on(auth);
        break;
    case FLOW_AUTH_END:
    default:
        session_free(auth);
        auth->result = ERR_OK;
    }
    mailbox_send(auth->msg.reply_to, &auth->msg);
}

static void *run(void *arg)
{
    struct helper *h = arg;
    for (;;) {
        struct pollfd bell = {.fd = h->bell_fd, .events = POLLIN};
        if (poll(&bell, 1, -1) > 0) {
            uint64_t rings;
            ssize_t done = read(h->bell_fd, &rings, sizeof rings);
            (void)done;
        }
        for (struct flow_msg *msg = mailbox_take_all(&h->mailbox); msg != NULL;) {
            struct flow_msg *next = msg->next;
            if (msg->kind == FLOW_STOP) {
                return NULL; /* it comes last: all who ask have ended by then */
            }
            step(h, FLOW_FROM(msg, struct flow_auth));
            msg = next;
        }
    }
}

enum err authenticator_start(struct helper *h, const struct config *config)
{
    return helper_run(h, config, run);
}
