/* daemon/flow/trace: lines for whoever watches. */
#include "daemon/flow/trace.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define WRITERS 3
#define EACH    5000u

static void put(struct trace *t, const char *text)
{
    struct trace_line line = {.upstream = 1, .len = (uint16_t)strlen(text)};
    memcpy(line.text, text, line.len);
    trace_put(t, &line);
}

static void watched_for_a_while(void **state)
{
    (void)state;
    struct trace t;
    uint64_t last = 99;
    trace_init(&t);
    assert_false(trace_is_watched(&t, 0));
    assert_false(trace_is_watched(NULL, 0));
    put(&t, "nobody asked: it is not kept");
    assert_int_equal(trace_watch(&t, 1000, &last), ERR_OK);
    assert_int_equal(last, 0);
    assert_true(trace_is_watched(&t, 1000 + TRACE_WATCH_MS - 1));
    assert_false(trace_is_watched(&t, 1000 + TRACE_WATCH_MS));
    trace_end(&t);
}

static void lines_in_order(void **state)
{
    (void)state;
    struct trace t;
    struct trace_line line;
    uint64_t last, lost;
    trace_init(&t);
    assert_int_equal(trace_watch(&t, 1, &last), ERR_OK);
    assert_false(trace_next(&t, last, &line, &lost));
    put(&t, "one");
    put(&t, "two");
    assert_true(trace_next(&t, 0, &line, &lost));
    assert_int_equal(lost, 0);
    assert_int_equal(line.number, 1);
    assert_memory_equal(line.text, "one", 3);
    assert_true(trace_next(&t, 1, &line, &lost));
    assert_memory_equal(line.text, "two", 3);
    assert_false(trace_next(&t, 2, &line, &lost));
    assert_false(trace_next(&t, 77, &line, &lost)); /* of a daemon before this one */
    trace_end(&t);
}

static void the_oldest_are_lost_and_counted(void **state)
{
    (void)state;
    struct trace t;
    struct trace_line line;
    uint64_t last, lost;
    trace_init(&t);
    assert_int_equal(trace_watch(&t, 1, &last), ERR_OK);
    for (unsigned at = 1; at <= TRACE_LINES + 10; at++) {
        char text[16];
        (void)snprintf(text, sizeof text, "%u", at);
        put(&t, text);
    }
    assert_true(trace_next(&t, 3, &line, &lost));
    assert_int_equal(lost, 7);
    assert_int_equal(line.number, 11);
    assert_memory_equal(line.text, "11", 2);
    assert_true(trace_next(&t, 11, &line, &lost));
    assert_int_equal(lost, 0);
    trace_end(&t);
}

static void *write_many(void *arg)
{
    for (unsigned at = 0; at < EACH; at++) {
        put(arg, "0123456789");
    }
    return NULL;
}

/* Several workers and a reader at once: each line is whole, numbers grow, none is missing
 * unnoticed. */
static void many_at_once(void **state)
{
    (void)state;
    struct trace t;
    pthread_t threads[WRITERS];
    uint64_t last, after = 0, seen = 0, missed = 0, lost;
    trace_init(&t);
    assert_int_equal(trace_watch(&t, 1, &last), ERR_OK);
    for (int at = 0; at < WRITERS; at++) {
        assert_int_equal(pthread_create(&threads[at], NULL, write_many, &t), 0);
    }
    while (seen + missed < WRITERS * (uint64_t)EACH) {
        struct trace_line line;
        if (trace_next(&t, after, &line, &lost)) {
            assert_int_equal(line.number, after + lost + 1);
            assert_int_equal(line.len, 10);
            assert_memory_equal(line.text, "0123456789", 10);
            after = line.number;
            missed += lost;
            seen++;
        }
    }
    for (int at = 0; at < WRITERS; at++) {
        pthread_join(threads[at], NULL);
    }
    assert_true(seen > 0);
    trace_end(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(watched_for_a_while),
        cmocka_unit_test(lines_in_order),
        cmocka_unit_test(the_oldest_are_lost_and_counted),
        cmocka_unit_test(many_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
