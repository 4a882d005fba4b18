/*
 * Bulk commands: which messages, then batch after batch to the queue thread, then the tally.
 */
#include "daemon/control/control_internal.h"
#include "daemon/flow/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define SKIPPED_BYTES_MAX 65536
#define IDS_SHOWN_MAX     1000

/* ---- which messages ---- */

struct search {
    struct msg_id last; /* no id after it is of interest */
    struct msg_id found;
    uint32_t count;
};

static bool search_row(void *ctx, const struct msg_id *id, struct slice envelope,
                       struct slice state)
{
    struct search *s = ctx;
    (void)envelope;
    (void)state;
    if (msg_id_compare(id, &s->last) > 0) {
        return false;
    }
    s->found = *id;
    s->count++;
    return s->count < 2;
}

const char *find_one(struct connection *n, struct slice text, struct msg_id *out,
                     enum wire_error *out_code)
{
    struct search s = {.count = 0};
    struct msg_id first, next;
    *out_code = WIRE_ERROR_NOT_FOUND;
    if (!msg_id_parse_prefix(text, &first, &s.last)) {
        return "that is no message id";
    }
    enum err err = n->c->with.rows(n->c->with.reader->reader, &first, 2, search_row, &s, &next);
    if (s.count == 0) {
        return err == ERR_OK || err == ERR_NOT_FOUND ? "no message in the queue begins so"
                                                     : err_text(err);
    }
    if (s.count > 1) {
        *out_code = WIRE_ERROR_AMBIGUOUS;
        return "more than one message begins so; give more of the id";
    }
    *out = s.found;
    return NULL;
}

/* Newest first, so the first of the range is the last that is asked for. */
struct history_search {
    struct msg_id first;
    struct msg_id found;
    uint32_t count;
};

static bool search_history(void *ctx, const struct msg_id *id, struct slice history)
{
    struct history_search *s = ctx;
    (void)history;
    if (msg_id_compare(id, &s->first) < 0) {
        return false;
    }
    s->found = *id;
    s->count++;
    return s->count < 2;
}

const char *find_anywhere(struct connection *n, struct slice text, struct msg_id *out,
                          bool *out_in_history, enum wire_error *out_code)
{
    struct history_search s = {.count = 0};
    struct msg_id last, next;
    const char *why = find_one(n, text, out, out_code);
    *out_in_history = false;
    if (why != NULL && *out_code == WIRE_ERROR_AMBIGUOUS) {
        return why;
    }
    if (!msg_id_parse_prefix(text, &s.first, &last)) {
        return why;
    }
    enum err err =
        n->c->with.history_rows(n->c->with.reader->reader, &last, 2, search_history, &s, &next);
    if (err != ERR_OK && err != ERR_NOT_FOUND) {
        return why;
    }
    if (s.count + (why == NULL) > 1) {
        *out_code = WIRE_ERROR_AMBIGUOUS;
        return "more than one message begins so; give more of the id";
    }
    if (why == NULL) {
        return NULL;
    }
    if (s.count == 0) {
        return *out_code == WIRE_ERROR_NOT_FOUND && text.len > 0
                   ? "no message begins so, in the queue or in the history"
                   : why;
    }
    *out = s.found;
    *out_in_history = true;
    return NULL;
}

static bool edit_add(struct control_edit *e, const struct msg_id *id)
{
    if (e->count == e->cap) {
        size_t cap = e->cap == 0 ? 256 : e->cap * 2;
        struct msg_id *ids = cap > EDIT_IDS_MAX ? NULL : realloc(e->ids, cap * sizeof *ids);
        if (ids == NULL) {
            return false;
        }
        e->ids = ids;
        e->cap = cap;
    }
    e->ids[e->count++] = *id;
    return true;
}

struct gathering {
    struct control_edit *edit;
    struct filter filter;
    bool trashed; /* these too */
    bool others;  /* those that are not */
    uint64_t now_ms;
    bool failed;
};

static bool is_meant(const struct gathering *g, enum message_state state)
{
    return state == MESSAGE_TRASHED ? g->trashed : g->others;
}

