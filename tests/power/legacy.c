/*
 * A queue as version 1 left it, by LMDB's API and schema/STORE.md, "From version 1": the one place
 * of the rig that writes a queue without the store.
 */
#include "tests/power/second.h"
#include "tests/power/work_internal.h"

#include <fcntl.h>
#include <lmdb.h>
#include <sys/stat.h>
#include <unistd.h>

#define MESSAGES  17
#define MAP_BYTES ((size_t)8 << 20)

static const char *const names[] = {"meta", "envelope", "state", "chunk", "due", "intake"};
enum db { META, ENVELOPE, STATE, CHUNK, DUE, INTAKE, DB_COUNT };

struct legacy {
    struct work *work;
    MDB_txn *txn;
    MDB_dbi dbs[DB_COUNT];
};

static void lmdb_must(int code)
{
    if (code != MDB_SUCCESS) {
        power_broken("cannot make a queue of version 1: %s", mdb_strerror(code));
    }
}

static MDB_val val(struct slice s)
{
    MDB_val to = {.mv_size = s.len};
    memcpy(&to.mv_data, &s.data, sizeof s.data);
    return to;
}

static void put(struct legacy *l, enum db db, struct slice key, struct slice value)
{
    MDB_val k = val(key);
    MDB_val v = val(value);
    lmdb_must(mdb_put(l->txn, l->dbs[db], &k, &v, MDB_NOOVERWRITE));
}

static void put_sealed(struct legacy *l, enum db db, struct slice key, struct slice bytes)
{
    uint8_t value[32768];
    CHECK(bytes.len + 4 <= sizeof value);
    if (bytes.len > 0) {
        memcpy(value, bytes.data, bytes.len);
    }
    be32_put(value + bytes.len, second_crc(second_crc(0, key), bytes));
    put(l, db, key, slice_of(value, bytes.len + 4));
}

/*
 * ---- records of version 1 ----
 */

static uint8_t memory[32768];

static void number(struct buf *to, size_t bytes, uint64_t value)
{
    for (size_t index = bytes; index-- > 0;) {
        buf_put_byte(to, (uint8_t)(value >> 8 * index));
    }
}

static void text(struct buf *to, struct slice s)
{
    number(to, 2, s.len);
    buf_put(to, s);
}

static struct slice record_end(struct buf *to)
{
    number(to, 4, second_crc(0, buf_slice(to)));
    CHECK(!to->overflow);
    return buf_slice(to);
}

static struct slice envelope_v1(const struct model_message *m)
{
    struct buf to;
    buf_init(&to, memory, sizeof memory);
    number(&to, 2, 0x0100 | 'E');
    number(&to, 2, m->envelope.flags);
    number(&to, 8, m->envelope.arrived_ms);
    number(&to, 8, m->body.len);
    number(&to, 4, m->envelope.chunk_count);
    number(&to, 4, second_crc(0, m->body));
    number(&to, 4, m->recipients);
    text(&to, m->envelope.client);
    text(&to, m->envelope.helo);
    text(&to, m->envelope.device);
    text(&to, m->envelope.subject);
    text(&to, m->envelope.sender);
    for (uint32_t index = 0; index < m->recipients; index++) {
        text(&to, m->recipient[index].path);
    }
    return record_end(&to);
}

static struct slice state_v1(const struct model_message *m)
{
    struct buf to;
    buf_init(&to, memory, sizeof memory);
    number(&to, 2, 0x0100 | 'S');
    number(&to, 1, m->state.state);
    number(&to, 1, 0);
    number(&to, 4, second_crc(0, m->state.upstream));
    number(&to, 8, m->state.due_q);
    number(&to, 4, m->state.attempts);
    number(&to, 8, m->state.last_q);
    number(&to, 8, m->state.changed_q);
    number(&to, 4, m->recipients);
    text(&to, m->state.upstream);
    for (uint32_t index = 0; index < m->recipients; index++) {
        const struct record_recipient *fate = &m->recipient[index].fate;
        bool open = recipient_is_open(fate->state);
        number(&to, 1, open ? 0 : fate->state);
        number(&to, 1, fate->outcome);
        number(&to, 2, fate->code);
        for (size_t at = 0; at < 3; at++) {
            number(&to, 2, fate->enhanced[at]);
        }
        text(&to, fate->text);
    }
    return record_end(&to);
}

