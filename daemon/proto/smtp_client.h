/*
 * The client side of SMTP, sans-I/O: replies in, commands and results out; no socket, no clock, no
 * callback, no allocation.
 *
 * Two cursors: what was sent and what was answered. Every command that went out leaves an entry in
 * a ring of expected replies; a reply is matched with the oldest. So pipelining is only a rule
 * about when the next command may be written, not a mode of its own, and a refused recipient in the
 * middle of a group harms nobody else.
 *
 * The owner does what needs the world: opens the connection, runs the TLS handshake, asks SASL,
 * brings content. Commands that carry secrets are marked, so that a transcript can mask them.
 *
 * Sources: RFC 5321 (3.1, 4.1.1, 4.2, 4.5.3.2 timeouts), 2920 (PIPELINING), 3207, 4954, 1870, 6152,
 * 6531, 2034.
 */
#ifndef TASUKI_PROTO_SMTP_CLIENT_H
#define TASUKI_PROTO_SMTP_CLIENT_H

#include "daemon/base/buf.h"
#include "daemon/base/limits.h"
#include "daemon/proto/smtp_data.h"
#include "daemon/proto/smtp_reply.h"

#define SMTP_CLIENT_OUTPUT_BYTES 32768
#define SMTP_CLIENT_EXPECTED_MAX 256 /* replies outstanding at once; a power of two */

enum smtp_client_tls {
    SMTP_CLIENT_TLS_NONE,     /* tls = off: STARTTLS is not asked for */
    SMTP_CLIENT_TLS_STARTTLS, /* demanded: without it, no AUTH and no MAIL */
    SMTP_CLIENT_TLS_ALREADY,  /* the owner connected with implicit TLS */
};

enum smtp_client_pipelining {
    SMTP_CLIENT_PIPELINING_OFF,  /* wait for each reply */
    SMTP_CLIENT_PIPELINING_SAFE, /* RFC 2920 groups: MAIL, RCPT..., DATA at once, when the server
                                    announces it */
};

struct smtp_client_config {
    const char *hello_name; /* borrowed for the life of the machine */
    enum smtp_client_tls tls;
    enum smtp_client_pipelining pipelining;
    bool auth;                /* log in before the first mail */
    uint32_t greeting_ms_max; /* RFC 5321 4.5.3.2.1: 5 minutes */
    uint32_t command_ms_max;  /* MAIL, RCPT, EHLO, ...: 5 minutes */
    uint32_t data_ms_max;     /* 354 after DATA: 2 minutes */
    uint32_t block_ms_max;    /* progress while content is sent: 3 minutes */
    uint32_t end_ms_max;      /* after the final dot: 10 minutes */
    uint32_t quit_ms_max;
};

#define SMTP_CLIENT_EXT_PIPELINING 0x01u
#define SMTP_CLIENT_EXT_8BITMIME   0x02u
#define SMTP_CLIENT_EXT_SIZE       0x04u
#define SMTP_CLIENT_EXT_STARTTLS   0x08u
#define SMTP_CLIENT_EXT_AUTH       0x10u
#define SMTP_CLIENT_EXT_SMTPUTF8   0x20u
#define SMTP_CLIENT_EXT_CHUNKING   0x40u
#define SMTP_CLIENT_EXT_DSN        0x80u
#define SMTP_CLIENT_EXT_ENHANCED   0x100u