static bool gather_row(void *ctx, const struct msg_id *id, struct slice envelope,
                       struct slice state)
{
    struct gathering *g = ctx;
    struct record_message m = {.id = *id};
    if (record_envelope_get(envelope, &m.envelope) == ERR_OK &&
        record_state_get(state, &m.state) == ERR_OK && is_meant(g, m.state.state) &&
        filter_matches(&g->filter, &m, g->now_ms)) {
        g->failed = !edit_add(g->edit, id);
    }
    return !g->failed;
}

/* True when the ids are known; otherwise the error was answered. */
static bool gather_by_filter(struct connection *n, const char *text)
{
    struct gathering g = {.edit = n->edit, .now_ms = flow_wall_ms()};
    char problem[200];
    struct msg_id from = {{0}}, next = {{0}};
    if (!filter_parse(&g.filter, slice_from_str(text), problem)) {
        answer_error(n, WIRE_ERROR_BAD_FILTER, problem, "tasukictl help queue");
        return false;
    }
    g.others = n->edit->flow.action != FLOW_EDIT_UNDELETE;
    g.trashed = !g.others || filter_wants_trashed(&g.filter);
    enum err err = ERR_OK;
    while (err == ERR_OK && !g.failed) {
        err = n->c->with.rows(n->c->with.reader->reader, &from, SCAN_ROWS, gather_row, &g, &next);
        from = next;
    }
    if (g.failed || err != ERR_NOT_FOUND) {
        answer_error(n, WIRE_ERROR_FAILED, g.failed ? "too many messages at once" : err_text(err),
                     "narrow the filter");
        return false;
    }
    return true;
}

static bool gather_by_ids(struct connection *n, json_t *ids)
{
    size_t index;
    json_t *item;
    json_array_foreach(ids, index, item)
    {
        const char *text = json_string_value(item);
        struct msg_id id;
        enum wire_error code = WIRE_ERROR_BAD_REQUEST;
        const char *why =
            text == NULL ? "ids are texts" : find_one(n, slice_from_str(text), &id, &code);
        if (why == NULL && !edit_add(n->edit, &id)) {
            why = "too many messages at once";
        }
        if (why != NULL) {
            char message[200];
            snprintf(message, sizeof message, "%.60s: %s", text == NULL ? "?" : text, why);
            answer_error(n, code, message, "tasukictl queue");
            return false;
        }
    }
    return true;
}

/* ---- batches ---- */

static void finish(struct connection *n)
{
    const struct control_edit *e = n->edit;
    size_t shown = e->count < IDS_SHOWN_MAX ? e->count : IDS_SHOWN_MAX;
    if (!answer_begin(n, 16384 + e->skipped.len + shown * 32)) {
        return;
    }
    struct json *j = &n->json;
    json_put_bool(j, "ok", true);
    json_open_object(j, "result");
    json_put_u64(j, "schema", WIRE_SCHEMA_VERSION);
    json_put_u64(j, "matched", e->count);
    json_put_u64(j, "changed", e->changed);
    json_put_bool(j, "dry_run", e->dry_run);
    json_open_array(j, "skipped");
    if (e->skipped.len > 0) {
        json_put_raw(j, NULL, buf_slice(&e->skipped));
    }
    json_close_array(j);
    json_open_array(j, "ids");
    for (size_t index = 0; index < shown; index++) {
        view_put_id(j, NULL, &e->ids[index]);
    }
    json_close_array(j);
    answer_finish(n);
}

static void send_batch(struct connection *n)
{
    struct control_edit *e = n->edit;
    size_t count = e->count - e->next;
    e->flow.count = (uint32_t)(count < FLOW_EDIT_IDS_MAX ? count : FLOW_EDIT_IDS_MAX);
    memcpy(e->flow.ids, e->ids + e->next, e->flow.count * sizeof e->flow.ids[0]);
    e->flow.msg.kind = FLOW_EDIT;
    e->flow.msg.reply_to = n->c->with.self;
    n->wait = CONTROL_WAIT_EDIT;
    mailbox_send(n->c->with.queue, &e->flow.msg);
}

