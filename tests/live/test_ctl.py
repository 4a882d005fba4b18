"""tasukictl against a scripted daemon, and against a queue on disk.

    /usr/bin/python3 -m pytest tests/live/test_ctl.py        (after make)

The scripted daemon answers as schema/README.md says, or misbehaves on purpose.
"""

import errno
import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import termios
import threading
import time
import unicodedata
from pathlib import Path

import pytest

from peers import BUILD

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = str(BUILD / "tasukictl")
PATIENCE_S = 30
ESC = "\x1b"
BIDI = "\u202e"
NOW_MS = int(time.time() * 1000)
MINUTE_MS = 60_000


# ---- a daemon that does as it is told ----


class Raw(bytes):
    """An answer that is sent as it is, then the connection is closed."""


HANG = object()


def refusal(code, message, hint=""):
    return {"error": {"code": code, "message": message, "hint": hint}}


class FakeDaemon:
    def __init__(self, directory):
        self.path = os.path.join(directory, "ctl.sock")
        self.answers = {}
        self.requests = []
        self.stopping = threading.Event()
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(self.path)
        self.listener.listen(16)
        self.threads = [threading.Thread(target=self.accept, daemon=True)]
        self.threads[0].start()

    def accept(self):
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self.serve, args=(peer,), daemon=True)
            self.threads.append(thread)
            thread.start()

    def serve(self, peer):
        with peer, peer.makefile("rb") as lines:
            for line in lines:
                request = json.loads(line)
                self.requests.append(request)
                answer = self.answers[request["command"]]
                if callable(answer):
                    answer = answer(request["args"])
                if answer is HANG:
                    self.stopping.wait(PATIENCE_S)
                    return
                if isinstance(answer, Raw):
                    peer.sendall(answer)
                    return
                whole = {"id": request["id"], "ok": "error" not in answer}
                whole.update(answer if "error" in answer else {"result": answer})
                peer.sendall(json.dumps(whole).encode() + b"\n")

    def asked(self, command):
        return [r["args"] for r in self.requests if r["command"] == command]

    def stop(self):
        self.stopping.set()
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self.threads:
            thread.join(PATIENCE_S)


@pytest.fixture(autouse=True)
def clock():
    """Now is the time of the test, not that of the file's reading: others may have run between."""
    global NOW_MS
    NOW_MS = int(time.time() * 1000)


@pytest.fixture
def place():
    """A short directory: a socket's path has 107 bytes."""
    path = tempfile.mkdtemp(prefix="tctl-")
    yield path
    shutil.rmtree(path)


@pytest.fixture
def daemon(place):
    fake = FakeDaemon(place)
    yield fake
    fake.stop()


# ---- running tasukictl ----


class Outcome:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    def lines(self):
        return self.out.splitlines()

    def json_lines(self):
        return [json.loads(line) for line in self.lines()]


def environment(**more):
    env = {"PATH": os.environ["PATH"], "HOME": "/", "TERM": "xterm", "LC_ALL": "C.UTF-8"}
    for name in ("ASAN_OPTIONS", "UBSAN_OPTIONS"):
        if name in os.environ:
            env[name] = os.environ[name]
    env.update(more)
    return env


def run(*args, env=None, stdin=subprocess.DEVNULL, preexec_fn=None):
    done = subprocess.run(
        [PROGRAM, *args], stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        timeout=PATIENCE_S, env=env or environment(), preexec_fn=preexec_fn)
    return Outcome(done.returncode, done.stdout.decode(), done.stderr.decode())


def ask(daemon, *args, **how):
    return run("--socket", daemon.path, *args, **how)


