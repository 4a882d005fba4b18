/*
 * The pace at which the queue thread gives an upstream work: throttles, rates, outages, and whose
 * turn it is. The decisions are tests/unit/test_sched_*.c's; here they are carried out.
 */
#include "tests/unit/queue_rig.h"

static _Atomic uint32_t throttles_logged;

static void look_for_throttle(void *ctx, enum log_level level, struct slice line)
{
    (void)ctx;
    (void)level;
    static const char event[] = "event=upstream-throttled";
    if (memmem(line.data, line.len, event, sizeof event - 1) != NULL) {
        atomic_fetch_add(&throttles_logged, 1);
    }
}

/* One of each, from whichever worker. */
static struct flow_link *link_and_job(struct fixture *f, struct flow_job **out_job)
{
    struct flow_link *link = NULL;
    *out_job = NULL;
    for (size_t at = 0; at < WORKER_COUNT; at++) {
        for (box_look(&f->workers[at]); f->workers[at].first != NULL;) {
            struct flow_msg *msg = f->workers[at].first;
            f->workers[at].first = msg->next;
            if (msg->kind == FLOW_JOB) {
                assert_null(*out_job);
                *out_job = FLOW_FROM(msg, struct flow_job);
            } else {
                assert_null(link);
                assert_int_equal(msg->kind, FLOW_LINK_OPEN);
                link = FLOW_LINK_FROM(msg, open);
            }
        }
    }
    assert_true(link != NULL && *out_job != NULL);
    return link;
}

/* An upstream that asks for less gets nothing for a while, and then less; the message is not
 * blamed. */
static void test_a_throttle_slows_the_upstream_down(void **state)
{
    struct fixture *f = *state;
    struct on_disk m;
    f->config->upstreams[0].connections = 2;
    f->log.write = look_for_throttle;
    atomic_store(&throttles_logged, 0);
    begin(f);
    struct msg_id ids[2] = {accept_one(f, 1), accept_one(f, 1)};
    struct flow_link *links[2] = {link_wait(f), link_wait(f)};
    link_up(f, links[0], 1);
    link_up(f, links[1], 1);
    struct flow_job *jobs[2] = {job_wait(f), job_wait(f)};
    assert_ptr_not_equal(jobs[0]->link, jobs[1]->link);
    job_answer(f, jobs[0], OUTCOME_THROTTLED, 1);
    struct flow_job *farewell = job_wait(f); /* one connection is enough now */
    assert_ptr_equal(farewell->link, jobs[0]->link);
    job_back(f, farewell);
    link_down(f, farewell->link, OUTCOME_NONE);
    (void)settled(f);
    (void)accept_one(f, 1);
    struct flow_status status = settled(f);
    assert_true(workers_quiet(f));
    assert_int_equal(status.upstreams[0].state, FLOW_UPSTREAM_WELL);
    assert_int_equal(status.upstreams[0].concurrency, 1);
    assert_in_range(status.upstreams[0].throttled_until_ms - status.now_ms, 1000, 6000);
    assert_int_equal(metric_get(&f->metrics, METRIC_THROTTLES), 1);
    read_message(f, ids[0], &m);
    assert_int_equal(m.state.attempts, 0);
    assert_int_equal(m.fates[0].outcome, OUTCOME_THROTTLED);
    job_answer(f, jobs[1], OUTCOME_THROTTLED, 1); /* under way when it began: the same throttle */
    uint64_t until_ms = status.upstreams[0].throttled_until_ms;
    status = settled(f);
    assert_int_equal(status.upstreams[0].throttled_until_ms, until_ms);
    assert_int_equal(atomic_load(&throttles_logged), 1);
    assert_int_equal(metric_get(&f->metrics, METRIC_THROTTLES), 1);
    struct flow_job *next = job_wait(f); /* the clock brings it */
    (void)settled(f);
    assert_true(next->sent_ms >= until_ms);
    assert_true(workers_quiet(f)); /* one, over one connection */
    job_answer(f, next, OUTCOME_DELIVERED, 1);
    status = settled(f); /* now there may be two again */
    struct flow_link *again = link_and_job(f, &next);
    link_up(f, again, 1);
    job_answer(f, next, OUTCOME_DELIVERED, 1);
    job_answer(f, job_wait(f), OUTCOME_DELIVERED, 1);
    status = settled(f);
    assert_int_equal(status.count_by_state[MESSAGE_QUEUED], 0);
    assert_int_equal(status.upstreams[0].concurrency, 2);
    assert_int_equal(status.upstreams[0].throttled_until_ms, 0);
}

