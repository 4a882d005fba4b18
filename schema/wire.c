#include "schema/wire.h"

#include "daemon/base/text.h"

static const struct command_row rows[COMMAND_COUNT] = {
#define X(name, word, scope, args, doc)                                                            \
    [COMMAND_##name] = {(word), COMMAND_SCOPE_##scope, (args), (doc)},
#include "schema/command.def"
#undef X
};

static const char *const command_words[COMMAND_COUNT] = {
#define X(name, word, scope, args, doc) [COMMAND_##name] = (word),
#include "schema/command.def"
#undef X
};

static const char *const error_words[WIRE_ERROR_COUNT] = {
#define X(name, word) [WIRE_ERROR_##name] = (word),
    WIRE_ERROR_ROWS(X)
#undef X
};

const struct command_row *command_row(enum command command)
{
    CHECK((unsigned)command < COMMAND_COUNT);
    return &rows[command];
}

bool command_find(struct slice word, enum command *out)
{
    for (size_t index = 0; index < COMMAND_COUNT; index++) {
        if (slice_equal(word, slice_from_str(command_words[index]))) {
            *out = (enum command)index;
            return true;
        }
    }
    return false;
}

const char *command_nearest(struct slice word)
{
    return text_nearest(word, command_words, COMMAND_COUNT);
}

const char *command_scope_word(enum command_scope scope)
{
    static const char *const words[] = {"read", "operate", "admin"};
    CHECK((unsigned)scope < sizeof words / sizeof words[0]);
    return words[scope];
}

const char *wire_error_word(enum wire_error error)
{
    CHECK((unsigned)error < WIRE_ERROR_COUNT);
    return error_words[error];
}

bool wire_error_find(struct slice word, enum wire_error *out)
{
    for (size_t index = 0; index < WIRE_ERROR_COUNT; index++) {
        if (slice_equal(word, slice_from_str(error_words[index]))) {
            *out = (enum wire_error)index;
            return true;
        }
    }
    return false;
}
