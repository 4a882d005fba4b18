#include "tests/upstream/certificate.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define VALID_S      (30L * 86400)
#define BEFORE_S     3600L /* clocks differ */
#define SERIAL_BYTES 16
#define PATH_BYTES   512

struct extension {
    int kind;
    const char *value;
};

static const struct extension authority_extensions[] = {
    {NID_basic_constraints, "critical,CA:TRUE,pathlen:0"},
    {NID_key_usage, "critical,keyCertSign,cRLSign"},
    {NID_subject_key_identifier, "hash"},
};

static const struct extension server_extensions[] = {
    {NID_basic_constraints, "critical,CA:FALSE"},
    {NID_key_usage, "critical,digitalSignature"},
    {NID_ext_key_usage, "serverAuth"},
    {NID_subject_alt_name, "DNS:localhost,IP:127.0.0.1,IP:::1"},
    {NID_subject_key_identifier, "hash"},
    {NID_authority_key_identifier, "keyid"},
};

struct identity {
    X509 *certificate;
    EVP_PKEY *key;
};

static EVP_PKEY *key_new(void)
{
    EVP_PKEY *key = NULL;
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_id(EVP_PKEY_EC, NULL);
    if (context == NULL || EVP_PKEY_keygen_init(context) != 1 ||
        EVP_PKEY_CTX_set_ec_paramgen_curve_nid(context, NID_X9_62_prime256v1) != 1 ||
        EVP_PKEY_keygen(context, &key) != 1) {
        key = NULL;
    }
    EVP_PKEY_CTX_free(context);
    return key;
}

static bool set_serial(X509 *certificate)
{
    unsigned char bytes[SERIAL_BYTES];
    if (RAND_bytes(bytes, sizeof bytes) != 1) {
        return false;
    }
    bytes[0] &= 0x7f; /* positive, RFC 5280 4.1.2.2 */
    BIGNUM *number = BN_bin2bn(bytes, sizeof bytes, NULL);
    bool good =
        number != NULL && BN_to_ASN1_INTEGER(number, X509_get_serialNumber(certificate)) != NULL;
    BN_free(number);
    return good;
}

static bool add_extensions(X509 *certificate, X509 *issuer, const struct extension *rows,
                           size_t count)
{
    X509V3_CTX context;
    X509V3_set_ctx(&context, issuer, certificate, NULL, NULL, 0);
    for (size_t index = 0; index < count; index++) {
        X509_EXTENSION *extension =
            X509V3_EXT_conf_nid(NULL, &context, rows[index].kind, rows[index].value);
        bool good = extension != NULL && X509_add_ext(certificate, extension, -1) == 1;
        X509_EXTENSION_free(extension);
        if (!good) {
            return false;
        }
    }
    return true;
}

/* issuer NULL: an authority, signed by itself. */
static bool make(struct identity *out, const char *name, const struct identity *issuer)
{
    out->certificate = X509_new();
    out->key = key_new();
    if (out->certificate == NULL || out->key == NULL) {
        return false;
    }
    X509 *c = out->certificate;
    const struct identity *by = issuer == NULL ? out : issuer;
    X509_NAME *subject = X509_get_subject_name(c);
    bool good = X509_set_version(c, 2) == 1 && set_serial(c) &&
                X509_gmtime_adj(X509_getm_notBefore(c), -BEFORE_S) != NULL &&
                X509_gmtime_adj(X509_getm_notAfter(c), VALID_S) != NULL &&
                X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, (const unsigned char *)name,
                                           -1, -1, 0) == 1 &&
                X509_set_issuer_name(c, X509_get_subject_name(by->certificate)) == 1 &&
                X509_set_pubkey(c, out->key) == 1;
    good = good && (issuer == NULL
                        ? add_extensions(c, c, authority_extensions,
                                         sizeof authority_extensions / sizeof *authority_extensions)
                        : add_extensions(c, issuer->certificate, server_extensions,
                                         sizeof server_extensions / sizeof *server_extensions));
    return good && X509_sign(c, by->key, EVP_sha256()) > 0;
}

static void identity_deinit(struct identity *made)
{
    X509_free(made->certificate);
    EVP_PKEY_free(made->key);
}

static bool save(const char *directory, const char *name, mode_t mode, const struct identity *made)
{
    char path[PATH_BYTES];
    int len = snprintf(path, sizeof path, "%s/%s", directory, name);
    if (len < 0 || (size_t)len >= sizeof path) {
        fprintf(stderr, "%s: the path is too long\n", directory);
        return false;
    }
    (void)unlink(path); /* so that mode holds */
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    FILE *file = fd < 0 ? NULL : fdopen(fd, "w");
    if (file == NULL) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        if (fd >= 0) {
            close(fd);
        }
        return false;
    }
    bool secret = (mode & 077) == 0;
    bool good = secret ? PEM_write_PrivateKey(file, made->key, NULL, NULL, 0, NULL, NULL) == 1
                       : PEM_write_X509(file, made->certificate) == 1;
    good = fclose(file) == 0 && good;
    if (!good) {
        fprintf(stderr, "%s: could not be written\n", path);
    }
    return good;
}

bool certificate_make(const char *directory)
{
    struct identity authority = {0}, server = {0};
    ERR_clear_error();
    bool good =
        make(&authority, "tasuki demo authority", NULL) && make(&server, "localhost", &authority);
    if (!good) {
        fputs("the certificate could not be made\n", stderr);
    }
    good = good && save(directory, "ca.pem", 0644, &authority) &&
           save(directory, "cert.pem", 0644, &server) && save(directory, "key.pem", 0600, &server);
    identity_deinit(&server);
    identity_deinit(&authority);
    return good;
}
