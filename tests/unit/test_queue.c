/*
 * The queue thread against its header: taking in, handing out, what comes back, commands, faults of
 * the disk. What comes of messages in the long run is in test_queue_life.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/unit/queue_rig.h"

/* ---- the way through ---- */

static void test_accepted_then_sent_then_gone(void **state)
{
    struct fixture *f = *state;
    begin(f);
    struct msg_id id = accept_one(f, 2);
    assert_state(f, id, MESSAGE_QUEUED); /* on disk before the answer */
    upstream_up(f, 4);
    struct flow_job *job = job_wait(f);
    assert_same_id(job->id, id);
    struct flow_status status = settled(f);
    assert_int_equal(status.sending, 1);
    assert_int_equal(status.sending_id_count, 1);
    assert_same_id(status.sending_ids[0], id);
    job_answer(f, job, OUTCOME_DELIVERED, 2);
    status = settled(f);
    assert_gone(f, id);
    assert_int_equal(status.sending, 0);
    assert_int_equal(status.count_by_state[MESSAGE_QUEUED], 0);
    assert_int_equal(status.upstreams[0].state, FLOW_UPSTREAM_WELL);
    assert_int_equal(status.upstreams[0].delivered, 2);
    assert_true(workers_quiet(f));
}

static void test_each_recipient_has_its_own_fate(void **state)
{
    struct fixture *f = *state;
    struct on_disk m;
    begin(f);
    struct msg_id id = accept_one(f, 3);
    upstream_up(f, 4);
    struct flow_job *job = job_wait(f);
    job->tried = true;
    job->results = calloc(3, sizeof job->results[0]);
    assert_non_null(job->results);
    job->result_count = 2; /* the third was not told */
    job->results[0] = (struct flow_result){.recipient_index = 2, .outcome = OUTCOME_DELIVERED};
    job->results[1] = (struct flow_result){.recipient_index = 0, .outcome = OUTCOME_REFUSED};
    job_back(f, job);
    (void)settled(f);
    read_message(f, id, &m);
    assert_int_equal(m.state.state, MESSAGE_QUEUED);
    assert_int_equal(m.state.attempts, 1);
    assert_int_equal(m.fates[0].state, RECIPIENT_FAILED);
    assert_int_equal(m.fates[1].state, RECIPIENT_QUEUED);
    assert_int_equal(m.fates[2].state, RECIPIENT_DELIVERED);
}

static void test_deferred_is_due_later_and_comes_again(void **state)
{
    struct fixture *f = *state;
    struct on_disk m;
    f->config->retry_min_ms = 40;
    f->config->retry_max_ms = 80;
    begin(f);
    struct msg_id id = accept_one(f, 1);
    upstream_up(f, 4);
    for (uint32_t attempt = 1; attempt <= 3; attempt++) {
        struct flow_job *job = job_wait(f); /* the clock alone brings it back */
        assert_same_id(job->id, id);
        uint64_t sent_ms = job->sent_ms;
        job_answer(f, job, OUTCOME_DEFERRED, 1);
        (void)settled(f);
        read_message(f, id, &m);
        assert_int_equal(m.state.attempts, attempt);
        assert_true(m.state.due_q >= sent_ms + 35);
        assert_int_equal(m.fates[0].outcome, OUTCOME_DEFERRED);
        assert_int_equal(m.fates[0].text.len, 5);
    }
}

static void test_given_up_when_too_old(void **state)
{
    struct fixture *f = *state;
    struct on_disk m;
    f->config->give_up_ms = 1;
    begin(f);
    struct msg_id id = accept_one(f, 1);
    upstream_up(f, 4);
    usleep(5000);
    job_answer(f, job_wait(f), OUTCOME_DEFERRED, 1);
    (void)settled(f);
    read_message(f, id, &m);
    assert_int_equal(m.state.state, MESSAGE_FAILED);
    assert_int_equal(m.fates[0].outcome, OUTCOME_GAVE_UP);
}

