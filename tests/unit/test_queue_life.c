/*
 * What becomes of messages in the long run: reports to senders, the digest, the trash, the history,
 * warnings, and the queue's clock.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "daemon/flow/clock.h"
#include "tests/unit/queue_rig.h"

#define BODY_BYTES_MAX 65536

/* What a message was sent with; zeros are what clients mostly do. */
struct params {
    const char *sender;
    uint8_t notify;
    uint16_t flags;
};

static struct msg_id accept_with(struct fixture *f, const struct params *p)
{
    static struct client c;
    struct slice piece = slice_of(body, sizeof body - 1);
    struct buf list, envelope;
    buf_init(&list, c.recipients_memory, sizeof c.recipients_memory);
    const struct record_rcpt rcpt = {.path = SLICE("r@example.jp"), .notify = p->notify};
    record_rcpt_put(&list, &rcpt);
    struct record_envelope e = {
        .arrived_ms = flow_wall_ms(),
        .body_bytes = piece.len,
        .chunk_count = 1,
        .body_crc = crc32c(0, piece),
        .recipient_count = 1,
        .flags = p->flags,
        .client = SLICE("192.0.2.1"),
        .subject = SLICE("x"),
        .sender = slice_from_str(p->sender),
        .recipients = buf_slice(&list),
    };
    buf_init(&envelope, c.envelope_memory, sizeof c.envelope_memory);
    record_envelope_put(&envelope, &e);
    assert_false(envelope.overflow);
    c.intake.id = msg_id_make(++f->ids, 1);
    c.intake.piece_index = 0;
    c.intake.envelope = buf_slice(&envelope);
    c.intake.sender = e.sender;
    c.intake.recipient_count = 1;
    c.intake.body_bytes = piece.len;
    client_send(f, &c, FLOW_INTAKE_COMMIT, piece);
    assert_ptr_equal(box_wait(&f->clients, FLOW_INTAKE), &c.intake.msg);
    assert_int_equal(c.intake.result, ERR_OK);
    return c.intake.id;
}

static const struct params plain = {.sender = "a@example.jp"};

/* The message of the next job, which is handed out by itself, must be another than `but`. */
static struct flow_job *job_of_other(struct fixture *f, struct msg_id but)
{
    struct flow_job *job = job_wait(f);
    assert_int_not_equal(msg_id_compare(&job->id, &but), 0);
    return job;
}

struct whole {
    struct record_envelope envelope;
    struct record_state state;
    uint8_t records[8192];
    uint8_t body_memory[BODY_BYTES_MAX];
    struct buf body;
};

static void read_whole(struct fixture *f, struct msg_id id, struct whole *out)
{
    struct buf to;
    struct slice envelope, state;
    size_t needed;
    buf_init(&to, out->records, sizeof out->records);
    assert_int_equal(store_read_message(f->reader, &id, &to, &envelope, &state, &needed), ERR_OK);
    assert_int_equal(record_envelope_get(envelope, &out->envelope), ERR_OK);
    assert_int_equal(record_state_get(state, &out->state), ERR_OK);
    buf_init(&out->body, out->body_memory, sizeof out->body_memory);
    while (out->body.len < out->envelope.body_bytes) {
        assert_int_equal(store_read_body(f->reader, &id, out->body.len, &out->body), ERR_OK);
    }
    assert_int_equal(crc32c(0, buf_slice(&out->body)), out->envelope.body_crc);
}

static bool has(struct slice text, const char *words)
{
    struct slice wanted = slice_from_str(words);
    for (; text.len >= wanted.len; text = slice_tail(text, 1)) {
        if (slice_starts_with(text, wanted)) {
            return true;
        }
    }
    return false;
}

struct past {
    struct record_message message;
    struct record_history history;
    struct record_trail trail;
    uint8_t memory[16384];
};

static void read_past(struct fixture *f, struct msg_id id, struct past *out)
{
    struct buf to;
    size_t needed = 0;
    buf_init(&to, out->memory, sizeof out->memory);
    assert_int_equal(store_read_history(f->reader, &id, &to, &needed), ERR_OK);
    assert_int_equal(
        record_message_of_history(buf_slice(&to), &id, &out->message, &out->history, &out->trail),
        ERR_OK);
}

