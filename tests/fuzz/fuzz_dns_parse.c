/* daemon/dns/dns_parse: any packet, any literal. */
#include "daemon/dns/dns_parse.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    union dns_place place;
    char text[256];
    CHECK(dns_packet_ttl_s(slice_of(data, bytes)) <= DNS_TTL_S_MAX);
    size_t len = bytes < sizeof text ? bytes : sizeof text - 1;
    if (len > 0) {
        memcpy(text, data, len);
    }
    text[len] = '\0';
    if (dns_literal_parse(text, &place)) {
        CHECK(place.family == AF_INET || place.family == AF_INET6);
    }
    if (dns_name_is_usable(slice_of(data, bytes))) {
        CHECK(memchr(data, '\\', bytes) == NULL && memchr(data, 0, bytes) == NULL);
    }
    return 0;
}
