/*
 * Lookups through c-ares, driven by poll.
 *
 * One lookup takes these steps, each only when the one before had no answer:
 *
 *     literal -> hosts file -> MX (when wanted) -> addresses of each MX host, or of the name itself
 *
 * Two channels: `files` knows the hosts file only and answers at once; `servers` asks DNS only. So
 * a name in the hosts file is never asked for, not even for its MX.
 *
 * A lookup answers once, at its deadline at the latest. The library cannot take single queries
 * back, so the lookup stays in the list until its last query has come home; each of those has a
 * bound of its own (tries and timeout).
 *
 * All of it belongs to one thread. What comes from DNS is a peer's: it is judged, bounded, and
 * never trusted to end in time.
 */
#define CARES_NO_DEPRECATED /* newer versions would like other calls, which 1.18 does not have */

#include "daemon/dns/dns.h"

#include "daemon/base/num.h"
#include "daemon/dns/dns_parse.h"

#include <ares.h>
#include <arpa/inet.h>
#include <arpa/nameser.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>

#define MX_HOSTS_MAX     16
#define SOCKETS_MAX      64
#define TRIES            3
#define TRY_MS_MIN       20
#define TRY_MS_MAX       5000
#define TRIES_SPAN       10   /* 1 + 2 + 4, the timeout doubles with each try; and some to spare */
#define UDP_BYTES_MAX    1232 /* EDNS; never fragmented. DNS flag day 2020 */
#define TTL_LITERAL_S    86400
#define TTL_HOSTS_S      60
#define RESOLV_CONF      "/etc/resolv.conf"
#define NAME_SHOWN_BYTES 60
#define POLL_MS_MAX      3600000

struct mx_host {
    char name[DNS_NAME_BYTES_MAX + 1];
    uint16_t preference;
    uint16_t chance; /* orders equal preferences */
    uint32_t count;
    union dns_place places[DNS_ADDRESSES_MAX];
};

enum lookup_state {
    LOOKUP_FILES,     /* the hosts file is asked */
    LOOKUP_MX,        /* the MX query is out */
    LOOKUP_ADDRESSES, /* address queries are out, waiting of them */
    LOOKUP_ANSWERED,  /* done was called; what still comes is dropped */
};

struct lookup {
    struct lookup *next; /* in dns->lookups */
    struct dns *dns;     /* borrowed */
    enum lookup_state state;
    uint32_t queries_out; /* callbacks that will still come */
    uint64_t deadline_ms;
    bool use_mx;
    uint16_t port;
    uint32_t ttl_s;
    int worst_status; /* the library's, of what failed: a passing failure before a final one */
    bool has_mx;      /* hosts are MX hosts, not the name itself */
    dns_done_fn *done;
    void *ctx;
    char name[DNS_NAME_BYTES_MAX + 1];
    uint32_t host_count;
    struct mx_host hosts[MX_HOSTS_MAX];
};

/* One address query: which host of which lookup it is for. */
struct query {
    struct lookup *lookup;
    uint32_t host;
};

struct dns {
    ares_channel files;
    ares_channel servers;
    bool system_servers; /* from resolv.conf, which may change */
    struct stat resolv_conf;
    char *servers_csv; /* owned; "" for the system's */
    uint32_t timeout_ms;
    struct lookup *lookups;
    uint32_t socket_count;
    struct pollfd sockets[SOCKETS_MAX];
};

