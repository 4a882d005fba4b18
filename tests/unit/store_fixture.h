/*
 * A queue in a directory of its own, messages whose bodies say where each byte belongs, and a disk
 * that fails on demand: for the tests of the store.
 */
#ifndef TASUKI_TESTS_UNIT_STORE_FIXTURE_H
#define TASUKI_TESTS_UNIT_STORE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "daemon/base/crc32c.h"
#include "daemon/base/num.h"
#include "daemon/store/store.h"
#include "schema/record_history.h"
#include "tests/unit/turns.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB          ((uint64_t)1 << 20)
#define RECORD_BYTES (64u << 10)

struct fixture {
    char root[64];
    char directory[96];
    struct store_config config;
    struct store_report report;
    struct store *store;
    struct store_reader *reader;
};

/* ---- faults on demand; see the end ---- */

enum fault { FAULT_NONE, FAULT_META, FAULT_SYNC, FAULT_DATA_FULL, FAULT_DATA_SHORT };
static enum fault fault;
static bool disk_is_full; /* as whoever asks is told */

/* Dies by SIGKILL at the turn-th write of a meta page from now on: that is the commit. */
enum kill { KILL_NEVER, KILL_BEFORE_META, KILL_AFTER_META };
static enum kill kill_at;
static uint64_t kill_turn;

static uint64_t written_bytes; /* to any file so far */

/* ---- making and ending ---- */

static uint64_t rng_state;

static inline uint64_t rng(void)
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return rng_state;
}

static inline int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    snprintf(f->root, sizeof f->root, "/tmp/test_store.XXXXXX");
    if (f == NULL || mkdtemp(f->root) == NULL) {
        return -1;
    }
    snprintf(f->directory, sizeof f->directory, "%s/queue", f->root);
    f->config = (struct store_config){
        .directory = f->directory, .queue_bytes_max = 1024 * MIB, .readers_max = 8};
    rng_state = 88172645463325252u;
    fault = FAULT_NONE;
    disk_is_full = false;
    *state = f;
    return 0;
}

static inline int remove_one(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    (void)st;
    (void)kind;
    (void)ftw;
    return remove(path);
}

static inline void queue_close(struct fixture *f)
{
    store_reader_free(&f->reader);
    store_close(&f->store);
}

