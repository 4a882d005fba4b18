/* schema/view: the JSON of one message, read back with jansson, which is what its readers use. */
#include "schema/view.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>
#include <jansson.h>

static uint8_t list_memory[64 * 1024];
static uint8_t fate_memory[64 * 1024];

struct sample {
    struct msg_id id;
    struct record_envelope envelope;
    struct record_state state;
    struct buf paths, fates;
};

static void sample_init(struct sample *s)
{
    *s = (struct sample){0};
    buf_init(&s->paths, list_memory, sizeof list_memory);
    buf_init(&s->fates, fate_memory, sizeof fate_memory);
    s->id = msg_id_make(UINT64_C(1795508794123) << 16 | 7, 3);
    s->envelope = (struct record_envelope){
        .arrived_ms = 1795508794123,
        .body_bytes = UINT64_C(1) << 40,
        .chunk_count = 17,
        .flags = RECORD_FLAG_8BITMIME | RECORD_FLAG_SMTPUTF8,
        .client = SLICE("192.168.1.50"),
        .helo = SLICE("<b>\"\\\x1b"),
        .device = SLICE("canon"),
        .subject = SLICE("\xe3\x82\xb9 \xff end"),
        .sender = SLICE("a@b"),
    };
    s->state = (struct record_state){
        .state = MESSAGE_QUEUED,
        .due_ms = 1795508900000,
        .attempts = 2,
        .last_ms = 1795508800000,
        .upstream = SLICE("main"),
    };
}

static void add(struct sample *s, const char *path, struct record_recipient fate)
{
    record_recipient_put(&s->paths, slice_from_str(path));
    record_fate_put(&s->fates, &fate);
    s->envelope.recipients = buf_slice(&s->paths);
    s->state.recipients = buf_slice(&s->fates);
    s->envelope.recipient_count++;
    s->state.recipient_count++;
}

typedef void view_fn(struct json *j, const struct msg_id *id,
                     const struct record_envelope *envelope, const struct record_state *state,
                     bool sending);

