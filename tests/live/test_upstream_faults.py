"""What upstreams do wrong: mail waits, the reason is named, and it leaves by itself once mended."""

import base64
import re
import socket
import time

import pytest

import peers
from peers import CLOSE, PASSWORD, RESET, STALL, USER, Dialogue, Postfix, section, wait_until


def login_section(port, certificates, implicit=False, **more):
    more.setdefault("tls_ca", certificates.ca)
    return section(host="[localhost]:%d%s" % (port, "/tls" if implicit else ""), user=USER,
                   password_file="SECRET", **more)


def plain_section(port, **more):
    return section(host="[127.0.0.1]:%d" % port, tls="off", **more)


def marked(daemon, name="main"):
    up = daemon.upstream(name)
    return up if up["state"] == "marked" else None


def assert_named(daemon, reason, waiting=1):
    """Marked for that reason; said by tasukictl in one sentence; nothing lost, nothing failed."""
    up = wait_until(lambda: marked(daemon), what=daemon.log)
    assert up["reason"] == reason, up
    done = daemon.ctl("status", "--json")
    assert done.code == 1, "unhealthy"
    status = done.json()
    sentence = status["verdict"]["sentence"]
    assert up["sentence"] in sentence
    assert sentence.endswith(".") and "\n" not in sentence
    assert "%d message" % waiting in sentence
    assert status["verdict"]["level"] == "trouble"
    assert (status["queue"]["queued"], status["queue"]["failed"]) == (waiting, 0)
    assert {m["state"] for m in daemon.queue()} <= {"queued", "sending", "deferred", "in-doubt"}


def assert_leaves(daemon, taken, recipients):
    """All of them, once each, from the same process as before."""
    pid = daemon.process.pid
    wait_until(daemon.queue_empty, what=daemon.log)
    assert sorted(p for m in taken() for p in m.recipients) == sorted(recipients)
    status = daemon.status()
    assert status["verdict"]["level"] == "ok"
    assert status["upstreams"][0]["state"] == "well"
    assert status["pid"] == pid and not daemon.ended()
    assert daemon.events("failed") == []


# ---- the login, with a real server ----


@pytest.mark.parametrize("auth", ["auto", "plain", "scram-sha-256"])
def test_wrong_password_then_the_right_one(postfix, certificates, tasuki, auth):
    daemon = tasuki(login_section(postfix.ports["starttls"], certificates, auth=auth), start=False)
    daemon.write_secret("wrong")
    daemon.start()
    names = ["u%d@example.test" % n for n in range(5)]
    for name in names:
        daemon.send(to=name)
    assert_named(daemon, "auth-refused", waiting=5)
    assert marked(daemon)["code"] == 535
    assert {m["reason"] for m in daemon.queue()} == {"none"}, "no message is to blame"
    wait_until(lambda: len(daemon.events("upstream-down", reason="auth-refused")) >= 3)
    assert daemon.status()["queue"]["queued"] == 5
    daemon.write_secret(PASSWORD)
    assert_leaves(daemon, lambda: postfix.sink.messages, names)


def test_password_file_that_others_may_read(postfix, certificates, tasuki):
    daemon = tasuki(login_section(postfix.ports["starttls"], certificates))
    daemon.secret.chmod(0o644)
    daemon.send()
    assert_named(daemon, "secret-unreadable")
    assert "chmod" in marked(daemon)["text"]
    daemon.secret.chmod(0o600)
    assert_leaves(daemon, lambda: postfix.sink.messages, ["anna@example.test"])


@pytest.mark.parametrize("service, reason", [
    ("unknown", "tls-untrusted"), ("wrong_name", "tls-wrong-name"), ("expired", "tls-expired"),
    ("no_login", "auth-not-offered"), ("plain", "tls-not-offered")])
def test_a_real_server_that_cannot_be_used(postfix, certificates, tasuki, service, reason):
    daemon = tasuki(login_section(postfix.ports[service], certificates))
    daemon.send()
    assert_named(daemon, reason)
    assert postfix.sink.count() == 0


