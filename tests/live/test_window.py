"""Several messages under way on one connection, and what an upstream can do to them: whatever that
is, what was answered 250 arrives or is reported, and twice only where that could not be known."""

import hashlib
import io
import os
import re
import socket
import ssl
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

import peers
from peers import CLOSE, RESET, Client, Dialogue, section, wait_until

NIGHTLY = bool(os.environ.get("NIGHTLY"))

CHUNKING = b"250-scripted.test\r\n250-SIZE 52428800\r\n250-CHUNKING\r\n250 PIPELINING"


def plain(port, **more):
    more.setdefault("connections", 1)
    return section(host="[127.0.0.1]:%d" % port, tls="off", **more)


def test_the_end_between_two_groups_of_one_message(tasuki, scripted_upstream):
    """150 recipients go in two transactions; the connection ends behind the first one's answer."""
    recipients = ["r%d@example.test" % n for n in range(150)]
    server = scripted_upstream()
    server.faults = {"dot": b"250 ok\r\n421 4.3.2 enough"}
    daemon = tasuki(plain(server.port), retry_min="1s", retry_max="1s")
    daemon.send(to=recipients)
    wait_until(lambda: len(daemon.events("delivered")) >= 100, what=daemon.log)
    pid = daemon.process.pid
    server.mend()
    wait_until(daemon.queue_empty, what=daemon.log)
    assert daemon.process.pid == pid
    told = wait_until(lambda: len(daemon.events("delivered")) >= 150 and daemon.events("delivered"),
                      what=daemon.log)
    assert sorted(event["to"] for event in told) == sorted(recipients), "each once"


def test_chunking_that_is_announced_and_not_there(tasuki, scripted_upstream):
    """BDAT is refused as an unknown command: the next connection groups as RFC 2920 does."""
    server = scripted_upstream()
    server.faults = {"EHLO": CHUNKING}
    daemon = tasuki(plain(server.port), retry_min="1s", retry_max="1s")
    for number in range(5):
        daemon.send(to="r%d@example.test" % number)
    wait_until(daemon.queue_empty, what=daemon.log)
    assert sorted(p for m in server.messages for p in m.recipients) == \
        ["r%d@example.test" % number for number in range(5)]
    assert server.heard(b"BDAT") and server.heard(b"DATA")
    (lowered,) = daemon.events("pipeline-lowered")
    assert (lowered["upstream"], lowered["to"]) == ("main", "safe") and lowered["why"]
    pipeline = daemon.status()["upstreams"][0]["pipeline"]
    assert (pipeline["mode"], pipeline["max"]) == ("safe", "safe") and pipeline["reason"]
    daemon.stop()
    daemon.start()
    assert daemon.status()["upstreams"][0]["pipeline"]["max"] == "safe", "it is remembered"
    assert daemon.events("failed") == [] and daemon.events("upstream-marked") == []


def test_one_round_trip_a_message(tasuki, scripted_upstream):
    """What waits goes as one message's content with the next one's envelope."""
    server = scripted_upstream()
    server.faults = {"greeting": b"421 not yet"}
    daemon = tasuki(plain(server.port, probe_min="1s", probe_max="1s"), retry_min="1s")
    for number in range(8):
        daemon.send(to="r%d@example.test" % number)
    server.mend()
    wait_until(daemon.queue_empty, what=daemon.log)
    assert len(server.messages) == 8
    assert len({p for m in server.messages for p in m.recipients}) == 8


class Prompt(Dialogue):
    """Its answers do not wait for each other's acknowledgement."""

    def run(self):
        self.peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().run()


