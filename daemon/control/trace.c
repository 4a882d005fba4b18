/*
 * trace: the lines behind a number, for whoever asks again and again. To ask is to watch: workers
 * write lines only while somebody has asked a moment ago.
 *
 * A line about a message is judged by the filter on the message's record, in the queue or else in
 * the history, as one that goes by the line's upstream; any other line is shown when the filter
 * speaks of upstreams only.
 */
#include "daemon/control/control_internal.h"
#include "daemon/flow/clock.h"

#define LINES_DEFAULT  200u
#define LINES_MAX      500u
#define LINE_BYTES_MAX (6u * TRACE_LINE_BYTES_MAX + 512) /* one, as JSON */
#define ANSWER_BYTES   4096u

struct tracing {
    struct connection *n;
    struct filter filter;
    uint64_t after, limit, lost;
    uint64_t now_ms;
    bool judged; /* what is known of the last message: */
    struct msg_id id;
    uint16_t upstream;
    bool matches;
};

static struct slice upstream_of(const struct tracing *t, const struct trace_line *line)
{
    return slice_from_str(t->n->c->with.config->upstreams[line->upstream].name);
}

static bool message_matches(const struct tracing *t, const struct trace_line *line)
{
    enum err err;
    struct found *f = found_read(t->n, &line->id, &err);
    if (f == NULL) { /* it is not remembered */
        return filter_matches_upstream(&t->filter, upstream_of(t, line));
    }
    struct record_message *m = &f->message;
    m->leased = m->history == NULL && is_sending(t->n, &m->id);
    m->state.upstream = upstream_of(t, line);
    bool matches = filter_matches(&t->filter, m, t->now_ms);
    found_free(f);
    return matches;
}

static bool line_matches(struct tracing *t, const struct trace_line *line)
{
    if (t->filter.count == 0 || !line->about_message) {
        return filter_matches_upstream(&t->filter, upstream_of(t, line));
    }
    if (!t->judged || t->upstream != line->upstream || msg_id_compare(&t->id, &line->id) != 0) {
        t->matches = message_matches(t, line);
        t->id = line->id;
        t->upstream = line->upstream;
        t->judged = true;
    }
    return t->matches;
}

static void put_line(struct tracing *t, const struct trace_line *line)
{
    struct json *j = &t->n->json;
    json_open_object(j, NULL);
    json_put_u64(j, "number", line->number);
    json_put_u64(j, "at_ms", line->at_ms);
    json_put_text(j, "upstream", upstream_of(t, line));
    json_put_u64(j, "connection", line->connection);
    if (line->about_message) {
        view_put_id(j, "id", &line->id);
    } else {
        json_put_null(j, "id");
    }
    json_put_text(j, "line", slice_of(line->text, line->len));
    json_close_object(j);
}

/* Filter, limit and where to begin. False: the error was answered. */
static bool tracing_begin(struct tracing *t)
{
    struct connection *n = t->n;
    json_t *args = json_object_get(n->asked, "args");
    json_t *after = json_object_get(args, "after"), *limit = json_object_get(args, "limit");
    char problem[200];
    uint64_t last = 0;
    if (!filter_parse(&t->filter, slice_from_str(text_arg(args, "filter")), problem)) {
        answer_error(n, WIRE_ERROR_BAD_FILTER, problem, "tasukictl help queue");
        return false;
    }
    if (after != NULL && (!json_is_integer(after) || json_integer_value(after) < 0)) {
        answer_error(n, WIRE_ERROR_BAD_REQUEST, "after is the number of a line", "");
        return false;
    }
    if (json_is_integer(limit) && json_integer_value(limit) >= 1) {
        t->limit = (uint64_t)json_integer_value(limit);
        t->limit = t->limit > LINES_MAX ? LINES_MAX : t->limit;
    }
    if (trace_watch(n->c->with.trace, io_now_ms(n->c->with.io), &last) != ERR_OK) {
        answer_error(n, WIRE_ERROR_UNAVAILABLE, "out of memory", "try again");
        return false;
    }
    t->after = after == NULL ? last : (uint64_t)json_integer_value(after);
    if (t->after > last) { /* the number is from before the last start */
        t->after = 0;
    }
    return result_begin(n, (size_t)t->limit * LINE_BYTES_MAX + ANSWER_BYTES);
}

void answer_trace(struct connection *n)
{
    struct tracing t = {.n = n, .limit = LINES_DEFAULT, .now_ms = flow_wall_ms()};
    struct trace_line line;
    uint64_t lost = 0;
    if (!tracing_begin(&t)) {
        return;
    }
    json_open_array(&n->json, "lines");
    uint64_t shown = 0;
    for (uint32_t seen = 0; shown < t.limit && seen < TRACE_LINES &&
                            trace_next(n->c->with.trace, t.after, &line, &lost);
         seen++) {
        t.after = line.number;
        t.lost += lost;
        if (line_matches(&t, &line)) {
            put_line(&t, &line);
            shown++;
        }
    }
    json_close_array(&n->json);
    json_put_u64(&n->json, "last", t.after);
    json_put_u64(&n->json, "lost", t.lost);
    answer_finish(n);
}
