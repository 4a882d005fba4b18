/*
 * Names to addresses, by c-ares; its only home. The resolver thread (daemon/resolver.c) owns a
 * struct dns and feeds it lookups; answers come back through the done function, on that thread.
 *
 * Address literals and /etc/hosts are answered without asking anybody. MX per RFC 5321 5.1
 * (preference order, equal ones shuffled; none: the name itself; "." : NAME_NOT_FOUND, RFC 7505),
 * then A and AAAA, IPv6 and IPv4 in the order of RFC 6724 as c-ares sorts them. At most
 * FLOW_ADDRESSES_MAX, deduplicated.
 */
#ifndef TASUKI_DNS_DNS_H
#define TASUKI_DNS_DNS_H

#include "daemon/base/check.h"
#include "daemon/base/err.h"
#include "schema/outcome.h"

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#define DNS_ADDRESSES_MAX  16
#define DNS_NAME_BYTES_MAX 255

struct dns;

struct dns_address {
    struct sockaddr_storage address; /* with the port set */
    socklen_t len;
    char host[DNS_NAME_BYTES_MAX +
              1]; /* the name it belongs to: certificates are checked against it */
};

struct dns_answer {
    enum outcome outcome; /* DELIVERED stands for "found"; NAME_NOT_FOUND; DNS_FAILED */
    char text[128];       /* why not, in words */
    uint32_t count;
    uint32_t ttl_s;
    struct dns_address addresses[DNS_ADDRESSES_MAX];
};

typedef void dns_done_fn(void *ctx, const struct dns_answer *answer);

struct dns_config {
    const char *servers; /* NULL or "": /etc/resolv.conf; else "127.0.0.1:5353,..." */
    uint32_t timeout_ms; /* of the whole lookup */
};

MUST_CHECK enum err dns_new(struct dns **out, const struct dns_config *config);
void dns_free(struct dns **dns);

/* done is called once, from here or from dns_process. */
void dns_lookup(struct dns *dns, const char *host, uint16_t port, bool use_mx, dns_done_fn *done,
                void *ctx);

/* Waits for events on its sockets and on extra_fd (>= 0: becomes readable; it is not read here) for
 * at most timeout_ms (-1: for ever), and handles them. Returns true when extra_fd is readable. */
bool dns_process(struct dns *dns, int extra_fd, int timeout_ms);

#endif
