/*
 * TLS over memory: ciphertext in, plaintext out, and back. The only home of OpenSSL. No sockets:
 * daemon/stream moves the bytes.
 *
 * A policy (struct tls_policy) is one shared SSL_CTX, loaded at the start, used by any thread. A
 * session is one connection's, of one thread. What was established under one policy is never used
 * under another: a client takes up its earlier sessions with a server of the same name, without
 * seeing its certificate again, for a day at most and never beyond the certificate's end.
 */
#ifndef TASUKI_TLS_TLS_H
#define TASUKI_TLS_TLS_H

#include "daemon/base/check.h"
#include "daemon/base/err.h"
#include "daemon/base/slice.h"

struct tls_policy;
struct tls;

/* Once, before any thread: library start, locking, no engines. */
MUST_CHECK enum err tls_library_init(void);
void tls_library_deinit(void);

enum tls_verify {
    TLS_VERIFY_FULL, /* chain up to a trusted authority, and the name */
    TLS_VERIFY_NONE, /* tls = encrypt: any certificate */
};

struct tls_client_config {
    enum tls_verify verify;
    const char *ca_file;     /* NULL or "": the system's authorities */
    const char *fingerprint; /* NULL or "": none; else SHA-256 of the certificate, hex with or
                                without colons: replaces the chain check */
};

struct tls_server_config {
    const char *certificate_file; /* PEM, chain */
    const char *key_file;
};

/* TLS 1.2 and later, security level 2, no renegotiation, no compression. problem: words for the
 * admin on failure, 256 bytes. */
MUST_CHECK enum err tls_client_policy_new(struct tls_policy **out,
                                          const struct tls_client_config *config, char *problem);
MUST_CHECK enum err tls_server_policy_new(struct tls_policy **out,
                                          const struct tls_server_config *config, char *problem);
void tls_policy_free(struct tls_policy **policy);

/*
 * Looks at the file with a client's authorities, the system's own too, and reads it again when it
 * has changed since, and has been the same for two looks. Sessions that begin later are judged by
 * what it says now; those from before go on, and none of them is taken up. For one caller at a
 * time, who may wait for a disk. *out_read: it was read again. On an error what was read before
 * stays in use, with words in problem (256 bytes): ERR_SYNTAX, those of open and read,
 * ERR_NO_MEMORY. What may pass by itself is tried again at each look; else it is said once for each
 * change.
 */
MUST_CHECK enum err tls_client_policy_refresh(struct tls_policy *policy, bool *out_read,
                                              char *problem);

enum tls_state {
    TLS_HANDSHAKING,
    TLS_OPEN,
    TLS_PEER_DONE, /* close_notify came: no more plaintext */
    TLS_FAILED,    /* final; tls_failure says why */
};

enum tls_failure {
    TLS_FAILURE_NONE,
    TLS_FAILURE_UNTRUSTED, /* unknown authority, self-signed */
    TLS_FAILURE_WRONG_NAME,
    TLS_FAILURE_EXPIRED, /* or not yet valid */
    TLS_FAILURE_FINGERPRINT,
    TLS_FAILURE_HANDSHAKE, /* no common version or cipher, alert, garbage */
    TLS_FAILURE_TRUNCATED, /* the stream ended without close_notify */
    TLS_FAILURE_MEMORY,
};

/* server_name: SNI and the name that is verified (a host name or an address literal); "" for the
 * server side. */
MUST_CHECK enum err tls_new(struct tls **out, struct tls_policy *policy, const char *server_name);
void tls_free(struct tls **tls);

/* Takes ciphertext from the peer (all of it) and moves the handshake on. */
void tls_feed(struct tls *t, struct slice ciphertext);
/* The peer's stream ended. */
void tls_feed_end(struct tls *t);

/* Decrypts up to cap bytes; 0 when there is none now. */
MUST_CHECK size_t tls_read(struct tls *t, uint8_t *to, size_t cap);

/* Encrypts bytes, as many as the output has room for (its bound: 64 KiB of ciphertext); returns how
 * many. 0 before the handshake is done. */
MUST_CHECK size_t tls_write(struct tls *t, struct slice plaintext);

/* Says close_notify, once. */
void tls_shutdown(struct tls *t);

/* Ciphertext to send, borrowed until output_done or the next call; then output_done. */
struct slice tls_output(const struct tls *t);
void tls_output_done(struct tls *t, size_t count);

enum tls_state tls_state(const struct tls *t);
enum tls_failure tls_failure(const struct tls *t);
/* Words for the admin about the failure: "certificate is for mail.example.org, not
 * relay.example.jp". Never NULL. */
const char *tls_problem(const struct tls *t);
/* "TLSv1.3 TLS_AES_256_GCM_SHA384", with " resumed" behind it when an earlier session was taken up.
 * "" before the handshake is done. */
const char *tls_describe(const struct tls *t);
bool tls_resumed(const struct tls *t);

#endif
