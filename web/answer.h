/*
 * An HTTP answer: made by route.c, sent by server.c. Every answer carries the security headers;
 * there is no way to leave them out.
 */
#ifndef TASUKI_WEB_ANSWER_H
#define TASUKI_WEB_ANSWER_H

#include "daemon/base/buf.h"
#include "web/ask.h"

#define ANSWER_HEAD_BYTES_MAX 1024

struct answer {
    uint16_t status;
    const char *type;  /* static: of the body */
    bool kept;         /* part of the page: a browser may keep it and ask again; else no-store */
    struct slice body; /* borrowed, or in owned */
    char *owned;       /* NULL or to be freed with the answer */
};

/* Whether troubles are told as JSON (the API) or as two lines of text. */
enum answer_form { ANSWER_FORM_TEXT, ANSWER_FORM_JSON };

/* body must outlive the answer. */
void answer_static(struct answer *a, uint16_t status, const char *type, struct slice body);

/* body is copied. */
void answer_copy(struct answer *a, uint16_t status, const char *type, struct slice body);

/* Compact JSON and a newline. result is borrowed. */
void answer_json(struct answer *a, uint16_t status, const json_t *result);

void answer_trouble(struct answer *a, enum answer_form form, const struct trouble *trouble);

/* The status line and all fields with their empty line. now_s is for Date. */
void answer_head_put(struct buf *to, const struct answer *a, bool persistent, uint64_t now_s);

void answer_deinit(struct answer *a);

#endif
