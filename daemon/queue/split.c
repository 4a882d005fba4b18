/*
 * A message whose recipients go by different upstreams becomes several as it comes in, one for each
 * upstream: with its own id, its own recipients and its own copy of the body, so that each has one
 * route, one due time and one fate for its give-up. They are added in one transaction, all or none;
 * the first has the id that the client is told.
 *
 * What that transaction adds is little. The bodies' full pieces are copied before it, in
 * transactions of at most QUEUE_BATCH_BYTES_MAX each, since what a transaction writes is memory
 * until it commits; one such step a round, so that others' mail goes on meanwhile. Until the last
 * transaction the copies are bodies that are still being received: a crash, a full disk or a failed
 * copy discards them with the first.
 *
 * The plan (who goes where, the ids) is made once, when the intake comes, and stays as it is
 * however often a transaction is done again.
 */
#include "daemon/queue/queue_internal.h"

#include <stdlib.h>

#define SPLIT_NOTE_BYTES 4096 /* in the trail: a line for each part */

/* ---- the plan ---- */

static struct queue_part *part_for(struct queue_split *s, struct queue_upstream *u)
{
    uint32_t at = 0;
    while (at < s->part_count && s->parts[at].upstream != u) {
        at++;
    }
    if (at == s->part_count) {
        CHECK(s->part_count < UPSTREAMS_MAX);
        s->parts[s->part_count++] = (struct queue_part){.upstream = u};
    }
    return &s->parts[at];
}

/* Recipients that no terms fit go one way, whichever of several it is. */
static void assign(struct queue *q, struct queue_split *s, const struct record_envelope *e)
{
    struct slice rcpts = e->recipients;
    struct record_rcpt rcpt;
    struct queue_upstream *rest = NULL;
    for (uint32_t index = 0; record_rcpt_next(&rcpts, &rcpt); index++) {
        struct queue_upstream *u = queue_route_for(q, e->sender, rcpt.path);
        if (u == NULL) {
            rest = rest == NULL ? queue_route_rest(q) : rest;
            u = rest;
        }
        struct queue_part *part = part_for(s, u);
        part->recipient_count++;
        s->part_of[index] = (uint8_t)(part - s->parts);
    }
}

/* intake->split stays NULL when all go one way. */
static enum err plan(struct queue *q, struct flow_intake *intake)
{
    struct record_envelope e;
    if (!q->by_recipient || intake->recipient_count < 2) {
        return ERR_OK;
    }
    CHECK(intake->recipient_count <= SMTP_RECIPIENTS_MAX);
    enum err err = record_envelope_get(intake->envelope, &e);
    if (err != ERR_OK) {
        return err;
    }
    struct queue_split *s = calloc(1, sizeof *s);
    if (s == NULL) {
        return ERR_NO_MEMORY;
    }
    assign(q, s, &e);
    if (s->part_count == 1) {
        free(s); /* they all go one way, which is found again when it is added */
        return ERR_OK;
    }
    uint64_t wall_ms = (uint64_t)((int64_t)q->now_ms + q->wall_minus_q);
    s->parts[0].id = intake->id;
    for (uint32_t at = 1; at < s->part_count; at++) {
        s->parts[at].id = flow_ids_next(q->with.ids, wall_ms);
    }
    s->intake = intake;
    intake->split = s;
    return ERR_OK;
}

void queue_split_free(struct flow_intake *intake)
{
    free(intake->split);
    intake->split = NULL;
}

/* ---- the bodies ---- */

/* As far as the first was appended, before its last piece? */
static bool is_copied(const struct queue_split *s)
{
    return s->pieces_copied == s->intake->piece_index;
}

/* One piece of the first, for each of the others. */
static enum err copy_piece(struct queue *q, const struct queue_split *s, uint32_t index)
{
    buf_reset(&q->piece);
    enum err err = store_body_piece(q->with.store, &s->parts[0].id, index, &q->piece);
    for (uint32_t at = 1; err == ERR_OK && at < s->part_count; at++) {
        err = store_body_append(q->with.store, &s->parts[at].id, index, buf_slice(&q->piece));
    }
    return err;
}

/* What a copy of the whole will take. */
static bool has_room(struct queue *q, const struct queue_split *s)
{
    uint64_t pieces = s->intake->piece_index - s->pieces_copied;
    return store_has_room(q->with.store,
                          pieces * store_piece_bytes(q->with.store) * (s->part_count - 1));
}

/* Copies some more, in a transaction of its own. */
static enum err copy_some(struct queue *q, struct queue_split *s)
{
    uint32_t pieces = s->pieces_copied;
    size_t each_bytes = store_piece_bytes(q->with.store) * (s->part_count - 1);
    enum err err = queue_transaction_begin(q);
    if (err != ERR_OK) {
        return err;
    }
    err = has_room(q, s) ? ERR_OK : ERR_FULL;
    for (size_t bytes = 0; err == ERR_OK && bytes + each_bytes <= QUEUE_BATCH_BYTES_MAX &&
                           pieces < s->intake->piece_index;
         bytes += each_bytes) {
        err = copy_piece(q, s, pieces++);
    }
    err = queue_transaction_end(q, err);
    if (err == ERR_OK) {
        s->pieces_copied = pieces;
    }
    return err;
}

void queue_take_intake(struct queue *q, struct flow_intake *intake)
{
    intake->split = NULL;
    enum err err = intake->step == FLOW_INTAKE_COMMIT ? plan(q, intake) : ERR_OK;
    if (err != ERR_OK) {
        queue_answer_failed(q, &intake->msg, err);
        return;
    }
    if (intake->split == NULL || is_copied(intake->split)) {
        queue_batch_add(q, &intake->msg);
        return;
    }
    struct queue_split **end = &q->splits;
    while (*end != NULL) {
        end = &(*end)->next;
    }
    *end = intake->split;
}

