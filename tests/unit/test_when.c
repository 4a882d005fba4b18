/* daemon/base/when: instants against known dates, and against libc's calendar for 400 years. */
#include "daemon/base/when.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

static void assert_text_is(const struct buf *b, const char *expected)
{
    if (b->overflow || b->len != strlen(expected) || memcmp(b->data, expected, b->len) != 0) {
        fail_msg("\"%.*s\" instead of \"%s\"", (int)b->len, (const char *)b->data, expected);
    }
}

static void known_instants(void **ctx)
{
    (void)ctx;
    static const struct {
        uint64_t at_ms;
        const char *rfc5322, *rfc3339;
    } rows[] = {
        {0, "Thu, 01 Jan 1970 00:00:00 +0000", "1970-01-01T00:00:00Z"},
        {999, "Thu, 01 Jan 1970 00:00:00 +0000", "1970-01-01T00:00:00Z"},
        {1000, "Thu, 01 Jan 1970 00:00:01 +0000", "1970-01-01T00:00:01Z"},
        {86399999, "Thu, 01 Jan 1970 23:59:59 +0000", "1970-01-01T23:59:59Z"},
        {68169600000, "Tue, 29 Feb 1972 00:00:00 +0000", "1972-02-29T00:00:00Z"},
        {946684799000, "Fri, 31 Dec 1999 23:59:59 +0000", "1999-12-31T23:59:59Z"},
        {951782400000, "Tue, 29 Feb 2000 00:00:00 +0000", "2000-02-29T00:00:00Z"},
        {951868799000, "Tue, 29 Feb 2000 23:59:59 +0000", "2000-02-29T23:59:59Z"},
        {951868800000, "Wed, 01 Mar 2000 00:00:00 +0000", "2000-03-01T00:00:00Z"},
        {978307199000, "Sun, 31 Dec 2000 23:59:59 +0000", "2000-12-31T23:59:59Z"},
        {1795508794123, "Tue, 24 Nov 2026 08:26:34 +0000", "2026-11-24T08:26:34Z"},
        {2147483647000, "Tue, 19 Jan 2038 03:14:07 +0000", "2038-01-19T03:14:07Z"},
        {2147483648000, "Tue, 19 Jan 2038 03:14:08 +0000", "2038-01-19T03:14:08Z"},
        {4107542399000, "Sun, 28 Feb 2100 23:59:59 +0000", "2100-02-28T23:59:59Z"},
        {4107542400000, "Mon, 01 Mar 2100 00:00:00 +0000", "2100-03-01T00:00:00Z"},
        {253402300799000, "Fri, 31 Dec 9999 23:59:59 +0000", "9999-12-31T23:59:59Z"},
    };
    for (size_t index = 0; index < sizeof rows / sizeof rows[0]; index++) {
        char memory[64];
        struct buf b;
        buf_init(&b, memory, sizeof memory);
        when_put_rfc5322(&b, rows[index].at_ms);
        assert_text_is(&b, rows[index].rfc5322);
        buf_init(&b, memory, sizeof memory);
        when_put_rfc3339(&b, rows[index].at_ms);
        assert_text_is(&b, rows[index].rfc3339);
    }
}

static void every_day_of_400_years(void **ctx)
{
    (void)ctx;
    for (uint64_t day = 0; day < 146097; day++) {
        uint64_t at_s = day * 86400 + day * 7 % 86400;
        time_t at = (time_t)at_s;
        struct tm tm;
        assert_non_null(gmtime_r(&at, &tm));
        char expected[64];
        char memory[64];
        struct buf b;
        assert_true(strftime(expected, sizeof expected, "%a, %d %b %Y %H:%M:%S +0000", &tm) > 0);
        buf_init(&b, memory, sizeof memory);
        when_put_rfc5322(&b, at_s * 1000 + day % 1000);
        assert_text_is(&b, expected);
        assert_true(strftime(expected, sizeof expected, "%Y-%m-%dT%H:%M:%SZ", &tm) > 0);
        buf_init(&b, memory, sizeof memory);
        when_put_rfc3339(&b, at_s * 1000 + day % 1000);
        assert_text_is(&b, expected);
    }
}

/* A damaged clock must not hurt: any 64 bits are some date. */
static void any_value_is_some_date(void **ctx)
{
    (void)ctx;
    char memory[64];
    struct buf b;
    buf_init(&b, memory, sizeof memory);
    when_put_rfc5322(&b, UINT64_MAX);
    assert_false(b.overflow);
    buf_init(&b, memory, sizeof memory);
    when_put_rfc3339(&b, UINT64_MAX);
    assert_false(b.overflow);
    buf_init(&b, memory, 10);
    when_put_rfc3339(&b, 0);
    assert_true(b.overflow);
    assert_int_equal(b.len, 0);
}

static void spans_for_people(void **ctx)
{
    (void)ctx;
    static const struct {
        uint64_t span_ms;
        const char *text;
    } rows[] = {
        {0, "0 s"},
        {999, "0 s"},
        {45000, "45 s"},
        {59999, "59 s"},
        {60000, "1 min"},
        {725000, "12 min"},
        {3599999, "59 min"},
        {3600000, "1 h"},
        {3659999, "1 h"},
        {3660000, "1 h 1 min"},
        {86399999, "23 h 59 min"},
        {86400000, "1 d"},
        {86400000 + 3599999, "1 d"},
        {86400000 + 3600000, "1 d 1 h"},
        {3 * 86400000 + 4 * 3600000 + 5 * 60000, "3 d 4 h"},
        {UINT64_C(400) * 86400000, "400 d"},
    };
    for (size_t index = 0; index < sizeof rows / sizeof rows[0]; index++) {
        char memory[64];
        struct buf b;
        buf_init(&b, memory, sizeof memory);
        when_put_span(&b, rows[index].span_ms);
        assert_text_is(&b, rows[index].text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_instants),
        cmocka_unit_test(every_day_of_400_years),
        cmocka_unit_test(any_value_is_some_date),
        cmocka_unit_test(spans_for_people),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
