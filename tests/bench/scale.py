#!/usr/bin/python3
"""A queue of a million messages beside one of a thousand: does anything get slower?

  scale.py [--large N] [--rounds R] [--messages M]

Makes both queues with bench_scale, and for each, in turn, R times: starts tasukid on it, and measures
  start      from the start of the process to the first delivery of a message that is sent at once
  page       the first page of `tasukictl queue --limit 100`
  counts     `tasukictl queue --by reason`
  taken      messages of 4 KiB a second, 20 kept sessions, while all are delivered to smtp-sink
  resident   memory at the end, anonymous and all of it
What lies there was tried once and is due in three hours. Prints medians, and the ratio large : small. Needs root, for
smtp-sink's user, and Postfix's smtp-source and smtp-sink.
"""

import argparse
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / os.environ.get("TASUKI_BUILD", "build/release")

CONFIG = """listen = 127.0.0.1:{port}
hostname = relay.example.jp
domain = example.jp
state = {directory}/queue
run = {directory}
connections-per-client = 100
log-level = warning
[upstream main]
host = [127.0.0.1]:{sink}
tls = off
connections = 20
"""


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def fill(directory, count):
    directory.mkdir(parents=True)
    subprocess.run([str(BUILD / "bench/bench_scale"), "fill", str(directory / "queue"), str(count),
                    "1024"], check=True)


class Sink:
    def __init__(self):
        self.port = free_port()
        self.process = subprocess.Popen(
            ["smtp-sink", "-u", "postfix", "-c", f"127.0.0.1:{self.port}", "1000"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True)
        wait_port(self.port)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(10)


def wait_port(port):
    end = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < end, "nobody listens"
            time.sleep(0.005)


class Daemon:
    def __init__(self, directory, sink):
        self.directory, self.port = directory, free_port()
        self.config = directory / "tasuki.conf"
        self.config.write_text(CONFIG.format(port=self.port, directory=directory, sink=sink))
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            [str(BUILD / "tasukid"), "-c", str(self.config)], stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=open(directory / "log", "ab"), start_new_session=True)

    def ctl(self, *words):
        return subprocess.run([str(BUILD / "tasukictl"), "-c", str(self.config), *words],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False).stdout

    def delivered(self):
        text = self.ctl("metrics").decode()
        found = re.search(r"recipients_delivered_total (\d+)", text)
        return int(found.group(1)) if found else 0

    def wait_delivered(self, count):
        end = time.monotonic() + 300
        while self.delivered() < count:
            assert time.monotonic() < end, "it does not leave"
            time.sleep(0.01)

    def memory_kib(self):
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return [int(re.search(name + r":\s+(\d+) kB", text).group(1))
                for name in ("RssAnon", "VmRSS")]

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0


def source(port, sessions, messages):
    subprocess.run(["smtp-source", "-d", "-s", str(sessions), "-m", str(messages), "-l", "4096", "-f",
                    "a@example.jp", "-t", "b@example.jp", f"127.0.0.1:{port}"], check=True)


def timed(call):
    began = time.monotonic()
    call()
    return time.monotonic() - began


def measure(directory, sink, messages):
    daemon = Daemon(directory, sink)
    try:
        wait_port(daemon.port)
        source(daemon.port, 1, 1)
        daemon.wait_delivered(1)
        result = {"start s": time.monotonic() - daemon.began}
        source(daemon.port, 20, 500)
        daemon.wait_delivered(501)
        result["page ms"] = 1000 * statistics.median(
            timed(lambda: daemon.ctl("queue", "--limit", "100")) for _ in range(5))
        result["counts ms"] = 1000 * timed(lambda: daemon.ctl("queue", "--by", "reason"))
        result["taken /s"] = messages / timed(lambda: source(daemon.port, 20, messages))
        daemon.wait_delivered(501 + messages)
        result["anonymous MiB"], result["resident MiB"] = (k / 1024 for k in daemon.memory_kib())
        return result
    finally:
        daemon.stop()


def main():
    args = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    args.add_argument("--large", type=int, default=1000000)
    args.add_argument("--small", type=int, default=1000)
    args.add_argument("--rounds", type=int, default=3)
    args.add_argument("--messages", type=int, default=5000)
    given = args.parse_args()
    base = Path(tempfile.mkdtemp(prefix="tscale-", dir=os.environ.get("TMPDIR", "/tmp")))
    sizes = {"small": given.small, "large": given.large}
    sink = Sink()
    try:
        for name, count in sizes.items():
            print(f"{name}: {count} messages: {timed(lambda: fill(base / name, count)):.1f} s")
        results = {name: [] for name in sizes}
        for _ in range(given.rounds):
            for name in sizes:
                results[name].append(measure(base / name, sink.port, given.messages))
        print(f"{'':16}{'small':>10}{'large':>10}{'ratio':>8}")
        for key in results["small"][0]:
            small, large = (statistics.median(r[key] for r in results[n]) for n in sizes)
            print(f"{key:16}{small:10.2f}{large:10.2f}{large / small:8.2f}")
    finally:
        sink.stop()
        shutil.rmtree(base)


if __name__ == "__main__":
    main()
