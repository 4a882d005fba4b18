/*
 * The recorder: every change that this process makes in the queue's directory, in order, with the
 * bytes, and the marks of the work in between (what was handed in, what was acknowledged).
 *
 * The calls are caught by defining them in this program (tape_calls.c): the dynamic linker then
 * gives liblmdb these and not libc's. So it sees what LMDB does, and what the store does itself;
 * it does not see stores through a map, so it refuses maps that can be written. That it sees LMDB
 * at all is checked by each run (coverage_judge in power.c).
 *
 * There is one directory, ROOT/q, in its parent ROOT; nothing below it. Files have numbers, from 1
 * on, so that a name can come and go.
 */
#ifndef TASUKI_TESTS_POWER_TAPE_H
#define TASUKI_TESTS_POWER_TAPE_H

#include "tests/power/power.h"

#define TAPE_NAMES_MAX      16
#define TAPE_NAME_BYTES_MAX 32
#define TAPE_FILES_MAX      64
#define TAPE_NAME_QUEUE     0 /* the queue's directory itself, in its parent */
#define TAPE_PATH_BYTES_MAX 256

enum tape_directory { TAPE_PARENT, TAPE_QUEUE };

enum tape_kind {
    TAPE_WRITE,          /* bytes at offset of file */
    TAPE_LENGTH,         /* file is now bytes long */
    TAPE_SYNC,           /* of file */
    TAPE_SYNC_DIRECTORY, /* of directory */
    TAPE_CREATE,         /* name is file; for TAPE_NAME_QUEUE: mkdir */
    TAPE_RENAME,         /* name_to is file, name is nothing */
    TAPE_UNLINK,         /* name is nothing */
    TAPE_MAP,            /* file is mapped for writing: anything may be in it from now on */
    TAPE_HANDED,         /* version is about to be committed */
    TAPE_ACKED,          /* version was promised to somebody */
    TAPE_KIND_COUNT
};

struct tape_event {
    enum tape_kind kind;
    bool through; /* TAPE_WRITE: durable when it returned */
    uint8_t name;
    uint8_t name_to;
    uint8_t directory;
    uint32_t file;
    uint64_t offset;
    uint64_t bytes;
    uint64_t version;
    size_t data; /* TAPE_WRITE: where its bytes are in tape->data */
};

/* Which file each name stands for; 0: none. */
struct tape_names {
    uint32_t file[TAPE_NAMES_MAX];
};

/* Lies of the recorder, for the tests of the rig itself. */
struct tape_lies {
    bool no_sync;           /* fdatasync and fsync of files are not on the tape */
    bool no_directory_sync; /* fsync of directories is not */
    bool no_through;        /* O_DSYNC is taken for nothing */
    unsigned env_flags;     /* mdb_env_open gets these too */
    uint64_t map_bytes_max; /* mdb_env_set_mapsize gets at most so much; 0: what it is given */
};
extern struct tape_lies tape_lies;

struct tape {
    struct tape_event *events; /* owned */
    size_t count;
    size_t cap;
    uint8_t *data; /* owned */
    size_t data_bytes;
    size_t data_cap;
    uint64_t kinds[TAPE_KIND_COUNT];
    uint64_t through; /* writes that were durable when they returned */
    uint32_t file_next;
    struct tape_names names; /* as of now, in the kernel's eyes */
};

void tape_free(struct tape *tape);

/*
 * Records from here on, until tape_stop.
 *   root       the parent of the queue's directory, without a trailing slash
 *   names      what lies there
 *   file_next  the number that the next new file gets
 * Whatever was on the tape is forgotten.
 */
void tape_start(struct tape *tape, const char *root, const struct tape_names *names,
                uint32_t file_next);
/* Goes on with a tape that was stopped. */
void tape_resume(struct tape *tape);
void tape_stop(void);

/* TAPE_HANDED or TAPE_ACKED. */
void tape_mark(enum tape_kind kind, uint64_t version);
/* Takes the last mark back; nothing may have happened since. */
void tape_unmark(void);
/* Writes so far. */
uint64_t tape_write_count(void);

/* Called around each mdb_txn_commit on data.mdb while the tape runs; NULL: no more. */
void tape_commits_watch(void (*before)(void), void (*after)(bool worked));

/* Seeds what getrandom gives while a tape runs, so that a seed makes the same bytes each time. */
void tape_random_seed(uint64_t seed);

/* NULL: there is no such one. */
const char *tape_name(uint8_t name);
/* Index of a name in the queue's directory, made when it is new. */
uint8_t tape_name_index(const char *name);

/* What the event is, for people. */
void tape_event_text(const struct tape_event *event, char *to, size_t cap);

#endif
