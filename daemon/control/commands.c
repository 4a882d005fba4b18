/*
 * The commands: one row each, from the arguments to the answer.
 */
#include "daemon/control/control_internal.h"
#include "daemon/flow/clock.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

const char *text_arg(json_t *args, const char *name)
{
    const char *text = json_string_value(json_object_get(args, name));
    return text == NULL ? "" : text;
}

bool result_begin(struct connection *n, size_t bytes)
{
    if (!answer_begin(n, bytes)) {
        return false;
    }
    json_put_bool(&n->json, "ok", true);
    json_open_object(&n->json, "result");
    json_put_u64(&n->json, "schema", WIRE_SCHEMA_VERSION);
    return true;
}

/* ---- what needs the queue thread's view first ---- */

static void inspect_then(struct connection *n, enum control_wait wait)
{
    n->inspect = calloc(1, sizeof *n->inspect);
    if (n->inspect == NULL) {
        answer_error(n, WIRE_ERROR_UNAVAILABLE, "out of memory", "try again");
        return;
    }
    n->wait = wait;
    n->inspect->msg.kind = FLOW_INSPECT;
    n->inspect->msg.reply_to = n->c->with.self;
    mailbox_send(n->c->with.queue, &n->inspect->msg);
}

bool is_sending(const struct connection *n, const struct msg_id *id)
{
    const struct flow_status *status = &n->inspect->status;
    for (uint32_t index = 0; index < status->sending_id_count; index++) {
        if (msg_id_compare(&status->sending_ids[index], id) == 0) {
            return true;
        }
    }
    return false;
}

static void answer_status(struct connection *n)
{
    if (result_begin(n, 256 * 1024)) {
        status_put(n, &n->inspect->status);
        answer_finish(n);
    }
}

/* ---- test ---- */

static bool plain_address(const char *text)
{
    size_t len = strlen(text);
    if (len == 0 || len > SMTP_PATH_BYTES_MAX || strchr(text, '@') == NULL) {
        return false;
    }
    for (size_t index = 0; index < len; index++) {
        uint8_t c = (uint8_t)text[index];
        if (c <= ' ' || c >= 0x7f || c == '<' || c == '>') {
            return false;
        }
    }
    return true;
}

static void run_test(struct connection *n, json_t *args)
{
    const struct config *config = n->c->with.config;
    const char *to = text_arg(args, "to"), *from = text_arg(args, "from");
    struct slice name = slice_from_str(text_arg(args, "upstream"));
    uint32_t upstream = name.len == 0 ? 0 : config_upstream_find(config, name);
    if (upstream == UPSTREAMS_MAX) {
        answer_error(n, WIRE_ERROR_NOT_FOUND, "no upstream has that name", "tasukictl status");
        return;
    }
    if ((to[0] != '\0' && !plain_address(to)) || (from[0] != '\0' && !plain_address(from))) {
        answer_error(n, WIRE_ERROR_BAD_REQUEST, "to and from are addresses like anna@example.jp",
                     "");
        return;
    }
    n->probe = calloc(1, sizeof *n->probe);
    if (n->probe == NULL) {
        answer_error(n, WIRE_ERROR_UNAVAILABLE, "out of memory", "try again");
        return;
    }
    const char *user = config->upstreams[upstream].user;
    n->probe->upstream = (uint16_t)upstream;
    n->try.upstreams = 0;
    snprintf(n->probe->to, sizeof n->probe->to, "%s", to);
    if (from[0] != '\0') {
        snprintf(n->probe->from, sizeof n->probe->from, "%s", from);
    } else if (plain_address(user)) {
        snprintf(n->probe->from, sizeof n->probe->from, "%.256s", user);
    } else {
        snprintf(n->probe->from, sizeof n->probe->from, "postmaster@%.240s", config->domain);
    }
    n->wait = CONTROL_WAIT_PROBE;
    n->probe->msg.kind = FLOW_PROBE;
    n->probe->msg.reply_to = n->c->with.self;
    mailbox_send(n->c->with.worker, &n->probe->msg);
}

