/*
 * What the queue remembers beside messages: of upstreams, of itself, and of the time.
 */
#include "daemon/store/store_internal.h"
#include "schema/record_upstream.h"

#define NOTE_WORD_BYTES_MAX  64
#define NOTE_VALUE_BYTES_MAX 64
#define NOTE_PREFIX          "note:"
#define NOTE_KEY_BYTES_MAX   (sizeof NOTE_PREFIX - 1 + NOTE_WORD_BYTES_MAX)

enum err store_upstream_set(struct store *store, struct slice name, struct slice record)
{
    CHECK(store->txn != NULL && name.len >= 1 && name.len <= UPSTREAM_NAME_BYTES_MAX);
    struct record_upstream decoded;
    if (record_upstream_get(record, &decoded) != ERR_OK) {
        return ERR_DAMAGED;
    }
    return store_put_sealed(store, STORE_DB_UPSTREAM, name, record, 0);
}

enum err store_upstream_get(struct store *store, struct slice name, struct slice *out)
{
    CHECK(store->txn != NULL && name.len >= 1 && name.len <= UPSTREAM_NAME_BYTES_MAX);
    return store_get_sealed(store, store->txn, STORE_DB_UPSTREAM, name, out);
}

void store_clock_set(struct store *store, const struct store_clock *clock)
{
    CHECK(store->txn != NULL);
    store->pending.clock = *clock;
}

static struct slice note_key(struct slice word, uint8_t key[NOTE_KEY_BYTES_MAX])
{
    CHECK(word.len >= 1 && word.len <= NOTE_WORD_BYTES_MAX);
    struct buf to;
    buf_init(&to, key, NOTE_KEY_BYTES_MAX);
    buf_put_str(&to, NOTE_PREFIX);
    buf_put(&to, word);
    return buf_slice(&to);
}

enum err store_note_set(struct store *store, struct slice word, struct slice value)
{
    CHECK(store->txn != NULL && value.len <= NOTE_VALUE_BYTES_MAX);
    uint8_t key[NOTE_KEY_BYTES_MAX];
    return store_put_sealed(store, STORE_DB_META, note_key(word, key), value, 0);
}

enum err store_note_get(struct store *store, struct slice word, struct slice *out)
{
    CHECK(store->txn != NULL);
    uint8_t key[NOTE_KEY_BYTES_MAX];
    return store_get_sealed(store, store->txn, STORE_DB_META, note_key(word, key), out);
}
