/*
 * tasuki-web: the status page, the API, counters and health checks.
 *
 * Knows neither the store nor a password: all it shows comes over the control socket, and it only
 * asks. main reads options and configuration, opens the listener, and hands over to server.c.
 */
#include "daemon/base/log.h"
#include "daemon/base/num.h"
#include "daemon/config/config.h"
#include "schema/wire.h"
#include "web/access.h"
#include "web/server.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/signalfd.h>
#include <sysexits.h>
#include <unistd.h>

#define CONFIG_FILE    "/etc/tasuki/tasuki.conf"
#define LISTEN_BACKLOG 128

struct options {
    const char *file;   /* NULL: the default one */
    const char *listen; /* NULL: the configuration's */
    const char *socket; /* NULL: in the configuration's run directory */
};

/* Borrowed by the access list for the life of the process. */
static char system_name[256];
static char socket_path[CONFIG_TEXT_BYTES + sizeof WIRE_SOCKET_NAME + 1];

static const char usage[] =
    "usage: tasuki-web [-c FILE] [--listen ADDRESS:PORT] [--socket PATH] [--host NAME]...\n"
    "\n"
    "Serves the status page of tasuki, its JSON interface under /api/v1/, /metrics, /healthz and\n"
    "/readyz. It shows and changes nothing.\n"
    "\n"
    "  -c, --config FILE        configuration (default " CONFIG_FILE ")\n"
    "      --listen ADDR:PORT   in place of listen in [dashboard] (default 127.0.0.1:8025)\n"
    "      --socket PATH        the daemon's control socket (default " WIRE_SOCKET_NAME
    " in the run directory)\n"
    "      --host NAME          a further name by which browsers may call this page\n"
    "      --version, --help\n";

/* ---- the log: standard error ---- */

/* A line that nobody takes is dropped: the page must not wait for a full pipe. */
static void write_line(void *ctx, enum log_level level, struct slice line)
{
    (void)ctx, (void)level;
    uint8_t text[LOG_LINE_BYTES_MAX + 1];
    struct buf b;
    buf_init(&b, text, sizeof text);
    buf_put(&b, line);
    buf_put_byte(&b, '\n');
    struct pollfd p = {.fd = STDERR_FILENO, .events = POLLOUT};
    if (poll(&p, 1, 0) == 1 && (p.revents & POLLOUT) != 0) {
        ssize_t written = write(STDERR_FILENO, b.data, b.len);
        (void)written;
    }
}

static const struct log standard_error = {.write = write_line, .level = LOG_INFO};

static int complain(int exit_code, const char *what, const char *detail, const char *next)
{
    fprintf(stderr, "tasuki-web: %s%s%s\n  next: %s\n", what, detail[0] == '\0' ? "" : ": ", detail,
            next);
    return exit_code;
}

/* ---- options and configuration ---- */

/* -1: go on; otherwise the exit code. */
static int read_options(struct options *o, struct access *access, int argc, char **argv)
{
    enum { LISTEN = 256, SOCKET, HOST, VERSION, HELP };
    static const struct option rows[] = {
        {"config", required_argument, NULL, 'c'},
        {"listen", required_argument, NULL, LISTEN},
        {"socket", required_argument, NULL, SOCKET},
        {"host", required_argument, NULL, HOST},
        {"version", no_argument, NULL, VERSION},
        {"help", no_argument, NULL, HELP},
        {NULL, 0, NULL, 0},
    };
    for (int got = 0; (got = getopt_long(argc, argv, "c:h", rows, NULL)) != -1;) {
        switch (got) {
        case 'c':
            o->file = optarg;
            break;
        case LISTEN:
            o->listen = optarg;
            break;
        case SOCKET:
            o->socket = optarg;
            break;
        case HOST:
            if (!access_add(access, optarg)) {
                return complain(EX_USAGE, "too many names (--host)", "", "tasuki-web --help");
            }
            break;
        case VERSION:
            puts("tasuki-web " TASUKI_VERSION);
            return EX_OK;
        case 'h':
        case HELP:
            fputs(usage, stdout);
            return EX_OK;
        default:
            fputs("  next: tasuki-web --help\n", stderr);
            return EX_USAGE;
        }
    }
    if (optind < argc) {
        return complain(EX_USAGE, "does not know what to do with", argv[optind],
                        "tasuki-web --help");
    }
    return -1;
}

