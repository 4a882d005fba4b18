/*
 * A file cut into sections, keys and values.
 *
 *     file    = [ BOM ] *( line LF )                  the last LF may be missing, CR before LF is
 * no line    = [ section / setting ] [ comment ]     part of the line section = "[" word [ name ]
 * "]" setting = key "=" value                         blanks around each are none of it value   =
 * text / <"> text <">                   quotes keep blanks at the ends and " #" comment = "#" to
 * the end, at the beginning of a line or behind a blank
 *
 * Reading goes on after a mistake, with the next line; a section that cannot be used is skipped
 * whole, since its keys would be judged by rules that are not theirs.
 */
#include "daemon/base/num.h"
#include "daemon/base/text.h"
#include "daemon/config/config_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum scope {
    SCOPE_TOP,       /* before the first section: GLOBAL rows, and UPSTREAM rows of a small file */
    SCOPE_UPSTREAM,  /* inside [upstream NAME], reader.upstream */
    SCOPE_DASHBOARD, /* inside [dashboard] */
    SCOPE_SKIPPED,   /* inside a section that was reported */
};

struct reader {
    struct config *config; /* owned until handed out */
    struct config_errors *errors;
    enum scope scope;
    uint32_t upstream;       /* of SCOPE_UPSTREAM */
    uint32_t upstream_line;  /* of the first [upstream NAME], 0: none yet */
    uint32_t dashboard_line; /* of [dashboard], 0: none yet */
    uint32_t line;
    struct slice line_text; /* whole, borrowed from the file */
    struct config_marks marks;
};

/* Where at is in the line, in characters. */
static struct config_place place_at(const struct reader *r, const uint8_t *at)
{
    uint32_t column = 1;
    for (const uint8_t *byte = r->line_text.data; byte < at; byte++) {
        column += (*byte & 0xc0) != 0x80;
    }
    return (struct config_place){r->line, column};
}

static struct slice cut_blanks(struct slice s)
{
    size_t begin = 0;
    while (begin < s.len && (s.data[begin] == ' ' || s.data[begin] == '\t')) {
        begin++;
    }
    s = slice_of(s.data + begin, s.len - begin); /* keeps its place, also when empty */
    while (s.len > 0 && (s.data[s.len - 1] == ' ' || s.data[s.len - 1] == '\t')) {
        s.len--;
    }
    return s;
}

/* ---- one line ---- */

/* Index of the byte behind a quoted value's closing quote, when a quote opens right behind the "="
 * at `equals`; `equals` otherwise. */
static size_t quoted_end(struct slice line, size_t equals)
{
    size_t open = equals + 1;
    while (open < line.len && (line.data[open] == ' ' || line.data[open] == '\t')) {
        open++;
    }
    if (open >= line.len || line.data[open] != '"') {
        return equals;
    }
    size_t close = open + 1 + slice_find(slice_tail(line, open + 1), '"');
    return close < line.len ? close + 1 : equals;
}

/* Index of the "#" of the comment; the line's length when there is none. */
static size_t comment_at(struct slice line)
{
    bool behind_blank = true;
    for (size_t index = 0; index < line.len; index++) {
        uint8_t byte = line.data[index];
        if (byte == '#' && behind_blank) {
            return index;
        }
        if (byte == '=') {
            size_t end = quoted_end(line, index);
            if (end > index) {
                size_t hash = slice_find(slice_tail(line, end), '#');
                return end + hash;
            }
            /* Only the first "=" divides. */
            for (size_t at = index + 1; at < line.len; at++) {
                bool blank =
                    line.data[at - 1] == ' ' || line.data[at - 1] == '\t' || at == index + 1;
                if (line.data[at] == '#' && blank) {
                    return at;
                }
            }
            return line.len;
        }
        behind_blank = byte == ' ' || byte == '\t';
    }
    return line.len;
}

/* Spaces and marks that nobody sees but that make a name another one; pasted from web pages. */
static bool code_is_invisible(uint32_t code)
{
    return code == 0xa0 || code == 0xad || (code >= 0x2000 && code <= 0x200f) ||
           (code >= 0x2028 && code <= 0x202f) || (code >= 0x205f && code <= 0x206f) ||
           code == 0x3000 || code == 0xfeff || code == 0x061c;
}

