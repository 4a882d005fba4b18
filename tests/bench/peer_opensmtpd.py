"""OpenSMTPD at its best settings for this work.

It is NOT durable: it answers 250 without having flushed the message to the disk (no fsync), and
there is no setting that changes that. It is shown, and marked. What is unusual here:

- Its listener is made to queue BACKLOG connections. It asks the kernel for 5, compiled in; 20
  clients at once overrun that, and a connection that is dropped is tried again after 1, 3 and 7
  seconds. The other peers have a setting for it; here the queue is widened from outside
  (pidfd_getfd, listen), as a build with another constant would have it.
- One smarthost name for each connection, all of them the sink, and one connection for each name;
  messages take turns among the names. Connections to one name all end as soon as its mail runs
  out, and what comes later waits up to 10 seconds, a constant, for the next look at the source
  address. The only connection to a name stays (session-keepalive), and looks for mail each second.
- One source address for each connection: the first connection of a pair of addresses holds back
  all others of that pair until it is greeted, and they try again only after a second.
- No delay between connections of a pair of addresses: conn-delay-route is 5 seconds by default,
  so that 20 connections would take over a minute to come up; reconn-delay-route is 3.
- Where only taking counts mail is not tried (-P mta), since each failure is written, with fsync.
  Where the line counts it is queued like that first, and then let go.

All names are in the root's hosts; no name server is asked. The final dot is sent in a segment of
its own under Nagle's algorithm, so that a message takes 40 ms on its connection, which is the
delayed ACK of the other side. No setting changes that.
"""

import ctypes
import os
import re
import socket
from pathlib import Path

from prefix import Prefix
from rig import Failed, Group, free_port, quiet_output, wait_for

BACKLOG = 1000
SYS_PIDFD_GETFD = 438

CONF = """smtp max-message-size 64M
smtp limit max-mails 1000000
smtp limit max-rcpt 1000000
mta limit max-conn-per-host {connections}
mta limit max-conn-per-route {connections}
mta limit max-conn-per-source {connections}
mta limit max-conn-per-connector 1
mta limit max-conn-per-relay 1
mta limit max-conn-per-domain 1
mta limit conn-delay-host 0
mta limit conn-delay-route 0
mta limit conn-delay-source 0
mta limit conn-delay-connector 0
mta limit conn-delay-relay 0
mta limit conn-delay-domain 0
mta limit reconn-delay-route 0
mta limit session-mail-max 1000000
mta limit session-transaction-delay 0
mta limit session-keepalive 60
mta limit task-hiwat 1000000
mta limit task-lowat 1000
scheduler limit max-inflight 100000
scheduler limit max-schedule 1000
scheduler limit max-evp-batch-size 1000
scheduler limit max-msg-batch-size 1000
table sinks {{ {sinks} }}
table sources {{ {sources} }}
listen on 127.0.0.1 port {port} hostname bench.test
action "relay" relay host <sinks> src <sources>
match from any for any action "relay"
"""


def listening(port):
    """The number of the socket that listens on that port of 127.0.0.1, or None."""
    found = re.search(r": 0100007F:%04X 00000000:0000 0A (?:\S+ +){5}(\d+) " % port,
                      Path("/proc/net/tcp").read_text())
    return found and found.group(1)


def duplicate(pid, number):
    """A descriptor of ours for that socket of the process, or None when it has it not."""
    for path in Path("/proc/%s/fd" % pid).iterdir():
        try:
            found = os.readlink(path)
        except FileNotFoundError:
            continue
        if found == "socket:[%s]" % number:
            process = os.pidfd_open(int(pid))
            got = ctypes.CDLL(None, use_errno=True).syscall(SYS_PIDFD_GETFD, process,
                                                            int(path.name), 0)
            os.close(process)
            if got < 0:
                raise OSError(ctypes.get_errno(), "pidfd_getfd")
            return got
    return None


class Opensmtpd:
    title, durable, queue_runs = "OpenSMTPD (does not flush)", False, True

    @classmethod
    def prepare(cls):
        cls.prefix = Prefix("opensmtpd", ("opensmtpd", "libevent-2.1-7", "libdb5.3"),
                            ["/usr/sbin/smtpd", "/usr/sbin/smtpctl"],
                            {"opensmtpd": 1102, "opensmtpq": 1103})
        cls.version = cls.prefix.version

    def __init__(self, directory, sink_port, connections, queue_first=False):
        self.port = free_port()
        self.configure(sink_port, connections)
        self.log = open(directory / "log", "wb")
        self.group = Group("opensmtpd")
        paused = ["-P", "mta"] if queue_first else []
        self.group.start(self.prefix.command("/usr/sbin/smtpd", "-d", *paused), self.log)
        try:
            wait_for(lambda: listening(self.port), "OpenSMTPD's listener", patience=30)
            self.widen()
        except BaseException:
            self.stop()
            raise

    def configure(self, sink_port, connections):
        """A new spool, and the files of /etc; smtpctl gets the group that it insists on."""
        root, users = self.prefix.root, self.prefix.users
        self.prefix.spool("var/spool/smtpd", "root", 0o711)
        self.prefix.spool("var/lib/opensmtpd/empty")
        self.prefix.spool("var/run")
        os.chown(root / "usr/sbin/smtpctl", 0, users["opensmtpq"])
        (root / "usr/sbin/smtpctl").chmod(0o2755)
        names = ["sink%d.test" % number for number in range(connections)]
        (root / "etc/hosts").write_text("127.0.0.1 localhost bench.test\n" + "".join(
            "127.0.0.1 %s\n" % name for name in names))
        (root / "etc/smtpd.conf").write_text(CONF.format(
            port=self.port, connections=connections,
            sinks=", ".join('"smtp://%s:%d"' % (name, sink_port) for name in names),
            sources=", ".join('"127.0.1.%d"' % (1 + n) for n in range(connections))))

    def widen(self):
        """A listening socket takes another listen(), whoever calls it, and has its length."""
        number = listening(self.port)
        for pid in self.group.pids():
            got = duplicate(pid, number)
            if got is not None:
                with socket.socket(fileno=got) as listener:
                    listener.listen(BACKLOG)
                return
        raise Failed("OpenSMTPD's listener is not to be found")

    def drain(self):
        """Lets go what was queued."""
        quiet_output(self.prefix.command("/usr/sbin/smtpctl", "resume", "mta"))

    def stop(self):
        self.group.end()
        self.log.close()
