/*
 * A model of the due index and of the leases, for the tests of the window and of fairness: the
 * sched beside it is told what daemon/queue would tell it.
 */
#ifndef TASUKI_TESTS_UNIT_SCHED_MODEL_H
#define TASUKI_TESTS_UNIT_SCHED_MODEL_H

#include "tests/unit/sched_common.h"

#include <stdlib.h>

#define INDEX_MAX  20000 /* more than the window holds, several times */
#define LEASES_MAX 64

/* The index on disk, in order, and what is leased of it. A leased entry keeps its place until it is
 * settled, as in the store. */
struct model {
    struct sched_item index[INDEX_MAX];
    size_t count;
    struct sched_item leased[LEASES_MAX];
    bool carried[LEASES_MAX]; /* the stand-in has it */
    size_t leased_count;
    uint64_t now_ms, next_id;
    uint64_t rows_read;
    struct sched_upstream sched;
    struct sched_upstream stand_in; /* takes entries of the same index, has none of its own */
};

static inline struct model *model_new(uint64_t seed)
{
    struct model *m = calloc(1, sizeof *m);
    assert_non_null(m);
    rng_state = seed;
    m->now_ms = 1000000;
    sched_init(&m->sched, &limits);
    sched_init(&m->stand_in, &limits);
    return m;
}

static inline size_t index_place(const struct model *m, const struct sched_item *item)
{
    size_t low = 0, high = m->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (sched_item_compare(&m->index[middle], item) < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static inline bool in_index(const struct model *m, const struct sched_item *item)
{
    size_t at = index_place(m, item);
    return at < m->count && sched_item_compare(&m->index[at], item) == 0;
}

static inline void index_add(struct model *m, const struct sched_item *item)
{
    size_t at = index_place(m, item);
    assert_true(m->count < INDEX_MAX);
    memmove(m->index + at + 1, m->index + at, (m->count - at) * sizeof m->index[0]);
    m->index[at] = *item;
    m->count++;
}

static inline void index_remove(struct model *m, const struct sched_item *item)
{
    size_t at = index_place(m, item);
    assert_true(in_index(m, item));
    m->count--;
    memmove(m->index + at, m->index + at + 1, (m->count - at) * sizeof m->index[0]);
}

static inline bool is_leased(const struct model *m, const struct msg_id *id)
{
    for (size_t at = 0; at < m->leased_count; at++) {
        if (msg_id_compare(&m->leased[at].id, id) == 0) {
            return true;
        }
    }
    return false;
}

struct model_reading {
    struct sched_item items[SCHED_REFILL_MAX], last;
    size_t count, read;
};

static inline void read_after(struct model *m, const struct sched_item *after,
                              struct model_reading *r)
{
    size_t at = 0;
    if (after != NULL) {
        at = index_place(m, after);
        at += at < m->count && sched_item_compare(&m->index[at], after) == 0;
    }
    for (r->count = r->read = 0; at < m->count && r->read < SCHED_REFILL_MAX; at++, r->read++) {
        r->last = m->index[at];
        if (!is_leased(m, &r->last.id)) {
            r->items[r->count++] = r->last;
        }
    }
    m->rows_read += r->read;
}

/* As daemon/queue does it. */
static inline void refill(struct model *m)
{
    const struct sched_item *after = NULL;
    static struct model_reading r;
    while (sched_wants_refill(&m->sched, &after)) {
        read_after(m, after, &r);
        sched_refilled(&m->sched, r.items, r.count, r.read > 0 ? &r.last : NULL,
                       r.read < SCHED_REFILL_MAX);
    }
    if (sched_wants_scout(&m->sched, m->now_ms, &after)) {
        read_after(m, after, &r);
        sched_scouted(&m->sched, r.items, r.count, r.read > 0 ? &r.last : NULL,
                      r.read < SCHED_REFILL_MAX);
    }
}

/* Until nothing more is to be read now. */
static inline void refill_all(struct model *m)
{
    const struct sched_item *after;
    for (int round = 0; round < 1000; round++) {
        refill(m);
        if (!sched_wants_scout(&m->sched, m->now_ms, &after)) {
            return;
        }
    }
    fail_msg("the scout comes to no end");
}

/* Where an id is in memory, 0: nowhere. */
static inline uint16_t node_of(const struct sched_upstream *s, const struct msg_id *id)
{
    uint16_t found = 0;
    for (uint16_t node = 1; node <= s->fresh; node++) {
        if (s->nodes[node].state != SCHED_NODE_FREE &&
            msg_id_compare(&s->nodes[node].item.id, id) == 0) {
            assert_int_equal(found, 0); /* once */
            found = node;
        }
    }
    return found;
}

static inline int compare_items(const void *a, const void *b)
{
    return sched_item_compare(a, b);
}

/* The invariants of window.c, word for word. */
static inline void check_window(const struct model *m)
{
    static struct sched_item window[SCHED_NODES_MAX];
    const struct sched_upstream *s = &m->sched;
    size_t count = 0, late = 0, ready = 0, at_window = 0;
    for (uint16_t node = 1; node <= s->fresh; node++) {
        const struct sched_node *n = &s->nodes[node];
        if (n->state == SCHED_NODE_FREE) {
            continue;
        }
        assert_int_equal(n->state == SCHED_NODE_READY, n->item.due_ms <= s->now_ms);
        assert_true(in_index(m, &n->item));
        assert_false(is_leased(m, &n->item.id));
        ready += n->state == SCHED_NODE_READY;
        if (n->late_at != 0) {
            assert_true(s->beyond && sched_item_compare(&n->item, &s->horizon) > 0);
            assert_int_equal(s->late[n->late_at - 1], node);
            late++;
        } else {
            window[count++] = n->item;
        }
    }
    assert_int_equal(count, s->count);
    assert_int_equal(late, s->late_count);
    assert_int_equal(ready, s->ready_count);
    qsort(window, count, sizeof window[0], compare_items);
    for (size_t at = 0; at < m->count; at++) {
        bool before = !s->beyond || sched_item_compare(&m->index[at], &s->horizon) <= 0;
        if (before && !is_leased(m, &m->index[at].id)) {
            assert_true(at_window < count);
            assert_int_equal(sched_item_compare(&window[at_window], &m->index[at]), 0);
            at_window++;
        }
    }
    assert_int_equal(at_window, count); /* and so none is there twice */
}

static inline struct sched_item fresh_item(struct model *m, uint64_t due_ms, uint32_t flow,
                                           uint32_t size_kib)
{
    return (struct sched_item){.due_ms = due_ms,
                               .id = msg_id_make(++m->next_id << 16, 1),
                               .flow = flow,
                               .size_kib = size_kib};
}

/* A message that has come in: committed, then told. */
static inline struct sched_item accept_item(struct model *m, uint64_t due_ms, uint32_t flow,
                                            uint32_t size_kib)
{
    struct sched_item item = fresh_item(m, due_ms, flow, size_kib);
    index_add(m, &item);
    sched_add(&m->sched, &item);
    return item;
}

/* The next one leaves for good; false when none may. */
static inline bool deliver_next(struct model *m, struct sched_item *out)
{
    refill(m);
    if (!sched_take(&m->sched, m->now_ms, out)) {
        return false;
    }
    index_remove(m, out);
    sched_job_back(&m->sched, 1, true, m->now_ms);
    return true;
}

#endif
