/*
 * Which names in a Host field mean this page.
 *
 * A page of a stranger can have its own name resolve to this box (DNS rebinding), and the browser
 * then takes us for that page's origin. The Host field still holds the stranger's name: only names
 * that are known to be ours are answered. Sans-I/O.
 */
#ifndef TASUKI_WEB_ACCESS_H
#define TASUKI_WEB_ACCESS_H

#include "daemon/base/check.h"
#include "daemon/base/slice.h"

#include <sys/socket.h>

#define ACCESS_NAMES_MAX 32

struct access {
    uint32_t count;
    const char *names[ACCESS_NAMES_MAX]; /* borrowed; without port */
};

/* False when there is no more room. An empty name is left out. */
MUST_CHECK bool access_add(struct access *a, const char *name);

/*
 * A loopback name or address, an added name, or the very address that the client has connected to.
 *   host    NAME, V4 or [V6], with or without a port
 *   local   our end of this connection
 */
MUST_CHECK bool access_allowed(const struct access *a, struct slice host,
                               const struct sockaddr_storage *local);

bool access_is_loopback(const struct sockaddr_storage *address);

#endif
