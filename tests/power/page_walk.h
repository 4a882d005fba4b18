/*
 * A reader of LMDB's file of its own: 64-bit, data version 1, no MDB_DUPSORT. By pread, from the
 * format alone; it shares no code with liblmdb or the store.
 *
 * It judges more than LMDB does when it reads: each page's number and kind, the order of keys, the
 * depth of each tree, the counts that each tree keeps of itself, and that every page up to the last
 * one is in exactly one place, a tree or the list of free pages.
 */
#ifndef TASUKI_TESTS_POWER_PAGE_WALK_H
#define TASUKI_TESTS_POWER_PAGE_WALK_H

#include "tests/power/power.h"

/* One record. Everything is borrowed until the function returns. */
struct page_item {
    struct slice db;
    struct slice key;
    struct slice value;
};

/* Return false to stop; that is no error. */
typedef bool page_item_fn(void *ctx, const struct page_item *item);

struct page_report {
    char problem[256]; /* "" when the file is sound */
    uint64_t txn;
    uint64_t pages;
    uint64_t free_pages;
};

/*
 * All records of all named databases, by name and then by key.
 * Returns false, with *report saying why, when the file is not sound.
 */
MUST_CHECK bool page_walk(int fd, page_item_fn *fn, void *ctx, struct page_report *report);

#endif
