"""What all works share: directories, ports, processes in a control group of their own, load, sinks.

The processor time of a product is that of its control group (version 2), so nothing is lost
whoever forks, daemonizes or does not wait. The groups are the benchmark's own and are removed.
"""

import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / os.environ.get("TASUKI_BUILD", "build/release")
OUT = ROOT / "build/bench"
PATIENCE_S = 120
BYTES = 4096
SESSIONS = 20


class Missing(Exception):
    """A peer cannot be had here: it is named and left out."""


class Failed(Exception):
    """A product did not do what was asked of it within PATIENCE_S."""


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as holder:
        return holder.getsockname()[1]


def wait_for(predicate, what, pause=0.005, patience=PATIENCE_S):
    end = time.monotonic() + patience
    while not predicate():
        if time.monotonic() > end:
            raise Failed("waited in vain for " + what)
        time.sleep(pause)


def answers(port):
    try:
        with socket.create_connection(("127.0.0.1", port), 5) as peer:
            return peer.recv(1) != b""
    except OSError:
        return False


def fresh(directory):
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    directory.chmod(0o755)
    return directory


def quiet_output(command):
    """What a helper prints; its own words when it fails."""
    done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=PATIENCE_S)
    if done.returncode != 0:
        raise Failed("%s: %s" % (command[0], done.stderr[-500:]))
    return done.stdout


# ---- processes ----


def cgroup_root():
    """Where control groups of version 2 are mounted, or None."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(where)
    return None


class Group:
    """All processes of one product: how much they use, and their end."""

    def __init__(self, name):
        root = cgroup_root()
        if root is None:
            raise SystemExit("bench: no control groups of version 2, to count processor time")
        self.path = root / ("tasuki-bench-%d-%s" % (os.getpid(), name))
        self.path.mkdir()

    def enter(self):
        """In the child, before exec."""
        (self.path / "cgroup.procs").write_text("0")

    def start(self, command, log, **more):
        return subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL,
                                stdout=log, stderr=log, preexec_fn=self.enter,
                                start_new_session=True, **more)

    def run(self, command, log, **more):
        """Waits for a program that starts others and ends; without it there is no product."""
        process = self.start(command, log, **more)
        try:
            code = process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            code = -1
        if code != 0:
            self.end()
            raise Failed("%s: exit status %d" % (" ".join(map(str, command)), code))

    def pids(self):
        return (self.path / "cgroup.procs").read_text().split()

    def cpu_s(self):
        found = re.search(r"usage_usec (\d+)", (self.path / "cpu.stat").read_text())
        return int(found.group(1)) / 1e6

    def memory_kib(self):
        """What is each process's own (anonymous); and all, shared pages counted once (PSS)."""
        own = whole = 0
        for pid in self.pids():
            try:
                text = Path("/proc/%s/smaps_rollup" % pid).read_text()
            except OSError:
                continue
            field = dict(re.findall(r"(\w+):\s+(\d+) kB", text))
            own += int(field.get("Anonymous", 0))
            whole += int(field.get("Pss", 0))
        return own, whole

    def end(self):
        """Kills what is left, waits until it is gone, removes the group."""
        (self.path / "cgroup.kill").write_text("1")
        wait_for(lambda: "populated 0" in (self.path / "cgroup.events").read_text(),
                 "the end of " + self.path.name)
        self.path.rmdir()


# ---- load and sinks ----


def send(port, count, kept, bytes=BYTES, sessions=SESSIONS):
    """smtp-source: count messages to the port, over that many sessions at once."""
    command = ["smtp-source", *(["-d"] if kept else []), "-s", str(min(sessions, count)), "-m",
               str(count), "-l", str(bytes), "-f", "scanner@example.test", "-t",
               "anna@example.test", "127.0.0.1:%d" % port]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, timeout=2 * PATIENCE_S,
                          capture_output=True, text=True)
    if done.returncode != 0 or done.stderr:
        raise Failed("smtp-source: " + (done.stderr or "exit %d" % done.returncode)[:500])


class SmtpSink:
    """Postfix's smtp-sink; its own running count says how many messages have left."""

    def __init__(self, directory):
        self.port = free_port()
        self.path = directory / "sink.count"
        with open(self.path, "wb") as out:
            self.process = subprocess.Popen(
                ["smtp-sink", "-u", "postfix", "-c", "127.0.0.1:%d" % self.port, "1000"],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        wait_for(lambda: answers(self.port), "smtp-sink")

    def count(self):
        with open(self.path, "rb") as out:
            out.seek(0, os.SEEK_END)
            out.seek(max(0, out.tell() - 300))
            found = re.findall(rb"mesg=(\d+)", out.read())
        return int(found[-1]) if found else 0

    def stop(self):
        self.process.terminate()
        self.process.wait()


class WideSink:
    """bench/sink.c, which announces PIPELINING and CHUNKING, behind a line of 50 ms (delay.c)."""

    def __init__(self, directory, one_way_ms):
        self.inner, self.port = free_port(), free_port()
        self.path = directory / "wide.count"
        self.path.write_bytes(bytes(8))
        self.processes = [subprocess.Popen(
            [str(BUILD / "bench" / command[0]), *map(str, command[1:])], stdin=subprocess.DEVNULL)
            for command in (("sink", self.inner, self.path),
                            ("delay", self.port, self.inner, one_way_ms))]
        wait_for(lambda: answers(self.port), "the sink behind the line")

    def count(self):
        return int.from_bytes(self.path.read_bytes(), "little")

    def stop(self):
        for process in self.processes:
            process.terminate()
            process.wait()
