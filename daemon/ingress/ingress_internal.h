/* What the files of daemon/ingress share; nobody else includes it. */
#ifndef TASUKI_INGRESS_INGRESS_INTERNAL_H
#define TASUKI_INGRESS_INGRESS_INTERNAL_H

#include "daemon/ingress/ingress.h"
#include "daemon/ingress/policy.h"
#include "daemon/proto/smtp_server.h"
#include "daemon/stream/stream.h"
#include "schema/event.h"
#include "schema/record.h"

#define PIECES_KEPT_MAX 16 /* free pieces that a worker keeps for the next messages */

/* A buffer for one piece of a body. */
struct piece {
    struct piece *next;
    size_t len;
    uint8_t bytes[];
};

struct listener {
    struct ingress *in;
    struct io_op accept;
};

struct ingress {
    struct ingress_config with;
    struct smtp_server_limits limits;
    struct listener listeners[LISTENERS_MAX];
    uint32_t listeners_open;
    bool shutting_down;
    struct client *sessions; /* all of this worker's, doubly linked */
    uint32_t session_count;
    struct piece *free_pieces;
    uint32_t free_piece_count;
};

/* A session for an accepted socket; closes it by itself when there is no memory. */
void client_start(struct ingress *in, int fd);
void client_shutdown(struct client *s);
void client_abort(struct client *s);
struct client *client_next(struct client *s);

struct piece *piece_get(struct ingress *in);
void piece_put(struct ingress *in, struct piece **piece);
void pieces_free(struct ingress *in);

#endif
