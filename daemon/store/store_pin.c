/*
 * Who keeps freed pages from being used again: readers of other processes. LMDB uses a page again
 * when nobody reads a commit any more that the page was part of. This program's own readers let go
 * within one call; a backup, or LMDB's own tools, may take long, or be stopped in the middle.
 *
 * What is not here: a remedy. The slot of a process that has ended is cleared; that of one that is
 * alive cannot be taken away, since it may read on at any moment, pages that are another's by then.
 */
#include "daemon/store/store_internal.h"

#include <unistd.h>

uint64_t store_readers_check(struct store *store)
{
    int dead = 0;
    return mdb_reader_check(store->env, &dead) == MDB_SUCCESS && dead > 0 ? (uint64_t)dead : 0;
}

/* The next word of a line. */
static struct slice word_take(struct slice *line)
{
    *line = slice_trim(*line);
    struct slice word = slice_head(*line, slice_find(*line, ' '));
    *line = slice_tail(*line, word.len);
    return word;
}

/*
 * reader = *SP pid SP thread SP (transaction / "-") LF    ; "-": it reads nothing at the moment
 *
 * The line above them, of their names, has no number in the first place.
 */
static int reader_look(const char *text, void *ctx)
{
    struct store_pin *oldest = ctx;
    struct slice line = slice_trim(slice_from_str(text));
    uint64_t pid = 0;
    uint64_t transaction = 0;
    if (!u64_parse(word_take(&line), &pid) || pid == (uint64_t)getpid()) {
        return 0;
    }
    (void)word_take(&line); /* the thread */
    if (u64_parse(word_take(&line), &transaction) &&
        (oldest->pid == 0 || transaction < oldest->transaction)) {
        oldest->pid = pid;
        oldest->transaction = transaction;
    }
    return 0;
}

bool store_pin_oldest(struct store *store, struct store_pin *out)
{
    MDB_envinfo info;
    struct store_pin pin = {0};
    if (mdb_env_info(store->env, &info) != MDB_SUCCESS ||
        mdb_reader_list(store->env, reader_look, &pin) < 0 || pin.pid == 0) {
        return false;
    }
    pin.commits = info.me_last_txnid - u64_min(pin.transaction, info.me_last_txnid);
    pin.file_bytes = ((uint64_t)info.me_last_pgno + 1) * store->page_bytes;
    pin.file_bytes_max = store->map_bytes;
    *out = pin;
    return true;
}
