/*
 * What only shows when all is read: settings that need, forbid or contradict each other. A check
 * whose settings were refused already stays silent, so that one mistake is one complaint.
 */
#include "daemon/config/config_private.h"

#include <stdio.h>
#include <sys/un.h>

#define FINGERPRINT_DIGITS 64             /* SHA-256 */
#define SOCKET_NAME        "/submit.sock" /* the longest name that is made in run */

struct check {
    const struct config *config;
    const struct config_marks *marks;
    struct config_errors *errors;
};

static const struct config_place whole_file;

static bool is_given(const struct config_mark *mark)
{
    return mark->state == CONFIG_MARK_GIVEN;
}

static bool is_well(const struct config_mark *mark)
{
    return mark->state != CONFIG_MARK_BAD;
}

/* The one that the file gives, or else the other, or else nowhere. */
static struct config_place place_of(const struct config_mark *mark, const struct config_mark *other)
{
    return is_given(mark) ? mark->place : other->place;
}

/* ---- pairs in order ---- */

static const struct {
    size_t small, large; /* rows of one section: small <= large */
} ordered[] = {
    {CONFIG_ROW_GLOBAL_retry_min_ms, CONFIG_ROW_GLOBAL_retry_max_ms},
    {CONFIG_ROW_GLOBAL_retry_min_ms, CONFIG_ROW_GLOBAL_give_up_ms},
    {CONFIG_ROW_GLOBAL_max_size, CONFIG_ROW_GLOBAL_queue_max},
    {CONFIG_ROW_UPSTREAM_probe_min_ms, CONFIG_ROW_UPSTREAM_probe_max_ms},
};

static void check_order(const struct check *c, size_t pair, const void *base,
                        const struct config_mark *marks)
{
    const struct config_setting *small = &config_settings[ordered[pair].small];
    const struct config_setting *large = &config_settings[ordered[pair].large];
    const struct config_mark *small_mark = &marks[ordered[pair].small];
    const struct config_mark *large_mark = &marks[ordered[pair].large];
    uint64_t values[2];
    memcpy(&values[0], (const uint8_t *)base + small->offset, sizeof values[0]);
    memcpy(&values[1], (const uint8_t *)base + large->offset, sizeof values[1]);
    if (!is_well(small_mark) || !is_well(large_mark) || values[0] <= values[1]) {
        return;
    }
    char texts[2][40];
    for (size_t index = 0; index < 2; index++) {
        struct buf to;
        buf_init(&to, texts[index], sizeof texts[index] - 1);
        config_put_value(&to, index == 0 ? small : large, base);
        texts[index][to.len] = '\0';
    }
    char fix[200];
    bool raise = is_given(small_mark);
    (void)snprintf(fix, sizeof fix, "write: %s = %s", raise ? large->key : small->key,
                   texts[raise ? 0 : 1]);
    config_report(c->errors, place_of(small_mark, large_mark), fix,
                  "%s (%s%s) is more than %s (%s%s)", small->key, texts[0],
                  is_given(small_mark) ? "" : ", the default", large->key, texts[1],
                  is_given(large_mark) ? "" : ", the default");
}

static void check_orders(const struct check *c, enum config_section section, const void *base,
                         const struct config_mark *marks)
{
    for (size_t pair = 0; pair < sizeof ordered / sizeof ordered[0]; pair++) {
        if (config_settings[ordered[pair].small].section == section) {
            check_order(c, pair, base, marks);
        }
    }
}

/* ---- the whole ---- */

static void check_allow(const struct check *c)
{
    const struct config *config = c->config;
    const struct config_mark *mark = &c->marks->global[CONFIG_ROW_GLOBAL_allow];
    if (config->allow_anyone || !is_well(mark) ||
        !is_well(&c->marks->global[CONFIG_ROW_GLOBAL_allow_anyone])) {
        return;
    }
    for (uint32_t index = 0; index < config->allow.count; index++) {
        if (config_address_is_wide(&config->allow.items[index])) {
            config_report(
                c->errors, mark->place,
                "narrow it, or, to be open to strangers, add: insecure-allow-anyone = yes",
                "allow holds a network of the whole Internet or a large part of it: "
                "strangers could send through this box");
            return;
        }
    }
}

