/*
 * The one filter language of CLI, API and page: words by blanks, all of which must hold.
 *
 *   from:TEXT to:TEXT subject:TEXT client:TEXT   contains TEXT, any case
 *   upstream:NAME device:NAME                     equals
 *   state:WORD                                    WORD of schema/lifecycle.def; queued is whatever
 *                                                 still waits, deferred and in-doubt are parts of
 * it reason:WORD                                   WORD of schema/outcome.def, of any recipient
 *   end:delivered|reported|deleted|discarded      how it left, for what is in the history
 *   id:PREFIX
 *   older:SPAN newer:SPAN                         since it arrived: 30s 10m 2h 5d
 *   larger:SIZE smaller:SIZE                      20K 5M
 *   a bare word                                   in from, to, subject or id
 *
 * A leading "-" negates a word; "double quotes" keep blanks in one. Sans-I/O; holds slices into the
 * text it was parsed from.
 */
#ifndef TASUKI_SCHEMA_FILTER_H
#define TASUKI_SCHEMA_FILTER_H

#include "schema/record_history.h"

#define FILTER_TERMS_MAX 16

struct filter_term {
    uint8_t field; /* filter.c's */
    bool negated;
    struct slice text;
    uint64_t number;
    struct msg_id first, last;
};

struct filter {
    uint32_t count; /* 0: everything matches */
    struct filter_term terms[FILTER_TERMS_MAX];
};

/* text is borrowed as long as the filter is used. On failure message says what and why ("unknown
 * field \"form\"; did you mean \"from\"?"). */
MUST_CHECK bool filter_parse(struct filter *out, struct slice text, char message[200]);

/* now_ms: wall clock. */
bool filter_matches(const struct filter *f, const struct record_message *message, uint64_t now_ms);

/* Of what belongs to an upstream and to no message: true when every word is about the upstream
 * (upstream:NAME, or its negation) and holds. */
bool filter_matches_upstream(const struct filter *f, struct slice upstream);

/* Does it ask for messages in the trash? Lists leave them out otherwise. */
bool filter_wants_trashed(const struct filter *f);

#endif
