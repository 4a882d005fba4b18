/*
 * The disk: what is on it for good, what may be, and one choice among the latter put in place for a
 * store to start on.
 *
 * Each file is kept twice, in memory and as a real file; outside of a check the two are the same.
 * A choice is written over them as a few blocks and taken back afterwards from a log, so a state
 * costs what differs, not what the queue is long. Levels stack: a choice that stays in place is the
 * ground of the next tape, that of the store recovering on it.
 */
#ifndef TASUKI_TESTS_POWER_DISK_H
#define TASUKI_TESTS_POWER_DISK_H

#include "tests/power/tape.h"

/* Which of the pending changes have made it. The first ones are systematic, the rest follow from
 * the seed of the choice. */
enum disk_pattern {
    DISK_NONE,
    DISK_ALL,
    DISK_LAST,     /* only the blocks of the last write */
    DISK_BUT_LAST, /* all but the last write */
    DISK_ODD,      /* odd blocks */
    DISK_EVEN,
    DISK_SYSTEMATIC_COUNT,
    DISK_TORN = DISK_SYSTEMATIC_COUNT, /* in order, and torn within one write */
    DISK_TORN_BACKWARD,                /* the same from the end */
    DISK_WRITES,                       /* any whole writes */
    DISK_BLOCKS,                       /* any blocks, each as it was after any of its writes */
    DISK_PATTERN_COUNT
};

struct disk_choice {
    enum disk_pattern pattern;
    uint32_t block_bytes; /* 512 or 4096 */
    uint64_t seed;
};

struct disk;

/* root: an existing empty directory; all lies in it. */
struct disk *disk_new(const char *root);
void disk_free(struct disk **disk);

/* Nothing but the root. Only at the lowest level. */
void disk_clear(struct disk *disk);

/* The event begins: its change may or may not be there from now on. */
void disk_before(struct disk *disk, const struct tape *tape, const struct tape_event *event);
/* It has returned. */
void disk_after(struct disk *disk, const struct tape_event *event);
/* Changes that may or may not be there. */
size_t disk_pending(const struct disk *disk);
bool disk_rename_is_pending(const struct disk *disk);

/* What a choice comes to, as a hash: equal ones are the same state. */
uint64_t disk_select(struct disk *disk, const struct disk_choice *choice);

void disk_push(struct disk *disk);
/* Puts the selected state in place, as if it had never been otherwise: nothing is pending. */
void disk_show(struct disk *disk);
/* A process has run on it: takes back what it did, which is on the tape. */
void disk_restore(struct disk *disk, const struct tape *tape);
void disk_pop(struct disk *disk);

const struct tape_names *disk_names(const struct disk *disk);
uint32_t disk_file_next(const struct disk *disk);

void disk_choice_text(const struct disk_choice *choice, char *to, size_t cap);

#endif
