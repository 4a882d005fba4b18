/*
 * schema/record: what is put is got, and nothing else is. Every damage that can be enumerated
 * (each bit, each length) is enumerated.
 */
#include "daemon/base/crc32c.h"
#include "daemon/base/limits.h"
#include "daemon/base/num.h"
#include "schema/record.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define SMALL_BYTES 8192

static uint8_t list_memory[SMALL_BYTES];
static uint8_t record_memory[SMALL_BYTES];

static void assert_slice_equal(struct slice got, struct slice expected)
{
    assert_int_equal(got.len, expected.len);
    if (expected.len > 0) {
        assert_memory_equal(got.data, expected.data, expected.len);
    }
}

/* ---- samples ---- */

static struct slice list_of(struct buf *list, const char *const *paths, size_t count)
{
    for (size_t index = 0; index < count; index++) {
        record_recipient_put(list, slice_from_str(paths[index]));
    }
    assert_false(list->overflow);
    return buf_slice(list);
}

static struct record_envelope sample_envelope(struct buf *list)
{
    static const char *const paths[] = {"anna@example.jp", "b@c", "\"a b\"@[192.0.2.1]"};
    return (struct record_envelope){
        .arrived_ms = 1795508794123,
        .body_bytes = 0x0102030405060708,
        .chunk_count = 0x090a0b0c,
        .body_crc = 0xdeadbeef,
        .recipient_count = 3,
        .flags = RECORD_FLAG_8BITMIME | RECORD_FLAG_SMTPUTF8,
        .client = SLICE("2001:db8::50"),
        .helo = SLICE("[IPV6:\x1b\xff]"),
        .device = SLICE("canon-2nd-floor"),
        .subject = SLICE("=?UTF-8?B?44K544Kt44Oj44Oz?="),
        .sender = SLICE("scanner@example.jp"),
        .recipients = list_of(list, paths, 3),
    };
}

static const struct record_recipient sample_fates[] = {
    {RECIPIENT_QUEUED, OUTCOME_NONE, 0, {0, 0, 0}, {NULL, 0}},
    {RECIPIENT_DELIVERED, OUTCOME_DELIVERED, 250, {2, 0, 0}, {(const uint8_t *)"ok", 2}},
    {RECIPIENT_FAILED, OUTCOME_DAMAGED, 999, {5, 999, 708}, {(const uint8_t *)"\0\xff", 2}},
};

static struct record_state sample_state(struct buf *list)
{
    for (size_t index = 0; index < 3; index++) {
        record_fate_put(list, &sample_fates[index]);
    }
    assert_false(list->overflow);
    return (struct record_state){
        .state = MESSAGE_HELD,
        .route = record_route(SLICE("main")),
        .due_ms = 0x1112131415161718,
        .attempts = 0x191a1b1c,
        .last_ms = 0x2122232425262728,
        .changed_ms = 0x3132333435363738,
        .upstream = SLICE("main"),
        .recipient_count = 3,
        .recipients = buf_slice(list),
    };
}

static struct slice encoded_envelope(struct buf *to)
{
    struct buf list;
    buf_init(&list, list_memory, sizeof list_memory);
    struct record_envelope envelope = sample_envelope(&list);
    record_envelope_put(to, &envelope);
    assert_false(to->overflow);
    return buf_slice(to);
}

static struct slice encoded_state(struct buf *to)
{
    struct buf list;
    buf_init(&list, list_memory, sizeof list_memory);
    struct record_state state = sample_state(&list);
    record_state_put(to, &state);
    assert_false(to->overflow);
    return buf_slice(to);
}

/* ---- the same for both kinds ---- */

typedef struct slice encode_fn(struct buf *to);
typedef enum err decode_fn(struct slice bytes);

static enum err decode_envelope(struct slice bytes)
{
    struct record_envelope envelope;
    memset(&envelope, 0x5a, sizeof envelope);
    struct record_envelope before = envelope;
    enum err err = record_envelope_get(bytes, &envelope);
    if (err != ERR_OK) {
        assert_memory_equal(&envelope, &before, sizeof envelope);
    }
    return err;
}

static enum err decode_state(struct slice bytes)
{
    struct record_state state;
    memset(&state, 0x5a, sizeof state);
    struct record_state before = state;
    enum err err = record_state_get(bytes, &state);
    if (err != ERR_OK) {
        assert_memory_equal(&state, &before, sizeof state);
    }
    return err;
}

