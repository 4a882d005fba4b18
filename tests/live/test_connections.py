"""The pool of connections: which address, sessions taken up again, how many, for how long."""

import os
import re
import socket
import ssl
import struct
import threading
import time

import pytest

import peers
from peers import USER, Dialogue, section, wait_until

NIGHTLY = bool(os.environ.get("NIGHTLY"))


def plain(port, **more):
    more.setdefault("connections", 1)
    return section(host="[127.0.0.1]:%d" % port, tls="off", **more)


def metrics(daemon):
    return {name: int(value) for name, value in
            re.findall(r"^tasuki_(\w+) (\d+)$", daemon.ask("metrics")["text"], re.M)}


def delivered(daemon, count):
    wait_until(lambda: len(daemon.events("delivered")) >= count, what=daemon.log)


def reasons_of_ends(daemon, count):
    """Of connections, once so many have ended; the log may be behind by a moment."""
    ends = wait_until(lambda: len(daemon.events("upstream-down")) >= count and
                      daemon.events("upstream-down"), what=daemon.log)
    return {e["reason"] for e in ends}


def send_and_close(daemon, number):
    """One message over a connection of its own: the last one has ended before, and two spans of
    200 ms have gone by, so that the mail is not regular and no warm connection waits for it."""
    wait_until(lambda: daemon.upstream()["connections"] == 0, what=daemon.log)
    time.sleep(0.3)
    daemon.send(to="n%d@example.test" % number)
    delivered(daemon, number + 1)


# ---- sessions taken up again ----


def test_postfix_takes_sessions_up(postfix, certificates, tasuki):
    daemon = tasuki(section(host="[localhost]:%d" % postfix.ports["starttls"], user=USER,
                            password_file="SECRET", tls_ca=certificates.ca, keep_open="200ms"))
    for number in range(4):
        send_and_close(daemon, number)
    ups = daemon.events("upstream-up")
    assert len(ups) == 4 and postfix.sink.count() == 4
    assert "resumed" not in ups[0]["tls"]
    assert ups[-1]["tls"].endswith(" resumed"), "it is said with the connection"
    assert daemon.upstream()["tls"].endswith(" resumed")
    assert metrics(daemon)["upstream_tls_resumed_total"] == \
        sum("resumed" in up["tls"] for up in ups) >= 1


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_a_ticket_hides_no_new_certificate(certificates, tasuki, scripted_upstream, version):
    """Another server behind the name refuses the ticket, and then its certificate counts."""
    server = scripted_upstream("implicit")

    def present(certificate):
        server.present(certificate)
        server.context.maximum_version = ssl.TLSVersion[version]

    present(certificates.good)
    daemon = tasuki(section(host="[localhost]:%d/tls" % server.port, user=USER, connections=1,
                            password_file="SECRET", tls_ca=certificates.ca, keep_open="200ms"))
    for number in range(3):
        send_and_close(daemon, number)
    ups = daemon.events("upstream-up")
    assert [up["tls"].endswith(" resumed") for up in ups] == [False, True, True], ups
    assert ups[0]["tls"].startswith(version.replace("_", "."))
    present(certificates.good)  # a restarted server knows the ticket no more
    send_and_close(daemon, 3)
    assert not daemon.events("upstream-up")[-1]["tls"].endswith(" resumed")
    present(certificates.wrong_name)
    wait_until(lambda: daemon.upstream()["connections"] == 0)
    daemon.send(to="last@example.test")
    up = wait_until(lambda: daemon.upstream()["state"] == "marked" and daemon.upstream(),
                    what=daemon.log)
    assert up["reason"] == "tls-wrong-name"
    present(certificates.good)
    wait_until(daemon.queue_empty, what=daemon.log)
    assert daemon.events("failed") == []


# ---- authorities that change ----


def test_authorities_are_read_again(postfix, certificates, tasuki, tmp_path):
    """A new list of authorities holds without a restart, once it has rested for two looks, and at
    once where an upstream was marked; one that cannot be used is told, and what was read before
    goes on."""
    trusted = tmp_path / "authorities.pem"

    def put(text):
        fresh = tmp_path / "fresh"
        fresh.write_text(text)
        fresh.replace(trusted)

    put(certificates.stranger_ca.read_text())
    daemon = tasuki(section(host="[localhost]:%d" % postfix.ports["starttls"], user=USER,
                            password_file="SECRET", tls_ca=trusted, keep_open="200ms",
                            probe_min="1h", probe_max="1h"))
    daemon.send(to="n0@example.test")
    wait_until(lambda: daemon.upstream().get("reason") == "tls-untrusted", what=daemon.log)
    put(certificates.stranger_ca.read_text() + certificates.ca.read_text())
    wait_until(lambda: daemon.events("authorities-read"), what=daemon.log)
    delivered(daemon, 1)
    put("nothing of use\n")
    kept = wait_until(lambda: daemon.events("authorities-kept"), what=daemon.log)
    assert kept[0]["upstream"] == "main" and str(trusted) in kept[0]["problem"]
    send_and_close(daemon, 1)
    verdict = daemon.status()["verdict"]
    assert verdict["level"] == "attention" and kept[0]["problem"] in verdict["sentence"], verdict
    put(certificates.ca.read_text())
    wait_until(lambda: len(daemon.events("authorities-read")) == 2, what=daemon.log)
    send_and_close(daemon, 2)
    assert daemon.status()["verdict"]["level"] == "ok"
    assert postfix.sink.count() == 3 and len(daemon.events("authorities-kept")) == 1


