/*
 * The SMTP client's window: several messages under way at once, against a server that keeps books.
 *
 * scripts[]   what the server says to which message, and what the owner hears, in every mode that
 *             the row names, sent and read in pieces of several sizes
 * oddities    each kind of wrong answer in place of, behind, or instead of each answer
 * unasked     a reply at every byte of what is sent
 * the end     at every byte of what is sent, and at every byte of what is answered
 * given up    a message whose owner cannot bring it to its end
 *
 * After each the books are balanced: every message ends exactly once; what was told as taken is
 * taken, byte for byte; what the server took was told so, or is in doubt; what counts as untried is
 * not with the server.
 */
#include "daemon/proto/smtp_client.h"

#include "daemon/base/crc32c.h"
#include "daemon/base/num.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define LAW_REQUIRE(condition) assert_true(condition)
#include "tests/unit/laws.h"

#define MESSAGES_MAX   64
#define RECIPIENTS_MAX 6
#define PENDING_BYTES  (1u << 20)

enum fate { FATE_NONE, FATE_BEGUN, FATE_DONE, FATE_LOST };

struct message {
    enum fate fate;
    struct smtp_client_event end; /* DONE or LOST */
    uint32_t refused[RECIPIENTS_MAX];
    uint32_t refused_count;
    bool content_told;
    bool abandoned;
    size_t brought;
    /* the server's books */
    bool taken;
    uint32_t taken_recipients;
    uint32_t taken_crc;
    size_t taken_bytes;
};

struct script {
    const char *name;
    const char *modes; /* of "off safe stream" */
    uint32_t count;    /* of messages */
    uint32_t recipient_count;
    size_t content_bytes;
    const char *answers;  /* "N:COMMAND=reply" by ";"; N is a message or * */
    const char *expected; /* NULL: only the books */
};

/* What is wrong about one answer. */
struct oddity {
    enum { ODDITY_INSTEAD, ODDITY_BEHIND, ODDITY_NOTHING } how;
    const char *words;
    bool refuses; /* a plain no: the message, or its recipient, has failed, and nobody else */
};

struct server {
    const char *answers;
    uint32_t filler_lines;       /* in front of every reply's last line */
    const struct oddity *oddity; /* of the answer with this number, from 0 */
    uint32_t oddity_at;
    uint32_t answer_count;
    uint32_t oddity_message; /* whose answer that was */
    bool owes;               /* it left an answer out */
    const char *unasked;     /* said after so many bytes */
    uint64_t unasked_at;
    struct buf line;
    uint8_t line_memory[2048];
    uint32_t message; /* whose transaction it is */
    bool mail_open, in_content, content_begun, in_chunk, chunk_last;
    uint32_t recipient_count; /* accepted */
    uint64_t chunk_left;
    bool chunk_refused;
    size_t content_len;
    bool ended, silent;
    uint64_t heard_bytes, heard_max; /* it ends after so many */
};

struct world {
    struct smtp_client_config config;
    struct smtp_client client;
    uint8_t output[SMTP_CLIENT_OUTPUT_BYTES];
    const struct script *script;
    struct smtp_client_recipient recipients[RECIPIENTS_MAX];
    char senders[MESSAGES_MAX + 1][32];
    struct message messages[MESSAGES_MAX + 1]; /* from 1 */
    uint32_t begun;
    struct server server;
    struct buf pending;
    uint64_t said_bytes, said_max; /* of the server's, that the client gets */
    size_t cut;
    size_t piece;       /* of content, as it is brought */
    uint32_t gives_up;  /* this message, after so many bytes, and then, if fills_up, as many as */
    size_t gives_up_at; /* leave no room in the output */
    bool fills_up;
    uint64_t now_ms;
    struct buf heard;
    bool failed;
    const char *anomaly;
    struct buf dialogue;
    uint8_t dialogue_memory[2048];
};

/* Beside the world, which is wiped for each play; one plays at a time. */
static uint8_t server_content[1 << 20];
static uint8_t pending_memory[PENDING_BYTES];
static char heard_memory[65536];

/* ---- the server ---- */

static struct slice server_answer(const struct server *server, const char *command,
                                  const char *otherwise)
{
    char number[16];
    snprintf(number, sizeof number, "%u", server->message);
    struct slice rest = slice_from_str(server->answers);
    while (rest.len > 0) {
        size_t end = slice_find(rest, ';');
        struct slice rule = slice_head(rest, end);
        size_t colon = slice_find(rule, ':');
        size_t equals = slice_find(rule, '=');
        struct slice who = slice_head(rule, colon);
        struct slice head = slice_head(slice_tail(rule, colon + 1), equals - colon - 1);
        bool mine = slice_equal(who, SLICE("*")) || slice_equal(who, slice_from_str(number));
        if (mine && slice_starts_with(slice_from_str(command), head)) {
            return slice_tail(rule, equals + 1);
        }
        rest = slice_tail(rest, end + 1);
    }
    return slice_from_str(otherwise);
}

static void server_put(struct world *w, struct slice answer)
{
    struct server *server = &w->server;
    server->ended = slice_equal(answer, SLICE("end"));
    server->silent = slice_equal(answer, SLICE("silence"));
    while (answer.len > 0 && !server->ended && !server->silent) {
        size_t end = slice_find(answer, '|');
        for (uint32_t line = 0; line < server->filler_lines; line++) {
            buf_put(&w->pending, slice_head(answer, 3));
            buf_put_str(&w->pending, "-\r\n");
        }
        buf_put(&w->pending, slice_head(answer, end));
        buf_put_str(&w->pending, "\r\n");
        server->ended = slice_starts_with(answer, SLICE("421"));
        answer = slice_tail(answer, end + 1);
    }
    assert_false(w->pending.overflow);
}

/* What it does is what it would have done; only a plain no is meant. */
static bool server_say_oddly(struct world *w, struct slice answer, bool yes)
{
    struct server *server = &w->server;
    const struct oddity *oddity = server->oddity;
    server->oddity_message = server->message;
    server->owes = oddity->how == ODDITY_NOTHING;
    if (oddity->how == ODDITY_BEHIND) {
        server_put(w, answer);
    }
    if (oddity->how != ODDITY_NOTHING) {
        server_put(w, slice_from_str(oddity->words));
    }
    bool no = oddity->how == ODDITY_INSTEAD && (*oddity->words == '4' || *oddity->words == '5');
    return yes && !no;
}

/* Says it and returns whether it was a yes (or a go-ahead). */
static bool server_say(struct world *w, struct slice answer)
{
    struct server *server = &w->server;
    if (server->ended || server->silent || answer.len == 0) {
        return false;
    }
    bool yes = answer.data[0] == '2' || answer.data[0] == '3';
    if (server->oddity != NULL && server->answer_count++ == server->oddity_at) {
        return server_say_oddly(w, answer, yes);
    }
    server_put(w, answer);
    return yes;
}

static void server_reset(struct server *server)
{
    server->mail_open = false;
    server->recipient_count = 0;
    server->content_len = 0;
    server->chunk_refused = false;
}

/* Data is complete: the books are written when the answer is a yes. */
static void server_end_of_data(struct world *w, const char *command)
{
    struct server *server = &w->server;
    bool valid = server->recipient_count > 0 && !server->chunk_refused;
    struct slice answer = server_answer(server, command, valid ? "250 taken" : "554 none");
    bool silent = server->ended || server->silent;
    if (server_say(w, answer) && valid && !silent) {
        struct message *m = &w->messages[server->message];
        assert_false(m->taken);
        m->taken = true;
        m->taken_recipients = server->recipient_count;
        m->taken_bytes = server->content_len;
        m->taken_crc = crc32c(0, slice_of(server_content, server->content_len));
    }
    server_reset(server);
}

static void server_take_mail(struct world *w, const char *line)
{
    struct server *server = &w->server;
    if (server->mail_open) {
        (void)server_say(w, SLICE("503 nested"));
        return;
    }
    server_reset(server);
    server->message = (uint32_t)strtoul(line + strlen("MAIL FROM:<m"), NULL, 10);
    assert_in_range(server->message, 1, w->script->count);
    server->mail_open = server_say(w, server_answer(server, line, "250 ok"));
}

static void server_take_bdat(struct world *w, const char *line)
{
    struct server *server = &w->server;
    char *end;
    server->chunk_left = strtoull(line + 5, &end, 10);
    server->chunk_last = strcmp(end, " LAST") == 0;
    assert_true(server->chunk_last || *end == '\0');
    server->in_chunk = true;
    struct slice early = server_answer(server, "early", "");
    if (early.len > 0) {
        (void)server_say(w, early);
    }
}

