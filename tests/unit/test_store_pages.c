/*
 * The verifier of LMDB's pages, on real queues: sound ones pass, each field that is set wrong is
 * named, and whatever chance does to a file, it is either refused or harmless.
 *
 * libc's pread and fdatasync are taken over at the end of this file, so that a disk can fail, a
 * writer can come in between, and thousands of commits do not wait for a disk.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "daemon/base/crc32c.h"
#include "daemon/base/num.h"
#include "daemon/store/store_internal.h"
#include "daemon/store/store_pages.h"
#include "tests/unit/turns.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB           ((uint64_t)1 << 20)
#define PAGE          4096u
#define RECORD_BYTES  (64u << 10)
#define NUMBERS_MAX   8192u
#define MIXED         turns(160, 24)  /* messages of queue_mixed */
#define LARGE         turns(6000, 60) /* and of queue_large */
#define LARGE_BODY    turns(MIB, 260000)
#define CHANCES       turns(2000, 5)
#define CHANCES_BATCH 100u
#define CHILD_SECONDS 30u

struct fixture {
    char root[64];
    char directory[96];
    char path[128]; /* of data.mdb */
    struct store_config config;
    struct store_report report;
    struct store *store;
    struct store_reader *reader;
    uint64_t body_bytes[NUMBERS_MAX]; /* of each message, 0: not there */
    struct store_pages_report pages;
    uint8_t *image; /* the closed file, as it should be */
    size_t image_bytes;
    size_t used_bytes;
    int fd; /* of the file, read and write; -1 */
};

/* ---- the disk; see the end ---- */

static _Atomic uint64_t disk_fails_at = UINT64_MAX; /* a read that touches this byte fails */
static uint64_t transactions_pretended;             /* so far */
static unsigned commits_pretended;                  /* that many checks see a commit in between */

/* ---- making and ending ---- */

static uint64_t rng_state;

static uint64_t rng(void)
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return rng_state;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    if (f == NULL) {
        return -1;
    }
    bool shm = access("/dev/shm", W_OK) == 0; /* in memory: LMDB's O_DSYNC costs nothing there */
    snprintf(f->root, sizeof f->root, "%s/test_store_pages.XXXXXX", shm ? "/dev/shm" : "/tmp");
    if (mkdtemp(f->root) == NULL) {
        return -1;
    }
    snprintf(f->directory, sizeof f->directory, "%s/queue", f->root);
    snprintf(f->path, sizeof f->path, "%s/data.mdb", f->directory);
    f->config = (struct store_config){
        .directory = f->directory, .queue_bytes_max = 256 * MIB, .readers_max = 8};
    f->fd = -1;
    rng_state = 88172645463325252u;
    disk_fails_at = UINT64_MAX;
    commits_pretended = 0;
    transactions_pretended = 0;
    *state = f;
    return 0;
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    (void)st;
    (void)kind;
    (void)ftw;
    return remove(path);
}

