/*
 * A run of a case, in a child of its own: with cmocka's own runner around it, then LeakSanitizer.
 * What came of it is told by the exit status and by what was said.
 */
#include "tests/fail/fail_child.h"

#include <fcntl.h>
#include <sanitizer/common_interface_defs.h>
#include <sanitizer/lsan_interface.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#define STACK_BYTES      (256u << 10)
#define MKDTEMP_LETTERS  6
#define MEMORY_BYTES_MIN (4ull << 30) /* free, for directories to be there */

/* Of the sanitizers' allocator_interface.h, which gcc 12 does not bring. */
int __sanitizer_install_malloc_and_free_hooks(void (*made)(const volatile void *, size_t),
                                              void (*freed)(const volatile void *));

/* Defaults of the sanitizers. Faults are theirs, not cmocka's (handlers_restore()), and the case's
 * own where it wants them. */
#define COMMON_OPTIONS                                                                             \
    "handle_segv=1:handle_sigbus=1:handle_sigfpe=1:handle_sigill=1:handle_abort=1:exitcode=99:"    \
    "malloc_context_size=12:detect_leaks=1:leak_check_at_exit=0:allocator_may_return_null=1:"

/* What was freed is kept from use for a MiB, not 256: each run would pay for all those fresh pages,
 * as it would for deeper stacks. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return COMMON_OPTIONS "quarantine_size_mb=1:thread_local_quarantine_size_kb=16";
}

const char *__ubsan_default_options(void);
const char *__ubsan_default_options(void)
{
    return "print_stacktrace=1";
}

/* A vector register keeps the end of what calloc cleared, long after the case is over. */
const char *__lsan_default_options(void);
const char *__lsan_default_options(void)
{
    return COMMON_OPTIONS "use_registers=0";
}

char *__real_mkdtemp(char *template);
char *__wrap_mkdtemp(char *template);

struct fail_group fail_group;

uint64_t fail_clock_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* NULL: the group's setup and teardown alone. */
static const struct CMUnitTest *mine;
static bool finished, seeks;

static void arm(bool on)
{
    atomic_store(&fail_shared->armed, on);
}

/* What a fault does without cmocka, which catches these while a case runs: a report with the stack
 * says more than its line. */
static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGSYS};
static struct sigaction handlers[sizeof(faults) / sizeof(*faults)];

void fail_child_init(void)
{
    for (size_t at = 0; at < sizeof(faults) / sizeof(*faults); at++) {
        sigaction(faults[at], NULL, &handlers[at]);
    }
}

static void handlers_restore(void)
{
    for (size_t at = 0; at < sizeof(faults) / sizeof(*faults); at++) {
        sigaction(faults[at], &handlers[at], NULL);
    }
}

static int case_setup(void **state)
{
    handlers_restore();
    arm(true);
    return mine->setup_func(state);
}

static void case_body(void **state)
{
    handlers_restore();
    arm(true);
    if (mine != NULL) {
        mine->test_func(state);
    }
    finished = true;
}

static int case_teardown(void **state)
{
    handlers_restore();
    return finished ? mine->teardown_func(state) : 0;
}

static int group_setup(void **state)
{
    handlers_restore();
    arm(mine == NULL);
    if (!fail_group.setup_in_child && mine != NULL) {
        *state = fail_group.state;
        return 0;
    }
    return fail_group.setup == NULL ? 0 : fail_group.setup(state);
}

static int group_teardown(void **state)
{
    handlers_restore();
    arm(mine == NULL);
    bool ours = fail_group.setup_in_child || mine == NULL;
    return ours && finished && fail_group.teardown != NULL ? fail_group.teardown(state) : 0;
}

/* Blocks of the heap that are held: LeakSanitizer alone keeps no account of bytes. */
static _Atomic int64_t blocks_held;

static void block_made(const volatile void *block, size_t bytes)
{
    (void)block;
    (void)bytes;
    atomic_fetch_add_explicit(&blocks_held, 1, memory_order_relaxed);
}

