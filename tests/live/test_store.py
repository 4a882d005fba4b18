"""The queue's file from outside: an older format, the trash, a full and a read-only disk."""

import gzip
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from peers import BUILD, Client, free_ports, section, wait_until

V1 = Path(__file__).resolve().parents[1] / "unit/fixtures/queue_v1.mdb.gz"


def plain(port):
    return section(host="[127.0.0.1]:%d" % port, tls="off")


def run(daemon, *more):
    """tasukid in the foreground, for a start that is to fail."""
    return subprocess.run([str(BUILD / "tasukid"), "-c", str(daemon.file), *more],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
                          check=False)


def check_store(daemon):
    return run(daemon, "--check-store")


def try_to_send(client, body):
    """The reply that ended it."""
    reply = client.say(b"MAIL FROM:<scanner@example.test>")
    if not reply.startswith(b"250"):
        return reply
    assert client.say(b"RCPT TO:<anna@example.test>").startswith(b"250")
    assert client.say(b"DATA").startswith(b"354")
    return client.say(body + b".")


def nowhere():
    return plain(free_ports(1)[0])


def queue_of(daemon):
    path = daemon.directory / "queue"
    path.mkdir(mode=0o700, exist_ok=True)
    return path


def test_a_queue_of_the_first_format_is_upgraded(tasuki):
    daemon = tasuki(nowhere(), start=False)
    with gzip.open(V1, "rb") as packed, open(queue_of(daemon) / "data.mdb", "wb") as to:
        shutil.copyfileobj(packed, to)
    daemon.start()
    (upgraded,) = daemon.events("store-upgraded")
    (opened,) = daemon.events("store-open")
    assert upgraded["messages"] == opened["messages"] != "0"
    found = sum(len(daemon.queue(words)) for words in ("", "state:trashed"))
    assert found == int(opened["messages"])
    daemon.stop()
    done = check_store(daemon)
    assert done.returncode == 0 and "sound" in done.stdout, done.stdout
    daemon.start()
    assert len(daemon.events("store-upgraded")) == 1, "once"


def test_deleted_messages_go_by_themselves(tasuki):
    daemon = tasuki(nowhere(), keep_deleted="1s")
    identity = daemon.send()
    assert daemon.ctl("delete", identity).code == 0
    assert daemon.ask("show", id=identity)["state"] == "trashed"
    wait_until(lambda: daemon.events("purged"), what=daemon.log)
    row = daemon.ask("history", filter="id:" + identity)["messages"][0]
    assert row["end"] == "deleted"


# ---- the disk ----

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system of its own")


@pytest.fixture
def small_disk(tasuki):
    """A daemon that is not started yet, whose queue has a file system of 40 MiB to itself."""
    daemon = tasuki(nowhere(), start=False, max_size="2M")
    path = queue_of(daemon)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m,mode=0700", "none", str(path)],
                          capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip("nothing can be mounted here: %r" % done.stderr)
    yield daemon
    daemon.stop()
    subprocess.run(["umount", str(path)], check=True)


def fill(path):
    """Everything but a few pages."""
    with open(path / "ballast", "wb", buffering=0) as ballast:
        try:
            while True:
                ballast.write(bytes(1 << 16))
        except OSError:
            return path / "ballast"


@as_root
def test_a_full_disk_is_452_and_passes(small_disk):
    daemon = small_disk
    daemon.start()
    taken = [daemon.send() for _ in range(5)]
    ballast = fill(daemon.directory / "queue")
    body = b"Subject: x\r\n\r\n" + (b"x" * 76 + b"\r\n") * 20000
    refused = 0
    with Client(daemon.port) as client:
        for _ in range(40):
            reply = try_to_send(client, body)
            if reply.startswith(b"452 4.3.1"):
                refused += 1
                break
            assert reply.startswith(b"250"), reply
            taken.append(reply.split()[2].decode())
    assert refused == 1, "it never gets full"
    assert daemon.ctl("hold", taken[0]).code == 0, "there is room for what an operator decides"
    ballast.unlink()
    taken.append(daemon.send())
    daemon.stop()
    assert check_store(daemon).returncode == 0
    daemon.start()
    assert {row["id"] for row in daemon.queue("")} == set(taken)


@as_root
def test_started_on_a_full_disk_it_refuses_in_words_or_waits(small_disk):
    """Never a crash, and never a queue that is half there."""
    daemon = small_disk
    ballast = fill(daemon.directory / "queue")
    done = run(daemon)
    assert done.returncode not in (-6, -7, -11), done.stderr
    assert "queue" in done.stderr and "No space" in done.stderr + "no room left", done.stderr
    ballast.unlink()
    daemon.start()
    daemon.send()


@as_root
def test_started_on_a_read_only_disk_it_refuses_in_words(small_disk):
    """As a kernel leaves it that has met an error on the disk. Nothing is lost, and nothing loops."""
    daemon = small_disk
    daemon.start()
    identity = daemon.send()
    daemon.stop()
    path = str(daemon.directory / "queue")
    subprocess.run(["mount", "-o", "remount,ro", path], check=True)
    done = run(daemon)
    assert done.returncode == 69, (done.returncode, done.stderr)
    assert path in done.stderr and "read-only" in done.stderr.lower(), done.stderr
    offline = daemon.ctl("queue")
    assert identity in offline.out, "it can be read all the same: " + offline.out + offline.err
    subprocess.run(["mount", "-o", "remount,rw", path], check=True)
    daemon.start()
    assert [row["id"] for row in daemon.queue("")] == [identity]


def test_an_unreadable_queue_is_refused_in_words(tasuki):
    daemon = tasuki(nowhere())
    daemon.send()
    daemon.stop()
    data = daemon.directory / "queue/data.mdb"
    for spoil, words in ((b"not a queue at all, whatever it is called", "not a queue"),
                         (b"", "not a queue")):
        kept = data.with_suffix(".kept")
        data.rename(kept)
        data.write_bytes(spoil)
        done = run(daemon)
        assert done.returncode == 69 and words in done.stderr, done.stderr
        data.unlink()
        kept.rename(data)
    data.rename(data.with_suffix(".gone"))
    done = run(daemon)
    assert done.returncode == 69 and "is gone" in done.stderr, done.stderr
    data.with_suffix(".gone").rename(data)
    daemon.start()
    assert len(daemon.queue("")) == 1
