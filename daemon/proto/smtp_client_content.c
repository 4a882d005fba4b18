/*
 * Content on its way out, by DATA with dots or by BDAT in chunks, and what is said to it.
 *
 * A chunk is announced by the piece that the owner brings first, counted to the byte as it will
 * leave: every line ends in CRLF, and no lone CR or LF leaves, in chunks as in DATA. The piece that
 * makes the content whole goes in the last chunk. RFC 3030 2.
 */
#include "daemon/base/num.h"
#include "daemon/proto/smtp_client_parts.h"

/* BDAT (20 digits) LAST CRLF */
#define CHUNK_LINE_BYTES_MAX (5 + 20 + 5 + 2)
#define CRLF_BYTES           2

static const char words_no_bdat[] = "BDAT was refused, though CHUNKING is announced";
static const char words_half_refused[] = "a chunk was taken after another had been refused";

static bool in_chunks(const struct smtp_client *c)
{
    return c->mode == SMTP_CLIENT_PIPELINING_STREAM;
}

void smtp_client_content_begin(struct smtp_client *c, struct smtp_client_slot *slot)
{
    slot->phase = SMTP_CLIENT_PHASE_CONTENT;
    c->content_to_tell = true;
    c->content_until_ms = 0; /* what the message before did not need is not kept */
    smtp_client_content_time_begin(c);
    smtp_data_encoder_init(&c->encoder);
    c->chunk_left = 0;
    c->chunk_last = false;
    c->chunk_line_start = true;
    c->chunk_after_cr = false;
}

bool smtp_client_wants_content(const struct smtp_client *c, uint32_t *out_tag)
{
    if (c->state != SMTP_CLIENT_READY || c->writing == c->slot_count) {
        return false;
    }
    const struct smtp_client_slot *slot =
        &c->slots[(c->slot_head + c->writing) % SMTP_CLIENT_WINDOW_MAX];
    *out_tag = slot->mail.tag;
    return slot->phase == SMTP_CLIENT_PHASE_CONTENT;
}

/* Content was put into the output. */
static void content_was_put(struct smtp_client *c)
{
    c->content_end = c->output_passed + smtp_client_unsent(c);
}

/* ---- line ends in chunks ---- */

/* Every LF stands behind a CR, every CR before an LF, and none at either end is half of a pair. */
static bool is_clean(struct slice in)
{
    size_t at = 0;
    while (at < in.len) {
        struct slice rest = slice_tail(in, at);
        size_t lf = slice_find(rest, '\n');
        size_t cr = slice_find(slice_head(rest, lf), '\r');
        if (lf == rest.len) {
            return cr == rest.len;
        }
        if (cr + 1 != lf) {
            return false;
        }
        at += lf + 1;
    }
    return true;
}

/*
 * Takes in, byte by byte, and puts it with every CR, LF or CRLF as CRLF; as much as to has room
 * for. to NULL: only counts. A CR at the end is held back until it is known what follows. Returns
 * the bytes of in that were used; *out_count says how many leave for them.
 */
static size_t mend(struct smtp_client *c, struct slice in, struct buf *to, uint64_t *out_count)
{
    size_t used = 0;
    uint64_t count = 0;
    while (used < in.len && (to == NULL || buf_room(to) >= CRLF_BYTES)) {
        uint8_t byte = in.data[used];
        bool breaks = byte == '\n' || c->chunk_after_cr;
        used += c->chunk_after_cr && byte != '\n' ? 0 : 1;
        if (breaks) {
            c->chunk_after_cr = false;
            c->chunk_line_start = true;
            count += CRLF_BYTES;
            if (to != NULL) {
                buf_put_str(to, "\r\n");
            }
        } else if (byte == '\r') {
            c->chunk_after_cr = true;
        } else {
            c->chunk_line_start = false;
            count++;
            if (to != NULL) {
                buf_put_byte(to, byte);
            }
        }
    }
    *out_count = count;
    return used;
}

/* The CRLF that the content still lacks. */
static uint64_t closing_bytes(const struct smtp_client *c)
{
    return c->chunk_after_cr || !c->chunk_line_start ? CRLF_BYTES : 0;
}

/* ---- chunks ---- */

