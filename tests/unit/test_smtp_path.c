/*
 * Paths of MAIL and RCPT, one row each.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "daemon/proto/smtp_path.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
/* SLICE for the rows of a static table. */
#define BYTES(literal)                                                                             \
    {                                                                                              \
        (const uint8_t *)("" literal), sizeof(literal) - 1                                         \
    }

struct row {
    struct slice in;
    enum smtp_path_verdict verdict;
    struct slice address, local, domain, rest;
};

#define OK(in, address, local, domain, rest)                                                       \
    {                                                                                              \
        BYTES(in), SMTP_PATH_OK, BYTES(address), BYTES(local), BYTES(domain), BYTES(rest)          \
    }
#define BAD(in, verdict)                                                                           \
    {                                                                                              \
        BYTES(in), verdict, BYTES(""), BYTES(""), BYTES(""), BYTES("")                             \
    }

static const struct row rows[] = {
    OK("<a@b>", "a@b", "a", "b", ""),
    OK("<a@b> SIZE=1", "a@b", "a", "b", " SIZE=1"),
    OK("<a@b>SIZE=1", "a@b", "a", "b", "SIZE=1"),
    OK("  <a@b>", "a@b", "a", "b", ""),
    OK("\t<a@b>", "a@b", "a", "b", ""),
    OK("a@b", "a@b", "a", "b", ""),
    OK(" a@b SIZE=1", "a@b", "a", "b", " SIZE=1"),
    OK("<postmaster>", "postmaster", "postmaster", "", ""),
    OK("root", "root", "root", "", ""),
    OK("<First.Last+tag@mail.example.jp>", "First.Last+tag@mail.example.jp", "First.Last+tag",
       "mail.example.jp", ""),
    OK("<!#$%&'*+-/=?^_`{|}~@b>", "!#$%&'*+-/=?^_`{|}~@b", "!#$%&'*+-/=?^_`{|}~", "b", ""),
    OK("<\"a b\"@d>", "\"a b\"@d", "\"a b\"", "d", ""),
    OK("<\"a>@<\\\"\\\\\"@d>", "\"a>@<\\\"\\\\\"@d", "\"a>@<\\\"\\\\\"", "d", ""),
    OK("<\"\"@d>", "\"\"@d", "\"\"", "d", ""),
    OK("\"a b\"@d x", "\"a b\"@d", "\"a b\"", "d", " x"),
    OK("<u@[127.0.0.1]>", "u@[127.0.0.1]", "u", "[127.0.0.1]", ""),
    OK("<u@[IPv6:2001:db8::1]>", "u@[IPv6:2001:db8::1]", "u", "[IPv6:2001:db8::1]", ""),
    OK("<u@[IPV6:::ffff:192.0.2.1]>", "u@[IPV6:::ffff:192.0.2.1]", "u", "[IPV6:::ffff:192.0.2.1]",
       ""),
    OK("<@a,@b:u@d>", "u@d", "u", "d", ""),
    OK("<@a.example:u@d>x", "u@d", "u", "d", "x"),
    OK("<@[192.0.2.1]:u@d>", "u@d", "u", "d", ""),
    OK("<scan_1@my_printer.local>", "scan_1@my_printer.local", "scan_1", "my_printer.local", ""),
    OK("<a@1-2.example>", "a@1-2.example", "a", "1-2.example", ""),
    /* Bytes only: what a shell or a template would make of them is nobody's business here. */
    OK("<|cmd@b>", "|cmd@b", "|cmd", "b", ""),
    OK("<${run{x}}@b>", "${run{x}}@b", "${run{x}}", "b", ""),
    OK("<-oX@b>", "-oX@b", "-oX", "b", ""),
    OK("<%n%s@b>", "%n%s@b", "%n%s", "b", ""),
    {BYTES("<>"), SMTP_PATH_NULL, BYTES(""), BYTES(""), BYTES(""), BYTES("")},
    {BYTES(" <> SIZE=1"), SMTP_PATH_NULL, BYTES(""), BYTES(""), BYTES(""), BYTES(" SIZE=1")},
    BAD("", SMTP_PATH_SYNTAX),
    BAD(" ", SMTP_PATH_SYNTAX),
    BAD("<", SMTP_PATH_SYNTAX),
    BAD("<a@b", SMTP_PATH_SYNTAX),
    BAD("a@b>", SMTP_PATH_SYNTAX),
    BAD("<<a@b>>", SMTP_PATH_SYNTAX),
    BAD("< a@b>", SMTP_PATH_SYNTAX),
    BAD("<a@b >", SMTP_PATH_SYNTAX),
    BAD("<@>", SMTP_PATH_SYNTAX),
    BAD("<a@>", SMTP_PATH_SYNTAX),
    BAD("<@b>", SMTP_PATH_SYNTAX),
    BAD("<@b:>", SMTP_PATH_SYNTAX),
    BAD("<@a,b:u@d>", SMTP_PATH_SYNTAX),
    BAD("<@a,:u@d>", SMTP_PATH_SYNTAX),
    BAD("<@a@b:u@d>", SMTP_PATH_SYNTAX),
    BAD("<@a", SMTP_PATH_SYNTAX),
    BAD("<@a,", SMTP_PATH_SYNTAX),
    BAD("<a@b@c>", SMTP_PATH_SYNTAX),
    BAD("<a b@c>", SMTP_PATH_SYNTAX),
    BAD("<.a@b>", SMTP_PATH_SYNTAX),
    BAD("<a.@b>", SMTP_PATH_SYNTAX),
    BAD("<a..b@c>", SMTP_PATH_SYNTAX),
    BAD("<a@b..c>", SMTP_PATH_SYNTAX),
    BAD("<a@.b>", SMTP_PATH_SYNTAX),
    BAD("<a@b.>", SMTP_PATH_SYNTAX),
    BAD("<a@-b>", SMTP_PATH_SYNTAX),
    BAD("<a@b->", SMTP_PATH_SYNTAX),
    BAD("<a@b-.c>", SMTP_PATH_SYNTAX),
    BAD("<a@b!c>", SMTP_PATH_SYNTAX),
    BAD("<\"a@b>", SMTP_PATH_SYNTAX),
    BAD("<\"a\"b@c>", SMTP_PATH_SYNTAX),
    BAD("<\"a\\\"@c>", SMTP_PATH_SYNTAX),
    BAD("<\"a\x1b\"@c>", SMTP_PATH_SYNTAX),
    BAD("<\"a\0\"@c>", SMTP_PATH_SYNTAX),
    BAD("<a\0@c>", SMTP_PATH_SYNTAX),
    BAD("<a;sh@b>", SMTP_PATH_SYNTAX),
    BAD("<a@b\r\n>", SMTP_PATH_SYNTAX),
    BAD("<u@[]>", SMTP_PATH_SYNTAX),
    BAD("<u@[127.0.0.1>", SMTP_PATH_SYNTAX),
    BAD("<u@[127.0.0.256]>", SMTP_PATH_SYNTAX),
    BAD("<u@[127.1]>", SMTP_PATH_SYNTAX),
    BAD("<u@[0177.0.0.1]>", SMTP_PATH_SYNTAX),
    BAD("<u@[::1]>", SMTP_PATH_SYNTAX),
    BAD("<u@[IPv6:fe80::1%eth0]>", SMTP_PATH_SYNTAX),
    BAD("<u@[IPv6:1:2:3:4:5:6:7:8:9]>", SMTP_PATH_SYNTAX),
    BAD("<u@[192.0.2.1\0]>", SMTP_PATH_SYNTAX),
    BAD("<u@[x:y]>", SMTP_PATH_SYNTAX),
    BAD("<\xe3\x81\x82@b>", SMTP_PATH_NOT_ASCII),
    BAD("<a@\xe3\x81\x82.jp>", SMTP_PATH_NOT_ASCII),
    BAD("<\"\xe3\x81\x82\"@b>", SMTP_PATH_NOT_ASCII),
    BAD("<\xe3\x81@b>", SMTP_PATH_SYNTAX),
    BAD("<\xff@b>", SMTP_PATH_SYNTAX),
};

