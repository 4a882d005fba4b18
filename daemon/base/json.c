#include "daemon/base/json.h"

#include "daemon/base/text.h"

void json_init(struct json *j, struct buf *to)
{
    *j = (struct json){.to = to};
}

static void begin_value(struct json *j, const char *key)
{
    if (j->filled[j->depth]) {
        buf_put_byte(j->to, ',');
    }
    j->filled[j->depth] = true;
    if (key != NULL) {
        text_put_json(j->to, slice_from_str(key));
        buf_put_byte(j->to, ':');
    }
}

static void open_level(struct json *j, const char *key, uint8_t bracket)
{
    begin_value(j, key);
    CHECK(j->depth + 1 < JSON_DEPTH_MAX);
    j->depth++;
    j->filled[j->depth] = false;
    buf_put_byte(j->to, bracket);
}

static void close_level(struct json *j, uint8_t bracket)
{
    CHECK(j->depth > 0);
    j->depth--;
    buf_put_byte(j->to, bracket);
}

void json_open_object(struct json *j, const char *key)
{
    open_level(j, key, '{');
}

void json_open_array(struct json *j, const char *key)
{
    open_level(j, key, '[');
}

void json_close_object(struct json *j)
{
    close_level(j, '}');
}

void json_close_array(struct json *j)
{
    close_level(j, ']');
}

void json_put_text(struct json *j, const char *key, struct slice value)
{
    begin_value(j, key);
    text_put_json(j->to, value);
}

void json_put_str(struct json *j, const char *key, const char *value)
{
    json_put_text(j, key, slice_from_str(value));
}

void json_put_u64(struct json *j, const char *key, uint64_t value)
{
    begin_value(j, key);
    buf_put_u64(j->to, value);
}

void json_put_i64(struct json *j, const char *key, int64_t value)
{
    begin_value(j, key);
    buf_put_i64(j->to, value);
}

void json_put_bool(struct json *j, const char *key, bool value)
{
    begin_value(j, key);
    buf_put_str(j->to, value ? "true" : "false");
}

void json_put_null(struct json *j, const char *key)
{
    begin_value(j, key);
    buf_put_str(j->to, "null");
}

void json_put_raw(struct json *j, const char *key, struct slice value)
{
    begin_value(j, key);
    buf_put(j->to, value);
}
