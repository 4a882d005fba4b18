/*
 * The configuration: what each file becomes, or what is said about it, word for word. Rows C1, C2,
 * C4 to C7 and C12 of the hostile inputs.
 */
#include "tests/unit/config_rig.h"

#include "daemon/base/text.h"
#include "daemon/config/config_private.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

/* Two lines, so that no test depends on this box's name; what is judged begins in line 3. */
#define HEAD "hostname = relay.example.jp\nupstream = [r.example.jp]:587\n"

/* ---- values ---- */

static void smallest_file(void **state)
{
    (void)state;
    struct config *c = parse_well(NAMED "upstream      = [relay.example.jp]:587\n"
                                        "user          = id-smtpauth\n"
                                        "password-file = /etc/tasuki/secrets/upstream\n");
    assert_string_equal(c->file, "f");
    assert_int_equal(c->upstream_count, 1);
    const struct config_upstream *u = &c->upstreams[0];
    assert_string_equal(u->name, "main");
    assert_int_equal(u->line, 2);
    assert_string_equal(u->host.name, "relay.example.jp");
    assert_int_equal(u->host.port, 587);
    assert_false(u->host.use_mx);
    assert_false(u->host.implicit_tls);
    assert_string_equal(u->user, "id-smtpauth");
    assert_string_equal(u->password_file, "/etc/tasuki/secrets/upstream");
    assert_string_equal(u->auth, "auto");
    assert_int_equal(u->tls, CONFIG_TLS_VERIFY);
    assert_int_equal(u->pipelining, CONFIG_PIPELINE_AUTO);
    assert_int_equal(u->connections, 4);
    assert_int_equal(u->probe_min_ms, 10000);
    assert_int_equal(u->age_ms_max, 15 * 60 * 1000);
    assert_int_equal(c->max_size, 25 << 20);
    assert_int_equal(c->give_up_ms, 5ull * 24 * 3600 * 1000);
    assert_int_equal(c->queue_max, 20ull << 30);
    assert_int_equal(c->log_level, 3);
    assert_true(c->workers >= 1 && c->workers <= 4);
    assert_true(c->allow.private_networks);
    assert_int_equal(c->allow.count, 0);
    assert_false(c->allow_anyone);
    assert_string_equal(c->root_mail, "");
    assert_string_equal(c->listen.items[0].text, "0.0.0.0:25");
    assert_true(c->listen.count == 1 || strcmp(c->listen.items[1].text, "[::]:25") == 0);
    assert_string_equal(c->dashboard.listen.text, "127.0.0.1:8025");
    config_free(&c);
    assert_null(c);
    config_free(&c);
}

static void full_file(void **state)
{
    (void)state;
    struct config *c = parse_well("listen     = 127.0.0.1:0, [::1]:2525   # two\n"
                                  "allow      = private, 192.0.2.0/24, 2001:db8::/32, 10.1.2.3\n"
                                  "hostname   = relay.example.jp\n"
                                  "domain     = example.jp\n"
                                  "root-mail  = anna@example.jp\n"
                                  "max-size   = 50M\n"
                                  "retry-min  = 200ms\n"
                                  "workers    = 2\n"
                                  "io         = poll\n"
                                  "dns        = 127.0.0.1:5353, 2001:db8::1, [2001:db8::2]:53\n"
                                  "log-level  = debug\n"
                                  "\n"
                                  "[upstream main]\n"
                                  "host       = example.jp:2525/tls\n"
                                  "tls        = encrypt\n"
                                  "auth       = scram-sha-256, PLAIN\n"
                                  "user       = \" a #b \"   # with blanks\n"
                                  "authzid    = c#d\n"
                                  "password-file = /etc/s#x\n"
                                  "pipeline   = safe\n"
                                  "[upstream second.one]\n"
                                  "host       = [2001:db8::25]:465\n"
                                  "pipeline   = stream\n"
                                  "[dashboard]\n"
                                  "listen     = [::1]:8025\n");
    assert_int_equal(c->listen.count, 2);
    assert_string_equal(c->listen.items[0].text, "127.0.0.1:0");
    assert_string_equal(c->listen.items[1].text, "[::1]:2525");
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&c->listen.items[1].address;
    assert_int_equal(in6->sin6_family, AF_INET6);
    assert_int_equal(ntohs(in6->sin6_port), 2525);
    assert_int_equal(c->listen.items[1].len, sizeof *in6);
    static const uint8_t network[16] = {[10] = 0xff, 0xff, 192, 0, 2, 0};
    static const uint8_t address[16] = {[10] = 0xff, 0xff, 10, 1, 2, 3};
    assert_int_equal(c->allow.count, 3);
    assert_memory_equal(c->allow.items[0].address, network, 16);
    assert_int_equal(c->allow.items[0].prefix_bits, 96 + 24);
    assert_int_equal(c->allow.items[1].prefix_bits, 32);
    assert_memory_equal(c->allow.items[2].address, address, 16);
    assert_int_equal(c->allow.items[2].prefix_bits, 128);
    assert_string_equal(c->root_mail, "anna@example.jp");
    assert_int_equal(c->retry_min_ms, 200);
    assert_int_equal(c->workers, 2);
    assert_int_equal(c->io, CONFIG_IO_POLL);
    assert_int_equal(c->upstream_count, 2);
    const struct config_upstream *u = c->upstreams;
    assert_true(u[0].host.use_mx);
    assert_true(u[0].host.implicit_tls);
    assert_int_equal(u[0].line, 13);
    assert_int_equal(u[0].tls, CONFIG_TLS_ENCRYPT);
    assert_string_equal(u[0].auth, "SCRAM-SHA-256 PLAIN");
    assert_string_equal(u[0].user, " a #b ");
    assert_string_equal(u[0].authzid, "c#d");
    assert_string_equal(u[0].password_file, "/etc/s#x");
    assert_int_equal(u[0].pipelining, CONFIG_PIPELINE_SAFE);
    assert_int_equal(u[1].pipelining, CONFIG_PIPELINE_STREAM);
    assert_string_equal(u[1].name, "second.one");
    assert_string_equal(u[1].host.name, "2001:db8::25");
    assert_true(u[1].host.implicit_tls);
    assert_int_equal(u[1].tls, CONFIG_TLS_VERIFY);
    assert_string_equal(c->dashboard.listen.text, "[::1]:8025");
    config_free(&c);
}

/* Each default and each example reads; rows without either say so. */
static void rows_parse(void **state)
{
    (void)state;
    struct config_row row;
    size_t count = 0;
    for (size_t index = 0; config_row_at(index, &row); index++) {
        assert_true(strlen(row.doc) > 10);
        assert_true(row.doc[strlen(row.doc) - 1] == '.');
        assert_true(row.example[0] != '\0');
        const char *texts[2] = {row.example, row.default_text};
        for (size_t which = 0; which < 2 && texts[which][0] != '\0'; which++) {
            static uint8_t base[sizeof(struct config)];
            errors.count = 0;
            const struct config_value value = {.setting = &config_settings[index],
                                               .key = row.key,
                                               .text = slice_from_str(texts[which]),
                                               .errors = &errors};
            if (!config_value_store(&value, base)) {
                fail_msg("%s = %s: %s", row.key, texts[which], errors.items[0].message);
            }
        }
        count++;
    }
    assert_int_equal(count, CONFIG_ROW_COUNT);
    assert_true(config_row_at(0, &row));
    assert_string_equal(row.section, "");
    assert_true(config_row_at(CONFIG_ROW_UPSTREAM_host, &row));
    assert_string_equal(row.section, "upstream");
    assert_string_equal(row.key, "host");
    assert_false(config_row_at(CONFIG_ROW_COUNT, &row));
}

/* Examples that need no partner also stand as a line of a whole file. */
static void examples_in_a_file(void **state)
{
    (void)state;
    static char text[16384];
    struct buf to;
    buf_init(&to, text, sizeof text - 1);
    static const char *const sections[] = {"", "upstream", "dashboard"};
    struct config_row row;
    for (size_t section = 0; section < 3; section++) {
        buf_put_str(&to, section == 0 ? "" : section == 1 ? "[upstream main]\n" : "[dashboard]\n");
        for (size_t index = 0; config_row_at(index, &row); index++) {
            /* One excludes the other; an upstream for some mail only needs one for the rest. */
            if (strcmp(row.section, sections[section]) == 0 && strcmp(row.key, "tls-ca") != 0 &&
                strcmp(row.key, "use") != 0) {
                buf_printf(&to, "%s = %s\n", row.key, row.example);
            }
        }
    }
    text[to.len] = '\0';
    struct config *config = parse_well(text);
    config_free(&config);
}

static void rates(void **state)
{
    (void)state;
    static const struct {
        const char *text, *printed;
        struct config_rate rate;
    } rows[] = {
        {"30/min, 10000/day", "30/min, 10000/day", {{{30, 0, 10000}}}},
        {"1 recipients / hour", "1 recipients/hour", {{{0}, {0, 1, 0}}}},
        {"5 recipients/day,4294967295messages/hour,1/min",
         "1/min, 4294967295/hour, 5 recipients/day",
         {{{1, 4294967295, 0}, {0, 0, 5}}}},
    };
    for (size_t at = 0; at < sizeof rows / sizeof rows[0]; at++) {
        char text[400], memory[200];
        struct buf to;
        snprintf(text, sizeof text, "%srate = %s\n", HEAD, rows[at].text);
        struct config *c = parse_well(text);
        assert_memory_equal(&c->upstreams[0].rate, &rows[at].rate, sizeof rows[at].rate);
        buf_init(&to, memory, sizeof memory - 1);
        config_put_rate(&to, &c->upstreams[0].rate);
        memory[to.len] = '\0';
        assert_string_equal(memory, rows[at].printed);
        config_free(&c);
    }
}

