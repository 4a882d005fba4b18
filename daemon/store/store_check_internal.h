/*
 * What the parts of the check share: a queue's file, opened to be read beside whoever uses it, and
 * where findings go. schema/STORE.md says what has to hold; nothing here relies on how the writer
 * makes it so.
 *
 * Memory does not grow with the queue: the databases are sorted, so they are walked side by side;
 * what cannot be walked so is looked up, or counted in several passes.
 */
#ifndef TASUKI_STORE_STORE_CHECK_INTERNAL_H
#define TASUKI_STORE_STORE_CHECK_INTERNAL_H

#include "daemon/store/store_internal.h"

/* Bytes of one finding, its NUL included. */
#define CHECK_FINDING_BYTES 400

/* What the records amount to, counted anew; to be held against the summary. */
struct check_totals {
    uint64_t count_by_state[MESSAGE_STATE_COUNT];
    uint64_t states_damaged; /* in no row of the above */
    uint64_t body_bytes;
    uint64_t promised_bytes;
    uint64_t last_id;
    uint64_t history_count, history_bytes;
};

struct check {
    struct store
        store;        /* of it: what reading takes (env, dbs, data_fd, map, page and chunk size) */
    MDB_txn *txn;     /* owned; the commit that is judged, pinned */
    int swap_fd;      /* owned; -1: none */
    int owner_fd;     /* owned; where the writer says how long its map is; -1: nowhere */
    bool is_copy;     /* one file that nobody else uses, instead of a queue's directory */
    uint8_t *scratch; /* owned, one chunk: for store_chunk_read */
    uint8_t *content; /* owned, one chunk */
    uint64_t last_page;  /* of the file, when it was opened */
    uint64_t used_bytes; /* pages that hold something, once they have been verified */
    store_finding_fn *fn;
    void *ctx;
    store_progress_fn *progress; /* may be NULL */
    void *progress_ctx;
    uint64_t rows_done, rows_total;
    struct check_totals totals;
    char first[CHECK_FINDING_BYTES]; /* finding */
    struct store_check *out;         /* borrowed */
    struct store_report *report;     /* borrowed */
    enum err stopped;                /* ERR_OK: goes on */
};

/*
 * store_check.c
 *
 * Opens what lies at path (a queue's directory, or a copy's file: c->is_copy), pins its newest
 * commit and verifies all pages; then the databases may be read. Fields of *c that are not the
 * check's own are the caller's to set before. Errors: as store_check's.
 */
MUST_CHECK enum err check_open(struct check *c, const char *path);
MUST_CHECK enum err check_pages(struct check *c);
MUST_CHECK enum err check_databases(struct check *c);
/* Finds out where the map is, from the format record. */
MUST_CHECK enum err check_map(struct check *c, struct slice *out_format);
void check_close(struct check *c);

/* All of it, for a directory or for a copy. */
MUST_CHECK enum err check_run(struct check *c, const char *path);

/*
 * A commit that is pinned keeps the writer from using pages again that it has freed. True: the file
 * has grown so near its bound, or the disk's, meanwhile that the reader has to give way. Sets
 * stopped and says so.
 */
MUST_CHECK bool check_is_in_the_way(struct check *c);

/* One line; id may be NULL. Arguments are our own words and numbers, or escaped. */
void check_finding(struct check *c, const struct msg_id *id, const char *format, ...)
    PRINTF_LIKE(3, 4);

/* One more row was read. False: stop. */
MUST_CHECK bool check_tick(struct check *c);

/* The next row of a cursor. False: at the end, which is a finding when it is an error. */
MUST_CHECK bool check_next(struct check *c, MDB_cursor *cursor, enum store_db db, MDB_val *key,
                           MDB_val *value);

/* store_check_message.c: envelope, state, trail, chunks, intake and history, side by side. */
void check_messages(struct check *c);

/* store_check_index.c */
MUST_CHECK bool check_format(struct check *c); /* false: nothing else can be read */
void check_summary(struct check *c);           /* after check_messages */
void check_due(struct check *c);
void check_counts(struct check *c);
void check_upstreams(struct check *c);

#endif
