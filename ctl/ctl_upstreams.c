/*
 * upstreams: how each of them is, from the answer to `status`; what waits for it, from the exact
 * counts. Several make a table, one is told in detail. status tells of them with the same words.
 */
#include "ctl/ctl.h"

#include "daemon/base/text.h"
#include "daemon/base/when.h"
#include "schema/playbook.h"

static bool is_marked(const json_t *u)
{
    return slice_equal(ctl_json_text(u, "state"), SLICE("marked"));
}

bool ctl_upstream_is_stuck(const json_t *u)
{
    return is_marked(u) && ctl_json_text(u, "stand_in").len == 0;
}

/* In a word: well, untried, waits (its mail does), down (another one carries it). */
static struct slice state_word(const json_t *u)
{
    if (!is_marked(u)) {
        return slice_head(ctl_json_text(u, "state"), 20);
    }
    return ctl_upstream_is_stuck(u) ? SLICE("waits") : SLICE("down");
}

static enum ctl_colour state_colour(const json_t *u)
{
    bool well = slice_equal(ctl_json_text(u, "state"), SLICE("well"));
    return is_marked(u) ? CTL_BAD : well ? CTL_GOOD : CTL_PLAIN;
}

/* ---- what status tells, too ---- */

void ctl_upstream_say_head(const struct ctl *c, const json_t *u)
{
    struct slice stand_in = ctl_json_text(u, "stand_in");
    printf("%-14s%s", "Upstream", ctl_colour_on(c, state_colour(u)));
    ctl_say_escaped(stdout, slice_head(ctl_json_text(u, "name"), UPSTREAM_NAME_BYTES_MAX));
    fputs(": ", stdout);
    ctl_say_escaped(stdout, state_word(u));
    if (is_marked(u) && stand_in.len > 0) {
        fputs(", ", stdout);
        ctl_say_escaped(stdout, slice_head(stand_in, UPSTREAM_NAME_BYTES_MAX));
        fputs(" carries its mail", stdout);
    }
    printf("%s\n", ctl_colour_off(c, state_colour(u)));
}

void ctl_upstream_say_trouble(const struct ctl *c, const json_t *u, uint64_t now_ms)
{
    char text[700];
    struct buf b;
    if (!is_marked(u)) {
        return;
    }
    buf_init(&b, text, sizeof text);
    buf_put(&b, slice_head(ctl_json_text(u, "sentence"), 400));
    if (ctl_json_u64(u, "marked_ms") > 0) {
        buf_put_str(&b, ", since ");
        ctl_put_relative(&b, ctl_json_u64(u, "marked_ms"), now_ms, false);
    }
    if (ctl_json_u64(u, "next_probe_ms") > 0) {
        uint64_t at_ms = ctl_json_u64(u, "next_probe_ms");
        buf_put_str(&b, "; the next try ");
        ctl_put_relative(&b, at_ms > now_ms ? at_ms : now_ms, now_ms, false);
    }
    ctl_say_fact(c, "", buf_slice(&b));
    ctl_say_reply(c, "", u);
}

void ctl_upstream_say_use(const struct ctl *c, const char *label, const char *before,
                          const json_t *u)
{
    char text[400];
    struct buf b;
    struct slice use = ctl_json_text(u, "use");
    struct slice shown = slice_head(use, 300);
    buf_init(&b, text, sizeof text);
    buf_put_str(&b, before);
    buf_put(&b, shown);
    buf_put_str(&b, shown.len < use.len ? " ..." : "");
    ctl_say_fact_escaped(c, label, buf_slice(&b));
}

static void put_connections(struct buf *to, const json_t *u)
{
    buf_printf(to, "%llu of %llu connections, %llu busy",
               (unsigned long long)ctl_json_u64(u, "connections"),
               (unsigned long long)ctl_json_u64(u, "connections_max"),
               (unsigned long long)ctl_json_u64(u, "busy"));
}