static uint64_t now_ms(void)
{
    struct timespec now;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---- answers ---- */

static bool is_lookup_over(const struct lookup *l)
{
    return l->state == LOOKUP_ANSWERED;
}

static void lookup_say(struct lookup *l, const struct dns_answer *answer)
{
    l->state = LOOKUP_ANSWERED;
    l->done(l->ctx, answer);
}

static void lookup_fail(struct lookup *l, enum outcome outcome, const char *why)
{
    struct dns_answer answer = {.outcome = outcome};
    snprintf(answer.text, sizeof answer.text, "%.*s %s", NAME_SHOWN_BYTES, l->name, why);
    lookup_say(l, &answer);
}

/* The name exists as far as anybody knows, but nobody could say. */
static bool status_is_final(int status)
{
    return status == ARES_ENOTFOUND || status == ARES_ENODATA || status == ARES_EBADNAME ||
           status == ARES_ENONAME;
}

static const char *status_text(const struct lookup *l)
{
    switch (l->worst_status) {
    case ARES_ENOTFOUND:
    case ARES_ENONAME:
        return l->has_mx ? "has MX hosts, but they do not exist" : "does not exist";
    case ARES_ENODATA:
        return l->has_mx ? "has MX hosts without an address" : "has no address";
    case ARES_EBADNAME:
        return "is not a host name";
    case ARES_ESERVFAIL:
        return "cannot be looked up: the DNS server failed (SERVFAIL)";
    case ARES_EREFUSED:
        return "cannot be looked up: the DNS server refuses to answer (REFUSED)";
    case ARES_ETIMEOUT:
        return "cannot be looked up: the DNS server does not answer";
    case ARES_ECONNREFUSED:
        /* 1.18 also says this when every server failed or refused. */
        return "cannot be looked up: no DNS server is there, or each fails or refuses";
    case ARES_EBADRESP:
    case ARES_EFORMERR:
        return "cannot be looked up: the DNS server's answer makes no sense";
    case ARES_ENOMEM:
        return "cannot be looked up: out of memory";
    case ARES_ECANCELLED:
    case ARES_EDESTRUCTION:
        return "was not looked up: stopping";
    default:
        return "cannot be looked up";
    }
}

static bool places_equal(const struct sockaddr_storage *have, const union dns_place *place)
{
    if (have->ss_family != place->family) {
        return false;
    }
    if (place->family == AF_INET) {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)have;
        return v4->sin_addr.s_addr == place->v4.sin_addr.s_addr;
    }
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)have;
    return memcmp(&v6->sin6_addr, &place->v6.sin6_addr, sizeof v6->sin6_addr) == 0 &&
           v6->sin6_scope_id == place->v6.sin6_scope_id;
}

static void answer_add(struct dns_answer *answer, const struct mx_host *host,
                       const union dns_place *place, uint16_t port)
{
    for (uint32_t index = 0; index < answer->count; index++) {
        if (places_equal(&answer->addresses[index].address, place)) {
            return;
        }
    }
    if (answer->count == DNS_ADDRESSES_MAX) {
        return;
    }
    struct dns_address *to = &answer->addresses[answer->count++];
    union dns_place with_port = *place;
    if (place->family == AF_INET) {
        with_port.v4.sin_port = htons(port);
        to->len = sizeof with_port.v4;
        memcpy(&to->address, &with_port.v4, sizeof with_port.v4);
    } else {
        with_port.v6.sin6_port = htons(port);
        to->len = sizeof with_port.v6;
        memcpy(&to->address, &with_port.v6, sizeof with_port.v6);
    }
    memcpy(to->host, host->name, sizeof to->host);
}

/* Answers with what has come so far: the hosts in order, and each one's addresses in order. */
static void lookup_finish(struct lookup *l)
{
    struct dns_answer answer = {.outcome = OUTCOME_DELIVERED, .ttl_s = l->ttl_s};
    for (uint32_t host = 0; host < l->host_count; host++) {
        for (uint32_t index = 0; index < l->hosts[host].count; index++) {
            answer_add(&answer, &l->hosts[host], &l->hosts[host].places[index], l->port);
        }
    }
    if (answer.count > 0) {
        lookup_say(l, &answer);
    } else {
        lookup_fail(l,
                    status_is_final(l->worst_status) ? OUTCOME_NAME_NOT_FOUND : OUTCOME_DNS_FAILED,
                    status_text(l));
    }
}

static void lookup_note_ttl(struct lookup *l, int64_t ttl_s)
{
    uint64_t ttl = ttl_s < 0 ? 0 : (uint64_t)ttl_s;
    l->ttl_s = (uint32_t)u64_min(l->ttl_s, ttl);
}

static void lookup_note_status(struct lookup *l, int status)
{
    if (l->worst_status == ARES_SUCCESS || status_is_final(l->worst_status)) {
        l->worst_status = status;
    }
}