static void put_errors(const char *file, const struct config_errors *errors)
{
    for (uint32_t index = 0; index < errors->count; index++) {
        uint8_t memory[2048];
        struct buf text;
        buf_init(&text, memory, sizeof memory);
        config_error_put(&text, file, &errors->items[index]);
        (void)fwrite(text.data, 1, text.len, stderr);
    }
}

/* NULL when there is none; that is an error only when something of it is needed. */
static struct config *load(const struct options *o, bool *out_failed)
{
    struct config *config = NULL;
    struct config_errors errors = {0};
    const char *file = o->file == NULL ? CONFIG_FILE : o->file;
    bool needed = o->file != NULL || o->listen == NULL || o->socket == NULL;
    *out_failed = config_load(&config, file, false, &errors) != ERR_OK && needed;
    if (*out_failed) {
        put_errors(file, &errors);
    }
    return config;
}

/* "127.0.0.1:8025" or "[::1]:8025", numbers only: a name could come to mean another address. */
static bool parse_listen(const char *text, struct config_listen *out)
{
    char host[INET6_ADDRSTRLEN + 2];
    const char *colon = strrchr(text, ':');
    if (colon == NULL || (size_t)(colon - text) >= sizeof host || colon == text) {
        return false;
    }
    struct slice name = slice_of(text, (size_t)(colon - text));
    if (name.len > 2 && name.data[0] == '[' && name.data[name.len - 1] == ']') {
        name = slice_of(name.data + 1, name.len - 2);
    } else if (slice_find(name, ':') != name.len) {
        return false;
    }
    memcpy(host, name.data, name.len);
    host[name.len] = '\0';
    uint64_t port = 0;
    struct addrinfo wanted = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV,
                              .ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    if (!u64_parse(slice_from_str(colon + 1), &port) || port > UINT16_MAX ||
        getaddrinfo(host, colon + 1, &wanted, &found) != 0) {
        return false;
    }
    *out = (struct config_listen){.len = found->ai_addrlen};
    memcpy(&out->address, found->ai_addr, found->ai_addrlen);
    (void)snprintf(out->text, sizeof out->text, "%s", text);
    freeaddrinfo(found);
    return true;
}

/* ---- the listener ---- */

/* The address that was bound, for the log: with the port that the system chose for port 0. */
static void bound_text(int fd, struct config_listen *listen_to)
{
    char host[NI_MAXHOST], port[NI_MAXSERV];
    listen_to->len = sizeof listen_to->address;
    struct sockaddr *address = (struct sockaddr *)&listen_to->address;
    if (getsockname(fd, address, &listen_to->len) == 0 &&
        getnameinfo(address, listen_to->len, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) == 0) {
        bool v6 = listen_to->address.ss_family == AF_INET6;
        (void)snprintf(listen_to->text, sizeof listen_to->text, v6 ? "[%.45s]:%.5s" : "%.45s:%.5s",
                       host, port);
    }
}

static int open_listener(struct config_listen *listen_to)
{
    int on = 1;
    int fd = socket(listen_to->address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return -1;
    }
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (const struct sockaddr *)&listen_to->address, listen_to->len) != 0 ||
        listen(fd, LISTEN_BACKLOG) != 0) {
        int number = errno;
        (void)close(fd);
        errno = number;
        return -1;
    }
    bound_text(fd, listen_to);
    return fd;
}

static int bind_failed(const struct config_listen *listen_to, int number)
{
    char what[200];
    (void)snprintf(what, sizeof what, "cannot listen on %s", listen_to->text);
    const char *next = "give an address of this box with --listen, or as listen in [dashboard]";
    if (number == EADDRINUSE) {
        next = "see who has it: ss -tlnp; or give another port with --listen";
    } else if (number == EACCES) {
        next = "give a port above 1023 with --listen";
    }
    return complain(EX_UNAVAILABLE, what, strerror(number), next);
}

