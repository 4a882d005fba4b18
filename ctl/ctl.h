/*
 * tasukictl from the inside: what its files share.
 *
 *   ctl.c          main, the table of commands
 *   ctl_args       the command line
 *   ctl_help       help, from the two tables
 *   ctl_say        words, sizes, times, errors: everything that reaches a terminal
 *   ctl_table      tables (libsmartcols)
 *   ctl_client     the control socket
 *   ctl_offline    the queue from disk while the daemon is down
 *   ctl_X          one file a command or a family of them
 *
 * Nothing that came from outside (a peer's words, the daemon's answer, argv) is printed but through
 * ctl_say or ctl_table. The store is only ever read.
 */
#ifndef TASUKI_CTL_CTL_H
#define TASUKI_CTL_CTL_H

#include "daemon/base/buf.h"
#include "daemon/base/err.h"
#include "daemon/base/limits.h"
#include "schema/wire.h"

#include <jansson.h>
#include <stdio.h>

struct config;

/* Part of the interface: scripts depend on the numbers. */
enum ctl_exit {
    CTL_EXIT_OK = 0,
    CTL_EXIT_NO = 1, /* answered no, or unhealthy */
    CTL_EXIT_USAGE = 64,
    CTL_EXIT_NO_MESSAGE = 66,
    CTL_EXIT_UNREACHABLE = 69,
    CTL_EXIT_OUTPUT = 74, /* standard output could not be written */
    CTL_EXIT_TIMED_OUT = 75,
    CTL_EXIT_NOT_PERMITTED = 77,
    CTL_EXIT_CONFIG = 78,
    CTL_EXIT_SIGNAL = 128 /* and its number: a signal stopped it, and it has tidied up */
};

#define CTL_CONFIG_FILE     "/etc/tasuki/tasuki.conf"
#define CTL_RUN_DIRECTORY   "/run/tasuki"
#define CTL_STATE_DIRECTORY "/var/lib/tasuki"
#define CTL_SOCKET_BYTES    1024 /* of the socket's path, with its NUL; the kernel takes fewer */

/* Something went wrong: what and why, what to type next, and how the process ends. */
struct ctl_problem {
    enum ctl_exit exit;
    bool daemon_down;  /* nobody listens on the socket: the store may be read from disk */
    char code[32];     /* for programs, as in schema/README.md */
    char message[900]; /* what and why */
    char hint[400];    /* what to type, or "" */
};

/* The command line, taken apart. All pointers are into argv. */
struct ctl_args {
    const struct ctl_command *command;
    const char *config_file; /* NULL: not given */
    const char *socket;      /* likewise */
    const char *to, *from, *by, *reason;
    bool transcript;
    bool json, dry_run, yes, help, version;
    uint64_t timeout_ms; /* 0: not given */
    uint64_t limit;      /* 0: not given */
    uint64_t for_ms;     /* likewise */
    const char **words;  /* word_count of them, in argv's order */
    size_t word_count;
};

struct ctl {
    struct ctl_args args;

    /* ctl_say: what standard output is */
    bool terminal;
    bool colours;
    size_t width; /* columns, or 0: nothing is cut or wrapped */

    /* ctl_client */
    char socket[CTL_SOCKET_BYTES]; /* "": not found out yet */
    int fd;                        /* -1: not connected */
    uint64_t last_id;
    char *in; /* owned, in_len of in_cap bytes: received, not yet read */
    size_t in_len, in_cap;

    struct config *config; /* owned; NULL: not loaded, or there is none */
};

typedef enum ctl_exit ctl_command_fn(struct ctl *c);

/* Options that only some commands take, as bits. */
enum ctl_option {
    CTL_OPTION_LIMIT = 1,
    CTL_OPTION_DRY_RUN = 2,
    CTL_OPTION_YES = 4,
    CTL_OPTION_TO = 8,
    CTL_OPTION_FROM = 16,
    CTL_OPTION_BY = 32,
    CTL_OPTION_TRANSCRIPT = 64,
    CTL_OPTION_REASON = 128,
    CTL_OPTION_FOR = 256
};

struct ctl_command {
    const char *name;    /* one or two words */
    const char *args;    /* as in a usage line */
    const char *summary; /* one line */
    const char *details; /* for help COMMAND */
    unsigned options;    /* enum ctl_option, or-ed */
    size_t words_min, words_max;
    uint64_t timeout_ms; /* how long an answer may take */
    ctl_command_fn *run;
};

/* ---- ctl.c ---- */

extern const struct ctl_command ctl_commands[];
extern const size_t ctl_command_count;

/* ---- ctl_args ---- */

struct ctl_option_row {
    const char *name, *letter; /* "--limit", "-n" or NULL */
    const char *value;         /* "N", or NULL when it takes none */
    const char *summary;
    unsigned only; /* 0: every command takes it */
};

extern const struct ctl_option_row ctl_options[];
extern const size_t ctl_option_count;

