#include "tests/upstream/keep.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

void keep_begin(struct keep *k, const char *directory)
{
    keep_abandon(k);
    int len = snprintf(k->part, sizeof k->part, "%s/.part-XXXXXX", directory);
    if (len < 0 || (size_t)len >= sizeof k->part) {
        return;
    }
    int fd = mkostemp(k->part, O_CLOEXEC);
    if (fd < 0) {
        return;
    }
    k->file = fdopen(fd, "w");
    if (k->file == NULL) {
        close(fd);
        (void)unlink(k->part);
    }
}

void keep_put(struct keep *k, struct slice bytes)
{
    if (k->file != NULL && bytes.len > 0) {
        (void)!fwrite(bytes.data, 1, bytes.len, k->file); /* keep_end asks for errors */
    }
}

bool keep_end(struct keep *k, const char *directory, uint64_t number)
{
    char path[KEEP_PATH_BYTES];
    if (k->file == NULL) {
        return false;
    }
    bool good = ferror(k->file) == 0;
    good = fclose(k->file) == 0 && good;
    k->file = NULL;
    int len = snprintf(path, sizeof path, "%s/%06" PRIu64 ".eml", directory, number);
    good = good && len > 0 && (size_t)len < sizeof path && rename(k->part, path) == 0;
    if (!good) {
        (void)unlink(k->part);
    }
    return good;
}

void keep_abandon(struct keep *k)
{
    if (k->file != NULL) {
        fclose(k->file);
        k->file = NULL;
        (void)unlink(k->part);
    }
}
