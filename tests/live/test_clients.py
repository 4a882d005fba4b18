"""Clients that are clumsy or hostile: a proper reply or a closed connection; others notice nothing.

The rows I of the list of hostile inputs, end to end: what counts is what the upstream gets.
"""

import re
import resource
import select
import socket
import struct
import subprocess
import time

import pytest

from peers import BUILD, PATIENCE_S, Client, section, wait_until

HEAD = b"From: scanner@example.test\r\nSubject: x\r\n\r\n"


@pytest.fixture
def upstream(scripted_upstream):
    return scripted_upstream()


@pytest.fixture
def relay(tasuki, upstream):
    """A daemon in front of a good upstream; settings as arguments."""
    def make(**settings):
        return tasuki(section(host="[127.0.0.1]:%d" % upstream.port, tls="off"), **settings)
    return make


def assert_others_are_served(daemon, upstream):
    """Somebody else's mail goes through at this very moment, and nothing else has."""
    before = len(upstream.messages)
    with Client(daemon.port, timeout=5) as other:
        other.mail("other@example.test", HEAD + b"fine\r\n")
    wait_until(lambda: len(upstream.messages) == before + 1, what=daemon.log)
    assert upstream.messages[-1].body == HEAD + b"fine\r\n"


def assert_nothing_else(daemon, upstream, count):
    wait_until(daemon.queue_empty, what=daemon.log)
    assert len(upstream.messages) == count
    assert daemon.status()["counters"]["accepted"] == count


def wait_closed(client, timeout=PATIENCE_S):
    """What still comes until the other side closes."""
    client.peer.settimeout(timeout)
    rest = b""
    try:
        while True:
            piece = client.peer.recv(65536)
            if not piece:
                return rest
            rest += piece
    except ConnectionResetError:
        return rest


# ---- commands ----

OUT_OF_ORDER = [
    (False, b"MAIL FROM:<a@example.test>", b"503 5.5.1"),
    (True, b"RCPT TO:<b@example.test>", b"503 5.5.1"),
    (True, b"DATA", b"503 5.5.1"),
    (True, b"BDAT 0 LAST", b"50"),
    (True, b"", b"500 5.5.2"),
    (True, b"FOO", b"500 5.5.1"),
    (True, b"STARTTLS", b"4"),
    (True, b"AUTH PLAIN AGEAYg==", b"503"),
    (True, b"XCLIENT NAME=x ADDR=10.0.0.1", b"500"),
    (True, b"XFORWARD NAME=x", b"500"),
    (True, b"MAIL FROM:<a@example.test> FOO=1", b"555"),
    (True, b"MAIL FROM:<a@example.test> SIZE=99999999999999999999999999999", b"501"),
    (True, b"MAIL FROM:<a@example.test> SIZE=26214401", b"552 5.3.4"),
    (True, b"MAIL FROM:a b c", b"5"),
    (True, b"NOOP \x00", b"501 5.5.2"),
    (True, b"NOOP \x07\x1b[31m", b"501 5.5.2"),
    (True, b"MAIL FROM:<\xff@example.test>", b"501 5.5.2"),
    (True, b"NOOP " + b"x" * 5000, b"500 5.5.2"),
    (True, b"NOOP a\nQUIT", b"501 5.5.2"),
    (True, b"NOOP a\rQUIT", b"501 5.5.2"),
]


def test_each_bad_command_has_its_reply(relay, upstream):
    daemon = relay()
    for hello, line, start in OUT_OF_ORDER:
        with Client(daemon.port, hello=hello) as client:
            reply = client.say(line)
            assert reply.startswith(start), (line[:60], reply)
            assert client.reply_count_is_one(), (line[:60], reply)
            client.say(b"EHLO again")
            client.mail("after@example.test", HEAD)
    wait_until(lambda: len(upstream.messages) == len(OUT_OF_ORDER), what=daemon.log)
    assert_others_are_served(daemon, upstream)
    assert {m.recipients for m in upstream.messages[:-1]} == {("after@example.test",)}


def test_a_line_without_an_end(relay, upstream):
    daemon = relay()
    client = Client(daemon.port)
    try:
        for _ in range(640):
            client.write(b"x" * 65536)
    except (BrokenPipeError, ConnectionResetError):
        pass
    assert b"200 " not in wait_closed(client)
    client.close()
    assert_others_are_served(daemon, upstream)
    assert_nothing_else(daemon, upstream, 1)


def test_pipelined_garbage_has_a_bound(relay, upstream):
    daemon = relay()
    with Client(daemon.port) as client:
        client.write(b"".join(b"GARBAGE %d\r\n" % n for n in range(1000)))
        replies = wait_closed(client).splitlines()
    assert 1 <= len(replies) <= 22
    assert {r[:3] for r in replies[:-1]} == {b"500"}
    assert replies[-1].startswith(b"421 4.7.0")
    assert_others_are_served(daemon, upstream)


