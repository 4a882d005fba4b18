/*
 * What each address answers: a table. A route has its answer at once, or asks the daemon one
 * question and makes its answer from what comes of that.
 */
#ifndef TASUKI_WEB_ROUTE_H
#define TASUKI_WEB_ROUTE_H

#include "web/answer.h"
#include "web/http.h"

struct route;

enum route_step { ROUTE_STEP_ANSWER, ROUTE_STEP_ASK };

struct route_plan {
    const struct route *route; /* NULL: no such address */
    enum command command;      /* for ASK */
    json_t *args;              /* for ASK: a new reference */
    struct answer answer;      /* for ANSWER: to be deinitialised */
};

/* request is a GET or HEAD. */
MUST_CHECK enum route_step route_begin(struct route_plan *out, const struct http_request *request);

/* After ASK: the daemon's result, or NULL and why not. Both are borrowed. */
void route_finish(const struct route *route, const json_t *result, const struct trouble *trouble,
                  struct answer *out);

#endif
