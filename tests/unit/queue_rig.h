/*
 * The rig of the queue's tests: a real store in a directory of its own, the queue thread, and
 * workers that are mailboxes which the case itself answers. The disk fails on demand: see the end.
 */
#ifndef TASUKI_TESTS_UNIT_QUEUE_RIG_H
#define TASUKI_TESTS_UNIT_QUEUE_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "daemon/base/crc32c.h"
#include "daemon/queue/queue.h"
#include "daemon/sched/sched.h"
#include "tests/unit/turns.h"

#include <errno.h>
#include <ftw.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define UNUSED __attribute__((unused)) /* not every file of tests uses all */

#define MIB          ((uint64_t)1 << 20)
#define PATIENCE_MS  60000 /* whoever waits longer waits for ever */
#define WORKER_COUNT 2
#define RECIPIENTS   3

enum fault { FAULT_NONE, FAULT_SYNC, FAULT_DATA_FULL, FAULT_READ_ONLY };
static _Atomic enum fault fault;
static _Atomic int64_t wall_step_s; /* by which the wall clock is wrong */

/* A receiver: what has come and was not looked at yet. */
struct box {
    struct mailbox mailbox;
    int fd;
    struct flow_msg *first;
};

struct fixture {
    char root[64], directory[96];
    struct store *store;
    struct store_reader *reader;
    struct config *config;
    struct log log;
    _Atomic uint64_t lines, steps;
    struct metrics metrics;
    struct box workers[WORKER_COUNT], main, clients;
    struct mailbox *worker_boxes[WORKER_COUNT];
    struct queue *queue;
    pthread_t thread;
    bool running;
    struct flow_msg stop;
    uint64_t ids;
    uint64_t queue_bytes_max;
    struct flow_ids own_ids; /* the queue's, for what it makes */
};

/* ---- boxes ---- */

static UNUSED void box_open(struct box *b)
{
    b->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    assert_true(b->fd >= 0);
    mailbox_init(&b->mailbox, b->fd);
}

static UNUSED void box_look(struct box *b)
{
    struct flow_msg **end = &b->first;
    while (*end != NULL) {
        end = &(*end)->next;
    }
    *end = mailbox_take_all(&b->mailbox);
}

/* The next message, of this kind. */
static UNUSED struct flow_msg *box_wait(struct box *b, enum flow_kind kind)
{
    box_look(b);
    while (b->first == NULL) {
        struct pollfd bell = {.fd = b->fd, .events = POLLIN};
        uint64_t rings;
        assert_int_equal(poll(&bell, 1, PATIENCE_MS), 1);
        assert_int_equal(read(b->fd, &rings, sizeof rings), sizeof rings);
        box_look(b);
    }
    struct flow_msg *msg = b->first;
    b->first = msg->next;
    assert_int_equal(msg->kind, kind);
    return msg;
}

/* The next of any worker. */
static UNUSED struct flow_msg *workers_wait(struct fixture *f, enum flow_kind kind)
{
    for (;;) {
        struct pollfd bells[WORKER_COUNT];
        for (size_t at = 0; at < WORKER_COUNT; at++) {
            box_look(&f->workers[at]);
            if (f->workers[at].first != NULL) {
                return box_wait(&f->workers[at], kind);
            }
            bells[at] = (struct pollfd){.fd = f->workers[at].fd, .events = POLLIN};
        }
        assert_true(poll(bells, WORKER_COUNT, PATIENCE_MS) > 0);
        for (size_t at = 0; at < WORKER_COUNT; at++) {
            uint64_t rings;
            (void)!read(f->workers[at].fd, &rings, sizeof rings);
        }
    }
}

static UNUSED bool workers_quiet(struct fixture *f)
{
    bool quiet = true;
    for (size_t at = 0; at < WORKER_COUNT; at++) {
        box_look(&f->workers[at]);
        quiet = quiet && f->workers[at].first == NULL;
    }
    return quiet;
}

/* ---- making and ending ---- */

static UNUSED void count_line(void *ctx, enum log_level level, struct slice line)
{
    struct fixture *f = ctx;
    (void)level;
    atomic_fetch_add(&f->lines, 1);
    if (memmem(line.data, line.len, "event=clock-stepped", 19) != NULL) {
        atomic_fetch_add(&f->steps, 1);
    }
}

static UNUSED void upstream_config(struct config_upstream *u, const char *name)
{
    snprintf(u->name, sizeof u->name, "%s", name);
    u->connections = 1;
    u->null_sender = true;
    u->idle_ms_max = 3600000; /* no case waits for the end of an idle connection */
    u->probe_min_ms = 100;
    u->probe_max_ms = 200;
}

