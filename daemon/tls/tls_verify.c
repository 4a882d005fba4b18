/*
 * Judges certificates, and puts into words what is wrong: an admin who reads them should know what
 * to do next. Names in a certificate are the peer's text and are escaped.
 *
 * The library calls back in the middle of the handshake; afterwards a refused certificate is gone,
 * so the words are made here.
 */
#include "daemon/base/num.h"
#include "daemon/base/text.h"
#include "daemon/base/when.h"
#include "daemon/tls/tls_internal.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <time.h>

#define NAMES_SHOWN_MAX  3
#define NAME_BYTES_SHOWN 64

static struct buf words_begin(struct tls_verdict *verdict)
{
    struct buf words;
    buf_init(&words, verdict->problem, sizeof verdict->problem - 1);
    return words;
}

static void words_end(struct tls_verdict *verdict, enum tls_failure failure,
                      const struct buf *words)
{
    verdict->problem[words->len] = '\0';
    verdict->failure = failure;
}

void tls_verdict_set(struct tls_verdict *verdict, enum tls_failure failure, const char *text)
{
    if (verdict->failure != TLS_FAILURE_NONE) {
        return;
    }
    struct buf words = words_begin(verdict);
    buf_put_str(&words, text);
    words_end(verdict, failure, &words);
}

static void put_shown(struct buf *words, struct slice name)
{
    text_put_escaped(words, slice_head(name, NAME_BYTES_SHOWN));
}

static struct slice string_bytes(const ASN1_STRING *string)
{
    int bytes = ASN1_STRING_length(string);
    return slice_of(ASN1_STRING_get0_data(string), bytes > 0 ? (size_t)bytes : 0);
}

/* The name that people know a subject by: its common name, or else its organisation. */
static bool put_subject(struct buf *words, X509_NAME *name)
{
    static const int kinds[] = {NID_commonName, NID_organizationalUnitName, NID_organizationName};
    for (size_t kind = 0; kind < sizeof kinds / sizeof kinds[0]; kind++) {
        int index = X509_NAME_get_index_by_NID(name, kinds[kind], -1);
        if (index >= 0) {
            const X509_NAME_ENTRY *entry = X509_NAME_get_entry(name, index);
            buf_put_str(words, "\"");
            put_shown(words, string_bytes(X509_NAME_ENTRY_get_data(entry)));
            buf_put_str(words, "\"");
            return true;
        }
    }
    buf_put_str(words, "somebody without a name");
    return false;
}

/* A host name or an address of the alternative names; false when it is neither. */
static bool alt_name_put(struct buf *words, const GENERAL_NAME *name)
{
    int type = 0;
    const ASN1_STRING *value = GENERAL_NAME_get0_value(name, &type);
    char address[INET6_ADDRSTRLEN];
    if (type != GEN_DNS && type != GEN_IPADD) {
        return false;
    }
    struct slice bytes = string_bytes(value);
    if (type == GEN_DNS) {
        put_shown(words, bytes);
        return true;
    }
    int family = bytes.len == 4 ? AF_INET : AF_INET6;
    if ((bytes.len != 4 && bytes.len != 16) ||
        inet_ntop(family, bytes.data, address, sizeof address) == NULL) {
        return false;
    }
    buf_put_str(words, address);
    return true;
}

/* "a.example, b.example and 7 more". Returns how many there are. */
static unsigned put_alt_names(struct buf *words, const GENERAL_NAMES *names)
{
    unsigned count = 0;
    uint8_t memory[4 * NAME_BYTES_SHOWN];
    for (int index = 0; index < sk_GENERAL_NAME_num(names); index++) {
        struct buf one;
        buf_init(&one, memory, sizeof memory);
        if (!alt_name_put(&one, sk_GENERAL_NAME_value(names, index))) {
            continue;
        }
        if (count < NAMES_SHOWN_MAX) {
            buf_put_str(words, count == 0 ? "" : ", ");
            buf_put(words, buf_slice(&one));
        }
        count++;
    }
    if (count > NAMES_SHOWN_MAX) {
        buf_printf(words, " and %u more", count - NAMES_SHOWN_MAX);
    }
    return count;
}

