/*
 * One connection to an upstream, from the look-up of its name to its end.
 *
 * Invariants: whatever is away (look-up, login) comes back before the session is freed; every job
 * is given back before DOWN is told; nothing is sent in the clear that the configuration wants
 * inside TLS (the machine sees to STARTTLS, SECURING to the rest).
 */
#include "daemon/base/num.h"
#include "daemon/delivery/delivery_internal.h"

#include <stdio.h>
#include <stdlib.h>

#define QUIT_MS_MAX 5000
#define IDLE_MS_MIN 200 /* no server closes a connection for being idle sooner */

static void on_stream(struct stream *stream, enum stream_event event);
static void on_timer(struct io_op *op);
static bool pull_events(struct session *s);

static uint64_t now_ms(const struct session *s)
{
    return io_now_ms(s->d->with.io);
}

struct session *session_new(struct delivery *d, uint16_t upstream)
{
    struct session *s = calloc(1, sizeof *s);
    if (s == NULL) {
        return NULL;
    }
    s->d = d;
    s->upstream = upstream;
    s->up = &d->with.config->upstreams[upstream];
    s->timer.fn = on_timer;
    s->step_deadline_ms = UINT64_MAX;
    s->next = d->sessions;
    if (s->next != NULL) {
        s->next->prev = s;
    }
    d->sessions = s;
    return s;
}

static void session_free(struct session *s)
{
    if (io_pending(&s->timer)) {
        io_cancel(s->d->with.io, &s->timer);
    }
    if (s->prev != NULL) {
        s->prev->next = s->next;
    } else {
        s->d->sessions = s->next;
    }
    if (s->next != NULL) {
        s->next->prev = s->prev;
    }
    jobs_free(s);
    explicit_bzero(&s->auth, sizeof s->auth);
    explicit_bzero(s->machine.auth_memory, sizeof s->machine.auth_memory);
    explicit_bzero(s->output_memory, sizeof s->output_memory); /* AUTH lines were in it */
    free(s);
}

/* ---- time ---- */

static uint64_t deadline_of(const struct session *s)
{
    uint64_t deadline_ms = s->step_deadline_ms;
    if (s->state == SESSION_TALKING) {
        deadline_ms = u64_min(deadline_ms, smtp_client_deadline_ms(&s->machine));
        if (smtp_client_is_idle(&s->machine) && s->job_count == 0) {
            /* At its age it goes before a message has to come back from it. */
            deadline_ms = u64_min(deadline_ms, s->idle_since_ms + s->up->idle_ms_max);
            deadline_ms = u64_min(deadline_ms, s->opened_ms + s->age_ms_max);
        }
    }
    return deadline_ms;
}

static void arm_timer(struct session *s)
{
    uint64_t deadline_ms = deadline_of(s);
    if (deadline_ms != UINT64_MAX && (!io_pending(&s->timer) || deadline_ms < s->timer_ms)) {
        s->timer_ms = deadline_ms;
        io_timer(s->d->with.io, &s->timer, deadline_ms);
    }
}

static void on_timer(struct io_op *op)
{
    struct session *s = IO_OWNER(op, struct session, timer);
    if (s->state >= SESSION_CLOSING) {
        return;
    }
    if (now_ms(s) < deadline_of(s)) {
        arm_timer(s);
        return;
    }
    switch (s->state) {
    case SESSION_SECURING:
        session_fail(s, OUTCOME_TIMED_OUT, 0, SLICE("no answer in the TLS handshake"));
        return;
    case SESSION_TALKING:
        if (now_ms(s) >= s->step_deadline_ms) {
            session_fail(s, OUTCOME_TIMED_OUT, 0, SLICE("no answer in the TLS handshake"));
        } else if (now_ms(s) >= smtp_client_deadline_ms(&s->machine)) {
            smtp_client_expire(&s->machine, now_ms(s));
            session_pump(s);
        } else {
            session_quit(s); /* idle for long enough, or old */
        }
        return;
    case SESSION_LOOKUP:
    case SESSION_CONNECTING:
    case SESSION_CLOSING:
    case SESSION_CLOSED:
    default:
        return;
    }
}

/* ---- the end ---- */

