#!/usr/bin/python3
"""kill -9 under load, then balance the books (books.py says what must hold).

The real tasukid on a real LMDB file: clients send, an upstream takes, defers and refuses, operators
hold, release, retry and delete, and the daemon is killed at random moments, also while it starts;
about every seventh time it is stopped by SIGTERM instead, and then nothing may be sent twice.

  crash.py [--cycles N] [--seed S] [--books FILE]    a run of N kills; writes its books to FILE
  crash.py --check FILE [--fake NAME]                judges books again; --fake spoils them first,
                                                     and then the judge must complain

Exit 0 when the books balance, 1 otherwise. CRASH_CYCLES (default 50), TASUKI_BUILD and TASUKI_IO
from the environment.
"""

import argparse
import collections
import hashlib
import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from books import FAKES, balance, key_of

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / os.environ.get("TASUKI_BUILD", "build/release")
CLIENTS = 6
OPERATORS = 2
PATIENCE_S = 20
DRAIN_S = 180
TELL_EACH = 200  # cycles
BIG_BYTES = 5 << 20
BAD_WORDS = ("this is a fault of tasukid", "event=store-damaged", "event=store-failed",
             "event=delivery-trouble", "AddressSanitizer", "ThreadSanitizer", "LeakSanitizer",
             "runtime error:")
RECEIVED = re.compile(rb"Received: [^\r]*\r\n(?:[ \t][^\r]*\r\n)*")
REPORT_ID = re.compile(rb"\r\nMessage-ID: <([0-9a-z]+)@")
REPORT_ABOUT = re.compile(rb"by the number ([0-9a-z]+)\.")
REPORT_FAILED = re.compile(rb"\r\nFinal-Recipient: rfc822; ([^\r]+)\r\nAction: failed\r\n")
OUR_ID = re.compile(rb"\(tasuki\) with E?SMTP id ([0-9a-z]+)")

CONFIG = """listen = 127.0.0.1:{port}
allow = private
hostname = tasuki.test
domain = test
state = {directory}/queue
run = {directory}
report-rate = 100000
retry-min = 200ms
retry-max = 1s
queue-max = 4G
workers = 2
log-level = info
{io}
[upstream main]
host = [127.0.0.1]:{upstream}
tls = off
connections = 6
probe-min = 100ms
probe-max = 500ms
"""


def digest_of(content):
    return hashlib.sha256(content).hexdigest()


# ---- the upstream ----


class Upstream:
    """Takes mail, writes down each message just before it answers 250 for it. What a message meets
    is in its addresses: sender dotlate (451 to the first dot), dotno (554 to every dot), dotdrop
    (the first dot is answered by hanging up); recipient .late (451 twice), .no (550)."""

    def __init__(self, rng):
        self.arrivals, self.reports, self.seen = [], [], collections.Counter()
        self.lock, self.rng = threading.Lock(), rng
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            peer, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(peer,), daemon=True).start()

    def serve(self, peer):
        try:
            with peer, peer.makefile("rb", buffering=1 << 16) as lines:
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                UpstreamSession(self, peer, lines).run()
        except (OSError, EOFError):
            pass

    def times_before(self, what):
        with self.lock:
            self.seen[what] += 1
            return self.seen[what] - 1

    def pause(self):
        with self.lock:
            seconds = self.rng.choice((0, 0, 0, 0.002, 0.02))
        if seconds > 0:
            time.sleep(seconds)


