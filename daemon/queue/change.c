/*
 * One message's way from one state record to the next: what becomes of each recipient, who is told,
 * whether the message stays, and what is remembered of it. Everything within the open transaction,
 * so that a report and the failure it is about are committed together, and a message is in the
 * queue or in the history.
 */
#include "daemon/base/num.h"
#include "daemon/queue/queue_internal.h"

/* Recipients that move alike make one move. So many different ones are told apart; what is beyond
 * joins the last that moved to the same state. */
#define GROUPS_MAX RECORD_TRAIL_MOVES_MAX

/* ---- loading ---- */

static enum err copy(struct buf *to, struct slice from)
{
    buf_reset(to);
    if (from.len > buf_room(to)) {
        return ERR_LIMIT;
    }
    buf_put(to, from);
    return ERR_OK;
}

static enum err load_state(struct queue *q, struct queue_change *c)
{
    struct slice bytes;
    enum err err = store_state_get(q->with.store, c->id, &bytes);
    if (err == ERR_OK) {
        err = copy(&q->old_state, bytes);
    }
    return err == ERR_OK ? record_state_get(buf_slice(&q->old_state), &c->old) : err;
}

/* Without its envelope a message can still be settled, deleted and remembered. */
static enum err load_envelope(struct queue *q, struct queue_change *c)
{
    struct slice bytes;
    enum err err = store_envelope_get(q->with.store, c->id, &bytes);
    if (err == ERR_OK) {
        err = copy(&q->envelope, bytes);
    }
    if (err == ERR_OK) {
        err = record_envelope_get(buf_slice(&q->envelope), &c->envelope);
    }
    c->envelope_sound = err == ERR_OK && c->envelope.recipient_count == c->old.recipient_count;
    if (!c->envelope_sound) {
        buf_reset(&q->envelope);
    }
    return err == ERR_IO || err == ERR_FULL || err == ERR_NO_MEMORY ? err : ERR_OK;
}

enum err queue_change_load(struct queue *q, struct queue_change *c, const struct msg_id *id)
{
    *c = (struct queue_change){.id = id};
    enum err err = load_state(q, c);
    if (err == ERR_OK) {
        err = load_envelope(q, c);
    }
    if (err != ERR_OK) {
        return err;
    }
    c->upstream = queue_home(q, &c->old, c->envelope_sound ? &c->envelope : NULL);
    c->via = c->upstream;
    c->next = c->old;
    c->fates = c->old.recipients;
    c->rcpts = c->envelope_sound ? c->envelope.recipients : slice_of(NULL, 0);
    buf_reset(&q->fates);
    buf_reset(&q->moves);
    return ERR_OK;
}

bool queue_change_next(struct queue_change *c, struct record_recipient *out_fate,
                       struct record_rcpt *out_rcpt)
{
    *out_rcpt = (struct record_rcpt){0};
    if (!record_fate_next(&c->fates, out_fate)) {
        return false;
    }
    if (c->envelope_sound) {
        bool there = record_rcpt_next(&c->rcpts, out_rcpt);
        CHECK(there); /* both lists were judged, and are of one length */
    }
    return true;
}

/* ---- moves ---- */

static bool same_move(const struct record_move *a, const struct record_move *b)
{
    return a->from == b->from && a->to == b->to && a->outcome == b->outcome && a->code == b->code &&
           memcmp(a->enhanced, b->enhanced, sizeof a->enhanced) == 0 &&
           slice_equal(a->text, slice_head(b->text, RECORD_MOVE_TEXT_BYTES_MAX));
}

/* Adds one to the count of the move at list, which is at its place in the encoding. */
static void move_join(struct buf *moves, struct slice rest_before)
{
    uint8_t *count = moves->data + (moves->len - rest_before.len) + RECORD_MOVE_COUNT_OFFSET;
    be32_put(count, be32_get(count) + 1);
}

static bool join(struct queue *q, const struct record_move *move, bool loosely)
{
    struct slice rest = buf_slice(&q->moves);
    struct slice at = rest;
    struct record_move before;
    while (record_move_next(&rest, &before)) {
        if (same_move(&before, move) || (loosely && before.to == move->to)) {
            move_join(&q->moves, at);
            return true;
        }
        at = rest;
    }
    return false;
}

