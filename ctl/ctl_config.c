/* config check, show and explain: the same reader and the same verdict as the daemon's. */
#include "ctl/ctl.h"

#include "daemon/base/text.h"
#include "daemon/config/config.h"

#include <stdlib.h>

#define SHOW_BYTES_MAX (256u << 10)

static const char *file_of(const struct ctl *c)
{
    return c->args.config_file != NULL ? c->args.config_file : CTL_CONFIG_FILE;
}

static enum ctl_exit exit_of(enum err err)
{
    return err == ERR_PERMISSION ? CTL_EXIT_NOT_PERMITTED : CTL_EXIT_CONFIG;
}

const struct config *ctl_config_get(struct ctl *c, struct ctl_problem *problem)
{
    if (c->config != NULL) {
        return c->config;
    }
    struct config_errors errors = {0};
    const char *file = file_of(c);
    enum err err = config_load(&c->config, file, false, &errors);
    if (err == ERR_OK) {
        return c->config;
    }
    const struct config_error *first = &errors.items[0];
    ctl_problem_set(problem, exit_of(err), "bad-config", "%s: %s",
                    first->line > 0 ? "the configuration has errors" : "the configuration",
                    errors.count > 0 ? first->message : err_text(err));
    ctl_problem_hint(problem, "tasukictl -c %s config check", file);
    return NULL;
}

/* ---- check ---- */

static void print_errors(const char *file, const struct config_errors *errors)
{
    for (uint32_t index = 0; index < errors->count; index++) {
        char memory[CONFIG_TEXT_BYTES + sizeof(struct config_error) + 64];
        struct buf b;
        buf_init(&b, memory, sizeof memory);
        config_error_put(&b, file, &errors->items[index]);
        for (struct slice rest = buf_slice(&b); rest.len > 0;) {
            size_t len = slice_find(rest, '\n');
            ctl_say_words(stderr, slice_head(rest, len));
            fputc('\n', stderr);
            rest = slice_tail(rest, len + 1);
        }
    }
}

static json_t *errors_as_json(const struct config_errors *errors)
{
    json_t *list = json_array();
    for (uint32_t index = 0; index < errors->count; index++) {
        const struct config_error *e = &errors->items[index];
        json_array_append_new(list,
                              json_pack("{s:I,s:I,s:o,s:o}", "line", (json_int_t)e->line, "column",
                                        (json_int_t)e->column, "message",
                                        ctl_json_words(e->message), "fix", ctl_json_words(e->fix)));
    }
    return list;
}

static void print_good(const char *file, const struct config *config)
{
    ctl_say_words(stdout, slice_from_str(file));
    printf(": good\n");
    for (uint32_t index = 0; index < config->upstream_count; index++) {
        const struct config_upstream *u = &config->upstreams[index];
        printf("  upstream %s: ", u->name);
        ctl_say_words(stdout, slice_from_str(u->host.name));
        printf(" port %u, %s\n", (unsigned)u->host.port,
               u->user[0] == '\0' ? "without a login" : "with a login");
    }
    for (uint32_t index = 0; index < config->listen.count; index++) {
        printf("  takes mail on %s\n", config->listen.items[index].text);
    }
}

enum ctl_exit ctl_config_check_run(struct ctl *c)
{
    const char *file = c->args.word_count > 0 ? c->args.words[0] : file_of(c);
    struct config_errors errors = {0};
    struct config *config = NULL;
    enum err err = config_load(&config, file, true, &errors);
    if (c->args.json) {
        json_t *result =
            json_pack("{s:i,s:b,s:o,s:o}", "schema", WIRE_SCHEMA_VERSION, "ok", err == ERR_OK,
                      "file", ctl_json_words(file), "errors", errors_as_json(&errors));
        ctl_say_json(result);
        json_decref(result);
    } else if (err == ERR_OK) {
        print_good(file, config);
    } else {
        print_errors(file, &errors);
    }
    config_free(&config);
    return err == ERR_OK ? CTL_EXIT_OK : exit_of(err);
}

/* ---- show ---- */

/* Line by line: what is not ours (a path, a user) is escaped, newlines stay. */
static void print_lines(struct slice text)
{
    while (text.len > 0) {
        size_t len = slice_find(text, '\n');
        ctl_say_words(stdout, slice_head(text, len));
        putchar('\n');
        text = slice_tail(text, len + 1);
    }
}

static enum ctl_exit print_result(const struct ctl *c, json_t *result)
{
    if (c->args.json) {
        ctl_say_json(result);
    } else {
        print_lines(ctl_json_text(result, "text"));
    }
    json_decref(result);
    return CTL_EXIT_OK;
}

