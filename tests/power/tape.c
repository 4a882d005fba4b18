/*
 * The tape itself: events, names, descriptors. Nothing here calls the kernel.
 */
#include "tests/power/tape.h"

#include "tests/power/tape_calls.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>

#define EVENTS_MAX     (1u << 20)
#define DATA_BYTES_MAX (1u << 30)

struct tape_lies tape_lies;

static struct tape *running;
static char root[TAPE_PATH_BYTES_MAX];
static size_t root_len;
static char names[TAPE_NAMES_MAX][TAPE_NAME_BYTES_MAX] = {[TAPE_NAME_QUEUE] = "q"};
static uint8_t names_count = 1;
static struct tape_descriptor descriptors[TAPE_DESCRIPTORS_MAX];
static uint64_t random_state;
/* LMDB copies an environment with a thread of its own. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

void tape_free(struct tape *tape)
{
    free(tape->events);
    free(tape->data);
    *tape = (struct tape){0};
}

void tape_start(struct tape *tape, const char *parent, const struct tape_names *at,
                uint32_t file_next)
{
    root_len = strlen(parent);
    CHECK(root_len < sizeof root);
    memcpy(root, parent, root_len + 1);
    tape->count = 0;
    tape->data_bytes = 0;
    tape->through = 0;
    memset(tape->kinds, 0, sizeof tape->kinds);
    tape->names = *at;
    tape->file_next = file_next;
    tape_resume(tape);
}

void tape_resume(struct tape *tape)
{
    CHECK(running == NULL);
    running = tape;
}

void tape_stop(void)
{
    running = NULL;
    memset(descriptors, 0, sizeof descriptors);
}

bool tape_runs(void)
{
    return running != NULL;
}

void tape_random_seed(uint64_t seed)
{
    random_state = seed;
}

uint64_t tape_random_next(void)
{
    return power_random(&random_state);
}

const char *tape_name(uint8_t name)
{
    return name < names_count ? names[name] : NULL;
}

uint8_t tape_name_index(const char *name)
{
    for (uint8_t index = 1; index < names_count; index++) {
        if (strcmp(names[index], name) == 0) {
            return index;
        }
    }
    size_t len = strlen(name);
    if (names_count == TAPE_NAMES_MAX || len >= TAPE_NAME_BYTES_MAX) {
        power_broken("more names in the queue's directory than the tape can hold: %s", name);
    }
    memcpy(names[names_count], name, len + 1);
    return names_count++;
}

bool tape_place_of(const char *path, struct tape_place *out)
{
    if (running == NULL || path == NULL || strncmp(path, root, root_len) != 0) {
        return false;
    }
    const char *rest = path + root_len;
    *out = (struct tape_place){.directory = true, .which = TAPE_PARENT};
    if (strcmp(rest, "") == 0 || strcmp(rest, "/q/..") == 0) {
        return true;
    }
    out->which = TAPE_QUEUE;
    if (strcmp(rest, "/q") == 0) {
        return true;
    }
    if (strncmp(rest, "/q/", 3) != 0) {
        return false;
    }
    if (strchr(rest + 3, '/') != NULL) {
        power_broken("the tape knows no directories below the queue's: %s", path);
    }
    *out = (struct tape_place){.name = tape_name_index(rest + 3)};
    return true;
}

struct tape_descriptor *tape_descriptor(int fd)
{
    bool ours = running != NULL && fd >= 0 && fd < TAPE_DESCRIPTORS_MAX &&
                (descriptors[fd].file != 0 || descriptors[fd].directory);
    return ours ? &descriptors[fd] : NULL;
}

uint32_t tape_file_of(uint8_t name)
{
    return running->names.file[name];
}

static void grow(void **memory, size_t *cap, size_t wanted, size_t unit, size_t max)
{
    size_t next = *cap == 0 ? 4096 : *cap;
    while (next < wanted) {
        next *= 2;
    }
    if (next > *cap) {
        void *larger = next > max ? NULL : realloc(*memory, next * unit);
        if (larger == NULL) {
            power_broken("the tape is full");
        }
        *memory = larger;
        *cap = next;
    }
}

static void names_follow(struct tape_names *at, const struct tape_event *event)
{
    if (event->kind == TAPE_CREATE) {
        at->file[event->name] = event->file;
    } else if (event->kind == TAPE_RENAME) {
        at->file[event->name] = 0;
        at->file[event->name_to] = event->file;
    } else if (event->kind == TAPE_UNLINK) {
        at->file[event->name] = 0;
    }
}

/* What the recorder lies about is not put down. */
static bool is_hidden(const struct tape_event *event)
{
    return (event->kind == TAPE_SYNC && tape_lies.no_sync) ||
           (event->kind == TAPE_SYNC_DIRECTORY && tape_lies.no_directory_sync);
}