static void put_chunk_line(struct smtp_client *c, struct smtp_client_slot *slot, uint64_t bytes,
                           bool last)
{
    size_t before = c->output.len;
    buf_put_str(&c->output, "BDAT ");
    buf_put_u64(&c->output, bytes);
    buf_put_str(&c->output, last ? " LAST\r\n" : "\r\n");
    smtp_client_expect_chunk(c, last ? SMTP_CLIENT_COMMAND_LAST : SMTP_CLIENT_COMMAND_CHUNK, bytes);
    smtp_client_note_command(c, slot, before);
    slot->unanswered++;
    c->chunk_left = bytes;
    c->chunk_last = last;
}

/* Announces what leaves for in. False: no room. */
static bool chunk_begin(struct smtp_client *c, struct smtp_client_slot *slot, struct slice in)
{
    if (!smtp_client_can_put(c, CHUNK_LINE_BYTES_MAX)) {
        return false;
    }
    bool line_start = c->chunk_line_start;
    bool after_cr = c->chunk_after_cr;
    uint64_t count = in.len;
    c->chunk_clean = !after_cr && is_clean(in);
    if (c->chunk_clean) {
        c->chunk_line_start = in.data[in.len - 1] == '\n';
    } else {
        (void)mend(c, in, NULL, &count);
    }
    bool last = slot->content_bytes + in.len == slot->mail.size;
    count += last ? closing_bytes(c) : 0;
    c->chunk_line_start = line_start;
    c->chunk_after_cr = after_cr;
    CHECK(count > 0);
    put_chunk_line(c, slot, count, last);
    return true;
}

static size_t chunk_content(struct smtp_client *c, struct smtp_client_slot *slot, struct slice in)
{
    uint64_t count = 0;
    if (c->chunk_left == 0) {
        CHECK(!c->chunk_last); /* more came than mail.size says */
        bool only_cr = in.len == 1 && in.data[0] == '\r' && !c->chunk_after_cr;
        if (only_cr && slot->content_bytes + 1 < slot->mail.size) {
            return mend(c, in, NULL, &count); /* held back */
        }
        if (!chunk_begin(c, slot, in)) {
            return 0;
        }
    }
    size_t used;
    if (c->chunk_clean) {
        used = size_min(in.len, buf_room(&c->output));
        used -= used > 0 && in.data[used - 1] == '\r' ? 1 : 0; /* a pair stays together */
        buf_put(&c->output, slice_head(in, used));
        c->chunk_line_start = used > 0 ? in.data[used - 1] == '\n' : c->chunk_line_start;
        count = used;
    } else {
        used = mend(c, in, &c->output, &count);
    }
    CHECK(count <= c->chunk_left); /* what was left in the call before did not come first */
    c->chunk_left -= count;
    return used;
}

/* What is lacking of the last chunk, or the whole of it when it was not begun. */
static bool chunk_end(struct smtp_client *c, struct smtp_client_slot *slot)
{
    if (!c->chunk_last) {
        CHECK(c->chunk_left == 0);
        if (!smtp_client_can_put(c, CHUNK_LINE_BYTES_MAX + CRLF_BYTES)) {
            return false;
        }
        put_chunk_line(c, slot, closing_bytes(c), true);
    }
    CHECK(c->chunk_left == closing_bytes(c));
    if (c->chunk_left > buf_room(&c->output)) {
        return false;
    }
    if (c->chunk_left > 0) {
        buf_put_str(&c->output, "\r\n");
    }
    c->chunk_left = 0;
    return true;
}

/* The server reads what was announced, whatever it has said meanwhile, and drops it: blanks. */
bool smtp_client_content_fill(struct smtp_client *c, struct smtp_client_slot *slot)
{
    if (c->chunk_left == 0) {
        return true;
    }
    if (c->content_end <= c->output_passed) {
        c->waiting_since_ms = c->now_ms;
    }
    while (c->chunk_left > 0 && buf_room(&c->output) > 0) {
        buf_put_byte(&c->output, ' ');
        c->chunk_left--;
    }
    content_was_put(c);
    if (c->chunk_left == 0) {
        smtp_client_note(slot, "-- ", SLICE("nobody is left: the rest of the content is not sent"));
    }
    return c->chunk_left == 0;
}

