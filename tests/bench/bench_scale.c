/*
 * Queues of a size, made by the store itself, and what long churn does to the file.
 *
 *   bench_scale fill DIR COUNT BYTES
 *       COUNT queued messages with bodies of BYTES for the upstream `main`, tried once, due in
 * three hours: they lie there. Makes the queue when there is none. bench_scale churn DIR COUNT
 * 4k|mixed COUNT messages through a queue of 10,000, in random order: 100 leave and 100 come with
 * each commit, and each leaves its history. Bodies have 4 KiB, or 1 KiB to 10 MiB, most of them
 *       small: see size_next(). A line a tenth of the way says how long the file is, what is in use
 *       of it, and what a message has cost of CPU and page faults since the line before.
 *
 * The choice of sizes and victims is the same each time.
 */
#include "daemon/base/crc32c.h"
#include "daemon/base/num.h"
#include "daemon/store/store.h"
#include "schema/record_history.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define CHURN_QUEUE  10000u
#define CHURN_BATCH  100u
#define FILL_BATCH   2000u
#define BODY_MAX     (10u << 20)
#define RECORD_BYTES 4096
#define LIES_MS      (UINT64_C(3) * 3600 * 1000)
#define HISTORY_MAX  ((uint64_t)64 << 20)
#define REPORTS      10u
/* The history expires as the daemon has it do: 512 entries at once, as often as that needs. */
#define EXPIRE_ROWS  512u
#define EXPIRE_TURNS 4u

static uint64_t rng_state = 88172645463325252u;

static uint64_t rng(void)
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return rng_state;
}

static uint64_t wall_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void must(enum err err, const char *what)
{
    if (err != ERR_OK) {
        fprintf(stderr, "%s: %s\n", what, err_text(err));
        exit(1);
    }
}

static struct store *queue_open(const char *directory, uint64_t bytes_max)
{
    struct store *store = NULL;
    struct store_report report;
    const struct store_config config = {.directory = directory,
                                        .queue_bytes_max = bytes_max,
                                        .history_bytes_max = HISTORY_MAX,
                                        .readers_max = 8};
    if (store_open(&store, &config, &report) != ERR_OK) {
        fprintf(stderr, "%s\n", report.problem);
        exit(1);
    }
    return store;
}

struct records {
    uint8_t memory[4][RECORD_BYTES];
    struct buf envelope, state;
};

static void records_make(struct records *r, uint64_t now_ms, struct slice body, uint32_t pieces,
                         bool lies)
{
    struct buf rcpts, fates;
    buf_init(&rcpts, r->memory[0], RECORD_BYTES);
    buf_init(&fates, r->memory[1], RECORD_BYTES);
    buf_init(&r->envelope, r->memory[2], RECORD_BYTES);
    buf_init(&r->state, r->memory[3], RECORD_BYTES);
    record_recipient_put(&rcpts, SLICE("anna@example.jp"));
    const struct record_recipient fate = {.state = lies ? RECIPIENT_DEFERRED : RECIPIENT_QUEUED,
                                          .outcome = lies ? OUTCOME_DEFERRED : OUTCOME_NONE,
                                          .code = lies ? 451 : 0,
                                          .text = lies ? SLICE("4.3.0 try later") : SLICE("")};
    record_fate_put(&fates, &fate);
    const struct record_envelope envelope = {.arrived_ms = now_ms,
                                             .body_bytes = body.len,
                                             .chunk_count = pieces,
                                             .body_crc = crc32c(0, body),
                                             .recipient_count = 1,
                                             .client = SLICE("192.168.1.50"),
                                             .helo = SLICE("scanner"),
                                             .subject = SLICE("page"),
                                             .sender = SLICE("scanner@example.jp"),
                                             .recipients = buf_slice(&rcpts)};
    record_envelope_put(&r->envelope, &envelope);
    const struct record_state state = {
        .state = MESSAGE_QUEUED,
        .reason = fate.outcome,
        .route = record_route(SLICE("main")),
        .due_q = lies ? now_ms + LIES_MS : now_ms,
        .attempts = lies,
        .last_q = lies ? now_ms : 0,
        .changed_q = now_ms,
        .accepted_q = now_ms,
        .flow = record_flow(SLICE("192.168.1.50"), SLICE("scanner@example.jp")),
        .size_kib = u32_from((body.len + 1023) / 1024),
        .upstream = SLICE("main"),
        .device = SLICE("192.168.1.50"),
        .recipient_count = 1,
        .recipients = buf_slice(&fates)};
    record_state_put(&r->state, &state);
    CHECK(!r->envelope.overflow && !r->state.overflow);
}

