/*
 * The mails that the relay writes itself: one report and one digest to the byte, then each encoder
 * with what hurts it, then bounds. tests/live/test_dsn_format.py reads them with a mail reader's
 * library.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#define LAW_REQUIRE(condition) assert_true(condition)
#include "daemon/proto/mail_dsn.h"
#include "tests/unit/mail_laws.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define T0           UINT64_C(1795508794000) /* Tue, 24 Nov 2026 08:26:34 +0000 */
#define HOUR         UINT64_C(3600000)

static struct mail_dsn_recipient recipient;
static struct mail_dsn dsn;
static uint8_t *memory; /* owned: what was written, of its exact bound */
static struct buf mail;

static int set_up(void **state)
{
    (void)state;
    recipient = (struct mail_dsn_recipient){
        .address = SLICE("anna@example.jp"),
        .remote = SLICE("relay.example.net"),
        .sentence = "the upstream does not know the recipient",
        .hint = "Check the address.",
        .code = 550,
        .enhanced = {5, 1, 1},
        .text = SLICE("5.1.1 No such user"),
        .attempted_ms = T0 + HOUR,
    };
    dsn = (struct mail_dsn){
        .kind = MAIL_DSN_FAILED,
        .id = msg_id_make((T0 + HOUR) << 16, 7),
        .original_id = msg_id_make(T0 << 16, 7),
        .hostname = SLICE("mail.example.jp"),
        .date_ms = T0 + HOUR,
        .arrived_ms = T0,
        .retry_until_ms = T0 + 120 * HOUR,
        .sender = SLICE("scanner@example.jp"),
        .subject = SLICE("Scan 12"),
        .recipients = &recipient,
        .recipient_count = 1,
        .original = SLICE("Subject: Scan 12\r\nFrom: <scanner@example.jp>\r\n\r\nbody\r\n"),
    };
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    free(memory);
    memory = NULL;
    return 0;
}

static const uint8_t status_classes[] = {'5', '4', '2', '2'};

static struct slice write_report(void)
{
    size_t room = mail_dsn_bytes_max(&dsn);
    free(memory);
    memory = malloc(room);
    assert_non_null(memory);
    buf_init(&mail, memory, room);
    mail_dsn_put(&mail, &dsn);
    assert_false(mail.overflow);
    mail_laws_hold_for_report(buf_slice(&mail), dsn.smtputf8, dsn.recipient_count,
                              status_classes[dsn.kind]);
    return buf_slice(&mail);
}

static bool contains(struct slice text, const char *part)
{
    return memmem(text.data, text.len, part, strlen(part)) != NULL;
}

static void expect(const char *part)
{
    if (!contains(buf_slice(&mail), part)) {
        print_error("\"%s\" is not in\n%.*s\n", part, (int)mail.len, (const char *)mail.data);
    }
    assert_true(contains(buf_slice(&mail), part));
}

static void expect_none(const char *part)
{
    if (contains(buf_slice(&mail), part)) {
        print_error("\"%s\" is in\n%.*s\n", part, (int)mail.len, (const char *)mail.data);
    }
    assert_false(contains(buf_slice(&mail), part));
}

static void expect_whole(struct slice got, const char *whole)
{
    if (!slice_equal(got, slice_from_str(whole))) {
        print_error("instead of\n%s\ncomes\n%.*s\n", whole, (int)got.len, (const char *)got.data);
    }
    assert_true(slice_equal(got, slice_from_str(whole)));
}

/* ---- whole mails ---- */

