/*
 * The server side of SMTP, sans-I/O: bytes in, events and bytes out; no socket, no clock, no
 * callback, no allocation.
 *
 * The machine knows the protocol (order, syntax, limits, replies); its owner knows the policy (who
 * may send, is there room, was it committed) and decides by answering events. One reply per
 * command, in order. Events that wait for an answer stop the input; whatever arrived behind them
 * stays with the owner.
 *
 * It does not keep addresses or content: those pass through events as slices, valid until the next
 * call that takes bytes.
 *
 * Sources: RFC 5321, 2920 (PIPELINING), 6152 (8BITMIME), 1870 (SIZE), 2034 (ENHANCEDSTATUSCODES),
 * 6531 (SMTPUTF8), 3461 (DSN), 3207 (STARTTLS), 4954 (AUTH), 3030 (CHUNKING: only where the limits
 * switch it on).
 */
#ifndef TASUKI_PROTO_SMTP_SERVER_H
#define TASUKI_PROTO_SMTP_SERVER_H

#include "daemon/base/buf.h"
#include "daemon/base/limits.h"
#include "daemon/proto/smtp_data.h"
#include "daemon/proto/smtp_param.h"
#include "daemon/proto/smtp_path.h"

#define SMTP_SERVER_OUTPUT_BYTES 2048
#define SMTP_SERVER_REPLY_BYTES_MAX                                                                \
    1024                         /* of one reply; input waits while the output has less room */
#define SMTP_SERVER_EVENTS_MAX 4 /* made by one step */

/* Of all ORCPTs of one mail, so that an owner who keeps them has a bound: the recipient beyond it
 * gets 452, as one beyond recipients_max does, and comes in another mail. */
#define SMTP_SERVER_ORCPTS_BYTES_MAX 65536

/* What this server offers and where it ends. Borrowed for the life of the machine; one for all
 * sessions of a listener. */
struct smtp_server_limits {
    const char *hostname;        /* in the greeting and the EHLO reply */
    const char *software;        /* after the greeting's host name: "tasuki" */
    const char *auth_mechanisms; /* "PLAIN LOGIN", or NULL: AUTH is not offered */
    uint64_t size_max;           /* bytes of content; announced with SIZE */
    uint32_t recipients_max;     /* per transaction, >= 100 */
    uint32_t command_bytes_max;  /* of one line, CRLF included; AUTH lines: SMTP_AUTH_LINE_BYTES_MAX
                                    when auth is offered */
    uint32_t errors_max;         /* bad commands before 421 and close */
    uint32_t received_max;       /* Received lines in the header before 554 5.4.6 */
    uint32_t
        idle_ms_max; /* between bytes of commands: RFC 5321 4.5.3.2.7 says 5 minutes at least */
    uint32_t data_ms_max;    /* between bytes of content */
    uint32_t rate_bytes_min; /* content bytes a second, measured over a minute; slower is closed. 0:
                                no such rule */
    bool starttls;
    bool auth_only_over_tls;
    bool mail_needs_auth; /* 530 5.7.0 before it */
    bool chunking;        /* BDAT is offered */
    bool pipelining;
    bool reject_bare_breaks; /* bare CR or LF in content: 550 5.6.0 after its end, rather than made
                                CRLF */
};

/* Each value says what is true in it. */
enum smtp_server_state {
    SMTP_SERVER_GREETING,  /* nothing was said yet; the owner has to call greet */
    SMTP_SERVER_COMMAND,   /* between commands; transaction says how far a mail is */
    SMTP_SERVER_ASKED,     /* an event waits for the owner's answer; no input is used */
    SMTP_SERVER_CONTENT,   /* DATA was answered 354: input is content until CRLF.CRLF */
    SMTP_SERVER_CHUNK,     /* BDAT: the next chunk_left bytes are content */
    SMTP_SERVER_DISCARD,   /* content that was refused already is read and dropped until its end */
    SMTP_SERVER_LONG_LINE, /* the rest of an over-long command line is dropped */
    SMTP_SERVER_AUTH_LINE, /* a 334 was sent: the next line is a response */
    SMTP_SERVER_TLS, /* 220 was given to STARTTLS: the owner does the handshake; no input is used */
    SMTP_SERVER_CLOSING, /* the last reply is in the output; no input is used; final */
};

