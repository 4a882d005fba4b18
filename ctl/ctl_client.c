/*
 * The control socket, from the client's side: one request, one answer, within a time.
 *
 * Whatever arrives is judged: a line that is no answer to our request ends the connection and is
 * reported, as are silence, an early end and more bytes than an answer may have.
 */
#include "ctl/ctl.h"

#include "daemon/base/num.h"
#include "daemon/config/config.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* A page of 1,000 rows of the longest text is under 16 MiB. */
#define ANSWER_BYTES_MAX (64u << 20)
#define RECV_BYTES       65536u
#define PROGRESS_MS      1000u

static uint64_t monotonic_ms(void)
{
    struct timespec now;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---- where the socket is ---- */

static void set_path(struct ctl *c, const char *directory, const char *name)
{
    (void)snprintf(c->socket, sizeof c->socket, "%s%s%s", directory, name[0] == '\0' ? "" : "/",
                   name);
}

static bool find_path(struct ctl *c, struct ctl_problem *problem)
{
    const char *environment = getenv("TASUKI_SOCKET");
    if (c->args.socket != NULL) {
        set_path(c, c->args.socket, "");
        return true;
    }
    if (c->args.config_file == NULL && environment != NULL && environment[0] != '\0') {
        set_path(c, environment, "");
        return true;
    }
    struct ctl_problem ignored;
    const struct config *config =
        ctl_config_get(c, c->args.config_file != NULL ? problem : &ignored);
    if (config == NULL && c->args.config_file != NULL) {
        return false;
    }
    /* The default configuration may be unreadable for this user, or broken since the daemon
     * started. */
    set_path(c, config != NULL ? config->run : CTL_RUN_DIRECTORY, WIRE_SOCKET_NAME);
    return true;
}

/* ---- connecting ---- */

static void put_start_hint(const struct ctl *c, struct ctl_problem *problem)
{
    if (c->args.config_file != NULL) {
        ctl_problem_hint(problem, "tasukid -c %s", c->args.config_file);
    } else {
        ctl_problem_hint(problem, "systemctl start tasuki (or: tasukid -c %s)", CTL_CONFIG_FILE);
    }
}

static void connect_problem(const struct ctl *c, int number, struct ctl_problem *problem)
{
    switch (number) {
    case ENOENT:
    case ENOTDIR:
        ctl_problem_set(problem, CTL_EXIT_UNREACHABLE, "unreachable",
                        "the daemon does not answer: there is no socket %s, so tasukid is not "
                        "running, or runs with another configuration",
                        c->socket);
        put_start_hint(c, problem);
        problem->daemon_down = true;
        return;
    case ECONNREFUSED:
        ctl_problem_set(problem, CTL_EXIT_UNREACHABLE, "unreachable",
                        "the daemon does not answer: nobody listens on %s any more, so tasukid "
                        "has ended (connection refused)",
                        c->socket);
        put_start_hint(c, problem);
        problem->daemon_down = true;
        return;
    case EACCES:
    case EPERM:
        ctl_problem_set(problem, CTL_EXIT_NOT_PERMITTED, "not-permitted",
                        "the daemon cannot be asked: you may not open %s (permission denied)",
                        c->socket);
        ctl_problem_hint(problem, "sudo tasukictl %s", c->args.command->name);
        return;
    case EAGAIN:
        ctl_problem_set(problem, CTL_EXIT_TIMED_OUT, "timed-out",
                        "the daemon does not answer: too many wait on %s already", c->socket);
        ctl_problem_hint(problem, "journalctl -u tasuki -n 50");
        return;
    default:
        ctl_problem_set(problem, CTL_EXIT_UNREACHABLE, "unreachable",
                        "the daemon does not answer on %s: %s", c->socket, strerror(number));
        ctl_problem_hint(problem, "ls -l %s", c->socket);
    }
}

static bool connect_socket(struct ctl *c, struct ctl_problem *problem)
{
    if (c->socket[0] == '\0' && !find_path(c, problem)) {
        return false;
    }
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t len = strlen(c->socket);
    if (len >= sizeof address.sun_path) {
        ctl_problem_set(problem, CTL_EXIT_USAGE, "usage",
                        "the path of the socket has %zu bytes, and the system allows %zu: %s", len,
                        sizeof address.sun_path - 1, c->socket);
        ctl_problem_hint(problem, "set run in the configuration to a shorter directory");
        return false;
    }
    memcpy(address.sun_path, c->socket, len);
    c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(c->fd >= 0);
    /* A connect to a local socket waits only while its backlog is full. */
    uint64_t ms = c->args.timeout_ms != 0 ? c->args.timeout_ms : c->args.command->timeout_ms;
    struct timeval patience = {.tv_sec = (time_t)(ms / 1000)};
    (void)setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (connect(c->fd, (const struct sockaddr *)&address, sizeof address) != 0) {
        connect_problem(c, errno, problem);
        ctl_client_close(c);
        return false;
    }
    return true;
}

void ctl_client_close(struct ctl *c)
{
    if (c->fd >= 0) {
        (void)close(c->fd);
        c->fd = -1;
    }
    free(c->in);
    c->in = NULL;
    c->in_len = c->in_cap = 0;
}

/* ---- one request, one answer ---- */

struct call {
    struct ctl *c;
    const char *talking_to; /* NULL: no progress is shown */
    uint64_t begun_ms, deadline_ms;
    bool progress_shown;
    struct ctl_problem *problem;
};

static void show_progress(struct call *call)
{
    if (call->talking_to == NULL || isatty(STDERR_FILENO) != 1) {
        return;
    }
    fputs("\rtalking to ", stderr);
    ctl_say_words(stderr, slice_from_str(call->talking_to));
    uint64_t seconds = (monotonic_ms() - call->begun_ms) / 1000;
    fputs(" \xe2\x80\xa6", stderr);
    if (seconds > 0) {
        fprintf(stderr, " %llu s", (unsigned long long)seconds);
    }
    (void)fflush(stderr);
    call->progress_shown = true;
}

static void clear_progress(struct call *call)
{
    if (call->progress_shown) {
        fputs("\r\033[K", stderr);
    }
}

static bool closed(struct call *call, const char *when)
{
    ctl_problem_set(call->problem, CTL_EXIT_UNREACHABLE, "unreachable",
                    "the daemon closed the connection %s", when);
    ctl_problem_hint(call->problem, "journalctl -u tasuki -n 50");
    return false;
}

static json_t *not_understood(struct call *call, const char *why)
{
    ctl_problem_set(call->problem, CTL_EXIT_UNREACHABLE, "not-understood",
                    "what listens on %s gave an answer that cannot be understood: %s",
                    call->c->socket, why);
    ctl_problem_hint(call->problem,
                     "tasukictl --version and tasukid --version should print the same");
    return NULL;
}

/* Until the socket is ready for it, or the time is over. */
static bool wait_for(struct call *call, short events)
{
    for (;;) {
        uint64_t now = monotonic_ms();
        if (now >= call->deadline_ms) {
            ctl_problem_set(call->problem, CTL_EXIT_TIMED_OUT, "timed-out",
                            "the daemon did not answer within %llu s",
                            (unsigned long long)((call->deadline_ms - call->begun_ms) / 1000));
            ctl_problem_hint(call->problem, "journalctl -u tasuki -n 50 (or wait longer: "
                                            "--timeout SECONDS)");
            return false;
        }
        struct pollfd p = {.fd = call->c->fd, .events = events};
        uint64_t ms = u64_min(call->deadline_ms - now, PROGRESS_MS);
        int ready = poll(&p, 1, (int)ms);
        if (ready > 0) {
            return true;
        }
        CHECK(ready == 0 || errno == EINTR);
        show_progress(call);
    }
}

static bool send_all(struct call *call, struct slice bytes)
{
    while (bytes.len > 0) {
        if (!wait_for(call, POLLOUT)) {
            return false;
        }
        ssize_t sent = send(call->c->fd, bytes.data, bytes.len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno != EAGAIN && errno != EINTR) {
            return closed(call, "before it had heard the request");
        }
        bytes = slice_tail(bytes, sent < 0 ? 0 : (size_t)sent);
    }
    return true;
}

/* Room for the next piece. */
static bool grow(struct call *call)
{
    struct ctl *c = call->c;
    if (c->in_cap - c->in_len >= RECV_BYTES) {
        return true;
    }
    if (c->in_cap >= ANSWER_BYTES_MAX) {
        (void)not_understood(call, "it has more than 64 MiB");
        return false;
    }
    size_t cap = c->in_cap == 0 ? 4 * RECV_BYTES : 2 * c->in_cap;
    char *in = realloc(c->in, cap);
    CHECK(in != NULL);
    c->in = in;
    c->in_cap = cap;
    return true;
}

/* Receives until c->in holds a whole line; its length without the newline. */
static bool receive_line(struct call *call, size_t *out_len)
{
    struct ctl *c = call->c;
    size_t searched = 0;
    for (;;) {
        struct slice fresh = slice_of(c->in + searched, c->in_len - searched);
        size_t at = c->in == NULL ? 0 : slice_find(fresh, '\n');
        if (c->in != NULL && at < fresh.len) {
            *out_len = searched + at;
            return true;
        }
        searched = c->in_len;
        if (!grow(call) || !wait_for(call, POLLIN)) {
            return false;
        }
        ssize_t got = recv(c->fd, c->in + c->in_len, c->in_cap - c->in_len, MSG_DONTWAIT);
        if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) {
            return closed(call,
                          c->in_len == 0 ? "without an answer" : "in the middle of an answer");
        }
        c->in_len += got < 0 ? 0 : (size_t)got;
    }
}

