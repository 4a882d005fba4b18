/*
 * Which calls of a case fail, with which errors, and what is told of it.
 *
 * A case with few calls has each of them fail with each of its errors. Of one with many, each site
 * has its first and its last call fail, and the rest of the budget goes to every so-many-th call. A
 * site is a call together with the product's functions that led to it; so a loop's thousandth turn
 * adds little, and what many cases do alike, opening a store say, is tried in the first few only.
 */
#include "tests/fail/fail_run.h"

#include <errno.h>
#include <sanitizer/common_interface_defs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SITES_MAX         (1u << 16)
#define SITE_CASES        3 /* in so many cases a site is tried on purpose */
#define SITES_SHARE       8 /* times the budget is for sites that were not tried often enough */
#define RUNS_MIN          5 /* of a case, strides included, however slow it is */
#define OUTPUT_LINES_MAX  45
#define DEFAULT_LIMIT_MS  20000
#define DEFAULT_BUDGET_MS 500
#define PROMISE           "promise" /* how the name of a case that knows of failures begins */
#define FORK_MS           6         /* a run's cost beside the case's own */

/* ---- options ---- */

static uint64_t number_from(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text == NULL ? otherwise : strtoull(text, NULL, 10);
}

static uint32_t kinds_from(const char *text)
{
    static const char *const names[FAIL_KIND_COUNT] = {"alloc", "lmdb", "sys", "lib", "ring"};
    uint32_t kinds = 0;
    for (uint32_t kind = 0; kind < FAIL_KIND_COUNT; kind++) {
        if (text == NULL || strstr(text, names[kind]) != NULL) {
            kinds |= 1u << kind;
        }
    }
    return kinds;
}

void fail_options_read(struct fail_options *out)
{
    uint64_t jobs = number_from("FAIL_JOBS", 2);
    *out = (struct fail_options){
        .only = getenv("FAIL_CASE"),
        .at = number_from("FAIL_AT", 0),
        .site = number_from("FAIL_SITE", 0),
        .variant = (uint32_t)number_from("FAIL_VARIANT", 0),
        .kinds = kinds_from(getenv("FAIL_KIND")),
        .jobs = jobs < 1               ? 1
                : jobs > FAIL_JOBS_MAX ? FAIL_JOBS_MAX
                                       : (uint32_t)jobs,
        .parts = 1,
        .budget_ms = number_from("FAIL_BUDGET_MS", DEFAULT_BUDGET_MS),
        .limit_ms = number_from("FAIL_LIMIT_MS", DEFAULT_LIMIT_MS),
        .seed = number_from("FAIL_SEED", 1),
        .seeks_leaks = getenv("FAIL_LEAKS") != NULL,
        .tells_all = getenv("FAIL_VERBOSE") != NULL,
    };
    const char *part = getenv("FAIL_PART");
    if (part != NULL && sscanf(part, "%u/%u", &out->part, &out->parts) != 2) {
        fprintf(stderr, "fail: FAIL_PART is K/M\n");
        exit(EXIT_FAILURE);
    }
}

bool fail_options_want(const struct fail_options *options, const char *name, size_t index)
{
    if (options->only != NULL) {
        return strcmp(options->only, name) == 0;
    }
    return index % options->parts == options->part;
}

/* ---- what is known of sites, over all cases of the program ---- */

struct known_site {
    uint64_t key;   /* 0: free */
    uint64_t last;  /* in the case that is planned: its last call */
    uint32_t cases; /* that have tried it on purpose */
    bool seen;      /* in the case that is planned */
    bool reached;   /* it has failed */
    uint32_t told;  /* bits of verdicts that were told */
};

static struct known_site sites[SITES_MAX];
static uint32_t site_count;
static struct {
    uint64_t cases, calls, runs, reached, wrong;
} totals;

static struct known_site *site_find(uint64_t key)
{
    uint32_t at = (uint32_t)(key >> 20) % SITES_MAX;
    while (sites[at].key != key && sites[at].key != 0) {
        at = (at + 1) % SITES_MAX;
    }
    if (sites[at].key == 0) {
        if (site_count >= SITES_MAX / 2) {
            fprintf(stderr, "fail: more sites than SITES_MAX has room for\n");
            exit(EXIT_FAILURE);
        }
        site_count++;
        sites[at].key = key;
    }
    return &sites[at];
}

static uint32_t errors_of(uint64_t key)
{
    return fail_rows[FAIL_KEY_ROW(key)].error_count;
}

/* ---- the plan ---- */

static bool is_single(const struct fail_options *options)
{
    return options->at != 0 || options->site != 0;
}

void fail_case_init(struct fail_case *c, const struct fail_options *options, const char *name)
{
    *c = (struct fail_case){.options = options, .name = name};
}