/* ---- the owner's moves ---- */

size_t smtp_client_content(struct smtp_client *c, struct slice in, uint64_t now_ms)
{
    if (c->state == SMTP_CLIENT_CLOSED) {
        return in.len;
    }
    struct smtp_client_slot *slot = smtp_client_slot_written(c);
    CHECK(slot != NULL && slot->phase == SMTP_CLIENT_PHASE_CONTENT);
    if (in.len == 0) {
        return 0;
    }
    if (smtp_client_deadline_ms(c) == UINT64_MAX) {
        c->content_until_ms += now_ms - c->waiting_since_ms; /* it was the owner's turn */
    }
    c->now_ms = now_ms;
    c->content_to_tell = false;
    c->secret_output = false;
    bool was_empty = smtp_client_unsent(c) == 0;
    size_t used =
        in_chunks(c) ? chunk_content(c, slot, in) : smtp_data_encode(&c->encoder, in, &c->output);
    slot->content_bytes += used;
    if (was_empty) {
        c->waiting_since_ms = now_ms;
    }
    content_was_put(c);
    return used;
}

static void note_content(struct smtp_client_slot *slot)
{
    uint8_t memory[64];
    struct buf words;
    buf_init(&words, memory, sizeof memory);
    buf_put_u64(&words, slot->content_bytes);
    buf_put_str(&words, " bytes of content");
    smtp_client_note(slot, "-- ", buf_slice(&words));
}

bool smtp_client_content_end(struct smtp_client *c, uint64_t now_ms)
{
    if (c->state == SMTP_CLIENT_CLOSED) {
        return true;
    }
    struct smtp_client_slot *slot = smtp_client_slot_written(c);
    CHECK(slot != NULL && slot->phase == SMTP_CLIENT_PHASE_CONTENT);
    c->now_ms = now_ms;
    if (in_chunks(c)) {
        if (!chunk_end(c, slot)) {
            return false;
        }
        note_content(slot);
    } else {
        if (!smtp_data_encode_end(&c->encoder, &c->output)) {
            return false;
        }
        smtp_client_expect(c, SMTP_CLIENT_COMMAND_DOT, 0);
        slot->unanswered++;
        note_content(slot);
        smtp_client_note(slot, "C: ", SLICE("."));
    }
    c->content_to_tell = false;
    content_was_put(c);
    slot->phase = SMTP_CLIENT_PHASE_END;
    smtp_client_advance(c);
    return true;
}

bool smtp_client_content_abandon(struct smtp_client *c, uint64_t now_ms)
{
    if (c->state == SMTP_CLIENT_CLOSED) {
        return true;
    }
    struct smtp_client_slot *slot = smtp_client_slot_written(c);
    CHECK(slot != NULL && slot->phase == SMTP_CLIENT_PHASE_CONTENT);
    if (!in_chunks(c) || c->chunk_left > 0 || c->chunk_last) {
        return false;
    }
    c->now_ms = now_ms;
    c->content_to_tell = false;
    slot->abandoned = true;
    slot->phase = SMTP_CLIENT_PHASE_FILL;
    smtp_client_advance(c);
    return true;
}

/* ---- replies ---- */

/* 354: begin. With no recipient left it came for a DATA that was sent too early, and must be ended
 * with a dot; nothing was delivered, whatever is answered to that. RFC 2920 3.1. */
static void take_go_ahead(struct smtp_client *c, struct smtp_client_slot *slot)
{
    if (slot->accepted_count == 0) {
        slot->phase = SMTP_CLIENT_PHASE_RESET;
        smtp_client_put_command(c, SMTP_CLIENT_COMMAND_LONE_DOT, ".\r\n");
        smtp_client_note(slot, "C: ", SLICE("."));
        slot->unanswered++;
        return;
    }
    smtp_client_content_begin(c, slot);
}