static UNUSED int remove_one(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    (void)st;
    (void)kind;
    (void)ftw;
    return remove(path);
}

static UNUSED int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    snprintf(f->root, sizeof f->root, "/tmp/test_queue.XXXXXX");
    assert_non_null(mkdtemp(f->root));
    snprintf(f->directory, sizeof f->directory, "%s/queue", f->root);
    f->config = calloc(1, sizeof *f->config);
    assert_non_null(f->config);
    f->config->retry_min_ms = 3600000;
    f->config->retry_max_ms = 7200000;
    f->config->give_up_ms = 86400000;
    f->config->warn_after_ms = 86400000;
    f->config->keep_history_ms = 86400000;
    f->config->keep_deleted_ms = 3600000;
    f->config->digest_ms = 86400000;
    f->config->reports = false;
    f->config->report_rate = 60;
    snprintf(f->config->hostname, sizeof f->config->hostname, "relay.example.jp");
    f->config->upstream_count = 1;
    upstream_config(&f->config->upstreams[0], "main");
    f->log = (struct log){.write = count_line, .ctx = f, .level = LOG_DEBUG};
    for (size_t at = 0; at < WORKER_COUNT; at++) {
        box_open(&f->workers[at]);
        f->worker_boxes[at] = &f->workers[at].mailbox;
    }
    box_open(&f->main);
    box_open(&f->clients);
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    f->ids = ((uint64_t)now.tv_sec * 1000) << 16;
    f->queue_bytes_max = 512 * MIB;
    atomic_init(&f->own_ids.last, f->ids + (UINT64_C(1) << 32));
    atomic_store(&fault, FAULT_NONE);
    atomic_store(&wall_step_s, 0);
    *state = f;
    return 0;
}

/* Its mailbox is there; the thread is not yet. */
static UNUSED void begin_asleep(struct fixture *f)
{
    struct store_config store = {
        .directory = f->directory, .queue_bytes_max = f->queue_bytes_max, .readers_max = 8};
    struct store_report report;
    enum err err = store_open(&f->store, &store, &report);
    if (err != ERR_OK) {
        print_error("%s\n", report.problem);
    }
    assert_int_equal(err, ERR_OK);
    assert_int_equal(store_reader_new(&f->reader, f->store), ERR_OK);
    struct queue_config config = {
        .config = f->config,
        .store = f->store,
        .log = &f->log,
        .metrics = &f->metrics,
        .workers = f->worker_boxes,
        .worker_count = WORKER_COUNT,
        .main = &f->main.mailbox,
        .ids = &f->own_ids,
    };
    assert_int_equal(queue_new(&f->queue, &config), ERR_OK);
}

static UNUSED void begin_awake(struct fixture *f)
{
    assert_int_equal(pthread_create(&f->thread, NULL, queue_run, f->queue), 0);
    f->running = true;
}

static UNUSED void begin(struct fixture *f)
{
    begin_asleep(f);
    begin_awake(f);
}

static UNUSED void end(struct fixture *f)
{
    if (f->running) {
        f->stop.kind = FLOW_STOP;
        mailbox_send(queue_mailbox(f->queue), &f->stop);
        pthread_join(f->thread, NULL);
        f->running = false;
    }
    for (size_t at = 0; at < WORKER_COUNT; at++) {
        /* Their structs go with the queue. */
        (void)!mailbox_take_all(&f->workers[at].mailbox);
        f->workers[at].first = NULL;
    }
    (void)!mailbox_take_all(&f->main.mailbox);
    f->main.first = NULL;
    store_reader_free(&f->reader);
    queue_free(&f->queue);
    store_close(&f->store);
}

