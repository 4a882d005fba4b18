/*
 * daemon/sasl against Cyrus's own server side in this process, with a sasldb in a directory of the
 * test's own.
 */
#include "daemon/sasl/sasl_login.h"

#include <sasl/sasl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#define HOST            "mail.example.jp"
#define USER            "anna"
#define PASSWORD        "correct horse \xc3\xa9"
#define PROBLEM_BYTES   256
#define STEPS_BOUND     10
#define CHALLENGE_BYTES 4096

static char directory[64];
static char database[96];

/* ---- choosing ---- */

static void test_choose(void **state)
{
    (void)state;
    static const struct {
        const char *offered;
        const char *allowed;
        bool over_tls;
        const char *chosen;
    } cases[] = {
        {"PLAIN LOGIN", "auto", true, "PLAIN LOGIN"},
        {"LOGIN PLAIN", "auto", true, "PLAIN LOGIN"},
        {"PLAIN LOGIN", "auto", false, ""},
        {"LOGIN PLAIN CRAM-MD5 SCRAM-SHA-1 SCRAM-SHA-256", "auto", true,
         "SCRAM-SHA-256 SCRAM-SHA-1 CRAM-MD5 PLAIN LOGIN"},
        {"LOGIN PLAIN CRAM-MD5 SCRAM-SHA-1 SCRAM-SHA-256", "auto", false,
         "SCRAM-SHA-256 SCRAM-SHA-1 CRAM-MD5"},
        {"plain cram-md5", "AUTO", true, "CRAM-MD5 PLAIN"},
        {"PLAIN LOGIN", "plain", false, "PLAIN"},
        {"PLAIN LOGIN", "login plain", false, "PLAIN LOGIN"},
        {"PLAIN LOGIN CRAM-MD5", "scram-sha-256, login", true, "LOGIN"},
        {"PLAIN LOGIN CRAM-MD5", "SCRAM-SHA-256,PLAIN", false, "PLAIN"},
        {"PLAIN CRAM-MD5", "auto login", false, "CRAM-MD5"},
        {"PLAIN LOGIN CRAM-MD5", "auto login", false, "CRAM-MD5 LOGIN"},
        {"DIGEST-MD5 NTLM GSSAPI ANONYMOUS EXTERNAL", "auto", true, ""},
        {"DIGEST-MD5 NTLM", "digest-md5 ntlm", true, ""},
        {"SCRAM-SHA-256-PLUS", "auto", true, ""},
        {"XPLAIN PLAINX", "auto plain", true, ""},
        {"", "auto", true, ""},
        {"PLAIN", "", true, ""},
        {" \t PLAIN\tLOGIN  ", "auto", true, "PLAIN LOGIN"},
        {"PLAIN PLAIN PLAIN", "auto plain", true, "PLAIN"},
    };
    for (size_t index = 0; index < sizeof cases / sizeof cases[0]; index++) {
        char out[128];
        memset(out, 'x', sizeof out);
        sasl_login_choose(cases[index].offered, cases[index].allowed, cases[index].over_tls, out,
                          sizeof out);
        assert_string_equal(out, cases[index].chosen);
    }
}

/* A name is there whole or not at all, and the memory after it is not touched. */
static void test_choose_bounded(void **state)
{
    (void)state;
    static const char all[] = "SCRAM-SHA-256 SCRAM-SHA-1 CRAM-MD5 PLAIN LOGIN";
    for (size_t cap = 1; cap <= sizeof all; cap++) {
        char out[sizeof all + 1];
        memset(out, 'x', sizeof out);
        sasl_login_choose(all, "auto", true, out, cap);
        assert_true(strlen(out) < cap);
        assert_int_equal(out[cap], 'x');
        for (struct slice rest = slice_from_str(out); rest.len > 0;) {
            char word[32] = "";
            char again[32];
            size_t end = slice_find(rest, ' ');
            assert_true(end > 0 && end < sizeof word);
            memcpy(word, rest.data, end);
            rest = slice_tail(rest, end + 1);
            sasl_login_choose(all, word, false, again, sizeof again);
            assert_string_equal(again, word);
        }
    }
}

