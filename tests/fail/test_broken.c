/* The rig's own test: see fail_broken.h. Run by run_fail.py, and by nothing else: it is to fail. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/fail/fail_broken.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_BYTES 34

static char directory[64];

/* Makes PATH in a directory of its own. */
static void path_make(char path[128])
{
    (void)snprintf(directory, sizeof(directory), "/tmp/tasuki-test-broken-XXXXXX");
    assert_non_null(mkdtemp(directory));
    (void)snprintf(path, 128, "%s/file", directory);
}

static void path_remove(const char *path)
{
    unlink(path);
    rmdir(directory);
}

static void unchecked(void **state)
{
    (void)state;
    assert_true(broken_unchecked());
}

static void late(void **state)
{
    (void)state;
    assert_true(broken_late());
}

static void leak(void **state)
{
    (void)state;
    assert_true(broken_leak("/dev/null"));
}

static void check(void **state)
{
    (void)state;
    assert_true(broken_check());
}

static void twice(void **state)
{
    (void)state;
    assert_true(broken_twice());
}

static void spin(void **state)
{
    (void)state;
    assert_true(broken_spin());
}

/* What is called written is there. */
static void promise_written(void **state)
{
    (void)state;
    char path[128];
    struct stat there;
    path_make(path);
    bool said = broken_lie(path);
    assert_true(!said || (stat(path, &there) == 0 && there.st_size == FILE_BYTES));
    path_remove(path);
}

static void copes(void **state)
{
    (void)state;
    assert_true(sound("/dev/null"));
}

static void waits(void **state)
{
    (void)state;
    if (!sound("/dev/null")) {
        (void)sleep(3600);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unchecked),       cmocka_unit_test(late),  cmocka_unit_test(leak),
        cmocka_unit_test(check),           cmocka_unit_test(twice), cmocka_unit_test(spin),
        cmocka_unit_test(promise_written), cmocka_unit_test(copes), cmocka_unit_test(waits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
