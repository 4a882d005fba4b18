/*
 * The power-loss rig: see power.h for what it models.
 *
 *   power [--states N] [--seed N] [--per-cut N] [--transactions N] [--workers N] [--root DIR]
 *         [--control NAME]
 *   power --seed N --state N [--per-cut N] [--transactions N] [--control NAME]
 *   power --self-test
 *
 * Seeds are worked through one by one, each worker taking every other one, until N states have been
 * judged. Ends with 1 at the first violation, after saying how it is seen again; with 2 when the
 * rig itself does not work. A control is a mistake made on purpose (control.h); the self-test makes
 * each of them and fails unless all are found out.
 */
#include "tests/power/control.h"
#include "tests/power/cuts.h"
#include "tests/power/work.h"

#include <errno.h>
#include <ftw.h>
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define WORKERS_COUNT_MAX 16
#define MEMORY_BYTES      ((size_t)8 << 30)
/* So many seeds in a row, with so many transactions, do everything that the work knows. */
#define ALL_SEEDS        8
#define ALL_TRANSACTIONS 60
/* A control is found out within a few states of its seed. */
#define SELF_TEST_PER_CUT 2

struct power_where power_where;

struct options {
    uint64_t states;
    uint64_t seed;
    uint64_t only_state;
    uint64_t per_cut;
    uint64_t workers;
    uint64_t transactions;
    const char *root;
    const char *control;
    bool self_test;
};

/* What a worker hands to its parent, in memory that both see. */
struct result {
    struct cuts_count count;
    uint64_t seeds;
    uint64_t events;
    uint64_t versions;
    uint64_t kinds[TAPE_KIND_COUNT]; /* of events */
    uint64_t through;
    uint64_t operations[WORK_OPERATIONS_MAX];
};

/*
 * ---- the rest of power.h ----
 */

static uint8_t *memory;
static size_t memory_bytes;
static char own_root[TAPE_PATH_BYTES_MAX];

void *power_take(size_t bytes)
{
    if (memory == NULL) {
        void *all = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (all == MAP_FAILED) {
            power_broken("no address space");
        }
        memory = all;
    }
    size_t at = (memory_bytes + 15) & ~(size_t)15;
    if (bytes > MEMORY_BYTES - at) {
        power_broken("a seed takes more memory than the rig has");
    }
    memory_bytes = at + bytes;
    return memory + at;
}

void power_memory_reset(void)
{
    if (memory != NULL && madvise(memory, memory_bytes, MADV_DONTNEED) != 0) {
        power_broken("cannot give memory back");
    }
    memory_bytes = 0;
}

struct slice power_keep(struct slice bytes)
{
    if (bytes.len == 0) {
        return slice_of(NULL, 0);
    }
    uint8_t *to = power_take(bytes.len);
    memcpy(to, bytes.data, bytes.len);
    return slice_of(to, bytes.len);
}

static void root_of(const struct options *options, pid_t worker, char to[TAPE_PATH_BYTES_MAX])
{
    int len = snprintf(to, TAPE_PATH_BYTES_MAX, "%s/tasuki-power.%ld", options->root, (long)worker);
    if (len < 0 || len >= TAPE_PATH_BYTES_MAX) {
        power_broken("the path of the root is too long");
    }
}

static int entry_remove(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)st;
    (void)kind;
    (void)at;
    return remove(path);
}

/* By the parent, for a worker that ended anyhow. */
static void root_remove(const struct options *options, pid_t worker)
{
    char path[TAPE_PATH_BYTES_MAX];
    root_of(options, worker, path);
    nftw(path, entry_remove, 8, FTW_DEPTH | FTW_PHYS);
}

static void where_say(void)
{
    uint64_t state = power_where.state == 0 ? 0 : power_where.state - 1;
    fprintf(stderr, "  see it again: --seed %llu --state %llu%s\n",
            (unsigned long long)power_where.seed, (unsigned long long)state, power_where.with);
    for (uint32_t depth = 0; depth < power_where.depth; depth++) {
        fprintf(stderr, "  %s%s\n", depth == 0 ? "cut " : "then, recovering from that, cut ",
                power_where.what[depth]);
    }
}

