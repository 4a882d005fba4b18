/*
 * What a queue's file says, as records in order, whatever its pages look like: the yardstick for
 * every state. One is taken after each commit of the work, when nothing has gone wrong yet, and is
 * judged once (second.c); after a cut the file must say exactly the same as one of the few that may
 * be there.
 */
#ifndef TASUKI_TESTS_POWER_CONTENT_H
#define TASUKI_TESTS_POWER_CONTENT_H

#include "tests/power/page_walk.h"

/* Length of a value that may be any. */
#define CONTENT_ANY_VALUE SIZE_MAX
#define CONTENT_ITEMS_MAX 65536u

struct content {
    struct page_item *items; /* lives as long as the seed */
    size_t count;
};

/* Reads it by the walk over the pages; what is the same as in before (or NULL) is shared with it.
 * A file that is not sound is a violation. */
struct content *content_read(int fd, const struct content *before);

/* What opening leaves of it: bodies whose message has not come are gone. schema/STORE.md, intake.
 */
struct content *content_recovered(const struct content *content);

/* The first record of a database at or after key; the count when there is none. */
size_t content_find(const struct content *content, struct slice db, struct slice key);
/* A record, or NULL. */
const struct page_item *content_get(const struct content *content, struct slice db,
                                    struct slice key);

#define CONTENT_CANDIDATES_MAX 8

/* Which of the candidates the file says: an index, or count. Then problem says how it differs from
 * the first one. */
size_t content_match(int fd, const struct content *const *candidates, size_t count, char *problem,
                     size_t problem_bytes);

#endif
