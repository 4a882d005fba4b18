/*
 * The enumerator: after each event of a tape the power goes, in as many ways as asked for.
 */
#ifndef TASUKI_TESTS_POWER_CUTS_H
#define TASUKI_TESTS_POWER_CUTS_H

#include "tests/power/disk.h"
#include "tests/power/verdict.h"

struct cuts_config {
    uint32_t states_per_cut;
    uint32_t states_per_nested_cut; /* the same for cuts while the store recovers */
    uint32_t nested_one_in;         /* of the states whose recovery writes, so many are cut again */
    uint32_t kill_one_in;           /* of the events, at so many the process is killed first */
    uint32_t thorough_one_in;       /* of the states; see verdict.h */
    uint64_t only_state;            /* UINT64_MAX: all */
};

struct cuts_count {
    uint64_t cuts;
    uint64_t states[POWER_DEPTH_MAX]; /* by depth */
    uint64_t kills;
    uint64_t thorough;
};

/* All cuts of a tape, on a disk that is empty before and after. */
void cuts_run(const struct cuts_config *config, const struct model *model, struct disk *disk,
              const char *root, const struct tape *tape, struct cuts_count *count);

#endif
