/*
 * Copies of the whole file: the backup and its restoring, and compaction with readers at work, a
 * full disk, another process in the queue, and a death at every system call.
 */
#include "tests/unit/store_file_fixture.h"

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <time.h>

#define MESSAGES turns(150, 12)
#define FEW      turns(20, 6)

/* ---- system calls on demand; see the end ---- */

enum call { CALL_NONE, CALL_FSYNC, CALL_RENAME, CALL_RENAME_LOCK, CALL_RESERVE };

static _Atomic uint64_t calls_made;        /* of those that are taken over, but write */
static _Atomic uint64_t calls_until_exit;  /* 0: never */
static _Atomic uint64_t writes_made;       /* apart: two threads make them */
static _Atomic uint64_t writes_until_exit; /* 0: never */
static _Atomic int call_that_fails;        /* an enum call */
static _Atomic bool fsync_of_directory_fails;

/*
 * ---- backup ----
 */

static void backup_path(const struct fixture *f, char to[160])
{
    snprintf(to, 160, "%s/backup.mdb", f->root);
}

static size_t entries_of(const char *directory)
{
    size_t count = 0;
    DIR *listing = opendir(directory);
    assert_non_null(listing);
    while (readdir(listing) != NULL) {
        count++;
    }
    closedir(listing);
    return count - 2; /* . and .. */
}

/* Batches of messages come, and leave again. Few: the longest, so that they leave as many pages. */
static void churn(struct fixture *f)
{
    size_t first = turns(1000, 1035);
    size_t end = turns(1300, 1100);
    size_t batch = turns(30, 65);
    size_t step = turns(1, 5);
    for (uint64_t n = first; n < end; n += batch) {
        begin(f);
        for (uint64_t one = n; one < n + batch; one += step) {
            struct want want = want_of(one);
            message_add(f, &want);
        }
        commit(f);
    }
    for (uint64_t n = first; n < end; n += batch) {
        begin(f);
        for (uint64_t one = n; one < n + batch; one += step) {
            message_leave(f, one, false);
        }
        commit(f);
    }
}

static struct walk filled_and_closed(struct fixture *f, uint64_t count)
{
    queue_open(f);
    queue_fill(f, count);
    struct walk walk = walk_all(f, count);
    assert_true(walk.messages > count / 2 && walk.history > count / 10);
    queue_close(f);
    return walk;
}

static void backup_make(struct fixture *f, const char *path)
{
    enum err err = store_backup(f->directory, path, NULL, NULL, &f->report);
    if (err != ERR_OK) {
        print_error("%s\n", f->report.problem);
    }
    assert_int_equal(err, ERR_OK);
    assert_string_equal(f->report.problem, "");
}

static void restore_and_compare(struct fixture *f, const char *backup, const struct walk *before)
{
    char data[160];
    file_path(f, "data.mdb", data);
    file_copy(backup, data);
    queue_open(f);
    struct walk after = walk_all(f, MESSAGES);
    assert_same_walk(before, &after);
    begin(f); /* and it takes mail */
    struct want want = want_of(MESSAGES + 1);
    message_add(f, &want);
    commit(f);
    queue_close(f);
    assert_sound(f, f->directory);
}

static void test_backup_is_whole_and_restores_over_a_queue(void **state)
{
    struct fixture *f = *state;
    struct walk before = filled_and_closed(f, MESSAGES);
    struct stat st;
    char path[160];
    char lock[160];
    backup_path(f, path);
    file_path(f, "lock.mdb", lock);
    backup_make(f, path);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(f->report.messages, before.messages);
    assert_int_equal(entries_of(f->root), 2); /* nothing beside the copy and the queue */
    queue_open(f);
    begin(f);
    for (uint64_t n = 1; n <= MESSAGES; n++) {
        if (n % 3 != 0) {
            message_leave(f, n, false); /* the queue goes on, many transactions ahead of the copy */
        }
    }
    commit(f);
    queue_close(f);
    assert_true(file_exists(lock)); /* of the queue that the copy replaces */
    restore_and_compare(f, path, &before);
}

