/*
 * The queue's clock: milliseconds that only grow. Due times, ages and waits are of it, so neither a
 * step of the wall clock nor a reboot without one makes a message late, or early.
 *
 * It goes with CLOCK_BOOTTIME, which counts a suspended machine's time too. The last commit says
 * where it stood; within the same boot that is exact. Over a reboot only the wall clock knows how
 * long the box was off, and it may be wrong (no battery, or set by hand): what it says is believed
 * between nothing and a day, which is longer than any wait between two tries.
 */
#include "daemon/flow/clock.h"
#include "daemon/base/crc32c.h"
#include "daemon/base/num.h"
#include "daemon/queue/queue_internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#define OFF_MS_MAX       (24u * 3600 * 1000)
#define STEP_NOTED_MS    5000
#define DRIFT_SHOWN_MS   1000
#define BOOT_ID_TEXT_MAX 64

/* Which boot this is, hashed; 0 when the kernel does not say. */
static uint64_t boot_id_read(void)
{
    uint8_t text[BOOT_ID_TEXT_MAX];
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    ssize_t len = fd < 0 ? -1 : read(fd, text, sizeof text);
    if (fd >= 0) {
        close(fd);
    }
    if (len <= 0) {
        return 0;
    }
    struct slice id = slice_of(text, (size_t)len);
    return (uint64_t)crc32c(0, id) << 32 | crc32c(UINT32_MAX / 3, id);
}

/* Where the clock stands now, by where it stood at the last commit. */
static uint64_t clock_resume(const struct store_summary *summary, uint64_t boot_id,
                             uint64_t boot_ms, uint64_t wall_ms)
{
    const struct store_clock *then = &summary->clock;
    if (then->q_ms == 0) {
        return u64_max(wall_ms, summary->last_id >> 16); /* a new queue: as the wall clock */
    }
    if (boot_id != 0 && then->boot_id == boot_id && boot_ms >= then->boot_ms) {
        return then->q_ms + (boot_ms - then->boot_ms);
    }
    uint64_t off_ms = wall_ms > then->wall_ms ? wall_ms - then->wall_ms : 0;
    return then->q_ms + u64_min(off_ms, OFF_MS_MAX);
}

void queue_clock_start(struct queue *q)
{
    struct store_summary summary;
    store_summary(q->with.store, &summary);
    q->boot_id = boot_id_read();
    uint64_t boot_ms = flow_clock_ms(CLOCK_BOOTTIME);
    uint64_t wall_ms = flow_wall_ms();
    q->now_ms = clock_resume(&summary, q->boot_id, boot_ms, wall_ms);
    q->q_minus_boot = (int64_t)q->now_ms - (int64_t)boot_ms;
    q->wall_minus_q = q->wall_noted = (int64_t)wall_ms - (int64_t)q->now_ms;
}

static void note_step(struct queue *q, int64_t step_ms)
{
    char by[32];
    snprintf(by, sizeof by, "%+lld", (long long)step_ms / 1000);
    struct log_line line;
    event_begin(&line, q->with.log, EVENT_CLOCK_STEPPED);
    log_put_word(&line, "by", by);
    log_end(&line);
}

void queue_clock_read(struct queue *q)
{
    q->now_ms = (uint64_t)((int64_t)flow_clock_ms(CLOCK_BOOTTIME) + q->q_minus_boot);
    int64_t wall_minus_q = (int64_t)flow_wall_ms() - (int64_t)q->now_ms;
    int64_t drift_ms = wall_minus_q - q->wall_minus_q;
    if (drift_ms > -DRIFT_SHOWN_MS && drift_ms < DRIFT_SHOWN_MS) {
        return; /* or what is shown of one message would tremble from one look to the next */
    }
    q->wall_minus_q = wall_minus_q;
    int64_t step_ms = wall_minus_q - q->wall_noted;
    if (step_ms <= -STEP_NOTED_MS || step_ms >= STEP_NOTED_MS) {
        q->wall_noted = wall_minus_q; /* less is a clock being slewed; it adds up until it is */
        note_step(q, step_ms);
    }
}

void queue_clock_put(struct queue *q)
{
    const struct store_clock now = {
        .q_ms = q->now_ms,
        .wall_ms = flow_wall_ms(),
        .boot_ms = (uint64_t)((int64_t)q->now_ms - q->q_minus_boot),
        .boot_id = q->boot_id,
    };
    store_clock_set(q->with.store, &now);
}

uint64_t queue_clock_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}
