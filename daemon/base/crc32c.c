#include "daemon/base/crc32c.h"

/*
 * The x86 instruction does 8 bytes in 3 cycles of latency; the nibble table serves every other
 * machine and the tail. A queue record is a few hundred bytes, so a larger table would only cool
 * the cache.
 */
static const uint32_t nibble_table[16] = {
    0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3, 0x61c69362, 0x7198540d,
    0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9, 0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75,
};

static uint32_t crc32c_plain(uint32_t crc, struct slice bytes)
{
    for (size_t index = 0; index < bytes.len; index++) {
        crc ^= bytes.data[index];
        crc = crc >> 4 ^ nibble_table[crc & 15];
        crc = crc >> 4 ^ nibble_table[crc & 15];
    }
    return crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t crc32c_sse42(uint32_t crc, struct slice bytes)
{
    uint64_t wide = crc;
    size_t index = 0;
    for (; index + 8 <= bytes.len; index += 8) {
        uint64_t word;
        memcpy(&word, bytes.data + index, sizeof word);
        wide = __builtin_ia32_crc32di(wide, word);
    }
    crc = (uint32_t)wide;
    for (; index < bytes.len; index++) {
        crc = __builtin_ia32_crc32qi(crc, bytes.data[index]);
    }
    return crc;
}
#endif

uint32_t crc32c(uint32_t crc, struct slice bytes)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("sse4.2")) {
        return ~crc32c_sse42(~crc, bytes);
    }
#endif
    return ~crc32c_plain(~crc, bytes);
}
