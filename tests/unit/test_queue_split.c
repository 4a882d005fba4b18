/*
 * A message whose recipients go by different upstreams: it becomes several, all or none, each with
 * its own recipients and the whole body.
 */
#include "tests/unit/queue_use.h"

/* Three ways: u0 takes the rest, u1 what is for shop.example, u2 what is for news.example. */
static void three_ways(struct fixture *f)
{
    upstreams(f, (const char *const[]){"always", "for recipient:*@shop.example",
                                       "for recipient:*@news.example", NULL});
}

/* The next upstream asks for a connection, and gets its one job. */
static struct flow_job *next_job(struct fixture *f)
{
    for (;;) {
        struct flow_msg *msg = workers_any(f);
        if (msg->kind == FLOW_JOB) {
            return FLOW_FROM(msg, struct flow_job);
        }
        assert_int_equal(msg->kind, FLOW_LINK_OPEN);
        link_up(f, FLOW_LINK_FROM(msg, open), 4);
    }
}

static void assert_body(struct fixture *f, const struct msg_id *id, uint64_t bytes, uint32_t wanted)
{
    static uint8_t memory[BODY_CHUNK_BYTES_MAX];
    uint32_t crc = 0;
    uint64_t at = 0;
    while (at < bytes) {
        struct buf to;
        buf_init(&to, memory, sizeof memory);
        assert_int_equal(store_read_body(f->reader, id, at, &to), ERR_OK);
        assert_true(to.len > 0);
        crc = crc32c(crc, buf_slice(&to));
        at += to.len;
    }
    assert_int_equal(at, bytes);
    assert_int_equal(crc, wanted);
}

/* One part: whose recipients, in the order of the whole, and that the rest is as it was. */
static void assert_part(struct fixture *f, const struct letter *l, struct msg_id id,
                        const char *upstream, const uint32_t *indexes, uint32_t count)
{
    struct slice envelope, state, rcpts;
    struct record_envelope e;
    struct record_rcpt rcpt;
    struct buf to;
    size_t needed;
    uint8_t memory[8192];
    assert_route(f, id, upstream);
    buf_init(&to, memory, sizeof memory);
    assert_int_equal(store_read_message(f->reader, &id, &to, &envelope, &state, &needed), ERR_OK);
    assert_int_equal(record_envelope_get(envelope, &e), ERR_OK);
    assert_int_equal(e.recipient_count, count);
    rcpts = e.recipients;
    for (uint32_t at = 0; at < count; at++) {
        const struct record_rcpt *whole = &l->to[indexes[at]];
        assert_true(record_rcpt_next(&rcpts, &rcpt));
        assert_true(slice_equal(rcpt.path, whole->path));
        assert_true(slice_equal(rcpt.orcpt, whole->orcpt));
        assert_int_equal(rcpt.notify, whole->notify);
    }
    assert_true(slice_equal(e.sender, slice_from_str(l->from)));
    assert_true(slice_equal(e.envid, SLICE("QQ314159")));
    assert_true(slice_equal(e.helo, SLICE("printer")));
    assert_true(slice_equal(e.subject, SLICE("scan")));
    assert_int_equal(e.flags, RECORD_FLAG_8BITMIME);
    assert_int_equal(e.body_bytes, l->bytes);
    assert_int_equal(e.body_crc, l->crc);
    assert_body(f, &id, l->bytes, l->crc);
}

static void assert_trail_says(struct fixture *f, struct msg_id id, const char *words)
{
    uint8_t memory[RECORD_TRAIL_BYTES_MAX];
    struct record_trail trail;
    read_trail(f, id, memory, &trail);
    assert_non_null(memmem(trail.dialogue.data, trail.dialogue.len, words, strlen(words)));
}

