/*
 * tasukid: start, signals, stop. The one place that knows every stage, and wires them.
 *
 * Order of starting: configuration, logger, libraries, store, sockets, helpers, workers' loops,
 * queue thread, workers, control. Stopping is the same way back; nothing is answered 250 that is
 * not committed, and what is under way has GRACE_MS to end.
 */
#include "daemon/config/config.h"
#include "daemon/control/control.h"
#include "daemon/flow/clock.h"
#include "daemon/helper.h"
#include "daemon/logger.h"
#include "daemon/queue/queue.h"
#include "daemon/sasl/sasl_login.h"
#include "daemon/worker.h"
#include "schema/event.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/un.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#define GRACE_MS       10000
#define BIND_MS_MAX    2000
#define BIND_PAUSE_MS  20
#define AUTHORITIES_MS 5000 /* between two looks at the upstreams' files */
#define DEFAULT_CONFIG "/etc/tasuki/tasuki.conf"

/* Each value says what is true in it. */
enum main_state {
    MAIN_RUNNING,
    MAIN_DRAINING, /* workers were asked to stop */
    MAIN_ABORTING, /* their grace is over */
    MAIN_CLOSING,  /* they are done; control connections are being closed */
};

struct program {
    struct config *config;
    struct logger *logger;
    struct store *store;
    struct store_report report;
    uint64_t used_at_start_bytes; /* of the queue's disk */
    struct store_reader *store_reader;
    struct flow_reader reader;
    struct helper resolver, authenticator;
    struct worker_shared shared;
    struct trace trace;
    struct worker workers[WORKERS_MAX];
    struct mailbox *boxes[WORKERS_MAX]; /* of the workers, for the queue thread */
    uint32_t worker_count, drained_count;
    struct queue *queue;
    pthread_t queue_thread;
    bool queue_running;
    struct metrics queue_metrics;
    const struct metrics *metrics[WORKERS_MAX + 1];
    struct control *control;
    struct io *io;
    struct io_op wake, signal_wake, grace, authorities;
    struct control_problem authorities_problems[UPSTREAMS_MAX];
    struct flow_try try; /* lent to the queue thread while trying */
    bool trying;
    uint32_t try_next; /* a bit for each upstream whose turn is next */
    struct mailbox mailbox;
    enum main_state state;
};

/* Written by the handler only: which signal, and the bell that wakes the loop. */
static volatile sig_atomic_t signal_caught;
static volatile sig_atomic_t signal_bell_fd = -1;

static void on_signal(int number)
{
    signal_caught = number;
    io_wake_ring(signal_bell_fd);
}

/* Reading the queue's file through the map went wrong: said in words, and the next start looks at
 * every page first. What has another cause ends the process as it would without us. */
static void on_fault(int number, siginfo_t *info, void *context)
{
    (void)context;
    if (!store_fault_explain(info->si_addr, STDERR_FILENO)) {
        const struct sigaction usual = {.sa_handler = SIG_DFL};
        sigaction(number, &usual, NULL);
        return; /* the same instruction again */
    }
    _exit(128 + number);
}

static void catch_faults(void)
{
    const struct sigaction fault = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    sigaction(SIGBUS, &fault, NULL);
#ifndef __SANITIZE_ADDRESS__ /* whose own report says more */
    sigaction(SIGSEGV, &fault, NULL);
#endif
}

static void last_words(const char *text)
{
    static const char head[] = "level=error event=stopped problem=\"this is a fault of tasukid: ";
    ssize_t done = write(STDERR_FILENO, head, sizeof head - 1);
    done = write(STDERR_FILENO, text, strlen(text));
    done = write(STDERR_FILENO, "\"\n", 2);
    (void)done;
}

/* What a service manager is told; nothing without one. The protocol is sd_notify(3)'s: one
 * datagram. */