/* Reports the first byte that has no place in a line; false when there was one. */
static bool line_is_text(struct reader *r, struct slice content)
{
    for (struct slice rest = content; rest.len > 0;) {
        uint32_t code = 0;
        size_t len = text_utf8_len(rest, &code);
        struct config_place place = place_at(r, rest.data);
        if (len == 0) {
            config_report(r->errors, place, "save the file as UTF-8",
                          "the byte 0x%02x is not UTF-8", rest.data[0]);
            return false;
        }
        if ((code < 0x20 && code != '\t') || (code >= 0x7f && code < 0xa0)) {
            config_report(r->errors, place, "delete it", "a control character (0x%02x) stands here",
                          (unsigned)code);
            return false;
        }
        if (code_is_invisible(code)) {
            config_report(r->errors, place, "delete it, or write a blank",
                          "a character that cannot be seen (U+%04X) stands here", (unsigned)code);
            return false;
        }
        rest = slice_tail(rest, len);
    }
    return true;
}

/* ---- sections ---- */

static void report_unknown_section(struct reader *r, struct slice name, const char *fix)
{
    static const char *const names[] = {"upstream", "dashboard", "device", "alert"};
    const char *nearest = text_nearest(name, names, sizeof names / sizeof names[0]);
    config_report(r->errors, place_at(r, name.data), fix, "unknown section %s%s%s%s",
                  config_quote(name).text, nearest == NULL ? "" : "; did you mean \"",
                  nearest == NULL ? "" : nearest, nearest == NULL ? "" : "\"?");
}

/* 1*( ALPHA / DIGIT / "." / "_" / "-" ), so that it needs no quotes in a log, a shell or a URL. */
static bool upstream_name_is_well(struct slice name)
{
    for (size_t index = 0; index < name.len; index++) {
        uint8_t lower = ascii_lower(name.data[index]);
        if (!(lower >= 'a' && lower <= 'z') && !(lower >= '0' && lower <= '9') && lower != '.' &&
            lower != '_' && lower != '-') {
            return false;
        }
    }
    return name.len > 0 && name.len <= UPSTREAM_NAME_BYTES_MAX;
}

/* The upstream of a section with that name in another case or the same; NULL when it is new. */
static const struct config_upstream *upstream_find(const struct reader *r, struct slice name)
{
    for (uint32_t index = r->marks.upstream_at_top ? 1 : 0; index < r->config->upstream_count;
         index++) {
        const struct config_upstream *upstream = &r->config->upstreams[index];
        if (slice_equal_nocase(name, slice_from_str(upstream->name))) {
            return upstream;
        }
    }
    return NULL;
}

static void upstream_add(struct reader *r, struct slice name)
{
    struct config_upstream *upstream = &r->config->upstreams[r->config->upstream_count];
    memcpy(upstream->name, name.data, name.len);
    upstream->line = r->line;
    r->upstream = r->config->upstream_count++;
}

static void open_upstream(struct reader *r, struct slice section, struct slice name)
{
    r->upstream_line = r->upstream_line == 0 ? r->line : r->upstream_line;
    if (!upstream_name_is_well(name)) {
        config_report(r->errors, place_at(r, name.len > 0 ? name.data : section.data),
                      "for example: [upstream main]",
                      name.len == 0 ? "this upstream has no name"
                                    : "the name of an upstream is made of at most 64 letters, "
                                      "digits, dots, dashes and underscores");
        return;
    }
    const struct config_upstream *same = upstream_find(r, name);
    if (same != NULL) {
        config_report(r->errors, place_at(r, name.data), "give each upstream a name of its own",
                      "there is already an upstream %s in line %u", config_quote(name).text,
                      (unsigned)same->line);
        return;
    }
    if (r->config->upstream_count == UPSTREAMS_MAX) {
        config_report(r->errors, place_at(r, section.data), "", "at most %d upstreams are possible",
                      UPSTREAMS_MAX);
        return;
    }
    upstream_add(r, name);
    r->scope = SCOPE_UPSTREAM;
}

static void open_dashboard(struct reader *r, struct slice section, struct slice name)
{
    if (name.len > 0) {
        config_report(r->errors, place_at(r, name.data), "write: [dashboard]",
                      "this section has no name");
        return;
    }
    if (r->dashboard_line != 0) {
        config_report(r->errors, place_at(r, section.data), "make one section of the two",
                      "this section stands here again; it began in line %u",
                      (unsigned)r->dashboard_line);
        return;
    }
    r->dashboard_line = r->line;
    r->scope = SCOPE_DASHBOARD;
}

