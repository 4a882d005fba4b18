/*
 * A config as text that reads back as the same config.
 */
#include "daemon/config/config_private.h"

#include <arpa/inet.h>

/* The largest unit that says it exactly. */
static void put_exact(struct buf *to, uint64_t value, const uint64_t *factors,
                      const char *const *units)
{
    size_t index = 0;
    while (factors[index] > 1 && (value == 0 || value % factors[index] != 0)) {
        index++;
    }
    buf_put_u64(to, value / factors[index]);
    buf_put_str(to, units[index]);
}

void config_put_size(struct buf *to, uint64_t bytes)
{
    static const uint64_t factors[] = {1ull << 40, 1ull << 30, 1ull << 20, 1ull << 10, 1};
    static const char *const units[] = {"T", "G", "M", "K", ""};
    put_exact(to, bytes, factors, units);
}

void config_put_duration(struct buf *to, uint64_t span_ms)
{
    static const uint64_t factors[] = {86400000, 3600000, 60000, 1000, 1};
    static const char *const units[] = {"d", "h", "m", "s", "ms"};
    put_exact(to, span_ms, factors, units);
}

static void put_listens(struct buf *to, const struct config_listen *items, uint32_t count)
{
    for (uint32_t index = 0; index < count; index++) {
        buf_put_str(to, index == 0 ? "" : ", ");
        buf_put_str(to, items[index].text);
    }
}

static void put_network(struct buf *to, const struct config_network *network)
{
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    bool ipv4 = network->prefix_bits >= 96 && memcmp(network->address, mapped, 12) == 0;
    char text[INET6_ADDRSTRLEN];
    (void)inet_ntop(ipv4 ? AF_INET : AF_INET6, network->address + (ipv4 ? 12 : 0), text,
                    sizeof text);
    buf_put_str(to, text);
    if (network->prefix_bits < 128) {
        buf_put_byte(to, '/');
        buf_put_u64(to, network->prefix_bits - (ipv4 ? 96u : 0u));
    }
}

static void put_networks(struct buf *to, const struct config_network_list *list)
{
    buf_put_str(to, list->private_networks ? "private" : "");
    for (uint32_t index = 0; index < list->count; index++) {
        buf_put_str(to, index == 0 && !list->private_networks ? "" : ", ");
        put_network(to, &list->items[index]);
    }
}

static void put_host(struct buf *to, const struct config_host *host)
{
    if (host->provider != PLAYBOOK_NONE) {
        buf_put_str(to, host->preset);
        return;
    }
    buf_put_str(to, host->use_mx ? "" : "[");
    buf_put_str(to, host->name);
    buf_put_str(to, host->use_mx ? ":" : "]:");
    buf_put_u64(to, host->port);
    buf_put_str(to, host->implicit_tls && host->port != 465 ? "/tls" : "");
}

static void put_auth(struct buf *to, const char *names)
{
    for (; *names != '\0'; names++) {
        if (*names == ' ') {
            buf_put_str(to, ", ");
        } else {
            buf_put_byte(to, ascii_lower((uint8_t)*names));
        }
    }
}

/* In quotes where it would read as something else without them. */
static void put_text(struct buf *to, const char *text)
{
    size_t len = strlen(text);
    bool blank_at_end = len > 0 && (text[0] == ' ' || text[0] == '\t' || text[len - 1] == ' ' ||
                                    text[len - 1] == '\t');
    bool quoted =
        blank_at_end || text[0] == '#' || strstr(text, " #") != NULL || strstr(text, "\t#") != NULL;
    buf_put_str(to, quoted ? "\"" : "");
    buf_put_str(to, text);
    buf_put_str(to, quoted ? "\"" : "");
}

static void put_number(struct buf *to, enum config_type type, const void *member)
{
    if (type == CONFIG_TYPE_SIZE) {
        config_put_size(to, *(const uint64_t *)member);
    } else if (type == CONFIG_TYPE_DURATION) {
        config_put_duration(to, *(const uint64_t *)member);
    } else {
        buf_put_u64(to, *(const uint32_t *)member);
    }
}

static void put_word(struct buf *to, enum config_type type, const void *member)
{
    uint32_t index = 0;
    if (type == CONFIG_TYPE_BOOL) {
        index = *(const bool *)member ? 1 : 0;
    } else {
        memcpy(&index, member, sizeof index);
    }
    buf_put_str(to, config_type_words(type)[index]);
}

