"""tasukictl trace out: dialogues with upstreams as they happen, secrets masked, content left out."""

import json
import os
import re
import signal
import subprocess
import time

import pytest

from peers import (BUILD, PASSWORD, PATIENCE_S, SECRETS, USER, free_ports, section, wait_until)

CONTENT = b"Subject: the secret subject\r\n\r\nthe secret content\r\n"
WATCH_S = 5  # TRACE_WATCH_MS


class Watcher:
    """A running `tasukictl trace out`; what it prints goes to a file."""

    def __init__(self, daemon, *args):
        self.daemon = daemon
        self.path = daemon.directory / ("trace-%d" % time.monotonic_ns())
        self.out = open(self.path, "wb")
        self.process = subprocess.Popen(
            [str(BUILD / "tasukictl"), "-c", str(daemon.file), "trace", "out", *args],
            stdin=subprocess.DEVNULL, stdout=self.out, stderr=subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C.UTF-8", "TERM": "dumb"})

    def text(self):
        return self.path.read_text()

    def rows(self):
        whole = self.text()
        return [json.loads(line) for line in whole[:whole.rfind("\n") + 1].splitlines()]

    def lines(self, **having):
        return [row["line"] for row in self.rows()
                if all(row.get(k) == v for k, v in having.items())]

    def wait_for(self, what, **having):
        """Until a line holds it."""
        wait_until(lambda: any(what in line for line in self.lines(**having)),
                   what=lambda: "%s in %s" % (what, self.text()))

    def end(self):
        """Its exit code and what it said on standard error."""
        _, err = self.process.communicate(timeout=PATIENCE_S)
        self.out.close()
        return self.process.returncode, err.decode()


@pytest.fixture
def watch():
    """Starts watchers that have certainly begun to watch."""
    made = []

    def make(daemon, *args):
        watcher = Watcher(daemon, *args)
        made.append(watcher)
        time.sleep(0.5)  # one request on a local socket; a line missed would only fail the test
        assert watcher.process.poll() is None, watcher.process.stderr.read()
        return watcher

    yield make
    for watcher in made:
        if watcher.process.poll() is None:
            watcher.process.kill()
        watcher.process.wait()
        watcher.process.stderr.close()
        watcher.out.close()


def plain(port, name="main", **settings):
    return section(name, host="[127.0.0.1]:%d" % port, tls="off", insecure_plain="yes", **settings)


def secure(port, certificates, **settings):
    return section(host="[127.0.0.1]:%d" % port, tls_ca=certificates.ca, user=USER,
                   password_file="SECRET", **settings)


def transcript(daemon, id):
    """The dialogue as the history keeps it, without its head."""
    lines = daemon.ask("transcript", id=id)["lines"]
    return [line for line in lines if not re.match(r"-- \d{4}-", line)]


def arrived(daemon, server, *to):
    wait_until(lambda: server.to(*to), what="the message to " + str(to))
    wait_until(daemon.queue_empty, what="the books")


@pytest.mark.parametrize("mechanism", ["plain", "login", "cram-md5", "scram-sha-256"])
def test_logins_are_masked(tasuki, postfix, certificates, watch, mechanism):
    daemon = tasuki(secure(postfix.ports["starttls"], certificates, auth=mechanism))
    watcher = watch(daemon, "--json")
    id = daemon.send("anna@example.test", CONTENT)
    watcher.wait_for("S: 250 2", id=id)
    lines = watcher.lines()
    shown = watcher.text()
    for secret in SECRETS:
        assert secret not in shown
    # What follows the name, where anything does, is the first part of the secret.
    (login,) = [at for at, line in enumerate(lines)
                if re.fullmatch("C: AUTH %s( [*]{4})?" % mechanism.upper(), line)]
    assert lines[login].endswith("****") == (mechanism in ("plain", "scram-sha-256"))
    after = lines[login + 1:]
    logging_in = after[:next(i for i, line in enumerate(after) if line.startswith("S: 235"))]
    assert {line for line in logging_in if line.startswith("C:")} <= {"C: ****"}
    assert any(line.startswith("-- connecting to 127.0.0.1:") for line in lines)
    assert any(line.startswith("-- inside TLS: TLSv1.") for line in lines)
    assert lines.index("C: STARTTLS") < login
    assert "the secret" not in shown
    wait_until(daemon.queue_empty, what=daemon.log)  # the outcome is shown before its commit
    assert watcher.lines(id=id) == transcript(daemon, id)


def test_a_wrong_password_is_masked_too(tasuki, postfix, certificates, watch):
    daemon = tasuki(secure(postfix.ports["starttls"], certificates, auth="plain"), start=False)
    daemon.write_secret("not " + PASSWORD)
    daemon.start()
    watcher = watch(daemon, "--json")
    daemon.send()
    watcher.wait_for("-- closed: auth-refused, 535 ")
    assert "C: AUTH PLAIN ****" in watcher.lines()
    assert PASSWORD not in watcher.text() and PASSWORD.split()[1] not in watcher.text()


def test_for_people(tasuki, scripted_upstream, watch):
    server = scripted_upstream()
    server.recipients["bob@example.test"] = b"550 5.1.1 no \x1b[31mbob"
    daemon = tasuki(plain(server.port))
    watcher = watch(daemon, "--for", "3s")
    id = daemon.send(["anna@example.test", "bob@example.test"], CONTENT)
    arrived(daemon, server, "anna@example.test")
    assert watcher.end() == (0, "")
    lines = watcher.text().splitlines()
    for line in lines:
        assert re.match(r"\d\d:\d\d:\d\d\.\d{3}  main#\d+  (C: |S: |-- )", line), line
    said = [line.split("  ", 2)[2] for line in lines]
    assert said.index("S: 220 scripted.test ESMTP") < said.index("-- message " + id)
    assert said.index("-- message " + id) < said.index("C: RCPT TO:<anna@example.test>")
    assert r"S: 550 5.1.1 no \x1b[31mbob" in said
    assert "\x1b" not in watcher.text() and "the secret" not in watcher.text()


def test_each_message_of_a_streaming_connection(tasuki, scripted_upstream, watch):
    """Many messages at once: each one's lines are whole, in order, and told apart by its id."""
    server = scripted_upstream()
    daemon = tasuki(plain(server.port, connections=1, pipeline="safe"))
    watcher = watch(daemon, "--json")
    ids = [daemon.send("m%d@example.test" % at, CONTENT) for at in range(20)]
    arrived(daemon, server, "m19@example.test")
    watcher.wait_for("S: 250 2.0.0", id=ids[-1])
    for id in ids:
        assert watcher.lines(id=id) == transcript(daemon, id)
    numbers = [row["number"] for row in watcher.rows()]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert "the secret" not in watcher.text()


def test_a_connection_from_its_beginning_to_its_end(tasuki, scripted_upstream, watch):
    server = scripted_upstream()
    [nobody] = free_ports(1)
    daemon = tasuki(plain(server.port, keep_open="1s") + plain(nobody, "none", use="when-down"))
    watcher = watch(daemon, "--json")
    daemon.send()
    watcher.wait_for("-- closed: no more is to be said")
    lines = watcher.lines(upstream="main", id=None)
    assert lines[0] == "-- connecting to 127.0.0.1:%d" % server.port
    assert lines[-3:] == ["C: QUIT", "S: 221 2.0.0 bye", "-- closed: no more is to be said"]
    assert len({row["connection"] for row in watcher.rows()}) == 1
    # A test is a connection, too.
    assert daemon.ctl("test", "none").code == 1
    watcher.wait_for("-- closed: connection-refused", upstream="none")
    assert "-- no connection to 127.0.0.1:%d" % nobody in watcher.lines(upstream="none")
    done = daemon.ctl("test", "main")
    assert done.code == 0
    wait_until(lambda: watcher.lines(upstream="main").count(lines[-1]) == 2, what="the test's end")
    tested = watcher.lines(connection=max(row["connection"] for row in watcher.rows()))
    assert ["  " + line for line in tested[:-1]] == done.out.split("\n\n")[0].splitlines()


def test_filters(tasuki, scripted_upstream, watch):
    main, shop = scripted_upstream(), scripted_upstream()
    daemon = tasuki(plain(main.port, keep_open="1s") +
                    plain(shop.port, "shop", use="for sender:*@shop.example"))
    by_sender = watch(daemon, "--json", "from:anna@office.example")
    by_upstream = watch(daemon, "--json", "upstream:shop")
    both = watch(daemon, "--json", "upstream:shop", "to:bob")
    without = watch(daemon, "--json", "-upstream:shop")
    sending = watch(daemon, "--json", "state:delivered", "to:carl@")
    ids = [daemon.send(to, CONTENT, sender) for sender, to in (
        ("anna@office.example", "bob@example.test"), ("eve@office.example", "bob@example.test"),
        ("anna@shop.example", "bob@example.test"), ("anna@shop.example", "carl@example.test"))]
    wait_until(lambda: len(main.messages) == 2 and len(shop.messages) == 2)
    by_sender.wait_for("S: 250 2.0.0", id=ids[0])
    by_upstream.wait_for("S: 250 2.0.0", id=ids[3])
    both.wait_for("S: 250 2.0.0", id=ids[2])
    without.wait_for("-- closed", upstream="main")
    # The last line comes when it is delivered, and what is delivered is in the history.
    sending.wait_for("S: 250 2.0.0", id=ids[3])
    assert {row["id"] for row in by_sender.rows()} == {ids[0]}
    assert {row["id"] for row in by_upstream.rows()} == {None, *ids[2:]}
    assert {row["upstream"] for row in by_upstream.rows()} == {"shop"}
    assert {row["id"] for row in both.rows()} == {ids[2]}
    assert {row["id"] for row in without.rows()} == {None, *ids[:2]}
    assert {row["id"] for row in sending.rows()} == {ids[3]}
    done = daemon.ctl("trace", "out", "form:x")
    assert done.code == 64 and 'did you mean "from"?' in done.err


@pytest.mark.slow
def test_a_message_that_is_not_remembered(tasuki, scripted_upstream, watch):
    """Nothing is known of it any more: it is judged like what is about no message."""
    server = scripted_upstream()
    daemon = tasuki(plain(server.port, connections=1), keep_history="1ms")
    daemon.send()
    arrived(daemon, server, "anna@example.test")
    daemon.ask("trace")
    id = daemon.send("bob@example.test")
    arrived(daemon, server, "bob@example.test")
    wait_until(lambda: not daemon.ask("history")["messages"], timeout=3 * PATIENCE_S,
               what="the history's end, which is looked after once a minute")
    known = [row for row in daemon.ask("trace", after=0)["lines"] if row["id"] == id]
    assert known
    assert [row for row in daemon.ask("trace", after=0, filter="upstream:main")["lines"]
            if row["id"] == id] == known
    assert not daemon.ask("trace", after=0, filter="to:bob")["lines"]


def test_nothing_is_kept_while_nobody_watches(tasuki, scripted_upstream):
    server = scripted_upstream()
    daemon = tasuki(plain(server.port))
    daemon.send("a@example.test")
    arrived(daemon, server, "a@example.test")
    assert daemon.ask("trace", after=0) == {"schema": 1, "lines": [], "last": 0, "lost": 0}
    daemon.send("b@example.test")
    arrived(daemon, server, "b@example.test")
    kept = daemon.ask("trace", after=0)
    assert any("<b@example.test>" in row["line"] for row in kept["lines"])
    time.sleep(WATCH_S + 0.5)
    daemon.send("c@example.test")
    arrived(daemon, server, "c@example.test")
    assert daemon.ask("trace", after=0) == kept
    assert not any("<c@" in row["line"] for row in kept["lines"])


def test_the_socket(tasuki, scripted_upstream):
    server = scripted_upstream()
    daemon = tasuki(plain(server.port))
    assert daemon.ask("trace")["lines"] == []
    daemon.send()
    arrived(daemon, server, "anna@example.test")
    whole = daemon.ask("trace", after=0)
    assert whole["lost"] == 0 and whole["last"] == len(whole["lines"]) > 8
    assert [row["number"] for row in whole["lines"]] == list(range(1, whole["last"] + 1))
    part = daemon.ask("trace", after=2, limit=3)
    assert part["last"] == 5 and part["lines"] == whole["lines"][2:5]
    assert daemon.ask("trace", after=10 ** 9) == whole  # of a daemon before this one
    assert daemon.ask("trace")["lines"] == []
    # What the filter leaves out was looked at all the same.
    assert daemon.ask("trace", after=0, filter="upstream:other")["last"] == whole["last"]
    for bad in (-1, "x", 1.5, None):
        with pytest.raises(AssertionError, match="bad-request"):
            daemon.ask("trace", after=bad)
    with pytest.raises(AssertionError, match="bad-filter"):
        daemon.ask("trace", filter="form:x")


def test_whoever_reads_too_slowly_loses_lines(tasuki, scripted_upstream, watch):
    server = scripted_upstream()
    daemon = tasuki(plain(server.port))
    people, program = watch(daemon), watch(daemon, "--json")
    for watcher in (people, program):
        watcher.process.send_signal(signal.SIGSTOP)
    first = daemon.ask("trace")["last"]
    at = 0
    while daemon.ask("trace")["last"] < first + 1024 + 500:  # and so it is watched
        daemon.send("m%d@example.test" % at)
        at += 1
    wait_until(daemon.queue_empty)
    for watcher in (people, program):
        watcher.process.send_signal(signal.SIGCONT)
    wait_until(lambda: "lines were lost" in people.text(), what="the loss")
    assert re.search(r"^-- [1-9]\d* lines were lost$", people.text(), re.M)
    wait_until(lambda: any("lost" in row for row in program.rows()))
    numbers, after = [], None
    for row in program.rows():
        if "lost" in row:
            assert list(row) == ["schema", "lost"]
            after = (numbers[-1] if numbers else first) + row["lost"] + 1
        else:
            assert after is None or row["number"] == after
            numbers.append(row["number"])
            after = row["number"] + 1


def test_the_daemon_goes_away(tasuki, scripted_upstream, watch):
    daemon = tasuki(plain(scripted_upstream().port))
    people, program = watch(daemon), watch(daemon, "--json")
    daemon.stop()
    code, err = people.end()
    assert code == 69 and "the daemon has gone away" in err and "  next: " in err
    code, err = program.end()
    assert code == 69 and json.loads(err)["error"]["code"] == "unreachable"
    assert daemon.ctl("trace", "out").code == 69


def test_ends(tasuki, scripted_upstream, watch):
    daemon = tasuki(plain(scripted_upstream().port))
    interrupted = watch(daemon)
    interrupted.process.send_signal(signal.SIGINT)
    assert interrupted.end() == (-signal.SIGINT, "")
    # Nobody reads any more, and nothing is said either.
    piped = subprocess.Popen([str(BUILD / "tasukictl"), "-c", str(daemon.file), "trace", "out"],
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE)
    time.sleep(0.5)
    assert piped.poll() is None
    piped.stdout.close()
    assert piped.wait(PATIENCE_S) == 0 and piped.stderr.read() == b""
    piped.stderr.close()
    begun = time.monotonic()
    assert daemon.ctl("trace", "out", "--for", "1s").code == 0
    assert time.monotonic() - begun >= 1
