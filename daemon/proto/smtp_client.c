/*
 * The core of the SMTP client: matches replies with what was sent, keeps output, events and
 * deadlines, and ends the connection when it cannot be trusted any more. What a reply means is told
 * by one row of commands[] each; the functions behind the rows are in smtp_client_hello.c and
 * smtp_client_mail.c.
 */
#include "daemon/proto/smtp_client.h"

#include "daemon/base/num.h"
#include "daemon/proto/smtp_client_parts.h"

#include <stddef.h>

_Static_assert(SMTP_CLIENT_RECIPIENTS_MAX + 2 * SMTP_CLIENT_WINDOW_MAX <= SMTP_CLIENT_EXPECTED_MAX,
               "MAIL, every RCPT and DATA of a whole window fit into the ring at once");
_Static_assert((SMTP_CLIENT_EXPECTED_MAX & (SMTP_CLIENT_EXPECTED_MAX - 1)) == 0,
               "ring indexes wrap by masking");
_Static_assert(SMTP_CLIENT_COMMAND_NONE <= UINT8_MAX, "a command fits into a ring entry");

static const char words_not_asked[] = "a reply came that nothing asked for";
static const char words_absurd[] = "the reply is no answer to the command";
static const char words_after_starttls[] =
    "bytes came behind the answer to STARTTLS, before the handshake";

static const char *const stage_words[] = {
    [SMTP_CLIENT_STAGE_CONNECT] = "connect", [SMTP_CLIENT_STAGE_GREETING] = "greeting",
    [SMTP_CLIENT_STAGE_EHLO] = "ehlo",       [SMTP_CLIENT_STAGE_STARTTLS] = "starttls",
    [SMTP_CLIENT_STAGE_TLS] = "tls",         [SMTP_CLIENT_STAGE_AUTH] = "login",
    [SMTP_CLIENT_STAGE_IDLE] = "idle",       [SMTP_CLIENT_STAGE_MAIL] = "mail",
    [SMTP_CLIENT_STAGE_RCPT] = "rcpt",       [SMTP_CLIENT_STAGE_DATA] = "data",
    [SMTP_CLIENT_STAGE_CONTENT] = "content", [SMTP_CLIENT_STAGE_END] = "end",
    [SMTP_CLIENT_STAGE_QUIT] = "quit",
};

static const char *const pipelining_words[] = {
    [SMTP_CLIENT_PIPELINING_OFF] = "off",
    [SMTP_CLIENT_PIPELINING_SAFE] = "safe",
    [SMTP_CLIENT_PIPELINING_STREAM] = "stream",
};

#define WAIT(field) offsetof(struct smtp_client_config, field)

/* One row for each thing that can be answered: what stage a failure there belongs to, how long its
 * reply may take, and who takes it. QUIT has nobody: any reply to it is one. */
