/*
 * Values with addresses in them: listeners, networks, upstream hosts, name servers.
 *
 * Addresses are taken strictly: no octal, no zone, nothing left out (inet_pton and a look at the
 * length), since a network that reads differently here and elsewhere lets strangers send.
 */
#include "daemon/base/num.h"
#include "daemon/config/config_private.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <stdio.h>
#include <unistd.h>

#define ADDRESS_TEXT_MAX 46 /* INET6_ADDRSTRLEN, with its NUL */

static const uint8_t mapped_prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

static bool address_is_ipv4(const uint8_t address[16])
{
    return memcmp(address, mapped_prefix, sizeof mapped_prefix) == 0;
}

bool config_address_parse(struct slice text, uint8_t out[16])
{
    char copy[ADDRESS_TEXT_MAX];
    if (text.len == 0 || text.len >= sizeof copy || slice_find(text, '\0') < text.len) {
        return false;
    }
    memcpy(copy, text.data, text.len);
    copy[text.len] = '\0';
    uint8_t address[16];
    if (inet_pton(AF_INET6, copy, address) == 1) {
        memcpy(out, address, sizeof address);
        return true;
    }
    if (inet_pton(AF_INET, copy, address + 12) == 1) {
        memcpy(address, mapped_prefix, sizeof mapped_prefix);
        memcpy(out, address, sizeof address);
        return true;
    }
    return false;
}

static bool port_parse(struct slice text, uint16_t *out)
{
    uint64_t number = 0;
    if (text.len > 5 || !u64_parse(text, &number) || number > UINT16_MAX) {
        return false;
    }
    *out = (uint16_t)number;
    return true;
}

/* ---- name:port, [name]:port ---- */

struct target {
    struct slice name, port, suffix; /* suffix: what follows "/", without it */
    bool bracketed, has_port, has_suffix;
};

/* target = ( "[" name "]" / name ) [ ":" port ] [ "/" suffix ]. False when brackets do not match.
 */
static bool target_parse(struct slice text, struct target *out)
{
    struct target target = {.bracketed = text.len > 0 && text.data[0] == '['};
    size_t slash = slice_find(text, '/');
    target.has_suffix = slash < text.len;
    target.suffix = slice_tail(text, slash + 1);
    text = slice_head(text, slash);
    if (target.bracketed) {
        size_t close = slice_find(text, ']');
        target.name = slice_head(slice_tail(text, 1), close - 1);
        struct slice after = slice_tail(text, close + 1);
        target.has_port = after.len > 0;
        target.port = slice_tail(after, 1);
        if (close == text.len || (after.len > 0 && after.data[0] != ':')) {
            return false;
        }
    } else {
        size_t colon = slice_find_last(text, ':');
        target.has_port = colon < text.len;
        target.name = slice_head(text, colon);
        target.port = slice_tail(text, colon + 1);
    }
    *out = target;
    return true;
}

/* ---- listeners ---- */

static void listen_set(struct config_listen *out, const uint8_t address[16], uint16_t port)
{
    memset(out, 0, sizeof *out);
    char text[ADDRESS_TEXT_MAX];
    if (address_is_ipv4(address)) {
        struct sockaddr_in *in = (struct sockaddr_in *)&out->address;
        *in = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port)};
        memcpy(&in->sin_addr, address + 12, 4);
        out->len = sizeof *in;
        (void)inet_ntop(AF_INET, address + 12, text, sizeof text);
        (void)snprintf(out->text, sizeof out->text, "%s:%u", text, (unsigned)port);
    } else {
        struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&out->address;
        *in6 = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons(port)};
        memcpy(&in6->sin6_addr, address, 16);
        out->len = sizeof *in6;
        (void)inet_ntop(AF_INET6, address, text, sizeof text);
        (void)snprintf(out->text, sizeof out->text, "[%s]:%u", text, (unsigned)port);
    }
}