/* r0 and r3 by u1, r1 by u0, r2 by u2. */
static void letter_make(struct letter *l, uint32_t pieces, size_t rest)
{
    *l = (struct letter){.from = "a@b", .pieces = pieces, .rest = rest};
    letter_to(l, "r0@shop.example");
    letter_to(l, "r1@y");
    letter_to(l, "r2@news.example");
    letter_to(l, "r3@Shop.Example");
    l->to[0].notify = RECORD_NOTIFY_NEVER;
    l->to[2].notify = RECORD_NOTIFY_SUCCESS | RECORD_NOTIFY_DELAY;
    l->to[2].orcpt = SLICE("rfc822;r2@news.example");
}

static void split_whole(struct fixture *f, uint32_t pieces, size_t rest)
{
    static struct letter l;
    begin(f);
    letter_make(&l, pieces, rest);
    assert_int_equal(letter_send(f, &l), ERR_OK);
    struct flow_status status = settled(f);
    assert_int_equal(status.count_by_state[MESSAGE_QUEUED], 3);
    assert_int_equal(status.body_bytes, 3 * l.bytes);
    assert_part(f, &l, l.client.intake.id, "u1", (const uint32_t[]){0, 3}, 2);
    assert_trail_says(f, l.client.intake.id, "-- as it came in, 1 recipient became the message ");
    assert_int_equal(events(f, "event=split "), 2);
    bool seen[3] = {false};
    for (size_t at = 0; at < 3; at++) {
        struct flow_job *job = next_job(f);
        uint16_t upstream = job->link->upstream;
        assert_false(seen[upstream]);
        seen[upstream] = true;
        if (upstream == 1) {
            assert_same_id(job->id, l.client.intake.id); /* what the client was told */
        } else {
            assert_part(f, &l, job->id, upstream == 0 ? "u0" : "u2",
                        (const uint32_t[]){upstream == 0 ? 1 : 2}, 1);
            assert_trail_says(f, job->id, "-- as it came in, it was part of the message ");
        }
        job_answer(f, job, OUTCOME_DELIVERED, upstream == 1 ? 2 : 1);
    }
    status = settled(f);
    assert_int_equal(status.count_by_state[MESSAGE_QUEUED], 0);
    assert_int_equal(status.body_bytes, 0);
}

static void test_without_a_body(void **state)
{
    three_ways(*state);
    split_whole(*state, 0, 0);
}

static void test_one_short_piece(void **state)
{
    three_ways(*state);
    split_whole(*state, 0, 100);
}

static void test_full_pieces_and_nothing_behind_them(void **state)
{
    three_ways(*state);
    split_whole(*state, 2, 0);
}

/* More than one transaction may hold: 100 pieces twice are 12 MiB. */
static void test_many_pieces(void **state)
{
    three_ways(*state);
    split_whole(*state, (uint32_t)turns(100, 4), 1234);
}

static void test_all_one_way_is_not_split(void **state)
{
    struct fixture *f = *state;
    static struct letter l;
    three_ways(f);
    begin(f);
    l = (struct letter){.from = "a@b", .rest = 10};
    letter_to(&l, "r0@shop.example");
    letter_to(&l, "r1@shop.example");
    assert_int_equal(letter_send(f, &l), ERR_OK);
    assert_int_equal(settled(f).count_by_state[MESSAGE_QUEUED], 1);
    assert_route(f, l.client.intake.id, "u1");
    assert_int_equal(events(f, "event=split"), 0);
}

/* Those that no terms fit stay together, whichever of several takes them. */
static void test_the_rest_stays_together(void **state)
{
    struct fixture *f = *state;
    static struct letter l;
    upstreams(f, (const char *const[]){"always", "always", "for recipient:*@shop.example", NULL});
    begin(f);
    for (size_t times = 0; times < 4; times++) {
        l = (struct letter){.from = "a@b", .rest = 10};
        letter_to(&l, "r0@x");
        letter_to(&l, "r1@y");
        letter_to(&l, "r2@z");
        letter_to(&l, "r3@shop.example");
        assert_int_equal(letter_send(f, &l), ERR_OK);
    }
    assert_int_equal(settled(f).count_by_state[MESSAGE_QUEUED], 8);
    assert_int_equal(events(f, "event=split"), 4);
}