/* ---- the other side ---- */

static int server_option(void *context, const char *plugin, const char *option, const char **out,
                         unsigned *out_bytes)
{
    (void)context, (void)plugin;
    const struct {
        const char *option;
        const char *value;
    } options[] = {
        {"pwcheck_method", "auxprop"},
        {"auxprop_plugin", "sasldb"},
        {"sasldb_path", database},
        {"mech_list", "SCRAM-SHA-256 SCRAM-SHA-1 CRAM-MD5 PLAIN LOGIN DIGEST-MD5"},
        {"log_level", "0"},
    };
    for (size_t row = 0; row < sizeof options / sizeof options[0]; row++) {
        if (strcmp(option, options[row].option) == 0) {
            *out = options[row].value;
            if (out_bytes != NULL) {
                *out_bytes = (unsigned)strlen(options[row].value);
            }
            return SASL_OK;
        }
    }
    return SASL_FAIL;
}

static int server_log(void *context, int level, const char *message)
{
    (void)context, (void)level, (void)message;
    return SASL_OK;
}

typedef int (*callback_fn)(void);
#define CALLBACK(function) ((callback_fn)(void (*)(void))(function))

static const sasl_callback_t server_callbacks[] = {
    {SASL_CB_GETOPT, CALLBACK(server_option), NULL},
    {SASL_CB_LOG, CALLBACK(server_log), NULL},
    {SASL_CB_LIST_END, NULL, NULL},
};

static sasl_conn_t *server_new(void)
{
    sasl_conn_t *server = NULL;
    assert_int_equal(sasl_server_new("smtp", HOST, "example.jp", NULL, NULL, NULL, 0, &server),
                     SASL_OK);
    sasl_security_properties_t properties = {.security_flags = SASL_SEC_NOANONYMOUS};
    assert_int_equal(sasl_setprop(server, SASL_SEC_PROPS, &properties), SASL_OK);
    return server;
}

/* Asked while only the client side is up: which mechanisms got into the process at all. */
static char loaded[512];

static int setup(void **state)
{
    (void)state;
    char problem[PROBLEM_BYTES] = "";
    (void)snprintf(directory, sizeof directory, "/tmp/tasuki-test-sasl-XXXXXX");
    assert_non_null(mkdtemp(directory));
    (void)snprintf(database, sizeof database, "%s/sasldb2", directory);
    assert_int_equal(sasl_login_library_init(problem), ERR_OK);
    const char **names = sasl_global_listmech();
    struct buf list;
    buf_init(&list, loaded, sizeof loaded - 1);
    for (size_t index = 0; names != NULL && names[index] != NULL; index++) {
        buf_put_str(&list, names[index]);
        buf_put_byte(&list, ' ');
    }
    assert_false(list.overflow);
    assert_int_equal(sasl_server_init(server_callbacks, "tasuki-test"), SASL_OK);
    sasl_conn_t *server = server_new();
    assert_int_equal(
        sasl_setpass(server, USER, PASSWORD, sizeof PASSWORD - 1, NULL, 0, SASL_SET_CREATE),
        SASL_OK);
    sasl_dispose(&server);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    sasl_login_library_deinit();
    sasl_server_done();
    unlink(database);
    rmdir(directory);
    return 0;
}

