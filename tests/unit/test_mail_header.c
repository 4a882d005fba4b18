/* The look into a message's header: a table, every cut of a message, and hostile sizes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "daemon/proto/mail_header.h"

#include <stdlib.h>

static const struct {
    const char *content;
    const char *value; /* NULL: none */
} rows[] = {
    {"Subject: hello\r\n\r\nbody", "hello"},
    {"Subject: hello\n\nbody", "hello"},
    {"subject:hello\r\n", "hello"},
    {"SUBJECT:\t hello \t\r\n", "hello"},
    {"Received: x\r\n\tby y\r\nSubject: hello\r\n", "hello"},
    {"Subject: one\r\nSubject: two\r\n", "one"},
    {"Subject:\r\n", ""},
    {"Subject:", ""},
    {"Subject: cut", "cut"},
    {"Subject: a\r\n b\r\n\tc\r\nX: d\r\n", "a b c"},
    {"Subject:\r\n a\r\n", "a"},
    {"Subject: a\r\n \r\n b\r\n", "a b"}, /* a line of blanks alone folds, too: RFC 5322 4.2 */
    {"Subject: a\r\n\r\n b\r\n", "a"},
    {"Subject: a:b: c\r\n", "a:b: c"},
    {"Subject: a\rb\r\n", "a\rb"}, /* judged nowhere here: whoever shows it encodes it */
    {"\r\nSubject: body\r\n", NULL},
    {"\nSubject: body\r\n", NULL},
    {"X: y\r\n\r\nSubject: body\r\n", NULL},
    {"X: y\r\n Subject: folded\r\n", NULL},
    {" Subject: folded\r\n", NULL},
    {"Subject : blank before the colon\r\n", NULL},
    {"Subjects: other\r\n", NULL},
    {"Subjec: other\r\n", NULL},
    {"Subject", NULL},
    {"Subject\r\n: x\r\n", NULL},
    {"X-Subject: other\r\n", NULL},
    {"no header at all\r\nSubject: still found\r\n", "still found"},
    {"", NULL},
    {"\r\n", NULL},
};

static void test_finds_the_first(void **state)
{
    (void)state;
    for (size_t at = 0; at < sizeof rows / sizeof rows[0]; at++) {
        uint8_t memory[100];
        struct buf to;
        buf_init(&to, memory, sizeof memory);
        bool found = mail_header_find(slice_from_str(rows[at].content), SLICE("Subject"), &to);
        if (found != (rows[at].value != NULL) ||
            (found && !slice_equal(buf_slice(&to), slice_from_str(rows[at].value)))) {
            fail_msg("row %zu (%s): %d \"%.*s\"", at, rows[at].content, found, (int)to.len,
                     (const char *)to.data);
        }
        assert_true(found || to.len == 0);
        assert_false(to.overflow);
    }
}

static void test_appends_as_much_as_fits(void **state)
{
    (void)state;
    static const char content[] = "Subject: abc\r\n def\r\n";
    static const char whole[] = "abc def";
    for (size_t cap = 0; cap <= sizeof whole; cap++) {
        uint8_t memory[16];
        struct buf to;
        buf_init(&to, memory, cap + 2);
        buf_put_str(&to, "> "); /* what stands there already is no part of the value */
        assert_true(mail_header_find(slice_from_str(content), SLICE("Subject"), &to));
        size_t len = cap < sizeof whole - 1 ? cap : sizeof whole - 1;
        assert_int_equal(to.len, len + 2);
        assert_memory_equal(memory + 2, whole, len);
        assert_false(to.overflow);
    }
}

/* Content may end anywhere; what is found is then a beginning of the value. In memory of its exact
 * size, so that a byte read beyond it is noticed. */
static void test_every_cut(void **state)
{
    (void)state;
    static const char content[] = "A: b\r\n c\r\nSubject: d e\r\n\tf\r\n\r\nSubject: no\r\n";
    static const char value[] = "d e f";
    for (size_t cut = 0; cut < sizeof content; cut++) {
        uint8_t *exact = malloc(cut == 0 ? 1 : cut);
        uint8_t memory[100];
        struct buf to;
        assert_non_null(exact);
        memcpy(exact, content, cut);
        buf_init(&to, memory, sizeof memory);
        if (mail_header_find(slice_of(exact, cut), SLICE("Subject"), &to)) {
            assert_true(to.len < sizeof value);
            assert_memory_equal(memory, value, to.len);
        } else {
            assert_true(cut < strlen("A: b\r\n c\r\nSubject:"));
        }
        free(exact);
    }
}

static void test_hostile_sizes_take_one_pass(void **state)
{
    (void)state;
    static const struct {
        const char *unit, *value;
    } floods[] = {{"x", NULL},  {" x\r\n", NULL}, {"X: y\r\n", NULL}, {"Subject: y\r\n", "y"},
                  {"\r", NULL}, {":", NULL},      {"\0", NULL}};
    const size_t bytes = 4u << 20;
    uint8_t *content = malloc(bytes);
    assert_non_null(content);
    for (size_t at = 0; at < sizeof floods / sizeof floods[0]; at++) {
        size_t unit = strlen(floods[at].unit) == 0 ? 1 : strlen(floods[at].unit);
        uint8_t memory[128];
        struct buf to;
        for (size_t offset = 0; offset + unit <= bytes; offset += unit) {
            memcpy(content + offset, floods[at].unit, unit);
        }
        buf_init(&to, memory, sizeof memory);
        assert_int_equal(
            mail_header_find(slice_of(content, bytes - bytes % unit), SLICE("Subject"), &to),
            floods[at].value != NULL);
        assert_true(floods[at].value == NULL ||
                    slice_equal(buf_slice(&to), slice_from_str(floods[at].value)));
    }
    /* A value that goes on for ever. */
    memcpy(content, "Subject:", 8);
    for (size_t offset = 8; offset + 4 <= bytes; offset += 4) {
        memcpy(content + offset, "\r\n a", 4);
    }
    uint8_t memory[128];
    struct buf to;
    buf_init(&to, memory, sizeof memory);
    assert_true(mail_header_find(slice_of(content, bytes), SLICE("Subject"), &to));
    assert_int_equal(to.len, sizeof memory);
    assert_false(to.overflow);
    free(content);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_finds_the_first),
        cmocka_unit_test(test_appends_as_much_as_fits),
        cmocka_unit_test(test_every_cut),
        cmocka_unit_test(test_hostile_sizes_take_one_pass),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