static void assert_no_history(struct fixture *f, struct msg_id id)
{
    static uint8_t memory[16384];
    struct buf to;
    size_t needed = 0;
    buf_init(&to, memory, sizeof memory);
    assert_int_equal(store_read_history(f->reader, &id, &to, &needed), ERR_NOT_FOUND);
}

/* ---- the history ---- */

static void test_delivered_is_remembered(void **state)
{
    struct fixture *f = *state;
    static struct past p;
    begin(f);
    struct msg_id id = accept_with(f, &plain);
    upstream_up(f, 4);
    struct flow_job *job = job_wait(f);
    job->connection = 17;
    job->duration_ms = 120;
    buf_put_str(&job->dialogue, "C: MAIL FROM:<a@example.jp>\nS: 250 ok\n");
    job_answer(f, job, OUTCOME_DELIVERED, 1);
    struct flow_status status = settled(f);
    assert_gone(f, id);
    assert_int_equal(status.history_count, 1);
    read_past(f, id, &p);
    assert_int_equal(p.history.end, RECORD_END_DELIVERED);
    assert_true(slice_equal(p.message.envelope.sender, SLICE("a@example.jp")));
    struct slice moves = p.trail.moves;
    struct record_move move;
    assert_true(record_move_next(&moves, &move));
    assert_int_equal(move.from, LIFECYCLE_QUEUED);
    assert_int_equal(move.to, LIFECYCLE_DELIVERED);
    assert_int_equal(move.connection, 17);
    assert_int_equal(move.duration_ms, 120);
    assert_true(slice_equal(move.upstream, SLICE("main")));
    assert_true(slice_equal(move.peer, SLICE("192.0.2.25:587")));
    assert_true(slice_equal(move.text, SLICE("words")));
    assert_false(record_move_next(&moves, &move));
    assert_true(has(p.trail.dialogue, "S: 250 ok\n"));
}

static void test_each_attempt_is_a_move(void **state)
{
    struct fixture *f = *state;
    static struct past p;
    f->config->retry_min_ms = 40;
    f->config->retry_max_ms = 80;
    begin(f);
    struct msg_id id = accept_with(f, &plain);
    upstream_up(f, 4);
    job_answer(f, job_wait(f), OUTCOME_DEFERRED, 1);
    job_answer(f, job_wait(f), OUTCOME_IN_DOUBT, 1);
    struct flow_job *job = job_wait(f);
    struct on_disk m;
    read_message(f, id, &m);
    assert_int_equal(m.fates[0].state, RECIPIENT_IN_DOUBT);
    job_answer(f, job, OUTCOME_DELIVERED, 1);
    (void)settled(f);
    read_past(f, id, &p);
    static const enum lifecycle wanted[] = {LIFECYCLE_QUEUED, LIFECYCLE_DEFERRED,
                                            LIFECYCLE_IN_DOUBT, LIFECYCLE_DELIVERED};
    struct slice moves = p.trail.moves;
    struct record_move move;
    for (size_t at = 0; at < 3; at++) {
        assert_true(record_move_next(&moves, &move));
        assert_int_equal(move.from, wanted[at]);
        assert_int_equal(move.to, wanted[at + 1]);
    }
}

static void test_old_history_goes(void **state)
{
    struct fixture *f = *state;
    f->config->keep_history_ms = 1;
    begin(f);
    struct msg_id id = accept_with(f, &plain);
    upstream_up(f, 4);
    job_answer(f, job_wait(f), OUTCOME_DELIVERED, 1);
    assert_int_equal(settled(f).history_count, 1);
    end(f);
    usleep(5000);
    begin(f); /* what upkeep does once a minute it does at once at the start */
    assert_int_equal(settled(f).history_count, 0);
    assert_no_history(f, id);
}

/* ---- reports ---- */

