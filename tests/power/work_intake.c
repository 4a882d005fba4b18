/*
 * Operations that take mail in. Each returns false when there is nothing that it could be done to.
 */
#include "tests/power/work_internal.h"

static struct slice body_of_any_size(struct work *w)
{
    static const uint32_t sizes[] = {0, 1, 511, 4000, 4096, 12000, 20000, 70000, 180000};
    uint64_t kind = work_pick(w, 24);
    size_t bytes = kind < 9 ? sizes[kind] : 200 + work_pick(w, 3000);
    if (bytes > 20000 && work_pick(w, 3) != 0) {
        bytes = 5000;
    }
    return work_body(w, bytes);
}

/* May the work take another one? The store has to agree. */
static bool has_room(const struct work *w, size_t bytes)
{
    return w->draft.queue.count < w->messages_max && store_has_room(w->store, bytes);
}

bool work_accept_bytes(struct work *w, size_t bytes)
{
    if (!has_room(w, bytes)) {
        return false;
    }
    struct msg_id id = work_id(w);
    struct slice body = work_body(w, bytes);
    work_message_add(w, work_message_new(w, &id, body, work_body_append(w, &id, body)));
    return true;
}

bool work_accept(struct work *w)
{
    struct slice body = body_of_any_size(w);
    if (!has_room(w, body.len)) {
        return false;
    }
    struct msg_id id = work_id(w);
    work_message_add(w, work_message_new(w, &id, body, work_body_append(w, &id, body)));
    return true;
}

static void piece_append(struct work *w, struct work_open *open)
{
    struct model_intake *intake = &open->intake;
    struct slice piece =
        slice_head(slice_tail(open->whole, intake->body.len), w->model->piece_bytes);
    work_must(store_body_append(w->store, &intake->id, intake->pieces, piece), "append");
    uint64_t *last_id = &w->draft.queue.last_id;
    *last_id = u64_max(*last_id, msg_id_time_and_sequence(&intake->id));
    intake->pieces++;
    intake->body = slice_head(open->whole, intake->body.len + piece.len);
}

bool work_body_begin(struct work *w)
{
    struct work_draft *d = &w->draft;
    struct slice body = body_of_any_size(w);
    if (d->open_count == WORK_OPEN_MAX || body.len == 0 || !has_room(w, body.len)) {
        return false;
    }
    struct work_open *open = &d->open[d->open_count++];
    *open = (struct work_open){.intake = {.id = work_id(w)}, .whole = body};
    piece_append(w, open);
    return true;
}

bool work_body_finish(struct work *w)
{
    struct work_draft *d = &w->draft;
    if (d->open_count == 0) {
        return false;
    }
    size_t index = work_pick(w, d->open_count);
    struct work_open open = d->open[index];
    while (open.intake.body.len < open.whole.len) {
        piece_append(w, &open);
    }
    work_message_add(w, work_message_new(w, &open.intake.id, open.whole, open.intake.pieces));
    memmove(d->open + index, d->open + index + 1, (--d->open_count - index) * sizeof *d->open);
    return true;
}

bool work_body_more(struct work *w)
{
    for (size_t index = 0; index < w->draft.open_count; index++) {
        struct work_open *open = &w->draft.open[index];
        if (open->intake.body.len < open->whole.len) {
            piece_append(w, open);
            return true;
        }
    }
    return false;
}

bool work_body_discard(struct work *w)
{
    struct work_draft *d = &w->draft;
    if (d->open_count == 0) {
        return false;
    }
    size_t index = work_pick(w, d->open_count);
    work_must(store_body_discard(w->store, &d->open[index].intake.id), "discard");
    memmove(d->open + index, d->open + index + 1, (--d->open_count - index) * sizeof *d->open);
    return true;
}