static void notify(const char *text)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (path == NULL || strlen(path) >= sizeof address.sun_path) {
        return;
    }
    size_t len = strlen(path);
    memcpy(address.sun_path, path, len);
    if (path[0] == '@') {
        address.sun_path[0] = '\0';
    }
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd >= 0) {
        (void)!sendto(fd, text, strlen(text), MSG_NOSIGNAL,
                      (const struct sockaddr *)(const void *)&address,
                      (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len));
        close(fd);
    }
}

static int complain(const char *what, const char *why, int code)
{
    fprintf(stderr, "tasukid: %s: %s\n", what, why);
    return code;
}

/* ---- the pieces ---- */

static void print_errors(const char *file, const struct config_errors *errors)
{
    for (uint32_t index = 0; index < errors->count; index++) {
        uint8_t memory[2048];
        struct buf text;
        buf_init(&text, memory, sizeof memory);
        config_error_put(&text, file, &errors->items[index]);
        fprintf(stderr, "%.*s\n", (int)text.len, (const char *)text.data);
    }
}

/*
 * The kernel takes a killed tasukid's rings down, and its listeners with them, only a while after
 * the process is gone: who starts it again at once finds the address still taken.
 */
static bool bind_patiently(int fd, const struct config_listen *l)
{
    const struct timespec pause = {.tv_nsec = BIND_PAUSE_MS * 1000000L};
    for (uint32_t spent_ms = 0;; spent_ms += BIND_PAUSE_MS) {
        if (bind(fd, (const struct sockaddr *)(const void *)&l->address, l->len) == 0) {
            return true;
        }
        if (errno != EADDRINUSE || spent_ms >= BIND_MS_MAX) {
            return false;
        }
        (void)nanosleep(&pause, NULL);
    }
}

static int open_listeners(struct program *p)
{
    for (uint32_t index = 0; index < p->config->listen.count; index++) {
        struct config_listen *l = &p->config->listen.items[index];
        int fd = socket(l->address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        int one = 1;
        if (fd >= 0 && l->address.ss_family == AF_INET6) {
            (void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
        }
        if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0 ||
            !bind_patiently(fd, l) || listen(fd, 1024) != 0) {
            int number = errno;
            fprintf(stderr, "tasukid: cannot listen on %s: %s\n", l->text, strerror(number));
            if (number == EADDRINUSE) {
                fprintf(stderr, "  another mail server may run there; see: ss -ltnp\n");
            } else if (number == EACCES) {
                fprintf(stderr, "  ports below 1024 need root or CAP_NET_BIND_SERVICE\n");
            }
            return EX_UNAVAILABLE;
        }
        /* Port 0 asked for any: say which it became. */
        l->len = sizeof l->address;
        (void)getsockname(fd, (struct sockaddr *)(void *)&l->address, &l->len);
        if (l->address.ss_family == AF_INET) {
            const struct sockaddr_in *v4 = (const struct sockaddr_in *)(const void *)&l->address;
            char *colon = strrchr(l->text, ':');
            if (colon != NULL) {
                snprintf(colon, (size_t)(l->text + sizeof l->text - colon), ":%u",
                         ntohs(v4->sin_port));
            }
        }
        p->shared.listen_fds[p->shared.listen_count++] = fd;
    }
    return 0;
}

static int open_policies(struct program *p)
{
    for (uint32_t index = 0; index < p->config->upstream_count; index++) {
        const struct config_upstream *u = &p->config->upstreams[index];
        char problem[256] = "";
        if (u->tls == CONFIG_TLS_OFF) {
            continue;
        }
        struct tls_client_config config = {
            .verify = u->tls == CONFIG_TLS_ENCRYPT ? TLS_VERIFY_NONE : TLS_VERIFY_FULL,
            .ca_file = u->tls_ca,
            .fingerprint = u->tls_fingerprint,
        };
        if (tls_client_policy_new(&p->shared.policies[index], &config, problem) != ERR_OK) {
            return complain(u->name, problem, EX_CONFIG);
        }
    }
    return 0;
}

/* Enough descriptors for what the configuration allows, or a clear word about it. */
static int raise_limits(const struct config *config)
{
    static struct config_errors errors;
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) {
        return 0;
    }
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || config_fits(config, limit.rlim_cur, 0, &errors)) {
        return 0;
    }
    print_errors(config->file, &errors);
    return EX_CONFIG;
}

