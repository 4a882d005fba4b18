/*
 * The two records of a message: encoding, and a decoder that trusts nothing. schema/RECORD.md has
 * the layout in a table; a change there or here is a new RECORD_VERSION.
 *
 * The checksum is judged before anything else, the version byte included. So a flipped bit is
 * always ERR_DAMAGED, and ERR_VERSION means that a newer version really wrote the record. For that
 * every version keeps its first byte and its last four bytes as they are here.
 */
#include "schema/record.h"

#include "daemon/base/crc32c.h"
#include "daemon/base/num.h"

#define KIND_ENVELOPE 'E'
#define KIND_STATE    'S'

#define HEAD_BYTES     2 /* version, kind */
#define CHECKSUM_BYTES 4
#define LENGTH_BYTES   2 /* before every text */

#define ENVELOPE_FIXED_BYTES  32 /* head included */
#define STATE_FIXED_BYTES     40 /* head included */
#define FATE_FIXED_BYTES      10
#define REPLY_CODE_MAX        999
#define ENHANCED_PART_MAX     999 /* three digits. RFC 3463 2 */
#define RECIPIENT_STATE_COUNT (RECIPIENT_FAILED + 1)

_Static_assert(SMTP_COMMAND_BYTES_MAX <= UINT16_MAX, "a text's length has two bytes");
_Static_assert(RECORD_REPLY_TEXT_BYTES_MAX <= UINT16_MAX, "a text's length has two bytes");
_Static_assert(SMTP_PATH_BYTES_MAX <= UINT16_MAX, "a text's length has two bytes");
_Static_assert(OUTCOME_COUNT <= UINT8_MAX, "an outcome has one byte");

/* ---- texts: two bytes of length, then the bytes ---- */

static void text_put(struct buf *to, struct slice text)
{
    uint8_t length[LENGTH_BYTES];
    be16_put(length, u16_from(text.len));
    buf_put(to, slice_of(length, sizeof length));
    buf_put(to, text);
}

/* Takes a text of bytes_min..bytes_max bytes; otherwise false, and *from stays as it is. */
static bool text_take(struct slice *from, size_t bytes_min, size_t bytes_max,
                      struct slice *out_text)
{
    if (from->len < LENGTH_BYTES) {
        return false;
    }
    size_t len = be16_get(from->data);
    if (len < bytes_min || len > bytes_max || len > from->len - LENGTH_BYTES) {
        return false;
    }
    *out_text = slice_of(from->data + LENGTH_BYTES, len);
    *from = slice_tail(*from, LENGTH_BYTES + len);
    return true;
}

/* ---- head and checksum, the same for both kinds ---- */

/* A record is written whole or not at all: half of one must never look like a short one. */
static bool has_room(struct buf *to, size_t bytes)
{
    if (to->overflow || bytes > buf_room(to)) {
        to->overflow = true;
        return false;
    }
    return true;
}

static void checksum_put(struct buf *to, size_t start)
{
    uint8_t checksum[CHECKSUM_BYTES];
    be32_put(checksum, crc32c(0, slice_of(to->data + start, to->len - start)));
    buf_put(to, slice_of(checksum, sizeof checksum));
}

/* On success *out_content is what stands between checksum and the start, the head included. */
static enum err content_get(struct slice bytes, uint8_t kind, size_t fixed_bytes,
                            struct slice *out_content)
{
    if (bytes.len < HEAD_BYTES + CHECKSUM_BYTES) {
        return ERR_DAMAGED;
    }
    struct slice content = slice_head(bytes, bytes.len - CHECKSUM_BYTES);
    if (be32_get(bytes.data + content.len) != crc32c(0, content)) {
        return ERR_DAMAGED;
    }
    if (content.data[0] > RECORD_VERSION) {
        return ERR_VERSION;
    }
    if (content.data[0] != RECORD_VERSION || content.data[1] != kind || content.len < fixed_bytes) {
        return ERR_DAMAGED;
    }
    *out_content = content;
    return ERR_OK;
}

static bool recipient_count_is_valid(uint32_t count)
{
    return count >= 1 && count <= JOB_RECIPIENTS_MAX;
}

/* ---- envelope ---- */

void record_recipient_put(struct buf *list, struct slice path)
{
    CHECK(path.len >= 1 && path.len <= SMTP_PATH_BYTES_MAX);
    if (has_room(list, LENGTH_BYTES + path.len)) {
        text_put(list, path);
    }
}

bool record_recipient_next(struct slice *list, struct slice *out_path)
{
    return text_take(list, 1, SMTP_PATH_BYTES_MAX, out_path);
}

/* Exactly so many well-formed paths, and nothing behind them. */
static bool recipients_are_valid(struct slice list, uint32_t count)
{
    uint32_t found = 0;
    struct slice path;
    while (record_recipient_next(&list, &path)) {
        found++;
    }
    return list.len == 0 && found == count;
}

