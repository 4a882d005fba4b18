/*
 * What features of io_uring are worth, each against the same work without it.
 *
 *   bench_ring [EXCHANGES]    default 400000
 *
 * The work is that of a worker under load: 20 connections over TCP on loopback, on each of which a
 * peer sends 40 bytes and gets 40 back, all at once, again and again. The peers' calls (plain send
 * and recv in the same thread) are the same in every row, and are measured alone first. Figures are
 * CPU time of the process for one exchange. The last rows are about waking another thread.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <liburing.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONNECTIONS  20
#define BYTES        40
#define BUFFER_BYTES 4096
#define BUFFERS      64
#define ROUNDS       5
#define TAG_SEND     1000u

struct variant {
    const char *name;
    unsigned setup;
    bool provided, multishot, poll_first, fixed;
};

static const struct variant variants[] = {
    {"plain ring, one buffer for each recv", 0, false, false, false, false},
    {"COOP_TASKRUN", IORING_SETUP_COOP_TASKRUN, false, false, false, false},
    {"SINGLE_ISSUER, DEFER_TASKRUN", IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN, false,
     false, false, false},
    {"  and provided buffers", IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN, true, false,
     false, false},
    {"  and POLL_FIRST", IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN, true, false, true,
     false},
    {"  and multishot recv instead", IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN, true,
     true, false, false},
    {"  POLL_FIRST and registered files", IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
     true, false, true, true},
};

static int peers[CONNECTIONS], ours[CONNECTIONS];
static uint8_t buffers[BUFFERS][BUFFER_BYTES];
static const uint8_t words[BYTES] = "MAIL FROM:<scanner@office.example.jp>";

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static double cpu_us(void)
{
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1e6 +
           (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec);
}

static void connect_all(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t len = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, len) != 0 ||
        listen(listener, CONNECTIONS) != 0 ||
        getsockname(listener, (struct sockaddr *)&address, &len) != 0) {
        die("listen");
    }
    for (int at = 0; at < CONNECTIONS; at++) {
        int one = 1;
        peers[at] = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(peers[at], (struct sockaddr *)&address, len) != 0) {
            die("connect");
        }
        ours[at] = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
        setsockopt(peers[at], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        setsockopt(ours[at], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    }
    close(listener);
}

static void close_all(void)
{
    for (int at = 0; at < CONNECTIONS; at++) {
        close(peers[at]);
        close(ours[at]);
    }
}

static void peers_send(void)
{
    for (int at = 0; at < CONNECTIONS; at++) {
        if (send(peers[at], words, BYTES, 0) != BYTES) {
            die("send");
        }
    }
}

static void take(int fd)
{
    uint8_t got[BYTES];
    for (ssize_t have = 0, more; have < BYTES; have += more) {
        more = recv(fd, got, (size_t)(BYTES - have), 0);
        if (more <= 0) {
            die("recv");
        }
    }
}

/* The peers' own share: both ends by plain calls, less what our end of them costs is not known, so
 * this is an upper bound of what is not the ring's. */
static double by_plain_calls(uint64_t exchanges)
{
    connect_all();
    double before = cpu_us();
    for (uint64_t done = 0; done < exchanges; done += CONNECTIONS) {
        peers_send();
        for (int at = 0; at < CONNECTIONS; at++) {
            take(ours[at]);
            (void)!send(ours[at], words, BYTES, 0);
        }
        for (int at = 0; at < CONNECTIONS; at++) {
            take(peers[at]);
        }
    }
    double used = cpu_us() - before;
    close_all();
    return used / (double)exchanges;
}

/* ---- a ring ---- */

static struct io_uring_sqe *sqe_of(struct io_uring *ring)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
    if (sqe == NULL) {
        (void)io_uring_submit(ring);
        sqe = io_uring_get_sqe(ring);
    }
    if (sqe == NULL) {
        die("io_uring_get_sqe");
        abort();
    }
    return sqe;
}

struct rig {
    const struct variant *v;
    struct io_uring ring;
    struct io_uring_buf_ring *buf_ring;
    int waiting; /* replies of ours that are still to be sent, or answered */
};

static int fd_of(const struct rig *r, int at)
{
    return r->v->fixed ? at : ours[at];
}

