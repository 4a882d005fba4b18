/*
 * One state, judged.
 */
#include "tests/power/verdict.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#define BODY_BYTES_MAX (1u << 20)
#define ROUTES_MAX     16
#define FINDING_BYTES  256

void verdict_expect_put(struct verdict_expect *expect, const struct model_version *version,
                        const struct content *content)
{
    for (size_t index = 0; index < expect->count; index++) {
        if (expect->list[index].content == content) {
            return;
        }
    }
    CHECK(expect->count < CONTENT_CANDIDATES_MAX);
    expect->list[expect->count++] = (struct verdict_candidate){version, content};
}

static int data_open(const char *root)
{
    char path[TAPE_PATH_BYTES_MAX * 2];
    snprintf(path, sizeof path, "%s/q/data.mdb", root);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno != ENOENT) {
        power_broken("cannot open %s: %s", path, strerrordesc_np(errno));
    }
    return fd;
}

/* What lies there before anybody has touched it. NULL: nothing, which may be. */
static const struct model_version *before(const char *root, const struct verdict_expect *expect)
{
    int fd = data_open(root);
    if (fd < 0) {
        if (!expect->may_be_absent) {
            power_violation("the queue is gone");
        }
        return NULL;
    }
    const struct content *contents[CONTENT_CANDIDATES_MAX];
    for (size_t index = 0; index < expect->count; index++) {
        contents[index] = expect->list[index].content;
    }
    char problem[512];
    size_t found = content_match(fd, contents, expect->count, problem, sizeof problem);
    close(fd);
    if (found == expect->count) {
        power_violation("the queue is none of the %zu that may be there; beside version %llu: %s",
                        expect->count,
                        expect->count == 0 ? 0ull
                                           : (unsigned long long)expect->list[0].version->number,
                        problem);
    }
    return expect->list[found].version;
}

static void after(const char *root, const struct model_version *version,
                  const struct content *content)
{
    int fd = data_open(root);
    if (fd < 0) {
        power_violation("the queue is gone after its recovery");
    }
    char problem[512];
    if (content_match(fd, &content, 1, problem, sizeof problem) != 0) {
        power_violation("the recovered queue is not version %llu: %s",
                        (unsigned long long)version->number, problem);
    }
    close(fd);
}

struct store *verdict_open(const char *root, const struct model *model)
{
    char path[TAPE_PATH_BYTES_MAX * 2];
    snprintf(path, sizeof path, "%s/q", root);
    struct store_config config = {.directory = path,
                                  .queue_bytes_max = model->queue_bytes_max,
                                  .history_bytes_max = model->history_bytes_max,
                                  .readers_max = 8,
                                  .chunk_bytes = model->chunk_bytes};
    struct store_report report;
    struct store *store = NULL;
    enum err err = store_open(&store, &config, &report);
    if (err != ERR_OK) {
        power_violation("the queue does not open: %s (%s)", report.problem, err_text(err));
    }
    return store;
}

/*
 * ---- the store's readers ----
 */

struct rows {
    const struct model_queue *queue;
    size_t at;
};

static bool row_check(void *ctx, const struct store_row *row)
{
    struct rows *rows = ctx;
    if (rows->at >= rows->queue->count) {
        power_violation("the readers show a message too many");
    }
    const struct model_message *message = rows->queue->messages[rows->at++];
    if (msg_id_compare(&row->id, &message->id) != 0 ||
        !slice_equal(row->envelope, message->envelope_record) ||
        !slice_equal(row->state, message->state_record)) {
        power_violation("the readers show message %zu otherwise than it was promised",
                        rows->at - 1);
    }
    return true;
}

static void rows_check(struct store_reader *reader, const struct model_queue *queue)
{
    struct rows rows = {.queue = queue};
    static const struct msg_id first = {{0}};
    struct msg_id next;
    enum err err = store_read_rows(reader, &first, MODEL_MESSAGES_MAX, row_check, &rows, &next);
    if (err != ERR_NOT_FOUND || rows.at != queue->count) {
        power_violation("the readers show %zu messages of %zu (%s)", rows.at, queue->count,
                        err_text(err));
    }
}

static bool past_check(void *ctx, const struct msg_id *id, struct slice history)
{
    struct rows *rows = ctx;
    if (rows->at == 0) {
        power_violation("the readers show an entry of the history too many");
    }
    const struct model_past *past = rows->queue->past[--rows->at];
    if (msg_id_compare(id, &past->message->id) != 0 || !slice_equal(history, past->record)) {
        power_violation("the readers show the history otherwise than it was promised");
    }
    return true;
}

