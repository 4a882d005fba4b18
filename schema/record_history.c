/*
 * Moves, trails and histories: encoding within bounds, and a decoder that trusts nothing.
 * schema/RECORD.md has the layout in a table; a change there or here is a new RECORD_VERSION.
 */
#include "schema/record_history.h"

#include "daemon/base/num.h"
#include "schema/record_parts.h"

#define KIND_TRAIL   'T'
#define KIND_HISTORY 'H'

#define MOVE_FIXED_BYTES    44
#define TRAIL_FIXED_BYTES   10 /* head included */
#define HISTORY_FIXED_BYTES 19 /* head included */
#define BLOB_LENGTH_BYTES   4

_Static_assert(MOVE_FIXED_BYTES + UPSTREAM_NAME_BYTES_MAX + RECORD_PEER_BYTES_MAX +
                       RECORD_TLS_BYTES_MAX + RECORD_MOVE_TEXT_BYTES_MAX +
                       4 * RECORD_LENGTH_BYTES <=
                   RECORD_MOVE_BYTES_MAX,
               "the bound of a move is one");
_Static_assert(RECORD_TRAIL_MOVES_FIRST < RECORD_TRAIL_MOVES_MAX, "the latest moves have room");

const char *record_cause_word(enum record_cause cause)
{
    static const char *const words[RECORD_CAUSE_COUNT] = {
        [RECORD_CAUSE_ATTEMPT] = "attempt",   [RECORD_CAUSE_GIVE_UP] = "give-up",
        [RECORD_CAUSE_OPERATOR] = "operator", [RECORD_CAUSE_REPORTED] = "reported",
        [RECORD_CAUSE_DAMAGE] = "damage",     [RECORD_CAUSE_AGE] = "age",
    };
    CHECK((unsigned)cause < RECORD_CAUSE_COUNT);
    return words[cause];
}

const char *record_end_word(enum record_end end)
{
    static const char *const words[RECORD_END_COUNT] = {
        [RECORD_END_DELIVERED] = "delivered",
        [RECORD_END_REPORTED] = "reported",
        [RECORD_END_DELETED] = "deleted",
        [RECORD_END_DISCARDED] = "discarded",
    };
    CHECK((unsigned)end < RECORD_END_COUNT);
    return words[end];
}

/* ---- moves ---- */

static bool move_is_valid(const struct record_move *m)
{
    return (unsigned)m->cause < RECORD_CAUSE_COUNT && (unsigned)m->from < LIFECYCLE_COUNT &&
           (unsigned)m->to < LIFECYCLE_COUNT && m->code <= RECORD_REPLY_CODE_MAX &&
           record_enhanced_is_valid(m->enhanced);
}

void record_move_put(struct buf *list, const struct record_move *move)
{
    const struct record_move *m = move;
    CHECK(move_is_valid(m) && (unsigned)m->outcome < OUTCOME_COUNT);
    const struct slice texts[] = {
        slice_head(m->upstream, UPSTREAM_NAME_BYTES_MAX),
        slice_head(m->peer, RECORD_PEER_BYTES_MAX),
        slice_head(m->tls, RECORD_TLS_BYTES_MAX),
        slice_head(m->text, RECORD_MOVE_TEXT_BYTES_MAX),
    };
    const size_t text_count = sizeof texts / sizeof texts[0];
    size_t bytes = MOVE_FIXED_BYTES;
    for (size_t index = 0; index < text_count; index++) {
        bytes += RECORD_LENGTH_BYTES + texts[index].len;
    }
    if (!record_has_room(list, bytes)) {
        return;
    }
    uint8_t fixed[MOVE_FIXED_BYTES];
    be64_put(fixed, m->when_ms);
    fixed[8] = (uint8_t)m->cause;
    fixed[9] = (uint8_t)m->from;
    fixed[10] = (uint8_t)m->to;
    fixed[11] = (uint8_t)m->outcome;
    be16_put(fixed + 12, m->code);
    be16_put(fixed + 14, m->enhanced[0]);
    be16_put(fixed + 16, m->enhanced[1]);
    be16_put(fixed + 18, m->enhanced[2]);
    be32_put(fixed + 20, m->first);
    be32_put(fixed + 24, m->count);
    be64_put(fixed + 28, m->connection);
    be32_put(fixed + 36, m->duration_ms);
    be32_put(fixed + 40, m->uid);
    buf_put(list, slice_of(fixed, sizeof fixed));
    for (size_t index = 0; index < text_count; index++) {
        record_text_put(list, texts[index]);
    }
}