static void listens(void **state)
{
    (void)state;
    struct config *c = parse_well(HEAD "listen = 25, 587, 127.0.0.1:465\n");
    static const char *const with_ipv6[] = {"0.0.0.0:25", "[::]:25", "0.0.0.0:587", "[::]:587",
                                            "127.0.0.1:465"};
    static const char *const without[] = {"0.0.0.0:25", "0.0.0.0:587", "127.0.0.1:465"};
    assert_true(c->listen.count == 5 || c->listen.count == 3);
    for (uint32_t index = 0; index < c->listen.count; index++) {
        assert_string_equal(c->listen.items[index].text,
                            c->listen.count == 5 ? with_ipv6[index] : without[index]);
    }
    config_free(&c);
}

/* ---- one line, one complaint ---- */

static const struct {
    const char *line, *message, *fix;
} refused[] = {
    /* C1: keys */
    {"lisen = 25", "3:1: unknown key \"lisen\"; did you mean \"listen\"?", "write: listen"},
    {"  max_size = 25M", "3:3: unknown key \"max_size\"; did you mean \"max-size\"?",
     "write: max-size"},
    {"Listen = 25", "3:1: unknown key \"Listen\"; did you mean \"listen\"?", "write: listen"},
    {"frobnicate = yes", "3:1: unknown key \"frobnicate\"", "tasukictl config explain"},
    {"upstream = [x.example.jp]:25", "3:1: \"upstream\" stands here again; it was set in line 2",
     "keep one of the two lines"},
    {"host = [x.example.jp]:25",
     "3:1: \"host\" is called \"upstream\" outside of an [upstream NAME] section",
     "write: upstream"},
    {"from = a@b.example", "3:1: \"from\" is not supported by this version yet", "remove the line"},
    {"rate = 30", "3:8: \"30\" is not a rate: a number, / and min, hour or day",
     "for example: rate = 30/min, 10000 recipients/day"},
    {"rate = 30/min, x/day", "3:16: \"x/day\" does not begin with a number from 1 to 4294967295",
     "for example: rate = 30/min, 10000 recipients/day"},
    {"rate = 0/min", "3:8: \"0/min\" does not begin with a number from 1 to 4294967295",
     "for example: rate = 30/min, 10000 recipients/day"},
    {"rate = 4294967296/min",
     "3:8: \"4294967296/min\" does not begin with a number from 1 to 4294967295",
     "for example: rate = 30/min, 10000 recipients/day"},
    {"rate = -1/min", "3:8: \"-1/min\" does not begin with a number from 1 to 4294967295",
     "for example: rate = 30/min, 10000 recipients/day"},
    {"rate = 30/minute", "3:8: \"minute\" is not min, hour or day",
     "for example: rate = 30/min, 10000 recipients/day"},
    {"rate = 30/dya", "3:8: \"dya\" is not min, hour or day; did you mean \"day\"?",
     "for example: rate = 30/min, 10000 recipients/day"},
    {"rate = 30/", "3:8: \"\" is not min, hour or day",
     "for example: rate = 30/min, 10000 recipients/day"},
    {"rate = 30 recipient/day",
     "3:8: \"recipient\" is not messages or recipients; did you mean \"recipients\"?",
     "for example: rate = 30/min, 10000 recipients/day"},
    {"rate = 30 MB/day", "3:8: \"MB\" is not messages or recipients",
     "for example: rate = 30/min, 10000 recipients/day"},
    {"rate = 30/min,", "3:15: \"\" is not a rate: a number, / and min, hour or day",
     "for example: rate = 30/min, 10000 recipients/day"},
    {"rate = 30/min, 40 messages/min", "3:16: messages/min is there twice", "keep one of them"},
    {"password-command = pass show x",
     "3:1: \"password-command\" is not supported by this version yet", "use password-file"},
    {"[device canon]\naddress = 10.0.0.1", "3:1: [device] is not supported by this version yet",
     "remove the section"},
    {"[alert]\nwebhook = https://x/y", "3:1: [alert] is not supported by this version yet",
     "remove the section"},
    {"password = hunter2", "3:1: \"password\" does not stand in this file, which others may read",
     "put it into a file of mode 600 and name that: password-file = "
     "/etc/tasuki/secrets/upstream"},
    /* form */
    {"listen", "3:1: this is neither a setting nor a section", "write: key = value"},
    {"= 25", "3:1: there is no key before =", "write: key = value"},
    {"; old style", "3:1: a comment begins with #", "write # in place of ;"},
    {"listen =", "3:9: there is no value",
     "write a value, or remove the line: then the default holds"},
    {"listen = # 25", "3:9: there is no value",
     "write a value, or remove the line: then the default holds"},
    {"realm = \"\"", "3:9: there is no value",
     "write a value, or remove the line: then the default holds"},
    {"io = \"auto", "3:6: this quote is not closed", ""},
    {"io = \"auto\" x", "3:6: something stands behind the closing quote", ""},
    {"[dashboard", "3:1: a section is written [name], and nothing but a comment behind it",
     "for example: [upstream main]"},
    {"[dashboard] x = 1", "3:1: a section is written [name], and nothing but a comment behind it",
     "for example: [upstream main]"},
    {"[dashbord]", "3:2: unknown section \"dashbord\"; did you mean \"dashboard\"?",
     "if it is an upstream: [upstream dashbord]"},
    {"[]", "3:2: unknown section \"\"", "the sections are [upstream NAME] and [dashboard]"},
    {"[dashboard x]", "3:12: this section has no name", "write: [dashboard]"},
    {"[dashboard]\n[dashboard]", "4:1: this section stands here again; it began in line 3",
     "make one section of the two"},
    {"[dashboard]\nuser = x", "4:1: \"user\" is a setting of an upstream, not of this section",
     "move it into the section of its upstream"},
    {"[dashboard]\nlog-level = info",
     "4:1: \"log-level\" is a setting of the whole, not of this section",
     "move it above the first section"},
    {"[dashboard]\nlistem = 127.0.0.1:80", "4:1: unknown key \"listem\"; did you mean \"listen\"?",
     "write: listen"},
    /* numbers */
    {"max-size = 25MB", "3:12: \"25MB\" is not a size: a number and K, M, G or T",
     "for example: max-size = 50M"},
    {"max-size = 25m", "3:12: \"25m\" is not a size: a number and K, M, G or T",
     "for example: max-size = 50M"},
    {"max-size = -1", "3:12: \"-1\" is not a size: a number and K, M, G or T",
     "for example: max-size = 50M"},
    {"max-size = 0", "3:12: \"0\" is out of bounds: max-size may be 1K to 2G",
     "for example: max-size = 50M"},
    {"max-size = 99999999999999999999T",
     "3:12: \"99999999999999999999T\" is out of bounds: max-size may be 1K to 2G",
     "for example: max-size = 50M"},
    {"max-size = 18014398509481985K",
     "3:12: \"18014398509481985K\" is out of bounds: max-size may be 1K to 2G",
     "for example: max-size = 50M"},
    {"queue-max = 1025G", "3:13: \"1025G\" is out of bounds: queue-max may be 1M to 1T",
     "for example: queue-max = 5G"},
    {"history-max = 513G", "3:15: \"513G\" is out of bounds: history-max may be 1M to 512G",
     "for example: history-max = 1G"},
    {"give-up = 5", "3:11: \"5\" is not a duration: a number and ms, s, m, h, d or w",
     "for example: give-up = 3d"},
    {"give-up = 1h30m", "3:11: \"1h30m\" is not a duration: a number and ms, s, m, h, d or w",
     "for example: give-up = 3d"},
    {"give-up = 366d", "3:11: \"366d\" is out of bounds: give-up may be 1ms to 365d",
     "for example: give-up = 3d"},
    {"connections = 65", "3:15: \"65\" is out of bounds: connections may be 1 to 64",
     "for example: connections = 2"},
    {"connections = 4 # four\nconnections = x",
     "4:1: \"connections\" stands here again; it was set in line 3", "keep one of the two lines"},
    {"workers = 17", "3:11: \"17\" is out of bounds: workers may be 1 to 16",
     "for example: workers = 2"},
    {"workers = many", "3:11: \"many\" is not a number", "for example: workers = 2"},
    /* words */
    {"io = epoll", "3:6: io may be auto, uring or poll, not \"epoll\"; did you mean \"poll\"?",
     "write: io = poll"},
    {"io = kqueue", "3:6: io may be auto, uring or poll, not \"kqueue\"", "for example: io = poll"},
    {"insecure-plain = true", "3:18: insecure-plain may be no or yes, not \"true\"",
     "for example: insecure-plain = no"},
    {"pipeline = fast", "3:12: pipeline may be auto, off, safe or stream, not \"fast\"",
     "for example: pipeline = off"},
    {"tls = Verify",
     "3:7: tls may be verify, encrypt or off, not \"Verify\"; did you mean "
     "\"verify\"?",
     "write: tls = verify"},
    /* names and texts */
    {"domain = ex\xc3\xa4mple.jp",
     "3:10: \"ex\xc3\xa4mple.jp\" is no host name: it is not ASCII; write its xn-- form",
     "for example: domain = example.jp"},
    {"domain = example.jp.", "3:10: \"example.jp.\" is no host name: it ends in a dot",
     "for example: domain = example.jp"},
    {"domain = a..b",
     "3:10: \"a..b\" is no host name: it has nothing between two dots, or a dot "
     "at an end",
     "for example: domain = example.jp"},
    {"domain = -a.b", "3:10: \"-a.b\" is no host name: it has a dash at the end of a part",
     "for example: domain = example.jp"},
    {"domain = my_box",
     "3:10: \"my_box\" is no host name: it has an underscore, which no host "
     "name has",
     "for example: domain = example.jp"},
    {"domain = 192.0.2.1",
     "3:10: \"192.0.2.1\" is no host name: it ends in digits, as an address "
     "does and a name never",
     "for example: domain = example.jp"},
    {"root-mail = anna", "3:13: \"anna\" is not a mail address",
     "for example: root-mail = anna@example.jp"},
    {"root-mail = <anna@b.jp>", "3:13: \"<anna@b.jp>\" is not a mail address",
     "for example: root-mail = anna@example.jp"},
    {"state = var/lib", "3:9: state is not an absolute path: it does not begin with /",
     "for example: state = /srv/tasuki"},
    {"password-file = hunter2",
     "3:17: password-file is not an absolute path: it does not begin with /",
     "for example: password-file = /etc/tasuki/secrets/upstream"},
    {"dns = 192.168.1.1, resolver",
     "3:7: \"resolver\" is no ADDRESS or ADDRESS:PORT of a name "
     "server",
     "for example: dns = 192.168.1.1, [2001:db8::1]:53"},
    {"dns = 2001:db8::1:53/tls",
     "3:7: \"2001:db8::1:53/tls\" is no ADDRESS or ADDRESS:PORT of a "
     "name server",
     "for example: dns = 192.168.1.1, [2001:db8::1]:53"},
    /* listeners */
    {"listen = 25, 465/tls", "3:17: \"/tls\" in listen is not supported by this version yet",
     "for example: listen = 25, 587"},
    {"listen = 10.0.0.1:465/tls", "3:23: \"/tls\" in listen is not supported by this version yet",
     "for example: listen = 25, 587"},
    {"listen = 25,", "3:13: there is nothing between two commas", "for example: listen = 25, 587"},
    {"listen = 0", "3:10: \"0\" is no port: 1 to 65535", "for example: listen = 25, 587"},
    {"listen = 127.0.0.2:0", "3:10: \"0\" is no port: 1 to 65535", "for example: listen = 25, 587"},
    {"listen = 65536", "3:10: \"65536\" is no port: 1 to 65535", "for example: listen = 25, 587"},
    {"listen = smtp", "3:10: \"smtp\" is no port: 1 to 65535", "for example: listen = 25, 587"},
    {"listen = 25, relay:25", "3:14: \"relay\" is no IP address", "for example: listen = 25, 587"},
    {"listen = ::1:25", "3:10: \"::1\" is no IP address; one of IPv6 stands in brackets",
     "for example: listen = 25, 587"},
    {"listen = [::ffff:10.0.0.1]:25", "3:10: \"::ffff:10.0.0.1\" is no IP address",
     "for example: listen = 25, 587"},
    {"listen = [fe80::1%eth0]:25", "3:10: an address with a zone cannot be used here",
     "for example: listen = 25, 587"},
    {"listen = [::1", "3:10: \"[::1\" is not ADDRESS:PORT or [V6]:PORT",
     "for example: listen = 25, 587"},
    {"listen = 010.0.0.1:25", "3:10: \"010.0.0.1\" is no IP address",
     "for example: listen = 25, 587"},
    {"listen = 127.0.0.1:25, 0.0.0.0:25", "3:24: 0.0.0.0:25 is already taken by 127.0.0.1:25",
     "name each address and port once"},
    {"[dashboard]\nlisten = 8025",
     "4:10: \"8025\" has no address: the page is not opened to everybody by a port alone",
     "for example: listen = 127.0.0.1:8025"},
    {"listen = 8025\n[dashboard]\nlisten = 127.0.0.1:8025",
     "5:10: the page's listener 127.0.0.1:8025 is taken by that for mail, 0.0.0.0:8025",
     "give the page a port of its own, for example: listen = 127.0.0.1:8025"},
    /* networks: C6, and the tricks of I40 */
    {"allow = 0.0.0.0/0",
     "3:9: allow holds a network of the whole Internet or a large part of it: strangers could send "
     "through this box",
     "narrow it, or, to be open to strangers, add: insecure-allow-anyone = yes"},
    {"allow = private, ::/0",
     "3:9: allow holds a network of the whole Internet or a large part of it: strangers could send "
     "through this box",
     "narrow it, or, to be open to strangers, add: insecure-allow-anyone = yes"},
    {"allow = 128.0.0.0/1",
     "3:9: allow holds a network of the whole Internet or a large part of it: strangers could send "
     "through this box",
     "narrow it, or, to be open to strangers, add: insecure-allow-anyone = yes"},
    {"allow = ::ffff:0:0/96",
     "3:9: allow holds a network of the whole Internet or a large part of it: strangers could send "
     "through this box",
     "narrow it, or, to be open to strangers, add: insecure-allow-anyone = yes"},
    {"allow = ::/80",
     "3:9: allow holds a network of the whole Internet or a large part of it: strangers could send "
     "through this box",
     "narrow it, or, to be open to strangers, add: insecure-allow-anyone = yes"},
    {"allow = 192.168.1.5/24",
     "3:9: \"192.168.1.5/24\" is an address in a network, not the "
     "network; did you mean \"192.168.1.0/24\"?",
     "for example: allow = 192.168.1.0/24, 10.0.0.7"},
    {"allow = 10.0.0.0/33", "3:9: \"33\" is no prefix length: 0 to 32",
     "for example: allow = 192.168.1.0/24, 10.0.0.7"},
    {"allow = 10.0.0.0/", "3:9: \"\" is no prefix length: 0 to 32",
     "for example: allow = 192.168.1.0/24, 10.0.0.7"},
    {"allow = 2001:db8::/129", "3:9: \"129\" is no prefix length: 0 to 128",
     "for example: allow = 192.168.1.0/24, 10.0.0.7"},
    {"allow = 010.0.0.1", "3:9: \"010.0.0.1\" is neither an address nor private",
     "for example: allow = 192.168.1.0/24, 10.0.0.7"},
    {"allow = 10.1", "3:9: \"10.1\" is neither an address nor private",
     "for example: allow = 192.168.1.0/24, 10.0.0.7"},
    {"allow = fe80::1%eth0", "3:9: \"fe80::1%eth0\" is neither an address nor private",
     "for example: allow = 192.168.1.0/24, 10.0.0.7"},
    {"allow = private,, 10.0.0.1", "3:17: there is nothing between two commas",
     "for example: allow = 192.168.1.0/24, 10.0.0.7"},
    /* logins: C6 */
    {"user = a\npassword-file = /x\ntls = off",
     "5:7: tls is off and there is a user: the password would be sent in the clear",
     "write tls = verify, or, to send it all the same, add: insecure-plain = yes"},
    {"user = a", "3:8: there is a user but no password-file",
     "add a line: password-file = /etc/tasuki/secrets/upstream"},
    {"password-file = /x", "3:17: password-file has no meaning without user",
     "add a line with user, or remove this one"},
    {"auth = plain", "3:8: auth has no meaning without user",
     "add a line with user, or remove this one"},
    {"auth = plain, scram-sha256",
     "3:15: unknown login method \"scram-sha256\"; did you mean \"SCRAM-SHA-256\"?",
     "for example: auth = scram-sha-256, plain"},
    {"auth = plain, auto", "3:15: auto does not go together with names",
     "write either auto or a list of names"},
    {"auth = xoauth2", "3:8: login method \"XOAUTH2\" is not supported by this version yet",
     "for example: auth = scram-sha-256, plain"},
    {"auth = ntlm", "3:8: login method \"NTLM\" is not safe and not supported",
     "for example: auth = scram-sha-256, plain"},
    {"tls-fingerprint = ab:cd",
     "3:19: tls-fingerprint is not 64 hexadecimal digits, with or without colons",
     "openssl x509 -noout -fingerprint -sha256 -in CERTIFICATE"},
    {"tls = encrypt\ntls-ca = /x.pem",
     "4:10: tls-ca says whom to trust, but tls = encrypt trusts anybody",
     "write tls = verify, or remove this line"},
    /* pairs in order */
    {"probe-min = 10m", "3:13: probe-min (10m) is more than probe-max (5m, the default)",
     "write: probe-max = 10m"},
    {"probe-max = 1s", "3:13: probe-min (10s, the default) is more than probe-max (1s)",
     "write: probe-min = 1s"},
    {"retry-max = 2h\nretry-min = 3h", "4:13: retry-min (3h) is more than retry-max (2h)",
     "write: retry-max = 3h"},
    {"give-up = 10s", "3:11: retry-min (1m, the default) is more than give-up (10s)",
     "write: retry-min = 10s"},
    {"queue-max = 10M", "3:13: max-size (25M, the default) is more than queue-max (10M)",
     "write: max-size = 10M"},
};

