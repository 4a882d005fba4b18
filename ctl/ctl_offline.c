/*
 * The queue from disk while the daemon is down, in the shapes that the daemon answers with, so that
 * what prints them need not know. Read only: nothing here begins a write.
 */
#include "ctl/ctl.h"

#include "daemon/base/num.h"
#include "daemon/config/config.h"
#include "daemon/store/store.h"
#include "schema/filter.h"
#include "schema/view.h"

#include <stdlib.h>

#define READERS_MAX         126
#define QUEUE_BYTES_DEFAULT (UINT64_C(20) << 30) /* queue-max of config.def */
#define ROWS_PER_READ       500u
#define COUNT_ROWS_MAX      100000u
#define MESSAGE_BYTES_FIRST (64u << 10)
#define MESSAGE_BYTES_MAX   (512u << 20) /* two records of JOB_RECIPIENTS_MAX recipients */

struct ctl_offline {
    struct store *store;
    struct store_reader *reader;
    const struct config *config; /* borrowed; NULL: there is none */
    int64_t wall_minus_q; /* what makes wall clock of the queue's clock, as at the last commit */
    char *row;            /* owned, VIEW_MESSAGE_BYTES_MAX bytes: where a view is written */
};

/* The daemon is down, and the disk tells nothing either: one problem, the daemon's. */
static void store_problem(struct ctl_problem *problem, const struct ctl_problem *why, enum err err,
                          const char *directory, const char *words)
{
    ctl_problem_set(problem, why->exit, why->code,
                    "%.400s; nor can the queue be read from disk, in %.200s: %.260s", why->message,
                    directory, words[0] != '\0' ? words : err_text(err));
    if (err == ERR_PERMISSION) {
        ctl_problem_hint(problem, "%.330s; or with sudo", why->hint);
    } else {
        ctl_problem_hint(problem, "%s", why->hint);
    }
}

static void say_where(const struct ctl *c, const struct ctl_problem *why, const char *directory)
{
    char notice[CONFIG_TEXT_BYTES + 100];
    (void)snprintf(notice, sizeof notice,
                   "the daemon does not answer; this is the queue as it stands in %s", directory);
    ctl_say_notice(c, notice, why->hint);
}

struct ctl_offline *ctl_offline_open(struct ctl *c, const struct ctl_problem *why, bool announced,
                                     struct ctl_problem *problem)
{
    struct ctl_problem unusable;
    const struct config *config = ctl_config_get(c, &unusable);
    if (config == NULL && c->args.config_file != NULL) {
        *problem = unusable;
        return NULL;
    }
    struct store_config wanted = {
        .directory = config != NULL ? config->state : CTL_STATE_DIRECTORY,
        .queue_bytes_max = config != NULL ? config->queue_max : QUEUE_BYTES_DEFAULT,
        .readers_max = READERS_MAX,
        .read_only = true,
    };
    struct ctl_offline *o = calloc(1, sizeof *o);
    CHECK(o != NULL);
    o->config = config;
    struct store_report report = {0};
    enum err err = store_open(&o->store, &wanted, &report);
    if (err == ERR_OK) {
        err = store_reader_new(&o->reader, o->store);
    }
    o->row = malloc(VIEW_MESSAGE_BYTES_MAX);
    CHECK(o->row != NULL);
    if (err != ERR_OK) {
        store_problem(problem, why, err, wanted.directory, report.problem);
        ctl_offline_close(&o);
        return NULL;
    }
    struct store_summary summary;
    store_summary(o->store, &summary);
    o->wall_minus_q = (int64_t)summary.clock.wall_ms - (int64_t)summary.clock.q_ms;
    if (announced) {
        say_where(c, why, wanted.directory);
    }
    return o;
}

void ctl_offline_close(struct ctl_offline **o)
{
    if (*o == NULL) {
        return;
    }
    store_reader_free(&(*o)->reader);
    store_close(&(*o)->store);
    free((*o)->row);
    free(*o);
    *o = NULL;
}

/* ---- a message as JSON ---- */

typedef void view_fn(struct json *j, const struct record_message *message, int64_t wall_minus_q);

