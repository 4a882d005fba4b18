/*
 * Writes one of the mails of daemon/proto/mail_dsn.h for tests/live/test_dsn_format.py: dsn_samples
 * NAME. Names: failed, delayed, relayed, delivered, hostile, utf8, many, digest.
 */
#include "daemon/proto/mail_dsn.h"

#include <stdio.h>
#include <stdlib.h>

#define T0   UINT64_C(1795508794000) /* Tue, 24 Nov 2026 08:26:34 +0000 */
#define HOUR UINT64_C(3600000)
#define MANY 1000

static struct mail_dsn_recipient recipients[MANY];

static struct mail_dsn common(enum mail_dsn_kind kind)
{
    const struct {
        uint16_t code, enhanced[3];
        struct slice text;
    } answers[] = {
        [MAIL_DSN_FAILED] = {550, {5, 1, 1}, SLICE("5.1.1 No such user\nhere")},
        [MAIL_DSN_DELAYED] = {451, {4, 7, 1}, SLICE("4.7.1 Greylisted")},
        [MAIL_DSN_RELAYED] = {250, {2, 0, 0}, SLICE("2.0.0 Ok: queued as 4XYZ")},
        [MAIL_DSN_DELIVERED] = {250, {0, 0, 0}, SLICE("Ok")},
    };
    recipients[0] = (struct mail_dsn_recipient){
        .address = SLICE("anna@example.jp"),
        .orcpt = SLICE("rfc822;anna+2Bscan@example.jp"),
        .remote = SLICE("relay.example.net"),
        .sentence = "the upstream does not know the recipient",
        .hint = "Check the address.",
        .code = answers[kind].code,
        .enhanced = {answers[kind].enhanced[0], answers[kind].enhanced[1],
                     answers[kind].enhanced[2]},
        .text = answers[kind].text,
        .attempted_ms = T0 + HOUR,
    };
    recipients[1] = recipients[0];
    recipients[1].address = SLICE("\"b c\"@example.jp");
    recipients[1].orcpt = slice_of(NULL, 0);
    return (struct mail_dsn){
        .kind = kind,
        .id = msg_id_make((T0 + HOUR) << 16, 7),
        .original_id = msg_id_make(T0 << 16, 7),
        .hostname = SLICE("mail.example.jp"),
        .date_ms = T0 + HOUR,
        .arrived_ms = T0,
        .retry_until_ms = T0 + 120 * HOUR,
        .sender = SLICE("scanner@example.jp"),
        .envid = SLICE("QQ+2B314159"),
        .subject = SLICE("Gr\xc3\xbc\xc3\x9f"
                         "e aus \xe5\xb7\x9d\xe5\xb4\x8e"),
        .recipients = recipients,
        .recipient_count = 2,
        .original = SLICE("Subject: Gr\xc3\xbc\xc3\x9f"
                          "e\r\nFrom: <scanner@example.jp>\r\nX-Long: folded\r\n\there\r\n\r\n"
                          "a secret in the body\r\n"),
    };
}

static struct mail_dsn hostile(void)
{
    struct mail_dsn dsn = common(MAIL_DSN_FAILED);
    recipients[0].text = SLICE("x\r\nAction: delivered\r\n\r\n--=_tasuki_ \033[31m \0 <b>%n%s</b> "
                               "\xff \xe2\x80\xae gnp.exe");
    recipients[0].remote = SLICE("a\r\nX: y");
    recipients[0].orcpt = SLICE("rfc822;a+0D+0AAction:+20delivered");
    recipients[0].address = SLICE("a\r\nAction: relayed@example.jp");
    recipients[0].hint = "";
    dsn.sender = SLICE("a>\r\nBcc: <victim@example.jp");
    dsn.subject = SLICE("x\r\nBcc: victim@example.jp\r\n\r\nbody");
    dsn.envid = SLICE("a+0D+0AAction:+20delivered");
    dsn.original = SLICE("A: lone\rCR and \0 NUL\nB: LF alone\r\n"
                         "--=_tasuki_068dhxcp80001r00_000\r\nC: last\r\n\r\nbody\r\n");
    return dsn;
}

