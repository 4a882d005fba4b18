"""Several messages under way on one connection, and what an upstream can do to them."""

import re

import pytest

import peers
from peers import section, wait_until

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
