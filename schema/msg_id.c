#include "schema/msg_id.h"

#include "daemon/base/num.h"
#include "daemon/base/text.h"

struct msg_id msg_id_make(uint64_t time_and_sequence, uint16_t box)
{
    struct msg_id id;
    be32_put(id.bytes, (uint32_t)(time_and_sequence >> 32));
    be16_put(id.bytes + 4, (uint16_t)(time_and_sequence >> 16));
    be16_put(id.bytes + 6, box);
    be16_put(id.bytes + 8, (uint16_t)time_and_sequence);
    return id;
}

uint64_t msg_id_time_and_sequence(const struct msg_id *id)
{
    return (uint64_t)be32_get(id->bytes) << 32 | (uint64_t)be16_get(id->bytes + 4) << 16 |
           be16_get(id->bytes + 8);
}

int msg_id_compare(const struct msg_id *a, const struct msg_id *b)
{
    return memcmp(a->bytes, b->bytes, MSG_ID_BYTES);
}

void msg_id_put_text(struct buf *to, const struct msg_id *id)
{
    text_put_base32(to, slice_of(id->bytes, MSG_ID_BYTES));
}

bool msg_id_parse_prefix(struct slice text, struct msg_id *out_first, struct msg_id *out_last)
{
    if (text.len == 0 || text.len > MSG_ID_TEXT_BYTES) {
        return false;
    }
    struct msg_id first = {{0}};
    struct msg_id last;
    memset(last.bytes, 0xff, sizeof last.bytes);
    for (size_t index = 0; index < text.len; index++) {
        uint8_t value = text_base32_value(text.data[index]);
        if (value == 32) {
            return false;
        }
        for (size_t bit = 0; bit < 5; bit++) {
            size_t at = index * 5 + bit;
            uint8_t mask = (uint8_t)(0x80u >> (at % 8));
            if ((value & (16u >> bit)) != 0) {
                first.bytes[at / 8] |= mask;
            } else {
                last.bytes[at / 8] = (uint8_t)(last.bytes[at / 8] & ~mask);
            }
        }
    }
    *out_first = first;
    *out_last = last;
    return true;
}
