/*
 * tasuki-web's request heads and Host names: no input crashes them, and where the bytes are cut
 * changes nothing. They are no part of the archive, so their source is taken in here.
 */
#include "web/access.c"
#include "web/http.c"

#include <netinet/in.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void judge(struct slice head)
{
    struct http_request request;
    struct http_refusal refusal = {0};
    uint8_t memory[HTTP_LINE_BYTES_MAX];
    struct buf decoded;
    struct access access = {0};
    struct sockaddr_storage local = {.ss_family = AF_INET6};
    CHECK(access_add(&access, "relay.office.test"));
    if (!http_request_parse(&request, head, &refusal)) {
        CHECK(http_status_words(refusal.status)[0] != '\0');
        return;
    }
    CHECK(request.method > HTTP_METHOD_HEAD || request.path.data[0] == '/');
    CHECK(!request.body_follows || !request.persistent);
    buf_init(&decoded, memory, sizeof memory);
    (void)!http_decode(&decoded, request.path, false);
    (void)!http_decode(&decoded, request.query, true);
    (void)!access_allowed(&access, request.host, &local);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice in = slice_of(data, size);
    struct http_scan whole = {0}, cut = {0};
    struct http_refusal refusal = {0}, refusal_cut = {0};
    enum http_step step = http_scan_feed(&whole, in, &refusal), step_cut = HTTP_STEP_MORE;
    for (size_t len = 1; len <= size && step_cut == HTTP_STEP_MORE; len++) {
        step_cut = http_scan_feed(&cut, slice_head(in, len), &refusal_cut);
    }
    CHECK(step == step_cut && whole.at == cut.at && whole.begin == cut.begin);
    CHECK(refusal.status == refusal_cut.status);
    if (step == HTTP_STEP_WHOLE) {
        judge(slice_of(data + whole.begin, whole.at - whole.begin));
    }
    return 0;
}
