/*
 * queue and history: pages of rows, from the daemon or from disk, printed as they come. One
 * connection a page: whoever reads our output may take all day, and the daemon shall not wait for
 * that.
 */
#include "ctl/ctl.h"

#include <stdlib.h>

#define FIRST_PAGE_ROWS 100u /* soon on the screen */
#define COUNT_PAGES_MAX 100u

struct pages {
    struct ctl *c;
    bool history;                /* of what has left; else of what waits */
    struct ctl_offline *offline; /* owned; NULL: the daemon answers */
    char *filter;                /* owned */
    json_t *cursor;              /* owned; NULL: from the beginning */
    uint64_t printed;
    bool at_end;
};

static size_t page_rows(const struct pages *p)
{
    uint64_t rows = p->printed == 0 ? FIRST_PAGE_ROWS : WIRE_QUEUE_LIMIT_MAX;
    uint64_t limit = p->c->args.limit;
    if (limit != 0 && limit - p->printed < rows) {
        rows = limit - p->printed;
    }
    return (size_t)rows;
}

static json_t *ask(struct pages *p, struct ctl_problem *problem)
{
    json_t *args = json_pack("{s:s,s:I}", "filter", p->filter, "limit", (json_int_t)page_rows(p));
    if (p->cursor != NULL) {
        json_object_set(args, "cursor", p->cursor);
    }
    json_t *result =
        ctl_client_call(p->c, p->history ? COMMAND_HISTORY : COMMAND_QUEUE, args, NULL, problem);
    ctl_client_close(p->c);
    return result;
}

/* The next page, a new reference, or NULL and a problem. */
static json_t *next_page(struct pages *p, struct ctl_problem *problem)
{
    json_t *result = p->offline == NULL ? ask(p, problem) : NULL;
    if (result == NULL && p->offline == NULL && problem->daemon_down && p->cursor == NULL) {
        struct ctl_problem why = *problem;
        p->offline = ctl_offline_open(p->c, &why, true, problem);
    }
    if (result == NULL && p->offline != NULL) {
        result = (p->history ? ctl_offline_history : ctl_offline_queue)(
            p->offline, p->filter, page_rows(p), p->cursor, problem);
    }
    if (result == NULL) {
        return NULL;
    }
    json_t *cursor = json_object_get(result, "cursor");
    p->at_end = !json_is_string(cursor);
    /* A cursor that does not move would have no end. */
    if (!json_is_array(json_object_get(result, "messages")) ||
        (!p->at_end && p->cursor != NULL && json_equal(cursor, p->cursor))) {
        json_decref(result);
        ctl_problem_set(problem, CTL_EXIT_UNREACHABLE, "not-understood",
                        "the daemon's list of messages cannot be understood");
        ctl_problem_hint(problem, "tasukictl --version; tasukid --version");
        return NULL;
    }
    json_decref(p->cursor);
    p->cursor = p->at_end ? NULL : json_incref(cursor);
    return result;
}

/* ---- printing ---- */

static const struct ctl_column columns[] = {
    {"ID", 0, false, 0},       {"AGE", 0, true, 0},          {"SIZE", 0, true, 100},
    {"STATE", 0, false, 0},    {"FROM", 0.3, false, 0},      {"TO", 0.3, false, 0},
    {"REASON", 0.2, false, 0}, {"SUBJECT", 0.3, false, 130},
};

static const struct ctl_column history_columns[] = {
    {"ID", 0, false, 0},       {"LEFT", 0, true, 0},         {"SIZE", 0, true, 100},
    {"END", 0, false, 0},      {"FROM", 0.3, false, 0},      {"TO", 0.3, false, 0},
    {"REASON", 0.2, false, 0}, {"SUBJECT", 0.3, false, 130},
};

