/*
 * What the files that write our own mails share; nobody else includes it.
 *
 *   mail_dsn.c       reports to senders
 *   mail_digest.c    the digest to root-mail
 *   mail_dsn_text.c  one encoder for each place that text from outside can reach
 *
 * Each of these writes whole lines or parts of one, never a line end that its caller did not ask
 * for other than a fold, and bounded by a small multiple of what it is given.
 */
#ifndef TASUKI_PROTO_MAIL_DSN_PARTS_H
#define TASUKI_PROTO_MAIL_DSN_PARTS_H

#include "daemon/proto/mail_dsn.h"

#define CRLF SLICE("\r\n")

#define MAIL_TEXT_BYTES_MAX   512 /* of a reply's text, and of a subject */
#define MAIL_SHOWN_BYTES_MAX  16  /* of one character as it is shown */
#define MAIL_STATUS_BYTES_MAX 900 /* of an address in a status field: a line of it fits in 998 */

/* No encoder makes more than so many bytes of one, folds included. */
#define MAIL_GROWTH 4

/*
 * Takes one character off the head of *from and appends it as it may be shown in text: printable
 * ASCII as it is, line breaks and tabs as a blank, other controls and what is no UTF-8 as "?".
 * Beyond ASCII: as it is, if utf8 and unless it hides or reorders text around it; else \x{HEX}
 * (RFC 6533 3, EmbeddedUnicodeChar). At most MAIL_SHOWN_BYTES_MAX bytes.
 */
void mail_put_shown(struct buf *to, struct slice *from, bool utf8);

/* ---- header fields and status fields ---- */

/* A field of words, folded at blanks to 76 columns where it can be. */
struct mail_field {
    struct buf *to;
    size_t name_bytes;
    size_t column; /* bytes in this line */
    bool utf8;     /* words may go beyond ASCII */
};

/* name: with its colon; our own words. */
void mail_field_begin(struct mail_field *field, struct buf *to, const char *name, bool utf8);
/* Adds the words of a text from outside; a word that is too long for a line is broken. */
void mail_field_put(struct mail_field *field, struct slice text);
void mail_field_end(struct mail_field *field);

/* A subject: ours, then the original's. Beyond ASCII: encoded-words (RFC 2047), unless utf8. An
 * encoded-word that was cut is left out. */
void mail_put_subject(struct buf *to, const char *ours, struct slice subject, bool utf8);

/* A host name: what cannot be in one is "?". */
void mail_put_host(struct buf *to, struct slice name);

/* An address within <>, in a header field: beyond ASCII "?", unless utf8. */
void mail_put_mailbox(struct buf *to, struct slice address, bool utf8);

/* "rfc822; a@b", or "utf-8; ..." for an address beyond ASCII. RFC 3464 2.3.2, RFC 6533 3. */
void mail_put_typed_address(struct buf *to, struct slice address, bool utf8);

/* The same for the value of ORCPT, which is xtext behind its type. False, and nothing is appended,
 * when it is not well formed or too long for a line. */
MUST_CHECK bool mail_put_orcpt(struct buf *to, struct slice orcpt, bool utf8);

/* xtext, decoded and shown. RFC 3461 4. */
void mail_put_xtext(struct buf *to, struct slice xtext);

/* From, To, Date, Message-ID and what marks a mail that nobody wrote (RFC 3834). submitted:
 * "auto-replied" or "auto-generated". */
struct mail_head {
    struct msg_id id;
    struct slice hostname;
    struct slice to;
    uint64_t date_ms;
    const char *submitted;
    bool utf8;
};

void mail_put_head(struct buf *to, const struct mail_head *head);

/* ---- words for people, as quoted-printable UTF-8 ---- */

struct mail_words {
    struct buf *to;
    size_t column;
};

void mail_words_begin(struct mail_words *words, struct buf *to);
/* Our own words, ASCII; LF ends a line. */
void mail_words_say(struct mail_words *words, const char *text);
void mail_words_say_u64(struct mail_words *words, uint64_t value);
void mail_words_say_when(struct mail_words *words, uint64_t at_ms);
void mail_words_say_id(struct mail_words *words, const struct msg_id *id);
/* Words from outside: shown, trimmed, on one line. */
void mail_words_quote(struct mail_words *words, struct slice text);
/* The answer of a server: its code, when there is one, and at most bytes_max bytes of its text. */
void mail_words_quote_reply(struct mail_words *words, uint16_t code, struct slice text,
                            size_t bytes_max);

#endif