bool record_move_next(struct slice *list, struct record_move *out)
{
    if (list->len < MOVE_FIXED_BYTES) {
        return false;
    }
    const uint8_t *fixed = list->data;
    struct slice rest = slice_tail(*list, MOVE_FIXED_BYTES);
    struct record_move m = {
        .when_ms = be64_get(fixed),
        .cause = (enum record_cause)fixed[8],
        .from = (enum lifecycle)fixed[9],
        .to = (enum lifecycle)fixed[10],
        .outcome = fixed[11] < OUTCOME_COUNT ? (enum outcome)fixed[11] : OUTCOME_NONE,
        .code = be16_get(fixed + 12),
        .enhanced = {be16_get(fixed + 14), be16_get(fixed + 16), be16_get(fixed + 18)},
        .first = be32_get(fixed + 20),
        .count = be32_get(fixed + 24),
        .connection = be64_get(fixed + 28),
        .duration_ms = be32_get(fixed + 36),
        .uid = be32_get(fixed + 40),
    };
    if (!move_is_valid(&m) || !record_text_take(&rest, 0, UPSTREAM_NAME_BYTES_MAX, &m.upstream) ||
        !record_text_take(&rest, 0, RECORD_PEER_BYTES_MAX, &m.peer) ||
        !record_text_take(&rest, 0, RECORD_TLS_BYTES_MAX, &m.tls) ||
        !record_text_take(&rest, 0, RECORD_MOVE_TEXT_BYTES_MAX, &m.text)) {
        return false;
    }
    *out = m;
    *list = rest;
    return true;
}

/* The first count moves of list. CHECKs that there are so many. */
static struct slice moves_head(struct slice list, uint32_t count)
{
    struct slice rest = list;
    struct record_move move;
    for (uint32_t index = 0; index < count; index++) {
        bool found = record_move_next(&rest, &move);
        CHECK(found);
    }
    return slice_head(list, list.len - rest.len);
}

/* ---- trails ---- */

/* Which moves stay: the first `first` of before, and what is left of before and new when the oldest
 * of the others are dropped. */
struct kept {
    struct slice first, before, fresh;
    uint32_t count, left_out;
};

static struct kept keep(const struct record_trail *before, struct slice moves, uint32_t count)
{
    static const struct record_trail nothing = {0};
    const struct record_trail *b = before == NULL ? &nothing : before;
    struct kept k = {.before = b->moves, .fresh = moves, .left_out = b->moves_left_out};
    uint32_t drop = 0;
    k.count = b->move_count + count;
    if (k.count > RECORD_TRAIL_MOVES_MAX) {
        drop = k.count - RECORD_TRAIL_MOVES_MAX;
        k.count = RECORD_TRAIL_MOVES_MAX;
        k.left_out += drop;
    }
    if (drop == 0) {
        return k;
    }
    uint32_t first =
        b->move_count < RECORD_TRAIL_MOVES_FIRST ? b->move_count : RECORD_TRAIL_MOVES_FIRST;
    k.first = moves_head(k.before, first);
    k.before = slice_tail(k.before, k.first.len);
    uint32_t of_before = b->move_count - first < drop ? b->move_count - first : drop;
    k.before = slice_tail(k.before, moves_head(k.before, of_before).len);
    drop -= of_before;
    if (drop > 0) {
        /* More came at once than there is room for. Of before, only first ones are left: those that
         * are missing among them are the first of the new ones. */
        k.before = moves_head(k.fresh, RECORD_TRAIL_MOVES_FIRST - first);
        k.fresh = slice_tail(k.fresh, k.before.len);
        k.fresh = slice_tail(k.fresh, moves_head(k.fresh, drop).len);
    }
    return k;
}

/* The dialogue that is kept: all of the new one if it fits, and of the old one what is left, from
 * the beginning of a line. */
static struct slice dialogue_before(const struct record_trail *before, size_t fresh_bytes)
{
    size_t room = RECORD_DIALOGUE_BYTES_MAX - fresh_bytes;
    struct slice old = before == NULL ? slice_of(NULL, 0) : before->dialogue;
    if (old.len > room) {
        old = slice_tail(old, old.len - room - 1); /* the byte before it may end a line */
        old = slice_tail(old, slice_find(old, '\n') + 1);
    }
    return old;
}

void record_trail_put(struct buf *to, const struct record_trail *before, struct slice moves,
                      uint32_t count, struct slice dialogue)
{
    CHECK(moves_head(moves, count).len == moves.len);
    struct kept k = keep(before, moves, count);
    struct slice fresh = slice_head(dialogue, RECORD_DIALOGUE_BYTES_MAX);
    struct slice old = dialogue_before(before, fresh.len);
    size_t moves_bytes = k.first.len + k.before.len + k.fresh.len;
    if (!record_has_room(to, TRAIL_FIXED_BYTES + moves_bytes + RECORD_LENGTH_BYTES + old.len +
                                 fresh.len + RECORD_CHECKSUM_BYTES)) {
        return;
    }
    size_t start = to->len;
    uint8_t fixed[TRAIL_FIXED_BYTES] = {RECORD_VERSION, KIND_TRAIL};
    be32_put(fixed + 2, k.count);
    be32_put(fixed + 6, k.left_out);
    buf_put(to, slice_of(fixed, sizeof fixed));
    buf_put(to, k.first);
    buf_put(to, k.before);
    buf_put(to, k.fresh);
    uint8_t length[RECORD_LENGTH_BYTES];
    be16_put(length, u16_from(old.len + fresh.len));
    buf_put(to, slice_of(length, sizeof length));
    buf_put(to, old);
    buf_put(to, fresh);
    record_checksum_put(to, start);
}

