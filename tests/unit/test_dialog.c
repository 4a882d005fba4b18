/*
 * Plays the transcripts of tests/dialog against the SMTP server machine, each one
 *   - line by line, as a client that waits: what is said and told after each line is compared;
 *   - all at once, as a client that pipelines everything;
 *   - cut in two at every byte, and byte by byte.
 *
 * A transcript:
 *
 *     # comment
 *     ! starttls                  how the server is set up; before anything else (see set_up)
 *     S: 220 mail.example.jp ...  the server says this line
 *     C: MAIL FROM:<a@b>          the client sends this and CRLF
 *     c: abc\r\n                  the client sends this and nothing more
 *     C*100: RCPT TO:<a@b>        a hundred times; also S* and E*
 *     E: mail <a@b>               the owner is told or asked this (see owner_note)
 *     A: refuse 550 5.7.1 no      what it answers to the E: line above; otherwise it accepts
 *     T:                          the TLS handshake; what was sent and not used is gone
 *     X: 300000                   so many milliseconds pass, and the machine is told
 *     H:                          the daemon is stopping
 *
 * C and c know \r \n \t \0 \\ and \xNN. E lines are what the log would show, escapes and all.
 */
#include <glob.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define LAW_REQUIRE(condition) assert_true(condition)
#include "tests/unit/smtp_server_owner.h"

#define FILE_BYTES_MAX 65536
#define SCRIPT_MAX     4096 /* lines of a transcript, repeated ones counted once */
#define STREAM_MAX     (1u << 20)
#define CUTS_MAX       1500

struct line {
    char kind;
    unsigned repeat;
    struct slice text; /* C: what goes over the wire; others: as written */
    unsigned number;   /* in the file */
};

struct script {
    const char *path;
    struct line lines[SCRIPT_MAX];
    size_t line_count;
    struct owner owner;
    struct owner_answer greeting;
    struct buf words; /* texts that answers point at, and what C lines send */
    uint8_t words_memory[4 * FILE_BYTES_MAX];
    char file[FILE_BYTES_MAX];
};

static void fail_at(const struct script *script, unsigned number, const char *why)
{
    print_error("%s:%u: %s\n", script->path, number, why);
    fail();
}

/* ---- reading ---- */

static uint8_t hex_value(uint8_t digit)
{
    return (uint8_t)(digit <= '9' ? digit - '0' : ascii_lower(digit) - 'a' + 10);
}

static void unescape(struct buf *to, struct slice from)
{
    static const char letters[] = "r\rn\nt\t0\0\\\\";
    for (size_t at = 0; at < from.len; at++) {
        if (from.data[at] != '\\' || at + 1 == from.len) {
            buf_put_byte(to, from.data[at]);
            continue;
        }
        at++;
        if (from.data[at] == 'x' && from.len - at > 2) {
            buf_put_byte(
                to, (uint8_t)(hex_value(from.data[at + 1]) << 4 | hex_value(from.data[at + 2])));
            at += 2;
            continue;
        }
        for (size_t index = 0; index + 1 < sizeof letters; index += 2) {
            if ((uint8_t)letters[index] == from.data[at]) {
                buf_put_byte(to, (uint8_t)letters[index + 1]);
            }
        }
    }
}

/* A word of ours that outlives the file's line. */
static const char *keep(struct script *script, struct slice text)
{
    size_t start = script->words.len;
    buf_put(&script->words, text);
    buf_put_byte(&script->words, '\0');
    assert_false(script->words.overflow);
    return (const char *)script->words.data + start;
}

static struct slice next_word(struct slice *rest)
{
    size_t blank = slice_find(*rest, ' ');
    struct slice word = slice_head(*rest, blank);
    *rest = slice_tail(*rest, blank + 1);
    return word;
}

static uint64_t number_of(struct slice text)
{
    uint64_t value = 0;
    assert_true(u64_parse(text, &value));
    return value;
}

