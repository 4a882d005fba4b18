/*
 * ESMTP parameters of MAIL and RCPT, one row each.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "daemon/proto/smtp_param.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define MAIL         SMTP_PARAM_FOR_MAIL
#define RCPT         SMTP_PARAM_FOR_RCPT
#define AUTH         (SMTP_PARAM_FOR_MAIL | SMTP_PARAM_WITH_AUTH)

static const struct {
    const char *in;
    unsigned context;
    enum smtp_param_verdict verdict;
    struct smtp_params params;
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
    {" RET=HDRS", MAIL, SMTP_PARAM_UNKNOWN, {0, false, false}},
    {" NOTIFY=NEVER", RCPT, SMTP_PARAM_UNKNOWN, {0, false, false}},
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
        } else {
            assert_int_equal(params.size, 77);
        }
        free(copy);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parses_table),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
