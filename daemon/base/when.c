#include "daemon/base/when.h"

struct civil {
    uint64_t year;
    unsigned month;   /* 1..12 */
    unsigned day;     /* 1..31 */
    unsigned weekday; /* 0 is Sunday */
    unsigned hour, minute, second;
};

/*
 * Days to year, month and day in the proleptic Gregorian calendar. Years are counted from 1 March,
 * so that the leap day is the last of its year; an era is 400 of them, 146,097 days.
 */
static struct civil civil_from_ms(uint64_t at_ms)
{
    uint64_t seconds = at_ms / 1000;
    uint64_t days = seconds / 86400;
    uint64_t of_day = seconds % 86400;
    uint64_t shifted = days + 719468; /* days from 0000-03-01 to 1970-01-01 */
    uint64_t era = shifted / 146097;
    uint64_t day_of_era = shifted % 146097;
    uint64_t year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
    uint64_t day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    uint64_t month_from_march = (5 * day_of_year + 2) / 153;
    struct civil c = {
        .year = year_of_era + era * 400 + (month_from_march >= 10 ? 1 : 0),
        .month = (unsigned)(month_from_march < 10 ? month_from_march + 3 : month_from_march - 9),
        .day = (unsigned)(day_of_year - (153 * month_from_march + 2) / 5 + 1),
        .weekday = (unsigned)((days + 4) % 7),
        .hour = (unsigned)(of_day / 3600),
        .minute = (unsigned)(of_day / 60 % 60),
        .second = (unsigned)(of_day % 60),
    };
    return c;
}

void when_put_rfc5322(struct buf *to, uint64_t at_ms)
{
    static const char *const weekdays[] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
    static const char *const months[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                         "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    struct civil c = civil_from_ms(at_ms);
    buf_printf(to, "%s, %02u %s %04llu %02u:%02u:%02u +0000", weekdays[c.weekday], c.day,
               months[c.month - 1], (unsigned long long)c.year, c.hour, c.minute, c.second);
}

void when_put_rfc3339(struct buf *to, uint64_t at_ms)
{
    struct civil c = civil_from_ms(at_ms);
    buf_printf(to, "%04llu-%02u-%02uT%02u:%02u:%02uZ", (unsigned long long)c.year, c.month, c.day,
               c.hour, c.minute, c.second);
}

void when_put_span(struct buf *to, uint64_t span_ms)
{
    static const struct {
        uint64_t seconds;
        const char *unit;
    } units[] = {{86400, "d"}, {3600, "h"}, {60, "min"}, {1, "s"}};
    uint64_t seconds = span_ms / 1000;
    for (size_t index = 0; index < 4; index++) {
        uint64_t count = seconds / units[index].seconds;
        if (count == 0 && index < 3) {
            continue;
        }
        buf_printf(to, "%llu %s", (unsigned long long)count, units[index].unit);
        if (index < 2) {
            uint64_t rest = seconds % units[index].seconds / units[index + 1].seconds;
            if (rest > 0) {
                buf_printf(to, " %llu %s", (unsigned long long)rest, units[index + 1].unit);
            }
        }
        return;
    }
}