static const struct command_row {
    enum smtp_client_stage stage;
    size_t wait_offset; /* of a uint32_t in struct smtp_client_config */
    smtp_client_answered_fn *answered;
} commands[SMTP_CLIENT_COMMAND_COUNT] = {
    [SMTP_CLIENT_COMMAND_GREETING] = {SMTP_CLIENT_STAGE_GREETING, WAIT(greeting_ms_max),
                                      smtp_client_greeting_answered},
    [SMTP_CLIENT_COMMAND_EHLO] = {SMTP_CLIENT_STAGE_EHLO, WAIT(command_ms_max),
                                  smtp_client_ehlo_answered},
    [SMTP_CLIENT_COMMAND_HELO] = {SMTP_CLIENT_STAGE_EHLO, WAIT(command_ms_max),
                                  smtp_client_helo_answered},
    [SMTP_CLIENT_COMMAND_STARTTLS] = {SMTP_CLIENT_STAGE_STARTTLS, WAIT(command_ms_max),
                                      smtp_client_starttls_answered},
    [SMTP_CLIENT_COMMAND_AUTH] = {SMTP_CLIENT_STAGE_AUTH, WAIT(command_ms_max),
                                  smtp_client_auth_answered},
    [SMTP_CLIENT_COMMAND_MAIL] = {SMTP_CLIENT_STAGE_MAIL, WAIT(command_ms_max),
                                  smtp_client_mail_answered},
    [SMTP_CLIENT_COMMAND_RCPT] = {SMTP_CLIENT_STAGE_RCPT, WAIT(command_ms_max),
                                  smtp_client_rcpt_answered},
    [SMTP_CLIENT_COMMAND_DATA] = {SMTP_CLIENT_STAGE_DATA, WAIT(data_ms_max),
                                  smtp_client_data_answered},
    [SMTP_CLIENT_COMMAND_DOT] = {SMTP_CLIENT_STAGE_END, WAIT(end_ms_max), smtp_client_dot_answered},
    [SMTP_CLIENT_COMMAND_CHUNK] = {SMTP_CLIENT_STAGE_CONTENT, WAIT(end_ms_max),
                                   smtp_client_chunk_answered},
    [SMTP_CLIENT_COMMAND_LAST] = {SMTP_CLIENT_STAGE_END, WAIT(end_ms_max),
                                  smtp_client_last_answered},
    [SMTP_CLIENT_COMMAND_LONE_DOT] = {SMTP_CLIENT_STAGE_IDLE, WAIT(end_ms_max),
                                      smtp_client_lone_dot_answered},
    [SMTP_CLIENT_COMMAND_RSET] = {SMTP_CLIENT_STAGE_IDLE, WAIT(command_ms_max),
                                  smtp_client_rset_answered},
    [SMTP_CLIENT_COMMAND_QUIT] = {SMTP_CLIENT_STAGE_QUIT, WAIT(quit_ms_max), NULL},
};

const char *smtp_client_stage_word(enum smtp_client_stage stage)
{
    CHECK((size_t)stage < sizeof stage_words / sizeof stage_words[0]);
    return stage_words[stage];
}

const char *smtp_client_pipelining_word(enum smtp_client_pipelining pipelining)
{
    CHECK((size_t)pipelining < sizeof pipelining_words / sizeof pipelining_words[0]);
    return pipelining_words[pipelining];
}

/* ---- the two cursors ---- */

size_t smtp_client_unsent(const struct smtp_client *c)
{
    return c->output.len - c->output_offset;
}

static void expect(struct smtp_client *c, enum smtp_client_command command, uint32_t index,
                   uint64_t bytes)
{
    CHECK(!c->output.overflow);
    CHECK(c->expected_count < SMTP_CLIENT_EXPECTED_MAX);
    uint32_t at = (c->expected_head + c->expected_count) & (SMTP_CLIENT_EXPECTED_MAX - 1);
    c->expected[at].command = (uint8_t)command;
    c->expected[at].index = index;
    c->expected[at].end = c->output_passed + smtp_client_unsent(c) + bytes;
    c->expected[at].bytes = bytes;
    if (c->expected_count == 0) {
        c->waiting_since_ms = c->now_ms;
    }
    c->expected_count++;
}

void smtp_client_expect(struct smtp_client *c, enum smtp_client_command command, uint32_t index)
{
    expect(c, command, index, 0);
}

void smtp_client_expect_chunk(struct smtp_client *c, enum smtp_client_command command,
                              uint64_t bytes)
{
    expect(c, command, 0, bytes);
}

bool smtp_client_can_put(const struct smtp_client *c, size_t bytes)
{
    return c->expected_count < SMTP_CLIENT_EXPECTED_MAX && buf_room(&c->output) >= bytes;
}

void smtp_client_put_command(struct smtp_client *c, enum smtp_client_command command,
                             const char *line)
{
    c->secret_output = false;
    buf_put_str(&c->output, line);
    smtp_client_expect(c, command, 0);
}

bool smtp_client_text_is_clean(struct slice text)
{
    for (size_t index = 0; index < text.len; index++) {
        if (text.data[index] < 0x20 || text.data[index] == 0x7f) {
            return false;
        }
    }
    return true;
}

