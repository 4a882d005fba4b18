/*
 * What is written to disk about a message, each record with a version byte at its head and a
 * CRC-32C at its end.
 *
 *   envelope   written once, with the message
 *   state      rewritten after every attempt and every operator's command
 *   trail      what happened to it so far: moves, and the dialogue of the last attempts
 *              (schema/record_history.h)
 *   history    all three, when the message has left the queue (schema/record_history.h)
 *
 * Decoding judges everything (length, version, checksum, counts, ranges) and borrows: slices point
 * into the encoded bytes. Nothing here allocates. The exact layout is described in
 * schema/RECORD.md, well enough for a second reader to be written from it.
 *
 * A put is all or nothing: without room it writes nothing and sets overflow.
 */
#ifndef TASUKI_SCHEMA_RECORD_H
#define TASUKI_SCHEMA_RECORD_H

#include "daemon/base/buf.h"
#include "daemon/base/err.h"
#include "daemon/base/limits.h"
#include "schema/lifecycle.h"
#include "schema/msg_id.h"
#include "schema/outcome.h"

#define RECORD_VERSION 2

#define RECORD_FLAG_8BITMIME 0x01u /* the client said BODY=8BITMIME */
#define RECORD_FLAG_8BIT     0x02u /* a byte over 127 was seen in the body */
#define RECORD_FLAG_SMTPUTF8 0x04u
#define RECORD_FLAG_REPORT   0x08u /* made here: a report to a sender; none is made about it */
#define RECORD_FLAG_DIGEST   0x10u /* made here: the digest to root-mail; none is made about it */
#define RECORD_FLAG_RET_FULL 0x20u /* RFC 3461 4.3 */
#define RECORD_FLAG_RET_HDRS 0x40u
#define RECORD_FLAGS_KNOWN   0x7fu /* another bit is damage: a new flag is a new version */

/* Bounds of an envelope's texts; a longer one is a CHECK when it is put. */
#define RECORD_CLIENT_BYTES_MAX  128
#define RECORD_HELO_BYTES_MAX    SMTP_COMMAND_BYTES_MAX
#define RECORD_DEVICE_BYTES_MAX  128
#define RECORD_SUBJECT_BYTES_MAX 128
#define RECORD_ENVID_BYTES_MAX   100 /* RFC 3461 4.4 */
#define RECORD_ORCPT_BYTES_MAX   500 /* RFC 3461 4.2 */

/* NOTIFY. RFC 3461 4.1; no bit: it was not given. */
#define RECORD_NOTIFY_NEVER   0x01u /* alone */
#define RECORD_NOTIFY_SUCCESS 0x02u
#define RECORD_NOTIFY_FAILURE 0x04u
#define RECORD_NOTIFY_DELAY   0x08u

struct record_envelope {
    uint64_t arrived_ms; /* wall clock, when the commit was asked for */
    uint64_t body_bytes; /* with our Received line, line ends CRLF, not dot-stuffed */
    uint32_t chunk_count;
    uint32_t body_crc;        /* CRC-32C of the whole body */
    uint32_t recipient_count; /* 1..JOB_RECIPIENTS_MAX */
    uint16_t flags;
    struct slice client;     /* address of the peer, as text */
    struct slice helo;       /* what it called itself, as bytes */
    struct slice device;     /* section name, or empty */
    struct slice subject;    /* of the message, undecoded, cut at 128 bytes; or empty */
    struct slice sender;     /* without <>; empty is the null sender */
    struct slice envid;      /* xtext as it came, or empty. RFC 3461 4.4 */
    struct slice recipients; /* encoded: read with record_recipient_next */
};

/* One recipient as the client gave it. */
struct record_rcpt {
    struct slice path;  /* 1..SMTP_PATH_BYTES_MAX bytes, without <> */
    uint8_t notify;     /* RECORD_NOTIFY_* */
    struct slice orcpt; /* "addr-type;xtext" as it came, or empty */
};

/* Adds one recipient to an encoded list, for record_envelope.recipients. */
void record_rcpt_put(struct buf *list, const struct record_rcpt *rcpt);
/* The same for a path without parameters. */
void record_recipient_put(struct buf *list, struct slice path);
/* Takes the next recipient off *list. False at the end (or where the list is damaged). */
MUST_CHECK bool record_rcpt_next(struct slice *list, struct record_rcpt *out);
MUST_CHECK bool record_recipient_next(struct slice *list, struct slice *out_path);

/* CHECKs the bounds above, and that recipients holds exactly recipient_count of them. */
void record_envelope_put(struct buf *to, const struct record_envelope *envelope);
/* Errors: ERR_DAMAGED, ERR_VERSION. On error *out is untouched. An intact envelope's recipients
 * need no second check. */
MUST_CHECK enum err record_envelope_get(struct slice bytes, struct record_envelope *out);

/*
 * What is kept of a recipient's copy. Its `sending` is in memory only, `held` and `trashed` are the
 * message's: record_lifecycle puts them together. Order is the order on disk.
 */
enum recipient_state {
    RECIPIENT_QUEUED, /* not tried yet */
    RECIPIENT_DELIVERED,
    RECIPIENT_FAILED,
    RECIPIENT_DEFERRED, /* tried, to be tried again */
    RECIPIENT_IN_DOUBT, /* the last try broke between the end of data and its answer; to be tried
                           again */
    RECIPIENT_STATE_COUNT
};

