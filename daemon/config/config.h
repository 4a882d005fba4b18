/*
 * The configuration: a file of the admin's into struct config, by the rows of schema/config.def.
 *
 * All errors of a file are reported at once, each with file, line, column, what, why and what to
 * do; nothing is skipped with a warning. A config that was returned is whole and consistent, and is
 * never changed: a reload makes a new one. Secrets are not in it, only the paths of their files.
 *
 * Programs other than tasukid read it too (tasukictl for the socket and `config check`, tasuki-web
 * for its address), so that there is one verdict.
 */
#ifndef TASUKI_CONFIG_CONFIG_H
#define TASUKI_CONFIG_CONFIG_H

#include "daemon/base/buf.h"
#include "daemon/base/err.h"
#include "daemon/base/limits.h"
#include "schema/playbook.h"

#include <netinet/in.h>
#include <sys/socket.h>

#define CONFIG_TEXT_BYTES   512 /* of a path or another text, with its NUL */
#define CONFIG_PRESET_BYTES 64  /* of a provider and its region, likewise */

struct config_listen {
    struct sockaddr_storage address;
    socklen_t len;
    char text[80]; /* "0.0.0.0:25", for messages */
};

struct config_listen_list {
    uint32_t count;
    struct config_listen items[LISTENERS_MAX];
};

struct config_network {
    uint8_t address[16]; /* IPv4 as ::ffff:a.b.c.d */
    uint8_t prefix_bits; /* 0..128 */
};

struct config_network_list {
    bool private_networks; /* the word "private" was among them */
    uint32_t count;
    struct config_network items[ALLOW_NETWORKS_MAX];
};

struct config_host {
    char name[SMTP_DOMAIN_BYTES_MAX + 1]; /* host name or address literal, without brackets */
    uint16_t port;
    bool use_mx;                      /* was written without brackets */
    bool implicit_tls;                /* port 465 or /tls */
    enum playbook_provider provider;  /* NONE, unless a provider was named instead */
    char preset[CONFIG_PRESET_BYTES]; /* how it was: "ses:eu-west-1" */
};

enum config_tls { CONFIG_TLS_VERIFY, CONFIG_TLS_ENCRYPT, CONFIG_TLS_OFF };
enum config_pipeline {
    CONFIG_PIPELINE_AUTO,
    CONFIG_PIPELINE_OFF,
    CONFIG_PIPELINE_SAFE,
    CONFIG_PIPELINE_STREAM
};
/* Both in the order of the sched's: kinds, and spans. */
enum config_rate_kind { CONFIG_RATE_MESSAGES, CONFIG_RATE_RECIPIENTS, CONFIG_RATE_KINDS };
enum config_rate_span { CONFIG_RATE_MINUTE, CONFIG_RATE_HOUR, CONFIG_RATE_DAY, CONFIG_RATE_SPANS };

struct config_rate {
    uint32_t most[CONFIG_RATE_KINDS][CONFIG_RATE_SPANS]; /* 0: no limit */
};

/* Whether an upstream takes mail by itself, or only in place of one that is marked. */
enum config_use_role { CONFIG_USE_ALWAYS, CONFIG_USE_WHEN_DOWN };
enum config_use_side { CONFIG_USE_SENDER, CONFIG_USE_RECIPIENT, CONFIG_USE_SIDES };

#define CONFIG_USE_TERMS_MAX 32
#define CONFIG_USE_BYTES     2048 /* of an upstream's patterns together */

/* `use`: its role, and for which mail; without terms for all that no other has terms for. */
struct config_use {
    enum config_use_role role;
    uint32_t count;
    struct config_use_term {
        enum config_use_side side;
        uint16_t offset, bytes; /* of the pattern in text */
    } terms[CONFIG_USE_TERMS_MAX];
    uint8_t text[CONFIG_USE_BYTES]; /* the patterns behind each other, ASCII in lower case */
};

enum config_io { CONFIG_IO_AUTO, CONFIG_IO_URING, CONFIG_IO_POLL };

struct config_upstream {
    char name[UPSTREAM_NAME_BYTES_MAX +
              1];  /* of its section; "main" for the one at the top of a small file */
    uint32_t line; /* where it begins */
    struct config_host host;
    enum config_tls tls;
    bool insecure_plain;
    char tls_ca[CONFIG_TEXT_BYTES];
    char tls_fingerprint[CONFIG_TEXT_BYTES];
    char auth[CONFIG_TEXT_BYTES]; /* "auto", or SASL names in upper case, space separated */
    char user[CONFIG_TEXT_BYTES];
    char authzid[CONFIG_TEXT_BYTES];
    char realm[CONFIG_TEXT_BYTES];
    char password_file[CONFIG_TEXT_BYTES];
    uint32_t connections;
    bool null_sender;             /* it takes MAIL FROM:<> */
    uint32_t connection_messages; /* over one of them, at most; 0: no limit */
    struct config_rate rate;
    struct config_use use;
    enum config_pipeline pipelining;
    uint64_t probe_min_ms, probe_max_ms, connect_ms_max, reply_ms_max, idle_ms_max, age_ms_max;
};

