/*
 * How messages spread over an upstream's connections: one each where it takes long to answer, a few
 * together where it is near.
 */
#include "tests/unit/queue_rig.h"

#define CONNECTIONS 3
#define BURST       6

struct rig {
    struct fixture *f;
    struct flow_link *links[CONNECTIONS];
    struct flow_job *jobs[BURST];
};

/* Answers what came, each after so long. */
static void answer_all(struct rig *r, size_t count, uint32_t duration_ms)
{
    for (size_t at = 0; at < count; at++) {
        r->jobs[at]->duration_ms = duration_ms;
        job_answer(r->f, r->jobs[at], OUTCOME_DELIVERED, 1);
    }
    (void)settled(r->f);
}

/* So many short messages at once. */
static void burst(struct rig *r, size_t count)
{
    static struct client clients[BURST];
    struct fixture *f = r->f;
    for (size_t at = 0; at < count; at++) {
        client_commit(f, &clients[at], 1);
    }
    for (size_t at = 0; at < count; at++) {
        (void)box_wait(&f->clients, FLOW_INTAKE);
    }
}

static size_t jobs_on(const struct rig *r, size_t count, const struct flow_link *link)
{
    size_t on = 0;
    for (size_t at = 0; at < count; at++) {
        on += r->jobs[at]->link == link;
    }
    return on;
}

/* Three connections, all up and idle, to an upstream that has answered in so long. */
static void open_all(struct rig *r, struct fixture *f, uint32_t duration_ms, uint8_t pipeline)
{
    *r = (struct rig){.f = f};
    f->config->upstreams[0].connections = CONNECTIONS;
    begin(f);
    burst(r, CONNECTIONS);
    for (size_t at = 0; at < CONNECTIONS; at++) {
        r->links[at] = link_wait(f);
    }
    for (size_t at = 0; at < CONNECTIONS; at++) {
        r->links[at]->pipeline = pipeline;
        link_up(f, r->links[at], 16);
    }
    for (size_t at = 0; at < CONNECTIONS; at++) {
        r->jobs[at] = job_wait(f);
    }
    answer_all(r, CONNECTIONS, duration_ms);
    assert_true(workers_quiet(f));
}

static size_t most_on_one(const struct rig *r, size_t count)
{
    size_t most = 0;
    for (size_t at = 0; at < CONNECTIONS; at++) {
        size_t on = jobs_on(r, count, r->links[at]);
        most = on > most ? on : most;
    }
    return most;
}

/* Takes what is handed out of a burst; the queue thread may see it in parts. */
static void take(struct rig *r, size_t count)
{
    for (size_t at = 0; at < count; at++) {
        r->jobs[at] = job_wait(r->f);
    }
}

static void test_far_upstreams_have_one_on_each(void **state)
{
    struct rig r;
    open_all(&r, *state, 80, 2);
    burst(&r, CONNECTIONS);
    take(&r, CONNECTIONS);
    assert_int_equal(most_on_one(&r, CONNECTIONS), 1);
    answer_all(&r, CONNECTIONS, 80);
}

static void test_near_upstreams_have_a_few_on_one(void **state)
{
    struct rig r;
    open_all(&r, *state, 1, 2);
    burst(&r, BURST);
    take(&r, BURST);
    /* Four on the first, the others on the next: none is idle beside them without need. */
    assert_int_equal(most_on_one(&r, BURST), 4);
    size_t used = 0;
    for (size_t at = 0; at < CONNECTIONS; at++) {
        used += jobs_on(&r, BURST, r.links[at]) > 0;
    }
    assert_int_equal(used, 2);
    answer_all(&r, BURST, 1);
}

/* Where each command waits for its answer, one behind the other would only be slower. */
static void test_without_pipelining_they_spread(void **state)
{
    struct rig r;
    open_all(&r, *state, 1, 1);
    burst(&r, CONNECTIONS);
    take(&r, CONNECTIONS);
    assert_int_equal(most_on_one(&r, CONNECTIONS), 1);
    answer_all(&r, CONNECTIONS, 1);
}

/* It has become slow: after some answers they spread again. */
static void test_it_is_learnt_anew(void **state)
{
    struct rig r;
    open_all(&r, *state, 1, 2);
    for (size_t round = 0; round < turns(12, 3); round++) {
        burst(&r, CONNECTIONS);
        take(&r, CONNECTIONS);
        answer_all(&r, CONNECTIONS, 200);
    }
    burst(&r, CONNECTIONS);
    take(&r, CONNECTIONS);
    assert_int_equal(most_on_one(&r, CONNECTIONS), 1);
    answer_all(&r, CONNECTIONS, 200);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_far_upstreams_have_one_on_each),
        CASE(test_near_upstreams_have_a_few_on_one),
        CASE(test_without_pipelining_they_spread),
        CASE(test_it_is_learnt_anew),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
