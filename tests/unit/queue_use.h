/*
 * What the tests of several upstreams add to the rig: upstreams by their `use`, messages from and
 * to whomever, and the log's lines. Upstreams are called u0, u1, ...
 */
#ifndef TASUKI_TESTS_UNIT_QUEUE_USE_H
#define TASUKI_TESTS_UNIT_QUEUE_USE_H

#include "tests/unit/queue_rig.h"

#include "daemon/config/config_private.h"

#define LOG_BYTES (1u << 20)

static char log_text[LOG_BYTES];
static size_t log_bytes;
static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;

static UNUSED void keep_line(void *ctx, enum log_level level, struct slice line)
{
    (void)ctx;
    (void)level;
    pthread_mutex_lock(&log_lock);
    if (log_bytes + line.len < sizeof log_text) {
        memcpy(log_text + log_bytes, line.data, line.len);
        log_bytes += line.len;
    }
    log_text[log_bytes] = '\0';
    pthread_mutex_unlock(&log_lock);
}

/* How often this was logged. */
static UNUSED uint32_t events(struct fixture *f, const char *words)
{
    uint32_t count = 0;
    (void)settled(f);
    pthread_mutex_lock(&log_lock);
    for (const char *at = strstr(log_text, words); at != NULL; at = strstr(at + 1, words)) {
        count++;
    }
    pthread_mutex_unlock(&log_lock);
    return count;
}

static UNUSED int setup_use(void **state)
{
    int result = setup(state);
    struct fixture *f = *state;
    f->log.write = keep_line;
    log_bytes = 0;
    log_text[0] = '\0';
    return result;
}

static UNUSED void named(struct fixture *f, uint32_t at, const char *name, const char *use)
{
    static struct config_errors errors;
    const struct config_value value = {.setting = &config_settings[CONFIG_ROW_UPSTREAM_use],
                                       .key = "use",
                                       .text = slice_from_str(use),
                                       .errors = &errors};
    upstream_config(&f->config->upstreams[at], name);
    assert_true(config_use_judge(&value, &f->config->upstreams[at].use));
    f->config->upstream_count = f->config->upstream_count > at ? f->config->upstream_count : at + 1;
}

/* One for each, up to NULL. */
static UNUSED void upstreams(struct fixture *f, const char *const *uses)
{
    char name[8];
    f->config->upstream_count = 0;
    for (uint32_t at = 0; uses[at] != NULL; at++) {
        snprintf(name, sizeof name, "u%u", (unsigned)at);
        named(f, at, name, uses[at]);
    }
}

/* ---- messages ---- */

#define SOME_RECIPIENTS 8

/* A message in the making. */
struct letter {
    struct client client;
    const char *from;
    struct record_rcpt to[SOME_RECIPIENTS];
    uint32_t count;
    uint32_t pieces; /* full ones; then come `rest` bytes */
    size_t rest;
    uint64_t bytes;
    uint32_t crc;
};

static uint8_t letter_bytes[BODY_CHUNK_BYTES_MAX];

/* Each piece is another one. */
static UNUSED struct slice letter_piece(uint32_t index, size_t bytes)
{
    for (size_t at = 0; at < bytes; at++) {
        letter_bytes[at] = (uint8_t)(sched_mix((uint64_t)index << 32 | at / 8) >> at % 8 * 8);
    }
    return slice_of(letter_bytes, bytes);
}

static UNUSED void letter_to(struct letter *l, const char *path)
{
    assert_true(l->count < SOME_RECIPIENTS);
    l->to[l->count++] = (struct record_rcpt){.path = slice_from_str(path)};
}

/* Sends what goes before the end; the first answer that is none of ERR_OK, or that. */
static UNUSED enum err letter_pieces(struct fixture *f, struct letter *l)
{
    struct client *c = &l->client;
    enum err err = ERR_OK;
    c->intake.id = msg_id_make(++f->ids, 1);
    l->bytes = l->crc = 0;
    for (uint32_t at = 0; err == ERR_OK && at < l->pieces; at++) {
        struct slice piece = letter_piece(at, store_piece_bytes(f->store));
        l->bytes += piece.len;
        l->crc = crc32c(l->crc, piece);
        c->intake.piece_index = at;
        c->intake.body_bytes = l->bytes;
        client_send(f, c, FLOW_INTAKE_APPEND, piece);
        assert_ptr_equal(box_wait(&f->clients, FLOW_INTAKE), &c->intake.msg);
        err = c->intake.result;
    }
    return err;
}

