/* Help, made of the tables of commands and options. */
#include "ctl/ctl.h"

#include "daemon/base/text.h"

static void put_row(const struct ctl *c, const char *left, const char *right)
{
    char label[100];
    (void)snprintf(label, sizeof label, "  %-25.60s", left);
    ctl_say_fact(c, label, slice_from_str(right));
}

static void put_options(const struct ctl *c, unsigned options, bool common)
{
    for (size_t index = 0; index < ctl_option_count; index++) {
        const struct ctl_option_row *row = &ctl_options[index];
        if (common ? row->only != 0 : (row->only & options) == 0) {
            continue;
        }
        char left[64];
        (void)snprintf(left, sizeof left, "%s%s%s%s%s", row->letter == NULL ? "" : row->letter,
                       row->letter == NULL ? "" : ", ", row->name, row->value == NULL ? "" : " ",
                       row->value == NULL ? "" : row->value);
        put_row(c, left, row->summary);
    }
}

static void put_json(const struct ctl_command *command)
{
    json_t *row = json_pack("{s:i,s:s,s:s,s:s}", "schema", WIRE_SCHEMA_VERSION, "command",
                            command->name, "args", command->args, "summary", command->summary);
    json_t *options = json_array();
    for (size_t index = 0; index < ctl_option_count; index++) {
        if (ctl_options[index].only == 0 || (ctl_options[index].only & command->options) != 0) {
            json_array_append_new(options, json_string(ctl_options[index].name));
        }
    }
    json_object_set_new(row, "options", options);
    ctl_say_json(row);
    json_decref(row);
}

void ctl_help_command(const struct ctl *c, const struct ctl_command *command)
{
    if (c->args.json) {
        put_json(command);
        return;
    }
    printf("tasukictl %s%s%s\n", command->name, command->args[0] == '\0' ? "" : " ", command->args);
    ctl_say_wrapped(c, 2, slice_from_str(command->summary));
    if (command->details[0] != '\0') {
        putchar('\n');
        ctl_say_wrapped(c, 0, slice_from_str(command->details));
    }
    printf("\nOptions:\n");
    put_options(c, command->options, false);
    put_options(c, 0, true);
}

static void help_all(const struct ctl *c)
{
    if (c->args.json) {
        for (size_t index = 0; index < ctl_command_count; index++) {
            put_json(&ctl_commands[index]);
        }
        return;
    }
    printf("tasukictl [OPTION...] [COMMAND] [ARGUMENT...]\n"
           "Shows and steers tasuki, the mail relay.\n\nCommands:\n");
    for (size_t index = 0; index < ctl_command_count; index++) {
        char left[64];
        (void)snprintf(left, sizeof left, "%s%s%s", ctl_commands[index].name,
                       ctl_commands[index].args[0] == '\0' ? "" : " ", ctl_commands[index].args);
        put_row(c, left, ctl_commands[index].summary);
    }
    printf("\nOptions for all of them:\n");
    put_options(c, 0, true);
    printf("\ntasukictl help COMMAND tells more; so does man tasukictl.\n");
}

enum ctl_exit ctl_help_run(struct ctl *c)
{
    if (c->args.word_count == 0) {
        help_all(c);
        return CTL_EXIT_OK;
    }
    char name[100];
    (void)snprintf(name, sizeof name, "%.48s%s%.48s", c->args.words[0],
                   c->args.word_count > 1 ? " " : "",
                   c->args.word_count > 1 ? c->args.words[1] : "");
    size_t len = strlen(name);
    size_t found = 0;
    const char *names[64];
    for (size_t index = 0; index < ctl_command_count; index++) {
        const char *row = ctl_commands[index].name;
        names[index] = row;
        /* "help config" explains the whole family. */
        if (strncmp(row, name, len) == 0 && (row[len] == '\0' || row[len] == ' ')) {
            if (found++ > 0 && !c->args.json) {
                putchar('\n');
            }
            ctl_help_command(c, &ctl_commands[index]);
        }
    }
    if (found > 0) {
        return CTL_EXIT_OK;
    }
    struct ctl_problem problem;
    const char *nearest = text_nearest(slice_from_str(name), names, ctl_command_count);
    ctl_problem_set(&problem, CTL_EXIT_USAGE, "usage", "unknown command \"%s\"", name);
    if (nearest != NULL) {
        ctl_problem_hint(&problem, "did you mean \"%s\"?", nearest);
    } else {
        ctl_problem_hint(&problem, "tasukictl help");
    }
    return ctl_say_problem(c, &problem);
}
