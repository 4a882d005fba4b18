/* schema/outcome: every row of outcome.def is well formed, and stays what it is on disk. */
#include "schema/outcome.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#define DONE     OUTCOME_ACTION_DONE
#define RETRY    OUTCOME_ACTION_RETRY
#define REPORT   OUTCOME_ACTION_REPORT
#define UPSTREAM OUTCOME_ACTION_UPSTREAM

/* A queue on disk has the numbers, people's scripts the words: rows are only added, at the end. */
static const struct {
    unsigned number;
    enum outcome outcome;
    const char *word;
    enum outcome_action action;
} promised[] = {
    {0, OUTCOME_NONE, "none", RETRY},
    {1, OUTCOME_DELIVERED, "delivered", DONE},
    {2, OUTCOME_DEFERRED, "deferred", RETRY},
    {3, OUTCOME_THROTTLED, "throttled", RETRY},
    {4, OUTCOME_MAILBOX_FULL, "mailbox-full", RETRY},
    {5, OUTCOME_IN_DOUBT, "in-doubt", RETRY},
    {6, OUTCOME_REFUSED, "refused", REPORT},
    {7, OUTCOME_NO_SUCH_RECIPIENT, "no-such-recipient", REPORT},
    {8, OUTCOME_SENDER_REFUSED, "sender-refused", REPORT},
    {9, OUTCOME_TOO_LARGE, "too-large", REPORT},
    {10, OUTCOME_NEEDS_SMTPUTF8, "needs-smtputf8", REPORT},
    {11, OUTCOME_GAVE_UP, "gave-up", REPORT},
    {12, OUTCOME_NAME_NOT_FOUND, "name-not-found", UPSTREAM},
    {13, OUTCOME_DNS_FAILED, "dns-failed", UPSTREAM},
    {14, OUTCOME_CONNECTION_REFUSED, "connection-refused", UPSTREAM},
    {15, OUTCOME_CONNECT_TIMEOUT, "connect-timeout", UPSTREAM},
    {16, OUTCOME_UNREACHABLE, "unreachable", UPSTREAM},
    {17, OUTCOME_GREETING_REFUSED, "greeting-refused", UPSTREAM},
    {18, OUTCOME_HELLO_REFUSED, "hello-refused", UPSTREAM},
    {19, OUTCOME_TLS_NOT_OFFERED, "tls-not-offered", UPSTREAM},
    {20, OUTCOME_TLS_UNTRUSTED, "tls-untrusted", UPSTREAM},
    {21, OUTCOME_TLS_WRONG_NAME, "tls-wrong-name", UPSTREAM},
    {22, OUTCOME_TLS_EXPIRED, "tls-expired", UPSTREAM},
    {23, OUTCOME_TLS_FAILED, "tls-failed", UPSTREAM},
    {24, OUTCOME_AUTH_NOT_OFFERED, "auth-not-offered", UPSTREAM},
    {25, OUTCOME_AUTH_NO_MECHANISM, "auth-no-mechanism", UPSTREAM},
    {26, OUTCOME_AUTH_REFUSED, "auth-refused", UPSTREAM},
    {27, OUTCOME_AUTH_DEFERRED, "auth-deferred", UPSTREAM},
    {28, OUTCOME_SECRET_UNREADABLE, "secret-unreadable", UPSTREAM},
    {29, OUTCOME_CONNECTION_LOST, "connection-lost", UPSTREAM},
    {30, OUTCOME_TIMED_OUT, "timed-out", UPSTREAM},
    {31, OUTCOME_SERVICE_CLOSING, "service-closing", UPSTREAM},
    {32, OUTCOME_PROTOCOL_ERROR, "protocol-error", UPSTREAM},
    {33, OUTCOME_LOCAL_TROUBLE, "local-trouble", RETRY},
    {34, OUTCOME_DAMAGED, "damaged", REPORT},
    {35, OUTCOME_RETURNED, "returned", REPORT},
    {36, OUTCOME_GREYLISTED, "greylisted", RETRY},
    {37, OUTCOME_AUTH_UNPROVEN, "auth-unproven", UPSTREAM},
};

static bool is_lower(char letter)
{
    return letter >= 'a' && letter <= 'z';
}

static bool is_printable(const char *text)
{
    for (; *text != '\0'; text++) {
        if (*text < ' ' || *text > '~') {
            return false;
        }
    }
    return true;
}

static void numbers_and_words_stay(void **ctx)
{
    (void)ctx;
    size_t count = sizeof promised / sizeof promised[0];
    assert_true(count <= OUTCOME_COUNT);
    for (size_t index = 0; index < count; index++) {
        assert_int_equal(promised[index].outcome, promised[index].number);
        const struct outcome_row *row = outcome_row(promised[index].outcome);
        assert_string_equal(row->word, promised[index].word);
        assert_int_equal(row->action, promised[index].action);
    }
}

