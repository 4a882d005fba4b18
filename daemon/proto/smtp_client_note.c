/*
 * The dialogue of each message as people will read it: what was said about it, line by line.
 * Written beside the output, into memory that the owner lends; one copy a line, and nothing is
 * looked at twice. No line of a transaction holds a secret: logins come before the first message.
 */
#include "daemon/proto/smtp_client_parts.h"

#define LINE_BYTES_MAX 300

static const char cut_mark[] = "-- cut here\n";

/* Every line leaves room for the mark. overflow says that the mark was put. */
void smtp_client_note(struct smtp_client_slot *slot, const char *who, struct slice line)
{
    struct buf *to = slot->mail.dialogue;
    if (to == NULL || to->overflow) {
        return;
    }
    line = slice_head(line, LINE_BYTES_MAX);
    if (strlen(who) + line.len + 1 + sizeof cut_mark - 1 > buf_room(to)) {
        buf_put_str(to, cut_mark);
        to->overflow = true;
        return;
    }
    buf_put_str(to, who);
    buf_put(to, line);
    buf_put_byte(to, '\n');
}

void smtp_client_note_reply(struct smtp_client_slot *slot, const struct smtp_reply *reply)
{
    if (slot->mail.dialogue == NULL) {
        return;
    }
    char who[] = "S: 000 ";
    who[3] = (char)('0' + reply->code / 100);
    who[4] = (char)('0' + reply->code / 10 % 10);
    who[5] = (char)('0' + reply->code % 10);
    struct slice rest = reply->text;
    do {
        size_t end = slice_find(rest, '\n');
        smtp_client_note(slot, who, slice_head(rest, end));
        rest = slice_tail(rest, end + 1);
    } while (rest.len > 0);
}

void smtp_client_note_command(const struct smtp_client *c, struct smtp_client_slot *slot,
                              size_t before)
{
    smtp_client_note(slot, "C: ", slice_of(c->output.data + before, c->output.len - before - 2));
}