static struct mail_dsn utf8(void)
{
    struct mail_dsn dsn = common(MAIL_DSN_FAILED);
    dsn.smtputf8 = true;
    dsn.sender = SLICE("j\xc3\xbcrgen@example.jp");
    recipients[0].address = SLICE("\xe5\xb7\x9d@example.jp");
    recipients[0].orcpt = SLICE("utf-8;\\x{5DDD}@example.jp");
    recipients[0].text = SLICE("5.1.1 \xe5\xae\x9b\xe5\x85\x88\xe4\xb8\x8d\xe6\x98\x8e");
    return dsn;
}

static struct mail_dsn many(void)
{
    static char addresses[MANY][32];
    struct mail_dsn dsn = common(MAIL_DSN_FAILED);
    for (unsigned index = 0; index < MANY; index++) {
        (void)snprintf(addresses[index], sizeof addresses[index], "r%u@example.jp", index);
        recipients[index] = recipients[0];
        recipients[index].address = slice_from_str(addresses[index]);
    }
    dsn.recipient_count = MANY;
    return dsn;
}

static void write_out(const struct buf *mail)
{
    if (mail->overflow || fwrite(mail->data, 1, mail->len, stdout) != mail->len) {
        exit(1);
    }
}

static void write_report(struct mail_dsn dsn)
{
    struct buf mail;
    size_t room = mail_dsn_bytes_max(&dsn);
    void *memory = malloc(room);
    if (memory == NULL) {
        exit(1);
    }
    buf_init(&mail, memory, room);
    mail_dsn_put(&mail, &dsn);
    write_out(&mail);
    free(memory);
}

static void write_digest(void)
{
    const struct mail_digest_row rows[] = {
        {.arrived_ms = T0,
         .recipient = SLICE("anna@example.jp"),
         .recipient_count = 3,
         .sentence = "the upstream refuses it for good",
         .code = 550,
         .text = SLICE("5.7.1 \xe6\x8b\x92\xe5\x90\xa6 \033[31m")},
        {.arrived_ms = T0 + HOUR,
         .sender = SLICE("scanner@example.jp"),
         .recipient = SLICE("bert@example.jp"),
         .recipient_count = 1,
         .sentence = "it could not be handed on within give-up"},
    };
    struct mail_digest digest = {.id = msg_id_make((T0 + 24 * HOUR) << 16, 7),
                                 .hostname = SLICE("mail.example.jp"),
                                 .date_ms = T0 + 24 * HOUR,
                                 .to = SLICE("admin@example.jp"),
                                 .count = 5,
                                 .rows = rows,
                                 .row_count = 2};
    struct buf mail;
    static uint8_t memory[65536];
    buf_init(&mail, memory, mail_digest_bytes_max(&digest));
    mail_digest_put(&mail, &digest);
    write_out(&mail);
}

int main(int count, char **words)
{
    const char *name = count == 2 ? words[1] : "";
    if (strcmp(name, "failed") == 0) {
        write_report(common(MAIL_DSN_FAILED));
    } else if (strcmp(name, "delayed") == 0) {
        write_report(common(MAIL_DSN_DELAYED));
    } else if (strcmp(name, "relayed") == 0) {
        write_report(common(MAIL_DSN_RELAYED));
    } else if (strcmp(name, "delivered") == 0) {
        write_report(common(MAIL_DSN_DELIVERED));
    } else if (strcmp(name, "hostile") == 0) {
        write_report(hostile());
    } else if (strcmp(name, "utf8") == 0) {
        write_report(utf8());
    } else if (strcmp(name, "many") == 0) {
        write_report(many());
    } else if (strcmp(name, "digest") == 0) {
        write_digest();
    } else {
        fprintf(stderr, "usage: dsn_samples NAME\n");
        return 64;
    }
    return 0;
}
