/*
 * Databases, in the order of schema/STORE.md.
 */
#include "tests/power/second.h"

#include "tests/power/second_record.h"

#include <stdlib.h>

#define ID_BYTES   10
#define SEAL_BYTES 4

struct judge {
    const struct model *model;
    const struct model_version *version;
    const struct model_queue *queue;
    const struct content *content;
    bool of_version_1; /* the content is */
    uint64_t expected; /* records, of the database at hand */
    uint64_t promised;
    uint64_t history_bytes;
};

__attribute__((noreturn)) static void wrong(const struct judge *j, const char *db, const char *what)
{
    power_violation("the second reader, version %llu, %s: %s",
                    (unsigned long long)j->version->number, db, what);
}

/*
 * ---- CRC-32C: reflected polynomial 0x82f63b78, eight bytes a step ----
 */

static uint32_t crc_table[8][256];

static void crc_prepare(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++) {
            crc = (crc & 1) != 0 ? crc >> 1 ^ 0x82f63b78u : crc >> 1;
        }
        crc_table[0][byte] = crc;
    }
    for (uint32_t byte = 0; byte < 256; byte++) {
        for (size_t step = 1; step < 8; step++) {
            uint32_t before = crc_table[step - 1][byte];
            crc_table[step][byte] = before >> 8 ^ crc_table[0][before & 0xff];
        }
    }
}

static uint32_t crc_run(uint32_t crc, const uint8_t *at, size_t len)
{
    crc = ~crc;
    for (; len >= 8; len -= 8, at += 8) {
        uint32_t low =
            crc ^ (at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24);
        crc = crc_table[7][low & 0xff] ^ crc_table[6][low >> 8 & 0xff] ^
              crc_table[5][low >> 16 & 0xff] ^ crc_table[4][low >> 24] ^ crc_table[3][at[4]] ^
              crc_table[2][at[5]] ^ crc_table[1][at[6]] ^ crc_table[0][at[7]];
    }
    for (; len > 0; len--, at++) {
        crc = crc >> 8 ^ crc_table[0][(crc ^ *at) & 0xff];
    }
    return ~crc;
}

uint32_t second_crc(uint32_t crc, struct slice bytes)
{
    if (crc_table[0][1] == 0) {
        crc_prepare();
        if (crc_run(0, SLICE("123456789").data, 9) != 0xe3069283u) {
            power_broken("the second reader's checksum is wrong");
        }
    }
    return crc_run(crc, bytes.data, bytes.len);
}

/*
 * ---- what all databases have ----
 */

static uint64_t number_at(struct slice s, size_t at, size_t bytes)
{
    uint64_t value = 0;
    for (size_t index = 0; index < bytes && at + index < s.len; index++) {
        value = value << 8 | s.data[at + index];
    }
    return value;
}

/* The value of a record that must be there, without its seal. */
static struct slice sealed(struct judge *j, const char *db, struct slice key)
{
    const struct page_item *item = content_get(j->content, slice_from_str(db), key);
    if (item == NULL) {
        wrong(j, db, "a record is missing");
    }
    j->expected++;
    struct slice value = slice_head(item->value, item->value.len - SEAL_BYTES);
    if (item->value.len < SEAL_BYTES ||
        number_at(item->value, value.len, SEAL_BYTES) != second_crc(second_crc(0, key), value)) {
        wrong(j, db, "a seal does not fit");
    }
    return value;
}

/* As many records as were looked at, and no other. */
static void all_of(struct judge *j, const char *db)
{
    uint64_t found = 0;
    struct slice name = slice_from_str(db);
    for (size_t at = content_find(j->content, name, slice_of(NULL, 0));
         at < j->content->count && slice_equal(j->content->items[at].db, name); at++) {
        found++;
    }
    if (found != j->expected) {
        wrong(j, db, found > j->expected ? "there are records too many" : "there are too few");
    }
    j->expected = 0;
}

static struct slice id_of(const struct msg_id *id)
{
    return slice_of(id->bytes, ID_BYTES);
}

static void must_be(const struct judge *j, const char *db, const char *problem)
{
    if (problem != NULL) {
        wrong(j, db, problem);
    }
}

/*
 * ---- messages ----
 */

static void chunks_judge(struct judge *j, const struct msg_id *id, struct slice body)
{
    uint8_t bytes[ID_BYTES + 4];
    memcpy(bytes, id->bytes, ID_BYTES);
    uint64_t size = j->model->chunk_bytes;
    for (uint32_t index = 0; index * size < body.len; index++) {
        be32_put(bytes + ID_BYTES, index);
        struct slice key = slice_of(bytes, sizeof bytes);
        struct slice part = slice_head(slice_tail(body, index * size), size);
        const struct page_item *item = content_get(j->content, SLICE("chunk"), key);
        j->expected++;
        if (item == NULL || item->value.len != 8 + part.len ||
            number_at(item->value, 0, 4) != part.len ||
            !slice_equal(slice_tail(item->value, 8), part)) {
            wrong(j, "chunk", "a part of a body is missing or another");
        }
        uint32_t crc = second_crc(second_crc(second_crc(0, key), slice_head(item->value, 4)), part);
        if (number_at(item->value, 4, 4) != crc) {
            wrong(j, "chunk", "a checksum does not fit");
        }
    }
}

