/*
 * Several upstreams: which way a message goes, who carries it while that upstream is marked, and
 * how it comes back to the preferred one. The settings' own judge is tests/unit/test_config_use.c.
 */
#include "tests/unit/queue_rig.h"
#include "tests/unit/queue_use.h"

#define NEVER_MS 3600000u

enum { MAIN, BACKUP, THIRD };

/* ---- the way ---- */

static void test_terms_decide_in_the_order_of_the_file(void **state)
{
    struct fixture *f = *state;
    upstreams(f, (const char *const[]){"for sender:*@shop.example", "always",
                                       "for sender:anna@* recipient:*@y", "for sender:<>", NULL});
    begin(f);
    static const struct {
        const char *from, *to, *upstream;
    } rows[] = {
        {"a@shop.example", "x@y", "u0"},
        {"A@SHOP.example", "x@z", "u0"},
        {"anna@shop.example", "x@y", "u0"},
        {"anna@b", "x@Y", "u2"},
        {"anna@b", "x@z", "u1"},
        {"b@b", "x@y", "u1"},
        {"", "x@y", "u3"},
    };
    for (size_t at = 0; at < sizeof rows / sizeof rows[0]; at++) {
        struct msg_id id = accept_from(f, rows[at].from, rows[at].to);
        assert_route(f, id, rows[at].upstream);
    }
}

/* Each new one goes where the least waits; a marked upstream gets what there is no other for. */
static void test_upstreams_without_terms_share(void **state)
{
    struct fixture *f = *state;
    upstreams(f, (const char *const[]){"always", "always", "always", NULL});
    f->config->upstreams[0].probe_min_ms = f->config->upstreams[0].probe_max_ms = NEVER_MS;
    begin(f);
    uint32_t counts[3] = {0};
    for (size_t at = 0; at < 9; at++) {
        counts[route_index(f, accept_from(f, "a@b", "x@y"))]++;
    }
    for (size_t at = 0; at < 3; at++) {
        assert_int_equal(counts[at], 3);
    }
    struct flow_link *links[3];
    for (size_t at = 0; at < 3; at++) {
        struct flow_link *link = link_wait(f);
        links[link->upstream] = link;
    }
    link_down(f, links[0], OUTCOME_CONNECTION_REFUSED);
    (void)settled(f);
    for (size_t at = 0; at < 4; at++) {
        assert_int_not_equal(route_index(f, accept_from(f, "a@b", "x@y")), 0);
    }
    /* What waited for it goes by the others. */
    link_up(f, links[1], 16);
    link_up(f, links[2], 16);
    for (size_t at = 0; at < 13; at++) {
        struct flow_job *job = job_wait(f);
        assert_int_not_equal(job->link->upstream, 0);
        job_answer(f, job, OUTCOME_DELIVERED, 1);
    }
    assert_int_equal(settled(f).count_by_state[MESSAGE_QUEUED], 0);
}

/* So many more than fit into memory, of this sender. */
static void backlog(struct fixture *f, const char *from, uint32_t count)
{
    enum { AT_ONCE = 256 };
    struct letter *letters = calloc(AT_ONCE, sizeof *letters);
    assert_non_null(letters);
    for (uint32_t sent = 0; sent < count;) {
        uint32_t round = 0;
        for (; round < AT_ONCE && sent < count; round++, sent++) {
            struct letter *l = &letters[round];
            *l = (struct letter){.from = from};
            letter_to(l, "x@y");
            l->client.intake.id = msg_id_make(++f->ids, 1);
            letter_end(f, l);
        }
        for (uint32_t at = 0; at < round; at++) {
            (void)box_wait(&f->clients, FLOW_INTAKE);
        }
    }
    free(letters);
}

