/*
 * Everything that reaches a terminal goes through here: escaped, wrapped to its width, coloured
 * only where somebody looks, and never by colour alone.
 */
#include "ctl/ctl.h"

#include "daemon/base/num.h"
#include "daemon/base/text.h"
#include "daemon/base/when.h"

#include <stdarg.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>
#include <wchar.h>

#define WIDTH_UNKNOWN 80
#define WIDTH_MIN     40
#define LABEL_COLUMNS 14
#define PIECE_BYTES   1024

#define TODO_LINE_BYTES_MAX 2000

/* Escaping makes at most four bytes of one. */
#define ESCAPED_BYTES_MAX(bytes) (4 * (bytes))

static size_t terminal_width(void)
{
    struct winsize size = {0};
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
        return size.ws_col < WIDTH_MIN ? WIDTH_MIN : size.ws_col;
    }
    const char *columns = getenv("COLUMNS");
    uint64_t number = 0;
    if (columns != NULL && u64_parse(slice_from_str(columns), &number) && number >= WIDTH_MIN &&
        number <= 10000) {
        return (size_t)number;
    }
    return WIDTH_UNKNOWN;
}

void ctl_say_init(struct ctl *c)
{
    const char *no_colour = getenv("NO_COLOR");
    const char *term = getenv("TERM");
    c->terminal = isatty(STDOUT_FILENO) == 1;
    c->colours = c->terminal && (no_colour == NULL || no_colour[0] == '\0') &&
                 (term == NULL || strcmp(term, "dumb") != 0);
    c->width = c->terminal ? terminal_width() : 0;
}

/* ---- problems ---- */

void ctl_problem_set(struct ctl_problem *p, enum ctl_exit code, const char *word,
                     const char *format, ...)
{
    char message[sizeof p->message];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(message, sizeof message, format, args);
    va_end(args);
    *p = (struct ctl_problem){.exit = code};
    (void)snprintf(p->code, sizeof p->code, "%s", word);
    memcpy(p->message, message, sizeof message);
}

void ctl_problem_hint(struct ctl_problem *p, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)vsnprintf(p->hint, sizeof p->hint, format, args);
    va_end(args);
}

