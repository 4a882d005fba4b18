"""Mail through tasukid into a real Postfix: all of it, once, byte for byte."""

import hashlib
import random
import re
import smtplib
import subprocess
import threading
from collections import Counter

import pytest

from peers import PATIENCE_S, USER, Client, free_ports, section, wait_until

MIB = 1 << 20
CONNECTIONS = 3


def submission(postfix, certificates, service="starttls", **more):
    host = "[localhost]:%d%s" % (postfix.ports[service], "/tls" if service == "implicit" else "")
    return section(host=host, tls_ca=certificates.ca, user=USER, password_file="SECRET", **more)


MECHANISMS = {"plain": "PLAIN", "login": "LOGIN", "cram-md5": "CRAM-MD5",
              "scram-sha-256": "SCRAM-SHA-256", "auto": "SCRAM-SHA-256"}


@pytest.mark.parametrize("service", ["starttls", "implicit"])
@pytest.mark.parametrize("auth", MECHANISMS)
def test_each_login(postfix, certificates, tasuki, service, auth):
    before = len(postfix.log())
    daemon = tasuki(submission(postfix, certificates, service, auth=auth))
    daemon.send(to="anna@example.test")
    wait_until(lambda: postfix.sink.count() == 1, what=daemon.log)
    up = daemon.upstream()
    assert up["state"] == "well"
    assert up["mechanism"] == MECHANISMS[auth]
    assert up["tls"].startswith("TLSv1.3")
    wait_until(daemon.queue_empty)
    login = re.compile("sasl_method=%s, sasl_username=%s" % (MECHANISMS[auth], USER))
    wait_until(lambda: login.search(postfix.log()[before:]), what=postfix.log)  # it logs late


# ---- two thousand ----

HEAD = b"From: scanner@example.test\r\nSubject: page\r\n\r\n"


def lines_of(length, count=1):
    return b"".join(bytes([97 + n % 26]) * length + b"\r\n" for n in range(count))


def block(size, seed):
    """So many bytes of text lines, some led by dots, some 8-bit."""
    dice = random.Random(seed)
    made = bytearray(HEAD)
    while len(made) < size:
        line = dice.choice((b"", b".", b"..", b"\xe9\xff ")) + b"%x" % dice.getrandbits(240)
        made += line + b"\r\n"
    whole = bytes(made[:max(size, len(HEAD) + 8) - 3])
    return whole.rstrip(b"\r") + b"x" * (1 + whole.endswith(b"\r")) + b"\r\n"


SPECIAL = {
    "one-dot": HEAD + b".\r\n",
    "dots": HEAD + b"..\r\n.\r\n...\r\n.x\r\n. \r\n\r\n.\r\n",
    "dots-first": b".\r\n.\r\n",
    "8-bit": HEAD + bytes(range(128, 256)) + b"\r\n",
    "control": HEAD + bytes(b for b in range(1, 128) if b not in (10, 13)) + b"\r\n",
    "nul": HEAD + b"a\0b\r\n\0\r\n\0.\r\n.\0\r\n\0\0\0\r\n",
    "line-998": HEAD + lines_of(998, 3),
    "line-999": HEAD + lines_of(999, 3),
    "line-2047": HEAD + lines_of(2047) + lines_of(2048) + lines_of(2049),
    "line-48677": HEAD + lines_of(48677) + b"." + lines_of(48677),
    "line-1M": HEAD + lines_of(MIB),
    "dots-at-cuts": HEAD + b"".join(b"x" * n + b"\r\n." + b"\r\n" for n in range(2040, 2056)),
    "no-header": b"hello\r\n",
    "no-blank-line": b"Subject: only a header\r\n",
    "blank-first": b"\r\n\r\nhello\r\n",
    "from-line": b"From anna Mon Nov 23 10:00:00 2026\r\nSubject: x\r\n\r\nFrom x\r\n>From y\r\n",
    "crlf": b"\r\n",
    "folded": b"Subject: a\r\n b\r\n\tc\r\nX-Long: " + b"d " * 400 + b"\r\n\r\nx\r\n",
    "received": b"Received: from a by b; Mon, 23 Nov 2026 10:00:00 +0900\r\n" + HEAD + b"x\r\n",
    "64K": block(65536, 1), "64K+1": block(65537, 2), "300K": block(300_000, 3),
    "1M": block(MIB, 4), "5M": block(5 * MIB, 5), "20M": block(20 * MIB, 6),
}


