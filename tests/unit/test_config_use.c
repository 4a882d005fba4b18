/*
 * `use`: what each text becomes, which mail it fits, and what is said about one that makes no
 * sense, alone or together with the other upstreams, word for word.
 */
#include "tests/unit/config_rig.h"

#include "daemon/config/config_private.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define UP(n)  "[upstream " n "]\nhost = [" n ".example.jp]:587\n"
#define REST   UP("rest")
#define USE(u) "use = " u "\n"

/* ---- one ---- */

static void as_written(void **state)
{
    (void)state;
    static const struct {
        const char *text, *printed;
        enum config_use_role role;
        uint32_t count;
    } rows[] = {
        {"always", "always", CONFIG_USE_ALWAYS, 0},
        {"when-down", "when-down", CONFIG_USE_WHEN_DOWN, 0},
        {"for sender:*@Shop.Example", "for sender:*@shop.example", CONFIG_USE_ALWAYS, 1},
        {"always for sender:a@b", "for sender:a@b", CONFIG_USE_ALWAYS, 1},
        {"for sender:a@b, recipient:*@c,sender:<>  ,\trecipient:d@*",
         "for sender:a@b recipient:*@c sender:<> recipient:d@*", CONFIG_USE_ALWAYS, 4},
        {"for sender:x:y@b", "for sender:x:y@b", CONFIG_USE_ALWAYS,
         1}, /* the first colon divides */
        {"for recipient:*", "for recipient:*", CONFIG_USE_ALWAYS, 1},
        {"\"for sender:a@b\"", "for sender:a@b", CONFIG_USE_ALWAYS, 1},
    };
    for (size_t at = 0; at < sizeof rows / sizeof rows[0]; at++) {
        char text[400], memory[400];
        struct buf to;
        /* Behind one that takes the rest, and before one that it can stand behind. */
        snprintf(text, sizeof text, NAMED REST UP("other") "use = %s\n", rows[at].text);
        struct config *c = parse_well(text);
        const struct config_use *use = &c->upstreams[1].use;
        assert_int_equal(use->role, rows[at].role);
        assert_int_equal(use->count, rows[at].count);
        buf_init(&to, memory, sizeof memory - 1);
        config_use_put(&to, use);
        memory[to.len] = '\0';
        assert_string_equal(memory, rows[at].printed);
        assert_int_equal(c->upstreams[0].use.role, CONFIG_USE_ALWAYS); /* the default */
        assert_int_equal(c->upstreams[0].use.count, 0);
        config_free(&c);
    }
}

#define EXAMPLE "  to mend it: for example: use = for sender:*@shop.example\n"

static void words_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text, *said;
    } rows[] = {
        {"never", "f:6:7: \"never\" is not always, when-down or for\n" EXAMPLE},
        {"allways", "f:6:7: \"allways\" is not always, when-down or for; did you mean "
                    "\"always\"?\n" EXAMPLE},
        {",", "f:6:8: \"\" is not always, when-down or for\n" EXAMPLE},
        {"for", "f:6:7: nothing stands behind \"for\"\n" EXAMPLE},
        {"when-down for ,", "f:6:7: nothing stands behind \"for\"\n" EXAMPLE},
        {"always sender:a@b", "f:6:14: \"sender:a@b\" stands where only \"for\" can\n" EXAMPLE},
        {"for sender:a@b when-down", "f:6:22: \"when-down\" is not sender:PATTERN or "
                                     "recipient:PATTERN\n" EXAMPLE},
        {"for from:a@b", "f:6:11: \"from:a@b\" is not sender:PATTERN or recipient:PATTERN; did you "
                         "mean \"sender:\"?\n" EXAMPLE},
        {"for to:a@b", "f:6:11: \"to:a@b\" is not sender:PATTERN or recipient:PATTERN; did you "
                       "mean \"recipient:\"?\n" EXAMPLE},
        {"for sendr:a@b", "f:6:11: \"sendr:a@b\" is not sender:PATTERN or recipient:PATTERN; did "
                          "you mean \"sender:\"?\n" EXAMPLE},
        {"for a@b", "f:6:11: \"a@b\" is not sender:PATTERN or recipient:PATTERN\n" EXAMPLE},
        {"for sender:", "f:6:11: the pattern \"\" is empty\n" EXAMPLE},
        {"for sender:shop", "f:6:11: the pattern \"shop\" has no @ and no *: no address is like "
                            "that\n" EXAMPLE},
        {"for sender:<a@b>", "f:6:11: the pattern \"<a@b>\" is written without < and >\n" EXAMPLE},
        {"for recipient:<>", "f:6:11: the pattern \"<>\" is no recipient: only a sender can be "
                             "null\n" EXAMPLE},
        {"for sender:a@b sender:A@B", "f:6:22: \"sender:A@B\" is there twice\n"
                                      "  to mend it: keep one of them\n"},
    };
    for (size_t at = 0; at < sizeof rows / sizeof rows[0]; at++) {
        char text[400];
        snprintf(text, sizeof text, NAMED REST UP("other") "use = %s\n", rows[at].text);
        expect_refused(text, rows[at].said);
    }
}

