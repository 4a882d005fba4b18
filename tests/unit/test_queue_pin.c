/*
 * A process that keeps freed pages of the store from being used again: when it is told, by a
 * made-up clock; and what the log says of a backup that was stopped in the middle, on a real queue.
 */
#include "tests/unit/store_fixture.h"

#include "daemon/queue/queue_internal.h"

#include <sys/prctl.h>

#define MINUTE_MS UINT64_C(60000)

/* ---- when ---- */

struct look {
    uint64_t minute;
    struct store_pin pin; /* pid 0: nobody */
    bool told;
};

#define NOBODY                                                                                     \
    {                                                                                              \
        0                                                                                          \
    }
#define PIN(number, commit, mib)                                                                   \
    {                                                                                              \
        .pid = (number), .transaction = (commit), .file_bytes = (mib)*MIB,                         \
        .file_bytes_max = 100 * MIB                                                                \
    }

static void assert_looks(const struct look *looks, size_t count)
{
    struct queue_pin p = {0};
    for (size_t index = 0; index < count; index++) {
        const struct store_pin *pin = looks[index].pin.pid == 0 ? NULL : &looks[index].pin;
        assert_int_equal(queue_pin_step(&p, pin, looks[index].minute * MINUTE_MS),
                         looks[index].told);
    }
}

#define ASSERT_LOOKS(looks) assert_looks(looks, sizeof(looks) / sizeof(looks)[0])

static void test_told_once_after_ten_minutes(void **state)
{
    (void)state;
    static const struct look looks[] = {
        {5, PIN(7, 3, 10), false}, {6, PIN(7, 3, 11), false},  {14, PIN(7, 3, 12), false},
        {15, PIN(7, 3, 13), true}, {16, PIN(7, 3, 14), false}, {60, PIN(7, 3, 90), false},
        {61, NOBODY, false},       {62, PIN(7, 3, 90), false}, {72, PIN(7, 3, 91), true},
    };
    ASSERT_LOOKS(looks);
}

static void test_told_at_the_second_look_near_the_end_of_the_file(void **state)
{
    (void)state;
    static const struct look looks[] = {
        {5, PIN(7, 3, 76), false}, {6, PIN(7, 3, 77), true}, {7, PIN(7, 3, 78), false},
        {8, PIN(8, 4, 78), false}, {9, PIN(8, 4, 79), true},
    };
    ASSERT_LOOKS(looks);
}

static void test_a_file_that_does_not_grow_is_no_trouble(void **state)
{
    (void)state;
    static const struct look looks[] = {
        {5, PIN(7, 3, 99), false},
        {6, PIN(7, 3, 99), false},
        {600, PIN(7, 3, 99), false},
        {601, PIN(7, 3, 100), true},
    };
    ASSERT_LOOKS(looks);
}

static void test_who_reads_commit_after_commit_is_no_trouble(void **state)
{
    (void)state;
    static const struct look looks[] = {
        {5, PIN(7, 3, 80), false},
        {6, PIN(7, 4, 81), false},
        {17, PIN(7, 5, 82), false},
        {28, PIN(8, 5, 83), false},
    };
    ASSERT_LOOKS(looks);
}

/* ---- what ---- */

static char told[4096];

static void keep_line(void *ctx, enum log_level level, struct slice line)
{
    (void)ctx;
    assert_int_equal(level, LOG_WARNING);
    assert_true(line.len < sizeof told);
    assert_string_equal(told, ""); /* once */
    memcpy(told, line.data, line.len);
}

static bool stop_here(void *ctx, uint64_t done, uint64_t total)
{
    (void)ctx;
    (void)done;
    (void)total;
    kill(getpid(), SIGSTOP);
    return true;
}

/* tasukictl backup, and Ctrl-Z. */
static pid_t backup_start_and_stop(struct fixture *f)
{
    char path[160];
    snprintf(path, sizeof path, "%s/backup", f->root);
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* or a case that fails leaves it behind, stopped */
        _exit((int)store_backup(f->directory, path, stop_here, NULL, &f->report));
    }
    int status;
    assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
    assert_true(WIFSTOPPED(status));
    return pid;
}

static void test_a_stopped_backup_is_told(void **state)
{
    struct fixture *f = *state;
    struct log log = {.write = keep_line, .level = LOG_DEBUG};
    struct queue *q = calloc(1, sizeof *q);
    char words[80];
    assert_non_null(q);
    memset(told, 0, sizeof told);
    queue_open(f);
    q->with.store = f->store;
    q->with.log = &log;
    q->now_ms = 5 * MINUTE_MS;
    assert_int_equal(store_begin(f->store), ERR_OK);
    for (uint64_t n = 1; n <= 300; n++) { /* a backup looks up every few hundred pages */
        message_put(f, n, 4000, &plain);
    }
    assert_int_equal(store_commit(f->store), ERR_OK);
    pid_t pid = backup_start_and_stop(f);
    queue_pin_look(q);
    for (uint64_t n = 1; n <= 40; n++) { /* mail that comes and goes, 20 MiB of it */
        message_commit(f, 1000 + n, MIB / 2, &plain);
        message_drop(f, 1000 + n);
    }
    assert_true(summary_of(f).file_bytes > 20 * MIB);
    queue_pin_look(q);
    assert_string_equal(told, "");
    q->now_ms += 10 * MINUTE_MS;
    queue_pin_look(q);
    snprintf(words, sizeof words, "event=store-pinned pid=%d commits=80 grown=2", (int)pid);
    assert_non_null(strstr(told, words));
    snprintf(words, sizeof words, "\"end process %d, ", (int)pid);
    assert_non_null(strstr(told, words));
    q->now_ms += 10 * MINUTE_MS;
    queue_pin_look(q);
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_int_equal(store_readers_check(f->store), 1);
    queue_pin_look(q);
    assert_int_equal(q->pin.pid, 0);
    free(q);
}

/* Whatever this process itself is reading at the moment ends with the call that reads it. */
static bool row_look(void *ctx, const struct store_row *row)
{
    struct fixture *f = ctx;
    struct store_pin pin;
    assert_true(row->state.len > 0);
    assert_false(store_pin_oldest(f->store, &pin));
    return true;
}

static void test_our_own_readers_are_not_meant(void **state)
{
    struct fixture *f = *state;
    struct msg_id first = {{0}};
    struct msg_id next;
    queue_open(f);
    message_commit(f, 1, 1000, &plain);
    assert_int_equal(store_read_rows(f->reader, &first, 10, row_look, f, &next), ERR_NOT_FOUND);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_told_once_after_ten_minutes),
        cmocka_unit_test(test_told_at_the_second_look_near_the_end_of_the_file),
        cmocka_unit_test(test_a_file_that_does_not_grow_is_no_trouble),
        cmocka_unit_test(test_who_reads_commit_after_commit_is_no_trouble),
        CASE(test_a_stopped_backup_is_told),
        CASE(test_our_own_readers_are_not_meant),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
