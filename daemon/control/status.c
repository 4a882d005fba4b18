/*
 * The verdict in one sentence, then the facts. What is worst is said first.
 */
#include "daemon/base/when.h"
#include "daemon/control/control_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#define SLOW_MS_MIN 60000

struct verdict {
    const char *level; /* "ok", "attention", "trouble" */
    char sentence[400];
    const char *hint;
};

static const char *plural(uint64_t count)
{
    return count == 1 ? "" : "s";
}

static const char *verb_s(uint64_t count)
{
    return count == 1 ? "s" : "";
}

/* How bad it is that this one is marked, 0 is worst: its mail waits, another one carries it, it had
 * none of its own. */
static uint32_t mark_rank(const struct control *c, const struct flow_status *status, uint32_t index)
{
    bool carried = status->upstreams[index].stand_in != 0;
    bool spare = c->with.config->upstreams[index].use.role == CONFIG_USE_WHEN_DOWN;
    return spare ? 2 : carried ? 1 : 0;
}

static const struct flow_upstream_status *
first_marked(const struct control *c, const struct flow_status *status, uint32_t *out_index)
{
    const struct flow_upstream_status *found = NULL;
    for (uint32_t index = 0; index < status->upstream_count; index++) {
        const struct flow_upstream_status *u = &status->upstreams[index];
        if (u->state == FLOW_UPSTREAM_MARKED &&
            (found == NULL || mark_rank(c, status, index) < mark_rank(c, status, *out_index))) {
            *out_index = index;
            found = u;
        }
    }
    return found;
}

static struct playbook_words words_of(const struct config_upstream *config,
                                      const struct flow_upstream_status *u)
{
    return playbook_words(config->host.provider, u->outcome, u->code, slice_from_str(u->text));
}

static void judge_marked(const struct control *c, const struct flow_status *status,
                         const struct flow_upstream_status *marked, uint32_t index,
                         struct verdict *v)
{
    uint64_t queued = status->count_by_state[MESSAGE_QUEUED];
    const char *name = c->with.config->upstreams[index].name;
    struct playbook_words words = words_of(&c->with.config->upstreams[index], marked);
    const char *why = words.sentence;
    v->hint = words.hint;
    v->level = "attention";
    if (marked->stand_in != 0) {
        snprintf(v->sentence, sizeof v->sentence, "%s is down (%s); %s carries its mail.", name,
                 why, c->with.config->upstreams[marked->stand_in - 1].name);
    } else if (mark_rank(c, status, index) == 2) {
        snprintf(v->sentence, sizeof v->sentence,
                 "%s is down (%s), and could not stand in; no mail goes that way now.", name, why);
    } else {
        v->level = queued > 0 ? "trouble" : "attention";
        snprintf(v->sentence, sizeof v->sentence,
                 "Mail is not leaving by %s: %s. %" PRIu64 " message%s wait%s; nothing is lost.",
                 name, why, queued, plural(queued), verb_s(queued));
    }
}

/*
 * The upstream with which a message has been for long: a minute, or half of what is waited for an
 * answer. It may be slow, or silent; either way nobody shall hear that all is well.
 */
static const struct flow_upstream_status *
first_slow(const struct control *c, const struct flow_status *status, uint32_t *out_index)
{
    for (uint32_t index = 0; index < status->upstream_count; index++) {
        const struct flow_upstream_status *u = &status->upstreams[index];
        uint64_t patience_ms = c->with.config->upstreams[index].reply_ms_max / 2;
        patience_ms = patience_ms < SLOW_MS_MIN ? patience_ms : SLOW_MS_MIN;
        if (u->oldest_sent_ms != 0 && status->now_ms > u->oldest_sent_ms + patience_ms) {
            *out_index = index;
            return u;
        }
    }
    return NULL;
}

static void judge_slow(const struct control *c, const struct flow_status *status,
                       const struct flow_upstream_status *slow, uint32_t index, struct verdict *v)
{
    uint8_t memory[64];
    struct buf span;
    buf_init(&span, memory, sizeof memory);
    when_put_span(&span, status->now_ms - slow->oldest_sent_ms);
    v->level = "attention";
    snprintf(
        v->sentence, sizeof v->sentence,
        "A message has been on its way to %s for %.*s: the upstream, or the line to it, is slow.",
        c->with.config->upstreams[index].name, (int)span.len, (const char *)memory);
    v->hint = "tasukictl test; a large message over a slow line just needs its time.";
}

