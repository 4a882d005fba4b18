/*
 * Operations are rows of a table (work_internal.h); a transaction is a few of them, then a commit
 * or, now and then, an abort. Each commit is a version of the model; so is each that opening makes
 * of its own, for recovery and upgrade. As soon as a version is there, the second reader judges it.
 */
#include "tests/power/second.h"
#include "tests/power/verdict.h"
#include "tests/power/work_internal.h"

#include <stdarg.h>
#include <unistd.h>

#define OPERATIONS_A_TIME 6
#define ABORT_ONE_IN      20
#define RESTART_ONE_IN    15
#define COMPACT_ONE_IN    25

/* Which seeds do what else. */
#define KINDS       8
#define KIND_FILL   WORK_SEED_FILL /* a queue is filled to the brim, and emptied */
#define KIND_LEGACY 6              /* the queue is one of version 1 */
#define QUEUE_BYTES ((uint64_t)16 << 20)
#define FILL_AFTER  5

struct work_lies work_lies;

uint64_t work_pick(struct work *w, uint64_t below)
{
    return power_pick(&w->random, below);
}

void work_must(enum err err, const char *what)
{
    if (err != ERR_OK) {
        power_violation("the work fails: %s: %s", what, err_text(err));
    }
}

struct slice work_text(const char *format, ...)
{
    char memory[512];
    va_list args;
    va_start(args, format);
    int len = vsnprintf(memory, sizeof memory, format, args);
    va_end(args);
    CHECK(len >= 0 && (size_t)len < sizeof memory);
    return power_keep(slice_of(memory, (size_t)len));
}

struct slice work_body(struct work *w, size_t bytes)
{
    uint8_t *to = power_take(bytes);
    for (size_t index = 0; index < bytes; index += 8) {
        uint64_t value = power_random(&w->random);
        memcpy(to + index, &value, size_min(8, bytes - index));
    }
    return slice_of(to, bytes);
}

struct msg_id work_id(struct work *w)
{
    w->id_next += 1 + work_pick(w, 3);
    return msg_id_make(w->now_ms << 16 | (w->id_next & 0xffff), w->model->box);
}

/*
 * ---- operations ----
 */

static const struct {
    const char *name;
    uint32_t weight;
    work_operation_fn *run;
} operations[] = {
#define X(name, weight) {#name, weight, work_##name},
    WORK_OPERATIONS(X)
#undef X
};

#define OPERATION_COUNT (sizeof operations / sizeof operations[0])

/* Behind the rows of the table: what is done outside of a transaction. */
enum other { OTHER_ABORT, OTHER_RESTART, OTHER_COMPACT, OTHER_FILL, OTHER_UPGRADE, OTHER_COUNT };
static const char *const other_names[OTHER_COUNT] = {"abort", "restart", "compact", "fill",
                                                     "upgrade"};
static uint64_t done[OPERATION_COUNT + OTHER_COUNT];

size_t work_operation_count(void)
{
    return OPERATION_COUNT + OTHER_COUNT;
}

const char *work_operation_name(size_t index)
{
    return index < OPERATION_COUNT ? operations[index].name : other_names[index - OPERATION_COUNT];
}

uint64_t work_operation_done(size_t index)
{
    return done[index];
}

static void operation_run(struct work *w)
{
    uint32_t all = 0;
    for (size_t index = 0; index < OPERATION_COUNT; index++) {
        all += operations[index].weight;
    }
    uint64_t chosen = work_pick(w, all);
    size_t index = 0;
    while (chosen >= operations[index].weight) {
        chosen -= operations[index++].weight;
    }
    if (operations[index].run(w)) {
        done[index]++;
        w->changed = w->changed || operations[index].run != work_tick;
    }
}

/*
 * ---- versions ----
 */

