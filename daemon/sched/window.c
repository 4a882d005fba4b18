/*
 * The window on the due index: a binary heap of its earliest entries.
 *
 * Invariant: every entry of the index that is not after the horizon is in the heap, or leased.
 * Without `beyond` there is nothing after the horizon.
 */
#include "daemon/sched/sched.h"

int sched_item_compare(const struct sched_item *a, const struct sched_item *b)
{
    if (a->due_ms != b->due_ms) {
        return a->due_ms < b->due_ms ? -1 : 1;
    }
    return msg_id_compare(&a->id, &b->id);
}

void sched_init(struct sched_upstream *s, const struct sched_limits *limits)
{
    memset(s, 0, sizeof *s);
    s->limits = *limits;
    s->beyond = true;
}

void sched_forget(struct sched_upstream *s)
{
    s->count = 0;
    s->beyond = true;
    memset(&s->horizon, 0, sizeof s->horizon);
}

static void sift_up(struct sched_upstream *s, uint32_t index)
{
    struct sched_item item = s->heap[index];
    while (index > 0) {
        uint32_t parent = (index - 1) / 2;
        if (sched_item_compare(&s->heap[parent], &item) <= 0) {
            break;
        }
        s->heap[index] = s->heap[parent];
        index = parent;
    }
    s->heap[index] = item;
}

static void sift_down(struct sched_upstream *s, uint32_t index)
{
    struct sched_item item = s->heap[index];
    for (;;) {
        uint32_t child = index * 2 + 1;
        if (child >= s->count) {
            break;
        }
        if (child + 1 < s->count && sched_item_compare(&s->heap[child + 1], &s->heap[child]) < 0) {
            child++;
        }
        if (sched_item_compare(&item, &s->heap[child]) <= 0) {
            break;
        }
        s->heap[index] = s->heap[child];
        index = child;
    }
    s->heap[index] = item;
}

static void heap_push(struct sched_upstream *s, const struct sched_item *item)
{
    CHECK(s->count < SCHED_WINDOW_MAX);
    s->heap[s->count] = *item;
    sift_up(s, s->count++);
}

static void heap_delete(struct sched_upstream *s, uint32_t index)
{
    CHECK(index < s->count);
    s->count--;
    if (index == s->count) {
        return;
    }
    s->heap[index] = s->heap[s->count];
    sift_down(s, index);
    sift_up(s, index);
}

static bool beyond_horizon(const struct sched_upstream *s, const struct sched_item *item)
{
    return s->beyond && sched_item_compare(item, &s->horizon) > 0;
}

/*
 * Makes room: the later half goes back to being known to the disk only. The first half is popped in
 * order into the places that popping frees at the end of the array, then turned round to the front,
 * where ascending order is a heap.
 */
static void shed_half(struct sched_upstream *s)
{
    const uint32_t full = s->count;
    const uint32_t half = full / 2;
    for (uint32_t popped = 0; popped < half; popped++) {
        struct sched_item first = s->heap[0];
        heap_delete(s, 0);
        s->heap[s->count] = first;
    }
    s->horizon = s->heap[full - half];
    for (uint32_t index = 0; index < half; index++) {
        s->heap[index] = s->heap[full - 1 - index];
    }
    s->count = half;
    s->beyond = true;
}

void sched_add(struct sched_upstream *s, const struct sched_item *item)
{
    if (beyond_horizon(s, item)) {
        return;
    }
    if (s->count == SCHED_WINDOW_MAX) {
        shed_half(s);
        if (beyond_horizon(s, item)) {
            return;
        }
    }
    heap_push(s, item);
}

bool sched_due(const struct sched_upstream *s, uint64_t now_ms)
{
    return s->count > 0 && s->heap[0].due_ms <= now_ms;
}

/* From the top down, not below an entry that is not due: nothing under it is either. */
uint32_t sched_due_count(const struct sched_upstream *s, uint64_t now_ms, uint32_t max)
{
    uint32_t found[SCHED_DUE_COUNT_MAX];
    uint32_t count = 0;
    CHECK(max <= SCHED_DUE_COUNT_MAX);
    if (max == 0 || !sched_due(s, now_ms)) {
        return 0;
    }
    found[count++] = 0;
    for (uint32_t at = 0; at < count && count < max; at++) {
        uint32_t child = found[at] * 2 + 1;
        for (uint32_t end = child + 2; child < end && child < s->count && count < max; child++) {
            if (s->heap[child].due_ms <= now_ms) {
                found[count++] = child;
            }
        }
    }
    return count;
}

bool sched_take(struct sched_upstream *s, uint64_t now_ms, struct sched_item *out_item)
{
    if (!sched_due(s, now_ms)) {
        return false;
    }
    *out_item = s->heap[0];
    heap_delete(s, 0);
    return true;
}

bool sched_remove(struct sched_upstream *s, const struct msg_id *id)
{
    for (uint32_t index = 0; index < s->count; index++) {
        if (msg_id_compare(&s->heap[index].id, id) == 0) {
            heap_delete(s, index);
            return true;
        }
    }
    return false;
}

bool sched_wants_refill(const struct sched_upstream *s, const struct sched_item **out_after)
{
    if (!s->beyond || s->count > SCHED_WINDOW_MAX / 4) {
        return false;
    }
    static const struct sched_item start;
    *out_after = sched_item_compare(&s->horizon, &start) == 0 ? NULL : &s->horizon;
    return true;
}

void sched_refilled(struct sched_upstream *s, const struct sched_item *items, size_t count,
                    const struct sched_item *last, bool complete)
{
    for (size_t index = 0; index < count; index++) {
        heap_push(s, &items[index]);
    }
    s->beyond = !complete;
    if (last != NULL) {
        s->horizon = *last;
    }
}