void power_violation(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("VIOLATION: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    where_say();
    fflush(NULL);
    _exit(POWER_VIOLATION);
}

void power_broken(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("the rig does not work: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    where_say();
    fflush(NULL);
    _exit(POWER_BROKEN);
}

static char last_words[256]; /* of a CHECK */

static void on_last_words(const char *text)
{
    snprintf(last_words, sizeof last_words, "%s", text);
}

/* The store has died of a state, or does not come back from it. Nothing runs on after this, so what
 * is not safe in a handler at worst says less. */
static void on_signal(int number)
{
    signal(number, SIG_DFL);
    tape_stop();
    if (strncmp(last_words, "tests/power/", 12) == 0) {
        power_broken("%s", last_words);
    }
    if (last_words[0] != '\0') {
        power_violation("the store ends by CHECK: %s", last_words);
    }
    power_violation("the store ends by %s", number == SIGALRM ? "hanging" : strsignal(number));
}

static void signals_catch(void)
{
    check_set_last_words(on_last_words);
    static const int caught[] = {SIGALRM, SIGABRT, SIGBUS, SIGSEGV, SIGFPE, SIGILL};
    for (size_t index = 0; index < sizeof caught / sizeof caught[0]; index++) {
        signal(caught[index], on_signal);
    }
}

/*
 * ---- one worker ----
 */

static void seed_run(const struct options *options, uint64_t seed, struct disk *disk,
                     struct tape *tape, struct result *result)
{
    static struct model model;
    power_memory_reset();
    power_where = (struct power_where){.seed = seed};
    snprintf(power_where.with, sizeof power_where.with, " --per-cut %llu --transactions %llu%s%s",
             (unsigned long long)options->per_cut, (unsigned long long)options->transactions,
             options->control == NULL ? "" : " --control ",
             options->control == NULL ? "" : options->control);
    model = (struct model){0};
    work_run(seed, (uint32_t)options->transactions, own_root, &model, tape);
    for (size_t kind = 0; kind < TAPE_KIND_COUNT; kind++) {
        result->kinds[kind] += tape->kinds[kind];
    }
    result->through += tape->through;
    for (size_t index = 0; index < work_operation_count(); index++) {
        result->operations[index] = work_operation_done(index);
    }
    struct cuts_config config = {.states_per_cut = (uint32_t)options->per_cut,
                                 .states_per_nested_cut = 3,
                                 .nested_one_in = 150,
                                 .kill_one_in = 60,
                                 .thorough_one_in = 16,
                                 .only_state = options->only_state};
    cuts_run(&config, &model, disk, own_root, tape, &result->count);
    result->seeds++;
    result->events += tape->count;
    result->versions += model.count;
}

static uint64_t states_of(const struct result *result)
{
    uint64_t states = 0;
    for (size_t depth = 0; depth < POWER_DEPTH_MAX; depth++) {
        states += result->count.states[depth];
    }
    return states;
}

static void worker_run(const struct options *options, uint64_t worker, struct result *result)
{
    root_of(options, getpid(), own_root);
    if (mkdir(own_root, 0700) != 0) {
        power_broken("cannot make a directory in %s: %s", options->root, strerrordesc_np(errno));
    }
    signals_catch();
    struct disk *disk = disk_new(own_root);
    struct tape tape = {0};
    uint64_t share = options->states / options->workers;
    for (uint64_t turn = 0; turn == 0 || states_of(result) < share; turn++) {
        seed_run(options, options->seed + worker + turn * options->workers, disk, &tape, result);
        if (options->only_state != UINT64_MAX) {
            break;
        }
    }
    disk_free(&disk);
    tape_free(&tape);
}

/*
 * ---- all workers ----
 */

static double now_s(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (double)at.tv_sec + (double)at.tv_nsec / 1e9;
}

static struct result results_add(const struct result *results, uint64_t workers)
{
    struct result all = {0};
    for (uint64_t worker = 0; worker < workers; worker++) {
        const struct result *result = &results[worker];
        all.seeds += result->seeds;
        all.events += result->events;
        all.versions += result->versions;
        all.through += result->through;
        all.count.cuts += result->count.cuts;
        all.count.kills += result->count.kills;
        all.count.thorough += result->count.thorough;
        for (size_t depth = 0; depth < POWER_DEPTH_MAX; depth++) {
            all.count.states[depth] += result->count.states[depth];
        }
        for (size_t kind = 0; kind < TAPE_KIND_COUNT; kind++) {
            all.kinds[kind] += result->kinds[kind];
        }
        for (size_t index = 0; index < work_operation_count(); index++) {
            all.operations[index] += result->operations[index];
        }
    }
    return all;
}

/* A recorder that sees nothing finds nothing, and neither does work that leaves something out. */
static void coverage_judge(const struct options *options, const struct result *all)
{
    if (control_is_on() || options->only_state != UINT64_MAX || all->seeds < ALL_SEEDS ||
        options->transactions < ALL_TRANSACTIONS) {
        return;
    }
    for (size_t kind = 0; kind < TAPE_KIND_COUNT; kind++) {
        if (all->kinds[kind] == 0) {
            power_broken("the tapes have no event of kind %zu: do they see liblmdb?", kind);
        }
    }
    if (all->through == 0) {
        power_broken("the tapes have no write through O_DSYNC: do they see liblmdb?");
    }
    for (size_t index = 0; index < work_operation_count(); index++) {
        if (all->operations[index] == 0) {
            power_broken("the work never did this: %s", work_operation_name(index));
        }
    }
}

static void summary_say(const struct result *all, uint64_t workers, double seconds)
{
    uint64_t states = states_of(all);
    printf("power: %llu states, %llu cuts, %llu seeds (%llu events, %llu commits); %llu in a "
           "recovery, %llu in a second one, %llu after a kill, %llu worked on; %.1f s, %.0f "
           "states/s, %.0f a worker\n",
           (unsigned long long)states, (unsigned long long)all->count.cuts,
           (unsigned long long)all->seeds, (unsigned long long)all->events,
           (unsigned long long)all->versions, (unsigned long long)all->count.states[1],
           (unsigned long long)all->count.states[2], (unsigned long long)all->count.kills,
           (unsigned long long)all->count.thorough, seconds, (double)states / seconds,
           (double)states / seconds / (double)workers);
}

static volatile sig_atomic_t stop_asked;

static void on_stop(int number)
{
    (void)number;
    stop_asked = 1;
}

/* Whoever is asked to stop ends its workers first, so that it can clean up behind them. */
static void stop_catch(void)
{
    struct sigaction action = {.sa_handler = on_stop}; /* no SA_RESTART: wait has to end */
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
}

static pid_t worker_start(const struct options *options, uint64_t worker, struct result *result)
{
    pid_t parent = getpid();
    pid_t pid = fork();
    if (pid != 0) {
        CHECK(pid > 0);
        return pid;
    }
    signal(SIGTERM, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() == parent) {
        worker_run(options, worker, result);
    }
    fflush(NULL);
    _exit(POWER_OK);
}

/* Ends the workers that are left: one violation is enough. */
static void workers_stop(const pid_t *pids, uint64_t workers)
{
    for (uint64_t worker = 0; worker < workers; worker++) {
        if (pids[worker] > 0) {
            kill(pids[worker], SIGTERM);
        }
    }
}

/* Waits for all; the first that does not end well decides. */
static int workers_wait(const struct options *options, pid_t *pids)
{
    int worst = POWER_OK;
    for (uint64_t left = options->workers; left > 0;) {
        int status;
        pid_t pid = wait(&status);
        if (pid < 0) {
            CHECK(errno == EINTR && stop_asked);
            workers_stop(pids, options->workers);
            worst = POWER_BROKEN;
            continue;
        }
        left--;
        root_remove(options, pid);
        for (uint64_t worker = 0; worker < options->workers; worker++) {
            pids[worker] = pids[worker] == pid ? 0 : pids[worker];
        }
        int code = WIFEXITED(status) ? WEXITSTATUS(status) : POWER_BROKEN;
        if (code != POWER_OK && worst == POWER_OK) {
            worst = code;
            workers_stop(pids, options->workers);
        }
    }
    return worst;
}

static int workers_run(const struct options *options)
{
    size_t bytes = sizeof(struct result) * WORKERS_COUNT_MAX;
    struct result *results =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(results != MAP_FAILED);
    pid_t pids[WORKERS_COUNT_MAX];
    double start = now_s();
    stop_catch();
    fflush(NULL);
    for (uint64_t worker = 0; worker < options->workers; worker++) {
        pids[worker] = worker_start(options, worker, &results[worker]);
    }
    int worst = workers_wait(options, pids);
    if (worst == POWER_OK) {
        struct result all = results_add(results, options->workers);
        coverage_judge(options, &all);
        summary_say(&all, options->workers, now_s() - start);
    }
    munmap(results, bytes);
    return worst;
}

static const struct option long_options[] = {
    {"states", required_argument, NULL, 'n'},  {"seed", required_argument, NULL, 's'},
    {"state", required_argument, NULL, 'o'},   {"per-cut", required_argument, NULL, 'p'},
    {"workers", required_argument, NULL, 'w'}, {"transactions", required_argument, NULL, 'x'},
    {"root", required_argument, NULL, 'r'},    {"control", required_argument, NULL, 'c'},
    {"self-test", no_argument, NULL, 't'},     {NULL, 0, NULL, 0},
};

static bool options_read(int argc, char **argv, struct options *out)
{
    for (int option; (option = getopt_long(argc, argv, "", long_options, NULL)) != -1;) {
        uint64_t *number = option == 'n'   ? &out->states
                           : option == 's' ? &out->seed
                           : option == 'o' ? &out->only_state
                           : option == 'p' ? &out->per_cut
                           : option == 'w' ? &out->workers
                           : option == 'x' ? &out->transactions
                                           : NULL;
        if (number != NULL && !u64_parse(slice_from_str(optarg), number)) {
            return false;
        }
        out->root = option == 'r' ? optarg : out->root;
        out->control = option == 'c' ? optarg : out->control;
        out->self_test = out->self_test || option == 't';
        if (option == '?') {
            return false;
        }
    }
    return optind == argc && out->workers >= 1 && out->workers <= WORKERS_COUNT_MAX &&
           out->per_cut >= 1 && out->per_cut <= 256 && out->transactions <= 500;
}

/* One worker on its own, with or without a control. */
static int run_apart(const struct options *options, const char *control, uint64_t seed)
{
    fflush(NULL);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        struct options own = *options;
        own.workers = 1;
        own.states = 1; /* one seed */
        own.per_cut = SELF_TEST_PER_CUT;
        own.seed = seed;
        if (control != NULL) {
            own.control = control;
            if (freopen("/dev/null", "w", stderr) == NULL) { /* what it finds is expected */
                _exit(POWER_BROKEN);
            }
            control_switch_on(control, &own.seed);
        }
        _exit(workers_run(&own));
    }
    int status;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : POWER_BROKEN;
}

/* Each control must be found out as a violation, and its seed must be without one otherwise. */
static int self_test(const struct options *options)
{
    size_t failed = 0;
    for (size_t index = 0; index < control_count(); index++) {
        const char *name = control_name(index);
        uint64_t seed = control_seed(index);
        bool tried = index > 0 && control_seed(index - 1) == seed;
        bool sound = tried || run_apart(options, NULL, seed) == POWER_OK;
        bool found = sound && run_apart(options, name, seed) == POWER_VIOLATION;
        const char *verdict = found   ? "ok, found out"
                              : sound ? "not ok, not found out"
                                      : "not ok, a violation without it";
        printf("%s: control %s\n", verdict, name);
        failed += !found;
    }
    return failed == 0 ? POWER_OK : POWER_BROKEN;
}

int main(int argc, char **argv)
{
    struct options options = {.states = 50000,
                              .seed = 1,
                              .only_state = UINT64_MAX,
                              .per_cut = 5,
                              .workers = 2,
                              .transactions = 60,
                              .root = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp"};
    if (!options_read(argc, argv, &options) ||
        (options.control != NULL && !control_switch_on(options.control, &options.seed))) {
        fprintf(stderr,
                "usage: power [--states N] [--seed N] [--state N] [--per-cut N] "
                "[--workers N] [--transactions N] [--root DIR] [--control NAME | --self-test]\n");
        return POWER_USAGE;
    }
    if (options.only_state != UINT64_MAX) {
        options.workers = 1;
    }
    return options.self_test ? self_test(&options) : workers_run(&options);
}