/* Of the first in the list, which leaves it when it is done. */
static void copy_first(struct queue *q)
{
    struct queue_split *s = q->splits;
    queue_carry_end(q);
    /* Its pieces may be gone: that is found, and answered, where it is applied. */
    bool lost = s->intake->epoch != q->intake_epoch;
    enum err err = q->store_failed ? ERR_IN_DOUBT : lost ? ERR_OK : copy_some(q, s);
    if (err == ERR_OK && !lost && !is_copied(s)) {
        return;
    }
    q->splits = s->next;
    if (err == ERR_OK) {
        queue_batch_add(q, &s->intake->msg);
        return;
    }
    queue_note_failure(q, err);
    metric_add(q->with.metrics, METRIC_STORE_REFUSALS, err == ERR_FULL);
    queue_answer_failed(q, &s->intake->msg, err);
}

void queue_split_copy(struct queue *q)
{
    bool once = true;
    while (q->splits != NULL && (once || q->stopping || q->store_failed)) {
        copy_first(q);
        once = false;
    }
}

enum err queue_split_discard(struct queue *q, const struct flow_intake *intake)
{
    const struct queue_split *s = intake->split;
    enum err err = store_body_discard(q->with.store, &intake->id);
    for (uint32_t at = 1; err == ERR_OK && s != NULL && at < s->part_count; at++) {
        err = store_body_discard(q->with.store, &s->parts[at].id);
    }
    return err;
}

/* ---- the messages ---- */

/* The envelope with the recipients of one part only. */
static struct slice envelope_of(struct queue *q, const struct queue_split *s, uint32_t part,
                                const struct record_envelope *whole)
{
    struct record_envelope e = *whole;
    struct slice rcpts = whole->recipients;
    struct record_rcpt rcpt;
    struct buf *list = &q->history; /* of the same size as all scratch for envelopes, and more */
    buf_reset(list);
    for (uint32_t index = 0; record_rcpt_next(&rcpts, &rcpt); index++) {
        if (s->part_of[index] == part) {
            record_rcpt_put(list, &rcpt);
        }
    }
    e.recipient_count = s->parts[part].recipient_count;
    e.recipients = buf_slice(list);
    buf_reset(&q->envelope);
    record_envelope_put(&q->envelope, &e);
    CHECK(!list->overflow && !q->envelope.overflow);
    return buf_slice(&q->envelope);
}

static void put_name(struct buf *to, const struct queue_part *part)
{
    msg_id_put_text(to, &part->id);
    buf_put_str(to, " by ");
    buf_put_str(to, part->upstream->config->name);
}

/* What became of whom, where the dialogue will stand. */
static enum err note_split(struct queue *q, const struct queue_split *s, uint32_t part)
{
    uint8_t memory[SPLIT_NOTE_BYTES];
    struct buf words;
    buf_init(&words, memory, sizeof memory);
    for (uint32_t at = 0; at < s->part_count; at++) {
        if (part == 0 && at > 0) {
            buf_printf(&words, "-- as it came in, %u recipient%s became the message ",
                       (unsigned)s->parts[at].recipient_count,
                       s->parts[at].recipient_count == 1 ? "" : "s");
            put_name(&words, &s->parts[at]);
            buf_put_byte(&words, '\n');
        }
    }
    if (part > 0) {
        buf_put_str(&words, "-- as it came in, it was part of the message ");
        put_name(&words, &s->parts[0]);
        buf_put_byte(&words, '\n');
    }
    buf_reset(&q->trail);
    record_trail_put(&q->trail, NULL, slice_of(NULL, 0), 0, buf_slice(&words));
    CHECK(!words.overflow && !q->trail.overflow);
    return store_trail_set(q->with.store, &s->parts[part].id, buf_slice(&q->trail));
}

enum err queue_split_add(struct queue *q, const struct flow_intake *intake)
{
    const struct queue_split *s = intake->split;
    struct record_envelope whole;
    enum err err = record_envelope_get(intake->envelope, &whole);
    for (uint32_t at = 0; err == ERR_OK && at < s->part_count; at++) {
        const struct queue_part *part = &s->parts[at];
        if (at > 0 && intake->piece.len > 0) {
            err = store_body_append(q->with.store, &part->id, intake->piece_index, intake->piece);
        }
        if (err == ERR_OK) {
            err = queue_add_message(q, &part->id, envelope_of(q, s, at, &whole), part->upstream);
        }
        if (err == ERR_OK) {
            err = note_split(q, s, at);
        }
    }
    return err;
}

void queue_split_log(struct queue *q, const struct flow_intake *intake)
{
    const struct queue_split *s = intake->split;
    for (uint32_t at = 1; s != NULL && intake->result == ERR_OK && at < s->part_count; at++) {
        uint8_t memory[MSG_ID_TEXT_BYTES + 1];
        struct buf first;
        struct log_line line;
        buf_init(&first, memory, sizeof memory);
        msg_id_put_text(&first, &intake->id);
        event_begin(&line, q->with.log, EVENT_SPLIT);
        event_put_id(&line, &s->parts[at].id);
        log_put_text(&line, "from", buf_slice(&first));
        log_put_word(&line, "upstream", s->parts[at].upstream->config->name);
        log_put_u64(&line, "recipients", s->parts[at].recipient_count);
        log_end(&line);
    }
}
