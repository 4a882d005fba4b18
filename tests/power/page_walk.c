/*
 * A page begins with be its number (8 bytes), 2 unused, flags (2), and either the ends of its free
 * room (2 and 2) or, on the first of a run of overflow pages, how many they are (4). A tree page
 * then has 2-byte offsets of its nodes. A node has the low and the high half of a length, or of a
 * page number (2 and 2), flags (2; the page number's third half in a branch), key length (2), key,
 * and in a leaf the value: bytes, the number of an overflow page, or the head of another tree.
 * All numbers are the machine's own.
 */
#include "tests/power/page_walk.h"

#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

#define PAGE_BYTES      4096u
#define PAGES_MAX       16384u
#define HEAD_BYTES      16u
#define NODE_BYTES      8u
#define TREE_BYTES      48u
#define DEPTH_MAX       16u
#define NESTED_MAX      (2 * DEPTH_MAX + 2) /* a tree of trees */
#define VALUE_BYTES_MAX ((size_t)PAGES_MAX * PAGE_BYTES)

#define META_AT      16u
#define META_MAGIC   0xbeefc0deu
#define META_VERSION 1u

enum page_flag { PAGE_BRANCH = 1, PAGE_LEAF = 2, PAGE_OVERFLOW = 4, PAGE_META = 8 };
enum node_flag { NODE_BIG = 1, NODE_TREE = 2, NODE_DUPLICATES = 4 };

#define NO_PAGE UINT64_MAX

struct tree {
    uint16_t flags;
    uint16_t depth;
    uint64_t branch_pages;
    uint64_t leaf_pages;
    uint64_t overflow_pages;
    uint64_t entries;
    uint64_t root;
};

struct node {
    struct slice key;
    struct slice value; /* in a leaf, unless big */
    uint64_t page;      /* in a branch: the child; in a leaf: where a big value is */
    uint32_t bytes;     /* of the value */
    uint16_t flags;
};

struct walk {
    int fd;
    page_item_fn *fn;
    void *ctx;
    struct page_report *report;
    bool stopped;
    uint64_t last_page;
    uint8_t seen[PAGES_MAX / 8];
    uint64_t seen_count;
    uint8_t *value; /* owned: the last big value */
    size_t value_cap;
    size_t nested; /* pages that are being walked */
};

/* One for each page on the way down. Not on the stack: there each would be cleared before it is
 * read. */
static uint8_t page_memory[NESTED_MAX][PAGE_BYTES];

/* What is being walked: which tree, and where its records go. */
struct path {
    struct slice db; /* empty: the tree of trees */
    bool is_free_list;
    struct tree found; /* counted on the way */
    uint8_t last_key[512];
    size_t last_key_bytes;
    bool any;
};