static void check_dashboard(const struct check *c)
{
    const struct config *config = c->config;
    const struct config_mark *mark = &c->marks->global[CONFIG_ROW_DASHBOARD_listen];
    const struct config_mark *other = &c->marks->global[CONFIG_ROW_GLOBAL_listen];
    for (uint32_t index = 0; is_well(mark) && is_well(other) && index < config->listen.count;
         index++) {
        if (config_address_listens_overlap(&config->dashboard.listen,
                                           &config->listen.items[index])) {
            config_report(c->errors, place_of(mark, other),
                          "give the page a port of its own, for example: listen = 127.0.0.1:8025",
                          "the page's listener %s is taken by that for mail, %s",
                          config->dashboard.listen.text, config->listen.items[index].text);
            return;
        }
    }
}

/* A unix socket's path has 107 bytes and its NUL; unix(7). */
static void check_run(const struct check *c)
{
    size_t max = sizeof((struct sockaddr_un *)NULL)->sun_path - sizeof SOCKET_NAME;
    if (strlen(c->config->run) > max) {
        config_report(c->errors, c->marks->global[CONFIG_ROW_GLOBAL_run].place, "",
                      "run may have %zu bytes, for the sake of the sockets in it, and has %zu", max,
                      strlen(c->config->run));
    }
}

static void check_dns_servers(const struct check *c)
{
    const struct config_mark *mark = &c->marks->global[CONFIG_ROW_GLOBAL_dns_servers];
    struct slice rest = slice_from_str(c->config->dns_servers);
    struct slice item;
    while (is_given(mark) && config_list_next(&rest, &item)) {
        if (!config_address_is_name_server(item)) {
            config_report(
                c->errors, mark->place, "for example: dns = 192.168.1.1, [2001:db8::1]:53",
                "%s is no ADDRESS or ADDRESS:PORT of a name server", config_quote(item).text);
            return;
        }
    }
}

/* ---- one upstream ---- */

struct upstream_check {
    const struct check *check;
    const struct config_upstream *upstream;
    const struct config_mark *marks;
    struct config_place begin; /* of the section, or of the first key */
    bool at_top;
};

#define MARK(u, member) (&(u)->marks[CONFIG_ROW_UPSTREAM_##member])

static void check_host(const struct upstream_check *u)
{
    const struct config *config = u->check->config;
    const struct config_mark *mark = MARK(u, host);
    const char *key = u->at_top ? "upstream" : "host";
    if (mark->state == CONFIG_MARK_DEFAULT) {
        char fix[200];
        (void)snprintf(fix, sizeof fix, "add a line: %s = [relay.example.jp]:587", key);
        config_report(u->check->errors, u->begin, fix, "the upstream \"%s\" has no %s",
                      u->upstream->name, key);
        return;
    }
    bool listen_is_well = is_well(&u->check->marks->global[CONFIG_ROW_GLOBAL_listen]);
    for (uint32_t index = 0; is_given(mark) && listen_is_well && index < config->listen.count;
         index++) {
        if (config_address_is_loop(&u->upstream->host, &config->listen.items[index],
                                   config->hostname)) {
            config_report(u->check->errors, mark->place, "name the provider's server",
                          "%s is this box itself, at %s: mail would go round in a loop", key,
                          config->listen.items[index].text);
            return;
        }
    }
}

static bool fingerprint_is_well(const char *text)
{
    size_t digits = 0;
    for (; *text != '\0'; text++) {
        if (strchr("0123456789abcdefABCDEF", *text) != NULL) {
            digits++;
        } else if (*text != ':' || digits % 2 != 0) {
            return false;
        }
    }
    return digits == FINGERPRINT_DIGITS;
}

