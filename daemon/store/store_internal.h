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
#include <pthread.h>
#include <stdatomic.h>

#define STORE_VERSION 2

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
    STORE_DB_TRAIL,
    STORE_DB_CHUNK,
    STORE_DB_DUE,
    STORE_DB_INTAKE,
    STORE_DB_HISTORY,
    STORE_DB_TALLY, /* "count": messages by upstream, device and reason */
    STORE_DB_UPSTREAM,
    STORE_DB_COUNT
};

#define STORE_CHUNK_KEY_BYTES  (MSG_ID_BYTES + 4)
#define STORE_DUE_KEY_BYTES    (4 + 8 + MSG_ID_BYTES)
#define STORE_DUE_BYTES        8                             /* be32 flow, be32 KiB */
#define STORE_TALLY_KEY_BYTES  (1 + RECORD_DEVICE_BYTES_MAX) /* at most: kind, name */
#define STORE_TALLY_BYTES      (8 * MESSAGE_STATE_COUNT)
#define STORE_CHUNK_HEAD_BYTES 8 /* be32 length, be32 checksum */
#define STORE_SEAL_BYTES       4 /* be32 checksum behind a value */

/* What is counted, committed with what it counts. */
struct store_totals {
    uint64_t count_by_state[MESSAGE_STATE_COUNT];
    uint64_t body_bytes;
    uint64_t last_id;
    uint64_t promised_bytes; /* by how much the state records may yet grow */
    uint64_t history_count;
    uint64_t history_bytes;   /* values, seals included */
    struct store_clock clock; /* as it was set last */
};

/*
 * By how much one row of counts changes through the open transaction. They are gathered here and
 * written at the commit, so that fifty messages of one device cost one row and not a hundred.
 */
struct store_tally {
    int64_t change[MESSAGE_STATE_COUNT];
    uint32_t hash; /* of the key */
    uint8_t key_bytes;
    uint8_t key[STORE_TALLY_KEY_BYTES];
};

/* A body that is still being received, from its first piece on. */
struct store_intake {
    uint32_t pieces;
    uint64_t bytes;
};

/*
 * One whose first piece came with the open transaction. Most have ended before its commit; the rest
 * is put on the list then. (A tree that gets its first entry and loses it again leaves a page
 * behind, which LMDB writes: that was every second page of a commit of small messages.)
 */
struct store_fresh {
    struct msg_id id;
    struct store_intake intake;
};

#define STORE_FRESH_MAX   64
#define STORE_TALLIES_MAX 64
#define STORE_TALLY_ROWS  3 /* of one message at most: upstream, device, reason */

struct store {
    MDB_env *env; /* owned */
    MDB_dbi dbs[STORE_DB_COUNT];
    MDB_txn *txn;           /* owned; NULL outside begin .. commit */
    MDB_txn *own;           /* owned; the queue thread's read transaction, reset between calls */
    MDB_cursor *due_cursor; /* owned; renewed with own */
    struct store_totals committed;
    struct store_totals pending; /* while txn is open */
    bool summary_stale;          /* the one on disk is damaged, or of another format */
    bool tallies_stale;          /* rows of counts are not right: made anew at the commit */
    bool due_stale;              /* an entry of the index was not where its state says */
    uint32_t tally_count;        /* in tallies, while txn is open */
    struct store_tally tallies[STORE_TALLIES_MAX];
    uint32_t fresh_count; /* in fresh, while txn is open */
    struct store_fresh fresh[STORE_FRESH_MAX];
    struct msg_id history_at; /* where the walk for old history goes on */
    uint8_t *scratch;         /* owned, one chunk: for store_body_head */
    uint64_t used_bytes;      /* pages that hold something, as of the last commit; the
                                 history's not */
    uint64_t queue_bytes_max; /* accepting stops here; the map goes on */
    uint64_t history_bytes_max;
    uint64_t map_bytes;             /* length of the map */
    uint64_t file_bytes;            /* length of the file, at least what LMDB may have written */
    uint64_t allocated_bytes;       /* of the file, blocks asked for ahead */
    uint64_t txn_pages;             /* bound on the pages that txn may add to the file */
    _Atomic uint64_t touched_bytes; /* of the map, since its pages were last counted */
    const uint8_t *map;             /* borrowed from env: where page 0 is */
    size_t page_bytes;
    uint32_t chunk_bytes;         /* of a body in one record */
    uint32_t piece_bytes;         /* multiple of chunk_bytes */
    int data_fd;                  /* borrowed from env */
    int owner_fd;                 /* holds the owner's lock, -1: none */
    int swap_fd;                  /* holds swap.lock, shared; -1: none */
    uint32_t readers_max;         /* slots in LMDB's table */
    pthread_rwlock_t swap_guard;  /* shared: within a reader's call; else: env is being replaced */
    struct store_reader *readers; /* all of them, linked; changed under swap_guard */
    uint16_t box;
    bool read_only;
    bool writable;      /* false after ERR_IN_DOUBT */
    bool pages_damaged; /* which is why */
    bool disk_short;    /* the last try to allocate blocks ahead met a full disk */
};

