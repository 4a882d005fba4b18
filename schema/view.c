/* A message as JSON and in a sentence, the same whoever shows it. */
#include "schema/view.h"

#include "daemon/base/text.h"
#include "daemon/base/when.h"

/* One with an answer before one that was never tried. */
static unsigned misery(const struct record_recipient *recipient)
{
    static const uint8_t rank[RECIPIENT_STATE_COUNT] = {
        [RECIPIENT_DELIVERED] = 0, [RECIPIENT_QUEUED] = 1, [RECIPIENT_DEFERRED] = 3,
        [RECIPIENT_IN_DOUBT] = 4,  [RECIPIENT_FAILED] = 5,
    };
    bool answered = recipient->state == RECIPIENT_QUEUED && recipient->outcome != OUTCOME_NONE;
    return rank[recipient->state] + (answered ? 1u : 0u);
}

struct record_recipient view_worst(const struct record_message *message)
{
    struct record_recipient worst = {.state = RECIPIENT_QUEUED, .outcome = OUTCOME_NONE};
    struct record_recipient recipient;
    struct slice rest = message->state.recipients;
    bool first = true;
    while (record_fate_next(&rest, &recipient)) {
        if (first || misery(&recipient) > misery(&worst)) {
            worst = recipient;
        }
        first = false;
    }
    return worst;
}

/* In the history nothing is held or trashed any more: what counts is what became of the copy. */
enum lifecycle view_state(const struct record_message *m, enum recipient_state state)
{
    return record_lifecycle(m->history != NULL ? MESSAGE_QUEUED : m->state.state, state, m->leased);
}

static uint64_t to_wall(uint64_t q_ms, int64_t wall_minus_q)
{
    return q_ms == 0 ? 0 : q_ms + (uint64_t)wall_minus_q; /* wraps where both are absurd */
}

static void put_enhanced(struct json *j, const uint16_t enhanced[3])
{
    uint8_t memory[sizeof "999.999.999"];
    struct buf text;
    buf_init(&text, memory, sizeof memory);
    if (enhanced[0] != 0) {
        buf_put_u64(&text, enhanced[0]);
        buf_put_byte(&text, '.');
        buf_put_u64(&text, enhanced[1]);
        buf_put_byte(&text, '.');
        buf_put_u64(&text, enhanced[2]);
    }
    json_put_text(j, "enhanced", buf_slice(&text));
}

struct playbook_words view_words(const struct record_message *m,
                                 const struct record_recipient *recipient)
{
    return playbook_words(m->provider, recipient->outcome, recipient->code, recipient->text);
}

/* Of a move the upstream may have been another one than the message has now. */
static struct playbook_words words_of_move(const struct record_message *m,
                                           const struct record_move *move)
{
    bool same = slice_equal(move->upstream, m->state.upstream);
    return playbook_words(same ? m->provider : PLAYBOOK_NONE, move->outcome, move->code,
                          move->text);
}

/* reason ... text: the same six members in a row and in a recipient. */
static void put_answer(struct json *j, const struct record_message *m,
                       const struct record_recipient *recipient)
{
    struct playbook_words words = view_words(m, recipient);
    json_put_str(j, "reason", outcome_row(recipient->outcome)->word);
    json_put_str(j, "sentence", words.sentence);
    json_put_str(j, "hint", words.hint);
    json_put_u64(j, "code", recipient->code);
    put_enhanced(j, recipient->enhanced);
    json_put_text(j, "text", recipient->text);
}

void view_put_id(struct json *j, const char *key, const struct msg_id *id)
{
    uint8_t memory[MSG_ID_TEXT_BYTES];
    struct buf text;
    buf_init(&text, memory, sizeof memory);
    msg_id_put_text(&text, id);
    json_put_text(j, key, buf_slice(&text));
}

static void put_to(struct json *j, struct slice recipients)
{
    struct slice path;
    json_open_array(j, "to");
    for (size_t count = 0;
         count < VIEW_RECIPIENTS_ROW_MAX && record_recipient_next(&recipients, &path); count++) {
        json_put_text(j, NULL, path);
    }
    json_close_array(j);
}

