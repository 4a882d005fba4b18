/*
 * What disk.c (files and levels) and disk_choice.c (what may be there) share.
 */
#ifndef TASUKI_TESTS_POWER_DISK_INTERNAL_H
#define TASUKI_TESTS_POWER_DISK_INTERNAL_H

#include "tests/power/disk.h"

#define DISK_FILE_BYTES_MAX ((uint64_t)64 << 20)
#define DISK_PENDING_MAX    2048

struct disk_file {
    uint8_t *bytes; /* owned, DISK_FILE_BYTES_MAX of address space; zeros from len on */
    uint64_t len;
    int fd;      /* the real file */
    bool mapped; /* for writing: what is in it is anybody's guess */
};

/* A change that is not on the disk for good. */
struct disk_pending {
    struct tape_event event;
    const uint8_t *data; /* borrowed from the tape */
    bool forced;         /* it is, but pending ones come before it */
};

/* Some bytes of a pending write that have made it. */
struct disk_run {
    uint32_t index; /* of the pending write */
    uint64_t offset;
    uint64_t bytes;
};

struct disk_selection {
    struct disk_run *runs; /* owned */
    size_t count;
    size_t cap;
    uint64_t len[TAPE_FILES_MAX];
    struct tape_names names;
    uint8_t fill; /* what a mapped file holds */
};

/* What a level comes back to. */
struct disk_mark {
    size_t undo_bytes;
    struct tape_names names;
    uint32_t file_next;
    uint64_t len[TAPE_FILES_MAX];
    bool mapped[TAPE_FILES_MAX];
    struct disk_pending *pending; /* owned */
    size_t pending_count;
};

#define DISK_LEVELS_MAX (2 * POWER_DEPTH_MAX + 1)

struct disk {
    char root[TAPE_PATH_BYTES_MAX];
    struct disk_file files[TAPE_FILES_MAX];
    uint32_t file_next;
    struct tape_names names; /* for good */
    struct tape_names shown; /* in the real directory */
    struct disk_pending pending[DISK_PENDING_MAX];
    size_t pending_count;
    struct disk_selection selection;
    struct disk_mark marks[DISK_LEVELS_MAX];
    size_t level;
    uint8_t *undo; /* owned: entries, each with its head behind it */
    size_t undo_bytes;
    size_t undo_cap;
};

#endif
