/* The rows of event.def as an enumeration, and the one way to begin a log line. */
#ifndef TASUKI_SCHEMA_EVENT_H
#define TASUKI_SCHEMA_EVENT_H

#include "daemon/base/log.h"
#include "schema/msg_id.h"

enum event {
#define X(name, word, level, fields, when) EVENT_##name,
#include "schema/event.def"
#undef X
    EVENT_COUNT
};

void event_begin(struct log_line *line, const struct log *log, enum event event);

/* The field id of an event about one message. */
void event_put_id(struct log_line *line, const struct msg_id *id);

#endif
