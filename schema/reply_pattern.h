/*
 * Patterns for replies of SMTP servers, as tables write them.
 */
#ifndef TASUKI_SCHEMA_REPLY_PATTERN_H
#define TASUKI_SCHEMA_REPLY_PATTERN_H

#include "daemon/base/slice.h"

/* Pattern: three characters, a letter stands for any digit. code: 100..999. */
bool reply_code_matches(const char *pattern, uint16_t code);

/* Pattern: three fields by dots, each a number or "x" for any. Never matches where there is no
 * enhanced code, all 0. RFC 3463 */
bool reply_enhanced_matches(const char *pattern, const uint16_t enhanced[3]);

/* Pattern: one or more texts by "|"; does text hold one of them, in any case, bounded by what is no
 * letter and no digit? A "*" at the end of one leaves that end open. */
bool reply_words_match(const char *pattern, struct slice text);

#endif