struct store_reader {
    struct store *store;       /* borrowed, outlives the reader */
    struct store_reader *next; /* in the store's list */
    MDB_txn *txn;              /* owned; reset between calls */
    MDB_cursor *row_cursor;    /* owned; over the envelopes */
    MDB_cursor *past_cursor;   /* owned; over the history */
    uint8_t *scratch;          /* owned, one chunk: for reads that want only a part of one */
    struct msg_id body_id;     /* whose envelope body_bytes was taken from */
    uint64_t body_bytes;       /* valid when body_known */
    bool body_known;
};

/*
 * An LMDB or errno code as ours: of a read, of the open transaction, and of whichever of the two
 * txn is (the owner's thread only). A page that cannot be used is ERR_DAMAGED to who reads. Who
 * writes may not go on: what would be freed or linked by it is not known. It is ERR_IN_DOUBT then,
 * nothing is committed any more, and the next opening looks at every page.
 */
enum err store_err(int code);
MUST_CHECK enum err store_write_err(struct store *store, int code);
MUST_CHECK enum err store_txn_err(struct store *store, const MDB_txn *txn, int code);
/* The open transaction has met a page that cannot be used: ERR_IN_DOUBT. */
MUST_CHECK enum err store_pages_doubt(struct store *store);

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
void store_due_key(uint8_t key[STORE_DUE_KEY_BYTES], uint32_t route, uint64_t due_q,
                   const struct msg_id *id);

/* Checksum of a value, bound to its key. */
uint32_t store_seal(struct slice key, struct slice bytes);

/* Checksum of a chunk: over its key, its length (be32) and its bytes. */
uint32_t store_chunk_crc(struct slice key, struct slice bytes);

/* The bytes before the seal. Errors: ERR_DAMAGED. */
MUST_CHECK enum err store_unseal(struct slice key, struct slice value, struct slice *out_bytes);

/* One sealed value by its key, borrowed from the transaction: the owner's thread. Errors:
 * ERR_NOT_FOUND, ERR_DAMAGED, ERR_IN_DOUBT. */
MUST_CHECK enum err store_get_sealed(struct store *store, MDB_txn *txn, enum store_db db,
                                     struct slice key, struct slice *out_bytes);

/* Makes *cursor for one walk through a database; the caller closes it. The owner's thread. */
MUST_CHECK enum err store_cursor_open(struct store *store, MDB_txn *txn, enum store_db db,
                                      MDB_cursor **out_cursor);
MUST_CHECK enum err store_cursor_get(struct store *store, MDB_cursor *cursor, MDB_val *key,
                                     MDB_val *value, MDB_cursor_op op);

/* A state record, decoded: what the index and the counts need to know of it. */
struct store_standing {
    enum message_state state;
    enum outcome reason;
    bool indexed;   /* stands in the due index */
    uint32_t route; /* under this route there */
    uint64_t due_q;
    uint32_t flow, size_kib;
    uint64_t promised_bytes;
    struct slice upstream, device; /* borrowed from the record */
};
MUST_CHECK enum err store_standing_of(struct slice state, struct store_standing *out);

/* store_write.c: put and delete in the open transaction, with the account of pages. */
void store_account(struct store *store, uint64_t value_bytes);
MUST_CHECK enum err store_put(struct store *store, enum store_db db, struct slice key,
                              struct slice value, unsigned flags);