static void messages_judge(struct judge *j)
{
    const struct model_queue *q = j->queue;
    for (size_t index = 0; index < q->count; index++) {
        const struct model_message *m = q->messages[index];
        struct slice value = sealed(j, "envelope", id_of(&m->id));
        must_be(j, "envelope",
                j->of_version_1 ? second_envelope_v1(value, m) : second_envelope(value, m));
    }
    all_of(j, "envelope");
    for (size_t index = 0; index < q->count; index++) {
        const struct model_message *m = q->messages[index];
        struct slice value = sealed(j, "state", id_of(&m->id));
        must_be(j, "state", j->of_version_1 ? second_state_v1(value, m) : second_state(value, m));
        j->promised += second_state_bytes_max(m->recipients) - value.len;
    }
    all_of(j, "state");
    for (size_t index = 0; index < q->count; index++) {
        const struct model_message *m = q->messages[index];
        if (m->trail_record.len > 0) {
            must_be(j, "trail", second_trail(sealed(j, "trail", id_of(&m->id)), m));
        }
    }
    all_of(j, "trail");
    for (size_t index = 0; index < q->count; index++) {
        chunks_judge(j, &q->messages[index]->id, q->messages[index]->body);
    }
    for (size_t index = 0; index < j->version->intake_count; index++) {
        chunks_judge(j, &j->version->intakes[index].id, j->version->intakes[index].body);
    }
    all_of(j, "chunk");
}

static void intakes_judge(struct judge *j)
{
    for (size_t index = 0; index < j->version->intake_count; index++) {
        const struct model_intake *intake = &j->version->intakes[index];
        struct slice value = sealed(j, "intake", id_of(&intake->id));
        if (value.len != 12 || number_at(value, 0, 4) != intake->pieces ||
            number_at(value, 4, 8) != intake->body.len) {
            wrong(j, "intake", "pieces or bytes are others");
        }
    }
    all_of(j, "intake");
}

static void history_judge(struct judge *j)
{
    for (size_t index = 0; index < j->queue->past_count; index++) {
        const struct model_past *past = j->queue->past[index];
        struct slice value = sealed(j, "history", id_of(&past->message->id));
        must_be(j, "history", second_history(value, past));
        j->history_bytes += value.len + SEAL_BYTES;
    }
    all_of(j, "history");
}

/*
 * ---- what follows from the messages ----
 */

static int due_order(const void *left, const void *right)
{
    const struct model_due *a = left;
    const struct model_due *b = right;
    if (a->route != b->route) {
        return a->route < b->route ? -1 : 1;
    }
    if (a->due.due_q != b->due.due_q) {
        return a->due.due_q < b->due.due_q ? -1 : 1;
    }
    return memcmp(a->due.id.bytes, b->due.id.bytes, ID_BYTES);
}

size_t second_due(const struct model_queue *queue, struct model_due *out)
{
    size_t count = 0;
    for (size_t index = 0; index < queue->count; index++) {
        const struct model_message *m = queue->messages[index];
        struct slice route = m->state.upstream;
        if (m->state.state == MESSAGE_HELD ||
            (m->state.state == MESSAGE_FAILED && (m->state.flags & 0x01) == 0)) {
            continue;
        }
        if (m->state.state == MESSAGE_TRASHED) {
            route = SLICE("#trash");
        } else if (m->state.state == MESSAGE_FAILED) {
            route = SLICE("#digest");
        }
        out[count++] = (struct model_due){.route = second_crc(0, route),
                                          .due = {.due_q = m->state.due_q,
                                                  .id = m->id,
                                                  .flow = m->state.flow,
                                                  .size_kib = m->state.size_kib}};
    }
    qsort(out, count, sizeof *out, due_order);
    return count;
}

static void due_judge(struct judge *j)
{
    for (size_t index = 0; index < j->version->due_count; index++) {
        const struct model_due *due = &j->version->due[index];
        uint8_t key[4 + 8 + ID_BYTES];
        be32_put(key, due->route);
        be64_put(key + 4, due->due.due_q);
        memcpy(key + 12, due->due.id.bytes, ID_BYTES);
        struct slice value = sealed(j, "due", slice_of(key, sizeof key));
        bool fits = j->of_version_1 ? value.len == 0
                                    : value.len == 8 && number_at(value, 0, 4) == due->due.flow &&
                                          number_at(value, 4, 4) == due->due.size_kib;
        if (!fits) {
            wrong(j, "due", "flow or KiB are others");
        }
    }
    all_of(j, "due");
}

static struct slice reason_word(const struct model_message *m)
{
    static const char *const words[] = {
#define X(name, word, ...) word,
#include "schema/outcome.def"
#undef X
    };
    return slice_from_str(words[m->state.reason]);
}