static UNUSED int teardown(void **state)
{
    struct fixture *f = *state;
    end(f);
    nftw(f->root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    for (size_t at = 0; at < WORKER_COUNT; at++) {
        close(f->workers[at].fd);
    }
    close(f->main.fd);
    close(f->clients.fd);
    free(f->config);
    free(f);
    return 0;
}

/* ---- clients ---- */

struct client {
    struct flow_intake intake;
    uint8_t envelope_memory[4096];
    uint8_t recipients_memory[1024];
};

static UNUSED const uint8_t body[] = "Subject: x\r\n\r\nhello\r\n";

static UNUSED void client_send(struct fixture *f, struct client *c, enum flow_intake_step step,
                               struct slice piece)
{
    c->intake.msg.kind = FLOW_INTAKE;
    c->intake.msg.reply_to = &f->clients.mailbox;
    c->intake.step = step;
    c->intake.piece = piece;
    c->intake.result = ERR_UNSUPPORTED;
    mailbox_send(queue_mailbox(f->queue), &c->intake.msg);
}

/* A message with so many recipients, r0@example.jp and on, in one piece. */
static UNUSED void client_commit(struct fixture *f, struct client *c, uint32_t recipients)
{
    struct slice piece = slice_of(body, sizeof body - 1);
    struct buf list, envelope;
    char path[32];
    buf_init(&list, c->recipients_memory, sizeof c->recipients_memory);
    for (uint32_t at = 0; at < recipients; at++) {
        snprintf(path, sizeof path, "r%u@example.jp", at);
        record_recipient_put(&list, slice_from_str(path));
    }
    struct record_envelope e = {
        .arrived_ms = 1,
        .body_bytes = piece.len,
        .chunk_count = 1,
        .body_crc = crc32c(0, piece),
        .recipient_count = recipients,
        .client = SLICE("192.0.2.1"),
        .sender = SLICE("a@example.jp"),
        .recipients = buf_slice(&list),
    };
    buf_init(&envelope, c->envelope_memory, sizeof c->envelope_memory);
    record_envelope_put(&envelope, &e);
    assert_false(envelope.overflow);
    c->intake.id = msg_id_make(++f->ids, 1);
    c->intake.piece_index = 0;
    c->intake.envelope = buf_slice(&envelope);
    c->intake.sender = e.sender;
    c->intake.recipient_count = recipients;
    c->intake.body_bytes = piece.len;
    client_send(f, c, FLOW_INTAKE_COMMIT, piece);
}

static UNUSED struct msg_id accept_one(struct fixture *f, uint32_t recipients)
{
    static struct client c;
    client_commit(f, &c, recipients);
    assert_ptr_equal(box_wait(&f->clients, FLOW_INTAKE), &c.intake.msg);
    assert_int_equal(c.intake.result, ERR_OK);
    return c.intake.id;
}

/* ---- operators ---- */

static UNUSED void inspect(struct fixture *f, struct flow_status *out)
{
    static struct flow_inspect ask;
    ask.msg.kind = FLOW_INSPECT;
    ask.msg.reply_to = &f->main.mailbox;
    mailbox_send(queue_mailbox(f->queue), &ask.msg);
    (void)box_wait(&f->main, FLOW_INSPECT);
    *out = ask.status;
}

/* Whole rounds have passed since: what was to follow from all that was sent before has followed. */
static UNUSED struct flow_status settled(struct fixture *f)
{
    struct flow_status status;
    inspect(f, &status);
    inspect(f, &status);
    inspect(f, &status);
    return status;
}

static UNUSED enum err edit_many(struct fixture *f, enum flow_edit_action action,
                                 const struct msg_id *ids, uint32_t count, enum err *results)
{
    static struct flow_edit edit;
    edit.action = action;
    edit.count = count;
    memcpy(edit.ids, ids, count * sizeof ids[0]);
    edit.msg.kind = FLOW_EDIT;
    edit.msg.reply_to = &f->main.mailbox;
    mailbox_send(queue_mailbox(f->queue), &edit.msg);
    (void)box_wait(&f->main, FLOW_EDIT);
    memcpy(results, edit.results, count * sizeof results[0]);
    return edit.result;
}

static UNUSED enum err edit(struct fixture *f, enum flow_edit_action action, struct msg_id id)
{
    enum err result = ERR_UNSUPPORTED;
    assert_int_equal(edit_many(f, action, &id, 1, &result), ERR_OK);
    return result;
}

/* ---- workers ---- */

static UNUSED struct flow_link *link_wait(struct fixture *f)
{
    return FLOW_LINK_FROM(workers_wait(f, FLOW_LINK_OPEN), open);
}

static UNUSED void link_up(struct fixture *f, struct flow_link *link, uint32_t window)
{
    link->window = window;
    snprintf(link->peer, sizeof link->peer, "192.0.2.25:587");
    link->up.kind = FLOW_LINK_UP;
    mailbox_send(queue_mailbox(f->queue), &link->up);
}

static UNUSED void link_down(struct fixture *f, struct flow_link *link, enum outcome outcome)
{
    link->down_outcome = outcome;
    link->down_code = outcome == OUTCOME_NONE ? 0 : 535;
    snprintf(link->down_text, sizeof link->down_text, "words");
    link->down.kind = FLOW_LINK_DOWN;
    mailbox_send(queue_mailbox(f->queue), &link->down);
}

static UNUSED struct flow_job *job_wait(struct fixture *f)
{
    return FLOW_FROM(workers_wait(f, FLOW_JOB), struct flow_job);
}

static UNUSED void job_back(struct fixture *f, struct flow_job *job)
{
    mailbox_send(queue_mailbox(f->queue), &job->msg);
}

/* Room for the results of an attempt, and "words" for each to point at. */
static UNUSED void job_tried(struct flow_job *job, uint32_t recipients)
{
    job->tried = true;
    job->result_count = recipients;
    if (recipients > 1) {
        job->results = calloc(recipients, sizeof job->results[0]);
        assert_non_null(job->results);
    }
    buf_put_str(&job->text, "words");
}

/* Every recipient gets this outcome. */
static UNUSED void job_answer(struct fixture *f, struct flow_job *job, enum outcome outcome,
                              uint32_t recipients)
{
    job_tried(job, recipients);
    for (uint32_t at = 0; at < recipients; at++) {
        job->results[at] = (struct flow_result){
            .recipient_index = at, .outcome = outcome, .code = 250, .text_len = 5};
    }
    job->complete = outcome == OUTCOME_DELIVERED;
    job_back(f, job);
}

/* An upstream that is up, with nothing to do yet. */
static UNUSED struct flow_link *upstream_up(struct fixture *f, uint32_t window)
{
    struct flow_link *link = link_wait(f);
    assert_false(link->probe);
    link_up(f, link, window);
    return link;
}

/* ---- what is on disk ---- */

struct on_disk {
    enum err err;
    struct record_state state;
    struct record_recipient fates[RECIPIENTS];
    uint8_t memory[8192];
};

static UNUSED void read_message(struct fixture *f, struct msg_id id, struct on_disk *out)
{
    struct buf to;
    struct slice envelope, state;
    size_t needed;
    buf_init(&to, out->memory, sizeof out->memory);
    out->err = store_read_message(f->reader, &id, &to, &envelope, &state, &needed);
    if (out->err != ERR_OK) {
        return;
    }
    assert_int_equal(record_state_get(state, &out->state), ERR_OK);
    struct slice fates = out->state.recipients;
    for (size_t at = 0; at < RECIPIENTS && record_fate_next(&fates, &out->fates[at]); at++) {
    }
}

static UNUSED void assert_state(struct fixture *f, struct msg_id id, enum message_state wanted)
{
    struct on_disk m;
    read_message(f, id, &m);
    assert_int_equal(m.err, ERR_OK);
    assert_int_equal(m.state.state, wanted);
}

static UNUSED void assert_gone(struct fixture *f, struct msg_id id)
{
    struct on_disk m;
    read_message(f, id, &m);
    assert_int_equal(m.err, ERR_NOT_FOUND);
}

static UNUSED void assert_same_id(struct msg_id a, struct msg_id b)
{
    assert_int_equal(msg_id_compare(&a, &b), 0);
}

/*
 * ---- the disk ----
 *
 * These stand before libc's for everything in this process, LMDB too. Its two meta pages are the
 * first two of the file.
 */

ssize_t pwrite(int fd, const void *bytes, size_t len, off_t at)
{
    if (atomic_load(&fault) == FAULT_DATA_FULL && at >= 8192) {
        errno = ENOSPC;
        return -1;
    }
    if (atomic_load(&fault) == FAULT_READ_ONLY) {
        errno = EROFS;
        return -1;
    }
    return syscall(SYS_pwrite64, fd, bytes, len, at);
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    if (atomic_load(&fault) == FAULT_DATA_FULL) {
        errno = ENOSPC;
        return -1;
    }
    if (atomic_load(&fault) == FAULT_READ_ONLY) {
        errno = EROFS;
        return -1;
    }
    return syscall(SYS_writev, fd, parts, count);
}

int fdatasync(int fd)
{
    if (atomic_load(&fault) == FAULT_SYNC) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_fdatasync, fd);
}

/* ---- the clock ---- */

int clock_gettime(clockid_t clock, struct timespec *out)
{
    int result = (int)syscall(SYS_clock_gettime, clock, out);
    if (clock == CLOCK_REALTIME) {
        out->tv_sec += atomic_load(&wall_step_s);
    }
    return result;
}

#endif
