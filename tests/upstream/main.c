/*
 * tasuki-demo-upstream: options, start, threads, stop.
 */
#include "daemon/base/num.h"
#include "tests/upstream/certificate.h"
#include "tests/upstream/control.h"
#include "tests/upstream/session.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sysexits.h>
#include <unistd.h>

#define BACKLOG         1024
#define LISTEN_BYTES    64
#define CERT_PATH_BYTES 512
#define ERRORS_MAX      20
#define NOFILE_WANTED   (LOOPS_MAX * SESSIONS_MAX)

/* What was asked for. */
struct options {
    const char *listen;
    const char *hostname;
    const char *certificate, *key, *make_certificate;
    const char *user, *password_file;
    const char *control, *tell;
    const char *keep, *mode;
    uint64_t threads;
    enum io_backend backend;
    bool tls_on_connect, chunking, pipelining, verbose;
};

static const char help_head[] =
    "tasuki-demo-upstream: a mail server to relay to, for trying things out\n"
    "\n"
    "  --listen ADDRESS:PORT  where mail is taken (127.0.0.1:2525); port 0 is any free one, and\n"
    "                         the first line of the output says which\n"
    "  --hostname NAME        in the greeting (localhost)\n"
    "  --make-cert DIR        makes ca.pem, cert.pem and key.pem there, for localhost and\n"
    "                         127.0.0.1, and serves with them\n"
    "  --cert FILE --key FILE a certificate that is there already\n"
    "  --tls-on-connect       TLS from the first byte; otherwise STARTTLS is offered\n"
    "  --user NAME --password-file FILE\n"
    "                         who may log in (AUTH PLAIN and LOGIN, over TLS only); mail needs it\n"
    "  --keep DIR             keeps each message as DIR/NNNNNN.eml: envelope, empty line, content\n"
    "  --chunking             offers CHUNKING\n"
    "  --no-pipelining        does not offer PIPELINING\n"
    "  --threads N            1 to 16 (1)\n"
    "  --io auto|uring|poll   how the network is driven (auto)\n"
    "  --verbose              says what it took, a line each\n"
    "  --mode MODE            how to behave at first (ok)\n"
    "  --control SOCKET       where it can be told to behave in another way while it runs\n"
    "  --control SOCKET --tell MODE\n"
    "                         tells it, and prints what it has counted\n"
    "  --control SOCKET --tell stats\n"
    "                         only prints it\n"
    "\n"
    "Modes:\n";

enum option_id {
    OPTION_HELP = 'h',
    OPTION_FIRST = 256,
    OPTION_LISTEN = OPTION_FIRST,
    OPTION_HOSTNAME,
    OPTION_MAKE_CERT,
    OPTION_CERT,
    OPTION_KEY,
    OPTION_TLS_ON_CONNECT,
    OPTION_USER,
    OPTION_PASSWORD_FILE,
    OPTION_KEEP,
    OPTION_CHUNKING,
    OPTION_NO_PIPELINING,
    OPTION_THREADS,
    OPTION_IO,
    OPTION_VERBOSE,
    OPTION_MODE,
    OPTION_CONTROL,
    OPTION_TELL,
};

static const struct option long_options[] = {
    {"help", no_argument, NULL, OPTION_HELP},
    {"listen", required_argument, NULL, OPTION_LISTEN},
    {"hostname", required_argument, NULL, OPTION_HOSTNAME},
    {"make-cert", required_argument, NULL, OPTION_MAKE_CERT},
    {"cert", required_argument, NULL, OPTION_CERT},
    {"key", required_argument, NULL, OPTION_KEY},
    {"tls-on-connect", no_argument, NULL, OPTION_TLS_ON_CONNECT},
    {"user", required_argument, NULL, OPTION_USER},
    {"password-file", required_argument, NULL, OPTION_PASSWORD_FILE},
    {"keep", required_argument, NULL, OPTION_KEEP},
    {"chunking", no_argument, NULL, OPTION_CHUNKING},
    {"no-pipelining", no_argument, NULL, OPTION_NO_PIPELINING},
    {"threads", required_argument, NULL, OPTION_THREADS},
    {"io", required_argument, NULL, OPTION_IO},
    {"verbose", no_argument, NULL, OPTION_VERBOSE},
    {"mode", required_argument, NULL, OPTION_MODE},
    {"control", required_argument, NULL, OPTION_CONTROL},
    {"tell", required_argument, NULL, OPTION_TELL},
    {NULL, 0, NULL, 0},
};

