/*
 * The HTTP server: one thread, one poll loop, every wait with a deadline.
 *
 * Bounds: WEB_CONNECTIONS_MAX connections (the one that has waited longest for a request makes room
 * for a new one), WEB_CALLS_MAX questions to the daemon, WEB_BODIES_BYTES_MAX of answers that are
 * not yet taken. Whoever is slow loses the connection, and holds nobody else up.
 */
#ifndef TASUKI_WEB_SERVER_H
#define TASUKI_WEB_SERVER_H

#include "daemon/base/log.h"
#include "web/access.h"

#define WEB_CONNECTIONS_MAX  256
#define WEB_CALLS_MAX        32 /* the daemon takes CONTROL_CONNECTIONS_MAX, and others ask too */
#define WEB_BODIES_BYTES_MAX (64u << 20)
#define WEB_HEAD_MS_MAX      10000u /* from a request's first byte to the end of its head */
#define WEB_IDLE_MS_MAX      30000u /* between requests */
#define WEB_WRITE_MS_MAX     20000u /* until the client has taken the whole answer */
#define WEB_LINGER_MS_MAX    1000u

struct server_with {
    int listen_fd;
    int signal_fd; /* readable: stop */
    const char *socket_path;
    const struct access *access;
    const struct log *log;
};

/* Serves until a signal arrives; its number. with and what it points at are borrowed. */
MUST_CHECK int server_run(const struct server_with *with);

#endif