static void test_backup_restores_into_an_empty_directory(void **state)
{
    struct fixture *f = *state;
    struct walk before = filled_and_closed(f, MESSAGES);
    char path[160];
    backup_path(f, path);
    backup_make(f, path);
    snprintf(f->directory, sizeof f->directory, "%s/other", f->root);
    assert_int_equal(mkdir(f->directory, 0700), 0);
    restore_and_compare(f, path, &before);
}

static int backs_up(struct fixture *f, struct beside *b)
{
    char path[160];
    backup_path(f, path);
    enum err err =
        store_backup(f->directory, path, b != NULL ? beside_progress : NULL, b, &f->report);
    if (err != ERR_OK) {
        print_error("%s\n", f->report.problem);
    }
    return (int)err;
}

static int child_backs_up(struct fixture *f)
{
    return backs_up(f, NULL);
}

static void test_backup_beside_a_writer_at_work(void **state)
{
    struct fixture *f = *state;
    struct beside b;
    char path[160];
    backup_path(f, path);
    queue_open(f);
    queue_fill(f, MESSAGES);
    beside_init(&b);
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        _exit(beside_progress(&b, 0, 0) ? backs_up(f, &b) : 1);
    }
    assert_true(beside_write(f, &b, pid, MESSAGES + 1) >= turns(5, 1));
    queue_close(f);
    snprintf(f->directory, sizeof f->directory, "%s/other", f->root);
    assert_int_equal(mkdir(f->directory, 0700), 0);
    char data[160];
    file_path(f, "data.mdb", data);
    file_copy(path, data);
    assert_sound(f, f->directory);
}

static void test_backup_writes_over_nothing(void **state)
{
    struct fixture *f = *state;
    char path[160];
    char part[170];
    (void)filled_and_closed(f, FEW);
    backup_path(f, path);
    snprintf(part, sizeof part, "%s.part", path);
    file_copy("/etc/hostname", path);
    uint64_t bytes = file_bytes(path);
    assert_int_equal(store_backup(f->directory, path, NULL, NULL, &f->report), ERR_EXISTS);
    assert_non_null(strstr(f->report.problem, "writes over nothing"));
    assert_int_equal(file_bytes(path), bytes);
    assert_false(file_exists(part));
    unlink(path);
    file_copy("/etc/hostname", part);
    assert_int_equal(store_backup(f->directory, path, NULL, NULL, &f->report), ERR_EXISTS);
    assert_non_null(strstr(f->report.problem, "another backup"));
    assert_true(file_exists(part)); /* it is not ours */
    assert_false(file_exists(path));
    snprintf(path, sizeof path, "%s/data.mdb", f->directory);
    assert_int_equal(store_backup(f->directory, path, NULL, NULL, &f->report), ERR_EXISTS);
}

static void test_backup_that_cannot_be_written_says_why(void **state)
{
    struct fixture *f = *state;
    (void)filled_and_closed(f, FEW);
    assert_int_equal(store_backup(f->directory, "/proc/backup.mdb", NULL, NULL, &f->report),
                     ERR_NOT_FOUND);
    assert_non_null(strstr(f->report.problem, "/proc/backup.mdb.part"));
    assert_int_equal(store_backup(f->directory, "/nowhere/backup.mdb", NULL, NULL, &f->report),
                     ERR_NOT_FOUND);
    char path[160];
    backup_path(f, path);
    atomic_store(&call_that_fails, CALL_FSYNC);
    enum err err = store_backup(f->directory, path, NULL, NULL, &f->report);
    atomic_store(&call_that_fails, CALL_NONE);
    assert_int_equal(err, ERR_IO);
    assert_true(strlen(f->report.problem) > 10);
    assert_int_equal(entries_of(f->root), 1); /* the queue */
    snprintf(f->directory, sizeof f->directory, "%s/none", f->root);
    assert_int_equal(store_backup(f->directory, path, NULL, NULL, &f->report), ERR_NOT_FOUND);
    assert_int_equal(entries_of(f->root), 1);
}

