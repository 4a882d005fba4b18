/*
 * Where the stages meet: one struct per kind of message that crosses a thread. Stages include this,
 * never each other.
 *
 *   who            sends                       to            gets back
 *   ingress        flow_intake                 queue thread  the same struct, with result
 *   queue thread   flow_link (open, close)     a worker      flow_link (up, down)
 *   queue thread   flow_job                    a worker      the same struct, with results
 *   control        flow_edit, flow_inspect,    queue thread  the same struct, with result
 *                  flow_compact
 *   main, control  flow_try                    queue thread  the same struct
 *   control        flow_probe                  a worker      the same struct, with transcript
 *   delivery       flow_lookup                 resolver      the same struct, with addresses
 *   delivery       flow_auth                   auth thread   the same struct, with the next
 * response
 */
#ifndef TASUKI_FLOW_FLOW_H
#define TASUKI_FLOW_FLOW_H

#include "daemon/base/buf.h"
#include "daemon/base/err.h"
#include "daemon/base/limits.h"
#include "daemon/flow/mailbox.h"
#include "schema/msg_id.h"
#include "schema/outcome.h"
#include "schema/record_history.h"
#include "schema/record_upstream.h"

#include <netinet/in.h>
#include <sys/socket.h>

enum flow_kind {
    FLOW_INTAKE = 1,
    FLOW_LINK_OPEN, /* queue -> worker */
    FLOW_LINK_UP,   /* worker -> queue: ready for jobs */
    FLOW_LINK_DOWN, /* worker -> queue: gone, and why */
    FLOW_JOB,
    FLOW_EDIT,
    FLOW_INSPECT,
    FLOW_COMPACT,
    FLOW_TRY,
    FLOW_PROBE,
    FLOW_LOOKUP,
    FLOW_AUTH,
    FLOW_STOP,    /* main -> any thread: finish and end */
    FLOW_DRAINED, /* worker -> main: nothing of mine is in flight any more */
};

#define FLOW_FROM(message, type) ((type *)(void *)(message)) /* msg is the first member */

/* ---- taking mail in ---- */

enum flow_intake_step { FLOW_INTAKE_APPEND, FLOW_INTAKE_COMMIT, FLOW_INTAKE_ABANDON };

/* One per ingress session; the session sends it, and waits for it before it sends it again. */
struct flow_intake {
    struct flow_msg msg;
    enum flow_intake_step step;
    struct msg_id id;
    uint32_t piece_index;
    struct slice
        piece; /* APPEND, and the last one with COMMIT (may be empty); borrowed until the answer */
    struct slice envelope; /* COMMIT: encoded; borrowed until the answer */
    uint64_t body_bytes;   /* APPEND: received so far; COMMIT: the body's */
    struct slice sender;   /* COMMIT: for routing; borrowed until the answer */
    uint32_t recipient_count;
    uint32_t epoch;            /* the queue thread's own */
    struct queue_split *split; /* likewise, while it has the intake */
    enum err result; /* OK; FULL: no room, 452; anything else: 451. Not OK: nothing of it is left */
};

/* ---- handing mail on ---- */

/* What was learnt of an upstream's pipelining holds so long: upstreams are mended, too. */
#define FLOW_PIPELINE_LEARNT_MS (7u * 24 * 3600 * 1000)

/* Less pipelining for a while, on suspicion: it is not remembered across a restart. */
struct flow_lowered {
    uint8_t max;     /* the deepest meanwhile: 1 off, 2 safe; 0: there is no suspicion */
    uint64_t for_ms; /* from now on */
    const char *why; /* static, in our words */
};

/*
 * One place for a connection to an upstream. Made by the queue thread, which alone reads the fields
 * up to `session`; a worker keeps its own connection in `session`. The four messages are apart
 * because both sides may speak at once:
 *
 *     queue: OPEN ─► worker: UP or DOWN.   After UP: jobs go and come.   queue: CLOSE ─► worker:
 * DOWN. DOWN may also come by itself; jobs that were on their way to a link that is down come back
 * untried. The worker returns every job before it says DOWN. After DOWN and the last job the place
 * may be opened again.
 */
