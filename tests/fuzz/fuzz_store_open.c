/*
 * A queue's file with anything at all in it: opening, reading, walking and removing must answer
 * with an error or the truth, and never end the process.
 *
 * The first byte of the input says what is spoilt.
 *   even  the pages of a real queue, below the records. The rest is a row of patches, 8 bytes each:
 *         be16 page, be16 place in it, what to do, and 3 bytes to do it with. The verifier judges
 *         first; what it lets through is opened and used.
 *   odd   what lies in the databases; LMDB's own pages stay whole. The rest is a row of entries:
 *         database, key length, value length, flags, key, value. Flag 1 puts a right seal behind
 * the value, so that what is behind the seals is reached too. Bit 1 of it, for pages: the queue is
 * opened by its owner and written, else by a reader.
 */
#include "daemon/base/num.h"
#include "daemon/store/store_internal.h"
#include "daemon/store/store_pages.h"

#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define ENTRY_HEAD   4
#define ENTRIES_MAX  16
#define PATCH_BYTES  8
#define PATCHES_MAX  24
#define MESSAGES     40
#define ROWS_MAX     64
#define PAGE         4096u
#define TEMPLATE_MAX (24u << 20)

static char directory[64];
static char file[96];
static uint8_t template[TEMPLATE_MAX];
static size_t template_bytes; /* length of the file */
static size_t template_used;  /* what is not zeros at its end */
static uint8_t scratch[TEMPLATE_MAX];

static struct store *queue_open(bool read_only, enum err *out_err)
{
    struct store_config config = {.directory = directory,
                                  .queue_bytes_max = 4u << 20,
                                  .readers_max = 4,
                                  .read_only = read_only};
    struct store_report report;
    struct store *store = NULL;
    *out_err = store_open(&store, &config, &report);
    CHECK(*out_err == ERR_OK || report.problem[0] != '\0');
    return store;
}

/*
 * ---- the queue to be spoilt ----
 */

static void message_add(struct store *store, uint64_t number, uint64_t bytes)
{
    static uint8_t memory[3][4096];
    static uint8_t body[BODY_CHUNK_BYTES_MAX];
    struct msg_id id = msg_id_make(number, 7);
    memset(body, (int)number, sizeof body);
    if (bytes > 0) {
        CHECK(store_body_append(store, &id, 0, slice_of(body, bytes)) == ERR_OK);
    }
    struct buf list;
    struct buf envelope;
    struct buf state;
    buf_init(&list, memory[0], sizeof memory[0]);
    buf_init(&envelope, memory[1], sizeof memory[1]);
    buf_init(&state, memory[2], sizeof memory[2]);
    record_recipient_put(&list, SLICE("c@example.jp"));
    record_envelope_put(&envelope, &(struct record_envelope){.body_bytes = bytes,
                                                             .chunk_count = bytes > 0,
                                                             .recipient_count = 1,
                                                             .client = SLICE("192.0.2.1"),
                                                             .sender = SLICE("a@example.jp"),
                                                             .recipients = buf_slice(&list)});
    buf_init(&list, memory[0], sizeof memory[0]);
    record_fate_put(&list, &(struct record_recipient){.state = RECIPIENT_QUEUED});
    record_state_put(&state, &(struct record_state){.state = MESSAGE_QUEUED,
                                                    .route = record_route(SLICE("main")),
                                                    .upstream = SLICE("main"),
                                                    .recipient_count = 1,
                                                    .recipients = buf_slice(&list)});
    CHECK(store_message_add(store, &id, buf_slice(&envelope), buf_slice(&state)) == ERR_OK);
}

static enum err message_remove(struct store *store, const struct msg_id *id)
{
    return store_message_remove(store, id, slice_of(NULL, 0));
}

static void messages_make(struct store *store)
{
    static const uint64_t bytes[] = {0, 100, 1500, 3000, 9000, 40000};
    for (uint64_t number = 1; number <= MESSAGES; number++) {
        CHECK(store_begin(store) == ERR_OK);
        message_add(store, number, bytes[number % 6]);
        CHECK(store_commit(store) == ERR_OK);
    }
    for (uint64_t number = 1; number <= MESSAGES; number += 3) {
        struct msg_id id = msg_id_make(number, 7);
        CHECK(store_begin(store) == ERR_OK);
        CHECK(message_remove(store, &id) == ERR_OK);
        CHECK(store_commit(store) == ERR_OK);
    }
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    (void)st;
    (void)kind;
    (void)ftw;
    return remove(path);
}