/* ---- events and the end ---- */

void smtp_client_push(struct smtp_client *c, struct smtp_client_event event)
{
    const uint32_t cap = sizeof c->events / sizeof c->events[0];
    CHECK(c->event_count < cap);
    c->events[(c->event_head + c->event_count) % cap] = event;
    c->event_count++;
}

static void end(struct smtp_client *c, struct smtp_client_event event)
{
    c->ended_stage = event.stage;
    c->state = SMTP_CLIENT_CLOSED;
    c->expected_count = 0;
    smtp_client_push(c, event);
}

static void end_well(struct smtp_client *c)
{
    end(c, (struct smtp_client_event){.type = SMTP_CLIENT_EVENT_CLOSE,
                                      .stage = SMTP_CLIENT_STAGE_QUIT});
}

void smtp_client_fail(struct smtp_client *c, enum smtp_client_failure failure,
                      enum smtp_client_stage stage, const struct smtp_reply *reply,
                      const char *detail)
{
    /* Nothing is at stake any more once QUIT was said. */
    if (c->state == SMTP_CLIENT_QUIT) {
        end_well(c);
        return;
    }
    bool with_mode = c->state == SMTP_CLIENT_READY && c->mode != SMTP_CLIENT_PIPELINING_OFF;
    bool is_anomaly = with_mode && failure == SMTP_CLIENT_FAILURE_PROTOCOL;
    struct smtp_client_event event = {.type = SMTP_CLIENT_EVENT_FAILED,
                                      .stage = stage,
                                      .failure = failure,
                                      .detail = detail,
                                      .anomaly = is_anomaly ? detail : NULL};
    if (reply != NULL) {
        event.reply = *reply;
    }
    end(c, event);
}

bool smtp_client_next(struct smtp_client *c, struct smtp_client_event *out_event)
{
    if (smtp_client_next_refused(c, out_event) || smtp_client_next_slot(c, out_event)) {
        return true;
    }
    if (c->event_count == 0) {
        return false;
    }
    *out_event = c->events[c->event_head];
    c->event_head = (c->event_head + 1) % (uint32_t)(sizeof c->events / sizeof c->events[0]);
    c->event_count--;
    return true;
}

/* ---- replies ---- */

/* Content in the output was not sent whole. */
static bool content_is_going_out(const struct smtp_client *c)
{
    return c->content_end > c->output_passed;
}

/* A refusal that comes now, and that no command which was sent waits for, can only be meant for the
 * content: for DATA's, or for that of the chunk whose line was sent and whose bytes were not. */
static bool can_be_about_content(struct smtp_client *c)
{
    if (c->expected_count == 0) {
        const struct smtp_client_slot *slot = smtp_client_slot_written(c);
        return c->mode != SMTP_CLIENT_PIPELINING_STREAM && slot != NULL &&
               slot->phase == SMTP_CLIENT_PHASE_CONTENT;
    }
    uint8_t command = c->expected[c->expected_head].command;
    uint64_t line_end = c->expected[c->expected_head].end - c->expected[c->expected_head].bytes;
    return command == SMTP_CLIENT_COMMAND_DOT ||
           ((command == SMTP_CLIENT_COMMAND_CHUNK || command == SMTP_CLIENT_COMMAND_LAST) &&
            line_end <= c->output_passed);
}

/*
 * A reply that no sent command waits for. While content goes out a refusal is one for the content:
 * it is this transaction's outcome, and since the content cannot be ended truthfully any more, the
 * connection's end. Anything else may be an answer to something that we never said, and never
 * counts.
 */
static void take_unasked(struct smtp_client *c, const struct smtp_reply *reply)
{
    if (smtp_client_reply_is_no(reply) && can_be_about_content(c)) {
        smtp_client_fail(c, SMTP_CLIENT_FAILURE_REPLY, SMTP_CLIENT_STAGE_CONTENT, reply,
                         "the content was refused while it was being sent");
    } else {
        smtp_client_fail(c, SMTP_CLIENT_FAILURE_PROTOCOL, smtp_client_stage(c), reply,
                         words_not_asked);
    }
}