static const struct {
    encode_fn *encode;
    decode_fn *decode;
} kinds[] = {{encoded_envelope, decode_envelope}, {encoded_state, decode_state}};

static uint8_t *record_copy(struct slice record)
{
    uint8_t *copy = malloc(record.len > 0 ? record.len : 1);
    assert_non_null(copy);
    memcpy(copy, record.data, record.len);
    return copy;
}

/* Writes the checksum that fits: what a buggy or hostile writer could do. */
static void reseal(uint8_t *record, size_t len)
{
    be32_put(record + len - 4, crc32c(0, slice_of(record, len - 4)));
}

/* Out of a block of exactly its length, so that the address sanitizer sees a read too far. */
static enum err decode_exact(decode_fn *decode, struct slice record)
{
    uint8_t *copy = record_copy(record);
    enum err err = decode(slice_of(copy, record.len));
    free(copy);
    return err;
}

static void every_flipped_bit_is_damage(void **ctx)
{
    (void)ctx;
    for (size_t kind = 0; kind < 2; kind++) {
        struct buf to;
        buf_init(&to, record_memory, sizeof record_memory);
        struct slice record = kinds[kind].encode(&to);
        assert_int_equal(kinds[kind].decode(record), ERR_OK);
        for (size_t bit = 0; bit < record.len * 8; bit++) {
            record_memory[bit / 8] ^= (uint8_t)(1u << (bit % 8));
            assert_int_equal(kinds[kind].decode(record), ERR_DAMAGED);
            record_memory[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        }
        assert_int_equal(kinds[kind].decode(record), ERR_OK);
    }
}

static void every_truncation_is_damage(void **ctx)
{
    (void)ctx;
    for (size_t kind = 0; kind < 2; kind++) {
        struct buf to;
        buf_init(&to, record_memory, sizeof record_memory);
        struct slice record = kinds[kind].encode(&to);
        for (size_t len = 0; len < record.len; len++) {
            assert_int_equal(decode_exact(kinds[kind].decode, slice_head(record, len)),
                             ERR_DAMAGED);
        }
    }
}

/* Cut short and sealed again: the checksum fits, so the structure alone has to tell. */
static void every_resealed_truncation_is_damage(void **ctx)
{
    (void)ctx;
    for (size_t kind = 0; kind < 2; kind++) {
        struct buf to;
        buf_init(&to, record_memory, sizeof record_memory);
        struct slice record = kinds[kind].encode(&to);
        for (size_t len = 4; len < record.len; len++) {
            uint8_t *copy = record_copy(record);
            reseal(copy, len);
            assert_int_equal(decode_exact(kinds[kind].decode, slice_of(copy, len)), ERR_DAMAGED);
            free(copy);
        }
    }
}

static void bytes_behind_the_end_are_damage(void **ctx)
{
    (void)ctx;
    for (size_t kind = 0; kind < 2; kind++) {
        for (size_t extra = 1; extra <= 16; extra++) {
            struct buf to;
            buf_init(&to, record_memory, sizeof record_memory);
            struct slice record = kinds[kind].encode(&to);
            memset(record_memory + record.len, 0, extra);
            record.len += extra;
            assert_int_equal(kinds[kind].decode(record), ERR_DAMAGED);
            reseal(record_memory, record.len);
            assert_int_equal(kinds[kind].decode(record), ERR_DAMAGED);
        }
    }
}

static void newer_version_is_told_apart_from_damage(void **ctx)
{
    (void)ctx;
    for (size_t kind = 0; kind < 2; kind++) {
        struct buf to;
        buf_init(&to, record_memory, sizeof record_memory);
        struct slice record = kinds[kind].encode(&to);
        for (unsigned version = 0; version < 256; version++) {
            record_memory[0] = (uint8_t)version;
            reseal(record_memory, record.len);
            enum err expected = version == RECORD_VERSION  ? ERR_OK
                                : version > RECORD_VERSION ? ERR_VERSION
                                                           : ERR_DAMAGED;
            assert_int_equal(kinds[kind].decode(record), expected);
        }
        /* Also when that version is shorter than anything this one knows. */
        uint8_t shortest[6] = {RECORD_VERSION + 1, 'E'};
        reseal(shortest, sizeof shortest);
        assert_int_equal(kinds[kind].decode(slice_of(shortest, sizeof shortest)), ERR_VERSION);
    }
}

static void one_kind_is_not_the_other(void **ctx)
{
    (void)ctx;
    for (size_t kind = 0; kind < 2; kind++) {
        struct buf to;
        buf_init(&to, record_memory, sizeof record_memory);
        struct slice record = kinds[kind].encode(&to);
        assert_int_equal(kinds[1 - kind].decode(record), ERR_DAMAGED);
    }
}

/* A put without enough room leaves nothing behind, whatever the room. */
static void put_is_all_or_nothing(void **ctx)
{
    (void)ctx;
    struct buf list;
    struct buf to;
    buf_init(&list, list_memory, sizeof list_memory);
    struct record_envelope envelope = sample_envelope(&list);
    for (size_t room = 0;; room++) {
        buf_init(&to, record_memory, room);
        record_envelope_put(&to, &envelope);
        if (!to.overflow) {
            assert_int_equal(to.len, room);
            break;
        }
        assert_int_equal(to.len, 0);
    }
    buf_init(&list, list_memory, sizeof list_memory);
    struct record_state state = sample_state(&list);
    for (size_t room = 0;; room++) {
        buf_init(&to, record_memory, room);
        record_state_put(&to, &state);
        if (!to.overflow) {
            assert_int_equal(to.len, room);
            break;
        }
        assert_int_equal(to.len, 0);
    }
    for (size_t room = 0; room < 2 + 3; room++) {
        buf_init(&to, record_memory, room);
        record_recipient_put(&to, SLICE("b@c"));
        assert_true(to.overflow);
        assert_int_equal(to.len, 0);
    }
    for (size_t room = 0; room < 10 + 2 + 2; room++) {
        buf_init(&to, record_memory, room);
        record_fate_put(&to, &sample_fates[1]);
        assert_true(to.overflow);
        assert_int_equal(to.len, 0);
    }
}

/* ---- envelope ---- */

static void assert_envelope_equal(const struct record_envelope *got,
                                  const struct record_envelope *expected)
{
    assert_int_equal(got->arrived_ms, expected->arrived_ms);
    assert_int_equal(got->body_bytes, expected->body_bytes);
    assert_int_equal(got->chunk_count, expected->chunk_count);
    assert_int_equal(got->body_crc, expected->body_crc);
    assert_int_equal(got->recipient_count, expected->recipient_count);
    assert_int_equal(got->flags, expected->flags);
    assert_slice_equal(got->client, expected->client);
    assert_slice_equal(got->helo, expected->helo);
    assert_slice_equal(got->device, expected->device);
    assert_slice_equal(got->subject, expected->subject);
    assert_slice_equal(got->sender, expected->sender);
    assert_slice_equal(got->recipients, expected->recipients);
}

static void envelope_round_trip(void **ctx)
{
    (void)ctx;
    struct buf list;
    buf_init(&list, list_memory, sizeof list_memory);
    struct record_envelope envelope = sample_envelope(&list);
    struct buf to;
    buf_init(&to, record_memory, sizeof record_memory);
    buf_put_str(&to, "something before it");
    size_t start = to.len;
    record_envelope_put(&to, &envelope);
    struct record_envelope got;
    assert_int_equal(record_envelope_get(slice_tail(buf_slice(&to), start), &got), ERR_OK);
    assert_envelope_equal(&got, &envelope);

    struct slice path;
    assert_true(record_recipient_next(&got.recipients, &path));
    assert_slice_equal(path, SLICE("anna@example.jp"));
    assert_true(record_recipient_next(&got.recipients, &path));
    assert_slice_equal(path, SLICE("b@c"));
    assert_true(record_recipient_next(&got.recipients, &path));
    assert_slice_equal(path, SLICE("\"a b\"@[192.0.2.1]"));
    assert_false(record_recipient_next(&got.recipients, &path));
}

/* Smallest and largest of each field at once. */
static void envelope_extremes(void **ctx)
{
    (void)ctx;
    static uint8_t filler[4096];
    memset(filler, 0xff, sizeof filler);
    struct buf list;
    buf_init(&list, list_memory, sizeof list_memory);
    record_recipient_put(&list, slice_of(filler, SMTP_PATH_BYTES_MAX));
    struct record_envelope largest = {
        .arrived_ms = UINT64_MAX,
        .body_bytes = UINT64_MAX,
        .chunk_count = UINT32_MAX,
        .body_crc = UINT32_MAX,
        .recipient_count = 1,
        .flags = RECORD_FLAGS_KNOWN,
        .client = slice_of(filler, RECORD_CLIENT_BYTES_MAX),
        .helo = slice_of(filler, RECORD_HELO_BYTES_MAX),
        .device = slice_of(filler, RECORD_DEVICE_BYTES_MAX),
        .subject = slice_of(filler, RECORD_SUBJECT_BYTES_MAX),
        .sender = slice_of(filler, SMTP_PATH_BYTES_MAX),
        .recipients = buf_slice(&list),
    };
    struct buf to;
    struct record_envelope got;
    buf_init(&to, record_memory, sizeof record_memory);
    record_envelope_put(&to, &largest);
    assert_int_equal(to.len, record_envelope_bytes_max(1));
    assert_int_equal(record_envelope_get(buf_slice(&to), &got), ERR_OK);
    assert_envelope_equal(&got, &largest);

    buf_init(&list, list_memory, sizeof list_memory);
    record_recipient_put(&list, SLICE("x"));
    struct record_envelope smallest = {.recipient_count = 1, .recipients = buf_slice(&list)};
    buf_init(&to, record_memory, sizeof record_memory);
    record_envelope_put(&to, &smallest);
    assert_int_equal(record_envelope_get(buf_slice(&to), &got), ERR_OK);
    assert_envelope_equal(&got, &smallest);
}

/* Offsets as in schema/RECORD.md; each value is out of its range, the checksum fits. */
static void resealed_nonsense_is_damage(void **ctx)
{
    (void)ctx;
    static const struct {
        size_t kind;
        size_t offset;
        uint8_t bytes[4];
        size_t count;
    } rows[] = {
        {0, 1, {0}, 1},                 /* kind */
        {0, 1, {'e'}, 1},               /* kind */
        {0, 3, {0x08}, 1},              /* a flag that does not exist */
        {0, 2, {0x80}, 1},              /* likewise */
        {0, 28, {0, 0, 0, 0}, 4},       /* no recipients */
        {0, 28, {0, 0, 0, 2}, 4},       /* fewer than there are */
        {0, 28, {0, 0, 0, 4}, 4},       /* more than there are */
        {0, 28, {0, 1, 0x86, 0xa1}, 4}, /* 100,001 */
        {0, 28, {0xff, 0xff, 0xff, 0xff}, 4},
        {0, 32, {0xff, 0xff}, 2}, /* client longer than the record */
        {0, 32, {0x00, 0x81}, 2}, /* client longer than allowed */
        {0, 32, {0x00, 0x00}, 2}, /* client shorter than it is */
        {1, 1, {'E'}, 1},
        {1, 2, {3}, 1},          /* message state */
        {1, 3, {1}, 1},          /* reserved */
        {1, 4, {0, 0, 0, 0}, 4}, /* route of another name */
        {1, 36, {0, 0, 0, 0}, 4},
        {1, 36, {0, 0, 0, 2}, 4},
        {1, 36, {0, 0, 0, 4}, 4},
        {1, 36, {0, 1, 0x86, 0xa1}, 4},
        {1, 40, {0, 0}, 2},       /* no upstream */
        {1, 40, {0, 65}, 2},      /* name too long */
        {1, 42, {'n'}, 1},        /* name of another route */
        {1, 46, {3}, 1},          /* recipient state */
        {1, 48, {0x03, 0xe8}, 2}, /* code 1000 */
        {1, 50, {0x03, 0xe8}, 2}, /* enhanced code's class, 1000 */
        {1, 52, {0x03, 0xe8}, 2}, /* its subject */
        {1, 54, {0xff, 0xff}, 2}, /* its detail */
        {1, 56, {0x02, 0x01}, 2}, /* text of 513 bytes */
    };
    for (size_t index = 0; index < sizeof rows / sizeof rows[0]; index++) {
        struct buf to;
        buf_init(&to, record_memory, sizeof record_memory);
        struct slice record = kinds[rows[index].kind].encode(&to);
        memcpy(record_memory + rows[index].offset, rows[index].bytes, rows[index].count);
        reseal(record_memory, record.len);
        enum err err = kinds[rows[index].kind].decode(record);
        if (err != ERR_DAMAGED) {
            fail_msg("row %zu gave %d", index, (int)err);
        }
    }
}

static void damaged_recipient_list_ends(void **ctx)
{
    (void)ctx;
    static const struct slice rows[] = {
        {NULL, 0},
        {(const uint8_t *)"\0", 1},       /* half a length */
        {(const uint8_t *)"\0\0", 2},     /* an empty path */
        {(const uint8_t *)"\0\5abcd", 6}, /* longer than the list */
        {(const uint8_t *)"\1\1", 2},     /* 257 bytes */
        {(const uint8_t *)"\xff\xff"
                          "a",
         3},
    };
    for (size_t index = 0; index < sizeof rows / sizeof rows[0]; index++) {
        struct slice list = rows[index];
        struct slice path = SLICE("untouched");
        assert_false(record_recipient_next(&list, &path));
        assert_slice_equal(path, SLICE("untouched"));
        assert_int_equal(list.len, rows[index].len);
    }
}

/* ---- state ---- */

static void assert_recipient_equal(const struct record_recipient *got,
                                   const struct record_recipient *expected)
{
    assert_int_equal(got->state, expected->state);
    assert_int_equal(got->outcome, expected->outcome);
    assert_int_equal(got->code, expected->code);
    assert_memory_equal(got->enhanced, expected->enhanced, sizeof got->enhanced);
    assert_slice_equal(got->text, expected->text);
}

static void assert_state_equal(const struct record_state *got, const struct record_state *expected)
{
    assert_int_equal(got->state, expected->state);
    assert_int_equal(got->route, expected->route);
    assert_int_equal(got->due_ms, expected->due_ms);
    assert_int_equal(got->attempts, expected->attempts);
    assert_int_equal(got->last_ms, expected->last_ms);
    assert_int_equal(got->changed_ms, expected->changed_ms);
    assert_slice_equal(got->upstream, expected->upstream);
    assert_int_equal(got->recipient_count, expected->recipient_count);
    assert_slice_equal(got->recipients, expected->recipients);
}

static void state_round_trip(void **ctx)
{
    (void)ctx;
    for (unsigned value = 0; value < MESSAGE_STATE_COUNT; value++) {
        struct buf list;
        buf_init(&list, list_memory, sizeof list_memory);
        struct record_state state = sample_state(&list);
        state.state = (enum message_state)value;
        struct buf to;
        buf_init(&to, record_memory, sizeof record_memory);
        record_state_put(&to, &state);
        struct record_state got;
        assert_int_equal(record_state_get(buf_slice(&to), &got), ERR_OK);
        assert_state_equal(&got, &state);
        for (size_t index = 0; index < 3; index++) {
            struct record_recipient recipient;
            assert_true(record_fate_next(&got.recipients, &recipient));
            assert_recipient_equal(&recipient, &sample_fates[index]);
        }
        struct record_recipient recipient;
        assert_false(record_fate_next(&got.recipients, &recipient));
    }
}

static void state_extremes(void **ctx)
{
    (void)ctx;
    static uint8_t filler[RECORD_REPLY_TEXT_BYTES_MAX];
    memset(filler, 'u', sizeof filler);
    struct slice name = slice_of(filler, UPSTREAM_NAME_BYTES_MAX);
    struct record_recipient recipient = {RECIPIENT_FAILED,
                                         (enum outcome)(OUTCOME_COUNT - 1),
                                         999,
                                         {999, 999, 999},
                                         slice_of(filler, sizeof filler)};
    struct buf list;
    buf_init(&list, list_memory, sizeof list_memory);
    record_fate_put(&list, &recipient);
    struct record_state state = {
        .state = MESSAGE_FAILED,
        .route = record_route(name),
        .due_ms = UINT64_MAX,
        .attempts = UINT32_MAX,
        .last_ms = UINT64_MAX,
        .changed_ms = UINT64_MAX,
        .upstream = name,
        .recipient_count = 1,
        .recipients = buf_slice(&list),
    };
    struct buf to;
    buf_init(&to, record_memory, sizeof record_memory);
    record_state_put(&to, &state);
    assert_int_equal(to.len, record_state_bytes_max(1));
    struct record_state got;
    assert_int_equal(record_state_get(buf_slice(&to), &got), ERR_OK);
    assert_state_equal(&got, &state);
    struct record_recipient got_recipient;
    assert_true(record_fate_next(&got.recipients, &got_recipient));
    assert_recipient_equal(&got_recipient, &recipient);
}

/* A queue that a newer version wrote to: the mail matters more than the reason. */
static void unknown_outcome_reads_as_none(void **ctx)
{
    (void)ctx;
    for (unsigned outcome = 0; outcome < 256; outcome++) {
        struct buf to;
        buf_init(&to, record_memory, sizeof record_memory);
        struct slice record = encoded_state(&to);
        record_memory[47] = (uint8_t)outcome;
        reseal(record_memory, record.len);
        struct record_state state;
        struct record_recipient recipient;
        assert_int_equal(record_state_get(record, &state), ERR_OK);
        assert_true(record_fate_next(&state.recipients, &recipient));
        assert_int_equal(recipient.outcome, outcome < OUTCOME_COUNT ? outcome : OUTCOME_NONE);
    }
}

static void routes_and_words(void **ctx)
{
    (void)ctx;
    assert_int_equal(record_route(SLICE("123456789")), 0xe3069283);
    assert_true(record_route(SLICE("main")) != record_route(SLICE("backup")));
    assert_string_equal(message_state_word(MESSAGE_QUEUED), "queued");
    assert_string_equal(message_state_word(MESSAGE_HELD), "held");
    assert_string_equal(message_state_word(MESSAGE_FAILED), "failed");
}

/* The bytes of the example in schema/RECORD.md: a queue on disk outlives the program. */
static void layout_is_as_described(void **ctx)
{
    (void)ctx;
    static const uint8_t expected[] = {
        0x01, 0x53, 0x00, 0x00,                         /* version, kind, state, zero */
        0x24, 0x33, 0x43, 0x39,                         /* route */
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x03, 0xe8, /* due */
        0x00, 0x00, 0x00, 0x00,                         /* attempts */
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, /* last */
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x03, 0xe8, /* changed */
        0x00, 0x00, 0x00, 0x01,                         /* recipients */
        0x00, 0x04, 'm',  'a',  'i',  'n',              /* upstream */
        0x00, 0x00, 0x00, 0x00,                         /* the fate: state, outcome, code */
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, /* enhanced code, no text */
        0xb0, 0xe1, 0x02, 0xc7,                         /* checksum */
    };
    struct buf list;
    buf_init(&list, list_memory, sizeof list_memory);
    record_fate_put(&list, &sample_fates[0]);
    struct record_state state = {
        .state = MESSAGE_QUEUED,
        .route = record_route(SLICE("main")),
        .due_ms = 1000,
        .changed_ms = 1000,
        .upstream = SLICE("main"),
        .recipient_count = 1,
        .recipients = buf_slice(&list),
    };
    struct buf to;
    buf_init(&to, record_memory, sizeof record_memory);
    record_state_put(&to, &state);
    assert_slice_equal(buf_slice(&to), slice_of(expected, sizeof expected));
}

/* ---- many ---- */

static void hundred_thousand_recipients(void **ctx)
{
    (void)ctx;
    const uint32_t count = JOB_RECIPIENTS_MAX;
    size_t list_bytes = (size_t)count * 32;
    uint8_t *list = malloc(list_bytes);
    uint8_t *record = malloc(list_bytes + SMALL_BYTES);
    assert_non_null(list);
    assert_non_null(record);
    struct buf paths;
    buf_init(&paths, list, list_bytes);
    for (uint32_t index = 0; index < count; index++) {
        char path[24];
        struct buf text;
        buf_init(&text, path, sizeof path);
        buf_put_str(&text, "u");
        buf_put_u64(&text, index);
        buf_put_str(&text, "@example.jp");
        record_recipient_put(&paths, buf_slice(&text));
    }
    assert_false(paths.overflow);
    struct record_envelope envelope = {.recipient_count = count, .recipients = buf_slice(&paths)};
    struct buf to;
    buf_init(&to, record, list_bytes + SMALL_BYTES);
    record_envelope_put(&to, &envelope);
    assert_false(to.overflow);
    assert_true(to.len <= record_envelope_bytes_max(count));
    struct record_envelope got;
    assert_int_equal(record_envelope_get(buf_slice(&to), &got), ERR_OK);
    assert_slice_equal(got.recipients, buf_slice(&paths));
    uint32_t seen = 0;
    struct slice path;
    while (record_recipient_next(&got.recipients, &path)) {
        seen++;
    }
    assert_int_equal(seen, count);

    struct buf fates;
    buf_init(&fates, list, list_bytes);
    for (uint32_t index = 0; index < count; index++) {
        record_fate_put(&fates, &sample_fates[index % 3]);
    }
    struct record_state state = {.route = record_route(SLICE("m")),
                                 .upstream = SLICE("m"),
                                 .recipient_count = count,
                                 .recipients = buf_slice(&fates)};
    buf_reset(&to);
    record_state_put(&to, &state);
    assert_false(to.overflow);
    struct record_state got_state;
    assert_int_equal(record_state_get(buf_slice(&to), &got_state), ERR_OK);
    assert_slice_equal(got_state.recipients, buf_slice(&fates));
    record[to.len / 2] ^= 0x10;
    assert_int_equal(record_state_get(buf_slice(&to), &got_state), ERR_DAMAGED);
    free(record);
    free(list);
}

/* ---- the programmer's errors ---- */

static void put_too_many_recipients(struct record_envelope *envelope)
{
    envelope->recipient_count = JOB_RECIPIENTS_MAX + 1;
}

static void put_wrong_count(struct record_envelope *envelope)
{
    envelope->recipient_count = 2;
}

static void put_unknown_flag(struct record_envelope *envelope)
{
    envelope->flags = 0x8000;
}

static void put_long_subject(struct record_envelope *envelope)
{
    envelope->subject = slice_of(list_memory, RECORD_SUBJECT_BYTES_MAX + 1);
}

static void put_damaged_list(struct record_envelope *envelope)
{
    envelope->recipients.len--;
}

/* The child's end: what it called came back, or it aborted. */
static void assert_aborted(pid_t child)
{
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGABRT);
}

