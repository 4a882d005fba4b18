/* daemon/base: slice, buf, num, err, check. */
#include "daemon/base/buf.h"
#include "daemon/base/err.h"
#include "daemon/base/num.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static void assert_slice_is(struct slice got, const char *expected)
{
    assert_int_equal(got.len, strlen(expected));
    assert_memory_equal(got.len > 0 ? (const char *)got.data : "", expected, got.len);
}

/* ---- slice ---- */

static void slice_heads_and_tails(void **ctx)
{
    (void)ctx;
    static const struct {
        const char *text;
        size_t count;
        const char *head, *tail;
    } rows[] = {
        {"", 0, "", ""},
        {"", 1, "", ""},
        {"abc", 0, "", "abc"},
        {"abc", 1, "a", "bc"},
        {"abc", 3, "abc", ""},
        {"abc", 4, "abc", ""},
        {"abc", SIZE_MAX, "abc", ""},
    };
    for (size_t index = 0; index < sizeof rows / sizeof rows[0]; index++) {
        struct slice s = slice_from_str(rows[index].text);
        assert_slice_is(slice_head(s, rows[index].count), rows[index].head);
        assert_slice_is(slice_tail(s, rows[index].count), rows[index].tail);
    }
    struct slice nothing = slice_of(NULL, 0);
    assert_int_equal(slice_head(nothing, 5).len, 0);
    assert_int_equal(slice_tail(nothing, 5).len, 0);
    assert_int_equal(slice_trim(nothing).len, 0);
    assert_int_equal(slice_find(nothing, 'x'), 0);
    assert_int_equal(slice_find_last(nothing, 'x'), 0);
    assert_true(slice_equal(nothing, SLICE("")));
    assert_true(slice_equal_nocase(nothing, SLICE("")));
    assert_true(slice_starts_with(nothing, nothing));
}

static void slice_comparisons(void **ctx)
{
    (void)ctx;
    static const struct {
        struct slice a, b;
        bool equal, equal_nocase, starts, starts_nocase;
    } rows[] = {
        {{(const uint8_t *)"abc", 3}, {(const uint8_t *)"abc", 3}, true, true, true, true},
        {{(const uint8_t *)"aBc", 3}, {(const uint8_t *)"AbC", 3}, false, true, false, true},
        {{(const uint8_t *)"abcd", 4}, {(const uint8_t *)"abc", 3}, false, false, true, true},
        {{(const uint8_t *)"ABcd", 4}, {(const uint8_t *)"abC", 3}, false, false, false, true},
        {{(const uint8_t *)"abc", 3}, {(const uint8_t *)"abcd", 4}, false, false, false, false},
        {{(const uint8_t *)"a\0c", 3}, {(const uint8_t *)"a\0d", 3}, false, false, false, false},
        {{(const uint8_t *)"[", 1}, {(const uint8_t *)"{", 1}, false, false, false, false},
        {{(const uint8_t *)"@", 1}, {(const uint8_t *)"`", 1}, false, false, false, false},
        {{(const uint8_t *)"\xc4", 1}, {(const uint8_t *)"\xe4", 1}, false, false, false, false},
        {{(const uint8_t *)"x", 1}, {NULL, 0}, false, false, true, true},
    };
    for (size_t index = 0; index < sizeof rows / sizeof rows[0]; index++) {
        struct slice a = rows[index].a;
        struct slice b = rows[index].b;
        assert_int_equal(slice_equal(a, b), rows[index].equal);
        assert_int_equal(slice_equal_nocase(a, b), rows[index].equal_nocase);
        assert_int_equal(slice_starts_with(a, b), rows[index].starts);
        assert_int_equal(slice_starts_with_nocase(a, b), rows[index].starts_nocase);
    }
}

static void slice_finds_first_and_last(void **ctx)
{
    (void)ctx;
    struct slice s = SLICE("a@b@c");
    assert_int_equal(slice_find(s, '@'), 1);
    assert_int_equal(slice_find_last(s, '@'), 3);
    assert_int_equal(slice_find(s, 'a'), 0);
    assert_int_equal(slice_find_last(s, 'a'), 0);
    assert_int_equal(slice_find_last(s, 'c'), 4);
    assert_int_equal(slice_find(s, 'x'), 5);
    assert_int_equal(slice_find_last(s, 'x'), 5);
    assert_int_equal(slice_find(SLICE("a\0b"), 0), 1);
}