static void log_risk(const struct program *p, const char *text)
{
    struct log_line line;
    event_begin(&line, p->shared.log, EVENT_RISK);
    log_put_text(&line, "text", slice_from_str(text));
    log_end(&line);
}

/* What was set on purpose and is a risk all the same, and a queue-max that this disk does not hold
 * (a full disk is met with 452 all the same). */
static void log_risks(const struct program *p)
{
    static struct config_errors errors;
    struct statvfs disk;
    char text[200];
    for (size_t index = 0; config_risk_at(p->config, index, text); index++) {
        log_risk(p, text);
    }
    if (statvfs(p->config->state, &disk) == 0 &&
        !config_fits(p->config, 0, (uint64_t)disk.f_bavail * disk.f_frsize + p->used_at_start_bytes,
                     &errors)) {
        log_risk(p, errors.items[0].message);
    }
    if (p->report.problem[0] != '\0') {
        log_risk(p, p->report.problem);
    }
}

static int make_directory(const char *path, mode_t mode)
{
    if (mkdir(path, mode) == 0 || errno == EEXIST) {
        return 0;
    }
    return complain(path, strerror(errno), EX_CANTCREAT);
}

static int open_store(struct program *p)
{
    struct store_config config = {
        .directory = p->config->state,
        .queue_bytes_max = p->config->queue_max,
        .history_bytes_max = p->config->history_max,
        .readers_max = WORKERS_MAX + 8,
    };
    if (store_open(&p->store, &config, &p->report) != ERR_OK) {
        return complain("the queue cannot be opened", p->report.problem, EX_UNAVAILABLE);
    }
    struct store_summary summary;
    store_summary(p->store, &summary);
    p->used_at_start_bytes = summary.pages_used_bytes;
    atomic_init(&p->shared.ids.last, summary.last_id);
    p->shared.ids.box = summary.box;
    struct log_line line;
    event_begin(&line, logger_log(p->logger), EVENT_STORE_OPEN);
    log_put_u64(&line, "messages", p->report.messages);
    log_put_u64(&line, "discarded", p->report.discarded);
    log_put_u64(&line, "readers", p->report.readers_cleared);
    log_put_text(&line, "path", slice_from_str(p->config->state));
    log_end(&line);
    if (p->report.upgraded > 0) {
        event_begin(&line, logger_log(p->logger), EVENT_STORE_UPGRADED);
        log_put_u64(&line, "messages", p->report.upgraded);
        log_end(&line);
    }
    if (store_reader_new(&p->store_reader, p->store) != ERR_OK) {
        return complain("the queue", "out of memory", EX_OSERR);
    }
    p->reader = worker_reader(p->store_reader);
    return 0;
}

/* store's row as flow's. */
struct row_adapter {
    flow_row_fn *fn;
    void *ctx;
};

static bool adapt_row(void *ctx, const struct store_row *row)
{
    const struct row_adapter *adapter = ctx;
    return adapter->fn(adapter->ctx, &row->id, row->envelope, row->state);
}

static enum err read_rows(void *reader, const struct msg_id *from, size_t max, flow_row_fn *fn,
                          void *ctx, struct msg_id *out_next)
{
    struct row_adapter adapter = {.fn = fn, .ctx = ctx};
    return store_read_rows(reader, from, max, adapt_row, &adapter, out_next);
}

static enum err read_history_rows(void *reader, const struct msg_id *from, size_t max,
                                  flow_history_fn *fn, void *ctx, struct msg_id *out_next)
{
    return store_read_history_rows(reader, from, max, fn, ctx, out_next);
}