struct flow_link {
    struct flow_msg open, up, down; /* kind is set by the sender */
    uint16_t upstream;              /* index in struct config */
    uint16_t worker;
    bool probe;                  /* the upstream is marked: this connection goes ahead to see */
    uint8_t pipeline_max;        /* OPEN: the deepest pipelining to use: 1 off, 2 safe, 3 stream; 0:
                                    what the configuration says */
    void *session;               /* the worker's */
    uint32_t window;             /* UP: how many jobs it wants at once, >= 1 */
    enum outcome down_outcome;   /* DOWN: why; NONE when it was idle, old or asked to close */
    uint16_t down_code;          /* reply code, 0 when there was none */
    char down_text[256];         /* the upstream's or the library's words, untrusted */
    char peer[64];               /* UP: "192.0.2.1:587" */
    char tls[64];                /* UP: "TLSv1.3 TLS_AES_256_GCM_SHA384", or "" */
    char mechanism[32];          /* UP: SASL mechanism used, or "" */
    uint8_t pipeline;            /* UP: what is in force: 1 off, 2 safe, 3 stream; DOWN: what was */
    char anomaly[128];           /* DOWN: why pipeline is too deep for this upstream and the next
                                    connection should have less; "" when it is not. Our words */
    struct flow_lowered lowered; /* DOWN: what the worker suspects now */
    uint64_t size_max;           /* UP: what the upstream announced with SIZE, 0 when nothing */
};

#define FLOW_LINK_FROM(message, member)                                                            \
    ((struct flow_link *)(void *)((char *)(message)-offsetof(struct flow_link, member)))

/* A recipient's result; text borrowed from the job's text buffer. */
struct flow_result {
    uint32_t recipient_index; /* in the envelope's order */
    enum outcome outcome;
    uint16_t code;
    uint16_t enhanced[3];
    uint16_t text_len;
    uint32_t text_offset;
};

#define FLOW_JOB_TEXT_BYTES     1024
#define FLOW_JOB_DIALOGUE_BYTES 2048

/*
 * One message to hand on, all its queued recipients. Made by the queue thread, bounded by the sum
 * of the links' windows. While it is out the message is leased: no command and no other job touches
 * it.
 */
struct flow_job {
    struct flow_msg msg;
    struct flow_link *link; /* borrowed */
    struct msg_id id;
    uint64_t due_ms;         /* as it stands in the due index */
    uint32_t flow, size_kib; /* likewise */
    uint64_t sent_ms;        /* the queue thread's clock when it gave the job away */

    /* The worker's answer. tried == false: nothing was said to the upstream about it; results are
     * empty. */
    bool tried;
    bool complete; /* with these results every recipient is delivered: the message may go */
    bool damaged;  /* the store could not read it: quarantine */
    uint32_t result_count;
    struct flow_result *results; /* owned by the job: inline_result, or malloc'ed by the worker and
                                    freed by the queue thread */
    struct flow_result inline_result;
    struct buf text; /* over text_memory; all results' words, equal ones once */
    uint8_t text_memory[FLOW_JOB_TEXT_BYTES];
    uint64_t connection;  /* number of the connection, unique in this process; 0: there was none */
    uint32_t duration_ms; /* from the first word about it to the last answer */
    uint64_t was_sent_ms; /* wall clock: when the end of its content was given away; 0: never */
    bool dsn_passed;      /* the upstream announced DSN: it reports by itself. RFC 3461 5.2 */
    struct buf dialogue;  /* over dialogue_memory: what was said about it, "C: ...\n", "S: ...\n",
                             "-- ...\n"; secrets masked, content left out */
    uint8_t dialogue_memory[FLOW_JOB_DIALOGUE_BYTES];
};

/* ---- reading the store, for stages that may not include it ---- */

/* One per thread; the functions are store/'s, bound in daemon/worker.c. Meaning and errors as in
 * store.h. */
struct flow_reader {
    void *reader;
    enum err (*message)(void *reader, const struct msg_id *id, struct buf *to,
                        struct slice *out_envelope, struct slice *out_state,
                        size_t *out_bytes_needed);
    enum err (*body)(void *reader, const struct msg_id *id, uint64_t offset, struct buf *to);
    enum err (*trail)(void *reader, const struct msg_id *id, struct buf *to);
    enum err (*history)(void *reader, const struct msg_id *id, struct buf *to,
                        size_t *out_bytes_needed);
};

/* One message as it lies on disk; slices borrowed until the function returns. False: stop. */
typedef bool flow_row_fn(void *ctx, const struct msg_id *id, struct slice envelope,
                         struct slice state);

/* Walks messages for lists, in id order from *from on, at most max: ERR_OK with *out_next when more
 * follow, ERR_NOT_FOUND at the end. */
typedef enum err flow_rows_fn(void *reader, const struct msg_id *from, size_t max, flow_row_fn *fn,
                              void *ctx, struct msg_id *out_next);

/* The same for messages that have left, newest id first; history is the encoded record. */
typedef bool flow_history_fn(void *ctx, const struct msg_id *id, struct slice history);
typedef enum err flow_history_rows_fn(void *reader, const struct msg_id *from, size_t max,
                                      flow_history_fn *fn, void *ctx, struct msg_id *out_next);

