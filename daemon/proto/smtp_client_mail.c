/*
 * The window, and the envelopes of the messages in it. A message is begun, written when its turn
 * comes, and over when the last answer about it has come; those behind it are none the worse for
 * what became of it.
 *
 * Each recipient has a fate of its own and is told once: by RECIPIENT when it was refused, else by
 * DONE or LOST.
 */
#include "daemon/proto/smtp_client_parts.h"

/* MAIL FROM:<...> SIZE=(20 digits) BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=... CRLF */
#define MAIL_BYTES_MAX                                                                             \
    (11 + SMTP_PATH_BYTES_MAX + 1 + 26 + 14 + 9 + 9 + 7 + SMTP_CLIENT_ENVID_BYTES_MAX + 2)
/* RCPT TO:<...> NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=... CRLF */
#define RCPT_BYTES_MAX (9 + SMTP_PATH_BYTES_MAX + 1 + 29 + 7 + SMTP_CLIENT_ORCPT_BYTES_MAX + 2)
#define WORD_BYTES_MAX 6 /* DATA CRLF, RSET CRLF */

_Static_assert(MAIL_BYTES_MAX <= SMTP_CLIENT_OUTPUT_BYTES &&
                   RCPT_BYTES_MAX <= SMTP_CLIENT_OUTPUT_BYTES,
               "each command fits into the empty output");
_Static_assert(SMTP_RECIPIENTS_UPSTREAM_MAX <= SMTP_CLIENT_RECIPIENTS_MAX,
               "the largest message fits into the empty window");
_Static_assert((SMTP_CLIENT_RECIPIENTS_MAX & (SMTP_CLIENT_RECIPIENTS_MAX - 1)) == 0,
               "places of recipients wrap by masking");

static const char words_out_of_order[] = "MAIL was called out of order behind another message";

enum recipient {
    RECIPIENT_WAITING,  /* not asked, or asked and not answered */
    RECIPIENT_ACCEPTED, /* 2yz */
    RECIPIENT_REFUSED,  /* a RECIPIENT event is owed */
    RECIPIENT_TOLD,     /* and was pulled; its fate is sealed */
};

/* ---- the window ---- */

struct smtp_client_slot *smtp_client_slot_at(struct smtp_client *c, uint32_t at)
{
    CHECK(at < c->slot_count);
    return &c->slots[(c->slot_head + at) % SMTP_CLIENT_WINDOW_MAX];
}

struct smtp_client_slot *smtp_client_slot_written(struct smtp_client *c)
{
    return c->writing < c->slot_count ? smtp_client_slot_at(c, c->writing) : NULL;
}

static uint8_t *recipient_state(struct smtp_client *c, const struct smtp_client_slot *slot,
                                uint32_t index)
{
    return &c->recipient_states[(slot->recipients_first + index) &
                                (SMTP_CLIENT_RECIPIENTS_MAX - 1)];
}

static uint32_t window_max(const struct smtp_client *c)
{
    switch (c->mode) {
    case SMTP_CLIENT_PIPELINING_OFF:
        return 1;
    case SMTP_CLIENT_PIPELINING_SAFE:
        return 2; /* one whose dot is not answered, and the next one's envelope behind it */
    case SMTP_CLIENT_PIPELINING_STREAM:
        break;
    }
    return c->config->window_max;
}

bool smtp_client_has_room(const struct smtp_client *c, uint32_t recipient_count)
{
    return c->state == SMTP_CLIENT_READY && c->slot_count < window_max(c) &&
           c->recipients_used + recipient_count <= SMTP_CLIENT_RECIPIENTS_MAX;
}

bool smtp_client_is_idle(const struct smtp_client *c)
{
    return c->state == SMTP_CLIENT_READY && c->slot_count == 0;
}

