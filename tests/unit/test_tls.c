/*
 * daemon/tls: certificates made on the spot, sessions wired back to back in memory. Where the other
 * side has to misbehave, it is a plain SSL over memory BIOs.
 */
#include "daemon/tls/tls.h"

#include "daemon/tls/tls_internal.h"
#include "tests/unit/turns.h"

#include <malloc.h>
#include <openssl/err.h>
#include <openssl/kdf.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define DAY               86400L
#define OUTPUT_BOUND      65536
#define PUMP_ROUNDS_MAX   1000000
#define PROBLEM_BYTES     256
#define PATH_BYTES        128
#define BRIEF_S           3600L /* less than the library lets a session live */
#define THREADS           4
#define THREAD_HANDSHAKES 25
#define FINGERPRINT_BYTES (32 * 3) /* of SHA-256: digits and colons, or the NUL */

static char directory[64];

/* ---- certificates ---- */

struct identity {
    X509 *certificate;
    EVP_PKEY *key;
};

struct recipe {
    const char *file; /* DIR/file.pem (with its issuer), file-alone.pem, file.key */
    const char *common_name;
    const char *alt_names;         /* as OpenSSL's configuration has them, or NULL */
    const struct identity *issuer; /* NULL: signs itself */
    long valid_from_s;             /* from now */
    long valid_until_s;
    bool authority;
    bool nul_in_name; /* an alternative name "relay.example.jp\0.evil.example" */
    int rsa_bits;     /* 0: P-256 */
    bool sha1;        /* in the signature */
};

static void path_of(char *to, const char *file, const char *suffix)
{
    assert_true(snprintf(to, PATH_BYTES, "%s/%s%s", directory, file, suffix) < PATH_BYTES);
}

static EVP_PKEY *key_new(int rsa_bits)
{
    EVP_PKEY *key = NULL;
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_id(rsa_bits > 0 ? EVP_PKEY_RSA : EVP_PKEY_EC, NULL);
    assert_non_null(context);
    assert_int_equal(EVP_PKEY_keygen_init(context), 1);
    if (rsa_bits > 0) {
        assert_int_equal(EVP_PKEY_CTX_set_rsa_keygen_bits(context, rsa_bits), 1);
    } else {
        assert_int_equal(EVP_PKEY_CTX_set_ec_paramgen_curve_nid(context, NID_X9_62_prime256v1), 1);
    }
    assert_int_equal(EVP_PKEY_keygen(context, &key), 1);
    EVP_PKEY_CTX_free(context);
    return key;
}

static void extension_add(X509 *certificate, int kind, const char *value)
{
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, NULL, kind, value);
    assert_non_null(extension);
    assert_int_equal(X509_add_ext(certificate, extension, -1), 1);
    X509_EXTENSION_free(extension);
}

static void add_name_with_nul(X509 *certificate)
{
    static const char bytes[] = "relay.example.jp\0.evil.example";
    GENERAL_NAMES *names = GENERAL_NAMES_new();
    GENERAL_NAME *name = GENERAL_NAME_new();
    ASN1_IA5STRING *text = ASN1_IA5STRING_new();
    assert_int_equal(ASN1_STRING_set(text, bytes, (int)sizeof bytes - 1), 1);
    GENERAL_NAME_set0_value(name, GEN_DNS, text);
    assert_true(sk_GENERAL_NAME_push(names, name) > 0);
    assert_int_equal(X509_add1_ext_i2d(certificate, NID_subject_alt_name, names, 0, 0), 1);
    GENERAL_NAMES_free(names);
}

static void save(const struct recipe *recipe, const struct identity *made)
{
    char path[PATH_BYTES];
    path_of(path, recipe->file, ".pem");
    FILE *file = fopen(path, "we");
    assert_non_null(file);
    assert_int_equal(PEM_write_X509(file, made->certificate), 1);
    if (recipe->issuer != NULL) {
        assert_int_equal(PEM_write_X509(file, recipe->issuer->certificate), 1);
    }
    fclose(file);
    path_of(path, recipe->file, "-alone.pem");
    file = fopen(path, "we");
    assert_non_null(file);
    assert_int_equal(PEM_write_X509(file, made->certificate), 1);
    fclose(file);
    path_of(path, recipe->file, ".key");
    file = fopen(path, "we");
    assert_non_null(file);
    assert_int_equal(PEM_write_PrivateKey(file, made->key, NULL, NULL, 0, NULL, NULL), 1);
    fclose(file);
}

static struct identity make(const struct recipe *recipe)
{
    static long serial = 1;
    struct identity made = {X509_new(), key_new(recipe->rsa_bits)};
    X509 *c = made.certificate;
    X509_set_version(c, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(c), serial++);
    X509_gmtime_adj(X509_getm_notBefore(c), recipe->valid_from_s);
    X509_gmtime_adj(X509_getm_notAfter(c), recipe->valid_until_s);
    X509_NAME *name = X509_NAME_new();
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8,
                               (const unsigned char *)recipe->common_name, -1, -1, 0);
    X509_set_subject_name(c, name);
    X509_set_issuer_name(
        c, recipe->issuer == NULL ? name : X509_get_subject_name(recipe->issuer->certificate));
    X509_NAME_free(name);
    X509_set_pubkey(c, made.key);
    extension_add(c, NID_basic_constraints, recipe->authority ? "critical,CA:TRUE" : "CA:FALSE");
    if (recipe->alt_names != NULL) {
        extension_add(c, NID_subject_alt_name, recipe->alt_names);
    }
    if (recipe->nul_in_name) {
        add_name_with_nul(c);
    }
    EVP_PKEY *signer = recipe->issuer == NULL ? made.key : recipe->issuer->key;
    assert_true(X509_sign(c, signer, recipe->sha1 ? EVP_sha1() : EVP_sha256()) > 0);
    save(recipe, &made);
    return made;
}

static void identity_deinit(struct identity *made)
{
    X509_free(made->certificate);
    EVP_PKEY_free(made->key);
}

static struct identity root, other_root, middle_expired;

/* Leaves; their authorities are made in setup. */
static const struct recipe leaves[] = {
    {.file = "good", .common_name = "x", .alt_names = "DNS:relay.example.jp", .issuer = &root},
    {.file = "expired",
     .common_name = "x",
     .alt_names = "DNS:relay.example.jp",
     .issuer = &root,
     .valid_from_s = -20 * DAY,
     .valid_until_s = -10 * DAY},
    {.file = "early",
     .common_name = "x",
     .alt_names = "DNS:relay.example.jp",
     .issuer = &root,
     .valid_from_s = 10 * DAY,
     .valid_until_s = 20 * DAY},
    {.file = "wrong-name",
     .common_name = "relay.example.jp",
     .alt_names = "DNS:mail.example.org",
     .issuer = &root},
    {.file = "many-names",
     .common_name = "x",
     .alt_names = "DNS:a.example,DNS:b.example,IP:192.0.2.7,IP:2001:db8::7,DNS:c.example",
     .issuer = &root},
    {.file = "unknown-authority",
     .common_name = "x",
     .alt_names = "DNS:relay.example.jp",
     .issuer = &other_root},
    {.file = "self-signed", .common_name = "printer", .alt_names = "DNS:relay.example.jp"},
    {.file = "wildcard", .common_name = "x", .alt_names = "DNS:*.example.jp", .issuer = &root},
    {.file = "wildcard-part",
     .common_name = "x",
     .alt_names = "DNS:rel*.example.jp",
     .issuer = &root},
    {.file = "wildcard-top", .common_name = "x", .alt_names = "DNS:*.jp,DNS:*", .issuer = &root},
    {.file = "address",
     .common_name = "x",
     .alt_names = "IP:192.0.2.7,IP:2001:db8::7",
     .issuer = &root},
    {.file = "address-as-name",
     .common_name = "192.0.2.7",
     .alt_names = "DNS:192.0.2.7",
     .issuer = &root},
    {.file = "cn-only", .common_name = "relay.example.jp", .issuer = &root},
    {.file = "nul", .common_name = "x", .nul_in_name = true, .issuer = &root},
    {.file = "escape",
     .common_name = "x\033[2J",
     .alt_names = "DNS:evil\033[2J.example",
     .issuer = &root},
    {.file = "under-expired",
     .common_name = "x",
     .alt_names = "DNS:relay.example.jp",
     .issuer = &middle_expired},
    {.file = "short-key",
     .common_name = "x",
     .alt_names = "DNS:relay.example.jp",
     .issuer = &root,
     .rsa_bits = 1024},
    {.file = "rsa",
     .common_name = "x",
     .alt_names = "DNS:relay.example.jp",
     .issuer = &root,
     .rsa_bits = 2048},
    {.file = "sha1",
     .common_name = "x",
     .alt_names = "DNS:relay.example.jp",
     .issuer = &root,
     .sha1 = true},
    {.file = "brief",
     .common_name = "x",
     .alt_names = "DNS:relay.example.jp",
     .issuer = &root,
     .valid_from_s = -DAY,
     .valid_until_s = BRIEF_S},
};
#define LEAF_COUNT (sizeof leaves / sizeof leaves[0])

static void write_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "we");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void write_locked_key(const char *path)
{
    EVP_PKEY *key = key_new(0);
    static unsigned char secret[] = "secret";
    FILE *file = fopen(path, "we");
    assert_non_null(file);
    assert_int_equal(PEM_write_PrivateKey(file, key, EVP_aes_128_cbc(), secret, 6, NULL, NULL), 1);
    fclose(file);
    EVP_PKEY_free(key);
}

/* A system that allows everything must not weaken a policy. */
static void loosen_the_system(void)
{
    char path[PATH_BYTES];
    path_of(path, "openssl", ".cnf");
    write_file(path, "openssl_conf = a\n[a]\nssl_conf = b\n[b]\nsystem_default = c\n[c]\n"
                     "MinProtocol = TLSv1\nCipherString = ALL:@SECLEVEL=0\n");
    setenv("OPENSSL_CONF", path, 1);
}

