/*
 * ESMTP parameters of MAIL and RCPT, one row each.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "daemon/base/buf.h"
#include "daemon/proto/smtp_param.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define MAIL         SMTP_PARAM_FOR_MAIL
#define RCPT         SMTP_PARAM_FOR_RCPT
#define AUTH         (SMTP_PARAM_FOR_MAIL | SMTP_PARAM_WITH_AUTH)

static const struct {
    const char *in;
    unsigned context;
    enum smtp_param_verdict verdict;
    struct {
        uint64_t size;
        bool body_8bit, smtputf8;
    } params;
} rows[] = {
    {"", MAIL, SMTP_PARAM_OK, {0, false, false}},
    {"", RCPT, SMTP_PARAM_OK, {0, false, false}},
    {"   ", MAIL, SMTP_PARAM_OK, {0, false, false}},
    {" SIZE=1", MAIL, SMTP_PARAM_OK, {1, false, false}},
    {" size=000123", MAIL, SMTP_PARAM_OK, {123, false, false}},
    {" SIZE=0", MAIL, SMTP_PARAM_OK, {0, false, false}},
    {" SIZE=18446744073709551615", MAIL, SMTP_PARAM_OK, {UINT64_MAX, false, false}},
    {" SIZE=18446744073709551616", MAIL, SMTP_PARAM_OK, {UINT64_MAX, false, false}},
    {" SIZE=99999999999999999999", MAIL, SMTP_PARAM_OK, {UINT64_MAX, false, false}},
    {" BODY=8BITMIME", MAIL, SMTP_PARAM_OK, {0, true, false}},
    {" body=8bitmime  SMTPUTF8 ", MAIL, SMTP_PARAM_OK, {0, true, true}},
    {" BODY=7BIT SIZE=5", MAIL, SMTP_PARAM_OK, {5, false, false}},
    {" AUTH=<>", AUTH, SMTP_PARAM_OK, {0, false, false}},
    {" AUTH=e+3Dmc2@example.jp", AUTH, SMTP_PARAM_OK, {0, false, false}},
    {"SIZE=1", MAIL, SMTP_PARAM_SYNTAX, {0, false, false}},
    {" =", MAIL, SMTP_PARAM_SYNTAX, {0, false, false}},
    {" =5", MAIL, SMTP_PARAM_SYNTAX, {0, false, false}},
    {" SIZE=", MAIL, SMTP_PARAM_SYNTAX, {0, false, false}},
    {" SIZE==1", MAIL, SMTP_PARAM_SYNTAX, {0, false, false}},
    {" SIZE=1=1", MAIL, SMTP_PARAM_SYNTAX, {0, false, false}},
    {" -X=1", MAIL, SMTP_PARAM_SYNTAX, {0, false, false}},
    {" S_Z=1", MAIL, SMTP_PARAM_SYNTAX, {0, false, false}},
    {" X=\xc3\xbc", MAIL, SMTP_PARAM_SYNTAX, {0, false, false}},
    {" X=\x1b", MAIL, SMTP_PARAM_SYNTAX, {0, false, false}},
    {"\tSIZE=1", MAIL, SMTP_PARAM_SYNTAX, {0, false, false}},
    {" SIZE", MAIL, SMTP_PARAM_VALUE, {0, false, false}},
    {" SIZE=x", MAIL, SMTP_PARAM_VALUE, {0, false, false}},
    {" SIZE=-1", MAIL, SMTP_PARAM_VALUE, {0, false, false}},
    {" SIZE=1000000000000000000000000000000", MAIL, SMTP_PARAM_VALUE, {0, false, false}},
    {" BODY", MAIL, SMTP_PARAM_VALUE, {0, false, false}},
    {" BODY=BINARYMIME", MAIL, SMTP_PARAM_VALUE, {0, false, false}},
    {" SMTPUTF8=1", MAIL, SMTP_PARAM_VALUE, {0, false, false}},
    {" AUTH", AUTH, SMTP_PARAM_VALUE, {0, false, false}},
    {" AUTH=a+3d", AUTH, SMTP_PARAM_VALUE, {0, false, false}},
    {" AUTH=a+3", AUTH, SMTP_PARAM_VALUE, {0, false, false}},
    {" SIZE=1 SIZE=1", MAIL, SMTP_PARAM_REPEATED, {0, false, false}},
    {" SMTPUTF8 BODY=7BIT smtputf8", MAIL, SMTP_PARAM_REPEATED, {0, false, false}},
    {" FOO", MAIL, SMTP_PARAM_UNKNOWN, {0, false, false}},
    {" SIZE=1 X-FOO=bar", MAIL, SMTP_PARAM_UNKNOWN, {0, false, false}},
    {" SIZES=1", MAIL, SMTP_PARAM_UNKNOWN, {0, false, false}},
    {" AUTH=<>", MAIL, SMTP_PARAM_UNKNOWN, {0, false, false}},
    {" RET=HDRS", RCPT, SMTP_PARAM_UNKNOWN, {0, false, false}},
    {" ENVID=x", RCPT, SMTP_PARAM_UNKNOWN, {0, false, false}},
    {" NOTIFY=NEVER", MAIL, SMTP_PARAM_UNKNOWN, {0, false, false}},
    {" ORCPT=rfc822;a@b", MAIL, SMTP_PARAM_UNKNOWN, {0, false, false}},
    {" SIZE=1", RCPT, SMTP_PARAM_UNKNOWN, {0, false, false}},
};

static void parses_table(void **state)
{
    (void)state;
    for (size_t index = 0; index < COUNT(rows); index++) {
        size_t len = strlen(rows[index].in);
        uint8_t *copy = malloc(len + 1); /* of the row's size: a read past its end is found */
        assert_non_null(copy);
        memcpy(copy, rows[index].in, len);
        struct smtp_params params = {.size = 77};
        enum smtp_param_verdict verdict =
            smtp_params_parse(slice_of(copy, len), rows[index].context, &params);
        if (verdict != rows[index].verdict) {
            print_error("row:%s\n", rows[index].in);
        }
        assert_int_equal(verdict, rows[index].verdict);
        if (verdict == SMTP_PARAM_OK) {
            assert_int_equal(params.size, rows[index].params.size);
            assert_int_equal(params.body_8bit, rows[index].params.body_8bit);
            assert_int_equal(params.smtputf8, rows[index].params.smtputf8);
            assert_int_equal(params.ret, SMTP_RET_NONE);
            assert_int_equal(params.notify, 0);
            assert_true(params.envid.len == 0 && params.orcpt.len == 0);
        } else {
            assert_int_equal(params.size, 77);
        }
        free(copy);
    }
}