static struct owner_answer read_refusal(struct script *script, struct slice rest)
{
    struct owner_answer answer = {.kind = OWNER_REFUSE};
    answer.code = (uint16_t)number_of(next_word(&rest));
    answer.enhanced = keep(script, next_word(&rest));
    answer.text = rest.len > 0 ? keep(script, rest) : NULL;
    return answer;
}

static struct owner_answer read_answer(struct script *script, const struct line *line)
{
    struct slice rest = line->text;
    struct slice kind = next_word(&rest);
    if (slice_equal(kind, SLICE("refuse"))) {
        return read_refusal(script, rest);
    }
    struct owner_answer answer = {.text = rest.len > 0 ? keep(script, rest) : NULL};
    if (slice_equal(kind, SLICE("challenge"))) {
        answer.kind = OWNER_CHALLENGE;
        answer.text = keep(script, rest);
    } else if (!slice_equal(kind, SLICE("accept"))) {
        fail_at(script, line->number, "accept, refuse or challenge?");
    }
    return answer;
}

static void set_up(struct script *script, const struct line *line)
{
    struct slice rest = line->text;
    struct slice key = next_word(&rest);
    struct smtp_server_limits *limits = &script->owner.limits;
    struct {
        struct slice key;
        bool *flag;
        uint32_t *number;
    } const keys[] = {
        {SLICE("starttls"), &limits->starttls, NULL},
        {SLICE("auth-only-over-tls"), &limits->auth_only_over_tls, NULL},
        {SLICE("mail-needs-auth"), &limits->mail_needs_auth, NULL},
        {SLICE("chunking"), &limits->chunking, NULL},
        {SLICE("reject-bare-breaks"), &limits->reject_bare_breaks, NULL},
        {SLICE("recipients"), NULL, &limits->recipients_max},
        {SLICE("errors"), NULL, &limits->errors_max},
        {SLICE("received"), NULL, &limits->received_max},
    };
    for (size_t index = 0; index < sizeof keys / sizeof keys[0]; index++) {
        if (!slice_equal(key, keys[index].key)) {
            continue;
        }
        if (keys[index].flag != NULL) {
            *keys[index].flag = true;
        } else {
            *keys[index].number = (uint32_t)number_of(rest);
        }
        return;
    }
    if (slice_equal(key, SLICE("auth"))) {
        limits->auth_mechanisms = keep(script, rest);
    } else if (slice_equal(key, SLICE("size"))) {
        limits->size_max = number_of(rest);
    } else if (slice_equal(key, SLICE("refuse-greeting"))) {
        script->greeting = read_refusal(script, rest);
        script->owner.refuse_greeting = &script->greeting;
    } else {
        fail_at(script, line->number, "an unknown setting");
    }
}

/* The n-th E line that asks is the n-th event that asks; an A line belongs to the one above it. */
static bool note_asks(struct slice note)
{
    static const char *const asking[] = {"mail ",    "rcpt ", "begin",   "end ",
                                         "starttls", "auth ", "response"};
    for (size_t index = 0; index < sizeof asking / sizeof asking[0]; index++) {
        if (slice_starts_with(note, slice_from_str(asking[index]))) {
            return true;
        }
    }
    return false;
}

static void read_line(struct script *script, struct slice text, unsigned number,
                      size_t *asked_count)
{
    struct line line = {.kind = (char)text.data[0], .repeat = 1, .number = number};
    if (line.kind == '!') {
        line.text = slice_trim(slice_tail(text, 1));
        set_up(script, &line);
        return;
    }
    size_t colon = slice_find(text, ':');
    if (colon == text.len || strchr("SCcEATXH", line.kind) == NULL) {
        fail_at(script, number, "not a line of a transcript");
    }
    if (colon > 1) {
        line.repeat = (unsigned)number_of(slice_of(text.data + 2, colon - 2));
    }
    text = slice_tail(text, colon + 1);
    line.text = text.len > 0 && text.data[0] == ' ' ? slice_tail(text, 1) : text;
    if (line.kind == 'E' && note_asks(line.text)) {
        *asked_count += line.repeat;
    }
    if (line.kind == 'A') {
        assert_true(*asked_count > 0 && *asked_count <= OWNER_ANSWERS_MAX);
        script->owner.answers[*asked_count - 1] = read_answer(script, &line);
        return;
    }
    if (line.kind == 'C' || line.kind == 'c') {
        size_t start = script->words.len;
        unescape(&script->words, line.text);
        if (line.kind == 'C') {
            buf_put(&script->words, SLICE("\r\n"));
        }
        assert_false(script->words.overflow);
        line.text = slice_of(script->words.data + start, script->words.len - start);
        line.kind = 'C';
    }
    assert_true(script->line_count < SCRIPT_MAX);
    script->lines[script->line_count++] = line;
}