static void listen_get(const struct config_listen *listen, uint8_t out_address[16],
                       uint16_t *out_port)
{
    if (listen->address.ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)&listen->address;
        memcpy(out_address, mapped_prefix, sizeof mapped_prefix);
        memcpy(out_address + 12, &in->sin_addr, 4);
        *out_port = ntohs(in->sin_port);
    } else {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&listen->address;
        memcpy(out_address, &in6->sin6_addr, 16);
        *out_port = ntohs(in6->sin6_port);
    }
}

static bool address_is_any(const uint8_t address[16])
{
    static const uint8_t zeros[16];
    return memcmp(address, zeros, 16) == 0 ||
           (address_is_ipv4(address) && memcmp(address + 12, zeros, 4) == 0);
}

static bool address_is_loopback(const uint8_t address[16])
{
    static const uint8_t one[16] = {[15] = 1};
    return memcmp(address, one, 16) == 0 || (address_is_ipv4(address) && address[12] == 127);
}

/* The kernel may have no IPv6 at all; that shows when a socket is bound and no sooner. */
static bool ipv6_is_there(void)
{
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return false;
    }
    struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_ANY_INIT};
    bool there = bind(fd, (const struct sockaddr *)&any, sizeof any) == 0;
    (void)close(fd);
    return there;
}

bool config_address_listens_overlap(const struct config_listen *a, const struct config_listen *b)
{
    uint8_t address_a[16], address_b[16];
    uint16_t port_a, port_b;
    listen_get(a, address_a, &port_a);
    listen_get(b, address_b, &port_b);
    return port_a == port_b && port_a != 0 && a->address.ss_family == b->address.ss_family &&
           (memcmp(address_a, address_b, 16) == 0 || address_is_any(address_a) ||
            address_is_any(address_b));
}

/* ADDRESS:PORT or [V6]:PORT. Port 0, any free one, is for tests: nobody can be told where it is. */
static bool listen_parse(const struct config_value *value, struct slice item,
                         struct config_listen *out)
{
    struct target target;
    uint8_t address[16];
    uint16_t port = 0;
    if (!target_parse(item, &target) || !target.has_port) {
        return config_value_refuse(value, item, NULL, "%s is not ADDRESS:PORT or [V6]:PORT",
                                   config_quote(item).text);
    }
    if (target.has_suffix) {
        bool tls = slice_equal(target.suffix, SLICE("tls"));
        return config_value_refuse(value, target.suffix, NULL, "\"/tls\" %s",
                                   tls ? "in listen is not supported by this version yet"
                                       : "is all that may follow a port");
    }
    if (slice_find(target.name, '%') < target.name.len) {
        return config_value_refuse(value, item, NULL, "an address with a zone cannot be used here");
    }
    if (!config_address_parse(target.name, address) ||
        target.bracketed != (slice_find(target.name, ':') < target.name.len) ||
        (target.bracketed && address_is_ipv4(address))) {
        bool bare = !target.bracketed && slice_find(target.name, ':') < target.name.len;
        return config_value_refuse(value, item, NULL, "%s is no IP address%s",
                                   config_quote(target.name).text,
                                   bare ? "; one of IPv6 stands in brackets" : "");
    }
    if (!port_parse(target.port, &port) ||
        (port == 0 && !slice_equal(item, SLICE("127.0.0.1:0")))) {
        return config_value_refuse(value, item, NULL, "%s is no port: 1 to 65535",
                                   config_quote(target.port).text);
    }
    listen_set(out, address, port);
    return true;
}

bool config_address_listen(const struct config_value *value, struct config_listen *out)
{
    if (slice_find(value->text, ':') == value->text.len) {
        return config_value_refuse(value, value->text, NULL,
                                   "%s has no address: the page is not opened to everybody by a "
                                   "port alone",
                                   config_quote(value->text).text);
    }
    return listen_parse(value, value->text, out);
}