static void history_check(struct store_reader *reader, const struct model_queue *queue)
{
    struct rows rows = {.queue = queue, .at = queue->past_count};
    struct msg_id last;
    struct msg_id next;
    memset(last.bytes, 0xff, sizeof last.bytes);
    enum err err =
        store_read_history_rows(reader, &last, MODEL_HISTORY_MAX, past_check, &rows, &next);
    if (err != ERR_NOT_FOUND || rows.at != 0) {
        power_violation("the readers do not show %zu entries of the history (%s)", rows.at,
                        err_text(err));
    }
}

/* Body and trail of each message. */
static void messages_check(struct store_reader *reader, const struct model_queue *queue)
{
    static uint8_t memory[BODY_BYTES_MAX];
    for (size_t index = 0; index < queue->count; index++) {
        const struct model_message *message = queue->messages[index];
        struct buf to;
        buf_init(&to, memory, sizeof memory);
        enum err err = ERR_OK;
        size_t len;
        do {
            len = to.len;
            err = store_read_body(reader, &message->id, to.len, &to);
        } while (err == ERR_OK && to.len > len);
        if (err != ERR_OK || !slice_equal(buf_slice(&to), message->body)) {
            power_violation("the body of message %zu: %zu bytes of %zu, %s", index, to.len,
                            message->body.len, err_text(err));
        }
        buf_reset(&to);
        err = store_read_trail(reader, &message->id, &to);
        if ((err == ERR_NOT_FOUND) != (message->trail_record.len == 0) ||
            !slice_equal(buf_slice(&to), message->trail_record)) {
            power_violation("the trail of message %zu: %s", index, err_text(err));
        }
    }
}

static bool due_is(const struct model_due *wanted, uint32_t route, const struct store_due *found)
{
    return wanted->route == route && wanted->due.due_q == found->due_q &&
           msg_id_compare(&wanted->due.id, &found->id) == 0 && wanted->due.flow == found->flow &&
           wanted->due.size_kib == found->size_kib;
}

static void due_check(struct store *store, const struct model_version *version)
{
    static struct store_due list[MODEL_MESSAGES_MAX];
    uint32_t routes[ROUTES_MAX];
    enum err err;
    size_t seen = 0;
    size_t count = store_due_routes(store, routes, ROUTES_MAX, &err);
    for (size_t route = 0; route < count; route++) {
        size_t found = store_due_after(store, routes[route], NULL, list, MODEL_MESSAGES_MAX, &err);
        for (size_t index = 0; index < found; index++, seen++) {
            if (seen == version->due_count ||
                !due_is(&version->due[seen], routes[route], &list[index])) {
                power_violation("entry %zu of the due index is another", seen);
            }
        }
    }
    if (err != ERR_OK || seen != version->due_count) {
        power_violation("the due index has %zu entries of %zu (%s)", seen, version->due_count,
                        err_text(err));
    }
}

static void summary_check(struct store *store, const struct model_version *version)
{
    struct store_summary summary;
    store_summary(store, &summary);
    for (size_t state = 0; state < MESSAGE_STATE_COUNT; state++) {
        if (summary.count_by_state[state] != version->count_by_state[state]) {
            power_violation("the summary counts %llu messages of state %zu instead of %llu",
                            (unsigned long long)summary.count_by_state[state], state,
                            (unsigned long long)version->count_by_state[state]);
        }
    }
    if (summary.body_bytes != version->body_bytes || summary.last_id != version->queue->last_id ||
        summary.history_count != version->queue->past_count ||
        summary.clock.q_ms != version->queue->clock.q_ms) {
        power_violation(
            "the summary: %llu body bytes of %llu, last id %llx of %llx, %llu in the "
            "history of %zu",
            (unsigned long long)summary.body_bytes, (unsigned long long)version->body_bytes,
            (unsigned long long)summary.last_id, (unsigned long long)version->queue->last_id,
            (unsigned long long)summary.history_count, version->queue->past_count);
    }
}

static bool counts_add(void *ctx, struct slice name, const uint64_t counts[MESSAGE_STATE_COUNT])
{
    uint64_t *sums = ctx;
    for (size_t state = 0; state < MESSAGE_STATE_COUNT && name.len > 0; state++) {
        sums[state] += counts[state];
    }
    return true;
}