/* What waits for one says nothing about another: with 1000 an hour the rate alone decides. */
static void test_each_is_forecast_by_what_waits_for_it(void **state)
{
    struct fixture *f = *state;
    static const uint64_t hour_ms = 3600000;
    const uint32_t counts[2] = {(uint32_t)turns(SCHED_WINDOW_MAX + 904, 24),
                                (uint32_t)turns(2 * SCHED_WINDOW_MAX + 1808, 40)};
    const uint32_t rate = (uint32_t)turns(1000, 20);
    const size_t seen = turns(20, 10);
    upstreams(f, (const char *const[]){"for sender:*@shop.example", "always", NULL});
    for (size_t at = 0; at < 2; at++) {
        f->config->upstreams[at].rate.most[CONFIG_RATE_MESSAGES][CONFIG_RATE_HOUR] = rate;
    }
    begin(f);
    backlog(f, "a@shop.example", counts[0]);
    backlog(f, "a@b", counts[1]);
    struct flow_link *links[2] = {link_wait(f), link_wait(f)};
    link_up(f, links[0], 1);
    link_up(f, links[1], 1);
    uint64_t sent[2] = {0};
    while (sent[0] < seen || sent[1] < seen) { /* how fast it is, has to be seen */
        struct flow_job *job = job_wait(f);
        sent[job->link->upstream]++;
        job_answer(f, job, OUTCOME_DELIVERED, 1);
    }
    struct flow_status status = settled(f);
    for (size_t at = 0; at < 2; at++) {
        uint64_t takes_ms = (counts[at] - rate) * hour_ms / rate;
        assert_in_range(status.upstreams[at].forecast_ms - status.now_ms, takes_ms - hour_ms / 10,
                        takes_ms + hour_ms / 10);
    }
}

/* ---- stand-ins ---- */

/* main is down, and stays so; backup has come up for it, with room for so many jobs. */
static struct flow_link *main_down(struct fixture *f, uint32_t window)
{
    struct flow_link *link = link_wait(f);
    assert_int_equal(link->upstream, MAIN);
    link_down(f, link, OUTCOME_CONNECTION_REFUSED);
    link = link_wait(f);
    assert_int_equal(link->upstream, BACKUP);
    assert_false(link->probe);
    link_up(f, link, window);
    return link;
}

static void main_and_backup(struct fixture *f)
{
    upstreams(f, (const char *const[]){"always", "when-down", NULL});
    f->config->upstreams[MAIN].probe_min_ms = f->config->upstreams[MAIN].probe_max_ms = NEVER_MS;
}

static void test_a_stand_in_takes_over(void **state)
{
    struct fixture *f = *state;
    main_and_backup(f);
    begin(f);
    struct msg_id id = accept_one(f, 2);
    assert_route(f, id, "u0");
    main_down(f, 4);
    struct flow_job *job = job_wait(f);
    assert_same_id(job->id, id);
    assert_int_equal(job->link->upstream, BACKUP);
    struct flow_status status = settled(f);
    assert_int_equal(status.upstreams[MAIN].state, FLOW_UPSTREAM_MARKED);
    assert_int_equal(status.upstreams[MAIN].stand_in, BACKUP + 1);
    assert_int_equal(status.upstreams[BACKUP].stand_in, 0);
    assert_int_equal(events(f, "event=stand-in upstream=u0 by=u1"), 1);
    job_answer(f, job, OUTCOME_DELIVERED, 2);
    status = settled(f);
    assert_gone(f, id);
    assert_int_equal(status.upstreams[MAIN].delivered, 0);
    assert_int_equal(status.upstreams[BACKUP].delivered, 2);
    /* What comes in while it is so: routed to main, sent by backup, at once. */
    id = accept_one(f, 1);
    assert_route(f, id, "u0");
    job = job_wait(f);
    assert_same_id(job->id, id);
    assert_int_equal(job->link->upstream, BACKUP);
    job_answer(f, job, OUTCOME_DELIVERED, 1);
    (void)settled(f);
    assert_gone(f, id);
}

