/*
 * Lists and single messages, of the queue and of the history: read in short transactions, at most
 * SCAN_ROWS_MAX messages for one answer, so that the loop never stands still for a long list.
 */
#include "daemon/control/control_internal.h"
#include "daemon/flow/clock.h"

#include <stdlib.h>

#define SCHEMA_BYTES_MAX    32
#define RECORDS_BYTES_FIRST 65536
#define COUNT_ROW_BYTES     (VIEW_TEXT_FACTOR * RECORD_DEVICE_BYTES_MAX + 1024)

/* ---- lists ---- */

struct listing {
    struct connection *n;
    struct filter filter;
    bool trashed; /* these too */
    uint64_t now_ms;
    int64_t wall_minus_q;
    uint64_t limit, found, scanned;
    struct msg_id last; /* where the next answer begins, when cut */
    bool cut;           /* the limit, the buffer or the bound of what is looked at is reached */
};

/* What its record does not say. How the upstream is, is told only where that was asked for. */
static void add_upstream(const struct connection *n, struct record_message *m)
{
    const struct config *config = n->c->with.config;
    uint32_t index = config_upstream_find(config, m->state.upstream);
    if (index == UPSTREAMS_MAX) {
        return;
    }
    m->provider = config->upstreams[index].host.provider;
    if (n->inspect != NULL) {
        const struct flow_upstream_status *u = &n->inspect->status.upstreams[index];
        m->upstream_stuck = u->state == FLOW_UPSTREAM_MARKED && u->stand_in == 0;
    }
}

/* True when the next row may be looked at. */
static bool has_place(struct listing *l, const struct msg_id *id)
{
    if (l->found == l->limit || l->scanned == SCAN_ROWS_MAX ||
        buf_room(&l->n->answer) < VIEW_ROW_BYTES_MAX + 1024) {
        l->cut = true;
        l->last = *id;
        return false;
    }
    l->scanned++;
    return true;
}

static void list_one(struct listing *l, struct record_message *m)
{
    if (filter_matches(&l->filter, m, l->now_ms)) {
        add_upstream(l->n, m);
        view_put_row(&l->n->json, m, l->wall_minus_q);
        l->found++;
    }
}

static bool list_row(void *ctx, const struct msg_id *id, struct slice envelope, struct slice state)
{
    struct listing *l = ctx;
    struct record_message m = {.id = *id};
    if (!has_place(l, id)) {
        return false;
    }
    if (record_envelope_get(envelope, &m.envelope) == ERR_OK &&
        record_state_get(state, &m.state) == ERR_OK &&
        (m.state.state != MESSAGE_TRASHED || l->trashed)) {
        m.leased = is_sending(l->n, id);
        list_one(l, &m);
    }
    return true;
}

static bool list_history(void *ctx, const struct msg_id *id, struct slice bytes)
{
    struct listing *l = ctx;
    struct record_message m;
    struct record_history history;
    struct record_trail trail;
    if (!has_place(l, id)) {
        return false;
    }
    if (record_message_of_history(bytes, id, &m, &history, &trail) == ERR_OK) {
        list_one(l, &m);
    }
    return true;
}

/* Filter, limit and cursor of a request. False: the error was answered. */
static bool listing_begin(struct connection *n, struct listing *l, struct msg_id *out_from)
{
    json_t *args = json_object_get(n->asked, "args");
    char problem[200];
    struct msg_id unused;
    json_t *limit = json_object_get(args, "limit");
    const char *cursor = text_arg(args, "cursor");
    *l = (struct listing){.n = n,
                          .now_ms = flow_wall_ms(),
                          .wall_minus_q = n->inspect->status.wall_minus_q,
                          .limit = WIRE_QUEUE_LIMIT_DEFAULT};
    if (!filter_parse(&l->filter, slice_from_str(text_arg(args, "filter")), problem)) {
        answer_error(n, WIRE_ERROR_BAD_FILTER, problem, "tasukictl help queue");
        return false;
    }
    l->trashed = filter_wants_trashed(&l->filter);
    if (json_is_integer(limit) && json_integer_value(limit) >= 1) {
        l->limit = (uint64_t)json_integer_value(limit);
        l->limit = l->limit > WIRE_QUEUE_LIMIT_MAX ? WIRE_QUEUE_LIMIT_MAX : l->limit;
    }
    if (cursor[0] != '\0' && !msg_id_parse_prefix(slice_from_str(cursor), out_from, &unused)) {
        answer_error(n, WIRE_ERROR_BAD_REQUEST, "the cursor is none of ours", "");
        return false;
    }
    if (!result_begin(n, ANSWER_BYTES_MAX)) {
        return false;
    }
    json_open_array(&n->json, "messages");
    return true;
}