static void writes_a_report(void **state)
{
    (void)state;
    dsn.envid = SLICE("QQ+2B314159");
    recipient.orcpt = SLICE("rfc822;anna+2Bscan@example.jp");
    expect_whole(write_report(),
                 "From: Mail relay <MAILER-DAEMON@mail.example.jp>\r\n"
                 "To: <scanner@example.jp>\r\n"
                 "Date: Tue, 24 Nov 2026 09:26:34 +0000\r\n"
                 "Message-ID: <06h0sr712000e000@mail.example.jp>\r\n"
                 "Auto-Submitted: auto-replied\r\n"
                 "MIME-Version: 1.0\r\n"
                 "Subject: Not delivered: Scan 12\r\n"
                 "Content-Type: multipart/report; report-type=delivery-status;\r\n"
                 "\tboundary=\"=_tasuki_06h0sr712000e000_000\"\r\n"
                 "\r\n"
                 "--=_tasuki_06h0sr712000e000_000\r\n"
                 "Content-Description: Notification\r\n"
                 "Content-Type: text/plain; charset=utf-8\r\n"
                 "Content-Transfer-Encoding: quoted-printable\r\n"
                 "\r\n"
                 "Your message could not be delivered to this address:\r\n"
                 "\r\n"
                 "    anna@example.jp\r\n"
                 "        Why: the upstream does not know the recipient.\r\n"
                 "        relay.example.net said: 550 5.1.1 No such user\r\n"
                 "        What to do: Check the address.\r\n"
                 "\r\n"
                 "It will not be tried again. Once the cause is mended, please send the\r\n"
                 "message again.\r\n"
                 "\r\n"
                 "You sent it on Tue, 24 Nov 2026 08:26:34 +0000; its subject stands above.\r\n"
                 "This report was written by the mail relay mail.example.jp.\r\n"
                 "Whoever looks after it finds out more by the number 06h0safjj000e000.\r\n"
                 "\r\n"
                 "--=_tasuki_06h0sr712000e000_000\r\n"
                 "Content-Description: Delivery report\r\n"
                 "Content-Type: message/delivery-status\r\n"
                 "\r\n"
                 "Reporting-MTA: dns; mail.example.jp\r\n"
                 "Original-Envelope-Id: QQ+314159\r\n"
                 "Arrival-Date: Tue, 24 Nov 2026 08:26:34 +0000\r\n"
                 "\r\n"
                 "Original-Recipient: rfc822; anna+scan@example.jp\r\n"
                 "Final-Recipient: rfc822; anna@example.jp\r\n"
                 "Action: failed\r\n"
                 "Status: 5.1.1\r\n"
                 "Remote-MTA: dns; relay.example.net\r\n"
                 "Diagnostic-Code: smtp; 550 5.1.1 No such user\r\n"
                 "Last-Attempt-Date: Tue, 24 Nov 2026 09:26:34 +0000\r\n"
                 "\r\n"
                 "--=_tasuki_06h0sr712000e000_000\r\n"
                 "Content-Description: Header of the message\r\n"
                 "Content-Type: text/rfc822-headers\r\n"
                 "\r\n"
                 "Subject: Scan 12\r\n"
                 "From: <scanner@example.jp>\r\n"
                 "\r\n"
                 "--=_tasuki_06h0sr712000e000_000--\r\n");
}

static void each_kind_has_its_words(void **state)
{
    (void)state;
    dsn.kind = MAIL_DSN_DELAYED;
    (void)write_report();
    expect("\r\nSubject: Still waiting: Scan 12\r\n");
    expect("\r\nYour message has not been delivered yet to this address:\r\n");
    expect("\r\nby itself until Sun, 29 Nov 2026 08:26:34 +0000.\r\n");
    expect("\r\nAction: delayed\r\nStatus: 4.1.1\r\n");
    expect("\r\nWill-Retry-Until: Sun, 29 Nov 2026 08:26:34 +0000\r\n");
    expect("        What to do: ");

    dsn.kind = MAIL_DSN_RELAYED;
    (void)write_report();
    expect("\r\nSubject: Relayed: Scan 12\r\n");
    expect("\r\nYour message was handed on to the next mail server, for this address:\r\n");
    expect("\r\nAction: relayed\r\nStatus: 2.1.1\r\n");
    expect_none("Will-Retry-Until");
    expect_none("Why: ");
    expect_none("What to do: ");

    dsn.kind = MAIL_DSN_DELIVERED;
    (void)write_report();
    expect("\r\nSubject: Delivered: Scan 12\r\n");
    expect("\r\nYour message was delivered to this address:\r\n");
    expect("\r\nAction: delivered\r\nStatus: 2.1.1\r\n");
}

/* U26, RFC 3464 2.3.4: what became of the message decides the class. */
static void status_agrees_with_action(void **state)
{
    (void)state;
    static const struct {
        enum mail_dsn_kind kind;
        uint16_t enhanced[3];
        const char *status;
    } rows[] = {
        {MAIL_DSN_FAILED, {5, 7, 139}, "\r\nStatus: 5.7.139\r\n"},
        {MAIL_DSN_FAILED, {0, 0, 0}, "\r\nStatus: 5.0.0\r\n"},
        {MAIL_DSN_FAILED, {4, 2, 2}, "\r\nStatus: 5.2.2\r\n"},
        {MAIL_DSN_FAILED, {5, 999, 999}, "\r\nStatus: 5.999.999\r\n"},
        {MAIL_DSN_FAILED, {5, 1000, 65535}, "\r\nStatus: 5.0.0\r\n"},
        {MAIL_DSN_DELAYED, {0, 0, 0}, "\r\nStatus: 4.0.0\r\n"},
        {MAIL_DSN_DELAYED, {5, 7, 8}, "\r\nStatus: 4.7.8\r\n"},
        {MAIL_DSN_RELAYED, {0, 0, 0}, "\r\nStatus: 2.0.0\r\n"},
        {MAIL_DSN_RELAYED, {2, 1, 5}, "\r\nStatus: 2.1.5\r\n"},
        {MAIL_DSN_DELIVERED, {0, 0, 0}, "\r\nStatus: 2.0.0\r\n"},
    };
    for (size_t index = 0; index < COUNT(rows); index++) {
        dsn.kind = rows[index].kind;
        memcpy(recipient.enhanced, rows[index].enhanced, sizeof recipient.enhanced);
        (void)write_report();
        expect(rows[index].status);
    }
}

