/*
 * ESMTP parameters behind the path of MAIL and RCPT: one table row each (smtp_param.c). Judges the
 * text and what it says; whether a size is too large is the server's question.
 *
 *     Mail-parameters = esmtp-param *(SP esmtp-param)
 *     esmtp-param     = esmtp-keyword ["=" esmtp-value]
 *     esmtp-keyword   = (ALPHA / DIGIT) *(ALPHA / DIGIT / "-")
 *     esmtp-value     = 1*(%d33-60 / %d62-126)
 *
 * Source: RFC 5321 4.1.2 and 4.1.1.11.
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

struct smtp_params {
    uint64_t size;  /* 0: not declared */
    bool body_8bit; /* BODY=8BITMIME */
    bool smtputf8;
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