enum ctl_colour ctl_queue_state_colour(struct slice state)
{
    static const struct {
        const char *word;
        enum ctl_colour colour;
    } rows[] = {{"failed", CTL_BAD},     {"held", CTL_WARN},      {"sending", CTL_GOOD},
                {"in-doubt", CTL_WARN},  {"delivered", CTL_GOOD}, {"reported", CTL_BAD},
                {"discarded", CTL_WARN}, {"deleted", CTL_WARN}};
    for (size_t index = 0; index < sizeof rows / sizeof rows[0]; index++) {
        if (slice_equal(state, slice_from_str(rows[index].word))) {
            return rows[index].colour;
        }
    }
    return CTL_PLAIN;
}

static void put_cell_text(struct ctl_table *t, struct slice text)
{
    ctl_table_cell(t, text.len > 0 ? text : SLICE("-"), CTL_PLAIN);
}

/* "queued" and "deferred" say less than when it goes on. */
static void put_state(struct ctl_table *t, const json_t *row, uint64_t now_ms)
{
    struct slice state = ctl_json_text(row, "state");
    char text[CTL_SHORT_TEXT_BYTES];
    struct buf b;
    buf_init(&b, text, sizeof text);
    bool waits = slice_equal(state, SLICE("queued")) || slice_equal(state, SLICE("deferred"));
    if (waits && ctl_json_u64(row, "due_ms") > now_ms) {
        ctl_put_relative(&b, ctl_json_u64(row, "due_ms"), now_ms, true);
        state = buf_slice(&b);
    }
    ctl_table_cell(t, state, ctl_queue_state_colour(ctl_json_text(row, "state")));
}

static void put_recipients(struct ctl_table *t, const json_t *row)
{
    const json_t *first = json_array_get(json_object_get(row, "to"), 0);
    uint64_t count = ctl_json_u64(row, "recipient_count");
    struct slice text = json_is_string(first)
                            ? slice_of(json_string_value(first), json_string_length(first))
                            : SLICE("-");
    size_t cap = text.len + 32;
    char *memory = malloc(cap);
    CHECK(memory != NULL);
    struct buf b;
    buf_init(&b, memory, cap);
    if (count > 1) {
        buf_printf(&b, "(%llu) ", (unsigned long long)count);
    }
    buf_put(&b, text);
    ctl_table_cell(t, buf_slice(&b), CTL_PLAIN);
    free(memory);
}

/* Before its first try a message has no reason of its own; its upstream may have one. */
static void put_reason(struct ctl_table *t, const json_t *row)
{
    char text[UPSTREAM_NAME_BYTES_MAX + 16];
    struct buf b;
    struct slice reason = ctl_json_text(row, "reason");
    bool untried = slice_equal(reason, SLICE("none"));
    if (untried && ctl_json_bool(row, "upstream_stuck") &&
        slice_equal(ctl_json_text(row, "state"), SLICE("queued"))) {
        buf_init(&b, text, sizeof text);
        buf_put_str(&b, "waits for ");
        buf_put(&b, slice_head(ctl_json_text(row, "upstream"), buf_room(&b)));
        reason = buf_slice(&b);
    } else if (untried) {
        reason = SLICE("-");
    }
    put_cell_text(t, reason);
}

static void put_row(struct ctl_table *t, const json_t *row, uint64_t now_ms, bool history)
{
    char text[CTL_SHORT_TEXT_BYTES];
    struct buf b;
    struct slice from = ctl_json_text(row, "from");
    uint64_t since_ms = ctl_json_u64(row, history ? "left_ms" : "arrived_ms");
    ctl_table_line(t);
    put_cell_text(t, ctl_json_text(row, "id"));
    buf_init(&b, text, sizeof text);
    ctl_put_age(&b, since_ms < now_ms ? now_ms - since_ms : 0);
    ctl_table_cell(t, buf_slice(&b), CTL_PLAIN);
    buf_init(&b, text, sizeof text);
    ctl_put_size(&b, ctl_json_u64(row, "bytes"));
    ctl_table_cell(t, buf_slice(&b), CTL_PLAIN);
    if (history) {
        struct slice how = ctl_json_text(row, "end");
        ctl_table_cell(t, how, ctl_queue_state_colour(how));
    } else {
        put_state(t, row, now_ms);
    }
    ctl_table_cell(t, from.len > 0 ? from : SLICE("<>"), CTL_PLAIN);
    put_recipients(t, row);
    put_reason(t, row);
    put_cell_text(t, ctl_json_text(row, "subject"));
}