static void what_is_not_known_is_left_out(void **state)
{
    (void)state;
    recipient = (struct mail_dsn_recipient){
        .address = SLICE("anna@example.jp"), .sentence = "", .hint = ""};
    dsn.original = slice_of(NULL, 0);
    dsn.subject = SLICE(" \t");
    (void)write_report();
    expect("\r\nSubject: Not delivered: (no subject)\r\n");
    expect("\r\n    anna@example.jp\r\n\r\nIt will not");
    expect("Final-Recipient: rfc822; anna@example.jp\r\nAction: failed\r\nStatus: 5.0.0\r\n\r\n");
    expect("Content-Type: text/rfc822-headers\r\n\r\n\r\n--=_tasuki_");
    expect_none("Original-Envelope-Id");
    expect_none("Original-Recipient");
    expect_none("Remote-MTA");
    expect_none("Diagnostic-Code");
    expect_none("Last-Attempt-Date");
    recipient.code = 421;
    (void)write_report();
    expect("\r\n        The mail server said: 421\r\n");
    expect("\r\nDiagnostic-Code: smtp; 421\r\n");
    recipient.code = 0;
    recipient.text = SLICE("certificate has expired");
    (void)write_report();
    expect("\r\n        Details: certificate has expired\r\n");
    expect("\r\nDiagnostic-Code: X-tasuki; certificate has expired\r\n");
}

/* ---- text from outside ---- */

/* U5, RFC 3464 2.3.6. */
static void an_upstreams_words_stay_words(void **state)
{
    (void)state;
    const struct {
        struct slice text;
        const char *diagnostic;
        const char *words;
    } rows[] = {
        {SLICE("a\r\nStatus: 2.0.0"), "smtp; 550 a Status: 2.0.0\r\n", "550 a? Status: 2.0.0\r\n"},
        {SLICE("a\n\n--=_tasuki_x"), "smtp; 550 a --=_tasuki_x\r\n", "550 a  --=3D_tasuki_x\r\n"},
        {SLICE("a\0b\033[2J\x7f"), "smtp; 550 a?b?[2J?\r\n", "550 a?b?[2J?\r\n"},
        {SLICE("<b>&amp;\"'</b>\\"), "smtp; 550 <b>&amp;\"'</b>\\\r\n",
         "550 <b>&amp;\"'</b>\\\r\n"},
        {SLICE("%n%s%%"), "smtp; 550 %n%s%%\r\n", "550 %n%s%%\r\n"},
        {SLICE("gr\xc3\xbc\xc3\x9f \xff"), "smtp; 550 gr\\x{FC}\\x{DF} ?\r\n",
         "550 gr=C3=BC=C3=9F ?\r\n"},
        {SLICE("\xe5\xb7\x9d \xf0\x9f\x93\xa8"), "smtp; 550 \\x{5DDD} \\x{1F4E8}\r\n",
         "550 =E5=B7=9D =F0=9F=93=A8\r\n"},
        {SLICE("x\xe2\x80\xaegpj\xc2\x9b"), "smtp; 550 x\\x{202E}gpj\\x{9B}\r\n",
         "550 x\\x{202E}gpj\\x{9B}\r\n"},
        {SLICE("\xc0\xaf\xed\xa0\x80"), "smtp; 550 ?????\r\n", "550 ?????\r\n"},
        {SLICE("  \t \r\n"), "smtp; 550\r\n", "550\r\n"},
    };
    for (size_t index = 0; index < COUNT(rows); index++) {
        recipient.text = rows[index].text;
        (void)write_report();
        expect(rows[index].diagnostic);
        expect(rows[index].words);
    }
}

static void long_words_are_folded(void **state)
{
    (void)state;
    static uint8_t text[2000];
    for (size_t index = 0; index < sizeof text; index++) {
        text[index] = index % 12 == 11 ? ' ' : 'w';
    }
    recipient.text = slice_of(text, sizeof text);
    (void)write_report();
    expect("\r\nDiagnostic-Code: smtp; 550 wwwwwwwwwww wwwwwwwwwww wwwwwwwwwww wwwwwwwwwww\r\n"
           " wwwwwwwwwww wwwwwwwwwww ");
    memset(text, 0xff, sizeof text);
    (void)write_report();
    memset(text, 'x', sizeof text);
    (void)write_report();
    for (size_t index = 0; index + 1 < sizeof text; index += 2) {
        memcpy(text + index, "\xdf\xbf", 2); /* 7 bytes for 2 */
    }
    (void)write_report();
    expect("\\x{7FF}\r\n \\x{7FF}");
}