struct config {
    char file[CONFIG_TEXT_BYTES];
    struct config_listen_list listen;
    struct config_network_list allow;
    bool allow_anyone;
    char hostname[SMTP_DOMAIN_BYTES_MAX + 1]; /* filled from the system when not given */
    char domain[SMTP_DOMAIN_BYTES_MAX + 1];   /* likewise */
    char root_mail[SMTP_PATH_BYTES_MAX + 1];  /* "" when not given */
    uint64_t max_size;
    uint64_t give_up_ms, warn_after_ms, retry_min_ms, retry_max_ms;
    uint64_t keep_history_ms, keep_deleted_ms, digest_ms;
    uint64_t history_max;
    bool reports;
    uint32_t report_rate; /* an hour */
    uint64_t queue_max;
    uint32_t connections_max, connections_per_client;
    uint64_t idle_ms_max;
    char state[CONFIG_TEXT_BYTES];
    char run[CONFIG_TEXT_BYTES];
    uint32_t workers; /* auto is resolved: 1..WORKERS_MAX */
    enum config_io io;
    char dns_servers[CONFIG_TEXT_BYTES];
    uint32_t log_level;      /* enum log_level */
    uint32_t upstream_count; /* >= 1 */
    struct config_upstream upstreams[UPSTREAMS_MAX];
    struct {
        struct config_listen listen;
    } dashboard;
};

/* One complaint, ready for a person. */
struct config_error {
    uint32_t line, column; /* 1-based; 0: about the whole file */
    char message[400];     /* "unknown key \"lisen\"; did you mean \"listen\"?" */
    char fix[200];         /* the command or change that mends it, or "" */
};

struct config_errors {
    uint32_t count;
    struct config_error items[CONFIG_ERRORS_MAX];
};

/*
 * Reads and judges a file (at most CONFIG_FILE_BYTES_MAX; a directory, FIFO or device is refused
 * without blocking). On success *out_config is new, to be freed with config_free. On failure it is
 * untouched, the result is ERR_SYNTAX (or ERR_NOT_FOUND, ERR_PERMISSION when the file cannot be
 * read), and errors holds at least one complaint. secrets_checked   also judge the password files
 * (exists, owner, mode), as the daemon will
 */
MUST_CHECK enum err config_load(struct config **out_config, const char *file, bool secrets_checked,
                                struct config_errors *errors);

/* The same for text in memory; file is its name in messages. This is what fuzzing calls. */
MUST_CHECK enum err config_parse(struct config **out_config, const char *file, struct slice text,
                                 bool secrets_checked, struct config_errors *errors);

void config_free(struct config **config);

/* "file:line:column: message" and, on a line of its own, "  to mend it: fix". */
void config_error_put(struct buf *to, const char *file, const struct config_error *error);

/*
 * The first line of a password file, without its line end. Refused (ERR_PERMISSION) when others
 * than its owner can read it, or when its owner is neither root nor this process's user;
 * ERR_NOT_FOUND; ERR_SYNTAX empty, NUL inside, or over SECRET_BYTES_MAX. fix: the command to type,
 * e.g. "chmod 600 /etc/...". Never logged, never printed.
 */
MUST_CHECK enum err config_secret_read(const char *file, struct buf *to, char message[400],
                                       char fix[200]);

/* Do the terms hold for this pair? Addresses as in the envelope: without <>, empty is the null
 * sender. Without terms: yes. */
MUST_CHECK bool config_use_matches(const struct config_use *use, struct slice sender,
                                   struct slice recipient);

/* The same terms, in whatever order; roles do not matter. */
MUST_CHECK bool config_use_same_terms(const struct config_use *a, const struct config_use *b);

/* As one would write it: "when-down for sender:*@shop.example". */
void config_use_put(struct buf *to, const struct config_use *use);

/* Sessions of clients at once: connections-max that are served, and as many that hear why they are
 * not. Each has a descriptor and its timers. */
static inline uint32_t config_client_sessions_max(const struct config *config)
{
    return config->connections_max * (CLIENT_SESSIONS_MAX / CLIENT_CONNECTIONS_MAX);
}

/* Its index; UPSTREAMS_MAX when nobody has that name. */
uint32_t config_upstream_find(const struct config *config, struct slice name);
/* The provider of the upstream with that name; NONE when it has none, or nobody has that name. */
enum playbook_provider config_provider_of(const struct config *config, struct slice upstream);

/* Effective settings, one "key = value" a line, sections as written: `tasukictl config show`. */
void config_put(struct buf *to, const struct config *config);

/*
 * Whether the box has what the settings ask for: open files and disk, each 0 when it is not known.
 * False with one complaint, with both numbers, for each that falls short. For the daemon's start,
 * which alone knows its limits; not part of config_load, so that every program has one verdict.
 *   files_max        RLIMIT_NOFILE, after it was raised
 *   disk_bytes_max   free on the queue's disk, and what the queue has already
 */
MUST_CHECK bool config_fits(const struct config *config, uint64_t files_max,
                            uint64_t disk_bytes_max, struct config_errors *errors);

/* What is set on purpose and a risk all the same, to be logged at every start: index 0.. until
 * false. */
MUST_CHECK bool config_risk_at(const struct config *config, size_t index, char text[200]);

/* Rows for help texts: index 0.. until false. section is "" (the top), "upstream" or "dashboard".
 */
struct config_row {
    const char *section, *key, *default_text, *doc, *example;
};
MUST_CHECK bool config_row_at(size_t index, struct config_row *out_row);

#endif
