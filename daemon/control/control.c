/*
 * The socket and its connections: lines in, answers out.
 */
#include "daemon/control/control_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define REQUEST_BYTES_FIRST 4096
#define IDLE_MS_MAX         60000 /* neither asking nor reading: the place is for others */

static void on_stream(struct stream *stream, enum stream_event event);

/* ---- connections ---- */

static void connection_free_when_done(struct connection *n)
{
    if (!n->closed || n->wait != CONTROL_WAIT_NOTHING) {
        return; /* what is lent comes back first */
    }
    struct control *c = n->c;
    io_cancel(c->with.io, &n->timer);
    command_free(n);
    json_decref(n->asked);
    free(n->request.data);
    free(n->answer.data);
    if (n->prev != NULL) {
        n->prev->next = n->next;
    } else {
        c->connections = n->next;
    }
    if (n->next != NULL) {
        n->next->prev = n->prev;
    }
    c->connection_count--;
    free(n);
}

static void connection_close(struct connection *n)
{
    if (!n->closing) {
        n->closing = true;
        stream_close(&n->stream, true);
    }
}

/* Of one that waits for nothing any more: its asker may have gone meanwhile. */
static void connection_end(struct connection *n)
{
    if (n->closed) {
        connection_free_when_done(n);
    } else {
        connection_close(n);
    }
}

static void log_refused(const struct connection *n, const char *reason)
{
    struct log_line line;
    event_begin(&line, n->c->with.log, EVENT_CONTROL_REFUSED);
    log_put_u64(&line, "uid", n->uid);
    log_put_text(&line, "reason", slice_from_str(reason));
    log_end(&line);
}

static void idled(struct io_op *op)
{
    struct connection *n = IO_OWNER(op, struct connection, timer);
    uint64_t now_ms = io_now_ms(n->c->with.io);
    if (n->wait == CONTROL_WAIT_NOTHING && now_ms >= n->active_ms + IDLE_MS_MAX) {
        if (!n->closing) {
            n->closing = true;
            stream_close(&n->stream, false);
        }
        return;
    }
    io_timer(n->c->with.io, &n->timer, now_ms + IDLE_MS_MAX);
}

static void accepted(struct io_op *op)
{
    struct control *c = IO_OWNER(op, struct control, accept);
    if (!op->more) {
        c->accept_open = false;
    }
    if (op->result < 0) {
        return;
    }
    int fd = op->result;
    struct connection *n = NULL;
    if (!c->shutting_down && c->connection_count < CONTROL_CONNECTIONS_MAX) {
        n = calloc(1, sizeof *n);
    }
    if (n == NULL) {
        close(fd);
        return;
    }
    struct ucred peer = {.uid = (uid_t)-1};
    socklen_t len = sizeof peer;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) != 0) {
        peer.uid = (uid_t)-1;
    }
    n->c = c;
    n->uid = peer.uid;
    n->scope = peer.uid == 0 || peer.uid == geteuid() ? COMMAND_SCOPE_ADMIN : COMMAND_SCOPE_READ;
    n->next = c->connections;
    if (n->next != NULL) {
        n->next->prev = n;
    }
    c->connections = n;
    c->connection_count++;
    stream_init(&n->stream, c->with.io, on_stream);
    stream_open(&n->stream, fd);
    n->timer.fn = idled;
    n->active_ms = io_now_ms(c->with.io);
    io_timer(c->with.io, &n->timer, n->active_ms + IDLE_MS_MAX);
    stream_read(&n->stream);
}

/* ---- answers ---- */

bool answer_begin(struct connection *n, size_t bytes)
{
    CHECK(n->answer.data == NULL);
    uint8_t *memory = malloc(bytes);
    if (memory == NULL) {
        n->wait = CONTROL_WAIT_NOTHING;
        connection_end(n);
        return false;
    }
    buf_init(&n->answer, memory, bytes);
    json_init(&n->json, &n->answer);
    json_open_object(&n->json, NULL);
    char *id = n->asked == NULL
                   ? NULL
                   : json_dumps(json_object_get(n->asked, "id"), JSON_ENCODE_ANY | JSON_COMPACT);
    json_put_raw(&n->json, "id",
                 id == NULL || strlen(id) > 100 ? SLICE("null") : slice_from_str(id));
    free(id);
    return true;
}

