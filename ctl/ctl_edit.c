/*
 * retry, hold, release, delete, undelete, bounce: one shape, six words.
 *
 * Many ids go in several requests, each of which fits. What a person was asked about is what is
 * done: delete by filter is carried out on the ids that were counted, since mail may have arrived
 * while the question stood there.
 */
#include "ctl/ctl.h"

#include "daemon/base/num.h"

#include <stdlib.h>
#include <unistd.h>

#define IDS_PER_REQUEST 1000u
#define ANSWER_BYTES    16

struct verb {
    enum command command;
    const char *ask;   /* "Delete 3 messages?" */
    const char *would; /* "would be deleted" */
    const char *done;  /* "2 messages ..." */
    const char *did;   /* "1 message ..." */
    bool exact;        /* ids that were counted, not the filter again */
};

static const struct verb verbs[] = {
    {COMMAND_RETRY, "Retry", "would be tried now", "are tried now", "is tried now", false},
    {COMMAND_HOLD, "Hold", "would be held", "are held", "is held", false},
    {COMMAND_RELEASE, "Release", "would be released", "are released", "is released", false},
    {COMMAND_DELETE, "Delete", "would be deleted", "are deleted", "is deleted", true},
    {COMMAND_UNDELETE, "Undelete", "would be brought back", "are back", "is back", false},
    {COMMAND_BOUNCE, "Give up", "would be given up", "are given up", "is given up", true},
};

struct edit {
    struct ctl *c;
    const struct verb *verb;
    json_t *ids;  /* owned; NULL: by filter */
    char *filter; /* owned; NULL: by ids */
};

static const struct verb *verb_of(const struct ctl *c)
{
    for (size_t index = 0; index < sizeof verbs / sizeof verbs[0]; index++) {
        if (strcmp(command_row(verbs[index].command)->word, c->args.command->name) == 0) {
            return &verbs[index];
        }
    }
    CHECK(false);
}

/* Ids or a filter? Never both. */
static bool set_selection(struct edit *e, struct ctl_problem *problem)
{
    const struct ctl_args *args = &e->c->args;
    size_t ids = 0;
    const char *id = NULL;
    for (size_t index = 0; index < args->word_count; index++) {
        if (ctl_args_word_is_id(args->words[index])) {
            id = args->words[index];
            ids++;
        }
    }
    if (ids == 0) {
        e->filter = ctl_args_filter(args, problem);
        if (e->filter != NULL && strspn(e->filter, " ") == strlen(e->filter)) {
            ctl_problem_set(problem, CTL_EXIT_USAGE, "usage", "the filter is empty");
            ctl_problem_hint(problem, "tasukictl help %s", args->command->name);
            return false;
        }
        return e->filter != NULL;
    }
    if (ids < args->word_count) {
        ctl_problem_set(problem, CTL_EXIT_USAGE, "usage",
                        "\"%.32s\" is an id and other words are not: name messages by ids or by a "
                        "filter",
                        id);
        ctl_problem_hint(problem, "in a filter an id is written id:%.32s", id);
        return false;
    }
    e->ids = json_array();
    for (size_t index = 0; index < args->word_count; index++) {
        json_array_append_new(e->ids, json_string(args->words[index]));
    }
    return true;
}

/* Adds the answer to one request to those before. */
static void add_result(json_t *sum, const json_t *result)
{
    static const char *const numbers[] = {"matched", "changed"};
    static const char *const lists[] = {"skipped", "ids"};
    for (size_t index = 0; index < 2; index++) {
        uint64_t value = ctl_json_u64(sum, numbers[index]) + ctl_json_u64(result, numbers[index]);
        json_object_set_new(sum, numbers[index], json_integer((json_int_t)value));
        json_t *list = json_object_get(result, lists[index]);
        if (json_is_array(list)) {
            json_array_extend(json_object_get(sum, lists[index]), list);
        }
    }
}

static json_t *slice_of_ids(const json_t *ids, size_t from)
{
    json_t *part = json_array();
    for (size_t index = from; index < from + IDS_PER_REQUEST && index < json_array_size(ids);
         index++) {
        json_array_append(part, json_array_get(ids, index));
    }
    return part;
}

/* All requests that it takes; the sum of their results, or NULL and a problem. */
static json_t *perform(struct edit *e, bool dry_run, struct ctl_problem *problem)
{
    json_t *sum = json_pack("{s:i,s:i,s:i,s:b,s:[],s:[]}", "schema", WIRE_SCHEMA_VERSION, "matched",
                            0, "changed", 0, "dry_run", dry_run, "skipped", "ids");
    size_t from = 0;
    do {
        json_t *args = json_pack("{s:b}", "dry_run", dry_run);
        if (e->c->args.reason != NULL) {
            json_object_set_new(args, "reason", ctl_json_words(e->c->args.reason));
        }
        if (e->ids != NULL) {
            json_object_set_new(args, "ids", slice_of_ids(e->ids, from));
        } else {
            json_object_set_new(args, "filter", json_string(e->filter));
        }
        json_t *result = ctl_client_call(e->c, e->verb->command, args, NULL, problem);
        if (result == NULL) {
            uint64_t changed = ctl_json_u64(sum, "changed");
            json_decref(sum);
            if (!dry_run && from > 0) {
                char notice[80];
                (void)snprintf(notice, sizeof notice, "%llu messages were changed before this",
                               (unsigned long long)changed);
                ctl_say_notice(e->c, notice, "");
            }
            return NULL;
        }
        add_result(sum, result);
        json_decref(result);
        from += IDS_PER_REQUEST;
    } while (e->ids != NULL && from < json_array_size(e->ids));
    return sum;
}

