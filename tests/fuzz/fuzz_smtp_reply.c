/* The reply parser: the same replies however the input is cut, within its bounds, error final. */
#include "daemon/proto/smtp_reply.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct seen {
    uint64_t hash;
    size_t count;
    bool failed, partial;
};

static void see_bytes(struct seen *seen, struct slice bytes)
{
    for (size_t index = 0; index < bytes.len; index++) {
        seen->hash = (seen->hash ^ bytes.data[index]) * UINT64_C(0x100000001b3);
    }
}

static void see_reply(struct seen *seen, const struct smtp_reply *reply)
{
    CHECK(reply->code >= 200 && reply->code <= 599);
    CHECK(reply->line_count >= 1 && reply->line_count <= SMTP_REPLY_LINES_MAX);
    CHECK(reply->text.len <= SMTP_REPLY_TEXT_BYTES_MAX);
    CHECK(reply->enhanced[0] == 0 || reply->enhanced[0] == reply->code / 100);
    CHECK(reply->enhanced[1] <= 999 && reply->enhanced[2] <= 999);
    CHECK(smtp_reply_first_line(reply).len <= reply->text.len);
    see_bytes(seen, slice_of(&reply->code, sizeof reply->code));
    see_bytes(seen, slice_of(reply->enhanced, sizeof reply->enhanced));
    see_bytes(seen, slice_of(&reply->line_count, sizeof reply->line_count));
    see_bytes(seen, reply->text);
    seen->count++;
}

static struct seen parse(struct slice in, size_t step)
{
    static struct smtp_reply_parser p;
    struct seen seen = {0};
    smtp_reply_init(&p);
    while (in.len > 0 && p.state != SMTP_REPLY_STATE_ERROR) {
        struct slice piece = slice_head(in, step);
        size_t used = smtp_reply_feed(&p, piece);
        CHECK(used > 0 && used <= piece.len);
        CHECK(used == piece.len || p.state != SMTP_REPLY_STATE_LINE);
        in = slice_tail(in, used);
        struct smtp_reply reply;
        while (smtp_reply_take(&p, &reply)) {
            see_reply(&seen, &reply);
        }
    }
    seen.failed = p.state == SMTP_REPLY_STATE_ERROR;
    seen.partial = smtp_reply_partial(&p);
    if (seen.failed) {
        see_bytes(&seen, slice_from_str(p.error));
        CHECK(smtp_reply_feed(&p, SLICE("250 ok\r\n")) == 0);
    }
    return seen;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice in = slice_of(data, size);
    struct seen whole = parse(in, SIZE_MAX);
    static const size_t steps[] = {1, 2, 3, 7, 64};
    for (size_t index = 0; index < sizeof steps / sizeof steps[0]; index++) {
        struct seen cut = parse(in, steps[index]);
        CHECK(cut.hash == whole.hash && cut.count == whole.count);
        CHECK(cut.failed == whole.failed && cut.partial == whole.partial);
    }
    return 0;
}
