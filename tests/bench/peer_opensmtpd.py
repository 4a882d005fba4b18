"""OpenSMTPD at its best settings for this work.

All limits of connections, messages and delays are raised out of the way. It is NOT durable: it
answers 250 without having flushed the message to the disk (no fsync), and there is no setting
that changes that. It is shown, and marked.
"""

from prefix import Prefix
from rig import Group, free_port

CONF = """smtp max-message-size 64M
smtp limit max-mails 1000000
smtp limit max-rcpt 1000000
mta limit max-conn-per-host {connections}
mta limit max-conn-per-route {connections}
mta limit max-conn-per-source {connections}
mta limit max-conn-per-connector {connections}
mta limit max-conn-per-relay {connections}
mta limit max-conn-per-domain {connections}
mta limit conn-delay-host 0
mta limit conn-delay-source 0
mta limit conn-delay-connector 0
mta limit conn-delay-relay 0
mta limit conn-delay-domain 0
mta limit session-mail-max 1000000
mta limit session-transaction-delay 0
mta limit session-keepalive 10
mta limit task-hiwat 1000000
mta limit task-lowat 1000
scheduler limit max-inflight 100000
scheduler limit max-schedule 1000
scheduler limit max-evp-batch-size 1000
scheduler limit max-msg-batch-size 1000
listen on 127.0.0.1 port {port} hostname bench.test
action "relay" relay host smtp://127.0.0.1:{sink}
match from any for any action "relay"
"""


class Opensmtpd:
    title, durable, queue_runs = "OpenSMTPD (does not flush)", False, False

    @classmethod
    def prepare(cls):
        cls.prefix = Prefix("opensmtpd", ("opensmtpd", "libevent-2.1-7", "libdb5.3"),
                            ["/usr/sbin/smtpd", "/usr/sbin/smtpctl"],
                            {"opensmtpd": 1102, "opensmtpq": 1103})
        cls.version = cls.prefix.version

    def __init__(self, directory, sink_port, connections, queue_first=False):
        self.port = free_port()
        self.prefix.spool("var/spool/smtpd", "root", 0o711)
        self.prefix.spool("var/lib/opensmtpd/empty")
        self.prefix.spool("var/run")
        (self.prefix.root / "etc/smtpd.conf").write_text(CONF.format(
            port=self.port, sink=sink_port, connections=connections))
        self.log = open(directory / "log", "wb")
        self.group = Group("opensmtpd")
        self.group.start(self.prefix.command("/usr/sbin/smtpd", "-d"), self.log)

    def stop(self):
        self.group.end()
        self.log.close()