static bool listen_add(const struct config_value *value, struct slice item,
                       const struct config_listen *listen, struct config_listen_list *list)
{
    for (uint32_t index = 0; index < list->count; index++) {
        if (config_address_listens_overlap(listen, &list->items[index])) {
            return config_value_refuse(value, item, "name each address and port once",
                                       "%s is already taken by %s", listen->text,
                                       list->items[index].text);
        }
    }
    if (list->count == LISTENERS_MAX) {
        return config_value_refuse(value, item, "",
                                   "at most %d listeners are possible, a port "
                                   "alone makes two",
                                   LISTENERS_MAX);
    }
    list->items[list->count++] = *listen;
    return true;
}

/* A port alone: every address of this box. */
static bool listen_add_port(const struct config_value *value, struct slice item,
                            struct config_listen_list *list)
{
    struct slice digits = slice_head(item, slice_find(item, '/'));
    uint16_t port = 0;
    if (!port_parse(digits, &port) || port == 0) {
        return config_value_refuse(value, item, NULL, "%s is no port: 1 to 65535",
                                   config_quote(digits).text);
    }
    if (digits.len < item.len) {
        return config_value_refuse(value, slice_tail(item, digits.len), NULL,
                                   "\"/tls\" in listen is not supported by this version yet");
    }
    uint8_t any[16] = {[10] = 0xff, [11] = 0xff};
    struct config_listen listen;
    listen_set(&listen, any, port);
    if (!listen_add(value, item, &listen, list)) {
        return false;
    }
    memset(any, 0, sizeof any);
    listen_set(&listen, any, port);
    return !ipv6_is_there() || listen_add(value, item, &listen, list);
}

bool config_address_listen_list(const struct config_value *value, struct config_listen_list *out)
{
    struct config_listen_list list = {.count = 0};
    struct slice rest = value->text;
    struct slice item;
    while (config_list_next(&rest, &item)) {
        struct config_listen listen;
        if (item.len == 0) {
            return config_value_refuse(value, item, NULL, "there is nothing between two commas");
        }
        bool added =
            slice_find(item, ':') == item.len
                ? listen_add_port(value, item, &list)
                : listen_parse(value, item, &listen) && listen_add(value, item, &listen, &list);
        if (!added) {
            return false;
        }
    }
    *out = list;
    return true;
}

/* ---- networks ---- */

/* Clears what is behind the first bits; true when something was there. */
static bool mask_apply(uint8_t address[16], uint32_t bits)
{
    bool cleared = false;
    for (uint32_t index = 0; index < 16; index++) {
        uint32_t keep = bits >= 8 * (index + 1) ? 8 : bits <= 8 * index ? 0 : bits - 8 * index;
        uint8_t mask = (uint8_t)(0xff00u >> keep);
        cleared = cleared || (address[index] & (uint8_t)~mask) != 0;
        address[index] &= mask;
    }
    return cleared;
}

static void network_text(const struct config_network *network, char *out, size_t cap)
{
    char text[ADDRESS_TEXT_MAX];
    bool ipv4 = address_is_ipv4(network->address) && network->prefix_bits >= 96;
    (void)inet_ntop(ipv4 ? AF_INET : AF_INET6, network->address + (ipv4 ? 12 : 0), text,
                    sizeof text);
    (void)snprintf(out, cap, "%s/%u", text, (unsigned)network->prefix_bits - (ipv4 ? 96u : 0u));
}

/* network = address [ "/" bits ]; the address is the network's own: no bit is set behind bits. */
static bool network_parse(const struct config_value *value, struct slice item,
                          struct config_network *out)
{
    struct config_network network = {.prefix_bits = 128};
    size_t slash = slice_find(item, '/');
    struct slice address = slice_head(item, slash);
    if (!config_address_parse(address, network.address)) {
        return config_value_refuse(value, item, NULL, "%s is neither an address nor private",
                                   config_quote(address).text);
    }
    if (slash < item.len) {
        bool ipv4 = slice_find(address, ':') == address.len;
        uint64_t bits = 0;
        struct slice text = slice_tail(item, slash + 1);
        if (text.len > 3 || !u64_parse(text, &bits) || bits > (ipv4 ? 32 : 128)) {
            return config_value_refuse(value, item, NULL, "%s is no prefix length: 0 to %d",
                                       config_quote(text).text, ipv4 ? 32 : 128);
        }
        network.prefix_bits = (uint8_t)(bits + (ipv4 ? 96 : 0));
    }
    if (mask_apply(network.address, network.prefix_bits)) {
        char right[ADDRESS_TEXT_MAX + 4];
        network_text(&network, right, sizeof right);
        return config_value_refuse(value, item, NULL,
                                   "%s is an address in a network, not the network; did you mean "
                                   "\"%s\"?",
                                   config_quote(item).text, right);
    }
    *out = network;
    return true;
}

