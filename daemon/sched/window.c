/*
 * What is known of the due index: its head, and a choice of what lies behind it.
 *
 * Invariants:
 *   - every entry of the index that is not after the horizon is in the window, or leased. Without
 *     `beyond` there is nothing after the horizon.
 *   - late arrivals are entries after the horizon. When the horizon comes to them they become part
 * of the window: each id is in memory once, which the table of ids sees to.
 *
 * Who may be a late arrival: a message of a sender with fewer than ENOUGH in memory. So senders
 * with a backlog leave the places to those without, and all take part in the fair choice.
 */
#include "daemon/sched/sched_internal.h"

#define ENOUGH  64 /* of one sender in memory: it does not depend on late arrivals */
#define TOO_FEW 16 /* left of a sender that had enough: there may be more on disk */
#define SAMPLES 8

#define REFILL_BELOW (SCHED_WINDOW_MAX / 4)

_Static_assert((SCHED_IDS_MAX & (SCHED_IDS_MAX - 1)) == 0, "a mask");
_Static_assert(SCHED_NODES_MAX < UINT16_MAX && SCHED_FLOWS_MAX < UINT16_MAX, "places have 16 bits");

int sched_item_compare(const struct sched_item *a, const struct sched_item *b)
{
    if (a->due_ms != b->due_ms) {
        return a->due_ms < b->due_ms ? -1 : 1;
    }
    return msg_id_compare(&a->id, &b->id);
}

static bool node_before(const struct sched_upstream *s, uint16_t a, uint16_t b)
{
    return sched_item_compare(&s->nodes[a].item, &s->nodes[b].item) < 0;
}

struct sched_pile sched_node_pile(struct sched_upstream *s)
{
    return (struct sched_pile){s, s->node_links, node_before};
}

void sched_init(struct sched_upstream *s, const struct sched_limits *limits)
{
    memset(s, 0, offsetof(struct sched_upstream, flows));
    s->limits = *limits;
    s->concurrency = limits->connections_max;
    s->beyond = true;
    sched_fair_init(s);
}

/* ---- nodes ---- */

static uint16_t *place_of_id(struct sched_upstream *s, const struct msg_id *id)
{
    uint64_t mixed = sched_mix(msg_id_time_and_sequence(id) ^ (uint64_t)id->bytes[6] << 56 ^
                               (uint64_t)id->bytes[7] << 48);
    return &s->ids[mixed & (SCHED_IDS_MAX - 1)];
}

static uint16_t find(struct sched_upstream *s, const struct msg_id *id)
{
    uint16_t node = *place_of_id(s, id);
    while (node != NOBODY && msg_id_compare(&s->nodes[node].item.id, id) != 0) {
        node = s->nodes[node].id_next;
    }
    return node;
}

static void late_join(struct sched_upstream *s, uint16_t node)
{
    s->late[s->late_count++] = node;
    s->nodes[node].late_at = (uint16_t)s->late_count;
}

static void late_leave(struct sched_upstream *s, uint16_t node)
{
    uint16_t last = s->late[--s->late_count];
    s->late[s->nodes[node].late_at - 1] = last;
    s->nodes[last].late_at = s->nodes[node].late_at;
    s->nodes[node].late_at = 0;
    if (s->late_count <= SCHED_LATE_MAX / 2) {
        s->scout_blocked = false;
    }
}

static void put(struct sched_upstream *s, const struct sched_item *item, bool late)
{
    uint16_t node = s->free_first;
    if (node != NOBODY) {
        s->free_first = s->nodes[node].id_next;
    } else {
        CHECK(s->fresh < SCHED_NODES_MAX);
        node = ++s->fresh;
    }
    uint16_t flow = sched_flow_of(s, item->flow);
    uint16_t *place = place_of_id(s, &item->id);
    s->nodes[node] = (struct sched_node){.item = *item, .id_next = *place, .flow = flow};
    *place = node;
    sched_flow_grows(s, flow);
    if (late) {
        late_join(s, node);
    } else {
        s->count++;
    }
    if (item->due_ms <= s->now_ms) {
        sched_fair_add(s, node);
        return;
    }
    const struct sched_pile pile = sched_node_pile(s);
    s->future = sched_pile_add(&pile, s->future, node);
    s->nodes[node].state = SCHED_NODE_FUTURE;
}