static void listing_end(struct listing *l)
{
    struct json *j = &l->n->json;
    json_close_array(j);
    if (l->cut) {
        view_put_id(j, "cursor", &l->last);
    } else {
        json_put_null(j, "cursor");
    }
    json_put_u64(j, "scanned", l->scanned);
    answer_finish(l->n);
}

void answer_queue(struct connection *n)
{
    struct listing l;
    struct msg_id from = {{0}}, next = {{0}};
    if (!listing_begin(n, &l, &from)) {
        return;
    }
    enum err err = ERR_OK;
    while (err == ERR_OK && !l.cut) {
        err = n->c->with.rows(n->c->with.reader->reader, &from, SCAN_ROWS, list_row, &l, &next);
        from = next;
    }
    listing_end(&l);
}

void answer_history(struct connection *n)
{
    struct listing l;
    struct msg_id from, next = {{0}};
    memset(from.bytes, 0xff, sizeof from.bytes);
    if (!listing_begin(n, &l, &from)) {
        return;
    }
    enum err err = ERR_OK;
    while (err == ERR_OK && !l.cut) {
        err = n->c->with.history_rows(n->c->with.reader->reader, &from, SCAN_ROWS, list_history, &l,
                                      &next);
        from = next;
    }
    listing_end(&l);
}

/* ---- one message ---- */

static enum err read_queued(struct connection *n, const struct msg_id *id, struct found *f)
{
    const struct flow_reader *reader = n->c->with.reader;
    size_t needed = RECORDS_BYTES_FIRST;
    enum err err = ERR_LIMIT;
    struct slice envelope, state;
    for (int attempt = 0; err == ERR_LIMIT && attempt < 2; attempt++) {
        free(f->memory);
        f->memory = malloc(needed);
        struct buf to;
        buf_init(&to, f->memory, f->memory == NULL ? 0 : needed);
        err = f->memory == NULL
                  ? ERR_NO_MEMORY
                  : reader->message(reader->reader, id, &to, &envelope, &state, &needed);
    }
    f->message = (struct record_message){.id = *id};
    if (err == ERR_OK) {
        err = record_envelope_get(envelope, &f->message.envelope);
    }
    if (err == ERR_OK) {
        err = record_state_get(state, &f->message.state);
    }
    struct buf trail;
    buf_init(&trail, f->trail_memory, sizeof f->trail_memory);
    if (err == ERR_OK && reader->trail(reader->reader, id, &trail) == ERR_OK &&
        record_trail_get(buf_slice(&trail), &f->trail) == ERR_OK) {
        f->message.trail = &f->trail;
    }
    return err;
}

static enum err read_history(struct connection *n, const struct msg_id *id, struct found *f)
{
    const struct flow_reader *reader = n->c->with.reader;
    size_t needed = RECORDS_BYTES_FIRST;
    enum err err = ERR_LIMIT;
    struct buf to;
    for (int attempt = 0; err == ERR_LIMIT && attempt < 2; attempt++) {
        free(f->memory);
        f->memory = malloc(needed);
        buf_init(&to, f->memory, f->memory == NULL ? 0 : needed);
        err = f->memory == NULL ? ERR_NO_MEMORY : reader->history(reader->reader, id, &to, &needed);
    }
    return err == ERR_OK
               ? record_message_of_history(buf_slice(&to), id, &f->message, &f->history, &f->trail)
               : err;
}

void found_free(struct found *f)
{
    free(f->memory);
    free(f);
}