static int setup(void **state)
{
    (void)state;
    (void)snprintf(directory, sizeof directory, "/tmp/tasuki-test-tls-XXXXXX");
    assert_non_null(mkdtemp(directory));
    loosen_the_system();
    char path[PATH_BYTES];
    path_of(path, "empty", ".txt");
    write_file(path, "");
    path_of(path, "garbage", ".txt");
    write_file(path, "no certificate here\n");
    path_of(path, "locked", ".txt");
    write_locked_key(path);
    assert_int_equal(tls_library_init(), ERR_OK);
    root = make(&(struct recipe){.file = "root",
                                 .common_name = "Test Root",
                                 .valid_from_s = -DAY,
                                 .valid_until_s = DAY,
                                 .authority = true});
    other_root = make(&(struct recipe){.file = "other-root",
                                       .common_name = "Stranger",
                                       .valid_from_s = -DAY,
                                       .valid_until_s = DAY,
                                       .authority = true});
    middle_expired = make(&(struct recipe){.file = "middle",
                                           .common_name = "Old Middle",
                                           .issuer = &root,
                                           .valid_from_s = -20 * DAY,
                                           .valid_until_s = -DAY,
                                           .authority = true});
    for (size_t index = 0; index < LEAF_COUNT; index++) {
        struct recipe recipe = leaves[index];
        if (recipe.valid_until_s == 0) {
            recipe.valid_from_s = -DAY;
            recipe.valid_until_s = DAY;
        }
        struct identity made = make(&recipe);
        identity_deinit(&made);
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    static const char *const authorities[] = {"root", "other-root", "middle"};
    char path[PATH_BYTES];
    for (size_t index = 0; index < LEAF_COUNT + 3; index++) {
        const char *file = index < 3 ? authorities[index] : leaves[index - 3].file;
        path_of(path, file, ".pem");
        unlink(path);
        path_of(path, file, "-alone.pem");
        unlink(path);
        path_of(path, file, ".key");
        unlink(path);
    }
    path_of(path, "openssl", ".cnf");
    unlink(path);
    path_of(path, "empty", ".txt");
    unlink(path);
    path_of(path, "garbage", ".txt");
    unlink(path);
    path_of(path, "locked", ".txt");
    unlink(path);
    rmdir(directory);
    identity_deinit(&root);
    identity_deinit(&other_root);
    identity_deinit(&middle_expired);
    tls_library_deinit();
    return 0;
}

/* ---- policies ---- */

static struct tls_policy *server_policy(const char *file)
{
    char certificate[PATH_BYTES];
    char key[PATH_BYTES];
    char problem[PROBLEM_BYTES] = "";
    struct tls_policy *policy = NULL;
    path_of(certificate, file, ".pem");
    path_of(key, file, ".key");
    struct tls_server_config config = {certificate, key};
    enum err err = tls_server_policy_new(&policy, &config, problem);
    assert_string_equal(problem, "");
    assert_int_equal(err, ERR_OK);
    return policy;
}

static struct tls_policy *client_policy_by(enum tls_verify verify, const char *path,
                                           const char *fingerprint)
{
    char problem[PROBLEM_BYTES] = "";
    struct tls_policy *policy = NULL;
    struct tls_client_config config = {verify, path, fingerprint};
    enum err err = tls_client_policy_new(&policy, &config, problem);
    assert_string_equal(problem, "");
    assert_int_equal(err, ERR_OK);
    return policy;
}

static struct tls_policy *client_policy(enum tls_verify verify, const char *ca,
                                        const char *fingerprint)
{
    char path[PATH_BYTES];
    path_of(path, ca, ".pem");
    return client_policy_by(verify, path, fingerprint);
}

static void test_client_policy_problems(void **state)
{
    (void)state;
    char empty[PATH_BYTES];
    char garbage[PATH_BYTES];
    path_of(empty, "empty", ".txt");
    path_of(garbage, "garbage", ".txt");
    const struct {
        const char *env; /* SSL_CERT_FILE: what counts as the system's authorities */
        struct tls_client_config config;
        enum err err;
        const char *words;
    } cases[] = {
        {NULL, {TLS_VERIFY_FULL, "/nonexistent/ca.pem", NULL}, ERR_NOT_FOUND, "No such file"},
        {NULL, {TLS_VERIFY_FULL, directory, NULL}, ERR_IO, "Is a directory"},
        {NULL, {TLS_VERIFY_FULL, empty, NULL}, ERR_SYNTAX, "the file is empty"},
        {NULL, {TLS_VERIFY_FULL, garbage, ""}, ERR_SYNTAX, "no usable authority"},
        {"/nonexistent/ca.pem", {TLS_VERIFY_FULL, NULL, NULL}, ERR_NOT_FOUND, "/nonexistent/ca"},
        {empty, {TLS_VERIFY_FULL, "", NULL}, ERR_SYNTAX, "the file is empty"},
        {garbage, {TLS_VERIFY_FULL, NULL, ""}, ERR_SYNTAX, "no usable authority"},
        {NULL, {TLS_VERIFY_FULL, NULL, "abcd"}, ERR_SYNTAX, "not a SHA-256 fingerprint"},
        {NULL,
         {TLS_VERIFY_NONE, NULL,
          "00112233445566778899aabbccddeeff00112233445566778899aabbccddeefg"},
         ERR_SYNTAX,
         "not a SHA-256 fingerprint"},
        {NULL,
         {TLS_VERIFY_FULL, NULL,
          "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff00"},
         ERR_SYNTAX,
         "not a SHA-256 fingerprint"},
    };
    for (size_t index = 0; index < sizeof cases / sizeof cases[0]; index++) {
        char problem[PROBLEM_BYTES] = "";
        struct tls_policy *policy = NULL;
        if (cases[index].env != NULL) {
            setenv("SSL_CERT_FILE", cases[index].env, 1);
        }
        enum err err = tls_client_policy_new(&policy, &cases[index].config, problem);
        unsetenv("SSL_CERT_FILE");
        if (strstr(problem, cases[index].words) == NULL) {
            fail_msg("case %zu says: %s", index, problem);
        }
        assert_int_equal(err, cases[index].err);
        assert_null(policy);
        assert_int_equal(ERR_peek_error(), 0);
    }
}

static void test_server_policy_problems(void **state)
{
    (void)state;
    char good[PATH_BYTES];
    char key[PATH_BYTES];
    char other_key[PATH_BYTES];
    char locked[PATH_BYTES];
    path_of(good, "good", ".pem");
    path_of(key, "good", ".key");
    path_of(other_key, "expired", ".key");
    path_of(locked, "locked", ".txt");
    const struct {
        struct tls_server_config config;
        enum err err;
        const char *words;
    } cases[] = {
        {{"/nonexistent/c.pem", key}, ERR_NOT_FOUND, "cannot read the certificate /nonexistent"},
        {{good, "/nonexistent/k.pem"}, ERR_NOT_FOUND, "cannot read the key /nonexistent"},
        {{key, key}, ERR_SYNTAX, "no usable certificate"},
        {{good, good}, ERR_SYNTAX, "no usable key"},
        {{good, locked}, ERR_SYNTAX, "without a passphrase"},
        {{good, other_key}, ERR_SYNTAX, "key"},
    };
    for (size_t index = 0; index < sizeof cases / sizeof cases[0]; index++) {
        char problem[PROBLEM_BYTES] = "";
        struct tls_policy *policy = NULL;
        enum err err = tls_server_policy_new(&policy, &cases[index].config, problem);
        if (strstr(problem, cases[index].words) == NULL) {
            fail_msg("case %zu says: %s", index, problem);
        }
        assert_int_equal(err, cases[index].err);
        assert_null(policy);
    }
}

/* ---- two sessions back to back ---- */

struct pair {
    struct tls *client;
    struct tls *server;
    uint32_t random; /* state of the cuts; 0: no cuts */
};

static uint32_t next_random(uint32_t *random)
{
    *random ^= *random << 13;
    *random ^= *random >> 17;
    *random ^= *random << 5;
    return *random;
}

/* Moves one piece; false when there was nothing. */
static bool move(struct pair *p, struct tls *from, struct tls *to)
{
    struct slice output = tls_output(from);
    assert_true(output.len <= OUTPUT_BOUND);
    if (output.len == 0) {
        return false;
    }
    size_t count = output.len;
    if (p->random != 0) {
        uint32_t draw = next_random(&p->random);
        size_t most = draw % 4 == 0 ? 7 : draw % 4 == 1 ? 1500 : OUTPUT_BOUND;
        count = 1 + next_random(&p->random) % most;
        count = count < output.len ? count : output.len;
    }
    /* A copy of its own size, so that a read past the end is found. */
    uint8_t *piece = malloc(count);
    assert_non_null(piece);
    memcpy(piece, output.data, count);
    tls_output_done(from, count);
    tls_feed(to, slice_of(piece, count));
    free(piece);
    return true;
}

static void pump(struct pair *p)
{
    for (int round = 0; round < PUMP_ROUNDS_MAX; round++) {
        bool moved = move(p, p->client, p->server);
        moved = move(p, p->server, p->client) || moved;
        if (!moved) {
            return;
        }
    }
    fail_msg("the pair never comes to rest");
}

static struct pair pair_new(struct tls_policy *client, struct tls_policy *server, const char *name,
                            uint32_t random)
{
    struct pair p = {.random = random};
    assert_int_equal(tls_new(&p.client, client, name), ERR_OK);
    assert_int_equal(tls_new(&p.server, server, ""), ERR_OK);
    assert_int_equal(tls_output(p.server).len, 0);
    assert_true(tls_output(p.client).len > 0);
    return p;
}

static void pair_free(struct pair *p)
{
    tls_free(&p->client);
    tls_free(&p->server);
}

static struct pair pair_open(struct tls_policy *client, struct tls_policy *server, uint32_t random)
{
    struct pair p = pair_new(client, server, "relay.example.jp", random);
    pump(&p);
    assert_string_equal(tls_problem(p.client), "");
    assert_int_equal(tls_state(p.client), TLS_OPEN);
    assert_int_equal(tls_state(p.server), TLS_OPEN);
    return p;
}

/* ---- verification ---- */

static void test_verdicts(void **state)
{
    (void)state;
    static const struct {
        const char *file;
        const char *ca;
        const char *name;
        enum tls_verify verify;
        enum tls_failure failure;
        const char *words;
    } cases[] = {
        {"good", "root", "relay.example.jp", TLS_VERIFY_FULL, TLS_FAILURE_NONE, ""},
        {"good", "root", "RELAY.Example.JP", TLS_VERIFY_FULL, TLS_FAILURE_NONE, ""},
        {"good", "root", "relay.example.jp.", TLS_VERIFY_FULL, TLS_FAILURE_NONE, ""},
        {"good", "root", "example.jp", TLS_VERIFY_FULL, TLS_FAILURE_WRONG_NAME,
         "certificate is for relay.example.jp, not example.jp"},
        {"good", "good-alone", "relay.example.jp", TLS_VERIFY_FULL, TLS_FAILURE_NONE, ""},
        {"good", "expired-alone", "relay.example.jp", TLS_VERIFY_FULL, TLS_FAILURE_UNTRUSTED,
         "certificate is signed by \"Test Root\", which is not a known authority here"},
        {"expired", "root", "relay.example.jp", TLS_VERIFY_FULL, TLS_FAILURE_EXPIRED,
         "certificate expired on 20"},
        {"early", "root", "relay.example.jp", TLS_VERIFY_FULL, TLS_FAILURE_EXPIRED,
         "certificate is not valid before 20"},
        {"under-expired", "root", "relay.example.jp", TLS_VERIFY_FULL, TLS_FAILURE_EXPIRED,
         "certificate of the authority \"Old Middle\" expired on 20"},
        {"wrong-name", "root", "relay.example.jp", TLS_VERIFY_FULL, TLS_FAILURE_WRONG_NAME,
         "certificate is for mail.example.org, not relay.example.jp"},
        {"many-names", "root", "relay.example.jp", TLS_VERIFY_FULL, TLS_FAILURE_WRONG_NAME,
         "certificate is for a.example, b.example, 192.0.2.7 and 2 more, not relay.example.jp"},
        {"unknown-authority", "root", "relay.example.jp", TLS_VERIFY_FULL, TLS_FAILURE_UNTRUSTED,
         "certificate is signed by \"Stranger\", which is not a known authority here"},
        {"self-signed", "root", "relay.example.jp", TLS_VERIFY_FULL, TLS_FAILURE_UNTRUSTED,
         "certificate is signed by nobody but itself, as \"printer\""},
        {"self-signed", "self-signed", "relay.example.jp", TLS_VERIFY_FULL, TLS_FAILURE_NONE, ""},
        {"wildcard", "root", "relay.example.jp", TLS_VERIFY_FULL, TLS_FAILURE_NONE, ""},
        {"wildcard", "root", "a.relay.example.jp", TLS_VERIFY_FULL, TLS_FAILURE_WRONG_NAME,
         "certificate is for *.example.jp, not a.relay.example.jp"},
        {"wildcard", "root", "example.jp", TLS_VERIFY_FULL, TLS_FAILURE_WRONG_NAME, ""},
        {"wildcard-part", "root", "relay.example.jp", TLS_VERIFY_FULL, TLS_FAILURE_WRONG_NAME, ""},
        {"wildcard-top", "root", "example.jp", TLS_VERIFY_FULL, TLS_FAILURE_WRONG_NAME, ""},
        {"wildcard-top", "root", "localhost", TLS_VERIFY_FULL, TLS_FAILURE_WRONG_NAME, ""},
        {"address", "root", "192.0.2.7", TLS_VERIFY_FULL, TLS_FAILURE_NONE, ""},
        {"address", "root", "2001:DB8:0::7", TLS_VERIFY_FULL, TLS_FAILURE_NONE, ""},
        {"address", "root", "[2001:db8::7]", TLS_VERIFY_FULL, TLS_FAILURE_NONE, ""},
        {"address", "root", "192.0.2.8", TLS_VERIFY_FULL, TLS_FAILURE_WRONG_NAME,
         "certificate is for 192.0.2.7, 2001:db8::7, not 192.0.2.8"},
        {"address-as-name", "root", "192.0.2.7", TLS_VERIFY_FULL, TLS_FAILURE_WRONG_NAME, ""},
        {"cn-only", "root", "relay.example.jp", TLS_VERIFY_FULL, TLS_FAILURE_WRONG_NAME,
         "certificate is for no host (it only has the old kind of name, \"relay.example.jp\"), "
         "not relay.example.jp"},
        {"nul", "root", "relay.example.jp", TLS_VERIFY_FULL, TLS_FAILURE_WRONG_NAME,
         "certificate is for relay.example.jp\\x00.evil.example, not relay.example.jp"},
        {"escape", "root", "relay.example.jp", TLS_VERIFY_FULL, TLS_FAILURE_WRONG_NAME,
         "certificate is for evil\\x1b[2J.example, not relay.example.jp"},
        {"expired", "root", "relay.example.jp", TLS_VERIFY_NONE, TLS_FAILURE_NONE, ""},
        {"self-signed", "root", "other.example", TLS_VERIFY_NONE, TLS_FAILURE_NONE, ""},
        {"unknown-authority", "root", "", TLS_VERIFY_NONE, TLS_FAILURE_NONE, ""},
    };
    for (size_t index = 0; index < sizeof cases / sizeof cases[0]; index += turns(1, 5)) {
        struct tls_policy *client = client_policy(cases[index].verify, cases[index].ca, NULL);
        struct tls_policy *server = server_policy(cases[index].file);
        struct pair p = pair_new(client, server, cases[index].name, 0);
        pump(&p);
        if (tls_failure(p.client) != cases[index].failure ||
            strncmp(tls_problem(p.client), cases[index].words, strlen(cases[index].words)) != 0) {
            fail_msg("case %zu (%s for %s): failure %d: %s", index, cases[index].file,
                     cases[index].name, tls_failure(p.client), tls_problem(p.client));
        }
        bool good = cases[index].failure == TLS_FAILURE_NONE;
        assert_int_equal(tls_state(p.client), good ? TLS_OPEN : TLS_FAILED);
        assert_int_equal(tls_state(p.server), good ? TLS_OPEN : TLS_FAILED);
        assert_int_equal(tls_write(p.client, SLICE("x")), good ? 1 : 0);
        if (!good) {
            assert_int_equal(tls_failure(p.server), TLS_FAILURE_HANDSHAKE);
            assert_non_null(strstr(tls_problem(p.server), "alert"));
        }
        pair_free(&p);
        tls_policy_free(&client);
        tls_policy_free(&server);
    }
}

static void fingerprint_of(const char *file, char *to, bool colons)
{
    char path[PATH_BYTES];
    uint8_t digest[EVP_MAX_MD_SIZE];
    unsigned bytes = 0;
    path_of(path, file, ".pem");
    FILE *stream = fopen(path, "re");
    assert_non_null(stream);
    X509 *certificate = PEM_read_X509(stream, NULL, NULL, NULL);
    fclose(stream);
    assert_int_equal(X509_digest(certificate, EVP_sha256(), digest, &bytes), 1);
    X509_free(certificate);
    struct buf text;
    buf_init(&text, to, FINGERPRINT_BYTES);
    for (unsigned index = 0; index < bytes; index++) {
        buf_printf(&text, colons ? "%s%02X" : "%s%02x", colons && index > 0 ? ":" : "",
                   digest[index]);
    }
    buf_put_byte(&text, '\0');
    assert_false(text.overflow);
}

/* The pinned certificate is taken whatever its authority, its name and its dates are; another is
 * not, even when the rest is well. */
static void test_fingerprint(void **state)
{
    (void)state;
    static const struct {
        const char *file;
        const char *pinned;
        bool colons;
        enum tls_verify verify;
        bool good;
    } cases[] = {
        {"good", "good", false, TLS_VERIFY_FULL, true},
        {"good", "good", true, TLS_VERIFY_FULL, true},
        {"self-signed", "self-signed", true, TLS_VERIFY_FULL, true},
        {"expired", "expired", true, TLS_VERIFY_FULL, true},
        {"good", "expired", true, TLS_VERIFY_FULL, false},
        {"good", "expired", false, TLS_VERIFY_NONE, false},
        {"good", "root", false, TLS_VERIFY_FULL, false},
    };
    for (size_t index = 0; index < sizeof cases / sizeof cases[0]; index++) {
        char pin[FINGERPRINT_BYTES];
        char actual[FINGERPRINT_BYTES];
        fingerprint_of(cases[index].pinned, pin, cases[index].colons);
        fingerprint_of(cases[index].file, actual, true);
        struct tls_policy *client = client_policy(cases[index].verify, "root", pin);
        struct tls_policy *server = server_policy(cases[index].file);
        struct pair p = pair_new(client, server, "other.example", 0);
        pump(&p);
        assert_int_equal(tls_failure(p.client),
                         cases[index].good ? TLS_FAILURE_NONE : TLS_FAILURE_FINGERPRINT);
        assert_int_equal(tls_state(p.client), cases[index].good ? TLS_OPEN : TLS_FAILED);
        if (!cases[index].good) {
            assert_non_null(strcasestr(tls_problem(p.client), actual));
        }
        pair_free(&p);
        tls_policy_free(&client);
        tls_policy_free(&server);
    }
}

static void test_server_names(void **state)
{
    (void)state;
    char longest[300];
    memset(longest, 'a', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    const char *const refused[] = {
        "", ".example.jp", "a b.example", "caf\xc3\xa9.example", "a\n.example", longest};
    struct tls_policy *client = client_policy(TLS_VERIFY_FULL, "root", NULL);
    for (size_t index = 0; index < sizeof refused / sizeof refused[0]; index++) {
        struct tls *t = NULL;
        assert_int_equal(tls_new(&t, client, refused[index]), ERR_SYNTAX);
        assert_null(t);
    }
    tls_policy_free(&client);
}

/* ---- bytes ---- */

#define TRANSFER_BYTES turns(20u * 1024 * 1024, 150000)

/* One direction of a long transfer: position decides the byte, so nothing has to be kept. */
struct flow {
    size_t sent;
    size_t received;
};

static uint8_t byte_at(size_t position)
{
    return (uint8_t)(position * 7 + (position >> 13));
}

static void flow_send(struct flow *f, struct tls *from, uint32_t *random)
{
    static _Thread_local uint8_t bytes[100000];
    size_t count = 1 + next_random(random) % sizeof bytes;
    count = count < TRANSFER_BYTES - f->sent ? count : TRANSFER_BYTES - f->sent;
    for (size_t index = 0; index < count; index++) {
        bytes[index] = byte_at(f->sent + index);
    }
    size_t taken = tls_write(from, slice_of(bytes, count));
    assert_true(taken <= count);
    assert_true(taken > 0 || count == 0 || tls_output(from).len > 0);
    assert_true(tls_output(from).len <= OUTPUT_BOUND);
    f->sent += taken;
}

static void flow_receive(struct flow *f, struct tls *to, uint32_t *random)
{
    static _Thread_local uint8_t bytes[20000];
    size_t cap = 1 + next_random(random) % sizeof bytes;
    size_t count;
    while ((count = tls_read(to, bytes, cap)) > 0) {
        assert_true(count <= cap);
        for (size_t index = 0; index < count; index++) {
            if (bytes[index] != byte_at(f->received + index)) {
                fail_msg("wrong byte at %zu", f->received + index);
            }
        }
        f->received += count;
    }
}

static void transfer(int version, const char *expected, uint32_t random)
{
    struct tls_policy *client = client_policy(TLS_VERIFY_FULL, "root", NULL);
    struct tls_policy *server = server_policy("good");
    SSL_CTX_set_max_proto_version(server->context, version);
    struct pair p = pair_open(client, server, random);
    struct flow up = {0};
    struct flow down = {0};
    assert_int_equal(strncmp(tls_describe(p.client), expected, strlen(expected)), 0);
    assert_string_equal(tls_describe(p.client), tls_describe(p.server));
    while (up.received < TRANSFER_BYTES || down.received < TRANSFER_BYTES) {
        flow_send(&up, p.client, &random);
        flow_send(&down, p.server, &random);
        while (move(&p, p.client, p.server)) {
            flow_receive(&up, p.server, &random);
        }
        while (move(&p, p.server, p.client)) {
            flow_receive(&down, p.client, &random);
        }
        assert_string_equal(tls_problem(p.client), "");
        assert_string_equal(tls_problem(p.server), "");
    }
    assert_int_equal(up.received, TRANSFER_BYTES);
    assert_int_equal(down.received, TRANSFER_BYTES);
    pair_free(&p);
    tls_policy_free(&client);
    tls_policy_free(&server);
}

static void test_transfer_1_3(void **state)
{
    (void)state;
    transfer(TLS1_3_VERSION, "TLSv1.3 TLS_", 4711);
}

static void test_transfer_1_2(void **state)
{
    (void)state;
    transfer(TLS1_2_VERSION, "TLSv1.2 ECDHE-", 815);
}

/* Byte by byte, and whole: the same end. */
static void test_handshake_cuts(void **state)
{
    (void)state;
    struct tls_policy *client = client_policy(TLS_VERIFY_FULL, "root", NULL);
    struct tls_policy *server = server_policy("good");
    for (uint32_t random = 0; random < turns(40, 3); random++) {
        struct pair p = pair_open(client, server, random * 2654435761u);
        pair_free(&p);
    }
    struct pair p = pair_new(client, server, "relay.example.jp", 0);
    for (int round = 0; round < 100000 && tls_state(p.client) == TLS_HANDSHAKING; round++) {
        struct tls *from = tls_output(p.client).len > 0 ? p.client : p.server;
        struct tls *to = from == p.client ? p.server : p.client;
        assert_true(tls_output(from).len > 0);
        uint8_t bytes[16];
        struct slice piece = slice_head(tls_output(from), turns(1, sizeof bytes));
        memcpy(bytes, piece.data, piece.len);
        tls_output_done(from, piece.len);
        tls_feed(to, slice_of(bytes, piece.len));
    }
    assert_int_equal(tls_state(p.client), TLS_OPEN);
    pair_free(&p);
    tls_policy_free(&client);
    tls_policy_free(&server);
}

static void test_output_bound(void **state)
{
    (void)state;
    struct tls_policy *client = client_policy(TLS_VERIFY_FULL, "root", NULL);
    struct tls_policy *server = server_policy("good");
    struct pair p = pair_new(client, server, "relay.example.jp", 0);
    static const uint8_t bytes[300000];
    assert_int_equal(tls_write(p.client, slice_of(bytes, sizeof bytes)), 0);
    assert_string_equal(tls_describe(p.client), "");
    pump(&p);
    size_t total = 0;
    for (int round = 0; round < 1000; round++) {
        total += tls_write(p.client, slice_of(bytes, sizeof bytes));
        assert_true(tls_output(p.client).len <= OUTPUT_BOUND);
    }
    /* Full, and most of it is payload. */
    assert_true(total > OUTPUT_BOUND * 9 / 10 && total < OUTPUT_BOUND);
    assert_int_equal(tls_write(p.client, slice_of(bytes, sizeof bytes)), 0);
    /* There is still room to say goodbye. */
    tls_shutdown(p.client);
    assert_true(tls_output(p.client).len <= OUTPUT_BOUND);
    struct flow drain = {0};
    uint8_t to[4096];
    assert_true(move(&p, p.client, p.server));
    size_t count;
    while ((count = tls_read(p.server, to, sizeof to)) > 0) {
        drain.received += count;
    }
    assert_int_equal(drain.received, total);
    assert_int_equal(tls_state(p.server), TLS_PEER_DONE);
    pair_free(&p);
    tls_policy_free(&client);
    tls_policy_free(&server);
}

/* ---- the end of a stream ---- */

static void test_close_notify(void **state)
{
    (void)state;
    struct tls_policy *client = client_policy(TLS_VERIFY_FULL, "root", NULL);
    struct tls_policy *server = server_policy("good");
    struct pair p = pair_open(client, server, 0);
    uint8_t to[64];
    assert_int_equal(tls_write(p.server, SLICE("221 bye\r\n")), 9);
    tls_shutdown(p.server);
    size_t said = tls_output(p.server).len;
    tls_shutdown(p.server);
    assert_int_equal(tls_output(p.server).len, said);
    assert_int_equal(tls_write(p.server, SLICE("more")), 0);
    pump(&p);
    tls_feed_end(p.client);
    assert_int_equal(tls_state(p.client), TLS_OPEN);
    assert_int_equal(tls_read(p.client, to, sizeof to), 9);
    assert_memory_equal(to, "221 bye\r\n", 9);
    assert_int_equal(tls_read(p.client, to, sizeof to), 0);
    assert_int_equal(tls_state(p.client), TLS_PEER_DONE);
    assert_int_equal(tls_failure(p.client), TLS_FAILURE_NONE);
    assert_string_equal(tls_problem(p.client), "");
    /* What comes after goodbye is not looked at. */
    tls_feed(p.client, SLICE("anything"));
    assert_int_equal(tls_state(p.client), TLS_PEER_DONE);
    tls_shutdown(p.client);
    pump(&p);
    assert_int_equal(tls_read(p.server, to, sizeof to), 0);
    assert_int_equal(tls_state(p.server), TLS_PEER_DONE);
    pair_free(&p);
    tls_policy_free(&client);
    tls_policy_free(&server);
}

/* The stream ends after every number of bytes of two records and a goodbye: only all of them are
 * an end, and what came whole is read before the failure. */
static void test_truncation(void **state)
{
    (void)state;
    struct tls_policy *client = client_policy(TLS_VERIFY_FULL, "root", NULL);
    struct tls_policy *server = server_policy("good");
    const size_t step = turns(1, 15);
    size_t total = 1;
    for (size_t cut = 0; cut <= total;
         cut += cut < total && total - cut < step ? total - cut : step) {
        struct pair p = pair_open(client, server, 0);
        uint8_t to[64];
        assert_int_equal(tls_write(p.server, SLICE("250 one\r\n")), 9);
        size_t first = tls_output(p.server).len;
        assert_int_equal(tls_write(p.server, SLICE("250 two\r\n")), 9);
        size_t second = tls_output(p.server).len;
        tls_shutdown(p.server);
        struct slice output = tls_output(p.server);
        total = output.len;
        tls_feed(p.client, slice_head(output, cut));
        tls_feed_end(p.client);
        size_t expected = cut >= second ? 18 : cut >= first ? 9 : 0;
        size_t got = 0;
        size_t count;
        while ((count = tls_read(p.client, to, sizeof to)) > 0) {
            got += count;
        }
        assert_int_equal(got, expected);
        assert_int_equal(tls_state(p.client), cut == total ? TLS_PEER_DONE : TLS_FAILED);
        assert_int_equal(tls_failure(p.client),
                         cut == total ? TLS_FAILURE_NONE : TLS_FAILURE_TRUNCATED);
        pair_free(&p);
    }
    tls_policy_free(&client);
    tls_policy_free(&server);
}

static void test_end_in_handshake(void **state)
{
    (void)state;
    struct tls_policy *client = client_policy(TLS_VERIFY_FULL, "root", NULL);
    struct tls_policy *server = server_policy("good");
    for (int stage = 0; stage < 2; stage++) {
        struct pair p = pair_new(client, server, "relay.example.jp", 0);
        if (stage == 1) {
            assert_true(move(&p, p.client, p.server));
            tls_feed(p.client, slice_head(tls_output(p.server), 100));
        }
        tls_feed_end(p.client);
        assert_int_equal(tls_state(p.client), TLS_FAILED);
        assert_int_equal(tls_failure(p.client), TLS_FAILURE_TRUNCATED);
        assert_non_null(strstr(tls_problem(p.client), "handshake"));
        pair_free(&p);
    }
    tls_policy_free(&client);
    tls_policy_free(&server);
}

static void test_garbage(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        const char *words;
    } cases[] = {
        {"220 mail.example.jp ESMTP\r\n", "does not speak TLS"},
        {"HTTP/1.1 400 Bad Request\r\n\r\n", ""},
        {"\x15\x03\x01\x00\x02\x02\x28", "no cipher or parameter in common"},
        {"\x15\x03\x01\x00\x02\x02\x46", "no safe version"},
        {"\x15\x03\x01\x00\x02\x02\x50", "alert: internal error"},
        {"\x16\x03\x03\xff\xff xxxxxxxxxxxxx", ""},
    };
    static const size_t sizes[] = {27, 28, 7, 7, 7, 19};
    struct tls_policy *client = client_policy(TLS_VERIFY_FULL, "root", NULL);
    for (size_t index = 0; index < sizeof cases / sizeof cases[0]; index++) {
        struct tls *t = NULL;
        uint8_t to[8];
        assert_int_equal(tls_new(&t, client, "relay.example.jp"), ERR_OK);
        tls_feed(t, slice_of(cases[index].bytes, sizes[index]));
        assert_int_equal(tls_state(t), TLS_FAILED);
        assert_int_equal(tls_failure(t), TLS_FAILURE_HANDSHAKE);
        if (strstr(tls_problem(t), cases[index].words) == NULL || tls_problem(t)[0] == '\0') {
            fail_msg("case %zu says: %s", index, tls_problem(t));
        }
        /* Failed is final. */
        tls_feed(t, SLICE("more"));
        tls_feed_end(t);
        assert_int_equal(tls_read(t, to, sizeof to), 0);
        assert_int_equal(tls_write(t, SLICE("x")), 0);
        tls_shutdown(t);
        assert_int_equal(tls_failure(t), TLS_FAILURE_HANDSHAKE);
        tls_free(&t);
        assert_null(t);
        tls_free(&t);
    }
    tls_policy_free(&client);
}

/* A flipped bit in a record: nothing of that record is handed out. */
static void test_damaged_record(void **state)
{
    (void)state;
    struct tls_policy *client = client_policy(TLS_VERIFY_FULL, "root", NULL);
    struct tls_policy *server = server_policy("good");
    struct pair p = pair_open(client, server, 0);
    uint8_t bytes[256];
    uint8_t to[64];
    assert_int_equal(tls_write(p.server, SLICE("250 ok\r\n")), 8);
    struct slice output = tls_output(p.server);
    memcpy(bytes, output.data, output.len);
    bytes[output.len - 1] ^= 1;
    tls_feed(p.client, slice_of(bytes, output.len));
    assert_int_equal(tls_read(p.client, to, sizeof to), 0);
    assert_int_equal(tls_state(p.client), TLS_FAILED);
    assert_int_equal(tls_failure(p.client), TLS_FAILURE_HANDSHAKE);
    pair_free(&p);
    tls_policy_free(&client);
    tls_policy_free(&server);
}

/* ---- against a plain SSL that may misbehave ---- */

struct raw {
    SSL_CTX *context;
    SSL *ssl;
};

static struct raw raw_new(const char *file, int version)
{
    char path[PATH_BYTES];
    struct raw r = {.context =
                        SSL_CTX_new(file == NULL ? TLS_client_method() : TLS_server_method())};
    assert_non_null(r.context);
    SSL_CTX_set_security_level(r.context, 0);
    if (file != NULL) {
        path_of(path, file, ".pem");
        assert_int_equal(SSL_CTX_use_certificate_chain_file(r.context, path), 1);
        path_of(path, file, ".key");
        assert_int_equal(SSL_CTX_use_PrivateKey_file(r.context, path, SSL_FILETYPE_PEM), 1);
    }
    SSL_CTX_set_min_proto_version(r.context, TLS1_VERSION);
    SSL_CTX_set_max_proto_version(r.context, version);
    assert_int_equal(SSL_CTX_set_cipher_list(r.context, "ALL:@SECLEVEL=0"), 1);
    return r;
}

static void raw_open(struct raw *r, bool server)
{
    r->ssl = SSL_new(r->context);
    assert_non_null(r->ssl);
    SSL_set_bio(r->ssl, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
    if (server) {
        SSL_set_accept_state(r->ssl);
    } else {
        SSL_set_connect_state(r->ssl);
    }
}

static void raw_free(struct raw *r)
{
    SSL_free(r->ssl);
    SSL_CTX_free(r->context);
    ERR_clear_error();
}

/* All that stands ready, both ways, until nothing does. The raw side reads and drops. */
static void raw_pump(struct raw *r, struct tls *t)
{
    uint8_t bytes[16384];
    for (int round = 0; round < 1000; round++) {
        struct slice output = tls_output(t);
        if (output.len > 0) {
            assert_int_equal(BIO_write(SSL_get_rbio(r->ssl), output.data, (int)output.len),
                             (int)output.len);
            tls_output_done(t, output.len);
        }
        while (SSL_read(r->ssl, bytes, sizeof bytes) > 0) {
        }
        ERR_clear_error();
        int count = BIO_read(SSL_get_wbio(r->ssl), bytes, sizeof bytes);
        if (count <= 0 && tls_output(t).len == 0) {
            return;
        }
        tls_feed(t, slice_of(bytes, count > 0 ? (size_t)count : 0));
    }
    fail_msg("never comes to rest");
}

static void test_old_and_weak(void **state)
{
    (void)state;
    static const struct {
        const char *file;
        int version;
        enum tls_verify verify;
        enum tls_failure failure;
        const char *words;
    } cases[] = {
        {"good", TLS1_1_VERSION, TLS_VERIFY_FULL, TLS_FAILURE_HANDSHAKE, "no safe version of TLS"},
        {"good", TLS1_1_VERSION, TLS_VERIFY_NONE, TLS_FAILURE_HANDSHAKE, "no safe version of TLS"},
        {"good", TLS1_2_VERSION, TLS_VERIFY_FULL, TLS_FAILURE_NONE, ""},
        {"short-key", TLS1_2_VERSION, TLS_VERIFY_FULL, TLS_FAILURE_UNTRUSTED, "key too"},
        {"short-key", TLS1_3_VERSION, TLS_VERIFY_FULL, TLS_FAILURE_UNTRUSTED, "key too"},
        {"sha1", TLS1_2_VERSION, TLS_VERIFY_FULL, TLS_FAILURE_UNTRUSTED, "digest algorithm"},
        {"sha1", TLS1_3_VERSION, TLS_VERIFY_FULL, TLS_FAILURE_UNTRUSTED, "digest algorithm"},
    };
    for (size_t index = 0; index < sizeof cases / sizeof cases[0]; index++) {
        struct raw server = raw_new(cases[index].file, cases[index].version);
        struct tls_policy *policy = client_policy(cases[index].verify, "root", NULL);
        struct tls *t = NULL;
        raw_open(&server, true);
        assert_int_equal(tls_new(&t, policy, "relay.example.jp"), ERR_OK);
        raw_pump(&server, t);
        if (tls_failure(t) != cases[index].failure ||
            strstr(tls_problem(t), cases[index].words) == NULL) {
            fail_msg("case %zu: %d %s", index, tls_failure(t), tls_problem(t));
        }
        tls_free(&t);
        tls_policy_free(&policy);
        raw_free(&server);
    }
}

/* OpenSSL takes none below 1,024 bits, not even as such a server. */
static const char dh_of_1024_bits[] =
    "-----BEGIN DH PARAMETERS-----\n"
    "MIGHAoGBAMtWkRFk/XAJOGyc7bqEM8yYxYOhfcPNAVvJikrjhET5dFoeKhXgIlHg\n"
    "5agJ6BOCu8ApvsyMuPSqNJfk8Zx7y7bwRWzRx/a+AtKR8dDlV3G462bAcvM/sTNk\n"
    "SebPpc+qrUrVirgPHH4wZvaC/PqhxH2TH2hphwuhQVp1ESr2IbAXAgEC\n"
    "-----END DH PARAMETERS-----\n";

/* A server of TLS 1.2 that has nothing better. Without verification as well: whoever listens on the
 * line must not read along. */
static void test_weak_ciphers_and_parameters(void **state)
{
    (void)state;
    static const struct {
        const char *file, *ciphers;
        const char *parameters; /* NULL: strong ones */
        enum tls_failure failure;
    } cases[] = {
        {"good", "ECDHE-ECDSA-AES128-GCM-SHA256", NULL, TLS_FAILURE_NONE},
        {"good", "ECDHE-ECDSA-NULL-SHA", NULL, TLS_FAILURE_HANDSHAKE},
        {"rsa", "NULL-SHA256", NULL, TLS_FAILURE_HANDSHAKE},
        {"rsa", "ADH-AES256-GCM-SHA384", NULL, TLS_FAILURE_HANDSHAKE},
        {"rsa", "DHE-RSA-AES128-GCM-SHA256", NULL, TLS_FAILURE_NONE},
        {"rsa", "DHE-RSA-AES128-GCM-SHA256", dh_of_1024_bits, TLS_FAILURE_HANDSHAKE},
    };
    for (size_t index = 0; index < 2 * sizeof cases / sizeof cases[0]; index++) {
        size_t row = index / 2;
        struct raw server = raw_new(cases[row].file, TLS1_2_VERSION);
        assert_int_equal(SSL_CTX_set_cipher_list(server.context, cases[row].ciphers), 1);
        assert_int_equal(SSL_CTX_set_dh_auto(server.context, cases[row].parameters == NULL), 1);
        if (cases[row].parameters != NULL) {
            BIO *text = BIO_new_mem_buf(cases[row].parameters, -1);
            EVP_PKEY *parameters = PEM_read_bio_Parameters(text, NULL);
            assert_int_equal(SSL_CTX_set0_tmp_dh_pkey(server.context, parameters), 1);
            BIO_free(text);
        }
        struct tls_policy *policy =
            client_policy(index % 2 == 0 ? TLS_VERIFY_FULL : TLS_VERIFY_NONE, "root", NULL);
        struct tls *t = NULL;
        raw_open(&server, true);
        assert_int_equal(tls_new(&t, policy, "relay.example.jp"), ERR_OK);
        raw_pump(&server, t);
        bool open = tls_state(t) == TLS_OPEN;
        if (tls_failure(t) != cases[row].failure ||
            open != (cases[row].failure == TLS_FAILURE_NONE)) {
            fail_msg("%s: %d %s", cases[row].ciphers, tls_failure(t), tls_problem(t));
        }
        tls_free(&t);
        tls_policy_free(&policy);
        raw_free(&server);
    }
}

static void test_old_client_refused(void **state)
{
    (void)state;
    struct raw client = raw_new(NULL, TLS1_1_VERSION);
    struct tls_policy *policy = server_policy("good");
    struct tls *t = NULL;
    raw_open(&client, false);
    assert_int_equal(tls_new(&t, policy, ""), ERR_OK);
    raw_pump(&client, t);
    assert_int_equal(tls_state(t), TLS_FAILED);
    assert_non_null(strstr(tls_problem(t), "no safe version of TLS"));
    tls_free(&t);
    tls_policy_free(&policy);
    raw_free(&client);
}

static void test_alpn_refused(void **state)
{
    (void)state;
    static const unsigned char wanted[] = "\x08http/1.1";
    struct raw client = raw_new(NULL, TLS1_3_VERSION);
    struct tls_policy *policy = server_policy("good");
    struct tls *t = NULL;
    raw_open(&client, false);
    assert_int_equal(SSL_set_alpn_protos(client.ssl, wanted, sizeof wanted - 1), 0);
    assert_int_equal(tls_new(&t, policy, ""), ERR_OK);
    raw_pump(&client, t);
    assert_int_equal(tls_state(t), TLS_FAILED);
    tls_free(&t);
    tls_policy_free(&policy);
    raw_free(&client);
}

/* A ClientHello with a server_name of so many bytes of 'x', made by hand: no library sends one. */
static size_t hello_with_name(uint8_t *to, size_t name_bytes)
{
    static const uint8_t more[] = {
        0, 43, 0, 3,  2, 3,  4,            /* supported_versions: 1.3 */
        0, 10, 0, 4,  0, 2,  0, 29,        /* supported_groups: x25519 */
        0, 13, 0, 4,  0, 2,  4, 3,         /* signature_algorithms: ecdsa_secp256r1_sha256 */
        0, 51, 0, 38, 0, 36, 0, 29, 0, 32, /* key_share: x25519, and the 32 bytes of a key */
    };
    size_t extensions = 4 + 5 + name_bytes + sizeof more + 32;
    size_t body = 2 + 32 + 1 + 2 + 2 + 2 + 2 + extensions;
    const size_t fields[][2] = {
        {1, 22}, /* a record; each is a count of bytes and their value */
        {2, 0x0301},
        {2, 4 + body},
        {1, 1}, /* ClientHello */
        {3, body},
        {2, 0x0303},
        {32, 7}, /* random */
        {1, 0},  /* no session */
        {2, 2},  /* one cipher suite */
        {2, 0x1301},
        {2, 0x0100}, /* no compression */
        {2, extensions},
        {2, 0}, /* server_name: RFC 6066 3 */
        {2, name_bytes + 5},
        {2, name_bytes + 3},
        {1, 0},
        {2, name_bytes},
    };
    size_t at = 0;
    for (size_t index = 0; index < sizeof fields / sizeof fields[0]; index++) {
        for (size_t left = fields[index][0]; left > 0; left--) {
            size_t value = left > sizeof value ? 0 : fields[index][1] >> (8 * (left - 1));
            to[at++] = (uint8_t)value;
        }
    }
    memset(to + at, 'x', name_bytes);
    at += name_bytes;
    memcpy(to + at, more, sizeof more);
    at += sizeof more;
    memset(to + at, 9, 32);
    return at + 32;
}

/* One that can be a name is no matter, as there is one certificate; a longer one is refused. */
static void test_the_longest_server_names(void **state)
{
    (void)state;
    static const struct {
        size_t bytes;
        bool taken;
    } cases[] = {{1, true}, {255, true}, {256, false}, {10240, false}};
    struct tls_policy *policy = server_policy("good");
    for (size_t index = 0; index < sizeof cases / sizeof cases[0]; index++) {
        uint8_t hello[11000];
        size_t bytes = hello_with_name(hello, cases[index].bytes);
        struct tls *t = NULL;
        assert_int_equal(tls_new(&t, policy, ""), ERR_OK);
        tls_feed(t, slice_of(hello, bytes));
        struct slice output = tls_output(t);
        assert_true(output.len > 0);
        if (cases[index].taken) {
            assert_int_equal(tls_state(t), TLS_HANDSHAKING);
            assert_int_equal(output.data[0], 22);
        } else {
            assert_int_equal(tls_state(t), TLS_FAILED);
            assert_int_equal(output.data[0], 21); /* an alert */
            assert_true(strlen(tls_problem(t)) > 0);
        }
        tls_free(&t);
    }
    tls_policy_free(&policy);
}

static void test_sni_for_names_only(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        const char *sent;
    } cases[] = {
        {"relay.example.jp", "relay.example.jp"},
        {"relay.example.jp.", "relay.example.jp"},
        {"192.0.2.7", NULL},
        {"2001:db8::7", NULL},
        {"", NULL},
    };
    struct tls_policy *policy = client_policy(TLS_VERIFY_NONE, "root", NULL);
    for (size_t index = 0; index < sizeof cases / sizeof cases[0]; index++) {
        struct raw server = raw_new("good", TLS1_3_VERSION);
        struct tls *t = NULL;
        raw_open(&server, true);
        assert_int_equal(tls_new(&t, policy, cases[index].name), ERR_OK);
        raw_pump(&server, t);
        assert_int_equal(tls_state(t), TLS_OPEN);
        const char *sent = SSL_get_servername(server.ssl, TLSEXT_NAMETYPE_host_name);
        if (cases[index].sent == NULL) {
            assert_null(sent);
        } else {
            assert_string_equal(sent, cases[index].sent);
        }
        tls_free(&t);
        raw_free(&server);
    }
    tls_policy_free(&policy);
}

/* ---- earlier sessions ---- */

static const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};

