/* show and why: one message, waiting or gone, from the daemon or from disk. */
#include "ctl/ctl.h"

#include "daemon/base/when.h"

static void say_facts(const struct ctl *c, const char *label, struct slice text)
{
    if (text.len > 0) {
        ctl_say_fact_escaped(c, label, text);
    }
}

/* "3 h ago (2026-11-24T08:26:34Z)". */
static void put_instant(struct buf *to, uint64_t at_ms, uint64_t now_ms)
{
    ctl_put_relative(to, at_ms, now_ms, false);
    buf_put_str(to, " (");
    when_put_rfc3339(to, at_ms);
    buf_put_str(to, ")");
}

/* The upstream's last words: "451 4.3.0 text". */
static void put_answer(struct buf *to, const json_t *row)
{
    uint64_t code = ctl_json_u64(row, "code");
    struct slice enhanced = ctl_json_text(row, "enhanced");
    if (code != 0) {
        buf_put_u64(to, code);
        buf_put_byte(to, ' ');
    }
    struct slice words = ctl_json_text(row, "text");
    if (enhanced.len > 0 && !slice_starts_with(words, enhanced)) {
        buf_put(to, slice_head(enhanced, 16));
        buf_put_byte(to, ' ');
    }
    buf_put(to, slice_head(words, 4000));
}

static void say_attempts(const struct ctl *c, const json_t *row, uint64_t now_ms)
{
    char text[200];
    struct buf b;
    uint64_t attempts = ctl_json_u64(row, "attempts");
    uint64_t due_ms = ctl_json_u64(row, "due_ms");
    buf_init(&b, text, sizeof text);
    ctl_put_count(&b, attempts, "attempt", "attempts");
    if (attempts > 0 && ctl_json_u64(row, "last_ms") > 0) {
        buf_put_str(&b, ", the last one ");
        ctl_put_relative(&b, ctl_json_u64(row, "last_ms"), now_ms, false);
    }
    if (due_ms > 0) {
        bool trashed = slice_equal(ctl_json_text(row, "state"), SLICE("trashed"));
        buf_put_str(&b, trashed ? "; it goes for good " : "; the next one ");
        ctl_put_relative(&b, due_ms > now_ms ? due_ms : now_ms, now_ms, false);
    }
    ctl_say_fact(c, "Tried", buf_slice(&b));
}

static void say_envelope(const struct ctl *c, const json_t *row, uint64_t now_ms)
{
    char text[200];
    struct buf b;
    struct slice from = ctl_json_text(row, "from");
    ctl_say_fact_escaped(c, "From", from.len > 0 ? from : SLICE("<> (no sender)"));
    say_facts(c, "Subject", ctl_json_text(row, "subject"));
    buf_init(&b, text, sizeof text);
    put_instant(&b, ctl_json_u64(row, "arrived_ms"), now_ms);
    ctl_say_fact(c, "Arrived", buf_slice(&b));
    say_facts(c, "Client", ctl_json_text(row, "client"));
    say_facts(c, "Its name", ctl_json_text(row, "helo"));
    say_facts(c, "Device", ctl_json_text(row, "device"));
    buf_init(&b, text, sizeof text);
    ctl_put_size(&b, ctl_json_u64(row, "bytes"));
    size_t index;
    json_t *flag;
    json_array_foreach(json_object_get(row, "flags"), index, flag)
    {
        if (json_is_string(flag)) {
            buf_put_str(&b, ", ");
            buf_put(&b, slice_head(slice_from_str(json_string_value(flag)), 16));
        }
    }
    ctl_say_fact_escaped(c, "Size", buf_slice(&b));
    say_facts(c, "Upstream", ctl_json_text(row, "upstream"));
}