static void test_a_failure_is_reported_with_it(void **state)
{
    struct fixture *f = *state;
    static struct whole report;
    struct on_disk m;
    f->config->reports = true;
    begin(f);
    struct msg_id id = accept_with(f, &plain);
    upstream_up(f, 4);
    job_answer(f, job_wait(f), OUTCOME_REFUSED, 1);
    struct flow_job *job = job_of_other(f, id);
    read_whole(f, job->id, &report);
    assert_int_equal(report.envelope.sender.len, 0);
    assert_int_equal(report.envelope.flags & RECORD_FLAG_REPORT, RECORD_FLAG_REPORT);
    struct slice rcpts = report.envelope.recipients;
    struct slice path;
    assert_true(record_recipient_next(&rcpts, &path));
    assert_true(slice_equal(path, SLICE("a@example.jp")));
    struct slice text = buf_slice(&report.body);
    assert_true(has(text, "\r\nAction: failed\r\n"));
    assert_true(has(text, "r@example.jp"));
    assert_true(has(text, "\r\nSubject: x\r\n"));
    assert_false(has(text, "hello"));
    read_message(f, id, &m);
    assert_int_equal(m.state.state, MESSAGE_TRASHED);
    assert_int_equal(m.fates[0].flags, RECORD_FATE_TOLD_FAILED);
    job_answer(f, job, OUTCOME_DELIVERED, 1);
    struct flow_status status = settled(f);
    assert_int_equal(status.reports_made, 1);
    assert_int_equal(status.count_by_state[MESSAGE_FAILED], 0);
}

/* Invariant 8: at most one report for each recipient. */
static void test_told_once(void **state)
{
    struct fixture *f = *state;
    f->config->reports = true;
    begin(f);
    struct msg_id id = accept_with(f, &plain);
    upstream_up(f, 4);
    job_answer(f, job_wait(f), OUTCOME_REFUSED, 1);
    job_answer(f, job_of_other(f, id), OUTCOME_DELIVERED, 1);
    (void)settled(f);
    assert_int_equal(edit(f, FLOW_EDIT_RETRY, id), ERR_OK);
    struct flow_job *job = job_wait(f);
    assert_same_id(job->id, id);
    job_answer(f, job, OUTCOME_REFUSED, 1);
    assert_int_equal(settled(f).reports_made, 1);
    assert_state(f, id, MESSAGE_TRASHED);
    assert_true(workers_quiet(f));
}

static void test_nothing_is_reported_to_nobody(void **state)
{
    struct fixture *f = *state;
    struct on_disk m;
    f->config->reports = true;
    begin(f);
    struct msg_id id = accept_with(f, &(struct params){.sender = ""});
    upstream_up(f, 4);
    job_answer(f, job_wait(f), OUTCOME_REFUSED, 1);
    struct flow_status status = settled(f);
    read_message(f, id, &m);
    assert_int_equal(m.state.state, MESSAGE_FAILED);
    assert_int_equal(m.state.flags, RECORD_STATE_AWAITS_DIGEST);
    assert_int_equal(status.reports_made, 0);
    assert_true(workers_quiet(f));
}

static void test_no_report_about_a_report(void **state)
{
    struct fixture *f = *state;
    f->config->reports = true;
    begin(f);
    struct msg_id id = accept_with(f, &plain);
    upstream_up(f, 4);
    job_answer(f, job_wait(f), OUTCOME_REFUSED, 1);
    struct flow_job *job = job_of_other(f, id);
    struct msg_id report = job->id;
    job_answer(f, job, OUTCOME_NO_SUCH_RECIPIENT, 1);
    assert_int_equal(settled(f).reports_made, 1);
    assert_state(f, report, MESSAGE_FAILED);
    assert_true(workers_quiet(f));
}

static void test_never_means_never(void **state)
{
    struct fixture *f = *state;
    f->config->reports = true;
    begin(f);
    const struct params never = {.sender = "a@example.jp", .notify = RECORD_NOTIFY_NEVER};
    struct msg_id id = accept_with(f, &never);
    upstream_up(f, 4);
    job_answer(f, job_wait(f), OUTCOME_REFUSED, 1);
    assert_int_equal(settled(f).reports_made, 0);
    assert_state(f, id, MESSAGE_TRASHED);
    assert_true(workers_quiet(f));
}