static void lines_refused(void **state)
{
    (void)state;
    for (size_t index = 0; index < sizeof refused / sizeof refused[0]; index++) {
        char text[1024], expected[1024];
        (void)snprintf(text, sizeof text, HEAD "%s\n", refused[index].line);
        (void)snprintf(expected, sizeof expected,
                       refused[index].fix[0] == '\0' ? "f:%s\n" : "f:%s\n  to mend it: %s\n",
                       refused[index].message, refused[index].fix);
        expect_refused(text, expected);
    }
}

static void lines_taken(void **state)
{
    (void)state;
    static const char *const lines[] = {
        "",
        "   # indented comment",
        "allow = 0.0.0.0/0\ninsecure-allow-anyone = yes",
        "allow = 10.0.0.0/8, 127.0.0.0/8, fc00::/7, fe80::/10, 2001:db8::/32, ::1",
        "user = a\npassword-file = /x\ntls = off\ninsecure-plain = yes",
        "tls = off",
        "tls-fingerprint = 8c510b2e97f463da1cb8057fe24936a0d47b19c56e82f03daa145b98c721ef60",
        "user = \xe3\x82\xa2\xe3\x83\xb3\xe3\x83\x8a # not ASCII\npassword-file = /x",
        "user = a=b\npassword-file = /x",
        "workers = auto",
        "queue-max=10M\nmax-size=10M",
        "[dashboard] # all defaults",
        "[ dashboard ]\n\tlisten\t=\t127.0.0.1:1",
        "listen = 127.0.0.1:0\n[dashboard]\nlisten = 127.0.0.1:0",
        "retry-min = 1w\nretry-max = 1w\ngive-up = 1w",
        "# latin-1 in a comment: \xe4",
    };
    for (size_t index = 0; index < sizeof lines / sizeof lines[0]; index++) {
        char text[1024];
        (void)snprintf(text, sizeof text, HEAD "%s\n", lines[index]);
        struct config *config = parse_well(text);
        config_free(&config);
    }
}

