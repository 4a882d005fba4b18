/*
 * The type USE: which mail an upstream takes, and whether only while another is down.
 *
 *     use     = role / [role blanks] "for" 1*( gap term )
 *     role    = "always" / "when-down"
 *     term    = ( "sender" / "recipient" ) ":" pattern
 *     pattern = 1*( byte / "*" ) / "<>"      a whole address; "*" is any text, also none
 *     gap     = 1*( blank / "," )
 *
 * Terms about senders are alternatives, terms about recipients likewise; where there are both, both
 * must hold. ASCII letters match in any case. "<>" is the null sender.
 */
#include "daemon/base/text.h"
#include "daemon/config/config_private.h"

#include <stdio.h>

static const char *const sides[] = {
    [CONFIG_USE_SENDER] = "sender", [CONFIG_USE_RECIPIENT] = "recipient"};
static const char *const roles[] = {
    [CONFIG_USE_ALWAYS] = "always", [CONFIG_USE_WHEN_DOWN] = "when-down"};

#define NULL_SENDER "<>"

/* ---- matching ---- */

/* Each "*" takes as little as it can, and one byte more whenever what follows does not fit: only
 * the last one met has to be tried again, so the cost is the product of the lengths at most. */
static bool pattern_matches(struct slice pattern, struct slice text)
{
    size_t at = 0, in = 0;
    size_t star = pattern.len, star_in = 0; /* the last "*", and where in text its part ends */
    while (in < text.len) {
        if (at < pattern.len && pattern.data[at] == '*') {
            star = at++;
            star_in = in;
        } else if (at < pattern.len && ascii_lower(text.data[in]) == pattern.data[at]) {
            at++;
            in++;
        } else if (star < pattern.len) {
            at = star + 1;
            in = ++star_in;
        } else {
            return false;
        }
    }
    while (at < pattern.len && pattern.data[at] == '*') {
        at++;
    }
    return at == pattern.len;
}

static struct slice pattern_of(const struct config_use *use, uint32_t index)
{
    return slice_of(use->text + use->terms[index].offset, use->terms[index].bytes);
}

static bool term_matches(const struct config_use *use, uint32_t index, struct slice address)
{
    struct slice pattern = pattern_of(use, index);
    return slice_equal(pattern, SLICE(NULL_SENDER)) ? address.len == 0
                                                    : pattern_matches(pattern, address);
}

bool config_use_matches(const struct config_use *use, struct slice sender, struct slice recipient)
{
    bool any[CONFIG_USE_SIDES] = {false}, fits[CONFIG_USE_SIDES] = {false};
    for (uint32_t index = 0; index < use->count; index++) {
        enum config_use_side side = use->terms[index].side;
        any[side] = true;
        fits[side] =
            fits[side] || term_matches(use, index, side == CONFIG_USE_SENDER ? sender : recipient);
    }
    return (!any[CONFIG_USE_SENDER] || fits[CONFIG_USE_SENDER]) &&
           (!any[CONFIG_USE_RECIPIENT] || fits[CONFIG_USE_RECIPIENT]);
}

static bool has_term(const struct config_use *use, enum config_use_side side, struct slice pattern)
{
    for (uint32_t index = 0; index < use->count; index++) {
        if (use->terms[index].side == side && slice_equal(pattern_of(use, index), pattern)) {
            return true;
        }
    }
    return false;
}

bool config_use_same_terms(const struct config_use *a, const struct config_use *b)
{
    bool same = a->count == b->count; /* none is there twice */
    for (uint32_t index = 0; same && index < a->count; index++) {
        same = has_term(b, a->terms[index].side, pattern_of(a, index));
    }
    return same;
}

/* ---- reading ---- */

static bool is_gap(uint8_t byte)
{
    return byte == ' ' || byte == '\t' || byte == ',';
}

/* Takes the next word off *rest. False at the end. */
static bool word_next(struct slice *rest, struct slice *out)
{
    size_t begin = 0;
    while (begin < rest->len && is_gap(rest->data[begin])) {
        begin++;
    }
    size_t end = begin;
    while (end < rest->len && !is_gap(rest->data[end])) {
        end++;
    }
    *out = slice_of(rest->data + begin, end - begin);
    *rest = slice_of(rest->data + end, rest->len - end);
    return out->len > 0;
}