/* It takes nothing by itself, and nothing of others than those it stands behind. */
static void test_a_stand_in_takes_nothing_else(void **state)
{
    struct fixture *f = *state;
    upstreams(f, (const char *const[]){"always", "for sender:*@shop.example",
                                       "when-down for sender:*@shop.example", NULL});
    f->config->upstreams[1].probe_min_ms = f->config->upstreams[1].probe_max_ms = NEVER_MS;
    begin(f);
    (void)accept_from(f, "a@b", "x@y");
    struct flow_link *rest = link_wait(f);
    assert_int_equal(rest->upstream, 0);
    link_down(f, rest, OUTCOME_AUTH_REFUSED);
    struct flow_status status = settled(f);
    assert_int_equal(status.upstreams[0].stand_in, 0);
    struct msg_id id = accept_from(f, "a@shop.example", "x@y");
    struct flow_link *shop;
    do {
        shop = link_wait(f);
        if (shop->upstream == 0) {
            link_down(f, shop, OUTCOME_AUTH_REFUSED); /* its probes */
        }
    } while (shop->upstream == 0);
    assert_int_equal(shop->upstream, 1);
    link_down(f, shop, OUTCOME_AUTH_REFUSED);
    do {
        shop = link_wait(f);
        if (shop->upstream == 0) {
            link_down(f, shop, OUTCOME_AUTH_REFUSED);
        }
    } while (shop->upstream == 0);
    assert_int_equal(shop->upstream, 2);
    link_up(f, shop, 4);
    struct flow_job *job = NULL;
    while (job == NULL) {
        struct flow_msg *msg = workers_any(f);
        if (msg->kind == FLOW_LINK_OPEN) {
            assert_int_equal(FLOW_LINK_FROM(msg, open)->upstream, 0);
            link_down(f, FLOW_LINK_FROM(msg, open), OUTCOME_AUTH_REFUSED);
        } else {
            job = FLOW_FROM(msg, struct flow_job);
        }
    }
    assert_same_id(job->id, id);
    job_answer(f, job, OUTCOME_DELIVERED, 1);
    status = settled(f);
    assert_int_equal(status.count_by_state[MESSAGE_QUEUED], 1); /* the other waits */
}

static void test_stand_ins_have_an_order(void **state)
{
    struct fixture *f = *state;
    upstreams(f, (const char *const[]){"always", "when-down", "when-down", NULL});
    for (size_t at = 0; at < 2; at++) {
        f->config->upstreams[at].probe_min_ms = f->config->upstreams[at].probe_max_ms = NEVER_MS;
    }
    begin(f);
    struct msg_id id = accept_one(f, 1);
    struct flow_link *link = link_wait(f);
    link_down(f, link, OUTCOME_CONNECTION_REFUSED);
    link = link_wait(f);
    assert_int_equal(link->upstream, BACKUP);
    (void)settled(f);
    assert_true(workers_quiet(f)); /* the third is not asked */
    link_down(f, link, OUTCOME_CONNECT_TIMEOUT);
    link = link_wait(f);
    assert_int_equal(link->upstream, THIRD);
    link_up(f, link, 4);
    struct flow_job *job = job_wait(f);
    assert_same_id(job->id, id);
    assert_int_equal(settled(f).upstreams[MAIN].stand_in, THIRD + 1);
    assert_int_equal(events(f, "event=stand-in-over upstream=u0 by=u1 carried=0 back=no"), 1);
    assert_int_equal(events(f, "event=stand-in upstream=u0 by=u2"), 1);
    job_answer(f, job, OUTCOME_DEFERRED, 1);
    (void)settled(f);
    /* The operator asks again for all: the second is probed and is back, and has the place. */
    assert_int_equal(edit(f, FLOW_EDIT_RETRY, id), ERR_OK);
    job = NULL;
    struct flow_link *probes[2] = {NULL};
    while (job == NULL || probes[0] == NULL || probes[1] == NULL) {
        struct flow_msg *msg = workers_any(f);
        if (msg->kind == FLOW_LINK_OPEN) {
            link = FLOW_LINK_FROM(msg, open);
            assert_true(link->probe);
            probes[link->upstream] = link;
        } else {
            job = FLOW_FROM(msg, struct flow_job);
        }
    }
    assert_int_equal(job->link->upstream, THIRD);
    job_answer(f, job, OUTCOME_DELIVERED, 1);
    link_up(f, probes[1], 4);
    assert_int_equal(settled(f).upstreams[MAIN].stand_in, BACKUP + 1);
    id = accept_one(f, 1);
    job = job_wait(f);
    assert_same_id(job->id, id);
    assert_int_equal(job->link->upstream, BACKUP);
    job_answer(f, job, OUTCOME_DELIVERED, 1);
    link_down(f, probes[0], OUTCOME_CONNECTION_REFUSED);
    (void)settled(f);
    assert_gone(f, id);
}

