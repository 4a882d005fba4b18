/* Who may send, and where a bare name goes: tables. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "daemon/ingress/policy.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/un.h>

/* Text to 16 bytes, by way of the sockaddr that accept would give. */
static bool address_of(const char *text, uint8_t out[16])
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(25)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(25)};
    if (inet_pton(AF_INET, text, &v4.sin_addr) == 1) {
        return policy_address((const struct sockaddr *)(const void *)&v4, out);
    }
    assert_int_equal(inet_pton(AF_INET6, text, &v6.sin6_addr), 1);
    return policy_address((const struct sockaddr *)(const void *)&v6, out);
}

static void test_addresses_are_sixteen_bytes(void **state)
{
    (void)state;
    static const uint8_t mapped[16] = {[10] = 0xff, 0xff, 10, 1, 2, 3};
    uint8_t out[16];
    assert_true(address_of("10.1.2.3", out));
    assert_memory_equal(out, mapped, 16);
    assert_true(address_of("::ffff:10.1.2.3", out)); /* the same client on a v6 socket */
    assert_memory_equal(out, mapped, 16);
    struct sockaddr_un unix_address = {.sun_family = AF_UNIX};
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    assert_false(policy_address((const struct sockaddr *)(const void *)&unix_address, out));
    assert_false(policy_address(&none, out));
}

static const struct {
    const char *address;
    bool is_private;
} private_rows[] = {
    {"10.0.0.0", true},
    {"10.255.255.255", true},
    {"9.255.255.255", false},
    {"11.0.0.0", false},
    {"172.15.255.255", false},
    {"172.16.0.0", true},
    {"172.31.255.255", true},
    {"172.32.0.0", false},
    {"192.168.0.0", true},
    {"192.168.255.255", true},
    {"192.167.255.255", false},
    {"192.169.0.0", false},
    {"169.254.9.9", true},
    {"169.253.255.255", false},
    {"127.0.0.1", true},
    {"127.255.255.254", true},
    {"128.0.0.1", false},
    {"8.8.8.8", false},
    {"0.0.0.0", false},
    {"255.255.255.255", false},
    {"::1", true},
    {"::2", false},
    {"::", false},
    {"fc00::1", true},
    {"fdff:ffff::1", true},
    {"fbff::1", false},
    {"fe00::1", false},
    {"fe80::1", true},
    {"febf::1", true},
    {"fec0::1", false},
    {"2001:db8::1", false},
    {"::ffff:192.168.1.1", true},
    {"::ffff:8.8.8.8", false},
    {"::10.0.0.1", false},        /* compatible, not mapped: another address altogether */
    {"64:ff9b::10.0.0.1", false}, /* neither is a translated one */
    {"::fffe:10.0.0.1", false},
};

static void test_private_networks(void **state)
{
    (void)state;
    struct config *config = calloc(1, sizeof *config);
    assert_non_null(config);
    for (size_t at = 0; at < sizeof private_rows / sizeof private_rows[0]; at++) {
        uint8_t client[16];
        assert_true(address_of(private_rows[at].address, client));
        config->allow.private_networks = true;
        if (policy_allows(config, client) != private_rows[at].is_private) {
            fail_msg("%s", private_rows[at].address);
        }
        config->allow.private_networks = false;
        assert_false(policy_allows(config, client)); /* nobody is allowed by default */
    }
    free(config);
}

static const struct {
    const char *network;
    uint8_t prefix_bits;
    const char *client;
    bool allowed;
} network_rows[] = {
    {"::", 0, "8.8.8.8", true}, /* the empty prefix is everybody */
    {"::", 0, "2001:db8::1", true},
    {"0.0.0.0", 96, "8.8.8.8", true}, /* 0.0.0.0/0: IPv4 alone */
    {"0.0.0.0", 96, "2001:db8::1", false},
    {"0.0.0.0", 96, "::1", false},
    {"192.0.2.1", 128, "192.0.2.1", true},
    {"192.0.2.1", 128, "192.0.2.0", false},
    {"192.0.2.128", 96 + 25, "192.0.2.128", true},
    {"192.0.2.128", 96 + 25, "192.0.2.127", false},
    {"192.0.2.128", 96 + 25, "192.0.2.255", true},
    {"192.0.2.0", 96 + 31, "192.0.2.1", true},
    {"192.0.2.0", 96 + 31, "192.0.2.2", false},
    {"128.0.0.0", 97, "255.0.0.1", true},
    {"128.0.0.0", 97, "127.0.0.1", false},
    {"2001:db8::", 32, "2001:db8:ffff::1", true},
    {"2001:db8::", 32, "2001:db9::1", false},
    {"2001:db8::", 33, "2001:db8:7fff::", true},
    {"2001:db8::", 33, "2001:db8:8000::", false},
    {"2001:db8::1", 127, "2001:db8::", true},
    {"2001:db8::1", 127, "2001:db8::2", false},
    {"8000::", 1, "ffff::", true},
    {"8000::", 1, "7fff::", false},
};

