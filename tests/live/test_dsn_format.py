"""The mails that the relay writes itself, as a mail reader's library understands them.

tests/unit/test_mail_dsn.c compares bytes; here somebody else's parser has to find the same things.
"""

import email
import email.policy
import os
import subprocess
from email.utils import parsedate_to_datetime

import pytest

from peers import BUILD, ROOT

ID = "06h0safjj000e000"  # of the message that is reported on


@pytest.fixture(scope="module")
def write(tmp_path_factory):
    """write(NAME): the bytes of one sample of dsn_samples.c."""
    program = str(tmp_path_factory.mktemp("dsn") / "dsn_samples")
    archive = str(BUILD / "libtasuki.a")
    if not os.path.exists(archive):
        pytest.skip("no archive to link with")
    sanitize = ["-fsanitize=address,undefined"] if "asan" in archive else []
    subprocess.run(["gcc", "-std=c17", "-D_GNU_SOURCE", "-I", str(ROOT), *sanitize,
                    str(ROOT / "tests/live/dsn_samples.c"), archive, "-o", program],
                   check=True, timeout=120)

    def run(name):
        return subprocess.run([program, name], check=True, capture_output=True, timeout=60).stdout
    return run


def parse(raw):
    assert raw.endswith(b"\r\n") and b"\0" not in raw
    assert raw.count(b"\r") == raw.count(b"\n") == raw.count(b"\r\n")
    assert max(map(len, raw.split(b"\r\n"))) <= 998
    mail = email.message_from_string(raw.decode(), policy=email.policy.SMTPUTF8)
    assert [part.defects for part in mail.walk()] == [[]] * len(list(mail.walk()))
    return mail


def parts_of(raw, status_type="message/delivery-status", header_type="text/rfc822-headers"):
    """The words, the blocks of the status, the header lines that came back."""
    mail = parse(raw)
    assert mail.get_content_type() == "multipart/report"
    assert mail.get_param("report-type") == status_type.split("/")[1]
    assert mail["Auto-Submitted"] == "auto-replied"
    assert mail["MIME-Version"] == "1.0"
    words, status, header = mail.get_payload()
    assert words.get_content_type() == "text/plain"
    assert status.get_content_type() == status_type
    assert header.get_content_type() == header_type
    blocks = status.get_payload()
    if "global" in status_type:  # the library knows RFC 3464's type alone
        rest = blocks[0].get_payload().replace("\r\n", "\n").strip().split("\n\n")
        blocks += [email.message_from_string(block, policy=email.policy.SMTPUTF8)
                   for block in rest]
    return mail, words.get_content(), [b for b in blocks if b.keys()], header


KINDS = [
    ("failed", "Not delivered: Grüße aus 川崎", "failed", "5.1.1", "550 5.1.1 No such user here"),
    ("delayed", "Still waiting: Grüße aus 川崎", "delayed", "4.7.1", "451 4.7.1 Greylisted"),
    ("relayed", "Relayed: Grüße aus 川崎", "relayed", "2.0.0", "250 2.0.0 Ok: queued as 4XYZ"),
    ("delivered", "Delivered: Grüße aus 川崎", "delivered", "2.0.0", "250 Ok"),
]


@pytest.mark.parametrize("name,subject,action,status,reply", KINDS)
def test_each_kind(write, name, subject, action, status, reply):
    raw = write(name)
    assert raw.isascii()
    mail, words, (about, first, second), header = parts_of(raw)
    assert mail["Subject"] == subject
    assert mail["From"] == "Mail relay <MAILER-DAEMON@mail.example.jp>"
    assert mail["To"].addresses[0].addr_spec == "scanner@example.jp"
    assert mail["Message-ID"].endswith("@mail.example.jp>")
    assert mail["Date"].datetime.isoformat() == "2026-11-24T09:26:34+00:00"
    assert about["Reporting-MTA"] == "dns; mail.example.jp"
    assert about["Original-Envelope-Id"] == "QQ+314159"
    assert parsedate_to_datetime(str(about["Arrival-Date"])).hour == 8
    assert first["Original-Recipient"] == "rfc822; anna+scan@example.jp"
    assert second["Original-Recipient"] is None
    assert first["Final-Recipient"] == "rfc822; anna@example.jp"
    assert second["Final-Recipient"] == 'rfc822; "b c"@example.jp'
    for block in first, second:
        assert block["Action"] == action
        assert block["Status"] == status
        assert block["Remote-MTA"] == "dns; relay.example.net"
        assert block["Diagnostic-Code"] == "smtp; " + reply
        assert parsedate_to_datetime(str(block["Last-Attempt-Date"])).hour == 9
        assert (block["Will-Retry-Until"] is not None) == (name == "delayed")
    assert "    anna@example.jp\n" in words.replace("\r\n", "\n")
    assert ID in words
    if name in ("failed", "delayed"):
        assert "relay.example.net said: " + reply in words
        assert "Why: the upstream does not know the recipient." in words
    returned = header.get_payload().replace("\r\n", "\n")
    assert returned.startswith("Subject: Gr??e\nFrom: <scanner@example.jp>\n")
    assert b"secret" not in raw


def test_hostile_texts_stay_where_they_are(write):
    raw = write("hostile")
    assert raw.isascii() and b"\x1b" not in raw
    mail, words, (about, first, second), _ = parts_of(raw)
    assert mail["Bcc"] is None
    assert set(mail.keys()) == {"From", "To", "Date", "Message-ID", "Auto-Submitted",
                                "MIME-Version", "Subject", "Content-Type"}
    assert mail["Subject"] == "Not delivered: x? Bcc: victim@example.jp? ? body"
    assert about["Action"] is None
    assert [b.get_all("Action") for b in (first, second)] == [["failed"], ["failed"]]
    assert first["Original-Recipient"] == "rfc822; a? Action: delivered"
    assert "<b>%n%s</b>" in first["Diagnostic-Code"]
    assert "\u202e" not in words


def test_beyond_ascii(write):
    mail, words, (_, first, second), header = parts_of(
        write("utf8"), "message/global-delivery-status", "message/global-headers")
    assert mail["To"].addresses[0].addr_spec == "jürgen@example.jp"
    assert mail["Subject"] == "Not delivered: Grüße aus 川崎"
    assert first["Final-Recipient"] == "utf-8; 川@example.jp"
    assert first["Original-Recipient"] == "utf-8; \\x{5DDD}@example.jp"
    assert first["Diagnostic-Code"] == "smtp; 550 5.1.1 宛先不明"
    assert second["Final-Recipient"] == 'rfc822; "b c"@example.jp'
    assert "550 5.1.1 宛先不明" in words


def test_a_thousand_recipients(write):
    _, words, blocks, _ = parts_of(write("many"))
    assert [b["Final-Recipient"] for b in blocks[1:]] == [
        "rfc822; r%d@example.jp" % n for n in range(1000)]
    assert "to these 1000 addresses" in words and "and 980 more" in words
    assert len(words.splitlines()) < 50


def test_the_digest(write):
    raw = write("digest")
    assert raw.isascii()
    mail = parse(raw)
    assert mail["Subject"] == ("tasuki on mail.example.jp: 5 messages could not be delivered nor "
                               "reported")
    assert mail["To"].addresses[0].addr_spec == "admin@example.jp"
    assert mail["Auto-Submitted"] == "auto-generated"
    words = mail.get_content()
    for part in ("anna@example.jp and 2 more", "<> (nobody to report to)", "拒否 ?[31m",
                 "it could not be handed on within give-up", "... and 3 more.",
                 "tasukictl show ID", "tasukictl retry ID", "tasukictl delete ID"):
        assert part in words
