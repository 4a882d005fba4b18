/* daemon/base/text: one encoder for each place, strict decoders, and "did you mean". */
#include "daemon/base/text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define TEXT(literal)                                                                              \
    {                                                                                              \
        (const uint8_t *)("" literal), sizeof(literal) - 1                                         \
    }

static uint8_t memory[4096];

static void assert_buf_is(const struct buf *b, struct slice expected, size_t row)
{
    if (b->overflow || !slice_equal(buf_slice(b), expected)) {
        fail_msg("row %zu: \"%.*s\" instead of \"%.*s\"", row, (int)b->len, (const char *)b->data,
                 (int)expected.len, (const char *)expected.data);
    }
}

/* ---- UTF-8 ---- */

static void utf8_is_judged_strictly(void **ctx)
{
    (void)ctx;
    static const struct {
        struct slice text;
        size_t len;
        uint32_t code;
    } rows[] = {
        {TEXT(""), 0, 0},
        {TEXT("\0"), 1, 0},
        {TEXT("a\xff"), 1, 'a'},
        {TEXT("\x7f"), 1, 0x7f},
        {TEXT("\x80"), 0, 0}, /* continuation first */
        {TEXT("\xbf"), 0, 0},
        {TEXT("\xc0\x80"), 0, 0}, /* overlong NUL */
        {TEXT("\xc1\xbf"), 0, 0}, /* overlong 0x7f */
        {TEXT("\xc2\x80"), 2, 0x80},
        {TEXT("\xdf\xbf"), 2, 0x7ff},
        {TEXT("\xc2"), 0, 0}, /* cut */
        {TEXT("\xc2\x41"), 0, 0},
        {TEXT("\xc2\xc2"), 0, 0},
        {TEXT("\xe0\x9f\xbf"), 0, 0}, /* overlong 0x7ff */
        {TEXT("\xe0\xa0\x80"), 3, 0x800},
        {TEXT("\xed\x9f\xbf"), 3, 0xd7ff},
        {TEXT("\xed\xa0\x80"), 0, 0}, /* surrogates */
        {TEXT("\xed\xbf\xbf"), 0, 0},
        {TEXT("\xee\x80\x80"), 3, 0xe000},
        {TEXT("\xef\xbf\xbf"), 3, 0xffff},
        {TEXT("\xe3\x82"), 0, 0},
        {TEXT("\xe3\x82\xb9x"), 3, 0x30b9},
        {TEXT("\xf0\x8f\xbf\xbf"), 0, 0}, /* overlong 0xffff */
        {TEXT("\xf0\x90\x80\x80"), 4, 0x10000},
        {TEXT("\xf4\x8f\xbf\xbf"), 4, 0x10ffff},
        {TEXT("\xf4\x90\x80\x80"), 0, 0}, /* past the end */
        {TEXT("\xf5\x80\x80\x80"), 0, 0},
        {TEXT("\xf0\x9f\x92"), 0, 0},
        {TEXT("\xfe"), 0, 0},
        {TEXT("\xff"), 0, 0},
    };
    for (size_t index = 0; index < sizeof rows / sizeof rows[0]; index++) {
        uint32_t code = 4711;
        size_t len = text_utf8_len(rows[index].text, &code);
        if (len != rows[index].len || code != (len == 0 ? 4711 : rows[index].code)) {
            fail_msg("row %zu: %zu bytes, %x", index, len, (unsigned)code);
        }
    }
}

