/*
 * The SMTP server machine: what transcripts cannot say well (sizes, counts, time, where bytes lie),
 * and the laws for all machines. What it says to each command is in tests/dialog.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#define LAW_REQUIRE(condition) assert_true(condition)
#include "daemon/proto/smtp_server_parts.h"
#include "tests/unit/smtp_server_owner.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define TO_CONTENT   "HELO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n"

static struct owner owner;
static struct law_trace trace;

static struct law_subject begin(void)
{
    struct law_subject m = owner_law_subject(&owner);
    law_trace_init(&trace);
    owner_begin(&owner, LAW_NOW_MS);
    (void)law_settle(&m, LAW_SEND_AT_ONCE, LAW_NOW_MS, &trace);
    return m;
}

static size_t feed_at(struct slice in, uint64_t now_ms)
{
    struct law_subject m = owner_law_subject(&owner);
    return law_feed(&m, in, LAW_SEND_AT_ONCE, now_ms, &trace);
}

static void feed(struct slice in)
{
    (void)feed_at(in, LAW_NOW_MS);
}

static void feed_str(const char *text)
{
    feed(slice_from_str(text));
}

static void fill(uint8_t byte, size_t count)
{
    uint8_t *bytes = malloc(count + 1);
    assert_non_null(bytes);
    memset(bytes, byte, count);
    feed(slice_of(bytes, count));
    free(bytes);
}

/* The last line that was said. */
static struct slice last_reply(void)
{
    struct slice said = buf_slice(&trace.output);
    assert_true(said.len >= 2 && said.data[said.len - 1] == '\n');
    said.len -= 2;
    size_t before = slice_find_last(said, '\n');
    return before == said.len ? said : slice_tail(said, before + 1);
}

static size_t reply_count(void)
{
    size_t count = 0;
    struct slice said = buf_slice(&trace.output);
    while (said.len > 0) {
        count += said.data[3] == ' ' ? 1 : 0;
        said = slice_tail(said, slice_find(said, '\n') + 1);
    }
    return count;
}

static void expect_reply(const char *start)
{
    if (!slice_starts_with(last_reply(), slice_from_str(start))) {
        print_error("instead of %s: %.*s\n", start, (int)last_reply().len,
                    (const char *)last_reply().data);
    }
    assert_true(slice_starts_with(last_reply(), slice_from_str(start)));
}

static bool was_told(const char *line)
{
    struct slice told = buf_slice(&trace.notes);
    while (told.len > 0) {
        size_t end = slice_find(told, '\n');
        if (slice_equal(slice_head(told, end), slice_from_str(line))) {
            return true;
        }
        told = slice_tail(told, end + 1);
    }
    return false;
}

static int set_up(void **state)
{
    (void)state;
    memset(&owner, 0, sizeof owner);
    owner.limits = owner_limits();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    owner_end(&owner);
    return 0;
}

/* ---- memory ---- */

static void is_small(void **state)
{
    (void)state;
    assert_true(sizeof(struct smtp_server) <= 3072);
    assert_true(smtp_server_line_bytes(&owner.limits) == 2048);
    owner.limits.auth_mechanisms = "PLAIN";
    assert_true(smtp_server_line_bytes(&owner.limits) <= 12290);
}

/* A line that lies whole in the input is not copied: what is told points into the input. */
static void whole_lines_are_read_in_place(void **state)
{
    (void)state;
    (void)begin();
    static const char in[] = "EHLO scanner\r\nMAIL FROM:<a@b>\r\n";
    struct smtp_server_event event;
    size_t used = smtp_server_feed(&owner.s, slice_from_str(in), LAW_NOW_MS);
    assert_int_equal(used, strlen("EHLO scanner\r\n"));
    assert_true(smtp_server_next(&owner.s, &event));
    assert_ptr_equal(event.text.data, in + strlen("EHLO "));
    assert_false(smtp_server_next(&owner.s, &event));
    used += smtp_server_feed(&owner.s, slice_from_str(in + used), LAW_NOW_MS);
    assert_int_equal(used, strlen(in));
    assert_true(smtp_server_next(&owner.s, &event));
    assert_ptr_equal(event.path.address.data, in + strlen("EHLO scanner\r\nMAIL FROM:<"));
    assert_int_equal(owner.s.state, SMTP_SERVER_ASKED);
    /* While it waits for the answer, nothing is used. */
    assert_int_equal(smtp_server_feed(&owner.s, SLICE("RSET\r\n"), LAW_NOW_MS), 0);
}