/* ---- upstream hosts: C4 ---- */

static void hosts_refused(void **state)
{
    (void)state;
    static const struct {
        const char *value, *message;
    } rows[] = {
        {"[a.jp]:0", "2:19: \"0\" is no port: 1 to 65535"},
        {"[a.jp]:65536", "2:19: \"65536\" is no port: 1 to 65535"},
        {"[a.jp]:+25", "2:19: \"+25\" is no port: 1 to 65535"},
        {"[a.jp]:", "2:12: \"\" is no port: 1 to 65535"},
        {"[a.jp]:587/ssl", "2:12: \"/tls\" is all that may follow a port"},
        {"[a b.jp]:587", "2:13: \"a b.jp\" is no host name: it has a character that no host name "
                         "has"},
        {"a.jp b.jp:587", "2:12: \"a.jp b.jp\" is no host name: it has a character that no host "
                          "name has"},
        {"[fe80::1%eth0]:25", "2:13: an address with a zone cannot be used here"},
        {"2001:db8::1:25", "2:12: \"2001:db8::1\" is no IP address; one of IPv6 stands in "
                           "brackets"},
        {"[2001:db8:::1]:25", "2:13: \"2001:db8:::1\" is no IP address"},
        {"[192.0.2.300]:25", "2:13: \"192.0.2.300\" is no host name: it ends in digits, as an "
                             "address does and a name never"},
        {"[b\xc3\xbc"
         "cher.example]:587",
         "2:13: \"b\xc3\xbc"
         "cher.example\" is no host name: it is not ASCII; write its xn-- form"},
        {"[]:587", "2:12: \"[]:587\" is not [name]:port or name:port"},
        {"[a.jp:587", "2:12: \"[a.jp:587\" is not [name]:port or name:port"},
        {"[a.jp]587", "2:12: \"[a.jp]587\" is not [name]:port or name:port"},
        {"smtp://a.jp:587", "2:12: \"\" is no port: 1 to 65535"},
    };
    for (size_t index = 0; index < sizeof rows / sizeof rows[0]; index++) {
        char text[512], expected[1024];
        (void)snprintf(text, sizeof text, NAMED "upstream = %s\n", rows[index].value);
        (void)snprintf(expected, sizeof expected,
                       "f:%s\n  to mend it: for example: upstream = [relay.example.jp]:587\n",
                       rows[index].message);
        expect_refused(text, expected);
    }
    expect_refused(NAMED "upstream = [a.jp]\n",
                   "f:2:12: \"[a.jp]\" has no port\n  to mend it: most providers take mail on "
                   "587: write it behind the name, with a colon\n");
    expect_refused(NAMED "upstream = [a.jp]\r:587\n",
                   "f:2:18: a control character (0x0d) stands here\n  to mend it: delete it\n"
                   "f: there is no upstream: nothing says where mail goes\n"
                   "  to mend it: add a line: upstream = [relay.example.jp]:587\n");
    char text[1024];
    (void)snprintf(text, sizeof text, NAMED "upstream = %.*s.jp:25\n", 64,
                   "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");
    assert_null(parse(slice_from_str(text)));
    assert_non_null(strstr(shown, "has a part of more than 63 characters"));
}

static void hosts_taken(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *name;
        uint16_t port;
        bool use_mx, implicit_tls;
    } rows[] = {
        {"[192.0.2.1]:25", "192.0.2.1", 25, false, false},
        {"192.0.2.1:25", "192.0.2.1", 25, false, false},
        {"[2001:db8::1]:465", "2001:db8::1", 465, false, true},
        {"example.jp:587", "example.jp", 587, true, false},
        {"[mail_relay]:2525/tls", "mail_relay", 2525, false, true},
        {"[xn--bcher-kva.example]:587", "xn--bcher-kva.example", 587, false, false},
        {"[127.0.0.1]:2525", "127.0.0.1", 2525, false, false},
    };
    for (size_t index = 0; index < sizeof rows / sizeof rows[0]; index++) {
        char text[512];
        (void)snprintf(text, sizeof text, NAMED "upstream = %s\n", rows[index].text);
        struct config *c = parse_well(text);
        assert_string_equal(c->upstreams[0].host.name, rows[index].name);
        assert_int_equal(c->upstreams[0].host.port, rows[index].port);
        assert_int_equal(c->upstreams[0].host.use_mx, rows[index].use_mx);
        assert_int_equal(c->upstreams[0].host.implicit_tls, rows[index].implicit_tls);
        config_free(&c);
    }
}

/* ---- providers ---- */

#define SECRET_LINES "user = anna@example.jp\npassword-file = /etc/tasuki/secrets/upstream\n"

static void providers_taken(void **state)
{
    (void)state;
    static const struct {
        const char *text, *name;
        enum playbook_provider provider;
        uint32_t connections, messages;
        bool null_sender;
    } rows[] = {
        {"microsoft365", "smtp.office365.com", PLAYBOOK_MICROSOFT365, 3, 0, true},
        {"Gmail", "smtp.gmail.com", PLAYBOOK_GMAIL, 4, 0, true},
        {"gmail-relay", "smtp-relay.gmail.com", PLAYBOOK_GMAIL_RELAY, 4, 0, true},
        {"ses:eu-west-1", "email-smtp.eu-west-1.amazonaws.com", PLAYBOOK_SES, 4, 0, false},
        {"sendgrid", "smtp.sendgrid.net", PLAYBOOK_SENDGRID, 4, 5000, true},
        {"mailgun", "smtp.mailgun.org", PLAYBOOK_MAILGUN, 4, 0, true},
        {"mailgun:eu", "smtp.eu.mailgun.org", PLAYBOOK_MAILGUN, 4, 0, true},
        {"smtp2go", "mail.smtp2go.com", PLAYBOOK_SMTP2GO, 4, 0, true},
        {"smtp2go:au", "mail-au.smtp2go.com", PLAYBOOK_SMTP2GO, 4, 0, true},
    };
    for (size_t index = 0; index < sizeof rows / sizeof rows[0]; index++) {
        char text[512], memory[16384];
        (void)snprintf(text, sizeof text, NAMED "upstream = %s\n" SECRET_LINES, rows[index].text);
        struct config *c = parse_well(text);
        const struct config_upstream *u = &c->upstreams[0];
        assert_string_equal(u->host.name, rows[index].name);
        assert_int_equal(u->host.port, 587);
        assert_false(u->host.use_mx);
        assert_int_equal(u->host.provider, rows[index].provider);
        assert_int_equal(u->connections, rows[index].connections);
        assert_int_equal(u->connection_messages, rows[index].messages);
        assert_int_equal(u->null_sender, rows[index].null_sender);
        /* Shown as it was written, so that it can be read again. */
        struct buf shown_to;
        buf_init(&shown_to, memory, sizeof memory);
        config_put(&shown_to, c);
        config_free(&c);
        struct config *again = parse(buf_slice(&shown_to));
        assert_non_null(again);
        assert_int_equal(again->upstreams[0].host.provider, rows[index].provider);
        assert_string_equal(again->upstreams[0].host.name, rows[index].name);
        config_free(&again);
    }
}

