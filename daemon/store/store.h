/*
 * The store: the only home of LMDB and its only writer.
 *
 * One thread writes (the queue thread). It begins, makes changes, commits once; nothing it did can
 * be seen, nor is it promised to anybody, before store_commit has returned ERR_OK. Any thread
 * reads, through a reader of its own; each reading call is one short read transaction that ends
 * before it returns, so no reader ever pins old pages across a wait.
 *
 * What is kept (schema/STORE.md has the layout): envelope, state, trail, body chunks, the due
 * index, the list of bodies still being received, the history of messages that have left, what is
 * remembered of upstreams, counts by upstream, device and reason, and one summary record with exact
 * counts, the last message id and the queue's clock. Counts are committed with the changes they
 * count.
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
    const char *directory;      /* borrowed for the call; made (0700) when it is missing */
    uint64_t queue_bytes_max;   /* queue-max: what mail may take; the map is larger by a reserve for
                                   outcomes */
    uint64_t history_bytes_max; /* history-max: what history may take, beside that; 0: 64 MiB */
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
    uint64_t upgraded;        /* messages rewritten from an older format */
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

/*
 * The queue's clock, as it stood when the last commit was made, beside the other clocks: whoever
 * opens the queue finds out how much time has passed. See schema/STORE.md, summary.
 */
struct store_clock {
    uint64_t q_ms;    /* the queue's clock; never goes back */
    uint64_t wall_ms; /* CLOCK_REALTIME */
    uint64_t boot_ms; /* CLOCK_BOOTTIME */
    uint64_t boot_id; /* which boot that was: the kernel's boot id, hashed */
};

/* Exact, as of the last commit. */
struct store_summary {
    uint64_t count_by_state[MESSAGE_STATE_COUNT];
    uint64_t body_bytes; /* sum over all messages */
    uint64_t
        last_id; /* time and sequence of the newest id ever committed: msg_id_time_and_sequence */
    uint64_t pages_used_bytes; /* of the map, without the history's */
    uint64_t bytes_max;        /* queue-max */
    uint64_t history_count, history_bytes;
    uint64_t file_bytes;      /* length of the file */
    struct store_clock clock; /* of the last commit that set it; zeros: never */
    uint16_t box;             /* this box's number in ids, made at creation */
};

void store_summary(const struct store *store, struct store_summary *out);

/* Clears reader slots of processes that ended without freeing them, which pin old pages; returns
 * how many. The queue thread calls it each minute. */
uint64_t store_readers_check(struct store *store);

/* A process that reads the queue as of an old commit. Pages that were freed since cannot be used
 * again, so the file grows; at its end nothing can be written any more, not even outcomes. */
struct store_pin {
    uint64_t pid;
    uint64_t transaction; /* the number of the commit that it reads */
    uint64_t commits;     /* that were made since */
    uint64_t file_bytes;  /* of the file, up to the last page that was ever used */
    uint64_t file_bytes_max;
};

/* Of the other processes that read at this moment, the one whose commit is the oldest. False: none
 * does. The writing thread. */
MUST_CHECK bool store_pin_oldest(struct store *store, struct store_pin *out);

/*
 * For the SIGBUS handler. When address (si_addr) lies in the queue's map, writes one sentence for
 * the admin to fd and returns true; the process has to end then. Safe in a signal handler.
 */
bool store_fault_explain(const void *address, int fd);

/*
 * ---- writing: one thread ----
 * Between begin and commit each call returns ERR_OK, or an error after which only store_abort is
 * legal: ERR_FULL, ERR_IO, ERR_NO_MEMORY; ERR_DAMAGED a record is; ERR_IN_DOUBT a page is, see
 * store_commit. ERR_NOT_FOUND leaves the transaction as it was.
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

/* A full piece of such a body, copied behind what is in *to, which has room for it. Errors:
 * ERR_DAMAGED (not there included), ERR_IO. */
MUST_CHECK enum err store_body_piece(struct store *store, const struct msg_id *id,
                                     uint32_t piece_index, struct buf *to);