/* How far a mail is, while state says what is awaited next. */
enum smtp_server_transaction {
    SMTP_SERVER_NO_HELLO, /* neither HELO nor EHLO was taken */
    SMTP_SERVER_HELLO,    /* no mail is under way */
    SMTP_SERVER_MAIL,     /* a sender was accepted, and no recipient yet */
    SMTP_SERVER_RCPT,     /* at least one recipient was accepted */
    SMTP_SERVER_CHUNKS,   /* a first BDAT was accepted: only more of it may follow */
};

enum smtp_server_event_type {
    SMTP_SERVER_EVENT_HELLO, /* told only. text: the name given; esmtp */
    SMTP_SERVER_EVENT_MAIL,  /* asked. path, size_declared, body_8bit, smtputf8, ret, envid */
    SMTP_SERVER_EVENT_RCPT,  /* asked. path, notify, orcpt */
    SMTP_SERVER_EVENT_CONTENT_BEGIN, /* asked, for DATA and the first BDAT: is there room? A refusal
                                        is the reply to DATA (or discards the chunk), and the
                                        transaction is over */
    SMTP_SERVER_EVENT_CONTENT,       /* told only. text: the next bytes of content, unstuffed */
    SMTP_SERVER_EVENT_CONTENT_END,   /* asked: commit, then accept (250 with the owner's text) or
                                        refuse */
    SMTP_SERVER_EVENT_ABANDON, /* told only: the transaction is void (RSET, EHLO, content refused by
                                  the machine: too large, loop, bare breaks) */
    SMTP_SERVER_EVENT_STARTTLS, /* asked. accept: 220, then TLS */
    SMTP_SERVER_EVENT_AUTH, /* asked. mechanism in text, response (decoded base64) and has_response.
                               Answer with challenge, accept or refuse */
    SMTP_SERVER_EVENT_AUTH_RESPONSE, /* asked. response. An exchange that the peer breaks off
                                        ("*", bad base64) ends without an event of its own but ODD:
                                        the next AUTH is a new one */
    SMTP_SERVER_EVENT_ODD,   /* told only. text: a word for what was odd but tolerated ("bare-lf",
                                "blank-before-path", ...) */
    SMTP_SERVER_EVENT_CLOSE, /* told only, once: send the output, then close; a mail under way is
                                void. text: why, a word ("quit", "too-many-errors", "idle", ...) */
};

struct smtp_server_event {
    enum smtp_server_event_type type;
    struct slice text;
    struct smtp_path path;
    bool path_null; /* MAIL FROM:<> */
    bool esmtp;
    uint64_t size_declared; /* 0: not declared */
    bool body_8bit;         /* BODY=8BITMIME */
    bool smtputf8;
    enum smtp_ret ret;
    uint8_t notify;     /* SMTP_NOTIFY_* */
    struct slice envid; /* xtext as it came, or empty */
    struct slice orcpt; /* "addr-type;xtext" as it came, or empty */
    struct slice response;
    bool has_response;
    uint64_t content_bytes; /* CONTENT_END */
};

struct smtp_server {
    const struct smtp_server_limits *limits; /* borrowed */
    enum smtp_server_state state;
    enum smtp_server_transaction transaction;
    bool esmtp;
    bool tls; /* inside TLS */
    bool authenticated;
    /* Every reply of 4xx or 5xx, whoever decided it, so that the owner can tell somebody. */
    uint32_t refusals;
    uint16_t refusal_code;    /* of the last one */
    const char *refusal_text; /* likewise; static storage */
    /* The rest is the machine's own: see smtp_server.c. */
    enum smtp_server_event_type asked; /* ASKED: what was */
    struct smtp_server_event events[SMTP_SERVER_EVENTS_MAX];
    uint8_t event_first; /* the oldest; the others follow, around the end */
    uint8_t event_count;
    uint8_t header_match; /* bytes of "Received:" that the header line has matched; past that, none
                             can */
    uint8_t refusal;      /* DISCARD, LONG_LINE: the reply that its end will get, 0: was given */
    bool in_header;       /* of the content */
    bool chunk_last;
    bool chunk_unwanted;  /* DISCARD: it was refused before it began, so nobody looks at it */
    bool recipient_asked; /* in this transaction, accepted or not */
    bool smtputf8;
    bool body_8bit;
    bool shutting_down;
    bool clock_stale;         /* an answer came since the time was last known */
    uint32_t recipients;      /* accepted in this transaction */
    uint32_t recipients_over; /* refused in this transaction for being too many */
    uint32_t orcpt_bytes;     /* of those accepted */
    uint32_t orcpt_asked;     /* bytes of the one that the owner is asked about */
    uint32_t errors;
    uint32_t received_lines;
    uint64_t size_limit; /* of this transaction's content */
    uint64_t chunk_left;
    uint64_t discarded_bytes; /* of an over-long line */
    uint64_t now_ms;          /* the latest we were told */
    uint64_t waiting_since_ms;
    uint64_t rate_since_ms;
    uint64_t rate_bytes;
    struct smtp_data_decoder decoder;
    struct buf line;   /* over the owner's line memory: a line that arrived in parts */
    struct buf auth;   /* decoded AUTH response, over the same memory */
    struct buf output; /* over output_memory */
    uint8_t output_memory[SMTP_SERVER_OUTPUT_BYTES];
};

