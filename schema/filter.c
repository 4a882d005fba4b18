/*
 * Parsing and judging a filter.
 *
 *   filter = *blank [ term *( 1*blank term ) *blank ]
 *   term   = [ "-" ] ( field ":" value / value )
 *   value  = 1*char / DQUOTE *char DQUOTE        quotes stand around all of it, or not at all
 *
 * Letters are compared as ASCII, any case (RFC 5321 2.4 allows it for domains; for people it is
 * what they expect everywhere).
 */
#include "schema/filter.h"

#include "daemon/base/num.h"
#include "daemon/base/text.h"

#define MESSAGE_BYTES     200
#define QUOTED_BYTES_MAX  24 /* of the user's words in a message; four times that when escaped */
#define BARE_FIELD        (FIELD_COUNT)
#define NULL_SENDER_VALUE SLICE("<>")

/* X(NAME, "word", KIND, "what is wrong with a value that cannot be read") */
#define FIELD_ROWS(X)                                                                              \
    X(FROM, "from", TEXT, "")                                                                      \
    X(TO, "to", TEXT, "")                                                                          \
    X(SUBJECT, "subject", TEXT, "")                                                                \
    X(CLIENT, "client", TEXT, "")                                                                  \
    X(UPSTREAM, "upstream", NAME, "")                                                              \
    X(DEVICE, "device", NAME, "")                                                                  \
    X(STATE, "state", STATE,                                                                       \
      "the states are queued, sending, deferred, in-doubt, held, failed, delivered, trashed")      \
    X(END, "end", END, "a message ends as delivered, reported, deleted or discarded")              \
    X(REASON, "reason", REASON, "reasons are words like deferred or mailbox-full")                 \
    X(ID, "id", ID, "an id has 1 to 16 digits and letters, without i, l, o and u")                 \
    X(OLDER, "older", SPAN, "write a time like 30s, 10m, 2h or 5d")                                \
    X(NEWER, "newer", SPAN, "write a time like 30s, 10m, 2h or 5d")                                \
    X(LARGER, "larger", SIZE, "write a size like 512, 20K or 5M")                                  \
    X(SMALLER, "smaller", SIZE, "write a size like 512, 20K or 5M")

enum field {
#define X(name, word, kind, problem) FIELD_##name,
    FIELD_ROWS(X)
#undef X
        FIELD_COUNT
};

enum value_kind {
    VALUE_TEXT,
    VALUE_NAME, /* may be empty, in quotes: the messages of no device */
    VALUE_STATE,
    VALUE_END,
    VALUE_REASON,
    VALUE_ID,
    VALUE_SPAN,
    VALUE_SIZE
};

static const struct {
    enum value_kind kind;
    const char *problem;
} fields[FIELD_COUNT] = {
#define X(name, word, kind, problem) [FIELD_##name] = {VALUE_##kind, (problem)},
    FIELD_ROWS(X)
#undef X
};

static const char *const field_words[FIELD_COUNT] = {
#define X(name, word, kind, problem) [FIELD_##name] = (word),
    FIELD_ROWS(X)
#undef X
};

static const char *const reason_words[OUTCOME_COUNT] = {
#define X(name, word, action, first, longest, sentence, hint) [OUTCOME_##name] = (word),
#include "schema/outcome.def"
#undef X
};

struct unit {
    char letter;
    uint64_t factor;
};

static const struct unit span_units[] = {
    {'s', 1000}, {'m', 60 * 1000}, {'h', 3600 * 1000}, {'d', 86400 * 1000}};
static const struct unit size_units[] = {
    {'k', UINT64_C(1) << 10}, {'m', UINT64_C(1) << 20}, {'g', UINT64_C(1) << 30}};

/* ---- what to tell ---- */

/* what "word"; why - or, with a nearest word: what "word"; did you mean "nearest"? Returns false.
 */
static bool complain(char message[MESSAGE_BYTES], const char *what, struct slice word,
                     const char *why, const char *nearest)
{
    struct buf text;
    buf_init(&text, message, MESSAGE_BYTES - 1);
    buf_put_str(&text, what);
    buf_put_str(&text, " \"");
    text_put_escaped(&text, slice_head(word, QUOTED_BYTES_MAX));
    buf_put_str(&text, word.len > QUOTED_BYTES_MAX ? "...\"; " : "\"; ");
    if (nearest != NULL) {
        buf_put_str(&text, "did you mean \"");
        buf_put_str(&text, nearest);
        buf_put_str(&text, "\"?");
    } else {
        buf_put_str(&text, why);
    }
    message[text.len] = '\0';
    return false;
}

