/*
 * Content of DATA and BDAT, and what makes the machine itself refuse it: too large, a loop, lone
 * line breaks. What was refused is read to its end, since only there the next command begins, and
 * is told to nobody.
 */
#include "daemon/base/num.h"
#include "daemon/proto/smtp_server_parts.h"

#define RECEIVED_NAME       SLICE("received:")
#define HEADER_LINE_IS_NONE UINT8_MAX

void smtp_server_prepare_content(struct smtp_server *s, bool chunked)
{
    if (chunked) {
        smtp_data_decoder_init_chunked(&s->decoder);
    } else {
        smtp_data_decoder_init(&s->decoder);
    }
    s->chunk_unwanted = false;
    s->in_header = true;
    s->header_match = 0;
    s->received_lines = 0;
}

/* Compares on with "Received:"; returns the bytes of the line that are done with. */
static size_t match_received(struct smtp_server *s, struct slice line)
{
    struct slice name = RECEIVED_NAME;
    size_t at = 0;
    while (at < line.len && s->header_match < name.len &&
           ascii_lower(line.data[at]) == name.data[s->header_match]) {
        at++;
        s->header_match++;
    }
    if (s->header_match == name.len) {
        s->received_lines++;
    }
    if (s->header_match == name.len || at < line.len) {
        s->header_match = HEADER_LINE_IS_NONE;
    }
    return at;
}

/* Counts the header lines that mail servers add (RFC 5321 6.3). One pass; the empty line ends it.
 * The decoder never cuts CRLF in two. */
static void count_received(struct smtp_server *s, struct slice piece)
{
    while (s->in_header && piece.len > 0) {
        if (s->header_match == 0 && piece.data[0] == '\r') {
            s->in_header = false;
            return;
        }
        if (s->header_match != HEADER_LINE_IS_NONE) {
            piece = slice_tail(piece, match_received(s, piece));
        }
        size_t line_end = slice_find(piece, '\n');
        if (line_end < piece.len) {
            s->header_match = 0;
        }
        piece = slice_tail(piece, line_end + 1);
    }
}

/* What helps most comes first. A limit that was crossed stays so: NONE does not come back. */
static enum smtp_server_reply judge_content(const struct smtp_server *s)
{
    if (s->received_lines > s->limits->received_max) {
        return SMTP_SERVER_REPLY_LOOP;
    }
    if (s->limits->size_max != 0 && s->decoder.bytes > s->limits->size_max) {
        return SMTP_SERVER_REPLY_TOO_LARGE;
    }
    /* Each lone break was made two bytes here: the client could not count the second. */
    if (s->decoder.bytes - s->decoder.bare_breaks > s->size_limit) {
        return SMTP_SERVER_REPLY_LARGER_THAN_SAID;
    }
    return s->limits->reject_bare_breaks && s->decoder.bare_breaks > 0
               ? SMTP_SERVER_REPLY_BARE_BREAK
               : SMTP_SERVER_REPLY_NONE;
}

/* Refused content is judged on to its end: which limit a piece shows to be crossed first depends on
 * how the stream was cut, and the reply must not. */
static void give_content(struct smtp_server *s, struct slice piece)
{
    if (piece.len == 0) {
        return;
    }
    count_received(s, piece);
    enum smtp_server_reply refusal = judge_content(s);
    if (refusal != SMTP_SERVER_REPLY_NONE) {
        smtp_server_abandon_mail(s);
        s->refusal = (uint8_t)refusal;
        s->state = SMTP_SERVER_DISCARD;
        return;
    }
    struct smtp_server_event event = {.type = SMTP_SERVER_EVENT_CONTENT, .text = piece};
    smtp_server_tell(s, &event);
}

static void ask_for_commit(struct smtp_server *s)
{
    if (s->decoder.bare_breaks > 0) {
        smtp_server_tell_word(s, SMTP_SERVER_EVENT_ODD, "bare-break");
    } else if (s->decoder.seen_8bit && !s->body_8bit) {
        smtp_server_tell_word(s, SMTP_SERVER_EVENT_ODD, "8bit-undeclared");
    }
    struct smtp_server_event event = {.type = SMTP_SERVER_EVENT_CONTENT_END,
                                      .content_bytes = s->decoder.bytes};
    smtp_server_ask(s, &event);
}

static void end_discarding(struct smtp_server *s)
{
    s->state = SMTP_SERVER_COMMAND;
    if (s->refusal != SMTP_SERVER_REPLY_NONE) {
        smtp_server_reply(s, s->refusal);
    }
    smtp_server_ready(s);
}

static void end_content(struct smtp_server *s)
{
    if (s->state == SMTP_SERVER_DISCARD) {
        end_discarding(s);
    } else {
        ask_for_commit(s);
    }
}

static void end_chunk(struct smtp_server *s)
{
    if (s->chunk_last) {
        give_content(s, smtp_data_decode_end(&s->decoder));
    }
    if (s->chunk_last || s->state == SMTP_SERVER_DISCARD) {
        end_content(s);
    } else {
        s->state = SMTP_SERVER_COMMAND;
        smtp_server_reply(s, SMTP_SERVER_REPLY_CHUNK_OK);
        smtp_server_ready(s);
    }
}

void smtp_server_begin_chunk(struct smtp_server *s)
{
    s->state = SMTP_SERVER_CHUNK;
    if (s->chunk_left == 0) {
        end_chunk(s);
    }
}

void smtp_server_discard_chunk(struct smtp_server *s, enum smtp_server_reply refusal)
{
    s->refusal = (uint8_t)refusal;
    s->chunk_unwanted = true;
    s->state = SMTP_SERVER_DISCARD;
    if (s->chunk_left == 0) {
        end_discarding(s);
    }
}

size_t smtp_server_take_content(struct smtp_server *s, struct slice in)
{
    size_t used = 0;
    give_content(s, smtp_data_decode(&s->decoder, in, &used));
    if (s->decoder.state == SMTP_DATA_END) {
        end_content(s);
    }
    return used;
}

static size_t skip_chunk(struct smtp_server *s, struct slice in)
{
    size_t used = (size_t)u64_min(s->chunk_left, in.len);
    s->chunk_left -= used;
    if (s->chunk_left == 0) {
        end_discarding(s);
    }
    return used;
}

size_t smtp_server_take_chunk(struct smtp_server *s, struct slice in)
{
    size_t used = 0;
    in = slice_head(in, (size_t)u64_min(s->chunk_left, in.len));
    give_content(s, smtp_data_decode(&s->decoder, in, &used));
    s->chunk_left -= used;
    if (s->chunk_left == 0) {
        end_chunk(s);
    }
    return used;
}

size_t smtp_server_take_discarded(struct smtp_server *s, struct slice in)
{
    if (!s->decoder.chunked) {
        return smtp_server_take_content(s, in);
    }
    return s->chunk_unwanted ? skip_chunk(s, in) : smtp_server_take_chunk(s, in);
}
