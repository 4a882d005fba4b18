/*
 * Logins through Cyrus SASL's client side.
 *
 * Only the plug-ins of the mechanisms below are loaded at all: what is not in the process cannot be
 * talked into (DIGEST-MD5, NTLM), and need not be kept up with (GSSAPI). No security layer: TLS is
 * that.
 *
 * The library copies secrets into memory of its own. Its allocator is therefore ours, and wipes
 * whatever it frees; the one copy made here lies in locked pages that core dumps leave out.
 *
 * Not here: whether a mechanism is good enough (sasl_choose.c), and what a server's reply means.
 */
#include "daemon/sasl/sasl_login.h"

#include "daemon/base/limits.h"
#include "daemon/base/num.h"

#include <malloc.h>
#include <pthread.h>
#include <sasl/sasl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#define SERVICE              "smtp"
#define PROBLEM_BYTES        256
#define MECHANISM_BYTES      32
#define STEPS_MAX            16
#define IDENTITY_BYTES_MAX   1024
#define SCRAM_ITERATIONS_MIN 4096 /* RFC 7677 4: anything less helps whoever guesses */
#define SCRAM_ITERATIONS_MAX                                                                       \
    1000000 /* about a second of this thread; the library's own is lower                           \
             */

enum family {
    FAMILY_SCRAM,
    FAMILY_OTHER,
};

/* All that may ever be used, and the plug-in (lib*.so) each lives in. */
static const struct mechanism {
    const char *name;
    const char *plugin;
    enum family family;
} mechanisms[] = {
    {"SCRAM-SHA-256", "libscram", FAMILY_SCRAM}, {"SCRAM-SHA-1", "libscram", FAMILY_SCRAM},
    {"CRAM-MD5", "libcrammd5", FAMILY_OTHER},    {"PLAIN", "libplain", FAMILY_OTHER},
    {"LOGIN", "liblogin", FAMILY_OTHER},
};
#define MECHANISM_COUNT (sizeof mechanisms / sizeof mechanisms[0])

enum login_state {
    LOGIN_ASKED,    /* the next challenge goes to the library */
    LOGIN_COMPLETE, /* the library has what it needs, the server's proof included */
    LOGIN_BROKEN,   /* a challenge was wrong; final */
};

/* Lies in its own locked pages, secret at the end. */
struct sasl_login {
    sasl_conn_t *connection; /* owned */
    size_t mapped_bytes;
    enum login_state state;
    bool unproven;
    unsigned steps;
    const struct mechanism *mechanism;
    sasl_callback_t callbacks[6];
    char user[IDENTITY_BYTES_MAX];
    char authzid[IDENTITY_BYTES_MAX];
    char realm[IDENTITY_BYTES_MAX];
    sasl_secret_t secret; /* its bytes run on to the end of the mapping */
};

/* The library keeps lists of its own behind new and dispose. */
static pthread_mutex_t library_lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- the library's memory and locks ---- */

static void *memory_get(size_t bytes)
{
    return malloc(bytes);
}

static void *memory_get_cleared(size_t count, size_t bytes)
{
    return calloc(count, bytes);
}

static void memory_put(void *memory)
{
    if (memory != NULL) {
        explicit_bzero(memory, malloc_usable_size(memory));
        free(memory);
    }
}

/* realloc would leave the old bytes behind where it moves. */
static void *memory_resize(void *memory, size_t bytes)
{
    void *moved = malloc(bytes);
    if (moved != NULL && memory != NULL) {
        memcpy(moved, memory, size_min(malloc_usable_size(memory), bytes));
        memory_put(memory);
    }
    return moved;
}

static void *lock_new(void)
{
    pthread_mutex_t *lock = malloc(sizeof *lock);
    if (lock != NULL && pthread_mutex_init(lock, NULL) != 0) {
        free(lock);
        lock = NULL;
    }
    return lock;
}

static int lock_take(void *lock)
{
    return pthread_mutex_lock(lock) == 0 ? 0 : -1;
}

static int lock_give(void *lock)
{
    return pthread_mutex_unlock(lock) == 0 ? 0 : -1;
}

static void lock_free(void *lock)
{
    if (lock != NULL) {
        pthread_mutex_destroy(lock);
        free(lock);
    }
}

/* ---- the library's questions ---- */

/* Its log may hold what was said in a login; ours has the outcome instead. */
static int drop_log(void *context, int level, const char *message)
{
    (void)context, (void)level, (void)message;
    return SASL_OK;
}