void session_fail(struct session *s, enum outcome outcome, uint16_t code, struct slice text)
{
    if (s->state >= SESSION_CLOSING) {
        return;
    }
    s->outcome = outcome;
    s->code = code;
    snprintf(s->text, sizeof s->text, "%.*s", (int)size_min(text.len, sizeof s->text - 1),
             text.len == 0 ? "" : (const char *)text.data);
    bool has_stream = s->state == SESSION_SECURING || s->state == SESSION_TALKING;
    s->state = has_stream ? SESSION_CLOSING : SESSION_CLOSED;
    s->quitting = true;
    connecting_stop(s);
    if (outcome != OUTCOME_NONE && has_stream && !s->up_told) {
        connecting_forget(s);
    }
    if (has_stream) {
        stream_close(&s->stream, true);
    } else {
        session_end_when_done(s);
    }
}

static void tell_link_down(struct session *s)
{
    struct flow_link *link = s->link;
    if (s->up_told) {
        metric_add(s->d->with.metrics, METRIC_UPSTREAM_CONNECTIONS, (uint64_t)-1);
    }
    metric_add(s->d->with.metrics, METRIC_UPSTREAM_FAILURES, s->outcome != OUTCOME_NONE ? 1 : 0);
    struct log_line line;
    event_begin(&line, s->d->with.log, EVENT_UPSTREAM_DOWN);
    log_put_word(&line, "upstream", s->up->name);
    log_put_word(&line, "reason", outcome_row(s->outcome)->word);
    log_put_text(&line, "text", slice_from_str(s->text));
    log_end(&line);
    link->session = NULL;
    link->pipeline = (uint8_t)(s->machine.mode + 1);
    snprintf(link->anomaly, sizeof link->anomaly, "%s", s->anomaly != NULL ? s->anomaly : "");
    link->lowered = s->lowered;
    link->down_outcome = s->outcome;
    link->down_code = s->code;
    snprintf(link->down_text, sizeof link->down_text, "%s", s->text);
    link->down.kind = FLOW_LINK_DOWN;
    mailbox_send(s->d->with.queue, &link->down);
}

static void tell_probe_end(struct session *s)
{
    struct flow_probe *p = s->probe;
    if (s->outcome != OUTCOME_NONE) {
        p->outcome = s->outcome;
        p->code = s->code;
        snprintf(p->text, sizeof p->text, "%s", s->text);
    } else if (!p->done && p->outcome == OUTCOME_NONE) {
        probe_cut_off(p, "tasukid is stopping");
    }
    mailbox_send(p->msg.reply_to, &p->msg);
}

void session_end_when_done(struct session *s)
{
    if (s->state != SESSION_CLOSED || s->lookup_away || !connecting_is_over(s) || login_end(s)) {
        return;
    }
    jobs_return_all(s);
    delivery_flush(s->d); /* every job before DOWN */
    trace_closed(s);
    if (s->link != NULL) {
        tell_link_down(s);
    } else {
        tell_probe_end(s);
    }
    session_free(s);
}

void session_abort(struct session *s)
{
    if (s->state == SESSION_TALKING && s->machine.state != SMTP_CLIENT_CLOSED) {
        s->dropping = true;
        smtp_client_stream_ended(&s->machine);
        (void)pull_events(s);
    }
    session_fail(s, OUTCOME_NONE, 0, slice_of(NULL, 0));
}

void session_quit(struct session *s)
{
    s->quitting = true;
    jobs_return_waiting(s);
    if (s->state != SESSION_TALKING) {
        session_fail(s, OUTCOME_NONE, 0, slice_of(NULL, 0));
    } else {
        session_wake(s);
    }
}

/* ---- getting in ---- */

/* Up to an eighth less than the setting, at random, so that connections that were opened together
 * do not all end together. */
static uint64_t age_limit(const struct session *s)
{
    uint64_t mixed = (s->number ^ s->opened_ms << 20) * 0x9e3779b97f4a7c15u;
    mixed = (mixed ^ mixed >> 29) * 0xbf58476d1ce4e5b9u;
    uint64_t eighth_ms = s->up->age_ms_max / 8;
    return s->up->age_ms_max - (mixed >> 32) % (eighth_ms + 1);
}

void session_begin(struct session *s)
{
    s->opened_ms = now_ms(s);
    s->age_ms_max = age_limit(s);
    connecting_begin(s);
}