struct watched {
    uint64_t calls, last, total, stop_at;
    bool went_back;
};

static bool watch(void *ctx, uint64_t done, uint64_t total)
{
    struct watched *w = ctx;
    w->calls++;
    w->went_back = w->went_back || done < w->last || done > total;
    w->last = done;
    w->total = total;
    return w->stop_at == 0 || w->calls < w->stop_at;
}

static void test_backup_tells_progress_and_can_be_stopped(void **state)
{
    struct fixture *f = *state;
    char path[160];
    backup_path(f, path);
    (void)filled_and_closed(f, turns(MESSAGES, 72));
    struct watched whole = {0};
    assert_int_equal(store_backup(f->directory, path, watch, &whole, &f->report), ERR_OK);
    assert_true(whole.calls >= turns(3, 1));
    assert_false(whole.went_back);
    assert_true(whole.last <= whole.total && whole.last > whole.total / 2);
    unlink(path);
    for (uint64_t stop_at = 1; stop_at <= whole.calls; stop_at += turns(1, 100)) {
        struct watched w = {.stop_at = stop_at};
        assert_int_equal(store_backup(f->directory, path, watch, &w, &f->report), ERR_CANCELLED);
        assert_int_equal(w.calls, stop_at);
        bool is_left = strstr(f->report.problem, "nothing of the copy") == NULL;
        assert_int_equal(file_exists(path), is_left); /* stopped while it was being verified */
        assert_non_null(strstr(f->report.problem, is_left ? "not verified" : "is left"));
        unlink(path);
        assert_int_equal(entries_of(f->root), 1);
    }
}

/* Two blocks of LMDB's meta pages say which page was used last: one more is a page that is neither
 * used nor free. */