def test_no_allowed_mechanism(certificates, tasuki, scripted_upstream):
    server = scripted_upstream("starttls")
    daemon = tasuki(login_section(server.port, certificates, auth="scram-sha-256, cram-md5"))
    daemon.send()
    assert_named(daemon, "auth-no-mechanism")
    assert server.heard(b"AUTH") == [], "PLAIN was not allowed"


def test_real_server_down_then_started(certificates, tasuki):
    server = Postfix(certificates)
    try:
        daemon = tasuki(login_section(server.ports["starttls"], certificates))
        daemon.send(to="a@example.test")
        daemon.send(to="b@example.test")
        assert_named(daemon, "connection-refused", waiting=2)
        server.start()
        try:
            assert_leaves(daemon, lambda: server.sink.messages,
                          ["a@example.test", "b@example.test"])
        finally:
            daemon.stop()
            server.stop()
    finally:
        server.remove()


# ---- certificates that are put right ----


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
@pytest.mark.parametrize("which, reason", [
    ("unknown", "tls-untrusted"), ("wrong_name", "tls-wrong-name"), ("expired", "tls-expired")])
def test_certificate_mended(certificates, tasuki, scripted_upstream, tls, which, reason):
    server = scripted_upstream(tls, getattr(certificates, which))
    daemon = tasuki(login_section(server.port, certificates, tls == "implicit"))
    daemon.send()
    assert_named(daemon, reason)
    assert server.heard(b"AUTH") == server.heard(b"MAIL") == [], "nothing goes to a stranger"
    server.present(certificates.good)
    assert_leaves(daemon, lambda: server.messages, ["anna@example.test"])


# ---- the connection breaks, in each state ----

# At the dot the content was all there: the server may have kept it.
BREAKS = {"greeting": "connection-lost", "EHLO": "connection-lost", "STARTTLS": "connection-lost",
          "secured": "connection-lost", "AUTH": "connection-lost", "MAIL": "connection-lost",
          "RCPT": "connection-lost", "DATA": "connection-lost", "content": "connection-lost",
          "dot": "connection-lost"}
LARGE = b"Subject: large\r\n\r\n" + b"x" * 70 * 20 + b"\r\n" + b"0123456789abcdef\r\n" * 60000


@pytest.mark.parametrize("how", [CLOSE, RESET])
@pytest.mark.parametrize("stage", BREAKS)
def test_upstream_drops_the_connection(certificates, tasuki, scripted_upstream, stage, how):
    server = scripted_upstream("starttls")
    server.faults = {stage: how}
    daemon = tasuki(login_section(server.port, certificates, connections=1))
    daemon.send(to="a@example.test", body=LARGE)
    daemon.send(to="b@example.test")
    assert_named(daemon, BREAKS[stage], waiting=2)
    if stage == "dot":
        assert "in-doubt" in {m["reason"] for m in daemon.queue()}
    assert server.messages == []
    server.mend()
    assert_leaves(daemon, lambda: server.messages, ["a@example.test", "b@example.test"])


def test_421_at_quit_is_peace(tasuki, scripted_upstream):
    server = scripted_upstream()
    server.faults = {"QUIT": b"421 4.3.2 going down"}
    daemon = tasuki(plain_section(server.port, keep_open="200ms"))
    daemon.send(to="a@example.test")
    wait_until(lambda: server.heard(b"QUIT"))
    wait_until(lambda: daemon.upstream()["connections"] == 0)
    assert daemon.upstream()["state"] == "well"
    assert daemon.events("upstream-throttled") == []
    daemon.send(to="b@example.test")
    assert_leaves(daemon, lambda: server.messages, ["a@example.test", "b@example.test"])


def test_upstream_drops_at_quit(tasuki, scripted_upstream):
    server = scripted_upstream()
    server.faults = {"QUIT": CLOSE}
    daemon = tasuki(plain_section(server.port, keep_open="200ms"))
    daemon.send(to="a@example.test")
    wait_until(lambda: server.heard(b"QUIT"))
    wait_until(lambda: daemon.upstream()["connections"] == 0)
    assert daemon.upstream()["state"] == "well"
    daemon.send(to="b@example.test")
    assert_leaves(daemon, lambda: server.messages, ["a@example.test", "b@example.test"])


