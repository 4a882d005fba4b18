/*
 * A queue with messages of every kind in it, each sound in all its parts, for tests of what is done
 * with the whole file. Message n is always the same, so that what is read can be told from n.
 */
#ifndef TASUKI_TESTS_UNIT_STORE_FILE_FIXTURE_H
#define TASUKI_TESTS_UNIT_STORE_FILE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "daemon/base/crc32c.h"
#include "daemon/base/num.h"
#include "daemon/store/store.h"
#include "schema/record_history.h"
#include "schema/record_upstream.h"
#include "tests/unit/turns.h"

#include <fcntl.h>
#include <ftw.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB           ((uint64_t)1 << 20)
#define RECORD_BYTES  (16u << 10)
#define HISTORY_BYTES (64u << 10)

struct fixture {
    char root[64];
    char directory[96];
    struct store_config config;
    struct store_report report;
    struct store *store;
    struct store_reader *reader;
};

static inline int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    if (f == NULL) {
        return -1;
    }
    snprintf(f->root, sizeof f->root, "/tmp/test_store_file.XXXXXX");
    if (mkdtemp(f->root) == NULL) {
        return -1;
    }
    snprintf(f->directory, sizeof f->directory, "%s/queue", f->root);
    f->config = (struct store_config){
        .directory = f->directory, .queue_bytes_max = 1024 * MIB, .readers_max = 16};
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