static void pop(struct smtp_client *c)
{
    const struct smtp_client_slot *slot = smtp_client_slot_at(c, 0);
    c->bytes_in_flight -= slot->bytes_in_flight;
    c->recipients_used -= slot->mail.recipient_count;
    c->slot_head = (c->slot_head + 1) % SMTP_CLIENT_WINDOW_MAX;
    c->slot_count--;
    c->writing -= c->writing > 0 ? 1 : 0;
}

/* ---- recipients and their fate ---- */

/* Refuses all of the slot that are in the given state, for one reason. */
static void refuse(struct smtp_client *c, struct smtp_client_slot *slot, enum recipient from,
                   enum smtp_client_stage stage, const struct smtp_reply *reply)
{
    c->told_slot = (uint32_t)(slot - c->slots);
    c->told_stage = stage;
    c->told_reply = *reply;
    for (uint32_t index = 0; index < slot->mail.recipient_count; index++) {
        uint8_t *state = recipient_state(c, slot, index);
        if (*state == from) {
            *state = RECIPIENT_REFUSED;
            c->refused_count++;
            slot->undecided_count -= from == RECIPIENT_WAITING;
            slot->accepted_count -= from == RECIPIENT_ACCEPTED;
        }
    }
}

void smtp_client_refuse_accepted(struct smtp_client *c, enum smtp_client_stage stage,
                                 const struct smtp_reply *reply)
{
    refuse(c, smtp_client_slot_at(c, 0), RECIPIENT_ACCEPTED, stage, reply);
}

bool smtp_client_next_refused(struct smtp_client *c, struct smtp_client_event *out_event)
{
    if (c->refused_count == 0) {
        return false;
    }
    const struct smtp_client_slot *slot = &c->slots[c->told_slot];
    uint32_t index = 0;
    while (*recipient_state(c, slot, index) != RECIPIENT_REFUSED) {
        index++;
        CHECK(index < slot->mail.recipient_count);
    }
    *recipient_state(c, slot, index) = RECIPIENT_TOLD;
    c->refused_count--;
    *out_event = (struct smtp_client_event){.type = SMTP_CLIENT_EVENT_RECIPIENT,
                                            .stage = c->told_stage,
                                            .tag = slot->mail.tag,
                                            .index = index,
                                            .accepted_count = slot->accepted_count,
                                            .reply = c->told_reply};
    return true;
}

/* Nobody was accepted, and nobody can be any more. */
static bool is_hopeless(const struct smtp_client_slot *slot)
{
    return slot->accepted_count == 0 && slot->undecided_count == 0;
}

/* ---- writing the envelope ---- */

/* A value that stands in a command as it came: printable, without a blank. RFC 3461 4. */
static bool is_xtext(struct slice text, size_t bytes_max)
{
    for (size_t index = 0; index < text.len; index++) {
        if (text.data[index] <= 0x20 || text.data[index] >= 0x7f) {
            return false;
        }
    }
    return text.len > 0 && text.len <= bytes_max;
}

static void put_mail_dsn(struct smtp_client *c, const struct smtp_client_mail *mail)
{
    if (mail->ret != SMTP_CLIENT_RET_NONE) {
        buf_put_str(&c->output, mail->ret == SMTP_CLIENT_RET_FULL ? " RET=FULL" : " RET=HDRS");
    }
    if (is_xtext(mail->envid, SMTP_CLIENT_ENVID_BYTES_MAX)) {
        buf_put_str(&c->output, " ENVID=");
        buf_put(&c->output, mail->envid);
    }
}

