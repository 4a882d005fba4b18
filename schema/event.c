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

void event_put_id(struct log_line *line, const struct msg_id *id)
{
    uint8_t memory[MSG_ID_TEXT_BYTES];
    struct buf text;
    buf_init(&text, memory, sizeof memory);
    msg_id_put_text(&text, id);
    log_put_text(line, "id", buf_slice(&text));
}
