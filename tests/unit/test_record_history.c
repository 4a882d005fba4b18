/*
 * Trails with their bounds, histories, what is remembered of upstreams, records of version 1, and
 * which move may follow which.
 */
#include "daemon/base/crc32c.h"
#include "daemon/base/num.h"
#include "schema/record_history.h"
#include "schema/record_upstream.h"
#include "schema/record_v1.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define MEMORY_BYTES 65536

static uint8_t memory[4][MEMORY_BYTES];

static void assert_slice_equal(struct slice got, struct slice expected)
{
    assert_int_equal(got.len, expected.len);
    if (expected.len > 0) {
        assert_memory_equal(got.data, expected.data, expected.len);
    }
}

/* ---- moves ---- */

/* Moves first, first + 1 ...: told apart by how long they took. */
static struct slice moves_make(struct buf *list, uint32_t first, uint32_t count)
{
    for (uint32_t index = 0; index < count; index++) {
        record_move_put(list, &(struct record_move){.duration_ms = first + index,
                                                    .from = LIFECYCLE_SENDING,
                                                    .to = LIFECYCLE_DEFERRED,
                                                    .text = slice_of(memory[3], index % 100)});
    }
    assert_false(list->overflow);
    return buf_slice(list);
}

static void move_round_trip_and_cuts(void **ctx)
{
    (void)ctx;
    uint8_t longest[600];
    memset(longest, 'x', sizeof longest);
    struct record_move move = {.when_ms = UINT64_MAX,
                               .cause = RECORD_CAUSE_AGE,
                               .from = LIFECYCLE_QUEUED,
                               .to = LIFECYCLE_TRASHED,
                               .outcome = (enum outcome)(OUTCOME_COUNT - 1),
                               .code = 999,
                               .enhanced = {999, 998, 997},
                               .first = UINT32_MAX,
                               .count = UINT32_MAX - 1,
                               .connection = UINT64_MAX - 2,
                               .duration_ms = UINT32_MAX - 3,
                               .uid = UINT32_MAX - 4,
                               .upstream = slice_of(longest, sizeof longest),
                               .peer = slice_of(longest, sizeof longest),
                               .tls = slice_of(longest, sizeof longest),
                               .text = slice_of(longest, sizeof longest)};
    struct buf list;
    buf_init(&list, memory[0], MEMORY_BYTES);
    record_move_put(&list, &move);
    assert_true(list.len <= RECORD_MOVE_BYTES_MAX);
    struct slice rest = buf_slice(&list);
    struct record_move got;
    assert_true(record_move_next(&rest, &got));
    assert_int_equal(rest.len, 0);
    assert_int_equal(got.when_ms, move.when_ms);
    assert_int_equal(got.cause, move.cause);
    assert_int_equal(got.from, move.from);
    assert_int_equal(got.to, move.to);
    assert_int_equal(got.outcome, move.outcome);
    assert_int_equal(got.code, move.code);
    assert_memory_equal(got.enhanced, move.enhanced, sizeof got.enhanced);
    assert_int_equal(got.first, move.first);
    assert_int_equal(got.count, move.count);
    assert_int_equal(got.connection, move.connection);
    assert_int_equal(got.duration_ms, move.duration_ms);
    assert_int_equal(got.uid, move.uid);
    assert_slice_equal(got.upstream, slice_of(longest, UPSTREAM_NAME_BYTES_MAX));
    assert_slice_equal(got.peer, slice_of(longest, RECORD_PEER_BYTES_MAX));
    assert_slice_equal(got.tls, slice_of(longest, RECORD_TLS_BYTES_MAX));
    assert_slice_equal(got.text, slice_of(longest, RECORD_MOVE_TEXT_BYTES_MAX));
    for (size_t len = 0; len < list.len; len++) {
        rest = slice_of(memory[0], len);
        assert_false(record_move_next(&rest, &got));
        assert_int_equal(rest.len, len);
    }
}

/* ---- trails ---- */

static struct record_trail trail_get(struct slice bytes)
{
    struct record_trail trail;
    assert_int_equal(record_trail_get(bytes, &trail), ERR_OK);
    return trail;
}