/* The whole output as one JSON object, strictly read. */
static json_t *view(const struct sample *s, view_fn *put, bool sending)
{
    uint8_t *memory = malloc(VIEW_MESSAGE_BYTES_MAX);
    assert_non_null(memory);
    struct buf to;
    struct json j;
    buf_init(&to, memory, VIEW_MESSAGE_BYTES_MAX);
    json_init(&j, &to);
    put(&j, &s->id, &s->envelope, &s->state, sending);
    assert_false(to.overflow);
    assert_int_equal(j.depth, 0);
    json_error_t error;
    json_t *root =
        json_loadb((const char *)to.data, to.len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    if (root == NULL) {
        fail_msg("%s at %d", error.text, error.position);
    }
    assert_true(json_is_object(root));
    free(memory);
    return root;
}

static void assert_text(json_t *object, const char *key, const char *expected)
{
    json_t *value = json_object_get(object, key);
    if (!json_is_string(value)) {
        fail_msg("no text %s", key);
    }
    assert_string_equal(json_string_value(value), expected);
}

static void assert_number(json_t *object, const char *key, json_int_t expected)
{
    json_t *value = json_object_get(object, key);
    if (!json_is_integer(value)) {
        fail_msg("no number %s", key);
    }
    assert_true(json_integer_value(value) == expected);
}

static const struct record_recipient untried = {.state = RECIPIENT_QUEUED};
static const struct record_recipient deferred = {.state = RECIPIENT_QUEUED,
                                                 .outcome = OUTCOME_DEFERRED,
                                                 .code = 451,
                                                 .enhanced = {4, 3, 0},
                                                 .text = {(const uint8_t *)"try\r\nlater", 10}};
static const struct record_recipient delivered = {
    .state = RECIPIENT_DELIVERED, .outcome = OUTCOME_DELIVERED, .code = 250};
static const struct record_recipient refused = {.state = RECIPIENT_FAILED,
                                                .outcome = OUTCOME_NO_SUCH_RECIPIENT,
                                                .code = 550,
                                                .enhanced = {5, 7, 708},
                                                .text = {(const uint8_t *)"who?", 4}};
static const struct record_recipient too_large = {
    .state = RECIPIENT_FAILED, .outcome = OUTCOME_TOO_LARGE, .code = 552};

static void row_has_all_members(void **ctx)
{
    (void)ctx;
    struct sample s;
    sample_init(&s);
    add(&s, "c@d", deferred);
    json_t *row = view(&s, view_put_row, false);
    char id[MSG_ID_TEXT_BYTES + 1] = "";
    struct buf text;
    buf_init(&text, id, MSG_ID_TEXT_BYTES);
    msg_id_put_text(&text, &s.id);
    assert_text(row, "id", id);
    assert_text(row, "state", "queued");
    assert_text(row, "from", "a@b");
    json_t *to = json_object_get(row, "to");
    assert_int_equal(json_array_size(to), 1);
    assert_string_equal(json_string_value(json_array_get(to, 0)), "c@d");
    assert_number(row, "recipient_count", 1);
    assert_number(row, "bytes", (json_int_t)1 << 40);
    assert_number(row, "arrived_ms", 1795508794123);
    assert_text(row, "client", "192.168.1.50");
    assert_text(row, "device", "canon");
    assert_text(row, "subject", "\xe3\x82\xb9 \xef\xbf\xbd end");
    assert_text(row, "upstream", "main");
    assert_number(row, "attempts", 2);
    assert_number(row, "due_ms", 1795508900000);
    assert_number(row, "last_ms", 1795508800000);
    assert_text(row, "reason", "deferred");
    assert_text(row, "sentence", "the upstream asks to try again later");
    assert_text(row, "hint", "");
    assert_number(row, "code", 451);
    assert_text(row, "enhanced", "4.3.0");
    assert_text(row, "text", "try\r\nlater");
    assert_int_equal(json_object_size(row), 20);
    json_decref(row);
}

static void state_word_follows_the_message(void **ctx)
{
    (void)ctx;
    struct sample s;
    sample_init(&s);
    add(&s, "c@d", untried);
    static const struct {
        enum message_state state;
        bool sending;
        const char *word;
        json_int_t due_ms;
    } rows[] = {{MESSAGE_QUEUED, false, "queued", 1795508900000},
                {MESSAGE_QUEUED, true, "sending", 1795508900000},
                {MESSAGE_HELD, false, "held", 0},
                {MESSAGE_FAILED, false, "failed", 0}};
    for (size_t index = 0; index < sizeof rows / sizeof rows[0]; index++) {
        s.state.state = rows[index].state;
        json_t *row = view(&s, view_put_row, rows[index].sending);
        assert_text(row, "state", rows[index].word);
        assert_number(row, "due_ms", rows[index].due_ms);
        json_decref(row);
        json_t *message = view(&s, view_put_message, rows[index].sending);
        assert_text(message, "state", rows[index].word);
        json_decref(message);
    }
}

static void worst_recipient_speaks_for_the_message(void **ctx)
{
    (void)ctx;
    static const struct {
        const struct record_recipient *fates[4];
        const char *reason;
    } rows[] = {
        {{&untried}, "none"},
        {{&delivered, &untried}, "none"},
        {{&untried, &deferred, &delivered}, "deferred"},
        {{&deferred, &refused, &delivered}, "no-such-recipient"},
        {{&delivered, &refused, &too_large}, "no-such-recipient"},
        {{&too_large, &refused}, "too-large"},
        {{&delivered}, "delivered"},
    };
    for (size_t index = 0; index < sizeof rows / sizeof rows[0]; index++) {
        struct sample s;
        sample_init(&s);
        for (size_t at = 0; at < 4 && rows[index].fates[at] != NULL; at++) {
            add(&s, "c@d", *rows[index].fates[at]);
        }
        json_t *row = view(&s, view_put_row, false);
        assert_text(row, "reason", rows[index].reason);
        json_decref(row);
    }
}

static void never_tried_has_no_answer(void **ctx)
{
    (void)ctx;
    struct sample s;
    sample_init(&s);
    add(&s, "c@d", untried);
    s.envelope.sender = SLICE("");
    json_t *row = view(&s, view_put_row, false);
    assert_text(row, "from", "");
    assert_text(row, "reason", "none");
    assert_text(row, "enhanced", "");
    assert_text(row, "text", "");
    assert_number(row, "code", 0);
    json_decref(row);
}

static void show_has_each_recipient(void **ctx)
{
    (void)ctx;
    struct sample s;
    sample_init(&s);
    add(&s, "c@d", delivered);
    add(&s, "e@f", refused);
    add(&s, "g@h", untried);
    json_t *message = view(&s, view_put_message, false);
    assert_int_equal(json_object_size(message), 24);
    assert_text(message, "reason", "no-such-recipient");
    assert_text(message, "helo", "<b>\"\\\x1b");
    assert_number(message, "chunks", 17);
    json_t *flags = json_object_get(message, "flags");
    assert_int_equal(json_array_size(flags), 2);
    assert_string_equal(json_string_value(json_array_get(flags, 0)), "8bitmime");
    assert_string_equal(json_string_value(json_array_get(flags, 1)), "smtputf8");
    json_t *recipients = json_object_get(message, "recipients");
    assert_int_equal(json_array_size(recipients), 3);
    static const struct {
        const char *to, *state, *reason, *enhanced;
    } rows[] = {{"c@d", "delivered", "delivered", ""},
                {"e@f", "failed", "no-such-recipient", "5.7.708"},
                {"g@h", "queued", "none", ""}};
    for (size_t index = 0; index < 3; index++) {
        json_t *recipient = json_array_get(recipients, index);
        assert_int_equal(json_object_size(recipient), 8);
        assert_text(recipient, "to", rows[index].to);
        assert_text(recipient, "state", rows[index].state);
        assert_text(recipient, "reason", rows[index].reason);
        assert_text(recipient, "enhanced", rows[index].enhanced);
    }
    assert_text(json_array_get(recipients, 1), "text", "who?");
    assert_text(json_array_get(recipients, 1), "hint", "Check the address; then delete it.");
    assert_number(json_array_get(recipients, 1), "code", 550);
    json_decref(message);
}

static void long_lists_are_cut(void **ctx)
{
    (void)ctx;
    struct sample s;
    sample_init(&s);
    for (size_t count = 0; count < VIEW_RECIPIENTS_SHOW_MAX + 1; count++) {
        add(&s, "c@d", count == VIEW_RECIPIENTS_SHOW_MAX ? refused : untried);
    }
    json_t *message = view(&s, view_put_message, false);
    assert_int_equal(json_array_size(json_object_get(message, "to")), VIEW_RECIPIENTS_ROW_MAX);
    assert_int_equal(json_array_size(json_object_get(message, "recipients")),
                     VIEW_RECIPIENTS_SHOW_MAX);
    assert_number(message, "recipient_count", VIEW_RECIPIENTS_SHOW_MAX + 1);
    assert_text(message, "reason", "no-such-recipient"); /* also one that is not listed */
    json_decref(message);
}

/* The bound that callers size their buffers by holds where every byte has to be escaped. */
static void largest_row_fits_its_bound(void **ctx)
{
    (void)ctx;
    static uint8_t escapes[4096];
    memset(escapes, 0x01, sizeof escapes);
    struct sample s;
    sample_init(&s);
    s.envelope.client = slice_of(escapes, RECORD_CLIENT_BYTES_MAX);
    s.envelope.helo = slice_of(escapes, RECORD_HELO_BYTES_MAX);
    s.envelope.device = slice_of(escapes, RECORD_DEVICE_BYTES_MAX);
    s.envelope.subject = slice_of(escapes, RECORD_SUBJECT_BYTES_MAX);
    s.envelope.sender = slice_of(escapes, SMTP_PATH_BYTES_MAX);
    s.envelope.arrived_ms = s.envelope.body_bytes = s.state.due_ms = s.state.last_ms = UINT64_MAX;
    s.envelope.flags = RECORD_FLAGS_KNOWN;
    s.envelope.chunk_count = s.state.attempts = UINT32_MAX;
    s.state.upstream = slice_of(escapes, UPSTREAM_NAME_BYTES_MAX);
    char path[SMTP_PATH_BYTES_MAX + 1];
    memset(path, 0x01, sizeof path - 1);
    path[sizeof path - 1] = '\0';
    /* The reason with the most words. */
    enum outcome longest = OUTCOME_NONE;
    size_t longest_bytes = 0;
    for (unsigned outcome = 0; outcome < OUTCOME_COUNT; outcome++) {
        const struct outcome_row *row = outcome_row((enum outcome)outcome);
        size_t bytes = strlen(row->word) + strlen(row->sentence) + strlen(row->hint);
        if (bytes > longest_bytes) {
            longest_bytes = bytes;
            longest = (enum outcome)outcome;
        }
    }
    for (size_t count = 0; count < 100; count++) {
        add(&s, path,
            (struct record_recipient){.state = RECIPIENT_FAILED,
                                      .outcome = longest,
                                      .code = 999,
                                      .enhanced = {999, 999, 999},
                                      .text = slice_of(escapes, RECORD_REPLY_TEXT_BYTES_MAX)});
    }
    s.envelope.recipient_count = JOB_RECIPIENTS_MAX;
    uint8_t *memory = malloc(VIEW_MESSAGE_BYTES_MAX);
    assert_non_null(memory);
    struct buf to;
    struct json j;
    buf_init(&to, memory, VIEW_ROW_BYTES_MAX);
    json_init(&j, &to);
    view_put_row(&j, &s.id, &s.envelope, &s.state, true);
    assert_false(to.overflow);
    /* For a message one recipient is weighed, and a thousand of it have to fit. */
    size_t row_bytes = to.len;
    buf_init(&to, memory, VIEW_MESSAGE_BYTES_MAX);
    json_init(&j, &to);
    view_put_message(&j, &s.id, &s.envelope, &s.state, true);
    assert_false(to.overflow);
    size_t recipients_bytes = to.len - row_bytes;
    assert_true(row_bytes + recipients_bytes * (VIEW_RECIPIENTS_SHOW_MAX / 100) <=
                VIEW_MESSAGE_BYTES_MAX +
                    RECORD_HELO_BYTES_MAX * VIEW_TEXT_FACTOR * (VIEW_RECIPIENTS_SHOW_MAX / 100));
    free(memory);
}

static void too_small_a_buffer_says_so(void **ctx)
{
    (void)ctx;
    struct sample s;
    sample_init(&s);
    add(&s, "c@d", deferred);
    uint8_t memory[1024];
    for (size_t room = 0; room < 200; room++) {
        struct buf to;
        struct json j;
        buf_init(&to, memory, room);
        json_init(&j, &to);
        view_put_row(&j, &s.id, &s.envelope, &s.state, false);
        assert_true(to.overflow);
    }
}

static void rows_stand_in_an_array(void **ctx)
{
    (void)ctx;
    struct sample s;
    sample_init(&s);
    add(&s, "c@d", deferred);
    static uint8_t memory[8192];
    struct buf to;
    struct json j;
    buf_init(&to, memory, sizeof memory);
    json_init(&j, &to);
    json_open_object(&j, NULL);
    json_open_array(&j, "messages");
    for (size_t count = 0; count < 3; count++) {
        view_put_row(&j, &s.id, &s.envelope, &s.state, false);
    }
    json_close_array(&j);
    json_put_null(&j, "cursor");
    json_close_object(&j);
    json_t *root = json_loadb((const char *)to.data, to.len, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(root);
    assert_int_equal(json_array_size(json_object_get(root, "messages")), 3);
    assert_true(json_is_null(json_object_get(root, "cursor")));
    json_decref(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(row_has_all_members),
        cmocka_unit_test(state_word_follows_the_message),
        cmocka_unit_test(worst_recipient_speaks_for_the_message),
        cmocka_unit_test(never_tried_has_no_answer),
        cmocka_unit_test(show_has_each_recipient),
        cmocka_unit_test(long_lists_are_cut),
        cmocka_unit_test(largest_row_fits_its_bound),
        cmocka_unit_test(too_small_a_buffer_says_so),
        cmocka_unit_test(rows_stand_in_an_array),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
