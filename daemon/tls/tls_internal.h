/*
 * What the files of daemon/tls share. Not for anybody outside daemon/tls.
 *
 * The calls used are those that OpenSSL 1.1.1 and 3.x have in common.
 */
#ifndef TASUKI_TLS_TLS_INTERNAL_H
#define TASUKI_TLS_TLS_INTERNAL_H

#include "daemon/base/buf.h"
#include "daemon/tls/tls.h"

#include <openssl/ssl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#define TLS_PROBLEM_BYTES     384
#define TLS_FINGERPRINT_BYTES 32    /* SHA-256 */
#define TLS_NAME_BYTES_MAX    253   /* RFC 1035 2.3.4, as text without the final dot */
#define TLS_TICKETS_MAX       8     /* of one policy: two for each of its usual connections */
#define TLS_VERIFIED_S_MAX    86400 /* then the certificate is looked at again */

struct tls_ticket {
    SSL_SESSION *session;      /* owned; NULL: the place is free */
    uint64_t from_s, until_s;  /* when it may be used, wall clock */
    uint64_t verified_until_s; /* for how long the verification that it goes back to holds */
    uint64_t order;            /* grows with each */
    bool single_use;
    char server_name[TLS_NAME_BYTES_MAX + 1];
};

/* Shared by the threads, under its mutex. */
struct tls_tickets {
    pthread_mutex_t mutex;
    const SSL_CTX *context; /* whose sessions they are of; borrowed from the policy */
    uint64_t order;
    struct tls_ticket places[TLS_TICKETS_MAX];
};

/* By which a file is known to be the same as before. */
struct tls_stamp {
    int problem; /* errno, where it cannot be seen */
    uint64_t device, inode, bytes;
    struct timespec modified, changed;
};

/* Of one thread at a time. */
struct tls_authorities {
    char *path;                    /* owned; NULL: the system's directory of hashed names */
    bool given;                    /* in the configuration */
    bool owed;                     /* it could not be read, for a reason that may pass */
    struct tls_stamp seen, judged; /* the file at the last look, and when it was last read */
};

/*
 * Shared by the threads; nothing but users, the tickets and the context changes after it was made,
 * that one with the authorities. A session holds it, so that one from before a reload ends in
 * peace; and the context that it began with.
 */
struct tls_policy {
    pthread_mutex_t mutex; /* of context, to take hold of it */
    SSL_CTX *context;      /* owned */
    struct tls_authorities authorities;
    atomic_uint users;
    struct tls_tickets *tickets; /* owned; NULL for a server */
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
    uint64_t verified_until_s;       /* of the session that was taken up, or of this one */
    char problem[TLS_PROBLEM_BYTES];
};

/* Last step of a policy's life, for whoever lets go of it last. */
void tls_policy_release(struct tls_policy *policy);

/* A session's, made with the policy's present context. NULL: no memory. */
SSL *tls_policy_ssl_new(struct tls_policy *policy);

/* Wall clock. */
uint64_t tls_wall_s(void);

/* tls_authorities.c. Where they are to be read from; nothing is read. */
MUST_CHECK enum err tls_authorities_init(struct tls_authorities *authorities, const char *ca_file,
                                         char *problem);
void tls_authorities_deinit(struct tls_authorities *authorities);
MUST_CHECK enum err tls_authorities_load(const struct tls_authorities *authorities,
                                         SSL_CTX *context, char *problem);
/* Is the file to be read again? Then what came of it is said to tls_authorities_judge. */
bool tls_authorities_look(struct tls_authorities *authorities);
void tls_authorities_judge(struct tls_authorities *authorities, enum err err);

/* Words into 256 bytes of the caller's. path and reason may be NULL. */
void tls_problem_put(char *problem, const char *words, const char *path, const char *reason);
/* The library's words for its own last trouble. */
const char *tls_queue_reason(void);
/* Can it be opened? Asked first, since the library's queue hides the reason. */
MUST_CHECK enum err tls_file_is_readable(const char *path, const char *what, char *problem);

/* tls_ticket.c. NULL: no memory. */
struct tls_tickets *tls_tickets_new(const SSL_CTX *context);
void tls_tickets_free(struct tls_tickets *tickets);
/* None is left, and from now on they are of sessions with that context. */
void tls_tickets_renew(struct tls_tickets *tickets, const SSL_CTX *context);
/* The newest that ssl may use with that name, the caller's now; NULL: there is none. */
SSL_SESSION *tls_tickets_take(struct tls_tickets *tickets, const SSL *ssl, const char *server_name,
                              uint64_t *out_verified_until_s);
/* Something went wrong with that server: nothing of it is taken up again. RFC 5246 7.2.2. */
void tls_tickets_drop(struct tls_tickets *tickets, const char *server_name);
/* Keeps what a verified server gives; for SSL_CTX_sess_set_new_cb. */
int tls_ticket_came(SSL *ssl, SSL_SESSION *session);

/* How long what a full handshake has just verified may be relied on, wall clock; 0: not at all. */
uint64_t tls_verified_until_s(const SSL *ssl, const struct tls_policy *policy);

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
