"""Who is told what: reports to senders, the digest to root-mail, RFC 3461 from the client to the upstream, by
the real daemon against a scripted server."""

import email
import re
import smtplib

import pytest

from peers import section, wait_until

SENDER, RECIPIENT = "scanner@example.test", "never@example.test"
NO_SUCH = b"550 5.1.1 no such user here"


def plain(port):
    return section(host="[127.0.0.1]:%d" % port, tls="off")


def refusing(scripted_upstream):
    server = scripted_upstream()
    server.recipients = {RECIPIENT: NO_SUCH}
    return server


def reports(server):
    return [m for m in server.messages if m.sender == ""]


def parse(arrived):
    return email.message_from_bytes(arrived.body)


def status_fields(report):
    """The per-recipient groups of the delivery-status part."""
    part = next(p for p in report.walk() if p.get_content_type() == "message/delivery-status")
    return part.get_payload()[1:]


def metric(daemon, name):
    found = re.search(r"^tasuki_%s (\d+)$" % name, daemon.ask("metrics")["text"], re.MULTILINE)
    return int(found.group(1))


def test_a_refused_recipient_is_reported_to_the_sender(tasuki, scripted_upstream):
    server = refusing(scripted_upstream)
    daemon = tasuki(plain(server.port))
    identity = daemon.send(to=["good@example.test", RECIPIENT],
                           body=b"Subject: page 7\r\n\r\nsecret body\r\n")
    wait_until(lambda: reports(server), what=daemon.log)
    wait_until(daemon.queue_empty, what=daemon.log)
    (arrived,) = reports(server)
    assert arrived.recipients == (SENDER,)
    report = parse(arrived)
    assert report.get_content_type() == "multipart/report"
    assert report.get_param("report-type") == "delivery-status"
    assert "page 7" in report["Subject"] and report["Auto-Submitted"] == "auto-replied"
    (fields,) = status_fields(report)
    assert fields["Final-Recipient"] == "rfc822; " + RECIPIENT
    assert (fields["Action"], fields["Status"]) == ("failed", "5.1.1")
    assert "no such user here" in fields["Diagnostic-Code"]
    assert identity in arrived.body.decode()
    assert b"secret body" not in arrived.body, "the header of the original only"
    assert [m.recipients for m in server.messages if m.sender] == [("good@example.test",)]
    status = daemon.status()
    assert (status["queue"]["trashed"], status["queue"]["failed"], status["reports"]) == (1, 0, 1)
    assert metric(daemon, "reports_total") == 1 and metric(daemon, "reports_unsent_total") == 0
    (told,) = daemon.events("reported", id=identity)
    assert told["kind"] == "failed" and told["to"] == SENDER


def test_after_the_cause_is_mended_it_can_be_sent_all_the_same(tasuki, scripted_upstream):
    server = refusing(scripted_upstream)
    daemon = tasuki(plain(server.port))
    identity = daemon.send(to=[RECIPIENT])
    wait_until(lambda: reports(server), what=daemon.log)
    server.mend()
    assert daemon.ctl("retry", identity).code == 0
    wait_until(lambda: server.to(RECIPIENT), what=daemon.log)
    wait_until(lambda: daemon.status()["queue"]["trashed"] == 0, what=daemon.log)
    row = daemon.ask("history", filter="id:" + identity)["messages"][0]
    assert (row["end"], row["reason"]) == ("delivered", "delivered")
    moves = daemon.ask("show", id=identity)["moves"]
    assert [m["to"] for m in moves][-1] == "delivered" and "operator" in [m["cause"] for m in moves]


def test_where_the_null_sender_is_refused_the_digest_tells(tasuki, scripted_upstream):
    server = refusing(scripted_upstream)
    server.senders = {"": b"501 5.1.7 an empty sender is not allowed"}
    daemon = tasuki(plain(server.port), root_mail="anna@example.test", digest_every="2s")
    first = daemon.send(to=[RECIPIENT])
    wait_until(lambda: server.to("anna@example.test"), what=daemon.log)
    second = daemon.send(to=[RECIPIENT])
    wait_until(lambda: len(server.to("anna@example.test")) > 1, what=daemon.log)
    assert reports(server) == []
    digests = server.to("anna@example.test")
    assert {m.sender for m in digests} == {"anna@example.test"}
    text = b"".join(m.body for m in digests).decode()
    assert second in text and RECIPIENT in text
    assert daemon.status()["reports"] == 1, "the second was spared a report that would be refused"
    assert daemon.events("unreported", id=second)
    assert metric(daemon, "reports_unsent_total") >= 1
    wait_until(lambda: daemon.status()["queue"]["failed"] == 0, what=daemon.log)
    assert daemon.ask("show", id=first)["state"] == "trashed"


