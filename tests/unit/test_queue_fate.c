/*
 * Fates in the corners: when give-up counts and from when, what is told and said once, and what an
 * operator's command leaves alone.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/unit/queue_use.h"

#define LONG_MS 3600000

/* One recipient after the other. */
static void answer_each(struct fixture *f, struct flow_job *job, const enum outcome *outcomes,
                        uint32_t count)
{
    job_tried(job, count);
    for (uint32_t at = 0; at < count; at++) {
        job->results[at] = (struct flow_result){
            .recipient_index = at, .outcome = outcomes[at], .code = 450, .text_len = 5};
    }
    job_back(f, job);
}

/* The second recipient alone is left, and is deferred once more. */
static void defer_second(struct fixture *f, struct flow_job *job)
{
    job->tried = true;
    job->result_count = 1;
    job->results[0] =
        (struct flow_result){.recipient_index = 1, .outcome = OUTCOME_DEFERRED, .code = 450};
    job_back(f, job);
}

static struct msg_id accept_two(struct fixture *f, uint8_t notify)
{
    static struct letter l;
    l = (struct letter){.from = "a@b", .rest = 20};
    letter_to(&l, "x@y");
    letter_to(&l, "z@y");
    l.to[0].notify = l.to[1].notify = notify;
    assert_int_equal(letter_send(f, &l), ERR_OK);
    return l.client.intake.id;
}

static enum message_state state_of(struct fixture *f, struct msg_id id)
{
    struct on_disk m;
    (void)settled(f);
    read_message(f, id, &m);
    return m.state.state;
}

/* ---- giving up ---- */

/* Marked and not tried again: what passes is outage. */
static void out_of_order(struct fixture *f, unsigned for_ms)
{
    f->config->upstreams[0].probe_min_ms = f->config->upstreams[0].probe_max_ms = LONG_MS;
    link_down(f, link_wait(f), OUTCOME_CONNECTION_REFUSED);
    (void)settled(f);
    usleep(for_ms * 1000);
}

/* As after a crash: what was learnt of the upstream since the last upkeep is gone. */
static void forget_outage(struct fixture *f)
{
    uint8_t memory[RECORD_UPSTREAM_BYTES_MAX];
    struct buf record;
    const struct record_upstream nothing = {0};
    end(f);
    begin_asleep(f);
    buf_init(&record, memory, sizeof memory);
    record_upstream_put(&record, &nothing);
    assert_int_equal(store_begin(f->store), ERR_OK);
    assert_int_equal(store_upstream_set(f->store, SLICE("main"), buf_slice(&record)), ERR_OK);
    assert_int_equal(store_commit(f->store), ERR_OK);
    end(f);
}

static void test_give_up_after_a_crash_in_an_outage(void **state)
{
    struct fixture *f = *state;
    f->config->give_up_ms = 50;
    begin(f);
    (void)accept_one(f, 1);
    out_of_order(f, 400);
    struct msg_id id = accept_one(f, 1); /* its base is those 400 ms */
    forget_outage(f);
    usleep(60000);
    begin(f);
    upstream_up(f, 1);
    struct flow_job *job = job_wait(f);
    if (msg_id_compare(&job->id, &id) != 0) {
        job_answer(f, job, OUTCOME_DELIVERED, 1);
        job = job_wait(f);
    }
    assert_same_id(job->id, id);
    job_answer(f, job, OUTCOME_DEFERRED, 1);
    assert_int_equal(state_of(f, id), MESSAGE_FAILED);
}

/* An upstream that was out of order for long is replaced by another one. */
static void test_outage_counts_after_a_new_route(void **state)
{
    struct fixture *f = *state;
    f->config->give_up_ms = 2000;
    begin(f);
    struct msg_id id = accept_one(f, 1);
    out_of_order(f, 2200);
    end(f);
    upstream_config(&f->config->upstreams[0], "other");
    begin(f);
    upstream_up(f, 4);
    job_answer(f, job_wait(f), OUTCOME_GREYLISTED, 1);
    assert_int_equal(state_of(f, id), MESSAGE_QUEUED);
    end(f);
    upstream_config(&f->config->upstreams[0], "third"); /* which was never out of order, either */
    begin(f);
    assert_int_equal(edit(f, FLOW_EDIT_RETRY, id), ERR_OK);
    upstream_up(f, 4);
    job_answer(f, job_wait(f), OUTCOME_GREYLISTED, 1);
    assert_int_equal(state_of(f, id), MESSAGE_QUEUED);
    usleep(2100000); /* but what passes now does */
    assert_int_equal(edit(f, FLOW_EDIT_RETRY, id), ERR_OK);
    job_answer(f, job_wait(f), OUTCOME_GREYLISTED, 1);
    assert_int_equal(state_of(f, id), MESSAGE_FAILED);
}

