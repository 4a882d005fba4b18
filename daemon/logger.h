/*
 * Where log lines go: a bounded ring in memory, emptied to standard error by a thread of its own,
 * so that no stage ever waits for a full pipe. What does not fit is counted, and the count is
 * logged when there is room again.
 */
#ifndef TASUKI_LOGGER_H
#define TASUKI_LOGGER_H

#include "daemon/base/err.h"
#include "daemon/base/log.h"

struct logger;

/* Starts the thread. with_time: each line begins with time=...; the journal adds its own. Errors:
 * ERR_NO_MEMORY, ERR_LIMIT. */
MUST_CHECK enum err logger_start(struct logger **out, enum log_level level, bool with_time);

/* What stages are given. */
const struct log *logger_log(const struct logger *logger);

/* Writes what is left, for at most a second, and ends the thread. */
void logger_stop(struct logger **logger);

#endif