/* RFC 3461 5.2.2: who asked for it hears of a success, unless the upstream will say so itself. */
static void test_a_success_is_reported_when_asked_for(void **state)
{
    struct fixture *f = *state;
    static struct whole report;
    f->config->reports = true;
    begin(f);
    const struct params both = {.sender = "a@example.jp",
                                .notify = RECORD_NOTIFY_SUCCESS | RECORD_NOTIFY_FAILURE};
    struct msg_id id = accept_with(f, &both);
    upstream_up(f, 4);
    job_answer(f, job_wait(f), OUTCOME_DELIVERED, 1);
    struct flow_job *job = job_of_other(f, id);
    read_whole(f, job->id, &report);
    assert_true(has(buf_slice(&report.body), "\r\nAction: relayed\r\n"));
    job_answer(f, job, OUTCOME_DELIVERED, 1);
    (void)settled(f);
    (void)accept_with(f, &both);
    job = job_wait(f);
    job->dsn_passed = true;
    job_answer(f, job, OUTCOME_DELIVERED, 1);
    assert_int_equal(settled(f).reports_made, 1);
    assert_true(workers_quiet(f));
}

static void test_more_reports_than_the_rate_wait_for_the_digest(void **state)
{
    struct fixture *f = *state;
    struct on_disk m;
    struct msg_id last = {{0}};
    f->config->reports = true;
    f->config->report_rate = 2;
    begin(f);
    for (int count = 0; count < 3; count++) {
        last = accept_with(f, &plain);
        if (count == 0) {
            upstream_up(f, 4);
        }
        job_answer(f, job_wait(f), OUTCOME_REFUSED, 1);
        if (count < 2) {
            job_answer(f, job_of_other(f, last), OUTCOME_DELIVERED, 1);
        }
        (void)settled(f);
    }
    assert_int_equal(settled(f).reports_made, 2);
    read_message(f, last, &m);
    assert_int_equal(m.state.flags, RECORD_STATE_AWAITS_DIGEST);
}

static void test_an_upstream_that_refuses_reports_gets_none(void **state)
{
    struct fixture *f = *state;
    f->config->reports = true;
    begin(f);
    struct msg_id id = accept_with(f, &plain);
    upstream_up(f, 4);
    job_answer(f, job_wait(f), OUTCOME_REFUSED, 1);
    job_answer(f, job_of_other(f, id), OUTCOME_SENDER_REFUSED, 1);
    (void)settled(f);
    struct msg_id next = accept_with(f, &plain);
    job_answer(f, job_wait(f), OUTCOME_REFUSED, 1);
    assert_int_equal(settled(f).reports_made, 1);
    assert_state(f, next, MESSAGE_FAILED);
    assert_true(workers_quiet(f));
}

static void test_a_delay_is_told_once(void **state)
{
    struct fixture *f = *state;
    static struct whole report;
    f->config->reports = true;
    f->config->warn_after_ms = 1;
    f->config->retry_min_ms = 40;
    f->config->retry_max_ms = 80;
    begin(f);
    struct msg_id id = accept_with(f, &plain);
    upstream_up(f, 4);
    struct flow_job *job = job_wait(f);
    usleep(5000);
    job_answer(f, job, OUTCOME_DEFERRED, 1);
    job = job_of_other(f, id);
    read_whole(f, job->id, &report);
    assert_true(has(buf_slice(&report.body), "\r\nAction: delayed\r\n"));
    job_answer(f, job, OUTCOME_DELIVERED, 1);
    job = job_wait(f);
    assert_same_id(job->id, id);
    job_answer(f, job, OUTCOME_DEFERRED, 1);
    assert_int_equal(settled(f).reports_made, 1);
}

/* The upstream's own trouble is no delay of this message's: nobody could send the warning anyway.
 */
