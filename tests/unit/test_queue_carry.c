/*
 * Pieces of messages that are still coming in wait for no flush: they are carried in an open
 * transaction until somebody else is owed a commit, or for a moment. What becomes of them then.
 */
#include "tests/unit/queue_rig.h"

#define PIECES 20

/* A long message: its pieces are all alike, and it has one recipient. */
struct sender {
    struct client client;
    uint32_t pieces;
    uint64_t bytes;
    uint32_t crc;
};

static uint8_t piece_bytes[BODY_CHUNK_BYTES_MAX];

static void sender_begin(struct fixture *f, struct sender *s)
{
    *s = (struct sender){.client.intake.id = msg_id_make(++f->ids, 1)};
    memset(piece_bytes, 'x', sizeof piece_bytes);
}

/* One more full piece; returns how it was answered. */
static enum err sender_append(struct fixture *f, struct sender *s)
{
    struct slice piece = slice_of(piece_bytes, store_piece_bytes(f->store));
    s->client.intake.piece_index = s->pieces++;
    s->bytes += piece.len;
    s->crc = crc32c(s->crc, piece);
    s->client.intake.body_bytes = s->bytes;
    client_send(f, &s->client, FLOW_INTAKE_APPEND, piece);
    assert_ptr_equal(box_wait(&f->clients, FLOW_INTAKE), &s->client.intake.msg);
    return s->client.intake.result;
}

/* The end of it: no more bytes. */
static enum err sender_commit(struct fixture *f, struct sender *s)
{
    struct client *c = &s->client;
    struct buf list, envelope;
    buf_init(&list, c->recipients_memory, sizeof c->recipients_memory);
    record_recipient_put(&list, SLICE("r@example.jp"));
    struct record_envelope e = {
        .arrived_ms = 1,
        .body_bytes = s->bytes,
        .chunk_count = s->pieces,
        .body_crc = s->crc,
        .recipient_count = 1,
        .client = SLICE("192.0.2.1"),
        .sender = SLICE("a@example.jp"),
        .recipients = buf_slice(&list),
    };
    buf_init(&envelope, c->envelope_memory, sizeof c->envelope_memory);
    record_envelope_put(&envelope, &e);
    c->intake.piece_index = s->pieces;
    c->intake.envelope = buf_slice(&envelope);
    c->intake.recipient_count = 1;
    client_send(f, c, FLOW_INTAKE_COMMIT, slice_of(NULL, 0));
    assert_ptr_equal(box_wait(&f->clients, FLOW_INTAKE), &c->intake.msg);
    return c->intake.result;
}

static void assert_body(struct fixture *f, const struct sender *s)
{
    static uint8_t memory[BODY_CHUNK_BYTES_MAX];
    uint32_t crc = 0;
    for (uint64_t at = 0; at < s->bytes;) {
        struct buf to;
        buf_init(&to, memory, sizeof memory);
        assert_int_equal(store_read_body(f->reader, &s->client.intake.id, at, &to), ERR_OK);
        assert_true(to.len > 0);
        crc = crc32c(crc, buf_slice(&to));
        at += to.len;
    }
    assert_int_equal(crc, s->crc);
}

static uint64_t commits(struct fixture *f)
{
    return metric_get(&f->metrics, METRIC_COMMITS);
}

/* ---- cases ---- */

static void test_pieces_alone_are_not_flushed_one_by_one(void **state)
{
    struct fixture *f = *state;
    static struct sender s;
    begin(f);
    uint64_t before = commits(f);
    sender_begin(f, &s);
    for (size_t at = 0; at < PIECES; at++) {
        assert_int_equal(sender_append(f, &s), ERR_OK);
    }
    assert_int_equal(sender_commit(f, &s), ERR_OK);
    assert_in_range(commits(f) - before, 1, PIECES / 2); /* one, unless the machine stood still */
    assert_body(f, &s);
}

static void test_time_alone_commits_them(void **state)
{
    struct fixture *f = *state;
    static struct sender s;
    begin(f);
    uint64_t before = commits(f);
    sender_begin(f, &s);
    assert_int_equal(sender_append(f, &s), ERR_OK);
    for (int tries = 0; commits(f) == before; tries++) {
        assert_true(tries < PATIENCE_MS / 10);
        usleep(10000);
    }
    assert_int_equal(sender_commit(f, &s), ERR_OK);
    assert_body(f, &s);
}

/* Two at once, and a short one in between, whose commit takes what there is of both along. */
static void test_they_ride_on_the_commit_of_others(void **state)
{
    struct fixture *f = *state;
    static struct sender a, b;
    begin(f);
    sender_begin(f, &a);
    sender_begin(f, &b);
    for (size_t at = 0; at < turns(PIECES, 3); at++) {
        assert_int_equal(sender_append(f, &a), ERR_OK);
        assert_int_equal(sender_append(f, &b), ERR_OK);
        (void)accept_one(f, 1);
    }
    assert_int_equal(sender_commit(f, &b), ERR_OK);
    assert_int_equal(sender_commit(f, &a), ERR_OK);
    assert_body(f, &a);
    assert_body(f, &b);
}