static void content_is_borrowed(void **state)
{
    (void)state;
    (void)begin();
    feed_str(TO_CONTENT);
    static const char in[] = "Subject: x\r\n\r\nbody\r\n.\r\nQUIT\r\n";
    struct smtp_server_event event;
    size_t used = smtp_server_feed(&owner.s, slice_from_str(in), LAW_NOW_MS);
    assert_true(smtp_server_next(&owner.s, &event));
    assert_int_equal(event.type, SMTP_SERVER_EVENT_CONTENT);
    assert_ptr_equal(event.text.data, in);
    assert_int_equal(event.text.len, strlen("Subject: x\r\n\r\nbody\r\n"));
    assert_int_equal(used, event.text.len);
}

/* ---- lines ---- */

static void command_of(size_t len, const char *verb)
{
    feed_str(verb);
    fill('x', len - strlen(verb) - 2);
    feed_str("\r\n");
}

static void command_lines_have_a_limit(void **state)
{
    (void)state;
    (void)begin();
    command_of(513, "NOOP ");
    expect_reply("250 2.0.0");
    command_of(2048, "NOOP ");
    expect_reply("250 2.0.0");
    command_of(2049, "NOOP ");
    expect_reply("500 5.5.2");
    command_of(3000, "EHLO ");
    expect_reply("500 5.5.2");
    command_of(2000, "EHLO ");
    expect_reply("501 5.5.4");
    command_of(100000, "NOOP ");
    expect_reply("500 5.5.2");
    feed_str("NOOP\r\n");
    expect_reply("250 2.0.0");
    assert_int_equal(reply_count(), 8);
}

static void longest_command_may_come_in_parts(void **state)
{
    (void)state;
    static uint8_t line[2049];
    for (size_t len = 2047; len <= 2049; len++) {
        memset(line, 'x', sizeof line);
        memcpy(line, "NOOP ", 5);
        memcpy(line + len - 2, "\r\n", 2);
        for (size_t cut = 0; cut < 4; cut++) {
            (void)begin();
            feed(slice_head(slice_of(line, len), len - cut));
            feed(slice_tail(slice_of(line, len), len - cut));
            expect_reply(len <= 2048 ? "250 2.0.0" : "500 5.5.2");
        }
    }
}

static void endless_line_is_closed(void **state)
{
    (void)state;
    (void)begin();
    for (unsigned count = 0; count < 100; count++) {
        fill('x', 1u << 20);
    }
    expect_reply("421 4.7.0");
    assert_true(was_told("close endless-line"));
    assert_int_equal(reply_count(), 2);
    assert_int_equal(owner.s.state, SMTP_SERVER_CLOSING);
}

/* The verdict does not hang on how the end of the bound falls. */
static void long_lines_end_alike_at_any_cut(void **state)
{
    (void)state;
    static uint8_t line[SMTP_SERVER_LINE_DISCARD_BYTES_MAX + 4];
    memset(line, 'x', sizeof line);
    for (size_t len = SMTP_SERVER_LINE_DISCARD_BYTES_MAX - 2;
         len <= SMTP_SERVER_LINE_DISCARD_BYTES_MAX + 2; len++) {
        bool fits = len <= SMTP_SERVER_LINE_DISCARD_BYTES_MAX;
        line[len - 2] = '\r';
        line[len - 1] = '\n';
        for (size_t cut = 0; cut < 6; cut++) {
            (void)begin();
            feed(slice_head(slice_of(line, len), len - cut));
            feed(slice_tail(slice_of(line, len), len - cut));
            expect_reply(fits ? "500 5.5.2" : "421 4.7.0");
        }
        line[len - 2] = 'x';
        line[len - 1] = 'x';
    }
}

static void auth_lines_are_longer(void **state)
{
    (void)state;
    owner.limits.auth_mechanisms = "PLAIN";
    owner.answers[0] = (struct owner_answer){.kind = OWNER_CHALLENGE, .text = "go"};
    owner.answers[1] = (struct owner_answer){OWNER_REFUSE, 535, "5.7.8", "no"};
    (void)begin();
    feed_str("EHLO x\r\nAUTH PLAIN\r\n");
    expect_reply("334 Z28=");
    fill('A', 12288);
    feed_str("\r\n");
    expect_reply("535 5.7.8");
    owner.asked_count = 0;
    feed_str("AUTH PLAIN\r\n");
    expect_reply("334 Z28=");
    fill('A', 12289);
    feed_str("\r\n");
    expect_reply("500 5.5.6");
    command_of(12290, "AUTH PLAIN "); /* read, and found to be no base64 */
    expect_reply("501 5.5.2");
    command_of(12291, "AUTH PLAIN ");
    expect_reply("500 5.5.6");
    command_of(3000, "NOOP ");
    expect_reply("500 5.5.2");
    owner.asked_count = 0;
    feed_str("AUTH PLAIN\r\n");
    for (unsigned count = 0; count < 10; count++) {
        fill('A', 1000000);
    }
    expect_reply("421 4.7.0");
}