/* That each row is right is the second reader's to say; here, that they add up. */
static void counts_check(struct store_reader *reader, const struct model_version *version)
{
    static const enum store_count_kind kinds[] = {STORE_COUNT_UPSTREAM, STORE_COUNT_REASON};
    for (size_t kind = 0; kind < 2; kind++) {
        uint64_t sums[MESSAGE_STATE_COUNT] = {0};
        enum err err =
            store_read_counts(reader, kinds[kind], slice_of(NULL, 0), 1000, counts_add, sums);
        if (err != ERR_NOT_FOUND || memcmp(sums, version->count_by_state, sizeof sums) != 0) {
            power_violation("the counts by %s do not add up (%s)",
                            kind == 0 ? "upstream" : "reason", err_text(err));
        }
    }
}

static void readers_check(struct store *store, const struct model_version *version)
{
    struct store_reader *reader = NULL;
    if (store_reader_new(&reader, store) != ERR_OK) {
        power_violation("no reader is to be had");
    }
    summary_check(store, version);
    rows_check(reader, version->queue);
    messages_check(reader, version->queue);
    history_check(reader, version->queue);
    counts_check(reader, version);
    due_check(store, version);
    store_reader_free(&reader);
}

/*
 * ---- more, for some ----
 */

static void finding_note(void *ctx, const char *finding)
{
    char *first = ctx;
    if (first[0] == '\0') {
        snprintf(first, FINDING_BYTES, "%s", finding);
    }
}

static void own_check(const char *root)
{
    char path[TAPE_PATH_BYTES_MAX * 2];
    char first[FINDING_BYTES] = "";
    struct store_check found;
    struct store_report report;
    snprintf(path, sizeof path, "%s/q", root);
    enum err err = store_check(path, finding_note, first, NULL, NULL, &found, &report);
    if (err != ERR_OK || found.findings != 0) {
        power_violation("the store's own check: %s %s (%s)", report.problem, first, err_text(err));
    }
}

static void must(enum err err, const char *what)
{
    if (err != ERR_OK) {
        power_violation("afterwards the queue cannot be worked on: %s: %s", what, err_text(err));
    }
}

/* A copy of the first message comes, and goes. */
static void come_and_go(struct store *store, const struct model *model,
                        const struct model_version *version)
{
    const struct model_message *m = version->queue->messages[0];
    struct msg_id id = msg_id_make(version->queue->last_id + (1u << 16), model->box);
    struct slice rest = m->body;
    must(store_begin(store), "begin");
    for (uint32_t piece = 0; rest.len > 0; piece++) {
        must(store_body_append(store, &id, piece, slice_head(rest, model->piece_bytes)), "append");
        rest = slice_tail(rest, model->piece_bytes);
    }
    must(store_message_add(store, &id, m->envelope_record, m->state_record), "add");
    must(store_commit(store), "commit");
    must(store_begin(store), "begin");
    must(store_message_remove(store, &id, slice_of(NULL, 0)), "remove");
    must(store_commit(store), "commit");
}

static void more(const char *root, const struct model *model, const struct model_version *version,
                 struct tape *tape)
{
    tape_resume(tape);
    own_check(root);
    struct store *store = verdict_open(root, model);
    if (version->queue->count > 0) {
        come_and_go(store, model, version);
    }
    store_close(&store);
    tape_stop();
    /* All is as before, but for the newest id. */
    static struct page_item items[CONTENT_ITEMS_MAX];
    struct content content = {.items = items, .count = version->recovered->count};
    CHECK(content.count <= CONTENT_ITEMS_MAX);
    memcpy(items, version->recovered->items, content.count * sizeof *items);
    size_t summary = content_find(&content, SLICE("meta"), SLICE("summary"));
    items[summary].value = slice_of(NULL, CONTENT_ANY_VALUE);
    after(root, version, &content);
}

const struct model_version *verdict_of_state(const char *root, const struct model *model,
                                             const struct verdict_expect *expect,
                                             const struct tape_names *names, uint32_t file_next,
                                             struct tape *tape, bool thorough, bool *out_made)
{
    const struct model_version *version = before(root, expect);
    *out_made = version == NULL;
    version = version == NULL ? model->versions[0] : version;
    tape_start(tape, root, names, file_next);
    tape_random_seed(model->random_seed);
    tape_mark(TAPE_HANDED, version->number);
    struct store *store = verdict_open(root, model);
    tape_mark(TAPE_ACKED, version->number);
    readers_check(store, version);
    store_close(&store);
    tape_stop();
    after(root, version, version->recovered);
    if (thorough) {
        more(root, model, version, tape);
    }
    return version;
}
