/*
 * Password files. The rule, one for every path: the file that open() reaches is judged, by
 * descriptor, so nothing can be swapped between the look and the reading; a symbolic link is as
 * good as what it points at. The bytes pass through one buffer here, which is wiped.
 */
#include "daemon/config/config_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define WORDS_BYTES 400 /* of message; config.h */

struct secret_words {
    const char *file;
    char *message, *fix;
};

static enum err refuse(const struct secret_words *words, enum err err, const char *command,
                       const char *why)
{
    struct config_quote name = config_quote(slice_from_str(words->file));
    (void)snprintf(words->message, WORDS_BYTES, "the password file %s %s", name.text, why);
    words->fix[0] = '\0';
    if (command != NULL) {
        config_fix_command(words->fix, command, words->file);
    }
    return err;
}

static enum err refuse_open(const struct secret_words *words, int number)
{
    char why[100];
    if (number == ENOENT || number == ENOTDIR) {
        return refuse(words, ERR_NOT_FOUND, "umask 077; cat >", "does not exist");
    }
    if (number == EACCES || number == EPERM) {
        char command[40];
        (void)snprintf(command, sizeof command, "chown %u", (unsigned)geteuid());
        (void)snprintf(why, sizeof why, "cannot be read by the user with id %u",
                       (unsigned)geteuid());
        return refuse(words, ERR_PERMISSION, command, why);
    }
    (void)snprintf(why, sizeof why, "cannot be opened: %s", err_text(err_from_errno(number)));
    return refuse(words, err_from_errno(number), NULL, why);
}

static enum err judge_stat(const struct secret_words *words, int fd)
{
    struct stat about;
    if (fstat(fd, &about) != 0) {
        return refuse_open(words, errno);
    }
    char why[100];
    if (!S_ISREG(about.st_mode)) {
        return refuse(words, ERR_SYNTAX, "ls -ld", "is not a plain file");
    }
    if (about.st_uid != 0 && about.st_uid != geteuid()) {
        char command[40];
        (void)snprintf(command, sizeof command, "chown %u", (unsigned)geteuid());
        (void)snprintf(why, sizeof why,
                       "belongs to user id %u, who is neither root nor the one that runs this (%u)",
                       (unsigned)about.st_uid, (unsigned)geteuid());
        return refuse(words, ERR_PERMISSION, command, why);
    }
    if ((about.st_mode & 077) != 0) {
        (void)snprintf(why, sizeof why, "is open to others than its owner (mode %04o)",
                       (unsigned)(about.st_mode & 07777));
        return refuse(words, ERR_PERMISSION, "chmod 600", why);
    }
    return ERR_OK;
}

/* Reads until the buffer is full or the file ends; its first line is all that is wanted. */
static enum err read_some(int fd, uint8_t *memory, size_t cap, size_t *out_bytes)
{
    size_t bytes = 0;
    while (bytes < cap) {
        ssize_t got = read(fd, memory + bytes, cap - bytes);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return err_from_errno(errno);
        }
        if (got == 0) {
            break;
        }
        bytes += (size_t)got;
    }
    *out_bytes = bytes;
    return ERR_OK;
}

static enum err judge_line(const struct secret_words *words, struct slice text, struct buf *to)
{
    size_t end = slice_find(text, '\n');
    struct slice line = slice_head(text, end);
    if (end < text.len && line.len > 0 && line.data[line.len - 1] == '\r') {
        line.len--;
    }
    if (line.len == 0) {
        return refuse(words, ERR_SYNTAX, "umask 077; cat >", "has nothing in its first line");
    }
    if (line.len > SECRET_BYTES_MAX) {
        return refuse(words, ERR_SYNTAX, "head -c 100",
                      "has more in its first line than a password can be");
    }
    if (slice_find(line, '\0') < line.len) {
        return refuse(words, ERR_SYNTAX, "file", "has a NUL byte in its first line");
    }
    if (buf_room(to) < line.len) {
        return refuse(words, ERR_FULL, NULL, "holds more than there is room for");
    }
    buf_put(to, line);
    return ERR_OK;
}

enum err config_secret_read(const char *file, struct buf *to, char message[400], char fix[200])
{
    const struct secret_words words = {file, message, fix};
    int fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) {
        return refuse_open(&words, errno);
    }
    uint8_t memory[SECRET_BYTES_MAX + 2]; /* the longest line with CRLF */
    size_t bytes = 0;
    enum err err = judge_stat(&words, fd);
    if (err == ERR_OK) {
        err = read_some(fd, memory, sizeof memory, &bytes);
        err = err == ERR_OK ? judge_line(&words, slice_of(memory, bytes), to)
                            : refuse(&words, err, NULL, err_text(err));
    }
    explicit_bzero(memory, sizeof memory);
    (void)close(fd);
    return err;
}
