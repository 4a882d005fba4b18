/*
 * Laws that every sans-I/O machine keeps, whatever it speaks:
 *
 *   - what it says and tells does not depend on how its input is cut, nor on how late its output is
 *     sent;
 *   - it makes progress: input that it leaves lying waits for an event, for output to be sent, or
 *     for a state that uses none;
 *   - its output stays within its bound;
 *   - closed is final;
 *   - a passed deadline leads to an event, and one that has not passed leads to none.
 *
 * A test brings a law_subject: the machine together with an owner that answers its events by a
 * script. Input is given in memory of its exact size, freed as soon as the contract allows, so that
 * under ASan a slice that is read or kept too long is found, too.
 *
 * LAW_REQUIRE may be defined before (assert_true in cmocka tests); by default it aborts.
 */
#ifndef TASUKI_TESTS_LAWS_H
#define TASUKI_TESTS_LAWS_H

#include <stdio.h>
#include <stdlib.h>

#include "daemon/base/buf.h"
#include "daemon/base/num.h"

#ifndef LAW_REQUIRE
#define LAW_REQUIRE(condition) CHECK(condition)
#endif

#define LAW_NOTES_BYTES  (1u << 20)
#define LAW_OUTPUT_BYTES (1u << 20)
#define LAW_NOW_MS       UINT64_C(1000000)
#define LAW_CUTS_MAX     600 /* of one input; longer ones are cut at as many places, evenly */
#define LAW_PREFIXES_MAX 200
#define LAW_EXPIRES_MAX  3 /* a deadline may move once or twice before something happens */

struct law_subject {
    const char *name;
    void *ctx; /* the machine and its owner */
    size_t output_bytes_max;

    /* Makes a new machine, in the state where input may come first. */
    void (*reset)(void *ctx, uint64_t now_ms);
    size_t (*feed)(void *ctx, struct slice in, uint64_t now_ms);
    /* Takes one event and does with it what the script says, or makes the owner's next move; false
     * when there is neither. Notes a line about it, which must not show how input was cut. */
    bool (*step)(void *ctx, uint64_t now_ms, struct buf *notes);
    struct slice (*output)(void *ctx);
    void (*output_done)(void *ctx, size_t count, uint64_t now_ms);
    uint64_t (*deadline_ms)(void *ctx);
    void (*expire)(void *ctx, uint64_t now_ms);
    /* False in a state that uses no input, while no event waits. */
    bool (*uses_input)(void *ctx);
    bool (*is_closed)(void *ctx);
};

/* All that a machine said and told. */
struct law_trace {
    struct buf notes;
    struct buf output;
    size_t used; /* bytes of input */
    uint8_t notes_memory[LAW_NOTES_BYTES];
    uint8_t output_memory[LAW_OUTPUT_BYTES];
};

enum law_sending {
    LAW_SEND_AT_ONCE,
    LAW_SEND_WHEN_STUCK, /* only when nothing else goes on */
    LAW_SEND_BYTES,      /* at once, but one byte at a time */
};

static inline void law_trace_init(struct law_trace *t)
{
    buf_init(&t->notes, t->notes_memory, sizeof t->notes_memory);
    buf_init(&t->output, t->output_memory, sizeof t->output_memory);
    t->used = 0;
}

/* Sends what there is; false when there was nothing. */
static inline bool law_send(const struct law_subject *m, enum law_sending how, uint64_t now_ms,
                            struct law_trace *t)
{
    bool sent = false;
    for (;;) {
        struct slice output = m->output(m->ctx);
        LAW_REQUIRE(output.len <= m->output_bytes_max);
        if (output.len == 0) {
            LAW_REQUIRE(!t->output.overflow);
            return sent;
        }
        output = slice_head(output, how == LAW_SEND_BYTES ? 1 : output.len);
        buf_put(&t->output, output);
        m->output_done(m->ctx, output.len, now_ms);
        sent = true;
    }
}

/* Everything that can go on without input. */
static inline bool law_settle(const struct law_subject *m, enum law_sending how, uint64_t now_ms,
                              struct law_trace *t)
{
    bool moved = false;
    bool again = true;
    while (again) {
        again = false;
        while (m->step(m->ctx, now_ms, &t->notes)) {
            again = true;
        }
        LAW_REQUIRE(!t->notes.overflow);
        LAW_REQUIRE(m->output(m->ctx).len <= m->output_bytes_max);
        if (how != LAW_SEND_WHEN_STUCK && law_send(m, how, now_ms, t)) {
            again = true;
        }
        moved = moved || again;
    }
    return moved;
}

/* Feeds one piece until it is used or the machine uses no input any more; what is left then is
 * dropped. Returns the bytes used. */
static inline size_t law_feed(const struct law_subject *m, struct slice piece, enum law_sending how,
                              uint64_t now_ms, struct law_trace *t)
{
    size_t at = 0;
    uint8_t *copy = malloc(piece.len > 0 ? piece.len : 1);
    LAW_REQUIRE(copy != NULL);
    if (piece.len > 0) {
        memcpy(copy, piece.data, piece.len);
    }
    (void)law_settle(m, how, now_ms, t);
    while (at < piece.len) {
        size_t used = m->feed(m->ctx, slice_of(copy + at, piece.len - at), now_ms);
        LAW_REQUIRE(used <= piece.len - at);
        at += used;
        bool moved = law_settle(m, how, now_ms, t);
        if (used == 0 && !moved && !law_send(m, LAW_SEND_AT_ONCE, now_ms, t)) {
            LAW_REQUIRE(!m->uses_input(m->ctx));
            break;
        }
    }
    free(copy);
    t->used += at;
    return at;
}

