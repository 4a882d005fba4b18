/* What the tests of the configuration share: a text is read, and is well, or is refused word for
 * word. */
#ifndef TASUKI_TESTS_UNIT_CONFIG_RIG_H
#define TASUKI_TESTS_UNIT_CONFIG_RIG_H

#include "daemon/config/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

/* For files that bring their own upstream: it begins in line 2. */
#define NAMED "hostname = relay.example.jp\n"

static struct config_errors errors;
static char shown[32768];

static struct config *parse(struct slice text)
{
    struct config *config = NULL;
    enum err err = config_parse(&config, "f", text, false, &errors);
    struct buf to;
    buf_init(&to, shown, sizeof shown - 1);
    for (uint32_t index = 0; index < errors.count; index++) {
        config_error_put(&to, "f", &errors.items[index]);
    }
    shown[to.len] = '\0';
    assert_true((err == ERR_OK) == (config != NULL));
    assert_true((err == ERR_OK) == (errors.count == 0));
    return config;
}

static struct config *parse_well(const char *text)
{
    struct config *config = parse(slice_from_str(text));
    if (config == NULL) {
        fail_msg("%s\n%s", text, shown);
    }
    return config;
}

static void expect_refused(const char *text, const char *expected)
{
    struct config *config = parse(slice_from_str(text));
    if (config != NULL) {
        fail_msg("taken, but it should not be:\n%s", text);
    }
    if (strcmp(shown, expected) != 0) {
        print_error("%s\n", text);
    }
    assert_string_equal(shown, expected);
}

#endif
