/*
 * What the verifier's files share.
 *
 * Invariants
 *   - A number that was read leads nowhere before it has been found in range: page numbers below
 *     verify.pages, offsets and sizes inside the page.
 *   - Each page is reached at most once (verify.reached), so that no walk goes in circles.
 *   - The walk keeps one page for each level of a tree, and the keys that bound a page are borrowed
 *     from the pages above it, which stay where they are as long as it is there.
 *
 * LMDB's numbers are in the byte order of the machine.
 *     page   0 u64 its number   8 u16 unused   10 u16 flags   12 u16 lower   14 u16 upper
 *            16 u16 offsets of the entries, up to lower; the entries lie from upper to the end
 *            in an overflow run, which has one header: 12 u32 pages of the run
 *     entry  0 u32 bytes of the value   4 u16 flags   6 u16 bytes of the key   8 key, value
 *            in a branch page: 0 u32, 4 u16 the child's number, low part first; no value
 *     meta   16 u32 magic   20 u32 data version   32 u64 length of the map   40, 88 records of the
 *            list of free pages and of the list of databases   136 u64 last page
 *            144 u64 transaction
 *     record 0 u32 padding; in the first one of a meta page: bytes of a page   4 u16 flags
 *            6 u16 depth   8 u64 branch pages   16 u64 leaf pages   24 u64 overflow pages
 *            32 u64 entries   40 u64 root
 */
#ifndef TASUKI_STORE_STORE_PAGES_PARTS_H
#define TASUKI_STORE_STORE_PAGES_PARTS_H

#include "daemon/base/num.h"
#include "daemon/store/store_pages.h"

#define META_COUNT        2u
#define META_BYTES        152u
#define META_MAGIC        0xbeefc0deu
#define META_DATA_VERSION 1u
#define PAGE_BYTES_MIN    512u
#define PAGE_BYTES_MAX    32768u /* offsets have 16 bits */
#define MAP_BYTES_MAX     ((uint64_t)1 << 47)

#define PAGE_HEAD     16u
#define PAGE_BRANCH   0x01u
#define PAGE_LEAF     0x02u
#define PAGE_OVERFLOW 0x04u
#define PAGE_META     0x08u

#define NODE_HEAD     8u
#define NODE_OVERFLOW 0x01u
#define NODE_DATABASE 0x02u
#define KEY_BYTES_MAX 511u

#define RECORD_BYTES    48u
#define DB_INTEGER_KEYS 0x08u
#define ENV_NO_SUBDIR   0x4000u /* kept among the flags of the list of free pages; means nothing */
#define NO_PAGE         UINT64_MAX

#define NUMBER_BYTES 8u
#define IO_BYTES     65536u

struct record {
    uint32_t pad;
    uint16_t flags;
    uint16_t depth;
    uint64_t branch_pages;
    uint64_t leaf_pages;
    uint64_t overflow_pages;
    uint64_t entries;
    uint64_t root;
};

struct meta {
    uint64_t number;
    uint16_t flags;
    uint32_t magic;
    uint32_t version;
    uint64_t map_bytes;
    struct record records[2]; /* the list of free pages, the list of databases */
    uint64_t last_page;
    uint64_t transaction;
};

enum tree_kind { TREE_FREE, TREE_MAIN, TREE_NAMED };

struct tree {
    enum tree_kind kind;
    char name[48];
    struct record record;
};

struct node {
    struct slice key;
    const uint8_t *data;
    uint32_t data_bytes;
    uint16_t flags;
    uint64_t child;
};

/* A page on the way from a root to where the walk is. */
struct frame {
    uint8_t *page; /* borrowed from verify.memory */
    uint64_t number;
    struct slice low;  /* no key here is below it; no data: no bound */
    struct slice high; /* every key here is below it */
    unsigned count;
    unsigned next; /* child to go to */
};

