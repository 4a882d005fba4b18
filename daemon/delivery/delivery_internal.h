/* What the files of daemon/delivery share; nobody else includes it. */
#ifndef TASUKI_DELIVERY_DELIVERY_INTERNAL_H
#define TASUKI_DELIVERY_DELIVERY_INTERNAL_H

#include "daemon/delivery/connect.h"
#include "daemon/delivery/delivery.h"
#include "daemon/outcome/classify.h"
#include "daemon/proto/smtp_client.h"
#include "daemon/stream/stream.h"
#include "schema/event.h"
#include "schema/record.h"

/* Jobs that a connection wants to have at hand: those of a whole window where it streams, else one
 * under way and the next ones. */
#define DELIVERY_WINDOW         16
#define DELIVERY_WINDOW_SHORT   4
#define DELIVERY_WINDOW_BYTES   (1u << 20) /* of content written and not answered, streaming */
#define DELIVERY_GROUP_INLINE   4          /* recipients that need no memory of their own */
#define DELIVERY_RECORDS_KEPT   16384      /* bytes that a place keeps for the next job's records */
#define DELIVERY_SUSPECTS_MAX   2 /* connections in a row that broke before anything was answered */
#define DELIVERY_SUSPECT_MS     (60u * 60 * 1000) /* for so long they lower the pipelining */
#define DELIVERY_PREFERRED_MS   (10u * 60 * 1000) /* then the better address has another chance */
#define PROBE_MESSAGE_BYTES_MAX 1024

/* Where a connection is. Each value says what is true in it. */
enum session_state {
    SESSION_LOOKUP,     /* the resolver is asked for addresses */
    SESSION_CONNECTING, /* its addresses are tried; there is no stream yet */
    SESSION_SECURING,   /* implicit TLS: the handshake goes on, the machine has not begun */
    SESSION_TALKING,    /* the machine runs */
    SESSION_CLOSING,    /* the stream is being closed */
    SESSION_CLOSED,     /* there is none; what is away (look-up, sockets that did not win, login) is
                           awaited, then the end is told */
};

enum delivery_job_state {
    DELIVERY_JOB_FREE,    /* the place is */
    DELIVERY_JOB_PENDING, /* a group of recipients is ready; the machine has no room for it yet */
    DELIVERY_JOB_OPEN,    /* it is in the machine's window, and tag is its place */
};

/* What belongs to one recipient of the group, beside what the machine needs. */
struct delivery_place {
    uint32_t index; /* in the envelope */
    bool told;      /* has its result */
};

/* A message in hand, and what came of it so far. */
struct delivery_job {
    enum delivery_job_state state;
    uint64_t order;                  /* grows with every job of the connection */
    struct flow_job *job;            /* NULL when FREE */
    struct buf records;              /* owned: envelope and state, copied from the store */
    struct record_envelope envelope; /* borrowed from records */
    struct record_state message;     /* likewise */
    struct slice recipients, fates;  /* what is left of the lists */
    uint32_t next_index;             /* of the next recipient in the lists */
    uint32_t queued_count;           /* recipients to deliver, in all */
    uint32_t failed_before;          /* by earlier attempts */
    struct smtp_client_mail mail;
    struct smtp_client_recipient *group; /* of this transaction: group_inline, or group_memory */
    struct delivery_place *places;       /* likewise */
    void *group_memory;                  /* owned, NULL for few */
    uint32_t group_cap, group_count;
    struct smtp_client_recipient group_inline[DELIVERY_GROUP_INLINE];
    struct delivery_place places_inline[DELIVERY_GROUP_INLINE];
    bool unreadable; /* its body could not be brought to its end */
    bool begun;      /* something of it was given to the machine, at */
    uint64_t began_ms;
    size_t traced; /* bytes of its dialogue that were shown to whoever watches */
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
    size_t sending_len, sending_told; /* given to the stream; of them told to the machine as sent */
    bool pump_wanted;                 /* at the end of this round of completions */
    bool dropping;                    /* it is we who end it */
    struct io_op timer;
    uint64_t timer_ms;
    uint64_t step_deadline_ms; /* of securing */
    uint64_t opened_ms, idle_since_ms;
    uint64_t age_ms_max;     /* the setting's, less up to an eighth */
    uint32_t messages_taken; /* in hand, ever */
    bool up_told;
    bool quitting; /* no more jobs are taken */

