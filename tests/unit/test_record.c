/*
 * schema/record: what is put is got, and nothing else is. Every damage that can be enumerated
 * (each bit, each length) is enumerated.
 */
#include "daemon/base/crc32c.h"
#include "daemon/base/limits.h"
#include "daemon/base/num.h"
#include "schema/record.h"
#include "schema/record_history.h"
#include "schema/record_upstream.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define SMALL_BYTES 32768

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

static struct slice list_of(struct buf *list)
{
    record_rcpt_put(list,
                    &(struct record_rcpt){.path = SLICE("anna@example.jp"),
                                          .notify = RECORD_NOTIFY_SUCCESS | RECORD_NOTIFY_DELAY,
                                          .orcpt = SLICE("rfc822;anna+40example.jp")});
    record_recipient_put(list, SLICE("b@c"));
    record_rcpt_put(list, &(struct record_rcpt){.path = SLICE("\"a b\"@[192.0.2.1]"),
                                                .notify = RECORD_NOTIFY_NEVER});
    assert_false(list->overflow);
    return buf_slice(list);
}

static struct record_envelope sample_envelope(struct buf *list)
{
    return (struct record_envelope){
        .arrived_ms = 1795508794123,
        .body_bytes = 0x0102030405060708,
        .chunk_count = 0x090a0b0c,
        .body_crc = 0xdeadbeef,
        .recipient_count = 3,
        .flags = RECORD_FLAG_8BITMIME | RECORD_FLAG_SMTPUTF8 | RECORD_FLAG_RET_HDRS,
        .client = SLICE("2001:db8::50"),
        .helo = SLICE("[IPV6:\x1b\xff]"),
        .device = SLICE("canon-2nd-floor"),
        .subject = SLICE("=?UTF-8?B?44K544Kt44Oj44Oz?="),
        .sender = SLICE("scanner@example.jp"),
        .envid = SLICE("QQ314159"),
        .recipients = list_of(list),
    };
}

#define FATES 5

static const struct record_recipient sample_fates[FATES] = {
    {.state = RECIPIENT_QUEUED},
    {RECIPIENT_DELIVERED,
     RECORD_FATE_TOLD_SUCCESS,
     OUTCOME_DELIVERED,
     250,
     {2, 0, 0},
     {(const uint8_t *)"ok", 2}},
    {RECIPIENT_FAILED,
     RECORD_FATE_TOLD_FAILED | RECORD_FATE_TOLD_DELAY,
     OUTCOME_DAMAGED,
     999,
     {5, 999, 708},
     {(const uint8_t *)"\0\xff", 2}},
    {RECIPIENT_DEFERRED, RECORD_FATE_TOLD_DELAY, OUTCOME_DEFERRED, 451, {4, 2, 1}, {NULL, 0}},
    {RECIPIENT_IN_DOUBT, 0, OUTCOME_IN_DOUBT, 0, {0, 0, 0}, {NULL, 0}},
};

static struct record_state sample_state(struct buf *list)
{
    for (size_t index = 0; index < FATES; index++) {
        record_fate_put(list, &sample_fates[index]);
    }
    assert_false(list->overflow);
    return (struct record_state){
        .state = MESSAGE_HELD,
        .reason = OUTCOME_DAMAGED,
        .flags = RECORD_STATE_AWAITS_DIGEST,
        .route = record_route(SLICE("main")),
        .due_q = 0x1112131415161718,
        .attempts = 0x191a1b1c,
        .last_q = 0x2122232425262728,
        .changed_q = 0x3132333435363738,
        .accepted_q = 0x4142434445464748,
        .outage_base = 0x5152535455565758,
        .flow = 0x61626364,
        .size_kib = 0x71727374,
        .upstream = SLICE("main"),
        .device = SLICE("canon"),
        .recipient_count = FATES,
        .recipients = buf_slice(list),
    };
}

