/* Who may send, and where a bare name goes: pure judgements on the configuration. */
#ifndef TASUKI_INGRESS_POLICY_H
#define TASUKI_INGRESS_POLICY_H

#include "daemon/config/config.h"

/* 16 bytes, IPv4 as ::ffff:a.b.c.d. Other families (unix): false. */
MUST_CHECK bool policy_address(const struct sockaddr *address, uint8_t out[16]);

/* May this client hand in mail without a password? */
bool policy_allows(const struct config *config, const uint8_t client[16]);

/*
 * The address that a path means: itself, or, for a bare local part, root-mail or local@domain.
 * Appended to *to (SMTP_PATH_BYTES_MAX bytes are enough). False when the result is too long.
 */
MUST_CHECK bool policy_resolve(const struct config *config, struct slice path, bool is_recipient,
                               struct buf *to);

#endif