static enum err read_counts(void *reader, enum flow_count_kind kind, struct slice after, size_t max,
                            flow_count_fn *fn, void *ctx)
{
    static const enum store_count_kind kinds[] = {
        [FLOW_COUNT_UPSTREAM] = STORE_COUNT_UPSTREAM,
        [FLOW_COUNT_DEVICE] = STORE_COUNT_DEVICE,
        [FLOW_COUNT_REASON] = STORE_COUNT_REASON,
    };
    return store_read_counts(reader, kinds[kind], after, max, fn, ctx);
}

/* ---- main's loop ---- */

static void begin_stop(struct program *p, int number)
{
    if (p->state != MAIN_RUNNING) {
        return;
    }
    struct log_line line;
    event_begin(&line, logger_log(p->logger), EVENT_STOP);
    log_put_u64(&line, "signal", (uint64_t)number);
    log_end(&line);
    notify("STOPPING=1");
    p->state = MAIN_DRAINING;
    for (uint32_t index = 0; index < p->worker_count; index++) {
        worker_stop(&p->workers[index]);
    }
    io_timer(p->io, &p->grace, io_now_ms(p->io) + GRACE_MS);
}

/* From then on only what answers by itself is awaited: a look-up or a login's step that is with its
 * helper, and the disk. Nothing bounds that but the service manager, which loses nothing by it:
 * what was answered 250 is committed. */
static void grace_over(struct io_op *op)
{
    struct program *p = IO_OWNER(op, struct program, grace);
    if (p->state == MAIN_DRAINING) {
        p->state = MAIN_ABORTING;
        for (uint32_t index = 0; index < p->worker_count; index++) {
            worker_abort(&p->workers[index]);
        }
    }
}

static void try_upstreams(struct program *p)
{
    if (p->trying || p->try_next == 0) {
        return;
    }
    p->trying = true;
    p->try.msg.kind = FLOW_TRY;
    p->try.msg.reply_to = &p->mailbox;
    p->try.upstreams = p->try_next;
    p->try_next = 0;
    mailbox_send(queue_mailbox(p->queue), &p->try.msg);
}

static void look_at_authorities_of(struct program *p, uint32_t index)
{
    struct control_problem *before = &p->authorities_problems[index];
    struct control_problem now = {""};
    bool again = false;
    struct log_line line;
    enum err err = tls_client_policy_refresh(p->shared.policies[index], &again, now.words);
    if ((err == ERR_OK && !again) || (err != ERR_OK && strcmp(before->words, now.words) == 0)) {
        return; /* nothing new; or said before, and tried again */
    }
    *before = now;
    p->try_next |= again ? 1u << index : 0;
    event_begin(&line, logger_log(p->logger),
                again ? EVENT_AUTHORITIES_READ : EVENT_AUTHORITIES_KEPT);
    log_put_word(&line, "upstream", p->config->upstreams[index].name);
    if (!again) {
        log_put_text(&line, "problem", slice_from_str(now.words));
    }
    log_end(&line);
}

/* On this thread, which may wait for a disk. */
static void look_at_authorities(struct io_op *op)
{
    struct program *p = IO_OWNER(op, struct program, authorities);
    if (p->state != MAIN_RUNNING) {
        return;
    }
    for (uint32_t index = 0; index < p->config->upstream_count; index++) {
        if (p->shared.policies[index] != NULL) {
            look_at_authorities_of(p, index);
        }
    }
    try_upstreams(p);
    io_timer(p->io, &p->authorities, io_now_ms(p->io) + AUTHORITIES_MS);
}

static void signalled(struct io_op *op)
{
    begin_stop(IO_OWNER(op, struct program, signal_wake), signal_caught);
}

