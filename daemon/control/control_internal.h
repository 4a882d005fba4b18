/* What the files of daemon/control share; nobody else includes it. */
#ifndef TASUKI_CONTROL_CONTROL_INTERNAL_H
#define TASUKI_CONTROL_CONTROL_INTERNAL_H

#include "daemon/base/json.h"
#include "daemon/control/control.h"
#include "daemon/stream/stream.h"
#include "schema/event.h"
#include "schema/filter.h"
#include "schema/view.h"
#include "schema/wire.h"

#include <jansson.h>

#define ANSWER_BYTES_MAX (2u << 20)
#define EDIT_IDS_MAX     2000000u /* of one command by filter: more than a queue holds */
#define SCAN_ROWS        1000u    /* read in one transaction */
#define SCAN_ROWS_MAX    20000u   /* looked at for one answer of a list */

/* An operator's bulk command under way, batch by batch. */
struct control_edit {
    bool dry_run;
    struct msg_id *ids; /* owned */
    size_t count, cap;
    size_t next; /* first of the batch that is away, or to be sent */
    uint64_t changed;
    struct buf skipped; /* owned memory: JSON objects, by comma */
    struct flow_edit flow;
};

/* What a connection waits for. */
enum control_wait {
    CONTROL_WAIT_NOTHING,
    CONTROL_WAIT_STATUS,
    CONTROL_WAIT_QUEUE, /* a list, which needs to know what is being sent */
    CONTROL_WAIT_SHOW,
    CONTROL_WAIT_WHY,
    CONTROL_WAIT_HISTORY,
    CONTROL_WAIT_TRACE, /* with a filter, which may ask what is being sent */
    CONTROL_WAIT_COMPACT,
    CONTROL_WAIT_EDIT,
    CONTROL_WAIT_PROBE,
    CONTROL_WAIT_TRY,
};

struct connection {
    struct control *c;
    struct connection *prev, *next;
    struct stream stream;
    bool closing, closed;
    struct io_op timer;
    uint64_t active_ms; /* when bytes last moved, or an answer was made */
    bool last_words;    /* close when the answer is sent */
    uint32_t uid;
    enum command_scope scope;
    struct buf request; /* owned memory: the line so far */
    struct buf answer;  /* owned memory, while there is one */
    bool sending;
    struct json json; /* writes into answer */
    json_t *asked;    /* owned: the request under way */
    enum control_wait wait;
    uint64_t asked_ms;
    struct flow_inspect *inspect; /* owned; lent to the queue thread */
    struct flow_probe *probe;     /* owned; lent to a worker */
    struct flow_try try;          /* lent to the queue thread */
    struct flow_compact *compact; /* owned; lent to the queue thread */
    struct control_edit *edit;    /* owned; its flow is lent to the queue thread */
};

struct control {
    struct control_config with;
    int fd;
    char path[CONFIG_TEXT_BYTES + 16];
    struct io_op accept;
    bool accept_open;
    bool shutting_down;
    struct connection *connections;
    uint32_t connection_count;
};

/* control.c: answers. begin opens the result object, finish closes it and sends. After false from
 * begin, and after finish and error, the connection may be gone: it must not be touched. */
MUST_CHECK bool answer_begin(struct connection *n, size_t bytes);
void answer_finish(struct connection *n);
void answer_error(struct connection *n, enum wire_error code, const char *message,
                  const char *hint);

/* commands.c */
void command_run(struct connection *n, enum command command, json_t *args);
void command_back(struct connection *n, struct flow_msg *msg);
void command_free(struct connection *n);

/* The text argument of that name; "" when there is none. */
const char *text_arg(json_t *args, const char *name);
/* Opens the answer and its result object; false: as answer_begin. */
MUST_CHECK bool result_begin(struct connection *n, size_t bytes);
/* Is it with a connection, by the queue thread's view that was asked for first? */
bool is_sending(const struct connection *n, const struct msg_id *id);

/* messages.c */
void answer_queue(struct connection *n);
void answer_history(struct connection *n);
void answer_show(struct connection *n);
void answer_why(struct connection *n);
void answer_transcript(struct connection *n);
void answer_counts(struct connection *n);

/* What was read of one message: in the queue, or else in the history. */
struct found {
    struct record_message message;
    struct record_history history;
    struct record_trail trail;
    uint8_t *memory; /* owned: the records */
    uint8_t trail_memory[RECORD_TRAIL_BYTES_MAX];
};

/* NULL: it is in neither, or could not be read: *out_err. Free with found_free. */
struct found *found_read(struct connection *n, const struct msg_id *id, enum err *out_err);
void found_free(struct found *f);

/* trace.c */
void answer_trace(struct connection *n);

/* edit.c */
void edit_run(struct connection *n, enum flow_edit_action action, json_t *args);
void edit_back(struct connection *n);
void edit_free(struct connection *n);
/* The one message that begins so. NULL: *out is it; else what is wrong with it, with the code. */
const char *find_one(struct connection *n, struct slice text, struct msg_id *out,
                     enum wire_error *out_code);
/* The same, in the queue or else in the history. */
const char *find_anywhere(struct connection *n, struct slice text, struct msg_id *out,
                          bool *out_in_history, enum wire_error *out_code);

/* status.c */
void status_put(struct connection *n, const struct flow_status *status);

#endif
