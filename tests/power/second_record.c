/*
 * Records, field by field in the order of schema/RECORD.md.
 *
 * The reader keeps the first thing that is wrong and goes on to the end, so that a record is one
 * list of fields here as it is there.
 */
#include "tests/power/second_record.h"

#include "tests/power/second.h"

#define VERSION 2

struct reader {
    struct slice rest;
    const char *wrong; /* NULL so far */
};

static void expect(struct reader *r, bool right, const char *what)
{
    if (!right && r->wrong == NULL) {
        r->wrong = what;
    }
}

static struct slice take(struct reader *r, size_t count)
{
    expect(r, count <= r->rest.len, "it is too short");
    struct slice taken = slice_head(r->rest, count);
    r->rest = slice_tail(r->rest, count);
    return taken;
}

static uint64_t number(struct reader *r, size_t bytes)
{
    struct slice taken = take(r, bytes);
    uint64_t value = 0;
    for (size_t index = 0; index < taken.len; index++) {
        value = value << 8 | taken.data[index];
    }
    return value;
}

static void number_is(struct reader *r, size_t bytes, uint64_t wanted, const char *what)
{
    expect(r, number(r, bytes) == wanted, what);
}

static void text_is(struct reader *r, struct slice wanted, size_t bytes_max, const char *what)
{
    size_t len = (size_t)number(r, 2);
    expect(r, len <= bytes_max, what);
    expect(r, slice_equal(take(r, len), wanted), what);
}

static void blob_is(struct reader *r, struct slice wanted, const char *what)
{
    size_t len = (size_t)number(r, 4);
    expect(r, slice_equal(take(r, len), wanted), what);
}

static struct reader record_begin(struct slice record, uint8_t version, uint8_t kind)
{
    struct reader r = {.rest = record};
    if (record.len < 6) {
        r.wrong = "it is too short";
        return r;
    }
    struct slice content = slice_head(record, record.len - 4);
    struct reader end = {.rest = slice_tail(record, record.len - 4)};
    number_is(&end, 4, second_crc(0, content), "its checksum does not fit");
    r = (struct reader){.rest = content, .wrong = end.wrong};
    number_is(&r, 1, version, "another version");
    number_is(&r, 1, kind, "another kind");
    return r;
}

static const char *record_end(struct reader *r)
{
    expect(r, r->rest.len == 0, "bytes are left over");
    return r->wrong;
}

/*
 * ---- envelope ----
 */

static void envelope_head(struct reader *r, const struct model_message *m)
{
    const struct record_envelope *e = &m->envelope;
    number_is(r, 2, e->flags, "flags");
    number_is(r, 8, e->arrived_ms, "arrived");
    number_is(r, 8, m->body.len, "bytes of the body");
    number_is(r, 4, e->chunk_count, "chunks of the body");
    number_is(r, 4, second_crc(0, m->body), "checksum of the body");
    number_is(r, 4, m->recipients, "recipients");
    text_is(r, e->client, 128, "client");
    text_is(r, e->helo, 2048, "helo");
    text_is(r, e->device, 128, "device");
    text_is(r, e->subject, 128, "subject");
    text_is(r, e->sender, 256, "sender");
}

const char *second_envelope(struct slice record, const struct model_message *m)
{
    struct reader r = record_begin(record, VERSION, 'E');
    envelope_head(&r, m);
    text_is(&r, m->envelope.envid, 100, "envid");
    for (uint32_t index = 0; index < m->recipients; index++) {
        text_is(&r, m->recipient[index].path, 256, "recipient");
        number_is(&r, 1, m->recipient[index].notify, "notify");
        text_is(&r, m->recipient[index].orcpt, 500, "orcpt");
    }
    return record_end(&r);
}

const char *second_envelope_v1(struct slice record, const struct model_message *m)
{
    struct reader r = record_begin(record, 1, 'E');
    envelope_head(&r, m);
    for (uint32_t index = 0; index < m->recipients; index++) {
        text_is(&r, m->recipient[index].path, 256, "recipient");
    }
    return record_end(&r);
}

/*
 * ---- state ----
 */

uint64_t second_state_bytes_max(uint32_t recipients)
{
    uint64_t fate = 11 + 2 + 512;
    return 70 + (2 + 64) + (2 + 128) + recipients * fate + 4;
}

/* The outcome of the recipient that is worst off, as a number. */
static uint8_t reason_of(const struct model_message *m)
{
    static const enum recipient_state order[] = {RECIPIENT_FAILED, RECIPIENT_IN_DOUBT,
                                                 RECIPIENT_DEFERRED, RECIPIENT_QUEUED,
                                                 RECIPIENT_DELIVERED};
    for (size_t worst = 0; worst < sizeof order / sizeof order[0]; worst++) {
        for (uint32_t index = 0; index < m->recipients; index++) {
            if (m->recipient[index].fate.state == order[worst]) {
                return (uint8_t)m->recipient[index].fate.outcome;
            }
        }
    }
    return 0;
}

static uint32_t flow_of(const struct model_message *m)
{
    uint32_t device = second_crc(0, m->state.device);
    uint32_t both = second_crc(second_crc(device, SLICE("\n")), m->envelope.sender);
    return (device & 0xffff0000u) | (both & 0x0000ffffu);
}

static void reply_is(struct reader *r, uint16_t code, const uint16_t enhanced[3])
{
    number_is(r, 2, code, "reply code");
    for (size_t index = 0; index < 3; index++) {
        number_is(r, 2, enhanced[index], "enhanced status code");
    }
}

