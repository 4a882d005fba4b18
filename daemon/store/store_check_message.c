/*
 * The check, part two: all that is kept under an id, held against each other.
 *
 * Six databases have the id as the (beginning of the) key. They are walked side by side, lowest id
 * first, so that all there is about one message is at hand at the same time, and nothing else is.
 */
#include "daemon/base/crc32c.h"
#include "daemon/store/store_check_internal.h"
#include "schema/record_history.h"

#define INTAKE_BYTES 12 /* be32 pieces, be64 bytes */

enum stream_name {
    STREAM_ENVELOPE,
    STREAM_STATE,
    STREAM_TRAIL,
    STREAM_INTAKE,
    STREAM_HISTORY,
    STREAM_CHUNK, /* several rows an id */
    STREAM_COUNT
};

struct stream {
    enum store_db db;
    size_t key_bytes;
    MDB_cursor *cursor; /* owned */
    MDB_val key, value; /* of the row it stands at, when live */
    bool live;
};

/* All about one id. */
struct found {
    struct msg_id id;
    struct stream *streams;
    bool has[STREAM_COUNT];
    struct record_envelope envelope; /* when envelope_sound */
    struct record_state state;       /* when state_sound */
    struct store_standing standing;  /* of it */
    bool envelope_sound, state_sound;
};

/* What the chunks of one id amount to. */
struct body {
    uint64_t bytes;
    uint32_t chunks;
    uint32_t crc;
    bool sound; /* no finding about it so far */
};

/*
 * ---- walking ----
 */

static void stream_next(struct check *c, struct stream *s)
{
    s->live = false;
    while (check_next(c, s->cursor, s->db, &s->key, &s->value)) {
        if (s->key.mv_size == s->key_bytes) {
            s->live = true;
            return;
        }
        check_finding(c, NULL, "a key of %lu bytes in the database \"%s\" is no message's",
                      (unsigned long)s->key.mv_size, store_db_names[s->db]);
    }
}

static bool stream_is_at(const struct stream *s, const struct msg_id *id)
{
    return s->live && memcmp(s->key.mv_data, id->bytes, MSG_ID_BYTES) == 0;
}

/* The lowest id that a stream stands at. False: all are at their end. */
static bool lowest(const struct stream *streams, struct msg_id *out)
{
    const uint8_t *best = NULL;
    for (size_t index = 0; index < STREAM_COUNT; index++) {
        const uint8_t *key = streams[index].key.mv_data;
        if (streams[index].live && (best == NULL || memcmp(key, best, MSG_ID_BYTES) < 0)) {
            best = key;
        }
    }
    if (best != NULL) {
        memcpy(out->bytes, best, MSG_ID_BYTES);
    }
    return best != NULL;
}

/* A sealed value of f's id, without its seal. False: it does not fit, which is a finding. */
static bool unsealed(struct check *c, const struct found *f, enum stream_name name,
                     struct slice *out)
{
    const struct stream *s = &f->streams[name];
    if (store_unseal(slice_of(f->id.bytes, MSG_ID_BYTES), store_val_slice(s->value), out) ==
        ERR_OK) {
        return true;
    }
    check_finding(c, &f->id, "its record in the database \"%s\" is damaged: the seal does not fit",
                  store_db_names[s->db]);
    return false;
}

static void undecodable(struct check *c, const struct msg_id *id, const char *what, enum err err)
{
    check_finding(c, id, "its %s cannot be decoded: %s", what, err_text(err));
}

/*
 * ---- records ----
 */

static void judge_envelope(struct check *c, struct found *f)
{
    struct slice bytes;
    if (f->has[STREAM_ENVELOPE] && unsealed(c, f, STREAM_ENVELOPE, &bytes)) {
        enum err err = record_envelope_get(bytes, &f->envelope);
        f->envelope_sound = err == ERR_OK;
        if (err != ERR_OK) {
            undecodable(c, &f->id, "envelope", err);
        }
    }
}