static void put_delivered(struct buf *to, const json_t *u, uint64_t now_ms)
{
    buf_printf(to, "%llu delivered, %llu deferred, %llu refused",
               (unsigned long long)ctl_json_u64(u, "delivered"),
               (unsigned long long)ctl_json_u64(u, "deferred"),
               (unsigned long long)ctl_json_u64(u, "refused"));
    if (ctl_json_u64(u, "last_delivery_ms") > 0) {
        buf_put_str(to, "; the last delivery ");
        ctl_put_relative(to, ctl_json_u64(u, "last_delivery_ms"), now_ms, false);
    }
}

void ctl_upstream_say_work(const struct ctl *c, const json_t *u, uint64_t now_ms)
{
    char text[400];
    struct buf b;
    buf_init(&b, text, sizeof text);
    put_connections(&b, u);
    buf_put_str(&b, "; ");
    put_delivered(&b, u, now_ms);
    ctl_say_fact(c, "", buf_slice(&b));
}

/* "1 of 30 messages/min"; without the first number from a daemon that does not say it. */
static void put_rates(struct buf *to, const json_t *rates)
{
    size_t index;
    json_t *rate;
    json_array_foreach(rates, index, rate)
    {
        buf_put_str(to, index > 0 ? ", " : "");
        if (json_is_integer(json_object_get(rate, "used"))) {
            buf_printf(to, "%llu of ", (unsigned long long)ctl_json_u64(rate, "used"));
        }
        buf_printf(to, "%llu ", (unsigned long long)ctl_json_u64(rate, "most"));
        buf_put(to, slice_head(ctl_json_text(rate, "of"), 20));
        buf_put_byte(to, '/');
        buf_put(to, slice_head(ctl_json_text(rate, "per"), 20));
    }
    if (json_is_integer(json_object_get(json_array_get(rates, 0), "used"))) {
        buf_put_str(to, " used");
    }
}

bool ctl_upstream_say_rates(const struct ctl *c, const char *label, const char *before,
                            const json_t *u, uint64_t now_ms)
{
    char text[600];
    struct buf b;
    const json_t *rates = json_object_get(u, "rates");
    uint64_t room = ctl_json_u64(u, "rate_room"), next_ms = ctl_json_u64(u, "rate_next_ms");
    if (json_array_size(rates) == 0 || !json_is_integer(json_object_get(u, "rate_room"))) {
        return false;
    }
    buf_init(&b, text, sizeof text);
    buf_put_str(&b, before);
    put_rates(&b, rates);
    buf_put_str(&b, ": ");
    if (room > 0) {
        ctl_put_count(&b, room, "more message may go now", "more messages may go now");
    } else if (next_ms > now_ms) {
        buf_put_str(&b, "used up; the next message may go ");
        ctl_put_relative(&b, next_ms, now_ms, false);
    } else {
        buf_put_str(&b, "used up by what is under way");
    }
    ctl_say_fact(c, label, buf_slice(&b));
    return true;
}

/* ---- one, in detail ---- */

static void say_host(const struct ctl *c, const json_t *u)
{
    char text[500];
    struct buf b;
    const struct playbook_row *row = playbook_row(playbook_find(ctl_json_text(u, "provider")));
    buf_init(&b, text, sizeof text);
    buf_put(&b, slice_head(ctl_json_text(u, "host"), 300));
    if (row != NULL) {
        buf_printf(&b, " (%.100s)", row->title);
    }
    ctl_say_fact_escaped(c, "Host", buf_slice(&b));
}

/* On suspicion, and for a while only. */
static void say_lowered(const struct ctl *c, const json_t *lowered, uint64_t now_ms)
{
    char text[600];
    struct buf b;
    struct slice max = slice_head(ctl_json_text(lowered, "max"), 20);
    uint64_t until_ms = ctl_json_u64(lowered, "until_ms");
    if (max.len == 0 || until_ms <= now_ms) {
        return;
    }
    buf_init(&b, text, sizeof text);
    buf_put_str(&b, "lowered on suspicion; more than ");
    buf_put(&b, max);
    buf_put_str(&b, " is tried again ");
    ctl_put_relative(&b, until_ms, now_ms, false);
    buf_put_str(&b, ". Suspected: ");
    buf_put(&b, slice_head(ctl_json_text(lowered, "reason"), 200));
    ctl_say_fact(c, "", buf_slice(&b));
}