static uint32_t tickets_of(const struct tls_policy *policy)
{
    uint32_t count = 0;
    for (size_t place = 0; place < TLS_TICKETS_MAX; place++) {
        count += policy->tickets->places[place].session != NULL;
    }
    return count;
}

/* One connection that opens, and is closed without a goodbye, as servers do it. Was an earlier
 * session taken up? Both sides have to agree. */
static bool takes_up(struct raw *server, struct tls_policy *policy, const char *name)
{
    struct tls *t = NULL;
    uint8_t to[8];
    raw_open(server, true);
    assert_int_equal(tls_new(&t, policy, name), ERR_OK);
    raw_pump(server, t);
    assert_int_equal(tls_read(t, to, sizeof to), 0);
    assert_string_equal(tls_problem(t), "");
    assert_int_equal(tls_state(t), TLS_OPEN);
    bool resumed = SSL_session_reused(server->ssl) != 0;
    assert_int_equal(tls_resumed(t), resumed);
    assert_int_equal(strstr(tls_describe(t), " resumed") != NULL, resumed);
    tls_free(&t);
    SSL_free(server->ssl);
    server->ssl = NULL;
    return resumed;
}

static enum tls_failure fails(struct raw *server, struct tls_policy *policy, const char *name)
{
    struct tls *t = NULL;
    raw_open(server, true);
    assert_int_equal(tls_new(&t, policy, name), ERR_OK);
    raw_pump(server, t);
    enum tls_failure failure = tls_failure(t);
    assert_int_equal(tls_state(t), TLS_FAILED);
    tls_free(&t);
    SSL_free(server->ssl);
    server->ssl = NULL;
    return failure;
}

