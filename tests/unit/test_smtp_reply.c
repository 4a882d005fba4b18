/* The reply parser: what is a reply, what is none, and that it does not matter how it arrives. */
#include "daemon/proto/smtp_reply.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

/* Feeds all of in, at most step bytes at a time, and writes what came of it: "CODE/E.E.E/LINES
 * [TEXT]" for each reply, "error" at the end when there was one, "partial" when it stopped within
 * one. */
static void describe(struct slice in, size_t step, size_t first, struct buf *to)
{
    struct smtp_reply_parser p;
    smtp_reply_init(&p);
    size_t at = 0;
    size_t piece = first;
    while (at < in.len && p.state != SMTP_REPLY_STATE_ERROR) {
        struct slice part = slice_head(slice_tail(in, at), piece);
        size_t used = smtp_reply_feed(&p, part);
        assert_true(used <= part.len);
        assert_true(used == part.len || p.state != SMTP_REPLY_STATE_LINE);
        at += used;
        piece = step;
        struct smtp_reply reply;
        if (smtp_reply_take(&p, &reply)) {
            buf_printf(to, "%u/%u.%u.%u/%u [", reply.code, reply.enhanced[0], reply.enhanced[1],
                       reply.enhanced[2], reply.line_count);
            buf_put(to, reply.text);
            buf_put_str(to, "] ");
            assert_false(smtp_reply_take(&p, &reply));
        }
    }
    if (p.state == SMTP_REPLY_STATE_ERROR) {
        assert_true(strlen(p.error) > 0);
        assert_int_equal(smtp_reply_feed(&p, SLICE("250 ok\r\n")), 0);
        struct smtp_reply reply;
        assert_false(smtp_reply_take(&p, &reply));
        buf_put_str(to, "error");
    } else if (smtp_reply_partial(&p)) {
        buf_put_str(to, "partial");
    }
    assert_false(to->overflow);
}

struct reply_case {
    const char *in;
    const char *expected;
};

static const struct reply_case cases[] = {
    {"220 mx.example.org ESMTP\r\n", "220/0.0.0/1 [mx.example.org ESMTP] "},
    {"250\r\n", "250/0.0.0/1 [] "},
    {"250 \r\n", "250/0.0.0/1 [] "},
    {"250-\r\n250 \r\n", "250/0.0.0/2 [\n] "},
    {"250-a\r\n250\r\n", "250/0.0.0/2 [a\n] "},
    {"250-a\r\n250-PIPELINING\r\n250 SIZE 10\r\n", "250/0.0.0/3 [a\nPIPELINING\nSIZE 10] "},
    {"250 a\r\n550 b\r\n", "250/0.0.0/1 [a] 550/0.0.0/1 [b] "},
    {"", ""},
    {"2", "partial"},
    {"250 a\r", "partial"},
    {"250-a\r\n", "partial"},
    {"250-a\r\n250 b\r\n3", "250/0.0.0/2 [a\nb] partial"},
    /* enhanced codes */
    {"250 2.1.5 ok\r\n", "250/2.1.5/1 [2.1.5 ok] "},
    {"550-5.1.1 no\r\n550 5.1.1 body\r\n", "550/5.1.1/2 [5.1.1 no\n5.1.1 body] "},
    {"550 5.7.139\r\n", "550/5.7.139/1 [5.7.139] "},
    {"550 5.7.708 no\r\n", "550/5.7.708/1 [5.7.708 no] "},
    {"550 5.300.1 no\r\n", "550/5.300.1/1 [5.300.1 no] "},
    {"550 5.999.999 no\r\n", "550/5.999.999/1 [5.999.999 no] "},
    {"550 5.1.1000 no\r\n", "550/0.0.0/1 [5.1.1000 no] "},
    {"550 5.1000.1 no\r\n", "550/0.0.0/1 [5.1000.1 no] "},
    {"250 5.1.1 no\r\n", "250/0.0.0/1 [5.1.1 no] "},
    {"550 2.0.0 ok\r\n", "550/0.0.0/1 [2.0.0 ok] "},
    {"354 3.0.0 go\r\n", "354/0.0.0/1 [3.0.0 go] "},
    {"550 5.1.1.2 is listed\r\n", "550/0.0.0/1 [5.1.1.2 is listed] "},
    {"550 5.1\r\n", "550/0.0.0/1 [5.1] "},
    {"550 5..1 x\r\n", "550/0.0.0/1 [5..1 x] "},
    {"550 .1.1 x\r\n", "550/0.0.0/1 [.1.1 x] "},
    /* text is not judged: CR, ESC, 8-bit, percent signs */
    {"550 a\rb \x1b[2J \xff %n%s\r\n", "550/0.0.0/1 [a\rb \x1b[2J \xff %n%s] "},
    {"550 a\r\r\n", "550/0.0.0/1 [a\r] "},
    /* no replies */
    {"\r\n", "error"},
    {"\n", "error"},
    {"250 ok\n", "error"},
    {"250\n", "error"},
    {"250-a\n250 b\r\n", "error"},
    {"25\r\n", "error"},
    {"2500 x\r\n", "error"},
    {"250x\r\n", "error"},
    {"250\tx\r\n", "error"},
    {"250\rx\r\n", "error"},
    {"abc\r\n", "error"},
    {"a", "error"},
    {" 250 x\r\n", "error"},
    {"999 x\r\n", "error"},
    {"600 x\r\n", "error"},
    {"199 x\r\n", "error"},
    {"1", "error"},
    {"-50 x\r\n", "error"},
    {"SSH-2.0-OpenSSH_9.2\r\n", "error"},
    {"HTTP/1.1 400 Bad Request\r\n", "error"},
    {"\x15\x03\x01", "error"},
    {"250-a\r\n251 b\r\n", "error"},
    {"250-a\r\n550 b\r\n", "error"},
    {"250-a\r\nb\r\n", "error"},
    {"250 a\r\n\r\n", "250/0.0.0/1 [a] error"},
};