static void test_refused_waits_for_an_operator(void **state)
{
    struct fixture *f = *state;
    begin(f);
    struct msg_id id = accept_one(f, 1);
    upstream_up(f, 4);
    job_answer(f, job_wait(f), OUTCOME_REFUSED, 1);
    struct flow_status status = settled(f);
    assert_state(f, id, MESSAGE_FAILED);
    assert_int_equal(status.count_by_state[MESSAGE_FAILED], 1);
    assert_true(workers_quiet(f));
    assert_int_equal(edit(f, FLOW_EDIT_RETRY, id), ERR_OK);
    struct flow_job *job = job_wait(f);
    assert_same_id(job->id, id);
    job_answer(f, job, OUTCOME_DELIVERED, 1);
    (void)settled(f);
    assert_gone(f, id);
}

/* Invariant 6: what was told before the damage was found counts. */
static void test_damaged_is_set_aside_with_what_is_known(void **state)
{
    struct fixture *f = *state;
    struct on_disk m;
    begin(f);
    struct msg_id id = accept_one(f, 3);
    upstream_up(f, 4);
    struct flow_job *job = job_wait(f);
    job->tried = true;
    job->damaged = true;
    job->result_count = 1;
    job->results = calloc(3, sizeof job->results[0]);
    assert_non_null(job->results);
    job->results[0] = (struct flow_result){.recipient_index = 1, .outcome = OUTCOME_DELIVERED};
    job_back(f, job);
    (void)settled(f);
    read_message(f, id, &m);
    assert_int_equal(m.state.state, MESSAGE_FAILED);
    assert_int_equal(m.fates[0].outcome, OUTCOME_DAMAGED);
    assert_int_equal(m.fates[1].state, RECIPIENT_DELIVERED);
    assert_int_equal(m.fates[2].outcome, OUTCOME_DAMAGED);
    assert_true(workers_quiet(f));
}

static void test_a_job_for_a_message_that_is_gone_harms_nobody(void **state)
{
    struct fixture *f = *state;
    begin(f);
    struct msg_id id = accept_one(f, 1);
    upstream_up(f, 4);
    struct flow_job *job = job_wait(f);
    job->id = msg_id_make(77, 7);
    job->damaged = true;
    job_back(f, job);
    struct flow_status status = settled(f);
    assert_false(status.store_failed);
    assert_int_equal(status.sending, 0);
    assert_state(f, id, MESSAGE_QUEUED);
}

/* ---- operators ---- */

static void test_edits_in_each_state(void **state)
{
    struct fixture *f = *state;
    begin(f);
    struct msg_id id = accept_one(f, 1);
    struct msg_id nobody = msg_id_make(5, 5);
    assert_int_equal(edit(f, FLOW_EDIT_RELEASE, id), ERR_UNSUPPORTED);
    assert_int_equal(edit(f, FLOW_EDIT_RETRY, nobody), ERR_NOT_FOUND);
    assert_int_equal(edit(f, FLOW_EDIT_HOLD, id), ERR_OK);
    assert_state(f, id, MESSAGE_HELD);
    assert_int_equal(edit(f, FLOW_EDIT_HOLD, id), ERR_UNSUPPORTED);
    struct flow_link *link = upstream_up(f, 4);
    (void)settled(f);
    assert_true(workers_quiet(f)); /* held: nothing is handed out */
    assert_int_equal(edit(f, FLOW_EDIT_RELEASE, id), ERR_OK);
    struct flow_job *job = job_wait(f);
    assert_ptr_equal(job->link, link);
    for (int action = 0; action < FLOW_EDIT_ACTION_COUNT; action++) {
        assert_int_equal(edit(f, (enum flow_edit_action)action, id), ERR_BUSY); /* leased */
    }
    job_answer(f, job, OUTCOME_DEFERRED, 1);
    (void)settled(f);
    assert_int_equal(edit(f, FLOW_EDIT_UNDELETE, id), ERR_UNSUPPORTED);
    assert_int_equal(edit(f, FLOW_EDIT_DELETE, id), ERR_OK);
    assert_state(f, id, MESSAGE_TRASHED);
    assert_int_equal(edit(f, FLOW_EDIT_HOLD, id), ERR_UNSUPPORTED);
    assert_int_equal(edit(f, FLOW_EDIT_DELETE, id), ERR_OK); /* for good */
    assert_gone(f, id);
    assert_int_equal(edit(f, FLOW_EDIT_DELETE, id), ERR_NOT_FOUND);
    (void)settled(f);
    assert_true(workers_quiet(f));
}

