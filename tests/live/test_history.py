"""History, why, transcript, trash, counts, backup and compact, with the real daemon."""

import os
import signal
import smtplib
import subprocess

import pytest

from peers import BUILD, PASSWORD, PATIENCE_S, section, wait_until


def plain(port, **more):
    return section(host="[127.0.0.1]:%d" % port, tls="off", **more)


@pytest.fixture
def waiting(tasuki, scripted_upstream):
    """A daemon with one message delivered and two that wait after a 451."""
    server = scripted_upstream()
    daemon = tasuki(plain(server.port), retry_min="1h", retry_max="2h", reports="no")
    gone = daemon.send(to="gone@example.test", body=b"Subject: gone\r\n\r\nx\r\n")
    wait_until(daemon.queue_empty, what=daemon.log)
    server.faults = {"dot": b"451 4.3.0 try later"}
    ids = [daemon.send(to="u%d@example.test" % n) for n in range(2)]
    wait_until(lambda: [m["state"] for m in daemon.queue()] == ["deferred"] * 2, what=daemon.log)
    return daemon, server, gone, ids


def wait_until_tried(daemon, message_id, attempts):
    """What is brought back is tried at once; while it is being sent it cannot be changed."""
    wait_until(lambda: [(m["state"], m["attempts"]) for m in daemon.queue()
                        if m["id"] == message_id] == [("deferred", attempts)], what=daemon.log)


def judge_reading(daemon, gone, ids):
    """The same whether the daemon answers or the disk does."""
    rows = daemon.ctl("history", "--json").rows()
    assert [(r["id"], r["end"], r["in"]) for r in rows] == [(gone, "delivered", "history")]
    assert daemon.ctl("history", "end:reported", "--json").rows() == []
    why = daemon.ctl("why", ids[0], "--json").json()
    assert (why["in"], why["state"]) == ("queue", "deferred")
    assert "451 4.3.0 try later" in why["sentence"] and "again in" in why["sentence"]
    assert any("deferred by main" in fact for fact in why["facts"])
    why = daemon.ctl("why", gone)
    assert why.code == 0 and "It was delivered" in why.out
    shown = daemon.ctl("show", gone, "--json").json()
    assert (shown["in"], shown["end"]) == ("history", "delivered")
    assert shown["moves"][-1]["to"] == "delivered" and shown["moves"][-1]["upstream"] == "main"
    said = daemon.ctl("show", gone, "--transcript").out
    assert "C: MAIL FROM:<scanner@example.test>" in said and PASSWORD not in said
    counts = daemon.ctl("queue", "--by", "reason", "--json").json()
    assert [(r["name"], r["queued"]) for r in counts["rows"] if r["queued"]] == [("deferred", 2)]


def test_told_by_the_daemon_and_from_disk(waiting):
    daemon, _, gone, ids = waiting
    judge_reading(daemon, gone, ids)
    daemon.stop()
    judge_reading(daemon, gone, ids)


def test_deleted_and_brought_back(waiting):
    daemon, server, _, ids = waiting
    assert daemon.ctl("delete", ids[0], "--reason", "not ours").code == 0
    assert [m["id"] for m in daemon.queue()] == [ids[1]]
    trashed = daemon.queue("state:trashed")
    assert [(m["id"], m["state"]) for m in trashed] == [(ids[0], "trashed")]
    assert daemon.status()["queue"]["trashed"] == 1
    move = daemon.ctl("show", ids[0], "--json").json()["moves"][-1]
    assert (move["cause"], move["to"], move["text"]) == ("operator", "trashed", "not ours")
    assert "goes for good" in daemon.ctl("show", ids[0]).out
    assert daemon.ctl("undelete", ids[0]).code == 0, daemon.log()
    assert sorted(m["id"] for m in daemon.queue()) == sorted(ids)
    wait_until_tried(daemon, ids[0], 2)
    server.mend()
    assert daemon.ctl("retry", *ids, "--yes").code == 0
    wait_until(daemon.queue_empty, what=daemon.log)


def test_undelete_by_filter_means_what_is_in_the_trash(waiting):
    """A filter that fits others, too, leaves them alone and skips nothing."""
    daemon, _, _, ids = waiting
    assert daemon.ctl("delete", ids[0]).code == 0
    tried = daemon.ctl("undelete", "subject:nothing", "--yes")
    assert tried.code == 66, tried.out
    dry = daemon.ctl("undelete", "to:example.test", "--dry-run", "--json").json()
    assert (dry["matched"], dry["ids"]) == (1, [ids[0]])
    done = daemon.ctl("undelete", "to:example.test", "--yes", "--json")
    assert done.code == 0, done.out
    assert (done.json()["matched"], done.json()["changed"], done.json()["skipped"]) == (1, 1, [])
    assert sorted(m["id"] for m in daemon.queue()) == sorted(ids)
    assert daemon.ctl("undelete", "to:example.test", "--yes").code == 66
    wait_until_tried(daemon, ids[0], 2)
    # The other commands leave out what is in the trash, unless it is named.
    assert daemon.ctl("delete", ids[0]).code == 0
    assert daemon.ctl("hold", "to:example.test", "--yes", "--json").json()["matched"] == 1
    assert daemon.ctl("delete", "state:trashed", "--yes", "--json").json()["matched"] == 1