/* Still to be delivered? */
static inline bool recipient_is_open(enum recipient_state state)
{
    return state == RECIPIENT_QUEUED || state == RECIPIENT_DEFERRED || state == RECIPIENT_IN_DOUBT;
}

#define RECORD_FATE_TOLD_FAILED  0x01u /* a report about its failure was committed */
#define RECORD_FATE_TOLD_DELAY   0x02u /* a warning about its delay was */
#define RECORD_FATE_TOLD_SUCCESS 0x04u /* a report about its success was, or the upstream's is */
#define RECORD_FATE_FLAGS_KNOWN  0x07u

#define RECORD_FATE_FLAGS_OFFSET 1 /* of `flags`, one byte, in an encoded fate */

/* One recipient's fate so far, in the order of the envelope. */
struct record_recipient {
    enum recipient_state state;
    uint8_t flags;        /* RECORD_FATE_* */
    enum outcome outcome; /* of the last attempt; NONE before the first */
    uint16_t code;        /* SMTP reply code, 0..999, 0 when there was none */
    uint16_t enhanced[3]; /* enhanced status code, 0..999 each, zeros: none. RFC 3463 */
    struct slice text;    /* the upstream's words, untrusted, at most RECORD_REPLY_TEXT_BYTES_MAX */
};

#define RECORD_REPLY_TEXT_BYTES_MAX 512

/*
 * QUEUED   at least one recipient is open; the message stands in the due index
 * HELD     an operator holds it: not in the due index
 * FAILED   no recipient is open and at least one failed of which nobody could be told yet: waits
 *          for the digest (in the due index, under RECORD_ROUTE_DIGEST) or an operator
 * TRASHED  deleted by an operator, or failed and reported: kept for a while, can be brought back;
 *          in the due index under RECORD_ROUTE_TRASH, due when it goes for good
 * A message whose recipients are all delivered has no record: it is in the history.
 */
enum message_state {
    MESSAGE_QUEUED,
    MESSAGE_HELD,
    MESSAGE_FAILED,
    MESSAGE_TRASHED,
    MESSAGE_STATE_COUNT
};

/* "queued", "held", "failed", "trashed". */
const char *message_state_word(enum message_state state);

/* What the copy of one recipient is to people. leased: the message is with a connection. */
enum lifecycle record_lifecycle(enum message_state message, enum recipient_state recipient,
                                bool leased);

#define RECORD_STATE_AWAITS_DIGEST 0x01u /* FAILED: stands under RECORD_ROUTE_DIGEST */
#define RECORD_STATE_WAS_HELD      0x02u /* TRASHED: undeleted, it is held again */
#define RECORD_STATE_FLAGS_KNOWN   0x03u

/* Times ending in _q are of the queue's clock: milliseconds that only grow, whatever the wall clock
 * does; schema/STORE.md, summary. */
struct record_state {
    enum message_state state;
    enum outcome reason;   /* of the recipient that is worst off: record_reason */
    uint16_t flags;        /* RECORD_STATE_* */
    uint32_t route;        /* record_route of the upstream's name */
    uint64_t due_q;        /* QUEUED: next attempt; TRASHED: when it goes; AWAITS_DIGEST: when */
    uint32_t attempts;     /* made so far */
    uint64_t last_q;       /* when the last one ended; 0 before the first */
    uint64_t changed_q;    /* when this record was written */
    uint64_t accepted_q;   /* since when give-up counts: RECORD.md */
    uint64_t outage_base;  /* the upstream's outage total (ms) when it was: give-up pauses by what
                              has been added since */
    uint32_t flow;         /* whose message it is, hashed: record_flow. For fairness */
    uint32_t size_kib;     /* of the body, rounded up */
    struct slice upstream; /* name it is routed to, 1..UPSTREAM_NAME_BYTES_MAX */
    struct slice device;   /* name of the device, or its address: what counts are kept by */
    uint32_t recipient_count;
    struct slice recipients; /* encoded: read with record_fate_next, write with record_fate_put */
};

/* The four bytes that stand for an upstream's name in the due index. */
uint32_t record_route(struct slice upstream_name);
/* No upstream has such a name. */
#define RECORD_ROUTE_NAME_TRASH  "#trash"
#define RECORD_ROUTE_NAME_DIGEST "#digest"

/* Fairness is between devices (the upper half) and, on one device, between senders (all of it). */
uint32_t record_flow(struct slice device, struct slice sender);

void record_fate_put(struct buf *list, const struct record_recipient *recipient);
MUST_CHECK bool record_fate_next(struct slice *list, struct record_recipient *out);

/* The outcome of the recipient that is worst off: failed before in doubt before deferred before
 * queued before delivered; the first of those. NONE for an empty list. */
enum outcome record_reason(struct slice fates);

/* CHECKs that route belongs to upstream, and that recipients holds exactly recipient_count fates.
 */
void record_state_put(struct buf *to, const struct record_state *state);
/* Errors: ERR_DAMAGED, ERR_VERSION. On error *out is untouched. */
MUST_CHECK enum err record_state_get(struct slice bytes, struct record_state *out);

/* Bytes that an encoded record of either kind may need at most for so many recipients. */
size_t record_envelope_bytes_max(uint32_t recipient_count);
size_t record_state_bytes_max(uint32_t recipient_count);

#endif
