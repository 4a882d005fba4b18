/*
 * One event as one logfmt line: fixed words first, a peer's text last, quoted and escaped.
 * Formatting only: where lines go, and when it is, belong to whoever fills struct log in
 * (daemon/logger.c).
 *
 *     struct log_line line;
 *     log_begin(&line, log, LOG_INFO, "delivered");
 *     log_put_text(&line, "id", id);
 *     log_end(&line);
 *
 * A line never exceeds LOG_LINE_BYTES_MAX. The first field that does not fit ends it: a text is cut
 * and marked (`reply="550 5.7...."`), anything else is left out (` ...`); later fields are dropped.
 */
#ifndef TASUKI_BASE_LOG_H
#define TASUKI_BASE_LOG_H

#include "daemon/base/buf.h"
#include "daemon/base/limits.h"

enum log_level { LOG_ERROR, LOG_WARNING, LOG_NOTICE, LOG_INFO, LOG_DEBUG };

/* Takes one line without its newline; called from any thread. */
typedef void log_write_fn(void *ctx, enum log_level level, struct slice line);

struct log {
    log_write_fn *write;
    void *ctx;            /* borrowed, for the life of the process */
    enum log_level level; /* lines above it are not formatted at all */
};

struct log_line {
    const struct log *log; /* NULL when the line is not wanted */
    enum log_level level;
    struct buf text;
    uint8_t memory[LOG_LINE_BYTES_MAX];
};

void log_begin(struct log_line *line, const struct log *log, enum log_level level,
               const char *event);
void log_put_u64(struct log_line *line, const char *key, uint64_t value);
/* A word of ours: no blanks, no quotes needed. */
void log_put_word(struct log_line *line, const char *key, const char *value);
/* Anybody's text: quoted and escaped. */
void log_put_text(struct log_line *line, const char *key, struct slice value);
void log_end(struct log_line *line);

#endif
