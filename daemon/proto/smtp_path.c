/*
 * Recursive descent without recursion: each parser takes its part off the head of a slice and says
 * how long it is; 0 is "not there". Lengths are judged after the syntax, over the whole part, so
 * that an over-long address is called that.
 *
 * Underscores in domains are let through: devices are named so, and nothing here depends on it.
 */
#include "daemon/proto/smtp_path.h"

#include <arpa/inet.h>

#include "daemon/base/text.h"

static bool is_alnum(uint8_t byte)
{
    return (byte >= '0' && byte <= '9') || (byte >= 'a' && byte <= 'z') ||
           (byte >= 'A' && byte <= 'Z');
}

static bool is_blank(uint8_t byte)
{
    return byte == ' ' || byte == '\t';
}

/* RFC 5322 3.2.3. */
static bool is_atext(uint8_t byte)
{
    return is_alnum(byte) || (byte != 0 && strchr("!#$%&'*+-/=?^_`{|}~", byte) != NULL);
}

static bool is_domain_byte(uint8_t byte)
{
    return is_alnum(byte) || byte == '-' || byte == '_';
}

typedef bool byte_fn(uint8_t byte);

/* How many bytes at the head are of a class, or UTF-8 beyond ASCII (RFC 6531 3.3, 3.7.1). */
static size_t span(struct slice in, byte_fn *is_member)
{
    size_t len = 0;
    uint32_t code = 0;
    while (len < in.len) {
        size_t step = is_member(in.data[len]) ? 1
                      : in.data[len] >= 0x80  ? text_utf8_len(slice_tail(in, len), &code)
                                              : 0;
        if (step == 0) {
            break;
        }
        len += step;
    }
    return len;
}

/* Parts joined by dots: none empty, none at either end. */
static size_t parse_dotted(struct slice in, byte_fn *is_member)
{
    size_t len = 0;
    for (;;) {
        size_t part = span(slice_tail(in, len), is_member);
        if (part == 0) {
            return 0;
        }
        len += part;
        if (len == in.len || in.data[len] != '.') {
            return len;
        }
        len++;
    }
}

/*
 * Quoted-string = DQUOTE *(qtextSMTP / quoted-pairSMTP) DQUOTE
 * qtextSMTP = %d32-33 / %d35-91 / %d93-126, quoted-pairSMTP = %d92 %d32-126
 */
static size_t parse_quoted(struct slice in)
{
    size_t at = 1;
    uint32_t code = 0;
    while (at < in.len && in.data[at] != '"') {
        if (in.data[at] == '\\') {
            at++;
        }
        struct slice rest = slice_tail(in, at);
        size_t step = text_utf8_len(rest, &code);
        if (step == 0 || code < 0x20 || code == 0x7f) {
            return 0;
        }
        at += step;
    }
    return at < in.len ? at + 1 : 0;
}

/* Local-part = Dot-string / Quoted-string */
static size_t parse_local(struct slice in)
{
    return in.len > 0 && in.data[0] == '"' ? parse_quoted(in) : parse_dotted(in, is_atext);
}

/* The inside of "[...]": IPv4-address-literal / IPv6-address-literal. No other tag is registered.
 */
static bool is_address_literal(struct slice inside)
{
    char text[INET6_ADDRSTRLEN];
    uint8_t address[16];
    bool six = slice_starts_with_nocase(inside, SLICE("IPv6:"));
    struct slice number = slice_tail(inside, six ? 5 : 0);
    if (number.len == 0 || number.len >= sizeof text || slice_find(number, 0) < number.len) {
        return false;
    }
    memcpy(text, number.data, number.len);
    text[number.len] = '\0';
    return inet_pton(six ? AF_INET6 : AF_INET, text, address) == 1;
}

/* sub-domain = Let-dig [Ldh-str]: no hyphen at either end of a label. */
static bool has_stray_hyphen(struct slice domain)
{
    for (size_t at = 0; at < domain.len; at++) {
        bool first = at == 0 || domain.data[at - 1] == '.';
        bool last = at + 1 == domain.len || domain.data[at + 1] == '.';
        if (domain.data[at] == '-' && (first || last)) {
            return true;
        }
    }
    return false;
}

/* Domain / address-literal */
static size_t parse_domain(struct slice in)
{
    if (in.len > 0 && in.data[0] == '[') {
        size_t end = slice_find(in, ']');
        return end < in.len && is_address_literal(slice_of(in.data + 1, end - 1)) ? end + 1 : 0;
    }
    size_t len = parse_dotted(in, is_domain_byte);
    return has_stray_hyphen(slice_head(in, len)) ? 0 : len;
}

/*
 * Mailbox = Local-part "@" ( Domain / address-literal ); or a local part alone, which "Postmaster"
 * and mail from the box itself need.
 */