def test_two_hundred_messages_need_two_handshakes(certificates, tasuki, scripted_upstream,
                                                      monkeypatch):
    """A connection that is open is used again, and no more are opened than may be."""
    monkeypatch.setattr(peers, "Dialogue", Prompt)
    server = scripted_upstream("starttls", login=False)
    daemon = tasuki(section(host="[localhost]:%d" % server.port, tls_ca=certificates.ca,
                            connections=2))

    def send(first):
        with Client(daemon.port) as client:
            for number in range(first, first + 20):
                client.mail("r%d@example.test" % number, b"Subject: x\r\n\r\nhello\r\n")

    with ThreadPoolExecutor(10) as clients:
        list(clients.map(send, range(0, 200, 20)))
    wait_until(daemon.queue_empty, what=daemon.log)
    assert len({p for m in server.messages for p in m.recipients}) == len(server.messages) == 200
    assert server.sessions <= 2 and len(server.heard(b"STARTTLS")) == server.sessions


# ---- whole transactions, one behind the other ----


@pytest.fixture
def queueing_postfix(certificates, monkeypatch):
    """A Postfix that queues what it takes, and so offers CHUNKING; before a filter it does not."""
    monkeypatch.setattr(peers, "MAIN_CF", peers.MAIN_CF.replace(
        "smtpd_proxy_filter = 127.0.0.1:{sink}\n", "").replace(
        "default_transport = error:nothing leaves here",
        "default_transport = smtp:[127.0.0.1]:{sink}\ndisable_dns_lookups = yes\n"
        "local_header_rewrite_clients ="))
    monkeypatch.setattr(peers, "MASTER_CF", peers.MASTER_CF.replace(
        "smtpd_relay_restrictions=permit_mynetworks,reject",
        "smtpd_relay_restrictions=check_recipient_access,inline:{{never@example.test=REJECT}},"
        "permit_mynetworks,reject", 1) + "smtp unix - - n - - smtp\n")
    server = peers.Postfix(certificates)
    server.start()
    yield server
    server.stop()
    server.remove()


def test_streams_into_postfix(queueing_postfix, tasuki):
    """A refused recipient in the middle of a window harms nobody else."""
    postfix = queueing_postfix
    large = b"Subject: large\r\n\r\n" + b".0123456789\r\n" * 60000
    daemon = tasuki(plain(postfix.ports["plain"], pipeline="stream", keep_open="1s"), reports="no")
    bodies = {}
    for number in range(60):
        name = "never@example.test" if number == 30 else "s%d@example.test" % number
        bodies[name] = large if number == 40 else \
            b"Subject: %d\r\n\r\n.dot\r\n..\r\n" % number + b"x" * 70 + b"\r\n"
        daemon.send(to=name, body=bodies[name])
    refused = bodies.pop("never@example.test")
    assert refused
    wait_until(lambda: daemon.status()["queue"]["queued"] == 0, what=daemon.log)
    assert [e["to"] for e in wait_until(lambda: daemon.events("failed"),
                                            what=daemon.log)] == ["never@example.test"]
    wait_until(lambda: postfix.sink.count() == len(bodies), what=postfix.log)
    arrived = {m.recipients[0]: m.body for m in postfix.sink.messages}
    assert arrived.keys() == bodies.keys()
    assert [to for to, body in bodies.items() if arrived[to] != body] == []
    assert wait_until(lambda: re.search(r"bdat=\d+", postfix.log()), what=postfix.log)
    assert not re.search(r" data=\d+", postfix.log()), "nothing went by DATA"


# ---- every anomaly, in every mode, and the books of each ----

MODES = ("off", "safe", "stream")
EACH = 3  # messages, which find one connection
WINDOW_BYTES = 900  # of them, at least
SECTIONS_MAX = 15  # upstreams of a daemon; one more has to be there for the rest, which is nothing
BIG = b"0123456789abcdef" * 64 + b"\r\n"
BIG_LINES = 700  # more than the kernel takes for a server with small buffers that does not read
OK, MAILED, NAMED, GO = b"250 2.0.0 taken", b"250 2.1.0 ok", b"250 2.1.5 ok", b"354 go"


def whole(data):
    return [data]


def byte_by_byte(data):
    return [data[at:at + 1] for at in range(len(data))]


