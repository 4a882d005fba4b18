/*
 * Rates that the admin has set (`rate = 30/min, 10000 recipients/day`), and how fast the upstream
 * is.
 *
 * A rate of n in a span holds for any span, wherever it begins: what was sent is counted in slots
 * of a twelfth, and a slot leaves the sum when it lies behind by a whole span. So a burst of n goes
 * at once, and a provider that counts in its own way never counts more than n. A bucket of tokens
 * that holds n and gains n in a span would let nearly 2n through within one.
 *
 * A job counts when it is back, since the upstream counts between the two; until then its place is
 * kept. A message with many recipients is one of these places: the recipients of what is under way
 * may be more than the rate has left, once.
 */
#include "daemon/sched/sched_internal.h"

#define SLOTS_PER_SPAN   (SCHED_RATE_SLOTS - 1)
#define MEASURE_MS       10000  /* of being busy, before the speed is reckoned anew */
#define MEASURE_MS_MAX   600000 /* one job that took longer says no more than this */
#define MEASURE_MS_FIRST 1000
#define MEASURE_COUNT    10
#define FORECAST_MS_MAX  (365ull * 24 * 3600 * 1000)
#define FORECAST_MAX     1000000000u /* messages */

static const uint64_t spans_ms[SCHED_RATE_SPANS] = {
    [SCHED_RATE_MINUTE] = 60000,
    [SCHED_RATE_HOUR] = 3600000,
    [SCHED_RATE_DAY] = 86400000,
};

_Static_assert(SCHED_RATE_KINDS *SCHED_RATE_SPANS <= RECORD_BUCKETS_MAX, "all can be saved");

/* ---- one rate ---- */

/* Whether slot is among those that a rate whose newest is `newest` still knows. */
static bool is_known(uint64_t newest, uint64_t slot)
{
    return slot <= newest && newest - slot < SCHED_RATE_SLOTS;
}

static uint32_t used_in(const struct sched_rate *r, uint64_t slot)
{
    return is_known(r->slot, slot) ? r->used[slot % SCHED_RATE_SLOTS] : 0;
}

/* The slot of now_ms; not before what was counted already. */
static uint64_t slot_at(const struct sched_rate *r, enum sched_rate_span span, uint64_t now_ms)
{
    return u64_max(now_ms / (spans_ms[span] / SLOTS_PER_SPAN), r->slot);
}

static uint64_t used_at(const struct sched_rate *r, enum sched_rate_span span, uint64_t now_ms)
{
    uint64_t used = 0, now = slot_at(r, span, now_ms);
    for (uint64_t back = 0; back < SCHED_RATE_SLOTS && back <= now; back++) {
        used += used_in(r, now - back);
    }
    return used;
}

static void use(struct sched_rate *r, uint64_t slot, uint32_t count)
{
    for (uint64_t back = 0; back < SCHED_RATE_SLOTS && back < slot - r->slot; back++) {
        r->used[(slot - back) % SCHED_RATE_SLOTS] = 0;
    }
    r->slot = slot;
    uint32_t *used = &r->used[slot % SCHED_RATE_SLOTS];
    *used = count > UINT32_MAX - *used ? UINT32_MAX : *used + count;
}

/* When less than `most` are used; UINT64_MAX: not by time alone. */
static uint64_t below_ms(const struct sched_rate *r, enum sched_rate_span span, uint32_t most,
                         uint64_t now_ms)
{
    uint64_t slot_ms = spans_ms[span] / SLOTS_PER_SPAN;
    uint64_t used = used_at(r, span, now_ms), now = slot_at(r, span, now_ms);
    for (uint64_t ahead = 0; ahead <= SCHED_RATE_SLOTS; ahead++) {
        if (used < most) {
            return ahead == 0                           ? now_ms
                   : now + ahead > UINT64_MAX / slot_ms ? UINT64_MAX
                                                        : (now + ahead) * slot_ms;
        }
        uint64_t oldest_back = SLOTS_PER_SPAN - ahead; /* leaves with the next slot */
        used -= ahead <= SLOTS_PER_SPAN && oldest_back <= now ? used_in(r, now - oldest_back) : 0;
    }
    return UINT64_MAX;
}

/* ---- all of them ---- */

uint32_t sched_rate_used(const struct sched_upstream *s, enum sched_rate_kind kind,
                         enum sched_rate_span span, uint64_t now_ms)
{
    return u32_from(u64_min(used_at(&s->rates[kind][span], span, now_ms) + s->out, UINT32_MAX));
}

static uint64_t room_of(const struct sched_upstream *s, enum sched_rate_kind kind,
                        enum sched_rate_span span, uint64_t now_ms)
{
    uint64_t most = s->limits.rate[kind][span];
    uint64_t used = sched_rate_used(s, kind, span, now_ms);
    return most > used ? most - used : 0;
}

uint32_t sched_rate_room(const struct sched_upstream *s, uint64_t now_ms)
{
    uint64_t room = UINT32_MAX;
    for (enum sched_rate_kind kind = 0; kind < SCHED_RATE_KINDS; kind++) {
        for (enum sched_rate_span span = 0; span < SCHED_RATE_SPANS; span++) {
            if (s->limits.rate[kind][span] != 0) {
                room = u64_min(room, room_of(s, kind, span, now_ms));
            }
        }
    }
    return (uint32_t)room;
}

uint64_t sched_rate_next_ms(const struct sched_upstream *s, uint64_t now_ms)
{
    uint64_t next_ms = now_ms;
    for (enum sched_rate_kind kind = 0; kind < SCHED_RATE_KINDS; kind++) {
        for (enum sched_rate_span span = 0; span < SCHED_RATE_SPANS; span++) {
            uint32_t most = s->limits.rate[kind][span];
            if (most != 0) {
                uint64_t below = most > s->out
                                     ? below_ms(&s->rates[kind][span], span, most - s->out, now_ms)
                                     : UINT64_MAX;
                next_ms = u64_max(next_ms, below);
            }
        }
    }
    return next_ms;
}