/* ---- addresses ---- */

static bool place_take(union dns_place *to, const struct ares_addrinfo_node *node)
{
    *to = (union dns_place){0};
    if (node->ai_family == AF_INET && node->ai_addrlen == sizeof to->v4) {
        memcpy(&to->v4, node->ai_addr, sizeof to->v4);
    } else if (node->ai_family == AF_INET6 && node->ai_addrlen == sizeof to->v6) {
        memcpy(&to->v6, node->ai_addr, sizeof to->v6);
    } else {
        return false;
    }
    return true;
}

static void host_take(struct lookup *l, struct mx_host *host, const struct ares_addrinfo *info)
{
    for (const struct ares_addrinfo_node *node = info->nodes;
         node != NULL && host->count < DNS_ADDRESSES_MAX; node = node->ai_next) {
        if (place_take(&host->places[host->count], node)) {
            host->count++;
            lookup_note_ttl(l, node->ai_ttl);
        }
    }
    for (const struct ares_addrinfo_cname *cname = info->cnames; cname != NULL;
         cname = cname->next) {
        lookup_note_ttl(l, cname->ttl);
    }
}

/* One count less: a query's whose callback has come, or our own. After the last there is nothing
 * more to wait for. */
static void lookup_count_back(struct lookup *l)
{
    l->queries_out--;
    if (!is_lookup_over(l) && l->queries_out == 0) {
        lookup_finish(l);
    }
}

static void lookup_unlink_if_idle(struct lookup *l);

static void on_addresses(void *ctx, int status, int timeouts, struct ares_addrinfo *info)
{
    struct query *query = ctx;
    struct lookup *l = query->lookup;
    (void)timeouts;
    if (!is_lookup_over(l)) {
        if (status == ARES_SUCCESS && info != NULL) {
            host_take(l, &l->hosts[query->host], info);
        } else {
            lookup_note_status(l, status);
        }
    }
    ares_freeaddrinfo(info);
    free(query);
    lookup_count_back(l);
    lookup_unlink_if_idle(l);
}

static bool ask_addresses(struct lookup *l, ares_channel channel, uint32_t host, const char *name,
                          ares_addrinfo_callback callback)
{
    static const struct ares_addrinfo_hints hints = {
        .ai_family = AF_UNSPEC,
        .ai_socktype = SOCK_STREAM,
    };
    struct query *query = malloc(sizeof *query);
    if (query == NULL) {
        lookup_note_status(l, ARES_ENOMEM);
        return false;
    }
    *query = (struct query){l, host};
    l->queries_out++;
    ares_getaddrinfo(channel, name, NULL, &hints, callback, query);
    return true;
}

/*
 * All hosts at once: the best one decides, but the others' addresses should be there when it does
 * not answer. An MX host is a whole name (the dot keeps the search list away); the admin's own name
 * is looked up as everywhere on this box.
 */
static void lookup_ask_hosts(struct lookup *l)
{
    l->state = LOOKUP_ADDRESSES;
    l->queries_out++; /* ours, so that an answer at once does not end the lookup in the loop */
    for (uint32_t host = 0; host < l->host_count; host++) {
        char whole[DNS_NAME_BYTES_MAX + 2];
        snprintf(whole, sizeof whole, "%s%s", l->hosts[host].name, l->has_mx ? "." : "");
        (void)ask_addresses(l, l->dns->servers, host, whole, on_addresses);
    }
    lookup_count_back(l);
}

static void lookup_set_own_host(struct lookup *l)
{
    l->has_mx = false;
    l->host_count = 1;
    l->hosts[0].count = 0;
    memcpy(l->hosts[0].name, l->name, sizeof l->hosts[0].name);
}

/* ---- MX ---- */

static uint16_t draw(void)
{
    uint16_t chance = 0;
    if (getrandom(&chance, sizeof chance, GRND_NONBLOCK) != (ssize_t)sizeof chance) {
        chance = 0; /* early in the boot: unshuffled will do */
    }
    return chance;
}

