/*
 * No MTA at all, over TLS with a login: as fast as an upstream takes mail.
 *
 *   tls_load PORT SESSIONS MESSAGES BYTES USER PASSWORD
 *
 * SESSIONS connections to 127.0.0.1:PORT: STARTTLS, AUTH PLAIN, then messages one after another
 * over each, kept open: MAIL, RCPT and BDAT LAST with the content in one flight where CHUNKING is
 * announced; otherwise MAIL, RCPT and DATA in one, the content in the next. When all have logged
 * in, the clock starts; the messages a second are printed. The certificate is not verified: the
 * handshake's cost is the same.
 */
#include "daemon/base/num.h"
#include "daemon/base/slice.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SESSIONS_MAX 64
#define BYTES_MAX    (1u << 20)
#define HEAD_BYTES   512
#define LINE_BYTES   4096
#define SECRET_MAX   512
#define SILENCE_S    60

struct load {
    uint16_t port;
    uint64_t messages, bytes;
    const char *user, *password;
    SSL_CTX *tls;
    uint8_t *content; /* .bytes of it, lines of 78 */
    pthread_barrier_t ready;
    _Atomic uint64_t begun; /* messages that a session has taken upon itself */
};

struct session {
    struct load *load;
    pthread_t thread;
    int fd;
    SSL *ssl; /* NULL: in the clear */
    bool chunking;
    size_t have, at; /* bytes of line[], and those that were read */
    char line[LINE_BYTES];
};

static void fail(const char *what, const char *said)
{
    fprintf(stderr, "tls_load: %s: %s\n", what, said);
    exit(1);
}

static void put(struct session *s, const void *data, size_t bytes)
{
    bool sent = s->ssl != NULL ? SSL_write(s->ssl, data, (int)bytes) == (int)bytes
                               : send(s->fd, data, bytes, MSG_NOSIGNAL) == (ssize_t)bytes;
    if (!sent) {
        fail("write", "the connection broke");
    }
}

/*
 * What was read is acknowledged at once: a server that writes the first replies of a flight, and
 * later the last one, without TCP_NODELAY, would wait 40 ms for that. The setting does not last.
 */
static char get(struct session *s)
{
    if (s->at == s->have) {
        ssize_t got = s->ssl != NULL ? SSL_read(s->ssl, s->line, LINE_BYTES)
                                     : recv(s->fd, s->line, LINE_BYTES, 0);
        if (got <= 0) {
            fail("read", "the connection broke, or a minute of silence");
        }
        int on = 1;
        setsockopt(s->fd, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof on);
        s->have = (size_t)got;
        s->at = 0;
    }
    return s->line[s->at++];
}

/* One whole reply, which has to begin with that digit; looks for CHUNKING on the way. */
static void expect(struct session *s, char first)
{
    char text[HEAD_BYTES];
    do {
        size_t bytes = 0;
        for (char c = get(s); c != '\n'; c = get(s)) {
            if (bytes < sizeof text - 1) {
                text[bytes++] = c;
            }
        }
        text[bytes] = '\0';
        if (bytes < 4 || text[0] != first) {
            fail("a reply that was not expected", text);
        }
        s->chunking |= strncmp(text + 4, "CHUNKING", 8) == 0;
    } while (text[3] == '-');
}

static void ask(struct session *s, const char *line, char first)
{
    put(s, line, strlen(line));
    expect(s, first);
}