/* A trail that got moves 0 .. total - 1, step at a time, keeps the first four and the latest. */
static void trail_compare(const struct record_trail *trail, uint32_t total)
{
    uint32_t kept = total < RECORD_TRAIL_MOVES_MAX ? total : RECORD_TRAIL_MOVES_MAX;
    assert_int_equal(trail->move_count, kept);
    assert_int_equal(trail->moves_left_out, total - kept);
    struct slice rest = trail->moves;
    struct record_move move;
    for (uint32_t index = 0; index < kept; index++) {
        uint32_t expected = index < RECORD_TRAIL_MOVES_FIRST ? index : index + total - kept;
        assert_true(record_move_next(&rest, &move));
        assert_int_equal(move.duration_ms, expected);
    }
    assert_int_equal(rest.len, 0);
}

static void trail_keeps_the_first_moves_and_the_latest(void **ctx)
{
    (void)ctx;
    for (uint32_t step = 1; step <= 40; step++) {
        struct record_trail trail;
        uint32_t turn = 0;
        for (uint32_t total = 0; total < 90; turn++) {
            struct buf list;
            struct buf to;
            buf_init(&list, memory[0], MEMORY_BYTES);
            buf_init(&to, memory[1 + turn % 2], MEMORY_BYTES);
            struct slice moves = moves_make(&list, total, step);
            record_trail_put(&to, turn == 0 ? NULL : &trail, moves, step, slice_of(NULL, 0));
            assert_false(to.overflow);
            assert_true(to.len <= RECORD_TRAIL_BYTES_MAX);
            total += step;
            trail = trail_get(buf_slice(&to));
            trail_compare(&trail, total);
        }
    }
}

/* Some were there, then many come at once. */
static void trail_takes_many_moves_at_once(void **ctx)
{
    (void)ctx;
    for (uint32_t first = 0; first <= 30; first++) {
        for (uint32_t second = 0; second <= 60; second++) {
            struct buf list;
            struct buf to;
            buf_init(&list, memory[0], MEMORY_BYTES);
            buf_init(&to, memory[1], MEMORY_BYTES);
            record_trail_put(&to, NULL, moves_make(&list, 0, first), first, slice_of(NULL, 0));
            struct record_trail trail = trail_get(buf_slice(&to));
            buf_init(&list, memory[0], MEMORY_BYTES);
            buf_init(&to, memory[2], MEMORY_BYTES);
            record_trail_put(&to, &trail, moves_make(&list, first, second), second,
                             slice_of(NULL, 0));
            trail = trail_get(buf_slice(&to));
            trail_compare(&trail, first + second);
        }
    }
}

static struct slice dialogue_after(struct slice before, struct slice fresh)
{
    struct buf to;
    buf_init(&to, memory[1], MEMORY_BYTES);
    record_trail_put(&to, NULL, slice_of(NULL, 0), 0, before);
    struct record_trail trail = trail_get(buf_slice(&to));
    buf_init(&to, memory[2], MEMORY_BYTES);
    record_trail_put(&to, &trail, slice_of(NULL, 0), 0, fresh);
    return trail_get(buf_slice(&to)).dialogue;
}

static void trail_keeps_the_latest_dialogue_in_whole_lines(void **ctx)
{
    (void)ctx;
    static uint8_t full[RECORD_DIALOGUE_BYTES_MAX + 100];
    memset(full, 'f', sizeof full);
    assert_slice_equal(dialogue_after(SLICE("C: a\n"), SLICE("S: b\n")), SLICE("C: a\nS: b\n"));
    /* no room for anything old */
    struct slice most = slice_of(full, RECORD_DIALOGUE_BYTES_MAX);
    assert_slice_equal(dialogue_after(SLICE("C: a\n"), most), most);
    assert_slice_equal(dialogue_after(SLICE("C: a\n"), slice_of(full, sizeof full)), most);
    /* room for exactly the last line, for a byte more, for a byte less */
    const struct slice old = SLICE("C: first\nS: last\n");
    for (size_t room = 0; room <= old.len + 1; room++) {
        struct slice fresh = slice_of(full, RECORD_DIALOGUE_BYTES_MAX - room);
        struct slice got = dialogue_after(old, fresh);
        size_t kept = room >= old.len ? old.len : room >= 8 ? 8 : 0;
        assert_int_equal(got.len, kept + fresh.len);
        assert_slice_equal(slice_head(got, kept), slice_tail(old, old.len - kept));
    }
    /* one long line without an end cannot be cut to whole lines */
    assert_slice_equal(dialogue_after(slice_of(full, 4000), slice_of(full, 1000)),
                       slice_of(full, 1000));
}

