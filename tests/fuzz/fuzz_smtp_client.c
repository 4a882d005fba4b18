/*
 * The SMTP client against any server and a willing owner.
 *
 *   byte 0   settings: bits 0-1 TLS, bit 2 login, bit 3 pipelining, bits 4-7 recipients
 *   byte 1   bits 0-3 how much is sent at once, bits 4-6 how content is long, bit 7 cut input
 *   then     what the server says; each 0xff is a turn of ours: output is sent, time passes
 *
 * What is asserted: no MAIL and no AUTH before TLS where it is demanded; command lines without
 * control bytes; each recipient told once; acceptance only after the dot was sent; a reply for
 * nothing is never acceptance; progress; closed is final.
 */
#include "daemon/outcome/classify.h"
#include "daemon/proto/smtp_client.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define RECIPIENTS 16

struct world {
    struct smtp_client_config config;
    struct smtp_client client;
    uint8_t output[SMTP_CLIENT_OUTPUT_BYTES];
    struct slice recipients[RECIPIENTS];
    uint32_t recipient_count;
    uint32_t told[RECIPIENTS]; /* events in this transaction */
    uint64_t now_ms;
    bool tls_on;
    bool in_mail, closed;
    size_t content_bytes, content_left;
    uint64_t sent_bytes; /* sent */
    uint64_t dot_end;    /* of the stream, when the dot was put; 0: not yet in this transaction */
    size_t send_max;
    uint8_t line[4096];
    size_t line_len;
    bool raw; /* content is on the wire */
    uint32_t mails;
};

static void check_line(const struct world *w)
{
    struct slice line = slice_of(w->line, w->line_len);
    CHECK(line.len >= 2 && line.data[line.len - 2] == '\r');
    for (size_t index = 0; index < line.len - 2; index++) {
        CHECK(line.data[index] >= 0x20 && line.data[index] != 0x7f);
    }
    bool needs_tls = slice_starts_with(line, SLICE("MAIL")) ||
                     slice_starts_with(line, SLICE("AUTH")) ||
                     slice_starts_with(line, SLICE("RCPT"));
    CHECK(!needs_tls || w->tls_on || w->config.tls != SMTP_CLIENT_TLS_STARTTLS);
}

/* What goes out, looked at line by line outside of content. */
static void look_at_sent(struct world *w, struct slice sent)
{
    if (w->raw) {
        return;
    }
    for (size_t index = 0; index < sent.len; index++) {
        CHECK(w->line_len < sizeof w->line);
        w->line[w->line_len++] = sent.data[index];
        if (sent.data[index] == '\n') {
            check_line(w);
            w->line_len = 0;
        }
    }
}

static void send_some(struct world *w)
{
    struct slice output = smtp_client_output(&w->client);
    CHECK(output.len <= SMTP_CLIENT_OUTPUT_BYTES);
    struct slice sent = slice_head(output, w->send_max);
    if (sent.len > 0) {
        look_at_sent(w, sent);
        w->sent_bytes += sent.len;
        smtp_client_output_done(&w->client, sent.len, w->now_ms);
    }
}

static void begin_mail(struct world *w)
{
    if (w->mails == 4) {
        smtp_client_quit(&w->client, w->now_ms);
        return;
    }
    w->mails++;
    memset(w->told, 0, sizeof w->told);
    struct smtp_client_mail mail = {.sender = SLICE("s@y.example"),
                                    .recipients = w->recipients,
                                    .recipient_count = w->recipient_count,
                                    .size = w->content_bytes,
                                    .body_8bit = true};
    enum smtp_client_begin begin = smtp_client_begin_mail(&w->client, &mail, w->now_ms);
    w->in_mail = begin == SMTP_CLIENT_BEGUN;
    w->content_left = w->content_bytes;
    w->dot_end = 0;
    if (!w->in_mail) {
        smtp_client_quit(&w->client, w->now_ms);
    }
}

