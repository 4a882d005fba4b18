/*
 * Cuts.
 *
 * At each event: it begins, so that its change may be there or not, and the power goes. Each way in
 * which it can go is one state. A state whose recovery flushes something is the ground for another
 * tape, that of the recovery, which is cut in the same manner; so is the tape of a process that was
 * started after a kill, with the difference that what was pending then still is.
 */
#include "tests/power/cuts.h"

#include <unistd.h>

#define STATES_PER_CUT_MAX 256
/* After that a store hangs; a busy machine takes its time. */
#define STATE_SECONDS_MAX 120

struct cuts {
    const struct cuts_config *config;
    const struct model *model;
    struct disk *disk;
    const char *root;
    struct cuts_count *count;
    struct tape tapes[POWER_DEPTH_MAX]; /* of the recoveries at each depth */
};

/* What the tape at hand has promised so far. */
struct promise {
    struct verdict_expect expect;
    const struct model_version *acked; /* depth 0 */
    const struct model_version *end;   /* deeper: what is promised once it has opened */
};

static void tape_cut(struct cuts *c, uint32_t depth, const struct tape *tape,
                     const struct promise *start, uint64_t salt);

/* Marks change what may be there. */
static void promise_follow(const struct cuts *c, struct promise *promise,
                           const struct tape_event *event)
{
    const struct model_version *version =
        event->version < c->model->count ? c->model->versions[event->version] : NULL;
    CHECK(version != NULL);
    if (promise->end != NULL) { /* a recovery: it adds nothing, and takes only what it may */
        if (event->kind == TAPE_ACKED) {
            promise->expect = (struct verdict_expect){0};
            verdict_expect_put(&promise->expect, promise->end, promise->end->recovered);
        }
    } else if (event->kind == TAPE_ACKED) {
        promise->acked = version;
        promise->expect = (struct verdict_expect){0};
        verdict_expect_put(&promise->expect, version, version->content);
    } else {
        verdict_expect_put(&promise->expect, version, version->content);
    }
}

static bool worth_cutting(const struct tape *tape)
{
    return tape->kinds[TAPE_SYNC] + tape->kinds[TAPE_SYNC_DIRECTORY] + tape->through > 0;
}

static bool one_in(uint64_t hash, uint32_t odds)
{
    return odds > 0 && hash % odds == 0;
}

/*
 * One state: shown, judged, and perhaps cut again.
 *   lasting  the state is that of a disk; else that of a kernel, and nothing of it is durable yet
 */
static void state_try(struct cuts *c, uint32_t depth, const struct promise *promise, uint64_t hash,
                      bool lasting)
{
    struct tape *tape = &c->tapes[depth];
    alarm(STATE_SECONDS_MAX);
    disk_push(c->disk);
    disk_show(c->disk);
    bool thorough = lasting && one_in(hash >> 9, c->config->thorough_one_in);
    bool made = false;
    const struct model_version *found =
        verdict_of_state(c->root, c->model, &promise->expect, disk_names(c->disk),
                         disk_file_next(c->disk), tape, thorough, &made);
    disk_restore(c->disk, tape);
    c->count->states[depth]++;
    c->count->thorough += thorough;
    bool deeper = depth + 1 < POWER_DEPTH_MAX && worth_cutting(tape) && !thorough &&
                  (!lasting || one_in(hash, c->config->nested_one_in));
    if (deeper) {
        struct promise next = {.end = found, .expect = {.may_be_absent = made}};
        if (!lasting) {
            disk_pop(c->disk);
            disk_push(c->disk);
            next.expect = promise->expect;
        } else {
            /* What was there of several that may be is known now, but not which of two that say
             * the same: both forms of it may be seen from here on. */
            verdict_expect_put(&next.expect, found, found->content);
        }
        for (uint64_t number = found->number + 1; number <= found->settles; number++) {
            const struct model_version *step = c->model->versions[number];
            verdict_expect_put(&next.expect, step, step->content);
        }
        verdict_expect_put(&next.expect, found, found->recovered);
        tape_cut(c, depth + 1, tape, &next, hash);
    }
    disk_pop(c->disk);
}

/* The choices of a cut, in order: nothing and everything come first, then one of the other
 * systematic ones now and then, and any. */
static struct disk_choice choice_of(uint32_t index, uint64_t hash)
{
    static const struct disk_choice systematic[] = {
        {DISK_LAST, 4096, 0}, {DISK_BUT_LAST, 4096, 0}, {DISK_ODD, 512, 0},
        {DISK_EVEN, 512, 0},  {DISK_ODD, 4096, 0},      {DISK_EVEN, 4096, 0},
    };
    uint32_t count = sizeof systematic / sizeof systematic[0];
    uint32_t patterns = DISK_PATTERN_COUNT - DISK_SYSTEMATIC_COUNT;
    if (index < 2) {
        return (struct disk_choice){index == 0 ? DISK_NONE : DISK_ALL, 4096, 0};
    }
    if ((hash >> 32) % 3 == 0) {
        return systematic[(hash >> 8) % count];
    }
    return (struct disk_choice){
        .pattern = (enum disk_pattern)(DISK_SYSTEMATIC_COUNT + (hash >> 8) % patterns),
        .block_bytes = hash % 2 == 0 ? 512 : 4096,
        .seed = power_mix(hash),
    };
}