static void test_backup_of_a_file_with_a_lost_page(void **state)
{
    struct fixture *f = *state;
    struct walk before = filled_and_closed(f, MESSAGES);
    if (turns(0, 1) == 1) { /* a list of free pages as long as that of many messages */
        queue_open(f);
        churn(f);
        queue_close(f);
    }
    char data[160];
    char path[160];
    file_path(f, "data.mdb", data);
    backup_path(f, path);
    int fd = open(data, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    for (off_t at = 136; at < 8192; at += 4096) {
        uint64_t last_page;
        assert_int_equal(pread(fd, &last_page, sizeof last_page, at), sizeof last_page);
        last_page++;
        assert_int_equal(pwrite(fd, &last_page, sizeof last_page, at), sizeof last_page);
    }
    close(fd);
    backup_make(f, path);
    restore_and_compare(f, path, &before);
}

/*
 * ---- compaction ----
 */

static void queue_prepare(struct fixture *f)
{
    queue_open(f);
    queue_fill(f, MESSAGES);
    churn(f);
}

static void test_compaction_shrinks_and_loses_nothing(void **state)
{
    struct fixture *f = *state;
    char data[160];
    uint64_t before_bytes = 0;
    uint64_t after_bytes = 0;
    queue_prepare(f);
    file_path(f, "data.mdb", data);
    struct walk before = walk_all(f, MESSAGES);
    uint64_t length = file_bytes(data);
    struct stat old;
    struct stat new;
    assert_int_equal(stat(data, &old), 0);
    assert_int_equal(store_compact(f->store, &before_bytes, &after_bytes), ERR_OK);
    assert_int_equal(stat(data, &new), 0);
    assert_true(old.st_ino != new.st_ino);
    assert_int_equal(new.st_mode & 07777, 0600);
    assert_int_equal(before_bytes, length);
    assert_true(after_bytes < before_bytes / 2);
    struct walk after = walk_all(f, MESSAGES); /* by the reader from before */
    assert_same_walk(&before, &after);
    churn(f); /* it goes on, and again */
    assert_int_equal(store_compact(f->store, &before_bytes, &after_bytes), ERR_OK);
    after = walk_all(f, MESSAGES);
    assert_same_walk(&before, &after);
    struct store_summary summary;
    store_summary(f->store, &summary);
    assert_int_equal(summary.clock.q_ms, 900);
    queue_close(f);
    assert_sound(f, f->directory);
    queue_open(f);
    after = walk_all(f, MESSAGES);
    assert_same_walk(&before, &after);
}

/* LMDB writes to its table of readers through a map: on a disk that is full by then, a page of it
 * without a block would be the end of the daemon. */
static void test_compaction_has_blocks_for_the_lock_file(void **state)
{
    struct fixture *f = *state;
    struct stat opened;
    struct stat compacted;
    char lock[160];
    uint64_t before = 0;
    uint64_t after = 0;
    file_path(f, "lock.mdb", lock);
    queue_open(f);
    queue_fill(f, FEW);
    assert_int_equal(stat(lock, &opened), 0);
    assert_int_equal(store_compact(f->store, &before, &after), ERR_OK);
    assert_int_equal(stat(lock, &compacted), 0);
    assert_true(compacted.st_ino != opened.st_ino);
    assert_int_equal(compacted.st_blocks, opened.st_blocks);
    assert_int_equal(compacted.st_mode & 07777, 0600);
}

static void test_compaction_of_an_empty_queue(void **state)
{
    struct fixture *f = *state;
    uint64_t before = 0;
    uint64_t after = 0;
    queue_open(f);
    assert_int_equal(store_compact(f->store, &before, &after), ERR_OK);
    assert_true(after <= before);
    queue_fill(f, 10);
    queue_close(f);
    assert_sound(f, f->directory);
}

/* Readers that never rest: each knows what it must see. */
struct restless {
    struct fixture *f;
    struct store_reader *reader;
    _Atomic bool *stop;
    _Atomic uint64_t rounds;
    bool failed;
};

static bool row_count(void *ctx, const struct store_row *row)
{
    uint64_t *count = ctx;
    *count += row->envelope.len > 0 && row->state.len > 0;
    return true;
}

static bool body_is_right(struct store_reader *reader, uint64_t n)
{
    static _Thread_local uint8_t memory[2][8192];
    struct msg_id id = id_of(n);
    struct buf to;
    buf_init(&to, memory[0], sizeof memory[0]);
    uint64_t offset = body_bytes_of(n) / 3;
    if (store_read_body(reader, &id, offset, &to) != ERR_OK) {
        return false;
    }
    body_fill(n, offset, memory[1], to.len);
    return memcmp(memory[0], memory[1], to.len) == 0;
}

static void *restless_run(void *arg)
{
    struct restless *r = arg;
    while (!atomic_load(r->stop)) {
        uint64_t n =
            1 + 3 * (mix(atomic_load(&r->rounds)) % (MESSAGES / 3 - 1)); /* those that stay */
        uint64_t rows = 0;
        struct msg_id from = {{0}};
        struct msg_id next;
        enum err err = store_read_rows(r->reader, &from, MESSAGES / 3, row_count, &rows, &next);
        r->failed = r->failed || err != ERR_OK || rows != MESSAGES / 3;
        r->failed = r->failed || (body_bytes_of(n) > 0 && !body_is_right(r->reader, n));
        struct msg_id last;
        memset(&last, 0xff, sizeof last);
        struct walk w = {0};
        err = store_read_history_rows(r->reader, &last, turns(5, 1), walk_history, &w, &next);
        r->failed = r->failed || err != ERR_OK || w.damaged != 0;
        atomic_fetch_add(&r->rounds, 1);
        rest_where_few(10); /* a few rounds between two compactions are enough */
    }
    return NULL;
}

static void rounds_wait(struct restless *readers, size_t count, uint64_t more)
{
    for (size_t index = 0; index < count; index++) {
        uint64_t until = atomic_load(&readers[index].rounds) + more;
        const struct timespec pause = {.tv_nsec = 1000000};
        for (int tries = 0; atomic_load(&readers[index].rounds) < until; tries++) {
            assert_true(tries < 60000);
            nanosleep(&pause, NULL);
        }
    }
}

static void test_readers_go_on_through_compactions(void **state)
{
    struct fixture *f = *state;
    static struct restless readers[4]; /* an assertion that fails leaves the threads at work */
    pthread_t threads[4];
    size_t count = turns(4, 2);
    static _Atomic bool stop;
    uint64_t before;
    uint64_t after;
    atomic_store(&stop, false);
    queue_prepare(f);
    for (size_t index = 0; index < count; index++) {
        readers[index] = (struct restless){.f = f, .stop = &stop};
        assert_int_equal(store_reader_new(&readers[index].reader, f->store), ERR_OK);
        assert_int_equal(pthread_create(&threads[index], NULL, restless_run, &readers[index]), 0);
    }
    for (uint64_t turn = 0; turn < turns(6, 2); turn++) {
        rounds_wait(readers, count, 3);
        assert_int_equal(store_compact(f->store, &before, &after), ERR_OK);
        struct want want = want_of(2000 + turn);
        begin(f);
        message_add(f, &want);
        commit(f);
        struct store_reader *another = NULL; /* readers come and go */
        assert_int_equal(store_reader_new(&another, f->store), ERR_OK);
        assert_true(body_is_right(another, 1));
        store_reader_free(&another);
    }
    rounds_wait(readers, count, 3);
    atomic_store(&stop, true);
    for (size_t index = 0; index < count; index++) {
        assert_int_equal(pthread_join(threads[index], NULL), 0);
        assert_false(readers[index].failed);
        store_reader_free(&readers[index].reader);
    }
}

/* Another process with the queue open, for as long as its pipe is. */
static pid_t other_start(struct fixture *f, bool knows_the_swap_lock, int *out_fd)
{
    int up[2];
    int down[2];
    assert_int_equal(pipe(up), 0);
    assert_int_equal(pipe(down), 0);
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct fixture other = {.config = f->config};
        char byte = 0;
        char lock[160];
        close(down[1]);
        other.config.read_only = true;
        struct flock range = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1};
        file_path(f, "lock.mdb", lock);
        int fd = open(lock, O_RDWR | O_CLOEXEC);
        bool is_in =
            knows_the_swap_lock ? queue_try(&other) == ERR_OK : fcntl(fd, F_SETLK, &range) == 0;
        byte = is_in ? 'y' : 'n';
        (void)!write(up[1], &byte, 1);
        (void)!read(down[0], &byte, 1); /* ends with the parent's end */
        _exit(0);
    }
    char byte = 0;
    close(up[1]);
    close(down[0]);
    assert_int_equal(read(up[0], &byte, 1), 1);
    assert_int_equal(byte, 'y');
    close(up[0]);
    *out_fd = down[1];
    return pid;
}