enum smtp_client_verdict smtp_client_data_answered(struct smtp_client *c,
                                                   const struct smtp_reply *reply, uint32_t index)
{
    (void)index;
    if (reply->code == 354) {
        take_go_ahead(c, smtp_client_slot_at(c, 0));
        return SMTP_CLIENT_VERDICT_TAKEN;
    }
    if (!smtp_client_reply_is_no(reply)) {
        return SMTP_CLIENT_VERDICT_ABSURD;
    }
    smtp_client_refuse_accepted(c, SMTP_CLIENT_STAGE_DATA, reply);
    return SMTP_CLIENT_VERDICT_TAKEN;
}

enum smtp_client_verdict smtp_client_dot_answered(struct smtp_client *c,
                                                  const struct smtp_reply *reply, uint32_t index)
{
    (void)index;
    if (!smtp_client_reply_is_yes(reply) && !smtp_client_reply_is_no(reply)) {
        return SMTP_CLIENT_VERDICT_ABSURD;
    }
    smtp_client_finish(c, reply);
    return SMTP_CLIENT_VERDICT_TAKEN;
}

enum smtp_client_verdict
smtp_client_lone_dot_answered(struct smtp_client *c, const struct smtp_reply *reply, uint32_t index)
{
    (void)index;
    if (!smtp_client_reply_is_yes(reply) && !smtp_client_reply_is_no(reply)) {
        return SMTP_CLIENT_VERDICT_ABSURD;
    }
    smtp_client_finish(c, NULL);
    return SMTP_CLIENT_VERDICT_TAKEN;
}

/* 500 to 504 speak of the command, not of the message. A message without a recipient is refused
 * with one of them as well, and rightly. */
static bool is_about_bdat(const struct smtp_reply *reply)
{
    return reply->code >= 500 && reply->code <= 504;
}

/* Judges what both kinds of chunk share. TAKEN: it fits. */
static enum smtp_client_verdict judge_chunk(struct smtp_client *c, struct smtp_client_slot *slot,
                                            const struct smtp_reply *reply)
{
    if (smtp_client_reply_is_yes(reply) && !slot->chunk_refused) {
        return SMTP_CLIENT_VERDICT_TAKEN;
    }
    if (smtp_client_reply_is_yes(reply)) {
        c->misfit = words_half_refused;
        return SMTP_CLIENT_VERDICT_ABSURD;
    }
    if (!smtp_client_reply_is_no(reply)) {
        return SMTP_CLIENT_VERDICT_ABSURD;
    }
    if (slot->accepted_count > 0 && is_about_bdat(reply)) {
        c->misfit = words_no_bdat;
        return SMTP_CLIENT_VERDICT_ABSURD;
    }
    return SMTP_CLIENT_VERDICT_TAKEN;
}

/* RFC 3030 2: after a refusal the message has failed, and no further chunk of it is begun. */
enum smtp_client_verdict smtp_client_chunk_answered(struct smtp_client *c,
                                                    const struct smtp_reply *reply, uint32_t index)
{
    (void)index;
    struct smtp_client_slot *slot = smtp_client_slot_at(c, 0);
    enum smtp_client_verdict verdict = judge_chunk(c, slot, reply);
    if (verdict != SMTP_CLIENT_VERDICT_TAKEN || smtp_client_reply_is_yes(reply) ||
        slot->accepted_count == 0) {
        return verdict;
    }
    slot->chunk_refused = true;
    smtp_client_refuse_accepted(c, SMTP_CLIENT_STAGE_CONTENT, reply);
    if (slot->phase == SMTP_CLIENT_PHASE_CONTENT) {
        slot->phase = SMTP_CLIENT_PHASE_FILL;
        c->content_to_tell = false;
    } else if (slot->phase == SMTP_CLIENT_PHASE_END) {
        slot->phase = SMTP_CLIENT_PHASE_RESET; /* by its last chunk; one in FILL waits for RSET */
    }
    return verdict;
}

enum smtp_client_verdict smtp_client_last_answered(struct smtp_client *c,
                                                   const struct smtp_reply *reply, uint32_t index)
{
    (void)index;
    struct smtp_client_slot *slot = smtp_client_slot_at(c, 0);
    enum smtp_client_verdict verdict = judge_chunk(c, slot, reply);
    if (verdict == SMTP_CLIENT_VERDICT_TAKEN) {
        smtp_client_finish(c, slot->accepted_count > 0 ? reply : NULL);
    }
    return verdict;
}