/* Every code point has one form of the length that RFC 3629 gives, and no other. */
static void utf8_of_every_code_point(void **ctx)
{
    (void)ctx;
    for (uint32_t code = 0; code <= 0x110000; code++) {
        uint8_t b[4];
        size_t len;
        if (code < 0x80) {
            b[0] = (uint8_t)code;
            len = 1;
        } else if (code < 0x800) {
            b[0] = (uint8_t)(0xc0 | code >> 6);
            b[1] = (uint8_t)(0x80 | (code & 63));
            len = 2;
        } else if (code < 0x10000) {
            b[0] = (uint8_t)(0xe0 | code >> 12);
            b[1] = (uint8_t)(0x80 | (code >> 6 & 63));
            b[2] = (uint8_t)(0x80 | (code & 63));
            len = 3;
        } else {
            b[0] = (uint8_t)(0xf0 | code >> 18);
            b[1] = (uint8_t)(0x80 | (code >> 12 & 63));
            b[2] = (uint8_t)(0x80 | (code >> 6 & 63));
            b[3] = (uint8_t)(0x80 | (code & 63));
            len = 4;
        }
        bool good = code <= 0x10ffff && !(code >= 0xd800 && code <= 0xdfff);
        uint32_t got = 0;
        if (text_utf8_len(slice_of(b, len), &got) != (good ? len : 0) || (good && got != code)) {
            fail_msg("U+%04X", (unsigned)code);
        }
    }
}

/* ---- encoders ---- */

static void escaped_for_log_and_terminal(void **ctx)
{
    (void)ctx;
    static const struct {
        struct slice from, to;
    } rows[] = {
        {TEXT(""), TEXT("")},
        {TEXT("a b~!"), TEXT("a b~!")},
        {TEXT("a\"b\\c"), TEXT("a\\x22b\\x5cc")},
        {TEXT("\0\t\r\n\x1b[31m\x7f"), TEXT("\\x00\\x09\\x0d\\x0a\\x1b[31m\\x7f")},
        {TEXT("\xe3\x82\xb9"), TEXT("\xe3\x82\xb9")},
        {TEXT("\xff\xe3\x82"), TEXT("\\xff\\xe3\\x82")},
        {TEXT("\xc2\x85\xc2\x9b"), TEXT("\\xc2\\x85\\xc2\\x9b")}, /* C1: NEL, CSI */
        {TEXT("\xe2\x80\xae"
              "exe"),
         TEXT("\\xe2\\x80\\xae"
              "exe")},                                   /* right-to-left */
        {TEXT("\xe2\x81\xa6"), TEXT("\\xe2\\x81\\xa6")}, /* isolate */
        {TEXT("\xe2\x80\x8b"), TEXT("\\xe2\\x80\\x8b")}, /* zero width */
        {TEXT("\xe2\x80\xa8"), TEXT("\\xe2\\x80\\xa8")}, /* line separator */
        {TEXT("\xef\xbb\xbf"), TEXT("\\xef\\xbb\\xbf")},
        {TEXT("%n%s"), TEXT("%n%s")},
    };
    for (size_t index = 0; index < sizeof rows / sizeof rows[0]; index++) {
        struct buf b;
        buf_init(&b, memory, sizeof memory);
        text_put_escaped(&b, rows[index].from);
        assert_buf_is(&b, rows[index].to, index);
    }
}

/* Whatever goes in, what comes out can be written to a terminal and put between quotes. */
static void escaped_is_harmless_for_every_byte_pair(void **ctx)
{
    (void)ctx;
    for (unsigned pair = 0; pair < 65536; pair++) {
        uint8_t from[2] = {(uint8_t)(pair >> 8), (uint8_t)pair};
        struct buf b;
        buf_init(&b, memory, sizeof memory);
        text_put_escaped(&b, slice_of(from, sizeof from));
        struct slice rest = buf_slice(&b);
        while (rest.len > 0) {
            uint32_t code = 0;
            size_t len = text_utf8_len(rest, &code);
            assert_true(len > 0);
            assert_true(code >= 0x20 && code != '"' && !(code >= 0x7f && code < 0xa0));
            rest = slice_tail(rest, len);
        }
    }
}

static void escape_is_never_halved(void **ctx)
{
    (void)ctx;
    for (size_t room = 0; room < 8; room++) {
        struct buf b;
        buf_init(&b, memory, room);
        text_put_escaped(&b, SLICE("\x01\x02z"));
        assert_true(b.overflow);
        assert_int_equal(b.len % 4, 0);
    }
}