static int complain(const char *what, const char *why, int code)
{
    fprintf(stderr, "tasuki-demo-upstream: %s: %s\n", what, why);
    return code;
}

static void print_help(void)
{
    fputs(help_head, stdout);
    const struct mode_row *row;
    for (size_t index = 0; (row = mode_at(index)) != NULL; index++) {
        printf("  %-15s %s\n", row->words, row->about);
    }
}

/* ---- options ---- */

static bool read_backend(const char *word, enum io_backend *out)
{
    static const char *const words[] = {
        [IO_BACKEND_AUTO] = "auto", [IO_BACKEND_URING] = "uring", [IO_BACKEND_POLL] = "poll"};
    for (size_t index = 0; index < sizeof words / sizeof *words; index++) {
        if (strcmp(word, words[index]) == 0) {
            *out = (enum io_backend)index;
            return true;
        }
    }
    return false;
}

/* One option; false when its value is no good. One case a row of help_head. */
static bool take_option(struct options *o, int id, const char *value)
{
    switch (id) {
    case OPTION_LISTEN:
        o->listen = value;
        return true;
    case OPTION_HOSTNAME:
        o->hostname = value;
        return strlen(value) <= SMTP_DOMAIN_BYTES_MAX;
    case OPTION_MAKE_CERT:
        o->make_certificate = value;
        return true;
    case OPTION_CERT:
        o->certificate = value;
        return true;
    case OPTION_KEY:
        o->key = value;
        return true;
    case OPTION_TLS_ON_CONNECT:
        o->tls_on_connect = true;
        return true;
    case OPTION_USER:
        o->user = value;
        return true;
    case OPTION_PASSWORD_FILE:
        o->password_file = value;
        return true;
    case OPTION_KEEP:
        o->keep = value;
        return true;
    case OPTION_CHUNKING:
        o->chunking = true;
        return true;
    case OPTION_NO_PIPELINING:
        o->pipelining = false;
        return true;
    case OPTION_THREADS:
        return u64_parse(slice_from_str(value), &o->threads) && o->threads >= 1 &&
               o->threads <= LOOPS_MAX;
    case OPTION_IO:
        return read_backend(value, &o->backend);
    case OPTION_VERBOSE:
        o->verbose = true;
        return true;
    case OPTION_MODE:
        o->mode = value;
        return true;
    case OPTION_CONTROL:
        o->control = value;
        return true;
    case OPTION_TELL:
        o->tell = value;
        return true;
    default:
        return false;
    }
}

/* -1: go on; otherwise an exit code. */
static int read_options(struct options *o, int argc, char **argv)
{
    int id;
    int index = 0;
    while ((id = getopt_long(argc, argv, "h", long_options, &index)) != -1) {
        if (id == OPTION_HELP) {
            print_help();
            return 0;
        }
        if (id == '?') {
            return EX_USAGE; /* getopt has said why */
        }
        if (!take_option(o, id, optarg)) {
            return complain(long_options[index].name, "not a value for it; see --help", EX_USAGE);
        }
    }
    if (optind < argc) {
        return complain(argv[optind], "not an option; see --help", EX_USAGE);
    }
    if (o->tell != NULL && o->control == NULL) {
        return complain("--tell", "needs --control as well", EX_USAGE);
    }
    if ((o->user == NULL) != (o->password_file == NULL)) {
        return complain("--user", "goes with --password-file", EX_USAGE);
    }
    if (o->make_certificate == NULL && (o->certificate == NULL) != (o->key == NULL)) {
        return complain("--cert", "goes with --key", EX_USAGE);
    }
    bool tls = o->make_certificate != NULL || o->certificate != NULL;
    if (!tls && (o->tls_on_connect || o->user != NULL)) {
        return complain("TLS and a login", "need --make-cert, or --cert and --key", EX_USAGE);
    }
    return -1;
}

