/*
 * The daily digest to root-mail: what could be neither delivered nor reported, and what to type.
 */
#include "daemon/base/num.h"
#include "daemon/proto/mail_dsn_parts.h"

#define ROW_TEXT_BYTES_MAX 200

/* What our own words and fields take, without texts from outside. */
#define FIXED_BYTES_MAX 4096
#define ROW_BYTES_MAX   512

static void put_subject(struct buf *to, const struct mail_digest *digest)
{
    struct mail_field field;
    uint8_t memory[20];
    struct buf count;
    buf_init(&count, memory, sizeof memory);
    buf_put_u64(&count, digest->count);
    mail_field_begin(&field, to, "Subject:", false);
    mail_field_put(&field, SLICE("tasuki on"));
    mail_field_put(&field, digest->hostname);
    buf_put_byte(to, ':');
    field.column++;
    mail_field_put(&field, buf_slice(&count));
    mail_field_put(&field, digest->count == 1 ? SLICE("message could not be delivered nor reported")
                                              : SLICE("messages could not be delivered nor "
                                                      "reported"));
    mail_field_end(&field);
}

static void say_row(struct mail_words *words, const struct mail_digest_row *row)
{
    mail_words_say_id(words, &row->id);
    mail_words_say(words, "   ");
    mail_words_say_when(words, row->arrived_ms);
    mail_words_say(words, "\n    From:  ");
    mail_words_quote(words, row->sender.len > 0 ? row->sender : SLICE("<> (nobody to report to)"));
    mail_words_say(words, "\n    To:    ");
    mail_words_quote(words, row->recipient);
    if (row->recipient_count > 1) {
        mail_words_say(words, " and ");
        mail_words_say_u64(words, row->recipient_count - 1);
        mail_words_say(words, " more");
    }
    mail_words_say(words, "\n    Why:   ");
    mail_words_quote(words, slice_from_str(row->sentence));
    mail_words_say(words, "\n");
    if (row->code != 0 || slice_trim(row->text).len > 0) {
        mail_words_say(words, "    Words: ");
        mail_words_quote_reply(words, row->code, row->text, ROW_TEXT_BYTES_MAX);
        mail_words_say(words, "\n");
    }
    mail_words_say(words, "\n");
}

static void say_all(struct mail_words *words, const struct mail_digest *digest)
{
    bool one = digest->count == 1;
    mail_words_say(words,
                   one ? "This message could not be delivered, and its sender could not be told:\n"
                         "it has none (<>), or is a report itself. It stays in the queue until\n"
                         "you decide.\n\n"
                       : "These messages could not be delivered, and their senders could not be\n"
                         "told: they have none (<>), or are reports themselves. They stay in the\n"
                         "queue until you decide.\n\n");
    for (uint32_t index = 0; index < digest->row_count; index++) {
        say_row(words, &digest->rows[index]);
    }
    if (digest->row_count < digest->count) {
        mail_words_say(words, "... and ");
        mail_words_say_u64(words, digest->count - digest->row_count);
        mail_words_say(words, " more.\n\n");
    }
    mail_words_say(words, "What to type on ");
    mail_words_quote(words, digest->hostname);
    mail_words_say(words, ":\n\n"
                          "    tasukictl queue state:failed    lists them all\n"
                          "    tasukictl show ID               all about one, ID as above\n"
                          "    tasukictl retry ID              tries it again\n"
                          "    tasukictl delete ID             removes it\n");
}

void mail_digest_put(struct buf *to, const struct mail_digest *digest)
{
    CHECK(digest->row_count <= MAIL_DIGEST_ROWS_MAX && digest->row_count <= digest->count);
    CHECK(digest->hostname.len >= 1 && digest->hostname.len <= SMTP_DOMAIN_BYTES_MAX);
    CHECK(digest->to.len >= 1 && digest->to.len <= SMTP_PATH_BYTES_MAX);
    size_t start = to->len;
    struct mail_words words;
    mail_put_head(to, &(struct mail_head){.id = digest->id,
                                          .hostname = digest->hostname,
                                          .to = digest->to,
                                          .date_ms = digest->date_ms,
                                          .submitted = "auto-generated"});
    put_subject(to, digest);
    buf_put_str(to, "Content-Type: text/plain; charset=utf-8\r\n"
                    "Content-Transfer-Encoding: quoted-printable\r\n\r\n");
    mail_words_begin(&words, to);
    say_all(&words, digest);
    if (to->overflow) {
        to->len = start;
    }
}

size_t mail_digest_bytes_max(const struct mail_digest *digest)
{
    size_t bytes = FIXED_BYTES_MAX + MAIL_GROWTH * (3 * digest->hostname.len + digest->to.len);
    for (uint32_t index = 0; index < digest->row_count; index++) {
        const struct mail_digest_row *row = &digest->rows[index];
        bytes += ROW_BYTES_MAX +
                 MAIL_GROWTH * (row->sender.len + row->recipient.len + strlen(row->sentence) +
                                size_min(row->text.len, ROW_TEXT_BYTES_MAX));
    }
    return bytes;
}