/*
 * ---- messages ----
 */

/* As version 1 could have left it, told in the words of version 2. */
static struct model_message *message_make(struct work *w, size_t index)
{
    struct msg_id id = work_id(w);
    struct slice body = work_body(w, index == 0 ? 0 : work_pick(w, index % 5 == 0 ? 40000 : 3000));
    size_t size = w->model->chunk_bytes;
    uint32_t pieces = (uint32_t)((body.len + 65536 - 65536 % size - 1) / (65536 - 65536 % size));
    struct model_message *m = work_message_new(w, &id, body, pieces);
    m->envelope.envid = slice_of(NULL, 0);
    m->state.outage_base = 0;
    m->state.accepted_q = m->envelope.arrived_ms;
    m->state.attempts = (uint32_t)work_pick(w, 3);
    m->state.last_q = m->state.attempts == 0 ? 0 : w->now_ms;
    m->state.state = (enum message_state)work_pick(w, 3);
    for (uint32_t at = 0; at < m->recipients; at++) {
        struct model_recipient *r = &m->recipient[at];
        r->notify = 0;
        r->orcpt = slice_of(NULL, 0);
        if (m->state.attempts == 0) {
            continue;
        }
        bool doubtful = work_pick(w, 5) == 0;
        r->fate =
            (struct record_recipient){.state = doubtful ? RECIPIENT_IN_DOUBT : RECIPIENT_DEFERRED,
                                      .outcome = doubtful ? OUTCOME_IN_DOUBT : OUTCOME_DEFERRED,
                                      .code = 451,
                                      .text = SLICE("later")};
        if (work_pick(w, 3) == 0) {
            r->fate.state = RECIPIENT_DELIVERED;
            r->fate.outcome = OUTCOME_DELIVERED;
        } else if (m->state.state == MESSAGE_FAILED) {
            r->fate.state = RECIPIENT_FAILED;
            r->fate.outcome = OUTCOME_REFUSED;
        }
    }
    work_envelope_encode(m);
    work_state_encode(m);
    return m;
}

static void chunks_put(struct legacy *l, const struct msg_id *id, struct slice body)
{
    uint8_t bytes[MSG_ID_BYTES + 4];
    uint8_t value[8 + 65536];
    memcpy(bytes, id->bytes, MSG_ID_BYTES);
    struct slice key = slice_of(bytes, sizeof bytes);
    for (uint32_t index = 0; body.len > 0; index++) {
        struct slice part = slice_head(body, l->work->model->chunk_bytes);
        be32_put(bytes + MSG_ID_BYTES, index);
        be32_put(value, (uint32_t)part.len);
        memcpy(value + 8, part.data, part.len);
        uint32_t crc = second_crc(second_crc(0, key), slice_of(value, 4));
        be32_put(value + 4, second_crc(crc, part));
        put(l, CHUNK, key, slice_of(value, 8 + part.len));
        body = slice_tail(body, part.len);
    }
}

static void message_put(struct legacy *l, const struct model_message *m)
{
    struct slice id = slice_of(m->id.bytes, MSG_ID_BYTES);
    put_sealed(l, ENVELOPE, id, envelope_v1(m));
    put_sealed(l, STATE, id, state_v1(m));
    chunks_put(l, &m->id, m->body);
    if (m->state.state == MESSAGE_QUEUED) {
        uint8_t key[4 + 8 + MSG_ID_BYTES];
        be32_put(key, second_crc(0, m->state.upstream));
        be64_put(key + 4, m->state.due_q);
        memcpy(key + 12, m->id.bytes, MSG_ID_BYTES);
        put_sealed(l, DUE, slice_of(key, sizeof key), slice_of(NULL, 0));
    }
    struct model_queue *q = &l->work->draft.queue;
    q->messages[q->count++] = m;
    q->last_id = u64_max(q->last_id, msg_id_time_and_sequence(&m->id));
}

