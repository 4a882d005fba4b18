/*
 * A queue of format version 1, as the last program of that version left it, becomes one of version
 * 2: everything in it, also when the upgrade is killed at any of its commits, before it or after
 * it.
 */
#include "tests/unit/store_fixture.h"

#include "tests/unit/fixtures/queue_v1.h"
#include "tests/unit/turns.h"

#define FIXTURE   "tests/unit/fixtures/queue_v1.mdb.gz"
#define BOX       52568
#define KILLS_MAX 40

/* ---- the file ---- */

static void fixture_unpack(const struct fixture *f)
{
    char path[160];
    assert_true(mkdir(f->directory, 0700) == 0 || errno == EEXIST);
    file_path(f, "lock.mdb", path);
    assert_true(unlink(path) == 0 || errno == ENOENT);
    file_path(f, "data.mdb", path);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        if (fd >= 0 && dup2(fd, STDOUT_FILENO) >= 0) {
            execlp("gzip", "gzip", "-dc", FIXTURE, (char *)NULL);
        }
        _exit(127);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* ---- what each message is now ---- */

static enum recipient_state fate_now(const struct v1_recipient *r, uint32_t attempts)
{
    switch (r->fate) {
    case V1_DELIVERED:
        return RECIPIENT_DELIVERED;
    case V1_FAILED:
        return RECIPIENT_FAILED;
    case V1_QUEUED:
        break;
    }
    if (attempts == 0) {
        return RECIPIENT_QUEUED;
    }
    return r->outcome == OUTCOME_IN_DOUBT ? RECIPIENT_IN_DOUBT : RECIPIENT_DEFERRED;
}

/* The worst off one's, told by kind of message rather than by the function under test. */
static enum outcome reason_now(uint64_t number)
{
    static const enum outcome reasons[10] = {
        [1] = OUTCOME_DEFERRED, [2] = OUTCOME_IN_DOUBT,          [4] = OUTCOME_MAILBOX_FULL,
        [5] = OUTCOME_REFUSED,  [6] = OUTCOME_NO_SUCH_RECIPIENT,
    };
    return reasons[number % 10];
}

static const char *device_now(const struct v1_message *m)
{
    return m->device[0] != '\0' ? m->device : m->client;
}

static struct slice envelope_now(const struct v1_message *m, uint64_t number, uint32_t pieces)
{
    struct buf list;
    struct buf to;
    buf_init(&list, record_memory[0], RECORD_BYTES);
    buf_init(&to, record_memory[2], RECORD_BYTES);
    for (uint32_t index = 0; index < m->recipient_count; index++) {
        record_recipient_put(&list, slice_from_str(m->recipients[index].path));
    }
    record_envelope_put(&to,
                        &(struct record_envelope){.arrived_ms = m->arrived_ms,
                                                  .body_bytes = m->body_bytes,
                                                  .chunk_count = pieces,
                                                  .body_crc = v1_body_crc(number, m->body_bytes),
                                                  .recipient_count = m->recipient_count,
                                                  .flags = m->flags,
                                                  .client = slice_from_str(m->client),
                                                  .helo = SLICE("scanner"),
                                                  .device = slice_from_str(m->device),
                                                  .subject = slice_from_str(m->subject),
                                                  .sender = slice_from_str(m->sender),
                                                  .recipients = buf_slice(&list)});
    assert_false(list.overflow || to.overflow);
    return buf_slice(&to);
}

static struct slice state_now(const struct v1_message *m, uint64_t number)
{
    struct buf list;
    struct buf to;
    buf_init(&list, record_memory[0], RECORD_BYTES);
    buf_init(&to, record_memory[1], RECORD_BYTES);
    for (uint32_t index = 0; index < m->recipient_count; index++) {
        const struct v1_recipient *r = &m->recipients[index];
        record_fate_put(&list, &(struct record_recipient){
                                   .state = fate_now(r, m->attempts),
                                   .outcome = r->outcome,
                                   .code = r->code,
                                   .enhanced = {r->enhanced[0], r->enhanced[1], r->enhanced[2]},
                                   .text = slice_from_str(r->text)});
    }
    struct slice device = slice_from_str(device_now(m));
    record_state_put(&to,
                     &(struct record_state){.state = (enum message_state)m->state,
                                            .reason = reason_now(number),
                                            .route = record_route(slice_from_str(m->upstream)),
                                            .due_q = m->due_ms,
                                            .attempts = m->attempts,
                                            .last_q = m->last_ms,
                                            .changed_q = m->changed_ms,
                                            .accepted_q = m->arrived_ms,
                                            .flow = record_flow(device, slice_from_str(m->sender)),
                                            .size_kib = (uint32_t)((m->body_bytes + 1023) / 1024),
                                            .upstream = slice_from_str(m->upstream),
                                            .device = device,
                                            .recipient_count = m->recipient_count,
                                            .recipients = buf_slice(&list)});
    assert_false(list.overflow || to.overflow);
    return buf_slice(&to);
}

static void body_compare(struct fixture *f, uint64_t number, uint64_t bytes)
{
    static uint8_t memory[V1_LARGE_BYTES + 1];
    struct msg_id id = id_of(number);
    struct buf to;
    buf_init(&to, memory, sizeof memory);
    for (;;) {
        size_t before = to.len;
        assert_int_equal(store_read_body(f->reader, &id, before, &to), ERR_OK);
        if (to.len == before) {
            break;
        }
    }
    assert_int_equal(to.len, bytes);
    for (uint64_t offset = 0; offset < bytes; offset++) {
        assert_int_equal(memory[offset], v1_body_byte(number, offset));
    }
}

static void message_compare(struct fixture *f, uint64_t number)
{
    static uint8_t memory[RECORD_BYTES];
    struct v1_message m = v1_message(number);
    struct msg_id id = id_of(number);
    uint32_t pieces =
        (uint32_t)((m.body_bytes + store_piece_bytes(f->store) - 1) / store_piece_bytes(f->store));
    struct buf to;
    struct slice envelope;
    struct slice record;
    size_t needed;
    buf_init(&to, memory, sizeof memory);
    assert_int_equal(store_read_message(f->reader, &id, &to, &envelope, &record, &needed), ERR_OK);
    assert_true(slice_equal(envelope, envelope_now(&m, number, pieces)));
    assert_true(slice_equal(record, state_now(&m, number)));
    body_compare(f, number, m.body_bytes);
}

/* ---- the whole queue ---- */

static bool row_damaged(uint64_t number, const uint64_t *damaged, size_t count)
{
    for (size_t index = 0; index < count; index++) {
        if (damaged[index] == number) {
            return true;
        }
    }
    return false;
}

static bool count_sum(void *ctx, struct slice name, const uint64_t counts[MESSAGE_STATE_COUNT])
{
    uint64_t *sums = ctx;
    (void)name;
    for (size_t state_index = 0; state_index < MESSAGE_STATE_COUNT; state_index++) {
        sums[state_index] += counts[state_index];
    }
    return true;
}

/* Every message but those in damaged, whose state record is, which makes them count as failed. */
static void queue_compare(struct fixture *f, const uint64_t *damaged, size_t damaged_count)
{
    struct store_summary summary = summary_of(f);
    uint64_t counts[MESSAGE_STATE_COUNT] = {0};
    uint64_t good[MESSAGE_STATE_COUNT] = {0};
    uint64_t body_bytes = 0;
    size_t due = 0;
    for (uint64_t number = 1; number <= V1_MESSAGES; number++) {
        struct v1_message m = v1_message(number);
        bool is_damaged = row_damaged(number, damaged, damaged_count);
        counts[is_damaged ? MESSAGE_FAILED : m.state]++;
        good[m.state] += !is_damaged;
        due += !is_damaged && m.state == MESSAGE_QUEUED;
        body_bytes += m.body_bytes;
        if (is_damaged) {
            assert_int_equal(message_read(f->reader, number), ERR_DAMAGED);
        } else if (number % turns(1, 17) == 0 &&
                   (number != V1_ENVELOPE_MARKED || damaged_count == 0)) {
            message_compare(f, number);
        }
    }
    assert_memory_equal(summary.count_by_state, counts, sizeof counts);
    assert_int_equal(summary.body_bytes, body_bytes);
    assert_int_equal(summary.last_id, V1_INTAKE_LAST);
    assert_int_equal(summary.box, BOX);
    assert_int_equal(summary.history_count, 0);
    assert_int_equal(summary.clock.q_ms, 0);
    for (unsigned kind = 0; kind <= STORE_COUNT_REASON; kind++) {
        uint64_t sums[MESSAGE_STATE_COUNT] = {0};
        if (kind == STORE_COUNT_DEVICE && damaged_count > 0) {
            sums[MESSAGE_QUEUED]++; /* the device was in the damaged envelope */
        }
        assert_int_equal(store_read_counts(f->reader, (enum store_count_kind)kind, nothing, 1000,
                                           count_sum, sums),
                         ERR_NOT_FOUND);
        assert_memory_equal(sums, good, sizeof good);
    }
    static const char *const upstreams[] = {"main", "second", "state-marker"};
    static struct store_due dues[V1_MESSAGES];
    for (size_t index = 0; index < 3; index++) {
        enum err err;
        uint32_t route = record_route(slice_from_str(upstreams[index]));
        size_t found = store_due_after(f->store, route, NULL, dues, V1_MESSAGES, &err);
        assert_int_equal(err, ERR_OK);
        for (size_t at = 0; at < found; at++) {
            struct v1_message m = v1_message(msg_id_time_and_sequence(&dues[at].id));
            assert_string_equal(m.upstream, upstreams[index]);
            assert_int_equal(dues[at].due_q, m.due_ms);
            assert_int_equal(dues[at].size_kib, (m.body_bytes + 1023) / 1024);
            due--;
        }
    }
    assert_int_equal(due, 0);
}

static void test_everything_is_there_after_the_upgrade(void **state)
{
    struct fixture *f = *state;
    fixture_unpack(f);
    queue_open(f);
    assert_int_equal(f->report.upgraded, V1_MESSAGES);
    assert_int_equal(f->report.messages, V1_MESSAGES);
    assert_int_equal(f->report.discarded, V1_INTAKE_LAST - V1_INTAKE_FIRST + 1);
    assert_string_equal(f->report.problem, "");
    queue_compare(f, NULL, 0);
    queue_reopen(f);
    assert_int_equal(f->report.upgraded, 0);
    assert_int_equal(f->report.discarded, 0);
    queue_compare(f, NULL, 0);
    queue_check(f, true);
    queue_open(f);
    message_commit(f, 1000, 5000, &plain); /* it is a queue like any other */
    message_drop(f, V1_LARGE);
    assert_int_equal(summary_of(f).count_by_state[MESSAGE_QUEUED], 1 + V1_MESSAGES / 10 * 6 - 1);
    f->config.read_only = true;
    queue_reopen(f);
    assert_int_equal(f->report.messages, V1_MESSAGES);
}

static void test_a_reader_is_told_to_start_the_daemon(void **state)
{
    struct fixture *f = *state;
    fixture_unpack(f);
    f->config.read_only = true;
    assert_int_equal(queue_try(f), ERR_VERSION);
    assert_non_null(strstr(f->report.problem, "start the daemon once"));
    size_t len;
    uint8_t *bytes = file_load(f, &len);
    assert_non_null(memmem(bytes, len, "tasukiQ\0\0\0\0\1", 12)); /* it was not touched */
    free(bytes);
}

static void test_damaged_records_stay_damaged_and_the_rest_is_upgraded(void **state)
{
    struct fixture *f = *state;
    static const uint64_t damaged[] = {V1_STATE_MARKED};
    fixture_unpack(f);
    assert_true(file_flip(f, SLICE("envelope-marker"), 3, 0x01) > 0);
    assert_true(file_flip(f, SLICE("state-marker"), 0, 0x80) > 0);
    queue_open(f);
    assert_int_equal(f->report.upgraded, V1_MESSAGES); /* one half of each of the two */
    queue_compare(f, damaged, 1);
    struct msg_id id = id_of(V1_ENVELOPE_MARKED);
    struct slice got;
    struct record_state record;
    assert_int_equal(store_begin(f->store), ERR_OK);
    assert_int_equal(store_envelope_get(f->store, &id, &got), ERR_DAMAGED);
    assert_int_equal(store_state_get(f->store, &id, &got), ERR_OK);
    assert_int_equal(record_state_get(got, &record), ERR_OK);
    struct v1_message m = v1_message(V1_ENVELOPE_MARKED);
    assert_int_equal(record.accepted_q, m.changed_ms); /* the best that is left */
    assert_int_equal(record.device.len, 0);
    store_abort(f->store);
    queue_reopen(f);
    assert_int_equal(f->report.upgraded, 0);
}

/* ---- killed on the way ---- */

static void child_is_killed_at_a_commit(struct fixture *f)
{
    struct store *store = NULL;
    struct store_report report;
    _exit(store_open(&store, &f->config, &report) == ERR_OK ? 0 : 1);
}

/* Opens it in children that are killed at their turn-th write of a meta page, until one comes
 * through: that is how many of them there were. */
static size_t kills_until_whole(struct fixture *f, bool after, uint64_t every)
{
    size_t kills = 0;
    for (;;) {
        kill_at = after ? KILL_AFTER_META : KILL_BEFORE_META;
        kill_turn = every;
        int status = in_child(child_is_killed_at_a_commit, f);
        kill_at = KILL_NEVER;
        if (status == 0) {
            return kills;
        }
        assert_int_equal(status, 128 + SIGKILL);
        kills++;
        assert_true(kills < KILLS_MAX);
        /* Whatever there is now, a reader is not handed half of it. */
        struct fixture reader = {.config = f->config};
        reader.config.read_only = true;
        enum err err = queue_try(&reader);
        assert_true(err == ERR_VERSION || (err == ERR_OK && reader.report.messages == V1_MESSAGES));
        queue_close(&reader);
    }
}

static void test_killed_after_each_commit_it_goes_on(void **state)
{
    struct fixture *f = *state;
    fixture_unpack(f);
    /* first transaction, three batches, the last one with what is left, the intake's */
    assert_in_range(kills_until_whole(f, true, turns(1, 3)), turns(4, 1), 8);
    queue_open(f);
    queue_compare(f, NULL, 0);
    queue_check(f, true);
}

static void test_killed_before_a_commit_it_does_that_again(void **state)
{
    struct fixture *f = *state;
    /* the first commit gets through each time but one */
    for (uint64_t turn = turns(2, 4); turn <= turns(5, 4); turn++) {
        fixture_unpack(f);
        size_t kills = kills_until_whole(f, false, turn);
        assert_in_range(kills, 1, 8);
        queue_open(f);
        queue_compare(f, NULL, 0);
        queue_close(f);
    }
}

static void test_full_disk_in_between_leaves_what_was_done(void **state)
{
    struct fixture *f = *state;
    fixture_unpack(f);
    fault = FAULT_DATA_FULL;
    assert_int_equal(queue_try(f), ERR_FULL);
    assert_int_not_equal(f->report.problem[0], '\0');
    fault = FAULT_NONE;
    queue_open(f);
    assert_int_equal(f->report.upgraded, V1_MESSAGES);
    queue_compare(f, NULL, 0);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_everything_is_there_after_the_upgrade),
        CASE(test_a_reader_is_told_to_start_the_daemon),
        CASE(test_damaged_records_stay_damaged_and_the_rest_is_upgraded),
        CASE(test_killed_after_each_commit_it_goes_on),
        CASE(test_killed_before_a_commit_it_does_that_again),
        CASE(test_full_disk_in_between_leaves_what_was_done),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
