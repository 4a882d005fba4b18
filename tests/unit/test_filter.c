/* schema/filter: what each word matches, and what is said about one that cannot be read. */
#include "schema/filter.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#define NOW_MS    UINT64_C(1795508794123)
#define HOUR_MS   UINT64_C(3600000)
#define BODY_SIZE UINT64_C(20480)

/* One message that every row below is asked about. */
struct sample {
    struct msg_id id;
    struct record_envelope envelope;
    struct record_state state;
    bool leased;
    const struct record_history *history;
    uint8_t paths[256], fates[256];
};

static void sample_init(struct sample *s)
{
    s->leased = false;
    s->history = NULL;
    struct buf paths;
    buf_init(&paths, s->paths, sizeof s->paths);
    record_recipient_put(&paths, SLICE("Anna.Sato@example.jp"));
    record_recipient_put(&paths, SLICE("bob@partner.example"));
    struct buf fates;
    buf_init(&fates, s->fates, sizeof s->fates);
    record_fate_put(&fates, &(struct record_recipient){.state = RECIPIENT_DEFERRED,
                                                       .outcome = OUTCOME_DEFERRED});
    record_fate_put(&fates, &(struct record_recipient){.state = RECIPIENT_FAILED,
                                                       .outcome = OUTCOME_NO_SUCH_RECIPIENT});
    s->id = msg_id_make((NOW_MS - 2 * HOUR_MS) << 16 | 7, 3);
    s->envelope = (struct record_envelope){
        .arrived_ms = NOW_MS - 2 * HOUR_MS,
        .body_bytes = BODY_SIZE,
        .recipient_count = 2,
        .client = SLICE("192.168.1.50"),
        .device = SLICE("canon-2nd-floor"),
        .subject = SLICE("Scan: invoice 4711 \xe3\x82\xb9"),
        .sender = SLICE("scanner@Office.example"),
        .recipients = buf_slice(&paths),
    };
    s->state = (struct record_state){
        .state = MESSAGE_QUEUED,
        .route = record_route(SLICE("main")),
        .upstream = SLICE("main"),
        .recipient_count = 2,
        .recipients = buf_slice(&fates),
    };
}

static bool matches(const struct sample *s, const char *text)
{
    struct filter filter;
    char message[200] = "";
    if (!filter_parse(&filter, slice_from_str(text), message)) {
        fail_msg("%s: %s", text, message);
    }
    const struct record_message m = {.id = s->id,
                                     .envelope = s->envelope,
                                     .state = s->state,
                                     .leased = s->leased,
                                     .history = s->history};
    return filter_matches(&filter, &m, NOW_MS);
}

/* What one word says depends on where the message is. */
static void states_and_ends(void **ctx)
{
    (void)ctx;
    static const struct record_history reported = {.end = RECORD_END_REPORTED};
    static const struct {
        enum message_state state;
        bool leased, left;
        const char *yes, *no;
    } rows[] = {
        {MESSAGE_QUEUED, true, false, "state:sending state:queued", "state:trashed"},
        {MESSAGE_HELD, false, false, "state:held", "state:queued"},
        {MESSAGE_FAILED, false, false, "state:failed", "state:deferred"},
        {MESSAGE_TRASHED, false, false, "state:trashed", "state:failed"},
        {MESSAGE_QUEUED, false, true, "end:reported state:failed", "state:queued"},
        {MESSAGE_TRASHED, false, true, "-end:deleted", "state:trashed"},
    };
    for (size_t row = 0; row < sizeof rows / sizeof rows[0]; row++) {
        struct sample s;
        sample_init(&s);
        s.state.state = rows[row].state;
        s.leased = rows[row].leased;
        s.history = rows[row].left ? &reported : NULL;
        assert_true(matches(&s, rows[row].yes));
        assert_false(matches(&s, rows[row].no));
    }
}

static void trashed_ones_are_asked_for(void **ctx)
{
    (void)ctx;
    static const struct {
        const char *text;
        bool wants;
    } rows[] = {{"", false},
                {"state:trashed", true},
                {"from:a State:TRASHED", true},
                {"-state:trashed", false},
                {"state:failed trashed", false}};
    for (size_t row = 0; row < sizeof rows / sizeof rows[0]; row++) {
        struct filter filter;
        char message[200];
        assert_true(filter_parse(&filter, slice_from_str(rows[row].text), message));
        assert_int_equal(filter_wants_trashed(&filter), rows[row].wants);
    }
}

