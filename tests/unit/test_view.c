/* schema/view: the JSON of one message, read back with jansson, which is what its readers use. */
#include "schema/view.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>
#include <jansson.h>

/* The queue's clock is an hour behind. */
#define WALL_MINUS_Q 3600000

static uint8_t list_memory[64 * 1024];
static uint8_t fate_memory[64 * 1024];
static uint8_t moves_memory[RECORD_TRAIL_BYTES_MAX];

struct sample {
    struct msg_id id;
    struct record_envelope envelope;
    struct record_state state;
    struct buf paths, fates, moves;
    struct record_history history; /* of use where `left` */
    struct record_trail trail;
    bool left;
    enum playbook_provider provider;
    bool upstream_stuck;
};

static void sample_init(struct sample *s)
{
    *s = (struct sample){0};
    buf_init(&s->paths, list_memory, sizeof list_memory);
    buf_init(&s->fates, fate_memory, sizeof fate_memory);
    buf_init(&s->moves, moves_memory, sizeof moves_memory);
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
        .due_q = 1795508900000 - WALL_MINUS_Q,
        .attempts = 2,
        .last_q = 1795508800000 - WALL_MINUS_Q,
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

typedef void view_fn(struct json *j, const struct record_message *message, int64_t wall_minus_q);

static void add_move(struct sample *s, struct record_move move)
{
    record_move_put(&s->moves, &move);
    assert_false(s->moves.overflow);
    s->trail.moves = buf_slice(&s->moves);
    s->trail.move_count++;
}

static struct record_message whole(const struct sample *s, bool sending)
{
    return (struct record_message){.id = s->id,
                                   .envelope = s->envelope,
                                   .state = s->state,
                                   .leased = sending,
                                   .provider = s->provider,
                                   .upstream_stuck = s->upstream_stuck,
                                   .history = s->left ? &s->history : NULL,
                                   .trail = s->trail.move_count > 0 ? &s->trail : NULL};
}

/* The whole output as one JSON object, strictly read. */
static json_t *view(const struct sample *s, view_fn *put, bool sending)
{
    uint8_t *memory = malloc(VIEW_MESSAGE_BYTES_MAX);
    assert_non_null(memory);
    struct buf to;
    struct json j;
    buf_init(&to, memory, VIEW_MESSAGE_BYTES_MAX);
    json_init(&j, &to);
    const struct record_message message = whole(s, sending);
    put(&j, &message, WALL_MINUS_Q);
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

static void put_row(struct json *j, const struct sample *s, bool sending)
{
    const struct record_message message = whole(s, sending);
    view_put_row(j, &message, 0);
}

static void put_message(struct json *j, const struct sample *s, bool sending)
{
    const struct record_message message = whole(s, sending);
    view_put_message(j, &message, 0);
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
static const struct record_recipient deferred = {.state = RECIPIENT_DEFERRED,
                                                 .outcome = OUTCOME_DEFERRED,
                                                 .code = 451,
                                                 .enhanced = {4, 3, 0},
                                                 .text = {(const uint8_t *)"try\r\nlater", 10}};
static const struct record_recipient in_doubt = {.state = RECIPIENT_IN_DOUBT,
                                                 .outcome = OUTCOME_IN_DOUBT};
static const struct record_recipient delivered = {
    .state = RECIPIENT_DELIVERED, .outcome = OUTCOME_DELIVERED, .code = 250};
static const struct record_recipient taken = {.state = RECIPIENT_DELIVERED,
                                              .outcome = OUTCOME_DELIVERED,
                                              .code = 250,
                                              .text = {(const uint8_t *)"2.0.0 Ok", 8}};
static const struct record_recipient refused = {.state = RECIPIENT_FAILED,
                                                .outcome = OUTCOME_NO_SUCH_RECIPIENT,
                                                .code = 550,
                                                .enhanced = {5, 7, 708},
                                                .text = {(const uint8_t *)"who?", 4}};
static const struct record_recipient too_large = {
    .state = RECIPIENT_FAILED, .outcome = OUTCOME_TOO_LARGE, .code = 552};

/* What has left waits for nobody. */
static void row_says_that_the_upstream_is_stuck(void **ctx)
{
    (void)ctx;
    for (unsigned at = 0; at < 2; at++) {
        struct sample s;
        sample_init(&s);
        add(&s, "c@d", deferred);
        s.upstream_stuck = true;
        s.left = at == 1;
        json_t *row = view(&s, view_put_row, false);
        assert_int_equal(json_is_true(json_object_get(row, "upstream_stuck")), at == 0);
        json_decref(row);
    }
}

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
    assert_text(row, "state", "deferred");
    assert_text(row, "in", "queue");
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
    assert_true(json_is_false(json_object_get(row, "upstream_stuck")));
    assert_number(row, "attempts", 2);
    assert_number(row, "due_ms", 1795508900000);
    assert_number(row, "last_ms", 1795508800000);
    assert_text(row, "reason", "deferred");
    assert_text(row, "sentence", "the upstream asks to try again later");
    assert_text(row, "hint", "");
    assert_number(row, "code", 451);
    assert_text(row, "enhanced", "4.3.0");
    assert_text(row, "text", "try\r\nlater");
    assert_int_equal(json_object_size(row), 22);
    json_decref(row);
}

static void state_word_follows_the_message(void **ctx)
{
    (void)ctx;
    static const struct {
        enum message_state state;
        bool sending;
        uint16_t flags;
        const char *word;
        json_int_t due_ms;
    } rows[] = {{MESSAGE_QUEUED, false, 0, "queued", 1795508900000},
                {MESSAGE_QUEUED, true, 0, "sending", 1795508900000},
                {MESSAGE_HELD, false, 0, "held", 0},
                {MESSAGE_TRASHED, false, 0, "trashed", 1795508900000},
                {MESSAGE_FAILED, false, 0, "failed", 0},
                {MESSAGE_FAILED, false, RECORD_STATE_AWAITS_DIGEST, "failed", 1795508900000}};
    for (size_t index = 0; index < sizeof rows / sizeof rows[0]; index++) {
        struct sample s;
        sample_init(&s);
        add(&s, "c@d", rows[index].state == MESSAGE_FAILED ? refused : untried);
        s.state.state = rows[index].state;
        s.state.flags = rows[index].flags;
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
        const char *reason, *state;
    } rows[] = {
        {{&untried}, "none", "queued"},
        {{&delivered, &untried}, "none", "queued"},
        {{&untried, &deferred, &delivered}, "deferred", "deferred"},
        {{&deferred, &in_doubt, &untried}, "in-doubt", "in-doubt"},
        {{&in_doubt, &refused, &delivered}, "no-such-recipient", "failed"},
        {{&delivered, &refused, &too_large}, "no-such-recipient", "failed"},
        {{&too_large, &refused}, "too-large", "failed"},
        {{&delivered}, "delivered", "delivered"},
    };
    for (size_t index = 0; index < sizeof rows / sizeof rows[0]; index++) {
        struct sample s;
        sample_init(&s);
        for (size_t at = 0; at < 4 && rows[index].fates[at] != NULL; at++) {
            add(&s, "c@d", *rows[index].fates[at]);
        }
        json_t *row = view(&s, view_put_row, false);
        assert_text(row, "reason", rows[index].reason);
        assert_text(row, "state", rows[index].state);
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
    assert_int_equal(json_object_size(message), 29);
    assert_text(message, "reason", "no-such-recipient");
    assert_text(message, "helo", "<b>\"\\\x1b");
    assert_number(message, "chunks", 17);
    assert_text(message, "envid", "");
    assert_number(message, "moves_left_out", 0);
    assert_int_equal(json_array_size(json_object_get(message, "moves")), 0);
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
        assert_int_equal(json_object_size(recipient), 10);
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
    s.envelope.arrived_ms = s.envelope.body_bytes = s.state.due_q = s.state.last_q = UINT64_MAX;
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
    put_row(&j, &s, true);
    assert_false(to.overflow);
    /* For a message one recipient is weighed, and a thousand of it have to fit. */
    size_t row_bytes = to.len;
    buf_init(&to, memory, VIEW_MESSAGE_BYTES_MAX);
    json_init(&j, &to);
    put_message(&j, &s, true);
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
        put_row(&j, &s, false);
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
        put_row(&j, &s, false);
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

/* ---- who is to be told, and was ---- */

static void assert_words(json_t *object, const char *key, const char *expected)
{
    char memory[100];
    struct buf words;
    size_t index;
    json_t *word;
    buf_init(&words, memory, sizeof memory - 1);
    assert_true(json_is_array(json_object_get(object, key)));
    json_array_foreach(json_object_get(object, key), index, word)
    {
        buf_put_str(&words, index > 0 ? " " : "");
        buf_put_str(&words, json_string_value(word));
    }
    memory[words.len] = '\0';
    assert_string_equal(memory, expected);
}

static void show_says_who_is_told(void **ctx)
{
    (void)ctx;
    static const struct {
        uint8_t notify, told;
        const char *notify_words, *told_words;
    } rows[] = {
        {0, 0, "", ""},
        {RECORD_NOTIFY_NEVER, 0, "never", ""},
        {RECORD_NOTIFY_FAILURE | RECORD_NOTIFY_DELAY, RECORD_FATE_TOLD_DELAY, "failure delay",
         "delay"},
        {RECORD_NOTIFY_SUCCESS, RECORD_FATE_TOLD_SUCCESS, "success", "success"},
        {RECORD_NOTIFY_SUCCESS | RECORD_NOTIFY_FAILURE | RECORD_NOTIFY_DELAY,
         RECORD_FATE_FLAGS_KNOWN, "success failure delay", "failed delay success"},
    };
    struct sample s;
    sample_init(&s);
    for (size_t index = 0; index < sizeof rows / sizeof rows[0]; index++) {
        struct record_recipient fate = refused;
        fate.flags = rows[index].told;
        record_rcpt_put(&s.paths, &(struct record_rcpt){.path = SLICE("c@d"),
                                                        .notify = rows[index].notify,
                                                        .orcpt = SLICE("rfc822;c@d")});
        record_fate_put(&s.fates, &fate);
        s.envelope.recipient_count++;
    }
    s.envelope.recipients = buf_slice(&s.paths);
    s.state.recipients = buf_slice(&s.fates);
    s.envelope.flags = RECORD_FLAGS_KNOWN;
    s.envelope.envid = SLICE("QQ314159");
    json_t *message = view(&s, view_put_message, false);
    json_t *recipients = json_object_get(message, "recipients");
    assert_int_equal(json_array_size(recipients), sizeof rows / sizeof rows[0]);
    for (size_t index = 0; index < sizeof rows / sizeof rows[0]; index++) {
        assert_words(json_array_get(recipients, index), "notify", rows[index].notify_words);
        assert_words(json_array_get(recipients, index), "told", rows[index].told_words);
    }
    assert_words(message, "flags", "8bitmime 8bit smtputf8 report digest ret-full ret-hdrs");
    assert_text(message, "envid", "QQ314159");
    json_decref(message);
}

/* ---- moves and the history ---- */

static const struct record_move greylisted = {.when_ms = 1795508800000,
                                              .cause = RECORD_CAUSE_ATTEMPT,
                                              .from = LIFECYCLE_SENDING,
                                              .to = LIFECYCLE_DEFERRED,
                                              .outcome = OUTCOME_DEFERRED,
                                              .code = 451,
                                              .enhanced = {4, 7, 1},
                                              .first = 0,
                                              .count = 1,
                                              .connection = 17,
                                              .duration_ms = 120,
                                              .upstream = {(const uint8_t *)"main", 4},
                                              .peer = {(const uint8_t *)"192.0.2.1:587", 13},
                                              .tls = {(const uint8_t *)"TLSv1.3", 7},
                                              .text = {(const uint8_t *)"4.7.1 grey\x1b", 11}};
static const struct record_move held_by_somebody = {.when_ms = 1795508801000,
                                                    .cause = RECORD_CAUSE_OPERATOR,
                                                    .from = LIFECYCLE_DEFERRED,
                                                    .to = LIFECYCLE_HELD,
                                                    .count = 3,
                                                    .uid = 1000,
                                                    .text = {(const uint8_t *)"too early", 9}};

static void moves_are_shown_in_order(void **ctx)
{
    (void)ctx;
    struct sample s;
    sample_init(&s);
    add(&s, "c@d", deferred);
    add_move(&s, greylisted);
    add_move(&s, held_by_somebody);
    s.trail.moves_left_out = 5;
    json_t *message = view(&s, view_put_message, false);
    json_t *moves = json_object_get(message, "moves");
    assert_int_equal(json_array_size(moves), 2);
    assert_number(message, "moves_left_out", 5);
    json_t *first = json_array_get(moves, 0), *second = json_array_get(moves, 1);
    assert_int_equal(json_object_size(first), 17);
    assert_number(first, "when_ms", 1795508800000);
    assert_text(first, "cause", "attempt");
    assert_text(first, "from", "sending");
    assert_text(first, "to", "deferred");
    assert_text(first, "reason", "deferred");
    assert_text(first, "sentence", "the upstream asks to try again later");
    assert_number(first, "code", 451);
    assert_text(first, "enhanced", "4.7.1");
    assert_number(first, "first", 0);
    assert_number(first, "count", 1);
    assert_number(first, "connection", 17);
    assert_number(first, "took_ms", 120);
    assert_text(first, "upstream", "main");
    assert_text(first, "peer", "192.0.2.1:587");
    assert_text(first, "tls", "TLSv1.3");
    assert_text(first, "text", "4.7.1 grey\x1b");
    assert_text(second, "cause", "operator");
    assert_text(second, "to", "held");
    assert_text(second, "reason", "none");
    assert_text(second, "sentence", "");
    assert_number(second, "count", 3);
    assert_number(second, "uid", 1000);
    assert_text(second, "text", "too early");
    json_decref(message);
    json_t *row = view(&s, view_put_row, false);
    assert_null(json_object_get(row, "moves")); /* lists stay short */
    json_decref(row);
}

/* What has left: no due time, never sending, each recipient as it ended. */
static void history_row_says_how_it_ended(void **ctx)
{
    (void)ctx;
    static const struct {
        enum record_end end;
        const struct record_recipient *fate;
        const char *word, *state;
    } rows[] = {{RECORD_END_DELIVERED, &delivered, "delivered", "delivered"},
                {RECORD_END_REPORTED, &refused, "reported", "failed"},
                {RECORD_END_DELETED, &deferred, "deleted", "deferred"},
                {RECORD_END_DISCARDED, &refused, "discarded", "failed"}};
    for (size_t index = 0; index < sizeof rows / sizeof rows[0]; index++) {
        struct sample s;
        sample_init(&s);
        add(&s, "c@d", *rows[index].fate);
        s.left = true;
        s.history = (struct record_history){.left_ms = 1795508900001, .end = rows[index].end};
        s.state.state = MESSAGE_TRASHED; /* as its last record was */
        json_t *row = view(&s, view_put_row, false);
        assert_int_equal(json_object_size(row), 24);
        assert_text(row, "in", "history");
        assert_text(row, "end", rows[index].word);
        assert_text(row, "state", rows[index].state);
        assert_number(row, "left_ms", 1795508900001);
        assert_number(row, "due_ms", 0);
        json_decref(row);
        json_t *message = view(&s, view_put_message, false);
        assert_text(message, "in", "history");
        assert_text(json_array_get(json_object_get(message, "recipients"), 0), "state",
                    rows[index].state);
        json_decref(message);
    }
}

/* As much as one move may need, in words as in JSON, stays within what its callers have room for.
 */
static void largest_moves_fit_their_bound(void **ctx)
{
    (void)ctx;
    static uint8_t escapes[RECORD_MOVE_TEXT_BYTES_MAX];
    memset(escapes, 0x01, sizeof escapes);
    struct sample s;
    sample_init(&s);
    add(&s, "c@d", deferred);
    json_t *bare = view(&s, view_put_message, false);
    size_t bare_bytes = json_dumpb(bare, NULL, 0, JSON_COMPACT);
    json_decref(bare);
    for (unsigned outcome = 0; outcome < OUTCOME_COUNT; outcome++) {
        struct record_move largest = greylisted;
        largest.when_ms = largest.connection = UINT64_MAX;
        largest.first = largest.count = largest.duration_ms = largest.uid = UINT32_MAX;
        largest.outcome = (enum outcome)outcome;
        largest.code = largest.enhanced[0] = largest.enhanced[1] = largest.enhanced[2] = 999;
        largest.upstream = slice_of(escapes, UPSTREAM_NAME_BYTES_MAX);
        largest.peer = slice_of(escapes, RECORD_PEER_BYTES_MAX);
        largest.tls = slice_of(escapes, RECORD_TLS_BYTES_MAX);
        largest.text = slice_of(escapes, RECORD_MOVE_TEXT_BYTES_MAX);
        buf_reset(&s.moves);
        s.trail.move_count = 0;
        while (s.trail.move_count < RECORD_TRAIL_MOVES_MAX) {
            add_move(&s, largest);
        }
        struct record_message message = whole(&s, false);
        uint8_t *memory = malloc(VIEW_MESSAGE_BYTES_MAX);
        assert_non_null(memory);
        struct buf to;
        struct json j;
        buf_init(&to, memory, VIEW_MESSAGE_BYTES_MAX);
        json_init(&j, &to);
        view_put_message(&j, &message, WALL_MINUS_Q);
        assert_false(to.overflow);
        assert_true(to.len - bare_bytes <= RECORD_TRAIL_MOVES_MAX * VIEW_MOVE_BYTES_MAX);
        buf_init(&to, memory, VIEW_MOVE_BYTES_MAX);
        view_put_move_line(&to, &message, &largest, 0);
        assert_false(to.overflow);
        free(memory);
    }
}

/* ---- in words ---- */

#define NOW_MS UINT64_C(1795508840000)

static void assert_move_line_by(enum playbook_provider provider, struct record_move move,
                                const char *expected)
{
    char memory[VIEW_WHY_BYTES + 1];
    struct buf to;
    buf_init(&to, memory, sizeof memory - 1);
    const struct record_message message = {.state.upstream = SLICE("main"), .provider = provider};
    view_put_move_line(&to, &message, &move, NOW_MS);
    assert_false(to.overflow);
    memory[to.len] = '\0';
    assert_string_equal(memory, expected);
}

static void assert_move_line(struct record_move move, const char *expected)
{
    assert_move_line_by(PLAYBOOK_NONE, move, expected);
}

static void a_move_in_words(void **ctx)
{
    (void)ctx;
    assert_move_line(greylisted,
                     "40 s ago: deferred by main, the upstream asks to try again later: "
                     "451 4.7.1 grey\\x1b (connection 17, 120 ms)");
    assert_move_line(held_by_somebody, "39 s ago: 3 recipients held by uid 1000: too early");
    struct record_move move = held_by_somebody;
    move.when_ms = NOW_MS + 5; /* a wall clock that was set back */
    move.text = SLICE("");
    move.count = 1;
    assert_move_line(move, "just now: held by uid 1000");
    move = (struct record_move){.when_ms = NOW_MS - 7200000,
                                .cause = RECORD_CAUSE_REPORTED,
                                .from = LIFECYCLE_FAILED,
                                .to = LIFECYCLE_FAILED,
                                .count = 1};
    assert_move_line(move, "2 h ago: reported");
    move = greylisted;
    move.to = LIFECYCLE_DELIVERED;
    move.outcome = OUTCOME_DELIVERED;
    move.code = 250;
    move.text = SLICE("2.0.0 Ok");
    assert_move_line(move, "40 s ago: delivered by main: 250 2.0.0 Ok (connection 17, 120 ms)");
}

static void assert_why(const struct sample *s, bool sending, const char *expected)
{
    char sentence[VIEW_WHY_BYTES];
    const struct record_message message = whole(s, sending);
    memset(sentence, 'x', sizeof sentence);
    view_why(&message, WALL_MINUS_Q, NOW_MS, sentence);
    assert_string_equal(sentence, expected);
}

static void why_a_message_waits(void **ctx)
{
    (void)ctx;
    struct sample s;
    sample_init(&s);
    add(&s, "c@d", untried);
    s.state.due_q = NOW_MS + 60000 - WALL_MINUS_Q;
    assert_why(&s, false, "It waits for its first try, which comes in 1 min.");
    s.state.due_q = NOW_MS - WALL_MINUS_Q;
    assert_why(&s, false,
               "It waits for its first try, which comes as soon as a connection is free.");
    assert_why(&s, true, "It is being sent right now.");
    s.state.state = MESSAGE_HELD;
    assert_why(&s, false, "It is held by an administrator: it waits until it is released.");
    sample_init(&s);
    add(&s, "c@d", deferred);
    s.state.due_q = NOW_MS + 240000 - WALL_MINUS_Q;
    assert_why(
        &s, false,
        "It waits: the upstream asks to try again later (main said: 451 try\\x0d\\x0alater). "
        "It is tried again in 4 min.");
    assert_why(&s, true, "It is being sent right now.");
    sample_init(&s);
    add(&s, "c@d", in_doubt);
    s.state.due_q = NOW_MS + 240000 - WALL_MINUS_Q;
    assert_why(&s, false,
               "It waits: the connection broke after the whole message was sent and before the "
               "answer came. It is tried again in 4 min.");
}

/* What Gmail says when the day's mail is used up. */
static const struct record_recipient used_up = {
    .state = RECIPIENT_DEFERRED,
    .outcome = OUTCOME_THROTTLED,
    .code = 550,
    .enhanced = {5, 4, 5},
    .text = {(const uint8_t *)"5.4.5 Daily user sending limit exceeded", 39},
};
#define USED_UP "the account has sent as much as it may in a day"

static void a_providers_words_stand_in_every_view(void **ctx)
{
    (void)ctx;
    struct sample s;
    sample_init(&s);
    add(&s, "c@d", used_up);
    s.state.due_q = NOW_MS + 240000 - WALL_MINUS_Q;
    s.provider = PLAYBOOK_GMAIL;
    assert_why(&s, false,
               "It waits: " USED_UP " (main said: 550 5.4.5 Daily user sending limit exceeded). "
               "It is tried again in 4 min.");
    struct record_recipient fate = used_up;
    struct record_message message = whole(&s, false);
    assert_non_null(strstr(view_words(&message, &fate).hint, "gmail-relay"));
    json_t *row = view(&s, view_put_row, false);
    assert_text(row, "sentence", USED_UP);
    json_decref(row);
    json_t *shown = view(&s, view_put_message, false);
    json_t *recipient = json_array_get(json_object_get(shown, "recipients"), 0);
    assert_text(recipient, "sentence", USED_UP);
    json_decref(shown);
    /* Another provider's, or an answer that it has no words for: the general ones. */
    s.provider = PLAYBOOK_SES;
    message = whole(&s, false);
    assert_string_equal(view_words(&message, &fate).sentence,
                        outcome_row(OUTCOME_THROTTLED)->sentence);
    s.provider = PLAYBOOK_GMAIL;
    fate.code = 451;
    fate.text = SLICE("4.3.0 later");
    message = whole(&s, false);
    assert_string_equal(view_words(&message, &fate).sentence,
                        outcome_row(OUTCOME_THROTTLED)->sentence);
}

static void a_move_has_the_words_of_its_own_upstream(void **ctx)
{
    (void)ctx;
    struct record_move move = greylisted;
    move.outcome = OUTCOME_THROTTLED;
    move.code = 550;
    move.text = used_up.text;
    assert_move_line_by(PLAYBOOK_GMAIL, move,
                        "40 s ago: deferred by main, " USED_UP ": 550 5.4.5 Daily user sending "
                        "limit exceeded (connection 17, 120 ms)");
    move.upstream = SLICE("backup");
    char expected[300];
    snprintf(expected, sizeof expected,
             "40 s ago: deferred by backup, %s: 550 5.4.5 Daily user sending limit exceeded "
             "(connection 17, 120 ms)",
             outcome_row(OUTCOME_THROTTLED)->sentence);
    assert_move_line_by(PLAYBOOK_GMAIL, move, expected);
}

/* They are longer than the general ones. */
static void largest_words_fit_their_bound(void **ctx)
{
    (void)ctx;
    static const size_t other_members = 180; /* of 512 in VIEW_ANSWER_BYTES_MAX: keys, numbers */
    const struct playbook_reply *reply;
    for (size_t index = 0; (reply = playbook_reply_at(index)) != NULL; index++) {
        size_t bytes = strlen(reply->sentence) + strlen(reply->hint);
        assert_true(bytes + strlen(outcome_row(reply->outcome)->word) + other_members <= 512);
    }
}

static void why_a_message_has_failed(void **ctx)
{
    (void)ctx;
    struct sample s;
    sample_init(&s);
    add(&s, "c@d", refused);
    s.state.state = MESSAGE_FAILED;
    assert_why(&s, false,
               "It has failed for good, and nobody could be told yet: the upstream does not know "
               "the recipient (main said: 550 who?).");
    s.state.state = MESSAGE_TRASHED;
    s.state.due_q = NOW_MS + 86400000 - WALL_MINUS_Q;
    assert_why(&s, false,
               "It is in the trash, and goes for good in 1 d: the upstream does not know the "
               "recipient (main said: 550 who?).");
}

static void why_a_message_has_left(void **ctx)
{
    (void)ctx;
    static const struct {
        enum record_end end;
        const struct record_recipient *fate;
        const char *sentence;
    } rows[] = {
        {RECORD_END_DELIVERED, &taken,
         "It was delivered: the upstream has taken it (main said: 250 2.0.0 Ok)."},
        {RECORD_END_REPORTED, &refused,
         "It could not be delivered, and that was reported: the upstream does not know the "
         "recipient (main said: 550 who?)."},
        {RECORD_END_DELETED, &untried, "It was deleted by an administrator; last, not tried yet."},
        {RECORD_END_DISCARDED, &refused,
         "It could not be delivered, and nobody wanted to be told: the upstream does not know the "
         "recipient (main said: 550 who?)."},
    };
    for (size_t index = 0; index < sizeof rows / sizeof rows[0]; index++) {
        struct sample s;
        sample_init(&s);
        add(&s, "c@d", *rows[index].fate);
        s.left = true;
        s.history = (struct record_history){.left_ms = NOW_MS, .end = rows[index].end};
        assert_why(&s, false, rows[index].sentence);
    }
}

/* A peer's words may be long and full of controls: the sentence is cut, never more than its room.
 */
static void why_is_bounded(void **ctx)
{
    (void)ctx;
    static uint8_t escapes[RECORD_REPLY_TEXT_BYTES_MAX];
    memset(escapes, 0x01, sizeof escapes);
    struct sample s;
    sample_init(&s);
    struct record_recipient fate = refused;
    fate.text = slice_of(escapes, sizeof escapes);
    add(&s, "c@d", fate);
    s.state.state = MESSAGE_FAILED;
    s.state.upstream = slice_of(escapes, UPSTREAM_NAME_BYTES_MAX);
    char sentence[VIEW_WHY_BYTES];
    memset(sentence, 'x', sizeof sentence);
    const struct record_message message = whole(&s, false);
    view_why(&message, WALL_MINUS_Q, NOW_MS, sentence);
    assert_true(strnlen(sentence, sizeof sentence) < sizeof sentence);
    assert_non_null(strstr(sentence, "\\x01"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(row_has_all_members),
        cmocka_unit_test(row_says_that_the_upstream_is_stuck),
        cmocka_unit_test(state_word_follows_the_message),
        cmocka_unit_test(worst_recipient_speaks_for_the_message),
        cmocka_unit_test(never_tried_has_no_answer),
        cmocka_unit_test(show_has_each_recipient),
        cmocka_unit_test(long_lists_are_cut),
        cmocka_unit_test(largest_row_fits_its_bound),
        cmocka_unit_test(too_small_a_buffer_says_so),
        cmocka_unit_test(rows_stand_in_an_array),
        cmocka_unit_test(show_says_who_is_told),
        cmocka_unit_test(moves_are_shown_in_order),
        cmocka_unit_test(history_row_says_how_it_ended),
        cmocka_unit_test(largest_moves_fit_their_bound),
        cmocka_unit_test(a_move_in_words),
        cmocka_unit_test(a_providers_words_stand_in_every_view),
        cmocka_unit_test(a_move_has_the_words_of_its_own_upstream),
        cmocka_unit_test(largest_words_fit_their_bound),
        cmocka_unit_test(why_a_message_waits),
        cmocka_unit_test(why_a_message_has_failed),
        cmocka_unit_test(why_a_message_has_left),
        cmocka_unit_test(why_is_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
