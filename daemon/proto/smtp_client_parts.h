/*
 * What the five files of the SMTP client share, and nobody else includes.
 *
 *   smtp_client.c          the two cursors, the output, events, deadlines, the end
 *   smtp_client_hello.c    from the greeting to READY: EHLO, STARTTLS, AUTH
 *   smtp_client_mail.c     the window and its envelopes
 *   smtp_client_content.c  content, by DATA and by BDAT, and the answers to it
 *   smtp_client_note.c     the dialogue of each message, for people
 *
 * Invariants
 *   - a ring entry is made by the same call that puts its command (of a chunk: the command's line)
 *     into the output, so the ring is the list of what was written and not answered
 *   - replies come in order, so the message that a reply is about is the oldest in the window
 *   - when the ring is empty, and content is not being sent, the output is empty: each command was
 *     sent before it was answered
 *   - while an event waits, nothing is read, so what it borrows stays
 */
#ifndef TASUKI_PROTO_SMTP_CLIENT_PARTS_H
#define TASUKI_PROTO_SMTP_CLIENT_PARTS_H

#include "daemon/proto/smtp_client.h"

/* What a reply can be an answer to. */
enum smtp_client_command {
    SMTP_CLIENT_COMMAND_GREETING, /* nothing was sent: the connection itself */
    SMTP_CLIENT_COMMAND_EHLO,
    SMTP_CLIENT_COMMAND_HELO,
    SMTP_CLIENT_COMMAND_STARTTLS,
    SMTP_CLIENT_COMMAND_AUTH, /* or a line within the login */
    SMTP_CLIENT_COMMAND_MAIL,
    SMTP_CLIENT_COMMAND_RCPT, /* index: the recipient */
    SMTP_CLIENT_COMMAND_DATA,
    SMTP_CLIENT_COMMAND_DOT,
    SMTP_CLIENT_COMMAND_CHUNK,    /* BDAT with its bytes; more follow */
    SMTP_CLIENT_COMMAND_LAST,     /* BDAT LAST with its bytes */
    SMTP_CLIENT_COMMAND_LONE_DOT, /* a DATA that should not have been taken */
    SMTP_CLIENT_COMMAND_RSET,
    SMTP_CLIENT_COMMAND_QUIT,
    SMTP_CLIENT_COMMAND_COUNT,
    SMTP_CLIENT_COMMAND_NONE, /* next_command: the envelope is written */
};

enum smtp_client_verdict {
    SMTP_CLIENT_VERDICT_TAKEN,  /* the machine went on */
    SMTP_CLIENT_VERDICT_ENDS,   /* a refusal that ends the connection: FAILED, REPLY */
    SMTP_CLIENT_VERDICT_ABSURD, /* no answer to that command: FAILED, PROTOCOL; misfit may say why
                                 */
};

/* Takes the reply to a command. The command stands in the ring no longer. */
typedef enum smtp_client_verdict
smtp_client_answered_fn(struct smtp_client *c, const struct smtp_reply *reply, uint32_t index);

/* Of a reply's class. RFC 5321 4.2.1. */
static inline bool smtp_client_reply_is_yes(const struct smtp_reply *reply)
{
    return reply->code < 300;
}

static inline bool smtp_client_reply_is_no(const struct smtp_reply *reply)
{
    return reply->code >= 400;
}

/* ---- smtp_client.c ---- */

/* The command is in the output, whole: its reply is expected behind those before it. */
void smtp_client_expect(struct smtp_client *c, enum smtp_client_command command, uint32_t index);
/* The same for a chunk whose line is in the output and whose bytes follow. */
void smtp_client_expect_chunk(struct smtp_client *c, enum smtp_client_command command,
                              uint64_t bytes);
/* There is room for another entry and for so many bytes of a command. */
bool smtp_client_can_put(const struct smtp_client *c, size_t bytes);
/* A command that is one of our own words: put and expected. */
void smtp_client_put_command(struct smtp_client *c, enum smtp_client_command command,
                             const char *line);