static void secure(struct session *s)
{
    s->step_deadline_ms = now_ms(s) + s->up->connect_ms_max;
    probe_step(s, "tls");
    if (stream_secure(&s->stream, s->d->with.policies[s->upstream], connecting_host(s)) != ERR_OK) {
        session_fail(s, OUTCOME_TLS_FAILED, 0, SLICE("out of memory"));
        return;
    }
    arm_timer(s);
}

static uint32_t bounded_ms(uint64_t ms)
{
    return u32_from(u64_min(ms, UINT32_MAX));
}

/* A probe says what it has to say one thing at a time, for its transcript. */
static enum smtp_client_pipelining pipelining_of(const struct session *s)
{
    enum smtp_client_pipelining max = delivery_pipelining(s->d, s->upstream, s->link);
    bool too_deep = s->probe != NULL && max > SMTP_CLIENT_PIPELINING_SAFE;
    return too_deep ? SMTP_CLIENT_PIPELINING_SAFE : max;
}

static void begin_machine(struct session *s, enum smtp_client_tls tls)
{
    s->machine_config = (struct smtp_client_config){
        .hello_name = s->d->with.config->hostname,
        .tls = tls,
        .pipelining = pipelining_of(s),
        .window_max = DELIVERY_WINDOW,
        .window_bytes_max = DELIVERY_WINDOW_BYTES,
        .auth = s->up->user[0] != '\0',
        .greeting_ms_max = bounded_ms(s->up->reply_ms_max),
        .command_ms_max = bounded_ms(s->up->reply_ms_max),
        .data_ms_max = bounded_ms(s->up->reply_ms_max),
        .block_ms_max = bounded_ms(s->up->reply_ms_max),
        .end_ms_max = bounded_ms(s->up->reply_ms_max * 2),
        .quit_ms_max = QUIT_MS_MAX,
    };
    smtp_client_init(&s->machine, &s->machine_config, s->output_memory, now_ms(s));
    s->machine_begun = true;
    s->state = SESSION_TALKING;
    s->step_deadline_ms = UINT64_MAX;
    s->idle_since_ms = now_ms(s);
    session_pump(s);
}

void session_connected(struct session *s, int fd)
{
    stream_init(&s->stream, s->d->with.io, on_stream);
    stream_hear_out(&s->stream); /* a message that was answered must not be sent again */
    stream_open(&s->stream, fd);
    if (s->up->host.implicit_tls) {
        s->state = SESSION_SECURING;
        secure(s);
    } else {
        begin_machine(s, s->up->tls == CONFIG_TLS_OFF ? SMTP_CLIENT_TLS_NONE
                                                      : SMTP_CLIENT_TLS_STARTTLS);
    }
}

static void secured(struct session *s)
{
    s->step_deadline_ms = UINT64_MAX;
    trace_note(s, "inside TLS: ", stream_tls_description(&s->stream));
    if (s->state == SESSION_SECURING) {
        begin_machine(s, SMTP_CLIENT_TLS_ALREADY);
    } else {
        smtp_client_tls_started(&s->machine, now_ms(s));
        session_pump(s);
    }
}

/* ---- talking ---- */

static void tell_up(struct session *s)
{
    struct flow_link *link = s->link;
    s->up_told = true;
    metric_add(s->d->with.metrics, METRIC_UPSTREAM_CONNECTS, 1);
    metric_add(s->d->with.metrics, METRIC_UPSTREAM_CONNECTIONS, 1);
    metric_add(s->d->with.metrics, METRIC_UPSTREAM_RESUMED, stream_tls_resumed(&s->stream) ? 1 : 0);
    bool stream = s->machine.mode == SMTP_CLIENT_PIPELINING_STREAM;
    link->window = stream ? DELIVERY_WINDOW : DELIVERY_WINDOW_SHORT;
    link->pipeline = (uint8_t)(s->machine.mode + 1);
    link->size_max = s->machine.size_max;
    snprintf(link->peer, sizeof link->peer, "%s", s->peer);
    snprintf(link->tls, sizeof link->tls, "%.63s", stream_tls_description(&s->stream));
    snprintf(link->mechanism, sizeof link->mechanism, "%s", s->mechanism);
    struct log_line line;
    event_begin(&line, s->d->with.log, EVENT_UPSTREAM_UP);
    log_put_word(&line, "upstream", s->up->name);
    log_put_word(&line, "peer", link->peer);
    log_put_text(&line, "tls", slice_from_str(link->tls));
    log_put_text(&line, "mechanism", slice_from_str(link->mechanism));
    log_end(&line);
    link->up.kind = FLOW_LINK_UP;
    mailbox_send(s->d->with.queue, &link->up);
}

