/*
 * Policies: one SSL_CTX each, with every setting that is not a single connection's.
 *
 * A client takes up earlier sessions, but only its policy's own: see tls_ticket.c (tickets that
 * outlive a change of the authorities are how verification gets lost). A server gives none: neither
 * cache nor tickets.
 */
#include "daemon/base/text.h"
#include "daemon/tls/tls_internal.h"

#include <openssl/err.h>
#include <stdlib.h>

#define CHAIN_DEPTH_MAX    10
#define SECURITY_LEVEL     2 /* 112 bits: no RSA below 2048, no SHA-1 signature, no RC4 */
#define CIPHERS_BEFORE_1_3 "DEFAULT:!aNULL:!eNULL:!3DES:!RC4:!MD5:!PSK:!SRP"

enum err tls_library_init(void)
{
    /* No atexit handler: it would free the library under threads that still run when the process
     * has to leave at once. */
    if (OPENSSL_init_ssl(OPENSSL_INIT_NO_ATEXIT | OPENSSL_INIT_LOAD_SSL_STRINGS |
                             OPENSSL_INIT_LOAD_CRYPTO_STRINGS,
                         NULL) != 1) {
        return ERR_IO;
    }
    if (tls_session_bio == NULL) {
        tls_session_bio = tls_session_bio_new();
    }
    return tls_session_bio == NULL ? ERR_NO_MEMORY : ERR_OK;
}

void tls_library_deinit(void)
{
    BIO_meth_free(tls_session_bio);
    tls_session_bio = NULL;
    ERR_clear_error();
    /* The library itself stays: it cannot be started a second time, and others use it too. */
}

static uint8_t hex_value(uint8_t character)
{
    uint8_t lower = ascii_lower(character);
    return lower >= '0' && lower <= '9'   ? (uint8_t)(lower - '0')
           : lower >= 'a' && lower <= 'f' ? (uint8_t)(lower - 'a' + 10)
                                          : 16;
}

/* 32 bytes as pairs of hex digits; a colon may stand between two pairs. */
static bool fingerprint_parse(struct slice text, uint8_t *to)
{
    for (size_t index = 0; index < TLS_FINGERPRINT_BYTES; index++) {
        if (index > 0 && text.len > 0 && text.data[0] == ':') {
            text = slice_tail(text, 1);
        }
        if (text.len < 2 || hex_value(text.data[0]) > 15 || hex_value(text.data[1]) > 15) {
            return false;
        }
        to[index] = (uint8_t)(hex_value(text.data[0]) << 4 | hex_value(text.data[1]));
        text = slice_tail(text, 2);
    }
    return text.len == 0;
}

/* A key with a passphrase must fail: the library's default asks for it on the terminal. */
static int no_passphrase(char *to, int bytes, int writing, void *unused)
{
    (void)to, (void)bytes, (void)writing, (void)unused;
    return 0;
}

static SSL_CTX *context_new(bool server, char *problem)
{
    ERR_clear_error();
    SSL_CTX *context = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
    if (context == NULL) {
        tls_problem_put(problem, "TLS cannot be set up", NULL, tls_queue_reason());
        return NULL;
    }
    SSL_CTX_set_security_level(context, SECURITY_LEVEL);
    SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                                     SSL_OP_CIPHER_SERVER_PREFERENCE);
    SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    if (server) {
        SSL_CTX_set_options(context, SSL_OP_NO_TICKET);
        SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    } else {
        /* The library hands tickets out, and keeps none itself. */
        SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
        SSL_CTX_sess_set_new_cb(context, tls_ticket_came);
    }
    SSL_CTX_set_verify_depth(context, CHAIN_DEPTH_MAX);
    SSL_CTX_set_msg_callback(context, tls_session_saw_message);
    SSL_CTX_set_default_passwd_cb(context, no_passphrase);
    if (SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION) != 1 ||
        SSL_CTX_set_max_proto_version(context, 0) != 1 ||
        SSL_CTX_set_cipher_list(context, CIPHERS_BEFORE_1_3) != 1) {
        tls_problem_put(problem, "TLS cannot be set up", NULL, tls_queue_reason());
        SSL_CTX_free(context);
        return NULL;
    }
    return context;
}

static struct tls_policy *policy_new(bool server, char *problem)
{
    struct tls_policy *policy = calloc(1, sizeof *policy);
    if (policy == NULL) {
        tls_problem_put(problem, "out of memory", NULL, NULL);
        return NULL;
    }
    atomic_init(&policy->users, 1);
    policy->mutex = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    policy->server = server;
    policy->context = context_new(server, problem);
    if (policy->context == NULL) {
        tls_policy_free(&policy);
        return NULL;
    }
    policy->tickets = server ? NULL : tls_tickets_new(policy->context);
    if (!server && policy->tickets == NULL) {
        tls_problem_put(problem, "out of memory", NULL, NULL);
        tls_policy_free(&policy);
    }
    return policy;
}

static enum err authorities_load(const struct tls_policy *policy, SSL_CTX *context, char *problem)
{
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, tls_verify_chain);
    return tls_authorities_load(&policy->authorities, context, problem);
}