# ---- addresses ----


class Names:
    """A name server that knows what is in `records`: (name, type) -> list of values."""

    TYPES = {1: "A", 15: "MX", 28: "AAAA"}

    def __init__(self):
        self.records = {}
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    @staticmethod
    def wire(name):
        return b"".join(bytes([len(p)]) + p.encode() for p in name.split(".")) + b"\0"

    def value(self, kind, value):
        if kind == "MX":
            return struct.pack(">H", value[0]) + self.wire(value[1])
        return socket.inet_pton(socket.AF_INET if kind == "A" else socket.AF_INET6, value)

    def serve(self):
        while True:
            try:
                query, peer = self.socket.recvfrom(2000)
            except OSError:
                return
            end = query.index(b"\0", 12) + 5
            labels, at = [], 12
            while query[at]:
                labels.append(query[at + 1:at + 1 + query[at]].decode().lower())
                at += 1 + query[at]
            number = struct.unpack(">H", query[end - 4:end - 2])[0]
            kind, name = self.TYPES.get(number), ".".join(labels)
            found = [self.value(kind, v) for v in self.records.get((name, kind), [])]
            known = any(n == name for n, _ in self.records)
            answer = b"".join(b"\xc0\x0c" + struct.pack(">HHIH", number, 1, 60, len(v)) + v
                              for v in found)
            self.socket.sendto(query[:2] + (b"\x81\x80" if known else b"\x81\x83") +
                               struct.pack(">HHHH", 1, len(found), 0, 0) + query[12:end] + answer,
                               peer)

    def stop(self):
        self.socket.close()


@pytest.fixture
def names():
    server = Names()
    yield server
    server.stop()


@pytest.fixture
def dead():
    """Makes addresses that answer no SYN: a listener whose queue is full."""
    held = []

    def make(address, port):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(0)
        held.append(listener)
        held.append(socket.create_connection((address, port)))

    yield make
    for one in held:
        one.close()


def attempts(daemon):
    """The addresses that one more connection has tried, in order."""
    done = daemon.ctl("test")
    return re.findall(r"connecting to (\S+):\d+", done.out), done.code


def test_an_address_that_is_dead_costs_once(tasuki, scripted_upstream, names, dead):
    server = scripted_upstream()
    dead("::1", server.port)
    names.records = {("relay.test", "A"): ["127.0.0.1"], ("relay.test", "AAAA"): ["::1"]}
    daemon = tasuki(section(host="[relay.test]:%d" % server.port, tls="off", keep_open="100ms",
                            connect_timeout="20s"),
                    dns="127.0.0.1:%d" % names.port, workers=1)
    before = time.monotonic()
    tried, code = attempts(daemon)
    took = time.monotonic() - before
    assert code == 0 and tried == ["[::1]", "127.0.0.1"], "the dead one first"
    assert took < 20, "not its whole time"
    for _ in range(3):
        tried, code = attempts(daemon)
        assert code == 0 and tried == ["127.0.0.1"], "and once only"
    daemon.send()
    delivered(daemon, 1)
    assert daemon.events("upstream-marked") == []
    assert daemon.events("upstream-up")[0]["peer"] == "127.0.0.1:%d" % server.port


def test_a_better_mx_host_goes_first(tasuki, scripted_upstream, names, dead):
    """However many addresses the worse one has; but when the better one is dead it has its turn."""
    server = scripted_upstream()
    names.records = {("office.test", "MX"): [(20, "b.test"), (10, "a.test")],
                     ("a.test", "A"): ["127.0.0.2"], ("b.test", "A"): ["127.0.0.1"],
                     ("b.test", "AAAA"): ["::1"]}
    daemon = tasuki(section(host="office.test:%d" % server.port, tls="off", keep_open="100ms",
                            connect_timeout="2s"),
                    dns="127.0.0.1:%d" % names.port, workers=1)
    tried, code = attempts(daemon)
    assert code == 0 and tried[0] == "127.0.0.2", "refused, and so the next"
    assert set(tried[1:]) <= {"127.0.0.1", "[::1]"} and "127.0.0.1" in tried
    dead("127.0.0.2", server.port)
    tried, code = attempts(daemon)
    assert code == 0 and tried[0] == "127.0.0.2" and "127.0.0.1" in tried
    daemon.send()
    delivered(daemon, 1)