static void test_no_warning_while_the_upstream_is_out_of_order(void **state)
{
    struct fixture *f = *state;
    f->config->reports = true;
    f->config->warn_after_ms = 1;
    begin(f);
    (void)accept_with(f, &plain);
    upstream_up(f, 4);
    struct flow_job *job = job_wait(f);
    usleep(5000);
    job_answer(f, job, OUTCOME_AUTH_REFUSED, 1);
    assert_int_equal(settled(f).reports_made, 0);
}

/* Give-up counts the time in which it could have been delivered, not the upstream's outages. */
static void test_give_up_pauses_while_the_upstream_is_out_of_order(void **state)
{
    struct fixture *f = *state;
    struct on_disk m;
    f->config->give_up_ms = 400;
    f->config->retry_min_ms = 40;
    f->config->retry_max_ms = 80;
    begin(f);
    struct msg_id id = accept_with(f, &plain);
    struct flow_link *link = link_wait(f);
    link_down(f, link, OUTCOME_AUTH_REFUSED);
    (void)settled(f);
    for (int probe = 0; probe < 6; probe++) { /* 100 to 200 ms apart: longer than give-up */
        link = link_wait(f);
        link_down(f, link, OUTCOME_AUTH_REFUSED);
    }
    link_up(f, link_wait(f), 4);
    struct flow_job *job = job_wait(f);
    struct flow_status status = settled(f);
    assert_true(status.upstreams[0].outage_ms > f->config->give_up_ms);
    job_answer(f, job, OUTCOME_DEFERRED, 1);
    (void)settled(f);
    read_message(f, id, &m);
    assert_int_equal(m.state.state, MESSAGE_QUEUED);
    for (int wait = 0; m.state.state == MESSAGE_QUEUED && wait < 50; wait++) {
        job_answer(f, job_wait(f), OUTCOME_DEFERRED, 1);
        (void)settled(f);
        read_message(f, id, &m);
    }
    assert_int_equal(m.fates[0].outcome, OUTCOME_GAVE_UP); /* but not for ever */
}

/* ---- the digest ---- */

static void test_the_digest_tells_root_mail(void **state)
{
    struct fixture *f = *state;
    static struct whole digest;
    f->config->digest_ms = 50;
    snprintf(f->config->root_mail, sizeof f->config->root_mail, "anna@example.jp");
    begin(f);
    struct msg_id ids[2];
    for (size_t at = 0; at < 2; at++) {
        ids[at] = accept_with(f, &plain);
        if (at == 0) {
            upstream_up(f, 4);
        }
        job_answer(f, job_wait(f), OUTCOME_REFUSED, 1);
    }
    struct flow_job *job = job_of_other(f, ids[0]); /* by the clock alone */
    read_whole(f, job->id, &digest);
    assert_int_equal(digest.envelope.flags & RECORD_FLAG_DIGEST, RECORD_FLAG_DIGEST);
    assert_true(slice_equal(digest.envelope.sender, SLICE("anna@example.jp")));
    assert_true(has(buf_slice(&digest.body), "r@example.jp"));
    job_answer(f, job, OUTCOME_DELIVERED, 1);
    (void)settled(f);
    assert_state(f, ids[0], MESSAGE_TRASHED);
}

static void test_a_digest_that_fails_makes_no_other(void **state)
{
    struct fixture *f = *state;
    struct on_disk m;
    f->config->digest_ms = 50;
    snprintf(f->config->root_mail, sizeof f->config->root_mail, "anna@example.jp");
    begin(f);
    struct msg_id id = accept_with(f, &plain);
    upstream_up(f, 4);
    job_answer(f, job_wait(f), OUTCOME_REFUSED, 1);
    struct flow_job *job = job_of_other(f, id);
    struct msg_id digest = job->id;
    job_answer(f, job, OUTCOME_REFUSED, 1);
    (void)settled(f);
    read_message(f, digest, &m);
    assert_int_equal(m.state.state, MESSAGE_FAILED);
    assert_int_equal(m.state.flags, 0);
    usleep(120000);
    (void)settled(f);
    assert_true(workers_quiet(f));
}

