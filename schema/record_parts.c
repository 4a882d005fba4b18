/* Texts, heads and checksums of all records. */
#include "schema/record_parts.h"

#include "daemon/base/crc32c.h"

void record_text_put(struct buf *to, struct slice text)
{
    uint8_t length[RECORD_LENGTH_BYTES];
    be16_put(length, u16_from(text.len));
    buf_put(to, slice_of(length, sizeof length));
    buf_put(to, text);
}

bool record_text_take(struct slice *from, size_t bytes_min, size_t bytes_max,
                      struct slice *out_text)
{
    if (from->len < RECORD_LENGTH_BYTES) {
        return false;
    }
    size_t len = be16_get(from->data);
    if (len < bytes_min || len > bytes_max || len > from->len - RECORD_LENGTH_BYTES) {
        return false;
    }
    *out_text = slice_of(from->data + RECORD_LENGTH_BYTES, len);
    *from = slice_tail(*from, RECORD_LENGTH_BYTES + len);
    return true;
}

bool record_has_room(struct buf *to, size_t bytes)
{
    if (to->overflow || bytes > buf_room(to)) {
        to->overflow = true;
        return false;
    }
    return true;
}

void record_checksum_put(struct buf *to, size_t start)
{
    uint8_t checksum[RECORD_CHECKSUM_BYTES];
    be32_put(checksum, crc32c(0, slice_of(to->data + start, to->len - start)));
    buf_put(to, slice_of(checksum, sizeof checksum));
}

enum err record_content_get(struct slice bytes, uint8_t version, uint8_t kind, size_t fixed_bytes,
                            struct slice *out_content)
{
    if (bytes.len < RECORD_HEAD_BYTES + RECORD_CHECKSUM_BYTES) {
        return ERR_DAMAGED;
    }
    struct slice content = slice_head(bytes, bytes.len - RECORD_CHECKSUM_BYTES);
    if (be32_get(bytes.data + content.len) != crc32c(0, content)) {
        return ERR_DAMAGED;
    }
    if (content.data[0] > version) {
        return ERR_VERSION;
    }
    if (content.data[0] != version || content.data[1] != kind || content.len < fixed_bytes) {
        return ERR_DAMAGED;
    }
    *out_content = content;
    return ERR_OK;
}