bool config_address_networks(const struct config_value *value, struct config_network_list *out)
{
    struct config_network_list list = {.count = 0};
    struct slice rest = value->text;
    struct slice item;
    while (config_list_next(&rest, &item)) {
        if (item.len == 0) {
            return config_value_refuse(value, item, NULL, "there is nothing between two commas");
        }
        if (slice_equal(item, SLICE("private"))) {
            list.private_networks = true;
            continue;
        }
        if (list.count == ALLOW_NETWORKS_MAX) {
            return config_value_refuse(value, item, "", "at most %d networks are possible",
                                       ALLOW_NETWORKS_MAX);
        }
        if (!network_parse(value, item, &list.items[list.count])) {
            return false;
        }
        list.count++;
    }
    *out = list;
    return true;
}

/* fc00::/7 RFC 4193, fe80::/10 RFC 4291 2.5.6. */
bool config_address_is_wide(const struct config_network *network)
{
    if (address_is_ipv4(network->address) && network->prefix_bits >= 96) {
        return network->prefix_bits < 96 + 8;
    }
    bool unique_local = (network->address[0] & 0xfe) == 0xfc && network->prefix_bits >= 7;
    bool link_local = network->address[0] == 0xfe && (network->address[1] & 0xc0) == 0x80 &&
                      network->prefix_bits >= 10;
    uint8_t all_ipv4[16] = {[10] = 0xff, [11] = 0xff};
    (void)mask_apply(all_ipv4, network->prefix_bits);
    bool holds_ipv4 = network->prefix_bits < 96 && memcmp(network->address, all_ipv4, 16) == 0;
    return holds_ipv4 || (network->prefix_bits < 16 && !unique_local && !link_local);
}

/* ---- upstream hosts ---- */

static bool refuse_host_name(const struct config_value *value, const struct target *target)
{
    if (slice_find(target->name, '%') < target->name.len) {
        return config_value_refuse(value, target->name, NULL,
                                   "an address with a zone cannot be used here");
    }
    if (slice_find(target->name, ':') < target->name.len) {
        return config_value_refuse(value, target->name, NULL, "%s is no IP address%s",
                                   config_quote(target->name).text,
                                   target->bracketed ? "" : "; one of IPv6 stands in brackets");
    }
    return config_value_refuse(value, target->name, NULL, "%s is no host name: it %s",
                               config_quote(target->name).text,
                               config_name_problem(target->name, true));
}

/* Port and suffix of an upstream. */
static bool host_port_parse(const struct config_value *value, const struct target *target,
                            struct config_host *host)
{
    if (!target->has_port) {
        char fix[200];
        const char *nearest = config_preset_nearest(value->text);
        (void)snprintf(fix, sizeof fix, "%s%s%s",
                       nearest != NULL ? "write: " : "most providers take mail on 587: write it ",
                       nearest != NULL ? nearest : "behind the name, with a colon",
                       nearest != NULL ? ", if you mean that provider" : "");
        return config_value_refuse(value, value->text, fix, "%s has no port",
                                   config_quote(value->text).text);
    }
    if (!port_parse(target->port, &host->port) || host->port == 0) {
        return config_value_refuse(value, target->port.len > 0 ? target->port : value->text, NULL,
                                   "%s is no port: 1 to 65535", config_quote(target->port).text);
    }
    if (target->has_suffix && !slice_equal(target->suffix, SLICE("tls"))) {
        return config_value_refuse(value, value->text, NULL,
                                   "\"/tls\" is all that may follow a port");
    }
    host->implicit_tls = host->port == 465 || target->has_suffix;
    return true;
}

