/*
 * The verifier of LMDB's file: the walk through its trees.
 *
 * QUICK walks the trees again and again, one level deeper each time, until nothing is left out or
 * the pages that it may read are spent. The deepest level is read in part: each tree has its share
 * of the pages, the smallest tree first, and what that one leaves is for the others.
 */
#include "daemon/store/store_pages_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define PROGRESS_PAGES 256u
#define RETRIES_MAX    3

/*
 * ---- reading and saying ----
 */

enum err pages_damaged(struct verify *v, uint64_t page, const char *format, ...)
{
    char *to = v->report->problem;
    size_t room = sizeof v->report->problem;
    int len = v->tree == NULL ? snprintf(to, room, "page %" PRIu64 ": ", page)
                              : snprintf(to, room, "page %" PRIu64 " (%s): ", page, v->tree->name);
    va_list args;
    va_start(args, format);
    vsnprintf(to + len, room - (size_t)len, format, args);
    va_end(args);
    return ERR_DAMAGED;
}

enum err pages_read(struct verify *v, uint64_t page, uint64_t at, uint8_t *to, size_t len)
{
    while (len > 0) {
        ssize_t got = pread(v->fd, to, len, (off_t)at);
        if (got < 0) {
            enum err said = pages_damaged(v, page, "it cannot be read: %s", strerrordesc_np(errno));
            (void)said; /* no damage that is known, but a disk that fails */
            return ERR_IO;
        }
        if (got == 0) {
            return pages_damaged(v, page, "the file ends before it");
        }
        to += got;
        at += (uint64_t)got;
        len -= (size_t)got;
    }
    v->report->pages_read++;
    if (v->progress != NULL && v->report->pages_read % PROGRESS_PAGES == 0 &&
        !v->progress(v->ctx, v->report->pages_used + v->report->pages_free, v->pages)) {
        snprintf(v->report->problem, sizeof v->report->problem, "the check was stopped");
        return ERR_CANCELLED;
    }
    return ERR_OK;
}

/* May so many pages more be read? When not, something is left out. */
bool pages_share_take(struct verify *v, uint64_t pages)
{
    bool enough = v->share >= pages;
    v->share -= enough ? pages : 0;
    v->spent = v->spent || !enough;
    v->tree_whole = v->tree_whole && enough;
    return enough;
}

/* False when the page has been reached before. */
bool pages_reach(struct verify *v, uint64_t number)
{
    uint8_t bit = (uint8_t)(1u << number % 8);
    bool first = (v->reached[number / 8] & bit) == 0;
    v->reached[number / 8] |= bit;
    return first;
}

enum err pages_use(struct verify *v, uint64_t number)
{
    if (!pages_reach(v, number)) {
        return pages_damaged(v, number,
                             "it is used twice, or is on the list of free pages as well");
    }
    v->report->pages_used++;
    return ERR_OK;
}

/*
 * ---- the walk ----
 */

/* Goes down to a page, when this pass may, and judges all of it that lies in itself. */
static enum err page_enter(struct verify *v, uint64_t number, struct slice low, struct slice high)
{
    if (v->depth == v->depth_max) {
        v->tree_whole = false;
        return ERR_OK;
    }
    if (!pages_share_take(v, 1)) {
        return ERR_OK;
    }
    struct frame *frame = &v->frames[v->depth];
    frame->number = number;
    frame->low = low;
    frame->high = high;
    frame->next = 0;
    enum err err = pages_use(v, number);
    if (err == ERR_OK) {
        err = pages_read(v, number, number * v->page_bytes, frame->page, v->page_bytes);
    }
    if (err == ERR_OK) {
        err = pages_frame_check(v, frame);
    }
    if (err != ERR_OK) {
        return err;
    }
    if (frame_is_leaf(frame)) {
        return pages_leaf_check(v, frame);
    }
    v->found.branch_pages++;
    v->depth++;
    return ERR_OK;
}

