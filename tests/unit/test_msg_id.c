/* schema/msg_id: the name of a message, its order, and its prefixes. */
#include "daemon/base/text.h"
#include "schema/msg_id.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static const uint64_t times[] = {0,
                                 1,
                                 0xffff,
                                 0x10000,
                                 UINT64_C(1795508794123) << 16,
                                 UINT64_C(1795508794123) << 16 | 0xffff,
                                 UINT64_C(1795508794124) << 16,
                                 UINT64_MAX};
#define TIMES (sizeof times / sizeof times[0])

static struct slice text_of(const struct msg_id *id, char memory[MSG_ID_TEXT_BYTES])
{
    struct buf b;
    buf_init(&b, memory, MSG_ID_TEXT_BYTES);
    msg_id_put_text(&b, id);
    assert_false(b.overflow);
    assert_int_equal(b.len, MSG_ID_TEXT_BYTES);
    return buf_slice(&b);
}

static void made_of_time_box_and_sequence(void **ctx)
{
    (void)ctx;
    struct msg_id id = msg_id_make(0x1122334455667788, 0x99aa);
    static const uint8_t expected[] = {0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x99, 0xaa, 0x77, 0x88};
    assert_memory_equal(id.bytes, expected, MSG_ID_BYTES);
    for (size_t index = 0; index < TIMES; index++) {
        for (uint32_t box = 0; box <= UINT16_MAX; box += 0x3fff) {
            struct msg_id made = msg_id_make(times[index], (uint16_t)box);
            assert_true(msg_id_time_and_sequence(&made) == times[index]);
        }
    }
}

/* Age first: within one box ids sort as they were made, as bytes and as text. */
static void order_is_age(void **ctx)
{
    (void)ctx;
    for (size_t a = 0; a < TIMES; a++) {
        for (size_t b = 0; b < TIMES; b++) {
            struct msg_id first = msg_id_make(times[a], 7);
            struct msg_id second = msg_id_make(times[b], 7);
            int order = msg_id_compare(&first, &second);
            assert_int_equal(order < 0, a < b);
            assert_int_equal(order > 0, a > b);
            char first_text[MSG_ID_TEXT_BYTES];
            char second_text[MSG_ID_TEXT_BYTES];
            (void)text_of(&first, first_text);
            (void)text_of(&second, second_text);
            assert_int_equal(memcmp(first_text, second_text, MSG_ID_TEXT_BYTES) < 0, a < b);
        }
    }
    struct msg_id one = msg_id_make(UINT64_C(5) << 16 | 9, 1);
    struct msg_id other = msg_id_make(UINT64_C(5) << 16 | 8, 2);
    assert_true(msg_id_compare(&one, &other) < 0);
}

static void known_text(void **ctx)
{
    (void)ctx;
    char memory[MSG_ID_TEXT_BYTES];
    struct msg_id zero = msg_id_make(0, 0);
    assert_memory_equal(text_of(&zero, memory).data, "0000000000000000", 16);
    struct msg_id ones = msg_id_make(UINT64_MAX, UINT16_MAX);
    assert_memory_equal(text_of(&ones, memory).data, "zzzzzzzzzzzzzzzz", 16);
    struct msg_id one = msg_id_make(1, 0);
    assert_memory_equal(text_of(&one, memory).data, "0000000000000001", 16);
}

static void whole_id_is_a_range_of_one(void **ctx)
{
    (void)ctx;
    for (size_t index = 0; index < TIMES; index++) {
        struct msg_id id = msg_id_make(times[index], 0x1234);
        char memory[MSG_ID_TEXT_BYTES];
        struct slice text = text_of(&id, memory);
        for (unsigned upper = 0; upper < 2; upper++) {
            for (size_t at = 0; upper == 1 && at < sizeof memory; at++) {
                if (memory[at] >= 'a') {
                    memory[at] = (char)(memory[at] - 'a' + 'A');
                }
            }
            struct msg_id first;
            struct msg_id last;
            assert_true(msg_id_parse_prefix(text, &first, &last));
            assert_int_equal(msg_id_compare(&first, &id), 0);
            assert_int_equal(msg_id_compare(&last, &id), 0);
        }
    }
}

/* first is the smallest id that begins so, last the largest, and the next of each is outside. */
static void prefix_is_exactly_its_range(void **ctx)
{
    (void)ctx;
    struct msg_id id = msg_id_make(UINT64_C(1795508794123) << 16 | 0xabcd, 0x8001);
    char memory[MSG_ID_TEXT_BYTES];
    struct slice text = text_of(&id, memory);
    for (size_t len = 1; len <= text.len; len++) {
        struct msg_id first;
        struct msg_id last;
        assert_true(msg_id_parse_prefix(slice_head(text, len), &first, &last));
        assert_true(msg_id_compare(&first, &id) <= 0 && msg_id_compare(&id, &last) <= 0);
        char first_text[MSG_ID_TEXT_BYTES];
        char last_text[MSG_ID_TEXT_BYTES];
        (void)text_of(&first, first_text);
        (void)text_of(&last, last_text);
        assert_memory_equal(first_text, memory, len);
        assert_memory_equal(last_text, memory, len);
        for (size_t at = len; at < MSG_ID_TEXT_BYTES; at++) {
            assert_int_equal(first_text[at], '0');
            assert_int_equal(last_text[at], 'z');
        }
    }
}

static void anything_else_is_no_prefix(void **ctx)
{
    (void)ctx;
    static const struct slice rows[] = {
        {NULL, 0},
        {(const uint8_t *)"00000000000000000", 17},
        {(const uint8_t *)"i", 1},
        {(const uint8_t *)"0l", 2},
        {(const uint8_t *)"0O", 2},
        {(const uint8_t *)"u0", 2},
        {(const uint8_t *)"0-0", 3},
        {(const uint8_t *)" 0", 2},
        {(const uint8_t *)"0\0", 2},
        {(const uint8_t *)"\xef\xbc\x90", 3},
    };
    for (size_t index = 0; index < sizeof rows / sizeof rows[0]; index++) {
        struct msg_id first = msg_id_make(4711, 1);
        struct msg_id last = msg_id_make(4712, 1);
        struct msg_id first_before = first;
        struct msg_id last_before = last;
        assert_false(msg_id_parse_prefix(rows[index], &first, &last));
        assert_int_equal(msg_id_compare(&first, &first_before), 0);
        assert_int_equal(msg_id_compare(&last, &last_before), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(made_of_time_box_and_sequence),
        cmocka_unit_test(order_is_age),
        cmocka_unit_test(known_text),
        cmocka_unit_test(whole_id_is_a_range_of_one),
        cmocka_unit_test(prefix_is_exactly_its_range),
        cmocka_unit_test(anything_else_is_no_prefix),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