STALLS = {"greeting": "timed-out", "EHLO": "timed-out", "STARTTLS": "timed-out",
          "AUTH": "timed-out", "MAIL": "timed-out", "RCPT": "timed-out", "DATA": "timed-out",
          "dot": "timed-out"}


@pytest.mark.parametrize("stage", STALLS)
def test_upstream_falls_silent(certificates, tasuki, scripted_upstream, stage):
    server = scripted_upstream("starttls")
    server.faults = {stage: STALL}
    daemon = tasuki(login_section(server.port, certificates, connections=1, reply_timeout="500ms"))
    daemon.send(to="a@example.test")
    assert_named(daemon, STALLS[stage])
    server.mend()
    assert_leaves(daemon, lambda: server.messages, ["a@example.test"])


def test_upstream_stops_reading(certificates, tasuki, scripted_upstream):
    server = scripted_upstream("starttls")
    server.faults = {"content": STALL}
    daemon = tasuki(login_section(server.port, certificates, connections=1, reply_timeout="3s"))
    daemon.send(to="a@example.test", body=LARGE * 8)
    assert_named(daemon, "timed-out")
    server.mend()
    assert_leaves(daemon, lambda: server.messages, ["a@example.test"])


REFUSALS = [
    ("greeting", b"554 no service for you", "greeting-refused"),
    ("greeting", b"421 busy", "service-closing"),
    ("greeting", b"SSH-2.0-OpenSSH_9.2", "protocol-error"),
    ("EHLO", b"550 who are you", "hello-refused"),
    ("EHLO", b"421 4.3.2 going down", "service-closing"),
    ("STARTTLS", b"421 4.3.2 going down", "service-closing"),
    ("secured", b"421 4.3.2 going down", "service-closing"),
    ("AUTH", b"421 4.3.2 going down", "service-closing"),
    ("STARTTLS", b"454 4.7.0 no TLS just now", "tls-not-offered"),
    ("STARTTLS", b"220 go\r\n250 smuggled", "protocol-error"),
    ("AUTH", b"535 5.7.8 no", "auth-refused"),
    ("AUTH", b"454 4.7.0 cannot tell", "auth-deferred"),
    ("AUTH", b"334 !!!", "protocol-error"),
    ("MAIL", b"530 5.7.0 log in first", None),
    ("MAIL", b"421 4.3.2 going down", "service-closing"),
    ("RCPT", b"421 4.3.2 going down", "service-closing"),
    ("DATA", b"421 4.3.2 going down", "service-closing"),
    ("dot", b"421 4.3.2 going down", "service-closing"),
    ("DATA", b"250 ok", "protocol-error"),
]


@pytest.mark.parametrize("stage, reply, reason", REFUSALS,
                         ids=["%s-%s" % (s, r[:3].decode()) for s, r, _ in REFUSALS])
def test_upstream_refuses_to_work(certificates, tasuki, scripted_upstream, stage, reply, reason):
    server = scripted_upstream("starttls")
    server.faults = {stage: reply}
    daemon = tasuki(login_section(server.port, certificates, connections=1))
    daemon.send(to="a@example.test")
    assert_named(daemon, reason or wait_until(lambda: marked(daemon))["reason"])
    assert server.messages == []
    server.mend()
    assert_leaves(daemon, lambda: server.messages, ["a@example.test"])


LET_IN_AND_SENT_AWAY = [
    (b"250 scripted.test\r\n421 4.7.0 too many connections of yours", "service-closing"),
    (b"250 scripted.test\r\n250 scripted.test", "protocol-error"),
]


@pytest.mark.parametrize("reply, reason", LET_IN_AND_SENT_AWAY,
                         ids=[reason for _, reason in LET_IN_AND_SENT_AWAY])
def test_let_in_and_sent_away_at_once(tasuki, scripted_upstream, reply, reason):
    """That is no peaceful end of an idle connection: the next one waits, as after any refusal."""
    server = scripted_upstream()
    server.faults = {"EHLO": reply}
    daemon = tasuki(plain_section(server.port, connections=1, probe_min="2s", probe_max="4s"))
    daemon.send(to="a@example.test")
    assert_named(daemon, reason)
    time.sleep(1)
    assert server.sessions == 1
    server.mend()
    assert_leaves(daemon, lambda: server.messages, ["a@example.test"])