def thousand_lines(data):
    lines = data.count(b"\r\n")
    return [(data[:3] + b"-\r\n") * (1000 - lines) + data]


class Case:
    """What one upstream does wrong: once, with the second message; or, if it lasts, each time.

    what: a reply (without CRLF), CLOSE, RESET, or a function of the dialogue. cut, deaf: the first
    connection ends after so many bytes of the answers to mail, or of what the client sends, by how.
    copies: how many arrive in all, or at least so many. tls: the authority of its certificate.
    """

    def __init__(self, name, mode, stage=None, what=None, copies=EACH, exact=True, failed=0,
                 lasts=False, big=False, pieces=whole, cut=None, deaf=None, how=CLOSE,
                 in_force=None, offers=(b"PIPELINING", b"CHUNKING"), tls=None, **settings):
        self.name, self.mode, self.in_force = name, mode, in_force or mode
        self.stage, self.what, self.lasts, self.big = stage, what, lasts, big
        self.copies, self.exact, self.failed = copies, exact, failed
        self.pieces, self.cut, self.deaf, self.how = pieces, cut, deaf, how
        self.offers, self.tls, self.settings = offers, tls, settings
        self.daemon, self.upstream, self.server = None, None, None
        self.sent, self.ahead, self.looks_ahead = [], 0, deaf is None
        self.ends = cut is not None or deaf is not None
        self.stalled = threading.Event()

    def __str__(self):
        return "%s, %s" % (self.mode, self.name)

    def wrong(self, stage, number):
        """What is to be done wrong here, if anything."""
        if self.stage not in (stage, "every " + stage) or number != 2:
            return None
        if not self.lasts:
            self.stage = "RCPT again" if self.stage == "every RCPT" else None
        return self.what


class Deaf(io.RawIOBase):
    """What a dialogue hears, up to so many bytes; then the dialogue ends."""

    def __init__(self, dialogue, left):
        super().__init__()
        self.dialogue, self.left = dialogue, left

    def readable(self):
        return True

    def readinto(self, into):
        if self.left == 0:
            self.dialogue.end()
        data = self.dialogue.peer.recv(min(len(into), self.left))
        self.left -= len(data)
        into[:len(data)] = data
        return len(data)


