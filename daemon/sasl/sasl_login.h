/*
 * Logins, by Cyrus SASL; its only home. Calls may block (the library looks names up and reads
 * plugins): only the auth thread (daemon/authenticator.c) makes them.
 *
 * Secrets: taken from the caller for one login, kept in locked memory where the system allows it,
 * wiped when the session is freed.
 */
#ifndef TASUKI_SASL_SASL_LOGIN_H
#define TASUKI_SASL_SASL_LOGIN_H

#include "daemon/base/buf.h"
#include "daemon/base/err.h"

struct sasl_login;

/* Once, before any thread. problem: 256 bytes, words for the admin. */
MUST_CHECK enum err sasl_login_library_init(char *problem);
void sasl_login_library_deinit(void);

struct sasl_credentials {
    const char *host;       /* server's name, fully qualified */
    const char *user;       /* authentication id */
    const char *authzid;    /* authorisation id, or "" */
    const char *realm;      /* or "" */
    struct slice secret;    /* borrowed for the calls' time: copied and wiped inside */
    const char *mechanisms; /* the one or more to choose among, space separated; the first that the
                               library has is taken */
};

/*
 * Begins a login. *out_mechanism (32 bytes) is the chosen one; response gets the initial response,
 * *out_has_initial whether there is one (RFC 4954 4). Errors: ERR_NOT_FOUND no mechanism of the
 * list is installed; ERR_NO_MEMORY; ERR_IO. problem: 256 bytes, never a secret.
 */
MUST_CHECK enum err sasl_login_start(struct sasl_login **out, const struct sasl_credentials *login,
                                     char *out_mechanism, struct buf *response,
                                     bool *out_has_initial, char *problem);

/* Next response to a decoded challenge. Errors: ERR_SYNTAX the challenge is wrong (bad server
 * signature, garbage); ERR_LIMIT too many steps (16). */
MUST_CHECK enum err sasl_login_step(struct sasl_login *s, struct slice challenge,
                                    struct buf *response, char *problem);

/*
 * Whether nothing is left to come from the server but its verdict. A 235 before that is not to be
 * believed: with SCRAM the server has not shown yet that it knows the password (RFC 5802 5).
 */
bool sasl_login_is_complete(const struct sasl_login *s);

/*
 * Whether the server owed a proof that it knows the password (SCRAM), and said something that is
 * none. Whoever it is, it must not be sent the password in another way.
 */
bool sasl_login_is_unproven(const struct sasl_login *s);

void sasl_login_free(struct sasl_login **s);

/* What "auth = auto" tries, strongest first, given what is offered and whether the line is
 * encrypted; PLAIN and LOGIN only over TLS. Writes a space separated list into out (cap bytes).
 * allowed: the setting, "auto" or a list of names by which weak ones may be allowed on an
 * unencrypted line too. Pure. */
void sasl_login_choose(const char *offered, const char *allowed, bool over_tls, char *out,
                       size_t cap);

#endif