static json_t *id_as_json(const struct msg_id *id)
{
    char text[MSG_ID_TEXT_BYTES];
    struct buf b;
    buf_init(&b, text, sizeof text);
    msg_id_put_text(&b, id);
    return ctl_json_bytes(buf_slice(&b));
}

/* What is known of a message whose records cannot be read. */
static json_t *damaged_row(const struct msg_id *id)
{
    const struct outcome_row *row = outcome_row(OUTCOME_DAMAGED);
    return json_pack("{s:o,s:s,s:s,s:s,s:s}", "id", id_as_json(id), "state", "failed", "reason",
                     row->word, "sentence", row->sentence, "hint", row->hint);
}

static void set_provider(const struct ctl_offline *o, struct record_message *m)
{
    m->provider =
        o->config == NULL ? PLAYBOOK_NONE : config_provider_of(o->config, m->state.upstream);
}

static json_t *view(struct ctl_offline *o, view_fn *put, struct record_message *message)
{
    set_provider(o, message);
    struct buf b;
    struct json j;
    buf_init(&b, o->row, VIEW_MESSAGE_BYTES_MAX);
    json_init(&j, &b);
    put(&j, message, o->wall_minus_q);
    CHECK(!b.overflow);
    json_t *value = json_loadb(o->row, b.len, JSON_ALLOW_NUL, NULL);
    CHECK(value != NULL);
    return value;
}

/* ---- lists ---- */

struct walk {
    struct ctl_offline *o;
    const struct filter *filter;
    bool trashed; /* these too */
    uint64_t now_ms;
    size_t limit;
    json_t *messages; /* borrowed */
    uint64_t scanned;
    bool full;
};

static bool keep_row(struct walk *w, json_t *value)
{
    if (value != NULL) {
        json_array_append_new(w->messages, value);
    }
    w->full = json_array_size(w->messages) >= w->limit;
    return !w->full;
}

static bool take_row(void *ctx, const struct store_row *row)
{
    struct walk *w = ctx;
    struct record_message m = {.id = row->id};
    json_t *value = NULL;
    w->scanned++;
    if (row->envelope.len == 0 || record_envelope_get(row->envelope, &m.envelope) != ERR_OK ||
        record_state_get(row->state, &m.state) != ERR_OK) {
        value = w->filter->count == 0 ? damaged_row(&row->id) : NULL;
    } else if ((m.state.state != MESSAGE_TRASHED || w->trashed) &&
               filter_matches(w->filter, &m, w->now_ms)) {
        value = view(w->o, view_put_row, &m);
    }
    return keep_row(w, value);
}

static bool take_history(void *ctx, const struct msg_id *id, struct slice bytes)
{
    struct walk *w = ctx;
    struct record_message m;
    struct record_history history;
    struct record_trail trail;
    json_t *value = NULL;
    w->scanned++;
    if (record_message_of_history(bytes, id, &m, &history, &trail) == ERR_OK &&
        filter_matches(w->filter, &m, w->now_ms)) {
        value = view(w->o, view_put_row, &m);
    }
    return keep_row(w, value);
}

static struct msg_id cursor_id(const json_t *cursor, uint8_t without)
{
    struct msg_id first, last;
    memset(first.bytes, without, sizeof first.bytes);
    if (json_is_string(cursor)) {
        CHECK(msg_id_parse_prefix(slice_from_str(json_string_value(cursor)), &first, &last));
    }
    return first;
}

static bool parse_filter(const char *text, struct filter *out, struct ctl_problem *problem)
{
    char message[200];
    if (filter_parse(out, slice_from_str(text), message)) {
        return true;
    }
    ctl_problem_set(problem, CTL_EXIT_USAGE, wire_error_word(WIRE_ERROR_BAD_FILTER), "%s", message);
    ctl_problem_hint(problem, "tasukictl help queue");
    return false;
}