static void test_loaded(void **state)
{
    (void)state;
    static const char *const never[] = {"DIGEST", "NTLM", "GSS", "ANONYMOUS", "OTP", "SRP"};
    for (size_t index = 0; index < sizeof never / sizeof never[0]; index++) {
        if (strstr(loaded, never[index]) != NULL) {
            fail_msg("loaded: %s", loaded);
        }
    }
    /* Whatever is loaded besides, a login with it does not begin. */
    static const char *const refused[] = {"DIGEST-MD5",    "NTLM", "GSSAPI", "ANONYMOUS",
                                          "SCRAM-SHA-512", "",     "   ",    "NO-SUCH EXTERNAL"};
    for (size_t index = 0; index < sizeof refused / sizeof refused[0]; index++) {
        struct sasl_login *s = NULL;
        char problem[PROBLEM_BYTES] = "";
        char mechanism[32] = "untouched";
        uint8_t memory[256];
        struct buf response;
        bool has_initial = false;
        buf_init(&response, memory, sizeof memory);
        struct sasl_credentials login = {HOST, USER, "", "", SLICE(PASSWORD), refused[index]};
        assert_int_equal(sasl_login_start(&s, &login, mechanism, &response, &has_initial, problem),
                         ERR_NOT_FOUND);
        assert_null(s);
        assert_string_equal(mechanism, "untouched");
        assert_non_null(strstr(problem, "installed"));
    }
}

/* ---- a whole login ---- */

/* Changes what the server said before the client hears it. */
typedef void tamper_fn(char *challenge, unsigned *bytes);

struct dialogue {
    struct sasl_login *client;
    sasl_conn_t *server;
    uint8_t memory[4096];
    struct buf response;
    char problem[PROBLEM_BYTES];
    bool has_initial;
    int verdict; /* the server's */
    enum err client_err;
    bool complete; /* the client, at the end */
    unsigned steps;
};

static void dialogue_begin(struct dialogue *d, const char *mechanism, struct slice secret,
                           const char *authzid)
{
    *d = (struct dialogue){.server = server_new()};
    char chosen[32] = "";
    char names[64];
    /* The first is not installed anywhere and is passed over. */
    (void)snprintf(names, sizeof names, "NO-SUCH-1 %s", mechanism);
    struct sasl_credentials login = {HOST, USER, authzid, "", secret, names};
    buf_init(&d->response, d->memory, sizeof d->memory);
    assert_int_equal(
        sasl_login_start(&d->client, &login, chosen, &d->response, &d->has_initial, d->problem),
        ERR_OK);
    assert_string_equal(chosen, mechanism);
}

static void dialogue_run(struct dialogue *d, const char *mechanism, tamper_fn *tamper)
{
    const char *said = NULL;
    unsigned bytes = 0;
    char challenge[CHALLENGE_BYTES];
    d->verdict =
        sasl_server_start(d->server, mechanism, d->has_initial ? (const char *)d->memory : NULL,
                          (unsigned)d->response.len, &said, &bytes);
    while (d->verdict == SASL_CONTINUE && d->steps++ < STEPS_BOUND) {
        assert_true(bytes < sizeof challenge);
        memcpy(challenge, bytes == 0 ? "" : said, bytes);
        if (tamper != NULL) {
            tamper(challenge, &bytes);
        }
        buf_reset(&d->response);
        d->client_err =
            sasl_login_step(d->client, slice_of(challenge, bytes), &d->response, d->problem);
        if (d->client_err != ERR_OK) {
            break;
        }
        d->verdict = sasl_server_step(d->server, (const char *)d->memory, (unsigned)d->response.len,
                                      &said, &bytes);
    }
    assert_true(d->steps < STEPS_BOUND);
    d->complete = sasl_login_is_complete(d->client);
}

static void dialogue_end(struct dialogue *d)
{
    sasl_login_free(&d->client);
    assert_null(d->client);
    sasl_login_free(&d->client);
    sasl_dispose(&d->server);
}

static const struct {
    const char *name;
    bool has_initial;
    bool proves_server;
} mechanisms[] = {
    {"SCRAM-SHA-256", true, true}, {"SCRAM-SHA-1", true, true}, {"CRAM-MD5", false, false},
    {"PLAIN", true, false},        {"LOGIN", false, false},
};
#define MECHANISM_COUNT (sizeof mechanisms / sizeof mechanisms[0])