/* Each value says what is true in it. */
enum smtp_client_state {
    SMTP_CLIENT_GREETING, /* connected; 220 is awaited */
    SMTP_CLIENT_EHLO,     /* EHLO (or HELO) was sent */
    SMTP_CLIENT_STARTTLS, /* STARTTLS was sent */
    SMTP_CLIENT_TLS,      /* 220 came: the owner does the handshake; input is refused */
    SMTP_CLIENT_AUTH,     /* the owner is asked for, or a reply is awaited in, the login */
    SMTP_CLIENT_READY,    /* no transaction: begin one, or quit */
    SMTP_CLIENT_ENVELOPE, /* MAIL, RCPT..., DATA are being sent and answered */
    SMTP_CLIENT_CONTENT,  /* 354 came: the owner brings content */
    SMTP_CLIENT_END,      /* the final dot is in the output or sent; its reply is awaited */
    SMTP_CLIENT_RESET,    /* no recipient was left: RSET (or a lone dot, RFC 2920 3.1) was sent */
    SMTP_CLIENT_QUIT,     /* QUIT was sent */
    SMTP_CLIENT_CLOSED,   /* FAILED or CLOSE was told; no input is used; final */
};

/* Where things stood when something failed; the classifier's first argument. */
enum smtp_client_stage {
    SMTP_CLIENT_STAGE_CONNECT, /* set by the owner: before the machine began */
    SMTP_CLIENT_STAGE_GREETING,
    SMTP_CLIENT_STAGE_EHLO,
    SMTP_CLIENT_STAGE_STARTTLS,
    SMTP_CLIENT_STAGE_TLS,
    SMTP_CLIENT_STAGE_AUTH,
    SMTP_CLIENT_STAGE_IDLE, /* READY, nothing asked */
    SMTP_CLIENT_STAGE_MAIL,
    SMTP_CLIENT_STAGE_RCPT,
    SMTP_CLIENT_STAGE_DATA,
    SMTP_CLIENT_STAGE_CONTENT,
    SMTP_CLIENT_STAGE_END, /* the whole content was handed to the output: the outcome is in doubt */
    SMTP_CLIENT_STAGE_QUIT,
};

const char *smtp_client_stage_word(enum smtp_client_stage stage);

enum smtp_client_failure {
    SMTP_CLIENT_FAILURE_REPLY,       /* a reply that ends the connection: reply says which (refused
                                        greeting, EHLO, STARTTLS; 421 at any time) */
    SMTP_CLIENT_FAILURE_NO_STARTTLS, /* demanded and not offered */
    SMTP_CLIENT_FAILURE_NO_AUTH,     /* demanded and not offered */
    SMTP_CLIENT_FAILURE_PROTOCOL, /* what came is no reply, or was not asked for; text in detail */
    SMTP_CLIENT_FAILURE_TIMEOUT,
    SMTP_CLIENT_FAILURE_CLOSED, /* the owner said the stream ended */
};

enum smtp_client_event_type {
    SMTP_CLIENT_EVENT_STARTTLS, /* do the handshake, then smtp_client_tls_started. Anything received
                                   behind the 220 was dropped with a protocol error */
    SMTP_CLIENT_EVENT_AUTH,     /* asked. mechanisms: what the server offers. Answer with
                                   smtp_client_auth, or _auth_give_up */
    SMTP_CLIENT_EVENT_AUTH_CHALLENGE, /* asked. challenge, decoded. Answer with
                                         smtp_client_auth_response */
    SMTP_CLIENT_EVENT_AUTH_RESULT,    /* told. reply. 235: READY comes next. Otherwise the owner may
                                         call smtp_client_auth again with another mechanism,    or
                                         smtp_client_auth_give_up. A 421 is FAILED instead */
    SMTP_CLIENT_EVENT_READY,          /* told, once the first transaction may begin */
    SMTP_CLIENT_EVENT_RECIPIENT, /* told, when a recipient was refused (or, with code 0, could not
                                    be asked): index, stage (MAIL, RCPT, DATA), reply. Accepted ones
                                    are told by DONE */
    SMTP_CLIENT_EVENT_CONTENT,   /* asked: bring content with smtp_client_content, then
                                    smtp_client_content_end */
    SMTP_CLIENT_EVENT_DONE, /* told: the transaction is over. accepted_count recipients share reply
                               (that of the final dot; code 0 when no recipient was left to share
                               it). READY again: begin or quit */
    SMTP_CLIENT_EVENT_FAILED, /* told, once, then CLOSED: failure, stage, reply, detail. With a
                                 transaction under way, every recipient not told yet shares this;
                                 stage END means in doubt */
    SMTP_CLIENT_EVENT_CLOSE,  /* told: QUIT was answered (or need not be): close */
};