static void envelope_check(const struct record_envelope *e)
{
    CHECK((e->flags & ~RECORD_FLAGS_KNOWN) == 0);
    CHECK(recipient_count_is_valid(e->recipient_count));
    CHECK(e->client.len <= RECORD_CLIENT_BYTES_MAX);
    CHECK(e->helo.len <= RECORD_HELO_BYTES_MAX);
    CHECK(e->device.len <= RECORD_DEVICE_BYTES_MAX);
    CHECK(e->subject.len <= RECORD_SUBJECT_BYTES_MAX);
    CHECK(e->sender.len <= SMTP_PATH_BYTES_MAX);
    CHECK(recipients_are_valid(e->recipients, e->recipient_count));
}

void record_envelope_put(struct buf *to, const struct record_envelope *envelope)
{
    const struct record_envelope *e = envelope;
    envelope_check(e);
    const struct slice texts[] = {e->client, e->helo, e->device, e->subject, e->sender};
    const size_t text_count = sizeof texts / sizeof texts[0];
    size_t bytes = ENVELOPE_FIXED_BYTES + e->recipients.len + CHECKSUM_BYTES;
    for (size_t index = 0; index < text_count; index++) {
        bytes += LENGTH_BYTES + texts[index].len;
    }
    if (!has_room(to, bytes)) {
        return;
    }
    size_t start = to->len;
    uint8_t fixed[ENVELOPE_FIXED_BYTES] = {RECORD_VERSION, KIND_ENVELOPE};
    be16_put(fixed + 2, e->flags);
    be64_put(fixed + 4, e->arrived_ms);
    be64_put(fixed + 12, e->body_bytes);
    be32_put(fixed + 20, e->chunk_count);
    be32_put(fixed + 24, e->body_crc);
    be32_put(fixed + 28, e->recipient_count);
    buf_put(to, slice_of(fixed, sizeof fixed));
    for (size_t index = 0; index < text_count; index++) {
        text_put(to, texts[index]);
    }
    buf_put(to, e->recipients);
    checksum_put(to, start);
}

enum err record_envelope_get(struct slice bytes, struct record_envelope *out)
{
    struct slice content;
    enum err err = content_get(bytes, KIND_ENVELOPE, ENVELOPE_FIXED_BYTES, &content);
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
    if ((e.flags & ~RECORD_FLAGS_KNOWN) != 0 || !recipient_count_is_valid(e.recipient_count) ||
        !text_take(&rest, 0, RECORD_CLIENT_BYTES_MAX, &e.client) ||
        !text_take(&rest, 0, RECORD_HELO_BYTES_MAX, &e.helo) ||
        !text_take(&rest, 0, RECORD_DEVICE_BYTES_MAX, &e.device) ||
        !text_take(&rest, 0, RECORD_SUBJECT_BYTES_MAX, &e.subject) ||
        !text_take(&rest, 0, SMTP_PATH_BYTES_MAX, &e.sender) ||
        !recipients_are_valid(rest, e.recipient_count)) {
        return ERR_DAMAGED;
    }
    e.recipients = rest;
    *out = e;
    return ERR_OK;
}

size_t record_envelope_bytes_max(uint32_t recipient_count)
{
    const size_t texts_bytes = RECORD_CLIENT_BYTES_MAX + RECORD_HELO_BYTES_MAX +
                               RECORD_DEVICE_BYTES_MAX + RECORD_SUBJECT_BYTES_MAX +
                               SMTP_PATH_BYTES_MAX + 5 * LENGTH_BYTES;
    return ENVELOPE_FIXED_BYTES + texts_bytes + CHECKSUM_BYTES +
           (size_t)recipient_count * (LENGTH_BYTES + SMTP_PATH_BYTES_MAX);
}

/* ---- state ---- */

const char *message_state_word(enum message_state state)
{
    static const char *const words[MESSAGE_STATE_COUNT] = {
        [MESSAGE_QUEUED] = "queued", [MESSAGE_HELD] = "held", [MESSAGE_FAILED] = "failed"};
    CHECK((unsigned)state < MESSAGE_STATE_COUNT);
    return words[state];
}

uint32_t record_route(struct slice upstream_name)
{
    return crc32c(0, upstream_name);
}

static bool enhanced_is_valid(const uint16_t enhanced[3])
{
    return enhanced[0] <= ENHANCED_PART_MAX && enhanced[1] <= ENHANCED_PART_MAX &&
           enhanced[2] <= ENHANCED_PART_MAX;
}