/* What fn returns, from a process of its own: LMDB allows a queue to be open once in each. */
static inline int in_child(int (*fn)(struct fixture *), struct fixture *f)
{
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        _exit(fn(f));
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

/*
 * ---- message n ----
 */

static inline struct msg_id id_of(uint64_t n)
{
    return msg_id_make((UINT64_C(1700000000000) + n) << 16, 7);
}

static inline uint64_t mix(uint64_t n)
{
    n = (n ^ (n >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    n = (n ^ (n >> 27)) * UINT64_C(0x94d049bb133111eb);
    return n ^ (n >> 31);
}

static inline void body_fill(uint64_t n, uint64_t offset, uint8_t *to, size_t len)
{
    for (size_t index = 0; index < len; index++) {
        uint64_t at = offset + index;
        to[index] = (uint8_t)(mix(n * 1000003 + at / 8) >> (8 * (at % 8)));
    }
}

/* None, a few hundred bytes up to a chunk and a half, or several pieces. */
static inline uint64_t body_bytes_of(uint64_t n)
{
    return n % 7 == 0 ? 0 : n % 5 == 0 ? 40000 + 997 * (n % 100) : 100 + 313 * (n % 90);
}

static inline enum message_state state_of(uint64_t n)
{
    return n % 11 == 3   ? MESSAGE_HELD
           : n % 11 == 5 ? MESSAGE_FAILED
           : n % 11 == 7 ? MESSAGE_TRASHED
                         : MESSAGE_QUEUED;
}

struct want {
    uint64_t n;
    enum message_state state;
    const char *upstream;
    const char *device;
    uint32_t recipients;
};

static inline struct want want_of(uint64_t n)
{
    static const char *const upstreams[] = {"main", "second"};
    static const char *const devices[] = {"printer", "nas", "192.0.2.7", ""};
    return (struct want){.n = n,
                         .state = state_of(n),
                         .upstream = upstreams[n % 2],
                         .device = devices[n % 4],
                         .recipients = (uint32_t)(1 + n % 3)};
}

static inline struct slice state_make(const struct want *want)
{
    static uint8_t list_memory[RECORD_BYTES];
    static uint8_t memory[RECORD_BYTES];
    struct buf list;
    struct buf state;
    bool failed = want->state == MESSAGE_FAILED;
    buf_init(&list, list_memory, sizeof list_memory);
    buf_init(&state, memory, sizeof memory);
    struct record_recipient fate = {
        .state = failed ? RECIPIENT_FAILED : RECIPIENT_QUEUED,
        .text = failed ? SLICE("550 5.1.1 no such user") : SLICE(""),
        .code = failed ? 550 : 0,
    };
    for (uint32_t index = 0; index < want->recipients; index++) {
        record_fate_put(&list, &fate);
    }
    struct slice device = slice_from_str(want->device);
    struct record_state record = {
        .state = want->state,
        .reason = record_reason(buf_slice(&list)),
        .flags = failed && want->n % 2 == 0 ? RECORD_STATE_AWAITS_DIGEST : 0,
        .route = record_route(slice_from_str(want->upstream)),
        .due_q = 5000 + mix(want->n) % 100000,
        .accepted_q = want->n,
        .flow = record_flow(device, SLICE("sender@example.jp")),
        .size_kib = (uint32_t)((body_bytes_of(want->n) + 1023) / 1024),
        .upstream = slice_from_str(want->upstream),
        .device = device,
        .recipient_count = want->recipients,
        .recipients = buf_slice(&list),
    };
    record_state_put(&state, &record);
    assert_false(state.overflow);
    return buf_slice(&state);
}

static inline uint32_t body_crc_of(uint64_t n)
{
    static uint8_t bytes[4096];
    uint64_t total = body_bytes_of(n);
    uint32_t crc = 0;
    for (uint64_t at = 0; at < total; at += sizeof bytes) {
        size_t len = (size_t)u64_min(sizeof bytes, total - at);
        body_fill(n, at, bytes, len);
        crc = crc32c(crc, slice_of(bytes, len));
    }
    return crc;
}

static inline struct slice envelope_make(const struct want *want, size_t piece_bytes)
{
    static uint8_t list_memory[RECORD_BYTES];
    static uint8_t memory[RECORD_BYTES];
    struct buf list;
    struct buf envelope;
    uint64_t bytes = body_bytes_of(want->n);
    buf_init(&list, list_memory, sizeof list_memory);
    buf_init(&envelope, memory, sizeof memory);
    for (uint32_t index = 0; index < want->recipients; index++) {
        uint8_t path[64];
        struct buf text;
        buf_init(&text, path, sizeof path);
        buf_printf(&text, "r%u-%llu@example.jp", index, (unsigned long long)want->n);
        record_recipient_put(&list, buf_slice(&text));
    }
    struct record_envelope record = {
        .arrived_ms = 1700000000000 + want->n,
        .body_bytes = bytes,
        .chunk_count = (uint32_t)((bytes + piece_bytes - 1) / piece_bytes),
        .body_crc = body_crc_of(want->n),
        .recipient_count = want->recipients,
        .client = SLICE("192.0.2.7"),
        .helo = SLICE("printer.lan"),
        .device = slice_from_str(want->device),
        .subject = SLICE("a subject"),
        .sender = SLICE("sender@example.jp"),
        .recipients = buf_slice(&list),
    };
    record_envelope_put(&envelope, &record);
    assert_false(envelope.overflow);
    return buf_slice(&envelope);
}

/* The first pieces of body n, at most so many. Within a transaction. */
static inline void body_append(struct fixture *f, uint64_t n, size_t pieces_max)
{
    static uint8_t piece[BODY_CHUNK_BYTES_MAX];
    struct msg_id id = id_of(n);
    size_t piece_bytes = store_piece_bytes(f->store);
    uint64_t total = body_bytes_of(n);
    uint32_t index = 0;
    for (uint64_t at = 0; at < total && index < pieces_max; at += piece_bytes) {
        size_t len = (size_t)u64_min(piece_bytes, total - at);
        body_fill(n, at, piece, len);
        assert_int_equal(store_body_append(f->store, &id, index++, slice_of(piece, len)), ERR_OK);
    }
}

static inline void message_add(struct fixture *f, const struct want *want)
{
    struct msg_id id = id_of(want->n);
    body_append(f, want->n, SIZE_MAX);
    struct slice envelope = envelope_make(want, store_piece_bytes(f->store));
    assert_int_equal(store_message_add(f->store, &id, envelope, state_make(want)), ERR_OK);
}

static inline struct slice trail_make(uint64_t n)
{
    static uint8_t memory[RECORD_TRAIL_BYTES_MAX];
    uint8_t list_memory[RECORD_MOVE_BYTES_MAX];
    struct buf list;
    struct buf trail;
    buf_init(&list, list_memory, sizeof list_memory);
    buf_init(&trail, memory, sizeof memory);
    struct record_move move = {.when_ms = n,
                               .from = LIFECYCLE_QUEUED,
                               .to = LIFECYCLE_DEFERRED,
                               .count = 1,
                               .upstream = SLICE("main"),
                               .text = SLICE("451 4.3.0 later")};
    record_move_put(&list, &move);
    record_trail_put(&trail, NULL, buf_slice(&list), 1, SLICE("C: QUIT\nS: 221 bye\n"));
    assert_false(trail.overflow);
    return buf_slice(&trail);
}

static inline struct slice history_make(const struct want *want, size_t piece_bytes)
{
    static uint8_t memory[HISTORY_BYTES];
    struct buf history;
    buf_init(&history, memory, sizeof memory);
    struct record_history record = {.left_ms = want->n,
                                    .left_q = want->n,
                                    .end = RECORD_END_DELIVERED,
                                    .envelope = envelope_make(want, piece_bytes),
                                    .state = state_make(want),
                                    .trail = trail_make(want->n)};
    record_history_put(&history, &record);
    assert_false(history.overflow);
    return buf_slice(&history);
}

/* Within a transaction. */
static inline void message_leave(struct fixture *f, uint64_t n, bool into_history)
{
    struct msg_id id = id_of(n);
    struct want want = want_of(n);
    struct slice history =
        into_history ? history_make(&want, store_piece_bytes(f->store)) : slice_of(NULL, 0);
    assert_int_equal(store_message_remove(f->store, &id, history), ERR_OK);
}

static inline void begin(struct fixture *f)
{
    assert_int_equal(store_begin(f->store), ERR_OK);
}

static inline void commit(struct fixture *f)
{
    assert_int_equal(store_commit(f->store), ERR_OK);
}

/*
 * Messages 1..count, in batches. Then each third one leaves (into the history, each other one of
 * them), each fourth of the others gets a trail, and there is something of everything else.
 */
static inline void queue_fill(struct fixture *f, uint64_t count)
{
    for (uint64_t n = 1; n <= count;) {
        begin(f);
        for (uint64_t end = n + 20; n < end && n <= count; n++) {
            struct want want = want_of(n);
            message_add(f, &want);
        }
        commit(f);
    }
    begin(f);
    for (uint64_t n = 1; n <= count; n++) {
        struct msg_id id = id_of(n);
        if (n % 3 == 0) {
            message_leave(f, n, n % 2 == 0);
        } else if (n % 4 == 0) {
            assert_int_equal(store_trail_set(f->store, &id, trail_make(n)), ERR_OK);
        }
    }
    uint8_t memory[RECORD_UPSTREAM_BYTES_MAX];
    struct buf upstream;
    buf_init(&upstream, memory, sizeof memory);
    struct record_upstream record = {.outage_ms = 5, .bucket_count = 1};
    record_upstream_put(&upstream, &record);
    assert_int_equal(store_upstream_set(f->store, SLICE("main"), buf_slice(&upstream)), ERR_OK);
    assert_int_equal(store_note_set(f->store, SLICE("digest"), SLICE("12345678")), ERR_OK);
    struct store_clock clock = {.q_ms = 900, .wall_ms = 1700000000000, .boot_ms = 5, .boot_id = 6};
    store_clock_set(f->store, &clock);
    commit(f);
}

/*
 * ---- all that can be read ----
 */

struct walk {
    uint32_t crc;
    uint64_t messages, damaged, history;
    struct fixture *f;
};

static inline void walk_take(struct walk *w, struct slice bytes)
{
    w->crc = crc32c(w->crc, bytes);
}

static inline bool walk_row(void *ctx, const struct store_row *row)
{
    struct walk *w = ctx;
    w->messages++;
    w->damaged += row->envelope.len == 0;
    walk_take(w, slice_of(row->id.bytes, MSG_ID_BYTES));
    walk_take(w, row->envelope);
    walk_take(w, row->state);
    return true;
}

static inline bool walk_history(void *ctx, const struct msg_id *id, struct slice history)
{
    struct walk *w = ctx;
    w->history++;
    w->damaged += history.len == 0;
    walk_take(w, slice_of(id->bytes, MSG_ID_BYTES));
    walk_take(w, history);
    return true;
}

static inline bool walk_count(void *ctx, struct slice name,
                              const uint64_t messages_by_state[MESSAGE_STATE_COUNT])
{
    walk_take(ctx, name);
    walk_take(ctx, slice_of(messages_by_state, MESSAGE_STATE_COUNT * sizeof(uint64_t)));
    return true;
}

static inline void walk_body(struct walk *w, uint64_t n)
{
    static uint8_t memory[20000];
    struct msg_id id = id_of(n);
    uint64_t at = 0;
    struct buf to;
    buf_init(&to, memory, sizeof memory);
    while (store_read_body(w->f->reader, &id, at, &to) == ERR_OK && to.len > 0) {
        walk_take(w, buf_slice(&to));
        at += to.len;
        buf_reset(&to);
    }
    if (store_read_trail(w->f->reader, &id, &to) == ERR_OK) {
        walk_take(w, buf_slice(&to));
    }
}

static inline void walk_due(struct walk *w)
{
    uint32_t routes[8];
    static struct store_due rows[2000];
    enum err err = ERR_OK;
    size_t route_count = store_due_routes(w->f->store, routes, 8, &err);
    assert_int_equal(err, ERR_OK);
    for (size_t route = 0; route < route_count; route++) {
        size_t count = store_due_after(w->f->store, routes[route], NULL, rows, 2000, &err);
        assert_int_equal(err, ERR_OK);
        for (size_t index = 0; index < count; index++) {
            walk_take(w, slice_of(rows[index].id.bytes, MSG_ID_BYTES));
            walk_take(w, slice_of(&rows[index].due_q, sizeof rows[index].due_q));
        }
    }
}

/* A checksum of everything that the store gives out, of messages 1..count their bodies. */
static inline struct walk walk_all(struct fixture *f, uint64_t count)
{
    struct walk w = {.f = f};
    struct msg_id first = {{0}};
    struct msg_id last;
    struct msg_id next;
    memset(&last, 0xff, sizeof last);
    assert_int_equal(store_read_rows(f->reader, &first, SIZE_MAX, walk_row, &w, &next),
                     ERR_NOT_FOUND);
    assert_int_equal(store_read_history_rows(f->reader, &last, SIZE_MAX, walk_history, &w, &next),
                     ERR_NOT_FOUND);
    for (int kind = STORE_COUNT_UPSTREAM; kind <= STORE_COUNT_REASON; kind++) {
        assert_int_equal(store_read_counts(f->reader, (enum store_count_kind)kind, SLICE(""), 1000,
                                           walk_count, &w),
                         ERR_NOT_FOUND);
    }
    for (uint64_t n = 1; n <= count; n++) {
        walk_body(&w, n);
    }
    walk_due(&w);
    return w;
}

static inline void assert_same_walk(const struct walk *a, const struct walk *b)
{
    assert_int_equal(a->damaged, 0);
    assert_int_equal(b->damaged, 0);
    assert_int_equal(a->messages, b->messages);
    assert_int_equal(a->history, b->history);
    assert_int_equal(a->crc, b->crc);
}

/*
 * ---- files ----
 */

static inline void file_path(const struct fixture *f, const char *name, char to[160])
{
    snprintf(to, 160, "%s/%s", f->directory, name);
}

static inline bool file_exists(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0;
}

static inline uint64_t file_bytes(const char *path)
{
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    return (uint64_t)st.st_size;
}

static inline void file_copy(const char *from, const char *to)
{
    static uint8_t bytes[65536];
    int in = open(from, O_RDONLY | O_CLOEXEC);
    int out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    ssize_t got;
    assert_true(in >= 0 && out >= 0);
    while ((got = read(in, bytes, sizeof bytes)) > 0) {
        assert_int_equal(write(out, bytes, (size_t)got), got);
    }
    assert_int_equal(got, 0);
    close(in);
    close(out);
}

/*
 * ---- a child that reads while this process writes ----
 *
 * The child waits for the writer at its start, and again whenever it says how far it is: the two
 * are at work at the same time on the slowest machine, too.
 */

#define BESIDE_WAIT_MS 30000

struct beside {
    void *page;                /* shared by both */
    _Atomic uint64_t *commits; /* in it */
    uint64_t seen;             /* the child's */
};

static inline void beside_init(struct beside *b)
{
    void *page =
        mmap(NULL, sizeof *b->commits, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(page != MAP_FAILED);
    *b = (struct beside){.page = page, .commits = page};
}

/* A store_progress_fn: false, when the writer has done nothing for very long. */
static inline bool beside_progress(void *ctx, uint64_t done, uint64_t total)
{
    struct beside *b = ctx;
    (void)done;
    (void)total;
    for (int ms = 0; atomic_load(b->commits) == b->seen; ms++) {
        if (ms == BESIDE_WAIT_MS) {
            return false;
        }
        usleep(1000);
    }
    b->seen = atomic_load(b->commits);
    return true;
}

/* Mail n, n + 1, ... comes and leaves until the child has ended well; how many did. */
static inline uint64_t beside_write(struct fixture *f, struct beside *b, pid_t child, uint64_t n)
{
    uint64_t count = 0;
    int status = 0;
    while (waitpid(child, &status, WNOHANG) == 0) {
        struct want want = want_of(n);
        begin(f);
        message_add(f, &want);
        commit(f);
        begin(f);
        message_leave(f, n, n % 2 == 0);
        commit(f);
        atomic_fetch_add(b->commits, 1);
        n++;
        count++;
        rest_where_few(2); /* no faster than the child looks for it */
    }
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    munmap(b->page, sizeof *b->commits);
    return count;
}

/*
 * ---- the check ----
 */

struct findings {
    char text[16384]; /* lines, as many as fit */
    uint64_t count;
};

static inline void finding_take(void *ctx, const char *finding)
{
    struct findings *found = ctx;
    size_t len = strlen(found->text);
    found->count++;
    snprintf(found->text + len, sizeof found->text - len, "%s\n", finding);
}

static inline void assert_sound(struct fixture *f, const char *directory)
{
    static struct findings found;
    struct store_check check;
    found = (struct findings){{0}, 0};
    enum err err = store_check(directory, finding_take, &found, NULL, NULL, &check, &f->report);
    if (err != ERR_OK) {
        print_error("%s\n%s", f->report.problem, found.text);
    }
    assert_int_equal(err, ERR_OK);
    assert_int_equal(found.count, 0);
}

#endif
