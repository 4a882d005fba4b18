/*
 * What daemon/dns reads by itself: address literals, host names, and the one field of a packet that
 * the library keeps to itself. No library, no network.
 */
#ifndef TASUKI_DNS_DNS_PARSE_H
#define TASUKI_DNS_DNS_PARSE_H

#include "daemon/base/check.h"
#include "daemon/base/slice.h"

#include <netinet/in.h>

#define DNS_RECORDS_MAX 1000 /* looked at in one answer; a name with more has something to hide */
#define DNS_TTL_S_MAX   86400

/* One address, without its host: struct dns_address is ten times as large. */
union dns_place {
    sa_family_t family;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

/* 192.0.2.1, 2001:db8::1, fe80::1%eth0, each also in brackets. Nothing that inet_aton would guess.
 */
MUST_CHECK bool dns_literal_parse(const char *host, union dns_place *out);

/* What could be a host: no empty name (RFC 7505's "." among others), no control, no escape. */
MUST_CHECK bool dns_name_is_usable(struct slice name);

/*
 * The shortest time to live of a packet's answer section, at most DNS_TTL_S_MAX: the library hands
 * out MX records without theirs. Any bytes will do; what cannot be read any more does not count.
 */
uint32_t dns_packet_ttl_s(struct slice packet);

#endif
