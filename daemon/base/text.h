/*
 * One encoder for each place that untrusted text can reach (log, JSON, terminal, SMTP reply), and
 * the base32 and base64 alphabets. Nothing here repairs: what cannot be shown is shown as an
 * escape.
 */
#ifndef TASUKI_BASE_TEXT_H
#define TASUKI_BASE_TEXT_H

#include "daemon/base/buf.h"

/*
 * Printable ASCII as it is; quote, backslash, controls, and every byte that is not valid UTF-8 as
 * \xNN. Valid UTF-8 passes unless it is a control or a bidirectional override. The same rule for
 * log and terminal.
 */
void text_put_escaped(struct buf *to, struct slice from);

/* A JSON string with its quotes; invalid UTF-8 becomes U+FFFD. RFC 8259 7. */
void text_put_json(struct buf *to, struct slice from);

/* HTML text: the five special characters as entities, controls and invalid UTF-8 as U+FFFD. */
void text_put_html(struct buf *to, struct slice from);

/* Lower-case base32 without i, l, o, u (Crockford's alphabet), 5 bits a character, len * 8 / 5
 * rounded up. */
void text_put_base32(struct buf *to, struct slice from);

/* One base32 character as 0..31, upper or lower case; 32 when it is none. */
uint8_t text_base32_value(uint8_t character);

/* RFC 4648 4, padded, no line breaks. */
void text_put_base64(struct buf *to, struct slice from);

/* Appends the decoded bytes. False on anything but strict padded base64 (RFC 4954 4) or when it
 * does not fit (then overflow is set); nothing is appended then. */
MUST_CHECK bool text_get_base64(struct buf *to, struct slice from);

/*
 * Length in bytes of the valid UTF-8 sequence at the head of s (1..4), or 0. Overlong forms,
 * surrogates and values past U+10FFFF are not valid. RFC 3629.
 */
size_t text_utf8_len(struct slice s, uint32_t *out_code_point);

/*
 * The row of names, count of them, that is nearest to word (edit distance with swaps, at most a
 * third of its length, at least 1), or NULL. For "did you mean".
 */
const char *text_nearest(struct slice word, const char *const *names, size_t count);

#endif
