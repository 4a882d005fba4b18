/*
 * The store, against its header: opening, bodies, messages, the due index, recovery, damage, a full
 * queue and a failing disk, on real LMDB in a directory of its own.
 */
#include "daemon/store/store_internal.h"
#include "tests/unit/store_fixture.h"

#define MODEL_OPS  turns(10000, 330)
#define MODEL_IDS  200
#define MODEL_USED turns(MODEL_IDS, 40)

/* ---- opening ---- */

static void test_new_queue_is_empty_and_reopens(void **state)
{
    struct fixture *f = *state;
    queue_open(f);
    struct store_summary first = summary_of(f);
    assert_int_equal(first.count_by_state[MESSAGE_QUEUED], 0);
    assert_int_equal(first.body_bytes, 0);
    assert_int_equal(first.last_id, 0);
    assert_int_equal(first.bytes_max, 1024 * MIB);
    assert_true(first.pages_used_bytes > 0 && first.pages_used_bytes < 100000);
    assert_true(store_piece_bytes(f->store) <= BODY_CHUNK_BYTES_MAX);
    assert_true(store_piece_bytes(f->store) > BODY_CHUNK_BYTES_MAX / 2);
    struct stat st;
    assert_int_equal(stat(f->directory, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    char path[160];
    file_path(f, "data.mdb", path);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    queue_reopen(f);
    struct store_summary second = summary_of(f);
    assert_int_equal(first.box, second.box);
    assert_int_equal(f->report.messages, 0);
    assert_int_equal(f->report.discarded, 0);
    assert_string_equal(f->report.problem, "");
}

static void test_creation_that_was_cut_off_is_made_again(void **state)
{
    struct fixture *f = *state;
    char path[160];
    assert_int_equal(mkdir(f->directory, 0700), 0);
    file_path(f, "new.mdb", path);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0 && write(fd, "half", 4) == 4);
    close(fd);
    queue_open(f);
    struct stat st;
    assert_int_equal(stat(path, &st), -1);
}

static void child_second_owner(struct fixture *f)
{
    struct store *store = NULL;
    struct store_report report;
    enum err err = store_open(&store, &f->config, &report);
    char pid[32];
    snprintf(pid, sizeof pid, "process %ld", (long)getppid());
    _exit(err == ERR_BUSY && store == NULL && strstr(report.problem, pid) != NULL ? 0 : 1);
}

static void test_second_owner_is_refused(void **state)
{
    struct fixture *f = *state;
    queue_open(f);
    struct store *store = NULL;
    struct store_report report;
    assert_int_equal(store_open(&store, &f->config, &report), ERR_BUSY);
    assert_null(store);
    assert_non_null(strstr(report.problem, "in use"));
    assert_int_equal(in_child(child_second_owner, f), 0);
    queue_reopen(f); /* the refusal took nothing from the owner */
}

static void child_reads_beside(struct fixture *f)
{
    struct fixture other = {.config = f->config};
    other.config.read_only = true;
    if (queue_try(&other) != ERR_OK || other.report.messages != 1) {
        _exit(1);
    }
    _exit(message_read(other.reader, 1) == ERR_OK && body_read(other.reader, 1, 70000, 4096) == 0
              ? 0
              : 2);
}

static void test_read_only_beside_the_owner_and_alone(void **state)
{
    struct fixture *f = *state;
    queue_open(f);
    message_commit(f, 1, 70000, &plain);
    assert_int_equal(in_child(child_reads_beside, f), 0);
    message_drop(f, 1);
    message_commit(f, 1, 70000, &plain);
    queue_close(f);
    char lock[160];
    file_path(f, "lock.mdb", lock);
    assert_int_equal(unlink(lock), 0);
    assert_int_equal(in_child(child_reads_beside, f), 0);
    f->config.read_only = true;
    queue_open(f);
    assert_int_equal(summary_of(f).count_by_state[MESSAGE_QUEUED], 1);
    queue_close(f);
    f->config.read_only = false;
    queue_open(f);
}

static void test_read_only_makes_nothing(void **state)
{
    struct fixture *f = *state;
    f->config.read_only = true;
    assert_int_equal(queue_try(f), ERR_NOT_FOUND);
    struct stat st;
    assert_int_equal(stat(f->directory, &st), -1);
    assert_int_not_equal(f->report.problem[0], '\0');
}

static void test_newer_version_is_refused(void **state)
{
    struct fixture *f = *state;
    queue_open(f);
    queue_close(f);
    assert_true(file_flip(f, slice_of("tasukiQ\0\0\0\0\2", 12), 11, 2 ^ 3) > 0);
    assert_int_equal(queue_try(f), ERR_VERSION);
    assert_non_null(strstr(f->report.problem, "newer"));
    f->config.read_only = true;
    assert_int_equal(queue_try(f), ERR_VERSION);
}

static void test_damaged_format_is_refused(void **state)
{
    struct fixture *f = *state;
    queue_open(f);
    queue_close(f);
    assert_true(file_flip(f, slice_of("tasukiQ\0\0\0\0\2", 12), 14, 0x40) > 0);
    assert_int_equal(queue_try(f), ERR_DAMAGED);
}

static void test_cut_file_is_refused(void **state)
{
    struct fixture *f = *state;
    static const off_t lengths[] = {300000, 12288, 8192, 4096, 100, 0};
    queue_open(f);
    message_commit(f, 1, 1000000, &plain);
    queue_close(f);
    char path[160];
    file_path(f, "data.mdb", path);
    for (size_t index = 0; index < sizeof lengths / sizeof lengths[0]; index++) {
        assert_int_equal(truncate(path, lengths[index]), 0);
        assert_int_equal(queue_try(f), ERR_DAMAGED);
        assert_int_not_equal(f->report.problem[0], '\0');
    }
    assert_int_equal(unlink(path), 0); /* gone is not the same as never made */
    assert_int_equal(queue_try(f), ERR_DAMAGED);
}

static void test_not_a_queue_is_refused(void **state)
{
    struct fixture *f = *state;
    queue_open(f);
    queue_close(f);
    char path[160];
    file_path(f, "data.mdb", path);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    uint8_t zeros[8192] = {0};
    assert_int_equal(write(fd, zeros, sizeof zeros), sizeof zeros);
    close(fd);
    assert_int_equal(queue_try(f), ERR_DAMAGED);
    f->config.directory = "/proc/version";
    assert_int_equal(queue_try(f), ERR_DAMAGED);
}

static void test_queue_keeps_its_chunk_size_until_it_is_empty(void **state)
{
    size_t bytes = turns(200000, 70000);
    struct fixture *f = *state;
    f->config.chunk_bytes = 1000;
    queue_open(f);
    assert_int_equal(store_piece_bytes(f->store), 65000);
    message_commit(f, 1, bytes, &plain);
    f->config.chunk_bytes = 4072;
    queue_reopen(f);
    assert_int_equal(store_piece_bytes(f->store), 65000);
    assert_int_equal(body_read(f->reader, 1, bytes, 5000), ERR_OK);
    message_drop(f, 1);
    queue_reopen(f);
    assert_int_equal(store_piece_bytes(f->store), 65152);
    message_commit(f, 2, bytes, &plain);
    queue_reopen(f);
    assert_int_equal(body_read(f->reader, 2, bytes, 5000), ERR_OK);
}

static void test_smaller_queue_max_still_opens(void **state)
{
    uint64_t bytes = turns(8, 2) * MIB;
    struct fixture *f = *state;
    queue_open(f);
    message_commit(f, 1, bytes, &plain);
    f->config.queue_bytes_max = MIB;
    queue_reopen(f);
    assert_false(store_has_room(f->store, 0));
    assert_int_equal(body_read(f->reader, 1, bytes, 65536), ERR_OK);
    message_drop(f, 1);
    assert_true(store_has_room(f->store, 1000));
}

/* ---- bodies ---- */

static void body_round(struct fixture *f, uint64_t number, uint64_t bytes)
{
    assert_int_equal(store_begin(f->store), ERR_OK);
    uint32_t pieces = body_append(f, number, bytes, (uint32_t)turns(40, 2));
    struct msg_id id = id_of(number);
    struct slice state = state_make(&plain);
    struct slice envelope = envelope_make(&plain, bytes, pieces);
    assert_int_equal(store_message_add(f->store, &id, envelope, state), ERR_OK);
    assert_int_equal(store_commit(f->store), ERR_OK);
    assert_int_equal(body_read(f->reader, number, bytes, 256 << 10), ERR_OK);
    assert_int_equal(body_read(f->reader, number, bytes, 65521), ERR_OK);
    if (bytes <= turns(200000, 2000)) {
        assert_int_equal(body_read(f->reader, number, bytes, 37), ERR_OK);
    }
}

static void test_bodies_are_byte_exact(void **state)
{
    struct fixture *f = *state;
    static const uint32_t chunks[] = {4072, 16360, 65512, 65536};
    uint64_t number = 1;
    size_t step = turns(1, 6);
    for (size_t index = 0; index < 4; index++) {
        f->config.chunk_bytes = chunks[index];
        queue_open(f);
        uint64_t c = chunks[index];
        uint64_t p = store_piece_bytes(f->store);
        const uint64_t sizes[] = {0,
                                  1,
                                  500,
                                  1999,
                                  2000,
                                  2020,
                                  2040,
                                  4095,
                                  4096,
                                  c - 1,
                                  c,
                                  c + 1,
                                  2 * c,
                                  p - 1,
                                  p,
                                  p + 1,
                                  2 * p,
                                  3 * p + 17,
                                  turns(index == 1 ? 64 * MIB : MIB, 200000)};
        uint64_t back = number;
        for (size_t size = 0; size < sizeof sizes / sizeof sizes[0]; size += step) {
            body_round(f, number++, sizes[size]);
        }
        queue_close(f);
        queue_open(f);
        for (size_t size = 0; size < sizeof sizes / sizeof sizes[0]; size += step) {
            assert_int_equal(body_read(f->reader, back, sizes[size], 65536), ERR_OK);
            message_drop(f, back++);
        }
        assert_int_equal(summary_of(f).body_bytes, 0);
        queue_close(f);
    }
}

static void test_body_read_errors(void **state)
{
    struct fixture *f = *state;
    queue_open(f);
    uint8_t memory[16];
    struct buf to;
    buf_init(&to, memory, sizeof memory);
    struct msg_id id = id_of(1);
    assert_int_equal(store_read_body(f->reader, &id, 0, &to), ERR_NOT_FOUND);
    assert_int_equal(store_begin(f->store), ERR_OK);
    body_append(f, 1, 5000, 0);
    assert_int_equal(store_commit(f->store), ERR_OK);
    assert_int_equal(store_read_body(f->reader, &id, 0, &to), ERR_NOT_FOUND); /* not a message */
    assert_int_equal(store_begin(f->store), ERR_OK);
    struct slice record = state_make(&plain);
    assert_int_equal(store_message_add(f->store, &id, envelope_make(&plain, 5000, 1), record),
                     ERR_OK);
    assert_int_equal(store_commit(f->store), ERR_OK);
    assert_int_equal(store_read_body(f->reader, &id, 4999, &to), ERR_OK);
    assert_int_equal(to.len, 1);
    assert_int_equal(store_read_body(f->reader, &id, 5000, &to), ERR_OK);
    assert_int_equal(to.len, 1);
    assert_int_equal(store_read_body(f->reader, &id, UINT64_MAX, &to), ERR_OK);
    assert_int_equal(to.len, 1);
    message_drop(f, 1);
    buf_reset(&to);
    assert_int_equal(store_read_body(f->reader, &id, 0, &to), ERR_NOT_FOUND);
}

static void test_discard_frees_what_was_appended(void **state)
{
    struct fixture *f = *state;
    queue_open(f);
    uint64_t used = summary_of(f).pages_used_bytes;
    struct msg_id id = id_of(5);
    assert_int_equal(store_begin(f->store), ERR_OK);
    assert_int_equal(store_body_discard(f->store, &id), ERR_OK); /* there was nothing */
    body_append(f, 5, 3 * MIB, 7);
    assert_int_equal(store_commit(f->store), ERR_OK);
    assert_true(summary_of(f).pages_used_bytes >= used + 3 * MIB);
    assert_int_equal(store_begin(f->store), ERR_OK);
    assert_int_equal(store_body_discard(f->store, &id), ERR_OK);
    assert_int_equal(store_commit(f->store), ERR_OK);
    assert_true(summary_of(f).pages_used_bytes < used + 65536);
    message_commit(f, 5, 100, &plain); /* the id can begin again */
    assert_int_equal(body_read(f->reader, 5, 100, 100), ERR_OK);
}

static uint64_t resident_bytes(void)
{
    unsigned long total = 0;
    unsigned long resident = 0;
    FILE *file = fopen("/proc/self/statm", "re");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%lu %lu", &total, &resident), 2);
    fclose(file);
    return (uint64_t)resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void test_reading_and_removing_bodies_keeps_memory_bounded(void **state)
{
    size_t count = where_calls_fail() ? 1 : 40;
    struct fixture *f = *state;
    f->config.chunk_bytes = (uint32_t)turns(0, 65536);
    queue_open(f);
    for (uint64_t number = 1; number <= count; number++) {
        message_commit(f, number, 10 * MIB, &plain);
    }
    queue_reopen(f);
    uint64_t before = resident_bytes();
    uint64_t most = before;
    for (uint64_t number = 1; number <= count; number++) {
        assert_int_equal(body_read(f->reader, number, 10 * MIB, 65536), ERR_OK);
        most = u64_max(most, resident_bytes());
    }
    assert_true(most < before + 48 * MIB);
    for (uint64_t number = 1; number <= count; number++) {
        message_drop(f, number);
        most = u64_max(most, resident_bytes());
    }
    assert_true(most < before + 64 * MIB);
    assert_int_equal(summary_of(f).body_bytes, 0);
}

/* ---- messages ---- */

static void test_message_is_read_as_written(void **state)
{
    struct fixture *f = *state;
    queue_open(f);
    message_commit(f, 9, 10, &plain);
    assert_int_equal(summary_of(f).last_id, 9);
    struct msg_id id = id_of(9);
    uint8_t memory[4096] = "abc";
    struct buf to;
    buf_init(&to, memory, sizeof memory);
    to.len = 3;
    struct slice envelope;
    struct slice record;
    size_t needed = 0;
    assert_int_equal(store_read_message(f->reader, &id, &to, &envelope, &record, &needed), ERR_OK);
    assert_true(slice_equal(record, state_make(&plain)));
    assert_true(slice_equal(envelope, envelope_make(&plain, 10, 1)));
    assert_int_equal(to.len, 3 + envelope.len + record.len);
    assert_memory_equal(memory, "abc", 3);
    size_t exact = envelope.len + record.len;
    buf_init(&to, memory, exact - 1);
    assert_int_equal(store_read_message(f->reader, &id, &to, &envelope, &record, &needed),
                     ERR_LIMIT);
    assert_int_equal(needed, exact);
    assert_int_equal(to.len, 0);
    buf_init(&to, memory, exact);
    assert_int_equal(store_read_message(f->reader, &id, &to, &envelope, &record, &needed), ERR_OK);
    id = id_of(10);
    assert_int_equal(store_read_message(f->reader, &id, &to, &envelope, &record, &needed),
                     ERR_NOT_FOUND);
}

static void test_nothing_is_seen_before_the_commit_nor_after_an_abort(void **state)
{
    struct fixture *f = *state;
    queue_open(f);
    assert_int_equal(store_begin(f->store), ERR_OK);
    message_put(f, 1, 5000, &plain);
    assert_int_equal(message_read(f->reader, 1), ERR_NOT_FOUND);
    assert_int_equal(summary_of(f).count_by_state[MESSAGE_QUEUED], 0);
    store_abort(f->store);
    assert_int_equal(message_read(f->reader, 1), ERR_NOT_FOUND);
    assert_int_equal(summary_of(f).last_id, 0);
    message_commit(f, 1, 5000, &plain);
    assert_int_equal(store_begin(f->store), ERR_OK);
    struct msg_id id = id_of(1);
    assert_int_equal(store_message_remove(f->store, &id, nothing), ERR_OK);
    assert_int_equal(message_read(f->reader, 1), ERR_OK);
    store_abort(f->store);
    assert_int_equal(body_read(f->reader, 1, 5000, 999), ERR_OK);
}

static void test_errors_of_writing(void **state)
{
    struct fixture *f = *state;
    queue_open(f);
    struct msg_id id = id_of(1);
    struct slice got;
    assert_int_equal(store_begin(f->store), ERR_OK);
    assert_int_equal(store_message_update(f->store, &id, state_make(&plain)), ERR_NOT_FOUND);
    assert_int_equal(store_message_remove(f->store, &id, nothing), ERR_NOT_FOUND);
    assert_int_equal(store_state_get(f->store, &id, &got), ERR_NOT_FOUND);
    assert_int_equal(store_envelope_get(f->store, &id, &got), ERR_NOT_FOUND);
    assert_int_equal(store_trail_get(f->store, &id, &got), ERR_NOT_FOUND);
    message_put(f, 1, 100, &plain); /* ERR_NOT_FOUND left the transaction as it was */
    assert_int_equal(store_state_get(f->store, &id, &got), ERR_OK);
    assert_true(slice_equal(got, state_make(&plain)));
    assert_int_equal(store_envelope_get(f->store, &id, &got), ERR_OK);
    assert_true(slice_equal(got, envelope_make(&plain, 100, 1)));
    assert_int_equal(store_commit(f->store), ERR_OK);
    assert_int_equal(store_begin(f->store), ERR_OK);
    assert_int_equal(
        store_message_add(f->store, &id, envelope_make(&plain, 0, 0), state_make(&plain)),
        ERR_EXISTS);
    store_abort(f->store);
    assert_int_equal(store_begin(f->store), ERR_OK);
    assert_int_equal(store_message_update(f->store, &id, SLICE("no record")), ERR_DAMAGED);
    store_abort(f->store);
    assert_int_equal(body_read(f->reader, 1, 100, 100), ERR_OK);
}

struct rows {
    uint64_t numbers[64];
    size_t count, damaged, halves, stop_after;
};

static bool row_take(void *ctx, const struct store_row *row)
{
    struct rows *rows = ctx;
    rows->numbers[rows->count++] = msg_id_time_and_sequence(&row->id);
    rows->damaged += row->envelope.len == 0;
    rows->halves += (row->envelope.len == 0) != (row->state.len == 0);
    return rows->count != rows->stop_after;
}

static void test_rows_are_walked_in_order_and_resumed(void **state)
{
    struct fixture *f = *state;
    queue_open(f);
    struct rows rows = {0};
    struct msg_id next = id_of(0);
    assert_int_equal(store_read_rows(f->reader, &next, 10, row_take, &rows, &next), ERR_NOT_FOUND);
    for (uint64_t number = 25; number >= 1; number--) {
        message_commit(f, number * 10, 10, &plain);
    }
    next = id_of(0);
    enum err err = ERR_OK;
    for (size_t turn = 0; turn < 3; turn++) {
        assert_int_equal(err, ERR_OK);
        err = store_read_rows(f->reader, &next, 10, row_take, &rows, &next);
    }
    assert_int_equal(err, ERR_NOT_FOUND);
    assert_int_equal(rows.count, 25);
    for (size_t index = 0; index < 25; index++) {
        assert_int_equal(rows.numbers[index], (index + 1) * 10);
    }
    rows = (struct rows){.stop_after = 3};
    struct msg_id from = id_of(41); /* between two */
    assert_int_equal(store_read_rows(f->reader, &from, 10, row_take, &rows, &next), ERR_OK);
    assert_int_equal(rows.count, 3);
    assert_int_equal(rows.numbers[0], 50);
    assert_int_equal(msg_id_time_and_sequence(&next), 80);
    rows = (struct rows){0};
    from = id_of(160);
    assert_int_equal(store_read_rows(f->reader, &from, 10, row_take, &rows, &next), ERR_NOT_FOUND);
    assert_int_equal(rows.count, 10); /* exactly max, and the end */
}

/* ---- the due index ---- */

static int due_compare(const void *a, const void *b)
{
    const struct store_due *x = a;
    const struct store_due *y = b;
    return x->due_q != y->due_q ? (x->due_q < y->due_q ? -1 : 1) : msg_id_compare(&x->id, &y->id);
}

static void test_due_index_is_in_order_and_resumes(void **state)
{
    struct fixture *f = *state;
    static const char *const upstreams[] = {"main", "second", "third"};
    struct store_due model[3][300];
    size_t counts[3] = {0};
    queue_open(f);
    enum err err;
    uint32_t routes[8];
    assert_int_equal(store_due_routes(f->store, routes, 8, &err), 0);
    assert_int_equal(err, ERR_OK);
    assert_int_equal(store_begin(f->store), ERR_OK);
    for (uint64_t number = 1; number <= turns(300, 60); number++) {
        size_t upstream = rng() % 3;
        struct want want = {.state = rng() % 4 == 0 ? MESSAGE_HELD : MESSAGE_QUEUED,
                            .upstream = upstreams[upstream],
                            .due_q = rng() % 40};
        message_put(f, number, 1, &want);
        if (want.state == MESSAGE_QUEUED) {
            model[upstream][counts[upstream]++] =
                (struct store_due){.due_q = want.due_q, .id = id_of(number)};
        }
    }
    assert_int_equal(store_commit(f->store), ERR_OK);
    assert_int_equal(store_due_routes(f->store, routes, 8, &err), 3);
    assert_int_equal(err, ERR_OK);
    assert_true(routes[0] < routes[1] && routes[1] < routes[2]);
    assert_int_equal(store_due_routes(f->store, routes, 2, &err), 2);
    for (size_t upstream = 0; upstream < 3; upstream++) {
        qsort(model[upstream], counts[upstream], sizeof(struct store_due), due_compare);
        uint32_t route = record_route(slice_from_str(upstreams[upstream]));
        struct store_due got[7];
        struct store_due after = {0};
        size_t at = 0;
        for (;;) {
            size_t count = store_due_after(f->store, route, at == 0 ? NULL : &after, got, 7, &err);
            assert_int_equal(err, ERR_OK);
            if (count == 0) {
                break;
            }
            for (size_t index = 0; index < count; index++, at++) {
                assert_true(at < counts[upstream]);
                assert_int_equal(due_compare(&got[index], &model[upstream][at]), 0);
            }
            after = got[count - 1];
        }
        assert_int_equal(at, counts[upstream]);
    }
}

/* ---- counts, against a model ---- */

#define MODEL_UPSTREAMS 3
#define MODEL_DEVICES   90 /* more rows than one transaction gathers */
#define MODEL_REASONS   4

struct model_message {
    bool there;
    bool past; /* in the history */
    struct want want;
    uint64_t bytes;
    size_t history_bytes; /* of the value */
};

static const char *const model_upstreams[MODEL_UPSTREAMS] = {"main", "second", "third"};
static char model_devices[MODEL_DEVICES][8];
static const enum outcome model_reasons[MODEL_REASONS] = {OUTCOME_NONE, OUTCOME_DEFERRED,
                                                          OUTCOME_REFUSED, OUTCOME_IN_DOUBT};

struct model_rows {
    const struct model_message *model;
    enum store_count_kind kind;
    uint64_t rows, wrong;
    uint64_t sums[MESSAGE_STATE_COUNT];
    struct slice last;
    uint8_t last_memory[RECORD_DEVICE_BYTES_MAX];
};

static struct slice model_name(const struct want *want, enum store_count_kind kind)
{
    switch (kind) {
    case STORE_COUNT_UPSTREAM:
        return slice_from_str(want->upstream);
    case STORE_COUNT_DEVICE:
        return slice_from_str(want->device == NULL ? "" : want->device);
    case STORE_COUNT_REASON:
        break;
    }
    return slice_from_str(outcome_row(want->reason)->word);
}

/* One row of the store's, counted again over the whole model. What is called back does not jump out
 * of the store's call, which assertions do. */
static bool model_row(void *ctx, struct slice name, const uint64_t counts[MESSAGE_STATE_COUNT])
{
    struct model_rows *rows = ctx;
    uint64_t expected[MESSAGE_STATE_COUNT] = {0};
    for (size_t index = 0; index < MODEL_USED; index++) {
        const struct model_message *m = &rows->model[index];
        if (m->there && slice_equal(model_name(&m->want, rows->kind), name)) {
            expected[m->want.state]++;
        }
    }
    uint64_t all = 0;
    for (size_t state = 0; state < MESSAGE_STATE_COUNT; state++) {
        rows->wrong += counts[state] != expected[state];
        rows->sums[state] += counts[state];
        all += counts[state];
    }
    rows->wrong += all == 0 || name.len == 0;
    if (rows->rows++ > 0) { /* in the order of names */
        size_t common = size_min(rows->last.len, name.len);
        int order = memcmp(rows->last.data, name.data, common);
        rows->wrong += order > 0 || (order == 0 && rows->last.len >= name.len);
    }
    memcpy(rows->last_memory, name.data, name.len);
    rows->last = slice_of(rows->last_memory, name.len);
    return true;
}

/* In pieces of some rows each, as a page reads them. */
static void model_rows_compare(struct fixture *f, const struct model_message *model)
{
    for (unsigned kind = 0; kind <= STORE_COUNT_REASON; kind++) {
        struct model_rows rows = {.model = model, .kind = (enum store_count_kind)kind};
        uint64_t expected[MESSAGE_STATE_COUNT] = {0};
        enum err err = ERR_OK;
        while (err == ERR_OK) {
            err = store_read_counts(f->reader, rows.kind, rows.last, 1 + rng() % 20, model_row,
                                    &rows);
        }
        assert_int_equal(err, ERR_NOT_FOUND);
        assert_int_equal(rows.wrong, 0);
        for (size_t index = 0; index < MODEL_USED; index++) {
            if (model[index].there && model_name(&model[index].want, rows.kind).len > 0) {
                expected[model[index].want.state]++;
            }
        }
        assert_memory_equal(rows.sums, expected, sizeof expected);
    }
}

/* Which route of the due index a message stands under; 0: none. */
static uint32_t model_route(const struct want *want)
{
    switch (want->state) {
    case MESSAGE_QUEUED:
        return record_route(slice_from_str(want->upstream));
    case MESSAGE_TRASHED:
        return record_route(SLICE("#trash"));
    case MESSAGE_FAILED:
        return want->awaits_digest ? record_route(SLICE("#digest")) : 0;
    case MESSAGE_HELD:
    case MESSAGE_STATE_COUNT:
        break;
    }
    return 0;
}

static void model_due_compare(struct fixture *f, const struct model_message *model)
{
    static const char *const names[] = {"main", "second", "third", "#trash", "#digest"};
    static struct store_due dues[MODEL_IDS];
    for (size_t at = 0; at < sizeof names / sizeof names[0]; at++) {
        uint32_t route = record_route(slice_from_str(names[at]));
        size_t expected = 0;
        for (size_t index = 0; index < MODEL_USED; index++) {
            expected += model[index].there && model_route(&model[index].want) == route;
        }
        enum err err;
        size_t count = store_due_after(f->store, route, NULL, dues, MODEL_IDS, &err);
        assert_int_equal(err, ERR_OK);
        assert_int_equal(count, expected);
        for (size_t index = 0; index < count; index++) {
            uint64_t number = msg_id_time_and_sequence(&dues[index].id);
            assert_true(number >= 1 && number <= MODEL_USED);
            const struct model_message *m = &model[number - 1];
            assert_true(m->there && model_route(&m->want) == route);
            assert_int_equal(m->want.due_q, dues[index].due_q);
            assert_int_equal(m->want.flow, dues[index].flow);
            assert_int_equal(m->want.size_kib, dues[index].size_kib);
        }
    }
}

static void model_compare(struct fixture *f, const struct model_message *model)
{
    struct store_summary summary = summary_of(f);
    uint64_t counts[MESSAGE_STATE_COUNT] = {0};
    uint64_t bytes = 0;
    uint64_t past = 0;
    uint64_t past_bytes = 0;
    for (size_t index = 0; index < MODEL_USED; index++) {
        if (model[index].there) {
            counts[model[index].want.state]++;
            bytes += model[index].bytes;
        }
        past += model[index].past;
        past_bytes += model[index].past ? model[index].history_bytes + 4 : 0;
    }
    assert_memory_equal(summary.count_by_state, counts, sizeof counts);
    assert_int_equal(summary.body_bytes, bytes);
    assert_int_equal(summary.history_count, past);
    assert_int_equal(summary.history_bytes, past_bytes);
    model_due_compare(f, model);
    model_rows_compare(f, model);
}

static struct want model_want(void)
{
    size_t device = rng() % (MODEL_DEVICES + 4);
    return (struct want){.state = (enum message_state)(rng() % MESSAGE_STATE_COUNT),
                         .upstream = model_upstreams[rng() % MODEL_UPSTREAMS],
                         .device = device < MODEL_DEVICES ? model_devices[device] : NULL,
                         .reason = model_reasons[rng() % MODEL_REASONS],
                         .awaits_digest = rng() % 2 == 0,
                         .due_q = rng() % 1000,
                         .flow = (uint32_t)rng(),
                         .size_kib = (uint32_t)rng(),
                         .text = rng() % 512};
}

/* It leaves with a history or without one. */
static void model_leave(struct fixture *f, struct model_message *message, uint64_t number)
{
    struct msg_id id = id_of(number);
    message->there = false;
    if (rng() % 2 == 0) {
        assert_int_equal(store_message_remove(f->store, &id, nothing), ERR_OK);
        return;
    }
    struct slice history = history_make(&message->want, number, rng() % 5000);
    assert_int_equal(store_message_remove(f->store, &id, history), ERR_OK);
    message->past = true; /* in place of what an earlier one of that id left */
    message->history_bytes = history.len;
}

static void model_step(struct fixture *f, struct model_message *message, uint64_t number)
{
    struct want want = model_want();
    struct msg_id id = id_of(number);
    if (!message->there) {
        uint64_t bytes = rng() % 10 == 0 ? rng() % 200000 : rng() % 3000;
        if (rng() % 8 == 0) {
            body_append(f, number, bytes, 0);
            assert_int_equal(store_body_discard(f->store, &id), ERR_OK);
        }
        message_put(f, number, bytes, &want);
        message->there = true;
        message->want = want;
        message->bytes = bytes;
    } else if (rng() % 3 == 0) {
        model_leave(f, message, number);
    } else {
        assert_int_equal(store_message_update(f->store, &id, state_make(&want)), ERR_OK);
        message->want = want;
    }
}

static void model_records_compare(struct fixture *f, const struct model_message *model)
{
    for (uint64_t number = 1; number <= MODEL_USED; number++) {
        const struct model_message *message = &model[number - 1];
        static uint8_t memory[RECORD_BYTES];
        struct buf to;
        size_t needed;
        struct msg_id id = id_of(number);
        assert_int_equal(message_read(f->reader, number), message->there ? ERR_OK : ERR_NOT_FOUND);
        assert_int_equal(body_read(f->reader, number, message->bytes, 65536),
                         message->there ? ERR_OK : ERR_NOT_FOUND);
        buf_init(&to, memory, sizeof memory);
        assert_int_equal(store_read_history(f->reader, &id, &to, &needed),
                         message->past ? ERR_OK : ERR_NOT_FOUND);
        assert_int_equal(to.len, message->past ? message->history_bytes : 0);
    }
}

static void test_counts_are_exact_through_random_operations(void **state)
{
    struct fixture *f = *state;
    static struct model_message model[MODEL_IDS];
    static struct model_message before[MODEL_IDS];
    memset(model, 0, sizeof model);
    for (size_t index = 0; index < MODEL_DEVICES; index++) {
        snprintf(model_devices[index], sizeof model_devices[index], "d%zu", index);
    }
    queue_open(f);
    for (size_t op = 0; op < MODEL_OPS;) {
        memcpy(before, model, sizeof model);
        assert_int_equal(store_begin(f->store), ERR_OK);
        for (size_t batch = turns(1, 90) + rng() % turns(60, 30); batch > 0; batch--, op++) {
            uint64_t number = 1 + rng() % MODEL_USED;
            model_step(f, &model[number - 1], number);
        }
        if (rng() % 10 == 0) {
            store_abort(f->store);
            memcpy(model, before, sizeof model);
        } else {
            assert_int_equal(store_commit(f->store), ERR_OK);
        }
        if (rng() % 10 == 0) {
            queue_reopen(f);
        }
        model_compare(f, model);
    }
    model_records_compare(f, model);
    queue_check(f, false);
}

/* ---- recovery ---- */

static void child_dies_receiving(struct fixture *f)
{
    queue_open(f);
    message_commit(f, 1, 100000, &plain);
    for (uint64_t number = 2; number <= 4; number++) {
        assert_int_equal(store_begin(f->store), ERR_OK);
        body_append(f, number, 400000, 1);
        assert_int_equal(store_commit(f->store), ERR_OK);
    }
    assert_int_equal(store_begin(f->store), ERR_OK);
    message_put(f, 5, 100000, &plain); /* never committed */
    raise(SIGKILL);
}

static void test_recovery_discards_bodies_without_a_message(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(in_child(child_dies_receiving, f), 128 + SIGKILL);
    queue_open(f);
    assert_int_equal(f->report.messages, 1);
    assert_int_equal(f->report.discarded, 3);
    assert_true(summary_of(f).pages_used_bytes < 300000);
    assert_int_equal(body_read(f->reader, 1, 100000, 65536), ERR_OK);
    assert_int_equal(message_read(f->reader, 5), ERR_NOT_FOUND);
    assert_int_equal(summary_of(f).last_id, 4);
    queue_reopen(f);
    assert_int_equal(f->report.discarded, 0);
}

static void test_recovery_discards_more_than_one_batch(void **state)
{
    size_t count = turns(600, 260);
    struct fixture *f = *state;
    queue_open(f);
    assert_int_equal(store_begin(f->store), ERR_OK);
    for (uint64_t number = 1; number <= count; number++) {
        body_append(f, number, 10, 0);
    }
    assert_int_equal(store_commit(f->store), ERR_OK);
    queue_reopen(f);
    assert_int_equal(f->report.discarded, count);
}

/* More of them in one transaction than it keeps in mind, some of which end in it. */
static void test_bodies_that_begin_in_one_transaction(void **state)
{
    struct fixture *f = *state;
    queue_open(f);
    for (int batch = 0; batch < 2; batch++) {
        assert_int_equal(store_begin(f->store), ERR_OK);
        for (uint64_t number = 1; number <= 3 * STORE_FRESH_MAX; number++) {
            uint64_t id = number + 1000 * (uint64_t)batch;
            (void)body_append(f, id, 10, 0);
            if (number % 3 == 0) {
                uint32_t pieces = 1;
                struct msg_id ended = id_of(id);
                assert_int_equal(store_message_add(f->store, &ended,
                                                   envelope_make(&plain, 10, pieces),
                                                   state_make(&plain)),
                                 ERR_OK);
            } else if (number % 3 == 1) {
                struct msg_id ended = id_of(id);
                assert_int_equal(store_body_discard(f->store, &ended), ERR_OK);
            }
        }
        if (batch == 0) {
            store_abort(f->store); /* nothing of it is remembered by the next one */
        } else {
            assert_int_equal(store_commit(f->store), ERR_OK);
        }
    }
    queue_reopen(f);
    assert_int_equal(f->report.messages, STORE_FRESH_MAX);
    assert_int_equal(f->report.discarded, STORE_FRESH_MAX);
    assert_int_equal(body_read(f->reader, 1003, 10, 10), ERR_OK);
}

/* A body that goes on in later transactions is found from the first commit on. */
static void test_a_body_over_several_transactions(void **state)
{
    struct fixture *f = *state;
    queue_open(f);
    uint64_t bytes = 3 * (uint64_t)store_piece_bytes(f->store) + 5;
    assert_int_equal(store_begin(f->store), ERR_OK);
    uint32_t pieces = body_append(f, 7, bytes, 2);
    struct msg_id id = id_of(7);
    assert_int_equal(pieces, 4);
    assert_int_equal(
        store_message_add(f->store, &id, envelope_make(&plain, bytes, pieces), state_make(&plain)),
        ERR_OK);
    assert_int_equal(store_commit(f->store), ERR_OK);
    queue_reopen(f);
    assert_int_equal(f->report.discarded, 0);
    assert_int_equal(body_read(f->reader, 7, bytes, 65536), ERR_OK);
}

/* What a commit of small messages writes: their records fill a few pages; none of them costs one
 * of its own. */
static void test_small_messages_share_pages(void **state)
{
    struct fixture *f = *state;
    queue_open(f);
    message_commit(f, 1, 10, &plain);
    uint64_t before = written_bytes;
    assert_int_equal(store_begin(f->store), ERR_OK);
    for (uint64_t number = 2; number <= 61; number++) {
        message_put(f, number, 10, &plain);
    }
    assert_int_equal(store_commit(f->store), ERR_OK);
    assert_true(written_bytes > before);
    assert_true(written_bytes - before < (uint64_t)50 * 4096);
}

/* ---- damage ---- */

static void test_damaged_records_are_found_and_the_rest_is_read(void **state)
{
    struct fixture *f = *state;
    struct want envelope = plain;
    struct want record = plain;
    envelope.subject = "envelope-marker";
    record.upstream = "state-marker";
    queue_open(f);
    message_commit(f, 1, 1000, &plain);
    message_commit(f, 2, 1000, &envelope);
    message_commit(f, 3, 1000, &record);
    message_commit(f, 4, 200000, &plain);
    message_commit(f, 5, 1000, &plain);
    queue_close(f);
    uint8_t place[64];
    body_fill(place, sizeof place, 4, 100000);
    assert_true(file_flip(f, SLICE("envelope-marker"), 3, 0x01) > 0);
    assert_true(file_flip(f, SLICE("state-marker"), 0, 0x80) > 0);
    assert_true(file_flip(f, slice_of(place, sizeof place), 20, 0x10) > 0);
    queue_open(f);
    assert_int_equal(message_read(f->reader, 1), ERR_OK);
    assert_int_equal(message_read(f->reader, 2), ERR_DAMAGED);
    assert_int_equal(body_read(f->reader, 2, 1000, 100), ERR_DAMAGED);
    assert_int_equal(message_read(f->reader, 3), ERR_DAMAGED);
    assert_int_equal(message_read(f->reader, 4), ERR_OK);
    assert_int_equal(body_read(f->reader, 4, 200000, 65536), ERR_DAMAGED);
    assert_int_equal(message_read(f->reader, 5), ERR_OK);
    assert_int_equal(body_read(f->reader, 5, 1000, 100), ERR_OK);
    struct rows rows = {0};
    struct msg_id next = id_of(0);
    assert_int_equal(store_read_rows(f->reader, &next, 10, row_take, &rows, &next), ERR_NOT_FOUND);
    assert_int_equal(rows.count, 5);
    assert_int_equal(rows.damaged, 2);
    assert_int_equal(rows.halves, 0); /* both parts or neither */
    struct msg_id id = id_of(3);
    struct slice got;
    assert_int_equal(store_begin(f->store), ERR_OK);
    assert_int_equal(store_state_get(f->store, &id, &got), ERR_DAMAGED);
    struct want held = {.state = MESSAGE_HELD, .upstream = "main"};
    assert_int_equal(store_message_update(f->store, &id, state_make(&held)), ERR_OK);
    assert_int_equal(store_commit(f->store), ERR_OK);
    assert_int_equal(message_read(f->reader, 3), ERR_OK);
    assert_int_equal(summary_of(f).count_by_state[MESSAGE_HELD], 1);
    assert_int_equal(summary_of(f).count_by_state[MESSAGE_QUEUED], 4);
    for (uint64_t number = 1; number <= 5; number++) {
        message_drop(f, number); /* damaged ones can be removed too */
    }
    assert_int_equal(summary_of(f).count_by_state[MESSAGE_QUEUED], 0);
    assert_int_equal(summary_of(f).body_bytes, 0);
    queue_reopen(f);
    assert_int_equal(f->report.messages, 0);
}

static void test_removing_a_message_with_a_damaged_state_keeps_counts(void **state)
{
    struct fixture *f = *state;
    struct want want = {.state = MESSAGE_QUEUED, .upstream = "state-marker", .due_q = 5};
    queue_open(f);
    message_commit(f, 1, 1000, &want);
    message_commit(f, 2, 500, &plain);
    queue_close(f);
    assert_true(file_flip(f, SLICE("state-marker"), 4, 0x02) > 0);
    queue_open(f);
    message_drop(f, 1);
    struct store_summary summary = summary_of(f);
    assert_int_equal(summary.count_by_state[MESSAGE_QUEUED], 1);
    assert_int_equal(summary.count_by_state[MESSAGE_FAILED], 0);
    assert_int_equal(summary.body_bytes, 500);
    enum err err;
    uint32_t routes[4];
    assert_int_equal(store_due_routes(f->store, routes, 4, &err), 1);
}

static void test_damaged_index_is_made_anew(void **state)
{
    struct fixture *f = *state;
    struct want want = {.state = MESSAGE_QUEUED, .upstream = "main", .due_q = 0x0123456789abcdef};
    struct msg_id id = id_of(2);
    uint8_t key[12 + MSG_ID_BYTES];
    be32_put(key, record_route(SLICE("main")));
    be64_put(key + 4, want.due_q);
    memcpy(key + 12, id.bytes, MSG_ID_BYTES);
    queue_open(f);
    message_commit(f, 1, 10, &plain);
    message_commit(f, 2, 10, &want);
    queue_close(f);
    static const size_t flipped[] = {0, 6, 15}; /* in the route, the time, the id */
    for (size_t turn = 0; turn < 3; turn++) {
        assert_true(file_flip(f, slice_of(key, sizeof key), flipped[turn], 0x04) > 0);
        queue_open(f);
        struct store_due due[4];
        uint32_t routes[4];
        enum err err;
        assert_int_equal(store_due_routes(f->store, routes, 4, &err), 1);
        assert_int_equal(err, ERR_OK);
        assert_int_equal(store_due_after(f->store, routes[0], NULL, due, 4, &err), 2);
        assert_int_equal(err, ERR_OK);
        assert_int_equal(due[1].due_q, want.due_q);
        assert_int_equal(msg_id_compare(&due[1].id, &id), 0);
        queue_close(f);
    }
}

static void test_damaged_summary_is_counted_anew(void **state)
{
    const uint64_t count = turns(0x35, 0x15);
    struct fixture *f = *state;
    queue_open(f);
    for (uint64_t number = 1; number <= count; number++) {
        message_commit(f, number, 0x1357, &plain);
    }
    queue_close(f);
    uint8_t place[16];
    be64_put(place, count * 0x1357); /* body_bytes, then last_id */
    be64_put(place + 8, count);
    assert_true(file_flip(f, slice_of(place, sizeof place), 5, 0xff) > 0);
    queue_open(f);
    struct store_summary summary = summary_of(f);
    assert_int_equal(summary.count_by_state[MESSAGE_QUEUED], count);
    assert_int_equal(summary.body_bytes, count * 0x1357);
    assert_int_equal(summary.last_id, count);
}

/* Flips one bit anywhere in what lies in body chunks and records: either it is found, or the bytes
 * are the ones that were written. */
static void test_no_flipped_bit_in_a_body_is_handed_out(void **state)
{
    struct fixture *f = *state;
    queue_open(f);
    message_commit(f, 1, 50000, &plain);
    queue_close(f);
    uint8_t place[32];
    for (size_t turn = 0; turn < turns(100, 3); turn++) {
        uint64_t offset = rng() % (50000 - 200);
        body_fill(place, sizeof place, 1, offset);
        uint8_t mask = (uint8_t)(1u << rng() % 8);
        if (file_flip(f, slice_of(place, sizeof place), 0, mask) == 0) {
            continue; /* cut by a chunk's end */
        }
        queue_open(f);
        assert_int_equal(body_read(f->reader, 1, 50000, 65536), ERR_DAMAGED);
        queue_close(f);
        place[0] ^= mask;
        assert_true(file_flip(f, slice_of(place, sizeof place), 0, mask) > 0);
    }
    queue_open(f);
    assert_int_equal(body_read(f->reader, 1, 50000, 65536), ERR_OK);
}

static int fault_fd;

static void fault_handler(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)context;
    _exit(store_fault_explain(info->si_addr, fault_fd) ? 7 : 8);
}

static void child_reads_a_cut_file(struct fixture *f)
{
    struct sigaction action = {.sa_sigaction = fault_handler, .sa_flags = SA_SIGINFO};
    sigaction(SIGBUS, &action, NULL);
    queue_open(f);
    message_commit(f, 1, 100000, &plain);
    char path[160];
    file_path(f, "data.mdb", path);
    int local = 0;
    if (store_fault_explain(&local, fault_fd) || truncate(path, 8192) != 0) {
        _exit(1);
    }
    enum err err = message_read(f->reader, 1);
    _exit(err == ERR_DAMAGED ? 7 : 2);
}

static void test_file_cut_while_in_use_is_explained(void **state)
{
    struct fixture *f = *state;
    int ends[2];
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    fault_fd = ends[1];
    assert_int_equal(in_child(child_reads_a_cut_file, f), 7);
    char words[256] = "";
    assert_true(read(ends[0], words, sizeof words - 1) > 0);
    assert_non_null(strstr(words, "cut short"));
    close(ends[0]);
    close(ends[1]);
}

/* ---- a full queue ---- */

static void test_full_queue_takes_no_mail_but_every_outcome(void **state)
{
    uint64_t bytes_max = turns(8, 1) * MIB;
    uint64_t body_bytes = turns(2000, 12000);
    struct fixture *f = *state;
    f->config.queue_bytes_max = bytes_max;
    queue_open(f);
    uint64_t number = 0;
    assert_false(store_has_room(f->store, bytes_max));
    assert_true(store_has_room(f->store, bytes_max / 2));
    for (;;) { /* in batches, as the queue thread does */
        assert_int_equal(store_begin(f->store), ERR_OK);
        size_t added = 0;
        while (added < 20 && store_has_room(f->store, body_bytes)) {
            number++;
            struct want want = {.state = MESSAGE_QUEUED,
                                .upstream = "main",
                                .due_q = number,
                                .recipients = number % 16 == 0 ? 50 : 1};
            message_put(f, number, body_bytes, &want);
            added++;
        }
        assert_int_equal(store_commit(f->store), ERR_OK);
        if (added < 20) {
            break;
        }
    }
    struct store_summary full = summary_of(f);
    assert_true(full.pages_used_bytes <= bytes_max);
    assert_true(number > turns(500, 16));
    assert_false(store_has_room(f->store, body_bytes));
    for (uint64_t at = 1; at <= number; at++) { /* each recipient with the longest words */
        struct want want = {.state = MESSAGE_QUEUED,
                            .upstream = "main",
                            .due_q = at + 100000,
                            .recipients = at % 16 == 0 ? 50 : 1,
                            .text = RECORD_REPLY_TEXT_BYTES_MAX};
        struct msg_id id = id_of(at);
        assert_int_equal(store_begin(f->store), ERR_OK);
        assert_int_equal(store_message_update(f->store, &id, state_make(&want)), ERR_OK);
        assert_int_equal(store_commit(f->store), ERR_OK);
    }
    for (uint64_t at = 1; at <= number; at++) {
        message_drop(f, at);
    }
    assert_true(store_has_room(f->store, bytes_max / 2));
    assert_true(summary_of(f).pages_used_bytes < 200000);
}

static void test_map_that_is_really_full_says_so(void **state)
{
    struct fixture *f = *state;
    f->config.queue_bytes_max = MIB;
    f->config.history_bytes_max = MIB;
    f->config.chunk_bytes = (uint32_t)turns(0, 65536);
    queue_open(f);
    message_commit(f, 1, 1000, &plain);
    assert_int_equal(store_begin(f->store), ERR_OK);
    uint8_t piece[BODY_CHUNK_BYTES_MAX] = {0};
    struct msg_id id = id_of(2);
    enum err err = ERR_OK;
    for (uint32_t index = 0; err == ERR_OK && index < 10000; index++) {
        err = store_body_append(f->store, &id, index, slice_of(piece, store_piece_bytes(f->store)));
    }
    assert_int_equal(err, ERR_FULL);
    store_abort(f->store);
    assert_int_equal(body_read(f->reader, 1, 1000, 1000), ERR_OK);
    message_drop(f, 1);
}

/* The settings at their bounds allow a file as long as its map: with all of it in use, sparse, it
 * has to open. LMDB's meta pages say so: the map's length, and the last page. */
static void test_the_longest_file_that_the_settings_allow_opens_again(void **state)
{
    struct fixture *f = *state;
    char path[160];
    const uint64_t map = 2 * QUEUE_BYTES_MAX + 2 * HISTORY_BYTES_MAX + 64 * MIB;
    const uint64_t last_page = map / 4096 - 1;
    f->config.queue_bytes_max = QUEUE_BYTES_MAX;
    f->config.history_bytes_max = HISTORY_BYTES_MAX;
    queue_open(f);
    message_commit(f, 1, 1000, &plain);
    message_commit(f, 2, 1000, &plain); /* one for each meta page */
    queue_close(f);
    file_path(f, "data.mdb", path);
    if (truncate(path, (off_t)map) != 0) {
        skip(); /* no file system for it */
    }
    int fd = open(path, O_RDWR | O_CLOEXEC);
    for (off_t meta = 0; meta < 8192; meta += 4096) {
        uint64_t said = 0;
        assert_int_equal(pread(fd, &said, sizeof said, meta + 32), sizeof said);
        assert_int_equal(said, map);
        assert_int_equal(pwrite(fd, &last_page, sizeof last_page, meta + 136), sizeof last_page);
    }
    close(fd);
    queue_open(f);
    assert_int_equal(message_read(f->reader, 1), ERR_OK);
    message_commit(f, 3, 1000, &plain); /* behind that end, by the map of the second start */
    assert_true(summary_of(f).file_bytes > map);
    queue_reopen(f);
    assert_int_equal(f->report.messages, 3);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    for (off_t meta = 0; meta < 8192;
         meta += 4096) { /* nor does it get longer from start to start */
        uint64_t said = 0;
        assert_int_equal(pread(fd, &said, sizeof said, meta + 32), sizeof said);
        assert_true(said <= STORE_FILE_BYTES_MAX);
    }
    close(fd);
}

/* ---- a failing disk ---- */

static void test_sync_failure_is_an_error_and_nothing_happened(void **state)
{
    struct fixture *f = *state;
    queue_open(f);
    message_commit(f, 1, 1000, &plain);
    assert_int_equal(store_begin(f->store), ERR_OK);
    message_put(f, 2, 1000, &plain);
    fault = FAULT_SYNC;
    assert_int_equal(store_commit(f->store), ERR_IO);
    fault = FAULT_NONE;
    assert_int_equal(summary_of(f).count_by_state[MESSAGE_QUEUED], 1);
    assert_int_equal(message_read(f->reader, 2), ERR_NOT_FOUND);
    message_commit(f, 2, 1000, &plain);
    queue_reopen(f);
    assert_int_equal(f->report.messages, 2);
}

static void test_full_disk_is_full_and_nothing_happened(void **state)
{
    struct fixture *f = *state;
    queue_open(f);
    message_commit(f, 1, 1000, &plain);
    assert_int_equal(store_begin(f->store), ERR_OK);
    message_put(f, 2, 300000, &plain);
    fault = FAULT_DATA_FULL;
    assert_int_equal(store_commit(f->store), ERR_FULL);
    fault = FAULT_NONE;
    assert_int_equal(message_read(f->reader, 2), ERR_NOT_FOUND);
    message_commit(f, 2, 300000, &plain);
    assert_int_equal(body_read(f->reader, 2, 300000, 65536), ERR_OK);
}

/* Where the disk becomes full in the middle of a write, that one is short. */
static void test_a_short_write_is_a_full_disk_or_a_broken_one(void **state)
{
    struct fixture *f = *state;
    queue_open(f);
    message_commit(f, 1, 1000, &plain);
    for (int turn = 0; turn < 2; turn++) {
        assert_int_equal(store_begin(f->store), ERR_OK);
        message_put(f, 2, 300000, &plain);
        fault = FAULT_DATA_SHORT;
        disk_is_full = turn == 0;
        assert_int_equal(store_commit(f->store), disk_is_full ? ERR_FULL : ERR_IO);
        fault = FAULT_NONE;
        disk_is_full = false;
        assert_int_equal(message_read(f->reader, 2), ERR_NOT_FOUND);
    }
    message_commit(f, 2, 300000, &plain);
    assert_int_equal(body_read(f->reader, 2, 300000, 65536), ERR_OK);
}

static void test_meta_failure_leaves_the_outcome_in_doubt(void **state)
{
    struct fixture *f = *state;
    queue_open(f);
    message_commit(f, 1, 1000, &plain);
    assert_int_equal(store_begin(f->store), ERR_OK);
    message_put(f, 2, 1000, &plain);
    fault = FAULT_META;
    assert_int_equal(store_commit(f->store), ERR_IN_DOUBT);
    fault = FAULT_NONE;
    assert_int_equal(store_begin(f->store), ERR_IN_DOUBT);
    queue_reopen(f);
    assert_true(f->report.messages == 1 || f->report.messages == 2);
    assert_int_equal(message_read(f->reader, 1), ERR_OK);
    assert_int_equal(message_read(f->reader, 2) == ERR_OK, f->report.messages == 2);
    message_commit(f, 3, 1000, &plain);
}

/* ---- readers beside the writer ---- */

#define WATCHED     turns(50, 5) /* times, at least */
#define WATCHED_IDS turns(40, 6)

struct watcher {
    struct fixture *f;
    struct store_reader *reader;
    uint64_t read;
    bool failed;
};

/* The threads outlive a case that has failed, and so does what they use. */
static struct watcher watchers[3];
static _Atomic bool watchers_stop;

static void *watch(void *ctx)
{
    struct watcher *w = ctx;
    uint64_t turn = 0;
    while ((!atomic_load(&watchers_stop) && turn < turns(SIZE_MAX, 20)) || turn < WATCHED) {
        uint64_t number = 1 + turn++ % WATCHED_IDS;
        enum err err = body_read(w->reader, number, number * 3000, 20000);
        w->failed = w->failed || (err != ERR_OK && err != ERR_NOT_FOUND);
        err = message_read(w->reader, number);
        w->failed = w->failed || (err != ERR_OK && err != ERR_NOT_FOUND);
        struct rows rows = {0};
        struct msg_id next = id_of(0);
        err = store_read_rows(w->reader, &next, 20, row_take, &rows, &next);
        w->failed = w->failed || (err != ERR_OK && err != ERR_NOT_FOUND) || rows.damaged != 0;
        w->read++;
    }
    return NULL;
}

static void test_readers_see_whole_messages_while_the_writer_works(void **state)
{
    struct fixture *f = *state;
    pthread_t threads[3];
    size_t count = turns(3, 2);
    bool there[41] = {false};
    atomic_store(&watchers_stop, false);
    queue_open(f);
    for (size_t index = 0; index < count; index++) {
        watchers[index] = (struct watcher){.f = f};
        assert_int_equal(store_reader_new(&watchers[index].reader, f->store), ERR_OK);
        assert_int_equal(pthread_create(&threads[index], NULL, watch, &watchers[index]), 0);
    }
    for (size_t turn = 0; turn < turns(400, 10); turn++) {
        uint64_t number = 1 + rng() % WATCHED_IDS;
        if (there[number]) {
            message_drop(f, number);
        } else {
            message_commit(f, number, number * 3000, &plain);
        }
        there[number] = !there[number];
    }
    atomic_store(&watchers_stop, true);
    for (size_t index = 0; index < count; index++) {
        assert_int_equal(pthread_join(threads[index], NULL), 0);
        assert_false(watchers[index].failed);
        assert_true(watchers[index].read >= WATCHED);
        store_reader_free(&watchers[index].reader);
    }
}

static void child_leaves_a_reader(struct fixture *f)
{
    struct fixture other = {.config = f->config};
    other.config.read_only = true;
    _exit(queue_try(&other) == ERR_OK ? 0 : 1); /* slots are not freed */
}

static void test_stale_readers_are_cleared(void **state)
{
    struct fixture *f = *state;
    queue_open(f);
    assert_int_equal(store_readers_check(f->store), 0);
    assert_int_equal(in_child(child_leaves_a_reader, f), 0);
    assert_true(store_readers_check(f->store) > 0);
    assert_int_equal(store_readers_check(f->store), 0);
}

static void test_too_many_readers_is_an_error(void **state)
{
    struct fixture *f = *state;
    static struct store_reader *readers[400];
    queue_open(f);
    size_t count = 0;
    enum err err = ERR_OK;
    while (count < 400 && (err = store_reader_new(&readers[count], f->store)) == ERR_OK) {
        count++;
    }
    assert_int_equal(err, ERR_LIMIT);
    assert_true(count >= f->config.readers_max);
    while (count > 0) {
        store_reader_free(&readers[--count]);
    }
    message_commit(f, 1, 10, &plain);
    assert_int_equal(message_read(f->reader, 1), ERR_OK);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_new_queue_is_empty_and_reopens),
        CASE(test_creation_that_was_cut_off_is_made_again),
        CASE(test_second_owner_is_refused),
        CASE(test_read_only_beside_the_owner_and_alone),
        CASE(test_read_only_makes_nothing),
        CASE(test_newer_version_is_refused),
        CASE(test_damaged_format_is_refused),
        CASE(test_cut_file_is_refused),
        CASE(test_not_a_queue_is_refused),
        CASE(test_queue_keeps_its_chunk_size_until_it_is_empty),
        CASE(test_smaller_queue_max_still_opens),
        CASE(test_bodies_are_byte_exact),
        CASE(test_body_read_errors),
        CASE(test_discard_frees_what_was_appended),
        CASE(test_reading_and_removing_bodies_keeps_memory_bounded),
        CASE(test_message_is_read_as_written),
        CASE(test_nothing_is_seen_before_the_commit_nor_after_an_abort),
        CASE(test_errors_of_writing),
        CASE(test_rows_are_walked_in_order_and_resumed),
        CASE(test_due_index_is_in_order_and_resumes),
        CASE(test_counts_are_exact_through_random_operations),
        CASE(test_recovery_discards_bodies_without_a_message),
        CASE(test_recovery_discards_more_than_one_batch),
        CASE(test_bodies_that_begin_in_one_transaction),
        CASE(test_a_body_over_several_transactions),
        CASE(test_small_messages_share_pages),
        CASE(test_damaged_records_are_found_and_the_rest_is_read),
        CASE(test_removing_a_message_with_a_damaged_state_keeps_counts),
        CASE(test_damaged_index_is_made_anew),
        CASE(test_damaged_summary_is_counted_anew),
        CASE(test_no_flipped_bit_in_a_body_is_handed_out),
        CASE(test_file_cut_while_in_use_is_explained),
        CASE(test_full_queue_takes_no_mail_but_every_outcome),
        CASE(test_map_that_is_really_full_says_so),
        CASE(test_sync_failure_is_an_error_and_nothing_happened),
        CASE(test_the_longest_file_that_the_settings_allow_opens_again),
        CASE(test_full_disk_is_full_and_nothing_happened),
        CASE(test_a_short_write_is_a_full_disk_or_a_broken_one),
        CASE(test_meta_failure_leaves_the_outcome_in_doubt),
        CASE(test_readers_see_whole_messages_while_the_writer_works),
        CASE(test_stale_readers_are_cleared),
        CASE(test_too_many_readers_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
