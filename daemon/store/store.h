/*
 * The store: the only home of LMDB and its only writer.
 *
 * One thread writes (the queue thread). It begins, makes changes, commits once; nothing it did can
 * be seen, nor is it promised to anybody, before store_commit has returned ERR_OK. Any thread
 * reads, through a reader of its own; each reading call is one short read transaction that ends
 * before it returns, so no reader ever pins old pages across a wait.
 *
 * What is kept (schema/README.md has the layout): envelope, state, body chunks, the due index, the
 * list of bodies still being received, and one summary record with exact counts and the last
 * message id. A summary is committed with the changes it counts.
 *
 * What is not here: when to retry, what a reply means, who may send.
 */
#ifndef TASUKI_STORE_STORE_H
#define TASUKI_STORE_STORE_H

#include "daemon/base/buf.h"
#include "daemon/base/err.h"
#include "schema/msg_id.h"
#include "schema/record.h"

struct store;
struct store_reader;

struct store_config {
    const char *directory;    /* borrowed for the call; made (0700) when it is missing */
    uint64_t queue_bytes_max; /* queue-max: what mail may take; the map is larger by a reserve for
                                 outcomes */
    uint32_t readers_max;
    uint32_t chunk_bytes; /* 0: the default of daemon/decisions/0004; tests and bench give others */
    bool read_only;       /* tasukictl while the daemon is down: no writer, no lock, no recovery */
};

/* What opening found, in numbers and, on failure, in words for the admin (what, why, what to do).
 */
struct store_report {
    uint64_t messages;        /* in the queue */
    uint64_t discarded;       /* bodies whose message never was committed, removed */
    uint64_t readers_cleared; /* stale reader slots */
    char problem[512];        /* after ERR_OK: "", or a warning about where the queue lies */
};

/*
 * Opens or creates the queue in config->directory and recovers it.
 * Errors: ERR_BUSY another process owns it; ERR_VERSION a newer version wrote it; ERR_DAMAGED it is
 * not a queue, or cut short; ERR_PERMISSION; ERR_FULL; ERR_IO; ERR_UNSUPPORTED a network file
 * system; ERR_NO_MEMORY. report->problem says it in words.
 */
MUST_CHECK enum err store_open(struct store **out_store, const struct store_config *config,
                               struct store_report *report);
void store_close(struct store **store);

/* Exact, as of the last commit. */
struct store_summary {
    uint64_t count_by_state[MESSAGE_STATE_COUNT];
    uint64_t body_bytes; /* sum over all messages */
    uint64_t
        last_id; /* time and sequence of the newest id ever committed: msg_id_time_and_sequence */
    uint64_t pages_used_bytes; /* of the map */
    uint64_t bytes_max;        /* queue-max */
    uint16_t box;              /* this box's number in ids, made at creation */
};

void store_summary(const struct store *store, struct store_summary *out);

/* Clears reader slots of processes that ended without freeing them, which pin old pages; returns
 * how many. The queue thread calls it each minute. */
uint64_t store_readers_check(struct store *store);

/*
 * For the SIGBUS handler. When address (si_addr) lies in the queue's map, writes one sentence for
 * the admin to fd and returns true; the process has to end then. Safe in a signal handler.
 */
bool store_fault_explain(const void *address, int fd);

/*
 * ---- writing: one thread ----
 * Between begin and commit each call returns ERR_OK, or an error after which only store_abort is
 * legal: ERR_FULL, ERR_IO, ERR_NO_MEMORY, ERR_DAMAGED. ERR_NOT_FOUND leaves the transaction as it
 * was.
 */
MUST_CHECK enum err store_begin(struct store *store);

/* Room for a new message of so many bytes, on top of what this transaction has used, below
 * queue-max? The reserve is not counted. */
MUST_CHECK bool store_has_room(const struct store *store, uint64_t bytes);

/*
 * Adds the next piece of the body of a message that is still being received. Every piece but the
 * last is exactly store_piece_bytes() long; piece_index counts them: 0, 1, 2 ... How a piece is cut
 * into chunks on disk is the store's affair.
 */