/* Out of memory, and off the table; it stands in no pile any more. */
static void forget_node(struct sched_upstream *s, uint16_t node)
{
    struct sched_node *n = &s->nodes[node];
    uint16_t *at = place_of_id(s, &n->item.id);
    while (*at != node) {
        at = &s->nodes[*at].id_next;
    }
    *at = n->id_next;
    if (n->late_at != 0) {
        late_leave(s, node);
    } else {
        s->count--;
    }
    struct sched_flow *f = &s->flows[n->flow];
    sched_flow_shrinks(s, n->flow);
    if (f->skipped && f->nodes < TOO_FEW) {
        f->skipped = false;
        s->scout = s->horizon;
        s->scout_next_ms = 0;
    }
    n->state = SCHED_NODE_FREE;
    n->id_next = s->free_first;
    s->free_first = node;
}

static void drop(struct sched_upstream *s, uint16_t node)
{
    if (s->nodes[node].state == SCHED_NODE_READY) {
        sched_fair_remove(s, node);
    } else {
        const struct sched_pile pile = sched_node_pile(s);
        s->future = sched_pile_remove(&pile, s->future, node);
    }
    forget_node(s, node);
}

void sched_forget(struct sched_upstream *s)
{
    for (uint16_t node = 1; node <= s->fresh; node++) {
        if (s->nodes[node].state != SCHED_NODE_FREE) {
            drop(s, node);
        }
    }
    s->beyond = true;
    memset(&s->horizon, 0, sizeof s->horizon);
    memset(&s->scout, 0, sizeof s->scout);
    s->scout_next_ms = 0;
    s->scout_blocked = false;
}

/* What has become due since. */
static void mature(struct sched_upstream *s, uint64_t now_ms)
{
    const struct sched_pile pile = sched_node_pile(s);
    s->now_ms = u64_max(s->now_ms, now_ms);
    while (s->future != NOBODY && s->nodes[s->future].item.due_ms <= s->now_ms) {
        uint16_t node = s->future;
        s->future = sched_pile_remove(&pile, s->future, node);
        sched_fair_add(s, node);
    }
}

/* ---- beyond the horizon ---- */

static bool is_beyond(const struct sched_upstream *s, const struct sched_item *item)
{
    return s->beyond && sched_item_compare(item, &s->horizon) > 0;
}

/* A late arrival of a sender that has more of them than the newcomer's would have, or NOBODY. Eight
 * are looked at, which finds a sender with half of the places all but always. */
static uint16_t dispensable(const struct sched_upstream *s, uint32_t nodes)
{
    uint16_t found = NOBODY;
    uint32_t most = nodes + 1;
    for (uint64_t sample = 0; sample < SAMPLES; sample++) {
        uint16_t node = s->late[sched_mix(s->order * SAMPLES + sample) % s->late_count];
        uint32_t has = s->flows[s->nodes[node].flow].nodes;
        if (has > most) {
            most = has;
            found = node;
        }
    }
    return found;
}

void sched_scout_rests(struct sched_upstream *s, uint64_t until_ms)
{
    s->scout_next_ms = until_ms;
}

enum admission { ADMITTED, HAS_ENOUGH, NO_ROOM };

static enum admission admit(struct sched_upstream *s, const struct sched_item *item)
{
    uint16_t flow = sched_flow_of(s, item->flow);
    struct sched_flow *f = &s->flows[flow];
    if (f->nodes >= ENOUGH) {
        f->skipped = true;
        return HAS_ENOUGH;
    }
    if (s->late_count == SCHED_LATE_MAX) {
        uint16_t node = dispensable(s, f->nodes);
        if (node == NOBODY) {
            return NO_ROOM;
        }
        s->flows[s->nodes[node].flow].skipped = true;
        drop(s, node);
    }
    put(s, item, true);
    return ADMITTED;
}

/* Beyond the horizon. What the scout has passed or would come to now is looked at here; to all else
 * it comes when it is due. */
static void add_beyond(struct sched_upstream *s, const struct sched_item *item)
{
    bool passed = sched_item_compare(item, &s->scout) <= 0;
    if (!passed && item->due_ms > s->now_ms) {
        s->scout_next_ms = u64_min(s->scout_next_ms, item->due_ms);
    } else if (admit(s, item) == NO_ROOM) {
        s->scout_blocked = true;
        s->scout_next_ms = 0;
        if (passed) {
            s->scout = s->horizon;
        }
    }
}