static void slice_trims_both_ends(void **ctx)
{
    (void)ctx;
    assert_slice_is(slice_trim(SLICE(" \t\r\na b\n\r\t ")), "a b");
    assert_slice_is(slice_trim(SLICE("ab")), "ab");
    assert_slice_is(slice_trim(SLICE(" \t\r\n")), "");
    assert_slice_is(slice_trim(SLICE("\va\v")), "\va\v");
}

/* ---- buf ---- */

static void buf_fills_to_the_last_byte(void **ctx)
{
    (void)ctx;
    char memory[8] = "xxxxxxx";
    struct buf b;
    buf_init(&b, memory, 4);
    buf_put_str(&b, "abc");
    assert_int_equal(buf_room(&b), 1);
    buf_put_byte(&b, 'd');
    assert_false(b.overflow);
    assert_int_equal(buf_room(&b), 0);
    buf_put(&b, SLICE(""));
    assert_false(b.overflow);
    buf_put_byte(&b, 'e');
    assert_true(b.overflow);
    assert_slice_is(buf_slice(&b), "abcd");
    assert_memory_equal(memory, "abcdxxx", 7);
    buf_reset(&b);
    assert_false(b.overflow);
    buf_put_str(&b, "z");
    assert_slice_is(buf_slice(&b), "z");
}

/* What is there is always the beginning of what was put: no later, shorter put slips in. */
static void nothing_follows_an_overflow(void **ctx)
{
    (void)ctx;
    char memory[4];
    struct buf b;
    buf_init(&b, memory, sizeof memory);
    buf_put_str(&b, "ab");
    buf_put_str(&b, "cde");
    buf_put_byte(&b, 'f');
    buf_put_u64(&b, 1);
    buf_printf(&b, "%d", 1);
    assert_true(b.overflow);
    assert_slice_is(buf_slice(&b), "ab");
}

static void buf_without_memory(void **ctx)
{
    (void)ctx;
    struct buf b;
    buf_init(&b, NULL, 0);
    buf_put(&b, slice_of(NULL, 0));
    assert_false(b.overflow);
    buf_consume(&b, 0);
    buf_put_byte(&b, 'x');
    assert_true(b.overflow);
}

static void buf_consumes_from_the_front(void **ctx)
{
    (void)ctx;
    char memory[8];
    struct buf b;
    buf_init(&b, memory, sizeof memory);
    buf_put_str(&b, "abcdef");
    buf_consume(&b, 0);
    assert_slice_is(buf_slice(&b), "abcdef");
    buf_consume(&b, 2);
    assert_slice_is(buf_slice(&b), "cdef");
    buf_put_str(&b, "gh");
    buf_consume(&b, 6);
    assert_int_equal(b.len, 0);
    assert_false(b.overflow);
}

static void buf_prints_numbers(void **ctx)
{
    (void)ctx;
    static const struct {
        uint64_t value;
        const char *text;
    } rows[] = {{0, "0"},
                {9, "9"},
                {10, "10"},
                {UINT32_MAX, "4294967295"},
                {UINT64_MAX, "18446744073709551615"},
                {10000000000000000000u, "10000000000000000000"}};
    static const struct {
        int64_t value;
        const char *text;
    } signed_rows[] = {{0, "0"},
                       {-1, "-1"},
                       {INT64_MAX, "9223372036854775807"},
                       {INT64_MIN, "-9223372036854775808"}};
    char memory[32];
    struct buf b;
    for (size_t index = 0; index < sizeof rows / sizeof rows[0]; index++) {
        buf_init(&b, memory, sizeof memory);
        buf_put_u64(&b, rows[index].value);
        assert_slice_is(buf_slice(&b), rows[index].text);
    }
    for (size_t index = 0; index < sizeof signed_rows / sizeof signed_rows[0]; index++) {
        buf_init(&b, memory, sizeof memory);
        buf_put_i64(&b, signed_rows[index].value);
        assert_slice_is(buf_slice(&b), signed_rows[index].text);
    }
    /* Never half a number. */
    buf_init(&b, memory, 2);
    buf_put_u64(&b, 100);
    assert_true(b.overflow);
    assert_int_equal(b.len, 0);
}