/* A whole run, cut into pieces that end at cut, cut + stride, cut + 2 * stride, ... */
static inline void law_run(const struct law_subject *m, struct slice in, size_t cut, size_t stride,
                           enum law_sending how, struct law_trace *t)
{
    law_trace_init(t);
    m->reset(m->ctx, LAW_NOW_MS);
    size_t at = 0;
    size_t end = size_min(cut, in.len);
    while (at < in.len) {
        size_t used = law_feed(m, slice_head(slice_tail(in, at), end - at), how, LAW_NOW_MS, t);
        if (used < end - at) {
            break;
        }
        at = end;
        end = in.len - end > stride ? end + stride : in.len;
    }
    (void)law_settle(m, how, LAW_NOW_MS, t);
    (void)law_send(m, LAW_SEND_AT_ONCE, LAW_NOW_MS, t);
}

static inline void law_show(const char *what, struct slice text)
{
    fprintf(stderr, "--- %s\n%.*s\n", what, (int)size_min(text.len, 4000),
            text.len > 0 ? (const char *)text.data : "");
}

static inline void law_require_equal(const struct law_subject *m, const struct law_trace *a,
                                     const struct law_trace *b, size_t cut, size_t stride)
{
    bool same = a->used == b->used && slice_equal(buf_slice(&a->notes), buf_slice(&b->notes)) &&
                slice_equal(buf_slice(&a->output), buf_slice(&b->output));
    if (!same) {
        fprintf(stderr, "%s: cut at %zu, then every %zu: used %zu and %zu\n", m->name, cut, stride,
                a->used, b->used);
        law_show("told, whole", buf_slice(&a->notes));
        law_show("told, cut", buf_slice(&b->notes));
        law_show("said, whole", buf_slice(&a->output));
        law_show("said, cut", buf_slice(&b->output));
    }
    LAW_REQUIRE(same);
}

static inline void law_output_ignores_cuts(const struct law_subject *m, struct slice in)
{
    static struct law_trace whole;
    static struct law_trace cut_up;
    static const size_t strides[] = {1, 2, 3, 7, 64, 1000, 4096};
    law_run(m, in, in.len, 1, LAW_SEND_AT_ONCE, &whole);
    law_run(m, in, in.len, 1, LAW_SEND_WHEN_STUCK, &cut_up);
    law_require_equal(m, &whole, &cut_up, in.len, 0);
    size_t cut_step = in.len / LAW_CUTS_MAX + 1;
    for (size_t cut = 1; cut < in.len; cut += cut_step) {
        law_run(m, in, cut, in.len, LAW_SEND_AT_ONCE, &cut_up);
        law_require_equal(m, &whole, &cut_up, cut, in.len);
    }
    for (size_t index = 0; index < sizeof strides / sizeof strides[0]; index++) {
        law_run(m, in, strides[index], strides[index], LAW_SEND_BYTES, &cut_up);
        law_require_equal(m, &whole, &cut_up, strides[index], strides[index]);
        law_run(m, in, strides[index], strides[index], LAW_SEND_WHEN_STUCK, &cut_up);
        law_require_equal(m, &whole, &cut_up, strides[index], strides[index]);
    }
}

/* Returns whether the input led to the end at all, so that a test can ask for it. */
static inline bool law_closed_is_final(const struct law_subject *m, struct slice in)
{
    static struct law_trace t;
    law_run(m, in, in.len, 1, LAW_SEND_AT_ONCE, &t);
    if (!m->is_closed(m->ctx)) {
        return false;
    }
    size_t said = t.output.len;
    size_t told = t.notes.len;
    static const uint8_t more[] = "NOOP\r\n250 ok\r\n.\r\n";
    size_t used = law_feed(m, slice_of(more, sizeof more - 1), LAW_SEND_AT_ONCE, LAW_NOW_MS, &t);
    LAW_REQUIRE(used == 0 && t.output.len == said && t.notes.len == told);
    LAW_REQUIRE(m->is_closed(m->ctx));
    LAW_REQUIRE(m->deadline_ms(m->ctx) == UINT64_MAX);
    return true;
}

static inline void law_deadline_leads_to_event(const struct law_subject *m, struct slice in)
{
    static struct law_trace t;
    size_t step = in.len / LAW_PREFIXES_MAX + 1;
    for (size_t len = 0; len <= in.len; len += step) {
        law_run(m, slice_head(in, len), in.len, 1, LAW_SEND_AT_ONCE, &t);
        size_t told = t.notes.len;
        uint64_t deadline_ms = m->deadline_ms(m->ctx);
        for (unsigned count = 0; deadline_ms != UINT64_MAX && t.notes.len == told; count++) {
            LAW_REQUIRE(count < LAW_EXPIRES_MAX && deadline_ms > 0);
            m->expire(m->ctx, deadline_ms - 1);
            (void)law_settle(m, LAW_SEND_AT_ONCE, deadline_ms - 1, &t);
            LAW_REQUIRE(t.notes.len == told);
            deadline_ms = m->deadline_ms(m->ctx);
            m->expire(m->ctx, deadline_ms);
            (void)law_settle(m, LAW_SEND_AT_ONCE, deadline_ms, &t);
            deadline_ms = m->deadline_ms(m->ctx);
        }
    }
}

static inline void laws_hold(const struct law_subject *m, struct slice in)
{
    law_output_ignores_cuts(m, in);
    (void)law_closed_is_final(m, in);
    law_deadline_leads_to_event(m, in);
}

#endif
