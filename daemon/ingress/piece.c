/*
 * The worker's stock of pieces: buffers for bodies on their way to the queue thread. The one used
 * last is given first, while it is warm.
 */
#include "daemon/ingress/ingress_internal.h"

#include <stdlib.h>

struct piece *piece_get(struct ingress *in)
{
    struct piece *piece = in->free_pieces;
    if (piece != NULL) {
        in->free_pieces = piece->next;
        in->free_piece_count--;
    } else {
        piece = malloc(sizeof *piece + in->with.piece_bytes);
    }
    if (piece != NULL) {
        piece->next = NULL;
        piece->len = 0;
    }
    return piece;
}

void piece_put(struct ingress *in, struct piece **piece)
{
    struct piece *p = *piece;
    *piece = NULL;
    if (p == NULL) {
        return;
    }
    if (in->free_piece_count >= PIECES_KEPT_MAX) {
        free(p);
        return;
    }
    p->next = in->free_pieces;
    in->free_pieces = p;
    in->free_piece_count++;
}

void pieces_free(struct ingress *in)
{
    while (in->free_pieces != NULL) {
        struct piece *piece = in->free_pieces;
        in->free_pieces = piece->next;
        free(piece);
    }
    in->free_piece_count = 0;
}