static void test_a_session_is_taken_up(void **state)
{
    (void)state;
    for (size_t index = 0; index < 2; index++) {
        struct raw server = raw_new("good", versions[index]);
        struct tls_policy *policy = client_policy(TLS_VERIFY_FULL, "root", NULL);
        assert_false(takes_up(&server, policy, "relay.example.jp"));
        for (int round = 0; round < 5; round++) {
            assert_true(takes_up(&server, policy, "relay.example.jp"));
        }
        tls_policy_free(&policy);
        raw_free(&server);
    }
}

/* TLS 1.2 without tickets: the server remembers by the session's number. */
static void test_a_session_is_taken_up_by_its_number(void **state)
{
    (void)state;
    struct raw server = raw_new("good", TLS1_2_VERSION);
    struct tls_policy *policy = client_policy(TLS_VERIFY_FULL, "root", NULL);
    SSL_CTX_set_options(server.context, SSL_OP_NO_TICKET);
    SSL_CTX_set_session_cache_mode(server.context, SSL_SESS_CACHE_SERVER);
    assert_false(takes_up(&server, policy, "relay.example.jp"));
    assert_int_equal(tickets_of(policy), 1);
    /* The server forgets what ended without a goodbye: a full handshake follows by itself. */
    assert_false(takes_up(&server, policy, "relay.example.jp"));
    tls_policy_free(&policy);
    raw_free(&server);
}

