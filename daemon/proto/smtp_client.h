/*
 * The client side of SMTP, sans-I/O: replies in, commands and results out; no socket, no clock, no
 * callback, no allocation.
 *
 * Two cursors: what was written and what was answered. Every command that is written leaves an
 * entry in a ring of expected replies; a reply is matched with the oldest. Between the cursors lies
 * the window: messages that were begun and are not over, oldest first. How far the first cursor may
 * run ahead is the mode:
 *
 *   off     one command, then its reply
 *   safe    groups as RFC 2920 3.1 allows them: the content of message n, its dot, and MAIL,
 * RCPT..., DATA of n+1 in one flight, so one round trip a message stream  whole transactions, MAIL,
 * RCPT..., BDAT with the content (RFC 3030), one behind the other; bounded by count, by bytes and
 * by recipients
 *
 * In each a refused recipient, or a refused message, harms nobody else. What does not fit (a reply
 * that nothing asked for, one that comes before its command was sent, one that is no answer to it)
 * ends the connection, with a word about the anomaly: the owner may try a lower mode from then on.
 *
 * The owner does what needs the world: opens the connection, runs the TLS handshake, asks SASL,
 * brings content. Commands that carry secrets are marked, so that a transcript can mask them.
 *
 * Sources: RFC 5321 (3.1, 4.1.1, 4.2, 4.5.3.2 timeouts), 2920 (PIPELINING), 3030 (CHUNKING), 3207,
 * 3461 (DSN), 4954, 1870, 6152, 6531, 2034.
 */
#ifndef TASUKI_PROTO_SMTP_CLIENT_H
#define TASUKI_PROTO_SMTP_CLIENT_H

#include "daemon/base/buf.h"
#include "daemon/base/limits.h"
#include "daemon/proto/smtp_data.h"
#include "daemon/proto/smtp_reply.h"

#define SMTP_CLIENT_OUTPUT_BYTES    65536
#define SMTP_CLIENT_EXPECTED_MAX    512 /* replies outstanding at once; a power of two */
#define SMTP_CLIENT_WINDOW_MAX      32  /* messages begun and not over */
#define SMTP_CLIENT_RECIPIENTS_MAX  256 /* of all of them together; a power of two */
#define SMTP_CLIENT_ENVID_BYTES_MAX 100 /* RFC 3461 4.4 */
#define SMTP_CLIENT_ORCPT_BYTES_MAX 500 /* RFC 3461 4.2 */
#define SMTP_CLIENT_RATE_MIN        500 /* bytes/s of content, on average: see content_until_ms */

enum smtp_client_tls {
    SMTP_CLIENT_TLS_NONE,     /* tls = off: STARTTLS is not asked for */
    SMTP_CLIENT_TLS_STARTTLS, /* demanded: without it, no AUTH and no MAIL */
    SMTP_CLIENT_TLS_ALREADY,  /* the owner connected with implicit TLS */
};

/* From the shallowest to the deepest. */
enum smtp_client_pipelining {
    SMTP_CLIENT_PIPELINING_OFF,    /* wait for each reply */
    SMTP_CLIENT_PIPELINING_SAFE,   /* RFC 2920 groups, where PIPELINING is announced */
    SMTP_CLIENT_PIPELINING_STREAM, /* whole transactions, where PIPELINING and CHUNKING are */
};

/* "off", "safe", "stream". */
const char *smtp_client_pipelining_word(enum smtp_client_pipelining pipelining);