static void subjects_are_encoded(void **state)
{
    (void)state;
    const struct {
        struct slice subject;
        const char *field;
    } rows[] = {
        {SLICE("a\r\nBcc: x@example.jp\r\n\r\nb"), "a? Bcc: x@example.jp? ? b\r\n"},
        {SLICE("a\tb\033\0c\x7f"), "a b??c?\r\n"},
        {SLICE("Gr\xc3\xbc\xc3\x9f"
               "e"),
         "=?UTF-8?B?R3LDvMOfZQ==?=\r\n"},
        {SLICE("Gr\xfc\xdf"
               "e"),
         "Gr??e\r\n"},
        {SLICE("cut \xe5\xb7\x9d\xe5\xb4"), "=?UTF-8?B?Y3V0IOW3nQ==?= ...\r\n"},
        {SLICE("cut \xe5"), "cut ...\r\n"},
        {SLICE("x \xe2\x80\xae gnp.exe"), "x \\x{202E} gnp.exe\r\n"},
        {SLICE("=?iso-2022-jp?B?GyRCJDMkcyRLJEEkTxsoQg==?="),
         "=?iso-2022-jp?B?GyRCJDMkcyRLJEEkTxsoQg==?=\r\n"},
        {SLICE("=?utf-8?Q?a?= =?utf-8?Q?b"), "=?utf-8?Q?a?= ...\r\n"},
        {SLICE("=?utf-8?Q?a?= =?utf-8?Q?="), "=?utf-8?Q?a?= ...\r\n"},
        {SLICE("=?utf-8?Q?never-ends"), "...\r\n"},
        {SLICE("what =? and ?="), "what =? and ?=\r\n"},
    };
    for (size_t index = 0; index < COUNT(rows); index++) {
        dsn.subject = rows[index].subject;
        (void)write_report();
        char field[200] = "";
        struct buf expected;
        buf_init(&expected, field, sizeof field - 1);
        buf_put_str(&expected, "\r\nSubject: Not delivered: ");
        buf_put_str(&expected, rows[index].field);
        expect(field);
    }
}

/* 45 bytes in an encoded-word, and never half a character. */
static void long_subjects_are_many_words(void **state)
{
    (void)state;
    static uint8_t text[128];
    for (size_t index = 0; index + 2 < sizeof text; index += 3) {
        memcpy(text + index, "\xe5\xb7\x9d", 3);
    }
    dsn.subject = slice_of(text, 126);
    (void)write_report();
    expect("\r\nSubject: Not delivered:\r\n"
           " =?UTF-8?B?5bed5bed5bed5bed5bed5bed5bed5bed5bed5bed5bed5bed5bed5bed5bed?=\r\n"
           " =?UTF-8?B?5bed5bed5bed5bed5bed5bed5bed5bed5bed5bed5bed5bed5bed5bed5bed?=\r\n"
           " =?UTF-8?B?5bed5bed5bed5bed5bed5bed5bed5bed5bed5bed5bed5bed?=\r\n");
}

static void addresses_cannot_break_out(void **state)
{
    (void)state;
    dsn.sender = SLICE("a>\r\nBcc: <b@example.jp");
    recipient.address = SLICE("a\r\n\r\nAction: relayed");
    recipient.remote = SLICE("x\r\nAction: relayed");
    dsn.hostname = SLICE("h>\r\nBcc: b");
    (void)write_report();
    expect("\r\nTo: <a???Bcc: ?b@example.jp>\r\n");
    expect("\r\nFinal-Recipient: rfc822; a? ? Action: relayed\r\n");
    expect("\r\nRemote-MTA: dns; x??Action:?relayed\r\n");
    expect("\r\nReporting-MTA: dns; h???Bcc:?b\r\n");

    (void)set_up(NULL);
    dsn.sender = SLICE("\"a > \\\" < b\"@example.jp");
    recipient.address = SLICE("\"a b\"@[192.0.2.1]");
    (void)write_report();
    expect("\r\nTo: <\"a > \\\" < b\"@example.jp>\r\n");
    expect("\r\nFinal-Recipient: rfc822; \"a b\"@[192.0.2.1]\r\n");
}

