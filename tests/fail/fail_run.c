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

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include <dirent.h>
#include <ftw.h>
#include <poll.h>
#include <sanitizer/common_interface_defs.h>
#include <sanitizer/lsan_interface.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define EXIT_SANITIZER 99
#define EXIT_LEAK      98
#define EXIT_SKIPPED   97
#define OUTPUT_MAX     (64u << 10)
#define STACK_BYTES    (256u << 10)
#define LOOK_MS        200      /* between two looks at what a child does */
#define ACTIVE_NS_MIN  5000000u /* of processor time between them, and */
#define SLEEPS_MAX     20       /* no more sleeps: it is at work */
#define IDLE_MS_MIN    2000

/* Of the sanitizers' allocator_interface.h, which gcc 12 does not bring. */
size_t __sanitizer_get_current_allocated_bytes(void);

/* Defaults of the sanitizers, in place of cmocka's handlers: a fault is reported with its stack. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "handle_segv=2:handle_sigfpe=2:handle_sigill=2:handle_abort=1:exitcode=99:"
           "detect_leaks=1:leak_check_at_exit=0:allocator_may_return_null=1";
}

const char *__ubsan_default_options(void);
const char *__ubsan_default_options(void)
{
    return "print_stacktrace=1";
}

int __real__cmocka_run_group_tests(const char *name, const struct CMUnitTest *tests, size_t count,
                                   CMFixtureFunction setup, CMFixtureFunction teardown);
int __wrap__cmocka_run_group_tests(const char *name, const struct CMUnitTest *tests, size_t count,
                                   CMFixtureFunction setup, CMFixtureFunction teardown);
char *__real_mkdtemp(char *template);
char *__wrap_mkdtemp(char *template);

/* A vector register keeps the end of what calloc cleared, long after the case is over. */
const char *__lsan_default_options(void);
const char *__lsan_default_options(void)
{
    return "use_registers=0";
}

/* What the program's main wanted run. */
static struct {
    const struct CMUnitTest *tests;
    size_t count;
    CMFixtureFunction setup, teardown;
    bool setup_in_child; /* it starts threads, which a fork would leave behind */
    void *state;         /* of the group, when it was set up here */
} group;

static struct fail_options options;

enum fail_end {
    FAIL_END_BY_ITSELF,
    FAIL_END_IDLE, /* it waited for what did not come */
    FAIL_END_LATE, /* it was busy for too long */
};

/* A place for one child. */
struct slot {
    struct fail_shared *shared;
    int output_fd; /* a memfd: what it and the sanitizers say */
    pid_t pid;     /* 0: free */
    int pidfd;
    uint64_t deadline_ms;
    uint64_t active_ms; /* when it was last seen at work */
    uint64_t cpu_ns;    /* that it had used by the last look */
    uint64_t sleeps;    /* that it had begun by then */
    uint64_t idle_ms_max;
    struct fail_run run;
};

static struct slot slots[FAIL_JOBS_MAX];

/* ---- in the child ---- */

static uint64_t clock_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static const struct CMUnitTest *the_case; /* NULL: the group's setup and teardown alone */
static bool finished;

static void arm(bool on)
{
    atomic_store(&fail_shared->armed, on);
}

static int case_setup(void **state)
{
    arm(true);
    return the_case->setup_func(state);
}

static void case_body(void **state)
{
    arm(true);
    if (the_case != NULL) {
        the_case->test_func(state);
    }
    finished = true;
}

static int case_teardown(void **state)
{
    return finished ? the_case->teardown_func(state) : 0;
}

static int group_setup(void **state)
{
    arm(the_case == NULL);
    if (!group.setup_in_child && the_case != NULL) {
        *state = group.state;
        return 0;
    }
    return group.setup == NULL ? 0 : group.setup(state);
}

static int group_teardown(void **state)
{
    arm(the_case == NULL);
    bool ours = group.setup_in_child || the_case == NULL;
    return ours && finished && group.teardown != NULL ? group.teardown(state) : 0;
}

/* What lay on the stack would pass for a pointer that is still held: LeakSanitizer's own frames, in
 * the same place, do not write all that they have. */
__attribute__((noinline, no_sanitize("address"))) static void stack_wipe(void)
{
    char area[STACK_BYTES];
    explicit_bzero(area, sizeof(area));
}

