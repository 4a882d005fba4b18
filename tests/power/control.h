/*
 * Negative controls: mistakes that the rig must find out. One that it does not find shows that the
 * rig is blind there.
 */
#ifndef TASUKI_TESTS_POWER_CONTROL_H
#define TASUKI_TESTS_POWER_CONTROL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

size_t control_count(void);
const char *control_name(size_t index);
/* In which its effect is seen. */
uint64_t control_seed(size_t index);

/* For the rest of this process; *out_seed: the seed to begin with. False: there is none of that
 * name. */
bool control_switch_on(const char *name, uint64_t *out_seed);
bool control_is_on(void);

#endif
