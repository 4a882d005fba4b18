/*
 * One page of a tree, and what its leaf pages hold: values, overflow runs, lists of free pages and
 * records of databases.
 */
#include "daemon/store/store_pages_parts.h"

#include <inttypes.h>
#include <stdio.h>

/*
 * ---- one page ----
 */

struct node pages_node(const struct frame *frame, unsigned index)
{
    const uint8_t *at = frame->page + u16_at(frame->page + PAGE_HEAD + 2 * (size_t)index);
    uint16_t key_bytes = u16_at(at + 6);
    return (struct node){
        .key = slice_of(at + NODE_HEAD, key_bytes),
        .data = at + NODE_HEAD + key_bytes,
        .data_bytes = u32_at(at),
        .flags = u16_at(at + 4),
        .child = u32_at(at) | (uint64_t)u16_at(at + 4) << 32,
    };
}

static enum err head_check(struct verify *v, struct frame *frame)
{
    const uint8_t *page = frame->page;
    uint64_t number = frame->number;
    if (u64_at(page) != number) {
        return pages_damaged(v, number, "its header says that it is page %" PRIu64, u64_at(page));
    }
    bool leaf = v->depth + 1 == v->tree->record.depth;
    if (u16_at(page + 10) != (leaf ? PAGE_LEAF : PAGE_BRANCH)) {
        return pages_damaged(v, number, "its flags are 0x%x, but it should be a %s page",
                             (unsigned)u16_at(page + 10), leaf ? "leaf" : "branch");
    }
    uint16_t lower = u16_at(page + 12);
    uint16_t upper = u16_at(page + 14);
    if (lower < PAGE_HEAD || lower % 2 != 0 || upper < lower || upper > v->page_bytes ||
        upper % 2 != 0) {
        return pages_damaged(v, number, "its free space, from %u to %u, cannot be", (unsigned)lower,
                             (unsigned)upper);
    }
    frame->count = (lower - PAGE_HEAD) / 2u;
    /* LMDB asserts two in a branch page, but for the list of free pages. */
    unsigned least = leaf || v->tree->kind == TREE_FREE ? 1 : 2;
    if (frame->count < least) {
        return pages_damaged(v, number, "it has %u entries", frame->count);
    }
    return ERR_OK;
}

/* The entry at an offset from the page's beginning, without looking at what it holds. *out_bytes:
 * what it takes of the page. */
static enum err node_check(struct verify *v, const struct frame *frame, unsigned index,
                           size_t *out_bytes)
{
    const uint8_t *page = frame->page;
    size_t at = u16_at(page + PAGE_HEAD + 2 * (size_t)index);
    if (at < u16_at(page + 14) || at % 2 != 0 || at + NODE_HEAD > v->page_bytes) {
        return pages_damaged(v, frame->number, "entry %u lies where none can be, at %zu", index,
                             at);
    }
    bool leaf = frame_is_leaf(frame);
    size_t key_bytes = u16_at(page + at + 6);
    size_t bytes = NODE_HEAD + key_bytes;
    /* The first key of a branch page is never looked at, and mostly empty. */
    if (key_bytes > KEY_BYTES_MAX || (key_bytes == 0 && (leaf || index > 0)) ||
        (v->tree->kind == TREE_FREE && key_bytes != NUMBER_BYTES && (leaf || index > 0))) {
        return pages_damaged(v, frame->number, "entry %u has a key of %zu bytes", index, key_bytes);
    }
    if (leaf) {
        bool overflow = (u16_at(page + at + 4) & NODE_OVERFLOW) != 0;
        bytes += overflow ? NUMBER_BYTES : u32_at(page + at);
        /* At least two entries fit into a page. */
        size_t bytes_max = (((v->page_bytes - PAGE_HEAD) / 2) & ~(size_t)1) - 2;
        if (!overflow && bytes > bytes_max) {
            return pages_damaged(v, frame->number, "entry %u has %zu bytes", index, bytes);
        }
    }
    bytes += bytes % 2;
    if (bytes > v->page_bytes - at) {
        return pages_damaged(v, frame->number, "entry %u reaches beyond the page", index);
    }
    *out_bytes = bytes;
    return ERR_OK;
}

/* That the entries lie inside the page, side by side, and fill all of it that is not free. */
static enum err nodes_check(struct verify *v, const struct frame *frame)
{
    uint8_t taken[PAGE_BYTES_MAX / 2] = {0}; /* two bytes each */
    size_t sum = 0;
    for (unsigned index = 0; index < frame->count; index++) {
        size_t bytes = 0;
        enum err err = node_check(v, frame, index, &bytes);
        if (err != ERR_OK) {
            return err;
        }
        size_t at = u16_at(frame->page + PAGE_HEAD + 2 * (size_t)index);
        if (memchr(taken + at / 2, 1, bytes / 2) != NULL) {
            return pages_damaged(v, frame->number, "entry %u overlaps another one", index);
        }
        memset(taken + at / 2, 1, bytes / 2);
        sum += bytes;
    }
    if (sum != v->page_bytes - u16_at(frame->page + 14)) {
        return pages_damaged(v, frame->number, "its entries leave a gap");
    }
    return ERR_OK;
}