/*
 * LeakSanitizer takes ten times as long as most cases. So it is asked only when more is left behind
 * than by the clean run, which it is asked about too: libraries keep things for later.
 */
static bool leaks(size_t before_bytes)
{
    struct fail_shared *s = fail_shared;
    size_t now_bytes = __sanitizer_get_current_allocated_bytes();
    size_t kept_bytes = now_bytes > before_bytes ? now_bytes - before_bytes : 0;
    if (s->tracing) {
        s->kept_bytes = kept_bytes;
    } else if (kept_bytes <= s->kept_bytes && !options.seeks_leaks) {
        return false;
    }
    stack_wipe();
    bool found = __lsan_do_recoverable_leak_check() != 0;
    if (!found && !s->tracing) {
        stack_wipe(); /* the first check had the linker at work, which saves old registers */
        found = __lsan_do_recoverable_leak_check() != 0;
    }
    return found;
}

_Noreturn static void child_run(const struct slot *slot)
{
    const struct CMUnitTest one = {
        .name = the_case == NULL ? FAIL_FIXTURE : the_case->name,
        .test_func = case_body,
        .setup_func = the_case != NULL && the_case->setup_func != NULL ? case_setup : NULL,
        .teardown_func = the_case != NULL && the_case->teardown_func != NULL ? case_teardown : NULL,
        .initial_state = the_case == NULL ? NULL : the_case->initial_state,
    };
    fail_shared = slot->shared;
    setpgid(0, 0);
    dup2(slot->output_fd, STDOUT_FILENO);
    dup2(slot->output_fd, STDERR_FILENO);
    /* Of its own, since a case may redirect standard error. */
    __sanitizer_set_report_fd((void *)(intptr_t)dup(slot->output_fd));
    size_t before_bytes = __sanitizer_get_current_allocated_bytes();
    uint64_t began_ms = clock_ms();
    int failed = __real__cmocka_run_group_tests("one", &one, 1, group_setup, group_teardown);
    arm(false);
    slot->shared->took_ms = clock_ms() - began_ms;
    (void)fflush(stdout);
    if (failed != 0) {
        _exit(1);
    }
    if (!finished) {
        _exit(EXIT_SKIPPED);
    }
    _exit(leaks(before_bytes) ? EXIT_LEAK : 0);
}

/* Directories are remembered, for the parent to remove: a case that fails leaves them. */
char *__wrap_mkdtemp(char *template)
{
    char *made = __real_mkdtemp(template);
    if (made != NULL && fail_shared != NULL && strlen(made) < FAIL_PATH_BYTES) {
        uint32_t at = atomic_fetch_add(&fail_shared->directory_count, 1);
        if (at < FAIL_DIRECTORIES_MAX) {
            memcpy(fail_shared->directories[at], made, strlen(made) + 1);
        }
    }
    return made;
}

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

