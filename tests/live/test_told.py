"""What the log and the counters tell: each is made to happen, and told as often as it happened.

Events and counters that other live tests bring about and look at are not repeated here.
"""

import re
import socket

from peers import CLOSE, Client, free_ports, section, wait_until

BODY = b"Subject: x\r\n\r\nhello\r\n"


def plain(port, **more):
    return section(host="[127.0.0.1]:%d" % port, tls="off", **more)


def metrics(daemon):
    """Every counter by its name, as Prometheus would read it."""
    text = daemon.ask("metrics")["text"]
    return {name: int(value) for name, value in re.findall(r"^tasuki_(\w+) (\d+)$", text, re.M)}


def wait_for_metrics(daemon, **expected):
    """A counter may be behind the event that it counts by a moment."""
    def same():
        now = metrics(daemon)
        return all(now[name] == value for name, value in expected.items())
    wait_until(same, what=lambda: "%s; now %s" % (expected, metrics(daemon)))


def only_event(daemon, word, **fields):
    found = wait_until(lambda: daemon.events(word, **fields), what=lambda: word + daemon.log())
    assert len(found) == 1, found
    return found[0]


# ---- mail that goes through ----


def test_one_message_is_counted_once(tasuki, scripted_upstream):
    server = scripted_upstream()
    daemon = tasuki(plain(server.port))
    daemon.send(to=["a@example.test", "b@example.test"], body=BODY)
    wait_until(daemon.queue_empty)
    accepted = only_event(daemon, "accepted")
    wait_for_metrics(daemon, clients=0, clients_total=1, clients_refused_total=0,
                     messages_accepted_total=1, accepted_bytes_total=int(accepted["bytes"]),
                     recipients_delivered_total=2, recipients_deferred_total=0,
                     recipients_failed_total=0, rejected_total=0, in_doubt_total=0,
                     upstream_connects_total=1, upstream_failures_total=0)
    assert int(accepted["bytes"]) > len(BODY), "with our Received line"
    now = metrics(daemon)
    assert now["upstream_sent_bytes_total"] > int(accepted["bytes"])
    assert now["store_commits_total"] >= 2, "one takes the message, one removes it"
    assert now["store_commit_microseconds_total"] > 0
    assert only_event(daemon, "upstream-up")["upstream"] == "main"


def test_open_connections_are_gauged(tasuki, scripted_upstream):
    server = scripted_upstream()
    daemon = tasuki(plain(server.port))
    with Client(daemon.port), Client(daemon.port) as client:
        client.mail("a@example.test", BODY)
        wait_until(lambda: server.messages)
        wait_for_metrics(daemon, clients=2, clients_total=2, upstream_connections=1)
    wait_for_metrics(daemon, clients=0, clients_total=2)


def test_connection_to_the_upstream_that_is_not_kept(tasuki, scripted_upstream):
    server = scripted_upstream()
    daemon = tasuki(plain(server.port, keep_open="1s"))
    daemon.send()
    wait_until(daemon.queue_empty)
    wait_for_metrics(daemon, upstream_connections=0, upstream_connects_total=1,
                     upstream_failures_total=0)
    assert only_event(daemon, "upstream-down")["reason"] == "none"


# ---- mail that does not ----


def test_deferred_and_failed_are_counted_by_recipient(tasuki, scripted_upstream):
    server = scripted_upstream()
    server.recipients = {"later@example.test": b"450 4.2.1 try later",
                         "never@example.test": b"550 5.7.708 not from there"}
    daemon = tasuki(plain(server.port), retry_min="1h", retry_max="1h", reports="no")
    identity = daemon.send(to=["good@example.test", "later@example.test", "never@example.test"])
    wait_for_metrics(daemon, recipients_delivered_total=1, recipients_deferred_total=1,
                     recipients_failed_total=1)
    assert only_event(daemon, "deferred")["code"] == "450"
    assert only_event(daemon, "failed")["to"] == "never@example.test"
    recipients = daemon.ask("show", id=identity)["recipients"]
    assert [r["enhanced"] for r in recipients] == ["2.0.0", "4.2.1", "5.7.708"]


def test_broken_after_the_end_of_data_is_in_doubt(tasuki, scripted_upstream):
    server = scripted_upstream()
    server.faults = {"dot": CLOSE}
    daemon = tasuki(plain(server.port), retry_min="1h", retry_max="1h")
    daemon.send()
    wait_for_metrics(daemon, in_doubt_total=1, recipients_deferred_total=1)
    assert only_event(daemon, "deferred")["reason"] == "in-doubt"


def test_given_up_is_a_failure(tasuki, scripted_upstream):
    server = scripted_upstream()
    server.faults = {"dot": b"451 4.3.0 try later"}
    daemon = tasuki(plain(server.port), retry_min="1s", retry_max="1s", give_up="1s",
                    reports="no")
    identity = daemon.send()
    wait_until(lambda: daemon.status()["queue"]["failed"] == 1, what=daemon.log)
    row = daemon.queue("state:failed")[0]
    assert (row["id"], row["reason"]) == (identity, "gave-up")
    assert (row["code"], row["text"]) == (451, "4.3.0 try later"), "the last answer is kept"
    assert daemon.queue("reason:gave-up") == [row]
    only_event(daemon, "failed", reason="gave-up")


def test_marked_and_well_again(tasuki, scripted_upstream):
    server = scripted_upstream()
    server.faults = {"greeting": b"421 4.3.2 not now"}
    daemon = tasuki(plain(server.port))
    daemon.send()
    marked = wait_until(lambda: daemon.events("upstream-marked"), what=daemon.log)[0]
    assert (marked["upstream"], marked["code"], marked["text"]) == \
        ("main", "421", "4.3.2 not now")
    wait_until(lambda: metrics(daemon)["upstream_failures_total"] >= 2, what=daemon.log)
    assert daemon.events("upstream-well") == []
    server.mend()
    wait_until(daemon.queue_empty, what=daemon.log)
    assert only_event(daemon, "upstream-well")["upstream"] == "main"


