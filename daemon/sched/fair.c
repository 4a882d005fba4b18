/*
 * Whose turn it is among what is due: start-time fair queueing on two levels, devices and then the
 * senders of one device. P. Goyal, H. Vin, H. Cheng, SIGCOMM 1996.
 *
 * Each active party has a tag, the place of its next message in virtual time. The smallest goes
 * first, and moves on by what the message weighs. Who becomes active begins at the virtual now, not
 * before: silence is not saved up. A record keeps its tag for a while after its last message left,
 * or one that sends singly would be a newcomer with each.
 *
 * Virtual now is where the last one served stood, and goes on by its share of what was served, at
 * least by one each time: so newcomers without end, who begin there, overtake nobody for ever.
 */
#include "daemon/sched/sched_internal.h"

#define WEIGHT_MIN     16   /* KiB: what the dialogue of one message costs beside its bytes */
#define WEIGHT_KIB_MAX 8192 /* a larger one counts as this: its sender shall not wait for days */

#define CROWD_KEYS 0xffffffc0u /* keys of the shared records */
_Static_assert(UINT32_MAX - CROWD_KEYS + 1 == SCHED_CROWD_MAX, "a key for each shared record");
_Static_assert(SCHED_CROWD_MAX * 4 <= SCHED_FLOWS_MAX, "most have a record of their own");
_Static_assert((SCHED_FLOWS_MAX & (SCHED_FLOWS_MAX - 1)) == 0, "a mask");
_Static_assert((SCHED_GROUPS_MAX & (SCHED_GROUPS_MAX - 1)) == 0, "a mask");

/* ---- piles ---- */

static bool flow_before(const struct sched_upstream *s, uint16_t a, uint16_t b)
{
    const struct sched_flow *x = &s->flows[a], *y = &s->flows[b];
    return x->tag != y->tag ? x->tag < y->tag : x->order < y->order;
}

static bool group_before(const struct sched_upstream *s, uint16_t a, uint16_t b)
{
    const struct sched_group *x = &s->groups[a], *y = &s->groups[b];
    return x->tag != y->tag ? x->tag < y->tag : x->order < y->order;
}

static struct sched_pile flow_pile(struct sched_upstream *s)
{
    return (struct sched_pile){s, s->flow_links, flow_before};
}

static struct sched_pile group_pile(struct sched_upstream *s)
{
    return (struct sched_pile){s, s->group_links, group_before};
}

/* ---- records ---- */

static uint16_t *place_of_key(struct sched_upstream *s, uint32_t key)
{
    return &s->keys[sched_mix(key) & (SCHED_FLOWS_MAX - 1)];
}

static uint16_t find(struct sched_upstream *s, uint32_t key)
{
    uint16_t flow = *place_of_key(s, key);
    while (flow != NOBODY && s->flows[flow].key != key) {
        flow = s->flows[flow].key_next;
    }
    return flow;
}

static void idle_add(struct sched_upstream *s, uint16_t flow)
{
    s->flows[flow].idle_prev = s->idle_last;
    s->flows[flow].idle_next = NOBODY;
    if (s->idle_last != NOBODY) {
        s->flows[s->idle_last].idle_next = flow;
    } else {
        s->idle_first = flow;
    }
    s->idle_last = flow;
}

static void idle_remove(struct sched_upstream *s, uint16_t flow)
{
    struct sched_flow *f = &s->flows[flow];
    if (f->idle_prev != NOBODY) {
        s->flows[f->idle_prev].idle_next = f->idle_next;
    } else {
        s->idle_first = f->idle_next;
    }
    if (f->idle_next != NOBODY) {
        s->flows[f->idle_next].idle_prev = f->idle_prev;
    } else {
        s->idle_last = f->idle_prev;
    }
    f->idle_next = f->idle_prev = NOBODY;
}