static void test_without_root_mail_failures_wait(void **state)
{
    struct fixture *f = *state;
    f->config->digest_ms = 1;
    begin(f);
    struct msg_id id = accept_with(f, &plain);
    upstream_up(f, 4);
    job_answer(f, job_wait(f), OUTCOME_REFUSED, 1);
    usleep(20000);
    (void)settled(f);
    assert_state(f, id, MESSAGE_FAILED);
    assert_true(workers_quiet(f));
}

/* ---- operators and the trash ---- */

static void test_deleted_goes_for_good_later(void **state)
{
    struct fixture *f = *state;
    static struct past p;
    f->config->keep_deleted_ms = 60;
    begin(f);
    struct msg_id id = accept_with(f, &plain);
    assert_int_equal(edit(f, FLOW_EDIT_DELETE, id), ERR_OK);
    struct on_disk m = {.err = ERR_OK};
    for (int wait = 0; m.err == ERR_OK && wait < PATIENCE_MS / 10; wait++) {
        usleep(10000);
        read_message(f, id, &m);
    }
    assert_gone(f, id);
    read_past(f, id, &p);
    assert_int_equal(p.history.end, RECORD_END_DELETED);
}

static void test_undelete(void **state)
{
    struct fixture *f = *state;
    begin(f);
    struct msg_id id = accept_with(f, &plain);
    struct flow_link *link = link_wait(f);
    assert_int_equal(edit(f, FLOW_EDIT_DELETE, id), ERR_OK);
    assert_state(f, id, MESSAGE_TRASHED);
    link_up(f, link, 4);
    (void)settled(f);
    assert_true(workers_quiet(f));
    assert_int_equal(edit(f, FLOW_EDIT_UNDELETE, id), ERR_OK);
    struct flow_job *job = job_wait(f);
    assert_same_id(job->id, id);
    job_answer(f, job, OUTCOME_REFUSED, 1); /* nobody is told: reports are off */
    (void)settled(f);
    assert_int_equal(edit(f, FLOW_EDIT_DELETE, id), ERR_OK);
    assert_int_equal(edit(f, FLOW_EDIT_UNDELETE, id), ERR_OK);
    assert_state(f, id, MESSAGE_HELD); /* it had failed: somebody has to decide */
}

static void test_bounce(void **state)
{
    struct fixture *f = *state;
    struct on_disk m;
    f->config->reports = true;
    begin(f);
    struct msg_id id = accept_with(f, &plain);
    struct flow_link *link = link_wait(f);
    assert_int_equal(edit(f, FLOW_EDIT_BOUNCE, id), ERR_OK);
    read_message(f, id, &m);
    assert_int_equal(m.state.state, MESSAGE_TRASHED);
    assert_int_equal(m.fates[0].outcome, OUTCOME_RETURNED);
    link_up(f, link, 4);
    (void)job_of_other(f, id); /* the report */
}

/* ---- the clock ---- */

/* As if the last process had ended at another boot, the wall clock showing wall_ms. */
static void pretend_reboot(struct fixture *f, uint64_t q_ms, uint64_t wall_ms)
{
    begin(f);
    (void)settled(f);
    end(f);
    struct store_config config = {
        .directory = f->directory, .queue_bytes_max = f->queue_bytes_max, .readers_max = 8};
    struct store_report report;
    struct store *store;
    assert_int_equal(store_open(&store, &config, &report), ERR_OK);
    assert_int_equal(store_begin(store), ERR_OK);
    const struct store_clock clock = {.q_ms = q_ms, .wall_ms = wall_ms, .boot_ms = 1, .boot_id = 1};
    store_clock_set(store, &clock);
    assert_int_equal(store_note_set(store, SLICE("x"), SLICE("y")), ERR_OK);
    assert_int_equal(store_commit(store), ERR_OK);
    store_close(&store);
}

static uint64_t queue_clock(struct fixture *f)
{
    struct flow_status status = settled(f);
    return (uint64_t)((int64_t)status.now_ms - status.wall_minus_q);
}