static void start_recv(struct rig *r, int at)
{
    struct io_uring_sqe *sqe = sqe_of(&r->ring);
    if (r->v->multishot) {
        io_uring_prep_recv_multishot(sqe, fd_of(r, at), NULL, 0, 0);
    } else if (r->v->provided) {
        io_uring_prep_recv(sqe, fd_of(r, at), NULL, BUFFER_BYTES, 0);
    } else {
        io_uring_prep_recv(sqe, fd_of(r, at), buffers[at], BUFFER_BYTES, 0);
    }
    if (r->v->provided) {
        sqe->flags |= IOSQE_BUFFER_SELECT;
        sqe->buf_group = 0;
    }
    if (r->v->fixed) {
        sqe->flags |= IOSQE_FIXED_FILE;
    }
    if (r->v->poll_first) {
        sqe->ioprio |= IORING_RECVSEND_POLL_FIRST;
    }
    io_uring_sqe_set_data64(sqe, (unsigned)at);
}

static void start_send(struct rig *r, int at)
{
    struct io_uring_sqe *sqe = sqe_of(&r->ring);
    io_uring_prep_send(sqe, fd_of(r, at), words, BYTES, MSG_NOSIGNAL);
    if (r->v->fixed) {
        sqe->flags |= IOSQE_FIXED_FILE;
    }
    io_uring_sqe_set_data64(sqe, TAG_SEND + (unsigned)at);
}

static void give_buffer(struct rig *r, unsigned index)
{
    io_uring_buf_ring_add(r->buf_ring, buffers[index], BUFFER_BYTES, (unsigned short)index,
                          io_uring_buf_ring_mask(BUFFERS), 0);
    io_uring_buf_ring_advance(r->buf_ring, 1);
}

static void rig_open(struct rig *r, const struct variant *v)
{
    *r = (struct rig){.v = v};
    struct io_uring_params params = {.flags = v->setup};
    int error = io_uring_queue_init_params(256, &r->ring, &params);
    if (error < 0) {
        errno = -error;
        die(v->name);
    }
    if (v->fixed && io_uring_register_files(&r->ring, ours, CONNECTIONS) != 0) {
        die("register_files");
    }
    if (v->provided) {
        if (posix_memalign((void **)&r->buf_ring, 4096, 4096) != 0) {
            die("posix_memalign");
        }
        memset(r->buf_ring, 0, 4096);
        struct io_uring_buf_reg reg = {
            .ring_addr = (uint64_t)(uintptr_t)r->buf_ring, .ring_entries = BUFFERS, .bgid = 0};
        if (io_uring_register_buf_ring(&r->ring, &reg, 0) != 0) {
            die("register_buf_ring");
        }
        io_uring_buf_ring_init(r->buf_ring);
        for (unsigned index = 0; index < BUFFERS; index++) {
            give_buffer(r, index);
        }
    }
    for (int at = 0; at < CONNECTIONS; at++) {
        start_recv(r, at);
    }
    (void)io_uring_submit(&r->ring);
}

static void completion(struct rig *r, const struct io_uring_cqe *cqe)
{
    uint64_t tag = io_uring_cqe_get_data64(cqe);
    if (cqe->res <= 0) {
        errno = -cqe->res;
        die(r->v->name);
    }
    if (tag >= TAG_SEND) {
        r->waiting--;
        return;
    }
    if ((cqe->flags & IORING_CQE_F_BUFFER) != 0) {
        give_buffer(r, cqe->flags >> IORING_CQE_BUFFER_SHIFT);
    }
    start_send(r, (int)tag);
    if ((cqe->flags & IORING_CQE_F_MORE) == 0) {
        start_recv(r, (int)tag);
    }
}

static void serve(struct rig *r)
{
    r->waiting = CONNECTIONS;
    while (r->waiting > 0) {
        struct io_uring_cqe *cqe;
        unsigned head, seen = 0;
        int error = io_uring_submit_and_wait(&r->ring, 1);
        if (error < 0 && error != -EINTR) {
            errno = -error;
            die("enter");
        }
        io_uring_for_each_cqe(&r->ring, head, cqe)
        {
            completion(r, cqe);
            seen++;
        }
        io_uring_cq_advance(&r->ring, seen);
    }
}

static double by_ring(const struct variant *v, uint64_t exchanges)
{
    struct rig r;
    connect_all();
    rig_open(&r, v);
    double before = cpu_us();
    for (uint64_t done = 0; done < exchanges; done += CONNECTIONS) {
        peers_send();
        serve(&r);
        for (int at = 0; at < CONNECTIONS; at++) {
            take(peers[at]);
        }
    }
    double used = cpu_us() - before;
    io_uring_queue_exit(&r.ring);
    free(r.buf_ring);
    close_all();
    return used / (double)exchanges;
}

/* ---- waking another thread ---- */