static void server_end_chunk(struct world *w)
{
    struct server *server = &w->server;
    server->in_chunk = false;
    if (server->chunk_last) {
        server_end_of_data(w, "LAST");
        return;
    }
    bool valid = server->recipient_count > 0 && !server->chunk_refused;
    bool taken = server_say(w, server_answer(server, "CHUNK", valid ? "250 more" : "503 none"));
    server->chunk_refused = server->chunk_refused || !taken;
}

static void server_take_line(struct world *w, const char *line)
{
    struct server *server = &w->server;
    if (strncmp(line, "MAIL", 4) == 0) {
        server_take_mail(w, line);
    } else if (strncmp(line, "RCPT", 4) == 0) {
        struct slice answer = server_answer(server, line, server->mail_open ? "250 ok" : "503 no");
        server->recipient_count += server_say(w, answer) && server->mail_open;
    } else if (strcmp(line, "DATA") == 0) {
        bool valid = server->recipient_count > 0;
        server->in_content =
            server_say(w, server_answer(server, line, valid ? "354 go" : "554 none"));
        server->content_begun = false;
        server->content_len = 0;
    } else if (strncmp(line, "BDAT ", 5) == 0) {
        server_take_bdat(w, line);
    } else if (strcmp(line, "RSET") == 0) {
        (void)server_say(w, server_answer(server, line, "250 ok"));
        server_reset(server);
    } else {
        fail_msg("%s: the server hears \"%s\"", w->script->name, line);
    }
}

static void server_take_data_line(struct world *w, struct slice line)
{
    struct server *server = &w->server;
    if (slice_equal(line, SLICE(".\r\n"))) {
        server->in_content = false;
        server_end_of_data(w, ".");
        return;
    }
    if (!server->content_begun) {
        server->content_begun = true;
        (void)server_say(w, server_answer(server, "content", ""));
    }
    line = slice_starts_with(line, SLICE(".")) ? slice_tail(line, 1) : line;
    memcpy(server_content + server->content_len, line.data, line.len);
    server->content_len += line.len;
}

static void server_take(struct world *w, struct slice in)
{
    struct server *server = &w->server;
    for (size_t index = 0; index < in.len && !server->ended; index++) {
        if (server->heard_bytes++ >= server->heard_max) {
            server->ended = true;
            return;
        }
        if (server->unasked != NULL && server->heard_bytes == server->unasked_at + 1) {
            server_put(w, slice_from_str(server->unasked));
        }
        if (server->ended) {
            return;
        }
        if (server->in_chunk) {
            server_content[server->content_len++] = in.data[index];
            assert_true(server->content_len < sizeof server_content);
            server->chunk_left--;
        } else {
            buf_put_byte(&server->line, in.data[index]);
            assert_false(server->line.overflow);
            if (in.data[index] == '\n' && server->in_content) {
                server_take_data_line(w, buf_slice(&server->line));
                buf_reset(&server->line);
            } else if (in.data[index] == '\n') {
                assert_int_equal(server->line.data[server->line.len - 2], '\r');
                server->line.data[server->line.len - 2] = '\0';
                server_take_line(w, (const char *)server->line.data);
                buf_reset(&server->line);
            }
        }
        if (server->in_chunk && server->chunk_left == 0) {
            server_end_chunk(w);
        }
    }
}

/* ---- the owner ---- */

/* Lines of every kind, led by dots here and there; different for each message. */
static uint8_t content_byte(uint32_t message, size_t at)
{
    static const char text[] = ".0123456789\r\nabcdefghijklmnopqrstuvwxyz\r\n..\r\n\r\n";
    return (uint8_t)text[(at + message * 5) % (sizeof text - 1)];
}

/* As it must arrive: a CRLF at the end, and none cut in half at the beginning. */
static struct slice content_of(uint32_t message, size_t bytes, uint8_t *memory)
{
    for (size_t at = 0; at < bytes; at++) {
        memory[at] = content_byte(message, at);
    }
    if (bytes > 0) {
        memory[0] = memory[0] == '\n' ? 'n' : memory[0];
        memory[bytes - 1] = memory[bytes - 1] == '\r' ? 'r' : memory[bytes - 1];
    }
    return slice_of(memory, bytes);
}

static const char *const failure_words[] = {"reply",    "no-starttls", "no-auth",
                                            "protocol", "timeout",     "closed"};

static void describe(struct world *w, const struct smtp_client_event *e)
{
    struct buf *to = &w->heard;
    if (e->type == SMTP_CLIENT_EVENT_RECIPIENT) {
        buf_printf(to, "#%u refused %u at %s by %u;", e->tag, e->index,
                   smtp_client_stage_word(e->stage), e->reply.code);
    } else if (e->type == SMTP_CLIENT_EVENT_DONE) {
        buf_printf(to, "#%u done %u by %u;", e->tag, e->accepted_count, e->reply.code);
    } else if (e->type == SMTP_CLIENT_EVENT_LOST) {
        buf_printf(to, "#%u lost %s at %s by %u%s;", e->tag, failure_words[e->failure],
                   smtp_client_stage_word(e->stage), e->reply.code, e->behind ? " behind" : "");
    } else if (e->type == SMTP_CLIENT_EVENT_FAILED) {
        buf_printf(to, "failed %s at %s by %u%s;", failure_words[e->failure],
                   smtp_client_stage_word(e->stage), e->reply.code,
                   e->anomaly != NULL ? " anomaly" : "");
    }
    assert_false(to->overflow);
}

static void take_event(struct world *w, const struct smtp_client_event *e)
{
    struct message *m = &w->messages[e->tag];
    describe(w, e);
    assert_false(w->failed); /* FAILED is the last */
    switch (e->type) {
    case SMTP_CLIENT_EVENT_READY:
        break;
    case SMTP_CLIENT_EVENT_RECIPIENT:
        assert_int_equal(m->fate, FATE_BEGUN);
        assert_true(e->index < w->script->recipient_count);
        assert_int_equal(m->refused[e->index], 0);
        m->refused[e->index] = 1;
        m->refused_count++;
        break;
    case SMTP_CLIENT_EVENT_CONTENT:
        assert_int_equal(m->fate, FATE_BEGUN);
        assert_false(m->content_told);
        m->content_told = true;
        break;
    case SMTP_CLIENT_EVENT_DONE:
    case SMTP_CLIENT_EVENT_LOST:
        assert_int_equal(m->fate, FATE_BEGUN);
        m->fate = e->type == SMTP_CLIENT_EVENT_DONE ? FATE_DONE : FATE_LOST;
        m->end = *e;
        break;
    case SMTP_CLIENT_EVENT_FAILED:
        w->failed = true;
        w->anomaly = e->anomaly;
        break;
    case SMTP_CLIENT_EVENT_STARTTLS:
    case SMTP_CLIENT_EVENT_AUTH:
    case SMTP_CLIENT_EVENT_AUTH_CHALLENGE:
    case SMTP_CLIENT_EVENT_AUTH_RESULT:
    case SMTP_CLIENT_EVENT_CLOSE:
        fail_msg("event %u", e->type);
    }
}

static void pull(struct world *w)
{
    struct smtp_client_event event;
    while (smtp_client_next(&w->client, &event)) {
        take_event(w, &event);
    }
}

static void begin_more(struct world *w)
{
    while (w->begun < w->script->count &&
           smtp_client_has_room(&w->client, w->script->recipient_count)) {
        uint32_t number = ++w->begun;
        w->messages[number].fate = FATE_BEGUN;
        struct smtp_client_mail mail = {.tag = number,
                                        .sender = slice_from_str(w->senders[number]),
                                        .recipients = w->recipients,
                                        .recipient_count = w->script->recipient_count,
                                        .size = w->script->content_bytes,
                                        .dialogue = number == 1 ? &w->dialogue : NULL};
        assert_int_equal(smtp_client_begin_mail(&w->client, &mail, w->now_ms), SMTP_CLIENT_BEGUN);
        pull(w);
    }
}

/* Pieces that end anywhere, but stay what they are until they are used. 0: not now. */
static size_t next_piece(const struct world *w, uint32_t tag)
{
    const struct message *m = &w->messages[tag];
    if (tag == w->gives_up && w->fills_up && m->brought == w->gives_up_at) {
        size_t taken = strlen("BDAT 12345\r\n") + 3;
        size_t room = buf_room(&w->client.output);
        return room > 1000 ? room - taken : 0;
    }
    return w->piece - m->brought % w->piece;
}

