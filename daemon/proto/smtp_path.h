/*
 * Reverse-path and forward-path of MAIL and RCPT. Judges, never repairs; source routes are the one
 * thing stripped, as RFC 5321 4.1.1.3 and appendix C ask.
 */
#ifndef TASUKI_PROTO_SMTP_PATH_H
#define TASUKI_PROTO_SMTP_PATH_H

#include "daemon/base/buf.h"
#include "daemon/base/limits.h"

enum smtp_path_verdict {
    SMTP_PATH_OK,
    SMTP_PATH_NULL,      /* "<>" */
    SMTP_PATH_SYNTAX,    /* 501 5.1.3 / 5.1.7 */
    SMTP_PATH_TOO_LONG,  /* local part over 64, domain over 255, path over 256 */
    SMTP_PATH_NOT_ASCII, /* 8-bit bytes and SMTPUTF8 was not asked for: 553 5.6.7 */
};

struct smtp_path {
    struct slice address; /* local@domain as received, without <> and route; or a bare local part */
    struct slice local;   /* with its quotes, when it has them */
    struct slice domain;  /* "example.jp", "[192.0.2.1]", or empty for a bare local part */
};

/*
 * Takes one path off the head of in: "<a@b>", "<a>", "<>", "<@x,@y:a@b>"; blanks before "<" are
 * tolerated (devices send them), as is a bare a@b without <> up to the next blank. *out_rest is
 * what follows. utf8_allowed   SMTPUTF8 was given: valid UTF-8 counts as atext (RFC 6531 3.3)
 * Source: RFC 5321 4.1.2 (Mailbox, Dot-string, Quoted-string, address literals), 4.5.3.1.
 */
MUST_CHECK enum smtp_path_verdict smtp_path_parse(struct slice in, bool utf8_allowed,
                                                  struct smtp_path *out_path,
                                                  struct slice *out_rest);

/* A whole address, as an admin writes one in the configuration: a@b, nothing around it. */
MUST_CHECK bool smtp_path_is_address(struct slice text);

#endif