struct found *found_read(struct connection *n, const struct msg_id *id, enum err *out_err)
{
    struct found *f = calloc(1, sizeof *f);
    enum err err = f == NULL ? ERR_NO_MEMORY : read_queued(n, id, f);
    if (err == ERR_NOT_FOUND) {
        err = read_history(n, id, f); /* there, or it has left just now */
    }
    if (err != ERR_OK && f != NULL) {
        found_free(f);
        f = NULL;
    }
    if (f != NULL) {
        add_upstream(n, &f->message);
    }
    *out_err = err;
    return f;
}

/* The message that the request names. NULL: the error was answered. Free with found_free. */
static struct found *find(struct connection *n)
{
    const char *text = text_arg(json_object_get(n->asked, "args"), "id");
    struct msg_id id;
    enum wire_error code = WIRE_ERROR_NOT_FOUND;
    bool in_history = false;
    const char *why = find_anywhere(n, slice_from_str(text), &id, &in_history, &code);
    if (why != NULL) {
        answer_error(n, code, why, "tasukictl queue; tasukictl history");
        return NULL;
    }
    enum err err;
    struct found *f = found_read(n, &id, &err);
    if (f != NULL) {
        return f;
    }
    if (err == ERR_NO_MEMORY) {
        answer_error(n, WIRE_ERROR_UNAVAILABLE, "out of memory", "try again");
        return NULL;
    }
    bool gone = err == ERR_NOT_FOUND;
    answer_error(n, gone ? WIRE_ERROR_NOT_FOUND : WIRE_ERROR_FAILED,
                 gone ? "it has left the queue meanwhile" : err_text(err),
                 gone ? "" : "tasukid --check-store says what is wrong");
    return NULL;
}

static void put_message(struct connection *n, const struct record_message *m)
{
    uint8_t *memory = malloc(VIEW_MESSAGE_BYTES_MAX + SCHEMA_BYTES_MAX);
    struct buf message;
    struct json j;
    buf_init(&message, memory, memory == NULL ? 0 : VIEW_MESSAGE_BYTES_MAX + SCHEMA_BYTES_MAX);
    /* The view is a whole object: its opening brace becomes the comma behind the schema. */
    buf_printf(&message, "{\"schema\":%d", WIRE_SCHEMA_VERSION);
    size_t brace_at = message.len;
    json_init(&j, &message);
    view_put_message(&j, m, n->inspect->status.wall_minus_q);
    if (!message.overflow) {
        message.data[brace_at] = ',';
    }
    if (message.overflow) {
        answer_error(n, WIRE_ERROR_UNAVAILABLE, "out of memory", "try again");
    } else if (answer_begin(n, message.len + 4096)) {
        json_put_bool(&n->json, "ok", true);
        json_put_raw(&n->json, "result", buf_slice(&message));
        answer_finish(n);
    }
    free(memory);
}

void answer_show(struct connection *n)
{
    struct found *f = find(n);
    if (f == NULL) {
        return;
    }
    f->message.leased = f->message.history == NULL && is_sending(n, &f->message.id);
    put_message(n, &f->message);
    found_free(f);
}

/* The last moves, a line each. */
static void put_facts(struct json *j, const struct record_message *m, uint64_t now_ms)
{
    struct slice rest = m->trail == NULL ? slice_of(NULL, 0) : m->trail->moves;
    struct record_move move;
    json_open_array(j, "facts");
    while (record_move_next(&rest, &move)) {
        uint8_t memory[VIEW_WHY_BYTES];
        struct buf line;
        buf_init(&line, memory, sizeof memory);
        view_put_move_line(&line, m, &move, now_ms);
        json_put_text(j, NULL, buf_slice(&line));
    }
    json_close_array(j);
}

void answer_why(struct connection *n)
{
    struct found *f = find(n);
    if (f == NULL) {
        return;
    }
    struct record_message *m = &f->message;
    m->leased = m->history == NULL && is_sending(n, &m->id);
    struct record_recipient worst = view_worst(m);
    uint64_t now_ms = flow_wall_ms();
    char sentence[VIEW_WHY_BYTES];
    view_why(m, n->inspect->status.wall_minus_q, now_ms, sentence);
    if (result_begin(n, 64 * 1024)) {
        struct json *j = &n->json;
        view_put_id(j, "id", &m->id);
        json_put_str(j, "in", m->history == NULL ? "queue" : "history");
        json_put_str(j, "state", lifecycle_word(view_state(m, worst.state)));
        json_put_str(j, "sentence", sentence);
        put_facts(j, m, now_ms);
        json_put_str(j, "hint", m->history != NULL ? "" : view_words(m, &worst).hint);
        answer_finish(n);
    }
    found_free(f);
}