/* A record that was never used, or the one that has been idle longest. */
static uint16_t spare(struct sched_upstream *s)
{
    if (s->flows_fresh < SCHED_FLOWS_MAX) {
        return ++s->flows_fresh;
    }
    uint16_t flow = s->idle_first;
    if (flow == NOBODY) {
        return NOBODY;
    }
    idle_remove(s, flow);
    uint16_t *at = place_of_key(s, s->flows[flow].key);
    while (*at != flow) {
        at = &s->flows[*at].key_next;
    }
    *at = s->flows[flow].key_next;
    return flow;
}

static void make(struct sched_upstream *s, uint16_t flow, uint32_t key)
{
    uint16_t *place = place_of_key(s, key);
    s->flows[flow] = (struct sched_flow){.key = key, .key_next = *place};
    *place = flow;
}

uint16_t sched_flow_of(struct sched_upstream *s, uint32_t key)
{
    if (key >= CROWD_KEYS) {
        key -= SCHED_CROWD_MAX; /* two that share, of four billion */
    }
    uint16_t flow = find(s, key);
    if (flow != NOBODY) {
        return flow;
    }
    flow = spare(s);
    if (flow == NOBODY) { /* each record has something in memory */
        return find(s, CROWD_KEYS + key % SCHED_CROWD_MAX);
    }
    make(s, flow, key);
    idle_add(s, flow);
    return flow;
}

/* The shared records are there from the start, and are never idle. */
void sched_fair_init(struct sched_upstream *s)
{
    for (uint32_t at = 0; at < SCHED_CROWD_MAX; at++) {
        make(s, ++s->flows_fresh, CROWD_KEYS + at);
    }
}

void sched_flow_grows(struct sched_upstream *s, uint16_t flow)
{
    if (s->flows[flow].nodes++ == 0 && s->flows[flow].key < CROWD_KEYS) {
        idle_remove(s, flow);
    }
}

void sched_flow_shrinks(struct sched_upstream *s, uint16_t flow)
{
    CHECK(s->flows[flow].nodes > 0);
    if (--s->flows[flow].nodes == 0 && s->flows[flow].key < CROWD_KEYS) {
        idle_add(s, flow);
    }
}

/* ---- what is ready ---- */

static uint16_t group_of(const struct sched_upstream *s, uint16_t flow)
{
    return (uint16_t)(1 + (sched_mix(s->flows[flow].key >> 16) & (SCHED_GROUPS_MAX - 1)));
}

static void group_join(struct sched_upstream *s, uint16_t group)
{
    const struct sched_pile pile = group_pile(s);
    s->groups[group].order = ++s->order;
    s->groups_pile = sched_pile_add(&pile, s->groups_pile, group);
    s->groups_active++;
}

static void group_leave(struct sched_upstream *s, uint16_t group)
{
    const struct sched_pile pile = group_pile(s);
    s->groups_pile = sched_pile_remove(&pile, s->groups_pile, group);
    s->groups_active--;
}

static void flow_join(struct sched_upstream *s, uint16_t flow)
{
    const struct sched_pile pile = flow_pile(s);
    struct sched_group *g = &s->groups[group_of(s, flow)];
    s->flows[flow].order = ++s->order;
    g->flows = sched_pile_add(&pile, g->flows, flow);
    if (g->active++ == 0) {
        g->tag = u64_max(g->tag, s->virtual_now);
        group_join(s, group_of(s, flow));
    }
}

static void flow_leave(struct sched_upstream *s, uint16_t flow)
{
    const struct sched_pile pile = flow_pile(s);
    struct sched_group *g = &s->groups[group_of(s, flow)];
    g->flows = sched_pile_remove(&pile, g->flows, flow);
    if (--g->active == 0) {
        group_leave(s, group_of(s, flow));
    }
}

static bool is_active(const struct sched_flow *f)
{
    return f->small != NOBODY || f->large != NOBODY;
}

