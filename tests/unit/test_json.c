/* daemon/base/json: commas and nesting by the writer, and what it does without room. */
#include "daemon/base/json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>
#include <jansson.h>

static uint8_t memory[4096];

static void assert_json_is(const struct buf *b, const char *expected)
{
    assert_false(b->overflow);
    assert_int_equal(b->len, strlen(expected));
    assert_memory_equal(b->data, expected, b->len);
}

static void put_everything(struct json *j)
{
    json_open_object(j, NULL);
    json_put_text(j, "text", SLICE("a\"b\xff"));
    json_put_str(j, "str", "s");
    json_open_array(j, "array");
    json_put_u64(j, NULL, UINT64_MAX);
    json_put_i64(j, NULL, INT64_MIN);
    json_open_object(j, NULL);
    json_close_object(j);
    json_open_array(j, NULL);
    json_close_array(j);
    json_put_bool(j, NULL, true);
    json_put_bool(j, NULL, false);
    json_put_null(j, NULL);
    json_close_array(j);
    json_put_raw(j, "raw", SLICE("{\"x\":1}"));
    json_open_object(j, "object");
    json_put_null(j, "null");
    json_close_object(j);
    json_put_u64(j, "last", 0);
    json_close_object(j);
}

static void values_and_commas(void **ctx)
{
    (void)ctx;
    struct buf b;
    struct json j;
    buf_init(&b, memory, sizeof memory);
    json_init(&j, &b);
    put_everything(&j);
    assert_json_is(&b, "{\"text\":\"a\\\"b\xef\xbf\xbd\",\"str\":\"s\",\"array\":["
                       "18446744073709551615,-9223372036854775808,{},[],true,false,null],"
                       "\"raw\":{\"x\":1},\"object\":{\"null\":null},\"last\":0}");
}

/* Each shorter room leaves the beginning of the whole text, and says so. */
static void without_room_it_is_a_beginning(void **ctx)
{
    (void)ctx;
    static uint8_t whole_memory[4096];
    struct buf whole;
    struct json j;
    buf_init(&whole, whole_memory, sizeof whole_memory);
    json_init(&j, &whole);
    put_everything(&j);
    for (size_t room = 0; room < whole.len; room++) {
        struct buf b;
        buf_init(&b, memory, room);
        json_init(&j, &b);
        put_everything(&j);
        assert_true(b.overflow);
        assert_memory_equal(memory, whole_memory, b.len);
        assert_int_equal(j.depth, 0);
    }
}

static void deepest_nesting(void **ctx)
{
    (void)ctx;
    struct buf b;
    struct json j;
    buf_init(&b, memory, sizeof memory);
    json_init(&j, &b);
    for (size_t depth = 1; depth < JSON_DEPTH_MAX; depth++) {
        json_open_array(&j, NULL);
    }
    for (size_t depth = 1; depth < JSON_DEPTH_MAX; depth++) {
        json_close_array(&j);
    }
    assert_json_is(&b, "[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]");
}

/* Every pair of bytes comes out as JSON that a strict reader takes; valid UTF-8 comes back as it
 * was. */
static void every_byte_pair_is_read_back(void **ctx)
{
    (void)ctx;
    for (unsigned pair = 0; pair < 65536; pair++) {
        uint8_t text[2] = {(uint8_t)(pair >> 8), (uint8_t)pair};
        struct buf b;
        struct json j;
        buf_init(&b, memory, sizeof memory);
        json_init(&j, &b);
        json_open_array(&j, NULL);
        json_put_text(&j, NULL, slice_of(text, sizeof text));
        json_close_array(&j);
        json_t *root = json_loadb((const char *)b.data, b.len, JSON_ALLOW_NUL, NULL);
        assert_non_null(root);
        json_t *value = json_array_get(root, 0);
        if (text[0] < 0x80 && text[1] < 0x80) {
            assert_int_equal(json_string_length(value), 2);
            assert_memory_equal(json_string_value(value), text, 2);
        }
        json_decref(root);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_and_commas),
        cmocka_unit_test(without_room_it_is_a_beginning),
        cmocka_unit_test(deepest_nesting),
        cmocka_unit_test(every_byte_pair_is_read_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