static bool give_up(struct world *w, uint32_t tag)
{
    struct message *m = &w->messages[tag];
    size_t enough = w->gives_up_at + (w->fills_up ? 1 : 0);
    if (tag == w->gives_up && m->brought >= enough) {
        m->abandoned = smtp_client_content_abandon(&w->client, w->now_ms);
    }
    return m->abandoned;
}

static void bring_content(struct world *w)
{
    static uint8_t memory[1 << 20];
    static uint32_t made_tag;
    static size_t made_bytes;
    uint32_t tag;
    while (smtp_client_wants_content(&w->client, &tag)) {
        struct message *m = &w->messages[tag];
        if (made_tag != tag || made_bytes != w->script->content_bytes) {
            made_tag = tag;
            made_bytes = w->script->content_bytes;
            (void)content_of(made_tag, made_bytes, memory);
        }
        struct slice rest = slice_tail(slice_of(memory, made_bytes), m->brought);
        if (give_up(w, tag)) {
            pull(w);
            continue;
        }
        if (rest.len == 0) {
            if (!smtp_client_content_end(&w->client, w->now_ms)) {
                return;
            }
        } else {
            struct slice piece = slice_head(rest, next_piece(w, tag));
            size_t used = smtp_client_content(&w->client, piece, w->now_ms);
            m->brought += used;
            if (used == 0) {
                return;
            }
        }
        pull(w);
    }
}

static bool send_some(struct world *w)
{
    static uint8_t copy[SMTP_CLIENT_OUTPUT_BYTES];
    struct slice output = smtp_client_output(&w->client);
    assert_true(output.len <= SMTP_CLIENT_OUTPUT_BYTES);
    output = slice_head(output, w->cut == 0 ? SIZE_MAX : w->cut * 3);
    if (output.len == 0 || w->server.ended) {
        return false;
    }
    memcpy(copy, output.data, output.len);
    smtp_client_output_done(&w->client, output.len, w->now_ms);
    server_take(w, slice_of(copy, output.len));
    return true;
}

static bool feed_some(struct world *w)
{
    struct slice in = slice_head(buf_slice(&w->pending), w->cut == 0 ? SIZE_MAX : w->cut);
    in = slice_head(in, (size_t)u64_min(w->said_max - w->said_bytes, SIZE_MAX));
    if (in.len == 0) {
        return false;
    }
    size_t used = smtp_client_feed(&w->client, in, w->now_ms);
    w->said_bytes += used;
    buf_consume(&w->pending, used);
    return used > 0;
}

/* ---- a play ---- */

static const char *const mode_words[] = {"off", "safe", "stream"};

#define HELLO_ALL "250-mx\r\n250-SIZE\r\n250-CHUNKING\r\n250 PIPELINING\r\n"

static void set_up_with(struct world *w, const struct script *script,
                        enum smtp_client_pipelining mode, size_t cut, struct slice hello)
{
    memset(w, 0, sizeof *w);
    w->script = script;
    w->cut = cut;
    w->piece = 50000;
    w->now_ms = 1000;
    w->config = (struct smtp_client_config){.hello_name = "me.example",
                                            .pipelining = mode,
                                            .window_max = 8,
                                            .window_bytes_max = 200000,
                                            .greeting_ms_max = 1000,
                                            .command_ms_max = 1000,
                                            .data_ms_max = 1000,
                                            .block_ms_max = 1000,
                                            .end_ms_max = 1000,
                                            .quit_ms_max = 1000};
    static const char paths[RECIPIENTS_MAX][10] = {"a@x", "b@x", "c@x", "d@x", "e@x", "f@x"};
    for (size_t index = 0; index < RECIPIENTS_MAX; index++) {
        w->recipients[index].path = slice_from_str(paths[index]);
    }
    for (uint32_t number = 1; number <= MESSAGES_MAX; number++) {
        snprintf(w->senders[number], sizeof w->senders[number], "m%u@y.example", number);
    }
    buf_init(&w->pending, pending_memory, sizeof pending_memory);
    buf_init(&w->heard, heard_memory, sizeof heard_memory);
    buf_init(&w->dialogue, w->dialogue_memory, sizeof w->dialogue_memory);
    w->server.answers = script->answers;
    buf_init(&w->server.line, w->server.line_memory, sizeof w->server.line_memory);
    w->server.heard_max = w->said_max = UINT64_MAX;
    smtp_client_init(&w->client, &w->config, w->output, w->now_ms);
    struct slice greeting = SLICE("220 mx\r\n");
    assert_int_equal(smtp_client_feed(&w->client, greeting, w->now_ms), greeting.len);
    smtp_client_output_done(&w->client, smtp_client_output(&w->client).len, w->now_ms);
    assert_int_equal(smtp_client_feed(&w->client, hello, w->now_ms), hello.len);
    pull(w);
}

static void set_up(struct world *w, const struct script *script, enum smtp_client_pipelining mode,
                   size_t cut)
{
    set_up_with(w, script, mode, cut, SLICE(HELLO_ALL));
    assert_int_equal(w->client.mode, mode);
}

static bool all_over(const struct world *w)
{
    return w->begun == w->script->count && smtp_client_is_idle(&w->client);
}

static void run(struct world *w)
{
    for (uint64_t step = 0;; step++) {
        assert_true(step < 10000000);
        pull(w);
        if (w->client.state == SMTP_CLIENT_CLOSED) {
            return;
        }
        begin_more(w);
        bring_content(w);
        bool moved = send_some(w);
        moved = feed_some(w) || moved;
        if (moved) {
            continue;
        }
        if (all_over(w)) {
            return;
        }
        if (w->server.ended || w->said_bytes == w->said_max) {
            smtp_client_stream_ended(&w->client);
        } else {
            assert_true(w->server.silent || w->server.owes); /* else somebody forgot something */
            uint64_t deadline_ms = smtp_client_deadline_ms(&w->client);
            assert_true(deadline_ms != UINT64_MAX);
            smtp_client_expire(&w->client, deadline_ms - 1);
            assert_true(w->client.state != SMTP_CLIENT_CLOSED);
            smtp_client_expire(&w->client, deadline_ms);
            assert_true(w->client.state == SMTP_CLIENT_CLOSED);
        }
    }
}

static bool is_in_doubt(const struct message *m)
{
    return m->fate == FATE_LOST && m->end.stage == SMTP_CLIENT_STAGE_END &&
           m->end.failure != SMTP_CLIENT_FAILURE_REPLY;
}

static void balance(const struct world *w)
{
    static uint8_t memory[1 << 20];
    for (uint32_t number = 1; number <= w->script->count; number++) {
        const struct message *m = &w->messages[number];
        bool begun = number <= w->begun;
        bool told_taken =
            m->fate == FATE_DONE && m->end.accepted_count > 0 && m->end.reply.code / 100 == 2;
        assert_true(
            m->fate ==
            (begun ? m->end.type == SMTP_CLIENT_EVENT_DONE ? FATE_DONE : FATE_LOST : FATE_NONE));
        if (m->abandoned) {
            assert_false(m->taken);
            assert_true(m->fate != FATE_DONE || m->end.accepted_count == 0);
        } else if (m->fate == FATE_DONE) {
            assert_int_equal(m->refused_count + m->end.accepted_count, w->script->recipient_count);
        }
        if (m->taken && !told_taken && !is_in_doubt(m)) {
            fail_msg("%s, %s, cut %zu: message %u is with the server, and that was not told: %.*s",
                     w->script->name, mode_words[w->config.pipelining], w->cut, number,
                     (int)w->heard.len, heard_memory);
        }
        if (told_taken) {
            assert_true(m->taken);
            assert_int_equal(m->taken_recipients, m->end.accepted_count);
        }
        if (m->taken) {
            struct slice content = content_of(number, w->script->content_bytes, memory);
            bool open = content.len > 0 && content.data[content.len - 1] != '\n';
            memcpy(memory + content.len, "\r\n", 2);
            content.len += open ? 2 : 0;
            assert_int_equal(m->taken_bytes, content.len);
            assert_int_equal(m->taken_crc, crc32c(0, content));
        }
    }
    if (!w->failed) {
        assert_true(all_over(w));
        assert_int_equal(w->client.recipients_used, 0);
        assert_int_equal(w->client.bytes_in_flight, 0);
        assert_true(smtp_client_deadline_ms(&w->client) == UINT64_MAX);
        assert_int_equal(smtp_client_output(&w->client).len, 0);
    }
}