/* Exact counts of messages by name and state; see store_read_counts. */
enum flow_count_kind { FLOW_COUNT_UPSTREAM, FLOW_COUNT_DEVICE, FLOW_COUNT_REASON };
typedef bool flow_count_fn(void *ctx, struct slice name,
                           const uint64_t messages_by_state[MESSAGE_STATE_COUNT]);
typedef enum err flow_counts_fn(void *reader, enum flow_count_kind kind, struct slice after,
                                size_t max, flow_count_fn *fn, void *ctx);

/* ---- commands ---- */

enum flow_edit_action {
    FLOW_EDIT_RETRY,
    FLOW_EDIT_HOLD,
    FLOW_EDIT_RELEASE,
    FLOW_EDIT_DELETE,   /* into the trash; from there for good */
    FLOW_EDIT_UNDELETE, /* out of the trash, as it was */
    FLOW_EDIT_BOUNCE,   /* given up now, with a report to the sender */
    FLOW_EDIT_ACTION_COUNT
};

#define FLOW_EDIT_IDS_MAX 256

/* One batch of an operator's command. Committed before it comes back. */
struct flow_edit {
    struct flow_msg msg;
    enum flow_edit_action action;
    uint32_t uid;     /* who asks */
    char reason[200]; /* in the operator's words, for the history; may be empty */
    uint32_t count;
    struct msg_id ids[FLOW_EDIT_IDS_MAX];
    enum err results[FLOW_EDIT_IDS_MAX]; /* OK; NOT_FOUND; BUSY: being sent just now; UNSUPPORTED:
                                            makes no sense in its state */
    enum err result;                     /* of the batch's commit */
};

/* tasukictl compact: the queue's file is rewritten without its free pages. Taking mail and handing
 * it on wait meanwhile. */
struct flow_compact {
    struct flow_msg msg;
    uint64_t bytes_before, bytes_after;
    enum err result;
};

/* Something has changed for these upstreams, so those that are marked are tried at once and not at
 * their next probe. */
struct flow_try {
    struct flow_msg msg;
    uint32_t upstreams; /* a bit for each index in struct config; back: those that are marked */
};

_Static_assert(UPSTREAMS_MAX <= 32, "a bit for each upstream");

#define FLOW_RATE_KINDS 2 /* messages, recipients */
#define FLOW_RATE_SPANS 3 /* minute, hour, day */

enum flow_upstream_state { FLOW_UPSTREAM_UNTRIED, FLOW_UPSTREAM_WELL, FLOW_UPSTREAM_MARKED };

struct flow_upstream_status {
    enum flow_upstream_state state;
    enum outcome outcome; /* MARKED: why */
    uint16_t code;
    char text[256];         /* MARKED: the words; untrusted */
    uint64_t marked_ms;     /* since when, wall clock */
    uint64_t next_probe_ms; /* MARKED: when it is tried next */
    uint16_t stand_in; /* MARKED: who carries its mail meanwhile, index + 1; 0: nobody, it waits */
    uint32_t connections;                  /* open now */
    uint32_t busy;                         /* with a job */
    uint64_t delivered, deferred, refused; /* recipients, since start */
    uint64_t oldest_sent_ms; /* when the job that is longest with a connection was given; 0: none */
    uint64_t last_delivery_ms;             /* 0: none since start */
    char peer[64], tls[64], mechanism[32]; /* of the newest connection that came up */
    uint8_t pipeline;           /* of the newest connection: 1 off, 2 safe, 3 stream; 0: none yet */
    uint8_t pipeline_max;       /* the deepest that it bears; 0: nothing was learnt */
    uint64_t pipeline_until_ms; /* so long that is believed */
    char pipeline_reason[RECORD_PIPELINE_REASON_BYTES_MAX + 1]; /* why not more, in our words */
    uint32_t concurrency;        /* connections that may have work now */
    uint64_t throttled_until_ms; /* it asked for less: no new job before; 0: it did not */
    uint8_t lowered_max;         /* on suspicion only: as flow_lowered's; 0: nothing is suspected */
    uint64_t lowered_until_ms;
    const char *lowered_why; /* static */
    bool rate_limited;       /* a rate is set */
    /* Within the span that ends now, with what is under way; in the order of the configuration. */
    uint32_t rate_used[FLOW_RATE_KINDS][FLOW_RATE_SPANS];
    uint32_t rate_room;    /* messages that may go now within the rates */
    uint64_t rate_next_ms; /* rate_room == 0: when there is some; 0: when jobs come back */
    uint64_t outage_ms;    /* how long it has been marked, in all */
    uint64_t forecast_ms;  /* when what waits will have left; 0: unknown, or nothing waits */
};

