"""What the daemon takes of memory and descriptors, and that it gives them back.

500 idle clients, and on 20 connections more a message of 20 MiB each that is stuck in the middle:
bodies go to the store as they arrive, so that all this has a bound. Done twice: what the first
round leaves in the daemon's stocks is used again by the second, and what is more is a leak.

Judged is all that is resident, and that includes pages of the queue's file that are only mapped:
they are the kernel's cache, but they are what an admin sees in top.
"""

import hashlib
import os
import random
import re
import threading

import pytest

from peers import BUILD, IO, Client, section, wait_until

IDLE = 500
LARGE = 20
BLOCK_LINES = 1024
BLOCKS = 20 * (1 << 20) // (BLOCK_LINES * 76)
BOUND_KB = 64 * 1024
# What a round may leave behind: the workers' stocks of pieces fill with the luck of the draw, 16 of
# 64 KiB each (PIECES_KEPT_MAX). A leak of one buffer a message would be ten times that.
LEAK_KB = 3072
LONG_S = 150


class Memory:
    """Reads /proc/PID again and again; keeps the most it saw, in KiB."""

    def __init__(self, pid):
        self.pid = pid
        self.most = {}
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)

    def read(self):
        """From one reading of smaps: pages of the queue's file, and all others."""
        now = {"map": 0, "own": 0, "private": 0}
        kind = "own"
        for line in open("/proc/%d/smaps" % self.pid):
            if line.startswith("Rss:"):
                now[kind] += int(line.split()[1])
            elif line.startswith("Anonymous:"):
                now["private"] += int(line.split()[1])
            elif re.match("[0-9a-f]+-", line):
                kind = "map" if line.rstrip().endswith("data.mdb") else "own"
        now["all"] = now["map"] + now["own"]
        return now

    def watch(self):
        while not self.over.wait(0.05):
            for name, value in self.read().items():
                self.most[name] = max(value, self.most.get(name, 0))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


def descriptors(pid):
    return len(os.listdir("/proc/%d/fd" % pid))


class Upload(threading.Thread):
    """One message of 20 MiB; stops before its last blocks until it is told to go on."""

    def __init__(self, port, number):
        super().__init__(daemon=True)
        self.to = "large%d@example.test" % number
        self.client = Client(port, timeout=LONG_S)
        rng = random.Random(number)
        self.block = b"".join(b"%074x\r\n" % rng.getrandbits(296) for _ in range(BLOCK_LINES))
        self.digest = hashlib.sha256(self.block * BLOCKS).hexdigest()
        self.paused, self.go_on = threading.Event(), threading.Event()
        self.reply = b""

    def run(self):
        self.client.begin(self.to)
        assert self.client.say(b"DATA").startswith(b"354")
        for _ in range(BLOCKS - 2):
            self.client.write(self.block)
        self.paused.set()
        assert self.go_on.wait(LONG_S)
        self.client.write(self.block * 2)
        self.reply = self.client.say(b".")


def settled(daemon):
    """Nobody is connected, neither here nor upstream."""
    status = daemon.status()
    return status["clients"] == 0 and status["upstreams"][0]["connections"] == 0


def one_round(daemon, upstream, memory):
    """All of them come, are stuck, go on, and leave; everything is delivered."""
    pid = daemon.process.pid
    upstream.messages.clear()
    wait_until(lambda: settled(daemon), what=daemon.log)
    fds = descriptors(pid)
    idle = [Client(daemon.port) for _ in range(IDLE)]
    uploads = [Upload(daemon.port, number) for number in range(LARGE)]
    assert daemon.status()["clients"] == IDLE + LARGE
    report("500 idle", memory.read())
    for upload in uploads:
        upload.start()
    for upload in uploads:
        assert upload.paused.wait(LONG_S), daemon.log()
    report("20 stuck", memory.read())
    for upload in uploads:
        upload.go_on.set()
    for upload in uploads:
        upload.join(LONG_S)
        assert upload.reply.startswith(b"250 2."), upload.reply
    wait_until(lambda: len(upstream.messages) == LARGE and daemon.queue_empty(), LONG_S,
               what=daemon.log)
    for client in idle + [upload.client for upload in uploads]:
        client.close()
    wait_until(lambda: settled(daemon), what=daemon.log)
    wait_until(lambda: descriptors(pid) <= fds,
               what=lambda: "%d descriptors to be %d" % (descriptors(pid), fds))
    for upload in uploads:
        assert [m.digest for m in upstream.to(upload.to)] == [upload.digest]
    after = memory.read()
    report("after", after)
    return after


def report(when, now):
    print("%-9s private %6d KiB  without the map %6d KiB  all %7d KiB" % (
        when, now["private"], now["own"], now["all"]))


@pytest.mark.parametrize("io", ["uring", "poll"])
def test_memory_is_bounded_and_given_back(tasuki, scripted_upstream, io):
    if IO not in ("", io):
        pytest.skip("TASUKI_IO=" + IO)
    if any(word in str(BUILD) for word in ("asan", "tsan")):
        pytest.skip("a sanitizer's own memory is not ours")
    upstream = scripted_upstream()
    daemon = tasuki(section(host="[127.0.0.1]:%d" % upstream.port, tls="off", keep_open="500ms",
                            connections=4), io=io, connections_max=1000,
                    connections_per_client=1000, queue_max="2G", log_level="info")
    with Memory(daemon.process.pid) as memory:
        report("\nstart", memory.read())
        first = one_round(daemon, upstream, memory)
        second = one_round(daemon, upstream, memory)
    report("most", memory.most)
    assert memory.most["all"] < BOUND_KB
    assert second["private"] - first["private"] < LEAK_KB