static void print_page(struct pages *p, json_t *messages)
{
    const struct ctl *c = p->c;
    uint64_t now_ms = ctl_now_ms();
    struct ctl_table *t = NULL;
    if (!c->args.json) {
        t = ctl_table_new(c, p->history ? history_columns : columns,
                          sizeof columns / sizeof columns[0], p->printed == 0);
    }
    size_t index;
    json_t *row;
    json_array_foreach(messages, index, row)
    {
        if (c->args.limit != 0 && p->printed == c->args.limit) {
            break;
        }
        if (t != NULL) {
            put_row(t, row, now_ms, p->history);
        } else {
            json_t *line = ctl_json_with_schema(row);
            ctl_say_json(line);
            json_decref(line);
        }
        p->printed++;
    }
    ctl_table_end(&t);
    (void)fflush(stdout);
}

static void print_end(const struct pages *p)
{
    const struct ctl *c = p->c;
    if (c->args.json) {
        return;
    }
    if (p->printed == 0) {
        puts(p->filter[0] != '\0' ? "No message matches."
             : p->history         ? "The history is empty."
                                  : "The queue is empty.");
    } else if (c->terminal && !p->at_end) {
        printf("There are more; tasukictl %s --limit N shows N.\n",
               p->history ? "history" : "queue");
    }
}

static enum ctl_exit list(struct ctl *c, bool history)
{
    struct ctl_problem problem = {0};
    struct pages p = {.c = c, .history = history, .filter = ctl_args_filter(&c->args, &problem)};
    if (p.filter == NULL) {
        return ctl_say_problem(c, &problem);
    }
    enum ctl_exit code = CTL_EXIT_OK;
    while (code == CTL_EXIT_OK && !p.at_end && (c->args.limit == 0 || p.printed < c->args.limit)) {
        json_t *result = next_page(&p, &problem);
        if (result == NULL) {
            code = ctl_say_problem(c, &problem);
        } else {
            print_page(&p, json_object_get(result, "messages"));
            json_decref(result);
        }
    }
    if (code == CTL_EXIT_OK) {
        print_end(&p);
    }
    ctl_offline_close(&p.offline);
    json_decref(p.cursor);
    free(p.filter);
    return code;
}

enum ctl_exit ctl_history_run(struct ctl *c)
{
    return list(c, true);
}

/* ---- counts ---- */

static void print_counts(const struct ctl *c, const char *by, const json_t *rows)
{
    static const struct ctl_column count_columns[] = {
        {"NAME", 0.4, false, 0}, {"QUEUED", 0, true, 0},  {"HELD", 0, true, 0},
        {"FAILED", 0, true, 0},  {"TRASHED", 0, true, 0}, {"MEANING", 0.5, false, 70},
    };
    static const char *const numbers[] = {"queued", "held", "failed", "trashed"};
    if (json_array_size(rows) == 0) {
        puts("The queue is empty.");
        return;
    }
    struct ctl_table *t = ctl_table_new(c, count_columns, strcmp(by, "reason") == 0 ? 6 : 5, true);
    size_t index;
    json_t *row;
    json_array_foreach(rows, index, row)
    {
        ctl_table_line(t);
        put_cell_text(t, ctl_json_text(row, "name"));
        for (size_t number = 0; number < sizeof numbers / sizeof numbers[0]; number++) {
            char text[CTL_SHORT_TEXT_BYTES];
            struct buf b;
            buf_init(&b, text, sizeof text);
            buf_put_u64(&b, ctl_json_u64(row, numbers[number]));
            ctl_table_cell(t, buf_slice(&b), CTL_PLAIN);
        }
        if (strcmp(by, "reason") == 0) {
            put_cell_text(t, ctl_json_text(row, "sentence"));
        }
    }
    ctl_table_end(&t);
}

