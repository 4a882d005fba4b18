/*
 * Between fail_run.c, which forks children, and fail_child.c, which is what runs in them.
 */
#ifndef TASUKI_TESTS_FAIL_FAIL_CHILD_H
#define TASUKI_TESTS_FAIL_FAIL_CHILD_H

#include "tests/fail/fail.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

/* The case that is the group's setup and teardown alone. */
#define FAIL_FIXTURE "(fixture)"

/* How a child ends, where it is neither passed, 0, nor failed, 1. */
#define FAIL_EXIT_SANITIZER 99
#define FAIL_EXIT_LEAK      98
#define FAIL_EXIT_SKIPPED   97

/* What the program's main wanted run. */
struct fail_group {
    const struct CMUnitTest *tests;
    size_t count;
    CMFixtureFunction setup, teardown;
    bool setup_in_child; /* it starts threads, which a fork would leave behind */
    void *state;         /* of the group, when it was set up before the fork */
};

extern struct fail_group fail_group;

/* cmocka's; the program's main gets fail_run.c's. */
int __real__cmocka_run_group_tests(const char *name, const struct CMUnitTest *tests, size_t count,
                                   CMFixtureFunction setup, CMFixtureFunction teardown);

/* In the runner, before cmocka catches anything. */
void fail_child_init(void);

/* CLOCK_MONOTONIC, in ms. */
uint64_t fail_clock_ms(void);

/* In the child. The case is NULL for the group's setup and teardown alone; what is said, also by
 * the sanitizers, goes to output_fd. */
_Noreturn void fail_child_run(struct fail_shared *shared, int output_fd,
                              const struct CMUnitTest *test, bool seeks_leaks);

#endif