void tape_put(const struct tape_event *event, const void *data)
{
    pthread_mutex_lock(&lock);
    struct tape *tape = running;
    names_follow(&tape->names, event);
    if (!is_hidden(event)) {
        void *events = tape->events;
        grow(&events, &tape->cap, tape->count + 1, sizeof *tape->events, EVENTS_MAX);
        tape->events = events;
        struct tape_event *to = &tape->events[tape->count++];
        *to = *event;
        to->through = event->through && !tape_lies.no_through;
        to->data = tape->data_bytes;
        tape->kinds[event->kind]++;
        tape->through += to->through;
        if (event->kind == TAPE_WRITE) {
            void *bytes = tape->data;
            grow(&bytes, &tape->data_cap, tape->data_bytes + event->bytes, 1, DATA_BYTES_MAX);
            tape->data = bytes;
            memcpy(tape->data + tape->data_bytes, data, event->bytes);
            tape->data_bytes += event->bytes;
        }
    }
    pthread_mutex_unlock(&lock);
}

void tape_mark(enum tape_kind kind, uint64_t version)
{
    if (running != NULL) {
        tape_put(&(struct tape_event){.kind = kind, .version = version}, NULL);
    }
}

void tape_unmark(void)
{
    CHECK(running != NULL && running->count > 0);
    struct tape_event *last = &running->events[running->count - 1];
    CHECK(last->kind == TAPE_HANDED || last->kind == TAPE_ACKED);
    running->kinds[last->kind]--;
    running->count--;
}

uint64_t tape_write_count(void)
{
    return running == NULL ? 0 : running->kinds[TAPE_WRITE];
}

static void (*watch_before)(void);
static void (*watch_after)(bool worked);

void tape_commits_watch(void (*before)(void), void (*after)(bool worked))
{
    watch_before = before;
    watch_after = after;
}

bool tape_commit_is_watched(int fd)
{
    const struct tape_descriptor *d = tape_descriptor(fd);
    return watch_before != NULL && d != NULL &&
           d->file == running->names.file[tape_name_index("data.mdb")];
}

void tape_commit_before(void)
{
    watch_before();
}

void tape_commit_after(bool worked)
{
    watch_after(worked);
}

/* A descriptor of ours; a name that was not there before is a new file. */
void tape_opened(int fd, const struct tape_place *place, int flags)
{
    if (fd < 0 || fd >= TAPE_DESCRIPTORS_MAX) {
        power_broken("the tape follows %d descriptors only", TAPE_DESCRIPTORS_MAX);
    }
    struct tape_descriptor *to = &descriptors[fd];
    *to = (struct tape_descriptor){.directory = place->directory, .which = place->which};
    if (place->directory) {
        return;
    }
    if (running->names.file[place->name] == 0) {
        if (running->file_next >= TAPE_FILES_MAX) {
            power_broken("more files than the tape can hold");
        }
        tape_put(&(struct tape_event){.kind = TAPE_CREATE,
                                      .name = place->name,
                                      .file = running->file_next++},
                 NULL);
    } else if ((flags & O_TRUNC) != 0) {
        tape_put(
            &(struct tape_event){.kind = TAPE_LENGTH, .file = running->names.file[place->name]},
            NULL);
    }
    to->file = running->names.file[place->name];
    to->through = (flags & O_DSYNC) != 0;
    to->lock = strstr(names[place->name], "lock") != NULL;
}

void tape_event_text(const struct tape_event *event, char *to, size_t cap)
{
    static const char *const words[TAPE_KIND_COUNT] = {
        [TAPE_WRITE] = "write",      [TAPE_LENGTH] = "length",
        [TAPE_SYNC] = "sync",        [TAPE_SYNC_DIRECTORY] = "sync of directory",
        [TAPE_CREATE] = "create",    [TAPE_RENAME] = "rename",
        [TAPE_UNLINK] = "unlink",    [TAPE_MAP] = "map",
        [TAPE_HANDED] = "handed in", [TAPE_ACKED] = "acknowledged",
    };
    const char *word = words[event->kind];
    switch (event->kind) {
    case TAPE_WRITE:
    case TAPE_LENGTH:
        snprintf(to, cap, "%s%s file %u at %llu, %llu bytes", word,
                 event->through ? " through" : "", event->file, (unsigned long long)event->offset,
                 (unsigned long long)event->bytes);
        break;
    case TAPE_SYNC:
    case TAPE_MAP:
        snprintf(to, cap, "%s file %u", word, event->file);
        break;
    case TAPE_CREATE:
    case TAPE_UNLINK:
        snprintf(to, cap, "%s %s", word, tape_name(event->name));
        break;
    case TAPE_RENAME:
        snprintf(to, cap, "%s %s to %s", word, tape_name(event->name), tape_name(event->name_to));
        break;
    case TAPE_HANDED:
    case TAPE_ACKED:
        snprintf(to, cap, "%s: version %llu", word, (unsigned long long)event->version);
        break;
    case TAPE_SYNC_DIRECTORY:
    case TAPE_KIND_COUNT:
        snprintf(to, cap, "%s %u", word, event->directory);
        break;
    }
}