/* ---- values ---- */

/* Index of word in words, any case, or count. */
static size_t word_index(struct slice word, const char *const *words, size_t count)
{
    size_t index = 0;
    while (index < count && !slice_equal_nocase(word, slice_from_str(words[index]))) {
        index++;
    }
    return index;
}

/* A number and one of these units. False also when the product does not fit. */
static bool quantity_parse(struct slice text, const struct unit *units, size_t unit_count,
                           bool unit_needed, uint64_t *out_value)
{
    uint64_t factor = unit_needed ? 0 : 1;
    if (text.len > 0) {
        uint8_t last = ascii_lower(text.data[text.len - 1]);
        for (size_t index = 0; index < unit_count; index++) {
            if (last == (uint8_t)units[index].letter) {
                factor = units[index].factor;
                text.len--;
                break;
            }
        }
    }
    uint64_t count;
    if (factor == 0 || !u64_parse(text, &count) || count > UINT64_MAX / factor) {
        return false;
    }
    *out_value = count * factor;
    return true;
}

static bool state_parse(struct slice text, uint64_t *out_value)
{
    for (unsigned state = 0; state < LIFECYCLE_COUNT; state++) {
        if (slice_equal_nocase(text, slice_from_str(lifecycle_word((enum lifecycle)state)))) {
            *out_value = state;
            return true;
        }
    }
    return false;
}

static bool end_parse(struct slice text, uint64_t *out_value)
{
    for (unsigned end = 0; end < RECORD_END_COUNT; end++) {
        if (slice_equal_nocase(text, slice_from_str(record_end_word((enum record_end)end)))) {
            *out_value = end;
            return true;
        }
    }
    return false;
}

static bool reason_parse(struct slice text, uint64_t *out_value)
{
    size_t index = word_index(text, reason_words, OUTCOME_COUNT);
    if (index == OUTCOME_COUNT) {
        return false;
    }
    *out_value = index;
    return true;
}

static bool value_parse(struct filter_term *term)
{
    switch (fields[term->field].kind) {
    case VALUE_TEXT:
    case VALUE_NAME:
        return true;
    case VALUE_STATE:
        return state_parse(term->text, &term->number);
    case VALUE_END:
        return end_parse(term->text, &term->number);
    case VALUE_REASON:
        return reason_parse(term->text, &term->number);
    case VALUE_ID:
        return msg_id_parse_prefix(term->text, &term->first, &term->last);
    case VALUE_SPAN:
        return quantity_parse(term->text, span_units, sizeof span_units / sizeof span_units[0],
                              true, &term->number);
    case VALUE_SIZE:
        return quantity_parse(term->text, size_units, sizeof size_units / sizeof size_units[0],
                              false, &term->number);
    }
    return false;
}

/* ---- words ---- */

static bool is_blank(uint8_t byte)
{
    return byte == ' ' || byte == '\t' || byte == '\r' || byte == '\n';
}

static struct slice skip_blanks(struct slice text)
{
    while (text.len > 0 && is_blank(text.data[0])) {
        text = slice_tail(text, 1);
    }
    return text;
}

/* Bytes up to the next blank, quote or colon, whichever is first. */
static size_t run_bytes(struct slice text, bool stop_at_colon)
{
    size_t len = 0;
    while (len < text.len && !is_blank(text.data[len]) && text.data[len] != '"' &&
           !(stop_at_colon && text.data[len] == ':')) {
        len++;
    }
    return len;
}

struct value {
    struct slice text;
    bool quoted;
};

/* Takes a value off *text; whole is the term that it belongs to, for the message. */
static bool value_take(struct slice *text, struct slice whole, struct value *out,
                       char message[MESSAGE_BYTES])
{
    struct value value = {.quoted = text->len > 0 && text->data[0] == '"'};
    struct slice rest;
    if (value.quoted) {
        struct slice inside = slice_tail(*text, 1);
        size_t len = slice_find(inside, '"');
        if (len == inside.len) {
            return complain(message, "no closing quote in", whole, "add a \" at its end", NULL);
        }
        value.text = slice_head(inside, len);
        rest = slice_tail(inside, len + 1);
    } else {
        value.text = slice_head(*text, run_bytes(*text, false));
        rest = slice_tail(*text, value.text.len);
    }
    if (rest.len > 0 && !is_blank(rest.data[0])) {
        return complain(message, "a quote in the middle of", whole,
                        "put quotes around the whole value", NULL);
    }
    *out = value;
    *text = rest;
    return true;
}