static bool seen_before(uint64_t *seen, size_t *count, uint64_t hash)
{
    for (size_t index = 0; index < *count; index++) {
        if (seen[index] == hash) {
            return true;
        }
    }
    seen[(*count)++] = hash;
    return false;
}

static bool number_next(struct cuts *c, uint32_t depth)
{
    if (depth > 0) {
        return true;
    }
    uint64_t number = power_where.state++;
    return c->config->only_state == UINT64_MAX || c->config->only_state == number;
}

static void event_cut(struct cuts *c, uint32_t depth, const struct tape *tape, size_t at,
                      const struct promise *promise, uint64_t base)
{
    uint64_t seen[STATES_PER_CUT_MAX];
    size_t tried = 0;
    char event[64];
    tape_event_text(&tape->events[at], event, sizeof event);
    power_where.depth = depth + 1;
    uint32_t wanted = depth == 0 ? c->config->states_per_cut : c->config->states_per_nested_cut;
    uint32_t attempts = disk_pending(c->disk) == 0 ? 1 : wanted + 8;
    for (uint32_t index = 0; index < attempts && tried < wanted; index++) {
        uint64_t hash = power_mix(base + index);
        struct disk_choice choice = choice_of(index, hash);
        if (seen_before(seen, &tried, disk_select(c->disk, &choice))) {
            continue;
        }
        char words[40];
        disk_choice_text(&choice, words, sizeof words);
        snprintf(power_where.what[depth], sizeof power_where.what[depth], "at event %zu (%s): %s",
                 at, event, words);
        if (number_next(c, depth)) {
            state_try(c, depth, promise, power_mix(hash + 7), true);
        }
        power_where.depth = depth + 1;
    }
    c->count->cuts++;
}

/* kill -9 as soon as the event has returned, for the kernel finishes what it has begun; the next
 * process starts on what the kernel knows. */
static void event_kill(struct cuts *c, uint32_t depth, size_t at, const struct promise *promise)
{
    static const struct disk_choice all = {DISK_ALL, 4096, 0};
    snprintf(power_where.what[depth], sizeof power_where.what[depth], "killed after event %zu", at);
    disk_select(c->disk, &all);
    power_where.depth = depth + 1;
    if (number_next(c, depth)) {
        c->count->kills++;
        state_try(c, depth, promise, 0, false);
    }
}

/* Where names change or a recovery is under way, kills are of more interest than elsewhere. */
static uint32_t kill_odds(const struct cuts *c, const struct promise *promise)
{
    const struct model_version *acked = promise->acked;
    if (promise->expect.may_be_absent || disk_rename_is_pending(c->disk)) {
        return 1;
    }
    return acked->settles != acked->number ? c->config->kill_one_in / 8 : c->config->kill_one_in;
}

static void tape_cut(struct cuts *c, uint32_t depth, const struct tape *tape,
                     const struct promise *start, uint64_t salt)
{
    struct promise promise = *start;
    uint64_t base = power_mix(power_where.seed ^ power_mix(salt + depth));
    for (size_t at = 0; at < tape->count; at++) {
        const struct tape_event *event = &tape->events[at];
        if (event->kind == TAPE_HANDED || event->kind == TAPE_ACKED) {
            promise_follow(c, &promise, event);
            if (event->kind == TAPE_HANDED) {
                continue; /* nothing has happened yet */
            }
        }
        if (depth == 0 && at < c->model->first_event) {
            disk_before(c->disk, tape, event);
            disk_after(c->disk, event);
            continue;
        }
        disk_before(c->disk, tape, event);
        uint64_t hash = power_mix(base + at);
        event_cut(c, depth, tape, at, &promise, hash);
        disk_after(c->disk, event);
        if (depth == 0 && one_in(hash >> 7, kill_odds(c, &promise))) {
            event_kill(c, depth, at, &promise);
        }
    }
}

void cuts_run(const struct cuts_config *config, const struct model *model, struct disk *disk,
              const char *root, const struct tape *tape, struct cuts_count *count)
{
    CHECK(config->states_per_cut <= STATES_PER_CUT_MAX &&
          config->states_per_nested_cut <= STATES_PER_CUT_MAX);
    struct cuts c = {.config = config, .model = model, .disk = disk, .root = root, .count = count};
    struct promise start = {.expect = {.may_be_absent = true}};
    power_where.state = 0;
    tape_cut(&c, 0, tape, &start, 0);
    alarm(0);
    disk_clear(disk);
    for (size_t depth = 0; depth < POWER_DEPTH_MAX; depth++) {
        tape_free(&c.tapes[depth]);
    }
}