/* What is in force; and what was learnt, as long as that is believed. */
static void say_pipelining(const struct ctl *c, const json_t *u, uint64_t now_ms)
{
    char text[600];
    struct buf b;
    const json_t *pipeline = json_object_get(u, "pipeline");
    struct slice mode = slice_head(ctl_json_text(pipeline, "mode"), 20);
    struct slice max = slice_head(ctl_json_text(pipeline, "max"), 20);
    uint64_t until_ms = ctl_json_u64(pipeline, "until_ms");
    buf_init(&b, text, sizeof text);
    buf_put(&b, mode.len > 0 ? mode : SLICE("not known yet: no connection came up so far"));
    ctl_say_fact(c, "Pipelining", buf_slice(&b));
    if (max.len > 0 && until_ms > now_ms) {
        buf_init(&b, text, sizeof text);
        buf_put_str(&b, "lowered; more than ");
        buf_put(&b, max);
        buf_put_str(&b, " is tried again ");
        ctl_put_relative(&b, until_ms, now_ms, false);
        buf_put_str(&b, ". Learnt: ");
        buf_put(&b, slice_head(ctl_json_text(pipeline, "reason"), 200));
        ctl_say_fact(c, "", buf_slice(&b));
    }
    say_lowered(c, json_object_get(pipeline, "lowered"), now_ms);
}

static void say_pace(const struct ctl *c, const json_t *u, uint64_t now_ms)
{
    char text[300];
    struct buf b;
    uint64_t paused_ms = ctl_json_u64(u, "paused_until_ms");
    buf_init(&b, text, sizeof text);
    ctl_put_count(&b, ctl_json_u64(u, "concurrency"), "connection at once may have work",
                  "connections at once may have work");
    if (paused_ms > now_ms) {
        buf_put_str(&b, "; paused, as the upstream asked: it goes on ");
        ctl_put_relative(&b, paused_ms, now_ms, false);
    }
    ctl_say_fact(c, "Pace", buf_slice(&b));
}

static void say_waiting(const struct ctl *c, const json_t *u, uint64_t now_ms)
{
    static const char *const words[] = {"held", "failed"};
    char text[300];
    struct buf b;
    uint64_t queued = ctl_json_u64(u, "queued"), forecast_ms = ctl_json_u64(u, "forecast_ms");
    buf_init(&b, text, sizeof text);
    ctl_put_count(&b, queued, "message", "messages");
    for (size_t index = 0; index < sizeof words / sizeof words[0]; index++) {
        if (ctl_json_u64(u, words[index]) > 0) {
            buf_printf(&b, ", %llu more %s", (unsigned long long)ctl_json_u64(u, words[index]),
                       words[index]);
        }
    }
    if (queued > 0 && forecast_ms > now_ms) {
        buf_put_str(&b, "; all will have left ");
        ctl_put_relative(&b, forecast_ms, now_ms, false);
    }
    ctl_say_fact(c, "Waiting", buf_slice(&b));
}

static void say_work(const struct ctl *c, const json_t *u, uint64_t now_ms)
{
    char text[400];
    struct buf b;
    buf_init(&b, text, sizeof text);
    put_delivered(&b, u, now_ms);
    ctl_say_fact(c, "Since start", buf_slice(&b));
    if (ctl_json_u64(u, "outage_ms") > 0) {
        buf_init(&b, text, sizeof text);
        buf_put_str(&b, "out of order for ");
        when_put_span(&b, ctl_json_u64(u, "outage_ms"));
        buf_put_str(&b, " in all, with no stand-in");
        ctl_say_fact(c, "", buf_slice(&b));
    }
}

