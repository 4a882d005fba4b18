/*
 * Copies of the queue's file: the backup, and what compaction puts in place of the old one.
 *
 * LMDB writes a copy of one commit, page after page, without what is free, into a pipe; this side
 * of the pipe writes the file. So an error of the disk is ours to see and to name, progress is
 * known, and who wants to stop closes the pipe.
 *
 * A backup is one file. Restoring it, while tasukid does not run:
 *
 *     cp BACKUP STATE/data.mdb      and give it to the user that tasukid runs as
 *
 * and start tasukid. lock.mdb may be there or not: with nobody in it LMDB makes it anew. What was
 * taken after the backup is not in it; what has been delivered since will be sent again.
 */
#include "daemon/store/store_check_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* What is moved at once, and how much lies between two looks at progress. */
#define PUMP_BYTES   65536u
#define REPORT_BYTES (1u << 20)

/*
 * ---- LMDB's side of the pipe ----
 */

struct copier {
    MDB_env *env;
    int fd; /* owned by the thread: closed when it is done */
    unsigned flags;
    int code; /* what LMDB says in the end */
};

static void *copier_run(void *arg)
{
    struct copier *copier = arg;
    copier->code = mdb_env_copyfd2(copier->env, copier->fd, copier->flags);
    close(copier->fd);
    return NULL;
}

/* Signals are for the threads that wait for them; a fault is its own thread's. A closed pipe is an
 * error of write, here and in the thread that LMDB starts. */
static int copier_start(struct copier *copier, pthread_t *out_thread)
{
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    sigdelset(&all, SIGBUS);
    sigdelset(&all, SIGSEGV);
    sigdelset(&all, SIGILL);
    sigdelset(&all, SIGFPE);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    int number = pthread_create(out_thread, NULL, copier_run, copier);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return number;
}

/*
 * ---- our side ----
 */

static enum err write_all(int fd, const uint8_t *bytes, size_t len)
{
    while (len > 0) {
        ssize_t done = write(fd, bytes, len);
        if (done < 0 && errno == EINTR) {
            continue;
        }
        if (done <= 0) {
            return done == 0 ? ERR_IO : store_err(errno);
        }
        bytes += done;
        len -= (size_t)done;
    }
    return ERR_OK;
}

static enum err pump(const struct store_copy *copy, int from)
{
    uint8_t bytes[PUMP_BYTES];
    uint64_t done = 0;
    uint64_t reported = 0;
    for (;;) {
        ssize_t got = read(from, bytes, sizeof bytes);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return got == 0 ? ERR_OK : ERR_IO;
        }
        enum err err = write_all(copy->fd, bytes, (size_t)got);
        if (err != ERR_OK) {
            return err;
        }
        done += (uint64_t)got;
        if (copy->touched != NULL) {
            store_touched(copy->touched, (uint64_t)got);
        }
        if (copy->go_on != NULL && done - reported >= REPORT_BYTES) {
            reported = done;
            if (!copy->go_on(copy->ctx, done)) {
                return ERR_CANCELLED;
            }
        }
    }
}

/* One try. *out_code is LMDB's word, when the result is ERR_OK. */
static enum err copy_once(const struct store_copy *copy, unsigned flags, int *out_code)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) {
        return store_err(errno);
    }
    struct copier copier = {.env = copy->env, .fd = ends[1], .flags = flags};
    pthread_t thread;
    int number = copier_start(&copier, &thread);
    if (number != 0) {
        close(ends[0]);
        close(ends[1]);
        return store_err(number);
    }
    enum err err = pump(copy, ends[0]);
    close(ends[0]);
    pthread_join(thread, NULL);
    *out_code = copier.code;
    return err;
}

/*
 * LMDB finds out that its copy is not what it announced when pages are lost (neither used nor
 * free), which harms nothing else: then everything is copied as it lies.
 */
enum err store_copy_write(const struct store_copy *copy)
{
    int code = MDB_SUCCESS;
    enum err err = copy_once(copy, MDB_CP_COMPACT, &code);
    if (err == ERR_OK && code == MDB_INCOMPATIBLE && copy->may_be_plain) {
        if (ftruncate(copy->fd, 0) != 0 || lseek(copy->fd, 0, SEEK_SET) != 0) {
            return store_err(errno);
        }
        err = copy_once(copy, 0, &code);
    }
    if (err == ERR_OK) {
        err = store_err(code);
    }
    if (err == ERR_OK && fsync(copy->fd) != 0) {
        err = store_err(errno);
    }
    return err;
}