/* The reply to the oldest command; it is about the oldest message, if there is one. */
static void take_answer(struct smtp_client *c, const struct smtp_reply *reply)
{
    uint8_t command = c->expected[c->expected_head].command;
    const struct command_row *row = &commands[command];
    uint32_t index = c->expected[c->expected_head].index;
    enum smtp_client_stage stage = smtp_client_stage(c);
    c->expected_head = (c->expected_head + 1) & (SMTP_CLIENT_EXPECTED_MAX - 1);
    c->expected_count--;
    c->waiting_since_ms = c->now_ms;
    if (command != SMTP_CLIENT_COMMAND_CHUNK) {
        smtp_client_content_time_begin(c);
    }
    if (c->slot_count > 0) {
        smtp_client_slot_at(c, 0)->unanswered--;
    }
    c->misfit = NULL;
    switch (row->answered(c, reply, index)) {
    case SMTP_CLIENT_VERDICT_TAKEN:
        smtp_client_advance(c);
        break;
    case SMTP_CLIENT_VERDICT_ENDS:
        smtp_client_fail(c, SMTP_CLIENT_FAILURE_REPLY, stage, reply, "the server refuses to go on");
        break;
    case SMTP_CLIENT_VERDICT_ABSURD:
        smtp_client_fail(c, SMTP_CLIENT_FAILURE_PROTOCOL, stage, reply,
                         c->misfit != NULL ? c->misfit : words_absurd);
        break;
    }
}

static void take_reply(struct smtp_client *c, const struct smtp_reply *reply)
{
    if (c->state == SMTP_CLIENT_QUIT) {
        end_well(c);
        return;
    }
    if (c->slot_count > 0) {
        smtp_client_note_reply(smtp_client_slot_at(c, 0), reply);
    }
    /* RFC 5321 3.8: may be said at any time, to anything, and the connection is over then. */
    if (reply->code == 421) {
        smtp_client_fail(c, SMTP_CLIENT_FAILURE_REPLY, smtp_client_stage(c), reply,
                         "the server ends its service");
        return;
    }
    if (c->expected_count == 0 || c->expected[c->expected_head].end > c->output_passed) {
        take_unasked(c, reply);
    } else {
        take_answer(c, reply);
    }
}

/* What came before the handshake is nobody's word: RFC 3207 4.2 would have it dropped, but whoever
 * sends it is broken or hostile. A STARTTLS event that was not pulled yet is taken back. */
static void refuse_plaintext(struct smtp_client *c)
{
    c->event_count = 0;
    smtp_client_fail(c, SMTP_CLIENT_FAILURE_PROTOCOL, SMTP_CLIENT_STAGE_STARTTLS, NULL,
                     words_after_starttls);
}

size_t smtp_client_feed(struct smtp_client *c, struct slice in, uint64_t now_ms)
{
    c->now_ms = now_ms;
    size_t used = 0;
    while (used < in.len && c->event_count == 0 && c->refused_count == 0 &&
           !smtp_client_slot_event_waits(c) && c->state != SMTP_CLIENT_CLOSED) {
        if (c->state == SMTP_CLIENT_TLS) {
            refuse_plaintext(c);
            break;
        }
        used += smtp_reply_feed(&c->parser, slice_tail(in, used));
        struct smtp_reply reply;
        if (c->parser.state == SMTP_REPLY_STATE_ERROR) {
            smtp_client_fail(c, SMTP_CLIENT_FAILURE_PROTOCOL, smtp_client_stage(c), NULL,
                             c->parser.error);
        } else if (smtp_reply_take(&c->parser, &reply)) {
            smtp_client_mask_reply(c, &reply);
            take_reply(c, &reply);
            if (c->state == SMTP_CLIENT_TLS && used < in.len) {
                refuse_plaintext(c);
            }
        }
    }
    return used;
}

