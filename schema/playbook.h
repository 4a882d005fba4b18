/*
 * What is known of mail providers: the rows of playbook.def.
 */
#ifndef TASUKI_SCHEMA_PLAYBOOK_H
#define TASUKI_SCHEMA_PLAYBOOK_H

#include "daemon/base/slice.h"
#include "schema/outcome.h"

enum playbook_provider {
    PLAYBOOK_NONE, /* a server that nothing special is known of */
#define PROVIDER(name, ...) PLAYBOOK_##name,
#include "schema/playbook.def"
    PLAYBOOK_PROVIDER_COUNT
};

/* Where in the conversation something was said. */
enum playbook_where { PLAYBOOK_HELLO, PLAYBOOK_LOGIN, PLAYBOOK_MESSAGE, PLAYBOOK_ANY };

struct playbook_row {
    const char *word, *title, *host, *regional, *advice;
    bool wants_real_name;
};

struct playbook_reply {
    enum playbook_provider provider;
    enum playbook_where where;
    const char *code, *enhanced, *words; /* the last two may be NULL */
    enum outcome outcome;
    const char *sentence, *hint;
};

/* The provider's row; NULL for NONE. */
const struct playbook_row *playbook_row(enum playbook_provider provider);

/* The provider with that word; NONE when there is none. */
enum playbook_provider playbook_find(struct slice word);

/* Its default for a setting, NULL where it has none of its own. */
const char *playbook_setting(enum playbook_provider provider, const char *key);

/*
 * What the provider means by a reply, NULL when its rows say nothing about it.
 *   where     ANY: it is not known any more where it was said
 *   enhanced  all 0 when there was none
 */
const struct playbook_reply *playbook_reply(enum playbook_provider provider,
                                            enum playbook_where where, uint16_t code,
                                            const uint16_t enhanced[3], struct slice text);

/*
 * What to tell people about an outcome: in the provider's row where it is one that a row brings
 * about, else in outcome.def's.
 *   text   of the reply, with its enhanced code at the head where it had one
 */
struct playbook_words {
    const char *sentence, *hint;
};
struct playbook_words playbook_words(enum playbook_provider provider, enum outcome outcome,
                                     uint16_t code, struct slice text);

/* All rows, for tests and documents: index 0.. until NULL. */
const struct playbook_reply *playbook_reply_at(size_t index);

#endif
