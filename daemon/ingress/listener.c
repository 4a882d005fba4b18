/*
 * Listening sockets, and the sessions of one worker as a whole.
 */
#include "daemon/base/num.h"
#include "daemon/ingress/ingress_internal.h"

#include <stdlib.h>
#include <unistd.h>

#define ERRORS_MAX 20 /* bad commands of one client before 421 */

static void accepted(struct io_op *op)
{
    struct listener *l = IO_OWNER(op, struct listener, accept);
    struct ingress *in = l->in;
    if (op->result >= 0) {
        if (in->shutting_down) {
            close(op->result);
        } else {
            client_start(in, op->result);
        }
    }
    if (!op->more) {
        in->listeners_open--;
    }
}

enum err ingress_new(struct ingress **out, const struct ingress_config *config)
{
    struct ingress *in = calloc(1, sizeof *in);
    if (in == NULL) {
        return ERR_NO_MEMORY;
    }
    in->with = *config;
    in->limits = (struct smtp_server_limits){
        .hostname = config->config->hostname,
        .software = "tasuki",
        .size_max = config->config->max_size,
        .recipients_max = SMTP_RECIPIENTS_MAX,
        .command_bytes_max = SMTP_COMMAND_BYTES_MAX,
        .errors_max = ERRORS_MAX,
        .received_max = SMTP_RECEIVED_MAX,
        .idle_ms_max = u32_from(u64_min(config->config->idle_ms_max, UINT32_MAX)),
        .data_ms_max = u32_from(u64_min(config->config->idle_ms_max, UINT32_MAX)),
        .rate_bytes_min = 500,
        .pipelining = true,
    };
    for (uint32_t index = 0; index < config->listen_count; index++) {
        in->listeners[index].in = in;
        in->listeners[index].accept.fn = accepted;
    }
    *out = in;
    return ERR_OK;
}

void ingress_listen(struct ingress *in)
{
    for (uint32_t index = 0; index < in->with.listen_count; index++) {
        in->listeners_open++;
        io_accept(in->with.io, &in->listeners[index].accept, in->with.listen_fds[index]);
    }
}

void ingress_shutdown(struct ingress *in)
{
    in->shutting_down = true;
    for (uint32_t index = 0; index < in->with.listen_count; index++) {
        io_cancel(in->with.io, &in->listeners[index].accept);
    }
    for (struct client *s = in->sessions; s != NULL;) {
        struct client *next = client_next(s);
        client_shutdown(s);
        s = next;
    }
}

void ingress_abort(struct ingress *in)
{
    for (struct client *s = in->sessions; s != NULL;) {
        struct client *next = client_next(s);
        client_abort(s);
        s = next;
    }
}

bool ingress_is_empty(const struct ingress *in)
{
    return in->listeners_open == 0 && in->session_count == 0;
}

void ingress_free(struct ingress **in)
{
    if (*in == NULL) {
        return;
    }
    CHECK(ingress_is_empty(*in));
    pieces_free(*in);
    free(*in);
    *in = NULL;
}
