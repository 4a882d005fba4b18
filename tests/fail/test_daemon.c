/*
 * The whole daemon, with one of its calls failing: it starts or says why not, takes a message,
 * hands it to an upstream, and stops when told to. What is promised however that goes:
 *
 * - it ends, by itself or on SIGTERM, and neither crashes nor leaks;
 * - a message that a client was told 250 for is with the upstream, or the next start, in which
 *   nothing fails, finds it and brings it there.
 *
 * Each life of the daemon is a process of its own, with a client and an upstream as its threads; so
 * main's statics are fresh, and what the lives leave behind is memory that is shared.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/fail/fail.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sanitizer/lsan_interface.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#define START_MS_MAX  15000 /* to the greeting, or to the end */
#define REPLY_MS_MAX  15000
#define RELAY_MS_MAX  1000  /* for the upstream to have it, before the stop */
#define SECOND_MS_MAX 15000 /* the same in the second life, where it has to */
#define STEP_MS       5
#define EXIT_LEAK     90 /* of a life; no sysexits code */
#define LINE_BYTES    1024
#define LOG_BYTES     (32u << 10)

/* daemon/main.c's, renamed by the Makefile. */
int tasukid_main(int argc, char **argv);

/* Of all lives. */
struct world {
    char directory[64];
    char config[128];
    uint16_t smtp_port;
    int smtp_fd;               /* keeps that port from the daemons of other runs */
    int upstream_fd;           /* listens */
    _Atomic bool over;         /* main has returned, in this life */
    _Atomic bool greeted;      /* the daemon took a connection */
    _Atomic bool acknowledged; /* it answered 250 to the message */
    _Atomic bool delivered;    /* the upstream answered 250 to it */
    char log[LOG_BYTES];       /* of the last life, with a closing 0 */
};

/* ---- small parts of both peers ---- */

static void pause_ms(long ms)
{
    const struct timespec pause = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    (void)nanosleep(&pause, NULL);
}

static bool say(int fd, const char *text)
{
    size_t len = strlen(text);
    return send(fd, text, len, MSG_NOSIGNAL) == (ssize_t)len;
}

/* A line without its end; false when none comes in time, or the connection is over. */
static bool hear(int fd, char line[LINE_BYTES], int ms)
{
    size_t len = 0;
    while (len < LINE_BYTES - 1) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (poll(&p, 1, ms) != 1 || recv(fd, line + len, 1, 0) != 1) {
            return false;
        }
        if (line[len] == '\n') {
            line[len > 0 && line[len - 1] == '\r' ? len - 1 : len] = '\0';
            return true;
        }
        len++;
    }
    return false;
}

/* The last line of a reply begins with this code. */
static bool hear_code(int fd, const char *code)
{
    char line[LINE_BYTES];
    do {
        if (!hear(fd, line, REPLY_MS_MAX)) {
            return false;
        }
    } while (strlen(line) > 3 && line[3] == '-');
    return strncmp(line, code, 3) == 0;
}

/* Signals are main's. */
static void block_signals(void)
{
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
}

/* ---- the upstream ---- */

static bool upstream_content(struct world *w, int fd)
{
    char line[LINE_BYTES];
    bool there = say(fd, "354 go on\r\n");
    while (there && hear(fd, line, REPLY_MS_MAX)) {
        if (strcmp(line, ".") == 0) {
            /* Before it is said: whoever hears it may forget the message. */
            atomic_store(&w->delivered, true);
            return say(fd, "250 taken\r\n");
        }
    }
    return false;
}

static void upstream_serve(struct world *w, int fd)
{
    char line[LINE_BYTES];
    bool there = say(fd, "220 upstream.example ESMTP\r\n");
    while (there && !atomic_load(&w->over)) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (poll(&p, 1, STEP_MS) == 0) {
            continue;
        }
        there = hear(fd, line, REPLY_MS_MAX);
        if (there && strncmp(line, "DATA", 4) == 0) {
            there = upstream_content(w, fd);
        } else if (there) {
            there = say(fd, strncmp(line, "QUIT", 4) == 0 ? "221 bye\r\n" : "250 fine\r\n");
        }
    }
    close(fd);
}