static void ready(struct session *s)
{
    s->idle_since_ms = now_ms(s);
    if (s->probe != NULL) {
        snprintf(s->probe->peer, sizeof s->probe->peer, "%s", s->peer);
        snprintf(s->probe->tls, sizeof s->probe->tls, "%.63s", stream_tls_description(&s->stream));
        snprintf(s->probe->mechanism, sizeof s->probe->mechanism, "%s", s->mechanism);
        probe_ready(s);
    } else {
        tell_up(s);
    }
}

/* What the end says about the mode: a word from the machine, or silence again and again before a
 * single message was answered, as from a box in between that cannot bear several commands at once.
 */
static void learn_from_end(struct session *s, const struct smtp_client_event *event)
{
    struct delivery *d = s->d;
    if (event->anomaly != NULL) {
        s->anomaly = event->anomaly;
        delivery_lower(d, s->upstream, s->machine.mode, now_ms(s) + FLOW_PIPELINE_LEARNT_MS);
        return;
    }
    bool broken = event->failure == SMTP_CLIENT_FAILURE_CLOSED ||
                  event->failure == SMTP_CLIENT_FAILURE_TIMEOUT;
    if (s->probe != NULL || s->dropping || !broken || s->answers > 0 ||
        s->machine.mode == SMTP_CLIENT_PIPELINING_OFF || event->stage < SMTP_CLIENT_STAGE_MAIL ||
        event->stage == SMTP_CLIENT_STAGE_QUIT) {
        return;
    }
    if (++d->pipelining[s->upstream].suspects >= DELIVERY_SUSPECTS_MAX) {
        delivery_lower(d, s->upstream, s->machine.mode, now_ms(s) + DELIVERY_SUSPECT_MS);
        s->lowered = (struct flow_lowered){
            .max = (uint8_t)(d->pipelining[s->upstream].max + 1),
            .for_ms = DELIVERY_SUSPECT_MS,
            .why = "connections broke, one after the other, before a message was answered",
        };
    }
}

/* Servers close what is idle or old, and may say so. One that does it to a connection which it has
 * only just let in does not want it, and the next one would fare no better. */
static bool ends_in_peace(const struct session *s, const struct smtp_client_event *event)
{
    bool closes = event->failure == SMTP_CLIENT_FAILURE_CLOSED ||
                  (event->failure == SMTP_CLIENT_FAILURE_REPLY && event->reply.code == 421);
    bool was_of_use = s->messages_taken > 0 || now_ms(s) - s->idle_since_ms >= IDLE_MS_MIN;
    return event->stage == SMTP_CLIENT_STAGE_IDLE && closes && was_of_use;
}

static void machine_failed(struct session *s, const struct smtp_client_event *event)
{
    enum outcome outcome = classify_event(event, s->up->host.provider);
    struct slice text = smtp_reply_first_line(&event->reply);
    if (event->failure != SMTP_CLIENT_FAILURE_REPLY && event->detail != NULL) {
        text = slice_from_str(event->detail);
    }
    learn_from_end(s, event);
    bool told = s->probe != NULL && s->probe->outcome != OUTCOME_NONE; /* before: that counts */
    if (s->dropping || told || ends_in_peace(s, event)) {
        outcome = OUTCOME_NONE;
    }
    if (event->anomaly != NULL && s->probe == NULL) {
        outcome = OUTCOME_NONE; /* the next connection says less at once */
    }
    if (outcome == OUTCOME_IN_DOUBT) {
        /* That is the message's word; this is the connection's. */
        outcome = event->failure == SMTP_CLIENT_FAILURE_TIMEOUT ? OUTCOME_TIMED_OUT
                                                                : OUTCOME_CONNECTION_LOST;
    }
    if (outcome != OUTCOME_NONE) {
        probe_step(s, smtp_client_stage_word(event->stage));
    }
    session_fail(s, outcome, event->reply.code, text);
}