/* Which of them are marked, having been told that something has changed for them. */
static uint32_t try_now(struct fixture *f, uint32_t wanted)
{
    static struct flow_try try;
    try.msg.kind = FLOW_TRY;
    try.msg.reply_to = &f->main.mailbox;
    try.upstreams = wanted;
    mailbox_send(queue_mailbox(f->queue), &try.msg);
    (void)box_wait(&f->main, FLOW_TRY);
    return try.upstreams;
}

static void test_what_has_changed_is_tried_at_once(void **state)
{
    struct fixture *f = *state;
    upstreams(f, (const char *const[]){"always", "when-down", "when-down", NULL});
    for (size_t at = 0; at < 3; at++) {
        f->config->upstreams[at].probe_min_ms = f->config->upstreams[at].probe_max_ms = NEVER_MS;
    }
    begin(f);
    struct msg_id id = accept_one(f, 1);
    assert_int_equal(try_now(f, 1u << MAIN), 0); /* it is not marked, and on its way */
    for (size_t at = 0; at < 3; at++) {
        struct flow_link *link = link_wait(f);
        assert_int_equal(link->upstream, at);
        link_down(f, link, OUTCOME_TLS_UNTRUSTED);
    }
    (void)settled(f);
    assert_true(workers_quiet(f)); /* all are marked, and nothing is due */
    assert_int_equal(try_now(f, 1u << BACKUP), 1u << BACKUP);
    struct flow_link *probe = link_wait(f);
    assert_int_equal(probe->upstream, BACKUP);
    assert_true(probe->probe);
    assert_int_equal(try_now(f, 1u << BACKUP), 1u << BACKUP);
    (void)settled(f);
    assert_true(workers_quiet(f)); /* the others wait for their time, and it is under way */
    link_up(f, probe, 4);
    struct flow_job *job = job_wait(f);
    assert_same_id(job->id, id);
    job_answer(f, job, OUTCOME_DELIVERED, 1);
    (void)settled(f);
    assert_gone(f, id);
    assert_int_equal(try_now(f, UINT32_MAX), 1u << MAIN | 1u << THIRD);
    struct flow_link *probes[2] = {link_wait(f), link_wait(f)};
    assert_int_equal(probes[0]->upstream + probes[1]->upstream, MAIN + THIRD);
}

/* The preferred one is asked again with one message while the stand-in carries the rest; when it
 * has answered, all that waits is its own again. */
static void test_return_by_one_message(void **state)
{
    struct fixture *f = *state;
    main_and_backup(f);
    begin(f);
    (void)accept_one(f, 1);
    struct flow_link *backup = main_down(f, 1);
    struct flow_job *first = job_wait(f);
    for (size_t at = 0; at < 3; at++) {
        (void)accept_one(f, 1); /* backup is full: they wait */
    }
    struct msg_id held = accept_one(f, 1);
    assert_int_equal(edit(f, FLOW_EDIT_RETRY, held), ERR_OK); /* which probes main */
    struct flow_link *probe = link_wait(f);
    assert_int_equal(probe->upstream, MAIN);
    assert_true(probe->probe);
    link_up(f, probe, 4);
    struct flow_job *canary = job_wait(f);
    assert_ptr_equal(canary->link, probe);
    (void)settled(f);
    assert_true(workers_quiet(f)); /* one, though its window has room for four */
    job_answer(f, first, OUTCOME_DELIVERED, 1);
    struct flow_job *carried = job_wait(f);
    assert_ptr_equal(carried->link, backup); /* which goes on meanwhile */
    job_answer(f, canary, OUTCOME_DELIVERED, 1);
    struct flow_status status = settled(f);
    assert_int_equal(status.upstreams[MAIN].state, FLOW_UPSTREAM_WELL);
    assert_int_equal(status.upstreams[MAIN].stand_in, 0);
    assert_int_equal(events(f, "event=stand-in-over upstream=u0 by=u1 carried=2 back=yes"), 1);
    job_answer(f, carried, OUTCOME_DELIVERED, 1);
    for (size_t at = 0; at < 2; at++) {
        struct flow_job *job = job_wait(f);
        assert_ptr_equal(job->link, probe);
        job_answer(f, job, OUTCOME_DELIVERED, 1);
    }
    status = settled(f);
    assert_int_equal(status.count_by_state[MESSAGE_QUEUED], 0);
    assert_int_equal(status.upstreams[MAIN].delivered, 3);
    assert_int_equal(status.upstreams[BACKUP].delivered, 2);
    assert_true(workers_quiet(f));
    link_down(f, backup, OUTCOME_NONE); /* idle: it is not opened again */
    (void)settled(f);
    assert_true(workers_quiet(f));
}

