/*
 * Connections that have nothing to do: how the queue thread lets go of them, and when it opens one
 * before it is needed.
 */
#include "tests/unit/queue_rig.h"

#define LINKS 3

/* So many connections that are up and idle. */
static void links_idle(struct fixture *f, struct flow_link **links, uint32_t count)
{
    struct flow_job *jobs[LINKS];
    for (uint32_t at = 0; at < count; at++) {
        (void)accept_one(f, 1);
    }
    for (uint32_t at = 0; at < count; at++) {
        links[at] = link_wait(f);
    }
    for (uint32_t at = 0; at < count; at++) {
        link_up(f, links[at], 1);
        jobs[at] = job_wait(f);
    }
    for (uint32_t at = 0; at < count; at++) {
        job_answer(f, jobs[at], OUTCOME_DELIVERED, 1);
    }
}

static bool is_farewell(const struct flow_job *job)
{
    return msg_id_time_and_sequence(&job->id) == 0;
}

static void test_what_is_too_much_goes_at_once(void **state)
{
    struct fixture *f = *state;
    struct flow_link *links[LINKS];
    f->config->upstreams[0].connections = LINKS;
    f->config->upstreams[0].idle_ms_max = 3600000;
    begin(f);
    links_idle(f, links, LINKS);
    assert_int_equal(settled(f).upstreams[0].connections, LINKS);
    assert_true(workers_quiet(f)); /* nobody asked for less */
    (void)accept_one(f, 1);
    struct flow_job *job = job_wait(f);
    struct flow_link *asked_for_less = job->link;
    job_answer(f, job, OUTCOME_SERVICE_CLOSING, 1);
    struct flow_job *farewells[2] = {job_wait(f), job_wait(f)};
    assert_int_equal(settled(f).upstreams[0].concurrency, 1);
    assert_true(workers_quiet(f)); /* the last one stays */
    assert_ptr_not_equal(farewells[0]->link, farewells[1]->link);
    for (size_t at = 0; at < 2; at++) {
        assert_true(is_farewell(farewells[at]));
        assert_ptr_not_equal(farewells[at]->link, asked_for_less); /* it was idle for longest */
        job_back(f, farewells[at]);
        link_down(f, farewells[at]->link, OUTCOME_NONE);
    }
    struct flow_status status = settled(f);
    assert_int_equal(status.upstreams[0].connections, 1);
    assert_int_equal(status.upstreams[0].state, FLOW_UPSTREAM_WELL);
    assert_int_equal(status.sending, 0);
}

/* Of n open ones one goes after keep-open / n, then the next; the last is the worker's business. */
static void test_without_demand_one_goes_after_the_other(void **state)
{
    struct fixture *f = *state;
    struct flow_link *links[LINKS];
    f->config->upstreams[0].connections = LINKS;
    f->config->upstreams[0].idle_ms_max = 600;
    begin(f);
    links_idle(f, links, LINKS);
    for (uint32_t left = LINKS; left > 1; left--) {
        struct flow_job *farewell = job_wait(f);
        assert_true(is_farewell(farewell));
        struct flow_status status = settled(f);
        assert_int_equal(status.upstreams[0].connections, left);
        assert_true(workers_quiet(f)); /* one at a time */
        job_back(f, farewell);
        link_down(f, farewell->link, OUTCOME_NONE);
        assert_int_equal(settled(f).upstreams[0].connections, left - 1);
    }
    usleep(700000);
    (void)settled(f);
    assert_true(workers_quiet(f));
}

/* What was asked to end gets nothing more, and its place is used again only when the farewell is
 * back, whichever of the two comes first. */
