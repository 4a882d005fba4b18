/*
 * The command line. Options may stand anywhere; "--" ends them; "-field:text" is a negated word of
 * a filter and no option. What is not understood is refused with what was probably meant.
 */
#include "ctl/ctl.h"

#include "daemon/base/num.h"
#include "daemon/base/text.h"
#include "schema/msg_id.h"

#include <stdarg.h>
#include <stdlib.h>

#define TIMEOUT_SECONDS_MAX 86400u
#define SPAN_MS_MAX         (366ull * 86400 * 1000)

const struct ctl_option_row ctl_options[] = {
    {"--config", "-c", "FILE", "the daemon's configuration (default " CTL_CONFIG_FILE ")", 0},
    {"--socket", NULL, "PATH", "the daemon's control socket; also TASUKI_SOCKET", 0},
    {"--timeout", NULL, "SECONDS", "how long to wait for an answer", 0},
    {"--json", NULL, NULL, "print JSON (\"schema\": 1), one object a line in lists", 0},
    {"--limit", NULL, "N", "at most so many messages", CTL_OPTION_LIMIT},
    {"--dry-run", "-n", NULL, "only say what would be done", CTL_OPTION_DRY_RUN},
    {"--yes", "-y", NULL, "do it without asking", CTL_OPTION_YES},
    {"--to", NULL, "ADDRESS", "send a short message there, too", CTL_OPTION_TO},
    {"--from", NULL, "ADDRESS", "its sender", CTL_OPTION_FROM},
    {"--by", NULL, "WHAT", "count by reason, device or upstream instead of listing", CTL_OPTION_BY},
    {"--transcript", NULL, NULL, "show the dialogue of the last attempts", CTL_OPTION_TRANSCRIPT},
    {"--reason", NULL, "TEXT", "why, for the history", CTL_OPTION_REASON},
    {"--for", NULL, "SPAN", "end after so long: 30s, 10m, 2h", CTL_OPTION_FOR},
    {"--help", "-h", NULL, "explain the command", 0},
    {"--version", "-V", NULL, "print the version", 0},
};

const size_t ctl_option_count = sizeof ctl_options / sizeof ctl_options[0];

/* Where the parser stands. */
struct parse {
    struct ctl_args *args;
    int argc;
    char **argv;
    int at;
    unsigned used; /* enum ctl_option, or-ed */
    struct ctl_problem *problem;
};

PRINTF_LIKE(3, 4)
static bool bad(struct parse *p, const char *hint, const char *format, ...)
{
    char message[sizeof p->problem->message];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(message, sizeof message, format, args);
    va_end(args);
    ctl_problem_set(p->problem, CTL_EXIT_USAGE, "usage", "%s", message);
    ctl_problem_hint(p->problem, "%s", hint);
    return false;
}

static bool unknown(struct parse *p, const char *kind, const char *word, const char *nearest)
{
    char hint[200];
    if (nearest != NULL) {
        (void)snprintf(hint, sizeof hint, "did you mean \"%s\"?", nearest);
    } else {
        (void)snprintf(hint, sizeof hint, "tasukictl help");
    }
    return bad(p, hint, "unknown %s \"%.300s\"", kind, word);
}

/* "-from:anna" and the like: lower-case letters up to a colon. */
static bool is_negated_word(const char *word)
{
    size_t letters = strspn(word + 1, "abcdefghijklmnopqrstuvwxyz");
    return letters >= 2 && word[1 + letters] == ':';
}

static bool parse_number(struct parse *p, const char *name, const char *value, uint64_t max,
                         uint64_t *out)
{
    uint64_t number = 0;
    if (!u64_parse(slice_from_str(value), &number) || number == 0 || number > max) {
        return bad(p, "tasukictl help", "%s needs a number from 1 to %llu, not \"%.300s\"", name,
                   (unsigned long long)max, value);
    }
    *out = number;
    return true;
}

/* "30s" and the like, as in a filter. */
static bool parse_span(struct parse *p, const char *name, const char *value, uint64_t *out_ms)
{
    static const struct {
        char letter;
        uint64_t ms;
    } units[] = {{'s', 1000}, {'m', 60 * 1000}, {'h', 3600 * 1000}, {'d', 86400 * 1000}};
    struct slice number = slice_head(slice_from_str(value), strspn(value, "0123456789"));
    const char *unit = value + number.len;
    uint64_t count = 0;
    for (size_t index = 0; index < sizeof units / sizeof units[0]; index++) {
        if (unit[0] == units[index].letter && unit[1] == '\0' && u64_parse(number, &count) &&
            count > 0 && count <= SPAN_MS_MAX / units[index].ms) {
            *out_ms = count * units[index].ms;
            return true;
        }
    }
    return bad(p, "write a time like 30s, 10m, 2h or 1d", "%s needs a time, not \"%.300s\"", name,
               value);
}