/* SASL_CONTINUE: leave this file out and go on. */
static int judge_file(void *context, const char *path, sasl_verify_type_t type)
{
    (void)context;
    if (type != SASL_VRFY_PLUGIN) {
        return SASL_OK;
    }
    const char *slash = strrchr(path, '/');
    struct slice file = slice_from_str(slash == NULL ? path : slash + 1);
    for (size_t row = 0; row < MECHANISM_COUNT; row++) {
        struct slice plugin = slice_from_str(mechanisms[row].plugin);
        if (slice_starts_with(file, plugin) && file.len > plugin.len &&
            file.data[plugin.len] == '.') {
            return SASL_OK;
        }
    }
    return SASL_CONTINUE;
}

/* Who logs in (AUTHNAME), and on whose behalf (USER). */
static int say_identity(void *context, int id, const char **out_text, unsigned *out_bytes)
{
    const struct sasl_login *s = context;
    if (id != SASL_CB_AUTHNAME && id != SASL_CB_USER) {
        return SASL_BADPARAM;
    }
    *out_text = id == SASL_CB_AUTHNAME ? s->user : s->authzid;
    if (out_bytes != NULL) {
        *out_bytes = (unsigned)strlen(*out_text);
    }
    return SASL_OK;
}

static int say_realm(void *context, int id, const char **available, const char **out_text)
{
    (void)id, (void)available;
    const struct sasl_login *s = context;
    *out_text = s->realm;
    return SASL_OK;
}

static int say_secret(sasl_conn_t *connection, void *context, int id, sasl_secret_t **out_secret)
{
    (void)connection, (void)id;
    struct sasl_login *s = context;
    *out_secret = &s->secret;
    return SASL_OK;
}

/* The library keeps all callbacks in one type, and casts them back by their id. */
typedef int (*callback_fn)(void);
#define CALLBACK(function) ((callback_fn)(void (*)(void))(function))

/* ---- start and stop ---- */

static void problem_put(char *problem, const char *words, int result)
{
    snprintf(problem, PROBLEM_BYTES, "%s: %s", words, sasl_errstring(result, NULL, NULL));
}

enum err sasl_login_library_init(char *problem)
{
    static const sasl_callback_t callbacks[] = {
        {SASL_CB_LOG, CALLBACK(drop_log), NULL},
        {SASL_CB_VERIFYFILE, CALLBACK(judge_file), NULL},
        {SASL_CB_LIST_END, NULL, NULL},
    };
    sasl_set_alloc(memory_get, memory_get_cleared, memory_resize, memory_put);
    sasl_set_mutex(lock_new, lock_take, lock_give, lock_free);
    int result = sasl_client_init(callbacks);
    if (result != SASL_OK) {
        problem_put(problem, "the SASL library does not start", result);
        return result == SASL_NOMEM ? ERR_NO_MEMORY : ERR_IO;
    }
    return ERR_OK;
}

void sasl_login_library_deinit(void)
{
    sasl_client_done();
}

/* ---- a session's memory ---- */

static struct sasl_login *session_map(size_t secret_bytes)
{
    size_t bytes = sizeof(struct sasl_login) + secret_bytes;
    struct sasl_login *s =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (s == MAP_FAILED) {
        return NULL;
    }
    /* Both are for the better only: RLIMIT_MEMLOCK may say no, and a login matters more. */
    (void)mlock(s, bytes);
    (void)madvise(s, bytes, MADV_DONTDUMP);
    s->mapped_bytes = bytes;
    return s;
}

static void session_unmap(struct sasl_login *s)
{
    size_t bytes = s->mapped_bytes;
    explicit_bzero(s, bytes);
    munmap(s, bytes);
}

static bool copy_identity(char *to, const char *from)
{
    size_t len = strlen(from);
    if (len >= IDENTITY_BYTES_MAX) {
        return false;
    }
    memcpy(to, from, len + 1);
    return true;
}

static bool copy_login(struct sasl_login *s, const struct sasl_credentials *login)
{
    s->secret.len = login->secret.len;
    if (login->secret.len > 0) {
        memcpy((uint8_t *)s + offsetof(struct sasl_login, secret.data), login->secret.data,
               login->secret.len);
    }
    return copy_identity(s->user, login->user) && copy_identity(s->authzid, login->authzid) &&
           copy_identity(s->realm, login->realm);
}

static void set_callbacks(struct sasl_login *s)
{
    const sasl_callback_t callbacks[] = {
        {SASL_CB_AUTHNAME, CALLBACK(say_identity), s}, {SASL_CB_USER, CALLBACK(say_identity), s},
        {SASL_CB_PASS, CALLBACK(say_secret), s},       {SASL_CB_GETREALM, CALLBACK(say_realm), s},
        {SASL_CB_LOG, CALLBACK(drop_log), NULL},       {SASL_CB_LIST_END, NULL, NULL},
    };
    _Static_assert(sizeof callbacks == sizeof s->callbacks, "as many as there is room for");
    memcpy(s->callbacks, callbacks, sizeof callbacks);
}