class UpstreamSession:
    def __init__(self, up, peer, lines):
        self.up, self.peer, self.lines = up, peer, lines
        self.sender, self.recipients, self.began = "", [], 0.0
        self.connected = time.monotonic()

    def say(self, text):
        self.peer.sendall(text + b"\r\n")

    def run(self):
        self.say(b"220 upstream.test ESMTP")
        for line in self.lines:
            if not line.endswith(b"\r\n"):
                return
            verb = line[:4].upper()
            if verb == b"EHLO":
                self.say(b"250-upstream.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n"
                         b"250 SIZE 99999999")
            elif verb == b"MAIL":
                self.sender, self.recipients = path_of(line), []
                self.began = time.monotonic()
                self.say(b"250 2.1.0 ok")
            elif verb == b"RCPT":
                self.say(self.recipient(path_of(line)))
            elif verb == b"DATA":
                self.data()
            elif verb == b"QUIT":
                self.say(b"221 2.0.0 bye")
                return
            else:
                self.say(b"250 2.0.0 ok")

    def recipient(self, path):
        if ".no" in path:
            return b"550 5.1.1 no such user"
        if ".late" in path and self.up.times_before(path) < 2:
            return b"451 4.2.0 later"
        self.recipients.append(path)
        return b"250 2.1.5 ok"

    def data(self):
        if not self.recipients:
            self.say(b"554 5.5.1 no valid recipients")
            return
        self.say(b"354 go")
        content = self.content()
        key = key_of(self.recipients[0])
        if self.sender.startswith("dotno"):
            self.say(b"554 5.7.1 never")
            return
        if self.sender.startswith("dotlate") and self.up.times_before(key) < 1:
            self.say(b"451 4.3.0 later")
            return
        if self.sender.startswith("dotdrop") and self.up.times_before(key) < 1:
            raise EOFError
        self.up.pause()
        self.keep(key, content)
        self.say(b"250 2.0.0 taken")

    def content(self):
        parts = []
        while True:
            line = self.lines.readline()
            if not line.endswith(b"\r\n"):
                raise EOFError
            if line == b".\r\n":
                return b"".join(parts)
            parts.append(line[1:] if line.startswith(b".") else line)

    def keep_report(self, content):
        report = {"id": REPORT_ID.search(content).group(1).decode(),
                  "original": REPORT_ABOUT.search(content).group(1).decode(),
                  "recipients": [r.decode() for r in REPORT_FAILED.findall(content)],
                  "connected": self.connected, "at": time.monotonic()}
        with self.up.lock:
            self.up.reports.append(report)

    def keep(self, key, content):
        if self.sender == "":
            self.keep_report(content)
            return
        ours = RECEIVED.match(content)
        found = OUR_ID.search(ours.group()) if ours else None
        arrival = {"key": key, "id": found.group(1).decode() if found else "none",
                   "recipients": self.recipients,
                   "digest": digest_of(content[ours.end():] if ours else content),
                   "connected": self.connected, "began": self.began, "at": time.monotonic()}
        with self.up.lock:
            self.up.arrivals.append(arrival)


def path_of(line):
    return line[line.index(b"<") + 1:line.index(b">")].decode()


# ---- clients ----


def make_pool(rng):
    """CRLF lines of 8-bit bytes; some begin with dots, some are long."""
    table = bytes(b if b not in (0, 10, 13) else 120 for b in range(256))
    parts, size = [], 0
    while size < 1 << 19:
        line = rng.randbytes(rng.choice((0, 1, 40, 76, 76, 300, 2000))).translate(table)
        line = b"." * rng.choice((0, 0, 0, 0, 1, 2)) + line + b"\r\n"
        parts.append(line)
        size += len(line)
    return b"".join(parts)


