/*
 * Reads the records of format version 1, for the upgrade of a queue and for nothing else. Layout:
 * the end of schema/RECORD.md. What came out of it is put with schema/record.h.
 */
#ifndef TASUKI_SCHEMA_RECORD_V1_H
#define TASUKI_SCHEMA_RECORD_V1_H

#include "schema/record.h"

/*
 * Decodes one, judging all of it. Fields that version 1 did not have are zero or empty; recipients
 * are encoded as they were then: read them with the functions below. Times of the wall clock stand
 * in the fields of the queue's. Errors: ERR_DAMAGED; ERR_VERSION a newer version wrote it. On error
 * *out is untouched.
 */
MUST_CHECK enum err record_v1_envelope_get(struct slice bytes, struct record_envelope *out);
MUST_CHECK enum err record_v1_state_get(struct slice bytes, struct record_state *out);

/* Takes the next one off *list. False at the end (or where the list is damaged). */
MUST_CHECK bool record_v1_recipient_next(struct slice *list, struct slice *out_path);
/* state is QUEUED, DELIVERED or FAILED. */
MUST_CHECK bool record_v1_fate_next(struct slice *list, struct record_recipient *out);

#endif
