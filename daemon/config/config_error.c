/*
 * Complaints: collected, sorted, shown. Nothing of the file reaches a message but through
 * config_quote.
 */
#include "daemon/base/text.h"
#include "daemon/config/config_private.h"

#include <stdarg.h>
#include <stdio.h>

void config_report(struct config_errors *errors, struct config_place place, const char *fix,
                   const char *format, ...)
{
    if (errors->count == CONFIG_ERRORS_MAX) {
        struct config_error *last = &errors->items[CONFIG_ERRORS_MAX - 1];
        *last = (struct config_error){.message = "there are more errors than are shown here",
                                      .fix = "mend those above, then check again"};
        return;
    }
    struct config_error *error = &errors->items[errors->count++];
    *error = (struct config_error){.line = place.line, .column = place.column};
    va_list args;
    va_start(args, format);
    (void)vsnprintf(error->message, sizeof error->message, format, args);
    va_end(args);
    (void)snprintf(error->fix, sizeof error->fix, "%s", fix);
}

static bool error_is_before(const struct config_error *a, const struct config_error *b)
{
    if (a->line == 0 || b->line == 0) {
        return a->line != 0 && b->line == 0;
    }
    return a->line < b->line || (a->line == b->line && a->column < b->column);
}

/* By insertion: it is stable, and there are at most CONFIG_ERRORS_MAX. */
void config_errors_sort(struct config_errors *errors)
{
    for (uint32_t index = 1; index < errors->count; index++) {
        struct config_error moved = errors->items[index];
        uint32_t to = index;
        while (to > 0 && error_is_before(&moved, &errors->items[to - 1])) {
            errors->items[to] = errors->items[to - 1];
            to--;
        }
        errors->items[to] = moved;
    }
}

struct config_quote config_quote(struct slice text)
{
    struct config_quote quote = {.text = ""};
    struct buf to;
    buf_init(&to, quote.text, sizeof quote.text - sizeof "...\"");
    buf_put_byte(&to, '"');
    bool cut = false;
    while (text.len > 0 && !cut) {
        uint32_t code = 0;
        size_t len = text_utf8_len(text, &code);
        /* The longest escape, four bytes as \xNN, has to fit whole. */
        cut = buf_room(&to) < 16;
        if (!cut) {
            text_put_escaped(&to, slice_head(text, len == 0 ? 1 : len));
            text = slice_tail(text, len == 0 ? 1 : len);
        }
    }
    to.cap = sizeof quote.text - 1;
    buf_put_str(&to, cut ? "...\"" : "\"");
    return quote;
}

/* Letters that a shell leaves alone. */
static bool word_is_plain(const char *word)
{
    return word[0] != '\0' && word[0] != '-' &&
           word[strspn(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                             "/._-+:@,=%")] == '\0';
}

void config_fix_command(char fix[200], const char *command, const char *file)
{
    struct buf to;
    buf_init(&to, fix, 199);
    buf_put_str(&to, command);
    buf_put_byte(&to, ' ');
    if (word_is_plain(file)) {
        buf_put_str(&to, file);
    } else {
        buf_put_byte(&to, '\'');
        for (; *file != '\0'; file++) {
            /* A quote inside quotes: end them, a quoted quote, begin again. */
            buf_put_str(&to, *file == '\'' ? "'\\''" : (const char[2]){*file, '\0'});
        }
        buf_put_byte(&to, '\'');
    }
    if (to.overflow) {
        buf_reset(&to);
        buf_put_str(&to, command);
        buf_put_str(&to, " FILE, with the file named above");
    }
    fix[to.len] = '\0';
}

void config_error_put(struct buf *to, const char *file, const struct config_error *error)
{
    text_put_escaped(to, slice_from_str(file));
    buf_put_byte(to, ':');
    if (error->line > 0) {
        buf_printf(to, "%u:%u:", (unsigned)error->line, (unsigned)error->column);
    }
    buf_put_byte(to, ' ');
    buf_put_str(to, error->message);
    buf_put_byte(to, '\n');
    if (error->fix[0] != '\0') {
        buf_put_str(to, "  to mend it: ");
        buf_put_str(to, error->fix);
        buf_put_byte(to, '\n');
    }
}