static void slot_start(struct slot *slot, const struct fail_run *run, uint64_t limit_ms,
                       uint64_t idle_ms_max)
{
    struct fail_shared *s = slot->shared;
    atomic_store(&s->armed, false);
    atomic_store(&s->calls, 0);
    atomic_store(&s->reached, false);
    atomic_store(&s->directory_count, 0);
    atomic_store(&s->taken, false);
    s->at = run->at;
    s->site_at = run->site;
    s->variant = run->variant;
    s->kinds = options.kinds;
    s->tracing = run->at == 0 && run->site == 0;
    slot->run = *run;
    if (ftruncate(slot->output_fd, 0) != 0 || lseek(slot->output_fd, 0, SEEK_SET) != 0) {
        perror("fail: a child's output");
        exit(EXIT_FAILURE);
    }
    slot->pid = fork();
    if (slot->pid == 0) {
        child_run(slot);
    }
    slot->pidfd = slot->pid < 0 ? -1 : pidfd_open(slot->pid, 0);
    if (slot->pidfd < 0) {
        perror("fail: fork");
        exit(EXIT_FAILURE);
    }
    slot->active_ms = clock_ms();
    slot->deadline_ms = slot->active_ms + limit_ms;
    slot->idle_ms_max = idle_ms_max;
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
    for (uint32_t at = 0; at < count && at < FAIL_DIRECTORIES_MAX; at++) {
        (void)nftw(s->directories[at], remove_one, 16, FTW_DEPTH | FTW_PHYS);
    }
    (void)kill(-slot->pid, SIGKILL); /* what it forked and left */
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
    if (end != FAIL_END_BY_ITSELF) {
        return end == FAIL_END_IDLE ? FAIL_VERDICT_WAITED : FAIL_VERDICT_HANG;
    }
    if (WIFSIGNALED(status)) {
        return WTERMSIG(status) == SIGALRM ? FAIL_VERDICT_HANG : FAIL_VERDICT_SIGNAL;
    }
    if (output_has(output, "ABRT on unknown address")) {
        return FAIL_VERDICT_ABORT;
    }
    if (WEXITSTATUS(status) == EXIT_LEAK) {
        return FAIL_VERDICT_LEAK;
    }
    if (WEXITSTATUS(status) == EXIT_SANITIZER || output_has(output, "ERROR: AddressSanitizer") ||
        output_has(output, "runtime error: ") || output_has(output, "Test failed with exception")) {
        return FAIL_VERDICT_MEMORY;
    }
    if (WEXITSTATUS(status) == EXIT_SKIPPED) {
        return FAIL_VERDICT_SKIPPED;
    }
    return WEXITSTATUS(status) == 0 ? FAIL_VERDICT_PASSED : FAIL_VERDICT_ASSERTED;
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
        .took_ms = slot->shared->took_ms,
        .calls = atomic_load(&slot->shared->calls),
        .error = slot->shared->error,
        .site = slot->shared->site,
        .output = output,
    };
    return result;
}

/* ---- a case ---- */

/* Aborted first, for its stack; should that not end it, killed. */
static void slot_stop(const struct slot *slot)
{
    struct pollfd ended = {.fd = slot->pidfd, .events = POLLIN};
    (void)kill(slot->pid, SIGABRT);
    if (poll(&ended, 1, 10000) <= 0) {
        (void)kill(slot->pid, SIGKILL);
    }
}

/* How often the child has gone to sleep. */
static uint64_t sleeps_of(pid_t pid)
{
    char path[64], line[128];
    unsigned long long sleeps = 0;
    (void)snprintf(path, sizeof(path), "/proc/%d/status", pid);
    FILE *status = fopen(path, "re");
    while (status != NULL && fgets(line, sizeof(line), status) != NULL) {
        (void)sscanf(line, "voluntary_ctxt_switches: %llu", &sleeps);
    }
    if (status != NULL) {
        (void)fclose(status);
    }
    return sleeps;
}

/*
 * Whether the child was at work since the last look: it has used the processor, and not for short
 * moments between sleeps, as a case does that looks again each millisecond whether it has come.
 */
static bool slot_is_active(struct slot *slot)
{
    clockid_t clock;
    struct timespec used;
    if (clock_getcpuclockid(slot->pid, &clock) != 0 || clock_gettime(clock, &used) != 0) {
        return true;
    }
    uint64_t ns = (uint64_t)used.tv_sec * 1000000000 + (uint64_t)used.tv_nsec;
    uint64_t sleeps = sleeps_of(slot->pid);
    bool active = ns > slot->cpu_ns + ACTIVE_NS_MIN && sleeps < slot->sleeps + SLEEPS_MAX;
    slot->cpu_ns = ns;
    slot->sleeps = sleeps;
    return active;
}

/* By itself: it goes on. */
static enum fail_end slot_look(struct slot *slot, uint64_t now_ms)
{
    if (now_ms >= slot->deadline_ms) {
        return FAIL_END_LATE;
    }
    if (slot_is_active(slot)) {
        slot->active_ms = now_ms;
    }
    bool idle = now_ms >= slot->active_ms + slot->idle_ms_max;
    return idle && atomic_load(&slot->shared->reached) ? FAIL_END_IDLE : FAIL_END_BY_ITSELF;
}