static void test_retry_brings_a_deferred_one_forward(void **state)
{
    struct fixture *f = *state;
    begin(f);
    struct msg_id id = accept_one(f, 1);
    upstream_up(f, 4);
    job_answer(f, job_wait(f), OUTCOME_DEFERRED, 1); /* due in an hour */
    (void)settled(f);
    assert_true(workers_quiet(f));
    assert_int_equal(edit(f, FLOW_EDIT_RETRY, id), ERR_OK);
    struct flow_job *job = job_wait(f);
    assert_same_id(job->id, id);
    job_answer(f, job, OUTCOME_DELIVERED, 1);
    (void)settled(f);
    assert_gone(f, id);
    assert_true(workers_quiet(f));
}

/* Invariant 1: however often it is named, it is sent once. */
static void test_named_twice_in_one_batch_is_sent_once(void **state)
{
    struct fixture *f = *state;
    begin(f);
    struct msg_id id = accept_one(f, 1);
    upstream_up(f, 4);
    job_answer(f, job_wait(f), OUTCOME_DEFERRED, 1);
    struct msg_id ids[3] = {id, id, id};
    enum err results[3];
    (void)settled(f);
    assert_int_equal(edit_many(f, FLOW_EDIT_RETRY, ids, 3, results), ERR_OK);
    assert_int_equal(results[0], ERR_OK);
    assert_int_equal(results[1], ERR_UNSUPPORTED);
    struct flow_job *job = job_wait(f);
    struct flow_status status = settled(f);
    assert_int_equal(status.sending, 1);
    assert_true(workers_quiet(f));
    job_answer(f, job, OUTCOME_DELIVERED, 1);
    (void)settled(f);
    assert_true(workers_quiet(f));
    assert_gone(f, id);
}

/* ---- connections ---- */

static void test_refused_marks_then_a_probe_goes_ahead(void **state)
{
    struct fixture *f = *state;
    f->config->upstreams[0].connections = 4;
    begin(f);
    struct msg_id ids[3];
    for (size_t at = 0; at < 3; at++) {
        ids[at] = accept_one(f, 1);
    }
    struct flow_link *links[4];
    size_t count = 0;
    struct flow_status status = settled(f);
    for (; count < 4 && !workers_quiet(f); count++) {
        links[count] = link_wait(f);
    }
    assert_int_equal(count, 3); /* as many as there are messages */
    for (size_t at = 0; at < count; at++) {
        link_down(f, links[at], OUTCOME_AUTH_REFUSED);
    }
    struct flow_link *probe = link_wait(f); /* when its time has come */
    assert_true(probe->probe);
    status = settled(f);
    assert_int_equal(status.upstreams[0].state, FLOW_UPSTREAM_MARKED);
    assert_int_equal(status.upstreams[0].outcome, OUTCOME_AUTH_REFUSED);
    assert_int_equal(status.upstreams[0].code, 535);
    assert_string_equal(status.upstreams[0].text, "words");
    assert_true(workers_quiet(f)); /* one goes ahead, no second beside it */
    link_up(f, probe, 4);
    struct flow_job *job = job_wait(f);
    (void)settled(f);
    assert_true(workers_quiet(f)); /* with one job */
    assert_same_id(job->id, ids[0]);
    job_answer(f, job, OUTCOME_DELIVERED, 1);
    status = settled(f);
    assert_int_equal(status.upstreams[0].state, FLOW_UPSTREAM_WELL);
    assert_int_equal(status.count_by_state[MESSAGE_QUEUED], 2);
    assert_false(workers_quiet(f)); /* and then the others */
}

/* No message is blamed for what is the upstream's. */
static void test_the_upstreams_trouble_fails_no_message(void **state)
{
    struct fixture *f = *state;
    struct on_disk m;
    f->config->give_up_ms = 1000;
    f->ids -= (uint64_t)5000 << 16;
    begin(f);
    struct msg_id id = accept_one(f, 1);
    struct flow_link *link = upstream_up(f, 4);
    job_answer(f, job_wait(f), OUTCOME_AUTH_REFUSED, 1);
    link_down(f, link, OUTCOME_AUTH_REFUSED);
    struct flow_status status = settled(f);
    assert_int_equal(status.upstreams[0].state, FLOW_UPSTREAM_MARKED);
    read_message(f, id, &m);
    assert_int_equal(m.state.state, MESSAGE_QUEUED);
}