static void note_move(struct queue *q, struct queue_change *c, enum lifecycle from,
                      enum lifecycle to, const struct record_recipient *after)
{
    struct record_move move = {
        .when_ms = (uint64_t)((int64_t)q->now_ms + q->wall_minus_q),
        .cause = c->cause,
        .from = from,
        .to = to,
        .first = c->index,
        .count = 1,
        .uid = c->uid,
        .text = c->words,
    };
    if (c->cause == RECORD_CAUSE_ATTEMPT || c->cause == RECORD_CAUSE_GIVE_UP) {
        move.outcome = after->outcome;
        move.code = after->code;
        memcpy(move.enhanced, after->enhanced, sizeof move.enhanced);
        move.text = after->text;
        move.connection = c->connection;
        move.duration_ms = c->duration_ms;
        move.upstream = slice_from_str(c->via->config->name);
        move.peer = c->peer;
        move.tls = c->tls;
    }
    if (join(q, &move, c->move_count == GROUPS_MAX) || c->move_count == GROUPS_MAX) {
        return;
    }
    record_move_put(&q->moves, &move);
    CHECK(!q->moves.overflow);
    c->move_count++;
}

/* Was that move a legal one? An attempt goes by way of `sending`. */
static void check_move(const struct queue_change *c, enum lifecycle from, enum lifecycle to)
{
    bool attempt = c->cause == RECORD_CAUSE_ATTEMPT || c->cause == RECORD_CAUSE_GIVE_UP;
    if (attempt) {
        CHECK(lifecycle_may_move(from, LIFECYCLE_SENDING) &&
              (lifecycle_may_move(LIFECYCLE_SENDING, to) || from == to));
    } else if (from != to) {
        CHECK(lifecycle_may_move(from, to));
    }
}

/* before == after: nothing was tried about this recipient. */
void queue_change_put(struct queue *q, struct queue_change *c,
                      const struct record_recipient *before, const struct record_recipient *after)
{
    enum lifecycle from = record_lifecycle(c->old.state, before->state, false);
    enum lifecycle to = record_lifecycle(c->next.state, after->state, false);
    bool tried = c->cause == RECORD_CAUSE_ATTEMPT && before != after;
    if (from != to || tried) {
        check_move(c, from, to);
        note_move(q, c, from, to, after);
    }
    c->open += recipient_is_open(after->state);
    c->delivered += after->state == RECIPIENT_DELIVERED;
    c->failed += after->state == RECIPIENT_FAILED;
    c->failed_now += after->state == RECIPIENT_FAILED && before->state != RECIPIENT_FAILED;
    record_fate_put(&q->fates, after);
    CHECK(!q->fates.overflow);
    c->index++;
}

/* ---- telling ---- */

static bool notifies(const struct record_rcpt *rcpt, uint8_t bit)
{
    return rcpt->notify == 0 ? bit != RECORD_NOTIFY_SUCCESS : (rcpt->notify & bit) != 0;
}

/* What is to be told, and of whom. */
struct telling {
    bool failed, success, delay; /* at least one recipient */
    bool untold;                 /* one that failed, whom nobody could be told of by a report */
};

/* Looks through the new fates. A failure of which nobody wants to hear counts as told. */
static struct telling look(struct queue *q, struct queue_change *c, bool warn)
{
    struct telling t = {0};
    struct slice fates = buf_slice(&q->fates);
    struct slice rcpts = c->envelope_sound ? c->envelope.recipients : slice_of(NULL, 0);
    struct record_recipient fate;
    bool made_here = (c->envelope.flags & (RECORD_FLAG_REPORT | RECORD_FLAG_DIGEST)) != 0;
    bool can = c->envelope_sound && !made_here && c->envelope.sender.len > 0;
    while (record_fate_next(&fates, &fate)) {
        struct record_rcpt rcpt = {0};
        if (c->envelope_sound && !record_rcpt_next(&rcpts, &rcpt)) {
            break;
        }
        bool failed = fate.state == RECIPIENT_FAILED && (fate.flags & RECORD_FATE_TOLD_FAILED) == 0;
        if (failed && (rcpt.notify == 0 || notifies(&rcpt, RECORD_NOTIFY_FAILURE))) {
            t.failed = t.failed || can;
            t.untold = t.untold || !can;
        }
        t.success = t.success || (can && fate.state == RECIPIENT_DELIVERED &&
                                  (fate.flags & RECORD_FATE_TOLD_SUCCESS) == 0 &&
                                  notifies(&rcpt, RECORD_NOTIFY_SUCCESS));
        t.delay = t.delay || (can && warn && recipient_is_open(fate.state) &&
                              (fate.flags & RECORD_FATE_TOLD_DELAY) == 0 &&
                              notifies(&rcpt, RECORD_NOTIFY_DELAY));
    }
    return t;
}

/* Reports that follow from the new fates. *out_untold: a failure is left that nobody was told of.
 */
static enum err tell(struct queue *q, struct queue_change *c, bool *out_untold)
{
    struct telling t = look(q, c, c->warn);
    bool told = true;
    enum err err = ERR_OK;
    *out_untold = t.untold;
    if (t.failed) {
        err = queue_report(q, c, RECORD_FATE_TOLD_FAILED, &told);
        *out_untold = *out_untold || !told;
    }
    if (err == ERR_OK && t.success) {
        err = queue_report(q, c, RECORD_FATE_TOLD_SUCCESS, &told);
    }
    if (err == ERR_OK && t.delay) {
        err = queue_report(q, c, RECORD_FATE_TOLD_DELAY, &told);
    }
    return err;
}