/* Deferred over the stand-in it stays main's, with a time of its own, and the clock alone brings it
 * back to the stand-in. */
static void test_a_deferral_stays_with_the_preferred_one(void **state)
{
    struct fixture *f = *state;
    struct on_disk m;
    main_and_backup(f);
    f->config->retry_min_ms = 40;
    f->config->retry_max_ms = 80;
    begin(f);
    struct msg_id id = accept_one(f, 1);
    main_down(f, 4);
    struct flow_job *job = job_wait(f);
    job_answer(f, job, OUTCOME_DEFERRED, 1);
    job = job_wait(f);
    assert_same_id(job->id, id);
    assert_int_equal(job->link->upstream, BACKUP);
    struct flow_status status = settled(f);
    assert_int_equal(status.upstreams[MAIN].deferred, 0);
    assert_int_equal(status.upstreams[BACKUP].deferred, 1);
    assert_int_equal(status.upstreams[BACKUP].state, FLOW_UPSTREAM_WELL);
    read_message(f, id, &m);
    assert_int_equal(m.state.attempts, 1);
    assert_route(f, id, "u0");
    struct record_trail trail;
    uint8_t memory[RECORD_TRAIL_BYTES_MAX];
    read_trail(f, id, memory, &trail);
    struct record_move move;
    assert_true(record_move_next(&trail.moves, &move));
    assert_true(slice_equal(move.upstream, SLICE("u1"))); /* who said it */
    job_answer(f, job, OUTCOME_DELIVERED, 1);
    (void)settled(f);
    assert_gone(f, id);
}

/* Given back untried by the stand-in: it is main's again, which comes up first. */
static void test_untried_goes_back_to_where_it_was(void **state)
{
    struct fixture *f = *state;
    main_and_backup(f);
    begin(f);
    struct msg_id id = accept_one(f, 1);
    struct flow_link *backup = main_down(f, 4);
    struct flow_job *job = job_wait(f);
    assert_same_id(job->id, id);
    job_back(f, job);
    link_down(f, backup, OUTCOME_NONE);
    backup = link_wait(f);
    assert_int_equal(backup->upstream, BACKUP); /* it is opened again, and takes its time */
    struct msg_id later = accept_one(f, 1);
    assert_int_equal(edit(f, FLOW_EDIT_RETRY, later), ERR_OK); /* which probes main */
    struct flow_link *probe = link_wait(f);
    assert_int_equal(probe->upstream, MAIN);
    link_up(f, probe, 4);
    job = job_wait(f);
    assert_ptr_equal(job->link, probe);
    assert_same_id(job->id, id);
    job_answer(f, job, OUTCOME_DELIVERED, 1);
    job = job_wait(f);
    assert_same_id(job->id, later);
    job_answer(f, job, OUTCOME_DELIVERED, 1);
    assert_int_equal(settled(f).count_by_state[MESSAGE_QUEUED], 0);
    assert_true(workers_quiet(f));
}

/* A probe that has come up and a stand-in that has room again, at the same moment, and one message:
 * it is the probe's. */