static void say_reason(const struct ctl *c, const json_t *row)
{
    char text[4096];
    struct buf b;
    struct slice reason = ctl_json_text(row, "reason");
    if (reason.len == 0 || slice_equal(reason, SLICE("none"))) {
        return;
    }
    buf_init(&b, text, sizeof text);
    put_answer(&b, row);
    say_facts(c, "Answer", buf_slice(&b));
    ctl_say_fact(c, "Meaning", ctl_json_text(row, "sentence"));
    if (ctl_json_text(row, "hint").len > 0) {
        ctl_say_fact(c, "What to do", ctl_json_text(row, "hint"));
    }
}

static void print_recipients(const struct ctl *c, const json_t *row)
{
    static const struct ctl_column columns[] = {{"RECIPIENT", 0.4, false, 0},
                                                {"STATE", 0, false, 0},
                                                {"REASON", 0, false, 0},
                                                {"ANSWER", 0.4, false, 0}};
    const json_t *recipients = json_object_get(row, "recipients");
    struct ctl_table *t = ctl_table_new(c, columns, sizeof columns / sizeof columns[0], true);
    size_t index;
    json_t *recipient;
    json_array_foreach(recipients, index, recipient)
    {
        char text[4096];
        struct buf b;
        struct slice state = ctl_json_text(recipient, "state");
        struct slice reason = ctl_json_text(recipient, "reason");
        buf_init(&b, text, sizeof text);
        put_answer(&b, recipient);
        ctl_table_line(t);
        ctl_table_cell(t, ctl_json_text(recipient, "to"), CTL_PLAIN);
        ctl_table_cell(t, state, ctl_queue_state_colour(state));
        ctl_table_cell(t, slice_equal(reason, SLICE("none")) ? SLICE("-") : reason, CTL_PLAIN);
        ctl_table_cell(t, b.len > 0 ? buf_slice(&b) : SLICE("-"), CTL_PLAIN);
    }
    if (json_array_size(recipients) > 0) {
        putchar('\n');
    }
    ctl_table_end(&t);
    uint64_t count = ctl_json_u64(row, "recipient_count");
    if (count > json_array_size(recipients) && json_array_size(recipients) > 0) {
        printf("and %llu more\n", (unsigned long long)(count - json_array_size(recipients)));
    }
}

/* One move a line: "3 min ago  deferred  main: 451 4.7.1 greylisted". */
static void print_moves(const struct ctl *c, const json_t *row, uint64_t now_ms)
{
    static const struct ctl_column columns[] = {{"WHEN", 0, false, 0},
                                                {"BECAME", 0, false, 0},
                                                {"BY", 0.2, false, 0},
                                                {"ANSWER", 0.6, false, 0}};
    const json_t *moves = json_object_get(row, "moves");
    if (json_array_size(moves) == 0) {
        return;
    }
    putchar('\n');
    struct ctl_table *t = ctl_table_new(c, columns, sizeof columns / sizeof columns[0], true);
    size_t index;
    json_t *move;
    json_array_foreach(moves, index, move)
    {
        char text[4096];
        struct buf b;
        struct slice to = ctl_json_text(move, "to");
        struct slice upstream = ctl_json_text(move, "upstream");
        struct slice cause = ctl_json_text(move, "cause");
        buf_init(&b, text, sizeof text);
        ctl_put_relative(&b, ctl_json_u64(move, "when_ms"), now_ms, false);
        ctl_table_line(t);
        ctl_table_cell(t, buf_slice(&b), CTL_PLAIN);
        ctl_table_cell(t, to, ctl_queue_state_colour(to));
        ctl_table_cell(t, upstream.len > 0 ? upstream : cause, CTL_PLAIN);
        buf_init(&b, text, sizeof text);
        put_answer(&b, move);
        ctl_table_cell(t, b.len > 0 ? buf_slice(&b) : SLICE("-"), CTL_PLAIN);
    }
    ctl_table_end(&t);
    if (ctl_json_u64(row, "moves_left_out") > 0) {
        printf("and %llu more between the first of these and the latest\n",
               (unsigned long long)ctl_json_u64(row, "moves_left_out"));
    }
}