static void takes_replies_and_nothing_else(void **state)
{
    (void)state;
    for (size_t index = 0; index < sizeof cases / sizeof cases[0]; index++) {
        char memory[512];
        struct buf got;
        buf_init(&got, memory, sizeof memory);
        describe(slice_from_str(cases[index].in), SIZE_MAX, SIZE_MAX, &got);
        buf_put_byte(&got, '\0');
        if (strcmp(memory, cases[index].expected) != 0) {
            print_error("case %zu: got \"%s\"\n", index, memory);
        }
        assert_string_equal(memory, cases[index].expected);
    }
}

static void does_not_depend_on_the_cut(void **state)
{
    (void)state;
    for (size_t index = 0; index < sizeof cases / sizeof cases[0]; index++) {
        struct slice in = slice_from_str(cases[index].in);
        for (size_t cut = 0; cut <= in.len + 1; cut++) {
            char memory[512];
            struct buf got;
            buf_init(&got, memory, sizeof memory);
            /* cut at one place; and, once, at every one */
            describe(in, cut == 0 ? 1 : SIZE_MAX, cut == 0 ? 1 : cut, &got);
            buf_put_byte(&got, '\0');
            assert_string_equal(memory, cases[index].expected);
        }
    }
}

/* A NUL is text like any other byte. */
static void takes_nul(void **state)
{
    (void)state;
    char memory[64];
    struct buf got;
    buf_init(&got, memory, sizeof memory);
    describe(SLICE("250 a\0b\r\n"), SIZE_MAX, SIZE_MAX, &got);
    assert_true(slice_equal(buf_slice(&got), SLICE("250/0.0.0/1 [a\0b] ")));
}

/* Feeds unit again and again, until it is an error or count are through; returns the bytes fed. */
static size_t feed_many(struct smtp_reply_parser *p, const char *unit, size_t count)
{
    size_t fed = 0;
    struct slice piece = slice_from_str(unit);
    for (size_t index = 0; index < count && p->state == SMTP_REPLY_STATE_LINE; index++) {
        size_t used = smtp_reply_feed(p, piece);
        fed += used;
    }
    return fed;
}

