/*
 * What the work has been promised: versions, one a commit, each with all that the queue must hold
 * then. A version never changes; what did not change is shared between versions.
 *
 * Values are kept twice: by field, as they were meant, and as the record that was handed to the
 * store. second.c decodes what lies on disk and compares it with the fields; the records are what
 * the store's readers must give back.
 */
#ifndef TASUKI_TESTS_POWER_MODEL_H
#define TASUKI_TESTS_POWER_MODEL_H

#include "daemon/store/store.h"
#include "schema/record_history.h"
#include "schema/record_upstream.h"
#include "tests/power/content.h"

#define MODEL_MESSAGES_MAX   512
#define MODEL_HISTORY_MAX    1024
#define MODEL_VERSIONS_MAX   1024
#define MODEL_RECIPIENTS_MAX 12
#define MODEL_MOVES_MAX      32
#define MODEL_UPSTREAMS_MAX  4
#define MODEL_NOTES_MAX      4

struct model_recipient {
    struct slice path, orcpt;
    uint8_t notify;
    struct record_recipient fate; /* its text lives as long as the seed */
};

/* A copy for each change; body and envelope never do. */
struct model_message {
    struct msg_id id;
    struct slice body;
    struct record_envelope envelope; /* without its recipients */
    struct record_state state;       /* without its recipients */
    uint32_t recipients;
    struct model_recipient recipient[MODEL_RECIPIENTS_MAX];
    struct record_move moves[MODEL_MOVES_MAX]; /* of the trail */
    uint32_t move_count;
    uint32_t moves_left_out;
    struct slice dialogue;

    struct slice envelope_record, state_record;
    struct slice trail_record; /* empty: it has none yet */
};

/* A message that has left. */
struct model_past {
    const struct model_message *message; /* as it was in the end */
    enum record_end end;
    uint64_t left_ms, left_q;
    struct slice record;
};

/* A body of which so much has been handed over. */
struct model_intake {
    struct msg_id id;
    struct slice body;
    uint32_t pieces;
};

struct model_upstream {
    struct slice name;
    struct record_upstream upstream;
    struct slice record;
};

struct model_note {
    struct slice word, value;
};

/* All that a queue holds. */
struct model_queue {
    const struct model_message *messages[MODEL_MESSAGES_MAX]; /* by id */
    size_t count;
    const struct model_past *past[MODEL_HISTORY_MAX]; /* by id */
    size_t past_count;
    struct model_upstream upstreams[MODEL_UPSTREAMS_MAX]; /* by name */
    size_t upstream_count;
    struct model_note notes[MODEL_NOTES_MAX]; /* by word */
    size_t note_count;
    struct store_clock clock;
    uint64_t last_id;
};

/* An entry of the due index. */
struct model_due {
    uint32_t route;
    struct store_due due;
};

struct model_version {
    uint64_t number;
    uint64_t settles; /* number of the version that opening makes of it */
    struct model_queue *queue;
    const struct model_intake *intakes; /* by id */
    size_t intake_count;
    uint64_t count_by_state[MESSAGE_STATE_COUNT];
    uint64_t body_bytes;
    struct model_due *due; /* in order */
    size_t due_count;
    struct content *content;
    struct content *recovered; /* what opening makes of it */
};

struct model {
    struct model_version *versions[MODEL_VERSIONS_MAX];
    size_t count;
    size_t first_event; /* of the tape: what came before lay there already */
    uint32_t chunk_bytes;
    uint32_t piece_bytes;
    uint64_t queue_bytes_max;
    uint64_t history_bytes_max;
    uint64_t random_seed; /* of what getrandom gives to a store that makes the queue */
    uint16_t box;
    bool of_version_1; /* the first version's file is of format 1 */
};

#endif
