/*
 * Contents: taken, derived, compared.
 */
#include "tests/power/content.h"

#include <stdlib.h>

static int slice_order(struct slice a, struct slice b)
{
    size_t len = size_min(a.len, b.len);
    int order = len == 0 ? 0 : memcmp(a.data, b.data, len);
    return order != 0 ? order : (a.len < b.len ? -1 : a.len > b.len);
}

static int item_order(const struct page_item *a, struct slice db, struct slice key)
{
    int order = slice_order(a->db, db);
    return order != 0 ? order : slice_order(a->key, key);
}

/*
 * ---- taking ----
 */

struct taking {
    struct page_item *items; /* owned */
    size_t count;
    const struct content *before;
    size_t at; /* in before */
};

static bool take(void *ctx, const struct page_item *item)
{
    struct taking *t = ctx;
    if (t->count == CONTENT_ITEMS_MAX) {
        power_broken("more records than the rig can hold");
    }
    const struct content *before = t->before;
    while (before != NULL && t->at < before->count &&
           item_order(&before->items[t->at], item->db, item->key) < 0) {
        t->at++;
    }
    if (before != NULL && t->at < before->count &&
        item_order(&before->items[t->at], item->db, item->key) == 0 &&
        slice_equal(before->items[t->at].value, item->value)) {
        t->items[t->count++] = before->items[t->at];
    } else {
        t->items[t->count++] = (struct page_item){
            .db = power_keep(item->db),
            .key = power_keep(item->key),
            .value = power_keep(item->value),
        };
    }
    return true;
}

struct content *content_read(int fd, const struct content *before)
{
    struct taking t = {.items = malloc(CONTENT_ITEMS_MAX * sizeof *t.items), .before = before};
    CHECK(t.items != NULL);
    struct page_report report;
    if (!page_walk(fd, take, &t, &report)) {
        power_violation("the file is not sound, without any cut: %s", report.problem);
    }
    struct content *content = power_take(sizeof *content);
    content->count = t.count;
    content->items = power_take(t.count * sizeof *t.items);
    memcpy(content->items, t.items, t.count * sizeof *t.items);
    free(t.items);
    return content;
}

size_t content_find(const struct content *content, struct slice db, struct slice key)
{
    size_t low = 0;
    size_t high = content->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (item_order(&content->items[middle], db, key) < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

const struct page_item *content_get(const struct content *content, struct slice db,
                                    struct slice key)
{
    size_t at = content_find(content, db, key);
    bool found = at < content->count && item_order(&content->items[at], db, key) == 0;
    return found ? &content->items[at] : NULL;
}

struct content *content_recovered(const struct content *content)
{
    struct content *to = power_take(sizeof *to);
    to->items = power_take(content->count * sizeof *to->items);
    for (size_t index = 0; index < content->count; index++) {
        const struct page_item *item = &content->items[index];
        bool of_intake = slice_equal(item->db, SLICE("intake"));
        if (slice_equal(item->db, SLICE("chunk"))) {
            of_intake = content_get(content, SLICE("intake"), slice_head(item->key, 10)) != NULL;
        }
        if (!of_intake) {
            to->items[to->count++] = *item;
        }
    }
    return to;
}

/*
 * ---- comparing ----
 */

struct matching {
    const struct content *const *candidates;
    size_t count;
    size_t at; /* records seen */
    bool differs[CONTENT_CANDIDATES_MAX];
    size_t left;   /* candidates that do not differ */
    char *problem; /* what is wrong with the first one */
    size_t problem_bytes;
};

static void differ(struct matching *m, size_t index, const char *how, const struct page_item *item)
{
    m->differs[index] = true;
    m->left--;
    if (index == 0) {
        char key[41] = "";
        for (size_t at = 0; at < item->key.len && at < 20; at++) {
            snprintf(key + 2 * at, 3, "%02x", item->key.data[at]);
        }
        snprintf(m->problem, m->problem_bytes, "%s: %.*s %s, %zu bytes", how, (int)item->db.len,
                 (const char *)item->db.data, key, item->value.len);
    }
}

static bool match(void *ctx, const struct page_item *item)
{
    struct matching *m = ctx;
    for (size_t index = 0; index < m->count; index++) {
        const struct content *candidate = m->candidates[index];
        if (m->differs[index]) {
            continue;
        }
        if (m->at >= candidate->count) {
            differ(m, index, "one too many", item);
            continue;
        }
        const struct page_item *wanted = &candidate->items[m->at];
        int order = item_order(wanted, item->db, item->key);
        if (order != 0) {
            differ(m, index, order < 0 ? "missing" : "one too many", order < 0 ? wanted : item);
        } else if (wanted->value.len != CONTENT_ANY_VALUE &&
                   !slice_equal(wanted->value, item->value)) {
            differ(m, index, "another value", item);
        }
    }
    m->at++;
    return m->left > 0;
}

size_t content_match(int fd, const struct content *const *candidates, size_t count, char *problem,
                     size_t problem_bytes)
{
    CHECK(count <= CONTENT_CANDIDATES_MAX);
    struct matching m = {.candidates = candidates,
                         .count = count,
                         .left = count,
                         .problem = problem,
                         .problem_bytes = problem_bytes};
    struct page_report report;
    problem[0] = '\0';
    if (!page_walk(fd, match, &m, &report)) {
        snprintf(problem, problem_bytes, "the file is not sound: %s", report.problem);
        return count;
    }
    for (size_t index = 0; index < count; index++) {
        if (!m.differs[index] && m.at < candidates[index]->count) {
            differ(&m, index, "missing", &candidates[index]->items[m.at]);
        }
        if (!m.differs[index]) {
            return index;
        }
    }
    return count;
}