def make_content(rng, pool, key):
    """Whole lines; 0 bytes to 300 KiB, now and then 5 MiB."""
    size = rng.choice((0, 1, 300, 3000, 4096, 30000, 300000, 0, 300, 3000, 3000, 4096))
    if rng.random() < 0.01:
        size = BIG_BYTES
    if size == 0:
        return b""
    head = b"Subject: message %s\r\nFrom: <scanner@s.test>\r\n\r\n" % key.encode()
    if size == BIG_BYTES:
        body = pool * (BIG_BYTES // len(pool) + 1)
    else:
        at = rng.randrange(len(pool) - 1)
        at = pool.index(b"\n", at) + 1
        end = pool.find(b"\n", at + rng.randrange(size))
        body = pool[at:end + 1]
    return head + body


def stuffed(content):
    return re.sub(rb"(?m)^\.", b"..", content)


class Client(threading.Thread):
    """Sends message after message and writes down what it was told of each."""

    def __init__(self, number, port, seed, pool):
        super().__init__(daemon=True)
        self.number, self.port, self.pool = number, port, pool
        self.rng = random.Random(seed * 1000 + number)
        self.messages = []
        self.over = threading.Event()
        self.peer = self.lines = None

    def run(self):
        serial = 0
        while not self.over.is_set():
            serial += 1
            self.one("c%dm%d" % (self.number, serial))
            if self.peer is not None and self.rng.random() < 0.3:
                self.hang_up()

    def one(self, key):
        rng = self.rng
        content = make_content(rng, self.pool, key)
        looped = content and rng.random() < 0.03
        if looped:
            content = b"Received: by x.test\r\n" * 101 + content
        sender = rng.choices(("plain", "dotlate", "dotno", "dotdrop"), (90, 6, 3, 0.4))[0]
        kinds = rng.choices(("ok", "late", "no"), (88, 8, 4), k=rng.choice((1, 1, 1, 2, 3, 12)))
        message = {"key": key, "sender": sender + "@s.test",
                   "recipients": ["%s.%s%d@sink.test" % (key, kind, index)
                                  for index, kind in enumerate(kinds)],
                   "digest": digest_of(content), "bytes": len(content), "outcome": "left",
                   "id": None, "told": 0.0}
        try:
            self.send(message, stuffed(content), leave=rng.random() < 0.04)
        except (OSError, EOFError):
            self.hang_up()
            self.over.wait(0.01)
        message["told"] = time.monotonic()
        self.messages.append(message)

    def send(self, message, text, leave):
        if self.peer is None:
            self.connect()
        commands = ["MAIL FROM:<%s>" % message["sender"]]
        commands += ["RCPT TO:<%s>" % path for path in message["recipients"]]
        commands.append("DATA")
        self.peer.sendall("".join(c + "\r\n" for c in commands).encode())
        replies = [self.reply() for _ in commands]
        if not replies[-1].startswith(b"354") or any(r[:1] != b"2" for r in replies[:-1]):
            message["outcome"] = "refused"
            self.hang_up()
            return
        if leave:
            self.peer.sendall(text[:self.rng.randrange(len(text) + 1)])
            self.hang_up()
            return
        self.peer.sendall(text)
        message["outcome"] = "unknown"
        self.peer.sendall(b".\r\n")
        reply = self.reply()
        message["outcome"] = "accepted" if reply.startswith(b"250") else "refused"
        if message["outcome"] == "accepted":
            message["id"] = reply.split()[2].decode()
            assert re.fullmatch("[0-9a-z]{8,}", message["id"]), reply

    def connect(self):
        self.peer = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)
        self.peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.lines = self.peer.makefile("rb")
        self.reply()
        self.peer.sendall(b"EHLO client.test\r\n")
        self.reply()

    def reply(self):
        while True:
            line = self.lines.readline()
            if not line.endswith(b"\r\n"):
                raise EOFError
            if line[3:4] != b"-":
                return line

    def hang_up(self):
        if self.lines is not None:
            self.lines.close()
        if self.peer is not None:
            self.peer.close()
        self.peer = self.lines = None


# ---- operators ----


def ask(path, command, **args):
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(PATIENCE_S)
        peer.connect(path)
        peer.sendall(json.dumps({"id": 1, "command": command, "args": args}).encode() + b"\n")
        with peer.makefile("rb") as lines:
            line = lines.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    answer = json.loads(line)
    if not answer["ok"]:
        raise KeyError(answer["error"]["code"])
    return answer["result"]


class Operator(threading.Thread):
    """Edits what the clients have just sent; writes down what it deleted."""

    def __init__(self, number, path, seed, clients):
        super().__init__(daemon=True)
        self.path = path
        self.rng = random.Random(seed * 1000 + 500 + number)
        self.deleted, self.done, self.seen = [], collections.Counter(), 0
        # Each has clients of its own: what one deletes no other brings back by a retry.
        self.clients = clients[number::OPERATORS]
        self.over = threading.Event()

    def run(self):
        while not self.over.wait(self.rng.random() * 0.03):
            self.one()

    def pick(self):
        sent = self.rng.choice(self.clients).messages[-8:]
        deleted = {row["id"] for row in self.deleted}
        return [m["id"] for m in sent if m["id"] is not None and m["id"] not in deleted]

    def one(self):
        action = self.rng.choices(("hold", "release", "retry", "delete"), (5, 5, 5, 2))[0]
        ids = self.pick()
        if action == "release" and self.rng.random() < 0.1:
            args = {"filter": "state:held"}
        elif ids:
            args = {"ids": ids[:self.rng.choice((1, 1, 3))]}
        else:
            return
        try:
            result = ask(self.path, action, **args)
        except KeyError:
            return  # it has left the queue: the usual case
        except (OSError, EOFError, ValueError):
            if action == "delete":
                self.note_deleted(args["ids"], sure=False)
            return
        self.done[action] += result["changed"]
        if action == "delete":
            skipped = {row["id"] for row in result["skipped"]}
            self.note_deleted([i for i in result["ids"] if i not in skipped], sure=True)

    def note_deleted(self, ids, sure):
        at = time.monotonic()
        self.deleted += [{"id": i, "at": at, "sure": sure} for i in ids]


# ---- the daemon ----


def quiet_port():
    """A free port outside the range that clients' own ports come from: a client that connects to a
    port of that range while nobody listens can meet itself there, and keeps the port."""
    while True:
        port = random.randrange(15000, 30000)
        try:
            socket.create_server(("127.0.0.1", port)).close()
            return port
        except OSError:
            continue