static void put_history(struct json *j, const struct record_history *history)
{
    json_put_str(j, "in", history == NULL ? "queue" : "history");
    if (history != NULL) {
        json_put_u64(j, "left_ms", history->left_ms);
        json_put_str(j, "end", record_end_word(history->end));
    }
}

static void put_row_members(struct json *j, const struct record_message *m, int64_t wall_minus_q)
{
    const struct record_envelope *envelope = &m->envelope;
    const struct record_state *state = &m->state;
    struct record_recipient worst = view_worst(m);
    bool has_due = m->history == NULL && state->state != MESSAGE_HELD &&
                   (state->state != MESSAGE_FAILED || state->flags != 0);
    view_put_id(j, "id", &m->id);
    json_put_str(j, "state", lifecycle_word(view_state(m, worst.state)));
    json_put_text(j, "from", envelope->sender);
    put_to(j, envelope->recipients);
    json_put_u64(j, "recipient_count", envelope->recipient_count);
    json_put_u64(j, "bytes", envelope->body_bytes);
    json_put_u64(j, "arrived_ms", envelope->arrived_ms);
    json_put_text(j, "client", envelope->client);
    json_put_text(j, "device", envelope->device);
    json_put_text(j, "subject", envelope->subject);
    json_put_text(j, "upstream", state->upstream);
    json_put_bool(j, "upstream_stuck", m->history == NULL && m->upstream_stuck);
    json_put_u64(j, "attempts", state->attempts);
    json_put_u64(j, "due_ms", has_due ? to_wall(state->due_q, wall_minus_q) : 0);
    json_put_u64(j, "last_ms", to_wall(state->last_q, wall_minus_q));
    put_answer(j, m, &worst);
    put_history(j, m->history);
}

void view_put_row(struct json *j, const struct record_message *message, int64_t wall_minus_q)
{
    json_open_object(j, NULL);
    put_row_members(j, message, wall_minus_q);
    json_close_object(j);
}

struct flag_word {
    uint16_t flag;
    const char *word;
};

static void put_flag_words(struct json *j, const char *key, uint16_t flags,
                           const struct flag_word *rows, size_t count)
{
    json_open_array(j, key);
    for (size_t index = 0; index < count; index++) {
        if ((flags & rows[index].flag) != 0) {
            json_put_str(j, NULL, rows[index].word);
        }
    }
    json_close_array(j);
}

static void put_told(struct json *j, uint8_t notify, uint8_t flags)
{
    static const struct flag_word notifies[] = {{RECORD_NOTIFY_NEVER, "never"},
                                                {RECORD_NOTIFY_SUCCESS, "success"},
                                                {RECORD_NOTIFY_FAILURE, "failure"},
                                                {RECORD_NOTIFY_DELAY, "delay"}};
    static const struct flag_word told[] = {{RECORD_FATE_TOLD_FAILED, "failed"},
                                            {RECORD_FATE_TOLD_DELAY, "delay"},
                                            {RECORD_FATE_TOLD_SUCCESS, "success"}};
    put_flag_words(j, "notify", notify, notifies, sizeof notifies / sizeof notifies[0]);
    put_flag_words(j, "told", flags, told, sizeof told / sizeof told[0]);
}

/* Both lists have the envelope's order. Where the second is too short, which no intact pair is, a
 * recipient is shown as never tried. */
static void put_recipients(struct json *j, const struct record_message *m)
{
    struct slice recipients = m->envelope.recipients;
    struct slice fates = m->state.recipients;
    struct record_rcpt rcpt;
    json_open_array(j, "recipients");
    for (size_t count = 0; count < VIEW_RECIPIENTS_SHOW_MAX && record_rcpt_next(&recipients, &rcpt);
         count++) {
        struct record_recipient fate;
        if (!record_fate_next(&fates, &fate)) {
            fate = (struct record_recipient){.state = RECIPIENT_QUEUED, .outcome = OUTCOME_NONE};
        }
        json_open_object(j, NULL);
        json_put_text(j, "to", rcpt.path);
        enum lifecycle shown = fate.state == RECIPIENT_FAILED ? LIFECYCLE_FAILED /* trashed too */
                                                              : view_state(m, fate.state);
        json_put_str(j, "state", lifecycle_word(shown));
        put_answer(j, m, &fate);
        put_told(j, rcpt.notify, fate.flags);
        json_close_object(j);
    }
    json_close_array(j);
}

