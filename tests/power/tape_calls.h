/*
 * Between the calls that are caught (tape_calls.c) and the tape (tape.c).
 */
#ifndef TASUKI_TESTS_POWER_TAPE_CALLS_H
#define TASUKI_TESTS_POWER_TAPE_CALLS_H

#include "tests/power/tape.h"

#include <sys/types.h>

#define TAPE_DESCRIPTORS_MAX 256

/* What a descriptor stands for. */
struct tape_descriptor {
    bool directory; /* which is `which` */
    uint8_t which;  /* enum tape_directory */
    bool through;   /* O_DSYNC, O_SYNC */
    bool lock;      /* one of LMDB's lock files */
    uint32_t file;  /* 0: nothing of ours */
};

/* Where a path leads: false when it is not in ROOT. */
struct tape_place {
    bool directory;
    uint8_t which;
    uint8_t name;
};

bool tape_runs(void);
bool tape_place_of(const char *path, struct tape_place *out);
struct tape_descriptor *tape_descriptor(int fd);
void tape_put(const struct tape_event *event, const void *data);
uint32_t tape_file_of(uint8_t name);
void tape_opened(int fd, const struct tape_place *place, int flags);
uint64_t tape_random_next(void);
/* data.mdb, and somebody watches its commits. */
bool tape_commit_is_watched(int fd);
void tape_commit_before(void);
void tape_commit_after(bool worked);

#endif
