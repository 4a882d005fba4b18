/*
 * How often a test's loop goes round. Where each call of a case fails in turn (tests/fail/), a
 * loop's thousandth turn shows little that its tenth did not, and makes millions of runs of it.
 */
#ifndef TASUKI_TESTS_UNIT_TURNS_H
#define TASUKI_TESTS_UNIT_TURNS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

/* Of the runner of tests/fail/ alone, and set before the first case. */
extern bool turns_are_few __attribute__((weak));

/* Do calls fail here? Then memory is not the product's alone, and a case is run many times. */
static inline bool where_calls_fail(void)
{
    return &turns_are_few != NULL;
}

/* `all`, or where each call fails in turn, `few`. */
static inline size_t turns(size_t all, size_t few)
{
    return where_calls_fail() && turns_are_few ? few : all;
}

/* Between two looks, or two messages, where turns are few: else they are as many as the machine can
 * do. */
static inline void rest_where_few(uint64_t ms)
{
    if (turns(0, 1) == 1) {
        usleep((useconds_t)(ms * 1000));
    }
}

#endif
