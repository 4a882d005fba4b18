/*
 * The worker's connections to upstreams: made, found, shut down.
 */
#include "daemon/delivery/delivery_internal.h"

#include <stdlib.h>

static void kicked(struct io_op *op)
{
    struct delivery *d = IO_OWNER(op, struct delivery, kick);
    for (struct session *s = d->sessions; s != NULL;) {
        struct session *next = s->next;
        if (s->pump_wanted) {
            s->pump_wanted = false;
            session_pump(s);
        }
        s = next;
    }
    delivery_flush(d);
}

/* Timers that are due fire behind the completions of a round: what several of them have brought
 * about goes in one send, and back in one message. */
void delivery_kick(struct delivery *d)
{
    if (!io_pending(&d->kick)) {
        io_timer(d->with.io, &d->kick, io_now_ms(d->with.io));
    }
}

void delivery_give_back(struct delivery *d, struct flow_job *job)
{
    job->msg.next = NULL;
    if (d->back_first == NULL) {
        d->back_first = &job->msg;
    } else {
        d->back_last->next = &job->msg;
    }
    d->back_last = &job->msg;
    delivery_kick(d);
}

void delivery_flush(struct delivery *d)
{
    struct flow_msg *first = d->back_first;
    d->back_first = d->back_last = NULL;
    mailbox_send_list(d->with.queue, first);
}

/* ---- what is known of an upstream ---- */

enum smtp_client_pipelining delivery_pipelining(struct delivery *d, uint16_t upstream,
                                                const struct flow_link *link)
{
    static const enum smtp_client_pipelining configured[] = {
        [CONFIG_PIPELINE_AUTO] = SMTP_CLIENT_PIPELINING_STREAM,
        [CONFIG_PIPELINE_OFF] = SMTP_CLIENT_PIPELINING_OFF,
        [CONFIG_PIPELINE_SAFE] = SMTP_CLIENT_PIPELINING_SAFE,
        [CONFIG_PIPELINE_STREAM] = SMTP_CLIENT_PIPELINING_STREAM,
    };
    enum smtp_client_pipelining max = configured[d->with.config->upstreams[upstream].pipelining];
    if (d->pipelining[upstream].lowered &&
        io_now_ms(d->with.io) >= d->pipelining[upstream].until_ms) {
        d->pipelining[upstream].lowered = false;
    }
    if (d->pipelining[upstream].lowered && d->pipelining[upstream].max < max) {
        max = d->pipelining[upstream].max;
    }
    if (link == NULL || link->pipeline_max == 0 || link->pipeline_max - 1u >= max) {
        return max;
    }
    return (enum smtp_client_pipelining)(link->pipeline_max - 1u);
}

void delivery_lower(struct delivery *d, uint16_t upstream, enum smtp_client_pipelining mode,
                    uint64_t until_ms)
{
    if (mode == SMTP_CLIENT_PIPELINING_OFF) {
        return;
    }
    enum smtp_client_pipelining below = (enum smtp_client_pipelining)(mode - 1);
    if (!d->pipelining[upstream].lowered || d->pipelining[upstream].max > below) {
        d->pipelining[upstream].lowered = true;
        d->pipelining[upstream].max = below;
        d->pipelining[upstream].until_ms = until_ms;
    }
    d->pipelining[upstream].suspects = 0;
}

/* ---- what the worker calls ---- */

enum err delivery_new(struct delivery **out, const struct delivery_config *config)
{
    struct delivery *d = calloc(1, sizeof *d);
    if (d == NULL) {
        return ERR_NO_MEMORY;
    }
    d->with = *config;
    d->kick.fn = kicked;
    *out = d;
    return ERR_OK;
}

void delivery_free(struct delivery **d)
{
    if (*d != NULL) {
        CHECK(delivery_is_empty(*d) && (*d)->back_first == NULL);
        if (io_pending(&(*d)->kick)) {
            io_cancel((*d)->with.io, &(*d)->kick);
        }
        free(*d);
        *d = NULL;
    }
}

bool delivery_is_empty(const struct delivery *d)
{
    return d->sessions == NULL;
}

/* The place stays closed: there was no memory for it, or the daemon is stopping. */
static void link_refuse(struct delivery *d, struct flow_link *link, enum outcome outcome)
{
    link->session = NULL;
    link->down_outcome = outcome;
    link->down_code = 0;
    link->down_text[0] = '\0';
    link->anomaly[0] = '\0';
    link->lowered = (struct flow_lowered){0};
    link->down.kind = FLOW_LINK_DOWN;
    mailbox_send(d->with.queue, &link->down);
}

void delivery_link_open(struct delivery *d, struct flow_link *link)
{
    CHECK(link->session == NULL);
    struct session *s = d->shutting_down ? NULL : session_new(d, link->upstream);
    if (s == NULL) {
        link_refuse(d, link, d->shutting_down ? OUTCOME_NONE : OUTCOME_CONNECTION_LOST);
        return;
    }
    s->link = link;
    s->number = ++d->connection_count * WORKERS_MAX + link->worker;
    link->session = s;
    session_begin(s);
}

/* Nobody needs the connection any more. */
static bool is_farewell(const struct flow_job *job)
{
    return msg_id_time_and_sequence(&job->id) == 0;
}

void delivery_job(struct delivery *d, struct flow_job *job)
{
    struct session *s = job->link->session;
    job->connection = 0;
    job->duration_ms = 0;
    job->was_sent_ms = 0;
    job->dsn_passed = false;
    buf_init(&job->dialogue, job->dialogue_memory, sizeof job->dialogue_memory);
    if (s == NULL || s->quitting || s->state != SESSION_TALKING) {
        delivery_give_back(d, job); /* it crossed our DOWN: untried */
        return;
    }
    if (is_farewell(job)) {
        session_quit(s);
        delivery_give_back(d, job);
        return;
    }
    job->msg.next = NULL;
    if (s->waiting_first == NULL) {
        s->waiting_first = job;
    } else {
        s->waiting_last->msg.next = &job->msg;
    }
    s->waiting_last = job;
    session_wake(s);
}

void delivery_probe(struct delivery *d, struct flow_probe *probe)
{
    buf_init(&probe->transcript, probe->transcript_memory, sizeof probe->transcript_memory);
    struct session *s = d->shutting_down ? NULL : session_new(d, probe->upstream);
    if (s == NULL) {
        probe_cut_off(probe, d->shutting_down ? "tasukid is stopping" : "out of memory");
        mailbox_send(probe->msg.reply_to, &probe->msg);
        return;
    }
    s->probe = probe;
    s->number = ++d->connection_count * WORKERS_MAX; /* all probes run on the first worker */
    session_begin(s);
}

void delivery_shutdown(struct delivery *d)
{
    d->shutting_down = true;
    for (struct session *s = d->sessions; s != NULL;) {
        struct session *next = s->next;
        session_quit(s);
        s = next;
    }
}

void delivery_abort(struct delivery *d)
{
    for (struct session *s = d->sessions; s != NULL;) {
        struct session *next = s->next;
        session_abort(s);
        s = next;
    }
}
