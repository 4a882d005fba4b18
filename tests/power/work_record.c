/*
 * Records as the daemon would make them, kept for the seed.
 */
#include "tests/power/work_internal.h"

#include "daemon/base/crc32c.h"

#define RECORD_MEMORY_BYTES 65536

static uint8_t record_memory[RECORD_MEMORY_BYTES];
static uint8_t list_memory[RECORD_MEMORY_BYTES];

static struct slice keep(const struct buf *record)
{
    CHECK(!record->overflow && record->len > 0);
    return power_keep(buf_slice(record));
}

void work_envelope_encode(struct model_message *m)
{
    struct buf list;
    struct buf record;
    buf_init(&list, list_memory, sizeof list_memory);
    buf_init(&record, record_memory, sizeof record_memory);
    for (uint32_t index = 0; index < m->recipients; index++) {
        record_rcpt_put(&list, &(struct record_rcpt){.path = m->recipient[index].path,
                                                     .notify = m->recipient[index].notify,
                                                     .orcpt = m->recipient[index].orcpt});
    }
    struct record_envelope envelope = m->envelope;
    envelope.body_bytes = m->body.len;
    envelope.body_crc = crc32c(0, m->body);
    envelope.recipient_count = m->recipients;
    envelope.recipients = buf_slice(&list);
    record_envelope_put(&record, &envelope);
    m->envelope_record = keep(&record);
}

void work_state_encode(struct model_message *m)
{
    struct buf list;
    struct buf record;
    buf_init(&list, list_memory, sizeof list_memory);
    buf_init(&record, record_memory, sizeof record_memory);
    for (uint32_t index = 0; index < m->recipients; index++) {
        record_fate_put(&list, &m->recipient[index].fate);
    }
    m->state.reason = record_reason(buf_slice(&list));
    m->state.route = record_route(m->state.upstream);
    struct record_state state = m->state;
    state.recipient_count = m->recipients;
    state.recipients = buf_slice(&list);
    record_state_put(&record, &state);
    m->state_record = keep(&record);
}

/* The trail that follows from the one before by the moves behind moves_before, and more dialogue.
 */
void work_trail_encode(struct model_message *m, uint32_t moves_before, struct slice dialogue)
{
    struct buf list;
    struct buf record;
    buf_init(&list, list_memory, sizeof list_memory);
    buf_init(&record, record_memory, sizeof record_memory);
    for (uint32_t index = moves_before; index < m->move_count; index++) {
        record_move_put(&list, &m->moves[index]);
    }
    struct record_trail before;
    bool was_there = m->trail_record.len > 0;
    if (was_there) {
        work_must(record_trail_get(m->trail_record, &before), "reading a trail back");
    }
    record_trail_put(&record, was_there ? &before : NULL, buf_slice(&list),
                     m->move_count - moves_before, dialogue);
    m->trail_record = keep(&record);
    /* What stood behind the first four goes when there are more than 24. */
    uint32_t kept = RECORD_TRAIL_MOVES_MAX;
    uint32_t first = RECORD_TRAIL_MOVES_FIRST;
    if (m->move_count > kept) {
        uint32_t gone = m->move_count - kept;
        memmove(m->moves + first, m->moves + first + gone, (kept - first) * sizeof m->moves[0]);
        m->moves_left_out += gone;
        m->move_count = kept;
    }
}

struct slice work_history_encode(const struct model_past *past)
{
    struct buf record;
    buf_init(&record, record_memory, sizeof record_memory);
    record_history_put(&record, &(struct record_history){
                                    .left_ms = past->left_ms,
                                    .left_q = past->left_q,
                                    .end = past->end,
                                    .envelope = past->message->envelope_record,
                                    .state = past->message->state_record,
                                    .trail = past->message->trail_record,
                                });
    return keep(&record);
}

struct slice work_upstream_encode(const struct record_upstream *upstream)
{
    struct buf record;
    buf_init(&record, record_memory, sizeof record_memory);
    record_upstream_put(&record, upstream);
    return keep(&record);
}