static const char *first_unusable(const struct control *c, const struct flow_status *status,
                                  uint32_t *out_index)
{
    for (uint32_t index = 0; index < status->upstream_count; index++) {
        if (c->with.authorities[index].words[0] != '\0') {
            *out_index = index;
            return c->with.authorities[index].words;
        }
    }
    return NULL;
}

/* Nothing stands still yet, but the next start may be refused. */
static void judge_unusable(const struct control *c, const char *why, uint32_t index,
                           struct verdict *v)
{
    v->level = "attention";
    snprintf(
        v->sentence, sizeof v->sentence,
        "Mail flows, but the authorities for %s have changed and cannot be used: %s. Those read "
        "before are still trusted.",
        c->with.config->upstreams[index].name, why);
    v->hint = "Mend that file: it is read again by itself. Before that, do not restart tasukid.";
}

static void judge(const struct control *c, const struct flow_status *status, struct verdict *v)
{
    uint64_t queued = status->count_by_state[MESSAGE_QUEUED];
    uint64_t failed = status->count_by_state[MESSAGE_FAILED];
    uint64_t held = status->count_by_state[MESSAGE_HELD];
    uint32_t index = 0;
    const struct flow_upstream_status *marked = first_marked(c, status, &index);
    uint32_t slow_index = 0;
    const struct flow_upstream_status *slow = first_slow(c, status, &slow_index);
    uint32_t unusable_index = 0;
    const char *unusable = first_unusable(c, status, &unusable_index);
    v->hint = "";
    if (status->store_failed) {
        v->level = "trouble";
        snprintf(v->sentence, sizeof v->sentence,
                 "The queue cannot be written any more: no mail is taken or sent.");
        v->hint = "Check the disk (dmesg, df), then: systemctl restart tasuki";
    } else if (marked != NULL) {
        judge_marked(c, status, marked, index, v);
    } else if (!status->accepting) {
        v->level = "trouble";
        snprintf(v->sentence, sizeof v->sentence,
                 "The queue is full: devices are told to try again later.");
        v->hint = "See what fills it: tasukictl queue; or raise queue-max.";
    } else if (slow != NULL) {
        judge_slow(c, status, slow, slow_index, v);
    } else if (failed > 0) {
        v->level = "attention";
        snprintf(v->sentence, sizeof v->sentence,
                 "%" PRIu64 " message%s could be neither delivered nor reported to the sender.",
                 failed, plural(failed));
        v->hint = c->with.config->root_mail[0] != '\0'
                      ? "The digest to root-mail will name them; or: tasukictl queue state:failed"
                      : "tasukictl queue state:failed; set root-mail and a digest will tell you.";
    } else if (unusable != NULL) {
        judge_unusable(c, unusable, unusable_index, v);
    } else {
        v->level = "ok";
        int len =
            queued == 0
                ? snprintf(v->sentence, sizeof v->sentence, "All is well: the queue is empty")
                : snprintf(v->sentence, sizeof v->sentence,
                           "All is well: %" PRIu64 " message%s on the way", queued, plural(queued));
        size_t room = sizeof v->sentence - (size_t)len;
        if (held > 0) {
            snprintf(v->sentence + len, room, ", %" PRIu64 " held by you.", held);
        } else {
            snprintf(v->sentence + len, room, ", nothing waits for you.");
        }
    }
}

static void put_queue(struct json *j, const struct flow_status *status)
{
    json_open_object(j, "queue");
    json_put_u64(j, "queued", status->count_by_state[MESSAGE_QUEUED]);
    json_put_u64(j, "sending", status->sending);
    json_put_u64(j, "held", status->count_by_state[MESSAGE_HELD]);
    json_put_u64(j, "failed", status->count_by_state[MESSAGE_FAILED]);
    json_put_u64(j, "trashed", status->count_by_state[MESSAGE_TRASHED]);
    json_put_u64(j, "body_bytes", status->body_bytes);
    json_put_u64(j, "used_bytes", status->pages_used_bytes);
    json_put_u64(j, "max_bytes", status->bytes_max);
    json_put_u64(j, "file_bytes", status->file_bytes);
    json_put_bool(j, "accepting", status->accepting);
    json_put_u64(j, "oldest_due_ms", status->oldest_due_ms);
    json_close_object(j);
    json_open_object(j, "history");
    json_put_u64(j, "messages", status->history_count);
    json_put_u64(j, "bytes", status->history_bytes);
    json_close_object(j);
    json_put_u64(j, "reports", status->reports_made);
}