static void auth_response_is_wiped(void **state)
{
    (void)state;
    owner.limits.auth_mechanisms = "PLAIN";
    (void)begin();
    feed_str("EHLO x\r\n");
    feed_str("AUTH PLAIN AHNlY3JldAB"); /* in parts: gathered in the line memory */
    feed_str("zZWNyZXQ=\r\n");
    assert_true(was_told("auth PLAIN \"\\x00secret\\x00secret\""));
    expect_reply("235 2.7.0");
    for (size_t at = 0; at < smtp_server_line_bytes(&owner.limits); at++) {
        assert_int_equal(owner.line_memory[at], 0);
    }
}

static void challenge_that_fits_no_reply_is_refused(void **state)
{
    (void)state;
    char text[702];
    memset(text, 'c', sizeof text);
    text[701] = '\0';
    owner.limits.auth_mechanisms = "PLAIN";
    owner.answers[0] = (struct owner_answer){.kind = OWNER_CHALLENGE, .text = text};
    owner.answers[1] = (struct owner_answer){.kind = OWNER_CHALLENGE, .text = text + 1};
    (void)begin();
    feed_str("EHLO x\r\nAUTH PLAIN\r\n");
    expect_reply("454 4.7.0");
    feed_str("AUTH PLAIN\r\n");
    expect_reply("334 Y2Nj");
}

static void replies_are_cut_at_512_bytes(void **state)
{
    (void)state;
    char text[2000];
    memset(text, 't', sizeof text);
    text[sizeof text - 1] = '\0';
    owner.answers[0] = (struct owner_answer){OWNER_REFUSE, 550, "5.7.1", text};
    (void)begin();
    feed_str("HELO x\r\nMAIL FROM:<a@b>\r\n");
    expect_reply("550 5.7.1 ttt");
    assert_int_equal(last_reply().len, 510);
}

/* ---- content ---- */

/* Bodies for which byte-exact is not obvious, each through DATA at every cut of its wire form. */
static void content_is_byte_exact(void **state)
{
    (void)state;
    static const struct {
        const uint8_t *data;
        size_t len;
    } bodies[] = {
#define BODY(literal) {(const uint8_t *)("" literal), sizeof(literal) - 1}
        BODY(""),
        BODY("\r\n"),
        BODY("no blank line\r\n"),
        BODY("From somebody\r\n\r\nx\r\n"),
        BODY(".\r\n..\r\n...\r\n"),
        BODY("\r\n\r\n.\r\n\r\n"),
        BODY("nul \0\0 8-bit \xff\xfe\x85\r\n"),
#undef BODY
    };
    uint8_t wire_memory[256];
    uint8_t content_memory[256];
    struct buf content;
    owner.content_to = &content;
    for (size_t index = 0; index < COUNT(bodies); index++) {
        struct buf wire;
        struct smtp_data_encoder e;
        struct slice body = slice_of(bodies[index].data, bodies[index].len);
        buf_init(&wire, wire_memory, sizeof wire_memory);
        smtp_data_encoder_init(&e);
        assert_int_equal(smtp_data_encode(&e, body, &wire), body.len);
        assert_true(smtp_data_encode_end(&e, &wire));
        for (size_t cut = 0; cut <= wire.len; cut++) {
            buf_init(&content, content_memory, sizeof content_memory);
            (void)begin();
            feed_str(TO_CONTENT);
            feed(slice_head(buf_slice(&wire), cut));
            assert_int_equal(owner.committed, cut == wire.len);
            feed(slice_tail(buf_slice(&wire), cut));
            assert_int_equal(owner.committed, 1);
            assert_true(slice_equal(buf_slice(&content), body));
        }
    }
}

static void long_text_lines_pass(void **state)
{
    (void)state;
    static const size_t lens[] = {998, 999, 48677, 10000000};
    owner.limits.size_max = 20000000;
    for (size_t index = 0; index < COUNT(lens); index++) {
        (void)begin();
        feed_str(TO_CONTENT);
        fill('x', lens[index]);
        feed_str("\r\n.\r\n");
        expect_reply("250 2.0.0");
        assert_int_equal(owner.content_bytes, lens[index] + 2);
    }
}