def run_on_terminal(*args, columns=80, typed=b"", all_streams=False, **env):
    """Standard output (or all three) on a terminal of so many columns."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    flags = termios.tcgetattr(child)
    flags[3] &= ~termios.ECHO
    termios.tcsetattr(child, termios.TCSANOW, flags)
    if typed:
        os.write(parent, typed)
    process = subprocess.Popen(
        [PROGRAM, *args], stdin=child if all_streams else subprocess.DEVNULL, stdout=child,
        stderr=child if all_streams else subprocess.PIPE, env=environment(**env))
    os.close(child)
    collected = b""
    end = time.monotonic() + PATIENCE_S
    while True:
        assert time.monotonic() < end, "tasukictl does not end"
        if not select.select([parent], [], [], 1)[0]:
            continue
        try:
            piece = os.read(parent, 65536)
        except OSError as error:
            assert error.errno == errno.EIO
            break
        if not piece:
            break
        collected += piece
    err = b"" if all_streams else process.stderr.read()
    if process.stderr:
        process.stderr.close()
    os.close(parent)
    code = process.wait(PATIENCE_S)
    return Outcome(code, collected.decode().replace("\r\n", "\n"), err.decode())


def without_colours(text):
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def columns_of(line):
    return sum(2 if unicodedata.east_asian_width(ch) in "WF" else 1
               for ch in line if not unicodedata.combining(ch))


def assert_fits(outcome, columns):
    for line in without_colours(outcome.out).splitlines():
        assert columns_of(line) <= columns, line


def assert_no_colours(text):
    assert ESC not in text


def assert_explains(outcome, code, *words):
    """What, why, what to type next, and nothing on standard output."""
    assert outcome.code == code, outcome.err
    assert outcome.out == ""
    first, *rest = outcome.err.splitlines()
    assert first.startswith("tasukictl: ")
    assert any(line.startswith("  next: ") for line in rest), outcome.err
    for word in words:
        assert word in outcome.err


# ---- what the daemon says ----


def status_answer(**more):
    status = {
        "schema": 1, "now_ms": NOW_MS, "started_ms": NOW_MS - 3 * 86_400_000, "version": "0.1.0",
        "pid": 4711,
        "verdict": {"level": "ok",
                    "sentence": "All is well: 3 messages on their way, nothing waits for you.",
                    "hint": ""},
        "io": {"backend": "io_uring", "reason": "the kernel offers it", "features": "multishot"},
        "queue": {"queued": 3, "sending": 1, "held": 0, "failed": 0, "body_bytes": 1_300_000,
                  "used_bytes": 5 << 20, "max_bytes": 20 << 30, "accepting": True,
                  "oldest_due_ms": NOW_MS + 4 * MINUTE_MS},
        "upstreams": [{
            "name": "main", "host": "[relay.example.jp]:587", "state": "well", "connections": 2,
            "connections_max": 4, "busy": 1, "delivered": 120, "deferred": 3, "refused": 1,
            "last_delivery_ms": NOW_MS - 3 * MINUTE_MS, "peer": "192.0.2.1:587",
            "tls": "TLSv1.3 TLS_AES_256_GCM_SHA384", "mechanism": "SCRAM-SHA-256"}],
        "listeners": ["0.0.0.0:25", "[::]:25"], "clients": 12,
        "counters": {"accepted": 124, "delivered": 120, "deferred": 3, "refused": 1,
                     "rejected": 2},
    }
    status.update(more)
    return status


def marked_status():
    status = status_answer()
    status["verdict"] = {"level": "trouble", "sentence": "Mail does not flow: main refuses the "
                         "login.", "hint": "Check user and password-file of this upstream, then: "
                         "tasukictl test"}
    status["queue"].update(failed=2, held=1)
    status["upstreams"][0].update(
        state="marked", reason="auth-refused", sentence="the upstream refuses the login",
        hint="Check user and password-file of this upstream, then: tasukictl test", code=535,
        text="5.7.8 no " + ESC + "[31m entry", marked_ms=NOW_MS - 15 * MINUTE_MS,
        next_probe_ms=NOW_MS + 2 * MINUTE_MS)
    return status


def row(number=0, **more):
    message = {
        "id": "06h0r8y3%08d" % number, "state": "queued", "from": "scanner@example.jp",
        "to": ["anna@example.jp", "bert@example.jp"], "recipient_count": 2, "bytes": 123_456,
        "arrived_ms": NOW_MS - 3 * 3_600_000, "client": "192.168.1.50", "device": "canon",
        "subject": "scan " + ESC + "]0;owned\x07 " + BIDI + "fdp.exe \x00end", "upstream": "main",
        "upstream_stuck": False,
        "attempts": 2, "due_ms": NOW_MS + 4 * MINUTE_MS + 30_000, "last_ms": NOW_MS - MINUTE_MS,
        "reason": "deferred", "sentence": "the upstream asks to try again later", "hint": "",
        "code": 451, "enhanced": "4.3.0", "text": "try " + ESC + "[31mlater"}
    message.update(more)
    return message


def pages(count, per_page=None, asked=None):
    """A queue of so many messages, as the command queue answers it."""
    def answer(args):
        if asked is not None:
            asked.append(args)
        first = int(args.get("cursor", "0"))
        size = min(args["limit"], per_page or args["limit"])
        last = min(first + size, count)
        return {"schema": 1, "messages": [row(n) for n in range(first, last)],
                "cursor": str(last) if last < count else None, "scanned": last - first}
    return answer


def show_answer(args):
    if not row()["id"].startswith(args["id"]):
        return refusal("not-found", 'no message begins with "%s"' % args["id"], "tasukictl queue")
    return dict(row(), schema=1, helo="scan" + ESC + "ner", chunks=1, flags=["8bitmime"],
                recipients=[
                    {"to": "anna@example.jp", "state": "queued", "reason": "deferred",
                     "sentence": "the upstream asks to try again later", "hint": "", "code": 451,
                     "enhanced": "4.3.0", "text": "try " + ESC + "[31mlater"},
                    {"to": "日本@example.jp", "state": "failed", "reason": "no-such-recipient",
                     "sentence": "the upstream does not know the recipient",
                     "hint": "Check the address; then delete it.", "code": 550,
                     "enhanced": "5.1.1", "text": "no such user " * 12}])


def edit_answer(matched=3, skipped=()):
    def answer(args):
        ids = args.get("ids") or ["06h0r8y3%08d" % n for n in range(matched)]
        changed = 0 if args.get("dry_run") else len(ids) - len(skipped)
        return {"schema": 1, "matched": len(ids), "changed": changed,
                "dry_run": args.get("dry_run", False), "skipped": list(skipped), "ids": ids}
    return answer


def test_answer(ok=False):
    answer = {"schema": 1, "ok": ok, "upstream": "main", "host": "[relay.example.jp]:587",
              "peer": "192.0.2.1:587", "tls": "TLSv1.3", "mechanism": "PLAIN", "step": "login",
              "reason": "auth-refused", "sentence": "the upstream refuses the login",
              "hint": "Check user and password-file of this upstream, then: tasukictl test",
              "code": 535, "text": "5.7.8 bad " + ESC + "[2J", "took_ms": 1234, "was_marked": False,
              "transcript": ["S: 220 relay " + ESC + "[31m", "C: EHLO scanner", "S: 250 STARTTLS"]}
    if ok:
        answer.update(step="", reason="delivered", sentence="", hint="", code=235, text="2.7.0")
    return answer


# pytest must not take the helper for a test
test_answer.__test__ = False


# ---- status ----


def test_status_is_the_default_and_says_the_verdict_first(daemon):
    daemon.answers["status"] = status_answer()
    for args in ([], ["status"]):
        done = ask(daemon, *args)
        assert done.code == 0
        assert done.lines()[0] == "All is well: 3 messages on their way, nothing waits for you."
        for words in ("3 queued, 1 sending, 0 held, 0 failed", "1.2M of mail", "5M of 20G",
                      "due in 4 min", "Upstream      main: well", "2 of 4 connections, 1 busy",
                      "the last delivery 3 min ago", "12 clients are connected", "0.0.0.0:25",
                      "124 accepted", "up 3 d", "io_uring (the kernel offers it)"):
            assert words in done.out
        assert "What to do" not in done.out
        assert_no_colours(done.out)


def test_status_with_a_marked_upstream(daemon):
    daemon.answers["status"] = marked_status()
    done = ask(daemon)
    assert done.code == 1
    assert done.lines()[0] == "Mail does not flow: main refuses the login."
    for words in ("main: waits", "the upstream refuses the login, since 15 min ago",
                  "the next try in 2 min", r"535 5.7.8 no \x1b[31m entry",
                  "tasukictl queue state:failed", "tasukictl queue state:held"):
        assert words in done.out
    todo = done.out.split("What to do:\n")[1]
    assert todo.count("then: tasukictl test") == 1, "advice stands once"
    assert_no_colours(done.out)


def test_status_says_which_upstream_an_advice_is_for(daemon):
    """Not where there is one alone, for then it is clear; the same advice for several stands once."""
    def marked(name, hint):
        return {**marked_status()["upstreams"][0], "name": name, "hint": hint}
    status = marked_status()
    status["upstreams"] = [marked("main", "Mend it."), marked("shop", "Mend it."),
                           marked("far", "Wait."), {"name": "well", "state": "well"}]
    status["verdict"]["hint"] = "Wait."
    daemon.answers["status"] = status
    todo = ask(daemon).out.split("What to do:\n")[1].splitlines()
    assert todo[:2] == ["  far: Wait.", "  main, shop: Mend it."]
    daemon.answers["counts"] = {"schema": 1}
    todo = ask(daemon, "upstreams").out.split("What to do:\n")[1].splitlines()
    assert todo == ["  main, shop: Mend it.", "  far: Wait."]
    status["upstreams"] = [marked("main", "Wait.")]
    assert ask(daemon).out.split("What to do:\n")[1].splitlines()[0] == "  Wait."


def test_status_says_what_due_mail_waits_for(daemon):
    """That it is due is true and not the whole truth while its upstream is out of order."""
    def said():
        return " ".join(ask(daemon).out.split())
    status = marked_status()
    status["queue"].update(queued=3, oldest_due_ms=NOW_MS - MINUTE_MS)
    daemon.answers["status"] = status
    assert "is due now; mail for main waits until that works again Upstream" in said()
    stuck = status["upstreams"][0]
    status["upstreams"] += [{**stuck, "name": f"other{number}"} for number in range(4)]
    assert "mail for main, other0, other1 and 2 more waits until each works again Up" in said()
    status["upstreams"] = [{**stuck, "stand_in": "backup"}]
    assert "is due now Upstream" in said()


def test_status_attention_is_not_ok(daemon):
    status = status_answer()
    status["verdict"]["level"] = "attention"
    daemon.answers["status"] = status
    assert ask(daemon).code == 1


def test_status_json_is_the_result(daemon):
    daemon.answers["status"] = marked_status()
    done = ask(daemon, "--json", "status")
    assert done.code == 1
    assert json.loads(done.out) == marked_status()
    assert len(done.lines()) == 1
    assert_no_colours(done.out)


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_status_fits_the_terminal(daemon, columns):
    daemon.answers["status"] = marked_status()
    done = run_on_terminal("--socket", daemon.path, columns=columns)
    assert ESC + "[31;1m" in done.out
    # A word that is longer than the line cannot be broken.
    assert_fits(done, max(columns, 48))


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colours_can_be_switched_off(daemon, env):
    daemon.answers["status"] = marked_status()
    assert_no_colours(run_on_terminal("--socket", daemon.path, **env).out)


def test_a_bare_status_is_printed_without_trouble(daemon):
    daemon.answers["status"] = {"schema": 1}
    assert ask(daemon).code == 1


# ---- queue ----


def test_queue_says_what_the_untried_wait_for(daemon):
    rows = [row(0, reason="none", state="queued", upstream_stuck=True),
            row(1, reason="none", state="held", upstream_stuck=True),
            row(2, reason="none", state="queued", upstream_stuck=False),
            row(3, reason="deferred", state="deferred", upstream_stuck=True),
            row(4, reason="none", state="queued", upstream_stuck=True, upstream=ESC + "x" * 64)]
    daemon.answers["queue"] = {"schema": 1, "messages": rows, "cursor": None, "scanned": 5}
    lines = ask(daemon, "queue").lines()[1:]
    for line, words in zip(lines, ("waits for main", " - ", " - ", " deferred ",
                                   r"waits for \x1bxxx"), strict=True):
        assert words in line
    assert sum("waits for" in line for line in lines) == 2


def test_queue_piped_is_not_cut_and_escapes(daemon):
    daemon.answers["queue"] = pages(2)
    done = ask(daemon, "queue")
    assert done.code == 0
    assert len(done.lines()) == 3
    assert done.lines()[0].split() == ["ID", "AGE", "SIZE", "STATE", "FROM", "TO", "REASON",
                                       "SUBJECT"]
    line = done.lines()[1]
    for words in (row()["id"], "3 h", "120K", "in 4 min", "scanner@example.jp",
                  "(2) anna@example.jp", "deferred", r"scan \x1b]0;owned\x07 \xe2\x80\xaefdp.exe "
                  r"\x00end"):
        assert words in line
    assert_no_colours(done.out)
    assert BIDI not in done.out


@pytest.mark.parametrize("columns", [60, 80, 132])
def test_queue_fits_the_terminal(daemon, columns):
    daemon.answers["queue"] = lambda args: {
        "schema": 1, "cursor": None, "scanned": 3, "messages": [
            row(0, **{"from": "日本語" * 30}), row(1, state="failed", to=["x" * 200]),
            row(2, state="held", **{"from": ""})]}
    done = run_on_terminal("--socket", daemon.path, "queue", columns=columns)
    assert done.code == 0
    assert_fits(done, columns)
    assert len(done.lines()) == 4, "one line a message"
    assert row(1)["id"] in done.out
    assert "<>" in done.out
    assert "\x1b[31m" in done.out and "failed" in done.out


def test_queue_asks_for_page_after_page(daemon):
    asked = []
    daemon.answers["queue"] = pages(2500, asked=asked)
    done = ask(daemon, "queue", "from:scanner", "-to:bert", "subject:two words")
    assert done.code == 0
    assert len(done.lines()) == 2501
    assert sum("AGE" in line for line in done.lines()) == 1
    assert [a.get("cursor") for a in asked] == [None, "100", "1100", "2100"]
    assert {a["filter"] for a in asked} == {'from:scanner -to:bert subject:"two words"'}
    assert all(1 <= a["limit"] <= 1000 for a in asked)


def test_queue_limit(daemon):
    asked = []
    daemon.answers["queue"] = pages(2500, asked=asked)
    done = ask(daemon, "queue", "--limit", "150")
    assert len(done.lines()) == 151
    assert [a["limit"] for a in asked] == [100, 50]


def test_queue_goes_on_over_empty_pages(daemon):
    answers = [{"schema": 1, "messages": [], "cursor": "a", "scanned": 1000},
               {"schema": 1, "messages": [row()], "cursor": None, "scanned": 5}]
    daemon.answers["queue"] = lambda args: answers.pop(0)
    done = ask(daemon, "queue", "x")
    assert done.code == 0
    assert len(done.lines()) == 2


def test_queue_refuses_a_cursor_that_stands_still(daemon):
    daemon.answers["queue"] = {"schema": 1, "messages": [], "cursor": "a", "scanned": 0}
    assert_explains(ask(daemon, "queue"), 69, "cannot be understood")


def test_queue_json_lines(daemon):
    daemon.answers["queue"] = pages(120)
    done = ask(daemon, "queue", "--json")
    assert done.code == 0
    assert done.json_lines() == [dict(row(n), schema=1) for n in range(120)]
    assert_no_colours(done.out)
    assert BIDI not in done.out


@pytest.mark.parametrize("words,sentence", [([], "The queue is empty."),
                                            (["from:x"], "No message matches.")])
def test_queue_empty(daemon, words, sentence):
    daemon.answers["queue"] = pages(0)
    done = ask(daemon, "queue", *words)
    assert (done.code, done.out) == (0, sentence + "\n")
    assert ask(daemon, "queue", "--json", *words).out == ""


def test_queue_ends_quietly_when_nobody_reads(daemon):
    daemon.answers["queue"] = pages(100_000)
    with subprocess.Popen([PROGRAM, "--socket", daemon.path, "queue"], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, env=environment(),
                          preexec_fn=lambda: signal.signal(signal.SIGPIPE,
                                                           signal.SIG_DFL)) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(PATIENCE_S) in (-signal.SIGPIPE, 74)


def test_output_that_cannot_be_written_is_an_error(daemon):
    daemon.answers["queue"] = pages(1)
    with open("/dev/full", "wb") as full:
        done = subprocess.run([PROGRAM, "--socket", daemon.path, "queue"], stdout=full,
                              stderr=subprocess.PIPE, timeout=PATIENCE_S, env=environment())
    assert done.returncode == 74
    assert b"could not be written" in done.stderr


# ---- show ----


def test_show(daemon):
    daemon.answers["show"] = show_answer
    done = ask(daemon, "show", "06h0")
    assert done.code == 0
    assert done.lines()[0] == "Message %s: queued" % row()["id"]
    for words in ("scanner@example.jp", "192.168.1.50", r"scan\x1bner", "canon", "120K, 8bitmime",
                  "2 attempts, the last one 1 min ago; the next one in 4 min",
                  r"451 4.3.0 try \x1b[31mlater", "the upstream asks to try again later",
                  "日本@example.jp  failed", "no-such-recipient", "3 h ago (20"):
        assert words in done.out
    assert_no_colours(done.out)


def test_show_fits_the_terminal(daemon):
    daemon.answers["show"] = show_answer
    done = run_on_terminal("--socket", daemon.path, "show", "06h0")
    assert done.code == 0
    assert_fits(done, 80)


def test_show_json(daemon):
    daemon.answers["show"] = show_answer
    done = ask(daemon, "show", "06h0", "--json")
    assert json.loads(done.out) == show_answer({"id": "06h0"})


def test_show_of_no_message(daemon):
    daemon.answers["show"] = show_answer
    assert_explains(ask(daemon, "show", "0zzz"), 66, 'no message begins with "0zzz"',
                    "tasukictl queue")


# ---- retry, hold, release, delete ----

VERBS = ["retry", "hold", "release", "delete", "undelete", "bounce"]


@pytest.mark.parametrize("verb", VERBS)
def test_edit_of_one_id_asks_nobody(daemon, verb):
    daemon.answers[verb] = edit_answer()
    done = ask(daemon, verb, "06h0")
    assert done.code == 0
    assert done.out.startswith("1 message ")
    assert daemon.asked(verb) == [{"ids": ["06h0"], "dry_run": False}]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("words", [["06h0", "06h1"], ["from:scanner"], ["scanner"]])
def test_edit_of_many_needs_yes_without_a_terminal(daemon, verb, words):
    daemon.answers[verb] = edit_answer()
    assert_explains(ask(daemon, verb, *words), 64, "--yes")
    assert daemon.requests == []
    for yes in ("--yes", "-y"):
        done = ask(daemon, verb, *words, yes)
        assert done.code == 0
    assert [a["dry_run"] for a in daemon.asked(verb)] == [False, False]


@pytest.mark.parametrize("verb", VERBS)
def test_edit_dry_run_changes_nothing(daemon, verb):
    daemon.answers[verb] = edit_answer(3)
    done = ask(daemon, verb, "state:failed", "--dry-run")
    assert done.code == 0
    assert "3 messages would be" in done.out and "nothing was changed" in done.out
    assert row(2)["id"] in done.out
    assert daemon.asked(verb) == [{"filter": "state:failed", "dry_run": True}]


@pytest.mark.parametrize("answer", [b"y\n", b"yes\n", b"YES\n"])
def test_edit_on_a_terminal_asks_first(daemon, answer):
    daemon.answers["hold"] = edit_answer(3)
    done = run_on_terminal("--socket", daemon.path, "hold", "from:scanner", typed=answer,
                           all_streams=True)
    assert done.code == 0
    assert "Hold 3 messages? [y/N]" in done.out
    assert "3 messages are held." in done.out
    assert daemon.asked("hold") == [{"filter": "from:scanner", "dry_run": True},
                                    {"filter": "from:scanner", "dry_run": False}]


@pytest.mark.parametrize("answer", [b"n\n", b"\n", b"yesterday\n", b"\x04"])
def test_edit_on_a_terminal_takes_no_for_an_answer(daemon, answer):
    daemon.answers["delete"] = edit_answer(3)
    done = run_on_terminal("--socket", daemon.path, "delete", "from:scanner", typed=answer,
                           all_streams=True)
    assert done.code == 1
    assert "Nothing was changed." in done.out
    assert [a["dry_run"] for a in daemon.asked("delete")] == [True]


def test_delete_takes_what_was_counted_and_not_the_filter_again(daemon):
    daemon.answers["delete"] = edit_answer(3)
    done = run_on_terminal("--socket", daemon.path, "delete", "from:scanner", typed=b"y\n",
                           all_streams=True)
    assert done.code == 0
    assert daemon.asked("delete")[1] == {"ids": [row(n)["id"] for n in range(3)],
                                         "dry_run": False}


def test_edit_says_what_was_left_out(daemon):
    skipped = [{"id": row(0)["id"], "why": "being sent just now"}]
    daemon.answers["delete"] = edit_answer(3, skipped)
    done = ask(daemon, "delete", "state:queued", "--yes")
    assert done.code == 1
    assert "2 messages are deleted." in done.out
    assert "not %s: being sent just now" % row(0)["id"] in done.out


def test_edit_of_nothing(daemon):
    daemon.answers["retry"] = edit_answer(0)
    assert_explains(ask(daemon, "retry", "from:nobody", "--yes"), 66, "no message matches")


def test_edit_of_many_ids_goes_in_requests_that_fit(daemon):
    daemon.answers["retry"] = edit_answer()
    ids = ["06h0r8y3%08d" % n for n in range(2500)]
    done = ask(daemon, "retry", "--yes", "--json", *ids)
    assert done.code == 0
    assert [len(a["ids"]) for a in daemon.asked("retry")] == [1000, 1000, 500]
    result = json.loads(done.out)
    assert (result["schema"], result["matched"], result["changed"]) == (1, 2500, 2500)
    assert result["ids"] == ids


@pytest.mark.parametrize("words,problem", [
    (["06h0", "from:x"], "is an id and other words are not"),
    ([], "needs to know which messages"),
    ([""], "the filter is empty"),
    (["  "], "the filter is empty"),
])
def test_edit_with_words_that_make_no_sense(daemon, words, problem):
    daemon.answers["delete"] = edit_answer()
    assert_explains(ask(daemon, "delete", "--yes", *words), 64, problem)
    assert daemon.requests == []


def test_edit_filter_that_is_too_long(daemon):
    daemon.answers["delete"] = edit_answer()
    assert_explains(ask(daemon, "delete", "--yes", "from:" + "x" * 70_000), 64,
                    "more than one request can hold")


def test_edit_passes_the_reason_on(daemon):
    daemon.answers["bounce"] = edit_answer()
    assert ask(daemon, "bounce", "06h0", "--reason", "too old").code == 0
    assert daemon.asked("bounce") == [{"ids": ["06h0"], "dry_run": False, "reason": "too old"}]


# ---- history, why, transcript, counts, backup, compact ----


def past_row(number=0, **more):
    return row(number, **{"in": "history", "end": "delivered", "left_ms": NOW_MS - 2 * MINUTE_MS,
                          "state": "delivered", "due_ms": 0, **more})


def test_history(daemon):
    daemon.answers["history"] = {"schema": 1, "cursor": None, "scanned": 2, "messages": [
        past_row(0), past_row(1, end="reported", state="failed")]}
    done = ask(daemon, "history", "end:reported", "--limit", "7")
    assert done.code == 0
    assert done.lines()[0].split() == ["ID", "LEFT", "SIZE", "END", "FROM", "TO", "REASON",
                                       "SUBJECT"]
    assert "2 min" in done.lines()[1] and "delivered" in done.lines()[1]
    assert "reported" in done.lines()[2]
    assert daemon.asked("history") == [{"filter": "end:reported", "limit": 7}]
    rows = ask(daemon, "history", "--json").json_lines()
    assert [r["end"] for r in rows] == ["delivered", "reported"]
    assert_fits(run_on_terminal("--socket", daemon.path, "history"), 80)
    daemon.answers["history"] = pages(0)
    assert ask(daemon, "history").out == "The history is empty.\n"
    assert ask(daemon, "history", "x").out == "No message matches.\n"


def test_why(daemon):
    answer = {"schema": 1, "id": row()["id"], "in": "queue", "state": "deferred",
              "sentence": "It waits: the upstream " + ESC + "[31m asks.", "hint": "Wait.",
              "facts": ["3 min ago: deferred by main: " + "451 4.3.0 later " * 20]}
    daemon.answers["why"] = answer
    done = ask(daemon, "why", "06h0")
    assert done.code == 0
    assert done.lines()[0] == r"It waits: the upstream \x1b[31m asks."
    assert "  3 min ago: deferred by main" in done.out and "Wait." in done.out
    assert_no_colours(done.out)
    assert_fits(run_on_terminal("--socket", daemon.path, "why", "06h0"), 80)
    assert json.loads(ask(daemon, "why", "06h0", "--json").out) == answer
    daemon.answers["why"] = refusal("not-found", "no message begins so", "tasukictl queue")
    assert_explains(ask(daemon, "why", "06h0"), 66, "no message begins so")


def test_show_transcript(daemon):
    answer = {"schema": 1, "id": row()["id"], "lines": ["C: EHLO x", "S: 250 " + ESC + "[31m"]}
    daemon.answers["transcript"] = answer
    done = ask(daemon, "show", "--transcript", "06h0")
    assert (done.code, done.out) == (0, "C: EHLO x\nS: 250 \\x1b[31m\n")
    assert json.loads(ask(daemon, "show", "--transcript", "06h0", "--json").out) == answer
    daemon.answers["transcript"] = dict(answer, lines=[])
    assert "Nothing has been said" in ask(daemon, "show", "--transcript", "06h0").out
    daemon.answers["transcript"] = refusal("not-permitted", "only root may", "try it with sudo")
    assert_explains(ask(daemon, "show", "--transcript", "06h0"), 77, "only root may")


def test_counts(daemon):
    rows = [{"name": "mailbox-full", "sentence": "the recipient's mailbox is full", "queued": 12,
             "held": 1, "failed": 0, "trashed": 3}]
    daemon.answers["counts"] = {"schema": 1, "by": "reason", "rows": rows, "after": None}
    done = ask(daemon, "queue", "--by", "reason")
    assert done.lines()[0].split() == ["NAME", "QUEUED", "HELD", "FAILED", "TRASHED", "MEANING"]
    assert done.lines()[1].split()[:5] == ["mailbox-full", "12", "1", "0", "3"]
    assert json.loads(ask(daemon, "queue", "--by", "reason", "--json").out)["rows"] == rows
    assert_fits(run_on_terminal("--socket", daemon.path, "queue", "--by", "reason"), 80)
    for words in (["from:x"], ["--limit", "3"]):
        assert_explains(ask(daemon, "queue", "--by", "reason", *words), 64, "counts all messages")


def count_pages(count, per_page):
    """So many devices, as the command counts answers them."""
    def answer(args):
        first = int(args.get("after", "-1")) + 1
        last = min(first + min(args["limit"], per_page), count)
        rows = [{"name": "%06d" % n, "queued": n, "held": 0, "failed": 0, "trashed": 0}
                for n in range(first, last)]
        return {"schema": 1, "by": args["by"], "rows": rows,
                "after": "%06d" % (last - 1) if last < count else None}
    return answer


def test_counts_of_more_than_one_answer_holds(daemon):
    daemon.answers["counts"] = count_pages(3412, 1000)
    done = ask(daemon, "queue", "--by", "device")
    assert done.code == 0 and len(done.lines()) == 1 + 3412 and "there are more" not in done.out
    assert done.lines()[-1].split() == ["003411", "3411", "0", "0", "0"]
    assert [a.get("after") for a in daemon.asked("counts")] == [None, "000999", "001999", "002999"]
    whole = json.loads(ask(daemon, "queue", "--by", "device", "--json").out)
    assert len(whole["rows"]) == 3412 and whole["after"] is None


def test_counts_without_end_are_cut_and_say_so(daemon):
    daemon.answers["counts"] = count_pages(1_000_000, 20)
    done = ask(daemon, "queue", "--by", "device")
    assert len(daemon.asked("counts")) == 100
    assert done.lines()[-1] == ("These are the first 2000; there are more. Look for one: "
                                "tasukictl queue device:NAME")
    assert json.loads(ask(daemon, "queue", "--by", "device", "--json").out)["after"] == "001999"
    daemon.answers["counts"] = dict(count_pages(40, 20)({"by": "device", "limit": 20}))
    assert_explains(ask(daemon, "queue", "--by", "device"), 69, "counts cannot be understood")


def test_compact(daemon):
    daemon.answers["compact"] = {"schema": 1, "before_bytes": 8 << 20, "after_bytes": 1 << 20}
    done = ask(daemon, "compact")
    assert (done.code, done.out) == (0, "The queue's file has 1M now; it had 8M.\n")
    daemon.answers["compact"] = refusal("busy", "another program is reading", "wait")
    assert_explains(ask(daemon, "compact"), 1, "another program is reading")


# ---- test ----


def test_test_that_fails(daemon):
    daemon.answers["test"] = test_answer()
    done = ask(daemon, "test", "main", "--to", "anna@example.jp", "--from=me@example.jp")
    assert done.code == 1
    assert daemon.asked("test") == [{"upstream": "main", "to": "anna@example.jp",
                                     "from": "me@example.jp"}]
    for words in (r"  S: 220 relay \x1b[31m", "  C: EHLO scanner",
                  'Upstream main does not work: it failed at the step "login" (1.2 s)',
                  r"535 5.7.8 bad \x1b[2J", "Cause         the upstream refuses the login",
                  "What to do    Check user and password-file"):
        assert words in done.out
    assert done.out.index("C: EHLO") < done.out.index("does not work")
    assert done.err == "", "no progress without a terminal"
    assert_no_colours(done.out)


def test_test_that_works(daemon):
    daemon.answers["test"] = test_answer(ok=True)
    done = ask(daemon, "test")
    assert done.code == 0
    assert "Upstream main works" in done.out
    assert "What to do" not in done.out and "out of order" not in done.out
    assert daemon.asked("test") == [{}]
    daemon.answers["test"] = dict(test_answer(ok=True), was_marked=True)
    assert "Queue         it was out of order; what waits for it is tried now" in ask(daemon, "test").out


def test_test_json(daemon):
    daemon.answers["test"] = test_answer()
    done = ask(daemon, "test", "--json")
    assert done.code == 1
    assert json.loads(done.out) == test_answer()


def test_test_shows_progress_on_a_terminal(daemon):
    daemon.answers["test"] = test_answer()
    done = run_on_terminal("--socket", daemon.path, "test", "main", all_streams=True)
    assert "talking to main …" in done.out
    assert done.out.index("talking to") < done.out.index("S: 220")


def test_test_of_no_upstream(daemon):
    daemon.answers["test"] = refusal("not-found", 'there is no upstream "mian"',
                                     "did you mean main?")
    assert_explains(ask(daemon, "test", "mian"), 66, "mian", "did you mean main?")


# ---- upstreams, trace out ----


def many_upstreams(count):
    status = marked_status()
    first = status["upstreams"][0]
    first.update(provider="gmail", use="always", stand_in="up1" if count > 1 else None,
                 concurrency=4, paused_until_ms=NOW_MS + 2 * MINUTE_MS, rate_room=0,
                 rate_next_ms=NOW_MS + 5 * MINUTE_MS, forecast_ms=NOW_MS + 90 * MINUTE_MS,
                 outage_ms=3 * MINUTE_MS,
                 rates=[{"most": 30, "of": "messages", "per": "min", "used": 30},
                        {"most": 10000, "of": "recipients", "per": "day", "used": 412}],
                 pipeline={"mode": "safe", "max": "safe", "reason": "it said " + ESC + "[31m 500",
                           "until_ms": NOW_MS + 2 * 86_400_000,
                           "lowered": {"max": "off", "reason": "it " + ESC + "[31m broke",
                                       "until_ms": NOW_MS + 52 * MINUTE_MS}})
    for at in range(1, count):
        status["upstreams"].append({**first, "name": "up%d" % at, "state": "well",
                                    "stand_in": None, "hint": "",
                                    "use": "for " + ", ".join(["sender:*@shop.example"] * 9)})
    return status


COUNTS = {"schema": 1, "by": "upstream", "after": None,
          "rows": [{"name": "main", "queued": 1234, "held": 2, "failed": 0, "trashed": 0},
                   {"name": "else", "queued": 9, "held": 9, "failed": 9, "trashed": 9}]}


def test_upstreams_in_detail(daemon):
    daemon.answers.update(status=many_upstreams(1), counts=COUNTS)
    done = ask(daemon, "upstreams")
    assert done.code == 1
    for words in ("Upstream      main: waits", "Host          [relay.example.jp]:587 (Gmail)",
                  "since 15 min ago", "Use           always", "Login by      SCRAM-SHA-256",
                  "2 of 4 connections, 1 busy", "TLSv1.3 TLS_AES_256_GCM_SHA384",
                  r"lowered; more than safe is tried again in 2 d. Learnt: it said \x1b[31m 500",
                  "4 connections at once may have work; paused, as the upstream asked: it goes on "
                  "in 2 min", "30 of 30 messages/min, 412 of 10000 recipients/day used: used up; the "
                  "next message may go in 5 min",
                  r"lowered on suspicion; more than off is tried again in 52 min. Suspected: it "
                  r"\x1b[31m broke", "1234 messages, 2 more held; all will have left in 1 h 30 min",
                  "120 delivered, 3 deferred, 1 refused; the last delivery 3 min ago",
                  "out of order for 3 min in all", "What to do:\n  Check user and password-file"):
        assert words in done.out, (words, done.out)
    assert daemon.asked("counts")[0]["by"] == "upstream"
    (row,) = ask(daemon, "upstreams", "--json").json_lines()
    assert row["queued"] == 1234 and row["schema"] == 1 and row["provider"] == "gmail"


@pytest.mark.parametrize("columns", [80, 100, 140])
@pytest.mark.parametrize("count", [1, 2, 16])
def test_upstreams_fit_the_terminal(daemon, columns, count):
    status = many_upstreams(count)
    status["upstreams"][-1]["name"] = "n" * 64
    daemon.answers.update(status=status, counts=COUNTS)
    done = run_on_terminal("--socket", daemon.path, "upstreams", columns=columns)
    assert ESC + "[31;1m" in done.out
    # The name is one word, and stands whole where there is one line for it alone.
    assert_fits(done, max(columns, 14 + 64 + len(": waits") if count == 1 else 0))
    assert "What to do:" in done.out


def test_upstreams_of_an_older_daemon(daemon):
    """Members that it does not know are not made up."""
    daemon.answers.update(status=status_answer(), counts={"schema": 1})
    done = ask(daemon, "upstreams")
    assert done.code == 0 and "Rate          no limit is set" in done.out
    status = status_answer()
    status["upstreams"][0].update(rates=[{"most": 30, "of": "messages", "per": "min"}], rate_room=3)
    daemon.answers["status"] = status
    assert "Rate          30 messages/min: 3 more messages" in ask(daemon, "upstreams").out
    daemon.answers["status"] = {"schema": 1}
    assert ask(daemon, "upstreams").code == 0
    assert_explains(ask(daemon, "upstreams", "main"), 66, "no upstream")
    daemon.answers["status"] = {"schema": 1, "upstreams": [7, None, {"name": 3}]}
    assert ask(daemon, "upstreams").code == 0


def trace_answer(args):
    """Two lines at first, then a loss; after that nothing."""
    line = {"at_ms": NOW_MS, "upstream": "ma" + ESC + "in", "connection": 33, "id": "06h0abc"}
    if "after" not in args:
        return {"schema": 1, "last": 2, "lost": 0, "lines": [
            {**line, "number": 1, "id": None, "line": "S: 220 " + ESC + "[2J" + BIDI},
            {**line, "number": 2, "line": "C: MAIL FROM:<a@b>"}]}
    if args["after"] == 2:
        return {"schema": 1, "last": 5, "lost": 2, "lines": [
            {**line, "number": 5, "line": "S: 250 ok"}]}
    return {"schema": 1, "last": args["after"], "lost": 0, "lines": []}


def test_trace_out(daemon):
    daemon.answers["trace"] = trace_answer
    done = ask(daemon, "trace", "out", "from:two words", "--for", "1s")
    assert done.code == 0 and done.err == ""
    clock = time.strftime("%H:%M:%S.", time.localtime(NOW_MS / 1000)) + "%03d" % (NOW_MS % 1000)
    head = clock + r"  ma\x1bin#33  "
    assert done.lines() == [head + r"S: 220 \x1b[2J\xe2\x80\xae", head + "-- message 06h0abc",
                            head + "C: MAIL FROM:<a@b>", "-- 2 lines were lost",
                            head + "S: 250 ok"]
    asked = daemon.asked("trace")
    assert [args.get("after") for args in asked[:3]] == [None, 2, 5]
    assert {args["filter"] for args in asked} == {'from:"two words"'}
    rows = ask(daemon, "trace", "out", "--json", "--for=1s").json_lines()
    assert [row.get("number", row.get("lost")) for row in rows] == [1, 2, 2, 5]
    assert all(row["schema"] == 1 for row in rows)
    done = run_on_terminal("--socket", daemon.path, "trace", "out", "--for", "1s")
    assert ESC + "[1mC: MAIL FROM:<a@b>" + ESC + "[0m" in done.out
    assert "Ctrl-C ends it" in done.err


def test_trace_out_of_a_daemon_that_does_not_know_it(daemon):
    daemon.answers["trace"] = refusal("unknown-command", "this daemon does not know that command")
    assert_explains(ask(daemon, "trace", "out"), 1, "does not know", "tasukid --version")


# ---- metrics, config show ----


@pytest.mark.parametrize("words,command", [(["metrics"], "metrics"),
                                           (["config", "show"], "config-show")])
def test_text_is_passed_on(daemon, words, command):
    text = '# HELP a "b" c\\n\na{x="\x1b[31m"} 1\n'
    daemon.answers[command] = {"schema": 1, "text": text, "file": "/etc/tasuki/tasuki.conf"}
    done = ask(daemon, *words)
    assert done.code == 0
    assert done.out == '# HELP a "b" c\\n\na{x="\\x1b[31m"} 1\n'
    assert json.loads(ask(daemon, *words, "--json").out)["text"] == text


# ---- errors that the daemon answers ----


@pytest.mark.parametrize("code,exit_code", [
    ("bad-request", 64), ("unknown-command", 1), ("not-permitted", 77), ("not-found", 66),
    ("ambiguous", 64), ("bad-filter", 64), ("busy", 1), ("failed", 1), ("unavailable", 69),
    ("from-the-future", 1)])
@pytest.mark.parametrize("hint", ["", "type this"])
def test_every_error_code(daemon, code, exit_code, hint):
    daemon.answers["show"] = refusal(code, 'it is "so" ' + ESC + "[31m", hint)
    done = ask(daemon, "show", "0")
    assert_explains(done, exit_code, r'it is "so" \x1b[31m', hint)
    done = ask(daemon, "show", "0", "--json")
    assert done.code == exit_code and done.out == ""
    said = json.loads(done.err)
    assert said["schema"] == 1 and said["ok"] is False
    assert said["error"]["code"] == code
    assert said["error"]["message"] == 'it is "so" ' + ESC + "[31m"
    assert_no_colours(done.err)


def test_error_without_words(daemon):
    daemon.answers["show"] = refusal("failed", "")
    assert_explains(ask(daemon, "show", "0"), 1, "the daemon refuses (failed)")


# ---- a daemon that makes no sense ----

GARBAGE = {
    "no JSON": b"hello\n",
    "binary": bytes(range(256)).replace(b"\n", b"") + b"\n",
    "empty line": b"\n",
    "a list": b"[]\n",
    "a number": b"1\n",
    "deep": b"[" * 100_000 + b"\n",
    "cut JSON": b'{"id":1,"ok":true,"result":{\n',
    "no ok": b'{"id":1,"result":{"schema":1}}\n',
    "ok is text": b'{"id":1,"ok":"yes","result":{"schema":1}}\n',
    "another id": b'{"id":7,"ok":true,"result":{"schema":1}}\n',
    "no id": b'{"ok":true,"result":{"schema":1}}\n',
    "result is a list": b'{"id":1,"ok":true,"result":[]}\n',
    "no result": b'{"id":1,"ok":true}\n',
    "no error": b'{"id":1,"ok":false}\n',
    "error is text": b'{"id":1,"ok":false,"error":"no"}\n',
    "other schema": b'{"id":1,"ok":true,"result":{"schema":2}}\n',
    "no schema": b'{"id":1,"ok":true,"result":{}}\n',
    "twice": b'{"id":1,"id":1,"ok":true,"result":{"schema":1}}\n',
    "an HTTP server": b"HTTP/1.1 400 Bad Request\r\n\r\n",
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage(daemon, name):
    daemon.answers["status"] = Raw(GARBAGE[name])
    assert_explains(ask(daemon), 69, "cannot be understood")


@pytest.mark.parametrize("bytes_sent,words", [
    (b"", "without an answer"), (b'{"id":1,"ok":tr', "in the middle of an answer")])
def test_connection_that_is_closed(daemon, bytes_sent, words):
    daemon.answers["status"] = Raw(bytes_sent)
    assert_explains(ask(daemon), 69, words, "journalctl")


def test_odd_types_within_a_result_are_survived(daemon):
    odd = [None, True, -1, 10 ** 18, "x", [], {}, [[]], [None], {"a": 1}]
    for command, args in (("status", []), ("queue", ["queue"]), ("show", ["show", "0"]),
                          ("retry", ["retry", "0"]), ("test", ["test"]), ("metrics", ["metrics"])):
        plain = {"status": status_answer(), "queue": pages(1)({"limit": 9}),
                 "show": show_answer({"id": "0"}), "retry": edit_answer()({"ids": ["0"]}),
                 "test": test_answer(), "metrics": {"schema": 1, "text": ""}}[command]
        for key in plain:
            for value in odd:
                if key != "schema":
                    daemon.answers[command] = dict(plain, **{key: value})
                    done = ask(daemon, *args)
                    assert done.code in (0, 1, 66, 69), (command, key, value, done.err)
    for key in row():
        for value in odd:
            daemon.answers["queue"] = {"schema": 1, "cursor": None,
                                       "messages": [dict(row(), **{key: value})]}
            assert ask(daemon, "queue").code == 0
    daemon.answers["queue"] = {"schema": 1, "cursor": None, "messages": odd}
    for args in (["queue"], ["queue", "--json"]):
        assert ask(daemon, *args).code == 0


def test_an_answer_of_megabytes(daemon):
    daemon.answers["queue"] = {"schema": 1, "cursor": None, "scanned": 1000,
                               "messages": [row(n, text="x" * 9000) for n in range(1000)]}
    assert len(ask(daemon, "queue").lines()) == 1001


def test_daemon_that_hangs(daemon):
    daemon.answers["status"] = HANG
    begun = time.monotonic()
    done = ask(daemon, "--timeout", "1")
    assert_explains(done, 75, "did not answer within 1 s", "--timeout")
    assert 0.9 < time.monotonic() - begun < 15


def test_backlog_that_is_full(place):
    path = place + "/ctl.sock"
    clients = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        while True:
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            clients.append(client)
            if client.connect_ex(path) != 0:
                break
        assert_explains(run("--socket", path, "--timeout", "1"), 75, "too many wait")
        for client in clients:
            client.close()


# ---- no daemon ----


def test_no_socket(place):
    done = run("--socket", place + "/ctl.sock")
    assert done.code == 69
    for words in ("the daemon does not answer", "there is no socket " + place,
                  "systemctl start tasuki", "tasukid -c "):
        assert words in done.err


def test_socket_that_nobody_listens_on(place):
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(place + "/ctl.sock")
    done = run("--socket", place + "/ctl.sock")
    assert done.code == 69
    for words in ("nobody listens", "refused", "systemctl start tasuki"):
        assert words in done.err


def test_socket_that_is_no_socket(place):
    Path(place, "ctl.sock").write_text("")
    assert run("--socket", place + "/ctl.sock").code == 69


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
@pytest.mark.parametrize("words", [[], ["queue"], ["show", "0"], ["retry", "0"]])
def test_socket_that_may_not_be_opened(daemon, place, words):
    os.chmod(daemon.path, 0o600)
    os.chmod(place, 0o755)
    program = shutil.copy(PROGRAM, place + "/tasukictl")
    done = subprocess.run([program, "--socket", daemon.path, *words], capture_output=True,
                          timeout=PATIENCE_S, env=environment(), user=65534, group=65534,
                          extra_groups=[])
    assert done.returncode == 77
    assert b"permission denied" in done.stderr
    assert b"sudo tasukictl" in done.stderr


def test_path_that_is_too_long():
    assert_explains(run("--socket", "/" + "x" * 200), 64, "the system allows")


def test_edits_need_a_daemon(place):
    for verb in VERBS:
        assert_explains(run("--socket", place + "/ctl.sock", verb, "0"), 69, "does not answer")


def test_socket_of_the_environment_and_of_the_configuration(daemon, place):
    daemon.answers["status"] = status_answer()
    assert run(env=environment(TASUKI_SOCKET=daemon.path)).code == 0
    config = Path(place, "t.conf")
    config.write_text("upstream = [relay.example.jp]:587\nrun = %s\nstate = %s/q\n"
                      % (place, place))
    assert run("-c", str(config)).code == 0
    # The command line counts more than the environment.
    assert run("-c", str(config), env=environment(TASUKI_SOCKET="/nowhere")).code == 0
    assert run("--socket", daemon.path, env=environment(TASUKI_SOCKET="/nowhere")).code == 0
    assert run("--socket", daemon.path, "-c", "/nowhere").code == 0


# ---- the command line ----


@pytest.mark.parametrize("args,words", [
    (["quue"], 'did you mean "queue"?'), (["config", "chek"], 'did you mean "config check"?'),
    (["--jsn"], 'did you mean "--json"?'), (["xyzzy"], "tasukictl help"),
    (["config"], "tasukictl config explain"), (["queue", "--yes"], "takes no --yes"),
    (["show"], "tasukictl show ID"), (["show", "a", "b"], "one word too many"),
    (["--timeout"], "needs a value"), (["--timeout", "0"], "from 1"),
    (["--timeout", "x"], "from 1"), (["--json=1"], "takes no value"),
    (["queue", "--limit", "-1"], "from 1"), (["06h0"], "tasukictl show 06h0"),
    (["help", "quue"], 'did you mean "queue"?'), (["-x"], "unknown option"),
    (["qu" + ESC + "[31m"], r"qu\x1b[31m"), (["why"], "tasukictl why ID"),
    (["backup"], "tasukictl backup FILE"), (["compact", "x"], "one word too many"),
    (["history", "--by", "reason"], "takes no --by"), (["why", "0", "--transcript"], "takes no"),
    (["queue", "--reason", "x"], "takes no --reason"),
    (["trace"], "tasukictl trace out"), (["trace", "in"], 'only "trace out"'),
    (["trace", "outt"], 'did you mean "trace out"?'), (["trace", "out", "--for", "3"], "30s"),
    (["trace", "out", "--for", "0s"], "30s"), (["trace", "out", "--for", "99999999d"], "30s"),
    (["queue", "--for", "3s"], "takes no --for"), (["upstreams", "a", "b"], "one word too many"),
])
def test_usage(args, words):
    assert_explains(run(*args), 64, words)


def test_usage_error_as_json():
    done = run("--json", "quue")
    assert done.code == 64
    assert json.loads(done.err)["error"]["code"] == "usage"


def test_filter_that_is_not_utf8(daemon):
    done = subprocess.run([PROGRAM, "--socket", daemon.path, "queue", b"from:\xff"],
                          capture_output=True, timeout=PATIENCE_S, env=environment())
    assert done.returncode == 64


def test_help_and_version():
    whole = run("help")
    assert whole.code == 0
    rows = run("help", "--json").json_lines()
    assert len(rows) >= 13
    for known in rows:
        assert known["schema"] == 1
        assert "\n  %s" % known["command"] in whole.out
        one = run("help", *known["command"].split())
        assert one.code == 0
        assert one.out == run(*known["command"].split(), "--help").out
        assert one.out.startswith("tasukictl " + known["command"])
        for option in known["options"]:
            assert option in one.out
    assert run("help", "config").out.count("tasukictl config ") == 3
    version = run("--version")
    assert version.code == 0 and re.fullmatch(r"tasukictl \d+\.\d+\.\d+\n", version.out)
    assert json.loads(run("--version", "--json").out)["version"] in version.out


def test_help_fits_the_terminal():
    for words in ([], ["queue"], ["delete"]):
        assert_fits(run_on_terminal("help", *words), 80)


# ---- config check, explain ----

GOOD = "upstream = [relay.example.jp]:587\n"
BAD = "lisen = 25\nupstream = [relay.example.jp]:587\nmax-size = many\n"


def test_config_check(place):
    config = Path(place, "t.conf")
    config.write_text(GOOD)
    for args in (["-c", str(config), "config", "check"], ["config", "check", str(config)]):
        done = run(*args)
        assert done.code == 0 and done.err == ""
        assert "good" in done.lines()[0] and "relay.example.jp" in done.out
    said = json.loads(run("-c", str(config), "config", "check", "--json").out)
    assert said == {"schema": 1, "ok": True, "file": str(config), "errors": []}


def test_config_check_says_all_errors(place):
    config = Path(place, "t.conf")
    config.write_text(BAD)
    done = run("-c", str(config), "config", "check")
    assert done.code == 78 and done.out == ""
    assert "%s:1:" % config in done.err and 'did you mean "listen"?' in done.err
    assert "%s:3:" % config in done.err
    said = run("-c", str(config), "config", "check", "--json")
    assert said.code == 78
    errors = json.loads(said.out)["errors"]
    assert [e["line"] for e in errors] == [1, 3]
    assert all(set(e) == {"line", "column", "message", "fix"} for e in errors)


def test_config_check_of_no_file(place):
    done = run("-c", place + "/none", "config", "check")
    assert done.code == 78 and done.err != ""


def test_a_given_configuration_that_is_bad_ends_every_command(place):
    config = Path(place, "t.conf")
    config.write_text(BAD)
    for words in ([], ["queue"], ["retry", "0"]):
        assert_explains(run("-c", str(config), *words), 78, "config check")


def config_rows():
    text = (ROOT / "schema/config.def").read_text()
    return re.findall(r'^X\((\w+), \w+, "([^"]+)", \w+, "([^"]*)", "([^"]*)", "([^"]*)"\)', text,
                      re.MULTILINE)


def test_config_explain_knows_every_row():
    rows = config_rows()
    assert len(rows) > 30
    everything = run("config", "explain")
    listed = run("config", "explain", "--json").json_lines()
    assert [(r["key"], r["default"], r["doc"], r["example"]) for r in listed] == \
        [row[1:] for row in rows]
    for _, key, default, doc, example in rows:
        one = run("config", "explain", key)
        assert one.code == 0
        assert doc in one.out and default in one.out and example in one.out
        assert key in everything.out and doc in everything.out
    assert_fits(run_on_terminal("config", "explain"), 80)
    assert_explains(run("config", "explain", "giv-up"), 64, "tasukictl config explain give-up")


# ---- the queue on disk ----


@pytest.fixture(scope="module")
def seed(tmp_path_factory):
    program = str(tmp_path_factory.mktemp("seed") / "store_seed")
    archive = str(BUILD / "libtasuki.a")
    if not os.path.exists(archive):
        pytest.skip("no archive to link with")
    subprocess.run(["gcc", "-std=c17", "-D_GNU_SOURCE", "-pthread", "-I", str(ROOT),
                    str(ROOT / "tests/live/store_seed.c"), archive, "-llmdb", "-o", program],
                   check=True, timeout=120)
    return program


@pytest.fixture
def offline(seed, place):
    """A configuration whose daemon is down and whose queue holds 2,000 messages."""
    config = Path(place, "t.conf")
    config.write_text(GOOD + "run = %s\nstate = %s/queue\n" % (place, place))
    ids = subprocess.run([seed, place + "/queue", "2000"], check=True, capture_output=True,
                         timeout=PATIENCE_S).stdout.decode().split()
    return str(config), ids


def test_offline_status(offline):
    config, _ = offline
    done = run("-c", config)
    assert done.code == 69
    assert done.err.startswith("tasukictl: the daemon does not answer")
    assert "tasukid -c " + config in done.err
    assert "667 queued, 667 held, 666 failed" in done.out
    assert "read from disk" in done.out
    counts = json.loads(run("-c", config, "--json").out)
    assert counts["schema"] == 1 and counts["verdict"]["level"] == "trouble"
    assert (counts["queue"]["queued"], counts["queue"]["failed"]) == (667, 666)


def test_offline_queue(offline):
    config, ids = offline
    done = run("-c", config, "queue")
    assert done.code == 0
    assert "as it stands in" in done.err and len(done.err.splitlines()) == 1
    assert [line.split()[0] for line in done.lines()[1:]] == ids
    assert r"page \x1b]0;x" in done.out
    assert_no_colours(done.out)
    failed = run("-c", config, "queue", "state:failed", "--json")
    assert [r["id"] for r in failed.json_lines()] == ids[2::3]
    assert len(run("-c", config, "queue", "--limit", "7").lines()) == 8
    wrong = run("-c", config, "queue", "form:x")
    assert wrong.code == 64 and 'did you mean "from"?' in wrong.err


def test_offline_show(offline):
    config, ids = offline
    done = run("-c", config, "show", ids[2])
    assert done.code == 0
    for words in ("failed", "scanner-2@example.jp", "550", r"no \x1b[31m such user",
                  "the upstream refuses it for good"):
        assert words in done.out
    assert json.loads(run("-c", config, "show", ids[2], "--json").out)["id"] == ids[2]
    for prefix, code in (("0", 64), ("0zzz", 66), ("ilou", 64)):
        assert run("-c", config, "show", prefix).code == code


def test_offline_why_and_transcript(offline):
    config, ids = offline
    done = run("-c", config, "why", ids[2])
    assert done.code == 0
    assert r"It has failed for good" in done.out and r"550 no \x1b[31m such user" in done.out
    assert json.loads(run("-c", config, "why", ids[1], "--json").out)["state"] == "held"
    done = run("-c", config, "show", "--transcript", ids[0])
    assert done.code == 0 and "Nothing has been said" in done.out


def test_offline_history_and_counts(offline):
    config, _ = offline
    done = run("-c", config, "history")
    assert (done.code, done.out) == (0, "The history is empty.\n")
    counts = json.loads(run("-c", config, "queue", "--by", "upstream", "--json").out)
    assert [(r["name"], r["queued"], r["held"], r["failed"]) for r in counts["rows"]] == \
        [("main", 667, 667, 666)]
    done = run("-c", config, "queue", "--by", "reason")
    assert done.code == 0 and "the upstream refuses it for good" in done.out
    wrong = run("-c", config, "queue", "--by", "colour")
    assert wrong.code == 64 and "reason, device or upstream" in wrong.err


def test_offline_config_show(offline):
    config, _ = offline
    done = run("-c", config, "config", "show")
    assert done.code == 0
    assert "host = [relay.example.jp]:587" in done.out
    assert "those of the file" in done.err


def test_offline_changes_nothing(offline, place):
    config, ids = offline
    before = Path(place, "queue/data.mdb").read_bytes()
    for words in ([], ["queue"], ["show", ids[0]], ["retry", ids[0]], ["delete", ids[0]]):
        run("-c", config, *words)
    assert Path(place, "queue/data.mdb").read_bytes() == before


def test_offline_without_a_queue(place):
    config = Path(place, "t.conf")
    config.write_text(GOOD + "run = %s\nstate = %s/none\n" % (place, place))
    for words in ([], ["queue"], ["show", "0"]):
        assert_explains(run("-c", str(config), *words), 69, "does not answer",
                        "nor can the queue be read", "tasukid -c")
    assert not Path(place, "none").exists(), "reading makes nothing"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_offline_root_leaves_no_file_of_its_own(offline, place):
    config, _ = offline
    os.chmod(place, 0o755)
    for name in ("lock.mdb", "swap.lock"):
        Path(place, "queue", name).unlink(missing_ok=True)
    for path in [Path(place, "queue"), *Path(place, "queue").iterdir()]:
        os.chown(path, 65534, 65534)
    assert run("-c", config, "queue", "--limit", "1").code == 0
    assert {p.stat().st_uid for p in Path(place, "queue").iterdir()} == {65534}


# ---- manual pages and completion ----


def test_manual_page_of_the_configuration_is_current(place):
    made = subprocess.run(["/usr/bin/python3", str(ROOT / "packaging/man/make-conf-man.py")],
                          check=True, capture_output=True, timeout=PATIENCE_S).stdout
    assert made == (ROOT / "packaging/man/tasuki.conf.5").read_bytes(), \
        "packaging/man/make-conf-man.py > packaging/man/tasuki.conf.5"
    for _, key, *_ in config_rows():
        assert key.replace("-", "\\-").encode() in made


def test_manual_page_of_the_daemon_is_current():
    made = subprocess.run(["/usr/bin/python3", str(ROOT / "packaging/man/make-daemon-man.py")],
                          check=True, capture_output=True, timeout=PATIENCE_S).stdout
    assert made == (ROOT / "packaging/man/tasukid.8").read_bytes(), \
        "packaging/man/make-daemon-man.py > packaging/man/tasukid.8"
    for table, prefix in (("event.def", ""), ("metric.def", "tasuki_")):
        rows = re.findall(r'^X\(\w+, "([\w-]+)"', (ROOT / "schema" / table).read_text(), re.M)
        assert len(rows) > 10
        for word in rows:
            assert ("\n.BR %s " % (prefix + word).replace("-", "\\-")).encode() in made, word


@pytest.mark.parametrize("page", ["tasukictl.1", "tasukid.8", "tasuki-web.8", "tasuki.conf.5"])
def test_manual_pages_are_well_formed(page):
    path = ROOT / "packaging/man" / page
    if shutil.which("groff"):
        done = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-z", str(path)], check=True,
                              capture_output=True, timeout=PATIENCE_S)
        assert done.stderr == b""
    text = path.read_text()
    assert text.isascii()
    for section in (".SH NAME", ".SH SYNOPSIS", ".SH DESCRIPTION", ".SH SEE ALSO"):
        assert section in text


def test_manual_page_of_tasukictl_knows_all(place):
    text = (ROOT / "packaging/man/tasukictl.1").read_text().replace("\\-", "-")
    for known in run("help", "--json").json_lines():
        assert "\n.B %s" % known["command"] in text or "\n.BR %s" % known["command"] in text or \
            '\n.BI "%s' % known["command"] in text, known["command"]
        for option in known["options"]:
            assert option in text
    for code in (0, 1, 64, 66, 69, 74, 75, 77, 78):
        assert re.search(r"^\.B %d$" % code, text, re.MULTILINE), code


def complete(line):
    """What bash offers at the end of the line."""
    script = """
        source "$1"
        read -ra COMP_WORDS <<< "$2"
        [[ "$2" == *' ' ]] && COMP_WORDS+=("")
        COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
        COMP_LINE=$2 COMP_POINT=${#2}
        _tasukictl
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "-c", script, "bash", str(ROOT / "packaging/completion/tasukictl.bash"), line],
        check=True, capture_output=True, timeout=PATIENCE_S,
        env=environment(PATH=os.path.dirname(os.path.abspath(PROGRAM)) + ":" + os.environ["PATH"],
                        TASUKI_SOCKET="/nowhere/ctl.sock"))
    assert done.stderr == b""
    return [word.strip() for word in done.stdout.decode().split("\n") if word.strip()]


def test_completion():
    commands = {known["command"].split()[0] for known in run("help", "--json").json_lines()}
    assert set(complete("tasukictl ")) == commands
    assert complete("tasukictl qu") == ["queue"]
    assert set(complete("tasukictl config ")) == {"check", "show", "explain"}
    assert complete("tasukictl -c /etc/x config ch") == ["check"]
    for known in run("help", "--json").json_lines():
        assert set(complete("tasukictl %s --" % known["command"])) == set(known["options"])
    assert complete("tasukictl queue sta") == ["state:"]
    words = re.findall(r'^X\(\w+, "([\w-]+)"', (ROOT / "schema/lifecycle.def").read_text(), re.M)
    assert set(complete("tasukictl queue state:")) == set(words)
    assert set(complete("tasukictl history end:")) == {"delivered", "reported", "deleted",
                                                       "discarded"}
    assert set(complete("tasukictl queue --by ")) == {"reason", "device", "upstream"}
    assert complete("tasukictl undelete --reason x sta") == ["state:"]
    assert complete("tasukictl config explain giv") == ["give-up"]
    assert complete("tasukictl trace ") == ["out"]
    assert complete("tasukictl trace out --for 3s sta") == ["state:"]