static void message_add(struct store *store, const struct msg_id *id, struct slice body,
                        uint64_t now_ms, bool lies)
{
    static struct records records;
    size_t piece_bytes = store_piece_bytes(store);
    uint32_t pieces = 0;
    for (struct slice rest = body; rest.len > 0; rest = slice_tail(rest, piece_bytes)) {
        must(store_body_append(store, id, pieces++, slice_head(rest, piece_bytes)), "append");
    }
    records_make(&records, now_ms, body, pieces, lies);
    must(store_message_add(store, id, buf_slice(&records.envelope), buf_slice(&records.state)),
         "add");
}

static uint8_t *body_memory(void)
{
    uint8_t *memory = malloc(BODY_MAX);
    CHECK(memory != NULL);
    for (size_t at = 0; at < BODY_MAX; at++) {
        memory[at] = at % 78 == 76 ? '\r' : at % 78 == 77 ? '\n' : (uint8_t)('a' + at % 26);
    }
    return memory;
}

static int fill(const char *directory, uint64_t count, uint64_t bytes)
{
    struct store *store = queue_open(directory, (uint64_t)20 << 30);
    uint8_t *body = body_memory();
    uint64_t now_ms = wall_ms();
    struct store_summary summary;
    store_summary(store, &summary);
    uint64_t id = u64_max(summary.last_id + 1, (now_ms - count / 100 - 1) << 16);
    for (uint64_t done = 0; done < count;) {
        must(store_begin(store), "begin");
        for (uint32_t at = 0; at < FILL_BATCH && done < count; at++, done++, id++) {
            struct msg_id name = msg_id_make(id, summary.box);
            message_add(store, &name, slice_of(body, bytes), now_ms, true);
        }
        must(store_commit(store), "commit");
    }
    store_summary(store, &summary);
    printf("%llu queued, file %.1f MiB\n",
           (unsigned long long)summary.count_by_state[MESSAGE_QUEUED],
           (double)summary.file_bytes / (1 << 20));
    store_close(&store);
    free(body);
    return 0;
}

/* ---- churn ---- */

struct churn {
    struct store *store;
    uint8_t *body;
    bool mixed;
    uint64_t next_id;
    struct msg_id waiting[CHURN_QUEUE];
    uint32_t count;
    uint32_t turns;
    uint64_t body_bytes; /* written so far */
    uint64_t done;       /* at the last report */
    struct rusage spent; /* then */
    double began_s;
};

/*
 * 4 KiB; or 1 to 2 KiB two times in five, and each doubling three fifths as likely as the one
 * before, up to 8 to 10 MiB, one in 766. The mean is about 41 KiB; nine
 * in ten are below 32 KiB, and more than half of all bytes are in bodies of more than 1 MiB.
 */
static size_t size_next(const struct churn *c)
{
    if (!c->mixed) {
        return 4096;
    }
    size_t doublings = 0;
    while (doublings < 13 && rng() % 5 < 3) {
        doublings++;
    }
    size_t base = (size_t)1024 << doublings;
    return u64_min(base + (size_t)(rng() % base), BODY_MAX);
}

static void take_in(struct churn *c)
{
    struct msg_id id = msg_id_make(c->next_id++, 1);
    struct slice body = slice_of(c->body, size_next(c));
    message_add(c->store, &id, body, c->next_id >> 16, false);
    c->body_bytes += body.len;
    c->waiting[c->count++] = id;
}

