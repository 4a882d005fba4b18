/*
 * What is said on a connection, line by line, for people: for the transcript of `tasukictl test`,
 * and for `tasukictl trace out` while somebody watches.
 *
 * Secrets are masked here. Content never comes here: of a message only what the machine has noted
 * in its dialogue is shown (proto/smtp_client_note.c), and what goes over the wire is shown as it
 * is only where trace_shows_sent and trace_shows_received say so.
 *
 * Nobody watches nearly always: each function looks for that first, and does nothing.
 */
#include "daemon/delivery/delivery_internal.h"
#include "daemon/flow/clock.h"

#include <stdio.h>

static bool is_watched(const struct session *s)
{
    return trace_is_watched(s->d->with.trace, io_now_ms(s->d->with.io));
}

/* id: of the message that it is about, or NULL. */
static void show(const struct session *s, const struct msg_id *id, struct slice line)
{
    struct trace_line to = {.at_ms = flow_wall_ms(),
                            .connection = s->number,
                            .upstream = s->upstream,
                            .about_message = id != NULL};
    line = slice_head(line, sizeof to.text);
    to.len = (uint16_t)line.len;
    if (line.len > 0) {
        memcpy(to.text, line.data, line.len);
    }
    if (id != NULL) {
        to.id = *id;
    }
    trace_put(s->d->with.trace, &to);
}

static void put_line(struct session *s, const char *who, struct slice line, const char *tail)
{
    char text[TRACE_LINE_BYTES_MAX + 16];
    struct buf whole;
    buf_init(&whole, text, sizeof text);
    buf_put_str(&whole, who);
    buf_put(&whole, slice_head(line, TRACE_LINE_BYTES_MAX));
    buf_put_str(&whole, tail);
    if (s->probe != NULL) {
        probe_note_line(s, buf_slice(&whole));
    }
    if (is_watched(s)) {
        show(s, NULL, buf_slice(&whole));
    }
}

/* Each line of bytes. */
static void put_lines(struct session *s, const char *who, struct slice bytes)
{
    while (bytes.len > 0) {
        size_t end = slice_find(bytes, '\n');
        put_line(s, who, slice_trim(slice_head(bytes, end)), "");
        bytes = slice_tail(bytes, end + 1);
    }
}

void trace_note(struct session *s, const char *words, const char *what)
{
    if (s->probe == NULL && !is_watched(s)) {
        return;
    }
    char line[200];
    snprintf(line, sizeof line, "%s%s", words, what);
    put_line(s, "-- ", slice_from_str(line), "");
}

void trace_received(struct session *s, struct slice bytes)
{
    if (s->probe == NULL && !is_watched(s)) {
        return;
    }
    put_lines(s, "S: ", bytes);
}

void trace_login_reply(struct session *s)
{
    struct smtp_reply reply;
    if ((s->probe == NULL && !is_watched(s)) || !smtp_client_last_reply(&s->machine, &reply)) {
        return;
    }
    struct slice text = reply.text;
    bool more = true;
    while (more) {
        size_t end = slice_find(text, '\n');
        char who[16];
        more = end < text.len;
        snprintf(who, sizeof who, "S: %u%c", reply.code, more ? '-' : ' ');
        put_line(s, who, slice_head(text, end), "");
        text = slice_tail(text, end + 1);
    }
}

/* Of a login only the name of the mechanism is shown. */
static void put_secret(struct session *s, struct slice bytes)
{
    bool first = slice_starts_with(bytes, SLICE("AUTH "));
    struct slice shown = slice_of(NULL, 0);
    if (first) {
        struct slice name = slice_tail(bytes, 5);
        shown = slice_head(bytes, 5 + slice_find(name, ' '));
    }
    put_line(s, "C: ", slice_trim(shown), first ? " ****" : "****");
}

void trace_sent(struct session *s, struct slice bytes, bool secret)
{
    if (s->probe == NULL && !is_watched(s)) {
        return;
    }
    enum smtp_client_stage stage = smtp_client_stage(&s->machine);
    if (secret) {
        put_secret(s, bytes);
    } else if (stage == SMTP_CLIENT_STAGE_CONTENT || stage == SMTP_CLIENT_STAGE_END) {
        char line[64];
        snprintf(line, sizeof line, "(the message, %zu bytes)", bytes.len);
        put_line(s, "C: ", slice_from_str(line), "");
    } else {
        put_lines(s, "C: ", bytes);
    }
}

/* ---- messages ---- */

static void show_rest(const struct session *s, struct delivery_job *j)
{
    struct slice rest = slice_tail(buf_slice(&j->job->dialogue), j->traced);
    while (rest.len > 0) {
        size_t end = slice_find(rest, '\n');
        show(s, &j->job->id, slice_head(rest, end));
        rest = slice_tail(rest, end + 1);
    }
    j->traced = j->job->dialogue.len;
}

void trace_message(const struct session *s, struct delivery_job *j)
{
    if (!is_watched(s)) {
        return;
    }
    show_rest(s, j);
}

void trace_messages(struct session *s)
{
    if (!is_watched(s)) {
        return;
    }
    for (size_t index = 0; index < DELIVERY_WINDOW; index++) {
        if (s->jobs[index].state != DELIVERY_JOB_FREE) {
            show_rest(s, &s->jobs[index]);
        }
    }
}

/* ---- the end ---- */

static const char *why_in_peace(const struct session *s)
{
    if (s->dropping || s->d->shutting_down) {
        return "tasukid stops";
    }
    return session_is_worn(s) ? "it is old, or has carried its messages" : "no more is to be said";
}

void trace_closed(const struct session *s)
{
    if (!is_watched(s)) {
        return;
    }
    char text[TRACE_LINE_BYTES_MAX];
    struct buf line;
    buf_init(&line, text, sizeof text);
    buf_put_str(&line, "-- closed: ");
    if (s->outcome == OUTCOME_NONE && s->text[0] == '\0') {
        buf_put_str(&line, why_in_peace(s));
    } else if (s->outcome == OUTCOME_NONE) {
        buf_put_str(&line, "by the upstream");
    } else {
        buf_put_str(&line, outcome_row(s->outcome)->word);
    }
    if (s->code != 0) {
        buf_printf(&line, ", %u", s->code);
    }
    if (s->text[0] != '\0') {
        buf_put_str(&line, s->code != 0 ? " " : ", ");
        buf_put(&line, slice_head(slice_from_str(s->text), buf_room(&line)));
    }
    show(s, NULL, buf_slice(&line));
}