@pytest.mark.parametrize("first", [
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"SSH-2.0-x\r\n",
    b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n"], ids=["http", "tls", "ssh", "proxy"])
def test_other_protocols(relay, upstream, first):
    daemon = relay(idle_timeout="2s")
    with Client(daemon.port, hello=False) as client:
        client.write(first + b"MAIL FROM:<a@example.test>\r\n")
        reply = client.reply()
        assert reply == b"" or reply[:1] in b"45", reply
    assert_others_are_served(daemon, upstream)
    assert_nothing_else(daemon, upstream, 1)


def test_quit_then_more(relay, upstream):
    daemon = relay()
    with Client(daemon.port) as client:
        client.write(b"QUIT\r\nMAIL FROM:<a@example.test>\r\nRCPT TO:<b@example.test>\r\nDATA\r\n"
                     b"x\r\n.\r\n")
        assert wait_closed(client).splitlines() == [b"221 2.0.0 bye"]
    assert_nothing_else(daemon, upstream, 0)


def test_too_many_recipients(relay, upstream):
    daemon = relay()
    with Client(daemon.port) as client:
        client.say(b"MAIL FROM:<a@example.test>")
        client.write(b"".join(b"RCPT TO:<u%d@example.test>\r\n" % n for n in range(1100)))
        replies = [client.reply()[:9] for _ in range(1100)]
        assert replies[:1000] == [b"250 2.1.5"] * 1000
        refused = [r for r in replies if r != b"250 2.1.5"]
        assert set(refused) <= {b"452 4.5.3"}
        assert client.say(b"DATA").startswith(b"354")
        assert client.say(HEAD + b".").startswith(b"250")
    wait_until(daemon.queue_empty, what=daemon.log)
    paths = [path for m in upstream.messages for path in m.recipients]
    assert sorted(paths) == sorted("u%d@example.test" % n for n in range(1100 - len(refused)))


def test_mail_loop(relay, upstream):
    daemon = relay()
    line = b"Received: from a by b; Mon, 23 Nov 2026 10:00:00 +0900\r\n"
    with Client(daemon.port) as client:
        client.begin()
        client.say(b"DATA")
        assert client.say(line * 101 + HEAD + b".").startswith(b"554 5.4.6")
        client.mail("anna@example.test", line * 100 + HEAD)
    assert_nothing_else(daemon, upstream, 1)


def test_too_large(relay, upstream):
    daemon = relay(max_size="64K")
    with Client(daemon.port) as client:
        client.begin()
        client.say(b"DATA")
        assert client.say(b"0123456789abcd\r\n" * 4097 + b".").startswith(b"552 5.3.4")
        client.mail("anna@example.test", b"0123456789abcd\r\n" * 4096)
    assert_nothing_else(daemon, upstream, 1)


# ---- the end of the content ----

FALSE_ENDS = [b"\n.\n", b"\n.\r", b"\r.\n", b"\r.\r", b"\n.\r\n", b"\r.\r\n", b"\r\n.\n",
              b"\r\n.\r", b"\r\n\0.\r\n", b"\r\n.\0\r\n", b"\r\n.\r\r\n", b"\r\r\n.\r\r\n",
              b"\n\r.\r\n", b"\r\n.\t\r\n", b"\r\n. \r\n", b"\x85.\x85", b"\n\n.\n"]
SMUGGLED = (b"MAIL FROM:<evil@example.test>\r\nRCPT TO:<smuggled@example.test>\r\nDATA\r\n"
            b"Subject: smuggled\r\n\r\nx")


def test_nothing_is_smuggled_into_postfix(postfix, tasuki):
    daemon = tasuki(section(host="[127.0.0.1]:%d" % postfix.ports["plain"], tls="off"))
    for index, end in enumerate(FALSE_ENDS):
        with Client(daemon.port) as client:
            client.begin("false-%d@example.test" % index)
            client.say(b"DATA")
            reply = client.say(HEAD + b"one" + end + SMUGGLED + b"\r\n.")
            assert reply[:3] in (b"250", b"550"), (end, reply)
            assert client.say(b"NOOP").startswith(b"250"), "one reply for one message"
    wait_until(daemon.queue_empty, what=daemon.log)
    assert postfix.sink.to("smuggled@example.test") == []
    assert sorted(m.recipients[0] for m in postfix.sink.messages) == \
        sorted("false-%d@example.test" % index for index in range(len(FALSE_ENDS)))


@pytest.mark.parametrize("end", FALSE_ENDS, ids=[repr(e)[2:-1] for e in FALSE_ENDS])
def test_content_leaves_in_strict_form(relay, upstream, end):
    daemon = relay()
    with Client(daemon.port) as client:
        client.begin()
        client.say(b"DATA")
        client.say(HEAD + b"one" + end + SMUGGLED + b"\r\n.")
    wait_until(daemon.queue_empty, what=daemon.log)
    assert len(upstream.messages) == 1
    body = upstream.messages[0].body
    assert b"\n" not in body.replace(b"\r\n", b"") and b"\r" not in body.replace(b"\r\n", b"")
    assert b"Subject: smuggled" in body
    assert len(upstream.heard(b"MAIL")) == 1


def test_the_true_end_cut_at_each_byte(relay, upstream):
    daemon = relay()
    whole = b"one\r\n.\r\n"
    for cut in range(len(whole) + 1):
        with Client(daemon.port) as client:
            client.peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.begin("cut-%d@example.test" % cut)
            client.say(b"DATA")
            client.write(whole[:cut])
            assert_no_reply_before(client, cut == len(whole))
            client.write(whole[cut:])
            assert client.reply().startswith(b"250 2.")
    wait_until(daemon.queue_empty, what=daemon.log)
    assert {m.body for m in upstream.messages} == {b"one\r\n"}
    assert len(upstream.messages) == len(whole) + 1


def assert_no_reply_before(client, complete):
    """Long enough for the piece to be read as a segment of its own."""
    ready = select.select([client.peer], [], [], 0.05)[0]
    assert complete or not ready


def test_data_and_dot_at_once(relay, upstream):
    daemon = relay()
    with Client(daemon.port) as client:
        client.write(b"MAIL FROM:<a@example.test>\r\nRCPT TO:<b@example.test>\r\nDATA\r\n.\r\n"
                     b"MAIL FROM:<a@example.test>\r\nRCPT TO:<c@example.test>\r\nDATA\r\n"
                     b"x\r\n.\r\n")
        assert [client.reply()[:3] for _ in range(8)] == [b"250", b"250", b"354", b"250"] * 2
    wait_until(daemon.queue_empty, what=daemon.log)
    assert sorted(m.body for m in upstream.messages) == [b"", b"x\r\n"]


# ---- clients that leave, stall, or never read ----


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_client_leaves_in_the_middle(relay, upstream, how):
    daemon = relay()
    for size in (10, 100_000, 3_000_000):
        client = Client(daemon.port)
        client.begin()
        client.say(b"DATA")
        client.write(HEAD + b"0123456789abcd\r\n" * (size // 16))
        if how == "rst":
            client.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    wait_until(lambda: daemon.status()["clients"] == 0, what=daemon.log)
    wait_until(lambda: daemon.status()["queue"]["body_bytes"] == 0)
    assert_others_are_served(daemon, upstream)
    assert_nothing_else(daemon, upstream, 1)


def test_client_vanishes_behind_the_dot(relay, upstream):
    """Queued or not, never half."""
    daemon = relay()
    for _ in range(20):
        client = Client(daemon.port)
        client.begin()
        client.say(b"DATA")
        client.write(HEAD + b"whole\r\n.\r\n")
        client.close()
    wait_until(lambda: daemon.status()["clients"] == 0)
    wait_until(daemon.queue_empty, what=daemon.log)
    assert {m.body for m in upstream.messages} <= {HEAD + b"whole\r\n"}
    assert len(upstream.messages) == daemon.status()["counters"]["delivered"]


def test_silent_client_is_closed(relay, upstream):
    daemon = relay(idle_timeout="2s")
    with Client(daemon.port) as quiet, Client(daemon.port) as in_content:
        in_content.begin()
        in_content.say(b"DATA")
        in_content.write(b"Subject: never finished\r\n")
        assert_others_are_served(daemon, upstream)
        assert wait_closed(quiet, 10).startswith(b"421 4.4.2")
        assert wait_closed(in_content, 10).startswith(b"421 4.4.2")
    assert_nothing_else(daemon, upstream, 1)


def drip(client, byte, seconds):
    """A byte now and then, until it is closed; how long that took."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        if select.select([client.peer], [], [], 0.3)[0]:
            return time.monotonic() - began
        try:
            client.write(byte)
        except (BrokenPipeError, ConnectionResetError):
            return time.monotonic() - began
    return None


def test_a_command_byte_now_and_then_is_no_progress(relay, upstream):
    daemon = relay(idle_timeout="2s")
    with Client(daemon.port) as client:
        took = drip(client, b"x", 15)
        assert took is not None and took > 1, took
        assert wait_closed(client, 10)[:3] in (b"421", b"")
    assert_others_are_served(daemon, upstream)
    assert_nothing_else(daemon, upstream, 1)


@pytest.mark.slow
def test_a_byte_of_content_now_and_then_is_no_progress(relay, upstream):
    """The rate is measured over a minute."""
    daemon = relay(idle_timeout="2s")
    with Client(daemon.port) as client:
        client.begin()
        client.say(b"DATA")
        took = drip(client, b"x", 80)
        assert took is not None and took > 1, took
        assert wait_closed(client, 10)[:3] in (b"421", b"")
    assert_others_are_served(daemon, upstream)
    assert_nothing_else(daemon, upstream, 1)


def test_client_that_never_reads(relay, upstream):
    """It fills both ways with questions; it is closed, and costs others nothing."""
    daemon = relay(idle_timeout="2s")
    with Client(daemon.port) as client:
        client.peer.setblocking(False)
        question = b"HELP\r\n" * 10_000
        end = time.monotonic() + 30
        gone = False
        while not gone and time.monotonic() < end:
            try:
                client.peer.send(question)
            except BlockingIOError:
                if not select.select([], [client.peer], [], 0.2)[1]:
                    assert_others_are_served(daemon, upstream)
            except (BrokenPipeError, ConnectionResetError):
                gone = True
        assert gone, "still connected"
    wait_until(lambda: daemon.status()["clients"] == 0)
    assert len(wait_until(lambda: daemon.events("client-closed", reason="idle"))) == 1


# ---- who may connect ----


def test_stranger_is_refused(relay, upstream):
    daemon = relay(allow="10.1.2.3")
    with Client(daemon.port, hello=False) as client:
        assert client.greeting.startswith(b"554 5.7.1")
        assert client.say(b"MAIL FROM:<a@example.test>")[:3] in (b"503", b"554", b"")
    assert wait_until(lambda: daemon.events("client-refused"))[0]["client"] == "127.0.0.1"
    assert_nothing_else(daemon, upstream, 0)


def test_connections_of_one_client_are_bounded(relay, upstream):
    daemon = relay(connections_per_client="3")
    kept = [Client(daemon.port) for _ in range(3)]
    with Client(daemon.port, hello=False) as surplus:
        assert surplus.greeting.startswith(b"421 4.7.0")
    with socket.create_connection(("127.0.0.1", daemon.port), source_address=("127.0.0.2", 0),
                                  timeout=PATIENCE_S) as other:
        assert other.recv(100).startswith(b"220 ")
    kept.pop().close()
    wait_until(lambda: greeted(daemon.port))
    kept[0].mail("anna@example.test", HEAD)
    for client in kept:
        client.close()
    assert_nothing_else(daemon, upstream, 1)


def test_connections_in_all_are_bounded(relay, upstream):
    daemon = relay(connections_max="5")
    kept = [Client(daemon.port) for _ in range(5)]
    with Client(daemon.port, hello=False) as surplus:
        assert surplus.greeting.startswith(b"421 4.7.0")
    kept.pop().close()
    wait_until(lambda: greeted(daemon.port))
    for client in kept:
        client.close()
    assert wait_until(lambda: daemon.events("client-refused"))


def greeted(port):
    with Client(port, hello=False) as client:
        return client.greeting.startswith(b"220 ")


def test_many_connections_and_others(relay, upstream):
    daemon = relay(connections_max="1000", connections_per_client="500")
    crowd = []
    for _ in range(500):
        crowd.append(socket.create_connection(("127.0.0.1", daemon.port), timeout=PATIENCE_S))
    with socket.create_connection(("127.0.0.1", daemon.port), source_address=("127.0.0.3", 0),
                                  timeout=PATIENCE_S) as other:
        assert other.recv(100).startswith(b"220 ")
    for one in crowd:
        one.close()
    wait_until(lambda: daemon.status()["clients"] == 0)
    assert_others_are_served(daemon, upstream)


def has_few_files():
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))


def files_asked_for(daemon):
    """What a start says that it needs, where it may have far too few."""
    start = subprocess.run([str(BUILD / "tasukid"), "-c", str(daemon.file)],
                           preexec_fn=has_few_files, stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, timeout=PATIENCE_S)
    return int(re.search(rb"raise LimitNOFILE to (\d+)", start.stdout)[1])


def test_open_files_suffice_in_a_flood(relay, upstream):
    """Those who hear why they are not served have a descriptor, too, and delivery needs its own."""
    daemon = relay(connections_max="200", connections_per_client="1000")
    files = files_asked_for(daemon)
    resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, (files, files))
    with Client(daemon.port) as early:
        crowd = [socket.create_connection(("127.0.0.1", daemon.port), timeout=PATIENCE_S)
                 for _ in range(450)]
        early.mail("anna@example.test", HEAD)
        wait_until(lambda: len(upstream.messages) == 1, what=daemon.log)
    assert not daemon.events("upstream-marked"), "it could not be reached"
    for one in crowd:
        one.close()