/* The transaction that they were carried in finds no room: each of their messages hears of it, and
 * nothing of them is left behind; what others sent is not touched. */
static void test_carried_pieces_without_room_void_their_messages(void **state)
{
    struct fixture *f = *state;
    static struct sender long_one;
    static struct client c;
    begin(f);
    struct msg_id before = accept_one(f, 1);
    sender_begin(f, &long_one);
    assert_int_equal(sender_append(f, &long_one), ERR_OK);
    atomic_store(&fault, FAULT_DATA_FULL);
    client_commit(f, &c, 1);
    (void)box_wait(&f->clients, FLOW_INTAKE);
    assert_int_equal(c.intake.result, ERR_FULL);
    atomic_store(&fault, FAULT_NONE);
    assert_int_equal(sender_append(f, &long_one), ERR_FULL);
    struct flow_status status = settled(f);
    assert_false(status.store_failed);
    assert_int_equal(status.count_by_state[MESSAGE_QUEUED], 1);
    assert_state(f, before, MESSAGE_QUEUED);
    /* The same client, its next message. */
    sender_begin(f, &long_one);
    assert_int_equal(sender_append(f, &long_one), ERR_OK);
    assert_int_equal(sender_commit(f, &long_one), ERR_OK);
    assert_body(f, &long_one);
    end(f);
    struct store_config config = {
        .directory = f->directory, .queue_bytes_max = 512 * MIB, .readers_max = 8};
    struct store_report report;
    assert_int_equal(store_open(&f->store, &config, &report), ERR_OK);
    assert_int_equal(report.discarded, 0);
    store_close(&f->store);
}

/* As before, and the end of the message is the next that comes: it must not be answered 250. */
static void test_the_end_of_a_message_whose_pieces_are_gone_is_refused(void **state)
{
    struct fixture *f = *state;
    static struct sender s;
    begin(f);
    sender_begin(f, &s);
    assert_int_equal(sender_append(f, &s), ERR_OK);
    atomic_store(&fault, FAULT_DATA_FULL);
    assert_int_equal(sender_commit(f, &s), ERR_FULL);
    assert_int_equal(settled(f).count_by_state[MESSAGE_QUEUED], 0);
    atomic_store(&fault, FAULT_NONE);
    (void)accept_one(f, 1);
    assert_int_equal(settled(f).count_by_state[MESSAGE_QUEUED], 1);
}

static void test_a_failed_sync_is_told_to_those_who_were_carried(void **state)
{
    struct fixture *f = *state;
    static struct sender s;
    static struct client c;
    begin(f);
    sender_begin(f, &s);
    assert_int_equal(sender_append(f, &s), ERR_OK);
    atomic_store(&fault, FAULT_SYNC);
    client_commit(f, &c, 1);
    (void)box_wait(&f->clients, FLOW_INTAKE);
    assert_int_not_equal(c.intake.result, ERR_OK);
    (void)box_wait(&f->main, FLOW_DRAINED);
    assert_int_not_equal(sender_append(f, &s), ERR_OK);
    atomic_store(&fault, FAULT_NONE);
    end(f);
}

/* Whoever needs a transaction of his own commits them first. */
static void test_compaction_in_the_middle_keeps_them(void **state)
{
    struct fixture *f = *state;
    static struct sender s;
    static struct flow_compact compact;
    begin(f);
    sender_begin(f, &s);
    for (size_t at = 0; at < turns(3, 2); at++) {
        assert_int_equal(sender_append(f, &s), ERR_OK);
        compact.msg.kind = FLOW_COMPACT;
        compact.msg.reply_to = &f->main.mailbox;
        mailbox_send(queue_mailbox(f->queue), &compact.msg);
        (void)box_wait(&f->main, FLOW_COMPACT);
        assert_int_equal(compact.result, ERR_OK);
    }
    assert_int_equal(sender_commit(f, &s), ERR_OK);
    assert_body(f, &s);
}

static void test_an_end_in_the_middle_leaves_what_the_next_start_discards(void **state)
{
    struct fixture *f = *state;
    static struct sender s;
    begin(f);
    struct msg_id id = accept_one(f, 1);
    sender_begin(f, &s);
    assert_int_equal(sender_append(f, &s), ERR_OK);
    end(f);
    begin(f);
    assert_state(f, id, MESSAGE_QUEUED);
    assert_int_equal(settled(f).count_by_state[MESSAGE_QUEUED], 1);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_pieces_alone_are_not_flushed_one_by_one),
        CASE(test_time_alone_commits_them),
        CASE(test_they_ride_on_the_commit_of_others),
        CASE(test_carried_pieces_without_room_void_their_messages),
        CASE(test_the_end_of_a_message_whose_pieces_are_gone_is_refused),
        CASE(test_a_failed_sync_is_told_to_those_who_were_carried),
        CASE(test_compaction_in_the_middle_keeps_them),
        CASE(test_an_end_in_the_middle_leaves_what_the_next_start_discards),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