static struct model_version *version_make(struct work *w)
{
    const struct work_draft *d = &w->draft;
    struct model_version *v = power_take(sizeof *v);
    if (w->model->count == MODEL_VERSIONS_MAX) {
        power_broken("more versions than the model can hold");
    }
    v->number = w->model->count;
    v->settles = v->number;
    v->queue = power_take(sizeof *v->queue);
    *v->queue = d->queue;
    struct model_intake *intakes = power_take(d->open_count * sizeof *intakes);
    for (size_t index = 0; index < d->open_count; index++) {
        intakes[index] = d->open[index].intake;
    }
    v->intakes = intakes;
    v->intake_count = d->open_count;
    for (size_t index = 0; index < v->queue->count; index++) {
        v->count_by_state[v->queue->messages[index]->state.state]++;
        v->body_bytes += v->queue->messages[index]->body.len;
    }
    v->due = power_take(v->queue->count * sizeof *v->due);
    v->due_count = second_due(v->queue, v->due);
    w->model->versions[w->model->count++] = v;
    return v;
}

/* Reads the file beside the running store; the tape does not see that. */
static void version_read(struct work *w, struct model_version *v)
{
    char path[TAPE_PATH_BYTES_MAX * 2];
    snprintf(path, sizeof path, "%s/q/data.mdb", w->root);
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        power_broken("cannot open %s", path);
    }
    const struct content *before =
        v->number == 0 ? NULL : w->model->versions[v->number - 1]->content;
    v->content = content_read(fileno(file), before);
    v->recovered = content_recovered(v->content);
    fclose(file);
}

static void version_finish(struct work *w, struct model_version *v)
{
    version_read(w, v);
    second_judge(w->model, v);
}

/*
 * ---- opening ----
 * Each commit that opening makes is a version on its way to the one that it ends with.
 */

static struct work *opening;
static uint64_t opening_writes;

static void commit_before(void)
{
    opening_writes = tape_write_count();
    tape_mark(TAPE_HANDED, opening->model->count);
}

static void commit_after(bool worked)
{
    if (!worked || tape_write_count() == opening_writes) {
        tape_unmark(); /* a transaction that only read */
        return;
    }
    struct model_version *v = version_make(opening);
    tape_mark(TAPE_ACKED, v->number);
    version_read(opening, v);
}

/*
 * What is being received is gone after this. from: the version that lies there.
 */
static void queue_open(struct work *w, struct model_version *from)
{
    w->draft.open_count = 0;
    size_t first = w->model->count;
    opening = w;
    tape_commits_watch(commit_before, commit_after);
    w->store = verdict_open(w->root, w->model);
    tape_commits_watch(NULL, NULL);
    struct model_version *v = version_make(w);
    tape_mark(TAPE_HANDED, v->number);
    tape_mark(TAPE_ACKED, v->number);
    struct store_summary summary;
    store_summary(w->store, &summary);
    w->model->box = summary.box;
    w->model->piece_bytes = (uint32_t)store_piece_bytes(w->store);
    version_finish(w, v);
    for (size_t index = first; index < v->number; index++) {
        w->model->versions[index]->recovered = v->content;
        w->model->versions[index]->settles = v->number;
    }
    if (from != NULL) {
        from->recovered = v->content;
        from->settles = v->number;
    }
}

/*
 * ---- transactions ----
 */

void work_transaction_begin(struct work *w)
{
    w->now_ms += 1 + work_pick(w, 5000);
    work_must(store_begin(w->store), "begin");
}

void work_split(struct work *w)
{
    tape_mark(TAPE_HANDED, w->model->count); /* the version that the second one completes */
    work_must(store_commit(w->store), "commit");
    work_must(store_begin(w->store), "begin");
}

void work_transaction_commit(struct work *w)
{
    struct model_version *v = version_make(w);
    tape_mark(TAPE_HANDED, v->number);
    if (work_lies.ack_early) {
        tape_mark(TAPE_ACKED, v->number);
    }
    if (work_lies.outcome_lost && w->model->count % 4 == 0) {
        store_abort(w->store);
    } else {
        work_must(store_commit(w->store), "commit");
    }
    if (!work_lies.ack_early) {
        tape_mark(TAPE_ACKED, v->number);
    }
    version_finish(w, v);
}

