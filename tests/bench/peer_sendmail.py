"""Sendmail at its best durable settings for this work.

No canonification, no DNS, no ident, no limits by load or number, no host status on the disk,
connections cached. SuperSafe stays true: queue files are flushed (fsync) before 250.
Mail is queued (which is as durable), and as many persistent queue runners as there may be
connections take it away: that passed on 52 messages a second with connections kept and 15 without,
delivery in the background by a process for each 13 and 9 (200 messages, a busy machine). Where
only taking counts there are no runners; where the line counts they start when all is queued.
It has no log here: it knows only syslog.
"""

from prefix import Prefix
from rig import Group, free_port, quiet_output

MC = """include(`/usr/share/sendmail/cf/m4/cf.m4')dnl
OSTYPE(`debian')dnl
undefine(`confHOST_STATUS_DIRECTORY')dnl
define(`confDOMAIN_NAME', `bench.test')dnl
define(`confDELIVERY_MODE', `queueonly')dnl
define(`confSUPER_SAFE', `True')dnl
define(`confTO_IDENT', `0')dnl
define(`confQUEUE_LA', `10000')dnl
define(`confREFUSE_LA', `10000')dnl
define(`confDELAY_LA', `0')dnl
define(`confMAX_DAEMON_CHILDREN', `0')dnl
define(`confMAX_QUEUE_CHILDREN', `0')dnl
define(`confMAX_RUNNERS_PER_QUEUE', `{runners}')dnl
define(`confMIN_QUEUE_AGE', `0')dnl
define(`confMCI_CACHE_SIZE', `4')dnl
define(`confMCI_CACHE_TIMEOUT', `30s')dnl
define(`confLOG_LEVEL', `0')dnl
define(`confPRIVACY_FLAGS', `')dnl
define(`confSERVICE_SWITCH_FILE', `/etc/mail/service.switch')dnl
define(`confDONT_EXPAND_CNAMES', `True')dnl
define(`confTLS_SRV_OPTIONS', `V')dnl
define(`confBAD_RCPT_THROTTLE', `0')dnl
define(`STATUS_FILE', `')dnl
define(`SMART_HOST', `[sink.test]')dnl
define(`RELAY_MAILER_ARGS', `TCP $h {sink}')dnl
FEATURE(`no_default_msa')dnl
FEATURE(`nocanonify')dnl
FEATURE(`accept_unresolvable_domains')dnl
FEATURE(`accept_unqualified_senders')dnl
FEATURE(`promiscuous_relay')dnl
DAEMON_OPTIONS(`Name=MTA, Family=inet, Addr=127.0.0.1, Port={port}, Listen=1000')dnl
MAILER(`smtp')dnl
"""

PACKAGES = ("sendmail-bin", "sendmail-base", "sendmail-cf", "m4", "libldap-2.5-0", "liblockfile1",
            "libnsl2", "libwrap0", "libdb5.3", "libsasl2-2")
SENDMAIL = "/usr/libexec/sendmail/sendmail"


class Sendmail:
    title, durable, queue_runs = "Sendmail", True, True

    @classmethod
    def prepare(cls):
        cls.prefix = Prefix("sendmail", PACKAGES, [SENDMAIL, "/usr/bin/m4"],
                            {"smmta": 1104, "smmsp": 1105})
        cls.version = cls.prefix.version

    def __init__(self, directory, sink_port, connections, queue_first=False):
        self.port, self.connections = free_port(), connections
        root = self.prefix.root
        self.prefix.spool("var/spool/mqueue", "root", 0o700)
        self.prefix.spool("run/sendmail/mta")
        (root / "etc/mail/service.switch").write_text("hosts files\naliases files\n")
        (root / "etc/mail/local-host-names").write_text("")
        (root / "etc/mail/trusted-users").write_text("")
        (root / "etc/mail/relay-domains").write_text("")
        (root / "etc/mail/sendmail.mc").write_text(MC.format(
            port=self.port, sink=sink_port, runners=connections))
        (root / "etc/mail/sendmail.cf").write_text(quiet_output(self.prefix.command(
            "m4", "-I/usr/share/sendmail/cf/", "/etc/mail/sendmail.mc")))
        self.log = open(directory / "log", "wb")
        self.group = Group("sendmail")
        self.group.start(self.prefix.command(SENDMAIL, "-bD"), self.log)
        if not queue_first:
            self.run_queue("-qp1s")

    def run_queue(self, how):
        for _ in range(self.connections):
            self.group.start(self.prefix.command(SENDMAIL, how), self.log)

    def drain(self):
        self.run_queue("-q")

    def stop(self):
        self.group.end()
        self.log.close()