static const size_t cuts[] = {0, 1, 2, 3, 7, 40, 1000};

static void check_heard(const struct world *w)
{
    const char *expected = w->script->expected;
    if (expected != NULL && !slice_equal(buf_slice(&w->heard), slice_from_str(expected))) {
        fail_msg("%s, %s, cut %zu: heard\n%.*s\nexpected\n%s", w->script->name,
                 mode_words[w->config.pipelining], w->cut, (int)w->heard.len, heard_memory,
                 expected);
    }
}

static void play(const struct script *script, enum smtp_client_pipelining mode, size_t cut)
{
    static struct world world;
    set_up(&world, script, mode, cut);
    run(&world);
    balance(&world);
    check_heard(&world);
}

#define ALL "off safe stream"
#define TEN                                                                                        \
    "#1 done 2 by 250;#2 done 2 by 250;#3 done 2 by 250;#4 done 2 by 250;#5 done 2 by 250;"        \
    "#6 done 2 by 250;#7 done 2 by 250;#8 done 2 by 250;#9 done 2 by 250;#10 done 2 by 250;"
#define LARGE 150000

static const struct script scripts[] = {
    {"all taken", ALL, 10, 2, 100, "", TEN},
    {"without content", ALL, 10, 2, 0, "", TEN},
    {"one byte", ALL, 10, 2, 1, "", TEN},
    {"large", ALL, 10, 2, LARGE, "", TEN},
    {"larger than the window", ALL, 3, 1, 450001, "",
     "#1 done 1 by 250;#2 done 1 by 250;#3 done 1 by 250;"},
    {"more than the window", ALL, MESSAGES_MAX, 6, 30, "", NULL},
    /* one in the middle, and nobody else, is refused */
    {"a recipient", ALL, 3, 2, 100, "2:RCPT TO:<a=550 x",
     "#1 done 2 by 250;#2 refused 0 at rcpt by 550;#2 done 1 by 250;#3 done 2 by 250;"},
    {"all recipients", ALL, 3, 2, 100, "2:RCPT=550 x",
     "#1 done 2 by 250;#2 refused 0 at rcpt by 550;#2 refused 1 at rcpt by 550;#2 done 0 by 0;"
     "#3 done 2 by 250;"},
    {"all recipients, and yet 354", ALL, 3, 2, 100, "2:RCPT=550 x;2:DATA=354 go;2:.=250 x",
     "#1 done 2 by 250;#2 refused 0 at rcpt by 550;#2 refused 1 at rcpt by 550;#2 done 0 by 0;"
     "#3 done 2 by 250;"},
    {"all recipients, and yet 250 for BDAT", "stream", 3, 2, 100, "2:RCPT=550 x;2:LAST=250 x",
     "#1 done 2 by 250;#2 refused 0 at rcpt by 550;#2 refused 1 at rcpt by 550;#2 done 0 by 0;"
     "#3 done 2 by 250;"},
    {"all recipients of a large one", ALL, 3, 2, LARGE, "2:RCPT=550 x",
     "#1 done 2 by 250;#2 refused 0 at rcpt by 550;#2 refused 1 at rcpt by 550;#2 done 0 by 0;"
     "#3 done 2 by 250;"},
    {"a sender", ALL, 3, 2, 100, "2:MAIL=550 x",
     "#1 done 2 by 250;#2 refused 0 at mail by 550;#2 refused 1 at mail by 550;#2 done 0 by 0;"
     "#3 done 2 by 250;"},
    {"a sender of a large one", ALL, 3, 2, LARGE, "2:MAIL=450 x",
     "#1 done 2 by 250;#2 refused 0 at mail by 450;#2 refused 1 at mail by 450;#2 done 0 by 0;"
     "#3 done 2 by 250;"},
    {"DATA", "off safe", 3, 2, 100, "2:DATA=451 x",
     "#1 done 2 by 250;#2 refused 0 at data by 451;#2 refused 1 at data by 451;#2 done 0 by 0;"
     "#3 done 2 by 250;"},
    {"the content", ALL, 3, 2, 100, "2:.=554 x;2:LAST=554 x",
     "#1 done 2 by 250;#2 done 2 by 554;#3 done 2 by 250;"},
    {"the content, for now", ALL, 3, 2, 100, "2:.=452 x;2:LAST=452 x",
     "#1 done 2 by 250;#2 done 2 by 452;#3 done 2 by 250;"},
    {"everything of everybody", ALL, 4, 2, 100, "*:MAIL=550 x", NULL},
    {"every second recipient", ALL, 10, 6, 1000, "*:RCPT TO:<a=550 x;*:RCPT TO:<c=450 x", NULL},
    {"a chunk with more to come", "stream", 3, 2, LARGE, "2:CHUNK=552 x",
     "#1 done 2 by 250;#2 refused 0 at content by 552;#2 refused 1 at content by 552;"
     "#2 done 0 by 0;#3 done 2 by 250;"},
    {"a chunk, and then the last is taken", "stream", 2, 2, LARGE, "1:CHUNK=552 x;1:LAST=250 x",
     NULL},
    {"503 to BDAT without a recipient", "stream", 3, 2, 100, "2:RCPT=550 x;2:LAST=503 x",
     "#1 done 2 by 250;#2 refused 0 at rcpt by 550;#2 refused 1 at rcpt by 550;#2 done 0 by 0;"
     "#3 done 2 by 250;"},
    /* 421 */
    {"421 to MAIL", "off", 3, 2, 100, "2:MAIL=421 x",
     "#1 done 2 by 250;#2 lost reply at mail by 421;failed reply at mail by 421;"},
    {"421 to MAIL", "safe", 3, 2, 100, "2:MAIL=421 x",
     "#1 done 2 by 250;#2 lost reply at mail by 421;#3 lost reply at idle by 421 behind;"
     "failed reply at mail by 421;"},
    {"421 to MAIL", "stream", 3, 2, 100, "2:MAIL=421 x",
     "#1 done 2 by 250;#2 lost reply at mail by 421;#3 lost reply at end by 421 behind;"
     "failed reply at mail by 421;"},
    {"421 to RCPT", "stream", 3, 2, 100, "2:RCPT TO:<b=421 x",
     "#1 done 2 by 250;#2 lost reply at rcpt by 421;#3 lost reply at end by 421 behind;"
     "failed reply at rcpt by 421;"},
    {"421 to DATA", "safe", 3, 2, 100, "2:DATA=421 x",
     "#1 done 2 by 250;#2 lost reply at data by 421;#3 lost reply at idle by 421 behind;failed "
     "reply at data by 421;"},
    {"421 to the dot", "off", 3, 2, 100, "2:.=421 x",
     "#1 done 2 by 250;#2 lost reply at end by 421;failed reply at end by 421;"},
    {"421 to the dot", "safe", 3, 2, 100, "2:.=421 x",
     "#1 done 2 by 250;#2 lost reply at end by 421;#3 lost reply at mail by 421 behind;"
     "failed reply at end by 421;"},
    {"421 to BDAT LAST", "stream", 3, 2, 100, "2:LAST=421 x",
     "#1 done 2 by 250;#2 lost reply at end by 421;#3 lost reply at end by 421 behind;"
     "failed reply at end by 421;"},
    {"421 to a chunk", "stream", 3, 2, LARGE, "2:CHUNK=421 x", NULL},
    {"421 within content", "off", 2, 2, LARGE, "1:content=421 x",
     "#1 lost reply at content by 421;failed reply at content by 421;"},
    {"421 within content", "safe", 2, 2, LARGE, "1:content=421 x",
     "#1 lost reply at content by 421;#2 lost reply at idle by 421 behind;"
     "failed reply at content by 421;"},
    /* the end */
    {"the end after the dot", "safe", 3, 2, 100, "2:.=end",
     "#1 done 2 by 250;#2 lost closed at end by 0;#3 lost closed at mail by 0 behind;"
     "failed closed at end by 0;"},
    {"the end after BDAT LAST", "stream", 3, 2, 100, "2:LAST=end",
     "#1 done 2 by 250;#2 lost closed at end by 0;#3 lost closed at end by 0 behind;"
     "failed closed at end by 0;"},
    {"silence after the dot", "safe", 3, 2, 100, "2:.=silence",
     "#1 done 2 by 250;#2 lost timeout at end by 0;#3 lost timeout at mail by 0 behind;"
     "failed timeout at end by 0;"},
    {"silence at MAIL", "stream", 3, 2, 100, "2:MAIL=silence",
     "#1 done 2 by 250;#2 lost timeout at end by 0;#3 lost timeout at end by 0 behind;"
     "failed timeout at mail by 0;"},
    {"silence at RCPT", "off", 3, 2, 100, "2:RCPT=silence",
     "#1 done 2 by 250;#2 lost timeout at rcpt by 0;failed timeout at rcpt by 0;"},
    /* what does not fit */
    {"a reply too much", "off safe", 3, 1, 100, "1:.=250 x|250 y", NULL},
    {"a reply too much at the end", "safe stream", 1, 1, 100, "1:.=250 x|250 y;1:LAST=250 x|250 y",
     "#1 done 1 by 250;failed protocol at idle by 250 anomaly;"},
    {"a go-ahead for RCPT", ALL, 1, 1, 100, "1:RCPT=354 x", NULL},
    {"BDAT is not known", "stream", 3, 1, 100, "1:LAST=500 x",
     "#1 lost protocol at end by 500;#2 lost protocol at end by 0 behind;"
     "#3 lost protocol at end by 0 behind;failed protocol at end by 500 anomaly;"},
    {"BDAT is out of order", "stream", 1, 1, LARGE, "1:CHUNK=503 x", NULL},
    {"MAIL is out of order", "stream", 3, 1, 100, "2:MAIL=503 x",
     "#1 done 1 by 250;#2 lost protocol at end by 503;#3 lost protocol at end by 0 behind;"
     "failed protocol at mail by 503 anomaly;"},
    {"MAIL is out of order, one at a time", "off", 3, 1, 100, "2:MAIL=503 x",
     "#1 done 1 by 250;#2 refused 0 at mail by 503;#2 done 0 by 0;#3 done 1 by 250;"},
    {"the first MAIL wants a login", ALL, 1, 1, 100, "1:MAIL=503 x",
     "#1 refused 0 at mail by 503;#1 done 0 by 0;"},
    {"nonsense", ALL, 3, 1, 100, "2:RCPT=ok", NULL},
    {"250 before the chunk has come", "stream", 1, 1, LARGE, "1:early=250 x", NULL},
    {"552 before the chunk has come", "stream", 1, 1, LARGE, "1:early=552 x", NULL},
    {"RSET is refused", "off safe", 3, 1, 100, "2:RCPT=550 x;2:RSET=502 x", NULL},
};

