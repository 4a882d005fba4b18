"""tasukid --check-store: beside the running daemon, after it, and on a queue that somebody damaged."""

import re
import subprocess

from peers import BUILD, section

NOBODY = section(host="[127.0.0.1]:9", tls="off")
HEAD = b"From: scanner@example.test\r\nSubject: page %d\r\n\r\n" + 200 * b"x" + b"\r\n"


def check_store(daemon):
    return subprocess.run([BUILD / "tasukid", "--check-store", "-c", daemon.file],
                          capture_output=True, text=True, timeout=60)


def waiting_daemon(tasuki):
    """Five messages, for an upstream that is not there."""
    daemon = tasuki(NOBODY, retry_min="1h", retry_max="2h")
    return daemon, [daemon.send(body=HEAD % n) for n in range(5)]


def test_sound_beside_the_daemon_and_after_it(tasuki):
    daemon, _ = waiting_daemon(tasuki)
    for _ in range(2):
        done = check_store(daemon)
        assert (done.returncode, done.stderr) == (0, "")
        assert re.fullmatch(r"sound: 5 messages, 0 in the history, [\d,]+ pages\n", done.stdout)
        daemon.stop()


def test_damage_is_named(tasuki):
    daemon, ids = waiting_daemon(tasuki)
    daemon.stop()
    data = daemon.directory / "queue" / "data.mdb"
    content = data.read_bytes()
    assert b"Subject: page 3\r\n" in content  # in pages that are free by now, too
    data.write_bytes(content.replace(b"Subject: page 3\r\n", b"Subject: pAge 3\r\n"))
    done = check_store(daemon)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[-1] == "1 finding"
    assert lines[0].startswith("message %s: chunk 0 of its body" % ids[3])


def test_no_queue_and_no_configuration(tasuki):
    daemon = tasuki(NOBODY, start=False)
    done = check_store(daemon)
    assert done.returncode == 1 and "cannot open the queue" in done.stderr
    daemon.file.write_text("nonsense\n")
    assert check_store(daemon).returncode == 78
