"""Postfix, as it is installed here, in directories of its own: as a peer, and as an upstream.

As a peer it has its best durable settings for this work: nothing is looked up, counted, delayed
or filtered; as many deliveries as the work allows connections, from the first moment; connections
to the sink are kept; a large active queue; log to a file. fsync stays, as it is.
"""

import shutil
import subprocess

from rig import PATIENCE_S, Group, Missing, free_port, quiet_output

COMMON = """compatibility_level = 3.6
queue_directory = {d}/queue
data_directory = {d}/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
maillog_file = {d}/log/mail.log
maillog_file_prefixes = {d}
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = bench.test
mynetworks = 127.0.0.0/8
mydestination =
local_recipient_maps =
alias_maps =
alias_database =
smtpd_peername_lookup = no
smtpd_client_event_limit_exceptions = 127.0.0.0/8
default_process_limit = 200
message_size_limit = 104857600
"""

RELAY = COMMON + """relayhost = [127.0.0.1]:{sink}
disable_dns_lookups = yes
smtp_host_lookup = native
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_recipient_restrictions = permit_mynetworks, reject
content_filter =
receive_override_options = no_address_mappings
in_flow_delay = 0
qmgr_message_active_limit = 40000
default_destination_concurrency_limit = {connections}
initial_destination_concurrency = {connections}
smtp_connection_cache_destinations = [127.0.0.1]:{sink}
smtp_connection_cache_time_limit = 10s
smtp_tls_security_level = none
smtpd_tls_security_level = none
smtpd_sasl_auth_enable = no
"""

# What an upstream takes it gives to smtp-sink within the session (smtpd_proxy_filter): the cost
# of TLS, login and SMTP is its own, and no queue of its own stands behind it.
UPSTREAM = COMMON + """default_transport = error:nothing leaves here
smtpd_proxy_filter = 127.0.0.1:{sink}
smtpd_tls_cert_file = {d}/cert.pem
smtpd_tls_key_file = {d}/key.pem
smtpd_tls_security_level = encrypt
smtpd_tls_auth_only = yes
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = cyrus
smtpd_sasl_path = smtpd
smtpd_sasl_local_domain = bench.test
smtpd_reject_unlisted_recipient = no
smtpd_relay_restrictions = permit_sasl_authenticated, reject
smtpd_recipient_restrictions = permit_sasl_authenticated, reject
"""

MASTER = """127.0.0.1:{port} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
tlsmgr unix - - n 1000? 1 tlsmgr
postlog unix-dgram n - n - 1 postlogd
"""

USER, PASSWORD = "id-smtpauth", "correct horse;battery=staple"


def furnish(directory, main_cf, port, **values):
    for name in ("config/sasl", "queue", "data", "log"):
        (directory / name).mkdir(parents=True)
    shutil.chown(directory / "data", "postfix")
    (directory / "config/main.cf").write_text(main_cf.format(d=directory, **values))
    (directory / "config/master.cf").write_text(MASTER.format(port=port))


class Postfix:
    title, durable, queue_runs = "Postfix", True, False

    @classmethod
    def prepare(cls):
        if shutil.which("postconf") is None:
            raise Missing("postfix is not installed")
        cls.version = quiet_output(["postconf", "-dh", "mail_version"]).strip()

    def __init__(self, directory, sink_port, connections, queue_first=False):
        self.port = free_port()
        furnish(directory, RELAY, self.port, sink=sink_port, connections=connections)
        self.group = Group("postfix")
        self.group.run(["postfix", "-c", directory / "config", "start"], subprocess.DEVNULL)

    def stop(self):
        self.group.end()


class UpstreamPostfix:
    """STARTTLS and AUTH (Cyrus SASL), as a provider has it; not what is measured."""

    def __init__(self, directory, sink_port):
        self.port = free_port()
        furnish(directory, UPSTREAM, self.port, sink=sink_port)
        quiet_output(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                      "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=localhost", "-days", "30",
                      "-keyout", directory / "key.pem", "-out", directory / "cert.pem"])
        (directory / "config/sasl/smtpd.conf").write_text(
            "pwcheck_method: auxprop\nauxprop_plugin: sasldb\nsasldb_path: %s/sasldb2\n"
            "mech_list: PLAIN\n" % directory)
        subprocess.run(["saslpasswd2", "-p", "-c", "-f", str(directory / "sasldb2"), "-u",
                        "bench.test", USER], input=PASSWORD.encode(), check=True,
                       timeout=PATIENCE_S, capture_output=True)
        shutil.chown(directory / "sasldb2", "postfix")
        self.group = Group("upstream")
        self.group.run(["postfix", "-c", directory / "config", "start"], subprocess.DEVNULL)

    def stop(self):
        self.group.end()