static bool refuse_role(const struct config_value *value, struct slice word)
{
    static const char *const words[] = {"always", "when-down", "for"};
    const char *nearest = text_nearest(word, words, sizeof words / sizeof words[0]);
    return config_value_refuse(value, word, NULL, "%s is not always, when-down or for%s%s%s",
                               config_quote(word).text, nearest == NULL ? "" : "; did you mean \"",
                               nearest == NULL ? "" : nearest, nearest == NULL ? "" : "\"?");
}

static bool refuse_term(const struct config_value *value, struct slice word, struct slice side)
{
    const char *nearest = slice_equal(side, SLICE("from")) ? "sender"
                          : slice_equal(side, SLICE("to"))
                              ? "recipient"
                              : text_nearest(side, sides, CONFIG_USE_SIDES);
    return config_value_refuse(value, word, NULL,
                               "%s is not sender:PATTERN or recipient:PATTERN%s%s%s",
                               config_quote(word).text, nearest == NULL ? "" : "; did you mean \"",
                               nearest == NULL ? "" : nearest, nearest == NULL ? "" : ":\"?");
}

/* Why this is no pattern, as the end of a sentence that begins with it; NULL when it is one. */
static const char *pattern_problem(enum config_use_side side, struct slice pattern)
{
    if (pattern.len == 0) {
        return "is empty";
    }
    if (slice_equal(pattern, SLICE(NULL_SENDER))) {
        return side == CONFIG_USE_SENDER ? NULL : "is no recipient: only a sender can be null";
    }
    if (pattern.len > SMTP_PATH_BYTES_MAX) {
        return "is longer than an address can be";
    }
    if (slice_find(pattern, '<') < pattern.len || slice_find(pattern, '>') < pattern.len) {
        return "is written without < and >";
    }
    if (slice_find(pattern, '@') == pattern.len && slice_find(pattern, '*') == pattern.len) {
        return "has no @ and no *: no address is like that";
    }
    return NULL;
}

static bool add_term(const struct config_value *value, struct slice word, struct config_use *use,
                     struct buf *text)
{
    size_t colon = slice_find(word, ':');
    struct slice name = slice_head(word, colon);
    uint32_t side = 0;
    while (side < CONFIG_USE_SIDES && !slice_equal(name, slice_from_str(sides[side]))) {
        side++;
    }
    if (colon == word.len || side == CONFIG_USE_SIDES) {
        return refuse_term(value, word, name);
    }
    struct slice pattern = slice_of(word.data + colon + 1, word.len - colon - 1);
    const char *problem = pattern_problem((enum config_use_side)side, pattern);
    if (problem != NULL) {
        return config_value_refuse(value, word, NULL, "the pattern %s %s",
                                   config_quote(pattern).text, problem);
    }
    if (use->count == CONFIG_USE_TERMS_MAX || pattern.len > buf_room(text)) {
        return config_value_refuse(value, word, "leave some out, or use wider patterns",
                                   "an upstream may have %d terms of %d bytes together",
                                   CONFIG_USE_TERMS_MAX, CONFIG_USE_BYTES);
    }
    struct config_use_term *term = &use->terms[use->count];
    *term = (struct config_use_term){.side = (enum config_use_side)side,
                                     .offset = (uint16_t)text->len,
                                     .bytes = (uint16_t)pattern.len};
    for (size_t index = 0; index < pattern.len; index++) {
        buf_put_byte(text, ascii_lower(pattern.data[index]));
    }
    if (has_term(use, term->side, pattern_of(use, use->count))) {
        return config_value_refuse(value, word, "keep one of them", "%s is there twice",
                                   config_quote(word).text);
    }
    use->count++;
    return true;
}

bool config_use_judge(const struct config_value *value, struct config_use *out)
{
    struct config_use use = {.role = CONFIG_USE_ALWAYS};
    struct slice rest = value->text, word;
    struct buf text;
    buf_init(&text, use.text, sizeof use.text);
    bool some = word_next(&rest, &word);
    if (some && slice_equal(word, slice_from_str(roles[CONFIG_USE_WHEN_DOWN]))) {
        use.role = CONFIG_USE_WHEN_DOWN;
        some = word_next(&rest, &word);
    } else if (some && slice_equal(word, slice_from_str(roles[CONFIG_USE_ALWAYS]))) {
        some = word_next(&rest, &word);
    } else if (!some || !slice_equal(word, SLICE("for"))) {
        return refuse_role(value, word);
    }
    if (some && !slice_equal(word, SLICE("for"))) {
        return config_value_refuse(value, word, NULL, "%s stands where only \"for\" can",
                                   config_quote(word).text);
    }
    bool terms_follow = some;
    while (some && word_next(&rest, &word)) {
        if (!add_term(value, word, &use, &text)) {
            return false;
        }
    }
    if (terms_follow && use.count == 0) {
        return config_value_refuse(value, value->text, NULL, "nothing stands behind \"for\"");
    }
    memcpy(out, &use, sizeof use);
    return true;
}