bool smtp_client_last_reply(const struct smtp_client *c, struct smtp_reply *out_reply)
{
    if (c->parser.state == SMTP_REPLY_STATE_ERROR || c->parser.bytes == 0 ||
        smtp_reply_partial(&c->parser)) {
        return false;
    }
    *out_reply = c->parser.reply;
    return true;
}

/* ---- beginning and ending ---- */

void smtp_client_init(struct smtp_client *c, const struct smtp_client_config *config,
                      uint8_t *output_memory, uint64_t now_ms)
{
    CHECK(smtp_client_text_is_clean(slice_from_str(config->hello_name)));
    CHECK(config->pipelining != SMTP_CLIENT_PIPELINING_STREAM ||
          (config->window_max >= 1 && config->window_max <= SMTP_CLIENT_WINDOW_MAX));
    memset(c, 0, sizeof *c);
    c->config = config;
    c->state = SMTP_CLIENT_GREETING;
    c->tls = config->tls == SMTP_CLIENT_TLS_ALREADY;
    c->now_ms = now_ms;
    smtp_reply_init(&c->parser);
    buf_init(&c->output, output_memory, SMTP_CLIENT_OUTPUT_BYTES);
    buf_init(&c->auth, c->auth_memory, sizeof c->auth_memory);
    smtp_client_expect(c, SMTP_CLIENT_COMMAND_GREETING, 0);
}

void smtp_client_quit(struct smtp_client *c, uint64_t now_ms)
{
    if (c->state == SMTP_CLIENT_CLOSED || c->state == SMTP_CLIENT_QUIT) {
        return;
    }
    CHECK(c->state < SMTP_CLIENT_READY || smtp_client_is_idle(c));
    c->now_ms = now_ms;
    bool between_commands = c->state == SMTP_CLIENT_READY ||
                            (c->state == SMTP_CLIENT_AUTH && smtp_client_login_is_idle(c));
    if (!between_commands) {
        end_well(c);
        return;
    }
    c->state = SMTP_CLIENT_QUIT;
    smtp_client_put_command(c, SMTP_CLIENT_COMMAND_QUIT, "QUIT\r\n");
}

void smtp_client_stream_ended(struct smtp_client *c)
{
    if (c->state != SMTP_CLIENT_CLOSED) {
        smtp_client_fail(c, SMTP_CLIENT_FAILURE_CLOSED, smtp_client_stage(c), NULL,
                         smtp_reply_partial(&c->parser) ? "the stream ended within a reply"
                                                        : "the stream ended");
    }
}

void smtp_client_expire(struct smtp_client *c, uint64_t now_ms)
{
    uint64_t deadline_ms = smtp_client_deadline_ms(c);
    if (deadline_ms == UINT64_MAX || now_ms < deadline_ms) {
        return;
    }
    c->now_ms = now_ms;
    const char *detail = "the server did not answer in time";
    if (smtp_client_unsent(c) > 0) {
        bool too_slow = content_is_going_out(c) && now_ms >= c->content_until_ms;
        detail = too_slow ? "the server reads too slowly" : "the server stopped reading";
    }
    smtp_client_fail(c, SMTP_CLIENT_FAILURE_TIMEOUT, smtp_client_stage(c), NULL, detail);
}

/* ---- output, deadline, stage ---- */

struct slice smtp_client_output(const struct smtp_client *c)
{
    if (c->state == SMTP_CLIENT_CLOSED) {
        return slice_of(NULL, 0);
    }
    return slice_tail(buf_slice(&c->output), c->output_offset);
}

bool smtp_client_output_is_secret(const struct smtp_client *c)
{
    return c->secret_output;
}

/* The bytes stay where they are until all of them were sent, so that none is moved and the owner
 * may have them in flight. */
