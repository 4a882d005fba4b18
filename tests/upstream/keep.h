/*
 * Messages as files, for tests that want to see what came: NNNNNN.eml, in the order of their ends.
 * First the envelope, a line each as it was said ("MAIL FROM:<a@b>", "RCPT TO:<c@d>"), an empty
 * line, then the content byte for byte. A file appears whole or not at all.
 */
#ifndef TASUKI_UPSTREAM_KEEP_H
#define TASUKI_UPSTREAM_KEEP_H

#include "daemon/base/check.h"
#include "daemon/base/slice.h"

#include <stdio.h>

#define KEEP_PATH_BYTES 512

struct keep {
    FILE *file; /* NULL: no message is under way */
    char part[KEEP_PATH_BYTES];
};

/* What goes wrong is said by keep_end. */
void keep_begin(struct keep *k, const char *directory);
void keep_put(struct keep *k, struct slice bytes);
/* number: of this message. Returns false when it could not be written; nothing is left of it
 * then. */
MUST_CHECK bool keep_end(struct keep *k, const char *directory, uint64_t number);
/* Nothing is left of it. No effect without a message. */
void keep_abandon(struct keep *k);

#endif
