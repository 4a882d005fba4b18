/*
 * What the store costs.
 *
 *   bench_store commit DIR          messages of 4 KiB taken in and removed, by size of batch
 *   bench_store history DIR         the same, each leaving its records in a history of 16 MiB
 *   bench_store chunks DIR [MIB]    bodies of 1 KiB to 10 MiB through a queue of 300 messages, by
 *                                   chunk size, until MIB have been written (default 4096)
 *   bench_store fragment DIR [TURNS] a queue of 256 MiB, filled in turn with messages of 1 to 6 KiB
 *                                   and with ones of 1 MiB; half leaves in between
 *
 * DIR must not hold a queue: each run makes its own in it and removes it. The choice of sizes and
 * victims is the same each time.
 */
#include "daemon/base/num.h"
#include "daemon/store/store.h"
#include "schema/record_history.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define QUEUE_MESSAGES       300
#define CHURN_QUEUE_BYTES    ((uint64_t)8 << 30)
#define FRAGMENT_QUEUE_BYTES ((uint64_t)256 << 20)
#define FRAGMENT_MESSAGES    100000
#define OPEN_BODIES          4
#define PIECES_A_TXN         8
#define COMMIT_QUEUE         1000
#define COMMIT_SECONDS       4.0
#define HISTORY_BYTES        ((uint64_t)16 << 20)
#define HISTORY_ROWS         512 /* a call, as the queue thread does it */

static uint64_t rng_state = 88172645463325252u;

static uint64_t rng(void)
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return rng_state;
}

static double now_s(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (double)at.tv_sec + (double)at.tv_nsec / 1e9;
}

