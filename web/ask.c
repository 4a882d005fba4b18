/*
 * Questions to the daemon. See ask.h; the wire is described in schema/README.md.
 */
#include "web/ask.h"

#include "daemon/base/limits.h"
#include "daemon/base/num.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define REQUEST_ID 1 /* a connection carries one request */
#define RECV_BYTES 65536u

#define HINT_START   "systemctl start tasuki"
#define HINT_LOG     "journalctl -u tasuki -n 50"
#define HINT_VERSION "tasuki-web --version and tasukid --version should print the same"

/* As much of text as fits, cut between characters. */
static void copy_text(char *to, size_t cap, const char *text)
{
    size_t len = size_min(strlen(text), cap - 1);
    while (len > 0 && text[len] != '\0' && ((uint8_t)text[len] & 0xc0) == 0x80) {
        len--;
    }
    memcpy(to, text, len);
    to[len] = '\0';
}

void trouble_set(struct trouble *t, uint16_t status, const char *code, const char *message,
                 const char *hint)
{
    t->status = status;
    copy_text(t->code, sizeof t->code, code);
    copy_text(t->message, sizeof t->message, message);
    copy_text(t->hint, sizeof t->hint, hint);
}

/* ---- connecting ---- */

static void connect_trouble(struct trouble *t, const char *path, int number)
{
    char message[sizeof t->message];
    const char *what = "does not answer", *hint = HINT_START;
    switch (number) {
    case ENOENT:
    case ENOTDIR:
    case ECONNREFUSED:
        what = "is not running";
        break;
    case EACCES:
    case EPERM:
        what = "cannot be asked";
        hint = "run tasuki-web as a member of the group that owns the socket";
        break;
    case EAGAIN:
        what = "is too busy to answer";
        hint = HINT_LOG;
        break;
    default:
        break;
    }
    int len =
        snprintf(message, sizeof message, "The daemon %s (%s: %s).", what, path, strerror(number));
    CHECK(len > 0);
    trouble_set(t, 503, "unreachable", message, hint);
}

/* The request as one line; NULL when it has more bytes than the daemon takes. */
static char *request_line(enum command command, json_t *args, size_t *out_len)
{
    json_t *request = json_pack("{s:i,s:s,s:O}", "id", REQUEST_ID, "command",
                                command_row(command)->word, "args", args);
    CHECK(request != NULL);
    char *line = json_dumps(request, JSON_COMPACT);
    json_decref(request);
    CHECK(line != NULL);
    size_t len = strlen(line);
    if (len + 1 > CONTROL_REQUEST_BYTES_MAX) {
        free(line);
        return NULL;
    }
    line[len] = '\n'; /* in the place of the NUL */
    *out_len = len + 1;
    return line;
}

static int connect_socket(const char *path, struct trouble *trouble)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t len = strlen(path);
    if (len >= sizeof address.sun_path) {
        connect_trouble(trouble, path, ENAMETOOLONG);
        return -1;
    }
    memcpy(address.sun_path, path, len);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || connect(fd, (const struct sockaddr *)&address, sizeof address) != 0) {
        connect_trouble(trouble, path, errno);
        if (fd >= 0) {
            (void)close(fd);
        }
        return -1;
    }
    return fd;
}

bool ask_begin(struct ask *a, const char *socket_path, enum command command, json_t *args,
               uint64_t now_ms, struct trouble *trouble)
{
    CHECK(a->state == ASK_STATE_NONE);
    size_t len = 0;
    char *line = request_line(command, args, &len);
    if (line == NULL) {
        trouble_set(trouble, 400, "bad-request", "that is more than one request can hold",
                    "use fewer or shorter words");
        return false;
    }
    int fd = connect_socket(socket_path, trouble);
    if (fd < 0) {
        free(line);
        return false;
    }
    *a = (struct ask){.state = ASK_STATE_SENDING,
                      .fd = fd,
                      .deadline_ms = now_ms + ASK_MS_MAX,
                      .out = line,
                      .out_len = len};
    return true;
}

void ask_end(struct ask *a)
{
    if (a->state != ASK_STATE_NONE) {
        (void)close(a->fd);
        free(a->out);
        free(a->in);
        *a = (struct ask){.state = ASK_STATE_NONE};
    }
}

short ask_events(const struct ask *a)
{
    return a->state == ASK_STATE_SENDING ? POLLOUT : POLLIN;
}

/* ---- what the answer means ---- */

static enum ask_step not_understood(struct trouble *t, const char *why)
{
    char message[sizeof t->message];
    int len = snprintf(message, sizeof message,
                       "the daemon gave an answer that cannot be understood: %s", why);
    CHECK(len > 0);
    trouble_set(t, 502, "not-understood", message, HINT_VERSION);
    return ASK_STEP_FAILED;
}

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text == NULL ? "" : text;
}