/* What a daemon started now would use. */
static json_t *show_from_file(struct ctl *c, struct ctl_problem *problem)
{
    const struct config *config = ctl_config_get(c, problem);
    if (config == NULL) {
        return NULL;
    }
    char *text = malloc(SHOW_BYTES_MAX);
    CHECK(text != NULL);
    struct buf b;
    buf_init(&b, text, SHOW_BYTES_MAX);
    config_put(&b, config);
    json_t *value = ctl_json_bytes(buf_slice(&b));
    free(text);
    return json_pack("{s:i,s:o,s:o}", "schema", WIRE_SCHEMA_VERSION, "file",
                     ctl_json_words(config->file), "text", value);
}

enum ctl_exit ctl_config_show_run(struct ctl *c)
{
    struct ctl_problem problem;
    json_t *result = ctl_client_call(c, COMMAND_CONFIG_SHOW, json_object(), NULL, &problem);
    if (result == NULL && problem.daemon_down) {
        struct ctl_problem unusable;
        result = show_from_file(c, &unusable);
        if (result == NULL) {
            return ctl_say_problem(c, c->args.config_file != NULL ? &unusable : &problem);
        }
        ctl_say_notice(c, "the daemon does not answer; these settings are those of the file",
                       problem.hint);
    }
    return result == NULL ? ctl_say_problem(c, &problem) : print_result(c, result);
}

enum ctl_exit ctl_metrics_run(struct ctl *c)
{
    struct ctl_problem problem;
    json_t *result = ctl_client_call(c, COMMAND_METRICS, json_object(), NULL, &problem);
    return result == NULL ? ctl_say_problem(c, &problem) : print_result(c, result);
}

/* ---- explain ---- */

static const char *place_of(const struct config_row *row)
{
    return row->section[0] == '\0' ? "at the top of the file"
           : strcmp(row->section, "upstream") == 0
               ? "in [upstream NAME], or at the top for a single "
                 "upstream"
               : "in [dashboard]";
}

static void explain_row(const struct ctl *c, const struct config_row *row, bool first)
{
    if (c->args.json) {
        json_t *object = json_pack("{s:i,s:s,s:s,s:s,s:s,s:s}", "schema", WIRE_SCHEMA_VERSION,
                                   "section", row->section, "key", row->key, "default",
                                   row->default_text, "doc", row->doc, "example", row->example);
        ctl_say_json(object);
        json_decref(object);
        return;
    }
    char usage[300];
    printf("%s%s%s%s\n", first ? "" : "\n", ctl_colour_on(c, CTL_STRONG), row->key,
           ctl_colour_off(c, CTL_STRONG));
    ctl_say_wrapped(c, 2, slice_from_str(row->doc));
    ctl_say_fact(c, "  stands", slice_from_str(place_of(row)));
    const char *none = strstr(row->doc, "by default") != NULL ? "see above" : "none";
    ctl_say_fact(c, "  default",
                 slice_from_str(row->default_text[0] != '\0' ? row->default_text : none));
    if (row->example[0] != '\0') {
        (void)snprintf(usage, sizeof usage, "%s = %s", row->key, row->example);
        ctl_say_fact(c, "  example", slice_from_str(usage));
    }
}

static void explain_all(const struct ctl *c)
{
    static const struct ctl_column columns[] = {{"SECTION", 0, false, 0},
                                                {"KEY", 0, false, 0},
                                                {"DEFAULT", 0, false, 0},
                                                {"WHAT IT IS", 0.5, false, 0}};
    struct ctl_table *t = c->args.json ? NULL : ctl_table_new(c, columns, 4, true);
    struct config_row row;
    for (size_t index = 0; config_row_at(index, &row); index++) {
        if (t == NULL) {
            explain_row(c, &row, index == 0);
            continue;
        }
        ctl_table_line(t);
        ctl_table_words(t, row.section[0] != '\0' ? row.section : "-");
        ctl_table_words(t, row.key);
        ctl_table_words(t, row.default_text[0] != '\0' ? row.default_text : "-");
        ctl_table_words(t, row.doc);
    }
    ctl_table_end(&t);
}

enum ctl_exit ctl_config_explain_run(struct ctl *c)
{
    if (c->args.word_count == 0) {
        explain_all(c);
        return CTL_EXIT_OK;
    }
    const char *key = c->args.words[0];
    const char *names[256];
    size_t count = 0;
    bool found = false;
    struct config_row row;
    for (size_t index = 0; config_row_at(index, &row); index++) {
        if (count < sizeof names / sizeof names[0]) {
            names[count++] = row.key;
        }
        if (strcmp(row.key, key) == 0) {
            explain_row(c, &row, !found);
            found = true;
        }
    }
    if (found) {
        return CTL_EXIT_OK;
    }
    struct ctl_problem problem;
    const char *nearest = text_nearest(slice_from_str(key), names, count);
    ctl_problem_set(&problem, CTL_EXIT_USAGE, "usage", "there is no setting \"%.300s\"", key);
    if (nearest != NULL) {
        ctl_problem_hint(&problem, "tasukictl config explain %s", nearest);
    } else {
        ctl_problem_hint(&problem, "tasukictl config explain");
    }
    return ctl_say_problem(c, &problem);
}
