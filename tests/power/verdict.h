/*
 * The judge of one state: what lies there, what the store makes of it, what its readers say, and
 * what lies there afterwards.
 */
#ifndef TASUKI_TESTS_POWER_VERDICT_H
#define TASUKI_TESTS_POWER_VERDICT_H

#include "tests/power/model.h"
#include "tests/power/tape.h"

/* What may be there: one of these, whole. */
struct verdict_candidate {
    const struct model_version *version;
    const struct content *content;
};

struct verdict_expect {
    struct verdict_candidate list[CONTENT_CANDIDATES_MAX];
    size_t count;
    bool may_be_absent; /* nobody has been told yet that there is a queue */
};

void verdict_expect_put(struct verdict_expect *expect, const struct model_version *version,
                        const struct content *content);

/*
 * Starts the store in ROOT/q and judges; a violation ends the program.
 *   names, file_next   what is in the directory, for the tape
 *   tape               gets what the store did, with marks around its opening
 *   thorough           the store's own check is asked too, and the queue is worked on afterwards: a
 *                      list of free pages that is wrong shows only then
 *   out_made           there was nothing, and the store has made the queue
 * Returns the version that it found: the first one, empty, when it made the queue.
 */
const struct model_version *verdict_of_state(const char *root, const struct model *model,
                                             const struct verdict_expect *expect,
                                             const struct tape_names *names, uint32_t file_next,
                                             struct tape *tape, bool thorough, bool *out_made);

/* Opens the queue as the work does. */
struct store *verdict_open(const char *root, const struct model *model);

#endif
