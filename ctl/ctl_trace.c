/*
 * trace out: dialogues with upstreams as they happen. Asks the daemon again and again for the lines
 * behind the last one; the daemon keeps lines only while somebody asks.
 */
#include "ctl/ctl.h"

#include "daemon/base/num.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define POLL_MS     250u
#define LINES_MAX   500u
#define CLOCK_BYTES sizeof "12:34:56.789"

struct watch {
    struct ctl *c;
    char *filter;      /* owned */
    json_int_t last;   /* the newest line that was looked at; -1: none, from now on */
    uint64_t until_ms; /* monotonic; 0: no end */
    bool more;         /* the last answer was full */
    uint64_t about;    /* connection of the last line that was printed, */
    char about_id[32]; /* and its message, or "" */
};

static uint64_t monotonic_ms(void)
{
    struct timespec now;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void put_clock(char to[CLOCK_BYTES], uint64_t at_ms)
{
    time_t seconds = (time_t)(at_ms / 1000);
    struct tm tm = {0};
    (void)localtime_r(&seconds, &tm);
    (void)snprintf(to, CLOCK_BYTES, "%02u:%02u:%02u.%03u", (unsigned)tm.tm_hour % 100,
                   (unsigned)tm.tm_min % 100, (unsigned)tm.tm_sec % 100, (unsigned)(at_ms % 1000));
}

/* "12:34:56.789  main#17  " */
static void print_head(const json_t *line)
{
    char clock[CLOCK_BYTES];
    put_clock(clock, ctl_json_u64(line, "at_ms"));
    printf("%s  ", clock);
    ctl_say_escaped(stdout, ctl_json_text(line, "upstream"));
    printf("#%llu  ", (unsigned long long)ctl_json_u64(line, "connection"));
}

/* Which message the next lines are about, where that is another one than before. */
static void print_about(struct watch *w, const json_t *line)
{
    struct slice id = slice_head(ctl_json_text(line, "id"), sizeof w->about_id - 1);
    uint64_t connection = ctl_json_u64(line, "connection");
    bool same = connection == w->about && slice_equal(id, slice_from_str(w->about_id));
    if (same || id.len == 0) {
        return;
    }
    print_head(line);
    fputs("-- message ", stdout);
    ctl_say_escaped(stdout, id);
    putchar('\n');
    memcpy(w->about_id, id.data, id.len);
    w->about_id[id.len] = '\0';
    w->about = connection;
}

static void print_line(struct watch *w, const json_t *line)
{
    struct slice text = ctl_json_text(line, "line");
    enum ctl_colour colour = ctl_dialogue_colour(text);
    print_about(w, line);
    print_head(line);
    fputs(ctl_colour_on(w->c, colour), stdout);
    ctl_say_escaped(stdout, text);
    printf("%s\n", ctl_colour_off(w->c, colour));
}

static void print_lost(const struct watch *w, uint64_t lost)
{
    if (w->c->args.json) {
        json_t *row =
            json_pack("{s:i,s:I}", "schema", WIRE_SCHEMA_VERSION, "lost", (json_int_t)lost);
        ctl_say_json(row);
        json_decref(row);
        return;
    }
    char text[CTL_SHORT_TEXT_BYTES];
    struct buf b;
    buf_init(&b, text, sizeof text);
    ctl_put_count(&b, lost, "line was lost", "lines were lost");
    printf("-- %.*s\n", (int)b.len, text);
}

static void print_answer(struct watch *w, const json_t *result)
{
    const json_t *lines = json_object_get(result, "lines");
    if (ctl_json_u64(result, "lost") > 0) {
        print_lost(w, ctl_json_u64(result, "lost"));
    }
    size_t index;
    json_t *line;
    json_array_foreach(lines, index, line)
    {
        if (w->c->args.json) {
            json_t *row = ctl_json_with_schema(line);
            ctl_say_json(row);
            json_decref(row);
        } else {
            print_line(w, line);
        }
    }
    w->more = json_array_size(lines) >= LINES_MAX;
    w->last = (json_int_t)ctl_json_u64(result, "last");
}

/* Sleeps until the next look, or until nobody reads our output any more. False: that is so. */
static bool wait_a_little(const struct watch *w)
{
    uint64_t now_ms = monotonic_ms();
    uint64_t ms = w->more ? 0 : POLL_MS;
    if (w->until_ms != 0) {
        ms = u64_min(ms, w->until_ms > now_ms ? w->until_ms - now_ms : 0);
    }
    struct pollfd p = {.fd = STDOUT_FILENO};
    int ready = poll(&p, 1, (int)ms);
    CHECK(ready >= 0 || errno == EINTR);
    return ready <= 0 || (p.revents & (POLLERR | POLLHUP | POLLNVAL)) == 0;
}

/* The daemon was there a moment ago: that it is gone is the news. */
static enum ctl_exit say_end(const struct watch *w, struct ctl_problem *problem)
{
    if (w->last >= 0 && problem->exit == CTL_EXIT_UNREACHABLE) {
        ctl_problem_set(problem, CTL_EXIT_UNREACHABLE, "unreachable",
                        "the daemon has gone away: tasukid was stopped, or has ended");
        ctl_problem_hint(problem, "tasukictl status; journalctl -u tasuki -n 50");
    }
    return ctl_say_problem(w->c, problem);
}

static enum ctl_exit watch(struct watch *w)
{
    struct ctl_problem problem;
    do {
        json_t *args = json_pack("{s:s,s:i}", "filter", w->filter, "limit", (int)LINES_MAX);
        CHECK(args != NULL);
        if (w->last >= 0) {
            json_object_set_new(args, "after", json_integer(w->last));
        }
        json_t *result = ctl_client_call(w->c, COMMAND_TRACE, args, NULL, &problem);
        if (result == NULL) {
            return say_end(w, &problem);
        }
        if (w->last < 0 && w->c->terminal && !w->c->args.json) {
            ctl_say_notice(w->c, "what is said to upstreams from now on; Ctrl-C ends it", "");
        }
        print_answer(w, result);
        json_decref(result);
        if (fflush(stdout) != 0) {
            break; /* said at the end of main */
        }
    } while (wait_a_little(w) && (w->until_ms == 0 || monotonic_ms() < w->until_ms));
    return CTL_EXIT_OK;
}

enum ctl_exit ctl_trace_run(struct ctl *c)
{
    struct ctl_problem problem;
    struct watch w = {.c = c, .last = -1};
    w.filter = ctl_args_filter(&c->args, &problem);
    if (w.filter == NULL) {
        return ctl_say_problem(c, &problem);
    }
    if (c->args.for_ms != 0) {
        w.until_ms = monotonic_ms() + c->args.for_ms;
    }
    enum ctl_exit code = watch(&w);
    free(w.filter);
    return code;
}