/* RFC 3461 4.2, 4.4: xtext as it came, decoded; what is not well formed is left out. */
static void original_recipients_are_decoded(void **state)
{
    (void)state;
    const struct {
        struct slice orcpt;
        const char *field; /* NULL: none */
    } rows[] = {
        {SLICE("rfc822;a+2Bb+3Dc@example.jp"), "rfc822; a+b=c@example.jp\r\n"},
        {SLICE("X400;/S=a/"), "X400; /S=a/\r\n"},
        {SLICE("rfc822;a+0D+0AAction:+20relayed"), "rfc822; a? Action: relayed\r\n"},
        {SLICE("rfc822;a+00+1B+FF"), "rfc822; a???\r\n"},
        {SLICE("utf-8;\\x{5DDD}@example.jp"), "utf-8; \\x{5DDD}@example.jp\r\n"},
        {SLICE("utf-8;\xe5\xb7\x9d@example.jp"), "utf-8; \\x{5DDD}@example.jp\r\n"},
        {SLICE("rfc822;a+2"), NULL},
        {SLICE("rfc822;a+2b"), NULL},
        {SLICE("rfc822;+"), NULL},
        {SLICE("rfc822;"), NULL},
        {SLICE("rfc822"), NULL},
        {SLICE(";a@b"), NULL},
        {SLICE("rfc\r\n822;a@b"), NULL},
    };
    for (size_t index = 0; index < COUNT(rows); index++) {
        recipient.orcpt = rows[index].orcpt;
        (void)write_report();
        if (rows[index].field == NULL) {
            expect_none("Original-Recipient");
        } else {
            expect("\r\nOriginal-Recipient: ");
            expect(rows[index].field);
        }
    }
    static uint8_t wide[MAIL_DSN_XTEXT_BYTES_MAX];
    for (size_t index = 0; index + 1 < sizeof wide; index += 2) {
        memcpy(wide + index, "\xdf\xbf", 2);
    }
    memcpy(wide, "utf-8;", 6);
    recipient.orcpt = slice_of(wide, sizeof wide);
    (void)write_report();
    expect_none("Original-Recipient"); /* 1,700 bytes on one line */
    dsn.envid = SLICE("a+0D+0AStatus:+202.0.0+2");
    (void)write_report();
    expect("\r\nOriginal-Envelope-Id: a? Status: 2.0.0+2\r\n");
}

/* RFC 6533. */
static void goes_beyond_ascii_where_it_may(void **state)
{
    (void)state;
    dsn.sender = SLICE("j\xc3\xbcrgen@example.jp");
    dsn.subject = SLICE("Gr\xc3\xbc\xc3\x9f \xe2\x80\xae");
    recipient.address = SLICE("\xe5\xb7\x9d+=@example.jp");
    recipient.text = SLICE("\xe5\xae\x9b\xe5\x85\x88\xff");
    dsn.original = SLICE("Subject: \xe5\xae\x9b \xff\r\n\r\n");
    (void)write_report();
    expect("\r\nTo: <j?rgen@example.jp>\r\n");
    expect("\r\nFinal-Recipient: utf-8; \\x{5DDD}\\x{2B}\\x{3D}@example.jp\r\n");
    expect("\r\nSubject: ? ?\r\n");
    expect("report-type=delivery-status;");

    dsn.smtputf8 = true;
    (void)write_report();
    expect("\r\nTo: <j\xc3\xbcrgen@example.jp>\r\n");
    expect("\r\nSubject: Not delivered: Gr\xc3\xbc\xc3\x9f \\x{202E}\r\n");
    expect("report-type=global-delivery-status;");
    expect("\r\nContent-Type: message/global-delivery-status\r\n");
    expect("\r\nFinal-Recipient: utf-8; \xe5\xb7\x9d+=@example.jp\r\n");
    expect("\r\nDiagnostic-Code: smtp; 550 \xe5\xae\x9b\xe5\x85\x88?\r\n");
    expect("\r\nContent-Type: message/global-headers\r\n");
    expect("\r\nSubject: \xe5\xae\x9b ?\r\n");
}

static void one_reason_stands_once(void **state)
{
    (void)state;
    struct mail_dsn_recipient three[3] = {recipient, recipient, recipient};
    three[1].address = SLICE("bert@example.jp");
    three[2].address = SLICE("carl@example.jp");
    three[2].code = 552;
    dsn.recipients = three;
    dsn.recipient_count = 3;
    (void)write_report();
    expect("to these 3 addresses:\r\n\r\n"
           "    anna@example.jp\r\n"
           "    bert@example.jp\r\n"
           "        Why: the upstream does not know the recipient.\r\n"
           "        relay.example.net said: 550 5.1.1 No such user\r\n"
           "        What to do: Check the address.\r\n"
           "\r\n"
           "    carl@example.jp\r\n"
           "        Why: the upstream does not know the recipient.\r\n"
           "        relay.example.net said: 552 5.1.1 No such user\r\n");
}

/* ---- the original's header ---- */