#define FLOW_SENDING_IDS_MAX 256

struct flow_status {
    uint64_t now_ms;      /* wall clock */
    int64_t wall_minus_q; /* added to times of the queue's clock (..._q) it makes wall clock */
    uint64_t count_by_state[MESSAGE_STATE_COUNT];
    uint64_t history_count, history_bytes, file_bytes;
    uint64_t reports_made; /* to senders, since start */
    uint64_t body_bytes, pages_used_bytes, bytes_max;
    uint64_t sending;                                /* leased now */
    struct msg_id sending_ids[FLOW_SENDING_IDS_MAX]; /* the first of them */
    uint32_t sending_id_count;
    uint64_t oldest_due_ms; /* of what waits in the window, 0: nothing waits */
    bool accepting;         /* false: no room */
    bool store_failed;
    uint32_t upstream_count;
    struct flow_upstream_status upstreams[UPSTREAMS_MAX];
};

struct flow_inspect {
    struct flow_msg msg;
    struct flow_status status;
};

/* tasukictl test: a connection of its own, by the daemon's own delivery code, with every line kept.
 */
#define FLOW_PROBE_TRANSCRIPT_BYTES 32768

struct flow_probe {
    struct flow_msg msg;
    uint16_t upstream;
    char to[SMTP_PATH_BYTES_MAX + 1];   /* also send a small message there; "" is login only */
    char from[SMTP_PATH_BYTES_MAX + 1]; /* its envelope sender */
    bool done;                          /* all went well, to the end */
    enum outcome outcome; /* done: DELIVERED (with to) or NONE; else what went wrong */
    uint16_t code;
    char step[32]; /* the last step reached: "connect", "greeting", "starttls", "login", ... */
    char text[256];
    char peer[64], tls[64], mechanism[32];
    struct buf transcript; /* lines "C: ...\n", "S: ...\n", "-- ...\n"; secrets masked */
    uint8_t transcript_memory[FLOW_PROBE_TRANSCRIPT_BYTES];
};

/* ---- names and logins ---- */

#define FLOW_ADDRESSES_MAX 16

struct flow_address {
    struct sockaddr_storage address;
    socklen_t len;
};

struct flow_lookup {
    struct flow_msg msg;
    char host[SMTP_DOMAIN_BYTES_MAX + 1]; /* a name or an address literal */
    uint16_t port;
    bool use_mx; /* look the name's MX up first; without one, its addresses. RFC 5321 5.1 */
    uint64_t deadline_ms; /* monotonic */
    /* answer */
    enum outcome outcome; /* DELIVERED stands for "found"; NAME_NOT_FOUND, DNS_FAILED */
    char text[128];
    uint32_t count;
    struct flow_address addresses[FLOW_ADDRESSES_MAX]; /* in order of preference */
    char names[FLOW_ADDRESSES_MAX]
              [SMTP_DOMAIN_BYTES_MAX +
               1]; /* the host name each belongs to: certificate names are checked against it */
    uint32_t ttl_s;
};

#define FLOW_AUTH_BYTES 8192

enum flow_auth_step { FLOW_AUTH_START, FLOW_AUTH_CONTINUE, FLOW_AUTH_END };

/*
 * One login's dialogue with the SASL library, which may block and so has a thread of its own. START
 * chooses a mechanism; each CONTINUE turns a challenge into a response; END frees. END is owed
 * exactly when START answered OK.
 */
struct flow_auth {
    struct flow_msg msg;
    enum flow_auth_step step;
    uint16_t upstream;
    void *session; /* the auth thread's */
    bool over_tls;
    char host[SMTP_DOMAIN_BYTES_MAX + 1];
    char mechanisms[512]; /* START: what may be tried, space separated, strongest first */
    /* in: challenge (decoded); out: response (decoded) */
    uint8_t data[FLOW_AUTH_BYTES];
    size_t data_len;
    bool has_data;      /* START: there is an initial response; CONTINUE: always */
    char mechanism[32]; /* START: chosen */
    bool complete;   /* nothing but the server's verdict is missing: a 235 before that is a lie */
    bool unproven;   /* CONTINUE: the server's proof that it knows the password is none */
    enum err result; /* OK; NOT_FOUND: no mechanism fits; PERMISSION: secret file refused; SYNTAX:
                        the peer's challenge is wrong */
    char text[256];  /* in words, when result is not OK; never holds a secret */
};

#endif
