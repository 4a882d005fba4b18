/*
 * The work: a seed's worth of what a queue goes through, done by the real store and recorded.
 */
#ifndef TASUKI_TESTS_POWER_WORK_H
#define TASUKI_TESTS_POWER_WORK_H

#include "tests/power/model.h"
#include "tests/power/tape.h"

/* Mistakes that the work can make on purpose, for the tests of the rig itself. */
struct work_lies {
    bool ack_early;     /* acknowledged before the commit */
    bool outcome_lost;  /* an outcome is acknowledged, its transaction is not committed */
    bool report_later;  /* a report is added in a second transaction, after that of the failure */
    bool history_later; /* the history's entry is made in a second transaction */
};
extern struct work_lies work_lies;

/*
 * Makes a queue in ROOT/q and works on it; the model and the tape say what came of it. What lies in
 * ROOT is removed in the end.
 */
void work_run(uint64_t seed, uint32_t transactions, const char *root, struct model *model,
              struct tape *tape);

/* In this seed, and in every eighth from it, a queue is filled to the brim. */
#define WORK_SEED_FILL  5
#define WORK_FILL_BYTES ((uint64_t)1 << 20)

/* The operations, and how often each has been done by this process. */
#define WORK_OPERATIONS_MAX 64
size_t work_operation_count(void);
const char *work_operation_name(size_t index);
uint64_t work_operation_done(size_t index);

#endif