static void read_script(struct script *script, const char *path)
{
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    size_t len = fread(script->file, 1, sizeof script->file, file);
    assert_true(len < sizeof script->file);
    fclose(file);
    script->path = path;
    script->owner.limits = owner_limits();
    buf_init(&script->words, script->words_memory, sizeof script->words_memory);
    struct slice rest = slice_of(script->file, len);
    size_t asked_count = 0;
    for (unsigned number = 1; rest.len > 0; number++) {
        size_t end = slice_find(rest, '\n');
        struct slice text = slice_head(rest, end);
        rest = slice_tail(rest, end + 1);
        if (text.len > 0 && text.data[0] != '#') {
            read_line(script, text, number, &asked_count);
        }
    }
}

/* ---- playing ---- */

static struct law_trace trace;
static struct law_trace expected;

static bool is_turn(char kind)
{
    return kind == 'T' || kind == 'X' || kind == 'H';
}

static void take_turn(struct script *script, const struct law_subject *m, const struct line *line,
                      uint64_t *now_ms)
{
    (void)law_settle(m, LAW_SEND_AT_ONCE, *now_ms, &trace);
    switch (line->kind) {
    case 'T':
        if (script->owner.s.state != SMTP_SERVER_TLS) {
            fail_at(script, line->number, "the server does not wait for a handshake");
        }
        smtp_server_tls_started(&script->owner.s, *now_ms);
        break;
    case 'X':
        *now_ms += number_of(line->text);
        smtp_server_expire(&script->owner.s, *now_ms);
        break;
    default:
        smtp_server_shutdown(&script->owner.s);
        break;
    }
    (void)law_settle(m, LAW_SEND_AT_ONCE, *now_ms, &trace);
}

static void expect_line(const struct script *script, const struct line *line, struct buf *got,
                        size_t *at, const char *end)
{
    for (unsigned count = 0; count < line->repeat; count++) {
        struct slice rest = slice_tail(buf_slice(got), *at);
        struct slice tail = slice_tail(rest, line->text.len);
        if (!slice_starts_with(rest, line->text) || !slice_starts_with(tail, slice_from_str(end))) {
            print_error("%s:%u: instead of \"%.*s\" comes\n%.*s\n", script->path, line->number,
                        (int)line->text.len, (const char *)line->text.data,
                        (int)size_min(rest.len, 300), rest.len > 0 ? (const char *)rest.data : "");
            fail();
        }
        *at += line->text.len + strlen(end);
    }
}

/* As a client that waits for each answer. */
static void play_line_by_line(struct script *script, const struct law_subject *m)
{
    uint64_t now_ms = LAW_NOW_MS;
    size_t said = 0;
    size_t told = 0;
    law_trace_init(&trace);
    m->reset(m->ctx, now_ms);
    (void)law_settle(m, LAW_SEND_AT_ONCE, now_ms, &trace);
    for (size_t index = 0; index < script->line_count; index++) {
        const struct line *line = &script->lines[index];
        if (line->kind == 'C') {
            for (unsigned count = 0; count < line->repeat; count++) {
                (void)law_feed(m, line->text, LAW_SEND_AT_ONCE, now_ms, &trace);
            }
        } else if (line->kind == 'S') {
            expect_line(script, line, &trace.output, &said, "\r\n");
        } else if (line->kind == 'E') {
            expect_line(script, line, &trace.notes, &told, "\n");
        } else {
            take_turn(script, m, line, &now_ms);
        }
    }
    if (said < trace.output.len || told < trace.notes.len) {
        law_show("said, and not expected", slice_tail(buf_slice(&trace.output), said));
        law_show("told, and not expected", slice_tail(buf_slice(&trace.notes), told));
        fail_at(script, 0, "more than expected");
    }
}

