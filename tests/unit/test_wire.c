/* schema tables that have a lookup: wire (commands, error codes), outcome, metric. */
#include "schema/metric.h"
#include "schema/outcome.h"
#include "schema/wire.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static void every_command_is_found_by_its_word(void **ctx)
{
    (void)ctx;
    for (unsigned index = 0; index < COMMAND_COUNT; index++) {
        const struct command_row *row = command_row((enum command)index);
        assert_true(strlen(row->word) > 0 && strlen(row->doc) > 0);
        assert_non_null(row->args);
        enum command found = COMMAND_COUNT;
        assert_true(command_find(slice_from_str(row->word), &found));
        assert_int_equal(found, index);
        assert_string_equal(command_nearest(slice_from_str(row->word)), row->word);
    }
}

static void unknown_words_are_no_commands(void **ctx)
{
    (void)ctx;
    static const struct slice rows[] = {{NULL, 0},
                                        {(const uint8_t *)"statu", 5},
                                        {(const uint8_t *)"status ", 7},
                                        {(const uint8_t *)"STATUS", 6},
                                        {(const uint8_t *)"status\0", 7},
                                        {(const uint8_t *)"config_show", 11}};
    for (size_t index = 0; index < sizeof rows / sizeof rows[0]; index++) {
        enum command found = COMMAND_COUNT;
        assert_false(command_find(rows[index], &found));
        assert_int_equal(found, COMMAND_COUNT);
    }
    assert_string_equal(command_nearest(SLICE("stauts")), "status");
    assert_string_equal(command_nearest(SLICE("relase")), "release");
    assert_null(command_nearest(SLICE("xyzzy")));
}

/* Default deny: what changes the queue or speaks for the box needs more than READ. */
static void scopes_are_as_meant(void **ctx)
{
    (void)ctx;
    static const struct {
        enum command command;
        enum command_scope scope;
    } rows[] = {
        {COMMAND_STATUS, COMMAND_SCOPE_READ},      {COMMAND_QUEUE, COMMAND_SCOPE_READ},
        {COMMAND_SHOW, COMMAND_SCOPE_READ},        {COMMAND_METRICS, COMMAND_SCOPE_READ},
        {COMMAND_RETRY, COMMAND_SCOPE_OPERATE},    {COMMAND_HOLD, COMMAND_SCOPE_OPERATE},
        {COMMAND_RELEASE, COMMAND_SCOPE_OPERATE},  {COMMAND_DELETE, COMMAND_SCOPE_OPERATE},
        {COMMAND_TRACE, COMMAND_SCOPE_OPERATE},    {COMMAND_TEST, COMMAND_SCOPE_OPERATE},
        {COMMAND_CONFIG_SHOW, COMMAND_SCOPE_READ},
    };
    for (size_t index = 0; index < sizeof rows / sizeof rows[0]; index++) {
        assert_int_equal(command_row(rows[index].command)->scope, rows[index].scope);
    }
    assert_string_equal(command_scope_word(COMMAND_SCOPE_READ), "read");
    assert_string_equal(command_scope_word(COMMAND_SCOPE_OPERATE), "operate");
    assert_string_equal(command_scope_word(COMMAND_SCOPE_ADMIN), "admin");
}

static void error_codes_have_words(void **ctx)
{
    (void)ctx;
    for (unsigned index = 0; index < WIRE_ERROR_COUNT; index++) {
        enum wire_error found = WIRE_ERROR_COUNT;
        assert_true(
            wire_error_find(slice_from_str(wire_error_word((enum wire_error)index)), &found));
        assert_int_equal(found, index);
    }
    enum wire_error found = WIRE_ERROR_COUNT;
    assert_false(wire_error_find(SLICE("not-foun"), &found));
    assert_int_equal(found, WIRE_ERROR_COUNT);
    assert_string_equal(wire_error_word(WIRE_ERROR_BAD_REQUEST), "bad-request");
}

static void outcomes_are_complete(void **ctx)
{
    (void)ctx;
    for (unsigned index = 0; index < OUTCOME_COUNT; index++) {
        const struct outcome_row *row = outcome_row((enum outcome)index);
        size_t len = strlen(row->sentence);
        assert_true(strlen(row->word) > 0 && len > 0);
        assert_int_not_equal(row->sentence[len - 1], '.');
        assert_non_null(row->hint);
        for (const char *at = row->word; *at != '\0'; at++) {
            assert_true((*at >= 'a' && *at <= 'z') || (*at >= '0' && *at <= '9') || *at == '-');
        }
        for (unsigned other = 0; other < index; other++) {
            assert_string_not_equal(row->word, outcome_row((enum outcome)other)->word);
        }
    }
    assert_ptr_equal(outcome_row(OUTCOME_COUNT), outcome_row(OUTCOME_NONE));
    assert_ptr_equal(outcome_row((enum outcome)255), outcome_row(OUTCOME_NONE));
    /* The order on disk: the first and some that were there from the beginning. */
    assert_int_equal(OUTCOME_NONE, 0);
    assert_int_equal(OUTCOME_DELIVERED, 1);
    assert_int_equal(OUTCOME_REFUSED, 6);
    assert_int_equal(OUTCOME_NAME_NOT_FOUND, 12);
}

static bool text_has(struct slice text, const char *part)
{
    return memmem(text.data, text.len, part, strlen(part)) != NULL;
}

static void metrics_are_summed_and_printed(void **ctx)
{
    (void)ctx;
    static struct metrics a;
    static struct metrics b;
    static uint8_t memory[65536];
    struct buf text;
    for (size_t index = 0; index < METRIC_COUNT; index++) {
        metric_add(&a, (enum metric)index, 40);
        metric_add(&b, (enum metric)index, 3);
        metric_add(&b, (enum metric)index, (uint64_t)0 - 1);
    }
    const struct metrics *sets[] = {&a, &b};
    buf_init(&text, memory, sizeof memory);
    metrics_put(&text, sets, 2);
    assert_false(text.overflow);
    size_t lines = 0;
    for (size_t index = 0; index < text.len; index++) {
        lines += memory[index] == '\n' ? 1 : 0;
    }
    assert_int_equal(lines, METRIC_COUNT * 3);
    assert_true(text_has(buf_slice(&text), "\n# TYPE tasuki_"));
    assert_true(text_has(buf_slice(&text), " 42\n"));
    assert_false(text_has(buf_slice(&text), " 43\n"));
    buf_init(&text, memory, sizeof memory);
    metrics_put(&text, NULL, 0);
    assert_true(text_has(buf_slice(&text), " 0\n"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_command_is_found_by_its_word),
        cmocka_unit_test(unknown_words_are_no_commands),
        cmocka_unit_test(scopes_are_as_meant),
        cmocka_unit_test(error_codes_have_words),
        cmocka_unit_test(outcomes_are_complete),
        cmocka_unit_test(metrics_are_summed_and_printed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