static void what_belongs_to_no_message_is_judged_by_its_upstream(void **ctx)
{
    (void)ctx;
    static const struct {
        const char *text;
        bool matches;
    } rows[] = {
        {"", true},
        {"upstream:main", true},
        {"UPSTREAM:MAIN", true},
        {"upstream:mai", false},
        {"upstream:backup", false},
        {"-upstream:backup", true},
        {"-upstream:main", false},
        {"upstream:main -upstream:backup", true},
        {"upstream:main upstream:backup", false},
        {"upstream:main from:anna", false},
        {"-from:anna", false}, /* not known, so not shown */
        {"-upstream:backup larger:5M", false},
        {"main", false},
        {"device:main", false},
    };
    for (size_t row = 0; row < sizeof rows / sizeof rows[0]; row++) {
        struct filter filter;
        char message[200];
        assert_true(filter_parse(&filter, slice_from_str(rows[row].text), message));
        if (filter_matches_upstream(&filter, SLICE("main")) != rows[row].matches) {
            fail_msg("%s", rows[row].text);
        }
    }
}

static void each_word_matches_what_it_says(void **ctx)
{
    (void)ctx;
    static const struct {
        const char *text;
        bool matches;
    } rows[] = {
        {"", true},
        {" \t\r\n", true},
        {"from:scanner", true},
        {"from:SCANNER@office", true},
        {"FROM:scanner", true},
        {"from:example.jp", false},
        {"from:scanner@office.example", true},
        {"from:xscanner@office.example", false},
        {"from:<>", false},
        {"to:anna", true},
        {"to:partner.example", true},
        {"to:carl", false},
        {"to:jpbob", false}, /* never across two recipients */
        {"subject:INVOICE", true},
        {"subject:\"scan: invoice\"", true},
        {"subject:\"\xe3\x82\xb9\"", true},
        {"subject:\xe3\x82\xb9", true},
        {"subject:4712", false},
        {"client:192.168.", true},
        {"client:192.169.", false},
        {"upstream:main", true},
        {"upstream:MAIN", true},
        {"upstream:mai", false},
        {"upstream:mains", false},
        {"device:canon-2nd-floor", true},
        {"device:canon", false},
        {"device:\"\"", false},
        {"state:queued", true},
        {"state:Queued", true},
        {"state:held", false},
        {"state:failed", false},
        {"state:deferred", true},
        {"state:in-doubt", false},
        {"state:sending", false},
        {"state:delivered", false},
        {"state:trashed", false},
        {"end:delivered", false},
        {"reason:deferred", true},
        {"reason:no-such-recipient", true},
        {"reason:none", false},
        {"reason:delivered", false},
        {"older:1h", true},
        {"older:120m", false}, /* exactly as old is not older */
        {"older:7199s", true},
        {"older:2h", false},
        {"older:1d", false},
        {"newer:2h", false},
        {"newer:7201s", true},
        {"newer:3H", true},
        {"newer:30s", false},
        {"larger:20K", false}, /* exactly as large is not larger */
        {"larger:20479", true},
        {"larger:0", true},
        {"larger:1m", false},
        {"smaller:20k", false},
        {"smaller:20481", true},
        {"smaller:1G", true},
        {"scanner", true},
        {"ANNA", true},
        {"4711", true},
        {"canon", false}, /* a bare word does not look at the device */
        {"192.168", false},
        {"\"invoice 4711\"", true},
        {"\"from:scanner\"", false}, /* in quotes it is text */
        {"\"Scan:\"", true},
        {"invoice  \t anna", true},
        {"invoice carl", false},
        {"-carl", true},
        {"-anna", false},
        {"-from:scanner", false},
        {"-from:other", true},
        {"-state:held -reason:none", true},
        {"-\"invoice 4711\"", false},
        {"-subject:\"invoice 4712\"", true},
        {"from:scanner to:anna subject:invoice client:192 upstream:main state:queued", true},
        {"from:scanner to:anna subject:invoice client:192 upstream:main state:held", false},
    };
    struct sample s;
    sample_init(&s);
    for (size_t index = 0; index < sizeof rows / sizeof rows[0]; index++) {
        if (matches(&s, rows[index].text) != rows[index].matches) {
            fail_msg("%s should %smatch", rows[index].text, rows[index].matches ? "" : "not ");
        }
    }
}

