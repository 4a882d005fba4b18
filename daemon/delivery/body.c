/*
 * A message's body on its way from the store to the machine, piece by piece: one piece in memory
 * for the whole connection, however many messages are under way, since only one at a time is being
 * written.
 */
#include "daemon/delivery/delivery_internal.h"
#include "daemon/flow/clock.h"

#include <stdlib.h>

void job_content_begin(struct session *s)
{
    s->body_offset = 0;
    s->chunk_used = 0;
    buf_reset(&s->chunk);
}

/* The next piece. False: there is none, and job says whether it is damaged. */
static bool fill(struct session *s, struct delivery_job *j)
{
    const struct flow_reader *reader = s->d->with.reader;
    if (s->chunk.data == NULL) {
        void *memory = malloc(BODY_CHUNK_BYTES_MAX);
        if (memory == NULL) {
            return false;
        }
        buf_init(&s->chunk, memory, BODY_CHUNK_BYTES_MAX);
    }
    buf_reset(&s->chunk);
    s->chunk_used = 0;
    enum err err = reader->body(reader->reader, &j->job->id, s->body_offset, &s->chunk);
    if (err == ERR_OK && s->chunk.len > 0 &&
        s->chunk.len <= j->envelope.body_bytes - s->body_offset) {
        s->body_offset += s->chunk.len;
        return true;
    }
    j->job->damaged = err == ERR_DAMAGED || err == ERR_NOT_FOUND || err == ERR_OK;
    job_log_trouble(s, j->job->damaged ? EVENT_STORE_DAMAGED : EVENT_DELIVERY_TROUBLE, &j->job->id,
                    err_text(err == ERR_OK ? ERR_DAMAGED : err));
    buf_reset(&s->chunk);
    return false;
}

/* What was begun cannot be ended truthfully. Streaming, it is taken back and the others go on; else
 * the connection goes, without the final dot. */
static void break_off(struct session *s, struct delivery_job *j)
{
    job_unreadable(s, j);
    if (!smtp_client_content_abandon(&s->machine, io_now_ms(s->d->with.io))) {
        session_abort(s);
    }
}

bool job_content(struct session *s, uint32_t tag)
{
    struct delivery_job *j = &s->jobs[tag];
    uint64_t now_ms = io_now_ms(s->d->with.io);
    for (;;) {
        if (s->chunk_used < s->chunk.len) {
            struct slice rest = slice_tail(buf_slice(&s->chunk), s->chunk_used);
            size_t used = smtp_client_content(&s->machine, rest, now_ms);
            s->chunk_used += used;
            if (used < rest.len) {
                return false; /* the output is full */
            }
        } else if (s->body_offset == j->envelope.body_bytes) {
            if (!smtp_client_content_end(&s->machine, now_ms)) {
                return false;
            }
            j->job->was_sent_ms = flow_wall_ms();
            return true;
        } else if (!fill(s, j)) {
            break_off(s, j);
            return s->state == SESSION_TALKING;
        }
    }
}
