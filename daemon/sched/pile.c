/*
 * Pairing heaps over numbers. Whatever is piled has a sched_link at the same number in an array of
 * its own, and is in one pile at most.
 *
 * A parent is never after its children. `child` is the first of them, `next` the next sibling,
 * `prev` the sibling before or, for the first, the parent; the first of a pile has neither next nor
 * prev. Adding costs O(1), removing O(log n) on average over a run.
 */
#include "daemon/sched/sched_internal.h"

/* The later of two becomes the first child of the other. */
static uint16_t join(const struct sched_pile *p, uint16_t a, uint16_t b)
{
    if (a == NOBODY || b == NOBODY) {
        return a == NOBODY ? b : a;
    }
    uint16_t upper = p->before(p->s, b, a) ? b : a;
    uint16_t lower = upper == a ? b : a;
    struct sched_link *u = &p->links[upper], *l = &p->links[lower];
    l->next = u->child;
    l->prev = upper;
    if (u->child != NOBODY) {
        p->links[u->child].prev = lower;
    }
    u->child = lower;
    return upper;
}

/* Siblings into one: in pairs from left to right, then those together from right to left. */
static uint16_t join_all(const struct sched_pile *p, uint16_t first)
{
    uint16_t pairs = NOBODY, whole = NOBODY;
    while (first != NOBODY) {
        uint16_t a = first, b = p->links[a].next;
        first = b == NOBODY ? NOBODY : p->links[b].next;
        p->links[a].next = p->links[a].prev = NOBODY;
        if (b != NOBODY) {
            p->links[b].next = p->links[b].prev = NOBODY;
        }
        uint16_t pair = join(p, a, b);
        p->links[pair].next = pairs;
        pairs = pair;
    }
    while (pairs != NOBODY) {
        uint16_t pair = pairs;
        pairs = p->links[pair].next;
        p->links[pair].next = NOBODY;
        whole = join(p, whole, pair);
    }
    return whole;
}

uint16_t sched_pile_add(const struct sched_pile *p, uint16_t first, uint16_t index)
{
    p->links[index] = (struct sched_link){0};
    return join(p, first, index);
}

uint16_t sched_pile_remove(const struct sched_pile *p, uint16_t first, uint16_t index)
{
    struct sched_link link = p->links[index];
    uint16_t children = join_all(p, link.child);
    p->links[index] = (struct sched_link){0};
    if (index == first) {
        return children;
    }
    CHECK(link.prev != NOBODY);
    if (p->links[link.prev].child == index) {
        p->links[link.prev].child = link.next;
    } else {
        p->links[link.prev].next = link.next;
    }
    if (link.next != NOBODY) {
        p->links[link.next].prev = link.prev;
    }
    return join(p, first, children);
}