    struct flow_lookup lookup;
    bool lookup_away;
    struct connect connect; /* over the look-up's addresses */
    char peer[64];

    struct flow_auth auth;
    bool auth_away;
    char candidates[512]; /* mechanisms not tried yet on this connection */
    char mechanism[32];   /* in use */
    bool auth_challenge_wrong;
    bool password_refused; /* a mechanism sent it as it is, and heard 535 */

    const char *anomaly;         /* static: why the mode was too deep; NULL: it was not */
    struct flow_lowered lowered; /* its end made us suspect that; max 0: it did not */
    enum outcome outcome;        /* why it ends: the first that went wrong */
    uint16_t code;
    char text[256];

    /* An answer that is about the upstream, not the message: what is under way is brought to its
     * end, and then the connection's end is this. NONE: there was none. */
    enum outcome fault;
    uint16_t fault_code;
    char fault_text[256];

    uint64_t number;                               /* unique in this process */
    struct flow_job *waiting_first, *waiting_last; /* jobs not begun, linked by msg.next */
    struct delivery_job jobs[DELIVERY_WINDOW];
    uint32_t job_count; /* not FREE */
    uint64_t job_order;
    uint32_t answers; /* groups of recipients that the upstream has brought to an end */
    struct buf chunk; /* owned: the part of a body that is being sent */
    size_t chunk_used;
    uint64_t body_offset; /* of that body, read from the store so far */

    struct smtp_client_recipient probe_recipient;
    size_t probe_used; /* of the message */
    uint8_t probe_message[PROBE_MESSAGE_BYTES_MAX];
    size_t probe_message_len;
    uint8_t output_memory[SMTP_CLIENT_OUTPUT_BYTES];
};

struct delivery {
    struct delivery_config with;
    struct session *sessions; /* doubly linked */
    bool shutting_down;
    char good_mechanism[UPSTREAMS_MAX][32]; /* the one that worked last */
    /* Pipelining that an upstream has shown not to bear: less than this until then. */
    struct {
        bool lowered;
        enum smtp_client_pipelining max;
        uint64_t until_ms;
        uint32_t suspects;
    } pipelining[UPSTREAMS_MAX];
    /* The address that has won against a better one, so that one that is dead costs its time once
     * and not with every connection. */
    struct {
        struct flow_address address;
        uint64_t until_ms; /* 0: there is none */
    } preferred[UPSTREAMS_MAX];
    uint64_t connection_count;
    struct flow_msg *back_first, *back_last; /* jobs to give back at the end of this round */
    struct io_op kick;                       /* a timer that is due at once: the end of the round */
};

_Static_assert(DELIVERY_WINDOW <= SMTP_CLIENT_WINDOW_MAX, "a place for each message of the window");

/* delivery.c */
/* At the end of this round of completions: connections that want it are pumped, jobs given back. */
void delivery_kick(struct delivery *d);
void delivery_give_back(struct delivery *d, struct flow_job *job);
/* Gives back what waits, now. */
void delivery_flush(struct delivery *d);
/* The deepest pipelining to be tried with an upstream. */
enum smtp_client_pipelining delivery_pipelining(struct delivery *d, uint16_t upstream,
                                                const struct flow_link *link);
/* mode was too deep for it; for good, or until then. */
void delivery_lower(struct delivery *d, uint16_t upstream, enum smtp_client_pipelining mode,
                    uint64_t until_ms);

