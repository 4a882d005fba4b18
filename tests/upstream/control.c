#include "tests/upstream/control.h"

#include "daemon/stream/stream.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sysexits.h>
#include <unistd.h>

#define TELL_MS_MAX 5000

/* A place for one connection. */
struct caller {
    struct control *c;
    struct stream stream;
    bool used; /* from accept to CLOSED */
    bool closing;
    struct buf line, answer;
    uint8_t line_memory[CONTROL_LINE_BYTES];
    uint8_t answer_memory[CONTROL_LINE_BYTES];
};

struct control {
    struct loop *loop;
    int fd;
    char path[sizeof((struct sockaddr_un *)0)->sun_path];
    struct io_op accept;
    bool accept_open;
    struct caller callers[CONTROL_PLACES];
};

static bool address_of(const char *path, struct sockaddr_un *out)
{
    *out = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof out->sun_path) {
        fprintf(stderr, "%s: longer than a socket's path may be\n", path);
        return false;
    }
    memcpy(out->sun_path, path, strlen(path) + 1);
    return true;
}

/* ---- commands ---- */

static void put_unknown(struct buf *to, struct slice words)
{
    const struct mode_row *nearest = mode_nearest(words);
    buf_put_str(to, "error: no such mode");
    if (nearest != NULL) {
        buf_put_str(to, "; did you mean \"");
        buf_put_str(to, nearest->words);
        buf_put_str(to, nearest->action == MODE_DELAY ? " N\", N in milliseconds?" : "\"?");
    } else {
        buf_put_str(to, "; see --help");
    }
}

static void run_command(struct caller *k, struct slice words)
{
    struct upstream *u = k->c->loop->upstream;
    buf_reset(&k->answer);
    if (slice_equal(words, SLICE("stats"))) {
        upstream_put_stats(u, &k->answer);
    } else if (mode_set(&u->mode, words)) {
        upstream_wake_all(u);
        upstream_put_stats(u, &k->answer);
    } else {
        put_unknown(&k->answer, words);
    }
    buf_put_byte(&k->answer, '\n');
    stream_write(&k->stream, buf_slice(&k->answer));
}

/* ---- connections ---- */

static void hang_up(struct caller *k, bool gracefully)
{
    if (!k->closing) {
        k->closing = true;
        stream_close(&k->stream, gracefully);
    }
}

static void data_came(struct caller *k)
{
    struct slice in = k->stream.data;
    size_t end = slice_find(in, '\n');
    buf_put(&k->line, slice_head(in, end));
    k->stream.used = end < in.len ? end + 1 : in.len;
    if (k->line.overflow) {
        hang_up(k, false);
    } else if (end < in.len) {
        run_command(k, slice_trim(buf_slice(&k->line)));
        buf_reset(&k->line);
    } else {
        stream_read(&k->stream);
    }
}

static void on_stream(struct stream *stream, enum stream_event event)
{
    struct caller *k = IO_OWNER(stream, struct caller, stream);
    switch (event) {
    case STREAM_EVENT_DATA:
        data_came(k);
        return;
    case STREAM_EVENT_SENT:
        stream_read(&k->stream);
        return;
    case STREAM_EVENT_ENDED:
        hang_up(k, false);
        return;
    case STREAM_EVENT_CLOSED:
        k->used = false;
        return;
    case STREAM_EVENT_SECURE:
    default:
        return;
    }
}

static struct caller *free_place(struct control *c)
{
    for (size_t index = 0; index < CONTROL_PLACES; index++) {
        if (!c->callers[index].used) {
            return &c->callers[index];
        }
    }
    return NULL;
}

static void accepted(struct io_op *op)
{
    struct control *c = IO_OWNER(op, struct control, accept);
    c->accept_open = op->more;
    if (op->result < 0) {
        return;
    }
    struct caller *k = c->loop->upstream->stopping ? NULL : free_place(c);
    if (k == NULL) {
        close(op->result);
        return;
    }
    k->c = c;
    k->used = true;
    k->closing = false;
    buf_init(&k->line, k->line_memory, sizeof k->line_memory);
    buf_init(&k->answer, k->answer_memory, sizeof k->answer_memory);
    stream_init(&k->stream, c->loop->io, on_stream);
    stream_open(&k->stream, op->result);
    stream_read(&k->stream);
}

/* ---- the socket ---- */

struct control *control_new(struct loop *loop, const char *path)
{
    struct sockaddr_un address;
    if (!address_of(path, &address)) {
        return NULL;
    }
    struct control *c = calloc(1, sizeof *c);
    if (c == NULL) {
        return NULL;
    }
    struct stat there;
    if (lstat(path, &there) == 0 && S_ISSOCK(there.st_mode)) {
        (void)unlink(path);
    }
    memcpy(c->path, path, strlen(path) + 1);
    c->loop = loop;
    c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0 ||
        bind(c->fd, (const struct sockaddr *)(const void *)&address, sizeof address) != 0 ||
        listen(c->fd, CONTROL_PLACES) != 0) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        if (c->fd >= 0) {
            close(c->fd);
        }
        free(c);
        return NULL;
    }
    c->accept.fn = accepted;
    c->accept_open = true;
    io_accept(loop->io, &c->accept, c->fd);
    return c;
}

void control_shutdown(struct control *c)
{
    io_cancel(c->loop->io, &c->accept);
    for (size_t index = 0; index < CONTROL_PLACES; index++) {
        if (c->callers[index].used) {
            hang_up(&c->callers[index], false);
        }
    }
}

bool control_is_empty(const struct control *c)
{
    bool used = c->accept_open;
    for (size_t index = 0; index < CONTROL_PLACES; index++) {
        used = used || c->callers[index].used;
    }
    return !used;
}

void control_free(struct control **c)
{
    if (*c != NULL) {
        close((*c)->fd);
        (void)unlink((*c)->path);
        free(*c);
        *c = NULL;
    }
}

/* ---- the other end ---- */

static bool exchange(int fd, const char *words, struct buf *answer)
{
    struct pollfd wait = {.fd = fd, .events = POLLIN};
    size_t len = strlen(words);
    if (send(fd, words, len, MSG_NOSIGNAL) != (ssize_t)len ||
        send(fd, "\n", 1, MSG_NOSIGNAL) != 1) {
        return false;
    }
    while (poll(&wait, 1, TELL_MS_MAX) > 0) {
        ssize_t count = recv(fd, answer->data + answer->len, buf_room(answer), 0);
        if (count <= 0) {
            break;
        }
        answer->len += (size_t)count;
        if (answer->data[answer->len - 1] == '\n') {
            return true;
        }
    }
    return false;
}

int control_tell(const char *path, const char *words)
{
    struct sockaddr_un address;
    uint8_t memory[CONTROL_LINE_BYTES];
    struct buf answer;
    buf_init(&answer, memory, sizeof memory);
    if (!address_of(path, &address)) {
        return EX_USAGE;
    }
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool good = fd >= 0 &&
                connect(fd, (const struct sockaddr *)(const void *)&address, sizeof address) == 0 &&
                exchange(fd, words, &answer);
    if (!good) {
        fprintf(stderr, "%s: %s\n", path, errno != 0 ? strerror(errno) : "no answer");
    }
    if (fd >= 0) {
        close(fd);
    }
    printf("%.*s", (int)answer.len, (const char *)answer.data);
    if (!good) {
        return EX_UNAVAILABLE;
    }
    return slice_starts_with(buf_slice(&answer), SLICE("error")) ? EX_USAGE : 0;
}
