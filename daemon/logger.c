#include "daemon/logger.h"

#include "daemon/base/num.h"
#include "daemon/base/when.h"
#include "daemon/flow/clock.h"
#include "schema/event.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define RING_BYTES      (256u << 10)
#define STOP_MS_MAX     1000
#define WRITE_BYTES_MAX PIPE_BUF /* pipe(7): what POLLOUT promises room for */
#define GATHER_NS       20000000L

struct logger {
    struct log log;
    pthread_t thread;
    pthread_mutex_t lock;   /* all below */
    pthread_cond_t filled;  /* the ring was empty and is not any more */
    pthread_cond_t pressed; /* it is half full, or everything stops */
    bool with_time;
    bool stopping;
    uint64_t dropped; /* lines since the last that fitted */
    size_t len;       /* of the half that is being filled */
    uint8_t *filling;
    uint8_t *emptying;   /* the thread's alone */
    uint64_t give_up_ms; /* the thread's alone: when stopping ends; 0 before */
};

/* Under the lock. */
static void append(struct logger *l, struct slice line)
{
    struct buf to;
    buf_init(&to, l->filling + l->len, RING_BYTES - l->len);
    if (l->with_time) {
        buf_put_str(&to, "time=");
        when_put_rfc3339(&to, flow_clock_ms(CLOCK_REALTIME));
        buf_put_byte(&to, ' ');
    }
    buf_put(&to, line);
    buf_put_byte(&to, '\n');
    if (to.overflow) {
        l->dropped++;
    } else {
        l->len += to.len;
    }
}

static void append_own(void *ctx, enum log_level level, struct slice line)
{
    (void)level;
    append(ctx, line);
}

/* Whatever the level is: that lines are missing is part of every log. */
static void append_dropped(struct logger *l)
{
    const struct log own = {.write = append_own, .ctx = l, .level = LOG_DEBUG};
    struct log_line line;
    uint64_t lines = l->dropped;
    l->dropped = 0;
    event_begin(&line, &own, EVENT_LOG_DROPPED);
    log_put_u64(&line, "lines", lines);
    log_end(&line);
}

static void write_line(void *ctx, enum log_level level, struct slice line)
{
    struct logger *l = ctx;
    (void)level;
    pthread_mutex_lock(&l->lock);
    bool was_empty = l->len == 0;
    append(l, line);
    bool pressed = l->len >= RING_BYTES / 2;
    pthread_mutex_unlock(&l->lock);
    if (was_empty) {
        pthread_cond_signal(&l->filled);
    } else if (pressed) {
        pthread_cond_signal(&l->pressed);
    }
}

static bool is_stopping(struct logger *l)
{
    pthread_mutex_lock(&l->lock);
    bool stopping = l->stopping;
    pthread_mutex_unlock(&l->lock);
    return stopping;
}

/* For a moment at most. What poll calls writable takes WRITE_BYTES_MAX without blocking. */
static bool is_writable(void)
{
    struct pollfd out = {.fd = STDERR_FILENO, .events = POLLOUT};
    return poll(&out, 1, 100) > 0;
}

/* Everything stops, and has waited for the reader for long enough. */
static bool gives_up(struct logger *l)
{
    if (is_stopping(l) && l->give_up_ms == 0) {
        l->give_up_ms = flow_clock_ms(CLOCK_MONOTONIC) + STOP_MS_MAX;
    }
    return l->give_up_ms != 0 && flow_clock_ms(CLOCK_MONOTONIC) >= l->give_up_ms;
}

/* All of it, however long the reader takes; when stopping, for a second at most. */
static void write_out(struct logger *l, struct slice bytes)
{
    while (bytes.len > 0 && !gives_up(l)) {
        if (!is_writable()) {
            continue;
        }
        ssize_t done = write(STDERR_FILENO, bytes.data, size_min(bytes.len, WRITE_BYTES_MAX));
        if (done < 0 && errno != EINTR && errno != EAGAIN) {
            return; /* nobody will ever read it */
        }
        bytes = slice_tail(bytes, done > 0 ? (size_t)done : 0);
    }
}

/* A moment for more lines to come: one wake-up and one write for all of them, not for each. */
static void gather(struct logger *l)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += GATHER_NS;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    while (!l->stopping && l->len < RING_BYTES / 2 &&
           pthread_cond_timedwait(&l->pressed, &l->lock, &until) == 0) {
        /* until the moment is over, or there is no time to lose */
    }
}

static void *run(void *arg)
{
    struct logger *l = arg;
    pthread_mutex_lock(&l->lock);
    while (!l->stopping || l->len > 0) {
        if (l->len == 0) {
            pthread_cond_wait(&l->filled, &l->lock);
            gather(l);
            continue;
        }
        size_t len = l->len;
        uint8_t *full = l->filling;
        l->filling = l->emptying;
        l->emptying = full;
        l->len = 0;
        if (l->dropped > 0) {
            append_dropped(l); /* where the lines would have stood */
        }
        pthread_mutex_unlock(&l->lock);
        write_out(l, slice_of(full, len));
        pthread_mutex_lock(&l->lock);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

static void destroy(struct logger *l)
{
    pthread_mutex_destroy(&l->lock);
    pthread_cond_destroy(&l->filled);
    pthread_cond_destroy(&l->pressed);
    free(l->filling);
    free(l->emptying);
    free(l);
}

enum err logger_start(struct logger **out, enum log_level level, bool with_time)
{
    struct logger *l = calloc(1, sizeof *l);
    if (l == NULL) {
        return ERR_NO_MEMORY;
    }
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->filled, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&l->pressed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    l->log = (struct log){.write = write_line, .ctx = l, .level = level};
    l->with_time = with_time;
    l->filling = malloc(RING_BYTES);
    l->emptying = malloc(RING_BYTES);
    if (l->filling == NULL || l->emptying == NULL ||
        pthread_create(&l->thread, NULL, run, l) != 0) {
        destroy(l);
        return ERR_NO_MEMORY;
    }
    *out = l;
    return ERR_OK;
}

const struct log *logger_log(const struct logger *logger)
{
    return &logger->log;
}

void logger_stop(struct logger **logger)
{
    struct logger *l = *logger;
    if (l == NULL) {
        return;
    }
    pthread_mutex_lock(&l->lock);
    l->stopping = true;
    pthread_mutex_unlock(&l->lock);
    pthread_cond_signal(&l->filled);
    pthread_cond_signal(&l->pressed);
    pthread_join(l->thread, NULL);
    destroy(l);
    *logger = NULL;
}
