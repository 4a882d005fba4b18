/*
 * Any text as a filter. A refusal leaves a message that ends within its place; what is taken can be
 * asked about messages, and a negated filter of one term says the opposite.
 */
#include "daemon/base/text.h"
#include "schema/filter.h"

#include <stdlib.h>

#define NOW_MS UINT64_C(1795508794123)

static struct msg_id id;
static struct record_envelope envelope;
static struct record_state state;

static void make_sample(void)
{
    static uint8_t paths_memory[256];
    static uint8_t fates_memory[256];
    struct buf paths;
    struct buf fates;
    buf_init(&paths, paths_memory, sizeof paths_memory);
    buf_init(&fates, fates_memory, sizeof fates_memory);
    record_recipient_put(&paths, SLICE("anna@example.jp"));
    record_recipient_put(&paths, SLICE("aaaaaaaab@c"));
    record_fate_put(&fates, &(struct record_recipient){.state = RECIPIENT_DEFERRED,
                                                       .outcome = OUTCOME_DEFERRED});
    record_fate_put(
        &fates, &(struct record_recipient){.state = RECIPIENT_FAILED, .outcome = OUTCOME_REFUSED});
    id = msg_id_make(NOW_MS << 16, 1);
    envelope = (struct record_envelope){.arrived_ms = NOW_MS - 3600000,
                                        .body_bytes = 20480,
                                        .recipient_count = 2,
                                        .client = SLICE("192.168.1.50"),
                                        .subject = SLICE("Scan: invoice \xff\xe3\x82\xb9"),
                                        .sender = SLICE("scanner@example.jp"),
                                        .recipients = buf_slice(&paths)};
    state = (struct record_state){.state = MESSAGE_HELD,
                                  .upstream = SLICE("main"),
                                  .recipient_count = 2,
                                  .recipients = buf_slice(&fates)};
}

static void check_message(const char message[200])
{
    const char *end = memchr(message, '\0', 200);
    CHECK(end != NULL && end != message);
    struct slice rest = slice_of(message, (size_t)(end - message));
    while (rest.len > 0) {
        uint32_t code = 0;
        size_t len = text_utf8_len(rest, &code);
        CHECK(len > 0 && code >= 0x20 && !(code >= 0x7f && code < 0xa0));
        rest = slice_tail(rest, len);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (envelope.recipient_count == 0) {
        make_sample();
    }
    struct filter filter;
    char message[200];
    memset(message, 'x', sizeof message);
    if (!filter_parse(&filter, slice_of(data, size), message)) {
        check_message(message);
        return 0;
    }
    CHECK(filter.count <= FILTER_TERMS_MAX);
    const struct record_message about = {.id = id, .envelope = envelope, .state = state};
    bool all = filter_matches(&filter, &about, NOW_MS);
    bool every = true;
    for (uint32_t index = 0; index < filter.count; index++) {
        struct filter one = {.count = 1, .terms = {filter.terms[index]}};
        bool yes = filter_matches(&one, &about, NOW_MS);
        one.terms[0].negated = !one.terms[0].negated;
        CHECK(filter_matches(&one, &about, NOW_MS) == !yes);
        every = every && yes;
        struct slice text = filter.terms[index].text;
        CHECK(text.len == 0 || (text.data >= data && text.data + text.len <= data + size));
    }
    CHECK(all == every);
    return 0;
}