static void take(struct program *p, struct flow_msg *msg)
{
    switch ((enum flow_kind)msg->kind) {
    case FLOW_EDIT:
    case FLOW_INSPECT:
    case FLOW_COMPACT:
    case FLOW_PROBE:
        control_message_back(p->control, msg);
        return;
    case FLOW_TRY:
        if (msg == &p->try.msg) {
            p->trying = false;
            try_upstreams(p);
        } else {
            control_message_back(p->control, msg);
        }
        return;
    case FLOW_DRAINED:
        for (uint32_t index = 0; index < p->worker_count; index++) {
            if (msg == &p->workers[index].drained) {
                p->drained_count++;
                return;
            }
        }
        begin_stop(p, 0); /* the queue thread: the store has failed */
        return;
    case FLOW_INTAKE:
    case FLOW_LINK_OPEN:
    case FLOW_LINK_UP:
    case FLOW_LINK_DOWN:
    case FLOW_JOB:
    case FLOW_LOOKUP:
    case FLOW_AUTH:
    case FLOW_STOP:
    default:
        UNREACHABLE("a message for somebody else");
    }
}

static void woken(struct io_op *op)
{
    struct program *p = IO_OWNER(op, struct program, wake);
    for (struct flow_msg *msg = mailbox_take_all(&p->mailbox); msg != NULL;) {
        struct flow_msg *next = msg->next;
        take(p, msg);
        msg = next;
    }
}

static void after_batch(void *ctx)
{
    struct program *p = ctx;
    if (p->drained_count == p->worker_count && p->state != MAIN_CLOSING) {
        p->state = MAIN_CLOSING;
        io_cancel(p->io, &p->grace);
        if (p->control != NULL) {
            control_shutdown(p->control);
        }
    }
    if (p->state == MAIN_CLOSING && (p->control == NULL || control_is_empty(p->control))) {
        io_stop(p->io);
    }
}

static void catch_signals(void)
{
    struct sigaction stop = {.sa_handler = on_signal};
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    sigaction(SIGTERM, &stop, NULL);
    sigaction(SIGINT, &stop, NULL);
    sigaction(SIGPIPE, &ignore, NULL);
    sigaction(SIGHUP, &ignore, NULL);
    sigaction(SIGXFSZ, &ignore, NULL);
    catch_faults();
}

/* All signals go to the main thread: the others are started with them blocked. */
static void block_signals(bool block)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    pthread_sigmask(block ? SIG_BLOCK : SIG_UNBLOCK, &set, NULL);
}

/* ---- start and stop ---- */

static int start_loop(struct program *p)
{
    struct io_about about;
    struct io_config config = {.backend = p->shared.backend, .recv_buffer_count = 8};
    enum err err = io_new(&p->io, &config, &about);
    if (err != ERR_OK) {
        return complain("io", about.reason, EX_UNAVAILABLE);
    }
    p->wake.fn = woken;
    p->signal_wake.fn = signalled;
    p->grace.fn = grace_over;
    p->authorities.fn = look_at_authorities;
    int bell_fd = io_wake_start(p->io, &p->wake);
    int signal_fd = io_wake_start(p->io, &p->signal_wake);
    if (bell_fd < 0 || signal_fd < 0) {
        return complain("io", "no file descriptors left", EX_OSERR);
    }
    mailbox_init(&p->mailbox, bell_fd);
    signal_bell_fd = signal_fd;
    return 0;
}

