/*
 * Which logins are tried, and in which order. Pure: no library here.
 *
 * The order is always that of the table, strongest first, whatever order the admin or the server
 * has: SCRAM proves the server too and never shows the password; CRAM-MD5 does not show it, but
 * gives a listener something to guess against; PLAIN and LOGIN hand it over.
 */
#include "daemon/sasl/sasl_login.h"

static const struct {
    const char *name;
    bool shows_password; /* to whoever reads the line */
} mechanisms[] = {
    {"SCRAM-SHA-256", false}, {"SCRAM-SHA-1", false}, {"CRAM-MD5", false},
    {"PLAIN", true},          {"LOGIN", true},
};
#define MECHANISM_COUNT (sizeof mechanisms / sizeof mechanisms[0])

static bool is_separator(uint8_t byte)
{
    return byte == ' ' || byte == '\t' || byte == ',';
}

/* Takes the first word off the list; empty at the end. */
static struct slice next_word(struct slice *list)
{
    while (list->len > 0 && is_separator(list->data[0])) {
        *list = slice_tail(*list, 1);
    }
    size_t len = 0;
    while (len < list->len && !is_separator(list->data[len])) {
        len++;
    }
    struct slice word = slice_head(*list, len);
    *list = slice_tail(*list, len);
    return word;
}

static bool list_has(struct slice list, const char *name)
{
    for (struct slice word = next_word(&list); word.len > 0; word = next_word(&list)) {
        if (slice_equal_nocase(word, slice_from_str(name))) {
            return true;
        }
    }
    return false;
}

void sasl_login_choose(const char *offered, const char *allowed, bool over_tls, char *out,
                       size_t cap)
{
    CHECK(cap > 0);
    struct buf list;
    buf_init(&list, out, cap - 1);
    bool automatic = list_has(slice_from_str(allowed), "auto");
    for (size_t row = 0; row < MECHANISM_COUNT; row++) {
        const char *name = mechanisms[row].name;
        bool wanted = list_has(slice_from_str(allowed), name) ||
                      (automatic && (over_tls || !mechanisms[row].shows_password));
        size_t separator = list.len > 0 ? 1 : 0;
        if (wanted && list_has(slice_from_str(offered), name) &&
            buf_room(&list) >= separator + strlen(name)) {
            buf_put(&list, slice_head(SLICE(" "), separator));
            buf_put_str(&list, name);
        }
    }
    out[list.len] = '\0';
}
