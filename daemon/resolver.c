/*
 * The resolver thread: look-ups out of its mailbox, into c-ares, answers back to whoever asked.
 */
#include "daemon/dns/dns.h"
#include "daemon/helper.h"

#include <stdio.h>
#include <unistd.h>

#define LOOKUP_MS_MAX 20000

_Static_assert(FLOW_ADDRESSES_MAX == DNS_ADDRESSES_MAX, "an answer fits");

static void answered(void *ctx, const struct dns_answer *answer)
{
    struct flow_lookup *lookup = ctx;
    lookup->outcome = answer->outcome;
    lookup->count = answer->count;
    lookup->ttl_s = answer->ttl_s;
    snprintf(lookup->text, sizeof lookup->text, "%s", answer->text);
    for (uint32_t index = 0; index < answer->count; index++) {
        const struct dns_address *from = &answer->addresses[index];
        lookup->addresses[index] =
            (struct flow_address){.address = from->address, .len = from->len};
        snprintf(lookup->names[index], sizeof lookup->names[index], "%s", from->host);
    }
    mailbox_send(lookup->msg.reply_to, &lookup->msg);
}

static void refuse(struct flow_lookup *lookup)
{
    lookup->outcome = OUTCOME_DNS_FAILED;
    lookup->count = 0;
    snprintf(lookup->text, sizeof lookup->text, "the name servers of this box cannot be used");
    mailbox_send(lookup->msg.reply_to, &lookup->msg);
}

static void *run(void *arg)
{
    struct helper *h = arg;
    struct dns *dns = NULL;
    struct dns_config config = {.servers = h->config->dns_servers, .timeout_ms = LOOKUP_MS_MAX};
    bool stopping = false;
    while (!stopping) {
        if (dns == NULL && dns_new(&dns, &config) != ERR_OK) {
            dns = NULL;
        }
        if (dns != NULL && dns_process(dns, h->bell_fd, -1)) {
            uint64_t rings;
            ssize_t done = read(h->bell_fd, &rings, sizeof rings);
            (void)done;
        } else if (dns == NULL) {
            sleep(1); /* no memory or no descriptors: look-ups are refused meanwhile, and tried
                         again by their owners */
        }
        for (struct flow_msg *msg = mailbox_take_all(&h->mailbox); msg != NULL;) {
            struct flow_msg *next = msg->next;
            if (msg->kind == FLOW_STOP) {
                stopping = true;
            } else if (dns == NULL) {
                refuse(FLOW_FROM(msg, struct flow_lookup));
            } else {
                struct flow_lookup *lookup = FLOW_FROM(msg, struct flow_lookup);
                dns_lookup(dns, lookup->host, lookup->port, lookup->use_mx, answered, lookup);
            }
            msg = next;
        }
    }
    dns_free(&dns);
    return NULL;
}

enum err resolver_start(struct helper *h, const struct config *config)
{
    return helper_run(h, config, run);
}
