/*
 * Operations of people, of time, and of the queue on itself.
 */
#include "tests/power/work_internal.h"

static const enum lifecycle lifecycle_of_message[MESSAGE_STATE_COUNT] = {
    [MESSAGE_QUEUED] = LIFECYCLE_QUEUED,
    [MESSAGE_HELD] = LIFECYCLE_HELD,
    [MESSAGE_FAILED] = LIFECYCLE_FAILED,
    [MESSAGE_TRASHED] = LIFECYCLE_TRASHED,
};

static bool state_move(struct work *w, enum message_state from, enum message_state to)
{
    size_t index = work_find(w, from);
    if (index == w->draft.queue.count) {
        return false;
    }
    struct model_message *m = work_copy(w, index);
    m->state.state = to;
    m->state.flags = 0;
    m->state.due_q = w->now_ms + (to == MESSAGE_TRASHED ? 86400000 : 0);
    for (uint32_t at = 0; at < m->recipients && to == MESSAGE_QUEUED; at++) {
        struct record_recipient *fate = &m->recipient[at].fate;
        if (fate->state == RECIPIENT_FAILED) {
            fate->state = RECIPIENT_QUEUED; /* it is tried once more */
        }
    }
    if (m->move_count < MODEL_MOVES_MAX) {
        work_move(w, m, RECORD_CAUSE_OPERATOR, lifecycle_of_message[from], lifecycle_of_message[to],
                  0);
    }
    work_update(w, index, m);
    return true;
}

bool work_hold(struct work *w)
{
    return state_move(w, MESSAGE_QUEUED, MESSAGE_HELD);
}

bool work_release(struct work *w)
{
    return state_move(w, MESSAGE_HELD, MESSAGE_QUEUED);
}

bool work_retry(struct work *w)
{
    return state_move(w, MESSAGE_FAILED, MESSAGE_QUEUED);
}

bool work_trash(struct work *w)
{
    return state_move(w, work_pick(w, 2) == 0 ? MESSAGE_QUEUED : MESSAGE_FAILED, MESSAGE_TRASHED);
}

bool work_undelete(struct work *w)
{
    return state_move(w, MESSAGE_TRASHED, MESSAGE_QUEUED);
}

/* Its time in the trash is over. */
bool work_purge(struct work *w)
{
    size_t index = work_find(w, MESSAGE_TRASHED);
    if (index == w->draft.queue.count) {
        return false;
    }
    struct model_message *m = work_copy(w, index);
    work_remove(w, index, m, work_pick(w, 2) == 0 ? RECORD_END_DELETED : RECORD_END_REPORTED);
    return true;
}

bool work_expire(struct work *w)
{
    struct model_queue *q = &w->draft.queue;
    uint64_t before_q = w->now_ms - work_pick(w, 200000);
    uint64_t expected = 0;
    size_t kept = 0;
    for (size_t index = 0; index < q->past_count; index++) {
        if (q->past[index]->left_q < before_q) {
            expected++;
        } else {
            q->past[kept++] = q->past[index];
        }
    }
    q->past_count = kept;
    uint64_t removed = 0;
    bool more = false;
    work_must(store_history_expire(w->store, before_q, 100000, &removed, &more), "expire");
    if (removed != expected) {
        power_violation("%llu entries of the history have expired, not %llu",
                        (unsigned long long)removed, (unsigned long long)expected);
    }
    return expected > 0;
}