static uint16_t *pile_of(struct sched_upstream *s, uint16_t node)
{
    const struct sched_node *n = &s->nodes[node];
    struct sched_flow *f = &s->flows[n->flow];
    return n->item.size_kib > SCHED_SMALL_KIB_MAX ? &f->large : &f->small;
}

void sched_fair_add(struct sched_upstream *s, uint16_t node)
{
    const struct sched_pile pile = sched_node_pile(s);
    uint16_t flow = s->nodes[node].flow;
    struct sched_flow *f = &s->flows[flow];
    bool was_active = is_active(f);
    *pile_of(s, node) = sched_pile_add(&pile, *pile_of(s, node), node);
    s->nodes[node].state = SCHED_NODE_READY;
    s->ready_count++;
    if (!was_active) {
        f->tag = u64_max(f->tag, s->groups[group_of(s, flow)].virtual_now);
        flow_join(s, flow);
    }
}

void sched_fair_remove(struct sched_upstream *s, uint16_t node)
{
    const struct sched_pile pile = sched_node_pile(s);
    uint16_t flow = s->nodes[node].flow;
    *pile_of(s, node) = sched_pile_remove(&pile, *pile_of(s, node), node);
    s->ready_count--;
    if (!is_active(&s->flows[flow])) {
        flow_leave(s, flow);
    }
}

/* ---- the choice ---- */

/* The earliest of its sender, or a small one that may pass it. */
static uint16_t choose(const struct sched_upstream *s, struct sched_flow *f, uint64_t now_ms)
{
    if (f->small == NOBODY || f->large == NOBODY) {
        f->passed = 0;
        return f->small == NOBODY ? f->large : f->small;
    }
    if (sched_item_compare(&s->nodes[f->small].item, &s->nodes[f->large].item) < 0) {
        return f->small;
    }
    bool long_enough = f->passed > 0 && now_ms >= f->passed_since_ms &&
                       now_ms - f->passed_since_ms >= SCHED_PASSED_MS_MAX;
    if (f->passed >= SCHED_PASSED_MAX || long_enough) {
        f->passed = 0;
        return f->large;
    }
    f->passed_since_ms = f->passed == 0 ? now_ms : f->passed_since_ms;
    f->passed++;
    return f->small;
}

/* Where virtual time stands after a service at tag: on by its share, as if all were served at once,
 * a newcomer among them. */
static uint64_t virtual_after(uint64_t virtual_now, uint64_t tag, uint32_t weight, uint32_t active)
{
    return u64_max(virtual_now, tag) + u64_max(weight / (active + 1), 1);
}

uint16_t sched_fair_take(struct sched_upstream *s, uint64_t now_ms)
{
    CHECK(s->groups_pile != NOBODY);
    uint16_t group = s->groups_pile;
    struct sched_group *g = &s->groups[group];
    uint16_t flow = g->flows;
    struct sched_flow *f = &s->flows[flow];
    uint16_t node = choose(s, f, now_ms);
    uint32_t size_kib = s->nodes[node].item.size_kib;
    uint32_t weight = WEIGHT_MIN + (size_kib < WEIGHT_KIB_MAX ? size_kib : WEIGHT_KIB_MAX);
    s->virtual_now = virtual_after(s->virtual_now, g->tag, weight, s->groups_active);
    g->virtual_now = virtual_after(g->virtual_now, f->tag, weight, g->active);

    /* Tags change outside of the piles that are ordered by them. */
    const struct sched_pile flows = flow_pile(s);
    const struct sched_pile nodes = sched_node_pile(s);
    *pile_of(s, node) = sched_pile_remove(&nodes, *pile_of(s, node), node);
    s->ready_count--;
    group_leave(s, group);
    g->flows = sched_pile_remove(&flows, g->flows, flow);
    g->active--;
    f->tag += weight;
    g->tag += weight;
    if (is_active(f)) {
        f->order = ++s->order;
        g->flows = sched_pile_add(&flows, g->flows, flow);
        g->active++;
    }
    if (g->active > 0) {
        group_join(s, group);
    }
    return node;
}