/* One step from the lowest branch page of the walk: to its next child, or back up. */
static enum err branch_step(struct verify *v)
{
    struct frame *frame = &v->frames[v->depth - 1];
    unsigned index = frame->next++;
    if (index == frame->count) {
        v->depth--;
        return ERR_OK;
    }
    struct node node = pages_node(frame, index);
    if (!pages_exist(v, node.child)) {
        return pages_damaged(v, frame->number,
                             "entry %u leads to page %" PRIu64 ", which there is not", index,
                             node.child);
    }
    struct slice low = index == 0 ? frame->low : node.key;
    struct slice high = index + 1 == frame->count ? frame->high : pages_node(frame, index + 1).key;
    return page_enter(v, node.child, low, high);
}

/* That the record tells the truth about what was found. */
static enum err counts_check(struct verify *v)
{
    const struct record *r = &v->tree->record;
    const struct record *found = &v->found;
    static const char format[] = "it counts %" PRIu64 " %s, but has %" PRIu64;
    const struct {
        const char *what;
        uint64_t said;
        uint64_t found;
    } counts[] = {
        {"branch pages", r->branch_pages, found->branch_pages},
        {"leaf pages", r->leaf_pages, found->leaf_pages},
        {"overflow pages", r->overflow_pages, found->overflow_pages},
        {"entries", r->entries, found->entries},
    };
    for (size_t index = 0; index < sizeof counts / sizeof counts[0]; index++) {
        if (counts[index].said != counts[index].found) {
            return pages_damaged(v, r->root, format, counts[index].said, counts[index].what,
                                 counts[index].found);
        }
    }
    return ERR_OK;
}

/*
 * Each transaction but the first frees pages: at least those of the list of databases that it
 * writes anew. Where the newest has not, it is an older one under a number that is not its own.
 */
static enum err newest_check(struct verify *v)
{
    const struct meta *newest = &v->newest;
    if (newest->transaction < 2 || v->freed_by == newest->transaction) {
        return ERR_OK;
    }
    return pages_damaged(v, newest->number,
                         "it says that it is of transaction %" PRIu64
                         ", but the newest that freed pages is %" PRIu64,
                         newest->transaction, v->freed_by);
}

static enum err tree_walk(struct verify *v, const struct tree *tree, unsigned trees_left)
{
    const struct slice none = {NULL, 0};
    v->tree = tree;
    v->found = (struct record){0};
    v->tree_whole = true;
    v->depth = 0;
    v->freed_by = 0;
    v->share = v->budget / trees_left;
    v->budget -= v->share;
    enum err err = ERR_OK;
    if (tree->record.root != NO_PAGE) {
        err = page_enter(v, tree->record.root, none, none);
    }
    while (err == ERR_OK && v->depth > 0) {
        err = branch_step(v);
    }
    if (err == ERR_OK && v->tree_whole && tree->record.root != NO_PAGE) {
        err = counts_check(v);
    }
    if (err == ERR_OK && v->tree_whole && tree->kind == TREE_FREE) {
        err = newest_check(v);
    }
    v->budget += v->share;
    v->report->whole = v->report->whole && v->tree_whole;
    v->tree = NULL;
    return err;
}

static uint64_t tree_pages(const struct tree *tree)
{
    return tree->record.branch_pages + tree->record.leaf_pages + tree->record.overflow_pages;
}

/* The smallest first, so that none of them wants for pages because of a large one. */
static void trees_sort(struct tree *trees, unsigned count)
{
    for (unsigned index = 1; index < count; index++) {
        struct tree tree = trees[index];
        unsigned at = index;
        for (; at > 0 && tree_pages(&trees[at - 1]) > tree_pages(&tree); at--) {
            trees[at] = trees[at - 1];
        }
        trees[at] = tree;
    }
}

/*
 * Every tree once, down to depth_max. The list of free pages comes last in FULL, so that a page
 * that is free and in use is told as such.
 */
