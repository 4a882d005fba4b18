"""Several upstreams, real ones: each sender's mail by its own account, stand-ins, and the way back."""

import re
import shutil
import subprocess
import threading

import pytest

from peers import PATIENCE_S, USER, Client, Postfix, section, wait_until

SHOP_USER, SHOP_PASSWORD = "shop-account", "another; password=of its own"


@pytest.fixture(scope="module")
def other_postfix(certificates):
    """A second provider: it knows one account only, the shop's."""
    server = Postfix(certificates)
    subprocess.run(["saslpasswd2", "-d", "-f", str(server.directory / "sasldb2"), "-u",
                    "tasuki.test", USER], check=True, timeout=PATIENCE_S, capture_output=True)
    subprocess.run(["saslpasswd2", "-p", "-c", "-f", str(server.directory / "sasldb2"), "-u",
                    "tasuki.test", SHOP_USER], input=SHOP_PASSWORD.encode(), check=True,
                   timeout=PATIENCE_S, capture_output=True)
    shutil.chown(server.directory / "sasldb2", "postfix")
    server.start()
    yield server
    server.stop()
    server.remove()


@pytest.fixture
def other(other_postfix):
    other_postfix.sink.messages.clear()
    return other_postfix


@pytest.fixture
def shop_secret(tmp_path):
    path = tmp_path / "shop"
    path.touch(mode=0o600)
    path.write_text(SHOP_PASSWORD + "\n")
    return path


def by_login(name, server, certificates, user=USER, secret="SECRET", **more):
    return section(name, host="[localhost]:%d" % server.ports["starttls"], user=user,
                   password_file=secret, tls_ca=certificates.ca, **more)


def plain(name, server, **more):
    return section(name, host="[127.0.0.1]:%d" % server.ports["plain"], tls="off", **more)


class Seen:
    """What a Postfix has logged from now on."""

    def __init__(self, server):
        self.server, self.start = server, len(server.log())

    def text(self):
        return self.server.log()[self.start:]

    def sessions(self):
        """Those that went on to TLS: the rig itself only looks whether the port answers."""
        return len(re.findall(r"TLS connection established from", self.text()))

    def users(self):
        """Whose login each message came with."""
        return re.findall(r"NOQUEUE: client=.*sasl_username=([^@<]+)@", self.text())


def recipients(*sinks):
    return sorted(path for sink in sinks for m in sink.messages for path in m.recipients)


def test_each_sender_has_its_account_and_its_connection(postfix, other, certificates, tasuki,
                                                        shop_secret):
    office_log, shop_log = Seen(postfix), Seen(other)
    daemon = tasuki(
        by_login("office", postfix, certificates, connections=1) +
        by_login("shop", other, certificates, SHOP_USER, shop_secret, connections=1,
                 use="for sender:*@shop.example sender:orders@*"))
    with Client(daemon.port) as client:
        for n in range(30):
            sender = ("scanner@example.test", "web@Shop.Example", "orders@b.example")[n % 3]
            client.mail("r%d@example.test" % n, b"Subject: %d\r\n\r\nx\r\n" % n, sender)
    wait_until(daemon.queue_empty, what=daemon.log)
    assert recipients(postfix.sink) == sorted("r%d@example.test" % n for n in range(0, 30, 3))
    assert recipients(other.sink) == sorted("r%d@example.test" % n for n in range(30) if n % 3)
    assert {m.sender for m in postfix.sink.messages} == {"scanner@example.test"}
    # One login and one connection each, however senders take turns.
    assert wait_until(office_log.users) == [USER] * 10
    assert wait_until(shop_log.users) == [SHOP_USER] * 20
    assert (office_log.sessions(), shop_log.sessions()) == (1, 1)
    assert len(daemon.events("upstream-up")) == 2
    shown = {u["name"]: u for u in daemon.status()["upstreams"]}
    assert shown["office"]["use"] == "always"
    assert shown["shop"]["use"] == "for sender:*@shop.example sender:orders@*"
    assert (shown["office"]["delivered"], shown["shop"]["delivered"]) == (10, 20)
    said = daemon.ctl("status").out
    assert "use: for sender:*@shop.example sender:orders@*" in said
    assert SHOP_PASSWORD not in daemon.log()


def test_a_message_for_both_becomes_two(postfix, other, tasuki):
    daemon = tasuki(plain("rest", postfix) +
                    plain("shop", other, use="for recipient:*@shop.example"))
    big = b"Subject: big\r\n\r\n" + b"".join(b"line %07d of a long message\r\n" % n
                                             for n in range(100_000))
    for body in (b"Subject: x\r\n\r\nhello\r\n", big):
        postfix.sink.messages.clear()
        other.sink.messages.clear()
        to = ["a@shop.example", "b@example.test", "c@Shop.Example", "d@example.test"]
        with Client(daemon.port) as client:
            name = client.mail(to, body)
        wait_until(daemon.queue_empty, what=daemon.log)
        assert recipients(postfix.sink) == ["b@example.test", "d@example.test"]
        assert recipients(other.sink) == ["a@shop.example", "c@Shop.Example"]
        assert [m.length for m in postfix.sink.messages] == [m.length for m in other.sink.messages]
        assert {m.digest for m in postfix.sink.messages} == {m.digest for m in other.sink.messages}
        event = daemon.events("split")[-1]
        assert event["from"] == name and event["upstream"] == "rest"
        assert daemon.ask("show", id=name)["upstream"] == "shop"
        assert daemon.ask("show", id=event["id"])["recipients"][0]["to"] == "b@example.test"
        lines = daemon.ask("transcript", id=name)["lines"]
        assert any(event["id"] in line and "2 recipients" in line for line in lines), lines
        lines = daemon.ask("transcript", id=event["id"])["lines"]
        assert any("it was part of the message " + name in line for line in lines), lines


