/*
 * daemon/delivery/connect: the order of addresses, and races on loopback over both backends. Dead
 * addresses are listeners whose queue is full: they answer no SYN.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "daemon/delivery/connect.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define GUARD_MS 20000 /* whoever waits longer waits for ever */

/* ---- the order ---- */

static void set_address(struct flow_lookup *lookup, uint32_t at, char family, char host)
{
    struct flow_address *to = &lookup->addresses[at];
    memset(to, 0, sizeof *to);
    if (family == '6') {
        struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(25)};
        v6.sin6_addr.s6_addr[15] = (uint8_t)at;
        memcpy(&to->address, &v6, sizeof v6);
        to->len = sizeof v6;
    } else {
        struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(25)};
        v4.sin_addr.s_addr = htonl(0xc0000200u + at);
        memcpy(&to->address, &v4, sizeof v4);
        to->len = sizeof v4;
    }
    snprintf(lookup->names[at], sizeof lookup->names[at], "%c.example", host);
}

static void test_order(void **state)
{
    (void)state;
    static const struct {
        const char *families, *hosts, *order;
        int preferred; /* -1: none */
    } cases[] = {
        {"4", "a", "0", -1},
        {"66", "aa", "01", -1},
        {"64", "aa", "01", -1},
        {"46", "aa", "01", -1},
        {"6644", "aaaa", "0213", -1},
        {"4466", "aaaa", "0213", -1},
        {"666644", "aaaaaa", "041523", -1},
        {"444446", "aaaaaa", "051234", -1},
        /* preferred first, then the other family */
        {"6644", "aaaa", "2031", 2},
        {"6644", "aaaa", "3021", 3},
        {"6644", "aaaa", "1203", 1},
        /* a better host goes first, whatever is preferred */
        {"6464", "aabb", "0123", -1},
        {"6464", "aabb", "0132", 3},
        {"6644", "aaba", "0123", 2},
        {"664644", "aaabbb", "021345", -1},
        {"664644", "aaabbb", "201345", 2},
        /* the same host again is another turn of it */
        {"646", "aba", "012", 2},
    };
    struct flow_lookup *lookup = calloc(1, sizeof *lookup);
    assert_non_null(lookup);
    for (size_t index = 0; index < sizeof cases / sizeof cases[0]; index++) {
        uint8_t order[FLOW_ADDRESSES_MAX];
        char got[FLOW_ADDRESSES_MAX + 1] = "";
        lookup->count = (uint32_t)strlen(cases[index].families);
        for (uint32_t at = 0; at < lookup->count; at++) {
            set_address(lookup, at, cases[index].families[at], cases[index].hosts[at]);
        }
        struct flow_address preferred = {0};
        if (cases[index].preferred >= 0) {
            preferred = lookup->addresses[cases[index].preferred];
        }
        connect_order(lookup, cases[index].preferred < 0 ? NULL : &preferred, order);
        for (uint32_t at = 0; at < lookup->count; at++) {
            got[at] = (char)('0' + order[at]);
        }
        assert_string_equal(got, cases[index].order);
    }
    free(lookup);
}

/* ---- races ---- */

enum kind { GOOD, REFUSES, DEAD };

static struct io *io;
static struct io_op guard;
static struct flow_lookup *lookup;
static struct connect race;
static int listeners[FLOW_ADDRESSES_MAX], fillers[FLOW_ADDRESSES_MAX];
static char story[256]; /* T: trying, M: missed, W: won, L: lost, O: over, each with the address */
static bool over;
static uint32_t stop_at; /* the event at which it is stopped, from 1; 0: never */
static uint32_t events;
static uint32_t sockets_max;

static uint32_t open_count(void)
{
    uint32_t count = 0;
    DIR *directory = opendir("/proc/self/fd");
    assert_non_null(directory);
    while (readdir(directory) != NULL) {
        count++;
    }
    closedir(directory);
    return count;
}

static uint32_t sockets_of_race(void)
{
    uint32_t count = 0;
    for (size_t place = 0; place < CONNECT_AT_ONCE_MAX; place++) {
        count += race.attempts[place].fd >= 0;
    }
    return count;
}