static void block_freed(const volatile void *block)
{
    (void)block;
    atomic_fetch_sub_explicit(&blocks_held, 1, memory_order_relaxed);
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
 * than by the clean run: libraries keep things for later. Whether that itself leaks, the unit tests
 * under AddressSanitizer tell, and FAIL_LEAKS here.
 */
static bool leaks(void)
{
    struct fail_shared *s = fail_shared;
    int64_t kept = atomic_load(&blocks_held);
    int64_t usual = s->tracing ? 0 : s->kept_blocks;
    if (s->tracing) {
        s->kept_blocks = kept;
    }
    if ((s->tracing || kept <= usual) && !seeks) {
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

/* The clock, without what this thread has waited for a processor that others had: what a case takes
 * on a machine of its own. */
static uint64_t alone_ms(void)
{
    unsigned long long ran_ns, waited_ns = 0;
    FILE *file = fopen("/proc/thread-self/schedstat", "re");
    if (file != NULL) {
        waited_ns = fscanf(file, "%llu %llu", &ran_ns, &waited_ns) == 2 ? waited_ns : 0;
        (void)fclose(file);
    }
    return fail_clock_ms() - waited_ns / 1000000;
}

/* The two clocks are not one: it takes no less than the processor time it used, and no more than
 * what has passed. */
static uint64_t took_ms(uint64_t alone_began_ms, uint64_t began_ms)
{
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    uint64_t least_ms = (uint64_t)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000 +
                        (uint64_t)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1000;
    uint64_t most_ms = fail_clock_ms() - began_ms;
    uint64_t alone_now_ms = alone_ms();
    uint64_t ms = alone_now_ms > alone_began_ms ? alone_now_ms - alone_began_ms : 0;
    ms = ms < least_ms ? least_ms : ms;
    return ms < most_ms ? ms : most_ms;
}

_Noreturn void fail_child_run(struct fail_shared *shared, int output_fd,
                              const struct CMUnitTest *test, bool seeks_leaks)
{
    mine = test;
    seeks = seeks_leaks;
    const struct CMUnitTest one = {
        .name = mine == NULL ? FAIL_FIXTURE : mine->name,
        .test_func = case_body,
        .setup_func = mine != NULL && mine->setup_func != NULL ? case_setup : NULL,
        .teardown_func = mine != NULL && mine->teardown_func != NULL ? case_teardown : NULL,
        .initial_state = mine == NULL ? NULL : mine->initial_state,
    };
    int nothing_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    fail_shared = shared;
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* nobody else would end one that never ends */
    setpgid(0, 0);
    dup2(nothing_fd, STDIN_FILENO); /* from where the runner reads its steps */
    close(nothing_fd);
    dup2(output_fd, STDOUT_FILENO);
    dup2(output_fd, STDERR_FILENO);
    /* Of its own, since a case may redirect standard error. */
    __sanitizer_set_report_fd((void *)(intptr_t)dup(output_fd));
    if (__sanitizer_install_malloc_and_free_hooks(block_made, block_freed) == 0) {
        abort();
    }
    uint64_t began_ms = fail_clock_ms();
    uint64_t alone_began_ms = alone_ms();
    int failed = __real__cmocka_run_group_tests("one", &one, 1, group_setup, group_teardown);
    arm(false);
    shared->took_ms = took_ms(alone_began_ms, began_ms);
    (void)fflush(stdout);
    if (failed != 0) {
        _exit(1);
    }
    if (!finished) {
        _exit(FAIL_EXIT_SKIPPED);
    }
    _exit(leaks() ? FAIL_EXIT_LEAK : 0);
}

/* A path below /tmp comes to lie in memory, as long as before: so no run waits for the disk. */
static bool move_to_memory(char *template)
{
    static const char disk[] = "/tmp/", memory[] = "/dev/shm/";
    bool is_on_disk = strncmp(template, disk, sizeof(disk) - 1) == 0;
    if (!is_on_disk || strlen(template) < sizeof(memory) - 1 + MKDTEMP_LETTERS) {
        return false;
    }
    memcpy(template, memory, sizeof(memory) - 1);
    return true;
}

static bool has_memory(void)
{
    struct statvfs room;
    return statvfs("/dev/shm", &room) == 0 && access("/dev/shm", W_OK) == 0 &&
           room.f_bavail >= MEMORY_BYTES_MIN / room.f_frsize;
}

/* Directories are remembered, for the parent to remove: a case that fails leaves them. */
char *__wrap_mkdtemp(char *template)
{
    bool moved = has_memory() && move_to_memory(template);
    char *made = __real_mkdtemp(template);
    if (made != NULL && fail_shared != NULL && strlen(made) < FAIL_PATH_BYTES) {
        uint32_t at = atomic_fetch_add(&fail_shared->directory_count, 1);
        if (at < FAIL_DIRECTORIES_MAX) {
            memcpy(fail_shared->directories[at], made, strlen(made) + 1);
            atomic_fetch_or(&fail_shared->moved, (uint32_t)moved << at);
        }
    }
    return made;
}
