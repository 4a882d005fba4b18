/*
 * Request heads. See http.h.
 */
#include "web/http.h"

#include "daemon/base/num.h"

#define EMPTY_LINES_MAX 2

static enum http_step refuse(struct http_refusal *out, uint16_t status, const char *sentence)
{
    *out = (struct http_refusal){status, sentence};
    return HTTP_STEP_REFUSED;
}

/* ---- finding the end ---- */

static bool is_control(uint8_t byte)
{
    return (byte < ' ' && byte != '\t') || byte == 0x7f;
}

/* The line that ends at s->at, which is its LF. */
static enum http_step end_line(struct http_scan *s, struct http_refusal *out)
{
    bool empty = s->at == s->line_begin + 1;
    s->at++;
    s->line_begin = s->at;
    if (!empty) {
        s->lines++;
        return s->lines > HTTP_FIELDS_MAX + 1
                   ? refuse(out, 431, "the request has too many header fields")
                   : HTTP_STEP_MORE;
    }
    if (s->lines > 0) {
        return HTTP_STEP_WHOLE;
    }
    s->begin = s->at;
    s->empty_lines++;
    return s->empty_lines > EMPTY_LINES_MAX ? refuse(out, 400, "the request begins with nothing")
                                            : HTTP_STEP_MORE;
}

enum http_step http_scan_feed(struct http_scan *s, struct slice in, struct http_refusal *out)
{
    while (s->at < in.len) {
        uint8_t byte = in.data[s->at];
        bool after_cr = s->at > s->line_begin && in.data[s->at - 1] == '\r';
        if (after_cr != (byte == '\n')) {
            return refuse(out, 400, "a line of the request does not end in CR LF");
        }
        if (byte == '\n') {
            enum http_step step = end_line(s, out);
            if (step != HTTP_STEP_MORE) {
                return step;
            }
            continue;
        }
        if (is_control(byte) && byte != '\r') {
            return refuse(out, 400, "the request holds a control character; this is plain HTTP");
        }
        s->at++;
        if (s->lines == 0 && s->at - s->line_begin > HTTP_LINE_BYTES_MAX) {
            return refuse(out, 414, "the address is too long");
        }
        if (s->at - s->begin > HTTP_HEAD_BYTES_MAX) {
            return refuse(out, 431, "the header of the request is too long");
        }
    }
    return HTTP_STEP_MORE;
}

/* ---- taking apart ---- */

/* RFC 9110 5.6.2. */
static bool is_token(struct slice s)
{
    for (size_t index = 0; index < s.len; index++) {
        uint8_t c = ascii_lower(s.data[index]);
        bool word = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
        if (!word && (c == 0 || strchr("!#$%&'*+-.^_`|~", c) == NULL)) {
            return false;
        }
    }
    return s.len > 0;
}

static enum http_method method_of(struct slice word)
{
    static const char *const others[] = {"POST",    "PUT",   "DELETE", "PATCH",
                                         "OPTIONS", "TRACE", "CONNECT"};
    if (slice_equal(word, SLICE("GET"))) {
        return HTTP_METHOD_GET;
    }
    if (slice_equal(word, SLICE("HEAD"))) {
        return HTTP_METHOD_HEAD;
    }
    for (size_t index = 0; index < sizeof others / sizeof others[0]; index++) {
        if (slice_equal(word, slice_from_str(others[index]))) {
            return HTTP_METHOD_OTHER;
        }
    }
    return HTTP_METHOD_UNKNOWN;
}

/* HTTP-version = "HTTP/" DIGIT "." DIGIT, RFC 9112 2.3. */
static bool parse_version(struct http_request *out, struct slice word, struct http_refusal *refusal)
{
    if (word.len != 8 || !slice_starts_with(word, SLICE("HTTP/")) || word.data[6] != '.' ||
        word.data[5] < '0' || word.data[5] > '9' || word.data[7] < '0' || word.data[7] > '9') {
        (void)refuse(refusal, 400, "the first line of the request is not HTTP/1.1");
        return false;
    }
    if (word.data[5] != '1') {
        (void)refuse(refusal, 505, "only HTTP/1.1 and HTTP/1.0 are spoken here");
        return false;
    }
    out->persistent = word.data[7] != '0';
    return true;
}

/* origin-form, or absolute-form, whose host stands in for Host. RFC 9112 3.2. */
static bool parse_target(struct http_request *out, struct slice target,
                         struct http_refusal *refusal)
{
    static const struct slice scheme = {(const uint8_t *)"http://", 7};
    if (slice_starts_with_nocase(target, scheme)) {
        target = slice_tail(target, scheme.len);
        size_t at = slice_find(target, '/');
        out->host = slice_head(target, at);
        target = at == target.len ? SLICE("/") : slice_tail(target, at);
    }
    bool asterisk = out->method == HTTP_METHOD_OTHER;
    if (!asterisk && (target.len == 0 || target.data[0] != '/')) {
        (void)refuse(refusal, 400, "the address does not begin with a slash");
        return false;
    }
    for (size_t index = 0; index < target.len; index++) {
        if (target.data[index] > '~' || target.data[index] == '#' || target.data[index] == '\t') {
            (void)refuse(refusal, 400, "the address holds a byte that must be percent-encoded");
            return false;
        }
    }
    size_t at = slice_find(target, '?');
    out->path = slice_head(target, at);
    out->query = slice_tail(target, at + 1);
    return true;
}