struct smtp_client_config {
    const char *hello_name; /* borrowed for the life of the machine */
    enum smtp_client_tls tls;
    enum smtp_client_pipelining pipelining; /* the deepest that may be used */
    uint32_t window_max;       /* stream: messages in the window, 1..SMTP_CLIENT_WINDOW_MAX */
    uint64_t window_bytes_max; /* stream: of content written and not answered; one message that is
                                  larger goes alone */
    bool auth;                 /* log in before the first mail */
    uint32_t greeting_ms_max;  /* RFC 5321 4.5.3.2.1: 5 minutes */
    uint32_t command_ms_max;   /* MAIL, RCPT, EHLO, ...: 5 minutes */
    uint32_t data_ms_max;      /* 354 after DATA: 2 minutes */
    uint32_t block_ms_max;     /* progress while content is sent: 3 minutes */
    uint32_t end_ms_max;       /* after the final dot: 10 minutes */
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
    SMTP_CLIENT_READY,    /* messages may be begun, and are under way */
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
    SMTP_CLIENT_STAGE_IDLE, /* READY, nothing asked; of a message: nothing of it was written */
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
                                    be asked): tag, index, stage (MAIL, RCPT, DATA, CONTENT), reply.
                                    Accepted ones are told by DONE */
    SMTP_CLIENT_EVENT_CONTENT,   /* told: the content of tag is wanted; see wants_content */
    SMTP_CLIENT_EVENT_DONE, /* told: the message is over. accepted_count recipients share reply,
                               that of the end of its data; code 0 when nobody was left to share
                               it */
    SMTP_CLIENT_EVENT_LOST, /* told, before FAILED, once for each message that was begun and is not
                               over: every recipient of tag not told yet shares this. stage END:
                               in doubt. behind: the failure is not about this message, others
                               were in turn, and with another stage than END it is as good as
                               untried */
    SMTP_CLIENT_EVENT_FAILED, /* told, once, then CLOSED: failure, stage, reply, detail, anomaly;
                                 about the connection */
    SMTP_CLIENT_EVENT_CLOSE,  /* told: QUIT was answered (or need not be): close */
};

struct smtp_client_event {
    enum smtp_client_event_type type;
    enum smtp_client_stage stage;
    enum smtp_client_failure failure;
    uint32_t tag;            /* RECIPIENT, CONTENT, DONE, LOST: which message */
    uint32_t index;          /* RECIPIENT: place in the message's array */
    uint32_t accepted_count; /* DONE, LOST; RECIPIENT: accepted before this one */
    bool behind;             /* LOST */
    struct slice mechanisms; /* AUTH: "PLAIN LOGIN", borrowed from the machine */
    struct slice challenge;  /* AUTH_CHALLENGE: decoded, borrowed until the answer */
    struct smtp_reply reply; /* text borrowed until the next feed */
    const char *detail;      /* FAILED, LOST: words of ours, static */
    const char *anomaly;     /* FAILED, LOST: words, static, when the mode may be to blame: a lower
                                one is worth a try. Else NULL */
};

/* NOTIFY. RFC 3461 4.1; no bit: it was not given. */
#define SMTP_CLIENT_NOTIFY_NEVER   0x01u /* alone */
#define SMTP_CLIENT_NOTIFY_SUCCESS 0x02u
#define SMTP_CLIENT_NOTIFY_FAILURE 0x04u
#define SMTP_CLIENT_NOTIFY_DELAY   0x08u

struct smtp_client_recipient {
    struct slice path;  /* without <> */
    struct slice orcpt; /* "addr-type;xtext" as it came, or empty */
    uint8_t notify;     /* SMTP_CLIENT_NOTIFY_* */
};

enum smtp_client_ret { SMTP_CLIENT_RET_NONE, SMTP_CLIENT_RET_FULL, SMTP_CLIENT_RET_HDRS };

/*
 * One message to one group of recipients; everything borrowed until its DONE or LOST was taken.
 * ret, envid, notify and orcpt are passed on where DSN is announced, else dropped: see extensions.
 */
struct smtp_client_mail {
    uint32_t tag;        /* the owner's, returned with its events */
    struct slice sender; /* without <>, may be empty */
    const struct smtp_client_recipient *recipients;
    uint32_t recipient_count; /* 1..SMTP_RECIPIENTS_UPSTREAM_MAX */
    uint64_t size;            /* of the content, exactly, as it is brought */
    bool body_8bit;           /* BODY=8BITMIME, where the server takes it */
    bool smtputf8;
    enum smtp_client_ret ret;
    struct slice envid;   /* xtext as it came, or empty */
    struct buf *dialogue; /* what is said about it is noted here, or NULL: lines "C: ...", "S: ...",
                             "-- ...", of a peer's bytes; a mark ends it when it is full */
};