/* RFC 8446 C.4: who uses a ticket twice can be recognised. */
static void test_a_ticket_is_used_once(void **state)
{
    (void)state;
    struct raw server = raw_new("good", TLS1_3_VERSION);
    struct tls_policy *policy = client_policy(TLS_VERIFY_FULL, "root", NULL);
    SSL_CTX_set_num_tickets(server.context, 2);
    assert_false(takes_up(&server, policy, "relay.example.jp"));
    assert_int_equal(tickets_of(policy), 2);
    struct tls *t[3];
    for (uint32_t index = 0; index < 3; index++) {
        assert_int_equal(tls_new(&t[index], policy, "relay.example.jp"), ERR_OK);
        assert_int_equal(tickets_of(policy), index == 0 ? 1 : 0);
    }
    for (uint32_t index = 0; index < 3; index++) {
        raw_open(&server, true);
        raw_pump(&server, t[index]);
        assert_int_equal(tls_state(t[index]), TLS_OPEN);
        assert_int_equal(tls_resumed(t[index]), index < 2);
        tls_free(&t[index]);
        SSL_free(server.ssl);
        server.ssl = NULL;
    }
    tls_policy_free(&policy);
    raw_free(&server);
}

/* A reload makes another policy, and each upstream has its own. */
static void test_no_ticket_leaves_its_policy_or_its_name(void **state)
{
    (void)state;
    for (size_t index = 0; index < 2; index++) {
        struct raw server = raw_new("wildcard", versions[index]);
        struct tls_policy *policy = client_policy(TLS_VERIFY_FULL, "root", NULL);
        struct tls_policy *same = client_policy(TLS_VERIFY_FULL, "root", NULL);
        struct tls_policy *other = client_policy(TLS_VERIFY_FULL, "other-root", NULL);
        assert_false(takes_up(&server, policy, "a.example.jp"));
        assert_false(takes_up(&server, policy, "b.example.jp"));
        assert_true(takes_up(&server, policy, "a.example.jp"));
        assert_true(takes_up(&server, policy, "b.example.jp"));
        assert_false(takes_up(&server, same, "a.example.jp"));
        assert_int_equal(fails(&server, other, "a.example.jp"), TLS_FAILURE_UNTRUSTED);
        assert_int_equal(tickets_of(other), 0);
        assert_int_equal(fails(&server, policy, "a.example.org"), TLS_FAILURE_WRONG_NAME);
        assert_true(takes_up(&server, policy, "a.example.jp"));
        tls_policy_free(&policy);
        tls_policy_free(&same);
        tls_policy_free(&other);
        raw_free(&server);
    }
}

/* Another server behind the same name knows nothing of the ticket: its certificate is looked at. */
static void test_a_refused_ticket_is_a_full_handshake(void **state)
{
    (void)state;
    for (size_t index = 0; index < 2; index++) {
        struct raw server = raw_new("good", versions[index]);
        struct raw twin = raw_new("good", versions[index]);
        struct raw stranger = raw_new("wrong-name", versions[index]);
        struct raw late = raw_new("expired", versions[index]);
        struct tls_policy *policy = client_policy(TLS_VERIFY_FULL, "root", NULL);
        assert_false(takes_up(&server, policy, "relay.example.jp"));
        assert_false(takes_up(&twin, policy, "relay.example.jp"));
        assert_true(takes_up(&twin, policy, "relay.example.jp"));
        assert_int_equal(fails(&stranger, policy, "relay.example.jp"), TLS_FAILURE_WRONG_NAME);
        assert_int_equal(tickets_of(policy), 0); /* what failed is begun anew */
        assert_false(takes_up(&twin, policy, "relay.example.jp"));
        assert_int_equal(fails(&late, policy, "relay.example.jp"), TLS_FAILURE_EXPIRED);
        tls_policy_free(&policy);
        raw_free(&server);
        raw_free(&twin);
        raw_free(&stranger);
        raw_free(&late);
    }
}

static uint64_t verified_until(const struct tls_policy *policy)
{
    size_t place = 0;
    while (place < TLS_TICKETS_MAX && policy->tickets->places[place].session == NULL) {
        place++;
    }
    assert_true(place < TLS_TICKETS_MAX);
    return policy->tickets->places[place].verified_until_s;
}

static void assert_ends_within(const struct tls_policy *policy, uint64_t seconds)
{
    uint64_t now_s = tls_wall_s();
    for (size_t place = 0; place < TLS_TICKETS_MAX; place++) {
        const struct tls_ticket *ticket = &policy->tickets->places[place];
        if (ticket->session != NULL) {
            assert_in_range(ticket->until_s, now_s, now_s + seconds);
        }
    }
}