/* The answer of a list, or NULL and a problem when reading has failed. */
static json_t *list_result(struct walk *w, enum err err, const struct msg_id *at,
                           struct ctl_problem *problem)
{
    if (err != ERR_OK && err != ERR_NOT_FOUND) {
        json_decref(w->messages);
        ctl_problem_set(problem, CTL_EXIT_UNREACHABLE, "unreachable",
                        "the queue cannot be read further from disk: %s", err_text(err));
        ctl_problem_hint(problem, "%s", "tasukid --check-store");
        return NULL;
    }
    return json_pack("{s:i,s:o,s:o,s:I}", "schema", WIRE_SCHEMA_VERSION, "messages", w->messages,
                     "cursor", err == ERR_OK ? id_as_json(at) : json_null(), "scanned",
                     (json_int_t)w->scanned);
}

json_t *ctl_offline_queue(struct ctl_offline *o, const char *filter_text, size_t limit,
                          json_t *cursor, struct ctl_problem *problem)
{
    struct filter filter;
    if (!parse_filter(filter_text, &filter, problem)) {
        return NULL;
    }
    struct walk w = {.o = o,
                     .filter = &filter,
                     .trashed = filter_wants_trashed(&filter),
                     .now_ms = ctl_now_ms(),
                     .limit = limit,
                     .messages = json_array()};
    struct msg_id at = cursor_id(cursor, 0);
    enum err err = ERR_OK;
    while (err == ERR_OK && !w.full) {
        err = store_read_rows(o->reader, &at, ROWS_PER_READ, take_row, &w, &at);
    }
    return list_result(&w, err, &at, problem);
}

json_t *ctl_offline_history(struct ctl_offline *o, const char *filter_text, size_t limit,
                            json_t *cursor, struct ctl_problem *problem)
{
    struct filter filter;
    if (!parse_filter(filter_text, &filter, problem)) {
        return NULL;
    }
    struct walk w = {.o = o,
                     .filter = &filter,
                     .now_ms = ctl_now_ms(),
                     .limit = limit,
                     .messages = json_array()};
    struct msg_id at = cursor_id(cursor, 0xff);
    enum err err = ERR_OK;
    while (err == ERR_OK && !w.full) {
        err = store_read_history_rows(o->reader, &at, ROWS_PER_READ, take_history, &w, &at);
    }
    return list_result(&w, err, &at, problem);
}

/* ---- one message ---- */

/* The messages whose id begins so, waiting or gone: at most two are looked at. */
struct search {
    struct msg_id first, last;
    struct msg_id found;
    bool in_history;
    size_t count;
};

static bool take_id(void *ctx, const struct store_row *row)
{
    struct search *s = ctx;
    if (msg_id_compare(&row->id, &s->last) > 0) {
        return false;
    }
    s->found = row->id;
    s->count++;
    return s->count < 2;
}

static bool take_past_id(void *ctx, const struct msg_id *id, struct slice history)
{
    struct search *s = ctx;
    (void)history;
    if (msg_id_compare(id, &s->first) < 0) {
        return false;
    }
    s->in_history = s->count == 0;
    s->found = *id;
    s->count++;
    return s->count < 2;
}

static bool say_not_found(const struct search *s, const char *prefix, struct ctl_problem *problem)
{
    if (s->count == 0) {
        ctl_problem_set(problem, CTL_EXIT_NO_MESSAGE, wire_error_word(WIRE_ERROR_NOT_FOUND),
                        "no message begins with \"%.64s\", in the queue or in the history", prefix);
        ctl_problem_hint(problem, "tasukictl queue; tasukictl history");
    } else {
        ctl_problem_set(problem, CTL_EXIT_USAGE, wire_error_word(WIRE_ERROR_AMBIGUOUS),
                        "more than one message begins with \"%.64s\"", prefix);
        ctl_problem_hint(problem, "tasukictl queue id:%.64s", prefix);
    }
    return false;
}