static void print_one(const struct ctl *c, const json_t *u, uint64_t now_ms)
{
    char text[100];
    struct buf b;
    ctl_upstream_say_head(c, u);
    ctl_upstream_say_trouble(c, u, now_ms);
    say_host(c, u);
    ctl_upstream_say_use(c, "Use", "", u);
    buf_init(&b, text, sizeof text);
    put_connections(&b, u);
    ctl_say_fact(c, "Open", buf_slice(&b));
    ctl_say_member(c, "Address", u, "peer");
    ctl_say_member(c, "TLS", u, "tls");
    ctl_say_member(c, "Login by", u, "mechanism");
    say_pipelining(c, u, now_ms);
    say_pace(c, u, now_ms);
    if (!ctl_upstream_say_rates(c, "Rate", "", u, now_ms)) {
        ctl_say_fact(c, "Rate", SLICE("no limit is set"));
    }
    say_waiting(c, u, now_ms);
    say_work(c, u, now_ms);
}

/* ---- all of them ---- */

static const struct ctl_column columns[] = {
    {"NAME", 0.25, false, 0}, {"STATE", 0, false, 0},     {"SINCE", 0, true, 0},
    {"BY", 0.2, false, 0},    {"OPEN", 0, true, 0},       {"MODE", 0, false, 0},
    {"WAIT", 0, true, 0},     {"GONE", 0, true, 0},       {"LAST", 0, true, 0},
    {"USE", 0.3, false, 120}, {"HOST", 0.35, false, 100},
};

static void time_cell(struct ctl_table *t, uint64_t at_ms, uint64_t now_ms, bool shown)
{
    char text[CTL_SHORT_TEXT_BYTES];
    struct buf b;
    buf_init(&b, text, sizeof text);
    if (shown && at_ms > 0) {
        ctl_put_age(&b, at_ms > now_ms ? at_ms - now_ms : now_ms - at_ms);
    } else {
        buf_put_byte(&b, '-');
    }
    ctl_table_cell(t, buf_slice(&b), CTL_PLAIN);
}

/* "12", or "2/4" where there is a most. */
static void number_cell(struct ctl_table *t, uint64_t number, uint64_t most)
{
    char text[CTL_SHORT_TEXT_BYTES];
    struct buf b;
    buf_init(&b, text, sizeof text);
    buf_put_u64(&b, number);
    if (most > 0) {
        buf_put_byte(&b, '/');
        buf_put_u64(&b, most);
    }
    ctl_table_cell(t, buf_slice(&b), CTL_PLAIN);
}

static struct slice or_dash(struct slice text)
{
    return text.len > 0 ? text : SLICE("-");
}

static void table_line(struct ctl_table *t, const json_t *u, uint64_t now_ms)
{
    bool marked = is_marked(u);
    ctl_table_line(t);
    ctl_table_cell(t, ctl_json_text(u, "name"), CTL_PLAIN);
    ctl_table_cell(t, state_word(u), state_colour(u));
    time_cell(t, ctl_json_u64(u, "marked_ms"), now_ms, marked);
    ctl_table_cell(t, or_dash(ctl_json_text(u, "stand_in")), CTL_PLAIN);
    number_cell(t, ctl_json_u64(u, "connections"), ctl_json_u64(u, "connections_max"));
    ctl_table_cell(t, or_dash(ctl_json_text(json_object_get(u, "pipeline"), "mode")), CTL_PLAIN);
    number_cell(t, ctl_json_u64(u, "queued"), 0);
    time_cell(t, ctl_json_u64(u, "forecast_ms"), now_ms, ctl_json_u64(u, "queued") > 0);
    time_cell(t, ctl_json_u64(u, "last_delivery_ms"), now_ms, true);
    ctl_table_cell(t, ctl_json_text(u, "use"), CTL_PLAIN);
    ctl_table_cell(t, ctl_json_text(u, "host"), CTL_PLAIN);
}

static void print_table(const struct ctl *c, const json_t *upstreams, uint64_t now_ms)
{
    size_t index;
    json_t *u;
    struct ctl_table *t = ctl_table_new(c, columns, sizeof columns / sizeof columns[0], true);
    json_array_foreach(upstreams, index, u)
    {
        table_line(t, u, now_ms);
    }
    ctl_table_end(&t);
    json_array_foreach(upstreams, index, u)
    {
        if (is_marked(u)) {
            putchar('\n');
            ctl_upstream_say_head(c, u);
            ctl_upstream_say_trouble(c, u, now_ms);
        }
    }
}

