/*
 * Operations that write down what came of an attempt.
 */
#include "tests/power/work_internal.h"

static bool is_open(const struct model_message *m, uint32_t recipient)
{
    return recipient_is_open(m->recipient[recipient].fate.state);
}

static enum lifecycle lifecycle_of(enum recipient_state state)
{
    switch (state) {
    case RECIPIENT_DELIVERED:
        return LIFECYCLE_DELIVERED;
    case RECIPIENT_FAILED:
        return LIFECYCLE_FAILED;
    case RECIPIENT_DEFERRED:
        return LIFECYCLE_DEFERRED;
    case RECIPIENT_IN_DOUBT:
        return LIFECYCLE_IN_DOUBT;
    case RECIPIENT_QUEUED:
    case RECIPIENT_STATE_COUNT:
        break;
    }
    return LIFECYCLE_QUEUED;
}

static struct record_recipient answer(enum recipient_state state, struct slice text)
{
    struct record_recipient fate = {.state = state, .text = text};
    switch (state) {
    case RECIPIENT_DELIVERED:
        fate.outcome = OUTCOME_DELIVERED;
        fate.code = 250;
        fate.enhanced[0] = 2;
        break;
    case RECIPIENT_FAILED:
        fate.outcome = OUTCOME_REFUSED;
        fate.code = 550;
        fate.enhanced[0] = 5;
        fate.enhanced[1] = 1;
        fate.enhanced[2] = 1;
        break;
    case RECIPIENT_DEFERRED:
        fate.outcome = OUTCOME_DEFERRED;
        fate.code = 451;
        fate.enhanced[0] = 4;
        break;
    case RECIPIENT_IN_DOUBT:
        fate.outcome = OUTCOME_IN_DOUBT;
        break;
    case RECIPIENT_QUEUED:
    case RECIPIENT_STATE_COUNT:
        break;
    }
    return fate;
}

/* The recipient's answer and its move. */
static void answered(struct work *w, struct model_message *m, uint32_t recipient,
                     enum recipient_state state, struct slice text)
{
    struct record_recipient *fate = &m->recipient[recipient].fate;
    enum lifecycle from = lifecycle_of(fate->state);
    uint8_t flags = fate->flags;
    *fate = answer(state, text);
    fate->flags = flags;
    if (m->move_count < MODEL_MOVES_MAX) {
        work_move(w, m, RECORD_CAUSE_ATTEMPT, from, lifecycle_of(state), recipient);
    }
}

static void attempted(struct work *w, struct model_message *m)
{
    m->state.attempts++;
    m->state.last_q = w->now_ms;
    m->state.due_q = w->now_ms + 1000 + work_pick(w, 100000);
}

/* A queued message, attempted; its index, or the count. */
static size_t attempt(struct work *w, struct model_message **out)
{
    size_t index = work_find(w, MESSAGE_QUEUED);
    if (index < w->draft.queue.count) {
        *out = work_copy(w, index);
        attempted(w, *out);
    }
    return index;
}

static void all_open(struct work *w, struct model_message *m, enum recipient_state state,
                     struct slice text)
{
    for (uint32_t at = 0; at < m->recipients; at++) {
        if (is_open(m, at)) {
            answered(w, m, at, state, text);
        }
    }
}

bool work_deliver_some(struct work *w)
{
    struct model_message *m = NULL;
    size_t index = attempt(w, &m);
    if (index == w->draft.queue.count || m->recipients < 2) {
        return false;
    }
    uint32_t open = 0;
    for (uint32_t at = 0; at < m->recipients; at++) {
        if (!is_open(m, at)) {
            continue;
        }
        bool delivered = work_pick(w, 2) == 0;
        answered(w, m, at, delivered ? RECIPIENT_DELIVERED : RECIPIENT_DEFERRED,
                 delivered ? SLICE("taken") : SLICE("not now"));
        open += !delivered;
    }
    if (open == 0) {
        work_remove(w, index, m, RECORD_END_DELIVERED);
    } else {
        work_update(w, index, m);
    }
    return true;
}

bool work_deliver_all(struct work *w)
{
    struct model_message *m = NULL;
    if (w->draft.queue.count < w->messages_max / 3) {
        return false;
    }
    size_t index = attempt(w, &m);
    if (index == w->draft.queue.count) {
        return false;
    }
    all_open(w, m, RECIPIENT_DELIVERED, SLICE("taken"));
    work_remove(w, index, m, RECORD_END_DELIVERED);
    return true;
}