/* What stands in the file counts more than what the provider is known for. */
static void providers_settings_give_way(void **state)
{
    (void)state;
    struct config *c = parse_well(NAMED "upstream = microsoft365\nconnections = 1\n" SECRET_LINES);
    const struct config_upstream *u = &c->upstreams[0];
    assert_int_equal(u->connections, 1);
    assert_int_equal(u->rate.most[CONFIG_RATE_MESSAGES][CONFIG_RATE_MINUTE], 30);
    assert_int_equal(u->rate.most[CONFIG_RATE_RECIPIENTS][CONFIG_RATE_DAY], 10000);
    config_free(&c);
    /* SendGrid's user is everybody's. */
    c = parse_well(NAMED "upstream = sendgrid\npassword-file = /etc/tasuki/secrets/upstream\n");
    assert_string_equal(c->upstreams[0].user, "apikey");
    config_free(&c);
    c = parse_well(NAMED "[upstream a]\nhost = gmail\n" SECRET_LINES
                         "[upstream b]\nhost = [b.example.jp]:587\nuse = when-down\n");
    assert_int_equal(c->upstreams[0].host.provider, PLAYBOOK_GMAIL);
    assert_int_equal(c->upstreams[1].host.provider, PLAYBOOK_NONE);
    assert_int_equal(c->upstreams[1].rate.most[CONFIG_RATE_MESSAGES][CONFIG_RATE_DAY], 0);
    config_free(&c);
}

static void providers_refused(void **state)
{
    (void)state;
    static const struct {
        const char *value, *message;
    } rows[] = {
        {"ses", "Amazon SES has a server in each region\n  to mend it: write the region behind "
                "it, such as ses:eu-west-1"},
        {"ses:", "\"ses:\" is no region of Amazon SES\n  to mend it: write ses, a colon, and the "
                 "region as the provider writes it"},
        {"ses:eu west", "\"ses:eu west\" is no region of Amazon SES\n  to mend it: write ses, a "
                        "colon, and the region as the provider writes it"},
        {"gmail:587", "nothing may follow gmail: its server and port are known\n  to mend it: "
                      "write gmail alone; or, for another port, [smtp.gmail.com]:587 with that "
                      "port"},
        {"mailgun:587", "\"mailgun:587\" is no region of Mailgun\n  to mend it: write mailgun, a "
                        "colon, and the region as the provider writes it"},
        {"gmial", "\"gmial\" has no port\n  to mend it: write: gmail, if you mean that provider"},
    };
    for (size_t index = 0; index < sizeof rows / sizeof rows[0]; index++) {
        char text[512], expected[1024];
        (void)snprintf(text, sizeof text, NAMED "upstream = %s\n", rows[index].value);
        (void)snprintf(expected, sizeof expected, "f:2:12: %s\n", rows[index].message);
        expect_refused(text, expected);
    }
    expect_refused("hostname = printserver\ndomain = example.jp\nupstream = gmail\n" SECRET_LINES,
                   "f:3:12: Gmail turns boxes away whose name is \"printserver\"\n  to mend it: "
                   "add a line at the top: hostname = relay.example.jp\n");
    expect_refused(NAMED "upstream = sendgrid\n",
                   "f:2:12: there is a user but no password-file\n  to mend it: add a line: "
                   "password-file = /etc/tasuki/secrets/upstream\n");
}

/* An upstream that is this box itself: C4, "own address". */
static void loops(void **state)
{
    (void)state;
    static const struct {
        const char *listen, *upstream, *at; /* at: NULL when it is no loop */
    } rows[] = {
        {"127.0.0.1:2525", "[127.0.0.1]:2525", "127.0.0.1:2525"},
        {"127.0.0.1:2525", "[0.0.0.0]:2525", "127.0.0.1:2525"},
        {"127.0.0.1:2525", "[127.0.0.1]:2526", NULL},
        {"127.0.0.1:2525", "[127.0.0.2]:2525", NULL},
        {"127.0.0.1:2525", "[localhost]:2525", "127.0.0.1:2525"},
        {"127.0.0.1:0", "[127.0.0.1]:2525", NULL},
        {"0.0.0.0:2525", "[127.0.0.1]:2525", "0.0.0.0:2525"},
        {"0.0.0.0:2525", "[127.9.9.9]:2525", "0.0.0.0:2525"},
        {"0.0.0.0:2525", "[::1]:2525", NULL},
        {"[::1]:2525", "[::1]:2525", "[::1]:2525"},
        {"[::]:2525", "[::1]:2525", "[::]:2525"},
        {"[::]:2525", "[0:0:0:0:0:0:0:1]:2525", "[::]:2525"},
        {"0.0.0.0:2525", "[::ffff:127.0.0.1]:2525", "0.0.0.0:2525"},
        {"0.0.0.0:2525", "[relay.example.jp]:2525", "0.0.0.0:2525"},
        {"0.0.0.0:2525", "[RELAY.example.jp]:2525", "0.0.0.0:2525"},
        {"0.0.0.0:2525", "relay.example.jp:2525", NULL}, /* its MX may be another */
        {"0.0.0.0:2525", "[203.0.113.77]:2525", NULL},
    };
    for (size_t index = 0; index < sizeof rows / sizeof rows[0]; index++) {
        char text[512], expected[512];
        (void)snprintf(text, sizeof text, NAMED "upstream = %s\nlisten = %s\n",
                       rows[index].upstream, rows[index].listen);
        (void)snprintf(expected, sizeof expected,
                       "f:2:12: upstream is this box itself, at %s: mail would go round in a "
                       "loop\n  to mend it: name the provider's server\n",
                       rows[index].at);
        if (rows[index].at != NULL) {
            expect_refused(text, expected);
        } else {
            struct config *config = parse_well(text);
            config_free(&config);
        }
    }
}

/* ---- sections of upstreams ---- */

static void upstream_sections(void **state)
{
    (void)state;
    expect_refused(NAMED, "f: there is no upstream: nothing says where mail goes\n"
                          "  to mend it: add a line: upstream = [relay.example.jp]:587\n");
    expect_refused(NAMED "[upstream a]\n",
                   "f:2:1: the upstream \"a\" has no host\n"
                   "  to mend it: add a line: host = [relay.example.jp]:587\n");
    expect_refused(NAMED "tls = encrypt\n",
                   "f:2:1: the upstream \"main\" has no upstream\n"
                   "  to mend it: add a line: upstream = [relay.example.jp]:587\n");
    expect_refused(NAMED "[upstream]\nhost = [a.jp]:25\n",
                   "f:2:1: this upstream has no name\n"
                   "  to mend it: for example: [upstream main]\n");
    expect_refused(NAMED "[upstream a/b]\n",
                   "f:2:11: the name of an upstream is made of at most 64 letters, digits, dots, "
                   "dashes and underscores\n  to mend it: for example: [upstream main]\n");
    expect_refused(NAMED "[upstream a]\nhost = [a.jp]:25\n[upstream A]\nhost = [b.jp]:25\n",
                   "f:4:11: there is already an upstream \"A\" in line 2\n"
                   "  to mend it: give each upstream a name of its own\n");
    expect_refused(NAMED "[main]\nhost = [a.jp]:25\n",
                   "f:2:2: unknown section \"main\"\n"
                   "  to mend it: if it is an upstream: [upstream main]\n"
                   "f: there is no upstream: nothing says where mail goes\n"
                   "  to mend it: add a line: upstream = [relay.example.jp]:587\n");
    expect_refused(NAMED "[upstream a]\nhost = [a.jp]:25\nupstream = [a.jp]:25\nallow = private\n",
                   "f:4:1: \"upstream\" is called \"host\" inside of a section\n"
                   "  to mend it: write: host\n"
                   "f:5:1: \"allow\" is a setting of the whole, not of this section\n"
                   "  to mend it: move it above the first section\n");
    expect_refused(NAMED "user = x\n[upstream a]\nhost = [a.jp]:25\n",
                   "f:2:8: \"user\" stands at the top, but there is an [upstream NAME] section in "
                   "line 3\n  to mend it: move the line into that section, or one of its own\n"
                   "f:2:8: there is a user but no password-file\n"
                   "  to mend it: add a line: password-file = /etc/tasuki/secrets/upstream\n");
}

static void upstreams_max(void **state)
{
    (void)state;
    char text[2048];
    struct buf to;
    buf_init(&to, text, sizeof text - 1);
    buf_put_str(&to, NAMED);
    for (int index = 0; index < UPSTREAMS_MAX; index++) {
        buf_printf(&to, "[upstream u%d]\nhost=[a.jp]:25\n", index);
    }
    text[to.len] = '\0';
    struct config *config = parse_well(text);
    assert_int_equal(config->upstream_count, UPSTREAMS_MAX);
    assert_string_equal(config->upstreams[15].name, "u15");
    config_free(&config);
    buf_put_str(&to, "[upstream last]\nhost=[a.jp]:25\n");
    text[to.len] = '\0';
    expect_refused(text, "f:34:1: at most 16 upstreams are possible\n");
}

/* ---- whole files: C1, C2 ---- */

