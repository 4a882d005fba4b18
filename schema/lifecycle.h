/*
 * The life of one recipient's copy of a message: the rows of lifecycle.def, and which move may
 * follow which. What lies on disk is less (schema/record.h): `sending` is a lease in memory, `held`
 * and `trashed` are the message's; lifecycle_of says what that amounts to.
 */
#ifndef TASUKI_SCHEMA_LIFECYCLE_H
#define TASUKI_SCHEMA_LIFECYCLE_H

#include "daemon/base/check.h"
#include "daemon/base/slice.h"

enum lifecycle {
#define X(name, word, sentence) LIFECYCLE_##name,
#include "schema/lifecycle.def"
#undef X
    LIFECYCLE_COUNT
};

const char *lifecycle_word(enum lifecycle state);
const char *lifecycle_sentence(enum lifecycle state);

/* The state with that word. False: there is none, *out is untouched. */
MUST_CHECK bool lifecycle_parse(struct slice word, enum lifecycle *out);

/*
 * May a copy in `from` become `to`? `delivered` is final: no move leads out of it. A move to itself
 * is none.
 */
bool lifecycle_may_move(enum lifecycle from, enum lifecycle to);

#endif
