"""The works: what is measured of each product, one run at a time.

A run has a new spool (but S6's large queue), is warmed up, and returns a dictionary: rates, CPU
milliseconds a message, memory. tasuki and no MTA get all the messages of the work, a peer as many
as it takes in about AIM_S seconds by the rate of the warm-up, so that the whole ends in time; that
spares it a long queue. `messages` says how many. Before each run all that is to be written is
written (sync), so that nobody pays for what another left behind.
"""

import os
import shutil
import subprocess
import time

from peer_postfix import PASSWORD, USER, UpstreamPostfix
from products import PEERS, Nothing, Tasuki
from rig import (BUILD, BYTES, OUT, PATIENCE_S, SESSIONS, Failed, SmtpSink, WideSink, answers,
                 free_port, fresh, quiet_output, send, wait_for)

MESSAGES = int(os.environ.get("MESSAGES", "5000"))
QUEUED = int(os.environ.get("QUEUED", "1000000"))
WARM_UP = 100
AIM_S = 2.5
SETTLE_S = 0.3
LINE_SESSIONS = 4
ONE_WAY_MS = 25


class Run:
    """One product, its sink, and what is measured of them."""

    def __init__(self, product, sink):
        self.product, self.sink = product, sink
        self.result = {}

    def sent_off(self, count):
        """Waits until count more messages than at the last call of begin() have left."""
        wait_for(lambda: self.sink.count() - self.before >= count,
                 "the last message of " + self.product.title)

    def begin(self):
        self.before = self.sink.count() if self.sink else 0
        group = self.product.group
        self.cpu_before = group.cpu_s() if group else 0
        self.commits_before = self.product.commits() if isinstance(self.product, Tasuki) else 0
        self.began = time.monotonic()

    def elapsed(self):
        return time.monotonic() - self.began

    def memory(self):
        if self.product.group:
            own, whole = self.product.group.memory_kib()
            self.result.update(own_mib=own / 1024, resident_mib=whole / 1024)
        if isinstance(self.product, Tasuki):
            self.result["peak_mib"] = self.product.peak_kib() / 1024

    def end(self, count):
        time.sleep(SETTLE_S)
        self.result["messages"] = count
        if self.product.group:
            used = self.product.group.cpu_s() - self.cpu_before
            self.result["cpu_ms"] = 1000 * used / count
        if isinstance(self.product, Tasuki):
            # A commit is two flushes: LMDB's fdatasync of the pages, and the write of the meta
            # page through a descriptor that was opened with O_DSYNC.
            self.result["flushes"] = 2 * (self.product.commits() - self.commits_before) / count
        return self.result


def one_run(name, make_product, measure, sink_of=SmtpSink):
    """Makes sink and product, measures, and ends them whatever comes."""
    directory = fresh(OUT / "work")
    os.sync()
    sink = sink_of(directory) if sink_of else None
    product = None
    try:
        product = make_product(directory, sink.port if sink else free_port())
        wait_for(lambda: answers(product.port), name, patience=30)
        return measure(Run(product, sink))
    finally:
        if product:
            product.stop()
        if sink:
            sink.stop()
        shutil.rmtree(directory, ignore_errors=True)


def plain(kind, only_taken):
    """Where mail is only taken, a product that has queue runs does nothing but queue it."""
    return lambda directory, sink_port: kind(directory, sink_port, SESSIONS,
                                             queue_first=only_taken and kind.queue_runs)


# ---- S1, S1k, S2, S3: through the product, or only into it ----


def through(run, count, kept, bytes, sessions, warm_up, least):
    run.begin()
    send(run.product.port, warm_up, kept, bytes, sessions)
    if run.sink:
        run.sent_off(warm_up)
    if type(run.product) in PEERS.values():
        count = min(count, max(least, int(AIM_S * warm_up / run.elapsed())))
    time.sleep(SETTLE_S)
    run.begin()
    send(run.product.port, count, kept, bytes, sessions)
    run.result["taken"] = count / run.elapsed()
    run.memory()
    if run.sink:
        run.sent_off(count)
        run.result["through"] = count / run.elapsed()
    return run.end(count)


def relay(kept, upstream=True, count=MESSAGES, bytes=BYTES, sessions=SESSIONS, warm_up=WARM_UP,
          least=WARM_UP):
    def work(name, kind):
        return one_run(name, plain(kind, not upstream), lambda run: through(
            run, count, kept, bytes, sessions, min(warm_up, count), min(least, count)),
            SmtpSink if upstream else None)
    return work


# ---- S4: a line with a round trip of 50 ms ----


def drained(run, count, warm_up):
    """From the first message in to the last one out; where the product has queue runs, from
    their start."""
    product = run.product
    if product.queue_runs:
        send(product.port, count, True)
        run.begin()
        product.drain()
    else:
        send(product.port, warm_up, True)
        run.before = 0
        run.sent_off(warm_up)
        time.sleep(SETTLE_S)
        run.begin()
        send(product.port, count, True)
    run.sent_off(count)
    run.result["through"] = count / run.elapsed()
    return run.end(count)