def test_sent_away_behind_the_login(certificates, tasuki, scripted_upstream):
    """Accounts lock when logins follow each other without a pause."""
    server = scripted_upstream("starttls")
    server.faults = {"AUTH": b"235 2.7.0 ok\r\n421 4.7.0 too many connections of yours"}
    daemon = tasuki(login_section(server.port, certificates, connections=1, probe_min="2s",
                                  probe_max="4s"))
    daemon.send(to="a@example.test")
    assert_named(daemon, "service-closing")
    time.sleep(1)
    assert len(server.heard(b"AUTH")) == 1
    server.mend()
    assert_leaves(daemon, lambda: server.messages, ["a@example.test"])


def test_a_refused_password_is_not_sent_a_second_time(certificates, tasuki, scripted_upstream):
    server = scripted_upstream("starttls")
    server.mechanisms = b"LOGIN PLAIN"
    server.faults = {"AUTH": b"535 5.7.8 no"}
    daemon = tasuki(login_section(server.port, certificates, connections=1))
    daemon.send(to="a@example.test")
    wait_until(lambda: len(daemon.events("upstream-down", reason="auth-refused")) >= 2)
    assert {c.split()[1] for c in server.heard(b"AUTH")} == {b"PLAIN"}, "accounts lock"
    server.mend()
    assert_leaves(daemon, lambda: server.messages, ["a@example.test"])


class Asks(Dialogue):
    """Asks what each mechanism asks for, and then says what `up.verdict` is."""

    def challenge(self, words):
        self.peer.sendall(b"334 " + base64.b64encode(words) + b"\r\n")
        return self.command()

    def on_auth(self, line):
        mechanism = line.split()[1]
        if mechanism == b"CRAM-MD5":
            self.challenge(b"<1.2@scripted.test>")
        elif mechanism == b"LOGIN":
            self.challenge(b"Username:")
            self.challenge(b"Password:")
        elif mechanism == b"SCRAM-SHA-256":
            first = base64.b64decode(line.split()[2])
            nonce = re.search(rb"r=([^,]+)", first)[1]
            self.challenge(b"r=%sserver,s=%s,i=4096" % (nonce, base64.b64encode(b"some salt")))
            if self.challenge(b"v=" + base64.b64encode(b"x" * 32)) == b"*":
                self.peer.sendall(b"501 5.7.0 as you like\r\n")
                return
        self.peer.sendall(self.up.verdict + b"\r\n")


def test_a_reply_that_repeats_the_secret(certificates, tasuki, scripted_upstream):
    server = scripted_upstream("starttls")
    told = base64.b64encode(b"\0%s\0%s" % (USER.encode(), PASSWORD.encode()))
    server.faults = {"AUTH": b'500 5.5.1 Command unrecognized: "AUTH PLAIN %s"' % told}
    daemon = tasuki(login_section(server.port, certificates, connections=1))
    daemon.send()
    assert_named(daemon, "auth-not-offered")
    tried = daemon.ctl("test")
    for shown in (daemon.log(), str(daemon.status()), tried.out):
        assert "unrecognized: " in shown and "AUTH PLAIN ****" in shown
        assert told.decode() not in shown and PASSWORD not in shown
    assert re.search(r"S: 500 5.5.1 Command unrecognized: \S*AUTH PLAIN \*\*\*\*", tried.out)
    server.mend()
    assert_leaves(daemon, lambda: server.messages, ["anna@example.test"])