static void put_mail(struct smtp_client *c, struct smtp_client_slot *slot)
{
    const struct smtp_client_mail *mail = &slot->mail;
    size_t before = c->output.len;
    buf_put_str(&c->output, "MAIL FROM:<");
    buf_put(&c->output, mail->sender);
    buf_put_byte(&c->output, '>');
    if ((c->extensions & SMTP_CLIENT_EXT_SIZE) != 0) {
        buf_put_str(&c->output, " SIZE=");
        buf_put_u64(&c->output, mail->size);
    }
    if (mail->body_8bit && (c->extensions & SMTP_CLIENT_EXT_8BITMIME) != 0) {
        buf_put_str(&c->output, " BODY=8BITMIME");
    }
    if (mail->smtputf8) {
        buf_put_str(&c->output, " SMTPUTF8");
    }
    if ((c->extensions & SMTP_CLIENT_EXT_DSN) != 0) {
        put_mail_dsn(c, mail);
    }
    smtp_client_put_command(c, SMTP_CLIENT_COMMAND_MAIL, "\r\n");
    smtp_client_note_command(c, slot, before);
    slot->unanswered++;
    slot->next_command = SMTP_CLIENT_COMMAND_RCPT;
}

/* NOTIFY=NEVER stands alone. RFC 3461 4.1 */
static void put_notify(struct buf *to, uint8_t notify)
{
    static const struct {
        uint8_t bit;
        const char *word;
    } words[] = {{SMTP_CLIENT_NOTIFY_SUCCESS, "SUCCESS"},
                 {SMTP_CLIENT_NOTIFY_FAILURE, "FAILURE"},
                 {SMTP_CLIENT_NOTIFY_DELAY, "DELAY"}};
    bool first = true;
    if ((notify & SMTP_CLIENT_NOTIFY_NEVER) != 0) {
        buf_put_str(to, " NOTIFY=NEVER");
        return;
    }
    for (size_t index = 0; index < sizeof words / sizeof words[0]; index++) {
        if ((notify & words[index].bit) != 0) {
            buf_put_str(to, first ? " NOTIFY=" : ",");
            buf_put_str(to, words[index].word);
            first = false;
        }
    }
}

/* The next recipient that can be asked; after the last one, DATA is next. */
static void put_rcpt(struct smtp_client *c, struct smtp_client_slot *slot)
{
    uint32_t index = slot->recipients_sent;
    while (index < slot->mail.recipient_count &&
           *recipient_state(c, slot, index) != RECIPIENT_WAITING) {
        index++;
    }
    if (index == slot->mail.recipient_count) {
        slot->next_command = SMTP_CLIENT_COMMAND_DATA;
        return;
    }
    slot->recipients_sent = index + 1;
    c->secret_output = false;
    const struct smtp_client_recipient *recipient = &slot->mail.recipients[index];
    size_t before = c->output.len;
    buf_put_str(&c->output, "RCPT TO:<");
    buf_put(&c->output, recipient->path);
    buf_put_byte(&c->output, '>');
    if ((c->extensions & SMTP_CLIENT_EXT_DSN) != 0) {
        put_notify(&c->output, recipient->notify);
        if (is_xtext(recipient->orcpt, SMTP_CLIENT_ORCPT_BYTES_MAX)) {
            buf_put_str(&c->output, " ORCPT=");
            buf_put(&c->output, recipient->orcpt);
        }
    }
    buf_put_str(&c->output, "\r\n");
    smtp_client_expect(c, SMTP_CLIENT_COMMAND_RCPT, index);
    smtp_client_note_command(c, slot, before);
    slot->unanswered++;
}

/* What follows the envelope, where it is of use: a recipient was accepted, or may be yet. */
static void put_data(struct smtp_client *c, struct smtp_client_slot *slot)
{
    slot->next_command = SMTP_CLIENT_COMMAND_NONE;
    if (is_hopeless(slot)) {
        return;
    }
    if (c->mode == SMTP_CLIENT_PIPELINING_STREAM) {
        smtp_client_content_begin(c, slot);
        return;
    }
    size_t before = c->output.len;
    smtp_client_put_command(c, SMTP_CLIENT_COMMAND_DATA, "DATA\r\n");
    smtp_client_note_command(c, slot, before);
    slot->unanswered++;
}