static void put_marked(struct json *j, const struct flow_upstream_status *u,
                       struct playbook_words words)
{
    json_put_str(j, "reason", outcome_row(u->outcome)->word);
    json_put_str(j, "sentence", words.sentence);
    json_put_str(j, "hint", words.hint);
    json_put_u64(j, "code", u->code);
    json_put_str(j, "text", u->text);
    json_put_u64(j, "marked_ms", u->marked_ms);
    json_put_u64(j, "next_probe_ms", u->next_probe_ms);
}

static const char *pipeline_word(uint8_t depth)
{
    static const char *const words[] = {"", "off", "safe", "stream"};
    return depth < sizeof words / sizeof words[0] ? words[depth] : "";
}

static void put_lowered(struct json *j, const struct flow_upstream_status *u)
{
    if (u->lowered_max == 0) {
        json_put_null(j, "lowered");
        return;
    }
    json_open_object(j, "lowered");
    json_put_str(j, "max", pipeline_word(u->lowered_max));
    json_put_str(j, "reason", u->lowered_why);
    json_put_u64(j, "until_ms", u->lowered_until_ms);
    json_close_object(j);
}

static void put_pipeline(struct json *j, const struct flow_upstream_status *u)
{
    json_open_object(j, "pipeline");
    json_put_str(j, "mode", pipeline_word(u->pipeline));
    json_put_str(j, "max", pipeline_word(u->pipeline_max));
    json_put_str(j, "reason", u->pipeline_reason);
    if (u->pipeline_until_ms != 0) {
        json_put_u64(j, "until_ms", u->pipeline_until_ms);
    } else {
        json_put_null(j, "until_ms");
    }
    put_lowered(j, u);
    json_close_object(j);
}

/* The rates that are set, and what of them is used. */
static void put_rates(struct json *j, const struct config_rate *rate,
                      const struct flow_upstream_status *u)
{
    _Static_assert(sizeof u->rate_used == sizeof rate->most, "kinds and spans are the same");
    static const char *const kinds[] = {
        [CONFIG_RATE_MESSAGES] = "messages", [CONFIG_RATE_RECIPIENTS] = "recipients"};
    static const char *const spans[] = {
        [CONFIG_RATE_MINUTE] = "min", [CONFIG_RATE_HOUR] = "hour", [CONFIG_RATE_DAY] = "day"};
    json_open_array(j, "rates");
    for (unsigned kind = 0; kind < CONFIG_RATE_KINDS; kind++) {
        for (unsigned span = 0; span < CONFIG_RATE_SPANS; span++) {
            if (rate->most[kind][span] != 0) {
                json_open_object(j, NULL);
                json_put_u64(j, "most", rate->most[kind][span]);
                json_put_str(j, "of", kinds[kind]);
                json_put_str(j, "per", spans[span]);
                json_put_u64(j, "used", u->rate_used[kind][span]);
                json_close_object(j);
            }
        }
    }
    json_close_array(j);
}

/* How fast mail goes there, and what holds it back. */
static void put_pace(struct json *j, const struct config_upstream *config,
                     const struct flow_upstream_status *u)
{
    put_rates(j, &config->rate, u);
    json_put_u64(j, "outage_ms", u->outage_ms);
    json_put_u64(j, "concurrency", u->concurrency);
    json_put_u64(j, "paused_until_ms", u->throttled_until_ms);
    if (u->rate_limited) {
        json_put_u64(j, "rate_room", u->rate_room);
    } else {
        json_put_null(j, "rate_room");
    }
    json_put_u64(j, "rate_next_ms", u->rate_next_ms);
    if (u->forecast_ms != 0) {
        json_put_u64(j, "forecast_ms", u->forecast_ms);
    } else {
        json_put_null(j, "forecast_ms");
    }
}

