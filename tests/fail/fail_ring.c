/*
 * io_uring's calls, and what the kernel answers through the ring.
 *
 * An entry of the submission queue that is to fail gets a descriptor that does not exist; so the
 * kernel itself refuses it, with all that belongs to that: no buffer is used up, a multishot entry
 * has ended. Its completion says EBADF, which is then made the error that was asked for.
 *
 * A full submission queue is made by telling liburing that it has no entries, until the next call
 * that would empty it.
 */
#include "tests/fail/fail.h"
#include "tests/fail/fail_libraries.h"

/* The ring of this thread; the product has one a thread. */
static _Thread_local struct {
    const struct io_uring *ring;
    unsigned counted; /* entries before this one have been looked at */
    unsigned entries; /* not 0: the queue was made full, and this is its true size */
    bool stays_full;  /* until the loop enters the kernel; a mere submit does not help */
    uint64_t refused; /* user_data of the entry whose completion is awaited; 0: none */
    int error;
} mine;

static void meet(const struct io_uring *ring)
{
    if (mine.ring != ring) {
        mine.ring = ring;
        mine.counted = ring->sq.sqe_head;
        mine.entries = 0;
        mine.refused = 0;
    }
}

static enum fail_row_index row_of(const struct io_uring_sqe *sqe)
{
    switch (sqe->opcode) {
    case IORING_OP_ACCEPT:
        return FAIL_ROW_ring_accept;
    case IORING_OP_CONNECT:
        return FAIL_ROW_ring_connect;
    case IORING_OP_RECV:
        return FAIL_ROW_ring_recv;
    case IORING_OP_SEND:
        return FAIL_ROW_ring_send;
    case IORING_OP_POLL_ADD:
        return FAIL_ROW_ring_poll_add;
    case IORING_OP_ASYNC_CANCEL:
        return FAIL_ROW_ring_async_cancel;
    default:
        return FAIL_ROW_COUNT; /* closing, and the try at the start: nothing to refuse */
    }
}

/* A cancel names its target by address: one that is nobody's is not found, ENOENT by itself. */
static void refuse(struct io_uring_sqe *sqe, int error)
{
    if (sqe->opcode == IORING_OP_ASYNC_CANCEL) {
        sqe->addr = 1;
        return;
    }
    sqe->fd = -1;
    mine.refused = sqe->user_data;
    mine.error = error;
}

static void look_at_entries(struct io_uring *ring)
{
    for (; mine.counted != ring->sq.sqe_tail; mine.counted++) {
        struct io_uring_sqe *sqe = &ring->sq.sqes[mine.counted & ring->sq.ring_mask];
        enum fail_row_index row = row_of(sqe);
        int error = row == FAIL_ROW_COUNT ? 0 : fail_now(row);
        if (error != 0) {
            refuse(sqe, error);
        }
    }
}

static void look_at_completions(const struct io_uring *ring)
{
    unsigned tail = io_uring_smp_load_acquire(ring->cq.ktail);
    for (unsigned at = *ring->cq.khead; mine.refused != 0 && at != tail; at++) {
        struct io_uring_cqe *cqe = &ring->cq.cqes[at & ring->cq.ring_mask];
        if (cqe->user_data == mine.refused && cqe->res == -EBADF) {
            cqe->res = -mine.error;
            mine.refused = 0;
        }
    }
}

/* The queue has its size again before the kernel is called, and may be full after it. */
static void before(struct io_uring *ring, bool submits_only)
{
    meet(ring);
    if (mine.entries != 0 && !(submits_only && mine.stays_full)) {
        ring->sq.ring_entries = mine.entries;
        mine.entries = 0;
    }
    look_at_entries(ring);
}

static void after(struct io_uring *ring)
{
    look_at_completions(ring);
    int error = fail_now(FAIL_ROW_ring_full);
    if (error != 0) {
        mine.stays_full = error == EBUSY;
        mine.entries = ring->sq.ring_entries;
        ring->sq.ring_entries = 0;
    }
}

int fail_io_uring_queue_init_params(unsigned entries, struct io_uring *ring,
                                    struct io_uring_params *parameters);
int fail_io_uring_queue_init_params(unsigned entries, struct io_uring *ring,
                                    struct io_uring_params *parameters)
{
    int error = fail_now(FAIL_ROW_io_uring_queue_init_params);
    if (error != 0) {
        return -error;
    }
    mine.ring = NULL;
    return io_uring_queue_init_params(entries, ring, parameters);
}

int fail_io_uring_submit(struct io_uring *ring);
int fail_io_uring_submit(struct io_uring *ring)
{
    before(ring, true);
    int error = fail_now(FAIL_ROW_io_uring_submit);
    int result = error != 0 ? -error : io_uring_submit(ring);
    look_at_completions(ring);
    return result;
}

int fail_io_uring_submit_and_get_events(struct io_uring *ring);
int fail_io_uring_submit_and_get_events(struct io_uring *ring)
{
    before(ring, false);
    int error = fail_now(FAIL_ROW_io_uring_submit_and_get_events);
    int result = error != 0 ? -error : io_uring_submit_and_get_events(ring);
    after(ring);
    return result;
}

int fail_io_uring_submit_and_wait_timeout(struct io_uring *ring, struct io_uring_cqe **out,
                                          unsigned count, struct __kernel_timespec *timeout,
                                          sigset_t *mask);
int fail_io_uring_submit_and_wait_timeout(struct io_uring *ring, struct io_uring_cqe **out,
                                          unsigned count, struct __kernel_timespec *timeout,
                                          sigset_t *mask)
{
    before(ring, false);
    int error = fail_now(FAIL_ROW_io_uring_submit_and_wait_timeout);
    int result =
        error != 0 ? -error : io_uring_submit_and_wait_timeout(ring, out, count, timeout, mask);
    after(ring);
    return result;
}
