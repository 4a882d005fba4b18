/* The clocks that threads read outside a loop (whose own is io_now_ms). */
#ifndef TASUKI_FLOW_CLOCK_H
#define TASUKI_FLOW_CLOCK_H

#include <stdint.h>
#include <time.h>

/* Milliseconds of CLOCK_REALTIME, CLOCK_MONOTONIC or CLOCK_BOOTTIME. */
static inline uint64_t flow_clock_ms(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Milliseconds since 1970, as people count them: for what is shown and written down, never for
 * waiting. */
static inline uint64_t flow_wall_ms(void)
{
    return flow_clock_ms(CLOCK_REALTIME);
}

#endif