/* Waits until one has ended, or is ended. */
static struct slot *slots_wait(enum fail_end *out_end)
{
    uint64_t looked_ms = clock_ms();
    for (;;) {
        struct pollfd ends[FAIL_JOBS_MAX];
        for (uint32_t at = 0; at < options.jobs; at++) {
            ends[at] =
                (struct pollfd){.fd = slots[at].pid == 0 ? -1 : slots[at].pidfd, .events = POLLIN};
        }
        (void)poll(ends, options.jobs, LOOK_MS);
        *out_end = FAIL_END_BY_ITSELF;
        for (uint32_t at = 0; at < options.jobs; at++) {
            if (slots[at].pid != 0 && ends[at].revents != 0) {
                return &slots[at];
            }
        }
        uint64_t now_ms = clock_ms();
        for (uint32_t at = 0; at < options.jobs && now_ms >= looked_ms + LOOK_MS; at++) {
            *out_end = slots[at].pid == 0 ? FAIL_END_BY_ITSELF : slot_look(&slots[at], now_ms);
            if (*out_end != FAIL_END_BY_ITSELF) {
                slot_stop(&slots[at]);
                return &slots[at];
            }
        }
    }
}

static void slot_finish(struct slot *slot, enum fail_end end, struct fail_case *c)
{
    static char output[OUTPUT_MAX];
    struct fail_result result = slot_result(slot, end, output);
    fail_case_take(c, &result);
    slot_tidy(slot);
}

/* The run without a failure: what it calls, and how long it takes. */
static void measure(struct slot *slot, struct fail_case *c)
{
    const struct fail_run none = {0};
    enum fail_end end;
    slot_start(slot, &none, 5 * options.limit_ms, UINT64_MAX / 2);
    (void)slots_wait(&end);
    slot_finish(slot, end, c);
}

/* A case that knows of failures has its own patience, and is to come to an end. */
static uint64_t idle_ms_max(const struct fail_case *c)
{
    return fail_case_knows(c) ? UINT64_MAX / 2 : IDLE_MS_MIN + 3 * c->clean_ms;
}

static void run_case(void)
{
    struct fail_case c;
    fail_case_init(&c, &options, the_case == NULL ? FAIL_FIXTURE : the_case->name);
    measure(&slots[0], &c);
    fail_case_plan(&c, slots[0].shared->trace);
    for (uint32_t at = 1; at < options.jobs; at++) {
        slots[at].shared->kept_bytes = slots[0].shared->kept_bytes;
    }
    uint64_t limit_ms = options.limit_ms + 5 * c.clean_ms;
    uint32_t busy = 0;
    struct fail_run run;
    bool more = fail_case_next(&c, &run);
    while (more || busy > 0) {
        for (uint32_t at = 0; more && at < options.jobs; at++) {
            if (slots[at].pid == 0) {
                slot_start(&slots[at], &run, limit_ms, idle_ms_max(&c));
                busy++;
                more = fail_case_next(&c, &run);
            }
        }
        enum fail_end end;
        struct slot *ended = slots_wait(&end);
        slot_finish(ended, end, &c);
        busy--;
    }
    fail_case_end(&c);
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

/* As a case of cmocka's: so an assertion of the group's setup has somewhere to go. */
static void run_cases(void **state)
{
    if (!group.setup_in_child && thread_count() > 1) {
        group.setup_in_child = true;
        return;
    }
    group.state = *state;
    for (size_t at = 0; at < group.count; at++) {
        the_case = &group.tests[at];
        if (fail_options_want(&options, the_case->name, at)) {
            run_case();
        }
    }
}

static void run_fixture(void **state)
{
    (void)state;
    the_case = NULL;
    if (group.setup != NULL && fail_options_want(&options, FAIL_FIXTURE, group.count)) {
        run_case();
    }
}

int __wrap__cmocka_run_group_tests(const char *name, const struct CMUnitTest *tests, size_t count,
                                   CMFixtureFunction setup, CMFixtureFunction teardown)
{
    const struct CMUnitTest cases = {.name = name, .test_func = run_cases};
    const struct CMUnitTest fixture = {.name = FAIL_FIXTURE, .test_func = run_fixture};
    group.tests = tests;
    group.count = count;
    group.setup = setup;
    group.teardown = teardown;
    fail_options_read(&options);
    for (uint32_t at = 0; at < options.jobs; at++) {
        slot_init(&slots[at]);
    }
    int failed = __real__cmocka_run_group_tests(name, &cases, 1, setup, teardown);
    if (failed == 0 && group.setup_in_child) {
        failed = __real__cmocka_run_group_tests(name, &cases, 1, NULL, NULL);
    }
    failed += __real__cmocka_run_group_tests(name, &fixture, 1, NULL, NULL);
    return fail_report_end() != 0 || failed != 0;
}