/* What the server has open is given up. False: no room yet. */
static bool put_rset(struct smtp_client *c, struct smtp_client_slot *slot)
{
    if (!smtp_client_can_put(c, WORD_BYTES_MAX)) {
        return false;
    }
    size_t before = c->output.len;
    smtp_client_put_command(c, SMTP_CLIENT_COMMAND_RSET, "RSET\r\n");
    smtp_client_note_command(c, slot, before);
    slot->unanswered++;
    slot->phase = SMTP_CLIENT_PHASE_RESET;
    return true;
}

/* Writes the next command of an envelope. With nothing left to write or to hear there is no
 * recipient left. False: nothing could be done now. */
static bool write_envelope(struct smtp_client *c, struct smtp_client_slot *slot)
{
    if (slot->next_command == SMTP_CLIENT_COMMAND_NONE) {
        if (slot->unanswered > 0) {
            return false;
        }
        if (slot->mail_accepted) {
            return put_rset(c, slot);
        }
        slot->phase = SMTP_CLIENT_PHASE_OVER;
        return true;
    }
    /* The one place that knows of waiting for replies. */
    bool may_write = c->mode != SMTP_CLIENT_PIPELINING_OFF || c->expected_count == 0;
    if (!may_write || !smtp_client_can_put(c, RCPT_BYTES_MAX)) {
        return false;
    }
    if (slot->next_command == SMTP_CLIENT_COMMAND_MAIL) {
        put_mail(c, slot);
    } else if (slot->next_command == SMTP_CLIENT_COMMAND_RCPT) {
        put_rcpt(c, slot);
    } else {
        put_data(c, slot);
    }
    return true;
}

_Static_assert(MAIL_BYTES_MAX <= RCPT_BYTES_MAX, "room for a RCPT is room for any command");

/* A message whose turn it is. False: the window holds as many bytes as it may. */
static bool enter(struct smtp_client *c, struct smtp_client_slot *slot)
{
    if (slot->next_command == SMTP_CLIENT_COMMAND_NONE) {
        slot->phase = SMTP_CLIENT_PHASE_OVER; /* nothing of it can be said */
        return true;
    }
    if (c->mode == SMTP_CLIENT_PIPELINING_STREAM && c->bytes_in_flight > 0 &&
        (slot->mail.size > c->config->window_bytes_max ||
         c->bytes_in_flight > c->config->window_bytes_max - slot->mail.size)) {
        return false;
    }
    slot->bytes_in_flight = slot->mail.size;
    c->bytes_in_flight += slot->mail.size;
    slot->phase = SMTP_CLIENT_PHASE_ENVELOPE;
    return true;
}

/* The chunk that nobody wants, and then the end of the transaction: with the last chunk, or by
 * RSET. */
static bool write_off(struct smtp_client *c, struct smtp_client_slot *slot)
{
    if (!smtp_client_content_fill(c, slot)) {
        return false;
    }
    if (c->chunk_last) {
        slot->phase = SMTP_CLIENT_PHASE_RESET;
        return true;
    }
    return put_rset(c, slot);
}

void smtp_client_advance(struct smtp_client *c)
{
    bool moved = c->state == SMTP_CLIENT_READY;
    while (moved && c->writing < c->slot_count) {
        struct smtp_client_slot *slot = smtp_client_slot_at(c, c->writing);
        switch (slot->phase) {
        case SMTP_CLIENT_PHASE_WAITING:
            moved = enter(c, slot);
            break;
        case SMTP_CLIENT_PHASE_ENVELOPE:
            moved = write_envelope(c, slot);
            break;
        case SMTP_CLIENT_PHASE_CONTENT:
            moved = false; /* the owner's turn */
            break;
        case SMTP_CLIENT_PHASE_FILL:
            moved = write_off(c, slot);
            break;
        case SMTP_CLIENT_PHASE_RESET:
        case SMTP_CLIENT_PHASE_END:
        case SMTP_CLIENT_PHASE_OVER:
            c->writing++;
            break;
        }
    }
}

