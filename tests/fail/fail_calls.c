/*
 * The calls of calls.def, each as fail_NAME: counted, and failed when it is the one. io_uring's are
 * in fail_ring.c.
 *
 * A call that fails has the effects that the real one has when it fails: a descriptor is closed all
 * the same, a transaction is gone, a callback is called with the error.
 */
#include "tests/fail/fail.h"
#include "tests/fail/fail_libraries.h"

#include <linux/magic.h>
#include <stdarg.h>
#include <string.h>

struct fail_shared *fail_shared;

/* This thread is in a library's call for memory. */
static _Thread_local unsigned in_library;

_Static_assert(FAIL_ROW_COUNT <= 256, "a row fits into a key");

const struct fail_row fail_rows[FAIL_ROW_COUNT] = {
#define COUNT(...) (sizeof((int[]){__VA_ARGS__}) / sizeof(int))
#define ROW(kind, name, ...)                                                                       \
    [FAIL_ROW_##name] = {#name, FAIL_##kind, COUNT(__VA_ARGS__), {__VA_ARGS__}},
#define CALL(kind, type, name, parameters, arguments, value, ...)  ROW(kind, name, __VA_ARGS__)
#define BYTES(kind, type, name, parameters, arguments, bytes, ...) ROW(kind, name, __VA_ARGS__)
#define OWN(kind, type, name, parameters, ...)                     ROW(kind, name, __VA_ARGS__)
#define ENTRY(name, ...)                                           ROW(RING, name, __VA_ARGS__)
#include "tests/fail/calls.def"
};

#define OWN_FRAMES_MAX 6 /* of the rig, between the product and the count */

/* ---- where a call comes from ---- */

/* The linker's names for where the product's code lies: its sections are renamed to this. */
extern const char __start_product_text[] __attribute__((weak));
extern const char __stop_product_text[] __attribute__((weak));

static bool is_product(uintptr_t address)
{
    return address >= (uintptr_t)__start_product_text && address < (uintptr_t)__stop_product_text;
}

/*
 * The return addresses of the product's functions, from the one that made the call outwards. All of
 * the product is built with frame pointers; the first frame that is not its own ends the walk,
 * since beyond a library's function there may be none.
 */
__attribute__((noinline)) static void site_walk(struct fail_site *site, const uintptr_t *frame)
{
    site->depth = 0;
    for (int own = 0; own < OWN_FRAMES_MAX && !is_product(frame[1]); own++) {
        frame = (const uintptr_t *)frame[0];
    }
    while (site->depth < FAIL_STACK_MAX && is_product(frame[1])) {
        site->stack[site->depth++] = frame[1];
        frame = (const uintptr_t *)frame[0];
    }
}

__attribute__((noinline)) int fail_now(enum fail_row_index index)
{
    struct fail_shared *s = fail_shared;
    const struct fail_row *row = &fail_rows[index];
    const uintptr_t *frame = __builtin_frame_address(0);
    if (s == NULL || in_library > 0 || !atomic_load_explicit(&s->armed, memory_order_relaxed) ||
        (s->kinds & 1u << row->kind) == 0) {
        return 0;
    }
    struct fail_site site = {.row = index};
    uint64_t number = atomic_fetch_add(&s->calls, 1) + 1;
    uint64_t key = 0;
    if (s->tracing || s->site_at != 0 || s->at == number) {
        site_walk(&site, frame);
        key = fail_site_key(&site);
    }
    if (s->tracing && number <= FAIL_TRACE_MAX) {
        s->trace[number - 1] = key;
    }
    if (number != s->at && (s->site_at == 0 || key != s->site_at)) {
        return 0;
    }
    if (atomic_exchange(&s->taken, true)) {
        return 0; /* another thread, at the same site */
    }
    s->site = site;
    s->error = row->errors[s->variant % row->error_count];
    atomic_store(&s->reached, true);
    return s->error;
}

/* ---- what OpenSSL leaves in its queue when it fails ---- */

static int tls_reason(int result)
{
    ERR_raise(ERR_LIB_SSL, ERR_R_MALLOC_FAILURE);
    return result;
}

static void *tls_reason_null(void)
{
    (void)tls_reason(0);
    return NULL;
}

/* ---- the plain ones ---- */

#define CALL(kind, type, name, parameters, arguments, value, ...)                                  \
    type fail_##name parameters;                                                                   \
    type fail_##name parameters                                                                    \
    {                                                                                              \
        int error = fail_now(FAIL_ROW_##name);                                                     \
        if (error != 0) {                                                                          \
            errno = error;                                                                         \
            return value;                                                                          \
        }                                                                                          \
        return name arguments;                                                                     \
    }
/* Counters of eight bytes, an eventfd's, are never cut. */
#define BYTES(kind, type, name, parameters, arguments, bytes, ...)                                 \
    type fail_##name parameters;                                                                   \
    type fail_##name parameters                                                                    \
    {                                                                                              \
        int error = fail_now(FAIL_ROW_##name);                                                     \
        if (error == FAIL_SHORT) {                                                                 \
            (bytes) = (bytes) > sizeof(uint64_t) ? (bytes) / 2 : (bytes);                          \
        } else if (error != 0) {                                                                   \
            errno = error;                                                                         \
            return -1;                                                                             \
        }                                                                                          \
        return name arguments;                                                                     \
    }
#define OWN(kind, type, name, parameters, ...) type fail_##name parameters;
#define ENTRY(name, ...)
#include "tests/fail/calls.def"

/* ---- those with more to do ---- */

/* An eventfd, non-blocking, knows one failure: EAGAIN. */
static bool is_bell(int fd)
{
    char link[64], target[64];
    (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ssize_t len = readlink(link, target, sizeof(target) - 1);
    target[len > 0 ? len : 0] = '\0';
    return strstr(target, "[eventfd]") != NULL;
}

ssize_t fail_read(int fd, void *to, size_t bytes)
{
    int error = fail_now(FAIL_ROW_read);
    if (error == FAIL_SHORT) {
        return read(fd, to, bytes > sizeof(uint64_t) ? bytes / 2 : bytes);
    }
    if (error != 0) {
        errno = is_bell(fd) ? EAGAIN : error;
        return -1;
    }
    return read(fd, to, bytes);
}

/* A bell that says EAGAIN rings already. */
ssize_t fail_write(int fd, const void *from, size_t bytes)
{
    int error = fail_now(FAIL_ROW_write);
    if (error == FAIL_SHORT) {
        return write(fd, from, bytes > sizeof(uint64_t) ? bytes / 2 : bytes);
    }
    if (error != 0) {
        bool bell = is_bell(fd);
        ssize_t done = bell ? write(fd, from, bytes) : 0;
        (void)done;
        errno = bell ? EAGAIN : error;
        return -1;
    }
    return write(fd, from, bytes);
}

/*
 * The SASL library's memory comes from the product. It is the library that asks, and it does not
 * survive a refusal everywhere (2.1.28: sasl_client_new reports it into a connection that is not
 * there); so what it asks for does not count.
 */
static struct {
    sasl_malloc_t *get;
    sasl_calloc_t *get_cleared;
    sasl_realloc_t *resize;
} sasl_memory;

static void *sasl_get(size_t bytes)
{
    in_library++;
    void *memory = sasl_memory.get(bytes);
    in_library--;
    return memory;
}

static void *sasl_get_cleared(size_t count, size_t bytes)
{
    in_library++;
    void *memory = sasl_memory.get_cleared(count, bytes);
    in_library--;
    return memory;
}

static void *sasl_resize(void *old, size_t bytes)
{
    in_library++;
    void *memory = sasl_memory.resize(old, bytes);
    in_library--;
    return memory;
}

void fail_sasl_set_alloc(sasl_malloc_t *get, sasl_calloc_t *get_cleared, sasl_realloc_t *resize,
                         sasl_free_t *put)
{
    sasl_memory.get = get;
    sasl_memory.get_cleared = get_cleared;
    sasl_memory.resize = resize;
    sasl_set_alloc(sasl_get, sasl_get_cleared, sasl_resize, put);
}

bool fail_is_moved(const char *path)
{
    uint32_t moved = fail_shared == NULL ? 0 : atomic_load(&fail_shared->moved);
    for (uint32_t at = 0; at < FAIL_DIRECTORIES_MAX; at++) {
        const char *directory = fail_shared->directories[at];
        if ((moved & 1u << at) != 0 && strncmp(path, directory, strlen(directory)) == 0) {
            return true;
        }
    }
    return false;
}

/* The product tells of a queue in memory; where it is the rig that has put it there, not. */
int fail_statfs(const char *path, struct statfs *to)
{
    int error = fail_now(FAIL_ROW_statfs);
    if (error != 0) {
        errno = error;
        return -1;
    }
    int result = statfs(path, to);
    if (result == 0 && fail_is_moved(path)) {
        to->f_type = EXT4_SUPER_MAGIC;
    }
    return result;
}

int fail_open(const char *path, int flags, ...)
{
    va_list more;
    va_start(more, flags);
    mode_t mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(more, mode_t) : 0;
    va_end(more);
    int error = fail_now(FAIL_ROW_open);
    if (error != 0) {
        errno = error;
        return -1;
    }
    return open(path, flags, mode);
}

/* All that it is called with here fits into a long. */
int fail_fcntl(int fd, int what, ...)
{
    va_list more;
    va_start(more, what);
    long argument = va_arg(more, long);
    va_end(more);
    int error = fail_now(FAIL_ROW_fcntl);
    if (error != 0) {
        errno = error;
        return -1;
    }
    return fcntl(fd, what, argument);
}

/* close(2): the descriptor is gone, whatever it returns. */
int fail_close(int fd)
{
    int error = fail_now(FAIL_ROW_close);
    int result = close(fd);
    if (error != 0) {
        errno = error;
        return -1;
    }
    return result;
}

/*
 * A write that fails for want of memory or space spoils its transaction: from then on LMDB refuses
 * it everything but the end. One at a time: LMDB has one writer.
 */
static _Atomic(MDB_txn *) spoiled;

static int spoil(MDB_txn *txn, int error)
{
    atomic_store(&spoiled, txn);
    return error;
}

int fail_mdb_txn_commit(MDB_txn *txn)
{
    int error = fail_now(FAIL_ROW_mdb_txn_commit);
    if (error == 0 && atomic_load(&spoiled) == txn) {
        error = MDB_BAD_TXN;
    }
    atomic_store(&spoiled, NULL);
    if (error != 0) {
        mdb_txn_abort(txn);
        return error;
    }
    return mdb_txn_commit(txn);
}

int fail_mdb_put(MDB_txn *txn, MDB_dbi dbi, MDB_val *key, MDB_val *value, unsigned flags)
{
    int error = fail_now(FAIL_ROW_mdb_put);
    return error != 0 ? spoil(txn, error) : mdb_put(txn, dbi, key, value, flags);
}

int fail_mdb_del(MDB_txn *txn, MDB_dbi dbi, MDB_val *key, MDB_val *value)
{
    int error = fail_now(FAIL_ROW_mdb_del);
    return error != 0 ? spoil(txn, error) : mdb_del(txn, dbi, key, value);
}

int fail_mdb_cursor_del(MDB_cursor *cursor, unsigned flags)
{
    int error = fail_now(FAIL_ROW_mdb_cursor_del);
    return error != 0 ? spoil(mdb_cursor_txn(cursor), error) : mdb_cursor_del(cursor, flags);
}

int fail_mdb_drop(MDB_txn *txn, MDB_dbi dbi, int del)
{
    int error = fail_now(FAIL_ROW_mdb_drop);
    return error != 0 ? spoil(txn, error) : mdb_drop(txn, dbi, del);
}

void fail_ares_query(ares_channel channel, const char *name, int class, int type,
                     ares_callback callback, void *context)
{
    int error = fail_now(FAIL_ROW_ares_query);
    if (error != 0) {
        callback(context, error, 0, NULL, 0);
    } else {
        ares_query(channel, name, class, type, callback, context);
    }
}

void fail_ares_getaddrinfo(ares_channel channel, const char *name, const char *service,
                           const struct ares_addrinfo_hints *hints, ares_addrinfo_callback callback,
                           void *context)
{
    int error = fail_now(FAIL_ROW_ares_getaddrinfo);
    if (error != 0) {
        callback(context, error, 0, NULL);
    } else {
        ares_getaddrinfo(channel, name, service, hints, callback, context);
    }
}

json_t *fail_json_loadb(const char *text, size_t bytes, size_t flags, json_error_t *out)
{
    if (fail_now(FAIL_ROW_json_loadb) != 0) {
        memset(out, 0, sizeof(*out));
        return NULL;
    }
    return json_loadb(text, bytes, flags, out);
}