static void say_left(const struct ctl *c, const json_t *row, uint64_t now_ms)
{
    char text[200];
    struct buf b;
    if (ctl_json_u64(row, "left_ms") == 0) {
        return;
    }
    buf_init(&b, text, sizeof text);
    put_instant(&b, ctl_json_u64(row, "left_ms"), now_ms);
    buf_put_str(&b, ", ");
    buf_put(&b, slice_head(ctl_json_text(row, "end"), 16));
    ctl_say_fact_escaped(c, "Left", buf_slice(&b));
}

static void print_message(const struct ctl *c, const json_t *row)
{
    uint64_t now_ms = ctl_now_ms();
    struct slice state = ctl_json_text(row, "state");
    enum ctl_colour colour = ctl_queue_state_colour(state);
    fputs("Message ", stdout);
    ctl_say_escaped(stdout, ctl_json_text(row, "id"));
    printf(": %s", ctl_colour_on(c, colour));
    ctl_say_escaped(stdout, state);
    printf("%s\n", ctl_colour_off(c, colour));
    if (json_object_get(row, "from") != NULL) { /* not so for one that is damaged on disk */
        say_envelope(c, row, now_ms);
        say_attempts(c, row, now_ms);
        say_left(c, row, now_ms);
    }
    say_reason(c, row);
    print_recipients(c, row);
    print_moves(c, row, now_ms);
}

/* The result of a command about the message that was named, or NULL and a problem. */
static json_t *ask(struct ctl *c, enum command command, struct ctl_problem *problem)
{
    const char *id = c->args.words[0];
    json_t *args = json_pack("{s:o}", "id", ctl_json_words(id));
    json_t *result = ctl_client_call(c, command, args, NULL, problem);
    if (result == NULL && problem->daemon_down) {
        struct ctl_problem why = *problem;
        struct ctl_offline *offline = ctl_offline_open(c, &why, true, problem);
        if (offline != NULL) {
            result = ctl_offline_message(offline, command, id, problem);
            ctl_offline_close(&offline);
        }
    }
    return result;
}

static void print_transcript(const json_t *row)
{
    const json_t *lines = json_object_get(row, "lines");
    size_t index;
    json_t *line;
    json_array_foreach(lines, index, line)
    {
        if (json_is_string(line)) {
            ctl_say_escaped(stdout, slice_of(json_string_value(line), json_string_length(line)));
            putchar('\n');
        }
    }
    if (json_array_size(lines) == 0) {
        puts("Nothing has been said to an upstream about it yet.");
    }
}

static void print_why(const struct ctl *c, const json_t *row)
{
    const json_t *facts = json_object_get(row, "facts");
    ctl_say_wrapped(c, 0, ctl_json_text(row, "sentence"));
    size_t index;
    json_t *fact;
    json_array_foreach(facts, index, fact)
    {
        if (json_is_string(fact)) {
            ctl_say_wrapped(c, 2, slice_of(json_string_value(fact), json_string_length(fact)));
        }
    }
    if (ctl_json_text(row, "hint").len > 0) {
        ctl_say_fact(c, "What to do", ctl_json_text(row, "hint"));
    }
}

typedef void print_fn(const struct ctl *c, const json_t *row);

static enum ctl_exit run(struct ctl *c, enum command command, print_fn *print)
{
    struct ctl_problem problem;
    json_t *result = ask(c, command, &problem);
    if (result == NULL) {
        return ctl_say_problem(c, &problem);
    }
    if (c->args.json) {
        ctl_say_json(result);
    } else {
        print(c, result);
    }
    json_decref(result);
    return CTL_EXIT_OK;
}

static void print_dialogue(const struct ctl *c, const json_t *row)
{
    (void)c;
    print_transcript(row);
}

enum ctl_exit ctl_show_run(struct ctl *c)
{
    return c->args.transcript ? run(c, COMMAND_TRANSCRIPT, print_dialogue)
                              : run(c, COMMAND_SHOW, print_message);
}

enum ctl_exit ctl_why_run(struct ctl *c)
{
    return run(c, COMMAND_WHY, print_why);
}