static bool find_id(struct ctl_offline *o, const char *prefix, struct search *s,
                    struct ctl_problem *problem)
{
    struct msg_id next;
    if (!msg_id_parse_prefix(slice_from_str(prefix), &s->first, &s->last)) {
        ctl_problem_set(problem, CTL_EXIT_USAGE, wire_error_word(WIRE_ERROR_BAD_REQUEST),
                        "\"%.64s\" is no id: ids have 1 to 16 digits and letters, without i, l, o "
                        "and u",
                        prefix);
        ctl_problem_hint(problem, "tasukictl queue");
        return false;
    }
    enum err err = store_read_rows(o->reader, &s->first, 2, take_id, s, &next);
    if ((err == ERR_OK || err == ERR_NOT_FOUND) && s->count < 2) {
        err = store_read_history_rows(o->reader, &s->last, 2, take_past_id, s, &next);
    }
    if (err != ERR_OK && err != ERR_NOT_FOUND) {
        ctl_problem_set(problem, CTL_EXIT_UNREACHABLE, "unreachable",
                        "the queue cannot be read from disk: %s", err_text(err));
        return false;
    }
    return s->count == 1 ? true : say_not_found(s, prefix, problem);
}

/* A message with all its records, in memory that grows once when the first guess was too small. */
struct whole {
    struct record_message message;
    struct record_history history;
    struct record_trail trail;
    struct buf records; /* owned memory */
    uint8_t trail_memory[RECORD_TRAIL_BYTES_MAX];
};

static enum err read_records(struct ctl_offline *o, const struct search *s, struct whole *w,
                             struct slice *envelope, struct slice *state)
{
    size_t needed = MESSAGE_BYTES_FIRST;
    enum err err = ERR_LIMIT;
    for (int round = 0; round < 2 && err == ERR_LIMIT && needed <= MESSAGE_BYTES_MAX; round++) {
        uint8_t *memory = realloc(w->records.data, needed);
        CHECK(memory != NULL);
        buf_init(&w->records, memory, needed);
        err = s->in_history
                  ? store_read_history(o->reader, &s->found, &w->records, &needed)
                  : store_read_message(o->reader, &s->found, &w->records, envelope, state, &needed);
    }
    return err;
}

static bool read_whole(struct ctl_offline *o, const struct search *s, struct whole *w)
{
    struct slice envelope, state;
    struct buf trail;
    w->message = (struct record_message){.id = s->found};
    if (read_records(o, s, w, &envelope, &state) != ERR_OK) {
        return false;
    }
    if (s->in_history) {
        return record_message_of_history(buf_slice(&w->records), &s->found, &w->message,
                                         &w->history, &w->trail) == ERR_OK;
    }
    buf_init(&trail, w->trail_memory, sizeof w->trail_memory);
    if (store_read_trail(o->reader, &s->found, &trail) == ERR_OK &&
        record_trail_get(buf_slice(&trail), &w->trail) == ERR_OK) {
        w->message.trail = &w->trail;
    }
    return record_envelope_get(envelope, &w->message.envelope) == ERR_OK &&
           record_state_get(state, &w->message.state) == ERR_OK;
}

static json_t *why_result(const struct ctl_offline *o, struct record_message *m)
{
    set_provider(o, m);
    char sentence[VIEW_WHY_BYTES];
    uint64_t now_ms = ctl_now_ms();
    struct record_recipient worst = view_worst(m);
    json_t *facts = json_array();
    struct slice rest = m->trail == NULL ? slice_of(NULL, 0) : m->trail->moves;
    struct record_move move;
    view_why(m, o->wall_minus_q, now_ms, sentence);
    while (record_move_next(&rest, &move)) {
        char text[VIEW_WHY_BYTES];
        struct buf line;
        buf_init(&line, text, sizeof text);
        view_put_move_line(&line, m, &move, now_ms);
        json_array_append_new(facts, ctl_json_bytes(buf_slice(&line)));
    }
    return json_pack("{s:o,s:s,s:s,s:o,s:o,s:s}", "id", id_as_json(&m->id), "in",
                     m->history == NULL ? "queue" : "history", "state",
                     lifecycle_word(view_state(m, worst.state)), "sentence",
                     ctl_json_words(sentence), "facts", facts, "hint",
                     m->history != NULL ? "" : view_words(m, &worst).hint);
}

static json_t *transcript_result(const struct record_message *m)
{
    json_t *lines = json_array();
    struct slice rest = m->trail == NULL ? slice_of(NULL, 0) : m->trail->dialogue;
    while (rest.len > 0) {
        size_t end = slice_find(rest, '\n');
        json_array_append_new(lines, ctl_json_bytes(slice_head(rest, end)));
        rest = slice_tail(rest, end + 1);
    }
    return json_pack("{s:o,s:o}", "id", id_as_json(&m->id), "lines", lines);
}

