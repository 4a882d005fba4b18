/*
 * Sessions: an SSL between two buffers of ours.
 *
 *     tls_feed -> in -> [library] -> tls_read          tls_write -> [library] -> out -> tls_output
 *
 * The library reads and writes both through one BIO (below), which never says "end": whether the
 * stream ended is our knowledge, and told apart from close_notify here, the same way under every
 * version of the library.
 *
 * Invariants: out never exceeds OUT_BYTES_MAX, in never IN_BYTES_MAX. Both are freed whenever they
 * are empty, and the library frees its own (SSL_MODE_RELEASE_BUFFERS), so that an idle session
 * costs little. The library's error queue belongs to the thread, not to the session: it is emptied
 * before each call, and after a failed one.
 */
#include "daemon/base/num.h"
#include "daemon/tls/tls_internal.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdlib.h>

#define OUT_BYTES_MAX      65536
#define IN_BYTES_MAX       262144 /* a caller that reads before it feeds again stays far below */
#define BUFFER_BYTES_MIN   4096
#define RECORD_BYTES_MAX   16384 /* plaintext; RFC 8446 5.1 */
#define RECORD_OVERHEAD    128   /* header, IV, padding and MAC: 85 with AES-CBC and SHA-384 */
#define RECORD_WORTH_BYTES 4096  /* a shorter piece of more waits until the output is sent */
#define CONTROL_RESERVE    512   /* what tls_write leaves for close_notify, alerts, a key update */
#define CONTROL_COUNT_MAX  128   /* tickets and key updates of one peer after the handshake */

_Static_assert(OUT_BYTES_MAX >= RECORD_BYTES_MAX + RECORD_OVERHEAD + CONTROL_RESERVE,
               "a whole record fits into the empty output");

BIO_METHOD *tls_session_bio;

/* bytes[start .. start + len) are in use; NULL when there are none. */
struct fifo {
    uint8_t *bytes; /* owned */
    size_t start;
    size_t len;
    size_t cap;
};

struct tls {
    SSL *ssl; /* owned */
    enum tls_state state;
    bool input_ended; /* the peer's stream is over; what is in `in` is all there will be */
    bool said_goodbye;
    uint16_t control_count;
    struct fifo in;
    struct fifo out;
    struct tls_verdict verdict;
    char server_name[TLS_NAME_BYTES_MAX + 1];
    char description[64];
};

/* ---- buffers ---- */

static void fifo_release(struct fifo *f)
{
    free(f->bytes);
    *f = (struct fifo){0};
}

/* Makes room for count bytes behind those in use. */
static bool fifo_reserve(struct fifo *f, size_t count)
{
    size_t need = f->len + count;
    if (f->start + need <= f->cap) {
        return true;
    }
    if (need <= f->cap) {
        memmove(f->bytes, f->bytes + f->start, f->len);
        f->start = 0;
        return true;
    }
    size_t cap = f->cap < BUFFER_BYTES_MIN ? BUFFER_BYTES_MIN : f->cap;
    while (cap < need) {
        cap *= 2;
    }
    uint8_t *bytes = malloc(cap);
    if (bytes == NULL) {
        return false;
    }
    if (f->len > 0) {
        memcpy(bytes, f->bytes + f->start, f->len);
    }
    free(f->bytes);
    *f = (struct fifo){.bytes = bytes, .len = f->len, .cap = cap};
    return true;
}

static bool fifo_put(struct fifo *f, struct slice bytes)
{
    if (bytes.len == 0) {
        return true;
    }
    if (!fifo_reserve(f, bytes.len)) {
        return false;
    }
    memcpy(f->bytes + f->start + f->len, bytes.data, bytes.len);
    f->len += bytes.len;
    return true;
}

static void fifo_drop(struct fifo *f, size_t count)
{
    f->start += count;
    f->len -= count;
    if (f->len == 0) {
        f->start = 0;
    }
}

/* ---- the library's side of them ---- */

static int bio_read(BIO *bio, char *to, int cap)
{
    struct tls *t = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    if (cap <= 0 || t->control_count > CONTROL_COUNT_MAX) {
        return -1;
    }
    if (t->in.len == 0) {
        BIO_set_retry_read(bio);
        return -1;
    }
    size_t count = size_min(t->in.len, (size_t)cap);
    memcpy(to, t->in.bytes + t->in.start, count);
    fifo_drop(&t->in, count);
    return (int)count;
}

