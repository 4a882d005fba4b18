/*
 * Takes cmocka's place when a test program runs its cases: each case is run once without a failure,
 * to see which calls it makes, and then once for each call that fail_plan.c picks, which fails.
 * Each run is a forked child, so that the sanitizers' slow start is paid once a program.
 *
 * A run may pass (the product has coped) or fail an assertion (it has said so): both are well. What
 * counts as wrong: death by a signal, abort, a sanitizer's report, a leak though the case passed,
 * and not coming to an end.
 *
 * A case's teardown is left out when the case has failed: it would tidy what is not there.
 */
#include "tests/fail/fail_run.h"
#include "tests/fail/fail_child.h"
#include "tests/unit/turns.h"

#include <dirent.h>
#include <ftw.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define OUTPUT_MAX    (64u << 10)
#define LOOK_MS       200      /* between two looks at what a child does */
#define ACTIVE_NS_MIN 5000000u /* of processor time between them, and */
#define SLEEPS_MAX    20       /* no more sleeps: it is at work */
#define IDLE_MS_MIN   1000
#define WALL_LIMITS   5 /* times the limit, for who is kept from the processor */

int __wrap__cmocka_run_group_tests(const char *name, const struct CMUnitTest *tests, size_t count,
                                   CMFixtureFunction setup, CMFixtureFunction teardown);

static struct fail_options options;

bool turns_are_few;

enum fail_end {
    FAIL_END_BY_ITSELF,
    FAIL_END_IDLE, /* it waited for what did not come */
    FAIL_END_LATE, /* it was busy for too long */
    FAIL_END_SLOW, /* nothing fails in it, and enough is known */
};

/* A place for one child. */
struct slot {
    struct fail_shared *shared;
    int output_fd; /* a memfd: what it and the sanitizers say */
    pid_t pid;     /* 0: free */
    int pidfd;
    uint64_t began_ms, limit_ms;
    uint64_t active_ms; /* when it was last seen at work */
    uint64_t cpu_ns;    /* that it had used by the last look */
    uint64_t sleeps;    /* that it had begun by then */
    uint64_t idle_ms_max;
    uint64_t slow_ms; /* of processor time, then it is stopped; 0: never */
    uint64_t traced;  /* entries of the trace that may not be 0 */
    struct fail_case *of;
    struct fail_run run;
};

static struct slot slots[FAIL_JOBS_MAX];

/* ---- slots ---- */

static void slot_init(struct slot *slot)
{
    size_t bytes = sizeof(struct fail_shared) + FAIL_TRACE_MAX * sizeof(uint64_t);
    slot->shared = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    slot->output_fd = memfd_create("output", MFD_CLOEXEC);
    if (slot->shared == MAP_FAILED || slot->output_fd < 0) {
        perror("fail: a place for a child");
        exit(EXIT_FAILURE);
    }
    slot->pid = 0;
}

static const struct CMUnitTest *test_of(const struct fail_case *c)
{
    return c->index == fail_group.count ? NULL : &fail_group.tests[c->index];
}

static void slot_start(struct slot *slot, struct fail_case *c, const struct fail_run *run,
                       uint64_t limit_ms, uint64_t idle_ms_max)
{
    struct fail_shared *s = slot->shared;
    atomic_store(&s->armed, false);
    atomic_store(&s->calls, 0);
    atomic_store(&s->reached, false);
    atomic_store(&s->directory_count, 0);
    atomic_store(&s->moved, 0);
    atomic_store(&s->taken, false);
    s->at = run->at;
    s->site_at = run->site;
    s->variant = run->variant;
    s->kinds = options.kinds;
    s->tracing = run->at == 0 && run->site == 0;
    s->kept_blocks = c->kept_blocks;
    if (s->tracing) {
        memset(s->trace, 0, slot->traced * sizeof(*s->trace));
    }
    slot->of = c;
    slot->run = *run;
    if (ftruncate(slot->output_fd, 0) != 0 || lseek(slot->output_fd, 0, SEEK_SET) != 0) {
        perror("fail: a child's output");
        exit(EXIT_FAILURE);
    }
    slot->pid = fork();
    if (slot->pid == 0) {
        fail_child_run(slot->shared, slot->output_fd, test_of(c), options.seeks_leaks);
    }
    slot->pidfd = slot->pid < 0 ? -1 : pidfd_open(slot->pid, 0);
    if (slot->pidfd < 0) {
        perror("fail: fork");
        exit(EXIT_FAILURE);
    }
    slot->active_ms = fail_clock_ms();
    slot->began_ms = slot->active_ms;
    slot->limit_ms = limit_ms;
    slot->idle_ms_max = idle_ms_max;
    slot->slow_ms = s->tracing ? options.slow_ms : 0;
    slot->cpu_ns = 0;
    slot->sleeps = 0;
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    (void)st;
    (void)kind;
    (void)ftw;
    return remove(path);
}

