/*
 * A second reader of a queue, written from schema/STORE.md and schema/RECORD.md; it shares no code
 * with daemon/store or schema/record*.c, checksum included.
 *
 * It judges a content (the records, taken by the walk over the pages) against what the model says:
 * every record is decoded, every field compared, and nothing else may be there.
 */
#ifndef TASUKI_TESTS_POWER_SECOND_H
#define TASUKI_TESTS_POWER_SECOND_H

#include "tests/power/model.h"

/* Whatever does not agree is a violation. */
void second_judge(const struct model *model, const struct model_version *version);

/* CRC-32C of several pieces behind each other: start with 0. */
uint32_t second_crc(uint32_t crc, struct slice bytes);

/* Due index, as it follows from the messages' state records; in order. */
size_t second_due(const struct model_queue *queue, struct model_due *out);

#endif