/* ---- no room ---- */

static void finding_print(void *ctx, const char *finding)
{
    (void)ctx;
    print_error("finding: %s\n", finding);
}

/* What a start finds: sound, with so many messages, and nothing to discard. */
static void assert_nothing_half(struct fixture *f, uint64_t messages)
{
    end(f);
    struct store_config config = {
        .directory = f->directory, .queue_bytes_max = 512 * MIB, .readers_max = 8};
    struct store_report report;
    struct store_check check;
    assert_int_equal(store_check(f->directory, finding_print, NULL, NULL, NULL, &check, &report),
                     ERR_OK);
    assert_int_equal(check.findings, 0);
    assert_int_equal(store_open(&f->store, &config, &report), ERR_OK);
    assert_int_equal(report.discarded, 0);
    assert_int_equal(report.messages, messages);
    store_close(&f->store);
}

static void test_a_full_disk_leaves_nothing(void **state)
{
    struct fixture *f = *state;
    static struct letter l;
    three_ways(f);
    begin(f);
    static const uint32_t pieces[] = {0, 3};
    for (size_t at = 0; at < 2; at++) {
        letter_make(&l, pieces[at], 5000);
        assert_int_equal(letter_pieces(f, &l), ERR_OK);
        (void)accept_from(f, "a@b", "x@y"); /* which commits what there is of it */
        atomic_store(&fault, FAULT_DATA_FULL);
        letter_end(f, &l);
        (void)box_wait(&f->clients, FLOW_INTAKE);
        assert_int_equal(l.client.intake.result, ERR_FULL);
        atomic_store(&fault, FAULT_NONE);
        assert_gone(f, l.client.intake.id);
        assert_int_equal(settled(f).count_by_state[MESSAGE_QUEUED], at + 1);
        assert_int_equal(events(f, "event=split"), 0);
    }
    letter_make(&l, 3, 5000);
    assert_int_equal(letter_send(f, &l), ERR_OK);
    assert_int_equal(settled(f).count_by_state[MESSAGE_QUEUED], 5);
}

/* The first copy has room below queue-max and the others have not. */
static void test_a_full_queue_refuses_the_whole(void **state)
{
    struct fixture *f = *state;
    static struct letter l;
    three_ways(f);
    f->queue_bytes_max = 8 * MIB;
    begin(f);
    letter_make(&l, 64, 100); /* 4 MiB, thrice */
    assert_int_equal(letter_send(f, &l), ERR_FULL);
    struct flow_status status = settled(f);
    assert_false(status.store_failed);
    assert_int_equal(status.count_by_state[MESSAGE_QUEUED], 0);
    assert_gone(f, l.client.intake.id);
    letter_make(&l, 8, 100);
    assert_int_equal(letter_send(f, &l), ERR_OK); /* what was refused has left its room */
    assert_int_equal(settled(f).count_by_state[MESSAGE_QUEUED], 3);
    assert_nothing_half(f, 3);
}

/* Room for the copies and none for the ends, for some length or other: what was copied and
 * committed goes as well. */
static void test_copies_that_were_in_vain_go(void **state)
{
    struct fixture *f = *state;
    static struct letter l;
    three_ways(f);
    /* three times 20 pieces, and not 21; or 6, and not 7 */
    f->queue_bytes_max = turns(62, 20) * BODY_CHUNK_BYTES_MAX;
    begin(f);
    enum err err = ERR_FULL;
    for (uint32_t pieces = (uint32_t)turns(24, 7); err == ERR_FULL; pieces--) {
        assert_true(pieces > 0);
        letter_make(&l, pieces, store_piece_bytes(f->store) - 1);
        err = letter_send(f, &l);
        assert_int_equal(settled(f).count_by_state[MESSAGE_QUEUED], err == ERR_OK ? 3 : 0);
    }
    assert_int_equal(err, ERR_OK);
    assert_nothing_half(f, 3);
}