class Sent:
    """What was sent: recipients to content. A recipient stands in one message only."""

    def __init__(self):
        self.by_recipients = {}
        self.lock = threading.Lock()

    def add(self, recipients, content):
        with self.lock:
            self.by_recipients[tuple(sorted(recipients))] = (
                len(content), hashlib.sha256(content).hexdigest())


def recipients_of(prefix, index):
    return ["%s-%d-%d@example.test" % (prefix, index, n) for n in range(1 + index % 3)]


def send_by_smtplib(port, sent, first, count):
    """One connection, many messages; 8-bit announced where the server offers it."""
    with smtplib.SMTP("127.0.0.1", port, local_hostname="python.test") as client:
        for index in range(first, first + count):
            to, body = recipients_of("python", index), block(200 + index * 37 % 9000, index)
            client.sendmail("python@example.test", to, body, mail_options=["BODY=8BITMIME"])
            sent.add(to, body)


def send_specials(port, sent):
    with smtplib.SMTP("127.0.0.1", port, local_hostname="python.test") as client:
        for name, body in SPECIAL.items():
            to = ["special-%s@example.test" % name]
            client.sendmail("", to, body)
            sent.add(to, body)
    with Client(port) as client:
        client.mail("special-empty@example.test", b"")
        sent.add(["special-empty@example.test"], b"")


def send_by_curl(port, sent, directory, first, count):
    """One process, one kept connection, a message a transfer."""
    config = []
    for index in range(first, first + count):
        to, body = recipients_of("curl", index), block(100 + index * 101 % 30000, index)
        (directory / ("curl-%d" % index)).write_bytes(body)
        config.append("url = smtp://127.0.0.1:%d/curl.test\nmail-from = curl@example.test\n" % port
                      + "".join("mail-rcpt = %s\n" % path for path in to)
                      + "upload-file = %s/curl-%d\nfail\nsilent\nshow-error\n" % (directory, index))
        sent.add(to, body)
    done = subprocess.run(["curl", "-K", "-"], input="next\n".join(config).encode(),
                          capture_output=True, timeout=PATIENCE_S * 3)
    assert done.returncode == 0, done.stderr


def send_by_swaks(port, sent, directory, first, count):
    for index in range(first, first + count):
        to, body = recipients_of("swaks", index), block(100 + index * 59 % 3000, index)
        wire = re.sub(rb"(^|(?<=\r\n))\.", b"..", body) + b"."
        (directory / ("swaks-%d" % index)).write_bytes(wire)
        done = subprocess.run(
            ["swaks", "--server", "127.0.0.1", "--port", str(port), "--helo", "swaks.test",
             "--from", "swaks@example.test", "--to", ",".join(to), "--no-data-fixup",
             "--data", "@%s/swaks-%d" % (directory, index), "--silent", "2"],
            capture_output=True, timeout=PATIENCE_S, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, done.stdout + done.stderr
        sent.add(to, body)


def send_by_smtp_source(port, directory, count):
    body = block(4000, 77)
    (directory / "source").write_bytes(body.replace(b"\r\n", b"\n"))
    done = subprocess.run(
        ["smtp-source", "-s", "8", "-m", str(count), "-N", "-F", str(directory / "source"),
         "-M", "source.test", "-f", "source@example.test", "-t", "source@example.test",
         "127.0.0.1:%d" % port], capture_output=True, timeout=PATIENCE_S * 4)
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    body += b"\r\n"  # smtp-source ends a file with an empty line
    return len(body), hashlib.sha256(body).hexdigest()


def in_threads(*jobs):
    wrong = []

    def run(fn, args):
        try:
            fn(*args)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=run, args=(fn, args)) for fn, *args in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if wrong:
        raise wrong[0]


def test_two_thousand_messages_arrive_once_and_unchanged(postfix, certificates, tasuki, tmp_path):
    daemon = tasuki(submission(postfix, certificates, connections=CONNECTIONS), log_level="info")
    log_before = len(postfix.log())
    sent, source = Sent(), []
    sources = 2000 - 600 - 60 - 240 - len(SPECIAL) - 1
    in_threads(
        (lambda: source.append(send_by_smtp_source(daemon.port, tmp_path, sources)),),
        (send_by_smtplib, daemon.port, sent, 0, 300),
        (send_by_smtplib, daemon.port, sent, 300, 300),
        (send_specials, daemon.port, sent),
        (send_by_curl, daemon.port, sent, tmp_path, 0, 120),
        (send_by_curl, daemon.port, sent, tmp_path, 120, 120),
        (send_by_swaks, daemon.port, sent, tmp_path, 0, 60))
    wait_until(daemon.queue_empty, timeout=120, what=lambda: "the queue: %s" % daemon.status())
    assert_all_once(postfix.sink.messages, sent, sources, source[0])
    assert postfix.sessions_at_once("starttls", log_before) <= CONNECTIONS
    status = daemon.status()
    assert status["counters"]["accepted"] == 2000
    assert daemon.events("failed") == daemon.events("deferred") == []