/* Without a field: text that is looked for in several places. The id is one of them where number is
 * 1, since then the text may be the beginning of one. */
static bool bare_term(struct filter_term *term, struct slice whole, char message[MESSAGE_BYTES])
{
    if (term->text.len == 0) {
        return complain(message, "nothing to look for in", whole, "write a word", NULL);
    }
    term->field = BARE_FIELD;
    struct msg_id first;
    struct msg_id last;
    term->number = msg_id_parse_prefix(term->text, &first, &last) ? 1 : 0;
    if (term->number == 1) {
        term->first = first;
        term->last = last;
    }
    return true;
}

static bool field_term(struct filter_term *term, struct slice name, bool quoted,
                       char message[MESSAGE_BYTES])
{
    size_t field = word_index(name, field_words, FIELD_COUNT);
    if (field == FIELD_COUNT) {
        return complain(message, "unknown field", name,
                        "to look for a text with a colon, put it in quotes",
                        text_nearest(name, field_words, FIELD_COUNT));
    }
    term->field = (uint8_t)field;
    if (term->text.len == 0 && !(quoted && fields[field].kind == VALUE_NAME)) {
        return complain(message, "nothing after the colon of", name, "write a value", NULL);
    }
    if (!value_parse(term)) {
        const char *nearest = fields[field].kind == VALUE_REASON
                                  ? text_nearest(term->text, reason_words, OUTCOME_COUNT)
                                  : NULL;
        char what[32];
        struct buf text;
        buf_init(&text, what, sizeof what - 1);
        buf_put_str(&text, "bad value for ");
        buf_put_str(&text, field_words[field]);
        what[text.len] = '\0';
        return complain(message, what, term->text, fields[field].problem, nearest);
    }
    return true;
}

/* Takes one term off *text, which begins with no blank and is not empty. */
static bool term_take(struct slice *text, struct filter_term *out, char message[MESSAGE_BYTES])
{
    struct slice whole = slice_head(*text, run_bytes(*text, false));
    struct slice rest = *text;
    struct filter_term term = {.negated = rest.data[0] == '-'};
    if (term.negated) {
        rest = slice_tail(rest, 1);
    }
    size_t name_bytes = run_bytes(rest, true);
    bool has_field = name_bytes < rest.len && rest.data[name_bytes] == ':';
    struct slice name = slice_head(rest, name_bytes);
    if (has_field) {
        rest = slice_tail(rest, name_bytes + 1);
    }
    struct value value = {0};
    if (!value_take(&rest, whole, &value, message)) {
        return false;
    }
    term.text = value.text;
    if (has_field ? !field_term(&term, name, value.quoted, message)
                  : !bare_term(&term, whole, message)) {
        return false;
    }
    *out = term;
    *text = rest;
    return true;
}

bool filter_parse(struct filter *out, struct slice text, char message[MESSAGE_BYTES])
{
    struct filter filter = {0};
    for (text = skip_blanks(text); text.len > 0; text = skip_blanks(text)) {
        if (filter.count == FILTER_TERMS_MAX) {
            return complain(message, "too many words from", text, "a filter has at most 16", NULL);
        }
        if (!term_take(&text, &filter.terms[filter.count], message)) {
            return false;
        }
        filter.count++;
    }
    *out = filter;
    return true;
}

/* ---- judging ---- */

static bool contains(struct slice text, struct slice part)
{
    while (text.len >= part.len) {
        if (slice_starts_with_nocase(text, part)) {
            return true;
        }
        text = slice_tail(text, 1);
    }
    return false;
}

static bool sender_contains(struct slice sender, struct slice part)
{
    return contains(sender, part) || (sender.len == 0 && slice_equal(part, NULL_SENDER_VALUE));
}

static bool any_recipient_contains(struct slice recipients, struct slice part)
{
    struct slice path;
    while (record_recipient_next(&recipients, &path)) {
        if (contains(path, part)) {
            return true;
        }
    }
    return false;
}

static bool any_recipient_has_outcome(struct slice fates, uint64_t outcome)
{
    struct record_recipient recipient;
    while (record_fate_next(&fates, &recipient)) {
        if ((uint64_t)recipient.outcome == outcome) {
            return true;
        }
    }
    return false;
}

static bool id_is_within(const struct msg_id *id, const struct filter_term *term)
{
    return msg_id_compare(&term->first, id) <= 0 && msg_id_compare(id, &term->last) <= 0;
}

