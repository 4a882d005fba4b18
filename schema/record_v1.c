/* Records of format version 1: a decoder that trusts nothing, as for the present ones. */
#include "schema/record_v1.h"

#include "daemon/base/num.h"
#include "schema/record_parts.h"

#define VERSION       1
#define KIND_ENVELOPE 'E'
#define KIND_STATE    'S'

#define ENVELOPE_FIXED_BYTES 32 /* head included */
#define STATE_FIXED_BYTES    40 /* head included */
#define FATE_FIXED_BYTES     10

#define FLAGS_KNOWN  (RECORD_FLAG_8BITMIME | RECORD_FLAG_8BIT | RECORD_FLAG_SMTPUTF8)
#define MESSAGE_LAST MESSAGE_FAILED
#define FATE_LAST    RECIPIENT_FAILED

static bool recipient_count_is_valid(uint32_t count)
{
    return count >= 1 && count <= JOB_RECIPIENTS_MAX;
}

bool record_v1_recipient_next(struct slice *list, struct slice *out_path)
{
    return record_text_take(list, 1, SMTP_PATH_BYTES_MAX, out_path);
}

static bool recipients_are_valid(struct slice list, uint32_t count)
{
    uint32_t found = 0;
    struct slice path;
    while (record_v1_recipient_next(&list, &path)) {
        found++;
    }
    return list.len == 0 && found == count;
}

enum err record_v1_envelope_get(struct slice bytes, struct record_envelope *out)
{
    struct slice content;
    enum err err =
        record_content_get(bytes, VERSION, KIND_ENVELOPE, ENVELOPE_FIXED_BYTES, &content);
    if (err != ERR_OK) {
        return err;
    }
    struct record_envelope e = {
        .flags = be16_get(content.data + 2),
        .arrived_ms = be64_get(content.data + 4),
        .body_bytes = be64_get(content.data + 12),
        .chunk_count = be32_get(content.data + 20),
        .body_crc = be32_get(content.data + 24),
        .recipient_count = be32_get(content.data + 28),
    };
    struct slice rest = slice_tail(content, ENVELOPE_FIXED_BYTES);
    if ((e.flags & ~FLAGS_KNOWN) != 0 || !recipient_count_is_valid(e.recipient_count) ||
        !record_text_take(&rest, 0, RECORD_CLIENT_BYTES_MAX, &e.client) ||
        !record_text_take(&rest, 0, RECORD_HELO_BYTES_MAX, &e.helo) ||
        !record_text_take(&rest, 0, RECORD_DEVICE_BYTES_MAX, &e.device) ||
        !record_text_take(&rest, 0, RECORD_SUBJECT_BYTES_MAX, &e.subject) ||
        !record_text_take(&rest, 0, SMTP_PATH_BYTES_MAX, &e.sender) ||
        !recipients_are_valid(rest, e.recipient_count)) {
        return ERR_DAMAGED;
    }
    e.recipients = rest;
    *out = e;
    return ERR_OK;
}

bool record_v1_fate_next(struct slice *list, struct record_recipient *out)
{
    if (list->len < FATE_FIXED_BYTES) {
        return false;
    }
    const uint8_t *fixed = list->data;
    struct slice rest = slice_tail(*list, FATE_FIXED_BYTES);
    struct record_recipient r = {
        .outcome = fixed[1] < OUTCOME_COUNT ? (enum outcome)fixed[1] : OUTCOME_NONE,
        .code = be16_get(fixed + 2),
        .enhanced = {be16_get(fixed + 4), be16_get(fixed + 6), be16_get(fixed + 8)},
    };
    if (fixed[0] > FATE_LAST || r.code > RECORD_REPLY_CODE_MAX ||
        !record_enhanced_is_valid(r.enhanced) ||
        !record_text_take(&rest, 0, RECORD_REPLY_TEXT_BYTES_MAX, &r.text)) {
        return false;
    }
    r.state = (enum recipient_state)fixed[0];
    *out = r;
    *list = rest;
    return true;
}

static bool fates_are_valid(struct slice list, uint32_t count)
{
    uint32_t found = 0;
    struct record_recipient recipient;
    while (record_v1_fate_next(&list, &recipient)) {
        found++;
    }
    return list.len == 0 && found == count;
}

enum err record_v1_state_get(struct slice bytes, struct record_state *out)
{
    struct slice content;
    enum err err = record_content_get(bytes, VERSION, KIND_STATE, STATE_FIXED_BYTES, &content);
    if (err != ERR_OK) {
        return err;
    }
    const uint8_t *fixed = content.data;
    struct record_state s = {
        .route = be32_get(fixed + 4),
        .due_q = be64_get(fixed + 8),
        .attempts = be32_get(fixed + 16),
        .last_q = be64_get(fixed + 20),
        .changed_q = be64_get(fixed + 28),
        .recipient_count = be32_get(fixed + 36),
    };
    struct slice rest = slice_tail(content, STATE_FIXED_BYTES);
    if (fixed[2] > MESSAGE_LAST || fixed[3] != 0 || !recipient_count_is_valid(s.recipient_count) ||
        !record_text_take(&rest, 1, UPSTREAM_NAME_BYTES_MAX, &s.upstream) ||
        s.route != record_route(s.upstream) || !fates_are_valid(rest, s.recipient_count)) {
        return ERR_DAMAGED;
    }
    s.state = (enum message_state)fixed[2];
    s.recipients = rest;
    *out = s;
    return ERR_OK;
}