static void *upstream_run(void *context)
{
    struct world *w = context;
    block_signals();
    while (!atomic_load(&w->over)) {
        struct pollfd p = {.fd = w->upstream_fd, .events = POLLIN};
        int fd = poll(&p, 1, STEP_MS) == 1 ? accept(w->upstream_fd, NULL, NULL) : -1;
        if (fd >= 0) {
            upstream_serve(w, fd);
        }
    }
    return NULL;
}

/* ---- the client, which also stops the daemon ---- */

/* A connection that was greeted; -1 when the daemon has ended instead, or time is over. */
static int client_connect(struct world *w)
{
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons(w->smtp_port),
                             .sin_addr = {htonl(INADDR_LOOPBACK)}};
    for (int ms = 0; ms < START_MS_MAX && !atomic_load(&w->over); ms += STEP_MS) {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (connect(fd, (const struct sockaddr *)(const void *)&to, sizeof(to)) == 0 &&
            hear_code(fd, "220")) {
            atomic_store(&w->greeted, true);
            return fd;
        }
        close(fd);
        pause_ms(STEP_MS);
    }
    return -1;
}

static void client_send(struct world *w, int fd)
{
    bool taken = say(fd, "EHLO client.example\r\n") && hear_code(fd, "250") &&
                 say(fd, "MAIL FROM:<a@client.example>\r\n") && hear_code(fd, "250") &&
                 say(fd, "RCPT TO:<b@elsewhere.example>\r\n") && hear_code(fd, "250") &&
                 say(fd, "DATA\r\n") && hear_code(fd, "354") &&
                 say(fd, "Subject: one of our calls fails\r\n\r\nand yet\r\n.\r\n") &&
                 hear_code(fd, "250");
    atomic_store(&w->acknowledged, taken);
    (void)say(fd, "QUIT\r\n");
}

static void wait_delivered(struct world *w, int ms_max)
{
    for (int ms = 0; ms < ms_max && !atomic_load(&w->over); ms += STEP_MS) {
        if (atomic_load(&w->delivered)) {
            return;
        }
        pause_ms(STEP_MS);
    }
}

/* SIGTERM only once a listener answers: before, nobody catches it. */
static void *client_run(void *context)
{
    struct world *w = context;
    block_signals();
    int fd = client_connect(w);
    if (fd < 0) {
        return NULL;
    }
    bool second = atomic_load(&w->acknowledged);
    if (!second) {
        client_send(w, fd);
    }
    close(fd);
    if (atomic_load(&w->acknowledged)) {
        wait_delivered(w, second ? SECOND_MS_MAX : RELAY_MS_MAX);
    }
    (void)kill(getpid(), SIGTERM);
    return NULL;
}

/* ---- lives ---- */

/* Leaks are sought only where a call may have failed: that takes a third of a life. */
_Noreturn static void live(struct world *w, bool armed)
{
    char program[] = "tasukid", option[] = "-c";
    char *argv[] = {program, option, w->config, NULL};
    pthread_t client, upstream;
    char path[128];
    (void)snprintf(path, sizeof(path), "%s/log", w->directory);
    int log_fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    dup2(log_fd, STDERR_FILENO);
    if (pthread_create(&upstream, NULL, upstream_run, w) != 0 ||
        pthread_create(&client, NULL, client_run, w) != 0) {
        _exit(EX_OSERR);
    }
    int code = tasukid_main(3, argv);
    atomic_store(&fail_shared->armed, false);
    atomic_store(&w->over, true);
    pthread_join(client, NULL);
    pthread_join(upstream, NULL);
    (void)prctl(PR_SET_DUMPABLE, 1); /* LeakSanitizer looks through ptrace */
    _exit(armed && __lsan_do_recoverable_leak_check() != 0 ? EXIT_LEAK : code);
}

/* The daemon's log, which is also told: a run that is wrong is reported with it. */
static void log_read(struct world *w)
{
    char path[128];
    (void)snprintf(path, sizeof(path), "%s/log", w->directory);
    FILE *log = fopen(path, "re");
    size_t len = log == NULL ? 0 : fread(w->log, 1, sizeof(w->log) - 1, log);
    w->log[len] = '\0';
    if (log != NULL) {
        (void)fclose(log);
    }
    print_error("%s--\n", w->log);
}