static void put_move(struct json *j, const struct record_message *message,
                     const struct record_move *m)
{
    const char *sentence = words_of_move(message, m).sentence;
    json_open_object(j, NULL);
    json_put_u64(j, "when_ms", m->when_ms);
    json_put_str(j, "cause", record_cause_word(m->cause));
    json_put_str(j, "from", lifecycle_word(m->from));
    json_put_str(j, "to", lifecycle_word(m->to));
    json_put_str(j, "reason", outcome_row(m->outcome)->word);
    json_put_str(j, "sentence", m->outcome == OUTCOME_NONE ? "" : sentence);
    json_put_u64(j, "code", m->code);
    put_enhanced(j, m->enhanced);
    json_put_u64(j, "first", m->first);
    json_put_u64(j, "count", m->count);
    json_put_u64(j, "connection", m->connection);
    json_put_u64(j, "took_ms", m->duration_ms);
    json_put_text(j, "upstream", m->upstream);
    json_put_text(j, "peer", m->peer);
    json_put_text(j, "tls", m->tls);
    json_put_text(j, "text", m->text);
    json_put_u64(j, "uid", m->uid);
    json_close_object(j);
}

static void put_moves(struct json *j, const struct record_message *m)
{
    const struct record_trail *trail = m->trail;
    struct slice rest = trail == NULL ? slice_of(NULL, 0) : trail->moves;
    struct record_move move;
    json_open_array(j, "moves");
    while (record_move_next(&rest, &move)) {
        put_move(j, m, &move);
    }
    json_close_array(j);
    json_put_u64(j, "moves_left_out", trail == NULL ? 0 : trail->moves_left_out);
}

static void put_flags(struct json *j, uint16_t flags)
{
    static const struct flag_word rows[] = {
        {RECORD_FLAG_8BITMIME, "8bitmime"}, {RECORD_FLAG_8BIT, "8bit"},
        {RECORD_FLAG_SMTPUTF8, "smtputf8"}, {RECORD_FLAG_REPORT, "report"},
        {RECORD_FLAG_DIGEST, "digest"},     {RECORD_FLAG_RET_FULL, "ret-full"},
        {RECORD_FLAG_RET_HDRS, "ret-hdrs"}};
    put_flag_words(j, "flags", flags, rows, sizeof rows / sizeof rows[0]);
}

void view_put_message(struct json *j, const struct record_message *message, int64_t wall_minus_q)
{
    json_open_object(j, NULL);
    put_row_members(j, message, wall_minus_q);
    put_recipients(j, message);
    json_put_text(j, "helo", message->envelope.helo);
    json_put_u64(j, "chunks", message->envelope.chunk_count);
    put_flags(j, message->envelope.flags);
    json_put_text(j, "envid", message->envelope.envid);
    put_moves(j, message);
    json_close_object(j);
}

/* ---- in a sentence ---- */

static void why_words(struct buf *to, const struct record_message *m,
                      const struct record_recipient *worst)
{
    if (worst->code == 0 && worst->text.len == 0) {
        return;
    }
    buf_put_str(to, " (");
    text_put_escaped(to, m->state.upstream);
    buf_put_str(to, worst->code != 0 ? " said: " : ": ");
    if (worst->code != 0) {
        buf_put_u64(to, worst->code);
        buf_put_byte(to, ' ');
    }
    text_put_escaped(to, slice_head(worst->text, 200));
    buf_put_byte(to, ')');
}

static void why_when(struct buf *to, const char *before, uint64_t at_ms, uint64_t now_ms,
                     const char *after)
{
    buf_put_str(to, before);
    if (at_ms > now_ms) {
        buf_put_str(to, "in ");
        when_put_span(to, at_ms - now_ms);
    } else {
        buf_put_str(to, "as soon as a connection is free");
    }
    buf_put_str(to, after);
}

