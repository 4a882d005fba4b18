/*
 * status: the verdict in one sentence, then the facts, then what to do. The verdict is the
 * daemon's; without a daemon it is that there is none.
 */
#include "ctl/ctl.h"

#include "daemon/base/when.h"

static void put_queue(struct buf *to, const json_t *queue)
{
    static const char *const words[] = {"queued", "sending", "held", "failed"};
    for (size_t index = 0; index < sizeof words / sizeof words[0]; index++) {
        if (json_object_get(queue, words[index]) != NULL) {
            buf_printf(to, "%s%llu %s", index > 0 ? ", " : "",
                       (unsigned long long)ctl_json_u64(queue, words[index]), words[index]);
        }
    }
    buf_put_str(to, "; ");
    ctl_put_size(to, ctl_json_u64(queue, "body_bytes"));
    buf_put_str(to, " of mail");
    if (ctl_json_u64(queue, "max_bytes") > 0) {
        buf_put_str(to, ", ");
        ctl_put_size(to, ctl_json_u64(queue, "used_bytes"));
        buf_put_str(to, " of ");
        ctl_put_size(to, ctl_json_u64(queue, "max_bytes"));
        buf_put_str(to, " disk used");
    }
}

#define STUCK_NAMED_MAX 3

/* Of upstreams that are out of order and have no stand-in: their mail is due and does not go. */
static void put_stuck(struct buf *to, const json_t *upstreams)
{
    size_t index, stuck = 0;
    json_t *u;
    json_array_foreach(upstreams, index, u)
    {
        if (ctl_upstream_is_stuck(u) && stuck++ < STUCK_NAMED_MAX) {
            buf_put_str(to, stuck == 1 ? "; mail for " : ", ");
            buf_put(to, slice_head(ctl_json_text(u, "name"), UPSTREAM_NAME_BYTES_MAX));
        }
    }
    if (stuck > STUCK_NAMED_MAX) {
        buf_printf(to, " and %zu more", stuck - STUCK_NAMED_MAX);
    }
    if (stuck > 0) {
        buf_put_str(to,
                    stuck == 1 ? " waits until that works again" : " waits until each works again");
    }
}

static void say_queue(const struct ctl *c, const json_t *status, uint64_t now_ms)
{
    char text[700];
    struct buf b;
    const json_t *queue = json_object_get(status, "queue");
    uint64_t due_ms = ctl_json_u64(queue, "oldest_due_ms");
    buf_init(&b, text, sizeof text);
    put_queue(&b, queue);
    ctl_say_fact(c, "Queue", buf_slice(&b));
    if (due_ms > 0 && ctl_json_u64(queue, "queued") > 0) {
        buf_init(&b, text, sizeof text);
        buf_put_str(&b, "the next message is due ");
        ctl_put_relative(&b, due_ms > now_ms ? due_ms : now_ms, now_ms, false);
        put_stuck(&b, json_object_get(status, "upstreams"));
        ctl_say_fact_escaped(c, "", buf_slice(&b));
    }
    if (json_is_false(json_object_get(queue, "accepting"))) {
        ctl_say_fact(c, "", SLICE("no new mail is taken: there is no room"));
    }
}

static void say_upstream(const struct ctl *c, const json_t *u, uint64_t now_ms)
{
    char text[400];
    struct buf b;
    struct slice use = ctl_json_text(u, "use");
    ctl_upstream_say_head(c, u);
    ctl_upstream_say_trouble(c, u, now_ms);
    buf_init(&b, text, sizeof text);
    static const char *const parts[] = {"host", "peer", "tls", "mechanism"};
    for (size_t index = 0; index < sizeof parts / sizeof parts[0]; index++) {
        struct slice part = slice_head(ctl_json_text(u, parts[index]), 90);
        if (part.len > 0) {
            buf_put_str(&b, b.len > 0 ? ", " : "");
            buf_put(&b, part);
        }
    }
    if (b.len > 0) {
        ctl_say_fact_escaped(c, "", buf_slice(&b));
    }
    if (use.len > 0 && !slice_equal(use, SLICE("always"))) {
        ctl_upstream_say_use(c, "", "use: ", u);
    }
    ctl_upstream_say_work(c, u, now_ms);
    (void)ctl_upstream_say_rates(c, "", "rate: ", u, now_ms);
}

static void say_clients(const struct ctl *c, const json_t *status)
{
    char text[1000];
    struct buf b;
    buf_init(&b, text, sizeof text);
    ctl_put_count(&b, ctl_json_u64(status, "clients"), "client is connected",
                  "clients are connected");
    size_t index;
    json_t *listener;
    json_array_foreach(json_object_get(status, "listeners"), index, listener)
    {
        if (json_is_string(listener) && index < LISTENERS_MAX) {
            buf_put_str(&b, index == 0 ? "; mail is taken on " : ", ");
            buf_put(&b, slice_head(slice_from_str(json_string_value(listener)), 50));
        }
    }
    ctl_say_fact_escaped(c, "Clients", buf_slice(&b));
}

