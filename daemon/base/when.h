/*
 * Instants as text. An instant is milliseconds since 1970-01-01 00:00 UTC, without leap seconds;
 * all text is UTC, since a log and a Received line are read far from where they were written.
 */
#ifndef TASUKI_BASE_WHEN_H
#define TASUKI_BASE_WHEN_H

#include "daemon/base/buf.h"

/* "Tue, 24 Nov 2026 08:26:34 +0000". RFC 5322 3.3. */
void when_put_rfc5322(struct buf *to, uint64_t at_ms);

/* "2026-11-24T08:26:34Z". RFC 3339. */
void when_put_rfc3339(struct buf *to, uint64_t at_ms);

/* A span for people, in its two largest units: "3 d 4 h", "12 min", "45 s". */
void when_put_span(struct buf *to, uint64_t span_ms);

#endif
