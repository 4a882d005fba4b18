/*
 * Any texts in the mails that the relay writes itself.
 *
 *     byte 0  bits 0-1 kind, 2 smtputf8, 3 a digest, 4 many recipients
 *     byte 1  recipients (1..4), and what is in the buffer before
 *     then texts, each behind two bytes of length: host name, sender, envid, subject; for each
 *     recipient address, orcpt, remote, text; the rest is the original
 *
 * Whatever comes, the laws of tests/unit/mail_laws.h hold, it fits into its bound, and one byte of
 * room less writes nothing.
 */
#include "daemon/proto/mail_dsn.h"
#include "tests/unit/mail_laws.h"

#define HEAD_BYTES     2
#define RECIPIENTS_MAX 24

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The next text, at most bytes_max of it; otherwise (and where it is empty) the usual one. */
static struct slice take(struct slice *in, size_t bytes_max, struct slice usual)
{
    if (in->len < 2) {
        return usual;
    }
    struct slice text =
        slice_head(slice_tail(*in, 2), (size_t)(in->data[0] << 8 | in->data[1]) % (bytes_max + 1));
    *in = slice_tail(*in, 2 + text.len);
    return text.len > 0 ? text : usual;
}

static void try_report(const uint8_t *head, struct slice in)
{
    static struct mail_dsn_recipient recipients[RECIPIENTS_MAX];
    static const uint8_t classes[MAIL_DSN_KIND_COUNT] = {'5', '4', '2', '2'};
    struct mail_dsn dsn = {.kind = (enum mail_dsn_kind)(head[0] % MAIL_DSN_KIND_COUNT),
                           .smtputf8 = (head[0] & 4) != 0,
                           .id = msg_id_make(UINT64_C(1795508794000) << 16, 7),
                           .date_ms = UINT64_C(1795508794000),
                           .arrived_ms = head[1],
                           .recipients = recipients};
    dsn.hostname = take(&in, SMTP_DOMAIN_BYTES_MAX, SLICE("h"));
    dsn.sender = take(&in, SMTP_PATH_BYTES_MAX, SLICE("s"));
    dsn.envid = take(&in, MAIL_DSN_XTEXT_BYTES_MAX, SLICE(""));
    dsn.subject = take(&in, 1024, SLICE(""));
    dsn.recipient_count = (head[0] & 16) != 0 ? RECIPIENTS_MAX : 1u + head[1] % 4u;
    for (uint32_t index = 0; index < dsn.recipient_count; index++) {
        struct mail_dsn_recipient *recipient = &recipients[index];
        recipient->address = take(&in, SMTP_PATH_BYTES_MAX, SLICE("r"));
        recipient->orcpt = take(&in, MAIL_DSN_XTEXT_BYTES_MAX, SLICE(""));
        recipient->remote = take(&in, SMTP_DOMAIN_BYTES_MAX, SLICE(""));
        recipient->text = take(&in, 2048, SLICE(""));
        recipient->sentence = index % 3 == 0 ? "" : "why";
        recipient->hint = index % 2 == 0 ? "" : "what to do";
        recipient->code = (uint16_t)(head[1] * 4);
        recipient->enhanced[0] = (uint16_t)(head[1] % 7);
        recipient->enhanced[1] = (uint16_t)(head[1] * 257);
        recipient->attempted_ms = head[0];
    }
    dsn.original = in;
    size_t room = mail_dsn_bytes_max(&dsn);
    uint8_t *memory = malloc(room);
    CHECK(memory != NULL);
    struct buf mail;
    buf_init(&mail, memory, room);
    mail_dsn_put(&mail, &dsn);
    CHECK(!mail.overflow);
    mail_laws_hold_for_report(buf_slice(&mail), dsn.smtputf8, dsn.recipient_count,
                              classes[dsn.kind]);
    buf_init(&mail, memory, mail.len - 1);
    mail_dsn_put(&mail, &dsn);
    CHECK(mail.overflow && mail.len == 0);
    free(memory);
}

static void try_digest(const uint8_t *head, struct slice in)
{
    struct mail_digest_row rows[4] = {0};
    struct mail_digest digest = {.id = msg_id_make(UINT64_C(1795508794000) << 16, 7),
                                 .count = 4u + head[0],
                                 .rows = rows,
                                 .row_count = head[1] % 5u};
    digest.hostname = take(&in, SMTP_DOMAIN_BYTES_MAX, SLICE("h"));
    digest.to = take(&in, SMTP_PATH_BYTES_MAX, SLICE("t"));
    for (uint32_t index = 0; index < digest.row_count; index++) {
        rows[index] =
            (struct mail_digest_row){.sender = take(&in, SMTP_PATH_BYTES_MAX, SLICE("")),
                                     .recipient = take(&in, SMTP_PATH_BYTES_MAX, SLICE("r")),
                                     .recipient_count = head[1],
                                     .sentence = "why",
                                     .code = (uint16_t)(head[1] * 4),
                                     .text = take(&in, 2048, SLICE(""))};
    }
    size_t room = mail_digest_bytes_max(&digest);
    uint8_t *memory = malloc(room);
    CHECK(memory != NULL);
    struct buf mail;
    buf_init(&mail, memory, room);
    mail_digest_put(&mail, &digest);
    CHECK(!mail.overflow);
    mail_laws_hold_for_words(buf_slice(&mail));
    free(memory);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < HEAD_BYTES || size > 1u << 17) {
        return 0;
    }
    struct slice in = slice_of(data + HEAD_BYTES, size - HEAD_BYTES);
    if ((data[0] & 8) != 0) {
        try_digest(data, in);
    } else {
        try_report(data, in);
    }
    return 0;
}