static void let_abort(void)
{
    struct rlimit no_core = {0, 0};
    (void)setrlimit(RLIMIT_CORE, &no_core);
    (void)signal(SIGABRT, SIG_DFL);
}

static void trail_with_a_wrong_count_aborts(void **ctx)
{
    (void)ctx;
    static const uint32_t counts[] = {0, 2, 4, 100};
    for (size_t index = 0; index < 4; index++) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            let_abort();
            struct buf list;
            struct buf to;
            buf_init(&list, memory[0], MEMORY_BYTES);
            buf_init(&to, memory[1], MEMORY_BYTES);
            record_trail_put(&to, NULL, moves_make(&list, 0, 3), counts[index], slice_of(NULL, 0));
            _exit(0);
        }
        int status = 0;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    }
}

/* ---- histories ---- */

static void history_round_trip(void **ctx)
{
    (void)ctx;
    for (unsigned end = 0; end < RECORD_END_COUNT; end++) {
        for (size_t len = 0; len < 3; len++) {
            const struct record_history history = {.left_ms = UINT64_MAX,
                                                   .left_q = 0x0102030405060708 + end,
                                                   .end = (enum record_end)end,
                                                   .envelope = slice_of("envelope", len * 4),
                                                   .state = slice_of("state", len * 2),
                                                   .trail = slice_of("trail", len)};
            struct buf to;
            buf_init(&to, memory[0], MEMORY_BYTES);
            record_history_put(&to, &history);
            assert_int_equal(to.len, RECORD_HISTORY_HEAD_BYTES + len * 7);
            struct record_history got;
            uint64_t left_q;
            assert_int_equal(record_history_get(buf_slice(&to), &got), ERR_OK);
            assert_int_equal(got.left_ms, history.left_ms);
            assert_int_equal(got.left_q, history.left_q);
            assert_int_equal(got.end, history.end);
            assert_slice_equal(got.envelope, history.envelope);
            assert_slice_equal(got.state, history.state);
            assert_slice_equal(got.trail, history.trail);
            assert_true(record_history_left_q(buf_slice(&to), &left_q));
            assert_int_equal(left_q, history.left_q);
        }
    }
    uint64_t left_q = 5;
    assert_false(record_history_left_q(slice_of(memory[0], 18), &left_q));
    assert_int_equal(left_q, 5);
}

/* ---- upstreams ---- */

static void upstream_round_trip(void **ctx)
{
    (void)ctx;
    uint8_t longest[200];
    memset(longest, 'r', sizeof longest);
    for (uint32_t count = 0; count <= RECORD_BUCKETS_MAX; count++) {
        struct record_upstream upstream = {.outage_ms = UINT64_MAX,
                                           .null_refused_q = UINT64_MAX - 1,
                                           .pipeline_max = (uint8_t)(count % 4),
                                           .pipeline_q = UINT64_MAX - 2,
                                           .pipeline_reason = slice_of(longest, sizeof longest),
                                           .bucket_count = count};
        for (uint32_t index = 0; index < count; index++) {
            upstream.buckets[index] = (struct record_bucket){
                (uint8_t)(index % 2), index + 1, UINT64_MAX - index, UINT64_MAX - 2 * index};
        }
        struct buf to;
        buf_init(&to, memory[0], MEMORY_BYTES);
        record_upstream_put(&to, &upstream);
        assert_true(to.len <= RECORD_UPSTREAM_BYTES_MAX);
        assert_true(count < RECORD_BUCKETS_MAX || to.len == RECORD_UPSTREAM_BYTES_MAX);
        struct record_upstream got;
        assert_int_equal(record_upstream_get(buf_slice(&to), &got), ERR_OK);
        assert_int_equal(got.outage_ms, upstream.outage_ms);
        assert_int_equal(got.null_refused_q, upstream.null_refused_q);
        assert_int_equal(got.pipeline_max, upstream.pipeline_max);
        assert_int_equal(got.pipeline_q, upstream.pipeline_q);
        assert_slice_equal(got.pipeline_reason, slice_of(longest, 128));
        assert_int_equal(got.bucket_count, count);
        for (uint32_t index = 0; index < count; index++) {
            assert_int_equal(got.buckets[index].kind, upstream.buckets[index].kind);
            assert_int_equal(got.buckets[index].span_ms, upstream.buckets[index].span_ms);
            assert_int_equal(got.buckets[index].used, upstream.buckets[index].used);
            assert_int_equal(got.buckets[index].at_q, upstream.buckets[index].at_q);
        }
    }
}

