#include "schema/outcome.h"

static const struct outcome_row rows[OUTCOME_COUNT] = {
#define X(name, word, action, sentence, hint)                                                      \
    [OUTCOME_##name] = {(word), OUTCOME_ACTION_##action, (sentence), (hint)},
#include "schema/outcome.def"
#undef X
};

const struct outcome_row *outcome_row(enum outcome outcome)
{
    return &rows[(unsigned)outcome < OUTCOME_COUNT ? outcome : OUTCOME_NONE];
}
