"""tasuki-web against a scripted daemon, against the real one, and against hostile clients.

    /usr/bin/python3 -m pytest tests/live/test_web.py        (after make)
"""

import json
import os
import re
import smtplib
import socket
import subprocess
import sys
import time

import pytest

import web_rig
from web_rig import (HANG, HOSTILE, PATIENCE_S, ROOT, FakeDaemon, Raw, Trickle, Web, counts_answer,
                     gone, list_answer, pages, refusal, row, show_answer, status_answer,
                     transcript_answer)

GET = b"GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@pytest.fixture
def place():
    path = web_rig.short_directory()
    yield path
    web_rig.remove(path)


@pytest.fixture
def daemon(place):
    fake = FakeDaemon(place)
    fake.answers = {"status": status_answer(), "queue": pages(3), "show": show_answer(),
                    "history": list_answer(gone(1), gone(2)), "transcript": transcript_answer(),
                    "counts": counts_answer(),
                    "metrics": {"schema": 1, "text": "# HELP tasuki_accepted x\n"
                                                     "tasuki_accepted 7\n"}}
    yield fake
    if not fake.stopping.is_set():
        fake.stop()


@pytest.fixture
def web(daemon):
    running = Web("--listen", "127.0.0.1:0", "--socket", daemon.path, "--host", "relay.office.test")
    yield running
    assert running.stop() == 0
    assert any("event=stop " in line for line in running.lines)


@pytest.fixture
def alone(place):
    """No daemon."""
    running = Web("--listen", "127.0.0.1:0", "--socket", os.path.join(place, "ctl.sock"))
    yield running
    assert running.stop() == 0


def assert_trouble(answer, code, *words):
    error = answer["error"]
    assert (answer["schema"], answer["ok"], error["code"]) == (1, False, code)
    for word in words:
        assert word in error["message"] + " " + error["hint"]


# ---- the routes ----


@pytest.mark.parametrize("path,kind,file", [
    ("/", "text/html; charset=utf-8", "page.html"), ("/page.css", "text/css; charset=utf-8", None),
    ("/page.js", "text/javascript; charset=utf-8", "page.js"), ("/icon.svg", "image/svg+xml", None),
    ("/api/v1/openapi.json", "application/json", "openapi.json")])
def test_files(web, path, kind, file):
    response = web.ask(path)
    assert (response.status, response.getheader("Content-Type")) == (200, kind)
    assert response.content == (ROOT / "web" / (file or path[1:])).read_bytes()


