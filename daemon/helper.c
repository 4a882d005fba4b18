#include "daemon/helper.h"

#include <sys/eventfd.h>
#include <unistd.h>

enum err helper_run(struct helper *h, const struct config *config, void *(*run)(void *))
{
    h->config = config;
    h->bell_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (h->bell_fd < 0) {
        return ERR_LIMIT;
    }
    mailbox_init(&h->mailbox, h->bell_fd);
    if (pthread_create(&h->thread, NULL, run, h) != 0) {
        close(h->bell_fd);
        return ERR_LIMIT;
    }
    h->running = true;
    return ERR_OK;
}

void helper_stop(struct helper *h)
{
    if (!h->running) {
        return;
    }
    h->stop.kind = FLOW_STOP;
    mailbox_send(&h->mailbox, &h->stop);
    pthread_join(h->thread, NULL);
    close(h->bell_fd);
    h->running = false;
}
