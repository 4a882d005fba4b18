/*
 * schema/metric: what metrics_put writes is read back by the grammar of Prometheus' text format
 * 0.0.4, and its numbers are the sums of the threads'.
 */
#include "schema/metric.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#define TEXT_BYTES 16384

/* What people's dashboards ask for: a name that is changed or gone is their loss. */
static const struct {
    const char *name, *type;
} promised[] = {
    {"tasuki_clients", "gauge"},
    {"tasuki_clients_total", "counter"},
    {"tasuki_clients_refused_total", "counter"},
    {"tasuki_messages_accepted_total", "counter"},
    {"tasuki_accepted_bytes_total", "counter"},
    {"tasuki_rejected_total", "counter"},
    {"tasuki_rejected_full_total", "counter"},
    {"tasuki_client_timeouts_total", "counter"},
    {"tasuki_recipients_delivered_total", "counter"},
    {"tasuki_recipients_deferred_total", "counter"},
    {"tasuki_recipients_failed_total", "counter"},
    {"tasuki_in_doubt_total", "counter"},
    {"tasuki_upstream_connections", "gauge"},
    {"tasuki_upstream_connects_total", "counter"},
    {"tasuki_upstream_failures_total", "counter"},
    {"tasuki_upstream_sent_bytes_total", "counter"},
    {"tasuki_store_commits_total", "counter"},
    {"tasuki_store_commit_microseconds_total", "counter"},
    {"tasuki_store_refusals_total", "counter"},
};

/* One metric as it was read back. */
struct sample {
    struct slice name, help, type;
    uint64_t value;
};

static struct slice take_line(struct slice *rest)
{
    size_t end = slice_find(*rest, '\n');
    assert_true(end < rest->len); /* every line ends in LF, the last as well */
    struct slice line = slice_head(*rest, end);
    *rest = slice_tail(*rest, end + 1);
    return line;
}

static struct slice take_word(struct slice *line)
{
    size_t end = slice_find(*line, ' ');
    struct slice word = slice_head(*line, end);
    assert_true(word.len > 0);
    *line = slice_tail(*line, end + 1);
    return word;
}

/* metric_name = [a-zA-Z_:][a-zA-Z0-9_:]*, and ours have neither capitals nor colons */
static bool is_name(struct slice name)
{
    for (size_t index = 0; index < name.len; index++) {
        uint8_t at = name.data[index];
        bool first = (at >= 'a' && at <= 'z') || at == '_';
        if (!first && !(index > 0 && at >= '0' && at <= '9')) {
            return false;
        }
    }
    return name.len > 0;
}

/* HELP, TYPE and one sample without labels, in this order. */
static struct sample take_sample(struct slice *rest)
{
    struct sample s;
    struct slice line = take_line(rest);
    assert_true(slice_equal(take_word(&line), SLICE("#")));
    assert_true(slice_equal(take_word(&line), SLICE("HELP")));
    s.name = take_word(&line);
    s.help = line;
    assert_true(is_name(s.name));
    assert_true(slice_find(s.help, '\\') == s.help.len); /* nothing in it needs an escape */
    assert_true(s.help.len > 0 && s.help.data[s.help.len - 1] == '.');

    line = take_line(rest);
    assert_true(slice_equal(take_word(&line), SLICE("#")));
    assert_true(slice_equal(take_word(&line), SLICE("TYPE")));
    assert_true(slice_equal(take_word(&line), s.name));
    s.type = take_word(&line);
    assert_int_equal(line.len, 0);

    line = take_line(rest);
    assert_true(slice_equal(take_word(&line), s.name));
    char digits[24] = "";
    assert_true(line.len > 0 && line.len < sizeof digits);
    memcpy(digits, line.data, line.len);
    assert_int_equal(strspn(digits, "0123456789"), line.len);
    s.value = strtoull(digits, NULL, 10);
    return s;
}

static size_t read_back(const struct metrics *const *sets, size_t set_count,
                        struct sample samples[METRIC_COUNT])
{
    static uint8_t memory[TEXT_BYTES];
    struct buf text;
    buf_init(&text, memory, sizeof memory);
    metrics_put(&text, sets, set_count);
    assert_false(text.overflow);
    size_t count = 0;
    for (struct slice rest = buf_slice(&text); rest.len > 0;) {
        assert_true(count < METRIC_COUNT);
        samples[count++] = take_sample(&rest);
    }
    return count;
}