static size_t parse_mailbox(struct slice in, struct smtp_path *out_path)
{
    struct smtp_path path = {.domain = slice_of(NULL, 0)};
    size_t len = parse_local(in);
    path.local = slice_head(in, len);
    if (len > 0 && len < in.len && in.data[len] == '@') {
        size_t domain_len = parse_domain(slice_tail(in, len + 1));
        if (domain_len == 0) {
            return 0;
        }
        path.domain = slice_of(in.data + len + 1, domain_len);
        len += 1 + domain_len;
    }
    path.address = slice_head(in, len);
    *out_path = path;
    return len;
}

/*
 * A-d-l = At-domain *( "," At-domain ), At-domain = "@" Domain; then ":". *out_len is the length of
 * the route with its colon, 0 when there is none. False when one begins and is not well formed.
 */
static bool parse_route(struct slice in, size_t *out_len)
{
    size_t at = 0;
    if (in.len > 0 && in.data[0] == '@') {
        do {
            size_t domain_len =
                at < in.len && in.data[at] == '@' ? parse_domain(slice_tail(in, at + 1)) : 0;
            if (domain_len == 0) {
                return false;
            }
            at += 1 + domain_len;
        } while (at < in.len && in.data[at++] == ',');
        if (in.data[at - 1] != ':') {
            return false;
        }
    }
    *out_len = at;
    return true;
}

static bool is_ascii(struct slice text)
{
    for (size_t index = 0; index < text.len; index++) {
        if (text.data[index] >= 0x80) {
            return false;
        }
    }
    return true;
}

/* path_bytes: with "<", route and ">", as it came. RFC 5321 4.5.3.1.1 to 4.5.3.1.3. */
static enum smtp_path_verdict judge(struct slice whole, size_t path_bytes, bool utf8_allowed,
                                    const struct smtp_path *path)
{
    if (!utf8_allowed && !is_ascii(whole)) {
        return SMTP_PATH_NOT_ASCII;
    }
    if (path->local.len > SMTP_LOCAL_BYTES_MAX || path->domain.len > SMTP_DOMAIN_BYTES_MAX ||
        path_bytes > SMTP_PATH_BYTES_MAX) {
        return SMTP_PATH_TOO_LONG;
    }
    return SMTP_PATH_OK;
}

/* in begins behind "<". */
static enum smtp_path_verdict parse_bracketed(struct slice in, bool utf8_allowed,
                                              struct smtp_path *out_path, struct slice *out_rest)
{
    if (in.len > 0 && in.data[0] == '>') {
        *out_path = (struct smtp_path){.address = slice_head(in, 0)};
        *out_rest = slice_tail(in, 1);
        return SMTP_PATH_NULL;
    }
    struct smtp_path path;
    size_t route_len = 0;
    if (!parse_route(in, &route_len)) {
        return SMTP_PATH_SYNTAX;
    }
    size_t len = parse_mailbox(slice_tail(in, route_len), &path);
    size_t end = route_len + len;
    if (len == 0 || end >= in.len || in.data[end] != '>') {
        return SMTP_PATH_SYNTAX;
    }
    enum smtp_path_verdict verdict =
        judge(slice_head(in, end), end + strlen("<>"), utf8_allowed, &path);
    if (verdict == SMTP_PATH_OK) {
        *out_path = path;
        *out_rest = slice_tail(in, end + 1);
    }
    return verdict;
}

static enum smtp_path_verdict parse_bare(struct slice in, bool utf8_allowed,
                                         struct smtp_path *out_path, struct slice *out_rest)
{
    struct smtp_path path;
    size_t len = parse_mailbox(in, &path);
    if (len == 0 || (len < in.len && !is_blank(in.data[len]))) {
        return SMTP_PATH_SYNTAX;
    }
    enum smtp_path_verdict verdict =
        judge(slice_head(in, len), len + strlen("<>"), utf8_allowed, &path);
    if (verdict == SMTP_PATH_OK) {
        *out_path = path;
        *out_rest = slice_tail(in, len);
    }
    return verdict;
}

enum smtp_path_verdict smtp_path_parse(struct slice in, bool utf8_allowed,
                                       struct smtp_path *out_path, struct slice *out_rest)
{
    while (in.len > 0 && is_blank(in.data[0])) {
        in = slice_tail(in, 1);
    }
    if (in.len > 0 && in.data[0] == '<') {
        return parse_bracketed(slice_tail(in, 1), utf8_allowed, out_path, out_rest);
    }
    return parse_bare(in, utf8_allowed, out_path, out_rest);
}

bool smtp_path_is_address(struct slice text)
{
    struct smtp_path path;
    return parse_mailbox(text, &path) == text.len && path.domain.len > 0 &&
           judge(text, text.len + strlen("<>"), false, &path) == SMTP_PATH_OK;
}