def test_a_refused_password_is_not_sent_behind_another_mechanism(certificates, tasuki,
                                                                 scripted_upstream, monkeypatch):
    """The one that worked last time goes first, and a stronger one may lie between the two."""
    monkeypatch.setattr(peers, "Dialogue", Asks)
    server = scripted_upstream("starttls")
    server.verdict = b"235 2.7.0 ok"
    daemon = tasuki(login_section(server.port, certificates, connections=1, keep_open="100ms"),
                    workers=1)
    daemon.send(to="a@example.test")
    wait_until(lambda: len(server.messages) == 1 and daemon.upstream()["connections"] == 0,
               what=daemon.log)
    server.mechanisms = b"CRAM-MD5 PLAIN LOGIN"
    server.verdict = b"535 5.7.8 no"
    before = len(server.heard(b"AUTH"))
    daemon.send(to="b@example.test")
    wait_until(lambda: daemon.events("upstream-down", reason="auth-refused"), what=daemon.log)
    said = [c.split()[1] for c in server.heard(b"AUTH")][before:]
    assert said[:2] == [b"PLAIN", b"CRAM-MD5"] and b"LOGIN" not in said
    server.verdict = b"235 2.7.0 ok"
    assert_leaves(daemon, lambda: server.messages, ["a@example.test", "b@example.test"])


def test_no_password_for_a_server_that_cannot_prove_itself(certificates, tasuki,
                                                            scripted_upstream, monkeypatch):
    monkeypatch.setattr(peers, "Dialogue", Asks)
    server = scripted_upstream("starttls")
    server.verdict = b"235 2.7.0 ok"
    server.mechanisms = b"SCRAM-SHA-256 CRAM-MD5 PLAIN LOGIN"
    daemon = tasuki(login_section(server.port, certificates, connections=1))
    daemon.send()
    assert_named(daemon, "auth-unproven")
    wait_until(lambda: len(daemon.events("upstream-down", reason="auth-unproven")) >= 2)
    tried = daemon.ctl("test")
    assert tried.code == 1 and "could not prove" in tried.out
    assert {c.split()[1] for c in server.heard(b"AUTH")} == {b"SCRAM-SHA-256"}
    assert server.messages == []
    server.mechanisms = b"PLAIN"
    assert_leaves(daemon, lambda: server.messages, ["anna@example.test"])


def test_the_mechanisms_change_between_connections(certificates, tasuki, scripted_upstream):
    """What worked before is no reason to send it where it is not offered, nor something weaker."""
    server = scripted_upstream("starttls")
    daemon = tasuki(login_section(server.port, certificates, connections=1, auth="plain",
                                  keep_open="100ms"))
    daemon.send(to="a@example.test")
    wait_until(lambda: len(server.messages) == 1 and daemon.upstream()["connections"] == 0,
               what=daemon.log)
    server.mechanisms = b"LOGIN CRAM-MD5"
    logins = len(server.heard(b"AUTH"))
    daemon.send(to="b@example.test")
    assert_named(daemon, "auth-no-mechanism")
    assert len(server.heard(b"AUTH")) == logins and len(server.messages) == 1
    server.mechanisms = b"LOGIN PLAIN"
    assert_leaves(daemon, lambda: server.messages, ["a@example.test", "b@example.test"])


def test_a_silent_upstream_is_not_called_well(tasuki, scripted_upstream):
    server = scripted_upstream()
    server.faults = {"dot": "stall"}
    daemon = tasuki(plain_section(server.port, reply_timeout="4s"))
    daemon.send(to="a@example.test")
    verdict = wait_until(lambda: daemon.status()["verdict"]["level"] == "attention" and
                         daemon.status()["verdict"], what=daemon.log)
    assert verdict["sentence"].startswith("A message has been on its way to main for ")
    server.mend()
    wait_until(lambda: daemon.status()["verdict"]["level"] == "ok", timeout=30, what=daemon.log)


# ---- answers about recipients ----


def test_each_recipient_has_its_own_fate(tasuki, scripted_upstream):
    server = scripted_upstream()
    server.recipients = {"later@example.test": b"450 4.2.1 try later",
                         "never@example.test": b"550 5.1.1 no such user here"}
    daemon = tasuki(plain_section(server.port), reports="no")
    identity = daemon.send(to=["good@example.test", "later@example.test", "never@example.test",
                               "fine@example.test"])
    wait_until(lambda: server.messages, what=daemon.log)
    assert server.messages[0].recipients == ("good@example.test", "fine@example.test")

    def fates():
        return {r["to"]: r for r in daemon.ask("show", id=identity)["recipients"]}

    wait_until(lambda: fates()["never@example.test"]["state"] == "failed")
    now = fates()
    assert now["good@example.test"]["state"] == now["fine@example.test"]["state"] == "delivered"
    assert now["later@example.test"]["state"] == "deferred"
    assert (now["never@example.test"]["code"], now["never@example.test"]["reason"]) == \
        (550, "no-such-recipient")
    assert "no such user here" in now["never@example.test"]["text"]
    server.recipients = {}
    wait_until(lambda: fates()["later@example.test"]["state"] == "delivered", what=daemon.log)
    assert [m.recipients for m in server.messages[1:]] == [("later@example.test",)]
    assert daemon.status()["queue"]["failed"] == 1
    assert fates()["never@example.test"]["state"] == "failed"


