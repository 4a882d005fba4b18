/*
 * Fixed bounds, with their units. What an admin may change is a row of schema/config.def instead.
 */
#ifndef TASUKI_BASE_LIMITS_H
#define TASUKI_BASE_LIMITS_H

#include <stdint.h>

/* SMTP. RFC 5321 4.5.3.1: a path has at most 256 octets, a local part 64, a domain 255. */
#define SMTP_LOCAL_BYTES_MAX      64
#define SMTP_DOMAIN_BYTES_MAX     255
#define SMTP_PATH_BYTES_MAX       256
#define SMTP_COMMAND_BYTES_MAX    2048  /* 512 plus room for parameters */
#define SMTP_AUTH_LINE_BYTES_MAX  12288 /* RFC 4954 4 */
#define SMTP_REPLY_LINE_BYTES_MAX 4096  /* RFC 5321 says 512; real servers send more */
#define SMTP_REPLY_TEXT_BYTES_MAX 1024  /* what we keep of a reply */
#define SMTP_REPLY_LINES_MAX      1000
#define SMTP_REPLY_BYTES_MAX      65536
#define SMTP_RECIPIENTS_MAX                                                                        \
    1000 /* per transaction on the LAN side; RFC 5321 4.5.3.1.8 asks for 100 */
#define SMTP_RECIPIENTS_UPSTREAM_MAX 100 /* per transaction towards an upstream */
#define SMTP_RECEIVED_MAX            100 /* header lines before we call it a loop, RFC 5321 6.3 */

/* Configuration. */
#define CLIENT_CONNECTIONS_MAX   100000                       /* that connections-max may allow */
#define CLIENT_SESSIONS_MAX      (2 * CLIENT_CONNECTIONS_MAX) /* config_client_sessions_max */
#define UPSTREAMS_MAX            16
#define UPSTREAM_CONNECTIONS_MAX 64
#define UPSTREAM_NAME_BYTES_MAX  64
#define LISTENERS_MAX            16
#define ALLOW_NETWORKS_MAX       64
#define CONFIG_FILE_BYTES_MAX    (1u << 20)
#define CONFIG_ERRORS_MAX        32
#define SECRET_BYTES_MAX         4096

/* Threads and queues. */
#define WORKERS_MAX          16
#define BODY_CHUNK_BYTES_MAX 65536 /* handed to the store at once; daemon/decisions/0004 */
#define JOB_RECIPIENTS_MAX   100000

/*
 * The queue's file. Opening verifies its pages, with one bit of memory for each: 128 MiB for the
 * longest. What queue-max and history-max allow together fits into it: schema/STORE.md, the map.
 */
#define STORE_FILE_BYTES_MAX ((uint64_t)4 << 40)
#define QUEUE_BYTES_MAX      ((uint64_t)1 << 40)   /* of queue-max */
#define HISTORY_BYTES_MAX    ((uint64_t)512 << 30) /* of history-max */

/* Control socket. */
#define CONTROL_REQUEST_BYTES_MAX 65536
#define CONTROL_CONNECTIONS_MAX   64
#define LOG_LINE_BYTES_MAX        2048

_Static_assert(SMTP_RECIPIENTS_UPSTREAM_MAX <= SMTP_RECIPIENTS_MAX,
               "a transaction upstream is part of one here");
_Static_assert(SMTP_REPLY_TEXT_BYTES_MAX < SMTP_REPLY_BYTES_MAX,
               "what is kept is part of what is read");

#endif