static void slot_tidy(struct slot *slot)
{
    struct fail_shared *s = slot->shared;
    uint32_t count = atomic_load(&s->directory_count);
    (void)kill(-slot->pid, SIGKILL); /* what it forked and left, and may still write there */
    for (uint32_t at = 0; at < count && at < FAIL_DIRECTORIES_MAX; at++) {
        (void)umount2(s->directories[at], MNT_DETACH); /* a small disk of the case's own */
        (void)nftw(s->directories[at], remove_one, 16, FTW_DEPTH | FTW_PHYS);
    }
    close(slot->pidfd);
    slot->pid = 0;
}

/* ---- verdicts ---- */

static bool output_has(const char *output, const char *words)
{
    return strstr(output, words) != NULL;
}

/* Sanitizers' reports, also of what the case itself forked, whose status it may have swallowed. */
static enum fail_verdict judge(int status, enum fail_end end, const char *output)
{
    if (end == FAIL_END_SLOW) {
        return FAIL_VERDICT_STOPPED;
    }
    if (end != FAIL_END_BY_ITSELF) {
        return end == FAIL_END_IDLE ? FAIL_VERDICT_WAITED : FAIL_VERDICT_HANG;
    }
    if (WIFSIGNALED(status)) {
        return WTERMSIG(status) == SIGALRM ? FAIL_VERDICT_HANG : FAIL_VERDICT_SIGNAL;
    }
    if (output_has(output, "ABRT on unknown address")) {
        return FAIL_VERDICT_ABORT;
    }
    if (WEXITSTATUS(status) == FAIL_EXIT_LEAK) {
        return FAIL_VERDICT_LEAK;
    }
    if (WEXITSTATUS(status) == FAIL_EXIT_SANITIZER ||
        output_has(output, "ERROR: AddressSanitizer") ||
        output_has(output, "Sanitizer:DEADLYSIGNAL") || output_has(output, "runtime error: ") ||
        output_has(output, "Test failed with exception")) {
        return FAIL_VERDICT_MEMORY;
    }
    if (WEXITSTATUS(status) == FAIL_EXIT_SKIPPED) {
        return FAIL_VERDICT_SKIPPED;
    }
    return WEXITSTATUS(status) == 0 ? FAIL_VERDICT_PASSED : FAIL_VERDICT_ASSERTED;
}

static uint64_t slow_took_ms(const struct slot *slot)
{
    uint64_t ms = fail_clock_ms() - slot->began_ms;
    return ms > slot->slow_ms ? ms : slot->slow_ms + 1;
}

static struct fail_result slot_result(struct slot *slot, enum fail_end end, char *output)
{
    int status = 0;
    while (waitpid(slot->pid, &status, 0) < 0) {
        /* EINTR */
    }
    ssize_t got = pread(slot->output_fd, output, OUTPUT_MAX - 1, 0);
    output[got > 0 ? got : 0] = '\0';
    struct fail_result result = {
        .run = slot->run,
        .verdict = judge(status, end, output),
        .reached = atomic_load(&slot->shared->reached),
        .took_ms = end == FAIL_END_SLOW ? slow_took_ms(slot) : slot->shared->took_ms,
        .kept_blocks = end == FAIL_END_SLOW ? 0 : slot->shared->kept_blocks,
        .calls = atomic_load(&slot->shared->calls),
        .error = slot->shared->error,
        .site = slot->shared->site,
        .output = output,
    };
    return result;
}

/* ---- a case ---- */

/* Aborted first, for its stack; should that not end it, killed. */
static void slot_stop(const struct slot *slot, enum fail_end end)
{
    struct pollfd ended = {.fd = slot->pidfd, .events = POLLIN};
    if (end == FAIL_END_SLOW) {
        (void)kill(-slot->pid, SIGKILL);
        return;
    }
    (void)kill(slot->pid, SIGABRT);
    if (poll(&ended, 1, 10000) <= 0) {
        (void)kill(slot->pid, SIGKILL);
    }
}

/* How often the child has gone to sleep; *out_ready: it is not asleep now, though it may not run.
 */