def test_refused_for_good_keeps_the_words(tasuki, scripted_upstream):
    server = scripted_upstream()
    server.faults = {"dot": b"550 5.7.1 \xe2\x80\xaelooks \x1b[31mlike <b>spam</b>"}
    daemon = tasuki(plain_section(server.port), reports="no")
    identity = daemon.send()
    wait_until(lambda: daemon.status()["queue"]["failed"] == 1, what=daemon.log)
    shown = daemon.ctl("show", identity)
    assert shown.code == 0, shown.err
    assert "550" in shown.out and "like <b>spam</b>" in shown.out
    assert "\x1b" not in shown.out and "\u202e" not in shown.out
    told = wait_until(lambda: daemon.events("failed", id=identity), what=daemon.log)
    assert told[0]["code"] == "550"
    assert "\x1b" not in daemon.log()
    server.mend()
    assert daemon.ctl("retry", identity, "--yes").code == 0
    assert_leaves_after_failure(daemon, server)


def assert_leaves_after_failure(daemon, server):
    wait_until(daemon.queue_empty, what=daemon.log)
    assert len(server.messages) == 1


def test_deferred_leaves_later(tasuki, scripted_upstream):
    server = scripted_upstream()
    server.faults = {"dot": b"451 4.3.0 try later"}
    daemon = tasuki(plain_section(server.port))
    daemon.send()
    row = wait_until(lambda: [m for m in daemon.queue() if m["reason"] == "deferred"])[0]
    assert (row["code"], row["enhanced"], row["state"]) == (451, "4.3.0", "deferred")
    assert "try later" in row["text"]
    assert daemon.upstream()["state"] == "well", "one message's trouble is not the upstream's"
    wait_until(lambda: len(daemon.events("deferred")) >= 3)
    server.mend()
    assert_leaves(daemon, lambda: server.messages, ["anna@example.test"])


def test_all_recipients_refused_and_yet_354(tasuki, scripted_upstream):
    """A lone dot is sent, and 250 for it delivers nothing."""
    server = scripted_upstream()
    server.script = [("reply", b"220 x\r\n"), ("expect", b"EHLO"),
                     ("reply", b"250-x\r\n250 PIPELINING\r\n"), ("expect", b"MAIL"),
                     ("expect", b"RCPT"), ("expect", b"DATA"),
                     ("reply", b"250 ok\r\n550 5.1.1 unknown\r\n354 go\r\n"), ("expect", b"."),
                     ("reply", b"250 taken nothing\r\n"), ("stall",)]
    daemon = tasuki(plain_section(server.port), reports="no")
    identity = daemon.send()
    wait_until(lambda: daemon.status()["queue"]["failed"] == 1, what=daemon.log)
    shown = daemon.ask("show", id=identity)
    assert shown["recipients"][0]["reason"] == "no-such-recipient"
    assert daemon.events("delivered") == []


@pytest.mark.parametrize("pieces", [
    [b"2", b"50", b" ", b"ok\r", b"\n"], [b"250-a\r\n250-b\r\n25", b"0 c\r\n"], [b"250\r\n"]])
