/*
 * Any bytes as a record. The first byte chooses: its low bits the kind to read it as, CHOOSE_SEAL
 * whether its checksum is made to fit, so that the structure behind it is reached. What decodes
 * must encode to the same bytes, and can be filtered and shown.
 */
#include "daemon/base/crc32c.h"
#include "daemon/base/num.h"
#include "schema/filter.h"
#include "schema/record_history.h"
#include "schema/record_upstream.h"
#include "schema/record_v1.h"
#include "schema/view.h"

#include <stdlib.h>

enum choice { ENVELOPE, STATE, TRAIL, HISTORY, UPSTREAM, V1_ENVELOPE, V1_STATE, CHOICES };

#define CHOOSE_SEAL 0x80u
#define BYTES_MAX   65536

static uint8_t input[BYTES_MAX];
static uint8_t output[BYTES_MAX];
static uint8_t list[BYTES_MAX];
static uint8_t json_memory[VIEW_MESSAGE_BYTES_MAX];

/* Through everything that takes a decoded message apart. */
static void show(const struct record_message *message)
{
    struct buf to;
    struct json j;
    char why[VIEW_WHY_BYTES];
    buf_init(&to, json_memory, VIEW_ROW_BYTES_MAX);
    json_init(&j, &to);
    view_put_row(&j, message, -1000);
    CHECK(!to.overflow);
    buf_init(&to, json_memory, sizeof json_memory);
    json_init(&j, &to);
    view_put_message(&j, message, 1000);
    CHECK(!to.overflow);
    view_why(message, 0, 1000, why);
    CHECK(memchr(why, '\0', sizeof why) != NULL);

    static const char *const filters[] = {"from:a to:b subject:c client:d -x", "reason:deferred",
                                          "older:1d larger:1K device:\"\""};
    for (size_t index = 0; index < sizeof filters / sizeof filters[0]; index++) {
        struct filter filter;
        char words[200];
        CHECK(filter_parse(&filter, slice_from_str(filters[index]), words));
        (void)filter_matches(&filter, message, 1000);
    }
}

/* A message that an envelope or a state is put into. */
static struct record_message message_make(struct buf *paths)
{
    record_recipient_put(paths, SLICE("a@b"));
    return (struct record_message){
        .id = msg_id_make(4711, 1),
        .envelope = {.recipient_count = 1, .recipients = buf_slice(paths)},
        .state = {.upstream = SLICE("main")},
    };
}

static void try_envelope(struct slice bytes)
{
    struct record_envelope envelope;
    if (record_envelope_get(bytes, &envelope) != ERR_OK) {
        return;
    }
    struct buf rcpts;
    buf_init(&rcpts, list, sizeof list);
    struct slice rest = envelope.recipients;
    struct record_rcpt rcpt;
    uint32_t count = 0;
    while (record_rcpt_next(&rest, &rcpt)) {
        record_rcpt_put(&rcpts, &rcpt);
        count++;
    }
    CHECK(count == envelope.recipient_count && slice_equal(buf_slice(&rcpts), envelope.recipients));
    struct buf to;
    buf_init(&to, output, sizeof output);
    record_envelope_put(&to, &envelope);
    CHECK(slice_equal(buf_slice(&to), bytes));
    CHECK(bytes.len <= record_envelope_bytes_max(count));

    buf_init(&rcpts, list, sizeof list);
    struct record_message message = message_make(&rcpts);
    message.envelope = envelope;
    show(&message);
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
    CHECK((unsigned)record_reason(state.recipients) < OUTCOME_COUNT);
    struct buf to;
    buf_init(&to, output, sizeof output);
    record_state_put(&to, &state);
    bool known = bytes.data[3] < OUTCOME_COUNT; /* a newer program's reason is read as none */
    CHECK(known ? slice_equal(buf_slice(&to), bytes) : to.len == bytes.len);
    CHECK(bytes.len <= record_state_bytes_max(count));

    struct buf paths;
    buf_init(&paths, list, sizeof list);
    struct record_message message = message_make(&paths);
    message.state = state;
    show(&message);
}