/*
 * ---- the backup ----
 */

/* A stage of a long work, as a part of the whole: from..to of a thousand. */
struct stage {
    store_progress_fn *fn; /* may be NULL */
    void *ctx;
    uint64_t from, to;
};

#define WHOLE       1000u
#define PAGES_UNTIL 100u
#define COPY_UNTIL  700u

static bool stage_progress(void *ctx, uint64_t done, uint64_t total)
{
    const struct stage *stage = ctx;
    uint64_t share = (stage->to - stage->from) * u64_min(done, total) / u64_max(total, 1);
    return stage->fn == NULL || stage->fn(stage->ctx, stage->from + share, WHOLE);
}

struct backup {
    const char *directory, *path;
    char part[STORE_PATH_BYTES_MAX];   /* what is being written */
    char parent[STORE_PATH_BYTES_MAX]; /* directory of path */
    int fd;                            /* owned; of part, -1: none */
    bool made;                         /* part is ours */
    struct stage stage;
    struct check check; /* of the queue, then of the copy */
    struct store_check found;
    struct store_report *report;
};

static enum err failed(struct backup *b, const char *what, const char *path, enum err err)
{
    store_problem(b->report, "%s %s: %s", what, path, err_text(err));
    return err;
}

static void finding_ignore(void *ctx, const char *finding)
{
    (void)ctx;
    (void)finding; /* the first one is in the report */
}

static struct check *check_prepare(struct backup *b, bool is_copy, uint64_t from, uint64_t to)
{
    b->stage.from = from;
    b->stage.to = to;
    b->found = (struct store_check){0};
    b->check = (struct check){
        .is_copy = is_copy,
        .fn = finding_ignore,
        .progress = stage_progress,
        .progress_ctx = &b->stage,
        .out = &b->found,
        .report = b->report,
        .swap_fd = -1,
        .owner_fd = -1,
    };
    return &b->check;
}

static enum err paths_make(struct backup *b)
{
    struct stat st;
    int len = snprintf(b->part, sizeof b->part, "%s.part", b->path);
    if (len < 0 || (size_t)len >= sizeof b->part) {
        return failed(b, "the name is too long:", b->path, ERR_LIMIT);
    }
    const char *slash = strrchr(b->path, '/');
    size_t parent = slash == NULL ? 0 : (size_t)(slash - b->path) + 1; /* "/" is kept */
    memcpy(b->parent, b->path, parent);
    memcpy(b->parent + parent, ".", 2);
    if (lstat(b->path, &st) == 0) {
        store_problem(b->report,
                      "%s is there already: a backup writes over nothing; name another "
                      "file",
                      b->path);
        return ERR_EXISTS;
    }
    return ERR_OK;
}

static enum err part_make(struct backup *b)
{
    b->fd = open(b->part, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (b->fd >= 0) {
        b->made = true;
        return ERR_OK;
    }
    if (errno == EEXIST) {
        store_problem(b->report,
                      "%s is there: another backup is being made, or one was cut off; "
                      "in that case remove it",
                      b->part);
        return ERR_EXISTS;
    }
    return failed(b, "cannot make", b->part, err_from_errno(errno));
}

static bool copy_go_on(void *ctx, uint64_t done)
{
    struct backup *b = ctx;
    return !check_is_in_the_way(&b->check) && stage_progress(&b->stage, done, b->check.used_bytes);
}

/* What LMDB is about to read has been verified: it would follow a damaged page anywhere. */
static enum err queue_copy(struct backup *b)
{
    struct check *c = check_prepare(b, false, 0, 2 * PAGES_UNTIL);
    struct slice format;
    enum err err = check_open(c, b->directory);
    if (err == ERR_OK) {
        err = check_pages(c);
    }
    if (err == ERR_OK) {
        err = check_map(c, &format);
    }
    if (err != ERR_OK) {
        if (b->found.findings > 0) {
            store_problem(b->report,
                          "the queue in %s is damaged, and a copy of it would be too: %s",
                          b->directory, c->first);
        }
        return err;
    }
    mdb_txn_abort(c->txn); /* the copy has its own; pages that a writer frees need not wait twice */
    c->txn = NULL;
    b->stage.from = PAGES_UNTIL;
    b->stage.to = COPY_UNTIL;
    struct store_copy copy = {
        .env = c->store.env,
        .fd = b->fd,
        .touched = &c->store,
        .may_be_plain = true,
        .go_on = copy_go_on,
        .ctx = b,
    };
    err = store_copy_write(&copy);
    if (err == ERR_CANCELLED && c->stopped != ERR_OK) {
        return c->stopped; /* said already */
    }
    if (err == ERR_FULL) {
        store_problem(b->report, "no room for the copy %s: it takes %llu MiB", b->path,
                      (unsigned long long)(c->used_bytes >> 20) + 1);
    }
    return err == ERR_OK || err == ERR_FULL ? err : failed(b, "cannot write", b->part, err);
}

/* Not every file system (FAT, some others) can rename without writing over what is there. */
static int rename_new(const char *from, const char *to)
{
    struct stat st;
    if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0) {
        return 0;
    }
    if (errno != EINVAL && errno != ENOSYS) {
        return -1;
    }
    if (lstat(to, &st) == 0) {
        errno = EEXIST;
        return -1;
    }
    return rename(from, to);
}

