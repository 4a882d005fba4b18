/*
 * What both ends of the control socket must agree on: its name, the commands (rows of command.def)
 * and the error codes. Constants only; the JSON shapes are in schema/README.md. Used by
 * daemon/control, ctl and web.
 */
#ifndef TASUKI_SCHEMA_WIRE_H
#define TASUKI_SCHEMA_WIRE_H

#include "daemon/base/check.h"
#include "daemon/base/slice.h"

#define WIRE_SCHEMA_VERSION 1          /* "schema" in every result */
#define WIRE_SOCKET_NAME    "ctl.sock" /* in the run directory */

/* Limits of the arguments of `queue`. */
#define WIRE_QUEUE_LIMIT_DEFAULT 100
#define WIRE_QUEUE_LIMIT_MAX     1000

/* Each scope includes those before it. */
enum command_scope { COMMAND_SCOPE_READ, COMMAND_SCOPE_OPERATE, COMMAND_SCOPE_ADMIN };

enum command {
#define X(name, word, scope, args, doc) COMMAND_##name,
#include "schema/command.def"
#undef X
    COMMAND_COUNT
};

struct command_row {
    const char *word;
    enum command_scope scope;
    const char *args; /* names of the arguments, for help; "" when there are none */
    const char *doc;
};

/* Never NULL; a value that is no command is a CHECK. */
const struct command_row *command_row(enum command command);

/* Exactly the word, case matters. False leaves *out alone. */
MUST_CHECK bool command_find(struct slice word, enum command *out);

/* The word that was probably meant, or NULL. */
const char *command_nearest(struct slice word);

/* "read", "operate", "admin". */
const char *command_scope_word(enum command_scope scope);

/* X(NAME, "word"): error.code of an answer. The words never change. */
#define WIRE_ERROR_ROWS(X)                                                                         \
    X(BAD_REQUEST, "bad-request")                                                                  \
    X(UNKNOWN_COMMAND, "unknown-command")                                                          \
    X(NOT_PERMITTED, "not-permitted")                                                              \
    X(NOT_FOUND, "not-found")                                                                      \
    X(AMBIGUOUS, "ambiguous")                                                                      \
    X(BAD_FILTER, "bad-filter")                                                                    \
    X(BUSY, "busy")                                                                                \
    X(FAILED, "failed")                                                                            \
    X(UNAVAILABLE, "unavailable")

enum wire_error {
#define X(name, word) WIRE_ERROR_##name,
    WIRE_ERROR_ROWS(X)
#undef X
        WIRE_ERROR_COUNT
};

/* Never NULL; a value that is no error is a CHECK. */
const char *wire_error_word(enum wire_error error);

/* False, and *out as it was, on a word that this version does not know. */
MUST_CHECK bool wire_error_find(struct slice word, enum wire_error *out);

#endif