/* It may lie in memory. */
static void directory_remove(void)
{
    nftw(directory, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void template_make(void)
{
    const char *root = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(directory, sizeof directory, "%s/fuzz_store.%ld", root, (long)getpid());
    snprintf(file, sizeof file, "%s/data.mdb", directory);
    CHECK(atexit(directory_remove) == 0);
    enum err err;
    struct store *store = queue_open(false, &err);
    CHECK(err == ERR_OK);
    messages_make(store);
    store_close(&store);
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    ssize_t len = read(fd, template, sizeof template);
    CHECK(len > 0 && (size_t)len < sizeof template);
    template_bytes = (size_t)len;
    struct store_pages_report pages;
    CHECK(store_pages_check(fd, STORE_PAGES_FULL, NULL, NULL, &pages) == ERR_OK);
    CHECK(pages.page_bytes == PAGE);
    template_used = (size_t)pages.pages * PAGE;
    close(fd);
}

/* Pages of the file that are not the template's, when nothing but patches has been written. */
static uint8_t patched[TEMPLATE_MAX / PAGE];
static bool written; /* by the store: any page may be another one, and the length too */

static void pages_restore(int fd)
{
    for (size_t page = 0; page < template_used / PAGE; page++) {
        if (patched[page] != 0) {
            CHECK(pwrite(fd, template + page * PAGE, PAGE, (off_t)(page * PAGE)) == PAGE);
            patched[page] = 0;
        }
    }
}

/* The file as it was made. Cut to nothing first, so that nothing of a longer one comes back. */
static void template_restore(void)
{
    int fd = open(file, O_WRONLY | O_CLOEXEC | (written ? O_TRUNC : 0));
    CHECK(fd >= 0);
    if (written) {
        CHECK(write(fd, template, template_used) == (ssize_t)template_used);
        CHECK(ftruncate(fd, (off_t)template_bytes) == 0);
        memset(patched, 0, sizeof patched);
        written = false;
    } else {
        pages_restore(fd);
    }
    close(fd);
}

/*
 * ---- spoiling the pages ----
 */

static void patch_apply(const uint8_t patch[PATCH_BYTES])
{
    uint64_t pages = template_used / PAGE;
    uint8_t *page = scratch + be16_get(patch) % pages * PAGE;
    size_t place = be16_get(patch + 2) % PAGE;
    uint8_t *at = page + place;
    uint16_t narrow = be16_get(patch + 6);
    uint64_t wide = narrow;
    switch (patch[4] % 7) {
    case 0:
        *at ^= patch[5];
        break;
    case 1: /* an offset, a size, flags */
        at = page + (place & ~(size_t)1);
        memcpy(at, &narrow, sizeof narrow);
        break;
    case 2: /* the number of a page, or a count */
        at = page + (place < PAGE - 8 ? place : PAGE - 8);
        memcpy(at, &wide, sizeof wide);
        break;
    case 3:
        memcpy(page, template + narrow % pages * PAGE, PAGE);
        break;
    case 4:
        memset(page, patch[5], PAGE);
        break;
    case 5: /* an offset, a size: a little more or less */
        at = page + (place & ~(size_t)1);
        memcpy(&narrow, at, sizeof narrow);
        narrow = (uint16_t)(narrow + (int8_t)patch[5]);
        memcpy(at, &narrow, sizeof narrow);
        break;
    default: /* a piece of another page */
        memcpy(at, template + narrow % pages * PAGE + place, size_min(PAGE - place, patch[5]));
        break;
    }
}

static void pages_spoil(struct slice patches)
{
    memcpy(scratch, template, template_used);
    for (size_t index = 0; index < PATCHES_MAX && patches.len >= PATCH_BYTES; index++) {
        patch_apply(patches.data);
        patches = slice_tail(patches, PATCH_BYTES);
    }
    int fd = open(file, O_WRONLY | O_CLOEXEC);
    CHECK(fd >= 0);
    for (size_t at = 0; at < template_used; at += PAGE) {
        if (memcmp(scratch + at, template + at, PAGE) != 0) {
            CHECK(pwrite(fd, scratch + at, PAGE, (off_t)at) == PAGE);
            patched[at / PAGE] = 1;
        }
    }
    close(fd);
}

/*
 * ---- spoiling what lies in the databases ----
 */

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

/*
 * ---- using it ----
 */

struct found {
    struct msg_id ids[ROWS_MAX];
    size_t count;
};

static bool row_take(void *ctx, const struct store_row *row)
{
    struct found *found = ctx;
    found->ids[found->count++] = row->id;
    return found->count < ROWS_MAX;
}

static void message_use(struct store_reader *reader, const struct msg_id *id)
{
    static uint8_t memory[65536];
    struct buf to;
    struct slice envelope;
    struct slice state;
    size_t needed;
    buf_init(&to, memory, sizeof memory);
    enum err err = store_read_message(reader, id, &to, &envelope, &state, &needed);
    uint64_t offset = 0;
    do {
        buf_init(&to, memory, sizeof memory);
        err = store_read_body(reader, id, offset, &to);
        offset += to.len;
    } while (err == ERR_OK && to.len > 0 && offset < (1u << 20));
}

static void due_use(struct store *store)
{
    uint32_t routes[4];
    struct store_due due[ROWS_MAX];
    enum err err;
    size_t count = store_due_routes(store, routes, 4, &err);
    for (size_t index = 0; index < count; index++) {
        size_t got = store_due_after(store, routes[index], NULL, due, ROWS_MAX, &err);
        CHECK(got <= ROWS_MAX);
    }
}

static void queue_use(struct store *store, bool write)
{
    struct store_reader *reader = NULL;
    if (store_reader_new(&reader, store) != ERR_OK) {
        return;
    }
    struct found found = {0};
    struct msg_id next = {{0}};
    enum err err = store_read_rows(reader, &next, ROWS_MAX, row_take, &found, &next);
    for (size_t index = 0; index < found.count; index++) {
        message_use(reader, &found.ids[index]);
    }
    due_use(store);
    for (size_t index = 0; index < found.count && write; index++) {
        if (store_begin(store) == ERR_OK) {
            if (message_remove(store, &found.ids[index]) == ERR_OK) {
                err = store_commit(store);
            } else {
                store_abort(store);
            }
        }
    }
    CHECK(err < ERR_COUNT);
    store_reader_free(&reader);
}

static enum err pages_judge(bool *out_order_only)
{
    struct store_pages_report pages;
    enum err err = store_pages_check_queue(directory, STORE_PAGES_FULL, NULL, NULL, &pages);
    CHECK(err == ERR_OK || (err == ERR_DAMAGED && pages.problem[0] != '\0'));
    *out_order_only = pages.order_only;
    return err;
}

static void pages_try(struct slice patches, bool write)
{
    pages_spoil(patches);
    bool order_only = false;
    enum err err = pages_judge(&order_only);
    if (err != ERR_OK && !order_only) {
        return;
    }
    written = write;
    struct store *store = queue_open(!write, &err);
    if (err == ERR_OK) {
        queue_use(store, write);
        store_close(&store);
    }
    /* What is written into a sound tree leaves a sound tree. */
    err = pages_judge(&order_only);
    CHECK(err == ERR_OK || order_only);
}

static void entries_try(struct slice entries)
{
    enum err err;
    written = true;
    struct store *store = queue_open(false, &err);
    CHECK(err == ERR_OK);
    entries_put(store, entries);
    store_close(&store);
    store = queue_open(false, &err);
    if (err == ERR_OK) {
        queue_use(store, true);
        store_close(&store);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (template_bytes == 0) {
        template_make();
    }
    if (size == 0) {
        return 0;
    }
    template_restore();
    struct slice rest = slice_of(data + 1, size - 1);
    if (data[0] % 2 == 0) {
        pages_try(rest, (data[0] & 2) != 0);
    } else {
        entries_try(rest);
    }
    return 0;
}
