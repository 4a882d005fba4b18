/*
 * How ownership moves between threads: many senders, one receiver, no lock.
 *
 * A message is a struct flow_msg at the head of its owner's struct. Sending hands that struct over;
 * the receiver owns it until it sends it back. So a mailbox needs no storage, and is bounded by the
 * number of structs that exist, each of which has a bound of its own.
 *
 * Order: messages of one sender arrive in the order in which they were sent.
 * Source: the list is Treiber's stack with take-all, which has no ABA problem since single elements
 * are never popped.
 */
#ifndef TASUKI_FLOW_MAILBOX_H
#define TASUKI_FLOW_MAILBOX_H

#include "daemon/base/check.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct mailbox;

struct flow_msg {
    struct flow_msg *next;
    uint16_t kind;            /* enum flow_kind */
    bool in_mailbox;          /* checked: a message is in one mailbox at a time */
    struct mailbox *reply_to; /* borrowed: where the answer goes; NULL when there is none */
};

struct mailbox {
    _Atomic(struct flow_msg *) newest;
    int bell_fd; /* an eventfd, owned by the receiver */
};

void mailbox_init(struct mailbox *box, int bell_fd);

/* From any thread. Rings the receiver when the box was empty. */
void mailbox_send(struct mailbox *box, struct flow_msg *msg);

/* Several at once, in their order, with one ring at most. first: linked by next; may be NULL. */
void mailbox_send_list(struct mailbox *box, struct flow_msg *first);

/* The receiver's: everything sent so far, oldest first, linked by next; NULL when empty. */
MUST_CHECK struct flow_msg *mailbox_take_all(struct mailbox *box);
/* The receiver's: a look without taking. */
bool mailbox_is_empty(const struct mailbox *box);

#endif