static const struct row utf8_rows[] = {
    OK("<\xe3\x81\x82@b>", "\xe3\x81\x82@b", "\xe3\x81\x82", "b", ""),
    OK("<a.\xc3\xbc@\xe4\xbe\x8b.jp>", "a.\xc3\xbc@\xe4\xbe\x8b.jp", "a.\xc3\xbc",
       "\xe4\xbe\x8b.jp", ""),
    OK("<\"\xc3\xbc x\"@b>", "\"\xc3\xbc x\"@b", "\"\xc3\xbc x\"", "b", ""),
    BAD("<\xc0\xaf@b>", SMTP_PATH_SYNTAX),
    BAD("<\xed\xa0\x80@b>", SMTP_PATH_SYNTAX),
    BAD("<a@\xff>", SMTP_PATH_SYNTAX),
    BAD("<\"\xff\"@b>", SMTP_PATH_SYNTAX),
};

/* Works on a copy of exactly the row's size, so that a read past its end is found. */
static void check_row(const struct row *row, bool utf8)
{
    uint8_t *copy = malloc(row->in.len + 1);
    assert_non_null(copy);
    memcpy(copy, row->in.data, row->in.len);
    struct smtp_path path = {.address = SLICE("untouched")};
    struct slice rest = SLICE("untouched");
    enum smtp_path_verdict verdict =
        smtp_path_parse(slice_of(copy, row->in.len), utf8, &path, &rest);
    if (verdict != row->verdict) {
        print_error("row: %.*s\n", (int)row->in.len, (const char *)row->in.data);
    }
    assert_int_equal(verdict, row->verdict);
    if (verdict == SMTP_PATH_OK || verdict == SMTP_PATH_NULL) {
        assert_true(slice_equal(path.address, row->address));
        assert_true(slice_equal(path.local, row->local));
        assert_true(slice_equal(path.domain, row->domain));
        assert_true(slice_equal(rest, row->rest));
    } else {
        assert_true(slice_equal(path.address, SLICE("untouched")));
        assert_true(slice_equal(rest, SLICE("untouched")));
    }
    free(copy);
}

