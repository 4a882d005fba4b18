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

#include <lmdb.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define RAW_MAP_BYTES ((uint64_t)64 << 20)

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

/* One transaction. */
static inline void raw_do(const char *directory, void (*make)(struct raw *r))
{
    struct raw r;
    assert_int_equal(mdb_env_create(&r.env), 0);
    assert_int_equal(mdb_env_set_maxdbs(r.env, 16), 0);
    assert_int_equal(mdb_env_set_mapsize(r.env, RAW_MAP_BYTES), 0);
    assert_int_equal(mdb_env_open(r.env, directory, 0, 0600), 0);
    assert_int_equal(mdb_txn_begin(r.env, NULL, 0, &r.txn), 0);
    make(&r);
    assert_int_equal(mdb_txn_commit(r.txn), 0);
    mdb_env_close(r.env);
    char path[160];
    snprintf(path, sizeof path, "%s/data.mdb", directory);
    assert_int_equal(truncate(path, (off_t)RAW_MAP_BYTES),
                     0); /* LMDB itself may leave it too short */
}

#endif
