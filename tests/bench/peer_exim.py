"""Exim (exim4-daemon-light) at its best durable settings for this work.

Nothing is looked up, no ident, no limits of connections, a split spool, and no second start of the
program for a delivery (deliver_drop_privilege). Each message is delivered at once by a process of
its own. Queueing and 20 queue runners passed on as many (12 to 13 a second beside 11 to 13, 100
messages on a busy machine) for twice the CPU. The process that takes a message has it on the disk
(fsync) before it answers 250. Where only taking counts, mail is queued and not tried. Exim limits
the connections to a host over all messages only in queue runs: where the line counts, mail is
queued first, and as many queue runners as there may be connections take it away.

It answers QUIT 200 ms late, for it waits so long for the client to close; a new connection for
each message pays that each time. No setting changes that.
"""

from prefix import Prefix
from rig import Group, free_port

CONF = """exim_path = /usr/sbin/exim4
primary_hostname = bench.test
qualify_domain = bench.test
local_interfaces = 127.0.0.1
daemon_smtp_ports = {port}
spool_directory = /var/spool/exim4
log_file_path = /var/spool/exim4/log/%slog
pid_file_path = /var/spool/exim4/exim.pid
split_spool_directory = true
host_lookup =
rfc1413_query_timeout = 0s
helo_accept_junk_hosts = *
smtp_accept_max = 0
smtp_accept_queue = 0
smtp_accept_queue_per_connection = 0
smtp_accept_max_per_connection = 0
smtp_accept_max_nonmail = 1000000
smtp_connect_backlog = 1000
smtp_enforce_sync = false
recipients_max = 0
message_size_limit = 64M
tls_advertise_hosts =
remote_max_parallel = 20
queue_run_max = 20
deliver_drop_privilege = true
queue_only = {queue_only}
keep_environment =
never_users =
acl_smtp_rcpt = take
begin acl
take:
  accept
begin routers
smarthost:
  driver = manualroute
  route_list = * 127.0.0.1 byname
  host_find_failed = defer
  self = send
  transport = out
begin transports
out:
  driver = smtp
  port = {sink}
  allow_localhost
  hosts_try_fastopen =
  hosts_avoid_tls = *
  dnssec_request_domains =
begin retry
* * F,2h,15m
"""

PACKAGES = ("exim4-daemon-light", "exim4-base", "libgnutls-dane0", "libunbound8", "libnsl2",
            "libidn12", "libgnutls30", "libpcre2-8-0", "libdb5.3")


class Exim:
    title, durable, queue_runs = "Exim", True, True

    @classmethod
    def prepare(cls):
        cls.prefix = Prefix("exim", PACKAGES, ["/usr/sbin/exim4"], {"Debian-exim": 1101})
        cls.version = cls.prefix.version

    def __init__(self, directory, sink_port, connections, queue_first=False):
        self.port, self.connections = free_port(), connections
        spool = self.prefix.spool("var/spool/exim4", "Debian-exim", 0o750)
        (spool / "log").mkdir()
        (self.prefix.root / "var/spool/exim4/log").chmod(0o777)
        config = self.prefix.root / "etc/exim4/exim4.conf"
        config.parent.mkdir(exist_ok=True)
        config.write_text(CONF.format(port=self.port, sink=sink_port,
                                      queue_only="true" if queue_first else "false"))
        self.log = open(directory / "log", "wb")
        self.group = Group("exim")
        self.group.start(self.prefix.command("/usr/sbin/exim4", "-bdf"), self.log)

    def drain(self):
        for _ in range(self.connections):
            self.group.start(self.prefix.command("/usr/sbin/exim4", "-q"), self.log)

    def stop(self):
        self.group.end()
        self.log.close()