/* ---- RFC 3461 ---- */

#define UTF8 (SMTP_PARAM_FOR_RCPT | SMTP_PARAM_WITH_UTF8)
#define NS   SMTP_NOTIFY_SUCCESS
#define NF   SMTP_NOTIFY_FAILURE
#define ND   SMTP_NOTIFY_DELAY

static const struct {
    const char *in;
    unsigned context;
    enum smtp_param_verdict verdict;
    enum smtp_ret ret;
    unsigned notify;
    const char *envid, *orcpt;
} dsn_rows[] = {
    {" RET=FULL", MAIL, SMTP_PARAM_OK, SMTP_RET_FULL, 0, "", ""},
    {" ret=hdrs ENVID=QQ314159", MAIL, SMTP_PARAM_OK, SMTP_RET_HDRS, 0, "QQ314159", ""},
    {" ENVID=a+2Bb+3Dc+20+09+7E", MAIL, SMTP_PARAM_OK, SMTP_RET_NONE, 0, "a+2Bb+3Dc+20+09+7E", ""},
    {" NOTIFY=NEVER", RCPT, SMTP_PARAM_OK, SMTP_RET_NONE, SMTP_NOTIFY_NEVER, "", ""},
    {" NOTIFY=SUCCESS", RCPT, SMTP_PARAM_OK, SMTP_RET_NONE, NS, "", ""},
    {" notify=failure", RCPT, SMTP_PARAM_OK, SMTP_RET_NONE, NF, "", ""},
    {" NOTIFY=Delay", RCPT, SMTP_PARAM_OK, SMTP_RET_NONE, ND, "", ""},
    {" NOTIFY=DELAY,SUCCESS,FAILURE", RCPT, SMTP_PARAM_OK, SMTP_RET_NONE, NS | NF | ND, "", ""},
    {" ORCPT=rfc822;a@b NOTIFY=FAILURE,DELAY", RCPT, SMTP_PARAM_OK, SMTP_RET_NONE, NF | ND, "",
     "rfc822;a@b"},
    {" ORCPT=RFC822;a+2Bb@example.jp", RCPT, SMTP_PARAM_OK, SMTP_RET_NONE, 0, "",
     "RFC822;a+2Bb@example.jp"},
    {" ORCPT=X-1;a;b", RCPT, SMTP_PARAM_OK, SMTP_RET_NONE, 0, "", "X-1;a;b"},
    {" ORCPT=utf-8;\\x{5DDD}@b", RCPT, SMTP_PARAM_OK, SMTP_RET_NONE, 0, "", "utf-8;\\x{5DDD}@b"},
    {" ORCPT=utf-8;\xe5\xb7\x9d@b", UTF8, SMTP_PARAM_OK, SMTP_RET_NONE, 0, "",
     "utf-8;\xe5\xb7\x9d@b"},
    {" RET", MAIL, SMTP_PARAM_VALUE, SMTP_RET_NONE, 0, "", ""},
    {" RET=ALL", MAIL, SMTP_PARAM_VALUE, SMTP_RET_NONE, 0, "", ""},
    {" RET=", MAIL, SMTP_PARAM_SYNTAX, SMTP_RET_NONE, 0, "", ""},
    {" RET=FULL,HDRS", MAIL, SMTP_PARAM_VALUE, SMTP_RET_NONE, 0, "", ""},
    {" RET=FULL RET=HDRS", MAIL, SMTP_PARAM_REPEATED, SMTP_RET_NONE, 0, "", ""},
    {" ENVID", MAIL, SMTP_PARAM_VALUE, SMTP_RET_NONE, 0, "", ""},
    {" ENVID=", MAIL, SMTP_PARAM_SYNTAX, SMTP_RET_NONE, 0, "", ""},
    {" ENVID=a=b", MAIL, SMTP_PARAM_SYNTAX, SMTP_RET_NONE, 0, "", ""},
    {" ENVID=a+2", MAIL, SMTP_PARAM_VALUE, SMTP_RET_NONE, 0, "", ""},
    {" ENVID=a+", MAIL, SMTP_PARAM_VALUE, SMTP_RET_NONE, 0, "", ""},
    {" ENVID=a+2b", MAIL, SMTP_PARAM_VALUE, SMTP_RET_NONE, 0, "", ""},
    {" ENVID=a+0D+0A", MAIL, SMTP_PARAM_VALUE, SMTP_RET_NONE, 0, "", ""},
    {" ENVID=a+00", MAIL, SMTP_PARAM_VALUE, SMTP_RET_NONE, 0, "", ""},
    {" ENVID=a+7F", MAIL, SMTP_PARAM_VALUE, SMTP_RET_NONE, 0, "", ""},
    {" ENVID=a+E3", MAIL, SMTP_PARAM_VALUE, SMTP_RET_NONE, 0, "", ""},
    {" ENVID=a envid=b", MAIL, SMTP_PARAM_REPEATED, SMTP_RET_NONE, 0, "", ""},
    {" NOTIFY", RCPT, SMTP_PARAM_VALUE, SMTP_RET_NONE, 0, "", ""},
    {" NOTIFY=", RCPT, SMTP_PARAM_SYNTAX, SMTP_RET_NONE, 0, "", ""},
    {" NOTIFY=,", RCPT, SMTP_PARAM_VALUE, SMTP_RET_NONE, 0, "", ""},
    {" NOTIFY=SUCCESS,", RCPT, SMTP_PARAM_VALUE, SMTP_RET_NONE, 0, "", ""},
    {" NOTIFY=,SUCCESS", RCPT, SMTP_PARAM_VALUE, SMTP_RET_NONE, 0, "", ""},
    {" NOTIFY=SUCCESS,,DELAY", RCPT, SMTP_PARAM_VALUE, SMTP_RET_NONE, 0, "", ""},
    {" NOTIFY=SUCCESS,SUCCESS", RCPT, SMTP_PARAM_VALUE, SMTP_RET_NONE, 0, "", ""},
    {" NOTIFY=NEVER,FAILURE", RCPT, SMTP_PARAM_VALUE, SMTP_RET_NONE, 0, "", ""},
    {" NOTIFY=DELAY,NEVER", RCPT, SMTP_PARAM_VALUE, SMTP_RET_NONE, 0, "", ""},
    {" NOTIFY=ALWAYS", RCPT, SMTP_PARAM_VALUE, SMTP_RET_NONE, 0, "", ""},
    {" NOTIFY=DELAY NOTIFY=FAILURE", RCPT, SMTP_PARAM_REPEATED, SMTP_RET_NONE, 0, "", ""},
    {" ORCPT", RCPT, SMTP_PARAM_VALUE, SMTP_RET_NONE, 0, "", ""},
    {" ORCPT=", RCPT, SMTP_PARAM_SYNTAX, SMTP_RET_NONE, 0, "", ""},
    {" ORCPT=a@b", RCPT, SMTP_PARAM_VALUE, SMTP_RET_NONE, 0, "", ""},
    {" ORCPT=rfc822;", RCPT, SMTP_PARAM_VALUE, SMTP_RET_NONE, 0, "", ""},
    {" ORCPT=;a@b", RCPT, SMTP_PARAM_VALUE, SMTP_RET_NONE, 0, "", ""},
    {" ORCPT=rfc+20822;a@b", RCPT, SMTP_PARAM_VALUE, SMTP_RET_NONE, 0, "", ""},
    {" ORCPT=rfc822;a+0A", RCPT, SMTP_PARAM_VALUE, SMTP_RET_NONE, 0, "", ""},
    {" ORCPT=rfc822;a+", RCPT, SMTP_PARAM_VALUE, SMTP_RET_NONE, 0, "", ""},
    {" ORCPT=utf-8;\xe5\xb7\x9d@b", RCPT, SMTP_PARAM_SYNTAX, SMTP_RET_NONE, 0, "", ""},
    {" ORCPT=rfc822;\xe5\xb7\x9d@b", UTF8, SMTP_PARAM_VALUE, SMTP_RET_NONE, 0, "", ""},
    {" ORCPT=utf-8;\xe5\xb7@b", UTF8, SMTP_PARAM_SYNTAX, SMTP_RET_NONE, 0, "", ""},
    {" ORCPT=rfc822;a@b ORCPT=rfc822;a@b", RCPT, SMTP_PARAM_REPEATED, SMTP_RET_NONE, 0, "", ""},
};