static void test_a_rate_holds(void **state)
{
    struct fixture *f = *state;
    f->config->upstreams[0].rate.most[CONFIG_RATE_MESSAGES][CONFIG_RATE_HOUR] = 3;
    f->config->upstreams[0].rate.most[CONFIG_RATE_RECIPIENTS][CONFIG_RATE_DAY] = 100;
    begin(f);
    for (size_t at = 0; at < 5; at++) {
        (void)accept_one(f, 1);
    }
    upstream_up(f, 4);
    struct flow_job *jobs[3] = {job_wait(f), job_wait(f), job_wait(f)};
    struct flow_status status = settled(f);
    assert_true(workers_quiet(f)); /* what is under way counts */
    assert_int_equal(status.upstreams[0].rate_used[CONFIG_RATE_MESSAGES][CONFIG_RATE_HOUR], 3);
    job_answer(f, jobs[0], OUTCOME_DELIVERED, 1);
    job_answer(f, jobs[1], OUTCOME_DEFERRED, 1); /* deferred: it does not */
    struct flow_job *job = job_wait(f);
    job_answer(f, jobs[2], OUTCOME_DELIVERED, 1);
    job_answer(f, job, OUTCOME_DELIVERED, 1);
    status = settled(f);
    assert_true(workers_quiet(f));
    assert_int_equal(status.upstreams[0].delivered, 3);
    assert_int_equal(status.upstreams[0].rate_used[CONFIG_RATE_MESSAGES][CONFIG_RATE_HOUR], 3);
    assert_int_equal(status.upstreams[0].rate_used[CONFIG_RATE_RECIPIENTS][CONFIG_RATE_DAY], 3);
    assert_true(status.upstreams[0].rate_limited);
    assert_int_equal(status.upstreams[0].rate_room, 0);
    assert_true(status.upstreams[0].rate_next_ms > status.now_ms);
    assert_int_equal(status.count_by_state[MESSAGE_QUEUED], 2);
}

/* How long it was out of order is told, and grows while it is. */
static void test_the_outage_is_told(void **state)
{
    struct fixture *f = *state;
    begin(f);
    (void)accept_one(f, 1);
    struct flow_link *link = link_wait(f);
    link_down(f, link, OUTCOME_CONNECTION_REFUSED);
    struct flow_link *probe = link_wait(f);
    struct flow_status status = settled(f);
    assert_true(status.upstreams[0].outage_ms >= 50); /* the wait before the probe */
    link_up(f, probe, 1);
    job_answer(f, job_wait(f), OUTCOME_DELIVERED, 1);
    status = settled(f);
    uint64_t outage_ms = status.upstreams[0].outage_ms;
    assert_true(outage_ms >= 50);
    (void)accept_one(f, 1);
    job_answer(f, job_wait(f), OUTCOME_DELIVERED, 1);
    status = settled(f);
    assert_int_equal(status.upstreams[0].outage_ms, outage_ms);
}

/* A worker suspects pipelining: that is told, as long as it holds; one that lowers less does not
 * hide one that lowers more. */
static void test_a_suspicion_is_told(void **state)
{
    static const struct {
        struct flow_lowered said;
        uint8_t max;
        uint64_t left_ms; /* 0: whatever it was before */
    } rows[] = {
        {{0}, 0, 0}, {{2, 3600000, "first"}, 2, 3600000}, {{1, 1800000, "second"}, 1, 1800000},
        {{0}, 1, 0}, {{2, 7200000, "third"}, 1, 0},       {{1, 1, "fourth"}, 0, 0},
    };
    struct fixture *f = *state;
    begin(f);
    uint64_t until_ms = 0;
    for (size_t at = 0; at < sizeof rows / sizeof rows[0]; at++) {
        (void)accept_one(f, 1);
        struct flow_link *link = upstream_up(f, 1);
        job_answer(f, job_wait(f), OUTCOME_DELIVERED, 1);
        link->lowered = rows[at].said;
        link_down(f, link, OUTCOME_NONE);
        (void)settled(f);
        struct timespec tick = {.tv_nsec = 3000000};
        nanosleep(&tick, NULL);
        struct flow_status status = settled(f);
        const struct flow_upstream_status *u = &status.upstreams[0];
        assert_int_equal(u->lowered_max, rows[at].max);
        if (rows[at].left_ms != 0) {
            assert_string_equal(u->lowered_why, rows[at].said.why);
            assert_in_range(u->lowered_until_ms - status.now_ms, rows[at].left_ms - 60000,
                            rows[at].left_ms);
            until_ms = u->lowered_until_ms;
        }
        assert_int_equal(u->lowered_until_ms, rows[at].max == 0 ? 0 : until_ms);
        assert_int_equal(u->pipeline_max, 0); /* nothing is remembered */
    }
}

