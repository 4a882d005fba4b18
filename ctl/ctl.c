/*
 * tasukictl: the admin's command. This file is the table of commands; adding one is adding a row.
 */
#include "ctl/ctl.h"

#include "daemon/config/config.h"

#include <locale.h>
#include <stdlib.h>

#define SECONDS 1000u
#define MINUTES (60u * SECONDS)

#define HOURS (60u * MINUTES)

#define EDIT_OPTIONS (CTL_OPTION_DRY_RUN | CTL_OPTION_YES | CTL_OPTION_REASON)
#define EDIT_ARGS    "ID... | FILTER..."
#define EDIT_DETAILS                                                                               \
    "Names messages by id (any unique prefix will do) or by a filter, never both. A filter, or "   \
    "more than one id, is asked about on a terminal and needs --yes without one. --dry-run says "  \
    "what would be done and changes nothing."
#define FILTER_DETAILS                                                                             \
    "A filter is words that must all hold: from:TEXT to:TEXT subject:TEXT client:TEXT "            \
    "upstream:NAME device:NAME state:WORD reason:WORD id:PREFIX older:SPAN newer:SPAN "            \
    "larger:SIZE smaller:SIZE, or a bare word that stands in from, to, subject or id. A leading "  \
    "- negates a word. States: queued (all that waits; deferred and in-doubt are parts of it), "   \
    "sending, held, failed, trashed."

const struct ctl_command ctl_commands[] = {
    {"status", "", "is all well? the queue, the upstreams, what to do (the default)",
     "The verdict stands first, in one sentence. Exits with 0 when all is well and with 1 when "
     "something needs you.",
     0, 0, 0, 30 * SECONDS, ctl_status_run},
    {"upstreams", "[NAME]", "tell how each upstream is: state, pace, what waits, what to do",
     "A line each, or all about one: since when it is out of order and why, who stands in for it, "
     "its connections, TLS, login and pipelining, its pace and rates, what waits for it and until "
     "when. GONE: when that will have left. Exits with 1 when one of them is out of order.",
     0, 0, 1, 30 * SECONDS, ctl_upstreams_run},
    {"queue", "[FILTER...]", "list the messages in the queue, oldest first",
     FILTER_DETAILS
     " What was deleted is listed only with state:trashed. --by reason, device or "
     "upstream counts all messages instead, without looking at each. While the daemon "
     "is down the queue is read from disk.",
     CTL_OPTION_LIMIT | CTL_OPTION_BY, 0, 1000, 30 * SECONDS, ctl_queue_run},
    {"show", "ID", "tell all about one message, waiting or gone",
     "Any unique prefix of the id will do. Looks in the queue, then in the history. --transcript "
     "prints the dialogue of the last attempts, with secrets masked. While the daemon is down "
     "both are read from disk.",
     CTL_OPTION_TRANSCRIPT, 1, 1, 30 * SECONDS, ctl_show_run},
    {"why", "ID", "say in plain words why a message waits, or what became of it",
     "Any unique prefix of the id will do.", 0, 1, 1, 30 * SECONDS, ctl_why_run},
    {"history", "[FILTER...]", "list the messages that have left, newest first",
     "The filter is that of queue, and end:delivered|reported|deleted|discarded. How long it is "
     "remembered: keep-history and history-max in the configuration.",
     CTL_OPTION_LIMIT, 0, 1000, 30 * SECONDS, ctl_history_run},
    {"retry", EDIT_ARGS, "try messages again now", EDIT_DETAILS, EDIT_OPTIONS, 1, 100000,
     5 * MINUTES, ctl_edit_run},
    {"hold", EDIT_ARGS, "keep messages until they are released", EDIT_DETAILS, EDIT_OPTIONS, 1,
     100000, 5 * MINUTES, ctl_edit_run},
    {"release", EDIT_ARGS, "let held messages go", EDIT_DETAILS, EDIT_OPTIONS, 1, 100000,
     5 * MINUTES, ctl_edit_run},
    {"delete", EDIT_ARGS, "move messages to the trash, or out of it for good",
     EDIT_DETAILS " What was deleted can be brought back for keep-deleted (a day): undelete. "
                  "Deleting it again, with state:trashed or by id, is for good.",
     EDIT_OPTIONS, 1, 100000, 5 * MINUTES, ctl_edit_run},
    {"undelete", EDIT_ARGS, "bring deleted messages back",
     EDIT_DETAILS " Messages that had failed come back held: retry or release them.", EDIT_OPTIONS,
     1, 100000, 5 * MINUTES, ctl_edit_run},
    {"bounce", EDIT_ARGS, "give messages up now and tell their senders", EDIT_DETAILS, EDIT_OPTIONS,
     1, 100000, 5 * MINUTES, ctl_edit_run},
    {"test", "[UPSTREAM]", "talk to an upstream now and show the dialogue",
     "Connects, asks for TLS and logs in as mail would; with --to a short message is sent as "
     "well. Prints the dialogue, the step that failed, its likely cause and what to do.",
     CTL_OPTION_TO | CTL_OPTION_FROM, 0, 1, 15 * MINUTES, ctl_test_run},
    {"trace out", "[FILTER...]", "follow what is said to upstreams, as it happens",
     "From now on, until Ctrl-C or --for is over: connections, logins (masked), and what is said "
     "about each message, without its content. The filter is that of queue; what is about no "
     "message is shown when it speaks of upstreams only. Exits with 69 when the daemon goes away.",
     CTL_OPTION_FOR, 0, 1000, 30 * SECONDS, ctl_trace_run},
    {"backup", "FILE", "copy the queue, while mail goes on, and verify the copy",
     "Needs to read the queue's directory (state in the configuration): as root, or as the user "
     "of the daemon. The copy is one compact file; to go back to it, stop the daemon and put it "
     "in the place of STATE/data.mdb.",
     0, 1, 1, 0, ctl_backup_run},
    {"compact", "", "give the disk back what the queue's file does not need",
     "Rewrites the file without its free pages. Taking mail and handing it on wait meanwhile: "
     "about a second for each hundred megabytes of mail.",
     0, 0, 0, 1 * HOURS, ctl_compact_run},
    {"config check", "[FILE]", "judge the configuration, with or without a daemon",
     "Says what tasukid would say about the file, and changes nothing.", 0, 0, 1, 0,
     ctl_config_check_run},
    {"config show", "", "print the settings in force",
     "Asks the daemon; while it is down, prints what it would use.", 0, 0, 0, 30 * SECONDS,
     ctl_config_show_run},
    {"config explain", "[KEY]", "explain one setting, or list all of them",
     "What it is, its default and an example.", 0, 0, 1, 0, ctl_config_explain_run},
    {"metrics", "", "print all counters in Prometheus' text format", "", 0, 0, 0, 30 * SECONDS,
     ctl_metrics_run},
    {"help", "[COMMAND]", "explain a command, or list all of them", "", 0, 0, 2, 0, ctl_help_run},
};

