#include "daemon/flow/mailbox.h"

#include <unistd.h>

void mailbox_init(struct mailbox *box, int bell_fd)
{
    atomic_init(&box->newest, NULL);
    box->bell_fd = bell_fd;
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
        uint64_t one = 1;
        ssize_t done = write(box->bell_fd, &one, sizeof one);
        (void)done; /* an eventfd that is full rings already */
    }
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
