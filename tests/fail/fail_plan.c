/*
 * Which calls of a case fail, with which errors, and what is told of it.
 *
 * A site is a call together with the product's functions that led to it. A loop's thousandth turn
 * adds little to its first, and so does the fortieth case that opens a store alike. So each site
 * fails once before anything else, in the cheapest case of all programs that comes to it; then with
 * its other errors; and what time is left goes to each call of the cases, or where they are too
 * many to every so-many-th and to last ones. The nightly run begins with these.
 */
#include "tests/fail/fail_run.h"

#include <errno.h>
#include <sanitizer/common_interface_defs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SITES_MAX         (1u << 16)
#define GROWTH_MAX        5000 /* calls beyond those of the clean run, which may vary */
#define SITE_TRIES        4    /* of a site that does not come up again */
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
    uint64_t jobs = number_from("FAIL_JOBS", 6);
    *out = (struct fail_options){
        .only = getenv("FAIL_CASE"),
        .common = getenv("FAIL_COMMON"),
        .at = number_from("FAIL_AT", 0),
        .site = number_from("FAIL_SITE", 0),
        .variant = (uint32_t)number_from("FAIL_VARIANT", 0),
        .kinds = kinds_from(getenv("FAIL_KIND")),
        .jobs = jobs < 1               ? 1
                : jobs > FAIL_JOBS_MAX ? FAIL_JOBS_MAX
                                       : (uint32_t)jobs,
        .budget_ms = number_from("FAIL_BUDGET_MS", DEFAULT_BUDGET_MS),
        .time_ms = number_from("FAIL_TIME_MS", 0),
        .slow_ms = number_from("FAIL_SLOW_MS", 0),
        .limit_ms = number_from("FAIL_LIMIT_MS", DEFAULT_LIMIT_MS),
        .seed = number_from("FAIL_SEED", 1),
        .each = getenv("FAIL_EACH") != NULL,
        .steps = getenv("FAIL_STEPS") != NULL,
        .seeks_leaks = getenv("FAIL_LEAKS") != NULL,
        .tells_all = getenv("FAIL_VERBOSE") != NULL,
    };
}

bool fail_options_want(const struct fail_options *options, const char *name)
{
    return options->only == NULL || strcmp(options->only, name) == 0;
}

/* ---- what is known of sites, over all cases of the program ---- */

struct known_site {
    uint64_t key;   /* 0: free */
    uint64_t last;  /* in the case that is planned: its last call */
    uint32_t tries; /* cases in which it was tried on purpose */
    uint32_t tried; /* bits of errors it was tried with */
    uint32_t turn;  /* which error its next call in a row of calls gets */
    uint32_t told;  /* bits of verdicts that were told */
    size_t bid_by;  /* the case that was the last to bid, and 1 */
    bool seen;      /* in the case that is planned */
    bool reached;   /* it has failed */
};

/* Kept outside of what a fork copies and LeakSanitizer looks through, which each run would pay for.
 */
static struct known_site *sites; /* SITES_MAX, by key */
static struct known_site *
    *mine; /* those of the case that is planned, in the order of first calls */
static size_t mine_count;
static uint32_t site_count;
static struct {
    uint64_t cases, slow, whole, calls, runs, reached, wrong;
} totals;

static void *map_shared(size_t bytes)
{
    void *mapped = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) {
        perror("fail: a table");
        exit(EXIT_FAILURE);
    }
    return mapped;
}

void fail_plan_init(void)
{
    sites = map_shared(SITES_MAX * sizeof(*sites));
    mine = map_shared(SITES_MAX * sizeof(struct known_site *));
}

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
        fail_site_note(key, false);
    }
    return &sites[at];
}

static uint32_t errors_of(uint64_t key)
{
    return fail_rows[FAIL_KEY_ROW(key)].error_count;
}

/* ---- the plan ---- */

bool fail_options_single(const struct fail_options *options)
{
    return options->at != 0 || options->site != 0;
}

void fail_case_init(struct fail_case *c, const struct fail_options *options, const char *name,
                    size_t index)
{
    *c = (struct fail_case){.options = options, .name = name, .index = index};
}

static uint64_t bid_of(const struct fail_case *c)
{
    return FAIL_BID(c->clean_ms, getpid(), c->index);
}