/* ---- beginning ---- */

/* What may stand between "<" and ">" of a command. Addresses were judged when the mail was taken;
 * this guards against a damaged store. */
static bool path_is_well(struct slice path)
{
    return path.len <= SMTP_PATH_BYTES_MAX && smtp_client_text_is_clean(path);
}

static bool is_ascii(struct slice text)
{
    for (size_t index = 0; index < text.len; index++) {
        if (text.data[index] >= 0x80) {
            return false;
        }
    }
    return true;
}

static bool needs_smtputf8(const struct smtp_client_mail *mail)
{
    bool needed = mail->smtputf8 || !is_ascii(mail->sender);
    for (uint32_t index = 0; index < mail->recipient_count && !needed; index++) {
        needed = !is_ascii(mail->recipients[index].path);
    }
    return needed;
}

/* Sets the envelope up, and refuses what cannot be said. */
static void judge_envelope(struct smtp_client *c, struct smtp_client_slot *slot)
{
    const struct smtp_reply nothing = {0};
    if (!path_is_well(slot->mail.sender)) {
        refuse(c, slot, RECIPIENT_WAITING, SMTP_CLIENT_STAGE_MAIL, &nothing);
    } else {
        c->told_slot = (uint32_t)(slot - c->slots);
        c->told_stage = SMTP_CLIENT_STAGE_RCPT;
        c->told_reply = nothing;
        for (uint32_t index = 0; index < slot->mail.recipient_count; index++) {
            struct slice path = slot->mail.recipients[index].path;
            if (path.len == 0 || !path_is_well(path)) {
                *recipient_state(c, slot, index) = RECIPIENT_REFUSED;
                c->refused_count++;
                slot->undecided_count--;
            }
        }
    }
    slot->next_command = is_hopeless(slot) ? SMTP_CLIENT_COMMAND_NONE : SMTP_CLIENT_COMMAND_MAIL;
}

enum smtp_client_begin smtp_client_begin_mail(struct smtp_client *c,
                                              const struct smtp_client_mail *mail, uint64_t now_ms)
{
    CHECK(c->refused_count == 0 && c->event_count == 0);
    CHECK(mail->recipient_count >= 1 && mail->recipient_count <= SMTP_RECIPIENTS_UPSTREAM_MAX);
    CHECK(smtp_client_has_room(c, mail->recipient_count));
    bool utf8 = needs_smtputf8(mail);
    if (utf8 && (c->extensions & SMTP_CLIENT_EXT_SMTPUTF8) == 0) {
        return SMTP_CLIENT_NO_SMTPUTF8;
    }
    if (c->size_max > 0 && mail->size > c->size_max) {
        return SMTP_CLIENT_TOO_LARGE;
    }
    c->now_ms = now_ms;
    c->slot_count++;
    struct smtp_client_slot *slot = smtp_client_slot_at(c, c->slot_count - 1);
    *slot = (struct smtp_client_slot){.mail = *mail,
                                      .recipients_first = c->recipients_next,
                                      .undecided_count = mail->recipient_count};
    slot->mail.smtputf8 = utf8;
    c->recipients_next += mail->recipient_count;
    c->recipients_used += mail->recipient_count;
    for (uint32_t index = 0; index < mail->recipient_count; index++) {
        *recipient_state(c, slot, index) = RECIPIENT_WAITING;
    }
    judge_envelope(c, slot);
    smtp_client_advance(c);
    return SMTP_CLIENT_BEGUN;
}

/* ---- replies to the envelope ---- */

/* Once nobody is left, the rest of the content need not be sent. */
static void give_up_when_hopeless(struct smtp_client *c, struct smtp_client_slot *slot)
{
    if (slot->phase == SMTP_CLIENT_PHASE_CONTENT && is_hopeless(slot)) {
        slot->phase = SMTP_CLIENT_PHASE_FILL;
        c->content_to_tell = false;
    }
}