static enum err part_finish(struct backup *b)
{
    if (rename_new(b->part, b->path) != 0) {
        return failed(b, "cannot rename to", b->path, err_from_errno(errno));
    }
    b->made = false;
    int fd = open(b->parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    enum err err = fd < 0 || fsync(fd) != 0 ? err_from_errno(errno) : ERR_OK;
    if (fd >= 0) {
        close(fd);
    }
    return err == ERR_OK ? ERR_OK : failed(b, "cannot sync", b->parent, err);
}

/* A record that is damaged in the queue is so in the copy: the copy is kept, and said what it is.
 * Records of an older format are not judged here. */
static enum err copy_check(struct backup *b)
{
    char problem[sizeof b->report->problem];
    struct check *c = check_prepare(b, true, COPY_UNTIL, WHOLE);
    b->report->problem[0] = '\0';
    enum err err = check_run(c, b->path);
    memcpy(problem, b->report->problem, sizeof problem);
    if (err == ERR_UNSUPPORTED) {
        store_problem(b->report, "%s is made, but only its pages were verified: %s", b->path,
                      problem);
        return ERR_OK;
    }
    if (err == ERR_CANCELLED) {
        store_problem(b->report, "stopped: %s is made and whole, but was not verified to its end",
                      b->path);
    }
    if (err == ERR_DAMAGED) {
        store_problem(b->report,
                      "%s is made, but is not sound, as probably is the queue itself "
                      "(tasukid --check-store says more): %s",
                      b->path, problem);
    }
    return err;
}

static enum err backup_run(struct backup *b)
{
    enum err err = paths_make(b);
    if (err == ERR_OK) {
        err = part_make(b);
    }
    if (err == ERR_OK) {
        err = queue_copy(b);
        check_close(&b->check);
    }
    if (b->fd >= 0 && close(b->fd) != 0 && err == ERR_OK) {
        err = failed(b, "cannot write", b->part, err_from_errno(errno));
    }
    if (err == ERR_OK && !stage_progress(&b->stage, 1, 1)) { /* the sync may have taken long */
        err = ERR_CANCELLED;
    }
    if (err == ERR_OK) {
        err = part_finish(b);
    }
    if (b->made) {
        unlink(b->part);
    }
    if (err == ERR_CANCELLED) {
        store_problem(b->report, "stopped: nothing of the copy %s is left", b->path);
    }
    return err == ERR_OK ? copy_check(b) : err;
}

enum err store_backup(const char *directory, const char *path, store_progress_fn *progress,
                      void *ctx, struct store_report *report)
{
    *report = (struct store_report){0};
    struct backup *b = calloc(1, sizeof *b);
    if (b == NULL) {
        return ERR_NO_MEMORY;
    }
    b->directory = directory;
    b->path = path;
    b->fd = -1;
    b->stage = (struct stage){.fn = progress, .ctx = ctx};
    b->report = report;
    enum err err = backup_run(b);
    report->messages = b->found.messages;
    if (err != ERR_OK && report->problem[0] == '\0') {
        store_problem(report, "cannot copy the queue in %s: %s", directory, err_text(err));
    }
    free(b);
    return err;
}