void smtp_client_push(struct smtp_client *c, struct smtp_client_event event);
/* Tells FAILED (or, when QUIT was under way, CLOSE), and ends. reply: NULL when there is none. */
void smtp_client_fail(struct smtp_client *c, enum smtp_client_failure failure,
                      enum smtp_client_stage stage, const struct smtp_reply *reply,
                      const char *detail);
/* The server has the whole time for content again, at least. */
void smtp_client_content_time_begin(struct smtp_client *c);
/* Bytes in the output that were not sent yet. */
size_t smtp_client_unsent(const struct smtp_client *c);
/* Holds no byte that could end a command line or be taken for an end by somebody: < 0x20, 0x7f. */
bool smtp_client_text_is_clean(struct slice text);

/* ---- smtp_client_hello.c ---- */

smtp_client_answered_fn smtp_client_greeting_answered;
smtp_client_answered_fn smtp_client_ehlo_answered;
smtp_client_answered_fn smtp_client_helo_answered;
smtp_client_answered_fn smtp_client_starttls_answered;
smtp_client_answered_fn smtp_client_auth_answered;

/* "500 5.5.1 Command unrecognized: "AUTH PLAIN AGlk..."": what a reply repeats of the secret that
 * was sent is masked, before anybody sees it. */
void smtp_client_mask_reply(struct smtp_client *c, struct smtp_reply *reply);
/* Nothing of a login is open, so a command may be written. */
bool smtp_client_login_is_idle(const struct smtp_client *c);

/* ---- smtp_client_mail.c ---- */

smtp_client_answered_fn smtp_client_mail_answered;
smtp_client_answered_fn smtp_client_rcpt_answered;
smtp_client_answered_fn smtp_client_rset_answered;

/* at: 0 is the oldest in the window. */
struct smtp_client_slot *smtp_client_slot_at(struct smtp_client *c, uint32_t at);
/* The one at the first cursor, or NULL when all were written. */
struct smtp_client_slot *smtp_client_slot_written(struct smtp_client *c);
/* Writes what may be written and fits. */
void smtp_client_advance(struct smtp_client *c);
/* Refuses the oldest message's recipients that were accepted, for one reason. */
void smtp_client_refuse_accepted(struct smtp_client *c, enum smtp_client_stage stage,
                                 const struct smtp_reply *reply);
/* The oldest message is over. reply: NULL when nobody shares one. */
void smtp_client_finish(struct smtp_client *c, const struct smtp_reply *reply);
/* The next RECIPIENT event; false when none is owed. */
bool smtp_client_next_refused(struct smtp_client *c, struct smtp_client_event *out_event);
/* The next event about a message as a whole: DONE, CONTENT, LOST; false when none is owed. */
bool smtp_client_next_slot(struct smtp_client *c, struct smtp_client_event *out_event);
bool smtp_client_slot_event_waits(const struct smtp_client *c);

/* ---- smtp_client_content.c ---- */

smtp_client_answered_fn smtp_client_data_answered;
smtp_client_answered_fn smtp_client_dot_answered;
smtp_client_answered_fn smtp_client_chunk_answered;
smtp_client_answered_fn smtp_client_last_answered;
smtp_client_answered_fn smtp_client_lone_dot_answered;

/* Its content is to be brought, from the first byte on. */
void smtp_client_content_begin(struct smtp_client *c, struct smtp_client_slot *slot);
/* FILL: puts what the open chunk still needs; false when the output is full. */
bool smtp_client_content_fill(struct smtp_client *c, struct smtp_client_slot *slot);

/* ---- smtp_client_note.c ---- */

/* A line for the message's dialogue, if it has one. */
void smtp_client_note(struct smtp_client_slot *slot, const char *who, struct slice line);
void smtp_client_note_reply(struct smtp_client_slot *slot, const struct smtp_reply *reply);
/* What was appended to the output since it had so many bytes: one command line, CRLF included. */
void smtp_client_note_command(const struct smtp_client *c, struct smtp_client_slot *slot,
                              size_t before);

#endif