static uint64_t sleeps_of(pid_t pid, bool *out_ready)
{
    char path[64], line[128];
    unsigned long long sleeps = 0;
    char letter = 0;
    (void)snprintf(path, sizeof(path), "/proc/%d/status", pid);
    FILE *status = fopen(path, "re");
    while (status != NULL && fgets(line, sizeof(line), status) != NULL) {
        (void)sscanf(line, "voluntary_ctxt_switches: %llu", &sleeps);
        (void)sscanf(line, "State: %c", &letter);
    }
    if (status != NULL) {
        (void)fclose(status);
    }
    *out_ready = letter == 'R' || letter == 'D';
    return sleeps;
}

/*
 * Whether the child was at work since the last look: it has used the processor, and not for short
 * moments between sleeps, as a case does that looks again each millisecond whether it has come; or
 * it waits for the processor or the disk.
 */
static bool slot_is_active(struct slot *slot)
{
    clockid_t clock;
    struct timespec used;
    bool ready;
    if (clock_getcpuclockid(slot->pid, &clock) != 0 || clock_gettime(clock, &used) != 0) {
        return true;
    }
    uint64_t ns = (uint64_t)used.tv_sec * 1000000000 + (uint64_t)used.tv_nsec;
    uint64_t sleeps = sleeps_of(slot->pid, &ready);
    bool works = ready || ns > slot->cpu_ns + ACTIVE_NS_MIN;
    bool active = works && sleeps < slot->sleeps + SLEEPS_MAX;
    slot->cpu_ns = ns;
    slot->sleeps = sleeps;
    return active;
}

/* That it has used, and what it forked and waited for. */
static uint64_t used_ms(pid_t pid)
{
    char path[64];
    unsigned long long ticks[4] = {0};
    (void)snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    FILE *stat = fopen(path, "re");
    if (stat != NULL) {
        int found = fscanf(
            stat, "%*d (%*[^)]) %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu %llu %llu",
            &ticks[0], &ticks[1], &ticks[2], &ticks[3]);
        (void)found;
        (void)fclose(stat);
    }
    uint64_t sum = ticks[0] + ticks[1] + ticks[2] + ticks[3];
    return sum * 1000 / (uint64_t)sysconf(_SC_CLK_TCK);
}

/* By itself: it goes on. Late is who has used the processor for so long, or was given so much more
 * time than that; others may have kept it from the processor. */
static enum fail_end slot_look(struct slot *slot, uint64_t now_ms)
{
    if (slot_is_active(slot)) {
        slot->active_ms = now_ms;
    }
    if (now_ms >= slot->began_ms + WALL_LIMITS * slot->limit_ms ||
        slot->cpu_ns / 1000000 >= slot->limit_ms) {
        return FAIL_END_LATE;
    }
    if (slot->slow_ms != 0 && (now_ms >= slot->began_ms + WALL_LIMITS * slot->slow_ms ||
                               used_ms(slot->pid) >= slot->slow_ms)) {
        return FAIL_END_SLOW;
    }
    bool idle = now_ms >= slot->active_ms + slot->idle_ms_max;
    return idle && atomic_load(&slot->shared->reached) ? FAIL_END_IDLE : FAIL_END_BY_ITSELF;
}

/* At what the children do, whoever ends in between: short runs must not hide one that waits. */
static uint64_t looked_ms;

/* Waits until one has ended, or is ended. */
static struct slot *slots_wait(enum fail_end *out_end)
{
    for (;;) {
        struct pollfd ends[FAIL_JOBS_MAX];
        for (uint32_t at = 0; at < options.jobs; at++) {
            ends[at] =
                (struct pollfd){.fd = slots[at].pid == 0 ? -1 : slots[at].pidfd, .events = POLLIN};
        }
        (void)poll(ends, options.jobs, LOOK_MS);
        uint64_t now_ms = fail_clock_ms();
        bool looks = now_ms >= looked_ms + LOOK_MS;
        looked_ms = looks ? now_ms : looked_ms;
        for (uint32_t at = 0; at < options.jobs && looks; at++) {
            bool is_there = slots[at].pid != 0 && ends[at].revents == 0;
            *out_end = is_there ? slot_look(&slots[at], now_ms) : FAIL_END_BY_ITSELF;
            if (*out_end != FAIL_END_BY_ITSELF) {
                slot_stop(&slots[at], *out_end);
                return &slots[at];
            }
        }
        *out_end = FAIL_END_BY_ITSELF;
        for (uint32_t at = 0; at < options.jobs; at++) {
            if (slots[at].pid != 0 && ends[at].revents != 0) {
                return &slots[at];
            }
        }
    }
}