static bool take_option(struct parse *p, const struct ctl_option_row *row, const char *value)
{
    struct ctl_args *a = p->args;
    const struct {
        const char *name;
        const char **text;
        bool *flag;
    } targets[] = {
        {"--config", &a->config_file, NULL},
        {"--socket", &a->socket, NULL},
        {"--to", &a->to, NULL},
        {"--from", &a->from, NULL},
        {"--by", &a->by, NULL},
        {"--reason", &a->reason, NULL},
        {"--transcript", NULL, &a->transcript},
        {"--json", NULL, &a->json},
        {"--dry-run", NULL, &a->dry_run},
        {"--yes", NULL, &a->yes},
        {"--help", NULL, &a->help},
        {"--version", NULL, &a->version},
    };
    p->used |= row->only;
    if (strcmp(row->name, "--limit") == 0) {
        return parse_number(p, row->name, value, UINT32_MAX, &a->limit);
    }
    if (strcmp(row->name, "--for") == 0) {
        return parse_span(p, row->name, value, &a->for_ms);
    }
    if (strcmp(row->name, "--timeout") == 0) {
        uint64_t seconds = 0;
        if (!parse_number(p, row->name, value, TIMEOUT_SECONDS_MAX, &seconds)) {
            return false;
        }
        a->timeout_ms = seconds * 1000;
        return true;
    }
    for (size_t index = 0; index < sizeof targets / sizeof targets[0]; index++) {
        if (strcmp(row->name, targets[index].name) == 0) {
            if (targets[index].text != NULL) {
                *targets[index].text = value;
            } else {
                *targets[index].flag = true;
            }
            return true;
        }
    }
    CHECK(false);
}

/* The option at p->at, with its value: "--name", "--name=value", "-n". */
static bool parse_option(struct parse *p)
{
    const char *word = p->argv[p->at];
    const char *equals = word[1] == '-' ? strchr(word, '=') : NULL;
    struct slice name =
        equals == NULL ? slice_from_str(word) : slice_of(word, (size_t)(equals - word));
    const char *names[2 * sizeof ctl_options / sizeof ctl_options[0]];
    size_t count = 0;
    for (size_t index = 0; index < ctl_option_count; index++) {
        const struct ctl_option_row *row = &ctl_options[index];
        names[count++] = row->name;
        if (!slice_equal(name, slice_from_str(row->name)) &&
            (row->letter == NULL || !slice_equal(name, slice_from_str(row->letter)))) {
            continue;
        }
        if (row->value == NULL) {
            return equals == NULL ? take_option(p, row, NULL)
                                  : bad(p, "leave the \"=\" out", "%s takes no value", row->name);
        }
        if (equals != NULL) {
            return take_option(p, row, equals + 1);
        }
        if (p->at + 1 >= p->argc) {
            return bad(p, "tasukictl help", "%s needs a value", word);
        }
        p->at++;
        return take_option(p, row, p->argv[p->at]);
    }
    return unknown(p, "option", word, text_nearest(name, names, count));
}

/* Is the command's name the first word (or two) of args->words? Returns how many, 0 when not. */
static size_t name_matches(const struct ctl_command *command, const struct ctl_args *args)
{
    const char *blank = strchr(command->name, ' ');
    struct slice first = blank == NULL ? slice_from_str(command->name)
                                       : slice_of(command->name, (size_t)(blank - command->name));
    if (args->word_count < 1 || !slice_equal(first, slice_from_str(args->words[0]))) {
        return 0;
    }
    if (blank == NULL) {
        return 1;
    }
    return args->word_count >= 2 && strcmp(blank + 1, args->words[1]) == 0 ? 2 : 0;
}

static bool unknown_command(struct parse *p)
{
    const struct ctl_args *args = p->args;
    const char *names[64];
    size_t count = 0;
    char family[200] = "";
    for (size_t index = 0; index < ctl_command_count; index++) {
        const char *name = ctl_commands[index].name;
        const char *blank = strchr(name, ' ');
        names[count++] = name;
        if (blank != NULL && strncmp(name, args->words[0], (size_t)(blank - name)) == 0 &&
            args->words[0][blank - name] == '\0') {
            size_t len = strlen(family);
            (void)snprintf(family + len, sizeof family - len, "%stasukictl %s", len > 0 ? "; " : "",
                           name);
        }
    }
    if (family[0] != '\0' && args->word_count == 1) {
        return bad(p, family, "%s needs one more word", args->words[0]);
    }
    if (args->word_count >= 2 && strcmp(args->words[0], "trace") == 0 &&
        strcmp(args->words[1], "in") == 0) {
        return bad(p, family, "\"trace in\" does not exist yet, only \"trace out\"");
    }
    char both[100];
    (void)snprintf(both, sizeof both, "%.48s%s%.48s", args->words[0], family[0] != '\0' ? " " : "",
                   family[0] != '\0' ? args->words[1] : "");
    if (family[0] == '\0' && ctl_args_word_is_id(args->words[0])) {
        char hint[100];
        (void)snprintf(hint, sizeof hint, "tasukictl show %.32s", args->words[0]);
        return bad(p, hint, "\"%.32s\" is no command but may be the id of a message",
                   args->words[0]);
    }
    return unknown(p, "command", both, text_nearest(slice_from_str(both), names, count));
}

