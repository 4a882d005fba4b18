/*
 * Names of this page. See access.h.
 */
#include "web/access.h"

#include "daemon/base/num.h"

#include <arpa/inet.h>
#include <netinet/in.h>

/* An address in the one form in which all are compared: IPv4 as ::ffff:a.b.c.d. */
struct address {
    uint8_t bytes[16];
};

static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

static bool address_of(const struct sockaddr_storage *from, struct address *out)
{
    if (from->ss_family == AF_INET) {
        const struct sockaddr_in *in = (const void *)from;
        memcpy(out->bytes, mapped, sizeof mapped);
        memcpy(out->bytes + sizeof mapped, &in->sin_addr, 4);
        return true;
    }
    if (from->ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const void *)from;
        memcpy(out->bytes, &in6->sin6_addr, 16);
        return true;
    }
    return false;
}

static bool is_loopback(const struct address *a)
{
    static const uint8_t v6[16] = {[15] = 1};
    bool v4 = memcmp(a->bytes, mapped, sizeof mapped) == 0 && a->bytes[12] == 127;
    return v4 || memcmp(a->bytes, v6, sizeof v6) == 0;
}

bool access_is_loopback(const struct sockaddr_storage *address)
{
    struct address a;
    return address_of(address, &a) && is_loopback(&a);
}

bool access_add(struct access *a, const char *name)
{
    if (name[0] == '\0') {
        return true;
    }
    if (a->count == ACCESS_NAMES_MAX) {
        return false;
    }
    a->names[a->count++] = name;
    return true;
}

/* host = uri-host [ ":" port ], RFC 9110 7.2. False when that is not its form. */
static bool split(struct slice host, struct slice *out_name, bool *out_bracketed)
{
    size_t end = slice_find(host, ':');
    *out_bracketed = host.len > 0 && host.data[0] == '[';
    if (*out_bracketed) {
        size_t close = slice_find(host, ']');
        *out_name = slice_tail(slice_head(host, close), 1);
        end = close + 1;
        if (close == host.len) {
            return false;
        }
    } else {
        *out_name = slice_head(host, end);
    }
    uint64_t port = 0;
    struct slice rest = slice_tail(host, end);
    return out_name->len > 0 && (rest.len == 0 || (rest.data[0] == ':' && rest.len <= 6 &&
                                                   u64_parse(slice_tail(rest, 1), &port)));
}

static bool literal_of(struct slice name, bool bracketed, struct address *out)
{
    char text[INET6_ADDRSTRLEN];
    if (name.len >= sizeof text) {
        return false;
    }
    memcpy(text, name.data, name.len);
    text[name.len] = '\0';
    if (bracketed) {
        return inet_pton(AF_INET6, text, out->bytes) == 1;
    }
    memcpy(out->bytes, mapped, sizeof mapped);
    return inet_pton(AF_INET, text, out->bytes + sizeof mapped) == 1;
}

static bool ends_with_nocase(struct slice s, struct slice end)
{
    return s.len > end.len && slice_equal_nocase(slice_tail(s, s.len - end.len), end);
}

bool access_allowed(const struct access *a, struct slice host, const struct sockaddr_storage *local)
{
    struct slice name;
    bool bracketed = false;
    if (!split(host, &name, &bracketed)) {
        return false;
    }
    struct address literal, own;
    if (literal_of(name, bracketed, &literal)) {
        bool same = address_of(local, &own) && memcmp(&literal, &own, sizeof own) == 0;
        if (same || is_loopback(&literal)) {
            return true;
        }
    } else if (slice_equal_nocase(name, SLICE("localhost")) ||
               ends_with_nocase(name, SLICE(".localhost"))) {
        return true;
    }
    for (uint32_t index = 0; index < a->count; index++) {
        if (slice_equal_nocase(name, slice_from_str(a->names[index]))) {
            return true;
        }
    }
    return false;
}
