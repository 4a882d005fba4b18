#!/usr/bin/python3
"""tasuki beside Postfix and beside no MTA at all: smtp-source -> product -> smtp-sink.

  bench.py               the table, and build/bench/results.json
  bench.py --profile     where tasukid spends its time under S1k: build/bench/profile.txt (perf)

Scenarios, each with 4 KiB messages from 20 sessions at once:
  S1   a new connection for every message
  S1k  connections kept (smtp-source -d)
  S2   as S1k, with the upstream down: mail is only taken

Products take turns within each round, each time with a queue of its own that is new and on the same
disk, after a warm-up. What is shown are medians over the rounds. Both may open 20 connections to
the sink, both log each message to a file, and both answer 250 only when the message is on the disk.

From the environment: ROUNDS (5), MESSAGES (5000), TASUKI_BUILD, TASUKI_IO. It needs root, since
Postfix does.
"""

import argparse
import datetime
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / os.environ.get("TASUKI_BUILD", "build/release")
OUT = ROOT / "build/bench"
ROUNDS = int(os.environ.get("ROUNDS", "5"))
MESSAGES = int(os.environ.get("MESSAGES", "5000"))
SESSIONS = 20
BYTES = 4096
WARM_UP = 200
PATIENCE_S = 120
TICKS = os.sysconf("SC_CLK_TCK")

SCENARIOS = {"S1": {"kept": False, "upstream": True}, "S1k": {"kept": True, "upstream": True},
             "S2": {"kept": True, "upstream": False}}

TASUKI_CONF = """listen = 127.0.0.1:{port}
allow = private
hostname = bench.test
domain = test
state = {d}/state
run = {d}
{io}
[upstream main]
host = [127.0.0.1]:{sink}
tls = off
connections = {sessions}
"""

# Postfix at its best for this: nothing is looked up, counted, delayed or filtered; as many
# deliveries as the sink gets sessions; connections to the sink are kept. fsync stays, as it is.
MAIN_CF = """compatibility_level = 3.6
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
relayhost = [127.0.0.1]:{sink}
disable_dns_lookups = yes
smtp_host_lookup = native
smtpd_peername_lookup = no
smtpd_client_event_limit_exceptions = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_recipient_restrictions = permit_mynetworks, reject
content_filter =
receive_override_options = no_address_mappings
in_flow_delay = 0
default_process_limit = 200
qmgr_message_active_limit = 40000
default_destination_concurrency_limit = {sessions}
initial_destination_concurrency = {sessions}
smtp_connection_cache_destinations = [127.0.0.1]:{sink}
smtp_connection_cache_time_limit = 10s
smtp_tls_security_level = none
smtpd_tls_security_level = none
smtpd_sasl_auth_enable = no
"""

MASTER_CF = """127.0.0.1:{port} inet n - n - - smtpd
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


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as holder:
        return holder.getsockname()[1]


def wait_for(predicate, what, pause=0.005):
    end = time.monotonic() + PATIENCE_S
    while not predicate():
        if time.monotonic() > end:
            raise SystemExit("waited in vain for " + what)
        time.sleep(pause)


def answers(port):
    try:
        with socket.create_connection(("127.0.0.1", port), 5) as peer:
            return peer.recv(1) != b""
    except OSError:
        return False


def stat_of(pid):
    """The fields of /proc/PID/stat from the third on, or None when it is gone."""
    try:
        text = Path("/proc/%s/stat" % pid).read_text()
    except OSError:
        return None
    return text[text.rindex(")") + 2:].split()


def cpu_s(pids):
    """User and system time, with that of children that were waited for."""
    return sum(sum(map(int, stat[11:15])) for stat in map(stat_of, pids) if stat) / TICKS


def private_kib(pids):
    """Memory that is each process's own (anonymous), summed."""
    total = 0
    for pid in pids:
        try:
            status = Path("/proc/%s/status" % pid).read_text()
        except OSError:
            continue
        total += int(re.search(r"RssAnon:\s+(\d+)", status).group(1))
    return total


