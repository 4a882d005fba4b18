/*
 * The envelope and the state of a message: encoding, and a decoder that trusts nothing.
 * schema/RECORD.md has the layout in a table; a change there or here is a new RECORD_VERSION.
 */
#include "schema/record.h"

#include "daemon/base/crc32c.h"
#include "daemon/base/num.h"
#include "schema/record_parts.h"

#define KIND_ENVELOPE 'E'
#define KIND_STATE    'S'

#define ENVELOPE_FIXED_BYTES 32 /* head included */
#define STATE_FIXED_BYTES    70 /* head included */
#define FATE_FIXED_BYTES     11

_Static_assert(SMTP_COMMAND_BYTES_MAX <= UINT16_MAX, "a text's length has two bytes");
_Static_assert(RECORD_REPLY_TEXT_BYTES_MAX <= UINT16_MAX, "a text's length has two bytes");
_Static_assert(SMTP_PATH_BYTES_MAX <= UINT16_MAX, "a text's length has two bytes");
_Static_assert(OUTCOME_COUNT <= UINT8_MAX, "an outcome has one byte");

static bool recipient_count_is_valid(uint32_t count)
{
    return count >= 1 && count <= JOB_RECIPIENTS_MAX;
}

/* A row that a newer version added to outcome.def reads as NONE: no reason to lose the mail. */
static enum outcome outcome_of(uint8_t byte)
{
    return byte < OUTCOME_COUNT ? (enum outcome)byte : OUTCOME_NONE;
}

/* ---- envelope ---- */

static bool notify_is_valid(uint8_t notify)
{
    return notify == RECORD_NOTIFY_NEVER ||
           (notify & ~(RECORD_NOTIFY_SUCCESS | RECORD_NOTIFY_FAILURE | RECORD_NOTIFY_DELAY)) == 0;
}

void record_rcpt_put(struct buf *list, const struct record_rcpt *rcpt)
{
    CHECK(rcpt->path.len >= 1 && rcpt->path.len <= SMTP_PATH_BYTES_MAX);
    CHECK(rcpt->orcpt.len <= RECORD_ORCPT_BYTES_MAX && notify_is_valid(rcpt->notify));
    size_t bytes = RECORD_LENGTH_BYTES + rcpt->path.len + 1 + RECORD_LENGTH_BYTES + rcpt->orcpt.len;
    if (record_has_room(list, bytes)) {
        record_text_put(list, rcpt->path);
        buf_put(list, slice_of(&rcpt->notify, 1));
        record_text_put(list, rcpt->orcpt);
    }
}

void record_recipient_put(struct buf *list, struct slice path)
{
    const struct record_rcpt rcpt = {.path = path};
    record_rcpt_put(list, &rcpt);
}

bool record_rcpt_next(struct slice *list, struct record_rcpt *out)
{
    struct slice rest = *list;
    struct record_rcpt rcpt = {0};
    if (!record_text_take(&rest, 1, SMTP_PATH_BYTES_MAX, &rcpt.path) || rest.len < 1 ||
        !notify_is_valid(rest.data[0])) {
        return false;
    }
    rcpt.notify = rest.data[0];
    rest = slice_tail(rest, 1);
    if (!record_text_take(&rest, 0, RECORD_ORCPT_BYTES_MAX, &rcpt.orcpt)) {
        return false;
    }
    *out = rcpt;
    *list = rest;
    return true;
}

bool record_recipient_next(struct slice *list, struct slice *out_path)
{
    struct record_rcpt rcpt;
    if (!record_rcpt_next(list, &rcpt)) {
        return false;
    }
    *out_path = rcpt.path;
    return true;
}

