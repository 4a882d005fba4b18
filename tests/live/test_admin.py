"""tasukictl against the real daemon: what it shows, changes, and says when that is down."""

import os
import re
import resource
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from peers import BUILD, CLOSE, PASSWORD, PATIENCE_S, STALL, USER, Client, section, wait_until

HEAD = b"From: scanner@example.test\r\nSubject: page %d\r\n\r\nx\r\n"


def plain_section(port, **more):
    return section(host="[127.0.0.1]:%d" % port, tls="off", **more)


@pytest.fixture
def waiting(tasuki, scripted_upstream):
    """A daemon whose six messages wait for an upstream that says 451 to each."""
    server = scripted_upstream()
    server.faults = {"dot": b"451 4.3.0 try later"}
    daemon = tasuki(plain_section(server.port), retry_min="1h", retry_max="2h")
    ids = [daemon.send(to="u%d@example.test" % n, sender="scanner-%d@example.test" % (n % 2),
                       body=HEAD % n) for n in range(6)]
    wait_until(lambda: {m["reason"] for m in daemon.queue()} == {"deferred"}, what=daemon.log)
    return daemon, server, ids


def states(daemon):
    return {m["id"]: m["state"] for m in daemon.queue()}


def test_status(waiting):
    daemon, server, _ = waiting
    done = daemon.ctl()
    assert done.code == 0, done.err
    assert done.out.splitlines()[0] == "All is well: 6 messages on the way, nothing waits for you."
    assert daemon.ctl("status").out.splitlines()[0] == done.out.splitlines()[0]
    status = daemon.ctl("--json").json()
    assert status["schema"] == 1
    assert status["queue"]["queued"] == 6 and status["queue"]["body_bytes"] > 6 * len(HEAD)
    assert status["counters"]["accepted"] == 6 and status["counters"]["deferred"] == 6
    assert status["pid"] == daemon.process.pid
    assert status["io"]["backend"] in ("io_uring", "epoll")
    wanted = os.environ.get("TASUKI_IO")
    if wanted:
        assert status["io"]["backend"] == {"uring": "io_uring", "poll": "epoll"}[wanted]
    assert status["listeners"] == ["127.0.0.1:%d" % daemon.port]
    assert status["upstreams"][0]["host"] == "[127.0.0.1]:%d" % server.port


@pytest.mark.parametrize("words, wanted", [
    ([], [0, 1, 2, 3, 4, 5]), (["from:scanner-1"], [1, 3, 5]), (["to:u2@example.test"], [2]),
    (["reason:deferred"], [0, 1, 2, 3, 4, 5]), (["state:held"], []),
    (["-from:scanner-1"], [0, 2, 4]),
    (["from:scanner-0", "-to:u4@example.test"], [0, 2]), (["newer:1h"], [0, 1, 2, 3, 4, 5]),
    (["older:1h"], []), (["larger:1M"], []), (["upstream:main"], [0, 1, 2, 3, 4, 5])])
def test_queue_and_its_filter(waiting, words, wanted):
    daemon, _, ids = waiting
    done = daemon.ctl("queue", "--json", *words)
    assert done.code == 0, done.err
    assert [r["id"] for r in done.rows()] == [ids[n] for n in wanted]
    table = daemon.ctl("queue", *words)
    assert [w for w in re.findall(r"^\S+", table.out, re.MULTILINE) if w in ids] == \
        [ids[n] for n in wanted]


def test_queue_wrong_filter_and_limit(waiting):
    daemon, _, ids = waiting
    assert daemon.ctl("queue", "form:x").code == 64
    assert [r["id"] for r in daemon.ctl("queue", "--limit", "2", "--json").rows()] == ids[:2]


def test_show(waiting):
    daemon, _, ids = waiting
    done = daemon.ctl("show", ids[3])
    assert done.code == 0, done.err
    for word in (ids[3], "scanner-1@example.test", "u3@example.test", "page 3", "451", "try later",
                 "127.0.0.1"):
        assert word in done.out, word
    message = daemon.ctl("show", ids[3], "--json").json()
    assert message["schema"] == 1
    assert (message["id"], message["attempts"], message["helo"]) == (ids[3], 1, "client.test")
    assert [r["to"] for r in message["recipients"]] == ["u3@example.test"]
    assert daemon.ctl("show", "zzzzzzzzzzzzzzzz").code == 66
    assert daemon.ctl("show", "0").code == 64


