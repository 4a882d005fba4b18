/* daemon/base/log: one event, one line, whatever the peer said and however much of it. */
#include "daemon/base/log.h"
#include "schema/event.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

struct kept {
    size_t lines;
    enum log_level level;
    size_t len;
    uint8_t text[LOG_LINE_BYTES_MAX + 64];
};

static void keep(void *ctx, enum log_level level, struct slice line)
{
    struct kept *kept = ctx;
    assert_true(line.len <= sizeof kept->text);
    kept->lines++;
    kept->level = level;
    kept->len = line.len;
    memcpy(kept->text, line.data, line.len);
}

static void assert_line_is(const struct kept *kept, const char *expected)
{
    if (kept->len != strlen(expected) || memcmp(kept->text, expected, kept->len) != 0) {
        fail_msg("\"%.*s\" instead of \"%s\"", (int)kept->len, (const char *)kept->text, expected);
    }
}

static void fields_in_order(void **ctx)
{
    (void)ctx;
    struct kept kept = {0};
    struct log log = {keep, &kept, LOG_INFO};
    struct log_line line;
    log_begin(&line, &log, LOG_NOTICE, "delivered");
    log_put_word(&line, "upstream", "main");
    log_put_u64(&line, "code", 250);
    log_put_text(&line, "reply", SLICE("ok \"x\"\r\nlevel=error\x1b[0m"));
    log_put_text(&line, "empty", SLICE(""));
    log_end(&line);
    assert_int_equal(kept.lines, 1);
    assert_int_equal(kept.level, LOG_NOTICE);
    assert_line_is(&kept, "level=notice event=delivered upstream=main code=250 "
                          "reply=\"ok \\x22x\\x22\\x0d\\x0alevel=error\\x1b[0m\" empty=\"\"");
}

static void unwanted_lines_are_not_written(void **ctx)
{
    (void)ctx;
    for (int at = LOG_ERROR; at <= LOG_DEBUG; at++) {
        for (int level = LOG_ERROR; level <= LOG_DEBUG; level++) {
            struct kept kept = {0};
            struct log log = {keep, &kept, (enum log_level)at};
            struct log_line line;
            log_begin(&line, &log, (enum log_level)level, "x");
            log_put_u64(&line, "n", 1);
            log_put_word(&line, "w", "w");
            log_put_text(&line, "t", SLICE("t"));
            log_end(&line);
            assert_int_equal(kept.lines, level <= at ? 1 : 0);
        }
    }
    struct log_line line;
    log_begin(&line, NULL, LOG_ERROR, "x"); /* no log at all */
    log_put_text(&line, "t", SLICE("t"));
    log_end(&line);
}

/* The length from which a text is cut, found by growing it by one byte. */
static void long_text_is_cut_and_closed(void **ctx)
{
    (void)ctx;
    static uint8_t text[LOG_LINE_BYTES_MAX * 2];
    memset(text, 'a', sizeof text);
    bool cut_seen = false;
    for (size_t len = LOG_LINE_BYTES_MAX - 100; len <= sizeof text; len++) {
        struct kept kept = {0};
        struct log log = {keep, &kept, LOG_INFO};
        struct log_line line;
        log_begin(&line, &log, LOG_INFO, "x");
        log_put_text(&line, "t", slice_of(text, len));
        log_end(&line);
        assert_true(kept.len <= LOG_LINE_BYTES_MAX);
        assert_memory_equal(kept.text, "level=info event=x t=\"a", 23);
        assert_int_equal(kept.text[kept.len - 1], '"');
        bool cut = memcmp(kept.text + kept.len - 5, "a...\"", 5) == 0;
        assert_true(cut || kept.len == 22 + len + 1);
        assert_true(!cut || len > LOG_LINE_BYTES_MAX - 22 - 1 - 4); /* the room of a mark */
        assert_true(cut || !cut_seen); /* no longer text is whole again */
        cut_seen = cut;
    }
    assert_true(cut_seen);
}