static void test_networks_to_the_bit(void **state)
{
    (void)state;
    struct config *config = calloc(1, sizeof *config);
    assert_non_null(config);
    for (size_t at = 0; at < sizeof network_rows / sizeof network_rows[0]; at++) {
        uint8_t client[16];
        assert_true(address_of(network_rows[at].client, client));
        config->allow.count = 2; /* the first one never matches */
        assert_true(address_of("203.0.113.77", config->allow.items[0].address));
        config->allow.items[0].prefix_bits = 128;
        assert_true(address_of(network_rows[at].network, config->allow.items[1].address));
        config->allow.items[1].prefix_bits = network_rows[at].prefix_bits;
        if (policy_allows(config, client) != network_rows[at].allowed) {
            fail_msg("%s in %s/%u", network_rows[at].client, network_rows[at].network,
                     network_rows[at].prefix_bits);
        }
    }
    free(config);
}

static const struct {
    const char *path;
    bool is_recipient;
    const char *root_mail;
    const char *result;
} resolve_rows[] = {
    {"anna@example.jp", true, "boss@example.jp", "anna@example.jp"},
    {"anna@example.jp", false, "", "anna@example.jp"},
    {"root", true, "boss@example.jp", "boss@example.jp"},
    {"anna", true, "boss@example.jp", "boss@example.jp"},
    {"root", true, "", "root@office.example"},
    {"root", false, "boss@example.jp", "root@office.example"}, /* a sender stays itself */
    {"Postmaster", true, "", "Postmaster@office.example"},
    {"\"a b\"@example.jp", true, "boss@example.jp", "\"a b\"@example.jp"},
    {"\"a@b\"@example.jp", true, "boss@example.jp", "\"a@b\"@example.jp"},
    {"\"a@b\"", false, "", "\"a@b\"@office.example"}, /* no domain: the @ is quoted */
    {"\"a@b\"", true, "boss@example.jp", "boss@example.jp"},
    {"u@[192.0.2.1]", true, "boss@example.jp", "u@[192.0.2.1]"},
    {"u@[IPv6:::1]", true, "boss@example.jp", "u@[IPv6:::1]"},
    {";sh", false, "", ";sh@office.example"}, /* bytes only */
};

static void test_bare_names(void **state)
{
    (void)state;
    struct config *config = calloc(1, sizeof *config);
    assert_non_null(config);
    snprintf(config->domain, sizeof config->domain, "office.example");
    for (size_t at = 0; at < sizeof resolve_rows / sizeof resolve_rows[0]; at++) {
        uint8_t memory[SMTP_PATH_BYTES_MAX];
        struct buf to;
        buf_init(&to, memory, sizeof memory);
        snprintf(config->root_mail, sizeof config->root_mail, "%s", resolve_rows[at].root_mail);
        assert_true(policy_resolve(config, slice_from_str(resolve_rows[at].path),
                                   resolve_rows[at].is_recipient, &to));
        if (!slice_equal(buf_slice(&to), slice_from_str(resolve_rows[at].result))) {
            fail_msg("%s: %.*s", resolve_rows[at].path, (int)to.len, (const char *)to.data);
        }
    }
    free(config);
}

static void test_an_address_that_grows_too_long_is_refused(void **state)
{
    (void)state;
    struct config *config = calloc(1, sizeof *config);
    assert_non_null(config);
    memset(config->domain, 'd', sizeof config->domain - 1);
    uint8_t local[SMTP_LOCAL_BYTES_MAX], memory[SMTP_PATH_BYTES_MAX + SMTP_DOMAIN_BYTES_MAX + 2];
    memset(local, 'l', sizeof local);
    struct buf to;
    for (size_t domain = 185; domain < 200; domain++) {
        config->domain[domain] = '\0';
        buf_init(&to, memory, sizeof memory);
        bool fits = sizeof local + 1 + domain <= SMTP_PATH_BYTES_MAX;
        assert_int_equal(policy_resolve(config, slice_of(local, sizeof local), true, &to), fits);
        config->domain[domain] = 'd';
    }
    buf_init(&to, memory, 10); /* less room than it takes */
    assert_false(policy_resolve(config, SLICE("anna@example.jp"), true, &to));
    free(config);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_addresses_are_sixteen_bytes),
        cmocka_unit_test(test_private_networks),
        cmocka_unit_test(test_networks_to_the_bit),
        cmocka_unit_test(test_bare_names),
        cmocka_unit_test(test_an_address_that_grows_too_long_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