/* What is remembered of an upstream. */
bool work_learn(struct work *w)
{
    static const char *const names[] = {"main", "second", "third"};
    struct model_queue *q = &w->draft.queue;
    struct slice name = slice_from_str(names[work_pick(w, 3)]);
    size_t at = 0;
    while (at < q->upstream_count && !slice_equal(q->upstreams[at].name, name)) {
        at++;
    }
    if (at == q->upstream_count) {
        for (; at > 0 && memcmp(q->upstreams[at - 1].name.data, name.data,
                                size_min(q->upstreams[at - 1].name.len, name.len)) > 0;
             at--) {
            q->upstreams[at] = q->upstreams[at - 1];
        }
        q->upstream_count++;
    }
    struct model_upstream *u = &q->upstreams[at];
    *u = (struct model_upstream){
        .name = name,
        .upstream = {.outage_ms = work_pick(w, 1u << 30),
                     .null_refused_q = work_pick(w, 2) * w->now_ms,
                     .pipeline_max = (uint8_t)work_pick(w, 4),
                     .pipeline_q = w->now_ms,
                     .pipeline_reason = work_text("learnt %d", (int)work_pick(w, 1000)),
                     .bucket_count = (uint32_t)work_pick(w, 4)}};
    for (uint32_t index = 0; index < u->upstream.bucket_count; index++) {
        u->upstream.buckets[index] = (struct record_bucket){.kind = (uint8_t)(index % 2),
                                                            .span_ms = 60000u << index,
                                                            .used = work_pick(w, 90000),
                                                            .at_q = w->now_ms};
    }
    u->record = work_upstream_encode(&u->upstream);
    work_must(store_upstream_set(w->store, name, u->record), "upstream");
    return true;
}

bool work_note(struct work *w)
{
    static const char *const words[] = {"accepting", "digest"};
    struct model_queue *q = &w->draft.queue;
    size_t which = work_pick(w, 2);
    struct slice word = slice_from_str(words[which]);
    size_t at = 0;
    while (at < q->note_count && !slice_equal(q->notes[at].word, word)) {
        at++;
    }
    q->note_count += at == q->note_count;
    q->notes[at] = (struct model_note){word, work_text("%d", (int)work_pick(w, 100000))};
    work_must(store_note_set(w->store, word, q->notes[at].value), "note");
    return true;
}

bool work_tick(struct work *w)
{
    struct store_clock clock = {.q_ms = w->now_ms,
                                .wall_ms = w->now_ms,
                                .boot_ms = w->now_ms % 1000000,
                                .boot_id = 0x1122334455667788u};
    store_clock_set(w->store, &clock);
    w->draft.queue.clock = clock;
    return true;
}

/*
 * ---- a full queue ----
 */

/* All recipients of all messages get the longest words there are. */
static void longest_outcomes(struct work *w)
{
    struct model_queue *q = &w->draft.queue;
    uint8_t words[RECORD_REPLY_TEXT_BYTES_MAX];
    memset(words, 'w', sizeof words);
    struct slice longest = power_keep(slice_of(words, sizeof words));
    for (size_t index = 0; index < q->count; index++) {
        if (index % 16 == 0) {
            work_transaction_begin(w);
        }
        struct model_message *m = work_copy(w, index);
        m->state.attempts++;
        for (uint32_t at = 0; at < m->recipients; at++) {
            m->recipient[at].fate = (struct record_recipient){.state = RECIPIENT_DEFERRED,
                                                              .flags = m->recipient[at].fate.flags,
                                                              .outcome = OUTCOME_DEFERRED,
                                                              .code = 451,
                                                              .text = longest};
        }
        work_update(w, index, m);
        if (index % 16 == 15 || index + 1 == q->count) {
            work_transaction_commit(w);
        }
    }
}

void work_fill(struct work *w)
{
    struct model_queue *q = &w->draft.queue;
    bool room = true;
    w->messages_max = MODEL_MESSAGES_MAX - 8;
    while (room) {
        work_transaction_begin(w);
        for (size_t count = 0; count < 16 && room; count++) {
            room = work_accept_bytes(w, 500 + work_pick(w, 12000));
        }
        work_transaction_commit(w);
    }
    CHECK(q->count < w->messages_max); /* queue-max was the bound */
    longest_outcomes(w);
    while (q->count > 0) {
        work_transaction_begin(w);
        for (size_t count = 0; count < 24 && q->count > 0; count++) {
            size_t index = work_pick(w, q->count);
            work_remove(w, index, work_copy(w, index), RECORD_END_DELETED);
        }
        work_transaction_commit(w);
    }
    w->messages_max = WORK_MESSAGES_MAX;
}