static void transaction_run(struct work *w)
{
    static struct work_draft before;
    before = w->draft;
    work_transaction_begin(w);
    w->changed = false;
    uint64_t count = 1 + work_pick(w, OPERATIONS_A_TIME);
    for (uint64_t index = 0; index < count; index++) {
        operation_run(w);
    }
    if (!w->changed) {
        w->draft.queue.clock = before.queue.clock; /* time alone is no reason to write */
    }
    if (work_pick(w, ABORT_ONE_IN) == 0) {
        store_abort(w->store);
        w->draft = before;
        done[OPERATION_COUNT + OTHER_ABORT]++;
        return;
    }
    work_transaction_commit(w);
}

static void restart_run(struct work *w)
{
    struct model_version *last = w->model->versions[w->model->count - 1];
    store_close(&w->store);
    queue_open(w, last);
    done[OPERATION_COUNT + OTHER_RESTART]++;
}

/* Another file, the same queue. */
static void compact_run(struct work *w)
{
    uint64_t before;
    uint64_t after;
    work_must(store_compact(w->store, &before, &after), "compact");
    done[OPERATION_COUNT + OTHER_COMPACT]++;
}

/*
 * ---- a seed ----
 */

static void queue_remove(const char *root)
{
    char path[TAPE_PATH_BYTES_MAX * 2];
    for (uint8_t name = 1; tape_name(name) != NULL; name++) {
        snprintf(path, sizeof path, "%s/q/%s", root, tape_name(name));
        unlink(path);
    }
    snprintf(path, sizeof path, "%s/q", root);
    if (rmdir(path) != 0) {
        power_broken("cannot remove %s", path);
    }
}

static void first_version(struct work *w, uint64_t kind, struct tape *tape)
{
    struct model_version *lying = NULL;
    if (kind == KIND_LEGACY) {
        work_legacy_make(w);
        lying = version_make(w);
        tape_mark(TAPE_HANDED, lying->number);
        tape_mark(TAPE_ACKED, lying->number);
        version_finish(w, lying);
        w->model->first_event = tape->count;
        done[OPERATION_COUNT + OTHER_UPGRADE]++;
    }
    tape_mark(TAPE_HANDED, w->model->count);
    queue_open(w, lying);
}

void work_run(uint64_t seed, uint32_t transactions, const char *root, struct model *model,
              struct tape *tape)
{
    static const uint32_t chunk_sizes[] = {16360, 1024, 4072, 512};
    static const struct tape_names nothing = {{0}};
    static struct work w;
    uint64_t kind = seed % KINDS;
    w = (struct work){.model = model, .root = root, .messages_max = WORK_MESSAGES_MAX};
    w.random = power_mix(seed);
    w.now_ms = 1700000000000u + work_pick(&w, 1u << 30);
    model->chunk_bytes = chunk_sizes[seed % 4];
    model->queue_bytes_max = kind == KIND_FILL ? WORK_FILL_BYTES : QUEUE_BYTES;
    model->history_bytes_max = (uint64_t)1 << 20;
    model->random_seed = power_mix(seed + 1);
    model->of_version_1 = kind == KIND_LEGACY;
    tape_start(tape, root, &nothing, 1);
    tape_random_seed(model->random_seed);
    first_version(&w, kind, tape);
    for (uint32_t count = 0; count < transactions; count++) {
        if (count == FILL_AFTER && kind == KIND_FILL) {
            work_fill(&w);
            done[OPERATION_COUNT + OTHER_FILL]++;
        } else if (work_pick(&w, RESTART_ONE_IN) == 0) {
            restart_run(&w);
        } else if (work_pick(&w, COMPACT_ONE_IN) == 0) {
            compact_run(&w);
        } else {
            transaction_run(&w);
        }
    }
    store_close(&w.store);
    tape_stop();
    queue_remove(root);
}
