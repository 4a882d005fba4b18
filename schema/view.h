/*
 * A message as JSON: the ROW and the `show` object of schema/README.md. One place, so that the
 * daemon and tasukictl without a daemon say the same.
 */
#ifndef TASUKI_SCHEMA_VIEW_H
#define TASUKI_SCHEMA_VIEW_H

#include "daemon/base/json.h"
#include "schema/record.h"

#define VIEW_RECIPIENTS_ROW_MAX  20
#define VIEW_RECIPIENTS_SHOW_MAX 1000

/* Room that either object may need at most, for whoever sizes a buffer: each byte of a text may
 * become six ("\u001b"). */
#define VIEW_TEXT_FACTOR      6
#define VIEW_ANSWER_BYTES_MAX (VIEW_TEXT_FACTOR * RECORD_REPLY_TEXT_BYTES_MAX + 512)
#define VIEW_ROW_BYTES_MAX                                                                         \
    (VIEW_TEXT_FACTOR *                                                                            \
         ((VIEW_RECIPIENTS_ROW_MAX + 1) * (SMTP_PATH_BYTES_MAX + 1) + RECORD_CLIENT_BYTES_MAX +    \
          RECORD_DEVICE_BYTES_MAX + RECORD_SUBJECT_BYTES_MAX + UPSTREAM_NAME_BYTES_MAX) +          \
     VIEW_ANSWER_BYTES_MAX + 1024)
#define VIEW_MESSAGE_BYTES_MAX                                                                     \
    (VIEW_ROW_BYTES_MAX + VIEW_TEXT_FACTOR * RECORD_HELO_BYTES_MAX +                               \
     VIEW_RECIPIENTS_SHOW_MAX *                                                                    \
         (VIEW_TEXT_FACTOR * SMTP_PATH_BYTES_MAX + VIEW_ANSWER_BYTES_MAX + 64))

/* An id as its 16 characters; key as in json.h. */
void view_put_id(struct json *j, const char *key, const struct msg_id *id);

/* Puts one object into the array or at the top of j. sending: it is leased right now, shown as
 * state "sending". */
void view_put_row(struct json *j, const struct msg_id *id, const struct record_envelope *envelope,
                  const struct record_state *state, bool sending);
void view_put_message(struct json *j, const struct msg_id *id,
                      const struct record_envelope *envelope, const struct record_state *state,
                      bool sending);

#endif