static void let_abort(void)
{
    struct rlimit no_core = {0, 0};
    (void)setrlimit(RLIMIT_CORE, &no_core);
    (void)signal(SIGABRT, SIG_DFL);
}

static void wrong_fates_abort(void **ctx)
{
    (void)ctx;
    static const struct record_recipient rows[] = {
        {.code = 1000},
        {.enhanced = {1000, 0, 0}},
        {.enhanced = {5, 1000, 0}},
        {.enhanced = {5, 7, UINT16_MAX}},
        {.text = {list_memory, RECORD_REPLY_TEXT_BYTES_MAX + 1}},
    };
    for (size_t index = 0; index < sizeof rows / sizeof rows[0]; index++) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            let_abort();
            struct buf to;
            buf_init(&to, record_memory, sizeof record_memory);
            record_fate_put(&to, &rows[index]);
            _exit(0);
        }
        assert_aborted(child);
    }
}

static void wrong_puts_abort(void **ctx)
{
    (void)ctx;
    static void (*const spoilers[])(struct record_envelope *) = {
        put_too_many_recipients, put_wrong_count, put_unknown_flag, put_long_subject,
        put_damaged_list};
    for (size_t index = 0; index < sizeof spoilers / sizeof spoilers[0]; index++) {
        struct buf list;
        buf_init(&list, list_memory, sizeof list_memory);
        struct record_envelope envelope = sample_envelope(&list);
        spoilers[index](&envelope);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            let_abort();
            struct buf to;
            buf_init(&to, record_memory, sizeof record_memory);
            record_envelope_put(&to, &envelope);
            _exit(0);
        }
        assert_aborted(child);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(envelope_round_trip),
        cmocka_unit_test(envelope_extremes),
        cmocka_unit_test(state_round_trip),
        cmocka_unit_test(state_extremes),
        cmocka_unit_test(layout_is_as_described),
        cmocka_unit_test(every_flipped_bit_is_damage),
        cmocka_unit_test(every_truncation_is_damage),
        cmocka_unit_test(every_resealed_truncation_is_damage),
        cmocka_unit_test(bytes_behind_the_end_are_damage),
        cmocka_unit_test(newer_version_is_told_apart_from_damage),
        cmocka_unit_test(one_kind_is_not_the_other),
        cmocka_unit_test(put_is_all_or_nothing),
        cmocka_unit_test(resealed_nonsense_is_damage),
        cmocka_unit_test(damaged_recipient_list_ends),
        cmocka_unit_test(unknown_outcome_reads_as_none),
        cmocka_unit_test(routes_and_words),
        cmocka_unit_test(hundred_thousand_recipients),
        cmocka_unit_test(wrong_fates_abort),
        cmocka_unit_test(wrong_puts_abort),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