void sasl_login_free(struct sasl_login **s)
{
    if (*s == NULL) {
        return;
    }
    if ((*s)->connection != NULL) {
        pthread_mutex_lock(&library_lock);
        sasl_dispose(&(*s)->connection);
        pthread_mutex_unlock(&library_lock);
    }
    session_unmap(*s);
    *s = NULL;
}

/* ---- the dialogue ---- */

static enum err connection_open(struct sasl_login *s, const char *host, char *problem)
{
    /* No layer (max_ssf 0), nobody anonymous; what shows the password has been decided on by
     * sasl_login_choose. */
    static const sasl_security_properties_t properties = {
        .security_flags = SASL_SEC_NOANONYMOUS,
    };
    pthread_mutex_lock(&library_lock);
    int result = sasl_client_new(SERVICE, host, NULL, NULL, s->callbacks, 0, &s->connection);
    pthread_mutex_unlock(&library_lock);
    if (result == SASL_OK) {
        result = sasl_setprop(s->connection, SASL_SEC_PROPS, &properties);
    }
    if (result == SASL_OK) {
        return ERR_OK;
    }
    problem_put(problem, "the login cannot begin", result);
    return result == SASL_NOMEM ? ERR_NO_MEMORY : ERR_IO;
}

static const struct mechanism *mechanism_named(struct slice name)
{
    for (size_t row = 0; row < MECHANISM_COUNT; row++) {
        if (slice_equal_nocase(name, slice_from_str(mechanisms[row].name))) {
            return &mechanisms[row];
        }
    }
    return NULL;
}

/* Puts the library's bytes into response, and takes its result as our state. */
static enum err take_response(struct sasl_login *s, int result, struct slice said,
                              struct buf *response, char *problem)
{
    buf_put(response, said);
    if (response->overflow) {
        s->state = LOGIN_BROKEN;
        snprintf(problem, PROBLEM_BYTES, "the login's answer is too long");
        return ERR_FULL;
    }
    s->state = result == SASL_OK ? LOGIN_COMPLETE : LOGIN_ASKED;
    return ERR_OK;
}

static enum err mechanism_begin(struct sasl_login *s, const struct mechanism *mechanism,
                                struct buf *response, bool *out_has_initial, char *problem)
{
    const char *said = NULL;
    const char *chosen = NULL;
    unsigned bytes = 0;
    int result = sasl_client_start(s->connection, mechanism->name, NULL, &said, &bytes, &chosen);
    if (result == SASL_NOMECH) {
        return ERR_NOT_FOUND;
    }
    if (result != SASL_OK && result != SASL_CONTINUE) {
        problem_put(problem, mechanism->name, result);
        return result == SASL_NOMEM ? ERR_NO_MEMORY : ERR_IO;
    }
    enum err err =
        take_response(s, result, slice_of(said, said == NULL ? 0 : bytes), response, problem);
    if (err == ERR_OK) {
        s->mechanism = mechanism;
        *out_has_initial = said != NULL;
    }
    return err;
}

/* The first of the list that may be used and is installed. */
static enum err begin_first(struct sasl_login *s, const char *names, struct buf *response,
                            bool *out_has_initial, char *problem)
{
    struct slice list = slice_trim(slice_from_str(names));
    while (list.len > 0) {
        struct slice name = slice_head(list, slice_find(list, ' '));
        list = slice_trim(slice_tail(list, name.len));
        const struct mechanism *mechanism = mechanism_named(name);
        if (mechanism == NULL) {
            continue;
        }
        enum err err = mechanism_begin(s, mechanism, response, out_has_initial, problem);
        if (err != ERR_NOT_FOUND) {
            return err;
        }
    }
    snprintf(problem, PROBLEM_BYTES, "none of these logins is installed here: %.120s", names);
    return ERR_NOT_FOUND;
}

