/*
 * A look into a message's header, for what the relay itself needs to know of it. Never changes
 * anything. Sans-I/O. Source: RFC 5322 2.2 (fields, folding).
 */
#ifndef TASUKI_PROTO_MAIL_HEADER_H
#define TASUKI_PROTO_MAIL_HEADER_H

#include "daemon/base/buf.h"

/*
 * Appends the unfolded value of the first such field (blanks at its ends trimmed), as much as fits
 * into *to; continuation lines are joined by one blank. content   the message from its first byte,
 * line ends CRLF or LF; may end anywhere name      field name, any case, without the colon False
 * when the header (up to the first empty line, or the end of content) has none.
 */
MUST_CHECK bool mail_header_find(struct slice content, struct slice name, struct buf *to);

#endif
