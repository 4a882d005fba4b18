/*
 * One judge per type: a value's text in, its member out, or a complaint. Judges never repair.
 */
#include "daemon/base/num.h"
#include "daemon/base/text.h"
#include "daemon/config/config_private.h"
#include "daemon/proto/smtp_path.h"

#include <sched.h>
#include <stdarg.h>
#include <stdio.h>

#define WORKERS_AUTO_MAX 4   /* architecture: more rarely help, and each has its connections */
#define NAME_BYTES_MAX   253 /* RFC 1035 3.1: 255 octets on the wire are 253 characters */
#define LABEL_BYTES_MAX  63

/* Columns count characters, as editors do. */
static uint32_t characters(struct slice text)
{
    uint32_t count = 0;
    for (size_t index = 0; index < text.len; index++) {
        count += (text.data[index] & 0xc0) != 0x80;
    }
    return count;
}

bool config_value_refuse(const struct config_value *value, struct slice at, const char *fix,
                         const char *format, ...)
{
    char message[400];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(message, sizeof message, format, args);
    va_end(args);
    char example[200];
    if (fix == NULL) {
        (void)snprintf(example, sizeof example, "for example: %s = %s", value->key,
                       value->setting->example);
    }
    struct config_place place = value->place;
    place.column += characters(slice_head(value->text, (size_t)(at.data - value->text.data)));
    config_report(value->errors, place, fix == NULL ? example : fix, "%s", message);
    return false;
}

bool config_list_next(struct slice *rest, struct slice *out_item)
{
    if (rest->data == NULL) {
        return false;
    }
    size_t comma = slice_find(*rest, ',');
    *out_item = slice_trim(slice_head(*rest, comma));
    *rest = comma == rest->len ? slice_of(NULL, 0)
                               : slice_of(rest->data + comma + 1, rest->len - comma - 1);
    return true;
}

/* ---- bounds of numbers ---- */

struct bounds {
    uint64_t min, max;
};

#define KIB    1024ull
#define MIB    (1024 * KIB)
#define GIB    (1024 * MIB)
#define DAY_MS (24ull * 60 * 60 * 1000)

/* Rows without an entry of their own have that of their type. */
static struct bounds bounds_of(const struct config_setting *setting)
{
    static const struct bounds rows[CONFIG_ROW_COUNT] = {
        [CONFIG_ROW_GLOBAL_max_size] = {KIB, 2 * GIB},
        [CONFIG_ROW_GLOBAL_queue_max] = {MIB, QUEUE_BYTES_MAX},
        [CONFIG_ROW_GLOBAL_history_max] = {MIB, HISTORY_BYTES_MAX},
        [CONFIG_ROW_GLOBAL_connections_max] = {1, CLIENT_CONNECTIONS_MAX},
        [CONFIG_ROW_GLOBAL_connections_per_client] = {1, CLIENT_CONNECTIONS_MAX},
        [CONFIG_ROW_GLOBAL_workers] = {1, WORKERS_MAX},
        [CONFIG_ROW_UPSTREAM_connections] = {1, UPSTREAM_CONNECTIONS_MAX},
        [CONFIG_ROW_UPSTREAM_connection_messages] = {0, UINT32_MAX},
    };
    struct bounds bounds = rows[setting - config_settings];
    if (bounds.max != 0) {
        return bounds;
    }
    return setting->type == CONFIG_TYPE_DURATION ? (struct bounds){1, 365 * DAY_MS}
                                                 : (struct bounds){1, UINT32_MAX};
}

static bool out_of_bounds(const struct config_value *value, struct bounds bounds)
{
    char text[120];
    struct buf to;
    buf_init(&to, text, sizeof text - 1);
    void (*put)(struct buf *, uint64_t) = value->setting->type == CONFIG_TYPE_SIZE ? config_put_size
                                          : value->setting->type == CONFIG_TYPE_DURATION
                                              ? config_put_duration
                                              : buf_put_u64;
    put(&to, bounds.min);
    buf_put_str(&to, " to ");
    put(&to, bounds.max);
    text[to.len] = '\0';
    return config_value_refuse(value, value->text, NULL, "%s is out of bounds: %s may be %s",
                               config_quote(value->text).text, value->key, text);
}

/* ---- numbers with a unit ---- */

struct unit {
    const char *text;
    uint64_t factor;
};

/*
 * number = 1*DIGIT unit. Returns the number of digits, 0 when there is no such unit.
 * The unit's factor is 0 in no table, so overflow is the only way to UINT64_MAX.
 */
