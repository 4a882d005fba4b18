/*
 * Small functions that do wrong when a call fails, each in its own way, and one that does right.
 * The runner counts them as the product's; test_broken.c calls them, and run_fail.py demands that
 * each is told of, with the right words. So a rig that sees nothing is seen.
 */
#ifndef TASUKI_TESTS_FAIL_FAIL_BROKEN_H
#define TASUKI_TESTS_FAIL_FAIL_BROKEN_H

#include <stdbool.h>

bool broken_unchecked(void);      /* writes to what malloc did not give */
bool broken_late(void);           /* the same, in one of many turns of a loop alone */
bool broken_leak(const char *to); /* forgets a block when a file cannot be opened */
bool broken_check(void);          /* takes an operating error for a programmer's */
bool broken_twice(void);          /* frees twice */
bool broken_spin(void);           /* tries for ever */
bool broken_lie(const char *to);  /* says that it has written what it has not */
bool sound(const char *to);       /* copes */

#endif
