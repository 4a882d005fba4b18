#include "schema/metric.h"

static const struct {
    const char *name;
    const char *type;
    const char *help;
} rows[METRIC_COUNT] = {
#define COUNTER                   "counter"
#define GAUGE                     "gauge"
#define X(name, text, type, help) [METRIC_##name] = {"tasuki_" text, type, help},
#include "schema/metric.def"
#undef X
#undef COUNTER
#undef GAUGE
};

void metrics_put(struct buf *to, const struct metrics *const *sets, size_t set_count)
{
    for (size_t metric = 0; metric < METRIC_COUNT; metric++) {
        uint64_t sum = 0;
        for (size_t set = 0; set < set_count; set++) {
            sum += metric_get(sets[set], (enum metric)metric);
        }
        buf_printf(to, "# HELP %s %s\n# TYPE %s %s\n%s ", rows[metric].name, rows[metric].help,
                   rows[metric].name, rows[metric].type, rows[metric].name);
        buf_put_u64(to, sum);
        buf_put_byte(to, '\n');
    }
}