/* content begins with "[". */
static void read_section(struct reader *r, struct slice content)
{
    r->scope = SCOPE_SKIPPED;
    if (content.data[content.len - 1] != ']') {
        config_report(r->errors, place_at(r, content.data), "for example: [upstream main]",
                      "a section is written [name], and nothing but a comment behind it");
        return;
    }
    struct slice inside = cut_blanks(slice_of(content.data + 1, content.len - 2));
    size_t blank = size_min(slice_find(inside, ' '), slice_find(inside, '\t'));
    struct slice word = slice_head(inside, blank);
    struct slice name = cut_blanks(slice_of(inside.data + blank, inside.len - blank));
    char fix[200];
    if (slice_equal(word, SLICE("upstream"))) {
        open_upstream(r, content, name);
    } else if (slice_equal(word, SLICE("dashboard"))) {
        open_dashboard(r, content, name);
    } else if (slice_equal(word, SLICE("device")) || slice_equal(word, SLICE("alert"))) {
        config_report(r->errors, place_at(r, content.data), "remove the section",
                      "[%.*s] is not supported by this version yet", (int)word.len,
                      (const char *)word.data);
    } else if (name.len == 0 && upstream_name_is_well(word)) {
        (void)snprintf(fix, sizeof fix, "if it is an upstream: [upstream %.*s]", (int)word.len,
                       (const char *)word.data);
        report_unknown_section(r, word, fix);
    } else {
        report_unknown_section(r, word, "the sections are [upstream NAME] and [dashboard]");
    }
}

/* ---- keys ---- */

static size_t row_of(enum scope scope, struct slice key)
{
    size_t index = CONFIG_ROW_COUNT;
    switch (scope) {
    case SCOPE_TOP:
        index = config_row_find(CONFIG_SECTION_GLOBAL, key);
        if (index == CONFIG_ROW_COUNT && slice_equal(key, SLICE("upstream"))) {
            index = CONFIG_ROW_UPSTREAM_host;
        } else if (index == CONFIG_ROW_COUNT && !slice_equal(key, SLICE("host"))) {
            index = config_row_find(CONFIG_SECTION_UPSTREAM, key);
        }
        break;
    case SCOPE_UPSTREAM:
        index = config_row_find(CONFIG_SECTION_UPSTREAM, key);
        break;
    case SCOPE_DASHBOARD:
        index = config_row_find(CONFIG_SECTION_DASHBOARD, key);
        break;
    case SCOPE_SKIPPED:
        break;
    }
    return index;
}

/* The key as it is written in that scope. */
static const char *key_of(enum scope scope, size_t row)
{
    return scope == SCOPE_TOP && row == CONFIG_ROW_UPSTREAM_host ? "upstream"
                                                                 : config_settings[row].key;
}

static const char *nearest_key(enum scope scope, struct slice key)
{
    const char *names[CONFIG_ROW_COUNT];
    size_t count = 0;
    for (size_t row = 0; row < CONFIG_ROW_COUNT; row++) {
        const char *name = key_of(scope, row);
        if (row_of(scope, slice_from_str(name)) == row) {
            names[count++] = name;
        }
    }
    return text_nearest(key, names, count);
}

struct hint {
    const char *key, *why, *fix;
};

#define LATER "is not supported by this version yet"

/* Keys that people will write with good reason, and what to tell them. */
static const struct hint *hint_find(enum scope scope, struct slice key)
{
    static const char remove[] = "remove the line";
    static const char secret[] = "does not stand in this file, which others may read";
    static const char secret_fix[] =
        "put it into a file of mode 600 and name that: password-file = "
        "/etc/tasuki/secrets/upstream";
    static const struct hint anywhere[] = {
        {"from", LATER, remove},          {"password-command", LATER, "use password-file"},
        {"password", secret, secret_fix}, {"pass", secret, secret_fix},
        {"secret", secret, secret_fix},
    };
    static const struct hint host_at_top = {
        "host", "is called \"upstream\" outside of an [upstream NAME] section", "write: upstream"};
    static const struct hint upstream_inside = {
        "upstream", "is called \"host\" inside of a section", "write: host"};
    for (size_t index = 0; index < sizeof anywhere / sizeof anywhere[0]; index++) {
        if (slice_equal(key, slice_from_str(anywhere[index].key))) {
            return &anywhere[index];
        }
    }
    if (scope == SCOPE_TOP && slice_equal(key, slice_from_str(host_at_top.key))) {
        return &host_at_top;
    }
    if (scope == SCOPE_UPSTREAM && slice_equal(key, slice_from_str(upstream_inside.key))) {
        return &upstream_inside;
    }
    return NULL;
}