class Books(Prompt):
    """Takes DATA and BDAT, and keeps what it has decided to take, whoever hears of that."""

    def __init__(self, upstream, peer):
        super().__init__(upstream, peer)
        self.case = upstream.case
        self.left, self.case.cut = self.case.cut, None
        self.deaf, self.case.deaf = self.case.deaf, None
        self.number, self.content, self.greeted = 0, b"", False

    def run(self):
        if self.case.stage is None:  # all that was to be wrong has been
            self.peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 18)
        self.up.go.wait(peers.PATIENCE_S)
        super().run()

    def say(self, reply):
        data = reply + b"\r\n"
        if self.left is not None and self.greeted:
            self.peer.sendall(data[:self.left])
            self.left -= min(self.left, len(data))
            if self.left == 0:
                self.end()
            return
        for piece in self.case.pieces(data) if self.greeted else [data]:
            self.peer.sendall(piece)

    def end(self):
        """At once by RESET; else in peace, and what comes yet is not looked at."""
        if self.case.how == CLOSE:
            self.peer.shutdown(socket.SHUT_WR)
            while self.peer.recv(65536):
                pass
        self.fail(self.case.how)

    def answer(self, stage, good):
        """True for a yes, be it the wrong one."""
        what = self.case.wrong(stage, self.number)
        if what in (CLOSE, RESET):
            self.fail(what)
        if callable(what):
            what(self)
            what = None
        reply = good if what is None else what
        self.say(reply)
        if b"421 " in reply:
            self.end()
        return reply[:1] in b"23"

    def count_ahead(self):
        """More of the client, which has not heard the answer to this command."""
        if self.deaf is not None:
            return
        self.peer.setblocking(False)
        try:
            self.case.ahead += bool(self.lines.peek(1))
        except ssl.SSLWantReadError:
            pass
        finally:
            self.peer.settimeout(peers.PATIENCE_S)

    def on_ehlo(self, line):
        offers = [b"scripted.test", b"SIZE 52428800", *self.case.offers]
        self.say(b"\r\n".join(b"250-" + o for o in offers[:-1]) + b"\r\n250 " + offers[-1])
        self.greeted = True
        if self.deaf is not None:
            self.lines = io.BufferedReader(Deaf(self, self.deaf))

    def on_mail(self, line):
        self.sender, self.recipients, self.content = peers.path_of(line), [], b""
        self.number = int(self.sender[1]) if self.sender else 0
        time.sleep(0.01)
        self.count_ahead()
        self.mailing = self.answer("MAIL", MAILED)

    def on_rcpt(self, line):
        path = peers.path_of(line)
        taken = self.answer("RCPT" if path.startswith("a") else "RCPT again", NAMED)
        if taken and self.mailing:
            self.recipients.append(path)

    def on_data(self, line):
        if not self.recipients:
            self.say(b"554 5.5.1 no valid recipients")
            return
        self.count_ahead()
        if not self.answer("DATA", GO):
            return
        first = self.lines.readline()
        early = self.says_early()
        rest = b"" if first == b".\r\n" else peers.read_content(self.lines)
        if rest is None:
            raise EOFError
        self.content = first + rest
        if not early:
            self.end_of_data()

    def on_bdat(self, line):
        words = line.split()
        size = int(words[1])
        first = self.lines.read(min(size, 10))
        early = self.says_early()
        rest = self.lines.read(size - len(first))
        if len(first) + len(rest) < size:
            raise EOFError
        self.content += first + rest
        if early:
            return
        if len(words) == 3:
            self.end_of_data()
        else:
            self.say(b"250 2.0.0 more" if self.recipients else b"503 5.5.1 no valid recipients")

    def says_early(self):
        """Reads on when the client has written down what came of it, and throws away what it reads.
        A client that sends chunks writes that down when it has filled the chunk up."""
        what = self.case.wrong("content", self.number)
        if what is None:
            return False
        if callable(what):
            what(self)
            raise EOFError
        self.say(what)
        if what.startswith(b"421"):
            self.end()
        if what[:1] in b"45":
            self.recipients = []
        if self.case.mode == "stream":
            time.sleep(0.3)
        else:
            wait_until(self.is_written_down, what=self.case.daemon.log)
        return True

    def is_written_down(self):
        """What came of the second message, or else that the connection is over."""
        daemon, identity = self.case.daemon, self.case.sent[1].id
        return daemon.events("deferred", id=identity) or daemon.events("failed", id=identity) or \
            daemon.events("upstream-down", upstream=self.case.upstream)

    def end_of_data(self):
        if not self.recipients:
            self.say(b"503 5.5.1 no valid recipients")
            return
        refused = self.case.stage == "dot" and self.number == 2 and \
            isinstance(self.case.what, bytes) and self.case.what[:1] in b"45"
        if not refused:
            self.up.took(peers.Arrived(self.sender, self.recipients, self.content))
        self.answer("dot", OK)


class Message:
    def __init__(self, case, number, domain):
        self.sender = "m%d@%s" % (number, domain)
        self.recipients = ["%s%d@%s" % (who, number, domain) for who in "ab"]
        more = BIG * BIG_LINES if case.big and number == 2 else b"x" * 70 + b"\r\n"
        self.body = b"Message-ID: <%s>\r\n\r\n.%s" % (self.sender.encode(), more)
        self.digest = hashlib.sha256(self.body).hexdigest()
        self.id = None


def keep_small(listener):
    """What its connections hold of what was sent and not read: far less than a big message."""
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1400)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)