static void size_limit_is_to_the_byte(void **state)
{
    (void)state;
    owner.limits.size_max = 100000;
    (void)begin();
    feed_str(TO_CONTENT);
    fill('x', 99998);
    feed_str("\r\n.\r\n");
    expect_reply("250 2.0.0");
    feed_str("MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n");
    fill('x', 99999);
    feed_str("\r\n.\r\n");
    expect_reply("552 5.3.4");
    assert_true(was_told("abandon"));
    feed_str("MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n");
    for (unsigned count = 0; count < 200; count++) {
        fill('x', 1u << 20);
        assert_true(owner.content_bytes <= owner.limits.size_max);
    }
    feed_str("\r\n.\r\n");
    expect_reply("552 5.3.4");
    feed_str("DATA\r\n");
    expect_reply("503 5.5.1");
    assert_int_equal(owner.committed, 1);
}

static void no_size_limit_is_none(void **state)
{
    (void)state;
    owner.limits.size_max = 0;
    (void)begin();
    feed_str("HELO x\r\nMAIL FROM:<a@b> SIZE=99999999999999999999\r\n");
    expect_reply("250 2.1.0");
}

static void received_with(unsigned count)
{
    (void)begin();
    feed_str(TO_CONTENT);
    for (unsigned line = 0; line < count; line++) {
        feed_str("Received: from a by b\r\n\twith SMTP\r\n");
    }
    feed_str("\r\nReceived: in the body\r\n.\r\n");
}

static void received_lines_have_a_limit(void **state)
{
    (void)state;
    received_with(99);
    expect_reply("250 2.0.0");
    received_with(100);
    expect_reply("250 2.0.0");
    received_with(101);
    expect_reply("554 5.4.6");
    received_with(100000);
    expect_reply("554 5.4.6");
}

static void recipients_have_a_limit(void **state)
{
    (void)state;
    static const unsigned maxima[] = {100, 1000};
    for (size_t index = 0; index < COUNT(maxima); index++) {
        owner.limits.recipients_max = maxima[index];
        (void)begin();
        feed_str("HELO x\r\nMAIL FROM:<a@b>\r\n");
        for (unsigned count = 0; count < maxima[index]; count++) {
            feed_str("RCPT TO:<c@d>\r\n");
            expect_reply("250 2.1.5");
        }
        for (unsigned count = 0; count < maxima[index]; count++) {
            feed_str("RCPT TO:<c@d>\r\n");
            expect_reply("452 4.5.3");
        }
        feed_str("RCPT TO:<c@d>\r\n");
        expect_reply("421 4.7.0");
        assert_true(was_told("close too-many-recipients"));
    }
}

/* ORCPTs of 65,536 bytes in one mail, whoever has how many of them; refused ones do not count, and
 * the next mail begins anew. */
static void original_recipients_have_a_limit(void **state)
{
    (void)state;
    owner.limits.recipients_max = 1000;
    owner.answers[1] = (struct owner_answer){OWNER_REFUSE, 550, "5.1.1", NULL};
    char line[600];
    struct buf to;
    buf_init(&to, line, sizeof line);
    buf_put_str(&to, "RCPT TO:<c@d> ORCPT=rfc822;");
    while (to.len < strlen("RCPT TO:<c@d> ORCPT=") + SMTP_ORCPT_BYTES_MAX) {
        buf_put_byte(&to, 'x');
    }
    buf_put_str(&to, "\r\n");
    (void)begin();
    feed_str("EHLO x\r\nMAIL FROM:<a@b>\r\n");
    feed(buf_slice(&to));
    expect_reply("550 5.1.1");
    for (unsigned mail = 0; mail < 2; mail++) {
        for (unsigned count = 0; count < SMTP_SERVER_ORCPTS_BYTES_MAX / SMTP_ORCPT_BYTES_MAX;
             count++) {
            feed(buf_slice(&to));
            expect_reply("250 2.1.5");
        }
        feed(buf_slice(&to));
        expect_reply("452 4.5.3");
        feed_str("RCPT TO:<c@d> ORCPT=rfc822;x NOTIFY=NEVER\r\n"); /* 36 bytes are left */
        expect_reply("250 2.1.5");
        assert_true(was_told("rcpt <c@d> notify=never orcpt=rfc822;x"));
        feed_str("RCPT TO:<c@d>\r\n");
        expect_reply("250 2.1.5");
        feed_str("RSET\r\nMAIL FROM:<a@b>\r\n");
    }
}

/* ---- output ---- */