static uint16_t u16_at(const uint8_t *at)
{
    uint16_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static uint32_t u32_at(const uint8_t *at)
{
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static uint64_t u64_at(const uint8_t *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

PRINTF_LIKE(2, 3) static bool wrong(struct walk *w, const char *format, ...)
{
    if (w->report->problem[0] == '\0') {
        va_list args;
        va_start(args, format);
        vsnprintf(w->report->problem, sizeof w->report->problem, format, args);
        va_end(args);
    }
    return false;
}

/* Each page has one place only. */
static bool page_claim(struct walk *w, uint64_t page, uint64_t count)
{
    for (uint64_t index = page; index < page + count; index++) {
        if (index < 2 || index > w->last_page) {
            return wrong(w, "page %llu is outside of the file's pages", (unsigned long long)index);
        }
        uint8_t bit = (uint8_t)(1u << index % 8);
        if ((w->seen[index / 8] & bit) != 0) {
            return wrong(w, "page %llu is in two places", (unsigned long long)index);
        }
        w->seen[index / 8] |= bit;
        w->seen_count++;
    }
    return true;
}

static bool page_read(struct walk *w, uint64_t page, uint8_t to[PAGE_BYTES])
{
    if (pread(w->fd, to, PAGE_BYTES, (off_t)(page * PAGE_BYTES)) != (ssize_t)PAGE_BYTES) {
        return wrong(w, "page %llu is behind the end of the file", (unsigned long long)page);
    }
    if (u64_at(to) != page) {
        return wrong(w, "page %llu says that it is %llu", (unsigned long long)page,
                     (unsigned long long)u64_at(to));
    }
    return true;
}

static struct tree tree_read(const uint8_t *at)
{
    return (struct tree){
        .flags = u16_at(at + 4),
        .depth = u16_at(at + 6),
        .branch_pages = u64_at(at + 8),
        .leaf_pages = u64_at(at + 16),
        .overflow_pages = u64_at(at + 24),
        .entries = u64_at(at + 32),
        .root = u64_at(at + 40),
    };
}

static bool node_read(struct walk *w, const uint8_t page[PAGE_BYTES], size_t index,
                      struct node *out)
{
    bool leaf = (u16_at(page + 10) & PAGE_LEAF) != 0;
    size_t at = u16_at(page + HEAD_BYTES + 2 * index);
    size_t upper = u16_at(page + 14);
    if (at < upper || at + NODE_BYTES > PAGE_BYTES) {
        return wrong(w, "page %llu: node outside", (unsigned long long)u64_at(page));
    }
    const uint8_t *n = page + at;
    size_t key_bytes = u16_at(n + 6);
    *out =
        (struct node){.flags = u16_at(n + 4), .bytes = u16_at(n) | (uint32_t)u16_at(n + 2) << 16};
    out->page = out->bytes | (uint64_t)out->flags << 32;
    size_t inside = NODE_BYTES + key_bytes;
    if (leaf) {
        inside += (out->flags & NODE_BIG) != 0 ? sizeof(uint64_t) : out->bytes;
    }
    if (at + inside > PAGE_BYTES) {
        return wrong(w, "page %llu: node too long", (unsigned long long)u64_at(page));
    }
    out->key = slice_of(n + NODE_BYTES, key_bytes);
    if (leaf && (out->flags & NODE_BIG) != 0) {
        out->page = u64_at(n + NODE_BYTES + key_bytes);
    } else if (leaf) {
        out->value = slice_of(n + NODE_BYTES + key_bytes, out->bytes);
    }
    return true;
}

/* A value in pages of its own. */
static bool value_read(struct walk *w, struct path *path, const struct node *node,
                       struct slice *out)
{
    uint64_t pages = (HEAD_BYTES + (uint64_t)node->bytes + PAGE_BYTES - 1) / PAGE_BYTES;
    size_t bytes = (size_t)pages * PAGE_BYTES;
    if (pages > PAGES_MAX || !page_claim(w, node->page, pages)) {
        return wrong(w, "a value of %u bytes", node->bytes);
    }
    if (bytes > w->value_cap) {
        uint8_t *larger = realloc(w->value, bytes);
        CHECK(larger != NULL);
        w->value = larger;
        w->value_cap = bytes;
    }
    if (pread(w->fd, w->value, bytes, (off_t)(node->page * PAGE_BYTES)) != (ssize_t)bytes) {
        return wrong(w, "a value is behind the end of the file");
    }
    if (u64_at(w->value) != node->page || u16_at(w->value + 10) != PAGE_OVERFLOW ||
        u32_at(w->value + 12) != pages) {
        return wrong(w, "page %llu begins no value", (unsigned long long)node->page);
    }
    path->found.overflow_pages += pages;
    *out = slice_of(w->value + HEAD_BYTES, node->bytes);
    return true;
}

static int key_compare(struct slice a, struct slice b, bool numbers)
{
    if (numbers && a.len == 8 && b.len == 8) {
        uint64_t x = u64_at(a.data);
        uint64_t y = u64_at(b.data);
        return x < y ? -1 : x > y;
    }
    int order = memcmp(a.data, b.data, size_min(a.len, b.len));
    return order != 0 ? order : (a.len < b.len ? -1 : a.len > b.len);
}

static bool key_in_order(struct walk *w, struct path *path, struct slice key)
{
    struct slice last = slice_of(path->last_key, path->last_key_bytes);
    if (key.len == 0 || key.len > sizeof path->last_key) {
        return wrong(w, "a key of %zu bytes", key.len);
    }
    if (path->any && key_compare(last, key, path->is_free_list) >= 0) {
        return wrong(w, "keys are not in order in '%.*s'", (int)path->db.len,
                     (const char *)path->db.data);
    }
    memcpy(path->last_key, key.data, key.len);
    path->last_key_bytes = key.len;
    path->any = true;
    return true;
}

/* The pages that one transaction has freed: how many, and their numbers from the last one down. */
static bool free_list_read(struct walk *w, struct slice value)
{
    uint64_t count = value.len >= 8 ? u64_at(value.data) : UINT64_MAX;
    if (count > PAGES_MAX || value.len < 8 + 8 * count) {
        return wrong(w, "the list of free pages is cut off");
    }
    for (uint64_t index = 0; index < count; index++) {
        uint64_t page = u64_at(value.data + 8 + 8 * index);
        if (index > 0 && page >= u64_at(value.data + 8 * index)) {
            return wrong(w, "the list of free pages is not in order");
        }
        if (!page_claim(w, page, 1)) {
            return wrong(w, "a free page is none");
        }
        w->report->free_pages++;
    }
    return true;
}

static bool tree_walk(struct walk *w, struct slice db, bool is_free_list, const struct tree *tree);

static bool leaf_walk(struct walk *w, struct path *path, const uint8_t page[PAGE_BYTES],
                      size_t count)
{
    for (size_t index = 0; index < count && !w->stopped; index++) {
        struct node node;
        if (!node_read(w, page, index, &node) || !key_in_order(w, path, node.key)) {
            return false;
        }
        path->found.entries++;
        struct slice value = node.value;
        if ((node.flags & NODE_BIG) != 0 && !value_read(w, path, &node, &value)) {
            return false;
        }
        bool is_tree = (node.flags & NODE_TREE) != 0;
        if ((node.flags & NODE_DUPLICATES) != 0 ||
            is_tree != (path->db.len == 0 && !path->is_free_list)) {
            return wrong(w, "a node of a kind that this file has none of: %u", node.flags);
        }
        if (path->is_free_list) {
            if (!free_list_read(w, value)) {
                return false;
            }
        } else if (is_tree) {
            struct tree tree = {0};
            if (value.len == TREE_BYTES) {
                tree = tree_read(value.data);
            }
            if (value.len != TREE_BYTES || !tree_walk(w, node.key, false, &tree)) {
                return wrong(w, "a database's head is damaged");
            }
        } else {
            struct page_item item = {path->db, node.key, value};
            w->stopped = !w->fn(w->ctx, &item);
        }
    }
    return true;
}

static bool page_walk_from(struct walk *w, struct path *path, uint64_t number, unsigned left);

static bool page_judge(struct walk *w, struct path *path, uint64_t number, unsigned left,
                       uint8_t page[PAGE_BYTES])
{
    if (!page_claim(w, number, 1) || !page_read(w, number, page)) {
        return false;
    }
    uint16_t flags = u16_at(page + 10);
    size_t lower = u16_at(page + 12);
    if (lower < HEAD_BYTES || lower > u16_at(page + 14) || u16_at(page + 14) > PAGE_BYTES) {
        return wrong(w, "page %llu: its free room is impossible", (unsigned long long)number);
    }
    size_t count = (lower - HEAD_BYTES) / 2;
    if (flags != (left == 0 ? PAGE_LEAF : PAGE_BRANCH) || count < (left == 0 ? 1 : 2)) {
        return wrong(w, "page %llu: kind %u with %zu nodes where depth %u is left",
                     (unsigned long long)number, flags, count, left);
    }
    if (left == 0) {
        path->found.leaf_pages++;
        return leaf_walk(w, path, page, count);
    }
    path->found.branch_pages++;
    for (size_t index = 0; index < count && !w->stopped; index++) {
        struct node node;
        if (!node_read(w, page, index, &node) || !page_walk_from(w, path, node.page, left - 1)) {
            return false;
        }
        /* Every key of the child is at or behind the branch's. */
        if (index > 0 && path->any &&
            key_compare(node.key, slice_of(path->last_key, path->last_key_bytes),
                        path->is_free_list) > 0) {
            return wrong(w, "page %llu: a branch's key is behind its child's",
                         (unsigned long long)number);
        }
    }
    return true;
}

static bool page_walk_from(struct walk *w, struct path *path, uint64_t number, unsigned left)
{
    CHECK(w->nested < NESTED_MAX);
    bool sound = page_judge(w, path, number, left, page_memory[w->nested++]);
    w->nested--;
    return sound;
}

static bool tree_walk(struct walk *w, struct slice db, bool is_free_list, const struct tree *tree)
{
    struct path path = {.db = db, .is_free_list = is_free_list};
    if (tree->root == NO_PAGE) {
        return tree->entries == 0 && tree->depth == 0 ? true : wrong(w, "a tree without a root");
    }
    if (tree->depth == 0 || tree->depth > DEPTH_MAX) {
        return wrong(w, "a tree of depth %u", tree->depth);
    }
    if (!page_walk_from(w, &path, tree->root, tree->depth - 1u)) {
        return false;
    }
    bool agrees = path.found.entries == tree->entries &&
                  path.found.branch_pages == tree->branch_pages &&
                  path.found.leaf_pages == tree->leaf_pages &&
                  path.found.overflow_pages == tree->overflow_pages;
    return agrees || w->stopped
               ? true
               : wrong(w, "'%.*s' does not have the pages and entries that it says", (int)db.len,
                       (const char *)db.data);
}

/* The newer of the two meta pages. */
static bool meta_read(struct walk *w, struct tree out[2])
{
    uint8_t pages[2][PAGE_BYTES];
    if (pread(w->fd, pages, sizeof pages, 0) != (ssize_t)sizeof pages) {
        return wrong(w, "no meta pages");
    }
    for (size_t index = 0; index < 2; index++) {
        const uint8_t *meta = pages[index] + META_AT;
        if (u16_at(pages[index] + 10) != PAGE_META || u32_at(meta) != META_MAGIC ||
            u32_at(meta + 4) != META_VERSION || u32_at(meta + 24) != PAGE_BYTES) {
            return wrong(w, "meta page %zu is none", index);
        }
    }
    size_t newest = u64_at(pages[1] + META_AT + 128) > u64_at(pages[0] + META_AT + 128) ? 1 : 0;
    const uint8_t *meta = pages[newest] + META_AT;
    out[0] = tree_read(meta + 24);
    out[1] = tree_read(meta + 72);
    w->last_page = u64_at(meta + 120);
    w->report->txn = u64_at(meta + 128);
    w->report->pages = w->last_page + 1;
    return w->last_page < PAGES_MAX ? true : wrong(w, "more pages than the reader can hold");
}

bool page_walk(int fd, page_item_fn *fn, void *ctx, struct page_report *report)
{
    *report = (struct page_report){0};
    struct walk w = {.fd = fd, .fn = fn, .ctx = ctx, .report = report};
    struct tree trees[2];
    bool sound = meta_read(&w, trees) && tree_walk(&w, slice_of(NULL, 0), true, &trees[0]) &&
                 tree_walk(&w, slice_of(NULL, 0), false, &trees[1]);
    if (sound && !w.stopped && w.seen_count + 2 != report->pages) {
        sound = wrong(&w, "%llu pages of %llu are in no place",
                      (unsigned long long)(report->pages - 2 - w.seen_count),
                      (unsigned long long)report->pages);
    }
    free(w.value);
    return sound;
}
