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
#define MESSAGE_BYTES_FIRST (64u << 10)
#define MESSAGE_BYTES_MAX   (512u << 20) /* two records of JOB_RECIPIENTS_MAX recipients */

struct ctl_offline {
    struct store *store;
    struct store_reader *reader;
    char *row; /* owned, VIEW_MESSAGE_BYTES_MAX bytes: where a view is written */
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

/* ---- one message ---- */

typedef void view_fn(struct json *j, const struct msg_id *id,
                     const struct record_envelope *envelope, const struct record_state *state,
                     bool sending);

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

static json_t *view(struct ctl_offline *o, view_fn *put, const struct msg_id *id,
                    const struct record_envelope *envelope, const struct record_state *state)
{
    struct buf b;
    struct json j;
    buf_init(&b, o->row, VIEW_MESSAGE_BYTES_MAX);
    json_init(&j, &b);
    put(&j, id, envelope, state, false);
    CHECK(!b.overflow);
    json_t *value = json_loadb(o->row, b.len, JSON_ALLOW_NUL, NULL);
    CHECK(value != NULL);
    return value;
}

/* ---- queue ---- */

struct walk {
    struct ctl_offline *o;
    const struct filter *filter;
    uint64_t now_ms;
    size_t limit;
    json_t *messages; /* borrowed */
    uint64_t scanned;
    bool full;
};

static bool take_row(void *ctx, const struct store_row *row)
{
    struct walk *w = ctx;
    struct record_envelope envelope;
    struct record_state state;
    json_t *value = NULL;
    w->scanned++;
    if (row->envelope.len == 0 || record_envelope_get(row->envelope, &envelope) != ERR_OK ||
        record_state_get(row->state, &state) != ERR_OK) {
        value = w->filter->count == 0 ? damaged_row(&row->id) : NULL;
    } else if (filter_matches(w->filter, &row->id, &envelope, &state, w->now_ms)) {
        value = view(w->o, view_put_row, &row->id, &envelope, &state);
    }
    if (value != NULL) {
        json_array_append_new(w->messages, value);
    }
    w->full = json_array_size(w->messages) >= w->limit;
    return !w->full;
}

static struct msg_id cursor_id(const json_t *cursor)
{
    struct msg_id first = {0}, last;
    if (json_is_string(cursor)) {
        CHECK(msg_id_parse_prefix(slice_from_str(json_string_value(cursor)), &first, &last));
    }
    return first;
}

json_t *ctl_offline_queue(struct ctl_offline *o, const char *filter_text, size_t limit,
                          json_t *cursor, struct ctl_problem *problem)
{
    char message[200];
    struct filter filter;
    if (!filter_parse(&filter, slice_from_str(filter_text), message)) {
        ctl_problem_set(problem, CTL_EXIT_USAGE, wire_error_word(WIRE_ERROR_BAD_FILTER), "%s",
                        message);
        ctl_problem_hint(problem, "tasukictl help queue");
        return NULL;
    }
    json_t *messages = json_array();
    struct walk w = {
        .o = o, .filter = &filter, .now_ms = ctl_now_ms(), .limit = limit, .messages = messages};
    struct msg_id at = cursor_id(cursor);
    enum err err = ERR_OK;
    while (err == ERR_OK && !w.full) {
        err = store_read_rows(o->reader, &at, ROWS_PER_READ, take_row, &w, &at);
    }
    if (err != ERR_OK && err != ERR_NOT_FOUND) {
        json_decref(messages);
        ctl_problem_set(problem, CTL_EXIT_UNREACHABLE, "unreachable",
                        "the queue cannot be read further from disk: %s", err_text(err));
        ctl_problem_hint(problem, "%s", "journalctl -u tasuki -n 50");
        return NULL;
    }
    return json_pack("{s:i,s:o,s:o,s:I}", "schema", WIRE_SCHEMA_VERSION, "messages", messages,
                     "cursor", err == ERR_OK ? id_as_json(&at) : json_null(), "scanned",
                     (json_int_t)w.scanned);
}

/* ---- show ---- */

/* The messages whose id begins so: at most two are looked at. */
struct search {
    struct msg_id last;
    struct msg_id found;
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

static bool find_id(struct ctl_offline *o, const char *prefix, struct msg_id *out_id,
                    struct ctl_problem *problem)
{
    struct msg_id first, next;
    struct search s = {.count = 0};
    if (!msg_id_parse_prefix(slice_from_str(prefix), &first, &s.last)) {
        ctl_problem_set(problem, CTL_EXIT_USAGE, wire_error_word(WIRE_ERROR_BAD_REQUEST),
                        "\"%.64s\" is no id: ids have 1 to 16 digits and letters, without i, l, o "
                        "and u",
                        prefix);
        ctl_problem_hint(problem, "tasukictl queue");
        return false;
    }
    enum err err = store_read_rows(o->reader, &first, 2, take_id, &s, &next);
    if (err != ERR_OK && err != ERR_NOT_FOUND) {
        ctl_problem_set(problem, CTL_EXIT_UNREACHABLE, "unreachable",
                        "the queue cannot be read from disk: %s", err_text(err));
        return false;
    }
    if (s.count == 1) {
        *out_id = s.found;
        return true;
    }
    if (s.count == 0) {
        ctl_problem_set(problem, CTL_EXIT_NO_MESSAGE, wire_error_word(WIRE_ERROR_NOT_FOUND),
                        "no message begins with \"%.64s\"", prefix);
        ctl_problem_hint(problem, "tasukictl queue");
    } else {
        ctl_problem_set(problem, CTL_EXIT_USAGE, wire_error_word(WIRE_ERROR_AMBIGUOUS),
                        "more than one message begins with \"%.64s\"", prefix);
        ctl_problem_hint(problem, "tasukictl queue id:%.64s", prefix);
    }
    return false;
}

/* Both records of a message, in memory that grows once when the first guess was too small. */
static enum err read_message(struct ctl_offline *o, const struct msg_id *id, struct buf *b,
                             struct slice *envelope, struct slice *state)
{
    size_t needed = MESSAGE_BYTES_FIRST;
    enum err err = ERR_LIMIT;
    for (int round = 0; round < 2 && err == ERR_LIMIT && needed <= MESSAGE_BYTES_MAX; round++) {
        uint8_t *memory = realloc(b->data, needed);
        CHECK(memory != NULL);
        buf_init(b, memory, needed);
        err = store_read_message(o->reader, id, b, envelope, state, &needed);
    }
    return err;
}

json_t *ctl_offline_show(struct ctl_offline *o, const char *prefix, struct ctl_problem *problem)
{
    struct msg_id id;
    if (!find_id(o, prefix, &id, problem)) {
        return NULL;
    }
    struct buf b = {0};
    struct slice envelope_bytes, state_bytes;
    struct record_envelope envelope;
    struct record_state state;
    json_t *message = NULL;
    if (read_message(o, &id, &b, &envelope_bytes, &state_bytes) == ERR_OK &&
        record_envelope_get(envelope_bytes, &envelope) == ERR_OK &&
        record_state_get(state_bytes, &state) == ERR_OK) {
        message = view(o, view_put_message, &id, &envelope, &state);
    } else {
        message = damaged_row(&id);
    }
    free(b.data);
    json_t *result = ctl_json_with_schema(message);
    json_decref(message);
    return result;
}

/* ---- counts ---- */

json_t *ctl_offline_counts(struct ctl_offline *o)
{
    struct store_summary s;
    store_summary(o->store, &s);
    return json_pack(
        "{s:I,s:I,s:I,s:I,s:I,s:I}", "queued", (json_int_t)s.count_by_state[MESSAGE_QUEUED], "held",
        (json_int_t)s.count_by_state[MESSAGE_HELD], "failed",
        (json_int_t)s.count_by_state[MESSAGE_FAILED], "body_bytes", (json_int_t)s.body_bytes,
        "used_bytes", (json_int_t)s.pages_used_bytes, "max_bytes", (json_int_t)s.bytes_max);
}
