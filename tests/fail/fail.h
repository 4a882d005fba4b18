/*
 * "Every fallible call fails once": the test programs of tests/unit/, linked so that each call
 * which the product's own objects make and which may fail goes through a function of fail_calls.c.
 * That counts, and lets the one call fail whose number it was told. fail_run.c runs each test case
 * once for each number, in a child of its own.
 *
 * The tests' own calls, cmocka's and the libraries' go where they always went: only the copies of
 * the product's objects have their symbols renamed (Makefile, target "fail").
 */
#ifndef TASUKI_TESTS_FAIL_FAIL_H
#define TASUKI_TESTS_FAIL_FAIL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FAIL_ERRORS_MAX      8
#define FAIL_STACK_MAX       24
#define FAIL_DIRECTORIES_MAX 32
#define FAIL_PATH_BYTES      128
#define FAIL_TRACE_MAX       (1u << 20)

/* In place of an error: the call is made and succeeds, with half the bytes. */
#define FAIL_SHORT (-1000000)

/* What the calls are about, to try one kind alone. */
enum fail_kind {
    FAIL_ALLOC,
    FAIL_LMDB,
    FAIL_SYS,
    FAIL_LIB,  /* TLS, SASL, DNS, JSON */
    FAIL_RING, /* what io_uring itself answers, and what the kernel answers through it */
    FAIL_KIND_COUNT,
};

enum fail_row_index {
#define CALL(kind, type, name, ...)  FAIL_ROW_##name,
#define BYTES(kind, type, name, ...) FAIL_ROW_##name,
#define OWN(kind, type, name, ...)   FAIL_ROW_##name,
#define ENTRY(name, ...)             FAIL_ROW_##name,
#include "tests/fail/calls.def"
    FAIL_ROW_COUNT
};

struct fail_row {
    const char *name;
    enum fail_kind kind;
    uint32_t error_count;
    int errors[FAIL_ERRORS_MAX]; /* as the call tells them, or FAIL_SHORT */
};

extern const struct fail_row fail_rows[FAIL_ROW_COUNT];

/* A call as it is told apart from others: what was called, and from where in the product. */
struct fail_site {
    uint32_t row;
    uint32_t depth;
    uintptr_t stack[FAIL_STACK_MAX]; /* return addresses, innermost first */
};

/* Shared by the runner, the child that runs a case, and what that forks. */
struct fail_shared {
    uint64_t at;      /* the call that fails, from 1; 0: none, or by its site */
    uint64_t site_at; /* the first call of this site fails; 0: none */
    uint32_t variant; /* which of its row's errors */
    uint32_t kinds;   /* bits 1 << enum fail_kind: those that count */
    bool tracing;
    _Atomic bool armed;
    _Atomic uint64_t calls;
    _Atomic bool taken;   /* the one failure has had its call */
    _Atomic bool reached; /* error and site are set */
    int error;
    struct fail_site site;
    uint64_t took_ms;                 /* the case, without the search for leaks */
    int64_t kept_blocks;              /* of the heap, by the clean run */
    _Atomic uint32_t directory_count; /* those the case made by mkdtemp */
    _Atomic uint32_t moved;           /* bits: which of them lie in memory in place of the disk */
    char directories[FAIL_DIRECTORIES_MAX][FAIL_PATH_BYTES];
    uint64_t trace[]; /* tracing: FAIL_TRACE_MAX keys of sites, by number of the call */
};

#define FAIL_KEY_ROW(key) ((key)&0xffu)

extern struct fail_shared *fail_shared; /* NULL: nothing counts */

/* Whether the path lies in a directory that was to be on the disk and is in memory. */
bool fail_is_moved(const char *path);

/* Counts a call. 0: it is to be made; else the error with which it is to fail. */
int fail_now(enum fail_row_index index);

/* Of all programs of one run of the rig: a file that run_fail.py makes, all 0, and reads. */
#define FAIL_COMMON_SITES (1u << 16)

/* How dear it is to let a site fail, and where: the clean run's ms << 32, the program's process id
 * << 10, the case's index. Two bids are never equal. */
#define FAIL_BID(ms, pid, index) ((uint64_t)(ms) << 32 | (uint64_t)(pid) << 10 | (index))
#define FAIL_BID_INDEX_MAX       1023u

struct fail_common {
    struct fail_common_site {
        _Atomic uint64_t key; /* 0: free */
        _Atomic uint64_t bid; /* the lowest; 0: none */
        _Atomic uint64_t reached;
    } sites[FAIL_COMMON_SITES];
};

/* Before anything else of sites. NULL: of this program alone. Ends the program when it cannot. */
void fail_sites_init(const char *path);

/* Equal for two calls that were made on the same way through the product, also in two programs;
 * never 0. */
uint64_t fail_site_key(const struct fail_site *site);

/* There is such a site, and perhaps it has failed. */
void fail_site_note(uint64_t key, bool reached);

/* The bid counts when it is the lowest so far. */
void fail_site_bid(uint64_t key, uint64_t bid);

/* The lowest bid of all programs; 0: none. */
uint64_t fail_site_lowest(uint64_t key);

/* Whether it has failed in any program. */
bool fail_site_was_reached(uint64_t key);

#endif