static void all_errors_at_once(void **state)
{
    (void)state;
    expect_refused(NAMED "lisen = 25\n"
                         "upstream = relay\n"
                         "max-size = big\n"
                         "max-size = 1M\n"
                         "[dashboard]\n"
                         "colour = red\n",
                   "f:2:1: unknown key \"lisen\"; did you mean \"listen\"?\n"
                   "  to mend it: write: listen\n"
                   "f:3:12: \"relay\" has no port\n"
                   "  to mend it: most providers take mail on 587: write it behind the name, with "
                   "a colon\n"
                   "f:4:12: \"big\" is not a size: a number and K, M, G or T\n"
                   "  to mend it: for example: max-size = 50M\n"
                   "f:5:1: \"max-size\" stands here again; it was set in line 4\n"
                   "  to mend it: keep one of the two lines\n"
                   "f:7:1: unknown key \"colour\"\n"
                   "  to mend it: tasukictl config explain\n");
}

static void errors_max(void **state)
{
    (void)state;
    static char text[8192];
    struct buf to;
    buf_init(&to, text, sizeof text - 1);
    for (int index = 0; index < 100; index++) {
        buf_printf(&to, "qqq%d = 1\n", index);
    }
    assert_null(parse(buf_slice(&to)));
    assert_int_equal(errors.count, CONFIG_ERRORS_MAX);
    assert_int_equal(errors.items[30].line, 31);
    assert_string_equal(errors.items[31].message, "there are more errors than are shown here");
}

static void forms_of_text(void **state)
{
    (void)state;
    static const char bom_crlf[] = "\xef\xbb\xbfhostname = relay.example.jp\r\n\r\n"
                                   "upstream = [a.jp]:25 # x\r\nuser = a\r\npassword-file = /x";
    struct config *c = parse_well(bom_crlf);
    assert_string_equal(c->hostname, "relay.example.jp");
    assert_string_equal(c->upstreams[0].password_file, "/x");
    config_free(&c);

    static const char nul[] = HEAD "user = a\0b\n";
    assert_null(parse(slice_of(nul, sizeof nul - 1)));
    assert_string_equal(shown,
                        "f:3:9: a control character (0x00) stands here\n  to mend it: delete it\n");
    static const char nul_comment[] = HEAD "# a\0b\n";
    assert_null(parse(slice_of(nul_comment, sizeof nul_comment - 1)));
    assert_string_equal(shown,
                        "f:3:4: a control character (0x00) stands here\n  to mend it: delete it\n");
    expect_refused(HEAD "user = M\xfcller\n",
                   "f:3:9: the byte 0xfc is not UTF-8\n  to mend it: save the file as UTF-8\n");
    expect_refused(HEAD "user =\xc2\xa0x\n",
                   "f:3:7: a character that cannot be seen (U+00A0) stands here\n"
                   "  to mend it: delete it, or write a blank\n");
    /* Columns count characters. */
    expect_refused(HEAD "user = \"\xc3\xbc\xc3\xbc\" x\n",
                   "f:3:8: something stands behind the closing quote\n");
    expect_refused("\xff\xfel\n", "f:1:1: the file is UTF-16\n"
                                  "  to mend it: save the file as UTF-8\n");
}

static void sizes_of_text(void **state)
{
    (void)state;
    size_t bytes = 10u << 20;
    char *text = malloc(bytes);
    assert_non_null(text);
    memset(text, 'a', bytes);
    assert_null(parse(slice_of(text, bytes)));
    assert_string_equal(shown, "f: the file has more than 1 MiB\n");
    /* One line of a megabyte, without an end. */
    memcpy(text, HEAD, strlen(HEAD));
    assert_null(parse(slice_of(text, CONFIG_FILE_BYTES_MAX)));
    assert_string_equal(shown, "f:3:1: this line has 1048518 bytes, at most 4096 are possible\n");
    /* As many comment lines as fit. */
    for (size_t index = strlen(HEAD); index + 1 < CONFIG_FILE_BYTES_MAX; index += 2) {
        memcpy(text + index, "#\n", 2);
    }
    struct config *config = parse(slice_of(text, CONFIG_FILE_BYTES_MAX - 1));
    assert_non_null(config);
    config_free(&config);
    free(text);

    char value[1024];
    (void)snprintf(value, sizeof value, HEAD "state = /%0511d\n", 0);
    expect_refused(value, "f:3:9: state may have 511 bytes and has 512\n");
    (void)snprintf(value, sizeof value, HEAD "run = /%095d\n", 0);
    expect_refused(value,
                   "f:3:7: run may have 95 bytes, for the sake of the sockets in it, and has "
                   "96\n");
}

/* ---- files and secrets on disk ---- */

static char directory[64];

static const char *in_directory(const char *name)
{
    static char paths[4][128];
    static size_t next;
    char *path = paths[next++ % 4];
    (void)snprintf(path, sizeof paths[0], "%s/%s", directory, name);
    return path;
}

static int directory_make(void **state)
{
    (void)state;
    (void)snprintf(directory, sizeof directory, "/tmp/tasuki-test-config-XXXXXX");
    return mkdtemp(directory) == NULL ? -1 : 0;
}

static int directory_remove(void **state)
{
    (void)state;
    static const char *const names[] = {"conf", "fifo", "secret", "link", "it's here"};
    for (size_t index = 0; index < sizeof names / sizeof names[0]; index++) {
        (void)unlink(in_directory(names[index]));
    }
    return rmdir(directory);
}

static void write_file(const char *path, struct slice text, mode_t mode)
{
    (void)unlink(path);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text.data, text.len), (ssize_t)text.len);
    assert_int_equal(fchmod(fd, mode), 0);
    assert_int_equal(close(fd), 0);
}

static void load_refused(const char *file, enum err expected, const char *message)
{
    struct config *config = NULL;
    assert_int_equal(config_load(&config, file, false, &errors), expected);
    assert_null(config);
    assert_int_equal(errors.count, 1);
    assert_int_equal(errors.items[0].line, 0);
    assert_string_equal(errors.items[0].message, message);
}

static void files(void **state)
{
    (void)state;
    load_refused(directory, ERR_SYNTAX, "this is not a plain file");
    load_refused("/dev/zero", ERR_SYNTAX, "this is not a plain file");
    load_refused(in_directory("none"), ERR_NOT_FOUND, "there is no such file");
    assert_int_equal(mkfifo(in_directory("fifo"), 0600), 0);
    load_refused(in_directory("fifo"), ERR_SYNTAX, "this is not a plain file");
    char path[CONFIG_TEXT_BYTES + 1];
    memset(path, '/', sizeof path - 1);
    path[sizeof path - 1] = '\0';
    load_refused(path, ERR_SYNTAX, "the file's path has more than 511 bytes");
    if (geteuid() != 0) {
        write_file(in_directory("conf"), SLICE(HEAD), 0000);
        load_refused(in_directory("conf"), ERR_PERMISSION, "this user may not read the file");
    }
    struct config *config = NULL;
    write_file(in_directory("conf"), SLICE(HEAD), 0600);
    assert_int_equal(config_load(&config, in_directory("conf"), true, &errors), ERR_OK);
    assert_string_equal(config->file, in_directory("conf"));
    config_free(&config);
    write_file(in_directory("conf"), SLICE(NAMED), 0600);
    load_refused(in_directory("conf"), ERR_SYNTAX,
                 "there is no upstream: nothing says where mail goes");
}

static char secret_message[400], secret_fix[200];

static enum err secret_read(const char *file, struct buf *to)
{
    memset(secret_message, 'x', sizeof secret_message);
    memset(secret_fix, 'x', sizeof secret_fix);
    enum err err = config_secret_read(file, to, secret_message, secret_fix);
    if (err != ERR_OK) {
        assert_non_null(memchr(secret_message, '\0', sizeof secret_message));
        assert_non_null(memchr(secret_fix, '\0', sizeof secret_fix));
        assert_null(strstr(secret_message, "hunter2"));
        assert_int_equal(to->len, 0);
        assert_false(to->overflow);
    }
    return err;
}

/* C5 */
static void secret_contents(void **state)
{
    (void)state;
    static char longest[SECRET_BYTES_MAX + 3];
    memset(longest, 'a', sizeof longest);
    memcpy(longest + SECRET_BYTES_MAX, "\r\n", 2);
    const struct {
        struct slice text;
        enum err err;
        struct slice secret;
    } rows[] = {
        {SLICE("hunter2\n"), ERR_OK, SLICE("hunter2")},
        {SLICE("hunter2\r\n"), ERR_OK, SLICE("hunter2")},
        {SLICE("hunter2"), ERR_OK, SLICE("hunter2")},
        {SLICE(" hunter2 \nsecond"), ERR_OK, SLICE(" hunter2 ")},
        {SLICE("hunter2\n\0"), ERR_OK, SLICE("hunter2")},
        {SLICE("a\rb\r"), ERR_OK, SLICE("a\rb\r")},
        {SLICE(""), ERR_SYNTAX, SLICE("")},
        {SLICE("\n"), ERR_SYNTAX, SLICE("")},
        {SLICE("\r\n"), ERR_SYNTAX, SLICE("")},
        {SLICE("\nhunter2\n"), ERR_SYNTAX, SLICE("")},
        {SLICE("hunter2\0x\n"), ERR_SYNTAX, SLICE("")},
        {slice_of(longest, SECRET_BYTES_MAX + 2), ERR_OK, slice_of(longest, SECRET_BYTES_MAX)},
        {slice_of(longest, SECRET_BYTES_MAX), ERR_OK, slice_of(longest, SECRET_BYTES_MAX)},
        {slice_of(longest, SECRET_BYTES_MAX + 1), ERR_SYNTAX, SLICE("")},
    };
    const char *file = in_directory("secret");
    for (size_t index = 0; index < sizeof rows / sizeof rows[0]; index++) {
        static uint8_t memory[SECRET_BYTES_MAX];
        struct buf to;
        buf_init(&to, memory, sizeof memory);
        write_file(file, rows[index].text, 0600);
        assert_int_equal(secret_read(file, &to), rows[index].err);
        assert_true(slice_equal(buf_slice(&to), rows[index].secret));
    }
}