/* Length of a full piece, at most BODY_CHUNK_BYTES_MAX. */
size_t store_piece_bytes(const struct store *store);

/* Forgets what was appended for id; ERR_OK also when there was nothing. */
MUST_CHECK enum err store_body_discard(struct store *store, const struct msg_id *id);

/* The message becomes part of the queue: envelope and state records as encoded by schema/record.h.
 * envelope.chunk_count must say how many pieces were appended. */
MUST_CHECK enum err store_message_add(struct store *store, const struct msg_id *id,
                                      struct slice envelope, struct slice state);

/* Replaces the state record and moves the message in the due index and in the counts. */
MUST_CHECK enum err store_message_update(struct store *store, const struct msg_id *id,
                                         struct slice state);

/* Replaces the trail record of a message that is in the queue. */
MUST_CHECK enum err store_trail_set(struct store *store, const struct msg_id *id,
                                    struct slice trail);

/* Envelope, state, trail, body and index entry. history: the encoded record
 * (schema/record_history.h) that stands in the history from then on; empty: none. */
MUST_CHECK enum err store_message_remove(struct store *store, const struct msg_id *id,
                                         struct slice history);

/*
 * One record of id within the open transaction, borrowed until the next call that changes anything.
 * Errors: ERR_NOT_FOUND; ERR_DAMAGED: its checksum is wrong.
 */
MUST_CHECK enum err store_envelope_get(struct store *store, const struct msg_id *id,
                                       struct slice *out);
MUST_CHECK enum err store_state_get(struct store *store, const struct msg_id *id,
                                    struct slice *out);
MUST_CHECK enum err store_trail_get(struct store *store, const struct msg_id *id,
                                    struct slice *out);

/* The first bytes of a body, within the open transaction: as many as fit into *to, or all.
 * Errors: ERR_NOT_FOUND, ERR_DAMAGED, ERR_IO. */
MUST_CHECK enum err store_body_head(struct store *store, const struct msg_id *id, struct buf *to);

/*
 * Removes history that is too old or too much, at most rows_max entries looked at from where the
 * last call stopped: those whose left_q is before before_q, and the oldest (by arrival) while the
 * history takes more than history-max. *out_removed; *out_more: calling again at once would find
 * more.
 */
MUST_CHECK enum err store_history_expire(struct store *store, uint64_t before_q, size_t rows_max,
                                         uint64_t *out_removed, bool *out_more);

/* What is remembered of an upstream (schema/record_upstream.h). Get: borrowed like the above. */
MUST_CHECK enum err store_upstream_set(struct store *store, struct slice name, struct slice record);
MUST_CHECK enum err store_upstream_get(struct store *store, struct slice name, struct slice *out);

/* The clock that is committed with whatever else is; alone it is no change. */
void store_clock_set(struct store *store, const struct store_clock *clock);

/* One small value by a word, at most 64 bytes: what the queue remembers of itself ("digest"). Get:
 * borrowed like the above. */
MUST_CHECK enum err store_note_set(struct store *store, struct slice word, struct slice value);
MUST_CHECK enum err store_note_get(struct store *store, struct slice word, struct slice *out);

/*
 * Durable when it returns ERR_OK. ERR_FULL, ERR_IO, ERR_NO_MEMORY: nothing of it happened.
 * ERR_IN_DOUBT: it may or may not have happened, and the store takes no more calls but store_close:
 * answer 451, stop, restart (invariant 21). It is also the answer where a page of the file cannot
 * be used: then nothing happened, and the next opening looks at every page.
 */
MUST_CHECK enum err store_commit(struct store *store);
void store_abort(struct store *store);

/* After ERR_IN_DOUBT, from whichever call: what it was, in words. */
const char *store_doubt(const struct store *store);

/*
 * ---- the due index: the writing thread, outside a transaction ----
 */
struct store_due {
    uint64_t due_q;
    struct msg_id id;
    uint32_t flow, size_kib; /* as in the state record; ignored in `after` */
};

/*
 * Up to max entries of one route, in order, strictly after *after (NULL: from the first). Returns
 * how many, or 0 at the end. Errors: through *out_err.
 */