/* Others go, and this one is answered 421 each time: it is given up as one that breaks connections
 * is, and its sender is warned before. */
static void test_always_answered_421_is_given_up(void **state)
{
    struct fixture *f = *state;
    struct on_disk m = {.state.state = MESSAGE_QUEUED};
    f->config->retry_min_ms = f->config->retry_max_ms = 20;
    f->config->give_up_ms = 1;
    begin(f);
    struct msg_id poison = accept_one(f, 1);
    upstream_up(f, 4);
    for (unsigned round = 0; round < 12 && m.state.state == MESSAGE_QUEUED; round++) {
        struct msg_id other = accept_one(f, 1);
        bool other_gone = false, tried = false;
        while (!other_gone || !tried) {
            struct flow_job *job = job_wait(f);
            bool is_other = msg_id_compare(&job->id, &other) == 0;
            other_gone = other_gone || is_other;
            tried = tried || !is_other;
            usleep(2000); /* the one is told apart from the other by the clock */
            job_answer(f, job, is_other ? OUTCOME_DELIVERED : OUTCOME_SERVICE_CLOSING, 1);
            (void)settled(f);
        }
        read_message(f, poison, &m);
    }
    assert_int_equal(m.state.state, MESSAGE_FAILED);
    assert_int_equal(m.fates[0].outcome, OUTCOME_GAVE_UP);
}

static void test_each_recipient_given_up_is_counted(void **state)
{
    struct fixture *f = *state;
    f->config->give_up_ms = 1;
    begin(f);
    (void)accept_one(f, 3);
    upstream_up(f, 4);
    struct flow_job *job = job_wait(f);
    usleep(5000);
    job_answer(f, job, OUTCOME_DEFERRED, 3);
    (void)settled(f);
    assert_int_equal(metric_get(&f->metrics, METRIC_FAILED), 3);
}

/* ---- operators ---- */

/* An operator's retry of one that was given up is more than one attempt. */
static void test_a_retry_after_give_up_begins_anew(void **state)
{
    struct fixture *f = *state;
    f->config->reports = true;
    f->config->give_up_ms = 1500;
    begin(f);
    struct msg_id id = accept_one(f, 1);
    upstream_up(f, 1);
    struct flow_job *job = job_wait(f);
    usleep(1600000);
    job_answer(f, job, OUTCOME_DEFERRED, 1);
    job_answer(f, job_wait(f), OUTCOME_DELIVERED, 1); /* the report */
    assert_int_equal(state_of(f, id), MESSAGE_TRASHED);
    assert_int_equal(edit(f, FLOW_EDIT_RETRY, id), ERR_OK);
    job_answer(f, job_wait(f), OUTCOME_GREYLISTED, 1);
    assert_int_equal(state_of(f, id), MESSAGE_QUEUED);
}

static void test_time_on_hold_does_not_count(void **state)
{
    struct fixture *f = *state;
    f->config->give_up_ms = 1500;
    begin(f);
    struct msg_id id = accept_one(f, 1);
    struct flow_link *link = link_wait(f);
    (void)settled(f);
    assert_int_equal(edit(f, FLOW_EDIT_HOLD, id), ERR_OK);
    usleep(1600000);
    assert_int_equal(edit(f, FLOW_EDIT_RELEASE, id), ERR_OK);
    link_up(f, link, 1);
    job_answer(f, job_wait(f), OUTCOME_GREYLISTED, 1);
    assert_int_equal(state_of(f, id), MESSAGE_QUEUED);
    assert_int_equal(edit(f, FLOW_EDIT_DELETE, id), ERR_OK); /* nor in the trash */
    usleep(1600000);
    assert_int_equal(edit(f, FLOW_EDIT_UNDELETE, id), ERR_OK);
    job_answer(f, job_wait(f), OUTCOME_GREYLISTED, 1);
    assert_int_equal(state_of(f, id), MESSAGE_QUEUED);
}