def test_a_failing_digest_makes_no_storm(tasuki, scripted_upstream):
    server = scripted_upstream()
    server.faults = {"dot": b"554 5.7.1 nothing at all"}
    daemon = tasuki(plain(server.port), root_mail="anna@example.test", digest_every="1s")
    daemon.send()
    wait_until(lambda: daemon.events("digested"), what=daemon.log)
    wait_until(lambda: daemon.status()["queue"]["failed"] == 1, what=daemon.log)
    daemon.send()
    wait_until(lambda: len(daemon.events("digested")) == 2, what=daemon.log)
    wait_until(lambda: daemon.status()["queue"]["failed"] == 2, what=daemon.log)
    rows = daemon.queue("state:failed")
    assert all("digest" in daemon.ask("show", id=r["id"])["flags"] for r in rows)


# ---- RFC 3461 ----


def mail_with(daemon, mail_options, rcpt_options, to=(RECIPIENT,)):
    with smtplib.SMTP("127.0.0.1", daemon.port, local_hostname="client.test") as client:
        client.ehlo()
        assert client.has_extn("dsn")
        client.sendmail(SENDER, list(to), "Subject: x\r\n\r\nhello\r\n", mail_options, rcpt_options)


def test_parameters_go_on_where_they_are_understood(tasuki, scripted_upstream):
    server = scripted_upstream()
    server.offers = [b"DSN"]
    daemon = tasuki(plain(server.port))
    mail_with(daemon, ["RET=HDRS", "ENVID=QQ314159"],
              ["NOTIFY=SUCCESS,DELAY", "ORCPT=rfc822;other+2Bone@example.test"])
    wait_until(lambda: server.messages, what=daemon.log)
    (mail,), (rcpt,) = server.heard(b"MAIL"), server.heard(b"RCPT")
    assert b" RET=HDRS" in mail and b" ENVID=QQ314159" in mail
    assert b" NOTIFY=SUCCESS,DELAY" in rcpt and b" ORCPT=rfc822;other+2Bone@example.test" in rcpt
    wait_until(daemon.queue_empty, what=daemon.log)
    assert daemon.status()["reports"] == 0, "the upstream reports by itself"


def test_a_success_is_reported_as_relayed_where_the_upstream_will_not(tasuki, scripted_upstream):
    server = scripted_upstream()
    daemon = tasuki(plain(server.port))
    mail_with(daemon, ["ENVID=a+2Bb"], ["NOTIFY=SUCCESS", "ORCPT=rfc822;o@example.test"])
    wait_until(lambda: reports(server), what=daemon.log)
    assert all(b"NOTIFY" not in c and b"ENVID" not in c for c in server.commands)
    report = parse(reports(server)[0])
    whole = next(p for p in report.walk() if p.get_content_type() == "message/delivery-status")
    assert whole.get_payload()[0]["Original-Envelope-Id"] == "a+b"
    (fields,) = status_fields(report)
    assert (fields["Action"], fields["Original-Recipient"]) == ("relayed", "rfc822; o@example.test")


@pytest.mark.parametrize("notify, wanted", [("NEVER", 0), ("SUCCESS", 0), ("FAILURE", 1)])
def test_notify_is_kept_for_failures(tasuki, scripted_upstream, notify, wanted):
    server = refusing(scripted_upstream)
    daemon = tasuki(plain(server.port))
    mail_with(daemon, [], ["NOTIFY=" + notify], to=(RECIPIENT, "good@example.test"))
    wait_until(lambda: daemon.status()["queue"]["trashed"] == 1, what=daemon.log)
    wait_until(daemon.queue_empty, what=daemon.log)
    failed = [r for m in reports(server) for r in status_fields(parse(m)) if r["Action"] == "failed"]
    assert len(failed) == wanted


def test_a_long_delay_is_told_once(tasuki, scripted_upstream):
    server = scripted_upstream()
    server.recipients = {RECIPIENT: b"450 4.2.0 try later"}
    daemon = tasuki(plain(server.port), warn_after="1s", retry_min="700ms", retry_max="700ms")
    identity = daemon.send(to=[RECIPIENT])
    wait_until(lambda: reports(server), what=daemon.log)
    attempts = daemon.ask("show", id=identity)["attempts"]
    wait_until(lambda: daemon.ask("show", id=identity)["attempts"] > attempts + 1, what=daemon.log)
    (arrived,) = reports(server)
    (fields,) = status_fields(parse(arrived))
    assert (fields["Action"], fields["Status"]) == ("delayed", "4.2.0")
    assert fields["Will-Retry-Until"]
    server.mend()
    wait_until(daemon.queue_empty, what=daemon.log)
