/* show: all about one message, from the daemon or from disk. */
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
    if (enhanced.len > 0) {
        buf_put(to, slice_head(enhanced, 16));
        buf_put_byte(to, ' ');
    }
    buf_put(to, slice_head(ctl_json_text(row, "text"), 4000));
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
    if (due_ms > 0 && slice_equal(ctl_json_text(row, "state"), SLICE("queued"))) {
        buf_put_str(&b, "; the next one ");
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
    }
    say_reason(c, row);
    print_recipients(c, row);
}

enum ctl_exit ctl_show_run(struct ctl *c)
{
    struct ctl_problem problem;
    const char *id = c->args.words[0];
    json_t *args = json_pack("{s:o}", "id", ctl_json_words(id));
    json_t *result = ctl_client_call(c, COMMAND_SHOW, args, NULL, &problem);
    if (result == NULL && problem.daemon_down) {
        struct ctl_problem why = problem;
        struct ctl_offline *offline = ctl_offline_open(c, &why, true, &problem);
        if (offline != NULL) {
            result = ctl_offline_show(offline, id, &problem);
            ctl_offline_close(&offline);
        }
    }
    if (result == NULL) {
        return ctl_say_problem(c, &problem);
    }
    if (c->args.json) {
        ctl_say_json(result);
    } else {
        print_message(c, result);
    }
    json_decref(result);
    return CTL_EXIT_OK;
}