/* Bytes of line memory that smtp_server_init needs for these limits. */
size_t smtp_server_line_bytes(const struct smtp_server_limits *limits);

/*
 *   line_memory   smtp_server_line_bytes(limits) bytes, borrowed for the life of the machine
 *   now_ms        monotonic milliseconds, as in all calls below
 */
void smtp_server_init(struct smtp_server *s, const struct smtp_server_limits *limits,
                      uint8_t *line_memory, uint64_t now_ms);

/* Says 220. A peer that talked before it is refused with 554 (RFC 5321 4.3.1): the owner calls
 * smtp_server_refuse_greeting instead. */
void smtp_server_greet(struct smtp_server *s);

/* Says the given reply instead of a greeting ("421 4.7.0 too many connections", "554 5.7.1 ..."),
 * and closes. code: 421 or 554. */
void smtp_server_refuse_greeting(struct smtp_server *s, uint16_t code, const char *enhanced,
                                 const char *text);

/*
 * Takes bytes that arrived from the peer, 0..n, borrowed for the call and until the events they
 * made have been taken. Returns the bytes used; fewer than in.len while an event waits (take it,
 * answer it, call again), while the output has too little room for one more reply (send it), and in
 * states that use no input. Errors: none. A bad line becomes a reply and counts towards errors_max.
 */
MUST_CHECK size_t smtp_server_feed(struct smtp_server *s, struct slice in, uint64_t now_ms);

/* Pulls the next event; false when there is none. Few exist at a time, and one that asks is the
 * last: feed, then pull until false, then feed the rest. An answer, too, may make events. */
MUST_CHECK bool smtp_server_next(struct smtp_server *s, struct smtp_server_event *out_event);

/* The owner's answers to an asked event. A refusal's text is in static storage. text: our own
 * words, or NULL for the usual ones; printable ASCII without CR LF. */
void smtp_server_accept(struct smtp_server *s, const char *text);
void smtp_server_refuse(struct smtp_server *s, uint16_t code, const char *enhanced,
                        const char *text);
/* To AUTH events: 334 with this challenge, base64-encoded here. One that does not fit a reply
 * (over 700 bytes) refuses the login with 454 instead. */
void smtp_server_challenge(struct smtp_server *s, struct slice challenge);

/* In state TLS, after the handshake: everything known about the peer is forgotten (RFC 3207 4.2).
 */
void smtp_server_tls_started(struct smtp_server *s, uint64_t now_ms);

/* The daemon is stopping: 421 at the next moment when a reply may be given, then CLOSING. */
void smtp_server_shutdown(struct smtp_server *s);

/*
 * A passed deadline: 421 4.4.2 and close. Call when now_ms >= smtp_server_deadline_ms. The first
 * call after an answer only learns the time (answers carry none) and moves the deadline.
 */
void smtp_server_expire(struct smtp_server *s, uint64_t now_ms);

/* The owner reads again after a pause of its own (no room, no memory): the time of the pause is not
 * held against the peer. */
void smtp_server_resumed(struct smtp_server *s, uint64_t now_ms);

/* Bytes to send, borrowed until output_done. Feeds and answers meanwhile add behind them and do not
 * move them. */
struct slice smtp_server_output(const struct smtp_server *s);
void smtp_server_output_done(struct smtp_server *s, size_t count);

/* When smtp_server_expire is due; UINT64_MAX while the owner's answer or handshake is awaited. */
uint64_t smtp_server_deadline_ms(const struct smtp_server *s);

/* "idle", "mail", ... for status lists. */
const char *smtp_server_state_word(const struct smtp_server *s);

#endif