static void buf_printf_is_whole_or_nothing(void **ctx)
{
    (void)ctx;
    char memory[1024];
    struct buf b;
    buf_init(&b, memory, sizeof memory);
    buf_printf(&b, "%s-%02u", "a", 7u);
    assert_slice_is(buf_slice(&b), "a-07");
    buf_printf(&b, "%600s", "x");
    assert_true(b.overflow);
    assert_slice_is(buf_slice(&b), "a-07");
    buf_init(&b, memory, 3);
    buf_printf(&b, "%s", "abcd");
    assert_true(b.overflow);
    assert_int_equal(b.len, 0);
    buf_init(&b, memory, sizeof memory);
    buf_printf(&b, "%511s", "x");
    assert_false(b.overflow);
    assert_int_equal(b.len, 511);
}

/* ---- num ---- */

static void big_endian_fields(void **ctx)
{
    (void)ctx;
    uint8_t bytes[8];
    be16_put(bytes, 0xfe01);
    assert_memory_equal(bytes, "\xfe\x01", 2);
    assert_int_equal(be16_get(bytes), 0xfe01);
    be32_put(bytes, 0xfedcba98);
    assert_memory_equal(bytes, "\xfe\xdc\xba\x98", 4);
    assert_int_equal(be32_get(bytes), 0xfedcba98);
    be64_put(bytes, 0xfedcba9876543210);
    assert_memory_equal(bytes, "\xfe\xdc\xba\x98\x76\x54\x32\x10", 8);
    assert_true(be64_get(bytes) == 0xfedcba9876543210);
}

static void numbers_in_text(void **ctx)
{
    (void)ctx;
    static const struct {
        struct slice text;
        bool good;
        uint64_t value;
    } rows[] = {
        {{(const uint8_t *)"0", 1}, true, 0},
        {{(const uint8_t *)"00", 2}, true, 0},
        {{(const uint8_t *)"65535", 5}, true, 65535},
        {{(const uint8_t *)"18446744073709551615", 20}, true, UINT64_MAX},
        {{(const uint8_t *)"18446744073709551616", 20}, false, 0},
        {{(const uint8_t *)"18446744073709551620", 20}, false, 0},
        {{(const uint8_t *)"99999999999999999999", 20}, false, 0},
        {{(const uint8_t *)"00000000000000000001", 20}, true, 1},
        {{(const uint8_t *)"000000000000000000001", 21}, false, 0},
        {{NULL, 0}, false, 0},
        {{(const uint8_t *)"-1", 2}, false, 0},
        {{(const uint8_t *)"+1", 2}, false, 0},
        {{(const uint8_t *)" 1", 2}, false, 0},
        {{(const uint8_t *)"1 ", 2}, false, 0},
        {{(const uint8_t *)"1\0", 2}, false, 0},
        {{(const uint8_t *)"0x1", 3}, false, 0},
        {{(const uint8_t *)"1/", 2}, false, 0},
        {{(const uint8_t *)"1:", 2}, false, 0},
        {{(const uint8_t *)"\xef\xbc\x91", 3}, false, 0},
    };
    for (size_t index = 0; index < sizeof rows / sizeof rows[0]; index++) {
        uint64_t value = 4711;
        assert_int_equal(u64_parse(rows[index].text, &value), rows[index].good);
        assert_true(value == (rows[index].good ? rows[index].value : 4711));
    }
}

static void narrowing_and_bounds(void **ctx)
{
    (void)ctx;
    assert_int_equal(u32_from(UINT32_MAX), UINT32_MAX);
    assert_int_equal(u16_from(UINT16_MAX), UINT16_MAX);
    assert_true(u64_min(1, UINT64_MAX) == 1 && u64_min(UINT64_MAX, 1) == 1);
    assert_true(u64_max(1, UINT64_MAX) == UINT64_MAX && u64_max(UINT64_MAX, 1) == UINT64_MAX);
    assert_true(size_min(2, 3) == 2 && size_min(3, 2) == 2);
}

/* ---- err ---- */