static size_t number_parse(struct slice text, const struct unit *units, uint64_t *out_number)
{
    size_t digits = 0;
    while (digits < text.len && text.data[digits] >= '0' && text.data[digits] <= '9') {
        digits++;
    }
    struct slice unit = slice_tail(text, digits);
    while (units->text != NULL && !slice_equal(unit, slice_from_str(units->text))) {
        units++;
    }
    uint64_t number = 0;
    if (digits == 0 || units->text == NULL) {
        return 0;
    }
    bool fits =
        u64_parse(slice_head(text, digits), &number) && number <= UINT64_MAX / units->factor;
    *out_number = fits ? number * units->factor : UINT64_MAX;
    return digits;
}

static bool judge_number(const struct config_value *value, const struct unit *units,
                         const char *expected, uint64_t *out)
{
    uint64_t number = 0;
    if (number_parse(value->text, units, &number) == 0) {
        return config_value_refuse(value, value->text, NULL, "%s is not %s",
                                   config_quote(value->text).text, expected);
    }
    struct bounds bounds = bounds_of(value->setting);
    if (number < bounds.min || number > bounds.max) {
        return out_of_bounds(value, bounds);
    }
    *out = number;
    return true;
}

static bool judge_size(const struct config_value *value, void *out)
{
    static const struct unit units[] = {{"", 1},    {"K", KIB},        {"M", MIB},
                                        {"G", GIB}, {"T", 1024 * GIB}, {NULL, 0}};
    return judge_number(value, units, "a size: a number and K, M, G or T", out);
}

static bool judge_duration(const struct config_value *value, void *out)
{
    static const struct unit units[] = {{"ms", 1},          {"s", 1000},   {"m", 60 * 1000},
                                        {"h", 3600 * 1000}, {"d", DAY_MS}, {"w", 7 * DAY_MS},
                                        {NULL, 0}};
    return judge_number(value, units, "a duration: a number and ms, s, m, h, d or w", out);
}

static bool judge_count(const struct config_value *value, void *out)
{
    static const struct unit units[] = {{"", 1}, {NULL, 0}};
    uint64_t number = 0;
    if (!judge_number(value, units, "a number", &number)) {
        return false;
    }
    *(uint32_t *)out = u32_from(number);
    return true;
}

static bool judge_count_auto(const struct config_value *value, void *out)
{
    if (!slice_equal(value->text, SLICE("auto"))) {
        return judge_count(value, out);
    }
    cpu_set_t cpus;
    int count = sched_getaffinity(0, sizeof cpus, &cpus) == 0 ? CPU_COUNT(&cpus) : 1;
    *(uint32_t *)out = count < 1                  ? 1
                       : count > WORKERS_AUTO_MAX ? WORKERS_AUTO_MAX
                                                  : (uint32_t)count;
    return true;
}

/* ---- words ---- */

static bool refuse_word(const struct config_value *value, const char *const *words, size_t count)
{
    char list[120];
    struct buf to;
    buf_init(&to, list, sizeof list - 1);
    for (size_t index = 0; index < count; index++) {
        buf_put_str(&to, index == 0 ? "" : index + 1 == count ? " or " : ", ");
        buf_put_str(&to, words[index]);
    }
    list[to.len] = '\0';
    char fix[200];
    const char *nearest = text_nearest(value->text, words, count);
    if (nearest != NULL) {
        (void)snprintf(fix, sizeof fix, "write: %s = %s", value->key, nearest);
        return config_value_refuse(value, value->text, fix,
                                   "%s may be %s, not %s; did you mean \"%s\"?", value->key, list,
                                   config_quote(value->text).text, nearest);
    }
    return config_value_refuse(value, value->text, NULL, "%s may be %s, not %s", value->key, list,
                               config_quote(value->text).text);
}

/* Index of the word, or -1 with a complaint. */
static int judge_word(const struct config_value *value)
{
    const char *const *words = config_type_words(value->setting->type);
    size_t count = 0;
    for (; words[count] != NULL; count++) {
        if (slice_equal(value->text, slice_from_str(words[count]))) {
            return (int)count;
        }
    }
    (void)refuse_word(value, words, count);
    return -1;
}

static bool judge_bool(const struct config_value *value, void *out)
{
    int index = judge_word(value);
    if (index < 0) {
        return false;
    }
    *(bool *)out = index == 1;
    return true;
}

/* Every enum of config.h has the size of uint32_t: config_row.c asserts it. */
static bool judge_enum(const struct config_value *value, void *out)
{
    int index = judge_word(value);
    if (index < 0) {
        return false;
    }
    uint32_t number = (uint32_t)index;
    memcpy(out, &number, sizeof number);
    return true;
}

/* ---- texts ---- */