static void plan_add(struct fail_case *c, struct fail_run run)
{
    if (c->plan_count == c->plan_capacity) {
        c->plan_capacity = c->plan_capacity == 0 ? 1024 : 2 * c->plan_capacity;
        c->plan = realloc(c->plan, c->plan_capacity * sizeof(*c->plan));
        if (c->plan == NULL) {
            perror("fail: a plan");
            exit(EXIT_FAILURE);
        }
    }
    c->plan[c->plan_count++] = run;
}

static void plan_sites(struct fail_case *c, const uint64_t *trace)
{
    for (uint64_t at = 1; at <= c->calls; at++) {
        struct known_site *site = site_find(trace[at - 1]);
        site->last = at;
        if (!site->seen) {
            site->seen = true;
            if (site->cases++ < SITE_CASES) {
                for (uint32_t variant = 0; variant < errors_of(site->key); variant++) {
                    plan_add(c, (struct fail_run){.site = site->key, .variant = variant});
                }
            }
        }
    }
    for (uint64_t at = 1; at <= c->calls; at++) {
        struct known_site *site = site_find(trace[at - 1]);
        if (site->last == at && site->cases <= SITE_CASES) {
            plan_add(c, (struct fail_run){.at = at, .variant = (uint32_t)c->options->seed});
        }
        site->seen = false;
    }
}

/* Of a slow case with many sites, every so-many-th is what there is time for. */
static void plan_thin(struct fail_case *c, uint64_t runs)
{
    if (c->plan_count <= runs) {
        return;
    }
    size_t kept = 0;
    for (uint64_t at = 0; at < runs; at++) {
        c->plan[kept++] = c->plan[(at * c->plan_count + c->options->seed) / runs % c->plan_count];
    }
    c->plan_count = kept;
}

static void plan_strides(struct fail_case *c, uint64_t runs)
{
    if (c->plan_count >= runs) {
        return;
    }
    uint64_t count = runs - c->plan_count;
    uint64_t step = c->calls / count + 1;
    uint32_t variant = (uint32_t)c->options->seed;
    for (uint64_t at = 1 + c->options->seed % step; at <= c->calls; at += step) {
        plan_add(c, (struct fail_run){.at = at, .variant = variant++});
    }
}

void fail_case_plan(struct fail_case *c, const uint64_t *trace)
{
    if (!c->clean) {
        return;
    }
    if (is_single(c->options)) {
        plan_add(c, (struct fail_run){.at = c->options->at,
                                      .site = c->options->site,
                                      .variant = c->options->variant});
        return;
    }
    uint64_t all = 0;
    for (uint64_t at = 1; at <= c->calls; at++) {
        all += errors_of(trace[at - 1]);
    }
    uint64_t runs = c->options->budget_ms / (c->clean_ms + FORK_MS);
    runs = runs < RUNS_MIN ? RUNS_MIN : runs;
    if (c->options->budget_ms == 0 || all <= runs) {
        for (uint64_t at = 1; at <= c->calls; at++) {
            site_find(trace[at - 1])->cases++;
            for (uint32_t variant = 0; variant < errors_of(trace[at - 1]); variant++) {
                plan_add(c, (struct fail_run){.at = at, .variant = variant});
            }
        }
    } else {
        plan_sites(c, trace);
        plan_thin(c, SITES_SHARE * runs);
        plan_strides(c, runs);
    }
}

bool fail_case_next(struct fail_case *c, struct fail_run *out)
{
    if (c->next == c->plan_count) {
        return false;
    }
    *out = c->plan[c->next++];
    return true;
}

/* ---- telling ---- */

static const char *const verdict_words[FAIL_VERDICT_COUNT] = {
    [FAIL_VERDICT_PASSED] = "passes",
    [FAIL_VERDICT_ASSERTED] = "fails an assertion",
    [FAIL_VERDICT_WAITED] = "waits in vain",
    [FAIL_VERDICT_SKIPPED] = "is skipped",
    [FAIL_VERDICT_SIGNAL] = "dies by a signal",
    [FAIL_VERDICT_ABORT] = "aborts",
    [FAIL_VERDICT_MEMORY] = "has a sanitizer report",
    [FAIL_VERDICT_LEAK] = "passes, but leaks",
    [FAIL_VERDICT_HANG] = "does not end",
};

static void tell_output(const char *output)
{
    for (int line = 0; line < OUTPUT_LINES_MAX && *output != '\0'; line++) {
        size_t len = strcspn(output, "\n");
        printf("    | %.*s\n", (int)len, output);
        output += len + (output[len] == '\n');
    }
}

static void tell_stack(const struct fail_site *site)
{
    for (uint32_t at = 0; at < site->depth; at++) {
        char text[512];
        /* The call, not where it returns to. */
        __sanitizer_symbolize_pc((void *)(site->stack[at] - 1), "%f %s:%l", text, sizeof(text));
        printf("    %s\n", text);
    }
}