static void on_race(struct connect *c, enum connect_event event)
{
    static const char letters[] = "TMWLO";
    size_t len = strlen(story);
    assert_false(over);
    if (event == CONNECT_EVENT_OVER) {
        over = true;
        snprintf(story + len, sizeof story - len, "O");
        io_stop(io);
        return;
    }
    snprintf(story + len, sizeof story - len, "%c%u", letters[event], c->at);
    uint32_t sockets = sockets_of_race() + (event == CONNECT_EVENT_TRYING);
    sockets_max = sockets > sockets_max ? sockets : sockets_max;
    if (++events == stop_at) {
        connect_stop(c);
    }
}

static void guard_fired(struct io_op *op)
{
    (void)op;
    fail_msg("it does not end: %s", story);
}

/* A listener on loopback, or the port where one was. */
static void add_address(enum kind kind, char host)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    uint32_t at = lookup->count++;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &len), 0);
    listeners[at] = fd;
    fillers[at] = -1;
    if (kind != REFUSES) {
        assert_int_equal(listen(fd, kind == DEAD ? 0 : 8), 0);
    }
    if (kind == DEAD) {
        fillers[at] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(connect(fillers[at], (struct sockaddr *)&address, sizeof address), 0);
    }
    memcpy(&lookup->addresses[at].address, &address, sizeof address);
    lookup->addresses[at].len = sizeof address;
    snprintf(lookup->names[at], sizeof lookup->names[at], "%c.example", host);
}

static void run(const enum kind *kinds, const char *hosts, uint64_t limit_ms)
{
    memset(lookup, 0, sizeof *lookup);
    story[0] = '\0';
    over = false;
    events = sockets_max = 0;
    for (size_t at = 0; hosts[at] != '\0'; at++) {
        add_address(kinds[at], hosts[at]);
    }
    uint32_t before = open_count();
    connect_begin(&race, io, on_race, lookup, NULL, io_now_ms(io) + limit_ms);
    io_timer(io, &guard, io_now_ms(io) + GUARD_MS);
    io_run(io);
    io_cancel(io, &guard);
    assert_true(over && connect_is_over(&race));
    if (race.fd >= 0) {
        int error = -1;
        socklen_t len = sizeof error;
        assert_int_equal(getsockopt(race.fd, SOL_SOCKET, SO_ERROR, &error, &len), 0);
        assert_int_equal(error, 0);
        assert_int_equal(write(race.fd, "x", 1), 1);
        assert_int_equal(close(race.fd), 0);
    }
    assert_int_equal(open_count(), before); /* every other one was closed */
    assert_true(sockets_max <= CONNECT_AT_ONCE_MAX);
    for (uint32_t at = 0; at < lookup->count; at++) {
        close(listeners[at]);
        if (fillers[at] >= 0) {
            close(fillers[at]);
        }
    }
}

#define RUN(limit_ms, hosts, ...) run((const enum kind[]){__VA_ARGS__}, hosts, limit_ms)

static void races(void)
{
    RUN(5000, "a", GOOD);
    assert_string_equal(story, "T0W0O");
    RUN(5000, "aa", GOOD, GOOD);
    assert_string_equal(story, "T0W0O"); /* in peace nobody else is bothered */
    RUN(5000, "aaa", REFUSES, REFUSES, GOOD);
    assert_string_equal(story, "T0M0T1M1T2W2O");
    RUN(5000, "aa", REFUSES, REFUSES);
    assert_string_equal(story, "T0M0T1M1L1O");
    assert_int_equal(race.err, ERR_REFUSED);
    /* The dead one costs a quarter of a second, not the time-out. */
    uint64_t before_ms = io_now_ms(io);
    RUN(GUARD_MS, "aa", DEAD, GOOD);
    assert_string_equal(story, "T0T1W1O");
    assert_true(io_now_ms(io) - before_ms >= CONNECT_STAGGER_MS);
    RUN(GUARD_MS, "aaa", DEAD, REFUSES, GOOD);
    assert_string_equal(story, "T0T1M1T2W2O");
    RUN(GUARD_MS, "aaa", DEAD, DEAD, GOOD);
    assert_string_equal(story, "T0T1T2W2O");
}