static UNUSED void letter_end(struct fixture *f, struct letter *l)
{
    struct client *c = &l->client;
    struct slice piece = letter_piece(l->pieces, l->rest);
    struct buf list, envelope;
    l->bytes += piece.len;
    l->crc = crc32c(l->crc, piece);
    buf_init(&list, c->recipients_memory, sizeof c->recipients_memory);
    for (uint32_t at = 0; at < l->count; at++) {
        record_rcpt_put(&list, &l->to[at]);
    }
    struct record_envelope e = {
        .arrived_ms = 1,
        .body_bytes = l->bytes,
        .chunk_count = l->pieces + (l->rest > 0),
        .body_crc = l->crc,
        .recipient_count = l->count,
        .flags = RECORD_FLAG_8BITMIME,
        .client = SLICE("192.0.2.1"),
        .helo = SLICE("printer"),
        .subject = SLICE("scan"),
        .sender = slice_from_str(l->from),
        .envid = SLICE("QQ314159"),
        .recipients = buf_slice(&list),
    };
    buf_init(&envelope, c->envelope_memory, sizeof c->envelope_memory);
    record_envelope_put(&envelope, &e);
    assert_false(envelope.overflow || list.overflow);
    c->intake.piece_index = l->pieces;
    c->intake.envelope = buf_slice(&envelope);
    c->intake.sender = e.sender;
    c->intake.recipient_count = l->count;
    c->intake.body_bytes = l->bytes;
    client_send(f, c, FLOW_INTAKE_COMMIT, piece);
}

static UNUSED enum err letter_send(struct fixture *f, struct letter *l)
{
    enum err err = letter_pieces(f, l);
    if (err != ERR_OK) {
        return err;
    }
    letter_end(f, l);
    assert_ptr_equal(box_wait(&f->clients, FLOW_INTAKE), &l->client.intake.msg);
    return l->client.intake.result;
}

static UNUSED struct msg_id accept_from(struct fixture *f, const char *from, const char *to)
{
    static struct letter l;
    l = (struct letter){.from = from, .rest = 20};
    letter_to(&l, to);
    assert_int_equal(letter_send(f, &l), ERR_OK);
    return l.client.intake.id;
}

/* ---- what came of them ---- */

static UNUSED void assert_route(struct fixture *f, struct msg_id id, const char *upstream)
{
    struct on_disk m;
    read_message(f, id, &m);
    assert_int_equal(m.err, ERR_OK);
    if (!slice_equal(m.state.upstream, slice_from_str(upstream))) {
        fail_msg("by %.*s, not %s", (int)m.state.upstream.len, (const char *)m.state.upstream.data,
                 upstream);
    }
    assert_int_equal(m.state.route, record_route(m.state.upstream));
}

static UNUSED uint32_t route_index(struct fixture *f, struct msg_id id)
{
    struct on_disk m;
    read_message(f, id, &m);
    assert_int_equal(m.err, ERR_OK);
    uint32_t at = 0;
    while (!slice_equal(m.state.upstream, slice_from_str(f->config->upstreams[at].name))) {
        at++;
        assert_true(at < f->config->upstream_count);
    }
    return at;
}

static UNUSED void read_trail(struct fixture *f, struct msg_id id,
                              uint8_t memory[RECORD_TRAIL_BYTES_MAX], struct record_trail *out)
{
    struct buf to;
    buf_init(&to, memory, RECORD_TRAIL_BYTES_MAX);
    assert_int_equal(store_read_trail(f->reader, &id, &to), ERR_OK);
    assert_int_equal(record_trail_get(buf_slice(&to), out), ERR_OK);
}

/* The next that any worker hears, whatever it is. */
static UNUSED struct flow_msg *workers_any(struct fixture *f)
{
    for (;;) {
        struct pollfd bells[WORKER_COUNT];
        for (size_t at = 0; at < WORKER_COUNT; at++) {
            struct box *b = &f->workers[at];
            box_look(b);
            if (b->first != NULL) {
                struct flow_msg *msg = b->first;
                b->first = msg->next;
                return msg;
            }
            bells[at] = (struct pollfd){.fd = b->fd, .events = POLLIN};
        }
        assert_true(poll(bells, WORKER_COUNT, PATIENCE_MS) > 0);
        for (size_t at = 0; at < WORKER_COUNT; at++) {
            uint64_t rings;
            (void)!read(f->workers[at].fd, &rings, sizeof rings);
        }
    }
}

#endif
