/*
 * Dot-stuffing and the end of data: tables, every cut of them, and random round trips against a
 * second, slow implementation that follows the words of RFC 5321 one byte at a time.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "daemon/base/num.h"
#include "daemon/proto/smtp_data.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
/* SLICE for the rows of a static table. */
#define BYTES(literal)                                                                             \
    {                                                                                              \
        (const uint8_t *)("" literal), sizeof(literal) - 1                                         \
    }
#define WIRE_MAX 8192

struct decoded {
    uint8_t memory[3 * WIRE_MAX];
    struct buf content;
    size_t used;
    bool ended;
    uint64_t bare_breaks;
    bool seen_8bit;
};

static void feed(struct smtp_data_decoder *d, struct slice in, struct decoded *out)
{
    size_t at = 0;
    size_t idle_steps = 0;
    while (at < in.len && d->state != SMTP_DATA_END) {
        size_t used = 0;
        struct slice piece = smtp_data_decode(d, slice_tail(in, at), &used);
        idle_steps = used == 0 && piece.len == 0 ? idle_steps + 1 : 0;
        assert_true(idle_steps < 3);
        buf_put(&out->content, piece);
        at += used;
    }
    out->used += at;
}

static void finish(struct smtp_data_decoder *d, struct decoded *out)
{
    out->ended = d->state == SMTP_DATA_END;
    out->bare_breaks = d->bare_breaks;
    out->seen_8bit = d->seen_8bit;
    assert_false(out->content.overflow);
    assert_int_equal(d->bytes, out->content.len);
}

/* Decodes wire in two pieces; each is copied to memory of its own size, so that a read past its end
 * is found. */
static void decode_cut(struct slice wire, size_t cut, struct decoded *out)
{
    buf_init(&out->content, out->memory, sizeof out->memory);
    out->used = 0;
    struct smtp_data_decoder d;
    smtp_data_decoder_init(&d);
    struct slice parts[2] = {slice_head(wire, cut), slice_tail(wire, cut)};
    for (size_t part = 0; part < 2; part++) {
        uint8_t *copy = malloc(parts[part].len + 1);
        assert_non_null(copy);
        memcpy(copy, parts[part].len > 0 ? parts[part].data : copy, parts[part].len);
        feed(&d, slice_of(copy, parts[part].len), out);
        free(copy);
    }
    finish(&d, out);
}

static void decode_bytes(struct slice wire, struct decoded *out)
{
    buf_init(&out->content, out->memory, sizeof out->memory);
    out->used = 0;
    struct smtp_data_decoder d;
    smtp_data_decoder_init(&d);
    for (size_t at = 0; at < wire.len && d.state != SMTP_DATA_END; at++) {
        feed(&d, slice_of(wire.data + at, 1), out);
    }
    finish(&d, out);
}

struct row {
    struct slice wire;
    struct slice content;
    size_t left; /* bytes of wire behind the end */
    bool ended;
    unsigned bare_breaks;
};

