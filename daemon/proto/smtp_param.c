#include "daemon/proto/smtp_param.h"

#include "daemon/base/num.h"

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

/* RFC 4954 5 and RFC 3461 4: xtext, "+" and two upper-case hexadecimal digits for what cannot stand
 * there. The claim in it is not used: a relay that trusts nobody may drop it (RFC 4954 5). */
static bool read_auth(struct slice value, struct smtp_params *params)
{
    (void)params;
    for (size_t index = 0; index < value.len; index++) {
        if (value.data[index] != '+') {
            continue;
        }
        if (value.len - index < 3 || !is_hex_digit(value.data[index + 1]) ||
            !is_hex_digit(value.data[index + 2])) {
            return false;
        }
    }
    return value.len > 0;
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

static bool is_value(struct slice value)
{
    for (size_t index = 0; index < value.len; index++) {
        uint8_t byte = value.data[index];
        if (byte < 33 || byte > 126 || byte == '=') {
            return false;
        }
    }
    return value.len > 0;
}

static enum smtp_param_verdict parse_one(struct slice word, unsigned context, uint32_t *given,
                                         struct smtp_params *params)
{
    size_t equals = slice_find(word, '=');
    struct slice name = slice_head(word, equals);
    struct slice value = slice_tail(word, equals + 1);
    if (!is_keyword(name) || (equals < word.len && !is_value(value))) {
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
