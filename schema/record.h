/*
 * What is written to disk about a message: two records, each with a version byte at its head and a
 * CRC-32C at its end.
 *
 *   envelope   written once, with the message
 *   state      rewritten after every attempt and every operator's command
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
#include "schema/msg_id.h"
#include "schema/outcome.h"

#define RECORD_VERSION 1

#define RECORD_FLAG_8BITMIME 0x01u /* the client said BODY=8BITMIME */
#define RECORD_FLAG_8BIT     0x02u /* a byte over 127 was seen in the body */
#define RECORD_FLAG_SMTPUTF8 0x04u
#define RECORD_FLAGS_KNOWN   0x07u /* another bit is damage: a new flag is a new version */

/* Bounds of an envelope's texts; a longer one is a CHECK when it is put. */
#define RECORD_CLIENT_BYTES_MAX  128
#define RECORD_HELO_BYTES_MAX    SMTP_COMMAND_BYTES_MAX
#define RECORD_DEVICE_BYTES_MAX  128
#define RECORD_SUBJECT_BYTES_MAX 128

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
    struct slice recipients; /* encoded: read with record_recipient_next */
};

/* Adds one recipient to an encoded list, for record_envelope.recipients. path
 * is 1..SMTP_PATH_BYTES_MAX bytes. */
void record_recipient_put(struct buf *list, struct slice path);
/* Takes the next path off *list. False at the end (or where the list is damaged). */
MUST_CHECK bool record_recipient_next(struct slice *list, struct slice *out_path);

/* CHECKs the bounds above, and that recipients holds exactly recipient_count paths. */
void record_envelope_put(struct buf *to, const struct record_envelope *envelope);
/* Errors: ERR_DAMAGED, ERR_VERSION. On error *out is untouched. An intact envelope's recipients
 * need no second check. */
MUST_CHECK enum err record_envelope_get(struct slice bytes, struct record_envelope *out);

/* Legal moves: QUEUED -> DELIVERED | FAILED; FAILED -> QUEUED by an operator's retry. Everything
 * else is a CHECK. */
enum recipient_state { RECIPIENT_QUEUED, RECIPIENT_DELIVERED, RECIPIENT_FAILED };

/* One recipient's fate so far, in the order of the envelope. */
struct record_recipient {
    enum recipient_state state;
    enum outcome outcome; /* of the last attempt; NONE before the first */
    uint16_t code;        /* SMTP reply code, 0..999, 0 when there was none */
    uint16_t enhanced[3]; /* enhanced status code, 0..999 each, zeros: none. RFC 3463 */
    struct slice text;    /* the upstream's words, untrusted, at most RECORD_REPLY_TEXT_BYTES_MAX */
};

#define RECORD_REPLY_TEXT_BYTES_MAX 512

/*
 * QUEUED   at least one recipient is queued; the message stands in the due index
 * HELD     an operator holds it: not in the due index
 * FAILED   no recipient is queued and at least one failed: not in the due index, waits for an
 * operator A message whose recipients are all delivered has no record: it is removed.
 */
enum message_state { MESSAGE_QUEUED, MESSAGE_HELD, MESSAGE_FAILED, MESSAGE_STATE_COUNT };

/* "queued", "held", "failed". */
const char *message_state_word(enum message_state state);

struct record_state {
    enum message_state state;
    uint32_t route;        /* record_route of the upstream's name */
    uint64_t due_ms;       /* next attempt, wall clock; meaningful when QUEUED */
    uint32_t attempts;     /* made so far */
    uint64_t last_ms;      /* when the last one ended; 0 before the first */
    uint64_t changed_ms;   /* when this record was written */
    struct slice upstream; /* name it is routed to, 1..UPSTREAM_NAME_BYTES_MAX */
    uint32_t recipient_count;
    struct slice recipients; /* encoded: read with record_fate_next, write with record_fate_put */
};

/* The four bytes that stand for an upstream's name in the due index. */
uint32_t record_route(struct slice upstream_name);

void record_fate_put(struct buf *list, const struct record_recipient *recipient);
MUST_CHECK bool record_fate_next(struct slice *list, struct record_recipient *out);

/* CHECKs that route belongs to upstream, and that recipients holds exactly recipient_count fates.
 */
void record_state_put(struct buf *to, const struct record_state *state);
/* Errors: ERR_DAMAGED, ERR_VERSION. On error *out is untouched. */
MUST_CHECK enum err record_state_get(struct slice bytes, struct record_state *out);

/* Bytes that an encoded record of either kind may need at most for so many recipients. */
size_t record_envelope_bytes_max(uint32_t recipient_count);
size_t record_state_bytes_max(uint32_t recipient_count);

#endif