json_t *ctl_json_bytes(struct slice text)
{
    size_t cap = 6 * text.len + 2; /* \u00NN is the longest form of a byte */
    char *quoted = malloc(cap);
    CHECK(quoted != NULL);
    struct buf b;
    buf_init(&b, quoted, cap);
    text_put_json(&b, text);
    json_t *value = json_loadb(quoted, b.len, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    CHECK(value != NULL);
    free(quoted);
    return value;
}

json_t *ctl_json_words(const char *text)
{
    return ctl_json_bytes(slice_from_str(text));
}

static void put_json_line(FILE *to, const json_t *value)
{
    char *text = json_dumps(value, JSON_COMPACT | JSON_ENSURE_ASCII);
    CHECK(text != NULL);
    fprintf(to, "%s\n", text);
    free(text);
}

void ctl_say_json(const json_t *value)
{
    put_json_line(stdout, value);
}

enum ctl_exit ctl_say_problem(const struct ctl *c, const struct ctl_problem *p)
{
    (void)fflush(stdout);
    if (c->args.json) {
        json_t *object = json_pack("{s:i,s:b,s:{s:s,s:o,s:o}}", "schema", WIRE_SCHEMA_VERSION, "ok",
                                   0, "error", "code", p->code, "message",
                                   ctl_json_words(p->message), "hint", ctl_json_words(p->hint));
        put_json_line(stderr, object);
        json_decref(object);
        return p->exit;
    }
    fputs("tasukictl: ", stderr);
    ctl_say_words(stderr, slice_from_str(p->message));
    if (p->hint[0] != '\0') {
        fputs("\n  next: ", stderr);
        ctl_say_words(stderr, slice_from_str(p->hint));
    }
    fputc('\n', stderr);
    return p->exit;
}

void ctl_say_notice(const struct ctl *c, const char *message, const char *hint)
{
    if (c->args.json) {
        json_t *object =
            json_pack("{s:i,s:{s:o,s:o}}", "schema", WIRE_SCHEMA_VERSION, "notice", "message",
                      ctl_json_words(message), "hint", ctl_json_words(hint));
        put_json_line(stderr, object);
        json_decref(object);
        return;
    }
    fputs("tasukictl: ", stderr);
    ctl_say_words(stderr, slice_from_str(message));
    if (hint[0] != '\0') {
        fputs("; next: ", stderr);
        ctl_say_words(stderr, slice_from_str(hint));
    }
    fputc('\n', stderr);
}

/* ---- text ---- */

/* The head of s, at most PIECE_BYTES, that does not end inside a character. */
static struct slice piece_of(struct slice s)
{
    struct slice piece = slice_head(s, PIECE_BYTES);
    for (size_t back = 0; piece.len < s.len && back < 3 && (s.data[piece.len] & 0xc0) == 0x80;
         back++) {
        piece.len--;
    }
    return piece;
}

void ctl_say_escaped(FILE *to, struct slice text)
{
    uint8_t memory[ESCAPED_BYTES_MAX(PIECE_BYTES)];
    while (text.len > 0) {
        struct slice piece = piece_of(text);
        struct buf b;
        buf_init(&b, memory, sizeof memory);
        text_put_escaped(&b, piece);
        (void)fwrite(b.data, 1, b.len, to);
        text = slice_tail(text, piece.len);
    }
}

/* text_put_escaped, but for quotes and backslashes: the sentence may hold text that its writer has
 * escaped already. */
static void put_words(struct buf *to, struct slice text)
{
    while (text.len > 0) {
        size_t plain = size_min(slice_find(text, '"'), slice_find(text, '\\'));
        text_put_escaped(to, slice_head(text, plain));
        text = slice_tail(text, plain);
        if (text.len > 0) {
            buf_put_byte(to, text.data[0]);
            text = slice_tail(text, 1);
        }
    }
}

void ctl_say_words(FILE *to, struct slice text)
{
    uint8_t memory[ESCAPED_BYTES_MAX(PIECE_BYTES)];
    while (text.len > 0) {
        struct slice piece = piece_of(text);
        struct buf b;
        buf_init(&b, memory, sizeof memory);
        put_words(&b, piece);
        (void)fwrite(b.data, 1, b.len, to);
        text = slice_tail(text, piece.len);
    }
}

/* Columns that escaped text takes. */
static size_t columns_of(struct slice text)
{
    size_t columns = 0;
    while (text.len > 0) {
        uint32_t code = 0;
        size_t len = text_utf8_len(text, &code);
        int width = len == 0 ? 1 : wcwidth((wchar_t)code);
        columns += width < 0 ? 1 : (size_t)width;
        text = slice_tail(text, len == 0 ? 1 : len);
    }
    return columns;
}

/* Words of escaped text, filled into lines: the first begins at column `at`, the others at
 * `indent`. */
static void put_filled(const struct ctl *c, size_t at, size_t indent, struct slice text)
{
    bool first_of_line = true;
    while (text.len > 0) {
        size_t len = slice_find(text, ' ');
        struct slice word = slice_head(text, len);
        size_t columns = columns_of(word);
        text = slice_tail(text, len + 1);
        if (!first_of_line && c->width > 0 && at + 1 + columns > c->width) {
            printf("\n%*s", (int)indent, "");
            at = indent;
            first_of_line = true;
        }
        if (!first_of_line) {
            putchar(' ');
            at++;
        }
        (void)fwrite(word.data, 1, word.len, stdout);
        at += columns;
        first_of_line = false;
    }
    putchar('\n');
}

typedef void put_fn(struct buf *to, struct slice text);

static void put_wrapped(const struct ctl *c, size_t at, size_t indent, struct slice text,
                        put_fn *put)
{
    size_t cap = ESCAPED_BYTES_MAX(text.len) + 1;
    uint8_t *memory = malloc(cap);
    CHECK(memory != NULL);
    struct buf b;
    buf_init(&b, memory, cap);
    put(&b, text);
    put_filled(c, at, indent, buf_slice(&b));
    free(memory);
}

static void say_fact(const struct ctl *c, const char *label, struct slice text, put_fn *put)
{
    size_t columns = columns_of(slice_from_str(label));
    size_t column = columns + 2 > LABEL_COLUMNS ? columns + 2 : LABEL_COLUMNS;
    fputs(label, stdout);
    printf("%*s", (int)(column - columns), "");
    put_wrapped(c, column, column, text, put);
}

void ctl_say_fact(const struct ctl *c, const char *label, struct slice text)
{
    say_fact(c, label, text, put_words);
}

void ctl_say_fact_escaped(const struct ctl *c, const char *label, struct slice text)
{
    say_fact(c, label, text, text_put_escaped);
}

void ctl_say_member(const struct ctl *c, const char *label, const json_t *object, const char *key)
{
    struct slice text = ctl_json_text(object, key);
    if (text.len > 0) {
        ctl_say_fact_escaped(c, label, text);
    }
}

void ctl_say_reply(const struct ctl *c, const char *label, const json_t *object)
{
    char text[SMTP_REPLY_TEXT_BYTES_MAX + 32];
    struct buf b;
    buf_init(&b, text, sizeof text);
    if (ctl_json_u64(object, "code") > 0) {
        buf_printf(&b, "%llu ", (unsigned long long)ctl_json_u64(object, "code"));
    }
    buf_put(&b, slice_head(ctl_json_text(object, "text"), SMTP_REPLY_TEXT_BYTES_MAX));
    if (b.len > 0) {
        ctl_say_fact_escaped(c, label, buf_slice(&b));
    }
}

void ctl_say_wrapped(const struct ctl *c, size_t indent, struct slice text)
{
    printf("%*s", (int)indent, "");
    put_wrapped(c, indent, indent, text, put_words);
}

/* Where it stands; CTL_TODO_MAX: nowhere, and there is no room. */
static uint32_t todo_place(struct ctl_todo *todo, struct slice line)
{
    uint32_t index = 0;
    while (index < todo->count && !slice_equal(todo->items[index].line, line)) {
        index++;
    }
    if (index == todo->count && todo->count < CTL_TODO_MAX) {
        todo->items[todo->count++].line = line;
    }
    return index;
}

void ctl_todo_add(struct ctl_todo *todo, struct slice line)
{
    if (line.len > 0) {
        (void)todo_place(todo, line);
    }
}

void ctl_todo_add_upstreams(struct ctl_todo *todo, const json_t *upstreams)
{
    size_t index;
    json_t *u;
    json_array_foreach(upstreams, index, u)
    {
        struct slice line = ctl_json_text(u, "hint"), name = ctl_json_text(u, "name");
        uint32_t at = line.len > 0 ? todo_place(todo, line) : CTL_TODO_MAX;
        if (at < CTL_TODO_MAX && json_array_size(upstreams) > 1 && name.len > 0 &&
            todo->items[at].name_count < UPSTREAMS_MAX) {
            todo->items[at].names[todo->items[at].name_count++] = name;
        }
    }
}

static void todo_print_item(const struct ctl *c, const struct ctl_todo *todo, uint32_t at)
{
    char text[UPSTREAMS_MAX * (UPSTREAM_NAME_BYTES_MAX + 2) + TODO_LINE_BYTES_MAX];
    struct buf b;
    buf_init(&b, text, sizeof text);
    for (uint32_t index = 0; index < todo->items[at].name_count; index++) {
        buf_put_str(&b, index > 0 ? ", " : "");
        buf_put(&b, slice_head(todo->items[at].names[index], UPSTREAM_NAME_BYTES_MAX));
    }
    buf_put_str(&b, b.len > 0 ? ": " : "");
    buf_put(&b, slice_head(todo->items[at].line, TODO_LINE_BYTES_MAX));
    ctl_say_wrapped(c, 2, buf_slice(&b));
}

void ctl_todo_print(const struct ctl *c, const struct ctl_todo *todo)
{
    if (todo->count > 0) {
        printf("\nWhat to do:\n");
    }
    for (uint32_t index = 0; index < todo->count; index++) {
        todo_print_item(c, todo, index);
    }
}

const char *ctl_colour_on(const struct ctl *c, enum ctl_colour colour)
{
    static const char *const sequences[] = {
        [CTL_PLAIN] = "",         [CTL_GOOD] = "\033[32m",  [CTL_WARN] = "\033[33m",
        [CTL_BAD] = "\033[31;1m", [CTL_STRONG] = "\033[1m",
    };
    return c->colours ? sequences[colour] : "";
}

const char *ctl_colour_off(const struct ctl *c, enum ctl_colour colour)
{
    return c->colours && colour != CTL_PLAIN ? "\033[0m" : "";
}

/* ---- sizes and times ---- */

void ctl_put_size(struct buf *to, uint64_t bytes)
{
    static const char units[] = "KMGTPE";
    if (bytes < 1024) {
        buf_printf(to, "%llu B", (unsigned long long)bytes);
        return;
    }
    /* Tenths of the unit, rounded down as a file's size is by most tools; no overflow: the divisor
     * grows instead of the number. */
    uint64_t unit = 1024;
    size_t index = 0;
    while (index + 1 < sizeof units - 1 && bytes / unit >= 1024) {
        unit *= 1024;
        index++;
    }
    uint64_t whole = bytes / unit;
    uint64_t tenths = bytes % unit / (unit / 1024) * 10 / 1024;
    if (whole < 10 && tenths > 0) {
        buf_printf(to, "%llu.%llu%c", (unsigned long long)whole, (unsigned long long)tenths,
                   units[index]);
    } else {
        buf_printf(to, "%llu%c", (unsigned long long)whole, units[index]);
    }
}

void ctl_put_age(struct buf *to, uint64_t span_ms)
{
    char text[CTL_SHORT_TEXT_BYTES];
    struct buf b;
    buf_init(&b, text, sizeof text);
    when_put_span(&b, span_ms);
    struct slice span = buf_slice(&b);
    size_t number = slice_find(span, ' ');
    size_t unit = slice_find(slice_tail(span, number + 1), ' ');
    buf_put(to, slice_head(span, number + 1 + unit));
}

void ctl_put_relative(struct buf *to, uint64_t at_ms, uint64_t now_ms, bool brief)
{
    uint64_t span = at_ms > now_ms ? at_ms - now_ms : now_ms - at_ms;
    if (span < 1000) {
        buf_put_str(to, "now");
        return;
    }
    buf_put_str(to, at_ms > now_ms ? "in " : "");
    if (brief) {
        ctl_put_age(to, span);
    } else {
        when_put_span(to, span);
    }
    buf_put_str(to, at_ms > now_ms ? "" : " ago");
}

void ctl_put_count(struct buf *to, uint64_t count, const char *one, const char *many)
{
    buf_put_u64(to, count);
    buf_put_byte(to, ' ');
    buf_put_str(to, count == 1 ? one : many);
}

uint64_t ctl_now_ms(void)
{
    struct timespec now;
    CHECK(clock_gettime(CLOCK_REALTIME, &now) == 0);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---- reading JSON ---- */

struct slice ctl_json_text(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return json_is_string(value) ? slice_of(json_string_value(value), json_string_length(value))
                                 : slice_of(NULL, 0);
}

uint64_t ctl_json_u64(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    json_int_t number = json_is_integer(value) ? json_integer_value(value) : 0;
    return number < 0 ? 0 : (uint64_t)number;
}

bool ctl_json_bool(const json_t *object, const char *key)
{
    return json_is_true(json_object_get(object, key));
}

json_t *ctl_json_with_schema(json_t *value)
{
    json_t *copy = json_pack("{s:i}", "schema", WIRE_SCHEMA_VERSION);
    CHECK(copy != NULL);
    if (json_is_object(value)) {
        CHECK(json_object_update_missing(copy, value) == 0);
    }
    return copy;
}