void fail_case_learn(struct fail_case *c, const uint64_t *trace)
{
    if (c->index > FAIL_BID_INDEX_MAX) {
        fprintf(stderr, "fail: more cases than a bid has room for\n");
        exit(EXIT_FAILURE);
    }
    c->trace = malloc((c->calls + 1) * sizeof(*c->trace));
    if (c->trace == NULL) {
        perror("fail: a trace");
        exit(EXIT_FAILURE);
    }
    for (uint64_t at = 1; at <= c->calls; at++) {
        if (trace[at - 1] == 0) {
            c->calls = at - 1; /* the run was stopped within this one */
            break;
        }
        struct known_site *site = site_find(trace[at - 1]);
        c->trace[at - 1] = (uint16_t)(site - sites);
        if (c->clean && site->bid_by != c->index + 1) {
            site->bid_by = c->index + 1;
            fail_site_bid(site->key, bid_of(c));
        }
    }
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

static void sites_of(const struct fail_case *c)
{
    mine_count = 0;
    for (uint64_t at = 1; at <= c->calls; at++) {
        struct known_site *site = &sites[c->trace[at - 1]];
        site->last = at;
        if (!site->seen) {
            site->seen = true;
            mine[mine_count++] = site;
        }
    }
    for (size_t at = 0; at < mine_count; at++) {
        mine[at]->seen = false;
    }
}

static void plan_site(struct fail_case *c, struct known_site *site, uint32_t variant)
{
    site->tried |= 1u << variant;
    plan_add(c, (struct fail_run){.site = site->key, .variant = variant});
}

/* Neighbours get errors that differ. */
static void plan_sites(struct fail_case *c, enum fail_pass pass)
{
    for (size_t at = 0; at < mine_count; at++) {
        struct known_site *site = mine[at];
        bool wanted = pass == FAIL_PASS_SITES ? fail_site_lowest(site->key) == bid_of(c)
                                              : site->tries < SITE_TRIES;
        if (wanted && !fail_site_was_reached(site->key)) {
            site->tries++;
            plan_site(c, site, (uint32_t)(c->options->seed - 1 + at) % errors_of(site->key));
        }
    }
}

static void plan_errors(struct fail_case *c)
{
    for (uint32_t variant = 0; variant < FAIL_ERRORS_MAX; variant++) {
        for (size_t at = 0; at < mine_count; at++) {
            if (variant < errors_of(mine[at]->key) && (mine[at]->tried & 1u << variant) == 0) {
                plan_site(c, mine[at], variant);
            }
        }
    }
}

/* A site that comes up again and again gets one error after the other. */
static void plan_call(struct fail_case *c, uint64_t at)
{
    uint32_t variant = (uint32_t)at;
    if (at <= c->calls) {
        struct known_site *site = &sites[c->trace[at - 1]];
        variant = (uint32_t)c->options->seed + site->turn++;
    }
    c->last_at = at > c->last_at ? at : c->last_at;
    plan_add(c, (struct fail_run){.at = at, .variant = variant});
}

static void plan_strides(struct fail_case *c)
{
    uint64_t budget_ms = c->options->budget_ms;
    uint64_t runs = budget_ms == 0 ? c->calls : budget_ms / (c->clean_ms + FORK_MS);
    c->stride = runs >= c->calls ? 1 : c->calls / (runs + 1) + 1;
    c->whole = c->calls == 0;
    for (uint64_t at = 1 + c->options->seed % c->stride; at <= c->calls; at += c->stride) {
        plan_call(c, at);
    }
    for (size_t at = 0; at < mine_count && c->stride > 1; at++) {
        plan_call(c, mine[at]->last);
    }
}

void fail_case_plan(struct fail_case *c, enum fail_pass pass)
{
    c->plan_count = c->next = 0;
    bool more = pass == FAIL_PASS_ERRORS || pass == FAIL_PASS_STRIDES;
    if (!c->clean || (more && fail_case_is_slow(c))) {
        return;
    }
    sites_of(c);
    switch (pass) {
    case FAIL_PASS_SITES:
    case FAIL_PASS_REST:
        plan_sites(c, pass);
        break;
    case FAIL_PASS_ERRORS:
        plan_errors(c);
        break;
    case FAIL_PASS_STRIDES:
        plan_strides(c);
        break;
    case FAIL_PASS_ONE:
    default:
        plan_add(c, (struct fail_run){.at = c->options->at,
                                      .site = c->options->site,
                                      .variant = c->options->variant});
    }
}

bool fail_case_next(struct fail_case *c, uint64_t now_ms, struct fail_run *out)
{
    if (c->next == c->plan_count || now_ms >= c->deadline_ms) {
        return false;
    }
    *out = c->plan[c->next++];
    c->runs++;
    return true;
}

/* ---- telling ---- */

static const char *const verdict_words[FAIL_VERDICT_COUNT] = {
    [FAIL_VERDICT_PASSED] = "passes",          [FAIL_VERDICT_ASSERTED] = "fails an assertion",
    [FAIL_VERDICT_WAITED] = "waits in vain",   [FAIL_VERDICT_SKIPPED] = "is skipped",
    [FAIL_VERDICT_STOPPED] = "is stopped",     [FAIL_VERDICT_SIGNAL] = "dies by a signal",
    [FAIL_VERDICT_ABORT] = "aborts",           [FAIL_VERDICT_MEMORY] = "has a sanitizer report",
    [FAIL_VERDICT_LEAK] = "passes, but leaks", [FAIL_VERDICT_HANG] = "does not end",
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
    printf("  again: %sFAIL_CASE='%s' FAIL_AT=%llu FAIL_VARIANT=%u %s\n",
           c->options->each ? "FAIL_EACH=1 " : "", c->name, (unsigned long long)result->run.at,
           result->run.variant, program);
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
    c->kept_blocks = result->kept_blocks;
    c->stopped = result->verdict == FAIL_VERDICT_STOPPED;
    c->clean = result->verdict == FAIL_VERDICT_PASSED || c->stopped;
    if (!c->clean && result->verdict != FAIL_VERDICT_SKIPPED) {
        c->wrong++;
        tell(c, result);
    }
}

bool fail_case_knows(const struct fail_case *c)
{
    return strncmp(c->name, PROMISE, sizeof(PROMISE) - 1) == 0;
}

bool fail_case_is_slow(const struct fail_case *c)
{
    return c->options->slow_ms != 0 && c->clean_ms > c->options->slow_ms;
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
    if (c->stride == 1 && result->run.at == c->last_at && result->run.site == 0) {
        c->whole = !result->reached && result->verdict == FAIL_VERDICT_PASSED;
        if (result->reached && c->last_at < c->calls + GROWTH_MAX) {
            plan_call(c, c->last_at + 1);
        }
    }
    if (result->reached) {
        struct known_site *site = site_find(fail_site_key(&result->site));
        c->reached++;
        site->reached = true;
        site->tried |= 1u << result->run.variant % errors_of(site->key);
        fail_site_note(fail_site_key(&result->site), true);
    }
    if (is_wrong(c, result->verdict)) {
        c->wrong++;
        if (!told_before(result)) {
            tell(c, result);
        }
    } else if (fail_options_single(c->options)) {
        tell_end(c, result);
        tell_output(result->output);
    }
}

/* For run_fail.py: what nobody has let fail though this case was to, and what a slow one is for. */
static void tell_rest(const struct fail_case *c)
{
    size_t alone = 0;
    sites_of(c);
    for (size_t at = 0; at < mine_count; at++) {
        uint64_t key = mine[at]->key;
        bool is_ours = fail_site_lowest(key) == bid_of(c);
        alone += is_ours;
        if (is_ours && !fail_site_was_reached(key)) {
            printf("not failed: %s of %s, %s: FAIL_SITE=%llu\n", fail_rows[FAIL_KEY_ROW(key)].name,
                   program_invocation_short_name, c->name, (unsigned long long)key);
        }
    }
    if (fail_case_is_slow(c)) {
        printf("slow: %s, %s: %s %llu ms; of its %zu sites it alone has %zu\n",
               program_invocation_short_name, c->name, c->stopped ? "stopped after" : "takes",
               (unsigned long long)c->clean_ms, mine_count, alone);
    }
    if (c->options->each && c->clean && !c->whole) {
        printf("in part: %s, %s: %llu runs for its %llu calls\n", program_invocation_short_name,
               c->name, (unsigned long long)c->runs, (unsigned long long)c->calls);
    }
}

void fail_case_end(struct fail_case *c)
{
    if (c->options->tells_all) {
        printf(
            "%-44s %6llu calls %6llu runs %6llu reached %6llu passed %6llu asserted %4llu waited "
            "%4llu wrong "
            "(%llu ms)\n",
            c->name, (unsigned long long)c->calls, (unsigned long long)c->runs,
            (unsigned long long)c->reached, (unsigned long long)c->verdicts[FAIL_VERDICT_PASSED],
            (unsigned long long)c->verdicts[FAIL_VERDICT_ASSERTED],
            (unsigned long long)c->verdicts[FAIL_VERDICT_WAITED], (unsigned long long)c->wrong,
            (unsigned long long)c->clean_ms);
        (void)fflush(stdout);
    }
    tell_rest(c);
    totals.cases++;
    totals.slow += fail_case_is_slow(c);
    totals.whole += c->whole;
    totals.calls += c->calls;
    totals.runs += c->runs;
    totals.reached += c->reached;
    totals.wrong += c->wrong;
    free(c->plan);
    free(c->trace);
    c->plan = NULL;
    c->trace = NULL;
}

void fail_report_measured(void)
{
    printf("measured: sites=%u\n", site_count);
    (void)fflush(stdout);
}

uint64_t fail_report_end(void)
{
    uint32_t reached = 0;
    for (uint32_t at = 0; at < SITES_MAX; at++) {
        reached += sites[at].reached;
    }
    printf("sum: cases=%llu slow=%llu whole=%llu calls=%llu runs=%llu reached=%llu sites=%u "
           "sites_reached=%u wrong=%llu\n",
           (unsigned long long)totals.cases, (unsigned long long)totals.slow,
           (unsigned long long)totals.whole, (unsigned long long)totals.calls,
           (unsigned long long)totals.runs, (unsigned long long)totals.reached, site_count, reached,
           (unsigned long long)totals.wrong);
    (void)fflush(stdout);
    return totals.wrong;
}
