#include "daemon/dns/dns_parse.h"

#include "daemon/base/num.h"
#include "daemon/dns/dns.h"

#include <arpa/inet.h>
#include <net/if.h>

/* RFC 1035 4.1. */
#define HEADER_BYTES       12
#define QUESTION_BYTES     4  /* behind its name */
#define RECORD_FIXED_BYTES 10 /* behind its name, in front of its data */

bool dns_literal_parse(const char *host, union dns_place *out)
{
    char text[INET6_ADDRSTRLEN + IF_NAMESIZE + 1];
    struct slice name = slice_from_str(host);
    if (name.len >= 2 && name.data[0] == '[' && name.data[name.len - 1] == ']') {
        name = slice_of(name.data + 1, name.len - 2);
    }
    if (name.len >= sizeof text) {
        return false;
    }
    memcpy(text, name.data, name.len);
    text[name.len] = '\0';
    union dns_place place = {0};
    if (inet_pton(AF_INET, text, &place.v4.sin_addr) == 1) {
        place.v4.sin_family = AF_INET;
        *out = place;
        return true;
    }
    place = (union dns_place){0};
    char *zone = strchr(text, '%');
    if (zone != NULL) {
        uint64_t number = 0;
        *zone++ = '\0';
        place.v6.sin6_scope_id = u64_parse(slice_from_str(zone), &number) && number <= UINT32_MAX
                                     ? (uint32_t)number
                                     : if_nametoindex(zone);
        if (place.v6.sin6_scope_id == 0) {
            return false;
        }
    }
    if (inet_pton(AF_INET6, text, &place.v6.sin6_addr) != 1) {
        return false;
    }
    place.v6.sin6_family = AF_INET6;
    *out = place;
    return true;
}

bool dns_name_is_usable(struct slice name)
{
    if (name.len == 0 || name.len > DNS_NAME_BYTES_MAX || name.data[0] == '.') {
        return false;
    }
    for (size_t index = 0; index < name.len; index++) {
        if (name.data[index] <= ' ' || name.data[index] >= 0x7f || name.data[index] == '\\') {
            return false;
        }
    }
    return true;
}

/* Where a record's name ends: labels up to an empty one or a pointer. RFC 1035 4.1.4. */
static size_t name_end(struct slice packet, size_t at)
{
    while (at < packet.len && packet.data[at] != 0) {
        if ((packet.data[at] & 0xc0) == 0xc0) {
            return at + 2;
        }
        at += (size_t)packet.data[at] + 1;
    }
    return at + 1;
}

uint32_t dns_packet_ttl_s(struct slice packet)
{
    uint32_t least = DNS_TTL_S_MAX;
    if (packet.len < HEADER_BYTES) {
        return 0;
    }
    size_t questions = be16_get(packet.data + 4);
    size_t records = be16_get(packet.data + 6);
    size_t at = HEADER_BYTES;
    for (size_t index = 0; index < questions && at < packet.len; index++) {
        at = name_end(packet, at) + QUESTION_BYTES;
    }
    for (size_t index = 0; index < records && index < DNS_RECORDS_MAX; index++) {
        at = name_end(packet, at);
        if (at + RECORD_FIXED_BYTES > packet.len) {
            break;
        }
        least = (uint32_t)u64_min(least, be32_get(packet.data + at + 4));
        at += RECORD_FIXED_BYTES + (size_t)be16_get(packet.data + at + 8);
    }
    return least;
}