static bool all_wait(struct work *w, enum recipient_state state)
{
    struct model_message *m = NULL;
    size_t index = attempt(w, &m);
    if (index == w->draft.queue.count) {
        return false;
    }
    all_open(w, m, state, work_text("the %u. time", m->state.attempts));
    work_update(w, index, m);
    return true;
}

bool work_defer(struct work *w)
{
    return all_wait(w, RECIPIENT_DEFERRED);
}

bool work_in_doubt(struct work *w)
{
    return all_wait(w, RECIPIENT_IN_DOUBT);
}

/* Into the trash, where it stays for a day. */
static void trash(struct work *w, struct model_message *m, enum record_cause cause)
{
    m->state.state = MESSAGE_TRASHED;
    m->state.flags = 0;
    m->state.due_q = w->now_ms + 86400000;
    if (m->move_count < MODEL_MOVES_MAX) {
        work_move(w, m, cause, LIFECYCLE_FAILED, LIFECYCLE_TRASHED, 0);
    }
}

/* The report and the failure that it is about are one transaction: invariant 8. */
bool work_fail_report(struct work *w)
{
    struct model_message *m = NULL;
    size_t index = attempt(w, &m);
    if (index == w->draft.queue.count || m->envelope.sender.len == 0 ||
        w->draft.queue.count + 2 > w->messages_max) {
        return false;
    }
    all_open(w, m, RECIPIENT_FAILED, SLICE("never"));
    for (uint32_t at = 0; at < m->recipients; at++) {
        if (m->recipient[at].fate.state == RECIPIENT_FAILED) {
            m->recipient[at].fate.flags |= RECORD_FATE_TOLD_FAILED;
        }
    }
    trash(w, m, RECORD_CAUSE_REPORTED);
    if (work_pick(w, 3) == 0) {
        work_remove(w, index, m, RECORD_END_REPORTED);
    } else {
        work_update(w, index, m);
    }
    work_report_add(w, m, RECORD_FLAG_REPORT);
    return true;
}

/* Nobody can be told at once. */
bool work_fail_digest(struct work *w)
{
    struct model_message *m = NULL;
    size_t index = attempt(w, &m);
    if (index == w->draft.queue.count) {
        return false;
    }
    all_open(w, m, RECIPIENT_FAILED, SLICE("never"));
    m->state.state = MESSAGE_FAILED;
    m->state.flags = (uint16_t)(work_pick(w, 3) == 0 ? 0u : RECORD_STATE_AWAITS_DIGEST);
    work_update(w, index, m);
    return true;
}

/* Nobody wants to be told. */
bool work_fail_quiet(struct work *w)
{
    struct model_message *m = NULL;
    size_t index = attempt(w, &m);
    if (index == w->draft.queue.count || w->draft.queue.count < w->messages_max / 3) {
        return false;
    }
    all_open(w, m, RECIPIENT_FAILED, SLICE("never"));
    work_remove(w, index, m, RECORD_END_DISCARDED);
    return true;
}

/* It takes long, and the sender is told so. */
bool work_warn(struct work *w)
{
    size_t index = work_find(w, MESSAGE_QUEUED);
    if (index == w->draft.queue.count || w->draft.queue.count + 2 > w->messages_max) {
        return false;
    }
    struct model_message *m = work_copy(w, index);
    for (uint32_t at = 0; at < m->recipients; at++) {
        if (is_open(m, at)) {
            m->recipient[at].fate.flags |= RECORD_FATE_TOLD_DELAY;
        }
    }
    work_update(w, index, m);
    work_report_add(w, m, RECORD_FLAG_REPORT);
    return true;
}

/* All that wait for it are told about in one message. */
bool work_digest(struct work *w)
{
    struct model_queue *q = &w->draft.queue;
    size_t told = 0;
    if (q->count + 2 > w->messages_max) {
        return false;
    }
    for (size_t index = 0; index < q->count; index++) {
        if ((q->messages[index]->state.flags & RECORD_STATE_AWAITS_DIGEST) != 0) {
            struct model_message *m = work_copy(w, index);
            trash(w, m, RECORD_CAUSE_REPORTED);
            work_update(w, index, m);
            told++;
        }
    }
    if (told > 0) {
        work_report_add(w, NULL, RECORD_FLAG_DIGEST);
    }
    return told > 0;
}