class Daemon:
    def __init__(self, directory, upstream_port):
        self.port = quiet_port()
        self.directory = directory
        self.socket = str(directory / "ctl.sock")
        self.log_path = directory / "log"
        io = os.environ.get("TASUKI_IO", "")
        (directory / "tasuki.conf").write_text(CONFIG.format(
            port=self.port, directory=directory, upstream=upstream_port,
            io="io = " + io if io else ""))
        self.process = None
        self.past = 0

    def spawn(self):
        self.past = self.log_path.stat().st_size if self.log_path.exists() else 0
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [str(BUILD / "tasukid"), "-c", str(self.directory / "tasuki.conf")],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)

    def log_since_start(self):
        with open(self.log_path, "rb") as log:
            log.seek(self.past)
            return log.read().decode(errors="replace")

    def wait_started(self):
        end = time.monotonic() + PATIENCE_S
        while "event=start " not in self.log_since_start():
            if self.process.poll() is not None or time.monotonic() > end:
                raise SystemExit("tasukid does not start:\n" + self.log_since_start()[-3000:])
            time.sleep(0.002)

    def kill(self):
        """kill -9; False when it had ended on its own before."""
        alive = self.process.poll() is None
        at = time.monotonic()
        self.process.kill()
        self.process.wait()
        return at if alive else None

    def check_store(self):
        """What tasukid itself finds wrong in the queue that a kill has left; "" when it is sound."""
        done = subprocess.run(
            [str(BUILD / "tasukid"), "--check-store", "-c", str(self.directory / "tasuki.conf")],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=PATIENCE_S * 3)
        return "" if done.returncode == 0 else done.stdout.decode(errors="replace")[-800:]

    def stop(self):
        """The exit status of a stop in peace, or None when it does not end."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.kill()
            return None


# ---- a run ----


class Run:
    def __init__(self, cycles, seed, directory):
        self.cycles, self.rng = cycles, random.Random(seed)
        self.upstream = Upstream(random.Random(seed + 1))
        self.daemon = Daemon(directory, self.upstream.port)
        pool = make_pool(random.Random(seed + 2))
        self.clients = [Client(n, self.daemon.port, seed, pool) for n in range(CLIENTS)]
        self.operators = [Operator(n, self.daemon.socket, seed, self.clients)
                          for n in range(OPERATORS)]
        self.kills, self.stops, self.troubles = [], [], []
        self.start_seconds = 0.02

    def cycle(self, number):
        began = time.monotonic()
        self.daemon.spawn()
        if number % 5 == 4:
            time.sleep(self.rng.random() * 1.5 * self.start_seconds)
        else:
            self.daemon.wait_started()
            self.start_seconds = time.monotonic() - began
            time.sleep(self.rng.choice((0.02, 0.3, 0.8, 1.5)) * self.rng.random())
            if number % 7 == 3:
                self.stop_in_peace(number)
                return
        at = self.daemon.kill()
        if at is None:
            self.troubles.append("cycle %d: tasukid ended on its own (%d): %s" % (
                number, self.daemon.process.returncode, self.daemon.log_since_start()[-800:]))
        else:
            self.kills.append(at)
        found = self.daemon.check_store()
        if found:
            self.troubles.append("cycle %d: --check-store: %s" % (number, found))

    def stop_in_peace(self, number):
        """SIGTERM under the same load: exit 0, and no copy too many is owed to it."""
        began = time.monotonic()
        code = self.daemon.stop()
        self.stops.append(time.monotonic() - began)
        if code != 0 or "event=stopped" not in self.daemon.log_since_start():
            self.troubles.append("cycle %d: SIGTERM: exit %s" % (number, code))

    def run(self):
        for thread in self.clients + self.operators:
            thread.start()
        number = 0
        while len(self.kills) < self.cycles and number < 2 * self.cycles:
            self.cycle(number)
            number += 1
            if number % TELL_EACH == 0:
                print("%d kills, %d troubles so far" % (len(self.kills), len(self.troubles)),
                      flush=True)
        self.daemon.spawn()
        self.daemon.wait_started()
        time.sleep(0.5)
        for thread in self.clients + self.operators:
            thread.over.set()
        for thread in self.clients + self.operators:
            thread.join(PATIENCE_S * 2)
            if thread.is_alive():
                self.troubles.append("a %s hangs" % type(thread).__name__)
        self.drain()
        books = self.books()
        self.check_stop(books)
        return books

    def drain(self):
        end = time.monotonic() + DRAIN_S
        while True:
            counts = ask(self.daemon.socket, "status")["queue"]
            if counts["queued"] == 0 and counts["sending"] == 0:
                return
            if time.monotonic() > end:
                self.troubles.append("the queue does not drain: %s" % counts)
                return
            time.sleep(0.05)

    def rows(self, command, words=""):
        cursor = None
        while True:
            page = ask(self.daemon.socket, command, limit=1000, filter=words,
                       **({"cursor": cursor} if cursor else {}))
            yield from page["messages"]
            cursor = page["cursor"]
            if cursor is None:
                return

    def books(self):
        def whole(row):
            shown = ask(self.daemon.socket, "show", id=row["id"])
            return {"id": row["id"], "state": row["state"], "end": row.get("end"),
                    "recipients": [[r["to"], r["state"]] for r in shown["recipients"]]}

        queue = [whole(row) for words in ("", "state:trashed")
                 for row in self.rows("queue", words)]
        # Reports are judged by what arrived of them.
        history = [whole(row) for row in self.rows("history", "-from:<>")]
        with self.upstream.lock:
            arrivals, reports = list(self.upstream.arrivals), list(self.upstream.reports)
        return {"messages": [m for c in self.clients for m in c.messages], "arrivals": arrivals,
                "reports": reports, "history": history,
                "kills": self.kills, "deleted": [d for o in self.operators for d in o.deleted],
                "queue": queue, "edited": sum((o.done for o in self.operators),
                                              collections.Counter())}

    def check_stop(self, books):
        """A stop in peace, and the queue that the next start finds is the one that was left."""
        code = self.daemon.stop()
        if code != 0:
            self.troubles.append("exit %s at the end" % code)
        self.daemon.spawn()
        self.daemon.wait_started()
        found = re.findall(r"event=store-open messages=(\d+)", self.daemon.log_since_start())
        if found != [str(len(books["queue"]))]:
            self.troubles.append("left %d messages, the next start found %s" % (
                len(books["queue"]), found))
        self.daemon.stop()
        log = self.daemon.log_path.read_text(errors="replace")
        self.troubles += ["%s, see the log" % words for words in BAD_WORDS if words in log]


def print_books(books, troubles):
    tally, violations = balance(books)
    sizes = sum(m["bytes"] for m in books["messages"] if m["outcome"] == "accepted")
    print("killed %d times; %d messages tried: %d answered 250 (%.1f MiB), %d refused, "
          "%d left before the dot, %d unknown" % (
              tally["kills"], len(books["messages"]), tally["accepted"], sizes / (1 << 20),
              tally["refused"], tally["left"], tally["unknown"]))
    print("owed to %d recipients: %d delivered, %d reported, %d held, %d deleted" % (
        tally["owed"], tally["delivered"], tally["reported"], tally["held"], tally["deleted"]))
    print("transactions upstream %d, and %d reports; copies too many %d, of which a kill explains %d" % (
        tally["arrivals"], tally["reports"], tally["duplicates"], tally["duplicates explained by a kill"]))
    print("edited: %s" % ", ".join("%s %d" % row for row in sorted(books["edited"].items())))
    for text in (troubles + violations)[:40]:
        print("WRONG: " + text)
    wrong = len(troubles) + len(violations)
    print("the books balance" if wrong == 0 else "%d things are wrong" % wrong)
    return wrong == 0


def check(path, fake):
    books = json.loads(Path(path).read_text())
    if fake is not None:
        FAKES[fake](books)
    return print_books(books, [])


def run(cycles, seed, books_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    directory = Path(tempfile.mkdtemp(prefix="tcrash-", dir=os.environ.get("TMPDIR", "/tmp")))
    this = Run(cycles, seed, directory)
    good = False
    try:
        books = this.run()
        print("stopped in peace %d times, %.1f s at most" % (
            len(this.stops), max(this.stops, default=0)))
        if books_path is not None:
            Path(books_path).write_text(json.dumps(books))
        print("seed %d" % seed)
        good = print_books(books, this.troubles)
    finally:
        if this.daemon.process is not None and this.daemon.process.poll() is None:
            this.daemon.kill()
        if good:
            shutil.rmtree(directory)
        else:
            print("kept: %s" % directory)
    return good


def main():
    args = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    args.add_argument("--cycles", type=int, default=int(os.environ.get("CRASH_CYCLES", "50")))
    args.add_argument("--seed", type=int, default=int(time.time()) % 1000000)
    args.add_argument("--books")
    args.add_argument("--check")
    args.add_argument("--fake", choices=sorted(FAKES))
    given = args.parse_args()
    good = check(given.check, given.fake) if given.check else run(given.cycles, given.seed,
                                                                    given.books)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