/* One answer's rows, by name, beyond `after` (NULL: from the first). */
static json_t *ask_counts_page(struct ctl *c, json_t *after, struct ctl_problem *problem)
{
    json_t *args = json_pack("{s:o,s:i}", "by", ctl_json_words(c->args.by), "limit",
                             (int)WIRE_QUEUE_LIMIT_MAX);
    if (after != NULL) {
        json_object_set(args, "after", after);
    }
    json_t *result = ctl_client_call(c, COMMAND_COUNTS, args, NULL, problem);
    ctl_client_close(c);
    return result;
}

/* Adds the pages that follow. False: one could not be had. What has no end is left at
 * COUNT_PAGES_MAX: then "after" still says behind which name there is more. */
static bool add_count_pages(struct ctl *c, json_t *result, struct ctl_problem *problem)
{
    for (uint32_t page = 1; page < COUNT_PAGES_MAX; page++) {
        json_t *after = json_object_get(result, "after");
        if (!json_is_string(after)) {
            return true;
        }
        json_t *more = ask_counts_page(c, after, problem);
        if (more == NULL) {
            return false;
        }
        json_t *next = json_object_get(more, "after");
        if (json_equal(next, after)) {
            json_decref(more);
            ctl_problem_set(problem, CTL_EXIT_UNREACHABLE, "not-understood",
                            "the daemon's counts cannot be understood");
            ctl_problem_hint(problem, "tasukictl --version; tasukid --version");
            return false;
        }
        json_array_extend(json_object_get(result, "rows"), json_object_get(more, "rows"));
        json_object_set(result, "after", json_is_string(next) ? next : json_null());
        json_decref(more);
    }
    return true;
}

static json_t *ask_counts(struct ctl *c, struct ctl_problem *problem)
{
    json_t *result = ask_counts_page(c, NULL, problem);
    if (result == NULL && problem->daemon_down) {
        struct ctl_problem why = *problem;
        struct ctl_offline *offline = ctl_offline_open(c, &why, true, problem);
        if (offline != NULL) {
            result = ctl_offline_counts_by(offline, c->args.by, problem);
            ctl_offline_close(&offline);
        }
    } else if (result != NULL && !add_count_pages(c, result, problem)) {
        json_decref(result);
        result = NULL;
    }
    return result;
}

/* Whether that was all. */
static void print_counts_end(const char *by, const json_t *result)
{
    if (json_is_string(json_object_get(result, "after"))) {
        printf(
            "These are the first %zu; there are more. Look for one: tasukictl queue %.32s:NAME\n",
            json_array_size(json_object_get(result, "rows")), by);
    }
}

static enum ctl_exit counts(struct ctl *c)
{
    struct ctl_problem problem = {0};
    if (c->args.word_count > 0 || c->args.limit != 0) {
        ctl_problem_set(&problem, CTL_EXIT_USAGE, "usage",
                        "--by counts all messages: it takes neither a filter nor --limit");
        ctl_problem_hint(&problem, "tasukictl queue --by %.32s", c->args.by);
        return ctl_say_problem(c, &problem);
    }
    json_t *result = ask_counts(c, &problem);
    if (result == NULL) {
        return ctl_say_problem(c, &problem);
    }
    if (c->args.json) {
        ctl_say_json(result);
    } else {
        print_counts(c, c->args.by, json_object_get(result, "rows"));
        print_counts_end(c->args.by, result);
    }
    json_decref(result);
    return CTL_EXIT_OK;
}

enum ctl_exit ctl_queue_run(struct ctl *c)
{
    return c->args.by != NULL ? counts(c) : list(c, false);
}