/* What was left of a limit that is not known any more: passed over, and the rest counts. */
static void upstream_of_before_tells_no_rates(void **ctx)
{
    (void)ctx;
    struct record_upstream got, upstream = {.outage_ms = 5, .bucket_count = 2};
    upstream.buckets[0] = (struct record_bucket){1, 60000, 7, 8};
    upstream.buckets[1] = (struct record_bucket){0, 86400000, 9, 10};
    struct buf to;
    buf_init(&to, memory[0], MEMORY_BYTES);
    record_upstream_put(&to, &upstream);
    uint8_t *kind = to.data + to.len - 4 - 2 * 25;
    assert_int_equal(*kind, 3);
    *kind = 1;
    be32_put(to.data + to.len - 4, crc32c(0, slice_of(to.data, to.len - 4)));
    assert_int_equal(record_upstream_get(buf_slice(&to), &got), ERR_OK);
    assert_int_equal(got.outage_ms, 5);
    assert_int_equal(got.bucket_count, 1);
    assert_int_equal(got.buckets[0].used, 9);
}

/* ---- version 1 ---- */

/* Written by the last program of version 1. */
static const uint8_t v1_state[] = {
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

static void reseal(uint8_t *record, size_t len)
{
    be32_put(record + len - 4, crc32c(0, slice_of(record, len - 4)));
}

/* As it was: head, five texts, two recipients. */
static struct slice v1_envelope_make(uint8_t *to)
{
    static const struct slice texts[] = {
        {(const uint8_t *)"192.0.2.1", 9}, {(const uint8_t *)"helo", 4},
        {(const uint8_t *)"", 0},          {(const uint8_t *)"subject", 7},
        {(const uint8_t *)"a@b", 3},       {(const uint8_t *)"c@d", 3},
        {(const uint8_t *)"e@f", 3},
    };
    size_t len = 32;
    memset(to, 0, len);
    to[0] = 1;
    to[1] = 'E';
    be16_put(to + 2, 0x0007);
    be64_put(to + 4, 1795508794123);
    be64_put(to + 12, 5000);
    be32_put(to + 20, 1);
    be32_put(to + 24, 0xdeadbeef);
    be32_put(to + 28, 2);
    for (size_t index = 0; index < sizeof texts / sizeof texts[0]; index++) {
        be16_put(to + len, (uint16_t)texts[index].len);
        memcpy(to + len + 2, texts[index].data, texts[index].len);
        len += 2 + texts[index].len;
    }
    len += 4;
    reseal(to, len);
    return slice_of(to, len);
}

static void version_1_is_read(void **ctx)
{
    (void)ctx;
    struct record_state state;
    struct record_recipient fate;
    assert_int_equal(record_v1_state_get(slice_of(v1_state, sizeof v1_state), &state), ERR_OK);
    assert_int_equal(state.state, MESSAGE_QUEUED);
    assert_int_equal(state.route, record_route(SLICE("main")));
    assert_int_equal(state.due_q, 1000);
    assert_int_equal(state.changed_q, 1000);
    assert_slice_equal(state.upstream, SLICE("main"));
    assert_int_equal(state.recipient_count, 1);
    assert_true(record_v1_fate_next(&state.recipients, &fate));
    assert_int_equal(fate.state, RECIPIENT_QUEUED);
    assert_false(record_v1_fate_next(&state.recipients, &fate));

    struct record_envelope envelope;
    struct slice path;
    assert_int_equal(record_v1_envelope_get(v1_envelope_make(memory[0]), &envelope), ERR_OK);
    assert_int_equal(envelope.arrived_ms, 1795508794123);
    assert_int_equal(envelope.body_bytes, 5000);
    assert_int_equal(envelope.chunk_count, 1);
    assert_int_equal(envelope.body_crc, 0xdeadbeef);
    assert_int_equal(envelope.flags, 7);
    assert_slice_equal(envelope.client, SLICE("192.0.2.1"));
    assert_slice_equal(envelope.helo, SLICE("helo"));
    assert_int_equal(envelope.device.len, 0);
    assert_slice_equal(envelope.subject, SLICE("subject"));
    assert_slice_equal(envelope.sender, SLICE("a@b"));
    assert_int_equal(envelope.envid.len, 0);
    assert_true(record_v1_recipient_next(&envelope.recipients, &path));
    assert_slice_equal(path, SLICE("c@d"));
    assert_true(record_v1_recipient_next(&envelope.recipients, &path));
    assert_slice_equal(path, SLICE("e@f"));
    assert_false(record_v1_recipient_next(&envelope.recipients, &path));
}

typedef enum err v1_decode_fn(struct slice bytes);

static enum err v1_decode_state(struct slice bytes)
{
    struct record_state state;
    return record_v1_state_get(bytes, &state);
}

static enum err v1_decode_envelope(struct slice bytes)
{
    struct record_envelope envelope;
    return record_v1_envelope_get(bytes, &envelope);
}

/* Each bit, each length, with the old checksum and with one that fits. */
static void version_1_damage_is_found(void **ctx)
{
    (void)ctx;
    struct slice records[2] = {slice_of(v1_state, sizeof v1_state), v1_envelope_make(memory[0])};
    static v1_decode_fn *const decode[2] = {v1_decode_state, v1_decode_envelope};
    for (size_t kind = 0; kind < 2; kind++) {
        size_t len = records[kind].len;
        uint8_t *copy = malloc(len);
        assert_non_null(copy);
        memcpy(copy, records[kind].data, len);
        assert_int_equal(decode[kind](slice_of(copy, len)), ERR_OK);
        assert_int_equal(decode[1 - kind](slice_of(copy, len)), ERR_DAMAGED);
        for (size_t bit = 0; bit < len * 8; bit++) {
            copy[bit / 8] ^= (uint8_t)(1u << bit % 8);
            assert_int_equal(decode[kind](slice_of(copy, len)), ERR_DAMAGED);
            copy[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
        free(copy);
        for (size_t cut = 4; cut < len; cut++) {
            uint8_t *shorter = malloc(cut); /* exactly so long, for the address sanitizer */
            assert_non_null(shorter);
            memcpy(shorter, records[kind].data, cut);
            assert_int_equal(decode[kind](slice_of(shorter, cut)), ERR_DAMAGED);
            reseal(shorter, cut);
            assert_int_equal(decode[kind](slice_of(shorter, cut)), ERR_DAMAGED);
            free(shorter);
        }
    }
}

static void version_1_nonsense_is_found(void **ctx)
{
    (void)ctx;
    static const struct {
        size_t kind, offset;
        uint8_t bytes[4];
        size_t count;
        enum err expected;
    } rows[] = {
        {0, 0, {2}, 1, ERR_VERSION},
        {0, 0, {0}, 1, ERR_DAMAGED},
        {0, 2, {3}, 1, ERR_DAMAGED}, /* trashed did not exist */
        {0, 3, {1}, 1, ERR_DAMAGED},
        {0, 7, {0}, 1, ERR_DAMAGED},
        {0, 36, {0, 0, 0, 0}, 4, ERR_DAMAGED},
        {0, 36, {0, 0, 0, 2}, 4, ERR_DAMAGED},
        {0, 36, {0, 1, 0x86, 0xa1}, 4, ERR_DAMAGED},
        {0, 40, {0, 0}, 2, ERR_DAMAGED},
        {0, 46, {3}, 1, ERR_DAMAGED}, /* deferred did not exist */
        {0, 48, {0x03, 0xe8}, 2, ERR_DAMAGED},
        {0, 50, {0x03, 0xe8}, 2, ERR_DAMAGED},
        {0, 56, {0x02, 0x01}, 2, ERR_DAMAGED},
        {1, 0, {2}, 1, ERR_VERSION},
        {1, 3, {0x08}, 1, ERR_DAMAGED}, /* reports did not exist */
        {1, 28, {0, 0, 0, 0}, 4, ERR_DAMAGED},
        {1, 28, {0, 0, 0, 3}, 4, ERR_DAMAGED},
        {1, 32, {0x00, 0x81}, 2, ERR_DAMAGED},
    };
    for (size_t index = 0; index < sizeof rows / sizeof rows[0]; index++) {
        struct slice record = slice_of(v1_state, sizeof v1_state);
        if (rows[index].kind == 1) {
            record = v1_envelope_make(memory[0]);
        } else {
            memcpy(memory[0], v1_state, sizeof v1_state);
        }
        memcpy(memory[0] + rows[index].offset, rows[index].bytes, rows[index].count);
        reseal(memory[0], record.len);
        record = slice_of(memory[0], record.len);
        enum err err = rows[index].kind == 0 ? v1_decode_state(record) : v1_decode_envelope(record);
        if (err != rows[index].expected) {
            fail_msg("row %zu gave %d", index, (int)err);
        }
    }
}

/* ---- the life of a copy ---- */

static void legal_moves_are_these(void **ctx)
{
    (void)ctx;
    enum { Q, S, D, H, I, T, F, X }; /* in the order of lifecycle.def */
    static const bool may[LIFECYCLE_COUNT][LIFECYCLE_COUNT] = {
        /*        Q  S  D  H  I  T  F  X */
        [Q] = {0, 1, 0, 1, 0, 0, 1, 1}, /* queued */
        [S] = {1, 0, 1, 1, 1, 1, 1, 0}, /* sending */
        [D] = {1, 1, 0, 1, 0, 0, 1, 1}, /* deferred */
        [H] = {1, 0, 1, 0, 1, 0, 1, 1}, /* held */
        [I] = {1, 1, 0, 1, 0, 0, 1, 1}, /* in doubt */
        [T] = {0, 0, 0, 0, 0, 0, 0, 0}, /* delivered: for good */
        [F] = {1, 0, 0, 1, 0, 0, 0, 1}, /* failed */
        [X] = {1, 0, 1, 1, 1, 0, 1, 0}, /* trashed */
    };
    static const char *const words[LIFECYCLE_COUNT] = {
        "queued", "sending", "deferred", "held", "in-doubt", "delivered", "failed", "trashed"};
    for (unsigned from = 0; from < LIFECYCLE_COUNT; from++) {
        for (unsigned to = 0; to < LIFECYCLE_COUNT; to++) {
            assert_int_equal(lifecycle_may_move((enum lifecycle)from, (enum lifecycle)to),
                             may[from][to]);
        }
        enum lifecycle parsed = LIFECYCLE_COUNT;
        assert_string_equal(lifecycle_word((enum lifecycle)from), words[from]);
        assert_true(lifecycle_sentence((enum lifecycle)from)[0] != '\0');
        assert_true(lifecycle_parse(slice_from_str(words[from]), &parsed));
        assert_int_equal(parsed, from);
    }
    enum lifecycle parsed = LIFECYCLE_HELD;
    assert_false(lifecycle_parse(SLICE("hel"), &parsed));
    assert_false(lifecycle_parse(SLICE("HELD"), &parsed));
    assert_false(lifecycle_parse(SLICE(""), &parsed));
    assert_int_equal(parsed, LIFECYCLE_HELD);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(move_round_trip_and_cuts),
        cmocka_unit_test(trail_keeps_the_first_moves_and_the_latest),
        cmocka_unit_test(trail_takes_many_moves_at_once),
        cmocka_unit_test(trail_keeps_the_latest_dialogue_in_whole_lines),
        cmocka_unit_test(trail_with_a_wrong_count_aborts),
        cmocka_unit_test(history_round_trip),
        cmocka_unit_test(upstream_round_trip),
        cmocka_unit_test(upstream_of_before_tells_no_rates),
        cmocka_unit_test(version_1_is_read),
        cmocka_unit_test(version_1_damage_is_found),
        cmocka_unit_test(version_1_nonsense_is_found),
        cmocka_unit_test(legal_moves_are_these),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