MUST_CHECK enum err store_body_append(struct store *store, const struct msg_id *id,
                                      uint32_t piece_index, struct slice bytes);

/* Length of a full piece, at most BODY_CHUNK_BYTES_MAX. */
size_t store_piece_bytes(const struct store *store);

/* Forgets what was appended for id; ERR_OK also when there was nothing. */
MUST_CHECK enum err store_body_discard(struct store *store, const struct msg_id *id);

/* The message becomes part of the queue: envelope and state records as encoded by schema/record.h.
 * envelope.chunk_count must say how many pieces were appended. */
MUST_CHECK enum err store_message_add(struct store *store, const struct msg_id *id,
                                      struct slice envelope, struct slice state);

/* Replaces the state record and moves the message in the due index. */
MUST_CHECK enum err store_message_update(struct store *store, const struct msg_id *id,
                                         struct slice state);

/* Envelope, state, body and index entry. */
MUST_CHECK enum err store_message_remove(struct store *store, const struct msg_id *id);

/* The state record of id within the open transaction, copied. ERR_LIMIT: *to is too small. */
MUST_CHECK enum err store_state_get(struct store *store, const struct msg_id *id, struct buf *to);

/*
 * Durable when it returns ERR_OK. ERR_FULL, ERR_IO, ERR_NO_MEMORY: nothing of it happened.
 * ERR_IN_DOUBT: it may or may not have happened, and the store takes no more calls but store_close:
 * answer 451, stop, restart (invariant 21).
 */
MUST_CHECK enum err store_commit(struct store *store);
void store_abort(struct store *store);

/*
 * ---- the due index: the writing thread, outside a transaction ----
 */
struct store_due {
    uint64_t due_ms;
    struct msg_id id;
};

/*
 * Up to max entries of one route, in order, strictly after *after (NULL: from the first). Returns
 * how many, or 0 at the end. Errors: through *out_err.
 */
MUST_CHECK size_t store_due_after(struct store *store, uint32_t route,
                                  const struct store_due *after, struct store_due *out, size_t max,
                                  enum err *out_err);

/* The distinct routes that stand in the due index, at most max; returns how many. */
MUST_CHECK size_t store_due_routes(struct store *store, uint32_t *out_routes, size_t max,
                                   enum err *out_err);

/*
 * ---- reading: any thread, one reader each ----
 */
MUST_CHECK enum err store_reader_new(struct store_reader **out_reader, struct store *store);
void store_reader_free(struct store_reader **reader);

/* Envelope and state of one message, copied behind each other into *to. ERR_NOT_FOUND; ERR_LIMIT
 * with *out_bytes_needed set; ERR_DAMAGED. */
MUST_CHECK enum err store_read_message(struct store_reader *reader, const struct msg_id *id,
                                       struct buf *to, struct slice *out_envelope,
                                       struct slice *out_state, size_t *out_bytes_needed);

/*
 * Body bytes from offset on, copied: as many as fit into *to, at least 1 unless the body ends
 * there. Chunk checksums are verified. Errors: ERR_NOT_FOUND, ERR_DAMAGED, ERR_IO.
 */
MUST_CHECK enum err store_read_body(struct store_reader *reader, const struct msg_id *id,
                                    uint64_t offset, struct buf *to);

struct store_row {
    struct msg_id id;
    struct slice envelope; /* borrowed until fn returns */
    struct slice state;
};

/* Return false to stop. Must not wait, nor call the store. */
typedef bool store_row_fn(void *ctx, const struct store_row *row);

/*
 * Walks messages in id order from *from on (inclusive), at most max rows, in one read transaction.
 * When it stopped before the end, *out_next is where to go on and the result is ERR_OK; at the end
 * ERR_NOT_FOUND. A damaged row is passed with empty slices.
 */
MUST_CHECK enum err store_read_rows(struct store_reader *reader, const struct msg_id *from,
                                    size_t max, store_row_fn *fn, void *ctx,
                                    struct msg_id *out_next);

#endif