static void log_start(const struct config_listen *listen_to, const char *path)
{
    struct log_line line;
    log_begin(&line, &standard_error, LOG_NOTICE, "start");
    log_put_word(&line, "version", TASUKI_VERSION);
    log_put_u64(&line, "pid", (uint64_t)getpid());
    log_put_word(&line, "listen", listen_to->text);
    log_put_text(&line, "socket", slice_from_str(path));
    log_end(&line);
    if (!access_is_loopback(&listen_to->address)) {
        log_begin(&line, &standard_error, LOG_WARNING, "risk");
        log_put_word(&line, "listen", listen_to->text);
        log_put_text(&line, "text",
                     SLICE("the page asks for no password: whoever reaches this address sees "
                           "senders, recipients and subjects of queued mail"));
        log_end(&line);
    }
}

/* ---- main ---- */

/* A process started without standard streams must not have its sockets taken for them. */
static void reserve_streams(void)
{
    int fd = 0;
    do {
        fd = open("/dev/null", O_RDWR | O_CLOEXEC);
        CHECK(fd >= 0);
    } while (fd <= STDERR_FILENO);
    (void)close(fd);
}

static int take_signals(void)
{
    sigset_t set;
    CHECK(sigemptyset(&set) == 0 && sigaddset(&set, SIGTERM) == 0 && sigaddset(&set, SIGINT) == 0);
    CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
    CHECK(signal(SIGPIPE, SIG_IGN) != SIG_ERR);
    int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    CHECK(fd >= 0);
    return fd;
}

static bool add_own_names(struct access *access, const struct config *config)
{
    if (gethostname(system_name, sizeof system_name - 1) != 0) {
        system_name[0] = '\0';
    }
    return access_add(access, system_name) &&
           access_add(access, config == NULL ? "" : config->hostname);
}

static int serve(struct config_listen *listen_to, const struct access *access)
{
    int signal_fd = take_signals();
    int listen_fd = open_listener(listen_to);
    if (listen_fd < 0) {
        return bind_failed(listen_to, errno);
    }
    log_start(listen_to, socket_path);
    struct server_with with = {.listen_fd = listen_fd,
                               .signal_fd = signal_fd,
                               .socket_path = socket_path,
                               .access = access,
                               .log = &standard_error};
    int number = server_run(&with);
    (void)close(listen_fd);
    (void)close(signal_fd);
    struct log_line line;
    log_begin(&line, &standard_error, LOG_NOTICE, "stop");
    log_put_u64(&line, "signal", (uint64_t)number);
    log_end(&line);
    return EX_OK;
}

int main(int argc, char **argv)
{
    struct options options = {0};
    struct access access = {0};
    struct config_listen listen_to;
    bool failed = false;
    reserve_streams();
    int code = read_options(&options, &access, argc, argv);
    if (code >= 0) {
        return code;
    }
    if (options.listen != NULL && !parse_listen(options.listen, &listen_to)) {
        return complain(EX_USAGE, "--listen needs ADDRESS:PORT or [V6]:PORT, not", options.listen,
                        "tasuki-web --listen 127.0.0.1:8025");
    }
    struct config *config = load(&options, &failed);
    if (failed) {
        return EX_CONFIG;
    }
    if (options.listen == NULL) {
        listen_to = config->dashboard.listen;
    }
    int len =
        options.socket != NULL
            ? snprintf(socket_path, sizeof socket_path, "%s", options.socket)
            : snprintf(socket_path, sizeof socket_path, "%s/%s", config->run, WIRE_SOCKET_NAME);
    if (len < 0 || (size_t)len >= sizeof socket_path) {
        code = complain(EX_USAGE, "the path of the socket is too long", "", "tasuki-web --help");
    } else if (!add_own_names(&access, config)) {
        code = complain(EX_USAGE, "too many names (--host)", "", "tasuki-web --help");
    } else {
        code = serve(&listen_to, &access);
    }
    config_free(&config);
    return code;
}