def test_hold_and_release(waiting):
    daemon, server, ids = waiting
    assert daemon.ctl("hold", ids[0]).code == 0
    assert states(daemon)[ids[0]] == "held"
    assert "1 held by you" in daemon.ctl().out
    server.mend()
    assert daemon.ctl("retry", "state:queued", "--yes").code == 0
    wait_until(lambda: states(daemon) == {ids[0]: "held"}, what=daemon.log)
    assert len(server.messages) == 5, "what is held stays"
    assert daemon.ctl("release", ids[0]).code == 0
    wait_until(daemon.queue_empty, what=daemon.log)
    assert [m.recipients for m in server.messages[5:]] == [("u0@example.test",)]


def test_retry_is_now(waiting):
    daemon, server, ids = waiting
    server.mend()
    done = daemon.ctl("retry", ids[4], "--json")
    assert done.code == 0 and done.json()["ids"] == [ids[4]]
    wait_until(lambda: ids[4] not in states(daemon), what=daemon.log)
    assert [m.recipients for m in server.messages] == [("u4@example.test",)]
    assert set(states(daemon).values()) == {"deferred"} and len(states(daemon)) == 5


def test_delete(waiting):
    daemon, server, ids = waiting
    dry = daemon.ctl("delete", "from:scanner-1", "--dry-run", "--json").json()
    assert (dry["matched"], dry["changed"], dry["dry_run"]) == (3, 0, True)
    assert daemon.ctl("delete", "from:scanner-1").code == 64, "nobody can be asked"
    assert len(states(daemon)) == 6
    assert daemon.ctl("delete", "from:scanner-1", "--yes").code == 0
    assert list(states(daemon)) == [ids[0], ids[2], ids[4]]
    edited = wait_until(lambda: daemon.events("edited"))[-1]
    assert (edited["action"], edited["count"], edited["uid"]) == ("delete", "3", "0")
    server.mend()
    assert daemon.ctl("retry", *ids[:1], ids[2], ids[4], "--yes").code == 0
    wait_until(daemon.queue_empty, what=daemon.log)
    assert sorted(m.sender for m in server.messages) == ["scanner-0@example.test"] * 3


def test_edits_survive_a_restart(waiting):
    daemon, server, ids = waiting
    daemon.ctl("hold", ids[1])
    daemon.ctl("delete", ids[2], "--yes")
    daemon.stop()
    daemon.start()
    assert states(daemon) == {i: "held" if i == ids[1] else "deferred" for i in ids if i != ids[2]}
    assert {m["reason"] for m in daemon.queue("state:queued")} == {"deferred"}
    server.mend()
    daemon.ctl("release", ids[1])
    daemon.ctl("retry", "state:queued", "--yes")
    wait_until(daemon.queue_empty, what=daemon.log)
    assert len(server.messages) == 5


def test_killed_and_started_again(waiting):
    """What was answered 250 is there after SIGKILL."""
    daemon, server, ids = waiting
    daemon.kill()
    # The kernel takes the killed daemon's sockets down a moment later.
    wait_until(lambda: daemon.ctl("queue").code == 0)
    done = daemon.ctl("queue", "--json")
    assert done.code == 0, done.err
    assert [r["id"] for r in done.rows()] == ids, "read from disk"
    down = daemon.ctl()
    assert down.code == 69 and "6 queued" in down.out
    assert daemon.ctl("retry", ids[0]).code == 69
    shown = daemon.ctl("show", ids[0])
    assert shown.code == 0 and "u0@example.test" in shown.out
    daemon.start()
    assert set(states(daemon)) == set(ids)
    server.mend()
    daemon.ctl("retry", "state:queued", "--yes")
    wait_until(daemon.queue_empty, what=daemon.log)
    assert len(server.messages) == 6


@pytest.mark.parametrize("number, half", [(signal.SIGINT, False), (signal.SIGTERM, True)])
def test_stops_in_peace_with_clients_connected(waiting, number, half):
    """Who is in the middle of a message has ten seconds to end it."""
    daemon, _, ids = waiting
    with Client(daemon.port) as idle, Client(daemon.port) as sending:
        sending.begin()
        if half:
            sending.say(b"DATA")
            sending.write(b"half a message")
        daemon.process.send_signal(number)
        assert idle.reply().startswith(b"421 ")
        wait_until(daemon.ended, what=daemon.log)
    daemon.stop()
    daemon.start()
    assert set(states(daemon)) == set(ids)