static const struct row rows[] = {
    {BYTES(".\r\n"), BYTES(""), 0, true, 0},
    {BYTES(".\r\nQUIT\r\n"), BYTES(""), 6, true, 0},
    {BYTES("a\r\n.\r\n"), BYTES("a\r\n"), 0, true, 0},
    {BYTES("a\r\n.\r\n.\r\n"), BYTES("a\r\n"), 3, true, 0},
    {BYTES("\r\n.\r\n"), BYTES("\r\n"), 0, true, 0},
    {BYTES("\r\n\r\n\r\n.\r\n"), BYTES("\r\n\r\n\r\n"), 0, true, 0},
    {BYTES("..\r\n.\r\n"), BYTES(".\r\n"), 0, true, 0},
    {BYTES("...\r\n..\r\n....\r\n.\r\n"), BYTES("..\r\n.\r\n...\r\n"), 0, true, 0},
    {BYTES(".a\r\n.\r\n"), BYTES("a\r\n"), 0, true, 0},
    {BYTES("a.\r\n.\r\n"), BYTES("a.\r\n"), 0, true, 0},
    {BYTES("From x\r\n\0\xff\x85\r\n.\r\n"), BYTES("From x\r\n\0\xff\x85\r\n"), 0, true, 0},
    {BYTES("a"), BYTES("a"), 0, false, 0},
    {BYTES("a\r"), BYTES("a"), 0, false, 0},
    {BYTES("a\r\n"), BYTES("a\r\n"), 0, false, 0},
    {BYTES("a\r\n."), BYTES("a\r\n"), 0, false, 0},
    {BYTES("a\r\n.\r"), BYTES("a\r\n"), 0, false, 0},
    {BYTES("a\nb\r\n.\r\n"), BYTES("a\r\nb\r\n"), 0, true, 1},
    {BYTES("a\rb\r\n.\r\n"), BYTES("a\r\nb\r\n"), 0, true, 1},
    {BYTES("\n\n\r\r\r\n.\r\n"), BYTES("\r\n\r\n\r\n\r\n\r\n"), 0, true, 4},
    {BYTES("\n\n\n.\r\n"), BYTES("\r\n\r\n\r\n.\r\n"), 0, false, 3},
    /* The false endings: none ends anything. */
    {BYTES("a\n.\nX"), BYTES("a\r\n.\r\nX"), 0, false, 2},
    {BYTES("a\n.\rX"), BYTES("a\r\n.\r\nX"), 0, false, 2},
    {BYTES("a\r.\nX"), BYTES("a\r\n.\r\nX"), 0, false, 2},
    {BYTES("a\r.\rX"), BYTES("a\r\n.\r\nX"), 0, false, 2},
    {BYTES("a\n.\r\nX"), BYTES("a\r\n.\r\nX"), 0, false, 1},
    {BYTES("a\r.\r\nX"), BYTES("a\r\n.\r\nX"), 0, false, 1},
    {BYTES("a\r\n.\nX"), BYTES("a\r\n\r\nX"), 0, false, 1},
    {BYTES("a\r\n.\rX"), BYTES("a\r\n\r\nX"), 0, false, 1},
    {BYTES("a\r\n\0.\r\nX"), BYTES("a\r\n\0.\r\nX"), 0, false, 0},
    {BYTES("a\r\n.\0\r\nX"), BYTES("a\r\n\0\r\nX"), 0, false, 0},
    {BYTES("a\r\n.\r\r\nX"), BYTES("a\r\n\r\n\r\nX"), 0, false, 1},
    {BYTES("a\r\r\n.\r\r\nX"), BYTES("a\r\n\r\n\r\n\r\nX"), 0, false, 2},
    {BYTES("a\n\r.\r\nX"), BYTES("a\r\n\r\n.\r\nX"), 0, false, 2},
    {BYTES("a\r\n.\t\r\nX"), BYTES("a\r\n\t\r\nX"), 0, false, 0},
    {BYTES("a\r\n. \r\nX"), BYTES("a\r\n \r\nX"), 0, false, 0},
    {BYTES("a\x85.\x85X"), BYTES("a\x85.\x85X"), 0, false, 0},
    {BYTES("a\n\n.\nX"), BYTES("a\r\n\r\n.\r\nX"), 0, false, 3},
};

static void check_row(const struct row *row, const struct decoded *got)
{
    assert_int_equal(got->content.len, row->content.len);
    assert_memory_equal(got->memory, row->content.data, row->content.len);
    assert_int_equal(got->used, row->wire.len - row->left);
    assert_int_equal(got->ended, row->ended);
    assert_int_equal(got->bare_breaks, row->bare_breaks);
}

static void decodes_table_at_every_cut(void **state)
{
    (void)state;
    static struct decoded got;
    for (size_t index = 0; index < COUNT(rows); index++) {
        for (size_t cut = 0; cut <= rows[index].wire.len; cut++) {
            decode_cut(rows[index].wire, cut, &got);
            check_row(&rows[index], &got);
        }
        decode_bytes(rows[index].wire, &got);
        check_row(&rows[index], &got);
    }
}

static void plain_content_is_borrowed_whole(void **state)
{
    (void)state;
    struct slice wire = SLICE("Subject: x\r\n\r\nline one is longer than a word\r\n\r\n.\r\n");
    struct smtp_data_decoder d;
    smtp_data_decoder_init(&d);
    size_t used = 0;
    struct slice piece = smtp_data_decode(&d, wire, &used);
    assert_ptr_equal(piece.data, wire.data);
    assert_int_equal(piece.len, wire.len - 3);
    assert_int_equal(used, piece.len);
    assert_int_equal(d.state, SMTP_DATA_LINE_START);
}