enum err sasl_login_start(struct sasl_login **out, const struct sasl_credentials *login,
                          char *out_mechanism, struct buf *response, bool *out_has_initial,
                          char *problem)
{
    if (login->secret.len > SECRET_BYTES_MAX) {
        snprintf(problem, PROBLEM_BYTES, "the password is too long");
        return ERR_LIMIT;
    }
    struct sasl_login *s = session_map(login->secret.len);
    if (s == NULL) {
        snprintf(problem, PROBLEM_BYTES, "out of memory");
        return ERR_NO_MEMORY;
    }
    bool has_initial = false;
    enum err err = ERR_OK;
    if (!copy_login(s, login)) {
        snprintf(problem, PROBLEM_BYTES, "the user's name is too long");
        err = ERR_LIMIT;
    }
    if (err == ERR_OK) {
        set_callbacks(s);
        err = connection_open(s, login->host, problem);
    }
    if (err == ERR_OK) {
        err = begin_first(s, login->mechanisms, response, &has_initial, problem);
    }
    if (err != ERR_OK) {
        sasl_login_free(&s);
        return err;
    }
    snprintf(out_mechanism, MECHANISM_BYTES, "%s", s->mechanism->name);
    *out_has_initial = has_initial;
    *out = s;
    return ERR_OK;
}

/*
 * The i= of SCRAM's first challenge, "r=nonce,s=salt,i=4096". RFC 5802 7. Few iterations weaken the
 * password before whoever pretends to be the server, many keep this thread busy for minutes. A
 * challenge of another form is the library's to judge.
 */
static bool scram_iterations_are_sane(struct slice challenge)
{
    while (challenge.len > 0) {
        struct slice field = slice_head(challenge, slice_find(challenge, ','));
        challenge = slice_tail(challenge, field.len + 1);
        uint64_t count = 0;
        if (slice_starts_with(field, SLICE("i="))) {
            return u64_parse(slice_tail(field, 2), &count) && count >= SCRAM_ITERATIONS_MIN &&
                   count <= SCRAM_ITERATIONS_MAX;
        }
    }
    return true;
}

static enum err refuse(struct sasl_login *s, enum err err, const char *words, char *problem)
{
    s->state = LOGIN_BROKEN;
    snprintf(problem, PROBLEM_BYTES, "%s", words);
    return err;
}

static enum err refuse_by_result(struct sasl_login *s, int result, char *problem)
{
    s->state = LOGIN_BROKEN;
    switch (result) {
    case SASL_NOMEM:
        return refuse(s, ERR_NO_MEMORY, "out of memory", problem);
    case SASL_BADSERV:
    case SASL_BADAUTH:
    case SASL_BADMAC:
        return refuse(s, ERR_SYNTAX,
                      "the server cannot prove that it knows this password: it may not be the "
                      "server it says it is",
                      problem);
    default:
        problem_put(problem, "the server's challenge makes no sense", result);
        return ERR_SYNTAX;
    }
}

static enum err step(struct sasl_login *s, struct slice challenge, struct buf *response,
                     char *problem)
{
    if (s->steps++ >= STEPS_MAX) {
        return refuse(s, ERR_LIMIT, "the server asks on and on", problem);
    }
    if (s->state != LOGIN_ASKED) {
        return refuse(s, ERR_SYNTAX, "the server asks on after the login's end", problem);
    }
    if (s->mechanism->family == FAMILY_SCRAM && !scram_iterations_are_sane(challenge)) {
        return refuse(s, ERR_SYNTAX,
                      "the server wants an unsafe number of SCRAM iterations (4096 to 1000000)",
                      problem);
    }
    if (challenge.len > SMTP_AUTH_LINE_BYTES_MAX) {
        return refuse(s, ERR_SYNTAX, "the server's challenge is too long", problem);
    }
    const char *said = NULL;
    unsigned bytes = 0;
    int result =
        sasl_client_step(s->connection, challenge.len == 0 ? "" : (const char *)challenge.data,
                         (unsigned)challenge.len, NULL, &said, &bytes);
    if (result != SASL_OK && result != SASL_CONTINUE) {
        return refuse_by_result(s, result, problem);
    }
    return take_response(s, result, slice_of(said, said == NULL ? 0 : bytes), response, problem);
}

/* "e=" is how a server says no to our own proof: RFC 5802 5.1. */
enum err sasl_login_step(struct sasl_login *s, struct slice challenge, struct buf *response,
                         char *problem)
{
    bool owes_proof = s->state == LOGIN_ASKED && s->mechanism->family == FAMILY_SCRAM &&
                      !slice_starts_with(challenge, SLICE("e="));
    enum err err = step(s, challenge, response, problem);
    if (owes_proof && err == ERR_SYNTAX) {
        s->unproven = true;
    }
    return err;
}

bool sasl_login_is_unproven(const struct sasl_login *s)
{
    return s->unproven;
}

bool sasl_login_is_complete(const struct sasl_login *s)
{
    return s->state == LOGIN_COMPLETE;
}