static void words_are_unique_and_well_formed(void **ctx)
{
    (void)ctx;
    for (unsigned index = 0; index < OUTCOME_COUNT; index++) {
        const char *word = outcome_row((enum outcome)index)->word;
        bool within = false;
        for (size_t at = 0; word[at] != '\0'; at++) {
            bool letter = is_lower(word[at]) || (at > 0 && word[at] >= '0' && word[at] <= '9');
            assert_true(letter || (word[at] == '-' && within));
            within = letter;
        }
        assert_true(within);
        for (unsigned other = 0; other < index; other++) {
            assert_string_not_equal(word, outcome_row((enum outcome)other)->word);
        }
    }
}

static void sentences_have_no_full_stop(void **ctx)
{
    (void)ctx;
    for (unsigned index = 0; index < OUTCOME_COUNT; index++) {
        const char *sentence = outcome_row((enum outcome)index)->sentence;
        size_t len = strlen(sentence);
        assert_true(len > 0 && is_lower(sentence[0]) && is_printable(sentence));
        assert_true(sentence[len - 1] != '.' && sentence[len - 1] != ' ');
        for (unsigned other = 0; other < index; other++) {
            assert_string_not_equal(sentence, outcome_row((enum outcome)other)->sentence);
        }
    }
}

/* Whole sentences, or such that end in a command to type: "...: tasukictl test". */
static void hints_are_sentences_or_end_in_a_command(void **ctx)
{
    (void)ctx;
    for (unsigned index = 0; index < OUTCOME_COUNT; index++) {
        const char *hint = outcome_row((enum outcome)index)->hint;
        if (hint[0] == '\0') {
            continue;
        }
        assert_true(hint[0] >= 'A' && hint[0] <= 'Z' && is_printable(hint));
        const char *colon = strrchr(hint, ':');
        bool is_command = colon != NULL && colon[1] == ' ' && is_lower(colon[2]);
        char last = hint[strlen(hint) - 1];
        if (last != '.' && !(is_command && last != ' ')) {
            fail_msg("%s", hint);
        }
    }
}

/* Who has it needs no hint; what waits for somebody's decision says which there are. */
static void hints_are_where_somebody_has_to_act(void **ctx)
{
    (void)ctx;
    for (unsigned index = 0; index < OUTCOME_COUNT; index++) {
        const struct outcome_row *row = outcome_row((enum outcome)index);
        if (row->action == DONE) {
            assert_string_equal(row->hint, "");
        }
        if (row->action == REPORT) {
            assert_string_not_equal(row->hint, "");
        }
    }
}

/* A wait is for what is tried again, doubles from its first to its longest, and is no slip of a
 * unit. */
static void waits_are_in_order(void **ctx)
{
    (void)ctx;
    for (unsigned index = 0; index < OUTCOME_COUNT; index++) {
        const struct outcome_row *row = outcome_row((enum outcome)index);
        bool again = row->action == RETRY || row->action == UPSTREAM;
        assert_true(again || (row->wait_ms_first == 0 && row->wait_ms_max == 0));
        assert_true(row->wait_ms_max == 0 || row->wait_ms_first <= row->wait_ms_max);
        assert_true(row->wait_ms_first % 1000 == 0 && row->wait_ms_max % 1000 == 0);
        assert_true(row->wait_ms_max <= 86400000);
    }
    assert_int_equal(outcome_row(OUTCOME_MAILBOX_FULL)->wait_ms_first, 30 * 60 * 1000);
    assert_int_equal(outcome_row(OUTCOME_MAILBOX_FULL)->wait_ms_max, 4 * 60 * 60 * 1000);
}

/* Two things can be relied on all over: nothing is done but what is delivered, and the number that
 * a fresh record has says so. */
static void only_delivered_is_done(void **ctx)
{
    (void)ctx;
    for (unsigned index = 0; index < OUTCOME_COUNT; index++) {
        assert_int_equal(outcome_row((enum outcome)index)->action == DONE,
                         index == OUTCOME_DELIVERED);
    }
    assert_int_equal(OUTCOME_NONE, 0);
}

static void unknown_reads_as_none(void **ctx)
{
    (void)ctx;
    static const unsigned unknown[] = {OUTCOME_COUNT, 255, 256, 65536, UINT32_MAX};
    for (size_t index = 0; index < sizeof unknown / sizeof unknown[0]; index++) {
        /* Through memory, as a value from elsewhere would come. */
        enum outcome outcome;
        memcpy(&outcome, &unknown[index], sizeof outcome);
        assert_ptr_equal(outcome_row(outcome), outcome_row(OUTCOME_NONE));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_and_words_stay),
        cmocka_unit_test(words_are_unique_and_well_formed),
        cmocka_unit_test(sentences_have_no_full_stop),
        cmocka_unit_test(hints_are_sentences_or_end_in_a_command),
        cmocka_unit_test(hints_are_where_somebody_has_to_act),
        cmocka_unit_test(waits_are_in_order),
        cmocka_unit_test(only_delivered_is_done),
        cmocka_unit_test(unknown_reads_as_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