static void compaction_is_busy_while_another_is_in(struct fixture *f, bool knows_the_swap_lock)
{
    char fresh[160];
    uint64_t before = 0;
    uint64_t after = 0;
    int fd = -1;
    file_path(f, "new.mdb", fresh);
    struct walk walk = walk_all(f, MESSAGES);
    pid_t pid = other_start(f, knows_the_swap_lock, &fd);
    assert_int_equal(store_compact(f->store, &before, &after), ERR_BUSY);
    assert_false(file_exists(fresh));
    struct walk still = walk_all(f, MESSAGES);
    assert_same_walk(&walk, &still);
    begin(f);
    struct want want = want_of(3000 + knows_the_swap_lock);
    message_add(f, &want);
    commit(f);
    close(fd);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_int_equal(store_compact(f->store, &before, &after), ERR_OK);
}

static void test_compaction_is_busy_while_another_process_reads(void **state)
{
    struct fixture *f = *state;
    queue_prepare(f);
    compaction_is_busy_while_another_is_in(f, true);
    compaction_is_busy_while_another_is_in(f, false); /* LMDB's own tools */
}

static int child_opens_to_read(struct fixture *f)
{
    struct fixture other = {.config = f->config};
    other.config.read_only = true;
    return (int)queue_try(&other);
}

