/*
 * daemon/sched: when a connection is kept ready before it is needed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "daemon/sched/sched_warm.h"

#include <string.h>

#define SPAN_MS 1000

/*
 * What happens in each span, a character each:
 *   d   a delivery            D   several
 *   .   nothing
 *   o   asked: no connection is wanted      O   one is, and is opened
 *   x   a delivery; then one is wanted, opened, and closed: no second one is wanted
 */
static void play(struct sched_warm *w, const char *spans)
{
    for (uint64_t at = 0; spans[at] != '\0'; at++) {
        uint64_t now_ms = (100 + at) * SPAN_MS + 7 * at % SPAN_MS;
        switch (spans[at]) {
        case 'D':
            sched_warm_delivered(w, now_ms);
            sched_warm_delivered(w, now_ms + 1);
            break;
        case 'd':
            sched_warm_delivered(w, now_ms);
            break;
        case 'o':
            assert_false(sched_warm_wanted(w, now_ms));
            break;
        case 'x':
            sched_warm_delivered(w, now_ms);
            assert_true(sched_warm_wanted(w, now_ms));
            sched_warm_opened(w);
            assert_false(sched_warm_wanted(w, now_ms));
            break;
        case 'O':
            assert_true(sched_warm_wanted(w, now_ms));
            sched_warm_opened(w);
            break;
        default:
            break;
        }
    }
}

static void test_what_flows_regularly(void **state)
{
    (void)state;
    static const char *const cases[] = {
        "o",      "do",     "ddo",     "DDo", /* not often enough */
        "dddO",   "DdDO",   "ddddddO",        /* each of the last three */
        "ddd.o",  "ddd..o",                   /* over */
        "dd.do",  "dd.ddo", "dd.dddO",        /* a gap begins anew */
        "dddOo",  "dddO.o", "dddOdo",         /* once; and while asked, no mail flowed */
        "dddxxx", "dddxo",                    /* with mail in between, again and again */
    };
    for (size_t index = 0; index < sizeof cases / sizeof cases[0]; index++) {
        struct sched_warm w = {.span_ms = SPAN_MS};
        play(&w, cases[index]);
    }
}

static void test_many_in_one_span_are_no_regular_flow(void **state)
{
    (void)state;
    struct sched_warm w = {.span_ms = SPAN_MS};
    for (uint64_t at = 0; at < 1000; at++) {
        sched_warm_delivered(&w, 5 * SPAN_MS + at);
        assert_false(sched_warm_wanted(&w, 5 * SPAN_MS + at));
    }
}

static void test_without_a_span_never(void **state)
{
    (void)state;
    struct sched_warm w = {0};
    for (uint64_t now_ms = 0; now_ms < 100; now_ms++) {
        sched_warm_delivered(&w, now_ms);
        assert_false(sched_warm_wanted(&w, now_ms));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_flows_regularly),
        cmocka_unit_test(test_many_in_one_span_are_no_regular_flow),
        cmocka_unit_test(test_without_a_span_never),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