@pytest.mark.skipif("asan" in BUILD.name, reason="its allocator does not bear the limit")
def test_stops_though_there_is_no_memory_for_an_answer(tasuki, scripted_upstream):
    """What was asked for comes back when its asker is gone, and is too large to be put in words."""
    server = scripted_upstream()
    server.faults = {"greeting": STALL}
    daemon = tasuki(plain_section(server.port, connections=1), workers=1)
    pid = daemon.process.pid
    with socket.socket(socket.AF_UNIX) as asker:
        asker.connect(str(daemon.directory / "ctl.sock"))
        asker.sendall(b'{"id": 1, "command": "test", "args": {}}\n')
        assert server.stalled.wait(PATIENCE_S)
        used = int(re.search(r"VmSize:\s+(\d+) kB", Path("/proc/%d/status" % pid).read_text())[1])
        resource.prlimit(pid, resource.RLIMIT_AS, (used << 10, resource.RLIM_INFINITY))
    daemon.stop()


# ---- test ----


def test_of_a_good_upstream(postfix, certificates, tasuki):
    daemon = tasuki(section(host="[localhost]:%d" % postfix.ports["starttls"],
                            tls_ca=certificates.ca, user=USER, password_file="SECRET"))
    done = daemon.ctl("test")
    assert done.code == 0, done.out + done.err
    assert "S: 220 upstream.test" in done.out and "C: EHLO tasuki.test" in done.out
    assert "Upstream main works" in done.out
    assert PASSWORD not in done.out
    result = daemon.ctl("test", "main", "--to", "anna@example.test", "--json").json()
    assert result["ok"] and result["mechanism"] == "SCRAM-SHA-256"
    assert result["tls"].startswith("TLSv1.3")
    assert [m.recipients for m in postfix.sink.messages] == [("anna@example.test",)]
    assert daemon.status()["queue"]["queued"] == 0
    assert daemon.ctl("test", "nobody").code != 0


STEPS = [
    ({"greeting": b"554 go away"}, "greeting", "greeting-refused", 554),
    ({"EHLO": b"550 who"}, "ehlo", "hello-refused", 550),
    ({"STARTTLS": b"454 4.7.0 no"}, "starttls", "tls-not-offered", 454),
    ({"AUTH": b"535 5.7.8 no"}, "login", "auth-refused", 535),
    ({"MAIL": b"553 5.7.1 not your address"}, "mail", "sender-refused", 553),
    ({"RCPT": b"550 5.1.1 unknown"}, "rcpt", "no-such-recipient", 550),
    ({"dot": b"554 5.6.0 no"}, "end", "refused", 554),
]


@pytest.mark.parametrize("faults, step, reason, code", STEPS, ids=[s[1] for s in STEPS])
def test_names_the_step_that_fails(certificates, tasuki, scripted_upstream, faults, step, reason,
                                   code):
    server = scripted_upstream("starttls")
    server.faults = faults
    daemon = tasuki(section(host="[localhost]:%d" % server.port, tls_ca=certificates.ca, user=USER,
                            password_file="SECRET"))
    done = daemon.ctl("test", "--to", "anna@example.test", "--json")
    assert done.code == 1, done.err
    result = done.json()
    assert (result["ok"], result["reason"], result["code"]) == (False, reason, code), result
    assert result["step"] == step, result
    words = daemon.ctl("test", "--to", "anna@example.test")
    assert "Upstream main does not work" in words.out and result["sentence"] in words.out
    assert PASSWORD not in words.out + done.out
    assert daemon.status()["queue"]["queued"] == 0


@pytest.mark.parametrize("which, step, reason", [
    ("unknown", "tls", "tls-untrusted"), ("expired", "tls", "tls-expired"),
    ("wrong_name", "tls", "tls-wrong-name"), (None, "connect", "connection-refused")])
def test_names_the_certificate_or_the_port(certificates, tasuki, scripted_upstream, which, step,
                                           reason):
    server = scripted_upstream("starttls", which and getattr(certificates, which))
    if which is None:
        server.stop()
    daemon = tasuki(section(host="[localhost]:%d" % server.port, tls_ca=certificates.ca, user=USER,
                            password_file="SECRET"))
    result = daemon.ctl("test", "--json").json()
    assert (result["ok"], result["reason"]) == (False, reason), result
    assert step in result["step"], result


def test_that_is_cut_off_by_a_stop_did_not_go_well(tasuki, scripted_upstream):
    """What is under way holds the stop up for so long that the answer comes."""
    busy, mute = scripted_upstream(), scripted_upstream()
    busy.faults, mute.faults = {"dot": STALL}, {"greeting": STALL}
    daemon = tasuki(plain_section(busy.port, connections=1) +
                    section("second", host="[127.0.0.1]:%d" % mute.port, tls="off"), workers=1)
    daemon.send()
    assert busy.stalled.wait(PATIENCE_S)
    asked = subprocess.Popen([str(BUILD / "tasukictl"), "-c", str(daemon.file), "test", "second"],
                             stdout=subprocess.PIPE, text=True)
    assert mute.stalled.wait(PATIENCE_S)
    daemon.process.terminate()
    told = asked.communicate(timeout=PATIENCE_S)[0]
    busy.stop()
    assert asked.returncode == 1 and "tasukid is stopping" in told, told


