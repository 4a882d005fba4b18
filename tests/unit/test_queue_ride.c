/*
 * Which commits wait: outcomes for those of mail that comes in, and mail that comes in for more of
 * it. Nobody waits for ever, and nothing is answered before its commit.
 */
#include "tests/unit/queue_rig.h"

#define TRIES      100
#define SEEN_LEAST 5
#define CROWD      8

static uint64_t commits(struct fixture *f)
{
    return metric_get(&f->metrics, METRIC_COMMITS);
}

/* An outcome that has come while mail comes in is not committed at once. Seen in some of many
 * tries, since time goes on while we look. Then it is committed all the same, by time alone. */
static void test_outcomes_ride(void **state)
{
    struct fixture *f = *state;
    begin(f);
    (void)accept_one(f, 1);
    upstream_up(f, 4);
    struct flow_job *job = job_wait(f);
    int seen = 0;
    for (int tries = 0; tries < TRIES && seen < SEEN_LEAST; tries++) {
        (void)accept_one(f, 1);
        uint64_t before = commits(f);
        job_answer(f, job, OUTCOME_DELIVERED, 1);
        usleep(2000);
        seen += commits(f) == before;
        job = job_wait(f);
    }
    assert_int_equal(seen, SEEN_LEAST);
    uint64_t before = commits(f);
    job_answer(f, job, OUTCOME_DELIVERED, 1);
    for (int tries = 0; commits(f) == before; tries++) {
        assert_true(tries < PATIENCE_MS);
        usleep(1000);
    }
    assert_int_equal(settled(f).count_by_state[MESSAGE_QUEUED], 0);
}

/* The same at the end: it is committed before the thread ends. */
static void test_an_end_while_they_ride_loses_nothing(void **state)
{
    struct fixture *f = *state;
    begin(f);
    struct msg_id id = accept_one(f, 1);
    upstream_up(f, 4);
    struct flow_job *job = job_wait(f);
    struct msg_id other = accept_one(f, 1);
    job_answer(f, job, OUTCOME_DELIVERED, 1);
    end(f);
    begin(f);
    assert_gone(f, id);
    assert_state(f, other, MESSAGE_QUEUED);
}

/* Many at once, again and again, then one alone: it waits for the others that do not come, but not
 * for long, and is answered; and none of the many is lost. */
static void test_one_alone_behind_a_crowd_is_answered(void **state)
{
    struct fixture *f = *state;
    static struct client clients[CROWD];
    const size_t rounds = turns(20, 3);
    begin(f);
    for (size_t round = 0; round < rounds; round++) {
        for (size_t at = 0; at < CROWD; at++) {
            client_commit(f, &clients[at], 1);
        }
        for (size_t at = 0; at < CROWD; at++) {
            struct flow_msg *msg = box_wait(&f->clients, FLOW_INTAKE);
            assert_int_equal(FLOW_FROM(msg, struct flow_intake)->result, ERR_OK);
        }
    }
    uint64_t crowd = commits(f);
    assert_true(crowd < rounds * CROWD); /* several in one */
    for (int alone = 0; alone < 5; alone++) {
        (void)accept_one(f, 1);
    }
    assert_int_equal(commits(f), crowd + 5);
    assert_int_equal(settled(f).count_by_state[MESSAGE_QUEUED], rounds * CROWD + 5);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_outcomes_ride),
        CASE(test_an_end_while_they_ride_loses_nothing),
        CASE(test_one_alone_behind_a_crowd_is_answered),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