/* While a file is put in place nobody gets in, not even to read; and not for ever. */
static void test_openers_wait_for_the_swap(void **state)
{
    struct fixture *f = *state;
    char path[160];
    (void)filled_and_closed(f, FEW);
    file_path(f, "swap.lock", path);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(flock(fd, LOCK_EX), 0);
    assert_int_equal(in_child(child_opens_to_read, f), ERR_BUSY);
    close(fd);
    assert_int_equal(in_child(child_opens_to_read, f), ERR_OK);
}

static void compaction_fails(struct fixture *f, enum call call, enum err expected)
{
    uint64_t before = 0;
    uint64_t after = 0;
    char fresh[160];
    char fresh_lock[160];
    char lock[160];
    struct stat st;
    file_path(f, "new.mdb", fresh);
    file_path(f, "new.mdb-lock", fresh_lock);
    file_path(f, "lock.mdb", lock);
    assert_int_equal(stat(lock, &st), 0);
    blkcnt_t lock_blocks = st.st_blocks;
    struct walk walk = walk_all(f, MESSAGES);
    atomic_store(&call_that_fails, call);
    enum err err = store_compact(f->store, &before, &after);
    atomic_store(&call_that_fails, CALL_NONE);
    assert_int_equal(err, expected);
    assert_false(file_exists(fresh));
    assert_false(file_exists(fresh_lock));
    assert_int_equal(stat(lock, &st), 0);
    assert_int_equal(st.st_blocks, lock_blocks);
    struct walk still = walk_all(f, MESSAGES);
    assert_same_walk(&walk, &still);
}

static void test_what_fails_before_the_rename_leaves_the_old_file_in_use(void **state)
{
    struct fixture *f = *state;
    queue_prepare(f);
    compaction_fails(f, CALL_FSYNC, ERR_IO);
    compaction_fails(f, CALL_RESERVE, ERR_FULL);
    compaction_fails(f, CALL_RENAME_LOCK, ERR_IO);
    compaction_fails(f, CALL_RENAME, ERR_IO);
    churn(f);
    queue_close(f);
    assert_sound(f, f->directory);
}

/* After a power loss the old file might be back, without what is committed to the new one. */
static void test_a_rename_that_may_not_last_is_in_doubt(void **state)
{
    struct fixture *f = *state;
    uint64_t before = 0;
    uint64_t after = 0;
    queue_prepare(f);
    struct walk walk = walk_all(f, MESSAGES);
    atomic_store(&fsync_of_directory_fails, true);
    enum err err = store_compact(f->store, &before, &after);
    atomic_store(&fsync_of_directory_fails, false);
    assert_int_equal(err, ERR_IN_DOUBT);
    assert_int_equal(store_begin(f->store), ERR_IN_DOUBT);
    assert_int_equal(store_compact(f->store, &before, &after), ERR_IN_DOUBT);
    queue_close(f);
    queue_open(f);
    struct walk again = walk_all(f, MESSAGES);
    assert_same_walk(&walk, &again);
}

/* Dies in the middle: at the system call that was said. */
static int child_compacts(struct fixture *f)
{
    uint64_t before = 0;
    uint64_t after = 0;
    uint64_t calls = atomic_exchange(&calls_until_exit, 0);
    uint64_t writes = atomic_exchange(&writes_until_exit, 0);
    if (queue_try(f) != ERR_OK) {
        return 1;
    }
    atomic_store(&calls_made, 0);
    atomic_store(&writes_made, 0);
    atomic_store(&calls_until_exit, calls);
    atomic_store(&writes_until_exit, writes);
    return store_compact(f->store, &before, &after) == ERR_OK ? 0 : 2;
}

