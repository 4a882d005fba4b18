#include "daemon/base/num.h"

bool u64_parse(struct slice text, uint64_t *out_value)
{
    if (text.len == 0 || text.len > 20) {
        return false;
    }
    uint64_t value = 0;
    for (size_t index = 0; index < text.len; index++) {
        if (text.data[index] < '0' || text.data[index] > '9') {
            return false;
        }
        uint64_t digit = (uint64_t)(text.data[index] - '0');
        if (value > (UINT64_MAX - digit) / 10) {
            return false;
        }
        value = value * 10 + digit;
    }
    *out_value = value;
    return true;
}