/* words has room for argc pointers and outlives *out. */
MUST_CHECK bool ctl_args_parse(struct ctl_args *out, int argc, char **argv, const char **words,
                               struct ctl_problem *problem);

/* Does this word name messages by id, or is it part of a filter? Ids begin with "0" until the year
 * 2248 (48 bits of milliseconds, five bits a character). */
bool ctl_args_word_is_id(const char *word);

/*
 * The words of the command line as one filter text, to be freed; NULL (and a problem) when it is
 * none. A word that the shell kept together with blanks inside is quoted again.
 */
MUST_CHECK char *ctl_args_filter(const struct ctl_args *args, struct ctl_problem *problem);

/* ---- ctl_help ---- */

ctl_command_fn ctl_help_run;
void ctl_help_command(const struct ctl *c, const struct ctl_command *command);

/* ---- ctl_say ---- */

void ctl_say_init(struct ctl *c);

/* Fills all but the hint, which becomes "". */
void ctl_problem_set(struct ctl_problem *p, enum ctl_exit exit, const char *code,
                     const char *format, ...) PRINTF_LIKE(4, 5);
void ctl_problem_hint(struct ctl_problem *p, const char *format, ...) PRINTF_LIKE(2, 3);
/* Prints it to standard error (as JSON with --json) and returns its exit code. */
enum ctl_exit ctl_say_problem(const struct ctl *c, const struct ctl_problem *p);
/* A remark on standard error that does not end the command. */
void ctl_say_notice(const struct ctl *c, const char *message, const char *hint);

/* Text from a peer: text_put_escaped. */
void ctl_say_escaped(FILE *to, struct slice text);
/* A sentence of ours or the daemon's: the same, but quotes and backslashes stay what they are. */
void ctl_say_words(FILE *to, struct slice text);
/* "label  text", wrapped at the terminal's width behind the label's column. */
void ctl_say_fact(const struct ctl *c, const char *label, struct slice text);
/* The same for text from a peer. */
void ctl_say_fact_escaped(const struct ctl *c, const char *label, struct slice text);
/* That of an object's member; nothing where it is empty or not there. */
void ctl_say_member(const struct ctl *c, const char *label, const json_t *object, const char *key);
/* "535 5.7.8 authentication failed", of an object's members code and text: the upstream's words. */
void ctl_say_reply(const struct ctl *c, const char *label, const json_t *object);
/* Wrapped, every line with so many blanks in front. */
void ctl_say_wrapped(const struct ctl *c, size_t indent, struct slice text);

#define CTL_TODO_MAX 40

/* Lines of advice, each once, printed at the end. */
struct ctl_todo {
    uint32_t count;
    struct {
        struct slice line;   /* borrowed, as the names */
        uint32_t name_count; /* 0: it is about no upstream in particular */
        struct slice names[UPSTREAMS_MAX];
    } items[CTL_TODO_MAX];
};

/* Nothing when it is empty, or there already. */
void ctl_todo_add(struct ctl_todo *todo, struct slice line);
/* What each of them says; where there are several, with the names of those that say it. */
void ctl_todo_add_upstreams(struct ctl_todo *todo, const json_t *upstreams);
void ctl_todo_print(const struct ctl *c, const struct ctl_todo *todo);

/* One JSON value on one line of standard output. */
void ctl_say_json(const json_t *value);

enum ctl_colour { CTL_PLAIN, CTL_GOOD, CTL_WARN, CTL_BAD, CTL_STRONG };
/* The sequences for it, or "" where there are no colours. */
const char *ctl_colour_on(const struct ctl *c, enum ctl_colour colour);
const char *ctl_colour_off(const struct ctl *c, enum ctl_colour colour);

#define CTL_SHORT_TEXT_BYTES 48
/* "3.4M", as one writes it in the configuration and in a filter. */
void ctl_put_size(struct buf *to, uint64_t bytes);
/* "in 4 min", "3 h ago", "now"; brief: the largest unit only. */
void ctl_put_relative(struct buf *to, uint64_t at_ms, uint64_t now_ms, bool brief);
/* "3 d"; the largest unit only. */
void ctl_put_age(struct buf *to, uint64_t span_ms);
/* "1 message", "2 messages". */
void ctl_put_count(struct buf *to, uint64_t count, const char *one, const char *many);
uint64_t ctl_now_ms(void); /* wall clock */

/* Members of an object, empty or 0 when they are missing or of another type. */
struct slice ctl_json_text(const json_t *object, const char *key);
uint64_t ctl_json_u64(const json_t *object, const char *key);
bool ctl_json_bool(const json_t *object, const char *key);
/* A JSON string of any bytes: what is not UTF-8 becomes U+FFFD. New references. */
json_t *ctl_json_bytes(struct slice text);
json_t *ctl_json_words(const char *text);
/* value with "schema":1 in front, a new reference. */
json_t *ctl_json_with_schema(json_t *value);

/* ---- ctl_table ---- */