const size_t ctl_command_count = sizeof ctl_commands / sizeof ctl_commands[0];

static enum ctl_exit run(struct ctl *c)
{
    if (c->args.version) {
        if (c->args.json) {
            json_t *version =
                json_pack("{s:i,s:s}", "schema", WIRE_SCHEMA_VERSION, "version", TASUKI_VERSION);
            ctl_say_json(version);
            json_decref(version);
        } else {
            printf("tasukictl %s\n", TASUKI_VERSION);
        }
        return CTL_EXIT_OK;
    }
    if (c->args.help) {
        ctl_help_command(c, c->args.command);
        return CTL_EXIT_OK;
    }
    return c->args.command->run(c);
}

int main(int argc, char **argv)
{
    /* Widths of characters, and nothing else, come from the locale; what is printed is UTF-8. */
    if (setlocale(LC_CTYPE, "C.UTF-8") == NULL) {
        (void)setlocale(LC_CTYPE, "");
    }
    struct ctl c = {.fd = -1};
    struct ctl_problem problem = {0};
    const char **words = calloc((size_t)argc + 1, sizeof *words);
    if (words == NULL) {
        ctl_problem_set(&problem, CTL_EXIT_OUTPUT, "failed", "there is no memory left");
        return (int)ctl_say_problem(&c, &problem);
    }
    bool understood = ctl_args_parse(&c.args, argc, argv, words, &problem);
    ctl_say_init(&c);
    enum ctl_exit code = understood ? run(&c) : ctl_say_problem(&c, &problem);
    if (fflush(stdout) != 0 || ferror(stdout) != 0) {
        ctl_problem_set(&problem, CTL_EXIT_OUTPUT, "failed",
                        "the output could not be written: the disk may be full");
        ctl_problem_hint(&problem, "df -h .");
        code = ctl_say_problem(&c, &problem);
    }
    ctl_client_close(&c);
    config_free(&c.config);
    free(words);
    return (int)code;
}