static int start_threads(struct program *p)
{
    struct worker_shared *shared = &p->shared;

    shared->main = &p->mailbox;
    if (resolver_start(&p->resolver, p->config) != ERR_OK ||
        authenticator_start(&p->authenticator, p->config) != ERR_OK) {
        return complain("threads", "cannot be started", EX_OSERR);
    }
    shared->resolver = &p->resolver.mailbox;
    shared->authenticator = &p->authenticator.mailbox;
    for (uint32_t index = 0; index < p->config->workers; index++) {
        struct worker *w = &p->workers[index];
        if (worker_prepare(w, shared) != ERR_OK) {
            return complain("io", w->about.reason, EX_UNAVAILABLE);
        }
        p->boxes[p->worker_count] = &w->mailbox;
        p->metrics[p->worker_count++] = &w->metrics;
    }
    p->metrics[p->worker_count] = &p->queue_metrics;
    struct queue_config config = {
        .config = p->config,
        .store = p->store,
        .log = shared->log,
        .metrics = &p->queue_metrics,
        .ids = &p->shared.ids,
        .workers = p->boxes,
        .worker_count = p->worker_count,
        .main = &p->mailbox,
    };
    if (queue_new(&p->queue, &config) != ERR_OK) {
        return complain("queue", "out of memory", EX_OSERR);
    }
    shared->queue = queue_mailbox(p->queue);
    shared->store = p->store;
    for (uint32_t index = 0; index < p->worker_count; index++) {
        enum err err = worker_begin(&p->workers[index]);
        if (err != ERR_OK) {
            return complain("workers", err_text(err), EX_OSERR);
        }
    }
    if (pthread_create(&p->queue_thread, NULL, queue_run, p->queue) != 0) {
        return complain("threads", "cannot be started", EX_OSERR);
    }
    p->queue_running = true;
    for (uint32_t index = 0; index < p->worker_count; index++) {
        worker_go(&p->workers[index]);
    }
    return 0;
}

static int start_control(struct program *p)
{
    char problem[256] = "";
    struct control_config config = {
        .config = p->config,
        .io = p->io,
        .self = &p->mailbox,
        .queue = queue_mailbox(p->queue),
        .reader = &p->reader,
        .rows = read_rows,
        .history_rows = read_history_rows,
        .counts = read_counts,
        .log = p->shared.log,
        .metrics = p->metrics,
        .metrics_count = p->worker_count + 1,
        .about = &p->workers[0].about,
        .started_ms = flow_wall_ms(),
        .worker = &p->workers[0].mailbox,
        .trace = &p->trace,
        .authorities = p->authorities_problems,
    };
    enum err err = control_new(&p->control, &config, problem);
    if (err != ERR_OK) {
        return complain("control socket", problem[0] != '\0' ? problem : err_text(err),
                        EX_CANTCREAT);
    }
    return 0;
}

static void log_start(const struct program *p)
{
    const struct io_about *about = &p->workers[0].about;
    struct log_line line;
    event_begin(&line, p->shared.log, EVENT_START);
    log_put_word(&line, "version", TASUKI_VERSION);
    log_put_u64(&line, "pid", (uint64_t)getpid());
    log_put_word(&line, "io", about->backend == IO_BACKEND_URING ? "io_uring" : "epoll");
    log_put_u64(&line, "workers", p->worker_count);
    log_put_text(&line, "listen", slice_from_str(p->config->listen.items[0].text));
    log_put_text(&line, "reason", slice_from_str(about->reason));
    log_end(&line);
}

static int start(struct program *p)
{
    int code = raise_limits(p->config);
    char problem[256] = "";
    p->shared.config = p->config;
    p->shared.log = logger_log(p->logger);
    p->shared.trace = &p->trace;
    p->shared.backend = p->config->io == CONFIG_IO_URING  ? IO_BACKEND_URING
                        : p->config->io == CONFIG_IO_POLL ? IO_BACKEND_POLL
                                                          : IO_BACKEND_AUTO;
    if (code == 0 && tls_library_init() != ERR_OK) {
        code = complain("TLS", "the library cannot be started", EX_OSERR);
    }
    if (code == 0 && sasl_login_library_init(problem) != ERR_OK) {
        code = complain("SASL", problem, EX_UNAVAILABLE);
    }
    code = code != 0 ? code : make_directory(p->config->run, 0755);
    code = code != 0 ? code : open_store(p);
    code = code != 0 ? code : open_policies(p);
    code = code != 0 ? code : open_listeners(p);
    code = code != 0 ? code : start_loop(p);
    if (code == 0) {
        catch_signals(); /* from here on there is a bell; what rings it now is answered by io_run */
    }
    block_signals(true);
    code = code != 0 ? code : start_threads(p);
    block_signals(false);
    return code != 0 ? code : start_control(p);
}