static void report_unknown_key(struct reader *r, struct slice key)
{
    struct config_place place = place_at(r, key.data);
    struct config_quote quote = config_quote(key);
    const struct hint *hint = hint_find(r->scope, key);
    if (hint != NULL) {
        config_report(r->errors, place, hint->fix, "%s %s", quote.text, hint->why);
        return;
    }
    const char *nearest = nearest_key(r->scope, key);
    bool of_top = config_row_find(CONFIG_SECTION_GLOBAL, key) != CONFIG_ROW_COUNT;
    bool of_upstream = config_row_find(CONFIG_SECTION_UPSTREAM, key) != CONFIG_ROW_COUNT;
    if (of_top || of_upstream) {
        config_report(r->errors, place,
                      of_top ? "move it above the first section"
                             : "move it into the section of its upstream",
                      of_top ? "%s is a setting of the whole, not of this section"
                             : "%s is a setting of an upstream, not of this section",
                      quote.text);
    } else if (nearest != NULL) {
        char fix[200];
        (void)snprintf(fix, sizeof fix, "write: %s", nearest);
        config_report(r->errors, place, fix, "unknown key %s; did you mean \"%s\"?", quote.text,
                      nearest);
    } else {
        config_report(r->errors, place, "tasukictl config explain", "unknown key %s", quote.text);
    }
}

/* Takes the quotes off. False, with a complaint, when they do not match or nothing is in them. */
static bool value_unquote(struct reader *r, struct slice *value)
{
    struct slice inside = *value;
    if (inside.len > 0 && inside.data[0] == '"') {
        inside = slice_of(inside.data + 1, inside.len - 1);
        size_t close = slice_find(inside, '"');
        if (close + 1 != inside.len) {
            config_report(r->errors, place_at(r, value->data), "",
                          close == inside.len ? "this quote is not closed"
                                              : "something stands behind the closing quote");
            return false;
        }
        inside.len = close;
    }
    if (inside.len == 0) {
        config_report(r->errors, place_at(r, value->data),
                      "write a value, or remove the line: then the default holds",
                      "there is no value");
        return false;
    }
    *value = inside;
    return true;
}

/* The struct that the row's member is in, and its mark; makes the upstream of a small file. */
static void *base_of(struct reader *r, size_t row, struct config_mark **out_mark)
{
    if (config_settings[row].section != CONFIG_SECTION_UPSTREAM) {
        *out_mark = &r->marks.global[row];
        return r->config;
    }
    if (r->scope == SCOPE_TOP && !r->marks.upstream_at_top) {
        r->marks.upstream_at_top = true;
        upstream_add(r, SLICE("main"));
    }
    *out_mark = &r->marks.upstream[r->upstream][row];
    return &r->config->upstreams[r->upstream];
}

static void read_setting(struct reader *r, struct slice key, struct slice value)
{
    size_t row = row_of(r->scope, key);
    if (row == CONFIG_ROW_COUNT) {
        report_unknown_key(r, key);
        return;
    }
    struct config_mark *mark;
    void *base = base_of(r, row, &mark);
    if (mark->state != CONFIG_MARK_DEFAULT) {
        config_report(r->errors, place_at(r, key.data), "keep one of the two lines",
                      "%s stands here again; it was set in line %u", config_quote(key).text,
                      (unsigned)mark->place.line);
        return;
    }
    mark->place = place_at(r, value.data);
    mark->state = CONFIG_MARK_BAD;
    if (!value_unquote(r, &value)) {
        return;
    }
    mark->place = place_at(r, value.data);
    const struct config_value judged = {.setting = &config_settings[row],
                                        .key = key_of(r->scope, row),
                                        .text = value,
                                        .place = mark->place,
                                        .errors = r->errors};
    if (config_value_store(&judged, base)) {
        mark->state = CONFIG_MARK_GIVEN;
    }
}

