/* What the files of daemon/delivery share; nobody else includes it. */
#ifndef TASUKI_DELIVERY_DELIVERY_INTERNAL_H
#define TASUKI_DELIVERY_DELIVERY_INTERNAL_H

#include "daemon/delivery/delivery.h"
#include "daemon/outcome/classify.h"
#include "daemon/proto/smtp_client.h"
#include "daemon/stream/stream.h"
#include "schema/event.h"
#include "schema/record.h"

#define DELIVERY_WINDOW         4 /* jobs a connection wants to have at hand */
#define PROBE_MESSAGE_BYTES_MAX 1024

/* Where a connection is. Each value says what is true in it. */
enum session_state {
    SESSION_LOOKUP,     /* the resolver is asked for addresses */
    SESSION_CONNECTING, /* a connect to the address in hand is pending */
    SESSION_RETRYING,   /* it failed; its socket is being closed, then comes the next address */
    SESSION_SECURING,   /* implicit TLS: the handshake goes on, the machine has not begun */
    SESSION_TALKING,    /* the machine runs */
    SESSION_CLOSING,    /* the stream is being closed */
    SESSION_CLOSED,     /* it is; what is away (lookup, login) is awaited, then the end is told */
};

/* The message in hand, and what came of it so far. */
struct delivery_job {
    struct flow_job *job;            /* NULL: none in hand */
    struct buf records;              /* owned: envelope and state, copied from the store */
    struct record_envelope envelope; /* borrowed from records */
    struct record_state state;
    struct slice recipients, fates; /* what is left of the lists */
    uint32_t next_index;            /* of the next recipient in the lists */
    uint32_t queued_count;          /* recipients to deliver, in all */
    uint32_t delivered_before;      /* by earlier attempts */
    uint32_t failed_before;
    struct smtp_client_mail mail;
    struct slice group[SMTP_RECIPIENTS_UPSTREAM_MAX];   /* of this transaction */
    uint32_t group_index[SMTP_RECIPIENTS_UPSTREAM_MAX]; /* place in the envelope */
    bool group_told[SMTP_RECIPIENTS_UPSTREAM_MAX];      /* has its result */
    uint32_t group_count;
    uint64_t body_offset; /* read from the store so far */
    size_t chunk_used;
    struct buf chunk; /* owned: a part of the body */
    uint64_t began_ms;
};

struct session {
    struct delivery *d;
    struct session *prev, *next;
    enum session_state state;
    uint16_t upstream;
    const struct config_upstream *up;
    struct flow_link *link;   /* borrowed from the queue thread; NULL when this is a probe */
    struct flow_probe *probe; /* borrowed from control; NULL when this is a link */
    struct stream stream;
    struct smtp_client_config machine_config;
    struct smtp_client machine;
    bool machine_begun;
    size_t sending_len;
    struct io_op timer;
    uint64_t timer_ms;
    uint64_t step_deadline_ms; /* of connecting and securing */
    uint64_t opened_ms, idle_since_ms;
    bool up_told;
    bool quitting; /* no more jobs are taken */

    struct flow_lookup lookup;
    bool lookup_away;
    uint32_t address_at;
    char peer[64];

    struct flow_auth auth;
    bool auth_away;
    char candidates[512]; /* mechanisms not tried yet on this connection */
    char mechanism[32];   /* in use */
    bool auth_challenge_wrong;
    bool password_refused; /* the last mechanism sent it as it is, and heard 535 */

    enum outcome outcome; /* why it ends: the first that went wrong */
    uint16_t code;
    char text[256];

    struct flow_job *waiting_first, *waiting_last; /* jobs not begun, linked by msg.next */
    struct delivery_job now;
    uint32_t jobs_answered;

    uint8_t probe_message[PROBE_MESSAGE_BYTES_MAX];
    size_t probe_message_len;
    uint8_t output_memory[SMTP_CLIENT_OUTPUT_BYTES];
};

struct delivery {
    struct delivery_config with;
    struct session *sessions; /* doubly linked */
    bool shutting_down;
    char good_mechanism[UPSTREAMS_MAX][32]; /* the one that worked last */
};

/* session.c */
struct session *session_new(struct delivery *d, uint16_t upstream);
void session_begin(struct session *s);
void session_quit(struct session *s);  /* in peace, after the message in hand */
void session_abort(struct session *s); /* now */
void session_pump(struct session *s);
/* Ends it; the first reason counts. outcome NONE: in peace. */
void session_fail(struct session *s, enum outcome outcome, uint16_t code, struct slice text);

/* login.c */
void login_begin(struct session *s, struct slice offered);
void login_challenge(struct session *s, struct slice challenge);
void login_result(struct session *s, const struct smtp_reply *reply);
void login_back(struct session *s);
/* Frees what the auth thread keeps. True while an answer is awaited. */
bool login_end(struct session *s);

/* job.c */
void job_next(struct session *s);
void job_recipient(struct session *s, const struct smtp_client_event *event);
void job_content(struct session *s);
void job_done(struct session *s, const struct smtp_client_event *event);
/* The connection failed while a message was in hand. */
void job_failed(struct session *s, const struct smtp_client_event *event);
/* Gives back what was not begun. */
void jobs_return_waiting(struct session *s);
void job_free(struct delivery_job *j);

/* probe.c */
void probe_note(struct session *s, const char *words);
void probe_note_received(struct session *s, struct slice bytes);
void probe_note_sent(struct session *s, struct slice bytes, bool secret);
void probe_ready(struct session *s);
void probe_content(struct session *s);
void probe_recipient(struct session *s, const struct smtp_client_event *event);
void probe_done(struct session *s, const struct smtp_client_event *event);
void probe_step(struct session *s, const char *word);

#endif
