/* The rows of outcome.def as an enumeration, and what each of them means. */
#ifndef TASUKI_SCHEMA_OUTCOME_H
#define TASUKI_SCHEMA_OUTCOME_H

#include "daemon/base/slice.h"

enum outcome_action {
    OUTCOME_ACTION_DONE,
    OUTCOME_ACTION_RETRY,
    OUTCOME_ACTION_REPORT,
    OUTCOME_ACTION_UPSTREAM
};

enum outcome {
#define X(name, word, action, first, longest, sentence, hint) OUTCOME_##name,
#include "schema/outcome.def"
#undef X
    OUTCOME_COUNT
};

struct outcome_row {
    const char *word;
    enum outcome_action action;
    uint32_t wait_ms_first; /* before the second try; 0: retry-min */
    uint32_t wait_ms_max;   /* between two tries; 0: retry-max */
    const char *sentence;
    const char *hint;
};

/* Never NULL; a value from a newer version reads as NONE. */
const struct outcome_row *outcome_row(enum outcome outcome);

#endif
