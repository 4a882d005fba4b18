/* What is known of providers: the table, and what is told of their replies. */
#include "schema/playbook.h"

#include "daemon/config/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void each_is_found_by_its_word(void **state)
{
    (void)state;
    assert_null(playbook_row(PLAYBOOK_NONE));
    for (unsigned at = PLAYBOOK_NONE + 1; at < PLAYBOOK_PROVIDER_COUNT; at++) {
        const struct playbook_row *row = playbook_row((enum playbook_provider)at);
        assert_non_null(row);
        assert_int_equal(playbook_find(slice_from_str(row->word)), at);
        assert_true(row->host[0] != '\0' || row->regional[0] != '\0');
        assert_true(row->regional[0] == '\0' || strchr(row->regional, '%') != NULL);
        assert_true(row->title[0] != '\0' && row->advice[0] != '\0');
    }
    assert_int_equal(playbook_find(SLICE("")), PLAYBOOK_NONE);
    assert_int_equal(playbook_find(SLICE("gmai")), PLAYBOOK_NONE);
    assert_int_equal(playbook_find(SLICE("gmail2")), PLAYBOOK_NONE);
    assert_int_equal(playbook_find(SLICE("GMAIL")), PLAYBOOK_GMAIL);
}

static void settings_are_of_one_provider(void **state)
{
    (void)state;
    assert_string_equal(playbook_setting(PLAYBOOK_SENDGRID, "user"), "apikey");
    assert_null(playbook_setting(PLAYBOOK_GMAIL, "user"));
    assert_null(playbook_setting(PLAYBOOK_NONE, "user"));
    assert_null(playbook_setting(PLAYBOOK_SENDGRID, "userx"));
    /* Each is a key of the configuration. */
    static const char *const known[] = {"connections", "rate",        "connection-age",
                                        "user",        "null-sender", "connection-messages"};
    for (size_t at = 0; at < sizeof known / sizeof known[0]; at++) {
        struct config_row row;
        bool found = false;
        for (size_t index = 0; config_row_at(index, &row); index++) {
            found =
                found || (strcmp(row.section, "upstream") == 0 && strcmp(row.key, known[at]) == 0);
        }
        assert_true(found);
    }
}

static void words_are_the_providers_where_it_has_some(void **state)
{
    (void)state;
    struct playbook_words words =
        playbook_words(PLAYBOOK_MICROSOFT365, OUTCOME_AUTH_REFUSED, 535,
                       SLICE("5.7.139 Authentication unsuccessful, the request did not meet"));
    assert_non_null(strstr(words.sentence, "Microsoft 365"));
    assert_non_null(strstr(words.hint, "OAuth2"));
    const struct outcome_row *general = outcome_row(OUTCOME_AUTH_REFUSED);
    const struct {
        enum playbook_provider provider;
        uint16_t code;
        const char *text;
    } plain[] = {
        {PLAYBOOK_MICROSOFT365, 535, "5.7.3 Authentication unsuccessful"},
        {PLAYBOOK_MICROSOFT365, 535, "no code at its head: 5.7.139"},
        {PLAYBOOK_MICROSOFT365, 535, "4.7.139 of another class"},
        {PLAYBOOK_MICROSOFT365, 535, ""},
        {PLAYBOOK_MICROSOFT365, 0, "5.7.139 x"},
        {PLAYBOOK_NONE, 535, "5.7.139 x"},
        {PLAYBOOK_GMAIL, 432, "4.3.2 x"},
    };
    for (size_t at = 0; at < sizeof plain / sizeof plain[0]; at++) {
        words = playbook_words(plain[at].provider, OUTCOME_AUTH_REFUSED, plain[at].code,
                               slice_from_str(plain[at].text));
        assert_string_equal(words.sentence, general->sentence);
        assert_string_equal(words.hint, general->hint);
    }
    /* A row that stands for another outcome is not meant. */
    words = playbook_words(PLAYBOOK_MICROSOFT365, OUTCOME_TIMED_OUT, 535, SLICE("5.7.139 x"));
    assert_string_equal(words.sentence, outcome_row(OUTCOME_TIMED_OUT)->sentence);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_is_found_by_its_word),
        cmocka_unit_test(settings_are_of_one_provider),
        cmocka_unit_test(words_are_the_providers_where_it_has_some),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
