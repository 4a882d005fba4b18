#include "schema/outcome.h"

static const struct outcome_row rows[OUTCOME_COUNT] = {
#define X(name, word, action, first, longest, sentence, hint)                                      \
    [OUTCOME_##name] = {                                                                           \
        (word), OUTCOME_ACTION_##action, 1000u * (first), 1000u * (longest), (sentence), (hint)},
#include "schema/outcome.def"
#undef X
};

const struct outcome_row *outcome_row(enum outcome outcome)
{
    return &rows[(unsigned)outcome < OUTCOME_COUNT ? outcome : OUTCOME_NONE];
}