static void answer_test(struct connection *n)
{
    const struct flow_probe *p = n->probe;
    const struct config_upstream *u = &n->c->with.config->upstreams[p->upstream];
    struct playbook_words words =
        playbook_words(u->host.provider, p->outcome, p->code, slice_from_str(p->text));
    char host[SMTP_DOMAIN_BYTES_MAX + 20];
    if (!result_begin(n, sizeof p->transcript_memory * 7 + 16384)) {
        return;
    }
    snprintf(host, sizeof host, u->host.use_mx ? "%s:%u" : "[%s]:%u", u->host.name, u->host.port);
    bool ok = p->done;
    struct json *j = &n->json;
    json_put_bool(j, "ok", ok);
    json_put_str(j, "upstream", u->name);
    json_put_str(j, "host", host);
    json_put_str(j, "peer", p->peer);
    json_put_str(j, "tls", p->tls);
    json_put_str(j, "mechanism", p->mechanism);
    json_put_str(j, "step", p->step);
    json_put_str(j, "to", p->to);
    json_put_str(j, "from", p->from);
    json_put_str(j, "reason", ok ? "" : outcome_row(p->outcome)->word);
    json_put_str(j, "sentence", ok ? "" : words.sentence);
    json_put_str(j, "hint", ok ? "" : words.hint);
    json_put_u64(j, "code", p->code);
    json_put_str(j, "text", p->text);
    json_open_array(j, "transcript");
    struct slice rest = buf_slice(&p->transcript);
    while (rest.len > 0) {
        size_t end = slice_find(rest, '\n');
        json_put_text(j, NULL, slice_head(rest, end));
        rest = slice_tail(rest, end + 1);
    }
    json_close_array(j);
    json_put_u64(j, "took_ms", io_now_ms(n->c->with.io) - n->asked_ms);
    json_put_bool(j, "was_marked", n->try.upstreams != 0);
    answer_finish(n);
}

/* It works: whoever mended it does not wait for the next probe. */
static void probe_back(struct connection *n)
{
    if (!n->probe->done) {
        answer_test(n);
        return;
    }
    n->wait = CONTROL_WAIT_TRY;
    n->try.msg.kind = FLOW_TRY;
    n->try.msg.reply_to = n->c->with.self;
    n->try.upstreams = 1u << n->probe->upstream;
    mailbox_send(n->c->with.queue, &n->try.msg);
}

/* ---- what needs nobody ---- */

static void answer_text(struct connection *n, const char *file, struct slice text)
{
    if (result_begin(n, text.len * 6 + 4096)) {
        if (file != NULL) {
            json_put_str(&n->json, "file", file);
        }
        json_put_text(&n->json, "text", text);
        answer_finish(n);
    }
}

static void run_metrics(struct connection *n)
{
    uint8_t memory[32768];
    struct buf text;
    buf_init(&text, memory, sizeof memory);
    metrics_put(&text, n->c->with.metrics, n->c->with.metrics_count);
    answer_text(n, NULL, buf_slice(&text));
}

static void run_config_show(struct connection *n)
{
    static uint8_t memory[256 * 1024]; /* the control thread's alone */
    struct buf text;
    buf_init(&text, memory, sizeof memory);
    config_put(&text, n->c->with.config);
    answer_text(n, n->c->with.config->file, buf_slice(&text));
}

/* ---- compact ---- */

static void run_compact(struct connection *n)
{
    n->compact = calloc(1, sizeof *n->compact);
    if (n->compact == NULL) {
        answer_error(n, WIRE_ERROR_UNAVAILABLE, "out of memory", "try again");
        return;
    }
    n->wait = CONTROL_WAIT_COMPACT;
    n->compact->msg.kind = FLOW_COMPACT;
    n->compact->msg.reply_to = n->c->with.self;
    mailbox_send(n->c->with.queue, &n->compact->msg);
}

