/* schema/event: every row of event.def is well formed, and begins the line that it says. */
#include "schema/event.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

struct row {
    const char *name, *word;
    enum log_level level;
    const char *fields, *when;
};

static const struct row rows[EVENT_COUNT] = {
#define X(name, word, level, fields, when) {#name, (word), LOG_##level, (fields), (when)},
#include "schema/event.def"
#undef X
};

static const char *const level_words[] = {"error", "warning", "notice", "info", "debug"};

/* What people's scripts look for: a word that is changed or gone is their loss. Rows are added. */
static const struct {
    const char *word;
    enum log_level level;
} promised[] = {
    {"start", LOG_NOTICE},           {"stop", LOG_NOTICE},
    {"stopped", LOG_NOTICE},         {"store-open", LOG_NOTICE},
    {"store-failed", LOG_ERROR},     {"risk", LOG_WARNING},
    {"store-full", LOG_WARNING},     {"store-room", LOG_NOTICE},
    {"store-damaged", LOG_ERROR},    {"client-refused", LOG_WARNING},
    {"client-odd", LOG_DEBUG},       {"accepted", LOG_INFO},
    {"rejected", LOG_NOTICE},        {"client-closed", LOG_DEBUG},
    {"delivered", LOG_INFO},         {"deferred", LOG_NOTICE},
    {"failed", LOG_WARNING},         {"upstream-up", LOG_INFO},
    {"upstream-down", LOG_INFO},     {"upstream-marked", LOG_WARNING},
    {"upstream-well", LOG_NOTICE},   {"edited", LOG_NOTICE},
    {"delivery-trouble", LOG_ERROR}, {"control-refused", LOG_WARNING},
    {"log-dropped", LOG_WARNING},
};

static bool is_lower(char letter)
{
    return letter >= 'a' && letter <= 'z';
}

/* word = lower *(lower / digit) *("-" 1*(lower / digit)) */
static bool is_word(struct slice s)
{
    bool within = false;
    for (size_t index = 0; index < s.len; index++) {
        char at = (char)s.data[index];
        bool letter = is_lower(at) || (index > 0 && at >= '0' && at <= '9');
        if (!letter && !(at == '-' && within)) {
            return false;
        }
        within = letter;
    }
    return within;
}

static void words_are_unique_and_well_formed(void **ctx)
{
    (void)ctx;
    for (size_t index = 0; index < EVENT_COUNT; index++) {
        if (!is_word(slice_from_str(rows[index].word))) {
            fail_msg("%s: \"%s\"", rows[index].name, rows[index].word);
        }
        for (size_t other = 0; other < index; other++) {
            assert_string_not_equal(rows[index].word, rows[other].word);
        }
    }
}

static void promised_words_are_there(void **ctx)
{
    (void)ctx;
    for (size_t index = 0; index < sizeof promised / sizeof promised[0]; index++) {
        size_t at = 0;
        while (at < EVENT_COUNT && strcmp(rows[at].word, promised[index].word) != 0) {
            at++;
        }
        if (at == EVENT_COUNT || rows[at].level != promised[index].level) {
            fail_msg("%s is not as it was", promised[index].word);
        }
    }
}

/* Words by single blanks, each once, none of which a line has already. */
static void fields_are_well_formed(void **ctx)
{
    (void)ctx;
    static const char *const taken[] = {"time", "level", "event"};
    for (size_t index = 0; index < EVENT_COUNT; index++) {
        struct slice seen[16];
        size_t count = 0;
        for (struct slice rest = slice_from_str(rows[index].fields); rest.len > 0;) {
            size_t end = slice_find(rest, ' ');
            struct slice field = slice_head(rest, end);
            assert_true(is_word(field));
            assert_true(end + 1 != rest.len); /* no blank at the end */
            for (size_t at = 0; at < count; at++) {
                assert_false(slice_equal(seen[at], field));
            }
            for (size_t at = 0; at < sizeof taken / sizeof taken[0]; at++) {
                assert_false(slice_equal(slice_from_str(taken[at]), field));
            }
            assert_true(count < sizeof seen / sizeof seen[0]);
            seen[count++] = field;
            rest = slice_tail(rest, end + 1);
        }
    }
}

static void sentences_are_printable_without_full_stop(void **ctx)
{
    (void)ctx;
    for (size_t index = 0; index < EVENT_COUNT; index++) {
        const char *when = rows[index].when;
        size_t len = strlen(when);
        assert_true(len > 0 && is_lower(when[0]));
        assert_true(when[len - 1] != '.' && when[len - 1] != ' ');
        for (size_t at = 0; at < len; at++) {
            assert_true(when[at] >= ' ' && when[at] <= '~');
        }
    }
}

struct kept {
    size_t lines;
    enum log_level level;
    char text[256];
};

static void keep(void *ctx, enum log_level level, struct slice line)
{
    struct kept *kept = ctx;
    assert_true(line.len < sizeof kept->text);
    memcpy(kept->text, line.data, line.len);
    kept->text[line.len] = '\0';
    kept->level = level;
    kept->lines++;
}

static void each_begins_its_line_at_its_level(void **ctx)
{
    (void)ctx;
    for (unsigned event = 0; event < EVENT_COUNT; event++) {
        for (int wanted = LOG_ERROR; wanted <= LOG_DEBUG; wanted++) {
            struct kept kept = {0};
            struct log log = {keep, &kept, (enum log_level)wanted};
            struct log_line line;
            event_begin(&line, &log, (enum event)event);
            log_end(&line);
            assert_int_equal(kept.lines, (int)rows[event].level <= wanted ? 1 : 0);
            if (kept.lines == 0) {
                continue;
            }
            char expected[128];
            struct buf text;
            buf_init(&text, expected, sizeof expected);
            buf_printf(&text, "level=%s event=%s", level_words[rows[event].level],
                       rows[event].word);
            buf_put_byte(&text, '\0');
            assert_false(text.overflow);
            assert_string_equal(kept.text, expected);
            assert_int_equal(kept.level, rows[event].level);
        }
    }
}

static void no_event_aborts(void **ctx)
{
    (void)ctx;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct rlimit no_core = {0, 0};
        (void)setrlimit(RLIMIT_CORE, &no_core);
        (void)signal(SIGABRT, SIG_DFL);
        struct kept kept = {0};
        struct log log = {keep, &kept, LOG_DEBUG};
        struct log_line line;
        event_begin(&line, &log, EVENT_COUNT);
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGABRT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_are_unique_and_well_formed),
        cmocka_unit_test(promised_words_are_there),
        cmocka_unit_test(fields_are_well_formed),
        cmocka_unit_test(sentences_are_printable_without_full_stop),
        cmocka_unit_test(each_begins_its_line_at_its_level),
        cmocka_unit_test(no_event_aborts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
