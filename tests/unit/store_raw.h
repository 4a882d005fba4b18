/*
 * What the store would not write, written with LMDB itself: for the tests of damage. The queue is
 * closed for it.
 */
#ifndef TASUKI_TESTS_UNIT_STORE_RAW_H
#define TASUKI_TESTS_UNIT_STORE_RAW_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "daemon/base/slice.h"

#include <fcntl.h>
#include <lmdb.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define RAW_MAP_BYTES  ((uint64_t)64 << 20)
#define RAW_PAGE_BYTES 4096u

struct raw {
    MDB_env *env;
    MDB_txn *txn;
};

static inline MDB_dbi raw_dbi(struct raw *r, const char *db)
{
    MDB_dbi dbi = 0;
    assert_int_equal(mdb_dbi_open(r->txn, db, 0, &dbi), 0);
    return dbi;
}

static inline MDB_val raw_val(struct slice s)
{
    MDB_val val = {.mv_size = s.len};
    memcpy(&val.mv_data, &s.data, sizeof s.data);
    return val;
}

static inline void raw_put(struct raw *r, const char *db, struct slice key, struct slice value)
{
    MDB_val k = raw_val(key);
    MDB_val v = raw_val(value);
    assert_int_equal(mdb_put(r->txn, raw_dbi(r, db), &k, &v, 0), 0);
}

static inline void raw_delete(struct raw *r, const char *db, struct slice key)
{
    MDB_val k = raw_val(key);
    assert_int_equal(mdb_del(r->txn, raw_dbi(r, db), &k, NULL), 0);
}

static inline void raw_open(struct raw *r, const char *directory)
{
    assert_int_equal(mdb_env_create(&r->env), 0);
    assert_int_equal(mdb_env_set_maxdbs(r->env, 16), 0);
    assert_int_equal(mdb_env_set_mapsize(r->env, RAW_MAP_BYTES), 0);
    assert_int_equal(mdb_env_open(r->env, directory, 0, 0600), 0);
    assert_int_equal(mdb_txn_begin(r->env, NULL, 0, &r->txn), 0);
}

/* One transaction. */
static inline void raw_do(const char *directory, void (*make)(struct raw *r))
{
    struct raw r;
    raw_open(&r, directory);
    make(&r);
    assert_int_equal(mdb_txn_commit(r.txn), 0);
    mdb_env_close(r.env);
    char path[160];
    snprintf(path, sizeof path, "%s/data.mdb", directory);
    assert_int_equal(truncate(path, (off_t)RAW_MAP_BYTES),
                     0); /* LMDB itself may leave it too short */
}

/* The page of a database in which its last key is; it is there until the database is written. */
static inline uint64_t raw_last_page(const char *directory, const char *db)
{
    struct raw r;
    MDB_cursor *cursor;
    MDB_val key;
    MDB_val value;
    uint64_t number;
    raw_open(&r, directory);
    assert_int_equal(mdb_cursor_open(r.txn, raw_dbi(&r, db), &cursor), 0);
    assert_int_equal(mdb_cursor_get(cursor, &key, &value, MDB_LAST), 0);
    const uint8_t *at = key.mv_data;
    memcpy(&number, at - (uintptr_t)at % RAW_PAGE_BYTES, sizeof number); /* a page begins with it */
    mdb_cursor_close(cursor);
    mdb_txn_abort(r.txn);
    mdb_env_close(r.env);
    return number;
}

/* The page with which the run of a long value begins. */
static inline uint64_t raw_run_page(const char *directory, const char *db, struct slice key)
{
    struct raw r;
    MDB_val k = raw_val(key);
    MDB_val value;
    uint64_t number;
    raw_open(&r, directory);
    assert_int_equal(mdb_get(r.txn, raw_dbi(&r, db), &k, &value), 0);
    const uint8_t *at = value.mv_data;
    assert_int_equal((uintptr_t)at % RAW_PAGE_BYTES, 16);
    memcpy(&number, at - 16, sizeof number);
    mdb_txn_abort(r.txn);
    mdb_env_close(r.env);
    return number;
}

/* One byte of a page: also while the queue is in use. */
static inline void raw_page_flip(const char *directory, uint64_t number, size_t at, uint8_t mask)
{
    uint8_t byte;
    char path[160];
    snprintf(path, sizeof path, "%s/data.mdb", directory);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    off_t place = (off_t)(number * RAW_PAGE_BYTES + at);
    assert_int_equal(pread(fd, &byte, 1, place), 1);
    byte ^= mask;
    assert_int_equal(pwrite(fd, &byte, 1, place), 1);
    close(fd);
}

/* As a disk may that has lost it: also while the queue is in use. */
static inline void raw_page_zero(const char *directory, uint64_t number)
{
    static const uint8_t zeros[RAW_PAGE_BYTES];
    char path[160];
    snprintf(path, sizeof path, "%s/data.mdb", directory);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, zeros, sizeof zeros, (off_t)(number * RAW_PAGE_BYTES)),
                     sizeof zeros);
    close(fd);
}

#endif
