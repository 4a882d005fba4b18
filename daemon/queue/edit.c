/*
 * An operator's commands about messages, within the open transaction. A message that is being sent
 * is left alone and said to be busy.
 */
#include "daemon/base/num.h"
#include "daemon/queue/queue_internal.h"

/* In which states a command makes sense, and what the message becomes. */
struct rule {
    bool allowed[MESSAGE_STATE_COUNT];
    enum message_state result;
};

#define ANY_STATE                                                                                  \
    {                                                                                              \
        [MESSAGE_QUEUED] = true, [MESSAGE_HELD] = true, [MESSAGE_FAILED] = true,                   \
        [MESSAGE_TRASHED] = true                                                                   \
    }

static const struct rule rules[FLOW_EDIT_ACTION_COUNT] = {
    [FLOW_EDIT_RETRY] = {ANY_STATE, MESSAGE_QUEUED},
    [FLOW_EDIT_HOLD] = {{[MESSAGE_QUEUED] = true, [MESSAGE_FAILED] = true}, MESSAGE_HELD},
    [FLOW_EDIT_RELEASE] = {{[MESSAGE_HELD] = true}, MESSAGE_QUEUED},
    [FLOW_EDIT_DELETE] = {ANY_STATE, MESSAGE_TRASHED},
    [FLOW_EDIT_UNDELETE] = {{[MESSAGE_TRASHED] = true}, MESSAGE_QUEUED},
    [FLOW_EDIT_BOUNCE] = {{[MESSAGE_QUEUED] = true, [MESSAGE_HELD] = true}, MESSAGE_FAILED},
};

/* What the command makes of one recipient. open: some recipient of the message is. */
static void alter(enum flow_edit_action action, bool open, struct record_recipient *fate)
{
    bool again = action == FLOW_EDIT_RETRY || (action == FLOW_EDIT_RELEASE && !open);
    if (again && fate->state == RECIPIENT_FAILED) {
        fate->state = RECIPIENT_QUEUED; /* a release of what was held when it had failed, too */
    }
    if (action == FLOW_EDIT_RETRY && recipient_is_open(fate->state)) {
        fate->state = RECIPIENT_QUEUED;
    }
    if (action == FLOW_EDIT_BOUNCE && recipient_is_open(fate->state)) {
        fate->state = RECIPIENT_FAILED;
        fate->outcome = OUTCOME_RETURNED;
    }
}

static bool any_open(const struct record_state *state)
{
    struct slice fates = state->recipients;
    struct record_recipient fate;
    bool open = false;
    while (record_fate_next(&fates, &fate)) {
        open = open || recipient_is_open(fate.state);
    }
    return open;
}

static bool pauses(enum message_state state)
{
    return state == MESSAGE_HELD || state == MESSAGE_TRASHED;
}

/*
 * Give-up counts neither while a message lies on hold or in the trash, nor what led to a failure
 * that the operator has it tried after again. What goes there takes its age along, as it is; the
 * record says since when it is there.
 */
static void set_age(const struct queue *q, struct queue_change *c, bool open)
{
    struct record_state *next = &c->next;
    if (next->state == MESSAGE_QUEUED && !open) {
        next->accepted_q = q->now_ms;
    } else if (pauses(c->old.state)) {
        next->accepted_q += q->now_ms - u64_min(c->old.changed_q, q->now_ms);
    } else if (pauses(next->state)) {
        next->accepted_q = q->now_ms - queue_age_ms(q, c);
    } else {
        return;
    }
    next->outage_base = queue_outage_ms(q, c->upstream);
}

/* State, route, age and due time that follow from the command. */
static void redirect(struct queue *q, struct queue_change *c, enum flow_edit_action action,
                     bool open)
{
    struct record_state *next = &c->next;
    next->state = rules[action].result;
    next->flags =
        next->state == MESSAGE_TRASHED && c->old.state == MESSAGE_HELD ? RECORD_STATE_WAS_HELD : 0;
    bool was_held = (c->old.flags & RECORD_STATE_WAS_HELD) != 0;
    if (action == FLOW_EDIT_UNDELETE && (was_held || !open)) {
        next->state = MESSAGE_HELD; /* where it has failed, that was told: somebody has to decide */
    }
    if (next->state == MESSAGE_QUEUED) {
        queue_reroute(q, next, c->upstream);
        next->due_q = q->now_ms;
    } else if (next->state == MESSAGE_TRASHED) {
        next->due_q = q->now_ms + q->with.config->keep_deleted_ms;
    }
    set_age(q, c, open);
}

static enum err change(struct queue *q, struct queue_change *c, const struct flow_edit *edit)
{
    struct record_recipient fate;
    struct record_rcpt rcpt;
    bool for_good = c->old.state == MESSAGE_TRASHED || q->with.config->keep_deleted_ms == 0 ||
                    !store_has_room(q->with.store, 0); /* it is deleted to make some */
    c->cause = RECORD_CAUSE_OPERATOR;
    c->uid = edit->uid;
    c->words = slice_from_str(edit->reason);
    bool open = any_open(&c->old);
    redirect(q, c, edit->action, open);
    while (queue_change_next(c, &fate, &rcpt)) {
        struct record_recipient after = fate;
        alter(edit->action, open, &after);
        queue_change_put(q, c, &fate, &after);
    }
    return edit->action == FLOW_EDIT_DELETE && for_good
               ? queue_change_leave(q, c, RECORD_END_DELETED)
               : queue_change_finish(q, c);
}

/* A message whose state cannot be read can still be deleted, at once. */
static enum err remove_unreadable(struct queue *q, const struct msg_id *id, enum err why,
                                  enum flow_edit_action action, enum err *result)
{
    *result = why;
    if (why != ERR_DAMAGED || action != FLOW_EDIT_DELETE) {
        return ERR_OK;
    }
    enum err err = store_message_remove(q->with.store, id, slice_of(NULL, 0));
    *result = err == ERR_NOT_FOUND ? ERR_NOT_FOUND : ERR_OK;
    return err == ERR_NOT_FOUND ? ERR_OK : err;
}

static enum err edit_one(struct queue *q, const struct flow_edit *edit, const struct msg_id *id,
                         enum err *result)
{
    struct queue_change c;
    if (queue_is_leased(q, id)) {
        *result = ERR_BUSY;
        return ERR_OK;
    }
    enum err err = queue_change_load(q, &c, id);
    if (err == ERR_NOT_FOUND || err == ERR_DAMAGED || err == ERR_VERSION || err == ERR_LIMIT) {
        return remove_unreadable(q, id, err, edit->action, result);
    }
    if (err != ERR_OK) {
        return err;
    }
    if (!rules[edit->action].allowed[c.old.state]) {
        *result = ERR_UNSUPPORTED;
        return ERR_OK;
    }
    *result = ERR_OK;
    return change(q, &c, edit);
}

/* The same id twice in one batch: the sched would learn of it twice, and it would be sent twice. */
static bool was_named(const struct flow_edit *edit, uint32_t index)
{
    for (uint32_t before = 0; before < index; before++) {
        if (msg_id_compare(&edit->ids[before], &edit->ids[index]) == 0) {
            return true;
        }
    }
    return false;
}

enum err queue_apply_edit(struct queue *q, struct flow_edit *edit)
{
    for (uint32_t index = 0; index < edit->count; index++) {
        if (was_named(edit, index)) {
            edit->results[index] = ERR_UNSUPPORTED;
            continue;
        }
        enum err err = edit_one(q, edit, &edit->ids[index], &edit->results[index]);
        if (err != ERR_OK) {
            return err;
        }
    }
    return ERR_OK;
}