/* Many fields after the line is full: each used to add its mark, past the end of the line. */
static void nothing_follows_a_cut(void **ctx)
{
    (void)ctx;
    static uint8_t text[LOG_LINE_BYTES_MAX * 2];
    memset(text, 0x01, sizeof text);
    struct {
        struct log_line line;
        uint8_t behind[256];
    } l;
    memset(l.behind, 0x5a, sizeof l.behind);
    struct kept kept = {0};
    struct log log = {keep, &kept, LOG_INFO};
    log_begin(&l.line, &log, LOG_INFO, "x");
    log_put_text(&l.line, "t", slice_of(text, sizeof text));
    size_t len = l.line.text.len;
    for (size_t count = 0; count < 50; count++) {
        log_put_text(&l.line, "t", slice_of(text, sizeof text));
        log_put_text(&l.line, "t", SLICE(""));
        log_put_u64(&l.line, "n", 1);
        log_put_word(&l.line, "w", "w");
    }
    log_end(&l.line);
    assert_int_equal(kept.lines, 1);
    assert_int_equal(kept.len, len);
    assert_true(kept.len <= LOG_LINE_BYTES_MAX);
    assert_memory_equal(kept.text + kept.len - 8, "\\x01...\"", 8);
    for (size_t index = 0; index < sizeof l.behind; index++) {
        assert_int_equal(l.behind[index], 0x5a);
    }
}

/* A line filled to each length, then one field of each kind: whole, or left out with a mark. */
static void field_at_the_end_is_whole_or_marked(void **ctx)
{
    (void)ctx;
    static uint8_t text[LOG_LINE_BYTES_MAX];
    memset(text, 'a', sizeof text);
    for (size_t fill = LOG_LINE_BYTES_MAX - 80; fill < LOG_LINE_BYTES_MAX - 26; fill++) {
        for (unsigned kind = 0; kind < 3; kind++) {
            struct kept kept = {0};
            struct log log = {keep, &kept, LOG_INFO};
            struct log_line line;
            log_begin(&line, &log, LOG_INFO, "x");
            log_put_text(&line, "t", slice_of(text, fill));
            size_t before = line.text.len;
            assert_false(line.text.overflow);
            if (kind == 0) {
                log_put_u64(&line, "number", 1234567890);
            } else if (kind == 1) {
                log_put_word(&line, "key", "a-long-word-of-ours");
            } else {
                log_put_text(&line, "key", SLICE("bcdefghijk"));
            }
            log_end(&line);
            assert_true(kept.len <= LOG_LINE_BYTES_MAX);
            static const char *const whole[] = {" number=1234567890", " key=a-long-word-of-ours",
                                                " key=\"bcdefghijk\""};
            const char *end = (const char *)kept.text + before;
            size_t end_len = kept.len - before;
            bool is_whole =
                end_len == strlen(whole[kind]) && memcmp(end, whole[kind], end_len) == 0;
            bool is_left_out = end_len == 4 && memcmp(end, " ...", 4) == 0;
            bool is_cut = kind == 2 && end_len >= 10 && memcmp(end, whole[2], end_len - 4) == 0 &&
                          memcmp(end + end_len - 4, "...\"", 4) == 0;
            if (!is_whole && !is_left_out && !is_cut) {
                fail_msg("fill %zu kind %u: %.*s", fill, kind, (int)end_len, end);
            }
        }
    }
}

static void events_have_words_and_levels(void **ctx)
{
    (void)ctx;
    struct kept kept = {0};
    struct log log = {keep, &kept, LOG_DEBUG};
    struct log_line line;
    event_begin(&line, &log, EVENT_STORE_DAMAGED);
    log_end(&line);
    assert_int_equal(kept.level, LOG_ERROR);
    assert_line_is(&kept, "level=error event=store-damaged");
    event_begin(&line, &log, EVENT_CLIENT_ODD);
    log_end(&line);
    assert_int_equal(kept.level, LOG_DEBUG);
    assert_line_is(&kept, "level=debug event=client-odd");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fields_in_order),
        cmocka_unit_test(unwanted_lines_are_not_written),
        cmocka_unit_test(long_text_is_cut_and_closed),
        cmocka_unit_test(nothing_follows_a_cut),
        cmocka_unit_test(field_at_the_end_is_whole_or_marked),
        cmocka_unit_test(events_have_words_and_levels),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
