/*
 * daemon/flow/mailbox: nothing is lost, nothing comes twice, each sender's order is kept, and the
 * receiver that sleeps on the bell wakes up. The threads run as they like; run it under tsan too.
 */
#include "daemon/flow/mailbox.h"
#include "tests/unit/turns.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#define SENDERS         8
#define MESSAGES        turns(200000, 100) /* of each sender */
#define BELL_MS_MAX     60000              /* a bell that does not ring in a minute is lost */
#define ROUND_TRIPS     turns(50000, 50)
#define OWNED_BY_SENDER 4

struct note {
    struct flow_msg msg;
    uint32_t sender;
    uint32_t number;
};

struct sender {
    struct mailbox *to;
    struct note *notes;
    uint32_t index;
};

static int bell_new(void)
{
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

/* Sleeps until the bell rings, then silences it. */
static bool bell_wait(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    int ready;
    do {
        ready = poll(&p, 1, BELL_MS_MAX);
    } while (ready < 0 && errno == EINTR);
    uint64_t rings;
    return ready == 1 && read(fd, &rings, sizeof rings) == (ssize_t)sizeof rings;
}

static bool bell_rings(int fd)
{
    uint64_t rings;
    return read(fd, &rings, sizeof rings) == (ssize_t)sizeof rings;
}

static void oldest_first_and_one_ring(void **ctx)
{
    (void)ctx;
    struct mailbox box;
    struct note notes[3] = {{.number = 0}, {.number = 1}, {.number = 2}};
    int bell = bell_new();
    mailbox_init(&box, bell);
    assert_null(mailbox_take_all(&box));
    for (unsigned round = 0; round < 3; round++) {
        assert_false(bell_rings(bell));
        mailbox_send(&box, &notes[0].msg);
        assert_true(bell_rings(bell));
        mailbox_send(&box, &notes[1].msg);
        mailbox_send(&box, &notes[2].msg);
        assert_false(bell_rings(bell)); /* it was not empty */
        struct flow_msg *msg = mailbox_take_all(&box);
        for (uint32_t number = 0; number < 3; number++) {
            assert_ptr_equal(msg, &notes[number].msg);
            assert_false(msg->in_mailbox);
            msg = msg->next;
        }
        assert_null(msg);
        assert_null(mailbox_take_all(&box));
    }
    (void)close(bell);
}

static void *send_all(void *ctx)
{
    struct sender *s = ctx;
    for (uint32_t number = 0; number < MESSAGES; number++) {
        s->notes[number].sender = s->index;
        s->notes[number].number = number;
        mailbox_send(s->to, &s->notes[number].msg);
    }
    return NULL;
}

static void many_senders_one_receiver(void **ctx)
{
    (void)ctx;
    struct mailbox box;
    int bell = bell_new();
    mailbox_init(&box, bell);
    struct note *notes = calloc((size_t)SENDERS * MESSAGES, sizeof *notes);
    assert_non_null(notes);
    pthread_t threads[SENDERS];
    struct sender senders[SENDERS];
    for (uint32_t index = 0; index < SENDERS; index++) {
        senders[index] = (struct sender){&box, notes + (size_t)index * MESSAGES, index};
        assert_int_equal(pthread_create(&threads[index], NULL, send_all, &senders[index]), 0);
    }
    uint32_t expected[SENDERS] = {0};
    uint32_t taken = 0;
    bool order_kept = true;
    bool bell_heard = true;
    while (taken < SENDERS * MESSAGES && bell_heard) {
        struct flow_msg *msg = mailbox_take_all(&box);
        if (msg == NULL) {
            bell_heard = bell_wait(bell);
        }
        while (msg != NULL) {
            struct note *note = (struct note *)(void *)msg;
            struct flow_msg *next = msg->next;
            order_kept = order_kept && note->number == expected[note->sender];
            expected[note->sender]++;
            taken++;
            msg = next;
        }
    }
    for (uint32_t index = 0; index < SENDERS; index++) {
        assert_int_equal(pthread_join(threads[index], NULL), 0);
    }
    assert_true(bell_heard);
    assert_true(order_kept);
    assert_int_equal(taken, SENDERS * MESSAGES);
    for (uint32_t index = 0; index < SENDERS; index++) {
        assert_int_equal(expected[index], MESSAGES);
    }
    assert_null(mailbox_take_all(&box));
    free(notes);
    (void)close(bell);
}

/* Ownership there and back: who sends writes the note without any lock, who gets it reads it. */
struct asker {
    struct mailbox *server;
    struct mailbox own;
    int bell;
    uint64_t sum;
    bool bell_heard;
};

static void *ask(void *ctx)
{
    struct asker *a = ctx;
    struct note notes[OWNED_BY_SENDER] = {0};
    uint32_t sent = 0;
    uint32_t answered = 0;
    for (; sent < OWNED_BY_SENDER; sent++) {
        notes[sent].msg.reply_to = &a->own;
        notes[sent].number = sent;
        mailbox_send(a->server, &notes[sent].msg);
    }
    a->bell_heard = true;
    while (answered < ROUND_TRIPS && a->bell_heard) {
        struct flow_msg *msg = mailbox_take_all(&a->own);
        if (msg == NULL) {
            a->bell_heard = bell_wait(a->bell);
        }
        while (msg != NULL) {
            struct flow_msg *next = msg->next;
            struct note *note = (struct note *)(void *)msg;
            a->sum += note->number;
            answered++;
            if (sent < ROUND_TRIPS) {
                note->number = sent++;
                mailbox_send(a->server, msg);
            }
            msg = next;
        }
    }
    return NULL;
}

static void structs_go_there_and_back(void **ctx)
{
    (void)ctx;
    struct mailbox server;
    int bell = bell_new();
    mailbox_init(&server, bell);
    struct asker askers[3] = {0};
    pthread_t threads[3];
    for (size_t index = 0; index < 3; index++) {
        askers[index].server = &server;
        askers[index].bell = bell_new();
        mailbox_init(&askers[index].own, askers[index].bell);
        assert_int_equal(pthread_create(&threads[index], NULL, ask, &askers[index]), 0);
    }
    uint32_t served = 0;
    bool bell_heard = true;
    while (served < 3 * ROUND_TRIPS && bell_heard) {
        struct flow_msg *msg = mailbox_take_all(&server);
        if (msg == NULL) {
            bell_heard = bell_wait(bell);
        }
        while (msg != NULL) {
            struct flow_msg *next = msg->next;
            ((struct note *)(void *)msg)->number += 1;
            mailbox_send(msg->reply_to, msg);
            served++;
            msg = next;
        }
    }
    assert_true(bell_heard);
    for (size_t index = 0; index < 3; index++) {
        assert_int_equal(pthread_join(threads[index], NULL), 0);
        assert_true(askers[index].bell_heard);
        assert_true(askers[index].sum == (uint64_t)ROUND_TRIPS * (ROUND_TRIPS + 1) / 2);
        (void)close(askers[index].bell);
    }
    (void)close(bell);
}

/* Lists between single ones: one order, and the bell rings only for what found the box empty. */
static void lists_keep_their_order(void **ctx)
{
    (void)ctx;
    struct mailbox box;
    int bell = bell_new();
    mailbox_init(&box, bell);
    struct note notes[8] = {0};
    mailbox_send_list(&box, NULL);
    assert_false(bell_rings(bell));
    for (uint32_t index = 0; index < 8; index++) {
        notes[index].number = index;
    }
    for (uint32_t index = 0; index < 2; index++) {
        notes[index].msg.next = &notes[index + 1].msg;
        notes[index + 4].msg.next = &notes[index + 5].msg;
    }
    mailbox_send_list(&box, &notes[0].msg);
    uint64_t rings = 0;
    assert_true(read(bell, &rings, sizeof rings) == (ssize_t)sizeof rings && rings == 1);
    mailbox_send(&box, &notes[3].msg);
    mailbox_send_list(&box, &notes[4].msg);
    mailbox_send_list(&box, &notes[7].msg);
    assert_false(bell_rings(bell));
    struct flow_msg *msg = mailbox_take_all(&box);
    for (uint32_t index = 0; index < 8; index++) {
        assert_ptr_equal(msg, &notes[index].msg);
        assert_false(msg->in_mailbox);
        msg = msg->next;
    }
    assert_null(msg);
    (void)close(bell);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(oldest_first_and_one_ring),
        cmocka_unit_test(lists_keep_their_order),
        cmocka_unit_test(many_senders_one_receiver),
        cmocka_unit_test(structs_go_there_and_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
