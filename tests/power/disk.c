/*
 * Files, names and levels.
 */
#include "tests/power/disk.h"

#include "tests/power/disk_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct undo {
    uint32_t file;
    uint64_t offset;
    uint64_t bytes;
};

static void path_of_file(const struct disk *disk, uint32_t file, char to[TAPE_PATH_BYTES_MAX * 2])
{
    snprintf(to, TAPE_PATH_BYTES_MAX * 2, "%s/file-%u", disk->root, file);
}

static void path_of_name(const struct disk *disk, uint8_t name, char to[TAPE_PATH_BYTES_MAX * 2])
{
    if (name == TAPE_NAME_QUEUE) {
        snprintf(to, TAPE_PATH_BYTES_MAX * 2, "%s/q", disk->root);
    } else {
        snprintf(to, TAPE_PATH_BYTES_MAX * 2, "%s/q/%s", disk->root, tape_name(name));
    }
}

/*
 * ---- bytes ----
 */

static void undo_put(struct disk *disk, uint32_t file, uint64_t offset, uint64_t bytes)
{
    struct undo head = {file, offset, bytes};
    size_t wanted = disk->undo_bytes + bytes + sizeof head;
    if (wanted > disk->undo_cap) {
        size_t cap = disk->undo_cap == 0 ? 1u << 20 : disk->undo_cap;
        while (cap < wanted) {
            cap *= 2;
        }
        uint8_t *larger = realloc(disk->undo, cap);
        if (larger == NULL) {
            power_broken("no memory for the log of the disk");
        }
        disk->undo = larger;
        disk->undo_cap = cap;
    }
    memcpy(disk->undo + disk->undo_bytes, disk->files[file].bytes + offset, bytes);
    memcpy(disk->undo + disk->undo_bytes + bytes, &head, sizeof head);
    disk->undo_bytes = wanted;
}

static void real_write(const struct disk *disk, uint32_t file, uint64_t offset, uint64_t bytes)
{
    const struct disk_file *f = &disk->files[file];
    bytes = offset < f->len ? u64_min(bytes, f->len - offset) : 0;
    if (bytes > 0 && pwrite(f->fd, f->bytes + offset, bytes, (off_t)offset) != (ssize_t)bytes) {
        power_broken("cannot write a file of the disk: %s", strerrordesc_np(errno));
    }
}

static void bytes_put(struct disk *disk, uint32_t file, uint64_t offset, const uint8_t *from,
                      uint64_t bytes)
{
    if (offset + bytes > DISK_FILE_BYTES_MAX) {
        power_broken("a file is longer than the rig can hold");
    }
    if (disk->level > 0) {
        undo_put(disk, file, offset, bytes);
    }
    memcpy(disk->files[file].bytes + offset, from, bytes);
    real_write(disk, file, offset, bytes);
}

static void length_put(struct disk *disk, uint32_t file, uint64_t len)
{
    struct disk_file *f = &disk->files[file];
    if (len == f->len) {
        return;
    }
    if (len > DISK_FILE_BYTES_MAX) {
        power_broken("a file is longer than the rig can hold");
    }
    if (len < f->len) {
        uint64_t bytes = f->len - len;
        if (disk->level > 0) {
            undo_put(disk, file, len, bytes);
        }
        memset(f->bytes + len, 0, bytes);
    }
    f->len = len;
    if (ftruncate(f->fd, (off_t)len) != 0) {
        power_broken("cannot set the length of a file of the disk");
    }
}