static void queue_close(struct fixture *f)
{
    store_reader_free(&f->reader);
    store_close(&f->store);
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    queue_close(f);
    if (f->fd >= 0) {
        close(f->fd);
    }
    free(f->image);
    nftw(f->root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(f);
    return 0;
}

static enum err queue_try(struct fixture *f)
{
    enum err err = store_open(&f->store, &f->config, &f->report);
    return err == ERR_OK ? store_reader_new(&f->reader, f->store) : err;
}

static void queue_open(struct fixture *f)
{
    enum err err = queue_try(f);
    if (err != ERR_OK) {
        print_error("%s\n", f->report.problem);
    }
    assert_int_equal(err, ERR_OK);
}

/* ---- messages ---- */

static uint8_t record_memory[3][RECORD_BYTES];

static struct msg_id id_of(uint64_t number)
{
    return msg_id_make(number, 7);
}

static struct slice state_make(uint64_t due, uint64_t recipients, size_t text_bytes)
{
    static uint8_t text[RECORD_REPLY_TEXT_BYTES_MAX];
    memset(text, 'x', sizeof text);
    struct buf list;
    struct buf state;
    buf_init(&list, record_memory[0], RECORD_BYTES);
    buf_init(&state, record_memory[1], RECORD_BYTES);
    for (uint32_t index = 0; index < recipients; index++) {
        record_fate_put(&list, &(struct record_recipient){.state = RECIPIENT_QUEUED,
                                                          .outcome = OUTCOME_NONE,
                                                          .text = slice_of(text, text_bytes)});
    }
    record_state_put(&state, &(struct record_state){.state = MESSAGE_QUEUED,
                                                    .route = record_route(SLICE("main")),
                                                    .due_q = due,
                                                    .upstream = SLICE("main"),
                                                    .recipient_count = (uint32_t)recipients,
                                                    .recipients = buf_slice(&list)});
    assert_false(list.overflow || state.overflow);
    return buf_slice(&state);
}

static struct slice envelope_make(uint64_t bytes, uint32_t pieces, uint64_t recipients)
{
    struct buf list;
    struct buf envelope;
    buf_init(&list, record_memory[0], RECORD_BYTES);
    buf_init(&envelope, record_memory[2], RECORD_BYTES);
    for (uint32_t index = 0; index < recipients; index++) {
        record_recipient_put(&list, SLICE("c@example.jp"));
    }
    record_envelope_put(&envelope,
                        &(struct record_envelope){.arrived_ms = 1,
                                                  .body_bytes = bytes,
                                                  .chunk_count = pieces,
                                                  .recipient_count = (uint32_t)recipients,
                                                  .client = SLICE("192.0.2.1"),
                                                  .sender = SLICE("a@example.jp"),
                                                  .recipients = buf_slice(&list)});
    assert_false(list.overflow || envelope.overflow);
    return buf_slice(&envelope);
}

/* In the open transaction; errors are the caller's, since a file that was damaged may give any. */
static enum err message_try(struct store *store, uint64_t number, uint64_t bytes,
                            uint64_t recipients)
{
    static uint8_t piece[BODY_CHUNK_BYTES_MAX];
    struct msg_id id = id_of(number);
    uint32_t pieces = 0;
    enum err err = ERR_OK;
    for (uint64_t done = 0; done < bytes && err == ERR_OK; pieces++) {
        size_t len = (size_t)u64_min(store_piece_bytes(store), bytes - done);
        memset(piece, (int)(number + pieces), len);
        err = store_body_append(store, &id, pieces, slice_of(piece, len));
        done += len;
    }
    struct slice state = state_make(number * 10, recipients, 0);
    return err == ERR_OK
               ? store_message_add(store, &id, envelope_make(bytes, pieces, recipients), state)
               : err;
}

static enum err drop_try(struct store *store, uint64_t number)
{
    struct msg_id id = id_of(number);
    return store_message_remove(store, &id, slice_of(NULL, 0));
}

/* ---- reading everything ---- */

struct walk {
    uint32_t crc; /* of all that was read */
    uint64_t messages;
    uint64_t faults; /* said in words, by the store */
    struct msg_id ids[NUMBERS_MAX];
};

static bool row_take(void *ctx, const struct store_row *row)
{
    struct walk *w = ctx;
    w->faults += row->envelope.len == 0 || row->state.len == 0;
    w->crc = crc32c(w->crc, slice_of(row->id.bytes, MSG_ID_BYTES));
    w->crc = crc32c(w->crc, row->envelope);
    w->crc = crc32c(w->crc, row->state);
    w->ids[w->messages++] = row->id;
    return w->messages < NUMBERS_MAX;
}

static void bodies_walk(struct store_reader *reader, struct walk *w)
{
    static uint8_t memory[128u << 10];
    for (uint64_t index = 0; index < w->messages; index++) {
        uint64_t offset = 0;
        struct buf to;
        enum err err;
        do {
            buf_init(&to, memory, sizeof memory);
            err = store_read_body(reader, &w->ids[index], offset, &to);
            offset += to.len;
            w->crc = crc32c(w->crc, buf_slice(&to));
        } while (err == ERR_OK && to.len > 0);
        w->faults += err != ERR_OK;
    }
}

/* Each message that is due is looked for, as the queue thread does. */
static void due_read(struct store_reader *reader, const struct msg_id *id, struct walk *w)
{
    static uint8_t memory[2 * RECORD_BYTES];
    struct buf to;
    struct slice envelope;
    struct slice message;
    size_t needed;
    buf_init(&to, memory, sizeof memory);
    w->crc = crc32c(w->crc, slice_of(id->bytes, MSG_ID_BYTES));
    w->faults += store_read_message(reader, id, &to, &envelope, &message, &needed) != ERR_OK;
}

static void due_walk(struct store *store, struct store_reader *reader, struct walk *w)
{
    uint32_t routes[4];
    struct store_due due[16];
    enum err err;
    size_t count = store_due_routes(store, routes, 4, &err);
    w->faults += err != ERR_OK;
    for (size_t index = 0; index < count; index++) {
        struct store_due after = {0};
        size_t got;
        do {
            got = store_due_after(store, routes[index], &after, due, 16, &err);
            for (size_t at = 0; at < got; at++) {
                due_read(reader, &due[at].id, w);
            }
            after = due[got == 0 ? 0 : got - 1];
        } while (got > 0);
        w->faults += err != ERR_OK;
    }
}

static void store_walk(struct store *store, struct store_reader *reader, struct walk *w)
{
    struct msg_id next = id_of(0);
    enum err err;
    do {
        err = store_read_rows(reader, &next, 100, row_take, w, &next);
    } while (err == ERR_OK && w->messages < NUMBERS_MAX);
    w->faults += err != ERR_NOT_FOUND;
    bodies_walk(reader, w);
    due_walk(store, reader, w);
}

/* ---- queues of several kinds ---- */

static void begin(struct fixture *f)
{
    assert_int_equal(store_begin(f->store), ERR_OK);
}

static void commit(struct fixture *f)
{
    assert_int_equal(store_commit(f->store), ERR_OK);
}

static void message_put(struct fixture *f, uint64_t number, uint64_t bytes, uint64_t recipients)
{
    assert_int_equal(message_try(f->store, number, bytes, recipients), ERR_OK);
    f->body_bytes[number] = bytes + 1;
}

static void message_drop(struct fixture *f, uint64_t number)
{
    assert_int_equal(drop_try(f->store, number), ERR_OK);
    f->body_bytes[number] = 0;
}

/* A bit of everything: no body and large ones, states that need overflow pages, and holes. */
static void queue_mixed(struct fixture *f)
{
    static const uint64_t bodies[] = {0, 100, 1500, 3000, 16360, 16361, 1900, 40000};
    queue_open(f);
    for (uint64_t number = 1; number <= MIXED; number++) {
        begin(f);
        message_put(f, number, bodies[number % 8], number % 20 == 0 ? 200 : 1 + number % 3);
        commit(f);
    }
    for (uint64_t number = 1; number <= MIXED; number += 3) {
        begin(f);
        message_drop(f, number);
        commit(f);
    }
    for (uint64_t number = 2; number <= MIXED; number += 6) {
        struct msg_id id = id_of(number);
        begin(f);
        assert_int_equal(store_message_update(f->store, &id, state_make(5, 1 + number % 3, 400)),
                         ERR_OK);
        commit(f);
    }
    queue_close(f);
}

/* Trees of three levels, more pages than QUICK reads, and lists of free pages that need overflow
 * pages. */
static void queue_large(struct fixture *f, uint64_t messages, uint64_t body_bytes)
{
    size_t batch = turns(50, 12);
    size_t large = turns(500, 4); /* each so-many-th is */
    size_t gone = turns(1000, 12);
    f->config.chunk_bytes = body_bytes < MIB ? 4072 : 0; /* as many pages in fewer bytes */
    queue_open(f);
    for (uint64_t number = 1; number <= messages; number += batch) {
        begin(f);
        for (uint64_t at = number; at < number + batch; at++) {
            message_put(f, at, at % large == 0 ? body_bytes : 200 + at % 3000,
                        turns(1 + at % 16, 40));
        }
        commit(f);
    }
    for (uint64_t number = 7; number <= messages / 2; number += 7) {
        begin(f);
        message_drop(f, number % large == 0 ? number + 1 : number);
        commit(f);
    }
    begin(f);
    for (uint64_t number = gone; number <= messages; number += gone) {
        message_drop(f, number);
    }
    commit(f);
    queue_close(f);
}

/* ---- the file ---- */

static uint64_t u64_get(const uint8_t *from)
{
    uint64_t value;
    memcpy(&value, from, sizeof value);
    return value;
}

static uint32_t u32_get(const uint8_t *from)
{
    uint32_t value;
    memcpy(&value, from, sizeof value);
    return value;
}

static uint16_t u16_get(const uint8_t *from)
{
    uint16_t value;
    memcpy(&value, from, sizeof value);
    return value;
}

static size_t newest_meta(const struct fixture *f)
{
    return u64_get(f->image + PAGE + 144) > u64_get(f->image + 144) ? PAGE : 0;
}

static void image_take(struct fixture *f)
{
    f->fd = open(f->path, O_RDWR | O_CLOEXEC);
    struct stat st;
    assert_true(f->fd >= 0 && fstat(f->fd, &st) == 0);
    f->image_bytes = (size_t)st.st_size;
    f->image = malloc(f->image_bytes);
    assert_non_null(f->image);
    size_t len = size_min(f->image_bytes, turns(SIZE_MAX, 8 * MIB));
    assert_int_equal(pread(f->fd, f->image, len, 0), len);
    f->used_bytes = (size_t)(u64_get(f->image + newest_meta(f) + 136) + 1) * PAGE;
    assert_true(f->used_bytes <= len);
}

static void image_write(const struct fixture *f, size_t at, const void *bytes, size_t len)
{
    assert_true(at + len <= f->image_bytes);
    assert_int_equal(pwrite(f->fd, bytes, len, (off_t)at), len);
}

static void image_restore(const struct fixture *f)
{
    assert_int_equal(ftruncate(f->fd, (off_t)f->image_bytes), 0);
    image_write(f, 0, f->image, f->used_bytes);
}

static enum err check(struct fixture *f, enum store_pages_level level)
{
    return store_pages_check_queue(f->directory, level, NULL, NULL, &f->pages);
}

static void check_sound(struct fixture *f)
{
    enum err err = check(f, STORE_PAGES_FULL);
    if (err != ERR_OK) {
        print_error("%s\n", f->pages.problem);
    }
    assert_int_equal(err, ERR_OK);
    assert_string_equal(f->pages.problem, "");
    assert_string_equal(f->pages.note, "");
    assert_true(f->pages.whole);
    assert_int_equal(f->pages.page_bytes, PAGE);
    assert_int_equal(f->pages.databases, STORE_DB_COUNT);
    assert_int_equal(f->pages.pages_lost, 0);
    assert_int_equal(f->pages.pages_used + f->pages.pages_free, f->pages.pages);
}

/* ---- sound queues ---- */

static void test_new_queue_is_sound(void **state)
{
    struct fixture *f = *state;
    queue_open(f);
    queue_close(f);
    check_sound(f);
    assert_int_equal(check(f, STORE_PAGES_QUICK), ERR_OK);
    assert_true(f->pages.whole);
}

static void test_mixed_queue_is_sound(void **state)
{
    struct fixture *f = *state;
    queue_mixed(f);
    check_sound(f);
    assert_true(f->pages.pages_free > 10 && f->pages.pages_used > turns(200, 30));
}

static void test_large_queue_is_sound(void **state)
{
    struct fixture *f = *state;
    queue_large(f, LARGE, LARGE_BODY);
    check_sound(f);
    assert_true(f->pages.pages_free > turns(512, 64) &&
                f->pages.pages_used > turns(2, 1) * STORE_PAGES_QUICK_MAX);
    struct store_pages_report full = f->pages;
    assert_int_equal(check(f, STORE_PAGES_QUICK), ERR_OK);
    assert_false(f->pages.whole);
    assert_int_equal(f->pages.databases, full.databases);
    assert_int_equal(f->pages.entries, full.entries);
    assert_true(f->pages.pages_used > STORE_PAGES_QUICK_MAX / 2);
    assert_true(f->pages.pages_read < 3 * STORE_PAGES_QUICK_MAX);
}

/* Every commit of a long random life leaves a sound file. */
static void test_every_commit_is_sound(void **state)
{
    struct fixture *f = *state;
    size_t numbers = turns(300, 16);
    size_t again = turns(100, 5);
    queue_open(f);
    for (size_t turn = 0; turn < turns(600, 10); turn++) {
        begin(f);
        for (size_t step = rng() % 12; step > 0; step--) {
            uint64_t number = 1 + rng() % numbers;
            struct msg_id id = id_of(number);
            if (f->body_bytes[number] == 0) {
                message_put(f, number, rng() % (rng() % 8 == 0 ? 300000 : 5000), 4);
            } else if (rng() % 2 == 0) { /* in one transaction from long to short and back, too */
                struct slice update = state_make(rng() % 1000, 4, rng() % 512);
                assert_int_equal(store_message_update(f->store, &id, update), ERR_OK);
            } else {
                message_drop(f, number);
            }
        }
        commit(f);
        check_sound(f);
        if (turn % again == again - 1) {
            queue_close(f);
            queue_open(f);
            check_sound(f);
        }
    }
    begin(f);
    for (uint64_t number = 1; number <= numbers; number++) {
        if (f->body_bytes[number] != 0) {
            message_drop(f, number);
        }
    }
    commit(f);
    check_sound(f);
    assert_int_equal(f->pages.entries, 2); /* format and summary */
}

/* What LMDB itself copies, whole and compacted, is sound as well. */
static void test_copies_are_sound(void **state)
{
    struct fixture *f = *state;
    queue_mixed(f);
    for (unsigned flags = 0; flags <= MDB_CP_COMPACT; flags += MDB_CP_COMPACT) {
        MDB_env *env;
        char path[128];
        snprintf(path, sizeof path, "%s/copy.%u", f->root, flags);
        assert_int_equal(mdb_env_create(&env), 0);
        assert_int_equal(mdb_env_set_maxdbs(env, 32), 0);
        assert_int_equal(mdb_env_open(env, f->directory, MDB_RDONLY, 0600), 0);
        assert_int_equal(mkdir(path, 0700), 0);
        assert_int_equal(mdb_env_copy2(env, path, flags), 0);
        mdb_env_close(env);
        assert_int_equal(store_pages_check_queue(path, STORE_PAGES_FULL, NULL, NULL, &f->pages),
                         ERR_OK);
        assert_true(f->pages.whole);
        assert_int_equal(f->pages.pages_lost, 0);
        assert_int_equal(f->pages.pages_free == 0, flags == MDB_CP_COMPACT);
    }
}

/* ---- each field, set wrong ---- */

/* Where things are in a file, as offsets of bytes. */
struct spots {
    uint8_t *bytes; /* a copy of the image, to be spoilt */
    size_t meta;    /* the newest */
    size_t older;
    uint64_t pages;
    size_t main;      /* leaf: the databases */
    size_t record;    /* of the database "envelope" */
    size_t other;     /* of the database "state" */
    size_t branch;    /* root of "envelope" */
    size_t parent;    /* its lowest branch page on the right */
    size_t leaf;      /* a leaf page below that one */
    size_t runs;      /* leaf of "chunk" whose first entry leads to an overflow run */
    size_t run;       /* that run */
    size_t second;    /* the run of another entry */
    size_t lists;     /* leaf of the list of free pages that leads to an overflow run */
    size_t list_node; /* the entry there */
    size_t list;      /* that run */
    size_t inlined;   /* an entry of the list of free pages whose value lies beside it */
};

static uint64_t number_of(size_t at)
{
    return at / PAGE;
}

static size_t node_of(const uint8_t *bytes, size_t page, unsigned index)
{
    return page + u16_get(bytes + page + 16 + 2 * (size_t)index);
}

static unsigned count_of(const uint8_t *bytes, size_t page)
{
    return (u16_get(bytes + page + 12) - 16u) / 2u;
}

static size_t value_of(const uint8_t *bytes, size_t node)
{
    return node + 8 + u16_get(bytes + node + 6);
}

static size_t child_of(const uint8_t *bytes, size_t page, unsigned index)
{
    size_t node = node_of(bytes, page, index);
    return (u32_get(bytes + node) | (uint64_t)u16_get(bytes + node + 4) << 32) * PAGE;
}

static size_t record_of(const struct spots *s, const char *name)
{
    for (unsigned index = 0; index < count_of(s->bytes, s->main); index++) {
        size_t node = node_of(s->bytes, s->main, index);
        if (slice_equal(slice_of(s->bytes + node + 8, u16_get(s->bytes + node + 6)),
                        slice_from_str(name))) {
            return value_of(s->bytes, node);
        }
    }
    fail_msg("no database %s", name);
    return 0;
}

/* The leaf that the index-th children lead to, from a root on. */
static size_t leaf_of(const uint8_t *bytes, size_t page, unsigned index)
{
    while (u16_get(bytes + page + 10) == 1) {
        page = child_of(bytes, page, index);
    }
    return page;
}

static size_t root_of(const struct spots *s, size_t record)
{
    return u64_get(s->bytes + record + 40) * PAGE;
}

static size_t run_of(const uint8_t *bytes, size_t leaf, unsigned *index)
{
    for (; *index < count_of(bytes, leaf); ++*index) {
        size_t node = node_of(bytes, leaf, *index);
        if ((u16_get(bytes + node + 4) & 1) != 0) {
            return u64_get(bytes + value_of(bytes, node)) * PAGE;
        }
    }
    return 0;
}

static void lists_find(struct spots *s, size_t root)
{
    unsigned leaves = u16_get(s->bytes + root + 10) == 1 ? count_of(s->bytes, root) : 1;
    for (unsigned leaf = 0; leaf < leaves; leaf++) {
        size_t page = leaves == 1 ? root : child_of(s->bytes, root, leaf);
        for (unsigned index = 0; index < count_of(s->bytes, page); index++) {
            size_t node = node_of(s->bytes, page, index);
            unsigned at = index;
            if ((u16_get(s->bytes + node + 4) & 1) == 0) {
                s->inlined = u64_get(s->bytes + value_of(s->bytes, node)) > 2 ? node : s->inlined;
            } else {
                s->lists = page;
                s->list_node = node;
                s->list = run_of(s->bytes, page, &at);
            }
        }
    }
}

static void spots_find(const struct fixture *f, struct spots *s)
{
    *s = (struct spots){.bytes = s->bytes};
    memcpy(s->bytes, f->image, turns(f->image_bytes, f->used_bytes));
    s->meta = newest_meta(f);
    s->older = PAGE - s->meta;
    s->pages = u64_get(s->bytes + s->meta + 136) + 1;
    s->main = u64_get(s->bytes + s->meta + 128) * PAGE;
    s->record = record_of(s, "envelope");
    s->other = record_of(s, "state");
    s->branch = root_of(s, s->record);
    s->parent = s->branch;
    while (u16_get(s->bytes + child_of(s->bytes, s->parent, 1) + 10) == 1) {
        s->parent = child_of(s->bytes, s->parent, 1);
    }
    s->leaf = child_of(s->bytes, s->parent, 1);
    assert_true(turns(s->parent != s->branch, true)); /* few: two levels will do */
    assert_true(count_of(s->bytes, s->parent) > 2);
    s->runs = leaf_of(s->bytes, root_of(s, record_of(s, "chunk")), 0);
    unsigned index = 0;
    for (unsigned at = 0; s->run == 0; at++) { /* a leaf with two runs */
        size_t root = root_of(s, record_of(s, "chunk"));
        s->runs = leaf_of(s->bytes, child_of(s->bytes, root, at % count_of(s->bytes, root)), at);
        index = 0;
        s->run = run_of(s->bytes, s->runs, &index);
    }
    index++;
    s->second = run_of(s->bytes, s->runs, &index);
    lists_find(s, u64_get(s->bytes + s->meta + 80) * PAGE);
    assert_true(u16_get(s->bytes + s->branch + 10) == 1 && u16_get(s->bytes + s->leaf + 10) == 2);
    assert_true(s->run != 0 && s->second != 0);
}

static void put16(struct spots *s, size_t at, uint64_t value)
{
    uint16_t narrow = (uint16_t)value;
    memcpy(s->bytes + at, &narrow, sizeof narrow);
}

static void put32(struct spots *s, size_t at, uint64_t value)
{
    uint32_t narrow = (uint32_t)value;
    memcpy(s->bytes + at, &narrow, sizeof narrow);
}

static void put64(struct spots *s, size_t at, uint64_t value)
{
    memcpy(s->bytes + at, &value, sizeof value);
}

static void swap16(struct spots *s, size_t a, size_t b)
{
    uint16_t first = u16_get(s->bytes + a);
    put16(s, a, u16_get(s->bytes + b));
    put16(s, b, first);
}

/* One way to spoil a file, and words of the sentence that must say so. */
struct spoil {
    const char *words;
    void (*fn)(struct spots *s);
    bool order_only;
};

#define SPOIL(name, action)                                                                        \
    static void name(struct spots *s)                                                              \
    {                                                                                              \
        action;                                                                                    \
    }

SPOIL(meta_number, put64(s, s->meta, 7))
SPOIL(meta_flags, put16(s, s->meta + 10, 2))
SPOIL(meta_magic, s->bytes[s->meta + 17] ^= 1)
SPOIL(meta_version, put32(s, s->older + 20, 999))
SPOIL(meta_page_bytes_zero, put32(s, 40, 0))
SPOIL(meta_page_bytes_odd, put32(s, 40, 4097))
SPOIL(meta_page_bytes_large, put32(s, 40, 65536))
SPOIL(meta_page_bytes_differ, put32(s, PAGE + 40, 8192))
SPOIL(meta_transaction_parity, s->bytes[s->meta + 144] ^= 1)
SPOIL(meta_transaction_newest, s->bytes[s->meta + 145] ^= 4)
SPOIL(meta_transaction_older, s->bytes[s->older + 147] ^= 4)
SPOIL(meta_older_as_newest, put64(s, s->older + 144, u64_get(s->bytes + s->meta + 144) + 1))
SPOIL(meta_last_page_far, put64(s, s->meta + 136, (uint64_t)1 << 40))
SPOIL(meta_last_page_none, put64(s, s->meta + 136, 0))
SPOIL(meta_last_page_few, put64(s, s->meta + 136, s->pages / 2))
SPOIL(meta_last_page_one_less, put64(s, s->meta + 136, s->pages - 2))
SPOIL(meta_map_short, put64(s, s->meta + 32, 4 * PAGE))
SPOIL(meta_map_long, put64(s, s->meta + 32, (uint64_t)1 << 60))
SPOIL(free_flags_none, put16(s, s->meta + 44, 0))
SPOIL(free_flags_dupsort, put16(s, s->meta + 44, u16_get(s->bytes + s->meta + 44) | 4u))
SPOIL(free_root, put64(s, s->meta + 80, 1))
SPOIL(main_flags, put16(s, s->meta + 92, 4))
SPOIL(main_root_none, put64(s, s->meta + 128, UINT64_MAX))
SPOIL(main_root_far, put64(s, s->meta + 128, s->pages))
SPOIL(main_root_other, put64(s, s->meta + 128, u64_get(s->bytes + s->record + 40)))
SPOIL(main_depth, put16(s, s->meta + 94, 0))
SPOIL(main_entries, s->bytes[s->meta + 120] ^= 2)
SPOIL(record_flags, put16(s, s->record + 4, 4))
SPOIL(record_pad, put32(s, s->record, 16))
SPOIL(record_depth_none, put16(s, s->record + 6, 0))
SPOIL(record_depth_less, put16(s, s->record + 6, 1))
SPOIL(record_depth_more, put16(s, s->record + 6, u16_get(s->bytes + s->record + 6) + 1u))
SPOIL(record_depth_far, put16(s, s->record + 6, 33))
SPOIL(record_branches, put64(s, s->record + 8, u64_get(s->bytes + s->record + 8) + 1))
SPOIL(record_leaves, put64(s, s->record + 16, u64_get(s->bytes + s->record + 16) - 1))
SPOIL(record_leaves_none, put64(s, s->record + 16, 0))
SPOIL(record_overflow, put64(s, s->record + 24, u64_get(s->bytes + s->record + 24) + 1))
SPOIL(record_overflow_far, put64(s, s->record + 24, UINT64_MAX))
SPOIL(record_entries, put64(s, s->record + 32, u64_get(s->bytes + s->record + 32) + 1))
SPOIL(record_root_meta, put64(s, s->record + 40, 0))
SPOIL(record_root_far, put64(s, s->record + 40, s->pages))
SPOIL(record_root_twice, memcpy(s->bytes + s->record, s->bytes + s->other, 48))
SPOIL(record_is_a_value, put16(s, s->record - 4 - 8, 0))
SPOIL(record_is_short, put32(s, s->record - 8 - 8, 46))
SPOIL(page_number, put64(s, s->leaf, number_of(s->leaf) ^ 1))
SPOIL(page_flags_none, put16(s, s->leaf + 10, 0))
SPOIL(page_flags_branch, put16(s, s->leaf + 10, 1))
SPOIL(page_flags_leaf, put16(s, s->branch + 10, 2))
SPOIL(page_flags_dirty, put16(s, s->leaf + 10, 0x12))
SPOIL(page_flags_leaf2, put16(s, s->leaf + 10, 0x22))
SPOIL(page_flags_sub, put16(s, s->leaf + 10, 0x42))
SPOIL(page_flags_overflow, put16(s, s->branch + 10, 4))
SPOIL(page_lower_small, put16(s, s->leaf + 12, 8))
SPOIL(page_lower_odd, s->bytes[s->leaf + 12] ^= 1)
SPOIL(page_lower_large, put16(s, s->leaf + 12, 4000))
SPOIL(page_lower_more, put16(s, s->leaf + 12, u16_get(s->bytes + s->leaf + 12) + 2u))
SPOIL(page_lower_less, put16(s, s->leaf + 12, u16_get(s->bytes + s->leaf + 12) - 2u))
SPOIL(page_upper_small, put16(s, s->leaf + 14, 20))
SPOIL(page_upper_odd, s->bytes[s->leaf + 14] ^= 1)
SPOIL(page_upper_large, put16(s, s->leaf + 14, PAGE + 2))
SPOIL(page_upper_less, put16(s, s->leaf + 14, u16_get(s->bytes + s->leaf + 14) - 2u))
SPOIL(page_upper_more, put16(s, s->leaf + 14, u16_get(s->bytes + s->leaf + 14) + 2u))
SPOIL(page_empty, put16(s, s->leaf + 12, 16))
SPOIL(branch_of_one, put16(s, s->branch + 12, 18))
SPOIL(page_zeroed, memset(s->bytes + s->leaf, 0, PAGE))
SPOIL(page_ones, memset(s->bytes + s->leaf, 0xff, PAGE))
SPOIL(node_in_header, put16(s, s->leaf + 16, 0))
SPOIL(node_odd, s->bytes[s->leaf + 16] ^= 1)
SPOIL(node_at_end, put16(s, s->leaf + 16, PAGE - 4))
SPOIL(node_far, put16(s, s->leaf + 16, 0xfff0))
SPOIL(node_twice, put16(s, s->leaf + 16, u16_get(s->bytes + s->leaf + 18)))
SPOIL(node_key_none, put16(s, node_of(s->bytes, s->leaf, 1) + 6, 0))
SPOIL(node_key_long, put16(s, node_of(s->bytes, s->leaf, 1) + 6, 512))
SPOIL(node_key_more, put16(s, node_of(s->bytes, s->leaf, 1) + 6, 12))
SPOIL(node_value_long, put32(s, node_of(s->bytes, s->leaf, 1), 100000))
SPOIL(node_value_whole, put32(s, node_of(s->bytes, s->leaf, 1), 3000))
SPOIL(node_value_more, put32(s, node_of(s->bytes, s->leaf, 1),
                             u32_get(s->bytes + node_of(s->bytes, s->leaf, 1)) + 4))
SPOIL(node_flags_dup, put16(s, node_of(s->bytes, s->leaf, 1) + 4, 4))
SPOIL(node_flags_database, put16(s, node_of(s->bytes, s->leaf, 1) + 4, 2))
SPOIL(node_flags_overflow, put16(s, node_of(s->bytes, s->leaf, 1) + 4, 1))
SPOIL(branch_key_long, put16(s, node_of(s->bytes, s->branch, 1) + 6, 600))
SPOIL(branch_key_none, put16(s, node_of(s->bytes, s->branch, 1) + 6, 0))
SPOIL(child_is_meta, put16(s, node_of(s->bytes, s->branch, 1), 1))
SPOIL(child_is_far, put16(s, node_of(s->bytes, s->branch, 1) + 4, 1))
SPOIL(child_is_itself, put32(s, node_of(s->bytes, s->branch, 1), number_of(s->branch)))
SPOIL(child_is_sibling,
      put32(s, node_of(s->bytes, s->branch, 1), child_of(s->bytes, s->branch, 0) / PAGE))
SPOIL(child_is_run, put32(s, node_of(s->bytes, s->branch, 1), number_of(s->run)))
SPOIL(order_in_page, swap16(s, s->leaf + 16, s->leaf + 18))
SPOIL(order_of_bounds, swap16(s, s->parent + 18, s->parent + 20))
SPOIL(order_below, s->bytes[node_of(s->bytes, s->leaf, 0) + 8] ^= 0xff)
SPOIL(order_of_databases, swap16(s, s->main + 16, s->main + 18))
SPOIL(run_far, put64(s, value_of(s->bytes, node_of(s->bytes, s->runs, 0)), s->pages))
SPOIL(run_meta, put64(s, value_of(s->bytes, node_of(s->bytes, s->runs, 0)), 1))
SPOIL(run_twice, put64(s, value_of(s->bytes, node_of(s->bytes, s->runs, 0)), number_of(s->second)))
SPOIL(run_number, put64(s, s->run, 5))
SPOIL(run_flags, put16(s, s->run + 10, 2))
SPOIL(run_none, put32(s, s->run + 12, 0))
SPOIL(run_far_end, put32(s, s->run + 12, s->pages))
SPOIL(run_more, put32(s, s->run + 12, u32_get(s->bytes + s->run + 12) + 1))
SPOIL(run_less, put32(s, s->run + 12, u32_get(s->bytes + s->run + 12) - 1))
SPOIL(run_value_long, put32(s, node_of(s->bytes, s->runs, 0), 0x7fffffff))
SPOIL(list_key_short, put16(s, s->inlined + 6, 6))
SPOIL(list_key_future, put64(s, s->inlined + 8, UINT64_MAX))
SPOIL(list_order, put64(s, s->list_node + 8, 0))
SPOIL(list_count_more, s->bytes[s->inlined + 16] ^= 64)
SPOIL(list_count_far, put64(s, s->inlined + 16, UINT64_MAX))
SPOIL(list_page_meta, put64(s, s->inlined + 16 + 8 * u64_get(s->bytes + s->inlined + 16), 1))
SPOIL(list_page_far, put64(s, s->inlined + 24, s->pages))
SPOIL(list_page_twice, put64(s, s->inlined + 32, u64_get(s->bytes + s->inlined + 24)))
SPOIL(list_page_used, put64(s, s->list + 24, number_of(s->leaf)))
SPOIL(list_run_count, s->bytes[s->list + 17] ^= 1)
SPOIL(list_run_value, put32(s, s->list_node, u32_get(s->bytes + s->list_node) - 1))
SPOIL(list_run_page, put64(s, s->list + 16 + 800, u64_get(s->bytes + s->list + 16 + 800) + 5000000))
SPOIL(list_run_listed_twice, put64(s, s->inlined + 24, u64_get(s->bytes + s->list + 24)))

static const struct spoil spoils[] = {
    {"not a meta page", meta_number, false},
    {"not a meta page", meta_flags, false},
    {"not a meta page", meta_magic, false},
    {"data version is 999", meta_version, false},
    {"0 is no size of a page", meta_page_bytes_zero, false},
    {"4097 is no size of a page", meta_page_bytes_odd, false},
    {"65536 is no size of a page", meta_page_bytes_large, false},
    {"differ in the size", meta_page_bytes_differ, false},
    {"does not belong here", meta_transaction_parity, false},
    {"do not follow each other", meta_transaction_newest, false},
    {"do not follow each other", meta_transaction_older, false},
    {"but the newest that freed pages is", meta_older_as_newest, false},
    {"last page in use is outside", meta_last_page_far, false},
    {"last page in use is outside", meta_last_page_none, false},
    {"page ", meta_last_page_few, false},
    {"page ", meta_last_page_one_less, false},
    {"length of the map", meta_map_short, false},
    {"length of the map", meta_map_long, false},
    {"flags are not", free_flags_none, false},
    {"flags are not", free_flags_dupsort, false},
    {"root page is outside", free_root, false},
    {"flags are not", main_flags, false},
    {"no root page, but is not empty", main_root_none, false},
    {"root page is outside", main_root_far, false},
    {"should be a leaf page", main_root_other, false},
    {"depth cannot be", main_depth, false},
    {"(list of databases): it counts", main_entries, false},
    {"database \"envelope\": its flags", record_flags, false},
    {"database \"envelope\": its flags", record_pad, false},
    {"database \"envelope\": its depth", record_depth_none, false},
    {"should be a leaf page", record_depth_less, false},
    {"should be a branch page", record_depth_more, false},
    {"database \"envelope\": its depth", record_depth_far, false},
    {"branch pages, but has", record_branches, false},
    {"leaf pages, but has", record_leaves, false},
    {"contradict each other", record_leaves_none, false},
    {"overflow pages, but has", record_overflow, false},
    {"more pages than the file", record_overflow_far, false},
    {"entries, but has", record_entries, false},
    {"root page is outside", record_root_meta, false},
    {"root page is outside", record_root_far, false},
    {"used twice", record_root_twice, false},
    {"not the record of a database", record_is_a_value, false},
    {"page ", record_is_short, false},
    {"its header says that it is page", page_number, false},
    {"its flags are 0x0", page_flags_none, false},
    {"its flags are 0x1", page_flags_branch, false},
    {"its flags are 0x2", page_flags_leaf, false},
    {"its flags are 0x12", page_flags_dirty, false},
    {"its flags are 0x22", page_flags_leaf2, false},
    {"its flags are 0x42", page_flags_sub, false},
    {"its flags are 0x4", page_flags_overflow, false},
    {"its free space", page_lower_small, false},
    {"its free space", page_lower_odd, false},
    {"its free space", page_lower_large, false},
    {"entry ", page_lower_more, false},
    {"leave a gap", page_lower_less, false},
    {"its free space", page_upper_small, false},
    {"its free space", page_upper_odd, false},
    {"its free space", page_upper_large, false},
    {"leave a gap", page_upper_less, false},
    {"lies where none can be", page_upper_more, false},
    {"has 0 entries", page_empty, false},
    {"has 1 entries", branch_of_one, false},
    {"its header says that it is page 0", page_zeroed, false},
    {"its header says that it is page 1844", page_ones, false},
    {"lies where none can be", node_in_header, false},
    {"lies where none can be", node_odd, false},
    {"lies where none can be", node_at_end, false},
    {"lies where none can be", node_far, false},
    {"overlaps another", node_twice, false},
    {"key of 0 bytes", node_key_none, false},
    {"key of 512 bytes", node_key_long, false},
    {"entry ", node_key_more, false},
    {"entry 1 has 100018 bytes", node_value_long, false},
    {"entry 1 has 3018 bytes", node_value_whole, false},
    {"entry ", node_value_more, false},
    {"has flags 0x4", node_flags_dup, false},
    {"has flags 0x2", node_flags_database, false},
    {"page ", node_flags_overflow, false},
    {"key of 600 bytes", branch_key_long, false},
    {"key of 0 bytes", branch_key_none, false},
    {"leads to page ", child_is_meta, false},
    {"leads to page ", child_is_far, false},
    {"used twice", child_is_itself, false},
    {"used twice", child_is_sibling, false},
    {"used twice", child_is_run, false},
    {"not in order", order_in_page, true},
    {"not in order", order_of_bounds, true},
    {"not in order", order_below, true},
    {"(list of databases): the key of entry 1 is not in order", order_of_databases, false},
    {"leads to page ", run_far, false},
    {"leads to page 1,", run_meta, false},
    {"used twice", run_twice, false},
    {"not the overflow page", run_number, false},
    {"not the overflow page", run_flags, false},
    {"0 overflow pages for", run_none, false},
    {"overflow pages for", run_far_end, false},
    {"page ", run_more, false},
    {"overflow pages for", run_less, false},
    {"overflow pages for 2147483647 bytes", run_value_long, false},
    {"has a key of 6 bytes", list_key_short, false},
    {"not in order", list_key_future, false},
    {"not in order", list_order, false},
    {"a list of ", list_count_more, false},
    {"a list of 18446744073709551615 free pages", list_count_far, false},
    {"names page 1, which there is not", list_page_meta, false},
    {"names page ", list_page_far, false},
    {"not in order", list_page_twice, false},
    {"is listed as free, but is in use", list_page_used, false},
    {"a list of ", list_run_count, false},
    {"a list of free pages has ", list_run_value, false},
    {"names page ", list_run_page, false},
    {"page ", list_run_listed_twice, false},
};

/* Writes, or takes back, the pages that differ. */
static void pages_write(const struct fixture *f, const uint8_t *differing, const uint8_t *bytes)
{
    for (size_t at = 0; at < f->used_bytes; at += PAGE) {
        if (memcmp(f->image + at, differing + at, PAGE) != 0) {
            image_write(f, at, bytes + at, PAGE);
        }
    }
}

static void test_each_field_is_looked_at(void **state)
{
    struct fixture *f = *state;
    queue_large(f, turns(LARGE, 24), MIB);
    image_take(f);
    uint8_t *bytes = malloc(f->image_bytes);
    assert_non_null(bytes);
    size_t count = sizeof spoils / sizeof spoils[0];
    size_t missed = 0;
    for (size_t index = 0; index < count; index += turns(1, 44)) {
        struct spots s = {.bytes = bytes};
        spots_find(f, &s);
        assert_true(s.list != 0 && s.inlined != 0);
        spoils[index].fn(&s);
        pages_write(f, bytes, bytes);
        enum err err = check(f, STORE_PAGES_FULL);
        if (err != ERR_DAMAGED || f->pages.order_only != spoils[index].order_only ||
            strstr(f->pages.problem, spoils[index].words) == NULL) {
            print_error("case %zu (\"%s\"): %s, \"%s\"\n", index, spoils[index].words,
                        err_text(err), f->pages.problem);
            missed++;
        }
        pages_write(f, bytes, f->image);
    }
    free(bytes);
    assert_int_equal(missed, 0);
    check_sound(f);
}

/* Nothing depends on the older meta page beyond its head: it is told, and the queue opens. */
static void test_older_meta_page_is_a_note(void **state)
{
    struct fixture *f = *state;
    queue_mixed(f);
    image_take(f);
    uint64_t far = (uint64_t)1 << 50;
    size_t older = PAGE - newest_meta(f);
    static const size_t fields[] = {32, 80, 128, 136};
    for (size_t index = 0; index < sizeof fields / sizeof fields[0]; index++) {
        image_write(f, older + fields[index], &far, sizeof far);
        assert_int_equal(check(f, STORE_PAGES_FULL), ERR_OK);
        assert_non_null(strstr(f->pages.note, "the older meta page"));
        queue_open(f);
        queue_close(f);
        image_restore(f);
    }
    check_sound(f);
}

/* Damage in the deep, at the spot that QUICK comes to last. */
static void deep_spoil(struct fixture *f)
{
    struct spots s = {.bytes = malloc(f->image_bytes)};
    assert_non_null(s.bytes);
    spots_find(f, &s);
    size_t root = root_of(&s, record_of(&s, "chunk"));
    unsigned last = count_of(s.bytes, root) - 1;
    size_t leaf = child_of(s.bytes, root, last);
    leaf = u16_get(s.bytes + leaf + 10) == 1 ? child_of(s.bytes, leaf, count_of(s.bytes, leaf) - 1)
                                             : leaf;
    s.bytes[leaf + 14] ^= 2;
    pages_write(f, s.bytes, s.bytes);
    free(s.bytes);
}

static void test_quick_sees_the_tops_and_full_all(void **state)
{
    struct fixture *f = *state;
    queue_large(f, LARGE, LARGE_BODY);
    image_take(f);
    deep_spoil(f);
    assert_int_equal(check(f, STORE_PAGES_QUICK), ERR_OK);
    assert_int_equal(check(f, STORE_PAGES_FULL), ERR_DAMAGED);
    image_restore(f);
    struct spots s = {.bytes = malloc(f->image_bytes)};
    assert_non_null(s.bytes);
    for (size_t db = 0; db < STORE_DB_COUNT; db += turns(1, 5)) { /* the root of each tree */
        spots_find(f, &s);
        size_t root = root_of(&s, record_of(&s, store_db_names[db]));
        if (root != (size_t)UINT64_MAX * PAGE) {
            s.bytes[root + 12] ^= 1;
            pages_write(f, s.bytes, s.bytes);
            assert_int_equal(check(f, STORE_PAGES_QUICK), ERR_DAMAGED);
            assert_int_equal(queue_try(f), ERR_DAMAGED);
            assert_non_null(strstr(f->report.problem, "put back a copy"));
            image_restore(f);
        }
    }
    free(s.bytes);
    check_sound(f);
}

struct progress {
    uint64_t calls;
    uint64_t last;
    uint64_t stop_at;
    bool backwards;
};

static bool progress_take(void *ctx, uint64_t done, uint64_t pages)
{
    struct progress *p = ctx;
    p->backwards = p->backwards || done < p->last || done > pages;
    p->last = done;
    return ++p->calls != p->stop_at;
}

static void test_progress_is_told_and_can_stop(void **state)
{
    struct fixture *f = *state;
    struct progress p = {0};
    queue_large(f, LARGE, LARGE_BODY);
    assert_int_equal(
        store_pages_check_queue(f->directory, STORE_PAGES_FULL, progress_take, &p, &f->pages),
        ERR_OK);
    assert_true(p.calls >= turns(4, 2) && !p.backwards);
    p = (struct progress){.stop_at = 2};
    assert_int_equal(
        store_pages_check_queue(f->directory, STORE_PAGES_FULL, progress_take, &p, &f->pages),
        ERR_CANCELLED);
    assert_int_equal(p.calls, 2);
    assert_string_not_equal(f->pages.problem, "");
}

static void test_unreadable_page_is_named(void **state)
{
    struct fixture *f = *state;
    queue_mixed(f);
    image_take(f);
    size_t root = u64_get(f->image + newest_meta(f) + 128) * PAGE;
    char words[32];
    snprintf(words, sizeof words, "page %lu ", (unsigned long)(root / PAGE));
    disk_fails_at = root + 100;
    assert_int_equal(check(f, STORE_PAGES_FULL), ERR_IO);
    assert_non_null(strstr(f->pages.problem, words));
    assert_non_null(strstr(f->pages.problem, "cannot be read"));
    assert_int_equal(queue_try(f), ERR_IO);
    assert_non_null(strstr(f->report.problem, words));
    disk_fails_at = 4096;
    assert_int_equal(check(f, STORE_PAGES_QUICK), ERR_IO);
    disk_fails_at = UINT64_MAX;
    check_sound(f);
}

static void test_no_queue_is_told(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(check(f, STORE_PAGES_FULL), ERR_NOT_FOUND);
    assert_non_null(strstr(f->pages.problem, "cannot open data.mdb"));
    assert_int_equal(mkdir(f->directory, 0700), 0);
    assert_int_equal(mkdir(f->path, 0700), 0);
    assert_int_equal(check(f, STORE_PAGES_FULL), ERR_IO);
    assert_int_equal(rmdir(f->path), 0);
    static const size_t lengths[] = {0, 100, 4096, 4200, 12288};
    int fd = open(f->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    for (size_t index = 0; index < sizeof lengths / sizeof lengths[0]; index++) {
        assert_int_equal(ftruncate(fd, (off_t)lengths[index]), 0);
        assert_int_equal(check(f, STORE_PAGES_FULL), ERR_DAMAGED);
        assert_string_not_equal(f->pages.problem, "");
    }
    close(fd);
}

/* ---- beside a writer ---- */

static void test_damage_counts_only_when_nobody_wrote(void **state)
{
    struct fixture *f = *state;
    queue_mixed(f);
    image_take(f);
    uint16_t wrong = 3;
    image_write(f, u64_get(f->image + newest_meta(f) + 128) * PAGE + 14, &wrong, sizeof wrong);
    commits_pretended = 2; /* one while the first try went on */
    assert_int_equal(check(f, STORE_PAGES_FULL), ERR_DAMAGED);
    commits_pretended = 1000;
    assert_int_equal(check(f, STORE_PAGES_FULL), ERR_BUSY);
    assert_non_null(strstr(f->pages.problem, "was written while"));
    commits_pretended = 0;
    transactions_pretended = 0;
    image_restore(f);
    check_sound(f);
}

#define WRITTEN turns(50, 8) /* messages */

struct writer {
    struct fixture *f;
    _Atomic bool stop;
    bool failed;
};

static void *write_on(void *ctx)
{
    struct writer *w = ctx;
    for (uint64_t turn = 0; !atomic_load(&w->stop) && !w->failed; turn++) {
        uint64_t number = 1 + turn % WRITTEN;
        enum err err = store_begin(w->f->store);
        if (err == ERR_OK) {
            err = turn % (2 * WRITTEN) < WRITTEN ? message_try(w->f->store, number, number * 700, 1)
                                                 : drop_try(w->f->store, number);
        }
        w->failed = (err == ERR_OK ? store_commit(w->f->store) : err) != ERR_OK;
    }
    return NULL;
}

static void test_no_damage_is_seen_beside_a_writer(void **state)
{
    struct fixture *f = *state;
    static struct writer w; /* outlives a case that has failed, as the thread does */
    pthread_t thread;
    w.f = f;
    queue_mixed(f);
    queue_open(f);
    begin(f);
    for (uint64_t number = 1; number <= WRITTEN; number++) {
        struct msg_id id = id_of(number);
        enum err err = store_message_remove(f->store, &id, slice_of(NULL, 0));
        assert_true(err == ERR_OK || err == ERR_NOT_FOUND);
    }
    commit(f);
    assert_int_equal(pthread_create(&thread, NULL, write_on, &w), 0);
    size_t sound = 0;
    for (size_t turn = 0; turn < turns(100, 6); turn++) {
        enum err err = check(f, turn % 2 == 0 ? STORE_PAGES_FULL : STORE_PAGES_QUICK);
        if (err != ERR_OK && err != ERR_BUSY) {
            print_error("%s\n", f->pages.problem);
            atomic_store(&w.stop, true);
        }
        assert_true(err == ERR_OK || err == ERR_BUSY);
        sound += err == ERR_OK;
    }
    atomic_store(&w.stop, true);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_false(w.failed);
    assert_true(sound > 0);
    check_sound(f);
}

/* ---- whatever chance does ---- */

enum place { PLACE_META, PLACE_TREE, PLACE_RUN_HEAD, PLACE_RUN, PLACE_FREE, PLACE_COUNT };
static const char *const place_names[] = {"meta page", "tree page", "head of an overflow run",
                                          "overflow run", "free page"};

/* What each page of the image is. */
static void tree_places(const struct fixture *f, uint8_t *places, size_t page)
{
    const uint8_t *bytes = f->image;
    places[page / PAGE] = PLACE_TREE;
    for (unsigned index = 0; index < count_of(bytes, page); index++) {
        size_t node = node_of(bytes, page, index);
        uint16_t flags = u16_get(bytes + node + 4);
        if (u16_get(bytes + page + 10) == 1) {
            tree_places(f, places, child_of(bytes, page, index));
        } else if (flags == 1) {
            size_t run = u64_get(bytes + value_of(bytes, node));
            memset(places + run, PLACE_RUN, u32_get(bytes + run * PAGE + 12));
            places[run] = PLACE_RUN_HEAD;
        } else if (flags == 2) {
            uint64_t root = u64_get(bytes + value_of(bytes, node) + 40);
            if (root != UINT64_MAX) {
                tree_places(f, places, root * PAGE);
            }
        }
    }
}

static enum place place_of(const uint8_t *places, size_t at)
{
    enum place place = (enum place)places[at / PAGE];
    return place == PLACE_RUN_HEAD && at % PAGE >= 16 ? PLACE_RUN : place;
}

/* What became of a file that was spoilt. */
enum end { END_REFUSED, END_ORDER, END_TOLD, END_SAME, END_COUNT };
static const char *const end_names[] = {"refused by the pages", "told by the order of keys",
                                        "told by the seals", "no byte of mail touched"};

#define CHILD_TOLD   41
#define CHILD_SAME   42
#define CHILD_BAD    43 /* other bytes, and not a word */
#define CHILD_BROKEN 44 /* what it wrote is not sound */

static void child_signals(void)
{
    static const int numbers[] = {SIGSEGV, SIGBUS, SIGABRT, SIGILL, SIGFPE, SIGSYS};
    for (size_t index = 0; index < sizeof numbers / sizeof numbers[0]; index++) {
        signal(numbers[index], SIG_DFL);
    }
    alarm(CHILD_SECONDS);
}

/* A warning about the directory is none about the file. */
static bool damage_told(const struct fixture *f)
{
    return strstr(f->report.problem, "is in memory") == NULL && f->report.problem[0] != '\0';
}

static int queue_reads(struct fixture *f, uint32_t crc)
{
    static struct walk w;
    w.crc = 0;
    w.messages = 0;
    w.faults = 0;
    f->config.read_only = true;
    enum err err = queue_try(f);
    f->config.read_only = false;
    if (err != ERR_OK) {
        queue_close(f);
        return f->report.problem[0] != '\0' ? CHILD_TOLD : CHILD_BAD;
    }
    store_walk(f->store, f->reader, &w);
    queue_close(f);
    if (w.faults != 0 || damage_told(f)) {
        return CHILD_TOLD;
    }
    return w.crc == crc ? CHILD_SAME : CHILD_BAD;
}

/* Recovers the queue, removes half of it and adds something. */
static int queue_writes(struct fixture *f)
{
    static struct walk w;
    w.messages = 0;
    if (queue_try(f) != ERR_OK) {
        queue_close(f);
        return f->report.problem[0] != '\0' ? CHILD_TOLD : CHILD_BAD;
    }
    store_walk(f->store, f->reader, &w);
    enum err err = ERR_OK;
    for (uint64_t index = 0; index < w.messages + 2 && err != ERR_IN_DOUBT; index += 2) {
        err = store_begin(f->store);
        if (err != ERR_OK) {
            break;
        }
        err = index < w.messages ? store_message_remove(f->store, &w.ids[index], slice_of(NULL, 0))
                                 : message_try(f->store, NUMBERS_MAX, 100000, 300);
        if (err == ERR_OK) {
            err = store_commit(f->store);
        } else {
            store_abort(f->store);
        }
    }
    queue_close(f);
    if (err == ERR_IN_DOUBT) {
        return CHILD_BAD;
    }
    err = check(f, STORE_PAGES_FULL);
    return err == ERR_OK || f->pages.order_only ? CHILD_TOLD : CHILD_BROKEN;
}

/* Returns how a child ended that did something with the queue; a signal fails the test. */
static int in_child(struct fixture *f, int (*fn)(struct fixture *f))
{
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        child_signals();
        _exit(fn(f));
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFSIGNALED(status)) {
        print_error("killed by signal %d\n", WTERMSIG(status));
        return -1;
    }
    return WEXITSTATUS(status);
}

enum chance_kind { CHANCE_BIT, CHANCE_ZEROS, CHANCE_SWAP, CHANCE_COUNT };
static const char *const chance_names[] = {"bit", "zeros", "swap"};

/* What chance does to a file: the pages that it writes anew, and where. */
struct chance {
    size_t pages[2]; /* offsets; the same twice: one page */
    uint8_t bytes[2][PAGE];
    size_t at;
    enum chance_kind kind;
};

/* A byte of LMDB's own in a tree page: of its header, an offset, or the head of an entry. */
static size_t structure_place(const struct fixture *f, size_t page)
{
    unsigned count = count_of(f->image, page);
    uint64_t at = rng() % (16 + 10 * (uint64_t)count);
    if (at < 16 + 2 * (uint64_t)count) {
        return at;
    }
    at -= 16 + 2 * (uint64_t)count;
    return node_of(f->image, page, (unsigned)(at / 8)) - page + at % 8;
}

/* A byte that most is asked of, in a page of each kind. */
static size_t worst_place(const struct fixture *f, const uint8_t *places, size_t page)
{
    switch (places[page / PAGE]) {
    case PLACE_META:
        return rng() % 152;
    case PLACE_TREE:
        return structure_place(f, page);
    default:
        return rng() % 16;
    }
}

/*
 * A flipped bit (7 of 10; 2 of them where LMDB's own numbers are, 2 more in tree pages), a page of
 * zeros, two pages that changed places.
 */
static void chance_make(const struct fixture *f, const uint8_t *places, struct chance *c)
{
    uint64_t pages = f->used_bytes / PAGE;
    uint64_t page = rng() % pages;
    uint64_t kind = rng() % 10;
    while ((kind < 2 && (places[page] == PLACE_RUN || places[page] == PLACE_FREE)) ||
           (kind >= 2 && kind < 4 && places[page] != PLACE_TREE)) {
        page = rng() % pages;
    }
    c->kind = kind < 7 ? CHANCE_BIT : kind == 7 ? CHANCE_ZEROS : CHANCE_SWAP;
    c->at = page * PAGE;
    c->pages[0] = c->at;
    c->pages[1] = c->kind == CHANCE_SWAP ? rng() % pages * PAGE : c->at;
    memcpy(c->bytes[0], f->image + c->pages[1], PAGE);
    memcpy(c->bytes[1], f->image + c->pages[0], PAGE);
    if (c->kind == CHANCE_BIT) {
        size_t inside = kind < 3 ? worst_place(f, places, c->at) : rng() % PAGE;
        c->at += inside;
        c->bytes[0][inside] ^= (uint8_t)(1u << rng() % 8);
        c->bytes[1][inside] = c->bytes[0][inside];
    } else if (c->kind == CHANCE_ZEROS) {
        memset(c->bytes, 0, sizeof c->bytes);
    } else if (places[c->pages[1] / PAGE] < places[page]) {
        c->at = c->pages[1]; /* the worse one */
    }
}

static void chance_write(const struct fixture *f, const struct chance *c, bool spoil)
{
    for (size_t index = 0; index < 2; index++) {
        size_t page = c->pages[index];
        image_write(f, page, spoil ? c->bytes[index] : f->image + page, PAGE);
    }
}

/* What parent and children share. */
struct chances {
    uint64_t counts[CHANCE_COUNT][PLACE_COUNT][END_COUNT];
    uint64_t turn; /* being judged, or the next */
    uint64_t rng;  /* before that turn */
    uint32_t crc;  /* of the queue as it should be */
    uint8_t *places;
};
static struct chances *chances;

/* Returns what became of the file, or END_COUNT: what must not. */
static enum end chance_judge(struct fixture *f, uint64_t turn)
{
    enum err err = check(f, STORE_PAGES_FULL);
    bool order = err == ERR_DAMAGED && f->pages.order_only;
    if ((err != ERR_OK && err != ERR_DAMAGED) ||
        (err == ERR_DAMAGED && f->pages.problem[0] == '\0')) {
        return END_COUNT;
    }
    if (err != ERR_OK && !order) { /* QUICK looks at all of it, too */
        return turn % 16 != 0 || queue_reads(f, chances->crc) == CHILD_TOLD ? END_REFUSED
                                                                            : END_COUNT;
    }
    int end = queue_reads(f, chances->crc);
    if (end == CHILD_BAD) {
        return END_COUNT;
    }
    if (turn % turns(8, 2) == 0) {
        int written = queue_writes(f);
        image_restore(f);
        if (written != CHILD_TOLD) {
            return END_COUNT;
        }
    }
    return order ? END_ORDER : end == CHILD_TOLD ? END_TOLD : END_SAME;
}

static int child_takes_chances(struct fixture *f)
{
    uint64_t last = u64_min(chances->turn + CHANCES_BATCH, CHANCES);
    rng_state = chances->rng;
    while (chances->turn < last) {
        static struct chance c;
        alarm(CHILD_SECONDS);
        chance_make(f, chances->places, &c);
        chance_write(f, &c, true);
        enum end end = chance_judge(f, chances->turn);
        if (end == END_COUNT) {
            print_error("%s at %zu, a %s: \"%s\", \"%s\"\n", chance_names[c.kind], c.at,
                        place_names[place_of(chances->places, c.at)], f->pages.problem,
                        f->report.problem);
            return CHILD_BAD;
        }
        chances->counts[c.kind][place_of(chances->places, c.at)][end]++;
        chance_write(f, &c, false);
        chances->rng = rng_state;
        chances->turn++;
    }
    return CHILD_SAME;
}

static void chances_say(void)
{
    for (size_t row = 0; row < (size_t)CHANCE_COUNT * PLACE_COUNT * END_COUNT; row++) {
        size_t kind = row / (PLACE_COUNT * END_COUNT);
        size_t place = row / END_COUNT % PLACE_COUNT;
        uint64_t count = chances->counts[kind][place][row % END_COUNT];
        if (count != 0) {
            print_message("    %-6s %-24s %-26s %6lu\n", chance_names[kind], place_names[place],
                          end_names[row % END_COUNT], (unsigned long)count);
        }
    }
}

/* From here few chances come to all that the store does about damage. */
#define CHANCE_FEW UINT64_C(0xcff0446243756e89)

/* Thousands of spoilt files, one after the other, in children of some each: none may be killed. */
static void test_chance_is_told_or_harmless(void **state)
{
    struct fixture *f = *state;
    queue_mixed(f);
    image_take(f);
    static struct walk w;
    f->config.read_only = true;
    queue_open(f);
    store_walk(f->store, f->reader, &w);
    queue_close(f);
    f->config.read_only = false;
    assert_true(w.faults == 0 && w.messages > turns(100, 12));
    chances =
        mmap(NULL, sizeof *chances, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(chances != MAP_FAILED);
    *chances = (struct chances){
        .crc = w.crc, .rng = turns(rng_state, CHANCE_FEW), .places = malloc(f->used_bytes / PAGE)};
    assert_non_null(chances->places);
    memset(chances->places, PLACE_FREE, f->used_bytes / PAGE);
    memset(chances->places, PLACE_META, 2);
    tree_places(f, chances->places, u64_get(f->image + newest_meta(f) + 80) * PAGE);
    tree_places(f, chances->places, u64_get(f->image + newest_meta(f) + 128) * PAGE);
    while (chances->turn < CHANCES) {
        int end = in_child(f, child_takes_chances);
        if (end != CHILD_SAME) {
            fail_msg("turn %lu ended with %d", (unsigned long)chances->turn, end);
        }
    }
    check_sound(f);
    chances_say();
    uint64_t(*bits)[END_COUNT] = chances->counts[CHANCE_BIT];
    assert_true(bits[PLACE_TREE][END_REFUSED] > 0 && bits[PLACE_RUN][END_TOLD] > 0);
    assert_int_equal(bits[PLACE_FREE][END_REFUSED] + bits[PLACE_FREE][END_ORDER] +
                         bits[PLACE_FREE][END_TOLD],
                     0);
    free(chances->places);
    munmap(chances, sizeof *chances);
}

/* ---- after a run that died in the map ---- */

static bool suspect_there(const struct fixture *f)
{
    char path[128];
    snprintf(path, sizeof path, "%s/suspect", f->directory);
    return access(path, F_OK) == 0;
}

static void suspect_make(const struct fixture *f)
{
    char path[128];
    snprintf(path, sizeof path, "%s/suspect", f->directory);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    close(fd);
}

#define CHILD_EXPLAINED     45
#define CHILD_NOT_EXPLAINED 46

static void fault_handler(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)context;
    int fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
    _exit(store_fault_explain(info->si_addr, fd) ? CHILD_EXPLAINED : CHILD_NOT_EXPLAINED);
}

static void child_faults(struct fixture *f)
{
    struct sigaction action = {.sa_sigaction = fault_handler, .sa_flags = SA_SIGINFO};
    sigaction(SIGBUS, &action, NULL);
    sigaction(SIGSEGV, &action, NULL);
    queue_open(f);
}

static int child_reads_a_cut_file(struct fixture *f)
{
    static struct walk w;
    child_faults(f);
    if (truncate(f->path, 8192) != 0) {
        return 1;
    }
    store_walk(f->store, f->reader, &w);
    return 2;
}

static int child_reads_what_is_not_mapped(struct fixture *f)
{
    static struct walk w;
    child_faults(f);
    if (mprotect((void *)(uintptr_t)f->store->map, f->used_bytes, PROT_NONE) != 0) {
        return 1;
    }
    store_walk(f->store, f->reader, &w);
    return 2;
}

static int child_faults_elsewhere(struct fixture *f)
{
    child_faults(f);
    uint8_t *page = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return page == MAP_FAILED ? 1 : *(volatile uint8_t *)page;
}

static void test_fault_in_the_map_makes_the_next_start_look(void **state)
{
    struct fixture *f = *state;
    queue_mixed(f);
    image_take(f);
    assert_int_equal(in_child(f, child_faults_elsewhere), CHILD_NOT_EXPLAINED);
    assert_false(suspect_there(f));
    assert_int_equal(in_child(f, child_reads_what_is_not_mapped), CHILD_EXPLAINED);
    assert_true(suspect_there(f));
    queue_open(f); /* sound: the mark goes */
    assert_false(damage_told(f));
    queue_close(f);
    assert_false(suspect_there(f));
    assert_int_equal(in_child(f, child_reads_a_cut_file), CHILD_EXPLAINED);
    assert_true(suspect_there(f));
    assert_int_equal(queue_try(f), ERR_DAMAGED); /* it is still cut */
    assert_true(suspect_there(f));
    image_restore(f);
    queue_open(f);
    assert_false(suspect_there(f));
}

static void test_suspect_is_checked_in_full(void **state)
{
    struct fixture *f = *state;
    queue_large(f, LARGE, LARGE_BODY);
    image_take(f);
    deep_spoil(f);
    queue_open(f); /* QUICK does not see it */
    queue_close(f);
    image_restore(f);
    deep_spoil(f);
    suspect_make(f);
    for (int turn = 0; turn < 2; turn++) {
        f->config.read_only = turn == 1;
        assert_int_equal(queue_try(f), ERR_DAMAGED);
        assert_non_null(strstr(f->report.problem, "data.mdb is damaged, page "));
        assert_non_null(strstr(f->report.problem, "put back a copy"));
        assert_true(suspect_there(f));
        queue_close(f);
    }
    f->config.read_only = false;
    image_restore(f);
    queue_open(f);
    assert_false(suspect_there(f));
}

/* A key in the wrong place hides one message, and the others are let out. */
static void test_order_alone_is_a_warning(void **state)
{
    struct fixture *f = *state;
    static struct walk w;
    queue_mixed(f);
    image_take(f);
    queue_open(f);
    store_walk(f->store, f->reader, &w);
    uint64_t messages = w.messages;
    queue_close(f);
    image_restore(f);
    size_t main_page = u64_get(f->image + newest_meta(f) + 128) * PAGE;
    struct spots s = {.bytes = f->image, .main = main_page};
    size_t leaf = leaf_of(f->image, root_of(&s, record_of(&s, "envelope")), 0);
    uint8_t byte = 0xff;
    image_write(f, node_of(f->image, leaf, 3) + 8, &byte, 1);
    suspect_make(f);
    assert_int_equal(check(f, STORE_PAGES_FULL), ERR_DAMAGED);
    assert_true(f->pages.order_only);
    queue_open(f);
    assert_non_null(strstr(f->report.problem, "a message may be missing"));
    assert_false(suspect_there(f));
    w = (struct walk){0};
    store_walk(f->store, f->reader, &w);
    assert_true(w.messages + 1 >= messages);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_new_queue_is_sound),
        CASE(test_mixed_queue_is_sound),
        CASE(test_large_queue_is_sound),
        CASE(test_every_commit_is_sound),
        CASE(test_copies_are_sound),
        CASE(test_each_field_is_looked_at),
        CASE(test_older_meta_page_is_a_note),
        CASE(test_quick_sees_the_tops_and_full_all),
        CASE(test_progress_is_told_and_can_stop),
        CASE(test_unreadable_page_is_named),
        CASE(test_no_queue_is_told),
        CASE(test_damage_counts_only_when_nobody_wrote),
        CASE(test_no_damage_is_seen_beside_a_writer),
        CASE(test_chance_is_told_or_harmless),
        CASE(test_fault_in_the_map_makes_the_next_start_look),
        CASE(test_suspect_is_checked_in_full),
        CASE(test_order_alone_is_a_warning),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * ---- the disk ----
 *
 * These stand before libc's for everything in this process. The verifier reads a meta page at once
 * as 152 bytes, and nothing else is read so.
 */

/* By its name in the object file: libc's header may have made pread itself an inline function. */
ssize_t disk_pread(int fd, void *bytes, size_t len, off_t at) __asm__("pread");

ssize_t disk_pread(int fd, void *bytes, size_t len, off_t at)
{
    if (disk_fails_at >= (uint64_t)at && disk_fails_at - (uint64_t)at < len) {
        errno = EIO;
        return -1;
    }
    ssize_t got = syscall(SYS_pread64, fd, bytes, len, at);
    if (len != 152 || got != 152) {
        return got;
    }
    if (at == 0 && commits_pretended > 0) {
        commits_pretended--;
        transactions_pretended += 2;
    }
    uint8_t *place = (uint8_t *)bytes + 144;
    uint64_t number = u64_get(place) + transactions_pretended;
    memcpy(place, &number, sizeof number);
    return got;
}

int fdatasync(int fd)
{
    (void)fd;
    return 0;
}
