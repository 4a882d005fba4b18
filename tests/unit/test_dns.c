/*
 * daemon/dns against a DNS server in a thread of the test, on 127.0.0.1, UDP and TCP. What the
 * server says to which question is the table below.
 */
#include "daemon/dns/dns.h"

#include "daemon/base/num.h"
#include "daemon/dns/dns_parse.h"
#include "tests/unit/turns.h"

#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#define ROUNDS_MAX      100 /* for one answer: more would be a loop that does not wait */
#define PACKET_BYTES    65535
#define UDP_BYTES       1232
#define TYPE_A          1
#define TYPE_CNAME      5
#define TYPE_MX         15
#define TYPE_AAAA       28
#define RCODE_SERVFAIL  2
#define RCODE_NXDOMAIN  3
#define RCODE_REFUSED   5
#define TIMEOUT_MS      2000
#define LONG_TIMEOUT_MS 20000 /* never reached where all is well */

/* ---- what the server knows ---- */

enum kind {
    KIND_RECORD,
    KIND_RCODE,     /* number: the code */
    KIND_SILENT,    /* no answer at all */
    KIND_NOISE,     /* bytes that are no DNS */
    KIND_CUT,       /* a true answer's first half */
    KIND_WRONG_ID,  /* a forged answer with another id, then the true one */
    KIND_LONG_NAME, /* an answer whose names point at themselves */
    KIND_MANY,      /* number of records, made up: 10.x.y.z, or mN.many-hosts.test */
};

struct row {
    const char *name;
    uint16_t type; /* 0: any */
    enum kind kind;
    const char *data; /* address or host */
    uint16_t number;  /* MX preference, rcode, count */
    uint32_t ttl_s;
};

static const struct row rows[] = {
    {"one.test", TYPE_A, KIND_RECORD, "192.0.2.1", 0, 300},
    {"six.test", TYPE_AAAA, KIND_RECORD, "2001:db8::6", 0, 200},
    {"both.test", TYPE_A, KIND_RECORD, "192.0.2.2", 0, 100},
    {"both.test", TYPE_AAAA, KIND_RECORD, "2001:db8::2", 0, 50},
    {"alias.test", 0, KIND_RECORD, "one.test", TYPE_CNAME, 40},
    {"loop-a.test", 0, KIND_RECORD, "loop-b.test", TYPE_CNAME, 40},
    {"loop-b.test", 0, KIND_RECORD, "loop-a.test", TYPE_CNAME, 40},
    {"empty.test", TYPE_MX + 1000, KIND_RECORD, "", 0, 0}, /* exists, and has nothing asked for */
    {"many.test", TYPE_A, KIND_MANY, "", 1000, 60},
    {"twice.test", TYPE_A, KIND_RECORD, "192.0.2.9", 0, 60},
    {"twice.test", TYPE_A, KIND_RECORD, "192.0.2.9", 0, 60},
    {"servfail.test", 0, KIND_RCODE, "", RCODE_SERVFAIL, 0},
    {"refused.test", 0, KIND_RCODE, "", RCODE_REFUSED, 0},
    {"silent.test", 0, KIND_SILENT, "", 0, 0},
    {"noise.test", 0, KIND_NOISE, "", 0, 0},
    {"cut.test", 0, KIND_CUT, "192.0.2.3", 0, 0},
    {"pointers.test", 0, KIND_LONG_NAME, "", 0, 0},
    {"forged.test", TYPE_A, KIND_WRONG_ID, "192.0.2.4", 0, 60},
    {"half.test", TYPE_A, KIND_RECORD, "192.0.2.5", 0, 60},
    {"half.test", TYPE_AAAA, KIND_SILENT, "", 0, 0},
    {"loopback.test", TYPE_A, KIND_RECORD, "127.0.0.1", 0, 60},
    {"printer.search.test", TYPE_A, KIND_RECORD, "192.0.2.30", 0, 60},
    {"nothing.mail.test.search.test", TYPE_A, KIND_RECORD, "203.0.113.67", 0, 60},
    /* MX */
    {"mail.test", TYPE_MX, KIND_RECORD, "mx2.mail.test", 20, 500},
    {"mail.test", TYPE_MX, KIND_RECORD, "mx1.mail.test", 10, 30},
    {"mail.test", TYPE_MX, KIND_RECORD, "mx3.mail.test", 30, 500},
    {"mx1.mail.test", TYPE_A, KIND_RECORD, "192.0.2.11", 0, 600},
    {"mx2.mail.test", TYPE_A, KIND_RECORD, "192.0.2.12", 0, 600},
    {"mx2.mail.test", TYPE_A, KIND_RECORD, "192.0.2.13", 0, 600},
    {"mx3.mail.test", TYPE_A, KIND_RECORD, "192.0.2.14", 0, 600},
    {"equal.test", TYPE_MX, KIND_RECORD, "mx1.mail.test", 10, 60},
    {"equal.test", TYPE_MX, KIND_RECORD, "mx3.mail.test", 10, 60},
    {"same.test", TYPE_MX, KIND_RECORD, "one.test", 10, 60},
    {"same.test", TYPE_MX, KIND_RECORD, "alias.test", 20, 60},
    {"null.test", TYPE_MX, KIND_RECORD, "", 0, 60},
    {"null.test", TYPE_A, KIND_RECORD, "192.0.2.20", 0, 60},
    {"null-and-more.test", TYPE_MX, KIND_RECORD, "", 0, 60},
    {"null-and-more.test", TYPE_MX, KIND_RECORD, "mx1.mail.test", 10, 60},
    {"no-mx.test", TYPE_A, KIND_RECORD, "192.0.2.21", 0, 60},
    {"mx-servfail.test", TYPE_MX, KIND_RCODE, "", RCODE_SERVFAIL, 0},
    {"mx-servfail.test", TYPE_A, KIND_RECORD, "192.0.2.22", 0, 60},
    {"mx-nowhere.test", TYPE_MX, KIND_RECORD, "nothing.mail.test", 10, 60},
    {"mx-empty.test", TYPE_MX, KIND_RECORD, "empty.test", 10, 60},
    {"mx-part.test", TYPE_MX, KIND_RECORD, "nothing.mail.test", 5, 60},
    {"mx-part.test", TYPE_MX, KIND_RECORD, "mx1.mail.test", 10, 60},
    {"mx-fails.test", TYPE_MX, KIND_RECORD, "nothing.mail.test", 5, 60},
    {"mx-fails.test", TYPE_MX, KIND_RECORD, "servfail.test", 10, 60},
    {"mx-slow.test", TYPE_MX, KIND_RECORD, "silent.test", 5, 60},
    {"mx-slow.test", TYPE_MX, KIND_RECORD, "mx1.mail.test", 10, 60},
    {"mx-many.test", TYPE_MX, KIND_MANY, "", 1000, 60},
    {"mx-alias.test", TYPE_MX, KIND_RECORD, "alias.test", 10, 60},
};
#define ROW_COUNT (sizeof rows / sizeof rows[0])