/* Of the case that the slot had. */
static struct fail_case *slot_finish(struct slot *slot, enum fail_end end)
{
    static char output[OUTPUT_MAX];
    struct fail_result result = slot_result(slot, end, output);
    fail_case_take(slot->of, &result);
    slot_tidy(slot);
    return slot->of;
}

/* The runs without a failure: what they call, and how long they take. */
static void measure(struct fail_case *cases, size_t count)
{
    const struct fail_run none = {0};
    size_t next = 0, done = 0;
    while (done < count) {
        for (uint32_t at = 0; at < options.jobs && next < count; at++) {
            if (slots[at].pid == 0) {
                slot_start(&slots[at], &cases[next++], &none, 5 * options.limit_ms, UINT64_MAX / 2);
            }
        }
        enum fail_end end;
        struct slot *ended = slots_wait(&end);
        struct fail_case *c = slot_finish(ended, end);
        uint64_t calls = atomic_load(&ended->shared->calls);
        fail_case_learn(c, ended->shared->trace);
        ended->traced = calls < FAIL_TRACE_MAX ? calls : FAIL_TRACE_MAX;
        done++;
    }
}

/* A case that knows of failures has its own patience, and is to come to an end. */
static uint64_t idle_ms_max(const struct fail_case *c)
{
    return fail_case_knows(c) ? UINT64_MAX / 2 : IDLE_MS_MIN + 3 * c->clean_ms;
}

/* A pass over cases. */
struct pass {
    enum fail_pass kind;
    uint64_t end_ms; /* then nothing is begun any more */
    bool shares;     /* each case has its part of the time */
    struct fail_case *cases;
    size_t count, begun;
};

/* A case's part of the time that is left; what it does not need is for those that follow. */
static uint64_t part_end_ms(const struct pass *pass)
{
    uint64_t now_ms = fail_clock_ms();
    uint64_t left_ms = pass->end_ms > now_ms ? pass->end_ms - now_ms : 0;
    return pass->shares ? now_ms + left_ms / (pass->count - pass->begun) : pass->end_ms;
}

/* The case whose turn it is, and its run; NULL: none for now. Also of those begun before, since
 * what a run tells may add to the plan. */
static struct fail_case *pass_next(struct pass *pass, struct fail_run *out)
{
    for (size_t at = 0; at < pass->begun; at++) {
        if (fail_case_next(&pass->cases[at], fail_clock_ms(), out)) {
            return &pass->cases[at];
        }
    }
    while (pass->begun < pass->count) {
        struct fail_case *c = &pass->cases[pass->begun];
        fail_case_plan(c, pass->kind);
        c->deadline_ms = part_end_ms(pass);
        pass->begun++;
        if (fail_case_next(c, fail_clock_ms(), out)) {
            return c;
        }
    }
    return NULL;
}

/* All slots are kept busy, from one case to the next. */
static void pass_run(struct pass *pass)
{
    uint32_t busy = 0;
    for (;;) {
        for (uint32_t at = 0; at < options.jobs; at++) {
            struct fail_run run;
            struct fail_case *c = slots[at].pid == 0 ? pass_next(pass, &run) : NULL;
            if (c != NULL) {
                slot_start(&slots[at], c, &run, options.limit_ms + 5 * c->clean_ms, idle_ms_max(c));
                busy++;
            }
        }
        if (busy == 0) {
            return;
        }
        enum fail_end end;
        struct slot *ended = slots_wait(&end);
        (void)slot_finish(ended, end);
        busy--;
    }
}

/* ---- the program ---- */

static uint32_t thread_count(void)
{
    uint32_t count = 0;
    DIR *tasks = opendir("/proc/self/task");
    for (const struct dirent *entry = tasks == NULL ? NULL : readdir(tasks); entry != NULL;
         entry = readdir(tasks)) {
        count += entry->d_name[0] != '.';
    }
    if (tasks != NULL) {
        closedir(tasks);
    }
    return count;
}

/* The next step, when run_fail.py says so: a line with the ms that it may take. Returns when that
 * will be over. */
static uint64_t step_end_ms(void)
{
    char line[32];
    uint64_t ms = options.time_ms;
    if (options.steps) {
        if (fgets(line, sizeof(line), stdin) == NULL) {
            exit(EXIT_FAILURE);
        }
        ms = strtoull(line, NULL, 10);
    }
    return ms == 0 ? UINT64_MAX / 2 : fail_clock_ms() + ms;
}