void answer_transcript(struct connection *n)
{
    struct found *f = find(n);
    if (f == NULL) {
        return;
    }
    if (result_begin(n, VIEW_TEXT_FACTOR * RECORD_DIALOGUE_BYTES_MAX + 16384)) {
        struct json *j = &n->json;
        view_put_id(j, "id", &f->message.id);
        json_open_array(j, "lines");
        struct slice rest =
            f->message.trail == NULL ? slice_of(NULL, 0) : f->message.trail->dialogue;
        while (rest.len > 0) {
            size_t end = slice_find(rest, '\n');
            json_put_text(j, NULL, slice_head(rest, end));
            rest = slice_tail(rest, end + 1);
        }
        json_close_array(j);
        answer_finish(n);
    }
    found_free(f);
}

/* ---- counts ---- */

struct counting {
    struct connection *n;
    enum flow_count_kind kind;
    struct buf last; /* name of the last row put */
    uint64_t found, limit;
};

/* What a reason means, for people. */
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

static bool count_row(void *ctx, struct slice name, const uint64_t counts[MESSAGE_STATE_COUNT])
{
    struct counting *c = ctx;
    struct json *j = &c->n->json;
    if (buf_room(&c->n->answer) < COUNT_ROW_BYTES) {
        return false;
    }
    json_open_object(j, NULL);
    json_put_text(j, "name", name);
    if (c->kind == FLOW_COUNT_REASON) {
        json_put_str(j, "sentence", sentence_of(name));
    }
    for (unsigned state = 0; state < MESSAGE_STATE_COUNT; state++) {
        json_put_u64(j, message_state_word((enum message_state)state), counts[state]);
    }
    json_close_object(j);
    buf_reset(&c->last);
    buf_put(&c->last, slice_head(name, RECORD_DEVICE_BYTES_MAX));
    c->found++;
    return true;
}

static bool count_kind_parse(const char *word, enum flow_count_kind *out)
{
    static const char *const words[] = {[FLOW_COUNT_UPSTREAM] = "upstream",
                                        [FLOW_COUNT_DEVICE] = "device",
                                        [FLOW_COUNT_REASON] = "reason"};
    for (unsigned kind = 0; kind < sizeof words / sizeof words[0]; kind++) {
        if (strcmp(word, words[kind]) == 0) {
            *out = (enum flow_count_kind)kind;
            return true;
        }
    }
    return false;
}

void answer_counts(struct connection *n)
{
    json_t *args = json_object_get(n->asked, "args");
    json_t *limit = json_object_get(args, "limit");
    const char *by = text_arg(args, "by");
    uint8_t last[RECORD_DEVICE_BYTES_MAX];
    struct counting c = {.n = n, .limit = WIRE_QUEUE_LIMIT_DEFAULT};
    buf_init(&c.last, last, sizeof last);
    if (!count_kind_parse(by, &c.kind)) {
        answer_error(n, WIRE_ERROR_BAD_REQUEST, "by is reason, device or upstream", "");
        return;
    }
    if (json_is_integer(limit) && json_integer_value(limit) >= 1) {
        c.limit = (uint64_t)json_integer_value(limit);
        c.limit = c.limit > WIRE_QUEUE_LIMIT_MAX ? WIRE_QUEUE_LIMIT_MAX : c.limit;
    }
    if (!result_begin(n, ANSWER_BYTES_MAX)) {
        return;
    }
    json_put_str(&n->json, "by", by);
    json_open_array(&n->json, "rows");
    enum err err =
        n->c->with.counts(n->c->with.reader->reader, c.kind,
                          slice_from_str(text_arg(args, "after")), c.limit, count_row, &c);
    json_close_array(&n->json);
    if (err == ERR_OK && c.found > 0) {
        json_put_text(&n->json, "after", buf_slice(&c.last));
    } else {
        json_put_null(&n->json, "after");
    }
    answer_finish(n);
}
