/*
 * Any bytes through every encoder and decoder of daemon/base, and the laws that must hold for what
 * comes out.
 */
#include "daemon/base/json.h"
#include "daemon/base/log.h"
#include "daemon/base/num.h"
#include "daemon/base/text.h"
#include "schema/msg_id.h"
#include "schema/wire.h"

#include <jansson.h>
#include <stdlib.h>

#define INPUT_BYTES_MAX 4096

static uint8_t out_memory[INPUT_BYTES_MAX * 6 + 16];
static uint8_t back_memory[INPUT_BYTES_MAX * 2];

static struct buf fresh(void)
{
    struct buf b;
    buf_init(&b, out_memory, sizeof out_memory);
    return b;
}

static void check_harmless(struct slice text)
{
    while (text.len > 0) {
        uint32_t code = 0;
        size_t len = text_utf8_len(text, &code);
        CHECK(len > 0 && code >= 0x20 && code != '"' && !(code >= 0x7f && code < 0xa0));
        CHECK(!(code >= 0x202a && code <= 0x202e) && !(code >= 0x2066 && code <= 0x2069));
        text = slice_tail(text, len);
    }
}

static void try_escaped(struct slice in)
{
    struct buf b = fresh();
    text_put_escaped(&b, in);
    CHECK(!b.overflow);
    check_harmless(buf_slice(&b));
}

static void try_json(struct slice in)
{
    struct buf b = fresh();
    struct json j;
    json_init(&j, &b);
    json_open_array(&j, NULL);
    json_put_text(&j, NULL, in);
    json_close_array(&j);
    CHECK(!b.overflow);
    json_t *root = json_loadb((const char *)b.data, b.len, JSON_ALLOW_NUL, NULL);
    CHECK(root != NULL && json_array_size(root) == 1);
    const json_t *value = json_array_get(root, 0);
    bool valid = true;
    uint32_t code;
    for (struct slice rest = in; rest.len > 0 && valid;) {
        size_t len = text_utf8_len(rest, &code);
        valid = len > 0;
        rest = slice_tail(rest, len);
    }
    CHECK(!valid || slice_equal(slice_of(json_string_value(value), json_string_length(value)), in));
    json_decref(root);
}

static void try_html(struct slice in)
{
    struct buf b = fresh();
    text_put_html(&b, in);
    CHECK(!b.overflow);
    for (size_t index = 0; index < b.len; index++) {
        CHECK(b.data[index] != '<' && b.data[index] != '>' && b.data[index] != '"' &&
              b.data[index] != '\'' && b.data[index] != 0);
    }
}

static void try_base64(struct slice in)
{
    struct buf b = fresh();
    struct buf back;
    text_put_base64(&b, in);
    buf_init(&back, back_memory, in.len);
    CHECK(text_get_base64(&back, buf_slice(&b)) && slice_equal(buf_slice(&back), in));

    buf_init(&back, back_memory, sizeof back_memory);
    if (text_get_base64(&back, in)) {
        b = fresh();
        text_put_base64(&b, buf_slice(&back));
        CHECK(slice_equal(buf_slice(&b), in));
    } else {
        CHECK(back.len == 0);
    }
}

static void try_base32(struct slice in)
{
    struct buf b = fresh();
    text_put_base32(&b, in);
    CHECK(b.len == (in.len * 8 + 4) / 5);
    for (size_t index = 0; index < b.len; index++) {
        CHECK(text_base32_value(b.data[index]) < 32);
    }
    struct msg_id first;
    struct msg_id last;
    if (msg_id_parse_prefix(in, &first, &last)) {
        CHECK(msg_id_compare(&first, &last) <= 0);
        b = fresh();
        msg_id_put_text(&b, &first);
        CHECK(slice_starts_with_nocase(buf_slice(&b), in));
    }
}

static void take_line(void *ctx, enum log_level level, struct slice line)
{
    (void)ctx;
    (void)level;
    CHECK(line.len <= LOG_LINE_BYTES_MAX);
    for (size_t index = 0; index < line.len; index++) {
        CHECK(line.data[index] >= 0x20 && line.data[index] != 0x7f);
    }
}

static void try_log(struct slice in)
{
    static const struct log log = {take_line, NULL, LOG_INFO};
    struct log_line line;
    log_begin(&line, &log, LOG_INFO, "event");
    for (unsigned count = 0; count < 4; count++) {
        log_put_text(&line, "text", in);
        log_put_u64(&line, "number", in.len);
        log_put_word(&line, "word", "a-word");
    }
    log_end(&line);
}

static void try_number(struct slice in)
{
    uint64_t value = 0;
    if (u64_parse(in, &value)) {
        struct buf b = fresh();
        buf_put_u64(&b, value);
        CHECK(b.len <= in.len && slice_equal(buf_slice(&b), slice_tail(in, in.len - b.len)));
    }
}

static void try_nearest(struct slice in)
{
    enum command command;
    const char *nearest = command_nearest(in);
    if (command_find(in, &command)) {
        CHECK(nearest != NULL && strcmp(nearest, command_row(command)->word) == 0);
    }
    CHECK(nearest == NULL || strlen(nearest) <= in.len + in.len / 3 + 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > INPUT_BYTES_MAX) {
        return 0;
    }
    struct slice in = slice_of(data, size);
    try_escaped(in);
    try_json(in);
    try_html(in);
    try_base64(in);
    try_base32(in);
    try_log(in);
    try_number(in);
    try_nearest(in);
    return 0;
}
