/*
 * The logger, with standard error as a pipe of the case's own: lines are whole and in order, a slow
 * reader stops nobody, and what was dropped is counted.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "daemon/logger.h"
#include "schema/event.h"

#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define THREADS          4
#define LINES_PER_THREAD 5000
#define GUARD_S          60

struct fixture {
    int standard_error;
    int read_fd;
    struct logger *logger;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    int fds[2];
    assert_non_null(f);
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    f->standard_error = dup(STDERR_FILENO);
    f->read_fd = fds[0];
    assert_int_equal(dup2(fds[1], STDERR_FILENO), STDERR_FILENO);
    close(fds[1]);
    alarm(GUARD_S); /* a case that takes longer hangs */
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    dup2(f->standard_error, STDERR_FILENO);
    close(f->standard_error);
    if (f->read_fd >= 0) {
        close(f->read_fd);
    }
    free(f);
    alarm(0);
    return 0;
}

static void say(const struct logger *l, unsigned thread, unsigned number)
{
    struct log_line line;
    log_begin(&line, logger_log(l), LOG_INFO, "test");
    log_put_u64(&line, "thread", thread);
    log_put_u64(&line, "number", number);
    log_end(&line);
}

/* Reads until the pipe has no writer any more; calls for each line. */
struct reader {
    int fd;
    unsigned next[THREADS]; /* number that is due */
    uint64_t lines, dropped;
    bool gaps; /* are allowed: something was dropped */
    bool wrong;
};

static void look(struct reader *r, const char *line)
{
    unsigned thread, number;
    uint64_t count;
    if (sscanf(line, "level=warning event=log-dropped lines=%" SCNu64, &count) == 1) {
        r->dropped += count;
        return;
    }
    if (sscanf(line, "level=info event=test thread=%u number=%u", &thread, &number) != 2 ||
        thread >= THREADS || number < r->next[thread] || (!r->gaps && number != r->next[thread])) {
        r->wrong = true;
        return;
    }
    r->next[thread] = number + 1;
    r->lines++;
}

static void *read_all(void *arg)
{
    struct reader *r = arg;
    char line[LOG_LINE_BYTES_MAX + 100];
    FILE *file = fdopen(r->fd, "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        look(r, line);
    }
    if (file != NULL) {
        fclose(file);
    }
    return NULL;
}

/* No writer is left: the reader comes to an end. */
static void standard_error_back(struct fixture *f)
{
    dup2(f->standard_error, STDERR_FILENO);
}

struct talker {
    const struct logger *logger;
    unsigned thread;
};

static void *talk(void *arg)
{
    const struct talker *t = arg;
    for (unsigned number = 0; number < LINES_PER_THREAD; number++) {
        say(t->logger, t->thread, number);
        if (number % 500 == 499) {
            sched_yield();
        }
    }
    return NULL;
}

static void test_lines_of_many_threads_are_whole_and_in_order(void **state)
{
    struct fixture *f = *state;
    struct reader r = {.fd = f->read_fd, .gaps = true};
    pthread_t reading, talking[THREADS];
    struct talker talkers[THREADS];
    f->read_fd = -1;
    assert_int_equal(logger_start(&f->logger, LOG_INFO, false), ERR_OK);
    assert_int_equal(pthread_create(&reading, NULL, read_all, &r), 0);
    for (unsigned at = 0; at < THREADS; at++) {
        talkers[at] = (struct talker){f->logger, at};
        assert_int_equal(pthread_create(&talking[at], NULL, talk, &talkers[at]), 0);
    }
    for (unsigned at = 0; at < THREADS; at++) {
        pthread_join(talking[at], NULL);
    }
    logger_stop(&f->logger);
    assert_null(f->logger);
    standard_error_back(f);
    pthread_join(reading, NULL);
    assert_false(r.wrong);
    assert_int_equal(r.lines + r.dropped, THREADS * LINES_PER_THREAD); /* the books balance */
}

static void test_a_line_comes_without_another(void **state)
{
    struct fixture *f = *state;
    char line[200];
    assert_int_equal(logger_start(&f->logger, LOG_INFO, true), ERR_OK);
    say(f->logger, 1, 2);
    ssize_t len = read(f->read_fd, line, sizeof line - 1);
    assert_true(len > 0);
    line[len] = '\0';
    assert_non_null(strstr(line, "Z level=info event=test thread=1 number=2\n"));
    assert_int_equal(strncmp(line, "time=2", 6), 0);
    struct log_line quiet; /* under the level: not even formatted */
    log_begin(&quiet, logger_log(f->logger), LOG_DEBUG, "test");
    log_end(&quiet);
    logger_stop(&f->logger);
    standard_error_back(f);
    assert_int_equal(read(f->read_fd, line, sizeof line), 0);
}

/* D7: nobody waits for the reader, and what found no room is counted where it is missing. */
static void test_a_reader_that_sleeps_costs_lines_not_time(void **state)
{
    struct fixture *f = *state;
    const unsigned count = 40000; /* far more than the ring and a pipe hold */
    struct reader r = {.fd = f->read_fd, .gaps = true};
    pthread_t reading;
    f->read_fd = -1;
    assert_int_equal(logger_start(&f->logger, LOG_INFO, false), ERR_OK);
    for (unsigned number = 0; number < count; number++) {
        say(f->logger, 0, number); /* does not block, or the guard rings */
    }
    assert_int_equal(pthread_create(&reading, NULL, read_all, &r), 0);
    logger_stop(&f->logger);
    standard_error_back(f);
    pthread_join(reading, NULL);
    assert_false(r.wrong);
    assert_true(r.dropped > 0);
    assert_int_equal(r.lines + r.dropped, count);
}

static void test_stopping_does_not_wait_for_a_reader_that_never_reads(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(logger_start(&f->logger, LOG_INFO, false), ERR_OK);
    for (unsigned number = 0; number < 20000; number++) {
        say(f->logger, 0, number);
    }
    logger_stop(&f->logger); /* returns, or the guard rings */
    assert_null(f->logger);
}

static void test_a_reader_that_is_gone(void **state)
{
    struct fixture *f = *state;
    void (*before)(int) = signal(SIGPIPE, SIG_IGN); /* as the daemon has it */
    close(f->read_fd);
    f->read_fd = -1;
    assert_int_equal(logger_start(&f->logger, LOG_INFO, false), ERR_OK);
    for (unsigned number = 0; number < 20000; number++) {
        say(f->logger, 0, number);
    }
    logger_stop(&f->logger);
    logger_stop(&f->logger); /* no effect on one that is gone */
    signal(SIGPIPE, before);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_lines_of_many_threads_are_whole_and_in_order),
        CASE(test_a_line_comes_without_another),
        CASE(test_a_reader_that_sleeps_costs_lines_not_time),
        CASE(test_stopping_does_not_wait_for_a_reader_that_never_reads),
        CASE(test_a_reader_that_is_gone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
