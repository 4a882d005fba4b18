/*
 * Fills a queue for tests/live/test_ctl.py: store_seed DIRECTORY COUNT. Messages 0, 1, 2 ... are
 * queued, held, failed, queued ...; the id of each is printed, a line each.
 */
#include "daemon/store/store.h"

#include <stdio.h>
#include <stdlib.h>

#define RECORD_BYTES 8192
#define ARRIVED_MS   UINT64_C(1795500000000)

static void put_message(struct store *store, uint64_t index)
{
    static uint8_t memory[4][RECORD_BYTES];
    struct buf to, fates, envelope, state;
    struct msg_id id = msg_id_make((ARRIVED_MS + index) << 16, 1);
    enum message_state states[] = {MESSAGE_QUEUED, MESSAGE_HELD, MESSAGE_FAILED};
    enum message_state now = states[index % 3];
    char sender[40];
    (void)snprintf(sender, sizeof sender, "scanner-%llu@example.jp", (unsigned long long)index);
    buf_init(&to, memory[0], RECORD_BYTES);
    buf_init(&fates, memory[1], RECORD_BYTES);
    buf_init(&envelope, memory[2], RECORD_BYTES);
    buf_init(&state, memory[3], RECORD_BYTES);
    record_recipient_put(&to, SLICE("anna@example.jp"));
    record_fate_put(
        &fates, &(struct record_recipient){
                    .state = now == MESSAGE_FAILED ? RECIPIENT_FAILED : RECIPIENT_QUEUED,
                    .outcome = now == MESSAGE_FAILED ? OUTCOME_REFUSED : OUTCOME_NONE,
                    .code = now == MESSAGE_FAILED ? 550 : 0,
                    .text = now == MESSAGE_FAILED ? SLICE("no \033[31m such user") : SLICE("")});
    record_envelope_put(&envelope, &(struct record_envelope){.arrived_ms = ARRIVED_MS + index,
                                                             .body_bytes = 5,
                                                             .chunk_count = 1,
                                                             .recipient_count = 1,
                                                             .client = SLICE("192.168.1.50"),
                                                             .helo = SLICE("scanner"),
                                                             .subject = SLICE("page \033]0;x"),
                                                             .sender = slice_from_str(sender),
                                                             .recipients = buf_slice(&to)});
    record_state_put(&state, &(struct record_state){
                                 .state = now,
                                 .route = record_route(SLICE("main")),
                                 .due_q = ARRIVED_MS + 60000,
                                 .changed_q = ARRIVED_MS + index,
                                 .accepted_q = ARRIVED_MS + index,
                                 .reason = now == MESSAGE_FAILED ? OUTCOME_REFUSED : OUTCOME_NONE,
                                 .size_kib = 1,
                                 .upstream = SLICE("main"),
                                 .device = SLICE("192.168.1.50"),
                                 .flow = record_flow(SLICE("192.168.1.50"), slice_from_str(sender)),
                                 .recipient_count = 1,
                                 .recipients = buf_slice(&fates)});
    CHECK(store_body_append(store, &id, 0, SLICE("abc\r\n")) == ERR_OK);
    CHECK(store_message_add(store, &id, buf_slice(&envelope), buf_slice(&state)) == ERR_OK);
    char text[MSG_ID_TEXT_BYTES];
    struct buf name;
    buf_init(&name, text, sizeof text);
    msg_id_put_text(&name, &id);
    printf("%.*s\n", (int)name.len, text);
}

int main(int argc, char **argv)
{
    struct store_config config = {.queue_bytes_max = UINT64_C(64) << 20,
                                  .readers_max = 8,
                                  .directory = argc > 1 ? argv[1] : ""};
    struct store_report report = {0};
    struct store *store = NULL;
    uint64_t count = argc > 2 ? strtoull(argv[2], NULL, 10) : 0;
    if (store_open(&store, &config, &report) != ERR_OK) {
        fprintf(stderr, "%s\n", report.problem);
        return 1;
    }
    CHECK(store_begin(store) == ERR_OK);
    for (uint64_t index = 0; index < count; index++) {
        put_message(store, index);
    }
    CHECK(store_commit(store) == ERR_OK);
    store_close(&store);
    return 0;
}