static void every_row_is_valid_text(void **ctx)
{
    (void)ctx;
    struct sample samples[METRIC_COUNT];
    assert_int_equal(read_back(NULL, 0, samples), METRIC_COUNT);
    for (size_t index = 0; index < METRIC_COUNT; index++) {
        struct slice name = samples[index].name;
        assert_true(slice_starts_with(name, SLICE("tasuki_")));
        assert_int_equal(samples[index].value, 0);
        bool is_counter = slice_equal(samples[index].type, SLICE("counter"));
        assert_true(is_counter || slice_equal(samples[index].type, SLICE("gauge")));
        bool is_total =
            name.len > 6 && slice_equal(slice_tail(name, name.len - 6), SLICE("_total"));
        assert_int_equal(is_counter, is_total);
        for (size_t other = 0; other < index; other++) {
            assert_false(slice_equal(name, samples[other].name));
        }
    }
}

static void promised_names_are_there(void **ctx)
{
    (void)ctx;
    struct sample samples[METRIC_COUNT];
    size_t count = read_back(NULL, 0, samples);
    for (size_t index = 0; index < sizeof promised / sizeof promised[0]; index++) {
        size_t at = 0;
        while (at < count && !slice_equal(samples[at].name, slice_from_str(promised[index].name))) {
            at++;
        }
        if (at == count || !slice_equal(samples[at].type, slice_from_str(promised[index].type))) {
            fail_msg("%s is not as it was", promised[index].name);
        }
    }
}

/* Each metric has a place of its own, and a set is counted once. */
static void sums_over_the_sets(void **ctx)
{
    (void)ctx;
    static struct metrics one, two;
    struct sample samples[METRIC_COUNT];
    for (unsigned metric = 0; metric < METRIC_COUNT; metric++) {
        metric_add(&one, (enum metric)metric, metric + 1);
        metric_add(&two, (enum metric)metric, 1000);
        metric_add(&two, (enum metric)metric, 1000);
        assert_int_equal(metric_get(&one, (enum metric)metric), metric + 1);
    }
    const struct metrics *const sets[] = {&one, &two};
    for (size_t set_count = 1; set_count <= 2; set_count++) {
        assert_int_equal(read_back(sets, set_count, samples), METRIC_COUNT);
        for (size_t index = 0; index < METRIC_COUNT; index++) {
            assert_int_equal(samples[index].value, index + 1 + (set_count - 1) * 2000);
        }
    }
}

/* What one thread opened another may close: the sum is right, whatever each has. */
static void gauges_fall(void **ctx)
{
    (void)ctx;
    static struct metrics one, two;
    struct sample samples[METRIC_COUNT];
    metric_add(&one, METRIC_CLIENTS, 3);
    metric_add(&two, METRIC_CLIENTS, (uint64_t)-1);
    const struct metrics *const sets[] = {&one, &two};
    (void)read_back(sets, 2, samples);
    assert_int_equal(samples[METRIC_CLIENTS].value, 2);
    metric_add(&one, METRIC_CLIENTS, (uint64_t)-2);
    (void)read_back(sets, 2, samples);
    assert_int_equal(samples[METRIC_CLIENTS].value, 0);
}

static void largest_values_are_whole(void **ctx)
{
    (void)ctx;
    static struct metrics one;
    struct sample samples[METRIC_COUNT];
    for (unsigned metric = 0; metric < METRIC_COUNT; metric++) {
        metric_add(&one, (enum metric)metric, UINT64_MAX);
    }
    const struct metrics *const sets[] = {&one};
    assert_int_equal(read_back(sets, 1, samples), METRIC_COUNT);
    for (size_t index = 0; index < METRIC_COUNT; index++) {
        assert_true(samples[index].value == UINT64_MAX);
    }
}

static void too_small_a_buffer_says_so(void **ctx)
{
    (void)ctx;
    static uint8_t memory[TEXT_BYTES];
    struct buf text;
    buf_init(&text, memory, sizeof memory);
    metrics_put(&text, NULL, 0);
    size_t needed = text.len;
    for (size_t room = 0; room <= needed; room++) {
        buf_init(&text, memory, room);
        metrics_put(&text, NULL, 0);
        assert_int_equal(text.overflow, room < needed);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_row_is_valid_text),  cmocka_unit_test(promised_names_are_there),
        cmocka_unit_test(sums_over_the_sets),       cmocka_unit_test(gauges_fall),
        cmocka_unit_test(largest_values_are_whole), cmocka_unit_test(too_small_a_buffer_says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
