/*
 * The mails that the relay writes itself: a report to a sender about what became of its message
 * (delivery status notification), and the daily digest to root-mail of what nobody else could be
 * told. Sans-I/O: a struct in, a whole message out.
 *
 * What always holds, whatever the texts contain (tests/fuzz/fuzz_mail_dsn.c):
 *   - lines end in CRLF and have at most 998 bytes; no lone CR or LF, no NUL
 *   - every byte is ASCII, unless smtputf8 was asked for; then the whole is UTF-8
 *   - text from outside cannot end a header field, a status field or a part: there is one encoder
 *     for each place (mail_dsn_parts.h), and the boundary occurs in no part
 *   - the status code's class is that of the action
 *
 * Of the original only header fields are returned. RET=FULL is honoured in the same way: RFC 3461
 * 4.3 lets a relay return less than all, and a whole scan would come back to a mailbox that may be
 * the very one that is full.
 *
 * Who is told, when, and that it happens once is the caller's business, as is the envelope: a
 * report goes out with MAIL FROM:<>, a digest too.
 *
 * Sources: RFC 3464 (delivery status), RFC 3461 6 (what a report says), RFC 6522
 * (multipart/report), RFC 3463 (status codes), RFC 6533 (the same beyond ASCII), RFC 3834 5
 * (Auto-Submitted), RFC 2045 6.7 (quoted-printable), RFC 2047 (subjects).
 */
#ifndef TASUKI_PROTO_MAIL_DSN_H
#define TASUKI_PROTO_MAIL_DSN_H

#include "daemon/base/buf.h"
#include "daemon/base/limits.h"
#include "schema/msg_id.h"

#define MAIL_DSN_RECIPIENTS_MAX     SMTP_RECIPIENTS_MAX
#define MAIL_DSN_SHOWN_MAX          20    /* recipients that the words for people name */
#define MAIL_DSN_ORIGINAL_BYTES_MAX 32768 /* of the original's header that are returned */
#define MAIL_DSN_XTEXT_BYTES_MAX    500   /* of an ENVID or an ORCPT. RFC 3461 4 */
#define MAIL_DIGEST_ROWS_MAX        100

/* What became of the message: one for all recipients of a report. RFC 3464 2.3.3. */
enum mail_dsn_kind {
    MAIL_DSN_FAILED,
    MAIL_DSN_DELAYED,
    MAIL_DSN_RELAYED, /* to a server that promises no report of its own. RFC 3461 5.2.2 */
    MAIL_DSN_DELIVERED,
    MAIL_DSN_KIND_COUNT
};

/* Texts are untrusted, unless said otherwise; they are cut where a bound is named. */
struct mail_dsn_recipient {
    struct slice address;  /* 1..SMTP_PATH_BYTES_MAX bytes, without <> */
    struct slice orcpt;    /* "addr-type;xtext" as it came, or empty */
    struct slice remote;   /* name of the server that answered, or empty */
    const char *sentence;  /* why, in our words, without a full stop; "" says nothing */
    const char *hint;      /* what the sender can do, in our words; "" says nothing */
    uint16_t code;         /* SMTP reply code; 0: no reply came, text is somebody else's */
    uint16_t enhanced[3];  /* enhanced status code, zeros: none */
    struct slice text;     /* the reply's text, its lines joined by LF; cut at 512 bytes */
    uint64_t attempted_ms; /* when it was last tried, 0: never */
};

struct mail_dsn {
    enum mail_dsn_kind kind;
    bool smtputf8;             /* the report may be sent with SMTPUTF8: the original was */
    struct msg_id id;          /* of the report */
    struct msg_id original_id; /* of the message that it is about */
    struct slice hostname;     /* ours, 1..SMTP_DOMAIN_BYTES_MAX bytes */
    uint64_t date_ms;          /* wall clock, as all times here */
    uint64_t arrived_ms;       /* when the original was taken */
    uint64_t retry_until_ms;   /* DELAYED: when it is given up */
    struct slice sender;       /* 1..SMTP_PATH_BYTES_MAX bytes: never the null sender */
    struct slice envid;        /* xtext as it came, or empty */
    struct slice subject;      /* undecoded, perhaps cut; or empty. Cut at 512 bytes */
    const struct mail_dsn_recipient *recipients; /* borrowed for the call */
    uint32_t recipient_count;                    /* 1..MAIL_DSN_RECIPIENTS_MAX */
    struct slice original; /* its first bytes: the header up to the first empty line is returned, at
                              most MAIL_DSN_ORIGINAL_BYTES_MAX of it, whole lines */
};

/* Appends the whole report; without room nothing is written and overflow is set. */
void mail_dsn_put(struct buf *to, const struct mail_dsn *dsn);

/* Room that suffices for it; for one recipient and 2 KiB of header about 10 KiB. */
size_t mail_dsn_bytes_max(const struct mail_dsn *dsn);

/* One message that could be neither delivered nor reported. Texts are untrusted. */
struct mail_digest_row {
    struct msg_id id;
    uint64_t arrived_ms;
    struct slice sender;    /* empty is the null sender */
    struct slice recipient; /* the first that failed */
    uint32_t recipient_count;
    const char *sentence; /* our words, as above */
    uint16_t code;
    struct slice text; /* cut at 200 bytes */
};

struct mail_digest {
    struct msg_id id; /* of the digest */
    struct slice hostname;
    uint64_t date_ms;
    struct slice to; /* root-mail */
    uint64_t count;  /* of all such messages, at least row_count */
    const struct mail_digest_row *rows;
    uint32_t row_count; /* 0..MAIL_DIGEST_ROWS_MAX */
};

/* Appends the whole digest, a plain message; without room nothing is written and overflow is set.
 */
void mail_digest_put(struct buf *to, const struct mail_digest *digest);
size_t mail_digest_bytes_max(const struct mail_digest *digest);

#endif