/* ---- whose turn ---- */

enum { AT_ONCE = 512 };
#define FLOOD (SCHED_WINDOW_MAX + 2000)

/* A small message of this client. */
static void commit_from(struct fixture *f, struct client *c, const char *from)
{
    struct slice piece = slice_of(body, sizeof body - 1);
    struct buf list, envelope;
    buf_init(&list, c->recipients_memory, sizeof c->recipients_memory);
    record_recipient_put(&list, SLICE("r@example.jp"));
    struct record_envelope e = {
        .arrived_ms = 1,
        .body_bytes = piece.len,
        .chunk_count = 1,
        .body_crc = crc32c(0, piece),
        .recipient_count = 1,
        .client = slice_from_str(from),
        .sender = SLICE("a@example.jp"),
        .recipients = buf_slice(&list),
    };
    buf_init(&envelope, c->envelope_memory, sizeof c->envelope_memory);
    record_envelope_put(&envelope, &e);
    c->intake.id = msg_id_make(++f->ids, 1);
    c->intake.piece_index = 0;
    c->intake.envelope = buf_slice(&envelope);
    c->intake.sender = e.sender;
    c->intake.recipient_count = 1;
    c->intake.body_bytes = piece.len;
    client_send(f, c, FLOW_INTAKE_COMMIT, piece);
}

static void flood(struct fixture *f, size_t count)
{
    struct client *clients = calloc(AT_ONCE, sizeof *clients);
    assert_non_null(clients);
    for (size_t sent = 0; sent < count;) {
        size_t round = 0;
        for (; round < AT_ONCE && sent < count; round++, sent++) {
            commit_from(f, &clients[round], "192.0.2.1");
        }
        for (size_t at = 0; at < round; at++) {
            (void)box_wait(&f->clients, FLOW_INTAKE);
        }
    }
    free(clients);
}

static struct msg_id alert(struct fixture *f)
{
    static struct client c;
    commit_from(f, &c, "192.0.2.2");
    (void)box_wait(&f->clients, FLOW_INTAKE);
    assert_int_equal(c.intake.result, ERR_OK);
    return c.intake.id;
}

/* It is among the next few jobs; those that were handed out before are under way already. */
static void assert_soon(struct fixture *f, struct msg_id id, uint32_t before)
{
    for (uint32_t at = 0; at < before + 4; at++) {
        struct flow_job *job = job_wait(f);
        bool found = msg_id_compare(&job->id, &id) == 0;
        job_answer(f, job, OUTCOME_DELIVERED, 1);
        if (found) {
            return;
        }
    }
    fail_msg("it waits behind the others");
}

static void test_one_devices_flood_delays_no_other(void **state)
{
    struct fixture *f = *state;
    begin(f);
    flood(f, turns(FLOOD, 40));
    upstream_up(f, 4);
    for (size_t at = 0; at < turns(50, 5); at++) {
        job_answer(f, job_wait(f), OUTCOME_DELIVERED, 1);
    }
    struct msg_id id = alert(f);
    (void)settled(f);
    assert_soon(f, id, 4);
}

/* All of it is on disk then, and the flood is due before. */
static void test_nor_after_a_restart(void **state)
{
    struct fixture *f = *state;
    begin(f);
    flood(f, turns(FLOOD, SCHED_REFILL_MAX + 100)); /* the scout goes in any case */
    struct msg_id id = alert(f);
    end(f);
    begin(f);
    struct flow_link *link = link_wait(f);
    for (int round = 0; round < 10; round++) {
        (void)settled(f); /* it reads a piece of the index a round */
    }
    link_up(f, link, 4);
    assert_soon(f, id, 0);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_a_throttle_slows_the_upstream_down),
        CASE(test_a_rate_holds),
        CASE(test_the_outage_is_told),
        CASE(test_a_suspicion_is_told),
        CASE(test_one_devices_flood_delays_no_other),
        CASE(test_nor_after_a_restart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