/* ---- the server ---- */

struct server {
    int udp;
    int tcp;
    int stop[2];
    uint16_t port;
    pthread_t thread;
    atomic_uint questions;
};

static struct server server;

struct packet {
    size_t len;
    uint8_t bytes[PACKET_BYTES];
};

static void put_bytes(struct packet *p, const void *bytes, size_t len)
{
    if (len > sizeof p->bytes - p->len) {
        abort();
    }
    memcpy(p->bytes + p->len, bytes, len);
    p->len += len;
}

static void put_16(struct packet *p, uint16_t value)
{
    uint8_t bytes[2];
    be16_put(bytes, value);
    put_bytes(p, bytes, sizeof bytes);
}

static void put_32(struct packet *p, uint32_t value)
{
    uint8_t bytes[4];
    be32_put(bytes, value);
    put_bytes(p, bytes, sizeof bytes);
}

static void put_name(struct packet *p, const char *name)
{
    while (*name != '\0') {
        size_t len = strcspn(name, ".");
        uint8_t label = (uint8_t)len;
        put_bytes(p, &label, 1);
        put_bytes(p, name, len);
        name += len + (name[len] == '.');
    }
    put_bytes(p, "", 1); /* the root */
}

static void put_record(struct packet *p, const char *owner, uint16_t type, uint32_t ttl_s,
                       uint16_t number, const char *data)
{
    put_name(p, owner);
    put_16(p, type);
    put_16(p, 1);
    put_32(p, ttl_s);
    size_t length_at = p->len;
    put_16(p, 0);
    uint8_t address[16];
    if (type == TYPE_A && inet_pton(AF_INET, data, address) == 1) {
        put_bytes(p, address, 4);
    } else if (type == TYPE_AAAA && inet_pton(AF_INET6, data, address) == 1) {
        put_bytes(p, address, 16);
    } else {
        if (type == TYPE_MX) {
            put_16(p, number);
        }
        put_name(p, data);
    }
    be16_put(p->bytes + length_at, (uint16_t)(p->len - length_at - 2));
    be16_put(p->bytes + 6, (uint16_t)(be16_get(p->bytes + 6) + 1));
}

static void put_many(struct packet *p, const struct row *row)
{
    char data[64];
    for (unsigned index = 0; index < row->number; index++) {
        if (row->type == TYPE_A) {
            (void)snprintf(data, sizeof data, "10.0.%u.%u", index / 256, index % 256);
        } else {
            (void)snprintf(data, sizeof data, "m%u.many-hosts.test", index);
        }
        put_record(p, row->name, row->type, row->ttl_s, (uint16_t)(5000 - index), data);
    }
}

/* All records of that name and type. Returns what it is an alias for, or NULL. */
static const char *put_records(struct packet *p, const char *name, uint16_t type)
{
    const char *alias = NULL;
    for (const struct row *row = rows; row < rows + ROW_COUNT; row++) {
        if (strcasecmp(row->name, name) != 0) {
            continue;
        }
        if (row->number == TYPE_CNAME && row->type == 0) {
            put_record(p, name, TYPE_CNAME, row->ttl_s, 0, row->data);
            alias = row->data;
        } else if (row->kind == KIND_MANY && row->type == type) {
            put_many(p, row);
        } else if (row->type == type) {
            put_record(p, name, type, row->ttl_s, row->number, row->data);
        }
    }
    return alias;
}