def arrange(tasuki, scripted_upstream, monkeypatch, cases, rest_port=9, **settings):
    """Each case has an upstream of its own, whose messages wait until its go is set."""
    monkeypatch.setattr(peers, "Dialogue", lambda upstream, peer: (
        Books if hasattr(upstream, "case") else Dialogue)(upstream, peer))
    go = threading.Event()
    daemons = []
    for first in range(0, len(cases), SECTIONS_MAX):
        some = cases[first:first + SECTIONS_MAX]
        sections = plain(rest_port, name="rest", use="always")
        for place, case in enumerate(some):
            case.upstream = "u%d" % place
            case.server = scripted_upstream(case.tls and "implicit", login=False)
            case.server.case, case.server.go = case, go
            if case.big:
                keep_small(case.server.listener)
            where = {"host": "[127.0.0.1]:%d" % case.server.port, "tls": "off"}
            if case.tls:
                where = {"host": "[localhost]:%d/tls" % case.server.port, "tls_ca": case.tls}
            sections += section(name=case.upstream, connections=1, pipeline=case.mode,
                                use="for recipient:*@d%d.test" % place, probe_min="100ms",
                                probe_max="100ms", **where, **case.settings)
        daemons.append((tasuki(sections, retry_min="100ms", retry_max="100ms", **settings), some))
    for daemon, some in daemons:
        with Client(daemon.port) as client:
            for place, case in enumerate(some):
                case.daemon = daemon
                for number in range(1, EACH + 1):
                    message = Message(case, number, "d%d.test" % place)
                    message.id = client.mail(message.recipients, message.body, message.sender)
                    case.sent.append(message)
    return go, daemons


def problems_of(daemons):
    """Once nothing waits any more, and the log has all of it."""
    problems = []
    for daemon, some in daemons:
        wait_until(daemon.queue_empty, what=lambda: "%s\n%s" % (daemon.queue(), daemon.log()))
        sent = {message.id for case in some for message in case.sent}
        wait_until(lambda: sent <= {e["id"] for word in ("delivered", "failed")
                                    for e in daemon.events(word)}, what=daemon.log)
        doubts = Counter(e["id"] for e in daemon.events("deferred", reason="in-doubt"))
        for case in some:
            problems += judge(daemon, case, doubts)
    return problems


def play(*args):
    go, daemons = arrange(*args)
    go.set()
    return problems_of(daemons)


def judge(daemon, case, doubts):
    """What does not balance: each message answered 250 has arrived, or was reported to its sender,
    for each recipient; a second copy only of one that was in doubt as often."""
    arrived = [m for m in case.server.messages if m.sender]
    reports = [m for m in case.server.messages if not m.sender]
    failed = 0
    for message in case.sent:
        copies = [m for m in arrived if m.digest == message.digest]
        fates = {r["to"]: r["state"] for r in daemon.ask("show", id=message.id)["recipients"]}
        for recipient in message.recipients:
            told = [m for m in reports if m.recipients == (message.sender,) and
                    b"Final-Recipient: rfc822; " + recipient.encode() in m.body]
            has = sum(recipient in m.recipients for m in copies)
            failed += len(told)
            fate = (fates[recipient], has > 0, len(told))
            if has > 1 + doubts[message.id] or \
                    fate not in (("delivered", True, 0), ("failed", False, 1)):
                yield "%s: %s to %s: %s, %d copies, in doubt %d times, %d reports" % (
                    case, message.id, recipient, fates[recipient], has, doubts[message.id],
                    len(told))
    digests = [message.digest for message in case.sent]
    if any(m.digest not in digests for m in arrived):
        yield "%s: something arrived that nobody sent" % case
    if len(arrived) != case.copies if case.exact else len(arrived) < case.copies:
        yield "%s: %d copies in all, not %d" % (case, len(arrived), case.copies)
    if case.ends and case.server.sessions < 2:
        yield "%s: its connection did not end" % case
    if failed != case.failed:
        yield "%s: %d recipients failed, not %d" % (case, failed, case.failed)
    if (case.ahead > 0) != (case.in_force != "off") and case.looks_ahead:
        yield "%s: %d times it did not wait for an answer" % (case, case.ahead)
    if bool(case.server.heard(b"BDAT")) != (case.in_force == "stream"):
        yield "%s: heard %s" % (case, {c.split()[0] for c in case.server.commands})