struct waker {
    struct io_uring ring;
    int bell, other_bell;
    struct waker *other;
    bool by_message;
    uint64_t turns;
    pthread_barrier_t *ready;
};

static void wait_once(struct waker *w)
{
    struct io_uring_cqe *cqe;
    bool woken = false;
    while (!woken) {
        if (io_uring_submit_and_wait(&w->ring, 1) < 0) {
            continue;
        }
        while (io_uring_peek_cqe(&w->ring, &cqe) == 0) {
            woken = woken || io_uring_cqe_get_data64(cqe) == 1;
            io_uring_cqe_seen(&w->ring, cqe);
        }
    }
    if (!w->by_message) {
        uint64_t rings;
        (void)!read(w->bell, &rings, sizeof rings);
    }
}

static void arm(struct waker *w)
{
    if (!w->by_message) {
        struct io_uring_sqe *sqe = sqe_of(&w->ring);
        io_uring_prep_poll_add(sqe, w->bell, POLLIN);
        io_uring_sqe_set_data64(sqe, 1);
    }
}

static void wake_other(struct waker *w)
{
    if (w->by_message) {
        struct io_uring_sqe *sqe = sqe_of(&w->ring);
        io_uring_prep_msg_ring(sqe, w->other->ring.ring_fd, 0, 1, 0);
        io_uring_sqe_set_data64(sqe, 2);
    } else {
        uint64_t one = 1;
        (void)!write(w->other_bell, &one, sizeof one);
    }
}

static void *turn_about(void *arg)
{
    struct waker *w = arg;
    struct io_uring_params params = {.flags =
                                         IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN};
    if (io_uring_queue_init_params(64, &w->ring, &params) < 0) {
        die("ring");
    }
    arm(w);
    pthread_barrier_wait(w->ready);
    bool first = w->turns > 0 && w->bell > w->other_bell;
    for (uint64_t turn = 0; turn < w->turns; turn++) {
        if (first || turn > 0) {
            wake_other(w);
        }
        wait_once(w);
        arm(w);
    }
    wake_other(w);
    (void)io_uring_submit(&w->ring);
    pthread_barrier_wait(w->ready);
    io_uring_queue_exit(&w->ring);
    return NULL;
}

static double by_wakes(bool by_message, uint64_t turns)
{
    struct waker wakers[2];
    pthread_t threads[2];
    pthread_barrier_t ready;
    pthread_barrier_init(&ready, NULL, 2);
    int bells[2] = {eventfd(0, EFD_NONBLOCK), eventfd(0, EFD_NONBLOCK)};
    double before = cpu_us();
    for (int at = 0; at < 2; at++) {
        wakers[at] = (struct waker){.bell = bells[at],
                                    .other_bell = bells[1 - at],
                                    .other = &wakers[1 - at],
                                    .by_message = by_message,
                                    .turns = turns,
                                    .ready = &ready};
        if (pthread_create(&threads[at], NULL, turn_about, &wakers[at]) != 0) {
            die("pthread_create");
        }
    }
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
    double used = cpu_us() - before;
    pthread_barrier_destroy(&ready);
    close(bells[0]);
    close(bells[1]);
    return used / (double)(2 * turns);
}

/* ---- the table ---- */

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void show(const char *name, double times[ROUNDS])
{
    qsort(times, ROUNDS, sizeof times[0], ascending);
    printf("| %s | %.2f | %.2f |\n", name, times[ROUNDS / 2], times[0]);
}

int main(int argc, char **argv)
{
    uint64_t exchanges = argc > 1 ? strtoull(argv[1], NULL, 10) : 400000;
    enum { COUNT = sizeof variants / sizeof variants[0] };
    static double times[COUNT + 3][ROUNDS];
    for (int round = 0; round < ROUNDS; round++) {
        times[0][round] = by_plain_calls(exchanges);
        for (int at = 0; at < COUNT; at++) {
            times[1 + at][round] = by_ring(&variants[at], exchanges);
        }
        times[COUNT + 1][round] = by_wakes(false, exchanges / 10);
        times[COUNT + 2][round] = by_wakes(true, exchanges / 10);
    }
    printf("| CPU us for one exchange, %d rounds | median | least |\n|---|---:|---:|\n", ROUNDS);
    show("plain send and recv, one call each", times[0]);
    for (int at = 0; at < COUNT; at++) {
        show(variants[at].name, times[1 + at]);
    }
    show("a wake by eventfd and POLL_ADD", times[COUNT + 1]);
    show("a wake by MSG_RING", times[COUNT + 2]);
    return 0;
}
