/*
 * The demo upstream: a mail server to relay to, for the demo, the tests and the benchmarks. It
 * takes mail over TLS from whoever logs in, counts it, throws it away or keeps it, and misbehaves
 * when told to.
 *
 * Threads: one loop each; a session belongs to the loop that accepted it. What they share is fixed
 * before they start, but for the mode, the counters and the wish to stop. The control socket is the
 * first loop's.
 */
#ifndef TASUKI_UPSTREAM_UPSTREAM_H
#define TASUKI_UPSTREAM_UPSTREAM_H

#include "daemon/io/io.h"
#include "daemon/proto/smtp_server.h"
#include "daemon/tls/tls.h"
#include "tests/upstream/mode.h"

#include <stdatomic.h>

#define LOOPS_MAX            16
#define SESSIONS_MAX         4096 /* of one loop; more are closed at once */
#define PASSWORD_BYTES_MAX   256
#define CONTROL_LINE_BYTES   512 /* of one command, and of one answer */
#define CONTROL_PLACES       8   /* connections to the control socket at once; more are closed */
#define MESSAGE_BYTES_MAX    (256u << 20)
#define UPSTREAM_IDLE_MS_MAX 300000u

/* X(member, "word in stats"): what is counted, each loop for itself. */
#define COUNTER_ROWS(X)                                                                            \
    X(sessions, "sessions")                                                                        \
    X(connections, "connections")                                                                  \
    X(logins, "logins")                                                                            \
    X(logins_refused, "logins-refused")                                                            \
    X(messages, "messages")                                                                        \
    X(recipients, "recipients")                                                                    \
    X(bytes, "bytes")

struct counters {
#define X(member, word) atomic_uint_fast64_t member;
    COUNTER_ROWS(X)
#undef X
};

struct upstream {
    struct smtp_server_limits limits;
    struct tls_policy *policy; /* NULL: no TLS, and no login */
    bool tls_on_connect;
    bool verbose;
    const char *user; /* NULL: nobody has to log in */
    uint8_t password[PASSWORD_BYTES_MAX];
    size_t password_bytes;
    const char *keep; /* directory, or NULL */
    atomic_uint_fast64_t kept;
    struct mode_box mode;
    atomic_bool stopping;
    int listen_fd;
    struct loop *loops;
    uint32_t loop_count;
};

struct loop {
    struct upstream *upstream;
    struct io *io;
    struct io_op accept, wake;
    int wake_fd;
    bool accept_open;
    struct control *control; /* the first loop's; NULL elsewhere, or without a socket */
    struct session *sessions;
    uint32_t session_count;
    struct counters counters;
};

static inline void counter_add(atomic_uint_fast64_t *counter, uint64_t count)
{
    atomic_fetch_add_explicit(counter, count, memory_order_relaxed);
}

/* From any thread: every loop looks at the mode and at stopping. */
void upstream_wake_all(struct upstream *u);

/* "sessions=0 ... bytes=0 mode=ok" */
void upstream_put_stats(struct upstream *u, struct buf *to);

#endif