/* When the scout should go. Not before the window is full enough: what is read then is its own. */
static uint64_t scout_ms(const struct sched_upstream *s)
{
    bool goes = s->beyond && s->count > REFILL_BELOW && !s->scout_blocked;
    return goes ? s->scout_next_ms : UINT64_MAX;
}

bool sched_wants_scout(struct sched_upstream *s, uint64_t now_ms,
                       const struct sched_item **out_after)
{
    if (now_ms < scout_ms(s)) {
        return false;
    }
    mature(s, now_ms);
    if (sched_item_compare(&s->scout, &s->horizon) < 0) {
        s->scout = s->horizon;
    }
    static const struct sched_item start;
    *out_after = sched_item_compare(&s->scout, &start) == 0 ? NULL : &s->scout;
    return true;
}

void sched_scouted(struct sched_upstream *s, const struct sched_item *items, size_t count,
                   const struct sched_item *last, bool complete)
{
    for (size_t index = 0; index < count; index++) {
        const struct sched_item *item = &items[index];
        if (item->due_ms > s->now_ms) {
            s->scout_next_ms = item->due_ms;
            return; /* the scout stands before it */
        }
        if (is_beyond(s, item) && find(s, &item->id) == NOBODY && admit(s, item) == NO_ROOM) {
            s->scout_blocked = true;
            return;
        }
        s->scout = *item;
    }
    if (last != NULL && last->due_ms > s->now_ms) {
        s->scout_next_ms = last->due_ms; /* leased, and not due */
    } else if (last != NULL) {
        s->scout = *last;
    }
    s->scout_next_ms = complete ? UINT64_MAX : s->scout_next_ms;
}

/* ---- the window ---- */

/* An ascending order of numbers in the heap's way: no recursion, no bad cases. */
static void order_down(const struct sched_upstream *s, uint16_t *nodes, uint32_t count, uint32_t at)
{
    for (uint32_t child = at * 2 + 1; child < count; child = at * 2 + 1) {
        if (child + 1 < count && node_before(s, nodes[child], nodes[child + 1])) {
            child++;
        }
        if (!node_before(s, nodes[at], nodes[child])) {
            return;
        }
        uint16_t node = nodes[at];
        nodes[at] = nodes[child];
        nodes[child] = node;
        at = child;
    }
}

static uint32_t order_window(const struct sched_upstream *s, uint16_t nodes[SCHED_WINDOW_MAX])
{
    uint32_t count = 0;
    for (uint16_t node = 1; node <= s->fresh; node++) {
        if (s->nodes[node].state != SCHED_NODE_FREE && s->nodes[node].late_at == 0) {
            nodes[count++] = node;
        }
    }
    for (uint32_t at = count / 2; at > 0; at--) {
        order_down(s, nodes, count, at - 1);
    }
    for (uint32_t left = count - 1; left > 0; left--) {
        uint16_t node = nodes[0];
        nodes[0] = nodes[left];
        nodes[left] = node;
        order_down(s, nodes, left, 0);
    }
    return count;
}

/* Makes room: the later half goes back to being known to the disk only, until the scout comes by.
 */
static void shed_half(struct sched_upstream *s)
{
    uint16_t nodes[SCHED_WINDOW_MAX];
    const uint32_t full = order_window(s, nodes);
    CHECK(full == s->count);
    s->horizon = s->nodes[nodes[full / 2 - 1]].item;
    s->beyond = true;
    s->scout = s->horizon;
    s->scout_next_ms = 0;
    for (uint32_t at = full / 2; at < full; at++) {
        drop(s, nodes[at]);
    }
}

void sched_add(struct sched_upstream *s, const struct sched_item *item)
{
    uint16_t known = find(s, &item->id);
    if (known != NOBODY) {
        drop(s, known);
    }
    if (!is_beyond(s, item) && s->count == SCHED_WINDOW_MAX) {
        shed_half(s);
    }
    if (is_beyond(s, item)) {
        add_beyond(s, item);
    } else {
        put(s, item, false);
    }
}

static bool any_due(const struct sched_upstream *s, uint64_t now_ms)
{
    return s->ready_count > 0 || (s->future != NOBODY && s->nodes[s->future].item.due_ms <= now_ms);
}

bool sched_due_for(const struct sched_upstream *s, const struct sched_upstream *by, uint64_t now_ms)
{
    return any_due(s, now_ms) && !sched_is_paused(by, now_ms) && sched_rate_room(by, now_ms) > 0;
}