/* How the process ends when the daemon says no, and what to type when it does not say. */
static void answered_no(struct call *call, const json_t *error)
{
    static const struct {
        enum ctl_exit exit;
        const char *hint;
    } rows[WIRE_ERROR_COUNT] = {
        [WIRE_ERROR_BAD_REQUEST] = {CTL_EXIT_USAGE, "tasukictl help"},
        [WIRE_ERROR_UNKNOWN_COMMAND] = {CTL_EXIT_NO, "tasukictl --version; tasukid --version"},
        [WIRE_ERROR_NOT_PERMITTED] = {CTL_EXIT_NOT_PERMITTED, ""},
        [WIRE_ERROR_NOT_FOUND] = {CTL_EXIT_NO_MESSAGE, "tasukictl queue"},
        [WIRE_ERROR_AMBIGUOUS] = {CTL_EXIT_USAGE, "type more of the id"},
        [WIRE_ERROR_BAD_FILTER] = {CTL_EXIT_USAGE, "tasukictl help queue"},
        [WIRE_ERROR_BUSY] = {CTL_EXIT_NO, "try again in a moment"},
        [WIRE_ERROR_FAILED] = {CTL_EXIT_NO, "journalctl -u tasuki -n 50"},
        [WIRE_ERROR_UNAVAILABLE] = {CTL_EXIT_UNREACHABLE, "journalctl -u tasuki -n 50"},
    };
    struct slice code = slice_head(ctl_json_text(error, "code"), sizeof call->problem->code - 1);
    struct slice message = ctl_json_text(error, "message");
    struct slice hint = ctl_json_text(error, "hint");
    char word[sizeof call->problem->code] = "";
    if (code.len > 0) {
        memcpy(word, code.data, code.len);
    }
    enum wire_error known = WIRE_ERROR_FAILED;
    if (!wire_error_find(code, &known)) {
        known = WIRE_ERROR_FAILED; /* a word of a later version */
    }
    ctl_problem_set(call->problem, rows[known].exit, word, "%.*s", (int)size_min(message.len, 880),
                    message.len == 0 ? "" : (const char *)message.data);
    if (call->problem->message[0] == '\0') {
        (void)snprintf(call->problem->message, sizeof call->problem->message,
                       "the daemon refuses (%s)", word);
    }
    if (hint.len > 0) {
        ctl_problem_hint(call->problem, "%.*s", (int)size_min(hint.len, 390),
                         (const char *)hint.data);
    } else if (known == WIRE_ERROR_NOT_PERMITTED) {
        ctl_problem_hint(call->problem, "sudo tasukictl %s", call->c->args.command->name);
    } else {
        ctl_problem_hint(call->problem, "%s", rows[known].hint);
    }
}