static void test_the_probe_comes_before_the_stand_in(void **state)
{
    struct fixture *f = *state;
    main_and_backup(f);
    begin(f);
    (void)accept_one(f, 1);
    main_down(f, 1);
    struct flow_job *job = job_wait(f);
    for (size_t times = 0; times < turns(20, 3); times++) {
        struct msg_id id = accept_one(f, 1);
        assert_int_equal(edit(f, FLOW_EDIT_RETRY, id), ERR_OK);
        struct flow_link *probe = link_wait(f);
        assert_int_equal(probe->upstream, MAIN);
        link_up(f, probe, 1);
        job_answer(f, job, OUTCOME_DELIVERED, 1);
        struct flow_job *canary = job_wait(f);
        assert_ptr_equal(canary->link, probe);
        assert_same_id(canary->id, id);
        job_answer(f, canary, OUTCOME_CONNECTION_LOST, 1); /* it is none yet */
        link_down(f, probe, OUTCOME_CONNECTION_LOST);
        (void)settled(f);
        (void)accept_one(f, 1);
        job = job_wait(f); /* with backup */
    }
    job_answer(f, job, OUTCOME_DELIVERED, 1);
    (void)settled(f);
}

/* The stand-in's own limits hold for what it carries. */
static void test_a_stand_in_keeps_its_own_rate(void **state)
{
    struct fixture *f = *state;
    main_and_backup(f);
    f->config->upstreams[BACKUP].rate.most[CONFIG_RATE_MESSAGES][CONFIG_RATE_HOUR] = 2;
    begin(f);
    for (size_t at = 0; at < 4; at++) {
        (void)accept_one(f, 1);
    }
    main_down(f, 4);
    struct flow_job *jobs[2] = {job_wait(f), job_wait(f)};
    (void)settled(f);
    assert_true(workers_quiet(f));
    job_answer(f, jobs[0], OUTCOME_DELIVERED, 1);
    job_answer(f, jobs[1], OUTCOME_DELIVERED, 1);
    struct flow_status status = settled(f);
    assert_true(workers_quiet(f));
    assert_int_equal(status.upstreams[BACKUP].rate_room, 0);
    assert_int_equal(status.count_by_state[MESSAGE_QUEUED], 2);
}

/* What it carries and its own mail take turns. */
static void test_a_peer_does_not_forget_its_own(void **state)
{
    struct fixture *f = *state;
    upstreams(f, (const char *const[]){"always", "always", NULL});
    f->config->upstreams[0].probe_min_ms = f->config->upstreams[0].probe_max_ms = NEVER_MS;
    begin(f);
    for (size_t at = 0; at < 8; at++) {
        (void)accept_one(f, 1); /* four each */
    }
    struct flow_link *links[2];
    for (size_t at = 0; at < 2; at++) {
        struct flow_link *link = link_wait(f);
        links[link->upstream] = link;
    }
    link_down(f, links[0], OUTCOME_CONNECTION_REFUSED);
    (void)settled(f);
    link_up(f, links[1], 1);
    uint32_t carried = 0;
    for (size_t at = 0; at < 8; at++) {
        struct flow_job *job = job_wait(f);
        carried += route_index(f, job->id) == 0;
        assert_in_range(carried, at / 2, at / 2 + 1);
        job_answer(f, job, OUTCOME_DELIVERED, 1);
    }
    assert_int_equal(carried, 4);
}

/* give-up does not wait for main while somebody else was there to take the message... */
static void test_give_up_goes_on_where_there_is_a_stand_in(void **state)
{
    struct fixture *f = *state;
    struct on_disk m;
    main_and_backup(f);
    f->config->give_up_ms = 30;
    begin(f);
    struct msg_id id = accept_one(f, 1);
    main_down(f, 4);
    struct flow_job *job = job_wait(f);
    usleep(60000);
    job_answer(f, job, OUTCOME_DEFERRED, 1);
    struct flow_status status = settled(f);
    read_message(f, id, &m);
    assert_int_equal(m.fates[0].state, RECIPIENT_FAILED);
    assert_int_equal(m.fates[0].outcome, OUTCOME_GAVE_UP);
    assert_in_range(status.upstreams[MAIN].outage_ms, 0, 25); /* until backup was there for it */
}

