#include "tests/fail/fail_broken.h"

#include "daemon/base/check.h"

#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define BYTES      100
#define LATE_TURNS 20
#define LATE_TURN  17

bool broken_unchecked(void)
{
    volatile char *memory = malloc(BYTES);
    memory[BYTES / 2] = 1;
    bool there = memory[BYTES / 2] == 1;
    free((void *)(uintptr_t)memory);
    return there;
}

bool broken_late(void)
{
    bool all = true;
    for (int turn = 1; turn <= LATE_TURNS; turn++) {
        char *volatile memory = malloc(BYTES);
        bool there = memory != NULL || turn == LATE_TURN;
        if (there) {
            memory[BYTES / 2] = 1;
        }
        free(memory);
        all = all && there;
    }
    return all;
}

bool broken_leak(const char *to)
{
    char *volatile memory = calloc(1, BYTES);
    if (memory == NULL) {
        return false;
    }
    int fd = open(to, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        memory = NULL;
        return true; /* the file is not needed */
    }
    close(fd);
    free(memory);
    return true;
}

bool broken_check(void)
{
    int fd = eventfd(0, EFD_CLOEXEC);
    CHECK(fd >= 0);
    close(fd);
    return true;
}

bool broken_twice(void)
{
    char *volatile first = malloc(BYTES);
    char *volatile second = malloc(BYTES);
    bool both = first != NULL && second != NULL;
    if (!both) {
        free(first);
    }
    free(first);
    free(second);
    return both;
}

bool broken_spin(void)
{
    int fd = -1;
    bool tried = false;
    while (fd < 0) {
        fd = tried ? -1 : eventfd(0, EFD_CLOEXEC);
        tried = true;
    }
    close(fd);
    return true;
}

bool broken_lie(const char *to)
{
    static const char words[] = "twenty bytes or more, all of them";
    int fd = open(to, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) {
        return false;
    }
    ssize_t done = write(fd, words, sizeof(words));
    close(fd);
    return done > 0;
}

bool sound(const char *to)
{
    char *memory = malloc(BYTES);
    int fd = memory == NULL ? -1 : open(to, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        close(fd);
    }
    free(memory);
    return fd >= 0;
}
