/*
 * CHECK aborts on a programmer's error, in release builds too. It is never used on bytes that came
 * from a peer, a file or the disk: those are judged, and answered.
 */
#ifndef TASUKI_BASE_CHECK_H
#define TASUKI_BASE_CHECK_H

#define MUST_CHECK __attribute__((warn_unused_result))
#define PRINTF_LIKE(format_index, first_index)                                                     \
    __attribute__((format(printf, format_index, first_index)))

/* Called once before the abort, so that the last words reach somebody; text is "file:line:
 * expression". */
typedef void check_last_words_fn(const char *text);

void check_set_last_words(check_last_words_fn *fn);

__attribute__((noreturn, cold)) void check_failed(const char *text);

#define CHECK_TEXT_2(x) #x
#define CHECK_TEXT(x)   CHECK_TEXT_2(x)
#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (__builtin_expect(!(condition), 0)) {                                                   \
            check_failed(__FILE__ ":" CHECK_TEXT(__LINE__) ": " #condition);                       \
        }                                                                                          \
    } while (0)

/* Where no correct program comes by; text is a literal. */
#define UNREACHABLE(text) check_failed(__FILE__ ":" CHECK_TEXT(__LINE__) ": " text)

#endif