static void put_answers(struct packet *p, const char *name, uint16_t type)
{
    char data[32];
    unsigned number;
    if (sscanf(name, "m%u.many-hosts.test", &number) == 1) {
        if (type == TYPE_A) {
            (void)snprintf(data, sizeof data, "10.1.%u.%u", number / 256, number % 256);
            put_record(p, name, TYPE_A, 60, 0, data);
        }
        return;
    }
    for (int step = 0; step < 8 && name != NULL; step++) {
        name = put_records(p, name, type);
    }
}

/* The row that decides how a question is answered: of its type, or of any; NULL: no such name. */
static const struct row *row_for(const char *name, uint16_t type)
{
    const struct row *known = NULL;
    for (const struct row *row = rows; row < rows + ROW_COUNT; row++) {
        if (strcasecmp(row->name, name) == 0) {
            if (row->type == type || row->type == 0) {
                return row;
            }
            known = row;
        }
    }
    return known;
}

struct question {
    uint16_t id;
    uint16_t type;
    size_t end; /* of the question section */
    char name[256];
};

static bool question_parse(const struct packet *in, struct question *q)
{
    size_t at = 12;
    size_t len = 0;
    if (in->len < 17 || be16_get(in->bytes + 4) != 1) {
        return false;
    }
    q->id = be16_get(in->bytes);
    while (at < in->len && in->bytes[at] != 0) {
        size_t label = in->bytes[at++];
        if (label > 63 || at + label + 5 > in->len || len + label + 2 > sizeof q->name) {
            return false;
        }
        memcpy(q->name + len, in->bytes + at, label);
        len += label;
        at += label;
        q->name[len++] = '.';
    }
    q->name[len == 0 ? 0 : len - 1] = '\0';
    q->type = be16_get(in->bytes + at + 1);
    q->end = at + 5;
    return true;
}

static void answer_begin(struct packet *out, const struct packet *in, const struct question *q,
                         uint16_t rcode)
{
    out->len = 0;
    put_16(out, q->id);
    put_16(out,
           (uint16_t)(0x8580 | rcode)); /* response, authoritative, recursion wanted and there */
    put_16(out, 1);
    put_16(out, 0);
    put_16(out, 0);
    put_16(out, 0);
    put_bytes(out, in->bytes + 12, q->end - 12);
}

/* False: say nothing. */
static bool answer(struct packet *out, const struct packet *in, const struct question *q)
{
    const struct row *row = row_for(q->name, q->type);
    bool many = strstr(q->name, ".many-hosts.test") != NULL;
    enum kind kind = many ? KIND_RECORD : row == NULL ? KIND_RCODE : row->kind;
    bool own = row != NULL && (row->type == q->type || row->type == 0);
    if (!own && row != NULL) {
        kind = KIND_RECORD; /* another type's behaviour is not this one's */
    }
    answer_begin(out, in, q, kind != KIND_RCODE ? 0 : row == NULL ? RCODE_NXDOMAIN : row->number);
    switch (kind) {
    case KIND_SILENT:
        return false;
    case KIND_NOISE:
        memset(out->bytes + 2, 0xa7, 40);
        out->len = 42;
        return true;
    case KIND_CUT:
        put_record(out, q->name, TYPE_A, 60, 0, "192.0.2.3");
        out->len -= 9;
        return true;
    case KIND_LONG_NAME:
        be16_put(out->bytes + 6, 1);
        put_16(out, (uint16_t)(0xc000 | out->len)); /* a pointer to itself */
        put_16(out, q->type);
        put_16(out, 1);
        put_32(out, 60);
        put_16(out, 4);
        put_32(out, 0xc0000201);
        return true;
    case KIND_RECORD:
    case KIND_MANY:
    case KIND_WRONG_ID:
        put_answers(out, q->name, q->type);
        return true;
    case KIND_RCODE:
    default:
        return true;
    }
}

static void serve_udp(void)
{
    static struct packet in;
    static struct packet out;
    struct sockaddr_in from;
    socklen_t from_len = sizeof from;
    struct question q;
    ssize_t count =
        recvfrom(server.udp, in.bytes, sizeof in.bytes, 0, (struct sockaddr *)&from, &from_len);
    in.len = count > 0 ? (size_t)count : 0;
    if (count <= 0 || !question_parse(&in, &q)) {
        return;
    }
    atomic_fetch_add(&server.questions, 1);
    if (!answer(&out, &in, &q)) {
        return;
    }
    const struct row *row = row_for(q.name, q.type);
    if (row != NULL && row->kind == KIND_WRONG_ID && row->type == q.type) {
        struct packet *forged = calloc(1, sizeof *forged);
        struct question other = q;
        if (forged == NULL) {
            abort();
        }
        other.id ^= 0x5555;
        answer_begin(forged, &in, &other, 0);
        put_record(forged, q.name, TYPE_A, 60, 0, "203.0.113.66");
        (void)!sendto(server.udp, forged->bytes, forged->len, 0, (struct sockaddr *)&from,
                      from_len);
        free(forged);
    }
    if (out.len > UDP_BYTES) {
        out.bytes[2] |= 0x02; /* truncated: ask again over TCP */
        be16_put(out.bytes + 6, 0);
        out.len = q.end;
    }
    (void)!sendto(server.udp, out.bytes, out.len, 0, (struct sockaddr *)&from, from_len);
}

