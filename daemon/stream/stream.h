/*
 * A byte stream over a connected socket, plain or inside TLS, with backpressure: what ingress,
 * delivery and control speak through. It joins io/ (which knows no TLS) and tls/ (which knows no
 * sockets).
 *
 * Pull both ways. The owner asks for data with stream_read and is called once with what came; it
 * says how much it used, and the rest stays here (at most one receive buffer) and comes again at
 * the next stream_read. It writes one run of bytes at a time and is called when all of them were
 * given to the kernel. The owner's function is never called from inside a call of the owner's.
 */
#ifndef TASUKI_STREAM_STREAM_H
#define TASUKI_STREAM_STREAM_H

#include "daemon/io/io.h"
#include "daemon/tls/tls.h"

struct stream;

enum stream_event {
    STREAM_EVENT_DATA,   /* data holds bytes, borrowed for the call: set used */
    STREAM_EVENT_SENT,   /* the bytes of stream_write are on their way */
    STREAM_EVENT_SECURE, /* the TLS handshake is done and the peer was verified */
    STREAM_EVENT_ENDED,  /* the peer ended it, or it failed: err, and tls_failure when TLS did. Then
                            only close */
    STREAM_EVENT_CLOSED, /* after stream_close, once: the struct is the owner's again */
};

typedef void stream_fn(struct stream *s, enum stream_event event);

/* Each value says what is true in it. */
enum stream_state {
    STREAM_STATE_IDLE,      /* no socket */
    STREAM_STATE_PLAIN,     /* bytes pass as they are */
    STREAM_STATE_HANDSHAKE, /* TLS has begun; only its own bytes pass */
    STREAM_STATE_SECURE,    /* bytes pass through TLS */
    STREAM_STATE_ENDED,     /* ENDED was told or is about to be */
    STREAM_STATE_PARTING, /* close was asked for: close_notify or a last look at what the peer sends
                           */
    STREAM_STATE_CLOSING, /* all operations were cancelled; the descriptor goes when they have ended
                           */
};

struct stream {
    struct io *io; /* borrowed */
    stream_fn *fn; /* the owner's */
    enum stream_state state;
    struct slice data; /* DATA: what came */
    size_t used;       /* DATA: how much of it the owner took */
    enum err err;      /* ENDED: why; ERR_CLOSED when the peer simply ended it */
    enum tls_failure tls_failure;
    char problem[160]; /* ENDED by TLS: words */

    /* The rest is stream.c's. */
    int fd;
    struct tls *tls;
    bool read_wanted;
    bool ended_told;
    bool giving;               /* inside the owner's DATA call */
    bool write_active;         /* SENT is owed */
    bool hears_out;            /* see stream_hear_out */
    enum err send_err;         /* a send has failed: none follows, ENDED does */
    uint64_t hearing_until_ms; /* then: for so long the peer's last words are taken */
    struct slice writing;      /* the owner's bytes not yet given away */
    uint8_t *sealed;           /* owned: ciphertext that is being sent; TLS's own buffer may move */
    struct slice sealing;      /* the part of it that was not sent yet */
    uint8_t *carry;            /* owned: bytes that came and were not used */
    size_t carry_bytes;
    struct io_op recv, send, close;
    struct io_op kick; /* a timer: does now what may not be done inside an owner's call */
};

/* Before anything else. The struct must not move until CLOSED. */
void stream_init(struct stream *s, struct io *io, stream_fn *fn);

/*
 * From now on a send that fails does not end the stream before what the peer has said was read, if
 * the owner asks for it within a second: it may be the answer to what was sent before.
 */
static inline void stream_hear_out(struct stream *s)
{
    s->hears_out = true;
}
/* False: nothing more can be sent, and ENDED follows. */
static inline bool stream_can_send(const struct stream *s)
{
    return s->send_err == ERR_OK;
}

/* Takes over a connected socket. */
void stream_open(struct stream *s, int fd);

/*
 * Starts TLS; SECURE or ENDED follows. Bytes that came before and were not used are thrown away:
 * what was said in the clear counts for nothing inside (RFC 3207 4.2, 6). server_name as for
 * tls_new.
 */
MUST_CHECK enum err stream_secure(struct stream *s, struct tls_policy *policy,
                                  const char *server_name);

/* Asks for data, once. No effect when it is asked for already, or after ENDED. */
void stream_read(struct stream *s);

/* Sends 1..n bytes, borrowed until SENT or CLOSED (after ENDED the kernel may still be at them).
 * One at a time: see stream_writable. */
void stream_write(struct stream *s, struct slice bytes);
static inline bool stream_writable(const struct stream *s)
{
    return (s->state == STREAM_STATE_PLAIN || s->state == STREAM_STATE_SECURE) && !s->write_active;
}

/* Bytes of stream_write that were not taken yet by the kernel, or by TLS, which has its own memory
 * of them. */
static inline size_t stream_unsent(const struct stream *s)
{
    return s->writing.len;
}

/* "TLSv1.3 TLS_AES_256_GCM_SHA384 resumed", or "": see tls_describe. */
const char *stream_tls_description(const struct stream *s);
bool stream_tls_resumed(const struct stream *s);

/*
 * Ends it; CLOSED follows, also when there is no socket. gracefully: close_notify is sent, and what
 * the peer still sends is read and dropped for up to two seconds, so that our last words are not
 * lost in a reset.
 */
void stream_close(struct stream *s, bool gracefully);

#endif
