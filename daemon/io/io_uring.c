/*
 * The io_uring backend.
 *
 * An iteration is one system call: io->started and the cancels become submission entries, then
 * io_uring_enter submits them and waits. An op's address is its user_data, with a tag in the low
 * bits; that is safe because an op stays with the loop until every completion that names it has
 * been seen: its own and that of its cancel (enum io_place). Descriptors are closed through the
 * ring too, so that closing costs no call of its own and stands behind whatever was submitted
 * before it.
 *
 * A cancel may come to nothing: the op may be on its way between poll queue and execution, where
 * older kernels do not find it. So a cancel is sent again until the op has ended.
 *
 * Receiving: with mapped buffers (5.19) the kernel picks one when data is there. Without them a
 * recv is a POLL_ADD followed by a plain recv(2) into the one buffer of the loop; so memory does
 * not grow with connections on any kernel.
 *
 * An op that comes back with EAGAIN (old kernels let O_NONBLOCK through to accept and send) waits
 * with POLL_ADD and is then done again.
 */
#include "daemon/io/io_backend.h"

#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define SQ_ENTRIES   256u
#define CQ_ENTRIES   1024u
#define BUFFER_GROUP 0
#define TAG_CANCEL   1u
#define TAG_MASK     7u

_Static_assert(_Alignof(struct io_op) > TAG_MASK, "an op's address leaves room for a tag");

struct uring {
    struct io_uring ring;
    struct io_list cancels; /* IO_PLACE_CANCEL_QUEUED */
    bool multishot_accept;
    uint8_t *buffers; /* owned; buffer_count * buffer_bytes */
    uint32_t buffer_bytes;
    uint32_t buffer_count;
    struct io_uring_buf_ring *buffer_ring; /* owned; NULL: one buffer, filled by recv(2) */
    size_t buffer_ring_bytes;
};

/* ---- receive buffers ---- */

static void buffer_give(struct uring *u, uint32_t index)
{
    uint8_t *data = u->buffers + (size_t)index * u->buffer_bytes;
    IO_BUFFER_TAKE(data, u->buffer_bytes);
    io_uring_buf_ring_add(u->buffer_ring, data, u->buffer_bytes, (unsigned short)index,
                          io_uring_buf_ring_mask(u->buffer_count), 0);
    io_uring_buf_ring_advance(u->buffer_ring, 1);
}

/* Lends buffer index to the op's owner; gives it back when the owner has looked. */
static void recv_lend(struct io *io, struct io_op *op, uint32_t index, int32_t result)
{
    struct uring *u = io->state;
    CHECK(index < u->buffer_count && (uint32_t)result <= u->buffer_bytes);
    uint8_t *data = u->buffers + (size_t)index * u->buffer_bytes;
    IO_BUFFER_LEND(data, (size_t)result);
    io_complete(io, op, result, slice_of(data, (size_t)result));
    if (u->buffer_ring != NULL) {
        buffer_give(u, index);
    } else {
        IO_BUFFER_TAKE(data, u->buffer_bytes);
    }
}

/* ---- submission ---- */

static void *map_memory(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

/* NULL while the queue is full and cannot be emptied: completions have to be taken first. */
static struct io_uring_sqe *sqe_get(struct uring *u)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
    if (sqe == NULL) {
        (void)io_uring_submit(&u->ring);
        sqe = io_uring_get_sqe(&u->ring);
    }
    return sqe;
}