/* ---- asking ---- */

/* Adds to each upstream how many messages are routed to it: "queued", "held", "failed". */
static bool add_counts(struct ctl *c, json_t *upstreams, struct ctl_problem *problem)
{
    static const char *const words[] = {"queued", "held", "failed"};
    json_t *args = json_pack("{s:s,s:i}", "by", "upstream", "limit", (int)WIRE_QUEUE_LIMIT_MAX);
    json_t *counts = ctl_client_call(c, COMMAND_COUNTS, args, NULL, problem);
    if (counts == NULL) {
        return false;
    }
    size_t index, at;
    json_t *u, *row;
    json_array_foreach(upstreams, index, u)
    {
        for (size_t word = 0; word < sizeof words / sizeof words[0]; word++) {
            uint64_t count = 0;
            json_array_foreach(json_object_get(counts, "rows"), at, row)
            {
                if (slice_equal(ctl_json_text(row, "name"), ctl_json_text(u, "name"))) {
                    count = ctl_json_u64(row, words[word]);
                }
            }
            json_object_set_new(u, words[word], json_integer((json_int_t)count));
        }
    }
    json_decref(counts);
    return true;
}

/* Leaves only the one of that name. False: there is none. */
static bool choose(json_t *upstreams, const char *name, struct ctl_problem *problem)
{
    const char *names[UPSTREAMS_MAX];
    size_t count = 0, index;
    json_t *u, *chosen = NULL;
    json_array_foreach(upstreams, index, u)
    {
        const char *known = json_string_value(json_object_get(u, "name"));
        if (known != NULL && strcmp(known, name) == 0) {
            chosen = u;
        }
        if (known != NULL && count < UPSTREAMS_MAX) {
            names[count++] = known;
        }
    }
    if (chosen != NULL) {
        json_incref(chosen);
        json_array_clear(upstreams);
        json_array_append_new(upstreams, chosen);
        return true;
    }
    const char *nearest = text_nearest(slice_from_str(name), names, count);
    ctl_problem_set(problem, CTL_EXIT_NO_MESSAGE, wire_error_word(WIRE_ERROR_NOT_FOUND),
                    "there is no upstream \"%.100s\"", name);
    if (nearest != NULL) {
        ctl_problem_hint(problem, "did you mean \"%.100s\"?", nearest);
    } else {
        ctl_problem_hint(problem, "tasukictl upstreams");
    }
    return false;
}

static void print_all(const struct ctl *c, const json_t *upstreams, uint64_t now_ms)
{
    struct ctl_todo todo = {0};
    if (c->args.json) {
        size_t index;
        json_t *u;
        json_array_foreach(upstreams, index, u)
        {
            json_t *row = ctl_json_with_schema(u);
            ctl_say_json(row);
            json_decref(row);
        }
        return;
    }
    if (json_array_size(upstreams) == 1) {
        print_one(c, json_array_get(upstreams, 0), now_ms);
    } else {
        print_table(c, upstreams, now_ms);
    }
    ctl_todo_add_upstreams(&todo, upstreams);
    ctl_todo_print(c, &todo);
}

enum ctl_exit ctl_upstreams_run(struct ctl *c)
{
    struct ctl_problem problem;
    const char *name = c->args.word_count > 0 ? c->args.words[0] : NULL;
    json_t *status = ctl_client_call(c, COMMAND_STATUS, json_object(), NULL, &problem);
    json_t *upstreams = json_object_get(status, "upstreams");
    if (status == NULL || (name != NULL && !choose(upstreams, name, &problem)) ||
        !add_counts(c, upstreams, &problem)) {
        json_decref(status);
        return ctl_say_problem(c, &problem);
    }
    enum ctl_exit code = CTL_EXIT_OK;
    size_t index;
    json_t *u;
    json_array_foreach(upstreams, index, u)
    {
        code = is_marked(u) ? CTL_EXIT_NO : code;
    }
    print_all(c, upstreams, ctl_json_u64(status, "now_ms"));
    json_decref(status);
    return code;
}