static bool host_is_before(const struct mx_host *a, uint16_t preference, uint16_t chance)
{
    return a->preference < preference || (a->preference == preference && a->chance <= chance);
}

/* Keeps the best MX_HOSTS_MAX, in order. */
static void mx_insert(struct lookup *l, struct slice name, uint16_t preference)
{
    uint16_t chance = draw();
    uint32_t at = l->host_count;
    while (at > 0 && !host_is_before(&l->hosts[at - 1], preference, chance)) {
        at--;
    }
    if (at == MX_HOSTS_MAX) {
        return;
    }
    uint32_t last = l->host_count < MX_HOSTS_MAX ? l->host_count++ : MX_HOSTS_MAX - 1;
    memmove(&l->hosts[at + 1], &l->hosts[at], (last - at) * sizeof l->hosts[0]);
    struct mx_host *host = &l->hosts[at];
    host->preference = preference;
    host->chance = chance;
    host->count = 0;
    memcpy(host->name, name.data, name.len);
    memset(host->name + name.len, 0, sizeof host->name - name.len);
}

/* Returns how many records there were, usable or not. */
static uint32_t mx_take(struct lookup *l, const struct ares_mx_reply *reply)
{
    uint32_t records = 0;
    for (; reply != NULL && records < DNS_RECORDS_MAX; reply = reply->next) {
        struct slice name = slice_from_str(reply->host == NULL ? "" : reply->host);
        if (name.len > 0 && name.data[name.len - 1] == '.') {
            name.len--;
        }
        records++;
        if (dns_name_is_usable(name)) {
            mx_insert(l, name, reply->priority);
        }
    }
    return records;
}

static void lookup_use_mx(struct lookup *l, struct slice packet)
{
    struct ares_mx_reply *reply = NULL;
    CHECK(packet.len <= INT32_MAX);
    int status = ares_parse_mx_reply(packet.data, (int)packet.len, &reply);
    if (status == ARES_ENODATA) {
        lookup_set_own_host(l);
        lookup_ask_hosts(l);
        return;
    }
    if (status != ARES_SUCCESS) {
        lookup_note_status(l, status);
        lookup_fail(l, OUTCOME_DNS_FAILED, status_text(l));
        return;
    }
    l->host_count = 0;
    uint32_t records = mx_take(l, reply);
    ares_free_data(reply);
    lookup_note_ttl(l, dns_packet_ttl_s(packet));
    if (l->host_count > 0) {
        l->has_mx = true;
        lookup_ask_hosts(l);
    } else if (records == 1) {
        lookup_fail(l, OUTCOME_NAME_NOT_FOUND, "takes no mail (its MX is \".\", RFC 7505)");
    } else {
        lookup_fail(l, OUTCOME_NAME_NOT_FOUND, "has only MX records that name no host");
    }
}

/*
 * Without MX the name itself is the host. That also goes for a name that DNS denies: the search
 * list may know it, and else the address query says so. A failure is not taken for "none": the
 * addresses of the name itself may be somebody else's. RFC 5321 5.1.
 */
static void on_mx(void *ctx, int status, int timeouts, unsigned char *packet, int bytes)
{
    struct lookup *l = ctx;
    (void)timeouts;
    l->queries_out--;
    if (!is_lookup_over(l)) {
        if (status == ARES_SUCCESS && packet != NULL && bytes > 0) {
            lookup_use_mx(l, slice_of(packet, (size_t)bytes));
        } else if (status_is_final(status)) {
            lookup_set_own_host(l);
            lookup_ask_hosts(l);
        } else {
            lookup_note_status(l, status);
            lookup_fail(l, OUTCOME_DNS_FAILED, status_text(l));
        }
    }
    lookup_unlink_if_idle(l);
}

/* ---- the hosts file ---- */

static void on_files(void *ctx, int status, int timeouts, struct ares_addrinfo *info)
{
    struct query *query = ctx;
    struct lookup *l = query->lookup;
    (void)timeouts;
    l->queries_out--;
    if (status == ARES_SUCCESS && info != NULL) {
        host_take(l, &l->hosts[0], info);
    }
    ares_freeaddrinfo(info);
    free(query);
}

