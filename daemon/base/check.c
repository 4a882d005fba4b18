#include "daemon/base/check.h"

#include <stdlib.h>

/* The one global of base/: a crash has no caller to be handed a context by. Set once, before any
 * thread. */
static check_last_words_fn *last_words;

void check_set_last_words(check_last_words_fn *fn)
{
    last_words = fn;
}

void check_failed(const char *text)
{
    if (last_words != NULL) {
        last_words(text);
    }
    abort();
}