/* ---- asking first ---- */

static bool is_bulk(const struct edit *e)
{
    return e->filter != NULL || json_array_size(e->ids) > 1;
}

static bool answered_yes(void)
{
    char answer[ANSWER_BYTES];
    if (fgets(answer, sizeof answer, stdin) == NULL) {
        return false;
    }
    struct slice word = slice_trim(slice_from_str(answer));
    return slice_equal_nocase(word, SLICE("y")) || slice_equal_nocase(word, SLICE("yes"));
}

/* From here on the messages that were counted are meant, not what the filter finds later. */
static void fix_selection(struct edit *e, const json_t *counted)
{
    json_t *ids = json_object_get(counted, "ids");
    size_t count = json_array_size(ids);
    if (e->filter == NULL || !e->verb->exact || count == 0 ||
        count != ctl_json_u64(counted, "matched")) {
        return;
    }
    free(e->filter);
    e->filter = NULL;
    e->ids = json_incref(ids);
}

/* CTL_EXIT_OK: go on. */
static enum ctl_exit ask(struct edit *e)
{
    struct ctl *c = e->c;
    struct ctl_problem problem;
    if (isatty(STDIN_FILENO) != 1 || isatty(STDERR_FILENO) != 1) {
        ctl_problem_set(&problem, CTL_EXIT_USAGE, "usage",
                        "\"%s\" of more than one message needs --yes where nobody can be asked",
                        c->args.command->name);
        ctl_problem_hint(&problem, "the same with --dry-run first, then with --yes");
        return ctl_say_problem(c, &problem);
    }
    json_t *counted = perform(e, true, &problem);
    if (counted == NULL) {
        return ctl_say_problem(c, &problem);
    }
    uint64_t matched = ctl_json_u64(counted, "matched");
    bool go_on = matched == 0; /* the answer says that there is none */
    if (!go_on) {
        char text[80];
        struct buf b;
        buf_init(&b, text, sizeof text);
        ctl_put_count(&b, matched, "message", "messages");
        fprintf(stderr, "%s %.*s? [y/N] ", e->verb->ask, (int)b.len, text);
        go_on = answered_yes();
        if (!go_on) {
            fputs("Nothing was changed.\n", stderr);
        }
        fix_selection(e, counted);
    }
    json_decref(counted);
    return go_on ? CTL_EXIT_OK : CTL_EXIT_NO;
}

/* ---- the answer ---- */

static void print_skipped(const json_t *skipped)
{
    size_t index;
    json_t *row;
    json_array_foreach(skipped, index, row)
    {
        fputs("  not ", stdout);
        ctl_say_escaped(stdout, ctl_json_text(row, "id"));
        fputs(": ", stdout);
        ctl_say_words(stdout, ctl_json_text(row, "why"));
        putchar('\n');
    }
}

static void print_result(const struct edit *e, const json_t *result)
{
    char text[80];
    struct buf b;
    bool dry_run = e->c->args.dry_run;
    const json_t *skipped = json_object_get(result, "skipped");
    uint64_t matched = ctl_json_u64(result, "matched");
    uint64_t count = ctl_json_u64(result, "changed");
    if (dry_run) {
        count = matched - u64_min(matched, json_array_size(skipped));
    }
    buf_init(&b, text, sizeof text);
    ctl_put_count(&b, count, "message", "messages");
    (void)fwrite(text, 1, b.len, stdout);
    printf(" %s%s.\n",
           dry_run      ? e->verb->would
           : count == 1 ? e->verb->did
                        : e->verb->done,
           dry_run ? "; nothing was changed" : "");
    if (dry_run) {
        size_t index;
        json_t *id;
        json_array_foreach(json_object_get(result, "ids"), index, id)
        {
            if (json_is_string(id)) {
                fputs("  ", stdout);
                ctl_say_escaped(stdout, slice_from_str(json_string_value(id)));
                putchar('\n');
            }
        }
    }
    print_skipped(skipped);
}

static enum ctl_exit say_none(const struct edit *e)
{
    struct ctl_problem problem;
    ctl_problem_set(&problem, CTL_EXIT_NO_MESSAGE, wire_error_word(WIRE_ERROR_NOT_FOUND),
                    "no message matches, so nothing was changed");
    ctl_problem_hint(&problem, "tasukictl queue");
    return ctl_say_problem(e->c, &problem);
}

static enum ctl_exit edit(struct edit *e)
{
    struct ctl *c = e->c;
    struct ctl_problem problem;
    if (is_bulk(e) && !c->args.dry_run && !c->args.yes) {
        enum ctl_exit code = ask(e);
        if (code != CTL_EXIT_OK) {
            return code;
        }
    }
    json_t *result = perform(e, c->args.dry_run, &problem);
    if (result == NULL) {
        return ctl_say_problem(c, &problem);
    }
    enum ctl_exit code = CTL_EXIT_OK;
    if (c->args.json) {
        ctl_say_json(result);
    }
    if (ctl_json_u64(result, "matched") == 0) {
        code = say_none(e);
    } else {
        if (!c->args.json) {
            print_result(e, result);
        }
        bool skipped = json_array_size(json_object_get(result, "skipped")) > 0;
        code = skipped && !c->args.dry_run ? CTL_EXIT_NO : CTL_EXIT_OK;
    }
    json_decref(result);
    return code;
}

enum ctl_exit ctl_edit_run(struct ctl *c)
{
    struct ctl_problem problem = {0};
    struct edit e = {.c = c, .verb = verb_of(c)};
    enum ctl_exit code = set_selection(&e, &problem) ? edit(&e) : ctl_say_problem(c, &problem);
    json_decref(e.ids);
    free(e.filter);
    return code;
}