/* Others go, this one breaks the connection each time: it is the message after all. */
static void test_a_message_that_breaks_connections_is_given_up(void **state)
{
    struct fixture *f = *state;
    struct on_disk m;
    f->config->give_up_ms = 1000;
    f->config->retry_min_ms = 40;
    f->config->retry_max_ms = 80;
    f->config->give_up_ms = 1;
    begin(f);
    struct msg_id poison = accept_one(f, 1);
    upstream_up(f, 4);
    for (int attempt = 0; attempt < 2; attempt++) {
        job_answer(f, job_wait(f), OUTCOME_CONNECTION_LOST, 1);
        (void)settled(f);
        read_message(f, poison, &m);
        assert_int_equal(m.state.state,
                         MESSAGE_QUEUED); /* nothing else has gone: it may be the upstream */
    }
    /* One that has gone in the millisecond of its last try says nothing yet. */
    for (int attempt = 0; attempt < 4 && m.state.state == MESSAGE_QUEUED; attempt++) {
        struct msg_id other = accept_one(f, 1);
        struct flow_job *job = job_wait(f);
        while (msg_id_compare(&job->id, &other) != 0) {
            job_answer(f, job, OUTCOME_CONNECTION_LOST, 1);
            job = job_wait(f);
        }
        job_answer(f, job, OUTCOME_DELIVERED, 1);
        job = job_wait(f);
        assert_same_id(job->id, poison);
        job_answer(f, job, OUTCOME_CONNECTION_LOST, 1);
        (void)settled(f);
        read_message(f, poison, &m);
    }
    assert_int_equal(m.state.state, MESSAGE_FAILED);
    assert_int_equal(m.fates[0].outcome, OUTCOME_GAVE_UP);
}

/* One of two connections fails before it has worked; the other, idle and open, is the probe. */
static void test_marked_with_a_connection_open_goes_on_over_it(void **state)
{
    struct fixture *f = *state;
    f->config->upstreams[0].connections = 2;
    begin(f);
    (void)accept_one(f, 1);
    (void)accept_one(f, 1);
    struct flow_link *a = link_wait(f), *b = link_wait(f);
    link_up(f, a, 1);
    struct flow_job *first = job_wait(f);
    assert_ptr_equal(first->link, a);
    link_up(f, b, 1);
    struct flow_job *second = job_wait(f);
    assert_ptr_equal(second->link, b);
    first->tried = true; /* a: nothing that says anything about the upstream */
    job_back(f, first);
    second->tried = true;
    job_back(f, second);
    link_down(f, b, OUTCOME_TIMED_OUT);
    struct flow_status status = settled(f);
    assert_int_equal(status.upstreams[0].state, FLOW_UPSTREAM_MARKED);
    assert_int_equal(status.upstreams[0].connections, 1);
    struct msg_id id = accept_one(f, 1);
    struct flow_job *job = job_wait(f); /* not before the connection ends by itself, some time */
    assert_ptr_equal(job->link, a);
    assert_same_id(job->id, id);
    job_answer(f, job, OUTCOME_DELIVERED, 1);
    status = settled(f);
    assert_int_equal(status.upstreams[0].state, FLOW_UPSTREAM_WELL);
}

static void test_jobs_that_crossed_the_end_come_again(void **state)
{
    struct fixture *f = *state;
    begin(f);
    struct msg_id ids[2] = {accept_one(f, 1), accept_one(f, 1)};
    struct flow_link *link = upstream_up(f, 4);
    struct flow_job *jobs[2] = {job_wait(f), job_wait(f)};
    link_down(f, link, OUTCOME_NONE);
    (void)settled(f);
    assert_true(workers_quiet(f)); /* the place is not free before its jobs are back */
    for (size_t at = 0; at < 2; at++) {
        assert_same_id(jobs[at]->id, ids[at]);
        job_back(f, jobs[at]); /* untried */
    }
    struct flow_link *again = link_wait(f);
    assert_ptr_equal(again, link);
    link_up(f, again, 4);
    for (size_t at = 0; at < 2; at++) {
        struct flow_job *job = job_wait(f);
        assert_same_id(job->id, ids[at]);
        assert_false(job->tried);
        assert_int_equal(job->result_count, 0);
    }
}

