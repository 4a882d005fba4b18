/*
 * What the files of the store share. schema/STORE.md describes what lies on disk.
 *
 * Invariants
 *   - At most one write transaction, begun and ended by the queue thread (store->txn).
 *   - A read transaction lives inside one call. Between calls it is reset: it keeps its slot in
 *     the reader table, but pins no page.
 *   - A value read from LMDB is trusted only after its checksum fits, and each checksum covers the
 *     key, so that a record that lies under another one's key is found out too.
 *   - Bodies are read with pread, not through the map: a body costs no resident memory, and a disk
 *     that cannot read is an error of that call instead of a SIGBUS.
 */
#ifndef TASUKI_STORE_STORE_INTERNAL_H
#define TASUKI_STORE_STORE_INTERNAL_H

#include "daemon/base/num.h"
#include "daemon/store/store.h"

#include <lmdb.h>
#include <stdatomic.h>

#define STORE_VERSION 1

/* Measured in daemon/decisions/0004: four pages, less LMDB's page header and ours. */
#define STORE_CHUNK_BYTES_DEFAULT 16360u
#define STORE_CHUNK_BYTES_MIN     512u

/*
 * MDB_NOTLS ties a reader slot to its transaction instead of its thread. MDB_NOMEMINIT is not
 * wanted either: it would let heap memory reach the disk.
 */
#define STORE_ENV_FLAGS MDB_NOTLS

_Static_assert((STORE_ENV_FLAGS & (MDB_NOSYNC | MDB_NOMETASYNC | MDB_WRITEMAP | MDB_MAPASYNC)) == 0,
               "these lose committed mail when the power fails");
_Static_assert((STORE_ENV_FLAGS & (MDB_NOLOCK | MDB_NOMEMINIT)) == 0,
               "readers in other processes; no heap memory on disk");
_Static_assert(sizeof(size_t) == 8, "LMDB's file is laid out by the width of size_t");
_Static_assert(STORE_CHUNK_BYTES_DEFAULT <= BODY_CHUNK_BYTES_MAX, "a piece holds a chunk");

enum store_db {
    STORE_DB_META,
    STORE_DB_ENVELOPE,
    STORE_DB_STATE,
    STORE_DB_CHUNK,
    STORE_DB_DUE,
    STORE_DB_INTAKE,
    STORE_DB_COUNT
};

#define STORE_CHUNK_KEY_BYTES  (MSG_ID_BYTES + 4)
#define STORE_DUE_KEY_BYTES    (4 + 8 + MSG_ID_BYTES)
#define STORE_CHUNK_HEAD_BYTES 8 /* be32 length, be32 checksum */
#define STORE_SEAL_BYTES       4 /* be32 checksum behind a value */

/* What is counted, committed with what it counts. */
struct store_totals {
    uint64_t count_by_state[MESSAGE_STATE_COUNT];
    uint64_t body_bytes;
    uint64_t last_id;
    uint64_t promised_bytes; /* by how much the state records may yet grow */
};

struct store {
    MDB_env *env; /* owned */
    MDB_dbi dbs[STORE_DB_COUNT];
    MDB_txn *txn;           /* owned; NULL outside begin .. commit */
    MDB_txn *own;           /* owned; the queue thread's read transaction, reset between calls */
    MDB_cursor *due_cursor; /* owned; renewed with own */
    struct store_totals committed;
    struct store_totals pending;    /* while txn is open */
    uint64_t used_bytes;            /* pages that hold something, as of the last commit */
    uint64_t queue_bytes_max;       /* accepting stops here; the map goes on */
    uint64_t map_bytes;             /* length of the map */
    uint64_t file_bytes;            /* length of the file, at least what LMDB may have written */
    uint64_t allocated_bytes;       /* of the file, blocks asked for ahead */
    uint64_t txn_pages;             /* bound on the pages that txn may add to the file */
    _Atomic uint64_t touched_bytes; /* of the map, since its pages were last counted */
    const uint8_t *map;             /* borrowed from env: where page 0 is */
    size_t page_bytes;
    uint32_t chunk_bytes; /* of a body in one record */
    uint32_t piece_bytes; /* multiple of chunk_bytes */
    int data_fd;          /* borrowed from env */
    int owner_fd;         /* holds the owner's lock, -1: none */
    uint16_t box;
    bool read_only;
    bool writable;   /* false after ERR_IN_DOUBT */
    bool disk_short; /* the last try to allocate blocks ahead met a full disk */
};