static int key_compare(const struct verify *v, struct slice a, struct slice b)
{
    if (v->tree->kind == TREE_FREE) {
        uint64_t first = u64_at(a.data);
        uint64_t second = u64_at(b.data);
        return first < second ? -1 : first > second;
    }
    int order = memcmp(a.data, b.data, size_min(a.len, b.len));
    return order != 0 ? order : a.len < b.len ? -1 : a.len > b.len;
}

/*
 * Keys of a named database that are not in order hide a record or two, and nothing more: the walk
 * goes on, to see whether there is worse. The lists that LMDB lives by must be right.
 */
static enum err disorder(struct verify *v, const struct frame *frame, unsigned index)
{
    bool first = !v->disorder;
    v->disorder = true;
    if (v->tree->kind == TREE_NAMED && !first) {
        return ERR_OK;
    }
    enum err err = pages_damaged(v, frame->number, "the key of entry %u is not in order", index);
    return v->tree->kind == TREE_NAMED ? ERR_OK : err;
}

/* That the keys ascend, from the bound of the page on and up to the next page's. */
static enum err keys_check(struct verify *v, const struct frame *frame)
{
    struct slice before = frame->low;
    int least = 0; /* the first key may be the bound itself */
    for (unsigned index = frame_is_leaf(frame) ? 0 : 1; index < frame->count; index++) {
        struct slice key = pages_node(frame, index).key;
        bool above = before.data == NULL || key_compare(v, key, before) >= least;
        bool below = frame->high.data == NULL || key_compare(v, key, frame->high) < 0;
        enum err err = above && below ? ERR_OK : disorder(v, frame, index);
        if (err != ERR_OK) {
            return err;
        }
        before = key;
        least = 1;
    }
    return ERR_OK;
}

enum err pages_frame_check(struct verify *v, struct frame *frame)
{
    enum err err = head_check(v, frame);
    if (err == ERR_OK) {
        err = nodes_check(v, frame);
    }
    return err == ERR_OK ? keys_check(v, frame) : err;
}

/*
 * ---- what leaf pages hold ----
 */

/* Pages of an overflow run for a value of so many bytes. */
static uint64_t run_pages(const struct verify *v, uint64_t bytes)
{
    return (PAGE_HEAD - 1 + bytes) / v->page_bytes + 1;
}

/* The run that holds an entry's value; leaf is the entry's page. */
static enum err run_check(struct verify *v, uint64_t leaf, unsigned index, const struct node *node)
{
    uint64_t first = u64_at(node->data);
    uint8_t head[PAGE_HEAD];
    if (!pages_exist(v, first)) {
        return pages_damaged(v, leaf, "entry %u leads to page %" PRIu64 ", which there is not",
                             index, first);
    }
    enum err err = pages_read(v, first, first * v->page_bytes, head, sizeof head);
    if (err != ERR_OK) {
        return err;
    }
    uint64_t pages = u32_at(head + 12);
    if (u64_at(head) != first || u16_at(head + 10) != PAGE_OVERFLOW) {
        return pages_damaged(v, first, "it is not the overflow page that page %" PRIu64 " leads to",
                             leaf);
    }
    /* More than is needed: a value that was replaced by a shorter one within its transaction. */
    if (pages < run_pages(v, node->data_bytes) || pages > v->pages - first) {
        return pages_damaged(v, first, "it has %" PRIu64 " overflow pages for %" PRIu32 " bytes",
                             pages, node->data_bytes);
    }
    for (uint64_t page = first; page < first + pages && err == ERR_OK; page++) {
        err = pages_use(v, page);
    }
    v->found.overflow_pages += pages;
    return err;
}

/* A list of free pages while it is read, piece by piece: the count, then numbers in falling order.
 */
struct list {
    uint64_t place; /* the page it is in */
    uint64_t bytes; /* of the whole value */
    uint64_t left;  /* numbers that are still to come */
    uint64_t previous;
    bool begun;
};