static void test_right_password(void **state)
{
    (void)state;
    for (size_t index = 0; index < MECHANISM_COUNT; index++) {
        struct dialogue d;
        const void *user = NULL;
        dialogue_begin(&d, mechanisms[index].name, SLICE(PASSWORD), "");
        assert_int_equal(d.has_initial, mechanisms[index].has_initial);
        dialogue_run(&d, mechanisms[index].name, NULL);
        if (d.verdict != SASL_OK || d.client_err != ERR_OK || !d.complete) {
            fail_msg("%s: server %d, client %d %s", mechanisms[index].name, d.verdict, d.client_err,
                     d.problem);
        }
        assert_int_equal(sasl_getprop(d.server, SASL_USERNAME, &user), SASL_OK);
        assert_string_equal(user, USER "@example.jp");
        dialogue_end(&d);
    }
}

static void test_wrong_password(void **state)
{
    (void)state;
    static const struct slice secrets[] = {
        {(const uint8_t *)"wrong", 5},
        {(const uint8_t *)"correct horse ", 14},
        {(const uint8_t *)"", 0},
    };
    for (size_t index = 0; index < MECHANISM_COUNT; index++) {
        for (size_t secret = 0; secret < 3; secret++) {
            struct dialogue d;
            struct sasl_credentials login = {
                HOST, USER, "", "", secrets[secret], mechanisms[index].name};
            d = (struct dialogue){.server = server_new()};
            char chosen[32];
            buf_init(&d.response, d.memory, sizeof d.memory);
            enum err err =
                sasl_login_start(&d.client, &login, chosen, &d.response, &d.has_initial, d.problem);
            /* The library may refuse an empty password by itself. */
            if (err == ERR_OK) {
                dialogue_run(&d, mechanisms[index].name, NULL);
            } else {
                assert_int_equal(secrets[secret].len, 0);
                d.verdict = SASL_BADAUTH;
            }
            assert_int_not_equal(d.verdict, SASL_OK);
            assert_null(strstr(d.problem, "correct horse"));
            if (mechanisms[index].proves_server && err == ERR_OK) {
                assert_false(d.complete);
            }
            dialogue_end(&d);
        }
    }
}

static void test_plain_bytes(void **state)
{
    (void)state;
    struct dialogue d;
    dialogue_begin(&d, "PLAIN", SLICE("se\xff cret"), "boss");
    static const char expected[] = "boss\0anna\0se\xff cret";
    assert_int_equal(d.response.len, sizeof expected - 1);
    assert_memory_equal(d.memory, expected, sizeof expected - 1);
    assert_true(sasl_login_is_complete(d.client));
    dialogue_end(&d);
    dialogue_begin(&d, "PLAIN", SLICE("x"), "");
    assert_int_equal(d.response.len, sizeof "\0anna\0x" - 1);
    assert_memory_equal(d.memory, "\0anna\0x", sizeof "\0anna\0x" - 1);
    dialogue_end(&d);
}

/* Prompts differ from server to server; only their order counts. */
static void test_login_prompts(void **state)
{
    (void)state;
    static const char *const prompts[][2] = {
        {"Username:", "Password:"}, {"User Name", "Password"}, {"VXNlcg==", "x"}};
    for (size_t index = 0; index < 3; index++) {
        struct dialogue d;
        dialogue_begin(&d, "LOGIN", SLICE("pass"), "");
        assert_false(d.has_initial);
        buf_reset(&d.response);
        assert_int_equal(
            sasl_login_step(d.client, slice_from_str(prompts[index][0]), &d.response, d.problem),
            ERR_OK);
        assert_int_equal(d.response.len, 4);
        assert_memory_equal(d.memory, "anna", 4);
        assert_false(sasl_login_is_complete(d.client));
        buf_reset(&d.response);
        assert_int_equal(
            sasl_login_step(d.client, slice_from_str(prompts[index][1]), &d.response, d.problem),
            ERR_OK);
        assert_int_equal(d.response.len, 4);
        assert_memory_equal(d.memory, "pass", 4);
        assert_true(sasl_login_is_complete(d.client));
        dialogue_end(&d);
    }
}

