/*
 * Messages on their way through the draft and the store, each step done to both.
 */
#include "tests/power/work_internal.h"

static void last_id_raise(struct work *w, const struct msg_id *id)
{
    uint64_t *last_id = &w->draft.queue.last_id;
    *last_id = u64_max(*last_id, msg_id_time_and_sequence(id));
}

static void recipients_make(struct work *w, struct model_message *m)
{
    m->recipients = 1 + (uint32_t)work_pick(w, work_pick(w, 3) == 0 ? MODEL_RECIPIENTS_MAX : 2);
    for (uint32_t index = 0; index < m->recipients; index++) {
        struct model_recipient *r = &m->recipient[index];
        r->path = work_text("somebody-%u@example.jp", index);
        if (work_pick(w, 4) == 0) {
            r->notify =
                (uint8_t)(work_pick(w, 2) == 0 ? RECORD_NOTIFY_NEVER : 2 * (1 + work_pick(w, 7)));
            r->orcpt = work_text("rfc822;somebody+2B%u@example.jp", index);
        }
        r->fate = (struct record_recipient){.outcome = OUTCOME_NONE};
    }
}

struct model_message *work_message_new(struct work *w, const struct msg_id *id, struct slice body,
                                       uint32_t pieces)
{
    struct model_message *m = power_take(sizeof *m);
    m->id = *id;
    m->body = body;
    m->envelope = (struct record_envelope){
        .arrived_ms = w->now_ms,
        .chunk_count = pieces,
        .flags = (uint16_t)work_pick(w, 8),
        .client = work_text("192.168.1.%d", (int)work_pick(w, 6)),
        .helo = work_text("scanner-%d", (int)work_pick(w, 9)),
        .device =
            work_pick(w, 2) == 0 ? work_text("device-%d", (int)work_pick(w, 3)) : slice_of(NULL, 0),
        .subject = work_text("page %d", (int)work_pick(w, 1000)),
        .sender = work_pick(w, 8) == 0 ? slice_of(NULL, 0)
                                       : work_text("scanner%d@example.jp", (int)work_pick(w, 5)),
        .envid = work_pick(w, 6) == 0 ? SLICE("QQ314159") : slice_of(NULL, 0),
    };
    recipients_make(w, m);
    struct slice device = m->envelope.device.len > 0 ? m->envelope.device : m->envelope.client;
    m->state = (struct record_state){
        .state = MESSAGE_QUEUED,
        .due_q = w->now_ms,
        .changed_q = w->now_ms,
        .accepted_q = w->now_ms,
        .outage_base = work_pick(w, 100000),
        .flow = record_flow(device, m->envelope.sender),
        .size_kib = (uint32_t)((body.len + 1023) / 1024),
        .upstream = work_pick(w, 3) == 0 ? SLICE("second") : SLICE("main"),
        .device = device,
    };
    return m;
}

static void draft_put(struct work *w, const struct model_message *m)
{
    struct model_queue *q = &w->draft.queue;
    size_t at = q->count;
    CHECK(q->count < MODEL_MESSAGES_MAX);
    for (; at > 0 && msg_id_compare(&q->messages[at - 1]->id, &m->id) > 0; at--) {
        q->messages[at] = q->messages[at - 1];
    }
    q->messages[at] = m;
    q->count++;
}

void work_message_add(struct work *w, struct model_message *m)
{
    work_envelope_encode(m);
    work_state_encode(m);
    work_must(store_message_add(w->store, &m->id, m->envelope_record, m->state_record), "add");
    last_id_raise(w, &m->id);
    draft_put(w, m);
}

uint32_t work_body_append(struct work *w, const struct msg_id *id, struct slice body)
{
    uint32_t pieces = 0;
    while (body.len > 0) {
        struct slice piece = slice_head(body, w->model->piece_bytes);
        work_must(store_body_append(w->store, id, pieces++, piece), "append");
        body = slice_tail(body, piece.len);
    }
    return pieces;
}

size_t work_find(struct work *w, enum message_state state)
{
    const struct model_queue *q = &w->draft.queue;
    size_t from = q->count == 0 ? 0 : work_pick(w, q->count);
    for (size_t step = 0; step < q->count; step++) {
        size_t index = (from + step) % q->count;
        if (q->messages[index]->state.state == state) {
            return index;
        }
    }
    return q->count;
}

struct model_message *work_copy(struct work *w, size_t index)
{
    struct model_message *m = power_take(sizeof *m);
    *m = *w->draft.queue.messages[index];
    m->state.changed_q = w->now_ms;
    return m;
}