static enum ask_step answered_no(struct trouble *t, const json_t *error)
{
    static const uint16_t statuses[WIRE_ERROR_COUNT] = {
        [WIRE_ERROR_BAD_REQUEST] = 400,   [WIRE_ERROR_UNKNOWN_COMMAND] = 502,
        [WIRE_ERROR_NOT_PERMITTED] = 403, [WIRE_ERROR_NOT_FOUND] = 404,
        [WIRE_ERROR_AMBIGUOUS] = 409,     [WIRE_ERROR_BAD_FILTER] = 400,
        [WIRE_ERROR_BUSY] = 503,          [WIRE_ERROR_FAILED] = 500,
        [WIRE_ERROR_UNAVAILABLE] = 503,
    };
    const char *code = text_of(error, "code"), *message = text_of(error, "message");
    enum wire_error known = WIRE_ERROR_FAILED;
    if (!wire_error_find(slice_from_str(code), &known)) {
        known = WIRE_ERROR_FAILED; /* a word of a later version */
    }
    trouble_set(t, statuses[known], code[0] == '\0' ? wire_error_word(known) : code,
                message[0] == '\0' ? "the daemon refuses that and does not say why" : message,
                text_of(error, "hint"));
    return ASK_STEP_FAILED;
}

static enum ask_step judge_answer(const json_t *answer, json_t **out_result, struct trouble *t)
{
    const json_t *id = json_object_get(answer, "id");
    const json_t *ok = json_object_get(answer, "ok");
    const json_t *error = json_object_get(answer, "error");
    json_t *result = json_object_get(answer, "result");
    /* A request that could not be read at all is answered without its id. */
    bool ours = json_is_integer(id) && json_integer_value(id) == REQUEST_ID;
    if (json_is_false(ok) && json_is_object(error) && (ours || id == NULL || json_is_null(id))) {
        return answered_no(t, error);
    }
    if (!ours || !json_is_true(ok) || !json_is_object(result)) {
        return not_understood(t, "it is no answer of tasukid's");
    }
    const json_t *schema = json_object_get(result, "schema");
    if (!json_is_integer(schema) || json_integer_value(schema) != WIRE_SCHEMA_VERSION) {
        return not_understood(t, "it is of another version of tasuki (schema is not 1)");
    }
    *out_result = json_incref(result);
    return ASK_STEP_ANSWERED;
}

static enum ask_step take_answer(const struct ask *a, size_t len, json_t **out_result,
                                 struct trouble *t)
{
    json_t *answer = json_loadb(a->in, len, JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES, NULL);
    if (!json_is_object(answer)) {
        json_decref(answer);
        return not_understood(t, "it is no JSON object");
    }
    enum ask_step step = judge_answer(answer, out_result, t);
    json_decref(answer);
    return step;
}

/* ---- sending and receiving ---- */

static enum ask_step closed(struct trouble *t, const char *message)
{
    trouble_set(t, 503, "unreachable", message, HINT_LOG);
    return ASK_STEP_FAILED;
}

static bool must_wait(ssize_t result)
{
    return result < 0 && (errno == EAGAIN || errno == EINTR);
}

/* WAIT also when all is sent. */
static enum ask_step send_some(struct ask *a, struct trouble *t)
{
    ssize_t sent = send(a->fd, a->out + a->out_at, a->out_len - a->out_at, MSG_NOSIGNAL);
    if (must_wait(sent)) {
        return ASK_STEP_WAIT;
    }
    if (sent < 0) {
        return closed(t, "the daemon closed the connection before it had heard the request");
    }
    a->out_at += (size_t)sent;
    if (a->out_at == a->out_len) {
        a->state = ASK_STATE_RECEIVING;
    }
    return ASK_STEP_WAIT;
}

static bool grow(struct ask *a)
{
    if (a->in_cap - a->in_len >= RECV_BYTES) {
        return true;
    }
    if (a->in_cap >= ASK_BYTES_MAX) {
        return false;
    }
    size_t cap = a->in_cap == 0 ? 2 * RECV_BYTES : 2 * a->in_cap;
    char *in = realloc(a->in, cap);
    if (in == NULL) {
        return false;
    }
    a->in = in;
    a->in_cap = cap;
    return true;
}

static enum ask_step receive_some(struct ask *a, json_t **out_result, struct trouble *t)
{
    if (!grow(a)) {
        return not_understood(t, "it is too large; ask for fewer messages at once");
    }
    ssize_t got = recv(a->fd, a->in + a->in_len, a->in_cap - a->in_len, 0);
    if (must_wait(got)) {
        return ASK_STEP_WAIT;
    }
    if (got <= 0) {
        return closed(t, a->in_len == 0 ? "the daemon closed the connection without an answer"
                                        : "the daemon closed the connection in its answer");
    }
    size_t at = slice_find(slice_of(a->in + a->in_len, (size_t)got), '\n');
    a->in_len += (size_t)got;
    if (at == (size_t)got) {
        return ASK_STEP_WAIT;
    }
    return take_answer(a, a->in_len - (size_t)got + at, out_result, t);
}

enum ask_step ask_go(struct ask *a, uint64_t now_ms, json_t **out_result, struct trouble *trouble)
{
    CHECK(a->state != ASK_STATE_NONE);
    enum ask_step step = a->state == ASK_STATE_SENDING ? send_some(a, trouble)
                                                       : receive_some(a, out_result, trouble);
    if (step == ASK_STEP_WAIT && now_ms >= a->deadline_ms) {
        trouble_set(trouble, 503, "timed-out", "the daemon did not answer within 2 seconds",
                    HINT_LOG);
        step = ASK_STEP_FAILED;
    }
    if (step != ASK_STEP_WAIT) {
        ask_end(a);
    }
    return step;
}
