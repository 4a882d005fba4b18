/*
 * How long mail that has come in waits for more of it, so that a commit is worth its flushes.
 *
 * Each client has one message under way. So those who came during a commit, and those who were in
 * it, are different ones, and together the clients that are at work at once. A commit waits until a
 * share of them is there. While it runs the others prepare their next messages: with more in it
 * they would be too few to keep the processors busy, with less there would be too many commits.
 *
 * While deliveries are under way the processors have work in any case, and the share is larger.
 */
#include "daemon/base/num.h"
#include "daemon/queue/queue_internal.h"

/* In sixteenths: half of them, or four fifths; but so long at most, and that many times as long as
 * the last commit took. */
#define SHARE16      8
#define SHARE16_BUSY 13
#define WAIT_US      2000
#define WAIT_US_BUSY 4000
#define COMMITS      1
#define COMMITS_BUSY 2

void queue_company_came(struct queue_company *c, uint64_t now_us)
{
    if (c->waiting++ == 0) {
        c->since_us = now_us;
    }
}

void queue_company_committed(struct queue_company *c)
{
    c->before = c->waiting;
    c->waiting = 0;
    c->slept = false;
}

void queue_company_slept(struct queue_company *c)
{
    c->slept = true;
}

uint64_t queue_company_wait_us(struct queue_company *c, uint64_t now_us, bool busy)
{
    if (c->before > 0) {
        uint32_t clients = c->before + (c->slept ? 0 : c->waiting);
        c->clients16 += clients - c->clients16 / 16;
        c->before = 0;
    }
    uint32_t share16 = busy ? SHARE16_BUSY : SHARE16;
    if (c->waiting == 0 || 256 * c->waiting >= c->clients16 * share16) {
        return 0;
    }
    uint64_t wait_us = busy ? u64_min(COMMITS_BUSY * c->commit_us, WAIT_US_BUSY)
                            : u64_min(COMMITS * c->commit_us, WAIT_US);
    return c->since_us + wait_us > now_us ? c->since_us + wait_us - now_us : 0;
}