/* The result within an answer, a new reference. */
static json_t *judge_answer(struct call *call, json_t *answer)
{
    const json_t *id = json_object_get(answer, "id");
    const json_t *ok = json_object_get(answer, "ok");
    json_t *result = json_object_get(answer, "result");
    const json_t *error = json_object_get(answer, "error");
    if (!json_is_object(answer) || !json_is_boolean(ok)) {
        return not_understood(call, "it is no answer of tasukid's");
    }
    /* A request that could not be read at all is answered without its id. */
    bool ours = json_is_integer(id) && (uint64_t)json_integer_value(id) == call->c->last_id;
    if (json_is_false(ok) && json_is_object(error) && (ours || id == NULL || json_is_null(id))) {
        answered_no(call, error);
        return NULL;
    }
    if (!ours) {
        return not_understood(call, "it answers another request");
    }
    if (!json_is_true(ok) || !json_is_object(result)) {
        return not_understood(call, "it has neither a result nor an error");
    }
    if (ctl_json_u64(result, "schema") != WIRE_SCHEMA_VERSION) {
        return not_understood(call, "it is of another version of tasuki (schema is not 1)");
    }
    return json_incref(result);
}

static json_t *receive_answer(struct call *call)
{
    struct ctl *c = call->c;
    size_t len = 0;
    if (!receive_line(call, &len)) {
        return NULL;
    }
    json_t *answer = json_loadb(c->in, len, JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES, NULL);
    memmove(c->in, c->in + len + 1, c->in_len - len - 1);
    c->in_len -= len + 1;
    if (answer == NULL) {
        return not_understood(call, "it is not JSON");
    }
    json_t *result = judge_answer(call, answer);
    json_decref(answer);
    return result;
}