static enum err list_feed(struct verify *v, struct list *list, const uint8_t *from, size_t bytes)
{
    size_t at = 0;
    if (!list->begun) {
        list->left = u64_at(from);
        list->previous = v->pages;
        list->begun = true;
        at = NUMBER_BYTES;
        /* None: room that was kept for numbers and not used. */
        if (list->left != 0 && list->left != list->bytes / NUMBER_BYTES - 1) {
            return pages_damaged(v, list->place,
                                 "a list of %" PRIu64 " free pages has %" PRIu64 " bytes",
                                 list->left, list->bytes);
        }
    }
    for (; at + NUMBER_BYTES <= bytes && list->left > 0; at += NUMBER_BYTES, list->left--) {
        uint64_t number = u64_at(from + at);
        if (number < META_COUNT || number >= list->previous) {
            return pages_damaged(v, list->place,
                                 "a list of free pages is not in order, or names page "
                                 "%" PRIu64 ", which there is not",
                                 number);
        }
        if (!pages_reach(v, number)) {
            return pages_damaged(v, number, "it is listed as free, but is in use or listed twice");
        }
        v->report->pages_free++;
        list->previous = number;
    }
    return ERR_OK;
}

/* The value of one entry of the list of free pages: those that a transaction has freed. */
static enum err list_check(struct verify *v, uint64_t leaf, const struct node *node)
{
    struct list list = {.place = leaf, .bytes = node->data_bytes};
    if (list.bytes < NUMBER_BYTES || list.bytes % NUMBER_BYTES != 0) {
        return pages_damaged(v, leaf, "a list of free pages has %" PRIu64 " bytes", list.bytes);
    }
    if (u64_at(node->key.data) > v->newest.transaction) {
        return pages_damaged(v, leaf,
                             "pages were freed by transaction %" PRIu64 ", which has not been",
                             u64_at(node->key.data));
    }
    v->freed_by = u64_at(node->key.data);
    if ((node->flags & NODE_OVERFLOW) == 0) {
        return list_feed(v, &list, node->data, list.bytes);
    }
    list.place = u64_at(node->data);
    uint64_t start = list.place * v->page_bytes + PAGE_HEAD;
    enum err err = ERR_OK;
    for (uint64_t at = 0; at < list.bytes && err == ERR_OK; at += IO_BYTES) {
        size_t bytes = (size_t)u64_min(IO_BYTES, list.bytes - at);
        err = pages_read(v, list.place, start + at, v->io, bytes);
        if (err == ERR_OK) {
            err = list_feed(v, &list, v->io, bytes);
        }
    }
    return err;
}

/* A database that the list of databases names: to be walked later. */
static enum err database_note(struct verify *v, uint64_t leaf, const struct node *node)
{
    if (node->flags != NODE_DATABASE || node->data_bytes != RECORD_BYTES) {
        return pages_damaged(v, leaf, "an entry is not the record of a database");
    }
    if (v->tree_count > STORE_PAGES_DATABASES_MAX) {
        return pages_damaged(v, leaf, "there are more than %u databases",
                             STORE_PAGES_DATABASES_MAX);
    }
    struct tree tree = {.kind = TREE_NAMED};
    char name[32] = "";
    for (size_t index = 0; index < node->key.len && index < sizeof name - 1; index++) {
        uint8_t byte = node->key.data[index];
        name[index] = byte > ' ' && byte < 0x7f && byte != '"' ? (char)byte : '?';
    }
    snprintf(tree.name, sizeof tree.name, "database \"%s\"", name);
    pages_record_decode(node->data, &tree.record);
    const char *fault = pages_record_fault(&tree.record, TREE_NAMED, v->pages);
    if (fault != NULL) {
        return pages_damaged(v, leaf, "%s: %s", tree.name, fault);
    }
    v->trees[v->tree_count++] = tree;
    v->report->databases++;
    v->report->entries += tree.record.entries;
    return ERR_OK;
}

static enum err value_check(struct verify *v, uint64_t leaf, unsigned index,
                            const struct node *node)
{
    if (v->tree->kind == TREE_MAIN) {
        return database_note(v, leaf, node);
    }
    if (node->flags != 0 && node->flags != NODE_OVERFLOW) {
        return pages_damaged(v, leaf, "entry %u has flags 0x%x", index, (unsigned)node->flags);
    }
    bool free_list = v->tree->kind == TREE_FREE;
    if (node->flags == NODE_OVERFLOW) {
        uint64_t pages = free_list ? run_pages(v, node->data_bytes) : 1;
        if (!pages_share_take(v, pages)) {
            return ERR_OK;
        }
        enum err err = run_check(v, leaf, index, node);
        if (err != ERR_OK) {
            return err;
        }
    }
    return free_list ? list_check(v, leaf, node) : ERR_OK;
}

enum err pages_leaf_check(struct verify *v, const struct frame *frame)
{
    enum err err = ERR_OK;
    for (unsigned index = 0; index < frame->count && err == ERR_OK; index++) {
        struct node node = pages_node(frame, index);
        err = value_check(v, frame->number, index, &node);
    }
    v->found.leaf_pages++;
    v->found.entries += frame->count;
    return err;
}
