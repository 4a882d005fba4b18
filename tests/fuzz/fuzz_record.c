/*
 * Any bytes as a record. The first byte chooses: 1 the kind to read it as, 2 whether its checksum
 * is made to fit, so that the structure behind it is reached. What decodes must encode to the same
 * bytes, and can be filtered and shown.
 */
#include "daemon/base/crc32c.h"
#include "daemon/base/num.h"
#include "schema/filter.h"
#include "schema/record.h"
#include "schema/view.h"

#include <stdlib.h>

#define CHOOSE_STATE 1
#define CHOOSE_SEAL  2
#define BYTES_MAX    65536

static uint8_t input[BYTES_MAX];
static uint8_t output[BYTES_MAX];
static uint8_t list[BYTES_MAX];
static uint8_t json_memory[VIEW_MESSAGE_BYTES_MAX];

static void show(const struct record_envelope *envelope, const struct record_state *state)
{
    struct msg_id id = msg_id_make(4711, 1);
    struct buf to;
    struct json j;
    buf_init(&to, json_memory, VIEW_ROW_BYTES_MAX);
    json_init(&j, &to);
    view_put_row(&j, &id, envelope, state, false);
    CHECK(!to.overflow);
    buf_init(&to, json_memory, sizeof json_memory);
    json_init(&j, &to);
    view_put_message(&j, &id, envelope, state, true);
    CHECK(!to.overflow);

    static const char *const filters[] = {"from:a to:b subject:c client:d -x", "reason:deferred",
                                          "older:1d larger:1K device:\"\""};
    for (size_t index = 0; index < sizeof filters / sizeof filters[0]; index++) {
        struct filter filter;
        char message[200];
        CHECK(filter_parse(&filter, slice_from_str(filters[index]), message));
        (void)filter_matches(&filter, &id, envelope, state, 1000);
    }
}

static void try_envelope(struct slice bytes)
{
    struct record_envelope envelope;
    if (record_envelope_get(bytes, &envelope) != ERR_OK) {
        return;
    }
    struct buf paths;
    buf_init(&paths, list, sizeof list);
    struct slice rest = envelope.recipients;
    struct slice path;
    uint32_t count = 0;
    while (record_recipient_next(&rest, &path)) {
        record_recipient_put(&paths, path);
        count++;
    }
    CHECK(count == envelope.recipient_count && slice_equal(buf_slice(&paths), envelope.recipients));
    struct buf to;
    buf_init(&to, output, sizeof output);
    record_envelope_put(&to, &envelope);
    CHECK(slice_equal(buf_slice(&to), bytes));
    CHECK(bytes.len <= record_envelope_bytes_max(count));

    struct record_state state = {.upstream = SLICE("main")};
    show(&envelope, &state);
}

static void try_state(struct slice bytes)
{
    struct record_state state;
    if (record_state_get(bytes, &state) != ERR_OK) {
        return;
    }
    struct slice rest = state.recipients;
    struct record_recipient recipient;
    uint32_t count = 0;
    while (record_fate_next(&rest, &recipient)) {
        count++;
    }
    CHECK(count == state.recipient_count && rest.len == 0);
    struct buf to;
    buf_init(&to, output, sizeof output);
    record_state_put(&to, &state);
    CHECK(slice_equal(buf_slice(&to), bytes));
    CHECK(bytes.len <= record_state_bytes_max(count));

    struct buf paths;
    buf_init(&paths, list, sizeof list);
    record_recipient_put(&paths, SLICE("a@b"));
    struct record_envelope envelope = {.recipient_count = 1, .recipients = buf_slice(&paths)};
    show(&envelope, &state);
}

/* With a checksum that fits; a state's route has to fit its name as well. */
static void seal(uint8_t *record, size_t len, bool is_state)
{
    if (is_state && len >= 46) {
        size_t name_bytes = be16_get(record + 40);
        if (name_bytes <= len - 46) {
            be32_put(record + 4, record_route(slice_of(record + 42, name_bytes)));
        }
    }
    if (len >= 4) {
        be32_put(record + len - 4, crc32c(0, slice_of(record, len - 4)));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1 || size > BYTES_MAX) {
        return 0;
    }
    size_t len = size - 1;
    memcpy(input, data + 1, len);
    bool is_state = (data[0] & CHOOSE_STATE) != 0;
    if ((data[0] & CHOOSE_SEAL) != 0) {
        seal(input, len, is_state);
    }
    if (is_state) {
        try_state(slice_of(input, len));
    } else {
        try_envelope(slice_of(input, len));
    }
    return 0;
}