/* session.c */
struct session *session_new(struct delivery *d, uint16_t upstream);
void session_begin(struct session *s);
void session_quit(struct session *s);  /* in peace, after the message in hand */
void session_abort(struct session *s); /* now */
void session_pump(struct session *s);
void session_wake(struct session *s); /* the same, at the end of this round */
/* So old, or so many messages were sent over it, that it takes no further one. */
bool session_is_worn(const struct session *s);
/* Ends it; the first reason counts. outcome NONE: in peace. */
void session_fail(struct session *s, enum outcome outcome, uint16_t code, struct slice text);

/* connecting.c: from the look-up of the name to a connected socket. */
void connecting_begin(struct session *s);
void connecting_stop(struct session *s);
bool connecting_is_over(const struct session *s);
/* The host that the connection's address belongs to: the certificate is checked against it. */
const char *connecting_host(const struct session *s);
/* It was of no use: it is not preferred any longer. */
void connecting_forget(struct session *s);

/* session.c, for connecting.c */
void session_connected(struct session *s, int fd);
/* CLOSED: once nothing is away any more, the end is told and the session is gone. */
void session_end_when_done(struct session *s);

/* login.c */
void login_begin(struct session *s, struct slice offered);
void login_challenge(struct session *s, struct slice challenge);
void login_result(struct session *s, const struct smtp_reply *reply);
void login_back(struct session *s);
/* Frees what the auth thread keeps. True while an answer is awaited. */
bool login_end(struct session *s);

/* job.c */
/* Begins what there is room for. Returns whether it began, or gave back, anything. */
bool jobs_begin(struct session *s);
void job_recipient(struct session *s, const struct smtp_client_event *event);
void job_done(struct session *s, const struct smtp_client_event *event);
/* The connection failed while the message was in hand. */
void job_lost(struct session *s, const struct smtp_client_event *event);
/* Gives back what was not begun. */
void jobs_return_waiting(struct session *s);
/* At the end: all that is still in hand. */
void jobs_return_all(struct session *s);
void jobs_free(struct session *s);

/* Its body cannot be read (job->damaged: never): what is left of the group has its result. */
void job_unreadable(struct session *s, struct delivery_job *j);
void job_log_trouble(const struct session *s, enum event event, const struct msg_id *id,
                     const char *problem);

/* body.c */
void job_content_begin(struct session *s);
/* Brings content of the job with that tag. False when the output is full, or it could not be
 * read. */
bool job_content(struct session *s, uint32_t tag);

/* trace_lines.c: for the transcript of a probe, and for whoever watches. */
/* "-- words what". */
void trace_note(struct session *s, const char *words, const char *what);
void trace_received(struct session *s, struct slice bytes);
/* What the machine was fed within a login: servers repeat what they do not understand. */
void trace_login_reply(struct session *s);
void trace_sent(struct session *s, struct slice bytes, bool secret);
/* What was noted of this message, of all messages in hand, since the last time. */
void trace_message(const struct session *s, struct delivery_job *j);
void trace_messages(struct session *s);
void trace_closed(const struct session *s);

/* Whether bytes to be sent may be shown as they are: a probe's, and before and after the messages.
 * In between they hold content. */
static inline bool trace_shows_sent(const struct session *s)
{
    return s->machine.state != SMTP_CLIENT_READY || s->probe != NULL;
}

/* Likewise bytes that come, before the machine is fed. Those that are about a message are shown
 * with it. */
static inline bool trace_shows_received(const struct session *s)
{
    return s->job_count == 0;
}

/* probe.c */
/* line: as it is to be shown. */
void probe_note_line(struct session *s, struct slice line);
/* The machine was fed. */
void probe_note_step(struct session *s);
void probe_ready(struct session *s);
bool probe_content(struct session *s); /* false: the output is full */
void probe_recipient(struct session *s, const struct smtp_client_event *event);
void probe_done(struct session *s, const struct smtp_client_event *event);
void probe_step(struct session *s, const char *word);
/* It came to no end, and that is not the upstream's doing. */
void probe_cut_off(struct flow_probe *p, const char *why);

#endif
