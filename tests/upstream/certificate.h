/*
 * A certificate authority of one's own and a certificate for localhost, 127.0.0.1 and ::1, made on
 * the spot: DIR/ca.pem to trust, DIR/cert.pem and DIR/key.pem to serve with. For trying things out:
 * it is valid for 30 days, and the authority's key is forgotten at once.
 */
#ifndef TASUKI_UPSTREAM_CERTIFICATE_H
#define TASUKI_UPSTREAM_CERTIFICATE_H

#include "daemon/base/check.h"

#include <stdbool.h>

/* Replaces what is there. Returns false, with words on stderr, when it cannot be. */
MUST_CHECK bool certificate_make(const char *directory);

#endif