static void answer_compact(struct connection *n)
{
    const struct flow_compact *compact = n->compact;
    if (compact->result == ERR_BUSY) {
        answer_error(n, WIRE_ERROR_BUSY, "another program is reading the queue's file",
                     "wait until the backup or the tasukictl that reads it has ended");
        return;
    }
    if (compact->result != ERR_OK) {
        answer_error(n, WIRE_ERROR_FAILED, err_text(compact->result),
                     "the queue is as it was; see df, and the log");
        return;
    }
    struct log_line line;
    event_begin(&line, n->c->with.log, EVENT_COMPACTED);
    log_put_u64(&line, "before", compact->bytes_before);
    log_put_u64(&line, "after", compact->bytes_after);
    log_put_u64(&line, "uid", n->uid);
    log_end(&line);
    if (result_begin(n, 4096)) {
        json_put_u64(&n->json, "before_bytes", compact->bytes_before);
        json_put_u64(&n->json, "after_bytes", compact->bytes_after);
        answer_finish(n);
    }
}

void command_run(struct connection *n, enum command command, json_t *args)
{
    switch (command) {
    case COMMAND_STATUS:
        inspect_then(n, CONTROL_WAIT_STATUS);
        return;
    case COMMAND_QUEUE:
        inspect_then(n, CONTROL_WAIT_QUEUE);
        return;
    case COMMAND_SHOW:
        inspect_then(n, CONTROL_WAIT_SHOW);
        return;
    case COMMAND_WHY:
        inspect_then(n, CONTROL_WAIT_WHY);
        return;
    case COMMAND_HISTORY:
        inspect_then(n, CONTROL_WAIT_HISTORY);
        return;
    case COMMAND_TRANSCRIPT:
        answer_transcript(n);
        return;
    case COMMAND_COUNTS:
        answer_counts(n);
        return;
    case COMMAND_TRACE:
        if (text_arg(args, "filter")[0] == '\0') {
            answer_trace(n);
        } else {
            inspect_then(n, CONTROL_WAIT_TRACE);
        }
        return;
    case COMMAND_METRICS:
        run_metrics(n);
        return;
    case COMMAND_RETRY:
        edit_run(n, FLOW_EDIT_RETRY, args);
        return;
    case COMMAND_HOLD:
        edit_run(n, FLOW_EDIT_HOLD, args);
        return;
    case COMMAND_RELEASE:
        edit_run(n, FLOW_EDIT_RELEASE, args);
        return;
    case COMMAND_DELETE:
        edit_run(n, FLOW_EDIT_DELETE, args);
        return;
    case COMMAND_UNDELETE:
        edit_run(n, FLOW_EDIT_UNDELETE, args);
        return;
    case COMMAND_BOUNCE:
        edit_run(n, FLOW_EDIT_BOUNCE, args);
        return;
    case COMMAND_COMPACT:
        run_compact(n);
        return;
    case COMMAND_TEST:
        run_test(n, args);
        return;
    case COMMAND_CONFIG_SHOW:
        run_config_show(n);
        return;
    case COMMAND_COUNT:
    default:
        UNREACHABLE("a command without a row");
    }
}

void command_back(struct connection *n, struct flow_msg *msg)
{
    (void)msg;
    switch (n->wait) {
    case CONTROL_WAIT_STATUS:
        answer_status(n);
        return;
    case CONTROL_WAIT_QUEUE:
        answer_queue(n);
        return;
    case CONTROL_WAIT_SHOW:
        answer_show(n);
        return;
    case CONTROL_WAIT_WHY:
        answer_why(n);
        return;
    case CONTROL_WAIT_HISTORY:
        answer_history(n);
        return;
    case CONTROL_WAIT_TRACE:
        answer_trace(n);
        return;
    case CONTROL_WAIT_EDIT:
        edit_back(n);
        return;
    case CONTROL_WAIT_COMPACT:
        answer_compact(n);
        return;
    case CONTROL_WAIT_PROBE:
        probe_back(n);
        return;
    case CONTROL_WAIT_TRY:
        answer_test(n);
        return;
    case CONTROL_WAIT_NOTHING:
    default:
        UNREACHABLE("an answer that nobody waits for");
    }
}

void command_free(struct connection *n)
{
    free(n->inspect);
    n->inspect = NULL;
    free(n->probe);
    n->probe = NULL;
    free(n->compact);
    n->compact = NULL;
    edit_free(n);
}
