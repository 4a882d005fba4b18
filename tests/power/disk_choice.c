/*
 * What may be there after a cut: for each file its length and, block by block, how far its pending
 * writes have come; for each name whether its last changes have.
 */
#include "tests/power/disk_internal.h"

#include <stdlib.h>

static uint64_t mix(uint64_t a, uint64_t b)
{
    return power_mix(a ^ power_mix(b));
}

static bool is_of_content(enum tape_kind kind)
{
    return kind == TAPE_WRITE || kind == TAPE_LENGTH;
}

/* Index of the last pending write, or of the last change of a name; the count when there is none.
 */
static size_t last_of(const struct disk *disk, bool names)
{
    for (size_t index = disk->pending_count; index-- > 0;) {
        enum tape_kind kind = disk->pending[index].event.kind;
        if (names ? !is_of_content(kind) : kind == TAPE_WRITE) {
            return index;
        }
    }
    return disk->pending_count;
}

static bool covers(const struct tape_event *event, uint32_t file, uint64_t at, uint64_t bytes)
{
    return event->file == file && at < event->offset + event->bytes && event->offset < at + bytes;
}

/* Did this write reach this block of its file? */
static bool block_is_there(const struct disk *disk, const struct disk_choice *choice, size_t last,
                           size_t index, uint64_t block)
{
    const struct tape_event *event = &disk->pending[index].event;
    uint64_t at = block * choice->block_bytes;
    uint64_t torn = choice->seed % (disk->pending_count + 1);
    uint64_t blocks = event->bytes / choice->block_bytes + 2;
    uint64_t cut = event->offset / choice->block_bytes + (choice->seed >> 20) % blocks;
    uint64_t hash;
    switch (choice->pattern) {
    case DISK_NONE:
    case DISK_PATTERN_COUNT:
        return false;
    case DISK_ALL:
        return true;
    case DISK_LAST:
        return last < disk->pending_count &&
               covers(&disk->pending[last].event, event->file, at, choice->block_bytes);
    case DISK_BUT_LAST:
        return index != last;
    case DISK_ODD:
        return block % 2 == 1;
    case DISK_EVEN:
        return block % 2 == 0;
    case DISK_TORN:
        return index < torn || (index == torn && block < cut);
    case DISK_TORN_BACKWARD:
        return index > torn || (index == torn && block >= cut);
    case DISK_WRITES:
        return mix(choice->seed, index) % 2 == 0;
    case DISK_BLOCKS:
        hash = mix(choice->seed, (uint64_t)event->file << 48 | block);
        if (hash >> 62 == 0) { /* as it was after one of its writes but not the last */
            return index < (hash >> 8) % (disk->pending_count + 1);
        }
        /* few, half or nearly all */
        return (hash & 0xff) < (uint64_t[]){16, 128, 240}[choice->seed % 3];
    }
    return false;
}

/* How many of the changes of a length, or of names, have made it: all before this index. */
static size_t reached(const struct disk *disk, const struct disk_choice *choice, uint64_t which)
{
    uint64_t hash = mix(choice->seed + 1, which);
    switch (choice->pattern) {
    case DISK_NONE:
        return 0;
    case DISK_ALL:
    case DISK_LAST:
    case DISK_ODD:
    case DISK_EVEN:
        return disk->pending_count;
    case DISK_BUT_LAST:
        return disk->pending_count == 0 ? 0 : disk->pending_count - 1;
    case DISK_TORN:
    case DISK_TORN_BACKWARD:
    case DISK_WRITES:
    case DISK_BLOCKS:
    case DISK_PATTERN_COUNT:
        break;
    }
    if (hash % 2 == 0) {
        return disk->pending_count;
    }
    return (hash >> 8) % (disk->pending_count + 1);
}

static void run_put(struct disk_selection *to, size_t index, uint64_t from, uint64_t end)
{
    if (to->count == to->cap) {
        to->cap = to->cap == 0 ? 1024 : 2 * to->cap;
        void *larger = realloc(to->runs, to->cap * sizeof *to->runs);
        CHECK(larger != NULL);
        to->runs = larger;
    }
    to->runs[to->count++] =
        (struct disk_run){.index = (uint32_t)index, .offset = from, .bytes = end - from};
}