static void file_need(struct disk *disk, uint32_t file)
{
    CHECK(file > 0 && file < TAPE_FILES_MAX);
    struct disk_file *f = &disk->files[file];
    disk->file_next = file >= disk->file_next ? file + 1 : disk->file_next;
    if (f->bytes != NULL) {
        return;
    }
    char path[TAPE_PATH_BYTES_MAX * 2];
    path_of_file(disk, file, path);
    f->fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    void *bytes = mmap(NULL, DISK_FILE_BYTES_MAX, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (f->fd < 0 || bytes == MAP_FAILED) {
        power_broken("cannot make a file of the disk in %s", disk->root);
    }
    f->bytes = bytes;
}

/* The number will be used again, for another file. */
static void file_clear(struct disk *disk, uint32_t file)
{
    struct disk_file *f = &disk->files[file];
    if (f->bytes == NULL) {
        return;
    }
    char path[TAPE_PATH_BYTES_MAX * 2];
    path_of_file(disk, file, path);
    close(f->fd);
    unlink(path);
    munmap(f->bytes, DISK_FILE_BYTES_MAX);
    *f = (struct disk_file){0};
}

/*
 * ---- names ----
 */

static void name_remove(struct disk *disk, uint8_t name)
{
    char path[TAPE_PATH_BYTES_MAX * 2];
    path_of_name(disk, name, path);
    int result = name == TAPE_NAME_QUEUE ? rmdir(path) : unlink(path);
    if (result != 0 && errno != ENOENT) {
        power_broken("cannot remove %s: %s", path, strerrordesc_np(errno));
    }
    disk->shown.file[name] = 0;
}

static void name_make(struct disk *disk, uint8_t name, uint32_t file)
{
    char path[TAPE_PATH_BYTES_MAX * 2];
    char from[TAPE_PATH_BYTES_MAX * 2];
    path_of_name(disk, name, path);
    path_of_file(disk, file, from);
    int result = name == TAPE_NAME_QUEUE ? mkdir(path, 0700) : link(from, path);
    if (result != 0) {
        power_broken("cannot make %s: %s", path, strerrordesc_np(errno));
    }
    disk->shown.file[name] = file;
}

/* Makes the real directory show these names; what is in a directory that is not there is not there
 * either. */
static void names_show(struct disk *disk)
{
    bool there = disk->names.file[TAPE_NAME_QUEUE] != 0;
    for (uint8_t name = 1; name < TAPE_NAMES_MAX; name++) {
        uint32_t wanted = there ? disk->names.file[name] : 0;
        if (disk->shown.file[name] != 0 && disk->shown.file[name] != wanted) {
            name_remove(disk, name);
        }
    }
    if (!there && disk->shown.file[TAPE_NAME_QUEUE] != 0) {
        name_remove(disk, TAPE_NAME_QUEUE);
    }
    for (uint8_t name = 0; name < TAPE_NAMES_MAX; name++) {
        uint32_t wanted = there ? disk->names.file[name] : 0;
        if (wanted != 0 && disk->shown.file[name] == 0) {
            name_make(disk, name, wanted);
        }
    }
}

static bool is_of_names(enum tape_kind kind)
{
    return kind == TAPE_CREATE || kind == TAPE_RENAME || kind == TAPE_UNLINK;
}

static void name_apply(struct tape_names *names, const struct tape_event *event)
{
    names->file[event->name] = event->kind == TAPE_CREATE ? event->file : 0;
    if (event->kind == TAPE_RENAME) {
        names->file[event->name_to] = event->file;
    }
}

/*
 * ---- what becomes durable ----
 */

static void pending_apply(struct disk *disk, const struct disk_pending *p)
{
    const struct tape_event *event = &p->event;
    if (is_of_names(event->kind)) {
        name_apply(&disk->names, event);
    } else if (event->kind == TAPE_LENGTH) {
        length_put(disk, event->file, event->bytes);
    } else {
        length_put(disk, event->file,
                   u64_max(disk->files[event->file].len, event->offset + event->bytes));
        bytes_put(disk, event->file, event->offset, p->data, event->bytes);
    }
}

static bool is_flushed_by(const struct disk_pending *p, const struct tape_event *event)
{
    if (event->kind == TAPE_SYNC) {
        return !is_of_names(p->event.kind) && p->event.file == event->file;
    }
    enum tape_directory directory = p->event.name == TAPE_NAME_QUEUE ? TAPE_PARENT : TAPE_QUEUE;
    return is_of_names(p->event.kind) && directory == event->directory;
}

static void flush(struct disk *disk, const struct tape_event *event)
{
    size_t kept = 0;
    for (size_t index = 0; index < disk->pending_count; index++) {
        if (is_flushed_by(&disk->pending[index], event)) {
            pending_apply(disk, &disk->pending[index]);
        } else {
            disk->pending[kept++] = disk->pending[index];
        }
    }
    disk->pending_count = kept;
}

/* A write that was durable when it returned: at once, when nothing of that file waits before it. */
static void through(struct disk *disk, const struct tape_event *event)
{
    for (size_t index = 0; index + 1 < disk->pending_count; index++) {
        const struct tape_event *before = &disk->pending[index].event;
        if (!is_of_names(before->kind) && before->file == event->file) {
            disk->pending[disk->pending_count - 1].forced = true;
            return;
        }
    }
    pending_apply(disk, &disk->pending[--disk->pending_count]);
}

void disk_before(struct disk *disk, const struct tape *tape, const struct tape_event *event)
{
    if (event->kind == TAPE_MAP) {
        file_need(disk, event->file);
        disk->files[event->file].mapped = true;
    }
    if (event->kind != TAPE_WRITE && event->kind != TAPE_LENGTH && !is_of_names(event->kind)) {
        return;
    }
    if (!is_of_names(event->kind) ||
        (event->kind != TAPE_UNLINK && event->name != TAPE_NAME_QUEUE)) {
        file_need(disk, event->file);
    }
    if (disk->pending_count == DISK_PENDING_MAX) {
        /* Whatever has waited longest may well have been written by now. */
        pending_apply(disk, &disk->pending[0]);
        disk->pending_count--;
        memmove(disk->pending, disk->pending + 1, disk->pending_count * sizeof *disk->pending);
    }
    disk->pending[disk->pending_count++] =
        (struct disk_pending){.event = *event, .data = tape->data + event->data};
}

void disk_after(struct disk *disk, const struct tape_event *event)
{
    if (event->kind == TAPE_SYNC || event->kind == TAPE_SYNC_DIRECTORY) {
        flush(disk, event);
    } else if (event->kind == TAPE_WRITE && event->through) {
        through(disk, event);
    }
}

/*
 * ---- levels ----
 */

void disk_push(struct disk *disk)
{
    CHECK(disk->level < DISK_LEVELS_MAX);
    struct disk_mark *mark = &disk->marks[disk->level++];
    mark->undo_bytes = disk->undo_bytes;
    mark->names = disk->names;
    mark->file_next = disk->file_next;
    for (uint32_t file = 1; file < disk->file_next; file++) {
        mark->len[file] = disk->files[file].len;
        mark->mapped[file] = disk->files[file].mapped;
    }
    if (mark->pending == NULL) {
        mark->pending = malloc(DISK_PENDING_MAX * sizeof *mark->pending);
        CHECK(mark->pending != NULL);
    }
    mark->pending_count = disk->pending_count;
    memcpy(mark->pending, disk->pending, disk->pending_count * sizeof *disk->pending);
}

void disk_show(struct disk *disk)
{
    CHECK(disk->level > 0);
    const struct disk_selection *selection = &disk->selection;
    for (uint32_t file = 1; file < disk->file_next; file++) {
        if (disk->files[file].bytes == NULL) {
            continue;
        }
        length_put(disk, file, selection->len[file]);
        if (disk->files[file].mapped) {
            uint8_t guess[16384];
            memset(guess, selection->fill, sizeof guess);
            bytes_put(disk, file, 0, guess, u64_min(sizeof guess, disk->files[file].len));
        }
    }
    for (size_t index = 0; index < selection->count; index++) {
        const struct disk_run *run = &selection->runs[index];
        const struct disk_pending *p = &disk->pending[run->index];
        bytes_put(disk, p->event.file, run->offset, p->data + (run->offset - p->event.offset),
                  run->bytes);
    }
    disk->names = selection->names;
    if (disk->names.file[TAPE_NAME_QUEUE] == 0) {
        disk->names = (struct tape_names){0}; /* made again, it will be empty */
    }
    disk->pending_count = 0;
    names_show(disk);
}

static void undo_until(struct disk *disk, size_t bytes)
{
    while (disk->undo_bytes > bytes) {
        struct undo head;
        memcpy(&head, disk->undo + disk->undo_bytes - sizeof head, sizeof head);
        disk->undo_bytes -= sizeof head + head.bytes;
        memcpy(disk->files[head.file].bytes + head.offset, disk->undo + disk->undo_bytes,
               head.bytes);
        real_write(disk, head.file, head.offset, head.bytes);
    }
}

void disk_pop(struct disk *disk)
{
    CHECK(disk->level > 0);
    const struct disk_mark *mark = &disk->marks[--disk->level];
    for (uint32_t file = 1; file < mark->file_next; file++) {
        struct disk_file *f = &disk->files[file];
        if (f->bytes != NULL && f->len != mark->len[file]) {
            /* What is cut off here, or comes back, is in the log: the rest is zeros. */
            f->len = mark->len[file];
            if (ftruncate(f->fd, (off_t)f->len) != 0) {
                power_broken("cannot set the length of a file of the disk");
            }
        }
        f->mapped = mark->mapped[file];
    }
    undo_until(disk, mark->undo_bytes);
    disk->names = mark->names;
    memcpy(disk->pending, mark->pending, mark->pending_count * sizeof *disk->pending);
    disk->pending_count = mark->pending_count;
    names_show(disk);
    for (uint32_t file = mark->file_next; file < disk->file_next; file++) {
        file_clear(disk, file);
    }
    disk->file_next = mark->file_next;
}

/*
 * A process has run on what is shown, and its tape says where it left traces. A file that it made
 * is not one of ours yet: its name goes, and it with it.
 */
void disk_restore(struct disk *disk, const struct tape *tape)
{
    bool renamed = false;
    bool touched[TAPE_FILES_MAX] = {false};
    for (size_t index = 0; index < tape->count; index++) {
        const struct tape_event *event = &tape->events[index];
        bool ours = event->file < disk->file_next;
        renamed = renamed || is_of_names(event->kind);
        if (event->kind == TAPE_MAP && ours) {
            real_write(disk, event->file, 0, disk->files[event->file].len);
        } else if (event->kind == TAPE_WRITE && ours) {
            real_write(disk, event->file, event->offset, event->bytes);
            touched[event->file] = true;
        } else if (event->kind == TAPE_LENGTH && ours) {
            /* Cut off by then, or never there: the length below settles the rest. */
            if (event->bytes < disk->files[event->file].len) {
                real_write(disk, event->file, event->bytes,
                           disk->files[event->file].len - event->bytes);
            }
            touched[event->file] = true;
        }
    }
    for (uint32_t file = 1; file < disk->file_next; file++) {
        if (touched[file] && ftruncate(disk->files[file].fd, (off_t)disk->files[file].len) != 0) {
            power_broken("cannot set the length of a file of the disk");
        }
    }
    if (renamed) {
        for (uint8_t name = TAPE_NAMES_MAX; name-- > 0;) {
            if (disk->shown.file[name] != 0 || tape->names.file[name] != 0) {
                name_remove(disk, name);
            }
        }
        names_show(disk);
    }
}

const struct tape_names *disk_names(const struct disk *disk)
{
    return &disk->shown;
}

uint32_t disk_file_next(const struct disk *disk)
{
    return disk->file_next;
}

size_t disk_pending(const struct disk *disk)
{
    return disk->pending_count;
}

bool disk_rename_is_pending(const struct disk *disk)
{
    for (size_t index = 0; index < disk->pending_count; index++) {
        if (disk->pending[index].event.kind == TAPE_RENAME) {
            return true;
        }
    }
    return false;
}

struct disk *disk_new(const char *root)
{
    struct disk *disk = calloc(1, sizeof *disk);
    CHECK(disk != NULL && strlen(root) < sizeof disk->root);
    memcpy(disk->root, root, strlen(root) + 1);
    disk->file_next = 1;
    return disk;
}

void disk_clear(struct disk *disk)
{
    CHECK(disk->level == 0);
    disk->names = (struct tape_names){0};
    disk->pending_count = 0;
    names_show(disk);
    for (uint32_t file = 1; file < disk->file_next; file++) {
        file_clear(disk, file);
    }
    disk->file_next = 1;
}

void disk_free(struct disk **disk)
{
    struct disk *d = *disk;
    if (d == NULL) {
        return;
    }
    disk_clear(d);
    for (size_t level = 0; level < DISK_LEVELS_MAX; level++) {
        free(d->marks[level].pending);
    }
    free(d->selection.runs);
    free(d->undo);
    free(d);
    *disk = NULL;
}