static void for_each_mode(void (*fn)(const struct script *, enum smtp_client_pipelining))
{
    for (size_t index = 0; index < sizeof scripts / sizeof scripts[0]; index++) {
        for (unsigned mode = 0; mode < 3; mode++) {
            if (strstr(scripts[index].modes, mode_words[mode]) != NULL) {
                fn(&scripts[index], (enum smtp_client_pipelining)mode);
            }
        }
    }
}

static void play_with_all_cuts(const struct script *script, enum smtp_client_pipelining mode)
{
    /* Large ones in large pieces. */
    size_t first = script->content_bytes <= 1000 ? 0 : 5;
    for (size_t index = first; index < sizeof cuts / sizeof cuts[0]; index++) {
        play(script, mode, cuts[index]);
    }
    play(script, mode, 0);
}

static void plays_the_scripts(void **state)
{
    (void)state;
    for_each_mode(play_with_all_cuts);
}

/* ---- the end at every byte ---- */

static void lose_at_every_byte(const struct script *script, enum smtp_client_pipelining mode)
{
    static struct world world;
    if (script->content_bytes > 1000 || script->count > 10) {
        return;
    }
    set_up(&world, script, mode, 0);
    run(&world);
    uint64_t heard = world.server.heard_bytes;
    uint64_t said = world.said_bytes;
    for (uint64_t max = 0; max < heard; max++) {
        set_up(&world, script, mode, 0);
        world.server.heard_max = max;
        run(&world);
        balance(&world);
        assert_true(world.failed);
    }
    for (uint64_t max = 0; max < said; max++) {
        set_up(&world, script, mode, 0);
        world.said_max = max;
        run(&world);
        balance(&world);
        assert_true(world.failed || all_over(&world)); /* the last reply is one too much in some */
    }
}

static void loses_at_every_byte(void **state)
{
    (void)state;
    for_each_mode(lose_at_every_byte);
}

/* ---- given up by the owner ---- */

/* Of each row the first message is given up; the others are none the worse for it. */
static const struct script given_up[] = {
    {"given up", "stream", 3, 2, 70000, "", "#1 done 0 by 0;#2 done 2 by 250;#3 done 2 by 250;"},
    {"given up, and a chunk refused", "stream", 3, 2, 70000, "1:CHUNK=552 x",
     "#1 refused 0 at content by 552;#1 refused 1 at content by 552;#1 done 0 by 0;"
     "#2 done 2 by 250;#3 done 2 by 250;"},
    {"given up, and the next one deferred", "stream", 3, 2, 70000, "1:CHUNK=552 x;2:LAST=452 x",
     "#1 refused 0 at content by 552;#1 refused 1 at content by 552;#1 done 0 by 0;"
     "#2 done 2 by 452;#3 done 2 by 250;"},
    {"given up, and all recipients refused", "stream", 3, 2, 70000, "1:RCPT=550 x",
     "#1 refused 0 at rcpt by 550;#1 refused 1 at rcpt by 550;#1 done 0 by 0;#2 done 2 by 250;"
     "#3 done 2 by 250;"},
    {"given up, and its sender refused", "stream", 3, 2, 70000, "1:MAIL=550 x",
     "#1 refused 0 at mail by 550;#1 refused 1 at mail by 550;#1 done 0 by 0;#2 done 2 by 250;"
     "#3 done 2 by 250;"},
};

static void set_up_given_up(struct world *w, const struct script *script, size_t cut, bool fills_up)
{
    set_up(w, script, SMTP_CLIENT_PIPELINING_STREAM, cut);
    w->piece = 40;
    w->gives_up = 1;
    w->gives_up_at = 40;
    w->fills_up = fills_up;
}

/* With room for RSET, and with none until what is in the output has been sent. */
static void gives_up_without_harm_to_others(void **state)
{
    (void)state;
    static struct world world;
    for (size_t at = 0; at < sizeof given_up / sizeof given_up[0]; at++) {
        for (size_t round = 0; round < 2 * sizeof cuts / sizeof cuts[0]; round++) {
            set_up_given_up(&world, &given_up[at], cuts[round / 2], round % 2 == 0);
            run(&world);
            balance(&world);
            check_heard(&world);
        }
    }
}

static void loses_what_is_given_up_at_every_byte(void **state)
{
    (void)state;
    static struct world world;
    static const struct script script = {"given up", "stream", 3, 2, 100, "1:CHUNK=552 x", NULL};
    set_up_given_up(&world, &script, 0, false);
    run(&world);
    uint64_t heard = world.server.heard_bytes;
    for (uint64_t max = 0; max < heard; max++) {
        set_up_given_up(&world, &script, 0, false);
        world.server.heard_max = max;
        run(&world);
        balance(&world);
        assert_true(world.failed);
    }
}

/* ---- an odd answer, at every place ---- */

static const struct oddity oddities[] = {
    {ODDITY_INSTEAD, "450 x", true},
    {ODDITY_INSTEAD, "452-x|452 4.3.1 y", true},
    {ODDITY_INSTEAD, "550 x", true},
    {ODDITY_INSTEAD, "421 x", false},
    {ODDITY_INSTEAD, "250 x", false},
    {ODDITY_INSTEAD, "251-x|251 y", false},
    {ODDITY_INSTEAD, "354 x", false},
    {ODDITY_INSTEAD, "334 eA==", false},
    {ODDITY_INSTEAD, "250-x|550 y", false},
    {ODDITY_INSTEAD, "999 x", false},
    {ODDITY_INSTEAD, "25", false},
    {ODDITY_INSTEAD, "2500 x", false},
    {ODDITY_INSTEAD, " ", false},
    {ODDITY_INSTEAD, "silence", false},
    {ODDITY_INSTEAD, "end", false},
    {ODDITY_BEHIND, "250 x", false}, /* a no would be taken for the next command's answer */
    {ODDITY_BEHIND, "421 x", false},
    {ODDITY_BEHIND, "x", false},
    {ODDITY_BEHIND, "end", false},
    {ODDITY_NOTHING, "", false},
};

