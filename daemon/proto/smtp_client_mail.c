/*
 * One transaction: MAIL, RCPT for each, DATA, content, dot. The commands are written as far as
 * may_write allows, whenever a reply was taken; with PIPELINING that is all of them at once (RFC
 * 2920 3.1), without it one.
 *
 * Each recipient has a fate of its own and is told once: by RECIPIENT when it was refused, else by
 * DONE or FAILED.
 */
#include "daemon/proto/smtp_client_parts.h"

/* MAIL FROM:<...> SIZE=(20 digits) BODY=8BITMIME SMTPUTF8 CRLF */
#define MAIL_BYTES_MAX (11 + SMTP_PATH_BYTES_MAX + 1 + 26 + 14 + 9 + 2)
#define RCPT_BYTES_MAX (9 + SMTP_PATH_BYTES_MAX + 3)
#define DATA_BYTES     6

_Static_assert(MAIL_BYTES_MAX + SMTP_RECIPIENTS_UPSTREAM_MAX * RCPT_BYTES_MAX + DATA_BYTES <=
                   SMTP_CLIENT_OUTPUT_BYTES,
               "a whole envelope fits into the empty output");

enum recipient {
    RECIPIENT_WAITING,  /* not asked, or asked and not answered */
    RECIPIENT_ACCEPTED, /* 2yz */
    RECIPIENT_REFUSED,  /* a RECIPIENT event is owed */
    RECIPIENT_TOLD,     /* and was pulled; its fate is sealed */
};

/* ---- recipients and their fate ---- */

/* Refuses all that are in the given state, for one reason. */
static void refuse(struct smtp_client *c, enum recipient from, enum smtp_client_stage stage,
                   const struct smtp_reply *reply)
{
    c->told_stage = stage;
    c->told_reply = *reply;
    for (uint32_t index = 0; index < c->mail.recipient_count; index++) {
        if (c->recipient_states[index] == from) {
            c->recipient_states[index] = RECIPIENT_REFUSED;
            c->refused_count++;
        }
    }
}

bool smtp_client_next_refused(struct smtp_client *c, struct smtp_client_event *out_event)
{
    if (c->refused_count == 0) {
        return false;
    }
    uint32_t index = 0;
    while (c->recipient_states[index] != RECIPIENT_REFUSED) {
        index++;
        CHECK(index < SMTP_RECIPIENTS_UPSTREAM_MAX);
    }
    c->recipient_states[index] = RECIPIENT_TOLD;
    c->refused_count--;
    *out_event = (struct smtp_client_event){.type = SMTP_CLIENT_EVENT_RECIPIENT,
                                            .stage = c->told_stage,
                                            .index = index,
                                            .accepted_count = c->accepted_count,
                                            .reply = c->told_reply};
    return true;
}

/* ---- writing the envelope ---- */

static void put_mail(struct smtp_client *c)
{
    buf_put_str(&c->output, "MAIL FROM:<");
    buf_put(&c->output, c->mail.sender);
    buf_put_byte(&c->output, '>');
    if ((c->extensions & SMTP_CLIENT_EXT_SIZE) != 0) {
        buf_put_str(&c->output, " SIZE=");
        buf_put_u64(&c->output, c->mail.size);
    }
    if (c->mail.body_8bit && (c->extensions & SMTP_CLIENT_EXT_8BITMIME) != 0) {
        buf_put_str(&c->output, " BODY=8BITMIME");
    }
    if (c->mail.smtputf8) {
        buf_put_str(&c->output, " SMTPUTF8");
    }
    smtp_client_put_command(c, SMTP_CLIENT_COMMAND_MAIL, "\r\n");
    c->next_command = SMTP_CLIENT_COMMAND_RCPT;
}

/* The next recipient that can be asked; after the last one, DATA is next. */
static void put_rcpt(struct smtp_client *c)
{
    uint32_t index = c->recipients_sent;
    while (index < c->mail.recipient_count && c->recipient_states[index] != RECIPIENT_WAITING) {
        index++;
    }
    if (index == c->mail.recipient_count) {
        c->next_command = SMTP_CLIENT_COMMAND_DATA;
        return;
    }
    c->recipients_sent = index + 1;
    c->secret_output = false;
    buf_put_str(&c->output, "RCPT TO:<");
    buf_put(&c->output, c->mail.recipients[index]);
    buf_put_str(&c->output, ">\r\n");
    smtp_client_expect(c, SMTP_CLIENT_COMMAND_RCPT, index);
}

/* DATA is of use when a recipient was accepted, or may be yet. */
static void put_data(struct smtp_client *c)
{
    c->next_command = SMTP_CLIENT_COMMAND_NONE;
    if (c->accepted_count > 0 || c->expected_count > 0) {
        smtp_client_put_command(c, SMTP_CLIENT_COMMAND_DATA, "DATA\r\n");
    }
}