/* One body was being received. */
static void intake_put(struct legacy *l)
{
    struct work *w = l->work;
    struct work_open *open = &w->draft.open[w->draft.open_count++];
    struct slice body = work_body(w, 9000);
    *open =
        (struct work_open){.intake = {.id = work_id(w), .body = body, .pieces = 1}, .whole = body};
    uint8_t bytes[12];
    be32_put(bytes, 1);
    be64_put(bytes + 4, body.len);
    put_sealed(l, INTAKE, slice_of(open->intake.id.bytes, MSG_ID_BYTES),
               slice_of(bytes, sizeof bytes));
    chunks_put(l, &open->intake.id, body);
    w->draft.queue.last_id = msg_id_time_and_sequence(&open->intake.id);
}

/*
 * ---- the queue ----
 */

static void meta_put(struct legacy *l)
{
    const struct model_queue *q = &l->work->draft.queue;
    uint8_t format[18] = "tasukiQ";
    be32_put(format + 8, 1);
    be32_put(format + 12, l->work->model->chunk_bytes);
    be16_put(format + 16, l->work->model->box);
    put_sealed(l, META, SLICE("format"), slice_of(format, sizeof format));
    uint64_t totals[7] = {[4] = q->last_id, [6] = 40 + 2 + 64 + 12 + 512 + 4};
    for (size_t index = 0; index < q->count; index++) {
        totals[q->messages[index]->state.state]++;
        totals[3] += q->messages[index]->body.len;
    }
    uint8_t summary[56];
    for (size_t index = 0; index < 7; index++) {
        be64_put(summary + 8 * index, totals[index]);
    }
    put_sealed(l, META, SLICE("summary"), slice_of(summary, sizeof summary));
}

/* Flushes files and names as version 1 did. */
static void all_sync(const char *root)
{
    static const char *const paths[] = {"/q/data.mdb", "/q", ""};
    for (size_t index = 0; index < sizeof paths / sizeof paths[0]; index++) {
        char path[TAPE_PATH_BYTES_MAX * 2];
        snprintf(path, sizeof path, "%s%s", root, paths[index]);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || fsync(fd) != 0) {
            power_broken("cannot flush %s", path);
        }
        close(fd);
    }
}

void work_legacy_make(struct work *w)
{
    struct legacy l = {.work = w};
    char path[TAPE_PATH_BYTES_MAX * 2];
    snprintf(path, sizeof path, "%s/q", w->root);
    if (mkdir(path, 0700) != 0) {
        power_broken("cannot make %s", path);
    }
    w->model->box = (uint16_t)power_random(&w->random);
    w->now_ms += 60000;
    MDB_env *env;
    lmdb_must(mdb_env_create(&env));
    lmdb_must(mdb_env_set_maxdbs(env, DB_COUNT));
    lmdb_must(mdb_env_set_mapsize(env, MAP_BYTES));
    lmdb_must(mdb_env_open(env, path, MDB_NOTLS, 0600));
    lmdb_must(mdb_txn_begin(env, NULL, 0, &l.txn));
    for (size_t db = 0; db < DB_COUNT; db++) {
        lmdb_must(mdb_dbi_open(l.txn, names[db], MDB_CREATE, &l.dbs[db]));
    }
    for (size_t index = 0; index < MESSAGES; index++) {
        message_put(&l, message_make(w, index));
    }
    intake_put(&l);
    meta_put(&l);
    lmdb_must(mdb_txn_commit(l.txn));
    mdb_env_close(env);
    snprintf(path, sizeof path, "%s/q/data.mdb", w->root);
    if (truncate(path, MAP_BYTES) != 0) {
        power_broken("cannot lengthen %s", path);
    }
    all_sync(w->root);
}
