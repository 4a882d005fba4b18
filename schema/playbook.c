#include "schema/playbook.h"

#include "schema/reply_pattern.h"

enum { PLAYBOOK_ANY_NAME, PLAYBOOK_REAL_NAME };

static const struct playbook_row providers[PLAYBOOK_PROVIDER_COUNT] = {
#define PROVIDER(name, word, title, host, regional, names, advice)                                 \
    [PLAYBOOK_##name] = {(word),     (title),  (host),                                             \
                         (regional), (advice), PLAYBOOK_##names == PLAYBOOK_REAL_NAME},
#include "schema/playbook.def"
};

static const struct {
    enum playbook_provider provider;
    const char *key, *value;
} settings[] = {
#define SETTING(name, key, value) {PLAYBOOK_##name, (key), (value)},
#include "schema/playbook.def"
};

static const struct playbook_reply replies[] = {
#define REPLY(name, where, code, enhanced, words, outcome, sentence, hint)                         \
    {PLAYBOOK_##name, PLAYBOOK_##where,  (code),     (enhanced),                                   \
     (words),         OUTCOME_##outcome, (sentence), (hint)},
#include "schema/playbook.def"
};

const struct playbook_row *playbook_row(enum playbook_provider provider)
{
    bool known = provider > PLAYBOOK_NONE && provider < PLAYBOOK_PROVIDER_COUNT;
    return known ? &providers[provider] : NULL;
}

enum playbook_provider playbook_find(struct slice word)
{
    for (unsigned at = PLAYBOOK_NONE + 1; at < PLAYBOOK_PROVIDER_COUNT; at++) {
        if (slice_equal_nocase(word, slice_from_str(providers[at].word))) {
            return (enum playbook_provider)at;
        }
    }
    return PLAYBOOK_NONE;
}

const char *playbook_setting(enum playbook_provider provider, const char *key)
{
    for (size_t at = 0; at < sizeof settings / sizeof settings[0]; at++) {
        if (settings[at].provider == provider && strcmp(settings[at].key, key) == 0) {
            return settings[at].value;
        }
    }
    return NULL;
}

static bool reply_matches(const struct playbook_reply *row, enum playbook_where where,
                          uint16_t code, const uint16_t enhanced[3], struct slice text)
{
    bool here = row->where == PLAYBOOK_ANY || where == PLAYBOOK_ANY || row->where == where;
    return here && reply_code_matches(row->code, code) &&
           (row->enhanced == NULL || reply_enhanced_matches(row->enhanced, enhanced)) &&
           (row->words == NULL || reply_words_match(row->words, text));
}

const struct playbook_reply *playbook_reply(enum playbook_provider provider,
                                            enum playbook_where where, uint16_t code,
                                            const uint16_t enhanced[3], struct slice text)
{
    if (provider == PLAYBOOK_NONE || code < 100 || code > 999) {
        return NULL;
    }
    for (size_t at = 0; at < sizeof replies / sizeof replies[0]; at++) {
        if (replies[at].provider == provider &&
            reply_matches(&replies[at], where, code, enhanced, text)) {
            return &replies[at];
        }
    }
    return NULL;
}

const struct playbook_reply *playbook_reply_at(size_t index)
{
    return index < sizeof replies / sizeof replies[0] ? &replies[index] : NULL;
}

struct playbook_words playbook_words(enum playbook_provider provider, enum outcome outcome,
                                     uint16_t code, struct slice text)
{
    uint16_t enhanced[3] = {0};
    (void)reply_enhanced_read(text, code, enhanced);
    const struct playbook_reply *row = playbook_reply(provider, PLAYBOOK_ANY, code, enhanced, text);
    const struct outcome_row *general = outcome_row(outcome);
    if (row != NULL && row->outcome == outcome) {
        return (struct playbook_words){row->sentence, row->hint};
    }
    return (struct playbook_words){general->sentence, general->hint};
}
