#include "daemon/base/crc32c.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/*
 * The x86 instruction does 8 bytes in 3 cycles of latency, and can begin one each cycle: a body is
 * done in three lanes side by side. The nibble table serves every other machine. A queue record is
 * a few hundred bytes, so a larger table would only cool the cache.
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
#define LANE_BYTES 256u

/* What LANE_BYTES, and twice that, of zeros behind a checksum make of it is a multiplication by
 * x^(8 * bytes) modulo the polynomial: by these, which are x^(8 * bytes - 33), and the 33 that the
 * product's place and the instruction bring. */
#define BEHIND_ONE_LANE  UINT64_C(0xb9e02b86)
#define BEHIND_TWO_LANES UINT64_C(0xdd7e3b0c)

static inline uint64_t word_at(const uint8_t *from)
{
    uint64_t word;
    memcpy(&word, from, sizeof word);
    return word;
}

__attribute__((target("sse4.2"))) static uint32_t crc32c_sse42(uint32_t crc, struct slice bytes)
{
    uint64_t wide = crc;
    size_t index = 0;
    for (; index + 8 <= bytes.len; index += 8) {
        wide = __builtin_ia32_crc32di(wide, word_at(bytes.data + index));
    }
    crc = (uint32_t)wide;
    for (; index < bytes.len; index++) {
        crc = __builtin_ia32_crc32qi(crc, bytes.data[index]);
    }
    return crc;
}

__attribute__((target("sse4.2,pclmul"))) static uint64_t zeros_behind(uint64_t crc, uint64_t by)
{
    __m128i product = _mm_clmulepi64_si128(_mm_cvtsi64_si128((long long)crc),
                                           _mm_cvtsi64_si128((long long)by), 0);
    return __builtin_ia32_crc32di(0, (uint64_t)_mm_cvtsi128_si64(product));
}

__attribute__((target("sse4.2,pclmul"))) static uint32_t crc32c_lanes(uint32_t crc,
                                                                      struct slice bytes)
{
    while (bytes.len >= 3 * LANE_BYTES) {
        const uint8_t *from = bytes.data;
        uint64_t first = crc;
        uint64_t second = 0;
        uint64_t third = 0;
        for (size_t index = 0; index < LANE_BYTES; index += 8) {
            first = __builtin_ia32_crc32di(first, word_at(from + index));
            second = __builtin_ia32_crc32di(second, word_at(from + LANE_BYTES + index));
            third = __builtin_ia32_crc32di(third, word_at(from + 2 * LANE_BYTES + index));
        }
        crc = (uint32_t)(zeros_behind(first, BEHIND_TWO_LANES) ^
                         zeros_behind(second, BEHIND_ONE_LANE) ^ third);
        bytes = slice_tail(bytes, 3 * LANE_BYTES);
    }
    return crc32c_sse42(crc, bytes);
}
#endif

uint32_t crc32c(uint32_t crc, struct slice bytes)
{
#if defined(__x86_64__)
    if (bytes.len >= 3 * LANE_BYTES && __builtin_cpu_supports("sse4.2") &&
        __builtin_cpu_supports("pclmul")) {
        return ~crc32c_lanes(~crc, bytes);
    }
    if (__builtin_cpu_supports("sse4.2")) {
        return ~crc32c_sse42(~crc, bytes);
    }
#endif
    return ~crc32c_plain(~crc, bytes);
}