/* A connection that gives jobs back untried is about to end: they do not go to and fro. */
static void test_untried_on_an_open_connection_rests(void **state)
{
    struct fixture *f = *state;
    begin(f);
    struct msg_id id = accept_one(f, 1);
    struct flow_link *link = upstream_up(f, 4);
    job_back(f, job_wait(f));
    struct flow_status status = settled(f);
    assert_int_equal(status.sending, 0);
    assert_true(workers_quiet(f));
    struct flow_job *job = job_wait(f); /* but it is not forgotten: the clock brings it */
    assert_ptr_equal(job->link, link);
    assert_same_id(job->id, id);
}

static void test_no_more_connections_than_messages_due(void **state)
{
    struct fixture *f = *state;
    f->config->upstreams[0].connections = 4;
    begin(f);
    for (size_t at = 0; at < 5; at++) { /* five that wait for an hour */
        (void)accept_one(f, 1);
    }
    (void)settled(f);
    struct flow_link *links[4];
    for (size_t at = 0; at < 4; at++) {
        links[at] = link_wait(f);
    }
    for (size_t at = 0; at < 4; at++) {
        link_up(f, links[at], 4); /* jobs come from here on */
    }
    for (size_t at = 0; at < 5; at++) {
        job_answer(f, job_wait(f), OUTCOME_DEFERRED, 1);
    }
    for (size_t at = 0; at < 4; at++) {
        link_down(f, links[at], OUTCOME_NONE);
    }
    (void)settled(f);
    (void)accept_one(f, 1); /* and one that is due */
    (void)link_wait(f);
    (void)settled(f);
    assert_true(workers_quiet(f));
}

/* ---- many ---- */

static void test_a_thousand_in_one_batch(void **state)
{
    struct fixture *f = *state;
    const size_t count = turns(1000, 200);
    struct client *clients = calloc(count, sizeof *clients);
    assert_non_null(clients);
    begin(f);
    for (size_t at = 0; at < count; at++) {
        client_commit(f, &clients[at], 1);
    }
    for (size_t at = 0; at < count; at++) {
        (void)box_wait(&f->clients, FLOW_INTAKE);
    }
    for (size_t at = 0; at < count; at++) {
        assert_int_equal(clients[at].intake.result, ERR_OK);
    }
    struct flow_status status = settled(f);
    assert_int_equal(status.count_by_state[MESSAGE_QUEUED], count);
    assert_true(metric_get(&f->metrics, METRIC_COMMITS) < count);
    free(clients);
}

/* Sends everything, and counts how often each id was seen. */
static void drain(struct fixture *f, uint64_t first_id, size_t count)
{
    uint8_t *seen = calloc(count, 1);
    assert_non_null(seen);
    for (size_t done = 0; done < count; done++) {
        struct flow_job *job = job_wait(f);
        uint64_t place = msg_id_time_and_sequence(&job->id) - first_id;
        assert_true(place < count);
        assert_int_equal(seen[place]++, 0);
        job_answer(f, job, OUTCOME_DELIVERED, 1);
    }
    free(seen);
}

static void test_more_than_the_window_holds(void **state)
{
    struct fixture *f = *state;
    enum { AT_ONCE = 512 };
    const size_t count = turns(SCHED_WINDOW_MAX * 2 + 77, 20);
    struct client *clients = calloc(AT_ONCE, sizeof *clients);
    assert_non_null(clients);
    begin(f);
    uint64_t first_id = f->ids + 1;
    for (size_t sent = 0; sent < count;) {
        size_t round = 0;
        for (; round < AT_ONCE && sent < count; round++, sent++) {
            client_commit(f, &clients[round], 1);
        }
        for (size_t at = 0; at < round; at++) {
            (void)box_wait(&f->clients, FLOW_INTAKE);
        }
    }
    free(clients);
    upstream_up(f, 4);
    drain(f, first_id, count);
    struct flow_status status = settled(f);
    assert_int_equal(status.count_by_state[MESSAGE_QUEUED], 0);
    assert_true(workers_quiet(f));
}

