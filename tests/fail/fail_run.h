/*
 * Between fail_run.c, which runs children, and fail_plan.c, which says what they try and tells what
 * came of it.
 */
#ifndef TASUKI_TESTS_FAIL_FAIL_RUN_H
#define TASUKI_TESTS_FAIL_FAIL_RUN_H

#include "tests/fail/fail.h"

#define FAIL_JOBS_MAX 8

/* From the environment; run_fail.py says what each is for. */
struct fail_options {
    const char *only;   /* FAIL_CASE: this case alone; NULL: all */
    const char *common; /* FAIL_COMMON: what all programs know together; NULL: this one alone */
    uint64_t at;        /* FAIL_AT: this call alone; 0: as planned */
    uint64_t site;      /* FAIL_SITE: the first call of this site alone */
    uint32_t variant;   /* FAIL_VARIANT: with this of its errors */
    uint32_t kinds;     /* FAIL_KIND: bits 1 << enum fail_kind */
    uint32_t jobs;      /* FAIL_JOBS: children at once */
    uint64_t budget_ms; /* FAIL_BUDGET_MS: about so long for the strides of a case; 0: no bound */
    uint64_t time_ms;   /* FAIL_TIME_MS: about so long for all cases; 0: as long as it takes */
    uint64_t slow_ms; /* FAIL_SLOW_MS: a case that takes longer is tried but where it must; 0: no */
    uint64_t limit_ms; /* FAIL_LIMIT_MS: of processor time for a run; 5 clean runs are added */
    uint64_t seed;     /* FAIL_SEED: where the strides begin */
    bool each;         /* FAIL_EACH: each call of a case, one after the other, as far as it may */
    bool steps;        /* FAIL_STEPS: waits for a word on standard input before each step */
    bool seeks_leaks;  /* FAIL_LEAKS: LeakSanitizer after each run that passes */
    bool tells_all;    /* FAIL_VERBOSE: a line a case, and each run's output with FAIL_AT */
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
    FAIL_VERDICT_STOPPED, /* a slow case's run without a failure: what it has called will do */
    FAIL_VERDICT_SIGNAL,  /* from here on it is wrong */
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
    int64_t kept_blocks;
    int error;
    struct fail_site site;
    const char *output; /* of the child, borrowed */
};

/* What of a case is planned, in this order; a program with little time does not come to the end. */
enum fail_pass {
    FAIL_PASS_SITES,   /* a site that no case of any program comes to sooner: once */
    FAIL_PASS_REST,    /* a site that still has not failed: once more */
    FAIL_PASS_ERRORS,  /* with those of its errors that it has not failed with */
    FAIL_PASS_STRIDES, /* each call, or where that takes too long every so-many-th, and last ones */
    FAIL_PASS_ONE,     /* in place of these: the one that was asked for */
};

struct fail_case {
    const struct fail_options *options;
    const char *name;
    size_t index; /* in the program's list; its length: the fixture */
    uint64_t clean_ms, calls;
    int64_t kept_blocks;
    bool clean; /* it passes when nothing fails, or was stopped on its way */
    bool stopped;
    uint16_t *trace;      /* the site of each call */
    uint64_t deadline_ms; /* set by the runner: what is planned for after it is left out */
    uint64_t stride;      /* every so-many-th call fails; 1: each, and as long as the last is
                             reached, the one behind it */
    uint64_t last_at;     /* the last that was planned */
    bool whole;           /* a run passed without coming to a failure: each has failed */
    struct fail_run *plan;
    size_t plan_count, plan_capacity, next;
    uint64_t runs, reached, wrong;
    uint64_t verdicts[FAIL_VERDICT_COUNT];
};

void fail_options_read(struct fail_options *out);

/* Before any case. Ends the program when there is no memory. */
void fail_plan_init(void);

/* Whether one call of one case alone is to fail. */
bool fail_options_single(const struct fail_options *options);

/* Whether this program runs the case. */
bool fail_options_want(const struct fail_options *options, const char *name);

/* In this order: init, take (the run without a failure), learn, then for each pass: plan, next and
 * take in turn; end. */
void fail_case_init(struct fail_case *c, const struct fail_options *options, const char *name,
                    size_t index);
void fail_case_learn(struct fail_case *c, const uint64_t *trace);
void fail_case_plan(struct fail_case *c, enum fail_pass pass);
bool fail_case_next(struct fail_case *c, uint64_t now_ms, struct fail_run *out);
void fail_case_take(struct fail_case *c, const struct fail_result *result);
void fail_case_end(struct fail_case *c);

/* Whether it is one in which only passing is well. */
bool fail_case_knows(const struct fail_case *c);

/* Whether it takes so long that it is tried but for the sites that no other case comes to. */
bool fail_case_is_slow(const struct fail_case *c);

/* What has been measured; run_fail.py waits for it. */
void fail_report_measured(void);

/* The closing line. Returns how many runs were wrong. */
uint64_t fail_report_end(void);

#endif
