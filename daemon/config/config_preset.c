/*
 * host = gmail, host = ses:eu-west-1: a provider of schema/playbook.def instead of its server.
 */
#include "daemon/config/config_private.h"

#include "daemon/base/text.h"
#include "schema/playbook.h"

#include <stdio.h>

#define REGION_BYTES_MAX 32

static struct slice word_of(struct slice text)
{
    return slice_head(text, slice_find(text, ':'));
}

bool config_preset_is(struct slice text)
{
    return playbook_find(word_of(text)) != PLAYBOOK_NONE;
}

const char *config_preset_nearest(struct slice text)
{
    const char *words[PLAYBOOK_PROVIDER_COUNT];
    size_t count = 0;
    for (unsigned at = PLAYBOOK_NONE + 1; at < PLAYBOOK_PROVIDER_COUNT; at++) {
        words[count++] = playbook_row((enum playbook_provider)at)->word;
    }
    return text_nearest(word_of(text), words, count);
}

static bool region_is_well(struct slice region)
{
    bool letters = false;
    for (size_t at = 0; at < region.len; at++) {
        uint8_t c = ascii_lower(region.data[at]);
        letters = letters || (c >= 'a' && c <= 'z');
        if (!(c >= 'a' && c <= 'z') && !(c >= '0' && c <= '9') && c != '-') {
            return false;
        }
    }
    return letters && region.len <= REGION_BYTES_MAX;
}

static bool refuse_region(const struct config_value *value, const struct playbook_row *row,
                          bool has_region)
{
    char fix[200];
    if (!has_region) {
        (void)snprintf(fix, sizeof fix, "write the region behind it, such as %s:eu-west-1",
                       row->word);
        return config_value_refuse(value, value->text, fix, "%s has a server in each region",
                                   row->title);
    }
    if (row->regional[0] == '\0') {
        (void)snprintf(fix, sizeof fix, "write %s alone; or, for another port, %s with that port",
                       row->word, row->host);
        return config_value_refuse(value, value->text, fix,
                                   "nothing may follow %s: its server and port are known",
                                   row->word);
    }
    (void)snprintf(fix, sizeof fix, "write %s, a colon, and the region as the provider writes it",
                   row->word);
    return config_value_refuse(value, value->text, fix, "%s is no region of %s",
                               config_quote(value->text).text, row->title);
}

bool config_preset_host(const struct config_value *value, struct config_host *out)
{
    struct slice word = word_of(value->text);
    struct slice region = slice_tail(value->text, word.len);
    bool has_region = region.len > 0;
    enum playbook_provider provider = playbook_find(word);
    const struct playbook_row *row = playbook_row(provider);
    region = has_region ? slice_tail(region, 1) : region;
    bool regional = row->regional[0] != '\0';
    if (has_region ? !regional || !region_is_well(region) : row->host[0] == '\0') {
        return refuse_region(value, row, has_region);
    }
    char text[SMTP_DOMAIN_BYTES_MAX + 16];
    struct buf host;
    buf_init(&host, text, sizeof text);
    for (const char *at = has_region ? row->regional : row->host; *at != '\0'; at++) {
        if (*at == '%') {
            buf_put(&host, region);
        } else {
            buf_put_byte(&host, (uint8_t)*at);
        }
    }
    CHECK(!host.overflow);
    struct config_value server = *value;
    server.text = buf_slice(&host);
    if (!config_address_host(&server, out)) {
        return false;
    }
    out->provider = provider;
    CHECK(value->text.len < sizeof out->preset);
    memcpy(out->preset, value->text.data, value->text.len);
    out->preset[value->text.len] = '\0';
    return true;
}

uint32_t config_upstream_find(const struct config *config, struct slice name)
{
    for (uint32_t index = 0; index < config->upstream_count; index++) {
        if (slice_equal(slice_from_str(config->upstreams[index].name), name)) {
            return index;
        }
    }
    return UPSTREAMS_MAX;
}

enum playbook_provider config_provider_of(const struct config *config, struct slice upstream)
{
    uint32_t index = config_upstream_find(config, upstream);
    return index == UPSTREAMS_MAX ? PLAYBOOK_NONE : config->upstreams[index].host.provider;
}

void config_preset_check(const struct config *config, const struct config_upstream *upstream,
                         struct config_place place, struct config_errors *errors)
{
    const struct playbook_row *row = playbook_row(upstream->host.provider);
    struct slice name = slice_from_str(config->hostname);
    bool real =
        slice_find(name, '.') < name.len && !slice_starts_with_nocase(name, SLICE("localhost."));
    if (row != NULL && row->wants_real_name && !real) {
        config_report(errors, place, "add a line at the top: hostname = relay.example.jp",
                      "%s turns boxes away whose name is %s", row->title, config_quote(name).text);
    }
}