/* A no harms nobody but the message that it was said to. */
static void check_the_others(const struct world *w)
{
    if (w->failed) {
        fail_msg("%s, %s, cut %zu: answer %u: %s ends the connection: %.*s", w->script->name,
                 mode_words[w->config.pipelining], w->cut, w->server.oddity_at,
                 w->server.oddity->words, (int)w->heard.len, heard_memory);
    }
    for (uint32_t number = 1; number <= w->script->count; number++) {
        const struct message *m = &w->messages[number];
        bool whole = m->taken && m->taken_recipients == w->script->recipient_count;
        assert_int_equal(whole, number != w->server.oddity_message);
    }
}

/* Returns the number of answers that there were. */
static uint32_t play_oddity(const struct script *script, enum smtp_client_pipelining mode,
                            size_t cut, const struct oddity *oddity, uint32_t at)
{
    static struct world world;
    set_up(&world, script, mode, cut);
    world.piece = 40;
    world.server.oddity = oddity;
    world.server.oddity_at = at;
    run(&world);
    balance(&world);
    if (oddity->refuses && at < world.server.answer_count) {
        check_the_others(&world);
    }
    return world.server.answer_count;
}

static void bears_each_oddity_at_each_answer(void **state)
{
    (void)state;
    static const struct script script = {"oddity", ALL, 3, 2, 100, "", NULL};
    static const size_t some_cuts[] = {0, 1, 40};
    static const uint32_t answers[] = {15, 15, 18}; /* in chunks of 40 there are three */
    for (unsigned mode = 0; mode < 3; mode++) {
        enum smtp_client_pipelining pipelining = (enum smtp_client_pipelining)mode;
        uint32_t count = play_oddity(&script, pipelining, 0, &oddities[0], UINT32_MAX);
        assert_int_equal(count, answers[mode]);
        for (size_t kind = 0; kind < sizeof oddities / sizeof oddities[0]; kind++) {
            for (uint32_t at = 0; at < count; at++) {
                for (size_t cut = 0; cut < sizeof some_cuts / sizeof some_cuts[0]; cut++) {
                    (void)play_oddity(&script, pipelining, some_cuts[cut], &oddities[kind], at);
                }
            }
        }
    }
}

/* At every byte that the server hears, before or behind what it has to say anyway. */
static void bears_a_reply_that_nobody_asked_for(void **state)
{
    (void)state;
    static struct world world;
    static const struct script script = {"unasked", ALL, 3, 2, 100, "", NULL};
    static const char *const words[] = {"250 x", "421 x", "250-x", "x"};
    static const size_t some_cuts[] = {0, 1};
    for (unsigned mode = 0; mode < 3; mode++) {
        set_up(&world, &script, (enum smtp_client_pipelining)mode, 0);
        world.piece = 40;
        run(&world);
        uint64_t heard = world.server.heard_bytes;
        for (size_t index = 0; index < 2 * 4 * heard; index++) {
            set_up(&world, &script, (enum smtp_client_pipelining)mode, some_cuts[index % 2]);
            world.piece = 40;
            world.server.unasked = words[index / 2 % 4];
            world.server.unasked_at = index / 8;
            run(&world);
            balance(&world);
            /* A reply's first line becomes one with the answer behind it. */
            assert_true(world.failed || strcmp(world.server.unasked, "250-x") == 0);
        }
    }
}

/* A yes to what the server does not have yet is no yes. All that is sent at once it may have. */
static void believes_no_yes_before_the_end(void **state)
{
    (void)state;
    static const struct script script = {
        "too early", ALL, 2, 2, 400, "1:early=250 x;1:content=250 x;1:.=554 x;1:LAST=554 x", NULL};
    static struct world world;
    for (unsigned mode = 0; mode < 3; mode++) {
        for (size_t cut = 1; cut <= 3; cut++) {
            set_up(&world, &script, (enum smtp_client_pipelining)mode, cut);
            run(&world);
            balance(&world);
            assert_true(world.failed);
            assert_int_equal(world.messages[1].fate, FATE_LOST);
        }
    }
}

/* ---- what is not announced ---- */

/* Hears one command, or the content and its end, and answers before it is told more. */
static void does_only_what_is_announced(void **state)
{
    (void)state;
    static struct world w;
    static const struct script script = {"announced", ALL, 3, 2, 100, "2:RCPT TO:<a=550 x", NULL};
    static const struct {
        const char *hello;
        enum smtp_client_pipelining wanted, mode;
    } rows[] = {
        {"250 mx\r\n", SMTP_CLIENT_PIPELINING_STREAM, SMTP_CLIENT_PIPELINING_OFF},
        {"250-mx\r\n250 CHUNKING\r\n", SMTP_CLIENT_PIPELINING_STREAM, SMTP_CLIENT_PIPELINING_OFF},
        {"250-mx\r\n250 PIPELINING\r\n", SMTP_CLIENT_PIPELINING_STREAM,
         SMTP_CLIENT_PIPELINING_SAFE},
        {"250-mx\r\n250 PIPELINING\r\n", SMTP_CLIENT_PIPELINING_OFF, SMTP_CLIENT_PIPELINING_OFF},
        {"250 mx\r\n", SMTP_CLIENT_PIPELINING_SAFE, SMTP_CLIENT_PIPELINING_OFF},
        {HELLO_ALL, SMTP_CLIENT_PIPELINING_SAFE, SMTP_CLIENT_PIPELINING_SAFE},
        {HELLO_ALL, SMTP_CLIENT_PIPELINING_STREAM, SMTP_CLIENT_PIPELINING_STREAM},
    };
    for (size_t index = 0; index < sizeof rows / sizeof rows[0]; index++) {
        set_up_with(&w, &script, rows[index].wanted, 0, slice_from_str(rows[index].hello));
        assert_int_equal(w.client.mode, rows[index].mode);
        uint32_t ahead = 0;
        while (!all_over(&w)) {
            pull(&w);
            begin_more(&w);
            bring_content(&w);
            struct slice output = smtp_client_output(&w.client);
            size_t line = slice_find(output, '\n') + 1;
            ahead += !w.server.in_content && line < output.len;
            while (send_some(&w)) {
            }
            while (feed_some(&w)) {
                pull(&w);
            }
        }
        balance(&w);
        assert_false(w.failed);
        assert_int_equal(ahead > 0, rows[index].mode != SMTP_CLIENT_PIPELINING_OFF);
    }
}

/* ---- replies of a thousand lines ---- */

static void reads_endless_replies(const struct script *script, enum smtp_client_pipelining mode)
{
    static struct world world;
    if (script->content_bytes > 1000 || script->count > 3) {
        return;
    }
    set_up(&world, script, mode, 0);
    world.server.filler_lines = SMTP_REPLY_LINES_MAX - 1;
    run(&world);
    balance(&world);
    bool nonsense = strstr(script->answers, "=ok") != NULL;
    if (!nonsense) {
        check_heard(&world);
    }
    set_up(&world, script, mode, 997);
    world.server.filler_lines = SMTP_REPLY_LINES_MAX; /* one too many */
    run(&world);
    balance(&world);
    assert_true(world.failed);
    assert_true((world.anomaly != NULL) == (mode != SMTP_CLIENT_PIPELINING_OFF));
}

static void reads_replies_of_a_thousand_lines(void **state)
{
    (void)state;
    for_each_mode(reads_endless_replies);
}

/* ---- bounds ---- */

/* How deep the window is, when the server answers nothing. */
static void keeps_the_window_bounded(void **state)
{
    (void)state;
    static struct world w;
    static const struct {
        enum smtp_client_pipelining mode;
        uint32_t recipient_count;
        size_t content_bytes;
        uint32_t begun, put;
    } rows[] = {
        {SMTP_CLIENT_PIPELINING_OFF, 1, 10, 1, 0},
        {SMTP_CLIENT_PIPELINING_SAFE, 1, 10, 2, 0},
        {SMTP_CLIENT_PIPELINING_STREAM, 1, 10, 8, 8},     /* messages */
        {SMTP_CLIENT_PIPELINING_STREAM, 1, 60000, 8, 3},  /* bytes: 200,000 */
        {SMTP_CLIENT_PIPELINING_STREAM, 1, 200001, 8, 1}, /* a larger one goes alone */
    };
    for (size_t index = 0; index < sizeof rows / sizeof rows[0]; index++) {
        struct script script = {"bounds",
                                ALL,
                                MESSAGES_MAX,
                                rows[index].recipient_count,
                                rows[index].content_bytes,
                                "*:MAIL=silence",
                                NULL};
        set_up(&w, &script, rows[index].mode, 0);
        do {
            begin_more(&w);
            bring_content(&w);
        } while (send_some(&w));
        assert_int_equal(w.begun, rows[index].begun);
        uint32_t put = 0;
        for (uint32_t at = 0; at < w.client.slot_count; at++) {
            put += w.client.slots[at].phase == SMTP_CLIENT_PHASE_END;
        }
        assert_int_equal(put, rows[index].put);
    }
}