bool sched_due(const struct sched_upstream *s, uint64_t now_ms)
{
    return sched_due_for(s, s, now_ms);
}

uint32_t sched_due_count_for(struct sched_upstream *s, const struct sched_upstream *by,
                             uint64_t now_ms, uint32_t max)
{
    CHECK(max <= SCHED_DUE_COUNT_MAX);
    mature(s, now_ms);
    if (sched_is_paused(by, now_ms)) {
        return 0;
    }
    uint32_t room = sched_rate_room(by, now_ms);
    uint32_t count = s->ready_count < max ? s->ready_count : max;
    return count < room ? count : room;
}

uint32_t sched_due_count(struct sched_upstream *s, uint64_t now_ms, uint32_t max)
{
    return sched_due_count_for(s, s, now_ms, max);
}

uint64_t sched_waiting(const struct sched_upstream *s)
{
    return (uint64_t)s->count + s->late_count;
}

bool sched_take_for(struct sched_upstream *s, struct sched_upstream *by, uint64_t now_ms,
                    struct sched_item *out_item)
{
    mature(s, now_ms);
    if (!sched_due_for(s, by, now_ms)) {
        return false;
    }
    uint16_t node = sched_fair_take(s, now_ms);
    *out_item = s->nodes[node].item;
    forget_node(s, node);
    sched_rate_taken(by, now_ms);
    return true;
}

bool sched_take(struct sched_upstream *s, uint64_t now_ms, struct sched_item *out_item)
{
    return sched_take_for(s, s, now_ms, out_item);
}

bool sched_remove(struct sched_upstream *s, const struct msg_id *id)
{
    uint16_t node = find(s, id);
    if (node != NOBODY) {
        drop(s, node);
    }
    return node != NOBODY;
}

uint64_t sched_oldest_due_ms(const struct sched_upstream *s)
{
    uint64_t oldest_ms = UINT64_MAX;
    for (uint16_t node = 1; node <= s->fresh; node++) {
        if (s->nodes[node].state != SCHED_NODE_FREE) {
            oldest_ms = u64_min(oldest_ms, s->nodes[node].item.due_ms);
        }
    }
    return oldest_ms;
}

bool sched_wants_refill(const struct sched_upstream *s, const struct sched_item **out_after)
{
    if (!s->beyond || s->count > REFILL_BELOW) {
        return false;
    }
    static const struct sched_item start;
    *out_after = sched_item_compare(&s->horizon, &start) == 0 ? NULL : &s->horizon;
    return true;
}

void sched_refilled(struct sched_upstream *s, const struct sched_item *items, size_t count,
                    const struct sched_item *last, bool complete)
{
    if (last != NULL) {
        s->horizon = *last;
    }
    s->beyond = !complete;
    for (size_t index = 0; index < count; index++) {
        uint16_t known = find(s, &items[index].id);
        if (known != NOBODY) {
            drop(s, known); /* a late arrival, most likely */
        }
        put(s, &items[index], false);
    }
    while (complete && s->late_count > 0) { /* the index does not know them: nor does a horizon */
        uint16_t node = s->late[0];
        late_leave(s, node);
        s->count++;
    }
}

/* ---- the clock ---- */

uint64_t sched_wake_for_ms(const struct sched_upstream *s, const struct sched_upstream *by,
                           uint64_t now_ms)
{
    if (s->count + s->late_count == 0) {
        return UINT64_MAX;
    }
    uint64_t gate_ms = u64_max(by->pause_until_ms, sched_rate_next_ms(by, now_ms));
    if (by->connections == 0) {
        gate_ms = u64_max(gate_ms, by->open_after_ms);
    }
    if (any_due(s, now_ms)) {
        /* What may go now waits for a connection or a job to come back, not for the clock. */
        return u64_min(scout_ms(s), gate_ms > now_ms             ? gate_ms
                                    : now_ms < by->open_after_ms ? by->open_after_ms
                                                                 : UINT64_MAX);
    }
    return u64_min(scout_ms(s), u64_max(s->nodes[s->future].item.due_ms, gate_ms));
}

uint64_t sched_wake_ms(const struct sched_upstream *s, uint64_t now_ms)
{
    if (s->breaker == SCHED_BREAKER_WAITING) {
        return s->connections == 0 || s->connections > s->opening ? s->probe_ms : UINT64_MAX;
    }
    return sched_wake_for_ms(s, s, now_ms);
}