static void test_a_restart_knows_all_that_waits(void **state)
{
    struct fixture *f = *state;
    const size_t count = turns(50, 34);
    begin(f);
    uint64_t first_id = f->ids + 1;
    for (size_t at = 0; at < count; at++) {
        (void)accept_one(f, 1);
    }
    end(f);
    begin(f);
    upstream_up(f, 4);
    drain(f, first_id, count);
    struct flow_status status = settled(f);
    assert_int_equal(status.count_by_state[MESSAGE_QUEUED], 0);
}

/* The upstream was renamed in the configuration: nobody else would look for its messages. */
static void test_messages_of_a_removed_upstream_are_adopted(void **state)
{
    struct fixture *f = *state;
    struct on_disk m;
    const size_t count = turns(600, 5);
    begin(f);
    uint64_t first_id = f->ids + 1;
    struct msg_id id = {{0}};
    for (size_t at = 0; at < count; at++) {
        id = accept_one(f, 1);
    }
    end(f);
    upstream_config(&f->config->upstreams[0], "other");
    begin(f);
    upstream_up(f, 4);
    read_message(f, id, &m);
    assert_true(slice_equal(m.state.upstream, SLICE("other")));
    drain(f, first_id, count);
    struct flow_status status = settled(f);
    assert_int_equal(status.count_by_state[MESSAGE_QUEUED], 0);
}

/* ---- the disk ---- */

static void test_a_failed_sync_is_told_to_all(void **state)
{
    struct fixture *f = *state;
    static struct client c;
    begin(f);
    struct msg_id before = accept_one(f, 1);
    struct flow_link *link = upstream_up(f, 4);
    struct flow_job *job = job_wait(f);
    atomic_store(&fault, FAULT_SYNC);
    client_commit(f, &c, 1);
    (void)box_wait(&f->clients, FLOW_INTAKE);
    assert_int_not_equal(c.intake.result, ERR_OK);
    assert_int_not_equal(c.intake.result, ERR_FULL);
    (void)box_wait(&f->main, FLOW_DRAINED);
    atomic_store(&fault, FAULT_NONE);
    struct flow_status status = settled(f);
    assert_true(status.store_failed);
    assert_false(status.accepting);
    /* Nothing more is taken, given out, or changed; everybody gets an answer. */
    client_commit(f, &c, 1);
    (void)box_wait(&f->clients, FLOW_INTAKE);
    assert_int_not_equal(c.intake.result, ERR_OK);
    enum err result;
    assert_int_not_equal(edit_many(f, FLOW_EDIT_DELETE, &before, 1, &result), ERR_OK);
    job_answer(f, job, OUTCOME_DELIVERED, 1);
    link_down(f, link, OUTCOME_NONE);
    status = settled(f);
    assert_int_equal(status.sending, 0);
    assert_true(workers_quiet(f));
    end(f);
    assert_null(f->queue);
}

/* The kernel has made it read-only under us: nothing is answered 250 any more, the daemon ends, and
 * the next start, on a disk that is well again, has all that was answered before. */
static void test_a_disk_that_becomes_read_only_ends_it(void **state)
{
    struct fixture *f = *state;
    static struct client c;
    begin(f);
    struct msg_id before = accept_one(f, 1);
    atomic_store(&fault, FAULT_READ_ONLY);
    client_commit(f, &c, 1);
    (void)box_wait(&f->clients, FLOW_INTAKE);
    assert_int_not_equal(c.intake.result, ERR_OK);
    (void)box_wait(&f->main, FLOW_DRAINED);
    assert_true(settled(f).store_failed);
    end(f);
    atomic_store(&fault, FAULT_NONE);
    begin(f);
    assert_state(f, before, MESSAGE_QUEUED);
    assert_int_equal(settled(f).count_by_state[MESSAGE_QUEUED], 1);
}

