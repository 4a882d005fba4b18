/*
 * The control socket: one command a line, one line of answer for each. A mode's name sets it;
 * "stats" changes nothing. The answer is upstream_put_stats, or "error: ..." with what to type
 * instead. When it comes, the mode is in force for all that arrives from then on.
 */
#ifndef TASUKI_UPSTREAM_CONTROL_H
#define TASUKI_UPSTREAM_CONTROL_H

#include "tests/upstream/upstream.h"

/* Listens at path, on this loop. Returns NULL, with words on stderr, when that cannot be. */
struct control *control_new(struct loop *loop, const char *path);

/* Ends it; then it is empty after a while. */
void control_shutdown(struct control *c);
bool control_is_empty(const struct control *c);
void control_free(struct control **c);

/* The other end, for a shell: sends one line, prints the answer. Returns an exit code. */
int control_tell(const char *path, const char *words);

#endif