/* Each address has its share of the time, and never are there more sockets than allowed. */
static void more_dead_than_places(void)
{
    RUN(3000, "aaaaa", DEAD, DEAD, DEAD, DEAD, GOOD);
    assert_non_null(strstr(story, "T4W4"));
    assert_int_equal(sockets_max, CONNECT_AT_ONCE_MAX);
    RUN(900, "aaaaa", DEAD, DEAD, DEAD, DEAD, DEAD);
    assert_int_equal(race.err, ERR_TIMEOUT);
    assert_int_equal(race.fd, -1);
    assert_non_null(strchr(story, 'L'));
    RUN(1, "aaaaa", DEAD, DEAD, DEAD, DEAD, DEAD);
    assert_non_null(strchr(story, 'L'));
    RUN(0, "ab", DEAD, GOOD);
    assert_string_equal(story, "L0O");
    assert_int_equal(race.err, ERR_TIMEOUT);
}

/* A worse MX host is not raced against a better one, and has its turn all the same. */
static void hosts_in_order(void)
{
    RUN(1500, "ab", DEAD, GOOD);
    assert_string_equal(story, "T0M0T1W1O");
    RUN(1500, "aab", DEAD, REFUSES, GOOD);
    assert_string_equal(story, "T0T1M1M0T2W2O");
    RUN(5000, "abc", REFUSES, REFUSES, GOOD);
    assert_string_equal(story, "T0M0T1M1T2W2O");
    RUN(5000, "ab", GOOD, GOOD);
    assert_string_equal(story, "T0W0O");
    RUN(900, "abc", DEAD, DEAD, DEAD);
    assert_string_equal(story, "T0M0T1M1T2M2L2O");
}

/* Whenever it is stopped, OVER comes once and nothing else but what was decided already. */
static void stopped_anywhere(void)
{
    for (stop_at = 1; stop_at <= 6; stop_at++) {
        RUN(900, "aaab", DEAD, REFUSES, DEAD, GOOD);
        assert_int_equal(story[strlen(story) - 1], 'O');
        if (events == stop_at && strchr(story, 'W') == NULL) {
            assert_int_equal(race.fd, -1);
            assert_null(strchr(story, 'L'));
        }
    }
    stop_at = 0;
    memset(lookup, 0, sizeof *lookup);
    story[0] = '\0';
    over = false;
    add_address(GOOD, 'a');
    connect_begin(&race, io, on_race, lookup, NULL, io_now_ms(io) + 1000);
    connect_stop(&race); /* before it could begin */
    connect_stop(&race);
    io_run(io);
    assert_string_equal(story, "O");
    close(listeners[0]);
}

static void on_each_backend(void (*cases)(void))
{
    static const enum io_backend backends[] = {IO_BACKEND_POLL, IO_BACKEND_URING};
    for (size_t at = 0; at < 2; at++) {
        struct io_config config = {.backend = backends[at]};
        struct io_about about;
        enum err err = io_new(&io, &config, &about);
        if (err == ERR_UNSUPPORTED) {
            print_message("no io_uring here\n");
            continue;
        }
        assert_int_equal(err, ERR_OK);
        guard.fn = guard_fired;
        lookup = calloc(1, sizeof *lookup);
        assert_non_null(lookup);
        cases();
        free(lookup);
        io_free(&io); /* checks that nothing is pending */
    }
}

static void test_races(void **state)
{
    (void)state;
    on_each_backend(races);
}

static void test_more_dead_than_places(void **state)
{
    (void)state;
    on_each_backend(more_dead_than_places);
}

static void test_hosts_in_order(void **state)
{
    (void)state;
    on_each_backend(hosts_in_order);
}

static void test_stopped_anywhere(void **state)
{
    (void)state;
    on_each_backend(stopped_anywhere);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_races),
        cmocka_unit_test(test_more_dead_than_places),
        cmocka_unit_test(test_hosts_in_order),
        cmocka_unit_test(test_stopped_anywhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