/* What is true of one message in the window. */
enum smtp_client_phase {
    SMTP_CLIENT_PHASE_WAITING,  /* nothing of it was written */
    SMTP_CLIENT_PHASE_ENVELOPE, /* MAIL, RCPT... are being written; with DATA, up to its 354 */
    SMTP_CLIENT_PHASE_CONTENT,  /* the owner brings content */
    SMTP_CLIENT_PHASE_FILL,     /* nothing can come of it any more; its chunk is being filled up */
    SMTP_CLIENT_PHASE_RESET,    /* the same; answers to what was written are awaited */
    SMTP_CLIENT_PHASE_END,      /* its last byte is in the output; the answer to it is awaited */
    SMTP_CLIENT_PHASE_OVER,     /* answered; DONE is owed as soon as it is the oldest */
};

struct smtp_client_slot {
    struct smtp_client_mail mail;
    enum smtp_client_phase phase;
    uint8_t next_command;      /* of the envelope */
    bool mail_accepted;        /* the server has a transaction open */
    bool chunk_refused;        /* the recipients were told so */
    bool abandoned;            /* by the owner, who knows the outcome */
    uint32_t recipients_first; /* place in recipient_states, modulo its size */
    uint32_t recipients_sent;  /* looked at for RCPT so far */
    uint32_t undecided_count;  /* recipients that are neither accepted nor refused */
    uint32_t accepted_count;
    uint32_t unanswered;      /* its entries in the ring */
    uint64_t content_bytes;   /* brought so far */
    uint64_t bytes_in_flight; /* its share of the window; 0 before MAIL */
    struct smtp_reply reply;  /* OVER: to the end of its data */
};