static void handle(struct session *s, const struct smtp_client_event *event)
{
    switch (event->type) {
    case SMTP_CLIENT_EVENT_STARTTLS:
        secure(s);
        return;
    case SMTP_CLIENT_EVENT_AUTH:
        probe_step(s, "login");
        login_begin(s, event->mechanisms);
        return;
    case SMTP_CLIENT_EVENT_AUTH_CHALLENGE:
        login_challenge(s, event->challenge);
        return;
    case SMTP_CLIENT_EVENT_AUTH_RESULT:
        login_result(s, &event->reply);
        return;
    case SMTP_CLIENT_EVENT_READY:
        ready(s);
        return;
    case SMTP_CLIENT_EVENT_RECIPIENT:
        if (s->probe != NULL) {
            probe_recipient(s, event);
        } else {
            job_recipient(s, event);
        }
        return;
    case SMTP_CLIENT_EVENT_CONTENT:
        job_content_begin(s); /* brought by the pump */
        return;
    case SMTP_CLIENT_EVENT_DONE:
        s->idle_since_ms = now_ms(s);
        if (s->probe != NULL) {
            probe_done(s, event);
        } else {
            job_done(s, event);
        }
        return;
    case SMTP_CLIENT_EVENT_LOST:
        if (s->probe == NULL) {
            job_lost(s, event);
        }
        return;
    case SMTP_CLIENT_EVENT_FAILED:
        machine_failed(s, event);
        return;
    case SMTP_CLIENT_EVENT_CLOSE:
    default:
        session_fail(s, OUTCOME_NONE, 0, slice_of(NULL, 0));
    }
}

static bool pull_events(struct session *s)
{
    struct smtp_client_event event;
    while (s->state == SESSION_TALKING && smtp_client_next(&s->machine, &event)) {
        handle(s, &event);
    }
    return s->state == SESSION_TALKING;
}

/* Begins messages and brings their content, until the window or the output is full. */
static void fill_window(struct session *s)
{
    bool moved = true;
    while (moved && s->state == SESSION_TALKING) {
        uint32_t tag;
        bool may_begin = s->probe == NULL && s->machine.state == SMTP_CLIENT_READY &&
                         stream_can_send(&s->stream);
        moved = may_begin && jobs_begin(s);
        if (pull_events(s) && smtp_client_wants_content(&s->machine, &tag)) {
            bool brought = s->probe != NULL ? probe_content(s) : job_content(s, tag);
            moved = moved || brought;
        }
    }
}

/* What to do with a connection that has no message in hand. */
static void use_idle(struct session *s)
{
    if (s->job_count > 0) {
        return;
    }
    if (s->quitting && s->machine.state < SMTP_CLIENT_READY) {
        session_fail(s, OUTCOME_NONE, 0, slice_of(NULL, 0)); /* stopped while still getting in */
        return;
    }
    if (s->probe != NULL || !smtp_client_is_idle(&s->machine)) {
        return;
    }
    if (s->fault != OUTCOME_NONE) {
        session_fail(s, s->fault, s->fault_code, slice_from_str(s->fault_text));
        return;
    }
    bool idle = now_ms(s) - s->idle_since_ms >= s->up->idle_ms_max;
    if (s->quitting || (s->up_told && idle)) {
        s->quitting = true;
        smtp_client_quit(&s->machine, now_ms(s));
    }
}

bool session_is_worn(const struct session *s)
{
    uint32_t messages_max = s->up->connection_messages;
    return (messages_max > 0 && s->messages_taken >= messages_max) ||
           now_ms(s) - s->opened_ms >= s->age_ms_max;
}

/* It takes nothing more; what is under way is brought to its end. */
static void retire_when_worn(struct session *s)
{
    if (s->up_told && !s->quitting && session_is_worn(s)) {
        s->quitting = true;
        jobs_return_waiting(s);
    }
}

static void write_output(struct session *s)
{
    struct slice out = smtp_client_output(&s->machine);
    if (out.len > 0 && stream_writable(&s->stream)) {
        s->sending_len = out.len;
        s->sending_told = 0;
        metric_add(s->d->with.metrics, METRIC_SENT_BYTES, out.len);
        if (trace_shows_sent(s)) {
            trace_sent(s, out, smtp_client_output_is_secret(&s->machine));
        }
        stream_write(&s->stream, out);
    }
}

/* The machine hears what was sent before it hears what came: of a long write the beginning may be
 * answered while its end still waits. */