def test_a_stand_in_while_the_first_is_down(certificates, postfix, tasuki):
    """Killed and started again under steady mail: each message arrives once, and the preferred
    one has its mail again by itself."""
    main = Postfix(certificates)
    main.start()
    running = True
    try:
        daemon = tasuki(plain("main", main) + plain("backup", postfix, use="when-down"))
        sent = []

        def send(count):
            for _ in range(count):
                sent.append("r%d@example.test" % len(sent))
                daemon.send(to=sent[-1])

        send(5)
        wait_until(daemon.queue_empty, what=daemon.log)
        assert recipients(main.sink) == sorted(sent) and postfix.sink.count() == 0
        main.stop()
        running = False
        send(10)
        wait_until(daemon.queue_empty, what=daemon.log)
        assert recipients(postfix.sink) == sorted(sent[5:])
        up = daemon.upstream("main")
        assert (up["state"], up["stand_in"]) == ("marked", "backup")
        verdict = daemon.status()["verdict"]
        assert verdict["sentence"] == \
            "main is down (%s); backup carries its mail." % up["sentence"]
        assert verdict["level"] == "attention"
        said = daemon.ctl("status").out
        assert "main: down, backup carries its mail" in said and "use: when-down" in said
        # Mail goes on while it comes back.
        steady = threading.Thread(target=send, args=(60,))
        steady.start()
        main.start()
        running = True
        wait_until(lambda: daemon.upstream("main")["state"] == "well", what=daemon.log)
        steady.join(PATIENCE_S)
        wait_until(daemon.queue_empty, what=daemon.log)
        carried = postfix.sink.count()
        send(5)
        wait_until(daemon.queue_empty, what=daemon.log)
        assert postfix.sink.count() == carried, "backup takes nothing any more"
        assert recipients(main.sink, postfix.sink) == sorted(sent), "none lost, none twice"
        status = daemon.status()
        assert status["verdict"]["level"] == "ok"
        assert [u["stand_in"] for u in status["upstreams"]] == [None, None]
        assert daemon.events("stand-in", upstream="main", by="backup")
        assert daemon.events("stand-in-over", upstream="main", by="backup", back="yes")
        assert {m["upstream"] for m in daemon.ask("history", limit=1000)["messages"]} == {"main"}
    finally:
        daemon.stop()
        if running:
            main.stop()
        main.remove()


def test_a_refused_login_sends_mail_the_other_way(other, postfix, certificates, tasuki):
    """The account is locked at the one; the other has it in its place, and is told of in history."""
    daemon = tasuki(by_login("main", other, certificates) +
                    by_login("backup", postfix, certificates, use="when-down"))
    name = daemon.send()
    wait_until(daemon.queue_empty, what=daemon.log)
    assert recipients(postfix.sink) == ["anna@example.test"]
    up = daemon.upstream("main")
    assert (up["reason"], up["stand_in"]) == ("auth-refused", "backup")
    assert daemon.status()["verdict"]["hint"] == up["hint"]
    moves = daemon.ask("show", id=name)["moves"]
    assert [(m["to"], m["upstream"]) for m in moves] == [("delivered", "backup")]


def test_upstreams_without_terms_share_and_stand_in(other, postfix, tasuki, scripted_upstream):
    broken = scripted_upstream()
    broken.faults["greeting"] = b"554 5.7.1 go away"
    daemon = tasuki(plain("one", postfix) + plain("two", other) +
                    section("three", host="[127.0.0.1]:%d" % broken.port, tls="off"))
    names = ["r%d@example.test" % n for n in range(40)]
    for name in names:
        daemon.send(to=name)
    wait_until(daemon.queue_empty, what=daemon.log)
    assert recipients(postfix.sink, other.sink) == sorted(names)
    assert postfix.sink.count() > 0 and other.sink.count() > 0
    assert daemon.upstream("three")["stand_in"] == "one"
    broken.mend()
    wait_until(lambda: daemon.upstream("three")["state"] == "well", what=daemon.log)


def test_a_removed_upstream_leaves_its_mail(postfix, other, tasuki):
    """What waited for it goes by the routes that there are at the next start."""
    daemon = tasuki(plain("rest", postfix) +
                    section("gone", host="[127.0.0.1]:1", tls="off",
                            use="for sender:*@shop.example"))
    daemon.send(to="a@example.test", sender="x@shop.example")
    daemon.send(to="b@news.example", sender="x@shop.example")
    wait_until(lambda: daemon.upstream("gone")["state"] == "marked")
    assert daemon.status()["queue"]["queued"] == 2
    daemon.stop()
    text = daemon.file.read_text()
    daemon.file.write_text(text[:text.index("[upstream gone]")] +
                           plain("news", other, use="for recipient:*@news.example"))
    daemon.start()
    wait_until(daemon.queue_empty, what=daemon.log)
    assert recipients(postfix.sink) == ["a@example.test"]
    assert recipients(other.sink) == ["b@news.example"]