/* The first line of the file. */
static int read_password(struct upstream *u, const char *path)
{
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        return complain(path, strerror(errno), EX_NOINPUT);
    }
    size_t count = fread(u->password, 1, sizeof u->password, file);
    fclose(file);
    struct slice line = slice_of(u->password, count);
    line = slice_head(line, slice_find(line, '\n'));
    if (line.len > 0 && line.data[line.len - 1] == '\r') {
        line.len--;
    }
    u->password_bytes = line.len;
    return line.len == 0 || line.len == sizeof u->password
               ? complain(path, "no password of 1 to 255 bytes in its first line", EX_DATAERR)
               : 0;
}

static int open_policy(struct upstream *u, const struct options *o)
{
    char certificate[CERT_PATH_BYTES], key[CERT_PATH_BYTES];
    char problem[256] = "";
    struct tls_server_config config = {.certificate_file = o->certificate, .key_file = o->key};
    if (o->make_certificate != NULL) {
        if (!certificate_make(o->make_certificate)) {
            return EX_CANTCREAT;
        }
        snprintf(certificate, sizeof certificate, "%s/cert.pem", o->make_certificate);
        snprintf(key, sizeof key, "%s/key.pem", o->make_certificate);
        config = (struct tls_server_config){.certificate_file = certificate, .key_file = key};
    }
    if (config.certificate_file == NULL) {
        return 0;
    }
    return tls_server_policy_new(&u->policy, &config, problem) == ERR_OK
               ? 0
               : complain("TLS", problem, EX_CONFIG);
}

/* ---- the listening socket ---- */

/* ADDRESS:PORT or [V6]:PORT. */
static bool read_address(const char *text, struct sockaddr_storage *out, socklen_t *out_bytes)
{
    char host[LISTEN_BYTES];
    uint64_t port;
    const char *colon = strrchr(text, ':');
    if (colon == NULL || (size_t)(colon - text) >= sizeof host ||
        !u64_parse(slice_from_str(colon + 1), &port) || port > UINT16_MAX) {
        return false;
    }
    size_t len = (size_t)(colon - text);
    bool is_v6 = len >= 2 && text[0] == '[' && text[len - 1] == ']';
    memcpy(host, text + is_v6, len - 2 * is_v6);
    host[len - 2 * is_v6] = '\0';
    *out = (struct sockaddr_storage){0};
    if (is_v6) {
        struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)(void *)out;
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons((uint16_t)port);
        *out_bytes = sizeof *v6;
        return inet_pton(AF_INET6, host, &v6->sin6_addr) == 1;
    }
    struct sockaddr_in *v4 = (struct sockaddr_in *)(void *)out;
    v4->sin_family = AF_INET;
    v4->sin_port = htons((uint16_t)port);
    *out_bytes = sizeof *v4;
    return inet_pton(AF_INET, host, &v4->sin_addr) == 1;
}

static uint16_t port_of(int fd)
{
    struct sockaddr_storage address = {0};
    socklen_t bytes = sizeof address;
    (void)getsockname(fd, (struct sockaddr *)(void *)&address, &bytes);
    return address.ss_family == AF_INET6
               ? ntohs(((struct sockaddr_in6 *)(void *)&address)->sin6_port)
               : ntohs(((struct sockaddr_in *)(void *)&address)->sin_port);
}