const char *second_state(struct slice record, const struct model_message *m)
{
    struct reader r = record_begin(record, VERSION, 'S');
    const struct record_state *s = &m->state;
    number_is(&r, 1, s->state, "state");
    number_is(&r, 1, reason_of(m), "reason");
    number_is(&r, 2, s->flags, "flags");
    number_is(&r, 4, second_crc(0, s->upstream), "route");
    number_is(&r, 8, s->due_q, "due");
    number_is(&r, 4, s->attempts, "attempts");
    number_is(&r, 8, s->last_q, "last");
    number_is(&r, 8, s->changed_q, "changed");
    number_is(&r, 8, s->accepted_q, "accepted");
    number_is(&r, 8, s->outage_base, "outage total");
    number_is(&r, 4, flow_of(m), "flow");
    number_is(&r, 4, (m->body.len + 1023) / 1024, "KiB");
    number_is(&r, 4, m->recipients, "recipients");
    number_is(&r, 4, 0, "zero");
    text_is(&r, s->upstream, 64, "upstream");
    text_is(&r, s->device, 128, "device");
    for (uint32_t index = 0; index < m->recipients; index++) {
        const struct record_recipient *fate = &m->recipient[index].fate;
        number_is(&r, 1, fate->state, "state of a recipient");
        number_is(&r, 1, fate->flags, "flags of a recipient");
        number_is(&r, 1, fate->outcome, "outcome");
        reply_is(&r, fate->code, fate->enhanced);
        text_is(&r, fate->text, 512, "words of the upstream");
    }
    return record_end(&r);
}

const char *second_state_v1(struct slice record, const struct model_message *m)
{
    struct reader r = record_begin(record, 1, 'S');
    const struct record_state *s = &m->state;
    number_is(&r, 1, s->state, "state");
    number_is(&r, 1, 0, "zero");
    number_is(&r, 4, second_crc(0, s->upstream), "route");
    number_is(&r, 8, s->due_q, "due");
    number_is(&r, 4, s->attempts, "attempts");
    number_is(&r, 8, s->last_q, "last");
    number_is(&r, 8, s->changed_q, "changed");
    number_is(&r, 4, m->recipients, "recipients");
    text_is(&r, s->upstream, 64, "upstream");
    for (uint32_t index = 0; index < m->recipients; index++) {
        const struct record_recipient *fate = &m->recipient[index].fate;
        /* Tried or not, in doubt or not: version 1 did not tell. */
        bool open = fate->state != RECIPIENT_DELIVERED && fate->state != RECIPIENT_FAILED;
        number_is(&r, 1, open ? 0 : fate->state, "state of a recipient");
        number_is(&r, 1, fate->outcome, "outcome");
        reply_is(&r, fate->code, fate->enhanced);
        text_is(&r, fate->text, 512, "words of the upstream");
    }
    return record_end(&r);
}

/*
 * ---- trail ----
 */

static void move_is(struct reader *r, const struct record_move *move)
{
    number_is(r, 8, move->when_ms, "when");
    number_is(r, 1, move->cause, "cause");
    number_is(r, 1, move->from, "from");
    number_is(r, 1, move->to, "to");
    number_is(r, 1, move->outcome, "outcome of a move");
    reply_is(r, move->code, move->enhanced);
    number_is(r, 4, move->first, "first recipient");
    number_is(r, 4, move->count, "how many recipients");
    number_is(r, 8, move->connection, "connection");
    number_is(r, 4, move->duration_ms, "how long");
    number_is(r, 4, move->uid, "uid");
    text_is(r, move->upstream, 64, "upstream of a move");
    text_is(r, move->peer, 64, "peer");
    text_is(r, move->tls, 64, "tls");
    text_is(r, move->text, 256, "words of a move");
}

const char *second_trail(struct slice record, const struct model_message *m)
{
    struct reader r = record_begin(record, VERSION, 'T');
    number_is(&r, 4, m->move_count, "moves");
    number_is(&r, 4, m->moves_left_out, "moves left out");
    for (uint32_t index = 0; index < m->move_count; index++) {
        move_is(&r, &m->moves[index]);
    }
    text_is(&r, m->dialogue, 4096, "dialogue");
    return record_end(&r);
}

/*
 * ---- history and upstream ----
 */

const char *second_history(struct slice record, const struct model_past *past)
{
    struct reader r = record_begin(record, VERSION, 'H');
    const struct model_message *m = past->message;
    number_is(&r, 8, past->left_ms, "left");
    number_is(&r, 8, past->left_q, "left, q");
    number_is(&r, 1, past->end, "end");
    blob_is(&r, m->envelope_record, "envelope in the history");
    blob_is(&r, m->state_record, "state in the history");
    blob_is(&r, m->trail_record, "trail in the history");
    return record_end(&r);
}

const char *second_upstream(struct slice record, const struct model_upstream *upstream)
{
    struct reader r = record_begin(record, VERSION, 'U');
    const struct record_upstream *u = &upstream->upstream;
    number_is(&r, 8, u->outage_ms, "outage total");
    number_is(&r, 8, u->null_refused_q, "refuses the null sender");
    number_is(&r, 1, u->pipeline_max, "pipelining");
    number_is(&r, 8, u->pipeline_q, "when that was learnt");
    text_is(&r, u->pipeline_reason, 128, "why");
    number_is(&r, 1, u->bucket_count, "buckets");
    for (uint32_t index = 0; index < u->bucket_count; index++) {
        number_is(&r, 1, u->buckets[index].kind + 2u, "kind of a bucket");
        number_is(&r, 8, u->buckets[index].span_ms, "span");
        number_is(&r, 8, u->buckets[index].used, "used");
        number_is(&r, 8, u->buckets[index].at_q, "when");
    }
    return record_end(&r);
}