static enum err client_configure(struct tls_policy *policy, const struct tls_client_config *config,
                                 char *problem)
{
    policy->verify = config->verify;
    policy->pinned = config->fingerprint != NULL && config->fingerprint[0] != '\0';
    if (policy->pinned) {
        if (!fingerprint_parse(slice_from_str(config->fingerprint), policy->fingerprint)) {
            tls_problem_put(
                problem, "not a SHA-256 fingerprint (64 hex digits): ", config->fingerprint, NULL);
            return ERR_SYNTAX;
        }
        SSL_CTX_set_verify(policy->context, SSL_VERIFY_PEER, NULL);
        SSL_CTX_set_cert_verify_callback(policy->context, tls_verify_pinned, NULL);
        return ERR_OK;
    }
    if (config->verify == TLS_VERIFY_NONE) {
        SSL_CTX_set_verify(policy->context, SSL_VERIFY_NONE, NULL);
        SSL_CTX_set_cert_verify_callback(policy->context, tls_verify_any, NULL);
        return ERR_OK;
    }
    enum err err = tls_authorities_init(&policy->authorities, config->ca_file, problem);
    return err == ERR_OK ? authorities_load(policy, policy->context, problem) : err;
}

enum err tls_client_policy_new(struct tls_policy **out, const struct tls_client_config *config,
                               char *problem)
{
    struct tls_policy *policy = policy_new(false, problem);
    if (policy == NULL) {
        return ERR_NO_MEMORY;
    }
    enum err err = client_configure(policy, config, problem);
    ERR_clear_error();
    if (err != ERR_OK) {
        tls_policy_free(&policy);
        return err;
    }
    *out = policy;
    return ERR_OK;
}

static enum err authorities_read_again(struct tls_policy *policy, char *problem)
{
    SSL_CTX *context = context_new(false, problem);
    if (context == NULL) {
        return ERR_NO_MEMORY;
    }
    enum err err = authorities_load(policy, context, problem);
    ERR_clear_error();
    if (err != ERR_OK) {
        SSL_CTX_free(context);
        return err;
    }
    pthread_mutex_lock(&policy->mutex);
    SSL_CTX *before = policy->context;
    policy->context = context;
    pthread_mutex_unlock(&policy->mutex);
    tls_tickets_renew(policy->tickets, context);
    SSL_CTX_free(before);
    return ERR_OK;
}

enum err tls_client_policy_refresh(struct tls_policy *policy, bool *out_read, char *problem)
{
    *out_read = false;
    if (!tls_authorities_look(&policy->authorities)) {
        return ERR_OK;
    }
    enum err err = authorities_read_again(policy, problem);
    tls_authorities_judge(&policy->authorities, err);
    *out_read = err == ERR_OK;
    return err;
}

/*
 * No protocol name is registered for mail, so a client that asks for one wants another service and
 * was led here (ALPACA). RFC 7301 3.2: no_application_protocol.
 */
static int refuse_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_bytes,
                       const unsigned char *offered, unsigned int offered_bytes, void *unused)
{
    (void)ssl, (void)out, (void)out_bytes, (void)offered, (void)offered_bytes, (void)unused;
    return SSL_TLSEXT_ERR_ALERT_FATAL;
}

static enum err server_load(SSL_CTX *context, const struct tls_server_config *config, char *problem)
{
    enum err err =
        tls_file_is_readable(config->certificate_file, "cannot read the certificate ", problem);
    if (err == ERR_OK) {
        err = tls_file_is_readable(config->key_file, "cannot read the key ", problem);
    }
    if (err != ERR_OK) {
        return err;
    }
    ERR_clear_error();
    if (SSL_CTX_use_certificate_chain_file(context, config->certificate_file) != 1) {
        tls_problem_put(problem, "no usable certificate (PEM) in ", config->certificate_file,
                        tls_queue_reason());
        return ERR_SYNTAX;
    }
    ERR_clear_error();
    if (SSL_CTX_use_PrivateKey_file(context, config->key_file, SSL_FILETYPE_PEM) != 1) {
        tls_problem_put(problem,
                        "no usable key (PEM, without a passphrase) for this certificate in ",
                        config->key_file, tls_queue_reason());
        return ERR_SYNTAX;
    }
    if (SSL_CTX_check_private_key(context) != 1) {
        tls_problem_put(problem, "this key is not that of the certificate: ", config->key_file,
                        NULL);
        return ERR_SYNTAX;
    }
    return ERR_OK;
}

enum err tls_server_policy_new(struct tls_policy **out, const struct tls_server_config *config,
                               char *problem)
{
    struct tls_policy *policy = policy_new(true, problem);
    if (policy == NULL) {
        return ERR_NO_MEMORY;
    }
    SSL_CTX_set_num_tickets(policy->context, 0);
    SSL_CTX_set_dh_auto(policy->context, 1);
    SSL_CTX_set_alpn_select_cb(policy->context, refuse_alpn, NULL);
    enum err err = server_load(policy->context, config, problem);
    ERR_clear_error();
    if (err != ERR_OK) {
        tls_policy_free(&policy);
        return err;
    }
    *out = policy;
    return ERR_OK;
}

SSL *tls_policy_ssl_new(struct tls_policy *policy)
{
    pthread_mutex_lock(&policy->mutex);
    SSL *ssl = SSL_new(policy->context); /* holds the context */
    pthread_mutex_unlock(&policy->mutex);
    return ssl;
}

void tls_policy_release(struct tls_policy *policy)
{
    if (atomic_fetch_sub_explicit(&policy->users, 1, memory_order_acq_rel) == 1) {
        tls_authorities_deinit(&policy->authorities);
        tls_tickets_free(policy->tickets);
        SSL_CTX_free(policy->context);
        free(policy);
    }
}

void tls_policy_free(struct tls_policy **policy)
{
    if (*policy != NULL) {
        tls_policy_release(*policy);
        *policy = NULL;
    }
}
