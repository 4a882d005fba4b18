/* backup and compact: the queue's file as a whole. */
#include "ctl/ctl.h"

#include "daemon/config/config.h"
#include "daemon/store/store.h"

#include <signal.h>
#include <unistd.h>

/* A half-written copy is not to be left behind, whoever ends the backup: it is stopped between two
 * pieces, and the store removes what there is of it. */
static volatile sig_atomic_t signal_taken; /* its number; 0: none */

static void signal_note(int number)
{
    signal_taken = number;
}

/* One that was ignored from the start (nohup) stays so. */
static void signals_take(void)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
    const struct sigaction note = {.sa_handler = signal_note, .sa_flags = SA_RESTART};
    for (size_t index = 0; index < sizeof numbers / sizeof numbers[0]; index++) {
        struct sigaction before;
        if (sigaction(numbers[index], NULL, &before) == 0 && before.sa_handler != SIG_IGN) {
            (void)sigaction(numbers[index], &note, NULL);
        }
    }
}

struct progress {
    const struct ctl *c;
    bool shown;
};

static bool show_progress(void *ctx, uint64_t done, uint64_t total)
{
    struct progress *p = ctx;
    if (isatty(STDERR_FILENO) == 1 && !p->c->args.json && total > 0) {
        fprintf(stderr, "\r%3u %% ", (unsigned)(done >= total ? 100 : done * 100 / total));
        p->shown = true;
    }
    return signal_taken == 0;
}

static enum ctl_exit exit_of(enum err err)
{
    switch ((int)err) {
    case ERR_PERMISSION:
        return CTL_EXIT_NOT_PERMITTED;
    case ERR_EXISTS:
        return CTL_EXIT_USAGE;
    case ERR_CANCELLED:
        return (enum ctl_exit)(CTL_EXIT_SIGNAL + signal_taken);
    default:
        return CTL_EXIT_NO;
    }
}

static void say_done(const struct ctl *c, const char *file, uint64_t messages)
{
    if (c->args.json) {
        json_t *done = json_pack("{s:i,s:o,s:I}", "schema", WIRE_SCHEMA_VERSION, "file",
                                 ctl_json_words(file), "messages", (json_int_t)messages);
        ctl_say_json(done);
        json_decref(done);
        return;
    }
    char text[CTL_SHORT_TEXT_BYTES];
    struct buf b;
    buf_init(&b, text, sizeof text);
    ctl_put_count(&b, messages, "message", "messages");
    fputs("The queue was copied to ", stdout);
    ctl_say_escaped(stdout, slice_from_str(file));
    printf(" and the copy was verified: %.*s in it.\n", (int)b.len, text);
}

enum ctl_exit ctl_backup_run(struct ctl *c)
{
    struct ctl_problem problem = {0};
    struct progress progress = {.c = c};
    struct store_report report = {0};
    const char *file = c->args.words[0];
    const struct config *config = ctl_config_get(c, &problem);
    if (config == NULL && c->args.config_file != NULL) {
        return ctl_say_problem(c, &problem);
    }
    const char *directory = config != NULL ? config->state : CTL_STATE_DIRECTORY;
    signals_take();
    enum err err = store_backup(directory, file, show_progress, &progress, &report);
    if (progress.shown) {
        fputs("\r      \r", stderr);
    }
    if (err == ERR_OK) {
        say_done(c, file, report.messages);
        return CTL_EXIT_OK;
    }
    ctl_problem_set(&problem, exit_of(err), wire_error_word(WIRE_ERROR_FAILED), "%.800s",
                    report.problem[0] != '\0' ? report.problem : err_text(err));
    ctl_problem_hint(&problem, "%s",
                     err == ERR_PERMISSION ? "sudo tasukictl backup FILE"
                     : err == ERR_FULL     ? "df -h; choose a file on another disk"
                     : err == ERR_DAMAGED  ? "tasukid --check-store says what is wrong"
                     : err == ERR_EXISTS   ? "tasukictl backup ANOTHER-FILE"
                                           : "");
    return ctl_say_problem(c, &problem);
}

enum ctl_exit ctl_compact_run(struct ctl *c)
{
    struct ctl_problem problem = {0};
    json_t *result = ctl_client_call(c, COMMAND_COMPACT, json_object(), "the queue", &problem);
    if (result == NULL) {
        return ctl_say_problem(c, &problem);
    }
    if (c->args.json) {
        ctl_say_json(result);
    } else {
        char before[CTL_SHORT_TEXT_BYTES], after[CTL_SHORT_TEXT_BYTES];
        struct buf b, a;
        buf_init(&b, before, sizeof before);
        buf_init(&a, after, sizeof after);
        ctl_put_size(&b, ctl_json_u64(result, "before_bytes"));
        ctl_put_size(&a, ctl_json_u64(result, "after_bytes"));
        printf("The queue's file has %.*s now; it had %.*s.\n", (int)a.len, after, (int)b.len,
               before);
    }
    json_decref(result);
    return CTL_EXIT_OK;
}