static int cheaper_first(const void *left, const void *right)
{
    const struct fail_case *a = left, *b = right;
    return a->clean_ms != b->clean_ms ? (a->clean_ms < b->clean_ms ? -1 : 1)
                                      : (a->index < b->index ? -1 : 1);
}

static void run_pass(struct fail_case *cases, size_t count, enum fail_pass kind, uint64_t end_ms)
{
    struct pass pass = {
        .kind = kind,
        .end_ms = end_ms,
        .shares = kind == FAIL_PASS_ERRORS || kind == FAIL_PASS_STRIDES,
        .cases = cases,
        .count = count,
    };
    pass_run(&pass);
}

/* After the sites that this program is to try. */
static void run_more(struct fail_case *cases, size_t count, uint64_t end_ms)
{
    run_pass(cases, count, FAIL_PASS_REST, end_ms);
    run_pass(cases, count, FAIL_PASS_REST, end_ms);
    run_pass(cases, count, FAIL_PASS_ERRORS, end_ms);
    run_pass(cases, count, FAIL_PASS_STRIDES, end_ms);
}

static uint64_t more_end_ms; /* of the last step */

static void run_passes(struct fail_case *cases, size_t count, bool is_fixture)
{
    if (fail_options_single(&options)) {
        run_pass(cases, count, FAIL_PASS_ONE, UINT64_MAX / 2);
        return;
    }
    if (options.each) {
        uint64_t end_ms = step_end_ms();
        run_pass(cases, count, FAIL_PASS_STRIDES, end_ms);
        run_pass(cases, count, FAIL_PASS_ERRORS, end_ms);
        return;
    }
    if (!is_fixture) {
        fail_report_measured();
        run_pass(cases, count, FAIL_PASS_SITES, step_end_ms());
        fail_report_measured();
        more_end_ms = step_end_ms();
    }
    run_more(cases, count, more_end_ms);
}

/* Cases [first, end) of the program; its count stands for the fixture. */
static void run_range(size_t first, size_t end)
{
    struct fail_case *cases = calloc(end - first, sizeof(*cases));
    size_t count = 0;
    for (size_t at = first; at < end && cases != NULL; at++) {
        const char *name = at == fail_group.count ? FAIL_FIXTURE : fail_group.tests[at].name;
        if (fail_options_want(&options, name)) {
            fail_case_init(&cases[count++], &options, name, at);
        }
    }
    measure(cases, count);
    if (count > 0) {
        qsort(cases, count, sizeof(*cases), cheaper_first);
        run_passes(cases, count, first == fail_group.count);
    }
    for (size_t at = 0; at < count; at++) {
        fail_case_end(&cases[at]);
    }
    free(cases);
}

/* As a case of cmocka's: so an assertion of the group's setup has somewhere to go. */
static void run_cases(void **state)
{
    if (!fail_group.setup_in_child && thread_count() > 1) {
        fail_group.setup_in_child = true;
        return;
    }
    fail_group.state = *state;
    run_range(0, fail_group.count);
}

static void run_fixture(void **state)
{
    (void)state;
    if (fail_group.setup != NULL) {
        run_range(fail_group.count, fail_group.count + 1);
    }
}

int __wrap__cmocka_run_group_tests(const char *name, const struct CMUnitTest *tests, size_t count,
                                   CMFixtureFunction setup, CMFixtureFunction teardown)
{
    const struct CMUnitTest cases = {.name = name, .test_func = run_cases};
    const struct CMUnitTest fixture = {.name = FAIL_FIXTURE, .test_func = run_fixture};
    fail_group.tests = tests;
    fail_group.count = count;
    fail_group.setup = setup;
    fail_group.teardown = teardown;
    fail_options_read(&options);
    turns_are_few = options.each;
    fail_sites_init(options.common);
    fail_plan_init();
    fail_child_init();
    for (uint32_t at = 0; at < options.jobs; at++) {
        slot_init(&slots[at]);
    }
    int failed = __real__cmocka_run_group_tests(name, &cases, 1, setup, teardown);
    if (failed == 0 && fail_group.setup_in_child) {
        failed = __real__cmocka_run_group_tests(name, &cases, 1, NULL, NULL);
    }
    failed += __real__cmocka_run_group_tests(name, &fixture, 1, NULL, NULL);
    return fail_report_end() != 0 || failed != 0;
}
