/* test: talk to an upstream now; the dialogue, then the verdict. */
#include "ctl/ctl.h"

enum ctl_colour ctl_dialogue_colour(struct slice line)
{
    /* The letter in front says so without colours. */
    return slice_starts_with(line, SLICE("C:")) ? CTL_STRONG : CTL_PLAIN;
}

static void print_transcript(const struct ctl *c, const json_t *transcript)
{
    size_t index;
    json_t *line;
    json_array_foreach(transcript, index, line)
    {
        if (!json_is_string(line)) {
            continue;
        }
        struct slice text = slice_of(json_string_value(line), json_string_length(line));
        enum ctl_colour colour = ctl_dialogue_colour(text);
        printf("  %s", ctl_colour_on(c, colour));
        ctl_say_escaped(stdout, text);
        printf("%s\n", ctl_colour_off(c, colour));
    }
    if (json_array_size(transcript) > 0) {
        putchar('\n');
    }
}

static void print_connection(const struct ctl *c, const json_t *result)
{
    ctl_say_member(c, "Host", result, "host");
    ctl_say_member(c, "Address", result, "peer");
    ctl_say_member(c, "TLS", result, "tls");
    ctl_say_member(c, "Login by", result, "mechanism");
}

static void print_verdict(const struct ctl *c, const json_t *result)
{
    bool good = ctl_json_bool(result, "ok");
    enum ctl_colour colour = good ? CTL_GOOD : CTL_BAD;
    fputs(ctl_colour_on(c, colour), stdout);
    fputs("Upstream ", stdout);
    ctl_say_escaped(stdout, ctl_json_text(result, "upstream"));
    fputs(good ? " works" : " does not work", stdout);
    struct slice step = ctl_json_text(result, "step");
    if (!good && step.len > 0) {
        fputs(": it failed at the step \"", stdout);
        ctl_say_escaped(stdout, step);
        fputs("\"", stdout);
    }
    printf("%s (%.1f s)\n", ctl_colour_off(c, colour),
           (double)ctl_json_u64(result, "took_ms") / 1000.0);
    print_connection(c, result);
    if (good) {
        if (ctl_json_bool(result, "was_marked")) {
            ctl_say_fact(c, "Queue", SLICE("it was out of order; what waits for it is tried now"));
        }
        return;
    }
    ctl_say_reply(c, "Answer", result);
    ctl_say_fact(c, "Cause", ctl_json_text(result, "sentence"));
    struct slice hint = ctl_json_text(result, "hint");
    ctl_say_fact(c, "What to do", hint.len > 0 ? hint : SLICE("wait, then: tasukictl test"));
}

enum ctl_exit ctl_test_run(struct ctl *c)
{
    struct ctl_problem problem;
    const struct ctl_args *args = &c->args;
    const char *upstream = args->word_count > 0 ? args->words[0] : NULL;
    json_t *wanted = json_object();
    if (upstream != NULL) {
        json_object_set_new(wanted, "upstream", ctl_json_words(upstream));
    }
    if (args->to != NULL) {
        json_object_set_new(wanted, "to", ctl_json_words(args->to));
    }
    if (args->from != NULL) {
        json_object_set_new(wanted, "from", ctl_json_words(args->from));
    }
    json_t *result = ctl_client_call(c, COMMAND_TEST, wanted,
                                     upstream != NULL ? upstream : "the upstream", &problem);
    if (result == NULL) {
        return ctl_say_problem(c, &problem);
    }
    enum ctl_exit code = ctl_json_bool(result, "ok") ? CTL_EXIT_OK : CTL_EXIT_NO;
    if (args->json) {
        ctl_say_json(result);
    } else {
        print_transcript(c, json_object_get(result, "transcript"));
        print_verdict(c, result);
    }
    json_decref(result);
    return code;
}