def assert_all_once(messages, sent, sources, source):
    generated = [m for m in messages if m.sender == "source@example.test"]
    others = [m for m in messages if m.sender != "source@example.test"]
    assert len(messages) == 2000
    assert len(generated) == sources
    assert len({m.recipients for m in generated}) == sources
    assert {(m.length, m.digest) for m in generated} == {source}
    times = Counter(path for m in messages for path in m.recipients)
    assert set(times.values()) == {1}
    arrived = {tuple(sorted(m.recipients)): (m.length, m.digest) for m in others}
    assert arrived.keys() == sent.by_recipients.keys()
    wrong = [to for to, what in sent.by_recipients.items() if arrived[to] != what]
    assert wrong == []
    for message in messages:
        assert len(message.ours) == 1
        assert len(message.received) == 2, "Postfix's own and ours"


@pytest.mark.parametrize("pipeline", ["off", "safe", "auto"])
def test_each_pipelining(postfix, certificates, tasuki, pipeline):
    daemon = tasuki(submission(postfix, certificates, pipeline=pipeline))
    for index in range(20):
        daemon.send(to=recipients_of("p", index), body=HEAD + b"%d\r\n" % index)
    wait_until(daemon.queue_empty)
    assert sorted(m.body for m in postfix.sink.messages) == \
        sorted(HEAD + b"%d\r\n" % index for index in range(20))


def test_received_line_says_who_and_when(postfix, tasuki):
    daemon = tasuki(section(host="[127.0.0.1]:%d" % postfix.ports["plain"], tls="off"))
    identity = daemon.send(to="anna@example.test")
    wait_until(lambda: postfix.sink.count() == 1)
    line = postfix.sink.messages[0].ours[0].decode()
    assert re.fullmatch(
        r"Received: from client\.test \(\[127\.0\.0\.1\]\)\r\n"
        r"\tby tasuki\.test \(tasuki\) with ESMTP id " + identity +
        r"(\r\n\tfor <anna@example\.test>)?;\r\n?\s+\w{3}, \d\d? \w{3} \d{4} "
        r"\d\d:\d\d:\d\d [+-]\d{4}\r\n",
        line), line


def test_killed_in_the_middle_of_it_all(postfix, certificates, tasuki):
    """What was answered 250 arrives, whole, whatever SIGKILL met; what was not, may."""
    port = free_ports(1)[0]
    daemon = tasuki(submission(postfix, certificates), listen="127.0.0.1:%d" % port)
    acked, lock, over = [], threading.Lock(), threading.Event()

    def send_all(prefix):
        for index in range(100_000):
            name = "%s-%d@example.test" % (prefix, index)
            try:
                with Client(port) as client:
                    client.mail(name, HEAD + name.encode() + b"\r\n" * 500)
                    with lock:
                        acked.append(name)
            except (OSError, AssertionError, IndexError):
                over.wait(0.02)
            if over.is_set():
                return

    threads = [threading.Thread(target=send_all, args=(p,)) for p in ("a", "b", "c", "d")]
    for thread in threads:
        thread.start()
    for round in range(1, 4):
        wait_until(lambda round=round: len(acked) >= round * 100)
        daemon.kill()
        daemon.start()
    wait_until(lambda: len(acked) >= 400)
    over.set()
    for thread in threads:
        thread.join()
    wait_until(daemon.queue_empty, timeout=60, what=daemon.log)
    arrived = Counter(path for m in postfix.sink.messages for path in m.recipients)
    assert [name for name in acked if name not in arrived] == []
    for m in postfix.sink.messages:
        assert m.body == HEAD + m.recipients[0].encode() + b"\r\n" * 500
    twice = sum(1 for count in arrived.values() if count > 1)
    assert twice <= 3 * 4 * 16, "only what was on its way when it died"