MUST_CHECK enum err store_put_sealed(struct store *store, enum store_db db, struct slice key,
                                     struct slice bytes, unsigned flags);
MUST_CHECK enum err store_delete(struct store *store, enum store_db db, struct slice key);
MUST_CHECK enum err store_due_put(struct store *store, const struct msg_id *id,
                                  const struct store_standing *standing);

/*
 * store_run.c: before LMDB frees where a value lies, because it is deleted or replaced. Check: this
 * value; guard: that of the key, if there is one. Errors: ERR_IN_DOUBT.
 */
MUST_CHECK enum err store_run_check(struct store *store, enum store_db db, MDB_val key,
                                    MDB_val value);
MUST_CHECK enum err store_run_guard(struct store *store, enum store_db db, struct slice key);

/* store_body.c */
/* In the map, so in the file: a page that the open transaction has written is in memory still. */
bool store_in_file(const struct store *store, const void *value);
/* Puts the bodies that came with this transaction and have not ended on the list. */
MUST_CHECK enum err store_fresh_flush(struct store *store);
MUST_CHECK enum err store_intake_finish(struct store *store, const struct msg_id *id,
                                        const struct record_envelope *envelope);
/* Takes the body off that list, and removes it unless it is a message's. ERR_OK also when it is not
 * there. */
MUST_CHECK enum err store_intake_drop(struct store *store, const struct msg_id *id,
                                      bool *out_removed);
MUST_CHECK enum err store_chunks_delete(struct store *store, const struct msg_id *id);
uint64_t store_chunks_bytes(const struct store *store, MDB_txn *txn, const struct msg_id *id);
/*
 * One chunk, verified: its bytes from skip on, as many as fit, behind *to.
 *   scratch   chunk_bytes of the store
 * Errors: ERR_DAMAGED (not there included), ERR_IO; then *to is as it was.
 */
MUST_CHECK enum err store_chunk_read(const struct store *store, MDB_txn *txn, uint8_t *scratch,
                                     const struct msg_id *id, uint32_t index, size_t chunk_bytes,
                                     size_t skip, struct buf *to);

/* store_counts.c: the rows of counts. Room is made before whatever is about to be borrowed. */
MUST_CHECK enum err store_tally_room(struct store *store);
void store_tally_add(struct store *store, const struct store_standing *standing, int64_t change);
MUST_CHECK enum err store_tally_flush(struct store *store);
MUST_CHECK enum err store_tally_check(struct store *store, MDB_txn *txn,
                                      const struct store_totals *totals, bool *out_sound);

/* store_history.c */
MUST_CHECK enum err store_history_put(struct store *store, const struct msg_id *id,
                                      struct slice history);
MUST_CHECK enum err store_history_recount(struct store *store, MDB_txn *txn,
                                          struct store_totals *totals);
uint64_t store_history_pages_bytes(const struct store *store, MDB_txn *txn);

/* store_upgrade.c: from version 1. Begin: the first transaction. Run: goes on until all is done. */
MUST_CHECK enum err store_upgrade_begin(struct store *store);
MUST_CHECK enum err store_upgrade_pending(struct store *store, bool *out_pending);
MUST_CHECK enum err store_upgrade_run(struct store *store, uint64_t *out_upgraded);

/* store_file.c: the directory and the file, before and below LMDB. */
#define STORE_PATH_BYTES_MAX 4096
void store_problem(struct store_report *report, const char *format, ...) PRINTF_LIKE(2, 3);
MUST_CHECK enum err store_directory_prepare(const struct store_config *config,
                                            struct store_report *report);
MUST_CHECK enum err store_owner_lock(const char *directory, int *out_fd,
                                     struct store_report *report);
/*
 * How long the owner's map is. LMDB remembers the longest one that a queue ever had, and that is
 * what a reader of another process gets to know from it. Open: -1 when there is no such file. Get:
 * 0 when it does not say.
 */
void store_owner_map_set(int fd, uint64_t map_bytes);
MUST_CHECK int store_owner_open(const char *directory);
MUST_CHECK uint64_t store_owner_map_get(int fd);
/* Blocks for LMDB's lock file at path, before LMDB maps it. */
MUST_CHECK enum err store_lock_file_reserve(const char *path, struct store_report *report);
MUST_CHECK enum err store_file_create(const struct store_config *config,
                                      struct store_report *report);