MUST_CHECK size_t store_due_after(struct store *store, uint32_t route,
                                  const struct store_due *after, struct store_due *out, size_t max,
                                  enum err *out_err);

/* The distinct routes that stand in the due index, at most max, those of the trash and of the
 * digest (record_route of their names) among them; returns how many. */
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

/* The trail record of a message in the queue, copied. ERR_NOT_FOUND: it has none. ERR_LIMIT. */
MUST_CHECK enum err store_read_trail(struct store_reader *reader, const struct msg_id *id,
                                     struct buf *to);

/* The history record of a message that has left, copied. ERR_LIMIT with *out_bytes_needed set. */
MUST_CHECK enum err store_read_history(struct store_reader *reader, const struct msg_id *id,
                                       struct buf *to, size_t *out_bytes_needed);

/* Return false to stop. history: the encoded record, borrowed; empty when it is damaged. */
typedef bool store_history_fn(void *ctx, const struct msg_id *id, struct slice history);

/* As store_read_rows, but through the history, newest id first, from *from on downwards
 * (inclusive). *out_next is the next lower one. */
MUST_CHECK enum err store_read_history_rows(struct store_reader *reader, const struct msg_id *from,
                                            size_t max, store_history_fn *fn, void *ctx,
                                            struct msg_id *out_next);

enum store_count_kind { STORE_COUNT_UPSTREAM, STORE_COUNT_DEVICE, STORE_COUNT_REASON };

/* name: of the upstream, the device (or its address), or the outcome's word. Return false to stop.
 */
typedef bool store_count_fn(void *ctx, struct slice name,
                            const uint64_t messages_by_state[MESSAGE_STATE_COUNT]);

/* Exact counts of one kind, as of the last commit, in the order of names from *after (exclusive;
 * empty: from the first) on, at most max. ERR_OK: there are more; ERR_NOT_FOUND: that was all. */
MUST_CHECK enum err store_read_counts(struct store_reader *reader, enum store_count_kind kind,
                                      struct slice after, size_t max, store_count_fn *fn,
                                      void *ctx);

/*
 * ---- the whole file ----
 */

/* Called now and then with how far it is; done and total in the same unit. False: stop,
 * ERR_CANCELLED. */
typedef bool store_progress_fn(void *ctx, uint64_t done, uint64_t total);

/*
 * A hot copy: writes the queue in directory, as of one commit, compacted, into a new file at path
 * (0600, synced, its directory synced too; what was half written is removed on failure), then opens
 * the copy and checks it as store_check does. Any process may do it, whether a daemon runs or not.
 * Errors: ERR_EXISTS path is there already; ERR_FULL; ERR_IO; ERR_DAMAGED; ... report->problem says
 * it in words.
 */
MUST_CHECK enum err store_backup(const char *directory, const char *path,
                                 store_progress_fn *progress, void *ctx,
                                 struct store_report *report);

/* What a check found: each finding is one line of words without a line end, id of the message
 * named. */
typedef void store_finding_fn(void *ctx, const char *finding);

struct store_check {
    uint64_t messages, history, chunks, pages;
    uint64_t findings; /* 0: sound */
};

/*
 * Verifies every page, record, chunk and index entry of the queue in directory against each other,
 * as of one commit; changes nothing. Errors: as store_open's when it cannot be opened or its pages
 * are damaged; else ERR_OK, or ERR_DAMAGED when there were findings.
 */
MUST_CHECK enum err store_check(const char *directory, store_finding_fn *fn, void *ctx,
                                store_progress_fn *progress, void *progress_ctx,
                                struct store_check *out, struct store_report *report);

/*
 * Rewrites the file without its free pages, in place of the old one, while readers wait: the
 * writing thread, outside a transaction. A crash leaves the old file or the new one. Readers of
 * this store go on with the new one by themselves. *out_before, *out_after: length of the file.
 * Errors: ERR_FULL, ERR_IO, ...: the old file is in use as before. ERR_IN_DOUBT: as for
 * store_commit.
 */
MUST_CHECK enum err store_compact(struct store *store, uint64_t *out_before, uint64_t *out_after);

#endif