static void counts_line_and_8bit(void **state)
{
    (void)state;
    struct smtp_data_decoder d;
    smtp_data_decoder_init(&d);
    static struct decoded got;
    buf_init(&got.content, got.memory, sizeof got.memory);
    feed(&d, SLICE("abc\r\nde"), &got);
    assert_int_equal(d.line_bytes, 2);
    feed(&d, SLICE("fgh"), &got);
    assert_int_equal(d.line_bytes, 5);
    feed(&d, SLICE("\nij"), &got);
    assert_int_equal(d.line_bytes, 2);
    assert_false(d.seen_8bit);
    for (size_t at = 0; at < 70; at++) {
        uint8_t line[71];
        memset(line, 'x', sizeof line);
        line[at] = 0x80;
        smtp_data_decoder_init(&d);
        feed(&d, slice_of(line, sizeof line), &got);
        assert_true(d.seen_8bit);
    }
}

static void chunks_have_no_dots(void **state)
{
    (void)state;
    static const struct {
        struct slice wire, content;
    } table[] = {
        {BYTES(".\r\n.\r\n"), BYTES(".\r\n.\r\n")},
        {BYTES("..a\r\n"), BYTES("..a\r\n")},
        {BYTES("a\n.\nb"), BYTES("a\r\n.\r\nb")},
        {BYTES("a\r"), BYTES("a\r\n")},
        {BYTES(""), BYTES("")},
    };
    static struct decoded got;
    for (size_t index = 0; index < COUNT(table); index++) {
        for (size_t cut = 0; cut <= table[index].wire.len; cut++) {
            struct smtp_data_decoder d;
            smtp_data_decoder_init_chunked(&d);
            buf_init(&got.content, got.memory, sizeof got.memory);
            feed(&d, slice_head(table[index].wire, cut), &got);
            feed(&d, slice_tail(table[index].wire, cut), &got);
            buf_put(&got.content, smtp_data_decode_end(&d));
            assert_true(slice_equal(buf_slice(&got.content), table[index].content));
            assert_int_equal(d.bytes, table[index].content.len);
        }
    }
}

/* ---- the encoder ---- */

struct encoded {
    uint8_t memory[4 * WIRE_MAX];
    struct buf wire;
};

/* Encodes with at most room bytes of output at a time, and input cut at cut. */
static void encode_cut(struct slice content, size_t cut, size_t room, struct encoded *out)
{
    struct smtp_data_encoder e;
    uint8_t step_memory[WIRE_MAX];
    struct buf step;
    CHECK(room <= sizeof step_memory);
    smtp_data_encoder_init(&e);
    buf_init(&out->wire, out->memory, sizeof out->memory);
    struct slice parts[2] = {slice_head(content, cut), slice_tail(content, cut)};
    for (size_t part = 0; part < 2; part++) {
        size_t at = 0;
        while (at < parts[part].len) {
            buf_init(&step, step_memory, room);
            size_t used = smtp_data_encode(&e, slice_tail(parts[part], at), &step);
            assert_true(used > 0 || step.len > 0);
            assert_false(step.overflow);
            buf_put(&out->wire, buf_slice(&step));
            at += used;
        }
    }
    assert_true(smtp_data_encode_end(&e, &out->wire));
    assert_false(out->wire.overflow);
}

