/* What the tests of daemon/sched share: settings, and numbers that look random. */
#ifndef TASUKI_TESTS_UNIT_SCHED_COMMON_H
#define TASUKI_TESTS_UNIT_SCHED_COMMON_H

#include "daemon/sched/sched.h"

static const struct sched_limits limits = {
    .connections_max = 4,
    .probe_min_ms = 10000,
    .probe_max_ms = 300000,
    .retry_min_ms = 60000,
    .retry_max_ms = 3600000,
};

static uint64_t rng_state;

static inline uint64_t rng(void)
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return rng_state;
}

#endif