static void bring_content(struct world *w)
{
    static const uint8_t piece[] = ".line\r\nand\nmore\r\n..";
    while (w->client.state == SMTP_CLIENT_CONTENT) {
        w->raw = true;
        if (w->content_left == 0) {
            if (!smtp_client_content_end(&w->client, w->now_ms)) {
                return;
            }
            w->dot_end = w->sent_bytes + smtp_client_output(&w->client).len;
            return;
        }
        struct slice in = slice_head(slice_of(piece, sizeof piece - 1), w->content_left);
        size_t used = smtp_client_content(&w->client, in, w->now_ms);
        if (used == 0) {
            CHECK(smtp_client_output(&w->client).len > 0);
            return;
        }
        w->content_left -= used;
    }
}

static void check_told(const struct world *w, uint32_t shared)
{
    uint32_t untold = 0;
    for (uint32_t index = 0; index < w->recipient_count; index++) {
        CHECK(w->told[index] <= 1);
        untold += w->told[index] == 0 ? 1 : 0;
    }
    CHECK(untold == shared);
}

static void take_done(struct world *w, const struct smtp_client_event *event)
{
    CHECK(w->in_mail);
    check_told(w, event->accepted_count);
    CHECK((event->accepted_count == 0) == (event->reply.code == 0));
    if (event->accepted_count > 0) {
        CHECK(w->dot_end > 0 && w->sent_bytes >= w->dot_end);
    }
    w->in_mail = false;
    w->raw = false;
    w->line_len = 0;
}

static void take_challenge(struct world *w, const struct smtp_client_event *event)
{
    if (event->challenge.len % 3 == 2) {
        smtp_client_auth_cancel(&w->client, w->now_ms);
    } else {
        smtp_client_auth_response(&w->client, event->challenge, w->now_ms);
    }
}

static void log_in(struct world *w, struct slice mechanisms)
{
    CHECK(mechanisms.len > 0);
    char mechanism[32];
    size_t len = slice_find(mechanisms, ' ');
    CHECK(len > 0 && len < sizeof mechanism);
    memcpy(mechanism, mechanisms.data, len);
    mechanism[len] = '\0';
    static const uint8_t initial[600] = {1};
    size_t initial_len = w->recipient_count % 3 == 0 ? sizeof initial : w->recipient_count;
    smtp_client_auth(&w->client, mechanism, w->recipient_count % 2 == 1,
                     slice_of(initial, initial_len), w->now_ms);
}

/* The outcome must be one that the event can have. */
static void check_outcome(const struct smtp_client_event *event)
{
    enum outcome outcome = classify_event(event);
    CHECK(outcome < OUTCOME_COUNT);
    CHECK(outcome != OUTCOME_DELIVERED ||
          (event->type == SMTP_CLIENT_EVENT_DONE && event->reply.code / 100 == 2));
}

static void take_event(struct world *w, const struct smtp_client_event *event)
{
    CHECK(!w->closed);
    check_outcome(event);
    switch (event->type) {
    case SMTP_CLIENT_EVENT_STARTTLS:
        CHECK(smtp_client_output(&w->client).len == 0);
        w->tls_on = true;
        smtp_client_tls_started(&w->client, w->now_ms);
        break;
    case SMTP_CLIENT_EVENT_AUTH:
        log_in(w, event->mechanisms);
        break;
    case SMTP_CLIENT_EVENT_AUTH_CHALLENGE:
        take_challenge(w, event);
        break;
    case SMTP_CLIENT_EVENT_AUTH_RESULT:
        if (event->reply.code != 235) {
            smtp_client_auth_give_up(&w->client, w->now_ms);
        }
        break;
    case SMTP_CLIENT_EVENT_READY:
        begin_mail(w);
        break;
    case SMTP_CLIENT_EVENT_RECIPIENT:
        CHECK(w->in_mail && event->index < w->recipient_count);
        w->told[event->index]++;
        break;
    case SMTP_CLIENT_EVENT_CONTENT:
        CHECK(smtp_client_output(&w->client).len == 0);
        break;
    case SMTP_CLIENT_EVENT_DONE:
        take_done(w, event);
        if (w->client.state == SMTP_CLIENT_READY) {
            begin_mail(w);
        }
        break;
    case SMTP_CLIENT_EVENT_FAILED:
    case SMTP_CLIENT_EVENT_CLOSE:
        CHECK(w->client.state == SMTP_CLIENT_CLOSED);
        w->closed = true;
        break;
    }
}

