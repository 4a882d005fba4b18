#include "daemon/ingress/policy.h"

static const uint8_t mapped_prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

/* What "private" means: RFC 1918, 3927, 6598, 4193, 4291, and this box. IPv4 bits count from 96. */
static const struct config_network private_networks[] = {
    {{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10}, 96 + 8},
    {{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 172, 16}, 96 + 12},
    {{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 168}, 96 + 16},
    {{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 169, 254}, 96 + 16},
    {{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127}, 96 + 8},
    {{0xfc}, 7},
    {{0xfe, 0x80}, 10},
    {{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}, 128},
};

bool policy_address(const struct sockaddr *address, uint8_t out[16])
{
    if (address->sa_family == AF_INET) {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)(const void *)address;
        memcpy(out, mapped_prefix, sizeof mapped_prefix);
        memcpy(out + 12, &v4->sin_addr, 4);
        return true;
    }
    if (address->sa_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)(const void *)address;
        memcpy(out, &v6->sin6_addr, 16);
        return true;
    }
    return false;
}

static bool in_network(const uint8_t client[16], const struct config_network *network)
{
    size_t whole = network->prefix_bits / 8;
    uint8_t rest = network->prefix_bits % 8;
    if (memcmp(client, network->address, whole) != 0) {
        return false;
    }
    uint8_t mask = (uint8_t)(0xff00u >> rest);
    return rest == 0 || ((client[whole] ^ network->address[whole]) & mask) == 0;
}

static bool in_any(const uint8_t client[16], const struct config_network *networks, size_t count)
{
    for (size_t index = 0; index < count; index++) {
        if (in_network(client, &networks[index])) {
            return true;
        }
    }
    return false;
}

bool policy_allows(const struct config *config, const uint8_t client[16])
{
    return (config->allow.private_networks &&
            in_any(client, private_networks,
                   sizeof private_networks / sizeof private_networks[0])) ||
           in_any(client, config->allow.items, config->allow.count);
}

/* A path that ends in a quote is a local part alone, whatever stands in the quotes: RFC 5321 4.1.2.
 */
static bool has_domain(struct slice path)
{
    return slice_find_last(path, '@') < path.len && path.data[path.len - 1] != '"';
}

bool policy_resolve(const struct config *config, struct slice path, bool is_recipient,
                    struct buf *to)
{
    if (has_domain(path)) {
        buf_put(to, path);
    } else if (is_recipient && config->root_mail[0] != '\0') {
        buf_put_str(to, config->root_mail);
    } else {
        buf_put(to, path);
        buf_put_byte(to, '@');
        buf_put_str(to, config->domain);
    }
    return !to->overflow && to->len <= SMTP_PATH_BYTES_MAX;
}