/* A client that never reads: input waits, the output stays within its bound. */
static void input_waits_for_output(void **state)
{
    (void)state;
    (void)begin();
    struct slice in = SLICE("NOOP\r\nNOOP\r\nNOOP\r\nNOOP\r\n");
    size_t used = 0;
    for (unsigned count = 0; count < 1000; count++) {
        used += smtp_server_feed(&owner.s, in, LAW_NOW_MS);
        assert_true(smtp_server_output(&owner.s).len <= SMTP_SERVER_OUTPUT_BYTES);
    }
    assert_true(used < 1000 * in.len);
    assert_int_equal(smtp_server_feed(&owner.s, in, LAW_NOW_MS), 0);
    smtp_server_expire(&owner.s, LAW_NOW_MS);
    smtp_server_expire(&owner.s, LAW_NOW_MS + 600000);
    struct smtp_server_event event;
    assert_true(smtp_server_next(&owner.s, &event));
    assert_int_equal(event.type, SMTP_SERVER_EVENT_CLOSE);
}

/* ---- time ---- */

static void expire_at(uint64_t now_ms)
{
    struct law_subject m = owner_law_subject(&owner);
    smtp_server_expire(&owner.s, now_ms);
    (void)law_settle(&m, LAW_SEND_AT_ONCE, now_ms, &trace);
}

/* One byte now and then does not keep a command going. */
static void slow_commands_are_closed(void **state)
{
    (void)state;
    (void)begin();
    uint64_t now_ms = LAW_NOW_MS;
    (void)feed_at(SLICE("NOOP\r\n"), now_ms);
    (void)feed_at(SLICE("N"), now_ms += 100000);
    (void)feed_at(SLICE("O"), now_ms += 100000);
    assert_int_equal(smtp_server_deadline_ms(&owner.s), LAW_NOW_MS + 100000 + 300000);
    (void)feed_at(SLICE("O"), now_ms += 100000);
    expire_at(LAW_NOW_MS + 399999);
    assert_int_not_equal(owner.s.state, SMTP_SERVER_CLOSING);
    expire_at(LAW_NOW_MS + 400000);
    expect_reply("421 4.4.2");
    assert_true(was_told("close idle"));
    assert_int_equal(smtp_server_deadline_ms(&owner.s), UINT64_MAX);
}

/* 30,000 bytes a minute are enough, 29,999 are not; and what is fed in between cannot hide it. */
static void slow_content_is_closed(void **state)
{
    (void)state;
    for (unsigned enough = 0; enough < 2; enough++) {
        (void)begin();
        uint64_t now_ms = LAW_NOW_MS;
        static uint8_t text[600];
        memset(text, 'x', sizeof text);
        feed_str(TO_CONTENT);
        (void)feed_at(slice_of(text, 600), now_ms);
        for (unsigned second = 1; second <= 49; second++) {
            (void)feed_at(slice_of(text, second == 49 && enough == 0 ? 599 : 600), now_ms += 1200);
        }
        assert_int_not_equal(owner.s.state, SMTP_SERVER_CLOSING);
        (void)feed_at(slice_of(text, 600), LAW_NOW_MS + 60000);
        assert_int_equal(owner.s.state == SMTP_SERVER_CLOSING, enough == 0);
        assert_int_equal(was_told("close slow"), enough == 0);
    }
}

static void silent_content_is_closed(void **state)
{
    (void)state;
    owner.limits.rate_bytes_min = 0;
    (void)begin();
    feed_str(TO_CONTENT);
    (void)feed_at(SLICE("x"), LAW_NOW_MS + 1000);
    assert_int_equal(smtp_server_deadline_ms(&owner.s), LAW_NOW_MS + 1000 + 180000);
    (void)feed_at(SLICE("x"), LAW_NOW_MS + 100000);
    expire_at(LAW_NOW_MS + 279999);
    assert_int_not_equal(owner.s.state, SMTP_SERVER_CLOSING);
    expire_at(LAW_NOW_MS + 280000);
    expect_reply("421 4.4.2");
    assert_true(was_told("close idle"));
}

/* How long the owner takes to answer, or pauses, is not the peer's fault. */
static void waiting_for_the_owner_does_not_count(void **state)
{
    (void)state;
    (void)begin();
    feed_str("HELO x\r\n");
    struct smtp_server_event event;
    size_t used = smtp_server_feed(&owner.s, SLICE("MAIL FROM:<a@b>\r\n"), LAW_NOW_MS);
    assert_int_equal(used, 17);
    assert_true(smtp_server_next(&owner.s, &event));
    assert_int_equal(smtp_server_deadline_ms(&owner.s), UINT64_MAX);
    smtp_server_accept(&owner.s, NULL);
    expire_at(LAW_NOW_MS + 1000000);
    assert_int_equal(owner.s.state, SMTP_SERVER_COMMAND);
    assert_int_equal(smtp_server_deadline_ms(&owner.s), LAW_NOW_MS + 1300000);
    (void)feed_at(SLICE("RCPT TO:<c@d>\r\nDATA\r\n"), LAW_NOW_MS + 1000000);
    (void)feed_at(SLICE("x"), LAW_NOW_MS + 1000000);
    smtp_server_resumed(&owner.s, LAW_NOW_MS + 2000000);
    (void)feed_at(SLICE("x\r\n.\r\n"), LAW_NOW_MS + 2000000);
    expect_reply("250 2.0.0");
}