static bool store_text(const struct config_value *value, void *out)
{
    size_t room = value->setting->bytes - 1;
    if (value->text.len > room) {
        return config_value_refuse(value, value->text, "", "%s may have %zu bytes and has %zu",
                                   value->key, room, value->text.len);
    }
    memset(out, 0, value->setting->bytes);
    memcpy(out, value->text.data, value->text.len);
    return true;
}

/* The text is not quoted: somebody may have put a password where its file belongs. */
static bool judge_path(const struct config_value *value, void *out)
{
    if (value->text.data[0] != '/') {
        return config_value_refuse(value, value->text, NULL,
                                   "%s is not an absolute path: it does not begin with /",
                                   value->key);
    }
    return store_text(value, out);
}

static bool judge_address(const struct config_value *value, void *out)
{
    if (!smtp_path_is_address(value->text)) {
        return config_value_refuse(value, value->text, NULL, "%s is not a mail address",
                                   config_quote(value->text).text);
    }
    return store_text(value, out);
}

/* label = let-dig [*(let-dig / "-") let-dig]. RFC 1123 2.1, RFC 5321 4.1.2. */
static const char *label_problem(struct slice label, bool underscore_allowed)
{
    if (label.len == 0) {
        return "has nothing between two dots, or a dot at an end";
    }
    if (label.len > LABEL_BYTES_MAX) {
        return "has a part of more than 63 characters";
    }
    for (size_t index = 0; index < label.len; index++) {
        uint8_t byte = label.data[index];
        uint8_t lower = ascii_lower(byte);
        if (byte >= 0x80) {
            return "is not ASCII; write its xn-- form";
        }
        if (byte == '_' && !underscore_allowed) {
            return "has an underscore, which no host name has";
        }
        if (!(lower >= 'a' && lower <= 'z') && !(byte >= '0' && byte <= '9') && byte != '-' &&
            byte != '_') {
            return "has a character that no host name has";
        }
    }
    return label.data[0] == '-' || label.data[label.len - 1] == '-'
               ? "has a dash at the end of a part"
               : NULL;
}

const char *config_name_problem(struct slice text, bool underscore_allowed)
{
    if (text.len > NAME_BYTES_MAX) {
        return "has more than 253 characters";
    }
    struct slice label = text;
    for (struct slice rest = text;; rest = slice_tail(rest, label.len + 1)) {
        label = slice_head(rest, slice_find(rest, '.'));
        const char *problem = label_problem(label, underscore_allowed);
        if (problem != NULL) {
            return problem;
        }
        if (label.len == rest.len) {
            break;
        }
        if (label.len + 1 == rest.len) {
            return "ends in a dot";
        }
    }
    /* RFC 1123 2.1: the last part of a name is never all digits, so that it cannot be an address.
     */
    for (size_t index = 0; index < label.len; index++) {
        if (label.data[index] < '0' || label.data[index] > '9') {
            return NULL;
        }
    }
    return "ends in digits, as an address does and a name never";
}

static bool judge_hostname(const struct config_value *value, void *out)
{
    const char *problem = config_name_problem(value->text, false);
    if (problem != NULL) {
        return config_value_refuse(value, value->text, NULL, "%s is no host name: it %s",
                                   config_quote(value->text).text, problem);
    }
    return store_text(value, out);
}

/* ---- login methods ---- */

enum { MECHANISM_WELL, MECHANISM_LATER, MECHANISM_UNSAFE };

static const struct {
    const char *name;
    int kind;
} mechanisms[] = {
    {"SCRAM-SHA-512-PLUS", MECHANISM_WELL},
    {"SCRAM-SHA-512", MECHANISM_WELL},
    {"SCRAM-SHA-384", MECHANISM_WELL},
    {"SCRAM-SHA-256-PLUS", MECHANISM_WELL},
    {"SCRAM-SHA-256", MECHANISM_WELL},
    {"SCRAM-SHA-224", MECHANISM_WELL},
    {"SCRAM-SHA-1-PLUS", MECHANISM_WELL},
    {"SCRAM-SHA-1", MECHANISM_WELL},
    {"CRAM-MD5", MECHANISM_WELL},
    {"PLAIN", MECHANISM_WELL},
    {"LOGIN", MECHANISM_WELL},
    {"XOAUTH2", MECHANISM_LATER}, /* both need tokens that are renewed */
    {"OAUTHBEARER", MECHANISM_LATER},
    {"EXTERNAL", MECHANISM_LATER}, /* needs a client certificate */
    {"GSSAPI", MECHANISM_LATER},
    {"DIGEST-MD5", MECHANISM_UNSAFE}, /* RFC 6331; both also for the library's sake */
    {"NTLM", MECHANISM_UNSAFE},
};
#define MECHANISM_COUNT (sizeof mechanisms / sizeof mechanisms[0])