static void bounds(void **state)
{
    (void)state;
    static char text[CONFIG_LINE_BYTES_MAX * 2];
    struct buf to;
    for (uint32_t count = CONFIG_USE_TERMS_MAX; count <= CONFIG_USE_TERMS_MAX + 1; count++) {
        buf_init(&to, text, sizeof text - 1);
        buf_put_str(&to, NAMED REST UP("other") "use = for");
        for (uint32_t at = 0; at < count; at++) {
            buf_printf(&to, " sender:%u@b", (unsigned)at);
        }
        text[to.len] = '\0';
        struct config *c = parse(slice_from_str(text));
        assert_int_equal(c != NULL, count == CONFIG_USE_TERMS_MAX);
        assert_true(c != NULL ||
                    strstr(shown, "an upstream may have 32 terms of 2048 bytes") != NULL);
        config_free(&c);
    }
    for (int bytes = SMTP_PATH_BYTES_MAX; bytes <= SMTP_PATH_BYTES_MAX + 1; bytes++) {
        snprintf(text, sizeof text, NAMED REST UP("other") "use = for sender:%0*d@b\n", bytes - 2,
                 0);
        struct config *c = parse(slice_from_str(text));
        assert_int_equal(c != NULL, bytes == SMTP_PATH_BYTES_MAX);
        assert_true(c != NULL || strstr(shown, "is longer than an address can be") != NULL);
        config_free(&c);
    }
}

/* ---- which mail ---- */

static void matches(void **state)
{
    (void)state;
    static const struct {
        const char *use, *sender, *recipient;
        bool fits;
    } rows[] = {
        {"for sender:a@shop.example", "A@Shop.example", "x@y", true},
        {"for sender:a@shop.example", "aa@shop.example", "x@y", false},
        {"for sender:a@shop.example", "a@shop.example.jp", "x@y", false},
        {"for sender:*@shop.example", "a@shop.example", "x@y", true},
        {"for sender:*@shop.example", "@shop.example", "x@y", true},
        {"for sender:*@shop.example", "a@eshop.example", "x@y", false},
        {"for sender:*@shop.example", "", "x@y", false},
        {"for sender:anna@*", "anna@anywhere", "x@y", true},
        {"for sender:*@*.shop.example", "a@b.shop.example", "x@y", true},
        {"for sender:*@*.shop.example", "a@shop.example", "x@y", false},
        {"for sender:a*b*c@d", "aXbbYc@d", "x@y", true},
        {"for sender:a*b*c@d", "ac@d", "x@y", false},
        {"for sender:**@d", "a@d", "x@y", true},
        {"for sender:*", "", "x@y", true},
        {"for sender:<>", "", "x@y", true},
        {"for sender:<>", "a@b", "x@y", false},
        {"for sender:*a@b", "aaaa@b", "x@y", true}, /* the star takes as much as it must */
        {"for sender:\xc3\xa4@b", "\xc3\xa4@b", "x@y", true},
        {"for sender:\xc3\xa4@b", "\xc3\x84@b", "x@y", false}, /* only ASCII has no case */
        {"for recipient:*@y", "a@b", "x@Y", true},
        {"for recipient:*@y", "x@y", "a@b", false},
        {"for sender:a@b sender:c@d", "c@d", "x@y", true}, /* one of them */
        {"for sender:a@b recipient:*@y", "a@b", "x@y", true},
        {"for sender:a@b recipient:*@y", "a@b", "x@z", false}, /* both groups */
        {"for sender:a@b recipient:*@y", "c@b", "x@y", false},
        {"for sender:a@b recipient:*@y recipient:*@z", "a@b", "x@z", true},
        {"always", "a@b", "x@y", true},
    };
    for (size_t at = 0; at < sizeof rows / sizeof rows[0]; at++) {
        char text[400];
        snprintf(text, sizeof text, NAMED REST UP("other") "use = %s\n", rows[at].use);
        struct config *c = parse_well(text);
        if (config_use_matches(&c->upstreams[1].use, slice_from_str(rows[at].sender),
                               slice_from_str(rows[at].recipient)) != rows[at].fits) {
            fail_msg("%s: %s to %s", rows[at].use, rows[at].sender, rows[at].recipient);
        }
        config_free(&c);
    }
}

