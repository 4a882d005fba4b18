/*
 * From the look-up of an upstream's name to a connected socket: what a session adds to the race of
 * connect.c. It knows which address of an upstream was worth remembering.
 */
#include "daemon/delivery/delivery_internal.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>

static void on_connect(struct connect *c, enum connect_event event);

static uint64_t now_ms(const struct session *s)
{
    return io_now_ms(s->d->with.io);
}

void connecting_begin(struct session *s)
{
    struct flow_lookup *lookup = &s->lookup;
    snprintf(lookup->host, sizeof lookup->host, "%s", s->up->host.name);
    lookup->port = s->up->host.port;
    lookup->use_mx = s->up->host.use_mx;
    lookup->deadline_ms = now_ms(s) + s->up->connect_ms_max;
    lookup->msg.kind = FLOW_LOOKUP;
    lookup->msg.reply_to = s->d->with.self;
    s->state = SESSION_LOOKUP;
    s->lookup_away = true;
    probe_step(s, "lookup");
    mailbox_send(s->d->with.resolver, &lookup->msg);
}

static const struct flow_address *preferred(const struct session *s)
{
    bool known = now_ms(s) < s->d->preferred[s->upstream].until_ms;
    return known ? &s->d->preferred[s->upstream].address : NULL;
}

void delivery_lookup_back(struct flow_lookup *lookup)
{
    struct session *s =
        (struct session *)(void *)((char *)lookup - offsetof(struct session, lookup));
    s->lookup_away = false;
    if (s->state == SESSION_CLOSED) {
        session_end_when_done(s);
        return;
    }
    CHECK(s->state == SESSION_LOOKUP);
    if (lookup->outcome != OUTCOME_DELIVERED) {
        session_fail(s, lookup->outcome, 0, slice_from_str(lookup->text));
        return;
    }
    s->state = SESSION_CONNECTING;
    connect_begin(&s->connect, s->d->with.io, on_connect, lookup, preferred(s),
                  now_ms(s) + s->up->connect_ms_max);
}

void connecting_stop(struct session *s)
{
    connect_stop(&s->connect);
}

bool connecting_is_over(const struct session *s)
{
    return connect_is_over(&s->connect);
}

const char *connecting_host(const struct session *s)
{
    return s->lookup.names[s->connect.at];
}

/* What won although it was not the first is remembered; the first needs no memory, and the order of
 * the name servers, who share load by it, stays in force. */
static void remember(struct session *s)
{
    const struct flow_address *won = &s->lookup.addresses[s->connect.at];
    if (s->connect.order[0] == s->connect.at) {
        return;
    }
    s->d->preferred[s->upstream].address = *won;
    s->d->preferred[s->upstream].until_ms = now_ms(s) + DELIVERY_PREFERRED_MS;
}

void connecting_forget(struct session *s)
{
    s->d->preferred[s->upstream].until_ms = 0;
}

static enum outcome outcome_of_connect(enum err err)
{
    if (err == ERR_REFUSED) {
        return OUTCOME_CONNECTION_REFUSED;
    }
    if (err == ERR_RESET) { /* it answered, and hung up before we had looked */
        return OUTCOME_CONNECTION_LOST;
    }
    return err == ERR_TIMEOUT ? OUTCOME_CONNECT_TIMEOUT : OUTCOME_UNREACHABLE;
}

static void describe_peer(struct session *s)
{
    const struct flow_address *address = &s->lookup.addresses[s->connect.at];
    char text[INET6_ADDRSTRLEN] = "?";
    const struct sockaddr *any = (const struct sockaddr *)(const void *)&address->address;
    if (any->sa_family == AF_INET) {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)(const void *)any;
        inet_ntop(AF_INET, &v4->sin_addr, text, sizeof text);
        snprintf(s->peer, sizeof s->peer, "%s:%u", text, ntohs(v4->sin_port));
    } else {
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)(const void *)any;
        inet_ntop(AF_INET6, &v6->sin6_addr, text, sizeof text);
        snprintf(s->peer, sizeof s->peer, "[%s]:%u", text, ntohs(v6->sin6_port));
    }
}

static void missed(struct session *s)
{
    enum err err = s->connect.err;
    describe_peer(s);
    s->outcome = outcome_of_connect(err);
    snprintf(s->text, sizeof s->text, "%s: %s", s->peer, err_text(err));
}

static void lost(struct session *s)
{
    char words[sizeof s->text];
    missed(s);
    snprintf(words, sizeof words, "%s", s->text);
    session_fail(s, s->outcome, 0, slice_from_str(words));
}

static void on_connect(struct connect *c, enum connect_event event)
{
    struct session *s = (struct session *)(void *)((char *)c - offsetof(struct session, connect));
    switch (event) {
    case CONNECT_EVENT_TRYING:
        describe_peer(s);
        probe_step(s, "connect");
        trace_note(s, "connecting to ", s->peer);
        return;
    case CONNECT_EVENT_MISSED:
        missed(s);
        trace_note(s, "no connection to ", s->peer);
        return;
    case CONNECT_EVENT_WON:
        describe_peer(s);
        remember(s);
        session_connected(s, c->fd);
        return;
    case CONNECT_EVENT_LOST:
        lost(s);
        return;
    case CONNECT_EVENT_OVER:
    default:
        session_end_when_done(s);
    }
}