static bool find_command(struct parse *p)
{
    struct ctl_args *args = p->args;
    args->command = &ctl_commands[0];
    if (args->word_count == 0) {
        return true;
    }
    for (size_t index = 0; index < ctl_command_count; index++) {
        size_t words = name_matches(&ctl_commands[index], args);
        if (words > 0) {
            args->command = &ctl_commands[index];
            args->words += words;
            args->word_count -= words;
            return true;
        }
    }
    return unknown_command(p);
}

/* Are the words and the options some that this command takes? */
static bool judge(struct parse *p)
{
    const struct ctl_args *args = p->args;
    const struct ctl_command *command = args->command;
    char usage[200];
    (void)snprintf(usage, sizeof usage, "tasukictl %s%s%s", command->name,
                   command->args[0] == '\0' ? "" : " ", command->args);
    for (size_t index = 0; index < ctl_option_count; index++) {
        unsigned only = ctl_options[index].only;
        if ((p->used & only) != 0 && (command->options & only) == 0) {
            return bad(p, usage, "\"%s\" takes no %s", command->name, ctl_options[index].name);
        }
    }
    if (args->word_count < command->words_min) {
        return bad(p, usage, "\"%s\" needs to know which message%s", command->name,
                   command->words_max > 1 ? "s" : "");
    }
    if (args->word_count > command->words_max) {
        return bad(p, usage, "one word too many: \"%.300s\"", args->words[command->words_max]);
    }
    return true;
}

bool ctl_args_parse(struct ctl_args *out, int argc, char **argv, const char **words,
                    struct ctl_problem *problem)
{
    *out = (struct ctl_args){.words = words};
    struct parse p = {.args = out, .argc = argc, .argv = argv, .at = 1, .problem = problem};
    bool options = true;
    for (; p.at < argc; p.at++) {
        const char *word = argv[p.at];
        if (options && strcmp(word, "--") == 0) {
            options = false;
        } else if (options && word[0] == '-' && word[1] != '\0' && !is_negated_word(word)) {
            if (!parse_option(&p)) {
                return false;
            }
        } else {
            words[out->word_count++] = word;
        }
    }
    return find_command(&p) && (out->help || out->version || judge(&p));
}

bool ctl_args_word_is_id(const char *word)
{
    struct msg_id first, last;
    return word[0] == '0' && msg_id_parse_prefix(slice_from_str(word), &first, &last);
}

/* from:two words -> from:"two words"; what has quotes already is left to the filter. */
static void put_filter_word(struct buf *to, struct slice word)
{
    word = slice_trim(word);
    bool blank = slice_find(word, ' ') < word.len || slice_find(word, '\t') < word.len;
    if (!blank || slice_find(word, '"') < word.len) {
        buf_put(to, word);
        return;
    }
    size_t lead = slice_starts_with(word, SLICE("-")) ? 1 : 0;
    size_t colon = slice_find(word, ':');
    if (colon < slice_find(word, ' ')) {
        lead = colon + 1;
    }
    buf_put(to, slice_head(word, lead));
    buf_put_byte(to, '"');
    buf_put(to, slice_tail(word, lead));
    buf_put_byte(to, '"');
}

char *ctl_args_filter(const struct ctl_args *args, struct ctl_problem *problem)
{
    size_t bytes = 1;
    for (size_t index = 0; index < args->word_count; index++) {
        bytes += strlen(args->words[index]) + 3;
    }
    char *text = malloc(bytes);
    CHECK(text != NULL);
    struct buf b;
    buf_init(&b, text, bytes - 1);
    for (size_t index = 0; index < args->word_count; index++) {
        if (index > 0) {
            buf_put_byte(&b, ' ');
        }
        put_filter_word(&b, slice_from_str(args->words[index]));
    }
    text[b.len] = '\0';
    uint32_t code = 0;
    for (struct slice s = buf_slice(&b); s.len > 0;) {
        size_t len = text_utf8_len(s, &code);
        if (len == 0) {
            free(text);
            ctl_problem_set(problem, CTL_EXIT_USAGE, "usage", "the filter is not UTF-8");
            ctl_problem_hint(problem, "type it in a UTF-8 terminal");
            return NULL;
        }
        s = slice_tail(s, len);
    }
    return text;
}