static bool read_whole(int fd, uint8_t *to, size_t len)
{
    while (len > 0) {
        ssize_t count = read(fd, to, len);
        if (count <= 0) {
            return false;
        }
        to += count;
        len -= (size_t)count;
    }
    return true;
}

/* One connection at a time, one question each. */
static void serve_tcp(void)
{
    static struct packet in;
    static struct packet out;
    struct question q;
    uint8_t length[2];
    int fd = accept4(server.tcp, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0) {
        return;
    }
    struct timeval patience = {.tv_sec = 1};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (read_whole(fd, length, 2)) {
        in.len = be16_get(length);
        if (read_whole(fd, in.bytes, in.len) && question_parse(&in, &q) && answer(&out, &in, &q)) {
            be16_put(length, (uint16_t)out.len);
            (void)!write(fd, length, 2);
            (void)!write(fd, out.bytes, out.len);
        }
    }
    close(fd);
}

static void *server_main(void *unused)
{
    (void)unused;
    for (;;) {
        struct pollfd fds[] = {
            {server.stop[0], POLLIN, 0}, {server.udp, POLLIN, 0}, {server.tcp, POLLIN, 0}};
        if (poll(fds, 3, -1) < 0) {
            continue;
        }
        if (fds[0].revents != 0) {
            return NULL;
        }
        if (fds[1].revents != 0) {
            serve_udp();
        }
        if (fds[2].revents != 0) {
            serve_tcp();
        }
    }
}

/* The same port for both; another one when TCP's is taken. */
static void server_bind(void)
{
    for (int attempt = 0; attempt < 50; attempt++) {
        struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        socklen_t len = sizeof at;
        server.udp = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        server.tcp = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(bind(server.udp, (struct sockaddr *)&at, sizeof at), 0);
        assert_int_equal(getsockname(server.udp, (struct sockaddr *)&at, &len), 0);
        int room = 1 << 20; /* many questions at once, and none lost */
        setsockopt(server.udp, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
        if (bind(server.tcp, (struct sockaddr *)&at, sizeof at) == 0 &&
            listen(server.tcp, 16) == 0) {
            server.port = ntohs(at.sin_port);
            return;
        }
        close(server.udp);
        close(server.tcp);
    }
    fail_msg("no port that is free for UDP and TCP");
}

static int setup(void **state)
{
    (void)state;
    setenv("LOCALDOMAIN", "search.test", 1); /* the search list of resolv.conf */
    server_bind();
    assert_int_equal(pipe(server.stop), 0);
    assert_int_equal(pthread_create(&server.thread, NULL, server_main, NULL), 0);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    assert_int_equal(write(server.stop[1], "x", 1), 1);
    assert_int_equal(pthread_join(server.thread, NULL), 0);
    close(server.stop[0]);
    close(server.stop[1]);
    close(server.udp);
    close(server.tcp);
    return 0;
}

/* ---- asking it ---- */

struct result {
    unsigned calls;
    struct dns_answer answer;
};

static void take(void *ctx, const struct dns_answer *answer)
{
    struct result *result = ctx;
    result->calls++;
    result->answer = *answer;
}

static struct dns *dns_open(uint32_t timeout_ms)
{
    char servers[64];
    struct dns *dns = NULL;
    (void)snprintf(servers, sizeof servers, "127.0.0.1:%u", server.port);
    struct dns_config config = {servers, timeout_ms};
    assert_int_equal(dns_new(&dns, &config), ERR_OK);
    return dns;
}

static void run_until(struct dns *dns, const unsigned *calls, unsigned wanted)
{
    for (int round = 0; round < ROUNDS_MAX && *calls < wanted; round++) {
        assert_false(dns_process(dns, -1, 1000));
    }
    assert_int_equal(*calls, wanted);
}

static struct result ask(struct dns *dns, const char *host, bool use_mx)
{
    struct result result = {0};
    dns_lookup(dns, host, 587, use_mx, take, &result);
    run_until(dns, &result.calls, 1);
    return result;
}

/* "address@host address@host ..." */
static void list(const struct dns_answer *a, char *to, size_t cap)
{
    size_t len = 0;
    to[0] = '\0';
    assert_true(a->count <= DNS_ADDRESSES_MAX);
    for (uint32_t index = 0; index < a->count; index++) {
        char text[INET6_ADDRSTRLEN];
        const struct sockaddr_storage *s = &a->addresses[index].address;
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)s;
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)s;
        bool is_v4 = s->ss_family == AF_INET;
        assert_true(is_v4 || s->ss_family == AF_INET6);
        assert_int_equal(a->addresses[index].len, is_v4 ? sizeof *v4 : sizeof *v6);
        assert_int_equal(ntohs(is_v4 ? v4->sin_port : v6->sin6_port), 587);
        assert_non_null(inet_ntop(
            s->ss_family, is_v4 ? (const void *)&v4->sin_addr : &v6->sin6_addr, text, sizeof text));
        len += (size_t)snprintf(to + len, cap - len, "%s%s@%s", index == 0 ? "" : " ", text,
                                a->addresses[index].host);
        assert_true(len < cap);
    }
}