static void pull(struct world *w)
{
    struct smtp_client_event event;
    while (smtp_client_next(&w->client, &event)) {
        take_event(w, &event);
    }
    bring_content(w);
}

static void take_turn(struct world *w)
{
    w->now_ms += 10;
    bring_content(w);
    send_some(w);
    uint64_t deadline_ms = smtp_client_deadline_ms(&w->client);
    CHECK(deadline_ms > w->now_ms - 10 || deadline_ms == UINT64_MAX);
    smtp_client_expire(&w->client, w->now_ms);
    CHECK(smtp_client_deadline_ms(&w->client) > w->now_ms);
    pull(w);
}

static void hear(struct world *w, struct slice in)
{
    while (in.len > 0 && !w->closed) {
        size_t used = smtp_client_feed(&w->client, in, w->now_ms);
        CHECK(used <= in.len);
        in = slice_tail(in, used);
        pull(w);
    }
}

static void end(struct world *w)
{
    if (!w->closed) {
        CHECK(w->client.state != SMTP_CLIENT_CLOSED);
        smtp_client_stream_ended(&w->client);
        pull(w);
    }
    CHECK(w->closed && w->client.state == SMTP_CLIENT_CLOSED);
    CHECK(smtp_client_output(&w->client).len == 0);
    CHECK(smtp_client_feed(&w->client, SLICE("250 ok\r\n"), w->now_ms) == 0);
    CHECK(smtp_client_deadline_ms(&w->client) == UINT64_MAX);
    struct smtp_client_event event;
    CHECK(!smtp_client_next(&w->client, &event));
    for (uint32_t index = 0; index < w->recipient_count; index++) {
        CHECK(w->told[index] <= 1);
    }
}

static void set_up(struct world *w, uint8_t first, uint8_t second)
{
    static const size_t send_bytes[] = {SIZE_MAX, 1, 2, 5, 17, 40, 100, 1000,
                                        4096,     3, 7, 9, 11, 13, 50,  30000};
    static const size_t content_bytes[] = {0, 1, 10, 100, 1000, 32760, 40000, 70000};
    memset(w, 0, sizeof *w);
    w->config = (struct smtp_client_config){
        .hello_name = "me.example",
        .tls = (enum smtp_client_tls)(first % 3),
        .auth = (first & 4) != 0,
        .pipelining = (first & 8) != 0 ? SMTP_CLIENT_PIPELINING_SAFE : SMTP_CLIENT_PIPELINING_OFF,
        .greeting_ms_max = 300,
        .command_ms_max = 300,
        .data_ms_max = 300,
        .block_ms_max = 300,
        .end_ms_max = 300,
        .quit_ms_max = 300,
    };
    w->tls_on = w->config.tls == SMTP_CLIENT_TLS_ALREADY;
    w->recipient_count = 1 + (first >> 4);
    for (size_t index = 0; index < RECIPIENTS; index++) {
        w->recipients[index] = index == 7 ? SLICE("bad\r@x.example") : SLICE("a@x.example");
    }
    w->send_max = send_bytes[second & 15];
    w->content_bytes = content_bytes[second >> 4 & 7];
    smtp_client_init(&w->client, &w->config, w->output, w->now_ms);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct world world;
    if (size < 2) {
        return 0;
    }
    set_up(&world, data[0], data[1]);
    size_t piece_max = (data[1] & 0x80) != 0 ? 1 : SIZE_MAX;
    struct slice rest = slice_of(data + 2, size - 2);
    while (rest.len > 0 && !world.closed) {
        struct slice piece = slice_head(rest, piece_max);
        piece = slice_head(piece, slice_find(piece, 0xff));
        if (piece.len == 0) {
            take_turn(&world);
            rest = slice_tail(rest, 1);
            continue;
        }
        hear(&world, piece);
        rest = slice_tail(rest, piece.len);
    }
    end(&world);
    return 0;
}