def test_embedded_files_are_current():
    done = subprocess.run([sys.executable, str(ROOT / "web/embed.py"), "--check"],
                          capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr


def test_page_has_nothing_inline_and_nothing_external():
    page = (ROOT / "web/page.html").read_text()
    assert not re.search(r"<script(?![^>]*src=)|\son\w+=|\sstyle=|<style", page)
    assert not re.search(r"(src|href)=\"(?!/|#)", page)
    script = (ROOT / "web/page.js").read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", script)
    for name in ("page.html", "page.css", "page.js"):
        assert not re.search(r"https?://|@import|url\(", (ROOT / "web" / name).read_text())


def test_health(web):
    response = web.ask("/healthz")
    assert (response.status, response.content) == (200, b"ok\n")


def test_ready(web, daemon):
    response = web.ask("/readyz")
    assert (response.status, response.content) == (
        200, b"All is well: 3 messages on the way, nothing waits for you.\n")
    full = status_answer(verdict={"level": "trouble", "sentence": "The queue is full.",
                                  "hint": "raise queue-max"})
    full["queue"]["accepting"] = False
    daemon.answers["status"] = full
    response = web.ask("/readyz")
    assert (response.status, response.content) == (
        503, b"The queue is full.\nnext: raise queue-max\n")


def test_metrics(web, daemon):
    response = web.ask("/metrics")
    assert response.status == 200
    assert response.getheader("Content-Type").startswith("text/plain; version=0.0.4")
    lines = response.content.decode().splitlines()
    assert "tasuki_accepted 7" in lines and "tasuki_up 1" in lines
    daemon.answers["metrics"] = {"schema": 1, "text": "a 1"}
    assert web.ask("/metrics").content.decode().splitlines()[0] == "a 1"


def test_status(web):
    assert web.get_json("/api/v1/status") == (200, status_answer())


def test_messages(web, daemon):
    daemon.answers["queue"] = pages(250)
    status, answer = web.get_json("/api/v1/messages")
    assert status == 200 and len(answer["messages"]) == 100
    assert daemon.asked("queue") == [{}]
    status, answer = web.get_json("/api/v1/messages?q=from%3Ascan+%22a%20b%22&cursor=200&limit=30")
    assert status == 200 and answer["messages"][0] == row(200)
    assert daemon.asked("queue")[1] == {"filter": 'from:scan "a b"', "cursor": "200", "limit": 30}


@pytest.mark.parametrize("query,words", [
    ("limit=0", "1 to 1000"), ("limit=1001", "1 to 1000"), ("limit=x", "1 to 1000"),
    ("limit=", "1 to 1000"), ("limit=-1", "1 to 1000"), ("limit=99999999999999999999", "1 to 1000"),
    ("q=a&q=b", "twice"), ("q=%", "encoded"), ("q=%4", "encoded"), ("q=%zz", "encoded"),
    ("q=%00", "encoded"), ("q=%ff", "UTF-8"), ("limits=1", "did you mean limit"),
    ("filter=x", "q, cursor and limit")])
def test_bad_parameters(web, daemon, query, words):
    status, answer = web.get_json("/api/v1/messages?" + query)
    assert status == 400
    assert_trouble(answer, "bad-request", words)
    assert daemon.requests == []


def test_message(web, daemon):
    assert web.get_json("/api/v1/messages/06h0r") == (200, show_answer())
    assert web.get_json("/api/v1/messages/a%2Fb%20c")[0] == 200
    assert daemon.asked("show") == [{"id": "06h0r"}, {"id": "a/b c"}]
    for bad in ("", "x" * 65, "%ff", "%00", "%"):
        status, answer = web.get_json("/api/v1/messages/" + bad)
        assert status == 400
        assert_trouble(answer, "bad-request", "no message id")


@pytest.mark.parametrize("code,status", [
    ("bad-request", 400), ("unknown-command", 502), ("not-permitted", 403), ("not-found", 404),
    ("ambiguous", 409), ("bad-filter", 400), ("busy", 503), ("failed", 500), ("unavailable", 503),
    ("from-the-future", 500)])
def test_every_error_code(web, daemon, code, status):
    daemon.answers["show"] = refusal(code, "it is so " + HOSTILE, "type this")
    got, answer = web.get_json("/api/v1/messages/0")
    assert got == status
    assert_trouble(answer, code, "it is so <img", "type this")


def test_a_very_long_error_is_cut_between_characters(web, daemon):
    daemon.answers["show"] = refusal("not-found", "日本" * 2000, "語" * 1000)
    status, answer = web.get_json("/api/v1/messages/0")
    assert status == 404
    assert_trouble(answer, "not-found", "日本")
    assert "\ufffd" not in answer["error"]["message"] + answer["error"]["hint"]


def test_hostile_text_is_passed_as_data(web, daemon):
    daemon.answers["queue"] = web_rig.list_answer(row(subject=HOSTILE, **{"from": HOSTILE}))
    response = web.ask("/api/v1/messages")
    message = json.loads(response.content)["messages"][0]
    assert message["subject"] == HOSTILE and message["from"] == HOSTILE
    assert response.getheader("X-Content-Type-Options") == "nosniff"


@pytest.mark.parametrize("path", ["/nothing", "/api/v1/nothing", "/api/v1/status/", "/page.html",
                                  "/../etc/passwd", "/%2e%2e/etc/passwd", "//", "/api/v1/messagesx"])
def test_no_such_address(web, path):
    response = web.ask(path)
    assert response.status == 404
    assert (response.getheader("Content-Type") == "application/json") == path.startswith("/api/")


def test_openapi_describes_what_exists(web):
    document = json.loads((ROOT / "web/openapi.json").read_text())
    for path in document["paths"]:
        assert list(document["paths"][path]) == ["get"]
        assert web.ask(path.replace("{id}", "06h0")).status == 200
    rows = re.findall(r'\{"(/[^"]*)", (NULL|"[^"]*"), SHAPE', (ROOT / "web/route.c").read_text())
    routes = {path + ("" if tail == "NULL" else "{id}" + tail.strip('"')) for path, tail in rows}
    assert {r for r in routes if "page" not in r and r not in ("/", "/icon.svg")} == \
        set(document["paths"])
    states = re.findall(r'^X\(\w+, "([\w-]+)"', (ROOT / "schema/lifecycle.def").read_text(), re.M)
    assert document["components"]["schemas"]["Row"]["properties"]["state"]["enum"] == states


def test_history(web, daemon):
    assert web.get_json("/api/v1/history") == (200, list_answer(gone(1), gone(2)))
    assert web.get_json("/api/v1/history?q=end%3Areported&cursor=06h0&limit=20")[0] == 200
    assert daemon.asked("history") == [{}, {"filter": "end:reported", "cursor": "06h0",
                                            "limit": 20}]
    for query, words in (("limit=0", "1 to 1000"), ("after=x", "unknown parameter")):
        status, answer = web.get_json("/api/v1/history?" + query)
        assert status == 400
        assert_trouble(answer, "bad-request", words)


def test_moves(web, daemon):
    shown = show_answer(moves_left_out=3)
    daemon.answers["show"] = shown
    status, answer = web.get_json("/api/v1/messages/06h0r/history")
    assert status == 200
    assert answer == {"schema": 1, "id": shown["id"], "in": "queue", "moves": shown["moves"],
                      "moves_left_out": 3}
    assert daemon.asked("show") == [{"id": "06h0r"}]
    daemon.answers["show"] = {"schema": 1, "moves": 7}
    assert web.get_json("/api/v1/messages/0/history") == (200, {"schema": 1, "moves": 7})
    daemon.answers["show"] = refusal("not-found", "none begins so", "tasukictl history")
    assert web.get_json("/api/v1/messages/0/history")[0] == 404


def test_transcript(web, daemon):
    assert web.get_json("/api/v1/messages/06h0r/transcript") == (200, transcript_answer())
    assert daemon.asked("transcript") == [{"id": "06h0r"}]
    daemon.answers["transcript"] = refusal("not-permitted", "no", "try it with sudo")
    status, answer = web.get_json("/api/v1/messages/06h0r/transcript")
    assert status == 403
    assert_trouble(answer, "not-permitted", "to root and to its own user only", "--transcript ID")
    daemon.answers["show"] = refusal("not-permitted", "it is so", "type this")
    assert_trouble(web.get_json("/api/v1/messages/06h0r")[1], "not-permitted", "it is so")


@pytest.mark.parametrize("tail", ["history", "transcript"])
def test_below_a_message(web, daemon, tail):
    for bad in ("", "x" * 65, "%ff"):
        status, answer = web.get_json("/api/v1/messages/%s/%s" % (bad, tail))
        assert status == 400
        assert_trouble(answer, "bad-request", "no message id")
    assert daemon.requests == []
    assert web.get_json("/api/v1/messages/" + tail)[0] == 200
    assert daemon.asked("show") == [{"id": tail}], "an id, if a strange one"


@pytest.mark.parametrize("path,by", [("reasons", "reason"), ("devices", "device")])
def test_counts(web, daemon, path, by):
    daemon.answers["counts"] = counts_answer(by, after="deferred")
    assert web.get_json("/api/v1/" + path) == (200, counts_answer(by, after="deferred"))
    assert web.get_json("/api/v1/" + path + "?limit=1&after=a%20b")[0] == 200
    assert daemon.asked("counts") == [{"by": by}, {"by": by, "limit": 1, "after": "a b"}]
    for query, words in (("limit=1001", "1 to 1000"), ("q=x", "there are after and limit"),
                         ("aftr=x", "did you mean after?"), ("after=a&after=b", "twice"),
                         ("by=upstream", "unknown parameter")):
        status, answer = web.get_json("/api/v1/%s?%s" % (path, query))
        assert status == 400
        assert_trouble(answer, "bad-request", words)


SECURITY = {
    "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY", "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
                               "connect-src 'self'; img-src 'self'; base-uri 'none'; "
                               "form-action 'none'; frame-ancestors 'none'"}


@pytest.mark.parametrize("path,method", [
    ("/", "GET"), ("/api/v1/status", "GET"), ("/metrics", "GET"), ("/nothing", "GET"),
    ("/healthz", "GET"), ("/api/v1/messages?limit=x", "GET"), ("/", "POST"), ("/", "FOO")])
def test_security_headers(web, path, method):
    response = web.ask(path, method, Origin="http://evil.test")
    for name, value in SECURITY.items():
        assert response.getheader(name) == value
    assert not any(name.lower().startswith("access-control") for name, _ in response.getheaders())
    assert response.getheader("Cache-Control") == ("no-cache" if (path, method) == ("/", "GET")
                                                   else "no-store")


def test_head(web):
    for path in ("/", "/healthz", "/readyz", "/metrics", "/api/v1/status", "/api/v1/messages",
                 "/api/v1/openapi.json", "/nothing"):
        head, get = web.ask(path, "HEAD"), web.ask(path)
        assert head.status == get.status and head.content == b""
        assert head.getheader("Content-Length") == str(len(get.content))


# ---- the daemon is down, slow, or makes no sense ----


def test_daemon_down(alone):
    assert alone.ask("/").status == 200
    assert alone.ask("/healthz").status == 200
    response = alone.ask("/readyz")
    assert response.status == 503 and b"The daemon is not running" in response.content
    assert b"next: systemctl start tasuki" in response.content
    status, answer = alone.get_json("/api/v1/status")
    assert status == 503
    assert_trouble(answer, "unreachable", "The daemon is not running", "systemctl start tasuki")
    response = alone.ask("/metrics")
    assert response.status == 200 and response.content.endswith(b"tasuki_up 0\n")
    assert "No such file" in alone.wait_for("event=daemon-lost ")


def test_daemon_goes_and_comes_back(web, daemon, place):
    assert web.ask("/readyz").status == 200
    web.wait_for("event=daemon-answers")
    daemon.stop()
    assert web.ask("/readyz").status == 503
    web.wait_for("event=daemon-lost")
    second = FakeDaemon(place)
    second.answers = daemon.answers
    try:
        assert web.ask("/readyz").status == 200
        web.wait_for("event=daemon-answers", 2)
    finally:
        second.stop()


@pytest.mark.parametrize("answer", [HANG, Trickle(b'{"id":1,' + b" " * 100_000)],
                         ids=["silent", "trickling"])
def test_daemon_slow(web, daemon, answer):
    daemon.answers["status"] = answer
    with web.connect() as waiting:
        waiting.sendall(GET % b"/api/v1/status")
        web_rig.wait_until(lambda: daemon.requests, "the daemon was not asked")
        assert web.ask("/healthz").status == 200, "others are not held up"
        assert web.ask("/api/v1/messages").status == 200
        got = web_rig.read_all(waiting)
    head, body = got.split(b"\r\n\r\n", 1)
    assert head.startswith(b"HTTP/1.1 503 ") and b"Retry-After: " in head
    assert_trouble(json.loads(body), "timed-out", "within 2 seconds")


def test_daemon_slow_and_many_ask(web, daemon):
    daemon.answers["status"] = HANG
    peers = [web.connect() for _ in range(40)]
    try:
        for peer in peers:
            peer.sendall(GET % b"/api/v1/status")
        answers = [web_rig.read_all(peer) for peer in peers]
    finally:
        for peer in peers:
            peer.close()
    assert all(a.startswith(b"HTTP/1.1 503 ") for a in answers)
    assert sum(b'"busy"' in a for a in answers) == 8
    assert sum(b'"timed-out"' in a for a in answers) == 32
    daemon.answers["status"] = status_answer()
    assert web.ask("/api/v1/status").status == 200


GARBAGE = {
    "no JSON": b"hello\n",
    "binary": bytes(range(256)).replace(b"\n", b"") + b"\n",
    "empty line": b"\n",
    "a list": b"[]\n",
    "deep": b"[" * 100_000 + b"\n",
    "cut JSON": b'{"id":1,"ok":true,"result":{\n',
    "no ok": b'{"id":1,"result":{"schema":1}}\n',
    "ok is text": b'{"id":1,"ok":"yes","result":{"schema":1}}\n',
    "another id": b'{"id":7,"ok":true,"result":{"schema":1}}\n',
    "no id": b'{"ok":true,"result":{"schema":1}}\n',
    "result is a list": b'{"id":1,"ok":true,"result":[]}\n',
    "no result": b'{"id":1,"ok":true}\n',
    "error is text": b'{"id":1,"ok":false,"error":"no"}\n',
    "other schema": b'{"id":1,"ok":true,"result":{"schema":2}}\n',
    "twice": b'{"id":1,"id":1,"ok":true,"result":{"schema":1}}\n',
    "bad UTF-8": b'{"id":1,"ok":true,"result":{"schema":1,"x":"\xff"}}\n',
    "endless": b"x" * (9 << 20),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_daemon_garbage(web, daemon, name):
    daemon.answers["status"] = Raw(GARBAGE[name])
    status, answer = web.get_json("/api/v1/status")
    assert status == 502
    assert_trouble(answer, "not-understood", "cannot be understood", "--version")
    assert web.ask("/readyz").status == 502
    daemon.answers["metrics"] = Raw(GARBAGE[name])
    assert web.ask("/metrics").content.endswith(b"tasuki_up 0\n")


@pytest.mark.parametrize("said", [b"", b'{"id":1,"ok":true'])
def test_daemon_hangs_up(web, daemon, said):
    daemon.answers["status"] = Raw(said)
    status, answer = web.get_json("/api/v1/status")
    assert status == 503
    assert_trouble(answer, "unreachable", "closed the connection")


def test_odd_but_valid_answers(web, daemon):
    """Fields that are missing or of another kind do no harm here."""
    for odd in ({"schema": 1}, {"schema": 1, "queue": 7, "verdict": []},
                {"schema": 1, "verdict": {"sentence": None}}):
        daemon.answers["status"] = odd
        assert web.get_json("/api/v1/status") == (200, odd)
        assert web.ask("/readyz").status == 503
    daemon.answers["metrics"] = {"schema": 1, "text": 5}
    assert web.ask("/metrics").content.endswith(b"tasuki_up 1\n")


# ---- hostile clients ----


def with_host(host):
    return b"GET /healthz HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("host", [
    b"localhost", b"LOCALHOST:8025", b"127.0.0.1", b"127.0.0.1:80", b"127.9.9.9", b"[::1]",
    b"[::1]:8025", b"page.localhost", b"relay.office.test", b"Relay.Office.Test:8025",
    socket.gethostname().encode()])
