/*
 * Tickets: what a client needs to take up an earlier session without the other side's certificate
 * (RFC 8446 2.2, RFC 5077).
 *
 * Since the certificate is not shown again, a ticket is worth what the verification was that it
 * came from. So tickets belong to one policy, and die with it; and when its authorities are read
 * again none is left, nor is one kept that a session from before still gets. Within the policy a
 * ticket belongs to one name.
 * It is kept only when the session was verified, until the certificates that it was verified by
 * expire, until its own lifetime is over (RFC 8446 4.6.1), and never longer than TLS_VERIFIED_S_MAX
 * after the full handshake it goes back to: taking up a session gives a new ticket, but no new
 * time.
 *
 * A session of TLS 1.3 is taken out when it is used (RFC 8446 C.4); one of TLS 1.2 stays. Both are
 * copies: the library goes on writing into the session that a connection holds, and other threads
 * must not see that. No early data is ever sent.
 *
 * Times are wall clock, as in certificates. A clock that went back makes tickets useless, not
 * longer-lived.
 */
#include "daemon/base/num.h"
#include "daemon/tls/tls_internal.h"

#include <stdlib.h>
#include <time.h>

uint64_t tls_wall_s(void)
{
    struct timespec now;
    CHECK(clock_gettime(CLOCK_REALTIME, &now) == 0);
    return now.tv_sec < 0 ? 0 : (uint64_t)now.tv_sec;
}

struct tls_tickets *tls_tickets_new(const SSL_CTX *context)
{
    struct tls_tickets *t = calloc(1, sizeof *t);
    if (t != NULL) {
        t->context = context;
        t->mutex = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    }
    return t;
}

static void place_clear(struct tls_ticket *ticket)
{
    SSL_SESSION_free(ticket->session);
    ticket->session = NULL;
}

void tls_tickets_free(struct tls_tickets *t)
{
    if (t == NULL) {
        return;
    }
    for (size_t place = 0; place < TLS_TICKETS_MAX; place++) {
        place_clear(&t->places[place]);
    }
    free(t);
}

void tls_tickets_renew(struct tls_tickets *t, const SSL_CTX *context)
{
    pthread_mutex_lock(&t->mutex);
    for (size_t place = 0; place < TLS_TICKETS_MAX; place++) {
        place_clear(&t->places[place]);
    }
    t->context = context;
    pthread_mutex_unlock(&t->mutex);
}

static bool is_usable(const struct tls_ticket *ticket, const char *server_name, uint64_t now_s)
{
    return ticket->session != NULL && now_s >= ticket->from_s && now_s < ticket->until_s &&
           strcmp(ticket->server_name, server_name) == 0;
}

SSL_SESSION *tls_tickets_take(struct tls_tickets *t, const SSL *ssl, const char *server_name,
                              uint64_t *out_verified_until_s)
{
    SSL_SESSION *session = NULL;
    struct tls_ticket *newest = NULL;
    uint64_t now_s = tls_wall_s();
    pthread_mutex_lock(&t->mutex);
    bool ours = SSL_get_SSL_CTX(ssl) == t->context;
    for (size_t place = 0; place < TLS_TICKETS_MAX && ours; place++) {
        struct tls_ticket *ticket = &t->places[place];
        if (is_usable(ticket, server_name, now_s) &&
            (newest == NULL || ticket->order > newest->order)) {
            newest = ticket;
        }
    }
    if (newest != NULL) {
        *out_verified_until_s = newest->verified_until_s;
        if (newest->single_use) {
            session = newest->session;
            newest->session = NULL;
        } else {
            session = SSL_SESSION_dup(newest->session); /* NULL: a full handshake will do */
        }
    }
    pthread_mutex_unlock(&t->mutex);
    return session;
}

/* A free place, or the oldest ticket's. */
static struct tls_ticket *place_for_new(struct tls_tickets *t)
{
    struct tls_ticket *oldest = &t->places[0];
    for (size_t place = 0; place < TLS_TICKETS_MAX && oldest->session != NULL; place++) {
        struct tls_ticket *ticket = &t->places[place];
        if (ticket->session == NULL || ticket->order < oldest->order) {
            oldest = ticket;
        }
    }
    place_clear(oldest);
    return oldest;
}

static void keep(struct tls_tickets *t, const SSL *ssl, const SSL_SESSION *session,
                 const char *server_name, uint64_t verified_until_s)
{
    uint64_t now_s = tls_wall_s();
    uint64_t hint_s = SSL_SESSION_get_ticket_lifetime_hint(session);
    bool single_use = SSL_SESSION_get_protocol_version(session) >= TLS1_3_VERSION;
    long timeout_s = SSL_SESSION_get_timeout(session);
    uint64_t until_s = u64_min(verified_until_s, now_s + (timeout_s > 0 ? (uint64_t)timeout_s : 0));
    if (single_use || hint_s != 0) { /* before 1.3 zero says nothing. RFC 5077 3.3 */
        until_s = u64_min(until_s, now_s + hint_s);
    }
    if (until_s <= now_s || SSL_SESSION_is_resumable(session) != 1) {
        return;
    }
    SSL_SESSION *copy = SSL_SESSION_dup((SSL_SESSION *)(uintptr_t)session);
    if (copy == NULL) {
        return;
    }
    pthread_mutex_lock(&t->mutex);
    if (SSL_get_SSL_CTX(ssl) != t->context) {
        pthread_mutex_unlock(&t->mutex);
        SSL_SESSION_free(copy);
        return;
    }
    struct tls_ticket *ticket = place_for_new(t);
    *ticket = (struct tls_ticket){
        .session = copy,
        .from_s = now_s,
        .until_s = until_s,
        .verified_until_s = verified_until_s,
        .order = ++t->order,
        .single_use = single_use,
    };
    memcpy(ticket->server_name, server_name, strlen(server_name) + 1);
    pthread_mutex_unlock(&t->mutex);
}

void tls_tickets_drop(struct tls_tickets *t, const char *server_name)
{
    pthread_mutex_lock(&t->mutex);
    for (size_t place = 0; place < TLS_TICKETS_MAX; place++) {
        struct tls_ticket *ticket = &t->places[place];
        if (ticket->session != NULL && strcmp(ticket->server_name, server_name) == 0) {
            place_clear(ticket);
        }
    }
    pthread_mutex_unlock(&t->mutex);
}

int tls_ticket_came(SSL *ssl, SSL_SESSION *session)
{
    struct tls_verdict *verdict = SSL_get_app_data(ssl);
    if (SSL_session_reused(ssl) == 0) {
        verdict->verified_until_s = tls_verified_until_s(ssl, verdict->policy);
    }
    if (verdict->failure == TLS_FAILURE_NONE && SSL_get_verify_result(ssl) == X509_V_OK) {
        keep(verdict->policy->tickets, ssl, session, verdict->server_name,
             verdict->verified_until_s);
    }
    return 0; /* the library's own stays the library's */
}
