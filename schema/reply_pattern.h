/*
 * Replies of SMTP servers: the enhanced code in them, and patterns for them as tables write them.
 */
#ifndef TASUKI_SCHEMA_REPLY_PATTERN_H
#define TASUKI_SCHEMA_REPLY_PATTERN_H

#include "daemon/base/slice.h"

/* Pattern: three characters, a letter stands for any digit. code: 100..999. */
bool reply_code_matches(const char *pattern, uint16_t code);

/* Pattern: three fields by dots, each a number or "x" for any. Never matches where there is no
 * enhanced code, all 0. RFC 3463 */
bool reply_enhanced_matches(const char *pattern, const uint16_t enhanced[3]);

/*
 * The enhanced code at the head of a reply's text. False, and *out_enhanced as it was, where there
 * is none; nor is there one whose class is not the first digit of the basic code, which decides
 * then. Subject and detail have up to three digits (RFC 3463 2), and large ones are in use
 * ("5.7.708").
 */
bool reply_enhanced_read(struct slice text, uint16_t code, uint16_t out_enhanced[3]);

/* Pattern: one or more texts by "|"; does text hold one of them, in any case, bounded by what is no
 * letter and no digit? A "*" at the end of one leaves that end open. */
bool reply_words_match(const char *pattern, struct slice text);

#endif