static void id_is_matched_by_any_prefix(void **ctx)
{
    (void)ctx;
    struct sample s;
    sample_init(&s);
    s.envelope.subject = SLICE(""); /* its digits are not to be found by a bare word */
    char id[MSG_ID_TEXT_BYTES + 1] = "";
    struct buf text;
    buf_init(&text, id, MSG_ID_TEXT_BYTES);
    msg_id_put_text(&text, &s.id);
    for (size_t len = 1; len <= MSG_ID_TEXT_BYTES; len++) {
        char word[32];
        struct buf w;
        buf_init(&w, word, sizeof word - 1);
        buf_put_str(&w, "id:");
        buf_put(&w, slice_head(buf_slice(&text), len));
        word[w.len] = '\0';
        assert_true(matches(&s, word));
        assert_true(matches(&s, word + 3)); /* as a bare word too */
        /* The same but for its last character. */
        word[w.len - 1] = word[w.len - 1] == '0' ? '1' : '0';
        assert_false(matches(&s, word));
        assert_false(matches(&s, word + 3));
    }
}

static void null_sender_can_be_looked_for(void **ctx)
{
    (void)ctx;
    struct sample s;
    sample_init(&s);
    s.envelope.sender = SLICE("");
    s.envelope.device = SLICE("");
    assert_true(matches(&s, "from:<>"));
    assert_true(matches(&s, "<>"));
    assert_false(matches(&s, "-from:<>"));
    assert_false(matches(&s, "from:scanner"));
    assert_true(matches(&s, "device:\"\""));
}

static void clock_set_back_makes_nothing_old(void **ctx)
{
    (void)ctx;
    struct sample s;
    sample_init(&s);
    s.envelope.arrived_ms = NOW_MS + HOUR_MS;
    assert_false(matches(&s, "older:0s"));
    assert_true(matches(&s, "newer:1s"));
}

static void each_state_and_reason_has_its_word(void **ctx)
{
    (void)ctx;
    struct sample s;
    sample_init(&s);
    for (unsigned state = 0; state < MESSAGE_STATE_COUNT; state++) {
        s.state.state = (enum message_state)state;
        for (unsigned asked = 0; asked < MESSAGE_STATE_COUNT; asked++) {
            char word[32];
            struct buf w;
            buf_init(&w, word, sizeof word - 1);
            buf_put_str(&w, "state:");
            buf_put_str(&w, message_state_word((enum message_state)asked));
            word[w.len] = '\0';
            assert_int_equal(matches(&s, word), state == asked);
        }
    }
    for (unsigned outcome = 0; outcome < OUTCOME_COUNT; outcome++) {
        struct buf fates;
        buf_init(&fates, s.fates, sizeof s.fates);
        record_fate_put(&fates, &(struct record_recipient){.outcome = (enum outcome)outcome});
        s.state.recipients = buf_slice(&fates);
        for (unsigned asked = 0; asked < OUTCOME_COUNT; asked++) {
            char word[64];
            struct buf w;
            buf_init(&w, word, sizeof word - 1);
            buf_put_str(&w, "reason:");
            buf_put_str(&w, outcome_row((enum outcome)asked)->word);
            word[w.len] = '\0';
            assert_int_equal(matches(&s, word), outcome == asked);
        }
    }
}

