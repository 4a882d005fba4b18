/*
 * Between fail_run.c, which runs children, and fail_plan.c, which says what they try and tells what
 * came of it.
 */
#ifndef TASUKI_TESTS_FAIL_FAIL_RUN_H
#define TASUKI_TESTS_FAIL_FAIL_RUN_H

#include "tests/fail/fail.h"

#define FAIL_JOBS_MAX 8

/* The case that is the group's setup and teardown alone. */
#define FAIL_FIXTURE "(fixture)"

/* From the environment; run_fail.py says what each is for. */
struct fail_options {
    const char *only;   /* FAIL_CASE: this case alone; NULL: all */
    uint64_t at;        /* FAIL_AT: this call alone; 0: as planned */
    uint64_t site;      /* FAIL_SITE: the first call of this site alone */
    uint32_t variant;   /* FAIL_VARIANT: with this of its errors */
    uint32_t kinds;     /* FAIL_KIND: bits 1 << enum fail_kind */
    uint32_t jobs;      /* FAIL_JOBS: children at once */
    uint32_t part;      /* FAIL_PART: 0-based, of */
    uint32_t parts;     /* so many programs that share the cases */
    uint64_t budget_ms; /* FAIL_BUDGET_MS: about so long for a case; 0: exhaustive */
    uint64_t limit_ms;  /* FAIL_LIMIT_MS: a run that takes longer, and five times the clean one's */
    uint64_t seed;      /* FAIL_SEED: where the strides begin */
    bool seeks_leaks;   /* FAIL_LEAKS: LeakSanitizer after each run that passes */
    bool tells_all;     /* FAIL_VERBOSE: a line a case, and each run's output with FAIL_AT */
};

/* What fails: a call by its number, or the first of a site; both 0: nothing. Numbers change from
 * run to run where threads are at work, sites do not. */
struct fail_run {
    uint64_t at;
    uint64_t site;
    uint32_t variant;
};

enum fail_verdict {
    FAIL_VERDICT_PASSED,
    FAIL_VERDICT_ASSERTED,
    FAIL_VERDICT_WAITED, /* idle, for what a case's patience is for */
    FAIL_VERDICT_SKIPPED,
    FAIL_VERDICT_SIGNAL, /* from here on it is wrong */
    FAIL_VERDICT_ABORT,
    FAIL_VERDICT_MEMORY,
    FAIL_VERDICT_LEAK,
    FAIL_VERDICT_HANG,
    FAIL_VERDICT_COUNT,
};

struct fail_result {
    struct fail_run run;
    enum fail_verdict verdict;
    bool reached; /* the call came up; error and site are set */
    uint64_t calls, took_ms;
    int error;
    struct fail_site site;
    const char *output; /* of the child, borrowed */
};

struct fail_case {
    const struct fail_options *options;
    const char *name;
    uint64_t clean_ms, calls;
    bool clean; /* it passes when nothing fails */
    struct fail_run *plan;
    size_t plan_count, plan_capacity, next;
    uint64_t reached, wrong;
    uint64_t verdicts[FAIL_VERDICT_COUNT];
};

void fail_options_read(struct fail_options *out);

/* Whether this program runs the case: it is the index-th it has. */
bool fail_options_want(const struct fail_options *options, const char *name, size_t index);

/* In this order: init, take (the run without a failure), plan, next and take in turn, end. */
void fail_case_init(struct fail_case *c, const struct fail_options *options, const char *name);
void fail_case_plan(struct fail_case *c, const uint64_t *trace);
bool fail_case_next(struct fail_case *c, struct fail_run *out);
void fail_case_take(struct fail_case *c, const struct fail_result *result);
void fail_case_end(struct fail_case *c);

/* Whether it is one in which only passing is well. */
bool fail_case_knows(const struct fail_case *c);

/* The closing line. Returns how many runs were wrong. */
uint64_t fail_report_end(void);

#endif
