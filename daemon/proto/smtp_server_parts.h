/*
 * What the files of the SMTP server share; nobody else includes it.
 *
 *   smtp_server.c          input, events, answers, time
 *   smtp_server_verb.c     one table of verbs: order and syntax of commands
 *   smtp_server_content.c  DATA and BDAT: content and its limits
 *   smtp_server_reply.c    one table of replies, and how they are written
 */
#ifndef TASUKI_PROTO_SMTP_SERVER_PARTS_H
#define TASUKI_PROTO_SMTP_SERVER_PARTS_H

#include "daemon/proto/smtp_server.h"

/* How much of an over-long line, or of what cannot be a command, is read before the connection is
 * closed. */
#define SMTP_SERVER_LINE_DISCARD_BYTES_MAX (1u << 20)

/* Does a reply count towards errors_max? */
#define SMTP_SERVER_BAD  true
#define SMTP_SERVER_FINE false

/*
 * X(NAME, code, "enhanced", count, "text")
 * Enhanced codes: RFC 3463, RFC 5248. None in 3yz replies (RFC 2034 4) and where a text of another
 * kind follows.
 */
#define SMTP_SERVER_REPLY_ROWS(X)                                                                  \
    X(NONE, 0, "", FINE, "")                                                                       \
    X(OK, 250, "2.0.0", FINE, "ok")                                                                \
    X(SENDER_OK, 250, "2.1.0", FINE, "sender ok")                                                  \
    X(RECIPIENT_OK, 250, "2.1.5", FINE, "recipient ok")                                            \
    X(CHUNK_OK, 250, "2.0.0", FINE, "chunk taken")                                                 \
    X(QUEUED, 250, "2.0.0", FINE, "queued")                                                        \
    X(GO_AHEAD, 354, "", FINE, "send the message, end it with a dot on a line of its own")         \
    X(BYE, 221, "2.0.0", FINE, "bye")                                                              \
    X(VERIFY, 252, "2.0.0", FINE, "cannot tell, but will take mail for it and try")                \
    X(TLS_OK, 220, "2.0.0", FINE, "begin TLS")                                                     \
    X(AUTH_OK, 235, "2.7.0", FINE, "logged in")                                                    \
    X(NO_RECIPIENT, 554, "5.5.1", FINE, "no recipient was accepted")                               \
    X(TOO_MANY_RECIPIENTS, 452, "4.5.3", FINE, "too many recipients, send the rest in another")    \
    X(TOO_LARGE, 552, "5.3.4", FINE, "the message is too large")                                   \
    X(LARGER_THAN_SAID, 552, "5.3.4", FINE, "the message is larger than SIZE= said")               \
    X(LOOP, 554, "5.4.6", FINE, "too many Received lines, this is a loop")                         \
    X(BARE_BREAK, 550, "5.6.0", FINE, "the message has a bare CR or LF")                           \
    X(EMPTY, 500, "5.5.2", BAD, "an empty line is no command")                                     \
    X(UNKNOWN, 500, "5.5.1", BAD, "no such command here")                                          \
    X(NOT_IMPLEMENTED, 502, "5.5.1", BAD, "not implemented")                                       \
    X(LINE_TOO_LONG, 500, "5.5.2", BAD, "the line is too long")                                    \
    X(AUTH_TOO_LONG, 500, "5.5.6", BAD, "the response is too long")                                \
    X(BAD_BYTES, 501, "5.5.2", BAD, "a byte that cannot be in a command")                          \
    X(NO_ARGUMENT, 501, "5.5.4", BAD, "this command takes no argument")                            \
    X(ARGUMENT, 501, "5.5.4", BAD, "this command needs an argument")                               \
    X(HELLO_NAME, 501, "5.5.4", BAD, "the name is too long")                                       \
    X(NEED_FROM, 501, "5.5.4", BAD, "say MAIL FROM:<address>")                                     \
    X(NEED_TO, 501, "5.5.4", BAD, "say RCPT TO:<address>")                                         \
    X(SENDER_SYNTAX, 501, "5.1.7", BAD, "this is no sender address")                               \
    X(SENDER_TOO_LONG, 501, "5.1.7", BAD, "the sender address is too long")                        \
    X(RECIPIENT_SYNTAX, 501, "5.1.3", BAD, "this is no recipient address")                         \
    X(RECIPIENT_TOO_LONG, 501, "5.1.3", BAD, "the recipient address is too long")                  \
    X(NEED_SMTPUTF8, 553, "5.6.7", BAD, "an address beyond ASCII needs SMTPUTF8")                  \
    X(PARAM_SYNTAX, 501, "5.5.4", BAD, "a parameter is not well formed")                           \
    X(PARAM_VALUE, 501, "5.5.4", BAD, "a parameter has a value that it cannot have")               \
    X(PARAM_REPEATED, 501, "5.5.4", BAD, "a parameter is given twice")                             \
    X(PARAM_UNKNOWN, 555, "5.5.4", BAD, "a parameter that was not announced")                      \
    X(NEED_HELLO, 503, "5.5.1", BAD, "say EHLO first")                                             \
    X(NEED_MAIL, 503, "5.5.1", BAD, "say MAIL first")                                              \
    X(NEED_RECIPIENT, 503, "5.5.1", BAD, "say RCPT first")                                         \
    X(IN_MAIL, 503, "5.5.1", BAD, "not within a mail")                                             \
    X(IN_CHUNKS, 503, "5.5.1", BAD, "only BDAT may follow BDAT")                                   \
    X(NEED_AUTH, 530, "5.7.0", BAD, "log in first")                                                \
    X(TLS_ALREADY, 503, "5.5.1", BAD, "TLS is on already")                                         \
    X(TLS_NOT_HERE, 454, "4.7.0", BAD, "TLS is not available")                                     \
    X(AUTH_ALREADY, 503, "5.5.1", BAD, "you are logged in already")                                \
    X(AUTH_NOT_HERE, 503, "5.5.1", BAD, "nobody logs in here")                                     \
    X(AUTH_NEEDS_TLS, 538, "5.7.11", BAD, "say STARTTLS before logging in")                        \
    X(AUTH_MECHANISM, 504, "5.5.4", BAD, "no such mechanism")                                      \
    X(AUTH_BASE64, 501, "5.5.2", BAD, "the response is not base64")                                \
    X(AUTH_CANCELLED, 501, "5.7.0", BAD, "the login is broken off")                                \
    X(AUTH_CHALLENGE, 454, "4.7.0", BAD, "this mechanism cannot be used here")                     \
    X(CHUNK_SYNTAX, 501, "5.5.4", BAD, "say BDAT SIZE or BDAT SIZE LAST")                          \
    X(TOO_MANY_ERRORS, 421, "4.7.0", FINE, "too many errors")                                      \
    X(WAY_TOO_MANY_RECIPIENTS, 421, "4.7.0", FINE, "far too many recipients")                      \
    X(ENDLESS_LINE, 421, "4.7.0", FINE, "the line does not end")                                   \
    X(TIMEOUT, 421, "4.4.2", FINE, "too slow")                                                     \
    X(STOPPING, 421, "4.3.2", FINE, "the service is stopping")                                     \
    X(TLS_HELLO, 500, "5.5.2", FINE, "this port does not begin with TLS")                          \
    X(OTHER_PROTOCOL, 554, "5.5.1", FINE, "this port speaks SMTP")

