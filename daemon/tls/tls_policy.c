/*
 * Policies: one SSL_CTX each, with every setting that is not a single connection's.
 *
 * A client takes up earlier sessions, but only its policy's own: see tls_ticket.c (tickets that
 * outlive a change of the authorities are how verification gets lost). A server gives none: neither
 * cache nor tickets.
 *
 * Authorities are read when the policy is made, from one bundle file: a directory of hashed names
 * would be read in the middle of a handshake, by a worker that must not wait for a disk.
 */
#include "daemon/base/text.h"
#include "daemon/tls/tls_internal.h"

#include <dirent.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>

#define PROBLEM_BYTES      256 /* of the caller's memory; see tls.h */
#define CHAIN_DEPTH_MAX    10
#define SECURITY_LEVEL     2 /* 112 bits: no RSA below 2048, no SHA-1 signature, no RC4 */
#define CIPHERS_BEFORE_1_3 "DEFAULT:!aNULL:!eNULL:!3DES:!RC4:!MD5:!PSK:!SRP"

/* Where distributions put their bundle, when the library's own default is not there. */
static const char *const bundles[] = {
    "/etc/ssl/certs/ca-certificates.crt", /* Debian, Ubuntu, Arch, Alpine */
    "/etc/pki/tls/certs/ca-bundle.crt",   /* Fedora, RHEL */
    "/etc/ssl/ca-bundle.pem",             /* SUSE */
    "/etc/ssl/cert.pem",
};
#define BUNDLE_COUNT (sizeof bundles / sizeof bundles[0])

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

static void problem_put(char *problem, const char *words, const char *path, const char *reason)
{
    struct buf text;
    buf_init(&text, problem, PROBLEM_BYTES - 1);
    buf_put_str(&text, words);
    if (path != NULL) {
        text_put_escaped(&text, slice_head(slice_from_str(path), 120));
    }
    if (reason != NULL) {
        buf_put_str(&text, ": ");
        text_put_escaped(&text, slice_head(slice_from_str(reason), 80));
    }
    problem[text.len] = '\0';
}

/* The library's words for its own last trouble. */
static const char *queue_reason(void)
{
    const char *reason = ERR_reason_error_string(ERR_peek_last_error());
    return reason == NULL ? "OpenSSL gives no reason" : reason;
}

static bool error_is_memory(void)
{
    return ERR_GET_REASON(ERR_peek_last_error()) == ERR_R_MALLOC_FAILURE;
}

/* Can it be opened? Asked first, since the library's queue hides the reason. */
static enum err file_is_readable(const char *path, const char *what, char *problem)
{
    char words[80];
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        int number = errno;
        problem_put(problem, what, path, strerror_r(number, words, sizeof words));
        return err_from_errno(number);
    }
    int first = fgetc(file);
    int number = errno;
    bool broken = ferror(file) != 0; /* a directory opens, and cannot be read */
    fclose(file);
    if (first != EOF) {
        return ERR_OK;
    }
    problem_put(problem, what, path,
                broken ? strerror_r(number, words, sizeof words) : "the file is empty");
    return broken ? err_from_errno(number) : ERR_SYNTAX;
}

static enum err load_authorities(SSL_CTX *context, const char *path, char *problem)
{
    enum err err = file_is_readable(path, "cannot read the authorities in ", problem);
    if (err != ERR_OK) {
        return err;
    }
    ERR_clear_error();
    if (SSL_CTX_load_verify_locations(context, path, NULL) == 1) {
        return ERR_OK;
    }
    err = error_is_memory() ? ERR_NO_MEMORY : ERR_SYNTAX;
    problem_put(problem, "no usable authority's certificate (PEM) in ", path, queue_reason());
    return err;
}

/* A directory that c_rehash has filled: names like 5ed36f99.0. */
static bool directory_has_authorities(const char *path)
{
    DIR *directory = opendir(path);
    bool found = false;
    if (directory == NULL) {
        return false;
    }
    const struct dirent *entry;
    while (!found && (entry = readdir(directory)) != NULL) {
        found = strlen(entry->d_name) == 10 && entry->d_name[8] == '.' &&
                strspn(entry->d_name, "0123456789abcdef") == 8;
    }
    closedir(directory);
    return found;
}

static bool file_exists(const char *path)
{
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        return errno != ENOENT && errno != ENOTDIR;
    }
    fclose(file);
    return true;
}

