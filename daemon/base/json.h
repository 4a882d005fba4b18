/*
 * Writes JSON text (RFC 8259) into a bounded buffer, without allocating: for rows that are produced
 * by the million. Reading JSON is jansson's job, where a request arrives.
 *
 * Commas and nesting are kept by the writer. On overflow of the buffer nothing more is written, and
 * the buffer says so.
 */
#ifndef TASUKI_BASE_JSON_H
#define TASUKI_BASE_JSON_H

#include "daemon/base/buf.h"

#define JSON_DEPTH_MAX 16

struct json {
    struct buf *to;              /* borrowed */
    uint8_t depth;               /* open objects and arrays */
    bool filled[JSON_DEPTH_MAX]; /* something stands at this depth already */
};

void json_init(struct json *j, struct buf *to);

/* key is NULL inside an array and at the top; otherwise one of our own literals. */
void json_open_object(struct json *j, const char *key);
void json_open_array(struct json *j, const char *key);
void json_close_object(struct json *j);
void json_close_array(struct json *j);
void json_put_text(struct json *j, const char *key, struct slice value);
void json_put_str(struct json *j, const char *key, const char *value);
void json_put_u64(struct json *j, const char *key, uint64_t value);
void json_put_i64(struct json *j, const char *key, int64_t value);
void json_put_bool(struct json *j, const char *key, bool value);
void json_put_null(struct json *j, const char *key);
/* Text that is JSON already. */
void json_put_raw(struct json *j, const char *key, struct slice value);

#endif