static void judge_state(struct check *c, struct found *f)
{
    struct slice bytes;
    if (!f->has[STREAM_STATE]) {
        return;
    }
    if (unsealed(c, f, STREAM_STATE, &bytes)) {
        enum err err = record_state_get(bytes, &f->state);
        if (err == ERR_OK) {
            err = store_standing_of(bytes, &f->standing);
        }
        f->state_sound = err == ERR_OK;
        if (err != ERR_OK) {
            undecodable(c, &f->id, "state record", err);
        }
    }
    if (!f->state_sound) {
        c->totals.states_damaged++;
        return;
    }
    c->totals.count_by_state[f->state.state]++;
    c->totals.promised_bytes += f->standing.promised_bytes;
}

static void judge_pair(struct check *c, const struct found *f)
{
    if (f->has[STREAM_ENVELOPE] != f->has[STREAM_STATE]) {
        check_finding(c, &f->id, "it has %s, but no %s",
                      f->has[STREAM_STATE] ? "a state record" : "an envelope",
                      f->has[STREAM_STATE] ? "envelope" : "state record");
    }
    if (!f->envelope_sound || !f->state_sound) {
        return;
    }
    if (f->envelope.recipient_count != f->state.recipient_count) {
        check_finding(c, &f->id, "its envelope has %lu recipients, its state record %lu",
                      (unsigned long)f->envelope.recipient_count,
                      (unsigned long)f->state.recipient_count);
    }
    uint64_t kib = f->envelope.body_bytes / 1024 + (f->envelope.body_bytes % 1024 != 0);
    if (f->state.size_kib != kib) {
        check_finding(c, &f->id, "its state record says %lu KiB, its envelope %llu bytes",
                      (unsigned long)f->state.size_kib, (unsigned long long)f->envelope.body_bytes);
    }
}

static bool is_message(const struct found *f)
{
    return f->has[STREAM_ENVELOPE] || f->has[STREAM_STATE];
}

static void judge_trail(struct check *c, const struct found *f)
{
    struct slice bytes;
    struct record_trail trail;
    if (!f->has[STREAM_TRAIL]) {
        return;
    }
    if (!is_message(f)) {
        check_finding(c, &f->id, "it has a trail, but is not in the queue");
    }
    if (unsealed(c, f, STREAM_TRAIL, &bytes)) {
        enum err err = record_trail_get(bytes, &trail);
        if (err != ERR_OK) {
            undecodable(c, &f->id, "trail", err);
        }
    }
}

/* The records inside a history record; an empty one was damaged when the message left. */
static void judge_history_parts(struct check *c, const struct msg_id *id,
                                const struct record_history *history)
{
    struct record_envelope envelope;
    struct record_state state;
    struct record_trail trail;
    enum err err = ERR_OK;
    bool both = history->envelope.len > 0 && history->state.len > 0;
    if (history->envelope.len > 0 &&
        (err = record_envelope_get(history->envelope, &envelope)) != ERR_OK) {
        undecodable(c, id, "envelope in the history", err);
        both = false;
    }
    if (history->state.len > 0 && (err = record_state_get(history->state, &state)) != ERR_OK) {
        undecodable(c, id, "state record in the history", err);
        both = false;
    }
    if (history->trail.len > 0 && (err = record_trail_get(history->trail, &trail)) != ERR_OK) {
        undecodable(c, id, "trail in the history", err);
    }
    if (both && envelope.recipient_count != state.recipient_count) {
        check_finding(c, id, "in the history its envelope has %lu recipients, its state record %lu",
                      (unsigned long)envelope.recipient_count,
                      (unsigned long)state.recipient_count);
    }
}

static void judge_history(struct check *c, const struct found *f)
{
    struct slice bytes;
    struct record_history history;
    if (!f->has[STREAM_HISTORY]) {
        return;
    }
    c->out->history++;
    c->totals.history_count++;
    c->totals.history_bytes += f->streams[STREAM_HISTORY].value.mv_size;
    if (is_message(f)) {
        check_finding(c, &f->id, "it is in the queue and in the history too");
    }
    if (unsealed(c, f, STREAM_HISTORY, &bytes)) {
        enum err err = record_history_get(bytes, &history);
        if (err == ERR_OK) {
            judge_history_parts(c, &f->id, &history);
        } else {
            undecodable(c, &f->id, "history record", err);
        }
    }
}

