#include "daemon/proto/smtp_param.h"

#include "daemon/base/num.h"
#include "daemon/base/text.h"

typedef bool read_value_fn(struct slice value, struct smtp_params *params);

/* RFC 1870 4: size-value = 1*20DIGIT. The few such numbers that 64 bits cannot hold are too large
 * for anybody. */
static bool read_size(struct slice value, struct smtp_params *params)
{
    if (value.len == 0 || value.len > 20) {
        return false;
    }
    for (size_t index = 0; index < value.len; index++) {
        if (value.data[index] < '0' || value.data[index] > '9') {
            return false;
        }
    }
    if (!u64_parse(value, &params->size)) {
        params->size = UINT64_MAX;
    }
    return true;
}

/* RFC 6152 2. BINARYMIME (RFC 3030) is not announced. */
static bool read_body(struct slice value, struct smtp_params *params)
{
    params->body_8bit = slice_equal_nocase(value, SLICE("8BITMIME"));
    return params->body_8bit || slice_equal_nocase(value, SLICE("7BIT"));
}

/* RFC 6531 3.4: no value. */
static bool read_smtputf8(struct slice value, struct smtp_params *params)
{
    params->smtputf8 = true;
    return value.len == 0;
}

static bool is_hex_digit(uint8_t byte)
{
    return (byte >= '0' && byte <= '9') || (byte >= 'A' && byte <= 'F');
}

static uint8_t hex_value(uint8_t digit)
{
    return (uint8_t)(digit <= '9' ? digit - '0' : digit - 'A' + 10);
}

/*
 * RFC 3461 4: xtext, "+" and two upper-case hexadecimal digits for what cannot stand there.
 * printable: what was encoded is printable ASCII and blanks, as 4.2 and 4.4 ask for the sake of the
 * reports that repeat it.
 */
static bool is_xtext(struct slice value, bool printable)
{
    for (size_t index = 0; index < value.len; index++) {
        if (value.data[index] != '+') {
            continue;
        }
        if (value.len - index < 3 || !is_hex_digit(value.data[index + 1]) ||
            !is_hex_digit(value.data[index + 2])) {
            return false;
        }
        unsigned byte =
            (unsigned)hex_value(value.data[index + 1]) << 4 | hex_value(value.data[index + 2]);
        if (printable && byte != '\t' && (byte < ' ' || byte > '~')) {
            return false;
        }
    }
    return value.len > 0;
}

/* RFC 4954 5. The claim in it is not used: a relay that trusts nobody may drop it. */
static bool read_auth(struct slice value, struct smtp_params *params)
{
    (void)params;
    return is_xtext(value, false);
}

/* RFC 3461 4.3. */
static bool read_ret(struct slice value, struct smtp_params *params)
{
    params->ret = slice_equal_nocase(value, SLICE("FULL"))   ? SMTP_RET_FULL
                  : slice_equal_nocase(value, SLICE("HDRS")) ? SMTP_RET_HDRS
                                                             : SMTP_RET_NONE;
    return params->ret != SMTP_RET_NONE;
}

/* RFC 3461 4.4. */
static bool read_envid(struct slice value, struct smtp_params *params)
{
    params->envid = value;
    return value.len <= SMTP_ENVID_BYTES_MAX && is_xtext(value, true);
}

static uint8_t notify_bit(struct slice word)
{
    static const struct {
        const char *word;
        uint8_t bit;
    } rows[] = {
        {"NEVER", SMTP_NOTIFY_NEVER},
        {"SUCCESS", SMTP_NOTIFY_SUCCESS},
        {"FAILURE", SMTP_NOTIFY_FAILURE},
        {"DELAY", SMTP_NOTIFY_DELAY},
    };
    for (size_t index = 0; index < sizeof rows / sizeof rows[0]; index++) {
        if (slice_equal_nocase(word, slice_from_str(rows[index].word))) {
            return rows[index].bit;
        }
    }
    return 0;
}

/* RFC 3461 4.1: NEVER, or a list of the others. A word that is there twice is refused as a
 * parameter would be. */
static bool read_notify(struct slice value, struct smtp_params *params)
{
    bool more = true;
    while (more) {
        size_t comma = slice_find(value, ',');
        uint8_t bit = notify_bit(slice_head(value, comma));
        if (bit == 0 || (params->notify & bit) != 0) {
            return false;
        }
        params->notify |= bit;
        more = comma < value.len;
        value = slice_tail(value, comma + 1);
    }
    return (params->notify & SMTP_NOTIFY_NEVER) == 0 || params->notify == SMTP_NOTIFY_NEVER;
}