/* RFC 2195 2. */
static void test_cram_md5_vector(void **state)
{
    (void)state;
    struct sasl_login *s = NULL;
    char mechanism[32];
    char problem[PROBLEM_BYTES];
    uint8_t memory[256];
    struct buf response;
    bool has_initial = true;
    static const char expected[] = "tim b913a602c7eda7a495b4e6e7334d3890";
    struct sasl_credentials login = {HOST, "tim", "", "", SLICE("tanstaaftanstaaf"), "cram-md5"};
    buf_init(&response, memory, sizeof memory);
    assert_int_equal(sasl_login_start(&s, &login, mechanism, &response, &has_initial, problem),
                     ERR_OK);
    assert_string_equal(mechanism, "CRAM-MD5");
    assert_false(has_initial);
    assert_int_equal(
        sasl_login_step(s, SLICE("<1896.697170952@postoffice.reston.mci.net>"), &response, problem),
        ERR_OK);
    assert_int_equal(response.len, sizeof expected - 1);
    assert_memory_equal(memory, expected, sizeof expected - 1);
    sasl_login_free(&s);
}

/* ---- servers that lie ---- */

/* The challenge up to at, then the text. */
static void end_with(char *challenge, unsigned *bytes, char *at, const char *text)
{
    size_t head = (size_t)(at - challenge);
    size_t tail = strlen(text);
    assert_true(head + tail < CHALLENGE_BYTES);
    memcpy(at, text, tail + 1);
    *bytes = (unsigned)(head + tail);
}

/* "v=" and the signature: another one, well formed. */
static void forge_signature(char *challenge, unsigned *bytes)
{
    if (*bytes > 4 && memcmp(challenge, "v=", 2) == 0) {
        challenge[2] = challenge[2] == 'A' ? 'B' : 'A';
    }
}

static void forget_signature(char *challenge, unsigned *bytes)
{
    if (*bytes > 4 && memcmp(challenge, "v=", 2) == 0) {
        *bytes = 0;
    }
}

static void break_signature(char *challenge, unsigned *bytes)
{
    if (*bytes > 4 && memcmp(challenge, "v=", 2) == 0) {
        challenge[2] = '*';
    }
}

static void say_error(char *challenge, unsigned *bytes)
{
    if (*bytes > 4 && memcmp(challenge, "v=", 2) == 0) {
        end_with(challenge, bytes, challenge, "e=other-error");
    }
}

static void forge_nonce(char *challenge, unsigned *bytes)
{
    (void)bytes;
    if (memcmp(challenge, "r=", 2) == 0) {
        challenge[3] = challenge[3] == 'A' ? 'B' : 'A';
    }
}

/* Puts other iterations into "r=...,s=...,i=4096". */
static void set_iterations(char *challenge, unsigned *bytes, const char *count)
{
    challenge[*bytes] = '\0';
    char *at = strstr(challenge, ",i=");
    if (memcmp(challenge, "r=", 2) == 0 && at != NULL) {
        end_with(challenge, bytes, at + 3, count);
    }
}

static void few_iterations(char *challenge, unsigned *bytes)
{
    set_iterations(challenge, bytes, "1");
}

static void just_too_few_iterations(char *challenge, unsigned *bytes)
{
    set_iterations(challenge, bytes, "4095");
}

static void many_iterations(char *challenge, unsigned *bytes)
{
    set_iterations(challenge, bytes, "1000000000");
}

static void no_number_of_iterations(char *challenge, unsigned *bytes)
{
    set_iterations(challenge, bytes, "-4096");
}

static void no_salt(char *challenge, unsigned *bytes)
{
    challenge[*bytes] = '\0';
    char *at = strstr(challenge, ",s=");
    if (memcmp(challenge, "r=", 2) == 0 && at != NULL) {
        end_with(challenge, bytes, at, ",i=4096");
    }
}

static void garbage(char *challenge, unsigned *bytes)
{
    memset(challenge, 0xff, 40);
    *bytes = 40;
}

