/*
 * The SMTP server machine and an owner whose answers come from the input, too.
 *
 *     byte 0  how it is set up      byte 1  how the stream is cut
 *     bytes 2..9  answers, two bits each: yes, no, challenge, no with 421
 *     the rest: what the client sends
 *
 * Whatever comes, the laws hold (tests/unit/laws.h); one reply answers one command, in RFC 5321's
 * form; and only what was said to be content ends up in one.
 */
#include "tests/unit/smtp_server_owner.h"

#define HEAD_BYTES 10

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct owner owner;

static void set_up(const uint8_t *head)
{
    static const struct owner_answer answers[] = {
        {.kind = OWNER_ACCEPT},
        {OWNER_REFUSE, 550, "5.7.1", NULL},
        {.kind = OWNER_CHALLENGE, .text = "challenge"},
        {OWNER_REFUSE, 421, "4.7.0", "go away"},
    };
    owner.limits = owner_limits();
    owner.limits.starttls = (head[0] & 1) != 0;
    owner.limits.auth_mechanisms = (head[0] & 2) != 0 ? "PLAIN LOGIN" : NULL;
    owner.limits.auth_only_over_tls = (head[0] & 4) != 0;
    owner.limits.mail_needs_auth = (head[0] & 8) != 0;
    owner.limits.chunking = (head[0] & 16) != 0;
    owner.limits.reject_bare_breaks = (head[0] & 32) != 0;
    owner.limits.size_max = (head[0] & 64) != 0 ? 100 : 0;
    owner.limits.command_bytes_max = (head[0] & 128) != 0 ? 512 : 64;
    owner.limits.received_max = 2;
    owner.limits.recipients_max = 3;
    owner.limits.errors_max = 10;
    for (size_t index = 0; index < 32; index++) {
        owner.answers[index] = answers[head[2 + index / 4] >> (2 * (index % 4)) & 3];
    }
}

/* Every line is "ddd text" or "ddd-text", printable, at most 512 bytes (RFC 5321 4.2, 4.5.3.1.5).
 */
static void require_replies(struct slice said)
{
    while (said.len > 0) {
        size_t end = slice_find(said, '\n');
        CHECK(end < said.len && end >= 4 && end < 512);
        CHECK(said.data[0] >= '2' && said.data[0] <= '5');
        CHECK(said.data[3] == ' ' || said.data[3] == '-');
        CHECK(said.data[end - 1] == '\r');
        for (size_t at = 0; at + 1 < end; at++) {
            CHECK(said.data[at] >= 0x20 && said.data[at] < 0x7f);
        }
        said = slice_tail(said, end + 1);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct law_trace whole;
    static struct law_trace cut;
    if (size < HEAD_BYTES || size > 16384) {
        return 0;
    }
    set_up(data);
    struct slice in = slice_of(data + HEAD_BYTES, size - HEAD_BYTES);
    struct law_subject m = owner_law_subject(&owner);
    law_run(&m, in, in.len, 1, LAW_SEND_AT_ONCE, &whole);
    require_replies(buf_slice(&whole.output));
    size_t first = 1 + data[1] % 16;
    size_t stride = 1 + data[1] / 16;
    law_run(&m, in, first, stride, LAW_SEND_WHEN_STUCK, &cut);
    law_require_equal(&m, &whole, &cut, first, stride);
    (void)law_closed_is_final(&m, in);
    uint64_t deadline_ms = m.deadline_ms(m.ctx);
    if (deadline_ms != UINT64_MAX) {
        size_t told = whole.notes.len;
        m.expire(m.ctx, deadline_ms);
        m.expire(m.ctx, m.deadline_ms(m.ctx));
        (void)law_settle(&m, LAW_SEND_AT_ONCE, deadline_ms, &whole);
        CHECK(whole.notes.len > told);
    }
    owner_end(&owner);
    return 0;
}