static void check_tls(const struct upstream_check *u)
{
    const struct config_upstream *upstream = u->upstream;
    struct config_errors *errors = u->check->errors;
    bool off = upstream->tls == CONFIG_TLS_OFF && is_given(MARK(u, tls));
    if (off && upstream->user[0] != '\0' && !upstream->insecure_plain &&
        is_well(MARK(u, insecure_plain))) {
        config_report(errors, MARK(u, tls)->place,
                      "write tls = verify, or, to send it all the same, add: insecure-plain = yes",
                      "tls is off and there is a user: the password would be sent in the clear");
    }
    if (off && is_given(MARK(u, host)) && upstream->host.implicit_tls) {
        config_report(errors, MARK(u, tls)->place, "write tls = verify, or name port 25 or 587",
                      "tls is off, but the host's port is TLS from the first byte");
    }
    if (is_given(MARK(u, tls_fingerprint)) && !fingerprint_is_well(upstream->tls_fingerprint)) {
        config_report(errors, MARK(u, tls_fingerprint)->place,
                      "openssl x509 -noout -fingerprint -sha256 -in CERTIFICATE",
                      "tls-fingerprint is not 64 hexadecimal digits, with or without colons");
    }
    if (is_given(MARK(u, tls_fingerprint)) && is_given(MARK(u, tls_ca))) {
        config_report(errors, MARK(u, tls_ca)->place, "keep one of the two lines",
                      "tls-ca and tls-fingerprint exclude each other");
    }
    const struct config_mark *trust =
        is_given(MARK(u, tls_ca)) ? MARK(u, tls_ca) : MARK(u, tls_fingerprint);
    if (is_given(trust) && is_given(MARK(u, tls)) && upstream->tls != CONFIG_TLS_VERIFY) {
        config_report(errors, trust->place, "write tls = verify, or remove this line",
                      "%s says whom to trust, but tls = %s trusts anybody",
                      is_given(MARK(u, tls_ca)) ? "tls-ca" : "tls-fingerprint",
                      config_type_words(CONFIG_TYPE_TLS)[upstream->tls]);
    }
}

/* Keys that mean nothing without a user. */
static void check_user(const struct upstream_check *u)
{
    static const size_t with_user[] = {CONFIG_ROW_UPSTREAM_password_file, CONFIG_ROW_UPSTREAM_auth,
                                       CONFIG_ROW_UPSTREAM_authzid, CONFIG_ROW_UPSTREAM_realm};
    const struct config_mark *user = MARK(u, user);
    /* A provider may have one user for everybody. */
    bool preset = user->state == CONFIG_MARK_DEFAULT && u->upstream->user[0] != '\0';
    if ((is_given(user) || preset) && MARK(u, password_file)->state == CONFIG_MARK_DEFAULT) {
        config_report(u->check->errors, preset ? MARK(u, host)->place : user->place,
                      "add a line: password-file = /etc/tasuki/secrets/upstream",
                      "there is a user but no password-file");
    }
    for (size_t index = 0; index < sizeof with_user / sizeof with_user[0]; index++) {
        const struct config_mark *mark = &u->marks[with_user[index]];
        /* The default, written down, says nothing that could be wrong. */
        bool says_nothing =
            with_user[index] == CONFIG_ROW_UPSTREAM_auth && strcmp(u->upstream->auth, "auto") == 0;
        if (is_given(mark) && !says_nothing && !preset && user->state == CONFIG_MARK_DEFAULT) {
            config_report(u->check->errors, mark->place, "add a line with user, or remove this one",
                          "%s has no meaning without user", config_settings[with_user[index]].key);
        }
    }
}

static void check_secret(const struct upstream_check *u)
{
    if (!is_given(MARK(u, password_file))) {
        return;
    }
    uint8_t memory[SECRET_BYTES_MAX];
    char message[400], fix[200];
    struct buf secret;
    buf_init(&secret, memory, sizeof memory);
    enum err err = config_secret_read(u->upstream->password_file, &secret, message, fix);
    explicit_bzero(memory, sizeof memory);
    if (err != ERR_OK) {
        config_report(u->check->errors, MARK(u, password_file)->place, fix, "%s", message);
    }
}

static void check_upstream(const struct check *c, uint32_t index, bool secrets_checked)
{
    const struct upstream_check u = {
        .check = c,
        .upstream = &c->config->upstreams[index],
        .marks = c->marks->upstream[index],
        .begin = {c->config->upstreams[index].line, 1},
        .at_top = index == 0 && c->marks->upstream_at_top,
    };
    check_host(&u);
    config_preset_check(c->config, u.upstream, MARK(&u, host)->place, c->errors);
    check_tls(&u);
    check_user(&u);
    check_orders(c, CONFIG_SECTION_UPSTREAM, u.upstream, u.marks);
    if (secrets_checked) {
        check_secret(&u);
    }
}

