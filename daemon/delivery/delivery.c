/*
 * The worker's connections to upstreams: made, found, shut down.
 */
#include "daemon/delivery/delivery_internal.h"

#include <stdlib.h>

enum err delivery_new(struct delivery **out, const struct delivery_config *config)
{
    struct delivery *d = calloc(1, sizeof *d);
    if (d == NULL) {
        return ERR_NO_MEMORY;
    }
    d->with = *config;
    *out = d;
    return ERR_OK;
}

void delivery_free(struct delivery **d)
{
    if (*d != NULL) {
        CHECK(delivery_is_empty(*d));
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
    link->session = s;
    session_begin(s);
}

void delivery_job(struct delivery *d, struct flow_job *job)
{
    struct session *s = job->link->session;
    if (s == NULL || s->quitting || s->state != SESSION_TALKING) {
        mailbox_send(d->with.queue, &job->msg); /* it crossed our DOWN: untried */
        return;
    }
    job->msg.next = NULL;
    if (s->waiting_first == NULL) {
        s->waiting_first = job;
    } else {
        s->waiting_last->msg.next = &job->msg;
    }
    s->waiting_last = job;
    session_pump(s);
}

void delivery_probe(struct delivery *d, struct flow_probe *probe)
{
    buf_init(&probe->transcript, probe->transcript_memory, sizeof probe->transcript_memory);
    struct session *s = d->shutting_down ? NULL : session_new(d, probe->upstream);
    if (s == NULL) {
        probe->outcome = OUTCOME_LOCAL_TROUBLE;
        mailbox_send(probe->msg.reply_to, &probe->msg);
        return;
    }
    s->probe = probe;
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