static void json_strings(void **ctx)
{
    (void)ctx;
    static const struct {
        struct slice from, to;
    } rows[] = {
        {TEXT(""), TEXT("\"\"")},
        {TEXT("a/b"), TEXT("\"a/b\"")},
        {TEXT("\"\\\n\r\t"), TEXT("\"\\\"\\\\\\n\\r\\t\"")},
        {TEXT("\0\x1f\b\f\x7f"), TEXT("\"\\u0000\\u001f\\u0008\\u000c\\u007f\"")},
        {TEXT("\xe3\x82\xb9"), TEXT("\"\xe3\x82\xb9\"")},
        {TEXT("a\xff"
              "b"),
         TEXT("\"a\xef\xbf\xbd"
              "b\"")},
        {TEXT("\xed\xa0\x80"), TEXT("\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"")},
        {TEXT("\xf0\x9f\x92\xa9"), TEXT("\"\xf0\x9f\x92\xa9\"")},
    };
    for (size_t index = 0; index < sizeof rows / sizeof rows[0]; index++) {
        struct buf b;
        buf_init(&b, memory, sizeof memory);
        text_put_json(&b, rows[index].from);
        assert_buf_is(&b, rows[index].to, index);
    }
}

static void html_text(void **ctx)
{
    (void)ctx;
    static const struct {
        struct slice from, to;
    } rows[] = {
        {TEXT("<a href='x'>&\"</a>"), TEXT("&lt;a href=&#39;x&#39;&gt;&amp;&quot;&lt;/a&gt;")},
        {TEXT("a\n\tb"), TEXT("a\n\tb")},
        {TEXT("a\0\rb"), TEXT("a\xef\xbf\xbd\xef\xbf\xbd"
                              "b")},
        {TEXT("\xff\xe2\x80\xae"), TEXT("\xef\xbf\xbd\xef\xbf\xbd")},
        {TEXT("\xe3\x82\xb9&amp;"), TEXT("\xe3\x82\xb9&amp;amp;")},
    };
    for (size_t index = 0; index < sizeof rows / sizeof rows[0]; index++) {
        struct buf b;
        buf_init(&b, memory, sizeof memory);
        text_put_html(&b, rows[index].from);
        assert_buf_is(&b, rows[index].to, index);
    }
}

/* ---- base32 ---- */

static void base32_text(void **ctx)
{
    (void)ctx;
    static const struct {
        struct slice from, to;
    } rows[] = {
        {TEXT(""), TEXT("")},
        {TEXT("\0"), TEXT("00")},
        {TEXT("\xff"), TEXT("zw")},
        {TEXT("\x00\x44\x32\x14\xc7"), TEXT("01234567")},
        {TEXT("\x42\x54\xb6\x35\xcf"), TEXT("89abcdef")},
        {TEXT("\x84\x65\x3a\x56\xd7"), TEXT("ghjkmnpq")},
        {TEXT("\xc6\x75\xbe\x77\xdf"), TEXT("rstvwxyz")},
        {TEXT("\xff\xff"), TEXT("zzzg")},
        {TEXT("\xff\xff\xff"), TEXT("zzzzy")},
        {TEXT("\xff\xff\xff\xff"), TEXT("zzzzzzr")},
    };
    for (size_t index = 0; index < sizeof rows / sizeof rows[0]; index++) {
        struct buf b;
        buf_init(&b, memory, sizeof memory);
        text_put_base32(&b, rows[index].from);
        assert_buf_is(&b, rows[index].to, index);
    }
}

static void base32_values(void **ctx)
{
    (void)ctx;
    static const char alphabet[] = "0123456789abcdefghjkmnpqrstvwxyz";
    unsigned valid = 0;
    for (unsigned byte = 0; byte < 256; byte++) {
        uint8_t value = text_base32_value((uint8_t)byte);
        assert_true(value <= 32);
        if (value < 32) {
            valid++;
            assert_int_equal(alphabet[value], ascii_lower((uint8_t)byte));
        }
    }
    assert_int_equal(valid, 10 + 22 + 22);
    for (const char *no = "ilouILOU@`[{-=/: "; *no != '\0'; no++) {
        assert_int_equal(text_base32_value((uint8_t)*no), 32);
    }
    assert_int_equal(text_base32_value(0), 32);
}

/* ---- base64 ---- */

static void base64_round_trips(void **ctx)
{
    (void)ctx;
    static const struct {
        struct slice plain, coded;
    } rows[] = {
        {TEXT(""), TEXT("")},
        {TEXT("f"), TEXT("Zg==")},
        {TEXT("fo"), TEXT("Zm8=")},
        {TEXT("foo"), TEXT("Zm9v")},
        {TEXT("foob"), TEXT("Zm9vYg==")},
        {TEXT("foobar"), TEXT("Zm9vYmFy")},
        {TEXT("\xff\xfe\xfd"), TEXT("//79")},
        {TEXT("\xfb"), TEXT("+w==")},
        {TEXT("\0user\0pass"), TEXT("AHVzZXIAcGFzcw==")},
    };
    for (size_t index = 0; index < sizeof rows / sizeof rows[0]; index++) {
        struct buf b;
        buf_init(&b, memory, sizeof memory);
        text_put_base64(&b, rows[index].plain);
        assert_buf_is(&b, rows[index].coded, index);
        buf_init(&b, memory, sizeof memory);
        assert_true(text_get_base64(&b, rows[index].coded));
        assert_buf_is(&b, rows[index].plain, index);
    }
    uint8_t plain[256];
    uint8_t coded[512];
    for (size_t len = 0; len < sizeof plain; len++) {
        plain[len] = (uint8_t)(len * 167 + 13);
        struct buf c;
        buf_init(&c, coded, sizeof coded);
        text_put_base64(&c, slice_of(plain, len));
        assert_int_equal(c.len, (len + 2) / 3 * 4);
        struct buf b;
        buf_init(&b, memory, len); /* exactly the room that is needed */
        assert_true(text_get_base64(&b, buf_slice(&c)));
        assert_buf_is(&b, slice_of(plain, len), len);
    }
}

static void base64_is_strict(void **ctx)
{
    (void)ctx;
    static const struct slice rows[] = {
        TEXT("="),        TEXT("=="),       TEXT("==="),      TEXT("===="),
        TEXT("Z"),        TEXT("Zg"),       TEXT("Zg="),      TEXT("Zg==="),
        TEXT("Z==="),     TEXT("=Zg="),     TEXT("Zh=="), /* hidden bits are not zero */
        TEXT("Zm9="),     TEXT("Zm8=Zm8="), TEXT("Zg==Zg=="), TEXT("Zm9v="),
        TEXT("Zm9v===="), TEXT("Zm 9"),     TEXT("Zm9\n"),    TEXT("\nZm9"),
        TEXT("Zm9v\r\n"), TEXT("Zm-_"),     TEXT("Zm9\0"),    TEXT("Zm9\xff"),
        TEXT("*"),        TEXT("Zm=v"),     TEXT("Z=9v"),     TEXT("Zm9vYg=a"),
    };
    for (size_t index = 0; index < sizeof rows / sizeof rows[0]; index++) {
        struct buf b;
        buf_init(&b, memory, sizeof memory);
        buf_put_str(&b, "before");
        if (text_get_base64(&b, rows[index])) {
            fail_msg("row %zu was taken", index);
        }
        assert_false(b.overflow);
        assert_buf_is(&b, SLICE("before"), index);
    }
}

/* Of all texts of four characters exactly one means each value. */
static void base64_has_one_text_for_each_value(void **ctx)
{
    (void)ctx;
    static const char alphabet[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=";
    size_t taken = 0;
    for (size_t c = 0; c < 65 * 65 * 65; c++) {
        uint8_t text[4] = {'Q', (uint8_t)alphabet[c / (65 * 65)], (uint8_t)alphabet[c / 65 % 65],
                           (uint8_t)alphabet[c % 65]};
        struct buf b;
        buf_init(&b, memory, 3);
        if (text_get_base64(&b, slice_of(text, 4))) {
            taken++;
            uint8_t again[4];
            struct buf a;
            buf_init(&a, again, sizeof again);
            text_put_base64(&a, buf_slice(&b));
            assert_memory_equal(again, text, 4);
        }
    }
    /* 'Q' leaves 2 bits of the first byte open: 4 values of one byte, and 256 times that of each
     * more. */
    assert_int_equal(taken, 4 + 4 * 256 + 4 * 65536);
}

static void base64_that_does_not_fit(void **ctx)
{
    (void)ctx;
    struct buf b;
    buf_init(&b, memory, 5);
    assert_false(text_get_base64(&b, SLICE("Zm9vYmFy")));
    assert_true(b.overflow);
    assert_int_equal(b.len, 0);
    assert_false(text_get_base64(&b, SLICE("")));
}

/* ---- did you mean ---- */

static void nearest_word(void **ctx)
{
    (void)ctx;
    static const char *const names[] = {"from",  "to",    "subject",       "client",
                                        "state", "queue", "password-file", "hostname"};
    static const struct {
        const char *word, *nearest;
    } rows[] = {
        {"from", "from"},
        {"form", "from"}, /* a swap is one edit */
        {"FORM", "from"},
        {"FrOm", "from"},
        {"fRmo", "from"},
        {"frm", "from"},
        {"fromm", "from"},
        {"fro", "from"},
        {"fr", NULL}, /* two edits of two letters */
        {"t", NULL},  /* one edit of one letter */
        {"x", NULL},
        {"xo", "to"},
        {"subejct", "subject"},
        {"sbjct", NULL}, /* two edits of five letters: more than a third */
        {"subjct", "subject"},
        {"subj", NULL},
        {"clint", "client"},
        {"cleint", "client"},
        {"sattes", "state"},
        {"quwue", "queue"},
        {"pasword-fiel", "password-file"},
        {"passwordfile", "password-file"},
        {"hsotnmae", "hostname"},
        {"hxxtnamx", NULL},
        {"zzzz", NULL},
        {"", NULL},
        {"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", NULL},
        {"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", NULL},
    };
    for (size_t index = 0; index < sizeof rows / sizeof rows[0]; index++) {
        const char *got =
            text_nearest(slice_from_str(rows[index].word), names, sizeof names / sizeof names[0]);
        const char *expected = rows[index].nearest;
        if ((got == NULL) != (expected == NULL) || (got != NULL && strcmp(got, expected) != 0)) {
            fail_msg("%s gave %s", rows[index].word, got == NULL ? "nothing" : got);
        }
    }
    assert_null(text_nearest(SLICE("from"), names, 0));
}

/* The nearest of several, and of equals the first. */
static void nearest_of_several(void **ctx)
{
    (void)ctx;
    static const char *const names[] = {"retry-mix", "retry-min", "retry-max"};
    assert_string_equal(text_nearest(SLICE("retry-man"), names, 3), "retry-min");
    assert_string_equal(text_nearest(SLICE("retrymax"), names, 3), "retry-max");
    assert_string_equal(text_nearest(SLICE("retry-mi"), names, 3), "retry-mix");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(utf8_is_judged_strictly),
        cmocka_unit_test(utf8_of_every_code_point),
        cmocka_unit_test(escaped_for_log_and_terminal),
        cmocka_unit_test(escaped_is_harmless_for_every_byte_pair),
        cmocka_unit_test(escape_is_never_halved),
        cmocka_unit_test(json_strings),
        cmocka_unit_test(html_text),
        cmocka_unit_test(base32_text),
        cmocka_unit_test(base32_values),
        cmocka_unit_test(base64_round_trips),
        cmocka_unit_test(base64_is_strict),
        cmocka_unit_test(base64_has_one_text_for_each_value),
        cmocka_unit_test(base64_that_does_not_fit),
        cmocka_unit_test(nearest_word),
        cmocka_unit_test(nearest_of_several),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
