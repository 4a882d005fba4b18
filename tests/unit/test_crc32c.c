/*
 * daemon/base/crc32c. Its source is included, not linked, so that the path without the instruction
 * is tested on machines that have it.
 */
#include "daemon/base/crc32c.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

/* By the definition, one bit at a time: RFC 3720 B.4, polynomial 0x1EDC6F41 reflected. */
static uint32_t crc32c_by_bits(uint32_t crc, struct slice bytes)
{
    crc = ~crc;
    for (size_t index = 0; index < bytes.len; index++) {
        crc ^= bytes.data[index];
        for (unsigned bit = 0; bit < 8; bit++) {
            crc = crc >> 1 ^ ((crc & 1) != 0 ? 0x82f63b78 : 0);
        }
    }
    return ~crc;
}

static void known_vectors(void **ctx)
{
    (void)ctx;
    uint8_t zeros[32] = {0};
    uint8_t ones[32];
    uint8_t up[32];
    uint8_t down[32];
    memset(ones, 0xff, sizeof ones);
    for (size_t index = 0; index < 32; index++) {
        up[index] = (uint8_t)index;
        down[index] = (uint8_t)(31 - index);
    }
    assert_int_equal(crc32c(0, SLICE("")), 0);
    assert_int_equal(crc32c(0, slice_of(NULL, 0)), 0);
    assert_int_equal(crc32c(0, SLICE("123456789")), 0xe3069283);
    assert_int_equal(crc32c(0, SLICE("a")), 0xc1d04330);
    /* RFC 3720 B.4, with its bytes in the order of this number. */
    assert_int_equal(crc32c(0, slice_of(zeros, 32)), 0x8a9136aa);
    assert_int_equal(crc32c(0, slice_of(ones, 32)), 0x62a8ab43);
    assert_int_equal(crc32c(0, slice_of(up, 32)), 0x46dd794e);
    assert_int_equal(crc32c(0, slice_of(down, 32)), 0x113fdb5c);
}

/* Every length and alignment, by all paths, whole and in two pieces. */
static void all_paths_agree(void **ctx)
{
    (void)ctx;
    uint8_t bytes[160];
    uint32_t seed = 12345;
    for (size_t index = 0; index < sizeof bytes; index++) {
        seed = seed * 1664525 + 1013904223;
        bytes[index] = (uint8_t)(seed >> 24);
    }
    for (size_t start = 0; start < 9; start++) {
        for (size_t len = 0; start + len <= sizeof bytes; len++) {
            struct slice s = slice_of(bytes + start, len);
            uint32_t expected = crc32c_by_bits(0, s);
            assert_int_equal(crc32c(0, s), expected);
            assert_int_equal(~crc32c_plain(~0u, s), expected);
#if defined(__x86_64__)
            if (__builtin_cpu_supports("sse4.2")) {
                assert_int_equal(~crc32c_sse42(~0u, s), expected);
            }
#endif
            size_t cut = len * 2 / 3;
            assert_int_equal(crc32c(crc32c(0, slice_head(s, cut)), slice_tail(s, cut)), expected);
        }
    }
}

/* Long enough for lanes: around each multiple of a block of them, at each alignment, continued. */
static void lanes_agree(void **ctx)
{
    (void)ctx;
    static uint8_t bytes[5 * 768 + 64];
    uint32_t seed = 99;
    for (size_t index = 0; index < sizeof bytes; index++) {
        seed = seed * 1664525 + 1013904223;
        bytes[index] = (uint8_t)(seed >> 24);
    }
    for (size_t blocks = 1; blocks <= 4; blocks++) {
        for (size_t extra = 0; extra < 40; extra++) {
            for (size_t start = 0; start < 9; start++) {
                struct slice s = slice_of(bytes + start, blocks * 768 - 20 + extra);
                assert_int_equal(crc32c(0, s), crc32c_by_bits(0, s));
                assert_int_equal(crc32c(0x1234567, s), crc32c_by_bits(0x1234567, s));
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_vectors),
        cmocka_unit_test(all_paths_agree),
        cmocka_unit_test(lanes_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