void smtp_client_output_done(struct smtp_client *c, size_t count, uint64_t now_ms)
{
    c->now_ms = now_ms;
    if (c->state == SMTP_CLIENT_CLOSED || count == 0) {
        return;
    }
    CHECK(count <= smtp_client_unsent(c));
    c->content_until_ms += count * (uint64_t)(1000 / SMTP_CLIENT_RATE_MIN);
    c->output_offset += count;
    c->output_passed += count;
    if (smtp_client_unsent(c) > 0) {
        return;
    }
    if (c->secret_output) {
        explicit_bzero(c->output.data, c->output.len);
        c->secret_output = false;
    }
    buf_reset(&c->output);
    c->output_offset = 0;
    c->waiting_since_ms = now_ms;
    smtp_client_advance(c); /* what had no room */
}

/* How long the oldest expected reply may take. */
static uint32_t reply_ms_max(const struct smtp_client *c)
{
    uint32_t wait_ms = 0;
    const struct command_row *row = &commands[c->expected[c->expected_head].command];
    memcpy(&wait_ms, (const uint8_t *)c->config + row->wait_offset, sizeof wait_ms);
    return wait_ms;
}

/*
 * The longest wait that content can meet: a server that takes its time for one answer reads nothing
 * meanwhile, and may. An answer to a chunk gives no new time, or there would be no bound: content
 * has as many chunks as it likes.
 */
void smtp_client_content_time_begin(struct smtp_client *c)
{
    uint32_t wait_ms = c->config->block_ms_max;
    if (c->config->end_ms_max > wait_ms) {
        wait_ms = c->config->end_ms_max;
    }
    c->content_until_ms = u64_max(c->content_until_ms, c->now_ms + wait_ms);
}

/*
 * A full output must be gone within block_ms_max, however slowly it drips: RFC 5321 4.5.3.2.5. But
 * a server that still owes an answer to something that it has whole may take as long for that, and
 * need not read on meanwhile. One that takes each output just in time could hold a large message
 * for days; so the whole content has a time as well.
 */
uint64_t smtp_client_deadline_ms(const struct smtp_client *c)
{
    if (c->state == SMTP_CLIENT_CLOSED) {
        return UINT64_MAX;
    }
    bool asked = c->expected_count > 0;
    uint64_t end = asked ? c->expected[c->expected_head].end : 0;
    if (content_is_going_out(c)) {
        uint32_t wait_ms = c->config->block_ms_max;
        if (asked && end <= c->output_passed && reply_ms_max(c) > wait_ms) {
            wait_ms = reply_ms_max(c);
        }
        return u64_min(c->waiting_since_ms + wait_ms, c->content_until_ms);
    }
    if (!asked || end > c->output_passed + smtp_client_unsent(c)) {
        return UINT64_MAX; /* nothing, or a chunk that the owner has to go on with */
    }
    return c->waiting_since_ms + reply_ms_max(c);
}

enum smtp_client_stage smtp_client_stage(const struct smtp_client *c)
{
    switch (c->state) {
    case SMTP_CLIENT_CLOSED:
        return c->ended_stage;
    case SMTP_CLIENT_TLS:
        return SMTP_CLIENT_STAGE_TLS;
    case SMTP_CLIENT_AUTH:
        return SMTP_CLIENT_STAGE_AUTH;
    case SMTP_CLIENT_READY:
    case SMTP_CLIENT_GREETING:
    case SMTP_CLIENT_EHLO:
    case SMTP_CLIENT_STARTTLS:
    case SMTP_CLIENT_QUIT:
        break;
    }
    if (c->expected_count == 0) {
        CHECK(c->state == SMTP_CLIENT_READY);
        uint32_t tag;
        return smtp_client_wants_content(c, &tag) ? SMTP_CLIENT_STAGE_CONTENT
                                                  : SMTP_CLIENT_STAGE_IDLE;
    }
    /* A chunk whose bytes are not all put is no end yet. */
    if (c->expected[c->expected_head].end > c->output_passed + smtp_client_unsent(c)) {
        return SMTP_CLIENT_STAGE_CONTENT;
    }
    return commands[c->expected[c->expected_head].command].stage;
}