json_t *ctl_offline_message(struct ctl_offline *o, enum command command, const char *prefix,
                            struct ctl_problem *problem)
{
    struct search s = {.count = 0};
    if (!find_id(o, prefix, &s, problem)) {
        return NULL;
    }
    struct whole *w = calloc(1, sizeof *w);
    CHECK(w != NULL);
    json_t *value = NULL;
    if (!read_whole(o, &s, w)) {
        value = damaged_row(&s.found);
    } else if (command == COMMAND_WHY) {
        value = why_result(o, &w->message);
    } else if (command == COMMAND_TRANSCRIPT) {
        value = transcript_result(&w->message);
    } else {
        value = view(o, view_put_message, &w->message);
    }
    free(w->records.data);
    free(w);
    json_t *result = ctl_json_with_schema(value);
    json_decref(value);
    return result;
}

/* ---- counts ---- */

json_t *ctl_offline_counts(struct ctl_offline *o)
{
    struct store_summary s;
    store_summary(o->store, &s);
    return json_pack(
        "{s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "queued", (json_int_t)s.count_by_state[MESSAGE_QUEUED],
        "held", (json_int_t)s.count_by_state[MESSAGE_HELD], "failed",
        (json_int_t)s.count_by_state[MESSAGE_FAILED], "trashed",
        (json_int_t)s.count_by_state[MESSAGE_TRASHED], "body_bytes", (json_int_t)s.body_bytes,
        "used_bytes", (json_int_t)s.pages_used_bytes, "max_bytes", (json_int_t)s.bytes_max);
}

static const char *sentence_of(struct slice word)
{
    for (unsigned outcome = 0; outcome < OUTCOME_COUNT; outcome++) {
        const struct outcome_row *row = outcome_row((enum outcome)outcome);
        if (slice_equal(word, slice_from_str(row->word))) {
            return row->sentence;
        }
    }
    return "";
}

static bool take_count(void *ctx, struct slice name, const uint64_t counts[MESSAGE_STATE_COUNT])
{
    json_t *row =
        json_pack("{s:o,s:s}", "name", ctl_json_bytes(name), "sentence", sentence_of(name));
    for (unsigned state = 0; state < MESSAGE_STATE_COUNT; state++) {
        json_object_set_new(row, message_state_word((enum message_state)state),
                            json_integer((json_int_t)counts[state]));
    }
    json_array_append_new(ctx, row);
    return true;
}

json_t *ctl_offline_counts_by(struct ctl_offline *o, const char *by, struct ctl_problem *problem)
{
    static const char *const words[] = {[STORE_COUNT_UPSTREAM] = "upstream",
                                        [STORE_COUNT_DEVICE] = "device",
                                        [STORE_COUNT_REASON] = "reason"};
    unsigned kind = 0;
    while (kind < 3 && strcmp(words[kind], by) != 0) {
        kind++;
    }
    if (kind == 3) {
        ctl_problem_set(problem, CTL_EXIT_USAGE, wire_error_word(WIRE_ERROR_BAD_REQUEST),
                        "--by takes reason, device or upstream, not \"%.64s\"", by);
        ctl_problem_hint(problem, "%s", "tasukictl queue --by reason");
        return NULL;
    }
    json_t *rows = json_array();
    enum err err = store_read_counts(o->reader, (enum store_count_kind)kind, slice_of(NULL, 0),
                                     COUNT_ROWS_MAX, take_count, rows);
    if (err != ERR_OK && err != ERR_NOT_FOUND) {
        json_decref(rows);
        ctl_problem_set(problem, CTL_EXIT_UNREACHABLE, "unreachable",
                        "the queue cannot be read from disk: %s", err_text(err));
        return NULL;
    }
    json_t *last = json_array_get(rows, json_array_size(rows) - 1);
    json_t *after = err == ERR_OK ? json_object_get(last, "name") : NULL; /* there are more */
    return json_pack("{s:i,s:s,s:o,s:O?}", "schema", WIRE_SCHEMA_VERSION, "by", by, "rows", rows,
                     "after", after);
}
