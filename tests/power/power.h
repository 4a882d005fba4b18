/*
 * What the parts of the power-loss rig share: memory that lives as long as one seed, random
 * numbers that a seed repeats, and the one way to say that something is wrong.
 *
 * The rig in one breath: work.c drives the real store; tape.c records what reaches the queue's
 * directory, in order, with what was acknowledged in between; cuts.c takes the power away after
 * each event; disk.c says what may then lie on the disk and puts it there; verdict.c starts the
 * store on that and judges with the store's own readers and with a second one (page_walk.c,
 * second.c) that shares no code with it.
 *
 * Modelled
 *   - A write that was not flushed is there, is not there, or is torn between any two blocks of 512
 *     or of 4,096 bytes, in any order; so is one that is being flushed when the power goes.
 *   - A write through O_DSYNC is durable when it returns, and may be torn until then.
 *   - fdatasync and fsync make durable what was written to that file before, its length included.
 *   - A length (ftruncate, fallocate, growth by writing) is the old or any later one until a flush,
 *     whether or not the bytes behind it made it; bytes that did not read as zeros.
 *   - A name that was made, renamed or removed is there or not until its directory is flushed, each
 *     for itself; a rename is atomic (the old or the new file under that name).
 *   - A file that is mapped for writing (LMDB's lock files) holds anything.
 *   - kill -9 after any event, a restart, and only then the power cut.
 *   - Cuts while the store recovers from a cut, and while it recovers from that one.
 *
 * Not modelled
 *   - Disks that lie about a flush, bits that rot, sectors that cannot be read, and blocks that are
 *     written where nobody wrote. A sector of 512 bytes is atomic.
 *   - File systems that lose what was flushed, and flushes that fail.
 *   - Full disks: blocks asked for by fallocate are always had.
 *   - Stores through a writable map. There must be none but on the lock files: mapping anything
 *     else so is a violation.
 */
#ifndef TASUKI_TESTS_POWER_POWER_H
#define TASUKI_TESTS_POWER_POWER_H

#include "daemon/base/check.h"
#include "daemon/base/num.h"
#include "daemon/base/slice.h"

#include <stdio.h>

/* How the rig ends. A rig that is broken itself must not pass for one that found something. */
enum power_exit { POWER_OK = 0, POWER_VIOLATION = 1, POWER_BROKEN = 2, POWER_USAGE = 64 };

/* Cuts in the work, in the recovery from that, and in the recovery from that one. */
#define POWER_DEPTH_MAX 3

/* Where the rig is: told with every violation. */
struct power_where {
    char with[96]; /* other options that it takes to see it again */
    uint64_t seed;
    uint64_t state;                  /* number of the outermost state, for --state */
    uint32_t depth;                  /* how many cuts lie behind each other */
    char what[POWER_DEPTH_MAX][160]; /* each cut in words */
};
extern struct power_where power_where;

/* The product did what it must not: says so, with what it takes to see it again, and ends. */
__attribute__((noreturn)) void power_violation(const char *format, ...) PRINTF_LIKE(1, 2);
/* The rig cannot do its work. */
__attribute__((noreturn)) void power_broken(const char *format, ...) PRINTF_LIKE(1, 2);

/* Zeroed memory that lives until power_memory_reset: one seed. */
void *power_take(size_t bytes);
void power_memory_reset(void);
struct slice power_keep(struct slice bytes);

/* splitmix64: every value of *state is a good one. */
static inline uint64_t power_mix(uint64_t value)
{
    value += 0x9e3779b97f4a7c15u;
    value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9u;
    value = (value ^ value >> 27) * 0x94d049bb133111ebu;
    return value ^ value >> 31;
}

static inline uint64_t power_random(uint64_t *state)
{
    *state += 0x9e3779b97f4a7c15u;
    return power_mix(*state);
}

/* 0..below-1 */
static inline uint64_t power_pick(uint64_t *state, uint64_t below)
{
    return power_random(state) % below;
}

#endif