def test_nobody_answers(tasuki, scripted_upstream, names, dead):
    server = scripted_upstream()
    server.stop()
    addresses = ["127.0.0.%d" % n for n in range(1, 6)]
    for address in addresses:
        dead(address, server.port)
    names.records = {("relay.test", "A"): addresses}
    daemon = tasuki(section(host="[relay.test]:%d" % server.port, tls="off",
                            connect_timeout="2s"), dns="127.0.0.1:%d" % names.port)
    daemon.send()
    up = wait_until(lambda: daemon.upstream()["state"] == "marked" and daemon.upstream(),
                    what=daemon.log)
    assert up["reason"] == "connect-timeout", up
    tried, code = attempts(daemon)
    assert code != 0 and sorted(tried) == addresses, "each has its share"
    assert daemon.status()["queue"]["queued"] == 1


# ---- how many, and for how long ----


class Unhurried(Dialogue):
    """Each message takes a while, so that more connections are wanted."""

    def on_mail(self, line):
        time.sleep(0.4)
        super().on_mail(line)


def test_the_pool_shrinks_one_by_one(tasuki, scripted_upstream, monkeypatch):
    monkeypatch.setattr(peers, "Dialogue", Unhurried)
    server = scripted_upstream()
    daemon = tasuki(plain(server.port, connections=3, keep_open="6s"))
    for number in range(9):
        daemon.send(to="n%d@example.test" % number)
    wait_until(lambda: daemon.upstream()["connections"] == 3, what=daemon.log)
    delivered(daemon, 9)
    seen = []

    def gone():
        now = daemon.upstream()["connections"]
        if not seen or seen[-1] != now:
            seen.append(now)
        return now == 0

    wait_until(gone, what=lambda: "%s %s" % (seen, daemon.log()))
    assert seen == [3, 2, 1, 0], "the first after 2 s, the next after 3 s, the last after 6 s"
    assert metrics(daemon)["upstream_failures_total"] == 0
    assert daemon.upstream()["state"] == "well"


def test_a_throttle_closes_what_is_idle(tasuki, scripted_upstream, monkeypatch):
    monkeypatch.setattr(peers, "Dialogue", Unhurried)
    server = scripted_upstream()
    daemon = tasuki(plain(server.port, connections=3, keep_open="5m"))
    for number in range(9):
        daemon.send(to="n%d@example.test" % number)
    delivered(daemon, 9)
    assert daemon.upstream()["connections"] == 3
    server.recipients = {"less@example.test": b"450 4.7.1 slow down"}
    daemon.send(to="less@example.test")
    wait_until(lambda: daemon.events("upstream-throttled"), what=daemon.log)
    wait_until(lambda: daemon.upstream()["connections"] == 1, what=daemon.log)
    assert daemon.upstream()["state"] == "well"
    assert metrics(daemon)["upstream_failures_total"] == 0
    server.mend()
    wait_until(daemon.queue_empty, what=daemon.log)


class ClosesWhenIdle(Dialogue):
    """Says 421 some time after it took a message, and hangs up."""

    def command(self):
        if self.up.messages and not self.sender:
            self.peer.settimeout(self.up.idle_s)
            try:
                return super().command()
            except TimeoutError:
                self.peer.sendall(b"421 4.4.2 idle for too long\r\n")
                raise EOFError from None
            finally:
                self.peer.settimeout(peers.PATIENCE_S)
        return super().command()

    def on_data(self, line):
        super().on_data(line)
        self.sender = ""


def test_421_while_idle_is_peace(tasuki, scripted_upstream, monkeypatch):
    monkeypatch.setattr(peers, "Dialogue", ClosesWhenIdle)
    server = scripted_upstream()
    server.idle_s = 0.2
    daemon = tasuki(plain(server.port, keep_open="1m"))
    for number in range(3):
        send_and_close(daemon, number)
    wait_until(lambda: daemon.upstream()["connections"] == 0)
    assert server.sessions == 3 and len(server.messages) == 3
    assert reasons_of_ends(daemon, 3) == {"none"}
    assert daemon.events("upstream-marked") == daemon.events("upstream-throttled") == []
    assert metrics(daemon)["upstream_failures_total"] == 0
    assert daemon.upstream()["state"] == "well"


class Chunks(Dialogue):
    """Takes BDAT, and so whole messages one behind the other."""

    def on_mail(self, line):
        super().on_mail(line)
        self.content = b""

    def on_bdat(self, line):
        words = line.split()
        self.content += self.lines.read(int(words[1]))
        if len(words) > 2:
            self.up.took(peers.Arrived(self.sender, self.recipients, self.content))
        self.answer("dot", b"250 2.0.0 taken")