/* From hold into the trash, and back. */
static void test_time_on_hold_and_in_the_trash_does_not_count(void **state)
{
    struct fixture *f = *state;
    static const enum flow_edit_action way[] = {FLOW_EDIT_HOLD, FLOW_EDIT_DELETE,
                                                FLOW_EDIT_UNDELETE, FLOW_EDIT_RELEASE};
    f->config->give_up_ms = 1500;
    begin(f);
    struct msg_id id = accept_one(f, 1);
    struct flow_link *link = link_wait(f);
    for (size_t at = 0; at < sizeof way / sizeof way[0]; at++) {
        (void)settled(f);
        assert_int_equal(edit(f, way[at], id), ERR_OK);
        usleep(way[at] == FLOW_EDIT_RELEASE ? 0 : 900000);
    }
    link_up(f, link, 1);
    job_answer(f, job_wait(f), OUTCOME_GREYLISTED, 1);
    assert_int_equal(state_of(f, id), MESSAGE_QUEUED);
}

/* Time that is both, on hold and out of order, is taken off once. */
static void test_hold_in_an_outage_is_taken_off_once(void **state)
{
    struct fixture *f = *state;
    f->config->give_up_ms = 1000;
    begin(f);
    struct msg_id id = accept_one(f, 1);
    out_of_order(f, 0);
    assert_int_equal(edit(f, FLOW_EDIT_HOLD, id), ERR_OK);
    usleep(3000000);
    assert_int_equal(edit(f, FLOW_EDIT_RELEASE, id), ERR_OK); /* which has the upstream tried */
    link_up(f, link_wait(f), 1);
    job_answer(f, job_wait(f), OUTCOME_GREYLISTED, 1);
    assert_int_equal(state_of(f, id), MESSAGE_QUEUED);
    usleep(1100000);
    assert_int_equal(edit(f, FLOW_EDIT_RETRY, id), ERR_OK);
    job_answer(f, job_wait(f), OUTCOME_GREYLISTED, 1);
    assert_int_equal(state_of(f, id), MESSAGE_FAILED);
}

/* One that had failed, and whose sender was told, is not tried again beside the others. */
static void test_release_leaves_the_told_alone(void **state)
{
    struct fixture *f = *state;
    struct on_disk m;
    f->config->reports = true;
    begin(f);
    struct msg_id id = accept_two(f, 0);
    upstream_up(f, 1);
    answer_each(f, job_wait(f), (enum outcome[]){OUTCOME_REFUSED, OUTCOME_DEFERRED}, 2);
    job_answer(f, job_wait(f), OUTCOME_DELIVERED, 1); /* the report */
    assert_int_equal(settled(f).reports_made, 1);
    assert_int_equal(edit(f, FLOW_EDIT_HOLD, id), ERR_OK);
    assert_int_equal(edit(f, FLOW_EDIT_RELEASE, id), ERR_OK);
    read_message(f, id, &m);
    assert_int_equal(m.fates[0].state, RECIPIENT_FAILED);
    assert_true(recipient_is_open(m.fates[1].state));
}

static void test_held_and_deleted_comes_back_held(void **state)
{
    struct fixture *f = *state;
    begin(f);
    struct msg_id id = accept_one(f, 1);
    (void)link_wait(f);
    assert_int_equal(edit(f, FLOW_EDIT_HOLD, id), ERR_OK);
    assert_int_equal(edit(f, FLOW_EDIT_DELETE, id), ERR_OK);
    end(f);
    begin(f);
    assert_int_equal(edit(f, FLOW_EDIT_UNDELETE, id), ERR_OK);
    assert_int_equal(state_of(f, id), MESSAGE_HELD);
    assert_int_equal(edit(f, FLOW_EDIT_RELEASE, id), ERR_OK);
    assert_int_equal(edit(f, FLOW_EDIT_DELETE, id), ERR_OK); /* not held any more */
    assert_int_equal(edit(f, FLOW_EDIT_UNDELETE, id), ERR_OK);
    assert_int_equal(state_of(f, id), MESSAGE_QUEUED);
}

/* As many as a batch holds, and then a command for as many as it may name. */
static void test_an_edit_behind_many_parts(void **state)
{
    enum { PARTS = 8, LETTERS = 510 };
    struct fixture *f = *state;
    static struct letter letters[LETTERS];
    static struct flow_edit all;
    char name[16], use[64];
    f->config->upstream_count = 0;
    for (uint32_t at = 0; at < PARTS; at++) {
        snprintf(name, sizeof name, "u%u", (unsigned)at);
        snprintf(use, sizeof use, "for recipient:*@d%u", (unsigned)at);
        named(f, at, name, at == 0 ? "always" : use);
    }
    begin(f);
    for (uint32_t at = 0; at < FLOW_EDIT_IDS_MAX; at++) {
        all.ids[at] = accept_one(f, 1);
    }
    end(f);
    begin_asleep(f);
    static const char *const to[PARTS] = {"a@d0", "a@d1", "a@d2", "a@d3",
                                          "a@d4", "a@d5", "a@d6", "a@d7"};
    for (uint32_t at = 0; at < LETTERS; at++) {
        letters[at] = (struct letter){.from = "a@b", .rest = 20};
        for (uint32_t part = 0; part < PARTS; part++) {
            letter_to(&letters[at], to[part]);
        }
        letters[at].client.intake.id = msg_id_make(++f->ids, 1);
        letter_end(f, &letters[at]);
    }
    all.action = FLOW_EDIT_RETRY;
    all.count = FLOW_EDIT_IDS_MAX;
    all.msg.kind = FLOW_EDIT;
    all.msg.reply_to = &f->main.mailbox;
    mailbox_send(queue_mailbox(f->queue), &all.msg);
    begin_awake(f);
    (void)box_wait(&f->main, FLOW_EDIT);
    assert_int_equal(all.result, ERR_OK);
}