static void nothing(char *challenge, unsigned *bytes)
{
    (void)challenge;
    *bytes = 0;
}

static void endless(char *challenge, unsigned *bytes)
{
    memset(challenge, 'r', 4000);
    *bytes = 4000;
}

static void test_scram_lies(void **state)
{
    (void)state;
    static const struct {
        tamper_fn *tamper;
        const char *words;
        bool refuses; /* it is our proof that is wrong, it says */
    } cases[] = {
        {forge_signature, "cannot prove", false},
        {forget_signature, "", false},
        {break_signature, "", false},
        {say_error, "", true},
        {forge_nonce, "", false},
        {few_iterations, "iterations", false},
        {just_too_few_iterations, "iterations", false},
        {many_iterations, "iterations", false},
        {no_number_of_iterations, "iterations", false},
        {no_salt, "", false},
        {garbage, "", false},
        {nothing, "", false},
        {endless, "", false},
    };
    for (size_t mechanism = 0; mechanism < 2; mechanism++) {
        for (size_t index = 0; index < sizeof cases / sizeof cases[0]; index++) {
            struct dialogue d;
            dialogue_begin(&d, mechanisms[mechanism].name, SLICE(PASSWORD), "");
            dialogue_run(&d, mechanisms[mechanism].name, cases[index].tamper);
            if (d.client_err != ERR_SYNTAX || d.complete ||
                strstr(d.problem, cases[index].words) == NULL) {
                fail_msg("case %zu: %d, %s", index, d.client_err, d.problem);
            }
            assert_null(strstr(d.problem, "horse"));
            assert_int_equal(sasl_login_is_unproven(d.client), !cases[index].refuses);
            /* Broken is final. */
            assert_int_equal(sasl_login_step(d.client, SLICE("v=AAAA"), &d.response, d.problem),
                             ERR_SYNTAX);
            assert_false(sasl_login_is_complete(d.client));
            dialogue_end(&d);
        }
    }
}

static void test_cram_md5_lies(void **state)
{
    (void)state;
    static tamper_fn *const cases[] = {endless};
    for (size_t index = 0; index < sizeof cases / sizeof cases[0]; index++) {
        struct dialogue d;
        dialogue_begin(&d, "CRAM-MD5", SLICE(PASSWORD), "");
        dialogue_run(&d, "CRAM-MD5", cases[index]);
        assert_int_equal(d.client_err, ERR_SYNTAX);
        assert_false(d.complete);
        assert_false(sasl_login_is_unproven(d.client)); /* it owes no proof */
        dialogue_end(&d);
    }
}

/* A 334 after the end, as often as the server likes. */
static void test_asks_on(void **state)
{
    (void)state;
    struct dialogue d;
    dialogue_begin(&d, "PLAIN", SLICE(PASSWORD), "");
    for (int round = 0; round < 16; round++) {
        assert_int_equal(sasl_login_step(d.client, SLICE("more"), &d.response, d.problem),
                         ERR_SYNTAX);
    }
    assert_int_equal(sasl_login_step(d.client, SLICE("more"), &d.response, d.problem), ERR_LIMIT);
    dialogue_end(&d);
}

/* ---- bounds ---- */

static void test_bounds(void **state)
{
    (void)state;
    static uint8_t secret[4097];
    static char user[2000];
    memset(secret, 's', sizeof secret);
    memset(user, 'u', sizeof user - 1);
    const struct {
        const char *user;
        size_t secret_bytes;
        size_t response_bytes;
        enum err err;
    } cases[] = {
        {USER, 1000, 1006, ERR_OK},  {USER, 1000, 1005, ERR_FULL}, {USER, 4097, 8192, ERR_LIMIT},
        {user, 10, 8192, ERR_LIMIT}, {USER, 10, 0, ERR_FULL},
    };
    for (size_t index = 0; index < sizeof cases / sizeof cases[0]; index++) {
        struct sasl_login *s = NULL;
        char problem[PROBLEM_BYTES] = "";
        char mechanism[32];
        bool has_initial = false;
        static uint8_t memory[8192];
        struct buf response;
        buf_init(&response, memory, cases[index].response_bytes);
        struct sasl_credentials login = {
            HOST, cases[index].user, "", "", slice_of(secret, cases[index].secret_bytes), "PLAIN"};
        assert_int_equal(sasl_login_start(&s, &login, mechanism, &response, &has_initial, problem),
                         cases[index].err);
        assert_null(strstr(problem, "sss"));
        assert_int_equal(s == NULL, cases[index].err != ERR_OK);
        sasl_login_free(&s);
    }
}