/*
 * 503 to a MAIL that is not the connection's first says that the transaction before it is still
 * open there: a server that did not expect what came in one flight. (To the first one it is how
 * some ask for a login.)
 */
enum smtp_client_verdict smtp_client_mail_answered(struct smtp_client *c,
                                                   const struct smtp_reply *reply, uint32_t index)
{
    (void)index;
    struct smtp_client_slot *slot = smtp_client_slot_at(c, 0);
    bool is_first = c->mails_answered == 0;
    c->mails_answered += is_first ? 1 : 0;
    if (smtp_client_reply_is_yes(reply)) {
        slot->mail_accepted = true;
        return SMTP_CLIENT_VERDICT_TAKEN;
    }
    if (reply->code == 503 && !is_first && c->mode != SMTP_CLIENT_PIPELINING_OFF) {
        c->misfit = words_out_of_order;
        return SMTP_CLIENT_VERDICT_ABSURD;
    }
    if (!smtp_client_reply_is_no(reply)) {
        return SMTP_CLIENT_VERDICT_ABSURD;
    }
    refuse(c, slot, RECIPIENT_WAITING, SMTP_CLIENT_STAGE_MAIL, reply);
    slot->next_command = SMTP_CLIENT_COMMAND_NONE;
    give_up_when_hopeless(c, slot);
    return SMTP_CLIENT_VERDICT_TAKEN;
}

enum smtp_client_verdict smtp_client_rcpt_answered(struct smtp_client *c,
                                                   const struct smtp_reply *reply, uint32_t index)
{
    struct smtp_client_slot *slot = smtp_client_slot_at(c, 0);
    bool yes = smtp_client_reply_is_yes(reply);
    if (!yes && !smtp_client_reply_is_no(reply)) {
        return SMTP_CLIENT_VERDICT_ABSURD;
    }
    /* A recipient that was told already shared MAIL's refusal: what is said to its RCPT, even a
     * yes, is of no use without a sender. */
    uint8_t *state = recipient_state(c, slot, index);
    if (*state != RECIPIENT_WAITING) {
        return SMTP_CLIENT_VERDICT_TAKEN;
    }
    slot->undecided_count--;
    if (yes) {
        *state = RECIPIENT_ACCEPTED;
        slot->accepted_count++;
        return SMTP_CLIENT_VERDICT_TAKEN;
    }
    *state = RECIPIENT_REFUSED;
    c->refused_count++;
    c->told_slot = (uint32_t)(slot - c->slots);
    c->told_stage = SMTP_CLIENT_STAGE_RCPT;
    c->told_reply = *reply;
    give_up_when_hopeless(c, slot);
    return SMTP_CLIENT_VERDICT_TAKEN;
}

/* A server that will not reset is in a state that nobody knows. */
enum smtp_client_verdict smtp_client_rset_answered(struct smtp_client *c,
                                                   const struct smtp_reply *reply, uint32_t index)
{
    (void)index;
    if (!smtp_client_reply_is_yes(reply)) {
        return smtp_client_reply_is_no(reply) ? SMTP_CLIENT_VERDICT_ENDS
                                              : SMTP_CLIENT_VERDICT_ABSURD;
    }
    smtp_client_finish(c, NULL);
    return SMTP_CLIENT_VERDICT_TAKEN;
}

/* ---- what became of it ---- */

void smtp_client_finish(struct smtp_client *c, const struct smtp_reply *reply)
{
    struct smtp_client_slot *slot = smtp_client_slot_at(c, 0);
    CHECK(slot->unanswered == 0);
    slot->phase = SMTP_CLIENT_PHASE_OVER;
    if (reply != NULL) {
        slot->reply = *reply;
    }
}