MUST_CHECK enum err store_file_check(const char *directory, uint64_t *out_used_bytes,
                                     struct store_report *report);
MUST_CHECK enum err store_file_extend(struct store *store, uint64_t bytes);
void store_file_allocate(struct store *store);
MUST_CHECK bool store_disk_has(const struct store *store, uint64_t bytes);
/* So little is left on the disk that a file which goes on growing will soon find none. */
MUST_CHECK bool store_disk_is_low(const struct store *store);
void store_fault_range_set(const uint8_t *map, uint64_t bytes);
/* Makes the next opening look at every page before it maps them. Safe in a signal handler. */
void store_suspect_mark(void);

/* store_env.c */
#define STORE_FORMAT_BYTES 22
extern const char *const store_db_names[STORE_DB_COUNT];
void store_format_encode(uint32_t chunk_bytes, uint16_t box, uint8_t to[STORE_FORMAT_BYTES]);
#define STORE_FAULT_BYTES 65536u /* what the kernel maps at most around a page that is read */
uint64_t store_used_bytes(const struct store *store, MDB_txn *txn);
/* Where page 0 is mapped, by a small value that was read. */
const uint8_t *store_map_find(const struct store *store, const void *value);
/* lock.mdb, when root made it by reading, becomes the queue's owner's. */
void store_lock_file_give(const char *directory, int data_fd);
/*
 * Lets go of the file, and of what the readers have of it; takes it again, with what the format
 * record says as it was. The writing thread, outside a transaction, with swap_guard.
 */
void store_detach(struct store *store);
MUST_CHECK enum err store_attach(struct store *store, const char *directory);

/* store_read.c: a reader's part of that, and the frame of each of its calls: begin, whatever is
 * read, end. No page, nor the map's place, is used outside of it. */
MUST_CHECK enum err store_reader_attach(struct store_reader *reader);
void store_reader_detach(struct store_reader *reader);
MUST_CHECK enum err store_reader_begin(struct store_reader *reader);
void store_reader_end(struct store_reader *reader);
/* One sealed value by its key, within such a call. Errors: ERR_NOT_FOUND, ERR_DAMAGED. */
MUST_CHECK enum err store_reader_sealed(const struct store_reader *reader, enum store_db db,
                                        struct slice key, struct slice *out_bytes);

/*
 * store_compact.c: swap.lock, see schema/STORE.md. Enter: shared, for as long as the file is open;
 * *out_fd is the caller's to close; -1: there is no queue, and none is to be made. Claim: whether
 * nobody else has it open; then nobody may open it until it is shared again.
 */
MUST_CHECK enum err store_swap_enter(const char *directory, bool make, int *out_fd,
                                     struct store_report *report);
MUST_CHECK bool store_swap_claim(int fd);
void store_swap_share(int fd);

/* store_copy.c: writes a copy of the newest commit, without free pages, behind fd, and syncs it. */
struct store_copy {
    MDB_env *env;
    int fd;                /* empty, open for writing */
    struct store *touched; /* whose map is read: for store_touched; or NULL */
    bool may_be_plain;     /* with the free pages, when it cannot be without */
    bool (*go_on)(void *ctx, uint64_t bytes_done); /* false: ERR_CANCELLED; may be NULL */
    void *ctx;
};
MUST_CHECK enum err store_copy_write(const struct store_copy *copy);
void store_touched(struct store *store, uint64_t bytes);

/* store_recover.c */
#define STORE_TOTALS_BYTES (8 * (MESSAGE_STATE_COUNT + 10))
void store_totals_encode(const struct store_totals *totals, uint8_t to[STORE_TOTALS_BYTES]);
MUST_CHECK enum err store_totals_load(struct store *store, bool *out_sound);
MUST_CHECK enum err store_derive(struct store *store);
MUST_CHECK enum err store_rebuild(struct store *store);
MUST_CHECK enum err store_recount(struct store *store, MDB_txn *txn, const struct msg_id *without,
                                  struct store_totals *totals);
MUST_CHECK enum err store_intake_clear(struct store *store, uint64_t *out_discarded);

#endif