/* The channel has no server to wait for: the answer is there when the call returns. */
static bool lookup_in_files(struct lookup *l)
{
    lookup_set_own_host(l);
    if (!ask_addresses(l, l->dns->files, 0, l->name, on_files) || l->hosts[0].count == 0) {
        l->hosts[0].count = 0;
        l->ttl_s = DNS_TTL_S_MAX;
        return false;
    }
    l->ttl_s = TTL_HOSTS_S;
    lookup_finish(l);
    return true;
}

/* ---- a lookup's life ---- */

static void lookup_unlink_if_idle(struct lookup *l)
{
    if (!is_lookup_over(l) || l->queries_out > 0) {
        return;
    }
    struct lookup **at = &l->dns->lookups;
    while (*at != l) {
        CHECK(*at != NULL);
        at = &(*at)->next;
    }
    *at = l->next;
    free(l);
}

static void lookup_begin(struct lookup *l, const char *host)
{
    union dns_place place;
    if (dns_literal_parse(host, &place)) {
        if (l->name[0] == '[') {
            memmove(l->name, l->name + 1, strlen(l->name));
            l->name[strlen(l->name) - 1] = '\0';
        }
        lookup_set_own_host(l);
        l->hosts[0].count = 1;
        l->hosts[0].places[0] = place;
        l->ttl_s = TTL_LITERAL_S;
        lookup_finish(l);
        return;
    }
    if (!dns_name_is_usable(slice_from_str(l->name))) {
        lookup_fail(l, OUTCOME_NAME_NOT_FOUND, "is not a host name");
        return;
    }
    if (lookup_in_files(l)) {
        return;
    }
    if (l->use_mx) {
        l->state = LOOKUP_MX;
        l->queries_out++;
        ares_query(l->dns->servers, l->name, ns_c_in, ns_t_mx, on_mx, l);
        return;
    }
    lookup_ask_hosts(l);
}

static void answer_without_lookup(dns_done_fn *done, void *ctx, enum outcome outcome,
                                  const char *words)
{
    struct dns_answer answer = {.outcome = outcome};
    snprintf(answer.text, sizeof answer.text, "%s", words);
    done(ctx, &answer);
}

static void servers_refresh(struct dns *dns);

void dns_lookup(struct dns *dns, const char *host, uint16_t port, bool use_mx, dns_done_fn *done,
                void *ctx)
{
    size_t bytes = strlen(host);
    bytes -= bytes > 1 && host[bytes - 1] == '.' ? 1 : 0;
    if (bytes == 0 || bytes > DNS_NAME_BYTES_MAX) {
        answer_without_lookup(done, ctx, OUTCOME_NAME_NOT_FOUND, "not a host name");
        return;
    }
    servers_refresh(dns);
    struct lookup *l = calloc(1, sizeof *l);
    if (l == NULL) {
        answer_without_lookup(done, ctx, OUTCOME_DNS_FAILED, "out of memory");
        return;
    }
    *l = (struct lookup){
        .next = dns->lookups,
        .dns = dns,
        .deadline_ms = now_ms() + dns->timeout_ms,
        .use_mx = use_mx,
        .port = port,
        .ttl_s = DNS_TTL_S_MAX,
        .done = done,
        .ctx = ctx,
    };
    memcpy(l->name, host, bytes);
    dns->lookups = l;
    l->queries_out++; /* ours, until the lookup is under way */
    lookup_begin(l, host);
    lookup_count_back(l); /* without memory no query may have gone out */
    lookup_unlink_if_idle(l);
}

/* ---- the library's sockets ---- */

static void on_socket(void *ctx, ares_socket_t fd, int readable, int writable)
{
    struct dns *dns = ctx;
    short events = (short)((readable ? POLLIN : 0) | (writable ? POLLOUT : 0));
    uint32_t at = 0;
    while (at < dns->socket_count && dns->sockets[at].fd != fd) {
        at++;
    }
    if (events == 0) {
        if (at < dns->socket_count) {
            dns->sockets[at] = dns->sockets[--dns->socket_count];
        }
        return;
    }
    /* One too many is not heard; its query runs into its timeout. */
    if (at < SOCKETS_MAX) {
        dns->sockets[at] = (struct pollfd){.fd = fd, .events = events};
        dns->socket_count += at == dns->socket_count ? 1 : 0;
    }
}