static void stop(struct program *p)
{
    if (p->queue_running) {
        struct flow_msg end = {.kind = FLOW_STOP};
        mailbox_send(queue_mailbox(p->queue), &end);
        pthread_join(p->queue_thread, NULL);
    }
    for (uint32_t index = 0; index < WORKERS_MAX; index++) {
        worker_join(&p->workers[index]);
    }
    helper_stop(&p->resolver);
    helper_stop(&p->authenticator);
    control_free(&p->control);
    if (p->io != NULL) {
        signal_bell_fd = -1;
        io_wake_stop(p->io, &p->wake);
        io_wake_stop(p->io, &p->signal_wake);
        io_free(&p->io);
    }
    for (uint32_t index = 0; index < p->shared.listen_count; index++) {
        close(p->shared.listen_fds[index]);
    }
    for (uint32_t index = 0; index < UPSTREAMS_MAX; index++) {
        tls_policy_free(&p->shared.policies[index]);
    }
    queue_free(&p->queue);
    store_reader_free(&p->store_reader);
    store_close(&p->store);
    sasl_login_library_deinit();
    tls_library_deinit();
    trace_end(&p->trace);
}

/* Something could not be started after the workers were: they take mail already, and end as in the
 * regular way, but with no time to lose. */
static void drain(struct program *p)
{
    begin_stop(p, 0);
    for (uint32_t index = 0; index < p->worker_count; index++) {
        worker_abort(&p->workers[index]);
    }
    io_set_after_batch(p->io, after_batch, p);
    io_run(p->io);
}

static int run(struct program *p)
{
    trace_init(&p->trace);
    int code = start(p);
    if (code != 0) {
        if (p->queue_running) {
            drain(p);
        }
        stop(p);
        return code;
    }
    log_start(p);
    log_risks(p);
    notify("READY=1");
    io_timer(p->io, &p->authorities, io_now_ms(p->io) + AUTHORITIES_MS);
    io_set_after_batch(p->io, after_batch, p);
    io_run(p->io);
    bool failed = queue_store_failed(p->queue);
    stop(p);
    struct log_line line;
    event_begin(&line, logger_log(p->logger), EVENT_STOPPED);
    log_put_word(&line, "store", failed ? "failed" : "closed");
    log_end(&line);
    return failed ? EX_IOERR : 0;
}

/* ---- --check-store ---- */

static void print_finding(void *ctx, const char *finding)
{
    bool *drawn = ctx;
    if (*drawn) {
        fputs("\r\033[K", stderr); /* what progress left on the line */
        *drawn = false;
    }
    printf("%s\n", finding);
    fflush(stdout);
}

/* Percent, to a terminal only. */
static bool print_progress(void *ctx, uint64_t done, uint64_t total)
{
    static uint64_t last = UINT64_MAX;
    bool *drawn = ctx;
    uint64_t percent = total == 0 ? 100 : done * 100 / total;
    if (percent != last && isatty(STDERR_FILENO)) {
        fprintf(stderr, "\r%llu %%\033[K", (unsigned long long)percent);
        *drawn = true;
        last = percent;
    }
    return true;
}

/* 1234567 as "1,234,567". */
static const char *grouped(uint64_t number, char to[32])
{
    char digits[24];
    int len = snprintf(digits, sizeof digits, "%llu", (unsigned long long)number);
    size_t at = 0;
    for (int index = 0; index < len; index++) {
        if (index > 0 && (len - index) % 3 == 0) {
            to[at++] = ',';
        }
        to[at++] = digits[index];
    }
    to[at] = '\0';
    return to;
}