static int bio_write(BIO *bio, const char *from, int bytes)
{
    struct tls *t = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    if (bytes <= 0) {
        return 0;
    }
    size_t count = size_min((size_t)bytes, OUT_BYTES_MAX - t->out.len);
    if (count == 0) {
        BIO_set_retry_write(bio);
        return -1;
    }
    if (!fifo_put(&t->out, slice_of(from, count))) {
        tls_verdict_set(&t->verdict, TLS_FAILURE_MEMORY, "out of memory");
        return -1;
    }
    return (int)count;
}

static long bio_ctrl(BIO *bio, int command, long number, void *pointer)
{
    (void)bio, (void)number, (void)pointer;
    return command == BIO_CTRL_FLUSH ? 1 : 0;
}

static int bio_create(BIO *bio)
{
    BIO_set_init(bio, 1);
    return 1;
}

BIO_METHOD *tls_session_bio_new(void)
{
    int index = BIO_get_new_index();
    BIO_METHOD *method = index < 0 ? NULL : BIO_meth_new(index | BIO_TYPE_SOURCE_SINK, "tasuki");
    if (method == NULL || BIO_meth_set_read(method, bio_read) != 1 ||
        BIO_meth_set_write(method, bio_write) != 1 || BIO_meth_set_ctrl(method, bio_ctrl) != 1 ||
        BIO_meth_set_create(method, bio_create) != 1) {
        BIO_meth_free(method);
        return NULL;
    }
    return method;
}

/*
 * The library answers key updates and takes tickets without an end; each costs us more than the
 * peer. When one has sent more than any real server would, bio_read stops giving.
 */
void tls_session_saw_message(int sent, int version, int type, const void *data, size_t bytes,
                             SSL *ssl, void *session)
{
    (void)version, (void)data, (void)bytes, (void)ssl;
    struct tls *t = session;
    if (t != NULL && sent == 0 && type == SSL3_RT_HANDSHAKE && t->state != TLS_HANDSHAKING &&
        t->control_count <= CONTROL_COUNT_MAX) {
        t->control_count++;
    }
}

/* ---- state ---- */

static void fail(struct tls *t, enum tls_failure failure, const char *words)
{
    tls_verdict_set(&t->verdict, failure, words);
    /* A server that cannot take sessions up, though it should say so, is not asked to again. */
    bool cut_off_in_peace = failure == TLS_FAILURE_TRUNCATED && t->state != TLS_HANDSHAKING;
    if (t->verdict.policy->tickets != NULL && !cut_off_in_peace) {
        tls_tickets_drop(t->verdict.policy->tickets, t->server_name);
    }
    t->state = TLS_FAILED;
    fifo_release(&t->in);
    ERR_clear_error();
}

static void fail_by_library(struct tls *t)
{
    if (t->control_count > CONTROL_COUNT_MAX) {
        fail(t, TLS_FAILURE_HANDSHAKE, "the other side keeps changing keys");
        return;
    }
    tls_verdict_set_by_queue(&t->verdict);
    fail(t, TLS_FAILURE_HANDSHAKE, "TLS failed");
}

static void fail_truncated(struct tls *t)
{
    fail(t, TLS_FAILURE_TRUNCATED,
         t->state == TLS_HANDSHAKING ? "the connection was closed in the middle of the handshake"
                                     : "the connection was cut off without a goodbye");
}

/* What a call to the library that did not succeed means. */
static void judge(struct tls *t, int result)
{
    switch (SSL_get_error(t->ssl, result)) {
    case SSL_ERROR_WANT_READ:
        if (t->input_ended && t->in.len == 0) {
            fail_truncated(t);
        }
        break;
    case SSL_ERROR_WANT_WRITE:
        break;
    case SSL_ERROR_ZERO_RETURN:
        if (t->state == TLS_HANDSHAKING) {
            fail(t, TLS_FAILURE_HANDSHAKE, "the other side ended TLS in the middle of it");
        } else {
            t->state = TLS_PEER_DONE;
            fifo_release(&t->in);
        }
        break;
    default:
        fail_by_library(t);
        break;
    }
}

static void handshake_advance(struct tls *t)
{
    ERR_clear_error();
    int result = SSL_do_handshake(t->ssl);
    if (result != 1) {
        judge(t, result);
        return;
    }
    struct buf text;
    buf_init(&text, t->description, sizeof t->description - 1);
    buf_put_str(&text, SSL_get_version(t->ssl));
    buf_put_byte(&text, ' ');
    buf_put_str(&text, SSL_get_cipher_name(t->ssl));
    buf_put_str(&text, SSL_session_reused(t->ssl) != 0 ? " resumed" : "");
    t->description[text.len] = '\0';
    t->state = TLS_OPEN;
}