static bool parse_line(struct http_request *out, struct slice line, struct http_refusal *refusal)
{
    size_t first = slice_find(line, ' '), last = slice_find_last(line, ' ');
    struct slice method = slice_head(line, first);
    if (first == line.len || first == last || !is_token(method)) {
        (void)refuse(refusal, 400, "the first line of the request is not HTTP/1.1");
        return false;
    }
    struct slice target = slice_of(line.data + first + 1, last - first - 1);
    if (slice_find(target, ' ') != target.len) {
        (void)refuse(refusal, 400, "the address holds a blank");
        return false;
    }
    out->method = method_of(method);
    return parse_version(out, slice_tail(line, last + 1), refusal) &&
           parse_target(out, target, refusal);
}

/* What the fields say that matter here. */
struct fields {
    uint32_t hosts, lengths, codings;
    struct slice host;
    uint64_t length;
    bool close;
};

static bool has_word(struct slice list, struct slice word)
{
    while (list.len > 0) {
        size_t at = slice_find(list, ',');
        if (slice_equal_nocase(slice_trim(slice_head(list, at)), word)) {
            return true;
        }
        list = slice_tail(list, at + 1);
    }
    return false;
}

static bool take_field(struct fields *f, struct slice name, struct slice value,
                       struct http_refusal *refusal)
{
    if (slice_equal_nocase(name, SLICE("host"))) {
        f->hosts++;
        f->host = value;
    } else if (slice_equal_nocase(name, SLICE("content-length"))) {
        f->lengths++;
        if (!u64_parse(value, &f->length)) {
            (void)refuse(refusal, 400, "Content-Length is not a number");
            return false;
        }
    } else if (slice_equal_nocase(name, SLICE("transfer-encoding"))) {
        f->codings++;
        if (!slice_equal_nocase(value, SLICE("chunked"))) {
            (void)refuse(refusal, 400, "that Transfer-Encoding is not known here");
            return false;
        }
    } else if (slice_equal_nocase(name, SLICE("connection"))) {
        f->close = f->close || has_word(value, SLICE("close"));
    }
    return true;
}

/* field-line = field-name ":" OWS field-value OWS; no fold, no blank before the colon. */
static bool parse_field(struct fields *f, struct slice line, struct http_refusal *refusal)
{
    size_t colon = slice_find(line, ':');
    struct slice name = slice_head(line, colon);
    if (colon == line.len || !is_token(name)) {
        (void)refuse(refusal, 400, "a header field is not well formed");
        return false;
    }
    return take_field(f, name, slice_trim(slice_tail(line, colon + 1)), refusal);
}

static bool judge_fields(struct http_request *out, const struct fields *f,
                         struct http_refusal *refusal)
{
    if (f->hosts != 1) {
        (void)refuse(refusal, 400, "the request must have one Host field");
        return false;
    }
    if (f->lengths + f->codings > 1) {
        (void)refuse(refusal, 400, "the length of the request's body is said more than once");
        return false;
    }
    out->body_follows = f->codings > 0 || f->length > 0;
    if (out->body_follows && (out->method == HTTP_METHOD_GET || out->method == HTTP_METHOD_HEAD)) {
        (void)refuse(refusal, 400, "GET and HEAD have no body here");
        return false;
    }
    if (out->host.len == 0) {
        out->host = f->host;
    }
    out->persistent = out->persistent && !f->close && !out->body_follows;
    return true;
}

/* The next line without its CR LF; http_scan_feed has seen to it that there is one. */
static struct slice take_line(struct slice *rest)
{
    size_t at = slice_find(*rest, '\n');
    CHECK(at > 0 && at < rest->len);
    struct slice line = slice_head(*rest, at - 1);
    *rest = slice_tail(*rest, at + 1);
    return line;
}

bool http_request_parse(struct http_request *out, struct slice head, struct http_refusal *refusal)
{
    struct http_request request = {0};
    struct fields fields = {0};
    if (!parse_line(&request, take_line(&head), refusal)) {
        return false;
    }
    for (struct slice line = take_line(&head); line.len > 0; line = take_line(&head)) {
        if (!parse_field(&fields, line, refusal)) {
            return false;
        }
    }
    if (!judge_fields(&request, &fields, refusal)) {
        return false;
    }
    *out = request;
    return true;
}

/* ---- small things ---- */

static uint8_t hex_value(uint8_t c)
{
    c = ascii_lower(c);
    if (c >= '0' && c <= '9') {
        return (uint8_t)(c - '0');
    }
    return c >= 'a' && c <= 'f' ? (uint8_t)(c - 'a' + 10) : 16;
}

bool http_decode(struct buf *to, struct slice from, bool plus_is_blank)
{
    for (size_t index = 0; index < from.len; index++) {
        uint8_t byte = from.data[index];
        if (byte == '+' && plus_is_blank) {
            byte = ' ';
        } else if (byte == '%') {
            bool whole = from.len - index > 2;
            uint8_t high = whole ? hex_value(from.data[index + 1]) : 16;
            uint8_t low = whole ? hex_value(from.data[index + 2]) : 16;
            if (high == 16 || low == 16) {
                return false;
            }
            byte = (uint8_t)(high << 4 | low);
            index += 2;
        }
        if (byte == 0) {
            return false;
        }
        buf_put_byte(to, byte);
    }
    return !to->overflow;
}

const char *http_status_words(uint16_t status)
{
    static const struct {
        uint16_t status;
        const char *words;
    } rows[] = {
        {200, "OK"},
        {400, "Bad Request"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {408, "Request Timeout"},
        {409, "Conflict"},
        {414, "URI Too Long"},
        {421, "Misdirected Request"},
        {431, "Request Header Fields Too Large"},
        {500, "Internal Server Error"},
        {501, "Not Implemented"},
        {502, "Bad Gateway"},
        {503, "Service Unavailable"},
        {505, "HTTP Version Not Supported"},
    };
    for (size_t index = 0; index < sizeof rows / sizeof rows[0]; index++) {
        if (rows[index].status == status) {
            return rows[index].words;
        }
    }
    return "";
}