static void encodes_table_at_every_cut_and_room(void **state)
{
    (void)state;
    static const struct {
        struct slice content, wire;
    } table[] = {
        {BYTES(""), BYTES(".\r\n")},
        {BYTES("\r\n"), BYTES("\r\n.\r\n")},
        {BYTES("a\r\n"), BYTES("a\r\n.\r\n")},
        {BYTES("a"), BYTES("a\r\n.\r\n")},
        {BYTES(".\r\n"), BYTES("..\r\n.\r\n")},
        {BYTES("."), BYTES("..\r\n.\r\n")},
        {BYTES("..\r\n.a\r\na.b\r\n"), BYTES("...\r\n..a\r\na.b\r\n.\r\n")},
        {BYTES("From x\r\n\0\xff\r\n"), BYTES("From x\r\n\0\xff\r\n.\r\n")},
        /* Not canonical, and still nothing but canonical lines may leave. */
        {BYTES("a\n.\nb"), BYTES("a\r\n..\r\nb\r\n.\r\n")},
        {BYTES("a\r.\r\r\n"), BYTES("a\r\n..\r\n\r\n.\r\n")},
        {BYTES("a\r"), BYTES("a\r\n.\r\n")},
    };
    static struct encoded got;
    for (size_t index = 0; index < COUNT(table); index++) {
        for (size_t cut = 0; cut <= table[index].content.len; cut++) {
            for (size_t room = 2; room < 40; room++) {
                encode_cut(table[index].content, cut, room, &got);
                assert_int_equal(got.wire.len, table[index].wire.len);
                assert_memory_equal(got.memory, table[index].wire.data, got.wire.len);
            }
        }
    }
}

static void end_needs_its_room(void **state)
{
    (void)state;
    uint8_t memory[6] = {0};
    struct smtp_data_encoder e;
    struct buf to;
    smtp_data_encoder_init(&e);
    buf_init(&to, memory, sizeof memory);
    assert_int_equal(smtp_data_encode(&e, SLICE("ab"), &to), 2);
    assert_false(smtp_data_encode_end(&e, &to));
    assert_int_equal(to.len, 2);
    assert_false(to.overflow);
    buf_reset(&to);
    assert_true(smtp_data_encode_end(&e, &to));
    assert_true(slice_equal(buf_slice(&to), SLICE("\r\n.\r\n")));
}

/* ---- random content against a slow reference ---- */

static uint32_t random_next(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

/* RFC 5321 4.5.2 and 2.3.8, one byte at a time. */
static size_t normalise_slowly(struct slice raw, uint8_t *to)
{
    size_t len = 0;
    for (size_t at = 0; at < raw.len; at++) {
        bool cr = raw.data[at] == '\r';
        if (cr || raw.data[at] == '\n') {
            to[len++] = '\r';
            to[len++] = '\n';
            at += cr && at + 1 < raw.len && raw.data[at + 1] == '\n' ? 1 : 0;
        } else {
            to[len++] = raw.data[at];
        }
    }
    return len;
}

static void round_trips_of_random_content(void **state)
{
    (void)state;
    static const uint8_t alphabet[] = "\r\n.\0a\xe3";
    static struct encoded wire;
    static struct decoded back;
    uint8_t raw[600];
    uint8_t expected[1300];
    uint32_t seed = 1;
    for (unsigned run = 0; run < 3000; run++) {
        size_t raw_len = random_next(&seed) % sizeof raw;
        unsigned plain = random_next(&seed) % 40;
        for (size_t at = 0; at < raw_len; at++) {
            raw[at] = random_next(&seed) % 40 < plain
                          ? 'p'
                          : alphabet[random_next(&seed) % (sizeof alphabet - 1)];
        }
        size_t len = normalise_slowly(slice_of(raw, raw_len), expected);
        bool complete = len == 0 || expected[len - 1] == '\n';
        if (!complete) {
            expected[len++] = '\r';
            expected[len++] = '\n';
        }
        encode_cut(slice_of(raw, raw_len), random_next(&seed) % (raw_len + 1),
                   2 + random_next(&seed) % 500, &wire);
        decode_cut(buf_slice(&wire.wire), random_next(&seed) % (wire.wire.len + 1), &back);
        assert_true(back.ended);
        assert_int_equal(back.bare_breaks, 0);
        assert_int_equal(back.used, wire.wire.len);
        assert_int_equal(back.content.len, len);
        assert_memory_equal(back.memory, expected, len);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decodes_table_at_every_cut),
        cmocka_unit_test(plain_content_is_borrowed_whole),
        cmocka_unit_test(counts_line_and_8bit),
        cmocka_unit_test(chunks_have_no_dots),
        cmocka_unit_test(encodes_table_at_every_cut_and_room),
        cmocka_unit_test(end_needs_its_room),
        cmocka_unit_test(round_trips_of_random_content),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
