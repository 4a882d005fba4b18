#include "daemon/proto/mail_header.h"

#include "daemon/base/num.h"

/* Takes one line off *content, without its line end. False at the end of the header. */
static bool next_line(struct slice *content, struct slice *out_line)
{
    if (content->len == 0) {
        return false;
    }
    size_t end = slice_find(*content, '\n');
    struct slice line = slice_head(*content, end);
    *content = slice_tail(*content, end + 1);
    if (line.len > 0 && line.data[line.len - 1] == '\r') {
        line.len--;
    }
    *out_line = line;
    return line.len > 0;
}

static bool is_folded(struct slice line)
{
    return line.data[0] == ' ' || line.data[0] == '\t';
}

static void put_part(struct buf *to, size_t start, struct slice part)
{
    struct slice text = slice_trim(part);
    if (to->len > start && text.len > 0 && buf_room(to) > 0) {
        buf_put_byte(to, ' ');
    }
    buf_put(to, slice_head(text, buf_room(to)));
}

bool mail_header_find(struct slice content, struct slice name, struct buf *to)
{
    struct slice line;
    bool found = false;
    const size_t start = to->len;
    while (next_line(&content, &line)) {
        if (found) {
            if (!is_folded(line)) {
                break;
            }
            put_part(to, start, line);
        } else if (line.len > name.len && slice_starts_with_nocase(line, name) &&
                   line.data[name.len] == ':') {
            found = true;
            put_part(to, start, slice_tail(line, name.len + 1));
        }
    }
    return found;
}