static bool any_recipient_is(const struct record_message *m, enum recipient_state state)
{
    struct slice fates = m->state.recipients;
    struct record_recipient recipient;
    while (record_fate_next(&fates, &recipient)) {
        if (recipient.state == state) {
            return true;
        }
    }
    return false;
}

static bool has_state(const struct record_message *m, enum lifecycle state)
{
    bool queued = m->history == NULL && m->state.state == MESSAGE_QUEUED;
    switch (state) {
    case LIFECYCLE_QUEUED:
        return queued;
    case LIFECYCLE_SENDING:
        return m->leased;
    case LIFECYCLE_DEFERRED:
        return queued && any_recipient_is(m, RECIPIENT_DEFERRED);
    case LIFECYCLE_IN_DOUBT:
        return queued && any_recipient_is(m, RECIPIENT_IN_DOUBT);
    case LIFECYCLE_HELD:
        return m->history == NULL && m->state.state == MESSAGE_HELD;
    case LIFECYCLE_DELIVERED:
        return any_recipient_is(m, RECIPIENT_DELIVERED);
    case LIFECYCLE_FAILED:
        return m->history != NULL ? any_recipient_is(m, RECIPIENT_FAILED)
                                  : m->state.state == MESSAGE_FAILED;
    case LIFECYCLE_TRASHED:
        return m->history == NULL && m->state.state == MESSAGE_TRASHED;
    case LIFECYCLE_COUNT:
    default:
        return false;
    }
}

static bool is_device(const struct record_message *m, struct slice text)
{
    return slice_equal_nocase(m->envelope.device, text) ||
           (text.len > 0 && slice_equal_nocase(m->state.device, text)); /* or its address */
}

static bool term_matches(const struct filter_term *term, const struct record_message *m,
                         uint64_t now_ms)
{
    const struct record_envelope *envelope = &m->envelope;
    /* A wall clock that was set back makes no message older than it is. */
    uint64_t age_ms = now_ms > envelope->arrived_ms ? now_ms - envelope->arrived_ms : 0;
    switch ((enum field)term->field) {
    case FIELD_FROM:
        return sender_contains(envelope->sender, term->text);
    case FIELD_TO:
        return any_recipient_contains(envelope->recipients, term->text);
    case FIELD_SUBJECT:
        return contains(envelope->subject, term->text);
    case FIELD_CLIENT:
        return contains(envelope->client, term->text);
    case FIELD_UPSTREAM:
        return slice_equal_nocase(m->state.upstream, term->text);
    case FIELD_DEVICE:
        return is_device(m, term->text);
    case FIELD_STATE:
        return has_state(m, (enum lifecycle)term->number);
    case FIELD_END:
        return m->history != NULL && (uint64_t)m->history->end == term->number;
    case FIELD_REASON:
        return any_recipient_has_outcome(m->state.recipients, term->number);
    case FIELD_ID:
        return id_is_within(&m->id, term);
    case FIELD_OLDER:
        return age_ms > term->number;
    case FIELD_NEWER:
        return age_ms < term->number;
    case FIELD_LARGER:
        return envelope->body_bytes > term->number;
    case FIELD_SMALLER:
        return envelope->body_bytes < term->number;
    case BARE_FIELD:
        return sender_contains(envelope->sender, term->text) ||
               contains(envelope->subject, term->text) ||
               (term->number == 1 && id_is_within(&m->id, term)) ||
               any_recipient_contains(envelope->recipients, term->text);
    }
    CHECK(false);
}

bool filter_matches(const struct filter *f, const struct record_message *message, uint64_t now_ms)
{
    for (uint32_t index = 0; index < f->count; index++) {
        const struct filter_term *term = &f->terms[index];
        if (term_matches(term, message, now_ms) == term->negated) {
            return false;
        }
    }
    return true;
}

bool filter_matches_upstream(const struct filter *f, struct slice upstream)
{
    for (uint32_t index = 0; index < f->count; index++) {
        const struct filter_term *term = &f->terms[index];
        if (term->field != FIELD_UPSTREAM ||
            slice_equal_nocase(upstream, term->text) == term->negated) {
            return false;
        }
    }
    return true;
}

bool filter_wants_trashed(const struct filter *f)
{
    for (uint32_t index = 0; index < f->count; index++) {
        const struct filter_term *term = &f->terms[index];
        if (term->field == FIELD_STATE && term->number == LIFECYCLE_TRASHED && !term->negated) {
            return true;
        }
    }
    return false;
}