/* ---- telling ---- */

/* The upstream tells of a success that it was asked to. RFC 3461 5.2 */
static void test_passed_on_is_not_reported_by_a_later_change(void **state)
{
    struct fixture *f = *state;
    f->config->reports = true;
    f->config->retry_min_ms = f->config->retry_max_ms = 20;
    begin(f);
    struct msg_id id = accept_two(f, RECORD_NOTIFY_SUCCESS | RECORD_NOTIFY_FAILURE);
    upstream_up(f, 1);
    struct flow_job *job = job_wait(f);
    job->dsn_passed = true;
    answer_each(f, job, (enum outcome[]){OUTCOME_DELIVERED, OUTCOME_DEFERRED}, 2);
    defer_second(f, job_wait(f)); /* over a host that cannot */
    assert_int_equal(settled(f).reports_made, 0);
    job = job_wait(f);
    assert_same_id(job->id, id);
    job->tried = true; /* nothing was said of it */
    job_back(f, job);
    assert_int_equal(settled(f).reports_made, 0);
}

/* The upstream that is asked whether it takes reports is the one that gets it. */
static void report_goes_by(struct fixture *f, uint32_t refuses)
{
    upstreams(f, (const char *const[]){"always", "always", NULL});
    f->config->reports = true;
    f->config->upstreams[refuses].null_sender = false;
    begin(f);
    assert_route(f, accept_from(f, "a@b", "x@y"), "u0");
    assert_route(f, accept_from(f, "a@b", "x@y"), "u1");
    struct flow_link *links[2] = {link_wait(f), link_wait(f)};
    link_up(f, links[0], 4);
    link_up(f, links[1], 4);
    struct flow_job *jobs[2] = {0};
    for (unsigned at = 0; at < 2; at++) {
        struct flow_job *job = job_wait(f);
        jobs[job->link->upstream] = job;
    }
    job_answer(f, jobs[1], OUTCOME_DEFERRED, 1); /* waits: each has one to do */
    (void)settled(f);
    job_answer(f, jobs[0], OUTCOME_REFUSED, 1);
    assert_int_equal(settled(f).reports_made, 1);
    assert_int_equal(job_wait(f)->link->upstream, 1 - refuses);
}

static void test_reports_go_where_they_are_taken(void **state)
{
    report_goes_by(*state, 0);
}

static void test_reports_do_not_go_where_they_are_refused(void **state)
{
    report_goes_by(*state, 1);
}

static void test_an_untold_failure_is_counted_once(void **state)
{
    struct fixture *f = *state;
    f->config->retry_min_ms = f->config->retry_max_ms = 20;
    begin(f);
    (void)accept_two(f, 0);
    upstream_up(f, 1);
    answer_each(f, job_wait(f), (enum outcome[]){OUTCOME_REFUSED, OUTCOME_DEFERRED}, 2);
    defer_second(f, job_wait(f));
    defer_second(f, job_wait(f));
    assert_int_equal(events(f, "event=unreported"), 1);
    assert_int_equal(metric_get(&f->metrics, METRIC_REPORTS_UNSENT), 1);
}

/* While there is no room the outcome is applied again and again. */
static void test_an_outcome_without_room_is_logged_once(void **state)
{
    struct fixture *f = *state;
    f->config->reports = true;
    begin(f);
    (void)accept_two(f, 0);
    upstream_up(f, 1);
    struct flow_job *job = job_wait(f);
    atomic_store(&fault, FAULT_DATA_FULL);
    answer_each(f, job, (enum outcome[]){OUTCOME_REFUSED, OUTCOME_DEFERRED}, 2);
    (void)settled(f);
    assert_int_equal(events(f, "event=reported"), 0);
    assert_int_equal(events(f, "event=deferred"), 0);
    atomic_store(&fault, FAULT_NONE);
    job = job_wait(f); /* the report */
    job_answer(f, job, OUTCOME_DELIVERED, 1);
    assert_int_equal(events(f, "event=reported"), 1);
    assert_int_equal(events(f, "event=deferred"), 1);
}