static void why_in_history(struct buf *to, const struct record_message *m,
                           const struct record_recipient *worst)
{
    static const char *const words[RECORD_END_COUNT] = {
        [RECORD_END_DELIVERED] = "It was delivered: ",
        [RECORD_END_REPORTED] = "It could not be delivered, and that was reported: ",
        [RECORD_END_DELETED] = "It was deleted by an administrator; last, ",
        [RECORD_END_DISCARDED] = "It could not be delivered, and nobody wanted to be told: ",
    };
    buf_put_str(to, words[m->history->end]);
    buf_put_str(to, view_words(m, worst).sentence);
    why_words(to, m, worst);
    buf_put_byte(to, '.');
}

static void why_queued(struct buf *to, const struct record_message *m,
                       const struct record_recipient *worst, uint64_t due_ms, uint64_t now_ms)
{
    if (m->leased) {
        buf_put_str(to, "It is being sent right now.");
        return;
    }
    if (worst->outcome == OUTCOME_NONE) {
        why_when(to, "It waits for its first try, which comes ", due_ms, now_ms, ".");
        return;
    }
    buf_put_str(to, "It waits: ");
    buf_put_str(to, view_words(m, worst).sentence);
    why_words(to, m, worst);
    why_when(to, ". It is tried again ", due_ms, now_ms, ".");
}

void view_why(const struct record_message *message, int64_t wall_minus_q, uint64_t now_ms,
              char out[VIEW_WHY_BYTES])
{
    const struct record_message *m = message;
    struct record_recipient worst = view_worst(m);
    uint64_t due_ms = to_wall(m->state.due_q, wall_minus_q);
    struct buf to;
    buf_init(&to, out, VIEW_WHY_BYTES - 1);
    if (m->history != NULL) {
        why_in_history(&to, m, &worst);
    } else if (m->state.state == MESSAGE_HELD) {
        buf_put_str(&to, "It is held by an administrator: it waits until it is released.");
    } else if (m->state.state == MESSAGE_TRASHED) {
        why_when(&to, "It is in the trash, and goes for good ", due_ms, now_ms, ": ");
        buf_put_str(&to, view_words(m, &worst).sentence);
        why_words(&to, m, &worst);
        buf_put_byte(&to, '.');
    } else if (m->state.state == MESSAGE_FAILED) {
        buf_put_str(&to, "It has failed for good, and nobody could be told yet: ");
        buf_put_str(&to, view_words(m, &worst).sentence);
        why_words(&to, m, &worst);
        buf_put_byte(&to, '.');
    } else {
        why_queued(&to, m, &worst, due_ms, now_ms);
    }
    out[to.len] = '\0';
}

/* ---- a move in words ---- */

static void move_answer(struct buf *to, const struct record_move *m)
{
    if (m->code != 0 || m->text.len > 0) {
        buf_put_str(to, ": ");
    }
    if (m->code != 0) {
        buf_put_u64(to, m->code);
        buf_put_byte(to, ' ');
    }
    text_put_escaped(to, m->text);
}

void view_put_move_line(struct buf *to, const struct record_message *message,
                        const struct record_move *move, uint64_t now_ms)
{
    const struct record_move *m = move;
    if (now_ms > m->when_ms) {
        when_put_span(to, now_ms - m->when_ms);
        buf_put_str(to, " ago: ");
    } else {
        buf_put_str(to, "just now: ");
    }
    if (m->count > 1) {
        buf_put_u64(to, m->count);
        buf_put_str(to, " recipients ");
    }
    buf_put_str(to, m->from == m->to ? record_cause_word(m->cause) : lifecycle_word(m->to));
    if (m->upstream.len > 0) {
        buf_put_str(to, " by ");
        text_put_escaped(to, m->upstream);
    }
    if (m->cause == RECORD_CAUSE_OPERATOR) {
        buf_put_str(to, " by uid ");
        buf_put_u64(to, m->uid);
    }
    if (m->outcome != OUTCOME_NONE && m->outcome != OUTCOME_DELIVERED) {
        buf_put_str(to, ", ");
        buf_put_str(to, words_of_move(message, m).sentence);
    }
    move_answer(to, m);
    if (m->connection != 0) {
        buf_put_str(to, " (connection ");
        buf_put_u64(to, m->connection);
        buf_put_str(to, ", ");
        buf_put_u64(to, m->duration_ms);
        buf_put_str(to, " ms)");
    }
}
