#include "daemon/worker.h"

#include "daemon/delivery/delivery.h"

/* All that is allowed may come to one worker: a client has a timer and its stream's; a connection
 * to an upstream, or one that is tried out, these and that of its way there. Workers that let
 * clients in at the same moment may each be one over. */
#define CLIENT_TIMERS_MAX   (2 * (CLIENT_SESSIONS_MAX + WORKERS_MAX))
#define UPSTREAM_TIMERS_MAX (3 * UPSTREAMS_MAX * (UPSTREAM_CONNECTIONS_MAX + 1))
#define OTHER_TIMERS_MAX    (LISTENERS_MAX + 100)
_Static_assert(CLIENT_TIMERS_MAX + UPSTREAM_TIMERS_MAX + OTHER_TIMERS_MAX <= IO_TIMERS_MAX,
               "whatever is configured, a loop has room for its timers");

static enum err read_message(void *reader, const struct msg_id *id, struct buf *to,
                             struct slice *out_envelope, struct slice *out_state,
                             size_t *out_bytes_needed)
{
    return store_read_message(reader, id, to, out_envelope, out_state, out_bytes_needed);
}

static enum err read_body(void *reader, const struct msg_id *id, uint64_t offset, struct buf *to)
{
    return store_read_body(reader, id, offset, to);
}

static enum err read_trail(void *reader, const struct msg_id *id, struct buf *to)
{
    return store_read_trail(reader, id, to);
}

static enum err read_history(void *reader, const struct msg_id *id, struct buf *to,
                             size_t *out_bytes_needed)
{
    return store_read_history(reader, id, to, out_bytes_needed);
}

struct flow_reader worker_reader(struct store_reader *reader)
{
    return (struct flow_reader){.reader = reader,
                                .message = read_message,
                                .body = read_body,
                                .trail = read_trail,
                                .history = read_history};
}

static void take(struct worker *w, struct flow_msg *msg)
{
    switch ((enum flow_kind)msg->kind) {
    case FLOW_INTAKE:
        ingress_intake_back(FLOW_FROM(msg, struct flow_intake));
        return;
    case FLOW_LINK_OPEN:
        delivery_link_open(w->delivery, FLOW_LINK_FROM(msg, open));
        return;
    case FLOW_JOB:
        delivery_job(w->delivery, FLOW_FROM(msg, struct flow_job));
        return;
    case FLOW_PROBE:
        delivery_probe(w->delivery, FLOW_FROM(msg, struct flow_probe));
        return;
    case FLOW_LOOKUP:
        delivery_lookup_back(FLOW_FROM(msg, struct flow_lookup));
        return;
    case FLOW_AUTH:
        delivery_auth_back(FLOW_FROM(msg, struct flow_auth));
        return;
    case FLOW_STOP:
        if (w->stopping) {
            ingress_abort(w->ingress);
            delivery_abort(w->delivery);
        } else {
            w->stopping = true;
            ingress_shutdown(w->ingress);
            delivery_shutdown(w->delivery);
        }
        return;
    case FLOW_DRAINED: /* everybody is */
        io_stop(w->io);
        return;
    case FLOW_LINK_UP:
    case FLOW_LINK_DOWN:
    case FLOW_EDIT:
    case FLOW_INSPECT:
    case FLOW_COMPACT:
    case FLOW_TRY:
    default:
        UNREACHABLE("a message for somebody else");
    }
}

static void woken(struct io_op *op)
{
    struct worker *w = IO_OWNER(op, struct worker, wake);
    for (struct flow_msg *msg = mailbox_take_all(&w->mailbox); msg != NULL;) {
        struct flow_msg *next = msg->next;
        take(w, msg);
        msg = next;
    }
}

/* The loop goes on after DRAINED: jobs that were on their way still have to be given back.
 * worker_join ends it. */
static void after_batch(void *ctx)
{
    struct worker *w = ctx;
    if (w->stopping && !w->told && ingress_is_empty(w->ingress) && delivery_is_empty(w->delivery)) {
        w->told = true;
        w->drained.kind = FLOW_DRAINED;
        mailbox_send(w->shared->main, &w->drained);
    }
}