/* ---- the end ---- */

static void shutdown_waits_for_a_reply(void **state)
{
    (void)state;
    struct law_subject m = begin();
    feed_str("HELO x\r\nNOO");
    smtp_server_shutdown(&owner.s);
    (void)law_settle(&m, LAW_SEND_AT_ONCE, LAW_NOW_MS, &trace);
    expect_reply("421 4.3.2");
    assert_true(was_told("close stopping"));

    owner.limits.starttls = true;
    m = begin();
    feed_str("HELO x\r\nSTARTTLS\r\n");
    smtp_server_shutdown(&owner.s);
    expect_reply("220 2.0.0");
    smtp_server_tls_started(&owner.s, LAW_NOW_MS);
    (void)law_settle(&m, LAW_SEND_AT_ONCE, LAW_NOW_MS, &trace);
    expect_reply("421 4.3.2");

    owner.limits.auth_mechanisms = "LOGIN";
    owner.answers[0] = (struct owner_answer){.kind = OWNER_CHALLENGE, .text = "x"};
    m = begin();
    feed_str("EHLO x\r\nAUTH LOGIN\r\n");
    smtp_server_shutdown(&owner.s);
    (void)law_settle(&m, LAW_SEND_AT_ONCE, LAW_NOW_MS, &trace);
    expect_reply("421 4.3.2");
}

/* The stop comes while the owner thinks: its answer is given first. */
static void shutdown_waits_for_the_owner(void **state)
{
    (void)state;
    owner.limits.auth_mechanisms = "LOGIN";
    struct smtp_server_event event;
    struct law_subject m = begin();
    feed_str("EHLO x\r\n");
    assert_int_equal(smtp_server_feed(&owner.s, SLICE("AUTH LOGIN\r\n"), LAW_NOW_MS), 12);
    assert_true(smtp_server_next(&owner.s, &event));
    smtp_server_shutdown(&owner.s);
    assert_false(smtp_server_next(&owner.s, &event));
    smtp_server_challenge(&owner.s, SLICE("Username:"));
    (void)law_settle(&m, LAW_SEND_AT_ONCE, LAW_NOW_MS, &trace);
    assert_true(was_told("close stopping"));
    assert_int_equal(reply_count(), 4);

    smtp_server_init(&owner.s, &owner.limits, owner.line_memory, LAW_NOW_MS);
    smtp_server_shutdown(&owner.s);
    smtp_server_greet(&owner.s);
    assert_true(slice_starts_with(smtp_server_output(&owner.s), SLICE("421 4.3.2 ")));
    assert_int_equal(owner.s.state, SMTP_SERVER_CLOSING);
}

static void has_a_word_for_each_state(void **state)
{
    (void)state;
    static const struct {
        const char *in, *word;
    } steps[] = {
        {"", "connected"},
        {"NOO", "connected"},
        {"P\r\nEHLO x\r\n", "idle"},
        {"AUTH LOGIN\r\n", "login"},
        {"eA==\r\nMAIL FROM:<a@b>\r\n", "mail"},
        {"RCPT TO:<c@d>\r\n", "mail"},
        {"DATA\r\n", "content"},
        {"12345678901\r\n", "refusing"},
        {".\r\n", "idle"},
        {"STARTTLS\r\n", "tls"},
    };
    owner.limits.auth_mechanisms = "LOGIN";
    owner.limits.starttls = true;
    owner.limits.size_max = 10;
    owner.answers[0] = (struct owner_answer){.kind = OWNER_CHALLENGE, .text = "x"};
    (void)begin();
    for (size_t index = 0; index < COUNT(steps); index++) {
        feed_str(steps[index].in);
        assert_string_equal(smtp_server_state_word(&owner.s), steps[index].word);
    }
    smtp_server_init(&owner.s, &owner.limits, owner.line_memory, LAW_NOW_MS);
    assert_string_equal(smtp_server_state_word(&owner.s), "greeting");
    smtp_server_greet(&owner.s);
    struct slice in = SLICE("HELO x\r\nMAIL FROM:<a@b>\r\n");
    size_t used = smtp_server_feed(&owner.s, in, LAW_NOW_MS);
    struct smtp_server_event event;
    assert_true(smtp_server_next(&owner.s, &event));
    used += smtp_server_feed(&owner.s, slice_tail(in, used), LAW_NOW_MS);
    assert_int_equal(used, in.len);
    assert_string_equal(smtp_server_state_word(&owner.s), "deciding");
}