static void spend(struct sched_upstream *s, enum sched_rate_kind kind, uint32_t count,
                  uint64_t now_ms)
{
    for (enum sched_rate_span span = 0; span < SCHED_RATE_SPANS; span++) {
        struct sched_rate *r = &s->rates[kind][span];
        use(r, slot_at(r, span, now_ms), count);
    }
}

/* ---- the speed ---- */

/* Time counts while something is out, or would be but for a pause. */
static void measure(struct sched_upstream *s, uint64_t now_ms)
{
    uint64_t until_ms = s->out > 0 ? now_ms : u64_min(now_ms, s->pause_until_ms);
    if (until_ms > s->busy_from_ms) {
        s->busy_ms += u64_min(until_ms - s->busy_from_ms, MEASURE_MS_MAX);
    }
    s->busy_from_ms = now_ms;
    if (s->busy_ms < MEASURE_MS) {
        return;
    }
    uint64_t sample = s->busy_count * 1000000000 / s->busy_ms;
    if (s->pace_micro == 0) {
        s->pace_micro = sample;
    }
    for (uint64_t times = u64_min(s->busy_ms, MEASURE_MS_MAX) / MEASURE_MS; times > 0; times--) {
        s->pace_micro = s->pace_micro - s->pace_micro / 8 + sample / 8;
    }
    s->busy_ms = s->busy_count = 0;
}

void sched_rate_taken(struct sched_upstream *s, uint64_t now_ms)
{
    measure(s, now_ms);
    s->out++;
}

void sched_rate_back(struct sched_upstream *s, uint32_t recipients, bool succeeded, uint64_t now_ms)
{
    CHECK(s->out > 0);
    s->busy_count += succeeded;
    measure(s, now_ms);
    s->out--;
    if (recipients > 0) {
        spend(s, SCHED_RATE_MESSAGES, 1, now_ms);
        spend(s, SCHED_RATE_RECIPIENTS, recipients, now_ms);
    }
}

/* Messages per second, in millionths; 0: unknown. */
static uint64_t speed(const struct sched_upstream *s)
{
    bool enough = s->busy_ms >= MEASURE_MS_FIRST || s->busy_count >= MEASURE_COUNT;
    if (s->pace_micro != 0 || !enough) {
        return s->pace_micro;
    }
    return s->busy_count * 1000000000 / u64_max(s->busy_ms, 1);
}

uint64_t sched_forecast_ms(const struct sched_upstream *s, uint64_t backlog, uint64_t now_ms)
{
    if (backlog == 0) {
        return now_ms;
    }
    uint64_t micro = speed(s);
    if (sched_is_marked(s) || micro == 0 || backlog > FORECAST_MAX) {
        return UINT64_MAX;
    }
    uint64_t takes_ms = backlog * 1000000000 / micro;
    for (enum sched_rate_kind kind = 0; kind < SCHED_RATE_KINDS; kind++) {
        for (enum sched_rate_span span = 0; span < SCHED_RATE_SPANS; span++) {
            uint64_t most = s->limits.rate[kind][span];
            uint64_t room = most == 0 ? backlog : room_of(s, kind, span, now_ms);
            if (backlog > room) {
                takes_ms = u64_max(takes_ms, (backlog - room) * spans_ms[span] / most);
            }
        }
    }
    uint64_t from_ms = u64_max(now_ms, s->pause_until_ms);
    return takes_ms > FORECAST_MS_MAX ? UINT64_MAX : sched_later(from_ms, takes_ms);
}

/* ---- across a restart ---- */

void sched_save(const struct sched_upstream *s, uint64_t now_ms, struct record_upstream *out)
{
    out->outage_ms = sched_outage_ms(s, now_ms);
    out->bucket_count = 0;
    for (enum sched_rate_kind kind = 0; kind < SCHED_RATE_KINDS; kind++) {
        for (enum sched_rate_span span = 0; span < SCHED_RATE_SPANS; span++) {
            uint32_t used = sched_rate_used(s, kind, span, now_ms);
            if (used > 0) { /* also where no rate is set: after the restart one may be */
                out->buckets[out->bucket_count++] = (struct record_bucket){
                    .kind = (uint8_t)kind,
                    .span_ms = spans_ms[span],
                    .used = used,
                    .at_q = now_ms,
                };
            }
        }
    }
}

/* So many, evenly over the span that ended at at_ms. */
static void use_evenly(struct sched_rate *r, enum sched_rate_span span, uint32_t count,
                       uint64_t at_ms)
{
    uint64_t newest = at_ms / (spans_ms[span] / SLOTS_PER_SPAN);
    *r = (struct sched_rate){0};
    for (uint64_t back = SLOTS_PER_SPAN; back-- > 0;) {
        uint32_t share = count / (uint32_t)(back + 1);
        use(r, newest > back ? newest - back : 0, share);
        count -= share;
    }
}

void sched_restore(struct sched_upstream *s, const struct record_upstream *saved, uint64_t now_ms)
{
    s->outage_ms_total = saved->outage_ms;
    for (uint32_t index = 0; index < saved->bucket_count; index++) {
        const struct record_bucket *b = &saved->buckets[index];
        for (enum sched_rate_span span = 0; span < SCHED_RATE_SPANS; span++) {
            if (b->span_ms == spans_ms[span]) {
                use_evenly(&s->rates[b->kind][span], span, (uint32_t)u64_min(b->used, UINT32_MAX),
                           u64_min(b->at_q, now_ms));
            }
        }
    }
}