/* A queued message that the index does not know would never be tried. */
static void judge_due(struct check *c, const struct found *f)
{
    uint8_t key[STORE_DUE_KEY_BYTES];
    if (!f->state_sound || !f->standing.indexed) {
        return;
    }
    store_due_key(key, f->standing.route, f->standing.due_q, &f->id);
    MDB_val mdb_key = store_val(slice_of(key, sizeof key));
    MDB_val value;
    int code = mdb_get(c->txn, c->store.dbs[STORE_DB_DUE], &mdb_key, &value);
    if (code != MDB_SUCCESS) {
        check_finding(c, &f->id, "it is %s, but the due index has no entry for that",
                      message_state_word(f->state.state));
    }
}

/*
 * ---- bodies ----
 */

/* One chunk: whether it is whole, and whether it follows the one before. */
static void judge_chunk(struct check *c, const struct found *f, struct body *body)
{
    const struct stream *s = &f->streams[STREAM_CHUNK];
    const uint8_t *key = s->key.mv_data;
    uint32_t index = be32_get(key + MSG_ID_BYTES);
    size_t bytes = s->value.mv_size - size_min(s->value.mv_size, STORE_CHUNK_HEAD_BYTES);
    if (index != body->chunks || body->bytes != (uint64_t)body->chunks * c->store.chunk_bytes) {
        check_finding(c, &f->id, "chunk %lu of its body does not follow the one before it",
                      (unsigned long)index);
        body->sound = false;
    }
    body->chunks = index == UINT32_MAX ? index : index + 1;
    body->bytes = (uint64_t)index * c->store.chunk_bytes + bytes;
    enum err err = ERR_DAMAGED;
    struct buf content;
    buf_init(&content, c->content, c->store.chunk_bytes);
    if (bytes > 0 && bytes <= c->store.chunk_bytes) {
        err = store_chunk_read(&c->store, c->txn, c->scratch, &f->id, index, bytes, 0, &content);
    }
    if (err != ERR_OK) {
        check_finding(c, &f->id, "chunk %lu of its body cannot be used: %s", (unsigned long)index,
                      err_text(err));
        body->sound = false;
        return;
    }
    body->crc = crc32c(body->crc, buf_slice(&content));
}

/* Bytes of the body that a damaged envelope does not tell, and the seal of each chunk. */
static void walk_chunks(struct check *c, struct found *f, struct body *body, uint64_t *out_held)
{
    struct stream *s = &f->streams[STREAM_CHUNK];
    *out_held = 0;
    while (stream_is_at(s, &f->id)) {
        c->out->chunks++;
        *out_held += s->value.mv_size - size_min(s->value.mv_size, STORE_CHUNK_HEAD_BYTES);
        judge_chunk(c, f, body);
        stream_next(c, s);
    }
}

/* How many pieces a body of so many bytes was handed over in: the last one may have been empty. */
static bool pieces_fit(const struct check *c, uint64_t bytes, uint64_t pieces)
{
    uint64_t full = bytes / c->store.piece_bytes;
    return pieces == full + 1 || (pieces == full && bytes % c->store.piece_bytes == 0);
}

static void judge_body(struct check *c, const struct found *f, const struct body *body)
{
    const struct record_envelope *envelope = &f->envelope;
    if (!pieces_fit(c, envelope->body_bytes, envelope->chunk_count)) {
        check_finding(c, &f->id, "its envelope says %llu bytes in %lu pieces",
                      (unsigned long long)envelope->body_bytes,
                      (unsigned long)envelope->chunk_count);
    }
    if (body->bytes != envelope->body_bytes) {
        check_finding(c, &f->id, "its body has %llu bytes, its envelope says %llu",
                      (unsigned long long)body->bytes, (unsigned long long)envelope->body_bytes);
    } else if (body->sound && body->crc != envelope->body_crc) {
        check_finding(c, &f->id, "the checksum of its whole body does not fit");
    }
}

