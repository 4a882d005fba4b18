/*
 * The names of this box where the file gives none. The system is asked for what it knows itself;
 * nothing is looked up in DNS, so that a start never waits for it.
 */
#include "daemon/config/config_private.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

static const struct config_place whole_file;

/* False when it does not fit or is no name. */
static bool name_set(char *out, struct slice name)
{
    if (name.len == 0 || config_name_problem(name, false) != NULL) {
        return false;
    }
    memset(out, 0, SMTP_DOMAIN_BYTES_MAX + 1);
    memcpy(out, name.data, name.len);
    return true;
}

/* The part behind the first dot, or the whole name when it has none. */
static struct slice domain_of(struct slice name)
{
    size_t dot = slice_find(name, '.');
    return dot < name.len ? slice_tail(name, dot + 1) : name;
}

/*
 * A name without a dot is made full with the domain. Debian's /etc/mailname often holds the full
 * name of the box and not its domain: then that is it already.
 */
static bool hostname_set(char *out, struct slice name, struct slice domain)
{
    if (slice_find(name, '.') < name.len || slice_equal_nocase(name, domain)) {
        return name_set(out, name);
    }
    if (slice_equal_nocase(slice_head(domain, slice_find(domain, '.')), name)) {
        return name_set(out, domain);
    }
    char full[2 * (SMTP_DOMAIN_BYTES_MAX + 1)];
    struct buf to;
    buf_init(&to, full, sizeof full);
    buf_put(&to, name);
    buf_put_byte(&to, '.');
    buf_put(&to, domain);
    return !to.overflow && name_set(out, buf_slice(&to));
}

void config_names_fill(struct config *config, struct slice system_name, struct slice mail_name,
                       struct config_errors *errors)
{
    struct slice name =
        config->hostname[0] != '\0' ? slice_from_str(config->hostname) : system_name;
    /* "localhost" says nothing: providers turn it away (Gmail: 421 4.7.0), and the sender's domain
     * would be nobody's. */
    bool usable =
        name.len > 0 && config_name_problem(name, false) == NULL &&
        (config->hostname[0] != '\0' ||
         !slice_equal_nocase(slice_head(name, slice_find(name, '.')), SLICE("localhost")));
    if (config->domain[0] == '\0' && !name_set(config->domain, mail_name) && usable) {
        (void)name_set(config->domain, domain_of(name));
    }
    if (config->hostname[0] == '\0' &&
        (!usable || !hostname_set(config->hostname, name, slice_from_str(config->domain)))) {
        config_report(errors, whole_file, "add a line: hostname = office.example.jp",
                      "hostname is not given, and what the system calls this box, %s, cannot stand "
                      "for it",
                      config_quote(name).text);
    } else if (config->domain[0] == '\0') {
        config_report(errors, whole_file, "add a line: domain = example.jp",
                      "domain is not given, and neither /etc/mailname nor the host name gives one");
    }
}

void config_names_fill_from_system(struct config *config, struct config_errors *errors)
{
    char system_name[SMTP_DOMAIN_BYTES_MAX + 2] = "";
    if (gethostname(system_name, sizeof system_name - 1) != 0) {
        system_name[0] = '\0';
    }
    char mail_name[SMTP_DOMAIN_BYTES_MAX + 2];
    ssize_t bytes = 0;
    int fd = open("/etc/mailname", O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd >= 0) {
        bytes = read(fd, mail_name, sizeof mail_name);
        (void)close(fd);
    }
    struct slice first = slice_of(mail_name, bytes > 0 ? (size_t)bytes : 0);
    first = slice_trim(slice_head(first, slice_find(first, '\n')));
    config_names_fill(config, slice_from_str(system_name), first, errors);
}
