/*
 * The table of controls.
 */
#include "tests/power/control.h"

#include "tests/power/tape.h"
#include "tests/power/work.h"

#include <lmdb.h>

static bool on;

static void ack_early(void)
{
    work_lies.ack_early = true;
}

static void outcome_lost(void)
{
    work_lies.outcome_lost = true;
}

static void report_later(void)
{
    work_lies.report_later = true;
}

static void history_later(void)
{
    work_lies.history_later = true;
}

/* The map has room for mail, and for little else: outcomes and deletes have no reserve. */
static void no_reserve(void)
{
    tape_lies.map_bytes_max = WORK_FILL_BYTES + WORK_FILL_BYTES / 4;
}

static void no_sync(void)
{
    tape_lies.no_sync = true;
}

static void no_directory_sync(void)
{
    tape_lies.no_directory_sync = true;
}

static void no_through(void)
{
    tape_lies.no_through = true;
}

static void env_nosync(void)
{
    tape_lies.env_flags = MDB_NOSYNC;
}

static void env_nometasync(void)
{
    tape_lies.env_flags = MDB_NOMETASYNC;
}

static void env_writemap(void)
{
    tape_lies.env_flags = MDB_WRITEMAP;
}

static const struct {
    const char *name;
    void (*switch_on)(void);
    uint64_t seed; /* what it takes to see it happens in this one */
} controls[] = {
    {"ack-before-commit", ack_early, 1},
    {"outcome-not-committed", outcome_lost, 1},
    {"report-in-a-second-transaction", report_later, 1},
    {"history-in-a-second-transaction", history_later, 1},
    {"no-fdatasync", no_sync, 1},                /* a disk that lies about a flush: D9 */
    {"no-directory-sync", no_directory_sync, 1}, /* a rename that is not made to last */
    {"meta-not-durable", no_through, 1},
    {"lmdb-nosync", env_nosync, 1}, /* S19 */
    {"lmdb-nometasync", env_nometasync, 1},
    {"lmdb-writemap", env_writemap, 1},
    {"no-reserve", no_reserve, WORK_SEED_FILL},
};

size_t control_count(void)
{
    return sizeof controls / sizeof controls[0];
}

const char *control_name(size_t index)
{
    return controls[index].name;
}

uint64_t control_seed(size_t index)
{
    return controls[index].seed;
}

bool control_switch_on(const char *name, uint64_t *out_seed)
{
    for (size_t index = 0; index < control_count(); index++) {
        if (strcmp(controls[index].name, name) == 0) {
            controls[index].switch_on();
            *out_seed = controls[index].seed;
            on = true;
            return true;
        }
    }
    return false;
}

bool control_is_on(void)
{
    return on;
}