static void test_answers(void **state)
{
    (void)state;
    static const struct {
        const char *host;
        bool use_mx;
        enum outcome outcome;
        const char *wanted; /* the list, or words of the text */
        uint32_t ttl_s;
    } cases[] = {
        {"one.test", false, OUTCOME_DELIVERED, "192.0.2.1@one.test", 300},
        {"one.test.", false, OUTCOME_DELIVERED, "192.0.2.1@one.test", 300},
        {"ONE.test", false, OUTCOME_DELIVERED, "192.0.2.1@ONE.test", 300},
        {"six.test", false, OUTCOME_DELIVERED, "2001:db8::6@six.test", 200},
        {"alias.test", false, OUTCOME_DELIVERED, "192.0.2.1@alias.test", 40},
        {"twice.test", false, OUTCOME_DELIVERED, "192.0.2.9@twice.test", 60},
        {"forged.test", false, OUTCOME_DELIVERED, "192.0.2.4@forged.test", 60},
        {"loopback.test", false, OUTCOME_DELIVERED, "127.0.0.1@loopback.test", 60},
        {"printer", false, OUTCOME_DELIVERED, "192.0.2.30@printer", 60},
        {"printer", true, OUTCOME_DELIVERED, "192.0.2.30@printer", 60},
        {"nobody.test", false, OUTCOME_NAME_NOT_FOUND, "nobody.test does not exist", 0},
        {"empty.test", false, OUTCOME_NAME_NOT_FOUND, "empty.test has no address", 0},
        {"servfail.test", false, OUTCOME_DNS_FAILED, "cannot be looked up", 0},
        {"refused.test", false, OUTCOME_DNS_FAILED, "cannot be looked up", 0},
        {"mail.test", true, OUTCOME_DELIVERED,
         "192.0.2.11@mx1.mail.test 192.0.2.12@mx2.mail.test 192.0.2.13@mx2.mail.test "
         "192.0.2.14@mx3.mail.test",
         30},
        {"mail.test", false, OUTCOME_NAME_NOT_FOUND, "mail.test has no address", 0},
        {"same.test", true, OUTCOME_DELIVERED, "192.0.2.1@one.test", 40},
        {"mx-alias.test", true, OUTCOME_DELIVERED, "192.0.2.1@alias.test", 40},
        {"null.test", true, OUTCOME_NAME_NOT_FOUND, "null.test takes no mail", 0},
        {"null.test", false, OUTCOME_DELIVERED, "192.0.2.20@null.test", 60},
        {"null-and-more.test", true, OUTCOME_DELIVERED, "192.0.2.11@mx1.mail.test", 60},
        {"no-mx.test", true, OUTCOME_DELIVERED, "192.0.2.21@no-mx.test", 60},
        {"nobody.test", true, OUTCOME_NAME_NOT_FOUND, "nobody.test does not exist", 0},
        {"mx-servfail.test", true, OUTCOME_DNS_FAILED, "cannot be looked up", 0},
        {"mx-nowhere.test", true, OUTCOME_NAME_NOT_FOUND, "they do not exist", 0},
        {"mx-empty.test", true, OUTCOME_NAME_NOT_FOUND, "MX hosts without an address", 0},
        {"mx-part.test", true, OUTCOME_DELIVERED, "192.0.2.11@mx1.mail.test", 60},
        {"mx-fails.test", true, OUTCOME_DNS_FAILED, "cannot be looked up", 0},
    };
    struct dns *dns = dns_open(LONG_TIMEOUT_MS);
    for (size_t index = 0; index < sizeof cases / sizeof cases[0]; index++) {
        char got[4096];
        struct result result = ask(dns, cases[index].host, cases[index].use_mx);
        list(&result.answer, got, sizeof got);
        bool found = cases[index].outcome == OUTCOME_DELIVERED;
        bool right = found ? strcmp(got, cases[index].wanted) == 0
                           : strstr(result.answer.text, cases[index].wanted) != NULL && !got[0];
        if (!right || result.answer.outcome != cases[index].outcome ||
            (found && result.answer.ttl_s != cases[index].ttl_s)) {
            fail_msg("%s: %s, \"%s\", \"%s\", %u s", cases[index].host,
                     outcome_row(result.answer.outcome)->word, got, result.answer.text,
                     result.answer.ttl_s);
        }
    }
    dns_free(&dns);
    assert_null(dns);
    dns_free(&dns);
}