static double cpu_s(void)
{
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
           (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

static void must(enum err err, const char *what)
{
    if (err != ERR_OK) {
        fprintf(stderr, "%s: %s\n", what, err_text(err));
        exit(1);
    }
}

static void queue_remove(const char *directory)
{
    static const char *const names[] = {"data.mdb", "lock.mdb", "owner.lock"};
    for (size_t index = 0; index < 3; index++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", directory, names[index]);
        unlink(path);
    }
    rmdir(directory);
}

static uint64_t file_blocks_bytes(const char *directory)
{
    char path[4096];
    struct stat st;
    snprintf(path, sizeof path, "%s/data.mdb", directory);
    return stat(path, &st) == 0 ? (uint64_t)st.st_blocks * 512 : 0;
}

static struct store *queue_open(const char *directory, uint32_t chunk_bytes, uint64_t bytes_max)
{
    struct store_config config = {.directory = directory,
                                  .queue_bytes_max = bytes_max,
                                  .history_bytes_max = HISTORY_BYTES,
                                  .readers_max = 8,
                                  .chunk_bytes = chunk_bytes};
    struct store_report report;
    struct store *store = NULL;
    enum err err = store_open(&store, &config, &report);
    if (err != ERR_OK) {
        fprintf(stderr, "%s\n", report.problem);
        exit(1);
    }
    return store;
}

static void message_add(struct store *store, const struct msg_id *id, uint64_t bytes,
                        uint32_t pieces)
{
    uint8_t memory[3][2048];
    struct buf list;
    struct buf envelope;
    struct buf state;
    buf_init(&list, memory[0], sizeof memory[0]);
    buf_init(&envelope, memory[1], sizeof memory[1]);
    buf_init(&state, memory[2], sizeof memory[2]);
    record_recipient_put(&list, SLICE("somebody@example.jp"));
    record_envelope_put(&envelope, &(struct record_envelope){
                                       .arrived_ms = 1,
                                       .body_bytes = bytes,
                                       .chunk_count = pieces,
                                       .recipient_count = 1,
                                       .client = SLICE("192.168.1.50"),
                                       .helo = SLICE("scanner"),
                                       .subject = SLICE("a scan of some page"),
                                       .sender = SLICE("scanner@example.jp"),
                                       .recipients = buf_slice(&list),
                                   });
    buf_reset(&list);
    record_fate_put(&list, &(struct record_recipient){.outcome = OUTCOME_NONE});
    record_state_put(&state, &(struct record_state){
                                 .state = MESSAGE_QUEUED,
                                 .route = record_route(SLICE("main")),
                                 .due_q = 1,
                                 .upstream = SLICE("main"),
                                 .device = SLICE("192.168.1.50"),
                                 .flow = 1,
                                 .size_kib = u32_from((bytes + 1023) / 1024),
                                 .recipient_count = 1,
                                 .recipients = buf_slice(&list),
                             });
    must(store_message_add(store, id, buf_slice(&envelope), buf_slice(&state)), "add");
}

/*
 * ---- small messages, by batch ----
 */

/* A delivery as it is at most places: one try, one recipient, a dialogue of some lines. */
static void message_leave(struct store *store, const struct msg_id *id)
{
    static const char dialogue[] =
        "S: 220 mail.example.jp ESMTP\nC: EHLO office.example.jp\nS: 250-mail.example.jp\n"
        "S: 250-PIPELINING\nS: 250 SIZE 52428800\nC: MAIL FROM:<scanner@example.jp>\n"
        "C: RCPT TO:<somebody@example.jp>\nC: DATA\nS: 250 2.1.0 Ok\nS: 250 2.1.5 Ok\n"
        "S: 354 End data\nC: (4096 bytes)\nS: 250 2.0.0 Ok: queued as 4F2C1\n";
    uint8_t memory[3][4096];
    struct buf move;
    struct buf trail;
    struct buf history;
    struct record_history record = {.left_ms = 1, .left_q = 1, .end = RECORD_END_DELIVERED};
    buf_init(&move, memory[0], sizeof memory[0]);
    buf_init(&trail, memory[1], sizeof memory[1]);
    buf_init(&history, memory[2], sizeof memory[2]);
    record_move_put(&move, &(struct record_move){.from = LIFECYCLE_SENDING,
                                                 .to = LIFECYCLE_DELIVERED,
                                                 .outcome = OUTCOME_DELIVERED,
                                                 .code = 250,
                                                 .count = 1,
                                                 .upstream = SLICE("main"),
                                                 .peer = SLICE("192.0.2.1:587"),
                                                 .tls = SLICE("TLSv1.3 TLS_AES_256_GCM_SHA384"),
                                                 .text = SLICE("2.0.0 Ok: queued as 4F2C1")});
    record_trail_put(&trail, NULL, buf_slice(&move), 1, slice_from_str(dialogue));
    must(store_envelope_get(store, id, &record.envelope), "envelope");
    must(store_state_get(store, id, &record.state), "state");
    record.trail = buf_slice(&trail);
    record_history_put(&history, &record);
    must(store_message_remove(store, id, buf_slice(&history)), "remove");
}

static void history_expire(struct store *store)
{
    bool more = true;
    while (more) {
        uint64_t removed;
        must(store_begin(store), "begin");
        must(store_history_expire(store, 0, HISTORY_ROWS, &removed, &more), "expire");
        must(store_commit(store), "commit");
    }
}

static void commit_run(const char *directory, uint32_t batch, bool keeps_history)
{
    static uint8_t body[4096];
    static struct msg_id ring[COMMIT_QUEUE];
    struct store *store = queue_open(directory, 0, CHURN_QUEUE_BYTES);
    uint64_t made = 0;
    uint64_t commits = 0;
    double start = 0;
    double start_cpu = 0;
    uint64_t start_made = 0;
    double expired = now_s();
    while (start == 0 || now_s() < start + COMMIT_SECONDS) {
        if (start == 0 && made >= COMMIT_QUEUE) {
            start = now_s();
            start_cpu = cpu_s();
            start_made = made;
            commits = 0;
        }
        must(store_begin(store), "begin");
        for (uint32_t index = 0; index < (start == 0 ? 100 : batch); index++, made++) {
            struct msg_id *id = &ring[made % COMMIT_QUEUE];
            if (made >= COMMIT_QUEUE) {
                if (keeps_history) {
                    message_leave(store, id);
                } else {
                    must(store_message_remove(store, id, slice_of(NULL, 0)), "remove");
                }
            }
            *id = msg_id_make(made + 1, 1);
            must(store_body_append(store, id, 0, slice_of(body, sizeof body)), "append");
            message_add(store, id, sizeof body, 1);
        }
        must(store_commit(store), "commit");
        commits++;
        if (keeps_history && now_s() >= expired + 1.0) {
            history_expire(store);
            expired = now_s();
        }
    }
    double seconds = now_s() - start;
    double messages = (double)(made - start_made);
    printf("batch %3u: %7.0f messages/s, %6.0f commits/s, %5.1f us CPU a message, file %5.1f MiB\n",
           batch, messages / seconds, (double)commits / seconds,
           (cpu_s() - start_cpu) / messages * 1e6, (double)file_blocks_bytes(directory) / 1048576);
    store_close(&store);
    queue_remove(directory);
}

/*
 * ---- mixed bodies, by chunk size ----
 */

struct body {
    struct msg_id id;
    uint64_t bytes; /* 0: the place is free */
    uint64_t done;
    uint32_t pieces;
};

/* Log-uniform from 1 KiB to 10 MiB: each doubling is as likely as the next. */
static uint64_t size_next(void)
{
    uint64_t doubling = rng() % 13;
    uint64_t base = (uint64_t)1024 << doubling;
    return u64_min(base + rng() % base, (uint64_t)10 << 20);
}

struct churn {
    struct store *store;
    struct msg_id queue[QUEUE_MESSAGES + PIECES_A_TXN];
    size_t queued;
    struct body bodies[OPEN_BODIES];
    uint64_t made, written;
};

/* One of the older half leaves: mail leaves roughly, not exactly, in order. */
static void churn_remove(struct churn *c)
{
    size_t victim = rng() % (c->queued / 2);
    must(store_message_remove(c->store, &c->queue[victim], slice_of(NULL, 0)), "remove");
    c->queued--;
    memmove(&c->queue[victim], &c->queue[victim + 1], (c->queued - victim) * sizeof c->queue[0]);
}

static void churn_piece(struct churn *c, struct body *body, const uint8_t *memory)
{
    if (body->bytes == 0) {
        *body = (struct body){.id = msg_id_make(++c->made, 1), .bytes = size_next()};
    }
    uint64_t len = u64_min(store_piece_bytes(c->store), body->bytes - body->done);
    must(store_body_append(c->store, &body->id, body->pieces++, slice_of(memory, len)), "append");
    body->done += len;
    c->written += len;
    if (body->done == body->bytes) {
        message_add(c->store, &body->id, body->bytes, body->pieces);
        c->queue[c->queued++] = body->id;
        body->bytes = 0;
    }
}

static void churn_txn(struct churn *c, const uint8_t *memory)
{
    must(store_begin(c->store), "begin");
    for (size_t index = 0; index < PIECES_A_TXN; index++) {
        churn_piece(c, &c->bodies[rng() % OPEN_BODIES], memory);
    }
    while (c->queued > QUEUE_MESSAGES) {
        churn_remove(c);
    }
    must(store_commit(c->store), "commit");
}

static void chunk_run(const char *directory, uint32_t chunk_bytes, uint64_t total)
{
    static uint8_t memory[BODY_CHUNK_BYTES_MAX];
    struct churn c = {.store = queue_open(directory, chunk_bytes, CHURN_QUEUE_BYTES)};
    rng_state = 88172645463325252u;
    while (c.queued < QUEUE_MESSAGES) {
        churn_txn(&c, memory);
    }
    uint64_t first_file = file_blocks_bytes(directory);
    uint64_t peak_used = 0;
    uint64_t from = c.written;
    double start = now_s();
    double start_cpu = cpu_s();
    double last = start;
    uint64_t last_written = from;
    double slowest = 1e9;
    while (c.written - from < total) {
        churn_txn(&c, memory);
        struct store_summary summary;
        store_summary(c.store, &summary);
        peak_used = u64_max(peak_used, summary.pages_used_bytes);
        if (c.written - last_written >= total / 8) {
            double now = now_s();
            double rate = (double)(c.written - last_written) / 1048576 / (now - last);
            slowest = rate < slowest ? rate : slowest;
            last = now;
            last_written = c.written;
        }
    }
    double mib = (double)(c.written - from) / 1048576;
    printf("chunk %5u: %6.1f MiB/s (slowest eighth %6.1f), %6.0f us CPU a MiB, file %6.1f -> %6.1f "
           "MiB, most in use %6.1f MiB\n",
           chunk_bytes, mib / (now_s() - start), slowest, (cpu_s() - start_cpu) / mib * 1e6,
           (double)first_file / 1048576, (double)file_blocks_bytes(directory) / 1048576,
           (double)peak_used / 1048576);
    fflush(stdout);
    store_close(&c.store);
    queue_remove(directory);
}

/*
 * ---- big bodies where small ones have left holes ----
 */

struct fragment {
    struct store *store;
    struct msg_id queue[FRAGMENT_MESSAGES];
    size_t queued;
    uint64_t made, written;
    bool full; /* the map had no place although there was room */
};

static bool fragment_add(struct fragment *g, uint64_t bytes)
{
    static uint8_t memory[BODY_CHUNK_BYTES_MAX];
    struct msg_id id = msg_id_make(++g->made, 1);
    uint32_t pieces = 0;
    for (uint64_t done = 0; done < bytes;) {
        uint64_t len = u64_min(store_piece_bytes(g->store), bytes - done);
        if (store_body_append(g->store, &id, pieces++, slice_of(memory, len)) != ERR_OK) {
            return false;
        }
        done += len;
    }
    message_add(g->store, &id, bytes, pieces);
    g->queue[g->queued++] = id;
    g->written += bytes;
    return true;
}

static void fragment_fill(struct fragment *g, bool small)
{
    for (bool room = true; room && !g->full;) {
        must(store_begin(g->store), "begin");
        for (size_t index = 0; index < (small ? 20 : 1) && room; index++) {
            uint64_t bytes = small ? 1024 + rng() % 5120 : 1 << 20;
            room = g->queued < FRAGMENT_MESSAGES && store_has_room(g->store, bytes);
            g->full = room && !fragment_add(g, bytes);
        }
        if (g->full) {
            store_abort(g->store);
        } else {
            must(store_commit(g->store), "commit");
        }
    }
}

static void fragment_halve(struct fragment *g)
{
    size_t kept = 0;
    must(store_begin(g->store), "begin");
    for (size_t index = 0; index < g->queued; index++) {
        if (rng() % 2 == 0) {
            g->queue[kept++] = g->queue[index];
            continue;
        }
        must(store_message_remove(g->store, &g->queue[index], slice_of(NULL, 0)), "remove");
        if (index % 50 == 49) {
            must(store_commit(g->store), "commit");
            must(store_begin(g->store), "begin");
        }
    }
    must(store_commit(g->store), "commit");
    g->queued = kept;
}

static void fragment_run(const char *directory, uint32_t chunk_bytes, uint64_t turns)
{
    static struct fragment g;
    g = (struct fragment){.store = queue_open(directory, chunk_bytes, FRAGMENT_QUEUE_BYTES)};
    rng_state = 88172645463325252u;
    double start = now_s();
    double start_cpu = cpu_s();
    uint64_t big = 0;
    double big_s = 0;
    double big_cpu = 0;
    for (uint64_t turn = 0; turn < turns && !g.full; turn++) {
        fragment_fill(&g, true);
        fragment_halve(&g);
        uint64_t before = g.written;
        double from = now_s();
        double from_cpu = cpu_s();
        fragment_fill(&g, false);
        big += g.written - before;
        big_s += now_s() - from;
        big_cpu += cpu_s() - from_cpu;
        fragment_halve(&g);
    }
    double mib = (double)big / 1048576;
    printf("chunk %5u: big bodies %6.1f MiB/s, %6.0f us CPU a MiB; all %5.1f s, %5.1f s CPU; file "
           "%6.1f MiB%s\n",
           chunk_bytes, mib / big_s, big_cpu / mib * 1e6, now_s() - start, cpu_s() - start_cpu,
           (double)file_blocks_bytes(directory) / 1048576, g.full ? ", MAP FULL" : "");
    fflush(stdout);
    store_close(&g.store);
    queue_remove(directory);
}

int main(int argc, char **argv)
{
    static const uint32_t chunk_sizes[] = {4072, 8168, 16360, 32744, 65512};
    static const uint32_t batches[] = {1, 5, 20, 60, 200};
    uint64_t count = 0;
    if (argc < 3 || argc > 4 || (argc == 4 && !u64_parse(slice_from_str(argv[3]), &count))) {
        fprintf(stderr, "usage: bench_store commit|history|chunks|fragment DIR [COUNT]\n");
        return 64;
    }
    for (size_t index = 0; index < 5; index++) {
        if (strcmp(argv[1], "chunks") == 0) {
            chunk_run(argv[2], chunk_sizes[index], (count == 0 ? 4096 : count) << 20);
        } else if (strcmp(argv[1], "fragment") == 0) {
            fragment_run(argv[2], chunk_sizes[index], count == 0 ? 8 : count);
        } else {
            commit_run(argv[2], batches[index], strcmp(argv[1], "history") == 0);
        }
    }
    return 0;
}
