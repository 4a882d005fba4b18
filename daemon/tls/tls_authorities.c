/*
 * The authorities that a client trusts: from where, and when they are read again.
 *
 * They come from one bundle file: a directory of hashed names would be read in the middle of a
 * handshake, by a worker that must not wait for a disk. Distributions replace their bundle, and
 * offices their own authority, while the daemon runs for years; so somebody who may wait looks at
 * the file now and then. It is read again once it has been the same for two looks, since not
 * everybody replaces a file in one step. daemon/decisions/0016.
 */
#include "daemon/base/text.h"
#include "daemon/tls/tls_internal.h"

#include <dirent.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#define PROBLEM_BYTES 256 /* of the caller's memory; see tls.h */

/* Where distributions put their bundle, when the library's own default is not there. */
static const char *const bundles[] = {
    "/etc/ssl/certs/ca-certificates.crt", /* Debian, Ubuntu, Arch, Alpine */
    "/etc/pki/tls/certs/ca-bundle.crt",   /* Fedora, RHEL */
    "/etc/ssl/ca-bundle.pem",             /* SUSE */
    "/etc/ssl/cert.pem",
};
#define BUNDLE_COUNT (sizeof bundles / sizeof bundles[0])

void tls_problem_put(char *problem, const char *words, const char *path, const char *reason)
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

const char *tls_queue_reason(void)
{
    const char *reason = ERR_reason_error_string(ERR_peek_last_error());
    return reason == NULL ? "OpenSSL gives no reason" : reason;
}

/* Somewhere in what the library says of its last trouble; it says last what came of it. */
static bool error_is_memory(void)
{
    bool found = false;
    for (unsigned long code = ERR_get_error(); code != 0; code = ERR_get_error()) {
        found = found || ERR_GET_REASON(code) == ERR_R_MALLOC_FAILURE;
    }
    return found;
}

enum err tls_file_is_readable(const char *path, const char *what, char *problem)
{
    char words[80];
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        int number = errno;
        tls_problem_put(problem, what, path, strerror_r(number, words, sizeof words));
        return err_from_errno(number);
    }
    int first = fgetc(file);
    int number = errno;
    bool broken = ferror(file) != 0; /* a directory opens, and cannot be read */
    fclose(file);
    if (first != EOF) {
        return ERR_OK;
    }
    tls_problem_put(problem, what, path,
                    broken ? strerror_r(number, words, sizeof words) : "the file is empty");
    return broken ? err_from_errno(number) : ERR_SYNTAX;
}

/* A list of revocations is read from the same file, and trusts nobody. */
static bool has_certificate(SSL_CTX *context)
{
    STACK_OF(X509_OBJECT) *objects = X509_STORE_get0_objects(SSL_CTX_get_cert_store(context));
    bool found = false;
    for (int index = 0; index < sk_X509_OBJECT_num(objects) && !found; index++) {
        found = X509_OBJECT_get_type(sk_X509_OBJECT_value(objects, index)) == X509_LU_X509;
    }
    return found;
}

static enum err load_file(SSL_CTX *context, const char *path, char *problem)
{
    enum err err = tls_file_is_readable(path, "cannot read the authorities in ", problem);
    if (err != ERR_OK) {
        return err;
    }
    ERR_clear_error();
    bool loaded = SSL_CTX_load_verify_locations(context, path, NULL) == 1;
    if (loaded && has_certificate(context)) {
        return ERR_OK;
    }
    tls_problem_put(problem, "no usable authority's certificate (PEM) in ", path,
                    loaded ? "there are only lists of revocations" : tls_queue_reason());
    return error_is_memory() ? ERR_NO_MEMORY : ERR_SYNTAX;
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

/* A file that is not there, or cannot be seen, has a stamp too. */
static struct tls_stamp stamp_of(const char *path)
{
    struct stat st;
    if (stat(path, &st) != 0) {
        return (struct tls_stamp){.problem = errno};
    }
    return (struct tls_stamp){
        .device = st.st_dev,
        .inode = st.st_ino,
        .bytes = (uint64_t)st.st_size,
        .modified = st.st_mtim,
        .changed = st.st_ctim,
    };
}

static bool time_same(const struct timespec *a, const struct timespec *b)
{
    return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

static bool stamp_same(const struct tls_stamp *a, const struct tls_stamp *b)
{
    return a->problem == b->problem && a->device == b->device && a->inode == b->inode &&
           a->bytes == b->bytes && time_same(&a->modified, &b->modified) &&
           time_same(&a->changed, &b->changed);
}

/* NULL: there is none. */
static const char *system_bundle(void)
{
    const char *named = secure_getenv(X509_get_default_cert_file_env());
    if (named != NULL && named[0] != '\0') {
        return named;
    }
    if (file_exists(X509_get_default_cert_file())) {
        return X509_get_default_cert_file();
    }
    for (size_t index = 0; index < BUNDLE_COUNT; index++) {
        if (file_exists(bundles[index])) {
            return bundles[index];
        }
    }
    return NULL;
}

static enum err load_directory(SSL_CTX *context, char *problem)
{
    const char *directory = secure_getenv(X509_get_default_cert_dir_env());
    if (directory == NULL || directory[0] == '\0') {
        directory = X509_get_default_cert_dir();
    }
    if (directory_has_authorities(directory) &&
        SSL_CTX_load_verify_locations(context, NULL, directory) == 1) {
        return ERR_OK;
    }
    tls_problem_put(
        problem, "this system has no list of authorities: install ca-certificates, or set tls-ca",
        NULL, NULL);
    return ERR_NOT_FOUND;
}

enum err tls_authorities_init(struct tls_authorities *a, const char *ca_file, char *problem)
{
    a->given = ca_file != NULL && ca_file[0] != '\0';
    const char *path = a->given ? ca_file : system_bundle();
    if (path == NULL) {
        return ERR_OK;
    }
    a->path = strdup(path);
    if (a->path == NULL) {
        tls_problem_put(problem, "out of memory", NULL, NULL);
        return ERR_NO_MEMORY;
    }
    a->judged = a->seen = stamp_of(path);
    return ERR_OK;
}

void tls_authorities_deinit(struct tls_authorities *a)
{
    free(a->path);
    a->path = NULL;
}

enum err tls_authorities_load(const struct tls_authorities *a, SSL_CTX *context, char *problem)
{
    if (a->path == NULL) {
        return load_directory(context, problem);
    }
    if (a->given) {
        /* Whatever the admin lists is trusted, be it a root, an authority below one, or the
         * server's own certificate. */
        X509_VERIFY_PARAM_set_flags(SSL_CTX_get0_param(context), X509_V_FLAG_PARTIAL_CHAIN);
    }
    return load_file(context, a->path, problem);
}

bool tls_authorities_look(struct tls_authorities *a)
{
    if (a->path == NULL) {
        return false;
    }
    struct tls_stamp now = stamp_of(a->path);
    bool rests = stamp_same(&now, &a->seen);
    a->seen = now;
    return rests && (a->owed || !stamp_same(&now, &a->judged));
}

void tls_authorities_judge(struct tls_authorities *a, enum err err)
{
    bool settled = err == ERR_OK || err == ERR_SYNTAX || a->seen.problem != 0;
    a->judged = a->seen;
    a->owed = !settled;
}
