"""What the tests of tasuki-web share: a scripted daemon, tasuki-web itself, and hostile words."""

import http.client
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from peers import BUILD

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = str(BUILD / "tasuki-web")
TASUKID = str(BUILD / "tasukid")
PATIENCE_S = 30
NOW_MS = int(time.time() * 1000)
MINUTE_MS = 60_000
XSS = '<img src=x onerror="document.title=\'owned\'"><script>document.title="owned"</script>'
HOSTILE = XSS + "\u202efdp.exe \x1b[31m \x00 ' \" & `${alert(1)}`"

HANG = object()


class Raw(bytes):
    """An answer that is sent as it is, then the connection is closed."""


class Trickle(bytes):
    """An answer that is sent byte by byte and never ends."""


def refusal(code, message, hint=""):
    return {"error": {"code": code, "message": message, "hint": hint}}


class FakeDaemon:
    """Answers as schema/README.md says, or misbehaves on purpose."""

    def __init__(self, directory):
        self.path = os.path.join(directory, "ctl.sock")
        self.answers = {}
        self.requests = []
        self.stopping = threading.Event()
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(self.path)
        self.listener.listen(128)
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
        try:
            with peer, peer.makefile("rb") as lines:
                for line in lines:
                    self.answer(peer, json.loads(line))
        except OSError:
            return

    def answer(self, peer, request):
        self.requests.append(request)
        answer = self.answers[request["command"]]
        if callable(answer):
            answer = answer(request["args"])
        if answer is HANG:
            self.stopping.wait(PATIENCE_S)
            raise ConnectionError
        if isinstance(answer, Trickle):
            for byte in answer:
                peer.sendall(bytes([byte]))
                if self.stopping.wait(0.05):
                    break
            raise ConnectionError
        if isinstance(answer, Raw):
            peer.sendall(answer)
            raise ConnectionError
        whole = {"id": request["id"], "ok": "error" not in answer}
        whole.update(answer if "error" in answer else {"result": answer})
        peer.sendall(json.dumps(whole).encode() + b"\n")

    def asked(self, command):
        return [r["args"] for r in self.requests if r["command"] == command]

    def stop(self):
        self.stopping.set()
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        os.unlink(self.path)
        for thread in self.threads:
            thread.join(PATIENCE_S)