struct store_reader {
    struct store *store;    /* borrowed, outlives the reader */
    MDB_txn *txn;           /* owned; reset between calls */
    MDB_cursor *row_cursor; /* owned; over the envelopes */
    uint8_t *scratch;       /* owned, one chunk: for reads that want only a part of one */
    struct msg_id body_id;  /* whose envelope body_bytes was taken from */
    uint64_t body_bytes;    /* valid when body_known */
    bool body_known;
};

/* An LMDB or errno code as ours. */
enum err store_err(int code);

static inline MDB_val store_val(struct slice s)
{
    MDB_val val = {.mv_size = s.len};
    memcpy(&val.mv_data, &s.data, sizeof s.data); /* LMDB only reads what is put */
    return val;
}

static inline struct slice store_val_slice(MDB_val val)
{
    return slice_of(val.mv_data, val.mv_size);
}

void store_chunk_key(uint8_t key[STORE_CHUNK_KEY_BYTES], const struct msg_id *id, uint32_t index);
void store_due_key(uint8_t key[STORE_DUE_KEY_BYTES], uint32_t route, uint64_t due_ms,
                   const struct msg_id *id);

/* Checksum of a value, bound to its key. */
uint32_t store_seal(struct slice key, struct slice bytes);

/* Checksum of a chunk: over its key, its length (be32) and its bytes. */
uint32_t store_chunk_crc(struct slice key, struct slice bytes);

/* The bytes before the seal. Errors: ERR_DAMAGED. */
MUST_CHECK enum err store_unseal(struct slice key, struct slice value, struct slice *out_bytes);

/* One sealed value by its key, borrowed from the transaction. Errors: ERR_NOT_FOUND, ERR_DAMAGED.
 */
MUST_CHECK enum err store_get_sealed(const struct store *store, MDB_txn *txn, enum store_db db,
                                     struct slice key, struct slice *out_bytes);

/* The same for a state record, decoded: what the index and the counts need to know of it. */
struct store_standing {
    enum message_state state;
    uint32_t route;
    uint64_t due_ms;
    uint64_t promised_bytes;
};
MUST_CHECK enum err store_standing_of(struct slice state, struct store_standing *out);

/* store_write.c: put and delete in the open transaction, with the account of pages. */
MUST_CHECK enum err store_put(struct store *store, enum store_db db, struct slice key,
                              struct slice value, unsigned flags);
MUST_CHECK enum err store_put_sealed(struct store *store, enum store_db db, struct slice key,
                                     struct slice bytes, unsigned flags);
MUST_CHECK enum err store_delete(struct store *store, enum store_db db, struct slice key);
MUST_CHECK enum err store_chunks_delete(struct store *store, const struct msg_id *id,
                                        uint64_t *out_bytes);

/* store_file.c: the directory and the file, before and below LMDB. */
#define STORE_PATH_BYTES_MAX 4096
void store_problem(struct store_report *report, const char *format, ...) PRINTF_LIKE(2, 3);
MUST_CHECK enum err store_directory_prepare(const struct store_config *config,
                                            struct store_report *report);
MUST_CHECK enum err store_owner_lock(const char *directory, int *out_fd,
                                     struct store_report *report);
MUST_CHECK enum err store_file_create(const struct store_config *config,
                                      struct store_report *report);
MUST_CHECK enum err store_file_check(const char *directory, uint64_t *out_used_bytes,
                                     struct store_report *report);
MUST_CHECK enum err store_file_extend(struct store *store, uint64_t bytes);
void store_file_allocate(struct store *store);
MUST_CHECK bool store_disk_has(const struct store *store, uint64_t bytes);
void store_fault_range_set(const uint8_t *map, uint64_t bytes);

/* store_env.c */
#define STORE_FORMAT_BYTES 22
extern const char *const store_db_names[STORE_DB_COUNT];
void store_format_encode(uint32_t chunk_bytes, uint16_t box, uint8_t to[STORE_FORMAT_BYTES]);
#define STORE_FAULT_BYTES 65536u /* what the kernel maps at most around a page that is read */
uint64_t store_used_bytes(const struct store *store, MDB_txn *txn);
void store_touched(struct store *store, uint64_t bytes);

/* store_recover.c */
#define STORE_TOTALS_BYTES (8 * (MESSAGE_STATE_COUNT + 4))
void store_totals_encode(const struct store_totals *totals, uint8_t to[STORE_TOTALS_BYTES]);
MUST_CHECK enum err store_totals_load(struct store *store, bool *out_sound);
MUST_CHECK enum err store_rebuild(struct store *store);
MUST_CHECK enum err store_recount(struct store *store, MDB_txn *txn, const struct msg_id *without,
                                  struct store_totals *totals);
MUST_CHECK enum err store_intake_clear(struct store *store, uint64_t *out_discarded);

#endif