def too_late(dialogue):
    """The client waits for half of that time."""
    time.sleep(1.6)


def anomalies(mode):
    """In one chunk a message has no answer to DATA but the one to its end. Copies are not exact
    where a server that was left alone goes on with what it had got."""
    stream = mode == "stream"
    data = "dot" if stream else "DATA"
    closing = b"421 4.3.2 going down"
    return [
        Case("nothing", mode),
        Case("no PIPELINING", mode, offers=(b"CHUNKING",), in_force="off"),
        Case("no CHUNKING", mode, offers=(b"PIPELINING",), in_force="safe" if stream else mode),
        Case("answers byte by byte", mode, pieces=byte_by_byte),
        Case("answers of a thousand lines", mode, pieces=thousand_lines),
        Case("421 to MAIL", mode, "MAIL", closing),
        Case("421 to RCPT", mode, "RCPT again", closing),
        Case("421 to DATA", mode, data, closing),
        Case("421 within the content", mode, "content", closing, big=True),
        Case("421 to the dot", mode, "dot", closing),
        Case("421 behind the dot", mode, "dot", OK + b"\r\n" + closing),
        Case("250 before the dot", mode, "content", OK, big=True),
        Case("452 before the dot", mode, "content", b"452 4.3.1 full", big=True),
        Case("552 before the dot", mode, "content", b"552 5.3.4 too large", big=True,
             copies=EACH - 1, failed=2),
        Case("one answer too many", mode, "dot", OK + b"\r\n250 2.0.0 again", exact=False),
        Case("a recipient", mode, "RCPT", b"550 5.1.1 no such user", lasts=True, failed=1),
        Case("a recipient, for now", mode, "RCPT", b"450 4.2.0 later", copies=EACH + 1),
        Case("all recipients", mode, "every RCPT", b"550 5.1.1 no such user", copies=EACH - 1,
             failed=2),
        Case("all recipients, for now", mode, "every RCPT", b"450 4.2.0 later"),
        Case("the sender", mode, "MAIL", b"550 5.1.8 no such sender", copies=EACH - 1, failed=2),
        Case("DATA", mode, data, b"554 5.6.0 no", copies=EACH - 1, failed=2),
        Case("DATA, for now", mode, data, b"451 4.3.0 later"),
        Case("the wrong yes to DATA", mode, data, b"354 go" if stream else b"250 ok",
             exact=not stream),
        Case("nonsense to RCPT", mode, "RCPT", b"ok", exact=not stream),
        Case("nonsense to the dot", mode, "dot", b"ok", copies=EACH + 1, exact=not stream),
        Case("taken, and closed", mode, "dot", CLOSE, copies=EACH + 1, exact=False),
        Case("taken, and reset", mode, "dot", RESET, copies=EACH + 1, exact=False),
        Case("taken, and told too late", mode, "dot", too_late, copies=EACH + 1, exact=False,
             reply_timeout="400ms"),
    ]


def test_books_of_every_anomaly(tasuki, scripted_upstream, monkeypatch):
    """In every mode; a 421 costs five seconds of rest, so all play at once."""
    cases = [case for mode in MODES for case in anomalies(mode)]
    assert play(tasuki, scripted_upstream, monkeypatch, cases) == []