def test_a1_own_hosts(web, host):
    assert web.status_of(with_host(host)) == 200


@pytest.mark.parametrize("host", [
    b"evil.test", b"evil.test:8025", b"127.0.0.1.evil.test", b"localhost.evil.test",
    b"evil-localhost", b"192.0.2.1", b"[2001:db8::1]", b"0.0.0.0", b"", b"[::1", b"127.1",
    b"0x7f.0.0.1", b"2130706433", b"localhost:x", b"localhost:123456", b"localhost localhost",
    b"localhost,evil.test", b"evil.test@localhost", b"localhost/", b"::1", b"\xff", b"a" * 300])
def test_a1_foreign_hosts(web, daemon, host):
    assert web.status_of(with_host(host)) == 421
    assert daemon.requests == []
    web.wait_for("event=request-refused ")


@pytest.mark.parametrize("head", [
    b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: y\r\nhost: evil.test\r\n\r\n"])
def test_a1_host_missing_or_double(web, head):
    assert web.status_of(head) == 400


def test_a1_absolute_form(web):
    """RFC 9112 3.2.2: the target's host stands in for Host, and is judged."""
    def target(url):
        return web.status_of(b"GET " + url + b" HTTP/1.1\r\nHost: localhost\r\n"
                             b"Connection: close\r\n\r\n")
    assert target(b"http://localhost/healthz") == 200
    assert target(b"http://evil.test/healthz") == 421
    assert target(b"http://localhost") == 200
    assert target(b"ftp://localhost/") == 400


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_a2_a9_only_get_and_head(web, daemon, method):
    for path in ("/", "/api/v1/messages", "/api/v1/messages/actions"):
        response = web.ask(path, method, Origin="http://evil.test")
        assert (response.status, response.getheader("Allow")) == (405, "GET, HEAD")
    assert daemon.requests == []


@pytest.mark.parametrize("name,head,status", [
    ("unknown method", b"FOO / HTTP/1.1", 501), ("lower case", b"get / HTTP/1.1", 501),
    ("CONNECT", b"CONNECT localhost:80 HTTP/1.1", 405), ("OPTIONS *", b"OPTIONS * HTTP/1.1", 405),
    ("HTTP/0.9", b"GET /", 400), ("HTTP/2", b"GET / HTTP/2.0", 505),
    ("HTTP/0.9 in words", b"GET / HTTP/0.9", 505), ("HTTP/11", b"GET / HTTP/11.1", 400),
    ("no version", b"GET / HTTP/", 400), ("no target", b"GET HTTP/1.1", 400),
    ("two blanks", b"GET  / HTTP/1.1", 400), ("blank in target", b"GET /a b HTTP/1.1", 400),
    ("tab", b"GET\t/\tHTTP/1.1", 400), ("blank first", b" GET / HTTP/1.1", 400),
    ("blank last", b"GET / HTTP/1.1 ", 400), ("no slash", b"GET healthz HTTP/1.1", 400),
    ("asterisk", b"GET * HTTP/1.1", 400), ("fragment", b"GET /#x HTTP/1.1", 400),
    ("8-bit", b"GET /\xe9 HTTP/1.1", 400), ("empty", b"", 400),
    ("HTTP/1.2", b"GET / HTTP/1.2", 200)])
def test_a9_request_lines(web, name, head, status):
    got = web.status_of(head + b"\r\nHost: localhost\r\nConnection: close\r\n\r\n\r\n\r\n")
    assert got == status, name


def test_a9_other_protocols(web):
    assert web.status_of(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n") == 505
    assert web.status_of(bytes.fromhex("16030100c8010000c40303") + b"x" * 200) == 400
    assert web.status_of(b"\x00\xff\r\n\r\n") == 400
    assert web.status_of(b"EHLO x\r\nQUIT\r\n\r\n") == 400
    assert web.status_of(b"SSH-2.0-OpenSSH_9\r\n\r\n") == 400


@pytest.mark.parametrize("fields", [
    b"Content-Length: 0\r\nContent-Length: 0", b"Content-Length: 0\r\nContent-Length: 5",
    b"Content-Length: 0\r\nTransfer-Encoding: chunked", b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", b"Content-Length: -1",
    b"Content-Length: +1", b"Content-Length: 100000000000000000000", b"Content-Length: 0x1",
    b"Content-Length: ", b"Content-Length: 0, 0", b"Content-Length: 5"])
@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_a4_lengths(web, fields, method):
    smuggled = GET % b"/healthz"
    got = web.raw(method + b" / HTTP/1.1\r\nHost: localhost\r\n" + fields + b"\r\n\r\n" + smuggled)
    assert got.startswith(b"HTTP/1.1 400 ") and b"Connection: close" in got
    assert got.count(b"HTTP/1.1 ") == 1, "nothing behind it is read as a request"


def test_a4_length_of_nothing_is_fine(web):
    got = web.raw(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n" +
                  GET % b"/healthz")
    assert got.count(b"HTTP/1.1 200 ") == 2


@pytest.mark.parametrize("body", [
    b"Content-Length: 20\r\n\r\n" + GET % b"/healthz",
    b"Transfer-Encoding: chunked\r\n\r\n5;" + b"x" * (1 << 20) + b"\r\n",
    b"Transfer-Encoding: chunked\r\n\r\nzzz\r\n"], ids=["length", "chunk extension", "no chunk"])
def test_a4_bodies_are_never_read(web, body):
    got = web.raw(b"POST /api/v1/reload HTTP/1.1\r\nHost: localhost\r\n" + body)
    assert got.startswith(b"HTTP/1.1 405 ") and got.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("head", [
    b"GET / HTTP/1.1\nHost: localhost\n\n", b"GET / HTTP/1.1\r\nHost: localhost\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\n", b"GET / HTTP/1.1\rHost: localhost\r\r",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\rb\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\r\n\tb\r\n\r\n",
    b"GET / HTTP/1.1\r\n Host: localhost\r\n\r\n", b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX\t: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\0b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: local\0host\r\n\r\n", b"GET /\0 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX\0: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nnocolon\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\n: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\n(x): a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: \x1b[31m\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: \x7f\r\n\r\n", b"\r\n\r\n\r\n\r\n"])
def test_a5_malformed_fields(web, head):
    got = web.raw(head)
    assert got.startswith(b"HTTP/1.1 400 ") and b"Connection: close" in got


@pytest.mark.parametrize("head,status", [
    (b"GET /" + b"a" * 4000 + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 404),
    (b"GET /" + b"a" * 4100 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414),
    (b"GET /" + b"a" * (1 << 20) + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414),
    (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX: " + b"a" * 16000
     + b"\r\n\r\n", 200),
    (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * (1 << 20) + b"\r\n\r\n", 431),
    (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + b"X: a\r\n" * 98
     + b"\r\n", 200),
    (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: a\r\n" * 100 + b"\r\n", 431),
    (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X:\r\n" * 10_000 + b"\r\n", 431)],
    ids=["line", "long line", "1 MB line", "field", "1 MB field", "100 fields", "102 fields",
         "10,000 fields"])
def test_a6_too_much(web, head, status):
    assert web.status_of(head) == status


def test_a7_idle_connections(web):
    peers = [web.connect() for _ in range(200)]
    try:
        for peer in peers[:100]:
            peer.sendall(b"GET / HTTP/1.1\r\nHost: local")
        for path in ("/", "/api/v1/status", "/healthz"):
            assert web.ask(path).status == 200
    finally:
        for peer in peers:
            peer.close()


def test_a7_more_than_there_is_room_for(web):
    """Whoever has kept the server waiting longest makes room."""
    peers = []
    try:
        for _ in range(600):
            peers.append(web.connect())
            if len(peers) <= 300:
                peers[-1].sendall(b"GET /")
        assert web.ask("/").status == 200
        assert read_nothing(peers[0])
        descriptors = len(os.listdir(f"/proc/{web.process.pid}/fd"))
        assert descriptors < 280
    finally:
        for peer in peers:
            peer.close()


def read_nothing(peer):
    peer.settimeout(PATIENCE_S)
    try:
        return peer.recv(10) == b""
    except ConnectionResetError:
        return True


def test_a7_slow_head_is_ended(web):
    """Bytes that trickle in do not move the deadline."""
    begun = time.monotonic()
    with web.connect() as peer:
        peer.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        peer.settimeout(0.5)
        got = b""
        while time.monotonic() < begun + PATIENCE_S:
            try:
                peer.sendall(b"X: a\r\n")
                got = peer.recv(100)
                break
            except TimeoutError:
                continue
    assert got.startswith(b"HTTP/1.1 408 ")


def test_a7_slow_reader_holds_nobody_up(web, daemon):
    daemon.answers["queue"] = pages(1000)
    peers = [web.connect() for _ in range(20)]
    try:
        for peer in peers:
            peer.sendall(b"GET /api/v1/messages?limit=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20)
        assert web.ask("/api/v1/status").status in (200, 503)
        assert web.ask("/").status == 200
    finally:
        for peer in peers:
            peer.close()
    web_rig.wait_until(lambda: web.ask("/api/v1/status").status == 200, "it has not recovered")


def test_a10_pipelined(web):
    got = web.raw(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
                  b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n"
                  b"GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n"
                  b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n" + GET % b"/readyz")
    assert re.findall(rb"HTTP/1.1 (\d+)", got) == [b"200", b"200", b"200", b"404", b"200"]
    got = web.raw(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 500 + GET % b"/")
    assert got.count(b"HTTP/1.1 200 ") == 501


def test_a10_byte_by_byte(web):
    with web.connect() as peer:
        for byte in b"\r\n" + GET % b"/healthz":
            peer.sendall(bytes([byte]))
        assert web_rig.read_all(peer).startswith(b"HTTP/1.1 200 ")


def test_a10_half_close(web):
    """A client that has said all it wants still gets its answer."""
    for path in (b"/healthz", b"/api/v1/status"):
        got = web.raw(b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", half_close=True)
        assert got.startswith(b"HTTP/1.1 200 ")


def test_a10_keep_alive(web):
    got = web.raw(b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n")
    assert b"Connection: close" in got
    with web.connect() as peer:
        for _ in range(3):
            peer.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            got = b""
            while not got.endswith(b"ok\n"):
                got += peer.recv(4096)
            assert b"Connection: keep-alive" in got


def test_a10_range_and_conditions_are_not_taken(web):
    response = web.ask("/", Range="bytes=0-3", If_None_Match="*",
                       If_Modified_Since="Thu, 01 Jan 2099 00:00:00 GMT", Expect="100-continue",
                       Upgrade="h2c")
    assert response.status == 200 and response.content.startswith(b"<!doctype html>")


def test_clients_that_vanish(web, daemon):
    daemon.answers["status"] = HANG
    for _ in range(50):
        peer = web.connect()
        peer.sendall(GET % b"/api/v1/status")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        peer.close()
    daemon.answers["status"] = status_answer()
    web_rig.wait_until(lambda: web.ask("/api/v1/status").status == 200, "it has not recovered")
    web_rig.wait_until(lambda: len(os.listdir(f"/proc/{web.process.pid}/fd")) < 12,
                       "descriptors are left over")


def test_log_has_one_bounded_line_an_event(web):
    for _ in range(100):
        web.raw(b"GET /x\x1b\nevent=stop HTTP/1.1\r\n\r\n")
    assert web.ask("/healthz").status == 200
    refused = [line for line in web.lines if "event=request-refused " in line]
    assert 0 < len(refused) <= 60
    assert not any("\x1b" in line or "event=stop" in line for line in web.lines)


# ---- starting ----


def run(*args):
    return subprocess.run([web_rig.PROGRAM, *args], capture_output=True, text=True,
                          timeout=PATIENCE_S, check=False)


def test_options():
    assert run("--version").stdout.startswith("tasuki-web 0")
    done = run("--help")
    assert done.returncode == 0
    page = (ROOT / "packaging/man/tasuki-web.8").read_text().replace("\\-", "-")
    for option in set(re.findall(r"--[a-z]+", done.stdout)):
        assert option in page, option
    for args in (["--nothing"], ["x"], ["--listen", "localhost:1"], ["--listen", "1"],
                 ["--listen", "::1:80"], ["--listen", "127.0.0.1:99999"], ["--listen"]):
        done = run(*args)
        assert (done.returncode, done.stdout) == (64, "")
        assert "next: " in done.stderr


def test_bad_configuration(place):
    file = os.path.join(place, "bad.conf")
    with open(file, "w", encoding="utf-8") as out:
        out.write("upstream = [127.0.0.1]:25\nlisen = 25\n")
    done = run("-c", file)
    assert done.returncode == 78
    assert file + ":2:" in done.stderr and "listen" in done.stderr
    assert run("-c", os.path.join(place, "none.conf")).returncode == 78


def test_address_in_use(web, daemon):
    done = run("--listen", "127.0.0.1:%d" % web.port, "--socket", daemon.path)
    assert done.returncode == 69
    assert "cannot listen on 127.0.0.1" in done.stderr and "next: " in done.stderr


def test_a14_other_than_loopback_is_warned_of(place, daemon, web):
    assert not any("event=risk " in line for line in web.lines)
    wide = Web("--listen", "0.0.0.0:0", "--socket", daemon.path)
    try:
        assert "no password" in wide.wait_for("event=risk ")
        assert wide.status_of(with_host(b"127.0.0.1")) == 200
        assert wide.status_of(with_host(b"evil.test")) == 421
    finally:
        assert wide.stop() == 0


def test_closed_standard_streams(place, daemon):
    process = subprocess.Popen(
        ["sh", "-c", 'exec "$0" "$@" <&- >&- 2>&-', web_rig.PROGRAM, "--listen", "127.0.0.1:0",
         "--socket", daemon.path])
    try:
        web_rig.wait_until(lambda: listening(process.pid), "it does not listen")
    finally:
        process.terminate()
    assert process.wait(PATIENCE_S) == 0


def listening(pid):
    try:
        links = [os.readlink(f"/proc/{pid}/fd/{n}") for n in os.listdir(f"/proc/{pid}/fd")]
        first = [os.readlink(f"/proc/{pid}/fd/{n}") for n in range(3)]
    except OSError:
        return False
    return first == ["/dev/null"] * 3 and any(link.startswith("socket:") for link in links)


# ---- the real daemon ----


@pytest.mark.skipif(not os.access(web_rig.TASUKID, os.X_OK), reason="tasukid is not built")
def test_the_real_daemon(place):
    os.mkdir(os.path.join(place, "state"))
    os.mkdir(os.path.join(place, "run"))
    file = os.path.join(place, "tasuki.conf")
    with open(file, "w", encoding="utf-8") as out:
        out.write(f"listen = 127.0.0.1:0\nallow = private\nhostname = tasuki.test\ndomain = test\n"
                  f"state = {place}/state\nrun = {place}/run\nretry-min = 1s\nqueue-max = 64M\n"
                  f"[upstream main]\nhost = [127.0.0.1]:1\ntls = off\nprobe-min = 1s\n"
                  f"probe-max = 2s\n[dashboard]\nlisten = 127.0.0.1:0\n")
    log = open(os.path.join(place, "log"), "w+", encoding="utf-8")
    tasukid = subprocess.Popen([web_rig.TASUKID, "-c", file], stderr=log, stdout=log)
    web = None
    try:
        port = None

        def started():
            nonlocal port
            assert tasukid.poll() is None, (log.seek(0), log.read())
            log.seek(0)
            found = re.search(r"event=start .*listen=\S*?:(\d+)", log.read())
            port = found and int(found[1])
            return port
        web_rig.wait_until(started, "tasukid does not start")
        web = Web("-c", file)
        assert web.ask("/readyz").status == 200
        status, answer = web.get_json("/api/v1/status")
        assert status == 200 and answer["upstreams"][0]["name"] == "main"
        assert b"tasuki_up 1\n" in web.ask("/metrics").content
        send_mail(port)
        web_rig.wait_until(lambda: web.get_json("/api/v1/messages")[1]["messages"], "no message")
        message = web.get_json("/api/v1/messages?q=from:scanner&limit=1")[1]["messages"][0]
        assert message["from"] == "scanner@tasuki.test" and message["subject"] == "<b>scan</b>"
        status, shown = web.get_json("/api/v1/messages/" + message["id"])
        assert status == 200 and shown["recipients"][0]["to"] == "anna@example.jp"
        assert web.get_json("/api/v1/messages/zzzz")[0] == 404
        status, answer = web.get_json("/api/v1/messages?q=form:x")
        assert status == 400
        assert_trouble(answer, "bad-filter", "from")
        assert web.get_json("/api/v1/messages?q=state:failed")[1]["messages"] == []
        assert web.get_json("/api/v1/messages?cursor=nonsense")[0] == 400
    finally:
        tasukid.terminate()
        tasukid.wait(PATIENCE_S)
        log.close()
        if web is not None:
            assert web.ask("/readyz").status == 503
            assert web.stop() == 0


def send_mail(port):
    with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE_S) as client:
        client.sendmail("scanner@tasuki.test", ["anna@example.jp"],
                        b"From: scanner@tasuki.test\r\nSubject: <b>scan</b>\r\n\r\nhello\r\n")
