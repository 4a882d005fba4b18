/* The table of legal moves. */
#include "schema/lifecycle.h"

#define TO(name) (1u << LIFECYCLE_##name)

/* An operator's retry makes a copy queued again, whatever it was; a release or an undelete gives it
 * back the state that it had. */
static const uint32_t next_of[LIFECYCLE_COUNT] = {
    [LIFECYCLE_QUEUED] = TO(SENDING) | TO(HELD) | TO(FAILED) | TO(TRASHED),
    [LIFECYCLE_SENDING] =
        TO(QUEUED) | TO(DEFERRED) | TO(IN_DOUBT) | TO(DELIVERED) | TO(FAILED) | TO(HELD),
    [LIFECYCLE_DEFERRED] = TO(SENDING) | TO(QUEUED) | TO(HELD) | TO(FAILED) | TO(TRASHED),
    [LIFECYCLE_IN_DOUBT] = TO(SENDING) | TO(QUEUED) | TO(HELD) | TO(FAILED) | TO(TRASHED),
    [LIFECYCLE_HELD] = TO(QUEUED) | TO(DEFERRED) | TO(IN_DOUBT) | TO(FAILED) | TO(TRASHED),
    [LIFECYCLE_DELIVERED] = 0,
    [LIFECYCLE_FAILED] = TO(QUEUED) | TO(HELD) | TO(TRASHED),
    [LIFECYCLE_TRASHED] = TO(QUEUED) | TO(DEFERRED) | TO(IN_DOUBT) | TO(HELD) | TO(FAILED),
};

static const struct {
    const char *word;
    const char *sentence;
} rows[LIFECYCLE_COUNT] = {
#define X(name, word, sentence) {word, sentence},
#include "schema/lifecycle.def"
#undef X
};

const char *lifecycle_word(enum lifecycle state)
{
    CHECK((unsigned)state < LIFECYCLE_COUNT);
    return rows[state].word;
}

const char *lifecycle_sentence(enum lifecycle state)
{
    CHECK((unsigned)state < LIFECYCLE_COUNT);
    return rows[state].sentence;
}

bool lifecycle_parse(struct slice word, enum lifecycle *out)
{
    for (unsigned state = 0; state < LIFECYCLE_COUNT; state++) {
        if (slice_equal(word, slice_from_str(rows[state].word))) {
            *out = (enum lifecycle)state;
            return true;
        }
    }
    return false;
}

bool lifecycle_may_move(enum lifecycle from, enum lifecycle to)
{
    CHECK((unsigned)from < LIFECYCLE_COUNT && (unsigned)to < LIFECYCLE_COUNT);
    return (next_of[from] & 1u << to) != 0;
}
