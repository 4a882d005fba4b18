#include "schema/view.h"

/* The worst-off recipient speaks for the message: failed before queued before delivered, and one
 * with an answer before one that was never tried. */
static unsigned misery(const struct record_recipient *recipient)
{
    switch (recipient->state) {
    case RECIPIENT_FAILED:
        return 3;
    case RECIPIENT_QUEUED:
        return recipient->outcome != OUTCOME_NONE ? 2 : 1;
    case RECIPIENT_DELIVERED:
        return 0;
    }
    return 0;
}

/* The first of the worst; what was never tried when the list is empty. */
static struct record_recipient worst_recipient(const struct record_state *state)
{
    struct record_recipient worst = {.state = RECIPIENT_QUEUED, .outcome = OUTCOME_NONE};
    struct record_recipient recipient;
    struct slice rest = state->recipients;
    bool first = true;
    while (record_fate_next(&rest, &recipient)) {
        if (first || misery(&recipient) > misery(&worst)) {
            worst = recipient;
        }
        first = false;
    }
    return worst;
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

/* reason ... text: the same six members in a row and in a recipient. */
static void put_answer(struct json *j, const struct record_recipient *recipient)
{
    const struct outcome_row *row = outcome_row(recipient->outcome);
    json_put_str(j, "reason", row->word);
    json_put_str(j, "sentence", row->sentence);
    json_put_str(j, "hint", row->hint);
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

static void put_row_members(struct json *j, const struct msg_id *id,
                            const struct record_envelope *envelope,
                            const struct record_state *state, bool sending)
{
    view_put_id(j, "id", id);
    json_put_str(j, "state", sending ? "sending" : message_state_word(state->state));
    json_put_text(j, "from", envelope->sender);
    put_to(j, envelope->recipients);
    json_put_u64(j, "recipient_count", envelope->recipient_count);
    json_put_u64(j, "bytes", envelope->body_bytes);
    json_put_u64(j, "arrived_ms", envelope->arrived_ms);
    json_put_text(j, "client", envelope->client);
    json_put_text(j, "device", envelope->device);
    json_put_text(j, "subject", envelope->subject);
    json_put_text(j, "upstream", state->upstream);
    json_put_u64(j, "attempts", state->attempts);
    json_put_u64(j, "due_ms", state->state == MESSAGE_QUEUED ? state->due_ms : 0);
    json_put_u64(j, "last_ms", state->last_ms);
    struct record_recipient worst = worst_recipient(state);
    put_answer(j, &worst);
}

void view_put_row(struct json *j, const struct msg_id *id, const struct record_envelope *envelope,
                  const struct record_state *state, bool sending)
{
    json_open_object(j, NULL);
    put_row_members(j, id, envelope, state, sending);
    json_close_object(j);
}

static const char *recipient_state_word(enum recipient_state state)
{
    static const char *const words[] = {[RECIPIENT_QUEUED] = "queued",
                                        [RECIPIENT_DELIVERED] = "delivered",
                                        [RECIPIENT_FAILED] = "failed"};
    CHECK((unsigned)state < sizeof words / sizeof words[0]);
    return words[state];
}

/* Both lists have the envelope's order. Where the second is too short, which no intact pair is, a
 * recipient is shown as never tried. */
static void put_recipients(struct json *j, struct slice recipients, struct slice fates)
{
    struct slice path;
    json_open_array(j, "recipients");
    for (size_t count = 0;
         count < VIEW_RECIPIENTS_SHOW_MAX && record_recipient_next(&recipients, &path); count++) {
        struct record_recipient fate;
        if (!record_fate_next(&fates, &fate)) {
            fate = (struct record_recipient){.state = RECIPIENT_QUEUED, .outcome = OUTCOME_NONE};
        }
        json_open_object(j, NULL);
        json_put_text(j, "to", path);
        json_put_str(j, "state", recipient_state_word(fate.state));
        put_answer(j, &fate);
        json_close_object(j);
    }
    json_close_array(j);
}

static void put_flags(struct json *j, uint16_t flags)
{
    static const struct {
        uint16_t flag;
        const char *word;
    } rows[] = {{RECORD_FLAG_8BITMIME, "8bitmime"},
                {RECORD_FLAG_8BIT, "8bit"},
                {RECORD_FLAG_SMTPUTF8, "smtputf8"}};
    json_open_array(j, "flags");
    for (size_t index = 0; index < sizeof rows / sizeof rows[0]; index++) {
        if ((flags & rows[index].flag) != 0) {
            json_put_str(j, NULL, rows[index].word);
        }
    }
    json_close_array(j);
}

void view_put_message(struct json *j, const struct msg_id *id,
                      const struct record_envelope *envelope, const struct record_state *state,
                      bool sending)
{
    json_open_object(j, NULL);
    put_row_members(j, id, envelope, state, sending);
    put_recipients(j, envelope->recipients, state->recipients);
    json_put_text(j, "helo", envelope->helo);
    json_put_u64(j, "chunks", envelope->chunk_count);
    put_flags(j, envelope->flags);
    json_close_object(j);
}