static void test_a_full_disk_refuses_and_recovers(void **state)
{
    struct fixture *f = *state;
    static struct client c;
    begin(f);
    atomic_store(&fault, FAULT_DATA_FULL);
    client_commit(f, &c, 1);
    (void)box_wait(&f->clients, FLOW_INTAKE);
    assert_int_equal(c.intake.result, ERR_FULL);
    atomic_store(&fault, FAULT_NONE);
    struct flow_status status = settled(f);
    assert_false(status.store_failed);
    assert_int_equal(status.count_by_state[MESSAGE_QUEUED], 0);
    struct msg_id id = accept_one(f, 1);
    assert_state(f, id, MESSAGE_QUEUED);
}

/* Delivered, and no room to say so: it is neither lost nor sent a second time. */
static void test_an_outcome_without_room_is_kept(void **state)
{
    struct fixture *f = *state;
    begin(f);
    struct msg_id delivered = accept_one(f, 1), deferred = accept_one(f, 1);
    upstream_up(f, 4);
    struct flow_job *jobs[2] = {job_wait(f), job_wait(f)};
    atomic_store(&fault, FAULT_DATA_FULL);
    job_answer(f, jobs[0], OUTCOME_DELIVERED, 1);
    job_answer(f, jobs[1], OUTCOME_DEFERRED, 1);
    struct flow_status status = settled(f);
    assert_false(status.store_failed);
    assert_int_equal(status.sending, 2); /* still leased */
    assert_true(workers_quiet(f));
    assert_int_equal(edit(f, FLOW_EDIT_DELETE, deferred), ERR_BUSY);
    atomic_store(&fault, FAULT_NONE);
    struct timespec until, now;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += PATIENCE_MS / 1000;
    do { /* it is tried again by itself */
        rest_where_few(150);
        inspect(f, &status);
        clock_gettime(CLOCK_MONOTONIC, &now);
        assert_true(now.tv_sec < until.tv_sec);
    } while (status.sending > 0);
    assert_gone(f, delivered);
    assert_state(f, deferred, MESSAGE_QUEUED);
    assert_true(workers_quiet(f));
    assert_int_equal(edit(f, FLOW_EDIT_RETRY, deferred), ERR_OK);
    assert_same_id(job_wait(f)->id, deferred);
}

static void test_an_outcome_without_room_is_tried_once_more_at_the_end(void **state)
{
    struct fixture *f = *state;
    begin(f);
    struct msg_id id = accept_one(f, 1);
    upstream_up(f, 4);
    struct flow_job *job = job_wait(f);
    atomic_store(&fault, FAULT_DATA_FULL);
    job_answer(f, job, OUTCOME_DELIVERED, 1);
    (void)settled(f);
    atomic_store(&fault, FAULT_NONE);
    end(f);
    begin(f);
    assert_gone(f, id);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_accepted_then_sent_then_gone),
        CASE(test_each_recipient_has_its_own_fate),
        CASE(test_deferred_is_due_later_and_comes_again),
        CASE(test_given_up_when_too_old),
        CASE(test_refused_waits_for_an_operator),
        CASE(test_damaged_is_set_aside_with_what_is_known),
        CASE(test_a_job_for_a_message_that_is_gone_harms_nobody),
        CASE(test_edits_in_each_state),
        CASE(test_retry_brings_a_deferred_one_forward),
        CASE(test_named_twice_in_one_batch_is_sent_once),
        CASE(test_refused_marks_then_a_probe_goes_ahead),
        CASE(test_the_upstreams_trouble_fails_no_message),
        CASE(test_a_message_that_breaks_connections_is_given_up),
        CASE(test_marked_with_a_connection_open_goes_on_over_it),
        CASE(test_jobs_that_crossed_the_end_come_again),
        CASE(test_untried_on_an_open_connection_rests),
        CASE(test_no_more_connections_than_messages_due),
        CASE(test_a_thousand_in_one_batch),
        CASE(test_more_than_the_window_holds),
        CASE(test_a_restart_knows_all_that_waits),
        CASE(test_messages_of_a_removed_upstream_are_adopted),
        CASE(test_a_failed_sync_is_told_to_all),
        CASE(test_a_disk_that_becomes_read_only_ends_it),
        CASE(test_a_full_disk_refuses_and_recovers),
        CASE(test_an_outcome_without_room_is_kept),
        CASE(test_an_outcome_without_room_is_tried_once_more_at_the_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