struct ctl_table;

struct ctl_column {
    const char *title;
    double share; /* of the width, for a column that may be cut; 0: never cut */
    bool right;   /* numbers */
    size_t from;  /* shown on terminals of so many columns and where nothing is cut */
};

struct ctl_table *ctl_table_new(const struct ctl *c, const struct ctl_column *columns,
                                size_t column_count, bool headed);
void ctl_table_line(struct ctl_table *t);
/* The next cell of the line. Escaped here: any text will do. */
void ctl_table_cell(struct ctl_table *t, struct slice text, enum ctl_colour colour);
/* The same for a sentence of ours. */
void ctl_table_words(struct ctl_table *t, const char *text);
/* Prints and frees. */
void ctl_table_end(struct ctl_table **t);

/* ---- ctl_client ---- */

/*
 * One request and its answer; connects when there is no connection, to --socket, or else the run
 * directory of -c FILE, TASUKI_SOCKET, the default configuration, the default. args is taken over.
 * Returns a new reference to the result, or NULL and a problem.
 *   talking_to   shown on a terminal while waiting, or NULL
 */
MUST_CHECK json_t *ctl_client_call(struct ctl *c, enum command command, json_t *args,
                                   const char *talking_to, struct ctl_problem *problem);
void ctl_client_close(struct ctl *c);

/* ---- ctl_config ---- */

/* The configuration given with -c, or the default one, kept in c; NULL and a problem when it cannot
 * be used. */
const struct config *ctl_config_get(struct ctl *c, struct ctl_problem *problem);

/* ---- ctl_offline ---- */

struct ctl_offline;

/*
 * Opens the store to read it, and says so on standard error (announced).
 *   why   the problem that led here: that the daemon is down
 */
MUST_CHECK struct ctl_offline *ctl_offline_open(struct ctl *c, const struct ctl_problem *why,
                                                bool announced, struct ctl_problem *problem);
void ctl_offline_close(struct ctl_offline **o);

/* The result of `queue` as the daemon would answer it; *cursor is opaque, NULL first, to be
 * freed. */
MUST_CHECK json_t *ctl_offline_queue(struct ctl_offline *o, const char *filter, size_t limit,
                                     json_t *cursor, struct ctl_problem *problem);
/* The same of `history`. */
MUST_CHECK json_t *ctl_offline_history(struct ctl_offline *o, const char *filter, size_t limit,
                                       json_t *cursor, struct ctl_problem *problem);
/* The results of `show`, `why` and `transcript`: in the queue, or else in the history. */
MUST_CHECK json_t *ctl_offline_message(struct ctl_offline *o, enum command command,
                                       const char *prefix, struct ctl_problem *problem);
/* The result of `counts`. */
MUST_CHECK json_t *ctl_offline_counts_by(struct ctl_offline *o, const char *by,
                                         struct ctl_problem *problem);
/* The "queue" member of `status`, as far as the disk knows it. */
MUST_CHECK json_t *ctl_offline_counts(struct ctl_offline *o);

/* ---- the commands ---- */

/* How a line of a dialogue is coloured: what we said stands out a little. */
enum ctl_colour ctl_dialogue_colour(struct slice line);
/* How the word for a message's or recipient's state is coloured. */
enum ctl_colour ctl_queue_state_colour(struct slice state);

/* Whether the upstream, u of the answer to status, is out of order and none stands in: its mail
 * waits. */
bool ctl_upstream_is_stuck(const json_t *u);

/* Lines about an upstream, u of the answer to status: its name and how it is; why it is marked, if
 * it is; which mail goes there; what it does. */
void ctl_upstream_say_head(const struct ctl *c, const json_t *u);
void ctl_upstream_say_trouble(const struct ctl *c, const json_t *u, uint64_t now_ms);
void ctl_upstream_say_use(const struct ctl *c, const char *label, const char *before,
                          const json_t *u);
/* What is used of the rates, and when more may go. False: none is set, and nothing was said. */
bool ctl_upstream_say_rates(const struct ctl *c, const char *label, const char *before,
                            const json_t *u, uint64_t now_ms);
void ctl_upstream_say_work(const struct ctl *c, const json_t *u, uint64_t now_ms);

ctl_command_fn ctl_status_run;
ctl_command_fn ctl_upstreams_run;
ctl_command_fn ctl_queue_run;
ctl_command_fn ctl_history_run;
ctl_command_fn ctl_show_run;
ctl_command_fn ctl_why_run;
ctl_command_fn ctl_edit_run; /* retry, hold, release, delete, undelete, bounce */
ctl_command_fn ctl_backup_run;
ctl_command_fn ctl_compact_run;
ctl_command_fn ctl_test_run;
ctl_command_fn ctl_trace_run;
ctl_command_fn ctl_metrics_run;
ctl_command_fn ctl_config_check_run;
ctl_command_fn ctl_config_show_run;
ctl_command_fn ctl_config_explain_run;

#endif