static struct slice counted_name(const struct model_message *m, uint8_t kind)
{
    return kind == 'u' ? m->state.upstream : kind == 'd' ? m->state.device : reason_word(m);
}

/* One row of a kind for each name that is there: counted at the first message that has it. */
static void counts_judge_kind(struct judge *j, uint8_t kind)
{
    const struct model_queue *q = j->queue;
    for (size_t first = 0; first < q->count; first++) {
        struct slice name = counted_name(q->messages[first], kind);
        uint64_t counts[MESSAGE_STATE_COUNT] = {0};
        bool is_first = name.len > 0;
        for (size_t index = 0; index < q->count; index++) {
            if (slice_equal(counted_name(q->messages[index], kind), name)) {
                is_first = is_first && index >= first;
                counts[q->messages[index]->state.state]++;
            }
        }
        if (!is_first) {
            continue;
        }
        uint8_t key[1 + 128];
        key[0] = kind;
        memcpy(key + 1, name.data, name.len);
        struct slice value = sealed(j, "count", slice_of(key, 1 + name.len));
        for (size_t state = 0; state < MESSAGE_STATE_COUNT; state++) {
            if (value.len != 32 || number_at(value, 8 * state, 8) != counts[state]) {
                wrong(j, "count", "a count is another");
            }
        }
    }
}

static void counts_judge(struct judge *j)
{
    counts_judge_kind(j, 'u');
    counts_judge_kind(j, 'd');
    counts_judge_kind(j, 'r');
    all_of(j, "count");
}

/*
 * ---- what the queue knows of itself ----
 */

static void upstreams_judge(struct judge *j)
{
    for (size_t index = 0; index < j->queue->upstream_count; index++) {
        const struct model_upstream *upstream = &j->queue->upstreams[index];
        must_be(j, "upstream", second_upstream(sealed(j, "upstream", upstream->name), upstream));
    }
    all_of(j, "upstream");
}

static void format_judge(struct judge *j)
{
    struct slice value = sealed(j, "meta", SLICE("format"));
    if (value.len != 18 || memcmp(value.data, "tasukiQ", 8) != 0 ||
        number_at(value, 8, 4) != (j->of_version_1 ? 1u : 2u) ||
        number_at(value, 12, 4) != j->model->chunk_bytes ||
        number_at(value, 16, 2) != j->model->box) {
        wrong(j, "meta", "the format record is another");
    }
}

static void summary_judge(struct judge *j)
{
    const struct model_queue *q = j->queue;
    const struct model_version *v = j->version;
    const uint64_t wanted[] = {
        v->count_by_state[MESSAGE_QUEUED],
        v->count_by_state[MESSAGE_HELD],
        v->count_by_state[MESSAGE_FAILED],
        v->count_by_state[MESSAGE_TRASHED],
        v->body_bytes,
        q->last_id,
        j->promised,
        second_state_bytes_max(1),
        q->past_count,
        j->history_bytes,
        q->clock.q_ms,
        q->clock.wall_ms,
        q->clock.boot_ms,
        q->clock.boot_id,
    };
    static const char *const words[] = {
        "the summary's count of queued", "the summary's count of held",
        "the summary's count of failed", "the summary's count of trashed",
        "the summary's bytes of bodies", "the summary's newest id",
        "the summary's promised bytes",  "the summary's bound",
        "the summary's history entries", "the summary's history bytes",
        "the summary's clock",           "the summary's wall clock",
        "the summary's boot time",       "the summary's boot id",
    };
    struct slice value = sealed(j, "meta", SLICE("summary"));
    size_t count = sizeof wanted / sizeof wanted[0];
    if (value.len != 8 * count) {
        wrong(j, "meta", "the summary has another length");
    }
    for (size_t index = 0; index < count; index++) {
        if (number_at(value, 8 * index, 8) != wanted[index]) {
            wrong(j, "meta", words[index]);
        }
    }
}

static void notes_judge(struct judge *j)
{
    for (size_t index = 0; index < j->queue->note_count; index++) {
        const struct model_note *note = &j->queue->notes[index];
        char key[80];
        int len = snprintf(key, sizeof key, "note:%.*s", (int)note->word.len,
                           (const char *)note->word.data);
        if (!slice_equal(sealed(j, "meta", slice_of(key, (size_t)len)), note->value)) {
            wrong(j, "meta", "a note is another");
        }
    }
}

void second_judge(const struct model *model, const struct model_version *version)
{
    struct judge j = {.model = model,
                      .version = version,
                      .queue = version->queue,
                      .content = version->content,
                      .of_version_1 = model->of_version_1 && version->number == 0};
    messages_judge(&j);
    intakes_judge(&j);
    due_judge(&j);
    if (j.of_version_1) {
        format_judge(&j); /* what else follows from its records is judged after the upgrade */
        return;
    }
    history_judge(&j);
    counts_judge(&j);
    upstreams_judge(&j);
    format_judge(&j);
    summary_judge(&j);
    notes_judge(&j);
    all_of(&j, "meta");
}