static ino_t inode_of(const struct fixture *f, const char *name)
{
    struct stat st;
    char path[160];
    file_path(f, name, path);
    assert_int_equal(stat(path, &st), 0);
    return st.st_ino;
}

/* What it ended with; one more when it left the old file with the new table of readers. */
static int compaction_dies(struct fixture *f, const struct walk *before, uint64_t call,
                           uint64_t write)
{
    char fresh[160];
    ino_t data = inode_of(f, "data.mdb");
    ino_t lock = inode_of(f, "lock.mdb");
    atomic_store(&calls_until_exit, call);
    atomic_store(&writes_until_exit, write);
    int code = in_child(child_compacts, f);
    atomic_store(&calls_until_exit, 0);
    atomic_store(&writes_until_exit, 0);
    bool in_between = inode_of(f, "data.mdb") == data && inode_of(f, "lock.mdb") != lock;
    queue_open(f);
    file_path(f, "new.mdb", fresh);
    assert_false(file_exists(fresh)); /* what was half written is gone */
    file_path(f, "new.mdb-lock", fresh);
    assert_false(file_exists(fresh));
    struct walk after = walk_all(f, FEW);
    assert_same_walk(before, &after);
    struct want want = want_of(FEW + 1);
    begin(f);
    message_add(f, &want);
    commit(f);
    begin(f);
    message_leave(f, FEW + 1, false);
    commit(f);
    queue_close(f);
    assert_sound(f, f->directory);
    return in_between ? code + 1 : code;
}

static void test_a_death_at_any_call_leaves_a_queue_that_opens(void **state)
{
    struct fixture *f = *state;
    uint64_t deaths = 0;
    uint64_t in_between = 0;
    int code = 77;
    queue_open(f);
    queue_fill(f, FEW);
    struct walk before = walk_all(f, FEW);
    queue_close(f);
    for (uint64_t at = 1; code != 0; at += turns(1, 6)) {
        assert_true(at < 100);
        code = compaction_dies(f, &before, at, 0);
        assert_true(code == 77 || code == 78 || code == 0);
        deaths += code != 0;
        in_between += code == 78;
    }
    assert_true(deaths >= turns(8, 2));
    assert_true(in_between >= turns(1, 0));
    for (uint64_t at = 1; at < turns(20, 2); at += 6) {
        assert_int_equal(compaction_dies(f, &before, 0, at), 77);
    }
}

/*
 * ---- a full disk ----
 */

/* A file system of its own, so small that a second copy does not fit. False: not allowed here. */
static bool small_disk(struct fixture *f)
{
    return geteuid() == 0 && mount("none", f->root, "tmpfs", 0, "size=12m,mode=0700") == 0;
}

static void disk_fill(struct fixture *f, uint64_t leave_bytes)
{
    static uint8_t zeros[65536];
    char path[160];
    snprintf(path, sizeof path, "%s/filler", f->root);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    uint64_t len = 0;
    ssize_t done;
    while ((done = write(fd, zeros, sizeof zeros)) > 0) {
        len += (uint64_t)done;
    }
    assert_true(len > leave_bytes);
    assert_int_equal(ftruncate(fd, (off_t)(len - leave_bytes)), 0);
    close(fd);
}

