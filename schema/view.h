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

/* Puts one object into the array or at the top of j. sending: it is leased right now, shown as
 * state "sending". */
void view_put_row(struct json *j, const struct msg_id *id, const struct record_envelope *envelope,
                  const struct record_state *state, bool sending);
void view_put_message(struct json *j, const struct msg_id *id,
                      const struct record_envelope *envelope, const struct record_state *state,
                      bool sending);

#endif