enum err record_trail_get(struct slice bytes, struct record_trail *out)
{
    struct slice content;
    enum err err =
        record_content_get(bytes, RECORD_VERSION, KIND_TRAIL, TRAIL_FIXED_BYTES, &content);
    if (err != ERR_OK) {
        return err;
    }
    struct record_trail t = {
        .move_count = be32_get(content.data + 2),
        .moves_left_out = be32_get(content.data + 6),
    };
    struct slice all = slice_tail(content, TRAIL_FIXED_BYTES);
    struct slice rest = all;
    struct record_move move;
    if (t.move_count > RECORD_TRAIL_MOVES_MAX) {
        return ERR_DAMAGED;
    }
    for (uint32_t index = 0; index < t.move_count; index++) {
        if (!record_move_next(&rest, &move)) {
            return ERR_DAMAGED;
        }
    }
    t.moves = slice_head(all, all.len - rest.len);
    if (!record_text_take(&rest, 0, RECORD_DIALOGUE_BYTES_MAX, &t.dialogue) || rest.len != 0) {
        return ERR_DAMAGED;
    }
    *out = t;
    return ERR_OK;
}

/* ---- histories ---- */

static void blob_put(struct buf *to, struct slice bytes)
{
    uint8_t length[BLOB_LENGTH_BYTES];
    be32_put(length, u32_from(bytes.len));
    buf_put(to, slice_of(length, sizeof length));
    buf_put(to, bytes);
}

static bool blob_take(struct slice *from, struct slice *out)
{
    if (from->len < BLOB_LENGTH_BYTES) {
        return false;
    }
    size_t len = be32_get(from->data);
    if (len > from->len - BLOB_LENGTH_BYTES) {
        return false;
    }
    *out = slice_of(from->data + BLOB_LENGTH_BYTES, len);
    *from = slice_tail(*from, BLOB_LENGTH_BYTES + len);
    return true;
}

void record_history_put(struct buf *to, const struct record_history *history)
{
    const struct record_history *h = history;
    CHECK((unsigned)h->end < RECORD_END_COUNT);
    size_t bytes = HISTORY_FIXED_BYTES + 3 * BLOB_LENGTH_BYTES + h->envelope.len + h->state.len +
                   h->trail.len + RECORD_CHECKSUM_BYTES;
    if (!record_has_room(to, bytes)) {
        return;
    }
    size_t start = to->len;
    uint8_t fixed[HISTORY_FIXED_BYTES] = {RECORD_VERSION, KIND_HISTORY};
    be64_put(fixed + 2, h->left_ms);
    be64_put(fixed + 10, h->left_q);
    fixed[18] = (uint8_t)h->end;
    buf_put(to, slice_of(fixed, sizeof fixed));
    blob_put(to, h->envelope);
    blob_put(to, h->state);
    blob_put(to, h->trail);
    record_checksum_put(to, start);
}

enum err record_history_get(struct slice bytes, struct record_history *out)
{
    struct slice content;
    enum err err =
        record_content_get(bytes, RECORD_VERSION, KIND_HISTORY, HISTORY_FIXED_BYTES, &content);
    if (err != ERR_OK) {
        return err;
    }
    struct record_history h = {
        .left_ms = be64_get(content.data + 2),
        .left_q = be64_get(content.data + 10),
        .end = (enum record_end)content.data[18],
    };
    struct slice rest = slice_tail(content, HISTORY_FIXED_BYTES);
    if (content.data[18] >= RECORD_END_COUNT || !blob_take(&rest, &h.envelope) ||
        !blob_take(&rest, &h.state) || !blob_take(&rest, &h.trail) || rest.len != 0) {
        return ERR_DAMAGED;
    }
    *out = h;
    return ERR_OK;
}

bool record_history_left_q(struct slice bytes, uint64_t *out_left_q)
{
    if (bytes.len < HISTORY_FIXED_BYTES) {
        return false;
    }
    *out_left_q = be64_get(bytes.data + 10);
    return true;
}

enum err record_message_of_history(struct slice bytes, const struct msg_id *id,
                                   struct record_message *out, struct record_history *history,
                                   struct record_trail *trail)
{
    struct record_message m = {.id = *id};
    enum err err = record_history_get(bytes, history);
    if (err == ERR_OK) {
        err = record_envelope_get(history->envelope, &m.envelope);
    }
    if (err == ERR_OK) {
        err = record_state_get(history->state, &m.state);
    }
    if (err != ERR_OK) {
        return err;
    }
    m.history = history;
    if (history->trail.len > 0 && record_trail_get(history->trail, trail) == ERR_OK) {
        m.trail = trail;
    }
    *out = m;
    return ERR_OK;
}