static void judge_intake(struct check *c, const struct found *f, const struct body *body)
{
    struct slice bytes;
    if (is_message(f) || f->has[STREAM_HISTORY]) {
        check_finding(c, &f->id, "it is listed as being received still, but has been taken");
    }
    if (!unsealed(c, f, STREAM_INTAKE, &bytes)) {
        return;
    }
    if (bytes.len != INTAKE_BYTES) {
        undecodable(c, &f->id, "entry as being received", ERR_DAMAGED);
        return;
    }
    uint64_t total = be64_get(bytes.data + 4);
    if (total != body->bytes || !pieces_fit(c, total, be32_get(bytes.data))) {
        check_finding(c, &f->id,
                      "of what is being received %llu bytes are there, and %llu in %lu pieces are "
                      "listed",
                      (unsigned long long)body->bytes, (unsigned long long)total,
                      (unsigned long)be32_get(bytes.data));
    }
}

static void judge_chunks(struct check *c, struct found *f)
{
    struct body body = {.sound = true};
    uint64_t held = 0;
    walk_chunks(c, f, &body, &held);
    if (f->envelope_sound) {
        c->totals.body_bytes += f->envelope.body_bytes;
        judge_body(c, f, &body);
    } else if (f->has[STREAM_ENVELOPE]) {
        c->totals.body_bytes += held;
    }
    if (f->has[STREAM_INTAKE]) {
        judge_intake(c, f, &body);
    } else if (f->has[STREAM_CHUNK] && !is_message(f)) {
        check_finding(c, &f->id, "%lu chunks are there that belong to no message",
                      (unsigned long)body.chunks);
    }
}

/*
 * ---- all of them ----
 */

static void judge(struct check *c, struct stream *streams, const struct msg_id *id)
{
    struct found f = {.id = *id, .streams = streams};
    for (size_t index = 0; index < STREAM_COUNT; index++) {
        f.has[index] = stream_is_at(&streams[index], id);
    }
    if (f.has[STREAM_ENVELOPE] || f.has[STREAM_INTAKE] || f.has[STREAM_HISTORY]) {
        c->totals.last_id = u64_max(c->totals.last_id, msg_id_time_and_sequence(id));
    }
    judge_envelope(c, &f);
    judge_state(c, &f);
    if (is_message(&f)) {
        c->out->messages++;
        judge_pair(c, &f);
    }
    judge_due(c, &f);
    judge_trail(c, &f);
    judge_history(c, &f);
    judge_chunks(c, &f);
    for (size_t index = 0; index < STREAM_CHUNK; index++) {
        if (f.has[index]) {
            stream_next(c, &streams[index]);
        }
    }
}

void check_messages(struct check *c)
{
    struct stream streams[STREAM_COUNT] = {
        [STREAM_ENVELOPE] = {.db = STORE_DB_ENVELOPE, .key_bytes = MSG_ID_BYTES},
        [STREAM_STATE] = {.db = STORE_DB_STATE, .key_bytes = MSG_ID_BYTES},
        [STREAM_TRAIL] = {.db = STORE_DB_TRAIL, .key_bytes = MSG_ID_BYTES},
        [STREAM_INTAKE] = {.db = STORE_DB_INTAKE, .key_bytes = MSG_ID_BYTES},
        [STREAM_HISTORY] = {.db = STORE_DB_HISTORY, .key_bytes = MSG_ID_BYTES},
        [STREAM_CHUNK] = {.db = STORE_DB_CHUNK, .key_bytes = STORE_CHUNK_KEY_BYTES},
    };
    enum err err = ERR_OK;
    for (size_t index = 0; index < STREAM_COUNT && err == ERR_OK; index++) {
        struct stream *s = &streams[index];
        err = store_err(mdb_cursor_open(c->txn, c->store.dbs[s->db], &s->cursor));
        if (err == ERR_OK) {
            stream_next(c, s);
        }
    }
    struct msg_id id;
    while (err == ERR_OK && c->stopped == ERR_OK && lowest(streams, &id)) {
        judge(c, streams, &id);
    }
    for (size_t index = 0; index < STREAM_COUNT; index++) {
        if (streams[index].cursor != NULL) {
            mdb_cursor_close(streams[index].cursor);
        }
    }
    if (err != ERR_OK) {
        c->stopped = err;
    }
}