bool config_address_host(const struct config_value *value, struct config_host *out)
{
    struct target target;
    struct config_host host = {.port = 0};
    uint8_t address[16];
    if (!target_parse(value->text, &target) || target.name.len == 0) {
        return config_value_refuse(value, value->text, NULL, "%s is not [name]:port or name:port",
                                   config_quote(value->text).text);
    }
    bool literal = config_address_parse(target.name, address);
    bool ipv6_bare = literal && !target.bracketed && slice_find(target.name, ':') < target.name.len;
    if (ipv6_bare || (!literal && config_name_problem(target.name, true) != NULL)) {
        return refuse_host_name(value, &target);
    }
    if (!host_port_parse(value, &target, &host)) {
        return false;
    }
    memcpy(host.name, target.name.data, target.name.len);
    host.use_mx = !target.bracketed && !literal; /* an address has no MX */
    *out = host;
    return true;
}

/* ---- loops ---- */

/* Whether an interface of this box has that address now. False when it cannot be found out. */
static bool address_is_own(const uint8_t address[16])
{
    struct ifaddrs *all = NULL;
    if (getifaddrs(&all) != 0) {
        return false;
    }
    bool own = false;
    for (const struct ifaddrs *at = all; at != NULL && !own; at = at->ifa_next) {
        if (at->ifa_addr == NULL) {
            continue;
        }
        if (at->ifa_addr->sa_family == AF_INET) {
            struct sockaddr_in in;
            memcpy(&in, at->ifa_addr, sizeof in);
            own = address_is_ipv4(address) && memcmp(&in.sin_addr, address + 12, 4) == 0;
        } else if (at->ifa_addr->sa_family == AF_INET6) {
            struct sockaddr_in6 in6;
            memcpy(&in6, at->ifa_addr, sizeof in6);
            own = memcmp(&in6.sin6_addr, address, 16) == 0;
        }
    }
    freeifaddrs(all);
    return own;
}

/* A listener on any address takes what comes to an own address of its family. */
static bool listener_takes(const uint8_t listen[16], const uint8_t target[16])
{
    if (memcmp(listen, target, 16) == 0) {
        return true;
    }
    return address_is_any(listen) && address_is_ipv4(listen) == address_is_ipv4(target) &&
           (address_is_any(target) || address_is_loopback(target) || address_is_own(target));
}

bool config_address_is_loop(const struct config_host *host, const struct config_listen *listen,
                            const char *hostname)
{
    uint8_t listen_address[16], target[16];
    uint16_t port;
    listen_get(listen, listen_address, &port);
    if (port != host->port) {
        return false;
    }
    struct slice name = slice_from_str(host->name);
    if (config_address_parse(name, target)) {
        /* To connect to 0.0.0.0 is to connect to 127.0.0.1. */
        return listener_takes(listen_address, target) ||
               (address_is_any(target) && address_is_loopback(listen_address));
    }
    bool local = slice_equal_nocase(name, SLICE("localhost"));
    bool own = slice_equal_nocase(name, slice_from_str(hostname));
    return local ? address_is_any(listen_address) || address_is_loopback(listen_address)
                 : own && !host->use_mx && !address_is_loopback(listen_address);
}

/* ---- name servers ---- */

bool config_address_is_name_server(struct slice text)
{
    uint8_t address[16];
    uint16_t port = 53;
    if (config_address_parse(text, address)) {
        return true;
    }
    struct target target;
    return target_parse(text, &target) && !target.has_suffix &&
           config_address_parse(target.name, address) &&
           target.bracketed == (slice_find(target.name, ':') < target.name.len) &&
           (!target.has_port || (port_parse(target.port, &port) && port != 0));
}