def test_a_refusal_outlives_the_hang_up_behind_it(certificates, tasuki, scripted_upstream):
    """Servers drop whom they have refused something, instead of answering RSET."""
    server = scripted_upstream("starttls")
    server.faults = {"RCPT": b"550 5.1.1 unknown", "DATA": b"554 5.5.1 no recipients",
                     "RSET": CLOSE}
    daemon = tasuki(section(host="[localhost]:%d" % server.port, tls_ca=certificates.ca, user=USER,
                            password_file="SECRET"))
    result = daemon.ctl("test", "--to", "anna@example.test", "--json").json()
    assert (result["ok"], result["reason"], result["code"], result["step"]) == \
        (False, "no-such-recipient", 550, "rcpt"), result


def test_that_works_ends_the_wait(postfix, certificates, tasuki, tmp_path):
    """Mended and tested: what waits does not wait for the next probe."""
    secret = tmp_path / "password"
    secret.write_text("not it\n")
    secret.chmod(0o600)
    daemon = tasuki(section(host="[localhost]:%d" % postfix.ports["starttls"],
                            tls_ca=certificates.ca, user=USER, password_file=secret,
                            probe_min="1h", probe_max="1h"))
    daemon.send(to="n0@example.test")
    wait_until(lambda: daemon.upstream().get("reason") == "auth-refused", what=daemon.log)
    failed = daemon.ctl("test", "--json").json()
    assert (failed["reason"], failed["was_marked"]) == ("auth-refused", False)
    assert daemon.status()["queue"]["queued"] == 1
    assert "waits for main" in daemon.ctl("queue").out
    secret.write_text(PASSWORD + "\n")
    done = daemon.ctl("test")
    assert done.code == 0 and "what waits for it is tried now" in done.out, done.out
    wait_until(daemon.queue_empty, what=daemon.log)
    assert postfix.sink.count() == 1
    assert "out of order" not in daemon.ctl("test").out


def test_of_a_name_that_does_not_exist(tasuki):
    daemon = tasuki(section(host="[no-such-host.invalid]:25", tls="off"), dns="127.0.0.1:9")
    result = daemon.ctl("test", "--json", timeout=60).json()
    assert (result["ok"], result["step"]) == (False, "lookup"), result
    assert result["reason"] in ("name-not-found", "dns-failed")


# ---- configuration ----


def test_config_check(tasuki, scripted_upstream):
    daemon = tasuki(plain_section(scripted_upstream().port), start=False)
    assert daemon.ctl("config", "check").code == 0
    good = daemon.file.read_text()
    daemon.file.write_text(good + "probe-mim = 3s\nconnections = many\n")
    done = daemon.ctl("config", "check")
    assert done.code == 78
    lines = len(good.splitlines())
    assert "tasuki.conf:%d" % (lines + 1) in done.err and "probe-min" in done.err
    assert "tasuki.conf:%d" % (lines + 2) in done.err


def test_daemon_and_check_give_the_same_verdict(tasuki, scripted_upstream):
    daemon = tasuki(plain_section(scripted_upstream().port), start=False)
    good = daemon.file.read_text()
    for text, code in ((good, 0), (good + "nonsense\n", 78), ("", 78), (good * 2, 78),
                       ("\ufeff" + good.replace("\n", "\r\n"), 0)):
        daemon.file.write_bytes(text.encode())
        checked = subprocess.run([str(BUILD / "tasukid"), "--check", "-c", str(daemon.file)],
                                 capture_output=True, timeout=30)
        assert (checked.returncode, daemon.ctl("config", "check").code) == (code, code), text


def test_config_show_says_what_is_in_force(waiting):
    daemon, server, _ = waiting
    before = daemon.ctl("config", "show")
    assert before.code == 0 and "retry-min = 1h" in before.out
    daemon.file.write_text("")
    assert daemon.ctl("--socket", str(daemon.directory / "ctl.sock"), "config", "show").out == \
        before.out


def test_a_second_daemon_on_the_same_queue_is_refused(waiting):
    daemon, _, ids = waiting
    done = subprocess.run([str(BUILD / "tasukid"), "-c", str(daemon.file)], capture_output=True,
                          timeout=30)
    assert done.returncode != 0
    assert set(states(daemon)) == set(ids)