struct verify {
    int fd;
    enum store_pages_level level;
    store_pages_progress_fn *progress;
    void *ctx;
    struct store_pages_report *report;
    uint8_t metas[META_COUNT][META_BYTES]; /* as they were when the check began */
    struct meta newest;
    uint64_t pages;
    uint32_t page_bytes;
    uint8_t *reached; /* owned: a bit for each page */
    uint8_t *memory;  /* owned: the frames' pages, and IO_BYTES for lists */
    uint8_t *io;      /* borrowed from memory */
    struct frame frames[STORE_PAGES_DEPTH_MAX];
    unsigned depth;     /* frames in use */
    unsigned depth_max; /* how deep this pass goes */
    uint64_t budget;    /* pages that this pass may still read, and of them */
    uint64_t share;     /* those that this tree may still read */
    bool spent;         /* a share was not enough */
    struct tree trees[STORE_PAGES_DATABASES_MAX + 2];
    unsigned tree_count;
    const struct tree *tree; /* being walked, or NULL */
    struct record found;     /* counts of that tree */
    uint64_t freed_by;       /* transaction of the newest entry in the list of free pages */
    bool tree_whole;
    bool disorder; /* report->problem says where keys are not in order, first of all */
};

static inline uint16_t u16_at(const uint8_t *from)
{
    uint16_t value;
    memcpy(&value, from, sizeof value);
    return value;
}

static inline uint32_t u32_at(const uint8_t *from)
{
    uint32_t value;
    memcpy(&value, from, sizeof value);
    return value;
}

static inline uint64_t u64_at(const uint8_t *from)
{
    uint64_t value;
    memcpy(&value, from, sizeof value);
    return value;
}

/*
 * ---- store_pages.c ----
 */

/* Says what is wrong with a page, and in which tree when one is being walked. Returns ERR_DAMAGED.
 */
MUST_CHECK enum err pages_damaged(struct verify *v, uint64_t page, const char *format, ...)
    PRINTF_LIKE(3, 4);

/* Bytes from anywhere in the file; page is the one to name when that fails. */
MUST_CHECK enum err pages_read(struct verify *v, uint64_t page, uint64_t at, uint8_t *to,
                               size_t len);

/* May so many pages more be read? When not, something is left out. */
MUST_CHECK bool pages_share_take(struct verify *v, uint64_t pages);

/* False when the page has been reached before. */
MUST_CHECK bool pages_reach(struct verify *v, uint64_t number);

/* The page belongs to the tree. Errors: ERR_DAMAGED, it has been reached before. */
MUST_CHECK enum err pages_use(struct verify *v, uint64_t number);

static inline bool pages_exist(const struct verify *v, uint64_t number)
{
    return number >= META_COUNT && number < v->pages;
}

/*
 * ---- store_pages_meta.c ----
 */

MUST_CHECK enum err pages_metas_read(struct verify *v, uint8_t to[META_COUNT][META_BYTES]);

/* Judges both meta pages and takes the newer one. */
MUST_CHECK enum err pages_metas_check(struct verify *v);

void pages_record_decode(const uint8_t from[RECORD_BYTES], struct record *out);

/* What is wrong with the record of a database in a file of so many pages; NULL: nothing. */
MUST_CHECK const char *pages_record_fault(const struct record *r, enum tree_kind kind,
                                          uint64_t pages);

/*
 * ---- store_pages_node.c ----
 */

static inline bool frame_is_leaf(const struct frame *frame)
{
    return u16_at(frame->page + 10) == PAGE_LEAF;
}

/* An entry of a page that pages_frame_check has passed. */
MUST_CHECK struct node pages_node(const struct frame *frame, unsigned index);

/* All of a tree page that lies in itself: header, entries, keys and their bounds. */
MUST_CHECK enum err pages_frame_check(struct verify *v, struct frame *frame);

/* What the entries of such a leaf page hold or lead to. */
MUST_CHECK enum err pages_leaf_check(struct verify *v, const struct frame *frame);

#endif