static void tell_error(const struct fail_result *result)
{
    const char *name = fail_rows[result->site.row].name;
    if (result->error == FAIL_SHORT) {
        printf("%s does half of it", name);
    } else {
        printf("%s fails with %d (%s)", name, result->error,
               result->error > 0 ? strerrorname_np(result->error) : "its own");
    }
}

static void tell_end(const struct fail_case *c, const struct fail_result *result)
{
    printf("%s %s", c->name, verdict_words[result->verdict]);
    if (result->reached) {
        printf(" when ");
        tell_error(result);
        printf(" in\n");
        tell_stack(&result->site);
    } else {
        printf(" though nothing failed\n");
    }
}

static void tell(const struct fail_case *c, const struct fail_result *result)
{
    const char *program = program_invocation_name;
    printf("wrong: %s, ", program_invocation_short_name);
    tell_end(c, result);
    printf("  again: FAIL_CASE='%s' FAIL_AT=%llu FAIL_VARIANT=%u %s\n", c->name,
           (unsigned long long)result->run.at, result->run.variant, program);
    if (result->reached) {
        printf("  or, its site's first: FAIL_SITE=%llu\n",
               (unsigned long long)fail_site_key(&result->site));
    }
    tell_output(result->output);
    (void)fflush(stdout);
}

static bool told_before(const struct fail_result *result)
{
    if (!result->reached) {
        return false;
    }
    struct known_site *site = site_find(fail_site_key(&result->site));
    bool before = (site->told & 1u << result->verdict) != 0;
    site->told |= 1u << result->verdict;
    return before;
}

/* Without a failure the case has to pass, or nothing can be said of it. */
static void take_clean(struct fail_case *c, const struct fail_result *result)
{
    c->calls = result->calls < FAIL_TRACE_MAX ? result->calls : FAIL_TRACE_MAX;
    c->clean_ms = result->took_ms;
    c->clean = result->verdict == FAIL_VERDICT_PASSED;
    if (!c->clean && result->verdict != FAIL_VERDICT_SKIPPED) {
        c->wrong++;
        tell(c, result);
    }
}

bool fail_case_knows(const struct fail_case *c)
{
    return strncmp(c->name, PROMISE, sizeof(PROMISE) - 1) == 0;
}

static bool is_wrong(const struct fail_case *c, enum fail_verdict verdict)
{
    return verdict >= FAIL_VERDICT_SIGNAL || (fail_case_knows(c) && verdict != FAIL_VERDICT_PASSED);
}

void fail_case_take(struct fail_case *c, const struct fail_result *result)
{
    if (result->run.at == 0 && result->run.site == 0) {
        take_clean(c, result);
        return;
    }
    c->verdicts[result->verdict]++;
    if (result->reached) {
        c->reached++;
        site_find(fail_site_key(&result->site))->reached = true;
    }
    if (is_wrong(c, result->verdict)) {
        c->wrong++;
        if (!told_before(result)) {
            tell(c, result);
        }
    } else if (is_single(c->options)) {
        tell_end(c, result);
        tell_output(result->output);
    }
}

void fail_case_end(struct fail_case *c)
{
    if (c->options->tells_all) {
        printf("%-40s %6llu calls %6zu runs %6llu reached %6llu passed %6llu asserted %4llu waited "
               "%4llu wrong "
               "(%llu ms)\n",
               c->name, (unsigned long long)c->calls, c->plan_count, (unsigned long long)c->reached,
               (unsigned long long)c->verdicts[FAIL_VERDICT_PASSED],
               (unsigned long long)c->verdicts[FAIL_VERDICT_ASSERTED],
               (unsigned long long)c->verdicts[FAIL_VERDICT_WAITED], (unsigned long long)c->wrong,
               (unsigned long long)c->clean_ms);
        (void)fflush(stdout);
    }
    totals.cases++;
    totals.calls += c->calls;
    totals.runs += c->plan_count;
    totals.reached += c->reached;
    totals.wrong += c->wrong;
    free(c->plan);
    c->plan = NULL;
}

uint64_t fail_report_end(void)
{
    uint32_t reached = 0;
    for (uint32_t at = 0; at < SITES_MAX; at++) {
        reached += sites[at].reached;
    }
    printf("sum: cases=%llu calls=%llu runs=%llu reached=%llu sites=%u sites_reached=%u "
           "wrong=%llu\n",
           (unsigned long long)totals.cases, (unsigned long long)totals.calls,
           (unsigned long long)totals.runs, (unsigned long long)totals.reached, site_count, reached,
           (unsigned long long)totals.wrong);
    (void)fflush(stdout);
    return totals.wrong;
}