void record_fate_put(struct buf *list, const struct record_recipient *recipient)
{
    const struct record_recipient *r = recipient;
    CHECK((unsigned)r->state < RECIPIENT_STATE_COUNT);
    CHECK((unsigned)r->outcome < OUTCOME_COUNT);
    CHECK(r->code <= REPLY_CODE_MAX);
    CHECK(enhanced_is_valid(r->enhanced));
    CHECK(r->text.len <= RECORD_REPLY_TEXT_BYTES_MAX);
    if (!has_room(list, FATE_FIXED_BYTES + LENGTH_BYTES + r->text.len)) {
        return;
    }
    uint8_t fixed[FATE_FIXED_BYTES] = {(uint8_t)r->state, (uint8_t)r->outcome};
    be16_put(fixed + 2, r->code);
    be16_put(fixed + 4, r->enhanced[0]);
    be16_put(fixed + 6, r->enhanced[1]);
    be16_put(fixed + 8, r->enhanced[2]);
    buf_put(list, slice_of(fixed, sizeof fixed));
    text_put(list, r->text);
}

bool record_fate_next(struct slice *list, struct record_recipient *out)
{
    if (list->len < FATE_FIXED_BYTES) {
        return false;
    }
    const uint8_t *fixed = list->data;
    struct slice rest = slice_tail(*list, FATE_FIXED_BYTES);
    struct record_recipient r = {
        .code = be16_get(fixed + 2),
        .enhanced = {be16_get(fixed + 4), be16_get(fixed + 6), be16_get(fixed + 8)},
    };
    if (fixed[0] >= RECIPIENT_STATE_COUNT || r.code > REPLY_CODE_MAX ||
        !enhanced_is_valid(r.enhanced) ||
        !text_take(&rest, 0, RECORD_REPLY_TEXT_BYTES_MAX, &r.text)) {
        return false;
    }
    r.state = (enum recipient_state)fixed[0];
    /* A row that a newer version added to outcome.def reads as NONE: no reason to lose the mail. */
    r.outcome = fixed[1] < OUTCOME_COUNT ? (enum outcome)fixed[1] : OUTCOME_NONE;
    *out = r;
    *list = rest;
    return true;
}

static bool fates_are_valid(struct slice list, uint32_t count)
{
    uint32_t found = 0;
    struct record_recipient recipient;
    while (record_fate_next(&list, &recipient)) {
        found++;
    }
    return list.len == 0 && found == count;
}

void record_state_put(struct buf *to, const struct record_state *state)
{
    const struct record_state *s = state;
    CHECK((unsigned)s->state < MESSAGE_STATE_COUNT);
    CHECK(s->upstream.len >= 1 && s->upstream.len <= UPSTREAM_NAME_BYTES_MAX);
    CHECK(s->route == record_route(s->upstream));
    CHECK(recipient_count_is_valid(s->recipient_count));
    CHECK(fates_are_valid(s->recipients, s->recipient_count));
    if (!has_room(to, STATE_FIXED_BYTES + LENGTH_BYTES + s->upstream.len + s->recipients.len +
                          CHECKSUM_BYTES)) {
        return;
    }
    size_t start = to->len;
    uint8_t fixed[STATE_FIXED_BYTES] = {RECORD_VERSION, KIND_STATE, (uint8_t)s->state, 0};
    be32_put(fixed + 4, s->route);
    be64_put(fixed + 8, s->due_ms);
    be32_put(fixed + 16, s->attempts);
    be64_put(fixed + 20, s->last_ms);
    be64_put(fixed + 28, s->changed_ms);
    be32_put(fixed + 36, s->recipient_count);
    buf_put(to, slice_of(fixed, sizeof fixed));
    text_put(to, s->upstream);
    buf_put(to, s->recipients);
    checksum_put(to, start);
}

enum err record_state_get(struct slice bytes, struct record_state *out)
{
    struct slice content;
    enum err err = content_get(bytes, KIND_STATE, STATE_FIXED_BYTES, &content);
    if (err != ERR_OK) {
        return err;
    }
    const uint8_t *fixed = content.data;
    if (fixed[2] >= MESSAGE_STATE_COUNT || fixed[3] != 0) {
        return ERR_DAMAGED;
    }
    struct record_state s = {
        .state = (enum message_state)fixed[2],
        .route = be32_get(fixed + 4),
        .due_ms = be64_get(fixed + 8),
        .attempts = be32_get(fixed + 16),
        .last_ms = be64_get(fixed + 20),
        .changed_ms = be64_get(fixed + 28),
        .recipient_count = be32_get(fixed + 36),
    };
    struct slice rest = slice_tail(content, STATE_FIXED_BYTES);
    if (!recipient_count_is_valid(s.recipient_count) ||
        !text_take(&rest, 1, UPSTREAM_NAME_BYTES_MAX, &s.upstream) ||
        s.route != record_route(s.upstream) || !fates_are_valid(rest, s.recipient_count)) {
        return ERR_DAMAGED;
    }
    s.recipients = rest;
    *out = s;
    return ERR_OK;
}

size_t record_state_bytes_max(uint32_t recipient_count)
{
    return STATE_FIXED_BYTES + LENGTH_BYTES + UPSTREAM_NAME_BYTES_MAX + CHECKSUM_BYTES +
           (size_t)recipient_count *
               (FATE_FIXED_BYTES + LENGTH_BYTES + RECORD_REPLY_TEXT_BYTES_MAX);
}