void work_update(struct work *w, size_t index, struct model_message *m)
{
    work_state_encode(m);
    work_must(store_message_update(w->store, &m->id, m->state_record), "update");
    const struct model_message *before = w->draft.queue.messages[index];
    if (!slice_equal(before->trail_record, m->trail_record)) {
        work_must(store_trail_set(w->store, &m->id, m->trail_record), "trail");
    }
    w->draft.queue.messages[index] = m;
}

static void past_put(struct work *w, const struct model_past *past)
{
    struct model_queue *q = &w->draft.queue;
    size_t at = q->past_count;
    CHECK(q->past_count < MODEL_HISTORY_MAX);
    for (; at > 0 && msg_id_compare(&q->past[at - 1]->message->id, &past->message->id) > 0; at--) {
        q->past[at] = q->past[at - 1];
    }
    q->past[at] = past;
    q->past_count++;
}

void work_remove(struct work *w, size_t index, struct model_message *m, enum record_end end)
{
    struct model_queue *q = &w->draft.queue;
    work_state_encode(m);
    struct model_past *past = power_take(sizeof *past);
    *past =
        (struct model_past){.message = m, .end = end, .left_ms = w->now_ms, .left_q = w->now_ms};
    past->record = work_history_encode(past);
    if (work_lies.history_later) {
        /* Gone first and remembered later: an add and a remove in a second transaction. */
        work_must(store_message_remove(w->store, &m->id, slice_of(NULL, 0)), "remove");
        work_split(w);
        uint32_t pieces = work_body_append(w, &m->id, m->body);
        CHECK(pieces == m->envelope.chunk_count);
        work_must(store_message_add(w->store, &m->id, m->envelope_record, m->state_record), "add");
    }
    work_must(store_message_remove(w->store, &m->id, past->record), "remove");
    q->count--;
    memmove(q->messages + index, q->messages + index + 1,
            (q->count - index) * sizeof q->messages[0]);
    past_put(w, past);
}

void work_move(struct work *w, struct model_message *m, enum record_cause cause,
               enum lifecycle from, enum lifecycle to, uint32_t recipient)
{
    uint32_t before = m->move_count;
    const struct record_recipient *fate = &m->recipient[recipient].fate;
    bool attempt = cause == RECORD_CAUSE_ATTEMPT;
    struct record_move *move = &m->moves[m->move_count++];
    *move = (struct record_move){.when_ms = w->now_ms,
                                 .cause = cause,
                                 .from = from,
                                 .to = to,
                                 .first = recipient,
                                 .count = 1};
    struct slice dialogue = slice_of(NULL, 0);
    if (attempt) {
        move->outcome = fate->outcome;
        move->code = fate->code;
        memcpy(move->enhanced, fate->enhanced, sizeof move->enhanced);
        move->connection = 1 + work_pick(w, 40);
        move->duration_ms = (uint32_t)work_pick(w, 9000);
        move->upstream = m->state.upstream;
        move->peer = SLICE("192.0.2.1:587");
        move->tls = SLICE("TLSv1.3 TLS_AES_256_GCM_SHA384");
        move->text = slice_head(fate->text, RECORD_MOVE_TEXT_BYTES_MAX);
        dialogue = work_text("C: RCPT TO:<somebody-%u@example.jp>\nS: %u\n", recipient, fate->code);
    } else {
        move->uid = (uint32_t)work_pick(w, 2000);
        move->text = SLICE("because");
    }
    if (m->dialogue.len + dialogue.len > RECORD_DIALOGUE_BYTES_MAX) {
        dialogue = slice_of(NULL, 0);
    }
    uint8_t *joined = power_take(m->dialogue.len + dialogue.len);
    if (m->dialogue.len > 0) {
        memcpy(joined, m->dialogue.data, m->dialogue.len);
    }
    if (dialogue.len > 0) {
        memcpy(joined + m->dialogue.len, dialogue.data, dialogue.len);
    }
    m->dialogue = slice_of(joined, m->dialogue.len + dialogue.len);
    work_trail_encode(m, before, dialogue);
}

void work_report_add(struct work *w, const struct model_message *about, uint16_t flag)
{
    if (work_lies.report_later) {
        work_split(w);
    }
    struct msg_id id = work_id(w);
    struct slice body = work_body(w, 400 + work_pick(w, 1500));
    struct model_message *m = work_message_new(w, &id, body, work_body_append(w, &id, body));
    m->envelope.flags = flag;
    m->envelope.sender = slice_of(NULL, 0);
    m->state.flow = record_flow(m->state.device, m->envelope.sender);
    m->recipients = 1;
    m->recipient[0].path = about == NULL || about->envelope.sender.len == 0
                               ? SLICE("root@example.jp")
                               : about->envelope.sender;
    work_message_add(w, m);
}