static enum err channel_open(struct dns *dns, ares_channel *out, const char *lookups,
                             uint32_t try_ms)
{
    char order[2];
    snprintf(order, sizeof order, "%s", lookups);
    struct ares_options options = {
        .flags = ARES_FLAG_EDNS,
        .timeout = (int)u64_min(u64_max(try_ms, TRY_MS_MIN), TRY_MS_MAX),
        .tries = TRIES,
        .ednspsz = UDP_BYTES_MAX,
        .lookups = order,
        .sock_state_cb = on_socket,
        .sock_state_cb_data = dns,
    };
    int status =
        ares_init_options(out, &options,
                          ARES_OPT_FLAGS | ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES | ARES_OPT_EDNSPSZ |
                              ARES_OPT_LOOKUPS | ARES_OPT_SOCK_STATE_CB);
    if (status == ARES_SUCCESS && dns->servers_csv[0] != '\0') {
        status = ares_set_servers_ports_csv(*out, dns->servers_csv);
        if (status != ARES_SUCCESS) {
            ares_destroy(*out);
        }
    }
    if (status != ARES_SUCCESS) {
        *out = NULL;
        return status == ARES_ENOMEM         ? ERR_NO_MEMORY
               : dns->servers_csv[0] != '\0' ? ERR_SYNTAX
                                             : ERR_IO;
    }
    return ERR_OK;
}

static uint32_t servers_count(ares_channel channel)
{
    struct ares_addr_port_node *servers = NULL;
    uint32_t count = 0;
    if (ares_get_servers_ports(channel, &servers) != ARES_SUCCESS) {
        return 1;
    }
    for (const struct ares_addr_port_node *at = servers; at != NULL; at = at->next) {
        count++;
    }
    ares_free_data(servers);
    return count == 0 ? 1 : count;
}

/*
 * Opened twice, since the library's timeout is that of one try at one server, and ours that of all:
 * a server that swallows one kind of question (AAAA, often) has to be given up before the deadline,
 * or the answer to the other kind is lost with it.
 */
static enum err servers_open(struct dns *dns, ares_channel *out)
{
    ares_channel channel;
    enum err err = channel_open(dns, &channel, "b", TRY_MS_MAX);
    if (err != ERR_OK) {
        return err;
    }
    uint32_t count = servers_count(channel);
    ares_destroy(channel);
    err = channel_open(dns, &channel, "b", dns->timeout_ms / (TRIES_SPAN * count));
    if (err == ERR_OK) {
        *out = channel;
    }
    return err;
}

static bool resolv_conf_changed(struct dns *dns)
{
    struct stat now = {0};
    if (stat(RESOLV_CONF, &now) != 0) {
        return false; /* in the middle of being replaced: keep what works */
    }
    bool changed = now.st_ino != dns->resolv_conf.st_ino ||
                   now.st_size != dns->resolv_conf.st_size ||
                   now.st_mtim.tv_sec != dns->resolv_conf.st_mtim.tv_sec ||
                   now.st_mtim.tv_nsec != dns->resolv_conf.st_mtim.tv_nsec;
    dns->resolv_conf = now;
    return changed;
}

/* A box that moves to another network gets other servers; the library reads them only at its start.
 * While queries are out the old ones stay. */
static void servers_refresh(struct dns *dns)
{
    if (!dns->system_servers || dns->lookups != NULL || !resolv_conf_changed(dns)) {
        return;
    }
    ares_channel fresh;
    if (servers_open(dns, &fresh) == ERR_OK) {
        ares_destroy(dns->servers);
        dns->servers = fresh;
    }
}