static void words_wrong_name(struct tls_verdict *verdict, const X509 *certificate)
{
    struct buf words = words_begin(verdict);
    GENERAL_NAMES *names = X509_get_ext_d2i(certificate, NID_subject_alt_name, NULL, NULL);
    buf_put_str(&words, "certificate is for ");
    if (names == NULL || put_alt_names(&words, names) == 0) {
        /* A common name alone does not count. RFC 9525 2. */
        buf_put_str(&words, "no host (it only has the old kind of name, ");
        (void)put_subject(&words, X509_get_subject_name(certificate));
        buf_put_str(&words, ")");
    }
    GENERAL_NAMES_free(names);
    buf_put_str(&words, ", not ");
    text_put_escaped(&words, slice_head(slice_from_str(verdict->server_name), 120));
    words_end(verdict, TLS_FAILURE_WRONG_NAME, &words);
}

static void put_time(struct buf *words, const ASN1_TIME *at)
{
    struct tm broken_down;
    if (at == NULL || ASN1_TIME_to_tm(at, &broken_down) != 1) {
        buf_put_str(words, "a time that cannot be read");
        return;
    }
    time_t seconds = timegm(&broken_down);
    if (seconds < 0) {
        buf_put_str(words, "a time before 1970");
        return;
    }
    when_put_rfc3339(words, (uint64_t)seconds * 1000);
}

static void words_not_valid_now(struct tls_verdict *verdict, const X509 *certificate, int depth,
                                bool early)
{
    struct buf words = words_begin(verdict);
    if (depth == 0) {
        buf_put_str(&words, "certificate ");
    } else {
        buf_put_str(&words, "certificate of the authority ");
        (void)put_subject(&words, X509_get_subject_name(certificate));
        buf_put_str(&words, " ");
    }
    buf_put_str(&words, early ? "is not valid before " : "expired on ");
    put_time(&words, early ? X509_get0_notBefore(certificate) : X509_get0_notAfter(certificate));
    buf_put_str(&words, early ? " (is this box's clock right?)" : "");
    words_end(verdict, TLS_FAILURE_EXPIRED, &words);
}

static void words_unknown_authority(struct tls_verdict *verdict, const X509 *certificate, int error)
{
    struct buf words = words_begin(verdict);
    if (error == X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT) {
        buf_put_str(&words, "certificate is signed by nobody but itself, as ");
        (void)put_subject(&words, X509_get_subject_name(certificate));
    } else {
        buf_put_str(&words, "certificate is signed by ");
        (void)put_subject(&words, X509_get_issuer_name(certificate));
        buf_put_str(&words, ", which is not a known authority here");
    }
    words_end(verdict, TLS_FAILURE_UNTRUSTED, &words);
}

static void words_refused(struct tls_verdict *verdict, int depth, int error)
{
    struct buf words = words_begin(verdict);
    buf_put_str(&words,
                depth == 0 ? "certificate is not accepted: " : "its authority is not accepted: ");
    buf_put_str(&words, X509_verify_cert_error_string(error));
    words_end(verdict, TLS_FAILURE_UNTRUSTED, &words);
}

static struct tls_verdict *verdict_of(X509_STORE_CTX *store)
{
    const SSL *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
    return SSL_get_app_data(ssl);
}

int tls_verify_chain(int good, X509_STORE_CTX *store)
{
    if (good == 1) {
        return 1;
    }
    struct tls_verdict *verdict = verdict_of(store);
    const X509 *certificate = X509_STORE_CTX_get_current_cert(store);
    int depth = X509_STORE_CTX_get_error_depth(store);
    int error = X509_STORE_CTX_get_error(store);
    if (verdict->failure != TLS_FAILURE_NONE) {
        return 0;
    }
    if (certificate == NULL) {
        words_refused(verdict, depth, error);
        return 0;
    }
    switch (error) {
    case X509_V_ERR_HOSTNAME_MISMATCH:
    case X509_V_ERR_IP_ADDRESS_MISMATCH:
        words_wrong_name(verdict, certificate);
        break;
    case X509_V_ERR_CERT_HAS_EXPIRED:
    case X509_V_ERR_CERT_NOT_YET_VALID:
        words_not_valid_now(verdict, certificate, depth, error == X509_V_ERR_CERT_NOT_YET_VALID);
        break;
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
        words_unknown_authority(verdict, certificate, error);
        break;
    default:
        words_refused(verdict, depth, error);
        break;
    }
    return 0;
}