/* The recipients of all messages together are bounded; a message that does not fit waits. */
static void keeps_the_recipients_bounded(void **state)
{
    (void)state;
    static struct world w;
    static struct smtp_client_recipient many[SMTP_RECIPIENTS_UPSTREAM_MAX];
    struct script script = {"recipients", ALL, MESSAGES_MAX, 1, 10, "", NULL};
    set_up(&w, &script, SMTP_CLIENT_PIPELINING_STREAM, 0);
    for (size_t index = 0; index < SMTP_RECIPIENTS_UPSTREAM_MAX; index++) {
        many[index].path = SLICE("a@x.example");
    }
    struct smtp_client_mail mail = {.tag = 1,
                                    .sender = SLICE("m1@y"),
                                    .recipients = many,
                                    .recipient_count = SMTP_RECIPIENTS_UPSTREAM_MAX,
                                    .size = 10};
    for (uint32_t count = 0; count < 2; count++) {
        assert_true(smtp_client_has_room(&w.client, SMTP_RECIPIENTS_UPSTREAM_MAX));
        assert_int_equal(smtp_client_begin_mail(&w.client, &mail, w.now_ms), SMTP_CLIENT_BEGUN);
        mail.tag++;
    }
    uint32_t left = SMTP_CLIENT_RECIPIENTS_MAX - 2 * SMTP_RECIPIENTS_UPSTREAM_MAX;
    assert_true(smtp_client_has_room(&w.client, left));
    assert_false(smtp_client_has_room(&w.client, left + 1));
}

/* ---- chunks ---- */

/* Whatever is brought, however it is cut: what leaves is canonical, and counted right. */
static void chunks_are_canonical(void **state)
{
    (void)state;
    static const struct {
        const char *in, *out;
    } rows[] = {
        {"a\r\nb\r\n", "a\r\nb\r\n"},
        {"a\nb\n", "a\r\nb\r\n"},
        {"a\rb", "a\r\nb\r\n"},
        {"\r", "\r\n"},
        {"\n", "\r\n"},
        {"a", "a\r\n"},
        {"\r\r\n\n", "\r\n\r\n\r\n"},
        {"..\r\n.\r\n", "..\r\n.\r\n"},
        {"a\r", "a\r\n"},
        {"a\r\r", "a\r\n\r\n"},
        {"\n\r", "\r\n\r\n"},
        {"\n\n\r\r", "\r\n\r\n\r\n\r\n"},
    };
    static struct world w;
    static const struct script script = {"chunks", "stream", 1, 1, 0, "", NULL};
    for (size_t index = 0; index < sizeof rows / sizeof rows[0]; index++) {
        for (size_t piece = 1; piece <= 8; piece++) {
            set_up(&w, &script, SMTP_CLIENT_PIPELINING_STREAM, 0);
            struct slice in = slice_from_str(rows[index].in);
            struct smtp_client_mail mail = {.tag = 1,
                                            .sender = slice_from_str(w.senders[1]),
                                            .recipients = w.recipients,
                                            .recipient_count = 1,
                                            .size = in.len};
            w.begun = 1;
            w.messages[1].fate = FATE_BEGUN;
            assert_int_equal(smtp_client_begin_mail(&w.client, &mail, 0), SMTP_CLIENT_BEGUN);
            while (in.len > 0) {
                in = slice_tail(in, smtp_client_content(&w.client, slice_head(in, piece), 0));
            }
            assert_true(smtp_client_content_end(&w.client, 0));
            run(&w);
            assert_true(slice_equal(buf_slice(&w.heard), SLICE("#1 done 1 by 250;")));
            assert_int_equal(w.messages[1].taken_bytes, strlen(rows[index].out));
            assert_int_equal(w.messages[1].taken_crc, crc32c(0, slice_from_str(rows[index].out)));
        }
    }
}

/* ---- the dialogue ---- */

static void notes_what_was_said(void **state)
{
    (void)state;
    static struct world w;
    static const struct script script = {"dialogue", ALL, 2, 2, 100, "1:RCPT TO:<b=550 5.1.1 who",
                                         NULL};
    static const char *const expected[] = {
        "C: MAIL FROM:<m1@y.example> SIZE=100\nS: 250 ok\nC: RCPT TO:<a@x>\nS: 250 ok\n"
        "C: RCPT TO:<b@x>\nS: 550 5.1.1 who\nC: DATA\nS: 354 go\n-- 100 bytes of content\nC: .\n"
        "S: 250 taken\n",
        "C: MAIL FROM:<m1@y.example> SIZE=100\nC: RCPT TO:<a@x>\nC: RCPT TO:<b@x>\nC: DATA\n"
        "S: 250 ok\nS: 250 ok\nS: 550 5.1.1 who\nS: 354 go\n-- 100 bytes of content\nC: .\n"
        "S: 250 taken\n",
        "C: MAIL FROM:<m1@y.example> SIZE=100\nC: RCPT TO:<a@x>\nC: RCPT TO:<b@x>\n"
        "C: BDAT 102 LAST\n-- 100 bytes of content\nS: 250 ok\nS: 250 ok\nS: 550 5.1.1 who\n"
        "S: 250 taken\n",
    };
    for (unsigned mode = 0; mode < 3; mode++) {
        set_up(&w, &script, (enum smtp_client_pipelining)mode, 0);
        run(&w);
        assert_true(w.dialogue.len < sizeof w.dialogue_memory);
        w.dialogue_memory[w.dialogue.len] = '\0';
        assert_string_equal((const char *)w.dialogue_memory, expected[mode]);
    }
    /* Every size of memory: whole lines, and a mark where it is cut. */
    for (size_t cap = 12; cap < 300; cap++) {
        set_up(&w, &script, SMTP_CLIENT_PIPELINING_OFF, 0);
        w.dialogue.cap = cap;
        run(&w);
        bool whole = slice_equal(buf_slice(&w.dialogue), slice_from_str(expected[0]));
        struct slice mark = SLICE("-- cut here\n");
        bool marked =
            w.dialogue.len >= mark.len &&
            slice_equal(slice_of(w.dialogue.data + w.dialogue.len - mark.len, mark.len), mark);
        assert_true(whole != marked);
        assert_true(w.dialogue.len <= cap);
    }
}

/* ---- DSN ---- */

static void passes_dsn_on_where_it_is_announced(void **state)
{
    (void)state;
    static struct world w;
    static const struct script script = {"dsn", ALL, 1, 3, 10, "", NULL};
    static uint8_t long_value[SMTP_CLIENT_ORCPT_BYTES_MAX + 1];
    memset(long_value, 'x', sizeof long_value);
    for (int announced = 0; announced < 2; announced++) {
        set_up(&w, &script, SMTP_CLIENT_PIPELINING_SAFE, 0);
        w.client.extensions |= announced ? SMTP_CLIENT_EXT_DSN : 0;
        w.recipients[0].notify = SMTP_CLIENT_NOTIFY_SUCCESS | SMTP_CLIENT_NOTIFY_DELAY;
        w.recipients[0].orcpt = SLICE("rfc822;anna+2Bx@x");
        w.recipients[1].notify = SMTP_CLIENT_NOTIFY_NEVER | SMTP_CLIENT_NOTIFY_FAILURE;
        w.recipients[1].orcpt = SLICE("rfc822;two words");
        w.recipients[2].notify = SMTP_CLIENT_NOTIFY_FAILURE;
        w.recipients[2].orcpt = slice_of(long_value, sizeof long_value);
        struct smtp_client_mail mail = {.tag = 1,
                                        .sender = SLICE("m1@y"),
                                        .recipients = w.recipients,
                                        .recipient_count = 3,
                                        .size = 10,
                                        .ret = SMTP_CLIENT_RET_HDRS,
                                        .envid = SLICE("QQ314159")};
        assert_int_equal(smtp_client_begin_mail(&w.client, &mail, 0), SMTP_CLIENT_BEGUN);
        struct slice expected =
            announced ? SLICE("MAIL FROM:<m1@y> SIZE=10 RET=HDRS ENVID=QQ314159\r\n"
                              "RCPT TO:<a@x> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;anna+2Bx@x\r\n"
                              "RCPT TO:<b@x> NOTIFY=NEVER\r\nRCPT TO:<c@x> NOTIFY=FAILURE\r\n"
                              "DATA\r\n")
                      : SLICE("MAIL FROM:<m1@y> SIZE=10\r\nRCPT TO:<a@x>\r\nRCPT TO:<b@x>\r\n"
                              "RCPT TO:<c@x>\r\nDATA\r\n");
        assert_true(slice_equal(smtp_client_output(&w.client), expected));
    }
}