static const char *why_skipped(enum err err)
{
    if (err == ERR_BUSY) {
        return "being sent just now";
    }
    if (err == ERR_NOT_FOUND) {
        return "it has left the queue";
    }
    return err == ERR_UNSUPPORTED ? "makes no sense in its state" : err_text(err);
}

static void note_skipped(struct control_edit *e, const struct msg_id *id, enum err err)
{
    struct json j;
    size_t before = e->skipped.len;
    if (before > 0) {
        buf_put_byte(&e->skipped, ',');
    }
    json_init(&j, &e->skipped);
    json_open_object(&j, NULL);
    view_put_id(&j, "id", id);
    json_put_str(&j, "why", why_skipped(err));
    json_close_object(&j);
    if (e->skipped.overflow) {
        e->skipped.len = before; /* the list is cut; the counts are not */
        e->skipped.overflow = false;
    }
}

static void log_edited(const struct connection *n)
{
    static const char *const words[] = {
        [FLOW_EDIT_RETRY] = "retry",       [FLOW_EDIT_HOLD] = "hold",
        [FLOW_EDIT_RELEASE] = "release",   [FLOW_EDIT_DELETE] = "delete",
        [FLOW_EDIT_UNDELETE] = "undelete", [FLOW_EDIT_BOUNCE] = "bounce",
    };
    _Static_assert(sizeof words / sizeof words[0] == FLOW_EDIT_ACTION_COUNT, "each has a word");
    struct log_line line;
    event_begin(&line, n->c->with.log, EVENT_EDITED);
    log_put_word(&line, "action", words[n->edit->flow.action]);
    log_put_u64(&line, "count", n->edit->changed);
    log_put_u64(&line, "uid", n->uid);
    log_end(&line);
}

void edit_back(struct connection *n)
{
    struct control_edit *e = n->edit;
    const struct flow_edit *flow = &e->flow;
    if (flow->result != ERR_OK) {
        answer_error(n, WIRE_ERROR_FAILED, err_text(flow->result), "see the log");
        return;
    }
    for (uint32_t index = 0; index < flow->count; index++) {
        if (flow->results[index] == ERR_OK) {
            e->changed++;
        } else {
            note_skipped(e, &flow->ids[index], flow->results[index]);
        }
    }
    e->next += flow->count;
    if (e->next < e->count && !n->c->shutting_down) {
        send_batch(n);
        return;
    }
    log_edited(n);
    finish(n);
}

void edit_run(struct connection *n, enum flow_edit_action action, json_t *args)
{
    json_t *ids = json_object_get(args, "ids");
    const char *filter = json_string_value(json_object_get(args, "filter"));
    bool by_filter = filter != NULL && slice_trim(slice_from_str(filter)).len > 0;
    if (json_is_array(ids) == by_filter) {
        answer_error(n, WIRE_ERROR_BAD_REQUEST, "say which messages: ids, or a filter",
                     "for all of them: state:queued and the like");
        return;
    }
    struct control_edit *e = calloc(1, sizeof *e);
    uint8_t *skipped = malloc(SKIPPED_BYTES_MAX);
    n->edit = e;
    if (e == NULL || skipped == NULL) {
        free(skipped);
        answer_error(n, WIRE_ERROR_UNAVAILABLE, "out of memory", "try again");
        return;
    }
    buf_init(&e->skipped, skipped, SKIPPED_BYTES_MAX);
    e->dry_run = json_is_true(json_object_get(args, "dry_run"));
    e->flow.action = action;
    e->flow.uid = n->uid;
    snprintf(e->flow.reason, sizeof e->flow.reason, "%s", text_arg(args, "reason"));
    if (by_filter ? !gather_by_filter(n, filter) : !gather_by_ids(n, ids)) {
        return;
    }
    if (e->dry_run || e->count == 0) {
        finish(n);
    } else {
        send_batch(n);
    }
}

void edit_free(struct connection *n)
{
    if (n->edit != NULL) {
        free(n->edit->ids);
        free(n->edit->skipped.data);
        free(n->edit);
        n->edit = NULL;
    }
}
