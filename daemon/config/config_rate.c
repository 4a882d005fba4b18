/*
 * The type RATE: how many messages or recipients within a span.
 *
 *     rates = rate *("," rate)
 *     rate  = 1*DIGIT [blanks ("messages" / "recipients")] "/" ("min" / "hour" / "day")
 *
 * Each pair of what and span once; without a word it is messages.
 */
#include "daemon/base/num.h"
#include "daemon/base/text.h"
#include "daemon/config/config_private.h"

#include <stdio.h>

static const char *const kinds[CONFIG_RATE_KINDS] = {"messages", "recipients"};
static const char *const spans[CONFIG_RATE_SPANS] = {"min", "hour", "day"};

/* Index of the word, or count. */
static uint32_t word_find(struct slice text, const char *const *words, uint32_t count)
{
    uint32_t index = 0;
    while (index < count && !slice_equal(text, slice_from_str(words[index]))) {
        index++;
    }
    return index;
}

static bool refuse_word(const struct config_value *value, struct slice at, struct slice word,
                        const char *const *words, uint32_t count, const char *expected)
{
    const char *nearest = text_nearest(word, words, count);
    return config_value_refuse(value, at, NULL, "%s is not %s%s%s%s", config_quote(word).text,
                               expected, nearest == NULL ? "" : "; did you mean \"",
                               nearest == NULL ? "" : nearest, nearest == NULL ? "" : "\"?");
}

static bool judge_one(const struct config_value *value, struct slice item, struct config_rate *rate)
{
    size_t slash = slice_find(item, '/');
    if (slash == item.len) {
        return config_value_refuse(value, item, NULL,
                                   "%s is not a rate: a number, / and min, hour "
                                   "or day",
                                   config_quote(item).text);
    }
    struct slice amount = slice_trim(slice_head(item, slash));
    struct slice span_word = slice_trim(slice_tail(item, slash + 1));
    size_t digits = 0;
    while (digits < amount.len && amount.data[digits] >= '0' && amount.data[digits] <= '9') {
        digits++;
    }
    struct slice kind_word = slice_trim(slice_tail(amount, digits));
    uint64_t number = 0;
    if (!u64_parse(slice_head(amount, digits), &number) || number < 1 || number > UINT32_MAX) {
        return config_value_refuse(value, item, NULL,
                                   "%s does not begin with a number from 1 to 4294967295",
                                   config_quote(item).text);
    }
    uint32_t kind =
        kind_word.len == 0 ? CONFIG_RATE_MESSAGES : word_find(kind_word, kinds, CONFIG_RATE_KINDS);
    uint32_t span = word_find(span_word, spans, CONFIG_RATE_SPANS);
    if (kind == CONFIG_RATE_KINDS) {
        return refuse_word(value, item, kind_word, kinds, CONFIG_RATE_KINDS,
                           "messages or recipients");
    }
    if (span == CONFIG_RATE_SPANS) {
        return refuse_word(value, item, span_word, spans, CONFIG_RATE_SPANS, "min, hour or day");
    }
    if (rate->most[kind][span] != 0) {
        return config_value_refuse(value, item, "keep one of them", "%s/%s is there twice",
                                   kinds[kind], spans[span]);
    }
    rate->most[kind][span] = u32_from(number);
    return true;
}

bool config_rate_judge(const struct config_value *value, struct config_rate *out)
{
    struct config_rate rate = {0};
    struct slice rest = value->text, item;
    while (config_list_next(&rest, &item)) {
        if (!judge_one(value, item, &rate)) {
            return false;
        }
    }
    *out = rate;
    return true;
}

void config_put_rate(struct buf *to, const struct config_rate *rate)
{
    bool first = true;
    for (size_t kind = 0; kind < CONFIG_RATE_KINDS; kind++) {
        for (size_t span = 0; span < CONFIG_RATE_SPANS; span++) {
            if (rate->most[kind][span] == 0) {
                continue;
            }
            buf_put_str(to, first ? "" : ", ");
            buf_put_u64(to, rate->most[kind][span]);
            buf_put_str(to, kind == CONFIG_RATE_MESSAGES ? "" : " recipients");
            buf_put_byte(to, '/');
            buf_put_str(to, spans[span]);
            first = false;
        }
    }
}