/* ---- finishing ---- */

/* The trail with this change's moves; empty when there is nothing to write down. */
static enum err trail_make(struct queue *q, struct queue_change *c, struct slice *out)
{
    struct slice bytes;
    struct record_trail before;
    buf_reset(&q->trail);
    enum err err = store_trail_get(q->with.store, c->id, &bytes);
    bool there = err == ERR_OK && record_trail_get(bytes, &before) == ERR_OK;
    if (err == ERR_IO || err == ERR_FULL || err == ERR_NO_MEMORY) {
        return err;
    }
    *out = slice_of(NULL, 0);
    if (there || c->move_count > 0 || c->dialogue.len > 0) {
        record_trail_put(&q->trail, there ? &before : NULL, buf_slice(&q->moves), c->move_count,
                         c->dialogue);
        CHECK(!q->trail.overflow);
        *out = buf_slice(&q->trail);
    }
    return ERR_OK;
}

static void state_encode(struct queue *q, struct queue_change *c)
{
    c->next.recipients = buf_slice(&q->fates);
    c->next.reason = record_reason(c->next.recipients);
    c->next.changed_q = q->now_ms;
    buf_reset(&q->new_state);
    record_state_put(&q->new_state, &c->next);
    CHECK(!q->new_state.overflow);
}

enum err queue_change_leave(struct queue *q, struct queue_change *c, enum record_end end)
{
    struct record_history history = {
        .left_ms = (uint64_t)((int64_t)q->now_ms + q->wall_minus_q),
        .left_q = q->now_ms,
        .end = end,
        .envelope = buf_slice(&q->envelope),
    };
    enum err err = trail_make(q, c, &history.trail);
    if (err != ERR_OK) {
        return err;
    }
    state_encode(q, c);
    history.state = buf_slice(&q->new_state);
    buf_reset(&q->history);
    record_history_put(&q->history, &history);
    CHECK(!q->history.overflow);
    return store_message_remove(q->with.store, c->id, buf_slice(&q->history));
}

static enum err stay(struct queue *q, struct queue_change *c)
{
    struct slice trail;
    enum err err = trail_make(q, c, &trail);
    if (err == ERR_OK && trail.len > 0) {
        err = store_trail_set(q->with.store, c->id, trail);
    }
    if (err != ERR_OK) {
        return err;
    }
    state_encode(q, c);
    err = store_message_update(q->with.store, c->id, buf_slice(&q->new_state));
    bool falls_due =
        c->next.state == MESSAGE_TRASHED || (c->next.flags & RECORD_STATE_AWAITS_DIGEST) != 0;
    if (err == ERR_OK && falls_due) {
        uint64_t before_ms = q->effects.upkeep_ms;
        q->effects.upkeep_ms = before_ms == 0 ? c->next.due_q : u64_min(before_ms, c->next.due_q);
    }
    if (err == ERR_OK && c->next.state == MESSAGE_QUEUED) {
        struct sched_item item = queue_item(c->id, &c->next);
        queue_due_later(q, c->upstream, &item);
    }
    return err;
}

/* No recipient is open: it has failed for good. Who was told of it decides where it goes. */
static enum err stay_failed(struct queue *q, struct queue_change *c, bool untold)
{
    bool digest = (c->envelope.flags & RECORD_FLAG_DIGEST) != 0;
    c->next.flags = 0;
    if (untold) {
        c->next.state = MESSAGE_FAILED;
        c->next.flags = digest ? 0 : (uint16_t)RECORD_STATE_AWAITS_DIGEST;
        c->next.due_q = queue_digest_due_ms(q);
        return stay(q, c);
    }
    if (q->with.config->keep_deleted_ms == 0 || !store_has_room(q->with.store, 0)) {
        return queue_change_leave(q, c, RECORD_END_REPORTED);
    }
    c->next.state = MESSAGE_TRASHED;
    c->next.due_q = q->now_ms + q->with.config->keep_deleted_ms;
    return stay(q, c);
}

enum err queue_change_finish(struct queue *q, struct queue_change *c)
{
    bool untold = false;
    CHECK(c->index == c->old.recipient_count);
    enum err err = tell(q, c, &untold);
    if (err != ERR_OK) {
        return err;
    }
    if (c->open > 0 || c->next.state == MESSAGE_HELD || c->next.state == MESSAGE_TRASHED) {
        return stay(q, c);
    }
    return c->failed == 0 ? queue_change_leave(q, c, RECORD_END_DELIVERED)
                          : stay_failed(q, c, untold);
}