/* ---- nothing of the secret is left ---- */

/* A sanitizer's heap is not [heap], and keeps what was freed apart. */
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define SEARCH_HEAP 1
#else
#define SEARCH_HEAP 0
#endif

#if SEARCH_HEAP
#define CANARY "kanarienvogel-4711"
/* The allocator writes into the first bytes of what was freed: the canary sits further on. */
#define PADDING "--------------------------------------------------------------------------------"

/* How often the canary lies on the heap. */
static unsigned canaries_in_heap(void)
{
    FILE *maps = fopen("/proc/self/maps", "re");
    assert_non_null(maps);
    char line[512];
    unsigned count = 0;
    char needle[sizeof CANARY];
    memcpy(needle, CANARY, sizeof CANARY);
    for (size_t index = 0; index < sizeof CANARY - 1; index++) {
        needle[index] ^= 0x55; /* so that the needle is not found itself */
    }
    while (fgets(line, sizeof line, maps) != NULL) {
        uintptr_t from = 0;
        uintptr_t to = 0;
        if (strstr(line, "[heap]") == NULL || sscanf(line, "%lx-%lx", &from, &to) != 2) {
            continue;
        }
        const volatile uint8_t *at = (const volatile uint8_t *)from;
        for (size_t index = 0; index + sizeof CANARY - 1 < to - from; index++) {
            size_t same = 0;
            while (same < sizeof CANARY - 1 && (at[index + same] ^ 0x55) == (uint8_t)needle[same]) {
                same++;
            }
            count += same == sizeof CANARY - 1;
        }
    }
    fclose(maps);
    return count;
}

/* LeakSanitizer's heap is another one. */
extern int __lsan_do_recoverable_leak_check(void) __attribute__((weak));

static void test_secret_is_wiped(void **state)
{
    (void)state;
    if (&__lsan_do_recoverable_leak_check != NULL) {
        skip();
    }
    /* The search itself finds what it should. */
    char *planted = strdup(PADDING CANARY);
    assert_non_null(planted);
    assert_true(canaries_in_heap() >= 1);
    explicit_bzero(planted, strlen(planted));
    free(planted);
    assert_int_equal(canaries_in_heap(), 0);
    for (size_t index = 0; index < MECHANISM_COUNT; index++) {
        struct dialogue d;
        dialogue_begin(&d, mechanisms[index].name, SLICE(PADDING CANARY), "");
        dialogue_run(&d, mechanisms[index].name, NULL);
        /* The server side, which holds it too, is disposed of by the same allocator. */
        dialogue_end(&d);
        if (canaries_in_heap() != 0) {
            fail_msg("%s leaves the password in freed memory", mechanisms[index].name);
        }
    }
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_choose),
        cmocka_unit_test(test_choose_bounded),
        cmocka_unit_test(test_loaded),
        cmocka_unit_test(test_right_password),
        cmocka_unit_test(test_wrong_password),
        cmocka_unit_test(test_plain_bytes),
        cmocka_unit_test(test_login_prompts),
        cmocka_unit_test(test_cram_md5_vector),
        cmocka_unit_test(test_scram_lies),
        cmocka_unit_test(test_cram_md5_lies),
        cmocka_unit_test(test_asks_on),
        cmocka_unit_test(test_bounds),
#if SEARCH_HEAP
        cmocka_unit_test(test_secret_is_wiped),
#endif
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
