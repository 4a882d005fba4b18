/*
 * What tls_policy.c, tls_session.c and tls_verify.c share. Not for anybody outside daemon/tls.
 *
 * The calls used are those that OpenSSL 1.1.1 and 3.x have in common.
 */
#ifndef TASUKI_TLS_TLS_INTERNAL_H
#define TASUKI_TLS_TLS_INTERNAL_H

#include "daemon/base/buf.h"
#include "daemon/tls/tls.h"

#include <openssl/ssl.h>
#include <stdatomic.h>

#define TLS_PROBLEM_BYTES     384
#define TLS_FINGERPRINT_BYTES 32 /* SHA-256 */

/*
 * Shared by the threads; nothing but users changes after it was made. A session holds it, so that
 * one from before a reload ends in peace.
 */
struct tls_policy {
    SSL_CTX *context; /* owned */
    atomic_uint users;
    bool server;
    bool pinned; /* fingerprint decides, and nothing else */
    enum tls_verify verify;
    uint8_t fingerprint[TLS_FINGERPRINT_BYTES];
};

/* Why a session failed: the first reason found, since what follows is only its consequence. An
 * SSL's app data points at it. */
struct tls_verdict {
    enum tls_failure failure;
    const struct tls_policy *policy; /* borrowed from the session */
    const char *server_name;         /* borrowed from the session */
    char problem[TLS_PROBLEM_BYTES];
};

/* Last step of a policy's life, for whoever lets go of it last. */
void tls_policy_release(struct tls_policy *policy);

/* Judges one certificate of the chain; for SSL_CTX_set_verify. */
int tls_verify_chain(int good, X509_STORE_CTX *store);
/* Judges by fingerprint alone, and takes any; for SSL_CTX_set_cert_verify_callback. */
int tls_verify_pinned(X509_STORE_CTX *store, void *unused);
int tls_verify_any(X509_STORE_CTX *store, void *unused);

/* Writes the words once; later ones are dropped. */
void tls_verdict_set(struct tls_verdict *verdict, enum tls_failure failure, const char *words);
/* The same, with words for what stands in the library's error queue. */
void tls_verdict_set_by_queue(struct tls_verdict *verdict);

/* How the sessions' ciphertext reaches the library; made once by tls_library_init. */
BIO_METHOD *tls_session_bio_new(void);
extern BIO_METHOD *tls_session_bio;
/* Counts what a peer sends after the handshake; for SSL_CTX_set_msg_callback. */
void tls_session_saw_message(int sent, int version, int type, const void *data, size_t bytes,
                             SSL *ssl, void *session);

#endif