class Web:
    """A running tasuki-web; its port is the one that it logs."""

    def __init__(self, *args):
        self.process = subprocess.Popen([PROGRAM, *args], stderr=subprocess.PIPE)
        self.lines = []
        self.news = threading.Condition()
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()
        start = self.wait_for("event=start ")
        self.port = int(re.search(r"listen=\S+:(\d+)", start)[1])

    def read(self):
        for line in self.process.stderr:
            with self.news:
                self.lines.append(line.decode())
                self.news.notify_all()
        with self.news:
            self.lines.append("")
            self.news.notify_all()

    def wait_for(self, words, count=1):
        def found():
            return [line for line in self.lines if words in line][count - 1:] or (
                "" in self.lines)
        with self.news:
            assert self.news.wait_for(found, PATIENCE_S), self.lines
            assert "" not in self.lines, self.lines
            return [line for line in self.lines if words in line][count - 1]

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(PATIENCE_S)
        self.reader.join(PATIENCE_S)
        self.process.stderr.close()
        return code

    # ---- asking ----

    def connect(self, timeout=PATIENCE_S):
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout)

    def ask(self, path, method="GET", **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            connection.request(method, path,
                               headers={k.replace("_", "-"): v for k, v in headers.items()})
            response = connection.getresponse()
            response.content = response.read()
            return response
        finally:
            connection.close()

    def get_json(self, path):
        response = self.ask(path)
        assert response.getheader("Content-Type") == "application/json"
        return response.status, json.loads(response.content)

    def raw(self, data, half_close=False):
        """All that comes back until the connection ends."""
        with self.connect() as peer:
            try:
                peer.sendall(data)
                if half_close:
                    peer.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            return read_all(peer)

    def status_of(self, data):
        got = self.raw(data)
        assert got.startswith(b"HTTP/1.1 "), got[:200]
        return int(got[9:12])


def read_all(peer):
    got = b""
    while True:
        try:
            piece = peer.recv(65536)
        except ConnectionResetError:
            return got
        if not piece:
            return got
        got += piece


def short_directory():
    """A socket's path has 107 bytes."""
    return tempfile.mkdtemp(prefix="tweb-")


def status_answer(**more):
    status = {
        "schema": 1, "now_ms": NOW_MS, "started_ms": NOW_MS - 3 * 86_400_000, "version": "0.1.0",
        "pid": 4711,
        "verdict": {"level": "ok",
                    "sentence": "All is well: 3 messages on the way, nothing waits for you.",
                    "hint": ""},
        "io": {"backend": "io_uring", "reason": "the kernel offers it", "features": "multishot"},
        "queue": {"queued": 3, "sending": 1, "held": 0, "failed": 0, "trashed": 2,
                  "body_bytes": 1_300_000, "used_bytes": 1 << 30, "max_bytes": 20 << 30,
                  "file_bytes": 1 << 30, "accepting": True,
                  "oldest_due_ms": NOW_MS + 4 * MINUTE_MS},
        "history": {"messages": 1234, "bytes": 3_000_000}, "reports": 1,
        "upstreams": [{
            "name": "main", "host": "[relay.example.jp]:587", "state": "well",
            "use": "always", "stand_in": None, "connections": 2,
            "connections_max": 4, "busy": 1, "delivered": 120, "deferred": 3, "refused": 1,
            "last_delivery_ms": NOW_MS - 3 * MINUTE_MS, "peer": "192.0.2.1:587",
            "tls": "TLSv1.3 TLS_AES_256_GCM_SHA384", "mechanism": "SCRAM-SHA-256",
            "outage_ms": 0, "concurrency": 4, "paused_until_ms": 0, "rate_room": None,
            "forecast_ms": None, "pipeline": {"mode": "safe", "max": "safe",
                                              "reason": "the upstream announces it"}}],
        "listeners": ["0.0.0.0:25", "[::]:25"], "clients": 12,
        "counters": {"accepted": 124, "delivered": 120, "deferred": 3, "refused": 1,
                     "rejected": 2},
    }
    status.update(more)
    return status


def marked_status(text="5.7.8 authentication failed"):
    status = status_answer()
    status["verdict"] = {
        "level": "trouble",
        "sentence": "Mail is not leaving by main: the upstream refuses the login. 3 messages "
                    "wait; nothing is lost.",
        "hint": "Check user and password-file of this upstream, then: tasukictl test"}
    status["queue"].update(failed=2, held=1)
    status["upstreams"][0].update(
        state="marked", reason="auth-refused", sentence="the upstream refuses the login",
        hint="Check user and password-file of this upstream, then: tasukictl test", code=535,
        text=text, marked_ms=NOW_MS - 15 * MINUTE_MS, next_probe_ms=NOW_MS + 2 * MINUTE_MS,
        connections=0, busy=0)
    return status


def row(number=0, **more):
    message = {
        "id": "06h0r8y3%08d" % number, "in": "queue", "state": "deferred", "from": "scanner@example.jp",
        "to": ["anna@example.jp", "bert@example.jp"], "recipient_count": 2, "bytes": 123_456,
        "arrived_ms": NOW_MS - 3 * 3_600_000, "client": "192.168.1.50", "device": "",
        "subject": "Scan of the 2nd floor, page %d" % number, "upstream": "main", "attempts": 2,
        "due_ms": NOW_MS + 4 * MINUTE_MS, "last_ms": NOW_MS - MINUTE_MS, "reason": "deferred",
        "sentence": "the upstream asks to try again later", "hint": "", "code": 451,
        "enhanced": "4.3.0", "text": "try later"}
    message.update(more)
    return message


def gone(number=0, **more):
    """A row of the history: delivered two minutes after it had arrived, unless told otherwise."""
    arrived = NOW_MS - 3_600_000 - number * MINUTE_MS
    message = row(number, **{"in": "history"}, state="delivered", arrived_ms=arrived, due_ms=0,
                  left_ms=arrived + 2 * MINUTE_MS, end="delivered", reason="delivered",
                  sentence="the upstream has taken it", code=250, enhanced="2.0.0", text="2.0.0 Ok")
    message.update(more)
    return message


def move(age_ms, cause, before, after, **more):
    step = {"when_ms": NOW_MS - age_ms, "cause": cause, "from": before, "to": after,
            "reason": "none", "sentence": "", "code": 0, "enhanced": "", "first": 0, "count": 2,
            "connection": 0, "took_ms": 0, "upstream": "", "peer": "", "tls": "", "text": "",
            "uid": 0}
    step.update(more)
    return step


def moves():
    tried = {"connection": 17, "took_ms": 120, "upstream": "main", "peer": "192.0.2.1:587",
             "tls": "TLSv1.3"}
    return [move(3 * 3_600_000, "attempt", "sending", "deferred", reason="deferred",
                 sentence="the upstream asks to try again later", code=451, enhanced="4.3.0",
                 text="4.3.0 try later", **tried),
            move(50 * MINUTE_MS, "attempt", "sending", "failed", reason="no-such-recipient", first=1,
                 count=1, sentence="the upstream does not know the recipient", code=550,
                 enhanced="5.1.1", text="5.1.1 no such user here", **tried),
            move(40 * MINUTE_MS, "operator", "deferred", "held", uid=1000, text="too early"),
            move(30 * MINUTE_MS, "operator", "held", "deferred"),
            move(20 * MINUTE_MS, "reported", "failed", "failed")]


def show_answer(text="no such user here", **more):
    tried = {"sentence": "the upstream asks to try again later", "hint": "", "code": 451,
             "enhanced": "4.3.0", "text": "try later", "notify": [], "told": []}
    return dict({"moves": moves(), "moves_left_out": 0}, **row(**more), schema=1,
                helo="scanner.local", chunks=1, flags=["8bitmime"], envid="",
                recipients=[
                    {"to": "anna@example.jp", "state": "deferred", "reason": "deferred", **tried},
                    {"to": "日本@example.jp", "state": "failed", "reason": "no-such-recipient",
                     "sentence": "the upstream does not know the recipient",
                     "hint": "Check the address; then delete it.", "code": 550,
                     "enhanced": "5.1.1", "text": text, "notify": ["failure"],
                     "told": ["failed"]}])


def transcript_answer():
    return {"schema": 1, "id": row()["id"],
            "lines": ["-- 2026-11-26T03:00:00Z main", "C: MAIL FROM:<scanner@example.jp>",
                      "S: 451 4.3.0 try later"]}


def counts_answer(by="reason", after=None):
    return {"schema": 1, "by": by, "after": after, "rows": [
        {"name": "deferred", "sentence": "the upstream asks to try again later", "queued": 3,
         "held": 0, "failed": 0, "trashed": 1}]}


def list_answer(*messages, cursor=None):
    return {"schema": 1, "messages": list(messages), "cursor": cursor, "scanned": len(messages)}


def pages(count):
    """A queue of so many messages, as the command queue answers it."""
    def answer(args):
        first = int(args.get("cursor", "0"))
        last = min(first + args.get("limit", 100), count)
        return list_answer(*[row(n) for n in range(first, last)],
                           cursor=str(last) if last < count else None)
    return answer


def wait_until(condition, what):
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, what
        select.select([], [], [], 0.02)


def remove(directory):
    shutil.rmtree(directory)