struct smtp_client_event {
    enum smtp_client_event_type type;
    enum smtp_client_stage stage;
    enum smtp_client_failure failure;
    uint32_t index;          /* RECIPIENT: place in the transaction's array */
    uint32_t accepted_count; /* DONE; RECIPIENT: accepted before this one */
    struct slice mechanisms; /* AUTH: "PLAIN LOGIN", borrowed from the machine */
    struct slice challenge;  /* AUTH_CHALLENGE: decoded, borrowed until the answer */
    struct smtp_reply reply; /* text borrowed until the next feed */
    const char *detail;      /* FAILED: words of ours, static */
};

/* One message to one group of recipients; everything borrowed until DONE or FAILED was taken. */
struct smtp_client_mail {
    struct slice sender;            /* without <>, may be empty */
    const struct slice *recipients; /* without <> */
    uint32_t recipient_count;       /* 1..SMTP_RECIPIENTS_UPSTREAM_MAX */
    uint64_t size;                  /* of the content, for SIZE= */
    bool body_8bit;                 /* BODY=8BITMIME, where the server takes it */
    bool smtputf8;
};

struct smtp_client {
    const struct smtp_client_config *config; /* borrowed */
    enum smtp_client_state state;
    uint32_t extensions; /* SMTP_CLIENT_EXT_*, of the last EHLO reply */
    uint64_t size_max;   /* announced; 0: none */
    bool tls;
    /* The rest is the machine's own: see smtp_client_parts.h. */
    struct smtp_client_mail mail;
    uint8_t recipient_states[SMTP_RECIPIENTS_UPSTREAM_MAX];
    uint32_t recipients_sent;           /* looked at for RCPT so far */
    uint32_t accepted_count;            /* recipients with a 2yz */
    uint32_t refused_count;             /* recipients to be told by RECIPIENT events, all for */
    enum smtp_client_stage told_stage;  /* this reason, */
    struct smtp_reply told_reply;       /* by this reply */
    uint8_t next_command;               /* of the envelope */
    bool mail_accepted;                 /* the server has a transaction open */
    uint8_t login;                      /* AUTH: whose turn it is */
    uint32_t challenge_count;           /* in this login */
    bool secret_output;                 /* the last command put into the output carries a secret */
    enum smtp_client_stage ended_stage; /* CLOSED: where things stood */
    struct {
        uint8_t command;
        uint32_t index;
        uint64_t end; /* of the command, counted in bytes since the connection began */
    } expected[SMTP_CLIENT_EXPECTED_MAX];
    uint32_t expected_head, expected_count;
    struct smtp_client_event events[4];
    uint32_t event_head, event_count;
    uint64_t now_ms;           /* of the latest move */
    uint64_t waiting_since_ms; /* the oldest expected reply, or the output, is waited for since */
    struct smtp_data_encoder encoder;
    struct smtp_reply_parser parser;
    char mechanisms[512];
    struct buf auth; /* decoded challenge, or an initial response that is held back */
    uint8_t auth_memory[SMTP_AUTH_LINE_BYTES_MAX];
    struct buf output;      /* over the borrowed SMTP_CLIENT_OUTPUT_BYTES; appended to only */
    size_t output_offset;   /* of it was sent; it is reset when all was */
    uint64_t output_passed; /* bytes sent since the connection began */
};

/* output_memory: SMTP_CLIENT_OUTPUT_BYTES bytes, borrowed for the life of the machine. */
void smtp_client_init(struct smtp_client *c, const struct smtp_client_config *config,
                      uint8_t *output_memory, uint64_t now_ms);