static bool send_request(struct call *call, enum command command, json_t *args)
{
    struct ctl *c = call->c;
    json_t *request = json_pack("{s:I,s:s,s:O}", "id", (json_int_t)++c->last_id, "command",
                                command_row(command)->word, "args", args);
    CHECK(request != NULL);
    char *line = json_dumps(request, JSON_COMPACT);
    json_decref(request);
    CHECK(line != NULL);
    size_t len = strlen(line);
    bool sent = false;
    if (len + 1 > CONTROL_REQUEST_BYTES_MAX) {
        ctl_problem_set(call->problem, CTL_EXIT_USAGE, "usage",
                        "that is more than one request can hold (%u bytes)",
                        CONTROL_REQUEST_BYTES_MAX);
        ctl_problem_hint(call->problem, "use fewer or shorter words");
    } else {
        line[len] = '\n'; /* in the place of the NUL */
        sent = send_all(call, slice_of(line, len + 1));
    }
    free(line);
    return sent;
}

json_t *ctl_client_call(struct ctl *c, enum command command, json_t *args, const char *talking_to,
                        struct ctl_problem *problem)
{
    CHECK(args != NULL);
    uint64_t now = monotonic_ms();
    uint64_t ms = c->args.timeout_ms != 0 ? c->args.timeout_ms : c->args.command->timeout_ms;
    struct call call = {.c = c,
                        .talking_to = talking_to,
                        .begun_ms = now,
                        .deadline_ms = now + ms,
                        .problem = problem};
    json_t *result = NULL;
    if (c->fd >= 0 || connect_socket(c, problem)) {
        show_progress(&call);
        if (send_request(&call, command, args)) {
            result = receive_answer(&call);
        }
        clear_progress(&call);
    }
    json_decref(args);
    if (result == NULL) {
        ctl_client_close(c);
    }
    return result;
}
