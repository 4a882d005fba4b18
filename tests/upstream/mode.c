#include "tests/upstream/mode.h"

#include "daemon/base/num.h"
#include "daemon/base/text.h"

#define DELAY_SHIFT 8

static const struct mode_row rows[] = {
    {.words = "ok", .about = "takes everything"},
    {.words = "refuse-login",
     .action = MODE_REFUSE,
     .at = MODE_AT_LOGIN,
     .code = 535,
     .enhanced = "5.7.8",
     .text = "the user name or the password is wrong",
     .hangs_up = true,
     .about = "535 to AUTH, as after a changed password; open sessions end"},
    {.words = "defer-login",
     .action = MODE_REFUSE,
     .at = MODE_AT_LOGIN,
     .code = 454,
     .enhanced = "4.7.0",
     .text = "logins cannot be checked now",
     .hangs_up = true,
     .about = "454 to AUTH; open sessions end"},
    {.words = "refuse-sender",
     .action = MODE_REFUSE,
     .at = MODE_AT_SENDER,
     .code = 553,
     .enhanced = "5.7.1",
     .text = "this account may not send as this sender",
     .about = "553 to MAIL"},
    {.words = "refuse",
     .action = MODE_REFUSE,
     .at = MODE_AT_RCPT,
     .code = 554,
     .enhanced = "5.7.1",
     .text = "this recipient is not wanted here",
     .about = "554 to RCPT"},
    {.words = "defer",
     .action = MODE_REFUSE,
     .at = MODE_AT_RCPT,
     .code = 451,
     .enhanced = "4.7.1",
     .text = "try again later",
     .about = "451 to RCPT"},
    {.words = "refuse-content",
     .action = MODE_REFUSE,
     .at = MODE_AT_DOT,
     .code = 554,
     .enhanced = "5.7.1",
     .text = "this message looks like spam",
     .about = "554 to the end of the content"},
    {.words = "defer-content",
     .action = MODE_REFUSE,
     .at = MODE_AT_DOT,
     .code = 451,
     .enhanced = "4.3.0",
     .text = "the message could not be stored now",
     .about = "451 to the end of the content"},
    {.words = "throttle",
     .action = MODE_REFUSE,
     .at = MODE_AT_GREETING | MODE_AT_SENDER,
     .code = 421,
     .enhanced = "4.7.0",
     .text = "too much mail from you, come back later",
     .about = "421 to new connections and to MAIL"},
    {.words = "stall", .action = MODE_STALL, .about = "answers nothing, until another mode is set"},
    {.words = "drop",
     .action = MODE_CUT,
     .at = MODE_AT_DOT,
     .about = "closes at the end of the content; the message was not taken"},
    {.words = "drop late",
     .action = MODE_TAKE,
     .at = MODE_AT_DOT,
     .about = "closes at the end of the content; the message was taken"},
    {.words = "drop data", .action = MODE_CUT, .at = MODE_AT_DATA, .about = "closes at DATA"},
    {.words = "drop mail", .action = MODE_CUT, .at = MODE_AT_SENDER, .about = "closes at MAIL"},
    {.words = "slow", .action = MODE_DELAY, .about = "slow N: every answer comes N ms late"},
};

#define ROW_COUNT (sizeof rows / sizeof rows[0])

_Static_assert(ROW_COUNT < 1u << DELAY_SHIFT, "an index stands below the delay");

const struct mode_row *mode_row(struct mode_box *box)
{
    return &rows[atomic_load_explicit(&box->value, memory_order_relaxed) &
                 ((1u << DELAY_SHIFT) - 1)];
}

uint32_t mode_delay_ms(struct mode_box *box)
{
    return (uint32_t)(atomic_load_explicit(&box->value, memory_order_relaxed) >> DELAY_SHIFT);
}

const struct mode_row *mode_at(size_t index)
{
    return index < ROW_COUNT ? &rows[index] : NULL;
}

/* "slow 250": the number. Other modes have none. */
static bool read_delay(const struct mode_row *row, struct slice rest, uint64_t *out_delay_ms)
{
    if (row->action != MODE_DELAY) {
        return rest.len == 0;
    }
    return slice_starts_with(rest, SLICE(" ")) && u64_parse(slice_trim(rest), out_delay_ms) &&
           *out_delay_ms <= MODE_DELAY_MS_MAX;
}

bool mode_set(struct mode_box *box, struct slice words)
{
    for (size_t index = 0; index < ROW_COUNT; index++) {
        struct slice name = slice_from_str(rows[index].words);
        uint64_t delay_ms = 0;
        if (slice_starts_with(words, name) &&
            read_delay(&rows[index], slice_tail(words, name.len), &delay_ms)) {
            atomic_store_explicit(&box->value, delay_ms << DELAY_SHIFT | index,
                                  memory_order_relaxed);
            return true;
        }
    }
    return false;
}

const struct mode_row *mode_nearest(struct slice words)
{
    const char *names[ROW_COUNT];
    for (size_t index = 0; index < ROW_COUNT; index++) {
        names[index] = rows[index].words;
    }
    const char *nearest = text_nearest(words, names, ROW_COUNT);
    for (size_t index = 0; index < ROW_COUNT; index++) {
        if (rows[index].words == nearest) {
            return &rows[index];
        }
    }
    return NULL;
}

void mode_put(struct mode_box *box, struct buf *to)
{
    const struct mode_row *row = mode_row(box);
    buf_put_str(to, row->words);
    if (row->action == MODE_DELAY) {
        buf_put_byte(to, ' ');
        buf_put_u64(to, mode_delay_ms(box));
    }
}
