/*
 * ESMTP parameters behind the path of MAIL and RCPT: one table row each (smtp_param.c). Judges the
 * text and what it says; whether a size is too large is the server's question.
 *
 *     Mail-parameters = esmtp-param *(SP esmtp-param)
 *     esmtp-param     = esmtp-keyword ["=" esmtp-value]
 *     esmtp-keyword   = (ALPHA / DIGIT) *(ALPHA / DIGIT / "-")
 *     esmtp-value     = 1*(%d33-60 / %d62-126)
 *
 * Source: RFC 5321 4.1.2 and 4.1.1.11; for each parameter the RFC at its reader.
 */
#ifndef TASUKI_PROTO_SMTP_PARAM_H
#define TASUKI_PROTO_SMTP_PARAM_H

#include "daemon/base/check.h"
#include "daemon/base/slice.h"

enum smtp_param_verdict {
    SMTP_PARAM_OK,
    SMTP_PARAM_SYNTAX,   /* not well formed: 501 5.5.4 */
    SMTP_PARAM_VALUE,    /* a known name with a value it cannot have: 501 5.5.4 */
    SMTP_PARAM_REPEATED, /* 501 5.5.4 */
    SMTP_PARAM_UNKNOWN,  /* not announced, or not for this verb: 555 5.5.4 */
};

/* Which parameters are legal. One bit each, so that a row can name several. */
#define SMTP_PARAM_FOR_MAIL  0x01u /* the verb is MAIL */
#define SMTP_PARAM_FOR_RCPT  0x02u /* the verb is RCPT */
#define SMTP_PARAM_WITH_AUTH 0x04u /* AUTH is offered */
#define SMTP_PARAM_WITH_UTF8 0x08u /* the mail is SMTPUTF8: ORCPT may go beyond ASCII */

/* RFC 3461 4.4, 4.2: of the value as it comes. */
#define SMTP_ENVID_BYTES_MAX 100
#define SMTP_ORCPT_BYTES_MAX 500

/* RET: how much of the message a report about its failure returns. RFC 3461 4.3. */
enum smtp_ret { SMTP_RET_NONE, SMTP_RET_FULL, SMTP_RET_HDRS };

/* NOTIFY: when a report is wanted; no bit: it was not given. RFC 3461 4.1. */
#define SMTP_NOTIFY_NEVER   0x01u /* alone */
#define SMTP_NOTIFY_SUCCESS 0x02u
#define SMTP_NOTIFY_FAILURE 0x04u
#define SMTP_NOTIFY_DELAY   0x08u

struct smtp_params {
    uint64_t size;  /* 0: not declared */
    bool body_8bit; /* BODY=8BITMIME */
    bool smtputf8;
    enum smtp_ret ret;
    uint8_t notify;     /* SMTP_NOTIFY_* */
    struct slice envid; /* xtext as it came, or empty; borrowed from the command */
    struct slice orcpt; /* "addr-type;xtext" as it came, or empty; likewise */
};

/*
 * All parameters of a command.
 *   in       what stands behind the path: empty, or a blank first; blanks may be doubled
 *   context  SMTP_PARAM_* bits of the command and what was announced
 * *out_params is written only with OK.
 */
MUST_CHECK enum smtp_param_verdict smtp_params_parse(struct slice in, unsigned context,
                                                     struct smtp_params *out_params);

#endif