/* content is not empty and has no blanks around it. */
static void read_content(struct reader *r, struct slice content)
{
    if (content.data[0] == '[') {
        read_section(r, content);
        return;
    }
    if (r->scope == SCOPE_SKIPPED) {
        return;
    }
    size_t equals = slice_find(content, '=');
    struct slice key = cut_blanks(slice_head(content, equals));
    if (content.data[0] == ';') {
        config_report(r->errors, place_at(r, content.data), "write # in place of ;",
                      "a comment begins with #");
    } else if (equals == content.len) {
        config_report(r->errors, place_at(r, content.data), "write: key = value",
                      "this is neither a setting nor a section");
    } else if (key.len == 0) {
        config_report(r->errors, place_at(r, content.data), "write: key = value",
                      "there is no key before =");
    } else {
        read_setting(r, key,
                     cut_blanks(slice_of(content.data + equals + 1, content.len - equals - 1)));
    }
}

static void read_line(struct reader *r, struct slice line)
{
    r->line_text = line;
    if (line.len > CONFIG_LINE_BYTES_MAX) {
        config_report(r->errors, (struct config_place){r->line, 1}, "",
                      "this line has %zu bytes, at most %d are possible", line.len,
                      CONFIG_LINE_BYTES_MAX);
        return;
    }
    size_t nul = slice_find(line, '\0');
    size_t comment = comment_at(line);
    if (nul < line.len && nul >= comment) {
        config_report(r->errors, place_at(r, line.data + nul), "delete it",
                      "a control character (0x00) stands here");
        return;
    }
    struct slice content = slice_head(line, comment);
    if (line_is_text(r, content)) {
        content = cut_blanks(content);
        if (content.len > 0) {
            read_content(r, content);
        }
    }
}

static void read_lines(struct reader *r, struct slice text)
{
    if (slice_starts_with(text, SLICE("\xef\xbb\xbf"))) {
        text = slice_tail(text, 3);
    }
    while (text.len > 0) {
        r->line++;
        size_t end = slice_find(text, '\n');
        struct slice line = slice_head(text, end);
        if (end < text.len && line.len > 0 && line.data[line.len - 1] == '\r') {
            line.len--;
        }
        read_line(r, line);
        text = slice_tail(text, end + 1);
    }
}

/* ---- the whole ---- */

/* Keys of a small file beside [upstream NAME]: it is not said to which upstream they belong. */
static void report_mixed(struct reader *r)
{
    for (size_t row = 0; row < CONFIG_ROW_COUNT; row++) {
        const struct config_mark *mark = &r->marks.upstream[0][row];
        if (mark->state != CONFIG_MARK_DEFAULT) {
            config_report(
                r->errors, mark->place, "move the line into that section, or one of its own",
                "\"%s\" stands at the top, but there is an [upstream NAME] section in line "
                "%u",
                key_of(SCOPE_TOP, row), (unsigned)r->upstream_line);
        }
    }
    /* It has been told; that its host is missing as well says nothing more. */
    r->marks.upstream[0][CONFIG_ROW_UPSTREAM_host].state = CONFIG_MARK_BAD;
}

/* provider: of the upstream that it is a setting of. */
static void store_default(struct reader *r, size_t row, void *base, enum playbook_provider provider)
{
    const struct config_setting *setting = &config_settings[row];
    const char *of_provider = playbook_setting(provider, setting->key);
    const struct config_value value = {
        .setting = setting,
        .key = setting->key,
        .text = slice_from_str(of_provider != NULL ? of_provider : setting->default_text),
        .errors = r->errors};
    if (value.text.len > 0) {
        CHECK(config_value_store(&value, base)); /* a test stores each of them */
    }
}

static void store_defaults(struct reader *r)
{
    for (size_t row = 0; row < CONFIG_ROW_COUNT; row++) {
        bool of_upstream = config_settings[row].section == CONFIG_SECTION_UPSTREAM;
        if (!of_upstream && r->marks.global[row].state != CONFIG_MARK_GIVEN) {
            store_default(r, row, r->config, PLAYBOOK_NONE);
        }
        for (uint32_t index = 0; of_upstream && index < r->config->upstream_count; index++) {
            if (r->marks.upstream[index][row].state != CONFIG_MARK_GIVEN) {
                struct config_upstream *u = &r->config->upstreams[index];
                store_default(r, row, u, u->host.provider);
            }
        }
    }
}