/* ---- making and freeing ---- */

/*
 * Takes the name without brackets, a zone, or the final dot. A leading dot would make the library
 * match any host below it, and what is not printable ASCII is no host name.
 */
static bool take_server_name(struct tls *t, const char *server_name, bool *out_literal)
{
    struct slice name = slice_from_str(server_name);
    uint8_t address[sizeof(struct in6_addr)];
    if (name.len >= 2 && name.data[0] == '[' && name.data[name.len - 1] == ']') {
        name = slice_of(name.data + 1, name.len - 2);
    }
    name = slice_head(name, slice_find(name, '%'));
    if (name.len > 1 && name.data[name.len - 1] == '.') {
        name.len--;
    }
    if (name.len > TLS_NAME_BYTES_MAX || (name.len > 0 && name.data[0] == '.')) {
        return false;
    }
    for (size_t index = 0; index < name.len; index++) {
        if (name.data[index] <= ' ' || name.data[index] >= 0x7f) {
            return false;
        }
    }
    memcpy(t->server_name, name.data, name.len);
    t->server_name[name.len] = '\0';
    *out_literal = inet_pton(AF_INET, t->server_name, address) == 1 ||
                   inet_pton(AF_INET6, t->server_name, address) == 1;
    return true;
}

/* Without one, or without memory for it, it is a full handshake; also when the server refuses. */
static void offer_ticket(struct tls *t, const struct tls_policy *policy)
{
    SSL_SESSION *session =
        tls_tickets_take(policy->tickets, t->ssl, t->server_name, &t->verdict.verified_until_s);
    if (session != NULL) {
        (void)SSL_set_session(t->ssl, session); /* has its own hold on it */
        SSL_SESSION_free(session);
    }
}

/* SNI is for names only: RFC 6066 3. */
static enum err client_prepare(struct tls *t, const struct tls_policy *policy, bool literal)
{
    char *name = t->server_name; /* not const: the library's macro casts it away */
    bool verified = policy->verify == TLS_VERIFY_FULL && !policy->pinned;
    if (verified && name[0] == '\0') {
        return ERR_SYNTAX;
    }
    if (name[0] != '\0' && !literal && SSL_set_tlsext_host_name(t->ssl, name) != 1) {
        return ERR_NO_MEMORY;
    }
    if (verified) {
        SSL_set_hostflags(t->ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS |
                                      X509_CHECK_FLAG_NEVER_CHECK_SUBJECT);
        int set = literal ? X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(t->ssl), name)
                          : SSL_set1_host(t->ssl, name);
        if (set != 1) {
            return ERR_NO_MEMORY;
        }
    }
    SSL_set_connect_state(t->ssl);
    offer_ticket(t, policy);
    return ERR_OK;
}

static enum err session_prepare(struct tls *t, struct tls_policy *policy, const char *server_name)
{
    bool literal = false;
    if (!take_server_name(t, server_name, &literal)) {
        return ERR_SYNTAX;
    }
    BIO *bio = BIO_new(tls_session_bio);
    if (bio == NULL) {
        return ERR_NO_MEMORY;
    }
    BIO_set_data(bio, t);
    t->ssl = tls_policy_ssl_new(policy);
    if (t->ssl == NULL) {
        BIO_free(bio);
        return ERR_NO_MEMORY;
    }
    SSL_set_bio(t->ssl, bio, bio);
    if (SSL_set_app_data(t->ssl, &t->verdict) != 1) {
        return ERR_NO_MEMORY;
    }
    SSL_set_msg_callback_arg(t->ssl, t);
    if (!policy->server) {
        return client_prepare(t, policy, literal);
    }
    SSL_set_accept_state(t->ssl);
    return ERR_OK;
}

enum err tls_new(struct tls **out, struct tls_policy *policy, const char *server_name)
{
    struct tls *t = calloc(1, sizeof *t);
    if (t == NULL) {
        return ERR_NO_MEMORY;
    }
    atomic_fetch_add_explicit(&policy->users, 1, memory_order_relaxed);
    t->verdict.policy = policy;
    t->verdict.server_name = t->server_name;
    ERR_clear_error();
    enum err err = session_prepare(t, policy, server_name);
    if (err != ERR_OK) {
        ERR_clear_error();
        tls_free(&t);
        return err;
    }
    if (!policy->server) {
        handshake_advance(t);
    }
    *out = t;
    return ERR_OK;
}

