/* Message ids for all threads: strictly growing, whatever the clock does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "daemon/flow/ids.h"

#include <pthread.h>
#include <stdlib.h>

#define THREADS        4
#define IDS_PER_THREAD 50000

static void test_grows_whatever_the_clock_does(void **state)
{
    (void)state;
    static const uint64_t clocks[] = {1000, 1000, 1000, 1001, 999, 0, 1001, 5000, 4000, 5001};
    struct flow_ids ids = {.last = 0, .box = 7};
    struct msg_id before = {{0}};
    for (size_t at = 0; at < sizeof clocks / sizeof clocks[0]; at++) {
        struct msg_id id = flow_ids_next(&ids, clocks[at]);
        assert_true(msg_id_compare(&before, &id) < 0);
        before = id;
    }
    assert_int_equal(msg_id_time_and_sequence(&before), (uint64_t)5001 << 16);
}

/* After a restart: not before what the store knows already, even when the clock was put back. */
static void test_goes_on_from_the_newest_known(void **state)
{
    (void)state;
    struct flow_ids ids = {.last = ((uint64_t)9000 << 16) + 65535, .box = 7};
    struct msg_id id = flow_ids_next(&ids, 100);
    assert_int_equal(msg_id_time_and_sequence(&id), (uint64_t)9001 << 16);
}

static void test_more_than_a_millisecond_has_places_for(void **state)
{
    (void)state;
    struct flow_ids ids = {.last = 0, .box = 7};
    uint64_t last = 0;
    for (int count = 0; count < 70000; count++) {
        struct msg_id id = flow_ids_next(&ids, 50);
        assert_true(msg_id_time_and_sequence(&id) > last);
        last = msg_id_time_and_sequence(&id);
    }
    assert_int_equal(last >> 16, 51);
}

static struct flow_ids shared;

static void *take_ids(void *arg)
{
    uint64_t *to = arg;
    for (size_t at = 0; at < IDS_PER_THREAD; at++) {
        struct msg_id id = flow_ids_next(&shared, 1000 + at / 1000);
        to[at] = msg_id_time_and_sequence(&id);
    }
    return NULL;
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void test_no_two_threads_get_the_same(void **state)
{
    (void)state;
    uint64_t *all = calloc(THREADS * IDS_PER_THREAD, sizeof *all);
    pthread_t threads[THREADS];
    assert_non_null(all);
    for (size_t at = 0; at < THREADS; at++) {
        assert_int_equal(pthread_create(&threads[at], NULL, take_ids, all + at * IDS_PER_THREAD),
                         0);
    }
    for (size_t at = 0; at < THREADS; at++) {
        pthread_join(threads[at], NULL);
    }
    for (size_t at = 1; at < THREADS * IDS_PER_THREAD; at++) {
        assert_true(at % IDS_PER_THREAD == 0 || all[at] > all[at - 1]);
    }
    qsort(all, THREADS * IDS_PER_THREAD, sizeof *all, compare);
    for (size_t at = 1; at < THREADS * IDS_PER_THREAD; at++) {
        assert_true(all[at] > all[at - 1]);
    }
    free(all);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_grows_whatever_the_clock_does),
        cmocka_unit_test(test_goes_on_from_the_newest_known),
        cmocka_unit_test(test_more_than_a_millisecond_has_places_for),
        cmocka_unit_test(test_no_two_threads_get_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