/* Exactly so many well-formed recipients, and nothing behind them. */
static bool recipients_are_valid(struct slice list, uint32_t count)
{
    uint32_t found = 0;
    struct record_rcpt rcpt;
    while (record_rcpt_next(&list, &rcpt)) {
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
    CHECK(e->envid.len <= RECORD_ENVID_BYTES_MAX);
    CHECK(recipients_are_valid(e->recipients, e->recipient_count));
}

void record_envelope_put(struct buf *to, const struct record_envelope *envelope)
{
    const struct record_envelope *e = envelope;
    envelope_check(e);
    const struct slice texts[] = {e->client, e->helo, e->device, e->subject, e->sender, e->envid};
    const size_t text_count = sizeof texts / sizeof texts[0];
    size_t bytes = ENVELOPE_FIXED_BYTES + e->recipients.len + RECORD_CHECKSUM_BYTES;
    for (size_t index = 0; index < text_count; index++) {
        bytes += RECORD_LENGTH_BYTES + texts[index].len;
    }
    if (!record_has_room(to, bytes)) {
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
        record_text_put(to, texts[index]);
    }
    buf_put(to, e->recipients);
    record_checksum_put(to, start);
}

enum err record_envelope_get(struct slice bytes, struct record_envelope *out)
{
    struct slice content;
    enum err err =
        record_content_get(bytes, RECORD_VERSION, KIND_ENVELOPE, ENVELOPE_FIXED_BYTES, &content);
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
        !record_text_take(&rest, 0, RECORD_CLIENT_BYTES_MAX, &e.client) ||
        !record_text_take(&rest, 0, RECORD_HELO_BYTES_MAX, &e.helo) ||
        !record_text_take(&rest, 0, RECORD_DEVICE_BYTES_MAX, &e.device) ||
        !record_text_take(&rest, 0, RECORD_SUBJECT_BYTES_MAX, &e.subject) ||
        !record_text_take(&rest, 0, SMTP_PATH_BYTES_MAX, &e.sender) ||
        !record_text_take(&rest, 0, RECORD_ENVID_BYTES_MAX, &e.envid) ||
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
                               SMTP_PATH_BYTES_MAX + RECORD_ENVID_BYTES_MAX +
                               6 * RECORD_LENGTH_BYTES;
    return ENVELOPE_FIXED_BYTES + texts_bytes + RECORD_CHECKSUM_BYTES +
           (size_t)recipient_count * (RECORD_LENGTH_BYTES + SMTP_PATH_BYTES_MAX + 1 +
                                      RECORD_LENGTH_BYTES + RECORD_ORCPT_BYTES_MAX);
}

/* ---- state ---- */

const char *message_state_word(enum message_state state)
{
    static const char *const words[MESSAGE_STATE_COUNT] = {
        [MESSAGE_QUEUED] = "queued",
        [MESSAGE_HELD] = "held",
        [MESSAGE_FAILED] = "failed",
        [MESSAGE_TRASHED] = "trashed",
    };
    CHECK((unsigned)state < MESSAGE_STATE_COUNT);
    return words[state];
}

enum lifecycle record_lifecycle(enum message_state message, enum recipient_state recipient,
                                bool leased)
{
    static const enum lifecycle plain[RECIPIENT_STATE_COUNT] = {
        [RECIPIENT_QUEUED] = LIFECYCLE_QUEUED,     [RECIPIENT_DELIVERED] = LIFECYCLE_DELIVERED,
        [RECIPIENT_FAILED] = LIFECYCLE_FAILED,     [RECIPIENT_DEFERRED] = LIFECYCLE_DEFERRED,
        [RECIPIENT_IN_DOUBT] = LIFECYCLE_IN_DOUBT,
    };
    CHECK((unsigned)recipient < RECIPIENT_STATE_COUNT);
    if (recipient == RECIPIENT_DELIVERED) {
        return LIFECYCLE_DELIVERED;
    }
    if (message == MESSAGE_TRASHED) {
        return LIFECYCLE_TRASHED;
    }
    if (message == MESSAGE_HELD) {
        return LIFECYCLE_HELD;
    }
    return leased && recipient_is_open(recipient) ? LIFECYCLE_SENDING : plain[recipient];
}

uint32_t record_route(struct slice upstream_name)
{
    return crc32c(0, upstream_name);
}

uint32_t record_flow(struct slice device, struct slice sender)
{
    uint32_t whose = crc32c(0, device);
    return (whose & 0xffff0000u) | (crc32c(crc32c(whose, SLICE("\n")), sender) & 0xffffu);
}

void record_fate_put(struct buf *list, const struct record_recipient *recipient)
{
    const struct record_recipient *r = recipient;
    CHECK((unsigned)r->state < RECIPIENT_STATE_COUNT);
    CHECK((r->flags & ~RECORD_FATE_FLAGS_KNOWN) == 0);
    CHECK((unsigned)r->outcome < OUTCOME_COUNT);
    CHECK(r->code <= RECORD_REPLY_CODE_MAX);
    CHECK(record_enhanced_is_valid(r->enhanced));
    CHECK(r->text.len <= RECORD_REPLY_TEXT_BYTES_MAX);
    if (!record_has_room(list, FATE_FIXED_BYTES + RECORD_LENGTH_BYTES + r->text.len)) {
        return;
    }
    uint8_t fixed[FATE_FIXED_BYTES] = {(uint8_t)r->state, r->flags, (uint8_t)r->outcome};
    be16_put(fixed + 3, r->code);
    be16_put(fixed + 5, r->enhanced[0]);
    be16_put(fixed + 7, r->enhanced[1]);
    be16_put(fixed + 9, r->enhanced[2]);
    buf_put(list, slice_of(fixed, sizeof fixed));
    record_text_put(list, r->text);
}

bool record_fate_next(struct slice *list, struct record_recipient *out)
{
    if (list->len < FATE_FIXED_BYTES) {
        return false;
    }
    const uint8_t *fixed = list->data;
    struct slice rest = slice_tail(*list, FATE_FIXED_BYTES);
    struct record_recipient r = {
        .flags = fixed[1],
        .outcome = outcome_of(fixed[2]),
        .code = be16_get(fixed + 3),
        .enhanced = {be16_get(fixed + 5), be16_get(fixed + 7), be16_get(fixed + 9)},
    };
    if (fixed[0] >= RECIPIENT_STATE_COUNT || (r.flags & ~RECORD_FATE_FLAGS_KNOWN) != 0 ||
        r.code > RECORD_REPLY_CODE_MAX || !record_enhanced_is_valid(r.enhanced) ||
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
    while (record_fate_next(&list, &recipient)) {
        found++;
    }
    return list.len == 0 && found == count;
}

enum outcome record_reason(struct slice fates)
{
    static const uint8_t rank[RECIPIENT_STATE_COUNT] = {
        [RECIPIENT_DELIVERED] = 1, [RECIPIENT_QUEUED] = 2, [RECIPIENT_DEFERRED] = 3,
        [RECIPIENT_IN_DOUBT] = 4,  [RECIPIENT_FAILED] = 5,
    };
    struct record_recipient r;
    enum outcome reason = OUTCOME_NONE;
    uint8_t worst = 0;
    while (record_fate_next(&fates, &r)) {
        if (rank[r.state] > worst) {
            worst = rank[r.state];
            reason = r.outcome;
        }
    }
    return reason;
}

static void state_check(const struct record_state *s)
{
    CHECK((unsigned)s->state < MESSAGE_STATE_COUNT);
    CHECK((unsigned)s->reason < OUTCOME_COUNT);
    CHECK((s->flags & ~RECORD_STATE_FLAGS_KNOWN) == 0);
    CHECK(s->upstream.len >= 1 && s->upstream.len <= UPSTREAM_NAME_BYTES_MAX);
    CHECK(s->device.len <= RECORD_DEVICE_BYTES_MAX);
    CHECK(s->route == record_route(s->upstream));
    CHECK(recipient_count_is_valid(s->recipient_count));
    CHECK(fates_are_valid(s->recipients, s->recipient_count));
}

void record_state_put(struct buf *to, const struct record_state *state)
{
    const struct record_state *s = state;
    state_check(s);
    if (!record_has_room(to, STATE_FIXED_BYTES + 2 * RECORD_LENGTH_BYTES + s->upstream.len +
                                 s->device.len + s->recipients.len + RECORD_CHECKSUM_BYTES)) {
        return;
    }
    size_t start = to->len;
    uint8_t fixed[STATE_FIXED_BYTES] = {RECORD_VERSION, KIND_STATE, (uint8_t)s->state,
                                        (uint8_t)s->reason};
    be16_put(fixed + 4, s->flags);
    be32_put(fixed + 6, s->route);
    be64_put(fixed + 10, s->due_q);
    be32_put(fixed + 18, s->attempts);
    be64_put(fixed + 22, s->last_q);
    be64_put(fixed + 30, s->changed_q);
    be64_put(fixed + 38, s->accepted_q);
    be64_put(fixed + 46, s->outage_base);
    be32_put(fixed + 54, s->flow);
    be32_put(fixed + 58, s->size_kib);
    be32_put(fixed + 62, s->recipient_count);
    be32_put(fixed + 66, 0);
    buf_put(to, slice_of(fixed, sizeof fixed));
    record_text_put(to, s->upstream);
    record_text_put(to, s->device);
    buf_put(to, s->recipients);
    record_checksum_put(to, start);
}

enum err record_state_get(struct slice bytes, struct record_state *out)
{
    struct slice content;
    enum err err =
        record_content_get(bytes, RECORD_VERSION, KIND_STATE, STATE_FIXED_BYTES, &content);
    if (err != ERR_OK) {
        return err;
    }
    const uint8_t *fixed = content.data;
    struct record_state s = {
        .reason = outcome_of(fixed[3]),
        .flags = be16_get(fixed + 4),
        .route = be32_get(fixed + 6),
        .due_q = be64_get(fixed + 10),
        .attempts = be32_get(fixed + 18),
        .last_q = be64_get(fixed + 22),
        .changed_q = be64_get(fixed + 30),
        .accepted_q = be64_get(fixed + 38),
        .outage_base = be64_get(fixed + 46),
        .flow = be32_get(fixed + 54),
        .size_kib = be32_get(fixed + 58),
        .recipient_count = be32_get(fixed + 62),
    };
    struct slice rest = slice_tail(content, STATE_FIXED_BYTES);
    if (fixed[2] >= MESSAGE_STATE_COUNT || (s.flags & ~RECORD_STATE_FLAGS_KNOWN) != 0 ||
        be32_get(fixed + 66) != 0 || !recipient_count_is_valid(s.recipient_count) ||
        !record_text_take(&rest, 1, UPSTREAM_NAME_BYTES_MAX, &s.upstream) ||
        !record_text_take(&rest, 0, RECORD_DEVICE_BYTES_MAX, &s.device) ||
        s.route != record_route(s.upstream) || !fates_are_valid(rest, s.recipient_count)) {
        return ERR_DAMAGED;
    }
    s.state = (enum message_state)fixed[2];
    s.recipients = rest;
    *out = s;
    return ERR_OK;
}

size_t record_state_bytes_max(uint32_t recipient_count)
{
    return STATE_FIXED_BYTES + 2 * RECORD_LENGTH_BYTES + UPSTREAM_NAME_BYTES_MAX +
           RECORD_DEVICE_BYTES_MAX + RECORD_CHECKSUM_BYTES +
           (size_t)recipient_count *
               (FATE_FIXED_BYTES + RECORD_LENGTH_BYTES + RECORD_REPLY_TEXT_BYTES_MAX);
}