static enum err pass(struct verify *v)
{
    v->reached = calloc(1, v->pages / 8 + 1);
    if (v->reached == NULL) {
        return ERR_NO_MEMORY;
    }
    struct store_pages_report *report = v->report;
    report->pages_used = META_COUNT;
    report->pages_free = 0;
    report->entries = 0;
    report->databases = 0;
    report->whole = true;
    v->spent = false;
    v->budget = v->level == STORE_PAGES_QUICK ? STORE_PAGES_QUICK_MAX : UINT64_MAX;
    v->trees[0] = (struct tree){
        .kind = TREE_MAIN, .name = "list of databases", .record = v->newest.records[1]};
    v->tree_count = 1;
    enum err err = tree_walk(v, &v->trees[0], 1);
    v->trees[v->tree_count++] = (struct tree){
        .kind = TREE_FREE, .name = "list of free pages", .record = v->newest.records[0]};
    if (v->level == STORE_PAGES_QUICK) {
        trees_sort(v->trees + 1, v->tree_count - 1);
    }
    for (unsigned index = 1; index < v->tree_count && err == ERR_OK; index++) {
        err = tree_walk(v, &v->trees[index], v->tree_count - index);
    }
    report->pages_lost = report->whole ? v->pages - report->pages_used - report->pages_free : 0;
    free(v->reached);
    v->reached = NULL;
    return err;
}

static enum err passes(struct verify *v)
{
    v->memory = malloc((size_t)STORE_PAGES_DEPTH_MAX * v->page_bytes + IO_BYTES);
    if (v->memory == NULL) {
        return ERR_NO_MEMORY;
    }
    for (unsigned index = 0; index < STORE_PAGES_DEPTH_MAX; index++) {
        v->frames[index].page = v->memory + (size_t)index * v->page_bytes;
    }
    v->io = v->memory + (size_t)STORE_PAGES_DEPTH_MAX * v->page_bytes;
    v->depth_max = v->level == STORE_PAGES_QUICK ? 1 : STORE_PAGES_DEPTH_MAX;
    enum err err = pass(v);
    while (err == ERR_OK && !v->report->whole && !v->spent &&
           v->depth_max < STORE_PAGES_DEPTH_MAX) {
        v->depth_max++;
        err = pass(v);
    }
    free(v->memory);
    v->memory = NULL;
    return err;
}

/*
 * Has there been a commit since the check began? LMDB leaves the pages of a snapshot alone until
 * the one after it has been committed too, so without one damage is damage.
 */
static bool file_changed(struct verify *v)
{
    uint8_t now[META_COUNT][META_BYTES];
    struct store_pages_report unused = {0};
    struct verify again = {.fd = v->fd, .report = &unused};
    return pages_metas_read(&again, now) == ERR_OK && memcmp(now, v->metas, sizeof now) != 0;
}

enum err store_pages_check(int fd, enum store_pages_level level, store_pages_progress_fn *progress,
                           void *ctx, struct store_pages_report *report)
{
    struct verify *v = malloc(sizeof *v);
    enum err err = v == NULL ? ERR_NO_MEMORY : ERR_BUSY;
    for (int turn = 0; turn < RETRIES_MAX && err == ERR_BUSY; turn++) {
        *report = (struct store_pages_report){0};
        *v = (struct verify){
            .fd = fd, .level = level, .progress = progress, .ctx = ctx, .report = report};
        err = pages_metas_check(v);
        if (err == ERR_OK) {
            err = passes(v);
        }
        if (err == ERR_OK && v->disorder) {
            report->order_only = true;
            err = ERR_DAMAGED;
        }
        if (err == ERR_DAMAGED && file_changed(v)) {
            err = ERR_BUSY;
        }
    }
    free(v);
    if (err == ERR_BUSY) {
        snprintf(report->problem, sizeof report->problem,
                 "the queue was written while it was checked: stop tasukid and check again");
    }
    if (err == ERR_NO_MEMORY) {
        *report = (struct store_pages_report){0};
        snprintf(report->problem, sizeof report->problem, "not enough memory for the check");
    }
    return err;
}

enum err store_pages_check_queue(const char *directory, enum store_pages_level level,
                                 store_pages_progress_fn *progress, void *ctx,
                                 struct store_pages_report *report)
{
    char path[4096];
    int len = snprintf(path, sizeof path, "%s/data.mdb", directory);
    int fd = len < 0 || (size_t)len >= sizeof path ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        int number = (size_t)len >= sizeof path ? ENAMETOOLONG : errno;
        *report = (struct store_pages_report){0};
        snprintf(report->problem, sizeof report->problem, "cannot open data.mdb: %s",
                 strerrordesc_np(number));
        return number == ENOENT ? ERR_NOT_FOUND : err_from_errno(number);
    }
    enum err err = store_pages_check(fd, level, progress, ctx, report);
    close(fd);
    return err;
}