# ---- clients ----


def test_stranger_is_turned_away(tasuki, scripted_upstream):
    daemon = tasuki(plain(scripted_upstream().port), allow="192.0.2.0/24")
    client = Client(daemon.port, hello=False)
    assert client.greeting.startswith(b"554 5.7.1 ")
    client.close()
    assert only_event(daemon, "client-refused")["client"] == "127.0.0.1"
    wait_for_metrics(daemon, clients_refused_total=1, clients_total=0, clients=0)


def test_too_many_connections_of_one_client(tasuki, scripted_upstream):
    daemon = tasuki(plain(scripted_upstream().port), connections_per_client=1)
    with Client(daemon.port):
        second = Client(daemon.port, hello=False)
        assert second.greeting.startswith(b"421 4.7.0 ")
        second.close()
        only_event(daemon, "client-refused")
        wait_for_metrics(daemon, clients_refused_total=1, clients_total=1)


def test_refused_command_is_told(tasuki, scripted_upstream):
    """An address that is too long once it has a domain."""
    daemon = tasuki(plain(scripted_upstream().port), domain=("d" * 60 + ".") * 3 + "example.test")
    local = b"a" * 64
    with Client(daemon.port) as client:
        assert client.say(b"MAIL FROM:<%s>" % local).startswith(b"553 5.1.7 ")
    told = only_event(daemon, "rejected")
    assert (told["client"], told["code"]) == ("127.0.0.1", "553")
    assert told["about"].startswith("aaa")
    wait_for_metrics(daemon, rejected_total=1, messages_accepted_total=0)


def test_silent_client_is_closed(tasuki, scripted_upstream):
    daemon = tasuki(plain(scripted_upstream().port), idle_timeout="1s")
    with Client(daemon.port) as client:
        assert client.reply().startswith(b"421 ")
        assert client.reply() == b""
    closed = only_event(daemon, "client-closed")
    assert (closed["client"], closed["messages"], closed["reason"]) == ("127.0.0.1", "0", "idle")
    wait_for_metrics(daemon, client_timeouts_total=1, clients=0)


# ---- the store ----


def try_to_send(client, body):
    """The reply that ended it."""
    reply = client.say(b"MAIL FROM:<scanner@example.test>")
    if not reply.startswith(b"250"):
        return reply
    assert client.say(b"RCPT TO:<anna@example.test>").startswith(b"250")
    assert client.say(b"DATA").startswith(b"354")
    return client.say(body + b".")


def test_full_and_room_again(tasuki):
    """452 once queue-max is near; nothing that was taken is lost; room as soon as mail has left."""
    daemon = tasuki(plain(free_ports(1)[0]), queue_max="8M", max_size="1M")
    taken, refusals = [], 0
    with Client(daemon.port) as client:
        for lines in (6000, 600, 60, 1):
            body = BODY + (b"x" * 76 + b"\r\n") * lines
            while True:
                assert len(taken) < 2000, "it never gets full"
                reply = try_to_send(client, body)
                if not reply.startswith(b"250"):
                    break
                taken.append(reply.split()[2].decode())
            assert reply.startswith(b"452 4.3.1 "), reply
            refusals += 1
    full = only_event(daemon, "store-full")
    assert int(full["used"]) <= int(full["max"]) == 8 << 20
    assert daemon.status()["queue"]["accepting"] is False
    now = metrics(daemon)
    assert now["messages_accepted_total"] == len(taken) > 0
    assert 0 < now["rejected_full_total"] <= refusals
    assert now["store_refusals_total"] > 0
    assert daemon.status()["queue"]["queued"] == len(taken)
    assert daemon.events("store-room") == []
    for identity in taken:
        assert daemon.ask("delete", ids=[identity], dry_run=False)["changed"] == 1
    only_event(daemon, "store-room")
    daemon.send()


# ---- the admin ----


def test_what_is_no_request_is_told(tasuki, scripted_upstream):
    daemon = tasuki(plain(scripted_upstream().port))
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(daemon.directory / "ctl.sock"))
        peer.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with peer.makefile("rb") as lines:
            assert b'"bad-request"' in lines.readline()
            assert lines.readline() == b""
    only_event(daemon, "control-refused")


def test_edits_are_told_with_who_and_how_many(tasuki):
    daemon = tasuki(plain(free_ports(1)[0]))
    ids = [daemon.send() for _ in range(3)]
    assert daemon.ask("hold", ids=ids, dry_run=True)["changed"] in (0, 3)
    assert daemon.events("edited") == []
    assert daemon.ask("hold", ids=ids[:2], dry_run=False)["changed"] == 2
    told = only_event(daemon, "edited")
    assert (told["action"], told["count"]) == ("hold", "2")


def test_a_risk_taken_on_purpose_is_told(tasuki, scripted_upstream):
    daemon = tasuki(plain(scripted_upstream().port), allow="0.0.0.0/0", insecure_allow_anyone="yes")
    assert any("allow" in risk["text"] for risk in daemon.events("risk"))


def test_start_and_stop_are_told(tasuki, scripted_upstream):
    daemon = tasuki(plain(scripted_upstream().port))
    started = only_event(daemon, "start")
    assert started["pid"] == str(daemon.process.pid)
    assert only_event(daemon, "store-open")["messages"] == "0"
    daemon.stop()
    assert only_event(daemon, "stop")["signal"] == "15"
    assert only_event(daemon, "stopped")["store"] == "closed"
