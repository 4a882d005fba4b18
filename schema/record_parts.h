/*
 * What the files of records share: texts, heads, checksums. Nobody else includes it.
 *
 * The checksum is judged before anything else, the version byte included. So a flipped bit is
 * always ERR_DAMAGED, and ERR_VERSION means that a newer version really wrote the record. For that
 * every version keeps its first byte and its last four bytes as they are here.
 */
#ifndef TASUKI_SCHEMA_RECORD_PARTS_H
#define TASUKI_SCHEMA_RECORD_PARTS_H

#include "daemon/base/buf.h"
#include "daemon/base/err.h"
#include "daemon/base/num.h"

#define RECORD_HEAD_BYTES     2 /* version, kind */
#define RECORD_CHECKSUM_BYTES 4
#define RECORD_LENGTH_BYTES   2 /* before every text */

#define RECORD_REPLY_CODE_MAX    999
#define RECORD_ENHANCED_PART_MAX 999 /* three digits. RFC 3463 2 */

/* A text: two bytes of length, then the bytes. The caller has made sure of room and length. */
void record_text_put(struct buf *to, struct slice text);

/* Takes a text of bytes_min..bytes_max bytes; otherwise false, and *from stays as it is. */
MUST_CHECK bool record_text_take(struct slice *from, size_t bytes_min, size_t bytes_max,
                                 struct slice *out_text);

/* A record is written whole or not at all: half of one must never look like a short one. */
MUST_CHECK bool record_has_room(struct buf *to, size_t bytes);

/* Over everything that was put since start. */
void record_checksum_put(struct buf *to, size_t start);

/* On success *out_content is what stands between checksum and the start, the head included. */
MUST_CHECK enum err record_content_get(struct slice bytes, uint8_t version, uint8_t kind,
                                       size_t fixed_bytes, struct slice *out_content);

static inline bool record_enhanced_is_valid(const uint16_t enhanced[3])
{
    return enhanced[0] <= RECORD_ENHANCED_PART_MAX && enhanced[1] <= RECORD_ENHANCED_PART_MAX &&
           enhanced[2] <= RECORD_ENHANCED_PART_MAX;
}

#endif