static void let_out(struct churn *c)
{
    static uint8_t memory[3 * RECORD_BYTES];
    struct slice envelope, state;
    struct buf to;
    uint32_t victim = (uint32_t)(rng() % c->count);
    const struct msg_id id = c->waiting[victim];
    c->waiting[victim] = c->waiting[--c->count];
    must(store_envelope_get(c->store, &id, &envelope), "envelope");
    must(store_state_get(c->store, &id, &state), "state");
    buf_init(&to, memory, sizeof memory);
    const struct record_history history = {.left_ms = c->next_id >> 16,
                                           .left_q = c->next_id >> 16,
                                           .end = RECORD_END_DELIVERED,
                                           .envelope = envelope,
                                           .state = state};
    record_history_put(&to, &history);
    CHECK(!to.overflow);
    must(store_message_remove(c->store, &id, buf_slice(&to)), "remove");
}

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static double cpu_us(const struct rusage *usage)
{
    return (double)(usage->ru_utime.tv_sec + usage->ru_stime.tv_sec) * 1e6 +
           (double)(usage->ru_utime.tv_usec + usage->ru_stime.tv_usec);
}

static void report(struct churn *c, uint64_t done)
{
    struct store_summary s;
    struct rusage usage;
    store_summary(c->store, &s);
    CHECK(getrusage(RUSAGE_SELF, &usage) == 0);
    double each = done > c->done ? (double)(done - c->done) : (double)CHURN_QUEUE;
    printf("%9llu through, %7.1f s: file %7.1f MiB, mail %7.1f MiB, history %5.1f MiB; bodies "
           "%8.1f MiB; each %4.0f us CPU, %.2f faults\n",
           (unsigned long long)done, now_s() - c->began_s, (double)s.file_bytes / (1 << 20),
           (double)s.pages_used_bytes / (1 << 20), (double)s.history_bytes / (1 << 20),
           (double)c->body_bytes / (1 << 20), (cpu_us(&usage) - cpu_us(&c->spent)) / each,
           (double)(usage.ru_minflt + usage.ru_majflt - c->spent.ru_minflt - c->spent.ru_majflt) /
               each);
    fflush(stdout);
    c->spent = usage;
    c->done = done;
}

static void turn(struct churn *c, uint32_t in, uint32_t out)
{
    uint64_t removed;
    bool more;
    must(store_begin(c->store), "begin");
    for (uint32_t at = 0; at < out && c->count > 0; at++) {
        let_out(c);
    }
    for (uint32_t at = 0; at < in && c->count < CHURN_QUEUE; at++) {
        take_in(c);
    }
    if (++c->turns % EXPIRE_TURNS == 0) {
        must(store_history_expire(c->store, 0, EXPIRE_ROWS, &removed, &more), "expire");
    }
    must(store_commit(c->store), "commit");
}

static int churn(const char *directory, uint64_t count, bool mixed)
{
    static struct churn c;
    c.began_s = now_s();
    c.store = queue_open(directory, (uint64_t)20 << 30);
    c.body = body_memory();
    c.mixed = mixed;
    c.next_id = wall_ms() << 16;
    while (c.count < CHURN_QUEUE) {
        turn(&c, CHURN_BATCH, 0);
    }
    report(&c, 0);
    uint64_t next = count / REPORTS;
    for (uint64_t done = 0; done < count;) {
        turn(&c, CHURN_BATCH, CHURN_BATCH);
        done += CHURN_BATCH;
        if (done >= next) {
            report(&c, done);
            next += count / REPORTS;
        }
    }
    store_close(&c.store);
    free(c.body);
    return 0;
}

int main(int argc, char **argv)
{
    uint64_t count = 0, bytes = 0;
    bool known = argc == 5 && u64_parse(slice_from_str(argv[3]), &count) && count > 0;
    if (known && strcmp(argv[1], "fill") == 0 && u64_parse(slice_from_str(argv[4]), &bytes) &&
        bytes <= BODY_MAX) {
        return fill(argv[2], count, bytes);
    }
    bool mixed = known && strcmp(argv[4], "mixed") == 0;
    if (known && strcmp(argv[1], "churn") == 0 && (mixed || strcmp(argv[4], "4k") == 0)) {
        return churn(argv[2], count, mixed);
    }
    fprintf(stderr, "usage: bench_scale fill DIR COUNT BYTES | churn DIR COUNT 4k|mixed\n");
    return 64;
}
