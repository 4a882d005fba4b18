/*
 * A queue with anything at all in its databases: opening, reading, walking and removing must answer
 * with an error or the truth. LMDB's own pages stay whole: what lies in them is what we judge.
 *
 * The input is a row of entries: database, key length, value length, flags, key, value. Flag 1 puts
 * a right seal behind the value, so that what is behind the seals is reached too.
 */
#include "daemon/base/num.h"
#include "daemon/store/store_internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define ENTRY_HEAD   4
#define ENTRIES_MAX  16
#define TEMPLATE_MAX (16u << 20)

static char directory[64];
static char file[96];
static uint8_t template[TEMPLATE_MAX];
static size_t template_bytes;

static struct store *queue_open(enum err *out_err)
{
    struct store_config config = {
        .directory = directory, .queue_bytes_max = 4u << 20, .readers_max = 4};
    struct store_report report;
    struct store *store = NULL;
    *out_err = store_open(&store, &config, &report);
    return store;
}

static void template_make(void)
{
    snprintf(directory, sizeof directory, "/tmp/fuzz_store.%ld", (long)getpid());
    snprintf(file, sizeof file, "%s/data.mdb", directory);
    enum err err;
    struct store *store = queue_open(&err);
    CHECK(err == ERR_OK);
    store_close(&store);
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    ssize_t len = read(fd, template, sizeof template);
    CHECK(len > 0 && (size_t)len < sizeof template);
    template_bytes = (size_t)len;
    close(fd);
}

static void template_restore(void)
{
    int fd = open(file, O_WRONLY | O_TRUNC | O_CLOEXEC);
    CHECK(fd >= 0 && write(fd, template, template_bytes) == (ssize_t)template_bytes);
    close(fd);
}

static void entry_put(struct store *store, struct slice head, struct slice key, struct slice value)
{
    enum store_db db = (enum store_db)(head.data[0] % STORE_DB_COUNT);
    bool sealed = (head.data[3] & 1) != 0;
    if (key.len == 0) {
        return;
    }
    enum err err =
        sealed ? store_put_sealed(store, db, key, value, 0) : store_put(store, db, key, value, 0);
    CHECK(err == ERR_OK);
}

/* Puts the entries in behind the store's back, so far as the names of its databases allow. */
static void entries_put(struct store *store, struct slice in)
{
    CHECK(store_begin(store) == ERR_OK);
    for (size_t index = 0; index < ENTRIES_MAX && in.len >= ENTRY_HEAD; index++) {
        struct slice head = slice_head(in, ENTRY_HEAD);
        in = slice_tail(in, ENTRY_HEAD);
        struct slice key = slice_head(in, head.data[1] % 32);
        in = slice_tail(in, key.len);
        struct slice value = slice_head(in, head.data[2]);
        in = slice_tail(in, value.len);
        entry_put(store, head, key, value);
    }
    CHECK(store_commit(store) == ERR_OK);
}

struct found {
    struct msg_id ids[ENTRIES_MAX];
    size_t count;
};

static bool row_take(void *ctx, const struct store_row *row)
{
    struct found *found = ctx;
    found->ids[found->count++] = row->id;
    return found->count < ENTRIES_MAX;
}

static void queue_use(struct store *store)
{
    static uint8_t memory[65536];
    struct store_reader *reader = NULL;
    CHECK(store_reader_new(&reader, store) == ERR_OK);
    struct found found = {0};
    struct msg_id next = {{0}};
    enum err err = store_read_rows(reader, &next, ENTRIES_MAX, row_take, &found, &next);
    for (size_t index = 0; index < found.count; index++) {
        struct buf to;
        struct slice envelope;
        struct slice state;
        size_t needed;
        buf_init(&to, memory, sizeof memory);
        err = store_read_message(reader, &found.ids[index], &to, &envelope, &state, &needed);
        buf_init(&to, memory, sizeof memory);
        err = store_read_body(reader, &found.ids[index], 0, &to);
    }
    uint32_t routes[4];
    struct store_due due[4];
    size_t count = store_due_routes(store, routes, 4, &err);
    for (size_t index = 0; index < count; index++) {
        count = store_due_after(store, routes[index], NULL, due, 4, &err);
    }
    for (size_t index = 0; index < found.count; index++) {
        CHECK(store_begin(store) == ERR_OK);
        if (store_message_remove(store, &found.ids[index]) == ERR_OK) {
            err = store_commit(store);
        } else {
            store_abort(store);
        }
    }
    store_reader_free(&reader);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (template_bytes == 0) {
        template_make();
    }
    template_restore();
    enum err err;
    struct store *store = queue_open(&err);
    CHECK(err == ERR_OK);
    entries_put(store, slice_of(data, size));
    store_close(&store);
    store = queue_open(&err);
    if (err == ERR_OK) {
        queue_use(store);
        store_close(&store);
    }
    return 0;
}