# ---- what is measured ----


class Sink:
    """smtp-sink; its own running count says how many messages have left."""

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


class Nothing:
    """No MTA: the source talks to the sink."""

    def __init__(self, directory, sink_port):
        self.port = sink_port

    def pids(self):
        return []

    def stop(self):
        pass


class Tasuki:
    def __init__(self, directory, sink_port):
        self.port = free_port()
        io = os.environ.get("TASUKI_IO", "")
        (directory / "tasuki.conf").write_text(TASUKI_CONF.format(
            d=directory, port=self.port, sink=sink_port, sessions=SESSIONS,
            io="io = " + io if io else ""))
        with open(directory / "log", "wb") as log:
            self.process = subprocess.Popen(
                [str(BUILD / "tasukid"), "-c", str(directory / "tasuki.conf")],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def pids(self):
        return [self.process.pid]

    def stop(self):
        self.process.terminate()
        self.process.wait(PATIENCE_S)


class Postfix:
    def __init__(self, directory, sink_port):
        self.port = free_port()
        self.config = directory / "config"
        for name in ("config", "queue", "data", "log"):
            (directory / name).mkdir()
        shutil.chown(directory / "data", "postfix")
        (self.config / "main.cf").write_text(MAIN_CF.format(
            d=directory, sink=sink_port, sessions=SESSIONS))
        (self.config / "master.cf").write_text(MASTER_CF.format(port=self.port))
        self.command("start")
        self.master = int((directory / "queue/pid/master.pid").read_text())

    def command(self, word):
        subprocess.run(["postfix", "-c", str(self.config), word], check=True, timeout=PATIENCE_S,
                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)

    def pids(self):
        """Postfix's master and its children, which are all there is."""
        master = str(self.master)
        children = [pid for pid in filter(str.isdigit, os.listdir("/proc"))
                    if (stat_of(pid) or ["", ""])[1] == master]
        return [master] + children

    def stop(self):
        self.command("stop")


PRODUCTS = {"tasuki": Tasuki, "postfix": Postfix, "none": Nothing}


# ---- one measurement ----


def send(port, count, kept):
    command = ["smtp-source", "-s", str(SESSIONS), "-m", str(count), "-l", str(BYTES),
               "-f", "scanner@example.test", "-t", "anna@example.test", "127.0.0.1:%d" % port]
    subprocess.run(command[:1] + (["-d"] if kept else []) + command[1:], check=True,
                   stdin=subprocess.DEVNULL, timeout=PATIENCE_S)


def measure(name, kept, upstream):
    """One run: rates, CPU seconds and memory."""
    directory = OUT / "work"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    sink = Sink(directory) if upstream or name == "none" else None
    product = PRODUCTS[name](directory, sink.port if sink else free_port())
    try:
        wait_for(lambda: answers(product.port), name)
        before = sink.count() if sink else 0
        send(product.port, WARM_UP, kept)
        if sink:
            wait_for(lambda: sink.count() - before >= WARM_UP, "the warm-up of " + name)
        time.sleep(0.3)
        return timed(product, sink, kept)
    finally:
        product.stop()
        if sink:
            sink.stop()
        shutil.rmtree(directory, ignore_errors=True)


def timed(product, sink, kept):
    before = sink.count() if sink else 0
    cpu_before, began = cpu_s(product.pids()), time.monotonic()
    send(product.port, MESSAGES, kept)
    result = {"accept_per_s": MESSAGES / (time.monotonic() - began)}
    result["private_kib"] = private_kib(product.pids())
    if sink:
        wait_for(lambda: sink.count() - before >= MESSAGES, "the last message")
        result["through_per_s"] = MESSAGES / (time.monotonic() - began)
    time.sleep(0.3)
    result["cpu_ms_per_message"] = 1000 * (cpu_s(product.pids()) - cpu_before) / MESSAGES
    return result


def warn_noise():
    load = os.getloadavg()[0]
    if load > 0.7:
        print("note: something else loads this machine (%.1f); look at the ratios" % load)


def bench():
    results = {scenario: {name: [] for name in PRODUCTS} for scenario in SCENARIOS}
    for round_number in range(ROUNDS):
        for scenario, how in SCENARIOS.items():
            for name in PRODUCTS:
                if name == "none" and scenario == "S2":
                    continue
                results[scenario][name].append(measure(name, **how))
        print("round %d of %d" % (round_number + 1, ROUNDS), file=sys.stderr)
    return results


# ---- what is shown ----

COLUMNS = (("accept_per_s", "taken/s", "%.0f"), ("through_per_s", "through/s", "%.0f"),
           ("cpu_ms_per_message", "CPU ms each", "%.3f"), ("private_kib", "memory MiB", "%.1f"))


def medians(runs):
    names = runs[0].keys() if runs else ()
    middle = {name: statistics.median(run[name] for run in runs) for name in names}
    if "private_kib" in middle:
        middle["private_kib"] /= 1024
    return middle


def table(results):
    lines = ["| | | " + " | ".join(title for _, title, _ in COLUMNS) + " |",
             "|---|---|" + "---:|" * len(COLUMNS)]
    for scenario, products in results.items():
        middles = {name: medians(runs) for name, runs in products.items() if runs}
        for name, middle in middles.items():
            own = name == "none"
            cells = [form % middle[key] if key in middle and not (own and key[0] in "cp") else ""
                     for key, _, form in COLUMNS]
            lines.append("| %s | %s | %s |" % (scenario, name, " | ".join(cells)))
        ours, theirs = middles["tasuki"], middles["postfix"]
        cells = ["%.2f" % (ours[key] / theirs[key]) if theirs.get(key) else ""
                 for key, _, _ in COLUMNS]
        lines.append("| %s | tasuki : postfix | %s |" % (scenario, " | ".join(cells)))
    return "\n".join(lines)


def profile():
    """perf on tasukid while S1k runs, tenfold; by symbol, and by who called."""
    directory = OUT / "work"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    sink = Sink(directory)
    product = Tasuki(directory, sink.port)
    data = str(directory / "perf.data")
    try:
        wait_for(lambda: answers(product.port), "tasukid")
        recorder = subprocess.Popen(["perf", "record", "-q", "-e", "cpu-clock", "-F", "997", "-g",
                                     "-p", str(product.process.pid), "-o", data])
        send(product.port, 10 * MESSAGES, True)
        wait_for(lambda: sink.count() >= 10 * MESSAGES, "the last message")
        recorder.send_signal(2)
        recorder.wait()
        text = ""
        for how in (["--no-children", "--sort", "dso"], ["--no-children", "--sort", "dso,symbol"],
                    ["--children", "--sort", "symbol"]):
            done = subprocess.run(["perf", "report", "-i", data, "--stdio", "-g", "none",
                                   "--percent-limit", "0.8", *how], capture_output=True, text=True)
            text += "\n".join(line for line in done.stdout.splitlines()
                              if line.strip() and not line.startswith("#")) + "\n\n"
        (OUT / "profile.txt").write_text(text)
        print(text)
    finally:
        product.stop()
        sink.stop()
        shutil.rmtree(directory, ignore_errors=True)


def main():
    args = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    args.add_argument("--profile", action="store_true")
    OUT.mkdir(parents=True, exist_ok=True)
    if args.parse_args().profile:
        profile()
        return
    warn_noise()
    results = bench()
    (OUT / "results.json").write_text(json.dumps(
        {"date": datetime.date.today().isoformat(), "cores": os.cpu_count(), "rounds": ROUNDS,
         "messages": MESSAGES, "message_bytes": BYTES, "sessions": SESSIONS,
         "results": results}, indent=1) + "\n")
    print("%s, %d cores, medians of %d rounds, %d messages of %d bytes, %d sessions" % (
        datetime.date.today().isoformat(), os.cpu_count(), ROUNDS, MESSAGES, BYTES, SESSIONS))
    print(table(results))


if __name__ == "__main__":
    main()