static size_t mechanism_find(struct slice item)
{
    size_t index = 0;
    while (index < MECHANISM_COUNT &&
           !slice_equal_nocase(item, slice_from_str(mechanisms[index].name))) {
        index++;
    }
    return index;
}

static bool refuse_mechanism(const struct config_value *value, struct slice item)
{
    if (slice_equal(item, SLICE("auto"))) {
        return config_value_refuse(value, item, "write either auto or a list of names",
                                   "auto does not go together with names");
    }
    const char *names[MECHANISM_COUNT];
    for (size_t index = 0; index < MECHANISM_COUNT; index++) {
        names[index] = mechanisms[index].name;
    }
    const char *nearest = text_nearest(item, names, MECHANISM_COUNT);
    return config_value_refuse(value, item, NULL, "unknown login method %s%s%s%s",
                               config_quote(item).text, nearest == NULL ? "" : "; did you mean \"",
                               nearest == NULL ? "" : nearest, nearest == NULL ? "" : "\"?");
}

static bool judge_auth_list(const struct config_value *value, void *out)
{
    char names[CONFIG_TEXT_BYTES] = "auto";
    struct buf to;
    buf_init(&to, names, sizeof names - 1);
    struct slice rest = value->text;
    struct slice item;
    bool automatic = slice_equal(value->text, SLICE("auto"));
    while (!automatic && config_list_next(&rest, &item)) {
        size_t index = mechanism_find(item);
        if (index == MECHANISM_COUNT) {
            return refuse_mechanism(value, item);
        }
        if (mechanisms[index].kind != MECHANISM_WELL) {
            return config_value_refuse(
                value, item, NULL, "login method \"%s\" is %s", mechanisms[index].name,
                mechanisms[index].kind == MECHANISM_LATER ? "not supported by this version yet"
                                                          : "not safe and not supported");
        }
        buf_put_str(&to, to.len == 0 ? "" : " ");
        buf_put_str(&to, mechanisms[index].name);
    }
    if (to.overflow) {
        return config_value_refuse(value, value->text, NULL,
                                   "the list of login methods is too long");
    }
    memset(names + (automatic ? 4 : to.len), 0, sizeof names - (automatic ? 4 : to.len));
    memcpy(out, names, sizeof names);
    return true;
}

/* ---- the way in ---- */

static bool judge_listen_list(const struct config_value *value, void *out)
{
    return config_address_listen_list(value, out);
}

static bool judge_listen(const struct config_value *value, void *out)
{
    return config_address_listen(value, out);
}

static bool judge_networks(const struct config_value *value, void *out)
{
    return config_address_networks(value, out);
}

static bool judge_host(const struct config_value *value, void *out)
{
    return config_preset_is(value->text) ? config_preset_host(value, out)
                                         : config_address_host(value, out);
}

static bool judge_rate(const struct config_value *value, void *out)
{
    return config_rate_judge(value, out);
}

static bool judge_use(const struct config_value *value, void *out)
{
    return config_use_judge(value, out);
}

bool config_value_store(const struct config_value *value, void *base)
{
    typedef bool judge_fn(const struct config_value *value, void *out);
    static judge_fn *const judges[] = {
        [CONFIG_TYPE_LISTEN_LIST] = judge_listen_list,
        [CONFIG_TYPE_LISTEN] = judge_listen,
        [CONFIG_TYPE_NETWORK_LIST] = judge_networks,
        [CONFIG_TYPE_HOST] = judge_host,
        [CONFIG_TYPE_HOSTNAME] = judge_hostname,
        [CONFIG_TYPE_ADDRESS] = judge_address,
        [CONFIG_TYPE_PATH] = judge_path,
        [CONFIG_TYPE_TEXT] = store_text,
        [CONFIG_TYPE_AUTH_LIST] = judge_auth_list,
        [CONFIG_TYPE_SIZE] = judge_size,
        [CONFIG_TYPE_DURATION] = judge_duration,
        [CONFIG_TYPE_COUNT] = judge_count,
        [CONFIG_TYPE_COUNT_AUTO] = judge_count_auto,
        [CONFIG_TYPE_RATE] = judge_rate,
        [CONFIG_TYPE_USE] = judge_use,
        [CONFIG_TYPE_BOOL] = judge_bool,
        [CONFIG_TYPE_TLS] = judge_enum,
        [CONFIG_TYPE_PIPELINE] = judge_enum,
        [CONFIG_TYPE_IO] = judge_enum,
        [CONFIG_TYPE_LOG_LEVEL] = judge_enum,
    };
    CHECK(value->text.len > 0);
    return judges[value->setting->type](value, (uint8_t *)base + value->setting->offset);
}
