/*
 * Is the queue's file sound, below the records?
 *
 * LMDB trusts its pages: one flipped bit in a tree page can make it read or write where it must
 * not. So its file is judged before it is mapped, page by page and with pread only; a disk that
 * cannot read is an error of that call, and no byte that was read is followed before it has been
 * found in range. What lies in the records is not judged here: they have their seals.
 *
 * Nothing is repaired, and nothing is written. LMDB itself is not needed.
 *
 * The file may be in use by a writer while it is checked: what was found then counts only if no
 * commit came in between.
 *
 * Source: LMDB 0.9, data version 1, 64-bit; schema/STORE.md.
 */
#ifndef TASUKI_STORE_STORE_PAGES_H
#define TASUKI_STORE_STORE_PAGES_H

#include "daemon/base/check.h"
#include "daemon/base/err.h"
#include "daemon/base/limits.h"

#include <stdbool.h>
#include <stdint.h>

/* Pages that QUICK reads at most. A queue that has no more of them to be read is checked whole. */
#define STORE_PAGES_QUICK_MAX 512u
/* As deep as LMDB's own cursors go. */
#define STORE_PAGES_DEPTH_MAX 32u
/* Named databases in one file. */
#define STORE_PAGES_DATABASES_MAX 64u
/* One bit is kept for each page; LMDB takes the kernel's size of a page, 4 KiB at least. */
#define STORE_PAGES_MAX (STORE_FILE_BYTES_MAX / 4096)

enum store_pages_level {
    STORE_PAGES_QUICK, /* meta pages, records of the databases, the tops of the trees: at each
                          opening */
    STORE_PAGES_FULL,  /* every page that a database or the list of free pages leads to */
};

struct store_pages_report {
    uint64_t transaction; /* the newest commit's number */
    uint64_t pages;       /* of the file, from 0 to the last one that was ever used */
    uint64_t pages_read;  /* headers of overflow runs are counted as one page */
    uint64_t pages_used;  /* that a tree led to, the two meta pages included */
    uint64_t pages_free;  /* on the list of free pages */
    uint64_t pages_lost;  /* neither, when whole: nothing depends on them, nothing will use them */
    uint64_t entries;     /* in named databases */
    uint32_t databases;   /* named ones */
    uint32_t page_bytes;
    bool whole;        /* nothing was left out */
    bool order_only;   /* ERR_DAMAGED only because keys of named databases are not in order: LMDB
                          stays   within its pages, but may not find a record */
    char problem[256]; /* one sentence when the result is not ERR_OK: which page, what is wrong */
    char note[256];    /* "", or what is wrong with the older meta page, which nothing depends on */
};

/*
 * Called every now and then, with the pages found in their place so far, of how many. Return false
 * to stop: ERR_CANCELLED.
 */
typedef bool store_pages_progress_fn(void *ctx, uint64_t pages_done, uint64_t pages);

/*
 * Judges the file behind fd.
 *   fd        open for reading; its offset is not used
 *   progress  may be NULL
 *   report    always filled in as far as things are known
 * Memory: one bit a page, and one page for each level of a tree.
 * Errors: ERR_DAMAGED; ERR_IO the disk cannot read; ERR_BUSY damage may be there, but the file was
 * being written meanwhile, again and again; ERR_LIMIT more than STORE_PAGES_MAX pages;
 * ERR_NO_MEMORY; ERR_CANCELLED.
 */
MUST_CHECK enum err store_pages_check(int fd, enum store_pages_level level,
                                      store_pages_progress_fn *progress, void *ctx,
                                      struct store_pages_report *report);

/*
 * The same for the queue in a directory: for tasukid --check-store. Takes no lock and makes
 * nothing. Errors: also ERR_NOT_FOUND, ERR_PERMISSION.
 */
MUST_CHECK enum err store_pages_check_queue(const char *directory, enum store_pages_level level,
                                            store_pages_progress_fn *progress, void *ctx,
                                            struct store_pages_report *report);

#endif