/* The one place that knows of pipelining. */
static bool may_write(const struct smtp_client *c)
{
    bool pipelining = c->config->pipelining == SMTP_CLIENT_PIPELINING_SAFE &&
                      (c->extensions & SMTP_CLIENT_EXT_PIPELINING) != 0;
    return pipelining || c->expected_count == 0;
}

/* The transaction is over; what was accepted shares the reply. */
static void finish(struct smtp_client *c, const struct smtp_reply *reply)
{
    struct smtp_client_event event = {.type = SMTP_CLIENT_EVENT_DONE,
                                      .stage = SMTP_CLIENT_STAGE_END,
                                      .accepted_count = c->accepted_count};
    if (reply != NULL) {
        event.reply = *reply;
    }
    c->state = SMTP_CLIENT_READY;
    c->mail_accepted = false;
    smtp_client_push(c, event);
}

/* Writes what may be written. With nothing left to write or to hear there is no recipient left:
 * what the server has open is reset. */
static void advance(struct smtp_client *c)
{
    while (c->next_command != SMTP_CLIENT_COMMAND_NONE && may_write(c)) {
        if (c->next_command == SMTP_CLIENT_COMMAND_MAIL) {
            put_mail(c);
        } else if (c->next_command == SMTP_CLIENT_COMMAND_RCPT) {
            put_rcpt(c);
        } else {
            put_data(c);
        }
    }
    if (c->expected_count > 0) {
        return;
    }
    if (c->mail_accepted) {
        c->state = SMTP_CLIENT_RESET;
        smtp_client_put_command(c, SMTP_CLIENT_COMMAND_RSET, "RSET\r\n");
    } else {
        finish(c, NULL);
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
        needed = !is_ascii(mail->recipients[index]);
    }
    return needed;
}

/* Sets the envelope up, and refuses what cannot be said. */
static void judge_envelope(struct smtp_client *c)
{
    const struct smtp_reply nothing = {0};
    if (!path_is_well(c->mail.sender)) {
        refuse(c, RECIPIENT_WAITING, SMTP_CLIENT_STAGE_MAIL, &nothing);
    } else {
        c->told_stage = SMTP_CLIENT_STAGE_RCPT;
        c->told_reply = nothing;
        for (uint32_t index = 0; index < c->mail.recipient_count; index++) {
            struct slice recipient = c->mail.recipients[index];
            if (recipient.len == 0 || !path_is_well(recipient)) {
                c->recipient_states[index] = RECIPIENT_REFUSED;
                c->refused_count++;
            }
        }
    }
    c->next_command = c->refused_count < c->mail.recipient_count ? SMTP_CLIENT_COMMAND_MAIL
                                                                 : SMTP_CLIENT_COMMAND_NONE;
}

enum smtp_client_begin smtp_client_begin_mail(struct smtp_client *c,
                                              const struct smtp_client_mail *mail, uint64_t now_ms)
{
    CHECK(c->state == SMTP_CLIENT_READY && c->refused_count == 0 && c->event_count == 0);
    CHECK(mail->recipient_count >= 1 && mail->recipient_count <= SMTP_RECIPIENTS_UPSTREAM_MAX);
    bool utf8 = needs_smtputf8(mail);
    if (utf8 && (c->extensions & SMTP_CLIENT_EXT_SMTPUTF8) == 0) {
        return SMTP_CLIENT_NO_SMTPUTF8;
    }
    if (c->size_max > 0 && mail->size > c->size_max) {
        return SMTP_CLIENT_TOO_LARGE;
    }
    c->now_ms = now_ms;
    c->mail = *mail;
    c->mail.smtputf8 = utf8;
    c->mail_accepted = false;
    c->recipients_sent = 0;
    c->accepted_count = 0;
    memset(c->recipient_states, RECIPIENT_WAITING, sizeof c->recipient_states);
    c->state = SMTP_CLIENT_ENVELOPE;
    judge_envelope(c);
    advance(c);
    return SMTP_CLIENT_BEGUN;
}

/* ---- replies to the envelope ---- */

enum smtp_client_verdict smtp_client_mail_answered(struct smtp_client *c,
                                                   const struct smtp_reply *reply, uint32_t index)
{
    (void)index;
    if (smtp_client_reply_is_yes(reply)) {
        c->mail_accepted = true;
    } else if (smtp_client_reply_is_no(reply)) {
        refuse(c, RECIPIENT_WAITING, SMTP_CLIENT_STAGE_MAIL, reply);
        c->next_command = SMTP_CLIENT_COMMAND_NONE;
    } else {
        return SMTP_CLIENT_VERDICT_ABSURD;
    }
    advance(c);
    return SMTP_CLIENT_VERDICT_TAKEN;
}

