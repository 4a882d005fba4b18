#include "daemon/base/log.h"

#include "daemon/base/text.h"

/*
 * Room for one mark is kept free at the end, so that what was cut can still be closed. Once a field
 * did not fit, text.overflow stays set, and nothing follows: a line's end is where it was cut.
 */
#define TEXT_CUT  SLICE("...\"")
#define FIELD_CUT SLICE(" ...")

_Static_assert(sizeof "...\"" == sizeof " ...", "one reserve for both marks");

void log_begin(struct log_line *line, const struct log *log, enum log_level level,
               const char *event)
{
    static const char *const level_words[] = {"error", "warning", "notice", "info", "debug"};
    line->log = log != NULL && level <= log->level ? log : NULL;
    line->level = level;
    if (line->log == NULL) {
        return;
    }
    buf_init(&line->text, line->memory, sizeof line->memory - TEXT_CUT.len);
    buf_put_str(&line->text, "level=");
    buf_put_str(&line->text, level_words[level]);
    buf_put_str(&line->text, " event=");
    buf_put_str(&line->text, event);
}

static void put_key(struct log_line *line, const char *key)
{
    buf_put_byte(&line->text, ' ');
    buf_put_str(&line->text, key);
    buf_put_byte(&line->text, '=');
}

/* Ends the line after its first len bytes with a mark, for which room was kept. */
static void cut(struct log_line *line, size_t len, struct slice mark)
{
    buf_init(&line->text, line->memory, sizeof line->memory);
    line->text.len = len;
    buf_put(&line->text, mark);
    CHECK(!line->text.overflow);
    line->text.overflow = true;
}

/* Is there still a line that something can be added to? */
static bool is_open(const struct log_line *line)
{
    return line->log != NULL && !line->text.overflow;
}

void log_put_u64(struct log_line *line, const char *key, uint64_t value)
{
    if (!is_open(line)) {
        return;
    }
    size_t len_before = line->text.len;
    put_key(line, key);
    buf_put_u64(&line->text, value);
    if (line->text.overflow) {
        cut(line, len_before, FIELD_CUT); /* half a number would be another number */
    }
}

void log_put_word(struct log_line *line, const char *key, const char *value)
{
    if (!is_open(line)) {
        return;
    }
    size_t len_before = line->text.len;
    put_key(line, key);
    buf_put_str(&line->text, value);
    if (line->text.overflow) {
        cut(line, len_before, FIELD_CUT);
    }
}

void log_put_text(struct log_line *line, const char *key, struct slice value)
{
    if (!is_open(line)) {
        return;
    }
    size_t len_before = line->text.len;
    put_key(line, key);
    buf_put_byte(&line->text, '"');
    if (line->text.overflow) {
        cut(line, len_before, FIELD_CUT);
        return;
    }
    text_put_escaped(&line->text, value);
    size_t len_of_text = line->text.len;
    buf_put_byte(&line->text, '"');
    if (line->text.overflow) {
        cut(line, len_of_text, TEXT_CUT);
    }
}

void log_end(struct log_line *line)
{
    if (line->log != NULL) {
        line->log->write(line->log->ctx, line->level, buf_slice(&line->text));
    }
}