@pytest.mark.parametrize("pipeline", ["off", "safe", "stream"])
def test_so_many_messages_over_one_connection(tasuki, scripted_upstream, pipeline, monkeypatch):
    monkeypatch.setattr(peers, "Dialogue", Chunks)
    server = scripted_upstream()
    server.offers = [b"CHUNKING"]
    daemon = tasuki(plain(server.port, connection_messages=3, pipeline=pipeline))
    for number in range(10):
        daemon.send(to="n%d@example.test" % number)
    wait_until(daemon.queue_empty, what=daemon.log)
    assert sorted(m.recipients[0] for m in server.messages) == \
        sorted("n%d@example.test" % n for n in range(10))
    assert server.sessions >= 4, "three each"
    assert reasons_of_ends(daemon, 3) == {"none"} and daemon.events("upstream-marked") == []
    per_session = []
    for command in server.commands:
        if command.startswith(b"EHLO"):
            per_session.append(0)
        elif command.startswith(b"MAIL"):
            per_session[-1] += 1
    assert max(per_session) == 3, per_session
    assert bool(server.heard(b"BDAT")) == (pipeline == "stream")


def test_an_old_connection_goes_before_mail_comes(tasuki, scripted_upstream):
    server = scripted_upstream()
    daemon = tasuki(plain(server.port, connection_age="800ms", keep_open="1m"))
    daemon.send()
    delivered(daemon, 1)
    wait_until(lambda: daemon.upstream()["connections"] == 0, what=daemon.log)
    assert server.heard(b"QUIT")
    assert reasons_of_ends(daemon, 1) == {"none"}


def test_one_is_kept_ready_where_mail_flows(tasuki, scripted_upstream, monkeypatch):
    """The server closes what is idle; the next connection stands before the next message comes."""
    monkeypatch.setattr(peers, "Dialogue", ClosesWhenIdle)
    server = scripted_upstream()
    server.idle_s = 0.3
    daemon = tasuki(plain(server.port, keep_open="1s"))
    number = 0

    def ready():
        """Mail twice a span; then one more session than messages have needed."""
        nonlocal number
        for _ in range(8):
            daemon.send(to="n%d@example.test" % number)
            number += 1
            delivered(daemon, number)
            time.sleep(0.5)
        return server.sessions > len(server.messages)

    assert any(ready() for _ in range(4)), daemon.log()
    wait_until(lambda: daemon.upstream()["connections"] == 0, what=daemon.log)
    sessions = server.sessions
    time.sleep(3)
    assert server.sessions == sessions, "without mail it is over"
    assert daemon.upstream()["state"] == "well" and daemon.events("upstream-marked") == []
    assert metrics(daemon)["upstream_failures_total"] == 0


# ---- an end in the middle of a window ----


class Cuts(Dialogue):
    """Reads so many bytes behind the answer to EHLO, then resets the connection."""

    def run(self):
        if self.up.cut_at is None:
            super().run()
            return
        self.peer.sendall(b"220 cuts.test ESMTP\r\n")
        self.peer.recv(1000)
        self.peer.sendall(b"250-cuts.test\r\n250-CHUNKING\r\n250 PIPELINING\r\n")
        left, self.up.cut_at = self.up.cut_at, None
        self.peer.settimeout(1)
        try:
            while left > 0:
                got = len(self.peer.recv(left))
                if got == 0:
                    break
                left -= got
        except TimeoutError:
            pass  # the window was shorter
        self.fail(peers.RESET)


WINDOW_BYTES = 1200  # three messages, each with its trace


@pytest.mark.slow
def test_reset_at_a_byte_of_a_window(tasuki, scripted_upstream, monkeypatch):
    """Nothing was answered, so all of it comes again; once, since nothing had been taken."""
    monkeypatch.setattr(peers, "Dialogue", Cuts)
    server = scripted_upstream()
    server.cut_at = None
    daemon = tasuki(plain(server.port, keep_open="100ms", probe_min="100ms", probe_max="100ms",
                          pipeline="stream"), retry_min="100ms", retry_max="200ms")
    count = 0
    for cut_at in range(0, WINDOW_BYTES, 1 if NIGHTLY else 97):
        wait_until(lambda: daemon.upstream()["connections"] == 0, what=daemon.log)
        server.cut_at = cut_at
        names = ["n%d@example.test" % (count + n) for n in range(3)]
        for name in names:
            daemon.send(to=name)
        count += 3
        wait_until(daemon.queue_empty, what=daemon.log)
        assert sorted(m.recipients[0] for m in server.messages[-3:]) == sorted(names), cut_at
        assert len(server.messages) == count, "each once; cut at %d" % cut_at
    assert daemon.events("failed") == []
