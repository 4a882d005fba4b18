/*
 * What the files of daemon/config/ share among themselves, and nobody else includes.
 *
 * One way through: config_parse.c cuts a file into keys and values; config_value.c (with
 * config_address.c) judges each value by the type of its row and stores it; config_check.c judges
 * what only shows when all is read. All of them report into one list and go on.
 */
#ifndef TASUKI_CONFIG_CONFIG_PRIVATE_H
#define TASUKI_CONFIG_CONFIG_PRIVATE_H

#include "daemon/config/config.h"

/* 64 networks of 43 bytes with their commas fit; a longer line is a file that is none of ours. */
#define CONFIG_LINE_BYTES_MAX 4096

enum config_section { CONFIG_SECTION_GLOBAL, CONFIG_SECTION_UPSTREAM, CONFIG_SECTION_DASHBOARD };

enum config_type {
    CONFIG_TYPE_LISTEN_LIST,  /* struct config_listen_list */
    CONFIG_TYPE_LISTEN,       /* struct config_listen, always with its address */
    CONFIG_TYPE_NETWORK_LIST, /* struct config_network_list */
    CONFIG_TYPE_HOST,         /* struct config_host */
    CONFIG_TYPE_HOSTNAME,     /* char[], a name as in EHLO */
    CONFIG_TYPE_ADDRESS,      /* char[], local@domain */
    CONFIG_TYPE_PATH,         /* char[], absolute */
    CONFIG_TYPE_TEXT,         /* char[] */
    CONFIG_TYPE_AUTH_LIST,    /* char[], "auto" or upper-case names with a blank between */
    CONFIG_TYPE_SIZE,         /* uint64_t, bytes */
    CONFIG_TYPE_DURATION,     /* uint64_t, milliseconds */
    CONFIG_TYPE_COUNT,        /* uint32_t */
    CONFIG_TYPE_RATE,         /* struct config_rate */
    CONFIG_TYPE_USE,          /* struct config_use */
    CONFIG_TYPE_COUNT_AUTO,   /* uint32_t, auto resolved */
    CONFIG_TYPE_BOOL,         /* bool */
    CONFIG_TYPE_TLS,          /* enum config_tls, and so on: words in the enum's order */
    CONFIG_TYPE_PIPELINE,
    CONFIG_TYPE_IO,
    CONFIG_TYPE_LOG_LEVEL,
};

/* Every row by a name of its own: CONFIG_ROW_UPSTREAM_tls. */
enum config_row_index {
#define X(section, member, key, type, fallback, doc, example) CONFIG_ROW_##section##_##member,
#include "schema/config.def"
#undef X
    CONFIG_ROW_COUNT
};

struct config_setting {
    enum config_section section;
    enum config_type type;
    const char *key, *default_text, *doc, *example;
    size_t offset; /* of the member, in struct config or struct config_upstream */
    size_t bytes;  /* of the member */
};

extern const struct config_setting config_settings[CONFIG_ROW_COUNT];

/* Index of the row with that key in that section; CONFIG_ROW_COUNT when there is none. */
size_t config_row_find(enum config_section section, struct slice key);

/* The words of an enumerated type in the order of its enum, ended by NULL; NULL for other types. */
const char *const *config_type_words(enum config_type type);

/* Where something stands in the file, 1-based; line 0: nowhere in particular. */
struct config_place {
    uint32_t line, column;
};

enum config_mark_state {
    CONFIG_MARK_DEFAULT, /* not in the file: the default holds */
    CONFIG_MARK_GIVEN,   /* in the file, and well */
    CONFIG_MARK_BAD,     /* in the file, and reported: nothing may be concluded from the member */
};

struct config_mark {
    enum config_mark_state state;
    struct config_place place; /* of the value */
};

/* What of a config came from where in the file; checks point with it. */
struct config_marks {
    bool upstream_at_top;                        /* upstreams[0] was made by keys at the top */
    struct config_mark global[CONFIG_ROW_COUNT]; /* GLOBAL and DASHBOARD rows */
    struct config_mark upstream[UPSTREAMS_MAX][CONFIG_ROW_COUNT];
};

/* A value on its way to its member. */
struct config_value {
    const struct config_setting *setting;
    const char *key;   /* as it stands in the file: "upstream" for host at the top */
    struct slice text; /* never empty; UTF-8 without control characters */
    struct config_place place;
    struct config_errors *errors;
};