/* A stop while bodies are being copied: the message is taken whole, and answered. */
static void test_a_stop_in_the_middle(void **state)
{
    struct fixture *f = *state;
    static struct letter l;
    three_ways(f);
    begin(f);
    letter_make(&l, (uint32_t)turns(150, 34), 100);
    assert_int_equal(letter_pieces(f, &l), ERR_OK);
    letter_end(f, &l);
    end(f); /* FLOW_STOP comes right behind it */
    box_look(&f->clients);
    assert_ptr_equal(f->clients.first, &l.client.intake.msg);
    assert_int_equal(l.client.intake.result, ERR_OK);
    assert_nothing_half(f, 3);
}

/* A store that cannot be written any more: nobody hears 250, and the next start finds nothing. */
static void test_a_failed_sync(void **state)
{
    struct fixture *f = *state;
    static struct letter l;
    three_ways(f);
    begin(f);
    letter_make(&l, 3, 100);
    assert_int_equal(letter_pieces(f, &l), ERR_OK);
    (void)accept_from(f, "a@b", "x@y");
    atomic_store(&fault, FAULT_SYNC);
    letter_end(f, &l);
    (void)box_wait(&f->clients, FLOW_INTAKE);
    assert_int_not_equal(l.client.intake.result, ERR_OK);
    (void)box_wait(&f->main, FLOW_DRAINED);
    atomic_store(&fault, FAULT_NONE);
}

/* Many that are split, in one batch: more entries fall due than a batch of others has. */
static void test_many_at_once(void **state)
{
    struct fixture *f = *state;
    const size_t many = turns(1000, 20), bytes = turns(0, 64000); /* few are large */
    struct letter *letters = calloc(many, sizeof *letters);
    assert_non_null(letters);
    char names[UPSTREAMS_MAX][64];
    const char *uses[UPSTREAMS_MAX + 1] = {"always"};
    for (uint32_t at = 1; at < UPSTREAMS_MAX; at++) {
        snprintf(names[at], sizeof names[at], "for recipient:*@d%u.example", (unsigned)at);
        uses[at] = names[at];
    }
    upstreams(f, uses);
    begin_asleep(f);
    for (size_t at = 0; at < many; at++) {
        letters[at] = (struct letter){.from = "a@b", .rest = at % 2 * bytes};
        static char paths[SOME_RECIPIENTS][32];
        for (uint32_t to = 0; to < SOME_RECIPIENTS; to++) {
            snprintf(paths[to], sizeof paths[to], "x@d%u.example", (unsigned)to);
            letter_to(&letters[at], paths[to]);
        }
        letters[at].client.intake.id = msg_id_make(++f->ids, 1);
        letter_end(f, &letters[at]);
    }
    begin_awake(f); /* and finds all of them at once */
    for (size_t at = 0; at < many; at++) {
        (void)box_wait(&f->clients, FLOW_INTAKE);
    }
    for (size_t at = 0; at < many; at++) {
        assert_int_equal(letters[at].client.intake.result, ERR_OK);
    }
    assert_int_equal(settled(f).count_by_state[MESSAGE_QUEUED], many * SOME_RECIPIENTS);
    end(f);
    free(letters);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup_use, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_without_a_body),
        CASE(test_one_short_piece),
        CASE(test_full_pieces_and_nothing_behind_them),
        CASE(test_many_pieces),
        CASE(test_all_one_way_is_not_split),
        CASE(test_the_rest_stays_together),
        CASE(test_a_full_disk_leaves_nothing),
        CASE(test_a_full_queue_refuses_the_whole),
        CASE(test_copies_that_were_in_vain_go),
        CASE(test_a_stop_in_the_middle),
        CASE(test_a_failed_sync),
        CASE(test_many_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