def test_more_devices_than_one_answer_holds(waiting):
    """The daemon answers a thousand at once: the rest is asked for, and nothing is left out."""
    daemon, _, _, _ = waiting
    addresses = ["127.0.%d.%d" % (n // 200 + 1, n % 200 + 1) for n in range(1050)]
    for address in addresses:
        with smtplib.SMTP("127.0.0.1", daemon.port, source_address=(address, 0)) as client:
            client.sendmail("a@example.test", ["b@example.test"], "Subject: x\r\n\r\nx\r\n")
    told = daemon.ctl("queue", "--by", "device", "--json").json()
    assert told["after"] is None
    assert {row["name"]: row["queued"] for row in told["rows"]} == \
        {"127.0.0.1": 2, **dict.fromkeys(addresses, 1)}
    table = daemon.ctl("queue", "--by", "device").out.splitlines()
    assert len(table) == 1 + 1051 and not any("there are more" in line for line in table)


def test_deleted_twice_is_gone(waiting):
    daemon, _, _, ids = waiting
    assert daemon.ctl("delete", ids[0]).code == 0
    assert daemon.ctl("delete", ids[0]).code == 0
    assert daemon.queue("state:trashed") == []
    assert [r["id"] for r in daemon.ctl("history", "end:deleted", "--json").rows()] == [ids[0]]
    assert daemon.ctl("undelete", ids[0]).code == 66


def test_bounce(waiting):
    daemon, _, _, ids = waiting
    assert daemon.ctl("bounce", ids[0]).code == 0, daemon.log()
    wait_until(lambda: daemon.ctl("show", ids[0], "--json").json()["state"] == "failed",
               what=daemon.log)
    edited = wait_until(lambda: daemon.events("edited"), what=daemon.log)
    assert edited[-1]["action"] == "bounce"


def test_backup_is_sound_and_can_be_gone_back_to(waiting, tmp_path):
    daemon, _, gone, ids = waiting
    copy = tmp_path / "copy.mdb"
    done = daemon.ctl("backup", str(copy), "--json")
    assert done.code == 0, done.err
    assert (done.json()["file"], done.json()["messages"]) == (str(copy), 2)
    again = daemon.ctl("backup", str(copy))
    assert again.code == 64 and "there already" in again.err
    assert daemon.ctl("backup", str(tmp_path / "none" / "copy")).code == 1
    for identity in ids:
        daemon.ctl("delete", identity)
        daemon.ctl("delete", identity)
    daemon.stop()
    assert daemon.ctl("backup", str(tmp_path / "offline.mdb")).code == 0
    (daemon.directory / "queue" / "data.mdb").write_bytes(copy.read_bytes())
    daemon.start()
    assert sorted(m["id"] for m in daemon.queue()) == sorted(ids)
    assert [r["id"] for r in daemon.ctl("history", "--json").rows()] == [gone]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_backup_that_a_signal_stops_leaves_nothing(waiting, tmp_path, number):
    daemon, _, _, _ = waiting
    for _ in range(8):
        daemon.send(body=b"Subject: large\r\n\r\n" + (b"x" * 76 + b"\r\n") * 50000)
    copy, part = tmp_path / "copy.mdb", tmp_path / "copy.mdb.part"
    with subprocess.Popen([str(BUILD / "tasukictl"), "-c", str(daemon.file), "backup", str(copy)],
                          stderr=subprocess.PIPE,  # a test in the background may ignore it
                          preexec_fn=lambda: signal.signal(number, signal.SIG_DFL)) as backup:
        while not part.exists() and backup.poll() is None:
            pass
        backup.send_signal(signal.SIGSTOP)  # it cannot be done before the other one comes
        os.waitid(os.P_PID, backup.pid, os.WSTOPPED | os.WNOWAIT)
        assert part.exists() and not copy.exists()
        backup.send_signal(number)
        backup.send_signal(signal.SIGCONT)
        said = backup.communicate(timeout=PATIENCE_S)[1].decode()
    assert backup.returncode == 128 + number and "nothing of the copy" in said
    assert list(tmp_path.glob("copy*")) == []
    assert daemon.ctl("backup", str(copy)).code == 0


def test_compact(waiting):
    daemon, _, gone, ids = waiting
    result = daemon.ctl("compact", "--json").json()
    assert 0 < result["after_bytes"] <= result["before_bytes"]
    assert sorted(m["id"] for m in daemon.queue()) == sorted(ids)
    assert [r["id"] for r in daemon.ctl("history", "--json").rows()] == [gone]
