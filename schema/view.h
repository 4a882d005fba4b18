/*
 * A message as JSON: the ROW and the `show` object of schema/README.md. One place, so that the
 * daemon and tasukictl without a daemon say the same.
 */
#ifndef TASUKI_SCHEMA_VIEW_H
#define TASUKI_SCHEMA_VIEW_H

#include "daemon/base/json.h"
#include "schema/record_history.h"

#define VIEW_RECIPIENTS_ROW_MAX  20
#define VIEW_WHY_BYTES           1024
#define VIEW_RECIPIENTS_SHOW_MAX 1000

/* Room that either object may need at most, for whoever sizes a buffer: each byte of a text may
 * become six ("\u001b"). */
#define VIEW_TEXT_FACTOR      6
#define VIEW_ANSWER_BYTES_MAX (VIEW_TEXT_FACTOR * RECORD_REPLY_TEXT_BYTES_MAX + 512)
#define VIEW_MOVE_BYTES_MAX                                                                        \
    (VIEW_TEXT_FACTOR * (UPSTREAM_NAME_BYTES_MAX + RECORD_PEER_BYTES_MAX + RECORD_TLS_BYTES_MAX +  \
                         RECORD_MOVE_TEXT_BYTES_MAX) +                                             \
     768)
#define VIEW_ROW_BYTES_MAX                                                                         \
    (VIEW_TEXT_FACTOR *                                                                            \
         ((VIEW_RECIPIENTS_ROW_MAX + 1) * (SMTP_PATH_BYTES_MAX + 1) + RECORD_CLIENT_BYTES_MAX +    \
          RECORD_DEVICE_BYTES_MAX + RECORD_SUBJECT_BYTES_MAX + UPSTREAM_NAME_BYTES_MAX) +          \
     VIEW_ANSWER_BYTES_MAX + 1024)
#define VIEW_MESSAGE_BYTES_MAX                                                                     \
    (VIEW_ROW_BYTES_MAX + VIEW_TEXT_FACTOR * RECORD_HELO_BYTES_MAX +                               \
     VIEW_RECIPIENTS_SHOW_MAX *                                                                    \
         (VIEW_TEXT_FACTOR * SMTP_PATH_BYTES_MAX + VIEW_ANSWER_BYTES_MAX + 192) +                  \
     RECORD_TRAIL_MOVES_MAX * VIEW_MOVE_BYTES_MAX + VIEW_TEXT_FACTOR * RECORD_ENVID_BYTES_MAX)

/* An id as its 16 characters; key as in json.h. */
void view_put_id(struct json *j, const char *key, const struct msg_id *id);

/*
 * Puts one object into the array or at the top of j.
 *   wall_minus_q   what makes wall clock of the queue's clock
 */
void view_put_row(struct json *j, const struct record_message *message, int64_t wall_minus_q);
void view_put_message(struct json *j, const struct record_message *message, int64_t wall_minus_q);

/* What stands in the way of the message, or what became of it, in one sentence; out: 0-terminated.
 *   now_ms   wall clock */
void view_why(const struct record_message *message, int64_t wall_minus_q, uint64_t now_ms,
              char out[VIEW_WHY_BYTES]);

/* What the copy of a recipient in that state is to people: shown of the message as a whole. */
enum lifecycle view_state(const struct record_message *message, enum recipient_state state);

/* What to tell people about a recipient's answer: in the words of the provider, where it has some.
 */
struct playbook_words view_words(const struct record_message *message,
                                 const struct record_recipient *recipient);

/* One move of the message in words: "3 m ago: deferred by main, 451 4.7.1 greylisted (connection
 * 17, 120 ms)". */
void view_put_move_line(struct buf *to, const struct record_message *message,
                        const struct record_move *move, uint64_t now_ms);

/* The recipient that is worst off: the first of failed, in doubt, deferred, queued, delivered. */
struct record_recipient view_worst(const struct record_message *message);

#endif