def test_replies_cut_anyhow(tasuki, scripted_upstream, pieces):
    server = scripted_upstream()
    tail = [("reply", piece) for piece in pieces]
    server.script = [("reply", b"22"), ("reply", b"0 x\r\n"), ("expect", b"EHLO"),
                     ("reply", b"250 x\r\n"), ("expect", b"MAIL"), *tail, ("expect", b"RCPT"),
                     *tail, ("expect", b"DATA"), ("reply", b"354 go\r\n"), ("content",), *tail,
                     ("stall",)]
    daemon = tasuki(plain_section(server.port))
    daemon.send()
    wait_until(daemon.queue_empty, what=daemon.log)
    wait_until(lambda: len(daemon.events("delivered")) == 1, what=daemon.log)


@pytest.mark.parametrize("extra", [b"250 ok\r\n250 unasked\r\n", b"250 ok\r\n421 bye\r\n"])
def test_a_reply_that_nobody_asked_for(tasuki, scripted_upstream, extra):
    """The one behind the dot's own must not count for the next message."""
    server = scripted_upstream()
    server.faults = {"dot": extra[:-2]}
    daemon = tasuki(plain_section(server.port, connections=1))
    daemon.send(to="a@example.test")
    wait_until(lambda: len(daemon.events("delivered")) == 1, what=daemon.log)
    wait_until(lambda: daemon.upstream()["connections"] == 0, what=daemon.log)
    server.mend()
    daemon.send(to="b@example.test")
    wait_until(daemon.queue_empty, what=daemon.log)
    assert [m.recipients for m in server.messages] == [("b@example.test",)]
    assert server.sessions >= 2


# ---- a reset right behind an answer ----


class HangsUpInContent(Dialogue):
    """Refuses the content while it comes, and hangs up with the rest unread."""

    def on_data(self, line):
        self.answer("DATA", b"354 go")
        left = 200000
        while left > 0:
            left -= len(self.peer.recv(65536))
        self.up.refusals += 1
        self.peer.sendall(b"552 5.3.4 too big for us\r\n")
        raise EOFError


@pytest.mark.parametrize("turn", range(3))
def test_refused_in_the_content_is_not_tried_again(tasuki, scripted_upstream, monkeypatch, turn):
    monkeypatch.setattr(peers, "Dialogue", HangsUpInContent)
    server = scripted_upstream()
    server.refusals = 0
    daemon = tasuki(plain_section(server.port, connections=1), reports="no")
    identity = daemon.send(body=LARGE * 4)
    failed = wait_until(lambda: daemon.events("failed", id=identity), what=daemon.log)
    assert failed[0]["code"] == "552" and server.refusals == 1


class HangsUpBehindTwo(Dialogue):
    """Takes two messages, answers both, and hangs up while the next ones come."""

    taken = 0

    def run(self):
        self.peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # or answers are lost
        super().run()

    def on_bdat(self, line):
        words = line.split()
        self.lines.read(int(words[1]))
        if words[-1] == b"LAST":
            self.up.arrived.append(self.recipients[0])
            self.taken += 1
        self.peer.sendall(b"250 2.0.0 ok\r\n")
        if self.taken == 2:
            raise EOFError


def test_answered_before_a_reset_is_not_sent_again(tasuki, scripted_upstream, monkeypatch):
    monkeypatch.setattr(peers, "Dialogue", HangsUpBehindTwo)
    server = scripted_upstream()
    server.arrived = []
    server.offers = [b"CHUNKING"]
    server.faults = {"greeting": b"421 later"}
    daemon = tasuki(plain_section(server.port, connections=1))
    names = ["n%d@example.test" % n for n in range(60)]
    for name in names:
        daemon.send(to=name, body=b"Subject: x\r\n\r\n" + (b"x" * 70 + b"\r\n") * 1200)
    server.mend()
    wait_until(lambda: len(daemon.events("delivered")) == len(names), what=daemon.log)
    assert sorted(server.arrived) == sorted(names), "each once"


def test_two_upstreams_one_dead(tasuki, scripted_upstream):
    """What is marked is one upstream; status names it."""
    server = scripted_upstream()
    server.faults = {"greeting": b"554 no"}
    daemon = tasuki(plain_section(server.port))
    daemon.send()
    wait_until(lambda: marked(daemon))
    done = daemon.ctl("status")
    assert done.code == 1
    assert re.match(r"Mail is not leaving by main: .*\. 1 message waits; nothing is lost\.",
                    done.out), done.out