static void parses_table(void **state)
{
    (void)state;
    for (size_t index = 0; index < COUNT(rows); index++) {
        check_row(&rows[index], false);
    }
    for (size_t index = 0; index < COUNT(utf8_rows); index++) {
        check_row(&utf8_rows[index], true);
    }
}

/* "<" local "@" domain ">", domain made of short labels. */
static enum smtp_path_verdict verdict_of(size_t local_len, size_t domain_len)
{
    uint8_t text[2000];
    struct buf to;
    buf_init(&to, text, sizeof text);
    buf_put_byte(&to, '<');
    for (size_t at = 0; at < local_len; at++) {
        buf_put_byte(&to, 'l');
    }
    buf_put_byte(&to, '@');
    for (size_t at = 0; at < domain_len; at++) {
        buf_put_byte(&to, at % 32 == 31 && at + 1 < domain_len ? '.' : 'd');
    }
    buf_put_byte(&to, '>');
    assert_false(to.overflow);
    struct smtp_path path;
    struct slice rest;
    return smtp_path_parse(buf_slice(&to), false, &path, &rest);
}

static void lengths_at_and_past_the_limits(void **state)
{
    (void)state;
    assert_int_equal(verdict_of(64, 10), SMTP_PATH_OK);
    assert_int_equal(verdict_of(65, 10), SMTP_PATH_TOO_LONG);
    assert_int_equal(verdict_of(1, 252), SMTP_PATH_OK); /* 256 with "<", "@" and ">" */
    assert_int_equal(verdict_of(1, 253), SMTP_PATH_TOO_LONG);
    assert_int_equal(verdict_of(64, 189), SMTP_PATH_OK);
    assert_int_equal(verdict_of(64, 190), SMTP_PATH_TOO_LONG);
    assert_int_equal(verdict_of(1, 256), SMTP_PATH_TOO_LONG);
    assert_int_equal(verdict_of(1000, 900), SMTP_PATH_TOO_LONG);
}

static void knows_an_address(void **state)
{
    (void)state;
    static const struct {
        struct slice text;
        bool good;
    } table[] = {
        {BYTES("a@b"), true},       {BYTES("anna@example.jp"), true},
        {BYTES("\"a b\"@d"), true}, {BYTES("a@[192.0.2.1]"), true},
        {BYTES(""), false},         {BYTES("a"), false},
        {BYTES("<a@b>"), false},    {BYTES(" a@b"), false},
        {BYTES("a@b "), false},     {BYTES("a@b c"), false},
        {BYTES("a@b,c@d"), false},  {BYTES("\xc3\xbc@b"), false},
        {BYTES("a@b\n"), false},    {BYTES("@b"), false},
        {BYTES("a@"), false},
    };
    for (size_t index = 0; index < COUNT(table); index++) {
        assert_int_equal(smtp_path_is_address(table[index].text), table[index].good);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parses_table),
        cmocka_unit_test(lengths_at_and_past_the_limits),
        cmocka_unit_test(knows_an_address),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