static void test_a_farewell_may_cross_the_end(void **state)
{
    struct fixture *f = *state;
    struct flow_link *links[2];
    f->config->upstreams[0].connections = 2;
    f->config->upstreams[0].idle_ms_max = 1000;
    begin(f);
    links_idle(f, links, 2);
    struct flow_job *farewell = job_wait(f);
    struct flow_link *leaving = farewell->link;
    (void)accept_one(f, 1);
    (void)accept_one(f, 1);
    struct flow_job *job = job_wait(f);
    assert_ptr_not_equal(job->link, leaving);
    (void)settled(f);
    assert_true(workers_quiet(f));
    link_down(f, leaving, OUTCOME_CONNECTION_LOST); /* by itself, before it had heard */
    (void)settled(f);
    assert_true(workers_quiet(f)); /* the place is not free yet */
    job_back(f, farewell);
    struct flow_link *again = link_wait(f);
    assert_ptr_equal(again, leaving);
    link_up(f, again, 1);
    struct flow_job *second = job_wait(f);
    assert_ptr_equal(second->link, again);
    job_answer(f, job, OUTCOME_DELIVERED, 1);
    job_answer(f, second, OUTCOME_DELIVERED, 1);
    assert_int_equal(settled(f).count_by_state[MESSAGE_QUEUED], 0);
}

/* Mail for so long that each of the last spans has had some; returns the connection. */
static struct flow_link *mail_flows(struct fixture *f, struct flow_link *link, uint64_t for_ms)
{
    uint64_t until_ms = settled(f).now_ms + for_ms;
    do {
        (void)accept_one(f, 1);
        if (link == NULL) {
            link = upstream_up(f, 1);
        }
        job_answer(f, job_wait(f), OUTCOME_DELIVERED, 1);
        rest_where_few(for_ms / 8);
    } while (settled(f).now_ms < until_ms);
    return link;
}

static void test_where_mail_flows_one_is_kept_ready(void **state)
{
    struct fixture *f = *state;
    const uint64_t span_ms = turns(300, 100);
    f->config->upstreams[0].idle_ms_max = span_ms;
    begin(f);
    struct flow_link *link = mail_flows(f, NULL, 4 * span_ms);
    bool opened = false;
    /* A machine that stands still for a span has no regular mail; so there is more than one try. */
    for (int round = 0; round < 20 && !opened; round++) {
        link_down(f, link, OUTCOME_NONE);
        (void)settled(f);
        opened = !workers_quiet(f);
        link = opened ? upstream_up(f, 1) : mail_flows(f, NULL, 4 * span_ms);
    }
    assert_true(opened);
    link_down(f, link, OUTCOME_NONE); /* it has had no mail: the server wants it gone */
    (void)settled(f);
    assert_true(workers_quiet(f));
    assert_int_equal(settled(f).upstreams[0].connections, 0);
}

static void test_after_a_few_messages_none_is_kept_ready(void **state)
{
    struct fixture *f = *state;
    f->config->upstreams[0].idle_ms_max = 3600000;
    begin(f);
    struct flow_link *link = mail_flows(f, NULL, 50);
    link_down(f, link, OUTCOME_NONE);
    (void)settled(f);
    assert_true(workers_quiet(f));
}

/* Whatever was regular: an upstream that pauses, or is marked, is left in peace. */
static void test_none_is_kept_ready_where_it_is_not_wanted(void **state)
{
    static const enum outcome outcomes[] = {OUTCOME_THROTTLED, OUTCOME_AUTH_REFUSED};
    struct fixture *f = *state;
    const uint64_t span_ms = 300;
    f->config->upstreams[0].idle_ms_max = span_ms;
    f->config->upstreams[0].probe_min_ms = f->config->upstreams[0].probe_max_ms = 3600000;
    begin(f);
    struct flow_link *link = mail_flows(f, NULL, 4 * span_ms);
    for (size_t at = 0; at < 2; at++) {
        if (outcomes[at] == OUTCOME_THROTTLED) {
            (void)accept_one(f, 1);
            job_answer(f, job_wait(f), OUTCOME_THROTTLED, 1);
            link_down(f, link, OUTCOME_NONE);
            (void)settled(f);
            assert_true(workers_quiet(f)); /* 5 s of pause */
            link = link_wait(f);
        } else {
            link_down(f, link, OUTCOME_AUTH_REFUSED);
            (void)settled(f);
            assert_true(workers_quiet(f));
        }
    }
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(what_is_too_much_goes_at_once),
        CASE(without_demand_one_goes_after_the_other),
        CASE(a_farewell_may_cross_the_end),
        CASE(where_mail_flows_one_is_kept_ready),
        CASE(after_a_few_messages_none_is_kept_ready),
        CASE(none_is_kept_ready_where_it_is_not_wanted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