static enum err load_system_authorities(SSL_CTX *context, char *problem)
{
    const char *named = secure_getenv(X509_get_default_cert_file_env());
    if (named != NULL && named[0] != '\0') {
        return load_authorities(context, named, problem);
    }
    if (file_exists(X509_get_default_cert_file())) {
        return load_authorities(context, X509_get_default_cert_file(), problem);
    }
    for (size_t index = 0; index < BUNDLE_COUNT; index++) {
        if (file_exists(bundles[index])) {
            return load_authorities(context, bundles[index], problem);
        }
    }
    const char *directory = secure_getenv(X509_get_default_cert_dir_env());
    if (directory == NULL || directory[0] == '\0') {
        directory = X509_get_default_cert_dir();
    }
    if (directory_has_authorities(directory) &&
        SSL_CTX_load_verify_locations(context, NULL, directory) == 1) {
        return ERR_OK;
    }
    problem_put(problem,
                "this system has no list of authorities: install ca-certificates, or set tls-ca",
                NULL, NULL);
    return ERR_NOT_FOUND;
}

static enum err load_client_authorities(SSL_CTX *context, const char *ca_file, char *problem)
{
    if (ca_file == NULL || ca_file[0] == '\0') {
        return load_system_authorities(context, problem);
    }
    /* Whatever the admin lists is trusted, be it a root, an authority below one, or the server's
     * own certificate. */
    X509_VERIFY_PARAM_set_flags(SSL_CTX_get0_param(context), X509_V_FLAG_PARTIAL_CHAIN);
    return load_authorities(context, ca_file, problem);
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

static SSL_CTX *context_new(bool server)
{
    SSL_CTX *context = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
    if (context == NULL) {
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
        SSL_CTX_free(context);
        return NULL;
    }
    return context;
}

static struct tls_policy *policy_new(bool server, char *problem)
{
    ERR_clear_error();
    struct tls_policy *policy = calloc(1, sizeof *policy);
    if (policy == NULL) {
        problem_put(problem, "out of memory", NULL, NULL);
        return NULL;
    }
    atomic_init(&policy->users, 1);
    policy->server = server;
    policy->context = context_new(server);
    if (policy->context == NULL) {
        problem_put(problem, "TLS cannot be set up", NULL, queue_reason());
        tls_policy_free(&policy);
        return NULL;
    }
    policy->tickets = server ? NULL : tls_tickets_new();
    if (!server && policy->tickets == NULL) {
        problem_put(problem, "out of memory", NULL, NULL);
        tls_policy_free(&policy);
    }
    return policy;
}

static enum err client_configure(struct tls_policy *policy, const struct tls_client_config *config,
                                 char *problem)
{
    policy->verify = config->verify;
    policy->pinned = config->fingerprint != NULL && config->fingerprint[0] != '\0';
    if (policy->pinned) {
        if (!fingerprint_parse(slice_from_str(config->fingerprint), policy->fingerprint)) {
            problem_put(problem, "not a SHA-256 fingerprint (64 hex digits): ", config->fingerprint,
                        NULL);
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
    SSL_CTX_set_verify(policy->context, SSL_VERIFY_PEER, tls_verify_chain);
    return load_client_authorities(policy->context, config->ca_file, problem);
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
        file_is_readable(config->certificate_file, "cannot read the certificate ", problem);
    if (err == ERR_OK) {
        err = file_is_readable(config->key_file, "cannot read the key ", problem);
    }
    if (err != ERR_OK) {
        return err;
    }
    ERR_clear_error();
    if (SSL_CTX_use_certificate_chain_file(context, config->certificate_file) != 1) {
        problem_put(problem, "no usable certificate (PEM) in ", config->certificate_file,
                    queue_reason());
        return ERR_SYNTAX;
    }
    ERR_clear_error();
    if (SSL_CTX_use_PrivateKey_file(context, config->key_file, SSL_FILETYPE_PEM) != 1) {
        problem_put(problem, "no usable key (PEM, without a passphrase) for this certificate in ",
                    config->key_file, queue_reason());
        return ERR_SYNTAX;
    }
    if (SSL_CTX_check_private_key(context) != 1) {
        problem_put(problem, "this key is not that of the certificate: ", config->key_file, NULL);
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

void tls_policy_release(struct tls_policy *policy)
{
    if (atomic_fetch_sub_explicit(&policy->users, 1, memory_order_acq_rel) == 1) {
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
