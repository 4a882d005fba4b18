/*
 * How long mail that has come in waits for more: driven by a made-up clock, without threads.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "daemon/queue/queue_internal.h"

#define COMMIT_US 800

/* The state of things after many commits: so many messages in each, and so many more that came
 * while it ran. */
static struct queue_company settled(uint32_t in_each, uint32_t during)
{
    struct queue_company c = {.commit_us = COMMIT_US};
    for (uint32_t message = 0; message < in_each; message++) {
        queue_company_came(&c, 0);
    }
    for (int commit = 0; commit < 200; commit++) {
        queue_company_committed(&c);
        for (uint32_t message = 0; message < during; message++) {
            queue_company_came(&c, 0);
        }
        if (during == 0) {
            queue_company_slept(&c);
        }
        (void)!queue_company_wait_us(&c, 0, false);
        while (c.waiting < in_each) {
            queue_company_came(&c, 0);
        }
    }
    queue_company_committed(&c);
    queue_company_slept(&c);
    return c;
}

/* So many have to be there until nobody waits; and the wait of the first. */
static uint32_t quorum(struct queue_company c, bool busy, uint64_t *out_wait_us)
{
    *out_wait_us = 0;
    queue_company_came(&c, 5000);
    while (true) {
        uint64_t wait_us = queue_company_wait_us(&c, 5000, busy);
        if (wait_us == 0) {
            return c.waiting;
        }
        *out_wait_us = wait_us;
        queue_company_came(&c, 5000);
        assert_true(c.waiting < 1000);
    }
}

static void test_one_client_waits_for_nobody(void **state)
{
    (void)state;
    uint64_t wait_us;
    assert_int_equal(quorum((struct queue_company){.commit_us = COMMIT_US}, true, &wait_us), 1);
    assert_int_equal(quorum(settled(1, 0), false, &wait_us), 1);
    assert_int_equal(quorum(settled(1, 0), true, &wait_us), 1);
    assert_int_equal(wait_us, 0);
}

static void test_half_of_those_at_once_are_waited_for(void **state)
{
    (void)state;
    uint64_t wait_us;
    assert_int_equal(quorum(settled(10, 10), false, &wait_us), 10);
    assert_int_equal(wait_us, COMMIT_US);
    /* however they were shared out between commits so far */
    assert_int_equal(quorum(settled(16, 4), false, &wait_us), 10);
    assert_int_equal(quorum(settled(20, 0), false, &wait_us), 10);
}

static void test_and_more_while_deliveries_are_under_way(void **state)
{
    (void)state;
    uint64_t wait_us;
    uint32_t count = quorum(settled(10, 10), true, &wait_us);
    assert_in_range(count, 16, 17);
    assert_int_equal(wait_us, 2 * COMMIT_US);
}

/* Whoever was in the last commit and comes again is not counted twice. */
static void test_who_comes_after_a_rest_may_have_been_in_it(void **state)
{
    (void)state;
    struct queue_company c = {.commit_us = COMMIT_US};
    uint64_t wait_us;
    for (int commit = 0; commit < 200; commit++) {
        queue_company_came(&c, 0);
        queue_company_came(&c, 0);
        queue_company_committed(&c);
        queue_company_slept(&c);
        queue_company_came(&c, 0);
        queue_company_came(&c, 0);
        (void)!queue_company_wait_us(&c, 0, false);
        c.waiting = 0;
    }
    assert_int_equal(quorum(c, false, &wait_us), 1);
}

static void test_the_wait_ends_by_time_alone(void **state)
{
    (void)state;
    struct queue_company c = settled(10, 10);
    queue_company_came(&c, 5000);
    assert_int_equal(queue_company_wait_us(&c, 5000, false), COMMIT_US);
    queue_company_came(&c, 5300); /* the first one counts */
    assert_int_equal(queue_company_wait_us(&c, 5300, false), COMMIT_US - 300);
    assert_int_equal(queue_company_wait_us(&c, 5000 + COMMIT_US, false), 0);
    assert_int_equal(queue_company_wait_us(&c, 5000 + 10 * COMMIT_US, true), 0);
    c = settled(10, 10);
    c.commit_us = 50000; /* a slow disk is not waited for any longer */
    queue_company_came(&c, 5000);
    assert_int_equal(queue_company_wait_us(&c, 5000, false), 2000);
    assert_int_equal(queue_company_wait_us(&c, 5000, true), 4000);
}

static void test_a_crowd_that_has_gone_is_forgotten(void **state)
{
    (void)state;
    struct queue_company c = settled(10, 10);
    uint64_t wait_us = 1;
    int commits = 0;
    for (; wait_us != 0; commits++) {
        queue_company_came(&c, 0);
        wait_us = queue_company_wait_us(&c, 0, false);
        queue_company_committed(&c);
        queue_company_slept(&c);
        assert_true(commits < 100);
    }
    assert_in_range(commits, 10, 60);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_client_waits_for_nobody),
        cmocka_unit_test(test_half_of_those_at_once_are_waited_for),
        cmocka_unit_test(test_and_more_while_deliveries_are_under_way),
        cmocka_unit_test(test_who_comes_after_a_rest_may_have_been_in_it),
        cmocka_unit_test(test_the_wait_ends_by_time_alone),
        cmocka_unit_test(test_a_crowd_that_has_gone_is_forgotten),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