static void greeting_can_be_refused(void **state)
{
    (void)state;
    static const struct owner_answer busy = {OWNER_REFUSE, 421, "4.7.0", "too many connections"};
    owner.refuse_greeting = &busy;
    (void)begin();
    expect_reply("421 4.7.0 too many connections");
    assert_true(was_told("close refused"));
    assert_int_equal(feed_at(SLICE("EHLO x\r\n"), LAW_NOW_MS), 0);
    assert_int_equal(reply_count(), 1);
}

static void too_many_guesses_are_closed(void **state)
{
    (void)state;
    owner.limits.auth_mechanisms = "PLAIN";
    owner.limits.errors_max = 3;
    for (unsigned count = 0; count < 4; count++) {
        owner.answers[count] = (struct owner_answer){OWNER_REFUSE, 535, "5.7.8", "no"};
    }
    (void)begin();
    feed_str("EHLO x\r\n");
    for (unsigned count = 0; count < 3; count++) {
        feed_str("AUTH PLAIN AGEAYg==\r\n");
        expect_reply("535 5.7.8");
    }
    feed_str("AUTH PLAIN AGEAYg==\r\n");
    expect_reply("421 4.7.0");
    assert_true(was_told("close too-many-errors"));
}

/* The reply must not depend on which limit the pieces of the stream showed first. */
static void content_over_two_limits_gets_one_reply(void **state)
{
    (void)state;
    static const char large[] = "Subject: with this alone it is too large\r\n";
    static const char loop[] = "Received: 1\nb\r\nReceived: 2\r\n";
    static const char *const begins[] = {"DATA\r\n", "BDAT 70 LAST\r\n"};
    owner.limits.chunking = true;
    owner.limits.reject_bare_breaks = true;
    owner.limits.received_max = 1;
    owner.limits.size_max = 30;
    assert_int_equal(strlen(large) + strlen(loop), 70);
    for (size_t index = 0; index < COUNT(begins); index++) {
        bool chunk = index == 1;
        (void)begin();
        feed_str("EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n");
        feed_str(begins[index]);
        feed_str(large);
        assert_true(was_told("abandon"));
        feed_str(loop);
        feed_str(chunk ? "" : ".\r\n");
        expect_reply("554 5.4.6 too many Received lines");
        feed_str("MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n");
        feed_str(chunk ? "BDAT 5 LAST\r\nabc\r\n" : "DATA\r\nabc\r\n.\r\n");
        expect_reply("250 2.0.0");
    }
}

/* ---- laws ---- */

static void keeps_the_laws(void **state)
{
    (void)state;
    static const struct {
        const char *in;
        bool closes;
    } inputs[] = {
        {"", false},
        {"EHLO x\r\nMAIL FROM:<a@b> SIZE=5 BODY=8BITMIME\r\nRCPT TO:<c@d>\r\nRCPT "
         "TO:<e@f>\r\nDATA\r\n"
         "Subject: x\r\n\r\n..\r\nbody\r\n.\r\nQUIT\r\n",
         true},
        {"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nReceived: 1\r\nReceived: 2\r\n"
         "Received: 3\r\n\r\n.\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\na\nb\r.\r\n.\r\n",
         false},
        {"EHLO x\r\nMAIL FROM:<a@b> SIZE=40\r\nRCPT TO:<c@d>\r\nDATA\r\nReceived: 1\r\nReceived: "
         "2\r\n"
         "Received: 3\r\n\r\nmore than was said\r\n.\r\nQUIT\r\n",
         true},
        {"EHLO x\r\nMAIL FROM:<a@b> SIZE=40\r\nRCPT TO:<c@d>\r\nBDAT 70 LAST\r\nReceived: "
         "1\r\nReceived: 2\r\n"
         "Received: 3\r\n\r\nthis is more than was said\r\n\rQUIT\r\n",
         true},
        {"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 5\r\nab\ncdBDAT 3 LAST\r\n\r\n\r"
         "BDAT 4\r\nQUITBDAT x\r\n",
         true},
        {"EHLO x\r\nAUTH LOGIN\r\nYQ==\r\nYg==\r\nAUTH PLAIN bad\r\nSTARTTLS\r\n", false},
        {"\r\n\r\nFOO\r\n\n\r\r\nBAR\r\n\xff\r\n", true},
        {"NOOP\r\nGET / HTTP/1.1\r\n", true},
    };
    owner.limits.auth_mechanisms = "PLAIN LOGIN";
    owner.limits.starttls = true;
    owner.limits.chunking = true;
    owner.limits.errors_max = 4;
    owner.limits.received_max = 2;
    owner.answers[0] = (struct owner_answer){.kind = OWNER_CHALLENGE, .text = "Username:"};
    struct law_subject m = owner_law_subject(&owner);
    for (size_t index = 0; index < COUNT(inputs); index++) {
        struct slice in = slice_from_str(inputs[index].in);
        laws_hold(&m, in);
        assert_int_equal(law_closed_is_final(&m, in), inputs[index].closes);
    }
}