static void returns_the_header_alone(void **state)
{
    (void)state;
    const struct {
        struct slice original;
        const char *part;
    } rows[] = {
        {SLICE("A: b\r\n\r\nsecret"), "headers\r\n\r\nA: b\r\n\r\n--="},
        {SLICE("A: b\nC: d\n\nsecret"), "headers\r\n\r\nA: b\r\nC: d\r\n\r\n--="},
        {SLICE("A: b\r\n\nsecret"), "headers\r\n\r\nA: b\r\n\r\n--="},
        {SLICE("A: b"), "headers\r\n\r\nA: b\r\n\r\n--="},
        {SLICE("A: b\r"), "headers\r\n\r\nA: b\r\n\r\n--="},
        {SLICE("\r\nsecret"), "headers\r\n\r\n\r\n--="},
        {SLICE("A: \r \0 \033$B \xff\r\r\n\r\n"), "headers\r\n\r\nA: ? ? \033$B ??\r\n\r\n--="},
        {SLICE("A: b\r\n \t\r\n\r\n"), "headers\r\n\r\nA: b\r\n \t\r\n\r\n--="},
    };
    for (size_t index = 0; index < COUNT(rows); index++) {
        dsn.original = rows[index].original;
        (void)write_report();
        expect(rows[index].part);
        expect_none("secret");
    }
}

static void a_long_header_is_cut_at_a_line(void **state)
{
    (void)state;
    static uint8_t original[MAIL_DSN_ORIGINAL_BYTES_MAX + 100];
    memset(original, 'x', sizeof original);
    memcpy(original, "A: ", 3);
    dsn.original = slice_of(original, sizeof original);
    (void)write_report();
    expect("headers\r\n\r\n\r\n--="); /* not one line of it fits */
    memcpy(original + 20000, "\r\nB: ", 5);
    (void)write_report();
    expect_none("\r\nB: ");
    expect("xxxx\r\n xxxx"); /* 19,998 bytes in one line */
    memcpy(original + 32000, "\r\nC: ", 5);
    (void)write_report();
    expect("\r\nB: x");
    expect_none("\r\nC: ");
    for (size_t index = 0; index + 1 < sizeof original; index += 2) {
        memcpy(original + index, "a\n", 2);
    }
    (void)write_report();
    /* Beyond ASCII no character is broken by a fold. */
    dsn.smtputf8 = true;
    for (size_t index = 0; index + 3 < sizeof original; index += 4) {
        memcpy(original + index, "\xf0\x9f\x93\xa8", 4);
    }
    memcpy(original + 30000, "\r\n\r\n", 4);
    (void)write_report();
    expect_none("?");
}

/* The boundary is one that the original does not have, even if it has all but one. */
static void the_boundary_is_free(void **state)
{
    (void)state;
    dsn.original = SLICE("--=_tasuki_06h0sr712000e000_000\r\n"
                         "A: =_tasuki_06h0sr712000e000_002 =_tasuki_06h0sr712000e000_xyz\r\n"
                         "--=_tasuki_06h0sr712000e000_001--\r\n"
                         "--=_tasuki_06h0sr712000e000_00\r\n");
    (void)write_report();
    expect("\tboundary=\"=_tasuki_06h0sr712000e000_003\"\r\n");

    static uint8_t original[MAIL_DSN_ORIGINAL_BYTES_MAX];
    struct buf all;
    buf_init(&all, original, sizeof original);
    unsigned count = 0;
    while (buf_room(&all) >= 40) {
        buf_printf(&all, "--=_tasuki_06h0sr712000e000_%03x\r\n", count);
        count++;
    }
    dsn.original = buf_slice(&all);
    (void)write_report();
    char field[64] = "";
    struct buf expected;
    buf_init(&expected, field, sizeof field - 1);
    buf_printf(&expected, "boundary=\"=_tasuki_06h0sr712000e000_%03x\"\r\n", count);
    expect(field);
    assert_true(count > 900);
}

/* ---- bounds ---- */

static void is_all_or_nothing(void **state)
{
    (void)state;
    size_t whole = write_report().len;
    for (size_t room = 0; room <= whole; room++) {
        uint8_t *exact = malloc(room + 3);
        struct buf to;
        assert_non_null(exact);
        buf_init(&to, exact, room + 3);
        buf_put_str(&to, "abc");
        mail_dsn_put(&to, &dsn);
        assert_int_equal(to.overflow, room < whole);
        assert_int_equal(to.len, room < whole ? 3 : 3 + whole);
        mail_dsn_put(&to, &dsn);
        assert_true(to.overflow);
        assert_int_equal(to.len, room < whole ? 3 : 3 + whole);
        free(exact);
    }
}