struct smtp_client {
    const struct smtp_client_config *config; /* borrowed */
    enum smtp_client_state state;
    enum smtp_client_pipelining mode; /* in force: READY and later */
    uint32_t extensions;              /* SMTP_CLIENT_EXT_*, of the last EHLO reply */
    uint64_t size_max;                /* announced; 0: none */
    bool tls;
    /* The rest is the machine's own: see smtp_client_parts.h. */
    struct smtp_client_slot slots[SMTP_CLIENT_WINDOW_MAX]; /* a ring */
    uint32_t slot_head, slot_count;
    uint32_t writing; /* of them were written whole: the next one is at the first cursor */
    uint8_t recipient_states[SMTP_CLIENT_RECIPIENTS_MAX]; /* a ring, in the order of the slots */
    uint32_t recipients_next, recipients_used;
    uint64_t bytes_in_flight;           /* size of what was begun to be written and is not over */
    uint32_t mails_answered;            /* MAIL commands, on this connection */
    uint32_t refused_count;             /* recipients to be told by RECIPIENT events, all of */
    uint32_t told_slot;                 /* this place in slots, */
    enum smtp_client_stage told_stage;  /* for this reason, */
    struct smtp_reply told_reply;       /* by this reply */
    bool content_to_tell;               /* a CONTENT event is owed */
    uint8_t login;                      /* AUTH: whose turn it is */
    uint32_t challenge_count;           /* in this login */
    bool secret_output;                 /* the last command put into the output carries a secret */
    enum smtp_client_stage ended_stage; /* CLOSED: where things stood */
    bool blamed;                        /* CLOSED: the message in turn was told LOST */
    const char *misfit; /* why the reply just judged does not fit; NULL: in general words */
    struct {
        uint8_t command;
        uint32_t index;
        uint64_t end;   /* of the command, counted in bytes since the connection began */
        uint64_t bytes; /* of a chunk: the end lies behind them */
    } expected[SMTP_CLIENT_EXPECTED_MAX];
    uint32_t expected_head, expected_count;
    struct smtp_client_event events[4];
    uint32_t event_head, event_count;
    uint64_t now_ms;           /* of the latest move */
    uint64_t waiting_since_ms; /* the oldest expected reply, or the output, is waited for since */
    struct smtp_data_encoder encoder; /* DATA */
    uint64_t chunk_left;              /* BDAT: bytes of the chunk that are still to be put */
    bool chunk_last, chunk_clean;     /* it is the last one; its bytes need no change */
    bool chunk_line_start, chunk_after_cr;
    struct smtp_reply_parser parser;
    char mechanisms[512];
    struct buf auth; /* decoded challenge, or a response that is held back or not answered yet */
    uint8_t auth_memory[SMTP_AUTH_LINE_BYTES_MAX];
    struct buf output;      /* over the borrowed SMTP_CLIENT_OUTPUT_BYTES; appended to only */
    size_t output_offset;   /* of it was sent; it is reset when all was */
    uint64_t output_passed; /* bytes sent since the connection began */
    uint64_t content_end;   /* where the last content in the output ends, counted the same */
    /* By then the output has to be free of the content that is being written. At its beginning, and
       again with each answer but one to a chunk, there is as much time as for the longest wait;
       each byte that is sent adds its time at SMTP_CLIENT_RATE_MIN. The owner's own time is added.
     */
    uint64_t content_until_ms;
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
/* The reply that the last call of feed ended with, what it repeats of a secret masked; false: it
 * did not end with one. For a transcript of a login, which what came may not be shown in as it is.
 */
MUST_CHECK bool smtp_client_last_reply(const struct smtp_client *c, struct smtp_reply *out_reply);
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

/* A further message with so many recipients may be begun now. Never true but in READY. */
bool smtp_client_has_room(const struct smtp_client *c, uint32_t recipient_count);
/* READY, and no message is in the window. */
bool smtp_client_is_idle(const struct smtp_client *c);

/*
 * Where has_room is true and no event waits. The message is written as soon as those before it are,
 * as the mode allows. Not BEGUN when it cannot be sent to this server: needs SMTPUTF8 (asked for,
 * or an address is not ASCII) that is not offered, or is larger than its SIZE; nothing was sent.
 *
 * An address that could not stand in a command line (a control character, too long, empty) is told
 * by RECIPIENT with code 0: stage MAIL when it is the sender's, and then nothing is sent at all;
 * stage RCPT when it is the recipient's own, and the others go on.
 */
enum smtp_client_begin { SMTP_CLIENT_BEGUN, SMTP_CLIENT_TOO_LARGE, SMTP_CLIENT_NO_SMTPUTF8 };
MUST_CHECK enum smtp_client_begin
smtp_client_begin_mail(struct smtp_client *c, const struct smtp_client_mail *mail, uint64_t now_ms);

/* A message's content is to be brought now: *out_tag is whose. It may be wanted no more after any
 * reply. */
MUST_CHECK bool smtp_client_wants_content(const struct smtp_client *c, uint32_t *out_tag);
/* While wanted: takes content (line ends CRLF), returns the bytes used, as many as the output has
 * room for. What was left comes first in the next call: a chunk is announced by what the call that
 * begins it brings. */
MUST_CHECK size_t smtp_client_content(struct smtp_client *c, struct slice in, uint64_t now_ms);
/* False: no room in the output yet, call again after output_done. */
MUST_CHECK bool smtp_client_content_end(struct smtp_client *c, uint64_t now_ms);
/*
 * While wanted, when everything that was brought was used: it cannot be brought to its end. True:
 * in chunks the message is reset, its DONE follows with nobody accepted, and the others go on.
 * False: DATA has no such way out; the connection has to end without the dot.
 */
MUST_CHECK bool smtp_client_content_abandon(struct smtp_client *c, uint64_t now_ms);

/* In READY without a message in the window, or in any earlier state: QUIT. Where a QUIT would be
 * taken for something else (before the greeting, within a login or a TLS start) CLOSE is told at
 * once. */
void smtp_client_quit(struct smtp_client *c, uint64_t now_ms);

/* The stream ended or failed. Told as FAILED, or as CLOSE when QUIT was under way. */
void smtp_client_stream_ended(struct smtp_client *c);

/* A passed deadline. Call when now_ms >= smtp_client_deadline_ms. */
void smtp_client_expire(struct smtp_client *c, uint64_t now_ms);

/* Bytes to send, borrowed until output_done; other moves append behind them and never change them.
 * Empty in CLOSED. output_is_secret: mask it in a transcript. */
struct slice smtp_client_output(const struct smtp_client *c);
bool smtp_client_output_is_secret(const struct smtp_client *c);
/* Reports bytes of the output that were sent, any part of it. */
void smtp_client_output_done(struct smtp_client *c, size_t count, uint64_t now_ms);

/* UINT64_MAX while nothing is awaited from the server (idle, TLS, an asked event, content that the
 * owner has to bring). While content is sent: the time by which what is in the output must be sent,
 * or the oldest command answered; or, when that is earlier, the time that the whole content has. */
uint64_t smtp_client_deadline_ms(const struct smtp_client *c);

/* Where things stand: the command whose reply is awaited. In CLOSED: where they stood. */
enum smtp_client_stage smtp_client_stage(const struct smtp_client *c);

#endif