static void tell_sent(struct session *s)
{
    size_t sent = s->sending_len - stream_unsent(&s->stream);
    smtp_client_output_done(&s->machine, sent - s->sending_told, now_ms(s));
    s->sending_told = sent;
}

void session_pump(struct session *s)
{
    if (s->state != SESSION_TALKING || !pull_events(s)) {
        return;
    }
    retire_when_worn(s);
    fill_window(s);
    if (s->state == SESSION_TALKING) {
        retire_when_worn(s);
        use_idle(s);
    }
    if (s->state == SESSION_TALKING && pull_events(s)) {
        trace_messages(s);
        write_output(s);
        stream_read(&s->stream);
        arm_timer(s);
    }
}

void session_wake(struct session *s)
{
    s->pump_wanted = true;
    delivery_kick(s->d);
}

static void data_came(struct session *s)
{
    if (s->state != SESSION_TALKING) {
        s->stream.used = s->stream.data.len;
        return;
    }
    tell_sent(s);
    struct slice in = s->stream.data;
    while (in.len > 0 && pull_events(s)) {
        bool shown = trace_shows_received(s);
        bool in_login = s->machine.state == SMTP_CLIENT_AUTH;
        size_t used = smtp_client_feed(&s->machine, in, now_ms(s));
        if (shown && in_login) {
            trace_login_reply(s);
        } else if (shown) {
            trace_received(s, slice_head(in, used));
        }
        if (shown) {
            probe_note_step(s);
        }
        in = slice_tail(in, used);
        if (!pull_events(s) || used == 0) {
            break;
        }
    }
    s->stream.used = s->stream.data.len - in.len;
    session_wake(s);
}

static enum outcome outcome_of_tls(enum tls_failure failure)
{
    switch (failure) {
    case TLS_FAILURE_UNTRUSTED:
    case TLS_FAILURE_FINGERPRINT:
        return OUTCOME_TLS_UNTRUSTED;
    case TLS_FAILURE_WRONG_NAME:
        return OUTCOME_TLS_WRONG_NAME;
    case TLS_FAILURE_EXPIRED:
        return OUTCOME_TLS_EXPIRED;
    case TLS_FAILURE_NONE:
    case TLS_FAILURE_HANDSHAKE:
    case TLS_FAILURE_TRUNCATED:
    case TLS_FAILURE_MEMORY:
    default:
        return OUTCOME_TLS_FAILED;
    }
}

static void stream_ended(struct session *s)
{
    struct stream *stream = &s->stream;
    switch (s->state) {
    case SESSION_SECURING:
    case SESSION_TALKING:
        if (s->state == SESSION_SECURING || s->machine.state == SMTP_CLIENT_TLS) {
            session_fail(s, outcome_of_tls(stream->tls_failure), 0,
                         slice_from_str(stream->problem[0] != '\0' ? stream->problem
                                                                   : err_text(stream->err)));
            return;
        }
        smtp_client_stream_ended(&s->machine);
        session_pump(s);
        return;
    case SESSION_LOOKUP:
    case SESSION_CONNECTING:
    case SESSION_CLOSING:
    case SESSION_CLOSED:
    default:
        return;
    }
}

static void stream_closed(struct session *s)
{
    s->state = SESSION_CLOSED;
    session_end_when_done(s);
}

static void on_stream(struct stream *stream, enum stream_event event)
{
    struct session *s = IO_OWNER(stream, struct session, stream);
    switch (event) {
    case STREAM_EVENT_DATA:
        data_came(s);
        return;
    case STREAM_EVENT_SENT:
        if (s->state == SESSION_TALKING) {
            tell_sent(s);
            session_wake(s);
        }
        return;
    case STREAM_EVENT_SECURE:
        secured(s);
        return;
    case STREAM_EVENT_ENDED:
        stream_ended(s);
        return;
    case STREAM_EVENT_CLOSED:
        stream_closed(s);
        return;
    default:
        UNREACHABLE("a stream's event that never comes here");
    }
}

void delivery_auth_back(struct flow_auth *auth)
{
    struct session *s = (struct session *)(void *)((char *)auth - offsetof(struct session, auth));
    s->auth_away = false;
    if (s->state == SESSION_CLOSED) {
        session_end_when_done(s);
        return;
    }
    if (s->state == SESSION_TALKING) {
        login_back(s);
        session_pump(s);
    }
}