enum smtp_server_reply {
#define X(name, code, enhanced, count, text) SMTP_SERVER_REPLY_##name,
    SMTP_SERVER_REPLY_ROWS(X)
#undef X
        SMTP_SERVER_REPLY_COUNT
};

/* ---- replies ---- */

/* Writes the row's reply. A bad one counts; the one past errors_max becomes 421 and the end. */
void smtp_server_reply(struct smtp_server *s, enum smtp_server_reply id);

/* The row's code with the owner's words, when there are any. */
void smtp_server_reply_text(struct smtp_server *s, enum smtp_server_reply id, const char *text);

/* One line, cut at the 512 bytes of RFC 5321 4.5.3.1.5. enhanced may be NULL or empty. */
void smtp_server_say(struct smtp_server *s, uint16_t code, const char *enhanced, const char *text);

void smtp_server_say_greeting(struct smtp_server *s);
void smtp_server_say_hello(struct smtp_server *s);
void smtp_server_say_challenge(struct smtp_server *s, struct slice challenge);

/* Adds one error; false when it was one too many. */
bool smtp_server_count_error(struct smtp_server *s);

/* Says the reply (where there is room for it), tells CLOSE with a word of why, and is done. */
void smtp_server_close(struct smtp_server *s, enum smtp_server_reply id, const char *why);

/* ---- events ---- */

void smtp_server_tell(struct smtp_server *s, const struct smtp_server_event *event);
void smtp_server_tell_word(struct smtp_server *s, enum smtp_server_event_type type,
                           const char *word);
void smtp_server_ask(struct smtp_server *s, const struct smtp_server_event *event);

/* Back to HELLO, without a word. */
void smtp_server_end_mail(struct smtp_server *s);
/* The same; the owner is told, when it knows of a mail. */
void smtp_server_abandon_mail(struct smtp_server *s);

/* In COMMAND again: the moment when a reply may be given, so a stop that waited for it happens. */
void smtp_server_ready(struct smtp_server *s);

/* ---- commands ---- */

/* A whole line without its CRLF. */
void smtp_server_run_command(struct smtp_server *s, struct slice line);
void smtp_server_run_auth_response(struct smtp_server *s, struct slice line);

/* ---- content ---- */

/* Before the owner is asked for room. */
void smtp_server_prepare_content(struct smtp_server *s, bool chunked);
void smtp_server_begin_chunk(struct smtp_server *s);
/* The chunk is read and dropped; its end gets the reply, NONE: which was given already. */
void smtp_server_discard_chunk(struct smtp_server *s, enum smtp_server_reply refusal);

/* Each returns the bytes used. */
size_t smtp_server_take_content(struct smtp_server *s, struct slice in);
size_t smtp_server_take_chunk(struct smtp_server *s, struct slice in);
size_t smtp_server_take_discarded(struct smtp_server *s, struct slice in);

#endif
