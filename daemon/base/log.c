#include "daemon/base/log.h"

#include "daemon/base/text.h"

/* Kept free at the end, so that a cut field can still be closed: `..."`. */
#define CUT_MARK SLICE("...\"")

void log_begin(struct log_line *line, const struct log *log, enum log_level level,
               const char *event)
{
    static const char *const level_words[] = {"error", "warning", "notice", "info", "debug"};
    line->log = log != NULL && level <= log->level ? log : NULL;
    line->level = level;
    if (line->log == NULL) {
        return;
    }
    buf_init(&line->text, line->memory, sizeof line->memory - CUT_MARK.len);
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

void log_put_u64(struct log_line *line, const char *key, uint64_t value)
{
    if (line->log != NULL) {
        put_key(line, key);
        buf_put_u64(&line->text, value);
    }
}

void log_put_word(struct log_line *line, const char *key, const char *value)
{
    if (line->log != NULL) {
        put_key(line, key);
        buf_put_str(&line->text, value);
    }
}

void log_put_text(struct log_line *line, const char *key, struct slice value)
{
    if (line->log == NULL) {
        return;
    }
    put_key(line, key);
    buf_put_byte(&line->text, '"');
    text_put_escaped(&line->text, value);
    if (line->text.overflow) {
        line->text.overflow = false;
        line->text.cap += CUT_MARK.len;
        buf_put(&line->text, CUT_MARK);
        line->text.cap = line->text.len; /* nothing may follow what was cut */
    } else {
        buf_put_byte(&line->text, '"');
    }
}

void log_end(struct log_line *line)
{
    if (line->log != NULL) {
        line->log->write(line->log->ctx, line->level, buf_slice(&line->text));
    }
}
