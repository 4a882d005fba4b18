/*
 * The meta pages, and the records of databases: where everything else begins.
 */
#include "daemon/store/store_pages_parts.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>

void pages_record_decode(const uint8_t from[RECORD_BYTES], struct record *out)
{
    *out = (struct record){
        .pad = u32_at(from),
        .flags = u16_at(from + 4),
        .depth = u16_at(from + 6),
        .branch_pages = u64_at(from + 8),
        .leaf_pages = u64_at(from + 16),
        .overflow_pages = u64_at(from + 24),
        .entries = u64_at(from + 32),
        .root = u64_at(from + 40),
    };
}

static void meta_decode(const uint8_t from[META_BYTES], struct meta *out)
{
    *out = (struct meta){
        .number = u64_at(from),
        .flags = u16_at(from + 10),
        .magic = u32_at(from + 16),
        .version = u32_at(from + 20),
        .map_bytes = u64_at(from + 32),
        .last_page = u64_at(from + 136),
        .transaction = u64_at(from + 144),
    };
    pages_record_decode(from + 40, &out->records[0]);
    pages_record_decode(from + 88, &out->records[1]);
}

/* What is wrong with the record of a database in a file of so many pages; NULL: nothing. */
const char *pages_record_fault(const struct record *r, enum tree_kind kind, uint64_t pages)
{
    uint16_t flags = kind == TREE_FREE ? (uint16_t)(r->flags & ~ENV_NO_SUBDIR) : r->flags;
    if (flags != (kind == TREE_FREE ? DB_INTEGER_KEYS : 0) || (kind != TREE_FREE && r->pad != 0)) {
        return "its flags are not those of this program";
    }
    bool bounded = r->branch_pages < pages && r->leaf_pages < pages && r->overflow_pages < pages &&
                   r->branch_pages + r->leaf_pages + r->overflow_pages <= pages - META_COUNT;
    if (!bounded) {
        return "it claims more pages than the file has";
    }
    if (r->root == NO_PAGE) {
        bool empty = r->depth == 0 && r->branch_pages == 0 && r->leaf_pages == 0 &&
                     r->overflow_pages == 0 && r->entries == 0;
        return empty ? NULL : "it has no root page, but is not empty";
    }
    if (r->root < META_COUNT || r->root >= pages) {
        return "its root page is outside of the file";
    }
    if (r->depth == 0 || r->depth > STORE_PAGES_DEPTH_MAX) {
        return "its depth cannot be";
    }
    return r->leaf_pages == 0 || r->entries < r->leaf_pages ? "its counts contradict each other"
                                                            : NULL;
}

/* What is wrong with a meta page that is one; NULL: nothing. */
static const char *meta_fault(const struct meta *meta, uint64_t file_pages)
{
    if (meta->last_page < META_COUNT - 1 || meta->last_page >= file_pages) {
        return "the last page in use is outside of the file";
    }
    uint64_t pages = meta->last_page + 1;
    if (meta->map_bytes > MAP_BYTES_MAX || meta->map_bytes / meta->records[0].pad < pages) {
        return "the length of the map cannot be";
    }
    const char *fault = pages_record_fault(&meta->records[0], TREE_FREE, pages);
    return fault != NULL ? fault : pages_record_fault(&meta->records[1], TREE_MAIN, pages);
}

/* Reads both; the second begins where the first says that a page ends. */
enum err pages_metas_read(struct verify *v, uint8_t to[META_COUNT][META_BYTES])
{
    enum err err = pages_read(v, 0, 0, to[0], META_BYTES);
    if (err != ERR_OK) {
        return err;
    }
    uint32_t page_bytes = u32_at(to[0] + 40);
    if (page_bytes < PAGE_BYTES_MIN || page_bytes > PAGE_BYTES_MAX ||
        (page_bytes & (page_bytes - 1)) != 0) {
        return pages_damaged(v, 0, "%" PRIu32 " is no size of a page", page_bytes);
    }
    v->page_bytes = page_bytes;
    return pages_read(v, 1, page_bytes, to[1], META_BYTES);
}

/* That both are meta pages, and belong together: LMDB opens no file where they do not. */
static enum err metas_compare(struct verify *v, struct meta metas[META_COUNT])
{
    for (unsigned index = 0; index < META_COUNT; index++) {
        struct meta *meta = &metas[index];
        meta_decode(v->metas[index], meta);
        if (meta->magic != META_MAGIC || meta->flags != PAGE_META || meta->number != index) {
            return pages_damaged(v, index, "it is not a meta page of LMDB");
        }
        if (meta->version != META_DATA_VERSION) {
            return pages_damaged(v, index, "LMDB's data version is %" PRIu32 ", not %u",
                                 meta->version, META_DATA_VERSION);
        }
        if (meta->records[0].pad != v->page_bytes) {
            return pages_damaged(v, index, "the two meta pages differ in the size of a page");
        }
        if (meta->transaction % META_COUNT != index && meta->transaction != 0) {
            return pages_damaged(v, index, "transaction %" PRIu64 " does not belong here",
                                 meta->transaction);
        }
    }
    uint64_t first = metas[0].transaction;
    uint64_t second = metas[1].transaction;
    uint64_t apart = first > second ? first - second : second - first;
    if (apart != 1 && first + second != 0) {
        return pages_damaged(v, first > second ? 0 : 1,
                             "the two meta pages are of transactions %" PRIu64 " and %" PRIu64
                             ", which do not follow each other",
                             first, second);
    }
    return ERR_OK;
}

enum err pages_metas_check(struct verify *v)
{
    struct meta metas[META_COUNT];
    struct stat st;
    if (fstat(v->fd, &st) != 0) {
        snprintf(v->report->problem, sizeof v->report->problem, "the file cannot be used: %s",
                 strerrordesc_np(errno));
        return ERR_IO;
    }
    enum err err = pages_metas_read(v, v->metas);
    if (err == ERR_OK) {
        err = metas_compare(v, metas);
    }
    if (err != ERR_OK) {
        return err;
    }
    unsigned newest = metas[1].transaction > metas[0].transaction ? 1 : 0;
    uint64_t file_pages = (uint64_t)st.st_size / v->page_bytes;
    const char *fault = meta_fault(&metas[newest], file_pages);
    if (fault != NULL) {
        return pages_damaged(v, newest, "%s", fault);
    }
    fault = meta_fault(&metas[newest ^ 1u], file_pages);
    if (fault != NULL) {
        snprintf(v->report->note, sizeof v->report->note, "page %u, the older meta page: %s",
                 newest ^ 1u, fault);
    }
    v->newest = metas[newest];
    v->pages = v->newest.last_page + 1;
    v->report->transaction = v->newest.transaction;
    v->report->pages = v->pages;
    v->report->page_bytes = v->page_bytes;
    if (v->pages > STORE_PAGES_MAX) {
        snprintf(v->report->problem, sizeof v->report->problem,
                 "the file has more pages than can be checked");
        return ERR_LIMIT;
    }
    return ERR_OK;
}