void config_put_value(struct buf *to, const struct config_setting *setting, const void *base)
{
    const void *member = (const uint8_t *)base + setting->offset;
    switch (setting->type) {
    case CONFIG_TYPE_LISTEN_LIST: {
        const struct config_listen_list *list = member;
        put_listens(to, list->items, list->count);
        break;
    }
    case CONFIG_TYPE_LISTEN:
        put_listens(to, member, 1);
        break;
    case CONFIG_TYPE_NETWORK_LIST:
        put_networks(to, member);
        break;
    case CONFIG_TYPE_HOST:
        put_host(to, member);
        break;
    case CONFIG_TYPE_AUTH_LIST:
        put_auth(to, member);
        break;
    case CONFIG_TYPE_RATE:
        config_put_rate(to, member);
        break;
    case CONFIG_TYPE_USE:
        config_use_put(to, member);
        break;
    case CONFIG_TYPE_HOSTNAME:
    case CONFIG_TYPE_ADDRESS:
    case CONFIG_TYPE_PATH:
    case CONFIG_TYPE_TEXT:
        put_text(to, member);
        break;
    case CONFIG_TYPE_SIZE:
    case CONFIG_TYPE_DURATION:
    case CONFIG_TYPE_COUNT:
    case CONFIG_TYPE_COUNT_AUTO:
        put_number(to, setting->type, member);
        break;
    case CONFIG_TYPE_BOOL:
    case CONFIG_TYPE_TLS:
    case CONFIG_TYPE_PIPELINE:
    case CONFIG_TYPE_IO:
    case CONFIG_TYPE_LOG_LEVEL:
        put_word(to, setting->type, member);
        break;
    }
}

static bool is_no_rate(const struct config_rate *rate)
{
    static const struct config_rate none;
    return memcmp(rate, &none, sizeof none) == 0;
}

/* A text that is empty is a setting that is not there. */
static bool is_absent(const struct config_setting *setting, const void *base)
{
    switch (setting->type) {
    case CONFIG_TYPE_HOSTNAME:
    case CONFIG_TYPE_ADDRESS:
    case CONFIG_TYPE_PATH:
    case CONFIG_TYPE_TEXT:
        return *((const char *)base + setting->offset) == '\0';
    case CONFIG_TYPE_RATE:
        return is_no_rate((const void *)((const uint8_t *)base + setting->offset));
    case CONFIG_TYPE_LISTEN_LIST:
    case CONFIG_TYPE_LISTEN:
    case CONFIG_TYPE_NETWORK_LIST:
    case CONFIG_TYPE_HOST:
    case CONFIG_TYPE_USE:
    case CONFIG_TYPE_AUTH_LIST:
    case CONFIG_TYPE_SIZE:
    case CONFIG_TYPE_DURATION:
    case CONFIG_TYPE_COUNT:
    case CONFIG_TYPE_COUNT_AUTO:
    case CONFIG_TYPE_BOOL:
    case CONFIG_TYPE_TLS:
    case CONFIG_TYPE_PIPELINE:
    case CONFIG_TYPE_IO:
    case CONFIG_TYPE_LOG_LEVEL:
        break;
    }
    return false;
}

static void put_section(struct buf *to, enum config_section section, const void *base)
{
    for (size_t index = 0; index < CONFIG_ROW_COUNT; index++) {
        const struct config_setting *setting = &config_settings[index];
        if (setting->section == section && !is_absent(setting, base)) {
            buf_put_str(to, setting->key);
            buf_put_str(to, " = ");
            config_put_value(to, setting, base);
            buf_put_byte(to, '\n');
        }
    }
}

void config_put(struct buf *to, const struct config *config)
{
    put_section(to, CONFIG_SECTION_GLOBAL, config);
    for (uint32_t index = 0; index < config->upstream_count; index++) {
        buf_put_str(to, "\n[upstream ");
        buf_put_str(to, config->upstreams[index].name);
        buf_put_str(to, "]\n");
        put_section(to, CONFIG_SECTION_UPSTREAM, &config->upstreams[index]);
    }
    buf_put_str(to, "\n[dashboard]\n");
    put_section(to, CONFIG_SECTION_DASHBOARD, config);
}