/* Commands and content at random, most of them sensible. */
static void keeps_the_laws_on_random_input(void **state)
{
    (void)state;
    static const char *const parts[] = {
        "EHLO x\r\n",
        "MAIL FROM:<a@b>\r\n",
        "RCPT TO:<c@d>\r\n",
        "DATA\r\n",
        "MAIL FROM:<a@b> RET=HDRS ENVID=a+2Bb\r\n",
        "RCPT TO:<c@d> NOTIFY=DELAY,FAILURE ORCPT=rfc822;c@d\r\n",
        "\r\n.\r\n",
        ".",
        "\r",
        "\n",
        "text\r\n",
        "Received: x\r\n",
        "RSET\r\n",
        "BDAT 9\r\n",
        "BDAT 3 LAST\r\n",
        "AUTH LOGIN\r\n",
        "YQ==\r\n",
        "*\r\n",
        "STARTTLS\r\n",
        "NOOP\r\n",
        "FOO\r\n",
        "\xe3\x81",
    };
    uint32_t seed = 7;
    owner.limits.auth_mechanisms = "PLAIN LOGIN";
    owner.limits.chunking = true;
    owner.limits.size_max = 60;
    owner.limits.received_max = 1;
    owner.limits.recipients_max = 2;
    struct law_subject m = owner_law_subject(&owner);
    for (unsigned run = 0; run < 60; run++) {
        char text[600];
        struct buf in;
        buf_init(&in, text, sizeof text);
        for (unsigned count = 0; count < 25; count++) {
            seed = seed * 1664525u + 1013904223u;
            buf_put_str(&in, parts[(seed >> 8) % (count < 4 ? 4 : COUNT(parts))]);
        }
        for (size_t index = 0; index < 12; index++) {
            seed = seed * 1664525u + 1013904223u;
            unsigned kind = (seed >> 8) % 8;
            owner.answers[index] =
                kind == 0   ? (struct owner_answer){OWNER_REFUSE, 451, "4.3.0", NULL}
                : kind == 1 ? (struct owner_answer){.kind = OWNER_CHALLENGE, .text = "more"}
                            : (struct owner_answer){.kind = OWNER_ACCEPT};
        }
        owner.limits.reject_bare_breaks = run % 3 == 0;
        laws_hold(&m, buf_slice(&in));
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(is_small),
        TEST(whole_lines_are_read_in_place),
        TEST(content_is_borrowed),
        TEST(command_lines_have_a_limit),
        TEST(longest_command_may_come_in_parts),
        TEST(endless_line_is_closed),
        TEST(long_lines_end_alike_at_any_cut),
        TEST(auth_lines_are_longer),
        TEST(auth_response_is_wiped),
        TEST(challenge_that_fits_no_reply_is_refused),
        TEST(replies_are_cut_at_512_bytes),
        TEST(content_is_byte_exact),
        TEST(long_text_lines_pass),
        TEST(size_limit_is_to_the_byte),
        TEST(no_size_limit_is_none),
        TEST(received_lines_have_a_limit),
        TEST(recipients_have_a_limit),
        TEST(original_recipients_have_a_limit),
        TEST(input_waits_for_output),
        TEST(slow_commands_are_closed),
        TEST(slow_content_is_closed),
        TEST(silent_content_is_closed),
        TEST(waiting_for_the_owner_does_not_count),
        TEST(shutdown_waits_for_a_reply),
        TEST(shutdown_waits_for_the_owner),
        TEST(has_a_word_for_each_state),
        TEST(greeting_can_be_refused),
        TEST(too_many_guesses_are_closed),
        TEST(content_over_two_limits_gets_one_reply),
        TEST(keeps_the_laws),
        TEST(keeps_the_laws_on_random_input),
    };
#undef TEST
    return cmocka_run_group_tests(tests, NULL, NULL);
}
