/*
 * The second reader's half for schema/RECORD.md. Each compares one record with what was meant;
 * NULL: it is that; else what is wrong.
 */
#ifndef TASUKI_TESTS_POWER_SECOND_RECORD_H
#define TASUKI_TESTS_POWER_SECOND_RECORD_H

#include "tests/power/model.h"

const char *second_envelope(struct slice record, const struct model_message *message);
const char *second_state(struct slice record, const struct model_message *message);
const char *second_trail(struct slice record, const struct model_message *message);
const char *second_history(struct slice record, const struct model_past *past);
const char *second_upstream(struct slice record, const struct model_upstream *upstream);

/* Version 1 of the first two. */
const char *second_envelope_v1(struct slice record, const struct model_message *message);
const char *second_state_v1(struct slice record, const struct model_message *message);

/* The most that a state record with so many recipients can take. */
uint64_t second_state_bytes_max(uint32_t recipients);

#endif