void tls_free(struct tls **tls)
{
    struct tls *t = *tls;
    if (t == NULL) {
        return;
    }
    /* The policy is only borrowed as const by the verdict; the hold on it is this session's. */
    struct tls_policy *policy = (struct tls_policy *)(uintptr_t)t->verdict.policy;
    SSL_free(t->ssl);
    fifo_release(&t->in);
    fifo_release(&t->out);
    free(t);
    tls_policy_release(policy);
    *tls = NULL;
}

/* ---- bytes ---- */

void tls_feed(struct tls *t, struct slice ciphertext)
{
    if (t->state == TLS_FAILED || t->state == TLS_PEER_DONE || t->input_ended) {
        return;
    }
    if (ciphertext.len > IN_BYTES_MAX - t->in.len || !fifo_put(&t->in, ciphertext)) {
        fail(t, TLS_FAILURE_MEMORY, "no room for what the other side sends");
        return;
    }
    if (t->state == TLS_HANDSHAKING) {
        handshake_advance(t);
    }
}

void tls_feed_end(struct tls *t)
{
    t->input_ended = true;
    if (t->state == TLS_HANDSHAKING) {
        handshake_advance(t);
    } else if (t->state == TLS_OPEN && t->in.len == 0 && SSL_has_pending(t->ssl) == 0) {
        fail_truncated(t);
    }
}

size_t tls_read(struct tls *t, uint8_t *to, size_t cap)
{
    size_t count = 0;
    if (t->state != TLS_OPEN || cap == 0) {
        return 0;
    }
    ERR_clear_error();
    int result = SSL_read_ex(t->ssl, to, cap, &count);
    if (result != 1) {
        count = 0;
        judge(t, result);
    }
    if (t->in.len == 0) {
        fifo_release(&t->in);
    }
    return count;
}

/* How much of left the next record may carry; 0 when it should wait. */
static size_t record_bytes(const struct tls *t, size_t left)
{
    size_t used = t->out.len + CONTROL_RESERVE + RECORD_OVERHEAD;
    if (used >= OUT_BYTES_MAX) {
        return 0;
    }
    size_t count = size_min(size_min(left, RECORD_BYTES_MAX), OUT_BYTES_MAX - used);
    return count < left && count < RECORD_WORTH_BYTES ? 0 : count;
}

size_t tls_write(struct tls *t, struct slice plaintext)
{
    size_t done = 0;
    if ((t->state != TLS_OPEN && t->state != TLS_PEER_DONE) || t->said_goodbye) {
        return 0;
    }
    while (done < plaintext.len) {
        size_t written = 0;
        size_t count = record_bytes(t, plaintext.len - done);
        if (count == 0) {
            break;
        }
        ERR_clear_error();
        int result = SSL_write_ex(t->ssl, plaintext.data + done, count, &written);
        if (result != 1) {
            judge(t, result);
            break;
        }
        done += written;
    }
    return done;
}

void tls_shutdown(struct tls *t)
{
    if ((t->state != TLS_OPEN && t->state != TLS_PEER_DONE) || t->said_goodbye) {
        return;
    }
    t->said_goodbye = true;
    ERR_clear_error();
    int result = SSL_shutdown(t->ssl);
    if (result < 0) {
        judge(t, result);
    }
}

struct slice tls_output(const struct tls *t)
{
    return t->out.len == 0 ? slice_of(NULL, 0) : slice_of(t->out.bytes + t->out.start, t->out.len);
}

void tls_output_done(struct tls *t, size_t count)
{
    CHECK(count <= t->out.len);
    fifo_drop(&t->out, count);
    if (t->out.len == 0) {
        fifo_release(&t->out);
    }
    /* A flight of more than the output holds waits for this. */
    if (t->state == TLS_HANDSHAKING && count > 0 && SSL_want_write(t->ssl)) {
        handshake_advance(t);
    }
}

/* ---- questions ---- */

enum tls_state tls_state(const struct tls *t)
{
    return t->state;
}

enum tls_failure tls_failure(const struct tls *t)
{
    return t->state == TLS_FAILED ? t->verdict.failure : TLS_FAILURE_NONE;
}

const char *tls_problem(const struct tls *t)
{
    return t->state == TLS_FAILED ? t->verdict.problem : "";
}

bool tls_resumed(const struct tls *t)
{
    return t->state != TLS_HANDSHAKING && SSL_session_reused(t->ssl) != 0;
}

const char *tls_describe(const struct tls *t)
{
    return t->description;
}