/* Findings are the product and go to standard output. 0: sound; 1: not, or it could not be seen. */
static int check_store(const struct config *config)
{
    struct store_check check;
    struct store_report report;
    char text[3][32];
    bool drawn = false;
    catch_faults();
    enum err err =
        store_check(config->state, print_finding, &drawn, print_progress, &drawn, &check, &report);
    if (drawn) {
        fputs("\r\033[K", stderr);
    }
    if (err == ERR_OK) {
        printf("sound: %s %s, %s in the history, %s pages\n", grouped(check.messages, text[0]),
               check.messages == 1 ? "message" : "messages", grouped(check.history, text[1]),
               grouped(check.pages, text[2]));
        if (report.problem[0] != '\0') {
            printf("note: %s\n", report.problem);
        }
        return 0;
    }
    if (check.findings > 0) {
        printf("%s %s\n", grouped(check.findings, text[0]),
               check.findings == 1 ? "finding" : "findings");
    }
    if (err != ERR_DAMAGED || check.findings == 0) {
        fprintf(stderr, "tasukid: the check is not complete: %s\n", report.problem);
    }
    return EXIT_FAILURE;
}

static int usage(FILE *to, int code)
{
    fprintf(to, "usage: tasukid [-c FILE] [--check | --check-store]\n"
                "\n"
                "Takes mail on the LAN, queues it durably, relays it to the provider over "
                "authenticated TLS.\n"
                "\n"
                "  -c FILE     configuration; default " DEFAULT_CONFIG "\n"
                "  --check     judge the configuration and exit (78: something is wrong with it)\n"
                "  --check-store\n"
                "              judge the queue, page by page and record by record, and exit (0: "
                "sound, 1: not);\n"
                "              also while tasukid runs\n"
                "  --version   say the version and exit\n"
                "  --help      this text\n"
                "\n"
                "It stays in the foreground and logs to standard error. TERM and INT stop it.\n");
    return code;
}

/* Descriptors 0 to 2 must exist, or a socket could become one of them and be logged into. */
static bool standard_descriptors(void)
{
    FILE *null = NULL;
    for (int fd = 0; fd <= 2; fd++) {
        struct stat there;
        if (fstat(fd, &there) != 0 && (null = fopen("/dev/null", "r+")) == NULL) {
            return false;
        }
    }
    (void)null;
    return true;
}

int main(int argc, char **argv)
{
    const char *file = DEFAULT_CONFIG;
    bool check_only = false;
    bool check_queue = false;
    if (!standard_descriptors()) {
        return EX_OSERR;
    }
    for (int at = 1; at < argc; at++) {
        if (strcmp(argv[at], "-c") == 0 && at + 1 < argc) {
            file = argv[++at];
        } else if (strcmp(argv[at], "--check") == 0) {
            check_only = true;
        } else if (strcmp(argv[at], "--check-store") == 0) {
            check_queue = true;
        } else if (strcmp(argv[at], "--version") == 0) {
            printf("tasukid %s\n", TASUKI_VERSION);
            return 0;
        } else if (strcmp(argv[at], "--help") == 0 || strcmp(argv[at], "-h") == 0) {
            return usage(stdout, 0);
        } else {
            fprintf(stderr, "tasukid: unknown argument \"%s\"\n\n", argv[at]);
            return usage(stderr, EX_USAGE);
        }
    }
    static struct program program;
    static struct config_errors errors;
    check_set_last_words(last_words);
    if (config_load(&program.config, file, true, &errors) != ERR_OK) {
        print_errors(file, &errors);
        return EX_CONFIG;
    }
    if (check_only) {
        printf("%s: nothing is wrong with it\n", file);
        config_free(&program.config);
        return 0;
    }
    if (check_queue) {
        int code = check_store(program.config);
        config_free(&program.config);
        return code;
    }
    /* Passwords pass through this process: it leaves no core file and cannot be traced by its own
     * user. */
    struct rlimit no_core = {0, 0};
    (void)setrlimit(RLIMIT_CORE, &no_core);
    (void)prctl(PR_SET_DUMPABLE, 0);
    enum log_level level = (enum log_level)program.config->log_level;
    if (logger_start(&program.logger, level, getenv("JOURNAL_STREAM") == NULL) != ERR_OK) {
        return complain("log", "out of memory", EX_OSERR);
    }
    int code = run(&program);
    logger_stop(&program.logger);
    config_free(&program.config);
    return code;
}