static void dial(struct session *s)
{
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons(s->load->port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int on = 1;
    struct timeval silence = {.tv_sec = SILENCE_S};
    s->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (s->fd < 0 || connect(s->fd, (struct sockaddr *)&to, sizeof to) != 0) {
        fail("connect", "refused");
    }
    setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(s->fd, SOL_SOCKET, SO_RCVTIMEO, &silence, sizeof silence);
    expect(s, '2');
    ask(s, "EHLO load.test\r\n", '2');
    ask(s, "STARTTLS\r\n", '2');
    s->ssl = SSL_new(s->load->tls);
    if (s->ssl == NULL || SSL_set_fd(s->ssl, s->fd) != 1 || SSL_connect(s->ssl) != 1) {
        fail("TLS", "the handshake failed");
    }
    s->chunking = false;
    ask(s, "EHLO load.test\r\n", '2');
}

/* AUTH PLAIN with its initial response: RFC 4616. */
static void login(struct session *s)
{
    char plain[2 * SECRET_MAX + 3] = "", line[4 * SECRET_MAX];
    size_t user = strlen(s->load->user), password = strlen(s->load->password);
    memcpy(plain + 1, s->load->user, user);
    memcpy(plain + 2 + user, s->load->password, password);
    static const char verb[] = "AUTH PLAIN ";
    memcpy(line, verb, sizeof verb - 1);
    int bytes = EVP_EncodeBlock((uint8_t *)line + sizeof verb - 1, (uint8_t *)plain,
                                (int)(user + password + 2));
    memcpy(line + sizeof verb - 1 + bytes, "\r\n", 3);
    ask(s, line, '2');
}

static void message(struct session *s, uint8_t *flight)
{
    static const char envelope[] =
        "MAIL FROM:<scanner@example.test>\r\nRCPT TO:<anna@example.test>\r\n";
    uint64_t bytes = s->load->bytes;
    int head = s->chunking ? snprintf((char *)flight, HEAD_BYTES, "%sBDAT %llu LAST\r\n", envelope,
                                      (unsigned long long)bytes)
                           : snprintf((char *)flight, HEAD_BYTES, "%sDATA\r\n", envelope);
    if (s->chunking) {
        memcpy(flight + head, s->load->content, bytes);
        put(s, flight, (size_t)head + bytes);
        expect(s, '2');
        expect(s, '2');
    } else {
        put(s, flight, (size_t)head);
        expect(s, '2');
        expect(s, '2');
        expect(s, '3');
        memcpy(flight, s->load->content, bytes);
        memcpy(flight + bytes, ".\r\n", 3);
        put(s, flight, bytes + 3);
    }
    expect(s, '2');
}

static void *session_run(void *argument)
{
    struct session *s = argument;
    uint8_t *flight = malloc(s->load->bytes + HEAD_BYTES);
    if (flight == NULL) {
        fail("memory", "none");
    }
    dial(s);
    login(s);
    pthread_barrier_wait(&s->load->ready); /* all are logged in */
    pthread_barrier_wait(&s->load->ready); /* the clock runs */
    while (atomic_fetch_add(&s->load->begun, 1) < s->load->messages) {
        message(s, flight);
    }
    pthread_barrier_wait(&s->load->ready); /* all are through */
    ask(s, "QUIT\r\n", '2');
    SSL_free(s->ssl);
    close(s->fd);
    free(flight);
    return NULL;
}

/* A header and lines of 78, the last one whole. */
static uint8_t *content_make(size_t bytes)
{
    static const char head[] = "From: <scanner@example.test>\r\nTo: <anna@example.test>\r\n"
                               "Subject: page\r\n\r\n";
    uint8_t *content = malloc(bytes);
    if (content == NULL) {
        fail("memory", "none");
    }
    for (size_t at = 0; at < bytes; at++) {
        size_t column = (at - (sizeof head - 1)) % 80;
        content[at] = at < sizeof head - 1 ? (uint8_t)head[at]
                      : column == 78       ? '\r'
                      : column == 79       ? '\n'
                                           : 'X';
    }
    content[bytes - 3] = 'X';
    content[bytes - 2] = '\r';
    content[bytes - 1] = '\n';
    return content;
}

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static double run(struct load *load, struct session *sessions, unsigned count)
{
    pthread_barrier_init(&load->ready, NULL, count + 1);
    for (unsigned at = 0; at < count; at++) {
        sessions[at].load = load;
        if (pthread_create(&sessions[at].thread, NULL, session_run, &sessions[at]) != 0) {
            fail("thread", "none");
        }
    }
    pthread_barrier_wait(&load->ready);
    double began_s = now_s();
    pthread_barrier_wait(&load->ready);
    pthread_barrier_wait(&load->ready);
    double took_s = now_s() - began_s;
    for (unsigned at = 0; at < count; at++) {
        pthread_join(sessions[at].thread, NULL);
    }
    return took_s;
}

int main(int argc, char **argv)
{
    static struct session sessions[SESSIONS_MAX];
    struct load load = {0};
    uint64_t port = 0, count = 0;
    if (argc != 7 || !u64_parse(slice_from_str(argv[1]), &port) || port > 65535 ||
        !u64_parse(slice_from_str(argv[2]), &count) || count == 0 || count > SESSIONS_MAX ||
        !u64_parse(slice_from_str(argv[3]), &load.messages) ||
        !u64_parse(slice_from_str(argv[4]), &load.bytes) || load.bytes < 200 ||
        load.bytes > BYTES_MAX || strlen(argv[5]) > SECRET_MAX || strlen(argv[6]) > SECRET_MAX) {
        fprintf(stderr, "usage: tls_load PORT SESSIONS MESSAGES BYTES USER PASSWORD\n");
        return 64;
    }
    load.port = (uint16_t)port;
    load.user = argv[5];
    load.password = argv[6];
    load.content = content_make(load.bytes);
    load.tls = SSL_CTX_new(TLS_client_method());
    if (load.tls == NULL) {
        fail("TLS", "no context");
    }
    printf("%.1f\n", (double)load.messages / run(&load, sessions, (unsigned)count));
    SSL_CTX_free(load.tls);
    free(load.content);
    return 0;
}