/* Many stars against a text that almost fits: the work is bounded by the product of the lengths. */
static void many_stars(void **state)
{
    (void)state;
    char text[800], address[SMTP_PATH_BYTES_MAX + 1];
    struct buf to;
    buf_init(&to, text, sizeof text - 1);
    buf_put_str(&to, NAMED REST UP("other") "use = for sender:");
    for (int at = 0; at < 120; at++) {
        buf_put_str(&to, "*a");
    }
    buf_put_str(&to, "@b\n");
    text[to.len] = '\0';
    memset(address, 'a', sizeof address - 1);
    address[sizeof address - 1] = '\0';
    struct config *c = parse_well(text);
    for (int times = 0; times < 1000; times++) {
        assert_false(
            config_use_matches(&c->upstreams[1].use, slice_from_str(address), SLICE("x@y")));
    }
    config_free(&c);
}

/* ---- all together ---- */

static void together(void **state)
{
    (void)state;
    static const char *const well[] = {
        REST UP("b"),                  /* they share */
        REST UP("b") USE("when-down"), /* whichever order */
        UP("b") USE("when-down") REST,
        UP("b") USE("for sender:a@b") REST UP("c") USE("when-down for sender:a@b"),
        UP("c") USE("when-down for recipient:*@y, sender:a@b") UP("b")
            USE("for sender:a@b recipient:*@y") REST,
        REST UP("b") USE("for sender:a@b") UP("c") USE("for sender:a@b sender:c@d"),
    };
    for (size_t at = 0; at < sizeof well / sizeof well[0]; at++) {
        char text[800];
        snprintf(text, sizeof text, NAMED "%s", well[at]);
        struct config *c = parse_well(text);
        config_free(&c);
    }
    static const struct {
        const char *text, *said;
    } ill[] = {
        {UP("a") USE("when-down"),
         "f:4:7: every upstream is used only when another is down: no mail goes anywhere\n"
         "  to mend it: write for the one that is to take the mail: use = always\n"},
        {"upstream = [a]:25\nuse = when-down\n",
         "f:3:7: every upstream is used only when another is down: no mail goes anywhere\n"
         "  to mend it: write for the one that is to take the mail: use = always\n"},
        {UP("a") USE("for sender:a@b"),
         "f:4:7: mail that no \"for\" matches has nowhere to go: every upstream takes only some\n"
         "  to mend it: let one upstream take the rest: use = always\n"},
        {UP("a") USE("for sender:a@b") UP("b") USE("when-down"),
         "f:4:7: mail that no \"for\" matches has nowhere to go: every upstream takes only some\n"
         "  to mend it: let one upstream take the rest: use = always\n"},
        {REST UP("b") USE("when-down for sender:a@b"),
         "f:6:7: \"b\" stands behind no upstream: none takes mail for exactly these terms\n"
         "  to mend it: give it the same terms as the upstream that it is to stand in for, in any "
         "order, or none\n"},
        {REST UP("b") USE("for sender:a@b sender:c@d") UP("c") USE("when-down for sender:a@b"),
         "f:9:7: \"c\" stands behind no upstream: none takes mail for exactly these terms\n"
         "  to mend it: give it the same terms as the upstream that it is to stand in for, in any "
         "order, or none\n"},
        {REST UP("b") USE("for sender:a@b") UP("c") USE("for sender:A@b"),
         "f:9:7: \"c\" would get no mail: \"b\" in line 4 has the same terms and comes first\n"
         "  to mend it: to have it stand in for that one, write when-down before \"for\"\n"},
    };
    for (size_t at = 0; at < sizeof ill / sizeof ill[0]; at++) {
        char text[800];
        snprintf(text, sizeof text, NAMED "%s", ill[at].text);
        expect_refused(text, ill[at].said);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(as_written), cmocka_unit_test(words_refused), cmocka_unit_test(bounds),
        cmocka_unit_test(matches),    cmocka_unit_test(many_stars),    cmocka_unit_test(together),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