/* The longest texts of the worst kind for each place: they fit into the bound, and into lines. */
static void the_bound_holds(void **state)
{
    (void)state;
    static const char *const fillings[] = {"x",    " ",        "+",        "=",
                                           "\xff", "\xc2\x9b", "\xdf\xbf", "\xe2\x80\xae",
                                           "\n",   "\0",       "a ",       "\xf0\x9f\x93\xa8"};
    static struct mail_dsn_recipient all[MAIL_DSN_RECIPIENTS_MAX];
    static uint8_t text[MAIL_DSN_ORIGINAL_BYTES_MAX];
    for (size_t filling = 0; filling < COUNT(fillings); filling++) {
        size_t len = strlen(fillings[filling]);
        for (size_t index = 0; index < sizeof text; index++) {
            text[index] = (uint8_t)fillings[filling][len == 0 ? 0 : index % len];
        }
        for (uint32_t index = 0; index < COUNT(all); index++) {
            all[index] = (struct mail_dsn_recipient){
                .address = slice_of(text, SMTP_PATH_BYTES_MAX),
                .orcpt = slice_of(text, MAIL_DSN_XTEXT_BYTES_MAX),
                .remote = slice_of(text, SMTP_DOMAIN_BYTES_MAX),
                .sentence = "why",
                .hint = "what",
                .code = (uint16_t)(500 + index % 60),
                .enhanced = {5, 999, 999},
                .text = slice_of(text, sizeof text),
                .attempted_ms = UINT64_C(253402300799000),
            };
        }
        dsn.kind = filling % 2 == 0 ? MAIL_DSN_DELAYED : MAIL_DSN_FAILED;
        dsn.hostname = slice_of(text, SMTP_DOMAIN_BYTES_MAX);
        dsn.sender = slice_of(text, SMTP_PATH_BYTES_MAX);
        dsn.envid = slice_of(text, MAIL_DSN_XTEXT_BYTES_MAX);
        dsn.subject = slice_of(text, sizeof text);
        dsn.original = slice_of(text, sizeof text);
        dsn.recipients = all;
        for (unsigned count = 1; count <= COUNT(all); count += COUNT(all) - 1) {
            dsn.recipient_count = count;
            dsn.smtputf8 = false;
            (void)write_report();
            dsn.smtputf8 = true;
            (void)write_report();
        }
    }
}

static void many_recipients_are_named_in_the_report(void **state)
{
    (void)state;
    static struct mail_dsn_recipient all[MAIL_DSN_RECIPIENTS_MAX];
    static char addresses[MAIL_DSN_RECIPIENTS_MAX][32];
    for (uint32_t index = 0; index < COUNT(all); index++) {
        (void)snprintf(addresses[index], sizeof addresses[index], "r%u@example.jp", index);
        all[index] = recipient;
        all[index].address = slice_from_str(addresses[index]);
    }
    dsn.recipients = all;
    dsn.recipient_count = COUNT(all);
    struct slice whole = write_report();
    expect("to these 1000 addresses:\r\n\r\n    r0@example.jp\r\n");
    expect("\r\n    r19@example.jp\r\n        Why: ");
    expect("\r\n    and 980 more, which the attached report names.\r\n\r\nIt will not");
    expect_none("\r\n    r20@example.jp");
    expect("\r\nFinal-Recipient: rfc822; r999@example.jp\r\n");
    print_message("1,000 recipients: %zu bytes, bound %zu\n", whole.len, mail_dsn_bytes_max(&dsn));
}

/* ---- the digest ---- */

static struct mail_digest_row digest_rows[MAIL_DIGEST_ROWS_MAX];
static struct mail_digest digest;

static void set_up_digest(void)
{
    digest_rows[0] = (struct mail_digest_row){.id = msg_id_make(T0 << 16, 7),
                                              .arrived_ms = T0,
                                              .recipient = SLICE("anna@example.jp"),
                                              .recipient_count = 3,
                                              .sentence = "the upstream refuses it for good",
                                              .code = 550,
                                              .text = SLICE("5.7.1 no\n\033")};
    digest_rows[1] =
        (struct mail_digest_row){.id = msg_id_make((T0 << 16) + 1, 7),
                                 .arrived_ms = T0 + HOUR,
                                 .sender = SLICE("s\xc3\xbc@example.jp"),
                                 .recipient = SLICE("bert@example.jp"),
                                 .recipient_count = 1,
                                 .sentence = "it could not be handed on within give-up"};
    digest = (struct mail_digest){.id = msg_id_make((T0 + 24 * HOUR) << 16, 7),
                                  .hostname = SLICE("mail.example.jp"),
                                  .date_ms = T0 + 24 * HOUR,
                                  .to = SLICE("admin@example.jp"),
                                  .count = 5,
                                  .rows = digest_rows,
                                  .row_count = 2};
}

static struct slice write_digest(void)
{
    size_t room = mail_digest_bytes_max(&digest);
    free(memory);
    memory = malloc(room);
    assert_non_null(memory);
    buf_init(&mail, memory, room);
    mail_digest_put(&mail, &digest);
    assert_false(mail.overflow);
    mail_laws_hold_for_words(buf_slice(&mail));
    return buf_slice(&mail);
}

