/*
 * `tasukictl test`: the same connection code, with every line kept (trace_lines.c), and perhaps a
 * small message at the end.
 */
#include "daemon/base/when.h"
#include "daemon/delivery/delivery_internal.h"
#include "daemon/flow/clock.h"

#include <stdio.h>
#include <time.h>

void probe_note_line(struct session *s, struct slice line)
{
    struct buf *to = &s->probe->transcript;
    size_t before = to->len;
    buf_put(to, line);
    buf_put_byte(to, '\n');
    if (to->overflow) {
        to->len = before; /* the transcript is full: what came first says the most */
    }
}

void probe_step(struct session *s, const char *word)
{
    if (s->probe != NULL) {
        snprintf(s->probe->step, sizeof s->probe->step, "%s", word);
    }
}

/* What was refused once stays the step that failed, whatever the dialogue still says. */
void probe_note_step(struct session *s)
{
    if (s->probe != NULL && s->machine_begun && s->probe->outcome == OUTCOME_NONE &&
        s->machine.state < SMTP_CLIENT_QUIT) {
        const char *word = smtp_client_stage_word(smtp_client_stage(&s->machine));
        if (strcmp(word, "idle") != 0) {
            probe_step(s, word);
        }
    }
}

static void is_done(struct session *s)
{
    probe_step(s, "done");
    s->probe->done = true;
}

static void write_message(struct session *s)
{
    uint64_t now_ms = flow_wall_ms();
    struct buf to;
    buf_init(&to, s->probe_message, sizeof s->probe_message);
    buf_put_str(&to, "From: <");
    buf_put_str(&to, s->probe->from);
    buf_put_str(&to, ">\r\nTo: <");
    buf_put_str(&to, s->probe->to);
    buf_put_str(&to, ">\r\nSubject: tasuki test\r\nDate: ");
    when_put_rfc5322(&to, now_ms);
    buf_put_str(&to, "\r\nMessage-ID: <tasuki-test.");
    buf_put_u64(&to, now_ms);
    buf_put_byte(&to, '@');
    buf_put(&to, slice_head(slice_from_str(s->d->with.config->hostname), 200));
    buf_put_str(&to,
                ">\r\n\r\nThis is a test message from tasuki. It arrived, so the way is open.\r\n");
    CHECK(!to.overflow);
    s->probe_message_len = to.len;
}

void probe_ready(struct session *s)
{
    uint64_t now_ms = io_now_ms(s->d->with.io);
    if (s->probe->to[0] == '\0') {
        is_done(s);
        smtp_client_quit(&s->machine, now_ms);
        return;
    }
    write_message(s);
    s->probe_recipient.path = slice_from_str(s->probe->to);
    struct smtp_client_mail mail = {
        .sender = slice_from_str(s->probe->from),
        .recipients = &s->probe_recipient,
        .recipient_count = 1,
        .size = s->probe_message_len,
    };
    s->probe_used = 0;
    probe_step(s, "mail");
    if (smtp_client_begin_mail(&s->machine, &mail, now_ms) != SMTP_CLIENT_BEGUN) {
        session_fail(s, OUTCOME_TOO_LARGE, 0, SLICE("the upstream takes not even a small message"));
    }
}

bool probe_content(struct session *s)
{
    uint64_t now_ms = io_now_ms(s->d->with.io);
    struct slice rest = slice_tail(slice_of(s->probe_message, s->probe_message_len), s->probe_used);
    s->probe_used += smtp_client_content(&s->machine, rest, now_ms);
    return s->probe_used == s->probe_message_len && smtp_client_content_end(&s->machine, now_ms);
}

static void keep_reply(struct session *s, const struct smtp_client_event *event)
{
    const struct smtp_reply *reply = &event->reply;
    struct slice text = smtp_reply_first_line(reply);
    s->probe->outcome = classify_event(event, s->up->host.provider);
    s->probe->code = reply->code;
    probe_step(s, smtp_client_stage_word(event->stage));
    snprintf(s->probe->text, sizeof s->probe->text, "%.*s",
             (int)(text.len < sizeof s->probe->text ? text.len : sizeof s->probe->text - 1),
             text.len == 0 ? "" : (const char *)text.data);
}

void probe_cut_off(struct flow_probe *p, const char *why)
{
    p->outcome = OUTCOME_LOCAL_TROUBLE;
    snprintf(p->text, sizeof p->text, "%s", why);
}

void probe_recipient(struct session *s, const struct smtp_client_event *event)
{
    keep_reply(s, event);
}

void probe_done(struct session *s, const struct smtp_client_event *event)
{
    if (event->accepted_count > 0) {
        keep_reply(s, event);
    }
    if (s->probe->outcome == OUTCOME_DELIVERED) {
        is_done(s);
    }
    smtp_client_quit(&s->machine, io_now_ms(s->d->with.io));
}
