/*
 * The reply parser of the SMTP client side: bytes in, whole replies out. Sans-I/O, no allocation.
 *
 * Strict where safety needs it: a line ends in CRLF only, the code is three digits 200..599, all
 * lines of one reply carry the same code. A bare code ("250" CRLF) is taken. Everything else is a
 * protocol error, after which the parser stays in error. Source: RFC 5321 4.2, 4.2.1; RFC 2034, RFC
 * 3463 (enhanced codes).
 */
#ifndef TASUKI_PROTO_SMTP_REPLY_H
#define TASUKI_PROTO_SMTP_REPLY_H

#include "daemon/base/buf.h"
#include "daemon/base/limits.h"

struct smtp_reply {
    uint16_t code;        /* 200..599 */
    uint16_t enhanced[3]; /* 0..999 each; zeros: none, or its class is not the code's */
    uint16_t line_count;
    struct slice text; /* all lines' text behind the codes, joined by LF, cut at
                          SMTP_REPLY_TEXT_BYTES_MAX; borrowed from the parser until the next feed */
};

/* "250-PIPELINING": each line's text of an EHLO reply is needed whole, so text holds at least the
 * first 1,000 bytes of it; lines past SMTP_REPLY_TEXT_BYTES_MAX are counted but not kept. */

enum smtp_reply_state {
    SMTP_REPLY_STATE_LINE,  /* reading a line; nothing or a part of a reply is held */
    SMTP_REPLY_STATE_READY, /* a whole reply is held until smtp_reply_take */
    SMTP_REPLY_STATE_ERROR, /* what came is no SMTP reply, or exceeds a bound; final */
};

struct smtp_reply_parser {
    enum smtp_reply_state state;
    const char *error; /* ERROR: why, in words */
    uint32_t bytes;    /* of the reply so far, against SMTP_REPLY_BYTES_MAX */
    struct smtp_reply reply;
    struct buf line; /* over line_memory: the line so far */
    struct buf text; /* over text_memory */
    uint8_t line_memory[SMTP_REPLY_LINE_BYTES_MAX];
    uint8_t text_memory[SMTP_REPLY_TEXT_BYTES_MAX];
};

void smtp_reply_init(struct smtp_reply_parser *p);

/* Takes bytes; returns how many it used: all, unless a reply became ready or an error was found. */
MUST_CHECK size_t smtp_reply_feed(struct smtp_reply_parser *p, struct slice in);

/* The ready reply; false when there is none. Its text is valid until the next feed. */
MUST_CHECK bool smtp_reply_take(struct smtp_reply_parser *p, struct smtp_reply *out_reply);

/* True when a part of a reply is held: the peer is in the middle of one. */
bool smtp_reply_partial(const struct smtp_reply_parser *p);

/* The text's first line, for logs. */
struct slice smtp_reply_first_line(const struct smtp_reply *reply);

#endif