def ends(mode, ways=(RESET, CLOSE), tls=None):
    """The connection ends around each answer to a window, or (NIGHTLY) behind each of their bytes.
    A copy is due only where the answer to content was begun and not finished; by RESET more of
    what was said may be lost."""
    answers = [MAILED, NAMED, NAMED, OK] if mode == "stream" else [MAILED, NAMED, NAMED, GO, OK]
    places, torn, end = set(), set(), 0
    for answer in answers * EACH:
        start, end = end, end + len(answer) + 2
        places |= {start, start + 1, end - 1}
        torn |= set(range(start + 1, end)) if answer == OK else set()
    for at in range(end) if NIGHTLY else sorted(places):
        for how in ways if NIGHTLY else ways[at % len(ways):][:1]:
            yield Case("%s at %d" % (how, at), mode, cut=at, how=how, exact=how == CLOSE,
                       copies=EACH + (at in torn), tls=tls)


def deaf_ends(mode):
    """The same for what the client sends; no more than the window has. What was heard whole was
    answered, so that in peace nothing comes twice."""
    ways = (RESET, CLOSE)
    for at in range(0, WINDOW_BYTES, 1 if NIGHTLY else 97):
        for how in ways if NIGHTLY else ways[at % 2:][:1]:
            yield Case("%s, deaf at %d" % (how, at), mode, deaf=at, how=how, exact=how == CLOSE)


def play_in_parts(tasuki, scripted_upstream, monkeypatch, cases):
    for first in range(0, len(cases), 4 * SECTIONS_MAX):
        some = cases[first:first + 4 * SECTIONS_MAX]
        assert play(tasuki, scripted_upstream, monkeypatch, some) == []


@pytest.mark.parametrize("mode", MODES)
def test_books_of_an_end_at_a_byte_of_the_answers(tasuki, scripted_upstream, monkeypatch, mode):
    play_in_parts(tasuki, scripted_upstream, monkeypatch, list(ends(mode)))


def test_books_of_an_end_at_a_byte_of_the_window(tasuki, scripted_upstream, monkeypatch):
    cases = [case for mode in MODES for case in deaf_ends(mode)]
    play_in_parts(tasuki, scripted_upstream, monkeypatch, cases)


def test_books_of_a_stream_within_tls_that_is_cut(certificates, tasuki, scripted_upstream,
                                                  monkeypatch):
    """Without close_notify it is a lost connection, between two answers as well as within one."""
    cases = list(ends("stream", (CLOSE,), certificates.ca))
    play_in_parts(tasuki, scripted_upstream, monkeypatch, cases)


# ---- slow readers ----


def reads_nothing(dialogue):
    dialogue.case.stalled.set()
    wait_until(dialogue.is_written_down, what=dialogue.case.daemon.log)


def reads_a_byte_a_second(dialogue):
    dialogue.case.stalled.set()
    end = time.monotonic() + peers.PATIENCE_S
    while not dialogue.is_written_down():
        assert time.monotonic() < end and dialogue.peer.recv(1)
        time.sleep(1)


def test_slow_readers_hold_nobody_up(tasuki, scripted_upstream, monkeypatch):
    """In every mode, all on one thread; each costs its own connection, and is tried again."""
    cases = [Case(what.__name__, mode, "content", what, big=True, reply_timeout="2500ms")
             for mode in MODES for what in (reads_nothing, reads_a_byte_a_second)]
    rest = scripted_upstream()
    go, daemons = arrange(tasuki, scripted_upstream, monkeypatch, cases, rest.port, workers=1)
    (daemon, _), = daemons
    go.set()
    wait_until(lambda: all(case.stalled.is_set() for case in cases), what=daemon.log)
    names = ["n%d@rest.test" % number for number in range(10)]
    for name in names:
        daemon.send(to=name)
    wait_until(lambda: len(rest.messages) == len(names), what=daemon.log)
    second = {case.sent[1].id for case in cases}
    waiting = {m["id"] for m in daemon.queue() if m["state"] == "sending"}
    assert second <= waiting, "while none of the slow ones was given up"
    assert problems_of(daemons) == []
    given_up = {e["id"] for e in daemon.events("deferred", reason="timed-out")}
    assert second <= given_up
    assert sorted(m.recipients[0] for m in rest.messages) == sorted(names)
    assert daemon.events("upstream-marked", upstream="rest") == []