void answer_finish(struct connection *n)
{
    while (n->json.depth > 0) {
        json_close_object(&n->json);
    }
    buf_put_byte(&n->answer, '\n');
    n->wait = CONTROL_WAIT_NOTHING;
    command_free(n);
    json_decref(n->asked);
    n->asked = NULL;
    if (n->answer.overflow || n->closing) {
        connection_end(n);
        return;
    }
    n->sending = true;
    n->active_ms = io_now_ms(n->c->with.io);
    stream_write(&n->stream, buf_slice(&n->answer));
}

void answer_error(struct connection *n, enum wire_error code, const char *message, const char *hint)
{
    if (!answer_begin(n, 8192)) {
        return;
    }
    json_put_bool(&n->json, "ok", false);
    json_open_object(&n->json, "error");
    json_put_str(&n->json, "code", wire_error_word(code));
    json_put_str(&n->json, "message", message);
    json_put_str(&n->json, "hint", hint);
    answer_finish(n);
}

/* ---- requests ---- */

static void bad_request(struct connection *n, const char *message)
{
    log_refused(n, message);
    n->last_words = true;
    answer_error(n, WIRE_ERROR_BAD_REQUEST, message, "one JSON object a line");
}

static void request_came(struct connection *n, struct slice line)
{
    json_error_t problem;
    n->asked_ms = io_now_ms(n->c->with.io);
    n->asked = json_loadb((const char *)line.data, line.len, JSON_REJECT_DUPLICATES, &problem);
    const char *word = json_string_value(json_object_get(n->asked, "command"));
    json_t *args = json_object_get(n->asked, "args");
    if (!json_is_object(n->asked) || word == NULL || (args != NULL && !json_is_object(args))) {
        bad_request(n, "the request is no JSON object with a command");
        return;
    }
    enum command command;
    if (!command_find(slice_from_str(word), &command)) {
        const char *nearest = command_nearest(slice_from_str(word));
        char hint[100];
        snprintf(hint, sizeof hint, nearest == NULL ? "%s" : "did you mean \"%s\"?",
                 nearest == NULL ? "" : nearest);
        answer_error(n, WIRE_ERROR_UNKNOWN_COMMAND, "this daemon does not know that command", hint);
        return;
    }
    if (command_row(command)->scope > n->scope) {
        log_refused(n, word);
        answer_error(n, WIRE_ERROR_NOT_PERMITTED, "only root and the daemon's own user may do that",
                     "try it with sudo");
        return;
    }
    command_run(n, command, args);
}

static bool request_grow(struct connection *n, size_t count)
{
    if (buf_room(&n->request) >= count) {
        return true;
    }
    size_t cap = n->request.cap == 0 ? REQUEST_BYTES_FIRST : n->request.cap * 2;
    while (cap < n->request.len + count) {
        cap *= 2;
    }
    uint8_t *memory = cap > CONTROL_REQUEST_BYTES_MAX * 2 ? NULL : realloc(n->request.data, cap);
    if (memory != NULL) {
        n->request.data = memory;
        n->request.cap = cap;
    }
    return memory != NULL;
}

static bool idle(const struct connection *n)
{
    return n->wait == CONTROL_WAIT_NOTHING && !n->sending && !n->closing;
}

/* One line at a time: what follows it stays with the stream until the answer is out. */
static void data_came(struct connection *n)
{
    struct slice in = n->stream.data;
    n->active_ms = io_now_ms(n->c->with.io);
    size_t end = slice_find(in, '\n');
    size_t count = end < in.len ? end + 1 : in.len;
    n->stream.used = count;
    if (n->request.len + count > CONTROL_REQUEST_BYTES_MAX || !request_grow(n, count)) {
        bad_request(n, "the request is longer than 64 KiB");
        return;
    }
    buf_put(&n->request, slice_head(in, count));
    if (end < in.len) {
        struct slice line = slice_trim(buf_slice(&n->request));
        request_came(n, line);
        buf_reset(&n->request);
    }
    if (idle(n)) {
        stream_read(&n->stream);
    }
}