static void test_clock_after_a_reboot(void **state)
{
    static const uint64_t day_ms = 24u * 3600 * 1000, q_ms = 1000000;
    struct fixture *f = *state;
    uint64_t now_ms = flow_wall_ms();
    const struct {
        uint64_t wall_ms; /* when it stood at q_ms */
        uint64_t passed_ms;
    } rows[] = {
        {now_ms - 3600000, 3600000},          /* off for an hour */
        {now_ms + 3600000, 0},                /* the wall clock was set back */
        {now_ms - 10 * 365 * day_ms, day_ms}, /* or it was wrong before: at most a day */
        {now_ms > day_ms ? now_ms - day_ms + 5000 : 0, /* just under the bound */ day_ms - 5000},
    };
    for (size_t row = 0; row < turns(sizeof rows / sizeof rows[0], 1); row++) {
        pretend_reboot(f, q_ms, rows[row].wall_ms);
        begin(f);
        uint64_t passed_ms = queue_clock(f) - q_ms;
        end(f);
        assert_in_range(passed_ms, rows[row].passed_ms, rows[row].passed_ms + PATIENCE_MS);
    }
}

static void test_clock_goes_on_within_a_boot(void **state)
{
    struct fixture *f = *state;
    begin(f);
    (void)accept_with(f, &plain);
    uint64_t before_ms = queue_clock(f);
    end(f);
    begin(f);
    uint64_t after_ms = queue_clock(f);
    assert_in_range(after_ms, before_ms, before_ms + PATIENCE_MS);
}

/* Invariant 9: a step of the wall clock makes no message early, and gives none up. */
static void test_a_step_of_the_wall_clock_changes_no_schedule(void **state)
{
    static const int64_t steps_s[] = {86400, -86400, INT64_C(10) * 365 * 86400, 0};
    struct fixture *f = *state;
    struct on_disk m;
    begin(f);
    struct msg_id id = accept_with(f, &plain);
    upstream_up(f, 4);
    job_answer(f, job_wait(f), OUTCOME_DEFERRED, 1); /* due in an hour */
    (void)settled(f);
    read_message(f, id, &m);
    uint64_t due_q = m.state.due_q;
    for (size_t at = 0; at < sizeof steps_s / sizeof steps_s[0]; at++) {
        uint64_t before = atomic_load(&f->steps);
        atomic_store(&wall_step_s, steps_s[at]);
        struct flow_status status = settled(f);
        assert_int_equal(atomic_load(&f->steps), before + 1);
        assert_true(workers_quiet(f));
        uint64_t shown_ms = (uint64_t)((int64_t)due_q + status.wall_minus_q);
        assert_in_range(shown_ms - status.now_ms, 3000000, 4200000); /* in an hour, still */
    }
    read_message(f, id, &m);
    assert_int_equal(m.state.due_q, due_q);
    assert_int_equal(m.state.state, MESSAGE_QUEUED);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_delivered_is_remembered),
        CASE(test_each_attempt_is_a_move),
        CASE(test_old_history_goes),
        CASE(test_a_failure_is_reported_with_it),
        CASE(test_told_once),
        CASE(test_nothing_is_reported_to_nobody),
        CASE(test_no_report_about_a_report),
        CASE(test_never_means_never),
        CASE(test_a_success_is_reported_when_asked_for),
        CASE(test_more_reports_than_the_rate_wait_for_the_digest),
        CASE(test_an_upstream_that_refuses_reports_gets_none),
        CASE(test_a_delay_is_told_once),
        CASE(test_no_warning_while_the_upstream_is_out_of_order),
        CASE(test_give_up_pauses_while_the_upstream_is_out_of_order),
        CASE(test_the_digest_tells_root_mail),
        CASE(test_a_digest_that_fails_makes_no_other),
        CASE(test_without_root_mail_failures_wait),
        CASE(test_deleted_goes_for_good_later),
        CASE(test_undelete),
        CASE(test_bounce),
        CASE(test_clock_after_a_reboot),
        CASE(test_clock_goes_on_within_a_boot),
        CASE(test_a_step_of_the_wall_clock_changes_no_schedule),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