static int open_listener(struct upstream *u, const char *text)
{
    struct sockaddr_storage address;
    socklen_t bytes;
    int one = 1;
    if (!read_address(text, &address, &bytes)) {
        return complain(text, "no ADDRESS:PORT", EX_USAGE);
    }
    u->listen_fd = socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (u->listen_fd < 0 ||
        setsockopt(u->listen_fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0 ||
        bind(u->listen_fd, (const struct sockaddr *)(const void *)&address, bytes) != 0 ||
        listen(u->listen_fd, BACKLOG) != 0) {
        return complain(text, strerror(errno), EX_UNAVAILABLE);
    }
    return 0;
}

/* ---- loops ---- */

void upstream_wake_all(struct upstream *u)
{
    for (uint32_t index = 0; index < u->loop_count; index++) {
        if (u->loops[index].wake_fd >= 0) {
            io_wake_ring(u->loops[index].wake_fd);
        }
    }
}

void upstream_put_stats(struct upstream *u, struct buf *to)
{
    struct {
#define X(member, word) uint64_t member;
        COUNTER_ROWS(X)
#undef X
    } sums = {0};
    for (uint32_t index = 0; index < u->loop_count; index++) {
#define X(member, word)                                                                            \
    sums.member += atomic_load_explicit(&u->loops[index].counters.member, memory_order_relaxed);
        COUNTER_ROWS(X)
#undef X
    }
#define X(member, word)                                                                            \
    buf_put_str(to, word "=");                                                                     \
    buf_put_u64(to, sums.member);                                                                  \
    buf_put_byte(to, ' ');
    COUNTER_ROWS(X)
#undef X
    buf_put_str(to, "mode="); /* last: it may have blanks */
    mode_put(&u->mode, to);
}

static void accepted(struct io_op *op)
{
    struct loop *loop = IO_OWNER(op, struct loop, accept);
    loop->accept_open = op->more;
    if (op->result < 0) {
        return;
    }
    if (loop->upstream->stopping) {
        close(op->result);
    } else {
        session_start(loop, op->result);
    }
}

static void woken(struct io_op *op)
{
    struct loop *loop = IO_OWNER(op, struct loop, wake);
    if (!loop->upstream->stopping) {
        session_mode_changed(loop);
        return;
    }
    io_cancel(loop->io, &loop->accept);
    session_cut_all(loop);
    if (loop->control != NULL) {
        control_shutdown(loop->control);
    }
}

static void after_batch(void *ctx)
{
    struct loop *loop = ctx;
    if (loop->upstream->stopping && !loop->accept_open && loop->session_count == 0 &&
        (loop->control == NULL || control_is_empty(loop->control))) {
        io_stop(loop->io);
    }
}

static void close_loop(struct loop *loop)
{
    control_free(&loop->control);
    if (loop->wake_fd >= 0) {
        loop->wake_fd = -1;
        io_wake_stop(loop->io, &loop->wake);
    }
    io_free(&loop->io);
}

static int open_loop(struct loop *loop, const struct options *o)
{
    struct io_config config = {.backend = o->backend};
    struct io_about about;
    bool first = loop == loop->upstream->loops;
    if (io_new(&loop->io, &config, &about) != ERR_OK) {
        return complain("the network cannot be driven", about.reason, EX_OSERR);
    }
    loop->wake.fn = woken;
    loop->wake_fd = io_wake_start(loop->io, &loop->wake);
    if (loop->wake_fd < 0) {
        return complain("a bell", strerror(-loop->wake_fd), EX_OSERR);
    }
    if (first && o->control != NULL) {
        loop->control = control_new(loop, o->control);
        if (loop->control == NULL) {
            return EX_CANTCREAT;
        }
    }
    loop->accept.fn = accepted;
    loop->accept_open = true;
    io_accept(loop->io, &loop->accept, loop->upstream->listen_fd);
    io_set_after_batch(loop->io, after_batch, loop);
    return 0;
}

/* A loop belongs to the thread that opens it. */
struct thread {
    pthread_t id;
    struct loop *loop;
    const struct options *options;
    pthread_barrier_t *opened, *ended; /* between them every loop that opened can be rung */
    int code;
};

static void *run_loop(void *arg)
{
    struct thread *t = arg;
    t->code = open_loop(t->loop, t->options);
    pthread_barrier_wait(t->opened);
    if (t->code == 0) {
        io_run(t->loop->io);
    }
    pthread_barrier_wait(t->ended);
    close_loop(t->loop);
    return NULL;
}

/* Whoever reads it can connect, tell and stop us. */
static void say_ready(const struct upstream *u, const char *listen)
{
    printf("listening on %.*s:%u\n", (int)(strrchr(listen, ':') - listen), listen,
           port_of(u->listen_fd));
    fflush(stdout);
}

/* The loops have threads of their own; this one waits for a signal. */
static int run(struct upstream *u, const struct options *o)
{
    struct thread threads[LOOPS_MAX] = {0};
    pthread_barrier_t opened, ended;
    sigset_t signals;
    int signal_caught;
    int code = 0;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    pthread_barrier_init(&opened, NULL, u->loop_count + 1);
    pthread_barrier_init(&ended, NULL, u->loop_count + 1);
    for (uint32_t index = 0; index < u->loop_count; index++) {
        threads[index] = (struct thread){
            .loop = &u->loops[index], .options = o, .opened = &opened, .ended = &ended};
        CHECK(pthread_create(&threads[index].id, NULL, run_loop, &threads[index]) == 0);
    }
    pthread_barrier_wait(&opened);
    for (uint32_t index = 0; index < u->loop_count; index++) {
        code = code == 0 ? threads[index].code : code;
    }
    if (code == 0) {
        say_ready(u, o->listen);
        (void)sigwait(&signals, &signal_caught);
    }
    atomic_store(&u->stopping, true);
    upstream_wake_all(u);
    pthread_barrier_wait(&ended);
    for (uint32_t index = 0; index < u->loop_count; index++) {
        pthread_join(threads[index].id, NULL);
    }
    pthread_barrier_destroy(&ended);
    pthread_barrier_destroy(&opened);
    return code;
}

/* ---- main ---- */

static void raise_limits(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max < NOFILE_WANTED ? limit.rlim_max : NOFILE_WANTED;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static int prepare(struct upstream *u, const struct options *o)
{
    u->tls_on_connect = o->tls_on_connect;
    u->verbose = o->verbose;
    u->user = o->user;
    u->keep = o->keep;
    if (o->mode != NULL && !mode_set(&u->mode, slice_from_str(o->mode))) {
        return complain(o->mode, "no such mode; see --help", EX_USAGE);
    }
    int code = o->password_file == NULL ? 0 : read_password(u, o->password_file);
    if (code == 0) {
        code = open_policy(u, o);
    }
    u->limits = (struct smtp_server_limits){
        .hostname = o->hostname,
        .software = "tasuki demo upstream",
        .auth_mechanisms = u->user == NULL ? NULL : "PLAIN LOGIN",
        .size_max = MESSAGE_BYTES_MAX,
        .recipients_max = SMTP_RECIPIENTS_MAX,
        .command_bytes_max = SMTP_COMMAND_BYTES_MAX,
        .errors_max = ERRORS_MAX,
        .received_max = SMTP_RECEIVED_MAX,
        .idle_ms_max = UPSTREAM_IDLE_MS_MAX,
        .data_ms_max = UPSTREAM_IDLE_MS_MAX,
        .starttls = u->policy != NULL,
        .auth_only_over_tls = true,
        .mail_needs_auth = u->user != NULL,
        .chunking = o->chunking,
        .pipelining = o->pipelining,
    };
    return code == 0 ? open_listener(u, o->listen) : code;
}

int main(int argc, char **argv)
{
    struct options options = {
        .listen = "127.0.0.1:2525", .hostname = "localhost", .threads = 1, .pipelining = true};
    struct upstream upstream = {.listen_fd = -1};
    int code = read_options(&options, argc, argv);
    if (code >= 0) {
        return code;
    }
    if (options.tell != NULL) {
        return control_tell(options.control, options.tell);
    }
    raise_limits();
    (void)signal(SIGPIPE, SIG_IGN);
    setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
    if (tls_library_init() != ERR_OK) {
        return complain("TLS", "the library does not start", EX_SOFTWARE);
    }
    upstream.loop_count = (uint32_t)options.threads;
    upstream.loops = calloc(upstream.loop_count, sizeof *upstream.loops);
    for (uint32_t index = 0; upstream.loops != NULL && index < upstream.loop_count; index++) {
        upstream.loops[index].upstream = &upstream;
        upstream.loops[index].wake_fd = -1;
    }
    code = upstream.loops == NULL ? EX_OSERR : prepare(&upstream, &options);
    if (code == 0) {
        code = run(&upstream, &options);
    }
    if (upstream.listen_fd >= 0) {
        close(upstream.listen_fd);
    }
    tls_policy_free(&upstream.policy);
    tls_library_deinit();
    free(upstream.loops);
    explicit_bzero(upstream.password, sizeof upstream.password);
    return code;
}