static void read_all(struct reader *r, struct slice text, bool secrets_checked)
{
    if (slice_starts_with(text, SLICE("\xff\xfe")) || slice_starts_with(text, SLICE("\xfe\xff"))) {
        config_report(r->errors, (struct config_place){1, 1}, "save the file as UTF-8",
                      "the file is UTF-16");
        return;
    }
    read_lines(r, text);
    store_defaults(r);
    if (r->marks.upstream_at_top && r->upstream_line != 0) {
        report_mixed(r);
    }
    if (r->marks.global[CONFIG_ROW_GLOBAL_hostname].state != CONFIG_MARK_BAD &&
        r->marks.global[CONFIG_ROW_GLOBAL_domain].state != CONFIG_MARK_BAD) {
        config_names_fill_from_system(r->config, r->errors);
    }
    /* A section that was refused is an upstream all the same. */
    if (r->config->upstream_count > 0 || r->upstream_line == 0) {
        config_check(r->config, &r->marks, secrets_checked, r->errors);
    }
}

static enum err refuse_file(struct config_errors *errors, enum err err, const char *fix,
                            const char *why)
{
    config_report(errors, (struct config_place){0, 0}, fix, "%s", why);
    return err;
}

enum err config_parse(struct config **out_config, const char *file, struct slice text,
                      bool secrets_checked, struct config_errors *errors)
{
    *errors = (struct config_errors){.count = 0};
    if (text.len > CONFIG_FILE_BYTES_MAX) {
        return refuse_file(errors, ERR_SYNTAX, "", "the file has more than 1 MiB");
    }
    struct reader *r = calloc(1, sizeof *r);
    struct config *config = calloc(1, sizeof *config);
    if (r == NULL || config == NULL) {
        free(r);
        free(config);
        return refuse_file(errors, ERR_NO_MEMORY, "", err_text(ERR_NO_MEMORY));
    }
    (void)snprintf(config->file, sizeof config->file, "%s", file);
    r->config = config;
    r->errors = errors;
    read_all(r, text, secrets_checked);
    free(r);
    if (errors->count > 0) {
        config_errors_sort(errors);
        free(config);
        return ERR_SYNTAX;
    }
    *out_config = config;
    return ERR_OK;
}

static enum err refuse_open(struct config_errors *errors, const char *file, int number)
{
    enum err err = err_from_errno(number);
    char fix[200] = "";
    if (err == ERR_PERMISSION) {
        config_fix_command(fix, "ls -l", file);
    } else if (err == ERR_NOT_FOUND) {
        (void)snprintf(fix, sizeof fix, "name another with -c FILE");
    }
    return refuse_file(errors, err, fix,
                       err == ERR_NOT_FOUND    ? "there is no such file"
                       : err == ERR_PERMISSION ? "this user may not read the file"
                                               : err_text(err));
}

/* Reads to the end or to cap. */
static enum err read_file(int fd, uint8_t *memory, size_t cap, size_t *out_bytes)
{
    size_t bytes = 0;
    while (bytes < cap) {
        ssize_t got = read(fd, memory + bytes, cap - bytes);
        if (got == 0) {
            break;
        }
        if (got < 0 && errno != EINTR) {
            return err_from_errno(errno);
        }
        bytes += got > 0 ? (size_t)got : 0;
    }
    *out_bytes = bytes;
    return ERR_OK;
}

enum err config_load(struct config **out_config, const char *file, bool secrets_checked,
                     struct config_errors *errors)
{
    *errors = (struct config_errors){.count = 0};
    if (strlen(file) >= CONFIG_TEXT_BYTES) {
        return refuse_file(errors, ERR_SYNTAX, "", "the file's path has more than 511 bytes");
    }
    /* O_NONBLOCK: opening a FIFO would wait for a writer. */
    int fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) {
        return refuse_open(errors, file, errno);
    }
    enum err err = ERR_OK;
    uint8_t *memory = NULL;
    size_t bytes = 0;
    struct stat about;
    if (fstat(fd, &about) != 0) {
        err = refuse_open(errors, file, errno);
        goto out;
    }
    if (!S_ISREG(about.st_mode)) {
        err = refuse_file(errors, ERR_SYNTAX, "", "this is not a plain file");
        goto out;
    }
    memory = malloc(CONFIG_FILE_BYTES_MAX + 1);
    if (memory == NULL) {
        err = refuse_file(errors, ERR_NO_MEMORY, "", err_text(ERR_NO_MEMORY));
        goto out;
    }
    err = read_file(fd, memory, CONFIG_FILE_BYTES_MAX + 1, &bytes);
    err = err != ERR_OK
              ? refuse_file(errors, err, "", err_text(err))
              : config_parse(out_config, file, slice_of(memory, bytes), secrets_checked, errors);
out:
    free(memory);
    (void)close(fd);
    return err;
}

void config_free(struct config **config)
{
    free(*config);
    *config = NULL;
}
