"""tasuki itself, no MTA at all, and the list of all that is measured."""

import os
import re
import subprocess
from pathlib import Path

from peer_exim import Exim
from peer_opensmtpd import Opensmtpd
from peer_postfix import Postfix
from peer_sendmail import Sendmail
from rig import BUILD, PATIENCE_S, Group, free_port, quiet_output, wait_for

CONF = """listen = 127.0.0.1:{port}
allow = private
hostname = bench.test
domain = test
state = {state}
run = {d}
{io}
[upstream main]
host = [127.0.0.1]:{sink}
connections = {connections}
{upstream}
"""


class Tasuki:
    """Defaults, and as many connections as the work allows."""

    title, durable, queue_runs = "tasuki", True, False

    @classmethod
    def prepare(cls):
        cls.version = quiet_output([BUILD / "tasukid", "--version"]).split()[-1]

    def __init__(self, directory, sink_port, connections, queue_first=False, upstream="tls = off",
                 state=None):
        self.port, self.config = free_port(), directory / "tasuki.conf"
        io = os.environ.get("TASUKI_IO", "")
        self.config.write_text(CONF.format(
            d=directory, state=state or directory / "state", port=self.port, sink=sink_port,
            connections=connections, upstream=upstream, io="io = " + io if io else ""))
        self.group = Group("tasuki")
        with open(directory / "log", "wb") as log:
            self.process = self.group.start([BUILD / "tasukid", "-c", self.config], log)
        wait_for((directory / "ctl.sock").exists, "its control socket", patience=30)

    def commits(self):
        text = quiet_output([BUILD / "tasukictl", "-c", self.config, "metrics"])
        return int(re.search(r"^tasuki_store_commits_total (\d+)", text, re.M).group(1))

    def peak_kib(self):
        """The most that was resident at once, the pages of the queue's file among it."""
        text = Path("/proc/%d/status" % self.process.pid).read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", text).group(1))

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            pass
        self.group.end()


class Nothing:
    """No MTA: the load goes straight to the sink."""

    title, durable, queue_runs, group, version = "no MTA", True, False, None, ""

    @classmethod
    def prepare(cls):
        pass

    def __init__(self, directory, sink_port, connections, queue_first=False):
        self.port = sink_port

    def stop(self):
        pass


PEERS = {"postfix": Postfix, "opensmtpd": Opensmtpd, "exim": Exim, "sendmail": Sendmail}