static void say_counters(const struct ctl *c, const json_t *counters)
{
    static const char *const words[] = {"accepted", "delivered", "deferred", "refused", "rejected"};
    char text[300];
    struct buf b;
    buf_init(&b, text, sizeof text);
    for (size_t index = 0; index < sizeof words / sizeof words[0]; index++) {
        buf_printf(&b, "%s%llu %s", index > 0 ? ", " : "",
                   (unsigned long long)ctl_json_u64(counters, words[index]), words[index]);
    }
    ctl_say_fact(c, "Since start", buf_slice(&b));
}

static void say_daemon(const struct ctl *c, const json_t *status, uint64_t now_ms)
{
    char text[700];
    struct buf b;
    const json_t *io = json_object_get(status, "io");
    uint64_t started_ms = ctl_json_u64(status, "started_ms");
    buf_init(&b, text, sizeof text);
    buf_put_str(&b, "tasukid ");
    buf_put(&b, slice_head(ctl_json_text(status, "version"), 32));
    buf_printf(&b, ", process %llu, up ", (unsigned long long)ctl_json_u64(status, "pid"));
    when_put_span(&b, started_ms < now_ms ? now_ms - started_ms : 0);
    buf_put_str(&b, ", ");
    buf_put(&b, slice_head(ctl_json_text(io, "backend"), 32));
    struct slice reason = slice_head(ctl_json_text(io, "reason"), 300);
    if (reason.len > 0) {
        buf_put_str(&b, " (");
        buf_put(&b, reason);
        buf_put_str(&b, ")");
    }
    ctl_say_fact(c, "Daemon", buf_slice(&b));
}

static enum ctl_colour level_colour(struct slice level)
{
    return slice_equal(level, SLICE("ok"))          ? CTL_GOOD
           : slice_equal(level, SLICE("attention")) ? CTL_WARN
                                                    : CTL_BAD;
}

static void collect_todo(struct ctl_todo *todo, const json_t *status)
{
    const json_t *queue = json_object_get(status, "queue");
    ctl_todo_add(todo, ctl_json_text(json_object_get(status, "verdict"), "hint"));
    ctl_todo_add_upstreams(todo, json_object_get(status, "upstreams"));
    if (ctl_json_u64(queue, "failed") > 0) {
        ctl_todo_add(todo, SLICE("tasukictl queue state:failed  lists what could not be handed on; "
                                 "then retry or delete it"));
    }
    if (ctl_json_u64(queue, "held") > 0) {
        ctl_todo_add(todo,
                     SLICE("tasukictl queue state:held  lists what is held; then release it"));
    }
}

static void print_status(const struct ctl *c, const json_t *status)
{
    const json_t *verdict = json_object_get(status, "verdict");
    struct slice sentence = ctl_json_text(verdict, "sentence");
    enum ctl_colour colour = level_colour(ctl_json_text(verdict, "level"));
    uint64_t now_ms = ctl_json_u64(status, "now_ms");
    fputs(ctl_colour_on(c, colour), stdout);
    ctl_say_wrapped(c, 0, sentence);
    fputs(ctl_colour_off(c, colour), stdout);
    putchar('\n');
    say_queue(c, status, now_ms);
    size_t index;
    json_t *upstream;
    json_array_foreach(json_object_get(status, "upstreams"), index, upstream)
    {
        say_upstream(c, upstream, now_ms);
    }
    say_clients(c, status);
    say_counters(c, json_object_get(status, "counters"));
    say_daemon(c, status, now_ms);
    struct ctl_todo todo = {0};
    collect_todo(&todo, status);
    ctl_todo_print(c, &todo);
}

/* ---- without a daemon ---- */

static enum ctl_exit status_of_nothing(struct ctl *c, const struct ctl_problem *why)
{
    struct ctl_problem problem = *why;
    struct ctl_offline *offline =
        why->daemon_down ? ctl_offline_open(c, why, false, &problem) : NULL;
    json_t *counts = offline == NULL ? NULL : ctl_offline_counts(offline);
    ctl_offline_close(&offline);
    /* The verdict is an error as well: it goes where errors go, and stands first. */
    enum ctl_exit code = ctl_say_problem(c, &problem);
    if (counts != NULL && c->args.json) {
        json_t *result =
            json_pack("{s:i,s:{s:s,s:o,s:o},s:O}", "schema", WIRE_SCHEMA_VERSION, "verdict",
                      "level", "trouble", "sentence", ctl_json_words(why->message), "hint",
                      ctl_json_words(why->hint), "queue", counts);
        ctl_say_json(result);
        json_decref(result);
    } else if (counts != NULL) {
        char text[400];
        struct buf b;
        buf_init(&b, text, sizeof text);
        put_queue(&b, counts);
        buf_put_str(&b, " (read from disk)");
        ctl_say_fact(c, "Queue", buf_slice(&b));
    }
    json_decref(counts);
    return code;
}

enum ctl_exit ctl_status_run(struct ctl *c)
{
    struct ctl_problem problem;
    json_t *status = ctl_client_call(c, COMMAND_STATUS, json_object(), NULL, &problem);
    if (status == NULL) {
        return status_of_nothing(c, &problem);
    }
    bool well =
        slice_equal(ctl_json_text(json_object_get(status, "verdict"), "level"), SLICE("ok"));
    if (c->args.json) {
        ctl_say_json(status);
    } else {
        print_status(c, status);
    }
    json_decref(status);
    return well ? CTL_EXIT_OK : CTL_EXIT_NO;
}
