/*
 * The SMTP client against any server and a willing owner with several messages.
 *
 *   byte 0   settings: bits 0-1 TLS, bit 2 login, bit 3 safe or stream, bits 4-7 recipients
 *   byte 1   bits 0-3 how much is sent at once, bits 4-6 how content is long, bit 7 cut input
 *   then     what the server says; each 0xff is a turn of ours: output is sent, time passes. An
 * 0xff right at the beginning asks for stream instead of safe
 *
 * What is asserted: no MAIL and no AUTH before TLS where it is demanded; command lines without
 * control bytes; chunks as long as announced, of whole lines; each recipient told once; each
 * message ended once; acceptance only after its last byte was sent; a reply for nothing is never
 * acceptance; what is not in doubt was not put whole; progress; closed is final.
 */
#include "daemon/outcome/classify.h"
#include "daemon/proto/smtp_client.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define RECIPIENTS 16
#define MAILS      12

struct mail {
    uint32_t told[RECIPIENTS]; /* events */
    bool begun, over;
    size_t content_left;
    uint64_t end; /* of the stream, when its last byte was put; 0: not yet */
};

struct world {
    struct smtp_client_config config;
    struct smtp_client client;
    uint8_t output[SMTP_CLIENT_OUTPUT_BYTES];
    struct smtp_client_recipient recipients[RECIPIENTS];
    uint32_t recipient_count;
    struct mail mails[MAILS];
    uint32_t mail_count; /* begun, or tried */
    bool mails_over;     /* no more are begun */
    uint64_t now_ms;
    bool tls_on;
    bool closed;
    size_t content_bytes;
    uint64_t sent_bytes; /* sent */
    uint64_t raw_left;   /* of a chunk on the wire */
    size_t send_max;
    uint8_t line[4096];
    size_t line_len;
    bool in_data; /* content is on the wire, up to a line of one dot */
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

/* A whole line outside of chunks. */
static void take_line(struct world *w)
{
    struct slice line = slice_of(w->line, w->line_len);
    if (w->in_data) {
        CHECK(line.len >= 2 && line.data[line.len - 2] == '\r');
        w->in_data = !slice_equal(line, SLICE(".\r\n"));
        return;
    }
    check_line(w);
    if (slice_starts_with(line, SLICE("BDAT "))) {
        struct slice number = slice_tail(line, 5);
        while (number.len > 0 && number.data[0] >= '0' && number.data[0] <= '9') {
            w->raw_left = w->raw_left * 10 + number.data[0] - '0';
            number = slice_tail(number, 1);
        }
        CHECK(slice_equal(number, SLICE("\r\n")) || slice_equal(number, SLICE(" LAST\r\n")));
    }
}

/* What goes out, looked at line by line outside of chunks. */
static void look_at_sent(struct world *w, struct slice sent)
{
    for (size_t index = 0; index < sent.len; index++) {
        if (w->raw_left > 0) {
            w->raw_left--;
            continue;
        }
        CHECK(w->line_len < sizeof w->line);
        w->line[w->line_len++] = sent.data[index];
        if (sent.data[index] == '\n') {
            take_line(w);
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

static void take_event(struct world *w, const struct smtp_client_event *event);

static void pull(struct world *w)
{
    struct smtp_client_event event;
    while (smtp_client_next(&w->client, &event)) {
        take_event(w, &event);
    }
}

/* Begins what there is room for; in the end, quits. */
static void begin_mails(struct world *w)
{
    pull(w);
    while (!w->mails_over && w->mail_count < MAILS &&
           smtp_client_has_room(&w->client, w->recipient_count)) {
        struct mail *m = &w->mails[w->mail_count];
        struct smtp_client_mail mail = {.tag = w->mail_count++,
                                        .sender = SLICE("s@y.example"),
                                        .recipients = w->recipients,
                                        .recipient_count = w->recipient_count,
                                        .size = w->content_bytes,
                                        .body_8bit = true,
                                        .ret = SMTP_CLIENT_RET_FULL,
                                        .envid = SLICE("id")};
        m->begun = smtp_client_begin_mail(&w->client, &mail, w->now_ms) == SMTP_CLIENT_BEGUN;
        m->content_left = w->content_bytes;
        w->mails_over = !m->begun;
        pull(w);
    }
    if (smtp_client_is_idle(&w->client)) {
        smtp_client_quit(&w->client, w->now_ms);
        pull(w);
    }
}

static void bring_content(struct world *w)
{
    static const uint8_t piece[] = ".line\r\nand\nmore\r\n..";
    uint32_t tag;
    while (smtp_client_wants_content(&w->client, &tag)) {
        struct mail *m = &w->mails[tag];
        CHECK(m->begun && !m->over && m->end == 0);
        if (m->content_left == 0) {
            if (!smtp_client_content_end(&w->client, w->now_ms)) {
                return;
            }
            /* what was put behind it belongs to others; so this is the latest it can be */
            m->end = w->sent_bytes + 1;
            continue;
        }
        /* What a call leaves comes first in the next. */
        size_t at = (w->content_bytes - m->content_left) % (sizeof piece - 1);
        struct slice in = slice_of(piece + at, sizeof piece - 1 - at);
        in = slice_head(in, m->content_left);
        size_t used = smtp_client_content(&w->client, in, w->now_ms);
        if (used == 0) {
            /* It waits for bytes to be sent, or for one of very many chunks to be answered. */
            CHECK(smtp_client_output(&w->client).len > 0 ||
                  w->client.expected_count == SMTP_CLIENT_EXPECTED_MAX);
            return;
        }
        m->content_left -= used;
    }
}

static void check_told(const struct world *w, const struct mail *m, uint32_t shared)
{
    uint32_t untold = 0;
    for (uint32_t index = 0; index < w->recipient_count; index++) {
        CHECK(m->told[index] <= 1);
        untold += m->told[index] == 0 ? 1 : 0;
    }
    CHECK(untold == shared);
}

static void take_done(struct world *w, const struct smtp_client_event *event)
{
    struct mail *m = &w->mails[event->tag];
    CHECK(m->begun && !m->over);
    check_told(w, m, event->accepted_count);
    CHECK((event->accepted_count == 0) == (event->reply.code == 0));
    if (event->accepted_count > 0) {
        CHECK(m->end > 0 && w->sent_bytes >= m->end);
    }
    m->over = true;
}

static void take_lost(struct world *w, const struct smtp_client_event *event)
{
    struct mail *m = &w->mails[event->tag];
    CHECK(m->begun && !m->over && w->client.state == SMTP_CLIENT_CLOSED);
    uint32_t untold = 0;
    for (uint32_t index = 0; index < w->recipient_count; index++) {
        untold += m->told[index] == 0 ? 1 : 0;
    }
    /* With its last byte out, whoever has heard nothing else is in doubt, or was told 421. */
    CHECK(m->end == 0 || untold == 0 || event->stage == SMTP_CLIENT_STAGE_END ||
          event->failure == SMTP_CLIENT_FAILURE_REPLY);
    m->over = true;
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
    enum outcome outcome = classify_event(event, PLAYBOOK_NONE);
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
        break;
    case SMTP_CLIENT_EVENT_RECIPIENT:
        CHECK(w->mails[event->tag].begun && !w->mails[event->tag].over);
        CHECK(event->index < w->recipient_count);
        w->mails[event->tag].told[event->index]++;
        break;
    case SMTP_CLIENT_EVENT_CONTENT:
        w->in_data = w->client.mode != SMTP_CLIENT_PIPELINING_STREAM;
        break;
    case SMTP_CLIENT_EVENT_DONE:
        take_done(w, event);
        break;
    case SMTP_CLIENT_EVENT_LOST:
        take_lost(w, event);
        break;
    case SMTP_CLIENT_EVENT_FAILED:
    case SMTP_CLIENT_EVENT_CLOSE:
        CHECK(w->client.state == SMTP_CLIENT_CLOSED);
        w->closed = true;
        break;
    }
}

/* Everything that is the owner's to do. */
static void act(struct world *w)
{
    pull(w);
    if (w->client.state == SMTP_CLIENT_READY) {
        begin_mails(w);
        bring_content(w);
        pull(w);
    }
}

static void take_turn(struct world *w)
{
    w->now_ms += 10;
    act(w);
    send_some(w);
    act(w);
    uint64_t deadline_ms = smtp_client_deadline_ms(&w->client);
    CHECK(deadline_ms > w->now_ms - 10 || deadline_ms == UINT64_MAX);
    smtp_client_expire(&w->client, w->now_ms);
    CHECK(smtp_client_deadline_ms(&w->client) > w->now_ms);
    act(w);
}

static void hear(struct world *w, struct slice in)
{
    while (in.len > 0 && !w->closed) {
        size_t used = smtp_client_feed(&w->client, in, w->now_ms);
        CHECK(used <= in.len);
        in = slice_tail(in, used);
        act(w);
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
    for (uint32_t tag = 0; tag < MAILS; tag++) {
        CHECK(w->mails[tag].begun == w->mails[tag].over);
        for (uint32_t index = 0; index < w->recipient_count; index++) {
            CHECK(w->mails[tag].told[index] <= 1);
        }
    }
}

static void set_up(struct world *w, uint8_t first, uint8_t second, bool stream)
{
    static const size_t send_bytes[] = {SIZE_MAX, 1, 2, 5, 17, 40, 100, 1000,
                                        4096,     3, 7, 9, 11, 13, 50,  30000};
    static const size_t content_bytes[] = {0, 1, 10, 100, 1000, 32760, 40000, 70000};
    memset(w, 0, sizeof *w);
    w->config = (struct smtp_client_config){
        .hello_name = "me.example",
        .tls = (enum smtp_client_tls)(first % 3),
        .auth = (first & 4) != 0,
        .pipelining = (first & 8) == 0 ? SMTP_CLIENT_PIPELINING_OFF
                      : stream         ? SMTP_CLIENT_PIPELINING_STREAM
                                       : SMTP_CLIENT_PIPELINING_SAFE,
        .window_max = 4,
        .window_bytes_max = 50000,
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
        w->recipients[index].path = index == 7 ? SLICE("bad\r@x.example") : SLICE("a@x.example");
        w->recipients[index].notify = (uint8_t)index;
        w->recipients[index].orcpt = index == 3 ? SLICE("rfc822; a") : SLICE("rfc822;a");
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
    set_up(&world, data[0], data[1], size > 2 && data[2] == 0xff);
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