static void wrong_filters_are_explained(void **ctx)
{
    (void)ctx;
    static const struct {
        const char *text;
        const char *message;
    } rows[] = {
        {"form:x", "unknown field \"form\"; did you mean \"from\"?"},
        {"x -sbject:y", "unknown field \"sbject\"; did you mean \"subject\"?"},
        {"fe80::1", "unknown field \"fe80\"; to look for a text with a colon, put it in quotes"},
        {":x", "unknown field \"\"; to look for a text with a colon, put it in quotes"},
        {"from:", "nothing after the colon of \"from\"; write a value"},
        {"from: x", "nothing after the colon of \"from\"; write a value"},
        {"from:\"\"", "nothing after the colon of \"from\"; write a value"},
        {"device:", "nothing after the colon of \"device\"; write a value"},
        {"-", "nothing to look for in \"-\"; write a word"},
        {"a - b", "nothing to look for in \"-\"; write a word"},
        {"\"\"", "nothing to look for in \"\"; write a word"},
        {"state:sent", "bad value for state \"sent\"; the states are queued, sending, deferred, "
                       "in-doubt, held, failed, delivered, trashed"},
        {"reason:defered", "bad value for reason \"defered\"; did you mean \"deferred\"?"},
        {"reason:xyzzy",
         "bad value for reason \"xyzzy\"; reasons are words like deferred or mailbox-full"},
        {"id:0hqu",
         "bad value for id \"0hqu\"; an id has 1 to 16 digits and letters, without i, l, "
         "o and u"},
        {"id:00000000000000000", "bad value for id \"00000000000000000\"; an id has 1 to 16 digits "
                                 "and letters, without i, l, o and u"},
        {"older:5", "bad value for older \"5\"; write a time like 30s, 10m, 2h or 5d"},
        {"older:h", "bad value for older \"h\"; write a time like 30s, 10m, 2h or 5d"},
        {"older:-1h", "bad value for older \"-1h\"; write a time like 30s, 10m, 2h or 5d"},
        {"older:1h30m", "bad value for older \"1h30m\"; write a time like 30s, 10m, 2h or 5d"},
        {"newer:1.5h", "bad value for newer \"1.5h\"; write a time like 30s, 10m, 2h or 5d"},
        {"older:213503982335d",
         "bad value for older \"213503982335d\"; write a time like 30s, 10m, 2h or 5d"},
        {"larger:20KB", "bad value for larger \"20KB\"; write a size like 512, 20K or 5M"},
        {"smaller:17179869184G",
         "bad value for smaller \"17179869184G\"; write a size like 512, 20K or 5M"},
        {"from:\"open", "no closing quote in \"from:\"; add a \" at its end"},
        {"from:a\"b", "a quote in the middle of \"from:a\"; put quotes around the whole value"},
        {"\"a\"b", "a quote in the middle of \"\"; put quotes around the whole value"},
        {"fr\"om", "a quote in the middle of \"fr\"; put quotes around the whole value"},
        {"a b c d e f g h i j k l m n o p q", "too many words from \"q\"; a filter has at most 16"},
        {"\x1b[31m:x",
         "unknown field \"\\x1b[31m\"; to look for a text with a colon, put it in quotes"},
        {"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa:x",
         "unknown field \"aaaaaaaaaaaaaaaaaaaaaaaa...\"; to look for a text with a colon, put it "
         "in quotes"},
    };
    for (size_t index = 0; index < sizeof rows / sizeof rows[0]; index++) {
        struct filter filter;
        memset(&filter, 0x5a, sizeof filter);
        struct filter before = filter;
        char message[200];
        memset(message, 'x', sizeof message);
        if (filter_parse(&filter, slice_from_str(rows[index].text), message)) {
            fail_msg("%s should be refused", rows[index].text);
        }
        assert_non_null(memchr(message, '\0', sizeof message));
        assert_string_equal(message, rows[index].message);
        assert_memory_equal(&filter, &before, sizeof filter);
    }
}

/* The longest message that somebody can cause: 24 bytes that all become escapes. */
static void message_never_leaves_its_place(void **ctx)
{
    (void)ctx;
    char text[64];
    static const char *const fields[] = {"",       "from:",  "state:",   "reason:", "id:", "older:",
                                         "newer:", "larger", "smaller:", "\"",      "-"};
    for (size_t index = 0; index < sizeof fields / sizeof fields[0]; index++) {
        for (size_t end = 0; end < 4; end++) {
            struct buf t;
            buf_init(&t, text, sizeof text);
            buf_put_str(&t, fields[index]);
            for (size_t count = 0; count < 40; count++) {
                buf_put_byte(&t, 0x01);
            }
            buf_put_str(&t, (const char *const[]){"", ":x", "\"", "\"x"}[end]);
            struct {
                char message[200];
                char behind[8];
            } m;
            memset(&m, 'x', sizeof m);
            m.message[0] = '\0';
            struct filter filter;
            (void)!filter_parse(&filter, buf_slice(&t), m.message);
            assert_non_null(memchr(m.message, '\0', sizeof m.message));
            assert_memory_equal(m.behind, "xxxxxxxx", 8);
        }
    }
}

static void sixteen_words_are_taken(void **ctx)
{
    (void)ctx;
    struct sample s;
    sample_init(&s);
    assert_true(matches(&s, "s c a n s c a n s c a n s c a n"));
    assert_false(matches(&s, "s c a n s c a n s c a n s c a -n"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_belongs_to_no_message_is_judged_by_its_upstream),
        cmocka_unit_test(each_word_matches_what_it_says),
        cmocka_unit_test(states_and_ends),
        cmocka_unit_test(trashed_ones_are_asked_for),
        cmocka_unit_test(id_is_matched_by_any_prefix),
        cmocka_unit_test(null_sender_can_be_looked_for),
        cmocka_unit_test(clock_set_back_makes_nothing_old),
        cmocka_unit_test(each_state_and_reason_has_its_word),
        cmocka_unit_test(wrong_filters_are_explained),
        cmocka_unit_test(message_never_leaves_its_place),
        cmocka_unit_test(sixteen_words_are_taken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
