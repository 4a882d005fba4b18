/*
 * From what happened on the way to the row of schema/outcome.def that says what follows from it.
 * Pure: one table, read from the top, the first row that fits decides.
 *
 * What always holds, whatever a server says (tests/unit/test_classify.c tries all codes at all
 * stages):
 *   - DELIVERED comes of a 2yz to the final dot, and of nothing else
 *   - nothing said before MAIL, a refused login least of all, and no 421 at any time, counts
 *     against a message: its row's action is UPSTREAM
 *   - a 4yz never fails a message for good
 *   - an enhanced code that contradicts the first digit of the basic one is not looked at
 *
 * provider: whose rows of schema/playbook.def are looked at before; NONE: nobody's.
 */
#ifndef TASUKI_OUTCOME_CLASSIFY_H
#define TASUKI_OUTCOME_CLASSIFY_H

#include "daemon/proto/smtp_client.h"
#include "schema/outcome.h"
#include "schema/playbook.h"

/*
 * An event of the SMTP client: RECIPIENT for that recipient; DONE for those who share its reply;
 * FAILED for those not told yet, and for the upstream; AUTH_RESULT for the upstream. NONE where
 * nothing happened to anybody: DONE without a recipient, a login that was accepted, every other
 * event.
 */
enum outcome classify_event(const struct smtp_client_event *event, enum playbook_provider provider);

/*
 * A reply alone.
 *   stage           where it was said
 *   accepted_count  at RCPT: recipients accepted before this one. RFC 5321 4.5.3.1.10
 */
enum outcome classify_reply(enum smtp_client_stage stage, const struct smtp_reply *reply,
                            uint32_t accepted_count, enum playbook_provider provider);

/* A connect that failed, by errno. */
enum outcome classify_connect(int error);

/* A TLS session that did not come about; daemon/tls says which. */
enum classify_tls {
    CLASSIFY_TLS_UNTRUSTED,
    CLASSIFY_TLS_WRONG_NAME,
    CLASSIFY_TLS_EXPIRED,
    CLASSIFY_TLS_HANDSHAKE,
};

enum outcome classify_tls(enum classify_tls failure);

/* What smtp_client_begin_mail would not begin; DELIVERED never, NONE for BEGUN. */
enum outcome classify_begin(enum smtp_client_begin begin);

#endif
