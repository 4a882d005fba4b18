#!/usr/bin/python3
"""tasuki beside what a user would pick instead, and beside no MTA at all.

  bench.py               the tables, and build/bench/results.json
  bench.py --profile     where tasukid spends its time under S1k: build/bench/profile.txt (perf)
  bench.py --flushes     how often each product flushes for a message, by strace

From the environment: WORKS (S1,S1k,S2,S2k,S3,S4,S5,S6), PEERS (postfix,opensmtpd,exim,sendmail),
ROUNDS (5), MESSAGES (5000), QUEUED (1000000, of S6), TASUKI_BUILD, TASUKI_IO.

Products take turns within each round, a different one first each time; the figures are medians
over the rounds. The peers are Debian's: Postfix as it is installed, the others in root directories
of their own (prefix.py). A peer that cannot be had is named and left out. It needs root.
"""

import argparse
import datetime
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import report
from products import PEERS, Nothing, Tasuki
from rig import BYTES, OUT, SESSIONS, Failed, Missing, SmtpSink, answers, fresh, send, wait_for
from works import ALL, MESSAGES, WORKS, forget_large_queue, measure

ROUNDS = int(os.environ.get("ROUNDS", "5"))


def chosen(variable, known):
    """The words of the variable, all by default."""
    words = [word for word in re.split(r"[,\s]+", os.environ.get(variable, "")) if word]
    for word in words:
        if word not in known:
            raise SystemExit("%s: %s is none of %s" % (variable, word, " ".join(known)))
    return words or list(known)


def prepare():
    """The products that are there, with their versions said."""
    kinds = {"tasuki": Tasuki}
    for name in chosen("PEERS", PEERS):
        try:
            PEERS[name].prepare()
            kinds[name] = PEERS[name]
        except (Missing, OSError, subprocess.SubprocessError) as error:
            print("left out: %s: %s" % (PEERS[name].title, error), file=sys.stderr)
    Tasuki.prepare()
    kinds["none"] = Nothing
    return kinds


def bench(kinds, words):
    """work -> product -> runs. A peer that fails is named, and has a run less."""
    results = {}
    for round_number in range(ROUNDS):
        for word in words:
            there = [(name, kind) for name, kind in WORKS[word][2].items()
                     if kind in kinds.values()]
            runs = results.setdefault(word, {name: [] for name, _ in there})
            turn = round_number % len(there)
            for name, kind in there[turn:] + there[:turn]:
                try:
                    runs[name].append(measure(word, name, kind))
                except Failed as error:
                    print("%s, %s failed: %s" % (word, name, error), file=sys.stderr)
        print("round %d of %d" % (round_number + 1, ROUNDS), file=sys.stderr)
    return results


def show(results, kinds, began):
    middle = report.middles(results)
    print("%s, %d cores, medians of %d rounds, %.0f minutes; %s\n" % (
        datetime.date.today().isoformat(), os.cpu_count(), ROUNDS, (time.monotonic() - began) / 60,
        ", ".join("%s %s" % (kind.title, kind.version) for kind in kinds.values()
                  if kind.version)))
    for word in results:
        print("- %s: %s" % (word, WORKS[word][0]))
    print("\n%s\n\n%s" % (report.table(middle, ALL), report.target_table(middle, ALL)))


def run():
    began, kinds, words = time.monotonic(), prepare(), chosen("WORKS", WORKS)
    load = os.getloadavg()[0]
    if load > 0.7:
        print("note: something else loads this machine (%.1f); look at the ratios" % load)
    try:
        results = bench(kinds, words)
    finally:
        forget_large_queue()
    (OUT / "results.json").write_text(json.dumps(
        {"date": datetime.date.today().isoformat(), "cores": os.cpu_count(), "load": load,
         "rounds": ROUNDS, "messages": MESSAGES, "message_bytes": BYTES, "sessions": SESSIONS,
         "versions": {name: kind.version for name, kind in kinds.items()},
         "results": results}, indent=1) + "\n")
    show(results, kinds, began)
    failed = [word for word, products in results.items()
              if any(name.startswith("tasuki") and len(runs) < ROUNDS
                     for name, runs in products.items())]
    if failed:
        raise SystemExit("tasuki failed in " + ", ".join(failed))


# ---- looking closer ----


class Watched:
    """One product with a sink, for as long as the block lasts."""

    def __init__(self, kind):
        self.kind = kind

    def __enter__(self):
        self.directory = fresh(OUT / "work")
        self.sink = SmtpSink(self.directory)
        try:
            self.product = self.kind(self.directory, self.sink.port, SESSIONS)
        except BaseException:
            self.sink.stop()
            raise
        return self

    def relay(self, count, kept, sessions=SESSIONS):
        before = self.sink.count()
        send(self.product.port, count, kept, sessions=sessions)
        wait_for(lambda: self.sink.count() - before >= count, "the last message")

    def __exit__(self, *_):
        self.product.stop()
        self.sink.stop()
        shutil.rmtree(self.directory, ignore_errors=True)


def flushes():
    """fsync and its like, for each of 20 messages from one session; writes through O_DSYNC
    (half of tasuki's) are not seen by that."""
    count = 20
    for name, kind in prepare().items():
        if kind is Nothing:
            continue
        with Watched(kind) as at:
            wait_for(lambda: answers(at.product.port), name)
            at.relay(count, True, 1)
            trace = at.directory / "trace"
            tracer = subprocess.Popen(
                ["strace", "-f", "-q", "-e", "trace=fsync,fdatasync,sync_file_range,syncfs,msync",
                 "-o", str(trace), *sum((["-p", pid] for pid in at.product.group.pids()), [])],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            wait_for(trace.exists, "strace")
            time.sleep(1)
            at.relay(count, True, 1)
            tracer.send_signal(signal.SIGTERM)
            tracer.wait()
            calls = re.findall(r"^\d+ +(f\w+|sync\w+|msync)\(", trace.read_text(), re.M)
            print("%-28s %.1f a message (%s)" % (kind.title, len(calls) / count,
                                                 ", ".join(sorted(set(calls))) or "none"))


def profile():
    """perf on tasukid while S1k runs, tenfold; by symbol, and by who called."""
    with Watched(Tasuki) as at:
        data = str(at.directory / "perf.data")
        wait_for(lambda: answers(at.product.port), "tasukid")
        recorder = subprocess.Popen(["perf", "record", "-q", "-e", "cpu-clock", "-F", "997", "-g",
                                     "-p", str(at.product.process.pid), "-o", data])
        at.relay(10 * MESSAGES, True)
        recorder.send_signal(signal.SIGINT)
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


def main():
    args = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    args.add_argument("--profile", action="store_true")
    args.add_argument("--flushes", action="store_true")
    given = args.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("bench: root is needed, for the peers' sake")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    OUT.mkdir(parents=True, exist_ok=True)
    if given.profile:
        profile()
    elif given.flushes:
        flushes()
    else:
        run()


if __name__ == "__main__":
    main()