/*
 * Takes bytes from the server; returns how many were used, fewer while events wait to be pulled.
 * Pull until false, then feed the rest; in CLOSED nothing is used any more.
 *
 * A reply counts only when the whole of its command was reported by output_done before; one that
 * comes earlier was not asked for, and ends the connection. So tell what was sent before what
 * arrived.
 */
MUST_CHECK size_t smtp_client_feed(struct smtp_client *c, struct slice in, uint64_t now_ms);
MUST_CHECK bool smtp_client_next(struct smtp_client *c, struct smtp_client_event *out_event);

/* The owner's moves, each legal only in the state or after the event that asks for it (else CHECK).
 * In CLOSED they do nothing, since an answer may come late; only begin_mail stays a CHECK there. */
void smtp_client_tls_started(struct smtp_client *c, uint64_t now_ms);
/* mechanism: a name of the offered list; initial: decoded, at most 8,192 bytes; "=" is sent for an
 * empty one (RFC 4954 4). */
void smtp_client_auth(struct smtp_client *c, const char *mechanism, bool has_initial,
                      struct slice initial, uint64_t now_ms);
void smtp_client_auth_response(struct smtp_client *c, struct slice response, uint64_t now_ms);
/* Cancels an open challenge with "*". The 501 that follows is told as AUTH_RESULT. */
void smtp_client_auth_cancel(struct smtp_client *c, uint64_t now_ms);
/* No login is possible: QUIT. */
void smtp_client_auth_give_up(struct smtp_client *c, uint64_t now_ms);

/*
 * In READY, with no event waiting. Not BEGUN when it cannot be sent to this server: needs SMTPUTF8
 * (asked for, or an address is not ASCII) that is not offered, or is larger than its SIZE; nothing
 * was sent.
 *
 * An address that could not stand in a command line (a control character, too long, empty) is told
 * by RECIPIENT with code 0: stage MAIL when it is the sender's, and then nothing is sent at all;
 * stage RCPT when it is the recipient's own, and the others go on.
 */
enum smtp_client_begin { SMTP_CLIENT_BEGUN, SMTP_CLIENT_TOO_LARGE, SMTP_CLIENT_NO_SMTPUTF8 };
MUST_CHECK enum smtp_client_begin
smtp_client_begin_mail(struct smtp_client *c, const struct smtp_client_mail *mail, uint64_t now_ms);

/* After CONTENT: takes content (line ends CRLF), returns the bytes used, as many as the output has
 * room for. */
MUST_CHECK size_t smtp_client_content(struct smtp_client *c, struct slice in, uint64_t now_ms);
/* False: no room in the output yet, call again after output_done. */
MUST_CHECK bool smtp_client_content_end(struct smtp_client *c, uint64_t now_ms);

/* In READY or any earlier state: QUIT. Where a QUIT would be taken for something else (before the
 * greeting, within a login or a TLS start) CLOSE is told at once. */
void smtp_client_quit(struct smtp_client *c, uint64_t now_ms);

/* The stream ended or failed. Told as FAILED, or as CLOSE when QUIT was under way. */
void smtp_client_stream_ended(struct smtp_client *c);

/* A passed deadline. Call when now_ms >= smtp_client_deadline_ms. */
void smtp_client_expire(struct smtp_client *c, uint64_t now_ms);

/* Bytes to send, borrowed until output_done; other moves append behind them and never change them.
 * Empty in CLOSED. output_is_secret: mask it in a transcript. */
struct slice smtp_client_output(const struct smtp_client *c);
bool smtp_client_output_is_secret(const struct smtp_client *c);
void smtp_client_output_done(struct smtp_client *c, size_t count, uint64_t now_ms);

/* UINT64_MAX while nothing is awaited from the server (READY, TLS, an asked event). While content
 * is sent: the time by which what is in the output must be sent. */
uint64_t smtp_client_deadline_ms(const struct smtp_client *c);

/* Where things stand: the command whose reply is awaited. In CLOSED: where they stood. */
enum smtp_client_stage smtp_client_stage(const struct smtp_client *c);

#endif