bool smtp_client_slot_event_waits(const struct smtp_client *c)
{
    return c->content_to_tell ||
           (c->slot_count > 0 && c->slots[c->slot_head].phase == SMTP_CLIENT_PHASE_OVER);
}

/* Its last byte is in the output, so that the server may come to have it whole. */
static bool was_put_whole(struct smtp_client *c, const struct smtp_client_slot *slot)
{
    bool chunks_done = slot == smtp_client_slot_written(c) && c->chunk_last && c->chunk_left == 0;
    return slot->phase == SMTP_CLIENT_PHASE_END ||
           (slot->phase == SMTP_CLIENT_PHASE_CONTENT && chunks_done);
}

/* CLOSED: the fate of a message that was cut short. failed is what will be told last. */
static void tell_lost(struct smtp_client *c, struct smtp_client_slot *slot,
                      const struct smtp_client_event *failed, struct smtp_client_event *out_event)
{
    *out_event = *failed;
    out_event->type = SMTP_CLIENT_EVENT_LOST;
    out_event->tag = slot->mail.tag;
    out_event->accepted_count = slot->accepted_count;
    out_event->behind = c->blamed || slot->phase == SMTP_CLIENT_PHASE_WAITING;
    bool whole = was_put_whole(c, slot);
    bool closing = failed->failure == SMTP_CLIENT_FAILURE_REPLY && failed->reply.code == 421;
    if (!out_event->behind) {
        c->blamed = true;
        bool in_doubt = whole && failed->failure != SMTP_CLIENT_FAILURE_REPLY;
        out_event->stage = in_doubt ? SMTP_CLIENT_STAGE_END : failed->stage;
        return;
    }
    out_event->stage = whole                                      ? SMTP_CLIENT_STAGE_END
                       : slot->phase == SMTP_CLIENT_PHASE_WAITING ? SMTP_CLIENT_STAGE_IDLE
                       : slot->phase == SMTP_CLIENT_PHASE_CONTENT ? SMTP_CLIENT_STAGE_CONTENT
                                                                  : SMTP_CLIENT_STAGE_MAIL;
    /* Replies come in order: a 421 is also the last that this one will hear. Any other was about
     * the message in turn, and this one has lost its connection. */
    if (!closing) {
        out_event->reply = (struct smtp_reply){0};
        out_event->failure = failed->failure == SMTP_CLIENT_FAILURE_REPLY
                                 ? SMTP_CLIENT_FAILURE_CLOSED
                                 : failed->failure;
    }
}

bool smtp_client_next_slot(struct smtp_client *c, struct smtp_client_event *out_event)
{
    if (c->slot_count == 0) {
        return false;
    }
    struct smtp_client_slot *slot = smtp_client_slot_at(c, 0);
    if (slot->phase == SMTP_CLIENT_PHASE_OVER) {
        uint32_t accepted_count = slot->abandoned ? 0 : slot->accepted_count;
        *out_event = (struct smtp_client_event){.type = SMTP_CLIENT_EVENT_DONE,
                                                .stage = SMTP_CLIENT_STAGE_END,
                                                .tag = slot->mail.tag,
                                                .accepted_count = accepted_count,
                                                .reply = slot->reply};
        pop(c);
        smtp_client_advance(c); /* there may be room for the next */
        return true;
    }
    if (c->state == SMTP_CLIENT_CLOSED) {
        tell_lost(c, slot, &c->events[c->event_head], out_event);
        smtp_client_note(slot, "-- ",
                         out_event->behind ? SLICE("the connection ended at another message")
                                           : slice_from_str(out_event->detail));
        pop(c);
        return true;
    }
    if (!c->content_to_tell) {
        return false;
    }
    c->content_to_tell = false;
    *out_event = (struct smtp_client_event){.type = SMTP_CLIENT_EVENT_CONTENT,
                                            .stage = SMTP_CLIENT_STAGE_CONTENT,
                                            .tag = smtp_client_slot_at(c, c->writing)->mail.tag};
    return true;
}