static void writes_a_digest(void **state)
{
    (void)state;
    set_up_digest();
    expect_whole(write_digest(),
                 "From: Mail relay <MAILER-DAEMON@mail.example.jp>\r\n"
                 "To: <admin@example.jp>\r\n"
                 "Date: Wed, 25 Nov 2026 08:26:34 +0000\r\n"
                 "Message-ID: <06h13m2ej000e000@mail.example.jp>\r\n"
                 "Auto-Submitted: auto-generated\r\n"
                 "MIME-Version: 1.0\r\n"
                 "Subject: tasuki on mail.example.jp: 5 messages could not be delivered nor\r\n"
                 " reported\r\n"
                 "Content-Type: text/plain; charset=utf-8\r\n"
                 "Content-Transfer-Encoding: quoted-printable\r\n"
                 "\r\n"
                 "These messages could not be delivered, and their senders could not be\r\n"
                 "told: they have none (<>), or are reports themselves. They stay in the\r\n"
                 "queue until you decide.\r\n"
                 "\r\n"
                 "06h0safjj000e000   Tue, 24 Nov 2026 08:26:34 +0000\r\n"
                 "    From:  <> (nobody to report to)\r\n"
                 "    To:    anna@example.jp and 2 more\r\n"
                 "    Why:   the upstream refuses it for good\r\n"
                 "    Words: 550 5.7.1 no ?\r\n"
                 "\r\n"
                 "06h0safjj000e001   Tue, 24 Nov 2026 09:26:34 +0000\r\n"
                 "    From:  s=C3=BC@example.jp\r\n"
                 "    To:    bert@example.jp\r\n"
                 "    Why:   it could not be handed on within give-up\r\n"
                 "\r\n"
                 "... and 3 more.\r\n"
                 "\r\n"
                 "What to type on mail.example.jp:\r\n"
                 "\r\n"
                 "    tasukictl queue state:failed    lists them all\r\n"
                 "    tasukictl show ID               all about one, ID as above\r\n"
                 "    tasukictl retry ID              tries it again\r\n"
                 "    tasukictl delete ID             removes it\r\n");
    digest.count = 1;
    digest.row_count = 1;
    (void)write_digest();
    expect(": 1 message could not be delivered nor\r\n reported\r\n");
    expect("\r\nThis message could not be delivered, and its sender could not be told:\r\n");
    expect_none(" more.\r\n");
}

static void the_digests_bound_holds(void **state)
{
    (void)state;
    static const uint8_t fillings[] = {'x', ' ', '=', 0xff, '\n', 0, 0xc2};
    static uint8_t text[1000];
    set_up_digest();
    for (size_t filling = 0; filling < COUNT(fillings); filling++) {
        memset(text, fillings[filling], sizeof text);
        for (size_t index = 0; index < COUNT(digest_rows); index++) {
            digest_rows[index].sender = slice_of(text, SMTP_PATH_BYTES_MAX);
            digest_rows[index].recipient = slice_of(text, SMTP_PATH_BYTES_MAX);
            digest_rows[index].recipient_count = UINT32_MAX;
            digest_rows[index].sentence = "why";
            digest_rows[index].code = 550;
            digest_rows[index].text = slice_of(text, sizeof text);
        }
        digest.hostname = slice_of(text, SMTP_DOMAIN_BYTES_MAX);
        digest.to = slice_of(text, SMTP_PATH_BYTES_MAX);
        digest.count = UINT64_MAX;
        digest.row_count = COUNT(digest_rows);
        (void)write_digest();
        digest.row_count = 0;
        (void)write_digest();
    }
    uint8_t small[100];
    struct buf to;
    buf_init(&to, small, sizeof small);
    mail_digest_put(&to, &digest);
    assert_true(to.overflow && to.len == 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(writes_a_report),
        TEST(each_kind_has_its_words),
        TEST(status_agrees_with_action),
        TEST(what_is_not_known_is_left_out),
        TEST(an_upstreams_words_stay_words),
        TEST(long_words_are_folded),
        TEST(subjects_are_encoded),
        TEST(long_subjects_are_many_words),
        TEST(addresses_cannot_break_out),
        TEST(original_recipients_are_decoded),
        TEST(goes_beyond_ascii_where_it_may),
        TEST(one_reason_stands_once),
        TEST(returns_the_header_alone),
        TEST(a_long_header_is_cut_at_a_line),
        TEST(the_boundary_is_free),
        TEST(is_all_or_nothing),
        TEST(the_bound_holds),
        TEST(many_recipients_are_named_in_the_report),
        TEST(writes_a_digest),
        TEST(the_digests_bound_holds),
    };
#undef TEST
    return cmocka_run_group_tests(tests, NULL, NULL);
}