static void errors_have_words(void **ctx)
{
    (void)ctx;
    for (unsigned err = 0; err < ERR_COUNT; err++) {
        const char *text = err_text((enum err)err);
        assert_non_null(text);
        assert_true(strlen(text) > 0);
        for (unsigned other = 0; other < err; other++) {
            assert_string_not_equal(text, err_text((enum err)other));
        }
    }
    assert_string_equal(err_text(ERR_COUNT), "unknown error");
}

static void errno_becomes_an_error(void **ctx)
{
    (void)ctx;
    static const struct {
        int number;
        enum err err;
    } rows[] = {{0, ERR_OK},
                {ENOMEM, ERR_NO_MEMORY},
                {ENOSPC, ERR_FULL},
                {EDQUOT, ERR_FULL},
                {EMFILE, ERR_LIMIT},
                {ENOENT, ERR_NOT_FOUND},
                {EEXIST, ERR_EXISTS},
                {EADDRINUSE, ERR_BUSY},
                {EACCES, ERR_PERMISSION},
                {ENOSYS, ERR_UNSUPPORTED},
                {ETIMEDOUT, ERR_TIMEOUT},
                {ECONNREFUSED, ERR_REFUSED},
                {ECONNRESET, ERR_RESET},
                {EPIPE, ERR_RESET},
                {ENETUNREACH, ERR_UNREACHABLE},
                {ECANCELED, ERR_CANCELLED},
                {EIO, ERR_IO},
                {99999, ERR_IO}};
    for (size_t index = 0; index < sizeof rows / sizeof rows[0]; index++) {
        assert_int_equal(err_from_errno(rows[index].number), rows[index].err);
    }
    for (int number = 1; number < 200; number++) {
        assert_int_not_equal(err_from_errno(number), ERR_OK);
    }
}

/* ---- check ---- */

static int words_fd;

static void write_words(const char *text)
{
    ssize_t done = write(words_fd, text, strlen(text));
    (void)done;
}

static void consume_too_much(void)
{
    char memory[1];
    struct buf b;
    buf_init(&b, memory, sizeof memory);
    buf_consume(&b, 1);
}

static void narrow_too_much(void)
{
    static volatile uint64_t large = UINT64_C(1) << 32;
    (void)u32_from(large);
}

static void failed_check_says_where_and_aborts(void **ctx)
{
    (void)ctx;
    static const struct {
        void (*wrong)(void);
        const char *file, *condition;
    } rows[] = {{consume_too_much, "daemon/base/buf.c:", "count <= b->len"},
                {narrow_too_much, "daemon/base/num.h:", "value <= UINT32_MAX"}};
    for (size_t index = 0; index < sizeof rows / sizeof rows[0]; index++) {
        int ends[2];
        assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            struct rlimit no_core = {0, 0};
            (void)setrlimit(RLIMIT_CORE, &no_core);
            (void)signal(SIGABRT, SIG_DFL);
            words_fd = ends[1];
            check_set_last_words(write_words);
            rows[index].wrong();
            _exit(0);
        }
        (void)close(ends[1]);
        char words[256] = "";
        assert_true(read(ends[0], words, sizeof words - 1) > 0);
        (void)close(ends[0]);
        assert_non_null(strstr(words, rows[index].file));
        assert_non_null(strstr(words, rows[index].condition));
        int status = 0;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status));
        assert_int_equal(WTERMSIG(status), SIGABRT);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slice_heads_and_tails),
        cmocka_unit_test(slice_comparisons),
        cmocka_unit_test(slice_finds_first_and_last),
        cmocka_unit_test(slice_trims_both_ends),
        cmocka_unit_test(buf_fills_to_the_last_byte),
        cmocka_unit_test(nothing_follows_an_overflow),
        cmocka_unit_test(buf_without_memory),
        cmocka_unit_test(buf_consumes_from_the_front),
        cmocka_unit_test(buf_prints_numbers),
        cmocka_unit_test(buf_printf_is_whole_or_nothing),
        cmocka_unit_test(big_endian_fields),
        cmocka_unit_test(numbers_in_text),
        cmocka_unit_test(narrowing_and_bounds),
        cmocka_unit_test(errors_have_words),
        cmocka_unit_test(errno_becomes_an_error),
        cmocka_unit_test(failed_check_says_where_and_aborts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