static inline int teardown(void **state)
{
    struct fixture *f = *state;
    queue_close(f);
    nftw(f->root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(f);
    return 0;
}

static inline enum err queue_try(struct fixture *f)
{
    enum err err = store_open(&f->store, &f->config, &f->report);
    return err == ERR_OK ? store_reader_new(&f->reader, f->store) : err;
}

static inline void queue_open(struct fixture *f)
{
    enum err err = queue_try(f);
    if (err != ERR_OK) {
        print_error("%s\n", f->report.problem);
    }
    assert_int_equal(err, ERR_OK);
}

static inline void queue_reopen(struct fixture *f)
{
    queue_close(f);
    queue_open(f);
}

static inline struct store_summary summary_of(struct fixture *f)
{
    struct store_summary summary;
    store_summary(f->store, &summary);
    return summary;
}

/* ---- records ---- */

struct want {
    enum message_state state;
    const char *upstream;
    uint64_t due_q;
    uint32_t recipients;
    size_t text; /* bytes of reply text a recipient */
    const char *subject;
    const char *device; /* NULL: none */
    enum outcome reason;
    bool awaits_digest;
    uint32_t flow, size_kib;
};

static const struct want plain = {.state = MESSAGE_QUEUED, .upstream = "main", .due_q = 1000};

static const struct slice nothing;
static uint8_t record_memory[3][RECORD_BYTES];

static inline struct slice state_make(const struct want *want)
{
    static uint8_t text[RECORD_REPLY_TEXT_BYTES_MAX];
    memset(text, 'x', sizeof text);
    struct buf list;
    struct buf state;
    buf_init(&list, record_memory[0], RECORD_BYTES);
    buf_init(&state, record_memory[1], RECORD_BYTES);
    uint32_t recipients = want->recipients == 0 ? 1 : want->recipients;
    for (uint32_t index = 0; index < recipients; index++) {
        record_fate_put(&list, &(struct record_recipient){.state = want->state == MESSAGE_FAILED
                                                                       ? RECIPIENT_FAILED
                                                                       : RECIPIENT_QUEUED,
                                                          .outcome = want->reason,
                                                          .text = slice_of(text, want->text)});
    }
    struct slice upstream = slice_from_str(want->upstream);
    uint16_t flags = want->awaits_digest ? RECORD_STATE_AWAITS_DIGEST : 0;
    record_state_put(&state, &(struct record_state){
                                 .state = want->state,
                                 .reason = want->reason,
                                 .flags = flags,
                                 .route = record_route(upstream),
                                 .due_q = want->due_q,
                                 .flow = want->flow,
                                 .size_kib = want->size_kib,
                                 .upstream = upstream,
                                 .device = slice_from_str(want->device == NULL ? "" : want->device),
                                 .recipient_count = recipients,
                                 .recipients = buf_slice(&list)});
    assert_false(list.overflow || state.overflow);
    return buf_slice(&state);
}

static inline struct slice envelope_make(const struct want *want, uint64_t bytes, uint32_t pieces)
{
    struct buf list;
    struct buf envelope;
    buf_init(&list, record_memory[0], RECORD_BYTES);
    buf_init(&envelope, record_memory[2], RECORD_BYTES);
    uint32_t recipients = want->recipients == 0 ? 1 : want->recipients;
    for (uint32_t index = 0; index < recipients; index++) {
        record_recipient_put(&list, SLICE("c@example.jp"));
    }
    record_envelope_put(&envelope,
                        &(struct record_envelope){
                            .arrived_ms = 1,
                            .body_bytes = bytes,
                            .chunk_count = pieces,
                            .recipient_count = recipients,
                            .client = SLICE("192.0.2.1"),
                            .sender = SLICE("a@example.jp"),
                            .subject = slice_from_str(want->subject == NULL ? "" : want->subject),
                            .recipients = buf_slice(&list)});
    assert_false(list.overflow || envelope.overflow);
    return buf_slice(&envelope);
}

static inline struct msg_id id_of(uint64_t number)
{
    return msg_id_make(number, 7);
}

/* Eight bytes of a body: they depend on the id and on where they stand, and recur nowhere. */
static inline uint64_t body_word(uint64_t number, uint64_t index)
{
    uint64_t word = (number << 40 | index) + 0x9e3779b97f4a7c15u;
    word = (word ^ word >> 30) * 0xbf58476d1ce4e5b9u;
    word = (word ^ word >> 27) * 0x94d049bb133111ebu;
    return word ^ word >> 31;
}

static inline void body_fill(uint8_t *to, size_t len, uint64_t number, uint64_t offset)
{
    uint64_t word = body_word(number, offset / 8);
    for (size_t index = 0; index < len; index++) {
        uint64_t at = offset + index;
        if (at % 8 == 0) {
            word = body_word(number, at / 8);
        }
        to[index] = (uint8_t)(word >> 8 * (at % 8));
    }
}

/* Appends all pieces; commits after each every-th when every is not 0. Returns how many. */
static inline uint32_t body_append(struct fixture *f, uint64_t number, uint64_t bytes,
                                   uint32_t every)
{
    static _Thread_local uint8_t piece[BODY_CHUNK_BYTES_MAX];
    struct msg_id id = id_of(number);
    uint32_t pieces = 0;
    for (uint64_t done = 0; done < bytes; pieces++) {
        size_t len = (size_t)u64_min(store_piece_bytes(f->store), bytes - done);
        body_fill(piece, len, number, done);
        assert_int_equal(store_body_append(f->store, &id, pieces, slice_of(piece, len)), ERR_OK);
        done += len;
        if (every != 0 && pieces % every == every - 1) {
            assert_int_equal(store_commit(f->store), ERR_OK);
            assert_int_equal(store_begin(f->store), ERR_OK);
        }
    }
    return pieces;
}

static inline void message_put(struct fixture *f, uint64_t number, uint64_t bytes,
                               const struct want *want)
{
    struct msg_id id = id_of(number);
    uint32_t pieces = body_append(f, number, bytes, 0);
    struct slice state = state_make(want);
    struct slice envelope = envelope_make(want, bytes, pieces);
    assert_int_equal(store_message_add(f->store, &id, envelope, state), ERR_OK);
}

static inline void message_commit(struct fixture *f, uint64_t number, uint64_t bytes,
                                  const struct want *want)
{
    assert_int_equal(store_begin(f->store), ERR_OK);
    message_put(f, number, bytes, want);
    assert_int_equal(store_commit(f->store), ERR_OK);
}

static inline void message_drop(struct fixture *f, uint64_t number)
{
    struct msg_id id = id_of(number);
    assert_int_equal(store_begin(f->store), ERR_OK);
    assert_int_equal(store_message_remove(f->store, &id, nothing), ERR_OK);
    assert_int_equal(store_commit(f->store), ERR_OK);
}

/* What message number leaves in the history when its records are as want says and it left at
 * left_q, with so many bytes of trail. */
static inline struct slice history_make(const struct want *want, uint64_t left_q, size_t filler)
{
    static uint8_t memory[3 * RECORD_BYTES];
    static uint8_t bytes[RECORD_BYTES];
    struct buf to;
    memset(bytes, 'h', sizeof bytes);
    buf_init(&to, memory, sizeof memory);
    record_history_put(&to, &(struct record_history){.left_ms = left_q + 1000000,
                                                     .left_q = left_q,
                                                     .end = RECORD_END_DELIVERED,
                                                     .envelope = envelope_make(want, 1, 1),
                                                     .state = state_make(want),
                                                     .trail = slice_of(bytes, filler)});
    assert_false(to.overflow);
    return buf_slice(&to);
}

static inline void message_leave(struct fixture *f, uint64_t number, uint64_t left_q, size_t filler)
{
    struct msg_id id = id_of(number);
    assert_int_equal(store_message_remove(f->store, &id, history_make(&plain, left_q, filler)),
                     ERR_OK);
}

static inline enum err message_read(struct store_reader *reader, uint64_t number)
{
    static _Thread_local uint8_t memory[RECORD_BYTES];
    struct buf to;
    buf_init(&to, memory, sizeof memory);
    struct msg_id id = id_of(number);
    struct slice envelope;
    struct slice state;
    size_t needed;
    enum err err = store_read_message(reader, &id, &to, &envelope, &state, &needed);
    if (err == ERR_OK) {
        struct record_envelope e;
        struct record_state s;
        assert_int_equal(record_envelope_get(envelope, &e), ERR_OK);
        assert_int_equal(record_state_get(state, &s), ERR_OK);
    }
    return err;
}

/* Reads a whole body through a buffer of cap bytes. ERR_SYNTAX: it is not what was written. */
static inline enum err body_read(struct store_reader *reader, uint64_t number, uint64_t bytes,
                                 size_t cap)
{
    static _Thread_local uint8_t memory[256 << 10];
    static _Thread_local uint8_t expected[256 << 10];
    struct msg_id id = id_of(number);
    for (uint64_t offset = 0;;) {
        struct buf to;
        buf_init(&to, memory, cap);
        enum err err = store_read_body(reader, &id, offset, &to);
        if (err != ERR_OK) {
            return err;
        }
        if (to.len == 0) {
            return offset == bytes ? ERR_OK : ERR_SYNTAX;
        }
        body_fill(expected, to.len, number, offset);
        if (offset + to.len > bytes || memcmp(expected, memory, to.len) != 0) {
            return ERR_SYNTAX;
        }
        offset += to.len;
    }
}

/* ---- the file, from outside ---- */

static inline void file_path(const struct fixture *f, const char *name, char to[160])
{
    snprintf(to, 160, "%s/%s", f->directory, name);
}

static inline uint8_t *file_load(const struct fixture *f, size_t *out_len)
{
    char path[160];
    file_path(f, "data.mdb", path);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    assert_true(fd >= 0 && fstat(fd, &st) == 0);
    size_t len = size_min((size_t)st.st_size, turns(SIZE_MAX, MIB)); /* few use no more of it */
    uint8_t *bytes = malloc(len);
    assert_non_null(bytes);
    assert_int_equal(pread(fd, bytes, len, 0), len);
    close(fd);
    *out_len = len;
    return bytes;
}

/* Xors the byte at `at` of every place in the file where the pattern stands. */
static inline size_t file_flip(const struct fixture *f, struct slice pattern, size_t at,
                               uint8_t mask)
{
    char path[160];
    file_path(f, "data.mdb", path);
    size_t len;
    uint8_t *bytes = file_load(f, &len);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    size_t found = 0;
    for (size_t from = 0; from + pattern.len <= len; from++) {
        const uint8_t *place = memmem(bytes + from, len - from, pattern.data, pattern.len);
        if (place == NULL) {
            break;
        }
        from = (size_t)(place - bytes);
        uint8_t byte = (uint8_t)(bytes[from + at] ^ mask);
        assert_int_equal(pwrite(fd, &byte, 1, (off_t)(from + at)), 1);
        found++;
    }
    close(fd);
    free(bytes);
    return found;
}

/* Runs fn in a child; returns its exit status, or 128 + the signal. */
static inline int in_child(void (*fn)(struct fixture *), struct fixture *f)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        fn(f);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* What the records made above do not care about: whatever else the checker says is a finding. */
static const char *const findings_meant[] = {
    "the checksum of its whole body does not fit",
    "its state record says",
    "its trail in the history cannot be decoded",
    "it is in the queue and in the history too",
};

struct findings {
    bool strict; /* nothing was meant */
    uint64_t count;
};

static inline void finding_count(void *ctx, const char *finding)
{
    struct findings *findings = ctx;
    for (size_t index = 0; index < sizeof findings_meant / sizeof findings_meant[0]; index++) {
        if (!findings->strict && strstr(finding, findings_meant[index]) != NULL) {
            return;
        }
    }
    print_error("finding: %s\n", finding);
    findings->count++;
}

/* Every record, chunk and entry against each other, by the store's own checker: a second opinion on
 * what was written. The queue is closed for it. */
static inline void queue_check(struct fixture *f, bool strict)
{
    struct findings findings = {.strict = strict};
    struct store_check check;
    struct store_report report = {0};
    queue_close(f);
    enum err err = store_check(f->directory, finding_count, &findings, NULL, NULL, &check, &report);
    assert_true(err == ERR_OK || err == ERR_DAMAGED);
    assert_int_equal(findings.count, 0);
    assert_int_equal(err == ERR_OK, check.findings == 0); /* it came to its end */
}

/*
 * ---- the disk ----
 *
 * These stand before libc's for everything in this process, LMDB too. Its two meta pages are the
 * first two of the file, and are written with pwrite.
 */

ssize_t pwrite(int fd, const void *bytes, size_t len, off_t at)
{
    if (fault == FAULT_META && at < 8192) {
        errno = EIO;
        return -1;
    }
    if (fault == FAULT_DATA_FULL && at >= 8192) {
        errno = ENOSPC;
        return -1;
    }
    if (fault == FAULT_DATA_SHORT && at >= 8192) {
        return (ssize_t)(len / 2);
    }
    bool kills = at > 0 && at < 8192 && kill_at != KILL_NEVER && kill_turn > 0 && --kill_turn == 0;
    if (kills && kill_at == KILL_BEFORE_META) {
        raise(SIGKILL);
    }
    ssize_t written = syscall(SYS_pwrite64, fd, bytes, len, at);
    if (kills) {
        raise(SIGKILL);
    }
    written_bytes += len;
    return written;
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    if (fault == FAULT_DATA_FULL) {
        errno = ENOSPC;
        return -1;
    }
    if (fault == FAULT_DATA_SHORT) {
        return (ssize_t)parts[0].iov_len / 2;
    }
    ssize_t written = syscall(SYS_writev, fd, parts, count);
    written_bytes += written > 0 ? (uint64_t)written : 0;
    return written;
}

int fstatvfs(int fd, struct statvfs *out)
{
    struct statfs fs;
    if (syscall(SYS_fstatfs, fd, &fs) != 0) {
        return -1;
    }
    *out = (struct statvfs){.f_frsize = (unsigned long)fs.f_frsize,
                            .f_bavail = disk_is_full ? 0 : fs.f_bavail};
    return 0;
}

int fdatasync(int fd)
{
    if (fault == FAULT_SYNC) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_fdatasync, fd);
}

#endif