enum smtp_client_verdict smtp_client_rcpt_answered(struct smtp_client *c,
                                                   const struct smtp_reply *reply, uint32_t index)
{
    bool yes = smtp_client_reply_is_yes(reply);
    if (!yes && !smtp_client_reply_is_no(reply)) {
        return SMTP_CLIENT_VERDICT_ABSURD;
    }
    /* A recipient that was told already shared MAIL's refusal: what is said to its RCPT, even a
     * yes, is of no use without a sender. */
    if (c->recipient_states[index] == RECIPIENT_WAITING && yes) {
        c->recipient_states[index] = RECIPIENT_ACCEPTED;
        c->accepted_count++;
    } else if (c->recipient_states[index] == RECIPIENT_WAITING) {
        c->recipient_states[index] = RECIPIENT_REFUSED;
        c->refused_count++;
        c->told_stage = SMTP_CLIENT_STAGE_RCPT;
        c->told_reply = *reply;
    }
    advance(c);
    return SMTP_CLIENT_VERDICT_TAKEN;
}

/* 354: begin. With no recipient left it came for a DATA that was sent too early, and must be ended
 * with a dot; nothing was delivered, whatever is answered to that. RFC 2920 3.1. */
static void take_go_ahead(struct smtp_client *c)
{
    if (c->accepted_count == 0) {
        c->state = SMTP_CLIENT_RESET;
        smtp_client_put_command(c, SMTP_CLIENT_COMMAND_LONE_DOT, ".\r\n");
        return;
    }
    c->state = SMTP_CLIENT_CONTENT;
    smtp_data_encoder_init(&c->encoder);
    smtp_client_push(c, (struct smtp_client_event){.type = SMTP_CLIENT_EVENT_CONTENT,
                                                   .stage = SMTP_CLIENT_STAGE_CONTENT});
}

enum smtp_client_verdict smtp_client_data_answered(struct smtp_client *c,
                                                   const struct smtp_reply *reply, uint32_t index)
{
    (void)index;
    if (reply->code == 354) {
        take_go_ahead(c);
        return SMTP_CLIENT_VERDICT_TAKEN;
    }
    if (!smtp_client_reply_is_no(reply)) {
        return SMTP_CLIENT_VERDICT_ABSURD;
    }
    c->accepted_count = 0;
    refuse(c, RECIPIENT_ACCEPTED, SMTP_CLIENT_STAGE_DATA, reply);
    advance(c);
    return SMTP_CLIENT_VERDICT_TAKEN;
}

/* ---- content and its end ---- */

size_t smtp_client_content(struct smtp_client *c, struct slice in, uint64_t now_ms)
{
    if (c->state == SMTP_CLIENT_CLOSED) {
        return in.len;
    }
    CHECK(c->state == SMTP_CLIENT_CONTENT);
    c->now_ms = now_ms;
    c->secret_output = false;
    if (smtp_client_unsent(c) == 0) {
        c->waiting_since_ms = now_ms;
    }
    return smtp_data_encode(&c->encoder, in, &c->output);
}

bool smtp_client_content_end(struct smtp_client *c, uint64_t now_ms)
{
    if (c->state == SMTP_CLIENT_CLOSED) {
        return true;
    }
    CHECK(c->state == SMTP_CLIENT_CONTENT);
    c->now_ms = now_ms;
    if (!smtp_data_encode_end(&c->encoder, &c->output)) {
        return false;
    }
    c->state = SMTP_CLIENT_END;
    smtp_client_expect(c, SMTP_CLIENT_COMMAND_DOT, 0);
    return true;
}

enum smtp_client_verdict smtp_client_dot_answered(struct smtp_client *c,
                                                  const struct smtp_reply *reply, uint32_t index)
{
    (void)index;
    if (!smtp_client_reply_is_yes(reply) && !smtp_client_reply_is_no(reply)) {
        return SMTP_CLIENT_VERDICT_ABSURD;
    }
    finish(c, reply);
    return SMTP_CLIENT_VERDICT_TAKEN;
}

enum smtp_client_verdict
smtp_client_lone_dot_answered(struct smtp_client *c, const struct smtp_reply *reply, uint32_t index)
{
    (void)index;
    if (!smtp_client_reply_is_yes(reply) && !smtp_client_reply_is_no(reply)) {
        return SMTP_CLIENT_VERDICT_ABSURD;
    }
    finish(c, NULL);
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
    finish(c, NULL);
    return SMTP_CLIENT_VERDICT_TAKEN;
}