static void on_stream(struct stream *stream, enum stream_event event)
{
    struct connection *n = IO_OWNER(stream, struct connection, stream);
    switch (event) {
    case STREAM_EVENT_DATA:
        data_came(n);
        return;
    case STREAM_EVENT_SENT:
        n->sending = false;
        free(n->answer.data);
        n->answer.data = NULL;
        if (n->last_words) {
            connection_close(n);
        } else {
            stream_read(&n->stream);
        }
        return;
    case STREAM_EVENT_ENDED:
        connection_close(n);
        return;
    case STREAM_EVENT_CLOSED:
        n->closed = true;
        connection_free_when_done(n);
        return;
    case STREAM_EVENT_SECURE:
    default:
        return;
    }
}

void control_message_back(struct control *c, struct flow_msg *msg)
{
    for (struct connection *n = c->connections; n != NULL; n = n->next) {
        if ((n->inspect != NULL && &n->inspect->msg == msg) ||
            (n->probe != NULL && &n->probe->msg == msg) ||
            (n->compact != NULL && &n->compact->msg == msg) || &n->try.msg == msg ||
            (n->edit != NULL && &n->edit->flow.msg == msg)) {
            command_back(n, msg);
            return;
        }
    }
    UNREACHABLE("an answer that nobody waits for");
}

/* ---- the socket ---- */

/* Is somebody listening there? Then it is not ours to remove. */
static bool is_alive(const struct sockaddr_un *address)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return true;
    }
    bool alive = connect(fd, (const struct sockaddr *)(const void *)address, sizeof *address) == 0;
    close(fd);
    return alive;
}

static enum err listen_on(struct control *c, char *problem)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(c->path) >= sizeof address.sun_path) {
        snprintf(problem, 256,
                 "%.150s: longer than a socket's path may be; set run to a shorter one", c->path);
        return ERR_LIMIT;
    }
    snprintf(address.sun_path, sizeof address.sun_path, "%.107s", c->path);
    struct stat there;
    if (lstat(c->path, &there) == 0) {
        if (!S_ISSOCK(there.st_mode) || is_alive(&address)) {
            snprintf(problem, 256, "%.150s is in use, or is no socket", c->path);
            return ERR_BUSY;
        }
        (void)unlink(c->path);
    }
    c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    mode_t mask = umask(0117);
    int failed =
        c->fd < 0 ||
        bind(c->fd, (const struct sockaddr *)(const void *)&address, sizeof address) != 0 ||
        listen(c->fd, 64) != 0;
    int number = errno;
    umask(mask);
    if (failed) {
        snprintf(problem, 256, "%.150s: %s", c->path, strerror(number));
        return err_from_errno(number);
    }
    return ERR_OK;
}

enum err control_new(struct control **out, const struct control_config *config, char *problem)
{
    struct control *c = calloc(1, sizeof *c);
    if (c == NULL) {
        return ERR_NO_MEMORY;
    }
    c->with = *config;
    c->fd = -1;
    c->accept.fn = accepted;
    snprintf(c->path, sizeof c->path, "%s/%s", config->config->run, WIRE_SOCKET_NAME);
    enum err err = listen_on(c, problem);
    if (err != ERR_OK) {
        if (c->fd >= 0) {
            close(c->fd);
        }
        free(c);
        return err;
    }
    c->accept_open = true;
    io_accept(config->io, &c->accept, c->fd);
    *out = c;
    return ERR_OK;
}

void control_shutdown(struct control *c)
{
    c->shutting_down = true;
    (void)unlink(c->path);
    io_cancel(c->with.io, &c->accept);
    for (struct connection *n = c->connections; n != NULL; n = n->next) {
        if (!n->closing) {
            n->closing = true;
            stream_close(&n->stream, false);
        }
    }
}

bool control_is_empty(const struct control *c)
{
    return !c->accept_open && c->connections == NULL;
}

void control_free(struct control **c)
{
    if (*c != NULL) {
        CHECK(control_is_empty(*c));
        close((*c)->fd);
        free(*c);
        *c = NULL;
    }
}
