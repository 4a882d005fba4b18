/*
 * Operating errors: what can go wrong around a correct program. A protocol's refusal is not one of
 * them (that is data, a row of schema/outcome.def), nor is a programmer's mistake (CHECK).
 */
#ifndef TASUKI_BASE_ERR_H
#define TASUKI_BASE_ERR_H

#define ERR_ROWS(X)                                                                                \
    X(OK, "no error")                                                                              \
    X(NO_MEMORY, "out of memory")                                                                  \
    X(FULL, "no room left")                                                                        \
    X(LIMIT, "a configured limit was reached")                                                     \
    X(IO, "input/output error")                                                                    \
    X(IN_DOUBT, "the outcome of the last write is not known")                                      \
    X(DAMAGED, "the data is damaged")                                                              \
    X(VERSION, "the data was written by a newer version")                                          \
    X(NOT_FOUND, "not found")                                                                      \
    X(EXISTS, "already there")                                                                     \
    X(BUSY, "in use by another process")                                                           \
    X(PERMISSION, "not permitted")                                                                 \
    X(SYNTAX, "not well formed")                                                                   \
    X(UNSUPPORTED, "not supported here")                                                           \
    X(TIMEOUT, "timed out")                                                                        \
    X(CLOSED, "the connection was closed")                                                         \
    X(REFUSED, "the connection was refused")                                                       \
    X(RESET, "the connection was reset")                                                           \
    X(UNREACHABLE, "the network cannot be reached")                                                \
    X(CANCELLED, "cancelled")

enum err {
#define X(name, text) ERR_##name,
    ERR_ROWS(X)
#undef X
        ERR_COUNT
};

/* The words for an error, static storage. */
const char *err_text(enum err err);

/* An errno value (positive) as one of ours; ERR_IO when there is no closer one. */
enum err err_from_errno(int number);

#endif