/* Which family comes first is this box's routes' to say (RFC 6724); both are there. */
static void test_both_families(void **state)
{
    (void)state;
    char got[4096];
    struct dns *dns = dns_open(LONG_TIMEOUT_MS);
    struct result result = ask(dns, "both.test", false);
    list(&result.answer, got, sizeof got);
    assert_int_equal(result.answer.count, 2);
    assert_non_null(strstr(got, "192.0.2.2@both.test"));
    assert_non_null(strstr(got, "2001:db8::2@both.test"));
    assert_int_equal(result.answer.ttl_s, 50);
    dns_free(&dns);
}

static void test_literals_ask_nobody(void **state)
{
    (void)state;
    static const struct {
        const char *host;
        const char *wanted;
    } cases[] = {
        {"192.0.2.77", "192.0.2.77@192.0.2.77"},
        {"[192.0.2.77]", "192.0.2.77@192.0.2.77"},
        {"2001:db8::77", "2001:db8::77@2001:db8::77"},
        {"[2001:DB8::77]", "2001:db8::77@2001:DB8::77"},
        {"fe80::1%1", "fe80::1@fe80::1%1"},
        {"::1", "::1@::1"},
    };
    struct dns *dns = dns_open(LONG_TIMEOUT_MS);
    unsigned before = atomic_load(&server.questions);
    for (size_t index = 0; index < 2 * (sizeof cases / sizeof cases[0]); index++) {
        char got[4096];
        struct result result = {0};
        dns_lookup(dns, cases[index / 2].host, 587, index % 2 == 1, take, &result);
        assert_int_equal(result.calls, 1);
        assert_int_equal(result.answer.outcome, OUTCOME_DELIVERED);
        list(&result.answer, got, sizeof got);
        assert_string_equal(got, cases[index / 2].wanted);
    }
    assert_int_equal(atomic_load(&server.questions), before);
    dns_free(&dns);
}

/* In the hosts file of every box; with and without MX, nobody is asked. */
static void test_localhost(void **state)
{
    (void)state;
    struct dns *dns = dns_open(LONG_TIMEOUT_MS);
    unsigned before = atomic_load(&server.questions);
    for (int index = 0; index < 2; index++) {
        char got[4096];
        struct result result = ask(dns, "localhost", index == 1);
        list(&result.answer, got, sizeof got);
        assert_int_equal(result.answer.outcome, OUTCOME_DELIVERED);
        assert_true(strstr(got, "127.0.0.1@localhost") != NULL ||
                    strstr(got, "::1@localhost") != NULL);
    }
    assert_int_equal(atomic_load(&server.questions), before);
    dns_free(&dns);
}