void config_use_put(struct buf *to, const struct config_use *use)
{
    bool role = use->role == CONFIG_USE_WHEN_DOWN || use->count == 0;
    buf_put_str(to, role ? roles[use->role] : "");
    buf_put_str(to, use->count == 0 ? "" : role ? " for" : "for");
    for (uint32_t index = 0; index < use->count; index++) {
        buf_put_byte(to, ' ');
        buf_put_str(to, sides[use->terms[index].side]);
        buf_put_byte(to, ':');
        buf_put(to, pattern_of(use, index));
    }
}

/* ---- all upstreams together ---- */

struct use_check {
    const struct config *config;
    const struct config_marks *marks;
    struct config_errors *errors;
};

static struct config_place place_of(const struct use_check *c, uint32_t index)
{
    const struct config_mark *mark = &c->marks->upstream[index][CONFIG_ROW_UPSTREAM_use];
    struct config_place begin = {c->config->upstreams[index].line, 1};
    return mark->state == CONFIG_MARK_GIVEN ? mark->place : begin;
}

/* The first that takes the mail of these terms by itself; upstream_count when there is none. */
static uint32_t taker_of(const struct config *config, const struct config_use *use)
{
    uint32_t index = 0;
    while (index < config->upstream_count &&
           (config->upstreams[index].use.role != CONFIG_USE_ALWAYS ||
            !config_use_same_terms(&config->upstreams[index].use, use))) {
        index++;
    }
    return index;
}

static void check_rest(const struct use_check *c)
{
    static const struct config_use nothing_said = {.role = CONFIG_USE_ALWAYS};
    if (taker_of(c->config, &nothing_said) < c->config->upstream_count) {
        return;
    }
    bool any = false;
    for (uint32_t index = 0; index < c->config->upstream_count; index++) {
        any = any || c->config->upstreams[index].use.role == CONFIG_USE_ALWAYS;
    }
    config_report(c->errors, place_of(c, 0),
                  any ? "let one upstream take the rest: use = always"
                      : "write for the one that is to take the mail: use = always",
                  any ? "mail that no \"for\" matches has nowhere to go: every upstream takes only "
                        "some"
                      : "every upstream is used only when another is down: no mail goes anywhere");
}

static void check_terms(const struct use_check *c, uint32_t index)
{
    const struct config_upstream *upstream = &c->config->upstreams[index];
    uint32_t taker = taker_of(c->config, &upstream->use);
    if (upstream->use.count == 0) {
        return; /* check_rest has looked at those */
    }
    if (upstream->use.role == CONFIG_USE_WHEN_DOWN && taker == c->config->upstream_count) {
        config_report(c->errors, place_of(c, index),
                      "give it the same terms as the upstream that it is to stand in for, in any "
                      "order, or none",
                      "\"%s\" stands behind no upstream: none takes mail for exactly these terms",
                      upstream->name);
    } else if (upstream->use.role == CONFIG_USE_ALWAYS && taker < index) {
        config_report(c->errors, place_of(c, index),
                      "to have it stand in for that one, write when-down before \"for\"",
                      "\"%s\" would get no mail: \"%s\" in line %u has the same terms and comes "
                      "first",
                      upstream->name, c->config->upstreams[taker].name,
                      (unsigned)c->config->upstreams[taker].line);
    }
}

void config_use_check(const struct config *config, const struct config_marks *marks,
                      struct config_errors *errors)
{
    const struct use_check c = {config, marks, errors};
    for (uint32_t index = 0; index < config->upstream_count; index++) {
        if (marks->upstream[index][CONFIG_ROW_UPSTREAM_use].state == CONFIG_MARK_BAD) {
            return; /* what it was to be is not known */
        }
    }
    if (config->upstream_count > 0) {
        check_rest(&c);
    }
    for (uint32_t index = 0; index < config->upstream_count; index++) {
        check_terms(&c, index);
    }
}