void config_check(const struct config *config, const struct config_marks *marks,
                  bool secrets_checked, struct config_errors *errors)
{
    const struct check c = {config, marks, errors};
    check_allow(&c);
    check_dashboard(&c);
    check_run(&c);
    check_dns_servers(&c);
    check_orders(&c, CONFIG_SECTION_GLOBAL, config, marks->global);
    if (config->upstream_count == 0) {
        config_report(errors, whole_file, "add a line: upstream = [relay.example.jp]:587",
                      "there is no upstream: nothing says where mail goes");
    }
    for (uint32_t index = 0; index < config->upstream_count; index++) {
        check_upstream(&c, index, secrets_checked);
    }
    config_use_check(config, marks, errors);
}

/* ---- what the box has to offer ---- */

/* Beside clients and upstream connections: listeners, store, log, control, rings, with room. */
#define FILES_OTHER 100

bool config_fits(const struct config *config, uint64_t files_max, uint64_t disk_bytes_max,
                 struct config_errors *errors)
{
    uint32_t before = errors->count;
    uint64_t files =
        (uint64_t)config_client_sessions_max(config) + FILES_OTHER + CONTROL_CONNECTIONS_MAX;
    for (uint32_t index = 0; index < config->upstream_count; index++) {
        files += config->upstreams[index].connections;
    }
    char fix[200];
    if (files_max != 0 && files > files_max) {
        (void)snprintf(fix, sizeof fix, "lower connections-max, or raise LimitNOFILE to %llu",
                       (unsigned long long)files);
        config_report(errors, whole_file, fix,
                      "connections-max = %u and the upstreams need %llu open files, but this "
                      "process may have %llu",
                      (unsigned)config->connections_max, (unsigned long long)files,
                      (unsigned long long)files_max);
    }
    if (disk_bytes_max != 0 && config->queue_max > disk_bytes_max) {
        char texts[2][40];
        const uint64_t sizes[2] = {config->queue_max, disk_bytes_max >> 20 << 20};
        for (size_t index = 0; index < 2; index++) {
            struct buf to;
            buf_init(&to, texts[index], sizeof texts[index] - 1);
            config_put_size(&to, sizes[index]);
            texts[index][to.len] = '\0';
        }
        (void)snprintf(fix, sizeof fix, "write at most: queue-max = %s", texts[1]);
        config_report(errors, whole_file, fix,
                      "queue-max = %s, but the disk of %s has only %s for it", texts[0],
                      config->state, texts[1]);
    }
    return errors->count == before;
}

/* ---- what is allowed and all the same a risk ---- */

static bool listen_is_local(const struct config_listen *listen)
{
    return strncmp(listen->text, "127.", 4) == 0 || strncmp(listen->text, "[::1]:", 6) == 0;
}

static const char *upstream_risk(const struct config_upstream *upstream)
{
    if (upstream->user[0] == '\0' || upstream->tls == CONFIG_TLS_VERIFY) {
        return NULL;
    }
    return upstream->tls == CONFIG_TLS_OFF
               ? "the password is sent in the clear (insecure-plain)"
               : "the password is sent to whoever answers (tls = encrypt)";
}

bool config_risk_at(const struct config *config, size_t index, char text[200])
{
    if (config->allow_anyone && index-- == 0) {
        (void)snprintf(text, 200, "strangers may be allowed to send (insecure-allow-anyone)");
        return true;
    }
    if (!listen_is_local(&config->dashboard.listen) && index-- == 0) {
        (void)snprintf(text, 200, "the status page can be reached from outside this box (%s)",
                       config->dashboard.listen.text);
        return true;
    }
    for (uint32_t at = 0; at < config->upstream_count; at++) {
        const char *risk = upstream_risk(&config->upstreams[at]);
        if (risk != NULL && index-- == 0) {
            (void)snprintf(text, 200, "upstream %s: %s", config->upstreams[at].name, risk);
            return true;
        }
    }
    return false;
}