static void test_no_host_names(void **state)
{
    (void)state;
    char longest[400];
    memset(longest, 'a', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    const char *const names[] = {"",         ".",     "a b.test", "caf\xc3\xa9.test",
                                 "a\n.test", ".test", longest};
    struct dns *dns = dns_open(LONG_TIMEOUT_MS);
    unsigned before = atomic_load(&server.questions);
    for (size_t index = 0; index < sizeof names / sizeof names[0]; index++) {
        struct result result = {0};
        dns_lookup(dns, names[index], 587, true, take, &result);
        assert_int_equal(result.calls, 1);
        assert_int_equal(result.answer.outcome, OUTCOME_NAME_NOT_FOUND);
        assert_non_null(strstr(result.answer.text, "not a host name"));
    }
    /* Forms of an address that only inet_aton would take are names, and unknown ones. */
    static const char *const guesses[] = {"127.1", "0x7f.0.0.1", "0300.0.2.1", "2130706433"};
    for (size_t index = 0; index < sizeof guesses / sizeof guesses[0]; index++) {
        struct result result = ask(dns, guesses[index], false);
        assert_int_equal(result.answer.outcome, OUTCOME_NAME_NOT_FOUND);
    }
    assert_true(atomic_load(&server.questions) >= before);
    dns_free(&dns);
}

/* A thousand addresses, over TCP: the first sixteen. A thousand MX: the best sixteen. */
static void test_many(void **state)
{
    (void)state;
    struct dns *dns = dns_open(LONG_TIMEOUT_MS);
    struct result result = ask(dns, "many.test", false);
    assert_int_equal(result.answer.outcome, OUTCOME_DELIVERED);
    assert_int_equal(result.answer.count, DNS_ADDRESSES_MAX);
    result = ask(dns, "mx-many.test", true);
    assert_int_equal(result.answer.outcome, OUTCOME_DELIVERED);
    assert_int_equal(result.answer.count, DNS_ADDRESSES_MAX);
    for (unsigned index = 0; index < DNS_ADDRESSES_MAX; index++) {
        char wanted[64];
        (void)snprintf(wanted, sizeof wanted, "m%u.many-hosts.test", 999 - index);
        assert_string_equal(result.answer.addresses[index].host, wanted);
    }
    dns_free(&dns);
}

/* Of two equal ones, each comes first now and then: 2 * 2^-60 that a fair draw fails here. */
static void test_equal_preferences(void **state)
{
    (void)state;
    unsigned first = 0;
    struct dns *dns = dns_open(LONG_TIMEOUT_MS);
    for (int round = 0; round < 60; round++) {
        struct result result = ask(dns, "equal.test", true);
        assert_int_equal(result.answer.count, 2);
        first += strcmp(result.answer.addresses[0].host, "mx1.mail.test") == 0;
        assert_string_not_equal(result.answer.addresses[0].host, result.answer.addresses[1].host);
    }
    assert_true(first > 0 && first < 60);
    dns_free(&dns);
}

/* Nonsense and silence end at the deadline at the latest, with DNS_FAILED or no address, and say so
 * once. */
static void test_hostile(void **state)
{
    (void)state;
    static const char *const hosts[] = {"silent.test",   "noise.test",  "cut.test",
                                        "pointers.test", "loop-a.test", "loop-b.test"};
    for (size_t index = 0; index < 2 * (sizeof hosts / sizeof hosts[0]); index++) {
        struct dns *dns = dns_open((uint32_t)turns(100, 40));
        struct result result = ask(dns, hosts[index / 2], index % 2 == 1);
        assert_int_equal(result.answer.count, 0);
        if (index / 2 < 4) {
            assert_int_equal(result.answer.outcome, OUTCOME_DNS_FAILED);
        } else {
            assert_int_not_equal(result.answer.outcome, OUTCOME_DELIVERED);
        }
        assert_true(strlen(result.answer.text) > strlen(hosts[index / 2]));
        /* Whatever is still out says no more. */
        for (size_t round = 0; round < turns(6, 2); round++) {
            (void)dns_process(dns, -1, 20);
        }
        assert_int_equal(result.calls, 1);
        dns_free(&dns);
        assert_int_equal(result.calls, 1);
    }
}

static void test_timeout_words(void **state)
{
    (void)state;
    struct dns *dns = dns_open(200);
    struct result result = ask(dns, "silent.test", false);
    assert_non_null(strstr(result.answer.text, "does not answer"));
    dns_free(&dns);
    /* Nobody listens there: port 1 of the loopback. */
    struct dns_config config = {"127.0.0.1:1", 500};
    assert_int_equal(dns_new(&dns, &config), ERR_OK);
    result = ask(dns, "one.test", true);
    assert_int_equal(result.answer.outcome, OUTCOME_DNS_FAILED);
    dns_free(&dns);
}

/* A server that swallows AAAA does not cost the A; a silent MX host does not cost the others. */
static void test_half_silent(void **state)
{
    (void)state;
    char got[4096];
    struct dns *dns = dns_open(TIMEOUT_MS);
    struct result half = {0};
    struct result slow = {0};
    dns_lookup(dns, "half.test", 587, false, take, &half);
    dns_lookup(dns, "mx-slow.test", 587, true, take, &slow);
    run_until(dns, &half.calls, 1);
    run_until(dns, &slow.calls, 1);
    list(&half.answer, got, sizeof got);
    assert_string_equal(got, "192.0.2.5@half.test");
    list(&slow.answer, got, sizeof got);
    assert_string_equal(got, "192.0.2.11@mx1.mail.test");
    dns_free(&dns);
}

static void test_no_literals(void **state)
{
    (void)state;
    static const char *const cases[] = {"",
                                        "[]",
                                        "[",
                                        "1.2.3",
                                        "1.2.3.4.5",
                                        "01.2.3.4",
                                        "1.2.3.256",
                                        "1.2.3.4 ",
                                        "0x1.2.3.4",
                                        "fe80::1%",
                                        "fe80::1%no-such-link",
                                        "::g",
                                        "[1.2.3.4",
                                        "1.2.3.4]",
                                        "IPv6:::1",
                                        "fe80::1%0",
                                        "1.2.3.4%1"};
    for (size_t index = 0; index < sizeof cases / sizeof cases[0]; index++) {
        union dns_place place = {.family = 4711};
        if (dns_literal_parse(cases[index], &place) || place.family != 4711) {
            fail_msg("taken: %s", cases[index]);
        }
    }
}

/* Two records, TTL 500 and 30; the packet cut everywhere, in memory of its own size. */
static void test_packet_ttl(void **state)
{
    (void)state;
    static struct packet whole;
    static const uint8_t header[12] = {0, 1, 0x85, 0x80, 0, 1};
    put_bytes(&whole, header, sizeof header);
    put_name(&whole, "mail.test");
    put_16(&whole, TYPE_MX);
    put_16(&whole, 1);
    size_t first_data = whole.len + strlen("mail.test") + 2 + 10;
    put_record(&whole, "mail.test", TYPE_MX, 500, 10, "mx1.mail.test");
    size_t second_data = whole.len + strlen("mail.test") + 2 + 10;
    put_record(&whole, "mail.test", TYPE_MX, 30, 20, "mx2.mail.test");
    for (size_t cut = 0; cut <= whole.len; cut++) {
        uint8_t *bytes = malloc(cut == 0 ? 1 : cut);
        assert_non_null(bytes);
        memcpy(bytes, whole.bytes, cut);
        uint32_t expected = cut < sizeof header ? 0
                            : cut < first_data  ? DNS_TTL_S_MAX
                            : cut < second_data ? 500
                                                : 30;
        assert_int_equal(dns_packet_ttl_s(slice_of(bytes, cut)), expected);
        free(bytes);
    }
}

/* ---- many at once, stopping, waiting ---- */

static void test_many_lookups_at_once(void **state)
{
    (void)state;
    enum { LOOKUPS_MAX = 200 };
    const size_t lookups = turns(LOOKUPS_MAX, 16);
    static struct result results[LOOKUPS_MAX];
    memset(results, 0, sizeof results);
    struct dns *dns = dns_open(LONG_TIMEOUT_MS);
    for (size_t index = 0; index < lookups; index++) {
        dns_lookup(dns, index % 2 == 0 ? "mail.test" : "one.test", 587, index % 2 == 0, take,
                   &results[index]);
    }
    for (size_t index = 0; index < lookups; index++) {
        run_until(dns, &results[index].calls, 1);
        assert_int_equal(results[index].answer.outcome, OUTCOME_DELIVERED);
        assert_int_equal(results[index].answer.count, index % 2 == 0 ? 4 : 1);
    }
    dns_free(&dns);
}

static void test_free_answers_what_is_out(void **state)
{
    (void)state;
    struct dns *dns = dns_open(LONG_TIMEOUT_MS);
    struct result results[4] = {0};
    static const char *const hosts[] = {"silent.test", "mx-slow.test", "silent.test", "mail.test"};
    for (size_t index = 0; index < 4; index++) {
        dns_lookup(dns, hosts[index], 587, index % 2 == 1, take, &results[index]);
        assert_int_equal(results[index].calls, 0);
    }
    dns_free(&dns);
    for (size_t index = 0; index < 4; index++) {
        assert_int_equal(results[index].calls, 1);
        assert_int_equal(results[index].answer.outcome, OUTCOME_DNS_FAILED);
        assert_non_null(strstr(results[index].answer.text, "stopping"));
    }
}

struct chain {
    struct dns *dns;
    unsigned left;
    unsigned calls;
};

/* Asks again from inside the answer. */
static void take_and_ask(void *ctx, const struct dns_answer *answer)
{
    static const char *const hosts[] = {"one.test", "192.0.2.1", "localhost", "mail.test"};
    struct chain *chain = ctx;
    assert_int_equal(answer->outcome, OUTCOME_DELIVERED);
    chain->calls++;
    if (chain->left > 0) {
        chain->left--;
        dns_lookup(chain->dns, hosts[chain->left % 4], 587, chain->left % 4 == 3, take_and_ask,
                   chain);
    }
}

static void test_ask_from_answer(void **state)
{
    (void)state;
    struct chain chain = {.dns = dns_open(LONG_TIMEOUT_MS), .left = 40};
    dns_lookup(chain.dns, "one.test", 587, false, take_and_ask, &chain);
    run_until(chain.dns, &chain.calls, 41);
    dns_free(&chain.dns);
}

static void test_extra_fd(void **state)
{
    (void)state;
    struct dns *dns = dns_open(LONG_TIMEOUT_MS);
    int ends[2];
    char byte;
    assert_int_equal(pipe(ends), 0);
    assert_false(dns_process(dns, ends[0], 0));
    assert_int_equal(write(ends[1], "x", 1), 1);
    assert_true(dns_process(dns, ends[0], -1));
    assert_true(dns_process(dns, ends[0], 0)); /* it was not read */
    assert_int_equal(read(ends[0], &byte, 1), 1);
    assert_false(dns_process(dns, ends[0], 0));
    close(ends[0]);
    close(ends[1]);
    dns_free(&dns);
}

static void test_bad_configuration(void **state)
{
    (void)state;
    struct dns *dns = NULL;
    struct dns_config config = {"not an address", 1000};
    assert_int_equal(dns_new(&dns, &config), ERR_SYNTAX);
    assert_null(dns);
    /* The system's own: made, and good for what needs no server. */
    config.servers = "";
    assert_int_equal(dns_new(&dns, &config), ERR_OK);
    struct result result = ask(dns, "192.0.2.1", true);
    assert_int_equal(result.answer.outcome, OUTCOME_DELIVERED);
    dns_free(&dns);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_both_families),
        cmocka_unit_test(test_literals_ask_nobody),
        cmocka_unit_test(test_localhost),
        cmocka_unit_test(test_no_host_names),
        cmocka_unit_test(test_many),
        cmocka_unit_test(test_equal_preferences),
        cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_timeout_words),
        cmocka_unit_test(test_half_silent),
        cmocka_unit_test(test_no_literals),
        cmocka_unit_test(test_packet_ttl),
        cmocka_unit_test(test_many_lookups_at_once),
        cmocka_unit_test(test_free_answers_what_is_out),
        cmocka_unit_test(test_ask_from_answer),
        cmocka_unit_test(test_extra_fd),
        cmocka_unit_test(test_bad_configuration),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