static enum err prepare(struct worker *w)
{
    struct io_config config = {.backend = w->shared->backend};
    enum err err = io_new(&w->io, &config, &w->about);
    if (err != ERR_OK) {
        return err;
    }
    w->wake.fn = woken;
    int bell_fd = io_wake_start(w->io, &w->wake);
    if (bell_fd < 0) {
        io_free(&w->io);
        return ERR_LIMIT;
    }
    mailbox_init(&w->mailbox, bell_fd);
    return ERR_OK;
}

static enum err begin(struct worker *w)
{
    struct worker_shared *shared = w->shared;
    enum err err = store_reader_new(&w->store_reader, shared->store);
    if (err != ERR_OK) {
        return err;
    }
    w->reader = worker_reader(w->store_reader);
    struct delivery_config delivery = {
        .config = shared->config,
        .io = w->io,
        .queue = shared->queue,
        .resolver = shared->resolver,
        .authenticator = shared->authenticator,
        .self = &w->mailbox,
        .policies = shared->policies,
        .reader = &w->reader,
        .log = shared->log,
        .metrics = &w->metrics,
        .trace = shared->trace,
    };
    struct ingress_config ingress = {
        .config = shared->config,
        .io = w->io,
        .queue = shared->queue,
        .self = &w->mailbox,
        .ids = &shared->ids,
        .shared = &shared->ingress,
        .log = shared->log,
        .metrics = &w->metrics,
        .piece_bytes = store_piece_bytes(shared->store),
        .listen_fds = shared->listen_fds,
        .listen_count = shared->listen_count,
    };
    err = delivery_new(&w->delivery, &delivery);
    return err == ERR_OK ? ingress_new(&w->ingress, &ingress) : err;
}

static void await(sem_t *sem)
{
    while (sem_wait(sem) != 0) {
        /* EINTR */
    }
}

/* Tells main how the step went; true when the next one is to come. */
static bool step_done(struct worker *w, enum err err)
{
    w->err = err;
    sem_post(&w->done);
    await(&w->go);
    return !w->leaves;
}

static void *run(void *arg)
{
    struct worker *w = arg;
    enum err err = prepare(w);
    bool goes_on = step_done(w, err);
    if (err != ERR_OK) {
        return NULL;
    }
    if (goes_on && step_done(w, begin(w))) {
        ingress_listen(w->ingress);
        io_set_after_batch(w->io, after_batch, w);
        io_run(w->io);
    }
    ingress_free(&w->ingress);
    delivery_free(&w->delivery);
    store_reader_free(&w->store_reader);
    io_wake_stop(w->io, &w->wake);
    io_free(&w->io);
    return NULL;
}

enum err worker_prepare(struct worker *w, struct worker_shared *shared)
{
    w->shared = shared;
    sem_init(&w->done, 0, 0);
    sem_init(&w->go, 0, 0);
    if (pthread_create(&w->thread, NULL, run, w) != 0) {
        return ERR_LIMIT;
    }
    w->started = true;
    await(&w->done);
    return w->err;
}

enum err worker_begin(struct worker *w)
{
    sem_post(&w->go);
    await(&w->done);
    return w->err;
}

void worker_go(struct worker *w)
{
    w->running = true;
    sem_post(&w->go);
}

void worker_stop(struct worker *w)
{
    w->stop.kind = FLOW_STOP;
    mailbox_send(&w->mailbox, &w->stop);
}

void worker_abort(struct worker *w)
{
    w->abort.kind = FLOW_STOP;
    mailbox_send(&w->mailbox, &w->abort);
}

void worker_join(struct worker *w)
{
    if (!w->started) {
        return;
    }
    if (w->running) {
        w->end.kind = FLOW_DRAINED;
        mailbox_send(&w->mailbox, &w->end);
    } else {
        w->leaves = true;
        sem_post(&w->go);
    }
    pthread_join(w->thread, NULL);
    w->started = false;
}