/* All of the client's bytes in one stream, cut at cut and then every stride bytes. */
static void play_stream(struct script *script, const struct law_subject *m, size_t cut,
                        size_t stride)
{
    static uint8_t memory[STREAM_MAX];
    struct buf stream;
    uint64_t now_ms = LAW_NOW_MS;
    size_t before = 0;
    law_trace_init(&trace);
    m->reset(m->ctx, now_ms);
    for (size_t index = 0; index < script->line_count;) {
        buf_init(&stream, memory, sizeof memory);
        for (; index < script->line_count && !is_turn(script->lines[index].kind); index++) {
            for (unsigned count = 0; count < script->lines[index].repeat; count++) {
                if (script->lines[index].kind == 'C') {
                    buf_put(&stream, script->lines[index].text);
                }
            }
        }
        assert_false(stream.overflow);
        struct slice rest = buf_slice(&stream);
        while (rest.len > 0) {
            size_t len = before < cut ? cut - before : stride - (before - cut) % stride;
            struct slice piece = slice_head(rest, len);
            (void)law_feed(m, piece, LAW_SEND_AT_ONCE, now_ms, &trace);
            before += piece.len;
            rest = slice_tail(rest, piece.len);
        }
        if (index < script->line_count) {
            take_turn(script, m, &script->lines[index++], &now_ms);
        }
    }
    (void)law_settle(m, LAW_SEND_AT_ONCE, now_ms, &trace);
}

static size_t stream_bytes(const struct script *script)
{
    size_t bytes = 0;
    for (size_t index = 0; index < script->line_count; index++) {
        if (script->lines[index].kind == 'C') {
            bytes += script->lines[index].repeat * script->lines[index].text.len;
        }
    }
    return bytes;
}

static void require_expected(const struct law_subject *m, size_t cut, size_t stride)
{
    expected.used = trace.used; /* lines behind the end are dropped in other portions */
    law_require_equal(m, &expected, &trace, cut, stride);
}

static void play(struct script *script)
{
    struct law_subject m = owner_law_subject(&script->owner);
    m.name = script->path;
    play_line_by_line(script, &m);
    law_trace_init(&expected);
    buf_put(&expected.notes, buf_slice(&trace.notes));
    buf_put(&expected.output, buf_slice(&trace.output));
    size_t bytes = stream_bytes(script);
    play_stream(script, &m, bytes, bytes + 1);
    require_expected(&m, bytes, bytes + 1);
    play_stream(script, &m, 1, 1);
    require_expected(&m, 1, 1);
    for (size_t cut = 1; cut < bytes; cut += bytes / CUTS_MAX + 1) {
        play_stream(script, &m, cut, bytes);
        require_expected(&m, cut, bytes);
    }
    owner_end(&script->owner);
}

static void plays_all_transcripts(void **state)
{
    (void)state;
    glob_t found;
    const char *pattern = getenv("TASUKI_DIALOGS");
    assert_int_equal(glob(pattern != NULL ? pattern : "tests/dialog/*.txt", 0, NULL, &found), 0);
    for (size_t index = 0; index < found.gl_pathc; index++) {
        struct script *script = calloc(1, sizeof *script);
        assert_non_null(script);
        read_script(script, found.gl_pathv[index]);
        play(script);
        free(script);
    }
    print_message("%zu transcripts\n", found.gl_pathc);
    globfree(&found);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plays_all_transcripts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