static void secret_files(void **state)
{
    (void)state;
    uint8_t memory[64];
    struct buf to;
    buf_init(&to, memory, sizeof memory);
    const char *file = in_directory("it's here");
    char expected[300];

    assert_int_equal(secret_read(file, &to), ERR_NOT_FOUND);
    static const mode_t open_modes[] = {0640, 0604, 0660, 0602, 0644};
    for (size_t index = 0; index < sizeof open_modes / sizeof open_modes[0]; index++) {
        write_file(file, SLICE("hunter2\n"), open_modes[index]);
        assert_int_equal(secret_read(file, &to), ERR_PERMISSION);
        (void)snprintf(expected, sizeof expected,
                       "the password file \"%s\" is open to others than its owner (mode %04o)",
                       file, (unsigned)open_modes[index]);
        assert_string_equal(secret_message, expected);
        (void)snprintf(expected, sizeof expected, "chmod 600 '%s/it'\\''s here'", directory);
        assert_string_equal(secret_fix, expected);
    }
    write_file(file, SLICE("hunter2\n"), 0400);
    assert_int_equal(secret_read(file, &to), ERR_OK);
    buf_reset(&to);

    /* A link is what it points at. */
    assert_int_equal(symlink(file, in_directory("link")), 0);
    assert_int_equal(secret_read(in_directory("link"), &to), ERR_OK);
    buf_reset(&to);
    write_file(file, SLICE("hunter2\n"), 0644);
    assert_int_equal(secret_read(in_directory("link"), &to), ERR_PERMISSION);

    assert_int_equal(secret_read(directory, &to), ERR_SYNTAX);
    (void)unlink(in_directory("fifo"));
    assert_int_equal(mkfifo(in_directory("fifo"), 0600), 0);
    assert_int_equal(secret_read(in_directory("fifo"), &to), ERR_SYNTAX);
    assert_int_equal(secret_read("/dev/zero", &to), ERR_SYNTAX);

    if (geteuid() == 0) {
        write_file(file, SLICE("hunter2\n"), 0600);
        assert_int_equal(chown(file, 12345, 0), 0);
        assert_int_equal(secret_read(file, &to), ERR_PERMISSION);
        assert_non_null(strstr(secret_message, "belongs to user id 12345"));
        assert_int_equal(strncmp(secret_fix, "chown 0 ", 8), 0);
    }
    /* A caller's buffer that is too small takes nothing. */
    write_file(file, SLICE("hunter2\n"), 0600);
    buf_init(&to, memory, 3);
    assert_int_equal(secret_read(file, &to), ERR_FULL);
}

static void secrets_checked(void **state)
{
    (void)state;
    char text[512], expected[512];
    const char *file = in_directory("secret");
    write_file(file, SLICE("hunter2\n"), 0644);
    (void)snprintf(text, sizeof text, HEAD "user = a\npassword-file = %s\n", file);
    struct config *config = parse_well(text);
    config_free(&config);
    assert_int_equal(config_parse(&config, "f", slice_from_str(text), true, &errors), ERR_SYNTAX);
    assert_int_equal(errors.count, 1);
    assert_int_equal(errors.items[0].line, 4);
    assert_int_equal(errors.items[0].column, 17);
    (void)snprintf(expected, sizeof expected, "chmod 600 %s", file);
    assert_string_equal(errors.items[0].fix, expected);
    write_file(file, SLICE("hunter2\n"), 0600);
    assert_int_equal(config_parse(&config, "f", slice_from_str(text), true, &errors), ERR_OK);
    config_free(&config);
}

/* ---- names of this box ---- */

static void names(void **state)
{
    (void)state;
    static const struct {
        const char *hostname, *domain; /* as given */
        const char *system, *mail_name;
        const char *out_hostname, *out_domain; /* NULL: refused */
    } rows[] = {
        {"", "", "vm.example.jp", "", "vm.example.jp", "example.jp"},
        {"", "", "vm", "example.jp", "vm.example.jp", "example.jp"},
        {"", "", "vm", "vm.example.jp", "vm.example.jp", "vm.example.jp"},
        {"", "", "vm", "", "vm", "vm"},
        {"", "corp.jp", "vm", "example.jp", "vm.corp.jp", "corp.jp"},
        {"", "corp.jp", "vm.x.jp", "example.jp", "vm.x.jp", "corp.jp"},
        {"mx.a.jp", "", "vm", "", "mx.a.jp", "a.jp"},
        {"mx.a.jp", "", "vm", "b.jp", "mx.a.jp", "b.jp"},
        {"mx.a.jp", "", "localhost", "", "mx.a.jp", "a.jp"},
        {"mx.a.jp", "", "vm", "not a name", "mx.a.jp", "a.jp"},
        {"mx", "a.jp", "vm", "", "mx", "a.jp"}, /* a given one is not changed */
        {"", "", "localhost", "example.jp", NULL, NULL},
        {"", "", "localhost.localdomain", "", NULL, NULL},
        {"", "", "", "", NULL, NULL},
        {"", "", "my_box", "", NULL, NULL},
        {"", "example.jp", "-", "", NULL, NULL},
    };
    for (size_t index = 0; index < sizeof rows / sizeof rows[0]; index++) {
        struct config *c = calloc(1, sizeof *c);
        assert_non_null(c);
        (void)snprintf(c->hostname, sizeof c->hostname, "%s", rows[index].hostname);
        (void)snprintf(c->domain, sizeof c->domain, "%s", rows[index].domain);
        errors.count = 0;
        config_names_fill(c, slice_from_str(rows[index].system),
                          slice_from_str(rows[index].mail_name), &errors);
        if (rows[index].out_hostname == NULL) {
            assert_int_equal(errors.count, 1);
            assert_string_equal(errors.items[0].fix, "add a line: hostname = office.example.jp");
        } else {
            assert_int_equal(errors.count, 0);
            assert_string_equal(c->hostname, rows[index].out_hostname);
            assert_string_equal(c->domain, rows[index].out_domain);
        }
        config_free(&c);
    }
}

static void names_too_long(void **state)
{
    (void)state;
    static char system[256], domain[256];
    memset(system, 'a', 60);
    for (size_t index = 0; index < 200; index++) {
        domain[index] = index % 50 == 49 ? '.' : 'b';
    }
    domain[199] = 'b';
    struct config *c = calloc(1, sizeof *c);
    assert_non_null(c);
    errors.count = 0;
    config_names_fill(c, slice_from_str(system), slice_from_str(domain), &errors);
    assert_int_equal(errors.count, 1);
    config_free(&c);
}

/* ---- printing, limits, risks ---- */

static char *print(const struct config *config)
{
    static char texts[2][65536];
    static size_t next;
    char *text = texts[next++ % 2];
    struct buf to;
    buf_init(&to, text, sizeof texts[0] - 1);
    config_put(&to, config);
    assert_false(to.overflow);
    text[to.len] = '\0';
    return text;
}

static void printed(void **state)
{
    (void)state;
    struct config *c = parse_well("hostname = relay.example.jp\n"
                                  "domain = example.jp\n"
                                  "listen = 127.0.0.1:0\n"
                                  "allow = private, 192.0.2.0/24, 2001:db8::/32\n"
                                  "max-size = 1536K\n"
                                  "give-up = 36h\n"
                                  "workers = 2\n"
                                  "upstream = a.jp:2525/tls\n"
                                  "auth = scram-sha-256, plain\n"
                                  "rate = 10 recipients/hour, 30/min\n"
                                  "user = \" x #y\"\n"
                                  "password-file = /p\n");
    assert_string_equal(print(c), "listen = 127.0.0.1:0\n"
                                  "allow = private, 192.0.2.0/24, 2001:db8::/32\n"
                                  "insecure-allow-anyone = no\n"
                                  "hostname = relay.example.jp\n"
                                  "domain = example.jp\n"
                                  "max-size = 1536K\n"
                                  "give-up = 36h\n"
                                  "warn-after = 4h\n"
                                  "keep-history = 30d\n"
                                  "history-max = 256M\n"
                                  "keep-deleted = 1d\n"
                                  "reports = yes\n"
                                  "report-rate = 60\n"
                                  "digest-every = 1d\n"
                                  "retry-min = 1m\n"
                                  "retry-max = 1h\n"
                                  "queue-max = 20G\n"
                                  "connections-max = 1000\n"
                                  "connections-per-client = 200\n"
                                  "idle-timeout = 5m\n"
                                  "state = /var/lib/tasuki\n"
                                  "run = /run/tasuki\n"
                                  "workers = 2\n"
                                  "io = auto\n"
                                  "log-level = info\n"
                                  "\n"
                                  "[upstream main]\n"
                                  "host = a.jp:2525/tls\n"
                                  "tls = verify\n"
                                  "insecure-plain = no\n"
                                  "auth = scram-sha-256, plain\n"
                                  "user = \" x #y\"\n"
                                  "password-file = /p\n"
                                  "connections = 4\n"
                                  "null-sender = yes\n"
                                  "rate = 30/min, 10 recipients/hour\n"
                                  "use = always\n"
                                  "pipeline = auto\n"
                                  "probe-min = 10s\n"
                                  "probe-max = 5m\n"
                                  "connect-timeout = 30s\n"
                                  "reply-timeout = 5m\n"
                                  "keep-open = 1m\n"
                                  "connection-age = 15m\n"
                                  "connection-messages = 0\n"
                                  "\n"
                                  "[dashboard]\n"
                                  "listen = 127.0.0.1:8025\n");
    config_free(&c);
}