def line(name, kind):
    """tasuki is there twice: name says which mode."""
    mode = name.partition(" ")[2]
    upstream = "tls = off\npipeline = " + mode
    count = 2 * MESSAGES if mode == "stream" else max(20, MESSAGES // 50)

    def make(directory, sink_port):
        if kind is Tasuki:
            return Tasuki(directory, sink_port, LINE_SESSIONS, upstream=upstream)
        return kind(directory, sink_port, LINE_SESSIONS, queue_first=kind.queue_runs)
    return one_run(name, make, lambda run: drained(run, count, WARM_UP if mode == "stream" else 20),
                   lambda directory: WideSink(directory, ONE_WAY_MS))


# ---- S5: over TLS, with a login ----


class SecureSink:
    """smtp-sink behind a Postfix that wants STARTTLS and AUTH."""

    def __init__(self, directory):
        self.sink = SmtpSink(directory)
        try:
            self.upstream = UpstreamPostfix(fresh(directory / "upstream"), self.sink.port)
        except BaseException:
            self.sink.stop()
            raise
        self.port, self.count = self.upstream.port, self.sink.count
        wait_for(lambda: answers(self.port), "the upstream")

    def stop(self):
        self.upstream.stop()
        self.sink.stop()


def tls_load(port, count):
    return float(quiet_output([BUILD / "bench/tls_load", port, LINE_SESSIONS, count, BYTES, USER,
                               PASSWORD]))


def loaded(run, count):
    """The load alone, after a warm-up of its own."""
    run.begin()
    tls_load(run.product.port, WARM_UP)
    run.sent_off(WARM_UP)
    time.sleep(SETTLE_S)
    run.begin()
    run.result["through"] = tls_load(run.product.port, count)
    run.sent_off(count)
    return run.end(count)


def secure(name, kind):
    count = max(20, MESSAGES * 3 // 5)

    def make(directory, sink_port):
        if kind is Nothing:
            return Nothing(directory, sink_port, LINE_SESSIONS)
        secret = directory / "secret"
        secret.touch(mode=0o600)
        secret.write_text(PASSWORD + "\n")
        return Tasuki(directory, sink_port, LINE_SESSIONS, upstream=(
            "tls = encrypt\nauth = plain\nuser = %s\npassword-file = %s" % (USER, secret)))

    def measure(run):
        if kind is Nothing:
            return loaded(run, count)
        return through(run, count, True, BYTES, SESSIONS, WARM_UP, count)
    return one_run(name, make, measure, SecureSink)


# ---- S6: beside a long queue ----


def large_queue():
    """A queue of QUEUED messages that lie there for three hours. Made once for each benchmark."""
    directory = OUT / "large"
    if not directory.exists():
        directory.mkdir(parents=True)
        subprocess.run([str(BUILD / "bench/bench_scale"), "fill", str(directory / "queue"),
                        str(QUEUED), "1024"], check=True, timeout=8 * PATIENCE_S,
                       stdout=subprocess.DEVNULL)
    return directory / "queue"


def forget_large_queue():
    shutil.rmtree(OUT / "large", ignore_errors=True)


def beside(name, kind):
    state = large_queue() if name.endswith("queued") else None
    return one_run(name, lambda directory, sink_port: Tasuki(
        directory, sink_port, SESSIONS, state=state), lambda run: through(
            run, MESSAGES, True, BYTES, SESSIONS, WARM_UP, MESSAGES))


# ---- the list ----

ALL = {"tasuki": Tasuki, **PEERS, "none": Nothing}
NO_SINK = {name: kind for name, kind in ALL.items() if name != "none"}
LINE = {"tasuki safe": Tasuki, "tasuki stream": Tasuki, **PEERS}
SIZE = {"tasuki, empty queue": Tasuki, "tasuki, {:,} queued".format(QUEUED): Tasuki}

# word: (what it is, what does it, the products)
WORKS = {
    "S1": ("relay, a new connection for each message", relay(False), ALL),
    "S1k": ("relay, connections kept", relay(True), ALL),
    "S2": ("only taken, upstream down, a new connection for each", relay(False, False), NO_SINK),
    "S2k": ("only taken, upstream down, connections kept", relay(True, False), NO_SINK),
    "S3": ("relay of 10 MiB, 4 sessions", relay(True, count=max(4, MESSAGES // 50),
                                                bytes=10 << 20, sessions=4, warm_up=8, least=12),
           ALL),
    "S4": ("a round trip of 50 ms, 4 connections", line, LINE),
    "S5": ("STARTTLS and AUTH, 4 connections", secure, {"tasuki": Tasuki, "none": Nothing}),
    "S6": ("as S1k, beside a long queue", beside, SIZE),
}


def measure(word, name, kind):
    try:
        return WORKS[word][1](name, kind)
    except (subprocess.SubprocessError, OSError) as error:
        raise Failed("%s: %s" % (type(error).__name__, error)) from error