/* Adds a complaint; the list says itself when it is full. fix may be "". */
void config_report(struct config_errors *errors, struct config_place place, const char *fix,
                   const char *format, ...) PRINTF_LIKE(4, 5);

/* By line and column, those about the whole file last. */
void config_errors_sort(struct config_errors *errors);

/* A piece of the file for a message: quoted, escaped, cut. */
struct config_quote {
    char text[100];
};
struct config_quote config_quote(struct slice text);

/* A shell word for a fix: "chmod 600 " and the file, in quotes where it needs them. */
void config_fix_command(char fix[200], const char *command, const char *file);

/* Judges a value and stores it in base (struct config or struct config_upstream); reports and
 * returns false, base untouched, when it is not well. */
MUST_CHECK bool config_value_store(const struct config_value *value, void *base);

/* Reports about the part `at` of value->text; fix NULL: an example from the row. Returns false. */
bool config_value_refuse(const struct config_value *value, struct slice at, const char *fix,
                         const char *format, ...) PRINTF_LIKE(4, 5);

/* Takes the next item of a list off *rest, without blanks around it. False at the end. */
MUST_CHECK bool config_list_next(struct slice *rest, struct slice *out_item);

/* Why text is no host name, as the end of a sentence that begins with it; NULL when it is one. */
const char *config_name_problem(struct slice text, bool underscore_allowed);

/* config_preset.c: does a host name a provider of the playbook, whatever follows? */
bool config_preset_is(struct slice text);
/* Such a host. */
MUST_CHECK bool config_preset_host(const struct config_value *value, struct config_host *out);
/* The provider whose word is nearly that; NULL when none is. */
const char *config_preset_nearest(struct slice text);
/* What its provider wants of the rest of the configuration. place: of the host. */
void config_preset_check(const struct config *config, const struct config_upstream *upstream,
                         struct config_place place, struct config_errors *errors);

/* config_rate.c */
MUST_CHECK bool config_rate_judge(const struct config_value *value, struct config_rate *out);

/* config_use.c */
MUST_CHECK bool config_use_judge(const struct config_value *value, struct config_use *out);
/* What only shows when all upstreams are read. */
void config_use_check(const struct config *config, const struct config_marks *marks,
                      struct config_errors *errors);

/* config_address.c: the judges for everything with an address in it. */
MUST_CHECK bool config_address_listen_list(const struct config_value *value,
                                           struct config_listen_list *out);
MUST_CHECK bool config_address_listen(const struct config_value *value, struct config_listen *out);
MUST_CHECK bool config_address_networks(const struct config_value *value,
                                        struct config_network_list *out);
MUST_CHECK bool config_address_host(const struct config_value *value, struct config_host *out);
/* ADDRESS or ADDRESS:PORT or [V6]:PORT of a name server. */
MUST_CHECK bool config_address_is_name_server(struct slice text);
/* Dotted quad or IPv6, no zone, as ::ffff:a.b.c.d or as it is. */
MUST_CHECK bool config_address_parse(struct slice text, uint8_t out[16]);
/* Both would take the same connection: one family, one port, one address or one of them any. */
bool config_address_listens_overlap(const struct config_listen *a, const struct config_listen *b);
/* A network that no office has: wider than /8 (IPv6: /16) and not of the private ranges. */
bool config_address_is_wide(const struct config_network *network);
/* A connection to host would come back to that listener. */
bool config_address_is_loop(const struct config_host *host, const struct config_listen *listen,
                            const char *hostname);

/*
 * Fills hostname and domain in where they are empty.
 *   system_name   what gethostname says
 *   mail_name     first line of /etc/mailname, or empty
 */
void config_names_fill(struct config *config, struct slice system_name, struct slice mail_name,
                       struct config_errors *errors);
/* The same, asking the system. */
void config_names_fill_from_system(struct config *config, struct config_errors *errors);

/* What only shows when all is read. */
void config_check(const struct config *config, const struct config_marks *marks,
                  bool secrets_checked, struct config_errors *errors);

/* As one would write it: "25M", "5d". */
void config_put_size(struct buf *to, uint64_t bytes);
void config_put_duration(struct buf *to, uint64_t span_ms);
void config_put_rate(struct buf *to, const struct config_rate *rate);
void config_put_value(struct buf *to, const struct config_setting *setting, const void *base);

#endif
