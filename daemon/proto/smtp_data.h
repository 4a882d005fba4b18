/*
 * Message content on the wire: dot-stuffing and the end of data, both ways. RFC
 * 5321 4.5.2, 4.1.1.4, 2.3.8.
 *
 * Decoder (LAN side): bytes of a DATA section in; content out, as slices that borrow from the input
 * or from static storage, so the content is never copied here. Only CRLF "." CRLF ends it. A bare
 * CR or LF in content becomes CRLF and is counted (normalise), never an end of line for the
 * protocol: "\n.\n", "\r.\r\n" and the like end nothing. NUL and 8-bit bytes pass.
 *
 * In chunks (BDAT, RFC 3030) a dot means nothing and the owner knows the end; line ends are treated
 * the same.
 *
 * Encoder (upstream side): content whose every line ends in CRLF in; stuffed bytes out. Should
 * content ever hold a lone CR or LF after all, CRLF is written for it: nothing else may leave.
 */
#ifndef TASUKI_PROTO_SMTP_DATA_H
#define TASUKI_PROTO_SMTP_DATA_H

#include "daemon/base/buf.h"

enum smtp_data_state {
    SMTP_DATA_LINE_START, /* the last thing seen was CRLF, or nothing: a dot here may end it */
    SMTP_DATA_TEXT,       /* within a line */
    SMTP_DATA_CR,         /* within a line, a CR is held back */
    SMTP_DATA_DOT,        /* a dot at the start of a line is held back */
    SMTP_DATA_DOT_CR,     /* ". CR" at the start of a line is held back */
    SMTP_DATA_END,        /* the end was seen; nothing more is used */
};

struct smtp_data_decoder {
    enum smtp_data_state state;
    uint64_t bytes;       /* of content given out */
    uint64_t bare_breaks; /* lone CR or LF made CRLF */
    uint32_t line_bytes;  /* of the current line */
    bool chunked;         /* BDAT: no dots, no end */
    bool seen_8bit;
};

void smtp_data_decoder_init(struct smtp_data_decoder *d);
void smtp_data_decoder_init_chunked(struct smtp_data_decoder *d);

/*
 * Takes some of in; *out_used says how many bytes, and the result is a piece of content, which may
 * be empty. Call again with the rest until all is used or state is END.
 */
MUST_CHECK struct slice smtp_data_decode(struct smtp_data_decoder *d, struct slice in,
                                         size_t *out_used);

/* Chunked only, when the last chunk is over: what was held back, or nothing. */
MUST_CHECK struct slice smtp_data_decode_end(struct smtp_data_decoder *d);

struct smtp_data_encoder {
    bool line_start; /* the next byte begins a line */
    bool after_cr;   /* a CR was used and is held back */
};

void smtp_data_encoder_init(struct smtp_data_encoder *e);

/* Stuffs as much of in as fits into *to; returns how many bytes of in were used. Every byte of in
 * can need two; with room for two, something is used or written. */
MUST_CHECK size_t smtp_data_encode(struct smtp_data_encoder *e, struct slice in, struct buf *to);

/* CRLF where the content did not end in one, then ".CRLF"; 5 bytes at most. False when it does not
 * fit; then nothing is written. */
MUST_CHECK bool smtp_data_encode_end(struct smtp_data_encoder *e, struct buf *to);

#endif
