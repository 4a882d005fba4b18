#include "daemon/base/err.h"

#include <errno.h>

static const char *const err_texts[ERR_COUNT] = {
#define X(name, text) [ERR_##name] = (text),
    ERR_ROWS(X)
#undef X
};

const char *err_text(enum err err)
{
    return (unsigned)err < ERR_COUNT ? err_texts[err] : "unknown error";
}

enum err err_from_errno(int number)
{
    switch (number) {
    case 0:
        return ERR_OK;
    case ENOMEM:
    case ENOBUFS:
        return ERR_NO_MEMORY;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return ERR_FULL;
    case EMFILE:
    case ENFILE:
        return ERR_LIMIT;
    case ENOENT:
    case ENOTDIR:
        return ERR_NOT_FOUND;
    case EEXIST:
        return ERR_EXISTS;
    case EBUSY:
    case EADDRINUSE:
    case EWOULDBLOCK:
        return ERR_BUSY;
    case EACCES:
    case EPERM:
    case EROFS:
        return ERR_PERMISSION;
    case ENOSYS:
    case EOPNOTSUPP:
    case EAFNOSUPPORT:
        return ERR_UNSUPPORTED;
    case ETIMEDOUT:
        return ERR_TIMEOUT;
    case ECONNREFUSED:
        return ERR_REFUSED;
    case ECONNRESET:
    case EPIPE:
        return ERR_RESET;
    case ENETUNREACH:
    case EHOSTUNREACH:
    case EHOSTDOWN:
    case EADDRNOTAVAIL:
        return ERR_UNREACHABLE;
    case ECANCELED:
        return ERR_CANCELLED;
    default:
        return ERR_IO;
    }
}