static void prep_accept(struct uring *u, const struct io_op *op, struct io_uring_sqe *sqe)
{
    if (u->multishot_accept) {
        io_uring_prep_multishot_accept(sqe, op->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    } else {
        io_uring_prep_accept(sqe, op->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    }
}

static void prep_recv(struct uring *u, const struct io_op *op, struct io_uring_sqe *sqe)
{
    io_uring_prep_recv(sqe, op->fd, NULL, u->buffer_bytes, 0);
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->buf_group = BUFFER_GROUP;
    if (op->drained) {
        sqe->ioprio |= IORING_RECVSEND_POLL_FIRST; /* or it would look in vain first */
    }
}

static unsigned poll_mask(const struct io_op *op)
{
    return op->kind == IO_KIND_SEND || op->kind == IO_KIND_CONNECT ? POLLOUT : POLLIN;
}

static void prep(struct uring *u, struct io_op *op, struct io_uring_sqe *sqe)
{
    if (op->polled) {
        io_uring_prep_poll_add(sqe, op->fd, poll_mask(op));
        return;
    }
    switch (op->kind) {
    case IO_KIND_ACCEPT:
        prep_accept(u, op, sqe);
        break;
    case IO_KIND_CONNECT:
        io_uring_prep_connect(sqe, op->fd, (const struct sockaddr *)(const void *)&op->address,
                              op->address_len);
        break;
    case IO_KIND_RECV:
        prep_recv(u, op, sqe);
        break;
    case IO_KIND_SEND:
        io_uring_prep_send(sqe, op->fd, op->send_data, op->send_bytes, MSG_NOSIGNAL);
        break;
    case IO_KIND_CLOSE:
        io_uring_prep_close(sqe, op->fd);
        break;
    case IO_KIND_NONE:
    case IO_KIND_TIMER:
    case IO_KIND_WAKE: /* always polled */
        CHECK(false);
    }
}

static void fill_cancels(struct uring *u)
{
    while (u->cancels.first != NULL) {
        struct io_uring_sqe *sqe = sqe_get(u);
        if (sqe == NULL) {
            return;
        }
        struct io_op *op = io_list_pop(&u->cancels);
        io_uring_prep_cancel64(sqe, (uintptr_t)op, 0);
        io_uring_sqe_set_data64(sqe, (uintptr_t)op | TAG_CANCEL);
        op->place = IO_PLACE_CANCEL_SENT;
    }
}

static void fill_started(struct io *io)
{
    struct uring *u = io->state;
    while (io->started.first != NULL) {
        struct io_uring_sqe *sqe = sqe_get(u);
        if (sqe == NULL) {
            return;
        }
        struct io_op *op = io_list_pop(&io->started);
        op->polled = op->polled || op->kind == IO_KIND_WAKE ||
                     (op->kind == IO_KIND_RECV && u->buffer_ring == NULL);
        prep(u, op, sqe);
        io_uring_sqe_set_data64(sqe, (uintptr_t)op);
        op->place = IO_PLACE_PARKED;
    }
}

static void uring_cancel(struct io *io, struct io_op *op)
{
    struct uring *u = io->state;
    io_list_push(&u->cancels, op, IO_PLACE_CANCEL_QUEUED);
}

/* ---- completion ---- */

/* The socket is ready and nothing was read yet. */
static void recv_plain(struct io *io, struct io_op *op)
{
    struct uring *u = io->state;
    IO_BUFFER_LEND(u->buffers, u->buffer_bytes);
    ssize_t got = recv(op->fd, u->buffers, u->buffer_bytes, MSG_DONTWAIT);
    int error = errno;
    if (got > 0) {
        IO_BUFFER_TAKE(u->buffers, u->buffer_bytes);
        recv_lend(io, op, 0, (int32_t)got);
    } else if (got < 0 && (error == EAGAIN || error == EINTR)) {
        io_restart(io, op, true);
    } else {
        io_complete(io, op, got < 0 ? -error : 0, slice_of(NULL, 0));
    }
}

static void connect_polled(struct io *io, struct io_op *op)
{
    int error = 0;
    socklen_t len = sizeof(error);
    if (getsockopt(op->fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0) {
        error = errno;
    }
    io_complete(io, op, -error, slice_of(NULL, 0));
}

/* POLL_ADD says that the op would not block now. */
static void polled_ended(struct io *io, struct io_op *op)
{
    const struct uring *u = io->state;
    if (op->cancelled) {
        io_complete(io, op, -ECANCELED, slice_of(NULL, 0));
    } else if (op->kind == IO_KIND_WAKE) {
        io_complete(io, op, 0, slice_of(NULL, 0));
    } else if (op->kind == IO_KIND_CONNECT) {
        connect_polled(io, op);
    } else if (op->kind == IO_KIND_RECV && u->buffer_ring == NULL) {
        recv_plain(io, op);
    } else {
        io_restart(io, op, false);
    }
}

static void accept_ended(struct io *io, struct io_op *op, int32_t result)
{
    struct uring *u = io->state;
    if (result == -EINVAL && u->multishot_accept) {
        u->multishot_accept = false; /* the kernel took newer flags, but not this one */
        io_restart(io, op, false);
        return;
    }
    io_accept_ended(io, op, result);
}

static bool goes_on(const struct io_op *op, int32_t result)
{
    switch (result) {
    case -EAGAIN:
        return op->kind != IO_KIND_CONNECT; /* there it means: no local port, or a full backlog */
    case -EINTR:
        return op->kind != IO_KIND_CLOSE; /* the descriptor is gone all the same */
    case -ENOBUFS: /* all buffers are lent: they are back at the end of this batch */
        return op->kind == IO_KIND_RECV;
    case -EINPROGRESS:
    case -EALREADY:
        return op->kind == IO_KIND_CONNECT;
    default:
        return false;
    }
}

/* The op has left the kernel, and so has its cancel. */
static void op_ended(struct io *io, struct io_op *op, int32_t result)
{
    op->place = IO_PLACE_NONE;
    if (op->polled && result >= 0) {
        polled_ended(io, op);
    } else if (op->kind == IO_KIND_ACCEPT) {
        accept_ended(io, op, result);
    } else if (goes_on(op, result)) {
        io_restart(io, op, op->kind == IO_KIND_CONNECT || result == -EAGAIN);
    } else if (op->kind == IO_KIND_RECV && result > 0) {
        recv_lend(io, op, op->heap_index, result);
    } else {
        io_complete(io, op, result, slice_of(NULL, 0));
    }
}

/* A buffer number travels in heap_index, which a recv does not use otherwise. */
static void take_buffer(struct uring *u, struct io_op *op, int32_t result, uint32_t flags)
{
    if ((flags & IORING_CQE_F_BUFFER) == 0) {
        return;
    }
    op->heap_index = flags >> IORING_CQE_BUFFER_SHIFT;
    op->drained = result > 0 && (flags & IORING_CQE_F_SOCK_NONEMPTY) == 0;
    if (result <= 0) {
        buffer_give(u, op->heap_index);
    }
}

static void op_cqe(struct io *io, struct io_op *op, int32_t result, uint32_t flags)
{
    struct uring *u = io->state;
    if ((flags & IORING_CQE_F_MORE) != 0) {
        CHECK(op->kind == IO_KIND_ACCEPT);
        io_accept_deliver(io, op, result);
        return;
    }
    take_buffer(u, op, result, flags);
    if (op->place == IO_PLACE_CANCEL_SENT) {
        op->place = IO_PLACE_CANCEL_LAST;
        op->result = result;
        return;
    }
    if (op->place == IO_PLACE_CANCEL_QUEUED) {
        io_list_remove(&u->cancels, op);
    }
    op_ended(io, op, result);
}

static void cancel_cqe(struct io *io, struct io_op *op, int32_t result)
{
    if (op->place == IO_PLACE_CANCEL_LAST) {
        op_ended(io, op, op->result);
    } else if (result < 0) {
        uring_cancel(io, op); /* not found, or running: once more, until it has ended */
    } else {
        op->place = IO_PLACE_PARKED;
    }
}

/* Those that are there now; what their functions start is for the next iteration. The entry is
 * given back before the function runs, so that the kernel has room for more. */
static void take_completions(struct io *io)
{
    struct uring *u = io->state;
    unsigned ready = io_uring_cq_ready(&u->ring);
    for (unsigned index = 0; index < ready; index++) {
        struct io_uring_cqe *cqe = NULL;
        CHECK(io_uring_peek_cqe(&u->ring, &cqe) == 0);
        struct io_uring_cqe copy = {
            .user_data = cqe->user_data, .res = cqe->res, .flags = cqe->flags};
        io_uring_cqe_seen(&u->ring, cqe);
        uintptr_t address = (uintptr_t)copy.user_data;
        struct io_op *op = (struct io_op *)(address & ~(uintptr_t)TAG_MASK);
        if ((address & TAG_MASK) == TAG_CANCEL) {
            cancel_cqe(io, op, copy.res);
        } else {
            op_cqe(io, op, copy.res, copy.flags);
        }
    }
}

/*
 * Submits and waits. EBUSY: completions overflowed and have to be taken first. EAGAIN, ENOMEM: the
 * kernel is short of memory for requests; what is in the queue stays there and is submitted next
 * time, so a moment's rest is all there is to do.
 */
static void enter(struct uring *u, int64_t timeout_ms)
{
    struct __kernel_timespec limit = {.tv_sec = timeout_ms / 1000,
                                      .tv_nsec = timeout_ms % 1000 * 1000000};
    struct io_uring_cqe *first = NULL;
    int result;
    if (timeout_ms == 0) {
        result = io_uring_submit_and_get_events(&u->ring); /* sets no timer: 13 us cheaper */
    } else {
        result = io_uring_submit_and_wait_timeout(&u->ring, &first, 1,
                                                  timeout_ms < 0 ? NULL : &limit, NULL);
    }
    if (result == -EAGAIN || result == -ENOMEM) {
        (void)poll(NULL, 0, 1);
        return;
    }
    CHECK(result >= 0 || result == -ETIME || result == -EINTR || result == -EBUSY);
}

static void uring_turn(struct io *io, int64_t timeout_ms)
{
    struct uring *u = io->state;
    fill_cancels(u);
    fill_started(io);
    bool left_over = io->started.first != NULL || u->cancels.first != NULL;
    enter(u, left_over ? 0 : timeout_ms);
    io_tick(io);
    take_completions(io);
}

/* ---- opening ---- */

struct setup_choice {
    uint32_t feature; /* 0: always offered */
    uint32_t flags;
    const char *words;
};

/* Best first. */
static const struct setup_choice setup_choices[] = {
    {IO_FEATURE_DEFER_TASKRUN, IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
     "single-issuer defer-taskrun"},
    {IO_FEATURE_COOP_TASKRUN, IORING_SETUP_COOP_TASKRUN, "coop-taskrun"},
    {0, 0, "plain"},
};
#define SETUP_CHOICES (sizeof(setup_choices) / sizeof(setup_choices[0]))

static int ring_init(struct uring *u, uint32_t features, const struct setup_choice **out_choice)
{
    int error = -EINVAL;
    for (size_t index = 0; index < SETUP_CHOICES && error == -EINVAL; index++) {
        const struct setup_choice *choice = &setup_choices[index];
        if (choice->feature != 0 && (features & choice->feature) == 0) {
            continue;
        }
        struct io_uring_params params = {.flags = IORING_SETUP_CQSIZE | choice->flags,
                                         .cq_entries = CQ_ENTRIES};
        error = io_uring_queue_init_params(SQ_ENTRIES, &u->ring, &params);
        *out_choice = choice;
    }
    return error;
}

static bool ring_complete(const struct uring *u)
{
    const uint32_t needed = IORING_FEAT_EXT_ARG | IORING_FEAT_NODROP | IORING_FEAT_FAST_POLL;
    return (u->ring.features & needed) == needed;
}

/* Set up is not yet allowed to run: a filter may stop io_uring_enter alone. */
static int ring_try(struct uring *u)
{
    struct io_uring_cqe *cqe = NULL;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
    CHECK(sqe != NULL);
    io_uring_prep_nop(sqe);
    int error;
    do {
        error = io_uring_submit_and_wait_timeout(&u->ring, &cqe, 1, NULL, NULL);
    } while (error == -EINTR);
    if (error < 0) {
        return error;
    }
    io_uring_cqe_seen(&u->ring, cqe);
    return 0;
}

/* False when the kernel does not offer it; nothing is left behind then. */
static bool buffer_ring_init(struct uring *u)
{
    size_t page_bytes = (size_t)sysconf(_SC_PAGESIZE);
    size_t bytes = u->buffer_count * sizeof(struct io_uring_buf);
    bytes = (bytes + page_bytes - 1) / page_bytes * page_bytes;
    struct io_uring_buf_ring *ring = map_memory(bytes);
    if (ring == NULL) {
        return false;
    }
    struct io_uring_buf_reg reg = {
        .ring_addr = (uintptr_t)ring, .ring_entries = u->buffer_count, .bgid = BUFFER_GROUP};
    if (io_uring_register_buf_ring(&u->ring, &reg, 0) != 0) {
        munmap(ring, bytes);
        return false;
    }
    io_uring_buf_ring_init(ring);
    u->buffer_ring = ring;
    u->buffer_ring_bytes = bytes;
    return true;
}

static bool buffers_init(struct uring *u, const struct io_config *config, uint32_t features)
{
    u->buffer_bytes = config->recv_buffer_bytes;
    u->buffer_count = config->recv_buffer_count;
    bool ring = (features & IO_FEATURE_BUFFER_RING) != 0 && buffer_ring_init(u);
    if (!ring) {
        u->buffer_count = 1;
    }
    u->buffers = map_memory((size_t)u->buffer_count * u->buffer_bytes);
    if (u->buffers == NULL) {
        return false;
    }
    for (uint32_t index = 0; ring && index < u->buffer_count; index++) {
        buffer_give(u, index);
    }
    return true;
}

/* The ring is closed first: until then the kernel may write to the buffers. */
static void uring_free(struct uring *u, bool ring_open)
{
    if (ring_open) {
        io_uring_queue_exit(&u->ring);
    }
    if (u->buffer_ring != NULL) {
        munmap(u->buffer_ring, u->buffer_ring_bytes);
    }
    if (u->buffers != NULL) {
        size_t bytes = (size_t)u->buffer_count * u->buffer_bytes;
        IO_BUFFER_LEND(u->buffers, bytes);
        munmap(u->buffers, bytes);
    }
    free(u);
}

static int uring_open(struct io *io, const struct io_config *config, uint32_t features,
                      struct io_about *about, const char **out_step)
{
    *out_step = "io_uring_setup";
    if ((features & IO_FEATURE_RING) == 0) {
        return -ENOSYS;
    }
    struct uring *u = calloc(1, sizeof(*u));
    if (u == NULL) {
        return -ENOMEM;
    }
    const struct setup_choice *choice = NULL;
    int error = ring_init(u, features, &choice);
    if (error < 0) {
        uring_free(u, false);
        return error;
    }
    if (!ring_complete(u)) {
        uring_free(u, true);
        return -EOPNOTSUPP;
    }
    *out_step = "io_uring_enter";
    error = ring_try(u);
    if (error == 0 && !buffers_init(u, config, features)) {
        *out_step = "mmap";
        error = -ENOMEM;
    }
    if (error < 0) {
        uring_free(u, true);
        return error;
    }
    /* There is no way to ask for it; it came with the same release as these two. */
    u->multishot_accept = (features & IO_FEATURE_MULTISHOT_ACCEPT) != 0 &&
                          (choice->flags != 0 || u->buffer_ring != NULL);
    (void)snprintf(about->features, sizeof(about->features), "%s%s%s", choice->words,
                   u->buffer_ring != NULL ? " provided-buffers" : " polled-recv",
                   u->multishot_accept ? " multishot-accept" : "");
    io->state = u;
    return 0;
}

static void uring_close(struct io *io)
{
    uring_free(io->state, true);
    io->state = NULL;
}

const struct io_driver io_uring_driver = {
    .backend = IO_BACKEND_URING,
    .open = uring_open,
    .close = uring_close,
    .turn = uring_turn,
    .cancel = uring_cancel,
};