static int life(struct world *w, bool armed)
{
    int status = 0;
    atomic_store(&w->over, false);
    atomic_store(&w->greeted, false);
    atomic_store(&fail_shared->armed, armed);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        live(w, armed);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    log_read(w);
    if (!WIFEXITED(status)) {
        fail_msg("the daemon died by signal %d", WTERMSIG(status));
    }
    return WEXITSTATUS(status);
}

/* Who asks for the same port may have it too, until one of the two listens; who asks for any gets
 * another. */
static int bound_socket(uint16_t *out_port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t len = sizeof(address);
    const int on = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (const struct sockaddr *)(const void *)&address, len), 0);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)(void *)&address, &len), 0);
    *out_port = ntohs(address.sin_port);
    return fd;
}

static struct world *world_new(const char *io)
{
    struct world *w =
        mmap(NULL, sizeof(*w), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(w != MAP_FAILED);
    (void)snprintf(w->directory, sizeof(w->directory), "/tmp/tasuki-test-daemon-XXXXXX");
    assert_non_null(mkdtemp(w->directory));
    (void)snprintf(w->config, sizeof(w->config), "%s/tasuki.conf", w->directory);
    uint16_t upstream_port = 0;
    w->upstream_fd = bound_socket(&upstream_port);
    assert_int_equal(listen(w->upstream_fd, 16), 0);
    w->smtp_fd = bound_socket(&w->smtp_port);
    FILE *config = fopen(w->config, "we");
    assert_non_null(config);
    fprintf(config,
            "listen = 127.0.0.1:%u\nhostname = relay.example\nstate = %s/state\nrun = %s/run\n"
            "workers = 1\nio = %s\nretry-min = 1s\nretry-max = 2s\n"
            "[upstream main]\nhost = [127.0.0.1]:%u\ntls = off\nprobe-min = 200ms\n"
            "probe-max = 400ms\n",
            w->smtp_port, w->directory, w->directory, io, upstream_port);
    assert_int_equal(fclose(config), 0);
    return w;
}

static void world_free(struct world *w)
{
    close(w->upstream_fd);
    close(w->smtp_fd);
    munmap(w, sizeof(*w));
}

static void check_exit(int code)
{
    if (code == EXIT_LEAK) {
        fail_msg("the daemon leaks");
    }
    if (code != 0 && (code < EX__BASE || code > EX__MAX)) {
        fail_msg("the daemon's exit status is %d", code);
    }
}

/* Where the control socket belongs there is a directory: the workers run already by then. */
static void no_control_socket(void **state)
{
    (void)state;
    struct world *w = world_new("auto");
    char path[128];
    (void)snprintf(path, sizeof(path), "%s/run", w->directory);
    assert_int_equal(mkdir(path, 0700), 0);
    (void)snprintf(path, sizeof(path), "%s/run/ctl.sock", w->directory);
    assert_int_equal(mkdir(path, 0700), 0);
    (void)snprintf(path, sizeof(path), "%s/run/ctl.sock/x", w->directory);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(life(w, true), EX_CANTCREAT);
    assert_non_null(strstr(w->log, "tasukid: control socket: "));
    world_free(w);
}

static void run_lives(const char *io)
{
    struct world *w = world_new(io);
    int code = life(w, true);
    check_exit(code);
    /* It runs, or it says by its exit status that it does not. */
    assert_true(atomic_load(&w->greeted) || code != 0);
    if (atomic_load(&w->acknowledged) && !atomic_load(&w->delivered)) {
        /* What could not be read is not tried again by itself; it stays, and somebody is told. */
        bool damaged = strstr(w->log, " event=store-damaged ") != NULL;
        assert_int_equal(life(w, false), 0);
        assert_non_null(strstr(w->log, " event=store-open messages=1 "));
        assert_true(damaged || atomic_load(&w->delivered));
    }
    world_free(w);
}

static void promise_a_message_over_uring(void **state)
{
    (void)state;
    run_lives("uring");
}

static void promise_a_message_over_poll(void **state)
{
    (void)state;
    run_lives("poll");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(promise_a_message_over_uring),
        cmocka_unit_test(promise_a_message_over_poll),
        cmocka_unit_test(no_control_socket),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