static void try_trail(struct slice bytes)
{
    struct record_trail trail;
    if (record_trail_get(bytes, &trail) != ERR_OK) {
        return;
    }
    struct buf to;
    buf_init(&to, output, sizeof output);
    record_trail_put(&to, &trail, slice_of(NULL, 0), 0, slice_of(NULL, 0));
    CHECK(slice_equal(buf_slice(&to), bytes));
    CHECK(bytes.len <= RECORD_TRAIL_BYTES_MAX);
    /* It goes on: one move more, and more dialogue than there is room for beside the old. */
    struct buf move;
    struct record_move last = {.text = SLICE("more")};
    buf_init(&move, list, sizeof list);
    record_move_put(&move, &last);
    buf_init(&to, output, sizeof output);
    record_trail_put(&to, &trail, buf_slice(&move), 1,
                     slice_head(slice_of(input, BYTES_MAX), 3000));
    CHECK(!to.overflow && to.len <= RECORD_TRAIL_BYTES_MAX);
    struct record_trail longer;
    CHECK(record_trail_get(buf_slice(&to), &longer) == ERR_OK);
    CHECK(longer.move_count > 0 && longer.move_count <= RECORD_TRAIL_MOVES_MAX);

    struct buf paths;
    buf_init(&paths, list, sizeof list);
    struct record_message message = message_make(&paths);
    message.trail = &trail;
    show(&message);
}

static void try_history(struct slice bytes)
{
    struct record_history history;
    uint64_t left_q;
    if (record_history_get(bytes, &history) != ERR_OK) {
        (void)record_history_left_q(bytes, &left_q);
        return;
    }
    CHECK(record_history_left_q(bytes, &left_q) && left_q == history.left_q);
    struct buf to;
    buf_init(&to, output, sizeof output);
    record_history_put(&to, &history);
    CHECK(slice_equal(buf_slice(&to), bytes));

    struct record_message message;
    struct record_trail trail;
    struct msg_id id = msg_id_make(4711, 1);
    if (record_message_of_history(bytes, &id, &message, &history, &trail) == ERR_OK) {
        show(&message);
    }
}

static void try_upstream(struct slice bytes)
{
    struct record_upstream upstream;
    if (record_upstream_get(bytes, &upstream) != ERR_OK) {
        return;
    }
    CHECK(bytes.len <= RECORD_UPSTREAM_BYTES_MAX);
    struct buf to;
    buf_init(&to, output, sizeof output);
    record_upstream_put(&to, &upstream);
    if (to.len == bytes.len) {
        CHECK(slice_equal(buf_slice(&to), bytes));
        return;
    }
    /* What says how much was left of a rate is passed over. The rest is as any other record. */
    CHECK(to.len < bytes.len);
    struct buf again;
    buf_init(&again, list, sizeof list);
    CHECK(record_upstream_get(buf_slice(&to), &upstream) == ERR_OK);
    record_upstream_put(&again, &upstream);
    CHECK(slice_equal(buf_slice(&again), buf_slice(&to)));
}

static void try_v1_envelope(struct slice bytes)
{
    struct record_envelope envelope;
    struct slice path;
    uint32_t count = 0;
    if (record_v1_envelope_get(bytes, &envelope) == ERR_OK) {
        while (record_v1_recipient_next(&envelope.recipients, &path)) {
            count++;
        }
        CHECK(count == envelope.recipient_count && envelope.recipients.len == 0);
    }
}

static void try_v1_state(struct slice bytes)
{
    struct record_state state;
    struct record_recipient recipient;
    uint32_t count = 0;
    if (record_v1_state_get(bytes, &state) == ERR_OK) {
        while (record_v1_fate_next(&state.recipients, &recipient)) {
            count++;
        }
        CHECK(count == state.recipient_count && state.recipients.len == 0);
    }
}

/* A state's route has to fit its name: where the route and the name lie. */
static void route_fit(uint8_t *record, size_t len, size_t route, size_t name)
{
    if (len >= name + 6) {
        size_t name_bytes = be16_get(record + name);
        if (name_bytes <= len - name - 6) {
            be32_put(record + route, record_route(slice_of(record + name + 2, name_bytes)));
        }
    }
}

/* With a checksum that fits. */
static void seal(uint8_t *record, size_t len, enum choice choice)
{
    if (choice == STATE) {
        route_fit(record, len, 6, 70);
    } else if (choice == V1_STATE) {
        route_fit(record, len, 4, 40);
    }
    if (len >= 4) {
        be32_put(record + len - 4, crc32c(0, slice_of(record, len - 4)));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const tries[CHOICES])(struct slice) = {
        [ENVELOPE] = try_envelope, [STATE] = try_state,       [TRAIL] = try_trail,
        [HISTORY] = try_history,   [UPSTREAM] = try_upstream, [V1_ENVELOPE] = try_v1_envelope,
        [V1_STATE] = try_v1_state,
    };
    if (size < 1 || size > BYTES_MAX) {
        return 0;
    }
    size_t len = size - 1;
    enum choice choice = (enum choice)((data[0] & 0x7fu) % CHOICES);
    memcpy(input, data + 1, len);
    if ((data[0] & CHOOSE_SEAL) != 0) {
        seal(input, len, choice);
    }
    tries[choice](slice_of(input, len));
    return 0;
}
