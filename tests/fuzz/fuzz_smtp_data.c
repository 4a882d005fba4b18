/*
 * Content, both ways. The first byte says how input and output are cut; the rest is
 *   - wire bytes: decoded whole and cut, which must come out alike, without a lone CR or LF in it;
 *   - content: encoded in small portions and decoded again, which must give the content back, with
 *     its line ends made CRLF.
 */
#include <stdlib.h>

#include "daemon/base/num.h"
#include "daemon/proto/smtp_data.h"

#define CONTENT_MAX (1u << 16)
/* Each lone CR or LF can become two bytes, each dot at a line's start too, and the end five. */
#define WIRE_MAX (4 * CONTENT_MAX + 16)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t memory[4][WIRE_MAX];

/* Returns the bytes of the wire that were used. */
static size_t decode(struct smtp_data_decoder *d, struct slice wire, size_t piece_bytes,
                     struct buf *content)
{
    size_t at = 0;
    unsigned idle_steps = 0;
    while (at < wire.len && d->state != SMTP_DATA_END) {
        struct slice piece = slice_head(slice_tail(wire, at), piece_bytes);
        uint8_t *copy = malloc(piece.len); /* so that ASan knows where it ends */
        CHECK(copy != NULL);
        memcpy(copy, piece.data, piece.len);
        size_t used = 0;
        struct slice part = smtp_data_decode(d, slice_of(copy, piece.len), &used);
        CHECK(used <= piece.len);
        idle_steps = used == 0 && part.len == 0 ? idle_steps + 1 : 0;
        CHECK(idle_steps < 3);
        buf_put(content, part);
        at += used;
        free(copy);
    }
    if (d->chunked) {
        buf_put(content, smtp_data_decode_end(d));
    }
    CHECK(!content->overflow && content->len == d->bytes);
    return at;
}

static void require_canonical(struct slice content)
{
    for (size_t at = 0; at < content.len; at++) {
        CHECK(content.data[at] != '\n' || (at > 0 && content.data[at - 1] == '\r'));
        CHECK(content.data[at] != '\r' || (at + 1 < content.len && content.data[at + 1] == '\n'));
    }
}

static void decode_alike(struct slice wire, size_t piece_bytes, bool chunked)
{
    struct buf whole;
    struct buf cut;
    struct smtp_data_decoder a;
    struct smtp_data_decoder b;
    buf_init(&whole, memory[0], WIRE_MAX);
    buf_init(&cut, memory[1], WIRE_MAX);
    smtp_data_decoder_init(&a);
    smtp_data_decoder_init(&b);
    if (chunked) {
        smtp_data_decoder_init_chunked(&a);
        smtp_data_decoder_init_chunked(&b);
    }
    size_t used_whole = decode(&a, wire, wire.len, &whole);
    size_t used_cut = decode(&b, wire, piece_bytes, &cut);
    CHECK(used_whole == used_cut && a.state == b.state && a.bare_breaks == b.bare_breaks &&
          a.seen_8bit == b.seen_8bit && a.line_bytes == b.line_bytes);
    CHECK(slice_equal(buf_slice(&whole), buf_slice(&cut)));
    require_canonical(buf_slice(&whole));
    /* The end is where the first CRLF.CRLF of the wire is, and nowhere else. */
    if (!chunked) {
        const uint8_t *end = memmem(wire.data, wire.len, "\r\n.\r\n", 5);
        bool at_once = slice_starts_with(wire, SLICE(".\r\n"));
        CHECK((a.state == SMTP_DATA_END) == (at_once || end != NULL));
        CHECK(a.state != SMTP_DATA_END ||
              used_whole == (at_once ? 3 : (size_t)(end - wire.data) + 5));
    }
}

static void encode(struct slice content, size_t piece_bytes, size_t room, struct buf *wire)
{
    struct smtp_data_encoder e;
    struct buf portion;
    uint8_t portion_memory[512];
    smtp_data_encoder_init(&e);
    for (size_t at = 0; at < content.len;) {
        buf_init(&portion, portion_memory, room);
        size_t used =
            smtp_data_encode(&e, slice_head(slice_tail(content, at), piece_bytes), &portion);
        CHECK(used > 0 || portion.len > 0);
        CHECK(!portion.overflow);
        buf_put(wire, buf_slice(&portion));
        at += used;
    }
    CHECK(smtp_data_encode_end(&e, wire));
}

static void there_and_back(struct slice raw, size_t piece_bytes)
{
    struct buf content;
    struct buf wire;
    struct buf back;
    struct smtp_data_decoder d;
    buf_init(&content, memory[0], WIRE_MAX);
    buf_init(&wire, memory[1], WIRE_MAX);
    buf_init(&back, memory[2], WIRE_MAX);
    smtp_data_decoder_init_chunked(&d);
    (void)decode(&d, raw, raw.len, &content);
    if (content.len > 0 && content.data[content.len - 1] != '\n') {
        buf_put(&content, SLICE("\r\n"));
    }
    encode(raw, piece_bytes, 2 + piece_bytes % 500, &wire);
    require_canonical(buf_slice(&wire));
    smtp_data_decoder_init(&d);
    size_t used = decode(&d, buf_slice(&wire), piece_bytes, &back);
    CHECK(used == wire.len && d.state == SMTP_DATA_END && d.bare_breaks == 0);
    CHECK(slice_equal(buf_slice(&back), buf_slice(&content)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2 || size > CONTENT_MAX) {
        return 0;
    }
    size_t piece_bytes = 1 + data[0] % 64;
    struct slice in = slice_of(data + 1, size - 1);
    decode_alike(in, piece_bytes, false);
    decode_alike(in, piece_bytes, true);
    there_and_back(in, piece_bytes);
    return 0;
}