/* What was printed reads back as the same. */
static void printed_again(void **state)
{
    (void)state;
    static const char *const texts[] = {
        HEAD,
        HEAD "listen = 25, 587\nallow = 10.0.0.1\nuser = a\"b\npassword-file = \"/a #b \"\n",
        HEAD "dns = 127.0.0.1:53\nroot-mail = a@b.jp\ntls-ca = /ca.pem\nlog-level = error\n",
        NAMED "[upstream a]\nhost = [192.0.2.1]:465\n[upstream b]\nhost = b.jp:25\ntls = off\n",
    };
    for (size_t index = 0; index < sizeof texts / sizeof texts[0]; index++) {
        struct config *first = parse_well(texts[index]);
        const char *text = print(first);
        struct config *second = parse_well(text);
        assert_string_equal(print(second), text);
        config_free(&first);
        config_free(&second);
    }
}

static void units(void **state)
{
    (void)state;
    static const struct {
        void (*put)(struct buf *, uint64_t);
        uint64_t value;
        const char *text;
    } rows[] = {
        {config_put_size, 0, "0"},
        {config_put_size, 1023, "1023"},
        {config_put_size, 1024, "1K"},
        {config_put_size, 25 << 20, "25M"},
        {config_put_size, 1ull << 40, "1T"},
        {config_put_duration, 1, "1ms"},
        {config_put_duration, 1500, "1500ms"},
        {config_put_duration, 90000, "90s"},
        {config_put_duration, 7 * 86400000ull, "7d"},
    };
    for (size_t index = 0; index < sizeof rows / sizeof rows[0]; index++) {
        char text[32];
        struct buf to;
        buf_init(&to, text, sizeof text - 1);
        rows[index].put(&to, rows[index].value);
        text[to.len] = '\0';
        assert_string_equal(text, rows[index].text);
    }
}

/* What a file can be opened again with: see STORE_FILE_BYTES_MAX. */
static void queue_at_its_bounds(void **state)
{
    (void)state;
    struct config *c = parse_well(HEAD "queue-max = 1T\nhistory-max = 512G\n");
    assert_int_equal(c->queue_max, QUEUE_BYTES_MAX);
    assert_int_equal(c->history_max, HISTORY_BYTES_MAX);
    config_free(&c);
}

/* C7. Clients that are turned away have a descriptor, too, while they hear why. */
static void fits(void **state)
{
    (void)state;
    struct config *c = parse_well(HEAD "connections-max = 1000\nqueue-max = 20G\n");
    errors.count = 0;
    assert_true(config_fits(c, 0, 0, &errors));
    assert_true(config_fits(c, 2168, 20ull << 30, &errors));
    assert_int_equal(errors.count, 0);
    assert_false(config_fits(c, 2167, (20ull << 30) - 1, &errors));
    assert_int_equal(errors.count, 2);
    assert_string_equal(errors.items[0].message,
                        "connections-max = 1000 and the upstreams need 2168 open files, but this "
                        "process may have 2167");
    assert_string_equal(errors.items[0].fix, "lower connections-max, or raise LimitNOFILE to 2168");
    assert_string_equal(errors.items[1].message,
                        "queue-max = 20G, but the disk of /var/lib/tasuki has only 20479M for it");
    assert_string_equal(errors.items[1].fix, "write at most: queue-max = 20479M");
    config_free(&c);
}

/* C6: what was forced is told at every start. */
static void risks(void **state)
{
    (void)state;
    char text[200] = "";
    struct config *c = parse_well(HEAD);
    assert_false(config_risk_at(c, 0, text));
    assert_string_equal(text, "");
    config_free(&c);
    c = parse_well(NAMED "insecure-allow-anyone = yes\n"
                         "[upstream a]\nhost = [a.jp]:25\ntls = off\ninsecure-plain = yes\n"
                         "user = u\npassword-file = /p\n"
                         "[upstream b]\nhost = [b.jp]:25\ntls = off\n"
                         "[upstream c]\nhost = [c.jp]:25\ntls = encrypt\nuser = u\n"
                         "password-file = /p\n"
                         "[dashboard]\nlisten = 0.0.0.0:80\n");
    static const char *const expected[] = {
        "strangers may be allowed to send (insecure-allow-anyone)",
        "the status page can be reached from outside this box (0.0.0.0:80)",
        "upstream a: the password is sent in the clear (insecure-plain)",
        "upstream c: the password is sent to whoever answers (tls = encrypt)",
    };
    for (size_t index = 0; index < 4; index++) {
        assert_true(config_risk_at(c, index, text));
        assert_string_equal(text, expected[index]);
    }
    assert_false(config_risk_at(c, 4, text));
    config_free(&c);
}

/* Untrusted text in a message is escaped and cut. */
static void quotes(void **state)
{
    (void)state;
    assert_string_equal(config_quote(SLICE("a\x1b\n")).text, "\"a\\x1b\\x0a\"");
    struct config_quote quote = config_quote(SLICE(
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
        "aaaaaaaaaaaaaaaaaaaaaaaa"));
    assert_true(strlen(quote.text) < sizeof quote.text);
    assert_string_equal(quote.text + strlen(quote.text) - 5, "a...\"");
}

/* The file that is installed is a working one. */
static void packaged_file(void **state)
{
    (void)state;
    struct config *c = NULL;
    assert_int_equal(config_load(&c, "packaging/tasuki.conf", false, &errors), ERR_OK);
    assert_string_equal(c->upstreams[0].host.name, "relay.example.jp");
    config_free(&c);
}

/* Its commented settings are settings too, with the defaults they claim to show. */
static void packaged_comments(void **state)
{
    (void)state;
    static char text[65536];
    FILE *file = fopen("packaging/tasuki.conf", "re");
    assert_non_null(file);
    size_t bytes = fread(text, 1, sizeof text - 1, file);
    assert_int_equal(fclose(file), 0);
    size_t count = 0;
    for (struct slice rest = slice_of(text, bytes); rest.len > 0;) {
        struct slice line = slice_head(rest, slice_find(rest, '\n'));
        rest = slice_tail(rest, line.len + 1);
        if (line.len < 2 || line.data[0] != '#' || line.data[1] == ' ') {
            continue;
        }
        struct slice key = slice_trim(slice_head(slice_tail(line, 1), slice_find(line, '=') - 1));
        struct slice value = slice_trim(slice_tail(line, slice_find(line, '=') + 1));
        size_t found = 0;
        struct config_row row;
        for (size_t index = 0; config_row_at(index, &row); index++) {
            if (slice_equal(key, slice_from_str(row.key))) {
                const char *shown_text =
                    row.default_text[0] != '\0' ? row.default_text : row.example;
                found += slice_equal(value, slice_from_str(shown_text));
            }
        }
        if (found == 0) {
            fail_msg("no such setting, or not its default: %.*s", (int)line.len, line.data);
        }
        count++;
    }
    assert_true(count >= 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(smallest_file),
        cmocka_unit_test(full_file),
        cmocka_unit_test(rows_parse),
        cmocka_unit_test(examples_in_a_file),
        cmocka_unit_test(rates),
        cmocka_unit_test(listens),
        cmocka_unit_test(lines_refused),
        cmocka_unit_test(lines_taken),
        cmocka_unit_test(hosts_refused),
        cmocka_unit_test(hosts_taken),
        cmocka_unit_test(providers_taken),
        cmocka_unit_test(providers_settings_give_way),
        cmocka_unit_test(providers_refused),
        cmocka_unit_test(loops),
        cmocka_unit_test(upstream_sections),
        cmocka_unit_test(upstreams_max),
        cmocka_unit_test(all_errors_at_once),
        cmocka_unit_test(errors_max),
        cmocka_unit_test(forms_of_text),
        cmocka_unit_test(sizes_of_text),
        cmocka_unit_test_setup_teardown(files, directory_make, directory_remove),
        cmocka_unit_test_setup_teardown(secret_contents, directory_make, directory_remove),
        cmocka_unit_test_setup_teardown(secret_files, directory_make, directory_remove),
        cmocka_unit_test_setup_teardown(secrets_checked, directory_make, directory_remove),
        cmocka_unit_test(names),
        cmocka_unit_test(names_too_long),
        cmocka_unit_test(printed),
        cmocka_unit_test(printed_again),
        cmocka_unit_test(units),
        cmocka_unit_test(queue_at_its_bounds),
        cmocka_unit_test(fits),
        cmocka_unit_test(risks),
        cmocka_unit_test(quotes),
        cmocka_unit_test(packaged_file),
        cmocka_unit_test(packaged_comments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
