/*
 * The rows of schema/config.def as a table. Every member has the C type that its row's type says:
 * the assertions below fail the build otherwise.
 */
#include "daemon/config/config_private.h"

#include <stddef.h>

#define STRUCT_GLOBAL(member)    struct config, member
#define STRUCT_UPSTREAM(member)  struct config_upstream, member
#define STRUCT_DASHBOARD(member) struct config, dashboard.member
#define OFFSET(...)              offsetof(__VA_ARGS__)
#define BYTES_OF(type, member)   sizeof(((type *)NULL)->member)
#define BYTES(...)               BYTES_OF(__VA_ARGS__)

#define BYTES_LISTEN_LIST  sizeof(struct config_listen_list)
#define BYTES_LISTEN       sizeof(struct config_listen)
#define BYTES_NETWORK_LIST sizeof(struct config_network_list)
#define BYTES_HOST         sizeof(struct config_host)
#define BYTES_HOSTNAME     (SMTP_DOMAIN_BYTES_MAX + 1)
#define BYTES_ADDRESS      (SMTP_PATH_BYTES_MAX + 1)
#define BYTES_PATH         CONFIG_TEXT_BYTES
#define BYTES_TEXT         CONFIG_TEXT_BYTES
#define BYTES_AUTH_LIST    CONFIG_TEXT_BYTES
#define BYTES_SIZE         sizeof(uint64_t)
#define BYTES_DURATION     sizeof(uint64_t)
#define BYTES_COUNT        sizeof(uint32_t)
#define BYTES_COUNT_AUTO   sizeof(uint32_t)
#define BYTES_RATE         sizeof(struct config_rate)
#define BYTES_USE          sizeof(struct config_use)
#define BYTES_BOOL         sizeof(bool)
#define BYTES_TLS          sizeof(uint32_t)
#define BYTES_PIPELINE     sizeof(uint32_t)
#define BYTES_IO           sizeof(uint32_t)
#define BYTES_LOG_LEVEL    sizeof(uint32_t)

#define X(section, member, key, type, fallback, doc, example)                                      \
    _Static_assert(BYTES(STRUCT_##section(member)) == BYTES_##type,                                \
                   "the member of " key " has the C type of its row");
#include "schema/config.def"
#undef X

const struct config_setting config_settings[CONFIG_ROW_COUNT] = {
#define X(section, member, key, type, fallback, doc, example)                                      \
    [CONFIG_ROW_##section##_##member] = {CONFIG_SECTION_##section,                                 \
                                         CONFIG_TYPE_##type,                                       \
                                         (key),                                                    \
                                         (fallback),                                               \
                                         (doc),                                                    \
                                         (example),                                                \
                                         OFFSET(STRUCT_##section(member)),                         \
                                         BYTES(STRUCT_##section(member))},
#include "schema/config.def"
#undef X
};

size_t config_row_find(enum config_section section, struct slice key)
{
    for (size_t index = 0; index < CONFIG_ROW_COUNT; index++) {
        if (config_settings[index].section == section &&
            slice_equal(key, slice_from_str(config_settings[index].key))) {
            return index;
        }
    }
    return CONFIG_ROW_COUNT;
}

const char *const *config_type_words(enum config_type type)
{
    static const char *const bools[] = {"no", "yes", NULL};
    static const char *const tls[] = {"verify", "encrypt", "off", NULL};
    static const char *const pipeline[] = {"auto", "off", "safe", "stream", NULL};
    static const char *const io[] = {"auto", "uring", "poll", NULL};
    static const char *const level[] = {"error", "warning", "notice", "info", "debug", NULL};
    static const char *const *const words[] = {
        [CONFIG_TYPE_BOOL] = bools,        [CONFIG_TYPE_TLS] = tls,
        [CONFIG_TYPE_PIPELINE] = pipeline, [CONFIG_TYPE_IO] = io,
        [CONFIG_TYPE_LOG_LEVEL] = level,
    };
    return words[type];
}

bool config_row_at(size_t index, struct config_row *out_row)
{
    static const char *const sections[] = {"", "upstream", "dashboard"};
    if (index >= CONFIG_ROW_COUNT) {
        return false;
    }
    const struct config_setting *setting = &config_settings[index];
    *out_row = (struct config_row){.section = sections[setting->section],
                                   .key = setting->key,
                                   .default_text = setting->default_text,
                                   .doc = setting->doc,
                                   .example = setting->example};
    return true;
}