/* The types of RFC 3461 9 and RFC 6533 5 are such words, and a report repeats them. */
static bool is_address_type(struct slice type)
{
    for (size_t index = 0; index < type.len; index++) {
        uint8_t byte = ascii_lower(type.data[index]);
        if ((byte < 'a' || byte > 'z') && (byte < '0' || byte > '9') && byte != '-') {
            return false;
        }
    }
    return type.len > 0;
}

/* RFC 3461 4.2: addr-type ";" xtext. Bytes beyond ASCII are of the type that RFC 6533 3 made for
 * them; that they are UTF-8 the whole line was asked before. */
static bool read_orcpt(struct slice value, struct smtp_params *params)
{
    size_t semicolon = slice_find(value, ';');
    struct slice type = slice_head(value, semicolon);
    bool ascii = true;
    for (size_t index = 0; index < value.len; index++) {
        ascii = ascii && value.data[index] < 0x80;
    }
    params->orcpt = value;
    return value.len <= SMTP_ORCPT_BYTES_MAX && is_address_type(type) &&
           (ascii || slice_equal_nocase(type, SLICE("utf-8"))) &&
           is_xtext(slice_tail(value, semicolon + 1), true);
}

/* context: every bit of it must be there. */
static const struct known {
    const char *name;
    unsigned context;
    read_value_fn *read_value;
} known_params[] = {
    {"SIZE", SMTP_PARAM_FOR_MAIL, read_size},
    {"BODY", SMTP_PARAM_FOR_MAIL, read_body},
    {"SMTPUTF8", SMTP_PARAM_FOR_MAIL, read_smtputf8},
    {"AUTH", SMTP_PARAM_FOR_MAIL | SMTP_PARAM_WITH_AUTH, read_auth},
    {"RET", SMTP_PARAM_FOR_MAIL, read_ret},
    {"ENVID", SMTP_PARAM_FOR_MAIL, read_envid},
    {"NOTIFY", SMTP_PARAM_FOR_RCPT, read_notify},
    {"ORCPT", SMTP_PARAM_FOR_RCPT, read_orcpt},
};

#define KNOWN_COUNT (sizeof known_params / sizeof known_params[0])
_Static_assert(KNOWN_COUNT <= 32, "which were given is kept in 32 bits");

static bool is_keyword(struct slice name)
{
    for (size_t index = 0; index < name.len; index++) {
        uint8_t byte = ascii_lower(name.data[index]);
        bool alnum = (byte >= 'a' && byte <= 'z') || (byte >= '0' && byte <= '9');
        if (!alnum && (byte != '-' || index == 0)) {
            return false;
        }
    }
    return name.len > 0;
}

/* RFC 6531 3.3 adds UTF-8 beyond ASCII to esmtp-value. */
static bool is_value(struct slice value, bool utf8)
{
    uint32_t code = 0;
    size_t at = 0;
    while (at < value.len) {
        size_t len = text_utf8_len(slice_tail(value, at), &code);
        if (len == 0 || (len > 1 && !utf8) || code < 33 || code == 127 || code == '=') {
            return false;
        }
        at += len;
    }
    return value.len > 0;
}

static enum smtp_param_verdict parse_one(struct slice word, unsigned context, uint32_t *given,
                                         struct smtp_params *params)
{
    size_t equals = slice_find(word, '=');
    struct slice name = slice_head(word, equals);
    struct slice value = slice_tail(word, equals + 1);
    if (!is_keyword(name) ||
        (equals < word.len && !is_value(value, (context & SMTP_PARAM_WITH_UTF8) != 0))) {
        return SMTP_PARAM_SYNTAX;
    }
    for (size_t index = 0; index < KNOWN_COUNT; index++) {
        const struct known *known = &known_params[index];
        if ((known->context & ~context) != 0 ||
            !slice_equal_nocase(name, slice_from_str(known->name))) {
            continue;
        }
        if ((*given & 1u << index) != 0) {
            return SMTP_PARAM_REPEATED;
        }
        *given |= 1u << index;
        return known->read_value(value, params) ? SMTP_PARAM_OK : SMTP_PARAM_VALUE;
    }
    return SMTP_PARAM_UNKNOWN;
}

enum smtp_param_verdict smtp_params_parse(struct slice in, unsigned context,
                                          struct smtp_params *out_params)
{
    struct smtp_params params = {0};
    uint32_t given = 0;
    if (in.len > 0 && in.data[0] != ' ') {
        return SMTP_PARAM_SYNTAX;
    }
    while (in.len > 0) {
        size_t blank = slice_find(in, ' ');
        struct slice word = slice_head(in, blank);
        in = slice_tail(in, blank + 1);
        enum smtp_param_verdict verdict =
            word.len == 0 ? SMTP_PARAM_OK : parse_one(word, context, &given, &params);
        if (verdict != SMTP_PARAM_OK) {
            return verdict;
        }
    }
    *out_params = params;
    return SMTP_PARAM_OK;
}
