/*
 * The configuration parser: any bytes give errors or a config, never a crash (hostile.md C12); and
 * a config that was printed reads back as the same.
 */
#include "daemon/config/config.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define PRINTED_BYTES_MAX (512 * 1024)

static size_t print(uint8_t *memory, const struct config *config)
{
    struct buf to;
    buf_init(&to, memory, PRINTED_BYTES_MAX);
    config_put(&to, config);
    CHECK(!to.overflow);
    return to.len;
}

static void judge_errors(const struct config_errors *errors)
{
    static uint8_t memory[4096];
    CHECK(errors->count > 0 && errors->count <= CONFIG_ERRORS_MAX);
    for (uint32_t index = 0; index < errors->count; index++) {
        struct buf to;
        buf_init(&to, memory, sizeof memory);
        CHECK(errors->items[index].message[0] != '\0');
        config_error_put(&to, "tasuki.conf", &errors->items[index]);
        CHECK(!to.overflow);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t first_text[PRINTED_BYTES_MAX];
    static uint8_t again_text[PRINTED_BYTES_MAX];
    static struct config_errors errors;
    struct config *config = NULL;
    struct config *again = NULL;
    if (config_parse(&config, "fuzz", slice_of(data, size), false, &errors) != ERR_OK) {
        CHECK(config == NULL);
        judge_errors(&errors);
        return 0;
    }
    CHECK(config->upstream_count >= 1);
    size_t first = print(first_text, config);
    CHECK(config_parse(&again, "fuzz", slice_of(first_text, first), false, &errors) == ERR_OK);
    size_t second = print(again_text, again);
    CHECK(first == second && memcmp(first_text, again_text, first) == 0);
    config_free(&config);
    config_free(&again);
    return 0;
}
