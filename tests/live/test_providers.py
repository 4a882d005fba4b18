"""Names and providers: a private name server says where they are, all of it on loopback."""

import os
import socket
import subprocess

import pytest

import peers
from peers import PATIENCE_S, ScriptedUpstream, section, wait_until


class NameServer:
    """dnsmasq, which knows what it is told and asks nobody."""

    def __init__(self, *records, port=None):
        self.port = port or peers.free_ports(1)[0]
        self.address = "127.0.0.1:%d" % self.port
        self.process = subprocess.Popen(
            ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--no-resolv",
             "--no-hosts", "--bind-interfaces", "--listen-address=127.0.0.1", "--local=/#/",
             "--port=%d" % self.port, *records], stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        wait_until(self.answers, what="dnsmasq")

    def answers(self):
        assert self.process.poll() is None, self.process.stderr.read()
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1):
                return True
        except OSError:
            return False

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(PATIENCE_S)
        self.process.stderr.close()


@pytest.fixture
def names():
    made = []

    def make(*records, port=None):
        made.append(NameServer(*records, port=port))
        return made[-1]

    yield make
    for server in made:
        server.stop()


def test_mail_goes_to_the_mx_and_to_the_next_when_the_first_is_out(tasuki, scripted_upstream,
                                                                   names):
    """host = name:port is the MX of name; the better one answers nothing, the other takes it."""
    server = scripted_upstream()
    known = names("--mx-host=office.test,mx1.office.test,10", "--mx-host=office.test,mx2.office.test,20",
                  "--address=/mx1.office.test/127.0.0.9", "--address=/mx2.office.test/127.0.0.1")
    daemon = tasuki(section(host="office.test:%d" % server.port, tls="off"), dns=known.address)
    daemon.send()
    wait_until(daemon.queue_empty, what=daemon.log)
    assert [m.recipients for m in server.messages] == [("anna@example.test",)]
    assert daemon.events("upstream-marked") == []


def test_brackets_ask_for_the_addresses_alone(tasuki, scripted_upstream, names):
    """The MX points elsewhere; [name] does not look at it. IPv6 is there too, and refuses."""
    server = scripted_upstream()
    known = names("--mx-host=office.test,elsewhere.test,10", "--address=/office.test/127.0.0.1",
                  "--address=/office.test/::1", "--address=/elsewhere.test/127.0.0.9")
    daemon = tasuki(section(host="[office.test]:%d" % server.port, tls="off"), dns=known.address)
    daemon.send()
    wait_until(daemon.queue_empty, what=daemon.log)
    assert len(server.messages) == 1


def test_a_name_that_does_not_exist_and_then_does(tasuki, scripted_upstream, names):
    server = scripted_upstream()
    ignorant = names()
    daemon = tasuki(section(host="[relay.test]:%d" % server.port, tls="off", probe_min="1s",
                            probe_max="1s"), dns=ignorant.address)
    daemon.send()
    wait_until(lambda: daemon.events("upstream-marked", reason="name-not-found"), what=daemon.log)
    assert "does not exist" in daemon.ctl("status").out
    ignorant.stop()
    names("--address=/relay.test/127.0.0.1", port=ignorant.port)
    wait_until(daemon.queue_empty, what=daemon.log)
    assert len(server.messages) == 1


class Provider(ScriptedUpstream):
    """On the port that providers have."""

    def __init__(self, certificate):
        super().__init__(certificate, starttls=True, login=True)
        self.listener.close()
        self.listener = socket.create_server(("127.0.0.1", 587), backlog=64)
        self.port = 587
        peers.threading.Thread(target=self.accept, daemon=True).start()


def judge_gmails_words(daemon, name):
    """The same whether the daemon answers or the disk does."""
    words = "the account has sent as much as it may in a day"
    why = daemon.ctl("why", name, "--json").json()
    assert why["sentence"].startswith("It waits: " + words + " (main said: 550 5.4.5 Daily"), why
    assert "Google Workspace allows more" in why["hint"]
    assert any(words in fact for fact in why["facts"]), why
    assert words in daemon.ctl("show", name, "--json").json()["sentence"]
    (listed,) = daemon.ctl("queue", "--json").rows()
    assert listed["sentence"] == words


@pytest.mark.skipif(os.geteuid() != 0, reason="listens on port 587, which takes root")
def test_gmail_by_its_name(tasuki, certificates, names):
    """upstream = gmail: the server, the port and TLS are known, and so is what its refusal means."""
    known = names("--address=/smtp.gmail.com/127.0.0.1")
    certificate = certificates.sign("gmail", "ca", "DNS:smtp.gmail.com")
    server = Provider(certificate)
    server.faults = {"AUTH": b"534 5.7.9 Application-specific password required. For more information"}
    try:
        daemon = tasuki(section(host="gmail", tls_ca=certificates.ca, user=peers.USER,
                                password_file="SECRET", probe_min="1s", probe_max="1s"),
                        hostname="relay.office.test", dns=known.address)
        daemon.send()
        wait_until(lambda: daemon.events("upstream-marked", reason="auth-refused"), what=daemon.log)
        said = " ".join(daemon.ctl("status").out.split())
        assert "Gmail wants an app password" in said and "under Security" in said, said
        tested = daemon.ctl("test")
        assert tested.code == 1 and "app password" in " ".join(tested.out.split()), tested.out
        assert daemon.upstream()["host"] == "[smtp.gmail.com]:587"
        server.mend()
        wait_until(daemon.queue_empty, what=daemon.log)
        assert len(server.messages) == 1
        # Its day's quota is no reason to give a message up.
        server.faults = {"MAIL": b"550 5.4.5 Daily user sending limit exceeded."}
        daemon.send()
        wait_until(lambda: daemon.events("upstream-throttled"), what=daemon.log)
        assert daemon.status()["queue"]["failed"] == 0
        (waits,) = wait_until(lambda: daemon.queue("reason:throttled"), what=daemon.log)
        judge_gmails_words(daemon, waits["id"])
        daemon.stop()
        judge_gmails_words(daemon, waits["id"])
    finally:
        server.stop()


def test_reports_are_not_sent_where_the_null_sender_is_refused(tasuki, scripted_upstream):
    """null-sender = no: what could not be delivered goes into the digest, and no MAIL FROM:<> is tried."""
    server = scripted_upstream()
    server.recipients = {"gone@example.test": b"550 5.1.1 no such user"}
    daemon = tasuki(section(host="[127.0.0.1]:%d" % server.port, tls="off", null_sender="no"),
                    root_mail="root@example.test")
    daemon.send(to="gone@example.test")
    wait_until(lambda: daemon.events("unreported"), what=daemon.log)
    assert not server.heard(b"MAIL FROM:<>"), server.commands
    assert "null sender" in daemon.events("unreported")[0]["why"]