/* Which mail it is for, and who carries that now. */
static void put_use(struct json *j, const struct config *config, uint32_t index,
                    const struct flow_upstream_status *u)
{
    uint8_t memory[CONFIG_USE_BYTES + CONFIG_USE_TERMS_MAX * 12 + 32];
    struct buf use;
    buf_init(&use, memory, sizeof memory);
    config_use_put(&use, &config->upstreams[index].use);
    json_put_text(j, "use", buf_slice(&use));
    if (u->stand_in != 0) {
        json_put_str(j, "stand_in", config->upstreams[u->stand_in - 1].name);
    } else {
        json_put_null(j, "stand_in");
    }
}

static void put_upstream(struct json *j, const struct config *whole, uint32_t index,
                         const struct flow_upstream_status *u)
{
    const struct config_upstream *config = &whole->upstreams[index];
    static const char *const states[] = {"untried", "well", "marked"};
    char host[SMTP_DOMAIN_BYTES_MAX + 20];
    snprintf(host, sizeof host, config->host.use_mx ? "%s:%u" : "[%s]:%u", config->host.name,
             config->host.port);
    json_open_object(j, NULL);
    json_put_str(j, "name", config->name);
    json_put_str(j, "host", host);
    const struct playbook_row *provider = playbook_row(config->host.provider);
    if (provider != NULL) {
        json_put_str(j, "provider", provider->word);
    } else {
        json_put_null(j, "provider");
    }
    json_put_str(j, "state", states[u->state]);
    put_use(j, whole, index, u);
    if (u->state == FLOW_UPSTREAM_MARKED) {
        put_marked(j, u, words_of(config, u));
    }
    json_put_u64(j, "connections", u->connections);
    json_put_u64(j, "connections_max", config->connections);
    json_put_u64(j, "busy", u->busy);
    json_put_u64(j, "delivered", u->delivered);
    json_put_u64(j, "deferred", u->deferred);
    json_put_u64(j, "refused", u->refused);
    json_put_u64(j, "last_delivery_ms", u->last_delivery_ms);
    put_pace(j, config, u);
    put_pipeline(j, u);
    json_put_str(j, "peer", u->peer);
    json_put_str(j, "tls", u->tls);
    json_put_str(j, "mechanism", u->mechanism);
    json_close_object(j);
}

static uint64_t total(const struct control *c, enum metric metric)
{
    uint64_t sum = 0;
    for (size_t index = 0; index < c->with.metrics_count; index++) {
        sum += metric_get(c->with.metrics[index], metric);
    }
    return sum;
}

static void put_counters(struct json *j, const struct control *c)
{
    json_put_u64(j, "clients", total(c, METRIC_CLIENTS));
    json_open_object(j, "counters");
    json_put_u64(j, "accepted", total(c, METRIC_ACCEPTED));
    json_put_u64(j, "delivered", total(c, METRIC_DELIVERED));
    json_put_u64(j, "deferred", total(c, METRIC_DEFERRED));
    json_put_u64(j, "refused", total(c, METRIC_FAILED));
    json_put_u64(j, "rejected", total(c, METRIC_REJECTED));
    json_close_object(j);
}

void status_put(struct connection *n, const struct flow_status *status)
{
    const struct control *c = n->c;
    struct json *j = &n->json;
    struct verdict v;
    judge(c, status, &v);
    json_put_u64(j, "now_ms", status->now_ms);
    json_put_u64(j, "started_ms", c->with.started_ms);
    json_put_str(j, "version", TASUKI_VERSION);
    json_put_u64(j, "pid", (uint64_t)getpid());
    json_open_object(j, "verdict");
    json_put_str(j, "level", v.level);
    json_put_str(j, "sentence", v.sentence);
    json_put_str(j, "hint", v.hint);
    json_close_object(j);
    json_open_object(j, "io");
    json_put_str(j, "backend", c->with.about->backend == IO_BACKEND_URING ? "io_uring" : "epoll");
    json_put_str(j, "reason", c->with.about->reason);
    json_put_str(j, "features", c->with.about->features);
    json_close_object(j);
    put_queue(j, status);
    json_open_array(j, "upstreams");
    for (uint32_t index = 0; index < status->upstream_count; index++) {
        put_upstream(j, c->with.config, index, &status->upstreams[index]);
    }
    json_close_array(j);
    json_open_array(j, "listeners");
    for (uint32_t index = 0; index < c->with.config->listen.count; index++) {
        json_put_str(j, NULL, c->with.config->listen.items[index].text);
    }
    json_close_array(j);
    put_counters(j, c);
}