/* An envelope that is larger than the output is written as it is sent. */
static void writes_the_longest_envelope_in_parts(void **state)
{
    (void)state;
    static struct world w;
    static struct smtp_client_recipient many[SMTP_RECIPIENTS_UPSTREAM_MAX];
    static uint8_t path[SMTP_PATH_BYTES_MAX], value[SMTP_CLIENT_ORCPT_BYTES_MAX];
    static const struct script script = {"longest", ALL, 1, 1, 10, "", NULL};
    memset(path, 'p', sizeof path);
    memset(value, 'v', sizeof value);
    set_up(&w, &script, SMTP_CLIENT_PIPELINING_SAFE, 0);
    w.client.extensions |=
        SMTP_CLIENT_EXT_DSN | SMTP_CLIENT_EXT_8BITMIME | SMTP_CLIENT_EXT_SMTPUTF8;
    for (size_t index = 0; index < SMTP_RECIPIENTS_UPSTREAM_MAX; index++) {
        many[index] = (struct smtp_client_recipient){.path = slice_of(path, sizeof path),
                                                     .orcpt = slice_of(value, sizeof value),
                                                     .notify = SMTP_CLIENT_NOTIFY_SUCCESS |
                                                               SMTP_CLIENT_NOTIFY_FAILURE |
                                                               SMTP_CLIENT_NOTIFY_DELAY};
    }
    struct smtp_client_mail mail = {.sender = slice_of(path, sizeof path),
                                    .recipients = many,
                                    .recipient_count = SMTP_RECIPIENTS_UPSTREAM_MAX,
                                    .size = UINT64_MAX,
                                    .body_8bit = true,
                                    .smtputf8 = true,
                                    .ret = SMTP_CLIENT_RET_FULL,
                                    .envid = slice_of(value, SMTP_CLIENT_ENVID_BYTES_MAX)};
    assert_int_equal(smtp_client_begin_mail(&w.client, &mail, 0), SMTP_CLIENT_BEGUN);
    uint32_t lines = 0, sends = 0;
    bool data = false;
    for (struct slice out = smtp_client_output(&w.client); out.len > 0;
         out = smtp_client_output(&w.client)) {
        for (size_t index = 0; index < out.len; index++) {
            lines += out.data[index] == '\n';
        }
        data = slice_equal(slice_tail(out, out.len - 6), SLICE("DATA\r\n"));
        smtp_client_output_done(&w.client, out.len, 0);
        sends++;
    }
    assert_true(data && sends == 2);
    assert_int_equal(lines, SMTP_RECIPIENTS_UPSTREAM_MAX + 2);
}

/* ---- the laws ---- */

/* The machine, an owner, and input that waits until what it answers was sent. */
static void law_reset(void *ctx, uint64_t now_ms)
{
    struct world *w = ctx;
    const struct script *script = w->script;
    set_up(w, script, w->config.pipelining, 0);
    w->now_ms = now_ms;
}

static size_t law_take(void *ctx, struct slice in, uint64_t now_ms)
{
    struct world *w = ctx;
    in = slice_head(in, slice_find(in, '\n') + 1); /* one may make it say something */
    return smtp_client_output(&w->client).len > 0 ? 0 : smtp_client_feed(&w->client, in, now_ms);
}

static bool law_step(void *ctx, uint64_t now_ms, struct buf *notes)
{
    struct world *w = ctx;
    struct smtp_client_event event;
    w->now_ms = now_ms;
    if (smtp_client_next(&w->client, &event)) {
        buf_reset(&w->heard);
        take_event(w, &event);
        buf_put(notes, buf_slice(&w->heard));
        return true;
    }
    uint32_t begun = w->begun;
    size_t unsent = smtp_client_output(&w->client).len;
    begin_more(w);
    bring_content(w);
    return w->begun != begun || smtp_client_output(&w->client).len != unsent;
}

static struct slice law_output(void *ctx)
{
    return smtp_client_output(&((struct world *)ctx)->client);
}

static void law_output_done(void *ctx, size_t count, uint64_t now_ms)
{
    smtp_client_output_done(&((struct world *)ctx)->client, count, now_ms);
}

static uint64_t law_deadline_ms(void *ctx)
{
    return smtp_client_deadline_ms(&((struct world *)ctx)->client);
}

static void law_expire(void *ctx, uint64_t now_ms)
{
    smtp_client_expire(&((struct world *)ctx)->client, now_ms);
}

static bool law_uses_input(void *ctx)
{
    return ((struct world *)ctx)->client.state != SMTP_CLIENT_CLOSED;
}

static bool law_is_closed(void *ctx)
{
    return ((struct world *)ctx)->client.state == SMTP_CLIENT_CLOSED;
}

static void obeys_the_laws(void **state)
{
    (void)state;
    static struct world w;
    static const struct script script = {"laws", ALL, 3, 2, 300, "", NULL};
    static const char *const inputs[] = {
        "250 1\r\n250 2\r\n550-3\r\n550 3\r\n354 4\r\n250 5\r\n250 1\r\n550 2\r\n450 3\r\n554 4\r\n"
        "250 reset\r\n250 1\r\n250 2\r\n250 3\r\n354 4\r\n250 5\r\n421 bye\r\n",
        "250 1\r\n250 2\r\n550 3\r\n250 4\r\n250 1\r\n550 2\r\n550 3\r\n554 4\r\n250 1\r\n250 2\r\n"
        "250 3\r\n250 4\r\n250 unasked\r\n",
        "550 1\r\n503 2\r\n503 3\r\n503 4\r\n250 1\r\n421 2\r\n",
    };
    for (unsigned mode = 0; mode < 3; mode++) {
        for (size_t index = 0; index < sizeof inputs / sizeof inputs[0]; index++) {
            w.script = &script;
            w.config.pipelining = (enum smtp_client_pipelining)mode;
            struct law_subject subject = {.name = mode_words[mode],
                                          .ctx = &w,
                                          .output_bytes_max = SMTP_CLIENT_OUTPUT_BYTES,
                                          .reset = law_reset,
                                          .feed = law_take,
                                          .step = law_step,
                                          .output = law_output,
                                          .output_done = law_output_done,
                                          .deadline_ms = law_deadline_ms,
                                          .expire = law_expire,
                                          .uses_input = law_uses_input,
                                          .is_closed = law_is_closed};
            laws_hold(&subject, slice_from_str(inputs[index]));
            assert_true(law_closed_is_final(&subject, slice_from_str(inputs[index])));
        }
    }
}

static void names_the_modes(void **state)
{
    (void)state;
    assert_string_equal(smtp_client_pipelining_word(SMTP_CLIENT_PIPELINING_OFF), "off");
    assert_string_equal(smtp_client_pipelining_word(SMTP_CLIENT_PIPELINING_SAFE), "safe");
    assert_string_equal(smtp_client_pipelining_word(SMTP_CLIENT_PIPELINING_STREAM), "stream");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plays_the_scripts),
        cmocka_unit_test(loses_at_every_byte),
        cmocka_unit_test(gives_up_without_harm_to_others),
        cmocka_unit_test(loses_what_is_given_up_at_every_byte),
        cmocka_unit_test(bears_each_oddity_at_each_answer),
        cmocka_unit_test(bears_a_reply_that_nobody_asked_for),
        cmocka_unit_test(believes_no_yes_before_the_end),
        cmocka_unit_test(does_only_what_is_announced),
        cmocka_unit_test(reads_replies_of_a_thousand_lines),
        cmocka_unit_test(keeps_the_window_bounded),
        cmocka_unit_test(keeps_the_recipients_bounded),
        cmocka_unit_test(chunks_are_canonical),
        cmocka_unit_test(notes_what_was_said),
        cmocka_unit_test(passes_dsn_on_where_it_is_announced),
        cmocka_unit_test(writes_the_longest_envelope_in_parts),
        cmocka_unit_test(obeys_the_laws),
        cmocka_unit_test(names_the_modes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