/* ---- what lies behind something that cannot be done ---- */

/* A full disk at the start: what a removed upstream has left behind goes once there is room. */
static void test_strays_are_adopted_when_there_is_room(void **state)
{
    struct fixture *f = *state;
    begin(f);
    struct msg_id id = accept_one(f, 1);
    end(f);
    upstream_config(&f->config->upstreams[0], "other");
    begin_asleep(f);
    atomic_store(&fault, FAULT_DATA_FULL);
    begin_awake(f);
    (void)settled(f);
    assert_true(workers_quiet(f));
    atomic_store(&fault, FAULT_NONE);
    upstream_up(f, 4);
    struct flow_job *job = job_wait(f);
    assert_same_id(job->id, id);
    job_answer(f, job, OUTCOME_DELIVERED, 1);
    (void)settled(f);
    assert_gone(f, id);
}

/* The words of the state records of `main` change, so that their checksums do not fit. */
static void spoil_states(struct fixture *f)
{
    static const uint8_t pattern[] = {0, 4, 'm', 'a', 'i', 'n', 0, 9, '1', '9', '2', '.'};
    char path[160];
    snprintf(path, sizeof path, "%s/data.mdb", f->directory);
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    uint8_t *bytes = malloc(64 * MIB);
    assert_non_null(bytes);
    size_t len = fread(bytes, 1, 64 * MIB, file);
    uint32_t found = 0;
    for (size_t at = 0; at + sizeof pattern < len; at++) {
        if (memcmp(bytes + at, pattern, sizeof pattern) == 0) {
            assert_int_equal(fseek(file, (long)at + 8, SEEK_SET), 0);
            assert_int_equal(fputc('X', file), 'X');
            found++;
        }
    }
    free(bytes);
    assert_int_equal(fclose(file), 0);
    assert_true(found > 0);
}

/* A record that cannot be read stays at the head of those that wait for the digest. */
static void test_the_digest_keeps_its_distance(void **state)
{
    struct fixture *f = *state;
    snprintf(f->config->root_mail, sizeof f->config->root_mail, "root@example.jp");
    f->config->digest_ms = 50;
    f->config->keep_deleted_ms = 10;
    begin(f);
    struct msg_id id = accept_one(f, 1);
    upstream_up(f, 4);
    job_answer(f, job_wait(f), OUTCOME_REFUSED, 1);
    assert_int_equal(state_of(f, id), MESSAGE_FAILED);
    end(f);
    spoil_states(f);
    usleep(60000);
    f->config->digest_ms = 86400000;
    begin(f);
    for (unsigned at = 0; at < 2; at++) {
        (void)accept_one(f, 1);
        if (at == 0) {
            upstream_up(f, 4);
        }
        job_answer(f, job_wait(f), OUTCOME_REFUSED, 1);
        struct msg_id gone = accept_one(f, 1); /* deleted: upkeep comes when it goes for good */
        job_answer(f, job_wait(f), OUTCOME_DEFERRED, 1);
        (void)settled(f);
        assert_int_equal(edit(f, FLOW_EDIT_DELETE, gone), ERR_OK);
        usleep(30000);
    }
    assert_int_equal(events(f, "event=digested"), 0); /* ten minutes gather what has failed */
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup_use, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_give_up_after_a_crash_in_an_outage),
        CASE(test_outage_counts_after_a_new_route),
        CASE(test_always_answered_421_is_given_up),
        CASE(test_each_recipient_given_up_is_counted),
        CASE(test_a_retry_after_give_up_begins_anew),
        CASE(test_time_on_hold_does_not_count),
        CASE(test_time_on_hold_and_in_the_trash_does_not_count),
        CASE(test_hold_in_an_outage_is_taken_off_once),
        CASE(test_release_leaves_the_told_alone),
        CASE(test_held_and_deleted_comes_back_held),
        CASE(test_an_edit_behind_many_parts),
        CASE(test_passed_on_is_not_reported_by_a_later_change),
        CASE(test_reports_go_where_they_are_taken),
        CASE(test_reports_do_not_go_where_they_are_refused),
        CASE(test_an_untold_failure_is_counted_once),
        CASE(test_an_outcome_without_room_is_logged_once),
        CASE(test_strays_are_adopted_when_there_is_room),
        CASE(test_the_digest_keeps_its_distance),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