/* Move number n of a message: told apart by its duration. */
static struct record_move sample_move(uint32_t number)
{
    return (struct record_move){
        .when_ms = 0x0102030405060708,
        .cause = RECORD_CAUSE_ATTEMPT,
        .from = LIFECYCLE_SENDING,
        .to = LIFECYCLE_DEFERRED,
        .outcome = OUTCOME_DEFERRED,
        .code = 451,
        .enhanced = {4, 7, 1},
        .first = 2,
        .count = 3,
        .connection = 0x1112131415161718,
        .duration_ms = number,
        .uid = 1000,
        .upstream = SLICE("main"),
        .peer = SLICE("192.0.2.1:587"),
        .tls = SLICE("TLSv1.3 TLS_AES_256_GCM_SHA384"),
        .text = SLICE("4.7.1 greylisted\x1b"),
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

static struct slice encoded_trail(struct buf *to)
{
    struct buf list;
    buf_init(&list, list_memory, sizeof list_memory);
    for (uint32_t number = 0; number < 2; number++) {
        struct record_move move = sample_move(number);
        record_move_put(&list, &move);
    }
    record_trail_put(to, NULL, buf_slice(&list), 2, SLICE("C: DATA\nS: 451 no\n"));
    assert_false(list.overflow || to->overflow);
    return buf_slice(to);
}

static struct slice encoded_history(struct buf *to)
{
    record_history_put(to, &(struct record_history){.left_ms = 0x0102030405060708,
                                                    .left_q = 0x1112131415161718,
                                                    .end = RECORD_END_REPORTED,
                                                    .envelope = SLICE("some envelope"),
                                                    .state = SLICE("a state"),
                                                    .trail = SLICE("")});
    assert_false(to->overflow);
    return buf_slice(to);
}

static struct record_upstream sample_upstream(void)
{
    return (struct record_upstream){
        .outage_ms = 0x0102030405060708,
        .null_refused_q = 0x1112131415161718,
        .pipeline_max = 3,
        .pipeline_q = 0x2122232425262728,
        .pipeline_reason = SLICE("it lost a reply"),
        .bucket_count = 2,
        .buckets = {{0, 60000, 5000, 0x3132333435363738}, {1, 86400000, UINT64_MAX, 7}},
    };
}

static struct slice encoded_upstream(struct buf *to)
{
    struct record_upstream upstream = sample_upstream();
    record_upstream_put(to, &upstream);
    assert_false(to->overflow);
    return buf_slice(to);
}

/* ---- the same for all kinds ---- */

typedef struct slice encode_fn(struct buf *to);
typedef enum err decode_fn(struct slice bytes);

/* Decodes into a struct full of 0x5a, which an error must not touch. */
#define DECODE(name, type, get)                                                                    \
    static enum err name(struct slice bytes)                                                       \
    {                                                                                              \
        type out;                                                                                  \
        memset(&out, 0x5a, sizeof out);                                                            \
        type before = out;                                                                         \
        enum err err = get(bytes, &out);                                                           \
        if (err != ERR_OK) {                                                                       \
            assert_memory_equal(&out, &before, sizeof out);                                        \
        }                                                                                          \
        return err;                                                                                \
    }

DECODE(decode_envelope, struct record_envelope, record_envelope_get)
DECODE(decode_state, struct record_state, record_state_get)
DECODE(decode_trail, struct record_trail, record_trail_get)
DECODE(decode_history, struct record_history, record_history_get)
DECODE(decode_upstream, struct record_upstream, record_upstream_get)

enum { ENVELOPE, STATE, TRAIL, HISTORY, UPSTREAM, KINDS };

static const struct {
    encode_fn *encode;
    decode_fn *decode;
} kinds[KINDS] = {
    [ENVELOPE] = {encoded_envelope, decode_envelope}, [STATE] = {encoded_state, decode_state},
    [TRAIL] = {encoded_trail, decode_trail},          [HISTORY] = {encoded_history, decode_history},
    [UPSTREAM] = {encoded_upstream, decode_upstream},
};

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
    for (size_t kind = 0; kind < KINDS; kind++) {
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
    for (size_t kind = 0; kind < KINDS; kind++) {
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
    for (size_t kind = 0; kind < KINDS; kind++) {
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
    for (size_t kind = 0; kind < KINDS; kind++) {
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
    for (size_t kind = 0; kind < KINDS; kind++) {
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

static void one_kind_is_not_another(void **ctx)
{
    (void)ctx;
    for (size_t kind = 0; kind < KINDS; kind++) {
        struct buf to;
        buf_init(&to, record_memory, sizeof record_memory);
        struct slice record = kinds[kind].encode(&to);
        for (size_t other = 0; other < KINDS; other++) {
            assert_int_equal(kinds[other].decode(record), other == kind ? ERR_OK : ERR_DAMAGED);
        }
    }
}

typedef void put_fn(struct buf *to);

static void put_rcpt(struct buf *to)
{
    record_rcpt_put(to, &(struct record_rcpt){.path = SLICE("b@c"), .orcpt = SLICE("rfc822;b")});
}

static void put_fate(struct buf *to)
{
    record_fate_put(to, &sample_fates[1]);
}

static void put_move(struct buf *to)
{
    struct record_move move = sample_move(1);
    record_move_put(to, &move);
}

static void put_envelope(struct buf *to)
{
    struct buf list;
    buf_init(&list, list_memory, sizeof list_memory);
    struct record_envelope envelope = sample_envelope(&list);
    record_envelope_put(to, &envelope);
}

static void put_state(struct buf *to)
{
    struct buf list;
    buf_init(&list, list_memory, sizeof list_memory);
    struct record_state state = sample_state(&list);
    record_state_put(to, &state);
}

static void put_trail(struct buf *to)
{
    struct buf list;
    buf_init(&list, list_memory, sizeof list_memory);
    put_move(&list);
    record_trail_put(to, NULL, buf_slice(&list), 1, SLICE("C: DATA\n"));
}

static void put_history(struct buf *to)
{
    record_history_put(to, &(struct record_history){.envelope = SLICE("e"), .trail = SLICE("t")});
}

static void put_upstream(struct buf *to)
{
    struct record_upstream upstream = sample_upstream();
    record_upstream_put(to, &upstream);
}

/* A put without enough room leaves nothing behind, whatever the room. */
static void put_is_all_or_nothing(void **ctx)
{
    (void)ctx;
    static put_fn *const puts[] = {put_rcpt,  put_fate,  put_move,    put_envelope,
                                   put_state, put_trail, put_history, put_upstream};
    for (size_t index = 0; index < sizeof puts / sizeof puts[0]; index++) {
        struct buf to;
        buf_init(&to, record_memory, sizeof record_memory);
        puts[index](&to);
        assert_false(to.overflow);
        size_t exact = to.len;
        for (size_t room = 0; room <= exact; room++) {
            buf_init(&to, record_memory, room);
            puts[index](&to);
            assert_int_equal(to.overflow, room < exact);
            assert_int_equal(to.len, room < exact ? 0 : exact);
        }
        buf_init(&to, record_memory, sizeof record_memory);
        to.overflow = true; /* what follows a put that failed is not written either */
        puts[index](&to);
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
    assert_slice_equal(got->envid, expected->envid);
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

    static const struct record_rcpt expected[] = {
        {{(const uint8_t *)"anna@example.jp", 15},
         RECORD_NOTIFY_SUCCESS | RECORD_NOTIFY_DELAY,
         {(const uint8_t *)"rfc822;anna+40example.jp", 24}},
        {{(const uint8_t *)"b@c", 3}, 0, {NULL, 0}},
        {{(const uint8_t *)"\"a b\"@[192.0.2.1]", 17}, RECORD_NOTIFY_NEVER, {NULL, 0}},
    };
    struct slice paths = got.recipients;
    struct slice path;
    struct record_rcpt rcpt;
    for (size_t index = 0; index < 3; index++) {
        assert_true(record_rcpt_next(&got.recipients, &rcpt));
        assert_slice_equal(rcpt.path, expected[index].path);
        assert_int_equal(rcpt.notify, expected[index].notify);
        assert_slice_equal(rcpt.orcpt, expected[index].orcpt);
        assert_true(record_recipient_next(&paths, &path)); /* those who want the path alone */
        assert_slice_equal(path, expected[index].path);
    }
    assert_false(record_rcpt_next(&got.recipients, &rcpt));
    assert_false(record_recipient_next(&paths, &path));
}

/* Smallest and largest of each field at once. */
static void envelope_extremes(void **ctx)
{
    (void)ctx;
    static uint8_t filler[4096];
    memset(filler, 0xff, sizeof filler);
    struct buf list;
    buf_init(&list, list_memory, sizeof list_memory);
    record_rcpt_put(&list,
                    &(struct record_rcpt){.path = slice_of(filler, SMTP_PATH_BYTES_MAX),
                                          .notify = RECORD_NOTIFY_SUCCESS | RECORD_NOTIFY_FAILURE |
                                                    RECORD_NOTIFY_DELAY,
                                          .orcpt = slice_of(filler, RECORD_ORCPT_BYTES_MAX)});
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
        .envid = slice_of(filler, RECORD_ENVID_BYTES_MAX),
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
        {ENVELOPE, 1, {0}, 1},                 /* kind */
        {ENVELOPE, 1, {'e'}, 1},               /* kind */
        {ENVELOPE, 3, {0x80}, 1},              /* a flag that does not exist */
        {ENVELOPE, 2, {0x80}, 1},              /* likewise */
        {ENVELOPE, 28, {0, 0, 0, 0}, 4},       /* no recipients */
        {ENVELOPE, 28, {0, 0, 0, 2}, 4},       /* fewer than there are */
        {ENVELOPE, 28, {0, 0, 0, 4}, 4},       /* more than there are */
        {ENVELOPE, 28, {0, 1, 0x86, 0xa1}, 4}, /* 100,001 */
        {ENVELOPE, 28, {0xff, 0xff, 0xff, 0xff}, 4},
        {ENVELOPE, 32, {0xff, 0xff}, 2}, /* client longer than the record */
        {ENVELOPE, 32, {0x00, 0x81}, 2}, /* client longer than allowed */
        {ENVELOPE, 32, {0x00, 0x00}, 2}, /* client shorter than it is */
        {STATE, 1, {'E'}, 1},
        {STATE, 2, {4}, 1},          /* message state */
        {STATE, 4, {0x80}, 1},       /* a flag that does not exist */
        {STATE, 5, {4}, 1},          /* likewise */
        {STATE, 6, {0, 0, 0, 0}, 4}, /* route of another name */
        {STATE, 62, {0, 0, 0, 0}, 4},
        {STATE, 62, {0, 0, 0, FATES - 1}, 4},
        {STATE, 62, {0, 0, 0, FATES + 1}, 4},
        {STATE, 62, {0, 1, 0x86, 0xa1}, 4},
        {STATE, 66, {0, 0, 0, 1}, 4}, /* zero */
        {STATE, 70, {0, 0}, 2},       /* no upstream */
        {STATE, 70, {0, 65}, 2},      /* name too long */
        {STATE, 72, {'n'}, 1},        /* name of another route */
        {STATE, 76, {0, 129}, 2},     /* device too long */
        {STATE, 83, {5}, 1},          /* recipient state */
        {STATE, 84, {8}, 1},          /* a flag that does not exist */
        {STATE, 86, {0x03, 0xe8}, 2}, /* code 1000 */
        {STATE, 88, {0x03, 0xe8}, 2}, /* enhanced code's class, 1000 */
        {STATE, 90, {0x03, 0xe8}, 2}, /* its subject */
        {STATE, 92, {0xff, 0xff}, 2}, /* its detail */
        {STATE, 94, {0x02, 0x01}, 2}, /* text of 513 bytes */
        {TRAIL, 2, {0, 0, 0, 1}, 4},  /* fewer moves than there are */
        {TRAIL, 2, {0, 0, 0, 3}, 4},
        {TRAIL, 2, {0, 0, 0, 25}, 4},
        {TRAIL, 2, {0xff, 0xff, 0xff, 0xff}, 4},
        {TRAIL, 18, {6}, 1},          /* cause */
        {TRAIL, 19, {8}, 1},          /* from */
        {TRAIL, 20, {8}, 1},          /* to */
        {TRAIL, 22, {0x03, 0xe8}, 2}, /* code 1000 */
        {TRAIL, 24, {0x03, 0xe8}, 2}, /* enhanced code */
        {TRAIL, 54, {0, 65}, 2},      /* upstream too long */
        {TRAIL, 60, {0, 65}, 2},      /* peer too long */
        {HISTORY, 18, {4}, 1},        /* end */
        {HISTORY, 19, {0xff, 0xff, 0xff, 0xff}, 4},
        {HISTORY, 19, {0, 0, 0, 0}, 4},
        {HISTORY, 19, {0, 0, 0, 14}, 4},
        {UPSTREAM, 18, {4}, 1},      /* pipelining */
        {UPSTREAM, 27, {0, 129}, 2}, /* reason too long */
        {UPSTREAM, 44, {1}, 1},      /* fewer buckets than there are */
        {UPSTREAM, 44, {3}, 1},
        {UPSTREAM, 44, {9}, 1},
        {UPSTREAM, 45, {4}, 1}, /* kind of the first */
        {UPSTREAM, 70, {4}, 1}, /* kind of the second */
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
        {(const uint8_t *)"\0\3b@c", 5},         /* no NOTIFY */
        {(const uint8_t *)"\0\3b@c\x10\0\0", 8}, /* one that does not exist */
        {(const uint8_t *)"\0\3b@c\3\0\0", 8},   /* NEVER is alone */
        {(const uint8_t *)"\0\3b@c\1", 6},       /* no ORCPT */
        {(const uint8_t *)"\0\3b@c\1\1\xf5", 8}, /* one of 501 bytes */
        {(const uint8_t *)"\0\3b@c\1\0\2x", 9},  /* longer than the list */
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
    assert_int_equal(got->flags, expected->flags);
    assert_int_equal(got->outcome, expected->outcome);
    assert_int_equal(got->code, expected->code);
    assert_memory_equal(got->enhanced, expected->enhanced, sizeof got->enhanced);
    assert_slice_equal(got->text, expected->text);
}

static void assert_state_equal(const struct record_state *got, const struct record_state *expected)
{
    assert_int_equal(got->state, expected->state);
    assert_int_equal(got->route, expected->route);
    assert_int_equal(got->reason, expected->reason);
    assert_int_equal(got->flags, expected->flags);
    assert_int_equal(got->due_q, expected->due_q);
    assert_int_equal(got->attempts, expected->attempts);
    assert_int_equal(got->last_q, expected->last_q);
    assert_int_equal(got->changed_q, expected->changed_q);
    assert_int_equal(got->accepted_q, expected->accepted_q);
    assert_int_equal(got->outage_base, expected->outage_base);
    assert_int_equal(got->flow, expected->flow);
    assert_int_equal(got->size_kib, expected->size_kib);
    assert_slice_equal(got->upstream, expected->upstream);
    assert_slice_equal(got->device, expected->device);
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
        for (size_t index = 0; index < FATES; index++) {
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
    struct record_recipient recipient = {
        RECIPIENT_IN_DOUBT, RECORD_FATE_FLAGS_KNOWN,        (enum outcome)(OUTCOME_COUNT - 1), 999,
        {999, 999, 999},    slice_of(filler, sizeof filler)};
    struct buf list;
    buf_init(&list, list_memory, sizeof list_memory);
    record_fate_put(&list, &recipient);
    struct record_state state = {
        .state = MESSAGE_TRASHED,
        .reason = (enum outcome)(OUTCOME_COUNT - 1),
        .flags = RECORD_STATE_FLAGS_KNOWN,
        .route = record_route(name),
        .due_q = UINT64_MAX,
        .attempts = UINT32_MAX,
        .last_q = UINT64_MAX,
        .changed_q = UINT64_MAX,
        .accepted_q = UINT64_MAX,
        .outage_base = UINT64_MAX,
        .flow = UINT32_MAX,
        .size_kib = UINT32_MAX,
        .upstream = name,
        .device = slice_of(filler, RECORD_DEVICE_BYTES_MAX),
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
        record_memory[85] = (uint8_t)outcome; /* of the first recipient, and the message's */
        record_memory[3] = (uint8_t)outcome;
        reseal(record_memory, record.len);
        struct record_state state;
        struct record_recipient recipient;
        unsigned expected = outcome < OUTCOME_COUNT ? outcome : OUTCOME_NONE;
        assert_int_equal(record_state_get(record, &state), ERR_OK);
        assert_int_equal(state.reason, expected);
        assert_true(record_fate_next(&state.recipients, &recipient));
        assert_int_equal(recipient.outcome, expected);
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
    assert_string_equal(message_state_word(MESSAGE_TRASHED), "trashed");
    assert_string_equal(record_cause_word(RECORD_CAUSE_ATTEMPT), "attempt");
    assert_string_equal(record_cause_word(RECORD_CAUSE_GIVE_UP), "give-up");
    assert_string_equal(record_cause_word(RECORD_CAUSE_OPERATOR), "operator");
    assert_string_equal(record_cause_word(RECORD_CAUSE_REPORTED), "reported");
    assert_string_equal(record_cause_word(RECORD_CAUSE_DAMAGE), "damage");
    assert_string_equal(record_cause_word(RECORD_CAUSE_AGE), "age");
    assert_string_equal(record_end_word(RECORD_END_DELIVERED), "delivered");
    assert_string_equal(record_end_word(RECORD_END_REPORTED), "reported");
    assert_string_equal(record_end_word(RECORD_END_DELETED), "deleted");
    assert_string_equal(record_end_word(RECORD_END_DISCARDED), "discarded");
    /* one half says whose device, the other one who on it; device LF sender: neither runs into the
     * other */
    uint32_t flow = record_flow(SLICE("12345"), SLICE("789"));
    assert_int_equal(flow >> 16, record_route(SLICE("12345")) >> 16);
    assert_int_equal(flow & 0xffff, record_route(SLICE("12345\n789")) & 0xffff);
    assert_true(record_flow(SLICE("a"), SLICE("bc")) != record_flow(SLICE("ab"), SLICE("c")));
}

/* A queue on disk outlives the program. */
static void layout_is_as_described(void **ctx)
{
    (void)ctx;
    static const uint8_t expected[] = {
        0x02, 0x53, 0x00, 0x00, 0x00, 0x00,             /* version, kind, state, reason, flags */
        0x24, 0x33, 0x43, 0x39,                         /* route */
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x03, 0xe8, /* due */
        0x00, 0x00, 0x00, 0x00,                         /* attempts */
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, /* last */
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x03, 0xe9, /* changed */
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x03, 0xea, /* accepted */
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x03, 0xeb, /* outage */
        0x01, 0x02, 0x03, 0x04,                         /* flow */
        0x00, 0x00, 0x00, 0x05,                         /* KiB */
        0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x00, /* recipients, zero */
        0x00, 0x04, 'm',  'a',  'i',  'n',              /* upstream */
        0x00, 0x02, 'p',  'c',                          /* device */
        0x00, 0x02, 0x00, 0x00, 0x00,                   /* the fate: state, flags, outcome, code */
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, /* enhanced code, no text */
    };
    struct buf list;
    buf_init(&list, list_memory, sizeof list_memory);
    record_fate_put(&list, &(struct record_recipient){.flags = RECORD_FATE_TOLD_DELAY});
    struct record_state state = {
        .state = MESSAGE_QUEUED,
        .route = record_route(SLICE("main")),
        .due_q = 1000,
        .changed_q = 1001,
        .accepted_q = 1002,
        .outage_base = 1003,
        .flow = 0x01020304,
        .size_kib = 5,
        .upstream = SLICE("main"),
        .device = SLICE("pc"),
        .recipient_count = 1,
        .recipients = buf_slice(&list),
    };
    struct buf to;
    buf_init(&to, record_memory, sizeof record_memory);
    record_state_put(&to, &state);
    assert_slice_equal(slice_head(buf_slice(&to), to.len - 4), slice_of(expected, sizeof expected));
    assert_int_equal(be32_get(record_memory + to.len - 4),
                     crc32c(0, slice_of(expected, sizeof expected)));
}

/* ---- what follows from fates ---- */

static void reason_is_that_of_the_worst_off(void **ctx)
{
    (void)ctx;
    static const struct {
        enum recipient_state states[4];
        size_t count, expected;
    } rows[] = {
        {{RECIPIENT_DELIVERED}, 1, 0},
        {{RECIPIENT_DELIVERED, RECIPIENT_QUEUED}, 2, 1},
        {{RECIPIENT_QUEUED, RECIPIENT_DEFERRED}, 2, 1},
        {{RECIPIENT_IN_DOUBT, RECIPIENT_DEFERRED}, 2, 0},
        {{RECIPIENT_DELIVERED, RECIPIENT_IN_DOUBT, RECIPIENT_FAILED, RECIPIENT_FAILED}, 4, 2},
        {{RECIPIENT_DEFERRED, RECIPIENT_DEFERRED}, 2, 0}, /* the first of them */
    };
    static const enum outcome outcomes[4] = {OUTCOME_REFUSED, OUTCOME_DEFERRED, OUTCOME_TOO_LARGE,
                                             OUTCOME_GAVE_UP};
    for (size_t row = 0; row < sizeof rows / sizeof rows[0]; row++) {
        struct buf list;
        buf_init(&list, list_memory, sizeof list_memory);
        for (size_t index = 0; index < rows[row].count; index++) {
            record_fate_put(&list, &(struct record_recipient){.state = rows[row].states[index],
                                                              .outcome = outcomes[index]});
        }
        assert_int_equal(record_reason(buf_slice(&list)), outcomes[rows[row].expected]);
    }
    assert_int_equal(record_reason(slice_of(NULL, 0)), OUTCOME_NONE);
}

static void lifecycle_of_a_copy(void **ctx)
{
    (void)ctx;
    static const enum lifecycle open[RECIPIENT_STATE_COUNT] = {
        [RECIPIENT_QUEUED] = LIFECYCLE_QUEUED,     [RECIPIENT_DELIVERED] = LIFECYCLE_DELIVERED,
        [RECIPIENT_FAILED] = LIFECYCLE_FAILED,     [RECIPIENT_DEFERRED] = LIFECYCLE_DEFERRED,
        [RECIPIENT_IN_DOUBT] = LIFECYCLE_IN_DOUBT,
    };
    for (unsigned value = 0; value < RECIPIENT_STATE_COUNT; value++) {
        enum recipient_state copy = (enum recipient_state)value;
        bool delivered = copy == RECIPIENT_DELIVERED;
        assert_int_equal(record_lifecycle(MESSAGE_QUEUED, copy, false), open[copy]);
        assert_int_equal(record_lifecycle(MESSAGE_QUEUED, copy, true),
                         recipient_is_open(copy) ? LIFECYCLE_SENDING : open[copy]);
        assert_int_equal(record_lifecycle(MESSAGE_FAILED, copy, false), open[copy]);
        assert_int_equal(record_lifecycle(MESSAGE_HELD, copy, false),
                         delivered ? LIFECYCLE_DELIVERED : LIFECYCLE_HELD);
        assert_int_equal(record_lifecycle(MESSAGE_TRASHED, copy, false),
                         delivered ? LIFECYCLE_DELIVERED : LIFECYCLE_TRASHED);
    }
    assert_true(recipient_is_open(RECIPIENT_QUEUED) && recipient_is_open(RECIPIENT_DEFERRED) &&
                recipient_is_open(RECIPIENT_IN_DOUBT));
    assert_false(recipient_is_open(RECIPIENT_DELIVERED) || recipient_is_open(RECIPIENT_FAILED));
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
        record_fate_put(&fates, &sample_fates[index % FATES]);
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

static void put_long_envid(struct record_envelope *envelope)
{
    envelope->envid = slice_of(list_memory, RECORD_ENVID_BYTES_MAX + 1);
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
        {.flags = 0x08},
        {.state = RECIPIENT_STATE_COUNT},
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

static void wrong_recipients_abort(void **ctx)
{
    (void)ctx;
    static const struct record_rcpt rows[] = {
        {.path = {list_memory, 0}},
        {.path = {list_memory, SMTP_PATH_BYTES_MAX + 1}},
        {.path = {list_memory, 1}, .notify = RECORD_NOTIFY_NEVER | RECORD_NOTIFY_DELAY},
        {.path = {list_memory, 1}, .notify = 0x10},
        {.path = {list_memory, 1}, .orcpt = {list_memory, RECORD_ORCPT_BYTES_MAX + 1}},
    };
    for (size_t index = 0; index < sizeof rows / sizeof rows[0]; index++) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            let_abort();
            struct buf to;
            buf_init(&to, record_memory, sizeof record_memory);
            record_rcpt_put(&to, &rows[index]);
            _exit(0);
        }
        assert_aborted(child);
    }
}

static void wrong_puts_abort(void **ctx)
{
    (void)ctx;
    static void (*const spoilers[])(struct record_envelope *) = {
        put_too_many_recipients, put_wrong_count, put_unknown_flag,
        put_long_subject,        put_long_envid,  put_damaged_list};
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
        cmocka_unit_test(one_kind_is_not_another),
        cmocka_unit_test(put_is_all_or_nothing),
        cmocka_unit_test(resealed_nonsense_is_damage),
        cmocka_unit_test(damaged_recipient_list_ends),
        cmocka_unit_test(unknown_outcome_reads_as_none),
        cmocka_unit_test(routes_and_words),
        cmocka_unit_test(reason_is_that_of_the_worst_off),
        cmocka_unit_test(lifecycle_of_a_copy),
        cmocka_unit_test(hundred_thousand_recipients),
        cmocka_unit_test(wrong_fates_abort),
        cmocka_unit_test(wrong_recipients_abort),
        cmocka_unit_test(wrong_puts_abort),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