int tls_verify_pinned(X509_STORE_CTX *store, void *unused)
{
    (void)unused;
    struct tls_verdict *verdict = verdict_of(store);
    const X509 *certificate = X509_STORE_CTX_get0_cert(store);
    uint8_t digest[EVP_MAX_MD_SIZE];
    unsigned bytes = 0;
    if (certificate == NULL || X509_digest(certificate, EVP_sha256(), digest, &bytes) != 1 ||
        bytes != TLS_FINGERPRINT_BYTES) {
        tls_verdict_set(verdict, TLS_FAILURE_FINGERPRINT,
                        "the certificate's fingerprint cannot be computed");
    } else if (memcmp(digest, verdict->policy->fingerprint, bytes) != 0) {
        struct buf words = words_begin(verdict);
        buf_put_str(&words, "the certificate's fingerprint is not the configured one, but ");
        for (unsigned index = 0; index < bytes; index++) {
            buf_printf(&words, "%s%02x", index == 0 ? "" : ":", digest[index]);
        }
        words_end(verdict, TLS_FAILURE_FINGERPRINT, &words);
    } else {
        X509_STORE_CTX_set_error(store, X509_V_OK);
        return 1;
    }
    X509_STORE_CTX_set_error(store, X509_V_ERR_APPLICATION_VERIFICATION);
    return 0;
}

/* The end of what is valid now; 0 when it cannot be read. */
static uint64_t not_after_s(const X509 *certificate)
{
    struct tm broken_down;
    if (ASN1_TIME_to_tm(X509_get0_notAfter(certificate), &broken_down) != 1) {
        return 0;
    }
    time_t seconds = timegm(&broken_down);
    return seconds < 0 ? 0 : (uint64_t)seconds;
}

uint64_t tls_verified_until_s(const SSL *ssl, const struct tls_policy *policy)
{
    uint64_t until_s = tls_wall_s() + TLS_VERIFIED_S_MAX;
    if (policy->pinned || policy->verify == TLS_VERIFY_NONE) {
        return until_s; /* no date counts */
    }
    const STACK_OF(X509) *chain = SSL_get0_verified_chain(ssl);
    int count = chain == NULL ? 0 : sk_X509_num(chain);
    for (int index = 0; index < count; index++) {
        until_s = u64_min(until_s, not_after_s(sk_X509_value(chain, index)));
    }
    return count == 0 ? 0 : until_s;
}

int tls_verify_any(X509_STORE_CTX *store, void *unused)
{
    (void)unused;
    X509_STORE_CTX_set_error(store, X509_V_OK);
    return 1;
}

/* What the library says, in words that lead somewhere. */
static const struct {
    int reason;
    const char *words;
} reasons[] = {
    {SSL_R_UNSUPPORTED_PROTOCOL, "the other side offers no safe version of TLS (1.2 or later)"},
    {SSL_R_TLSV1_ALERT_PROTOCOL_VERSION,
     "the other side offers no safe version of TLS (1.2 or later)"},
    {SSL_R_WRONG_VERSION_NUMBER, "the other side does not speak TLS here"},
    {SSL_R_HTTP_REQUEST, "the other side does not speak TLS here"},
    {SSL_R_NO_SHARED_CIPHER, "no cipher in common"},
    {SSL_R_SSLV3_ALERT_HANDSHAKE_FAILURE,
     "the other side refuses: no cipher or parameter in common"},
    {SSL_R_DH_KEY_TOO_SMALL, "the other side's key exchange is too weak"},
    {SSL_R_EE_KEY_TOO_SMALL, "the other side's key is too short"},
};

void tls_verdict_set_by_queue(struct tls_verdict *verdict)
{
    if (verdict->failure != TLS_FAILURE_NONE) {
        return;
    }
    unsigned long error = ERR_peek_error();
    int reason = ERR_GET_REASON(error);
    if (reason == ERR_R_MALLOC_FAILURE) {
        tls_verdict_set(verdict, TLS_FAILURE_MEMORY, "out of memory");
        return;
    }
    for (size_t row = 0; row < sizeof reasons / sizeof reasons[0]; row++) {
        if (ERR_GET_LIB(error) == ERR_LIB_SSL && reasons[row].reason == reason) {
            tls_verdict_set(verdict, TLS_FAILURE_HANDSHAKE, reasons[row].words);
            return;
        }
    }
    struct buf words = words_begin(verdict);
    if (ERR_GET_LIB(error) == ERR_LIB_SSL && reason >= SSL_AD_REASON_OFFSET) {
        buf_put_str(&words, "the other side ended it with the alert: ");
        buf_put_str(&words, SSL_alert_desc_string_long(reason - SSL_AD_REASON_OFFSET));
    } else {
        const char *text = ERR_reason_error_string(error);
        buf_put_str(&words, "TLS failed: ");
        buf_put_str(&words, text == NULL ? "OpenSSL gives no reason" : text);
    }
    words_end(verdict, TLS_FAILURE_HANDSHAKE, &words);
}