/* The blocks of one write that are there, neighbours as one run. */
static void write_select(struct disk *disk, const struct disk_choice *choice, size_t last,
                         size_t index)
{
    const struct disk_pending *p = &disk->pending[index];
    uint64_t start = p->event.offset;
    uint64_t end = u64_min(start + p->event.bytes, disk->selection.len[p->event.file]);
    uint64_t run = UINT64_MAX;
    for (uint64_t at = start; at < end;) {
        uint64_t block = at / choice->block_bytes;
        uint64_t next = u64_min((block + 1) * choice->block_bytes, end);
        bool there = p->forced || block_is_there(disk, choice, last, index, block);
        if (there && run == UINT64_MAX) {
            run = at;
        } else if (!there && run != UINT64_MAX) {
            run_put(&disk->selection, index, run, at);
            run = UINT64_MAX;
        }
        at = next;
    }
    if (run != UINT64_MAX) {
        run_put(&disk->selection, index, run, end);
    }
}

static void lengths_select(struct disk *disk, const struct disk_choice *choice)
{
    for (uint32_t file = 1; file < disk->file_next; file++) {
        uint64_t len = disk->files[file].len;
        size_t until = reached(disk, choice, file);
        for (size_t index = 0; index < disk->pending_count; index++) {
            const struct disk_pending *p = &disk->pending[index];
            if (!is_of_content(p->event.kind) || p->event.file != file ||
                (index >= until && !p->forced)) {
                continue;
            }
            len = p->event.kind == TAPE_LENGTH ? p->event.bytes
                                               : u64_max(len, p->event.offset + p->event.bytes);
        }
        disk->selection.len[file] = len;
    }
}

/* Names are independent of each other; a rename is one change of both. */
static bool name_is_there(const struct disk *disk, const struct disk_choice *choice, size_t last,
                          size_t index)
{
    if (choice->pattern == DISK_LAST) {
        return index == last;
    }
    if (choice->pattern == DISK_BUT_LAST) {
        return index != last;
    }
    if (choice->pattern >= DISK_SYSTEMATIC_COUNT && (choice->seed >> 40) % 2 == 0) {
        return mix(choice->seed + 2, index) % 2 == 0; /* in any order */
    }
    return index < reached(disk, choice, TAPE_FILES_MAX);
}

static void names_select(struct disk *disk, const struct disk_choice *choice)
{
    struct tape_names *names = &disk->selection.names;
    size_t last = last_of(disk, true);
    *names = disk->names;
    for (size_t index = 0; index < disk->pending_count; index++) {
        const struct tape_event *event = &disk->pending[index].event;
        if (is_of_content(event->kind) || !name_is_there(disk, choice, last, index)) {
            continue;
        }
        names->file[event->name] = event->kind == TAPE_CREATE ? event->file : 0;
        if (event->kind == TAPE_RENAME) {
            names->file[event->name_to] = event->file;
        }
    }
}

static uint64_t selection_hash(const struct disk *disk)
{
    const struct disk_selection *selection = &disk->selection;
    uint64_t hash = selection->fill;
    for (uint32_t file = 1; file < disk->file_next; file++) {
        hash = mix(hash, selection->len[file]);
    }
    for (uint8_t name = 0; name < TAPE_NAMES_MAX; name++) {
        hash = mix(hash, selection->names.file[name]);
    }
    for (size_t index = 0; index < selection->count; index++) {
        const struct disk_run *run = &selection->runs[index];
        hash = mix(hash, (uint64_t)run->index << 48 ^ run->offset << 20 ^ run->bytes);
    }
    return hash;
}

uint64_t disk_select(struct disk *disk, const struct disk_choice *choice)
{
    size_t last = last_of(disk, false);
    disk->selection.count = 0;
    disk->selection.fill =
        choice->pattern >= DISK_SYSTEMATIC_COUNT && (choice->seed >> 50) % 4 == 0 ? 0xa5 : 0;
    lengths_select(disk, choice);
    for (size_t index = 0; index < disk->pending_count; index++) {
        if (disk->pending[index].event.kind == TAPE_WRITE) {
            write_select(disk, choice, last, index);
        }
    }
    names_select(disk, choice);
    return selection_hash(disk);
}

void disk_choice_text(const struct disk_choice *choice, char *to, size_t cap)
{
    static const char *const words[DISK_PATTERN_COUNT] = {
        [DISK_NONE] = "none",          [DISK_ALL] = "all",
        [DISK_LAST] = "only the last", [DISK_BUT_LAST] = "all but the last",
        [DISK_ODD] = "odd blocks",     [DISK_EVEN] = "even blocks",
        [DISK_TORN] = "torn",          [DISK_TORN_BACKWARD] = "torn from the end",
        [DISK_WRITES] = "some writes", [DISK_BLOCKS] = "some blocks",
    };
    snprintf(to, cap, "%s of %u", words[choice->pattern], choice->block_bytes);
}