enum err dns_new(struct dns **out, const struct dns_config *config)
{
    struct dns *dns = calloc(1, sizeof *dns);
    if (dns == NULL) {
        return ERR_NO_MEMORY;
    }
    if (ares_library_init(ARES_LIB_INIT_ALL) != ARES_SUCCESS) {
        free(dns);
        return ERR_NO_MEMORY;
    }
    dns->timeout_ms = config->timeout_ms;
    dns->servers_csv = strdup(config->servers == NULL ? "" : config->servers);
    enum err err = dns->servers_csv == NULL ? ERR_NO_MEMORY : ERR_OK;
    if (err == ERR_OK) {
        dns->system_servers = dns->servers_csv[0] == '\0';
        (void)resolv_conf_changed(dns);
        err = channel_open(dns, &dns->files, "f", TRY_MS_MAX);
    }
    if (err == ERR_OK) {
        err = servers_open(dns, &dns->servers);
    }
    if (err != ERR_OK) {
        dns_free(&dns);
        return err;
    }
    *out = dns;
    return ERR_OK;
}

void dns_free(struct dns **dns)
{
    struct dns *d = *dns;
    if (d == NULL) {
        return;
    }
    /* Calls back for all that is out, and so answers and frees every lookup. */
    if (d->servers != NULL) {
        ares_destroy(d->servers);
    }
    if (d->files != NULL) {
        ares_destroy(d->files);
    }
    CHECK(d->lookups == NULL);
    free(d->servers_csv);
    free(d);
    ares_library_cleanup();
    *dns = NULL;
}

/* ---- waiting ---- */

static struct lookup *first_expired(const struct dns *dns, uint64_t now)
{
    struct lookup *l = dns->lookups;
    while (l != NULL && (is_lookup_over(l) || l->deadline_ms > now)) {
        l = l->next;
    }
    return l;
}

/* Answers what has run out of time, with what it has. From the front each time: an answer may lead
 * to a new lookup, and that to calls back for any other. */
static void expire(struct dns *dns)
{
    uint64_t now = now_ms();
    struct lookup *l;
    while ((l = first_expired(dns, now)) != NULL) {
        lookup_note_status(l, ARES_ETIMEOUT);
        lookup_finish(l);
    }
}

/* How long to wait at most: the caller's time, the library's next retry, the next deadline. */
static int wait_ms(struct dns *dns, int timeout_ms)
{
    uint64_t least = timeout_ms < 0 ? POLL_MS_MAX : (uint64_t)timeout_ms;
    uint64_t now = now_ms();
    struct timeval next;
    if (ares_timeout(dns->servers, NULL, &next) != NULL) {
        /* The library rounds down to whole milliseconds, and would be asked in vain, over and over,
         * in the last one. */
        uint64_t ms = (uint64_t)next.tv_sec * 1000 + (uint64_t)next.tv_usec / 1000 + 1;
        least = u64_min(least, ms);
    }
    for (const struct lookup *l = dns->lookups; l != NULL; l = l->next) {
        if (!is_lookup_over(l)) {
            least = u64_min(least, l->deadline_ms > now ? l->deadline_ms - now : 0);
        }
    }
    return (int)u64_min(least, POLL_MS_MAX);
}

bool dns_process(struct dns *dns, int extra_fd, int timeout_ms)
{
    /* A copy: the library opens and closes sockets while they are gone through. */
    struct pollfd waiting[SOCKETS_MAX + 1];
    nfds_t count = dns->socket_count;
    memcpy(waiting, dns->sockets, dns->socket_count * sizeof waiting[0]);
    waiting[count] = (struct pollfd){.fd = extra_fd, .events = POLLIN};
    int ready = poll(waiting, count + 1, wait_ms(dns, timeout_ms));
    for (nfds_t index = 0; ready > 0 && index < count; index++) {
        short got = waiting[index].revents;
        if (got != 0) {
            bool readable = (got & (POLLIN | POLLERR | POLLHUP)) != 0;
            bool writable = (got & (POLLOUT | POLLERR)) != 0;
            ares_process_fd(dns->servers, readable ? waiting[index].fd : ARES_SOCKET_BAD,
                            writable ? waiting[index].fd : ARES_SOCKET_BAD);
        }
    }
    ares_process_fd(dns->servers, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
    expire(dns);
    return ready > 0 && extra_fd >= 0 && waiting[count].revents != 0;
}