/* ... and does while nobody was. */
static void test_give_up_waits_where_there_is_none(void **state)
{
    struct fixture *f = *state;
    struct on_disk m;
    main_and_backup(f);
    f->config->give_up_ms = 1000;
    f->config->upstreams[BACKUP].probe_min_ms = f->config->upstreams[BACKUP].probe_max_ms = 1500;
    begin(f);
    struct msg_id id = accept_one(f, 1);
    link_down(f, link_wait(f), OUTCOME_CONNECTION_REFUSED);
    struct flow_link *link = link_wait(f);
    assert_int_equal(link->upstream, BACKUP);
    link_down(f, link, OUTCOME_CONNECTION_REFUSED);
    link = link_wait(f); /* a second and more later */
    assert_true(link->probe && link->upstream == BACKUP);
    link_up(f, link, 4);
    struct flow_status status =
        settled(f); /* it let us in, and has nothing of its own: it is well */
    assert_int_equal(status.upstreams[BACKUP].state, FLOW_UPSTREAM_WELL);
    assert_true(status.upstreams[MAIN].outage_ms >= 1200);
    job_answer(f, job_wait(f), OUTCOME_DEFERRED, 1);
    (void)settled(f);
    read_message(f, id, &m);
    assert_int_equal(m.fates[0].state, RECIPIENT_DEFERRED);
}

/* ---- after a restart ---- */

static void test_a_removed_upstream_leaves_its_mail_to_the_routes(void **state)
{
    struct fixture *f = *state;
    upstreams(f, (const char *const[]){"always", "for sender:*@gone.example", NULL});
    begin(f);
    struct msg_id shop = accept_from(f, "a@gone.example", "x@shop.example");
    struct msg_id other = accept_from(f, "a@gone.example", "x@y");
    struct msg_id held = accept_from(f, "a@gone.example", "x@shop.example");
    struct msg_id stays = accept_from(f, "a@b", "x@shop.example");
    assert_int_equal(edit(f, FLOW_EDIT_HOLD, held), ERR_OK);
    assert_route(f, shop, "u1");
    end(f);
    upstreams(f, (const char *const[]){"always", NULL, NULL});
    named(f, 1, "shop", "for recipient:*@shop.example");
    begin(f);
    (void)settled(f);
    assert_route(f, shop, "shop");
    assert_route(f, other, "u0");
    assert_route(f, stays, "u0"); /* its upstream is there: it is not routed anew */
    assert_int_equal(edit(f, FLOW_EDIT_RELEASE, held), ERR_OK);
    assert_route(f, held, "shop");
}

/* A report goes its own way, by the null sender and its recipient. */
static void test_reports_are_routed_too(void **state)
{
    struct fixture *f = *state;
    upstreams(f, (const char *const[]){"always", "for sender:<> recipient:*@b", NULL});
    f->config->reports = true;
    begin(f);
    (void)accept_from(f, "a@b", "x@y");
    upstream_up(f, 4);
    job_answer(f, job_wait(f), OUTCOME_REFUSED, 1);
    struct flow_link *link = link_wait(f);
    assert_int_equal(link->upstream, 1);
    link_up(f, link, 4);
    struct flow_job *report = job_wait(f);
    assert_int_equal(report->link->upstream, 1);
    assert_route(f, report->id, "u1");
    job_answer(f, report, OUTCOME_DELIVERED, 1);
    (void)settled(f);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup_use, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_terms_decide_in_the_order_of_the_file),
        CASE(test_upstreams_without_terms_share),
        CASE(test_each_is_forecast_by_what_waits_for_it),
        CASE(test_a_stand_in_takes_over),
        CASE(test_a_stand_in_takes_nothing_else),
        CASE(test_stand_ins_have_an_order),
        CASE(test_what_has_changed_is_tried_at_once),
        CASE(test_return_by_one_message),
        CASE(test_a_deferral_stays_with_the_preferred_one),
        CASE(test_untried_goes_back_to_where_it_was),
        CASE(test_the_probe_comes_before_the_stand_in),
        CASE(test_a_stand_in_keeps_its_own_rate),
        CASE(test_a_peer_does_not_forget_its_own),
        CASE(test_give_up_goes_on_where_there_is_a_stand_in),
        CASE(test_give_up_waits_where_there_is_none),
        CASE(test_a_removed_upstream_leaves_its_mail_to_the_routes),
        CASE(test_reports_are_routed_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
