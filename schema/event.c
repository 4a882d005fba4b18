#include "schema/event.h"

static const struct {
    const char *word;
    enum log_level level;
} rows[EVENT_COUNT] = {
#define X(name, word, level, fields, when) [EVENT_##name] = {(word), LOG_##level},
#include "schema/event.def"
#undef X
};

void event_begin(struct log_line *line, const struct log *log, enum event event)
{
    CHECK((unsigned)event < EVENT_COUNT);
    log_begin(line, log, rows[event].level, rows[event].word);
}
