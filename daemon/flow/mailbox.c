#include "daemon/flow/mailbox.h"

#include <unistd.h>

void mailbox_init(struct mailbox *box, int bell_fd)
{
    atomic_init(&box->newest, NULL);
    box->bell_fd = bell_fd;
}

static void ring(const struct mailbox *box)
{
    uint64_t one = 1;
    ssize_t done = write(box->bell_fd, &one, sizeof one);
    (void)done; /* an eventfd that is full rings already */
}

void mailbox_send(struct mailbox *box, struct flow_msg *msg)
{
    CHECK(!msg->in_mailbox);
    msg->in_mailbox = true;
    struct flow_msg *newest = atomic_load_explicit(&box->newest, memory_order_relaxed);
    do {
        msg->next = newest;
    } while (!atomic_compare_exchange_weak_explicit(&box->newest, &newest, msg,
                                                    memory_order_release, memory_order_relaxed));
    if (newest == NULL) {
        ring(box);
    }
}

void mailbox_send_list(struct mailbox *box, struct flow_msg *first)
{
    struct flow_msg *last = first;
    struct flow_msg *turned = NULL;
    while (first != NULL) {
        struct flow_msg *next = first->next;
        CHECK(!first->in_mailbox);
        first->in_mailbox = true;
        first->next = turned;
        turned = first;
        first = next;
    }
    if (turned == NULL) {
        return;
    }
    struct flow_msg *newest = atomic_load_explicit(&box->newest, memory_order_relaxed);
    do {
        last->next = newest;
    } while (!atomic_compare_exchange_weak_explicit(&box->newest, &newest, turned,
                                                    memory_order_release, memory_order_relaxed));
    if (newest == NULL) {
        ring(box);
    }
}

bool mailbox_is_empty(const struct mailbox *box)
{
    return atomic_load_explicit(&box->newest, memory_order_relaxed) == NULL;
}

struct flow_msg *mailbox_take_all(struct mailbox *box)
{
    struct flow_msg *newest = atomic_exchange_explicit(&box->newest, NULL, memory_order_acquire);
    struct flow_msg *oldest = NULL;
    while (newest != NULL) {
        struct flow_msg *next = newest->next;
        newest->in_mailbox = false;
        newest->next = oldest;
        oldest = newest;
        newest = next;
    }
    return oldest;
}