static void test_full_disk_leaves_the_old_file_in_use(void **state)
{
    struct fixture *f = *state;
    char path[160];
    char part[170];
    char fresh[160];
    uint64_t before = 0;
    uint64_t after = 0;
    size_t count = turns(60, 24);
    if (!small_disk(f)) {
        skip();
    }
    backup_path(f, path);
    snprintf(part, sizeof part, "%s.part", path);
    file_path(f, "new.mdb", fresh);
    queue_open(f);
    queue_fill(f, count);
    struct walk walk = walk_all(f, count);
    disk_fill(f, 256 << 10);
    assert_int_equal(store_compact(f->store, &before, &after), ERR_FULL);
    assert_false(file_exists(fresh));
    struct walk still = walk_all(f, count);
    assert_same_walk(&walk, &still);
    assert_int_equal(in_child(child_backs_up, f), ERR_FULL);
    assert_false(file_exists(part));
    assert_false(file_exists(path));
    snprintf(path, sizeof path, "%s/filler", f->root);
    unlink(path);
    assert_int_equal(store_compact(f->store, &before, &after), ERR_OK);
    still = walk_all(f, count);
    assert_same_walk(&walk, &still);
    queue_close(f);
    assert_sound(f, f->directory);
    assert_int_equal(umount2(f->root, MNT_DETACH), 0);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_backup_is_whole_and_restores_over_a_queue),
        CASE(test_backup_restores_into_an_empty_directory),
        CASE(test_backup_beside_a_writer_at_work),
        CASE(test_backup_writes_over_nothing),
        CASE(test_backup_that_cannot_be_written_says_why),
        CASE(test_backup_tells_progress_and_can_be_stopped),
        CASE(test_backup_of_a_file_with_a_lost_page),
        CASE(test_compaction_shrinks_and_loses_nothing),
        CASE(test_compaction_has_blocks_for_the_lock_file),
        CASE(test_compaction_of_an_empty_queue),
        CASE(test_readers_go_on_through_compactions),
        CASE(test_compaction_is_busy_while_another_process_reads),
        CASE(test_openers_wait_for_the_swap),
        CASE(test_what_fails_before_the_rename_leaves_the_old_file_in_use),
        CASE(test_a_rename_that_may_not_last_is_in_doubt),
        CASE(test_a_death_at_any_call_leaves_a_queue_that_opens),
        CASE(test_full_disk_leaves_the_old_file_in_use),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * ---- system calls ----
 *
 * These stand before libc's for everything in this process, LMDB too.
 */

static bool call_fails(enum call call)
{
    uint64_t made = atomic_fetch_add(&calls_made, 1) + 1;
    uint64_t until = atomic_load(&calls_until_exit);
    if (until != 0 && made == until) {
        _exit(77);
    }
    if (call != CALL_NONE && atomic_load(&call_that_fails) == (int)call) {
        errno = call == CALL_RESERVE ? ENOSPC : EIO;
        return true;
    }
    return false;
}

ssize_t write(int fd, const void *bytes, size_t len)
{
    uint64_t until = atomic_load(&writes_until_exit);
    if (atomic_fetch_add(&writes_made, 1) + 1 == until) {
        _exit(77);
    }
    return syscall(SYS_write, fd, bytes, len);
}

int fsync(int fd)
{
    struct stat st;
    if (call_fails(CALL_FSYNC)) {
        return -1;
    }
    if (atomic_load(&fsync_of_directory_fails) && fstat(fd, &st) == 0 && S_ISDIR(st.st_mode)) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_fsync, fd);
}

static bool path_ends(const char *path, const char *name)
{
    const char *slash = strrchr(path, '/');
    return slash != NULL && strcmp(slash + 1, name) == 0;
}

int rename(const char *from, const char *to)
{
    return call_fails(path_ends(to, "lock.mdb") ? CALL_RENAME_LOCK : CALL_RENAME)
               ? -1
               : (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int unlink(const char *path)
{
    return call_fails(CALL_NONE) ? -1 : (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}

/* Blocks for the lock file are asked for without a length, those of the queue's file with one. */
int fallocate(int fd, int mode, off_t from, off_t len)
{
    return call_fails(mode == FALLOC_FL_KEEP_SIZE ? CALL_RESERVE : CALL_NONE)
               ? -1
               : (int)syscall(SYS_fallocate, fd, mode, from, len);
}

int flock(int fd, int operation)
{
    return call_fails(CALL_NONE) ? -1 : (int)syscall(SYS_flock, fd, operation);
}

int ftruncate(int fd, off_t len)
{
    return call_fails(CALL_NONE) ? -1 : (int)syscall(SYS_ftruncate, fd, len);
}