static void test_a_ticket_ends_with_the_certificate(void **state)
{
    (void)state;
    for (size_t index = 0; index < 2; index++) {
        struct raw server = raw_new("brief", versions[index]);
        struct tls_policy *policy = client_policy(TLS_VERIFY_FULL, "root", NULL);
        assert_false(takes_up(&server, policy, "relay.example.jp"));
        assert_true(tickets_of(policy) > 0);
        assert_ends_within(policy, BRIEF_S);
        assert_true(takes_up(&server, policy, "relay.example.jp"));
        assert_true(tickets_of(policy) > 0);
        assert_ends_within(policy, BRIEF_S); /* also what came with a session taken up */
        tls_policy_free(&policy);
        raw_free(&server);
    }
}

static void test_a_ticket_has_its_lifetime(void **state)
{
    (void)state;
    for (size_t index = 0; index < 2; index++) {
        struct raw server = raw_new("good", versions[index]);
        struct tls_policy *policy = client_policy(TLS_VERIFY_FULL, "root", NULL);
        SSL_CTX_set_timeout(server.context, 60);
        assert_false(takes_up(&server, policy, "relay.example.jp"));
        assert_ends_within(policy, 60);
        /* Over; and not yet begun, by a clock that went back. */
        for (int late = 0; late < 2; late++) {
            assert_true(tickets_of(policy) > 0);
            for (size_t place = 0; place < TLS_TICKETS_MAX; place++) {
                struct tls_ticket *ticket = &policy->tickets->places[place];
                *(late != 0 ? &ticket->until_s : &ticket->from_s) =
                    tls_wall_s() + (late != 0 ? 0 : 30);
            }
            assert_false(takes_up(&server, policy, "relay.example.jp"));
        }
        tls_policy_free(&policy);
        raw_free(&server);
    }
}

/* However often it is taken up, after a day the certificate is looked at again. */
static void test_no_new_time_by_taking_up(void **state)
{
    (void)state;
    struct raw server = raw_new("good", TLS1_3_VERSION);
    struct tls_policy *policy = client_policy(TLS_VERIFY_NONE, "root", NULL);
    SSL_CTX_set_num_tickets(server.context, 1);
    assert_false(takes_up(&server, policy, "relay.example.jp"));
    uint64_t until_s = verified_until(policy);
    assert_in_range(until_s, tls_wall_s() + TLS_VERIFIED_S_MAX - 60,
                    tls_wall_s() + TLS_VERIFIED_S_MAX);
    for (size_t place = 0; place < TLS_TICKETS_MAX; place++) {
        policy->tickets->places[place].verified_until_s = tls_wall_s() + 100;
    }
    until_s = verified_until(policy);
    for (int round = 0; round < 2 * TLS_TICKETS_MAX; round++) {
        assert_true(takes_up(&server, policy, "relay.example.jp"));
    }
    assert_int_equal(verified_until(policy), until_s);
    assert_ends_within(policy, 100);
    tls_policy_free(&policy);
    raw_free(&server);
}

/* A pinned certificate stays pinned: the pin is the policy's, and so are its tickets. */
static void test_a_pinned_server_is_taken_up(void **state)
{
    (void)state;
    char pin[FINGERPRINT_BYTES];
    fingerprint_of("expired", pin, false);
    struct raw server = raw_new("expired", TLS1_3_VERSION);
    struct raw other = raw_new("good", TLS1_3_VERSION);
    struct tls_policy *policy = client_policy(TLS_VERIFY_FULL, "root", pin);
    assert_false(takes_up(&server, policy, "relay.example.jp"));
    assert_true(takes_up(&server, policy, "relay.example.jp"));
    assert_int_equal(fails(&other, policy, "relay.example.jp"), TLS_FAILURE_FINGERPRINT);
    tls_policy_free(&policy);
    raw_free(&server);
    raw_free(&other);
}

static void test_tickets_have_a_bound(void **state)
{
    (void)state;
    struct raw server = raw_new("good", TLS1_3_VERSION);
    struct tls_policy *policy = client_policy(TLS_VERIFY_FULL, "root", NULL);
    SSL_CTX_set_num_tickets(server.context, 3 * TLS_TICKETS_MAX);
    assert_false(takes_up(&server, policy, "relay.example.jp"));
    assert_int_equal(tickets_of(policy), TLS_TICKETS_MAX);
    assert_true(takes_up(&server, policy, "relay.example.jp"));
    tls_policy_free(&policy);
    raw_free(&server);
}

struct sharing {
    struct tls_policy *policy;
    SSL_CTX *server;
};

