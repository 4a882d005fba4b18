/*
 * The name of a message: 10 bytes, 16 base32 characters, the same in the 250 reply, the Received
 * line, the log, the store's keys and a report.
 *
 *     6 bytes  milliseconds since 1970 when the message began (big-endian, so keys sort by age)
 *     2 bytes  the box that took it
 *     2 bytes  sequence within that millisecond
 */
#ifndef TASUKI_SCHEMA_MSG_ID_H
#define TASUKI_SCHEMA_MSG_ID_H

#include "daemon/base/buf.h"

#define MSG_ID_BYTES      10
#define MSG_ID_TEXT_BYTES 16

struct msg_id {
    uint8_t bytes[MSG_ID_BYTES];
};

/* time_and_sequence: milliseconds << 16 | sequence. */
struct msg_id msg_id_make(uint64_t time_and_sequence, uint16_t box);

/* The inverse: milliseconds << 16 | sequence. */
uint64_t msg_id_time_and_sequence(const struct msg_id *id);

int msg_id_compare(const struct msg_id *a, const struct msg_id *b);
void msg_id_put_text(struct buf *to, const struct msg_id *id);

/*
 * A whole id or a prefix of one, 1..16 base32 characters, as the range of ids that begin so.
 * False on anything else; then the out-parameters are untouched.
 */
MUST_CHECK bool msg_id_parse_prefix(struct slice text, struct msg_id *out_first,
                                    struct msg_id *out_last);

#endif