static void bounds_a_line(void **state)
{
    (void)state;
    struct smtp_reply_parser p;
    smtp_reply_init(&p);
    (void)feed_many(&p, "250 ", 1);
    (void)feed_many(&p, "x", SMTP_REPLY_LINE_BYTES_MAX - 6);
    (void)feed_many(&p, "\r\n", 1);
    struct smtp_reply reply;
    assert_true(smtp_reply_take(&p, &reply));
    assert_int_equal(reply.text.len, SMTP_REPLY_TEXT_BYTES_MAX);

    smtp_reply_init(&p);
    (void)feed_many(&p, "250 ", 1);
    (void)feed_many(&p, "x", 1000000);
    assert_int_equal(p.state, SMTP_REPLY_STATE_ERROR);
}

static void bounds_the_lines(void **state)
{
    (void)state;
    struct smtp_reply_parser p;
    smtp_reply_init(&p);
    (void)feed_many(&p, "250-\r\n", SMTP_REPLY_LINES_MAX - 1);
    (void)feed_many(&p, "250 \r\n", 1);
    struct smtp_reply reply;
    assert_true(smtp_reply_take(&p, &reply));
    assert_int_equal(reply.line_count, SMTP_REPLY_LINES_MAX);

    (void)feed_many(&p, "250-\r\n", SMTP_REPLY_LINES_MAX);
    (void)feed_many(&p, "250 \r\n", 1);
    assert_int_equal(p.state, SMTP_REPLY_STATE_ERROR);
}

static void bounds_the_bytes(void **state)
{
    (void)state;
    char line[1025] = "250-";
    memset(line + 4, 'x', sizeof line - 7);
    line[sizeof line - 3] = '\r';
    line[sizeof line - 2] = '\n';
    struct smtp_reply_parser p;
    smtp_reply_init(&p);
    size_t fed = feed_many(&p, line, 1000);
    assert_int_equal(p.state, SMTP_REPLY_STATE_ERROR);
    assert_int_equal(fed, SMTP_REPLY_BYTES_MAX);

    /* the count begins anew with each reply */
    smtp_reply_init(&p);
    for (size_t round = 0; round < 3; round++) {
        (void)feed_many(&p, line, SMTP_REPLY_BYTES_MAX / 1024 - 1);
        (void)feed_many(&p, "250 end\r\n", 1);
        struct smtp_reply reply;
        assert_true(smtp_reply_take(&p, &reply));
        assert_int_equal(reply.line_count, SMTP_REPLY_BYTES_MAX / 1024);
    }
}

/* A line is kept whole or not at all, so that no capability is half read. */
static void keeps_whole_lines(void **state)
{
    (void)state;
    char first[1011] = "250-";
    memset(first + 4, 'g', sizeof first - 7);
    first[sizeof first - 3] = '\r';
    first[sizeof first - 2] = '\n';
    struct smtp_reply_parser p;
    smtp_reply_init(&p);
    (void)feed_many(&p, first, 1);
    (void)feed_many(&p, "250-SIZE 35882577\r\n", 1);
    (void)feed_many(&p, "250-8BITMIME\r\n", 1);
    (void)feed_many(&p, "250 X\r\n", 1);
    struct smtp_reply reply;
    assert_true(smtp_reply_take(&p, &reply));
    assert_int_equal(reply.line_count, 4);
    struct slice tail = slice_tail(reply.text, 1004);
    assert_true(slice_equal(tail, SLICE("\nSIZE 35882577")));
    assert_true(p.text.overflow);
    assert_int_equal(smtp_reply_first_line(&reply).len, 1004);
}

static void first_line(void **state)
{
    (void)state;
    struct smtp_reply reply = {.text = SLICE("a b\nc")};
    assert_true(slice_equal(smtp_reply_first_line(&reply), SLICE("a b")));
    reply.text = SLICE("");
    assert_int_equal(smtp_reply_first_line(&reply).len, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_replies_and_nothing_else),
        cmocka_unit_test(does_not_depend_on_the_cut),
        cmocka_unit_test(takes_nul),
        cmocka_unit_test(bounds_a_line),
        cmocka_unit_test(bounds_the_lines),
        cmocka_unit_test(bounds_the_bytes),
        cmocka_unit_test(keeps_whole_lines),
        cmocka_unit_test(first_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