/* Returns the failures; resumed or not, each opens. */
static void *sharing_main(void *argument)
{
    const struct sharing *shared = argument;
    uintptr_t failures = 0;
    uint8_t bytes[16384];
    for (size_t round = 0; round < turns(THREAD_HANDSHAKES, 2); round++) {
        struct tls *t = NULL;
        SSL *server = SSL_new(shared->server);
        SSL_set_bio(server, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
        SSL_set_accept_state(server);
        if (tls_new(&t, shared->policy, "relay.example.jp") != ERR_OK) {
            SSL_free(server);
            failures++;
            continue;
        }
        for (int step = 0; step < 6; step++) {
            struct slice output = tls_output(t);
            if (output.len > 0) {
                BIO_write(SSL_get_rbio(server), output.data, (int)output.len);
                tls_output_done(t, output.len);
            }
            while (SSL_read(server, bytes, sizeof bytes) > 0) {
            }
            int count = BIO_read(SSL_get_wbio(server), bytes, sizeof bytes);
            tls_feed(t, slice_of(bytes, count > 0 ? (size_t)count : 0));
            failures += tls_read(t, bytes, sizeof bytes);
        }
        failures += tls_state(t) != TLS_OPEN;
        tls_free(&t);
        SSL_free(server);
        ERR_clear_error();
    }
    return (void *)failures;
}

static void test_threads_share_tickets(void **state)
{
    (void)state;
    for (size_t index = 0; index < 2; index++) {
        struct raw server = raw_new("good", versions[index]);
        struct sharing shared = {client_policy(TLS_VERIFY_FULL, "root", NULL), server.context};
        pthread_t threads[THREADS];
        for (size_t at = 0; at < turns(THREADS, 2); at++) {
            assert_int_equal(pthread_create(&threads[at], NULL, sharing_main, &shared), 0);
        }
        for (size_t at = 0; at < turns(THREADS, 2); at++) {
            void *failures = NULL;
            assert_int_equal(pthread_join(threads[at], &failures), 0);
            assert_null(failures);
        }
        assert_true(takes_up(&server, shared.policy, "relay.example.jp"));
        tls_policy_free(&shared.policy);
        raw_free(&server);
    }
}

/* ---- authorities that change ---- */

/* A directory of the case's own, and the file in it that a policy reads. */
static char authorities_directory[64], authorities[PATH_BYTES], authorities_next[PATH_BYTES];

static int authorities_begin(void **state)
{
    (void)state;
    (void)snprintf(authorities_directory, sizeof authorities_directory,
                   "/tmp/tasuki-test-authorities-XXXXXX");
    assert_non_null(mkdtemp(authorities_directory));
    (void)snprintf(authorities, sizeof authorities, "%s/list.pem", authorities_directory);
    (void)snprintf(authorities_next, sizeof authorities_next, "%s/next", authorities_directory);
    return 0;
}

static int authorities_end(void **state)
{
    (void)state;
    unlink(authorities);
    return rmdir(authorities_directory);
}

/* In one step, as distributions do it. */
static void authorities_put(const char *file)
{
    char from[PATH_BYTES], text[4096];
    path_of(from, file, "");
    FILE *source = fopen(from, "re");
    assert_non_null(source);
    size_t bytes = fread(text, 1, sizeof text - 1, source);
    fclose(source);
    text[bytes] = '\0';
    write_file(authorities_next, text);
    assert_int_equal(rename(authorities_next, authorities), 0);
}

static struct tls_policy *authorities_policy(void)
{
    return client_policy_by(TLS_VERIFY_FULL, authorities, NULL);
}

/* A look that finds nothing to do. */
static void look_in_vain(struct tls_policy *policy)
{
    char problem[PROBLEM_BYTES] = "";
    bool again = true;
    assert_int_equal(tls_client_policy_refresh(policy, &again, problem), ERR_OK);
    assert_string_equal(problem, "");
    assert_false(again);
}

/* The first look sees a change, the second that it rests. */
static void look_and_read(struct tls_policy *policy)
{
    char problem[PROBLEM_BYTES] = "";
    bool again = false;
    look_in_vain(policy);
    assert_int_equal(tls_client_policy_refresh(policy, &again, problem), ERR_OK);
    assert_string_equal(problem, "");
    assert_true(again);
    look_in_vain(policy);
}

static void look_and_refuse(struct tls_policy *policy, enum err expected, const char *words)
{
    char problem[PROBLEM_BYTES] = "";
    bool again = true;
    look_in_vain(policy);
    assert_int_equal(tls_client_policy_refresh(policy, &again, problem), expected);
    assert_non_null(strstr(problem, words));
    assert_non_null(strstr(problem, "/list.pem"));
    assert_false(again);
    look_in_vain(policy); /* said once */
}

static void test_authorities_are_read_again(void **state)
{
    (void)state;
    for (size_t index = 0; index < 2; index++) {
        struct raw server = raw_new("good", versions[index]);
        authorities_put("other-root.pem");
        struct tls_policy *policy = authorities_policy();
        look_in_vain(policy);
        assert_int_equal(fails(&server, policy, "relay.example.jp"), TLS_FAILURE_UNTRUSTED);
        authorities_put("root.pem");
        assert_int_equal(fails(&server, policy, "relay.example.jp"), TLS_FAILURE_UNTRUSTED);
        look_and_read(policy);
        assert_false(takes_up(&server, policy, "relay.example.jp"));
        assert_true(takes_up(&server, policy, "relay.example.jp"));
        /* Nobody is let in by what was verified before. */
        authorities_put("other-root.pem");
        look_and_read(policy);
        assert_int_equal(tickets_of(policy), 0);
        assert_int_equal(fails(&server, policy, "relay.example.jp"), TLS_FAILURE_UNTRUSTED);
        tls_policy_free(&policy);
        raw_free(&server);
    }
}

static void test_authorities_that_are_being_written(void **state)
{
    (void)state;
    authorities_put("other-root.pem");
    struct tls_policy *policy = authorities_policy();
    for (int turn = 0; turn < 4; turn++) {
        authorities_put(turn % 2 == 0 ? "root.pem" : "other-root.pem");
        look_in_vain(policy);
    }
    authorities_put("root.pem");
    look_and_read(policy);
    tls_policy_free(&policy);
}

static void test_authorities_that_cannot_be_used(void **state)
{
    (void)state;
    struct raw server = raw_new("good", TLS1_3_VERSION);
    authorities_put("root.pem");
    struct tls_policy *policy = authorities_policy();
    assert_false(takes_up(&server, policy, "relay.example.jp"));
    write_file(authorities, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    look_and_refuse(policy, ERR_SYNTAX, "no usable authority's certificate");
    assert_true(takes_up(&server, policy, "relay.example.jp"));
    write_file(authorities, "");
    look_and_refuse(policy, ERR_SYNTAX, "the file is empty");
    assert_int_equal(unlink(authorities), 0);
    look_and_refuse(policy, ERR_NOT_FOUND, "No such file");
    assert_true(takes_up(&server, policy, "relay.example.jp"));
    authorities_put("other-root.pem");
    look_and_read(policy);
    assert_int_equal(fails(&server, policy, "relay.example.jp"), TLS_FAILURE_UNTRUSTED);
    tls_policy_free(&policy);
    raw_free(&server);
}

/* The file is a link, so that nothing of a file tells that it was changed for another. */
static void authorities_link(const char *file)
{
    char to[PATH_BYTES];
    path_of(to, file, "");
    assert_int_equal(symlink(to, authorities_next), 0);
    assert_int_equal(rename(authorities_next, authorities), 0);
}

static void test_authorities_that_are_taken_back(void **state)
{
    (void)state;
    struct raw server = raw_new("good", TLS1_3_VERSION);
    authorities_link("root.pem");
    struct tls_policy *policy = authorities_policy();
    for (int turn = 0; turn < 2; turn++) {
        assert_false(takes_up(&server, policy, "relay.example.jp"));
        authorities_link("other-root.pem");
        look_and_read(policy);
        assert_int_equal(fails(&server, policy, "relay.example.jp"), TLS_FAILURE_UNTRUSTED);
        authorities_link("root.pem");
        look_and_read(policy);
    }
    for (int turn = 0; turn < 2;
         turn++) { /* each time it is gone it is told, and that it is back */
        authorities_link("nowhere.pem");
        look_and_refuse(policy, ERR_NOT_FOUND, "No such file");
        authorities_link("root.pem");
        look_and_read(policy);
    }
    authorities_link("good.key");
    look_and_refuse(policy, ERR_SYNTAX, "no usable authority's certificate");
    authorities_link("root.pem");
    look_and_read(policy);
    assert_false(takes_up(&server, policy, "relay.example.jp"));
    tls_policy_free(&policy);
    raw_free(&server);
}

/* Whatever may be otherwise at the next look. */
static void test_authorities_that_cannot_be_read_just_now(void **state)
{
    (void)state;
    char problem[PROBLEM_BYTES] = "";
    bool again = true;
    struct tls_authorities a = {0};
    assert_int_equal(tls_authorities_init(&a, "/nowhere/at/all.pem", problem), ERR_OK);
    assert_false(tls_authorities_look(&a));
    tls_authorities_deinit(&a);
    authorities_link("root.pem");
    struct tls_policy *policy = authorities_policy();
    authorities_link("."); /* opens, and cannot be read */
    look_in_vain(policy);
    for (int look = 0; look < 3; look++) {
        assert_int_equal(tls_client_policy_refresh(policy, &again, problem), ERR_IO);
        assert_non_null(strstr(problem, "cannot read the authorities in "));
        assert_false(again);
    }
    authorities_link("root.pem"); /* as it was read at first, and yet the trouble has to end */
    look_in_vain(policy);
    assert_int_equal(tls_client_policy_refresh(policy, &again, problem), ERR_OK);
    assert_true(again);
    look_in_vain(policy);
    tls_policy_free(&policy);
}

static void revocations_put(void)
{
    X509_CRL *list = X509_CRL_new();
    ASN1_TIME *now = X509_gmtime_adj(NULL, 0);
    X509_CRL_set_version(list, 1);
    X509_CRL_set_issuer_name(list, X509_get_subject_name(root.certificate));
    X509_CRL_set1_lastUpdate(list, now);
    assert_true(X509_CRL_sign(list, root.key, EVP_sha256()) > 0);
    FILE *file = fopen(authorities, "we");
    assert_non_null(file);
    assert_int_equal(PEM_write_X509_CRL(file, list), 1);
    fclose(file);
    ASN1_TIME_free(now);
    X509_CRL_free(list);
}

static void test_revocations_are_no_authorities(void **state)
{
    (void)state;
    struct raw server = raw_new("good", TLS1_3_VERSION);
    authorities_put("root.pem");
    struct tls_policy *policy = authorities_policy();
    revocations_put();
    look_and_refuse(policy, ERR_SYNTAX, "only lists of revocations");
    assert_false(takes_up(&server, policy, "relay.example.jp"));
    tls_policy_free(&policy);
    raw_free(&server);
}

/* What began before goes on; the ticket that it still gets is not kept. */
static void test_sessions_from_before_the_change(void **state)
{
    (void)state;
    struct raw server = raw_new("good", TLS1_3_VERSION);
    uint8_t to[8];
    authorities_put("root.pem");
    struct tls_policy *policy = authorities_policy();
    struct tls *t[2] = {NULL};
    for (size_t index = 0; index < 2; index++) {
        raw_open(&server, true);
        assert_int_equal(tls_new(&t[index], policy, "relay.example.jp"), ERR_OK);
        if (index == 0) { /* open, and then in the middle of its handshake */
            raw_pump(&server, t[index]);
            assert_int_equal(tls_read(t[index], to, sizeof to), 0);
            assert_true(tickets_of(policy) > 0);
        }
        authorities_put(index == 0 ? "good-alone.pem" : "other-root.pem");
        look_and_read(policy);
        assert_int_equal(tickets_of(policy), 0);
        if (index == 0) {
            assert_int_equal(SSL_write(server.ssl, "more", 4), 4);
        }
        raw_pump(&server, t[index]);
        assert_int_equal(tls_read(t[index], to, sizeof to), index == 0 ? 4 : 0);
        assert_int_equal(tls_state(t[index]), TLS_OPEN);
        assert_int_equal(tickets_of(policy), 0);
        tls_free(&t[index]);
        SSL_free(server.ssl);
        server.ssl = NULL;
    }
    assert_int_equal(fails(&server, policy, "relay.example.jp"), TLS_FAILURE_UNTRUSTED);
    tls_policy_free(&policy);
    raw_free(&server);
}

/* Neither looks at a file. */
static void test_without_authorities_nothing_is_read_again(void **state)
{
    (void)state;
    char pin[FINGERPRINT_BYTES];
    fingerprint_of("good", pin, false);
    authorities_put("root.pem");
    struct tls_policy *pinned = client_policy_by(TLS_VERIFY_FULL, authorities, pin);
    struct tls_policy *any = client_policy_by(TLS_VERIFY_NONE, authorities, NULL);
    authorities_put("other-root.pem");
    for (int look = 0; look < 3; look++) {
        look_in_vain(pinned);
        look_in_vain(any);
    }
    tls_policy_free(&pinned);
    tls_policy_free(&any);
}

static void test_renegotiation_refused(void **state)
{
    (void)state;
    struct raw server = raw_new("good", TLS1_2_VERSION);
    struct tls_policy *policy = client_policy(TLS_VERIFY_FULL, "root", NULL);
    struct tls *t = NULL;
    uint8_t to[64];
    raw_open(&server, true);
    assert_int_equal(tls_new(&t, policy, "relay.example.jp"), ERR_OK);
    raw_pump(&server, t);
    assert_int_equal(SSL_renegotiate(server.ssl), 1);
    (void)SSL_do_handshake(server.ssl);
    ERR_clear_error();
    int count = BIO_read(SSL_get_wbio(server.ssl), to, sizeof to);
    assert_true(count > 0);
    tls_feed(t, slice_of(to, (size_t)count));
    assert_int_equal(tls_read(t, to, sizeof to), 0);
    /* An alert, type 21, and no new ClientHello. */
    assert_true(tls_output(t).len > 0 && tls_output(t).len < 64);
    assert_int_equal(tls_output(t).data[0], 21);
    tls_free(&t);
    tls_policy_free(&policy);
    raw_free(&server);
}

/* Some key updates are answered; a flood of them ends the session. */
static void test_key_updates(void **state)
{
    (void)state;
    static const struct {
        int count;
        enum tls_state end;
    } cases[] = {{20, TLS_OPEN}, {2000, TLS_FAILED}};
    for (size_t index = 0; index < 2; index++) {
        struct raw server = raw_new("good", TLS1_3_VERSION);
        struct tls_policy *policy = client_policy(TLS_VERIFY_FULL, "root", NULL);
        struct tls *t = NULL;
        uint8_t to[4096];
        raw_open(&server, true);
        assert_int_equal(tls_new(&t, policy, "relay.example.jp"), ERR_OK);
        raw_pump(&server, t);
        for (int round = 0; round < cases[index].count; round++) {
            assert_int_equal(SSL_key_update(server.ssl, SSL_KEY_UPDATE_REQUESTED), 1);
            assert_int_equal(SSL_do_handshake(server.ssl), 1);
        }
        assert_int_equal(SSL_write(server.ssl, "250 ok\r\n", 8), 8);
        int count;
        size_t got = 0;
        while ((count = BIO_read(SSL_get_wbio(server.ssl), to, sizeof to)) > 0) {
            tls_feed(t, slice_of(to, (size_t)count));
            got += tls_read(t, to, sizeof to);
        }
        assert_int_equal(tls_state(t), cases[index].end);
        if (cases[index].end == TLS_OPEN) {
            assert_int_equal(got, 8);
            assert_int_equal(tls_write(t, SLICE("QUIT\r\n")), 6);
            raw_pump(&server, t);
            assert_int_equal(tls_state(t), TLS_OPEN);
        } else {
            assert_non_null(strstr(tls_problem(t), "changing keys"));
        }
        tls_free(&t);
        tls_policy_free(&policy);
        raw_free(&server);
    }
}

/* ---- records without content ---- */

#define KEY_BYTES   16 /* AES-128-GCM */
#define NONCE_BYTES 12
#define TAG_BYTES   16

/* What a server says beside the library, which never sends a record without content. */
struct record_writer {
    uint8_t secret[32], key[KEY_BYTES], nonce[NONCE_BYTES];
    uint64_t number; /* of records under this key */
};

static struct record_writer writer;

/* "SERVER_TRAFFIC_SECRET_0 RANDOM SECRET", in hexadecimal. */
static void key_logged(const SSL *ssl, const char *line)
{
    static const char label[] = "SERVER_TRAFFIC_SECRET_0 ";
    long bytes = 0;
    (void)ssl;
    if (strncmp(line, label, sizeof label - 1) != 0) {
        return;
    }
    uint8_t *secret = OPENSSL_hexstr2buf(strrchr(line, ' ') + 1, &bytes);
    if (secret != NULL && bytes == sizeof writer.secret) {
        memcpy(writer.secret, secret, sizeof writer.secret);
    }
    OPENSSL_free(secret);
}

/* RFC 8446 7.1, without a context. */
static void expand_label(const char *label, uint8_t *to, size_t bytes)
{
    uint8_t info[64];
    size_t label_bytes = strlen(label);
    info[0] = 0;
    info[1] = (uint8_t)bytes;
    info[2] = (uint8_t)label_bytes;
    memcpy(info + 3, label, label_bytes);
    info[3 + label_bytes] = 0;
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_id(EVP_PKEY_HKDF, NULL);
    assert_non_null(context);
    assert_int_equal(EVP_PKEY_derive_init(context), 1);
    assert_int_equal(EVP_PKEY_CTX_hkdf_mode(context, EVP_PKEY_HKDEF_MODE_EXPAND_ONLY), 1);
    assert_int_equal(EVP_PKEY_CTX_set_hkdf_md(context, EVP_sha256()), 1);
    assert_int_equal(EVP_PKEY_CTX_set1_hkdf_key(context, writer.secret, sizeof writer.secret), 1);
    assert_int_equal(EVP_PKEY_CTX_add1_hkdf_info(context, info, (int)(4 + label_bytes)), 1);
    assert_int_equal(EVP_PKEY_derive(context, to, &bytes), 1);
    EVP_PKEY_CTX_free(context);
}

/* One record of application data, RFC 8446 5.2. Returns its bytes. */
static size_t record_write(uint8_t *to, struct slice content)
{
    uint8_t inner[64], nonce[NONCE_BYTES];
    size_t inner_bytes = content.len + 1, bytes = inner_bytes + TAG_BYTES;
    int count = 0;
    assert_true(inner_bytes <= sizeof inner);
    memcpy(inner, content.data, content.len);
    inner[content.len] = SSL3_RT_APPLICATION_DATA;
    memcpy(to, (const uint8_t[]){SSL3_RT_APPLICATION_DATA, 3, 3, 0, (uint8_t)bytes}, 5);
    memcpy(nonce, writer.nonce, sizeof nonce);
    for (size_t at = 0; at < 8; at++) {
        nonce[NONCE_BYTES - 1 - at] ^= (uint8_t)(writer.number >> 8 * at);
    }
    writer.number++;
    EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
    assert_non_null(context);
    assert_int_equal(EVP_EncryptInit_ex(context, EVP_aes_128_gcm(), NULL, writer.key, nonce), 1);
    assert_int_equal(EVP_EncryptUpdate(context, NULL, &count, to, 5), 1);
    assert_int_equal(EVP_EncryptUpdate(context, to + 5, &count, inner, (int)inner_bytes), 1);
    assert_int_equal(EVP_EncryptFinal_ex(context, to + 5 + count, &count), 1);
    assert_int_equal(
        EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, TAG_BYTES, to + 5 + inner_bytes), 1);
    EVP_CIPHER_CTX_free(context);
    return 5 + bytes;
}

/* RFC 8446 5.1 allows them, and 5.4 tells of their use. Some are borne; a flood of them, which
 * costs this side its time and says nothing, ends the session. */
static void test_records_without_content(void **state)
{
    (void)state;
    struct raw server = raw_new("good", TLS1_3_VERSION);
    struct tls_policy *policy = client_policy(TLS_VERIFY_FULL, "root", NULL);
    struct tls *t = NULL;
    uint8_t record[128], to[64];
    SSL_CTX_set_num_tickets(server.context, 0); /* the writer begins at number 0 */
    SSL_CTX_set_keylog_callback(server.context, key_logged);
    assert_int_equal(SSL_CTX_set_ciphersuites(server.context, "TLS_AES_128_GCM_SHA256"), 1);
    writer = (struct record_writer){0};
    raw_open(&server, true);
    assert_int_equal(tls_new(&t, policy, "relay.example.jp"), ERR_OK);
    raw_pump(&server, t);
    assert_int_equal(tls_read(t, to, sizeof to), 0);
    assert_int_equal(tls_state(t), TLS_OPEN);
    expand_label("tls13 key", writer.key, sizeof writer.key);
    expand_label("tls13 iv", writer.nonce, sizeof writer.nonce);
    for (int round = 0; round < 3; round++) {
        for (int index = 0; index < 10; index++) {
            tls_feed(t, slice_of(record, record_write(record, SLICE(""))));
            assert_int_equal(tls_read(t, to, sizeof to), 0);
        }
        tls_feed(t, slice_of(record, record_write(record, SLICE("250 ok\r\n"))));
        assert_int_equal(tls_read(t, to, sizeof to), 8);
    }
    assert_int_equal(tls_state(t), TLS_OPEN);
    uint32_t borne = 0;
    while (tls_state(t) == TLS_OPEN && borne < 100000) {
        tls_feed(t, slice_of(record, record_write(record, SLICE(""))));
        assert_int_equal(tls_read(t, to, sizeof to), 0);
        borne++;
    }
    assert_int_equal(tls_state(t), TLS_FAILED);
    assert_true(borne < 100);
    assert_true(strlen(tls_problem(t)) > 0);
    print_message("after %u records without content: %s\n", borne, tls_problem(t));
    tls_free(&t);
    tls_policy_free(&policy);
    raw_free(&server);
}

/* More than the input holds, unread: an end with words, not a growing heap. */
static void test_input_bound(void **state)
{
    (void)state;
    struct tls_policy *client = client_policy(TLS_VERIFY_FULL, "root", NULL);
    struct tls_policy *server = server_policy("good");
    struct pair p = pair_open(client, server, 0);
    static const uint8_t bytes[60000];
    for (int round = 0; round < 8; round++) {
        (void)!tls_write(p.server, slice_of(bytes, sizeof bytes));
        (void)!move(&p, p.server, p.client);
    }
    assert_int_equal(tls_state(p.client), TLS_FAILED);
    assert_int_equal(tls_failure(p.client), TLS_FAILURE_MEMORY);
    pair_free(&p);
    tls_policy_free(&client);
    tls_policy_free(&server);
}

/* ---- several sessions ---- */

static void foul_the_queue(void)
{
    for (int round = 0; round < 20; round++) {
        BIO *bio = BIO_new_file("/nonexistent/file", "r");
        assert_null(bio);
    }
    assert_int_not_equal(ERR_peek_error(), 0);
}

/* The library's error queue is the thread's: what another session, or anybody, left in it must not
 * end this one. */
static void test_queue_of_another(void **state)
{
    (void)state;
    struct tls_policy *client = client_policy(TLS_VERIFY_FULL, "root", NULL);
    struct tls_policy *server = server_policy("good");
    struct tls_policy *bad = server_policy("expired");
    struct pair well = pair_new(client, server, "relay.example.jp", 99);
    struct pair ill = pair_new(client, bad, "relay.example.jp", 7);
    uint8_t to[64];
    for (int round = 0; round < 200; round++) {
        foul_the_queue();
        (void)!move(&ill, ill.client, ill.server);
        (void)!move(&ill, ill.server, ill.client);
        foul_the_queue();
        (void)!move(&well, well.client, well.server);
        foul_the_queue();
        (void)!move(&well, well.server, well.client);
    }
    pump(&well);
    pump(&ill);
    assert_int_equal(tls_state(well.client), TLS_OPEN);
    assert_int_equal(tls_state(well.server), TLS_OPEN);
    assert_int_equal(tls_failure(ill.client), TLS_FAILURE_EXPIRED);
    foul_the_queue();
    assert_int_equal(tls_read(well.client, to, sizeof to), 0);
    assert_int_equal(tls_state(well.client), TLS_OPEN);
    foul_the_queue();
    assert_int_equal(tls_write(well.client, SLICE("NOOP\r\n")), 6);
    pump(&well);
    foul_the_queue();
    assert_int_equal(tls_read(well.server, to, sizeof to), 6);
    foul_the_queue();
    assert_int_equal(tls_read(well.server, to, sizeof to), 0);
    assert_int_equal(tls_state(well.server), TLS_OPEN);
    foul_the_queue();
    tls_shutdown(well.client);
    pump(&well);
    foul_the_queue();
    assert_int_equal(tls_read(well.server, to, sizeof to), 0);
    assert_int_equal(tls_state(well.server), TLS_PEER_DONE);
    ERR_clear_error();
    pair_free(&well);
    pair_free(&ill);
    tls_policy_free(&client);
    tls_policy_free(&server);
    tls_policy_free(&bad);
}

/* A reload lets go of the policy; what runs under it goes on. */
static void test_policy_freed_first(void **state)
{
    (void)state;
    char pin[FINGERPRINT_BYTES];
    fingerprint_of("good", pin, false);
    struct tls_policy *client = client_policy(TLS_VERIFY_FULL, "root", pin);
    struct tls_policy *server = server_policy("good");
    struct pair p = pair_new(client, server, "relay.example.jp", 5);
    tls_policy_free(&client);
    tls_policy_free(&server);
    assert_null(client);
    tls_policy_free(&client);
    pump(&p);
    assert_int_equal(tls_state(p.client), TLS_OPEN);
    pair_free(&p);
}

struct shared {
    struct tls_policy *client;
    struct tls_policy *server;
    struct tls_policy *bad;
    atomic_uint at_work; /* threads */
};

/* cmocka's asserts jump, and only on its own thread: count instead. Returns the failures. */
static void *thread_main(void *argument)
{
    struct shared *shared = argument;
    uintptr_t failures = 0;
    for (uint32_t round = 0; round < turns(THREAD_HANDSHAKES, 5); round++) {
        struct pair p = {0};
        bool bad = round % 5 == 4;
        uint8_t to[1024];
        if (tls_new(&p.client, shared->client, "relay.example.jp") != ERR_OK ||
            tls_new(&p.server, bad ? shared->bad : shared->server, "") != ERR_OK) {
            failures++;
            pair_free(&p);
            continue;
        }
        for (int step = 0; step < 20; step++) {
            struct slice output = tls_output(p.client);
            tls_feed(p.server, output);
            tls_output_done(p.client, output.len);
            output = tls_output(p.server);
            tls_feed(p.client, output);
            tls_output_done(p.server, output.len);
        }
        failures += tls_state(p.client) != (bad ? TLS_FAILED : TLS_OPEN);
        if (!bad) {
            failures += tls_write(p.client, SLICE("hello")) != 5;
            tls_feed(p.server, tls_output(p.client));
            failures += tls_read(p.server, to, sizeof to) != 5;
        }
        pair_free(&p);
    }
    atomic_fetch_sub(&shared->at_work, 1);
    return (void *)failures;
}

static void test_threads_share_a_policy(void **state)
{
    (void)state;
    struct shared shared = {client_policy(TLS_VERIFY_FULL, "root", NULL), server_policy("good"),
                            server_policy("wrong-name"), THREADS};
    pthread_t threads[THREADS];
    for (size_t index = 0; index < turns(THREADS, 2); index++) {
        assert_int_equal(pthread_create(&threads[index], NULL, thread_main, &shared), 0);
    }
    for (size_t index = 0; index < turns(THREADS, 2); index++) {
        void *failures = NULL;
        assert_int_equal(pthread_join(threads[index], &failures), 0);
        assert_null(failures);
    }
    tls_policy_free(&shared.client);
    tls_policy_free(&shared.server);
    tls_policy_free(&shared.bad);
}

/* While others shake hands; all of them trust the root. */
static void test_threads_and_new_authorities(void **state)
{
    (void)state;
    static struct shared shared; /* outlives a case that has failed, as the threads do */
    pthread_t threads[THREADS];
    authorities_put("root.pem");
    shared = (struct shared){authorities_policy(), server_policy("good"),
                             server_policy("wrong-name"), 0};
    for (size_t index = 0; index < turns(THREADS, 2); index++) {
        atomic_fetch_add(&shared.at_work, 1);
        assert_int_equal(pthread_create(&threads[index], NULL, thread_main, &shared), 0);
    }
    for (size_t turn = 0; atomic_load(&shared.at_work) > 0; turn++) {
        authorities_put(turn % 2 == 0 ? "good.pem" : "root.pem");
        look_and_read(shared.client);
        rest_where_few(20);
    }
    for (size_t index = 0; index < turns(THREADS, 2); index++) {
        void *failures = NULL;
        assert_int_equal(pthread_join(threads[index], &failures), 0);
        assert_null(failures);
    }
    tls_policy_free(&shared.client);
    tls_policy_free(&shared.server);
    tls_policy_free(&shared.bad);
}

/* A session that has talked and rests. The bound leaves room for other versions of the library;
 * a kept 16 KiB record buffer or output would pass it. */
static void test_idle_memory(void **state)
{
    (void)state;
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    static struct pair pairs[50];
    const size_t count = turns(50, 2);
    struct tls_policy *client = client_policy(TLS_VERIFY_FULL, "root", NULL);
    struct tls_policy *server = server_policy("good");
    static const uint8_t bytes[50000];
    static uint8_t to[65536];
    size_t before = 0;
    for (size_t index = 0; index < count; index++) {
        if (index == 1) {
            before = mallinfo2().uordblks; /* after the first, which warms the library up */
        }
        pairs[index] = pair_open(client, server, 0);
        assert_int_equal(tls_write(pairs[index].client, slice_of(bytes, sizeof bytes)),
                         sizeof bytes);
        pump(&pairs[index]);
        while (tls_read(pairs[index].server, to, sizeof to) > 0) {
        }
        assert_int_equal(tls_read(pairs[index].client, to, sizeof to), 0);
    }
    size_t each = (mallinfo2().uordblks - before) / (2 * (count - 1));
    print_message("an idle session takes %zu bytes\n", each);
    assert_true(each < 32768);
    for (size_t index = 0; index < count; index++) {
        pair_free(&pairs[index]);
    }
    tls_policy_free(&client);
    tls_policy_free(&server);
#endif
}

#define WITH_AUTHORITIES(name)                                                                     \
    cmocka_unit_test_setup_teardown(name, authorities_begin, authorities_end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_client_policy_problems),
        cmocka_unit_test(test_server_policy_problems),
        cmocka_unit_test(test_verdicts),
        cmocka_unit_test(test_fingerprint),
        cmocka_unit_test(test_server_names),
        cmocka_unit_test(test_transfer_1_3),
        cmocka_unit_test(test_transfer_1_2),
        cmocka_unit_test(test_handshake_cuts),
        cmocka_unit_test(test_output_bound),
        cmocka_unit_test(test_close_notify),
        cmocka_unit_test(test_truncation),
        cmocka_unit_test(test_end_in_handshake),
        cmocka_unit_test(test_garbage),
        cmocka_unit_test(test_damaged_record),
        cmocka_unit_test(test_old_and_weak),
        cmocka_unit_test(test_weak_ciphers_and_parameters),
        cmocka_unit_test(test_old_client_refused),
        cmocka_unit_test(test_alpn_refused),
        cmocka_unit_test(test_the_longest_server_names),
        cmocka_unit_test(test_sni_for_names_only),
        cmocka_unit_test(test_a_session_is_taken_up),
        cmocka_unit_test(test_a_session_is_taken_up_by_its_number),
        cmocka_unit_test(test_a_ticket_is_used_once),
        cmocka_unit_test(test_no_ticket_leaves_its_policy_or_its_name),
        cmocka_unit_test(test_a_refused_ticket_is_a_full_handshake),
        cmocka_unit_test(test_a_ticket_ends_with_the_certificate),
        cmocka_unit_test(test_a_ticket_has_its_lifetime),
        cmocka_unit_test(test_no_new_time_by_taking_up),
        cmocka_unit_test(test_a_pinned_server_is_taken_up),
        cmocka_unit_test(test_tickets_have_a_bound),
        cmocka_unit_test(test_threads_share_tickets),
        WITH_AUTHORITIES(test_authorities_are_read_again),
        WITH_AUTHORITIES(test_authorities_that_are_being_written),
        WITH_AUTHORITIES(test_authorities_that_cannot_be_used),
        WITH_AUTHORITIES(test_authorities_that_are_taken_back),
        WITH_AUTHORITIES(test_authorities_that_cannot_be_read_just_now),
        WITH_AUTHORITIES(test_revocations_are_no_authorities),
        WITH_AUTHORITIES(test_sessions_from_before_the_change),
        WITH_AUTHORITIES(test_without_authorities_nothing_is_read_again),
        cmocka_unit_test(test_renegotiation_refused),
        cmocka_unit_test(test_key_updates),
        cmocka_unit_test(test_records_without_content),
        cmocka_unit_test(test_input_bound),
        cmocka_unit_test(test_queue_of_another),
        cmocka_unit_test(test_policy_freed_first),
        cmocka_unit_test(test_threads_share_a_policy),
        WITH_AUTHORITIES(test_threads_and_new_authorities),
        cmocka_unit_test(test_idle_memory),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