static void parses_dsn_table(void **state)
{
    (void)state;
    for (size_t index = 0; index < COUNT(dsn_rows); index++) {
        size_t len = strlen(dsn_rows[index].in);
        uint8_t *copy = malloc(len + 1);
        assert_non_null(copy);
        memcpy(copy, dsn_rows[index].in, len);
        struct smtp_params params = {.notify = 77};
        enum smtp_param_verdict verdict =
            smtp_params_parse(slice_of(copy, len), dsn_rows[index].context, &params);
        if (verdict != dsn_rows[index].verdict) {
            print_error("row:%s\n", dsn_rows[index].in);
        }
        assert_int_equal(verdict, dsn_rows[index].verdict);
        if (verdict == SMTP_PARAM_OK) {
            assert_int_equal(params.ret, dsn_rows[index].ret);
            assert_int_equal(params.notify, dsn_rows[index].notify);
            assert_true(slice_equal(params.envid, slice_from_str(dsn_rows[index].envid)));
            assert_true(slice_equal(params.orcpt, slice_from_str(dsn_rows[index].orcpt)));
        } else {
            assert_int_equal(params.notify, 77);
        }
        free(copy);
    }
}

/* To the byte: as the value comes, whatever it stands for. */
static void dsn_values_have_a_limit(void **state)
{
    (void)state;
    static const struct {
        const char *head;
        unsigned context;
        size_t bytes_max;
    } limits[] = {{" ENVID=", MAIL, 100}, {" ORCPT=rfc822;", RCPT, 500}};
    for (size_t index = 0; index < COUNT(limits); index++) {
        for (unsigned over = 0; over < 2; over++) {
            uint8_t text[600];
            struct buf in;
            struct smtp_params params;
            buf_init(&in, text, sizeof text);
            buf_put_str(&in, limits[index].head);
            size_t name = slice_find(buf_slice(&in), '=') + 1;
            while (in.len - name + 3 <= limits[index].bytes_max + over) {
                buf_put_str(&in, "+2B");
            }
            while (in.len - name < limits[index].bytes_max + over) {
                buf_put_byte(&in, 'x');
            }
            assert_int_equal(smtp_params_parse(buf_slice(&in), limits[index].context, &params),
                             over == 0 ? SMTP_PARAM_OK : SMTP_PARAM_VALUE);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parses_table),
        cmocka_unit_test(parses_dsn_table),
        cmocka_unit_test(dsn_values_have_a_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
